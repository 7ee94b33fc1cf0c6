//! Power cuts: at every change of a recorded run, and while recovery from one is at work.
//!
//! Owns: [`power_cuts`], [`power_cuts_on`]. Must not know: who asks.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::PowerCuts;
use super::ledger::{Findings, Kept, Ledger};
use super::rig::{Message, ROOT, Rig, TrialClock};
use super::steps::{Focus, steps_of};
use super::world::{World, compare_all, expect_no_damage, nth};
use crate::store::disk::{Disk, Mode, RealDisk};
use crate::store::sim::{Dice, Fault, Replay, SimDisk, Trace};

/// Steps of one recorded run: some hundred changes of the disk.
const STEPS: usize = 40;
/// Of so many cuts one hits the recovery from it, too.
const AGAIN_ONE_IN: usize = 4;
/// After so many cuts one the store is used, cut again and compared again.
const USED_ONE_IN: usize = 8;

/// A recorded run, and what holds at each change of it.
struct Recording {
    seed: u64,
    trace: Trace,
    moments: Vec<(usize, Ledger)>,
}

impl Recording {
    fn new(seed: u64, focus: Focus, out: &mut PowerCuts) -> Self {
        let mut world = World::new(seed, focus, true);
        for step in steps_of(focus, &mut Dice(seed), STEPS) {
            world.run(&step);
        }
        world.check(100);
        out.expired += world.told.expired;
        out.tombstones += world.told.tombstones;
        out.dropped += world.told.dropped;
        out.ringed += world.told.ringed;
        let found = std::mem::take(&mut world.findings);
        out.note(found, || format!("run {seed} ({focus:?}), before any cut"));
        // First the trace: dropping the store writes nothing, but may.
        let trace = world.disk.take_trace().expect("it records");
        Self { seed, trace, moments: world.moments }
    }

    /// What a cut after `done` changes must leave.
    fn ledger(&self, done: usize) -> Ledger {
        let next = self.moments.partition_point(|(at, _)| *at <= done);
        self.moments[next - 1].1.clone()
    }
}

/// Cuts the power `cuts` times on simulated disks. See [`super::power_cuts`].
pub(super) fn power_cuts(seed: u64, cuts: u64) -> PowerCuts {
    let mut out = PowerCuts::default();
    let mut dice = Dice(seed);
    let first = dice.next() % 3;
    while out.cuts < cuts && !out.is_hopeless() {
        let recording = Recording::new(dice.next(), Focus::of(first + out.runs), &mut out);
        out.runs += 1;
        out.changes += recording.trace.len() as u64;
        let mut replay = recording.trace.replay();
        for done in 0..=recording.trace.len() {
            replay.go_to(done);
            if out.cuts >= cuts {
                return out;
            }
            Cut { recording: &recording, done, seed: dice.next() }.simulate(&replay, &mut out);
        }
    }
    out
}

/// One cut.
struct Cut<'a> {
    recording: &'a Recording,
    done: usize,
    seed: u64,
}

impl Cut<'_> {
    fn place(&self) -> String {
        format!("run {}, change {}, cut {}", self.recording.seed, self.done, self.seed)
    }

    fn simulate(&self, replay: &Replay<'_>, out: &mut PowerCuts) {
        let mut dice = Dice(self.seed);
        let mut disk = replay.cut(dice.next());
        out.cuts += 1;
        let mut ledger = self.recording.ledger(self.done);
        out.acked += ledger.owed();
        let mut found = Findings::default();
        let clock = TrialClock::new();
        clock.pass(std::time::Duration::from_millis(ledger.now));
        while dice.below(AGAIN_ONE_IN) == 0 {
            let mut at = nth(u32::try_from(dice.below(30)).expect("below 30"), Fault::Crash);
            disk.plan(move |_, _| at());
            let open = Rig::open(Arc::new(disk.clone()), Path::new(ROOT), &clock);
            if let Err(error) = &open
                && disk.has_power()
            {
                found.add(format!("the store does not open: {error}"));
            }
            disk = disk.power_cut(dice.next());
            out.cuts += 1;
        }
        let again = dice.below(USED_ONE_IN) == 0;
        let store = Recovered { disk: Arc::new(disk.clone()), dir: Path::new(ROOT), clock: &clock };
        if store.check(&mut ledger, &mut found) && again {
            disk = disk.power_cut(dice.next());
            let store =
                Recovered { disk: Arc::new(disk.clone()), dir: Path::new(ROOT), clock: &clock };
            store.check(&mut ledger, &mut found);
            out.cuts += 1;
        }
        out.note(found, || self.place());
    }

    fn on_real(&self, replay: &Replay<'_>, folder: &Path, out: &mut PowerCuts) -> io::Result<()> {
        let image = replay.cut(Dice(self.seed).next());
        out.cuts += 1;
        let mut ledger = self.recording.ledger(self.done);
        out.acked += ledger.owed();
        let root = folder.join("image");
        write_image(&image, &root)?;
        let (mut found, clock) = (Findings::default(), TrialClock::new());
        clock.pass(std::time::Duration::from_millis(ledger.now));
        let dir = root.join("data/store");
        let store = Recovered { disk: Arc::new(RealDisk), dir: &dir, clock: &clock };
        store.check(&mut ledger, &mut found);
        out.note(found, || self.place());
        std::fs::remove_dir_all(&root)
    }
}

