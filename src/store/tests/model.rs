//! The store against a plain map, on a disk that crashes.
//!
//! The promise that is tested: whatever happens, every record that was reported durable and is not settled is read back
//! with its bytes, at its place; nothing is read that was not appended; a settled place that was durable stays settled.
//! `PROPTEST_CASES` sets the number of cases (200 by default, so that a debug build ends in seconds).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::mpsc;

use crate::clock::{Clock, UnixMillis};
use crate::store::append::{Append, AppendChain, AppendClass, AppendTo, ReceiptTo};
use crate::store::disk::Disk;
use crate::store::engine::{Engine, Failure};
use crate::store::id::{Offset, QueueId};
use crate::store::queue::Shared;
use crate::store::sim::{Fault, SimDisk};
use crate::store::{Config, RecoveryReport};

const QUEUES: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// A batch: for each message the queues (bits) and the payload's length.
    Append(Vec<(u8, usize)>),
    /// Settle a share (of 8) of what a queue holds.
    Settle(usize, u64),
    /// Seconds pass.
    Tick(u64),
    DeleteIfEmpty(usize),
    /// Limits or frees the volume: bytes that are still to be had.
    Room(Option<usize>),
    /// Close in good order and open again.
    Restart,
    Kill,
    PowerCut,
    /// The power goes at the n-th change of the disk from now on.
    PowerCutDuring(u32),
    /// The n-th change of the disk from now on fails, with "no space" or otherwise.
    FailDuring(u32, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let message = (1u8..8, prop_oneof![3 => 0usize..200, 1 => 200usize..3000]);
    prop_oneof![
        12 => prop::collection::vec(message, 1..6).prop_map(Step::Append),
        6 => (0..QUEUES, 1u64..=8).prop_map(|(q, s)| Step::Settle(q, s)),
        2 => (0u64..3).prop_map(Step::Tick),
        1 => (0..QUEUES).prop_map(Step::DeleteIfEmpty),
        1 => prop::option::of(0usize..8192).prop_map(Step::Room),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
        1 => Just(Step::PowerCut),
        4 => (0u32..30).prop_map(Step::PowerCutDuring),
        2 => (0u32..30, any::<bool>()).prop_map(|(n, full)| Step::FailDuring(n, full)),
    ]
}

/// A clock that tests turn.
pub(super) struct TestClock {
    start: Instant,
    millis: AtomicU64,
}

impl TestClock {
    pub(super) fn new() -> Arc<Self> {
        let start = crate::clock::SystemClock.monotonic();
        Arc::new(Self { start, millis: AtomicU64::new(0) })
    }

    pub(super) fn pass(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap();
        self.millis.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(1_000 + self.millis.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Instant {
        self.start + Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }
}

pub(super) fn config() -> Config {
    Config { segment_bytes_max: 4096, checkpoint_sync_every: 10, ..Config::new("/data/store") }
}

fn id(queue: usize) -> QueueId {
    match queue {
        0 => QueueId::new("upstream", 10),
        1 => QueueId::new("upstream", 0),
        _ => QueueId::new("upstream", 10).with_lane("device/module"),
    }
}

/// What one queue must hold.
#[derive(Debug, Default)]
struct Expected {
    /// Reported durable.
    acked: BTreeMap<u64, Bytes>,
    /// Under way when the power went: may be there.
    possible: BTreeMap<u64, Bytes>,
    end: u64,
    /// Asked for, at most.
    settle_asked: u64,
    /// Known to be durable, at least.
    settle_durable: u64,
    /// Known to be in the page cache, at least.
    settle_written: u64,
    /// A deletion was under way when the power went.
    deleting: bool,
}

struct World {
    disk: SimDisk,
    clock: Arc<TestClock>,
    engine: Option<Engine>,
    queues: Vec<Expected>,
    seed: u64,
    count: u64,
    /// A failure was planned, so the store may be poisoned or not open.
    faulted: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            disk: SimDisk::new(),
            clock: TestClock::new(),
            engine: None,
            queues: (0..QUEUES).map(|_| Expected::default()).collect(),
            seed,
            count: 0,
            faulted: false,
        };
        if seed.is_multiple_of(4) {
            world.disk.without_allocate();
        }
        world.open();
        world
    }

