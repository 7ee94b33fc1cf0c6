//! The pump's promises, on doubles and paused time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::deadletter::{DeadLetter, DeadLetterQueue};
use super::double::{Answer, MemoryLogs, Scripted, TokioClock, main_queue};
use super::log::Entry;
use super::*;
use crate::deliver::Outcome;

pub(super) const S: Duration = Duration::from_secs(1);

pub(super) fn small() -> Config {
    Config { window_messages_max: 64, batch_messages_max: 8, ..Config::default() }
}

pub(super) fn pump(logs: &Arc<MemoryLogs>, endpoint: &Arc<Scripted>, config: &Config) -> Pump {
    let target = Target::new(Arc::clone(endpoint) as Arc<dyn Deliver>);
    pump_of(logs, main_queue(), target, Metrics::new("hub", "edge"), config)
}

pub(super) fn pump_of(
    logs: &Arc<MemoryLogs>,
    queue: QueueId,
    target: Target,
    metrics: Arc<Metrics>,
    config: &Config,
) -> Pump {
    let dead = Arc::new(DeadLetterQueue::new(Arc::clone(logs) as Arc<dyn Logs>));
    Pump::new(
        Arc::clone(logs) as Arc<dyn Logs>,
        queue,
        target,
        dead,
        metrics,
        Arc::new(TokioClock),
        config.clone(),
    )
}

/// Runs a pump for `time`, then drops it: a crash.
pub(super) fn run_for(
    logs: &Arc<MemoryLogs>,
    endpoint: &Arc<Scripted>,
    config: &Config,
    time: Duration,
) -> impl Future<Output = ()> + use<> {
    crash_after(time, pump(logs, endpoint, config))
}

/// Runs `pump` for `time`, then drops it.
pub(super) async fn crash_after(time: Duration, pump: Pump) {
    let ended = tokio::time::timeout(time, pump.run(CancellationToken::new())).await;
    assert!(ended.is_err(), "a pump does not end by itself");
}

/// How many messages `metrics` has counted as expired.
pub(super) fn expired(metrics: &Metrics) -> u64 {
    let text = metrics.render();
    let ours = |line: &&str| {
        line.starts_with("edgehub_messages_dropped_total") && line.contains("\"ttl_expiry\"")
    };
    let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64;
    text.lines().filter(ours).map(value).sum()
}

pub(super) fn drained(logs: &MemoryLogs) -> bool {
    logs.queue(&main_queue()).is_drained() && logs.side_queues(&main_queue()).is_empty()
}

pub(super) fn letters(logs: &MemoryLogs) -> Vec<DeadLetter> {
    let records = logs.queue(&DeadLetterQueue::id()).payloads();
    records.into_iter().map(|r| DeadLetter::decode(r).unwrap()).collect()
}

pub(super) fn all(n: u64) -> Vec<u64> {
    (0..n).collect()
}

#[tokio::test(start_paused = true)]
async fn everything_arrives_once_in_order_and_is_settled() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|_, _| Answer::delivered());
    for n in 0..300 {
        for sender in ["a", "b", "c"] {
            logs.publish(sender, n);
        }
    }
    run_for(&logs, &hub, &small(), 20 * S).await;
    for sender in ["a", "b", "c"] {
        assert_eq!(hub.kept_of(sender), all(300));
    }
    assert!(drained(&logs));
    let tried = hub.tried.lock().unwrap();
    assert!(tried.iter().all(|(_, batch)| batch.len() <= 8), "batches are bounded");
    assert!(tried.len() < 300, "and batches they are: {}", tried.len());
}

#[tokio::test(start_paused = true)]
async fn what_arrives_later_wakes_the_pump() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|_, _| Answer::delivered());
    let publish = async {
        for n in 0..20 {
            logs.publish("a", n);
            sleep(10 * S).await;
            assert_eq!(hub.kept_of("a"), all(n + 1));
        }
    };
    tokio::join!(run_for(&logs, &hub, &small(), 300 * S), publish);
    assert!(drained(&logs));
}

#[tokio::test(start_paused = true)]
async fn batches_are_bounded_in_bytes_and_one_large_message_goes_alone() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|_, _| Answer::delivered());
    let config = Config { batch_bytes_max: 4000, window_bytes_max: 20_000, ..small() };
    for n in 0..40 {
        logs.publish_sized("a", n, if n == 20 { 9000 } else { 1500 });
    }
    run_for(&logs, &hub, &config, 20 * S).await;
    assert_eq!(hub.kept_of("a"), all(40));
    let tried = hub.tried.lock().unwrap();
    assert!(tried.iter().all(|(_, batch)| batch.len() <= 2));
    assert!(tried.contains(&("a".into(), vec![20])));
}

