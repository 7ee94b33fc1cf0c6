//! Segments whose records have all expired are freed without being read.
//!
//! Owns: when to look ([`Expiry`]), and how a queue lets go of such segments. At the front the settled place moves past
//! them, as if they were settled. Behind one that stays, a tombstone takes their place: a sealed segment without records
//! that spans their offsets, durable *before* they are unlinked. Recovery takes its word: what lies in its span had
//! expired. So no crash makes an unexpired record vanish, or an expired one count as lost.
//! Must not know: records.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::active::seal_of;
use super::age::{ClockFile, StoreMillis};
use super::disk::{Unwritten, is_full, is_medium, write_atomically};
use super::engine::{Failure, Tools};
use super::files::{QueueFiles, first_allocation};
use super::id::{Offset, QueueId};
use super::index::{Index, SegmentMeta, pending_of};
use super::removed::{Removed, RemovedWhy};
use super::segment::{Header, Key};
use super::stats::add;

/// Readers have finished what they hold of a segment so long after its last record expired.
const GRACE: Duration = Duration::from_secs(5);
/// It is not looked more often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Nothing grows old.
const NEVER: StoreMillis = StoreMillis(u64::MAX);

/// When something may have to go, or the clock has to be saved.
pub(super) struct Expiry {
    clock_file: ClockFile,
    due: StoreMillis,
}

impl Expiry {
    /// Looks at the first tick.
    pub(super) fn new(clock_file: ClockFile) -> Self {
        Self { clock_file, due: StoreMillis(0) }
    }

    /// How long [`Expiry::tick`] has nothing to do.
    pub(super) fn rest(&self, tools: &Tools) -> Duration {
        tools.age.until(self.due)
    }

    /// Something was appended that grows old.
    pub(super) fn hasten(&mut self, tools: &Tools) {
        self.due = self.due.min(plus(tools.age.now(), LOOK_EVERY));
    }

    /// Frees what has expired; says whether something was.
    pub(super) fn tick(
        &mut self,
        tools: &Tools,
        queues: &mut BTreeMap<QueueId, QueueFiles>,
        now: Instant,
    ) -> Result<bool, Failure> {
        let age = tools.age.now();
        if age < self.due {
            return Ok(false);
        }
        let mut freed = false;
        let (mut next, mut refused) = (NEVER, None);
        // Also if the disk refuses: it is not asked again at once.
        self.due = plus(age, LOOK_EVERY);
        for queue in queues.values_mut() {
            match Failure::refusal(queue.expire(tools, now, age))? {
                Ok(more) => freed |= more,
                // The others are not held up by it.
                Err(error) => refused = refused.or(Some(error)),
            }
            for meta in &queue.shared.index().segments {
                if meta.expires_by.ages() {
                    next = next.min(self.clock_file.due());
                }
                next = next.min(meta.expires_by.end().map_or(NEVER, |end| plus(end, GRACE)));
            }
        }
        if next <= age && self.clock_file.due() <= age {
            self.clock_file.save(tools, age)?;
        }
        self.due = next.max(self.due);
        refused.map_or(Ok(freed), |error| Err(Failure::Refused(error)))
    }

    /// Saves the clock for good.
    pub(super) fn close(&mut self, tools: &Tools) -> Result<(), Failure> {
        self.clock_file.save(tools, tools.age.now())
    }
}

fn plus(time: StoreMillis, more: Duration) -> StoreMillis {
    StoreMillis(time.0.saturating_add(u64::try_from(more.as_millis()).unwrap_or(u64::MAX)))
}

fn is_over(meta: &SegmentMeta, age: StoreMillis) -> bool {
    meta.expires_by.end().is_some_and(|end| plus(end, GRACE) <= age)
}

/// Segments that follow each other, all expired.
struct Run {
    /// Where it begins in the index.
    at: usize,
    segments: Vec<SegmentMeta>,
    end: Offset,
}

/// The first run of expired segments.
fn find_run(index: &Index, age: StoreMillis) -> Option<Run> {
    let at = index.segments.iter().position(|meta| is_over(meta, age))?;
    let run = index.segments.iter().skip(at).take_while(|meta| is_over(meta, age));
    let segments: Vec<SegmentMeta> = run.copied().collect();
    let end = segments.last().expect("there is one").next;
    Some(Run { at, segments, end })
}

