//! From a parsed message to the queues that its routes name.
//!
//! Owns: the stamping of a message id where the device gave none, the mapping from route targets to queue ids, and with it
//! the class of a message of a live-first route (see [`crate::route`]).
//! Invariant: a message is appended once, naming every queue that its routes select, so that one receipt answers for
//! all of them. Must not know: MQTT packets, sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::live::LiveGate;
use crate::message::{Message, SystemKey};
use crate::metrics::{KeptSeries, Metrics};
use crate::route::{Endpoint, RouteTable, Target};
use crate::store::{Append, AppendClass, AppendTo, QueueId, ReceiptTo};

/// Turns messages into appends.
#[derive(Debug)]
pub struct Ingest {
    routes: Arc<ArcSwap<RouteTable>>,
    /// Of the upstream.
    live: Arc<LiveGate>,
    ids: MessageIds,
    metrics: Arc<Metrics>,
}

impl Ingest {
    /// Uses the current snapshot of `routes` for each message; `live` says when those of a live-first route go upstream
    /// before the backlog.
    pub fn new(
        routes: Arc<ArcSwap<RouteTable>>,
        live: Arc<LiveGate>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { routes, live, ids: MessageIds::new(rand::random()), metrics }
    }

    /// The append for `message`, or `None` when no route selects it (acknowledged, dropped and counted as `no_route`,
    /// as the reference does). `kept` is of this message's sender alone.
    pub fn prepare(
        &self,
        message: &Message,
        receipt: ReceiptTo,
        kept: &mut KeptSeries,
    ) -> Option<Append> {
        let output = message.system.get(SystemKey::OutputName);
        let sender = &message.source.sender;
        self.metrics.message_received(kept, sender, output, message.body.len());
        let append = self.route(message, receipt);
        if append.is_none() {
            self.metrics.message_dropped("no_route", sender, output);
        }
        append
    }

    /// The append for a notification that the gateway itself makes, or `None` when no route wants it, which is no loss.
    pub fn prepare_notification(&self, message: &Message, receipt: ReceiptTo) -> Option<Append> {
        self.route(message, receipt)
    }

    fn route(&self, message: &Message, receipt: ReceiptTo) -> Option<Append> {
        let mut queues: Vec<AppendTo> = Vec::new();
        for target in self.routes.load().matching(message) {
            if !queues.iter().any(|to| Arc::ptr_eq(&to.queue.endpoint, &target.endpoint_id)) {
                queues.reserve_exact(1);
                queues.push(self.queue(target));
            }
        }
        if queues.is_empty() {
            return None;
        }
        let payload = match message.system.get(SystemKey::MessageId) {
            Some(_) => message.encode(),
            None => message.encode_with_id(self.ids.next().as_str()),
        };
        Some(Append { queues, payload, since: None, receipt, class: AppendClass::Ingress })
    }

    fn queue(&self, target: &Target) -> AppendTo {
        let live = target.live_first
            && target.endpoint == Endpoint::Upstream
            && self.live.is_open(target.priority);
        let (endpoint, priority) = (Arc::clone(&target.endpoint_id), target.priority);
        AppendTo {
            queue: QueueId { endpoint, priority, live, lane: None },
            ttl_secs: target.ttl_secs,
        }
    }
}

/// Message ids for devices that set none, so that a duplicate can be told by its id (promise 2): 13 digits drawn at start
/// and a count behind them, both to the base of 36 (of one case only, for who compares without regard to case): each byte
/// is stored with every message. 64 random bits make two starts of a whole fleet collide with a chance below 1 in 10^9 even
/// after 100,000 starts.
#[derive(Debug)]
struct MessageIds {
    start: [u8; DIGITS_MAX],
    count: AtomicU64,
}

/// As many digits as the highest number has.
const DIGITS_MAX: usize = 13;

impl MessageIds {
    fn new(start: u64) -> Self {
        // All of them, also leading zeros: else the end of one start and its count could read as those of another.
        Self { start: digits(start).0, count: AtomicU64::new(0) }
    }

    fn next(&self) -> MessageIdText {
        let (count, len) = digits(self.count.fetch_add(1, Ordering::Relaxed));
        let mut text = [0; 2 * DIGITS_MAX];
        text[..DIGITS_MAX].copy_from_slice(&self.start);
        text[DIGITS_MAX..DIGITS_MAX + len].copy_from_slice(&count[DIGITS_MAX - len..]);
        MessageIdText { text, len: DIGITS_MAX + len }
    }
}

