//! How a trial gets at the store: the one place that knows the engine's methods.
//!
//! Owns: [`Rig`], [`View`], the settings and the clock of trials. Must not know: what is expected of what is seen.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::clock::{Clock, SystemClock, UnixMillis};
use crate::store::append::{Append, AppendChain, AppendClass, AppendTo, ReceiptTo};
use crate::store::disk::Disk;
use crate::store::engine::{Engine, Failure};
use crate::store::id::{Offset, QueueId};
use crate::store::queue::Shared;
use crate::store::removed::Removed;
use crate::store::{Config, Limits, RecoveryReport, Ring, WhenFull};

/// The store's folder on a simulated disk.
pub(in crate::store) const ROOT: &str = "/data/store";
/// Queues of a trial.
pub(in crate::store) const QUEUES: usize = 4;

/// The queues: two priorities, a side queue, and one whose folder name is shortened.
pub(in crate::store) fn id(queue: usize) -> QueueId {
    match queue {
        0 => QueueId::new("upstream", 10),
        1 => QueueId::new("upstream", 0),
        2 => QueueId::new("upstream", 10).with_lane("device/module"),
        _ => QueueId::new("upstream", 3).with_lane(&"long/".repeat(40)),
    }
}

/// Small segments and early syncs, so that a short run meets everything.
pub(in crate::store) fn config(dir: impl AsRef<Path>) -> Config {
    Config {
        segment_bytes_max: 4096,
        checkpoint_sync_every: 10,
        hold_when_full: Duration::ZERO,
        ..Config::new(dir.as_ref())
    }
}

/// The queue that is a ring in [`scarce_config`].
pub(in crate::store) const RING: usize = 3;

/// The same for a small volume: the oldest messages make room, and one queue keeps its newest only.
pub(in crate::store) fn scarce_config(dir: impl AsRef<Path>) -> Config {
    let limits = Limits { when_full: WhenFull::DropOldest, ..Limits::default() };
    let rings = vec![Ring { queue: id(RING), bytes_max: 16 * 1024 }];
    Config { limits, rings, ..config(dir) }
}

/// A clock that the trial turns.
pub(in crate::store) struct TrialClock {
    start: Instant,
    millis: AtomicU64,
    /// What the wall shows when it is made.
    wall: AtomicU64,
}

impl TrialClock {
    pub(in crate::store) fn new() -> Arc<Self> {
        Arc::new(Self {
            start: SystemClock.monotonic(),
            millis: AtomicU64::new(0),
            wall: AtomicU64::new(1_000),
        })
    }

    pub(in crate::store) fn pass(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.millis.fetch_add(millis, Ordering::Relaxed);
    }

    /// Somebody sets the wall clock; the other one goes on.
    #[cfg(test)]
    pub(in crate::store) fn set_wall(&self, to: UnixMillis) {
        self.wall.store(to.0.saturating_sub(self.millis()), Ordering::Relaxed);
    }

    /// Milliseconds since it was made.
    pub(in crate::store) fn millis(&self) -> u64 {
        self.millis.load(Ordering::Relaxed)
    }
}

impl Clock for TrialClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.wall.load(Ordering::Relaxed).saturating_add(self.millis()))
    }

    fn monotonic(&self) -> Instant {
        self.start + Duration::from_millis(self.millis())
    }
}

/// A message of a trial.
#[derive(Debug, Clone)]
pub(in crate::store) struct Message {
    /// Its queues, as bits.
    pub(in crate::store) queues: u8,
    pub(in crate::store) payload: Bytes,
    pub(in crate::store) ttl_secs: u32,
}

impl Message {
    /// The numbers of its queues.
    pub(in crate::store) fn targets(&self) -> impl Iterator<Item = usize> + use<> {
        let bits = self.queues;
        (0..QUEUES).filter(move |queue| bits & (1 << queue) != 0)
    }

    /// As the store takes it.
    pub(in crate::store) fn append(&self, tag: u64, to: &mpsc::Sender<super::Receipt>) -> Append {
        let to_queue = |queue| AppendTo { queue: id(queue), ttl_secs: self.ttl_secs };
        Append {
            queues: self.targets().map(to_queue).collect(),
            payload: self.payload.clone(),
            since: None,
            class: AppendClass::Ingress,
            receipt: ReceiptTo::new(tag, to.clone(), &AppendChain::new()),
        }
    }
}

