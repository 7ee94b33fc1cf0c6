//! What the pump does with an answer: finish, rest, wait for the endpoint, or bury.
//!
//! Owns: the counting of outcomes, and the way to the dead letters. The verdict itself is the lane's.
//! Invariant: every outcome that is not a delivery is counted with its reason.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::deadletter::DeadLetter;
use super::lane::{Surroundings, Verdict};
use super::log::LogError;
use super::patience::READ_PAUSE;
use super::run::{Burial, End, Event, Running, Who};
use crate::deliver::Outcome;
use crate::identity::Identity;
use crate::message::{Message, SystemKey};

/// What the metrics tell messages apart by.
fn series(message: &Message) -> (&Identity, Option<&str>) {
    (&message.source.sender, message.system.get(SystemKey::OutputName))
}

impl Running {
    /// Hands a batch to the endpoint.
    pub(super) fn start_delivery(&mut self, who: Who, sender: Identity, batch: Vec<Message>) {
        let (endpoint, clock) = (Arc::clone(&self.endpoint), Arc::clone(&self.clock));
        self.start(async move {
            let started = clock.monotonic();
            let outcome = endpoint.deliver(&sender, &batch).await;
            let took = clock.monotonic() - started;
            Event::Sent { who, sender, batch, outcome, took }
        });
    }

    /// A delivery was answered.
    pub(super) fn on_sent(
        &mut self,
        who: &Who,
        sender: &Identity,
        batch: Vec<Message>,
        outcome: Outcome,
        took: Duration,
    ) {
        let now = self.clock.monotonic();
        let (outcome, batch) = match outcome {
            Outcome::Partly { delivered, then } => {
                (*then, self.finish_first(who, sender, batch, delivered, took))
            }
            whole => (whole, batch),
        };
        self.count(sender, &outcome);
        // What has come back may have expired meanwhile.
        let mut may_have_expired = true;
        let verdict = match who {
            Who::Parked(name) => self.on_parked_sent(name, outcome, batch),
            Who::Lane(_) | Who::Stray => {
                self.sending -= 1;
                match self.lanes.get_mut(sender) {
                    Some(lane) => {
                        let verdict = lane.judge(outcome, batch, now, &self.config, &mut self.rng);
                        may_have_expired = lane.may_have_expired(now, self.log.settled());
                        self.sweeps.note(lane.expiry());
                        Some(verdict)
                    }
                    None => self.on_inherited_sent(sender, outcome, batch),
                }
            }
        };
        let Some(verdict) = verdict else { return };
        if may_have_expired {
            self.expire_lane(sender, now);
        }
        if let Verdict::Finish(_, messages) = &verdict {
            self.delivered_at = Some(now);
            self.note_pace(took, now);
            self.offline_streak = 0;
            self.refill.note(took, now);
            self.count_delivered(messages, took);
        }
        match verdict {
            Verdict::Away => self.go_offline(),
            Verdict::Bury { place, message, reason, detail } => {
                tracing::warn!(queue = %self.queue, %sender, reason, detail, "message refused for good: to the dead letters");
                let burial = Burial { place, message: Some(message), reason, detail };
                self.start_burial(who.clone(), burial);
            }
            Verdict::Finish(places, _) if matches!(who, Who::Lane(_)) => {
                places.iter().for_each(|p| self.window.finish(p.offset));
            }
            Verdict::Rest(until) if matches!(who, Who::Lane(_)) => self.on_rest(sender, now, until),
            Verdict::Finish(..) | Verdict::Rest(_) | Verdict::Split => {}
        }
        if let Who::Lane(sender) = who {
            self.enqueue(sender);
        }
    }

    /// The first `delivered` of `batch` are done with; gives the others. A delivery that was under way when its sender was
    /// parked is judged as a whole: then all of it is repeated, from the side queue.
    fn finish_first(
        &mut self,
        who: &Who,
        sender: &Identity,
        mut batch: Vec<Message>,
        delivered: usize,
        took: Duration,
    ) -> Vec<Message> {
        if delivered == 0 || delivered >= batch.len() {
            return batch;
        }
        match who {
            Who::Parked(name) => {
                let Some(parked) = self.parked.get_mut(name) else { return batch };
                let places = parked.lane.finish_first(delivered);
                let last = places.last().expect("one at least").offset;
                parked.log.as_ref().expect("it came from an open queue").settle(last.next());
            }
            Who::Lane(_) => {
                let Some(lane) = self.lanes.get_mut(sender) else { return batch };
                let places = lane.finish_first(delivered);
                places.iter().for_each(|p| self.window.finish(p.offset));
            }
            Who::Stray => return batch,
        }
        let rest = batch.split_off(delivered);
        (self.delivered_at, self.offline_streak) = (Some(self.clock.monotonic()), 0);
        self.count_delivered(&batch, took);
        rest
    }

