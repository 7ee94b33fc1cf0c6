//! `queue export`: the messages that wait, as JSON lines.
//!
//! Owns: [`Line`], a message as JSON; also of a dead letter's. Invariant: whatever is stored comes out: what cannot be read
//! as a message is exported as its bytes, with the reason. Must not know: files.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use serde::Serialize;

use super::text::utc;
use super::{CommandError, End, StorageArg, Surroundings, named, tell_missing, to_file_or};
use crate::message::{Message, SystemKey};
use crate::pump::deadletter;
use crate::store::inspect::{Held, Inspector, Next};
use crate::store::{Offset, QueueId, StoreMillis};

/// Arguments of `queue export`.
#[derive(Debug, Clone, Args)]
pub(super) struct ExportArgs {
    /// Only this queue, as `queue` prints it, and its side queues [default: all but the dead letters].
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// A new file to write to [default: standard output].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Most messages to write.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// A message as JSON. Times are wall time as this gateway had it; ages are by the store's own clock.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_utc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_properties: Option<BTreeMap<&'static str, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_properties: Option<BTreeMap<String, Option<String>>>,
    /// Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// If it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_text: Option<String>,
    /// Why it cannot be read as a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What was stored, in base64, where that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<String>,
}

/// Where it lies.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Placed {
    queue: String,
    offset: u64,
    /// The last one, where a range is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset_last: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_secs: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_secs: Option<u32>,
    #[serde(flatten)]
    line: Line,
}

impl Line {
    /// The message in `stored`; what is none is told as such.
    pub(super) fn of(stored: Bytes) -> Self {
        match Message::decode(stored.clone()) {
            Ok(message) => Self::of_message(&message),
            Err(error) => Self {
                error: Some(error.to_string()),
                stored: Some(STANDARD.encode(&stored)),
                ..Self::default()
            },
        }
    }

    fn of_message(message: &Message) -> Self {
        let sender = &message.source.sender;
        let system = message.system.iter().map(|(key, value)| (name(key), value.to_owned()));
        let own = message.properties.iter();
        let own = own.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        Self {
            device: Some(sender.device().as_str().to_owned()),
            module: sender.module().map(|module| module.as_str().to_owned()),
            received_utc: utc(message.received),
            system_properties: Some(system.collect()),
            application_properties: Some(own.collect()),
            body: Some(STANDARD.encode(&message.body)),
            body_text: std::str::from_utf8(&message.body).ok().map(str::to_owned),
            ..Self::default()
        }
    }
}

/// The name of a system property, as Azure's SDKs spell it.
fn name(key: SystemKey) -> &'static str {
    match key {
        SystemKey::MessageId => "messageId",
        SystemKey::CorrelationId => "correlationId",
        SystemKey::UserId => "userId",
        SystemKey::To => "to",
        SystemKey::ContentType => "contentType",
        SystemKey::ContentEncoding => "contentEncoding",
        SystemKey::AbsoluteExpiryTime => "absoluteExpiryTime",
        SystemKey::CreationTime => "creationTimeUtc",
        SystemKey::OutputName => "outputName",
        SystemKey::InterfaceId => "interfaceId",
        SystemKey::Component => "componentName",
        SystemKey::MessageSchema => "messageSchema",
        SystemKey::Ack => "ack",
        SystemKey::Operation => "operation",
        SystemKey::ModelId => "modelId",
        SystemKey::MessageType => "messageType",
        SystemKey::ReportedDevice => "rpSenderDeviceId",
        SystemKey::ReportedModule => "rpSenderModuleId",
    }
}

impl Placed {
    fn of(id: &QueueId, held: Held, now: Option<StoreMillis>) -> Self {
        let age = now.zip(held.stored).map(|(now, stored)| now.0.saturating_sub(stored.0));
        #[allow(clippy::cast_precision_loss, reason = "milliseconds of an age")]
        let age_secs = age.map(|millis| millis as f64 / 1000.0);
        Self {
            queue: id.to_string(),
            offset: held.offset.0,
            offset_last: None,
            age_secs,
            ttl_secs: Some(held.ttl_secs),
            line: Line::of(held.payload),
        }
    }

