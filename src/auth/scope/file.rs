//! The scope's snapshot on disk.
//!
//! Owns: its form. Must not know: lookups, how a file is replaced whole ([`kept_file`]), where a data key comes from.
//!
//! # The file, version 2
//!
//! JSON: `{"version":2,"edge":"EDGE","saved_ms":1700000000000,"entries":[{"device":"d","module":null,
//! "generation":"..","enabled":true,"auth":{"type":"certificate_authority"},"scope":"ms-azure-iot-edge://..",
//! "parents":[".."],"is_edge":false}, ...],"sealed":{"nonce":"..","text":".."}}`. `sealed` is base64 and holds the symmetric
//! keys, under the data key ([`super::vault`]); it is bound to version, edge device and time of the file. It is `null` when
//! there are none, or when there was no data key yet. Only the keys are sealed: who has a certificate is let in while the
//! data key is away, and a person who looks for a fault can read who is in it.
//!
//! Version 1 had no keys; it is read, and written as version 2 the next time. A snapshot of another edge device is set
//! aside like a corrupt one: its answers would be about other people's devices.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::vault::{DataKey, Locked};
use super::{AuthKind, ScopeEntry, Snapshot, Status, SymmetricKeys};
use crate::clock::UnixMillis;
use crate::identity::{ClientName, DeviceId, IdError, ModuleId};
use crate::iothub::sas::KeySigner;
use crate::kept_file::{self, Form, Unusable};

/// Largest snapshot that is read, in bytes: 100,000 entries of 640 bytes (two 128-character ids and two scopes),
/// or 80,000 with two keys each.
pub(super) const SNAPSHOT_BYTES_MAX: u64 = 64 * 1024 * 1024;

const VERSION: u32 = 2;
const VERSION_WITHOUT_KEYS: u32 = 1;

const FORM: Form = Form {
    bytes_max: SNAPSHOT_BYTES_MAX,
    versions: &[VERSION_WITHOUT_KEYS, VERSION],
    not_ours: "it is not a scope snapshot",
    noun: "scope",
};

#[derive(Serialize, Deserialize)]
struct StoredSnapshot {
    version: u32,
    edge: String,
    saved_ms: u64,
    entries: Vec<StoredEntry>,
    #[serde(default)]
    sealed: Option<StoredSealed>,
}

#[derive(Serialize, Deserialize)]
struct StoredSealed {
    nonce: String,
    text: String,
}

/// The keys of one entry, in base64. No `Debug`.
#[derive(Serialize, Deserialize)]
struct StoredKeys {
    device: String,
    module: Option<String>,
    primary: Option<Zeroizing<String>>,
    secondary: Option<Zeroizing<String>>,
}

#[derive(Serialize, Deserialize)]
struct StoredEntry {
    device: String,
    module: Option<String>,
    generation: String,
    enabled: bool,
    auth: AuthKind,
    scope: String,
    parents: Vec<String>,
    is_edge: bool,
}

impl From<&ScopeEntry> for StoredEntry {
    fn from(entry: &ScopeEntry) -> Self {
        Self {
            device: entry.name.device().to_string(),
            module: entry.name.module().map(ToString::to_string),
            generation: entry.generation.clone(),
            enabled: entry.status == Status::Enabled,
            auth: entry.auth.clone(),
            scope: entry.scope.clone(),
            parents: entry.parent_scopes.clone(),
            is_edge: entry.is_edge,
        }
    }
}

fn name_of(device: &str, module: Option<&str>) -> Result<ClientName, IdError> {
    let device = DeviceId::parse(device)?;
    Ok(match module {
        None => ClientName::Device(device),
        Some(module) => ClientName::Module(device, ModuleId::parse(module)?),
    })
}

impl TryFrom<StoredEntry> for ScopeEntry {
    type Error = IdError;

    fn try_from(stored: StoredEntry) -> Result<Self, IdError> {
        Ok(Self {
            name: name_of(&stored.device, stored.module.as_deref())?,
            generation: stored.generation,
            status: if stored.enabled { Status::Enabled } else { Status::Disabled },
            auth: stored.auth,
            scope: stored.scope,
            parent_scopes: stored.parents,
            is_edge: stored.is_edge,
        })
    }
}

/// The keys of a snapshot, as they lie on disk.
#[derive(Debug)]
pub(super) struct Sealed {
    locked: Locked,
    /// What they are bound to.
    about: Vec<u8>,
}

