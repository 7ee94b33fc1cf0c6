//! The scope: the devices and modules that the hub says are ours, kept on disk so that a restart without upstream
//! knows them.
//!
//! Owns: the snapshot in memory (swapped whole) and its file, in which symmetric keys are sealed ([`vault`]).
//! Invariants:
//! - Until a snapshot was loaded or handed in, every lookup says [`Lookup::Unknown`]: nobody is refused for good
//!   because *we* don't know yet.
//! - The last good snapshot stays, without an age limit (edgehub.md 7.1).
//! - The file is replaced whole (new file, fsync, rename, folder fsync) and readable by the owner alone. A file that
//!   cannot be read as a snapshot is set aside under another name and reported, never deleted, never fatal.
//! - Keys are on disk sealed or not at all. While their seal cannot be opened the other entries serve, and the file stays as
//!   it is: keys that are there are never overwritten by none.
//!
//! Must not know: how entries are fetched; certificates.

pub mod census;
mod file;
mod snapshot;
pub mod vault;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use self::snapshot::Snapshot;
use self::vault::DataKey;
use crate::clock::UnixMillis;
use crate::identity::{ClientName, DeviceId, ID_BYTES_MAX, Identity};
use crate::iothub::sas::KeySigner;
use crate::kept_file;

/// Most devices of an auth chain (edgehub.md 7.5).
pub const CHAIN_DEVICES_MAX: usize = 5;

/// How often a file is written whose content is the same: flash wears. Its date is the least time that a start without a
/// clock believes in, so it is kept within an hour of the truth: 1,000 devices are 640 kB, 15 MB a day.
const DATED_EVERY_MS: u64 = 3_600_000;

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
        /// Sealed on disk, apart from the entry. None while the seal cannot be opened.
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
    /// Whether they are what the hub said: what is missing is not there. Otherwise what is missing is sealed on disk, or has
    /// not come yet.
    pub is_told: bool,
}

impl SymmetricKeys {
    /// Those that are known, the primary one first.
    pub fn known(&self) -> impl Iterator<Item = &KeySigner> {
        self.primary.iter().chain(&self.secondary)
    }

    /// Whether at least one is.
    pub fn is_known(&self) -> bool {
        self.known().next().is_some()
    }

