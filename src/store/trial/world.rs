//! A store on a simulated disk, steps that use and break it, and the ledger that goes with it.
//!
//! Owns: [`World`]. Invariant: the ledger says at every change of the disk what a
//! power cut there must leave ([`World::moments`]). Must not know: who runs the steps.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::ledger::{Findings, Kept, Ledger};
use super::rig::{Message, QUEUES, RING, Rig, TrialClock, id};
use super::steps::{Focus, Step};
use crate::store::RecoveryReport;
use crate::store::disk::Disk;
use crate::store::engine::Failure;
use crate::store::id::Offset;
use crate::store::queue::Shared;
use crate::store::removed::{Removed, RemovedWhy};
use crate::store::sim::{Fault, SimDisk, errno};

/// A start that fails so often does not get better.
const STARTS_MAX: u32 = 50;

/// What a run has removed.
#[derive(Debug, Default)]
pub(in crate::store) struct Told {
    pub(in crate::store) expired: u64,
    /// Of these, how often behind a segment that stays.
    pub(in crate::store) tombstones: u64,
    /// Segments.
    pub(in crate::store) dropped: u64,
    /// Segments.
    pub(in crate::store) ringed: u64,
}

/// See the module.
pub(in crate::store) struct World {
    pub(in crate::store) disk: SimDisk,
    pub(in crate::store) clock: Arc<TrialClock>,
    pub(in crate::store) rig: Option<Rig>,
    pub(in crate::store) ledger: Ledger,
    pub(in crate::store) findings: Findings,
    /// While the disk records: what holds from this many changes on.
    pub(in crate::store) moments: Vec<(usize, Ledger)>,
    recording: bool,
    focus: Focus,
    pub(in crate::store) told: Told,
    seed: u64,
    count: u64,
    /// A failure was planned, so the store may be poisoned or not open.
    faulted: bool,
}

impl World {
    /// A new store; by the seed, one on a file system that does not preallocate.
    pub(in crate::store) fn new(seed: u64, focus: Focus, recording: bool) -> Self {
        let disk = SimDisk::new();
        if seed.is_multiple_of(4) {
            disk.without_allocate();
        }
        if recording {
            disk.record();
        }
        let mut world = Self {
            disk,
            clock: TrialClock::new(),
            rig: None,
            ledger: Ledger::default(),
            findings: Findings::default(),
            moments: Vec::new(),
            recording,
            focus,
            told: Told::default(),
            seed,
            count: 0,
            faulted: false,
        };
        world.moment();
        world.open();
        world
    }

    fn read_clock(&mut self) {
        // Without a store it stands still.
        self.ledger.now = self.rig.as_ref().map_or(self.ledger.now, Rig::millis);
    }

    fn moment(&mut self) {
        self.read_clock();
        if self.recording {
            self.moments.push((self.disk.recorded(), self.ledger.clone()));
        }
    }

    /// Opens the store. A crash may come while recovery is at work: then it is done again.
    fn open(&mut self) -> Option<RecoveryReport> {
        for _ in 0..STARTS_MAX {
            let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
            match Rig::open_as(self.focus.config(), disk, &self.clock) {
                Ok((rig, report)) => {
                    self.disk.set_capacity(self.focus.capacity());
                    self.rig = Some(rig);
                    return Some(report);
                }
                Err(_) if self.faulted || !self.is_powered() => {
                    self.seed = self.seed.wrapping_add(1);
                    self.disk = self.disk.power_cut(self.seed);
                }
                Err(error) => {
                    self.findings.add(format!("the store does not open: {error}"));
                    return None;
                }
            }
        }
        self.findings.add("the store never opens");
        None
    }

    fn is_powered(&self) -> bool {
        // Not through the disk's faults: a plan counts what is done.
        self.disk.has_power()
    }

    /// A step's result: a power cut during it is followed by a restart.
    fn after(&mut self, result: Result<(), Failure>) {
        let done = matches!(result, Ok(()) | Err(Failure::Refused(_))) && self.is_powered();
        self.hear(done);
        match result {
            Ok(()) | Err(Failure::Refused(_)) if self.is_powered() => self.note_settled(),
            _ => {
                if !self.faulted && self.is_powered() {
                    self.findings.add(format!("poisoned without a fault: {result:?}"));
                }
                self.power_cut();
            }
        }
    }