/// What a queue shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct View {
    pub(in crate::store) settled: u64,
    pub(in crate::store) end: u64,
    /// From `settled` on.
    pub(in crate::store) records: Vec<(u64, Bytes)>,
    /// Reported as not to be read back.
    pub(in crate::store) lost: Vec<Range<u64>>,
}

/// A store without its thread.
pub(in crate::store) struct Rig {
    engine: Engine,
    removed: mpsc::Receiver<Removed>,
}

impl Rig {
    /// Opens the store in `dir`; says why if it cannot be opened.
    pub(in crate::store) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        clock: &Arc<TrialClock>,
    ) -> Result<(Self, RecoveryReport), String> {
        Self::open_as(config(dir), disk, clock)
    }

    /// The same with other settings.
    pub(in crate::store) fn open_as(
        config: Config,
        disk: Arc<dyn Disk>,
        clock: &Arc<TrialClock>,
    ) -> Result<(Self, RecoveryReport), String> {
        let clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
        let (mut engine, report) =
            Engine::open(config, disk, clock, Arc::default()).map_err(|error| error.to_string())?;
        let removed = engine.take_removed().expect("nobody else has asked");
        Ok((Self { engine, removed }, report))
    }

    /// The store's clock.
    pub(in crate::store) fn millis(&self) -> u64 {
        self.engine.age().now().0
    }

    /// What the store has removed and told since the last call.
    pub(in crate::store) fn removed(&mut self) -> Vec<Removed> {
        std::iter::from_fn(|| self.removed.try_recv().ok()).collect()
    }

    pub(in crate::store) fn append(&mut self, batch: &[Message]) -> Result<(), Failure> {
        let (to, _nobody) = mpsc::channel(1);
        let batch = batch.iter().map(|message| {
            let mut append = message.append(0, &to);
            if append.queues.iter().all(|to| self.is_ring(&to.queue)) {
                append.class = AppendClass::Internal;
            }
            append
        });
        let batch: Vec<Append> = batch.collect();
        self.engine.admit(batch.iter())
    }

    /// Rings are filled by the gateway, not by devices.
    fn is_ring(&self, id: &QueueId) -> bool {
        self.engine.config().rings.iter().any(|ring| ring.queue == *id)
    }

    /// The queue, if it is there.
    pub(in crate::store) fn queue(&mut self, queue: usize) -> Option<Arc<Shared>> {
        let known = self.engine.ids().borrow().contains(&id(queue));
        known.then(|| self.engine.queue(&id(queue)).expect("it is there: nothing is made"))
    }

    pub(in crate::store) fn settle(&mut self) -> Result<(), Failure> {
        self.engine.settle()
    }

    pub(in crate::store) fn tick(&mut self) -> Result<(), Failure> {
        self.engine.tick()
    }

    pub(in crate::store) fn close(&mut self) -> Result<(), Failure> {
        self.engine.close()
    }

    pub(in crate::store) fn delete(&mut self, queue: &Arc<Shared>) -> Result<bool, Failure> {
        self.engine.delete_if_empty(queue)
    }

    /// The settled place, if a power cut cannot take it back.
    pub(in crate::store) fn durable_settled(&self, queue: usize) -> Option<u64> {
        self.engine.durable_settled(&id(queue)).map(|offset| offset.0)
    }

    /// Reads a queue from its settled place to its end, `chunk` records at a time; `None` if it is not there.
    pub(in crate::store) fn view(
        &mut self,
        queue: usize,
        chunk: usize,
    ) -> Result<Option<View>, String> {
        let Some(shared) = self.queue(queue) else {
            return Ok(None);
        };
        let (settled, end) = (shared.index().settled.0, shared.end().0);
        let mut view = View { settled, end, records: vec![], lost: vec![] };
        let mut next = Offset(settled);
        loop {
            let read = shared.read(next, chunk, 2000).map_err(|error| error.to_string())?;
            view.lost.extend(read.lost.iter().map(|range| range.start.0..range.end.0));
            if read.next == next {
                return Ok(Some(view));
            }
            next = read.next;
            view.records.extend(read.records.into_iter().map(|r| (r.offset.0, r.payload)));
        }
    }
}
