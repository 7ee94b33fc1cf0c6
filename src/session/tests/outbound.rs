//! What is sent to a client: by which topic, with which QoS, and what comes of it.

use super::*;
use crate::identity::Identity;
use crate::message::{Properties, Source, SystemProperties};
use crate::mqtt::filter::TopicFilter;
use crate::session::outgoing::OUTGOING_MAX;

const C2D: &str = "devices/dev1/messages/devicebound/#";
const METHODS: &str = "$iothub/methods/POST/#";
const TWIN: &str = "$iothub/twin/res/#";
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";

fn subscribe(bench: &mut Bench, filters: &[(&str, QoS)]) -> Vec<Output> {
    let filters = filters.iter().map(|(filter, qos)| (text(filter), *qos)).collect();
    bench.packet(Packet::Subscribe(Subscribe { packet_id: id(1), filters }))
}

fn subscribed(filters: &[(&str, QoS)]) -> Bench {
    let mut bench = Bench::connected("dev1");
    subscribe(&mut bench, filters);
    bench
}

fn unsubscribe(bench: &mut Bench, filter: &str) -> Vec<Output> {
    let unsubscribe = Unsubscribe { packet_id: id(2), filters: vec![text(filter)] };
    bench.packet(Packet::Unsubscribe(unsubscribe))
}

fn send(bench: &mut Bench, tag: u64, content: Outbound) -> (Sent, Vec<Output>) {
    let mut out = Vec::new();
    let sent = bench.session.send(tag, content, &mut out);
    (sent, out)
}

#[track_caller]
fn published(bench: &mut Bench, tag: u64, content: Outbound) -> (Sent, Publish) {
    let (sent, mut out) = send(bench, tag, content);
    match (out.pop(), &out[..]) {
        (Some(Output::Send(Packet::Publish(publish))), []) => (sent, publish),
        (last, before) => panic!("{sent:?}: one PUBLISH expected: {last:?} after {before:?}"),
    }
}

fn c2d(body: &'static str) -> Outbound {
    let (mut system, mut properties) = (SystemProperties::default(), Properties::default());
    system.set(SystemKey::MessageId, "m 1");
    properties.set("a/b", Some("+#ü".into()));
    properties.set("bare", None);
    Outbound::CloudToDevice { system, properties, body: body.into() }
}

fn method(name: &str) -> Outbound {
    Outbound::Method { rid: "1f".into(), name: name.into(), body: "{}".into() }
}

fn twin_response(rid: &str) -> Outbound {
    Outbound::TwinResponse { status: 204, rid: rid.into(), version: Some(7), body: Bytes::new() }
}

fn input(from: &str) -> Outbound {
    let source = Source { sender: Identity::vouched(name(from)) };
    let message = Message {
        source,
        system: SystemProperties::default(),
        properties: Properties::default(),
        body: "b".into(),
        received: WALL,
    };
    Outbound::Input { input: "in1".into(), message }
}

#[track_caller]
fn check_topic(client: &str, identity: &str, filter: &str, content: Outbound, expected: &str) {
    let mut bench = Bench::connected_with(connect_as(client), identity);
    subscribe(&mut bench, &[(filter, QoS::AtMostOnce)]);
    let (sent, publish) = published(&mut bench, 1, content);
    assert_eq!((sent, publish.topic.as_str()), (Sent::Written, expected), "{client}: {filter}");
    assert_eq!((publish.delivery, publish.retain), (Delivery::AtMostOnce, false));
    let filter = TopicFilter::parse(filter).unwrap();
    assert!(filter.matches(&publish.topic), "{filter:?}: {}", publish.topic);
}

