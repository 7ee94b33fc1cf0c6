//! What was removed and is still to be said or kept: sums per queue and reason.
//!
//! Owns: which log line is due, and which dead letter is owed. Invariants: every removed message is in exactly one letter
//! or still owed (reasons that need none apart); at most [`KEYS_MAX`] sums of each kind, and one per main queue on top.
//! Must not know: clocks, the store, where letters go.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::store::{Offset, QueueId, Removed, RemovedWhy};

/// Most queues and reasons that are told apart. Beyond, the side queues of one queue are summed up.
const KEYS_MAX: usize = 1024;

/// The lane that stands for the side queues beyond [`KEYS_MAX`].
const MANY_LANES: &str = "*";

/// Quiet time after a line about the same queue and reason.
const QUIET: Duration = Duration::from_secs(60);

/// By queue and the label of the reason.
type Key = (QueueId, &'static str);

/// A log line that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) queue: QueueId,
    pub(super) why: RemovedWhy,
    pub(super) records: u64,
    pub(super) payload_bytes: u64,
}

/// Messages for which a dead letter is owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owed {
    pub(super) queue: QueueId,
    pub(super) why: RemovedWhy,
    pub(super) count: u64,
    /// The first one removed.
    pub(super) first: Offset,
    /// Behind the last one.
    pub(super) end: Offset,
}

impl Owed {
    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.first = self.first.min(other.first);
        self.end = self.end.max(other.end);
    }
}

/// A sum since the last line.
#[derive(Debug)]
struct Unsaid {
    line: Line,
    quiet_until: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    unsaid: BTreeMap<Key, Unsaid>,
    owed: BTreeMap<Key, Owed>,
}

impl Ledger {
    /// Takes in what was removed; `letter` = a dead letter is owed for it.
    pub(super) fn note(&mut self, removed: &Removed, letter: bool, now: Instant) {
        let Removed { records, payload_bytes, why, .. } = *removed;
        let key = key_for(&self.unsaid, removed);
        let line = Line { queue: key.0.clone(), why, records: 0, payload_bytes: 0 };
        let unsaid = self.unsaid.entry(key).or_insert(Unsaid { line, quiet_until: now });
        unsaid.line.records += records;
        unsaid.line.payload_bytes += payload_bytes;
        if letter && records > 0 {
            let queue = key_for(&self.owed, removed).0;
            let (first, end) = (removed.offsets.start, removed.offsets.end);
            self.owe(Owed { queue, why, count: records, first, end });
        }
    }

    /// The lines that are due; what comes within a minute of one waits for the next.
    pub(super) fn lines(&mut self, now: Instant) -> Vec<Line> {
        let mut due = Vec::new();
        self.unsaid.retain(|_, unsaid| {
            if now < unsaid.quiet_until {
                return true;
            }
            if unsaid.line.records == 0 {
                return false;
            }
            due.push(unsaid.line.clone());
            (unsaid.line.records, unsaid.line.payload_bytes) = (0, 0);
            unsaid.quiet_until = now + QUIET;
            true
        });
        due
    }

    /// What was not said yet, whether due or not: for the end.
    pub(super) fn last_lines(&mut self) -> Vec<Line> {
        let unsaid = std::mem::take(&mut self.unsaid).into_values();
        unsaid.map(|u| u.line).filter(|line| line.records > 0).collect()
    }

    /// Takes what the next letter is to stand for: at most `u32::MAX` messages, as a letter counts.
    pub(super) fn take_owed(&mut self) -> Option<Owed> {
        let (_, mut owed) = self.owed.pop_first()?;
        let most = u64::from(u32::MAX);
        if owed.count > most {
            self.owe(Owed { count: owed.count - most, ..owed.clone() });
            owed.count = most;
        }
        Some(owed)
    }

    /// The letter could not be kept: it is owed on, together with what came since.
    pub(super) fn owe(&mut self, owed: Owed) {
        let key = (owed.queue.clone(), owed.why.label());
        match self.owed.get_mut(&key) {
            Some(there) => there.merge(&owed),
            None => drop(self.owed.insert(key, owed)),
        }
    }

    /// Whether there is nothing to say and nothing to keep, now or later.
    pub(super) fn is_idle(&self) -> bool {
        self.unsaid.is_empty() && self.owed.is_empty()
    }
}

