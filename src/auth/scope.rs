//! The scope: the devices and modules that the hub says are ours, kept on disk so that a restart without upstream
//! knows them.
//!
//! Owns: the snapshot in memory (swapped whole) and its file.
//! Invariants:
//! - Until a snapshot was loaded or handed in, every lookup says [`Lookup::Unknown`]: nobody is refused for good
//!   because *we* don't know yet.
//! - The last good snapshot stays, without an age limit (edgehub.md 7.1).
//! - The file is replaced whole (new file, fsync, rename, folder fsync) and readable by the owner alone. A file that
//!   cannot be read as a snapshot is set aside under another name and reported, never deleted, never fatal.
//!
//! Must not know: how entries are fetched; certificates.

mod file;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;
use crate::identity::{ClientName, DeviceId, ID_BYTES_MAX};
use crate::iothub::sas::KeySigner;
use crate::kept_file;

/// Most devices of an auth chain (edgehub.md 7.5).
pub const CHAIN_DEVICES_MAX: usize = 5;

/// `ms-azure-iot-edge://{edge id}-{generation}` (iothub-protocol.md C2).
const SCOPE_SCHEME: &str = "ms-azure-iot-edge://";

/// Whether the registry lets an identity connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// May connect.
    Enabled,
    /// Switched off in the registry.
    Disabled,
}

/// How the registry says that an identity proves itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AuthKind {
    /// SAS tokens signed by a symmetric key.
    Sas {
        /// Not kept on disk (yet).
        #[serde(skip)]
        keys: SymmetricKeys,
    },
    /// A certificate named by its thumbprints: SHA-1 or SHA-256, hex, any case.
    SelfSigned {
        /// Primary and secondary, as far as set.
        thumbprints: Vec<String>,
    },
    /// A certificate by a CA of the trust bundle whose common name is the device id.
    CertificateAuthority,
    /// Cannot connect by itself.
    None,
}

/// The symmetric keys of one identity. Never logged: a key shows as `***`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SymmetricKeys {
    /// As far as it is known.
    pub primary: Option<KeySigner>,
    /// As far as it is known.
    pub secondary: Option<KeySigner>,
}

impl SymmetricKeys {
    /// Those that are known, the primary one first.
    pub fn known(&self) -> impl Iterator<Item = &KeySigner> {
        self.primary.iter().chain(&self.secondary)
    }
}

/// What the hub says about one device or module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeEntry {
    /// The name in its registered spelling.
    pub name: ClientName,
    /// Changes when an id is deleted and created again.
    pub generation: String,
    /// Modules have none of their own: enabled.
    pub status: Status,
    /// How it proves itself.
    pub auth: AuthKind,
    /// `deviceScope`: an edge device's own scope, a leaf's parent scope. Empty for modules.
    pub scope: String,
    /// `parentScopes`; only the first is used.
    pub parent_scopes: Vec<String>,
    /// Whether it is an edge device.
    pub is_edge: bool,
}

/// What is known about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// No scope is known yet: no judgement is possible.
    Unknown,
    /// The scope is known and the name is not in it.
    NotInScope,
    /// There.
    Entry(Arc<ScopeEntry>),
}

/// What [`Scope::load`] found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// No snapshot: a first start.
    Nothing,
    /// A snapshot serves.
    Snapshot {
        /// How many entries it has.
        entries: usize,
        /// When it was written (wall time).
        saved: UnixMillis,
    },
    /// The file is no snapshot of ours; the scope starts unknown.
    SetAside {
        /// Where the file is now; `None` when it stayed: it could not be read at all (which may heal), or not be moved.
        to: Option<PathBuf>,
        /// What is wrong with it.
        reason: String,
    },
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str(
                "no stored scope: devices are let in once the hub has told who they are",
            ),
            Self::Snapshot { entries, .. } => {
                write!(f, "the stored scope serves: {entries} devices and modules")
            }
            Self::SetAside { to: Some(to), reason } => {
                write!(
                    f,
                    "the stored scope is damaged ({reason}) and was set aside as {}",
                    to.display()
                )
            }
            Self::SetAside { to: None, reason } => {
                write!(
                    f,
                    "the stored scope is damaged ({reason}) and could not be set aside: check the storage folder"
                )
            }
        }
    }
}

