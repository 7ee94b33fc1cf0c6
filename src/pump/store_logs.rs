//! The pump's view of the real store.
//!
//! Owns: [`StoreLogs`], and which of the store's errors may pass and which end a pump. Must not know: lanes.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use super::log::{Appended, Entry, Log, LogError, Logs};
use crate::store::{
    Append, AppendChain, AppendClass, AppendError, AppendTo, Appender, Chunk, Offset, Queue,
    QueueId, ReadError, Receipt, ReceiptTo, Store, StoreError,
};

/// All queues of a store.
#[derive(Debug)]
pub struct StoreLogs {
    store: Arc<Store>,
    appender: Appender,
}

impl StoreLogs {
    /// Reads from and appends to `store`.
    pub fn new(store: Arc<Store>) -> Self {
        let appender = store.appender();
        Self { store, appender }
    }

    /// Hands the entries over one after the other, until one is known to have failed; gives how many were taken.
    async fn hand_over(
        &self,
        id: &QueueId,
        entries: Vec<Entry>,
        to: mpsc::Sender<Receipt>,
        answers: &mut Answers,
    ) {
        // Nothing is stored behind an entry that was refused.
        let chain = AppendChain::new();
        for (tag, entry) in entries.into_iter().enumerate() {
            let append = Append {
                queues: vec![AppendTo { queue: id.clone(), ttl_secs: entry.ttl_secs }],
                payload: entry.payload,
                since: entry.since,
                class: AppendClass::Internal,
                receipt: ReceiptTo::new(tag as u64, to.clone(), &chain),
            };
            if let Err(error) = self.appender.append(append).await {
                answers.refused = Some(error);
                return;
            }
            while let Ok(receipt) = answers.receipts.try_recv() {
                answers.take(receipt);
            }
            if answers.appended.result.is_err() {
                return;
            }
        }
    }
}

/// Receipts of one append of several entries, as they come in (in order).
struct Answers {
    receipts: mpsc::Receiver<Receipt>,
    appended: Appended,
    /// An entry that was not even taken.
    refused: Option<AppendError>,
}

impl Answers {
    fn take(&mut self, receipt: Receipt) {
        match (receipt.result, &self.appended.result) {
            (Ok(_), Ok(())) => self.appended.durable += 1,
            (Err(error), Ok(())) => self.appended.result = Err(error.into()),
            (result, Err(_)) => debug_assert!(result.is_err(), "the chain broke at the first"),
        }
    }

    /// Takes the receipts that are still to come. All senders of receipts are gone by then, so it ends.
    async fn finish(mut self) -> Appended {
        while let Some(receipt) = self.receipts.recv().await {
            self.take(receipt);
        }
        if let (Some(error), Ok(())) = (self.refused, &self.appended.result) {
            self.appended.result = Err(error.into());
        }
        self.appended
    }
}

impl Logs for StoreLogs {
    fn open<'a>(&'a self, id: &'a QueueId) -> BoxFuture<'a, Result<Arc<dyn Log>, LogError>> {
        async move { Ok(Arc::new(self.store.queue(id).await?) as Arc<dyn Log>) }.boxed()
    }

    fn append<'a>(&'a self, id: &'a QueueId, entries: Vec<Entry>) -> BoxFuture<'a, Appended> {
        async move {
            // One place per entry: the writer never waits for a receipt to be taken.
            let (to, receipts) = mpsc::channel(entries.len().max(1));
            let appended = Appended { durable: 0, result: Ok(()) };
            let mut answers = Answers { receipts, appended, refused: None };
            self.hand_over(id, entries, to, &mut answers).await;
            answers.finish().await
        }
        .boxed()
    }

    fn delete_if_empty<'a>(&'a self, id: &'a QueueId) -> BoxFuture<'a, Result<bool, LogError>> {
        async move {
            match self.store.existing_queue(id).await? {
                Some(queue) => Ok(queue.delete_if_empty().await?),
                None => Ok(true),
            }
        }
        .boxed()
    }

    fn side_queues(&self, main: &QueueId) -> Vec<QueueId> {
        let queues = self.store.queues();
        let queues = queues.borrow();
        let ours =
            |id: &&QueueId| id.lane.is_some() && QueueId { lane: None, ..(*id).clone() } == *main;
        queues.iter().filter(ours).cloned().collect()
    }
}

impl Log for Queue {
    fn durable_end(&self) -> watch::Receiver<Offset> {
        Queue::durable_end(self)
    }

    fn settled(&self) -> Offset {
        Queue::settled(self)
    }

