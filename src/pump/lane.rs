//! One sender's messages on their way: what waits, what is under way, and when the next attempt is due.
//!
//! Owns: [`Lane`], the verdict on an outcome, and the rule when a lane gets out of the others' way ([`Lane::should_park`]).
//! Pure: no tokio; `now` and random numbers come in.
//!
//! Invariants: at most one delivery of a lane is under way; what comes back goes to the front, so the order of a sender's
//! first deliveries is the order of its queue (without what expired on the way); when a batch is refused, the lane halves it until the bad message stands
//! alone (about 2 x log2(batch) sends), then doubles again with every success, so a stream of bad ones costs one send each.
//! Must not know: queues, the window, the store.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::Rng;

use super::Config;
use super::backoff::Backoff;
use super::place::{Item, Place};
use super::run::Burial;
use crate::deliver::Outcome;
use crate::message::Message;
use crate::store::Offset;

/// What a message costs in a batch beyond its stored bytes: AMQP sections and annotations (an estimate on the safe side:
/// the stored form already spends 5 to 9 bytes per property, as AMQP does).
const BATCH_OVERHEAD_BYTES: usize = 128;

/// What a lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// May start a delivery.
    Free,
    /// A delivery is under way.
    Sending { since: Instant },
    /// A message is on its way to the dead letters.
    Burying,
    /// Waits before the next attempt.
    Resting { until: Instant },
}

/// What is to be done after an outcome.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Delivered: these places are finished.
    Finish(Vec<Place>, Vec<Message>),
    /// The lane rests until then.
    Rest(Instant),
    /// The endpoint is away; the lane is as it was before.
    Away,
    /// Refused as a batch: the lane goes on with a smaller one.
    Split,
    /// Refused alone: to the dead letters.
    Bury { place: Place, message: Message, reason: &'static str, detail: String },
}

/// How the others fare, for the decision to park.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings {
    /// The window is full and its oldest message is this lane's.
    pub(super) holds_full_window: bool,
    /// Fewer than half of the lanes are failing, or there is only this one.
    pub(super) others_are_well: bool,
    /// Something was delivered lately, or there is only this lane.
    pub(super) others_are_served: bool,
    /// From when on a delivery that is pending is an unusual one.
    pub(super) pending_max: Duration,
}

