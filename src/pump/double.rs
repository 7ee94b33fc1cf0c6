//! Doubles for the pump's tests: a store in memory that can be full and is cut off in mid-append by a crash, and an
//! endpoint that follows a script.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::deadletter::DeadLetterQueue;
use super::log::{Appended, Entry, Log, LogError, Logs};
use crate::clock::{Clock, UnixMillis};
use crate::deliver::{Deliver, Outcome};
use crate::identity::{ClientName, DeviceId, Identity};
use crate::message::{Message, Properties, Source, SystemProperties};
use crate::store::{Chunk, Offset, QueueId, Record, StoreMillis};

/// Tokio's (paused) time as a clock.
pub(super) struct TokioClock;

impl Clock for TokioClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(1_700_000_000_000)
    }
    fn monotonic(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

pub(super) fn device(name: &str) -> Identity {
    Identity::vouched(ClientName::Device(DeviceId::parse(name).unwrap()))
}

/// The `n`th message of `sender`: its body is the number, padded to `bytes`.
pub(super) fn message(sender: &str, n: u64, bytes: usize) -> Bytes {
    Message {
        source: Source { sender: device(sender) },
        system: SystemProperties::default(),
        properties: Properties::default(),
        body: format!("{n:<bytes$}").into(),
        received: UnixMillis(1_700_000_000_000),
    }
    .encode()
}

/// The number of a message.
pub(super) fn number(message: &Message) -> u64 {
    std::str::from_utf8(&message.body).unwrap().trim().parse().unwrap()
}

/// One queue in memory.
pub(super) struct MemoryLog {
    base: u64,
    records: Mutex<Vec<Record>>,
    settled: AtomicU64,
    counted: AtomicU64,
    end: watch::Sender<Offset>,
    /// When the store's clock stood at 0.
    epoch: Instant,
}

impl MemoryLog {
    fn new(base: u64, epoch: Instant) -> Arc<Self> {
        let end = watch::channel(Offset(base)).0;
        Arc::new(Self {
            base,
            records: Mutex::default(),
            settled: base.into(),

            counted: 0.into(),
            end,
            epoch,
        })
    }

    pub(super) fn push(&self, entry: Entry) {
        let mut records = self.records.lock().unwrap();
        let offset = Offset(self.base + records.len() as u64);
        let Entry { payload, since, ttl_secs } = entry;
        let age = TokioClock.monotonic() - self.epoch;
        let stored = since.unwrap_or(StoreMillis(age.as_millis().try_into().unwrap()));
        let ttl = (ttl_secs > 0).then(|| Duration::from_secs(ttl_secs.into()));
        let expires = ttl.map(|ttl| self.epoch + Duration::from_millis(stored.0) + ttl);
        records.push(Record { offset, payload, stored, ttl_secs, expires });
        self.end.send_replace(Offset(offset.0 + 1));
    }

    /// The store takes away the oldest `count` of what is not settled; gives their payloads.
    pub(super) fn remove(&self, count: u64) -> Vec<Bytes> {
        let records = self.records.lock().unwrap();
        let from = self.settled.load(Ordering::SeqCst);
        let below = (from + count).min(self.base + records.len() as u64);
        self.settled.store(below, Ordering::SeqCst);
        self.counted.store(below, Ordering::SeqCst);
        let gone = records.iter().filter(|r| (from..below).contains(&r.offset.0));
        gone.map(|r| r.payload.clone()).collect()
    }

    pub(super) fn is_drained(&self) -> bool {
        self.end.borrow().0 == self.settled.load(Ordering::SeqCst)
    }

    pub(super) fn unsettled(&self) -> u64 {
        self.end.borrow().0 - self.settled.load(Ordering::SeqCst)
    }

    pub(super) fn payloads(&self) -> Vec<Bytes> {
        self.records.lock().unwrap().iter().map(|r| r.payload.clone()).collect()
    }
}

impl Log for MemoryLog {
    fn durable_end(&self) -> watch::Receiver<Offset> {
        self.end.subscribe()
    }

    fn settled(&self) -> Offset {
        Offset(self.settled.load(Ordering::SeqCst))
    }

    fn read(
        &self,
        from: Offset,
        records_max: usize,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Chunk, LogError>> {
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut bytes = 0;
            // What is settled is unlinked sooner or later.
            let first = from.0.max(self.settled.load(Ordering::SeqCst));
            let skip = usize::try_from(first - self.base).unwrap();
            let all = self.records.lock().unwrap();
            let fits = |r: &&Record| {
                let first = bytes == 0;
                bytes += r.payload.len();
                first || bytes <= bytes_max
            };
            let records: Vec<_> =
                all.iter().skip(skip).take(records_max).take_while(fits).cloned().collect();
            let next = records.last().map_or(from, |r| Offset(r.offset.0 + 1));
            Ok(Chunk { records, next, lost: Vec::new() })
        }
        .boxed()
    }

    fn take_over(&self, below: Offset) -> Offset {
        assert!(below <= *self.end.borrow(), "what is taken over was read");
        Offset(self.counted.load(Ordering::SeqCst))
    }

    fn settle(&self, below: Offset) {
        assert!(below <= *self.end.borrow(), "nothing beyond the end is settled");
        self.settled.fetch_max(below.0, Ordering::SeqCst);
    }
}

/// The store in memory. It outlives the pumps that crash on it.
pub(super) struct MemoryLogs {
    epoch: Instant,
    queues: Mutex<BTreeMap<QueueId, Arc<MemoryLog>>>,
    /// Appends fail as on a full disk.
    pub(super) full: AtomicBool,
    /// Appends of dead letters fail, as when there is no room for them.
    pub(super) full_of_letters: AtomicBool,
    /// Every so many-th append fails as on a disk that is full for a moment (0 = none).
    pub(super) refuse_every: AtomicU64,
    appends: AtomicU64,
    /// How many side queues have been made.
    pub(super) made: AtomicU64,
}

pub(super) fn main_queue() -> QueueId {
    QueueId { endpoint: "upstream".into(), priority: 10, live: false, lane: None }
}

impl Default for MemoryLogs {
    fn default() -> Self {
        Self {
            epoch: TokioClock.monotonic(),
            queues: Mutex::default(),
            full: AtomicBool::default(),
            full_of_letters: AtomicBool::default(),
            refuse_every: AtomicU64::default(),
            appends: AtomicU64::default(),
            made: AtomicU64::default(),
        }
    }
}

impl MemoryLogs {
    pub(super) fn queue(&self, id: &QueueId) -> Arc<MemoryLog> {
        let mut queues = self.queues.lock().unwrap();
        let made = &self.made;
        // Another base each time: nobody may take it for granted that a queue starts at 0.
        let log = queues.entry(id.clone()).or_insert_with(|| {
            MemoryLog::new(1000 * made.fetch_add(1, Ordering::SeqCst), self.epoch)
        });
        Arc::clone(log)
    }

    pub(super) fn publish(&self, sender: &str, n: u64) {
        self.publish_sized(sender, n, 1);
    }

    pub(super) fn publish_sized(&self, sender: &str, n: u64, bytes: usize) {
        let payload = message(sender, n, bytes);
        self.queue(&main_queue()).push(Entry { payload, since: None, ttl_secs: 0 });
    }

    /// A message that expires `ttl_secs` from now, in `queue`.
    pub(super) fn publish_to(&self, queue: &QueueId, sender: &str, n: u64, ttl_secs: u32) {
        self.queue(queue).push(Entry { payload: message(sender, n, 1), since: None, ttl_secs });
    }

    pub(super) fn side(&self, sender: &str) -> Option<Arc<MemoryLog>> {
        let id = QueueId { lane: Some(sender.into()), ..main_queue() };
        self.queues.lock().unwrap().get(&id).cloned()
    }
}

impl Logs for MemoryLogs {
    fn open<'a>(&'a self, id: &'a QueueId) -> BoxFuture<'a, Result<Arc<dyn Log>, LogError>> {
        async move { Ok(self.queue(id) as Arc<dyn Log>) }.boxed()
    }

    fn append<'a>(&'a self, id: &'a QueueId, entries: Vec<Entry>) -> BoxFuture<'a, Appended> {
        async move {
            let mut appended = Appended { durable: 0, result: Ok(()) };
            for entry in entries {
                tokio::time::sleep(Duration::from_micros(300)).await;
                let every = self.refuse_every.load(Ordering::SeqCst);
                let turn = self.appends.fetch_add(1, Ordering::SeqCst);
                let is_letter = *id == DeadLetterQueue::id();
                let full = self.full.load(Ordering::SeqCst)
                    || (is_letter && self.full_of_letters.load(Ordering::SeqCst));
                if full || (every > 0 && turn.is_multiple_of(every)) {
                    appended.result = Err(LogError::Full("no space".into()));
                    break;
                }
                self.queue(id).push(entry);
                appended.durable += 1;
            }
            appended
        }
        .boxed()
    }

    fn delete_if_empty<'a>(&'a self, id: &'a QueueId) -> BoxFuture<'a, Result<bool, LogError>> {
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut queues = self.queues.lock().unwrap();
            let empty = queues.get(id).is_none_or(|log| log.is_drained());
            if empty {
                queues.remove(id);
            }
            Ok(empty)
        }
        .boxed()
    }

    fn side_queues(&self, main: &QueueId) -> Vec<QueueId> {
        let queues = self.queues.lock().unwrap();
        let ours = |id: &&QueueId| QueueId { lane: None, ..(*id).clone() } == *main;
        queues.keys().filter(|id| id.lane.is_some()).filter(ours).cloned().collect()
    }
}

