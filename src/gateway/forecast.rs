//! How the queues fill, and how long that can go on: sampled, shown as gauges and by `/queues`.
//!
//! Owns: the sampler, and the last sample. Invariants: it never waits for the store's writer; at most [`HEADS_MAX`] records
//! are read per sample, and none of a queue whose oldest message is the one of the last sample; no wall clock is read.
//! Must not know: what a message is.

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::time::{self, MissedTickBehavior, interval, interval_at};
use tokio_util::sync::CancellationToken;

use self::model::{DropWhy, Forecast, Model, Reading, StoreReading};
use super::pumps::OpenQueues;
use crate::admin::{QueueStatus, Queues, StoreStatus};
use crate::clock::SharedClock;
use crate::metrics::{Metrics, priority_label};
use crate::store::{Offset, Queue, QueueId, Room, Store, StoreMillis, StoreStats, WhenFull};

/// How often a sample is taken.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// How often it is looked whether the first sample can be taken.
const FIRST_EVERY: Duration = Duration::from_millis(100);

/// After so many looks it is taken of the queues that are open.
const FIRST_LOOKS_MAX: usize = 100;

/// Most records read per sample. There may be thousands of side queues, but those do not move.
const HEADS_MAX: usize = 64;

/// The second sample follows the first so soon: then rates are known.
const SECOND_AFTER: Duration = Duration::from_secs(1);

/// The last sample, once there is one.
pub(super) type LastSample = Arc<ArcSwapOption<Sample>>;

/// What a sample found.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) queues: Arc<Queues>,
    /// Whether devices were refused since the sample before.
    refusing: bool,
}

/// Takes samples.
pub(super) struct Sampler {
    store: Arc<Store>,
    open: Arc<OpenQueues>,
    when_full: WhenFull,
    metrics: Arc<Metrics>,
    clock: SharedClock,
    last: LastSample,
    model: Model,
    heads: BTreeMap<QueueId, Head>,
    /// Refused batches at the last sample.
    refused: u64,
    /// Endpoints and priorities that have a gauge.
    shown: BTreeSet<(Arc<str>, u8)>,
}

/// The oldest message of a queue.
#[derive(Debug, Clone, Copy)]
struct Head {
    at: Offset,
    stored: StoreMillis,
    expires: Option<Instant>,
}

impl Sampler {
    pub(super) fn new(
        store: Arc<Store>,
        open: Arc<OpenQueues>,
        when_full: WhenFull,
        metrics: Arc<Metrics>,
        clock: SharedClock,
    ) -> Self {
        let (last, model, heads) = (LastSample::default(), Model::default(), BTreeMap::new());
        let shown = BTreeSet::new();
        let refused = store.stats().refused_commits;
        Self { store, open, when_full, metrics, clock, last, model, heads, refused, shown }
    }

    /// Where the last sample is found.
    pub(super) fn last(&self) -> LastSample {
        Arc::clone(&self.last)
    }