#[test]
fn each_kind_has_its_topic() {
    let bag = "%24.mid=m%201&a%2Fb=%2B%23%C3%BC&bare";
    let check = |filter, content, expected| check_topic("dev1", "dev1", filter, content, expected);
    check(TWIN, twin_response("a-b"), "$iothub/twin/res/204/?$rid=a-b&$version=7");
    let desired = Outbound::Desired { version: 3, body: "{}".into() };
    check(DESIRED, desired, "$iothub/twin/PATCH/properties/desired/?$version=3");
    check(METHODS, method("reboot"), "$iothub/methods/POST/reboot/?$rid=1f");
    check(C2D, c2d("x"), &format!("devices/dev1/messages/devicebound/{bag}"));
    for filter in ["devices/dev1/modules/m/#", "devices/dev1/modules/m/inputs/#"] {
        let expected = "devices/dev1/modules/m/inputs/in1/%24.cdid=d9&%24.cmid=n";
        check_topic("dev1/m", "dev1/m", filter, input("d9/n"), expected);
    }
}

/// Python percent-encodes ids in filters and looks for the same in topics; C does not. The registry may spell it in yet
/// another way.
#[test]
fn topics_are_spelled_as_the_client_spelled_its_filter() {
    let bag = "%24.mid=m%201&a%2Fb=%2B%23%C3%BC&bare";
    for level in ["00:1B", "00%3A1B", "00%3a1B"] {
        let filter = format!("devices/{level}/messages/devicebound/#");
        let expected = format!("devices/{level}/messages/devicebound/{bag}");
        check_topic("00:1B", "00:1b", &filter, c2d("x"), &expected);
    }
    let (filter, expected) =
        ("devices/a%2Bb%23/messages/devicebound/#", "devices/a%2Bb%23/messages");
    check_topic("a+b#", "a+b#", filter, c2d("x"), &format!("{expected}/devicebound/{bag}"));
    for (filter, prefix) in [
        ("devices/d/modules/%24m/inputs/#", "devices/d/modules/%24m"),
        ("devices/d/modules/$m/#", "devices/d/modules/$m"),
    ] {
        check_topic(
            "d/$m",
            "d/$m",
            filter,
            input("d9"),
            &format!("{prefix}/inputs/in1/%24.cdid=d9"),
        );
    }
    // Names that look like other levels.
    for (client, filter, prefix) in [
        ("d/inputs", "devices/d/modules/inputs/#", "devices/d/modules/inputs"),
        ("d/inputs", "devices/d/modules/inputs/inputs/#", "devices/d/modules/inputs"),
        ("d/%69nputs", "devices/d/modules/%69nputs/#", "devices/d/modules/%69nputs"),
        (
            "modules/messages",
            "devices/modules/modules/messages/#",
            "devices/modules/modules/messages",
        ),
    ] {
        check_topic(
            client,
            client,
            filter,
            input("d9"),
            &format!("{prefix}/inputs/in1/%24.cdid=d9"),
        );
    }
    let filter = "devices/modules/messages/devicebound/#";
    check_topic(
        "modules",
        "modules",
        filter,
        c2d("x"),
        &format!("devices/modules/messages/devicebound/{bag}"),
    );
}

#[test]
fn the_last_filter_says_how_topics_are_spelled_and_is_remembered() {
    let mut bench = Bench::connected("a:b");
    let filters = [("devices/a%3Ab/messages/devicebound/#", QoS::AtLeastOnce)];
    subscribe(&mut bench, &filters);
    let remembered = bench.session.remembered().unwrap().clone();
    assert_eq!(remembered.prefix.as_deref(), Some("devices/a%3Ab"));
    subscribe(&mut bench, &[("devices/a:b/messages/devicebound/#", QoS::AtLeastOnce)]);
    assert_eq!(bench.session.remembered().unwrap().prefix, None);
    let mut next = resumed("a:b", Some(remembered)).0;
    let (_, publish) = published(&mut next, 1, c2d("x"));
    assert!(publish.topic.starts_with("devices/a%3Ab/messages/devicebound/%24.mid"));
}

