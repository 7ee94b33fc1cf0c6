//! The pump, from the store to an endpoint that takes everything at once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sphere_gateway::clock;
use sphere_gateway::deliver::{Deliver, Outcome};
use sphere_gateway::identity::Identity;
use sphere_gateway::message::{Message, SystemKey};
use sphere_gateway::metrics::Metrics;
use sphere_gateway::pump::deadletter::DeadLetterQueue;
use sphere_gateway::pump::log::Logs;
use sphere_gateway::pump::store_logs::StoreLogs;
use sphere_gateway::pump::{Config, Pump, Target};
use sphere_gateway::store::{Queue, Store};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::target::{self, Caller};
use crate::{Scale, sub};
use bench_common::machine;
use bench_common::report::{Cell, Report, median};

const BODY: usize = 200;

/// What a hub far away takes for a delivery.
const ROUND_TRIP: Duration = Duration::from_millis(50);

/// Messages of a slice to an endpoint that far away.
const FAR_SLICE: u64 = 4000;

/// Takes everything, after `pause`; after `left` messages it stops the pump.
struct Null {
    pause: Duration,
    left: AtomicU64,
    batches: AtomicU64,
    stop: CancellationToken,
}

impl Deliver for Null {
    fn ready(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    fn deliver<'a>(&'a self, _: &'a Identity, batch: &'a [Message]) -> BoxFuture<'a, Outcome> {
        self.batches.fetch_add(1, Ordering::Relaxed);
        let taken = batch.len() as u64;
        if self.left.fetch_sub(taken, Ordering::Relaxed) <= taken {
            self.stop.cancel();
            self.left.store(u64::MAX, Ordering::Relaxed);
        }
        if self.pause.is_zero() {
            return std::future::ready(Outcome::Delivered).boxed();
        }
        tokio::time::sleep(self.pause).map(|()| Outcome::Delivered).boxed()
    }
}

/// One slice of a backlog.
#[derive(Clone, Copy)]
struct Slice {
    records: f64,
    seconds: f64,
    cpu_s: f64,
    per_batch: f64,
}

impl Slice {
    fn rate(&self) -> f64 {
        self.records / self.seconds
    }

    fn cpu_per_100k(&self) -> f64 {
        self.cpu_s / self.records * 1e5
    }
}

/// One round.
struct Slices {
    pumped: Slice,
    /// By reading, decoding and settling alone.
    bare: Slice,
    /// With the pump, to an endpoint that is [`ROUND_TRIP`] away.
    far: Slice,
}

/// A backlog of so many senders.
struct Backlog {
    senders: u64,
    store: Arc<Store>,
    queue: Queue,
    slices: Vec<Slices>,
}

impl Backlog {
    async fn fill(dir: &Path, senders: u64, count: u64) -> Result<Self> {
        let (store, _) = target::open(&sub(dir, &senders.to_string())?, Duration::ZERO)?;
        let names: Vec<Bytes> = (0..senders).map(stored).collect::<Result<_>>()?;
        let of = |n: u64| names[usize::try_from(n % senders).expect("a small number")].clone();
        Caller::new(&store).fill(count, of).await?;
        let queue = target::queue(&store).await?;
        Ok(Self { senders, store, queue, slices: Vec::new() })
    }

    fn pump(&self, endpoint: Arc<Null>) -> Pump {
        let logs: Arc<dyn Logs> = Arc::new(StoreLogs::new(Arc::clone(&self.store)));
        let dead = Arc::new(DeadLetterQueue::new(Arc::clone(&logs)));
        let metrics = Metrics::new("hub", "edge");
        let id = target::queue_id();
        Pump::new(
            logs,
            id,
            Target::new(endpoint),
            dead,
            metrics,
            clock::system(),
            Config::default(),
        )
    }

    async fn with_pump(&self, count: u64, pause: Duration) -> Result<Slice> {
        let stop = CancellationToken::new();
        let (left, batches) = (AtomicU64::new(count), AtomicU64::new(0));
        let endpoint = Arc::new(Null { pause, left, batches, stop: stop.clone() });
        let pump = self.pump(Arc::clone(&endpoint));
        let (before, cpu, started) = (self.queue.settled(), machine::cpu(), Instant::now());
        // On a worker, as in the gateway.
        tokio::spawn(pump.run(stop)).await??;
        let seconds = started.elapsed().as_secs_f64();
        let records = (self.queue.settled().0 - before.0) as f64;
        ensure!(records >= count as f64, "the pump has settled {records} of {count}");
        let per_batch = records / endpoint.batches.load(Ordering::Relaxed) as f64;
        Ok(Slice { records, seconds, cpu_s: (machine::cpu() - cpu).as_secs_f64(), per_batch })
    }

