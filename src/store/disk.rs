//! The seam between the store and the file system.
//!
//! Owns: the traits [`Disk`] and [`DiskFile`], and [`RealDisk`], the only code of the store that makes system calls.
//! Invariants: nothing is durable before `sync_data` (a file's bytes and length) or `sync_dir` (a folder's entries)
//! returned `Ok`; a caller never repeats a failed sync, because the kernel may have dropped the dirty pages and
//! would answer `Ok` without having written them. Files are made with mode 0600, folders with 0700.
//! Must not know: records, segments, queues.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    Write,
    /// A file that must not exist yet, to read and write.
    CreateNew,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the folder. Names that are not UTF-8 are not ours and are not listed.
    pub name: String,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// How much there is on a volume, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// To be had by this process.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// Keeps a lock file locked until dropped.
pub trait LockGuard: Send {}

/// A file system, as far as the store needs one.
pub trait Disk: Send + Sync + 'static {
    /// Makes a folder and its missing parents. An existing folder is fine.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The entries of a folder, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// Opens or makes a file.
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>>;
    /// Removes a file's entry.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Renames a file; an existing target is replaced atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Locks a file (made if missing) against other processes; `None` if somebody else holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>>;
    /// Room on the volume that holds a folder. Quotas may not show in it.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// An open file. All positions and lengths are in bytes.
pub trait DiskFile: Send + Sync {
    /// Reads at `at`; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of `buf` at `at`. After an error any part of it may have been written.
    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<()>;
    /// Reserves the first `len` bytes, growing the file (the new bytes read as zero). `Ok(false)`: this file system
    /// cannot, and the file is as it was.
    fn allocate(&self, len: u64) -> io::Result<bool>;
    /// Cuts or grows the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes bytes and length durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
    /// The file's length.
    fn size(&self) -> io::Result<u64>;
}

/// Whether an error says that the volume or quota is full: the one kind of write error that leaves the store usable.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether an error of a read is the medium's, and not for want of a handle, a file or a permission: those go away, or
/// are a person's to put right.
pub(super) fn is_medium(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, NotFound, OutOfMemory, PermissionDenied, WouldBlock};
    let passes =
        [Interrupted, NotFound, OutOfMemory, PermissionDenied, WouldBlock].contains(&error.kind());
    !passes && !is_no_handle(error)
}

/// Whether an error says that no handle was to be had: nothing was begun, also where the call was to write to a file that
/// is opened for it, or to sync a folder. Trying again later is safe.
pub(super) fn is_no_handle(error: &io::Error) -> bool {
    let no_handle = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| no_handle.contains(&code))
}

/// Reads, and asks once more for what the medium refuses: it may give it back then.
pub(super) fn read_patiently(file: &dyn DiskFile, buf: &mut [u8], at: u64) -> io::Result<usize> {
    match file.read_at(buf, at) {
        Err(error) if is_medium(&error) => file.read_at(buf, at),
        read => read,
    }
}

/// Reads a whole file.
pub(super) fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Why [`write_atomically`] did not end well.
#[derive(Debug)]
pub(super) enum Unwritten {
    /// The old file is in its place. It may be tried again: that makes a new temporary file.
    Before(io::Error),
    /// The new file is in its place; the sync of the folder failed, so it is not known what a power cut leaves.
    Sync(io::Error),
}

impl From<Unwritten> for io::Error {
    fn from(unwritten: Unwritten) -> Self {
        match unwritten {
            Unwritten::Before(error) | Unwritten::Sync(error) => error,
        }
    }
}

/// Replaces `path` by `bytes` so that after a crash either the old or the new file is there, whole.
pub(super) fn write_atomically(
    disk: &dyn Disk,
    path: &Path,
    bytes: &[u8],
) -> Result<(), Unwritten> {
    let folder = path.parent().expect("a file has a folder");
    replace(disk, path, bytes).map_err(Unwritten::Before)?;
    disk.sync_dir(folder).map_err(|error| match is_no_handle(&error) {
        // It did not get as far as the sync.
        true => Unwritten::Before(error),
        false => Unwritten::Sync(error),
    })
}

fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = path.with_extension("tmp");
    let _ = disk.remove_file(&tmp);
    let file = disk.open(&tmp, Mode::CreateNew)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    disk.rename(&tmp, path)
}

/// An attribute that no file of ours ever has.
const PROBE: &str = "user.sphere-gateway.probe";

/// Whether the file system is still sound after a sync that answered `Ok`. Where ext4's journal dies while the bytes are on
/// their way they stay in extents that are marked as unwritten, and the sync says nothing of it. (The file system calls itself
/// read-only only some milliseconds later.) To remove what is not there begins a transaction, which a dead journal refuses,
/// and changes nothing.
fn has_held(file: &File) -> io::Result<()> {
    match rustix::fs::fremovexattr(file, PROBE) {
        Err(error @ (Errno::ROFS | Errno::IO)) => Err(error.into()),
        _ => Ok(()),
    }
}

/// The operating system's file system.
#[derive(Debug, Default, Clone, Copy)]
pub struct RealDisk;

struct RealLock(#[allow(dead_code, reason = "held for its lock")] File);

impl LockGuard for RealLock {}

impl Disk for RealDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let folder = OpenOptions::new().read(true).open(path)?;
        folder.sync_all()?;
        has_held(&folder)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(Entry { name, is_dir: entry.file_type()?.is_dir() });
            }
        }
        Ok(entries)
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != Mode::Read).create_new(mode == Mode::CreateNew);
        Ok(Arc::new(options.mode(0o600).open(path)?))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Box::new(RealLock(file)))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let volume = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(volume.f_frsize);
        Ok(Space { free: bytes(volume.f_bavail), total: bytes(volume.f_blocks) })
    }
}

impl DiskFile for File {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match FileExt::read_at(self, &mut buf[done..], at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(buf, at)
    }

    fn allocate(&self, len: u64) -> io::Result<bool> {
        loop {
            match rustix::fs::fallocate(self, FallocateFlags::empty(), 0, len) {
                Ok(()) => return Ok(true),
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)?;
        has_held(self)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}
