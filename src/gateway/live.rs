//! Turns the gate of the live-first routes: fresh messages pass the backlog only while they are really fresh.
//!
//! Owns: when the gate of a priority opens and shuts. Invariant: it is shut while the endpoint is away, and from when the
//! live queue is long until it has been drained. Must not know: messages.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::pumps::OpenQueues;
use crate::front::live::LiveGate;
use crate::metrics::Metrics;
use crate::route::UPSTREAM_ENDPOINT_ID;
use crate::store::QueueId;

/// How often the live queues are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A live queue longer than so many windows of its pump is no longer fresh: two are what is under way and what is about to
/// be.
pub(super) const LIVE_WINDOWS_MAX: u64 = 2;

/// What the gate goes by.
pub(super) struct LiveWatch {
    pub(super) gate: Arc<LiveGate>,
    pub(super) open: Arc<OpenQueues>,
    pub(super) connected: watch::Receiver<bool>,
    pub(super) metrics: Arc<Metrics>,
    /// Most messages of a live queue that is still fresh.
    pub(super) messages_max: u64,
}

impl LiveWatch {
    /// Turns the gate until `stop`, then shuts it.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let live =
            |priority| QueueId { live: true, ..QueueId::new(UPSTREAM_ENDPOINT_ID, priority) };
        let ids: Vec<QueueId> = LiveGate::priorities().map(live).collect();
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let connected = *self.connected.borrow_and_update();
            ids.iter().for_each(|id| self.turn(id, connected));
            tokio::select! {
                () = stop.cancelled() => break,
                changed = self.connected.changed() => if changed.is_err() { break },
                _ = ticks.tick() => {}
            }
        }
        ids.iter().for_each(|id| self.turn(id, false));
    }

    fn turn(&self, id: &QueueId, connected: bool) {
        // A queue that was never needed is not there: asking the store for it would make it.
        let queues = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = queues.get(id).map_or(0, |queue| queue.messages());
        drop(queues);
        let open = opens(self.gate.is_open(id.priority), connected, waiting, self.messages_max);
        if self.gate.turn(id.priority, open) {
            let why = match (open, connected) {
                (true, _) => "opened",
                (false, true) => "shut_slow",
                (false, false) => "shut_offline",
            };
            debug!(queue = %id, waiting, why, "the live-first gate turns");
            self.metrics.counted("live_gate", why);
        }
    }
}

/// Whether the gate is open from now on.
fn opens(was_open: bool, connected: bool, waiting: u64, messages_max: u64) -> bool {
    connected && waiting <= if was_open { messages_max } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::sync::mpsc;
    use tokio::task::JoinSet;

    use crate::clock;
    use crate::store::{
        self, Append, AppendChain, AppendClass, AppendTo, Offset, RealDisk, ReceiptTo, Store,
    };

    async fn append(store: &Store, id: &QueueId, count: u64) {
        let (to, mut receipts) = mpsc::channel(8);
        let chain = AppendChain::new();
        for tag in 0..count {
            let append = Append {
                queues: vec![AppendTo { queue: id.clone(), ttl_secs: 0 }],
                payload: "x".into(),
                since: None,
                class: AppendClass::Ingress,
                receipt: ReceiptTo::new(tag, to.clone(), &chain),
            };
            store.appender().append(append).await.unwrap();
            receipts.recv().await.unwrap().result.unwrap();
        }
    }

    /// Waits until the gate of `priority` is as expected; the limit is for a hang, not a measure.
    async fn until(gate: &LiveGate, priority: u8, open: bool) {
        let turned = async {
            while gate.is_open(priority) != open {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let turned = tokio::time::timeout(Duration::from_secs(60), turned).await;
        assert!(turned.is_ok(), "the gate of priority {priority} is to be open: {open}");
    }

    #[tokio::test]
    async fn the_gate_follows_the_connection_and_its_queue() {
        let dir = tempfile::tempdir().unwrap();
        let config = store::Config::new(dir.path());
        let (store, _) = Store::open(config, Arc::new(RealDisk), clock::system()).unwrap();
        let id = QueueId { live: true, ..QueueId::new(UPSTREAM_ENDPOINT_ID, 10) };
        let (gate, open) = (Arc::new(LiveGate::default()), Arc::<OpenQueues>::default());
        let (connected, stop) = (watch::Sender::new(false), CancellationToken::new());
        // As after a restart: a message of an earlier life.
        append(&store, &id, 1).await;
        let queue = store.queue(&id).await.unwrap();
        open.lock().unwrap().insert(id.clone(), queue.clone());
        let metrics = Metrics::new("hub", "edge");
        let watch = LiveWatch {
            gate: Arc::clone(&gate),
            open,
            connected: connected.subscribe(),
            metrics: Arc::clone(&metrics),
            messages_max: 2,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(watch.run(stop.clone()));
        connected.send_replace(true);
        // The queues of the other priorities are empty, or not there.
        until(&gate, 0, true).await;
        assert!(!gate.is_open(10), "what is left from before goes first");
        queue.settle(Offset(1));
        until(&gate, 10, true).await;
        append(&store, &id, 3).await;
        until(&gate, 10, false).await;
        assert!(gate.is_open(0), "the others are as fast as they were");
        queue.settle(Offset(4));
        until(&gate, 10, true).await;
        connected.send_replace(false);
        until(&gate, 10, false).await;
        connected.send_replace(true);
        until(&gate, 10, true).await;
        stop.cancel();
        tasks.join_next().await.unwrap().unwrap();
        assert!(!gate.is_open(10) && !gate.is_open(0));
        assert_eq!(store.queues().borrow().as_slice(), [id], "no queue is made by looking");
        let text = metrics.render();
        for why in ["opened", "shut_slow", "shut_offline"] {
            assert!(text.contains(&format!("reason=\"{why}\"")), "{why} in {text}");
        }
    }

    #[test]
    fn the_gate_shuts_when_the_queue_is_long_and_opens_when_it_is_drained() {
        for (was_open, connected, waiting, expected) in [
            (false, true, 0, true),
            (false, true, 1, false),
            (true, true, 1, true),
            (true, true, 10, true),
            (true, true, 11, false),
            (false, true, 10, false),
            (true, false, 0, false),
            (false, false, 0, false),
        ] {
            let got = opens(was_open, connected, waiting, 10);
            assert_eq!(got, expected, "{was_open} {connected} {waiting}");
        }
    }
}
