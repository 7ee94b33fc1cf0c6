//! A longer fdatasync: how the store does on a medium slower than this machine's.

use std::io;
use std::path::Path;
use std::time::Duration;

use bench_common::disk::SyncBy;
use sphere_gateway::store::disk::DiskFile;
use sphere_gateway::store::{Disk as _, RealDisk};

/// Each sync takes `.0` longer.
pub(crate) struct Slower(pub(crate) Duration);

impl SyncBy for Slower {
    fn data(&self, file: &dyn DiskFile) -> io::Result<()> {
        std::thread::sleep(self.0);
        file.sync_data()
    }

    fn dir(&self, path: &Path) -> io::Result<()> {
        std::thread::sleep(self.0);
        RealDisk.sync_dir(path)
    }
}
