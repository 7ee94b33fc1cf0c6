//! Both ways: twins, direct methods, cloud-to-device messages and messages between modules, through the whole gateway against
//! the hub double, online and over outages and restarts.

mod book;
mod cold;
mod departed;
mod inputs;
mod kill;
mod memory;
mod modules;
mod player;
mod schedule;
mod sequence;
mod speaker;
mod unheard;

use std::time::Duration;

use hub_double::{Ack, C2dMessage, C2dState, FeedbackStatus, MethodAnswer};
use serde_json::{Value, json};
use sphere_gateway::gateway::Gateway;

use self::speaker::{Speaker, Who};
use crate::support::{PATIENCE, World, eventually, metrics, series};

async fn world() -> World {
    let mut world = World::new(2).await;
    world.set("ReportedPropertiesSyncFrequencySecs", "1");
    world.set("MinTwinSyncPeriodSecs", "1");
    world
}

async fn end(world: World, gateway: Gateway) {
    gateway.shutdown().await;
    world.end().await;
}

/// A method call that is tried until the device's links stand.
async fn call(world: &World, device: &str, name: &str, payload: &Value) -> MethodAnswer {
    let limit = Duration::from_secs(60);
    let target = (device, None);
    let answer = world.hub.call_method_when_connected(
        target,
        name,
        payload,
        limit,
        Duration::from_secs(120),
    );
    answer.await.unwrap_or_else(|e| panic!("{name}: {e}"))
}

async fn until_reported(world: &World, device: &str, what: &str, is: impl Fn(&Value) -> bool) {
    let twin = world.hub.wait_for_twin(device, None, |twin| is(&twin["properties"]["reported"]));
    tokio::time::timeout(PATIENCE, twin).await.unwrap_or_else(|_| panic!("not reported: {what}"));
}