/// A snapshot as it was read.
pub(super) struct Read {
    pub(super) snapshot: Snapshot,
    pub(super) saved: UnixMillis,
    pub(super) sealed: Option<Sealed>,
    /// Of an older form: to be written again.
    pub(super) is_old: bool,
}

fn about(edge: &DeviceId, saved: UnixMillis) -> Vec<u8> {
    format!("scope.json {VERSION}\n{edge}\n{}", saved.0).into_bytes()
}

/// Reads the snapshot of `edge`; `None` when there is no file.
pub(super) fn read(path: &Path, edge: &DeviceId) -> Result<Option<Read>, Unusable> {
    let read = FORM.read(path, edge.as_str(), |stored: &StoredSnapshot| &stored.edge)?;
    let Some(stored) = read else { return Ok(None) };
    let saved = UnixMillis(stored.saved_ms);
    let entries: Result<Vec<ScopeEntry>, IdError> =
        stored.entries.into_iter().map(TryInto::try_into).collect();
    let entries = entries.map_err(|e| format!("it has an entry whose {e}"))?;
    // What is no base64 cannot be unlocked either, and is told when that is tried.
    let sealed = stored.sealed.map(|sealed| Sealed {
        locked: Locked {
            nonce: STANDARD
                .decode(sealed.nonce)
                .ok()
                .and_then(|nonce| nonce.try_into().ok())
                .unwrap_or_default(),
            text: STANDARD.decode(sealed.text).unwrap_or_default(),
        },
        about: about(edge, saved),
    });
    let snapshot = Snapshot::new(entries);
    Ok(Some(Read { snapshot, saved, sealed, is_old: stored.version != VERSION }))
}

/// The keys that were sealed with a snapshot; `None` when `key` does not open them.
pub(super) fn unlock(sealed: &Sealed, key: &DataKey) -> Option<HashMap<ClientName, SymmetricKeys>> {
    let text = key.unlock(&sealed.about, &sealed.locked)?;
    let stored: Vec<StoredKeys> = serde_json::from_slice(&text).ok()?;
    let signer = |key: Option<Zeroizing<String>>| KeySigner::from_base64(&key?).ok();
    let mut found = HashMap::with_capacity(stored.len());
    for keys in stored {
        let name = name_of(&keys.device, keys.module.as_deref()).ok()?;
        let (primary, secondary) = (signer(keys.primary), signer(keys.secondary));
        found.insert(name, SymmetricKeys { primary, secondary, is_told: true });
    }
    Some(found)
}

fn lock(snapshot: &Snapshot, about: &[u8], key: &DataKey) -> Option<StoredSealed> {
    let text = |signer: &KeySigner| Zeroizing::new(STANDARD.encode(signer.expose()));
    let mut all = Vec::new();
    for entry in snapshot.by_name.values() {
        let AuthKind::Sas { keys } = &entry.auth else { continue };
        if keys.known().next().is_some() {
            all.push(StoredKeys {
                device: entry.name.device().to_string(),
                module: entry.name.module().map(ToString::to_string),
                primary: keys.primary.as_ref().map(text),
                secondary: keys.secondary.as_ref().map(text),
            });
        }
    }
    if all.is_empty() {
        return None;
    }
    // With room for all, so that no half-grown copy is left behind in memory.
    let mut plain = Zeroizing::new(Vec::with_capacity(all.len() * 640));
    serde_json::to_writer(&mut *plain, &all).expect("texts serialize");
    let locked = key.lock(about, &plain);
    Some(StoredSealed { nonce: STANDARD.encode(locked.nonce), text: STANDARD.encode(locked.text) })
}

/// Puts `snapshot` in the place of the file, durably or not at all: with its keys if there is a `key` to seal them.
pub(super) fn write(
    path: &Path,
    edge: &DeviceId,
    snapshot: &Snapshot,
    now: UnixMillis,
    key: Option<&DataKey>,
) -> io::Result<()> {
    let mut entries: Vec<StoredEntry> =
        snapshot.by_name.values().map(|entry| StoredEntry::from(&**entry)).collect();
    entries.sort_by(|a, b| (&a.device, &a.module).cmp(&(&b.device, &b.module)));
    let stored = StoredSnapshot {
        version: VERSION,
        edge: edge.to_string(),
        saved_ms: now.0,
        entries,
        sealed: key.and_then(|key| lock(snapshot, &about(edge, now), key)),
    };
    kept_file::replace_json(path, &stored)
}
