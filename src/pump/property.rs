//! Whatever the endpoint answers and whenever the pump crashes: no message is lost, a sender's first deliveries keep
//! their order, and repeats stay within the window. `PROPTEST_CASES` sets the number of lives.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use super::Config;
use super::backoff::Backoff;
use super::double::{Answer, MemoryLogs, Scripted, message};
use super::tests::{S, drained, letters, run_for};
use crate::deliver::Outcome;

/// Messages that every endpoint refuses for good.
fn is_bad(n: &u64) -> bool {
    n % 29 == 7
}

/// An endpoint that answers at random; each sender has a mood that changes now and then: well, throttled, not accepted,
/// slow. Now and then it keeps a batch and says that it did not: such repeats are added to `lost_answers`.
fn moody(seed: u64, lost_answers: Arc<AtomicUsize>) -> Arc<Scripted> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut mood = HashMap::new();
    Scripted::new(move |sender, batch| {
        let mood = mood.entry(sender.to_owned()).or_insert(0);
        if dice.random_ratio(1, 6) {
            *mood = dice.random_range(0..4);
        }
        if batch.iter().any(is_bad) {
            return Answer::rejected();
        }
        let wait = Duration::from_millis(dice.random_range(1..400));
        match (*mood, dice.random_range(0..20)) {
            (1, 0..18) => Answer::retry().after(wait),
            (2, 0..15) => {
                Answer::of(Outcome::Unauthenticated { detail: String::new() }).after(wait)
            }
            (3, 0..10) => Answer::delivered().after(9 * S),
            (_, 0) => Answer::of(Outcome::Offline).after(wait),
            (_, 1) => {
                lost_answers.fetch_add(batch.len(), Ordering::SeqCst);
                Answer { stored: true, ..Answer::retry().after(wait) }
            }
            _ => Answer::delivered().after(wait),
        }
    })
}

/// One life of the world: senders publish, the endpoint answers at random (sometimes keeping what it says it did not),
/// the pump crashes at random moments; at the end everybody is well.
async fn live(seed: u64, config: &Config) {
    let mut rng = StdRng::seed_from_u64(seed);
    let senders = ["a", "b", "c"];
    let logs = Arc::new(MemoryLogs::default());
    let lost_answers = Arc::new(AtomicUsize::new(0));
    let hub = moody(rng.random(), Arc::clone(&lost_answers));
    let mut published = HashMap::from(senders.map(|s| (s, 0)));
    // One life in four goes without crashes, on a disk that is full for moments.
    let gentle = rng.random_ratio(1, 4);
    logs.refuse_every.store(if gentle { rng.random_range(2..40) } else { 0 }, Ordering::SeqCst);
    let mut crashes = 0;
    let mut gentle_run = gentle.then(|| Box::pin(run_for(&logs, &hub, config, 9000 * S)));
    for _ in 0..rng.random_range(1..8) {
        for _ in 0..rng.random_range(0..60) {
            let sender = senders[rng.random_range(0..3)];
            let n = published.get_mut(sender).unwrap();
            logs.publish(sender, *n);
            *n += 1;
        }
        logs.full.store(rng.random_ratio(1, 5), Ordering::SeqCst);
        let time = match rng.random_range(0..3) {
            0 => Duration::from_micros(rng.random_range(0..20_000)),
            1 => Duration::from_millis(rng.random_range(0..5_000)),
            _ => Duration::from_secs(rng.random_range(0..200)),
        };
        match &mut gentle_run {
            Some(run) => {
                let _ = tokio::time::timeout(time, run).await;
            }
            None => {
                run_for(&logs, &hub, config, time).await;
                crashes += 1;
            }
        }
    }
    logs.full.store(false, Ordering::SeqCst);
    // Healing happens in mid-run: nothing may depend on a restart.
    let heals = Duration::from_millis(rng.random_range(0..120_000));
    let heal =
        async {
            sleep(heals).await;
            hub.script(move |_, batch| {
                if batch.iter().any(is_bad) { Answer::rejected() } else { Answer::delivered() }
            });
        };
    let last = gentle_run.unwrap_or_else(|| Box::pin(run_for(&logs, &hub, config, 3000 * S)));
    tokio::join!(last, heal);
    let arrived = check_arrivals(seed, &logs, &hub, &published);
    let repeats = hub.kept.lock().unwrap().len() - arrived;
    let side = config.parked_deliveries_max * config.batch_messages_max;
    let bound = crashes * (config.window_messages_max + side) + lost_answers.load(Ordering::SeqCst);
    assert!(repeats <= bound, "seed {seed}: {repeats} repeats, {bound} are allowed");
}

/// All is settled; the good have arrived in order, the bad are among the dead letters. Gives how many are good.
fn check_arrivals(
    seed: u64,
    logs: &MemoryLogs,
    hub: &Scripted,
    published: &HashMap<&str, u64>,
) -> usize {
    assert!(drained(logs), "seed {seed}: all is settled");
    let (first, letters) = (hub.first_arrivals(), letters(logs));
    let mut arrived = 0;
    for (&sender, &count) in published {
        let (bad, good): (Vec<u64>, Vec<u64>) = (0..count).partition(is_bad);
        arrived += good.len();
        assert_eq!(first.get(sender).cloned().unwrap_or_default(), good, "seed {seed}: {sender}");
        for n in bad {
            let stored = message(sender, n, 1);
            assert!(letters.iter().any(|l| l.stored == stored), "seed {seed}: letter {n}");
        }
    }
    arrived
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_crash_and_no_answer_loses_or_reorders_a_message(
        seed in any::<u64>(),
        window in 1_usize..40,
        batch in 1_usize..10,
        lanes in 1_usize..5,
        parked in 0_usize..4,
    ) {
        let config = Config {
            window_messages_max: window,
            batch_messages_max: batch,
            lanes_max: lanes,
            parked_deliveries_max: 1,
            parked_lanes_max: parked,
            unauthenticated_backoff: Backoff { base: 5 * S, max: 60 * S },
            ..Config::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime of one thread");
        runtime.block_on(live(seed, &config));
    }
}
