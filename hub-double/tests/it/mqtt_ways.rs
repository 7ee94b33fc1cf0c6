//! Both ways over MQTT: twins, direct methods, cloud-to-device, and sessions that outlive their connection.

use std::sync::Arc;
use std::time::Duration;

use hub_double::C2dState::{Completed, Enqueued, Invisible};
use hub_double::{
    Ack, C2dMessage, C2dState, Fault, FaultKind, FeedbackStatus, HubDouble, MethodError,
};
use rumqttc::{Packet, Publish, QoS};
use serde_json::{Value, json};

use super::client::with_hub_of;
use super::mqtt_client::{Claim, Mqtt, mqtt_config, text};

const RES: &str = "$iothub/twin/res/#";
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";
const METHODS: &str = "$iothub/methods/POST/#";
const BOUND: &str = "devices/dev1/messages/devicebound/#";

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

async fn listening(hub: &HubDouble, filters: &[(&str, QoS)]) -> Mqtt {
    let mut mqtt = Mqtt::key(hub, "dev1").await;
    mqtt.subscribe(filters).await;
    mqtt
}

#[tokio::test]
async fn a_twin_is_read_and_reported() {
    with_hub_of(mqtt_config(), |hub| async move {
        let mut mqtt = listening(&hub, &[(RES, QoS::AtMostOnce)]).await;
        let (topic, body) = mqtt.ask("$iothub/twin/GET/?$rid=4", " ").await;
        assert_eq!(topic, "$iothub/twin/res/200/?$rid=4");
        assert_eq!(
            json_of(&body),
            json!({"desired": {"$version": 1}, "reported": {"$version": 1}})
        );

        let patch = "$iothub/twin/PATCH/properties/reported/?$rid=a-b%20c";
        let answer = mqtt.ask(patch, r#"{"fw": {"v": "1.1", "old": null}}"#).await;
        let expected = "$iothub/twin/res/204/?$rid=a-b%20c&$version=2";
        assert_eq!(answer, (expected.to_owned(), String::new()));
        let (topic, _) =
            mqtt.ask("$iothub/twin/PATCH/properties/reported/?$rid=1&$version=1", "{}").await;
        assert_eq!(topic, "$iothub/twin/res/412/?$rid=1");
        for bad in ["[]", "no", r#"{"a.b": 1}"#] {
            let (topic, body) =
                mqtt.ask("$iothub/twin/PATCH/properties/reported/?$rid=1", bad).await;
            assert_eq!(topic, "$iothub/twin/res/400/?$rid=1", "{bad}");
            assert!(json_of(&body)["message"].is_string());
        }
        let (_, body) = mqtt.ask("$iothub/twin/GET/?$rid=5", "").await;
        assert_eq!(json_of(&body)["reported"], json!({"fw": {"v": "1.1"}, "$version": 2}));
        let twin = hub.twin("dev1", None).expect("it is registered");
        assert_eq!(twin["properties"]["reported"]["fw"]["v"], "1.1");

        hub.fault(Fault::new(FaultKind::RefuseTwins { status: 429 }).times(1));
        let (topic, body) = mqtt.ask("$iothub/twin/GET/?$rid=6", "").await;
        assert_eq!(topic, "$iothub/twin/res/429/?$rid=6");
        assert!(json_of(&body)["errorCode"].is_u64() && json_of(&body)["timestampUtc"].is_string());
        hub.fault(Fault::new(FaultKind::DelayTwins { ms: 100 }).times(1));
        let (topic, _) = mqtt.ask("$iothub/twin/GET/?$rid=7", "").await;
        assert_eq!(topic, "$iothub/twin/res/200/?$rid=7");
        let counts = hub.counts();
        assert_eq!((counts.twin_gets, counts.twin_patches, counts.twin_refused), (3, 1, 5));

        // Whatever is QoS 1 gets its PUBACK.
        mqtt.send("$iothub/twin/GET/?$rid=8", "").await;
    })
    .await;
}

#[tokio::test]
async fn desired_properties_are_told_while_they_are_subscribed() {
    with_hub_of(mqtt_config(), |hub| async move {
        let mut mqtt = listening(&hub, &[(RES, QoS::AtMostOnce)]).await;
        hub.patch_desired("dev1", None, &json!({"unheard": 1}));
        mqtt.subscribe(&[(DESIRED, QoS::AtLeastOnce)]).await;
        hub.patch_desired("dev1", None, &json!({"led": {"on": true}, "unheard": null}));
        let told = mqtt.publication().await;
        assert_eq!(told.qos, QoS::AtLeastOnce);
        let (topic, body) = text(told);
        assert_eq!(topic, "$iothub/twin/PATCH/properties/desired/?$version=3");
        let expected = json!({"led": {"on": true}, "unheard": null, "$version": 3});
        assert_eq!(json_of(&body), expected);
        mqtt.client.unsubscribe(DESIRED).await.expect("room");
        while !matches!(mqtt.next().await, Packet::UnsubAck(_)) {}
        hub.patch_desired("dev1", None, &json!({"unheard": 2}));
        let (topic, body) = mqtt.ask("$iothub/twin/GET/?$rid=1", "").await;
        assert_eq!(topic, "$iothub/twin/res/200/?$rid=1", "nothing came before the answer");
        assert_eq!(json_of(&body)["desired"]["$version"], 4);
    })
    .await;
}

/// Calls a method; resolves with its answer.
async fn call(
    hub: Arc<HubDouble>,
    name: &str,
    payload: Value,
) -> Result<(i64, Value), MethodError> {
    let limit = Duration::from_secs(50);
    let answer = hub.call_method("dev1", None, name, &payload, limit).await;
    answer.map(|answer| (answer.status, answer.payload))
}

fn rid(publish: &Publish) -> String {
    publish.topic.split_once("?$rid=").expect("a rid").1.to_owned()
}

#[tokio::test]
async fn methods_are_called_and_answered() {
    with_hub_of(mqtt_config(), |hub| async move {
        let quiet = Mqtt::key(&hub, "dev1").await;
        let refused = call(Arc::clone(&hub), "blink", Value::Null).await;
        assert_eq!(refused, Err(MethodError::NotOnline), "connected, and not subscribed");
        drop(quiet);
        let mut mqtt = listening(&hub, &[(METHODS, QoS::AtLeastOnce)]).await;
        let first = call(Arc::clone(&hub), "blink", json!({"times": 3}));
        let second = call(Arc::clone(&hub), "stop", Value::Null);
        let device = async {
            let (a, b) = (mqtt.publication().await, mqtt.publication().await);
            assert!(a.topic.starts_with("$iothub/methods/POST/blink/?$rid="), "{}", a.topic);
            assert_eq!((a.qos, &a.payload[..]), (QoS::AtMostOnce, &br#"{"times":3}"#[..]));
            assert!(b.topic.starts_with("$iothub/methods/POST/stop/?$rid="), "{}", b.topic);
            assert_eq!(&b.payload[..], b"");
            let answer =
                |status: &str, rid: &str| format!("$iothub/methods/res/{status}/?$rid={rid}");
            mqtt.put(&answer("-7", &rid(&b)), QoS::AtMostOnce, "").await;
            mqtt.send(&answer("200", "ffff"), "nobody asked").await;
            mqtt.send(&answer("200", "no number"), "nobody asked").await;
            mqtt.send(&answer("200", &rid(&a)), r#"{"done":true}"#).await;
            mqtt.send(&answer("200", &rid(&a)), r#"{"done":"twice"}"#).await;
        };
        let (first, second, ()) = tokio::join!(first, second, device);
        assert_eq!(first, Ok((200, json!({"done": true}))));
        assert_eq!(second, Ok((-7, Value::Null)));
        let counts = hub.counts();
        assert_eq!((counts.method_answers, counts.method_answers_unwanted), (2, 3));
        let late = hub.call_method("dev1", None, "x", &Value::Null, Duration::from_millis(1)).await;
        assert_eq!(late, Err(MethodError::Timeout));
        mqtt.disconnect().await;
        let gone = call(Arc::clone(&hub), "blink", Value::Null).await;
        assert_eq!(gone, Err(MethodError::NotOnline));
    })
    .await;
}

async fn wait_for(hub: &HubDouble, expected: &[C2dState]) {
    hub.wait_for_c2d("dev1", |records| {
        records.iter().map(|record| record.state).collect::<Vec<_>>() == expected
    })
    .await;
}

fn send(hub: &HubDouble, body: &str) {
    let mut message = C2dMessage::new(body.to_owned()).id(body).ack(Ack::Full);
    message.correlation_id = Some("c/9".into());
    hub.send_c2d("dev1", message.property("colour", "deep blue")).expect("there is room");
}

fn manual(options: &mut rumqttc::MqttOptions) {
    options.set_manual_acks(true);
}

/// A client without CleanSession that acknowledges nothing by itself.
async fn slow(hub: &HubDouble) -> Mqtt {
    Claim { options: manual, ..Claim::key("dev1").staying() }.connect(hub).await.expect("let in")
}

#[tokio::test]
async fn a_message_is_completed_by_its_puback() {
    with_hub_of(mqtt_config(), |hub| async move {
        send(&hub, "m-1");
        let mut mqtt = slow(&hub).await;
        assert!(!mqtt.session_present);
        mqtt.subscribe(&[(BOUND, QoS::AtLeastOnce)]).await;
        let got = mqtt.publication().await;
        assert_eq!((got.qos, &got.payload[..]), (QoS::AtLeastOnce, &b"m-1"[..]));
        assert_eq!(
            got.topic,
            "devices/dev1/messages/devicebound/%24.mid=m-1\
             &%24.to=%2Fdevices%2Fdev1%2Fmessages%2FdeviceBound&%24.cid=c%2F9&iothub-ack=full\
             &colour=deep%20blue"
        );
        wait_for(&hub, &[Invisible]).await;
        send(&hub, "m-2");
        let second = mqtt.publication().await;
        mqtt.client.ack(&got).await.expect("room");
        // The ping's answer shows that the PUBACK has been sent.
        mqtt.subscribe(&[(RES, QoS::AtMostOnce)]).await;
        wait_for(&hub, &[Completed, Invisible]).await;
        mqtt.client.ack(&second).await.expect("room");
        mqtt.subscribe(&[(RES, QoS::AtMostOnce)]).await;
        let feedback = hub.wait_for_feedback(2).await;
        assert!(feedback.iter().all(|record| record.status_code == FeedbackStatus::Success));
        assert_eq!(hub.counts().c2d_deliveries, 2);
    })
    .await;
}

#[tokio::test]
async fn without_puback_a_message_comes_again_over_the_next_connection() {
    with_hub_of(mqtt_config(), |hub| async move {
        let mut mqtt = slow(&hub).await;
        mqtt.subscribe(&[(BOUND, QoS::AtLeastOnce), (RES, QoS::AtMostOnce)]).await;
        send(&hub, "m-1");
        assert_eq!(&mqtt.publication().await.payload[..], b"m-1");
        // The lock is over, and the client still has the message: it does not get it twice.
        hub.advance_clock(Duration::from_secs(61));
        let (topic, _) = mqtt.ask("$iothub/twin/GET/?$rid=1", "").await;
        assert!(topic.starts_with("$iothub/twin/res/200"), "{topic}");
        drop(mqtt);

        let mut mqtt = slow(&hub).await;
        assert!(mqtt.session_present);
        wait_for(&hub, &[Invisible]).await;
        hub.advance_clock(Duration::from_secs(61));
        // Without a new SUBSCRIBE.
        let again = mqtt.publication().await;
        assert_eq!(&again.payload[..], b"m-1");
        mqtt.client.ack(&again).await.expect("room");
        mqtt.subscribe(&[(RES, QoS::AtMostOnce)]).await;
        wait_for(&hub, &[Completed]).await;
        assert_eq!(hub.c2d("dev1")[0].delivery_count, 0, "only abandoning counts");
    })
    .await;
}

#[tokio::test]
async fn what_waited_comes_after_connack_only_to_who_left_a_session() {
    with_hub_of(mqtt_config(), |hub| async move {
        let mut mqtt = Claim::key("dev1").staying().connect(&hub).await.expect("let in");
        mqtt.subscribe(&[(BOUND, QoS::AtMostOnce), (RES, QoS::AtMostOnce)]).await;
        mqtt.disconnect().await;
        send(&hub, "m-1");
        let mut mqtt = Claim::key("dev1").staying().connect(&hub).await.expect("let in");
        assert!(mqtt.session_present);
        let got = mqtt.publication().await;
        assert_eq!((got.qos, &got.payload[..]), (QoS::AtMostOnce, &b"m-1"[..]));
        wait_for(&hub, &[Completed]).await;
        mqtt.disconnect().await;

        send(&hub, "m-2");
        let mut mqtt = Mqtt::key(&hub, "dev1").await;
        assert!(!mqtt.session_present);
        mqtt.subscribe(&[(RES, QoS::AtMostOnce)]).await;
        let (topic, _) = mqtt.ask("$iothub/twin/GET/?$rid=1", "").await;
        assert!(topic.starts_with("$iothub/twin/res/200"), "{topic}");
        wait_for(&hub, &[Completed, Enqueued]).await;
        mqtt.subscribe(&[(BOUND, QoS::AtLeastOnce)]).await;
        assert_eq!(&mqtt.publication().await.payload[..], b"m-2");
        wait_for(&hub, &[Completed, Completed]).await;
        mqtt.disconnect().await;
        let mqtt = Claim::key("dev1").staying().connect(&hub).await.expect("let in");
        assert!(!mqtt.session_present, "CleanSession left none");
    })
    .await;
}