    /// Notes what the last step has removed: a crash during that step left each of it or not, and none of it comes back
    /// if the step was done.
    fn hear(&mut self, done: bool) {
        self.read_clock();
        for removed in self.rig.as_mut().map(Rig::removed).unwrap_or_default() {
            let queue = (0..QUEUES).find(|queue| id(*queue) == removed.queue).expect("one of them");
            if !self.may_remove(queue, &removed) {
                self.findings.add(format!("nothing asked for it: {removed:?}"));
            }
            let range = removed.offsets.start.0..removed.offsets.end.0;
            let expired = removed.why == RemovedWhy::Expired;
            self.count(queue, &removed);
            // What has expired needs no excuse.
            if !expired {
                if let Some((_, begun)) = self.moments.last_mut() {
                    begun.removing(queue, range.clone());
                }
                if !done {
                    self.ledger.removing(queue, range.clone());
                }
            }
            if done {
                self.ledger.removed(queue, range, removed.records, expired, &mut self.findings);
            }
        }
    }

    fn count(&mut self, queue: usize, removed: &Removed) {
        let told = &mut self.told;
        match removed.why {
            RemovedWhy::Expired => {
                told.expired += removed.records;
                let shared = self.rig.as_mut().and_then(|rig| rig.queue(queue));
                let stays = |shared: Arc<Shared>| shared.index().settled < removed.offsets.end;
                told.tombstones += u64::from(shared.is_some_and(stays));
            }
            RemovedWhy::Budget => told.dropped += 1,
            RemovedWhy::Ring => told.ringed += 1,
            RemovedWhy::Unreadable => {}
        }
    }

    fn may_remove(&self, queue: usize, removed: &Removed) -> bool {
        match removed.why {
            RemovedWhy::Expired => true,
            RemovedWhy::Budget => self.focus == Focus::Scarce && queue != RING,
            RemovedWhy::Ring => self.focus == Focus::Scarce && queue == RING,
            RemovedWhy::Unreadable => false,
        }
    }

    fn note_settled(&mut self) {
        for queue in 0..QUEUES {
            let settled = self.rig.as_mut().and_then(|rig| rig.durable_settled(queue));
            if let Some(settled) = settled {
                self.ledger.settle_durable(queue, settled);
            }
        }
        self.moment();
    }

    /// Cuts the power and starts again.
    pub(in crate::store) fn power_cut(&mut self) {
        self.rig = None;
        self.seed = self.seed.wrapping_add(1);
        self.disk = self.disk.power_cut(self.seed);
        self.restarted(Kept::Disk);
    }

    fn restarted(&mut self, kept: Kept) {
        let Some(report) = self.open() else {
            return;
        };
        expect_no_damage(&report, &mut self.findings);
        // By the clock as it was before: a crash may have put it back.
        let rig = self.rig.as_mut().expect("just opened");
        compare_all(rig, &mut self.ledger, kept, 1000, &mut self.findings);
        self.moment();
    }

    /// Compares the running store with the ledger, reading `chunk` records at a time.
    pub(in crate::store) fn check(&mut self, chunk: usize) {
        self.read_clock();
        let Some(rig) = &mut self.rig else {
            return;
        };
        for queue in 0..QUEUES {
            match rig.view(queue, chunk) {
                Ok(Some(view)) => self.ledger.check(queue, &view, &mut self.findings),
                Ok(None) => {}
                Err(error) => self.findings.add(error),
            }
        }
    }

    fn append(&mut self, messages: &[(u8, usize, u32)]) {
        let batch: Vec<Message> = messages.iter().map(|m| self.message(m)).collect();
        self.read_clock();
        self.ledger.begin(&batch);
        self.moment();
        let Some(rig) = &mut self.rig else {
            return;
        };
        let result = rig.append(&batch);
        match &result {
            // The power may have gone right after the last sync: then the report never left, but it is there.
            Ok(()) => self.ledger.acked(),
            Err(Failure::Refused(_)) if self.is_powered() => self.ledger.refused(),
            Err(_) => {}
        }
        self.after(result);
    }

    /// A payload that is like no other.
    fn message(&mut self, (queues, len, ttl_secs): &(u8, usize, u32)) -> Message {
        self.count += 1;
        let stamp = self.count.to_le_bytes();
        let mut payload = vec![stamp[0]; *len];
        let head = payload.len().min(8);
        payload[..head].copy_from_slice(&stamp[..head]);
        Message { queues: *queues, payload: Bytes::from(payload), ttl_secs: *ttl_secs }
    }