/// A disk with a store on it.
pub(super) struct Recovered<'a> {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: &'a Path,
    pub(super) clock: &'a Arc<TrialClock>,
}

impl Recovered<'_> {
    /// Opens the store after a power cut, compares it with the ledger, and uses it; `false`: it does not open.
    pub(super) fn check(&self, ledger: &mut Ledger, found: &mut Findings) -> bool {
        let (mut rig, report) = match Rig::open(Arc::clone(&self.disk), self.dir, self.clock) {
            Ok(opened) => opened,
            Err(error) => {
                found.add(format!("the store does not open: {error}"));
                return false;
            }
        };
        expect_no_damage(&report, found);
        ledger.now = self.clock.millis();
        compare_all(&mut rig, ledger, Kept::Disk, 100, found);
        use_it(&mut rig, ledger, found);
        true
    }
}

/// The store takes new records, and gives them back.
pub(super) fn use_it(rig: &mut Rig, ledger: &mut Ledger, found: &mut Findings) {
    let payload = Bytes::from_static(b"written after the recovery");
    let batch = [Message { queues: 0b0011, payload, ttl_secs: 0 }];
    ledger.begin(&batch);
    match rig.append(&batch) {
        Ok(()) => ledger.acked(),
        Err(failure) => found.add(format!("the recovered store takes nothing: {failure:?}")),
    }
    for queue in batch[0].targets() {
        match rig.view(queue, 100) {
            Ok(Some(view)) => ledger.check(queue, &view, found),
            Ok(None) => found.add(format!("queue {queue} is gone after an append")),
            Err(error) => found.add(error),
        }
    }
}

/// Cuts the power `cuts` times; each store is recovered from files in `folder`. See [`super::power_cuts_on`].
pub(super) fn power_cuts_on(folder: &Path, seed: u64, cuts: u64) -> io::Result<PowerCuts> {
    let mut out = PowerCuts::default();
    let mut dice = Dice(seed);
    let first = dice.next() % 3;
    while out.cuts < cuts && !out.is_hopeless() {
        let recording = Recording::new(dice.next(), Focus::of(first + out.runs), &mut out);
        out.runs += 1;
        out.changes += recording.trace.len() as u64;
        let mut replay = recording.trace.replay();
        // Spread over the whole run, however few there are: a volume is slower than the memory.
        let places = usize::try_from(cuts - out.cuts).unwrap_or(usize::MAX).min(20);
        let step = 1 + recording.trace.len() / places;
        for done in (dice.below(step)..=recording.trace.len()).step_by(step) {
            if out.cuts >= cuts {
                break;
            }
            replay.go_to(done);
            let cut = Cut { recording: &recording, done, seed: dice.next() };
            cut.on_real(&replay, folder, &mut out)?;
        }
    }
    Ok(out)
}

/// Makes files of what a simulated disk holds.
fn write_image(image: &SimDisk, root: &Path) -> io::Result<()> {
    let under = |path: &Path| {
        let path = path.strip_prefix("/").expect("the simulated paths are absolute");
        root.join(path)
    };
    if root.exists() {
        std::fs::remove_dir_all(root)?;
    }
    let (dirs, files) = image.tree();
    for dir in dirs {
        RealDisk.create_dir_all(&under(&dir))?;
    }
    RealDisk.create_dir_all(&under(Path::new(ROOT)))?;
    for (path, bytes) in files {
        RealDisk.open(&under(&path), Mode::CreateNew)?.write_at(&bytes, 0)?;
    }
    Ok(())
}
