//! A message that somebody wrote down, as routes see it.
//!
//! Owns: its content and properties ([`Sample`]); what is wrong is said with what to write.
//! Invariant: what the gateway would know of such a message and the sample does not say (its sender) is filled in as the
//! gateway fills it, and told ([`Sample::notes`]) where it was made up.
//! Must not know: routes, the routing language.

mod fields;
mod sender;

use std::collections::HashMap;

use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine};
use serde_json::{Map, Value};

pub(super) use self::fields::{Fields, Unknown, kind};
use self::sender::From;
use crate::identity::DeviceId;
use crate::message::upper;
use crate::route::{Origin, Subject, SystemName};

/// Longest JSON text of one sample, in bytes: a body of 256 KiB with every character escaped, and properties.
pub(super) const JSON_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The largest message that IoT Hub takes (`iothub-protocol.md`).
const BODY_BYTES_MAX: usize = 256 * 1024;

/// IoT Hub and edgeHub know about 30.
const SYSTEM_PROPERTIES_MAX: usize = 256;

const CONTENT_TYPE: &str = "contentType";
const CONTENT_ENCODING: &str = "contentEncoding";

/// Padding at the end is often lost when base64 is copied.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A message that somebody wrote down.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    from: From,
    properties: Vec<(String, Option<String>)>,
    system: Vec<(String, String)>,
    body: Vec<u8>,
    notes: Vec<String>,
}

impl Sample {
    /// What the sample says of a message, but for its sender: no more is known of it then than its system properties tell.
    pub(super) fn content(fields: &mut Fields) -> Result<Self, String> {
        let mut sample = Self {
            from: From::Telemetry { module: None, output: None },
            properties: properties(fields.object("properties")?)?,
            system: Vec::new(),
            body: Vec::new(),
            notes: Vec::new(),
        };
        let system = fields.object("system_properties")?;
        if system.len() > SYSTEM_PROPERTIES_MAX {
            let count = system.len();
            return Err(format!(
                "there are {count} system properties, at most {SYSTEM_PROPERTIES_MAX} are taken: put others into properties"
            ));
        }
        for (name, value) in system {
            match value {
                // As for the keys around it, null means that there is none.
                Value::Null => {}
                Value::String(text) => {
                    // `$contentType` is how a condition writes it.
                    let name = name.strip_prefix('$').unwrap_or(&name);
                    sample.set(name, text, "system_properties")?;
                }
                other => return Err(no_text("system property", &name, &other)),
            }
        }
        for (key, name) in [("content_type", CONTENT_TYPE), ("content_encoding", CONTENT_ENCODING)]
        {
            if let Some(text) = fields.text(key)? {
                sample.set(name, text, key)?;
            }
        }
        sample.read_body(fields)?;
        Ok(sample)
    }

    /// A whole message, its sender included, as the gateway of the edge device `edge` would receive it.
    pub(super) fn message(object: Map<String, Value>, edge: &DeviceId) -> Result<Self, String> {
        let more = ["message_source", "device", "module", "output", "id"];
        let mut fields = Fields::new(object, &more, Unknown::Refused)?;
        let mut sample = Self::content(&mut fields)?;
        sample.send(&mut fields, edge)?;
        Ok(sample)
    }

    /// What was assumed, and what a gateway or the hub would not take.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Its system properties, those that were filled in included.
    pub(super) fn system_properties(&self) -> &[(String, String)] {
        &self.system
    }

    /// Its application properties.
    pub(super) fn properties(&self) -> &[(String, Option<String>)] {
        &self.properties
    }

    /// Its source path, for instance `/messages/modules/m/outputs/o/`.
    pub(super) fn path(&self) -> String {
        format!("/{}/", self.origin().segments().join("/"))
    }

    fn system_named(&self, name: &str) -> Option<&str> {
        self.system.iter().find(|(k, _)| same_name(k, name)).map(|(_, v)| v.as_str())
    }

    /// Sets a system property, which nothing else in the sample may say otherwise.
    fn set(&mut self, name: &str, value: String, by: &str) -> Result<(), String> {
        match self.system_named(name) {
            Some(other) if other != value => Err(format!(
                "the system property {name} is {other:?}, and {value:?} by {by}: leave one"
            )),
            Some(_) => Ok(()),
            None => {
                self.system.push((name.to_owned(), value));
                Ok(())
            }
        }
    }

