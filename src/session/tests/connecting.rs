//! From accept to CONNACK, and subscriptions.

use super::*;

fn check_refused(connect: Connect, code: ConnectReturnCode, label: &str) {
    let mut bench = Bench::new();
    let (got, blame, before) = ended(bench.packet(Packet::Connect(Box::new(connect))));
    assert_eq!((got, blame, before), (label, Blame::Peer, vec![connack(code)]));
    assert!(bench.session.is_closed());
    assert_eq!(bench.packet(Packet::PingReq), []);
}

#[test]
fn the_first_packet_is_connect() {
    for packet in [Packet::PingReq, Packet::Disconnect, publish(TOPIC, "x", qos1(1))] {
        check_violation(Bench::new().packet(packet), "connect_missing");
    }
}

#[test]
fn a_second_connect_closes() {
    let mut bench = Bench::connected("dev1");
    check_violation(bench.packet(Packet::Connect(Box::new(connect_as("dev1")))), "connect_again");
    let mut bench = Bench::new();
    bench.packet(Packet::Connect(Box::new(connect_as("dev1"))));
    assert_eq!(bench.packet(Packet::Connect(Box::new(connect_as("dev1")))), []);
    let out = bench.verdict(Ok(Identity::vouched(name("dev1"))));
    assert_eq!(ended(out).0, "connect_again");
}

#[test]
fn the_claim_is_handed_to_auth_as_it_was_made() {
    let mut connect = connect_as("dev1/mod1");
    connect.login.as_mut().unwrap().password = Some(Bytes::from_static(b"SharedAccessSignature x"));
    let out = Bench::new().packet(Packet::Connect(Box::new(connect)));
    let [Output::Authenticate(request)] = &out[..] else { panic!("{out:?}") };
    assert_eq!(request.claim, name("dev1/mod1"));
    assert_eq!(request.password.as_deref(), Some(&b"SharedAccessSignature x"[..]));
    assert_eq!(request.silence_max, Duration::from_secs(360));
    assert_eq!(request.model_id.as_deref(), Some("dtmi:x;1"));
    assert!(!format!("{out:?}").contains("SharedAccess"), "no tokens in logs");
}

#[test]
fn an_empty_password_is_none() {
    let mut connect = connect_as("dev1");
    connect.login.as_mut().unwrap().password = Some(Bytes::new());
    let out = Bench::new().packet(Packet::Connect(Box::new(connect)));
    let [Output::Authenticate(request)] = &out[..] else { panic!("{out:?}") };
    assert_eq!(request.password, None);
}

/// Codes 2 and 4 would keep a C SDK away for good.
#[test]
fn refusals_let_devices_come_back() {
    use ConnectReturnCode::{NotAuthorized, ServerUnavailable};
    let mut connect = connect_as("dev1");
    connect.login = None;
    check_refused(connect, ServerUnavailable, "user_name_missing");
    let mut connect = connect_as("dev1");
    connect.login.as_mut().unwrap().user_name = text("hub/dev1");
    check_refused(connect, ServerUnavailable, "user_name_form");
    for client_id in ["", "DEV1", "dev2", "dev1/m"] {
        let mut connect = connect_as("dev1");
        connect.client_id = text(client_id);
        check_refused(connect, NotAuthorized, "client_id");
    }
    let mut connect = connect_as("dev1/m");
    connect.client_id = text("dev1");
    check_refused(connect, NotAuthorized, "client_id");
    for topic in ["devices/dev2/messages/events/", "$iothub/twin/GET/?$rid=1", "x"] {
        let mut connect = connect_as("dev1");
        connect.will = Some(will_to(topic));
        check_refused(connect, NotAuthorized, "will_topic");
    }
}

#[test]
fn the_verdict_of_auth_is_told() {
    for (code, expected) in [
        (ConnectReturnCode::NotAuthorized, Blame::Peer),
        (ConnectReturnCode::ServerUnavailable, Blame::Environment),
    ] {
        let mut bench = Bench::new();
        bench.packet(Packet::Connect(Box::new(connect_as("dev1"))));
        bench.packet(publish(TOPIC, "early", qos1(1)));
        let refusal = Refusal { code, label: "scope", detail: "not in scope".to_owned() };
        let (label, blame, before) = ended(bench.verdict(Err(refusal)));
        assert_eq!((label, blame, before), ("scope", expected, vec![connack(code)]));
        assert_eq!(bench.closed(), []);
    }
}

#[test]
fn another_protocol_level_is_answered_with_code_1() {
    let mut bench = Bench::new();
    let mut out = Vec::new();
    bench.session.on_codec_error(CodecError::ProtocolLevel(5), WALL, &mut out);
    let (label, _, before) = ended(out);
    assert_eq!(label, "protocol_level");
    assert_eq!(before, [connack(ConnectReturnCode::UnacceptableProtocolVersion)]);
    let mut out = Vec::new();
    let mut bench = Bench::connected("dev1");
    bench.session.on_codec_error(CodecError::ProtocolLevel(5), WALL, &mut out);
    check_violation(out, "protocol_level");
}

