//! What is known of a queue's segments without reading them.
//!
//! Owns: [`SegmentMeta`] and [`Index`]. Changed by the writer only, always to a state that is durable (but for the mark of
//! damage, which readers set). Must not know: files.

use std::collections::VecDeque;

use super::age::ExpiresBy;
use super::id::Offset;
use super::segment::{self, Key};

/// What is known of a segment that holds durable records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentMeta {
    pub(super) key: Key,
    /// The lowest offset that is not this segment's.
    pub(super) next: Offset,
    pub(super) records: u64,
    pub(super) payload_bytes: u64,
    /// Where its records end.
    pub(super) data_end: u64,
    /// When all of them have expired.
    pub(super) expires_by: ExpiresBy,
    /// The format of the segment.
    pub(super) version: u16,
    /// Readers have found damage in it: it is kept aside when it goes.
    pub(super) damaged: bool,
}

impl SegmentMeta {
    /// A new one, without records.
    pub(super) fn empty(key: Key) -> Self {
        Self {
            key,
            next: key.first,
            records: 0,
            payload_bytes: 0,
            data_end: segment::HEADER_BYTES,
            expires_by: ExpiresBy::NEVER,
            version: segment::FORMAT_VERSION,
            damaged: false,
        }
    }

    /// Notes records that were added, which have all expired by `expires_by`.
    pub(super) fn note_expiry(&mut self, expires_by: ExpiresBy) {
        let is_first = self.records == 0;
        self.expires_by = if is_first { expires_by } else { self.expires_by.with(expires_by) };
    }
}

/// The durable content of a queue.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// By offset, without overlap.
    pub(super) segments: VecDeque<SegmentMeta>,
    /// Everything below is settled.
    pub(super) settled: Offset,
}

impl Index {
    pub(super) fn find(&self, from: Offset) -> Option<SegmentMeta> {
        let at = self.segments.partition_point(|segment| segment.next <= from);
        self.segments.get(at).copied()
    }

    /// Whether a segment is not what it was when it was looked up: gone, or emptied.
    pub(super) fn is_stale(&self, meta: &SegmentMeta) -> bool {
        let at = self.segments.partition_point(|segment| segment.key < meta.key);
        self.segments.get(at).is_none_or(|segment| segment.key != meta.key)
    }

    pub(super) fn mark_damaged(&mut self, key: Key) {
        let at = self.segments.partition_point(|segment| segment.key < key);
        if let Some(segment) = self.segments.get_mut(at).filter(|segment| segment.key == key) {
            segment.damaged = true;
        }
    }

    /// Records and payload bytes that are not settled. Exact, but for bytes in the one segment that is settled in part:
    /// there they are taken as spread evenly, which keeps this independent of the number of messages.
    pub(super) fn pending(&self) -> (u64, u64) {
        let (mut records, mut bytes) = (0, 0);
        for segment in self.segments.iter().rev() {
            if segment.next <= self.settled {
                break;
            }
            let (more, more_bytes) = pending_of(segment, self.settled);
            records += more;
            bytes += more_bytes;
        }
        (records, bytes)
    }
}

/// What of a segment is not settled: records and payload bytes.
pub(super) fn pending_of(segment: &SegmentMeta, settled: Offset) -> (u64, u64) {
    let settled = settled.0.saturating_sub(segment.key.first.0).min(segment.records);
    let left = segment.records - settled;
    (left, share(segment.payload_bytes, left, segment.records))
}

/// `bytes * part / whole`.
fn share(bytes: u64, part: u64, whole: u64) -> u64 {
    let product = u128::from(bytes) * u128::from(part);
    u64::try_from(product / u128::from(whole.max(1))).expect("part <= whole")
}