    fn read_body(&mut self, fields: &mut Fields) -> Result<(), String> {
        let (json, text) = (fields.take("body"), fields.text("body_text")?);
        let base64 = fields.text("body_base64")?;
        let given = [json.is_some(), text.is_some(), base64.is_some()];
        if given.iter().filter(|given| **given).count() > 1 {
            return Err("the body is given twice: leave one of body, body_text, body_base64".into());
        }
        if let Some(base64) = base64 {
            self.body = BASE64.decode(&base64).map_err(|error| {
                format!(
                    "body_base64 is no base64 ({error}): encode the bytes in the standard alphabet (A-Z a-z 0-9 + /) on \
                     one line, or write text as body_text"
                )
            })?;
        } else if let Some(text) = text {
            self.text_body(text, "body_text");
        } else if let Some(json) = json {
            self.json_body(json);
        }
        if self.body.len() > BODY_BYTES_MAX {
            let bytes = self.body.len();
            self.notes.push(format!(
                "the body has {bytes} bytes: IoT Hub refuses messages of more than {BODY_BYTES_MAX}; send less at a time"
            ));
        }
        Ok(())
    }

    /// Text goes out as a device would send it: in the encoding that the sample names.
    fn text_body(&mut self, text: String, key: &str) {
        let named = self.system_named(CONTENT_ENCODING).unwrap_or("utf-8").to_ascii_lowercase();
        self.body = match &*named {
            "utf-8" => text.into_bytes(),
            "utf-16" => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            "utf-32" => text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect(),
            other => {
                self.notes.push(format!(
                    "{key} is taken as UTF-8, though the content encoding is {other:?}: write other bytes as body_base64"
                ));
                text.into_bytes()
            }
        };
    }

    /// Who writes JSON means JSON, unless the sample says otherwise. A string alone is no body that a route could ask: it is
    /// the text itself.
    fn json_body(&mut self, json: Value) {
        if let Value::String(text) = json {
            let note = "body is a string, taken as text; base64 goes under body_base64";
            self.notes.push(note.to_owned());
            return self.text_body(text, "body");
        }
        for (name, value) in [(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "utf-8")] {
            if self.system_named(name).is_none() {
                self.notes.push(format!("the body is JSON: {name} is taken to be {value:?}"));
                self.system.push((name.to_owned(), value.to_owned()));
            }
        }
        self.text_body(json.to_string(), "body");
    }

    fn fill(&mut self, name: &str, value: &str) {
        if self.system_named(name).is_none() {
            self.system.push((name.to_owned(), value.to_owned()));
        }
    }
}

impl Subject for Sample {
    fn property(&self, name: &str) -> Option<Option<&str>> {
        self.properties.iter().find(|(k, _)| same_name(k, name)).map(|(_, v)| v.as_deref())
    }

    fn system(&self, name: &SystemName) -> Option<&str> {
        self.system_named(&name.text)
    }

    fn body(&self) -> &[u8] {
        &self.body
    }

    fn origin(&self) -> Origin<'_> {
        match &self.from {
            From::Telemetry { module, output } => {
                Origin::telemetry(module.as_deref(), output.as_deref())
            }
            From::TwinChange => Origin::twin_change(),
        }
    }
}

fn properties(object: Map<String, Value>) -> Result<Vec<(String, Option<String>)>, String> {
    let mut properties: Vec<(String, Option<String>)> = Vec::with_capacity(object.len());
    let mut seen: HashMap<String, String> = HashMap::with_capacity(object.len());
    for (name, value) in object {
        let value = match value {
            Value::Null => None,
            Value::String(text) => Some(text),
            other => return Err(no_text("property", &name, &other)),
        };
        let folded = name.chars().map(upper).collect();
        if let Some(other) = seen.insert(folded, name.clone()) {
            return Err(format!(
                "the properties {other:?} and {name:?} differ only in case, which routes do not see: leave one"
            ));
        }
        properties.push((name, value));
    }
    Ok(properties)
}

fn no_text(what: &str, name: &str, value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => {
            format!("the {what} {name:?} is {}, and all are text: write a string", kind(value))
        }
        _ => format!(
            "the {what} {name:?} is {}, and all are text: quote it, \"{value}\"",
            kind(value)
        ),
    }
}

/// Equal without regard to case, beyond ASCII too (`edgehub.md` 4.4).
fn same_name(a: &str, b: &str) -> bool {
    a.chars().map(upper).eq(b.chars().map(upper))
}

#[cfg(test)]
mod tests {
    use super::sender::{DEVICE, MODULE, OUTPUT};
    use super::*;
    use crate::route::SystemProperty;

    fn read(json: &str) -> Result<Sample, String> {
        let Ok(Value::Object(object)) = serde_json::from_str(json) else { panic!("{json}") };
        Sample::message(object, &DeviceId::parse("edge").unwrap())
    }

