//! The store under test, reached only by its public way in.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use sphere_gateway::clock;
use sphere_gateway::store::{
    Append, AppendChain, AppendClass, AppendTo, Appender, Config, Disk, Queue, QueueId, RealDisk,
    Receipt, ReceiptTo, RecoveryReport, Store,
};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Most appends that a [`Caller`] has under way.
pub(crate) const OUTSTANDING_MAX: usize = 10_000;

/// The queue that everything goes to.
pub(crate) fn queue_id() -> QueueId {
    QueueId::new("iothub", QueueId::PRIORITY_DEFAULT)
}

/// Opens a store with the defaults but for the commit window.
pub(crate) fn open(dir: &Path, window: Duration) -> Result<(Arc<Store>, RecoveryReport)> {
    open_on(Arc::new(RealDisk), dir, window)
}

/// The same, on another disk.
pub(crate) fn open_on(
    disk: Arc<dyn Disk>,
    dir: &Path,
    window: Duration,
) -> Result<(Arc<Store>, RecoveryReport)> {
    let config = Config { commit_window: window, ..Config::new(dir) };
    let (store, report) = Store::open(config, disk, clock::system())?;
    Ok((Arc::new(store), report))
}

/// The queue of `store`.
pub(crate) async fn queue(store: &Store) -> Result<Queue> {
    Ok(store.queue(&queue_id()).await?)
}

/// Current-thread, as small as a caller can be.
pub(crate) fn single_runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Two workers, as on a small gateway.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// One way in, with receipts to wherever its [`Caller`] takes them.
#[derive(Clone)]
pub(crate) struct Way {
    appender: Appender,
    queues: Vec<AppendTo>,
    to: mpsc::Sender<Receipt>,
    chain: Arc<AppendChain>,
}

impl Way {
    /// Hands one message over; its receipt comes later.
    pub(crate) async fn append(&self, tag: u64, payload: Bytes) -> Result<()> {
        let append = Append {
            queues: self.queues.clone(),
            payload,
            since: None,
            class: AppendClass::Ingress,
            receipt: ReceiptTo::new(tag, self.to.clone(), &self.chain),
        };
        Ok(self.appender.append(append).await?)
    }

    /// Another caller's way, with the same receiver.
    pub(crate) fn of_another(&self) -> Self {
        Self { chain: AppendChain::new(), ..self.clone() }
    }
}

/// Somebody who appends.
pub(crate) struct Caller {
    pub(crate) way: Way,
    receipts: mpsc::Receiver<Receipt>,
    taken: Vec<Receipt>,
}

impl Caller {
    pub(crate) fn new(store: &Store) -> Self {
        let (to, receipts) = mpsc::channel(OUTSTANDING_MAX);
        let queues = vec![AppendTo { queue: queue_id(), ttl_secs: 0 }];
        let way = Way { appender: store.appender(), queues, to, chain: AppendChain::new() };
        Self { way, receipts, taken: Vec::new() }
    }

    /// The next receipt's tag: that message is on disk.
    pub(crate) async fn acknowledged(&mut self) -> Result<u64> {
        let receipt = self.receipts.recv().await.context("we hold a sender")?;
        Ok(receipt.result?.tag())
    }

    /// One batch: `payloads` are all under way before the first receipt is awaited.
    pub(crate) async fn batch(&mut self, payloads: impl Iterator<Item = Bytes>) -> Result<()> {
        let mut under_way = 0;
        for payload in payloads {
            self.way.append(under_way, payload).await?;
            under_way += 1;
        }
        // As a connection of the gateway takes them: what there is at once.
        while under_way > 0 {
            self.receipts.recv_many(&mut self.taken, OUTSTANDING_MAX).await;
            under_way -= self.taken.len() as u64;
            for receipt in self.taken.drain(..) {
                receipt.result?;
            }
        }
        Ok(())
    }

    /// Appends `count` messages quickly, in the largest batches.
    pub(crate) async fn fill(
        &mut self,
        count: u64,
        mut payload: impl FnMut(u64) -> Bytes,
    ) -> Result<()> {
        let step = OUTSTANDING_MAX as u64;
        for from in (0..count).step_by(OUTSTANDING_MAX) {
            self.batch((from..count.min(from + step)).map(&mut payload)).await?;
        }
        Ok(())
    }
}

/// A payload of `len` bytes that does not compress.
pub(crate) fn payload(len: usize) -> Bytes {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(byte).collect::<Vec<_>>().into()
}
