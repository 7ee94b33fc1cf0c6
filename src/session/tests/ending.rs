//! Time-outs, wills, and the end.

use super::*;

fn with_will() -> Bench {
    let mut connect = connect_as("dev1");
    connect.will = Some(will_to("devices/dev1/messages/events/a=b"));
    Bench::connected_with(connect, "dev1")
}

#[track_caller]
fn check_will(out: Vec<Output>) {
    let (_, message) = routed(out);
    assert_eq!(message.properties.get("iothub-MessageType"), Some(Some("Will")));
    assert_eq!(message.properties.get("a"), Some(Some("b")));
    assert_eq!(message.system.get(SystemKey::ModelId), Some("dtmi:x;1"));
    assert_eq!(&message.body[..], b"gone");
}

#[test]
fn connect_must_come_in_time() {
    let mut bench = Bench::new();
    assert_eq!(bench.deadline(), Some(60));
    bench.later(59);
    assert_eq!(bench.timeout(), []);
    bench.later(1);
    check_violation(bench.timeout(), "connect_timeout");
    assert_eq!(bench.deadline(), None);
}

#[test]
fn authentication_must_come_in_time() {
    let mut bench = Bench::new();
    bench.later(50);
    bench.packet(Packet::Connect(Box::new(connect_as("dev1"))));
    assert_eq!(bench.deadline(), Some(60));
    bench.later(10);
    let (label, blame, before) = ended(bench.timeout());
    assert_eq!((label, blame), ("authentication_timeout", Blame::Environment));
    assert_eq!(before, [connack(ConnectReturnCode::ServerUnavailable)]);
    assert_eq!(bench.verdict(Ok(Identity::vouched(name("dev1")))), [], "too late");
}

#[test]
fn keep_alive_is_one_and_a_half_times_with_a_cap() {
    for (keep_alive_secs, expected) in [(60, 90), (1, 1), (240, 360), (0, 600), (1177, 600)] {
        let mut connect = connect_as("dev1");
        connect.keep_alive_secs = keep_alive_secs;
        let bench = Bench::connected_with(connect, "dev1");
        assert_eq!(bench.deadline(), Some(expected), "keep-alive {keep_alive_secs}");
    }
}

#[test]
fn any_packet_resets_the_keep_alive() {
    let mut bench = with_will();
    bench.later(300);
    bench.packet(Packet::PingReq);
    assert_eq!(bench.deadline(), Some(660));
    bench.later(300);
    let (tag, _) = routed(bench.packet(publish(TOPIC, "x", qos1(1))));
    bench.durable(tag);
    assert_eq!(bench.deadline(), Some(960));
    bench.later(360);
    let (label, blame, before) = ended(bench.timeout());
    assert_eq!((label, blame), ("keep_alive", Blame::Peer));
    check_will(before);
}

#[test]
fn while_nobody_reads_silence_is_not_the_clients() {
    let mut connect = connect_as("dev1");
    connect.keep_alive_secs = 10;
    let mut bench = Bench::connected_with(connect, "dev1");
    for n in 1..=17 {
        bench.packet(publish(TOPIC, "x", qos1(n)));
    }
    assert_eq!(bench.deadline(), Some(100), "only the disk's time runs");
    bench.later(90);
    assert_eq!(bench.timeout(), []);
    for tag in 0..17 {
        bench.durable(tag);
    }
    assert_eq!(bench.deadline(), Some(90 + 15));
}

/// The caller may stop reading for a reason that the session does not see (the store's byte budget).
#[test]
fn while_the_caller_does_not_read_silence_is_not_the_clients_either() {
    let mut connect = connect_as("dev1");
    connect.keep_alive_secs = 10;
    let mut bench = Bench::connected_with(connect, "dev1");
    bench.session.set_reading(false, bench.now);
    bench.later(90);
    assert_eq!((bench.deadline(), bench.timeout()), (None, vec![]));
    bench.session.set_reading(true, bench.now);
    assert_eq!(bench.deadline(), Some(90 + 15), "the client gets its whole time again");
}

/// A C SDK counts a message as lost after 120 s, but sends it again if the connection breaks before.
#[test]
fn a_message_that_waits_too_long_for_the_disk_breaks_the_connection() {
    let mut bench = Bench::connected("dev1");
    routed(bench.packet(publish(TOPIC, "x", qos1(1))));
    bench.later(50);
    bench.packet(Packet::PingReq);
    bench.later(49);
    assert_eq!(bench.timeout(), []);
    bench.later(1);
    let (label, blame, before) = ended(bench.timeout());
    assert_eq!((label, blame, before), ("ack_timeout", Blame::Environment, vec![]));
}

#[test]
fn the_will_is_published_unless_the_client_says_goodbye() {
    check_will(with_will().closed());

    let mut bench = with_will();
    let (label, blame, before) = ended(bench.packet(Packet::Disconnect));
    assert_eq!((label, blame, before), ("disconnect", Blame::Nobody, vec![]));
    assert_eq!(bench.closed(), []);

    let mut bench = with_will();
    let (label, _, before) = ended(bench.packet(publish("x", "x", qos1(1))));
    assert_eq!(label, "topic_unknown");
    check_will(before);
    assert_eq!(bench.closed(), [], "once");

    let mut bench = with_will();
    let mut out = Vec::new();
    let reason = CloseReason::peer("takeover", "a newcomer with the same name");
    bench.session.close(reason.clone(), WALL, &mut out);
    bench.session.close(reason, WALL, &mut out);
    check_will(ended(out).2);

    assert_eq!(Bench::connected("dev1").closed(), []);
}

#[test]
fn a_goodbye_behind_a_held_publish_is_a_goodbye() {
    let mut bench = with_will();
    for n in 1..=17 {
        bench.packet(publish(TOPIC, "x", qos1(n)));
    }
    bench.packet(Packet::Disconnect);
    assert_eq!(bench.closed(), []);

    let mut bench = with_will();
    for n in 1..=17 {
        bench.packet(publish(TOPIC, "x", qos1(n)));
    }
    bench.packet(Packet::Disconnect);
    let out = bench.durable(0);
    assert_eq!(out.len(), 3, "PUBACK, Route, Close");
    assert_eq!(ended(out).0, "disconnect");
}

#[test]
fn the_will_carries_a_tag_of_its_own() {
    let mut bench = with_will();
    let (first, _) = routed(bench.packet(publish(TOPIC, "x", qos1(1))));
    let (will, _) = routed(bench.closed());
    assert_eq!((first, will), (0, 1));
    assert_eq!(bench.durable(0), []);
    assert_eq!(bench.durable(1), []);
}

#[test]
fn nothing_follows_the_end() {
    let mut bench = Bench::connected("dev1");
    let (tag, _) = routed(bench.packet(publish(TOPIC, "x", qos1(1))));
    bench.packet(Packet::Disconnect);
    assert!(bench.session.is_closed() && !bench.session.wants_read());
    assert_eq!(bench.packet(publish(TOPIC, "x", qos1(2))), []);
    assert_eq!(bench.durable(tag), []);
    bench.later(10_000);
    assert_eq!(bench.timeout(), []);
    let mut out = Vec::new();
    bench.session.on_codec_error(CodecError::Qos, WALL, &mut out);
    assert_eq!(out, []);
}
