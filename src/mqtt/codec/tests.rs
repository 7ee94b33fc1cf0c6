//! Every check of the decoder by its clause, the round trip, and every way of cutting a stream.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::mqtt::filter::FilterError;
use crate::mqtt::packet::*;

const MAX: usize = 262_144;

fn text(s: &str) -> Utf8Bytes {
    Utf8Bytes::copy_from(s).unwrap()
}

fn id(n: u16) -> PacketId {
    PacketId::new(n).unwrap()
}

fn wire(packet: &Packet) -> BytesMut {
    let mut out = BytesMut::new();
    encode(packet, &mut out).unwrap();
    out
}

fn decode_all(bytes: &[u8]) -> Result<Option<Packet>, CodecError> {
    decode(&mut BytesMut::from(bytes), MAX)
}

fn check(bytes: &[u8], expected: CodecError) {
    assert_eq!(decode_all(bytes), Err(expected), "{bytes:02x?}");
}

/// The fixed header of a CONNECT, a variable header with these flags, and this payload.
fn connect(flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x10, 10 + u8::try_from(payload.len()).unwrap()];
    bytes.extend([0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 60]);
    bytes.extend(payload);
    bytes
}

#[test]
fn bytes_on_the_wire_are_those_of_the_standard() {
    let subscribe = Subscribe {
        packet_id: id(10),
        filters: vec![(text("a/b"), QoS::AtLeastOnce), (text("c/d"), QoS::ExactlyOnce)],
    };
    let publish = Publish {
        topic: text("a/b"),
        payload: Bytes::from_static(b"hi"),
        delivery: Delivery::AtLeastOnce { packet_id: id(10), dup: true },
        retain: true,
    };
    let suback = SubAck {
        packet_id: id(10),
        codes: vec![SubscribeReturnCode::Granted(QoS::AtMostOnce), SubscribeReturnCode::Failure],
    };
    let unsubscribe = Unsubscribe { packet_id: id(1), filters: vec![text("a/b"), text("c/d")] };
    let accepted = ConnAck { session_present: true, code: ConnectReturnCode::Accepted };
    let cases: [(Packet, &[u8]); 13] = [
        (Packet::ConnAck(accepted), &[0x20, 2, 1, 0]),
        (Packet::Publish(publish), b"\x3b\x09\x00\x03a/b\x00\x0ahi"),
        (Packet::PubAck(id(0x1234)), &[0x40, 2, 0x12, 0x34]),
        (Packet::PubRec(id(1)), &[0x50, 2, 0, 1]),
        (Packet::PubRel(id(1)), &[0x62, 2, 0, 1]),
        (Packet::PubComp(id(1)), &[0x70, 2, 0, 1]),
        (Packet::Subscribe(subscribe), b"\x82\x0e\x00\x0a\x00\x03a/b\x01\x00\x03c/d\x02"),
        (Packet::SubAck(suback), &[0x90, 4, 0, 10, 0, 0x80]),
        (Packet::Unsubscribe(unsubscribe), b"\xa2\x0c\x00\x01\x00\x03a/b\x00\x03c/d"),
        (Packet::UnsubAck(id(1)), &[0xb0, 2, 0, 1]),
        (Packet::PingReq, &[0xc0, 0]),
        (Packet::PingResp, &[0xd0, 0]),
        (Packet::Disconnect, &[0xe0, 0]),
    ];
    for (packet, bytes) in cases {
        assert_eq!(wire(&packet), bytes, "{packet:?}");
        assert_eq!(decode_all(bytes), Ok(Some(packet)));
    }
}

#[test]
fn a_connect_with_everything() {
    let bytes =
        b"\x10\x1d\x00\x04MQTT\x04\xee\x00\x0a\x00\x01c\x00\x02wt\x00\x02wp\x00\x01u\x00\x03p\x00w";
    let expected = Packet::Connect(Box::new(Connect {
        client_id: text("c"),
        clean_session: true,
        keep_alive_secs: 10,
        will: Some(Will {
            topic: text("wt"),
            payload: Bytes::from_static(b"wp"),
            qos: QoS::AtLeastOnce,
            retain: true,
        }),
        login: Some(Login { user_name: text("u"), password: Some(Bytes::from_static(b"p\0w")) }),
    }));
    assert_eq!(decode_all(bytes), Ok(Some(expected.clone())));
    assert_eq!(wire(&expected), &bytes[..]);
    assert!(!format!("{expected:?}").contains("p\\0w"), "no password in logs");
}