/// One sender's messages in order.
#[derive(Debug)]
pub(super) struct Lane {
    waiting: VecDeque<Item>,
    flight: Vec<Place>,
    state: State,
    bytes: usize,
    /// Nothing that waits expires before; `None`: nothing does.
    expiry: Option<Instant>,
    failures: u32,
    failing_since: Option<Instant>,
    batch_limit: usize,
    /// A refused message is known to be among the next so many.
    suspects: usize,
    /// The first that waits, with this digest, is refused already, in these words, and found no room among the dead letters.
    condemned: Option<(u64, &'static str, String)>,
    park_not_before: Option<Instant>,
    /// In the ring of lanes whose turn comes.
    pub(super) queued: bool,
    /// Already counted as one that found no room among the parked.
    pub(super) park_refused: bool,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            flight: Vec::new(),
            state: State::Free,
            bytes: 0,
            expiry: None,
            failures: 0,
            failing_since: None,
            batch_limit: usize::MAX,
            suspects: 0,
            condemned: None,
            park_not_before: None,
            queued: false,
            park_refused: false,
        }
    }

    pub(super) fn push(&mut self, item: Item) {
        self.bytes += item.place.stored.len();
        self.expiry = earlier(self.expiry, item.place.expires);
        self.waiting.push_back(item);
    }

    /// When to look at the latest for messages that have expired while they wait.
    pub(super) fn expiry(&self) -> Option<Instant> {
        self.expiry
    }

    /// Whether [`Self::take_expired`] would look through what waits.
    pub(super) fn may_have_expired(&self, now: Instant, gone: Offset) -> bool {
        let front_is_gone = self.waiting.front().is_some_and(|i| i.place.offset < gone);
        front_is_gone || self.expiry.is_some_and(|at| at <= now)
    }

    /// Takes out what waits and has expired, or lies below `gone`: the store has removed that. What is under way stays.
    pub(super) fn take_expired(&mut self, now: Instant, gone: Offset) -> Vec<Item> {
        if !self.may_have_expired(now, gone) {
            return Vec::new();
        }
        let mut expired = Vec::new();
        let suspects = self.suspects.saturating_sub(self.flight.len());
        for (at, item) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            if item.place.offset < gone || item.place.is_expired(now) {
                self.suspects -= usize::from(at < suspects);
                self.bytes -= item.place.stored.len();
                expired.push(item);
            } else {
                self.waiting.push_back(item);
            }
        }
        self.expiry = self.waiting.iter().filter_map(|i| i.place.expires).min();
        expired
    }

    /// Has something to deliver and may start now.
    pub(super) fn wants_turn(&self) -> bool {
        self.state == State::Free && !self.waiting.is_empty()
    }

    /// Does not fail, and has more to send behind what it has been sending for less than `pending_max`.
    pub(super) fn is_on_the_move(&self, now: Instant, pending_max: Duration) -> bool {
        let sends = matches!(self.state, State::Sending { since } if now - since < pending_max);
        sends && !self.is_failing() && !self.waiting.is_empty()
    }

    /// Nothing has got through since the last failure.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// No delivery, burial or rest under way.
    pub(super) fn is_free(&self) -> bool {
        self.state == State::Free
    }

    /// Nothing waits, nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.flight.is_empty() && self.state == State::Free
    }

    pub(super) fn is_resting(&self) -> bool {
        matches!(self.state, State::Resting { .. })
    }

    pub(super) fn is_busy(&self) -> bool {
        matches!(self.state, State::Sending { .. } | State::Burying)
    }

    /// Since when the delivery that is under way has been pending.
    pub(super) fn sending_since(&self) -> Option<Instant> {
        match self.state {
            State::Sending { since } => Some(since),
            _ => None,
        }
    }

    /// Since when nothing of this lane has got through, while it waits to try again.
    pub(super) fn failing_since(&self) -> Option<Instant> {
        self.failing_since
    }

    /// How many messages the next batch may have.
    pub(super) fn batch_messages_max(&self, config: &Config) -> usize {
        self.batch_limit.min(config.batch_messages_max).max(1)
    }

    /// Takes the next batch out for delivery: at least one message.
    pub(super) fn take_batch(&mut self, now: Instant, config: &Config) -> Vec<Message> {
        assert!(self.wants_turn(), "one delivery at a time, and never an empty one");
        let most = self.batch_messages_max(config).min(self.waiting.len());
        let mut messages = Vec::with_capacity(most);
        self.flight.reserve(most);
        let mut bytes = 0;
        while messages.len() < self.batch_messages_max(config) {
            let Some(size) = self.waiting.front().map(|i| i.place.stored.len()) else {
                break;
            };
            bytes += size + BATCH_OVERHEAD_BYTES;
            if !messages.is_empty() && bytes > config.batch_bytes_max {
                break;
            }
            let Some(item) = self.waiting.pop_front() else {
                break;
            };
            self.flight.push(item.place);
            messages.push(item.message);
        }
        self.state = State::Sending { since: now };
        messages
    }

    /// Judges the outcome of the delivery that was under way.
    pub(super) fn judge(
        &mut self,
        outcome: Outcome,
        messages: Vec<Message>,
        now: Instant,
        config: &Config,
        rng: &mut impl Rng,
    ) -> Verdict {
        match outcome {
            Outcome::Delivered => {
                self.failures = 0;
                self.failing_since = None;
                self.state = State::Free;
                self.suspects = self.suspects.saturating_sub(messages.len());
                self.batch_limit = match self.suspects {
                    0 => self.batch_limit.saturating_mul(2),
                    suspects => (suspects / 2).max(1),
                };
                Verdict::Finish(self.take_flight(), messages)
            }
            Outcome::Retry { after, .. } => {
                self.put_back(messages);
                let least = after.unwrap_or_default();
                Verdict::Rest(self.fail(now, config.backoff, least, rng))
            }
            Outcome::Unauthenticated { .. } => {
                self.put_back(messages);
                let backoff = config.unauthenticated_backoff;
                Verdict::Rest(self.fail(now, backoff, Duration::ZERO, rng))
            }
            Outcome::Offline => {
                self.put_back(messages);
                self.state = State::Free;
                Verdict::Away
            }
            Outcome::Rejected { reason, detail } => self.refused(messages, reason, detail),
            // What is delivered was taken out by [`Self::finish_first`]; whoever could not do that repeats it.
            Outcome::Partly { then, .. } => self.judge(*then, messages, now, config, rng),
        }
    }

    /// The first `count` messages of the delivery under way are delivered, whatever becomes of the others: these places are
    /// finished. Fewer than are under way.
    pub(super) fn finish_first(&mut self, count: usize) -> Vec<Place> {
        assert!(count < self.flight.len(), "the others are still to be judged");
        let first: Vec<Place> = self.flight.drain(..count).collect();
        self.bytes -= first.iter().map(|p| p.stored.len()).sum::<usize>();
        (self.failures, self.failing_since) = (0, None);
        self.suspects = self.suspects.saturating_sub(count);
        first
    }

    fn refused(
        &mut self,
        mut messages: Vec<Message>,
        reason: &'static str,
        detail: String,
    ) -> Verdict {
        if messages.len() > 1 {
            self.split(messages.len());
            self.put_back(messages);
            return Verdict::Split;
        }
        self.suspects = 0;
        self.state = State::Burying;
        let message = messages.pop().expect("a batch is not empty");
        let place = self.take_flight().pop().expect("a message under way has a place");
        Verdict::Bury { place, message, reason, detail }
    }

    /// Starts the burial of a record that never was a message.
    pub(super) fn bury(&mut self) {
        self.state = State::Burying;
    }

    /// There was no room for the dead letter of what [`Self::judge`] gave out: it waits again, condemned. The lane is to
    /// rest until then, so that it can be parked and blocks nobody.
    pub(super) fn unbury(&mut self, burial: Burial) {
        self.condemn(&burial);
        let Burial { place, message, .. } = burial;
        if let Some(message) = message {
            self.push_front(Item { place, message });
        }
    }

    /// When this message is the first that waits, here or in a side queue, it is buried and not delivered again.
    pub(super) fn condemn(&mut self, burial: &Burial) {
        let Burial { place, reason, detail, .. } = burial;
        self.condemned = Some((place.digest(), reason, detail.clone()));
        (self.suspects, self.batch_limit) = (1, 1);
    }

    /// Starts the burial of a first message that was refused before.
    pub(super) fn take_condemned(&mut self) -> Option<Burial> {
        if !self.wants_turn() {
            return None;
        }
        let (refused, reason, detail) = self.condemned.take()?;
        if self.waiting.front()?.place.digest() != refused {
            return None;
        }
        let Item { place, message } = self.waiting.pop_front()?;
        self.bytes -= place.stored.len();
        (self.suspects, self.state) = (0, State::Burying);
        Some(Burial { place, message: Some(message), reason, detail })
    }

    /// Something that concerns this lane alone has failed: it rests, for `least` or longer. Says until when.
    pub(super) fn fail(
        &mut self,
        now: Instant,
        backoff: Backoff,
        least: Duration,
        rng: &mut impl Rng,
    ) -> Instant {
        self.failures = self.failures.saturating_add(1);
        let pause = backoff.pause(self.failures, rng).max(least);
        self.rest(now, pause)
    }

    /// The dead letter is durable; the lane goes on behind it.
    pub(super) fn buried(&mut self) {
        self.state = State::Free;
    }

    /// Rests without having failed.
    pub(super) fn pause_until(&mut self, until: Instant) -> Instant {
        self.state = State::Resting { until };
        until
    }

    /// When the rest ends, if the lane rests.
    pub(super) fn resting_until(&self) -> Option<Instant> {
        match self.state {
            State::Resting { until } => Some(until),
            _ => None,
        }
    }

    /// The rest is over: says whether the lane became free by that.
    pub(super) fn wake(&mut self, now: Instant) -> bool {
        match self.state {
            State::Resting { until } if until <= now => {
                self.state = State::Free;
                true
            }
            _ => false,
        }
    }

    /// The endpoint was away: what failed before says nothing about this lane. Failing counts from `since`.
    pub(super) fn restart_failing(&mut self, since: Option<Instant>) {
        self.failing_since = if self.is_resting() { since } else { None };
    }

    /// Gives up all places (in order; the first `.1` of them are under way) because another queue takes them over.
    /// The delivery under way goes on.
    pub(super) fn surrender(&mut self) -> (Vec<Place>, usize) {
        let mut places = self.take_flight();
        let under_way = places.len();
        places.extend(self.waiting.drain(..).map(|i| i.place));
        (self.bytes, self.expiry) = (0, None);
        (places, under_way)
    }

    /// Judges the outcome of a delivery that was under way when its places were surrendered. The side queue still has
    /// its messages: after a refusal the next, smaller batch meets the refusal again and judges it.
    pub(super) fn judge_late(
        &mut self,
        outcome: Outcome,
        messages: Vec<Message>,
        now: Instant,
        config: &Config,
        rng: &mut impl Rng,
    ) -> Verdict {
        if matches!(outcome, Outcome::Rejected { .. }) {
            self.split(messages.len());
            return Verdict::Split;
        }
        self.judge(outcome, messages, now, config, rng)
    }

    /// Drops what waits from memory; it is read again from its queue.
    pub(super) fn forget_waiting(&mut self) {
        self.bytes -= self.waiting.drain(..).map(|i| i.place.stored.len()).sum::<usize>();
        self.expiry = None;
    }

    /// No parking before `at`: the store has no room for a side queue now.
    pub(super) fn park_not_before(&mut self, at: Instant) {
        self.park_not_before = Some(at);
    }

    /// Whether this lane should move to a side queue, out of the others' way. After `park_after` without a success in
    /// any case; earlier (after `park_after_failures`) when it takes up much of the window, or holds a full one, while the
    /// others are well: when most lanes fail alike (the hub throttles everybody), moving them would only write everything
    /// twice.
    pub(super) fn should_park(&self, now: Instant, config: &Config, around: Surroundings) -> bool {
        if self.park_not_before.is_some_and(|at| now < at) {
            return false;
        }
        let messages = self.waiting.len() + self.flight.len();
        if messages == 0 {
            // All of it has expired: it is in nobody's way.
            return false;
        }
        let is_large = messages > config.window_messages_max / config.much_is_part
            || self.bytes > config.window_bytes_max / config.much_is_part
            || around.holds_full_window;
        match self.state {
            State::Resting { .. } => {
                let failing = self.failing_since.map_or(Duration::ZERO, |at| now - at);
                let is_in_the_way = is_large && around.others_are_well;
                let is_tried = self.failures >= config.park_after_failures;
                self.failing_since.is_some()
                    && (failing >= config.park_after || (is_in_the_way && is_tried))
            }
            State::Sending { since } => {
                is_large && now - since >= around.pending_max && around.others_are_served
            }
            State::Free | State::Burying => false,
        }
    }

    fn rest(&mut self, now: Instant, pause: Duration) -> Instant {
        self.failing_since.get_or_insert(now);
        let until = now + pause;
        self.state = State::Resting { until };
        until
    }

    /// The next `refused` messages hold a bad one.
    fn split(&mut self, refused: usize) {
        self.suspects = refused;
        self.batch_limit = (refused / 2).max(1);
        self.state = State::Free;
    }

    fn take_flight(&mut self) -> Vec<Place> {
        let flight = std::mem::take(&mut self.flight);
        self.bytes -= flight.iter().map(|p| p.stored.len()).sum::<usize>();
        flight
    }

    fn put_back(&mut self, messages: Vec<Message>) {
        for (place, message) in self.take_flight().into_iter().zip(messages).rev() {
            self.push_front(Item { place, message });
        }
    }

    fn push_front(&mut self, item: Item) {
        self.bytes += item.place.stored.len();
        self.expiry = earlier(self.expiry, item.place.expires);
        self.waiting.push_front(item);
    }
}

