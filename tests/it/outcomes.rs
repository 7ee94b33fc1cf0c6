//! What the hub answers, and what becomes of the messages.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hub_double::{Fault, FaultKind};

use crate::support::{World, eventually, metrics, series};

const THROTTLED: &str = "com.microsoft:device-container-throttled";

#[tokio::test(flavor = "multi_thread")]
async fn dispositions_that_come_late_lose_and_repeat_nothing() {
    let world = World::new(2).await;
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    let fault = world.hub.fault(FaultKind::WithholdDispositions { forever: false });
    // PUBACKs do not wait for the hub, and nothing is taken for delivered that the hub has not answered for.
    fleet.progress(200).await;
    let text = metrics(&gateway).await;
    let waiting = series(&text, "edgehub_queue_length", &["endpoint=\"iothub\""]);
    assert!(waiting >= 150.0, "unanswered messages stay in the queue: {waiting}");
    world.hub.clear_fault(fault);
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    assert_eq!(world.hub.counts().duplicates, 0);
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dispositions_that_never_come_are_asked_for_again() {
    let mut world = World::new(1).await;
    world.set("CloudOperationTimeoutSecs", "1");
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    let fault = world.hub.fault(FaultKind::WithholdDispositions { forever: true });
    fleet.progress(50).await;
    eventually("the gateway gave an operation up", async || {
        let text = metrics(&gateway).await;
        let retries = series(&text, "sphere_gateway_events_total", &["event=\"delivery_retry\""]);
        let offline = series(&text, "edgehub_offline_count_total", &[]);
        retries + offline >= 1.0
    })
    .await;
    world.hub.clear_fault(fault);
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    assert!(world.hub.counts().duplicates > 0, "the hub had taken what it did not answer for");
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_hub_is_tried_again_and_the_refusals_are_counted() {
    let world = World::new(3).await;
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    world.hub.fault(Fault::new(FaultKind::Throttle { per_second: None }).times(30));
    fleet.progress(100).await;
    world.hub.clear_faults();
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    let text = metrics(&gateway).await;
    let retries = series(&text, "sphere_gateway_events_total", &["delivery_retry", "throttled"]);
    assert!(retries >= 1.0, "throttling is counted by its name: {retries}\n{THROTTLED}");
    // Each retry is one of the reference's, too, once.
    let all = series(&text, "sphere_gateway_events_total", &["delivery_retry"])
        - series(&text, "sphere_gateway_events_total", &["delivery_retry", "reason=\"offline\""])
        - series(&text, "sphere_gateway_events_total", &["delivery_retry", "unauthenticated"]);
    let as_edge_hub = series(&text, "edgehub_operation_retry_total", &["operation=\"send\""]);
    assert_eq!(as_edge_hub, all);
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_refused_for_good_goes_aside_and_its_neighbours_arrive() {
    let world = World::new(2).await;
    let bad = "d0-25".to_owned();
    world.hub.fault(FaultKind::RejectMessage {
        condition: "com.microsoft:argument-error".to_owned(),
        message_id: Some(bad),
        property: None,
    });
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    let first = fleet.devices[0].clone();
    eventually("the bad message is acked, and some after it", async || {
        first.1.acked.load(Ordering::Relaxed) > 60
    })
    .await;
    fleet.finish().await;
    let (acked, other) = (first.1.acked.load(Ordering::Relaxed), &fleet.devices[1]);
    let expected: Vec<u64> = (1..=acked).filter(|n| *n != 25).collect();
    eventually("all but the bad one are at the hub", async || {
        world.arrived(&first.0).len() >= expected.len()
    })
    .await;
    assert_eq!(world.arrived(&first.0), expected, "in order, once, without the bad one");
    eventually("the other device's are all there", async || {
        world.arrived(&other.0).len() as u64 == other.1.acked.load(Ordering::Relaxed)
    })
    .await;

    let text = metrics(&gateway).await;
    let aside = series(&text, "sphere_gateway_events_total", &["event=\"dead_letter\""]);
    assert_eq!(aside, 1.0, "counted:\n{text}");
    let kept = series(&text, "edgehub_queue_length", &["endpoint=\"deadletter\""]);
    assert_eq!(kept, 1.0, "kept on disk");
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stuck_device_does_not_hold_up_the_others() {
    let mut world = World::new(3).await;
    // The stuck one's operations end after 2 s instead of 20, so that the test sees the retries too.
    world.set("CloudOperationTimeoutSecs", "2");
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    let stuck = fleet.devices[0].0.clone();
    let fault = Fault::new(FaultKind::Throttle { per_second: None }).for_device(&stuck);
    let fault = world.hub.fault(fault);
    let others =
        || world.arrived(&fleet.devices[1].0).len() + world.arrived(&fleet.devices[2].0).len();
    // Far more of the stuck device's messages than the pump's window holds.
    let goal = others() + 800;
    eventually("the others go on", async || others() >= goal).await;
    let stuck_acked = fleet.devices[0].1.acked.load(Ordering::Relaxed);
    let stuck_arrived = world.arrived(&stuck).len() as u64;
    assert!(
        stuck_arrived + 300 < stuck_acked,
        "the stuck one was stuck: {stuck_arrived} of {stuck_acked}"
    );
    world.hub.clear_fault(fault);
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_renewed_on_the_live_connection() {
    let mut world = World::new(2).await;
    world.set("upstreamSettings__sasLifetimeSecs", "5");
    let gateway = world.gateway().await;
    let fleet = world.fleet(|d| d.interval = Duration::from_millis(50));
    fleet.progress(5).await;
    eventually("links are there", async || world.hub.counts().links_attached >= 2).await;
    let before = world.hub.counts();
    eventually("each token is put again", async || {
        world.hub.counts().tokens_accepted >= before.tokens_accepted + 4
    })
    .await;
    let after = world.hub.counts();
    assert_eq!(after.connections, before.connections, "the connection stays");
    assert_eq!(after.links_attached, before.links_attached, "no link is interrupted");
    assert_eq!(after.tokens_refused, 0);
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    assert_eq!(world.hub.counts().duplicates, 0);
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_devices_share_one_connection() {
    let world = World::new(10).await;
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(200).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    let numbers: std::collections::BTreeSet<u64> =
        world.hub.messages().iter().map(|m| m.connection_no).collect();
    assert_eq!(numbers.len(), 1, "connections that carried messages: {numbers:?}");
    gateway.shutdown().await;
    world.end().await;
}