/// Connects as `client` with CleanSession 0; also says whether a session is present.
fn resumed(client: &str, earlier: Option<Remembered>) -> (Bench, bool) {
    let mut bench = Bench::new();
    bench.packet(Packet::Connect(Box::new(connect_as(client))));
    bench.session.resume(earlier);
    let out = bench.verdict(Ok(Identity::vouched(name(client))));
    let [Output::Send(Packet::ConnAck(connack))] = out[..] else { panic!("{out:?}") };
    assert_eq!(connack.code, ConnectReturnCode::Accepted);
    (bench, connack.session_present)
}

#[test]
fn a_session_is_present_if_there_is_one() {
    let (bench, is_present) = resumed("dev1", None);
    assert!(!is_present && bench.session.remembered() == Some(&Remembered::default()));

    let earlier = subscribed_to(&[(Subscription::Methods, QoS::AtLeastOnce)]);
    let (mut bench, is_present) = resumed("dev1", Some(earlier.clone()));
    assert!(is_present && bench.session.remembered() == Some(&earlier));
    let (sent, publish) = published(&mut bench, 1, method("m"));
    assert_eq!(sent, Sent::AwaitsAck, "without a new SUBSCRIBE");
    assert_eq!(publish.delivery.qos(), QoS::AtLeastOnce);

    // All was unsubscribed: there is a session, and nothing in it.
    let (bench, is_present) = resumed("dev1", Some(Remembered::default()));
    assert!(is_present && bench.session.remembered() == Some(&Remembered::default()));

    // A refusal has no session [MQTT-3.2.2-4].
    let mut bench = Bench::new();
    bench.packet(Packet::Connect(Box::new(connect_as("dev1"))));
    bench.session.resume(Some(earlier));
    let (code, label) = (ConnectReturnCode::NotAuthorized, "scope");
    let out = bench.verdict(Err(Refusal { code, label, detail: String::new() }));
    assert_eq!(out[0], connack(code));
}

#[test]
fn without_a_subscription_nothing_is_sent() {
    let mut bench = subscribed(&[(C2D, QoS::AtLeastOnce)]);
    for content in [method("m"), twin_response("1"), input("d9")] {
        assert_eq!(send(&mut bench, 1, content), (Sent::NotSubscribed, vec![]));
    }
    unsubscribe(&mut bench, C2D);
    assert_eq!(send(&mut bench, 1, c2d("x")), (Sent::NotSubscribed, vec![]));
    bench.packet(Packet::Disconnect);
    assert_eq!(send(&mut bench, 1, c2d("x")), (Sent::NotSubscribed, vec![]));
    assert_eq!(send(&mut Bench::new(), 1, c2d("x")), (Sent::NotSubscribed, vec![]));
}

#[test]
fn qos_1_waits_for_the_puback_and_ids_go_round() {
    let mut bench = subscribed(&[(C2D, QoS::AtLeastOnce)]);
    let mut ids = Vec::new();
    for tag in 0..3 {
        let (sent, publish) = published(&mut bench, 100 + tag, c2d("x"));
        assert_eq!(sent, Sent::AwaitsAck);
        let Delivery::AtLeastOnce { packet_id, dup: false } = publish.delivery else {
            panic!("{publish:?}")
        };
        ids.push(packet_id.get());
    }
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(bench.session.unacknowledged(), 3);
    // In any order, each once, and none that was never sent.
    for (packet_id, expected) in
        [(2, Some(101)), (2, None), (9, None), (1, Some(100)), (3, Some(102))]
    {
        let out = bench.packet(Packet::PubAck(id(packet_id)));
        assert_eq!(
            out,
            expected.map(|tag| Output::Acknowledged { tag }).into_iter().collect::<Vec<_>>()
        );
    }
    assert_eq!(bench.session.unacknowledged(), 0);
    let (_, publish) = published(&mut bench, 1, c2d("x"));
    assert_eq!(publish.delivery.packet_id(), Some(id(4)), "not used again right away");
}