#[test]
fn fixed_headers_that_no_packet_has() {
    check(&[0x00], CodecError::PacketType(0)); // table 2.1
    check(&[0xf0], CodecError::PacketType(15));
    for first in
        [0x11, 0x28, 0x41, 0x51, 0x60, 0x63, 0x71, 0x80, 0x83, 0x91, 0xa0, 0xb1, 0xc1, 0xd2, 0xe4]
    {
        check(&[first], CodecError::Flags(first)); // [MQTT-2.2.2-2], at the first byte
    }
    check(&[0x36], CodecError::Qos); // [MQTT-3.3.1-4]
    check(&[0x38], CodecError::DupWithQos0); // [MQTT-3.3.1-2]
    check(&[0x30, 0x80, 0x80, 0x80, 0x80], CodecError::RemainingLength);
    check(&[0xc0, 0xff, 0x7f], CodecError::FixedLength(12));
    check(&[0x40, 3], CodecError::FixedLength(4));
    check(&[0x40, 0], CodecError::FixedLength(4));
    assert_eq!(decode_all(&[0x30, 0x80, 0x80, 0x80]), Ok(None));
}

#[test]
fn fields_that_break_their_clause() {
    use CodecError::*;
    let not_utf8 = |field| Text { field, error: TextError::NotUtf8 };
    let cases: [(&[u8], CodecError); 24] = [
        (b"\x30\x00", Short("topic name")),
        (b"\x30\x03\x00\x02a", Short("topic name")),
        (b"\x30\x02\x00\x00", TopicEmpty),       // [MQTT-4.7.3-1]
        (b"\x30\x05\x00\x03a/#", TopicWildcard), // [MQTT-3.3.2-2]
        (b"\x30\x05\x00\x03+/a", TopicWildcard),
        (b"\x30\x03\x00\x01\xff", not_utf8("topic name")), // [MQTT-1.5.3-1]
        (b"\x30\x05\x00\x03\xed\xa0\x80", not_utf8("topic name")), // an encoded surrogate
        (b"\x30\x03\x00\x01\x00", Text { field: "topic name", error: TextError::Nul }), // [MQTT-1.5.3-2]
        (b"\x32\x03\x00\x01a", Short("packet identifier")),
        (b"\x32\x05\x00\x01a\x00\x00", PacketIdZero), // [MQTT-2.3.1-1]
        (b"\x40\x02\x00\x00", PacketIdZero),
        (b"\x82\x02\x00\x01", NoFilters), // [MQTT-3.8.3-3]
        (b"\xa2\x02\x00\x01", NoFilters), // [MQTT-3.10.3-2]
        (b"\x82\x06\x00\x01\x00\x01a\x03", RequestedQos(3)), // [MQTT-3-8.3-4]
        (b"\x82\x06\x00\x01\x00\x01a\x80", RequestedQos(0x80)),
        (b"\x82\x05\x00\x01\x00\x01a", Short("requested QoS")),
        (b"\x82\x05\x00\x01\x00\x00\x00", Filter(FilterError::Empty)), // [MQTT-4.7.3-1]
        (b"\x82\x07\x00\x01\x00\x02a#\x00", Filter(FilterError::MultiLevel)), // [MQTT-4.7.1-2]
        (b"\xa2\x06\x00\x01\x00\x02a+", Filter(FilterError::SingleLevel)), // [MQTT-4.7.1-3]
        (b"\x20\x02\x02\x00", ConnAckFlags(2)),
        (b"\x20\x02\x01\x05", ConnAckFlags(1)), // [MQTT-3.2.2-4]
        (b"\x20\x02\x00\x06", ReturnCode(6)),   // table 3.1
        (b"\x90\x03\x00\x01\x03", ReturnCode(3)), // [MQTT-3.9.3-2]
        (b"\x90\x02\x00\x01", FixedLength(9)),
    ];
    for (bytes, expected) in cases {
        check(bytes, expected);
    }
}

