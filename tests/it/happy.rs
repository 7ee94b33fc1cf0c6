//! The main job without trouble.

use crate::support::{World, eventually, metrics, series};

#[tokio::test(flavor = "multi_thread")]
async fn telemetry_reaches_the_hub_under_each_device_s_own_identity() {
    let world = World::new(3).await;
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(100).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    assert_eq!(world.hub.counts().duplicates, 0);

    for message in world.hub.messages() {
        assert_eq!(message.annotations["iothub-connection-device-id"], message.device_id);
        assert_eq!(message.module_id, None);
        assert_eq!(message.system_properties["content-type"], "application/json");
        assert_eq!(message.system_properties["content-encoding"], "utf-8");
        let seq = message.application_properties["seq"].clone().expect("a value");
        assert!(message.system_properties["message-id"].ends_with(&format!("-{seq}")));
        let body: serde_json::Value =
            serde_json::from_slice(&message.body).expect("the body as it was sent");
        assert_eq!(body["seq"].to_string(), seq);
    }

    let acked = fleet.acked() as f64;
    let text = metrics(&gateway).await;
    assert_eq!(series(&text, "edgehub_messages_received_total", &[]), acked);
    eventually("the queue's gauge is back at 0", async || {
        series(&metrics(&gateway).await, "edgehub_queue_length", &["endpoint=\"iothub\""]) == 0.0
    })
    .await;
    let text = metrics(&gateway).await;
    assert_eq!(series(&text, "edgehub_messages_sent_total", &["to=\"upstream\""]), acked);
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_routes_that_match_send_a_message_once() {
    let mut world = World::new(1).await;
    let twin = world.storage().with_file_name("twin.json");
    std::fs::write(
        &twin,
        r#"{"schemaVersion":"1.1","routes":{
            "all":"FROM /messages/* INTO $upstream",
            "leaves":"FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream",
            "broken":"FROM /messages/* WHERE ) INTO $upstream"},
            "storeAndForwardConfiguration":{"timeToLiveSecs":7200}}"#,
    )
    .expect("a twin file");
    world.set("edgeHubTwinFile", &twin.display().to_string());
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(30).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    let counts = world.hub.counts();
    assert_eq!((counts.received, counts.duplicates), (fleet.acked(), 0));
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_route_selects_is_acked_dropped_and_counted() {
    let mut world = World::new(1).await;
    let twin = world.storage().with_file_name("twin.json");
    std::fs::write(
        &twin,
        r#"{"schemaVersion":"1.1","routes":{"modules":"FROM /messages/modules/* INTO $upstream"},
            "storeAndForwardConfiguration":{"timeToLiveSecs":7200}}"#,
    )
    .expect("a twin file");
    world.set("edgeHubTwinFile", &twin.display().to_string());
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(10).await;
    fleet.finish().await;
    let text = metrics(&gateway).await;
    let dropped = series(&text, "edgehub_messages_dropped_total", &["reason=\"no_route\""]);
    assert_eq!(dropped, fleet.acked() as f64);
    assert_eq!(world.hub.counts().received, 0);
    gateway.shutdown().await;
    world.end().await;
}