    async fn bare(&self, count: u64) -> Result<Slice> {
        let (cpu, started) = (machine::cpu(), Instant::now());
        let (mut from, mut records) = (self.queue.settled(), 0);
        while records < count {
            let chunk = self.queue.read(from, 1000, 4 << 20).await?;
            ensure!(!chunk.records.is_empty(), "records are missing");
            records += chunk.records.len() as u64;
            for record in chunk.records {
                std::hint::black_box(Message::decode(record.payload)?);
            }
            from = chunk.next;
            self.queue.settle(from);
        }
        let (seconds, cpu_s) =
            (started.elapsed().as_secs_f64(), (machine::cpu() - cpu).as_secs_f64());
        Ok(Slice { records: records as f64, seconds, cpu_s, per_batch: 0.0 })
    }
}

/// A message of sender `n` as the gateway stores it. The public way to a message goes through the stored form.
fn stored(n: u64) -> Result<Bytes> {
    let name = format!("device-{n:06}");
    let mut seed = BytesMut::new();
    seed.put_slice(&[1, 0]);
    seed.put_u64_le(1_700_000_000_000);
    seed.put_u16_le(u16::try_from(name.len())?);
    seed.put_slice(name.as_bytes());
    seed.put_slice(&[0, 0, 0]);
    let mut message = Message::decode(seed.freeze())?;
    message.system.set(SystemKey::ContentType, "application/json");
    message.system.set(SystemKey::ContentEncoding, "utf-8");
    message.properties.set("level", Some("normal".into()));
    message.body = target::payload(BODY);
    Ok(message.encode())
}

/// Measures and reports.
pub(crate) fn measure(dir: &Path, scale: &Scale, report: &mut Report) -> Result<()> {
    let runtime = target::runtime()?;
    let dir = sub(dir, "drain")?;
    let slice = scale.of(1_000_000) as u64 / 10;
    let backlogs = measured(&runtime, &dir, slice, scale.rounds)?;
    std::fs::remove_dir_all(&dir)?;
    let columns = [
        "senders",
        "records/s",
        "CPU s per 100k",
        "messages a delivery",
        "without the pump: records/s",
        "CPU s per 100k",
        "pump / without",
        "50 ms away: records/s",
    ];
    let note = format!(
        "Slices of {slice} messages of {} B (stored form, body {BODY} B), 2 workers; `without` reads 1,000 at a time, \
         decodes and settles; 50 ms away: each delivery is answered after that. CPU of the whole process, the store's writer included.",
        stored(0)?.len()
    );
    let rows: Vec<_> = backlogs.iter().map(row).collect();
    report.table("Drain through the pump to a null endpoint", &note, &columns, &rows);
    Ok(())
}

fn measured(runtime: &Runtime, dir: &Path, slice: u64, rounds: usize) -> Result<Vec<Backlog>> {
    let far_slice = FAR_SLICE.min(slice);
    let mut backlogs = Vec::new();
    for senders in [1, 50, 1000] {
        // The pump has a window under way when it is told to stop, and settles that, too.
        let count = (slice * 2 + far_slice + 10_000) * rounds as u64;
        backlogs.push(runtime.block_on(Backlog::fill(dir, senders, count))?);
    }
    for _ in 0..rounds {
        for backlog in &mut backlogs {
            let pumped = runtime.block_on(backlog.with_pump(slice, Duration::ZERO))?;
            let bare = runtime.block_on(backlog.bare(slice))?;
            let far = runtime.block_on(backlog.with_pump(far_slice, ROUND_TRIP))?;
            backlog.slices.push(Slices { pumped, bare, far });
        }
    }
    for backlog in &backlogs {
        runtime.block_on(backlog.store.close());
    }
    Ok(backlogs)
}

fn row(backlog: &Backlog) -> Vec<Cell> {
    let of = |of: fn(&Slices) -> f64| median(&backlog.slices, of);
    vec![
        (backlog.senders as f64, 0).into(),
        (of(|s| s.pumped.rate()), 0).into(),
        (of(|s| s.pumped.cpu_per_100k()), 3).into(),
        (of(|s| s.pumped.per_batch), 1).into(),
        (of(|s| s.bare.rate()), 0).into(),
        (of(|s| s.bare.cpu_per_100k()), 3).into(),
        (of(|s| s.pumped.rate() / s.bare.rate()), 2).into(),
        (of(|s| s.far.rate()), 0).into(),
    ]
}
