//! The real disk, but a sync of a file returns only when it is let through.
//!
//! So the batches are the same each time, and as under load: while one is on its way to the disk the next one gathers.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use sphere_gateway::store::disk::{DiskFile, Entry, LockGuard, Mode};
use sphere_gateway::store::{Disk, RealDisk, Space};

/// How many syncs may pass; `None`: any number.
#[derive(Default)]
pub(super) struct Gate {
    passes: Mutex<Option<usize>>,
    changed: Condvar,
    arrived: Mutex<usize>,
    waits: Condvar,
}

impl Gate {
    /// No sync passes from now on.
    pub(super) fn shut(&self) {
        *self.passes.lock().unwrap_or_else(PoisonError::into_inner) = Some(0);
    }

    /// Lets one through.
    pub(super) fn pass(&self) {
        if let Some(passes) = &mut *self.passes.lock().unwrap_or_else(PoisonError::into_inner) {
            *passes += 1;
        }
        self.changed.notify_one();
    }

    /// Lets all through.
    pub(super) fn open(&self) {
        *self.passes.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.changed.notify_all();
    }

    /// Returns when the `n`th sync since the gate was made is here.
    pub(super) fn wait_for(&self, n: usize) {
        let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.waits.wait_while(arrived, |arrived| *arrived < n));
    }

    /// How many syncs have come.
    pub(super) fn arrived(&self) -> usize {
        *self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn go_through(&self) {
        *self.arrived.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.waits.notify_one();
        let passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        let shut = |passes: &mut Option<usize>| *passes == Some(0);
        let passes = self.changed.wait_while(passes, shut);
        if let Some(passes) = &mut *passes.unwrap_or_else(PoisonError::into_inner) {
            *passes -= 1;
        }
    }
}

/// [`RealDisk`] behind a gate.
pub(super) struct GatedDisk(pub(super) Arc<Gate>);

struct GatedFile {
    file: Arc<dyn DiskFile>,
    gate: Arc<Gate>,
}

impl Disk for GatedDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        RealDisk.list(path)
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(GatedFile { file: RealDisk.open(path, mode)?, gate: Arc::clone(&self.0) }))
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

impl DiskFile for GatedFile {
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

    /// What the disk itself takes is no instruction of ours, so it is not asked.
    fn sync_data(&self) -> io::Result<()> {
        self.gate.go_through();
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}
