//! What expires while it waits, wherever it waits: never delivered, counted once, and the settled place moves on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use super::double::{Answer, MemoryLogs, Scripted, main_queue};
use super::tests::{S, all, crash_after, drained, expired, letters, pump_of, small};
use super::{Config, Target};
use crate::deliver::{Deliver, Outcome};
use crate::metrics::Metrics;

/// A pump of the main queue, and what it counts.
struct World {
    logs: Arc<MemoryLogs>,
    hub: Arc<Scripted>,
    metrics: Arc<Metrics>,
}

impl World {
    fn new(hub: Arc<Scripted>) -> Self {
        Self { logs: Arc::default(), hub, metrics: Metrics::new("hub", "edge") }
    }

    fn publish(&self, sender: &str, n: u64, ttl_secs: u32) {
        self.logs.publish_to(&main_queue(), sender, n, ttl_secs);
    }

    fn run(&self, config: &Config, time: Duration) -> impl Future<Output = ()> + use<> {
        let target = Target::new(Arc::clone(&self.hub) as Arc<dyn Deliver>);
        let metrics = Arc::clone(&self.metrics);
        crash_after(time, pump_of(&self.logs, main_queue(), target, metrics, config))
    }

    fn unsettled(&self) -> u64 {
        self.logs.queue(&main_queue()).unsettled()
    }
}

#[tokio::test(start_paused = true)]
async fn what_had_expired_before_it_was_read_is_not_delivered() {
    let w = World::new(Scripted::new(|_, _| Answer::delivered()));
    (0..100).for_each(|n| w.publish("a", n, if n % 3 == 0 { 0 } else { 5 }));
    sleep(5 * S).await;
    w.run(&small(), 5 * S).await;
    assert_eq!(w.hub.kept_of("a"), (0..100).step_by(3).collect::<Vec<_>>());
    assert_eq!(expired(&w.metrics), 66);
    assert!(drained(&w.logs));
}

#[tokio::test(start_paused = true)]
async fn during_an_outage_the_settled_place_moves_on_although_nothing_is_delivered() {
    let w = World::new(Scripted::new(|_, _| Answer::delivered()));
    w.hub.set_up(false);
    // Several windows of it, of many ages.
    for n in 0..300 {
        w.publish(["a", "b", "c"][n as usize % 3], n, 30 + n as u32 / 10);
    }
    w.publish("z", 0, 0);
    (0..20).for_each(|n| w.publish("z", 1 + n, 40));
    let story = async {
        sleep(29 * S).await;
        assert_eq!(w.unsettled(), 321);
        sleep(71 * S).await;
        assert_eq!((w.unsettled(), expired(&w.metrics)), (21, 320), "z's first waits for ever");
        w.hub.set_up(true);
        sleep(5 * S).await;
        assert!(drained(&w.logs));
        assert_eq!(*w.hub.kept.lock().unwrap(), [("z".into(), 0)]);
    };
    tokio::join!(w.run(&small(), 200 * S), story);
    assert_eq!(expired(&w.metrics), 320, "each once");
}

/// The first message of a has no time to live, the others have little: they expire behind it, or with it between retries.
async fn check_stuck(answer: fn() -> Answer, full: bool, expected_tries: usize) {
    let w = World::new(Scripted::new(move |sender, _| match sender {
        "a" => answer(),
        _ => Answer::delivered(),
    }));
    w.logs.full.store(full, Ordering::SeqCst);
    (0..40).for_each(|n| w.publish("a", n, if n == 0 { 0 } else { 3 + n as u32 }));
    (0..10).for_each(|n| w.publish("b", n, 0));
    let story = async {
        sleep(1200 * S).await;
        // In a side queue it is found when its turn comes; in the window at once.
        assert!(!full || expired(&w.metrics) == 39, "{}", expired(&w.metrics));
        assert_eq!(w.hub.kept_of("b"), all(10));
        let tried = w.hub.tried.lock().unwrap().iter().filter(|(s, _)| s == "a").count();
        assert!(tried >= expected_tries, "{tried}");
        w.hub.script(|_, _| Answer::delivered());
        sleep(700 * S).await;
        assert_eq!(w.hub.kept_of("a"), [0]);
    };
    tokio::join!(w.run(&small(), 2000 * S), story);
    assert_eq!(expired(&w.metrics), 39, "each once");
    assert!(drained(&w.logs));
}

