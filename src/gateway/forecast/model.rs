//! From counts to rates, and from rates to when the store is full.
//!
//! Owns: [`Model`]: the rates of each queue, and the arithmetic of the forecast. Invariants: no clock and no disk is read
//! here; memory is bounded by the queues that were in the last sample. Must not know: the store, metrics.
//!
//! A queue tells how many records came and went (its offsets), but of bytes only what waits: those that went are taken as
//! of the average size of what waited, or, where nothing did, of what the store took in meanwhile.
//!
//! The budget lasts for what is left of it, by the growth of all queues over the last ten minutes. Its end is a drop only
//! if the store drops to make room; else devices are refused, and keep their messages. A time to live ends
//! first for the oldest message of a queue; it does not if at the rate of the last minute all that waits is sent by then.
//! Only the oldest message is looked at: one behind it with a shorter time to live of its own route may go earlier.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::store::QueueId;

/// Over what time rates are averaged: what is shown.
const SHORT: Duration = Duration::from_secs(60);

/// Over what time rates are averaged: what the budget's forecast goes by.
const LONG: Duration = Duration::from_secs(600);

/// What a record takes on disk beside its payload: 40 bytes of header, and half of the padding to 8.
const RECORD_OVERHEAD_BYTES: f64 = 44.0;

/// Growth below this share of what comes in is noise of queues that are drained as they fill.
const GROWTH_SHARE_MIN: f64 = 0.01;

/// What is read off one queue.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Reading {
    /// Records that wait.
    pub(super) messages: u64,
    /// Their payload bytes.
    pub(super) bytes: u64,
    /// Records that ever came.
    pub(super) came: u64,
    /// Records that ever went.
    pub(super) went: u64,
    /// The time that the oldest message has still to live; `None` = for ever, not known, or nothing waits.
    pub(super) oldest_lives: Option<Duration>,
}

/// What is read off the store.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct StoreReading {
    pub(super) used: u64,
    pub(super) limit: Option<u64>,
    /// It has refused something just now, wherever the limit is.
    pub(super) is_full: bool,
    /// Whether room is made by dropping; else devices are refused and keep their messages.
    pub(super) drops: bool,
    /// Records and payload bytes that ever came in, all queues together.
    pub(super) appended_records: u64,
    pub(super) appended_bytes: u64,
}

/// Per second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Rates {
    pub(super) in_messages: f64,
    pub(super) out_messages: f64,
    pub(super) in_bytes: f64,
    pub(super) out_bytes: f64,
}

/// What drops the first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DropWhy {
    Budget,
    Ttl,
}

/// What will be, if all goes on like this.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Forecast {
    /// `None` while the store does not grow, or has no limit.
    pub(super) budget_lasts: Option<Duration>,
    pub(super) first_drop: Option<(Duration, DropWhy)>,
}

/// An exponentially weighted mean that is right from the first value on: its weights are normalised.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f64,
    weight: f64,
}

impl Mean {
    fn add(&mut self, value: f64, elapsed: Duration, over: Duration) {
        let fresh = 1.0 - (-elapsed.as_secs_f64() / over.as_secs_f64()).exp();
        self.sum += fresh * (value - self.sum);
        self.weight += fresh * (1.0 - self.weight);
    }

    fn get(self) -> f64 {
        if self.weight > 0.0 { self.sum / self.weight } else { 0.0 }
    }
}

#[derive(Debug, Default)]
struct Track {
    last: Reading,
    short: [Mean; 4],
    /// Disk bytes in, and out.
    long: [Mean; 2],
}

