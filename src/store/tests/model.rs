//! The store against a plain map, on a disk that crashes, by steps that shrink.
//!
//! The promise that is tested: whatever happens, every record that was reported durable and is not settled is read back
//! with its bytes, at its place; nothing is read that was not appended; a settled place that was durable stays settled.
//! `PROPTEST_CASES` sets the number of cases (200 by default, so that a debug build ends in seconds); failing seeds are kept
//! in `proptest-regressions`.

use proptest::prelude::*;

use crate::store::Config;
pub(super) use crate::store::trial::rig::TrialClock as TestClock;
use crate::store::trial::rig::{self, QUEUES, ROOT};
use crate::store::trial::steps::{Focus, Step};
use crate::store::trial::world::World;

pub(super) fn config() -> Config {
    rig::config(ROOT)
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![3 => 0usize..200, 1 => 200usize..3000];
    let message = (1u8..16, len, prop_oneof![3 => Just(0), 1 => Just(7), 1 => Just(60)]);
    prop_oneof![
        12 => prop::collection::vec(message, 1..6).prop_map(Step::Append),
        6 => (0..QUEUES, 1u64..=8).prop_map(|(q, s)| Step::Settle(q, s)),
        3 => (0u64..13).prop_map(Step::Tick),
        1 => (0..QUEUES).prop_map(Step::DeleteIfEmpty),
        1 => prop::option::of(0usize..8192).prop_map(Step::Room),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
        1 => Just(Step::PowerCut),
        4 => (0u32..30).prop_map(Step::PowerCutDuring),
        2 => (0u32..30, any::<bool>()).prop_map(|(n, full)| Step::FailDuring(n, full)),
    ]
}

/// What a queue says that it holds is what the ledger says, where nothing is settled in part.
fn check_pending(world: &mut World) {
    for queue in 0..QUEUES {
        let Some(shared) = world.rig.as_mut().and_then(|rig| rig.queue(queue)) else {
            continue;
        };
        let (index, expected) = (shared.index(), &world.ledger.queues[queue]);
        let want = expected.pending(index.settled.0);
        // What is to be settled, or removed, and was refused by the disk is still there, until a later attempt.
        let is_done = shared.settle_to() <= index.settled;
        if is_done && (index.settled.0 == 0 || want.0 == 0) {
            assert_eq!(index.pending(), want, "queue {queue}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200),
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_acked_is_lost_whatever_crashes(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(seed, Focus::of(seed), false);
        for (i, step) in steps.iter().enumerate() {
            world.run(step);
            world.check(1 + i % 7);
            check_pending(&mut world);
            prop_assert!(world.findings.texts.is_empty(), "step {}: {:?}", i, world.findings);
        }
        world.run(&Step::PowerCut);
        world.check(100);
        prop_assert!(world.findings.texts.is_empty(), "at the end: {:?}", world.findings);
    }
}