    fn read(
        &self,
        from: Offset,
        records_max: usize,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Chunk, LogError>> {
        async move { Ok(Queue::read(self, from, records_max, bytes_max).await?) }.boxed()
    }

    fn take_over(&self, below: Offset) -> Offset {
        Queue::take_over(self, below)
    }

    fn settle(&self, below: Offset) {
        Queue::settle(self, below);
    }
}

impl From<AppendError> for LogError {
    fn from(error: AppendError) -> Self {
        match error {
            // Nobody revokes the pump's appends. A message is at most a packet of 256 KiB, a dead letter 2 KiB more: too large cannot happen, and if it
            // does the message is kept where it is.
            AppendError::Full | AppendError::TooLarge(_) | AppendError::Revoked => {
                Self::Full(error.to_string())
            }
            AppendError::Poisoned | AppendError::Closed => Self::Gone(error.to_string()),
        }
    }
}

impl From<StoreError> for LogError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(_) => Self::Full(error.to_string()),
            StoreError::Poisoned | StoreError::Closed => Self::Gone(error.to_string()),
        }
    }
}

impl From<ReadError> for LogError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io { .. } => Self::Full(error.to_string()),
            ReadError::Stopping => Self::Gone(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::clock;
    use crate::metrics::Metrics;
    use crate::pump::backoff::Backoff;
    use crate::pump::deadletter::DeadLetterQueue;
    use crate::pump::double::{Answer, Scripted, main_queue, message};
    use crate::pump::{Config, Pump, Target};
    use crate::store::{self, RealDisk};

    fn open(dir: &Path) -> Arc<StoreLogs> {
        let config = store::Config::new(dir);
        let (store, _) = Store::open(config, Arc::new(RealDisk), clock::system()).unwrap();
        Arc::new(StoreLogs::new(Arc::new(store)))
    }

    fn pump(logs: &Arc<StoreLogs>, hub: &Arc<Scripted>) -> Pump {
        let millis = |base, max| Backoff {
            base: Duration::from_millis(base),
            max: Duration::from_millis(max),
        };
        let config = Config {
            window_messages_max: 64,
            batch_messages_max: 8,
            backoff: millis(20, 100),
            park_after: Duration::from_millis(200),
            ..Config::default()
        };
        let logs = Arc::clone(logs) as Arc<dyn Logs>;
        let dead = Arc::new(DeadLetterQueue::new(Arc::clone(&logs)));
        let metrics = Metrics::new("hub", "edge");
        let hub = Arc::clone(hub) as Arc<dyn crate::deliver::Deliver>;
        Pump::new(logs, main_queue(), Target::new(hub), dead, metrics, clock::system(), config)
    }

    async fn publish(logs: &StoreLogs, sender: &str, numbers: std::ops::Range<u64>) {
        let entry = |n| Entry { payload: message(sender, n, 1), since: None, ttl_secs: 0 };
        let count = usize::try_from(numbers.end - numbers.start).unwrap();
        let appended = logs.append(&main_queue(), numbers.map(entry).collect()).await;
        assert_eq!(appended, Appended { durable: count, result: Ok(()) });
    }

    /// Runs a pump until `done` says so; then stops it, or crashes it.
    async fn run_until(
        logs: &Arc<StoreLogs>,
        hub: &Arc<Scripted>,
        crash: bool,
        done: impl AsyncFn() -> bool,
    ) {
        let stop = CancellationToken::new();
        let mut run = Box::pin(pump(logs, hub).run(stop.clone()));
        let wait = async {
            while !done().await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            ended = &mut run => panic!("the pump has ended by itself: {ended:?}"),
            () = wait => {}
        }
        if !crash {
            stop.cancel();
            run.await.unwrap();
        }
    }

    /// On the real store: a stuck sender is parked, survives a crash of the pump and a restart of the store in its side
    /// queue, arrives in order when it heals, and leaves nothing behind.
    #[tokio::test]
    async fn a_stuck_sender_survives_restarts_in_its_side_queue() {
        let dir = tempfile::tempdir().unwrap();
        let hub = Scripted::new(|sender, _| match sender {
            "a" => Answer::retry().after(Duration::ZERO),
            _ => Answer::delivered().after(Duration::ZERO),
        });
        let logs = open(dir.path());
        publish(&logs, "a", 0..200).await;
        publish(&logs, "b", 0..50).await;
        run_until(&logs, &hub, true, async || {
            hub.kept_of("b").len() >= 50
                && logs.store.queue(&main_queue()).await.unwrap().messages() == 0
        })
        .await;
        assert_eq!(hub.kept_of("b"), (0..50).collect::<Vec<_>>());
        let side = main_queue().with_lane("a");
        assert_eq!(logs.side_queues(&main_queue()), std::slice::from_ref(&side));
        publish(&logs, "a", 200..210).await;
        logs.store.close().await;
        drop(logs);

        let logs = open(dir.path());
        assert_eq!(logs.side_queues(&main_queue()), [side]);
        hub.script(|_, _| Answer::delivered().after(Duration::ZERO));
        run_until(&logs, &hub, false, async || {
            logs.side_queues(&main_queue()).is_empty() && hub.kept_of("a").len() >= 210
        })
        .await;
        assert_eq!(hub.first_arrivals()["a"], (0..210).collect::<Vec<_>>());
        logs.store.close().await;
        assert!(open(dir.path()).side_queues(&main_queue()).is_empty());
    }

    #[tokio::test]
    async fn a_side_queue_that_is_gone_is_not_made_again_by_a_look_at_it() {
        let dir = tempfile::tempdir().unwrap();
        let logs = open(dir.path());
        let live = QueueId { live: true, ..main_queue() };
        let (side, live_side) = (main_queue().with_lane("a"), live.with_lane("a"));
        assert!(logs.store.existing_queue(&side).await.unwrap().is_none());
        assert_eq!(logs.delete_if_empty(&side).await, Ok(true));
        assert!(logs.store.queues().borrow().is_empty());
        // A live queue's side queue is another one's.
        logs.open(&live_side).await.unwrap();
        assert!(logs.store.existing_queue(&live_side).await.unwrap().is_some());
        assert_eq!(logs.side_queues(&live), std::slice::from_ref(&live_side));
        assert!(logs.side_queues(&main_queue()).is_empty());
        assert_eq!(logs.delete_if_empty(&live_side).await, Ok(true));
        assert!(logs.store.existing_queue(&live_side).await.unwrap().is_none());
        assert!(logs.store.queues().borrow().is_empty());
    }

    #[tokio::test]
    async fn a_closed_store_ends_the_pump() {
        let dir = tempfile::tempdir().unwrap();
        let hub = Scripted::new(|_, _| Answer::retry().after(Duration::ZERO));
        let logs = open(dir.path());
        publish(&logs, "a", 0..3).await;
        let queue = logs.store.queue(&main_queue()).await.unwrap();
        logs.store.close().await;
        // The lane is to be parked, and the store takes nothing any more.
        let ended = pump(&logs, &hub).run(CancellationToken::new()).await;
        assert!(ended.is_err());
        assert_eq!(queue.messages(), 3);
    }

    /// How many messages the pump has counted as dropped for want of room.
    fn dropped(metrics: &Metrics) -> u64 {
        let text = metrics.render();
        let ours = text.lines().filter(|line| {
            line.starts_with("edgehub_messages_dropped_total") && line.contains("\"store_full\"")
        });
        ours.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    }

    /// One sender hangs at the head while others are delivered behind it; then the store drops what is oldest, of what the
    /// pump has read and of what it has not. Each message is delivered or counted as dropped: by one of the two, once.
    #[tokio::test]
    async fn what_the_store_drops_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let limits = store::Limits {
            budget_bytes: Some(4 << 20),
            when_full: store::WhenFull::DropOldest,
            ..store::Limits::default()
        };
        let config = store::Config { limits, ..store::Config::new(dir.path()) };
        let (store, _) = Store::open(config, Arc::new(RealDisk), clock::system()).unwrap();
        let logs = Arc::new(StoreLogs::new(Arc::new(store)));
        let hub = Scripted::new(|sender, _| match sender {
            "a" => Answer::delivered().after(Duration::from_secs(2)),
            _ => Answer::delivered().after(Duration::ZERO),
        });
        publish(&logs, "a", 0..1).await;
        publish(&logs, "b", 0..1000).await;
        let pump = pump(&logs, &hub);
        let metrics = Arc::clone(&pump.metrics);
        let stop = CancellationToken::new();
        let run = tokio_util::task::TaskTracker::new().spawn(pump.run(stop.clone()));
        while hub.kept_of("b").len() < 50 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // All at once, so that the store is ahead of its reader.
        let (to, mut receipts) = mpsc::channel(1000);
        for n in 0..1000 {
            let append = Append {
                queues: vec![AppendTo { queue: main_queue(), ttl_secs: 0 }],
                payload: message("b", 1000 + n, 10_000),
                since: None,
                class: AppendClass::Ingress,
                receipt: ReceiptTo::new(n, to.clone(), &AppendChain::new()),
            };
            logs.appender.append(append).await.unwrap();
        }
        for _ in 0..1000 {
            receipts.recv().await.unwrap().result.unwrap();
        }
        let (mut told, mut stored) = (logs.store.removed().unwrap(), 0);
        let mut counted = || {
            while let Ok(removed) = told.try_recv() {
                stored += removed.records - removed.with_reader;
            }
            let kept = hub.kept_of("a").len() + hub.kept_of("b").len();
            (kept as u64 + dropped(&metrics) + stored, stored)
        };
        let queue = logs.store.queue(&main_queue()).await.unwrap();
        let all = async {
            while queue.messages() > 0 || counted().0 < 2001 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(60), all).await;
        assert!(ended.is_ok(), "some are counted by nobody");
        stop.cancel();
        run.await.unwrap().unwrap();
        assert_eq!(counted().0, 2001);
        assert!(counted().1 > 0, "the store has dropped");
    }
}