#[tokio::test(start_paused = true)]
async fn a_busy_sender_does_not_starve_a_quiet_one() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|_, _| Answer::delivered());
    let config = Config { lanes_max: 1, ..small() };
    (0..50).for_each(|n| logs.publish("busy", n));
    (0..4).for_each(|n| logs.publish("quiet", n));
    run_for(&logs, &hub, &config, 20 * S).await;
    let tried = hub.tried.lock().unwrap();
    assert_eq!(tried[1], ("quiet".into(), all(4)), "its turn comes second");
}

#[tokio::test(start_paused = true)]
async fn a_retry_stays_in_its_lane_and_keeps_its_order() {
    let logs = Arc::new(MemoryLogs::default());
    let mut failures = 3;
    let hub = Scripted::new(move |sender, _| {
        if sender == "a" && failures > 0 {
            failures -= 1;
            return Answer::of(Outcome::Retry { after: Some(S), reason: "throttled" });
        }
        Answer::delivered()
    });
    for n in 0..20 {
        logs.publish("a", n);
        logs.publish("b", n);
    }
    let roomy = Config::default();
    run_for(&logs, &hub, &roomy, S).await;
    assert_eq!(hub.kept_of("b"), all(20), "b does not wait for a");
    assert_eq!(hub.kept_of("a"), Vec::<u64>::new());
    assert_eq!(logs.queue(&main_queue()).unsettled(), 40, "only the contiguous prefix settles");
    hub.kept.lock().unwrap().clear();
    run_for(&logs, &hub, &roomy, 60 * S).await;
    assert_eq!((hub.kept_of("a"), hub.kept_of("b")), (all(20), all(20)), "b again: the window");
    assert!(drained(&logs));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_away_is_awaited_without_attempts() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|_, _| Answer::delivered());
    (0..200).for_each(|n| logs.publish(["a", "b"][n as usize % 2], n));
    let outage = async {
        sleep(Duration::from_millis(15)).await;
        hub.set_up(false);
        sleep(3600 * S).await;
        let tried = hub.tried.lock().unwrap().len();
        assert!(tried < 10, "tried {tried} times");
        hub.set_up(true);
        sleep(2 * S).await;
        assert!(drained(&logs), "no back-off is left from the outage");
    };
    tokio::join!(run_for(&logs, &hub, &small(), 4000 * S), outage);
    assert_eq!(hub.kept.lock().unwrap().len(), 200, "no repeats");
    assert_eq!(logs.made.load(Ordering::SeqCst), 1, "an outage parks nobody");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_says_ready_and_is_away_is_not_hammered() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|_, _| Answer::of(Outcome::Offline).after(Duration::ZERO));
    logs.publish("a", 0);
    run_for(&logs, &hub, &small(), 600 * S).await;
    let tried = hub.tried.lock().unwrap().len();
    assert!((10..100).contains(&tried), "tried {tried} times in ten minutes");
}

/// A module that restarts after every few messages gets on all the same, and gets none of them twice.
#[tokio::test(start_paused = true)]
async fn what_is_delivered_of_a_batch_is_not_repeated() {
    let bad = || Answer::rejected().outcome;
    for then in [Outcome::Offline, Answer::retry().outcome, bad()] {
        let logs = Arc::new(MemoryLogs::default());
        let after = then.clone();
        let hub = Scripted::new(move |_, batch| match (&after, batch) {
            (Outcome::Rejected { .. }, [10]) => Answer::rejected(),
            (Outcome::Rejected { .. }, batch) => match batch.iter().position(|n| *n == 10) {
                Some(0) => Answer::rejected(),
                Some(delivered) => {
                    Answer::of(Outcome::Partly { delivered, then: Box::new(after.clone()) })
                }
                None => Answer::delivered(),
            },
            (_, batch) if batch.len() > 3 => {
                Answer::of(Outcome::Partly { delivered: 3, then: Box::new(after.clone()) })
            }
            _ => Answer::delivered(),
        });
        (0..60).for_each(|n| logs.publish("a", n));
        run_for(&logs, &hub, &small(), 600 * S).await;
        let expected: Vec<u64> = match then {
            Outcome::Rejected { .. } => (0..60).filter(|n| *n != 10).collect(),
            _ => all(60),
        };
        assert_eq!(hub.kept_of("a"), expected, "{then:?}");
        assert!(drained(&logs), "{then:?}");
    }
}

