//! Property bags: `key=value&key=value` behind a topic, each part percent-encoded.
//!
//! Owns: [`decode`] (lenient) and [`encode`] (strict), and the wire names of the system properties.
//!
//! What leniency means here, for real devices send such bags and would send them again and again if refused:
//!
//! | on the wire | becomes |
//! |---|---|
//! | `key=` | the empty text |
//! | `key` | an application property without a value; dropped if `key` is a system property |
//! | `key=a=b` | `a=b` (the C SDK without URL encoding) |
//! | `&&`, `=value` | nothing: there is no name |
//! | `%4g`, `%` | itself: only `%XX`, X a hex digit of either case, is decoded; `+` stays `+` |
//! | `%ff` (decodes to no UTF-8) | itself, undecoded: what the device sent stays recognisable |
//! | `a=1&a=2` | the last |
//! | `$.cdid`, `$.cmid` | nothing: who sent a message is what was authenticated, not what it says |
//! | other `$.x` (`$.diagid`) | an application property of that name: nothing is lost |
//!
//! Names of system properties are compared exactly, after decoding (`%24.mid` is `$.mid`).
//! Limits: [`PAIRS_MAX`] and [`BAG_BYTES_MAX`]; with them the n^2 comparisons of `Properties::set` stay below 131,072
//! (512 * 511 / 2), each of which ends at the length unless the lengths are equal.
//! Must not know: topics.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::identity::ClientName;
use crate::message::{Properties, SystemKey, SystemProperties};

/// Most pairs in a bag. IoT Hub has no such number; 512 of them are 128 bytes each at most.
pub const PAIRS_MAX: usize = 512;

/// Longest bag in bytes: as long as a topic can be (section 1.5.3).
pub const BAG_BYTES_MAX: usize = 65_535;

/// What RFC 3986 calls unreserved stays, all else is encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why a bag is refused: only for its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BagError {
    /// More than [`PAIRS_MAX`] pairs.
    #[error("the property bag has more than {PAIRS_MAX} properties")]
    TooManyPairs,
    /// More than [`BAG_BYTES_MAX`] bytes.
    #[error("the property bag has {0} bytes; the limit is {BAG_BYTES_MAX}")]
    TooLong(usize),
}

impl BagError {
    /// Short label for counters.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooManyPairs => "bag_too_many_properties",
            Self::TooLong(_) => "bag_too_long",
        }
    }
}

/// Reads a bag.
pub fn decode(bag: &str) -> Result<(SystemProperties, Properties), BagError> {
    let mut system = SystemProperties::default();
    let mut properties = Properties::default();
    if bag.is_empty() {
        return Ok((system, properties));
    }
    if bag.len() > BAG_BYTES_MAX {
        return Err(BagError::TooLong(bag.len()));
    }
    for (index, pair) in bag.split('&').enumerate() {
        if index == PAIRS_MAX {
            return Err(BagError::TooManyPairs);
        }
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) => (name, Some(unescape(value))),
            None => (pair, None),
        };
        if name.is_empty() {
            continue;
        }
        let name = unescape(name);
        match (meaning(&name), value) {
            (Meaning::System(key), Some(value)) => system.set(key, value),
            (Meaning::System(_), None) | (Meaning::Identity, _) => {}
            (Meaning::Application, value) => properties.set(name, value.map(Into::into)),
        }
    }
    Ok((system, properties))
}

fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    percent_decode_str(text).decode_utf8().unwrap_or(Cow::Borrowed(text))
}

enum Meaning {
    System(SystemKey),
    Identity,
    Application,
}

fn meaning(name: &str) -> Meaning {
    let key = match name {
        "$.mid" => SystemKey::MessageId,
        "$.cid" => SystemKey::CorrelationId,
        "$.uid" => SystemKey::UserId,
        "$.to" => SystemKey::To,
        "$.ct" => SystemKey::ContentType,
        "$.ce" => SystemKey::ContentEncoding,
        "$.exp" => SystemKey::AbsoluteExpiryTime,
        "$.ctime" | "iothub-creation-time-utc" => SystemKey::CreationTime,
        "$.on" => SystemKey::OutputName,
        "$.ifid" => SystemKey::InterfaceId,
        "$.sub" => SystemKey::Component,
        "$.schema" => SystemKey::MessageSchema,
        "ack" | "iothub-ack" => SystemKey::Ack,
        "iothub-operation" => SystemKey::Operation,
        "$.cdid" | "$.cmid" => return Meaning::Identity,
        _ => return Meaning::Application,
    };
    Meaning::System(key)
}

