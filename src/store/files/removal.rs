//! Taking the oldest segment of a queue away to make room.
//!
//! Owns: the count of what goes with it. Invariant: to its readers it is as if the records had been settled, and on disk
//! too: the settled place is durable before the file is unlinked, so a crash brings back all of them or none.
//! Must not know: why it is this queue's turn.

use std::io;
use std::time::Instant;

use super::super::disk::{Mode, read_all};
use super::super::engine::{Failure, Tools};
use super::super::id::Offset;
use super::super::index::SegmentMeta;
use super::super::removed::{Removed, RemovedWhy};
use super::super::segment::{self, Scan};
use super::super::stats::add;
use super::{QueueFiles, first_allocation};

impl QueueFiles {
    /// When the first record that it holds was stored, by the store's clock; `None`: it holds none.
    pub(in crate::store) fn front_stored(&mut self, tools: &Tools) -> Option<u64> {
        let SegmentMeta { key, records, .. } = *self.shared.index().segments.front()?;
        match self.front_stored {
            // A tombstone: it costs nobody a record.
            _ if records == 0 => Some(0),
            Some((known, stored)) if known == key => Some(stored),
            _ => {
                let path = self.shared.folder.join(key.file_name());
                // What cannot be read is the first to go.
                let file = tools.disk_of(&self.shared.id).open(&path, Mode::Read);
                let stored = file.and_then(|file| segment::first_stored(&*file)).unwrap_or(0);
                self.front_stored = Some((key, stored));
                Some(stored)
            }
        }
    }

    /// Bytes of the segments with records.
    pub(in crate::store) fn droppable_bytes(&self) -> u64 {
        if self.shared.index().segments.is_empty() { 0 } else { self.disk_usage().1 }
    }

    /// Takes the oldest segment away to make room, as if its records had been settled, and tells of those that were not.
    pub(in crate::store) fn drop_front(
        &mut self,
        tools: &Tools,
        now: Instant,
        why: RemovedWhy,
    ) -> Result<u64, Failure> {
        // One that is gone already but not unlinked comes first: else each try would cost another one, and make no room.
        if self.has_dead() || !self.garbage.is_empty() {
            self.sync_checkpoint(tools, now)?;
            self.unlink_dead(tools)?;
            self.is_unlinked()?;
        }
        let Some(front) = self.shared.index().segments.front().copied() else {
            return Ok(0);
        };
        if self.active.as_ref().is_some_and(|active| active.meta.key == front.key) {
            self.seal_active(tools)?;
            self.allocation = first_allocation(&self.shared.id);
        }
        let (settled, from) = self.shared.take_away(front.next);
        let records = self.unsettled_in(tools, &front, settled);
        let with_reader = records - self.unsettled_in(tools, &front, from).min(records);
        if records > 0 {
            add(&tools.counters.dropped_records, records);
            let payload_bytes = front.payload_bytes * records / front.records.max(1);
            let offsets = front.key.first.max(settled)..front.next;
            let queue = self.shared.id.clone();
            tools.teller.tell(Removed { queue, offsets, records, with_reader, payload_bytes, why });
        }
        self.settle(tools, now)?;
        self.sync_checkpoint(tools, now)?;
        self.unlink_dead(tools)?;
        self.is_unlinked()?;
        match self.shared.index().segments.front() {
            Some(still) if still.key == front.key => Err(cannot_remove()),
            _ => Ok(records),
        }
    }

    fn is_unlinked(&self) -> Result<(), Failure> {
        let stays = self.has_dead() || !self.garbage.is_empty();
        if stays { Err(cannot_remove()) } else { Ok(()) }
    }

    /// How many records of a segment lie at or above the settled place.
    fn unsettled_in(&self, tools: &Tools, segment: &SegmentMeta, settled: Offset) -> u64 {
        let (first, next) = (segment.key.first, segment.next);
        let left = next.0.saturating_sub(settled.0.max(first.0));
        if settled <= first || segment.records == next.0 - first.0 {
            return left.min(segment.records);
        }
        // Recovery left gaps in it: only its bytes tell where.
        let file = tools.disk_of(&self.shared.id).open(&self.path_of(segment), Mode::Read);
        let Ok(bytes) = file.and_then(|file| read_all(&*file)) else {
            return left.min(segment.records);
        };
        Scan::of(&bytes, segment.key, settled.0..next.0).records.len() as u64
    }
}

fn cannot_remove() -> Failure {
    Failure::Refused(io::Error::other("a dropped segment could not be removed"))
}
