//! What the hub received: a bounded log, counts that go on after it is full, and the detection of duplicates and
//! reordering per identity.
//!
//! Invariants: the log is in order of arrival and holds at most [`Limits::entries_max`] messages (the oldest go);
//! counts never go down. A duplicate is the same (identity, message-id) again, or, without message-id, the same
//! application property `seq`. A reordering is a first-seen integer `seq` below one seen before from the same
//! identity. Must not know: AMQP, sockets.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{broadcast, watch};

use crate::registry::Principal;

/// A message as the hub took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Position in the hub's log, from 0.
    pub seq: u64,
    /// When the hub took it, milliseconds since 1970 by the double's clock.
    pub enqueued_time: i64,
    /// The identity that it came in under, as registered.
    pub device_id: String,
    /// Set when the identity is a module.
    pub module_id: Option<String>,
    /// `message-id`, `correlation-id`, `user-id`, `to`, `content-type`, `content-encoding`, `absolute-expiry-time`
    /// ..., and the `iothub-` ones that travel as application properties.
    pub system_properties: BTreeMap<String, String>,
    /// User properties; `None` is an AMQP null.
    pub application_properties: BTreeMap<String, Option<String>>,
    /// What the sender annotated, and what the hub stamped (`iothub-connection-device-id` ...).
    pub annotations: Arc<BTreeMap<String, String>>,
    /// The body.
    pub body: Bytes,
    /// Which connection it came over, from 1.
    pub connection_no: u64,
    /// Which transfer it came in, from 1, over the double's whole life: messages of one batch share it.
    pub batch_no: u64,
    /// Seen before.
    pub duplicate: bool,
    /// First seen, but after a later one.
    pub reordered: bool,
}

/// Counts of one identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceCounts {
    /// Messages taken, duplicates included.
    pub received: u64,
    /// Of these, seen before.
    pub duplicates: u64,
    /// Of these, first seen after a later one.
    pub reordered: u64,
    /// Highest `seq` application property.
    pub highest_seq: Option<i64>,
}

/// Counts of the whole hub.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Messages taken, duplicates included.
    pub received: u64,
    /// Of these, seen before.
    pub duplicates: u64,
    /// Of these, first seen after a later one.
    pub reordered: u64,
    /// Body bytes taken.
    pub body_bytes: u64,
    /// Transfers answered with `accepted` (a batch is one).
    pub transfers_accepted: u64,
    /// Transfers answered with another outcome.
    pub transfers_refused: u64,
    /// Connections to the AMQP and the MQTT port that came through TLS.
    pub connections: u64,
    /// put-tokens answered 200.
    pub tokens_accepted: u64,
    /// put-tokens refused.
    pub tokens_refused: u64,
    /// Telemetry links attached.
    pub links_attached: u64,
    /// Attaches refused.
    pub links_refused: u64,
    /// The same by AMQP condition.
    pub link_refusals: BTreeMap<String, u64>,
    /// Links taken over by a newcomer.
    pub links_stolen: u64,
    /// Twins that were read by their identities.
    pub twin_gets: u64,
    /// Patches of reported properties that were taken.
    pub twin_patches: u64,
    /// Operations on twins that were refused.
    pub twin_refused: u64,
    /// Changes of desired properties that a link was told.
    pub twin_pushes: u64,
    /// Answers of direct methods that somebody waited for.
    pub method_answers: u64,
    /// MQTT clients that were let in.
    pub mqtt_connects: u64,
    /// MQTT clients that were refused.
    pub mqtt_refused: u64,
    /// Answers of direct methods that nobody waited for (any more).
    pub method_answers_unwanted: u64,
    /// Cloud-to-device messages that were handed to devices, each time counted.
    pub c2d_deliveries: u64,
    /// Outcomes of cloud-to-device messages that came when the lock was over.
    pub c2d_locks_lost: u64,
    /// Scope API requests answered 200.
    pub scope_requests: u64,
    /// Of those: pages of a whole scope.
    pub scope_pages: u64,
    /// Of those: single identities, found or not.
    pub scope_singles: u64,
    /// Requests to the HTTPS port refused.
    pub scope_refused: u64,
    /// By identity: `device` or `device/module`.
    pub per_device: BTreeMap<String, DeviceCounts>,
}

impl Counts {
    /// Different messages: received without the duplicates.
    pub fn distinct(&self) -> u64 {
        self.received - self.duplicates
    }
}

/// A message before the log gave it its place.
#[derive(Debug, Default)]
pub(crate) struct Telemetry {
    pub(crate) system_properties: BTreeMap<String, String>,
    pub(crate) application_properties: BTreeMap<String, Option<String>>,
    pub(crate) own_annotations: BTreeMap<String, String>,
    pub(crate) body: Bytes,
}

/// What a transfer brought.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Transferred<'a> {
    Read(&'a [Telemetry]),
    /// In lean mode: so many messages, whose properties nobody read.
    Unread(u64),
}

