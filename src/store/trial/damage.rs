//! Damage to files: what it touches is lost and reported, the rest is not.
//!
//! Owns: [`damages`]. Must not know: who asks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Damages;
use super::ledger::{Findings, Kept, Ledger};
use super::power::use_it;
use super::rig::{QUEUES, ROOT, Rig, TrialClock, View, id};
use super::steps::{Focus, Step, steps};
use super::world::World;
use crate::store::RecoveryReport;
use crate::store::checkpoint::{Checkpoint, Loaded};
use crate::store::record::Piece;
use crate::store::segment::{Key, SEAL_BYTES, Scan, Seal, search};
use crate::store::sim::{Dice, SimDisk};

const STEPS: usize = 40;
/// Damages done to copies of one store.
const DAMAGES_PER_STORE: u64 = 100;
/// Zeros come in blocks of flash or of the page cache.
const BLOCK: usize = 4096;

/// What is done to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip {
        at: usize,
        bit: u8,
    },
    Truncate(usize),
    Zero(usize),
    /// Other bytes, none as it was.
    Garbage {
        at: usize,
        len: usize,
    },
}

impl Damage {
    /// One that changes a file of this length; `None`: there is nothing to damage.
    fn of(dice: &mut Dice, len: usize) -> Option<Self> {
        if len == 0 {
            return None;
        }
        let at = dice.below(len);
        Some(match dice.below(5) {
            0 | 1 => Self::Flip { at, bit: 1 << dice.below(8) },
            2 => Self::Truncate(at),
            3 => Self::Garbage { at, len: 1 + dice.below(BLOCK) },
            _ => Self::Zero(at / BLOCK * BLOCK),
        })
    }

    fn apply(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Flip { at, bit } => bytes[at] ^= bit,
            Self::Truncate(len) => bytes.truncate(len),
            Self::Garbage { at, len } => {
                for (i, byte) in bytes.iter_mut().skip(at).take(len).enumerate() {
                    *byte ^= (i * 31 + 7).to_le_bytes()[0] | 1;
                }
            }
            Self::Zero(at) => bytes.iter_mut().skip(at).take(BLOCK).for_each(|byte| *byte = 0),
        }
    }
}

/// See [`super::damages`].
pub(super) fn damages(seed: u64, damages: u64) -> Damages {
    let mut out = Damages::default();
    let mut dice = Dice(seed);
    while out.damages < damages && !out.is_hopeless() {
        let store = Store::new(dice.next(), &mut out);
        let wanted = (damages - out.damages).min(DAMAGES_PER_STORE);
        for _ in 0..wanted {
            store.damage(&mut dice, &mut out);
        }
    }
    out
}