/// The name on the wire, already encoded; `None` for what never goes to a client in a bag.
fn wire_name(key: SystemKey) -> Option<&'static str> {
    Some(match key {
        SystemKey::MessageId => "%24.mid",
        SystemKey::CorrelationId => "%24.cid",
        SystemKey::UserId => "%24.uid",
        SystemKey::To => "%24.to",
        SystemKey::ContentType => "%24.ct",
        SystemKey::ContentEncoding => "%24.ce",
        SystemKey::AbsoluteExpiryTime => "%24.exp",
        SystemKey::CreationTime => "%24.ctime",
        SystemKey::InterfaceId => "%24.ifid",
        SystemKey::Component => "%24.sub",
        SystemKey::MessageSchema => "%24.schema",
        SystemKey::Ack => "iothub-ack",
        SystemKey::Operation => "iothub-operation",
        // `$.on` never goes out; the model id is part of the user name, not of a bag; whose twin a notification tells of goes
        // out as its sender ([`Message::told_sender`](crate::message::Message::told_sender)).
        SystemKey::OutputName
        | SystemKey::ModelId
        | SystemKey::MessageType
        | SystemKey::ReportedDevice
        | SystemKey::ReportedModule => return None,
    })
}

/// Appends the bag to `out`: system properties, the original `sender` if given (module inputs), application properties.
pub fn encode(
    system: &SystemProperties,
    properties: &Properties,
    sender: Option<&ClientName>,
    out: &mut String,
) {
    let start = out.len();
    for (key, value) in system.iter() {
        if let Some(name) = wire_name(key) {
            put(start, name, Some(value), out);
        }
    }
    if let Some(sender) = sender {
        put(start, "%24.cdid", Some(sender.device().as_str()), out);
        if let Some(module) = sender.module() {
            put(start, "%24.cmid", Some(module.as_str()), out);
        }
    }
    for (name, value) in properties.iter() {
        let name: Cow<'_, str> = utf8_percent_encode(name, ENCODED).into();
        put(start, &name, value, out);
    }
}

