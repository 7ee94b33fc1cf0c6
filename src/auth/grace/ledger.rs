//! Which devices were let in with which key by which CA: what a grace is granted by.
//!
//! Owns: the ledger in memory and its file. Invariants: an entry is made only by a log-in that held in every respect,
//! never by one under a grace; at most [`DEVICES_MAX`] entries; the file is replaced whole; one that cannot be read is set
//! aside and costs no more than the graces. Must not know: who asks.
//!
//! # The file, version 1
//!
//! JSON: `{"version":1,"edge":"EDGE","leafs":[{"device":"d","key":"SHA-256 of the public key, hex","ca":"SHA-256 of the
//! anchor's name and public key, hex","not_after_ms":1700000000000}, ...]}`. Nothing in it is secret.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;
use crate::identity::DeviceId;
use crate::kept_file::{self, Form, Unusable};

/// Most devices. An entry takes 400 bytes at most (an id of 128, two digests of 64): 8 MB, in memory and on disk.
pub const DEVICES_MAX: usize = 20_000;

const VERSION: u32 = 1;

const FORM: Form = Form {
    // Twice what a full ledger takes.
    bytes_max: 16 * 1024 * 1024,
    versions: &[VERSION],
    not_ours: "it is no ledger",
    noun: "ledger",
};

/// The leaf by which a device was let in last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::auth) struct Seen {
    /// SHA-256 of its public key.
    pub(in crate::auth) key_sha256: [u8; 32],
    /// SHA-256 of the CA of the trust bundle, its name and public key: a renewed one is the same.
    pub(in crate::auth) ca_sha256: [u8; 32],
    /// Its end.
    pub(in crate::auth) not_after: UnixMillis,
}

/// What [`Ledger::load`] found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerLoaded {
    /// No file.
    Nothing,
    /// So many devices.
    Devices(usize),
    /// It is no ledger of ours: why, and where it is now (`None`: where it was).
    SetAside(String, Option<PathBuf>),
}

/// The ledger. Shared.
#[derive(Debug, Default)]
pub struct Ledger {
    file: Option<(PathBuf, DeviceId)>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    leafs: HashMap<DeviceId, Seen>,
    is_changed: bool,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    edge: String,
    leafs: Vec<StoredLeaf>,
}

#[derive(Serialize, Deserialize)]
struct StoredLeaf {
    device: String,
    key: String,
    ca: String,
    not_after_ms: u64,
}

impl Ledger {
    /// One that is kept at `path`, for the edge device `edge`. Never fails: see [`LedgerLoaded`]. Blocks on the disk.
    pub fn load(path: impl Into<PathBuf>, edge: DeviceId) -> (Self, LedgerLoaded) {
        let path = path.into();
        let (leafs, loaded) = match read(&path, &edge) {
            Ok(None) => (HashMap::new(), LedgerLoaded::Nothing),
            Ok(Some(leafs)) => {
                let count = leafs.len();
                (leafs, LedgerLoaded::Devices(count))
            }
            Err(e) => {
                let to = e.set_aside(&path);
                (HashMap::new(), LedgerLoaded::SetAside(e.to_string(), to))
            }
        };
        let state = Mutex::new(State { leafs, is_changed: false });
        (Self { file: Some((path, edge)), state }, loaded)
    }

    /// A device was let in. Of a full ledger the entry goes whose leaf ended, or ends, first.
    pub(in crate::auth) fn note(&self, device: &DeviceId, seen: Seen) {
        let mut state = self.lock();
        if state.leafs.get(device) == Some(&seen) {
            return;
        }
        if state.leafs.len() >= DEVICES_MAX && !state.leafs.contains_key(device) {
            let first = state.leafs.iter().min_by_key(|(_, seen)| seen.not_after);
            if let Some(first) = first.map(|(device, _)| device.clone()) {
                state.leafs.remove(&first);
            }
        }
        state.leafs.insert(device.clone(), seen);
        state.is_changed = true;
    }

    /// Whether the device was let in with this key by this CA.
    pub(in crate::auth) fn knows(
        &self,
        device: &DeviceId,
        key_sha256: &[u8; 32],
        ca_sha256: &[u8; 32],
    ) -> bool {
        self.lock()
            .leafs
            .get(device)
            .is_some_and(|seen| seen.key_sha256 == *key_sha256 && seen.ca_sha256 == *ca_sha256)
    }

    /// Each device with the end of its leaf.
    pub(in crate::auth) fn ends(&self) -> Vec<(DeviceId, UnixMillis)> {
        self.lock().leafs.iter().map(|(device, seen)| (device.clone(), seen.not_after)).collect()
    }

    /// Forgets those that `keep` says no to.
    pub(in crate::auth) fn prune(&self, keep: impl Fn(&DeviceId, UnixMillis) -> bool) {
        let mut state = self.lock();
        let before = state.leafs.len();
        state.leafs.retain(|device, seen| keep(device, seen.not_after));
        state.is_changed |= state.leafs.len() != before;
    }

    /// Puts it on disk, if it is kept there and has changed. Blocks on the disk.
    ///
    /// # Errors
    /// The old file stays, and the next call tries again.
    pub fn save(&self) -> io::Result<()> {
        let Some((path, edge)) = &self.file else { return Ok(()) };
        let mut leafs: Vec<StoredLeaf> = {
            let mut state = self.lock();
            if !std::mem::take(&mut state.is_changed) {
                return Ok(());
            }
            state.leafs.iter().map(StoredLeaf::from).collect()
        };
        leafs.sort_by(|a, b| a.device.cmp(&b.device));
        let stored = Stored { version: VERSION, edge: edge.to_string(), leafs };
        let written = kept_file::replace_json(path, &stored);
        if written.is_err() {
            self.lock().is_changed = true;
        }
        written
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic while the lock is held leaves a whole map behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path, edge: &DeviceId) -> Result<Option<HashMap<DeviceId, Seen>>, Unusable> {
    let read = FORM.read(path, edge.as_str(), |stored: &Stored| &stored.edge)?;
    let Some(stored) = read else { return Ok(None) };
    let leafs: Option<HashMap<_, _>> =
        stored.leafs.iter().take(DEVICES_MAX).map(StoredLeaf::entry).collect();
    Ok(Some(leafs.ok_or_else(|| "an entry of it is damaged".to_owned())?))
}

impl From<(&DeviceId, &Seen)> for StoredLeaf {
    fn from((device, seen): (&DeviceId, &Seen)) -> Self {
        Self {
            device: device.to_string(),
            key: Hex(&seen.key_sha256).to_string(),
            ca: Hex(&seen.ca_sha256).to_string(),
            not_after_ms: seen.not_after.0,
        }
    }
}

impl StoredLeaf {
    fn entry(&self) -> Option<(DeviceId, Seen)> {
        let device = DeviceId::parse(&self.device).ok()?;
        let (key_sha256, ca_sha256) = (digest(&self.key)?, digest(&self.ca)?);
        let not_after = UnixMillis(self.not_after_ms);
        Some((device, Seen { key_sha256, ca_sha256, not_after }))
    }
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

struct Hex<'b>(&'b [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
