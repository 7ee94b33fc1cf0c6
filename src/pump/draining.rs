//! How much of its window a pump uses towards an endpoint that is far away, on paused time.

use std::sync::Arc;
use std::time::Duration;

use super::double::{Answer, MemoryLogs, Scripted};
use super::tests::{drained, run_for};
use super::*;

const DELAY: Duration = Duration::from_millis(50);
const WINDOWS: u64 = 20;

/// A backlog of `senders`, each with its messages spread evenly, is drained at 90 % of window / delay or faster.
async fn drains_fast(senders: u64) {
    let config = Config::default();
    let count = WINDOWS * config.window_messages_max as u64;
    let logs = Arc::new(MemoryLogs::default());
    for n in 0..count {
        logs.publish(&format!("device-{}", n % senders), n / senders);
    }
    let hub = Scripted::new(|_, _| Answer::delivered().after(DELAY));
    run_for(&logs, &hub, &config, (DELAY * WINDOWS as u32).div_f64(0.9)).await;
    assert!(drained(&logs), "{senders} senders");
}

#[tokio::test(start_paused = true)]
async fn a_far_endpoint_gets_full_windows_from_few_senders() {
    for senders in [3, 50, 200] {
        drains_fast(senders).await;
    }
}

/// One message each: as many deliveries must be under way as the window has messages. (Between a quarter and half as
/// many senders as the window has messages fare worse, about half of it: a sender's second message waits for its first.)
#[tokio::test(start_paused = true)]
async fn a_far_endpoint_gets_full_windows_from_many_senders() {
    for senders in [1000, 1500] {
        drains_fast(senders).await;
    }
}