    fn lost(id: &QueueId, range: &std::ops::Range<Offset>) -> Self {
        let error = "damaged or missing on disk, cannot be read back; see `queue verify`";
        Self {
            queue: id.to_string(),
            offset: range.start.0,
            offset_last: Some(range.end.0 - 1),
            age_secs: None,
            ttl_secs: None,
            line: Line { error: Some(error.to_owned()), ..Line::default() },
        }
    }
}

pub(super) fn run(
    args: &ExportArgs,
    storage: &StorageArg,
    here: &Surroundings,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let inspector = storage.inspector(here)?;
    let ids = inspector.queues()?;
    let ids = match &args.queue {
        Some(name) => named(ids, name)?,
        None => ids.into_iter().filter(|id| &*id.endpoint != deadletter::ENDPOINT).collect(),
    };
    let limit = args.limit.unwrap_or(u64::MAX);
    to_file_or(args.out.as_deref(), out, |out| write(&inspector, &ids, limit, out))
}

fn write(
    inspector: &Inspector,
    ids: &[QueueId],
    limit: u64,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let now = inspector.now_at_least()?;
    let (mut left, mut lost, mut end) = (limit, 0, End::Fine);
    'all: for id in ids {
        for next in inspector.pending(id)? {
            if left == 0 {
                break 'all;
            }
            left -= 1;
            let line = match next? {
                Next::Held(held) => Placed::of(id, held, now),
                Next::Lost(range) => {
                    lost += range.end.0 - range.start.0;
                    Placed::lost(id, &range)
                }
            };
            if line.line.error.is_some() {
                end = End::Found;
            }
            write_line(out, &line)?;
        }
    }
    Ok(end.or(tell_missing(inspector, lost, "message")?))
}

/// One line of JSON.
pub(super) fn write_line(out: &mut dyn Write, line: &impl Serialize) -> Result<(), CommandError> {
    serde_json::to_writer(&mut *out, line).map_err(std::io::Error::from)?;
    Ok(writeln!(out)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::identity::{ClientName, DeviceId, Identity, ModuleId};
    use crate::message::{Properties, Source, SystemProperties};

    fn placed(payload: Bytes) -> serde_json::Value {
        let stored = Some(StoreMillis(1000));
        let held = Held { offset: Offset(7), stored, ttl_secs: 60, payload };
        let line = Placed::of(&QueueId::new("iothub", 1), held, Some(StoreMillis(2500)));
        serde_json::to_value(&line).unwrap()
    }

    #[test]
    fn a_message_is_one_object() {
        let sender =
            ClientName::Module(DeviceId::parse("d").unwrap(), ModuleId::parse("m").unwrap());
        let mut system = SystemProperties::default();
        system.set(SystemKey::MessageId, "id-1");
        let mut properties = Properties::default();
        properties.set("alert", Some("high".into()));
        properties.set("bare", None);
        let mut message = Message {
            source: Source { sender: Identity::vouched(sender) },
            system,
            properties,
            body: Bytes::from_static(b"{\"t\":21}"),
            received: UnixMillis(1_700_000_000_123),
        };
        let expected = serde_json::json!({
            "queue": "iothub/1", "offset": 7, "device": "d", "module": "m",
            "receivedUtc": "2023-11-14T22:13:20.123Z", "ageSecs": 1.5, "ttlSecs": 60,
            "systemProperties": { "messageId": "id-1" },
            "applicationProperties": { "alert": "high", "bare": null },
            "body": "eyJ0IjoyMX0=", "bodyText": "{\"t\":21}",
        });
        assert_eq!(placed(message.encode()), expected);
        message.body = Bytes::from_static(b"\xff");
        let line = placed(message.encode());
        assert_eq!((&line["body"], line.get("bodyText")), (&"/w==".into(), None));
    }

    #[test]
    fn what_is_no_message_comes_out_as_its_bytes() {
        let line = placed(Bytes::from_static(b"\x09abc"));
        assert_eq!(line["stored"], "CWFiYw==");
        assert!(line["error"].as_str().unwrap().contains("form 9"), "{line}");
        let lost = Placed::lost(&QueueId::new("iothub", 1), &(Offset(3)..Offset(5)));
        let lost = serde_json::to_value(&lost).unwrap();
        assert_eq!((&lost["offset"], &lost["offsetLast"]), (&3.into(), &4.into()));
        assert!(lost["error"].is_string());
    }
}
