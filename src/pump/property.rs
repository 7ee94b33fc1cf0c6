//! Whatever the endpoint answers and whenever the pump crashes: no message is lost, a sender's first deliveries keep
//! their order, repeats stay within the window, no expired message is handed over, and each that expires is counted.
//! `PROPTEST_CASES` sets the number of lives.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use super::backoff::Backoff;
use super::double::{Answer, MemoryLogs, Scripted, TokioClock, main_queue, message};
use super::tests::{S, crash_after, drained, expired, letters, pump_of};
use super::{Config, Target};
use crate::clock::Clock;
use crate::deliver::{Deliver, Outcome};
use crate::metrics::Metrics;

/// Messages that every endpoint refuses for good.
fn is_bad(n: &u64) -> bool {
    n % 29 == 7
}

/// An endpoint that answers at random; each sender has a mood that changes now and then: well, throttled, not accepted,
/// slow. Now and then it keeps a batch and says that it did not: such repeats are added to `lost_answers`.
fn moody(seed: u64, lost_answers: Arc<AtomicUsize>, expiries: Expiries) -> Arc<Scripted> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut mood = HashMap::new();
    Scripted::new(move |sender, batch| {
        check_alive(seed, sender, batch, &expiries);
        let mood = mood.entry(sender.to_owned()).or_insert(0);
        if dice.random_ratio(1, 6) {
            *mood = dice.random_range(0..4);
        }
        let wait = Duration::from_millis(dice.random_range(1..400));
        let partly = |delivered: usize, then: Outcome| {
            // What was under way when its sender was parked is repeated.
            lost_answers.fetch_add(delivered, Ordering::SeqCst);
            Answer::of(Outcome::Partly { delivered, then: Box::new(then) }).after(wait)
        };
        match batch.iter().position(is_bad) {
            Some(at) if at > 0 && dice.random() => return partly(at, Answer::rejected().outcome),
            Some(_) => return Answer::rejected(),
            None => {}
        }
        if batch.len() > 1 && dice.random_ratio(1, 8) {
            let then = [Answer::retry().outcome, Outcome::Offline];
            let delivered = dice.random_range(1..batch.len());
            return partly(delivered, then[dice.random_range(0..2)].clone());
        }
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

/// When what was published with a time to live expires.
type Expiries = Arc<Mutex<HashMap<(String, u64), Instant>>>;

fn check_alive(seed: u64, sender: &str, batch: &[u64], expiries: &Expiries) {
    let (expiries, now) = (expiries.lock().unwrap(), TokioClock.monotonic());
    for n in batch {
        let alive = expiries.get(&(sender.to_owned(), *n)).is_none_or(|at| now < *at);
        assert!(alive, "seed {seed}: {sender} {n} had expired");
    }
}

/// What was published, and what became of it but for deliveries and dead letters.
struct Published {
    count: HashMap<&'static str, u64>,
    expiries: Expiries,
    /// Taken away by the store: the stored forms.
    removed: Vec<Bytes>,
    metrics: Arc<Metrics>,
}

impl Published {
    fn new(senders: [&'static str; 3]) -> Self {
        Self {
            count: senders.map(|s| (s, 0)).into(),
            expiries: Expiries::default(),
            removed: Vec::new(),
            metrics: Metrics::new("hub", "edge"),
        }
    }

    /// One more message of `sender`; one in three has a time to live.
    fn publish(&mut self, logs: &MemoryLogs, sender: &'static str, rng: &mut StdRng) {
        let n = self.count.get_mut(sender).unwrap();
        let ttl = if rng.random_ratio(1, 3) { rng.random_range(1..300) } else { 0 };
        if ttl > 0 {
            // The store's clock counts whole milliseconds, cut.
            let at = TokioClock.monotonic() + ttl * S;
            self.expiries.lock().unwrap().insert((sender.to_owned(), *n), at);
        }
        logs.publish_to(&main_queue(), sender, *n, ttl);
        *n += 1;
    }

    fn run(
        &self,
        logs: &Arc<MemoryLogs>,
        hub: &Arc<Scripted>,
        config: &Config,
        time: Duration,
    ) -> impl Future<Output = ()> + use<> {
        let target = Target::new(Arc::clone(hub) as Arc<dyn Deliver>);
        let pump = pump_of(logs, main_queue(), target, Arc::clone(&self.metrics), config);
        crash_after(time, pump)
    }
}

/// One life of the world: senders publish, the endpoint answers at random (sometimes keeping what it says it did not),
/// the pump crashes at random moments; at the end everybody is well.
async fn live(seed: u64, config: &Config) {
    let mut rng = StdRng::seed_from_u64(seed);
    let senders = ["a", "b", "c"];
    let logs = Arc::new(MemoryLogs::default());
    let lost_answers = Arc::new(AtomicUsize::new(0));
    let mut published = Published::new(senders);
    let expiries = Arc::clone(&published.expiries);
    let hub = moody(rng.random(), Arc::clone(&lost_answers), expiries);
    // One life in four goes without crashes, on a disk that is full for moments.
    let gentle = rng.random_ratio(1, 4);
    logs.refuse_every.store(if gentle { rng.random_range(2..40) } else { 0 }, Ordering::SeqCst);
    let mut crashes = 0;
    let mut gentle_run = gentle.then(|| Box::pin(published.run(&logs, &hub, config, 9000 * S)));
    for _ in 0..rng.random_range(1..8) {
        for _ in 0..rng.random_range(0..60) {
            published.publish(&logs, senders[rng.random_range(0..3)], &mut rng);
        }
        if rng.random_ratio(1, 8) {
            let removed = logs.queue(&main_queue()).remove(rng.random_range(0..20));
            published.removed.extend(removed);
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
                published.run(&logs, &hub, config, time).await;
                crashes += 1;
            }
        }
    }
    logs.full.store(false, Ordering::SeqCst);
    // Healing happens in mid-run: nothing may depend on a restart.
    let heals = Duration::from_millis(rng.random_range(0..120_000));
    let expiries = Arc::clone(&published.expiries);
    let heal = async {
        sleep(heals).await;
        hub.script(move |sender, batch| {
            check_alive(seed, sender, batch, &expiries);
            if batch.iter().any(is_bad) { Answer::rejected() } else { Answer::delivered() }
        });
    };
    let last = gentle_run.unwrap_or_else(|| Box::pin(published.run(&logs, &hub, config, 3000 * S)));
    tokio::join!(last, heal);
    let (arrived, gone) = check_arrivals(seed, &logs, &hub, &published);
    let repeats = hub.kept.lock().unwrap().len() - arrived;
    let side = config.parked_deliveries_max * config.batch_messages_max;
    // What a crash repeats may also be counted twice, and what an endpoint kept without saying so may expire.
    let bound = crashes * (config.window_messages_max + side) + lost_answers.load(Ordering::SeqCst);
    assert!(repeats <= bound, "seed {seed}: {repeats} repeats, {bound} are allowed");
    let counted = usize::try_from(expired(&published.metrics)).unwrap();
    // Removed by the store while an append to the side queue was under way: counted there.
    let most = gone + bound + published.removed.len();
    assert!((gone..=most).contains(&counted), "seed {seed}: {counted} counted, {gone} expired");
}

/// All is settled; the good have arrived in order, the bad are among the dead letters, but for those that had a time to live
/// or that the store has removed. Gives how many have arrived, and how many have expired.
fn check_arrivals(
    seed: u64,
    logs: &MemoryLogs,
    hub: &Scripted,
    published: &Published,
) -> (usize, usize) {
    assert!(drained(logs), "seed {seed}: all is settled");
    let (first, letters) = (hub.first_arrivals(), letters(logs));
    let expiries = published.expiries.lock().unwrap();
    let (mut arrived, mut expired) = (0, 0);
    for (&sender, &count) in &published.count {
        let got = first.get(sender).cloned().unwrap_or_default();
        assert!(got.is_sorted(), "seed {seed}: {sender} {got:?}");
        arrived += got.len();
        for n in 0..count {
            let stored = message(sender, n, 1);
            let ended = match is_bad(&n) {
                true => letters.iter().any(|l| l.stored == stored),
                false => got.contains(&n),
            };
            if ended || published.removed.contains(&stored) {
                continue;
            }
            let mortal = expiries.contains_key(&(sender.to_owned(), n));
            assert!(mortal, "seed {seed}: {sender} {n} is lost");
            expired += 1;
        }
    }
    (arrived, expired)
}

proptest! {
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
