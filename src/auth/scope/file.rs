//! The scope's snapshot on disk.
//!
//! Owns: its form. Must not know: lookups, how a file is replaced whole ([`kept_file`]).
//!
//! # The file, version 1
//!
//! JSON: `{"version":1,"edge":"EDGE","saved_ms":1700000000000,"entries":[{"device":"d","module":null,
//! "generation":"..","enabled":true,"auth":{"type":"certificate_authority"},"scope":"ms-azure-iot-edge://..",
//! "parents":[".."],"is_edge":false}, ...]}`. It holds no symmetric keys. A snapshot of another edge device is set
//! aside like a corrupt one: its answers would be about other people's devices.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{AuthKind, ScopeEntry, Snapshot, Status};
use crate::clock::UnixMillis;
use crate::identity::{ClientName, DeviceId, IdError, ModuleId};
use crate::kept_file;

/// Largest snapshot that is read, in bytes: 100,000 entries of 640 bytes (two 128-character ids and two scopes).
pub(super) const SNAPSHOT_BYTES_MAX: u64 = 64 * 1024 * 1024;

const VERSION: u32 = 1;

/// Why a file is not a snapshot of ours.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it has {0} bytes; {SNAPSHOT_BYTES_MAX} are allowed")]
    TooBig(u64),
    #[error("it is not a scope snapshot: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has version {0}; this program reads version {VERSION}")]
    Version(u32),
    #[error("it is the scope of edge device {0:?}")]
    OtherEdge(String),
    #[error("it has an entry whose {0}")]
    Id(#[from] IdError),
}

impl ReadError {
    /// Whether the file was read and is wrong. Otherwise (no permission, a failing disk) it may be good.
    pub(super) fn is_about_the_content(&self) -> bool {
        !matches!(self, Self::Io(_))
    }
}

#[derive(Serialize, Deserialize)]
struct StoredSnapshot {
    version: u32,
    edge: String,
    saved_ms: u64,
    entries: Vec<StoredEntry>,
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

impl TryFrom<StoredEntry> for ScopeEntry {
    type Error = IdError;

    fn try_from(stored: StoredEntry) -> Result<Self, IdError> {
        let device = DeviceId::parse(&stored.device)?;
        let name = match stored.module {
            None => ClientName::Device(device),
            Some(module) => ClientName::Module(device, ModuleId::parse(&module)?),
        };
        Ok(Self {
            name,
            generation: stored.generation,
            status: if stored.enabled { Status::Enabled } else { Status::Disabled },
            auth: stored.auth,
            scope: stored.scope,
            parent_scopes: stored.parents,
            is_edge: stored.is_edge,
        })
    }
}

/// Reads the snapshot of `edge`; `None` when there is no file.
pub(super) fn read(
    path: &Path,
    edge: &DeviceId,
) -> Result<Option<(Snapshot, UnixMillis)>, ReadError> {
    let Some(read) = kept_file::read(path, SNAPSHOT_BYTES_MAX)? else { return Ok(None) };
    let bytes = read.map_err(ReadError::TooBig)?;
    let version = kept_file::version(&bytes)?;
    if version != VERSION {
        return Err(ReadError::Version(version));
    }
    let stored: StoredSnapshot = serde_json::from_slice(&bytes)?;
    if stored.edge != edge.as_str() {
        return Err(ReadError::OtherEdge(stored.edge));
    }
    let entries: Result<Vec<ScopeEntry>, IdError> =
        stored.entries.into_iter().map(TryInto::try_into).collect();
    Ok(Some((Snapshot::new(entries?), UnixMillis(stored.saved_ms))))
}

/// Puts `snapshot` in the place of the file, durably or not at all.
pub(super) fn write(
    path: &Path,
    edge: &DeviceId,
    snapshot: &Snapshot,
    now: UnixMillis,
) -> io::Result<()> {
    let mut entries: Vec<StoredEntry> =
        snapshot.by_name.values().map(|entry| StoredEntry::from(&**entry)).collect();
    entries.sort_by(|a, b| (&a.device, &a.module).cmp(&(&b.device, &b.module)));
    let stored =
        StoredSnapshot { version: VERSION, edge: edge.to_string(), saved_ms: now.0, entries };
    let bytes = serde_json::to_vec(&stored).map_err(io::Error::other)?;
    kept_file::replace(path, &bytes)
}
