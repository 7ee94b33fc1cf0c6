//! What a start found, for counters and logs.
//!
//! Owns: [`RecoveryReport`], [`LostRange`]. Must not know: how it was found.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::id::{Offset, QueueId};

/// A start tells so many ranges of lost records, at most.
pub const LOST_RANGES_MAX: usize = 1024;

/// Records that had been durable, were not settled, and are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRange {
    /// From where.
    pub queue: QueueId,
    /// Which places.
    pub offsets: Range<Offset>,
}

/// What a start found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecoveryReport {
    /// Queues.
    pub queues: usize,
    /// Folders of queues of which every name file is damaged: left alone until the queue is asked for by its name.
    pub nameless: u64,
    /// Records that are not settled.
    pub records: u64,
    /// Bytes that were no record, cut off or left out.
    pub torn_bytes: u64,
    /// Records that a crash tore before they were acknowledged (a torn tail counts as one).
    pub torn_records: u64,
    /// Records that had been durable and are gone: damage, not a crash.
    pub proven_lost: u64,
    /// Where they were: the first [`LOST_RANGES_MAX`] ranges, in order within a queue. All of them are told of as
    /// [`super::Removed`], too.
    pub lost: Vec<LostRange>,
    /// Checkpoints of which no slot was whole: what is still there is delivered again.
    pub checkpoints_lost: u64,
    /// Whether the file of the store's clock was damaged: messages may be younger than they are.
    pub clock_lost: bool,
    /// Damaged segments, or copies of them.
    pub quarantined: Vec<PathBuf>,
    /// How long it took.
    pub took: Duration,
}

impl RecoveryReport {
    /// The places of a queue in [`RecoveryReport::lost`].
    pub(crate) fn lost_of(&self, queue: &QueueId) -> impl Iterator<Item = u64> {
        let of_queue = self.lost.iter().filter(move |lost| lost.queue == *queue);
        of_queue.flat_map(|lost| lost.offsets.start.0..lost.offsets.end.0)
    }
}
