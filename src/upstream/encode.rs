//! A [`Message`] as the AMQP 1.0 message that IoT Hub expects, and messages packed into batches.
//!
//! Owns: the mapping of `iothub-protocol.md` table K (and B4), the AMQP type encoding of the few types that it needs
//! (AMQP 1.0 part 1, section 1.6), and the packing into message format 0x80013700.
//! Invariants: order is kept; no batch is larger than asked; a property that AMQP cannot carry is left out and named to
//! the caller, never a reason to lose the message.
//! Must not know: links, connections, outcomes.
//!
//! The bytes are written by hand, once, straight from the stored message: the AMQP library's own message type would
//! cost a map node and two strings for every property.

use fe2o3_amqp_types::messaging::Data;
use fe2o3_amqp_types::primitives::Binary;

use crate::message::{Message, SystemKey};

/// Message format of a batch: each data section holds one complete encoded AMQP message (B4).
pub(super) const FORMAT_BATCH: u32 = 0x8001_3700;

/// Bytes around one message in a batch: described-type constructor (3), `vbin32` code (1), length (4).
const SECTION_OVERHEAD: usize = 8;

/// Messages that travel as one transfer and are settled by one disposition.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Packed {
    /// One complete AMQP message each.
    pub(super) sections: Vec<Data>,
    /// Size on the wire, overhead of the sections included.
    pub(super) bytes: usize,
}

/// One message alone is more than the hub takes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is {bytes} bytes as AMQP; the hub takes {bytes_max}")]
pub(super) struct TooLarge {
    pub(super) bytes: usize,
    pub(super) bytes_max: usize,
}

