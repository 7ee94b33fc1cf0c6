//! Pairs of links with requests one way and answers the other, as twins and methods have them, and what travels on them.
//!
//! Owns: how operations, answers and calls look on the wire (`iothub-protocol.md` B3, B6, B7), and the attach of a pair.
//! Must not know: whose links they are, what an answer means.

use std::fmt;
use std::time::Duration;

use fe2o3_amqp::link::delivery::Sendable;
use fe2o3_amqp::link::{ReceiverAttachError, SenderAttachError};
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Receiver, Sender};
use fe2o3_amqp_types::definitions::{Fields, SenderSettleMode};
use fe2o3_amqp_types::messaging::annotations::AnnotationKey;
use fe2o3_amqp_types::messaging::{
    ApplicationProperties, Body, Data, Message, MessageAnnotations, MessageId, Properties, Source,
    Target,
};
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Symbol, Uuid, Value};
use rand::Rng;
use tokio::time::timeout;

use super::names;
use super::outcome::{self, Verdict};
use crate::identity::ClientName;

/// What changes are asked for with, and come from.
const DESIRED: &str = "/notifications/twin/properties/desired";
/// Largest message that is taken: both sections of a twin at their limit, and quotes.
pub(super) const MESSAGE_BYTES_MAX: u64 = 1024 * 1024;

/// What can be asked of a twin (B6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Be told of changes of desired properties.
    Subscribe,
    /// Read all.
    Get,
    /// Change reported properties.
    Report,
}

/// The hub's answer to an operation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: i64,
    pub(super) version: Option<u64>,
    pub(super) body: Vec<u8>,
}

/// What comes in on the links of a twin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// An answer to the operation of this id.
    Answer(u64, Answer),
    /// A change of desired properties.
    Changed(Vec<u8>),
    /// Nothing that we understand.
    Nothing,
}

/// A call of a method.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) payload: Vec<u8>,
}

/// Which pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Twin,
    Methods,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Twin => "twin",
            Self::Methods => "methods",
        }
    }

    fn resource(self) -> &'static str {
        match self {
            Self::Twin => "twin",
            Self::Methods => "methods/devicebound",
        }
    }
}

/// Why a pair was not attached.
#[derive(Debug)]
pub(super) enum AttachError {
    Sender(SenderAttachError),
    Receiver(ReceiverAttachError),
}

impl AttachError {
    /// What it means for the identity.
    pub(super) fn verdict(self) -> Verdict {
        match self {
            Self::Sender(error) => outcome::of_attach_error(error),
            Self::Receiver(error) => outcome::of_receiver_attach_error(error),
        }
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sender(error) => error.fmt(f),
            Self::Receiver(error) => error.fmt(f),
        }
    }
}

/// Attaches the sending and the receiving half for `who`; `properties` are those of every link of it.
pub(super) async fn attach(
    session: &mut SessionHandle<()>,
    who: &ClientName,
    kind: Kind,
    mut properties: Fields,
) -> Result<(Sender, Receiver), AttachError> {
    let address = names::address(who, kind.resource());
    let pair = format!("{}:{:032x}", kind.word(), rand::rng().random::<u128>());
    properties
        .insert(Symbol::from("com.microsoft:channel-correlation-id"), Value::String(pair.clone()));
    let sender = Sender::builder()
        .name(format!("{pair}-sender"))
        .source(Source::builder().address(format!("{pair}-source")).build())
        .target(address.as_str())
        .sender_settle_mode(SenderSettleMode::Settled)
        .properties(properties.clone())
        .attach(session)
        .await
        .map_err(AttachError::Sender)?;
    let receiver = Receiver::builder()
        .name(format!("{pair}-receiver"))
        .source(address.as_str())
        .target(Target::builder().address(format!("{pair}-target")).build())
        .sender_settle_mode(SenderSettleMode::Settled)
        .max_message_size(MESSAGE_BYTES_MAX)
        .auto_accept(true)
        .properties(properties)
        .attach(session)
        .await
        .map_err(AttachError::Receiver)?;
    Ok((sender, receiver))
}

