//! Time to live: what a store's own clock says, and that whole segments go by it, whatever crashes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::{Clock, UnixMillis};
use crate::store::engine::{Engine, Failure};
use crate::store::queue::Shared;
use crate::store::sim::Dice;
use crate::store::stats::Counters;

pub(super) struct World {
    pub(super) disk: SimDisk,
    pub(super) clock: Arc<TestClock>,
    pub(super) engine: Engine,
    pub(super) counters: Arc<Counters>,
    removed: mpsc::Receiver<Removed>,
    pub(super) report: RecoveryReport,
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl World {
    pub(super) fn new() -> Self {
        Self::open(SimDisk::new(), TestClock::new()).unwrap()
    }

    fn open(disk: SimDisk, clock: Arc<TestClock>) -> Result<Self, OpenError> {
        let counters = Arc::<Counters>::default();
        let (real, now) = (Arc::new(disk.clone()), Arc::clone(&clock));
        let (mut engine, report) = Engine::open(config(), real, now, Arc::clone(&counters))?;
        let removed = engine.take_removed().unwrap();
        Ok(Self { disk, clock, engine, counters, removed, report })
    }

    /// One record of 1000 bytes for each time to live, all in one batch.
    pub(super) fn append(&mut self, id: &QueueId, ttls: &[u32]) -> Result<(), Failure> {
        let (to, _mailbox) = mpsc::channel(1);
        let append = |ttl_secs: &u32| Append {
            queues: vec![AppendTo { queue: id.clone(), ttl_secs: *ttl_secs }],
            payload: vec![ttl_secs.to_le_bytes()[0]; 1000].into(),
            since: None,
            class: AppendClass::Ingress,
            receipt: ReceiptTo::new(0, to.clone(), &AppendChain::new()),
        };
        let batch: Vec<Append> = ttls.iter().map(append).collect();
        self.engine.commit(batch.iter())
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.clock.pass(time);
        self.engine.tick().unwrap();
    }

    fn shared(&mut self) -> Arc<Shared> {
        self.engine.queue(&main_queue()).unwrap()
    }

    /// Offsets that a reader gets.
    pub(super) fn left(&mut self) -> Vec<u64> {
        let shared = self.shared();
        let from = shared.settle_to();
        let chunk = shared.read(from, 1000, usize::MAX).unwrap();
        assert_eq!(chunk.lost, []);
        assert_eq!(chunk.next, shared.end());
        offsets(&chunk)
    }

    /// What was told: offsets and records.
    pub(super) fn told(&mut self) -> Vec<(u64, u64, u64)> {
        let mut told = Vec::new();
        while let Ok(removed) = self.removed.try_recv() {
            assert_eq!((removed.why, &removed.queue), (RemovedWhy::Expired, &main_queue()));
            assert_eq!(removed.payload_bytes, removed.records * 1000);
            told.push((removed.offsets.start.0, removed.offsets.end.0, removed.records));
        }
        told
    }

    pub(super) fn reopen(self) -> Self {
        drop(self.engine);
        Self::open(self.disk.kill(), self.clock).unwrap()
    }
}

/// A box without a battery for its clock: it boots in 1970, hears of the time later, or is set wrong by hand; while the store
/// is open, or before it is opened again.
#[test]
fn no_jump_of_the_wall_clock_expires_anything_early_or_keeps_it_for_ever() {
    const HOUR: u64 = 3_600_000;
    let today = 1_800_000_000_000;
    for (from, to) in [
        (today, 0),
        (0, today),
        (today, today + 10 * 365 * 24 * HOUR),
        (today, today - HOUR),
        (today, u64::MAX),
    ] {
        for reopen in [false, true] {
            let what = format!("{from} to {to}, reopened: {reopen}");
            let clock = TestClock::new();
            clock.set_wall(UnixMillis(from));
            let mut world = World::open(SimDisk::new(), clock).unwrap();
            world.append(&main_queue(), &[60; 3]).unwrap();
            world.pass(secs(40));
            world.clock.set_wall(UnixMillis(to));
            if reopen {
                world = world.reopen();
            }
            world.pass(secs(10));
            assert_eq!((world.left(), world.told()), (vec![0, 1, 2], vec![]), "early: {what}");
            world.append(&main_queue(), &[60; 3]).unwrap();
            // What was saved of the store's own clock may be a minute old.
            world.pass(secs(if reopen { 60 } else { 30 }));
            assert_eq!(world.told(), [(0, 3, 3)], "kept: {what}");
            world.pass(secs(60));
            assert_eq!((world.left(), world.told()), (vec![], vec![(3, 6, 3)]), "kept: {what}");
        }
    }
}

/// Three records fill a segment. Each case: segments of records with these times to live; what has been settled; what is
/// left after 20 s; what was told.
#[test]
fn a_segment_goes_when_all_of_it_has_expired() {
    type Told<'a> = &'a [(u64, u64, u64)];
    let check = |segments: &[[u32; 3]], settled: u64, left: &[u64], told: Told, reopen: bool| {
        let mut world = World::new();
        for ttls in segments {
            world.append(&main_queue(), ttls).unwrap();
        }
        world.shared().request_settle(Offset(settled));
        world.engine.settle().unwrap();
        if reopen {
            world = world.reopen();
        }
        world.pass(secs(14));
        assert_eq!(world.told(), [], "too early");
        let read = world.disk.bytes_read();
        world.pass(secs(6));
        assert_eq!(world.disk.bytes_read(), read, "nothing is read for it");
        assert_eq!(world.told(), told, "{segments:?}");
        let records: u64 = told.iter().map(|told| told.2).sum();
        assert_eq!(world.counters.snapshot().expired_records, records);
        assert_eq!(world.left(), left, "{segments:?}");
        let (messages, bytes) = world.shared().index().pending();
        assert_eq!((messages, bytes), (left.len() as u64, left.len() as u64 * 1000));
        let files = super::segments(&world.disk).len();
        let mut world = world.reopen();
        assert_eq!((world.report.proven_lost, world.report.torn_records), (0, 0));
        assert!(super::segments(&world.disk).len() <= files);
        assert_eq!(world.left(), left, "after a restart");
        world.append(&main_queue(), &[0]).unwrap();
        let mut want = left.to_vec();
        want.push(segments.len() as u64 * 3);
        assert_eq!(world.left(), want, "offsets are not used again");
    };
    let (dies, stays) = ([10; 3], [0; 3]);
    for reopen in [false, true] {
        check(&[dies], 0, &[], &[(0, 3, 3)], reopen);
        check(&[dies, dies], 2, &[], &[(2, 6, 4)], reopen);
        check(&[dies, stays], 0, &[3, 4, 5], &[(0, 3, 3)], reopen);
        check(&[stays, dies], 0, &[0, 1, 2], &[(3, 6, 3)], reopen);
        check(&[stays, dies, dies, stays], 1, &[1, 2, 9, 10, 11], &[(3, 9, 6)], reopen);
        check(
            &[dies, stays, dies, stays],
            0,
            &[3, 4, 5, 9, 10, 11],
            &[(0, 3, 3), (6, 9, 3)],
            reopen,
        );
        check(&[[10, 0, 10], dies], 0, &[0, 1, 2], &[(3, 6, 3)], reopen);
        check(&[[10, 9999, 10]], 0, &[0, 1, 2], &[], reopen);
        check(&[stays], 0, &[0, 1, 2], &[], reopen);
    }
}

#[test]
fn a_reader_with_an_old_view_looks_again_and_loses_nothing() {
    let mut world = World::new();
    for ttl in [0, 1, 0, 0] {
        world.append(&main_queue(), &[ttl; 3]).unwrap();
    }
    let shared = world.shared();
    let chunk = shared.read(Offset(0), 4, usize::MAX).unwrap();
    assert_eq!(offsets(&chunk), [0, 1, 2, 3], "in the segment that is about to go");
    world.pass(secs(10));
    let rest = shared.read(chunk.next, 100, usize::MAX).unwrap();
    assert_eq!((offsets(&rest), rest.lost), (vec![6, 7, 8, 9, 10, 11], vec![]));
    assert_eq!(world.counters.snapshot().lost_records, 0);
}

#[test]
fn a_record_knows_its_age_and_its_end() {
    let mut world = World::new();
    world.pass(secs(100));
    let (to, _mailbox) = mpsc::channel(1);
    let at = world.clock.monotonic();
    let mut check = |since: Option<u64>, ttl_secs: u32, stored: u64, ends_in: Option<i64>| {
        let append = Append {
            queues: vec![AppendTo { queue: main_queue(), ttl_secs }],
            payload: vec![1].into(),
            since: since.map(StoreMillis),
            class: AppendClass::Internal,
            receipt: ReceiptTo::new(0, to.clone(), &AppendChain::new()),
        };
        world.engine.commit(std::iter::once(&append)).unwrap();
        let shared = world.engine.queue(&main_queue()).unwrap();
        let chunk = shared.read(Offset(shared.end().0 - 1), 1, 1).unwrap();
        let record = &chunk.records[0];
        assert_eq!(record.stored, StoreMillis(stored));
        let end = ends_in.map(|secs| match u64::try_from(secs) {
            Ok(ahead) => at + Duration::from_secs(ahead),
            Err(_) => at - Duration::from_secs(secs.unsigned_abs()),
        });
        assert_eq!(record.expires, end);
    };
    check(None, 0, 100_000, None);
    check(None, 10, 100_000, Some(10));
    check(Some(40_000), 70, 40_000, Some(10));
    check(Some(40_000), 50, 40_000, Some(-10));
    check(Some(900_000), 50, 100_000, Some(50));
}

/// The wall clock of [`TestClock`] starts anew with each process; the store's goes on.
#[test]
fn the_clock_survives_restarts_and_a_crash_costs_a_minute_at_most() {
    let check = |end: &dyn Fn(World) -> SimDisk,
                 damage: Option<fn(&mut Vec<u8>)>,
                 least: u64,
                 most: u64,
                 lost: bool| {
        let mut world = World::new();
        world.append(&main_queue(), &[100_000]).unwrap();
        for _ in 0..300 {
            world.pass(secs(1));
        }
        let disk = end(world);
        if let Some(damage) = damage {
            disk.damage(format!("{ROOT}/clock"), damage);
        }
        let mut world = World::open(disk, TestClock::new()).unwrap();
        assert_eq!(world.report.clock_lost, lost);
        assert_eq!((world.report.records, world.left().len()), (1, 1));
        let now = world.engine.age().now().0;
        assert!((least * 1000..=most * 1000).contains(&now), "{now}");
    };
    let close = |mut world: World| {
        world.engine.close().unwrap();
        drop(world.engine);
        world.disk.kill()
    };
    let kill = |world: World| {
        drop(world.engine);
        world.disk.kill()
    };
    let cut = |world: World| {
        drop(world.engine);
        world.disk.power_cut(7)
    };
    check(&close, None, 300, 300, false);
    check(&kill, None, 240, 300, false);
    check(&cut, None, 240, 300, false);
    check(&close, Some(|bytes| bytes.iter_mut().for_each(|b| *b ^= 1)), 0, 0, true);
    check(&close, Some(Vec::clear), 0, 0, false);
}

#[test]
fn stamps_on_the_disk_tell_how_late_it_was_if_the_clock_is_lost() {
    let mut world = World::new();
    world.pass(secs(500));
    world.append(&main_queue(), &[9]).unwrap();
    world.pass(secs(1));
    world.append(&main_queue(), &[9]).unwrap();
    let world = world.reopen();
    assert_eq!(world.engine.age().now(), StoreMillis(501_000));
}

/// An idle store is woken when something ends or the clock is to be saved, not before, and not at all without a reason.
#[test]
fn an_idle_store_sleeps_until_something_ends() {
    let mut world = World::new();
    let mut rest_after = |ttls: &[u32], pass: u64| {
        if !ttls.is_empty() {
            world.append(&main_queue(), ttls).unwrap();
            assert!(ttls[0] == 0 || world.engine.rest() <= secs(1));
        }
        world.pass(secs(pass));
        world.engine.rest()
    };
    assert!(rest_after(&[], 1) > secs(1_000_000));
    assert!(rest_after(&[0; 3], 1) > secs(1_000_000));
    assert_eq!(rest_after(&[10; 3], 1), secs(14));
    assert!(rest_after(&[], 14) > secs(1_000_000), "all that could end has ended");
    // The clock was saved at no time yet, or a minute ago.
    assert!(rest_after(&[3600; 3], 1) <= secs(60));
}

/// Segments that go and segments that stay, in turns; the power goes, or the disk fails, at every single change that the
/// expiry makes. Whatever happened, after a restart the same goes and the same stays.
#[test]
fn a_fault_at_any_step_of_an_expiry_changes_nothing_in_the_end() {
    use std::io::ErrorKind::{Other, StorageFull};
    let stays = [3, 4, 5, 12, 13, 14];
    for error in [None, Some(Other), Some(StorageFull)] {
        for (at, seed) in (0u32..60).flat_map(|at| [1, 2, 3].map(|seed| (at, seed))) {
            let mut world = World::new();
            for ttl in [1, 0, 1, 1, 0, 1] {
                world.append(&main_queue(), &[ttl; 3]).unwrap();
            }
            let mut left = Some(at);
            world.disk.plan(move |_, _| {
                let now = left == Some(0);
                left = left.and_then(|left| left.checked_sub(1));
                now.then(|| error.map_or(Fault::Crash, Fault::Error))
            });
            world.clock.pass(secs(10));
            let result = world.engine.tick();
            let what = format!("{error:?} at {at}, seed {seed}: {result:?}");
            let (clock, disk) = (Arc::clone(&world.clock), world.disk.power_cut(seed));
            drop(world);
            let mut world = World::open(disk, clock).unwrap();
            assert_eq!(world.report.proven_lost, 0, "{what}");
            let found = world.left();
            assert!(stays.iter().all(|offset| found.contains(offset)), "{what}: {found:?}");
            world.pass(secs(10));
            assert_eq!(world.left(), stays, "{what}");
            assert_eq!(world.shared().end(), Offset(18), "{what}");
            let world = world.reopen();
            assert_eq!((world.report.proven_lost, world.report.records), (0, 6), "{what}");
        }
    }
}

/// What is expected of random histories with crashes: what was acknowledged, with the seconds that had passed.
#[derive(Default)]
struct Expected {
    acked: BTreeMap<u64, (u64, u32)>,
    /// Under way when the power went.
    possible: BTreeMap<u64, (u64, u32)>,
    settled: u64,
}

/// Appends, waits, settles, expires, and loses power at random places, in the middle of an expiry, too. What is gone was
/// settled or had expired; nothing counts as lost.
#[test]
fn no_crash_during_an_expiry_loses_what_has_not_expired() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    for seed in 0..cases {
        let mut dice = Dice(seed);
        let mut world = World::new();
        world.shared();
        let mut expected = Expected::default();
        let mut passed = 0;
        for _ in 0..40 {
            if dice.below(3) == 0 {
                let mut left = dice.below(12);
                world.disk.plan(move |_, _| {
                    left = left.wrapping_sub(1);
                    (left == usize::MAX).then_some(Fault::Crash)
                });
            }
            let result = step(&mut world, &mut dice, &mut expected, &mut passed);
            if result.is_err() || world.disk.list(ROOT.as_ref()).is_err() {
                let clock = Arc::clone(&world.clock);
                let disk = world.disk.power_cut(seed ^ passed);
                drop(world);
                world = World::open(disk, clock).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                assert_eq!(world.report.proven_lost, 0, "seed {seed}");
                assert!(world.report.quarantined.is_empty(), "seed {seed}");
            }
            check_left(&mut world, &mut expected, passed, seed);
        }
    }
}

