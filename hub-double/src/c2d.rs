//! Cloud-to-device messages: one queue a device, with lock, expiry, delivery count and feedback (fact sheet A6, B5, C1).
//!
//! ```text
//!            send                take                    complete
//!  service -------> Enqueued ------------> Invisible ----------------> Completed
//!                    |  ^                   | |  | reject, abandoned too often
//!            expired |  `---- abandon, -----' |  v
//!                    |        lock over       `-> DeadLettered
//!                    `--------------------------------^  ^---- purge (from any)
//! ```
//! A front (AMQP, MQTT) uses [`Hub::take_c2d`] while it has room and somebody who listens, and [`Hub::settle_c2d`] with
//! the lock token. It is told to look again by [`Command::CloudToDevice`], which every connection gets that shows a link
//! of the purpose [`CLOUD_TO_DEVICE`] for the device: on a new message, on an abandoned one, and on a lock that is over. A
//! connection that ends settles nothing: the locks run out.
//!
//! Owns: the queues. Invariants: a message is in one place and has at most one lock; who has no lock (any more) settles
//! nothing; messages come in order of their numbers; what is settled never comes back. Must not know: AMQP, MQTT, HTTP.

mod queue;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::queue::Effects;
use crate::feedback::FeedbackStatus;
use crate::hub::{CLOUD_TO_DEVICE, Command, Hub};
use crate::registry::Principal;
use crate::twins::{Refused, refused};

pub(crate) use self::queue::Queues;

/// Body and properties of one message: IoT Hub's 64 KB.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Life of a message that names no expiry, milliseconds: IoT Hub's default of one hour.
const LIFE_MS: i64 = 3_600_000;
/// Longest life, milliseconds: IoT Hub's two days.
const LIFE_MS_MAX: i64 = 2 * 24 * 3_600_000;

/// Which outcomes the sender of a message wants to hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// None.
    #[default]
    None,
    /// Completion.
    Positive,
    /// Death.
    Negative,
    /// Both.
    Full,
}

impl Ack {
    /// The value of `iothub-ack`; `None` when the property is left out.
    pub(crate) fn text(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Positive => Some("positive"),
            Self::Negative => Some("negative"),
            Self::Full => Some("full"),
        }
    }

    fn wants(self, status: FeedbackStatus) -> bool {
        match self {
            Self::None => false,
            Self::Positive => status == FeedbackStatus::Success,
            Self::Negative => status != FeedbackStatus::Success,
            Self::Full => true,
        }
    }
}

/// A message for a device, as the service side sends it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct C2dMessage {
    /// Made up when absent, as the service SDKs and the CLI do.
    pub message_id: Option<String>,
    /// Correlation id.
    pub correlation_id: Option<String>,
    /// User id.
    pub user_id: Option<String>,
    /// Content type, such as `application/json`.
    pub content_type: Option<String>,
    /// Content encoding, such as `utf-8`.
    pub content_encoding: Option<String>,
    /// When it is of no use any more, milliseconds since 1970. Told to the device; without it a message lives for an hour.
    pub expiry: Option<i64>,
    /// Which outcomes are told in the feedback.
    pub ack: Ack,
    /// Application properties, in order.
    pub properties: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl C2dMessage {
    /// A message with nothing but a body.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// The same with a message-id.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.message_id = Some(id.into());
        self
    }

    /// The same with one more property.
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// The same with feedback.
    #[must_use]
    pub fn ack(mut self, ack: Ack) -> Self {
        self.ack = ack;
        self
    }

    fn bytes(&self) -> usize {
        let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let system = [
            &self.message_id,
            &self.correlation_id,
            &self.user_id,
            &self.content_type,
            &self.content_encoding,
        ];
        let properties = self.properties.iter().map(|(name, value)| name.len() + value.len());
        self.body.len() + system.into_iter().map(of).sum::<usize>() + properties.sum::<usize>()
    }
}

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum C2dState {
    /// It waits for the device.
    Enqueued,
    /// The device has it, and a lock on it.
    Invisible,
    /// The device has completed it.
    Completed,
    /// It will not be delivered.
    DeadLettered,
}

/// A message as the service side sees it in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct C2dRecord {
    /// Its number in the device's queue, from 1.
    pub sequence_number: u64,
    /// Its message-id.
    pub message_id: String,
    /// Where it stands.
    pub state: C2dState,
    /// How often it was abandoned.
    pub delivery_count: u32,
    /// What became of it, once it is settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<FeedbackStatus>,
    /// How often it was handed to the device.
    pub handed_out: u32,
}

/// A message that was handed out under a lock.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    /// The lock token: an AMQP delivery-tag.
    pub(crate) lock: [u8; 16],
    /// Its number in the device's queue, from 1.
    pub(crate) sequence: u64,
    /// How often it was abandoned.
    pub(crate) delivery_count: u32,
    /// When the hub took it, milliseconds since 1970.
    pub(crate) enqueued_ms: i64,
    /// `/devices/{d}/messages/deviceBound`.
    pub(crate) to: String,
    /// Its `message_id` is there.
    pub(crate) message: Arc<C2dMessage>,
}

/// What the device says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Complete,
    /// Released or modified.
    Abandon,
    Reject,
}

/// `com.microsoft:message-lock-lost`, 412002: nobody holds a lock with that token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockLost;

