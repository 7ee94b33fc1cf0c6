//! What the hub gets when it behaves.

use std::time::Duration;

use hub_double::{DeviceSpec, ModuleSpec};

use super::*;

#[tokio::test]
async fn each_identity_speaks_under_its_own_name_over_one_connection() {
    let lab = Lab::start().await;
    let module_spec = ModuleSpec {
        device_id: "edge1".to_owned(),
        module_id: "m1".to_owned(),
        ..ModuleSpec::default()
    };
    lab.hub.put_module(module_spec).unwrap();
    let senders = [device("d1"), device("d2"), module("edge1", "m1")];
    for sender in &senders {
        assert_eq!(lab.deliver(sender, &messages(sender, 0..5)).await, Outcome::Delivered);
    }
    let got = lab.hub.messages();
    assert_eq!(got.len(), 15);
    for (sender, got) in senders.iter().zip(got.chunks(5)) {
        for (n, m) in got.iter().enumerate() {
            assert_eq!(m.device_id, sender.device().as_str());
            assert_eq!(m.module_id.as_deref(), sender.module().map(ModuleId::as_str));
            assert_eq!(m.system_properties["message-id"], format!("{sender}-{n}"));
            assert_eq!(m.application_properties["seq"].as_deref(), Some(n.to_string().as_str()));
            assert_eq!(m.body, format!("{{\"n\":{n}}}"));
            assert_eq!(m.batch_no, got[0].batch_no, "one transfer for the batch");
        }
    }
    let counts = lab.hub.counts();
    assert_eq!((counts.connections, counts.links_attached, counts.duplicates), (1, 3, 0));
    assert_eq!(lab.upstream.links_open(), 3);
    lab.end().await;
}