#[test]
fn connections_of_a_client_begin_with_ids_far_from_each_other() {
    let first = |serial| {
        let mut bench = Bench::new();
        bench.packet(Packet::Connect(Box::new(connect_as("dev1"))));
        bench.session.set_serial(serial);
        bench
            .session
            .resume(Some(subscribed_to(&[(Subscription::CloudToDevice, QoS::AtLeastOnce)])));
        bench.verdict(Ok(Identity::vouched(name("dev1"))));
        published(&mut bench, 1, c2d("x")).1.delivery.packet_id().unwrap().get()
    };
    for serial in [0, 1, 200, u64::MAX - 1] {
        let (one, next) = (i32::from(first(serial)), i32::from(first(serial + 1)));
        assert!((one - next).abs() > 64, "{serial}: {one}, {next}");
        assert!((1..=0x3fff).contains(&one));
    }
}

#[test]
fn a_client_that_never_acknowledges_gets_no_more_with_qos_1_and_all_else() {
    let mut bench = subscribed(&[(C2D, QoS::AtLeastOnce), (METHODS, QoS::AtMostOnce)]);
    for tag in 0..OUTGOING_MAX as u64 {
        assert_eq!(send(&mut bench, tag, c2d("x")).0, Sent::AwaitsAck);
    }
    assert_eq!(send(&mut bench, 64, c2d("x")), (Sent::Full, vec![]));
    assert_eq!(published(&mut bench, 65, method("m")).0, Sent::Written);
    assert!(bench.session.wants_read());
    let (tag, _) = routed(bench.packet(publish(TOPIC, "x", qos1(7))));
    assert_eq!(bench.durable(tag), [puback(7)]);
    assert_eq!(bench.packet(Packet::PingReq), [Output::Send(Packet::PingResp)]);
    bench.packet(Packet::PubAck(id(1)));
    assert_eq!(send(&mut bench, 66, c2d("x")).0, Sent::AwaitsAck);
}

#[test]
fn a_subscription_that_changes_under_way_changes_what_comes_after() {
    let mut bench = subscribed(&[(C2D, QoS::AtLeastOnce)]);
    published(&mut bench, 1, c2d("one"));
    subscribe(&mut bench, &[(C2D, QoS::AtMostOnce)]);
    assert_eq!(published(&mut bench, 2, c2d("two")).0, Sent::Written, "a lower QoS");
    unsubscribe(&mut bench, C2D);
    assert_eq!(send(&mut bench, 3, c2d("three")).0, Sent::NotSubscribed);
    // What was sent before is brought to its end [MQTT-3.10.4-3].
    assert_eq!(bench.packet(Packet::PubAck(id(1))), [Output::Acknowledged { tag: 1 }]);
}

#[test]
fn what_is_sent_keeps_nobody_alive() {
    let mut bench = subscribed(&[(C2D, QoS::AtLeastOnce)]);
    bench.later(359);
    published(&mut bench, 1, c2d("x"));
    assert_eq!(bench.deadline(), Some(360));
    bench.packet(Packet::PubAck(id(1)));
    assert_eq!(bench.deadline(), Some(359 + 360), "its PUBACK does");
}

#[test]
fn what_no_topic_can_say_is_never_sent_and_takes_no_room() {
    let mut bench = subscribed(&[
        (C2D, QoS::AtLeastOnce),
        (METHODS, QoS::AtLeastOnce),
        (TWIN, QoS::AtLeastOnce),
    ]);
    let mut properties = Properties::default();
    properties.set("p", Some("/".repeat(30_000).into()));
    let system = SystemProperties::default();
    let large = Outbound::CloudToDevice { system, properties, body: Bytes::new() };
    let long_rid = "r".repeat(65_535);
    for content in [large, method("a+b"), method("#"), method("a\0b"), twin_response(&long_rid)] {
        assert_eq!(send(&mut bench, 1, content), (Sent::Unsendable, vec![]));
    }
    assert_eq!(bench.session.unacknowledged(), 0);
}