impl Track {
    fn add(&mut self, now: Reading, size: f64, elapsed: Duration) {
        if elapsed.is_zero() {
            // What came since the last reading is counted in the next one.
            return;
        }
        let last = std::mem::replace(&mut self.last, now);
        let secs = elapsed.as_secs_f64();
        let came = now.came.saturating_sub(last.came) as f64;
        let went = now.went.saturating_sub(last.went) as f64;
        let size = match last.messages {
            0 => size,
            waited => last.bytes as f64 / waited as f64,
        };
        let bytes_out = went * size;
        let bytes_in = (now.bytes as f64 - last.bytes as f64 + bytes_out).max(0.0);
        for (mean, sum) in self.short.iter_mut().zip([came, went, bytes_in, bytes_out]) {
            mean.add(sum / secs, elapsed, SHORT);
        }
        let disk = |bytes: f64, records: f64| bytes + records * RECORD_OVERHEAD_BYTES;
        for (mean, sum) in self.long.iter_mut().zip([disk(bytes_in, came), disk(bytes_out, went)]) {
            mean.add(sum / secs, elapsed, LONG);
        }
    }

    fn rates(&self) -> Rates {
        let [in_messages, out_messages, in_bytes, out_bytes] = self.short.map(Mean::get);
        Rates { in_messages, out_messages, in_bytes, out_bytes }
    }
}

/// The rates of all queues.
#[derive(Debug, Default)]
pub(super) struct Model {
    tracks: BTreeMap<QueueId, Track>,
    last: Option<(Instant, StoreReading)>,
}

impl Model {
    /// Takes a sample in. A queue that was in none before counts from what it has now.
    pub(super) fn sample(
        &mut self,
        now: Instant,
        queues: &BTreeMap<QueueId, Reading>,
        store: StoreReading,
    ) -> Forecast {
        let last = self.last.replace((now, store));
        let elapsed = last.map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(at));
        let size = last.map_or(0.0, |(_, before)| mean_size(&before, &store));
        self.tracks.retain(|id, _| queues.contains_key(id));
        for (id, reading) in queues {
            match self.tracks.get_mut(id) {
                // Offsets that went back: a queue of the same name was made anew.
                Some(track) if reading.came >= track.last.came => {
                    track.add(*reading, size, elapsed);
                }
                _ => {
                    let track = Track { last: *reading, ..Track::default() };
                    self.tracks.insert(id.clone(), track);
                }
            }
        }
        let budget_lasts = self.budget_lasts(store);
        let drops = [
            budget_lasts.filter(|_| store.drops).map(|lasts| (lasts, DropWhy::Budget)),
            self.ttl_ends().map(|ends| (ends, DropWhy::Ttl)),
        ];
        let first_drop = drops.into_iter().flatten().min_by_key(|(at, _)| *at);
        Forecast { budget_lasts, first_drop }
    }

    /// Of the last minute.
    pub(super) fn rates(&self, id: &QueueId) -> Rates {
        self.tracks.get(id).map(Track::rates).unwrap_or_default()
    }

    fn budget_lasts(&self, store: StoreReading) -> Option<Duration> {
        let left = store.limit.map(|limit| limit.saturating_sub(store.used));
        if store.is_full || left == Some(0) {
            return Some(Duration::ZERO);
        }
        let left = left?;
        let sum = |which: usize| self.tracks.values().map(|t| t.long[which].get()).sum::<f64>();
        let (bytes_in, bytes_out) = (sum(0), sum(1));
        let growth = bytes_in - bytes_out;
        if growth <= bytes_in * GROWTH_SHARE_MIN {
            return None;
        }
        Duration::try_from_secs_f64(left as f64 / growth).ok()
    }

    fn ttl_ends(&self) -> Option<Duration> {
        let ends = |track: &Track| {
            let lives = track.last.oldest_lives?;
            let out = track.rates().out_messages;
            let drained = out * lives.as_secs_f64() >= track.last.messages as f64;
            (!drained).then_some(lives)
        };
        self.tracks.values().filter_map(ends).min()
    }
}