fn put(start: usize, name: &str, value: Option<&str>, out: &mut String) {
    if out.len() > start {
        out.push('&');
    }
    out.push_str(name);
    if let Some(value) = value {
        out.push('=');
        out.extend(utf8_percent_encode(value, ENCODED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pair<'a> = (&'a str, Option<&'a str>);

    fn check(bag: &str, system: &[(SystemKey, &str)], properties: &[Pair<'_>]) {
        let (got_system, got_properties) = decode(bag).unwrap();
        assert_eq!(got_system.iter().collect::<Vec<_>>(), system, "{bag}");
        assert_eq!(got_properties.iter().collect::<Vec<_>>(), properties, "{bag}");
    }

    /// What the SDKs of Python, Node and C really published for one message.
    #[test]
    fn bags_captured_from_sdks_are_the_same_record() {
        use SystemKey::*;
        let four = [
            (MessageId, "id-1"),
            (CorrelationId, "cor 1"),
            (ContentType, "application/json"),
            (ContentEncoding, "utf-8"),
        ];
        let app = [("alert level", Some("high&low=é")), ("empty", Some(""))];
        check(
            "%24.mid=id-1&%24.cid=cor%201&%24.ct=application%2Fjson&%24.ce=utf-8&alert%20level=high%26low%3D%C3%A9&empty=",
            &four,
            &app,
        );
        let with_user = [four[0], four[1], (UserId, "u1"), four[2], four[3]];
        check(
            "%24.mid=id-1&%24.cid=cor%201&%24.uid=u1&%24.ct=application%2Fjson&%24.ce=utf-8&alert%20level=high%26low%3D%C3%A9&empty=",
            &with_user,
            &app,
        );
        let time = "2026-01-01T00:00:00Z";
        let by_c = [
            (CreationTime, time),
            (CorrelationId, "cor 1"),
            (MessageId, "id-1"),
            (ContentType, "application/json"),
            (ContentEncoding, "utf-8"),
            (OutputName, "out"),
        ];
        check(
            "alert%20level=high%26low%3dx&iothub-creation-time-utc=2026-01-01T00%3a00%3a00Z&%24.cid=cor%201&%24.mid=id-1&%24.ct=application%2fjson&%24.ce=utf-8&%24.ctime=2026-01-01T00%3a00%3a00Z&%24.on=out",
            &by_c,
            &[("alert level", Some("high&low=x"))],
        );
        // C with URL encoding off: the raw & tears the value apart, nothing else.
        check(
            "alert level=high&low=x&iothub-creation-time-utc=2026-01-01T00:00:00Z&%24.cid=cor 1&%24.mid=id-1&%24.ct=application/json&%24.ce=utf-8",
            &by_c[..5],
            &[("alert level", Some("high")), ("low", Some("x"))],
        );
    }

    #[test]
    fn leniency_row_by_row() {
        use SystemKey::*;
        check("", &[], &[]);
        check("&&", &[], &[]);
        check("=x&=", &[], &[]);
        check("key", &[], &[("key", None)]);
        check("key=", &[], &[("key", Some(""))]);
        check("key=a=b", &[], &[("key", Some("a=b"))]);
        check("a=1&b=2&a=3", &[], &[("a", Some("3")), ("b", Some("2"))]);
        check("a=1&A=2", &[], &[("a", Some("1")), ("A", Some("2"))]);
        check("a=b+c", &[], &[("a", Some("b+c"))]);
        check("a=%4g&b=%&c=%4", &[], &[("a", Some("%4g")), ("b", Some("%")), ("c", Some("%4"))]);
        check("a=x%ffy&%ff=1", &[], &[("a", Some("x%ffy")), ("%ff", Some("1"))]);
        check("a=%c3%A9", &[], &[("a", Some("é"))]);
        check("a=b/c", &[], &[("a", Some("b/c"))]);
        check("$.mid=1&%24.mid=2", &[(MessageId, "2")], &[]);
        check("$.MID=1", &[], &[("$.MID", Some("1"))]);
        check("%24.ct", &[], &[]);
        check("%24.ct=", &[(ContentType, "")], &[]);
        check("%24.cdid=other&%24.cmid=m&$.cdid=x", &[], &[]);
        check("%24.diagid=1", &[], &[("$.diagid", Some("1"))]);
        check("ack=full", &[(Ack, "full")], &[]);
        check("iothub-ack=full&iothub-operation=op", &[(Ack, "full"), (Operation, "op")], &[]);
        let all = "$.uid=1&$.to=2&$.exp=3&$.ifid=4&$.sub=5&$.schema=6";
        let keys = [UserId, To, AbsoluteExpiryTime, InterfaceId, Component, MessageSchema];
        let expected: Vec<_> = keys.into_iter().zip(["1", "2", "3", "4", "5", "6"]).collect();
        check(all, &expected, &[]);
    }

    #[test]
    fn size_alone_is_refused() {
        let many = |n: usize| (0..n).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join("&");
        assert_eq!(decode(&many(PAIRS_MAX)).unwrap().1.len(), PAIRS_MAX);
        assert_eq!(decode(&many(PAIRS_MAX + 1)), Err(BagError::TooManyPairs));
        assert_eq!(decode(&"&".repeat(PAIRS_MAX)), Err(BagError::TooManyPairs));
        let long = "k".repeat(BAG_BYTES_MAX);
        assert_eq!(decode(&long).unwrap().1.len(), 1);
        assert_eq!(decode(&(long + "k")), Err(BagError::TooLong(BAG_BYTES_MAX + 1)));
    }

    proptest::proptest! {
        #[test]
        fn what_is_encoded_comes_back(pairs in proptest::collection::vec((".{1,12}", proptest::option::of(".{0,12}")), 0..8)) {
            let mut properties = Properties::default();
            for (name, value) in pairs {
                properties.set(name, value.map(Into::into));
            }
            let mut system = SystemProperties::default();
            system.set(SystemKey::MessageId, "id&1=%");
            let mut bag = String::new();
            encode(&system, &properties, None, &mut bag);
            proptest::prop_assert!(bag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%&=".contains(&b)));
            proptest::prop_assert_eq!(decode(&bag), Ok((system, properties)));
        }
    }
}
