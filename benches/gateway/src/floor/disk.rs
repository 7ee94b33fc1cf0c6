//! Bare write and fdatasync.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use rustix::fs::{FallocateFlags, fallocate};

const FILE: &str = "floor.fdatasync";

/// write + fdatasync of `bytes`, one after the other on a reserved file in `folder`, for `count` times; seconds of each.
///
/// The file is reserved by `fallocate`, as the gateway's segments are: an append changes no size, only data (and the
/// extent's state, which ext4 journals).
pub(crate) fn fdatasync(folder: &Path, bytes: usize, count: usize) -> anyhow::Result<Vec<f64>> {
    let path = folder.join(FILE);
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
    let file = file.with_context(|| format!("cannot make {}", path.display()))?;
    let room = bytes.checked_mul(count).context("more bytes than there are")? as u64;
    fallocate(&file, FallocateFlags::empty(), 0, room.max(1))
        .with_context(|| format!("cannot reserve {room} bytes in {}", folder.display()))?;
    file.sync_all()?;
    let block = vec![b'.'; bytes];
    let mut seconds = Vec::with_capacity(count);
    for place in 0..count {
        let started = Instant::now();
        file.write_all_at(&block, (place * bytes) as u64)?;
        file.sync_data()?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    drop(file);
    std::fs::remove_file(&path)?;
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_sync_is_timed_and_the_file_is_gone_afterwards() {
        let folder = tempfile::tempdir().expect("a folder");
        let seconds = super::fdatasync(folder.path(), 4096, 5).expect("a disk");
        assert_eq!(seconds.len(), 5);
        assert!(seconds.iter().all(|&s| s > 0.0));
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 0);
    }
}