#[test]
fn a_patch_at_qos_1_is_acknowledged_once_it_is_kept_and_in_turn() {
    const PATCH: &str = "$iothub/twin/PATCH/properties/reported/?$rid=5";
    let mut bench = Bench::connected("dev1");
    let patch = |tag| {
        let (rid, body) = (Some("5".into()), Bytes::from_static(b"{}"));
        Output::TwinRequest(TwinRequest::Patch { tag, rid, version: None, body })
    };
    assert_eq!(bench.packet(publish(PATCH, "{}", Delivery::AtMostOnce)), [patch(None)]);
    assert_eq!(bench.packet(publish(PATCH, "{}", qos1(1))), [patch(Some(0))]);
    let (telemetry, _) = routed(bench.packet(publish(TOPIC, "x", qos1(2))));
    assert_eq!(bench.packet(publish(PATCH, "{}", qos1(3))), [patch(Some(2))]);
    assert_eq!(bench.durable(telemetry), [], "behind the first patch");
    let mut kept = |tag| {
        let mut out = Vec::new();
        bench.session.on_kept(tag, bench.now, &mut out);
        out
    };
    assert_eq!(kept(2), []);
    assert_eq!(kept(0), [puback(1), puback(2), puback(3)]);
    assert_eq!(kept(0), [], "once");
}

#[test]
fn only_the_disk_acknowledges_telemetry_and_only_who_keeps_it_a_patch() {
    const PATCH: &str = "$iothub/twin/PATCH/properties/reported/?$rid=5";
    let mut bench = Bench::connected("dev1");
    routed(bench.packet(publish(TOPIC, "x", qos1(1))));
    bench.packet(publish(PATCH, "{}", qos1(2)));
    let mut out = Vec::new();
    bench.session.on_kept(0, bench.now, &mut out);
    assert_eq!(out, [], "nothing is on the disk");
    assert_eq!(bench.durable(1), []);
    assert_eq!(bench.durable(0), [puback(1)]);
    bench.session.on_kept(1, bench.now, &mut out);
    assert_eq!(out, [puback(2)]);
}

#[test]
fn a_patch_that_nobody_keeps_ends_the_connection() {
    const PATCH: &str = "$iothub/twin/PATCH/properties/reported/?$rid=5";
    let mut bench = Bench::connected("dev1");
    bench.packet(publish(PATCH, "{}", qos1(1)));
    bench.later(100);
    assert_eq!(ended(bench.timeout()).0, "ack_timeout");
}

/// J1 of the protocol facts: a Sphere device asks for three at once.
#[test]
fn three_filters_of_a_sphere_device_have_one_suback() {
    let mut bench = Bench::connected("dev1");
    let filters = [(C2D, QoS::AtLeastOnce), (TWIN, QoS::AtMostOnce), (METHODS, QoS::AtMostOnce)];
    let out = subscribe(&mut bench, &filters);
    let granted = SubscribeReturnCode::Granted;
    let codes = vec![granted(QoS::AtLeastOnce), granted(QoS::AtMostOnce), granted(QoS::AtMostOnce)];
    let remembered = subscribed_to(&[
        (Subscription::CloudToDevice, QoS::AtLeastOnce),
        (Subscription::TwinResponses, QoS::AtMostOnce),
        (Subscription::Methods, QoS::AtMostOnce),
    ]);
    let suback = Packet::SubAck(SubAck { packet_id: id(1), codes });
    assert_eq!(out, [Output::Subscriptions(remembered), Output::Send(suback)]);
}

#[test]
fn what_is_refused_changes_no_subscription() {
    let mut bench = subscribed(&[(C2D, QoS::AtLeastOnce)]);
    let out = subscribe(&mut bench, &[("#", QoS::AtLeastOnce)]);
    assert!(matches!(out[..], [Output::FilterDenied(_), Output::Send(_)]), "{out:?}");
    let out = unsubscribe(&mut bench, METHODS);
    assert_eq!(out, [Output::Send(Packet::UnsubAck(id(2)))]);
}
