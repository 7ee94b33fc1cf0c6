//! A disk in memory that crashes like a real one: for trials of the store, and tests.
//!
//! Owns: [`SimDisk`] and its faults; what it holds is in [`media`]. What was not synced may after a power cut be there or
//! not, independently for every 512-byte sector of a file (any of its versions since the last sync), for its length, and for
//! every entry of a folder. A failed sync leaves the pages marked clean, as Linux does: a second one answers `Ok` and
//! leaves them out, but for those that were written again. All of it is deterministic by seed.
//! Must not know: the store's formats.

mod media;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::disk::{Disk, DiskFile, Entry, LockGuard, Mode, Space};
use media::{Change, Media, SECTOR};
pub(crate) use media::{Replay, Trace};

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
    /// No change: only [`SimDisk::plan_all`] sees it.
    Open,
    /// No change: only [`SimDisk::plan_all`] sees it.
    Read,
}

impl Op {
    fn is_change(self) -> bool {
        !matches!(self, Self::Open | Self::Read)
    }
}

/// What a fault plan decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The operation fails with this error.
    Error(io::ErrorKind),
    /// The operation fails with this error of the operating system.
    Os(i32),
    /// The power goes during the operation: it may be done in part, everything after it fails.
    Crash,
}

/// Error numbers of Linux.
pub(crate) mod errno {
    pub(crate) const EIO: i32 = 5;
    pub(crate) const EMFILE: i32 = 24;
    pub(crate) const ENOSPC: i32 = 28;
    pub(crate) const EROFS: i32 = 30;
}

type Plan = Box<dyn FnMut(Op, &Path) -> Option<Fault> + Send>;

#[derive(Default)]
struct State {
    epoch: u64,
    crashed: bool,
    media: Media,
    recorded: Option<Trace>,
    locks: HashSet<PathBuf>,
    plan: Option<Plan>,
    /// Whether the plan sees what changes nothing, too.
    plan_sees_all: bool,
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
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// The next number, below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("below a usize")
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn gone() -> io::Error {
    io::Error::other("the power is off")
}

fn position(at: u64) -> usize {
    usize::try_from(at).expect("a simulated file fits the memory")
}

impl SimDisk {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self::of(Media::default())
    }

