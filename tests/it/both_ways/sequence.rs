//! The sequence of an Azure Sphere device, packet by packet (`iothub-protocol.md` J1): three filters in one SUBSCRIBE, requests
//! and answers at QoS 0, desired properties subscribed to when the twin is here.

use hub_double::{C2dMessage, C2dState};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::SubscribeReasonCode;
use serde_json::{Value, json};

use super::speaker::Who;
use super::{call, desired, end, until_reported, world};
use crate::support::{PATIENCE, eventually, metrics, series};

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_asks_at_qos_0_is_answered_at_qos_0_and_gets_messages_at_qos_1() {
    const GRANTED: [SubscribeReasonCode; 2] = [
        SubscribeReasonCode::Success(QoS::AtMostOnce),
        SubscribeReasonCode::Success(QoS::AtLeastOnce),
    ];
    let world = world().await;
    let who = Who::device(&world, 0);
    world.hub.put_desired(&who.id, None, &json!({"led": true}));
    let gateway = world.gateway().await;
    eventually("the hub is reached", async || {
        series(&metrics(&gateway).await, "sphere_gateway_upstream_connected", &[]) == 1.0
    })
    .await;
    let mut device = who.connect(false).await;
    let devicebound = format!("devices/{}/messages/devicebound/#", who.id);
    let (at_most, at_least) = (QoS::AtMostOnce, QoS::AtLeastOnce);
    let first = [
        (&*devicebound, at_least),
        ("$iothub/twin/res/#", at_most),
        ("devices/another/messages/devicebound/#", at_least),
        ("$iothub/methods/POST/#", at_most),
    ];
    // One code a filter, in order; what is refused takes nothing from the others.
    let codes = device.subscribe_to(&first).await;
    let expected = [GRANTED[1], GRANTED[0], SubscribeReasonCode::Failure, GRANTED[0]];
    assert_eq!(codes, expected);

    device.publish_qos0("$iothub/twin/GET/?$rid=4", "").await;
    let answer = device.publish_of("$iothub/twin/res/").await;
    assert_eq!((answer.qos, &*answer.topic), (at_most, "$iothub/twin/res/200/?$rid=4"));
    let twin: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    assert_eq!(twin["desired"]["led"], true);
    let codes = device.subscribe_to(&[("$iothub/twin/PATCH/properties/desired/#", at_most)]).await;
    assert_eq!(codes, [GRANTED[0]]);
    device.publish(&format!("devices/{}/messages/events/a=b", who.id), "{}").await;
    let (status, version) = device.report("5", &json!({"temp": 1})).await;
    assert_eq!((status, version), (204, twin["reported"]["$version"].as_u64().map(|v| v + 1)));
    until_reported(&world, &who.id, "temp 1", |reported| reported["temp"] == 1).await;
    world.hub.patch_desired(&who.id, None, &json!({"led": false}));
    assert_eq!(desired(&mut device).await["led"], false);

    // As large as the hub lets them be, both ways.
    let large = json!({"x": "y".repeat(120_000)});
    let text = large.to_string();
    let (answer, asked) =
        tokio::join!(call(&world, &who.id, "m", &large), device.answer_method(200, &text));
    assert_eq!((answer.status, answer.payload == large, asked.1 == text), (200, true, true));

    world.hub.send_c2d(&who.id, C2dMessage::new("hello").id("m-1")).expect("room");
    let message = device.publish_of("devices/").await;
    assert_eq!((message.qos, &message.payload[..]), (at_least, &b"hello"[..]));
    device.acknowledge(&message).await;
    let settled = world.hub.wait_for_c2d(&who.id, |all| all[0].state == C2dState::Completed);
    tokio::time::timeout(PATIENCE, settled).await.expect("its PUBACK completes it");
    end(world, gateway).await;
}
