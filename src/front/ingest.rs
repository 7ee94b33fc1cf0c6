//! From a parsed message to the queues that its routes name.
//!
//! Owns: the stamping of a message id where the device gave none, the mapping from route targets to queue ids, and with it
//! the class of a message of a live-first route (see [`crate::route`]).
//! Invariant: a message is appended once, naming every queue that its routes select, so that one receipt answers for
//! all of them. Must not know: MQTT packets, sockets.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::live::LiveGate;
use crate::message::{Message, SystemKey};
use crate::metrics::Metrics;
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
    /// as the reference does).
    pub fn prepare(&self, mut message: Message, receipt: ReceiptTo) -> Option<Append> {
        let mut targets: Vec<Target> = Vec::new();
        let output = message.system.get(SystemKey::OutputName).map(str::to_owned);
        let sender = &message.source.sender;
        self.metrics.message_received(sender, output.as_deref(), message.body.len());
        self.routes.load().evaluate(&message, &mut targets);
        if targets.is_empty() {
            self.metrics.message_dropped("no_route", sender, output.as_deref());
            return None;
        }
        if message.system.get(SystemKey::MessageId).is_none() {
            message.system.set(SystemKey::MessageId, self.ids.next());
        }
        Some(Append {
            queues: targets.into_iter().map(|target| self.queue(target)).collect(),
            payload: message.encode(),
            since: None,
            receipt,
            class: AppendClass::Ingress,
        })
    }

    fn queue(&self, target: Target) -> AppendTo {
        let live = target.live_first
            && target.endpoint == Endpoint::Upstream
            && self.live.is_open(target.priority);
        let (endpoint, priority) = (target.endpoint_id, target.priority);
        AppendTo {
            queue: QueueId { endpoint, priority, live, lane: None },
            ttl_secs: target.ttl_secs,
        }
    }
}

/// Message ids for devices that set none, so that a duplicate can be told by its id (promise 2): 16 hex digits drawn
/// at start and a count. 64 random bits make two starts of a whole fleet collide with a chance below 1 in 10^9 even
/// after 100,000 starts.
#[derive(Debug)]
struct MessageIds {
    start: u64,
    count: AtomicU64,
}

impl MessageIds {
    fn new(start: u64) -> Self {
        Self { start, count: AtomicU64::new(0) }
    }

    fn next(&self) -> String {
        let mut id = String::with_capacity(32);
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        write!(id, "{:016x}-{count}", self.start).expect("writing to a String cannot fail");
        id
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
        let append = ingest.prepare(leaf(), receipt).unwrap();
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