#[test]
fn connects_that_break_their_clause() {
    use CodecError::*;
    check(&connect(0x01, b"\0\0"), ConnectFlagReserved); // [MQTT-3.1.2-3]
    check(&connect(0x08, b"\0\0"), WillFlags); // [MQTT-3.1.2-13]
    check(&connect(0x20, b"\0\0"), WillFlags); // [MQTT-3.1.2-15]
    check(&connect(0x1c, b"\0\0\0\x01t\0\0"), WillFlags); // [MQTT-3.1.2-14]
    check(&connect(0x40, b"\0\0\0\0"), PasswordAlone); // [MQTT-3.1.2-22]
    check(&connect(0x04, b"\0\0\0\0\0\0"), TopicEmpty);
    check(&connect(0x04, b"\0\0\0\x01#\0\0"), TopicWildcard);
    check(&connect(0x80, b"\0\0"), Short("user name"));
    check(&connect(0x00, b"\0\0x"), Trailing(1));
    check(&connect(0x00, b"\0\x01\0"), Text { field: "client identifier", error: TextError::Nul });
    check(&connect(0x00, b""), Short("client identifier"));
    check(b"\x10\x07\x00\x04MQTT\x05", ProtocolLevel(5)); // [MQTT-3.1.2-2]
    check(b"\x10\x07\x00\x04MQTT\x84", ProtocolLevel(0x84));
    check(b"\x10\x09\x00\x06MQIsdp\x03", ProtocolLevel(3));
    check(b"\x10\x07\x00\x04MQTX\x04", ProtocolName); // [MQTT-3.1.2-1]
    check(b"\x10\x07\x00\x04mqtt\x04", ProtocolName);
    check(b"\x10\x00", Short("protocol name"));
}

#[test]
fn an_oversized_packet_is_refused_from_its_fixed_header_alone() {
    // 2 + topic + payload for QoS 0, 4 + topic + payload for QoS 1: the sum is what counts.
    let header = |first: u8, remaining: usize| {
        let seven =
            |shift: u32, more: u8| u8::try_from((remaining >> shift) & 0x7f).unwrap() | more;
        vec![first, seven(0, 0x80), seven(7, 0x80), seven(14, 0)]
    };
    assert_eq!(decode_all(&header(0x30, MAX + 2)), Ok(None));
    check(&header(0x30, MAX + 3), CodecError::TooLarge { bytes: MAX + 1, max_bytes: MAX });
    assert_eq!(decode_all(&header(0x32, MAX + 4)), Ok(None));
    check(&header(0x32, MAX + 5), CodecError::TooLarge { bytes: MAX + 1, max_bytes: MAX });
    assert_eq!(decode_all(&header(0x10, MAX)), Ok(None));
    check(&header(0x10, MAX + 1), CodecError::TooLarge { bytes: MAX + 1, max_bytes: MAX });
    check(
        &[0x30, 0xff, 0xff, 0xff, 0x7f],
        CodecError::TooLarge { bytes: REMAINING_LENGTH_MAX - 2, max_bytes: MAX },
    );
    let largest = Packet::Publish(Publish {
        topic: text("t"),
        payload: vec![7; MAX - 1].into(),
        delivery: Delivery::AtLeastOnce { packet_id: id(1), dup: false },
        retain: false,
    });
    assert_eq!(decode(&mut wire(&largest), MAX), Ok(Some(largest)));
}

#[test]
fn a_subscribe_does_not_unfold_without_limit() {
    let filters = |n: usize| vec![(text("a"), QoS::AtMostOnce); n];
    let packet = |n| Packet::Subscribe(Subscribe { packet_id: id(1), filters: filters(n) });
    assert!(decode(&mut wire(&packet(FILTERS_MAX)), MAX).is_ok());
    assert_eq!(decode(&mut wire(&packet(FILTERS_MAX + 1)), MAX), Err(CodecError::TooManyFilters));
}

#[test]
fn a_decoded_publish_shares_the_input() {
    let mut input = BytesMut::from(&b"\x30\x07\x00\x03a/bhi\xc0\x00"[..]);
    let range = input.as_ptr_range();
    let Ok(Some(Packet::Publish(p))) = decode(&mut input, MAX) else { panic!("a PUBLISH") };
    assert!(range.contains(&p.payload.as_ptr()), "the payload is a slice, not a copy");
    assert!(range.contains(&p.topic.as_bytes().as_ptr()), "the topic is a slice, not a copy");
    assert_eq!(decode(&mut input, MAX), Ok(Some(Packet::PingReq)));
    assert!(input.is_empty());
}

#[test]
fn what_no_length_field_can_tell_is_not_written() {
    let mut out = BytesMut::new();
    let login = Login { user_name: text("u"), password: Some(vec![0; 65_536].into()) };
    let connect = Connect {
        client_id: text("c"),
        clean_session: true,
        keep_alive_secs: 0,
        will: None,
        login: Some(login),
    };
    let packet = Packet::Connect(Box::new(connect));
    assert_eq!(encode(&packet, &mut out), Err(EncodeError::Field("the password")));
    assert!(out.is_empty());
    assert_eq!(Utf8Bytes::copy_from(&"x".repeat(65_536)), Err(TextError::TooLong(65_536)));
}

fn any_text() -> impl Strategy<Value = Utf8Bytes> {
    "[^\0]{0,40}".prop_map(|s| text(&s))
}

