//! The part of the queue that has been read and is not settled yet.
//!
//! Owns: [`Window`]: which offsets are under way, which are finished, and up to where everything is finished. Pure.
//!
//! Invariants: only the contiguous finished prefix is ever reported as settled, so a crash repeats at most what the
//! window holds; the window never holds more than `messages_max` records, nor more than `bytes_max` bytes plus the one
//! record that crossed that line.
//! Must not know: lanes, outcomes, what a record means.

use std::collections::VecDeque;

use crate::store::Offset;

/// Records between the settled prefix and the place up to which the queue was read. `T` names a record's owner.
#[derive(Debug)]
pub(super) struct Window<T> {
    entries: VecDeque<Entry<T>>,
    next: Offset,
    bytes: usize,
    messages_max: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Entry<T> {
    offset: Offset,
    bytes: usize,
    owner: T,
    finished: bool,
}

impl<T> Window<T> {
    /// An empty window at `from`, where reading starts.
    pub(super) fn new(from: Offset, messages_max: usize, bytes_max: usize) -> Self {
        assert!(messages_max > 0 && bytes_max > 0, "a window without room never moves");
        Self { entries: VecDeque::new(), next: from, bytes: 0, messages_max, bytes_max }
    }

    /// The first offset that has not been read.
    pub(super) fn next(&self) -> Offset {
        self.next
    }

    /// How many messages and bytes the next read may bring; `None` while there is too little room to be worth a read
    /// (an eighth is kept back, so that a full window is refilled in batches, not message by message).
    pub(super) fn room(&self) -> Option<(usize, usize)> {
        let messages = self.messages_max.saturating_sub(self.entries.len());
        let bytes = self.bytes_max.saturating_sub(self.bytes);
        let enough = messages > self.messages_max / 8 && bytes > self.bytes_max / 8;
        enough.then_some((messages, bytes))
    }

    /// Takes in a record that was read. Offsets only grow (they may skip records that the store found corrupt).
    pub(super) fn push(&mut self, offset: Offset, bytes: usize, owner: T) {
        assert!(offset >= self.next, "the queue is read in order");
        self.entries.push_back(Entry { offset, bytes, owner, finished: false });
        self.bytes += bytes;
        self.next = Offset(offset.0 + 1);
    }

    /// Reading has gone on to `next` (the store may have skipped corrupt records at the end of a read).
    pub(super) fn advance_to(&mut self, next: Offset) {
        self.next = self.next.max(next);
    }

    /// The record at `offset` needs nothing more from this queue. Every record is finished exactly once.
    pub(super) fn finish(&mut self, offset: Offset) {
        let at = self.place_of(offset).expect("only records in the window are finished");
        assert!(!self.entries[at].finished, "a record is finished once");
        self.entries[at].finished = true;
        while self.entries.front().is_some_and(|e| e.finished) {
            self.bytes -= self.entries.pop_front().map_or(0, |e| e.bytes);
        }
    }

    /// Offsets mostly follow one another: then the place is the distance from the first.
    fn place_of(&self, offset: Offset) -> Option<usize> {
        let distance = offset.0.checked_sub(self.entries.front()?.offset.0)?;
        let guess = usize::try_from(distance).ok()?;
        if self.entries.get(guess).is_some_and(|e| e.offset == offset) {
            return Some(guess);
        }
        self.entries.binary_search_by_key(&offset, |e| e.offset).ok()
    }

    /// Everything below is finished.
    pub(super) fn settled(&self) -> Offset {
        self.entries.front().map_or(self.next, |e| e.offset)
    }

    /// Who owns the oldest unfinished record: the one that holds the checkpoint back.
    pub(super) fn head(&self) -> Option<&T> {
        self.entries.front().map(|e| &e.owner)
    }

    /// For tests: records in the window, finished ones behind an unfinished one included.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_contiguous_prefix_settles() {
        let mut w = Window::new(Offset(10), 8, 1000);
        for o in 10..14 {
            w.push(Offset(o), 1, ());
        }
        w.finish(Offset(11));
        w.finish(Offset(13));
        assert_eq!(w.settled(), Offset(10));
        w.finish(Offset(10));
        assert_eq!(w.settled(), Offset(12));
        w.finish(Offset(12));
        assert_eq!((w.settled(), w.len()), (Offset(14), 0));
    }

    #[test]
    fn skipped_offsets_settle_with_their_neighbours() {
        let mut w = Window::new(Offset(0), 8, 1000);
        w.push(Offset(3), 1, ());
        w.advance_to(Offset(9));
        assert_eq!(w.settled(), Offset(3));
        w.finish(Offset(3));
        assert_eq!(w.settled(), Offset(9));
    }

    #[test]
    fn room_is_bounded_in_messages_and_in_bytes() {
        let mut w = Window::new(Offset(0), 16, 100);
        assert_eq!(w.room(), Some((16, 100)));
        w.push(Offset(0), 80, ());
        assert_eq!(w.room(), Some((15, 20)));
        w.push(Offset(1), 80, ());
        assert_eq!(w.room(), None, "bytes are used up");
        w.finish(Offset(0));
        w.finish(Offset(1));
        for o in 2..16 {
            w.push(Offset(o), 1, ());
        }
        assert_eq!(w.room(), None, "an eighth is not worth a read");
        w.finish(Offset(15));
        assert_eq!(w.room(), None, "finished behind an unfinished one still takes room");
        w.finish(Offset(2));
        assert!(w.room().is_some());
    }

    #[test]
    fn the_smallest_window_still_moves() {
        let mut w = Window::new(Offset(0), 1, 1);
        w.push(Offset(0), 500, ());
        assert_eq!(w.room(), None);
        w.finish(Offset(0));
        assert_eq!(w.room(), Some((1, 1)));
    }

    proptest! {
        /// Whatever the order of finishing, `settled` is what a plain set of finished offsets says.
        #[test]
        fn settled_agrees_with_a_plain_set(order in Just((0..40_u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut w = Window::new(Offset(0), 64, 1000);
            for o in 0..40 {
                w.push(Offset(o), 1, ());
            }
            let mut done = std::collections::BTreeSet::new();
            for o in order {
                w.finish(Offset(o));
                done.insert(o);
                let prefix = (0..40).find(|o| !done.contains(o)).unwrap_or(40);
                prop_assert_eq!(w.settled(), Offset(prefix));
            }
        }
    }
}
