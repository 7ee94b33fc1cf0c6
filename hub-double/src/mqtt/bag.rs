//! Property bags (fact sheet A5, A6, K): `key=value&key=value` behind a topic, each part percent-encoded.
//!
//! Invariant: reading never fails, for real devices send odd bags: what decodes to no UTF-8 stays as it was sent, and of
//! equal names the last counts. Must not know: topics.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::clock::iso8601;
use crate::log::Telemetry;

/// Wire names of system properties, and what the service side calls them.
const SYSTEM: [(&str, &str); 13] = [
    ("$.mid", "message-id"),
    ("$.cid", "correlation-id"),
    ("$.uid", "user-id"),
    ("$.to", "to"),
    ("$.ct", "content-type"),
    ("$.ce", "content-encoding"),
    (EXPIRY, "absolute-expiry-time"),
    ("$.ctime", "iothub-creation-time-utc"),
    ("iothub-creation-time-utc", "iothub-creation-time-utc"),
    ("$.on", "iothub-outputname"),
    ("$.schema", "iothub-message-schema"),
    ("iothub-ack", "iothub-ack"),
    ("iothub-operation", "iothub-operation"),
];

const EXPIRY: &str = "$.exp";

/// The same for what the service side sees as annotations.
const ANNOTATED: [(&str, &str); 2] = [("$.ifid", "iothub-interface-id"), ("$.sub", "dt-subject")];

/// Who sent a message is what was authenticated.
const CLAIMS: [&str; 2] = ["$.cdid", "$.cmid"];

/// What RFC 3986 calls unreserved stays; the Python SDK splits topics at `/`, so that is encoded too.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn found<'a>(table: &[(&str, &'a str)], name: &str) -> Option<&'a str> {
    table.iter().find(|(wire, _)| *wire == name).map(|(_, name)| *name)
}

fn decoded(part: &str) -> Cow<'_, str> {
    percent_decode_str(part).decode_utf8().unwrap_or(Cow::Borrowed(part))
}

/// Reads a bag into `message`.
pub(crate) fn read(bag: &str, message: &mut Telemetry) {
    for pair in bag.split('&') {
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) => (decoded(name), Some(decoded(value))),
            None => (decoded(pair), None),
        };
        if name.is_empty() || CLAIMS.contains(&&*name) {
            continue;
        }
        let system = found(&SYSTEM, &name);
        let annotated = found(&ANNOTATED, &name);
        match (system.or(annotated), value) {
            // A system property without a value says nothing.
            (Some(_), None) => {}
            (Some(to), Some(value)) => {
                let value = if name == EXPIRY { instant(&value) } else { value.into_owned() };
                let into = match annotated {
                    Some(_) => &mut message.own_annotations,
                    None => &mut message.system_properties,
                };
                into.insert(to.to_owned(), value);
            }
            (None, value) => {
                let value = value.map(Cow::into_owned);
                message.application_properties.insert(name.into_owned(), value);
            }
        }
    }
}

/// An instant in the one form that the service side shows; what is none stays itself.
fn instant(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => iso8601(at.as_millisecond()),
        Err(_) => text.to_owned(),
    }
}

/// A bag that is being written.
#[derive(Debug, Default)]
pub(crate) struct Bag(String);

impl Bag {
    /// Adds a pair; a name alone when there is no value (A5: null).
    pub(crate) fn push(&mut self, name: &str, value: Option<&str>) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.extend(utf8_percent_encode(name, ENCODED));
        if let Some(value) = value {
            self.0.push('=');
            self.0.extend(utf8_percent_encode(value, ENCODED));
        }
    }

    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

/// The wire name of a system property.
pub(crate) fn wire_name(name: &str) -> Option<&'static str> {
    SYSTEM.iter().find(|(_, service)| *service == name).map(|(wire, _)| *wire)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn check(bag: &str, system: Pairs, application: &[(&str, Option<&str>)], annotations: Pairs) {
        let mut got = Telemetry::default();
        read(bag, &mut got);
        let texts = |pairs: Pairs| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        assert_eq!(got.system_properties, texts(system), "{bag}");
        assert_eq!(got.own_annotations, texts(annotations), "{bag}");
        let application: std::collections::BTreeMap<String, Option<String>> =
            application.iter().map(|(k, v)| ((*k).into(), v.map(Into::into))).collect();
        assert_eq!(got.application_properties, application, "{bag}");
    }

    /// What the SDKs sent in the hands-on record (A5).
    #[test]
    fn bags_of_every_sdk_become_the_same_record() {
        let system = [
            ("message-id", "id-1"),
            ("correlation-id", "cor 1"),
            ("content-type", "application/json"),
            ("content-encoding", "utf-8"),
        ];
        let user: [(&str, Option<&str>); 2] =
            [("alert level", Some("high&low=é")), ("empty", Some(""))];
        check(
            "%24.mid=id-1&%24.cid=cor%201&%24.ct=application%2Fjson&%24.ce=utf-8&alert%20level=high%26low%3D%C3%A9&empty=",
            &system,
            &user,
            &[],
        );
        check(
            "alert%20level=high%26low%3d%c3%a9&empty=&$.cid=cor%201&$.mid=id-1&$.ct=application%2fjson&$.ce=utf-8",
            &system,
            &user,
            &[],
        );
        // The C SDK without URL encoding: the bare & tears the value apart, nothing else.
        check(
            "alert level=high&low=x&iothub-creation-time-utc=2026-01-01T00:00:00Z&%24.ct=application/json",
            &[
                ("iothub-creation-time-utc", "2026-01-01T00:00:00Z"),
                ("content-type", "application/json"),
            ],
            &[("alert level", Some("high")), ("low", Some("x"))],
            &[],
        );
    }

    #[test]
    fn names_values_and_what_is_neither() {
        check("", &[], &[], &[]);
        check("&&=x", &[], &[], &[]);
        check("a", &[], &[("a", None)], &[]);
        check(
            "a=b=c&d=%ff&e=1+2",
            &[],
            &[("a", Some("b=c")), ("d", Some("%ff")), ("e", Some("1+2"))],
            &[],
        );
        check("a=1&a=2", &[], &[("a", Some("2"))], &[]);
        check("%24.cdid=x&$.cmid=y&$.other=z", &[], &[("$.other", Some("z"))], &[]);
        check(
            "$.sub=room&%24.ifid=i",
            &[],
            &[],
            &[("dt-subject", "room"), ("iothub-interface-id", "i")],
        );
        check(
            "$.exp=2026-01-01T00%3a00%3a00Z&$.on=out&$.uid=u&iothub-ack=full",
            &[
                ("absolute-expiry-time", "2026-01-01T00:00:00.000Z"),
                ("iothub-outputname", "out"),
                ("user-id", "u"),
                ("iothub-ack", "full"),
            ],
            &[],
            &[],
        );
        check("$.exp=soon&$.mid", &[("absolute-expiry-time", "soon")], &[], &[]);
    }

    #[test]
    fn what_is_written_has_no_slash() {
        let mut bag = Bag::default();
        bag.push("$.to", Some("/devices/dev1/messages/deviceBound"));
        bag.push("colour", Some("deep blue"));
        bag.push("null", None);
        let text = bag.into_text();
        assert_eq!(
            text,
            "%24.to=%2Fdevices%2Fdev1%2Fmessages%2FdeviceBound&colour=deep%20blue&null"
        );
    }
}