/// What a new snapshot changed.
#[derive(Debug)]
pub struct Replaced {
    /// Names that were not there before.
    pub added: Vec<ClientName>,
    /// Names that are gone: their clients have no right to stay.
    pub removed: Vec<ClientName>,
    /// Names whose entry differs: their clients have to be judged again.
    pub changed: Vec<ClientName>,
    /// Whether the snapshot is on disk. An error leaves the new scope in force and the old file in place.
    pub stored: io::Result<()>,
}

/// The scope. Shared; reads take no lock.
pub struct Scope {
    path: PathBuf,
    edge: DeviceId,
    current: ArcSwapOption<Snapshot>,
    /// One replacement at a time: memory and file must agree on which is the last.
    replacing: Mutex<()>,
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.current.load().as_ref().map(|s| s.by_name.len());
        f.debug_struct("Scope").field("edge", &self.edge).field("entries", &entries).finish()
    }
}

impl Scope {
    /// Reads the snapshot at `path` for the edge device `edge`. Never fails: see [`Loaded`]. Blocks on the disk.
    pub fn load(path: impl Into<PathBuf>, edge: DeviceId) -> (Self, Loaded) {
        let path = path.into();
        let (snapshot, loaded) = match file::read(&path, &edge) {
            Ok(None) => (None, Loaded::Nothing),
            Ok(Some((snapshot, saved))) => {
                let entries = snapshot.by_name.len();
                (Some(Arc::new(snapshot)), Loaded::Snapshot { entries, saved })
            }
            Err(e) => {
                let to = if e.is_about_the_content() { kept_file::set_aside(&path) } else { None };
                (None, Loaded::SetAside { to, reason: e.to_string() })
            }
        };
        let current = ArcSwapOption::new(snapshot);
        (Self { path, edge, current, replacing: Mutex::new(()) }, loaded)
    }

    /// Nothing is known, and nothing is read from disk: for who only looks.
    pub fn unknown(edge: DeviceId) -> Self {
        let (path, current) = (PathBuf::new(), ArcSwapOption::empty());
        Self { path, edge, current, replacing: Mutex::new(()) }
    }

    /// The edge device whose scope this is.
    pub fn edge(&self) -> &DeviceId {
        &self.edge
    }

    /// Puts a complete refresh in force, then on disk. Blocks on the disk. Of two entries with one name the later
    /// counts.
    pub fn replace(&self, entries: Vec<ScopeEntry>, now: UnixMillis) -> Replaced {
        let _one = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Arc::new(Snapshot::new(entries));
        let old = self.current.swap(Some(Arc::clone(&new)));
        let none = HashMap::new();
        let before = old.as_ref().map_or(&none, |s| &s.by_name);
        let mut replaced = Replaced {
            added: Vec::new(),
            removed: before.keys().filter(|n| !new.by_name.contains_key(n)).cloned().collect(),
            changed: Vec::new(),
            stored: file::write(&self.path, &self.edge, &new, now),
        };
        for (name, entry) in &new.by_name {
            match before.get(name) {
                None => replaced.added.push(name.clone()),
                Some(known) if known != entry => replaced.changed.push(name.clone()),
                Some(_) => {}
            }
        }
        replaced.added.sort();
        replaced.removed.sort();
        replaced.changed.sort();
        replaced
    }

    /// Whether any scope is known.
    pub fn is_known(&self) -> bool {
        self.current.load().is_some()
    }