impl Transferred<'_> {
    pub(crate) fn count(self) -> u64 {
        match self {
            Self::Read(messages) => messages.len() as u64,
            Self::Unread(count) => count,
        }
    }

    /// Whether one has this message-id and this property, of those that are named.
    pub(crate) fn any(self, message_id: Option<&str>, property: &Option<(String, String)>) -> bool {
        match self {
            Self::Read(messages) => messages.iter().any(|m| matches(m, message_id, property)),
            Self::Unread(count) => count > 0 && message_id.is_none() && property.is_none(),
        }
    }
}

fn matches(
    message: &Telemetry,
    message_id: Option<&str>,
    property: &Option<(String, String)>,
) -> bool {
    let id = message.system_properties.get("message-id").map(String::as_str);
    let property_hit = property.as_ref().is_none_or(|(name, value)| {
        message.application_properties.get(name).and_then(Option::as_deref) == Some(value)
    });
    message_id.is_none_or(|wanted| id == Some(wanted)) && property_hit
}

/// What all messages of one transfer share.
#[derive(Debug)]
pub(crate) struct Stamp {
    pub(crate) principal: Principal,
    pub(crate) annotations: Arc<BTreeMap<String, String>>,
    pub(crate) enqueued_time: i64,
    pub(crate) connection_no: u64,
}

/// Bounds of the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Messages kept.
    pub(crate) entries_max: usize,
    /// Message ids remembered, 24 bytes each; older ones are no longer recognised as duplicates.
    pub(crate) ids_max: usize,
}

/// The hub's memory of messages.
#[derive(Debug)]
pub(crate) struct MessageLog {
    limits: Limits,
    hasher: RandomState,
    state: Mutex<State>,
    total: watch::Sender<u64>,
    stream: broadcast::Sender<Arc<Received>>,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Arc<Received>>,
    counts: Counts,
    seen: HashSet<u64>,
    seen_order: VecDeque<u64>,
}

/// Live followers get this many messages of slack before the oldest are skipped for them.
const STREAM_MESSAGES_MAX: usize = 4096;

impl MessageLog {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            hasher: RandomState::new(),
            state: Mutex::default(),
            total: watch::Sender::new(0),
            stream: broadcast::Sender::new(STREAM_MESSAGES_MAX),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stores the messages of one transfer, in order.
    pub(crate) fn store(&self, stamp: &Stamp, messages: Vec<Telemetry>) {
        let total = self.with(|state| {
            state.counts.transfers_accepted += 1;
            let batch_no = state.counts.transfers_accepted;
            let name = stamp.principal.to_string();
            if !state.counts.per_device.contains_key(&name) {
                state.counts.per_device.insert(name.clone(), DeviceCounts::default());
            }
            for message in messages {
                let received = self.place(state, stamp, &name, message, batch_no);
                self.keep(state, received);
            }
            state.counts.received
        });
        self.total.send_replace(total);
    }

    /// Counts one transfer whose messages nobody keeps.
    pub(crate) fn count_transfer(&self, messages: u64, body_bytes: u64) {
        let total = self.with(|state| {
            state.counts.transfers_accepted += 1;
            state.counts.received += messages;
            state.counts.body_bytes += body_bytes;
            state.counts.received
        });
        self.total.send_replace(total);
    }

    /// Judges one message against what came before, and counts it.
    fn place(
        &self,
        state: &mut State,
        stamp: &Stamp,
        name: &str,
        message: Telemetry,
        batch_no: u64,
    ) -> Received {
        let seq = message.application_properties.get("seq").cloned().flatten();
        let id = message.system_properties.get("message-id").map(String::as_str);
        let id = id.map(|id| ("id", id)).or(seq.as_deref().map(|seq| ("seq", seq)));
        let duplicate = id.is_some_and(|id| {
            let hash = self.hasher.hash_one((&stamp.principal, id));
            !state.remember(hash, self.limits.ids_max)
        });
        let number: Option<i64> = seq.as_deref().and_then(|s| s.parse().ok());
        let counts = state.counts.per_device.get_mut(name).expect("store() entered the identity");
        let reordered =
            !duplicate && number.zip(counts.highest_seq).is_some_and(|(n, highest)| n < highest);
        counts.highest_seq = counts.highest_seq.max(number);
        counts.received += 1;
        counts.duplicates += u64::from(duplicate);
        counts.reordered += u64::from(reordered);
        let all = &mut state.counts;
        let position = all.received;
        all.received += 1;
        all.duplicates += u64::from(duplicate);
        all.reordered += u64::from(reordered);
        all.body_bytes += message.body.len() as u64;
        Received {
            seq: position,
            enqueued_time: stamp.enqueued_time,
            device_id: stamp.principal.device.to_string(),
            module_id: stamp.principal.module.as_deref().map(str::to_owned),
            system_properties: message.system_properties,
            application_properties: message.application_properties,
            annotations: annotations(&stamp.annotations, message.own_annotations),
            body: message.body,
            connection_no: stamp.connection_no,
            batch_no,
            duplicate,
            reordered,
        }
    }