    /// Whether the key with this SHA-256 is one of them.
    pub fn has(&self, sha256: &[u8; 32]) -> bool {
        self.known().any(|key| bool::from(key.digest().ct_eq(sha256)))
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
    /// Whether the snapshot is on disk. An error leaves the new scope in force and the old file in place; so does, without an
    /// error, a file whose seal cannot be opened yet.
    pub stored: io::Result<()>,
}

impl Replaced {
    /// Whether nothing is other than before.
    pub fn is_nothing(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// What the hub said about one identity.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Who was asked for.
    pub asked: ClientName,
    /// That identity, if it is ours, and what the hub sent along with it.
    pub entries: Vec<ScopeEntry>,
}

/// What became of the sealed keys.
#[derive(Debug)]
pub enum Opened {
    /// There were none.
    Nothing,
    /// They are known now.
    Keys {
        /// Of how many entries.
        entries: usize,
    },
    /// They cannot be read: the entries serve without keys until the hub gives them again.
    SetAside {
        /// Where the file is now; `None` when it could not be moved.
        to: Option<PathBuf>,
    },
}

/// What is on disk, beside the snapshot in memory.
#[derive(Debug, Default)]
struct OnDisk {
    key: Option<DataKey>,
    /// Keys that no data key has opened yet. While they are there the file is not touched.
    sealed: Option<file::Sealed>,
    /// Whose keys those are, as far as the hub has not said anything newer.
    awaited: HashSet<ClientName>,
    /// What the file is dated.
    saved: UnixMillis,
    /// The snapshot in memory has more than the file.
    is_behind: bool,
    /// The file has all that could be written of the snapshot in memory: without a data key that is all but the keys.
    is_written: bool,
}

/// The scope. Shared; reads take no lock.
pub struct Scope {
    path: PathBuf,
    edge: DeviceId,
    current: ArcSwapOption<Snapshot>,
    /// One replacement at a time: memory and file must agree on which is the last.
    disk: Mutex<OnDisk>,
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.current.load().as_ref().map(|s| s.by_name.len());
        f.debug_struct("Scope").field("edge", &self.edge).field("entries", &entries).finish()
    }
}

impl Scope {
    /// Reads the snapshot at `path` for the edge device `edge`. Never fails: see [`Loaded`]. Blocks on the disk. Symmetric
    /// keys are known once [`Scope::open`] was called.
    pub fn load(path: impl Into<PathBuf>, edge: DeviceId) -> (Self, Loaded) {
        let path = path.into();
        let mut disk = OnDisk::default();
        let (snapshot, loaded) = match file::read(&path, &edge) {
            Ok(None) => (None, Loaded::Nothing),
            Ok(Some(file::Read { snapshot, saved, sealed, is_old })) => {
                let entries = snapshot.by_name.len();
                let is_sas = |e: &&Arc<ScopeEntry>| matches!(e.auth, AuthKind::Sas { .. });
                let awaited = snapshot.by_name.values().filter(is_sas).map(|e| e.name.clone());
                disk.awaited = awaited.collect();
                (disk.sealed, disk.saved, disk.is_behind) = (sealed, saved, is_old);
                disk.is_written = !is_old;
                (Some(Arc::new(snapshot)), Loaded::Snapshot { entries, saved })
            }
            Err(e) => (None, Loaded::SetAside { to: e.set_aside(&path), reason: e.to_string() }),
        };
        let current = ArcSwapOption::new(snapshot);
        (Self { path, edge, current, disk: Mutex::new(disk) }, loaded)
    }

    /// Nothing is known, and nothing is read from disk: for who only looks.
    pub fn unknown(edge: DeviceId) -> Self {
        let (path, current) = (PathBuf::new(), ArcSwapOption::empty());
        Self { path, edge, current, disk: Mutex::default() }
    }

    /// The edge device whose scope this is.
    pub fn edge(&self) -> &DeviceId {
        &self.edge
    }

    /// Opens the keys that were read, and seals from now on what is written. Blocks on the disk.
    ///
    /// # Errors
    /// What has to be written could not be; what was opened is in force all the same.
    pub fn open(&self, key: DataKey) -> (Opened, io::Result<()>) {
        let mut disk = self.lock();
        let opened = match disk.sealed.take() {
            None => Opened::Nothing,
            Some(sealed) => match file::unlock(&sealed, &key) {
                Some(keys) => Opened::Keys { entries: self.fill_in(&disk.awaited, keys) },
                None => {
                    // Its entries are in memory, and written again below.
                    disk.is_behind = true;
                    Opened::SetAside { to: kept_file::set_aside(&self.path) }
                }
            },
        };
        disk.awaited = HashSet::new();
        disk.key = Some(key);
        let saved = disk.saved;
        let stored = match (disk.is_behind, self.current.load_full()) {
            (true, Some(snapshot)) => self.store(&mut disk, &snapshot, saved),
            _ => Ok(()),
        };
        (opened, stored)
    }

    /// Gives entries that wait for them their keys; of how many that is.
    fn fill_in(
        &self,
        awaited: &HashSet<ClientName>,
        mut keys: HashMap<ClientName, SymmetricKeys>,
    ) -> usize {
        let Some(before) = self.current.load_full() else { return 0 };
        let mut filled = 0;
        let mut entries: Vec<Arc<ScopeEntry>> = before.by_name.values().cloned().collect();
        for entry in entries.iter_mut().filter(|entry| awaited.contains(&entry.name)) {
            if let Some(keys) = keys.remove(&entry.name) {
                Arc::make_mut(entry).auth = AuthKind::Sas { keys };
                filled += 1;
            }
        }
        self.current.store(Some(Arc::new(Snapshot::of(entries))));
        filled
    }