/// Encodes `messages` in order into as few batches of at most `bytes_max` bytes as possible. `left_out` hears the
/// name of every property that could not be carried.
pub(super) fn pack(
    messages: &[Message],
    to: &str,
    bytes_max: usize,
    left_out: &mut dyn FnMut(&'static str),
) -> Result<Vec<Packed>, TooLarge> {
    let mut batches = Vec::with_capacity(1);
    let mut open = Packed { sections: Vec::with_capacity(messages.len()), bytes: 0 };
    for message in messages {
        let encoded = encode(message, to, left_out);
        let bytes = encoded.len() + SECTION_OVERHEAD;
        if bytes > bytes_max {
            return Err(TooLarge { bytes, bytes_max });
        }
        if open.bytes + bytes > bytes_max {
            batches.push(std::mem::take(&mut open));
        }
        open.bytes += bytes;
        open.sections.push(Data(Binary::from(encoded)));
    }
    batches.push(open);
    Ok(batches)
}

/// One message, complete: annotations, properties, application properties, body, in the order that AMQP 1.0 part 3,
/// section 3.2 demands.
fn encode(message: &Message, to: &str, left_out: &mut dyn FnMut(&'static str)) -> Vec<u8> {
    let mut out = Vec::with_capacity(len_hint(message, to));
    annotations(&mut out, message);
    properties(&mut out, message, to, left_out);
    application_properties(&mut out, message);
    section(&mut out, 0x75); // data, 3.2.6
    binary(&mut out, &message.body);
    out
}

fn len_hint(message: &Message, to: &str) -> usize {
    let system: usize = message.system.iter().map(|(_, v)| v.len() + 40).sum();
    let user: usize =
        message.properties.iter().map(|(k, v)| k.len() + v.map_or(0, str::len) + 10).sum();
    // 64: four section heads and compound heads.
    64 + to.len() + system + user + message.body.len()
}

/// Table K: what travels as a message annotation (symbol keys, 3.2.10).
fn annotations(out: &mut Vec<u8>, message: &Message) {
    const CARRIED: [(SystemKey, &str); 2] =
        [(SystemKey::Component, "dt-subject"), (SystemKey::InterfaceId, "iothub-interface-id")];
    if CARRIED.iter().all(|(key, _)| message.system.get(*key).is_none()) {
        return;
    }
    section(out, 0x72); // message-annotations, 3.2.3
    compound(out, MAP32, |out| {
        let mut items = 0;
        for (key, name) in CARRIED {
            if let Some(value) = message.system.get(key) {
                symbol(out, name);
                string(out, value);
                items += 2;
            }
        }
        items
    });
}

/// AMQP 1.0 section 3.2.4; the fields after the last that is set are left away.
fn properties(
    out: &mut Vec<u8>,
    message: &Message,
    to: &str,
    left_out: &mut dyn FnMut(&'static str),
) {
    let system = &message.system;
    let ascii = |key, what, left_out: &mut dyn FnMut(&'static str)| match system.get(key) {
        // A symbol is ASCII (1.6.21); a peer answers anything else with a decode error for the whole batch.
        Some(text) if !text.is_ascii() => {
            left_out(what);
            None
        }
        other => other,
    };
    let content_type = ascii(SystemKey::ContentType, "content_type_not_ascii", left_out);
    let content_encoding =
        ascii(SystemKey::ContentEncoding, "content_encoding_not_ascii", left_out);
    let expiry = system.get(SystemKey::AbsoluteExpiryTime).and_then(|text| {
        let millis = iso_8601_millis(text);
        if millis.is_none() {
            left_out("absolute_expiry_time_not_iso_8601");
        }
        millis
    });
    section(out, 0x73);
    compound(out, LIST32, |out| {
        optional(out, system.get(SystemKey::MessageId), string);
        optional(out, system.get(SystemKey::UserId), |out, text| binary(out, text.as_bytes()));
        string(out, system.get(SystemKey::To).unwrap_or(to));
        out.push(NULL); // subject
        out.push(NULL); // reply-to
        optional(out, system.get(SystemKey::CorrelationId), string);
        optional(out, content_type, symbol);
        optional(out, content_encoding, symbol);
        match expiry {
            Some(millis) => {
                out.push(0x83); // timestamp ms64, 1.6.17
                out.extend_from_slice(&millis.to_be_bytes());
            }
            None => out.push(NULL),
        }
        9
    });
}

/// The system properties that travel among the application properties (table K).
const APPLICATION: [(SystemKey, &str); 5] = [
    (SystemKey::CreationTime, "iothub-creation-time-utc"),
    (SystemKey::Operation, "iothub-operation"),
    (SystemKey::MessageSchema, "iothub-message-schema"),
    (SystemKey::Ack, "iothub-ack"),
    (SystemKey::OutputName, "iothub-outputname"),
];

/// AMQP 1.0 section 3.2.5. A property without a value is null, as the hub's property bag defines it
/// (`iothub-protocol.md` A5: `key=` is the empty string, `key` is null).
fn application_properties(out: &mut Vec<u8>, message: &Message) {
    let system = |name: &str| {
        APPLICATION.iter().find(|(_, n)| *n == name).and_then(|(key, _)| message.system.get(*key))
    };
    if message.properties.is_empty()
        && APPLICATION.iter().all(|(key, _)| message.system.get(*key).is_none())
    {
        return;
    }
    section(out, 0x74);
    compound(out, MAP32, |out| {
        let mut items = 0;
        // Keys of a map are unique (1.6.23): the system's meaning of a name goes before the user's.
        for (name, value) in message.properties.iter().filter(|(name, _)| system(name).is_none()) {
            string(out, name);
            optional(out, value, string);
            items += 2;
        }
        for (key, name) in APPLICATION {
            if let Some(value) = message.system.get(key) {
                string(out, name);
                string(out, value);
                items += 2;
            }
        }
        items
    });
}

/// Milliseconds since 1970 of an ISO 8601 time; without an offset it is UTC, as the hub takes it.
fn iso_8601_millis(text: &str) -> Option<i64> {
    if let Ok(stamp) = text.parse::<jiff::Timestamp>() {
        return Some(stamp.as_millisecond());
    }
    let civil = text.parse::<jiff::civil::DateTime>().ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

const NULL: u8 = 0x40;
const LIST32: u8 = 0xd0;
const MAP32: u8 = 0xd1;

/// Descriptor of a section: a described type whose descriptor is a small ulong (1.3.4).
fn section(out: &mut Vec<u8>, code: u8) {
    out.extend_from_slice(&[0x00, 0x53, code]);
}

/// A list or map (1.6.22, 1.6.23): size and number of items are filled in after `items` has written them.
fn compound(out: &mut Vec<u8>, code: u8, items: impl FnOnce(&mut Vec<u8>) -> u32) {
    out.push(code);
    let head = out.len();
    out.extend_from_slice(&[0; 8]);
    let count = items(out);
    let size = length(out.len() - head - 4);
    out[head..head + 4].copy_from_slice(&size.to_be_bytes());
    out[head + 4..head + 8].copy_from_slice(&count.to_be_bytes());
}

fn optional(out: &mut Vec<u8>, value: Option<&str>, write: impl FnOnce(&mut Vec<u8>, &str)) {
    match value {
        Some(value) => write(out, value),
        None => out.push(NULL),
    }
}

/// `str8-utf8` or `str32-utf8` (1.6.20).
fn string(out: &mut Vec<u8>, text: &str) {
    variable(out, 0xa1, 0xb1, text.as_bytes());
}

/// `sym8` or `sym32` (1.6.21).
fn symbol(out: &mut Vec<u8>, text: &str) {
    variable(out, 0xa3, 0xb3, text.as_bytes());
}

/// `vbin8` or `vbin32` (1.6.19).
fn binary(out: &mut Vec<u8>, bytes: &[u8]) {
    variable(out, 0xa0, 0xb0, bytes);
}

fn variable(out: &mut Vec<u8>, code8: u8, code32: u8, bytes: &[u8]) {
    match u8::try_from(bytes.len()) {
        Ok(len) => out.extend_from_slice(&[code8, len]),
        Err(_) => {
            out.push(code32);
            out.extend_from_slice(&length(bytes.len()).to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

fn length(len: usize) -> u32 {
    u32::try_from(len).expect("a stored message is at most 256 MiB, the limit of an MQTT packet")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fe2o3_amqp_types::messaging::{
        Batch, Body, Message as AmqpMessage, MessageId, message::__private::Deserializable,
    };
    use fe2o3_amqp_types::primitives::{SimpleValue, Symbol, Timestamp, Value};

    use super::*;
    use crate::clock::UnixMillis;
    use crate::identity::{ClientName, DeviceId, Identity};
    use crate::message::{Properties, Source, SystemProperties};

    fn message(body: &[u8]) -> Message {
        let name = ClientName::Device(DeviceId::parse("d1").unwrap());
        Message {
            source: Source { sender: Identity::vouched(name) },
            system: SystemProperties::default(),
            properties: Properties::default(),
            body: Bytes::copy_from_slice(body),
            received: UnixMillis(0),
        }
    }

    /// Encodes and reads back with the AMQP library's decoder, which shares nothing with ours.
    fn round_trip(message: &Message) -> (AmqpMessage<Body<Value>>, Vec<&'static str>) {
        let mut left_out = Vec::new();
        let bytes = encode(message, "/devices/d1/messages/events", &mut |what| left_out.push(what));
        let decoded: Deserializable<AmqpMessage<Body<Value>>> =
            serde_amqp::from_slice(&bytes).unwrap();
        (decoded.0, left_out)
    }

    #[test]
    fn a_bare_message_is_its_body_and_its_address() {
        let (got, left_out) = round_trip(&message(b"\x00\xffhi"));
        assert_eq!(got.body, Body::Data(Batch::from(vec![Data(Binary::from(*b"\x00\xffhi"))])));
        let properties = got.properties.unwrap();
        assert_eq!(properties.to.as_deref(), Some("/devices/d1/messages/events"));
        assert_eq!(properties.message_id, None);
        assert_eq!(got.message_annotations, None);
        assert_eq!(got.application_properties, None);
        assert!(left_out.is_empty());
    }

    #[test]
    fn every_property_goes_where_table_k_says() {
        let mut m = message(b"{}");
        for (key, value) in [
            (SystemKey::MessageId, "id-1"),
            (SystemKey::CorrelationId, "cor 1"),
            (SystemKey::UserId, "ü1"),
            (SystemKey::ContentType, "application/json"),
            (SystemKey::ContentEncoding, "utf-8"),
            (SystemKey::AbsoluteExpiryTime, "2026-01-02T03:04:05.678Z"),
            (SystemKey::CreationTime, "2026-01-01T00:00:00Z"),
            (SystemKey::OutputName, "out"),
            (SystemKey::InterfaceId, "urn:if"),
            (SystemKey::Component, "thermo"),
            (SystemKey::MessageSchema, "schema"),
            (SystemKey::Ack, "full"),
            (SystemKey::Operation, "op"),
            (SystemKey::ModelId, "dtmi:x;1"),
        ] {
            m.system.set(key, value);
        }
        m.properties.set("alert level", Some("high&low=é".into()));
        m.properties.set("empty", Some("".into()));
        m.properties.set("null", None);
        m.properties.set("iothub-ack", Some("not this".into()));
        let (got, left_out) = round_trip(&m);
        assert!(left_out.is_empty());

        let p = got.properties.unwrap();
        assert_eq!(p.message_id, Some(MessageId::String("id-1".into())));
        assert_eq!(p.correlation_id, Some(MessageId::String("cor 1".into())));
        assert_eq!(p.user_id, Some(Binary::from("ü1".as_bytes().to_vec())));
        assert_eq!(p.content_type, Some(Symbol::from("application/json")));
        assert_eq!(p.content_encoding, Some(Symbol::from("utf-8")));
        assert_eq!(p.absolute_expiry_time, Some(Timestamp::from(1_767_323_045_678)));

        let app: Vec<_> = got
            .application_properties
            .unwrap()
            .0
            .into_iter()
            .map(|(k, v)| match v {
                SimpleValue::String(v) => (k, Some(v)),
                SimpleValue::Null => (k, None),
                other => panic!("{k}: {other:?}"),
            })
            .collect();
        let expected = [
            ("alert level", Some("high&low=é")),
            ("empty", Some("")),
            ("null", None),
            ("iothub-creation-time-utc", Some("2026-01-01T00:00:00Z")),
            ("iothub-operation", Some("op")),
            ("iothub-message-schema", Some("schema")),
            ("iothub-ack", Some("full")),
            ("iothub-outputname", Some("out")),
        ];
        let expected: Vec<_> =
            expected.map(|(k, v)| (k.to_owned(), v.map(str::to_owned))).into_iter().collect();
        assert_eq!(app, expected);

        let annotations = format!("{:?}", got.message_annotations.unwrap());
        for text in ["dt-subject", "thermo", "iothub-interface-id", "urn:if"] {
            assert!(annotations.contains(text), "{text} in {annotations}");
        }
    }

    #[test]
    fn what_amqp_cannot_carry_is_left_out_and_named() {
        let mut m = message(b"x");
        m.system.set(SystemKey::AbsoluteExpiryTime, "tomorrow");
        m.system.set(SystemKey::ContentType, "größe");
        let (got, left_out) = round_trip(&m);
        let p = got.properties.unwrap();
        assert_eq!((p.absolute_expiry_time, p.content_type), (None, None));
        assert_eq!(left_out, ["content_type_not_ascii", "absolute_expiry_time_not_iso_8601"]);
    }

    #[test]
    fn times_without_offset_are_utc() {
        for (text, millis) in [
            ("1970-01-01T00:00:01Z", Some(1000)),
            ("1970-01-01T00:00:01", Some(1000)),
            ("1970-01-01T01:00:01.0000000+01:00", Some(1000)),
            ("", None),
            ("12", None),
        ] {
            assert_eq!(iso_8601_millis(text), millis, "{text}");
        }
    }

    #[test]
    fn batches_keep_order_and_never_exceed_the_limit() {
        let sizes = [10, 300, 1000, 5, 5, 990, 700, 700, 1];
        let messages: Vec<_> =
            (0..sizes.len()).map(|i| message(&vec![i as u8; sizes[i]])).collect();
        let max = 1100;
        let packed = pack(&messages, "/d", max, &mut |_| {}).unwrap();
        assert!(packed.len() > 1 && packed.iter().all(|p| p.bytes <= max && p.bytes > 0));
        let mut seen = Vec::new();
        for p in &packed {
            let wire: usize = p.sections.iter().map(|d| d.0.len() + SECTION_OVERHEAD).sum();
            assert_eq!(wire, p.bytes);
            for d in &p.sections {
                let m: Deserializable<AmqpMessage<Body<Value>>> =
                    serde_amqp::from_slice(&d.0).unwrap();
                let Body::Data(data) = m.0.body else { panic!("data expected") };
                seen.push((data[0].0[0] as usize, data[0].0.len()));
            }
        }
        assert_eq!(seen, sizes.iter().copied().enumerate().collect::<Vec<_>>());
    }

    #[test]
    fn a_message_larger_than_the_limit_is_named_with_its_size() {
        let got = pack(&[message(&[0; 2000])], "/d", 1000, &mut |_| {});
        assert!(matches!(got, Err(TooLarge { bytes, bytes_max: 1000 }) if bytes > 2000));
    }
}
