//! The steps of a parked sender's life: move in (append, durable), drain, be deleted, become a lane again.
//!
//! Owns: the order of these steps. Invariants: a record is finished in the main queue only after it is durable in the
//! side queue; as long as the side queue holds anything or anything of it is under way, the sender's newer messages go
//! through it; between attempts a parked sender holds no messages in memory, except those that wait for their append.
//! Must not know: how a lane gets stuck.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lane::{Lane, Verdict};
use super::log::{Appended, Entry, Log, LogError};
use super::parked::{Name, Parked, TakenIn};
use super::patience::{READ_PAUSE, read_patiently};
use super::place::{Item, Place};
use super::run::{Burial, End, Event, Running, Who};
use crate::deliver::Outcome;
use crate::identity::Identity;
use crate::message::Message;
use crate::store::{Chunk, Offset, QueueId};

impl Running {
    fn side_id(&self, name: &Name) -> QueueId {
        QueueId { lane: Some(Arc::clone(name)), ..self.queue.clone() }
    }

    /// Takes up a side queue that was found on disk.
    pub(super) fn adopt(&mut self, id: QueueId) {
        let Some(name) = id.lane.clone() else { return };
        self.parked.insert(Arc::clone(&name), Parked::new(id, Lane::new()));
        self.advance_parked(&name);
    }

    /// Moves `sender`'s lane to its own side queue, if there is room among the parked.
    pub(super) fn park(&mut self, sender: &Identity) {
        if self.parked.len() >= self.config.parked_lanes_max {
            if let Some(lane) = self.lanes.get_mut(sender).filter(|l| !l.park_refused) {
                lane.park_refused = true;
                self.metrics.counted("park_refused", "parked_lanes_max");
                tracing::warn!(queue = %self.queue, %sender, "sender is stuck and too many are parked: it holds its \
                     share of the window; see parked_lanes_max");
            }
            return;
        }
        let Some(mut lane) = self.lanes.remove(sender) else {
            return;
        };
        let name: Name = sender.to_string().into();
        let (places, under_way) = lane.surrender();
        tracing::warn!(queue = %self.queue, %sender, messages = places.len(), "sender is stuck: parked in a side queue");
        self.metrics.counted("lane", "parked");
        let mut parked = Parked::new(self.side_id(&name), lane);
        parked.inherited = parked.lane.is_busy().then_some(under_way);
        if let Some(until) = parked.lane.resting_until() {
            self.timers.add(until, Who::Parked(Arc::clone(&name)));
        }
        parked.hold = places.into();
        self.parked.insert(Arc::clone(&name), parked);
        self.advance_parked(&name);
    }

    /// Starts whatever can be started for a parked sender.
    pub(super) fn advance_parked(&mut self, name: &Name) {
        let now = self.clock.monotonic();
        if self.stopping {
            return;
        }
        let Some(parked) = self.parked.get_mut(name) else {
            return;
        };
        if !parked.active {
            parked.catch_up();
        }
        if parked.is_spent() {
            parked.deleting = true;
            self.start_delete(name);
        } else if parked.may_move(now) {
            parked.moving = true;
            self.start_move(name);
        }
        let Some(parked) = self.parked.get_mut(name) else {
            return;
        };
        if parked.may_drain() {
            parked.queued = true;
            self.parked_ring.push_back(Arc::clone(name));
        }
    }

    fn start_move(&mut self, name: &Name) {
        let Some(parked) = self.parked.get(name) else {
            return;
        };
        let (logs, id, name) = (Arc::clone(&self.logs), parked.id.clone(), Arc::clone(name));
        let log = parked.log.clone();
        let entries: Vec<Entry> = parked.hold.iter().map(Place::entry).collect();
        self.start(async move {
            let nothing = |result| Appended { durable: 0, result };
            let log = match log {
                Some(log) => log,
                None => match logs.open(&id).await {
                    Ok(log) => log,
                    Err(e) => {
                        return Event::Moved { name, log: None, appended: nothing(Err(e)) };
                    }
                },
            };
            // What is in the queue before this append: only this pump appends to it.
            let end = *log.durable_end().borrow();
            let appended =
                if entries.is_empty() { nothing(Ok(())) } else { logs.append(&id, entries).await };
            Event::Moved { name, log: Some((log, end)), appended }
        });
    }

