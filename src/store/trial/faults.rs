//! Operations of the disk that fail: every one of a run, once; and the whole disk, for a while.
//!
//! Owns: [`io_faults`]. Through the store's public face, since receipts and poison are the writer's. Must not know: who asks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::IoFaults;
use super::ledger::{Findings, Kept, Ledger};
use super::power::Recovered;
use super::rig::{Message, QUEUES, ROOT, Rig, TrialClock, View, config, id};
use super::world::expect_no_damage;
use crate::store::append::{AppendError, Receipt};
use crate::store::sim::{Dice, Fault, Op, SimDisk, errno};
use crate::store::{Health, RecoveryReport, Store};

/// What a run does.
#[derive(Debug, Clone)]
enum Action {
    Append(Message),
    /// Settle all of a queue, and let the checkpoint become due.
    Settle(usize),
    /// Delete a queue that holds nothing.
    Delete(usize),
    Restart,
}

/// A run of some hundred operations: three segments are filled, queues come and go, the store is closed and opened.
fn actions(dice: &mut Dice) -> Vec<Action> {
    let mut actions = Vec::new();
    for round in 0..3 {
        for i in 0..5 {
            let queues = [1, 3, 1, 4, 9][i];
            let payload = Bytes::from(vec![dice.next().to_le_bytes()[0]; 100 + dice.below(900)]);
            actions.push(Action::Append(Message { queues, payload, ttl_secs: 0 }));
        }
        actions.push(Action::Settle(dice.below(2)));
        actions.push(Action::Settle(2 + dice.below(2)));
        actions.push(Action::Delete(2 + dice.below(2)));
        if round == 1 {
            actions.push(Action::Restart);
        }
    }
    actions
}

/// What goes wrong in one run.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// The `n`-th operation of this kind fails.
    Once(Op, i32, i64),
    /// Every operation that can fail so does, from one action to another.
    While(i32, usize, usize),
}

impl Trouble {
    /// Whether the store must outlive it without a restart: want of room is no failure.
    fn is_survived(self) -> bool {
        match self {
            Self::Once(op, number, _) => {
                number == errno::ENOSPC
                    && matches!(op, Op::Write | Op::Allocate | Op::Create | Op::CreateDir)
            }
            Self::While(number, ..) => number == errno::ENOSPC,
        }
    }
}

/// Whether an operation can fail with this error for as long as the trouble lasts.
fn hits(number: i32, op: Op) -> bool {
    match number {
        errno::EMFILE => matches!(op, Op::Open | Op::Create),
        errno::ENOSPC => matches!(op, Op::Write | Op::Allocate | Op::Create | Op::CreateDir),
        // A file system that is read-only still answers reads and syncs.
        _ => !matches!(op, Op::Open | Op::Read | Op::SyncData | Op::SyncDir),
    }
}

/// Fails every operation once, and the disk for a while. See [`super::io_faults`].
pub(super) fn io_faults(seed: u64) -> IoFaults {
    let mut out = IoFaults::default();
    let mut dice = Dice(seed);
    let script = actions(&mut dice);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without drivers needs nothing");
    const CHANGES: &[Op] = &[
        Op::Write,
        Op::Allocate,
        Op::SetLen,
        Op::SyncData,
        Op::SyncDir,
        Op::Rename,
        Op::Remove,
        Op::Create,
        Op::CreateDir,
        Op::Open,
        Op::Read,
    ];
    for (op, number) in CHANGES.iter().flat_map(|op| [(*op, errno::ENOSPC), (*op, errno::EIO)]) {
        for n in 0.. {
            let run = Run::new(Trouble::Once(op, number, n), dice.next());
            if !runtime.block_on(run.go(&script, &mut out)) || out.is_hopeless() {
                break;
            }
        }
    }
    for number in [errno::EROFS, errno::EMFILE, errno::ENOSPC] {
        for from in 0..script.len() {
            let to = (from + 1 + dice.below(6)).min(script.len());
            let run = Run::new(Trouble::While(number, from, to), dice.next());
            runtime.block_on(run.go(&script, &mut out));
        }
    }
    out
}

/// One run.
struct Run {
    trouble: Trouble,
    seed: u64,
    disk: SimDisk,
    clock: Arc<TrialClock>,
    ledger: Ledger,
    found: Findings,
    /// How many operations still succeed before the one that does not ([`Trouble::Once`]); below 0: it is over.
    left: Arc<AtomicI64>,
    /// How often the trouble was met.
    met: Arc<AtomicU32>,
    /// Whether it is under way ([`Trouble::While`]).
    now: Arc<AtomicBool>,
    /// How often a sync failed that must not be repeated.
    failed_syncs: Arc<AtomicU32>,
    receipts: (mpsc::Sender<Receipt>, mpsc::Receiver<Receipt>),
    acked: u64,
    refused: u64,
    poisoned: bool,
}

