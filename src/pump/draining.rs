//! How much of its window a pump uses towards an endpoint that is far away, on paused time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::double::{Answer, MemoryLogs, Scripted};
use super::tests::{drained, run_for};
use super::*;

const DELAY: Duration = Duration::from_millis(50);
const WINDOWS: u64 = 20;

/// A backlog of `senders`, each with its messages spread evenly, is drained at 90 % of window / delay or faster. The answers
/// to one window do not all come in the same moment, as they do not from a hub: within `spread`.
async fn drains_fast(senders: u64, spread: Duration) {
    let config = Config::default();
    let count = WINDOWS * config.window_messages_max as u64;
    let logs = Arc::new(MemoryLogs::default());
    for n in 0..count {
        logs.publish(&format!("device-{}", n % senders), n / senders);
    }
    let deliveries = AtomicU32::new(0);
    let hub = Scripted::new(move |_, _| {
        let nth = deliveries.fetch_add(1, Ordering::Relaxed) % 8;
        Answer::delivered().after(DELAY + spread * nth / 7)
    });
    run_for(&logs, &hub, &config, ((DELAY + spread) * WINDOWS as u32).div_f64(0.9)).await;
    assert!(drained(&logs), "{senders} senders, {spread:?}");
}

#[tokio::test(start_paused = true)]
async fn a_far_endpoint_gets_full_windows_from_few_senders() {
    for senders in [3, 50, 200, 500, 800] {
        drains_fast(senders, Duration::ZERO).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_far_endpoint_gets_full_windows_when_its_answers_trickle_in() {
    for senders in [3, 50, 200, 500, 800] {
        drains_fast(senders, Duration::from_millis(5)).await;
    }
}

/// One message each: as many deliveries must be under way as the window has messages.
#[tokio::test(start_paused = true)]
async fn a_far_endpoint_gets_full_windows_from_many_senders() {
    for senders in [1000, 1500] {
        drains_fast(senders, Duration::ZERO).await;
        drains_fast(senders, Duration::from_millis(5)).await;
    }
}

/// After a reconnect the hub lets senders in one after the other. Whoever waits in line is not stuck.
#[tokio::test(start_paused = true)]
async fn a_hub_that_lets_many_senders_in_slowly_parks_none_of_them() {
    const SENDERS: u64 = 1000;
    let logs = Arc::new(MemoryLogs::default());
    for n in 0..SENDERS * 10 {
        logs.publish(&format!("device-{}", n % SENDERS), n / SENDERS);
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut free_at = tokio::time::Instant::now();
    // IoT Hub S1: 100 to 120 new ones a second.
    let hub = Scripted::new(move |sender, _| {
        let now = tokio::time::Instant::now();
        if !seen.insert(sender.to_owned()) {
            return Answer::delivered().after(DELAY);
        }
        free_at = free_at.max(now) + Duration::from_secs(1) / 120;
        Answer::delivered().after(free_at - now + DELAY)
    });
    run_for(&logs, &hub, &Config::default(), Duration::from_secs(60)).await;
    assert!(drained(&logs));
    let made = logs.made.load(Ordering::SeqCst);
    assert_eq!(made, 1, "the main queue alone");
}
