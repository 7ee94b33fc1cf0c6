//! What arrives, and what the double makes of it.

use std::sync::{Arc, Mutex};

use fe2o3_amqp::Sendable;
use fe2o3_amqp_types::messaging::{
    Address, ApplicationProperties, Data, Message, MessageAnnotations, Outcome, Properties,
};
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Symbol, Timestamp, Value};

use hub_double::{Fault, FaultKind, HubDouble};

use super::client::{
    Client, HUB, child_of, config, device_token, message, now_secs, rejected_with, send,
    send_batch, with_hub,
};

/// A message with all that a device may set.
fn furnished() -> Message<Data> {
    let properties = Properties::builder()
        .message_id("id-1".to_owned())
        .correlation_id("cor 1".to_owned())
        .user_id(Binary::from("u1"))
        .to(Address::from("/devices/child1/messages/events"))
        .content_type(Symbol::from("application/json"))
        .content_encoding(Symbol::from("utf-8"))
        .absolute_expiry_time(Timestamp::from(1_767_225_600_000))
        .build();
    let application = ApplicationProperties::builder()
        .insert("alert level", "high&low=é")
        .insert("empty", "")
        .insert("null", SimpleValue::Null)
        .insert("iothub-creation-time-utc", "2026-01-01T00:00:00Z")
        .build();
    let annotations = MessageAnnotations::builder()
        .insert("dt-subject", Value::String("thermostat".into()))
        .insert("iothub-connection-device-id", Value::String("someone-else".into()))
        .build();
    Message::builder()
        .message_annotations(annotations)
        .properties(properties)
        .application_properties(application)
        .data(Binary::from(vec![0, 255, 7]))
        .build()
}