    fn keep(&self, state: &mut State, received: Received) {
        let followed = self.stream.receiver_count() > 0;
        if self.limits.entries_max == 0 && !followed {
            return;
        }
        let received = Arc::new(received);
        if followed {
            // An error means that the last follower has just gone.
            let _ = self.stream.send(Arc::clone(&received));
        }
        if self.limits.entries_max > 0 {
            if state.entries.len() == self.limits.entries_max {
                state.entries.pop_front();
            }
            state.entries.push_back(received);
        }
    }

    /// Changes the counts that are not about messages.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        self.with(|state| change(&mut state.counts));
    }

    pub(crate) fn counts(&self) -> Counts {
        self.with(|state| state.counts.clone())
    }

    /// Messages with position `since` and up, oldest first, at most `limit`, of `device` only when given (ids without
    /// case; a device's own and its modules').
    pub(crate) fn messages(
        &self,
        device: Option<&str>,
        since: u64,
        limit: usize,
    ) -> Vec<Arc<Received>> {
        self.with(|state| {
            let start = state.entries.partition_point(|m| m.seq < since);
            let wanted = |m: &&Arc<Received>| {
                device.is_none_or(|device| m.device_id.eq_ignore_ascii_case(device))
            };
            state.entries.range(start..).filter(wanted).take(limit).cloned().collect()
        })
    }

    /// Follows the number of messages received.
    pub(crate) fn total(&self) -> watch::Receiver<u64> {
        self.total.subscribe()
    }

    /// Follows messages from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Arc<Received>> {
        self.stream.subscribe()
    }
}

impl State {
    /// True when `hash` is new.
    fn remember(&mut self, hash: u64, ids_max: usize) -> bool {
        if ids_max == 0 {
            return true;
        }
        if !self.seen.insert(hash) {
            return false;
        }
        if self.seen_order.len() == ids_max
            && let Some(oldest) = self.seen_order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.seen_order.push_back(hash);
        true
    }
}

/// The hub's stamps win over what a sender claims.
fn annotations(
    stamps: &Arc<BTreeMap<String, String>>,
    mut own: BTreeMap<String, String>,
) -> Arc<BTreeMap<String, String>> {
    if own.is_empty() {
        return Arc::clone(stamps);
    }
    own.extend(stamps.iter().map(|(k, v)| (k.clone(), v.clone())));
    Arc::new(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn telemetry(id: Option<&str>, seq: Option<&str>) -> Telemetry {
        let mut out = Telemetry::default();
        if let Some(id) = id {
            out.system_properties.insert("message-id".into(), id.into());
        }
        if let Some(seq) = seq {
            out.application_properties.insert("seq".into(), Some(seq.into()));
        }
        out
    }

    fn stamp(device: &str) -> Stamp {
        let principal = Principal { device: device.into(), module: None };
        Stamp { principal, annotations: Arc::default(), enqueued_time: 0, connection_no: 1 }
    }

    /// Feeds (device, message-id, seq) and expects (duplicates, reordered).
    fn check(feed: &[(&str, Option<&str>, Option<&str>)], expected: (u64, u64)) {
        let log = MessageLog::new(Limits { entries_max: 2, ids_max: 100 });
        for (device, id, seq) in feed {
            log.store(&stamp(device), vec![telemetry(*id, *seq)]);
        }
        let counts = log.counts();
        assert_eq!((counts.duplicates, counts.reordered), expected, "{feed:?}");
        assert_eq!(counts.received, feed.len() as u64);
        assert!(log.messages(None, 0, usize::MAX).len() <= 2, "the log is bounded");
    }

    #[test]
    fn duplicates_and_reordering_are_told_apart() {
        check(&[("a", Some("1"), None), ("a", Some("1"), None)], (1, 0));
        check(&[("a", Some("1"), None), ("b", Some("1"), None)], (0, 0));
        check(&[("a", None, Some("1")), ("a", None, Some("1"))], (1, 0));
        check(&[("a", None, Some("2")), ("a", None, Some("1"))], (0, 1));
        // A duplicate of an earlier one is no reordering.
        check(&[("a", None, Some("1")), ("a", None, Some("2")), ("a", None, Some("1"))], (1, 0));
        check(&[("a", Some("x"), Some("5")), ("a", Some("y"), Some("4"))], (0, 1));
        check(&[("a", Some("x"), Some("5")), ("b", Some("y"), Some("4"))], (0, 0));
        check(&[("a", None, None), ("a", None, None)], (0, 0));
        check(&[("a", None, Some("ten")), ("a", None, Some("nine"))], (0, 0));
    }
}
