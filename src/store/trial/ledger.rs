//! What a store has promised, and the comparison with what it shows.
//!
//! Owns: [`Ledger`] (plain maps, cheap to copy) and [`Findings`]. Must not know: the store, disks.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::rig::{Message, QUEUES, View};

/// How many findings are told in words.
const TEXTS_MAX: usize = 10;

/// What was found wrong.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct Findings {
    /// Acknowledged, not settled, and not there.
    pub(in crate::store) lost: u64,
    /// Read, but nobody has written it, or with other bytes.
    pub(in crate::store) forged: u64,
    /// The first findings in words.
    pub(in crate::store) texts: Vec<String>,
}

impl Findings {
    /// Notes one.
    pub(in crate::store) fn add(&mut self, text: impl Into<String>) {
        if self.texts.len() < TEXTS_MAX {
            self.texts.push(text.into());
        }
    }

    /// Takes over what another check has found, with the place where that was.
    pub(in crate::store) fn merge(&mut self, other: Self, place: impl Fn() -> String) {
        self.lost += other.lost;
        self.forged += other.forged;
        for text in other.texts {
            self.add(format!("{}: {text}", place()));
        }
    }

    fn check(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.add(text());
        }
    }
}

/// Which settled places a restart must not fall behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Kept {
    /// The process was killed: what was written counts.
    PageCache,
    /// The power went: what was synced counts.
    Disk,
    /// The checkpoint is damaged: what is still there is delivered again.
    Nothing,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Entry {
    pub(in crate::store) payload: Bytes,
    /// When it may be taken away, in milliseconds of the store's clock.
    dies: u64,
    /// The running store has told that it is removed.
    told: bool,
}

/// What one queue must hold.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct Expected {
    /// Reported durable; those that are settled durably may be forgotten.
    pub(in crate::store) acked: BTreeMap<u64, Entry>,
    /// Under way: may be there after a crash.
    possible: BTreeMap<u64, Entry>,
    /// No new record may have a lower offset.
    pub(in crate::store) end: u64,
    /// Asked for, at most.
    pub(in crate::store) settle_asked: u64,
    /// Known to be durable, at least.
    settle_durable: u64,
    /// Known to be in the page cache, at least.
    pub(in crate::store) settle_written: u64,
    /// A deletion was under way.
    deleting: bool,
    /// Segments whose removal was under way: of each, all is there after a crash, or nothing.
    removing: Vec<Range<u64>>,
}

impl Expected {
    /// Records that must be there in `range`.
    pub(in crate::store) fn living(
        &self,
        range: Range<u64>,
        now: u64,
    ) -> impl Iterator<Item = u64> {
        let range = range.start..range.end.max(range.start);
        let lives = move |entry: &Entry| entry.dies > now && !entry.told;
        self.acked.range(range).filter(move |(_, entry)| lives(entry)).map(|(o, _)| *o)
    }

    /// Records and payload bytes at or above `settled` that the store has not told as removed.
    #[cfg(test)]
    pub(in crate::store) fn pending(&self, settled: u64) -> (u64, u64) {
        let all = self.acked.range(settled..).filter(|(_, entry)| !entry.told);
        all.fold((0, 0), |(n, bytes), (_, e)| (n + 1, bytes + e.payload.len() as u64))
    }

    /// A removal that was under way was done as a whole or not at all.
    fn check_removing(&self, view: &View, found: &mut Findings) {
        for range in &self.removing {
            let start = range.start.max(self.settle_asked);
            let all = self.acked.range(start..range.end.max(start));
            let all = all.filter(|(_, entry)| !entry.told).count();
            let shown =
                view.records.iter().filter(|(offset, _)| (start..range.end).contains(offset));
            let shown = shown.count();
            if shown > 0 && shown < all {
                found.lost += (all - shown) as u64;
                found.add(format!("of the segment {range:?} {shown} of {all} records are left"));
            }
        }
    }