#[test]
fn packets_of_the_same_flight_wait_for_the_connack() {
    let mut bench = Bench::new();
    bench.packet(Packet::Connect(Box::new(connect_as("dev1"))));
    assert_eq!(bench.packet(publish(TOPIC, "a", qos1(1))), []);
    assert_eq!(bench.packet(Packet::PingReq), []);
    let out = bench.verdict(Ok(Identity::vouched(name("dev1"))));
    assert_eq!(out[0], connack(ConnectReturnCode::Accepted));
    assert!(matches!(out[1], Output::Route { tag: 0, .. }));
    assert_eq!(out[2..], [Output::Send(Packet::PingResp)]);
    assert_eq!(bench.durable(0), [puback(1)]);
}

#[test]
fn what_waits_for_the_connack_is_bounded() {
    let mut bench = Bench::new();
    bench.packet(Packet::Connect(Box::new(connect_as("dev1"))));
    let mut held = 0;
    while bench.session.wants_read() {
        assert_eq!(bench.packet(Packet::PingReq), []);
        held += 1;
    }
    assert_eq!(held, HELD_PACKETS_MAX);
    let (label, blame, _) = ended(bench.packet(Packet::PingReq));
    assert_eq!((label, blame), ("read_past_stop", Blame::Ours));

    let mut bench = Bench::new();
    bench.packet(Packet::Connect(Box::new(connect_as("dev1"))));
    let payload = vec![0; 200_000].into();
    let delivery = Delivery::AtMostOnce;
    bench.packet(Packet::Publish(Publish { topic: text(TOPIC), payload, delivery, retain: false }));
    assert!(!bench.session.wants_read(), "one large packet is enough");
    bench.verdict(Ok(Identity::vouched(name("dev1"))));
    assert!(bench.session.wants_read());
}

#[test]
fn a_full_window_before_the_connack_stalls_after_it() {
    let mut bench = Bench::new();
    bench.packet(Packet::Connect(Box::new(connect_as("dev1"))));
    for n in 1..=20 {
        bench.packet(publish(TOPIC, "x", qos1(n)));
    }
    let out = bench.verdict(Ok(Identity::vouched(name("dev1"))));
    assert_eq!(out.len(), 1 + 16);
    assert!(!bench.session.wants_read());
    for tag in 0..4 {
        assert_eq!(bench.durable(tag).len(), 2, "an ack, and the next route");
    }
    assert!(bench.session.wants_read());
}

#[test]
fn a_stranger_may_send_less() {
    let mut bench = Bench::new();
    assert_eq!(bench.session.packet_bytes_max(), 65_536);
    bench.packet(Packet::Connect(Box::new(connect_as("dev1"))));
    assert_eq!(bench.session.packet_bytes_max(), 262_144);
}

#[test]
fn one_suback_with_one_code_a_filter_in_order() {
    let mut bench = Bench::connected("dev1");
    let filters = vec![
        (text("devices/dev1/messages/devicebound/#"), QoS::ExactlyOnce),
        (text("devices/dev2/messages/devicebound/#"), QoS::AtLeastOnce),
        (text("$iothub/twin/res/#"), QoS::AtMostOnce),
        (text("#"), QoS::AtMostOnce),
        (text("$iothub/methods/POST/#"), QoS::AtLeastOnce),
    ];
    let out = bench.packet(Packet::Subscribe(Subscribe { packet_id: id(9), filters }));
    let granted = SubscribeReturnCode::Granted;
    let codes = vec![
        granted(QoS::AtLeastOnce),
        SubscribeReturnCode::Failure,
        granted(QoS::AtMostOnce),
        SubscribeReturnCode::Failure,
        granted(QoS::AtLeastOnce),
    ];
    let mut remembered = subscribed_to(&[
        (Subscription::CloudToDevice, QoS::AtLeastOnce),
        (Subscription::TwinResponses, QoS::AtMostOnce),
        (Subscription::Methods, QoS::AtLeastOnce),
    ]);
    let expected = [
        Output::FilterDenied(Denied::FilterIdentity),
        Output::FilterDenied(Denied::FilterWildcard),
        Output::Subscriptions(remembered.clone()),
        Output::Send(Packet::SubAck(SubAck { packet_id: id(9), codes })),
    ];
    assert_eq!(out, expected);
    assert_eq!(bench.session.subscribed(Subscription::Methods), Some(QoS::AtLeastOnce));
    assert_eq!(bench.session.subscribed(Subscription::Desired), None);

    let filters = vec![text("$iothub/methods/POST/#"), text("$iothub/methods/POST/#"), text("x")];
    let out = bench.packet(Packet::Unsubscribe(Unsubscribe { packet_id: id(10), filters }));
    remembered.subscriptions.set(Subscription::Methods, None);
    let expected = [Output::Subscriptions(remembered), Output::Send(Packet::UnsubAck(id(10)))];
    assert_eq!(out, expected);
    assert_eq!(bench.session.subscribed(Subscription::Methods), None);
}

#[test]
fn the_registrys_spelling_and_the_clients_are_both_its_own() {
    let mut bench = Bench::connected_with(connect_as("ABCD"), "abcd");
    for (n, topic) in
        ["devices/ABCD/messages/events/", "devices/abcd/messages/events/"].iter().enumerate()
    {
        let (tag, message) = routed(bench.packet(publish(topic, "x", Delivery::AtMostOnce)));
        assert_eq!(tag, n as u64);
        assert_eq!(message.source.sender.to_string(), "abcd");
    }
    assert_eq!(bench.session.claim(), Some(&name("ABCD")));
}