impl QueueFiles {
    /// Frees segments whose records have all expired; says whether there were any.
    fn expire(&mut self, tools: &Tools, now: Instant, age: StoreMillis) -> Result<bool, Failure> {
        if find_run(&self.shared.index(), age).is_none() {
            return Ok(false);
        }
        // What readers have asked to settle meanwhile is theirs to count.
        let mut freed = self.settle(tools, now)?;
        loop {
            // In a statement of its own: the index is not held while the disk works.
            let run = find_run(&self.shared.index(), age);
            let Some(run) = run else {
                return Ok(freed);
            };
            let gone = match run.at {
                0 => self.expire_front(tools, now, &run)?,
                at => self.expire_behind(tools, at, &run)?,
            };
            if !gone {
                // The disk has refused: later.
                return Ok(freed);
            }
            freed = true;
            self.sync_checkpoint(tools, now)?;
            self.unlink_dead(tools)?;
        }
    }

    /// Counts and tells, at once and whatever the disk says to the rest, what of a run lies at or above `from`.
    fn note_expired(&self, tools: &Tools, run: &Run, from: Offset) {
        let pending = run.segments.iter().map(|meta| pending_of(meta, from));
        let (records, payload_bytes) =
            pending.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        if records > 0 {
            add(&tools.counters.expired_records, records);
            let offsets = run.segments[0].key.first.max(from)..run.end;
            let (queue, why) = (self.shared.id.clone(), RemovedWhy::Expired);
            tools.teller.tell(Removed {
                queue,
                offsets,
                records,
                with_reader: 0,
                payload_bytes,
                why,
            });
        }
    }

    /// As if its readers had settled them.
    fn expire_front(&mut self, tools: &Tools, now: Instant, run: &Run) -> Result<bool, Failure> {
        let (_, from) = self.shared.take_away(run.end);
        self.note_expired(tools, run, from);
        if self.checkpoint.state().settled_below < run.end && !self.advance(tools, now, run.end) {
            return Ok(false);
        }
        let len = run.segments.len();
        // It is unlinked without a seal.
        if self.is_active_at(len - 1) {
            self.active = None;
            self.has_tail = false;
            self.allocation = first_allocation(&self.shared.id);
        }
        self.sync_checkpoint(tools, now)?;
        if self.checkpoint.is_dirty() {
            return Ok(false);
        }
        let gone = self.shared.index().segments.drain(..len).collect::<Vec<_>>();
        self.garbage.extend(gone);
        Ok(true)
    }

    fn expire_behind(&mut self, tools: &Tools, at: usize, run: &Run) -> Result<bool, Failure> {
        let (before, first) = {
            let index = self.shared.index();
            (index.segments[at - 1], index.segments[at].key.first)
        };
        // Before there is a tombstone: nothing may be appended in its span, also if it is refused half done.
        if self.is_active_at(at + run.segments.len() - 1) {
            self.seal_active(tools)?;
            self.allocation = first_allocation(&self.shared.id);
        }
        // Two tombstones in a row become one.
        let extends = before.records == 0;
        let key = if extends { before.key } else { Key { first, salt: rand::random() } };
        let tombstone = SegmentMeta { next: run.end, ..SegmentMeta::empty(key) };
        if !self.write_tombstone(tools, &tombstone)? {
            // It may be there all the same. One that was there before stays: it may only span more now.
            self.garbage.extend((!extends).then_some(tombstone));
            return Ok(false);
        }
        let mut index = self.shared.index();
        let gone = index.segments.drain(at..at + run.segments.len()).collect::<Vec<_>>();
        if extends {
            index.segments[at - 1] = tombstone;
        } else {
            index.segments.insert(at, tombstone);
        }
        drop(index);
        self.garbage.extend(gone);
        self.note_expired(tools, run, self.shared.taken_below());
        Ok(true)
    }

    /// Durably; `false`: there is no room, or no handle, just now.
    fn write_tombstone(&self, tools: &Tools, meta: &SegmentMeta) -> Result<bool, Failure> {
        let header = Header { version: meta.version, created: tools.age.now() };
        let bytes = [header.encode(meta.key), seal_of(meta).encode(meta.key)].concat();
        let path = self.path_of(meta);
        add(&tools.counters.syncs, 2);
        match write_atomically(&*tools.disk, &path, &bytes) {
            Ok(()) => {
                add(&tools.counters.written_bytes, bytes.len() as u64);
                Ok(true)
            }
            // One that stays all the same spans nothing that has not expired.
            Err(Unwritten::Before(error)) if is_full(&error) || !is_medium(&error) => Ok(false),
            Err(unwritten) => Err(Failure::poison("write", &path, &unwritten.into())),
        }
    }

    /// Whether the segment at this place of the index is the open one.
    fn is_active_at(&self, at: usize) -> bool {
        let key = self.shared.index().segments[at].key;
        self.active.as_ref().is_some_and(|active| active.meta.key == key)
    }
}
