//! Files that hold a handle only while something of theirs is not synced: side queues are many and mostly idle.
//!
//! Owns: [`Thrifty`], a [`Disk`] whose files are opened for each operation. Invariant: between a change and the sync that
//! makes it durable the handle is kept, because a failed write-back is told to the handles that were open then; a file
//! opened later might hear `Ok`. So it costs handles for one commit, or until the checkpoint is synced: a second.
//! Must not know: which files are worth it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile, Entry, LockGuard, Mode, Space};

/// A disk that is thrifty with handles.
pub(super) struct Thrifty(pub(super) Arc<dyn Disk>);

struct ThriftyFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Open while a change is not synced.
    held: Mutex<Option<Arc<dyn DiskFile>>>,
}

impl Disk for Thrifty {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.0.list(path)
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.0.open(path, mode)?;
        // A new file is a change.
        let held = Mutex::new((mode == Mode::CreateNew).then_some(file));
        Ok(Arc::new(ThriftyFile { disk: Arc::clone(&self.0), path: path.to_path_buf(), held }))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.0.lock(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.0.space(path)
    }
}

impl ThriftyFile {
    fn held(&self) -> MutexGuard<'_, Option<Arc<dyn DiskFile>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To read: the held handle, or one for this operation.
    fn borrow(&self) -> io::Result<Arc<dyn DiskFile>> {
        match &*self.held() {
            Some(file) => Ok(Arc::clone(file)),
            None => self.disk.open(&self.path, Mode::Read),
        }
    }

    /// To change: a handle that is held until the sync.
    fn hold(&self) -> io::Result<Arc<dyn DiskFile>> {
        let mut held = self.held();
        if held.is_none() {
            *held = Some(self.disk.open(&self.path, Mode::Write)?);
        }
        Ok(Arc::clone(held.as_ref().expect("just put there")))
    }
}

impl DiskFile for ThriftyFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.borrow()?.read_at(buf, at)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.hold()?.write_at(buf, at)
    }

    fn allocate(&self, len: u64) -> io::Result<bool> {
        self.hold()?.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.hold()?.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.hold()?.sync_data()?;
        *self.held() = None;
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.borrow()?.size()
    }
}
