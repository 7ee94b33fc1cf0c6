//! The real disk with a sync of one's own: slower, or held back.
//!
//! Owns: [`SyncedBy`]. Must not know: what the sync is for.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use sphere_gateway::store::disk::{DiskFile, Entry, LockGuard, Mode};
use sphere_gateway::store::{Disk, RealDisk, Space};

/// What happens in place of a sync.
pub trait SyncBy: Send + Sync {
    /// Of a file's data.
    fn data(&self, file: &dyn DiskFile) -> io::Result<()>;

    /// Of a folder.
    fn dir(&self, path: &Path) -> io::Result<()>;
}

/// [`RealDisk`], but for its syncs.
pub struct SyncedBy<S>(pub Arc<S>);

struct File<S> {
    file: Arc<dyn DiskFile>,
    sync: Arc<S>,
}

impl<S> fmt::Debug for SyncedBy<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SyncedBy")
    }
}

impl<S: SyncBy + 'static> Disk for SyncedBy<S> {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        RealDisk.list(path)
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File { file: RealDisk.open(path, mode)?, sync: Arc::clone(&self.0) }))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        RealDisk.lock(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        RealDisk.space(path)
    }
}

impl<S: SyncBy> DiskFile for File<S> {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buf, at)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.file.write_at(buf, at)
    }

    fn allocate(&self, len: u64) -> io::Result<bool> {
        self.file.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync.data(&*self.file)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}
