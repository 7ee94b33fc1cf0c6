//! The links of our own twin and of our methods: two pairs on a session of their own.
//!
//! Owns: how operations, answers and calls look on the wire (`iothub-protocol.md` B3, B6, B7). Invariants: nothing is
//! attached outside this session, so that a hub that does not answer an attach holds up nobody else; dropping the links
//! detaches them. Must not know: what an answer means.

use std::time::Duration;

use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::link::delivery::Sendable;
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

use super::machine::{Answer, Operation};
use crate::upstream::live::Live;
use crate::upstream::names;

/// What changes are asked for with, and come from.
const DESIRED: &str = "/notifications/twin/properties/desired";
/// Largest message that is taken: both sections at their limit, and quotes.
const MESSAGE_BYTES_MAX: u64 = 1024 * 1024;

/// The open links.
pub(super) struct Links {
    twin: (Sender, Receiver),
    methods: (Sender, Receiver),
    limit: Duration,
    /// Last, so that it outlives its links.
    _session: SessionHandle<()>,
}

/// What comes in.
pub(super) enum Heard {
    /// An answer to the operation of this id.
    Answer(u64, Answer),
    /// A change of desired properties.
    Changed(Vec<u8>),
    /// Somebody calls a method.
    Call(Call),
    /// Nothing that we understand.
    Nothing,
}

/// A call of a method.
pub(super) struct Call {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) payload: Vec<u8>,
}

impl Links {
    /// Attaches both pairs; the error says what the hub said.
    pub(super) async fn open(live: &Live, limit: Duration) -> Result<Self, String> {
        let mut session = live.session().await.ok_or("the connection is ending")?;
        let attach = async {
            let twin = pair(live, &mut session, "twin", "twin").await?;
            let methods = pair(live, &mut session, "methods", "methods/devicebound").await?;
            Ok::<_, String>((twin, methods))
        };
        let attached = timeout(limit, attach).await;
        let (twin, methods) = attached.map_err(|_| format!("no attach within {limit:?}"))??;
        Ok(Self { twin, methods, limit, _session: session })
    }

    /// Sends an operation; its answer comes with the same id.
    pub(super) async fn ask(
        &mut self,
        id: u64,
        operation: Operation,
        body: String,
    ) -> Result<(), String> {
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
        let message = Message::builder()
            .message_annotations(annotations.build())
            .properties(
                Properties::builder().correlation_id(MessageId::from(id.to_string())).build(),
            )
            .data(Binary::from(body))
            .build();
        send(&mut self.twin.0, message, self.limit).await
    }

    /// Answers a call.
    pub(super) async fn answer(
        &mut self,
        id: Uuid,
        status: i32,
        payload: Vec<u8>,
    ) -> Result<(), String> {
        let message = Message::builder()
            .properties(Properties::builder().correlation_id(MessageId::Uuid(id)).build())
            .application_properties(
                ApplicationProperties::builder().insert("IoThub-status", status).build(),
            )
            .data(Binary::from(payload))
            .build();
        send(&mut self.methods.0, message, self.limit).await
    }

    /// What comes in next; the error says why nothing can. Dropping the wait loses nothing.
    pub(super) async fn next(&mut self) -> Result<Heard, String> {
        tokio::select! {
            twin = self.twin.1.recv::<Body<Value>>() => {
                Ok(heard(twin.map_err(ended)?.into_message()))
            }
            call = self.methods.1.recv::<Body<Value>>() => {
                Ok(called(call.map_err(ended)?.into_message()).map_or(Heard::Nothing, Heard::Call))
            }
        }
    }
}

fn ended(error: RecvError) -> String {
    error.to_string()
}

/// The sending and the receiving half at `resource`.
async fn pair(
    live: &Live,
    session: &mut SessionHandle<()>,
    what: &str,
    resource: &str,
) -> Result<(Sender, Receiver), String> {
    let own = live.own();
    let address = names::address(own, resource);
    let mut properties: Fields = live.link_properties(own, None);
    let pair = format!("{what}:{:032x}", rand::rng().random::<u128>());
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
        .map_err(|error| format!("{what}: {error}"))?;
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
        .map_err(|error| format!("{what}: {error}"))?;
    Ok((sender, receiver))
}

async fn send(sender: &mut Sender, message: Message<Data>, limit: Duration) -> Result<(), String> {
    let sendable = Sendable::builder().message(message).settled(true).build();
    match timeout(limit, sender.send(sendable)).await {
        Err(_) => Err(format!("nothing could be sent within {limit:?}")),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(_)) => Ok(()),
    }
}

fn heard(message: Message<Body<Value>>) -> Heard {
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

fn called(message: Message<Body<Value>>) -> Option<Call> {
    let MessageId::Uuid(id) = message.properties?.correlation_id? else { return None };
    let name = match message.application_properties?.0.get("IoThub-methodname")? {
        SimpleValue::String(name) => name.clone(),
        _ => return None,
    };
    Some(Call { id, name, payload: bytes(message.body) })
}

/// The hub writes an int and a long; other widths are read too.
fn integer(value: &Value) -> Option<i64> {
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

fn bytes(body: Body<Value>) -> Vec<u8> {
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
