//! Into the store and out of it again.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bench_common::disk::SyncedBy;
use bytes::Bytes;
use sphere_gateway::clock;
use sphere_gateway::message::Message;
use sphere_gateway::store::{
    Append, AppendChain, AppendClass, AppendTo, Appender, Config, Durable, Offset, QueueId,
    Receipt, ReceiptTo, Store,
};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::gated::Gate;
use super::{MESSAGES_MAX, runtime};
use crate::shape::{DEVICE, Shape, WINDOW};

/// Messages of one commit: ten devices with a window of 20.
const BATCH: usize = 200;
/// Most records and bytes of a read: as the pump reads when its window is empty.
const READ_MAX: (usize, usize) = (1024, 4 << 20);

/// A store in a folder that goes away with it.
struct Bench {
    dir: PathBuf,
    gate: Arc<Gate>,
    store: Store,
    runtime: Runtime,
    queue: QueueId,
    to: mpsc::Sender<Receipt>,
    receipts: mpsc::Receiver<Receipt>,
    chain: Arc<AppendChain>,
    next: u64,
}

impl Bench {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("path-instructions-{}", std::process::id()));
        let gate = Arc::<Gate>::default();
        let disk = Arc::new(SyncedBy(Arc::clone(&gate)));
        let (store, _) = Store::open(Config::new(&dir), disk, clock::system())?;
        let runtime = runtime()?;
        let queue = QueueId::new("iothub", QueueId::PRIORITY_DEFAULT);
        runtime.block_on(store.queue(&queue))?;
        let (to, receipts) = mpsc::channel(2 * BATCH);
        let chain = AppendChain::new();
        Ok(Self { dir, gate, store, runtime, queue, to, receipts, chain, next: 0 })
    }

    /// Appends a batch; its receipts come later.
    fn append(&mut self, appender: &Appender, batch: impl Iterator<Item = Bytes>) -> Result<()> {
        self.runtime.block_on(async {
            for payload in batch {
                let append = Append {
                    queues: vec![AppendTo { queue: self.queue.clone(), ttl_secs: 0 }],
                    payload,
                    since: None,
                    class: AppendClass::Ingress,
                    receipt: ReceiptTo::new(self.next, self.to.clone(), &self.chain),
                };
                self.next += 1;
                appender.append(append).await?;
            }
            Ok(())
        })
    }

    fn proofs(&mut self, count: usize) -> Result<Vec<Durable>> {
        let mut receipts = Vec::with_capacity(count);
        self.runtime.block_on(async {
            while receipts.len() < count {
                self.receipts.recv_many(&mut receipts, count).await;
            }
        });
        let proofs = receipts.into_iter().map(|receipt| receipt.result);
        proofs.collect::<Result<_, _>>().context("the store refused a message")
    }

    /// Appends all, a batch after the other.
    fn fill(&mut self, payloads: Vec<Bytes>) -> Result<Vec<Durable>> {
        let appender = self.store.appender();
        let mut proofs = Vec::with_capacity(payloads.len());
        let mut payloads = payloads.into_iter();
        while payloads.len() > 0 {
            let batch: Vec<Bytes> = payloads.by_ref().take(BATCH).collect();
            let count = batch.len();
            self.append(&appender, batch.into_iter())?;
            proofs.extend(self.proofs(count)?);
        }
        Ok(proofs)
    }

    fn end(self) -> Result<()> {
        self.gate.open();
        self.runtime.block_on(self.store.close());
        std::fs::remove_dir_all(&self.dir)?;
        Ok(())
    }
}

/// Proofs that messages are durable, with tags from 0 on.
pub(super) fn proofs(count: usize) -> Result<Vec<Durable>> {
    let mut bench = Bench::new()?;
    let proofs = bench.fill(vec![Bytes::from_static(b"a message"); count])?;
    bench.end()?;
    Ok(proofs)
}

/// Appends to proofs, the writer thread included: a batch gathers while the one before it is being synced.
pub(super) fn append(shape: Shape, count: usize) -> Result<()> {
    let mut bench = Bench::new()?;
    let mut payloads = shape.stored(DEVICE, MESSAGES_MAX + WINDOW)?.into_iter();
    let appender = bench.store.appender();
    // The first is one message: behind it the batches gather.
    bench.gate.shut();
    let mut syncs = bench.gate.arrived() + 1;
    bench.append(&appender, payloads.by_ref().take(1))?;
    bench.gate.wait_for(syncs);
    let mut under_way = 1;
    for _ in 0..count / BATCH {
        bench.append(&appender, payloads.by_ref().take(BATCH))?;
        bench.gate.pass();
        black_box(bench.proofs(under_way)?);
        syncs += 1;
        bench.gate.wait_for(syncs);
        under_way = BATCH;
    }
    bench.gate.open();
    black_box(bench.proofs(under_way)?);
    std::mem::forget(payloads);
    bench.end()
}

/// What the store keeps to messages, through the store's reader, which is a blocking thread.
pub(super) fn read(shape: Shape, count: usize) -> Result<()> {
    let mut bench = Bench::new()?;
    bench.fill(shape.stored(DEVICE, MESSAGES_MAX)?)?;
    let queue = bench.runtime.block_on(bench.store.queue(&bench.queue))?;
    let (mut next, mut read) = (Offset(0), 0);
    while read < count {
        let records_max = READ_MAX.0.min(count - read);
        let chunk = bench.runtime.block_on(queue.read(next, records_max, READ_MAX.1))?;
        next = chunk.next;
        for record in chunk.records {
            black_box(Message::decode(record.payload)?);
            read += 1;
        }
    }
    ensure!(read == count, "{read} messages of {count}");
    bench.end()
}
