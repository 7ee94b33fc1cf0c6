//! Encoded AMQP messages (part 3, section 3.2) and what IoT Hub reads in them (fact sheet B4, K).
//!
//! Owns: sections, the batch format, and the mapping to system and user properties. Must not know: links, the log.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::frame::Fields;
use super::value::{DecodeError, Value, decode, encode};
use crate::log::Telemetry;

/// Message format of a batch: each data section is one encoded message.
pub(crate) const FORMAT_BATCH: u32 = 0x8001_3700;

/// Application properties that IoT Hub's SDKs use for system properties over AMQP (fact sheet B4).
const SYSTEM_IN_APPLICATION: [&str; 5] = [
    "iothub-ack",
    "iothub-creation-time-utc",
    "iothub-message-schema",
    "iothub-operation",
    "iothub-outputname",
];

/// Fields of the properties section (part 3, section 3.2.4) by index, in Event Hubs' spelling.
const PROPERTIES: [&str; 13] = [
    "message-id",
    "user-id",
    "to",
    "subject",
    "reply-to",
    "correlation-id",
    "content-type",
    "content-encoding",
    "absolute-expiry-time",
    "creation-time",
    "group-id",
    "group-sequence",
    "reply-to-group-id",
];

/// The sections of one message that matter here.
#[derive(Debug, Default)]
pub(crate) struct Message {
    pub(crate) annotations: Vec<(Value, Value)>,
    pub(crate) properties: Option<Fields>,
    pub(crate) application: Vec<(Value, Value)>,
    pub(crate) data: Vec<Bytes>,
    pub(crate) value: Option<Value>,
}

impl Message {
    /// Reads all sections of `raw`.
    pub(crate) fn decode(mut raw: Bytes) -> Result<Self, DecodeError> {
        let mut message = Self::default();
        while !raw.is_empty() {
            let (code, section) = decode(&mut raw)?.into_described()?;
            match (code, section) {
                (0x72, Value::Map(entries)) => message.annotations = entries,
                (0x73, fields) => message.properties = Some(Fields::of(fields)?),
                (0x74, Value::Map(entries)) => message.application = entries,
                (0x75, Value::Binary(data)) => message.data.push(data),
                (0x77, value) => message.value = Some(value),
                // Header, delivery annotations, sequences and footer carry nothing that IoT Hub shows.
                (0x70 | 0x71 | 0x72 | 0x74 | 0x76 | 0x78, _) => {}
                _ => return Err(DecodeError::Unexpected("a section of a message")),
            }
        }
        Ok(message)
    }

    /// The text of a message annotation.
    pub(crate) fn annotation_text(&self, name: &str) -> Option<&str> {
        self.annotation(name).and_then(Value::as_text)
    }

    /// A message annotation.
    pub(crate) fn annotation(&self, name: &str) -> Option<&Value> {
        let found = self.annotations.iter().find(|(key, _)| key.as_text() == Some(name));
        found.map(|(_, value)| value)
    }

    /// The text of an application property.
    pub(crate) fn application_text(&self, name: &str) -> Option<&str> {
        let found = self.application.iter().find(|(key, _)| key.as_text() == Some(name));
        found.and_then(|(_, value)| value.as_text())
    }
}

/// Reads the messages of one transfer: one for format 0, any number for a batch.
pub(crate) fn telemetry(format: u32, payload: Bytes) -> Result<Vec<Telemetry>, DecodeError> {
    let outer = Message::decode(payload)?;
    if format != FORMAT_BATCH {
        return Ok(vec![map(outer)]);
    }
    if outer.data.is_empty() {
        return Err(DecodeError::Unexpected("a data section in a batch"));
    }
    outer.data.into_iter().map(|raw| Message::decode(raw).map(map)).collect()
}

