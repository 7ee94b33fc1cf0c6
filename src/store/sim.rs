//! A disk in memory that crashes like a real one, for tests.
//!
//! Owns: [`SimDisk`]. What was not synced may after a power cut be there or not, independently for every 512-byte
//! sector of a file (any of its versions since the last sync), for its length, and for every entry of a folder. A failed
//! sync leaves the pages marked clean, as Linux does: a second one answers `Ok` and writes nothing.
//! Must not know: the store's formats.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, DiskFile, Entry, LockGuard, Mode, Space};

const SECTOR: usize = 512;

/// What is about to be done; a fault plan sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Create,
    CreateDir,
    Write,
    Allocate,
    SetLen,
    SyncData,
    SyncDir,
    Remove,
    Rename,
}

/// What a fault plan decides.
pub(crate) enum Fault {
    /// The operation fails with this error.
    Error(io::ErrorKind),
    /// The power goes during the operation: it may be done in part, everything after it fails.
    Crash,
}

type Plan = Box<dyn FnMut(Op, &Path) -> Option<Fault> + Send>;

#[derive(Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// The states between the two, oldest first; `live` is the last.
    versions: Vec<Vec<u8>>,
    /// A sync failed: nothing reaches the medium any more.
    gated: bool,
}

#[derive(Default)]
struct Dir {
    live: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(usize),
    Dir,
}

#[derive(Default)]
struct State {
    epoch: u64,
    crashed: bool,
    files: Vec<File>,
    dirs: HashMap<PathBuf, Dir>,
    locks: HashSet<PathBuf>,
    plan: Option<Plan>,
    capacity: Option<usize>,
    /// Whether preallocation is not supported.
    no_allocate: bool,
    bytes_read: usize,
}

/// The disk. Clones are the same disk; a clone from before a reboot fails at everything.
#[derive(Clone)]
pub(crate) struct SimDisk {
    state: Arc<Mutex<State>>,
    epoch: u64,
}

/// Numbers from a seed (splitmix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }
}

fn gone() -> io::Error {
    io::Error::other("the power is off")
}

impl SimDisk {
    pub(crate) fn new() -> Self {
        let mut state = State::default();
        state.dirs.insert(PathBuf::from("/"), Dir::default());
        Self { state: Arc::new(Mutex::new(state)), epoch: 0 }
    }

    /// Sets what goes wrong from now on.
    pub(crate) fn plan(&self, plan: impl FnMut(Op, &Path) -> Option<Fault> + Send + 'static) {
        self.raw().plan = Some(Box::new(plan));
    }

    /// Nothing goes wrong any more.
    pub(crate) fn no_plan(&self) {
        self.raw().plan = None;
    }

    /// Limits the bytes of all files together.
    pub(crate) fn set_capacity(&self, capacity: Option<usize>) {
        self.raw().capacity = capacity;
    }

    /// From now on this file system cannot preallocate.
    pub(crate) fn without_allocate(&self) {
        self.raw().no_allocate = true;
    }

    /// Bytes read from files so far.
    pub(crate) fn bytes_read(&self) -> usize {
        self.raw().bytes_read
    }

    /// Bytes of all files that have a name.
    pub(crate) fn used(&self) -> usize {
        self.raw().used()
    }

    /// The process was killed: what it wrote is in the page cache.
    pub(crate) fn kill(&self) -> Self {
        let mut state = self.raw();
        state.restart();
        Self { state: Arc::clone(&self.state), epoch: state.epoch }
    }

    /// The power went: what was not synced is a matter of luck.
    pub(crate) fn power_cut(&self, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut state = self.raw();
        for file in &mut state.files {
            file.lose_power(&mut dice);
        }
        let mut paths: Vec<PathBuf> = state.dirs.keys().cloned().collect();
        paths.sort();
        for path in paths {
            state.dirs.get_mut(&path).unwrap().lose_power(&mut dice);
        }
        // A folder whose removal did not survive is there again, empty as it was.
        let listed = |(path, dir): (&PathBuf, &Dir)| -> Vec<PathBuf> {
            let dirs = dir.live.iter().filter(|(_, node)| **node == Node::Dir);
            dirs.map(|(name, _)| path.join(name)).collect()
        };
        let listed: Vec<PathBuf> = state.dirs.iter().flat_map(listed).collect();
        for path in listed {
            state.dirs.entry(path).or_default();
        }
        let lost: Vec<PathBuf> =
            state.dirs.keys().filter(|path| !state.is_reachable(path)).cloned().collect();
        for path in lost {
            state.dirs.remove(&path);
        }
        state.restart();
        Self { state: Arc::clone(&self.state), epoch: state.epoch }
    }