impl Run {
    fn new(trouble: Trouble, seed: u64) -> Self {
        let left = match trouble {
            Trouble::Once(_, _, n) => n,
            Trouble::While(..) => 0,
        };
        Self {
            left: Arc::new(AtomicI64::new(left)),
            trouble,
            seed,
            disk: SimDisk::new(),
            clock: TrialClock::new(),
            ledger: Ledger::default(),
            found: Findings::default(),
            met: Arc::default(),
            now: Arc::default(),
            failed_syncs: Arc::default(),
            receipts: mpsc::channel(4),
            acked: 0,
            refused: 0,
            poisoned: false,
        }
    }

    fn plan(&self) {
        let (met, now, syncs) =
            (Arc::clone(&self.met), Arc::clone(&self.now), Arc::clone(&self.failed_syncs));
        let (trouble, left) = (self.trouble, Arc::clone(&self.left));
        self.disk.plan_all(move |op, path| {
            let number = match trouble {
                Trouble::Once(which, number, _) => {
                    if op != which || left.fetch_sub(1, Ordering::Relaxed) != 0 {
                        return None;
                    }
                    number
                }
                Trouble::While(number, ..) => {
                    if !now.load(Ordering::Relaxed) || !hits(number, op) {
                        return None;
                    }
                    number
                }
            };
            met.fetch_add(1, Ordering::Relaxed);
            // A file that is under a temporary name is made anew, not synced again.
            let is_final = path.extension().is_none_or(|e| e != "tmp");
            if matches!(op, Op::SyncData | Op::SyncDir) && is_final {
                syncs.fetch_add(1, Ordering::Relaxed);
            }
            Some(Fault::Os(number))
        });
    }

    /// Runs the script; says whether the trouble was met.
    async fn go(mut self, script: &[Action], out: &mut IoFaults) -> bool {
        self.plan();
        let mut store = self.open();
        for (i, action) in script.iter().enumerate() {
            if let Trouble::While(_, from, to) = self.trouble {
                self.now.store((from..to).contains(&i), Ordering::Relaxed);
            }
            // What did not open is tried again, as the runtime would restart the process.
            store = store.or_else(|| self.open());
            if let Some(open) = store.take() {
                store = self.act(open, action).await;
            }
        }
        self.now.store(false, Ordering::Relaxed);
        let store = store.or_else(|| self.open());
        self.end(store).await;
        let met = self.met.load(Ordering::Relaxed) > 0;
        out.runs += 1;
        out.faults += u64::from(met);
        out.acked += self.acked;
        out.refused += self.refused;
        out.poisoned += u64::from(self.poisoned);
        let (trouble, seed) = (self.trouble, self.seed);
        out.note(self.found, || format!("{trouble:?}, cut {seed}"));
        met
    }

    fn open(&mut self) -> Option<Store> {
        let (disk, before) = (Arc::new(self.disk.clone()), self.met());
        match Store::open(config(ROOT), disk, Arc::clone(&self.clock) as Arc<_>) {
            Ok((store, report)) => {
                if !report.quarantined.is_empty() || report.proven_lost > 0 {
                    self.set_aside(&report);
                }
                Some(store)
            }
            Err(error) => {
                if self.met() == before {
                    self.found.add(format!("the store does not open: {error}"));
                }
                None
            }
        }
    }

    /// A segment that cannot be opened at start is set aside (what is refused once is read again); no other trouble is taken for damage. Its records are
    /// reported as lost: of a queue's last segment those that its checkpoint knows, at least one.
    fn set_aside(&mut self, report: &RecoveryReport) {
        let is_medium = matches!(self.trouble, Trouble::Once(Op::Open, ..));
        let told: u64 =
            report.lost.iter().map(|lost| lost.offsets.end.0 - lost.offsets.start.0).sum();
        if !is_medium || report.quarantined.len() != 1 || told != report.proven_lost {
            self.found.add(format!("a failed operation was taken for damage: {report:?}"));
            return;
        }
        let copy = Arc::new(self.disk.fork());
        let (mut rig, again) = match Rig::open(copy, Path::new(ROOT), &self.clock) {
            Ok(opened) => opened,
            Err(error) => return self.found.add(format!("a second start fails: {error}")),
        };
        expect_no_damage(&again, &mut self.found);
        for queue in 0..QUEUES {
            let view = match rig.view(queue, 100) {
                Ok(view) => view,
                Err(error) => return self.found.add(error),
            };
            let lost: Vec<u64> = report.lost_of(&id(queue)).collect();
            let written = &self.ledger.queues[queue];
            let is_known =
                |offset: &u64| written.acked.contains_key(offset) || *offset == written.end;
            if !lost.iter().all(is_known) {
                self.found.add(format!("queue {queue}: {lost:?} were never there"));
            }
            let is_last =
                |view: &View| view.records.iter().all(|(offset, _)| Some(offset) < lost.first());
            let is_tail = view.as_ref().is_some_and(is_last);
            let excused = |offset: u64| {
                lost.contains(&offset)
                    || is_tail && lost.first().is_some_and(|first| *first < offset)
            };
            let (ledger, found) = (&mut self.ledger, &mut self.found);
            ledger.restarted_but(queue, view.as_ref(), Kept::PageCache, &excused, found);
        }
    }