/// A module that hangs for a minute does so for all: with the patience of its pumps nothing is written twice.
#[tokio::test(start_paused = true)]
async fn who_fails_for_less_than_the_patience_is_not_parked() {
    for (park_after, expected) in [(10 * S, true), (120 * S, false)] {
        let logs = Arc::new(MemoryLogs::default());
        let mut tries = 0;
        let hub = Scripted::new(move |_, _| {
            tries += 1;
            if tries <= 2 { Answer::retry().after(30 * S) } else { Answer::delivered() }
        });
        (0..20).for_each(|n| logs.publish("a", n));
        let mut was_parked = false;
        let looks = async {
            for _ in 0..2000 {
                sleep(S / 10).await;
                was_parked |= logs.side("a").is_some();
            }
        };
        let config = Config { window_messages_max: 256, park_after, ..small() };
        tokio::join!(run_for(&logs, &hub, &config, 600 * S), looks);
        assert_eq!(was_parked, expected, "{park_after:?}");
        assert_eq!(hub.kept_of("a"), all(20), "{park_after:?}");
        assert!(drained(&logs));
    }
}

/// A batch out of a side queue, of which a part was delivered, is not begun anew.
#[tokio::test(start_paused = true)]
async fn what_is_delivered_of_a_side_queue_is_not_repeated() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|_, _| Answer::retry());
    (0..60).for_each(|n| logs.publish("a", n));
    let heals = async {
        sleep(60 * S).await;
        assert!(logs.side("a").is_some(), "it is parked");
        hub.script(|_, batch| match batch.len() {
            0..=3 => Answer::delivered(),
            _ => {
                let then = Box::new(Answer::retry().outcome);
                Answer::of(Outcome::Partly { delivered: 3, then })
            }
        });
    };
    tokio::join!(run_for(&logs, &hub, &small(), 1200 * S), heals);
    assert_eq!(hub.kept_of("a"), all(60));
    assert!(drained(&logs));
}

#[tokio::test(start_paused = true)]
async fn one_bad_message_takes_no_neighbour_along() {
    let logs = Arc::new(MemoryLogs::default());
    let hub =
        Scripted::new(
            |_, batch| {
                if batch.contains(&17) { Answer::rejected() } else { Answer::delivered() }
            },
        );
    (0..50).for_each(|n| logs.publish("a", n));
    run_for(&logs, &hub, &Config { batch_messages_max: 50, ..small() }, 20 * S).await;
    let expected: Vec<u64> = (0..50).filter(|n| *n != 17).collect();
    assert_eq!(hub.kept_of("a"), expected);
    assert!(drained(&logs));
    let letters = letters(&logs);
    assert_eq!(letters.len(), 1);
    assert_eq!((&*letters[0].reason, &*letters[0].detail), ("bad", "in the endpoint's words"));
    assert_eq!(letters[0].stored, super::double::message("a", 17, 1));
    let tried = hub.tried.lock().unwrap();
    assert!(tried.len() <= 14, "cornered by halving: {tried:?}");
}

#[tokio::test(start_paused = true)]
async fn bad_messages_only_cost_about_one_attempt_each() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|_, _| Answer::rejected());
    (0..40).for_each(|n| logs.publish("a", n));
    run_for(&logs, &hub, &small(), 20 * S).await;
    assert!(drained(&logs));
    assert_eq!(letters(&logs).len(), 40);
    assert!(hub.tried.lock().unwrap().len() <= 44);
}

#[tokio::test(start_paused = true)]
async fn a_bad_message_is_not_settled_before_its_letter_is_durable() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|_, _| Answer::rejected());
    logs.publish("a", 0);
    logs.full.store(true, Ordering::SeqCst);
    run_for(&logs, &hub, &small(), 600 * S).await;
    assert!(!drained(&logs) && letters(&logs).is_empty());
    assert_eq!(hub.tried.lock().unwrap().len(), 1, "the letter is repeated, not the delivery");
    logs.full.store(false, Ordering::SeqCst);
    run_for(&logs, &hub, &small(), 600 * S).await;
    assert!(drained(&logs));
    assert_eq!(letters(&logs).len(), 1);
}

