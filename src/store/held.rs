//! Appends that wait for room.
//!
//! Owns: their order and how long they wait. Invariant: what devices append leaves in the order in which it came, since a
//! message must not get before one of the same device that is still held. Memory is bounded: each keeps its share of
//! `pending_bytes_max`. Must not know: how room is made.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::mailbox::Pending;

/// Without news of room it is tried again after so long.
pub(super) const RETRY_EVERY: Duration = Duration::from_millis(250);

/// The appends, and when they were tried.
#[derive(Default)]
pub(super) struct Held {
    /// Each with the end of its time.
    waiting: VecDeque<(Pending, Instant)>,
    /// When the first of them was tried, and how large the store was then.
    tried: Option<(Instant, u64)>,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// Behind all others.
    pub(super) fn push(&mut self, batch: Vec<Pending>, until: Instant) {
        self.waiting.extend(batch.into_iter().map(|pending| (pending, until)));
    }

    /// The first has found no room in a store of this size.
    pub(super) fn tried(&mut self, now: Instant, used: u64) {
        self.tried = Some((now, used));
    }

    /// They are to be tried at once.
    pub(super) fn try_again(&mut self) {
        self.tried = None;
    }

    /// Whether it makes sense to try: something was freed since, or time has passed.
    pub(super) fn is_due(&self, now: Instant, used: u64) -> bool {
        let hopeless = |(at, then): (Instant, u64)| {
            used >= then && now.saturating_duration_since(at) < RETRY_EVERY
        };
        !self.is_empty() && !self.tried.is_some_and(hopeless)
    }

    /// The first ones, up to `bytes_max` of weight, at least one.
    pub(super) fn take(&mut self, bytes_max: usize) -> Vec<(Pending, Instant)> {
        let mut weight = 0;
        let fits = |(pending, _): &(Pending, Instant)| {
            let fits = weight < bytes_max;
            weight += pending.weight;
            fits
        };
        let count = self.waiting.iter().map(fits).take_while(|fits| *fits).count();
        self.waiting.drain(..count).collect()
    }

    /// Back to the front.
    pub(super) fn put_back(&mut self, batch: impl DoubleEndedIterator<Item = (Pending, Instant)>) {
        batch.rev().for_each(|waiting| self.waiting.push_front(waiting));
    }

    /// Those whose time is over, from the front.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<Pending> {
        let count = self.waiting.iter().take_while(|(_, until)| *until <= now).count();
        self.waiting.drain(..count).map(|(pending, _)| pending).collect()
    }

    /// Those behind a hole of their caller, or revoked.
    pub(super) fn broken(&mut self) -> Vec<Pending> {
        let is_broken = |(p, _): &(Pending, Instant)| p.append.receipt.chain.broken().is_some();
        if !self.waiting.iter().any(is_broken) {
            return Vec::new();
        }
        // From the back: if one is revoked meanwhile none is answered before an earlier one of the same caller.
        let (mut broken, mut whole) = (VecDeque::new(), VecDeque::new());
        while let Some(last) = self.waiting.pop_back() {
            if is_broken(&last) { broken.push_front(last.0) } else { whole.push_front(last) }
        }
        self.waiting = whole;
        broken.into()
    }

    /// All of them.
    pub(super) fn drain(&mut self) -> Vec<Pending> {
        self.waiting.drain(..).map(|(pending, _)| pending).collect()
    }
}
