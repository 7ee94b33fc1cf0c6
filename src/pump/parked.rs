//! What the pump knows of one parked sender: its side queue, what waits to be moved there, what is delivered from it.
//!
//! Owns: [`Parked`]. No futures: the steps are taken in [`super::parking`].
//! Invariants: `settled <= next <= end`; between `settled` and `next` is what the lane has; what is beyond `end` belongs
//! to an append under way and is not touched.
//! Must not know: how a lane gets stuck, when a step is taken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::lane::{Item, Lane, Place};
use super::log::{Appended, Log};
use crate::identity::Identity;
use crate::message::{DecodeError, Message};
use crate::store::{Offset, QueueId, Record};

/// A parked sender's name: the text of its identity, as the side queue's id has it.
pub(super) type Name = Arc<str>;

/// What a read of a side queue brought.
pub(super) enum TakenIn {
    /// Messages of this sender are in the lane.
    Messages(Identity),
    /// The first record is no message, for this reason.
    NoMessage(Place, DecodeError),
    /// Nothing to deliver.
    Nothing,
}

/// One parked sender.
pub(super) struct Parked {
    pub(super) id: QueueId,
    /// Known after the first move.
    pub(super) log: Option<Arc<dyn Log>>,
    pub(super) lane: Lane,
    /// Met in the main queue, not durable in the side queue yet. In order.
    pub(super) hold: VecDeque<Place>,
    /// An append of what was in `hold` is under way.
    pub(super) moving: bool,
    pub(super) move_failures: u32,
    pub(super) move_not_before: Option<Instant>,
    /// A delivery that was under way when the sender was parked: it has so many messages, the first of the side queue.
    pub(super) inherited: Option<usize>,
    /// So many messages at the head of all that was surrendered are delivered, and not yet settled anywhere.
    pub(super) delivered_head: usize,
    /// Where the next read of the side queue starts; below it nothing is under way except in `lane`.
    pub(super) next: Offset,
    /// The end of the side queue as far as this pump knows.
    pub(super) end: Offset,
    /// Damaged records below are counted.
    pub(super) lost_below: Offset,
    /// Reading, delivering or burying: has one of the slots.
    pub(super) active: bool,
    pub(super) queued: bool,
    pub(super) deleting: bool,
}

impl Parked {
    pub(super) fn new(id: QueueId, lane: Lane) -> Self {
        Self {
            id,
            log: None,
            lane,
            hold: VecDeque::new(),
            moving: false,
            move_failures: 0,
            move_not_before: None,
            inherited: None,
            delivered_head: 0,
            next: Offset::default(),
            end: Offset::default(),
            lost_below: Offset::default(),
            active: false,
            queued: false,
            deleting: false,
        }
    }

    /// Takes in a record of this sender from the main queue.
    pub(super) fn hold(&mut self, place: Place) {
        self.hold.push_back(place);
    }

    pub(super) fn name(&self) -> Name {
        self.id.lane.clone().expect("a side queue names its sender")
    }

    /// Nothing in the side queue, nothing of it under way.
    pub(super) fn is_spent(&self) -> bool {
        self.log.is_some()
            && !self.moving
            && self.inherited.is_none()
            && self.delivered_head == 0
            && !self.active
            && !self.deleting
            && self.next == self.end
    }

    pub(super) fn may_move(&self, now: Instant) -> bool {
        let unopened_or_needed = self.log.is_none() || !self.hold.is_empty();
        unopened_or_needed
            && !self.moving
            && !self.deleting
            && self.move_not_before.is_none_or(|at| at <= now)
    }

    pub(super) fn may_drain(&self) -> bool {
        self.log.is_some()
            && self.inherited.is_none()
            && self.delivered_head == 0
            && !self.active
            && !self.queued
            && !self.deleting
            && self.lane.is_free()
            && self.next < self.end
    }

    /// Takes in what an append made durable; gives the places that are finished by it.
    pub(super) fn moved(&mut self, appended: &Appended) -> Vec<Place> {
        self.moving = false;
        self.end.0 += appended.durable as u64;
        self.hold.drain(..appended.durable).collect()
    }

    /// Settles what an inherited delivery delivered: what is durable in the side queue there; what is not, because its
    /// append failed, in `hold`, whose finished places are returned. What is being appended waits for that.
    pub(super) fn settle_delivered_head(&mut self) -> Vec<Place> {
        if self.delivered_head == 0 {
            return Vec::new();
        }
        // Nothing of the side queue is being delivered meanwhile: `next` is where it is settled.
        let in_side = self
            .delivered_head
            .min(usize::try_from(self.end.0 - self.next.0).unwrap_or(usize::MAX));
        self.delivered_head -= in_side;
        self.next.0 += in_side as u64;
        if let Some(log) = &self.log {
            log.settle(self.next);
        }
        if self.moving {
            return Vec::new();
        }
        let in_hold = self.delivered_head.min(self.hold.len());
        self.delivered_head = 0;
        self.hold.drain(..in_hold).collect()
    }

    /// Sorts what was read from the side queue: messages into the lane, up to a record that is none.
    pub(super) fn take_in(&mut self, records: Vec<Record>, next: Offset) -> TakenIn {
        // What an append under way has already made durable is ours when the append has ended, and is counted then.
        self.next = next.clamp(self.next, self.end);
        let mut sender: Option<Identity> = None;
        for record in records {
            if record.offset >= self.end {
                break;
            }
            let place = Place::from(record);
            match Message::decode(place.stored.clone()) {
                Ok(message) if sender.as_ref().is_none_or(|s| *s == message.source.sender) => {
                    sender.get_or_insert_with(|| message.source.sender.clone());
                    self.lane.push(Item { place, message });
                }
                Err(e) if sender.is_none() => {
                    self.next = Offset(place.offset.0 + 1);
                    return TakenIn::NoMessage(place, e);
                }
                // What comes before it first; it is met again at the head of the next read.
                _ => {
                    self.next = place.offset;
                    break;
                }
            }
        }
        sender.map_or(TakenIn::Nothing, TakenIn::Messages)
    }

    /// Goes back to the settled place; what was read is read again.
    pub(super) fn rewind(&mut self) {
        self.lane.forget_waiting();
        if let Some(log) = &self.log {
            self.next = log.settled();
        }
    }
}
