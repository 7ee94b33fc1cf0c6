//! When the pump reads, and when what it has read enters the window.
//!
//! ```text
//!  queue --read--> [ahead: read, not under way] --take_in--> [window] -> lanes
//!            `- not at once after a read that        `- not while a fuller window is a moment away
//!               brought only a few
//! ```
//!
//! Owns: [`Ahead`], the start of reads, and the two waits that make deliveries fuller.
//!
//! Two things cost more than they bring. A read, a wake-up of every task on the way, and a settle for each single message of
//! a trickle: so after a read that brought only a few the next one starts [`Config::gather`](super::Config::gather) after it (a
//! message after a quiet spell goes at once). And a window that is refilled piece by piece while a far endpoint answers: a sender
//! would get two messages of its share on their way, and the other eighteen would wait for a round trip, with half of the
//! window never under way. So while more waits than has room, the window is refilled when all of it is answered, when no answer
//! has come for a sixteenth of a round trip, or a quarter of one after there was room for some.
//!
//! Invariants: what is ahead is at most as much as a window holds; it is not taken over from the store, so it can be removed
//! or repeated like what was never read; neither wait goes on without a timer that ends it.
//! Must not know: outcomes, files.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::patience::read_patiently;
use super::run::{End, Event, Running};
use crate::store::{Chunk, Offset, Record};

/// Shortest wait for another answer that a timer of a millisecond can measure.
const LULL_MIN: Duration = Duration::from_millis(2);
/// Longest wait for a fuller window: what separates the answers to one window is work, not distance.
const HOLD_MAX: Duration = Duration::from_millis(25);

/// Read, and not in the window yet.
#[derive(Default)]
struct Ahead {
    records: VecDeque<Record>,
    bytes: usize,
    /// Up to where.
    next: Offset,
}

/// What a running pump knows about its reads.
#[derive(Default)]
pub(super) struct Refill {
    ahead: Ahead,
    /// The last read began then, and brought few.
    few_at: Option<Instant>,
    /// There is room in the window, which waits to be filled at once.
    held_since: Option<Instant>,
    /// How long the last delivery took, and when it was answered.
    round_trip: Duration,
    answered_at: Option<Instant>,
    /// Senders among what was taken in last.
    senders: usize,
}

impl Refill {
    /// The window waits for more room before it is filled.
    pub(super) fn is_held(&self) -> bool {
        self.held_since.is_some()
    }

    /// A delivery was answered.
    pub(super) fn note(&mut self, took: Duration, now: Instant) {
        (self.round_trip, self.answered_at) = (took, Some(now));
    }

    /// How long the answers to one window may pause.
    fn lull(&self) -> Duration {
        self.round_trip / 16
    }

    /// Until when the window waits for more answers, if there was room for some `since` then.
    fn held_until(&self, since: Instant) -> Instant {
        let latest = since + (self.round_trip / 4).min(HOLD_MAX);
        self.answered_at.map_or(since, |at| latest.min(at.max(since) + self.lull()))
    }
}

impl Running {
    fn gathers_until(&self) -> Option<Instant> {
        self.refill.few_at.map(|at| at + self.config.gather)
    }

    /// How much more may be read, if that is worth a read.
    fn room_ahead(&self) -> Option<(usize, usize)> {
        let (messages_max, bytes_max) =
            (self.config.window_messages_max, self.config.window_bytes_max);
        let messages = messages_max.saturating_sub(self.refill.ahead.records.len());
        let bytes = bytes_max.saturating_sub(self.refill.ahead.bytes);
        (messages > messages_max / 8 && bytes > bytes_max / 8).then_some((messages, bytes))
    }

    /// Whether a read would start if there were something to read.
    pub(super) fn may_read(&self, now: Instant) -> bool {
        !self.reading
            && !self.stopping
            && self.barrier.is_none()
            && self.gathers_until().is_none_or(|at| at <= now)
            && self.room_ahead().is_some()
    }