    /// Puts a complete refresh in force, then on disk. Blocks on the disk. Of two entries with one name the later
    /// counts.
    pub fn replace(&self, entries: Vec<ScopeEntry>, now: UnixMillis) -> Replaced {
        self.replace_with(entries, Vec::new(), now)
    }

    /// The same, with the hub's answers about single identities that came after the refresh was begun. What does not differ is
    /// written once an hour, for the sake of its date.
    pub fn replace_with(
        &self,
        entries: Vec<ScopeEntry>,
        answers: Vec<Answer>,
        now: UnixMillis,
    ) -> Replaced {
        let mut disk = self.lock();
        disk.awaited = HashSet::new();
        let old = self.current.load_full();
        let mut new = Snapshot::new(entries);
        for Answer { asked, entries } in answers {
            new = Snapshot::of(new.with_answer(&asked, entries));
        }
        let replaced = new.differences(old.as_deref());
        let is_same = old.is_some() && replaced.is_nothing();
        if is_same && disk.is_written && is_dated(disk.saved, now) {
            return replaced;
        }
        self.put(&mut disk, replaced, new, now)
    }

    /// Puts the hub's answer about one identity in force, then on disk: what it gave counts, and if who was asked for is
    /// not among it, it is gone, with its modules. Changes nothing while no scope is known: one entry is not a scope. Blocks on the
    /// disk.
    pub fn merge_one(&self, answer: Answer, now: UnixMillis) -> Replaced {
        let mut disk = self.lock();
        let Some(old) = self.current.load_full() else {
            return Replaced { added: vec![], removed: vec![], changed: vec![], stored: Ok(()) };
        };
        for entry in &answer.entries {
            disk.awaited.remove(&entry.name);
        }
        let new = Snapshot::of(old.with_answer(&answer.asked, answer.entries));
        let replaced = new.differences(Some(&old));
        // Flash wears: what does not differ is not written.
        if replaced.is_nothing() { replaced } else { self.put(&mut disk, replaced, new, now) }
    }

    fn put(
        &self,
        disk: &mut OnDisk,
        mut replaced: Replaced,
        new: Snapshot,
        now: UnixMillis,
    ) -> Replaced {
        let new = Arc::new(new);
        self.current.store(Some(Arc::clone(&new)));
        replaced.stored = self.store(disk, &new, now);
        replaced
    }

    fn store(&self, disk: &mut OnDisk, snapshot: &Snapshot, now: UnixMillis) -> io::Result<()> {
        disk.saved = now;
        disk.is_behind = true;
        disk.is_written = false;
        if disk.sealed.is_some() {
            return Ok(());
        }
        file::write(&self.path, &self.edge, snapshot, now, disk.key.as_ref())?;
        // Without a data key the file has no keys: it is written again when there is one.
        disk.is_behind = disk.key.is_none();
        disk.is_written = true;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, OnDisk> {
        // A panic while it is held leaves a file that is written again.
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any scope is known.
    pub fn is_known(&self) -> bool {
        self.current.load().is_some()
    }

    /// Who is in the scope, each with its generation id; `None` while the scope is unknown.
    pub fn lives(&self) -> Option<HashMap<Identity, Box<str>>> {
        let snapshot = self.current.load();
        let entries = snapshot.as_ref()?.by_name.values();
        Some(entries.map(|e| (Identity::vouched(e.name.clone()), (*e.generation).into())).collect())
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

/// Whether a file of `saved` is young enough. One of the future is not: the clock was wrong, or is.
fn is_dated(saved: UnixMillis, now: UnixMillis) -> bool {
    now.0.checked_sub(saved.0).is_some_and(|age| age < DATED_EVERY_MS)
}

/// An Azure Sphere device id: 128 hex digits. Registered in lower case, spelled in either.
pub fn is_sphere_id(id: &str) -> bool {
    id.len() == ID_BYTES_MAX && id.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests;