    fn on_rest(&mut self, sender: &Identity, now: Instant, until: Instant) {
        let Some(lane) = self.lanes.get(sender) else {
            return;
        };
        self.timers.add(until, Who::Lane(sender.clone()));
        // The first failure sets the second timer: when the lane has to be parked at the latest.
        if lane.failing_since() == Some(now) {
            self.timers.add(now + self.config.park_after, Who::Lane(sender.clone()));
        }
        self.consider_parking(sender, now);
    }

    fn count(&self, sender: &Identity, outcome: &Outcome) {
        match outcome {
            Outcome::Delivered | Outcome::Partly { .. } => {}
            Outcome::Retry { reason, after } => {
                self.metrics.send_retried(sender);
                self.metrics.counted("delivery_retry", reason);
                tracing::debug!(queue = %self.queue, %sender, reason, ?after, "delivery to be repeated");
            }
            Outcome::Offline => self.metrics.counted("delivery_retry", "offline"),
            Outcome::Rejected { reason, .. } => self.metrics.counted("delivery_rejected", reason),
            Outcome::Unauthenticated { detail } => {
                self.metrics.counted("delivery_retry", "unauthenticated");
                tracing::warn!(queue = %self.queue, %sender, detail, "the endpoint does not accept this sender: its \
                     messages are kept; check that the device is enabled and in the gateway's scope");
            }
        }
    }

    fn count_delivered(&self, messages: &[Message], took: Duration) {
        let wall = self.clock.wall().0;
        // The series are looked up once for a run of messages that share them: mostly the whole batch does.
        for run in messages.chunk_by(|a, b| series(a) == series(b)) {
            let (sender, output) = series(&run[0]);
            let process =
                run.iter().map(|m| Duration::from_millis(wall.saturating_sub(m.received.0)));
            match &self.input {
                None => self.metrics.messages_sent(sender, output, self.priority, took, process),
                Some(to) => {
                    let from = (sender, output);
                    self.metrics.messages_sent_to(to, from, self.priority, took, process);
                }
            }
        }
        if self.queue.live {
            let count = messages.len() as u64;
            self.metrics.counted_many("message_delivered", "live", count);
        }
    }

    /// The endpoint is away: nobody's fault, so nobody's back-off grows. The first time it is simply awaited; when it
    /// keeps saying that it is ready and is not, a pause goes before.
    fn go_offline(&mut self) {
        if self.ready.is_some() {
            return;
        }
        if self.offline_streak == 0 {
            tracing::warn!(queue = %self.queue, "endpoint is away: messages are kept");
        }
        let pause = match self.offline_streak {
            0 => Duration::ZERO,
            n => self.config.flapping_backoff.pause(n, &mut self.rng),
        };
        self.offline_streak = self.offline_streak.saturating_add(1);
        self.lanes.values_mut().for_each(|lane| lane.restart_failing(None));
        self.await_endpoint(pause);
    }

    /// The endpoint can be tried again. Lanes that still rest count their failing from now.
    pub(super) fn on_ready(&mut self) {
        let now = self.clock.monotonic();
        if self.offline_streak > 0 {
            tracing::info!(queue = %self.queue, "endpoint can be tried again");
        }
        self.delivered_at = None;
        for (sender, lane) in &mut self.lanes {
            lane.restart_failing(Some(now));
            if lane.is_resting() {
                self.timers.add(now + self.config.park_after, Who::Lane(sender.clone()));
            }
        }
    }

    /// A delivery that took so long got through just now.
    fn note_pace(&mut self, took: Duration, now: Instant) {
        if self.slowest(now).is_none_or(|slowest| slowest <= took) {
            self.slow = Some((took, now));
        }
    }

    /// The longest that a delivery took among those that got through lately.
    fn slowest(&self, now: Instant) -> Option<Duration> {
        self.slow.filter(|(_, at)| now - *at < self.config.pending_max).map(|(took, _)| took)
    }

