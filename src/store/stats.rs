//! Counters of the store. Owns: [`StoreStats`] and the atomics behind it. Must not know: where they are shown.

use std::sync::atomic::{AtomicU64, Ordering};

/// Plain numbers since start, but for `segments` and `disk_bytes`, which are levels.
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
    /// Their size, preallocated space included.
    pub disk_bytes: u64,
    /// Batches refused because the volume was full.
    pub refused_commits: u64,
    /// Records found damaged when they were read back.
    pub lost_records: u64,
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
    lost_records
);

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
