//! Topics that clients publish to (fact sheet A5, A7, A8).
//!
//! Invariant: a topic that names another identity is no topic of this client. Must not know: what is done about one.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::registry::Principal;

/// A publication, by its topic.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inbound<'a> {
    Telemetry {
        bag: &'a str,
    },
    TwinGet {
        rid: &'a str,
    },
    /// `version`: the reported version that the client thinks is current.
    TwinPatch {
        rid: &'a str,
        version: Option<u64>,
    },
    MethodAnswer {
        status: i64,
        rid: &'a str,
    },
}

/// What `topic` is for `who`; none: nothing that may be published.
pub(super) fn inbound<'a>(topic: &'a str, who: &Principal) -> Option<Inbound<'a>> {
    if let Some(rest) = topic.strip_prefix("$iothub/") {
        return request(rest);
    }
    // The first of them is the one: a value that is not encoded may hold another.
    let (name, bag) = topic.split_once("/messages/events")?;
    let bag = match bag.strip_prefix('/') {
        Some(bag) => bag,
        None if bag.is_empty() => bag,
        None => return None,
    };
    let bag = bag.strip_prefix('?').unwrap_or(bag);
    let bag = bag.strip_suffix('/').unwrap_or(bag);
    names(name, who).then_some(Inbound::Telemetry { bag })
}

fn request(rest: &str) -> Option<Inbound<'_>> {
    let (path, query) = rest.rsplit_once("/?")?;
    let rid = parameter(query, "rid")?;
    match path {
        "twin/GET" => Some(Inbound::TwinGet { rid }),
        "twin/PATCH/properties/reported" => {
            let version = match parameter(query, "version") {
                Some(version) => Some(version.parse().ok()?),
                None => None,
            };
            Some(Inbound::TwinPatch { rid, version })
        }
        _ => {
            let status = path.strip_prefix("methods/res/")?.parse().ok()?;
            Some(Inbound::MethodAnswer { status, rid })
        }
    }
}

/// `$name=value`, verbatim: a `$rid` is echoed as it came.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let key = key.strip_prefix('$').or_else(|| key.strip_prefix("%24"))?;
        (key == name && !value.is_empty()).then_some(value)
    })
}

/// Whether `devices/{d}[/modules/{m}]` is `who`. Ids come percent-encoded from Python and as they are from C.
pub(super) fn names(path: &str, who: &Principal) -> bool {
    let is = |part: &str, id: &str| {
        let decoded = percent_decode_str(part).decode_utf8().unwrap_or(Cow::Borrowed(part));
        part == id || decoded == id
    };
    let parts: Vec<&str> = path.split('/').collect();
    match (&parts[..], &who.module) {
        (["devices", device], None) => is(device, &who.device),
        (["devices", device, "modules", module], Some(id)) => {
            is(device, &who.device) && is(module, id)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(id: &str) -> Principal {
        Principal { device: id.into(), module: None }
    }

    fn module(device: &str, module: &str) -> Principal {
        Principal { device: device.into(), module: Some(module.into()) }
    }

    #[test]
    fn telemetry_in_all_its_spellings_and_of_nobody_else() {
        let dev1 = device("dev1");
        for (topic, expected) in [
            ("devices/dev1/messages/events", Some("")),
            ("devices/dev1/messages/events/", Some("")),
            ("devices/dev1/messages/events/a=b", Some("a=b")),
            ("devices/dev1/messages/events/a=b/", Some("a=b")),
            ("devices/dev1/messages/events/?a=b", Some("a=b")),
            ("devices/dev1/messages/events/ct=a/messages/events/b", Some("ct=a/messages/events/b")),
            ("devices/dev1/messages/eventsx", None),
            ("devices/DEV1/messages/events/", None),
            ("devices/dev2/messages/events/", None),
            ("devices/dev1/modules/m/messages/events/", None),
            ("dev1/messages/events/", None),
            ("devices/dev1/messages/devicebound/", None),
            ("", None),
        ] {
            let expected = expected.map(|bag| Inbound::Telemetry { bag });
            assert_eq!(inbound(topic, &dev1), expected, "{topic}");
        }
        let telemetry = Some(Inbound::Telemetry { bag: "" });
        let hub = module("d", "$edgeHub");
        assert_eq!(inbound("devices/d/modules/%24edgeHub/messages/events/", &hub), telemetry);
        assert_eq!(inbound("devices/d/messages/events/", &hub), None);
        assert_eq!(inbound("devices/a%3ab/messages/events/", &device("a:b")), telemetry);
    }

    #[test]
    fn requests_and_answers() {
        let check = |topic: &str, expected: Option<Inbound<'_>>| {
            assert_eq!(inbound(topic, &device("d")), expected, "{topic}");
        };
        check("$iothub/twin/GET/?$rid=4", Some(Inbound::TwinGet { rid: "4" }));
        check("$iothub/twin/GET/?%24rid=a%20b", Some(Inbound::TwinGet { rid: "a%20b" }));
        let patch = |rid, version| Some(Inbound::TwinPatch { rid, version });
        check("$iothub/twin/PATCH/properties/reported/?$rid=5", patch("5", None));
        let guarded = "$iothub/twin/PATCH/properties/reported/?$rid=5&$version=7";
        check(guarded, patch("5", Some(7)));
        check("$iothub/twin/PATCH/properties/reported/?$rid=5&$version=x", None);
        let answer = |status| Some(Inbound::MethodAnswer { status, rid: "1f" });
        check("$iothub/methods/res/200/?$rid=1f", answer(200));
        check("$iothub/methods/res/-5/?$rid=1f", answer(-5));
        for bad in ["methods/res/x/?$rid=1", "twin/GET/", "twin/GET/?rid=1", "twin/POST/?$rid=1"] {
            check(&format!("$iothub/{bad}"), None);
        }
    }
}