/// What a script says to one delivery.
pub(super) struct Answer {
    pub(super) after: Duration,
    pub(super) outcome: Outcome,
    /// The endpoint kept the batch, whatever it answered.
    pub(super) stored: bool,
}

impl Answer {
    pub(super) fn of(outcome: Outcome) -> Self {
        let stored = outcome == Outcome::Delivered;
        Self { after: Duration::from_millis(10), outcome, stored }
    }
    pub(super) fn delivered() -> Self {
        Self::of(Outcome::Delivered)
    }
    pub(super) fn retry() -> Self {
        Self::of(Outcome::Retry { after: None, reason: "throttled" })
    }
    pub(super) fn rejected() -> Self {
        Self::of(Outcome::Rejected { reason: "bad", detail: "in the endpoint's words".into() })
    }
    pub(super) fn after(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }
}

type Script = dyn FnMut(&str, &[u64]) -> Answer + Send;

/// An endpoint that follows a script and writes down what it kept.
pub(super) struct Scripted {
    script: Mutex<Box<Script>>,
    up: watch::Sender<bool>,
    /// Every delivery: sender, numbers.
    pub(super) tried: Mutex<Vec<(String, Vec<u64>)>>,
    /// Every message kept, in order.
    pub(super) kept: Mutex<Vec<(String, u64)>>,
    under_way: Mutex<BTreeSet<String>>,
}

