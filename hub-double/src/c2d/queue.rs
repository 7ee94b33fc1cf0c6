//! The queue of one device as a state machine, and the queues of all: times in, effects out.
//!
//! Owns: places, locks and counts of messages. Invariants: as in [`super`]. Must not know: who is told, the clock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::{C2dMessage, C2dRecord, C2dState, LockLost, Outcome, Taken};
use super::{LIFE_MS, LIFE_MS_MAX, MESSAGE_BYTES_MAX};
use crate::feedback::{FeedbackRecord, FeedbackStatus};
use crate::registry::Entry;
use crate::twins::{Refused, refused};

/// Messages of a device that are not settled: IoT Hub's 50.
const QUEUE_MESSAGES_MAX: usize = 50;
/// Settled messages of a device that are remembered, to be shown; the oldest go.
const SETTLED_MAX: usize = 1000;
/// How long a message is locked, milliseconds: IoT Hub's one minute.
const LOCK_MS: i64 = 60_000;
/// Abandoned this often, a message is dead: IoT Hub's default.
const DELIVERIES_MAX: u32 = 10;

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) message: Arc<C2dMessage>,
    pub(super) enqueued_ms: i64,
    pub(super) expires_ms: i64,
    pub(super) delivery_count: u32,
    pub(super) handed_out: u32,
    pub(super) lock: Option<Lock>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Lock {
    token: [u8; 16],
    until_ms: i64,
}

impl Waiting {
    pub(super) fn record(&self, sequence: u64, state: C2dState) -> C2dRecord {
        C2dRecord {
            sequence_number: sequence,
            message_id: self.message.message_id.clone().unwrap_or_default(),
            state,
            delivery_count: self.delivery_count,
            outcome: None,
            handed_out: self.handed_out,
        }
    }

    pub(super) fn due_ms(&self) -> i64 {
        self.lock.map_or(self.expires_ms, |lock| lock.until_ms)
    }
}

/// The queue of one device.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) device: Arc<str>,
    pub(super) generation: Arc<str>,
    pub(super) last_sequence: u64,
    /// By their numbers.
    pub(super) waiting: BTreeMap<u64, Waiting>,
    pub(super) settled: VecDeque<C2dRecord>,
}

/// What a step in a queue leads to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// Records for the feedback.
    pub(super) feedback: Vec<FeedbackRecord>,
    /// Whether there is something new to take.
    pub(super) news: bool,
}

impl Queue {
    pub(super) fn new(device: Arc<str>, generation: Arc<str>) -> Self {
        Self {
            device,
            generation,
            last_sequence: 0,
            waiting: BTreeMap::new(),
            settled: VecDeque::new(),
        }
    }

    /// Puts a message at the end; gives its number.
    pub(super) fn push(
        &mut self,
        message: C2dMessage,
        now_ms: i64,
        out: &mut Effects,
    ) -> Result<u64, Refused> {
        if message.bytes() > MESSAGE_BYTES_MAX {
            return refused(413, "ErrorCode:MessageTooLarge;a message has at most 64 KB");
        }
        if self.waiting.len() >= QUEUE_MESSAGES_MAX {
            return refused(403, "ErrorCode:DeviceMaximumQueueDepthExceeded;50 messages wait");
        }
        let expires_ms = message.expiry.unwrap_or(now_ms.saturating_add(LIFE_MS));
        self.last_sequence += 1;
        let waiting = Waiting {
            enqueued_ms: now_ms,
            expires_ms: expires_ms.min(now_ms.saturating_add(LIFE_MS_MAX)),
            message: Arc::new(message),
            delivery_count: 0,
            handed_out: 0,
            lock: None,
        };
        self.waiting.insert(self.last_sequence, waiting);
        out.news = true;
        // It may have come too late.
        self.on_time(now_ms, out);
        Ok(self.last_sequence)
    }

    /// Settles all; gives how many they were.
    pub(super) fn purge(&mut self, now_ms: i64, out: &mut Effects) -> usize {
        let all: Vec<u64> = self.waiting.keys().copied().collect();
        for sequence in &all {
            self.settle(*sequence, FeedbackStatus::Purged, now_ms, out);
        }
        all.len()
    }

    /// What waits and what is remembered, by number.
    pub(super) fn records(&self) -> Vec<C2dRecord> {
        let waiting = self.waiting.iter().map(|(sequence, waiting)| {
            let locked = waiting.lock.is_some();
            waiting.record(*sequence, if locked { C2dState::Invisible } else { C2dState::Enqueued })
        });
        let mut all: Vec<_> = self.settled.iter().cloned().chain(waiting).collect();
        all.sort_by_key(|record| record.sequence_number);
        all
    }

    pub(super) fn settle(
        &mut self,
        sequence: u64,
        status: FeedbackStatus,
        now_ms: i64,
        out: &mut Effects,
    ) {
        let Some(waiting) = self.waiting.remove(&sequence) else { return };
        let state = match status {
            FeedbackStatus::Success => C2dState::Completed,
            _ => C2dState::DeadLettered,
        };
        let record = C2dRecord { outcome: Some(status), ..waiting.record(sequence, state) };
        if waiting.message.ack.wants(status) {
            out.feedback.push(FeedbackRecord {
                original_message_id: record.message_id.clone(),
                enqueued_time_utc: now_ms,
                status_code: status,
                description: status.description(),
                device_id: self.device.to_string(),
                device_generation_id: self.generation.to_string(),
            });
        }
        if self.settled.len() >= SETTLED_MAX {
            self.settled.pop_front();
        }
        self.settled.push_back(record);
    }