    fn open(&mut self) -> RecoveryReport {
        // A crash may come while recovery is at work: then it is done again.
        loop {
            let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
            match Engine::open(config(), disk, self.clock.clone(), Arc::default()) {
                Ok((engine, report)) => {
                    self.engine = Some(engine);
                    return report;
                }
                Err(error) => {
                    assert!(self.faulted || error.to_string().contains("power"), "{error}");
                    self.seed += 1;
                    self.disk = self.disk.power_cut(self.seed);
                }
            }
        }
    }

    fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().unwrap()
    }

    fn shared(&mut self, queue: usize) -> Option<Arc<Shared>> {
        let known = self.engine().ids().borrow().contains(&id(queue));
        known.then(|| self.engine().queue(&id(queue)).unwrap())
    }

    /// A step's result: a power cut during it is followed by a restart.
    fn after(&mut self, result: Result<(), Failure>) {
        match result {
            Ok(()) | Err(Failure::Refused(_)) if self.is_powered() => self.note_settled(),
            _ => {
                assert!(self.faulted || !self.is_powered(), "poisoned without a fault");
                self.power_cut();
            }
        }
    }

    fn is_powered(&self) -> bool {
        self.disk.list(std::path::Path::new("/")).is_ok()
    }

    fn note_settled(&mut self) {
        for queue in 0..QUEUES {
            if let Some(settled) = self.engine().durable_settled(&id(queue)) {
                self.queues[queue].settle_durable = settled.0;
            }
        }
    }

    fn power_cut(&mut self) {
        self.engine = None;
        self.seed += 1;
        self.disk = self.disk.power_cut(self.seed);
        self.restarted(false);
    }

    fn restarted(&mut self, page_cache_kept: bool) {
        let report = self.open();
        assert_eq!(report.proven_lost, 0, "{report:?}");
        assert_eq!(report.checkpoints_lost, 0, "{report:?}");
        assert!(report.quarantined.is_empty(), "{report:?}");
        for queue in 0..QUEUES {
            let shared = self.shared(queue);
            let expected = &mut self.queues[queue];
            let Some(shared) = shared else {
                let unsettled = expected.acked.range(expected.settle_asked..).count();
                assert_eq!(unsettled, 0, "queue {queue} is gone");
                *expected = Expected::default();
                continue;
            };
            let (settled, end) = (shared.index().settled.0, shared.end().0);
            if expected.deleting && end == 0 {
                *expected = Expected::default();
            }
            let floor =
                if page_cache_kept { expected.settle_written } else { expected.settle_durable };
            assert!((floor..=expected.settle_asked).contains(&settled), "{settled} {expected:?}");
            assert!(end >= expected.end, "an offset would be used again: {end} {expected:?}");
            expected.settle_asked = settled;
            expected.settle_written = settled;
            expected.settle_durable = settled;
            // What is there of a batch under way is durable now.
            for record in read_all(&shared, Offset(settled), 1000) {
                if let Some(payload) = expected.possible.remove(&record.0) {
                    expected.acked.insert(record.0, payload);
                }
            }
            expected.possible.clear();
            expected.end = end;
            expected.deleting = false;
        }
    }

    fn check(&mut self, chunk: usize) {
        for queue in 0..QUEUES {
            let Some(shared) = self.shared(queue) else {
                continue;
            };
            let expected = &self.queues[queue];
            let settled = shared.index().settled;
            let got = read_all(&shared, settled, chunk);
            let acked = expected.acked.range(settled.0..);
            let want: Vec<(u64, Bytes)> = acked.map(|(o, p)| (*o, p.clone())).collect();
            assert_eq!(got, want, "queue {queue}");
            let bytes: u64 = want.iter().map(|(_, payload)| payload.len() as u64).sum();
            let pending = shared.index().pending();
            if settled.0 == 0 {
                assert_eq!(pending, (want.len() as u64, bytes));
            }
            if want.is_empty() {
                assert_eq!(pending, (0, 0));
            }
        }
    }

    fn append(&mut self, messages: &[(u8, usize)]) {
        let mut batch = Vec::new();
        let mut ends: Vec<u64> = self.queues.iter().map(|q| q.end).collect();
        let mut added = Vec::new();
        let (to, _mailbox) = mpsc::channel(1);
        for (mask, len) in messages {
            self.count += 1;
            let mut payload = vec![self.count.to_le_bytes()[0]; *len];
            let stamp = self.count.to_le_bytes();
            let head = payload.len().min(8);
            payload[..head].copy_from_slice(&stamp[..head]);
            let payload = Bytes::from(payload);
            let targets: Vec<usize> = (0..QUEUES).filter(|q| mask & (1 << q) != 0).collect();
            for queue in &targets {
                added.push((*queue, ends[*queue], payload.clone()));
                ends[*queue] += 1;
            }
            batch.push(Append {
                queues: targets.iter().map(|q| AppendTo { queue: id(*q), ttl_secs: 7 }).collect(),
                payload,
                received: UnixMillis(self.count),
                class: AppendClass::Ingress,
                receipt: ReceiptTo::new(self.count, to.clone(), &AppendChain::new()),
            });
        }
        let result = self.engine().commit(batch.iter());
        let powered = self.is_powered();
        for (queue, offset, payload) in added {
            let expected = &mut self.queues[queue];
            if result.is_ok() {
                expected.acked.insert(offset, payload);
                expected.end = offset + 1;
            } else if !powered || matches!(result, Err(Failure::Poison(_))) {
                expected.possible.insert(offset, payload);
            }
        }
        // The power may go right after the last sync: then the report never left.
        self.after(result);
    }

    fn settle(&mut self, queue: usize, share: u64) {
        let Some(shared) = self.shared(queue) else {
            return;
        };
        let settled = shared.settle_to().0;
        let below = settled + (shared.end().0 - settled) * share / 8;
        shared.request_settle(Offset(below));
        self.queues[queue].settle_asked = below;
        let result = self.engine().settle();
        if self.is_powered() && result.is_ok() {
            self.queues[queue].settle_written = shared.index().settled.0;
        }
        self.after(result);
    }

    fn delete(&mut self, queue: usize) {
        let Some(shared) = self.shared(queue) else {
            return;
        };
        self.queues[queue].deleting = true;
        let result = self.engine().delete_if_empty(&shared);
        if matches!(result, Ok(true)) {
            self.queues[queue] = Expected::default();
        }
        self.queues[queue].deleting &= !self.is_powered();
        self.after(result.map(|_| ()));
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Append(messages) => self.append(messages),
            Step::Settle(queue, share) => self.settle(*queue, *share),
            Step::Tick(seconds) => {
                self.clock.pass(Duration::from_secs(*seconds));
                let result = self.engine().tick();
                self.after(result);
            }
            Step::DeleteIfEmpty(queue) => self.delete(*queue),
            Step::Room(room) => {
                let used = self.disk.used();
                self.disk.set_capacity(room.map(|room| used + room));
            }
            Step::Restart => {
                self.disk.set_capacity(None);
                let result = self.engine().close();
                let powered = self.is_powered();
                self.after(result);
                if powered {
                    self.engine = None;
                    self.restarted(true);
                }
            }
            Step::Kill => {
                self.disk.set_capacity(None);
                self.engine = None;
                self.disk = self.disk.kill();
                self.restarted(true);
            }
            Step::PowerCut => {
                self.disk.set_capacity(None);
                self.power_cut();
            }
            Step::PowerCutDuring(n) => {
                self.disk.set_capacity(None);
                self.plan(*n, || Fault::Crash);
            }
            Step::FailDuring(n, full) => {
                use std::io::ErrorKind::{Other, StorageFull};
                let kind = if *full { StorageFull } else { Other };
                self.faulted = true;
                self.plan(*n, move || Fault::Error(kind));
            }
        }
    }

    /// The n-th change from now on goes wrong, and only that one.
    fn plan(&self, n: u32, fault: impl Fn() -> Fault + Send + 'static) {
        let mut left = Some(n);
        self.disk.plan(move |_, _| {
            let now = left == Some(0);
            left = left.and_then(|left| left.checked_sub(1));
            now.then(&fault)
        });
    }
}

/// Reads a queue from `from` to its end; nothing may be lost.
fn read_all(shared: &Shared, from: Offset, chunk: usize) -> Vec<(u64, Bytes)> {
    let (mut records, mut next) = (Vec::new(), from);
    loop {
        let read = shared.read(next, chunk, 2000).unwrap();
        assert_eq!(read.lost, []);
        if read.records.is_empty() {
            return records;
        }
        next = read.next;
        assert!(next <= shared.end(), "read beyond the durable end");
        records.extend(read.records.into_iter().map(|r| (r.offset.0, r.payload)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_acked_is_lost_whatever_crashes(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(seed);
        for (i, step) in steps.iter().enumerate() {
            world.run(step);
            world.check(1 + i % 7);
        }
        world.disk.set_capacity(None);
        world.power_cut();
        world.check(100);
    }
}
