//! Tests of the store: through its public face where that is possible; `model` and `campaign` drive the engine by [`super::trial`].

mod budget;
mod campaign;
mod expiry;
mod faults;
mod inspect;
mod medium;
mod model;
mod promises;
mod refusals;
mod upgrade;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::disk::{Disk, RealDisk};
use super::sim::{Fault, Op, SimDisk};
use super::*;
use model::{TestClock, config};

const ROOT: &str = "/data/store";
const FOLDER: &str = "/data/store/upstream.10";

fn main_queue() -> QueueId {
    QueueId::new("upstream", QueueId::PRIORITY_DEFAULT)
}

fn open(disk: &SimDisk) -> (Store, RecoveryReport) {
    Store::open(config(), Arc::new(disk.clone()), TestClock::new()).unwrap()
}

/// A client of the store: appends, and takes receipts.
struct Client {
    appender: Appender,
    to: mpsc::Sender<Receipt>,
    receipts: mpsc::Receiver<Receipt>,
    chain: Option<Arc<AppendChain>>,
    class: AppendClass,
}

impl Client {
    fn new(store: &Store) -> Self {
        let (to, receipts) = mpsc::channel(4096);
        Self { appender: store.appender(), to, receipts, chain: None, class: AppendClass::Ingress }
    }

    fn message(&self, tag: u64, queues: &[QueueId], payload: Vec<u8>) -> Append {
        let to = |queue: &QueueId| AppendTo { queue: queue.clone(), ttl_secs: 9 };
        Append {
            queues: queues.iter().map(to).collect(),
            payload: Bytes::from(payload),
            since: None,
            class: self.class,
            receipt: ReceiptTo::new(tag, self.to.clone(), &self.chain.clone().unwrap_or_default()),
        }
    }

    async fn append(&mut self, payload: &[u8]) -> Result<Durable, AppendError> {
        self.appender.append(self.message(7, &[main_queue()], payload.to_vec())).await?;
        self.receipts.recv().await.unwrap().result
    }
}

async fn read_all(queue: &Queue) -> Chunk {
    queue.read(queue.settled(), 10_000, usize::MAX).await.unwrap()
}

fn offsets(chunk: &Chunk) -> Vec<u64> {
    chunk.records.iter().map(|record| record.offset.0).collect()
}

/// Appends `n` records of 100 bytes, each its own batch, and kills the process.
async fn filled(n: u8) -> SimDisk {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let mut client = Client::new(&store);
    for i in 0..n {
        client.append(&[i; 100]).await.unwrap();
    }
    disk.kill()
}

fn segments(disk: &SimDisk) -> Vec<String> {
    let names = disk.names(FOLDER).into_iter().filter(|name| name.ends_with(".seg"));
    names.map(|name| format!("{FOLDER}/{name}")).collect()
}