/// The mean payload of what came in between two readings.
fn mean_size(before: &StoreReading, after: &StoreReading) -> f64 {
    match after.appended_records.saturating_sub(before.appended_records) {
        0 => 0.0,
        n => after.appended_bytes.saturating_sub(before.appended_bytes) as f64 / n as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const STEP: Duration = Duration::from_secs(10);

    fn id() -> QueueId {
        QueueId::new("iothub", 10)
    }

    /// A queue into which `in_rate` messages of 100 bytes a second come, and `out_rate` go, for `steps` samples.
    fn run(
        model: &mut Model,
        start: Instant,
        (came, went): (u64, u64),
        (in_rate, out_rate): (u64, u64),
        steps: u32,
        store: impl Fn(u64) -> StoreReading,
        lives: Option<u64>,
    ) -> Forecast {
        let mut forecast = Forecast::default();
        for step in 0..=steps {
            let secs = u64::from(step) * STEP.as_secs();
            let (came, went) = (came + in_rate * secs, went + out_rate * secs);
            let messages = came - went;
            let reading = Reading {
                messages,
                bytes: messages * 100,
                came,
                went,
                oldest_lives: lives.map(Duration::from_secs),
            };
            let queues = BTreeMap::from([(id(), reading)]);
            forecast = model.sample(start + STEP * step, &queues, store(messages));
        }
        forecast
    }

    fn near(got: f64, expected: f64) -> bool {
        (got - expected).abs() <= expected.abs() * 1e-6 + 1e-9
    }

    #[test]
    fn a_steady_rate_is_told_from_the_second_sample_on() {
        for steps in [1, 2, 60] {
            for (in_rate, out_rate) in [(50, 20), (20, 20), (0, 5), (0, 0), (7, 0)] {
                let mut model = Model::default();
                let start = clock::system().monotonic();
                let from = (100_000, 50_000);
                run(&mut model, start, from, (in_rate, out_rate), steps, |_| <_>::default(), None);
                let r = model.rates(&id());
                let got = [r.in_messages, r.out_messages, r.in_bytes, r.out_bytes];
                let (i, o) = (in_rate as f64, out_rate as f64);
                for (got, expected) in got.into_iter().zip([i, o, i * 100.0, o * 100.0]) {
                    assert!(near(got, expected), "{steps} {in_rate} {out_rate}: {r:?}");
                }
            }
        }
    }

    #[test]
    fn bytes_of_a_queue_that_is_drained_at_once_are_those_that_the_store_took_in() {
        let (mut model, start) = (Model::default(), clock::system().monotonic());
        for (step, count) in [(0, 0), (1, 1000)] {
            let reading = Reading { came: count, went: count, ..Reading::default() };
            let store = StoreReading {
                appended_records: count,
                appended_bytes: count * 300,
                ..StoreReading::default()
            };
            model.sample(start + STEP * step, &BTreeMap::from([(id(), reading)]), store);
        }
        let r = model.rates(&id());
        assert!(near(r.in_bytes, 30_000.0) && near(r.out_bytes, 30_000.0), "{r:?}");
    }

    #[test]
    fn an_old_rate_is_forgotten_in_minutes() {
        let (mut model, start) = (Model::default(), clock::system().monotonic());
        run(&mut model, start, (0, 0), (100, 0), 60, |_| <_>::default(), None);
        let later = start + STEP * 61;
        run(&mut model, later, (60_000, 0), (0, 0), 6, |_| <_>::default(), None);
        let after_a_minute = model.rates(&id()).in_messages;
        assert!((30.0..45.0).contains(&after_a_minute), "{after_a_minute}");
    }

    #[test]
    fn how_long_the_budget_lasts() {
        // (in and out a second, bytes left at the end, seconds expected); a message takes 144 bytes.
        for ((in_rate, out_rate), left, expected) in [
            ((10, 0), Some(1_440_000), Some(1000.0)),
            ((20, 10), Some(1_440_000), Some(1000.0)),
            ((10, 10), Some(1_440_000), None),
            ((10, 11), Some(1_440_000), None),
            ((1000, 999), Some(1_440_000), None),
            ((0, 0), Some(1_440_000), None),
            ((0, 0), Some(0), Some(0.0)),
            ((10, 0), None, None),
        ] {
            let (mut model, start) = (Model::default(), clock::system().monotonic());
            let store = |_| StoreReading {
                used: 5000,
                limit: left.map(|left| 5000 + left),
                drops: true,
                ..StoreReading::default()
            };
            let rates = (in_rate, out_rate);
            let forecast = run(&mut model, start, (90_000, 80_000), rates, 60, store, None);
            let got = forecast.budget_lasts.map(|d| d.as_secs_f64());
            let same = match (got, expected) {
                (Some(got), Some(expected)) => near(got, expected),
                (got, expected) => got == expected,
            };
            assert!(same, "{in_rate} {out_rate} {left:?}: {got:?}");
            assert_eq!(forecast.first_drop.map(|(_, why)| why), got.map(|_| DropWhy::Budget));
            let refuses = |messages| StoreReading { drops: false, ..store(messages) };
            let mut model = Model::default();
            let forecast = run(&mut model, start, (90_000, 80_000), rates, 60, refuses, None);
            assert_eq!(forecast.budget_lasts.map(|d| d.as_secs_f64()), got);
            assert_eq!(forecast.first_drop, None, "what is refused is not dropped");
        }
    }

    #[test]
    fn a_store_that_refuses_is_full_wherever_its_limit_is() {
        for limit in [None, Some(1 << 30)] {
            for drops in [false, true] {
                let store = StoreReading { limit, is_full: true, drops, ..StoreReading::default() };
                let now = clock::system().monotonic();
                let forecast = Model::default().sample(now, &BTreeMap::new(), store);
                assert_eq!(forecast.budget_lasts, Some(Duration::ZERO), "{limit:?}");
                let dropped = drops.then_some((Duration::ZERO, DropWhy::Budget));
                assert_eq!(forecast.first_drop, dropped);
            }
        }
    }

    #[test]
    fn what_is_dropped_first() {
        // (messages that wait at the end, in and out a second, seconds to live, bytes left; expected)
        let budget = |secs| Some((secs, DropWhy::Budget));
        let ttl = |secs| Some((secs, DropWhy::Ttl));
        for (waiting, rates, lives, left, expected) in [
            (1000, (0, 0), Some(60), None, ttl(60)),
            (1000, (0, 0), None, None, None),
            // At 100 a second 1000 messages are gone long before.
            (1000, (0, 100), Some(60), None, None),
            (100_000, (0, 100), Some(60), None, ttl(60)),
            // Steady traffic: what waits is always young.
            (10, (100, 100), Some(60), Some(1 << 20), None),
            (1000, (10, 0), Some(3600), Some(1_440_000), budget(1000)),
            (1000, (10, 0), Some(600), Some(1_440_000), ttl(600)),
        ] {
            let (mut model, start) = (Model::default(), clock::system().monotonic());
            let store = |_| StoreReading { limit: left, drops: true, ..StoreReading::default() };
            let from = (500_000 + waiting + rates.1 * 100 - rates.0 * 100, 500_000);
            let forecast = run(&mut model, start, from, rates, 10, store, lives);
            let got = forecast.first_drop.map(|(at, why)| (at.as_secs_f64().round() as u64, why));
            assert_eq!(got, expected, "{waiting} {rates:?} {lives:?} {left:?}");
        }
    }

    #[test]
    fn a_queue_made_anew_starts_over_and_a_queue_that_is_gone_is_forgotten() {
        let (mut model, start) = (Model::default(), clock::system().monotonic());
        run(&mut model, start, (1000, 0), (10, 0), 6, |_| <_>::default(), None);
        let fresh = Reading { came: 5, messages: 5, bytes: 5, ..Reading::default() };
        let queues = BTreeMap::from([(id(), fresh)]);
        model.sample(start + STEP * 7, &queues, StoreReading::default());
        assert_eq!(model.rates(&id()), Rates::default());
        model.sample(start + STEP * 8, &BTreeMap::new(), StoreReading::default());
        assert!(model.tracks.is_empty());
    }
}