/// Waits for a patch of desired properties: topic and body agree on the version.
async fn desired(speaker: &mut Speaker) -> Value {
    let patch = speaker.publish_of("$iothub/twin/PATCH/properties/desired/?$version=").await;
    if patch.pkid != 0 {
        speaker.acknowledge(&patch).await;
    }
    let body: Value = serde_json::from_slice(&patch.payload).expect("JSON");
    let version = patch.topic.split("$version=").nth(1).expect("a version");
    assert_eq!(body["$version"].to_string(), version, "{}", patch.topic);
    assert!(body.get("$metadata").is_none());
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_has_its_twin_online_and_over_an_outage() {
    let world = world().await;
    let who = Who::device(&world, 0);
    world.hub.put_desired(&who.id, None, &json!({"led": true}));
    let gateway = world.gateway().await;
    // Before, nothing is known of the twin, and it is answered as during an outage.
    eventually("the hub is reached", async || {
        series(&metrics(&gateway).await, "sphere_gateway_upstream_connected", &[]) == 1.0
    })
    .await;
    let mut device = who.connect(true).await;
    device.subscribe_as_sphere().await;
    let (status, twin) = device.get_twin("1").await;
    assert_eq!((status, &twin["desired"]["led"]), (200, &json!(true)));
    assert!(twin["desired"]["$version"].is_u64() && twin["reported"]["$version"].is_u64());
    assert!(twin.get("properties").is_none() && twin["desired"].get("$metadata").is_none());

    let (status, version) = device.report("2", &json!({"temp": 20, "x": {"y": 1}})).await;
    assert!(status == 204 && version.is_some(), "{status} {version:?}");
    until_reported(&world, &who.id, "temp 20", |r| r["temp"] == 20 && r["x"]["y"] == 1).await;

    // The links of changes may not stand yet: what is missed before is told as a difference.
    world.hub.patch_desired(&who.id, None, &json!({"led": false}));
    let patch = desired(&mut device).await;
    assert_eq!(patch["led"], false);

    // Away: what was kept is answered, patches are taken, and what changed meanwhile comes as one patch.
    world.hub.go_away().await;
    let (status, version) = device.report("3", &json!({"temp": 21, "x": {"y": null}})).await;
    assert!(status == 204 && version.is_some(), "{status} {version:?}");
    let (status, _) = device.report("4", &json!({"z": 1})).await;
    assert_eq!(status, 204);
    let (status, twin) = device.get_twin("5").await;
    assert_eq!(status, 200);
    assert_eq!((&twin["reported"]["temp"], &twin["desired"]["led"]), (&json!(21), &json!(false)));
    let (status, _) = device.report("6", &json!({"bad.name": 1})).await;
    assert_eq!(status, 400);
    world.hub.patch_desired(&who.id, None, &json!({"led": true}));
    world.hub.patch_desired(&who.id, None, &json!({"more": 7}));
    world.hub.come_back().await.expect("its ports");
    let patch = desired(&mut device).await;
    assert_eq!((&patch["led"], &patch["more"]), (&json!(true), &json!(7)), "one patch: {patch}");
    until_reported(&world, &who.id, "temp 21", |r| {
        r["temp"] == 21 && r["z"] == 1 && r["x"].get("y").is_none()
    })
    .await;
    let text = metrics(&gateway).await;
    assert!(series(&text, "edgehub_gettwin_total", &[]) >= 1.0, "counted");
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_reported_offline_survives_a_restart_and_is_pushed() {
    let world = world().await;
    let who = Who::device(&world, 0);
    let gateway = world.gateway().await;
    let mut device = who.connect(true).await;
    device.subscribe_as_sphere().await;
    assert_eq!(device.get_twin("1").await.0, 200);
    world.hub.go_away().await;
    for n in 0..5 {
        assert_eq!(
            device.report(&n.to_string(), &json!({"n": n, &format!("k{n}"): n})).await.0,
            204
        );
    }
    device.vanish();
    gateway.shutdown().await;
    world.hub.come_back().await.expect("its ports");
    let gateway = world.gateway().await;
    // Nobody is connected: it is pushed all the same.
    until_reported(&world, &who.id, "all five", |r| {
        r["n"] == 4 && (0..5).all(|n| r[format!("k{n}")] == n)
    })
    .await;
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_are_called_and_answered_before_and_after_an_outage() {
    let world = world().await;
    let who = Who::device(&world, 0);
    let gateway = world.gateway().await;
    let mut device = who.connect(true).await;
    device.subscribe_as_sphere().await;
    let payload = json!({"a": [1, "ü"]});
    let (answer, asked) = tokio::join!(
        call(&world, &who.id, "blink", &payload),
        device.answer_method(-7, r#"{"ok":true}"#)
    );
    assert_eq!((answer.status, answer.payload), (-7, json!({"ok": true})));
    assert_eq!(asked.0, "blink");
    assert_eq!(serde_json::from_str::<Value>(&asked.1).expect("JSON"), payload);
    // Two at a time, answered the other way round; late and twice harm nobody.
    let answers = async {
        let calls = [device.method_call().await, device.method_call().await];
        for call in [&calls[1], &calls[0], &calls[0]] {
            let name = call.topic.split('/').nth(3).expect("a name");
            let rid = call.topic.split("$rid=").nth(1).expect("a request id");
            let topic = format!("$iothub/methods/res/200/?$rid={rid}");
            device.publish_qos0(&topic, format!("\"{name}\"")).await;
        }
    };
    let null = Value::Null;
    let (a, b) = (call(&world, &who.id, "a", &null), call(&world, &who.id, "b", &null));
    let (a, b, ()) = tokio::join!(a, b, answers);
    assert_eq!((a.payload, b.payload), (json!("a"), json!("b")));
    eventually("the answer that came twice is counted", async || {
        let labels = ["event=\"method_response\"", "reason=\"not_asked_for\""];
        series(&metrics(&gateway).await, "sphere_gateway_events_total", &labels) == 1.0
    })
    .await;

    world.hub.go_away().await;
    world.hub.come_back().await.expect("its ports");
    let (answer, _) =
        tokio::join!(call(&world, &who.id, "again", &null), device.answer_method(200, ""));
    assert_eq!(answer.status, 200);
    let text = metrics(&gateway).await;
    assert_eq!(series(&text, "edgehub_direct_methods_total", &["from=\"upstream\""]), 4.0);
    // Who is gone is not found, and by the hub itself.
    device.vanish();
    eventually("the links of a device that is gone are gone", async || {
        let limit = Duration::from_secs(5);
        world.hub.call_method(&who.id, None, "x", &null, limit).await.is_err()
    })
    .await;
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_to_device_messages_come_once_are_completed_by_their_puback_and_wait_for_their_device()
 {
    let world = world().await;
    let who = Who::device(&world, 0);
    let gateway = world.gateway().await;
    let mut device = who.connect(false).await;
    device.subscribe_as_sphere().await;
    let message =
        C2dMessage::new("hello").id("m-1").property("colour", "deep blue/ü&=").ack(Ack::Full);
    world.hub.send_c2d(&who.id, message).expect("room");
    let prefix = format!("devices/{}/messages/devicebound/", who.id);
    let got = device.publish_of(&prefix).await;
    assert_eq!(got.payload, "hello");
    for part in ["%24.mid=m-1", "iothub-ack=full", "colour=deep%20blue%2F%C3%BC%26%3D", "%24.to="] {
        assert!(got.topic.contains(part), "{part} in {}", got.topic);
    }
    assert_eq!(world.hub.c2d(&who.id)[0].state, C2dState::Invisible, "not before its PUBACK");
    device.acknowledge(&got).await;
    let feedback = tokio::time::timeout(PATIENCE, world.hub.wait_for_feedback(1)).await;
    let feedback = feedback.expect("feedback");
    assert_eq!(
        (feedback[0].status_code, &*feedback[0].original_message_id),
        (FeedbackStatus::Success, "m-1")
    );

    // Not acknowledged, and gone: it comes again to the session that is kept, without a SUBSCRIBE; so does what was sent
    // meanwhile.
    world.hub.send_c2d(&who.id, C2dMessage::new("two").id("m-2")).expect("room");
    let lost = device.publish_of(&prefix).await;
    assert_eq!(lost.payload, "two");
    device.vanish();
    // A message that is on its way while its link ends waits for the end of its lock, a minute.
    let away = world.hub.wait_for_connections(|all| {
        all.iter().flat_map(|info| &info.links).all(|link| !link.ends_with("cloud-to-device"))
    });
    tokio::time::timeout(PATIENCE, away).await.expect("its link ends");
    world.hub.send_c2d(&who.id, C2dMessage::new("three").id("m-3")).expect("room");
    let mut device = who.connect(false).await;
    assert!(device.present, "the session is kept");
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let got = device.publish_of(&prefix).await;
        device.acknowledge(&got).await;
        bodies.push(String::from_utf8(got.payload.to_vec()).expect("text"));
    }
    bodies.sort();
    assert_eq!(bodies, ["three", "two"]);
    let all = world
        .hub
        .wait_for_c2d(&who.id, |all| all.iter().all(|record| record.state == C2dState::Completed));
    let all = tokio::time::timeout(PATIENCE, all).await.expect("all completed");
    assert_eq!(all.len(), 3);
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_its_subscriptions_survives_a_restart() {
    let world = world().await;
    let who = Who::device(&world, 0);
    let gateway = world.gateway().await;
    let mut device = who.connect(false).await;
    assert!(!device.present);
    device.subscribe_as_sphere().await;
    gateway.shutdown().await;
    let gateway = world.gateway().await;
    let mut device = who.connect(false).await;
    assert!(device.present, "the session is kept");
    let (answer, _) =
        tokio::join!(call(&world, &who.id, "a", &Value::Null), device.answer_method(200, "{}"));
    assert_eq!(answer.status, 200);
    // A clean one begins anew, and ends what was kept.
    let device = who.connect(true).await;
    assert!(!device.present);
    device.vanish();
    assert!(!who.connect(false).await.present);
    end(world, gateway).await;
}
