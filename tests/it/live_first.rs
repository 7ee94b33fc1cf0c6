//! Fresh messages of a live-first route have a queue of their own while the hub is reached, and lose nothing by it.

use std::collections::HashSet;

use sphere_gateway::gateway::Gateway;

use crate::support::{Fleet, World, eventually, get, metrics, series};

/// Waits until the gate of the one route has turned for `reason`, `times` in all.
async fn turned(gateway: &Gateway, reason: &str, times: f64) {
    let reason = format!("reason=\"{reason}\"");
    eventually(&format!("the gate turns: {reason}"), async || {
        let labels = ["event=\"live_gate\"", reason.as_str()];
        series(&metrics(gateway).await, "sphere_gateway_events_total", &labels) >= times
    })
    .await;
}

/// Waits until everything acknowledged is at the hub. Order is promised within a class only, so it is not looked at.
async fn all_arrive(world: &World, fleet: &Fleet) {
    for (device, ledger) in &fleet.devices {
        let acked = ledger.acked.load(std::sync::atomic::Ordering::Relaxed);
        eventually(&format!("all {acked} acked messages of {device:.8} arrive"), async || {
            let arrived: HashSet<u64> = world.arrived(device).into_iter().collect();
            (1..=acked).all(|n| arrived.contains(&n))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_messages_pass_while_the_hub_is_reached_and_join_the_backlog_while_it_is_not() {
    // Every priority has a gate.
    const GATES: f64 = 11.0;
    let mut world = World::new(2).await;
    world.set("storeSettings__liveFirst", "true");
    let gateway = world.gateway().await;
    let queue = |name: &str| world.storage().join("queues").join(name);
    turned(&gateway, "opened", GATES).await;
    let fleet = world.fleet(|_| {});
    fleet.progress(50).await;
    assert!(queue("iothub.10-live").is_dir() && !queue("iothub.10").exists());
    world.hub.go_away().await;
    turned(&gateway, "shut_offline", GATES).await;
    fleet.progress(100).await;
    assert!(queue("iothub.10").is_dir(), "what comes in meanwhile is backlog");
    world.hub.come_back().await.expect("the ports are still ours");
    turned(&gateway, "opened", 2.0 * GATES).await;
    fleet.progress(50).await;
    fleet.finish().await;
    all_arrive(&world, &fleet).await;
    let queues = get(&gateway, "/queues").await;
    assert!(queues.starts_with("HTTP/1.1 200") && queues.contains("\"whenFull\":\"reject\""));
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_option_there_is_no_live_queue() {
    let world = World::new(1).await;
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    assert!(!world.storage().join("queues/iothub.10-live").exists());
    let labels = ["event=\"live_gate\""];
    assert_eq!(series(&metrics(&gateway).await, "sphere_gateway_events_total", &labels), 0.0);
    gateway.shutdown().await;
    world.end().await;
}
