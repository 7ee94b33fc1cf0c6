//! PUBLISH to PUBACK.

use super::*;

#[test]
fn a_message_is_what_was_published() {
    let mut bench = Bench::connected("dev1");
    let topic = "devices/dev1/messages/events/%24.ct=application%2fjson&a=b&%24.cdid=dev2";
    let (tag, message) = routed(bench.packet(publish(topic, "{}", qos1(7))));
    assert_eq!(tag, 0);
    assert_eq!(message.source.sender.to_string(), "dev1");
    assert_eq!(message.system.get(SystemKey::ContentType), Some("application/json"));
    assert_eq!(message.system.get(SystemKey::ModelId), Some("dtmi:x;1"));
    assert_eq!(message.system.get(SystemKey::MessageId), None);
    assert_eq!(message.properties.iter().collect::<Vec<_>>(), [("a", Some("b"))]);
    assert_eq!(&message.body[..], b"{}");
    assert_eq!(message.received, WALL);
}

#[test]
fn retain_and_dup_become_properties() {
    let mut bench = Bench::connected("dev1");
    let (topic, payload) = (text(TOPIC), Bytes::new());
    let packet = Publish { topic, payload, delivery: again(3), retain: true };
    let (_, message) = routed(bench.packet(Packet::Publish(packet)));
    let properties: Vec<_> = message.properties.iter().collect();
    assert_eq!(properties, [("mqtt-retain", Some("true")), ("mqtt-dup", Some("true"))]);
}

#[test]
fn a_module_speaks_through_an_output() {
    let mut bench = Bench::connected("dev1/m");
    let topic = "devices/dev1/modules/m/messages/events/%24.on=alarm";
    let (_, message) = routed(bench.packet(publish(topic, "x", qos1(1))));
    assert_eq!(message.system.get(SystemKey::OutputName), Some("alarm"));
}

#[test]
fn pubacks_wait_for_the_disk_and_keep_their_order() {
    let mut bench = Bench::connected("dev1");
    for n in 1..=4 {
        let (tag, _) = routed(bench.packet(publish(TOPIC, "x", qos1(n * 10))));
        assert_eq!(tag, u64::from(n) - 1);
    }
    assert_eq!(bench.durable(2), []);
    assert_eq!(bench.durable(0), [puback(10)]);
    let mut out = Vec::new();
    bench.session.on_unrouted(1, bench.now, &mut out);
    assert_eq!(out, [puback(20), puback(30)]);
    assert_eq!(bench.durable(1), [], "settled before");
    assert_eq!(bench.durable(99), [], "no such tag");
    assert_eq!(bench.durable(3), [puback(40)]);
    assert_eq!(bench.session.in_flight(), 0);
}

#[test]
fn qos_0_takes_room_and_gets_no_puback() {
    let mut bench = Bench::connected("dev1");
    routed(bench.packet(publish(TOPIC, "x", Delivery::AtMostOnce)));
    routed(bench.packet(publish(TOPIC, "x", qos1(1))));
    assert_eq!(bench.session.in_flight(), 2);
    assert_eq!(bench.durable(0), []);
    assert_eq!(bench.durable(1), [puback(1)]);
}

#[test]
fn the_window_bounds_what_is_in_flight_and_pings_are_answered_meanwhile() {
    let mut bench = Bench::connected("dev1");
    for n in 1..=16 {
        routed(bench.packet(publish(TOPIC, "x", qos1(n))));
        assert!(bench.session.wants_read());
    }
    assert_eq!(bench.packet(Packet::PingReq), [Output::Send(Packet::PingResp)]);
    assert_eq!(bench.packet(publish(TOPIC, "stalled", qos1(17))), []);
    assert!(!bench.session.wants_read(), "one is held back, then reading stops");
    assert_eq!(bench.durable(1), []);
    assert!(!bench.session.wants_read());
    let out = bench.durable(0);
    assert_eq!(out[..2], [puback(1), puback(2)]);
    assert!(
        matches!(&out[2], Output::Route { tag: 16, message } if &message.body[..] == b"stalled")
    );
    assert!(bench.session.wants_read());
}

#[test]
fn what_came_behind_a_held_publish_stays_behind_it() {
    let mut bench = Bench::connected("dev1");
    for n in 1..=18 {
        bench.packet(publish(TOPIC, "x", qos1(n)));
    }
    bench.packet(Packet::PingReq);
    bench.packet(publish(TOPIC, "x", qos1(19)));
    let out = bench.durable(0);
    assert!(matches!(out[..], [Output::Send(Packet::PubAck(_)), Output::Route { tag: 16, .. }]));
    let out = bench.durable(1);
    let [ack, Output::Route { tag: 17, .. }, pong] = &out[..] else { panic!("{out:?}") };
    assert_eq!((ack, pong), (&puback(2), &Output::Send(Packet::PingResp)));
    assert!(!bench.session.wants_read());
    bench.durable(2);
    assert!(bench.session.wants_read());
}

