//! Which of an endpoint's pumps sends first, and that none waits for what cannot be sent.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Target;
use super::double::{Answer, MemoryLogs, Scripted, main_queue};
use super::tests::{S, all, crash_after, pump_of, small};
use crate::deliver::{Deliver, Outcome};
use crate::metrics::Metrics;
use crate::store::QueueId;

fn queue(priority: u8, live: bool) -> QueueId {
    QueueId { priority, live, ..main_queue() }
}

/// Runs a pump for each of `queues` on one endpoint.
async fn run(logs: &Arc<MemoryLogs>, hub: &Arc<Scripted>, queues: &[QueueId], time: Duration) {
    let target = Target::new(Arc::clone(hub) as Arc<dyn Deliver>);
    let pumps: Vec<_> = queues
        .iter()
        .map(|id| {
            let metrics = Metrics::new("hub", "edge");
            pump_of(logs, id.clone(), target.clone(), metrics, &small())
        })
        .collect();
    futures_util::future::join_all(pumps.into_iter().map(|pump| crash_after(time, pump))).await;
}

fn tries(hub: &Scripted) -> Vec<String> {
    hub.tried.lock().unwrap().iter().map(|(sender, _)| sender.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_rank_is_sent_first_whatever_came_first() {
    let order = [queue(0, true), queue(0, false), queue(3, false), queue(10, true), main_queue()];
    for (high, first) in order.iter().enumerate() {
        for second in &order[high + 1..] {
            let logs = Arc::new(MemoryLogs::default());
            let hub = Scripted::new(|_, _| Answer::delivered());
            for n in 0..200 {
                for sender in ["low-1", "low-2"] {
                    logs.publish_to(second, sender, n, 0);
                }
            }
            for n in 0..200 {
                logs.publish_to(first, "high-1", n, 0);
                logs.publish_to(first, "high-2", n, 0);
            }
            // Made and run in the wrong order, and after an outage.
            hub.set_up(false);
            let up = async {
                sleep(S).await;
                hub.set_up(true);
            };
            let both = [second.clone(), first.clone()];
            tokio::join!(run(&logs, &hub, &both, 30 * S), up);
            let senders = tries(&hub);
            let last_high = senders.iter().rposition(|s| s.starts_with("high")).unwrap();
            let first_low = senders.iter().position(|s| s.starts_with("low")).unwrap();
            assert!(first_low > last_high, "{first} before {second}: {senders:?}");
            for sender in ["low-1", "low-2", "high-1", "high-2"] {
                assert_eq!(hub.kept_of(sender), all(200));
            }
        }
    }
}

/// Stuck senders of priority 0 do not hold priority 10 up, however they are stuck and however many there are.
async fn check_stuck(senders: u64, stuck: fn() -> Answer) {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(move |sender, _| match sender {
        "z" => Answer::delivered(),
        _ => stuck(),
    });
    for n in 0..40 {
        (0..senders).for_each(|s| logs.publish_to(&queue(0, false), &format!("stuck-{s}"), n, 0));
    }
    (0..400).for_each(|n| logs.publish("z", n));
    let story = async {
        sleep(60 * S).await;
        assert_eq!(hub.kept_of("z"), all(400), "{senders} stuck");
    };
    let both = [queue(0, false), main_queue()];
    tokio::join!(run(&logs, &hub, &both, 61 * S), story);
}

#[tokio::test(start_paused = true)]
async fn what_is_stuck_holds_nobody_up() {
    for senders in [1, 5, 200] {
        check_stuck(senders, Answer::retry).await;
        check_stuck(senders, || Answer::of(Outcome::Unauthenticated { detail: String::new() }))
            .await;
        check_stuck(senders, || Answer::retry().after(20 * S)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_trickle_of_the_first_rank_leaves_the_backlog_the_rest_of_the_way() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|_, _| Answer::delivered().after(S / 10));
    let live = queue(10, true);
    (0..2000).for_each(|n| logs.publish("backlog", n));
    // There is always a delivery of the live queue under way.
    let trickle = async {
        for n in 0..2000 {
            logs.publish_to(&live, &format!("device-{}", n % 5), n / 5, 0);
            sleep(S / 40).await;
        }
        assert_eq!(hub.kept_of("backlog"), all(2000));
    };
    let both = [live.clone(), main_queue()];
    tokio::join!(run(&logs, &hub, &both, 60 * S), trickle);
    assert_eq!(hub.kept_of("device-3"), all(400));
}

#[tokio::test(start_paused = true)]
async fn what_is_fresh_waits_for_no_more_than_the_deliveries_under_way() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|_, _| Answer::delivered().after(S));
    for n in 0..300 {
        ["b-1", "b-2", "b-3"].iter().for_each(|sender| logs.publish(sender, n));
    }
    let high = queue(2, false);
    let story = async {
        for n in 0..10 {
            sleep(S * 3 / 2).await;
            (0..20).for_each(|m| logs.publish_to(&high, "fresh", n * 20 + m, 0));
            let before = tries(&hub).len();
            // Its first two batches take two seconds; behind them there is a third, so nobody else begins meanwhile.
            sleep(S / 10).await;
            assert_eq!(tries(&hub)[before..], ["fresh"]);
            sleep(S * 19 / 10).await;
            assert!(tries(&hub)[before..].iter().filter(|s| *s == "fresh").count() >= 2);
        }
    };
    let both = [high.clone(), main_queue()];
    tokio::join!(run(&logs, &hub, &both, 400 * S), story);
    assert_eq!(hub.kept_of("fresh"), all(200));
    assert_eq!(hub.kept_of("b-2"), all(300));
}
