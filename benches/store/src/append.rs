//! Append with fsync, by batch size; beside it a bare loop and sqlite.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use sphere_gateway::store::{Disk, RealDisk, Store, StoreStats};
use tokio::runtime::Runtime;

use crate::peers::{Bare, Sqlite};
use crate::slow::Slower;
use crate::target::{self, Caller};
use crate::{Scale, sub};
use bench_common::disk::SyncedBy;
use bench_common::machine;
use bench_common::report::{Cell, Report, median, quantile};

/// A run ends after so long, whatever its batches: a busy disk must not make it endless.
const RUN_MAX: Duration = Duration::from_secs(3);

/// In one round the contenders take turns so often: what else the disk does meets them all.
const TURNS: usize = 10;

/// About what separates this machine's disk from an SD card.
const SLOWER: Duration = Duration::from_millis(1);

/// Batches of a run with the slower disk, at most.
const SLOW_BATCHES: usize = 100;

/// What one contender took for a round.
#[derive(Default, Clone, Copy)]
struct Tally {
    batches: f64,
    seconds: f64,
    /// Data blocks that were made dirty, in bytes.
    blocks: f64,
}

impl Tally {
    /// Runs `one` so often, and adds that up; gives the seconds.
    fn turn(&mut self, batches: usize, mut one: impl FnMut() -> Result<()>) -> Result<f64> {
        let (blocks, started) = (machine::block_bytes()?, Instant::now());
        (0..batches).try_for_each(|_| one())?;
        let seconds = started.elapsed().as_secs_f64();
        self.seconds += seconds;
        self.blocks += (machine::block_bytes()? - blocks) as f64;
        self.batches += batches as f64;
        Ok(seconds)
    }

    fn rate(&self) -> f64 {
        self.batches / self.seconds
    }
}

#[derive(Default)]
struct Round {
    store: Tally,
    bare: Tally,
    sqlite: Tally,
    /// As the store counts: bytes, bytes in whole blocks, syncs and commits.
    counted: [f64; 4],
    /// The store's rate by the bare loop's, and by sqlite's, turn by turn: a stall of the disk spoils one of them, not
    /// the round.
    to_bare: Vec<f64>,
    to_sqlite: Vec<f64>,
}

/// One batch size and payload.
#[derive(Clone)]
struct Case {
    batch: usize,
    payload: Bytes,
    batches: usize,
}

impl Case {
    /// Bytes of a batch as the store frames it: 40 a record, padded to 8.
    fn framed(&self) -> usize {
        (40 + self.payload.len()).next_multiple_of(8) * self.batch
    }

    fn payload_bytes(&self) -> f64 {
        (self.payload.len() * self.batch) as f64
    }
}

/// The contenders, with open files.
struct Field {
    case: Case,
    /// How much longer a sync takes.
    pause: Duration,
    store: Arc<Store>,
    caller: Caller,
    bare: Bare,
    /// Not on the slower disk.
    sqlite: Option<Sqlite>,
}

impl Field {
    fn new(case: Case, dir: &Path, pause: Duration, rounds: usize) -> Result<Self> {
        let disk: Arc<dyn Disk> = if pause.is_zero() {
            Arc::new(RealDisk)
        } else {
            Arc::new(SyncedBy(Arc::new(Slower(pause))))
        };
        let (store, _) = target::open_on(disk, &sub(dir, "store")?, Duration::ZERO)?;
        let room = (case.framed() * (case.batches + TURNS) * (rounds + 1)) as u64;
        let bare = Bare::new(&dir.join("bare"), room, false)?;
        let sqlite = if pause.is_zero() { Some(Sqlite::new(&dir.join("sqlite"))?) } else { None };
        Ok(Self { case, pause, caller: Caller::new(&store), store, bare, sqlite })
    }

    fn round(&mut self, runtime: &Runtime) -> Result<Round> {
        let (batch, payload) = (self.case.batch, self.case.payload.clone());
        let (mut round, before, started) = (Round::default(), self.store.stats(), Instant::now());
        let each = self.case.batches.div_ceil(TURNS);
        for _ in 0..TURNS {
            let payloads = || (0..batch).map(|_| payload.clone());
            let ours =
                round.store.turn(each, || runtime.block_on(self.caller.batch(payloads())))?;
            let (bare, pause, len) = (&mut self.bare, self.pause, self.case.framed());
            let bare_s = round.bare.turn(each, || {
                std::thread::sleep(pause);
                bare.batch(len)
            })?;
            round.to_bare.push(bare_s / ours);
            if let Some(sqlite) = &mut self.sqlite {
                let theirs = round.sqlite.turn(each, || sqlite.batch(batch, &payload))?;
                round.to_sqlite.push(theirs / ours);
            }
            if started.elapsed() > RUN_MAX {
                break;
            }
        }
        let after = self.store.stats();
        let counted = |of: fn(&StoreStats) -> u64| (of(&after) - of(&before)) as f64;
        round.counted = [
            counted(|s| s.written_bytes),
            counted(|s| s.written_block_bytes),
            counted(|s| s.syncs),
            counted(|s| s.commits),
        ];
        Ok(round)
    }
}

