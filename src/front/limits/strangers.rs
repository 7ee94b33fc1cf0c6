//! Connections that have not logged in yet, and which of them makes room.
//!
//! Owns: [`Strangers`]. When there is no room for a newcomer, the source with most strangers gives up its oldest one: whoever
//! opens many connections and does not log in pushes out his own, and a device that comes alone is never the one that goes
//! while a crowd is there. A newcomer out of that crowd itself has to wait until the crowd's oldest had [`CHANCE`]: else a
//! crowd of honest devices (more than there is room for) would push out each other before any of them is in. Of crowds of
//! one size the one with the oldest gives way, and one that is alone has its [`CHANCE`], too: whoever floods from many
//! addresses does not choose by them whom he pushes out.
//! Invariants: at most as many entries as the owner lets in; each step costs O(log n). Must not know: connections.

use std::cmp::Reverse;
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
    /// The same with the oldest of each, the largest crowd last; of those the one with the oldest.
    crowds: BTreeSet<(usize, Reverse<Serial>, Source)>,
}

impl Strangers {
    /// One more.
    pub(in crate::front) fn enter(&mut self, source: Source, now: Instant) -> Serial {
        self.next += 1;
        let serial = self.next;
        self.change(source, |waiting| waiting.insert((source, serial), now).is_none(), 1);
        serial
    }

    /// It has logged in, or is gone; says whether it was there.
    pub(in crate::front) fn leave(&mut self, source: Source, serial: Serial) -> bool {
        self.change(source, |waiting| waiting.remove(&(source, serial)).is_some(), -1)
    }

    /// Who makes room for a newcomer from `source`; whoever does is no longer here.
    pub(in crate::front) fn make_room(&mut self, source: Source, now: Instant) -> Room {
        let Some(&(crowd, _, largest)) = self.crowds.last() else { return Room::None };
        // Of two crowds of one size, the newcomer's own gives way.
        let own = self.counts.get(&source) == Some(&crowd);
        let from = if own { source } else { largest };
        let oldest = self.waiting.range((from, 0)..).next();
        let (&(_, serial), since) = oldest.expect("a source that is counted has one");
        if (own || crowd == 1) && now < *since + CHANCE {
            return Room::None;
        }
        self.leave(from, serial);
        Room::By(serial, from)
    }

    /// How many.
    pub(in crate::front) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Carries out a change of `waiting` by so many of `source`; says whether it was one.
    fn change(
        &mut self,
        source: Source,
        change: impl FnOnce(&mut BTreeMap<(Source, Serial), Instant>) -> bool,
        by: isize,
    ) -> bool {
        let before = self.crowd_of(source);
        if !change(&mut self.waiting) {
            return false;
        }
        let count = self.counts.entry(source).or_insert(0);
        *count = count.saturating_add_signed(by);
        if *count == 0 {
            self.counts.remove(&source);
        }
        before.map(|crowd| self.crowds.remove(&crowd));
        self.crowds.extend(self.crowd_of(source));
        true
    }

    fn crowd_of(&self, source: Source) -> Option<(usize, Reverse<Serial>, Source)> {
        let (&(_, oldest), _) = self.waiting.range((source, 0)..=(source, Serial::MAX)).next()?;
        self.counts.get(&source).map(|count| (*count, Reverse(oldest), source))
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

    /// Whoever floods from many addresses, one connection each, must not choose by his addresses whom he pushes out.
    #[test]
    fn of_crowds_of_one_nobody_goes_before_his_chance_and_then_the_oldest() {
        let t = crate::clock::system().monotonic();
        let mut all = Strangers::default();
        let honest = all.enter(source(250), t);
        let at = |millis| t + Duration::from_millis(millis);
        (1..100).for_each(|n| _ = all.enter(source(n), at(1)));
        for millis in 1..1000 {
            assert_eq!(all.make_room(source(100), at(millis)), Room::None, "{millis} ms");
        }
        assert_eq!(all.make_room(source(100), at(1000)), Room::By(honest, source(250)));
        assert_eq!(all.make_room(source(100), at(1000)), Room::None, "the next one is younger");
        assert_eq!(all.make_room(source(100), at(1001)), Room::By(honest + 1, source(1)));
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