/// The C SDK sends a message again when 60 s have passed without PUBACK.
#[test]
fn a_resend_of_what_is_in_flight_waits_for_the_same_puback() {
    let mut bench = Bench::connected("dev1");
    for n in 1..=16 {
        routed(bench.packet(publish(TOPIC, "x", qos1(n))));
    }
    assert_eq!(bench.packet(publish(TOPIC, "x", again(5))), [], "not stored twice");
    assert!(bench.session.wants_read(), "and takes no room");
    for tag in 0..16 {
        assert_eq!(bench.durable(tag).len(), 1);
    }
    // Once acknowledged the id is free: a resend that crossed the PUBACK is a message again.
    let (_, message) = routed(bench.packet(publish(TOPIC, "x", again(5))));
    assert_eq!(message.properties.get("mqtt-dup"), Some(Some("true")));
}

/// The same, when the resend had to wait behind a PUBLISH that found no room.
#[test]
fn a_held_resend_takes_no_room_either() {
    let mut bench = Bench::connected("dev1");
    for n in 1..=17 {
        bench.packet(publish(TOPIC, "x", qos1(n)));
    }
    bench.packet(publish(TOPIC, "x", again(5)));
    assert!(!bench.session.wants_read());
    let out = bench.durable(0);
    assert!(matches!(out[..], [Output::Send(Packet::PubAck(_)), Output::Route { tag: 16, .. }]));
    assert!(bench.session.wants_read());
}

#[test]
fn a_packet_id_in_flight_is_not_another_messages() {
    for second in [publish(TOPIC, "x", qos1(1)), publish(TOPIC, "other", again(1))] {
        let mut bench = Bench::connected("dev1");
        routed(bench.packet(publish(TOPIC, "x", qos1(1))));
        check_violation(bench.packet(second), "packet_id_in_use");
    }
}

#[test]
fn a_device_speaks_only_as_itself() {
    for topic in [
        "devices/dev2/messages/events/",
        "devices/DEV1/messages/events/",
        "devices/dev1/modules/m/messages/events/",
    ] {
        let out = Bench::connected("dev1").packet(publish(topic, "x", qos1(1)));
        check_violation(out, "topic_identity");
    }
}

#[test]
fn publishes_that_close() {
    let qos2 = Delivery::ExactlyOnce { packet_id: id(1), dup: false };
    let bag = format!("{TOPIC}{}", "a&".repeat(600));
    for (packet, label) in [
        (publish(TOPIC, "x", qos2), "qos-2"),
        (Packet::PubRel(id(1)), "qos-2"),
        (publish("devices/dev1/x", "x", qos1(1)), "topic_unknown"),
        (publish("$iothub/twin/GET/?", "x", qos1(1)), "topic_rid"),
        (publish(&bag, "x", qos1(1)), "bag_too_many_properties"),
        (Packet::PingResp, "server_packet"),
    ] {
        check_violation(Bench::connected("dev1").packet(packet), label);
    }
}

#[test]
fn twins_and_methods_are_acknowledged_at_once_but_in_turn() {
    let mut bench = Bench::connected("dev1");
    let get = || publish("$iothub/twin/GET/?$rid=4", "", qos1(1));
    let request = || Output::TwinRequest(TwinRequest::Get { rid: "4".into() });
    assert_eq!(bench.packet(get()), [request(), puback(1)]);
    routed(bench.packet(publish(TOPIC, "x", qos1(2))));
    assert_eq!(bench.packet(get()), [request()], "the PUBACK of 2 comes first");
    let response = publish("$iothub/methods/res/200/?$rid=1f", "{}", qos1(3));
    let expected =
        Output::MethodResponse { rid: "1f".into(), status: 200, body: Bytes::from_static(b"{}") };
    assert_eq!(bench.packet(response), [expected]);
    let patch = "$iothub/twin/PATCH/properties/reported/?$rid=5&$version=2";
    let expected = Output::TwinRequest(TwinRequest::Patch {
        tag: None,
        rid: Some("5".into()),
        version: Some(2),
        body: Bytes::from_static(b"{}"),
    });
    assert_eq!(bench.packet(publish(patch, "{}", Delivery::AtMostOnce)), [expected]);
    assert_eq!(bench.durable(1), [puback(2), puback(1), puback(3)]);
}