    fn of(media: Media) -> Self {
        let state = State { media, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), epoch: 0 }
    }

    /// Sets what goes wrong from now on with changes.
    pub(crate) fn plan(&self, plan: impl FnMut(Op, &Path) -> Option<Fault> + Send + 'static) {
        let mut state = self.raw();
        state.plan = Some(Box::new(plan));
        state.plan_sees_all = false;
    }

    /// Sets what goes wrong from now on, with opening and reading, too.
    pub(crate) fn plan_all(&self, plan: impl FnMut(Op, &Path) -> Option<Fault> + Send + 'static) {
        let mut state = self.raw();
        state.plan = Some(Box::new(plan));
        state.plan_sees_all = true;
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
    #[cfg(test)]
    pub(crate) fn bytes_read(&self) -> usize {
        self.raw().bytes_read
    }

    /// Bytes of all files that have a name.
    pub(crate) fn used(&self) -> usize {
        self.raw().media.used()
    }

    /// Records every change from now on.
    pub(crate) fn record(&self) {
        let mut state = self.raw();
        state.recorded = Some(Trace { base: state.media.clone(), changes: vec![] });
    }

    /// How many changes were recorded so far.
    pub(crate) fn recorded(&self) -> usize {
        self.raw().recorded.as_ref().map_or(0, Trace::len)
    }

    /// What was recorded; recording ends.
    pub(crate) fn take_trace(&self) -> Option<Trace> {
        self.raw().recorded.take()
    }

    /// The process was killed: what it wrote is in the page cache.
    pub(crate) fn kill(&self) -> Self {
        let mut state = self.raw();
        state.restart();
        Self { state: Arc::clone(&self.state), epoch: state.epoch }
    }

    /// The power went: what was not synced is a matter of luck.
    pub(crate) fn power_cut(&self, seed: u64) -> Self {
        let mut state = self.raw();
        state.media.lose_power(&mut Dice(seed));
        state.restart();
        Self { state: Arc::clone(&self.state), epoch: state.epoch }
    }

    /// Whether it is on.
    pub(crate) fn has_power(&self) -> bool {
        self.state().is_ok()
    }

    /// A disk of its own with the same content; no faults.
    pub(crate) fn fork(&self) -> Self {
        Self::of(self.raw().media.clone())
    }

    /// Names of the files in a folder.
    #[cfg(test)]
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let names = self.raw().media.list(Path::new(path)).unwrap_or_default();
        names.into_iter().map(|(name, _)| name).collect()
    }

    /// All folders, parents first, and all files with their bytes.
    pub(crate) fn tree(&self) -> (Vec<PathBuf>, Vec<(PathBuf, Vec<u8>)>) {
        let state = self.raw();
        let (dirs, files) = state.media.tree();
        (dirs, files.into_iter().map(|(path, bytes)| (path, bytes.to_vec())).collect())
    }

    /// Changes a file's bytes behind the store's back, durably; the file is there.
    pub(crate) fn damage(&self, path: impl AsRef<Path>, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.raw();
        let file = state.media.file(path.as_ref()).expect("what is damaged is there");
        let mut bytes = state.media.content(file).to_vec();
        damage(&mut bytes);
        state.media.set_content(file, bytes);
    }

    /// A fault plan that panics is a test's; what it holds is whole.
    fn raw(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.raw();
        if state.epoch != self.epoch || state.crashed { Err(gone()) } else { Ok(state) }
    }

    /// Asks the plan; `true`: go on, but the power goes with this operation.
    fn begin(&self, op: Op, path: &Path) -> io::Result<(MutexGuard<'_, State>, bool)> {
        let mut state = self.state()?;
        let asked = op.is_change() || state.plan_sees_all;
        match state.plan.as_mut().filter(|_| asked).and_then(|plan| plan(op, path)) {
            None => Ok((state, false)),
            Some(Fault::Error(kind)) => Err(kind.into()),
            Some(Fault::Os(number)) => Err(io::Error::from_raw_os_error(number)),
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

    fn change(&mut self, change: Change) -> io::Result<()> {
        self.media.apply(&change)?;
        if let Some(trace) = &mut self.recorded {
            trace.changes.push(change);
        }
        Ok(())
    }

    /// How many bytes the files may still grow.
    fn room(&self) -> usize {
        self.capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(self.media.used()))
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = {
            let state = self.state()?;
            path.ancestors().filter(|path| !state.media.has_dir(path)).collect()
        };
        for path in missing.into_iter().rev() {
            let (mut state, crash) = self.begin(Op::CreateDir, path)?;
            state.change(Change::MakeDir(path.to_path_buf()))?;
            end(crash)?;
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let (mut state, crash) = self.begin(Op::SyncDir, path)?;
        end(crash)?;
        state.change(Change::SyncDir(path.to_path_buf()))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let (state, crash) = self.begin(Op::Open, path)?;
        end(crash)?;
        let entries = state.media.list(path)?.into_iter();
        Ok(entries.map(|(name, is_dir)| Entry { name, is_dir }).collect())
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let op = if mode == Mode::CreateNew { Op::Create } else { Op::Open };
        let (mut state, crash) = self.begin(op, path)?;
        if mode == Mode::CreateNew {
            state.change(Change::Create(path.to_path_buf()))?;
        }
        end(crash)?;
        let file = state.media.file(path)?;
        Ok(Arc::new(SimFile { disk: self.clone(), path: path.to_path_buf(), file }))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.state()?.media.file(path)?;
        let (mut state, crash) = self.begin(Op::Remove, path)?;
        state.change(Change::Remove(path.to_path_buf()))?;
        end(crash)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let (mut state, crash) = self.begin(Op::Remove, path)?;
        state.change(Change::RemoveDir(path.to_path_buf()))?;
        end(crash)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, crash) = self.begin(Op::Rename, from)?;
        state.change(Change::Rename(from.to_path_buf(), to.to_path_buf()))?;
        end(crash)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        let (mut state, crash) = self.begin(Op::Open, path)?;
        end(crash)?;
        let free = state.locks.insert(path.to_path_buf());
        let guard = || SimLock { disk: self.clone(), path: path.to_path_buf() };
        Ok(free.then(|| Box::new(guard()) as Box<dyn LockGuard>))
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let state = self.state()?;
        let total = state.capacity.map_or(u64::MAX, |capacity| capacity as u64);
        Ok(Space { free: total.saturating_sub(state.media.used() as u64), total })
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
    file: usize,
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let (mut state, crash) = self.disk.begin(Op::Read, &self.path)?;
        end(crash)?;
        state.bytes_read += buf.len();
        let bytes = state.media.content(self.file).get(position(at)..).unwrap_or_default();
        let len = bytes.len().min(buf.len());
        buf[..len].copy_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        let (mut state, crash) = self.disk.begin(Op::Write, &self.path)?;
        let (file, at) = (self.file, position(at));
        let (len, end_at) = (state.media.content(file).len(), at + buf.len());
        // A full volume takes what is there already, and whole sectors of the rest.
        let reach = if end_at > len { len.saturating_add(state.room()) } else { end_at };
        let fits = match reach < end_at {
            true => (reach / SECTOR * SECTOR).max(len.min(reach)).saturating_sub(at),
            false => buf.len(),
        };
        let bytes = Bytes::copy_from_slice(&buf[..fits]);
        state.change(Change::Write { file, at, bytes })?;
        end(crash)?;
        if fits < buf.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn allocate(&self, len: u64) -> io::Result<bool> {
        let (mut state, crash) = self.disk.begin(Op::Allocate, &self.path)?;
        let (file, len) = (self.file, position(len));
        if state.no_allocate {
            return end(crash).map(|()| false);
        }
        if len.saturating_sub(state.media.content(file).len()) > state.room() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.change(Change::Grow { file, len })?;
        end(crash)?;
        Ok(true)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, crash) = self.disk.begin(Op::SetLen, &self.path)?;
        state.change(Change::SetLen { file: self.file, len: position(len) })?;
        end(crash)
    }

    fn sync_data(&self) -> io::Result<()> {
        let begun = self.disk.begin(Op::SyncData, &self.path);
        let (mut state, crash) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                if let Ok(mut state) = self.disk.state() {
                    state.change(Change::FailedSync(self.file))?;
                }
                return Err(error);
            }
        };
        end(crash)?;
        state.change(Change::Sync(self.file))
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state()?.media.content(self.file).len() as u64)
    }
}
