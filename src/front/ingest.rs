//! From a parsed message to the queues that its routes name.
//!
//! Owns: the stamping of a message id where the device gave none, the mapping from route targets to queue ids.
//! Invariant: a message is appended once, naming every queue that its routes select, so that one receipt answers for
//! all of them. Must not know: MQTT packets, sockets.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::message::{Message, SystemKey};
use crate::metrics::Metrics;
use crate::route::{RouteTable, Target};
use crate::store::{Append, AppendClass, AppendTo, QueueId, ReceiptTo};

/// Turns messages into appends.
#[derive(Debug)]
pub struct Ingest {
    routes: Arc<ArcSwap<RouteTable>>,
    ids: MessageIds,
    metrics: Arc<Metrics>,
}

impl Ingest {
    /// Uses the current snapshot of `routes` for each message.
    pub fn new(routes: Arc<ArcSwap<RouteTable>>, metrics: Arc<Metrics>) -> Self {
        Self { routes, ids: MessageIds::new(rand::random()), metrics }
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
        let queues = targets.into_iter().map(|t| AppendTo {
            queue: QueueId { endpoint: t.endpoint_id, priority: t.priority, lane: None },
            ttl_secs: t.ttl_secs,
        });
        let queues = queues.collect();
        Some(Append {
            queues,
            payload: message.encode(),
            received: message.received,
            receipt,
            class: AppendClass::Ingress,
        })
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