    /// `None`: the process is to be started again.
    async fn act(&mut self, store: Store, action: &Action) -> Option<Store> {
        let before = (self.met(), self.failed_syncs.load(Ordering::Relaxed));
        match action {
            Action::Append(message) => self.append(&store, message).await,
            Action::Settle(queue) => self.settle(&store, *queue).await,
            Action::Delete(queue) => self.delete(&store, *queue).await,
            Action::Restart => {
                store.close().await;
                drop(store);
                // A new process on the same page cache.
                self.disk = self.disk.kill();
                self.plan();
                return self.open();
            }
        }
        // Answered after all of it was done.
        let _ = store.queue(&id(0)).await;
        let is_poisoned = matches!(*store.health().borrow(), Health::Poisoned(_));
        if self.failed_syncs.load(Ordering::Relaxed) > before.1 && !is_poisoned {
            self.found.add("a sync failed and the store goes on");
        }
        if is_poisoned {
            self.poison(store).await;
            return None;
        }
        if self.met() > before.0 {
            self.power_cut_now();
        }
        Some(store)
    }

    fn met(&self) -> u32 {
        self.met.load(Ordering::Relaxed)
    }

    async fn send(&mut self, store: &Store, message: &Message) -> Result<(), AppendError> {
        store.appender().append(message.append(0, &self.receipts.0)).await?;
        let receipt = self.receipts.1.recv().await.expect("the sender is ours");
        receipt.result.map(|_| ())
    }

    async fn append(&mut self, store: &Store, message: &Message) {
        let before = self.met();
        self.ledger.begin(std::slice::from_ref(message));
        match self.send(store, message).await {
            Ok(()) => {
                self.acked += 1;
                self.ledger.acked();
            }
            Err(AppendError::Poisoned) => self.refused += 1,
            Err(error) => {
                self.refused += 1;
                self.ledger.refused();
                if self.met() == before {
                    self.found.add(format!("refused without a reason: {error}"));
                }
            }
        }
    }

    async fn settle(&mut self, store: &Store, queue: usize) {
        let Ok(handle) = store.queue(&id(queue)).await else {
            return;
        };
        let end = handle.durable_end().borrow().0;
        self.ledger.settle(queue, end);
        handle.settle(crate::store::Offset(end));
        self.clock.pass(Duration::from_secs(2));
        self.ledger.now = self.clock.millis();
        let _ = store.queue(&id(queue)).await;
    }

    async fn delete(&mut self, store: &Store, queue: usize) {
        let known = store.queues().borrow().contains(&id(queue));
        if !known {
            return;
        }
        if let Ok(handle) = store.queue(&id(queue)).await {
            self.ledger.deleting(queue, true);
            if matches!(handle.delete_if_empty().await, Ok(true)) {
                self.ledger.deleted(queue);
            }
        }
    }

    /// Poison is for good: nothing is acknowledged, and what was is there after the restart.
    async fn poison(&mut self, store: Store) {
        self.poisoned = true;
        if self.trouble.is_survived() {
            self.found.add("want of room has poisoned the store");
        }
        self.now.store(false, Ordering::Relaxed);
        let message = Message { queues: 1, payload: Bytes::from_static(b"late"), ttl_secs: 0 };
        if self.send(&store, &message).await != Err(AppendError::Poisoned) {
            self.found.add("a poisoned store takes messages");
        }
        self.disk = self.disk.power_cut(self.seed);
        drop(store);
        let after = Recovered {
            disk: Arc::new(self.disk.clone()),
            dir: Path::new(ROOT),
            clock: &self.clock,
        };
        after.check(&mut self.ledger, &mut self.found);
        self.disk = self.disk.kill();
    }

    /// Were the power to go now: on a copy.
    fn power_cut_now(&mut self) {
        let copy = self.disk.fork().power_cut(self.seed);
        let mut ledger = self.ledger.clone();
        let after = Recovered { disk: Arc::new(copy), dir: Path::new(ROOT), clock: &self.clock };
        after.check(&mut ledger, &mut self.found);
    }

    /// The trouble is over: the store takes messages without a restart; then the power goes.
    async fn end(&mut self, store: Option<Store>) {
        self.disk.no_plan();
        let Some(store) = store.or_else(|| self.open()) else {
            return;
        };
        let message = Message { queues: 0b11, payload: Bytes::from_static(b"last"), ttl_secs: 0 };
        self.append(&store, &message).await;
        self.disk = self.disk.power_cut(self.seed);
        drop(store);
        let after = Recovered {
            disk: Arc::new(self.disk.clone()),
            dir: Path::new(ROOT),
            clock: &self.clock,
        };
        after.check(&mut self.ledger, &mut self.found);
    }
}