/// A store after a kill, and what it holds.
struct Store {
    seed: u64,
    disk: SimDisk,
    ledger: Ledger,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Store {
    fn new(seed: u64, out: &mut Damages) -> Self {
        let mut world = World::new(seed, Focus::Plain, false);
        world.ledger.remembers = true;
        let mut dice = Dice(seed);
        // Every queue is there, and the first have full segments.
        world.run(&Step::Append(vec![(15, 100, 0), (3, 2900, 0), (3, 2900, 0)]));
        // Recovery leaves other files than a run without trouble.
        let n = u32::try_from(dice.below(30)).expect("below 30");
        let crash = match dice.below(4) {
            0 => Step::PowerCut,
            1 => Step::PowerCutDuring(n),
            2 => Step::FailDuring(n, n.is_multiple_of(2)),
            _ => Step::Kill,
        };
        for step in steps(&mut dice, STEPS / 2).iter().chain([&crash]) {
            world.run(step);
        }
        for step in steps(&mut dice, STEPS / 2) {
            world.run(&step);
        }
        world.run(&Step::Room(None));
        world.run(&Step::Append((0..8).map(|i| ([15, 1, 2][i % 3], 50 + 20 * i, 0)).collect()));
        world.check(100);
        out.note(std::mem::take(&mut world.findings), || format!("store {seed}, before damage"));
        let disk = world.disk.fork();
        let (_, files) = disk.tree();
        Self { seed, disk, ledger: world.ledger, files }
    }

    fn damage(&self, dice: &mut Dice, out: &mut Damages) {
        let (path, before) = &self.files[dice.below(self.files.len())];
        let Some(damage) = Damage::of(dice, before.len()) else {
            return;
        };
        let disk = self.disk.fork();
        disk.damage(path, |bytes| damage.apply(bytes));
        let mut after = before.clone();
        damage.apply(&mut after);
        out.damages += 1;
        let hurt = Hurt::new(path, before, &after);
        match hurt.file {
            Kind::Sealed => out.sealed += 1,
            Kind::Open => out.open += 1,
            Kind::Checkpoint => out.checkpoints += 1,
            Kind::Other => out.others += 1,
        }
        let mut found = Findings::default();
        let counts = Trial { store: self, damaged: disk.fork(), disk, hurt }.run(&mut found);
        out.touched += counts.touched;
        out.reported += counts.reported;
        out.unprovable += counts.unprovable;
        let seed = self.seed;
        out.note(found, || format!("store {seed}, {damage:?} in {}", path.display()));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sealed,
    Open,
    Checkpoint,
    Other,
}

/// What a damage has hit.
struct Hurt {
    file: Kind,
    /// The queue that the file is of.
    queue: Option<usize>,
    /// Offsets of the records of which bytes were changed (their padding is not theirs).
    touched: BTreeSet<u64>,
    /// Offsets that an earlier start has judged, where what says so was hit.
    unjudged: BTreeSet<u64>,
    /// The offsets of a segment whose seal was hit, but for its records: with it is gone that they were never used, or, of a
    /// tombstone, that they have expired.
    unsealed: BTreeSet<u64>,
}

impl Hurt {
    fn new(path: &Path, before: &[u8], after: &[u8]) -> Self {
        let name = |path: Option<&Path>| -> String {
            let name = path.and_then(Path::file_name);
            name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let (file, folder) = (name(Some(path)), name(path.parent()));
        let queue = (0..QUEUES).find(|queue| id(*queue).folder() == folder);
        let (touched, unjudged, unsealed) = <(BTreeSet<_>, BTreeSet<_>, BTreeSet<_>)>::default();
        let mut hurt = Self { file: Kind::Other, queue, touched, unjudged, unsealed };
        if let Some(key) = Key::from_file_name(&file) {
            let tail = before.len().checked_sub(usize::try_from(SEAL_BYTES).expect("64"));
            let seal = tail.and_then(|at| Seal::decode(&before[at..], key, before.len() as u64));
            hurt.file = if seal.is_some() { Kind::Sealed } else { Kind::Open };
            let at = before.len().saturating_sub(usize::try_from(SEAL_BYTES).expect("64"));
            let is_hit = after.len() != before.len() || after.get(at..) != before.get(at..);
            let seal = seal.filter(|_| is_hit);
            hurt.unsealed = seal.map_or(0..0, |seal| key.first.0..seal.next.0).collect();
            let (mut at, mut range) = (64, 0..u64::MAX);
            while let Some((begin, piece)) = search(before, at, key.salt, &range) {
                (at, range.start) = (begin + piece.size(), piece.offsets().end);
                let (len, hit) = match &piece {
                    Piece::Record(found) => {
                        hurt.unsealed.remove(&found.head.offset.0);
                        (40 + found.payload_len, &mut hurt.touched)
                    }
                    Piece::Blank(_) => (40, &mut hurt.unjudged),
                };
                if after.get(begin..begin + len) != before.get(begin..begin + len) {
                    hit.extend(piece.offsets());
                }
            }
        } else if file == "checkpoint" {
            hurt.file = Kind::Checkpoint;
        }
        hurt
    }
}

#[derive(Default)]
struct Counts {
    touched: u64,
    reported: u64,
    /// Of these by the start.
    at_start: u64,
    unprovable: u64,
}

/// A damaged copy of a store.
struct Trial<'a> {
    store: &'a Store,
    disk: SimDisk,
    /// As it is before the first start.
    damaged: SimDisk,
    hurt: Hurt,
}

/// What a start shows.
struct Start {
    rig: Rig,
    report: RecoveryReport,
    views: Vec<Option<View>>,
}

impl Trial<'_> {
    fn start(&self, found: &mut Findings) -> Option<Start> {
        let clock = TrialClock::new();
        clock.pass(std::time::Duration::from_millis(self.store.ledger.now));
        let disk = Arc::new(self.disk.clone());
        let (mut rig, report) = match Rig::open(disk, Path::new(ROOT), &clock) {
            Ok(opened) => opened,
            Err(error) => {
                found.add(format!("the store does not open: {error}"));
                return None;
            }
        };
        let mut views = Vec::new();
        for queue in 0..QUEUES {
            views.push(rig.view(queue, 7).unwrap_or_else(|error| {
                found.add(error);
                None
            }));
        }
        Some(Start { rig, report, views })
    }

    fn run(self, found: &mut Findings) -> Counts {
        let Some(first) = self.start(found) else {
            return Counts::default();
        };
        let mut ledger = self.store.ledger.clone();
        let counts = self.check_reports(&first, found);
        for (queue, view) in first.views.iter().enumerate() {
            let is_hurt = self.hurt.queue == Some(queue);
            let excused = |offset| is_hurt && self.hurt.touched.contains(&offset);
            // A lost checkpoint is no promise kept less: what is still there is delivered again.
            let is_lost = is_hurt && self.hurt.file == Kind::Checkpoint;
            let kept = if is_lost { Kept::Nothing } else { Kept::PageCache };
            ledger.restarted_but(queue, view.as_ref(), kept, &excused, found);
        }
        drop(first.rig);
        let Some(mut again) = self.start(found) else {
            return counts;
        };
        if again.report.proven_lost + again.report.checkpoints_lost > 0 {
            found.add(format!("a second start finds more to lose: {:?}", again.report));
        }
        for (queue, (now, then)) in again.views.iter().zip(&first.views).enumerate() {
            let records = |view: &Option<View>| view.as_ref().map(|view| view.records.clone());
            if records(now) != records(then) {
                found.add(format!("queue {queue} shows something else at a second start"));
            }
        }
        if again.views.iter().flatten().all(|view| view.lost.is_empty()) {
            use_it(&mut again.rig, &mut ledger, found);
        }
        counts
    }

    /// The offset below which the damaged files prove that everything had been acknowledged.
    fn proof(&self, queue: usize) -> u64 {
        let folder = Path::new(ROOT).join(id(queue).folder());
        let mut proof = match Checkpoint::load(&self.damaged, &folder) {
            Ok(Loaded::State(state)) => state.durable_below.max(state.settled_below).0,
            _ => 0,
        };
        for (path, bytes) in self.damaged.tree().1 {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            let Some(key) = name.as_deref().and_then(Key::from_file_name) else {
                continue;
            };
            if path.parent() == Some(&*folder) {
                let records = Scan::of(&bytes, key, 0..u64::MAX).records;
                let below = records.iter().map(|placed| placed.found.head.durable_below.0).max();
                proof = proof.max(below.unwrap_or(0)).max(key.first.0);
            }
        }
        proof
    }

    /// What is reported as lost is what was touched, and all of it that can be known, by offset.
    fn check_reports(&self, start: &Start, found: &mut Findings) -> Counts {
        let mut out = Counts::default();
        for (queue, view) in start.views.iter().enumerate() {
            let mut reported: BTreeSet<u64> = start.report.lost_of(&id(queue)).collect();
            let at_start = reported.len();
            reported.extend(view.iter().flat_map(|view| view.lost.iter().cloned().flatten()));
            out.at_start += at_start as u64;
            out.reported += reported.len() as u64;
            let (provable, most) = self.owed_reports(queue);
            out.touched += most.len() as u64;
            out.unprovable += most.difference(&reported).count() as u64;
            if !provable.is_subset(&reported) || !reported.is_subset(&self.with_gaps(queue, &most))
            {
                found.add(format!(
                    "queue {queue}: {reported:?} reported as lost, {provable:?} to {most:?} were"
                ));
            }
        }
        if out.at_start != start.report.proven_lost {
            found.add(format!("the ranges are not what is counted: {:?}", start.report));
        }
        out
    }

    /// And the gaps that an earlier recovery left: where the blank that stands there was hit, and beside what is touched in a
    /// sealed segment, where no record tells at which offset damage ends and the gap begins. Without the seal nothing tells that
    /// there was one.
    fn with_gaps(&self, queue: usize, touched: &BTreeSet<u64>) -> BTreeSet<u64> {
        let expected = &self.store.ledger.queues[queue];
        let mut all = touched.clone();
        if self.hurt.queue == Some(queue) {
            all.extend(&self.hurt.unjudged);
        }
        if self.hurt.file != Kind::Sealed || self.hurt.queue != Some(queue) {
            return all;
        }
        let is_gap = |offset: &u64| *offset < expected.end && !expected.acked.contains_key(offset);
        for offset in touched {
            all.extend((offset + 1..).take_while(is_gap));
            all.extend((0..*offset).rev().take_while(is_gap));
        }
        all.extend(&self.hurt.unsealed);
        all
    }

    /// The offsets of a queue that have to be reported, and those that may be: what was asked to be settled is not
    /// settled where the volume was full, and of some nothing proves that they had been acknowledged.
    fn owed_reports(&self, queue: usize) -> (BTreeSet<u64>, BTreeSet<u64>) {
        if self.hurt.queue != Some(queue) {
            return (BTreeSet::new(), BTreeSet::new());
        }
        let expected = &self.store.ledger.queues[queue];
        let touched = |from: u64| {
            let touched = self.hurt.touched.range(from..);
            touched.copied().filter(|offset| expected.acked.contains_key(offset))
        };
        let proof = self.proof(queue);
        let provable = touched(expected.settle_asked).filter(|offset| *offset < proof);
        (provable.collect(), touched(expected.settle_written).collect())
    }
}