    /// How many entries the scope has; 0 while it is unknown.
    pub fn len(&self) -> usize {
        self.current.load().as_ref().map_or(0, |s| s.by_name.len())
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry of `name`: by exact spelling, or, for an Azure Sphere id (128 hex digits), without regard to case if
    /// that names exactly one.
    pub fn lookup(&self, name: &ClientName) -> Lookup {
        match self.current.load().as_ref() {
            None => Lookup::Unknown,
            Some(snapshot) => match snapshot.get(name) {
                Some(entry) => Lookup::Entry(Arc::clone(entry)),
                None => Lookup::NotInScope,
            },
        }
    }

    /// The auth chain of `name`, from itself up to our edge device, e.g. `leaf;EDGE`, `EDGE/mod;EDGE`,
    /// `leaf;CHILD;EDGE` (edgehub.md 7.5). `None` when the scope is unknown, when the name is not below our edge
    /// device, or when a link of the chain is disabled: then it has no way to the cloud either.
    pub fn auth_chain(&self, name: &ClientName) -> Option<String> {
        self.current.load().as_ref()?.auth_chain(&self.edge, name)
    }
}

/// An Azure Sphere device id: 128 hex digits. Registered in lower case, spelled in either.
pub fn is_sphere_id(id: &str) -> bool {
    id.len() == ID_BYTES_MAX && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// One complete scope. Immutable.
struct Snapshot {
    by_name: HashMap<ClientName, Arc<ScopeEntry>>,
    /// Sphere devices by lower-case id; `None` where two spellings are registered, so that neither is guessed.
    by_sphere_id: HashMap<String, Option<ClientName>>,
}

impl Snapshot {
    fn new(entries: Vec<ScopeEntry>) -> Self {
        let by_name: HashMap<_, _> =
            entries.into_iter().map(|e| (e.name.clone(), Arc::new(e))).collect();
        let mut by_sphere_id: HashMap<String, Option<ClientName>> = HashMap::new();
        for name in by_name.keys() {
            if name.module().is_none() && is_sphere_id(name.device().as_str()) {
                by_sphere_id
                    .entry(name.device().as_str().to_ascii_lowercase())
                    .and_modify(|several| *several = None)
                    .or_insert_with(|| Some(name.clone()));
            }
        }
        Self { by_name, by_sphere_id }
    }

    fn get(&self, name: &ClientName) -> Option<&Arc<ScopeEntry>> {
        self.by_name.get(name).or_else(|| {
            if name.module().is_some() || !is_sphere_id(name.device().as_str()) {
                return None;
            }
            let folded = name.device().as_str().to_ascii_lowercase();
            self.by_name.get(self.by_sphere_id.get(&folded)?.as_ref()?)
        })
    }

    fn auth_chain(&self, edge: &DeviceId, name: &ClientName) -> Option<String> {
        let mut chain = Vec::new();
        if name.module().is_some() {
            let module = self.get(name).filter(|e| e.status == Status::Enabled)?;
            chain.push(module.name.to_string());
        }
        let mut device = name.device().clone();
        for _ in 0..CHAIN_DEVICES_MAX {
            if &device == edge {
                chain.push(device.to_string());
                return Some(chain.join(";"));
            }
            let entry = self.get(&ClientName::Device(device))?;
            if entry.status != Status::Enabled {
                return None;
            }
            chain.push(entry.name.to_string());
            device = self.parent(edge, entry)?;
        }
        None
    }

    /// The edge device above `entry`.
    fn parent(&self, edge: &DeviceId, entry: &ScopeEntry) -> Option<DeviceId> {
        // An edge device's `scope` is its own; a leaf's is its parent's, and some answers carry only that.
        let own = (!entry.is_edge && !entry.scope.is_empty()).then_some(&entry.scope);
        let above = entry.parent_scopes.first().or(own)?;
        let id = DeviceId::parse(edge_of_scope(above)?).ok()?;
        match self.by_name.get(&ClientName::Device(id.clone())) {
            // The generation is part of the scope: an edge device that was deleted and created again is another one.
            Some(parent) => (parent.is_edge && &parent.scope == above).then_some(id),
            // Our own entry is not part of every answer; a foreign parent that is not there is no way to us.
            None => (&id == edge).then_some(id),
        }
    }
}

/// The edge device's id out of `ms-azure-iot-edge://{id}-{generation}`.
fn edge_of_scope(scope: &str) -> Option<&str> {
    let (id, generation) = scope.strip_prefix(SCOPE_SCHEME)?.rsplit_once('-')?;
    let digits = !generation.is_empty() && generation.bytes().all(|b| b.is_ascii_digit());
    (digits && !id.is_empty()).then_some(id)
}

#[cfg(test)]
mod tests;