#[tokio::test]
async fn the_mapping_of_table_k_arrives() {
    let lab = Lab::start().await;
    let d1 = device("d1");
    let mut m = message(&d1, 0, "{}");
    for (key, value) in [
        (SystemKey::CorrelationId, "cor 1"),
        (SystemKey::UserId, "u1"),
        (SystemKey::ContentType, "application/json"),
        (SystemKey::ContentEncoding, "utf-8"),
        (SystemKey::AbsoluteExpiryTime, "2030-01-02T03:04:05Z"),
        (SystemKey::CreationTime, "2026-01-01T00:00:00Z"),
        (SystemKey::OutputName, "out"),
        (SystemKey::Component, "thermo"),
        (SystemKey::MessageSchema, "schema"),
        (SystemKey::Ack, "full"),
        (SystemKey::ModelId, "dtmi:com:example:thermometer;1"),
    ] {
        m.system.set(key, value);
    }
    m.properties.set("alert level", Some("high&low=é".into()));
    m.properties.set("empty", Some("".into()));
    m.properties.set("null", None);
    assert_eq!(lab.deliver(&d1, &[m]).await, Outcome::Delivered);
    let got = lab.hub.messages().remove(0);
    for (key, value) in [
        ("message-id", "d1-0"),
        ("correlation-id", "cor 1"),
        ("user-id", "u1"),
        ("to", "/devices/d1/messages/events"),
        ("content-type", "application/json"),
        ("content-encoding", "utf-8"),
        ("iothub-creation-time-utc", "2026-01-01T00:00:00Z"),
        ("iothub-ack", "full"),
    ] {
        assert_eq!(got.system_properties.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert!(got.system_properties.contains_key("absolute-expiry-time"));
    let app = |name: &str| got.application_properties.get(name).cloned();
    assert_eq!(app("alert level"), Some(Some("high&low=é".to_owned())));
    assert_eq!(app("empty"), Some(Some(String::new())));
    assert_eq!(app("null"), Some(None));
    assert_eq!(got.annotations.get("dt-subject").map(String::as_str), Some("thermo"));
    lab.end().await;
}

#[tokio::test]
async fn a_batch_above_256_kib_goes_in_several_transfers_in_order() {
    let lab = Lab::start().await;
    let d1 = device("d1");
    let batch: Vec<_> = (0..7).map(|n| message(&d1, n, vec![0; 100_000])).collect();
    assert_eq!(lab.deliver(&d1, &batch).await, Outcome::Delivered);
    let got: Vec<_> =
        lab.hub.messages().iter().map(|m| m.application_properties["seq"].clone()).collect();
    let want: Vec<_> = (0..7).map(|n: u64| Some(n.to_string())).collect();
    assert_eq!(got, want);
    assert_eq!(lab.hub.counts().transfers_accepted, 4);
    lab.end().await;
}

/// The pumps of two queues may each have a delivery of one sender under way: they come one after the other, over one link.
#[tokio::test]
async fn two_deliveries_of_one_sender_do_not_mix() {
    // The second waits for the first, on a slow machine for long.
    let lab = Lab::with(|_| {}, |c| c.operation_timeout = LONG).await;
    let d1 = device("d1");
    let batch = |numbers: std::ops::Range<u64>| -> Vec<_> {
        numbers.map(|n| message(&d1, n, vec![0; 100_000])).collect()
    };
    let (first, second) = (batch(0..7), batch(7..14));
    let outcomes = tokio::join!(lab.deliver(&d1, &first), lab.deliver(&d1, &second));
    assert_eq!(outcomes, (Outcome::Delivered, Outcome::Delivered));
    let got: Vec<_> =
        lab.hub.messages().iter().map(|m| m.application_properties["seq"].clone()).collect();
    let in_order = |range: std::ops::Range<u64>| range.map(|n| Some(n.to_string()));
    let want: [Vec<_>; 2] =
        [in_order(0..14).collect(), in_order(7..14).chain(in_order(0..7)).collect()];
    assert!(want.contains(&got), "{got:?}");
    assert_eq!(lab.upstream.links_open(), 1);
    lab.end().await;
}

#[tokio::test]
async fn a_message_above_256_kib_is_rejected_without_troubling_the_hub() {
    let lab = Lab::start().await;
    let d1 = device("d1");
    let got = lab.deliver(&d1, &[message(&d1, 0, vec![0; 262_144])]).await;
    assert!(matches!(got, Outcome::Rejected { reason: "message-size-exceeded", .. }), "{got:?}");
    assert_eq!(lab.deliver(&d1, &messages(&d1, 1..2)).await, Outcome::Delivered);
    assert_eq!(lab.hub.counts().links_attached, 1);
    lab.end().await;
}

#[tokio::test]
async fn tokens_are_renewed_on_the_live_link() {
    // Without renewal the hub would take the first token for at most 4 + 3 of the 9 s; the 3 s are the room for a
    // machine that is busy with something else when a renewal is due.
    let skew = Duration::from_secs(3);
    let lab =
        Lab::with(|hub| hub.token_skew = skew, |c| c.token_ttl = Duration::from_secs(4)).await;
    let d1 = device("d1");
    let mut outcomes = Vec::new();
    for n in 0..60 {
        outcomes.push(lab.deliver(&d1, &messages(&d1, n..n + 1)).await);
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert!(outcomes.iter().all(|o| *o == Outcome::Delivered), "{outcomes:?}");
    let counts = lab.hub.counts();
    assert_eq!((counts.connections, counts.links_attached), (1, 1), "no link was interrupted");
    // Nine seconds: each of the two identities is renewed at about 3 s.
    assert!(counts.tokens_accepted >= 6, "{}", counts.tokens_accepted);
    lab.end().await;
}

#[tokio::test]
async fn idle_links_are_closed_and_opened_again_on_need() {
    let lab = Lab::with(|_| {}, |c| c.idle_link_close = Duration::from_millis(200)).await;
    let d1 = device("d1");
    assert_eq!(lab.deliver(&d1, &messages(&d1, 0..1)).await, Outcome::Delivered);
    timeout(LONG, async {
        while lab.upstream.links_open() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("closed when idle");
    assert_eq!(lab.deliver(&d1, &messages(&d1, 1..2)).await, Outcome::Delivered);
    assert_eq!(lab.hub.counts().links_attached, 2);
    lab.end().await;
}

#[tokio::test]
async fn a_link_of_who_has_left_is_closed_soon() {
    let d2 = device("d2");
    let present = d2.clone();
    let lab = Lab::with(
        |_| {},
        |c| {
            c.absent_link_close = Duration::from_millis(200);
            c.is_present = Some(Arc::new(move |who| *who == present));
        },
    )
    .await;
    let d1 = device("d1");
    for sender in [&d1, &d2] {
        let delivered = lab.deliver(sender, &messages(sender, 0..1)).await;
        assert_eq!(delivered, Outcome::Delivered);
    }
    timeout(LONG, async {
        while lab.upstream.links_open() > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("closed, for its device has left");
    // The one that is open is of the device that is there; the other is opened again for what waits.
    for sender in [&d1, &d2] {
        let delivered = lab.deliver(sender, &messages(sender, 1..2)).await;
        assert_eq!(delivered, Outcome::Delivered);
    }
    assert_eq!(lab.hub.counts().links_attached, 3);
    lab.end().await;
}

#[tokio::test]
async fn no_more_links_are_open_than_allowed() {
    let ids: Vec<_> = (0..12).map(|n| format!("many-{n}")).collect();
    let specs = ids.iter().map(|id| DeviceSpec::certificate(id).child_of("edge1")).collect();
    let lab = Lab::with(|hub| hub.devices = specs, |c| c.links_max = 4).await;
    for round in 0..3 {
        for id in &ids {
            let sender = device(id);
            let batch = messages(&sender, round..round + 1);
            assert_eq!(lab.deliver(&sender, &batch).await, Outcome::Delivered);
            assert!(lab.upstream.links_open() <= 4);
        }
    }
    let counts = lab.hub.counts();
    assert_eq!((counts.received, counts.duplicates, counts.reordered), (36, 0, 0));
    lab.end().await;
}
