//! Connections that have not logged in yet, and which of them makes room.
//!
//! Owns: [`Strangers`]. When there is no room for a newcomer, the source with most strangers gives up its oldest one: whoever
//! opens many connections and does not log in pushes out his own, and a device that comes alone is never the one that goes
//! while a crowd is there. A newcomer out of that crowd itself has to wait until the crowd's oldest had [`CHANCE`]: else a
//! crowd of honest devices (more than there is room for) would push out each other before any of them is in.
//! Invariants: at most as many entries as the owner lets in; each step costs O(log n). Must not know: connections.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::Source;

/// What a stranger has at least before one of its own source takes its place: a handshake and a log-in over a slow link.
pub(super) const CHANCE: Duration = Duration::from_secs(1);

/// Names a stranger.
pub(in crate::front) type Serial = u64;

/// Who makes room.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::front) enum Room {
    /// This one leaves.
    By(Serial, Source),
    /// The newcomer has to go.
    None,
}

/// See [the module](self).
#[derive(Debug, Default)]
pub(in crate::front) struct Strangers {
    next: Serial,
    /// By source, oldest first.
    waiting: BTreeMap<(Source, Serial), Instant>,
    counts: HashMap<Source, usize>,
    /// The same, the largest crowd last.
    crowds: BTreeSet<(usize, Source)>,
}

impl Strangers {
    /// One more.
    pub(in crate::front) fn enter(&mut self, source: Source, now: Instant) -> Serial {
        self.next += 1;
        self.waiting.insert((source, self.next), now);
        self.change(source, 1);
        self.next
    }

    /// It has logged in, or is gone; says whether it was there.
    pub(in crate::front) fn leave(&mut self, source: Source, serial: Serial) -> bool {
        let was = self.waiting.remove(&(source, serial)).is_some();
        if was {
            self.change(source, -1);
        }
        was
    }

    /// Who makes room for a newcomer from `source`; whoever does is no longer here.
    pub(in crate::front) fn make_room(&mut self, source: Source, now: Instant) -> Room {
        let Some(&(crowd, largest)) = self.crowds.last() else { return Room::None };
        // Of two crowds of one size, the newcomer's own gives way.
        let own = self.counts.get(&source) == Some(&crowd);
        let from = if own { source } else { largest };
        let oldest = self.waiting.range((from, 0)..).next();
        let (&(_, serial), since) = oldest.expect("a source that is counted has one");
        if own && now < *since + CHANCE {
            return Room::None;
        }
        self.leave(from, serial);
        Room::By(serial, from)
    }

    /// How many.
    pub(in crate::front) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn change(&mut self, source: Source, by: isize) {
        let before = self.counts.get(&source).copied().unwrap_or(0);
        let after = before.saturating_add_signed(by);
        self.crowds.remove(&(before, source));
        if after == 0 {
            self.counts.remove(&source);
        } else {
            self.counts.insert(source, after);
            self.crowds.insert((after, source));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        Source::of([192, 0, 2, last].into())
    }

    #[test]
    fn the_largest_crowd_makes_room_with_its_oldest() {
        let t = crate::clock::system().monotonic();
        let mut all = Strangers::default();
        assert_eq!(all.make_room(source(1), t), Room::None, "nobody is there");
        let lonely = all.enter(source(1), t);
        let crowd: Vec<Serial> = (0..3).map(|_| all.enter(source(2), t)).collect();
        assert_eq!(all.make_room(source(3), t), Room::By(crowd[0], source(2)), "at once");
        assert_eq!(all.make_room(source(1), t), Room::By(crowd[1], source(2)));
        // Both have one now: the newcomer's own source gives way, when it had its chance.
        assert_eq!(all.make_room(source(1), t), Room::None);
        assert_eq!(all.make_room(source(1), t + CHANCE), Room::By(lonely, source(1)));
        assert!(!all.leave(source(1), lonely), "it is gone already");
        assert!(all.leave(source(2), crowd[2]));
        assert_eq!((all.len(), all.counts.len(), all.crowds.len()), (0, 0, 0));
    }

    /// 1,000 devices behind one router arrive at once where there is room for 600: those that came first stay and get in.
    #[test]
    fn a_crowd_that_is_too_large_does_not_push_itself_out() {
        let t = crate::clock::system().monotonic();
        let mut all = Strangers::default();
        (0..600).for_each(|_| _ = all.enter(source(1), t));
        for millis in (0..1000).step_by(5) {
            let now = t + Duration::from_millis(millis);
            assert_eq!(all.make_room(source(1), now), Room::None);
        }
        assert_eq!(all.len(), 600);
    }

    #[test]
    fn a_flood_from_one_address_never_costs_another_one_its_place() {
        let t = crate::clock::system().monotonic();
        let mut all = Strangers::default();
        let honest: Vec<(Source, Serial)> =
            (10..60).map(|n| (source(n), all.enter(source(n), t))).collect();
        (0..50).for_each(|_| _ = all.enter(source(1), t));
        for n in 0..10_000 {
            let now = t + Duration::from_millis(n);
            if all.make_room(source(1), now) != Room::None {
                all.enter(source(1), now);
            }
        }
        assert!(honest.iter().all(|(source, serial)| all.leave(*source, *serial)));
    }
}