    fn good(json: &str) -> Sample {
        read(json).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    fn system<'s>(sample: &'s Sample, name: &str) -> Option<&'s str> {
        sample.system(&SystemName { text: name.into(), property: SystemProperty::Other })
    }

    #[test]
    fn the_sender_is_known_as_the_gateway_knows_it() {
        let check = |json: &str, path: &str, expected: [&str; 4]| {
            let sample = good(json);
            assert_eq!(sample.path(), path, "{json}");
            let names = [DEVICE, MODULE, OUTPUT, "edgeHubOriginInterface"];
            let got = names.map(|name| system(&sample, name).unwrap_or("-"));
            assert_eq!(got, expected, "{json}");
        };
        let down = "downstream";
        let o = "/messages/modules/m/outputs/o/";
        let of_module = ["edge", "m", "o", "internal"];
        check("{}", "/messages/", ["sample-device", "-", "-", down]);
        check(r#"{"device":"d"}"#, "/messages/", ["d", "-", "-", down]);
        check(r#"{"source":"/messages/*","device":"d"}"#, "/messages/", ["d", "-", "-", down]);
        check(r#"{"module":"m"}"#, "/messages/modules/m/", ["edge", "m", "-", "internal"]);
        check(r#"{"module":"m","output":"o"}"#, o, of_module);
        check(r#"{"source":{"module":"m","output":"o","device":null}}"#, o, of_module);
        check(r#"{"source":"/Messages/MODULES/m/outputs/o"}"#, o, of_module);
        check(r#"{"messageSource":"/messages/modules/m/outputs/o/*"}"#, o, of_module);
        check(r#"{"source":"/messages/modules/m","output":"o","module":"m"}"#, o, of_module);
        let by_system = r#"{"systemProperties":{"connectionmoduleid":"m","$OUTPUTNAME":"o"}}"#;
        check(by_system, o, of_module);
        check(r#"{"device":"other","module":"m","output":"o"}"#, o, ["other", "m", "o", down]);
        check(
            r#"{"system_properties":{"connectionDeviceId":"d","edgeHubOriginInterface":"internal"}}"#,
            "/messages/",
            ["d", "-", "-", "internal"],
        );
        check(
            r#"{"source":"twinChangeNotifications"}"#,
            "/twinChangeNotifications/",
            ["edge", "$edgeHub", "-", "-"],
        );
        let change = good(r#"{"source":"/twinChangeNotifications/*"}"#);
        assert_eq!(system(&change, "MESSAGETYPE"), Some("twinChangeNotification"));
        assert!(good("{}").notes()[0].contains("sample-device"));
        assert!(good(r#"{"device":"d"}"#).notes().is_empty());
    }

    #[test]
    fn properties_are_text_by_names_in_any_case() {
        let sample = good(
            r#"{"applicationProperties":{"Größe":"1","flag":null,"":"x"},"contentType":"text/plain",
                "system-properties":{"cid":"7","to":null}}"#,
        );
        assert_eq!(sample.property("GRÖßE"), Some(Some("1")));
        let turkish = good(r#"{"properties":{"ı":"1","ſ":"2"}}"#);
        assert_eq!((turkish.property("I"), turkish.property("s")), (None, None));
        assert_eq!(turkish.property("ı"), Some(Some("1")));
        assert_eq!(sample.property("FLAG"), Some(None));
        assert_eq!(sample.property(""), Some(Some("x")));
        assert_eq!(sample.property("cid"), None);
        assert_eq!(system(&sample, "CID"), Some("7"));
        assert_eq!(system(&sample, "CONTENTtype"), Some("text/plain"));
        assert_eq!(system(&sample, "contentEncoding"), None);
        assert_eq!(system(&sample, "to"), None);
        let twice = r#"{"content_type":"a/b","system_properties":{"CONTENTTYPE":"a/b"}}"#;
        assert_eq!(system(&good(twice), "contentType"), Some("a/b"));
    }

    #[test]
    fn a_body_is_text_bytes_or_json() {
        let check = |json: &str, body: &[u8], notes: usize, content_type: Option<&str>| {
            let sample = good(json);
            assert_eq!(sample.body(), body, "{json}");
            // One note tells of the device.
            assert_eq!(sample.notes().len(), notes + 1, "{json}: {:?}", sample.notes());
            assert_eq!(system(&sample, "contentType"), content_type, "{json}");
        };
        let json = Some("application/json");
        check("{}", b"", 0, None);
        check(r#"{"body_text":"é\u0000"}"#, b"\xc3\xa9\0", 0, None);
        check(r#"{"bodyBase64":"/wA="}"#, b"\xff\0", 0, None);
        check(r#"{"bodyBase64":"/wA"}"#, b"\xff\0", 0, None);
        check(r#"{"body_text":null,"body_base64":"YQ=="}"#, b"a", 0, None);
        check(r#"{"body":{"b":1,"a":[null]}}"#, br#"{"a":[null],"b":1}"#, 2, json);
        check(r#"{"body":5,"content_encoding":"UTF-8"}"#, b"5", 1, json);
        check(r#"{"body":{},"contentType":"text/plain"}"#, b"{}", 1, Some("text/plain"));
        check(r#"{"body":"{}"}"#, b"{}", 1, None);
        check(r#"{"body_text":"x","content_encoding":"UTF-16"}"#, b"x\0", 0, None);
        check(r#"{"body_text":"x","content_encoding":"utf-32"}"#, b"x\0\0\0", 0, None);
        check(r#"{"body_text":"x","content_encoding":"latin-1"}"#, b"x", 1, None);
        check(r#"{"body_base64":"eA==","content_encoding":"utf-16"}"#, b"x", 0, None);
        let large = format!(r#"{{"body_text":"{}"}}"#, "x".repeat(BODY_BYTES_MAX + 1));
        assert!(good(&large).notes().iter().any(|note| note.contains("262145 bytes")));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_write() {
        let many: Vec<String> =
            (0..=SYSTEM_PROPERTIES_MAX).map(|n| format!("\"p{n}\":\"\"")).collect();
        let many = format!(r#"{{"system_properties":{{{}}}}}"#, many.join(","));
        for (json, part) in [
            (r#"{"bodytext":"x"}"#, "\"bodytext\" is not known: did you mean \"body_text\"?"),
            (r#"{"Sorce":"x"}"#, "did you mean \"source\"?"),
            (r#"{"applicationPropertes":{}}"#, "did you mean \"application_properties\"?"),
            (r#"{"condition":"x"}"#, "take it out; known are properties, system_properties"),
            (r#"{"nothing near":1}"#, "content_encoding, source, device, module, output, id"),
            (r#"{"bodyText":"x","body_text":"y"}"#, "body_text is given twice"),
            (r#"{"source":"/messages","message_source":"/messages"}"#, "given twice"),
            (
                r#"{"properties":{"n":1.5}}"#,
                "the property \"n\" is a number, and all are text: quote it, \"1.5\"",
            ),
            (r#"{"properties":{"n":true}}"#, "quote it, \"true\""),
            (r#"{"properties":{"n":[1]}}"#, "is an array, and all are text: write a string"),
            (r#"{"system_properties":{"n":1}}"#, "the system property \"n\" is a number"),
            (r#"{"properties":"a=b"}"#, "properties is a text: write an object"),
            (r#"{"properties":{"É":"","é":""}}"#, "differ only in case"),
            (r#"{"system_properties":{"cid":"1","CID":"2"}}"#, "leave one"),
            (&many, "there are 257 system properties"),
            (r#"{"content_type":1}"#, "content_type is a number: write a text"),
            (
                r#"{"content_type":"a","system_properties":{"contentType":"b"}}"#,
                "by content_type: leave one",
            ),
            (r#"{"body_base64":"a b"}"#, "encode the bytes in the standard alphabet"),
            (r#"{"body_base64":"_-"}"#, "standard alphabet"),
            (r#"{"body_base64":1}"#, "body_base64 is a number"),
            (r#"{"body":{},"body_text":""}"#, "leave one of body, body_text, body_base64"),
            (r#"{"source":"/message"}"#, "no message comes from \"/message\": write /messages, "),
            (r#"{"source":"/messages/modules/m/outputs"}"#, "no message comes from"),
            (r#"{"source":""}"#, "no message comes from"),
            (r#"{"source":7}"#, "source is a number: write /messages"),
            (r#"{"source":{"modul":"m"}}"#, "\"modul\" of source is not known"),
            (
                r#"{"source":"/messages/modules/m","module":"n"}"#,
                "the module is \"n\", and \"m\" by the source",
            ),
            (
                r#"{"source":"/messages/modules/m","system_properties":{"connectionModuleId":"n"}}"#,
                "leave one",
            ),
            (r#"{"device":"d","system_properties":{"connectionDeviceId":"e"}}"#, "leave one"),
            (r#"{"output":"o"}"#, "name the module, too"),
            (r#"{"source":"/twinChangeNotifications","module":"m"}"#, "take them out"),
            (r#"{"device":"a/b"}"#, "the device \"a/b\" cannot be"),
            (r#"{"module":"a b"}"#, "the module \"a b\" cannot be"),
        ] {
            let error = read(json).expect_err(json);
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