/// Takes the sender out of those under way, when the answer is given and when the pump crashes.
struct UnderWay<'a>(&'a Scripted, String);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.lock().unwrap().remove(&self.1);
    }
}

impl Scripted {
    pub(super) fn new(script: impl FnMut(&str, &[u64]) -> Answer + Send + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Mutex::new(Box::new(script)),
            up: watch::channel(true).0,
            tried: Mutex::default(),
            kept: Mutex::default(),
            under_way: Mutex::default(),
        })
    }

    pub(super) fn script(&self, script: impl FnMut(&str, &[u64]) -> Answer + Send + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }

    pub(super) fn set_up(&self, up: bool) {
        self.up.send_replace(up);
    }

    pub(super) fn kept_of(&self, sender: &str) -> Vec<u64> {
        let kept = self.kept.lock().unwrap();
        kept.iter().filter(|(s, _)| s == sender).map(|(_, n)| *n).collect()
    }

    /// The numbers kept, by sender, without repeats, in the order of their first arrival.
    pub(super) fn first_arrivals(&self) -> HashMap<String, Vec<u64>> {
        let mut seen = BTreeSet::new();
        let mut first: HashMap<String, Vec<u64>> = HashMap::new();
        for (sender, n) in self.kept.lock().unwrap().iter() {
            if seen.insert((sender.clone(), *n)) {
                first.entry(sender.clone()).or_default().push(*n);
            }
        }
        first
    }
}

impl Deliver for Scripted {
    fn ready(&self) -> BoxFuture<'_, ()> {
        async move {
            let mut up = self.up.subscribe();
            up.wait_for(|up| *up).await.expect("the endpoint lives as long as its users");
        }
        .boxed()
    }

    fn deliver<'a>(&'a self, sender: &'a Identity, batch: &'a [Message]) -> BoxFuture<'a, Outcome> {
        async move {
            let name = sender.to_string();
            assert!(!batch.is_empty(), "a batch is not empty");
            assert!(batch.iter().all(|m| m.source.sender == *sender), "a batch has one sender");
            let fresh = self.under_way.lock().unwrap().insert(name.clone());
            assert!(fresh, "one delivery per sender");
            let _under_way = UnderWay(self, name.clone());
            let numbers: Vec<u64> = batch.iter().map(number).collect();
            self.tried.lock().unwrap().push((name.clone(), numbers.clone()));
            if !*self.up.borrow() {
                return Outcome::Offline;
            }
            let answer = (self.script.lock().unwrap())(&name, &numbers);
            let keep = || {
                let kept = numbers.iter().map(|n| (name.clone(), *n));
                self.kept.lock().unwrap().extend(kept);
            };
            if answer.stored {
                keep();
            } else if let Outcome::Partly { delivered, .. } = answer.outcome {
                let kept = numbers[..delivered].iter().map(|n| (name.clone(), *n));
                self.kept.lock().unwrap().extend(kept);
            }
            tokio::time::sleep(answer.after).await;
            answer.outcome
        }
        .boxed()
    }
}
