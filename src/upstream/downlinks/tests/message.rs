//! Cloud-to-device messages as AMQP has them, read.

use fe2o3_amqp_types::messaging::{
    ApplicationProperties, Body, Header, Message, MessageAnnotations, MessageId, Properties,
};
use fe2o3_amqp_types::primitives::{Binary, Symbol, Timestamp, Uuid, Value};

use super::*;
use crate::message::SystemKey;
use crate::upstream::downlinks::message::read;

type Amqp = Message<Body<Value>>;

fn plain() -> Amqp {
    Message::from(Body::Data(vec![Binary::from(b"\x00hi".to_vec()).into()].into()))
}

fn check(message: Amqp, left_out: &[&str]) -> CloudMessage {
    let mut named = Vec::new();
    let read = read(Bytes::from_static(b"lock"), message, &mut |what| named.push(what));
    assert_eq!(named, left_out);
    assert_eq!(&read.lock[..], b"lock");
    read
}

#[test]
fn a_bare_message_is_its_body() {
    let read = check(plain(), &[]);
    assert_eq!((read.sequence, read.delivery_count), (None, 0));
    assert_eq!(&read.body[..], b"\x00hi");
    assert_eq!((read.system.iter().count(), read.properties.len()), (0, 0));
}

#[test]
fn every_property_is_read_from_where_table_k_has_it() {
    let mut message = plain();
    let mut properties = Properties::builder().message_id(MessageId::Ulong(7)).build();
    properties.correlation_id = Some(MessageId::Uuid(Uuid::from([0xab; 16])));
    properties.user_id = Some(Binary::from("ü".as_bytes().to_vec()));
    properties.content_type = Some(Symbol::from("text/plain"));
    properties.absolute_expiry_time = Some(Timestamp::from(1_767_323_045_678));
    message.properties = Some(properties);
    message.application_properties = Some(
        ApplicationProperties::builder()
            .insert("iothub-ack", "full")
            .insert("iothub-operation", "op")
            .insert("z", "1")
            .insert("number", 5i32)
            .insert("flag", true)
            .insert("double", 1.5f64)
            .insert("at", Timestamp::from(0))
            .insert("nothing", fe2o3_amqp_types::primitives::SimpleValue::Null)
            .build(),
    );
    message.message_annotations = Some(
        MessageAnnotations::builder()
            .insert("x-opt-sequence-number", Value::Ulong(9))
            .insert("iothub-deliverycount", Value::Ubyte(2))
            .insert("dt-subject", "thermo")
            .insert("iothub-enqueuedtime", Value::Timestamp(Timestamp::from(1)))
            .build(),
    );
    let read = check(message, &[]);
    assert_eq!((read.sequence, read.delivery_count), (Some(9), 2));
    let mut system: Vec<_> = read.system.iter().collect();
    system.sort_unstable();
    let expected = [
        (SystemKey::MessageId, "7"),
        (SystemKey::CorrelationId, "abababab-abab-abab-abab-abababababab"),
        (SystemKey::UserId, "ü"),
        (SystemKey::ContentType, "text/plain"),
        (SystemKey::AbsoluteExpiryTime, "2026-01-02T03:04:05.678Z"),
        (SystemKey::Component, "thermo"),
        (SystemKey::Ack, "full"),
        (SystemKey::Operation, "op"),
    ];
    assert_eq!(system, expected);
    let properties: Vec<_> = read.properties.iter().collect();
    let expected = [
        ("z", Some("1")),
        ("number", Some("5")),
        ("flag", Some("true")),
        ("double", Some("1.5")),
        ("at", Some("1970-01-01T00:00:00Z")),
        ("nothing", None),
    ];
    assert_eq!(properties, expected);
}

#[test]
fn what_has_no_text_is_left_out_and_named() {
    let mut message = plain();
    let mut properties = Properties::builder().build();
    properties.user_id = Some(Binary::from(vec![0xff]));
    properties.absolute_expiry_time = Some(Timestamp::from(i64::MAX));
    message.properties = Some(properties);
    message.application_properties = Some(
        ApplicationProperties::builder()
            .insert("raw", Binary::from(vec![1]))
            .insert("ok", "1")
            .build(),
    );
    let read = check(message, &["user_id_not_utf_8", "time_out_of_range", "cloud_to_device_type"]);
    assert_eq!(read.properties.get("ok"), Some(Some("1")));
    assert_eq!(read.properties.len(), 1);
}

#[test]
fn a_peer_that_counts_in_the_header_is_read_too() {
    let mut message = plain();
    message.header = Some(Header { delivery_count: 3, ..Header::default() });
    assert_eq!(check(message, &[]).delivery_count, 3);
}