    /// From when on a pending delivery counts as stuck. After a reconnect the hub lets senders in one after the other: who
    /// waits about as long as those who were served lately is only waiting in line.
    pub(super) fn pending_max(&self, now: Instant) -> Duration {
        let usual = self.slowest(now).unwrap_or_default();
        self.config.pending_max.max(2 * usual)
    }

    /// When [`Self::pending_max`] is judged anew, if nothing gets through until then.
    pub(super) fn pace_ends(&self, now: Instant) -> Option<Instant> {
        self.slow.map(|(_, at)| at + self.config.pending_max).filter(|at| *at > now)
    }

    /// Parks `sender`'s lane if it is in the others' way.
    pub(super) fn consider_parking(&mut self, sender: &Identity, now: Instant) {
        if self.ready.is_some() || self.stopping {
            return;
        }
        let Some(lane) = self.lanes.get(sender) else {
            return;
        };
        if !lane.is_resting() && lane.sending_since().is_none() {
            return;
        }
        let failing = self.lanes.values().filter(|l| l.failing_since().is_some()).count();
        let alone = self.lanes.len() == 1;
        let holds_full_window = self.window.room().is_none()
            && self.window.head().is_some_and(|head| head.as_ref() == Some(sender));
        let served = self.delivered_at.is_some_and(|at| now - at < self.config.pending_max);
        let around = Surroundings {
            holds_full_window,
            others_are_well: alone || failing * 2 <= self.lanes.len(),
            others_are_served: alone || served,
            pending_max: self.pending_max(now),
        };
        if lane.should_park(now, &self.config, around) {
            self.park(sender);
        }
    }

    /// Keeps a record among the dead letters. What it belongs to waits meanwhile; a record that is nobody's is tried until
    /// there is room.
    pub(super) fn start_burial(&mut self, who: Who, burial: Burial) {
        let letter = DeadLetter {
            stored: burial.place.stored.clone(),
            died: self.clock.wall(),
            count: 1,
            reason: burial.reason.to_owned(),
            detail: burial.detail.clone(),
        };
        let (dead, metrics) = (Arc::clone(&self.dead), Arc::clone(&self.metrics));
        self.start(async move {
            loop {
                let result = dead.keep(&letter).await;
                if let Err(LogError::Full(why)) = &result {
                    metrics.counted("dead_letter_delayed", "full");
                    tracing::warn!(%why, "no room for a dead letter: trying again later");
                    if who == Who::Stray {
                        tokio::time::sleep(READ_PAUSE).await;
                        continue;
                    }
                }
                return Event::Buried { who, burial, result };
            }
        });
    }

    /// A burial has ended: if the dead letter is durable its record is finished, else its sender rests and tries again.
    pub(super) fn on_buried(
        &mut self,
        who: &Who,
        burial: Burial,
        result: Result<(), LogError>,
    ) -> Result<(), End> {
        if let Err(gone @ LogError::Gone(_)) = result {
            return Err(gone.into());
        }
        let buried = result.is_ok();
        if buried {
            self.metrics.counted("dead_letter", burial.reason);
            if let Some(Message { source, system, .. }) = &burial.message {
                let output = system.get(SystemKey::OutputName);
                self.metrics.message_dropped(burial.reason, &source.sender, output);
            }
        }
        match who {
            Who::Parked(name) => self.on_parked_buried(name, burial, buried),
            Who::Lane(sender) if buried => {
                self.window.finish(burial.place.offset);
                if let Some(lane) = self.lanes.get_mut(sender) {
                    lane.buried();
                }
                self.enqueue(sender);
            }
            Who::Lane(sender) => self.on_unburied(sender, burial),
            Who::Stray => self.window.finish(burial.place.offset),
        }
        Ok(())
    }

    /// There was no room for the dead letter of a lane's message.
    fn on_unburied(&mut self, sender: &Identity, burial: Burial) {
        let now = self.clock.monotonic();
        let Some(lane) = self.lanes.get_mut(sender) else {
            return;
        };
        lane.unbury(burial);
        let until = lane.fail(now, self.config.backoff, Duration::ZERO, &mut self.rng);
        self.expire_lane(sender, now);
        self.on_rest(sender, now, until);
    }
}