/// An operation; its answer comes with the same id.
pub(super) fn operation(id: u64, operation: Operation, body: impl Into<Binary>) -> Message<Data> {
    let (word, resource) = match operation {
        Operation::Get => ("GET", None),
        Operation::Subscribe => ("PUT", Some(DESIRED)),
        Operation::Report => ("PATCH", Some("/properties/reported")),
    };
    let mut annotations = MessageAnnotations::builder().insert("operation", word);
    if let Some(resource) = resource {
        annotations = annotations.insert("resource", resource);
    }
    if operation == Operation::Report {
        // Whatever the version is.
        annotations = annotations.insert("version", Value::Null);
    }
    Message::builder()
        .message_annotations(annotations.build())
        .properties(Properties::builder().correlation_id(MessageId::from(id.to_string())).build())
        .data(body.into())
        .build()
}

/// The answer to a call.
pub(super) fn call_answer(id: Uuid, status: i32, payload: impl Into<Binary>) -> Message<Data> {
    Message::builder()
        .properties(Properties::builder().correlation_id(MessageId::Uuid(id)).build())
        .application_properties(
            ApplicationProperties::builder().insert("IoThub-status", status).build(),
        )
        .data(payload.into())
        .build()
}

/// Sends, settled; the error says why the link is of no use any more.
pub(super) async fn send(
    sender: &mut Sender,
    message: Message<Data>,
    limit: Duration,
) -> Result<(), String> {
    let sendable = Sendable::builder().message(message).settled(true).build();
    match timeout(limit, sender.send(sendable)).await {
        Err(_) => Err(format!("nothing could be sent within {limit:?}")),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(_)) => Ok(()),
    }
}

/// Reads what came on the links of a twin.
pub(super) fn heard(message: Message<Body<Value>>) -> Heard {
    let correlation = message.properties.as_ref().and_then(|p| p.correlation_id.as_ref());
    let annotation = |name: &str| {
        message.message_annotations.as_ref()?.0.get(&name as &dyn AnnotationKey).cloned()
    };
    match correlation {
        Some(MessageId::String(id)) => {
            let status = annotation("status").as_ref().and_then(integer);
            let version = annotation("version").as_ref().and_then(integer);
            let (Ok(id), Some(status)) = (id.parse(), status) else { return Heard::Nothing };
            let version = version.and_then(|version| u64::try_from(version).ok());
            Heard::Answer(id, Answer { status, version, body: bytes(message.body) })
        }
        None if matches!(annotation("resource"), Some(Value::String(r)) if r == DESIRED) => {
            Heard::Changed(bytes(message.body))
        }
        _ => Heard::Nothing,
    }
}

/// Reads a call of a method.
pub(super) fn called(message: Message<Body<Value>>) -> Option<Call> {
    let MessageId::Uuid(id) = message.properties?.correlation_id? else { return None };
    let name = match message.application_properties?.0.get("IoThub-methodname")? {
        SimpleValue::String(name) => name.clone(),
        _ => return None,
    };
    Some(Call { id, name, payload: bytes(message.body) })
}

/// The hub writes an int and a long; other widths are read too.
pub(super) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(n) => Some(i64::from(*n)),
        Value::Long(n) => Some(*n),
        Value::Uint(n) => Some(i64::from(*n)),
        Value::Ulong(n) => i64::try_from(*n).ok(),
        Value::Short(n) => Some(i64::from(*n)),
        Value::Ushort(n) => Some(i64::from(*n)),
        Value::Byte(n) => Some(i64::from(*n)),
        Value::Ubyte(n) => Some(i64::from(*n)),
        _ => None,
    }
}

/// The body, whatever kind of section it is in.
pub(super) fn bytes(body: Body<Value>) -> Vec<u8> {
    match body {
        Body::Data(data) => data.into_iter().flat_map(|data| data.0.into_vec()).collect(),
        Body::Value(value) => match value.0 {
            Value::String(text) => text.into_bytes(),
            Value::Binary(bytes) => bytes.into_vec(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}