    /// Samples until `stop`, first as soon as all queues that the start found are open.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut looks = interval(FIRST_EVERY);
        // One that cannot be opened does not hide the others for long.
        for _ in 0..FIRST_LOOKS_MAX {
            if self.is_ready() {
                break;
            }
            if stop.run_until_cancelled(looks.tick()).await.is_none() {
                return;
            }
        }
        self.sample().await;
        let mut ticks = interval_at(time::Instant::now() + SECOND_AFTER, SAMPLE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.sample().await;
        }
    }

    /// Whether each queue of the store is open.
    fn is_ready(&self) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        self.store.queues().borrow().iter().all(|id| open.contains_key(id))
    }

    async fn sample(&mut self) {
        let queues = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.read_heads(&queues).await;
        let store = Arc::clone(&self.store);
        // A volume may be slow to tell how full it is.
        let Ok(room) = tokio::task::spawn_blocking(move || store.room()).await else {
            return;
        };
        let (now, stats) = (self.clock.monotonic(), self.store.stats());
        let readings: BTreeMap<QueueId, Reading> =
            queues.iter().map(|(id, queue)| (id.clone(), self.reading(queue, now))).collect();
        let refusing = self.refused < std::mem::replace(&mut self.refused, stats.refused_commits);
        let store = self.store_reading(room, &stats, refusing);
        let forecast = self.model.sample(now, &readings, store);
        let all = Queues {
            queues: readings.iter().map(|(id, reading)| self.status(id, reading)).collect(),
            store: store_status(room, self.when_full, &forecast),
            unheard: Vec::new(),
        };
        self.show(&all, room, &forecast);
        self.last.store(Some(Arc::new(Sample { queues: Arc::new(all), refusing })));
    }

    /// Learns the oldest message of each queue in which something waits.
    async fn read_heads(&mut self, queues: &BTreeMap<QueueId, Queue>) {
        self.heads.retain(|id, _| queues.contains_key(id));
        let mut reads_left = HEADS_MAX;
        for (id, queue) in queues {
            let at = queue.settled();
            if queue.messages() == 0 {
                self.heads.remove(id);
            } else if self.heads.get(id).is_none_or(|head| head.at != at) && reads_left > 0 {
                reads_left -= 1;
                match head(queue, at).await {
                    Some(head) => self.heads.insert(id.clone(), head),
                    None => self.heads.remove(id),
                };
            }
        }
    }

    fn reading(&self, queue: &Queue, now: Instant) -> Reading {
        let expires = self.heads.get(queue.id()).and_then(|head| head.expires);
        Reading {
            messages: queue.messages(),
            bytes: queue.bytes(),
            came: queue.durable_end().borrow().0,
            went: queue.settled().0,
            oldest_lives: expires.map(|at| at.saturating_duration_since(now)),
        }
    }

    fn store_reading(&self, room: Room, stats: &StoreStats, refusing: bool) -> StoreReading {
        StoreReading {
            // It refuses what does not fit, which may be a little before the limit.
            is_full: refusing || stats.held_appends > 0,
            drops: self.when_full == WhenFull::DropOldest,
            used: room.used,
            limit: room.limit,
            appended_records: stats.appended_records,
            appended_bytes: stats.appended_bytes,
        }
    }

    fn status(&self, id: &QueueId, reading: &Reading) -> QueueStatus {
        let rates = self.model.rates(id);
        let head = self.heads.get(id);
        QueueStatus {
            endpoint: id.endpoint.to_string(),
            priority: id.priority,
            live: id.live,
            lane: id.lane.as_deref().map(str::to_owned),
            messages: reading.messages,
            bytes: reading.bytes,
            oldest_age_secs: head.map(|h| self.store.now().0.saturating_sub(h.stored.0) / 1000),
            in_per_sec: rates.in_messages,
            out_per_sec: rates.out_messages,
            bytes_in_per_sec: rates.in_bytes,
            bytes_out_per_sec: rates.out_bytes,
        }
    }

    fn show(&mut self, all: &Queues, room: Room, forecast: &Forecast) {
        let gauge = |name, help, value| self.metrics.set_gauge_if(name, help, value);
        let secs = |d: Option<Duration>| d.map(|d| d.as_secs_f64());
        gauge(
            "store_budget_bytes",
            "Where the store is full, in bytes; none if the volume does not tell.",
            room.limit.map(|limit| limit as f64),
        );
        gauge(
            "store_budget_lasts_seconds",
            "When the store is full if it grows on like this; none if it does not grow.",
            secs(forecast.budget_lasts),
        );
        gauge(
            "store_first_drop_seconds",
            "When the first message is dropped if all goes on like this; none if none is (a refused one stays with its device).",
            secs(forecast.first_drop.map(|(at, _)| at)),
        );
        gauge(
            "store_free_bytes",
            "Bytes that are free on the store's volume.",
            room.free.map(|free| free as f64),
        );
        let mut ages: BTreeMap<(Arc<str>, u8), Option<u64>> = BTreeMap::new();
        for queue in &all.queues {
            let age = ages.entry((queue.endpoint.as_str().into(), queue.priority)).or_default();
            *age = (*age).max(queue.oldest_age_secs);
        }
        for (endpoint, priority) in &self.shown {
            if !ages.contains_key(&(Arc::clone(endpoint), *priority)) {
                self.metrics.forget_queue(endpoint, priority_label(*priority));
            }
        }
        for ((endpoint, priority), age) in &ages {
            let age = Duration::from_secs(age.unwrap_or_default());
            self.metrics.set_queue_age(endpoint, priority_label(*priority), age);
        }
        self.shown = ages.into_keys().collect();
    }
}

/// The first record that can be read; `None` if none can be now.
async fn head(queue: &Queue, at: Offset) -> Option<Head> {
    let record = queue.peek(at).await.ok()??;
    Some(Head { at, stored: record.stored, expires: record.expires })
}

fn store_status(room: Room, when_full: WhenFull, forecast: &Forecast) -> StoreStatus {
    let why = |(_, why)| match why {
        DropWhy::Budget => "budget".to_owned(),
        DropWhy::Ttl => "ttl".to_owned(),
    };
    StoreStatus {
        used_bytes: room.used,
        limit_bytes: room.limit,
        when_full: match when_full {
            WhenFull::Reject => "reject".to_owned(),
            WhenFull::DropOldest => "drop_oldest".to_owned(),
        },
        budget_lasts_secs: forecast.budget_lasts.map(|d| d.as_secs()),
        first_drop_secs: forecast.first_drop.map(|(at, _)| at.as_secs()),
        first_drop_why: forecast.first_drop.map(why),
    }
}

/// What a person should look at: the store refuses, or is about to.
pub(super) fn warnings(stats: &StoreStats, last: Option<&Sample>) -> Vec<String> {
    if stats.held_appends > 0 || last.is_some_and(|sample| sample.refusing) {
        vec!["store full: refusing; let the upstream drain it, or give it more room".to_owned()]
    } else {
        Vec::new()
    }
}

/// Gauges that are read when somebody asks.
pub(super) fn refresh_gauges(metrics: &Metrics, stats: &StoreStats) {
    let gauge = |name, help, value: u64| metrics.set_gauge(name, help, value as f64);
    gauge(
        "store_used_bytes",
        "Bytes of the store's files, what is set aside as damaged included.",
        stats.disk_bytes,
    );
    gauge("store_held_appends", "Messages that wait for room.", stats.held_appends);
    gauge(
        "store_expired_records",
        "Records freed because their time to live was over, since the start.",
        stats.expired_records,
    );
    gauge(
        "store_dropped_records",
        "Records dropped to make room, since the start.",
        stats.dropped_records,
    );
    gauge(
        "store_quarantine_bytes",
        "Bytes of damaged segments kept aside.",
        stats.quarantine_bytes,
    );
    if stats.appended_records > 0 {
        metrics.set_gauge(
            "store_written_bytes_per_message",
            "Bytes of whole blocks that the disk writes per stored record.",
            stats.written_block_bytes as f64 / stats.appended_records as f64,
        );
    }
}

#[cfg(test)]
mod tests;
