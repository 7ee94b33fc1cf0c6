//! What expires while it waits: found, counted, finished.
//!
//! Owns: [`Sweeps`] (when to look), and the finishing of messages that nobody will deliver any more.
//! Invariants: an expired message is never handed to the endpoint: a batch is taken only after its lane was looked
//! through. A delivery or an append under way is not recalled: what comes back is looked at then. Each is counted once,
//! by the pump, also if the store has removed it (everything below [`Log::settled`](super::log::Log::settled) that the pump
//! has not settled itself): the store counts only what no pump has taken over. One timer for everything, at the earliest
//! expiry of what waits, and no two sweeps within [`SWEEP_PAUSE`]: a sweep looks at the whole window.
//! Must not know: clocks of the store, how an age is reckoned.

use std::time::{Duration, Instant};

use super::lane::{Lane, earlier};
use super::parked::Name;
use super::place::{Item, Place};
use super::run::Running;
use crate::identity::Identity;
use crate::message::{Message, SystemKey};
use crate::store::Offset;

/// Least time between two sweeps of the window: messages that expire one after the other go together.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// When to look for what has expired.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    due: Option<Instant>,
    not_before: Option<Instant>,
}

impl Sweeps {
    /// Something that waits expires at `at`.
    pub(super) fn note(&mut self, at: Option<Instant>) {
        self.due = earlier(self.due, at.max(self.not_before.filter(|_| at.is_some())));
    }

    /// When the next sweep is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A sweep begins: it notes again what stays.
    fn begin(&mut self, now: Instant) {
        (self.due, self.not_before) = (None, Some(now + SWEEP_PAUSE));
    }
}

impl Running {
    /// Finishes what waits and has expired, and what the store has removed. Does nothing before anything is due.
    pub(super) fn sweep(&mut self, now: Instant) {
        let gone = self.log.settled();
        let removed = gone > self.settled;
        self.settled = self.settled.max(gone);
        if !removed && self.sweeps.due().is_none_or(|at| at > now) {
            return;
        }
        // Else a read from a place behind which all is gone would bring nothing, for ever.
        self.window.advance_to(gone);
        self.sweeps.begin(now);
        let concerned = |lane: &Lane| removed || lane.expiry().is_some_and(|at| at <= now);
        let lanes = self.lanes.iter().filter(|(_, lane)| concerned(lane));
        let senders: Vec<Identity> = lanes.map(|(sender, _)| sender.clone()).collect();
        senders.iter().for_each(|sender| self.expire_lane(sender, now));
        self.lanes.values().for_each(|lane| self.sweeps.note(lane.expiry()));
        let mut expired = Vec::new();
        for parked in self.parked.values_mut() {
            expired.append(&mut parked.take_expired(now, gone));
            self.sweeps.note(parked.expiry());
        }
        for place in expired {
            // It was read as a message when it came.
            if let Ok(message) = Message::decode(place.stored.clone()) {
                self.count_gone(&place, &message, now);
            }
            self.window.finish(place.offset);
        }
    }

    /// Finishes what has expired in `sender`'s lane; a lane that has nothing left is forgotten.
    pub(super) fn expire_lane(&mut self, sender: &Identity, now: Instant) {
        let gone = self.log.settled();
        let Some(lane) = self.lanes.get_mut(sender) else {
            return;
        };
        let expired = lane.take_expired(now, gone);
        self.sweeps.note(lane.expiry());
        if expired.is_empty() {
            return;
        }
        for Item { place, message } in expired {
            self.count_gone(&place, &message, now);
            self.window.finish(place.offset);
        }
        self.enqueue(sender);
    }

    /// Whether a record that is just entering the window ends there, because it has expired or is gone; finishes it then.
    pub(super) fn ends_at_once(&mut self, place: &Place, message: &Message, now: Instant) -> bool {
        let gone = self.log.settled();
        if !place.is_expired(now) && place.offset >= gone {
            self.sweeps.note(place.expires);
            return false;
        }
        self.count_gone(place, message, now);
        self.window.finish(place.offset);
        true
    }

    /// Takes what has expired out of what was just read of a side queue.
    pub(super) fn expire_side(&mut self, name: &Name, now: Instant) {
        let Some(parked) = self.parked.get_mut(name) else {
            return;
        };
        let gone = parked.log.as_ref().map_or(Offset::default(), |log| log.settled());
        let expired = parked.lane.take_expired(now, gone);
        parked.expired.extend(expired.iter().map(|item| item.place.offset));
        for Item { place, message } in expired {
            // Of a side queue the store counts itself what it takes away.
            if place.offset >= gone {
                self.count_gone(&place, &message, now);
            }
        }
    }

    /// Counts a message that is not delivered any more: it has expired, or the store has taken it away.
    fn count_gone(&self, place: &Place, message: &Message, now: Instant) {
        let reason = if place.is_expired(now) { "ttl_expiry" } else { "store_full" };
        let output = message.system.get(SystemKey::OutputName);
        self.metrics.message_dropped(reason, &message.source.sender, output);
    }
}
