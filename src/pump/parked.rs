//! What the pump knows of one parked sender: its side queue, what waits to be moved there, what is delivered from it.
//!
//! Owns: [`Parked`]. No futures: the steps are taken in [`super::parking`].
//! Invariants: `settled <= next <= end`; between `settled` and `next` is what the lane has; what is beyond `end` belongs
//! to an append under way and is not touched.
//! Must not know: how a lane gets stuck, when a step is taken.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::lane::Lane;
use super::log::{Appended, Log};
use super::place::{Item, Place};
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
    /// Has expired and is counted, and is met again in the side queue by the next read.
    pub(super) expired: BTreeSet<Offset>,
    /// Reading, delivering or burying: has one of the slots.
    pub(super) active: bool,
    /// Active, and holds the lower ranks up by it.
    pub(super) holds: bool,
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
            expired: BTreeSet::new(),
            active: false,
            holds: false,
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

    /// Takes out what waits to be moved and has expired by `now`, or lies below `gone` in the main queue. Not while an append
    /// of it is under way: then it is judged in the side queue. Not what is being delivered.
    pub(super) fn take_expired(&mut self, now: Instant, gone: Offset) -> Vec<Place> {
        if self.moving {
            return Vec::new();
        }
        let head = self.hold_under_way();
        let (over, kept) =
            std::mem::take(&mut self.hold).into_iter().enumerate().partition::<Vec<_>, _>(
                |(at, place)| *at >= head && (place.offset < gone || place.is_expired(now)),
            );
        self.hold = kept.into_iter().map(|(_, place)| place).collect();
        over.into_iter().map(|(_, place)| place).collect()
    }

    /// When the first of what [`Self::take_expired`] may take expires.
    pub(super) fn expiry(&self) -> Option<Instant> {
        let free = if self.moving { self.hold.len() } else { self.hold_under_way() };
        self.hold.iter().skip(free).filter_map(|place| place.expires).min()
    }

    /// So many of the first in `hold` are in the delivery that was under way when the sender was parked.
    fn hold_under_way(&self) -> usize {
        let in_side = usize::try_from(self.end.0 - self.next.0).unwrap_or(usize::MAX);
        self.inherited.unwrap_or(0).saturating_sub(in_side)
    }

    /// Skips what the store has removed from the side queue; says whether there was any. What is being delivered, or was
    /// and is counted from `next`, comes first.
    pub(super) fn catch_up(&mut self) -> bool {
        let counts = self.inherited.is_some() || self.delivered_head > 0;
        let Some(log) = self.log.as_ref().filter(|_| !counts) else {
            return false;
        };
        let settled = log.settled().min(self.end);
        let skips = settled > self.next;
        self.next = self.next.max(settled);
        skips
    }

    /// Sorts what was read from the side queue: messages into the lane, up to a record that is none.
    pub(super) fn take_in(&mut self, records: Vec<Record>, next: Offset) -> TakenIn {
        // What an append under way has already made durable is ours when the append has ended, and is counted then.
        self.expired = self.expired.split_off(&self.next);
        self.next = next.clamp(self.next, self.end);
        let mut sender: Option<Identity> = None;
        for record in records {
            if record.offset >= self.end {
                break;
            }
            if self.expired.contains(&record.offset) {
                continue;
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
            self.next = log.settled().min(self.end);
        }
    }
}
