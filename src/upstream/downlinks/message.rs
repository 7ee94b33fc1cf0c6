//! A cloud-to-device message as it comes over AMQP, read into a [`CloudMessage`].
//!
//! Owns: that reading (`iothub-protocol.md` B5, table K). Invariants: the body is untouched; a property that has no text is left
//! out and named to the caller, never a reason to lose the message. Must not know: links.

use bytes::Bytes;
use fe2o3_amqp_types::messaging::annotations::AnnotationKey;
use fe2o3_amqp_types::messaging::{self as amqp, Body, MessageId};
use fe2o3_amqp_types::primitives::{SimpleValue, Symbol, Uuid, Value};

use super::CloudMessage;
use crate::message::{Properties, SystemKey, SystemProperties, Text};
use crate::upstream::pairs;

/// System properties that travel among the application properties (table K).
const APPLICATION: [(&str, SystemKey); 5] = [
    ("iothub-creation-time-utc", SystemKey::CreationTime),
    ("iothub-operation", SystemKey::Operation),
    ("iothub-message-schema", SystemKey::MessageSchema),
    ("iothub-ack", SystemKey::Ack),
    ("iothub-outputname", SystemKey::OutputName),
];
/// Those that travel as annotations.
const ANNOTATIONS: [(&str, SystemKey); 2] =
    [("dt-subject", SystemKey::Component), ("iothub-interface-id", SystemKey::InterfaceId)];

/// Reads a message whose delivery has the tag `lock`. `left_out` hears what could not be kept.
pub(super) fn read(
    lock: Bytes,
    message: amqp::Message<Body<Value>>,
    left_out: &mut dyn FnMut(&'static str),
) -> CloudMessage {
    let annotation = |name: &str| {
        message.message_annotations.as_ref()?.0.get(&name as &dyn AnnotationKey).cloned()
    };
    let number = |name: &str| {
        annotation(name).as_ref().and_then(pairs::integer).and_then(|n| u64::try_from(n).ok())
    };
    let given_back = message.header.as_ref().map_or(0, |header| header.delivery_count);
    let delivery_count = number("iothub-deliverycount")
        .map_or(given_back, |count| u32::try_from(count).unwrap_or(u32::MAX));
    let mut system = SystemProperties::default();
    if let Some(properties) = &message.properties {
        of_properties(properties, &mut system, left_out);
    }
    for (name, key) in ANNOTATIONS {
        if let Some(Value::String(text)) = annotation(name) {
            system.set(key, text);
        }
    }
    let mut properties = Properties::default();
    for (name, value) in message.application_properties.iter().flat_map(|all| &all.0) {
        let known = APPLICATION.iter().find(|(known, _)| known == name).map(|(_, key)| *key);
        match (known, text(value)) {
            (Some(key), Ok(Some(value))) => system.set(key, value),
            (Some(_), Ok(None)) => {}
            (None, Ok(value)) => properties.set(name.as_str(), value),
            (_, Err(())) => left_out("cloud_to_device_type"),
        }
    }
    CloudMessage {
        lock,
        sequence: number("x-opt-sequence-number"),
        delivery_count,
        system,
        properties,
        body: pairs::bytes(message.body).into(),
    }
}

fn of_properties(
    properties: &amqp::Properties,
    system: &mut SystemProperties,
    left_out: &mut dyn FnMut(&'static str),
) {
    let mut set = |key, value: Option<Text>| {
        if let Some(value) = value {
            system.set(key, value);
        }
    };
    let symbol = |symbol: &Option<Symbol>| symbol.as_ref().map(|s| Text::from(s.as_str()));
    set(SystemKey::MessageId, properties.message_id.as_ref().map(id));
    set(SystemKey::CorrelationId, properties.correlation_id.as_ref().map(id));
    set(SystemKey::To, properties.to.as_deref().map(Text::from));
    set(SystemKey::ContentType, symbol(&properties.content_type));
    set(SystemKey::ContentEncoding, symbol(&properties.content_encoding));
    let user = properties.user_id.as_ref().map(|bytes| std::str::from_utf8(bytes));
    match user {
        Some(Ok(user)) => set(SystemKey::UserId, Some(user.into())),
        Some(Err(_)) => left_out("user_id_not_utf_8"),
        None => {}
    }
    let times = [
        (SystemKey::AbsoluteExpiryTime, &properties.absolute_expiry_time),
        (SystemKey::CreationTime, &properties.creation_time),
    ];
    for (key, time) in times {
        match time.as_ref().map(|time| iso_8601(time.milliseconds())) {
            Some(Some(text)) => set(key, Some(text)),
            Some(None) => left_out("time_out_of_range"),
            None => {}
        }
    }
}

/// The text of an id of any of the four types (AMQP 1.0 part 3, section 3.2.11).
fn id(id: &MessageId) -> Text {
    match id {
        MessageId::Ulong(n) => n.to_string().into(),
        MessageId::Uuid(uuid) => uuid_text(uuid).into(),
        MessageId::Binary(bytes) => String::from_utf8_lossy(bytes).into(),
        MessageId::String(text) => text.as_str().into(),
    }
}

fn uuid_text(uuid: &Uuid) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(36);
    for (at, byte) in uuid.as_inner().iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

/// `2026-01-02T03:04:05.678Z`, as the hub writes times into a property bag.
fn iso_8601(millis: i64) -> Option<Text> {
    let stamp = jiff::Timestamp::from_millisecond(millis).ok()?;
    Some(stamp.to_string().into())
}

/// The text of a property; `None`: it has no value.
fn text(value: &SimpleValue) -> Result<Option<Text>, ()> {
    let text = match value {
        SimpleValue::Null => return Ok(None),
        SimpleValue::String(text) => text.clone(),
        SimpleValue::Symbol(symbol) => symbol.as_str().to_owned(),
        SimpleValue::Bool(it) => it.to_string(),
        SimpleValue::Ubyte(n) => n.to_string(),
        SimpleValue::Ushort(n) => n.to_string(),
        SimpleValue::Uint(n) => n.to_string(),
        SimpleValue::Ulong(n) => n.to_string(),
        SimpleValue::Byte(n) => n.to_string(),
        SimpleValue::Short(n) => n.to_string(),
        SimpleValue::Int(n) => n.to_string(),
        SimpleValue::Long(n) => n.to_string(),
        SimpleValue::Float(n) => n.to_string(),
        SimpleValue::Double(n) => n.to_string(),
        SimpleValue::Char(c) => c.to_string(),
        SimpleValue::Uuid(uuid) => uuid_text(uuid),
        SimpleValue::Timestamp(time) => return iso_8601(time.milliseconds()).map(Some).ok_or(()),
        _ => return Err(()),
    };
    Ok(Some(text.into()))
}