#[tokio::test]
async fn properties_annotations_and_body_arrive_as_sent() {
    with_hub(|hub| async move {
        let (_client, mut link) = child_of(&hub, "child1").await;
        let sent = furnished();
        assert!(matches!(link.send(sent).await, Ok(Outcome::Accepted(_))));

        let got = &hub.messages()[0];
        assert_eq!(&got.body[..], [0, 255, 7]);
        let system: Vec<(&str, &str)> =
            got.system_properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            system,
            [
                ("absolute-expiry-time", "2026-01-01T00:00:00.000Z"),
                ("content-encoding", "utf-8"),
                ("content-type", "application/json"),
                ("correlation-id", "cor 1"),
                ("iothub-creation-time-utc", "2026-01-01T00:00:00Z"),
                ("message-id", "id-1"),
                ("to", "/devices/child1/messages/events"),
                ("user-id", "u1"),
            ]
        );
        let user: Vec<(&str, Option<&str>)> =
            got.application_properties.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
        assert_eq!(
            user,
            [("alert level", Some("high&low=é")), ("empty", Some("")), ("null", None)]
        );
        assert_eq!(got.annotations["dt-subject"], "thermostat");
        assert_eq!(got.annotations["iothub-connection-device-id"], "child1", "no disguise");
        assert_eq!(got.annotations["iothub-message-source"], "Telemetry");
        assert!(got.annotations["iothub-connection-auth-method"].contains(r#""type":"x509""#));
        assert!(got.annotations.contains_key("iothub-connection-auth-generation-id"));
        assert!(got.annotations.contains_key("iothub-enqueuedtime"));
    })
    .await;
}

#[tokio::test]
async fn a_batch_is_unpacked_in_order_and_answered_once() {
    with_hub(|hub| async move {
        let (_client, mut link) = child_of(&hub, "child1").await;
        let batch = (0..500).map(|n| message(&n.to_string(), n, &"x".repeat(300))).collect();
        assert!(matches!(send_batch(&mut link, batch).await, Ok(Outcome::Accepted(_))));
        let got = hub.messages();
        assert_eq!(got.len(), 500);
        assert!(got.iter().all(|m| m.batch_no == got[0].batch_no && m.body.len() == 300));
        let ids: Vec<String> = (0..500).map(|n: u64| n.to_string()).collect();
        assert!(got.iter().map(|m| &m.system_properties["message-id"]).eq(&ids));
        let counts = hub.counts();
        assert_eq!((counts.received, counts.transfers_accepted), (500, 1));
        assert_eq!((counts.duplicates, counts.reordered), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_read_is_rejected_whole() {
    with_hub(|hub| async move {
        let (_client, mut link) = child_of(&hub, "child1").await;
        let good = serde_amqp::to_vec(&Value::Null).expect("encodes");
        let broken = Message::builder().data_batch([Data(Binary::from(good))]).build();
        let broken =
            Sendable::builder().message(broken).message_format(super::client::BATCH).build();
        assert_eq!(rejected_with(link.send(broken).await), "amqp:decode-error");
        let format = Sendable::builder().message(message("1", 1, "b")).message_format(7).build();
        assert_eq!(rejected_with(link.send(format).await), "amqp:not-implemented");
        assert_eq!(hub.counts().received, 0);
        assert_eq!(hub.counts().transfers_refused, 0, "counted for telemetry that was understood");
    })
    .await;
}

#[tokio::test]
async fn duplicates_and_reordering_are_seen_per_device() {
    with_hub(|hub| async move {
        let mut client = Client::connect(&hub).await;
        let mut one = client.child("child1").await;
        let mut two = client.child("child2").await;
        for (id, seq) in [("a", 1), ("b", 2), ("b", 2), ("d", 4), ("c", 3)] {
            send(&mut one, id, seq).await.expect("sent");
        }
        for (id, seq) in [("a", 1), ("b", 2)] {
            send(&mut two, id, seq).await.expect("sent");
        }
        let counts = hub.counts();
        assert_eq!((counts.received, counts.duplicates, counts.reordered), (7, 1, 1));
        assert_eq!(counts.distinct(), 6);
        let first = counts.per_device["child1"];
        assert_eq!((first.received, first.duplicates, first.reordered), (5, 1, 1));
        assert_eq!(first.highest_seq, Some(4));
        let marked: Vec<(bool, bool)> =
            hub.messages().iter().map(|m| (m.duplicate, m.reordered)).collect();
        assert_eq!(marked[2], (true, false));
        assert_eq!(marked[4], (false, true));
        hub.wait_for(7).await;
        hub.wait_for_distinct(6).await;
    })
    .await;
}

#[tokio::test]
async fn absolute_addresses_and_devices_with_keys_work() {
    with_hub(|hub| async move {
        let mut client = Client::connect(&hub).await;
        let token = device_token("dev1", now_secs() + 3600);
        assert_eq!(client.put_token(&format!("{HUB}/devices/dev1"), &token).await, 200);
        let address = format!("amqps://{HUB}/devices/dev1/messages/events/");
        let address = address.trim_end_matches('/');
        let mut link = fe2o3_amqp::Sender::attach(&mut client.session, "absolute", address)
            .await
            .expect("attach");
        // More than the first credit, so that it must have been renewed.
        for seq in 0..1200 {
            send(&mut link, &seq.to_string(), seq).await.expect("sent");
        }
        let method = &hub.messages()[0].annotations["iothub-connection-auth-method"];
        assert!(method.contains(r#""type":"sas""#), "{method}");
        assert_eq!(hub.counts().received, 1200);
        link.close().await.expect("detached");
        client.connection.close().await.expect("closed");
    })
    .await;
}

/// Lean mode hands on the same bodies in the same order, answers the same, and keeps nothing.
#[tokio::test]
async fn lean_mode_gives_bodies_away_and_keeps_nothing() {
    let heard = Arc::new(Mutex::new(Vec::<(String, Vec<u8>)>::new()));
    let ears = Arc::clone(&heard);
    let mut config = config();
    config.lean = Some(Arc::new(move |identity, bodies| {
        let mut heard = ears.lock().expect("no test panics in here");
        heard.extend(bodies.iter().map(|body| (identity.to_owned(), body.to_vec())));
    }));
    let hub = HubDouble::start(config).await.expect("loopback has free ports");
    let (mut client, mut link) = child_of(&hub, "child1").await;
    let large = "x".repeat(70_000);
    let batch = vec![message("a", 1, "one"), message("b", 2, &large), message("c", 3, "three")];
    let outcome = send_batch(&mut link, batch).await.expect("an outcome");
    assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    send(&mut link, "d", 4).await.expect("an outcome");
    let mut other = client.child("child2").await;
    send(&mut other, "d", 4).await.expect("an outcome");
    let refused = hub.fault(Fault::new(FaultKind::Release).times(1));
    let outcome = send(&mut link, "e", 5).await.expect("an outcome");
    assert!(matches!(outcome, Outcome::Released(_)), "{outcome:?}");
    hub.clear_fault(refused);
    let expected = [
        ("child1", "one"),
        ("child1", &large),
        ("child1", "three"),
        ("child1", "body"),
        ("child2", "body"),
    ];
    let expected = expected.map(|(who, body)| (who.to_owned(), body.as_bytes().to_vec()));
    assert!(*heard.lock().expect("as above") == expected, "bodies in order");
    let counts = hub.counts();
    assert_eq!((counts.received, counts.transfers_accepted, counts.transfers_refused), (5, 3, 1));
    assert_eq!(counts.body_bytes, 70_000 + 3 + 5 + 4 + 4);
    assert!(hub.messages().is_empty() && counts.per_device.is_empty());
    hub.shutdown().await;
}
