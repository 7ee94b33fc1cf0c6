//! A queue in memory, so that the pump is counted without the store, and an endpoint that takes everything at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sphere_gateway::deliver::{Deliver, Outcome};
use sphere_gateway::identity::Identity;
use sphere_gateway::message::Message;
use sphere_gateway::pump::deadletter::{DeadLetter, DeadLetters};
use sphere_gateway::pump::log::{Appended, Entry, Log, LogError, Logs};
use sphere_gateway::store::{Chunk, Offset, QueueId, Record};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A queue whose records are all there from the start. Each is read once: a copy would cost what the store's reader does not.
pub(super) struct Queue {
    records: Mutex<VecDeque<Record>>,
    end: watch::Sender<Offset>,
}

impl Queue {
    pub(super) fn new(records: Vec<Record>) -> Arc<Self> {
        let end = watch::Sender::new(Offset(records.len() as u64));
        Arc::new(Self { records: Mutex::new(records.into()), end })
    }
}

impl Log for Queue {
    fn durable_end(&self) -> watch::Receiver<Offset> {
        self.end.subscribe()
    }

    fn settled(&self) -> Offset {
        Offset(0)
    }

    fn read(
        &self,
        from: Offset,
        records_max: usize,
        _: usize,
    ) -> BoxFuture<'_, Result<Chunk, LogError>> {
        let mut all = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let records: Vec<Record> = {
            let count = all.len().min(records_max);
            all.drain(..count).collect()
        };
        let next = Offset(from.0 + records.len() as u64);
        let chunk = Chunk { records, next, lost: Vec::new() };
        std::future::ready(Ok(chunk)).boxed()
    }

    fn take_over(&self, _: Offset) -> Offset {
        Offset(0)
    }

    fn settle(&self, _: Offset) {}
}

/// One queue, and no other.
pub(super) struct OneQueue(pub(super) Arc<Queue>);

impl Logs for OneQueue {
    fn open<'a>(&'a self, _: &'a QueueId) -> BoxFuture<'a, Result<Arc<dyn Log>, LogError>> {
        let log: Arc<dyn Log> = self.0.clone();
        std::future::ready(Ok(log)).boxed()
    }

    fn append<'a>(&'a self, _: &'a QueueId, _: Vec<Entry>) -> BoxFuture<'a, Appended> {
        let full = Err(LogError::Full("it is read only".into()));
        std::future::ready(Appended { durable: 0, result: full }).boxed()
    }

    fn delete_if_empty<'a>(&'a self, _: &'a QueueId) -> BoxFuture<'a, Result<bool, LogError>> {
        std::future::ready(Ok(false)).boxed()
    }

    fn side_queues(&self, _: &QueueId) -> Vec<QueueId> {
        Vec::new()
    }
}

/// Where nothing ends up.
pub(super) struct NoDeadLetters;

impl DeadLetters for NoDeadLetters {
    fn keep<'a>(&'a self, _: &'a DeadLetter) -> BoxFuture<'a, Result<(), LogError>> {
        std::future::ready(Err(LogError::Full("nothing should be refused".into()))).boxed()
    }
}

/// Takes everything, and stops the pump when it has `wanted` messages.
pub(super) struct Endpoint {
    pub(super) wanted: usize,
    pub(super) taken: AtomicUsize,
    pub(super) deliveries: AtomicUsize,
    pub(super) stop: CancellationToken,
}

impl Deliver for Endpoint {
    fn ready(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    /// After a turn of the runtime: an answer never comes within the call.
    fn deliver<'a>(&'a self, _: &'a Identity, batch: &'a [Message]) -> BoxFuture<'a, Outcome> {
        async move {
            tokio::task::yield_now().await;
            self.deliveries.fetch_add(1, Ordering::Relaxed);
            let taken = self.taken.fetch_add(batch.len(), Ordering::Relaxed) + batch.len();
            if taken >= self.wanted {
                self.stop.cancel();
            }
            Outcome::Delivered
        }
        .boxed()
    }
}