    /// Ends locks, and the lives of messages that nobody holds.
    pub(super) fn on_time(&mut self, now_ms: i64, out: &mut Effects) {
        let mut expired = Vec::new();
        for (sequence, waiting) in &mut self.waiting {
            if waiting.lock.is_some_and(|lock| lock.until_ms <= now_ms) {
                waiting.lock = None;
                out.news = true;
            }
            if waiting.lock.is_none() && waiting.expires_ms <= now_ms {
                expired.push(*sequence);
            }
        }
        for sequence in expired {
            self.settle(sequence, FeedbackStatus::Expired, now_ms, out);
        }
    }

    pub(super) fn take(&mut self, token: [u8; 16], now_ms: i64) -> Option<Taken> {
        let (sequence, waiting) = self.waiting.iter_mut().find(|(_, w)| w.lock.is_none())?;
        waiting.lock = Some(Lock { token, until_ms: now_ms.saturating_add(LOCK_MS) });
        waiting.handed_out += 1;
        Some(Taken {
            lock: token,
            sequence: *sequence,
            delivery_count: waiting.delivery_count,
            enqueued_ms: waiting.enqueued_ms,
            to: format!("/devices/{}/messages/deviceBound", self.device),
            message: Arc::clone(&waiting.message),
        })
    }

    pub(super) fn on_outcome(
        &mut self,
        token: &[u8; 16],
        outcome: Outcome,
        now_ms: i64,
        out: &mut Effects,
    ) -> Result<(), LockLost> {
        let held = |w: &Waiting| w.lock.is_some_and(|lock| lock.token == *token);
        let found = self.waiting.iter_mut().find(|(_, w)| held(w));
        let (&sequence, waiting) = found.ok_or(LockLost)?;
        match outcome {
            Outcome::Complete => self.settle(sequence, FeedbackStatus::Success, now_ms, out),
            Outcome::Reject => self.settle(sequence, FeedbackStatus::Rejected, now_ms, out),
            Outcome::Abandon => {
                waiting.lock = None;
                waiting.delivery_count += 1;
                if waiting.delivery_count >= DELIVERIES_MAX {
                    self.settle(sequence, FeedbackStatus::DeliveryCountExceeded, now_ms, out);
                } else {
                    out.news = true;
                    // It may have expired under its lock.
                    self.on_time(now_ms, out);
                }
            }
        }
        Ok(())
    }
}

/// The queues of all devices.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    state: Mutex<State>,
    random: RandomState,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// By device id in lower case.
    pub(super) queues: HashMap<String, Queue>,
    /// Ids made so far.
    ids: u64,
}

impl Queues {
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn on_queue<T>(
        &self,
        device: &str,
        work: impl FnOnce(&mut Queue) -> T,
    ) -> Option<T> {
        self.with(|state| state.queues.get_mut(&device.to_ascii_lowercase()).map(work))
    }

    /// The same with a queue for a device that has none yet.
    pub(super) fn on_new_queue<T>(&self, entry: &Entry, work: impl FnOnce(&mut Queue) -> T) -> T {
        let Entry { principal, generation, .. } = entry;
        self.with(|state| {
            let key = principal.device.to_ascii_lowercase();
            if let Some(queue) = state.queues.get_mut(&key) {
                // The device may have been registered anew.
                queue.generation = Arc::clone(generation);
            }
            let queue = state.queues.entry(key);
            work(queue.or_insert_with(|| {
                Queue::new(Arc::clone(&principal.device), Arc::clone(generation))
            }))
        })
    }

    /// A new id in the form of a UUID of version 4.
    pub(super) fn new_id(&self) -> [u8; 16] {
        let number = self.with(|state| {
            state.ids += 1;
            state.ids
        });
        let high = u128::from(self.random.hash_one(number));
        let id = (high << 64 | u128::from(number)) & !(0xf << 76) & !(0x3 << 62);
        (id | (0x4 << 76) | (0x2 << 62)).to_be_bytes()
    }

    /// Goes up with each step in a queue.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Forgets the queue of a device that is deleted.
    pub(crate) fn forget(&self, device: &str) {
        self.with(|state| state.queues.remove(&device.to_ascii_lowercase()));
    }

    /// When a lock or a message ends next.
    pub(crate) fn next_due_ms(&self) -> Option<i64> {
        self.with(|state| {
            state.queues.values().flat_map(|q| q.waiting.values()).map(Waiting::due_ms).min()
        })
    }

    /// Ends the locks on messages of a device, or of all.
    pub(super) fn drop_locks(&self, device: Option<&str>) -> Vec<Arc<str>> {
        self.with(|state| {
            let reach = |q: &Queue| device.is_none_or(|d| q.device.eq_ignore_ascii_case(d));
            let reached = state.queues.values_mut().filter(|q| reach(q));
            let dropped = reached.filter_map(|queue| {
                queue.waiting.values_mut().for_each(|waiting| waiting.lock = None);
                (!queue.waiting.is_empty()).then(|| Arc::clone(&queue.device))
            });
            dropped.collect()
        })
    }
}