    fn settle(&mut self, queue: usize, share: u64) {
        let Some(shared) = self.rig.as_mut().and_then(|rig| rig.queue(queue)) else {
            return;
        };
        let settled = shared.settle_to().0;
        let below = settled + (shared.end().0 - settled) * share / 8;
        shared.request_settle(Offset(below));
        self.ledger.settle(queue, below);
        self.moment();
        let result = self.rig.as_mut().expect("it has a queue").settle();
        if self.is_powered() && result.is_ok() {
            let written = shared.index().settled.0;
            self.ledger.settle_written(queue, written);
        }
        self.after(result);
    }

    fn delete(&mut self, queue: usize) {
        let Some(shared) = self.rig.as_mut().and_then(|rig| rig.queue(queue)) else {
            return;
        };
        self.ledger.deleting(queue, true);
        self.moment();
        let result = self.rig.as_mut().expect("it has a queue").delete(&shared);
        if matches!(result, Ok(true)) {
            self.ledger.deleted(queue);
        } else if self.is_powered() {
            self.ledger.deleting(queue, false);
        }
        self.after(result.map(|_| ()));
    }

    fn close_and_open(&mut self) {
        let Some(rig) = &mut self.rig else {
            return;
        };
        let result = rig.close();
        let good = self.is_powered() && !matches!(result, Err(Failure::Poison(_)));
        self.after(result);
        if good {
            self.rig = None;
            self.restarted(Kept::PageCache);
        }
    }

    /// Does one step.
    pub(in crate::store) fn run(&mut self, step: &Step) {
        match step {
            Step::Append(messages) => self.append(messages),
            Step::Settle(queue, share) => self.settle(*queue, *share),
            Step::Tick(seconds) => {
                self.clock.pass(Duration::from_secs(*seconds));
                self.moment();
                let result = self.rig.as_mut().map_or(Ok(()), Rig::tick);
                self.after(result);
            }
            Step::DeleteIfEmpty(queue) => self.delete(*queue),
            Step::Room(room) => {
                let used = self.disk.used();
                let room = room.map(|room| used + room);
                self.disk.set_capacity(room.or(self.focus.capacity()));
            }
            crash => {
                self.disk.set_capacity(None);
                self.crash(crash);
            }
        }
    }

    fn crash(&mut self, step: &Step) {
        match step {
            Step::Restart => self.close_and_open(),
            Step::Kill => {
                self.rig = None;
                self.disk = self.disk.kill();
                self.restarted(Kept::PageCache);
            }
            Step::PowerCut => self.power_cut(),
            Step::PowerCutDuring(n) => self.plan(*n, Fault::Crash),
            Step::FailDuring(n, full) => {
                self.faulted = true;
                let other = Fault::Error(io::ErrorKind::Other);
                self.plan(*n, if *full { Fault::Os(errno::ENOSPC) } else { other });
            }
            _ => {}
        }
    }

    fn plan(&self, n: u32, fault: Fault) {
        let mut at = nth(n, fault);
        self.disk.plan(move |_, _| at());
    }
}

/// A plan that fails once, after `n` times.
pub(in crate::store) fn nth(n: u32, fault: Fault) -> impl FnMut() -> Option<Fault> + Send {
    let mut left = Some(n);
    move || {
        let now = left == Some(0);
        left = left.and_then(|left| left.checked_sub(1));
        now.then_some(fault)
    }
}

/// A crash is no damage.
pub(in crate::store) fn expect_no_damage(report: &RecoveryReport, found: &mut Findings) {
    let is_clean =
        report.proven_lost == 0 && report.checkpoints_lost == 0 && report.quarantined.is_empty();
    if !is_clean {
        found.add(format!("a crash was taken for damage: {report:?}"));
    }
}

/// Compares every queue after a restart.
pub(in crate::store) fn compare_all(
    rig: &mut Rig,
    ledger: &mut Ledger,
    kept: Kept,
    chunk: usize,
    found: &mut Findings,
) {
    for queue in 0..QUEUES {
        match rig.view(queue, chunk) {
            Ok(view) => {
                if let Some(view) = view.as_ref().filter(|view| !view.lost.is_empty()) {
                    found.add(format!("queue {queue} cannot be read back: {:?}", view.lost));
                }
                ledger.restarted(queue, view.as_ref(), kept, found);
            }
            Err(error) => found.add(error),
        }
    }
}