    pub(super) fn start_read(&mut self, now: Instant) {
        if !self.may_read(now) {
            return;
        }
        self.refill.few_at = None;
        let from = self.refill.ahead.next.max(self.window.next());
        if *self.durable_end.borrow_and_update() <= from {
            return;
        }
        let Some((messages, bytes)) = self.room_ahead() else {
            return;
        };
        self.reading = true;
        (self.started_at, self.read_at) = (Some(now), now);
        let log = Arc::clone(&self.log);
        self.start(async move { Event::Read(read_patiently(&*log, from, messages, bytes).await) });
    }

    pub(super) fn on_read(&mut self, chunk: Chunk) {
        self.reading = false;
        let is_all = chunk.next >= *self.durable_end.borrow();
        let few = is_all && chunk.records.len() < self.config.window_messages_max / 4;
        self.refill.few_at = few.then_some(self.read_at);
        let ahead = &mut self.refill.ahead;
        ahead.bytes += chunk.records.iter().map(|record| record.payload.len()).sum::<usize>();
        ahead.records.extend(chunk.records);
        ahead.next = ahead.next.max(chunk.next);
    }

    /// When the next read or the refill of the window is due without any other cause.
    pub(super) fn refills_at(&self, now: Instant) -> Option<Instant> {
        let gathers = self.gathers_until().filter(|_| !self.reading);
        let held = self.refill.held_since.map(|at| self.refill.held_until(at));
        [gathers, held].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// Whether the window is to be filled later, in one go.
    fn holds_back(&mut self, now: Instant, messages: usize, bytes: usize) -> bool {
        let refill = &mut self.refill;
        // With about one message of each sender there are no shares to wait for.
        let shares = refill.senders + refill.senders / 4 < self.config.window_messages_max;
        let more = refill.ahead.records.len() > messages || refill.ahead.bytes > bytes;
        if self.sending == 0 || !shares || !more || refill.lull() < LULL_MIN {
            return false;
        }
        let since = *refill.held_since.get_or_insert(now);
        now < refill.held_until(since)
    }

    /// What is ahead enters the window as far as there is room: into lanes, or to the parked. Some of it may end at once, which
    /// makes room for more.
    pub(super) fn take_in(&mut self, now: Instant) -> Result<(), End> {
        while let Some((messages, bytes)) = self.window.room().filter(|_| self.has_ahead()) {
            if self.holds_back(now, messages, bytes) {
                return Ok(());
            }
            self.refill.held_since = None;
            let chunk = self.refill.ahead.split(messages, bytes);
            self.admit_all(chunk, now)?;
            self.refill.senders = self.lanes.len();
        }
        self.refill.held_since = None;
        Ok(())
    }

    fn has_ahead(&self) -> bool {
        let ahead = &self.refill.ahead;
        let more = !ahead.records.is_empty() || ahead.next > self.window.next();
        more && self.barrier.is_none()
    }

    /// Sorts what was read into lanes.
    fn admit_all(&mut self, chunk: Chunk, now: Instant) -> Result<(), End> {
        // What the store has removed since it was read it has counted.
        let counted = self.log.take_over(chunk.next.max(self.window.next()));
        self.window.advance_to(counted);
        let mut text = String::new();
        let mut met = BTreeSet::new();
        let mut before = None;
        for record in chunk.records {
            match self.admit(record, &mut text, &mut before, now) {
                Ok(name) => met.extend(name),
                Err(end) => {
                    self.bar(end)?;
                    self.refill.ahead = Ahead::default();
                    break;
                }
            }
        }
        if self.barrier.is_none() {
            self.window.advance_to(chunk.next);
        }
        // What is lost the store has counted and told.
        met.iter().for_each(|name| self.advance_parked(name));
        Ok(())
    }
}

impl Ahead {
    /// Takes out the first records, up to either limit, at least one if there is one.
    fn split(&mut self, messages: usize, bytes: usize) -> Chunk {
        let mut taken = 0;
        let fits = |record: &&Record| {
            let first = taken == 0;
            taken += record.payload.len();
            first || taken <= bytes
        };
        let count = self.records.iter().take(messages).take_while(fits).count();
        let records: Vec<Record> = self.records.drain(..count).collect();
        self.bytes -= records.iter().map(|record| record.payload.len()).sum::<usize>();
        let next = self.records.front().map_or(self.next, |record| record.offset);
        Chunk { records, next, lost: Vec::new() }
    }
}