    /// Every record that is shown was written, with these bytes, and they are in order.
    fn check_shown(&self, view: &View, found: &mut Findings) {
        let mut last = None;
        for (offset, payload) in &view.records {
            found.check(last < Some(*offset), || format!("offset {offset} comes after {last:?}"));
            found.check(*offset < view.end, || format!("offset {offset} is not durable yet"));
            last = Some(*offset);
            let known = self.acked.get(offset).or_else(|| self.possible.get(offset));
            if known.is_none_or(|known| known.payload != payload) {
                found.forged += 1;
                found.add(format!("offset {offset} holds what nobody has written"));
            }
        }
    }

    /// Every acknowledged record at or above the settled place is shown, but for those that `excused` says.
    fn check_there(
        &self,
        view: &View,
        now: u64,
        excused: &impl Fn(u64) -> bool,
        found: &mut Findings,
    ) {
        let shown = |offset: &u64| view.records.binary_search_by_key(offset, |r| r.0).is_ok();
        // Only what had expired may have been passed over.
        let passed = self.living(self.settle_asked..view.settled, now);
        let missing = self.living(view.settled..u64::MAX, now).filter(|offset| !shown(offset));
        let removing = |offset| self.removing.iter().any(|range| range.contains(&offset));
        let lost = passed.chain(missing).filter(|offset| !excused(*offset) && !removing(*offset));
        let lost: Vec<u64> = lost.collect();
        if !lost.is_empty() {
            found.lost += lost.len() as u64;
            found.add(format!("acknowledged and not there: offsets {lost:?}"));
        }
    }
}

/// What all queues must hold.
#[derive(Debug, Clone)]
pub(in crate::store) struct Ledger {
    pub(in crate::store) queues: Vec<Expected>,
    /// The store's clock, in milliseconds.
    pub(in crate::store) now: u64,
    /// Whether settled records are remembered: they may come again where a checkpoint is damaged.
    pub(in crate::store) remembers: bool,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { queues: vec![Expected::default(); QUEUES], now: 0, remembers: false }
    }
}

impl Ledger {
    /// A batch is on its way.
    pub(in crate::store) fn begin(&mut self, batch: &[Message]) {
        for message in batch {
            for queue in message.targets() {
                let ttl = u64::from(message.ttl_secs) * 1000;
                let dies = if ttl == 0 { u64::MAX } else { self.now + ttl };
                let expected = &mut self.queues[queue];
                let offset = expected.end + expected.possible.len() as u64;
                let payload = message.payload.clone();
                expected.possible.insert(offset, Entry { payload, dies, told: false });
            }
        }
    }

    /// The batch was acknowledged.
    pub(in crate::store) fn acked(&mut self) {
        for expected in &mut self.queues {
            expected.end += expected.possible.len() as u64;
            expected.acked.append(&mut expected.possible);
        }
    }

    /// The batch was refused: it must never be seen.
    pub(in crate::store) fn refused(&mut self) {
        self.queues.iter_mut().for_each(|expected| expected.possible.clear());
    }

    /// A queue is asked to be settled below `below`.
    pub(in crate::store) fn settle(&mut self, queue: usize, below: u64) {
        let asked = &mut self.queues[queue].settle_asked;
        *asked = below.max(*asked);
    }

    /// A settled place was written, so that it outlives the process.
    pub(in crate::store) fn settle_written(&mut self, queue: usize, settled: u64) {
        self.queues[queue].settle_written = settled;
    }

    /// A settled place was synced.
    pub(in crate::store) fn settle_durable(&mut self, queue: usize, settled: u64) {
        let expected = &mut self.queues[queue];
        expected.settle_durable = settled;
        if !self.remembers {
            expected.acked = expected.acked.split_off(&settled.min(expected.settle_asked));
        }
    }

    /// The store has told that it removed `records` in `range`, for room or because they had expired.
    pub(in crate::store) fn removed(
        &mut self,
        queue: usize,
        range: Range<u64>,
        records: u64,
        expired: bool,
        found: &mut Findings,
    ) {
        let (now, expected) = (self.now, &mut self.queues[queue]);
        if expired {
            let alive: Vec<u64> = expected.living(range.clone(), now).collect();
            found.lost += alive.len() as u64;
            found.check(alive.is_empty(), || format!("told as expired, but alive: {alive:?}"));
        }
        let gone = expected.acked.range_mut(range.clone()).filter(|(_, entry)| !entry.told);
        let count = gone.map(|(_, entry)| entry.told = true).count() as u64;
        found.check(count == records, || {
            format!(
                "queue {queue}: {records} records told as removed in {range:?}, {count} were there"
            )
        });
    }