    /// An append to a side queue has ended: what is durable there is finished here.
    pub(super) fn on_moved(
        &mut self,
        name: &Name,
        log: Option<(Arc<dyn Log>, Offset)>,
        appended: Appended,
    ) -> Result<(), LogError> {
        let parked = self.parked.get_mut(name).expect("a sender stays parked while it moves");
        if let (None, Some((log, end))) = (&parked.log, log) {
            parked.next = log.settled();
            parked.end = end;
            parked.log = Some(log);
        }
        let mut finished = parked.moved(&appended);
        finished.extend(parked.settle_delivered_head());
        match appended.result {
            Ok(()) => parked.move_failures = 0,
            Err(LogError::Gone(e)) => return Err(LogError::Gone(e)),
            Err(LogError::Full(why)) => {
                parked.move_failures += 1;
                let pause = self.config.backoff.pause(parked.move_failures, &mut self.rng);
                let at = self.clock.monotonic() + pause;
                parked.move_not_before = Some(at);
                // No new attempt to park before that either, should it fall back to a plain lane.
                parked.lane.park_not_before(at);
                self.metrics.counted("park_failed", "full");
                tracing::warn!(queue = %parked.id, %why, "no room to park: trying again later");
                self.timers.add(at, Who::Parked(Arc::clone(name)));
            }
        }
        self.sweeps.note(parked.expiry());
        for place in finished {
            self.window.finish(place.offset);
        }
        self.advance_parked(name);
        Ok(())
    }

    /// Gives the parked lanes their turns.
    pub(super) fn start_parked(&mut self, now: Instant) {
        while self.parked_active < self.config.parked_deliveries_max && self.may_send() {
            let Some(name) = self.parked_ring.pop_front() else {
                break;
            };
            let Some(parked) = self.parked.get_mut(&name) else {
                continue;
            };
            parked.queued = false;
            parked.catch_up();
            if !parked.may_drain() {
                self.advance_parked(&name);
                continue;
            }
            (parked.active, parked.holds) = (true, !parked.lane.is_failing());
            self.parked_active += 1;
            self.parked_holding += usize::from(parked.holds);
            self.started_at = Some(now);
            let log = Arc::clone(parked.log.as_ref().expect("may drain: is open"));
            let messages = parked.lane.batch_messages_max(&self.config);
            let (from, bytes) = (parked.next, self.config.batch_bytes_max);
            self.start(async move {
                let chunk = read_patiently(&*log, from, messages, bytes).await;
                Event::SideRead { name, chunk }
            });
        }
    }

    /// A batch of a side queue is here: deliver it.
    pub(super) fn on_side_read(
        &mut self,
        name: &Name,
        chunk: Result<Chunk, LogError>,
    ) -> Result<(), End> {
        let chunk = chunk?;
        let now = self.clock.monotonic();
        let who = Who::Parked(Arc::clone(name));
        let parked = self.parked.get_mut(name).expect("a sender stays parked while it is read");
        let taken = parked.take_in(chunk.records, chunk.next);
        self.expire_side(name, now);
        let may_send = self.may_send();
        let parked = self.parked.get_mut(name).expect("a sender stays parked while it is read");
        match taken {
            TakenIn::Messages(sender) if may_send && parked.lane.wants_turn() => {
                if let Some(burial) = parked.lane.take_condemned() {
                    parked.lane.forget_waiting();
                    parked.next = burial.place.offset.next();
                    self.start_burial(who, burial);
                } else {
                    let batch = parked.lane.take_batch(now, &self.config);
                    self.start_delivery(who, sender, batch);
                }
            }
            TakenIn::Messages(_) if parked.lane.wants_turn() => {
                parked.rewind();
                self.release_parked(name);
            }
            TakenIn::NoMessage(place, why) => {
                parked.lane.bury();
                self.bury_damaged(who, &self.side_id(name), place, why)?;
            }
            TakenIn::Nothing | TakenIn::Messages(_) => {
                // All that was read was damaged or has expired; or the store has removed it; or it does not show its end yet.
                let log = parked.log.as_ref().expect("what was read came from an open queue");
                if parked.next > log.settled() {
                    log.settle(parked.next);
                } else if !parked.catch_up() {
                    self.timers.add(parked.lane.pause_until(now + READ_PAUSE), who);
                }
                self.release_parked(name);
            }
        }
        Ok(())
    }

    /// Ends a parked lane's turn.
    fn release_parked(&mut self, name: &Name) {
        if let Some(parked) = self.parked.get_mut(name) {
            self.parked_active -= 1;
            self.parked_holding -= usize::from(parked.holds);
            (parked.active, parked.holds) = (false, false);
        }
        self.advance_parked(name);
    }