fn map(message: Message) -> Telemetry {
    let mut out = Telemetry { body: body(&message), ..Telemetry::default() };
    if let Some(mut fields) = message.properties {
        for (index, name) in PROPERTIES.iter().enumerate() {
            if let Some(text) = fields.take(index).into_text() {
                out.system_properties.insert((*name).to_owned(), text);
            }
        }
    }
    for (key, value) in message.application {
        let Some(key) = key.into_text() else { continue };
        match value.into_text() {
            Some(text) if SYSTEM_IN_APPLICATION.contains(&key.as_str()) => {
                out.system_properties.insert(key, text);
            }
            text => {
                out.application_properties.insert(key, text);
            }
        }
    }
    out.own_annotations = texts(message.annotations);
    out
}

fn texts(entries: Vec<(Value, Value)>) -> BTreeMap<String, String> {
    entries.into_iter().filter_map(|(k, v)| Some((k.into_text()?, v.into_text()?))).collect()
}

/// The body in memory of its own: a slice would pin the whole read buffer for as long as the log holds the message.
pub(super) fn body(message: &Message) -> Bytes {
    match (&message.data[..], &message.value) {
        ([one], _) => Bytes::copy_from_slice(one),
        ([], Some(Value::Binary(raw))) => Bytes::copy_from_slice(raw),
        ([], Some(value)) => Bytes::from(value.to_text().unwrap_or_default()),
        ([], None) => Bytes::new(),
        (several, _) => Bytes::from(several.concat()),
    }
}

/// The sections of a message to the peer before its body; empty ones are left out.
#[derive(Debug, Default)]
pub(crate) struct Sections<'a> {
    /// Message annotations; the keys are symbols.
    pub(crate) annotations: Vec<(&'a str, Value)>,
    /// The properties section by index.
    pub(crate) properties: Vec<Value>,
    /// Application properties.
    pub(crate) application: Vec<(&'a str, Value)>,
}

impl Sections<'_> {
    /// The message with this body as its one data section.
    pub(crate) fn encode(self, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let section = |code: u64, section: Value, out: &mut Vec<u8>| {
            encode(&Value::Described(Box::new(Value::ULong(code)), Box::new(section)), out);
        };
        if !self.annotations.is_empty() {
            let entries = self.annotations.into_iter().map(|(k, value)| (Value::symbol(k), value));
            section(0x72, Value::Map(entries.collect()), &mut out);
        }
        if !self.properties.is_empty() {
            section(0x73, Value::List(self.properties), &mut out);
        }
        if !self.application.is_empty() {
            let entries = self.application.into_iter().map(|(k, value)| (Value::string(k), value));
            section(0x74, Value::Map(entries.collect()), &mut out);
        }
        section(0x75, Value::Binary(Bytes::copy_from_slice(body)), &mut out);
        out
    }
}

/// Encodes a message of a twin or method link: what is not empty of annotations, correlation-id, application properties
/// and body.
pub(crate) fn plain(
    annotations: Vec<(&str, Value)>,
    correlation: Value,
    application: Vec<(&str, Value)>,
    body: &[u8],
) -> Vec<u8> {
    let properties = match correlation {
        Value::Null => Vec::new(),
        correlation => [vec![Value::Null; 5], vec![correlation]].concat(),
    };
    Sections { annotations, properties, application }.encode(body)
}

/// Encodes the answer to a put-token: correlation-id, integer status-code (any other type makes the C SDK fail) and
/// description (fact sheet B2).
pub(crate) fn cbs_answer(correlation: Value, status: u16, description: &str) -> Vec<u8> {
    let mut properties = vec![Value::Null; 5];
    properties.push(correlation);
    let application = vec![
        (Value::string("status-code"), Value::Int(i32::from(status))),
        (Value::string("status-description"), Value::string(description)),
    ];
    let mut out = Vec::new();
    encode(&Value::described_list(0x73, properties), &mut out);
    for (code, section) in [(0x74, Value::Map(application)), (0x77, Value::Null)] {
        encode(&Value::Described(Box::new(Value::ULong(code)), Box::new(section)), &mut out);
    }
    out
}