/// Rounds on this disk, and rounds with longer syncs.
fn rounds(case: &Case, dir: &Path, count: usize, runtime: &Runtime) -> Result<[Vec<Round>; 2]> {
    let slow = Case { batches: case.batches.min(SLOW_BATCHES), ..case.clone() };
    let mut fields = [
        Field::new(case.clone(), &sub(dir, "this")?, Duration::ZERO, count)?,
        Field::new(slow, &sub(dir, "slow")?, SLOWER, count)?,
    ];
    let mut out = [Vec::new(), Vec::new()];
    // The first one makes the queues and is not counted.
    for i in 0..=count {
        for (field, out) in fields.iter_mut().zip(&mut out) {
            let round = field.round(runtime)?;
            if i > 0 {
                out.push(round);
            }
        }
    }
    for field in fields {
        runtime.block_on(field.store.close());
    }
    Ok(out)
}

/// Measures and reports.
pub(crate) fn measure(dir: &Path, scale: &Scale, report: &mut Report) -> Result<()> {
    let runtime = target::single_runtime()?;
    let mut rows = Vec::new();
    for len in [256, 1024] {
        let payload = target::payload(len);
        for (batch, batches) in [(1, 1000), (10, 1000), (100, 600), (1000, 200)] {
            let case = Case { batch, payload: payload.clone(), batches: scale.of(batches) };
            let dir = sub(dir, &format!("append-{len}-{batch}"))?;
            let rounds = rounds(&case, &dir, scale.rounds, &runtime)?;
            std::fs::remove_dir_all(&dir)?;
            rows.push(row(&case, &rounds));
            judge(&case, &rounds, report);
        }
    }
    let columns = [
        "payload B",
        "batch",
        "store rec/s",
        "bare rec/s",
        "sqlite rec/s",
        "store / bare",
        "sync + 1 ms: store / bare",
        "store / sqlite",
        "syncs / record",
        "commits / batch",
        "bytes / payload byte",
        "blocks / payload byte",
        "store's own count",
        "bare blocks",
        "sqlite blocks",
    ];
    let note = "A batch is so many appends under way before the first receipt is awaited (commit window 0). Bare: the \
                same bytes in one write to a preallocated file, one fdatasync a batch. sqlite: WAL, synchronous=FULL, \
                one transaction a batch. Sync + 1 ms: store and bare loop once more, each sync 1 ms longer, as on an \
                SD card. Ratios: medians of the turns that the contenders take, 10 a round. Blocks: 4 KiB data blocks made dirty, by the kernel's count (no journal); beside it \
                StoreStats.written_block_bytes.";
    report.table("Append with fsync", note, &columns, &rows);
    Ok(())
}

fn row(case: &Case, [rounds, slow]: &[Vec<Round>; 2]) -> Vec<Cell> {
    let batch = case.batch as f64;
    let of = |of: &dyn Fn(&Round) -> f64| median(rounds, of);
    let per_byte = |bytes: f64, t: &Tally| bytes / t.batches / case.payload_bytes();
    vec![
        case.payload.len().into(),
        case.batch.into(),
        (of(&|r| r.store.rate() * batch), 0).into(),
        (of(&|r| r.bare.rate() * batch), 0).into(),
        (of(&|r| r.sqlite.rate() * batch), 0).into(),
        (turns(rounds, |r| &r.to_bare), 2).into(),
        (turns(slow, |r| &r.to_bare), 2).into(),
        (turns(rounds, |r| &r.to_sqlite), 1).into(),
        (of(&|r| r.counted[2] / r.store.batches / batch), 4).into(),
        (of(&|r| r.counted[3] / r.store.batches), 2).into(),
        (of(&|r| per_byte(r.counted[0], &r.store)), 3).into(),
        (of(&|r| per_byte(r.store.blocks, &r.store)), 2).into(),
        (of(&|r| per_byte(r.counted[1], &r.store)), 2).into(),
        (of(&|r| per_byte(r.bare.blocks, &r.bare)), 2).into(),
        (of(&|r| per_byte(r.sqlite.blocks, &r.sqlite)), 2).into(),
    ]
}

/// The median of all turns.
fn turns(rounds: &[Round], of: fn(&Round) -> &[f64]) -> f64 {
    let all: Vec<f64> = rounds.iter().flat_map(of).copied().collect();
    quantile(&all, 0.5)
}

fn judge(case: &Case, [rounds, slow]: &[Vec<Round>; 2], report: &mut Report) {
    let (len, batch) = (case.payload.len(), case.batch);
    for (disk, rounds) in [("this disk", rounds), ("sync + 1 ms", slow)] {
        let ratio = turns(rounds, |r| &r.to_bare);
        let aim = format!("append {len} B, batch {batch}, {disk}: >= 80 % of the bare loop");
        report.aim(aim, format!("{:.0} %", ratio * 100.0), ratio >= 0.8);
    }
    if batch == 100 && len == 1024 {
        let amplification = |r: &Round| r.store.blocks / r.store.batches / case.payload_bytes();
        let blocks = median(rounds, amplification);
        let aim = "write amplification at batch 100, 1 KiB, in blocks: <= 1.10";
        report.aim(aim, format!("{blocks:.2}"), blocks <= 1.10);
    }
}