/// The earlier of two times that need not be.
pub(super) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pump::double::{message, number};
    use crate::store::StoreMillis;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const S: Duration = Duration::from_secs(1);

    struct World {
        lane: Lane,
        now: Instant,
        config: Config,
        rng: StdRng,
    }

    impl World {
        fn new(messages: u64, config: Config) -> Self {
            let mut lane = Lane::new();
            for n in 0..messages {
                let stored = message("a", n, 1);
                let message = Message::decode(stored.clone()).unwrap();
                let (offset, since) = (Offset(n), StoreMillis(0));
                let place = Place { offset, stored, since, ttl_secs: 0, expires: None };
                lane.push(Item { place, message });
            }
            let now = crate::clock::system().monotonic();
            Self { lane, now, config, rng: StdRng::seed_from_u64(1) }
        }

        /// One delivery; gives the numbers of the batch and the verdict.
        fn deliver(&mut self, outcome: Outcome) -> (Vec<u64>, Verdict) {
            let batch = self.lane.take_batch(self.now, &self.config);
            let numbers = batch.iter().map(number).collect();
            let (now, config) = (self.now, &self.config);
            (numbers, self.lane.judge(outcome, batch, now, config, &mut self.rng))
        }

        /// Like [`Self::deliver`]; the endpoint refuses a batch that has `bad` in it. Buries at once.
        fn deliver_around(&mut self, bad: u64) -> Vec<u64> {
            let has_bad = self.lane.waiting.iter().any(|i| number(&i.message) == bad);
            let size = self.lane.batch_messages_max(&self.config);
            let next = self.lane.waiting.iter().take(size).any(|i| number(&i.message) == bad);
            let outcome = if has_bad && next { rejected() } else { Outcome::Delivered };
            let (numbers, verdict) = self.deliver(outcome);
            if let Verdict::Bury { place, .. } = verdict {
                assert_eq!(place.offset, Offset(bad));
                self.lane.buried();
            }
            numbers
        }

        fn should_park(&self, holds: bool, well: bool, served: bool) -> bool {
            let around = Surroundings {
                holds_full_window: holds,
                others_are_well: well,
                others_are_served: served,
                pending_max: self.config.pending_max,
            };
            self.lane.should_park(self.now, &self.config, around)
        }
    }

    fn retry(after: Option<Duration>) -> Outcome {
        Outcome::Retry { after, reason: "throttled" }
    }

    fn rejected() -> Outcome {
        Outcome::Rejected { reason: "bad", detail: String::new() }
    }

    fn four() -> Config {
        Config { batch_messages_max: 4, ..Config::default() }
    }

    #[test]
    fn what_comes_back_goes_to_the_front() {
        let mut w = World::new(6, four());
        for outcome in [retry(None), Outcome::Offline, retry(Some(S))] {
            let (numbers, _) = w.deliver(outcome);
            assert_eq!(numbers, [0, 1, 2, 3]);
            w.now += 100 * S;
            w.lane.wake(w.now);
        }
        assert_eq!(w.deliver(Outcome::Delivered).0, [0, 1, 2, 3]);
        assert_eq!(w.deliver(Outcome::Delivered).0, [4, 5]);
        assert!(w.lane.is_empty());
        assert_eq!(w.lane.bytes, 0);
    }

    #[test]
    fn a_retry_waits_at_least_as_long_as_the_endpoint_asks() {
        let mut w = World::new(1, four());
        let Verdict::Rest(until) = w.deliver(retry(Some(90 * S))).1 else { panic!("rests") };
        assert_eq!(until, w.now + 90 * S);
        assert!(!w.lane.wake(until - S) && !w.lane.wants_turn());
        assert!(w.lane.wake(until) && w.lane.wants_turn());
    }

    #[test]
    fn an_absence_of_the_endpoint_leaves_no_trace_in_the_lane() {
        let mut w = World::new(1, four());
        assert!(matches!(w.deliver(Outcome::Offline).1, Verdict::Away));
        assert_eq!((w.lane.failures, w.lane.failing_since), (0, None));
        assert!(w.lane.wants_turn());
    }

    #[test]
    fn a_bad_message_is_cornered_by_halving() {
        let mut w = World::new(16, Config { batch_messages_max: 16, ..Config::default() });
        let mut batches = Vec::new();
        while !w.lane.is_empty() {
            batches.push(w.deliver_around(5));
        }
        let (all, half): (Vec<u64>, Vec<u64>) = ((0..16).collect(), (0..8).collect());
        assert_eq!(batches[..4], [all, half, vec![0, 1, 2, 3], vec![4, 5]]);
        assert_eq!(batches[4..7], [vec![4], vec![5], vec![6]]);
        assert_eq!(batches[7..], [vec![7, 8], vec![9, 10, 11, 12], vec![13, 14, 15]]);
    }

    #[test]
    fn who_parks_when() {
        // (messages, holds the full window, others well, failing for) -> parks while it rests
        let table = [
            (1, false, true, 0, false),
            (1, false, true, 10, true),
            (1, false, false, 10, true),
            (1, true, true, 0, true),
            (1, true, false, 0, false),
            (20, false, true, 0, true),
            (20, false, false, 0, false),
        ];
        for (messages, holds, well, seconds, expected) in table {
            let config = Config { window_messages_max: 64, ..Config::default() };
            let mut w = World::new(messages, config);
            assert!(!w.should_park(true, true, true), "a free lane never");
            w.deliver(retry(Some(100 * S)));
            w.now += seconds * S;
            let got = w.should_park(holds, well, false);
            assert_eq!(got, expected, "{messages} {holds} {well} {seconds}");
        }
    }

    #[test]
    fn a_delivery_that_hangs_parks_its_lane_if_it_is_in_the_way() {
        let mut w = World::new(1, four());
        w.lane.take_batch(w.now, &w.config);
        w.now += 4 * S;
        assert!(!w.should_park(true, true, true), "not yet");
        w.now += S;
        assert!(!w.should_park(false, true, true), "in nobody's way");
        assert!(!w.should_park(true, true, false), "all hang alike");
        assert!(w.should_park(true, true, true));
    }
}
