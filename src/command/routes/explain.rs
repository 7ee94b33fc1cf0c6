//! `routes explain`: what each route makes of one message, why, and where the message goes.
//!
//! Owns: its arguments, and reading what they name. Invariant: what is told comes from the judgement and the table that a
//! gateway would run, asked the way the gateway asks it. Must not know: how conditions are evaluated.

mod print;
mod report;
mod value;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value as Json;

use self::report::Report;
pub(super) use self::value::{cut, cut_value, shown};
use super::sample::{JSON_BYTES_MAX, Sample, kind};
use super::{Given, given};
use crate::command::export::write_line;
use crate::command::{CommandError, End};
use crate::desired::layers::Layered;
use crate::desired::{Desired, DesiredError, Document, TTL_DEFAULT_SECS};
use crate::identity::DeviceId;

const HELP: &str = "\
The message is a JSON object; all of it may be left out:
  source                       /messages, /messages/modules/M/outputs/O or /twinChangeNotifications;
                               or device, module and output [default: a device's telemetry]
  properties                   application properties: texts, or null for one without a value
  system_properties            texts, for instance messageId, contentType
  body_text, body_base64 or body (JSON)
  content_type, content_encoding
The exit code is 0 when the question was answered, wherever the message goes; 64 when FILE or the message
cannot be read. Whether a gateway would refuse FILE for its routes is told; routes check tells all of it.";

/// Arguments of `routes explain`.
#[derive(Debug, Clone, Args)]
#[command(after_help = HELP)]
pub struct ExplainArgs {
    /// A deployment manifest, a template or a layer of one, a module twin, or $edgeHub's desired properties; a folder of a
    /// base and layers over it; - reads the standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The sample message; - reads the standard input.
    #[arg(long, value_name = "MSG.json")]
    message: PathBuf,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// The id of this edge device.
    #[arg(long, value_name = "ID", default_value = "edge", value_parser = device)]
    edge_device: DeviceId,
}

/// What `--edge-device` takes.
pub(super) fn device(text: &str) -> Result<DeviceId, String> {
    DeviceId::parse(text).map_err(|error| error.to_string())
}

pub(super) fn run(args: &ExplainArgs, out: &mut dyn Write) -> Result<End, CommandError> {
    let is_input = |path: &Path| path.as_os_str() == "-";
    if is_input(&args.file) && is_input(&args.message) {
        let what =
            "standard input cannot be both FILE and the message: write one of them into a file";
        return Err(CommandError::Usage(what.to_owned()));
    }
    let desired = match given(&args.file, &args.edge_device)? {
        Given::File(bytes) => desired(&bytes),
        Given::Folder(layered) => layered.and_then(of_layers),
    };
    let desired = desired
        .map_err(|error| CommandError::Usage(format!("{}: {error}", args.file.display())))?;
    let sample = sample(args).map_err(|what| {
        CommandError::Usage(format!("the message in {}: {what}", args.message.display()))
    })?;
    let judged = desired.judge(&args.edge_device, false);
    let report = Report::new(&judged, &desired.warnings, &sample);
    if args.json {
        write_line(out, &report)?;
    } else {
        print::print(&report, &judged.refused, out)?;
    }
    Ok(End::Fine)
}

/// The document, which may be a layer: what that says is told without what is below it.
fn desired(bytes: &[u8]) -> Result<Desired, DesiredError> {
    let mut desired = Document::from_bytes(bytes)?.desired()?;
    if desired.ttl_secs.is_none() {
        desired.warnings.push(format!(
            "how long a message waits, the deployment below the layer says: {TTL_DEFAULT_SECS} s is taken here"
        ));
    }
    Ok(desired)
}

/// What the files of a folder come to; those that do not count are told.
fn of_layers(layered: Layered) -> Result<Desired, DesiredError> {
    let mut desired = Desired::parse(&layered.text)?;
    let apart = layered.apart.iter().map(|layer| format!("set apart, the others count: {layer}"));
    desired.warnings.splice(0..0, apart.chain(layered.warnings));
    Ok(desired)
}

fn sample(args: &ExplainArgs) -> Result<Sample, String> {
    let mut bytes = Vec::new();
    let most = JSON_BYTES_MAX as u64 + 1;
    let read = match args.message.to_str() {
        Some("-") => io::stdin().lock().take(most).read_to_end(&mut bytes),
        _ => std::fs::OpenOptions::new()
            .read(true)
            .open(&args.message)
            .and_then(|file| file.take(most).read_to_end(&mut bytes)),
    };
    read.map_err(|error| format!("cannot be read ({error}): correct the path or permissions"))?;
    if bytes.len() > JSON_BYTES_MAX {
        return Err(format!("longer than {JSON_BYTES_MAX} bytes: no message is so large"));
    }
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    match serde_json::from_slice(text) {
        Ok(Json::Object(object)) => Sample::message(object, &args.edge_device),
        Ok(other) => Err(format!("{}: write an object", kind(&other))),
        Err(error) => Err(format!("not JSON ({error}): correct the place named")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::RouteSpec;

    fn report(routes: &[(&str, &str, Option<u8>, u32)], message: &str) -> (Json, String) {
        let edge = DeviceId::parse("edge").unwrap();
        let spec = |(name, text, priority, ttl_secs): &(&str, &str, Option<u8>, u32)| RouteSpec {
            name: (*name).to_owned(),
            text: (*text).to_owned(),
            priority: *priority,
            ttl_secs: *ttl_secs,
            live_first: None,
        };
        let specs: Vec<RouteSpec> = routes.iter().map(spec).collect();
        let judged = Desired { routes: specs, ..Desired::without_document(0) }.judge(&edge, false);
        let Ok(Json::Object(object)) = serde_json::from_str(message) else { panic!("{message}") };
        let sample = Sample::message(object, &edge).unwrap();
        let report = Report::new(&judged, &[], &sample);
        let mut out = Vec::new();
        print::print(&report, &judged.refused, &mut out).unwrap();
        (serde_json::to_value(&report).unwrap(), String::from_utf8(out).unwrap())
    }

    #[test]
    fn one_route_an_endpoint_counts_and_the_others_are_told() {
        let (data, text) = report(
            &[
                ("all", "FROM /* INTO $upstream", None, 0),
                ("first", "FROM /messages/* INTO $upstream", Some(0), 7200),
                ("module", "FROM /messages/modules/m/* INTO $upstream", Some(1), 0),
                ("next", "FROM /* INTO BrokeredEndpoint(\"/modules/n/inputs/i\")", Some(2), 60),
                ("bad\n", "FROM /messages/* INTO nowhere", None, 0),
            ],
            r#"{"device":"d","properties":{"a\u0007":"b\n"},"body_text":"x"}"#,
        );
        let expected = "\
a message from /messages/ with a body of 1 byte
  $connectionDeviceId      \"d\"
  $edgeHubOriginInterface  \"downstream\"
  a\u{fffd}                       \"b\\n\"

route \"first\": selected
  FROM /messages/* INTO $upstream
  to iothub, priority 0, kept 2 h (7200 s)

route \"module\": not selected: it does not look at that source
  FROM /messages/modules/m/* INTO $upstream
  to iothub, priority 1, kept for ever

route \"next\": selected
  FROM /* INTO BrokeredEndpoint(\"/modules/n/inputs/i\")
  to edge/n/i, priority 2, kept 1 min (60 s)

route \"all\": selected, but route \"first\" comes first and sends it there already
  FROM /* INTO $upstream
  to iothub, no priority (after 9), kept for ever
";
        assert!(text.starts_with(expected), "{text}");
        let expected = "
goes to:
  iothub    priority 0  kept 2 h (7200 s)    by route \"first\"
  edge/n/i  priority 2  kept 1 min (60 s)    by route \"next\"
";
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed(&text).ends_with(&squeezed(expected)), "{text}");
        assert!(text.contains("FROM /messages/* INTO nowhere\n                      ^"), "{text}");

        assert_eq!(
            data["goesTo"],
            serde_json::json!([
                {"endpoint": "iothub", "priority": 0, "ttlSecs": 7200, "liveFirst": false, "route": "first"},
                {"endpoint": "edge/n/i", "priority": 2, "ttlSecs": 60, "liveFirst": false, "route": "next"},
            ])
        );
        let told = |key: &str| -> Vec<Json> {
            data["routes"].as_array().unwrap().iter().map(|route| route[key].clone()).collect()
        };
        assert_eq!(told("verdict"), ["selected", "otherSource", "selected", "selected"]);
        assert_eq!(told("behind"), [Json::Null, Json::Null, Json::Null, "first".into()]);
        assert_eq!(data["setAside"][0]["column"], 23);
        assert_eq!(data["message"]["bodyBytes"], 1);
    }

    #[test]
    fn a_document_that_a_gateway_would_refuse_decides_nothing() {
        let bad = "FROM /messages/* WHERE a == 'x' INTO $upstream";
        for routes in [&[("r", bad, None, 0)][..], &[("r", bad, None, 0), ("bad", "", None, 0)]] {
            let (data, text) = report(routes, r#"{"device":"d"}"#);
            assert_eq!(data["goesTo"], serde_json::json!([]));
            assert_eq!(data["routes"], serde_json::json!([]));
            let problem = data["problems"][0].as_str().unwrap();
            assert!(problem.contains("correct one, or write routes: {}"), "{problem}");
            let told = "would refuse this document and keep the last good one, which decides:\n- ";
            assert!(text.contains(told), "{text}");
            assert!(!text.contains("the others run") && !text.contains("goes nowhere"), "{text}");
        }
        let (data, text) = report(&[("all", "FROM /* INTO $upstream", None, 0)], "{}");
        assert_eq!((&data["problems"], text.contains("refuse")), (&serde_json::json!([]), false));
    }

    #[test]
    fn a_message_that_goes_nowhere_is_said_to() {
        let (data, text) =
            report(&[("m", "FROM /messages/modules/m INTO $upstream", None, 0)], "{}");
        assert!(text.ends_with("goes nowhere: acknowledged, dropped, and counted as no_route\n"));
        assert_eq!(data["goesTo"], serde_json::json!([]));
        let (_, text) = report(&[], r#"{"body":{}}"#);
        assert!(text.contains("  note: the body is JSON: contentType is taken to be"), "{text}");
    }
}
