//! The real disk, but a sync of a file returns only when it is let through.
//!
//! So the batches are the same each time, and as under load: while one is on its way to the disk the next one gathers.

use std::io;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};

use bench_common::disk::SyncBy;
use sphere_gateway::store::disk::DiskFile;

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

/// What the disk itself takes is no instruction of ours, so it is not asked.
impl SyncBy for Gate {
    fn data(&self, _: &dyn DiskFile) -> io::Result<()> {
        self.go_through();
        Ok(())
    }

    fn dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}