/// A sender that never gets through fills the window: the others come through within seconds, its own messages wait
/// in its side queue, and all of them arrive in order when it heals.
async fn check_stuck_sender(stuck: impl Fn() -> Answer + Send + 'static, patience: Duration) {
    let logs = Arc::new(MemoryLogs::default());
    let hub =
        Scripted::new(move |sender, _| if sender == "a" { stuck() } else { Answer::delivered() });
    (0..500).for_each(|n| logs.publish("a", n));
    (0..100).for_each(|n| logs.publish("b", n));
    let story = async {
        sleep(patience).await;
        assert_eq!(hub.kept_of("b"), all(100), "b is not held up");
        assert!(logs.queue(&main_queue()).is_drained(), "the checkpoint is not held up");
        assert!(logs.side("a").is_some_and(|side| side.unsettled() > 400));
        hub.script(|_, _| Answer::delivered());
        (500..600).for_each(|n| logs.publish("a", n));
        sleep(1300 * S).await;
        assert!(drained(&logs), "the side queue is drained and deleted");
        assert_eq!(hub.first_arrivals()["a"], all(600));
        // The plain lane is back.
        logs.publish("a", 600);
        sleep(S).await;
        assert_eq!(hub.first_arrivals()["a"], all(601));
        assert!(logs.side("a").is_none());
    };
    tokio::join!(run_for(&logs, &hub, &small(), 2000 * S), story);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_is_throttled_for_ever_blocks_nobody() {
    check_stuck_sender(Answer::retry, 2 * S).await;
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_is_not_accepted_blocks_nobody() {
    let answer = || Answer::of(Outcome::Unauthenticated { detail: "not in scope".into() });
    check_stuck_sender(answer, 2 * S).await;
}

#[tokio::test(start_paused = true)]
async fn a_sender_whose_answers_are_withheld_blocks_nobody() {
    check_stuck_sender(|| Answer::retry().after(20 * S), 7 * S).await;
}

#[tokio::test(start_paused = true)]
async fn a_late_delivery_of_a_parked_sender_is_not_repeated() {
    let logs = Arc::new(MemoryLogs::default());
    let mut first = true;
    let hub = Scripted::new(move |sender, _| {
        let slow = sender == "a" && std::mem::take(&mut first);
        Answer::delivered().after(if slow { 15 * S } else { Duration::from_millis(10) })
    });
    (0..200).for_each(|n| logs.publish("a", n));
    (0..20).for_each(|n| logs.publish("b", n));
    let story = async {
        sleep(8 * S).await;
        assert_eq!(hub.kept_of("b"), all(20));
        assert_eq!(hub.kept_of("a"), all(8));
        assert!(logs.side("a").is_some());
    };
    tokio::join!(run_for(&logs, &hub, &small(), 60 * S), story);
    assert_eq!(hub.kept_of("a"), all(200), "each exactly once");
    assert!(drained(&logs));
}

/// Found by the property test: the late answer settled messages that had been moved in a second attempt.
#[tokio::test(start_paused = true)]
async fn a_late_delivery_on_a_disk_that_is_full_for_moments_settles_what_it_delivered() {
    for every in 2..20 {
        let logs = Arc::new(MemoryLogs::default());
        logs.refuse_every.store(every, Ordering::SeqCst);
        let mut first = true;
        let hub = Scripted::new(move |sender, _| {
            let slow = sender == "a" && std::mem::take(&mut first);
            Answer::delivered().after(if slow { 15 * S } else { Duration::from_millis(10) })
        });
        (0..200).for_each(|n| logs.publish("a", n));
        run_for(&logs, &hub, &small(), 600 * S).await;
        assert_eq!(hub.kept_of("a"), all(200), "each exactly once; every {every}th append fails");
        assert!(drained(&logs));
    }
}

/// Found by the property test: a read of the side queue ran ahead into an append under way, which then failed.
#[tokio::test(start_paused = true)]
async fn a_side_queue_is_drained_in_order_while_appends_to_it_fail() {
    for every in 2..30 {
        let logs = Arc::new(MemoryLogs::default());
        logs.refuse_every.store(every, Ordering::SeqCst);
        let mut fails = true;
        let hub = Scripted::new(move |_, _| match std::mem::take(&mut fails) {
            true => Answer::retry(),
            false => Answer::delivered().after(S / 100),
        });
        let publish = async {
            for n in 100..400 {
                logs.publish("a", n);
                sleep(S / 50).await;
            }
        };
        (0..100).for_each(|n| logs.publish("a", n));
        tokio::join!(run_for(&logs, &hub, &small(), 3000 * S), publish);
        assert_eq!(hub.kept_of("a"), all(400), "each exactly once; every {every}th append fails");
        assert!(drained(&logs));
    }
}

#[tokio::test(start_paused = true)]
async fn a_sender_stuck_for_long_frees_the_checkpoint() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(
        |sender, _| {
            if sender == "a" { Answer::retry() } else { Answer::delivered() }
        },
    );
    logs.publish("a", 0);
    (0..5).for_each(|n| logs.publish("b", n));
    run_for(&logs, &hub, &small(), 9 * S).await;
    assert_eq!(logs.queue(&main_queue()).unsettled(), 6, "not parked at once");
    run_for(&logs, &hub, &small(), 75 * S).await;
    assert!(logs.queue(&main_queue()).is_drained());
    assert_eq!(logs.side("a").map(|s| s.unsettled()), Some(1));
}

#[tokio::test(start_paused = true)]
async fn side_queues_found_at_the_start_come_before_newer_messages() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(
        |sender, _| {
            if sender == "a" { Answer::retry() } else { Answer::delivered() }
        },
    );
    (0..100).for_each(|n| logs.publish("a", n));
    run_for(&logs, &hub, &small(), 120 * S).await;
    assert_eq!(logs.side("a").map(|s| s.unsettled()), Some(100));
    (100..150).for_each(|n| logs.publish("a", n));
    hub.script(|_, _| Answer::delivered());
    run_for(&logs, &hub, &small(), 120 * S).await;
    assert_eq!(hub.kept_of("a"), all(150));
    assert!(drained(&logs));
}