/// The digits of `number` to the base of 36 behind zeros, and how many are without those (one at least).
fn digits(mut number: u64) -> ([u8; DIGITS_MAX], usize) {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let (mut text, mut at) = ([b'0'; DIGITS_MAX], DIGITS_MAX);
    loop {
        at -= 1;
        text[at] = DIGITS[usize::try_from(number % 36).expect("below 36")];
        number /= 36;
        if number == 0 {
            return (text, DIGITS_MAX - at);
        }
    }
}

/// A message id on the stack: it goes straight into the stored form.
struct MessageIdText {
    text: [u8; 2 * DIGITS_MAX],
    len: usize,
}

impl MessageIdText {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.len]).expect("digits and letters")
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::identity::{ClientName, DeviceId, Identity};
    use crate::message::{Properties, Source, SystemProperties};
    use crate::route::{Global, RouteSpec};
    use crate::store::AppendChain;

    /// The queues of a message from a leaf device, by routes of `(text, priority, live-first)`.
    fn queues(routes: &[(&str, u8, bool)], gate: &Arc<LiveGate>) -> Vec<String> {
        let spec = |(text, priority, live): &(&str, u8, bool)| RouteSpec {
            name: (*text).to_owned(),
            text: (*text).to_owned(),
            priority: Some(*priority),
            ttl_secs: 0,
            live_first: Some(*live),
        };
        let specs: Vec<RouteSpec> = routes.iter().map(spec).collect();
        let edge = DeviceId::parse("edge").unwrap();
        let (table, refused) = RouteTable::compile(&edge, &specs, Global::default());
        assert!(refused.is_empty(), "{refused:?}");
        let metrics = Metrics::new("hub", "edge");
        let table = Arc::new(ArcSwap::from_pointee(table));
        let ingest = Ingest::new(table, Arc::clone(gate), metrics);
        let receipt = ReceiptTo::new(0, mpsc::channel(1).0, &AppendChain::new());
        let append = ingest.prepare(&leaf(), receipt, &mut KeptSeries::default()).unwrap();
        append.queues.iter().map(|to| to.queue.to_string()).collect()
    }

    fn leaf() -> Message {
        let sender = Identity::vouched(ClientName::Device(DeviceId::parse("d").unwrap()));
        Message {
            source: Source { sender },
            system: SystemProperties::default(),
            properties: Properties::default(),
            body: "b".into(),
            received: crate::clock::UnixMillis(0),
        }
    }

    #[test]
    fn message_ids_count_up_behind_the_digits_of_this_start() {
        let ids = MessageIds::new(36 * 36 + 11);
        assert_eq!(ids.next().as_str(), "000000000010b0");
        ids.count.store(35, Ordering::Relaxed);
        assert_eq!(ids.next().as_str(), "000000000010bz");
        assert_eq!(ids.next().as_str(), "000000000010b10");
        ids.count.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(ids.next().as_str(), "000000000010b3w5e11264sgsf");
        assert_eq!(MessageIds::new(u64::MAX).next().as_str(), "3w5e11264sgsf0");
    }

    #[test]
    fn a_live_first_message_goes_before_the_backlog_only_while_its_gate_is_open() {
        const UP: &str = "FROM /messages/* INTO $upstream";
        const MODULE: &str = "FROM /messages/* INTO BrokeredEndpoint('/modules/m/inputs/i')";
        let gate = Arc::new(LiveGate::default());
        let check = |routes: &[(&str, u8, bool)], expected: &[&str]| {
            assert_eq!(queues(routes, &gate), expected, "{routes:?}");
        };
        check(&[(UP, 3, true)], &["iothub/3"]);
        gate.turn(3, true);
        check(&[(UP, 3, true)], &["iothub/3-live"]);
        check(&[(UP, 3, false)], &["iothub/3"]);
        check(&[(UP, 4, true)], &["iothub/4"]);
        // The route that counts for an endpoint decides; the gate is the upstream's alone.
        check(&[(UP, 5, true), (UP, 3, false)], &["iothub/3"]);
        check(&[(MODULE, 3, true), (UP, 3, true)], &["edge/m/i/3", "iothub/3-live"]);
        gate.turn(3, false);
        check(&[(UP, 3, true)], &["iothub/3"]);
    }
}