fn any_topic() -> impl Strategy<Value = Utf8Bytes> {
    "[^\0#+]{1,40}".prop_map(|s| text(&s))
}

fn any_filter() -> impl Strategy<Value = Utf8Bytes> {
    "([a-zé$]{0,5}/|[+]/){0,4}(#|[+]|[a-z]{1,5})".prop_map(|s| text(&s))
}

fn any_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(id)
}

fn any_qos() -> impl Strategy<Value = QoS> {
    (0..3u8).prop_map(|bits| QoS::from_bits(bits).unwrap())
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn any_publish() -> impl Strategy<Value = Packet> {
    (any_topic(), any_bytes(), any_qos(), any_id(), any::<bool>(), any::<bool>()).prop_map(
        |(topic, payload, qos, packet_id, dup, retain)| {
            let delivery = match qos {
                QoS::AtMostOnce => Delivery::AtMostOnce,
                QoS::AtLeastOnce => Delivery::AtLeastOnce { packet_id, dup },
                QoS::ExactlyOnce => Delivery::ExactlyOnce { packet_id, dup },
            };
            Packet::Publish(Publish { topic, payload, delivery, retain })
        },
    )
}

fn any_connect() -> impl Strategy<Value = Packet> {
    let will = (any_topic(), any_bytes(), any_qos(), any::<bool>())
        .prop_map(|(topic, payload, qos, retain)| Will { topic, payload, qos, retain });
    let login = (any_text(), proptest::option::of(any_bytes()))
        .prop_map(|(user_name, password)| Login { user_name, password });
    let will = proptest::option::of(will);
    let login = proptest::option::of(login);
    (any_text(), any::<bool>(), any::<u16>(), will, login).prop_map(
        |(client_id, clean_session, keep_alive_secs, will, login)| {
            let connect = Connect { client_id, clean_session, keep_alive_secs, will, login };
            Packet::Connect(Box::new(connect))
        },
    )
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let filters = proptest::collection::vec((any_filter(), any_qos()), 1..5);
    let names = proptest::collection::vec(any_filter(), 1..5);
    let code = proptest::option::of(any_qos())
        .prop_map(|qos| qos.map_or(SubscribeReturnCode::Failure, SubscribeReturnCode::Granted));
    let codes = proptest::collection::vec(code, 1..5);
    let connack = (0..6u8, any::<bool>()).prop_map(|(byte, present)| {
        let code = ConnectReturnCode::from_byte(byte).unwrap();
        Packet::ConnAck(ConnAck { session_present: present && byte == 0, code })
    });
    prop_oneof![
        any_connect(),
        any_publish(),
        connack,
        (any_id(), filters)
            .prop_map(|(packet_id, filters)| Packet::Subscribe(Subscribe { packet_id, filters })),
        (any_id(), names).prop_map(|(packet_id, filters)| {
            Packet::Unsubscribe(Unsubscribe { packet_id, filters })
        }),
        (any_id(), codes)
            .prop_map(|(packet_id, codes)| Packet::SubAck(SubAck { packet_id, codes })),
        any_id().prop_map(Packet::PubAck),
        any_id().prop_map(Packet::PubRec),
        any_id().prop_map(Packet::PubRel),
        any_id().prop_map(Packet::PubComp),
        any_id().prop_map(Packet::UnsubAck),
        Just(Packet::PingReq),
        Just(Packet::PingResp),
        Just(Packet::Disconnect),
    ]
}

proptest! {
    #[test]
    fn packets_survive_the_wire_in_any_two_pieces(
        packets in proptest::collection::vec(any_packet(), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = BytesMut::new();
        for packet in &packets {
            encode(packet, &mut bytes).unwrap();
        }
        let cut = cut.index(bytes.len() + 1);
        let mut input = BytesMut::new();
        let mut got = Vec::new();
        for piece in [&bytes[..cut], &bytes[cut..]] {
            input.extend_from_slice(piece);
            while let Some(packet) = decode(&mut input, MAX).unwrap() {
                got.push(packet);
            }
        }
        prop_assert_eq!(got, packets);
        prop_assert!(input.is_empty());
    }

    #[test]
    fn garbage_is_an_error_or_a_packet(input in proptest::collection::vec(any::<u8>(), 0..200)) {
        crate::mqtt::fuzz::packets(&input);
    }
}

#[test]
fn labels_are_short_words() {
    for error in [CodecError::Qos, CodecError::Short("x"), CodecError::ProtocolLevel(5)] {
        let label = error.label();
        assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
    }
}