impl Hub {
    /// Puts a message into the queue of a device; gives its number and its message-id.
    pub(crate) fn send_c2d(
        &self,
        device: &str,
        mut message: C2dMessage,
    ) -> Result<(u64, String), Refused> {
        let Some(entry) = self.registry.find(device, None) else {
            return refused(404, "ErrorCode:DeviceNotFound;no such device");
        };
        let new_id = || crate::amqp::value::uuid_text(&self.c2d.new_id());
        let id = message.message_id.get_or_insert_with(new_id).clone();
        let now_ms = self.clock.wall_ms();
        let mut effects = Effects::default();
        let sent = self.c2d.on_new_queue(&entry, |queue| {
            queue.on_time(now_ms, &mut effects);
            queue.push(message, now_ms, &mut effects)
        });
        self.on_effects(&entry.principal.device, effects);
        sent.map(|sequence| (sequence, id))
    }

    /// Locks the next message of a device and hands it out.
    pub(crate) fn take_c2d(&self, who: &Principal) -> Option<Taken> {
        if who.module.is_some() {
            return None;
        }
        let (token, now_ms) = (self.c2d.new_id(), self.clock.wall_ms());
        let mut effects = Effects::default();
        let taken = self.c2d.on_queue(&who.device, |queue| {
            queue.on_time(now_ms, &mut effects);
            queue.take(token, now_ms)
        });
        let taken = taken.flatten();
        // News would only tell the one who is looking.
        effects.news = false;
        if taken.is_some() || effects != Effects::default() {
            self.on_effects(&who.device, effects);
        }
        taken
    }

    /// The device settles a message.
    pub(crate) fn settle_c2d(
        &self,
        who: &Principal,
        lock: &[u8; 16],
        outcome: Outcome,
    ) -> Result<(), LockLost> {
        let now_ms = self.clock.wall_ms();
        let mut effects = Effects::default();
        let settled = self.c2d.on_queue(&who.device, |queue| {
            queue.on_time(now_ms, &mut effects);
            queue.on_outcome(lock, outcome, now_ms, &mut effects)
        });
        self.on_effects(&who.device, effects);
        settled.unwrap_or(Err(LockLost))
    }

    /// Empties the queue of a device; gives how many messages it held.
    pub(crate) fn purge_c2d(&self, device: &str) -> usize {
        let now_ms = self.clock.wall_ms();
        let mut effects = Effects::default();
        let purged = self.c2d.on_queue(device, |queue| {
            queue.on_time(now_ms, &mut effects);
            queue.purge(now_ms, &mut effects)
        });
        self.on_effects(device, effects);
        purged.unwrap_or(0)
    }

    /// The messages of a device, in order: those that wait and the last ones that are settled.
    pub(crate) fn list_c2d(&self, device: &str) -> Vec<C2dRecord> {
        let now_ms = self.clock.wall_ms();
        let mut effects = Effects::default();
        let found = self.c2d.on_queue(device, |queue| {
            queue.on_time(now_ms, &mut effects);
            (Arc::clone(&queue.device), queue.records())
        });
        let Some((device, records)) = found else { return Vec::new() };
        if effects != Effects::default() {
            self.on_effects(&device, effects);
        }
        records
    }

    /// Ends the locks on messages of a device, or of all, as if their time were over.
    pub(crate) fn drop_c2d_locks(&self, device: Option<&str>) {
        for device in self.c2d.drop_locks(device) {
            self.on_effects(&device, Effects { news: true, ..Effects::default() });
        }
    }

    /// Ends locks, messages and feedback batches whose time is over.
    pub(crate) fn c2d_on_time(&self) {
        let now_ms = self.clock.wall_ms();
        let all = self.c2d.with(|state| {
            let each = state.queues.values_mut().map(|queue| {
                let mut effects = Effects::default();
                queue.on_time(now_ms, &mut effects);
                (Arc::clone(&queue.device), effects)
            });
            each.filter(|(_, effects)| *effects != Effects::default()).collect::<Vec<_>>()
        });
        for (device, effects) in all {
            self.on_effects(&device, effects);
        }
        self.feedback.on_time(now_ms);
    }

    /// Does what is due when it is due. Runs as long as the double.
    pub(crate) async fn keep_c2d_time(&self) {
        /// A wait that a change of the queues ends.
        const LONG_MS: i64 = 3_600_000;
        /// All queues are looked through at most this often, however busy they are.
        const PACE: Duration = Duration::from_millis(20);
        loop {
            tokio::time::sleep(PACE).await;
            self.c2d_on_time();
            let due = [self.c2d.next_due_ms(), self.feedback.next_due_ms()];
            let now_ms = self.clock.wall_ms();
            let wait = due.into_iter().flatten().min().map_or(LONG_MS, |due| due - now_ms);
            let wait = Duration::from_millis(wait.clamp(1, LONG_MS).unsigned_abs());
            tokio::select! {
                () = self.due.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// After each step in a queue.
    fn on_effects(&self, device: &str, effects: Effects) {
        for record in effects.feedback {
            self.feedback.push(record);
        }
        if effects.news {
            let who = Principal { device: device.into(), module: None };
            let command = Command::CloudToDevice { who: who.clone() };
            self.roster.command_serving(&who, CLOUD_TO_DEVICE, &command);
        }
        self.c2d.changed();
        self.due.notify_one();
    }
}

#[cfg(test)]
mod tests;