fn step(
    world: &mut World,
    dice: &mut Dice,
    expected: &mut Expected,
    passed: &mut u64,
) -> Result<(), Failure> {
    match dice.below(8) {
        0..=3 => {
            let ttl = [0, 3, 10, 10][dice.below(4)];
            let end = world.shared().end().0;
            let n = 1 + dice.below(4) as u64;
            let result = world.append(&main_queue(), &vec![ttl; usize::try_from(n).unwrap()]);
            let records = (end..end + n).map(|offset| (offset, (*passed, ttl)));
            match &result {
                Ok(()) => expected.acked.extend(records),
                Err(_) => expected.possible.extend(records),
            }
            result
        }
        4 => {
            let shared = world.shared();
            let below = shared.settle_to().0 + dice.below(3) as u64;
            shared.request_settle(Offset(below));
            expected.settled = expected.settled.max(below);
            world.engine.settle()
        }
        n => {
            let time = n as u64 * 2 - 9;
            *passed += time;
            world.clock.pass(secs(time));
            world.engine.tick()
        }
    }
}

fn check_left(world: &mut World, expected: &mut Expected, passed: u64, seed: u64) {
    let shared = world.shared();
    let chunk = shared.read(Offset(0), 10_000, usize::MAX).unwrap();
    assert_eq!(chunk.lost, [], "seed {seed}");
    let found: BTreeMap<u64, u8> =
        chunk.records.iter().map(|r| (r.offset.0, r.payload[0])).collect();
    for (offset, ttl) in &found {
        let known = expected.acked.get(offset).or(expected.possible.get(offset));
        assert_eq!(
            known.map(|known| known.1),
            Some(u32::from(*ttl)),
            "seed {seed}: forged {offset}"
        );
    }
    expected.acked.retain(|offset, (stored, ttl)| {
        let may_be_gone =
            *offset < expected.settled || (*ttl > 0 && *stored + u64::from(*ttl) + 5 <= passed);
        assert!(may_be_gone || found.contains_key(offset), "seed {seed}: {offset} is gone");
        found.contains_key(offset)
    });
}