    /// Names of the files in a folder.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let state = self.raw();
        state.dirs.get(Path::new(path)).map_or(vec![], |dir| dir.live.keys().cloned().collect())
    }

    /// Changes a file's bytes behind the store's back, durably.
    pub(crate) fn damage(&self, path: &str, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.raw();
        let index = state.file(Path::new(path)).unwrap();
        let file = &mut state.files[index];
        damage(&mut file.live);
        file.durable = file.live.clone();
        file.versions.clear();
    }

    fn raw(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.raw();
        if state.epoch != self.epoch || state.crashed { Err(gone()) } else { Ok(state) }
    }

    /// Asks the plan; `true`: go on, but the power goes with this operation.
    fn begin(&self, op: Op, path: &Path) -> io::Result<(MutexGuard<'_, State>, bool)> {
        let mut state = self.state()?;
        match state.plan.as_mut().and_then(|plan| plan(op, path)) {
            None => Ok((state, false)),
            Some(Fault::Error(kind)) => Err(kind.into()),
            Some(Fault::Crash) => {
                state.crashed = true;
                Ok((state, true))
            }
        }
    }
}

fn end(crash: bool) -> io::Result<()> {
    if crash { Err(gone()) } else { Ok(()) }
}

impl State {
    fn restart(&mut self) {
        self.epoch += 1;
        self.crashed = false;
        self.locks.clear();
        self.plan = None;
    }

    fn used(&self) -> usize {
        let entries = self.dirs.values().flat_map(|dir| dir.live.values());
        entries.map(|n| if let Node::File(i) = n { self.files[*i].live.len() } else { 0 }).sum()
    }

    fn is_reachable(&self, path: &Path) -> bool {
        let Some(parent) = path.parent() else {
            return true;
        };
        let name = path.file_name().unwrap().to_str().unwrap();
        let listed = self.dirs.get(parent).and_then(|dir| dir.live.get(name));
        listed == Some(&Node::Dir) && self.is_reachable(parent)
    }