    /// A delivery out of a side queue was answered.
    pub(super) fn on_parked_sent(
        &mut self,
        name: &Name,
        outcome: Outcome,
        messages: Vec<Message>,
    ) -> Option<Verdict> {
        let now = self.clock.monotonic();
        let parked = self.parked.get_mut(name)?;
        let verdict = parked.lane.judge(outcome, messages, now, &self.config, &mut self.rng);
        match &verdict {
            Verdict::Finish(places, _) => {
                let last = places.last().expect("a batch is not empty").offset;
                let log = parked.log.as_ref().expect("a delivery came from an open queue");
                // Up to the next read when all of the last one is done: corrupt records may have been skipped.
                log.settle(if parked.lane.is_empty() { parked.next } else { Offset(last.0 + 1) });
                parked.rewind();
            }
            Verdict::Rest(until) => {
                parked.rewind();
                self.timers.add(*until, Who::Parked(Arc::clone(name)));
            }
            Verdict::Split | Verdict::Away => parked.rewind(),
            // The slot stays taken until the letter is durable.
            Verdict::Bury { place, .. } => {
                parked.lane.forget_waiting();
                parked.next = Offset(place.offset.0 + 1);
                return Some(verdict);
            }
        }
        self.release_parked(name);
        Some(verdict)
    }

    /// The burial of the record at `offset` of a side queue has ended: its letter is durable, or there is no room for it
    /// and the lane rests.
    pub(super) fn on_parked_buried(&mut self, name: &Name, burial: Burial, buried: bool) {
        let now = self.clock.monotonic();
        if let Some(parked) = self.parked.get_mut(name) {
            if !buried {
                if burial.message.is_some() {
                    parked.lane.condemn(&burial);
                }
                let backoff = self.config.backoff;
                let until = parked.lane.fail(now, backoff, Duration::ZERO, &mut self.rng);
                parked.rewind();
                self.timers.add(until, Who::Parked(Arc::clone(name)));
            } else {
                parked.lane.buried();
                if let Some(log) = &parked.log {
                    log.settle(burial.place.offset.next());
                }
            }
        }
        self.release_parked(name);
    }

    /// The delivery that was under way when its sender was parked was answered.
    pub(super) fn on_inherited_sent(
        &mut self,
        sender: &Identity,
        outcome: Outcome,
        messages: Vec<Message>,
    ) -> Option<Verdict> {
        let now = self.clock.monotonic();
        let name: Name = sender.to_string().into();
        let parked = self.parked.get_mut(&name)?;
        let count = parked.inherited.take().expect("only a surrendered delivery arrives here");
        let verdict = parked.lane.judge_late(outcome, messages, now, &self.config, &mut self.rng);
        let mut finished = Vec::new();
        match &verdict {
            Verdict::Finish(..) => {
                parked.delivered_head = count;
                finished = parked.settle_delivered_head();
            }
            Verdict::Rest(until) => self.timers.add(*until, Who::Parked(Arc::clone(&name))),
            _ => {}
        }
        self.sweeps.note(parked.expiry());
        for place in finished {
            self.window.finish(place.offset);
        }
        self.advance_parked(&name);
        Some(verdict)
    }

    fn start_delete(&mut self, name: &Name) {
        let (logs, id, name) = (Arc::clone(&self.logs), self.side_id(name), Arc::clone(name));
        self.start(async move {
            let result = logs.delete_if_empty(&id).await;
            Event::Deleted { name, result }
        });
    }

    /// The side queue is gone: the sender is a plain lane again.
    pub(super) fn on_deleted(
        &mut self,
        name: &Name,
        result: Result<bool, LogError>,
    ) -> Result<(), End> {
        match result {
            Ok(true) => {}
            Err(LogError::Gone(e)) => return Err(LogError::Gone(e).into()),
            // An empty side queue on disk does no harm: the next start finds it empty and deletes it.
            Ok(false) | Err(LogError::Full(_)) => {
                self.metrics.counted("side_queue_kept", "not_deleted");
                tracing::warn!(queue = %self.queue, %name, "an empty side queue could not be deleted");
            }
        }
        let parked =
            self.parked.remove(name).expect("a sender stays parked while its queue is deleted");
        self.metrics.counted("lane", "unparked");
        tracing::info!(queue = %self.queue, sender = %name, "side queue is drained: no longer parked");
        let Parked { mut lane, hold, .. } = parked;
        let mut sender = None;
        for place in hold {
            match Message::decode(place.stored.clone()) {
                Ok(message) => {
                    sender.get_or_insert_with(|| message.source.sender.clone());
                    lane.push(Item { place, message });
                }
                Err(e) => self.bury_damaged(Who::Stray, &self.queue.clone(), place, e)?,
            }
        }
        if let Some(sender) = sender {
            lane.queued = false;
            lane.park_refused = false;
            if let Some(until) = lane.resting_until() {
                self.timers.add(until, Who::Lane(sender.clone()));
            }
            self.lanes.insert(sender.clone(), lane);
            self.enqueue(&sender);
        }
        Ok(())
    }

    /// A timer of a parked sender has fired.
    pub(super) fn on_parked_timer(&mut self, name: &Name, now: Instant) {
        if let Some(parked) = self.parked.get_mut(name) {
            parked.lane.wake(now);
            self.advance_parked(name);
        }
    }
}
