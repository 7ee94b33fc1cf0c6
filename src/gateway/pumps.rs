//! Which queues are drained: a pump for each queue that feeds the upstream or an input of a module, and the gauges of all of
//! them.
//!
//! Owns: the handles of the open queues, and the order among the pumps of each endpoint. Invariant: every queue found on disk
//! is opened, also those that no route names any more. Must not know: what is in a queue.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::clock::SharedClock;
use crate::identity::{ClientName, DeviceId, ModuleId};
use crate::metrics::{InputName, Metrics, priority_label};
use crate::pump::deadletter::DeadLetterQueue;
use crate::pump::store_logs::StoreLogs;
use crate::pump::{self, Pump, PumpError, Target};
use crate::relay::Relay;
use crate::route::UPSTREAM_ENDPOINT_ID;
use crate::store::{Queue, QueueId, Store};

/// The module inputs of this edge device as places to deliver to.
pub(super) struct ToModules {
    pub(super) relay: Relay,
    pub(super) edge: DeviceId,
    pub(super) ack_timeout: Duration,
    pub(super) config: pump::Config,
}

impl ToModules {
    /// The input that is named `edge/module/input`; `None` for what is none of ours.
    fn target(&self, endpoint: &str) -> Option<Target> {
        let (module, input) = input_of(&self.edge, endpoint)?;
        let name = InputName { module: module.to_string().into(), input: input.into() };
        let endpoint = self.relay.input(module, input.into(), self.ack_timeout);
        Some(Target::input(Arc::new(endpoint), name))
    }
}

/// The module and the input that an endpoint of a queue names; `None` for what is no input of this edge device.
pub(super) fn input_of<'e>(edge: &DeviceId, endpoint: &'e str) -> Option<(ClientName, &'e str)> {
    let (device, rest) = endpoint.split_once('/')?;
    let (module, input) = rest.split_once('/')?;
    let module = ModuleId::parse(module).ok().filter(|_| device == edge.as_str())?;
    Some((ClientName::Module(edge.clone(), module), input))
}

/// Starts a pump for every queue of the upstream and of module inputs.
pub(super) struct Pumps {
    pub(super) store: Arc<Store>,
    /// The upstream, and the order among its pumps.
    pub(super) target: Target,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: SharedClock,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) config: pump::Config,
    pub(super) modules: ToModules,
    /// Endpoints of modules that have a pump.
    pub(super) inputs: BTreeMap<Arc<str>, Target>,
    /// Told when a pump ended since the store is gone.
    pub(super) failed: watch::Sender<Option<String>>,
    /// Why queues are not drained: one line for each pump that met what a newer program has written.
    pub(super) waiting: watch::Sender<Vec<String>>,
    pub(super) open: Arc<OpenQueues>,
}

/// Queues whose length is shown.
pub(super) type OpenQueues = Mutex<BTreeMap<QueueId, Queue>>;

impl Pumps {
    pub(super) async fn run(mut self) {
        let mut queues = self.store.queues();
        loop {
            let ids: Vec<QueueId> = queues.borrow_and_update().clone();
            self.lock().retain(|id, _| ids.contains(id));
            let mut pumps = Vec::new();
            for id in ids {
                pumps.extend(self.open(id).await);
            }
            // Only when all have their place in the order: of what is found at the start the first priority goes first.
            pumps.into_iter().for_each(|pump| self.start(pump));
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = queues.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Takes the queue's handle, if it is still there; gives its pump, if it is to have one.
    async fn open(&mut self, id: QueueId) -> Option<Pump> {
        if self.lock().contains_key(&id) {
            return None;
        }
        let queue = match self.store.existing_queue(&id).await {
            Ok(queue) => queue?,
            Err(e) => {
                error!("queue {id} cannot be opened and is not drained: {e}");
                self.metrics.counted("queue_not_opened", "store");
                return None;
            }
        };
        self.lock().insert(id.clone(), queue);
        // Side queues belong to the pump of their queue. Dead letters wait for a person.
        if id.lane.is_some() {
            return None;
        }
        if &*id.endpoint == UPSTREAM_ENDPOINT_ID {
            return Some(self.pump(id, self.target.clone(), self.config.clone()));
        }
        let target = match self.inputs.get(&id.endpoint) {
            Some(known) => known.clone(),
            None => self.modules.target(&id.endpoint)?,
        };
        self.inputs.insert(Arc::clone(&id.endpoint), target.clone());
        Some(self.pump(id, target, self.modules.config.clone()))
    }

    fn pump(&self, id: QueueId, target: Target, config: pump::Config) -> Pump {
        let logs = Arc::new(StoreLogs::new(Arc::clone(&self.store)));
        let letters = Arc::new(DeadLetterQueue::new(logs.clone()));
        Pump::new(
            logs,
            id,
            target,
            letters,
            Arc::clone(&self.metrics),
            Arc::clone(&self.clock),
            config,
        )
    }

    fn start(&self, pump: Pump) {
        let stop = self.stop.clone();
        let (metrics, failed) = (Arc::clone(&self.metrics), self.failed.clone());
        let waiting = self.waiting.clone();
        self.tasks.spawn(async move {
            if let Err(e) = pump.run(stop).await {
                error!("{e}");
                match &e {
                    PumpError::Store { .. } => {
                        metrics.counted("pump_ended", "store_gone");
                        failed.send_if_modified(|why| {
                            why.is_none().then(|| *why = Some(e.to_string())).is_some()
                        });
                    }
                    // A restart would meet it again: the others go on, and what waits here waits for the newer program.
                    PumpError::Newer { .. } => {
                        metrics.counted("pump_ended", "newer_message");
                        waiting.send_modify(|waiting| waiting.push(e.to_string()));
                    }
                }
            }
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<QueueId, Queue>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gauges that are read when somebody asks.
pub(super) fn refresh_gauges(metrics: &Metrics, open: &OpenQueues, store: &Store) {
    let mut sums: BTreeMap<(Arc<str>, u8), (u64, u64)> = BTreeMap::new();
    for (id, queue) in open.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        // A parked sender's messages still wait for the same endpoint.
        let sum = sums.entry((Arc::clone(&id.endpoint), id.priority)).or_default();
        sum.0 += queue.messages();
        sum.1 += queue.bytes();
    }
    for ((endpoint, priority), (messages, bytes)) in sums {
        metrics.set_queue(&endpoint, priority_label(priority), messages, bytes);
    }
    let stats = store.stats();
    let gauge = |name, help, value: u64| metrics.set_gauge(name, help, value as f64);
    gauge(
        "store_appended_records",
        "Records made durable since the start.",
        stats.appended_records,
    );
    gauge(
        "store_appended_bytes",
        "Payload bytes made durable since the start.",
        stats.appended_bytes,
    );
    gauge("store_written_bytes", "Bytes written to segments since the start.", stats.written_bytes);
    gauge("store_commits", "Group commits since the start.", stats.commits);
    gauge("store_syncs", "fdatasync calls since the start.", stats.syncs);
    gauge(
        "store_last_sync_microseconds",
        "Duration of the last fdatasync.",
        stats.last_sync_micros,
    );
}