#[tokio::test(start_paused = true)]
async fn a_bad_message_in_a_side_queue_is_cornered_there() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|_, _| Answer::retry());
    (0..40).for_each(|n| logs.publish("a", n));
    let garbage = Entry { payload: "\u{1}?".into(), since: None, ttl_secs: 0 };
    run_for(&logs, &hub, &small(), 120 * S).await;
    logs.side("a").unwrap().push(garbage);
    (40..60).for_each(|n| logs.publish("a", n));
    hub.script(|_, b| if b.contains(&5) { Answer::rejected() } else { Answer::delivered() });
    run_for(&logs, &hub, &small(), 120 * S).await;
    assert_eq!(hub.kept_of("a"), (0..60).filter(|n| *n != 5).collect::<Vec<_>>());
    let reasons: Vec<_> = letters(&logs).into_iter().map(|l| l.reason).collect();
    assert_eq!(reasons, ["bad", "undecodable"]);
    assert!(drained(&logs));
}

#[tokio::test(start_paused = true)]
async fn the_number_of_parked_senders_is_bounded() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|_, _| Answer::retry());
    for sender in ["a", "b", "c", "d"] {
        (0..5).for_each(|n| logs.publish(sender, n));
    }
    let config = Config { parked_lanes_max: 2, ..small() };
    run_for(&logs, &hub, &config, 300 * S).await;
    assert_eq!(logs.side_queues(&main_queue()).len(), 2);
    hub.script(|_, _| Answer::delivered());
    run_for(&logs, &hub, &config, 300 * S).await;
    assert!(drained(&logs));
    for sender in ["a", "b", "c", "d"] {
        assert_eq!(hub.first_arrivals()[sender], all(5));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_store_parks_nobody_and_loses_nothing() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(
        |sender, _| {
            if sender == "a" { Answer::retry() } else { Answer::delivered() }
        },
    );
    logs.full.store(true, Ordering::SeqCst);
    for n in 0..30 {
        logs.publish("a", n);
        logs.publish("b", n);
    }
    let story = async {
        sleep(300 * S).await;
        assert_eq!(hub.kept_of("b"), all(30));
        hub.script(|_, _| Answer::delivered());
        sleep(300 * S).await;
        assert_eq!(hub.first_arrivals()["a"], all(30), "delivered without a side queue");
        assert!(drained(&logs));
    };
    tokio::join!(run_for(&logs, &hub, &small(), 1000 * S), story);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_answers_and_settles_them() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|_, _| Answer::delivered().after(2 * S));
    (0..30).for_each(|n| logs.publish("a", n));
    let stop = CancellationToken::new();
    let story = async {
        sleep(S).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(pump(&logs, &hub, &small()).run(stop.clone()), story);
    assert_eq!(ended, Ok(()));
    assert_eq!(hub.kept_of("a"), all(8), "no new delivery after the stop");
    assert_eq!(logs.queue(&main_queue()).unsettled(), 22);
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_longer_than_its_grace() {
    for (answer, up) in [(3600 * S, true), (S, false)] {
        let logs = Arc::new(MemoryLogs::default());
        let hub = Scripted::new(move |_, _| Answer::delivered().after(answer));
        hub.set_up(up);
        logs.publish("a", 0);
        let stop = CancellationToken::new();
        let story = async {
            sleep(S).await;
            stop.cancel();
        };
        let started = tokio::time::Instant::now();
        let (ended, ()) = tokio::join!(pump(&logs, &hub, &small()).run(stop.clone()), story);
        assert_eq!(ended, Ok(()));
        assert!(started.elapsed() <= 5 * S);
    }
}
