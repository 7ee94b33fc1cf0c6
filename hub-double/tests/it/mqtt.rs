//! Direct MQTT clients: who is let in, what they send, what ends them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hub_double::{DeviceSpec, Fault, FaultKind, HubDouble, Key, ModuleSpec, Status, sas_token};
use rumqttc::{ConnectReturnCode, LastWill, QoS, SubscribeReasonCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{
    DEVICE_KEY, HUB, child_of, device_token, edge_token, now_secs, send, tls, with_hub_of,
};
use super::mqtt_client::{Claim, Mqtt, SPHERE, STRANGERS, TENANT, THUMB, mqtt_config};

use ConnectReturnCode::{
    BadClientId, BadUserNamePassword, NotAuthorized, ServiceUnavailable, Success,
};

async fn check(hub: &HubDouble, what: &str, claim: Claim<'_>, expected: ConnectReturnCode) {
    let got = match claim.connect(hub).await {
        Ok(mqtt) => {
            mqtt.disconnect().await;
            Success
        }
        Err(code) => code,
    };
    assert_eq!(got, expected, "{what}");
}

fn add_module(hub: &HubDouble) {
    hub.put_module(ModuleSpec {
        device_id: "dev1".into(),
        module_id: "mod1".into(),
        primary_key: Some(Key::from_base64(DEVICE_KEY)),
        ..ModuleSpec::default()
    })
    .expect("the device is there");
}

#[tokio::test]
async fn tokens_are_judged_at_connect() {
    with_hub_of(mqtt_config(), |hub| async move {
        add_module(&hub);
        let dev1 = || Claim::key("dev1");
        check(&hub, "its key", dev1(), Success).await;
        check(&hub, "without SNI", Claim { sni: false, ..dev1() }, Success).await;
        check(&hub, "a module's key", Claim::key("dev1/mod1"), Success).await;
        let old = format!("{HUB}/dev1/api-version=2016-11-14");
        check(&hub, "the old user name", Claim { username: old, ..dev1() }, Success).await;
        let late = device_token("dev1", now_secs() - 200);
        check(&hub, "within the skew", Claim { password: late, ..dev1() }, Success).await;
        let late = device_token("dev1", now_secs() - 400);
        check(&hub, "expired", Claim { password: late, ..dev1() }, NotAuthorized).await;
        let sr = format!("{HUB}/devices/dev1");
        let forged = sas_token(&sr, &Key::from_base64("b3RoZXI="), now_secs() + 60);
        check(&hub, "another key", Claim { password: forged, ..dev1() }, NotAuthorized).await;
        let other = device_token("edge2", now_secs() + 60);
        check(&hub, "another's token", Claim { password: other, ..dev1() }, NotAuthorized).await;
        check(&hub, "rubbish", Claim { password: "x".into(), ..dev1() }, NotAuthorized).await;
        check(&hub, "nothing", Claim::bare("dev1"), NotAuthorized).await;
        check(&hub, "nobody", Claim::key("nobody"), NotAuthorized).await;
        check(&hub, "case counts", Claim::key("DEV1"), NotAuthorized).await;
        check(&hub, "another client id", Claim { id: "dev2", ..dev1() }, BadClientId).await;
        let username = format!("{HUB}/dev1");
        check(&hub, "no version", Claim { username, ..dev1() }, BadUserNamePassword).await;
        let counts = hub.counts();
        assert_eq!((counts.mqtt_connects, counts.mqtt_refused), (5, 9));

        hub.put_device(DeviceSpec {
            status: Status::Disabled,
            ..DeviceSpec::sas("dev1", DEVICE_KEY)
        });
        check(&hub, "disabled", dev1(), NotAuthorized).await;
    })
    .await;
}

#[tokio::test]
async fn an_edge_speaks_for_its_children_and_for_no_others() {
    with_hub_of(mqtt_config(), |hub| async move {
        let behalf = |id, chain: &str| {
            let username = format!("{HUB}/{id}/?api-version=2018-06-30&auth-chain={chain}");
            Claim { username, password: edge_token(), ..Claim::bare(id) }
        };
        check(&hub, "its child", behalf("child1", "child1%3Bedge1"), Success).await;
        check(&hub, "no chain", behalf("child1", ""), NotAuthorized).await;
        check(&hub, "another's child", behalf("others", "others%3Bedge1"), NotAuthorized).await;
        check(&hub, "disabled", behalf("off", "off%3Bedge1"), NotAuthorized).await;
        let own = Claim { password: edge_token(), ..Claim::bare("edge1/$edgeHub") };
        check(&hub, "the edge hub itself", own, Success).await;

        let child = behalf("child1", "child1%3Bedge1").connect(&hub).await.expect("let in");
        hub.put_device(DeviceSpec::certificate("child1").child_of("edge2"));
        child.ended().await;
    })
    .await;
}

#[tokio::test]
async fn certificates_are_judged_at_connect() {
    with_hub_of(mqtt_config(), |hub| async move {
        let (sphere, other) = (TENANT.issue(SPHERE), TENANT.issue("child1"));
        let stranger = STRANGERS.issue(SPHERE);
        let of = Claim::certificate;
        check(&hub, "by its CA", of(SPHERE, &sphere), Success).await;
        check(&hub, "without SNI", Claim { sni: false, ..of(SPHERE, &sphere) }, Success).await;
        check(&hub, "another's name", of(SPHERE, &other), NotAuthorized).await;
        check(&hub, "another CA", of(SPHERE, &stranger), NotAuthorized).await;
        check(&hub, "none", Claim::bare(SPHERE), NotAuthorized).await;
        check(&hub, "by thumbprint", of("thumb", &THUMB), Success).await;
        check(&hub, "another thumbprint", of("thumb", &sphere), NotAuthorized).await;
        let keyed = TENANT.issue("dev1");
        check(&hub, "a device with a key", of("dev1", &keyed), NotAuthorized).await;
        let both = Claim { identity: Some(&keyed), ..Claim::key("dev1") };
        check(&hub, "the password counts", both, Success).await;

        let mut mqtt = of(SPHERE, &sphere).connect(&hub).await.expect("let in");
        mqtt.send(&format!("devices/{SPHERE}/messages/events/"), "x").await;
        let method = &hub.messages()[0].annotations["iothub-connection-auth-method"];
        assert!(method.contains(r#""type":"x509""#), "{method}");
        hub.put_device(DeviceSpec::certificate(SPHERE).disabled());
        mqtt.ended().await;
        check(&hub, "disabled", of(SPHERE, &sphere), NotAuthorized).await;
        hub.put_device(DeviceSpec::certificate(SPHERE));
        check(&hub, "enabled again", of(SPHERE, &sphere), Success).await;
        // rcgen's default validity ends in the year 4096.
        hub.advance_clock(Duration::from_secs(2_500 * 366 * 86_400));
        check(&hub, "over", of(SPHERE, &sphere), NotAuthorized).await;
        check(&hub, "over", of("thumb", &THUMB), NotAuthorized).await;
    })
    .await;
}

#[tokio::test]
async fn faults_of_logins_are_return_codes() {
    with_hub_of(mqtt_config(), |hub| async move {
        for (kind, expected) in [
            (FaultKind::RefuseTokens { status: 401 }, NotAuthorized),
            (FaultKind::RefuseTokens { status: 429 }, ServiceUnavailable),
            (FaultKind::RefuseTokens { status: 500 }, ServiceUnavailable),
        ] {
            let name = format!("{kind:?}");
            hub.fault(Fault::new(kind).for_device("dev1").times(1));
            check(&hub, &name, Claim::key("dev1"), expected).await;
            check(&hub, "over", Claim::key("dev1"), Success).await;
        }
    })
    .await;
}

/// MQTT 5 gets CONNACK 0x84 in its own form, and the connection ends; so does what is no MQTT.
#[tokio::test]
async fn other_protocols_are_refused() {
    with_hub_of(mqtt_config(), |hub| async move {
        for (sent, expected) in [
            (&b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01a"[..], &[0x20, 3, 0, 0x84, 0][..]),
            (&b"\x10\x0e\0\x04MQTT\x03\x02\0\x3c\0\x02ab"[..], &[0x20, 2, 0, 1][..]),
            (&b"\xc0\0"[..], &[][..]),
            (&b"\xf0\0"[..], &[][..]),
        ] {
            let mut stream = tls(hub.ports().mqtt).await.expect("the double listens");
            stream.write_all(sent).await.expect("written");
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert_eq!(answer, expected, "{sent:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn telemetry_arrives_with_all_that_it_says() {
    with_hub_of(mqtt_config(), |hub| async move {
        let model = format!("{HUB}/dev1/?api-version=2020-09-30&model-id=dtmi%3aa%3bb%3b1");
        let claim = Claim { username: model, ..Claim::key("dev1") };
        let mut mqtt = claim.connect(&hub).await.expect("let in");
        let bag = "%24.mid=id-1&%24.cid=cor%201&%24.ct=application%2Fjson&%24.ce=utf-8&%24.sub=room\
                   &%24.cdid=someone&alert%20level=high%26low%3D%C3%A9&empty=&null";
        mqtt.send(&format!("devices/dev1/messages/events/{bag}"), "{}").await;
        // The PUBACK says that it is in the log.
        let got = hub.messages().remove(0);
        assert_eq!(
            (&*got.device_id, got.module_id.as_deref(), &got.body[..]),
            ("dev1", None, &b"{}"[..])
        );
        let system: Vec<(&str, &str)> =
            got.system_properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            system,
            [
                ("content-encoding", "utf-8"),
                ("content-type", "application/json"),
                ("correlation-id", "cor 1"),
                ("message-id", "id-1"),
            ]
        );
        let user: Vec<(&str, Option<&str>)> =
            got.application_properties.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
        assert_eq!(
            user,
            [("alert level", Some("high&low=é")), ("empty", Some("")), ("null", None)]
        );
        let stamped = |name: &str| got.annotations[name].as_str();
        assert_eq!(stamped("dt-subject"), "room");
        assert_eq!(stamped("dt-dataschema"), "dtmi:a;b;1");
        assert_eq!(stamped("iothub-connection-device-id"), "dev1", "no disguise");
        assert_eq!(stamped("iothub-message-source"), "Telemetry");
        assert!(stamped("iothub-connection-auth-method").contains(r#""type":"sas""#));
        assert!(got.annotations.contains_key("iothub-enqueuedtime"));

        mqtt.put("devices/dev1/messages/events", QoS::AtMostOnce, "qos 0").await;
        let retained = "devices/dev1/messages/events/a=b";
        mqtt.client.publish(retained, QoS::AtLeastOnce, true, "retained").await.expect("room");
        while hub.counts().received < 3 {
            mqtt.next().await;
        }
        let retained = hub.messages().remove(2).application_properties;
        assert_eq!(retained["mqtt-retain"].as_deref(), Some("true"));
        assert_eq!(retained["a"].as_deref(), Some("b"));
    })
    .await;
}

#[tokio::test]
async fn what_is_not_allowed_ends_the_connection() {
    with_hub_of(mqtt_config(), |hub| async move {
        let large = "x".repeat(262_145);
        for (topic, qos, body) in [
            ("devices/dev1/messages/events/", QoS::ExactlyOnce, "QoS 2"),
            ("devices/dev1/messages/events/", QoS::AtLeastOnce, &large),
            ("devices/edge2/messages/events/", QoS::AtLeastOnce, "another's"),
            ("somewhere", QoS::AtLeastOnce, "unknown"),
            ("$iothub/twin/POST/?$rid=1", QoS::AtMostOnce, "unknown"),
            ("$iothub/methods/res/ok/?$rid=1", QoS::AtMostOnce, "no number"),
        ] {
            let mut mqtt = Mqtt::key(&hub, "dev1").await;
            mqtt.put(topic, qos, body).await;
            mqtt.ended().await;
        }
        assert_eq!(hub.counts().received, 0);
        // The largest that is allowed.
        let mut mqtt = Mqtt::key(&hub, "dev1").await;
        mqtt.send("devices/dev1/messages/events/ab=%20c", &large[5..]).await;
        mqtt.put("devices/dev1/messages/events/ab=%20c", QoS::AtLeastOnce, &large[4..]).await;
        mqtt.ended().await;
        assert_eq!(hub.counts().received, 1);
    })
    .await;
}

#[tokio::test]
async fn faults_delay_withhold_and_refuse_acknowledgements() {
    with_hub_of(mqtt_config(), |hub| async move {
        let topic = "devices/dev1/messages/events/";
        let mut mqtt = Mqtt::key(&hub, "dev1").await;
        hub.fault(Fault::new(FaultKind::DelayDispositions { ms: 50 }).times(1));
        mqtt.send(topic, "delayed").await;
        let held = hub.fault(FaultKind::WithholdDispositions { forever: false });
        mqtt.put(topic, QoS::AtLeastOnce, "held").await;
        while hub.counts().received < 2 {
            // Answered, while the message before it is not.
            mqtt.put("$iothub/twin/GET/?$rid=1", QoS::AtLeastOnce, "").await;
            assert!(matches!(mqtt.next().await, rumqttc::Packet::PubAck(ack) if ack.pkid != 2));
        }
        hub.clear_fault(held);
        assert!(matches!(mqtt.next().await, rumqttc::Packet::PubAck(ack) if ack.pkid == 2));
        hub.fault(Fault::new(FaultKind::Throttle { per_second: None }).times(1));
        mqtt.put(topic, QoS::AtLeastOnce, "refused").await;
        mqtt.ended().await;
        assert_eq!(hub.counts().received, 2);
    })
    .await;
}

/// Lean mode hands bodies on and keeps nothing.
#[tokio::test]
async fn lean_mode_gives_bodies_away() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ears = Arc::clone(&heard);
    let mut config = mqtt_config();
    config.lean = Some(Arc::new(move |identity, bodies| {
        ears.lock().expect("nobody panics in here").push((identity.to_owned(), bodies.concat()));
    }));
    with_hub_of(config, |hub| async move {
        let mut mqtt = Mqtt::key(&hub, "dev1").await;
        mqtt.send("devices/dev1/messages/events/a=b", "one").await;
        assert_eq!((hub.counts().received, hub.messages().len()), (1, 0));
    })
    .await;
    assert_eq!(*heard.lock().expect("as above"), [("dev1".to_owned(), b"one".to_vec())]);
}

fn with_will(options: &mut rumqttc::MqttOptions) {
    let topic = "devices/dev1/messages/events/why=lost";
    options.set_last_will(LastWill::new(topic, "bye", QoS::AtLeastOnce, false));
}

#[tokio::test]
async fn a_will_is_told_unless_the_client_says_goodbye() {
    with_hub_of(mqtt_config(), |hub| async move {
        let claim = || Claim { options: with_will, ..Claim::key("dev1") };
        claim().connect(&hub).await.expect("let in").disconnect().await;
        until_alone(&hub).await;
        assert_eq!(hub.counts().received, 0, "none after DISCONNECT");
        drop(claim().connect(&hub).await.expect("let in"));
        hub.wait_for(1).await;
        let will = hub.messages().remove(0);
        assert_eq!(&will.body[..], b"bye");
        let get = |name: &str| will.application_properties[name].as_deref();
        assert_eq!((get("iothub-MessageType"), get("why")), (Some("Will"), Some("lost")));
        assert_eq!(hub.counts().received, 1);
    })
    .await;
}

#[tokio::test]
async fn one_connection_an_identity_and_the_newcomer_wins() {
    with_hub_of(mqtt_config(), |hub| async move {
        let first = Mqtt::key(&hub, "dev1").await;
        let mut second = Mqtt::key(&hub, "dev1").await;
        first.ended().await;
        second.send("devices/dev1/messages/events/", "mine").await;

        // Over AMQP too: an edge that speaks for its child, and the child itself.
        let child1 = TENANT.issue("child1");
        let direct = Claim::certificate("child1", &child1).connect(&hub).await.expect("let in");
        let (_amqp, mut link) = child_of(&hub, "child1").await;
        direct.ended().await;
        send(&mut link, "1", 1).await.expect("the link is there");
        let direct = Claim::certificate("child1", &child1).connect(&hub).await.expect("let in");
        let reason = format!("{:?}", link.on_detach().await);
        assert!(reason.contains("Stolen"), "{reason}");
        let shown = hub.connections().into_iter().find(|c| c.container_id == "child1");
        let shown = shown.expect("it is live");
        assert_eq!((&*shown.protocol, &shown.links[..]), ("MQTT", &["child1 MQTT".to_owned()][..]));
        drop(direct);
        assert_eq!(hub.counts().links_stolen, 3);
    })
    .await;
}

async fn until_alone(hub: &HubDouble) {
    while !hub.connections().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn silence_expiry_and_the_registry_end_a_connection() {
    with_hub_of(mqtt_config(), |hub| async move {
        let short = |options: &mut rumqttc::MqttOptions| {
            options.set_keep_alive(Duration::from_secs(1));
        };
        let claim = Claim { options: short, ..Claim::key("dev1") };
        let silent = claim.connect(&hub).await.expect("let in");
        // Nobody polls it, so it does not ping.
        until_alone(&hub).await;
        drop(silent);

        let expires = Mqtt::key(&hub, "dev1").await;
        hub.advance_clock(Duration::from_secs(3600 + 301));
        expires.ended().await;
        let fresh =
            || Claim { password: device_token("dev1", now_secs() + 10_000), ..Claim::key("dev1") };
        let disabled = fresh().connect(&hub).await.expect("let in");
        hub.put_device(DeviceSpec {
            status: Status::Disabled,
            ..DeviceSpec::sas("dev1", DEVICE_KEY)
        });
        disabled.ended().await;
        hub.put_device(DeviceSpec::sas("dev1", DEVICE_KEY));
        let dropped = fresh().connect(&hub).await.expect("let in");
        hub.fault(Fault::new(FaultKind::DropConnections { condition: None }).for_device("dev1"));
        dropped.ended().await;
        let away = fresh().connect(&hub).await.expect("let in");
        hub.go_away().await;
        away.ended().await;
        hub.come_back().await.expect("the port is ours");
        fresh().connect(&hub).await.expect("let in").disconnect().await;
    })
    .await;
}

#[tokio::test]
async fn every_filter_gets_a_code_of_its_own() {
    with_hub_of(mqtt_config(), |hub| async move {
        add_module(&hub);
        let mut mqtt = Mqtt::key(&hub, "dev1").await;
        let codes = mqtt
            .subscribe(&[
                ("devices/dev1/messages/devicebound/#", QoS::AtLeastOnce),
                ("$iothub/twin/res/#", QoS::AtMostOnce),
                ("somewhere/#", QoS::AtMostOnce),
                ("$iothub/methods/POST/#", QoS::ExactlyOnce),
            ])
            .await;
        let granted = SubscribeReasonCode::Success;
        let (zero, one) = (granted(QoS::AtMostOnce), granted(QoS::AtLeastOnce));
        assert_eq!(codes, [one, zero, SubscribeReasonCode::Failure, one]);
        let mut module = Mqtt::key(&hub, "dev1/mod1").await;
        let codes = module
            .subscribe(&[
                ("devices/dev1/modules/mod1/#", QoS::AtLeastOnce),
                ("devices/dev1/messages/devicebound/#", QoS::AtLeastOnce),
            ])
            .await;
        assert_eq!(codes, [one, SubscribeReasonCode::Failure]);
        module.send("devices/dev1/modules/mod1/messages/events/", "x").await;
        assert_eq!(hub.messages()[0].module_id.as_deref(), Some("mod1"));
        assert_eq!(hub.messages()[0].annotations["iothub-connection-module-id"], "mod1");
    })
    .await;
}