    /// The removal of a segment is under way.
    pub(in crate::store) fn removing(&mut self, queue: usize, range: Range<u64>) {
        self.queues[queue].removing.push(range);
    }

    /// A queue's deletion begins.
    pub(in crate::store) fn deleting(&mut self, queue: usize, is: bool) {
        self.queues[queue].deleting = is;
    }

    /// A queue is deleted: its offsets begin anew.
    pub(in crate::store) fn deleted(&mut self, queue: usize) {
        self.queues[queue] = Expected::default();
    }

    /// How many acknowledged records have to be there.
    pub(in crate::store) fn owed(&self) -> u64 {
        let owed = |e: &Expected| e.living(e.settle_asked..u64::MAX, self.now).count() as u64;
        self.queues.iter().map(owed).sum()
    }

    /// Compares a queue of a running store.
    pub(in crate::store) fn check(&self, queue: usize, view: &View, found: &mut Findings) {
        let expected = &self.queues[queue];
        expected.check_shown(view, found);
        expected.check_there(view, self.now, &|_| false, found);
        found.check(view.lost.is_empty(), || format!("cannot be read back: {:?}", view.lost));
    }

    /// Compares a queue after a restart, and takes over what it shows as what it must show from now on.
    pub(in crate::store) fn restarted(
        &mut self,
        queue: usize,
        view: Option<&View>,
        kept: Kept,
        found: &mut Findings,
    ) {
        self.restarted_but(queue, view, kept, &|_| false, found);
    }

    /// The same, where records for which `excused` says so need not be there.
    pub(in crate::store) fn restarted_but(
        &mut self,
        queue: usize,
        view: Option<&View>,
        kept: Kept,
        excused: &impl Fn(u64) -> bool,
        found: &mut Findings,
    ) {
        let now = self.now;
        let expected = &mut self.queues[queue];
        let Some(view) = view else {
            let owed = expected.living(expected.settle_asked..u64::MAX, now);
            let owed = owed.filter(|offset| !excused(*offset)).count() as u64;
            found.lost += owed;
            found.check(owed == 0, || format!("queue {queue} is gone, with {owed} records"));
            *expected = Expected::default();
            return;
        };
        if expected.deleting && view.end == 0 {
            *expected = Expected::default();
        }
        let floor = match kept {
            Kept::PageCache => expected.settle_written,
            Kept::Disk => expected.settle_durable,
            Kept::Nothing => 0,
        };
        found.check(view.settled >= floor, || {
            format!("queue {queue}: settled {floor} was kept, {} is there", view.settled)
        });
        let again = (view.end..expected.end).any(|offset| !excused(offset));
        found.check(!again && view.end >= view.settled, || {
            format!("queue {queue}: offset {} would be used again", view.end)
        });
        expected.check_shown(view, found);
        expected.check_there(view, now, excused, found);
        expected.check_removing(view, found);
        let settled = std::mem::take(&mut expected.acked);
        expected.take_over(view, &settled);
        if self.remembers {
            let mut settled = settled;
            settled.split_off(&view.settled);
            expected.acked.append(&mut settled);
        }
    }
}

impl Expected {
    /// What is there now is durable; what was under way and is not there never comes.
    fn take_over(&mut self, view: &View, acked: &BTreeMap<u64, Entry>) {
        let kept = view.records.iter().filter_map(|(offset, _)| {
            let entry = acked.get(offset).or_else(|| self.possible.get(offset))?;
            // What is back is owed again.
            Some((*offset, Entry { told: false, ..entry.clone() }))
        });
        *self = Self {
            acked: kept.collect(),
            possible: BTreeMap::new(),
            end: view.end,
            settle_asked: view.settled,
            settle_durable: view.settled,
            settle_written: view.settled,
            deleting: false,
            removing: Vec::new(),
        };
    }
}
