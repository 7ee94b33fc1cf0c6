//! Counters of the store. Owns: [`StoreStats`] and the atomics behind it. Must not know: where they are shown.

use std::sync::atomic::{AtomicU64, Ordering};

/// Plain numbers since start, but for `segments`, `disk_bytes`, `held_appends` and `quarantine_bytes`, which are levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// Records made durable (one message in two queues counts twice).
    pub appended_records: u64,
    /// Their payload bytes.
    pub appended_bytes: u64,
    /// Batches made durable.
    pub commits: u64,
    /// Calls of fdatasync and of fsync on folders.
    pub syncs: u64,
    /// Bytes handed to the file system: records, headers, seals, checkpoints.
    pub written_bytes: u64,
    /// How long the last commit's syncs took, in microseconds.
    pub last_sync_micros: u64,
    /// Segment files.
    pub segments: u64,
    /// Bytes of all files: segments with preallocated space, checkpoints, `quarantine/`.
    pub disk_bytes: u64,
    /// Batches of which something was refused for want of room.
    pub refused_commits: u64,
    /// Records found damaged when they were read back.
    pub lost_records: u64,
    /// Records removed because their time to live was over, whole segments at a time.
    pub expired_records: u64,
    /// Records removed to make room: by [`super::WhenFull::DropOldest`], and by each [`super::Ring`].
    pub dropped_records: u64,
    /// What the file system writes for it, about: each commit's bytes rounded out to blocks of 4 KiB.
    pub written_block_bytes: u64,
    /// Appends that wait for room now.
    pub held_appends: u64,
    /// Bytes of `quarantine/`.
    pub quarantine_bytes: u64,
}

macro_rules! counters {
    ($($name:ident),*) => {
        #[derive(Debug, Default)]
        pub(super) struct Counters { $(pub(super) $name: AtomicU64),* }

        impl Counters {
            pub(super) fn snapshot(&self) -> StoreStats {
                StoreStats { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counters!(
    appended_records,
    appended_bytes,
    commits,
    syncs,
    written_bytes,
    last_sync_micros,
    segments,
    disk_bytes,
    refused_commits,
    lost_records,
    expired_records,
    dropped_records,
    written_block_bytes,
    held_appends,
    quarantine_bytes
);

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// The unit in which file systems write.
pub(super) const BLOCK_BYTES: u64 = 4096;

/// Bytes of the blocks that the bytes `from..to` of a file touch.
pub(super) fn blocks(from: u64, to: u64) -> u64 {
    to.next_multiple_of(BLOCK_BYTES) - from / BLOCK_BYTES * BLOCK_BYTES
}