#[tokio::test(start_paused = true)]
async fn what_expires_behind_a_stuck_message_goes() {
    for full in [false, true] {
        check_stuck(Answer::retry, full, 10).await;
        check_stuck(|| Answer::of(Outcome::Unauthenticated { detail: String::new() }), full, 3)
            .await;
        check_stuck(|| Answer::of(Outcome::Offline), full, 5).await;
        check_stuck(|| Answer::retry().after(20 * S), full, 5).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_of_which_all_has_expired_parks_nothing_and_frees_the_window() {
    let w = World::new(Scripted::new(|_, _| Answer::retry()));
    (0..10).for_each(|n| w.publish("a", n, 4));
    w.run(&small(), 100 * S).await;
    assert!(drained(&w.logs));
    assert_eq!(w.logs.made.load(Ordering::SeqCst), 1, "no side queue was ever made");
    assert_eq!(expired(&w.metrics), 10);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_under_way_is_not_recalled() {
    for (answer, kept, dropped) in [
        (Answer::delivered as fn() -> Answer, 8, 12),
        (Answer::retry, 0, 20),
        (|| Answer::of(Outcome::Offline), 0, 20),
    ] {
        let w = World::new(Scripted::new(move |_, _| answer().after(10 * S)));
        (0..20).for_each(|n| w.publish("a", n, 5));
        w.run(&small(), 60 * S).await;
        assert_eq!(w.hub.kept_of("a"), all(kept));
        assert_eq!((expired(&w.metrics), w.hub.tried.lock().unwrap().len()), (dropped, 1));
        assert!(drained(&w.logs));
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_delivery_of_a_parked_sender_settles_what_it_delivered_and_nothing_else() {
    for full in [false, true] {
        let mut first = true;
        let w = World::new(Scripted::new(move |sender, _| {
            let slow = sender == "a" && std::mem::take(&mut first);
            Answer::delivered().after(if slow { 15 * S } else { S / 100 })
        }));
        w.logs.full.store(full, Ordering::SeqCst);
        (0..200).for_each(|n| w.publish("a", n, if n % 2 == 0 { 0 } else { 10 }));
        (0..20).for_each(|n| w.publish("b", n, 0));
        w.run(&small(), 3000 * S).await;
        let whole = all(8).into_iter().chain((8..200).step_by(2)).collect::<Vec<_>>();
        assert_eq!(w.hub.kept_of("a"), whole);
        assert_eq!(expired(&w.metrics), 96);
        assert!(drained(&w.logs) || full);
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_message_that_expires_while_it_is_cornered_takes_nobody_along() {
    for ttl in 1..12 {
        let w = World::new(Scripted::new(|_, batch| match batch.contains(&5) {
            true => Answer::rejected().after(S),
            false => Answer::delivered().after(S),
        }));
        (0..40).for_each(|n| w.publish("a", n, if n == 5 { ttl } else { 0 }));
        w.run(&small(), 100 * S).await;
        assert_eq!(w.hub.kept_of("a"), (0..40).filter(|n| *n != 5).collect::<Vec<_>>());
        assert_eq!(expired(&w.metrics) + letters(&w.logs).len() as u64, 1, "ttl {ttl}");
        assert!(drained(&w.logs));
    }
}

/// The store has removed the oldest, and has told it: they end without a word, and are not delivered any more.
#[tokio::test(start_paused = true)]
async fn what_the_store_has_removed_is_not_counted_again() {
    for ttl in [0, 20] {
        for removed in [1, 30, 100, 150] {
            let w = World::new(Scripted::new(|_, _| Answer::delivered()));
            w.hub.set_up(false);
            (0..100).for_each(|n| w.publish("a", n, ttl));
            let queue = w.logs.queue(&main_queue());
            let story = async {
                sleep(S).await;
                queue.remove(removed);
                let left = 100 - removed.min(100);
                assert_eq!(w.unsettled(), left);
                sleep(40 * S).await;
                assert_eq!(w.unsettled(), if ttl == 0 { left } else { 0 });
                w.hub.set_up(true);
                sleep(10 * S).await;
                assert_eq!(expired(&w.metrics), if ttl == 0 { 0 } else { left });
                w.publish("a", 100, ttl);
                sleep(S).await;
            };
            tokio::join!(w.run(&small(), 100 * S), story);
            let first = if ttl == 0 { removed.min(100) } else { 100 };
            assert_eq!(w.hub.kept_of("a"), (first..101).collect::<Vec<_>>());
            assert!(drained(&w.logs));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_side_queue_that_the_store_has_emptied_is_given_up() {
    for removed in [10, 1000] {
        let w = World::new(Scripted::new(|_, _| Answer::retry()));
        (0..100).for_each(|n| w.publish("a", n, 0));
        let story = async {
            sleep(100 * S).await;
            let side = w.logs.side("a").expect("a is parked");
            assert_eq!((w.unsettled(), side.unsettled()), (0, 100));
            side.remove(removed);
            w.hub.script(|_, _| Answer::delivered());
            sleep(100 * S).await;
            assert!(drained(&w.logs), "no side queue any more");
            w.publish("a", 100, 0);
        };
        tokio::join!(w.run(&small(), 300 * S), story);
        assert_eq!(w.hub.kept_of("a"), (removed.min(100)..101).collect::<Vec<_>>());
        assert_eq!(expired(&w.metrics), 0);
    }
}

/// No room for dead letters: the senders of the refused messages wait, in side queues, and nobody else.
#[tokio::test(start_paused = true)]
async fn without_room_for_dead_letters_only_the_senders_concerned_wait() {
    let is_bad = |sender: &str, n: u64| sender.starts_with("bad") && n == 3;
    let w = World::new(Scripted::new(move |sender, batch| {
        match batch.iter().any(|n| is_bad(sender, *n)) {
            true => Answer::rejected(),
            false => Answer::delivered(),
        }
    }));
    w.logs.full_of_letters.store(true, Ordering::SeqCst);
    // More of them than there are slots for parked deliveries.
    let bad: Vec<String> = (0..30).map(|n| format!("bad-{n}")).collect();
    for n in 0..20 {
        bad.iter().for_each(|sender| w.publish(sender, n, 0));
    }
    (0..500).for_each(|n| w.publish("z", n, 0));
    let story = async {
        sleep(60 * S).await;
        assert_eq!(w.hub.kept_of("z"), all(500), "z is not held up");
        assert_eq!(w.unsettled(), 0, "nor is the checkpoint");
        assert_eq!(w.hub.kept_of("bad-7"), all(3), "order is kept");
        assert!(letters(&w.logs).is_empty());
        w.logs.full_of_letters.store(false, Ordering::SeqCst);
        sleep(300 * S).await;
        assert!(drained(&w.logs));
        assert_eq!(letters(&w.logs).len(), 30, "one each");
        for sender in &bad {
            assert_eq!(w.hub.kept_of(sender), (0..20).filter(|n| *n != 3).collect::<Vec<_>>());
        }
    };
    tokio::join!(w.run(&small(), 500 * S), story);
}