fn key_for<V>(known: &BTreeMap<Key, V>, removed: &Removed) -> Key {
    let own = (removed.queue.clone(), removed.why.label());
    if known.len() < KEYS_MAX || removed.queue.lane.is_none() || known.contains_key(&own) {
        return own;
    }
    (removed.queue.with_lane(MANY_LANES), own.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn removed(lane: Option<&str>, offsets: std::ops::Range<u64>, why: RemovedWhy) -> Removed {
        let main = QueueId::new("iothub", 3);
        let records = offsets.end - offsets.start;
        Removed {
            queue: lane.map_or(main.clone(), |lane| main.with_lane(lane)),
            offsets: Offset(offsets.start)..Offset(offsets.end),
            records,
            with_reader: 0,
            payload_bytes: records * 10,
            why,
        }
    }

    #[test]
    fn one_line_per_queue_and_reason_and_minute_with_the_sums() {
        let (mut ledger, start) = (Ledger::default(), clock::system().monotonic());
        let at = |secs| start + Duration::from_secs(secs);
        let show = |lines: Vec<Line>| -> Vec<(&'static str, u64, u64)> {
            lines.iter().map(|l| (l.why.label(), l.records, l.payload_bytes)).collect()
        };
        use RemovedWhy::{Budget, Expired};
        ledger.note(&removed(None, 0..5, Budget), false, at(0));
        assert_eq!(show(ledger.lines(at(0))), [("store_full", 5, 50)]);
        ledger.note(&removed(None, 5..7, Budget), false, at(1));
        ledger.note(&removed(None, 7..8, Expired), false, at(2));
        ledger.note(&removed(None, 8..9, Budget), false, at(59));
        assert_eq!(show(ledger.lines(at(59))), [("ttl_expiry", 1, 10)]);
        assert_eq!(show(ledger.lines(at(60))), [("store_full", 3, 30)]);
        assert!(!ledger.is_idle());
        assert_eq!(ledger.lines(at(120)), []);
        assert!(ledger.is_idle(), "after a quiet minute nothing is remembered");
        ledger.note(&removed(None, 9..11, Budget), false, at(120));
        assert_eq!(show(ledger.last_lines()), [("store_full", 2, 20)]);
    }

    #[test]
    fn a_letter_that_cannot_be_kept_is_owed_on_together_with_what_came_since() {
        let (mut ledger, now) = (Ledger::default(), clock::system().monotonic());
        ledger.note(&removed(None, 4..10, RemovedWhy::Budget), true, now);
        let first = ledger.take_owed().unwrap();
        assert_eq!((first.count, first.first, first.end), (6, Offset(4), Offset(10)));
        ledger.note(&removed(None, 10..12, RemovedWhy::Budget), true, now);
        ledger.owe(first);
        let both = ledger.take_owed().unwrap();
        assert_eq!((both.count, both.first, both.end), (8, Offset(4), Offset(12)));
        assert_eq!(ledger.take_owed(), None);
        ledger.note(&removed(None, 0..0, RemovedWhy::Budget), true, now);
        ledger.note(&removed(None, 0..9, RemovedWhy::Expired), false, now);
        assert_eq!(ledger.take_owed(), None, "nothing lost, or nothing owed");
    }

    #[test]
    fn one_letter_counts_what_fits_in_it_and_the_rest_stays_owed() {
        let (mut ledger, now) = (Ledger::default(), clock::system().monotonic());
        let most = u64::from(u32::MAX);
        ledger.note(&removed(None, 0..most + 3, RemovedWhy::Budget), true, now);
        let counts = std::iter::from_fn(|| ledger.take_owed()).map(|o| o.count);
        assert_eq!(counts.collect::<Vec<_>>(), [most, 3]);
    }

    #[test]
    fn side_queues_beyond_the_limit_are_summed_up() {
        let (mut ledger, now) = (Ledger::default(), clock::system().monotonic());
        for i in 0..KEYS_MAX as u64 + 10 {
            let lane = format!("d{i}");
            ledger.note(&removed(Some(&lane), i..i + 1, RemovedWhy::Budget), true, now);
        }
        let owed: Vec<Owed> = std::iter::from_fn(|| ledger.take_owed()).collect();
        assert_eq!(owed.len(), KEYS_MAX + 1);
        assert_eq!(owed.iter().map(|o| o.count).sum::<u64>(), KEYS_MAX as u64 + 10);
        let sum = owed.iter().find(|o| o.queue.lane.as_deref() == Some(MANY_LANES)).unwrap();
        assert_eq!(sum.count, 10);
        assert_eq!(ledger.lines(now).len(), KEYS_MAX + 1);
    }
}