    fn dir(&mut self, path: &Path) -> io::Result<&mut Dir> {
        self.dirs.get_mut(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn slot(&mut self, path: &Path) -> io::Result<(&mut Dir, String)> {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        Ok((self.dir(path.parent().unwrap())?, name))
    }

    fn file(&mut self, path: &Path) -> io::Result<usize> {
        let (dir, name) = self.slot(path)?;
        match dir.live.get(&name) {
            Some(Node::File(index)) => Ok(*index),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// How many bytes the files may still grow.
    fn room(&self) -> usize {
        self.capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(self.used()))
    }
}

impl File {
    fn change(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.live);
        self.versions.push(self.live.clone());
    }

    fn lose_power(&mut self, dice: &mut Dice) {
        let mut states = vec![std::mem::take(&mut self.durable)];
        states.append(&mut self.versions);
        let last = states.len() - 1;
        let image = match dice.below(4) {
            0 => states[0].clone(),
            1 => states[last].clone(),
            _ => {
                let mut image = vec![0; states[dice.below(states.len())].len()];
                for (i, sector) in image.chunks_mut(SECTOR).enumerate() {
                    let version = &states[dice.below(states.len())];
                    let bytes = version.get(i * SECTOR..).unwrap_or_default();
                    let len = bytes.len().min(sector.len());
                    sector[..len].copy_from_slice(&bytes[..len]);
                }
                image
            }
        };
        *self = Self { live: image.clone(), durable: image, versions: vec![], gated: false };
    }
}

impl Dir {
    fn lose_power(&mut self, dice: &mut Dice) {
        let names: std::collections::BTreeSet<String> =
            self.live.keys().chain(self.durable.keys()).cloned().collect();
        for name in names {
            let (new, old) = (self.live.get(&name).copied(), self.durable.get(&name).copied());
            match if dice.below(2) == 0 { old } else { new } {
                Some(node) => self.live.insert(name, node),
                None => self.live.remove(&name),
            };
        }
        self.durable = self.live.clone();
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = {
            let state = self.state()?;
            path.ancestors().filter(|path| !state.dirs.contains_key(*path)).collect()
        };
        for path in missing.into_iter().rev() {
            let (mut state, crash) = self.begin(Op::CreateDir, path)?;
            let (dir, name) = state.slot(path)?;
            dir.live.insert(name, Node::Dir);
            state.dirs.insert(path.to_path_buf(), Dir::default());
            end(crash)?;
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let (mut state, crash) = self.begin(Op::SyncDir, path)?;
        end(crash)?;
        let dir = state.dir(path)?;
        dir.durable = dir.live.clone();
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut state = self.state()?;
        let entries = state.dir(path)?.live.iter();
        Ok(entries.map(|(n, e)| Entry { name: n.clone(), is_dir: *e == Node::Dir }).collect())
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let index = if mode == Mode::CreateNew {
            let (mut state, crash) = self.begin(Op::Create, path)?;
            let index = state.files.len();
            let (dir, name) = state.slot(path)?;
            if dir.live.contains_key(&name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            dir.live.insert(name, Node::File(index));
            state.files.push(File::default());
            end(crash)?;
            index
        } else {
            self.state()?.file(path)?
        };
        Ok(Arc::new(SimFile { disk: self.clone(), path: path.to_path_buf(), index }))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.state()?.file(path)?;
        let (mut state, crash) = self.begin(Op::Remove, path)?;
        let (dir, name) = state.slot(path)?;
        dir.live.remove(&name);
        end(crash)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let (mut state, crash) = self.begin(Op::Remove, path)?;
        if !state.dir(path)?.live.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (dir, name) = state.slot(path)?;
        dir.live.remove(&name);
        state.dirs.remove(path);
        end(crash)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, crash) = self.begin(Op::Rename, from)?;
        let index = state.file(from)?;
        let (dir, name) = state.slot(from)?;
        dir.live.remove(&name);
        let (dir, name) = state.slot(to)?;
        dir.live.insert(name, Node::File(index));
        end(crash)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        let mut state = self.state()?;
        let free = state.locks.insert(path.to_path_buf());
        let guard = || SimLock { disk: self.clone(), path: path.to_path_buf() };
        Ok(free.then(|| Box::new(guard()) as Box<dyn LockGuard>))
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let state = self.state()?;
        let total = state.capacity.map_or(u64::MAX, |capacity| capacity as u64);
        Ok(Space { free: total.saturating_sub(state.used() as u64), total })
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        if let Ok(mut state) = self.disk.state() {
            state.locks.remove(&self.path);
        }
    }
}

struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    index: usize,
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut state = self.disk.state()?;
        let at = usize::try_from(at).unwrap();
        state.bytes_read += buf.len();
        let bytes = state.files[self.index].live.get(at..).unwrap_or_default();
        let len = bytes.len().min(buf.len());
        buf[..len].copy_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        let (mut state, crash) = self.disk.begin(Op::Write, &self.path)?;
        let at = usize::try_from(at).unwrap();
        let room = state.room();
        let file = &mut state.files[self.index];
        let grow = (at + buf.len()).saturating_sub(file.live.len());
        let fits = buf.len() - grow.saturating_sub(room).min(buf.len());
        file.change(|live| {
            live.resize(live.len().max(at + fits), 0);
            live[at..at + fits].copy_from_slice(&buf[..fits]);
        });
        end(crash)?;
        if fits < buf.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn allocate(&self, len: u64) -> io::Result<bool> {
        let (mut state, crash) = self.disk.begin(Op::Allocate, &self.path)?;
        let len = usize::try_from(len).unwrap();
        let room = state.room();
        if state.no_allocate {
            return Ok(false);
        }
        let file = &mut state.files[self.index];
        if len.saturating_sub(file.live.len()) > room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.change(|live| live.resize(live.len().max(len), 0));
        end(crash)?;
        Ok(true)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, crash) = self.disk.begin(Op::SetLen, &self.path)?;
        let len = usize::try_from(len).unwrap();
        state.files[self.index].change(|live| live.resize(len, 0));
        end(crash)
    }

    fn sync_data(&self) -> io::Result<()> {
        let begun = self.disk.begin(Op::SyncData, &self.path);
        let (mut state, crash) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                if let Ok(mut state) = self.disk.state() {
                    state.files[self.index].gated = true;
                }
                return Err(error);
            }
        };
        end(crash)?;
        let file = &mut state.files[self.index];
        if !file.gated {
            file.versions.clear();
            file.durable = file.live.clone();
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state()?.files[self.index].live.len() as u64)
    }
}
