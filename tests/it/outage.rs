//! The hub goes away and comes back; the gateway restarts, with and without it.

use crate::support::{World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_an_outage_arrives_complete_and_in_order() {
    let world = World::new(4).await;
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(50).await;
    world.hub.go_away().await;
    fleet.progress(400).await;
    let before = world.hub.counts().received;
    world.hub.come_back().await.expect("the ports are still ours");
    eventually("the drain begins", async || world.hub.counts().received > before).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_backlog() {
    let world = World::new(2).await;
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    world.hub.go_away().await;
    fleet.progress(200).await;
    gateway.shutdown().await;
    let gateway = world.gateway().await;
    fleet.progress(50).await;
    world.hub.come_back().await.expect("the ports are still ours");
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_without_upstream_authenticates_from_the_stored_scope() {
    let world = World::new(2).await;
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    fleet.abort().await;
    gateway.shutdown().await;

    world.hub.go_away().await;
    let gateway = world.gateway().await;
    let offline = world.fleet(|d| d.nick.push_str("-offline"));
    offline.progress(50).await;
    world.hub.come_back().await.expect("the ports are still ours");
    offline.finish().await;
    let acked = offline.acked();
    eventually("what was acked offline is at the hub", async || {
        let arrived = world.hub.messages();
        let offline =
            |m: &&hub_double::Received| m.system_properties["message-id"].contains("-offline-");
        arrived.iter().filter(offline).count() as u64 >= acked
    })
    .await;
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_without_upstream_answers_3_until_the_scope_is_known() {
    use rumqttc::mqttbytes::v4::ConnectReturnCode;
    let world = World::new(1).await;
    world.hub.go_away().await;
    let gateway = world.gateway().await;
    let (_stream, code) = crate::device::connect(&world.device(0), 60).await.expect("an answer");
    assert_eq!(
        code,
        ConnectReturnCode::ServiceUnavailable,
        "3 makes the C SDK come back; 2, 4 and 5 do not"
    );
    world.hub.come_back().await.expect("the ports are still ours");
    let fleet = world.fleet(|_| {});
    fleet.progress(5).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    gateway.shutdown().await;
    world.end().await;
}
