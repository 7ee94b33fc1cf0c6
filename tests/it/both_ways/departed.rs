//! What is kept of clients that are the gateway's no longer.

use hub_double::DeviceSpec;
use serde_json::json;

use super::speaker::Who;
use super::{end, until_reported, world};
use crate::site::EDGE;
use crate::support::{PATIENCE, World, eventually, metrics, series};

/// How many files are kept in a folder of the storage.
fn files(world: &World, folder: &str) -> usize {
    let entries = std::fs::read_dir(world.storage().join(folder)).into_iter().flatten();
    entries.filter(|entry| entry.as_ref().is_ok_and(|e| e.path().extension().is_none())).count()
}

/// Has the gateway ask the hub who is in its scope.
async fn refresh(world: &World, ids: [&str; 2]) {
    let method = "RefreshDeviceScopeIdentityCache";
    let payload = json!({ "deviceIds": ids });
    let answer = world.hub.call_method(EDGE, Some("$edgeHub"), method, &payload, PATIENCE).await;
    assert_eq!(answer.expect("an answer").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_twins_of_who_left_the_scope_go_and_those_of_who_is_disabled_stay() {
    let world = world().await;
    let (stays, goes) = (Who::device(&world, 0), Who::device(&world, 1));
    let gateway = world.gateway().await;
    for who in [&stays, &goes] {
        let mut device = who.connect(false).await;
        device.subscribe_as_sphere().await;
        // Kept also if the hub is not reached yet.
        assert_eq!(device.report("1", &json!({"a": 1})).await.0, 204);
        until_reported(&world, &who.id, "a", |reported| reported["a"] == 1).await;
        device.vanish();
    }
    eventually("nothing is pending", async || {
        let text = metrics(&gateway).await;
        let gauges = ["sphere_gateway_twins_pending", "sphere_gateway_twins_busy"];
        gauges.iter().all(|gauge| series(&text, gauge, &[]) == 0.0)
    })
    .await;
    let kept = || (files(&world, "sessions"), files(&world, "twins"));
    eventually("both are kept", async || kept() == (2, 2)).await;
    world.hub.put_device(DeviceSpec::certificate(&stays.id).child_of(EDGE).disabled());
    world.hub.delete_device(&goes.id);
    refresh(&world, [&stays.id, &goes.id]).await;
    eventually("one is kept", async || kept() == (1, 1)).await;
    world.hub.put_device(DeviceSpec::certificate(&stays.id).child_of(EDGE));
    world.hub.put_device(DeviceSpec::certificate(&goes.id).child_of(EDGE));
    refresh(&world, [&stays.id, &goes.id]).await;
    assert!(stays.connect(false).await.present, "it was only disabled");
    let mut device = goes.connect(false).await;
    assert!(!device.present, "it is another one");
    device.subscribe_as_sphere().await;
    eventually("it has a session", async || files(&world, "sessions") == 2).await;
    // Made anew while nobody looks: it never was missing.
    world.hub.delete_device(&goes.id);
    world.hub.put_device(DeviceSpec::certificate(&goes.id).child_of(EDGE));
    refresh(&world, [&stays.id, &goes.id]).await;
    eventually("its session is gone", async || files(&world, "sessions") == 1).await;
    let text = metrics(&gateway).await;
    for reason in ["not_in_scope", "made_anew"] {
        let reason = format!("reason=\"{reason}\"");
        let labels = ["event=\"departed\"", &*reason];
        assert_eq!(series(&text, "sphere_gateway_events_total", &labels), 1.0, "{reason}");
    }
    end(world, gateway).await;
}
