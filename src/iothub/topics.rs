//! Topics that clients publish to, and those that the hub (so: this gateway) publishes to.
//!
//! Owns: [`parse_publish`] and the outbound topics. Invariants: templates are anchored at both ends (the reference's
//! are not anchored at the start); the ids of a telemetry topic end at the first `/messages/events`, so a raw `/` in a
//! property value (the C SDK writes `%24.ct=application/json` when URL encoding is off) breaks nothing.
//! Must not know: who is authenticated: it reports whom a topic names, the session compares.

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;

use super::bag;
use crate::identity::ClientName;
use crate::message::{Properties, SystemProperties};

/// Status of a method response whose topic has none that is a number, as the reference reports it to the caller.
pub const METHOD_STATUS_BAD: i32 = 400_000;

/// What a client publishes, by its topic. Borrows from the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inbound<'a> {
    /// Device-to-cloud message.
    Telemetry(Telemetry<'a>),
    /// Answer to a direct method.
    MethodResponse {
        /// [`METHOD_STATUS_BAD`] when the topic has none that is a number.
        status: i32,
        /// Request id, verbatim.
        rid: &'a str,
    },
    /// Request for the whole twin.
    TwinGet {
        /// Request id, verbatim: opaque.
        rid: &'a str,
    },
    /// Patch of the reported properties.
    TwinPatch {
        /// Without one nobody waits for a reply.
        rid: Option<&'a str>,
        /// Reported version that the client believes in.
        version: Option<u64>,
    },
}

/// A telemetry topic: whom it names, and the property bag behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Telemetry<'a> {
    device: &'a str,
    module: Option<&'a str>,
    /// Property bag, without a leading `?` and a trailing `/`; may be empty.
    pub bag: &'a str,
}

impl Telemetry<'_> {
    /// Whether the topic names a module.
    pub fn is_of_module(&self) -> bool {
        self.module.is_some()
    }

    /// Whether the topic names `name`. Some SDKs percent-encode ids in topics (Python does), some do not (C).
    pub fn names(&self, name: &ClientName) -> bool {
        let module_is = match (self.module, name.module()) {
            (None, None) => true,
            (Some(text), Some(module)) => is_id(text, module.as_str()),
            _ => false,
        };
        module_is && is_id(self.device, name.device().as_str())
    }
}

/// Whether a topic level spells `id`, as it is or percent-encoded.
pub(super) fn is_id(level: &str, id: &str) -> bool {
    level == id || (level.contains('%') && percent_decode_str(level).eq(id.bytes()))
}

/// Why a topic is none that a client may publish to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// None of the templates.
    #[error(
        "no client publishes to this topic; telemetry goes to devices/{{device}}/messages/events/"
    )]
    Unknown,
    /// Twin or method topic without `$rid`.
    #[error("the topic has no $rid")]
    Rid,
    /// `$version` that is no number.
    #[error("the topic's $version is not a number")]
    Version,
}

impl TopicError {
    /// Short label for counters.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unknown => "topic_unknown",
            Self::Rid => "topic_rid",
            Self::Version => "topic_version",
        }
    }
}

/// Reads the topic of a client's PUBLISH.
pub fn parse_publish(topic: &str) -> Result<Inbound<'_>, TopicError> {
    if let Some(rest) = topic.strip_prefix("devices/") {
        return telemetry(rest).map(Inbound::Telemetry);
    }
    let rest = topic.strip_prefix("$iothub/").ok_or(TopicError::Unknown)?;
    if let Some(rest) = rest.strip_prefix("methods/res/") {
        // {status}/?$rid={rid}; the status is the caller's business even when it is missing.
        let (status, query) = rest.split_once('?').ok_or(TopicError::Unknown)?;
        let status = status.strip_suffix('/').unwrap_or(status);
        let rid = parameter(query, "rid").ok_or(TopicError::Rid)?;
        return Ok(Inbound::MethodResponse {
            status: status.parse().unwrap_or(METHOD_STATUS_BAD),
            rid,
        });
    }
    if let Some(query) = rest.strip_prefix("twin/GET/?") {
        return Ok(Inbound::TwinGet { rid: parameter(query, "rid").ok_or(TopicError::Rid)? });
    }
    if let Some(query) = rest.strip_prefix("twin/PATCH/properties/reported/") {
        let query = query.strip_prefix('?').unwrap_or(query);
        let version = match parameter(query, "version") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| TopicError::Version)?),
        };
        return Ok(Inbound::TwinPatch { rid: parameter(query, "rid"), version });
    }
    Err(TopicError::Unknown)
}

/// `rest` is the topic behind `devices/`.
fn telemetry(rest: &str) -> Result<Telemetry<'_>, TopicError> {
    let (device, rest) = rest.split_once('/').ok_or(TopicError::Unknown)?;
    let (module, rest) = match rest.strip_prefix("modules/") {
        None => (None, rest),
        Some(rest) => {
            let (module, rest) = rest.split_once('/').ok_or(TopicError::Unknown)?;
            (Some(module), rest)
        }
    };
    let bag = rest.strip_prefix("messages/events").ok_or(TopicError::Unknown)?;
    let bag = match bag.strip_prefix('/') {
        Some(bag) => bag,
        None if bag.is_empty() => bag,
        None => return Err(TopicError::Unknown),
    };
    // "events/?key=value" is how the reference's own documentation writes it; "events/{bag}/" is its template. A raw
    // value that ends in a slash loses that one: the two cannot be told apart.
    let bag = bag.strip_prefix('?').unwrap_or(bag);
    let bag = bag.strip_suffix('/').unwrap_or(bag);
    Ok(Telemetry { device, module, bag })
}

/// The value of `$name` in `a=b&c=d`, verbatim; empty counts as missing.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let key = key.strip_prefix('$').or_else(|| key.strip_prefix("%24"))?;
        (key == name && !value.is_empty()).then_some(value)
    })
}

/// `$iothub/twin/res/{status}/?$rid={rid}[&$version={version}]`
pub fn twin_response(status: u16, rid: &str, version: Option<u64>) -> String {
    let mut topic = format!("$iothub/twin/res/{status}/?$rid={rid}");
    if let Some(version) = version {
        write!(topic, "&$version={version}").expect("a String takes everything");
    }
    topic
}

/// `$iothub/twin/PATCH/properties/desired/?$version={version}`
pub fn desired_patch(version: u64) -> String {
    format!("$iothub/twin/PATCH/properties/desired/?$version={version}")
}

/// `$iothub/methods/POST/{name}/?$rid={rid}`
pub fn method_request(name: &str, rid: &str) -> String {
    format!("$iothub/methods/POST/{name}/?$rid={rid}")
}

/// `devices/{device}/messages/devicebound/{bag}`. `to` is spelled as that client spells itself.
pub fn cloud_to_device(
    to: &ClientName,
    system: &SystemProperties,
    properties: &Properties,
) -> String {
    let mut topic = format!("devices/{}/messages/devicebound/", to.device());
    bag::encode(system, properties, None, &mut topic);
    topic
}

/// `devices/{device}/modules/{module}/inputs/{input}/{bag}`, with the original sender in the bag. `None` when `to` is
/// no module: devices have no inputs.
pub fn module_input(
    to: &ClientName,
    input: &str,
    sender: &ClientName,
    system: &SystemProperties,
    properties: &Properties,
) -> Option<String> {
    let mut topic = format!("devices/{}/modules/{}/inputs/{input}/", to.device(), to.module()?);
    bag::encode(system, properties, Some(sender), &mut topic);
    Some(topic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{DeviceId, ModuleId};

    fn device(id: &str) -> ClientName {
        ClientName::Device(DeviceId::parse(id).unwrap())
    }

    fn module(id: &str, module: &str) -> ClientName {
        ClientName::Module(DeviceId::parse(id).unwrap(), ModuleId::parse(module).unwrap())
    }

    fn check_telemetry(topic: &str, name: &ClientName, bag: &str) {
        let Ok(Inbound::Telemetry(telemetry)) = parse_publish(topic) else {
            panic!("{topic} is telemetry")
        };
        assert!(telemetry.names(name), "{topic} names {name}");
        assert_eq!(telemetry.bag, bag, "{topic}");
    }

    #[test]
    fn telemetry_in_all_its_spellings() {
        let dev1 = device("dev1");
        check_telemetry("devices/dev1/messages/events", &dev1, "");
        check_telemetry("devices/dev1/messages/events/", &dev1, "");
        check_telemetry("devices/dev1/messages/events//", &dev1, "");
        check_telemetry("devices/dev1/messages/events/a=b", &dev1, "a=b");
        check_telemetry("devices/dev1/messages/events/a=b/", &dev1, "a=b");
        check_telemetry("devices/dev1/messages/events/?a=b", &dev1, "a=b");
        check_telemetry("devices/dev1/messages/events/?a=b/", &dev1, "a=b");
        // Raw values of a C SDK that does not encode: the first /messages/events/ is the one.
        let raw = "%24.ct=application/json&to=/devices/x/messages/events/y";
        check_telemetry(&format!("devices/dev1/messages/events/{raw}"), &dev1, raw);
        check_telemetry("devices/dev1/modules/m/messages/events/a", &module("dev1", "m"), "a");
        check_telemetry("devices/dev1/modules/m/messages/events", &module("dev1", "m"), "");
        // Python percent-encodes ids, C does not; `%` is itself a legal character of an id.
        check_telemetry("devices/a%3ab/messages/events/", &device("a:b"), "");
        check_telemetry("devices/a%3Ab/messages/events/", &device("a%3Ab"), "");
        check_telemetry(
            "devices/d/modules/%24edgeHub/messages/events/",
            &module("d", "$edgeHub"),
            "",
        );
        check_telemetry("devices/modules/messages/events/", &device("modules"), "");
    }

    #[test]
    fn telemetry_of_someone_else() {
        for (topic, name) in [
            ("devices/dev2/messages/events/", device("dev1")),
            ("devices/DEV1/messages/events/", device("dev1")),
            ("devices/dev1/messages/events/", module("dev1", "m")),
            ("devices/dev1/modules/m/messages/events/", device("dev1")),
            ("devices/dev1/modules/n/messages/events/", module("dev1", "m")),
            ("devices/dev1%00/messages/events/", device("dev1")),
        ] {
            let Ok(Inbound::Telemetry(telemetry)) = parse_publish(topic) else { panic!("{topic}") };
            assert!(!telemetry.names(&name), "{topic} does not name {name}");
        }
    }

    fn check(topic: &str, expected: Result<Inbound<'_>, TopicError>) {
        assert_eq!(parse_publish(topic), expected, "{topic}");
    }

    #[test]
    fn twins_and_methods() {
        check("$iothub/twin/GET/?$rid=4", Ok(Inbound::TwinGet { rid: "4" }));
        check("$iothub/twin/GET/?%24rid=a-b%20c", Ok(Inbound::TwinGet { rid: "a-b%20c" }));
        let patch = |rid, version| Ok(Inbound::TwinPatch { rid, version });
        let base = "$iothub/twin/PATCH/properties/reported/";
        check(&format!("{base}?$rid=5"), patch(Some("5"), None));
        check(&format!("{base}?$rid=5&$version=12"), patch(Some("5"), Some(12)));
        check(&format!("{base}?$version=12&$rid=5"), patch(Some("5"), Some(12)));
        check(base, patch(None, None));
        let response = |status, rid| Ok(Inbound::MethodResponse { status, rid });
        check("$iothub/methods/res/200/?$rid=1f", response(200, "1f"));
        check("$iothub/methods/res/-1/?$rid=1f", response(-1, "1f"));
        check("$iothub/methods/res/ok/?$rid=1f", response(METHOD_STATUS_BAD, "1f"));
        check("$iothub/methods/res//?$rid=1f", response(METHOD_STATUS_BAD, "1f"));
        check("$iothub/methods/res/?$rid=1f", response(METHOD_STATUS_BAD, "1f"));
    }

    #[test]
    fn topics_that_no_client_publishes_to() {
        for topic in [
            "",
            "/",
            "devices/",
            "devices/dev1",
            "devices/dev1/messages/eventsx",
            "devices/dev1/messages/devicebound/",
            "devices/dev1/modules/m",
            "devices/dev1/modules/m/inputs/i/",
            "x/devices/dev1/messages/events/",
            "/devices/dev1/messages/events/",
            "Devices/dev1/messages/events/",
            "$iothub/",
            "$iothub/twin/res/200/?$rid=1",
            "$iothub/twin/GET",
            "$iothub/methods/POST/x/?$rid=1",
            "$iothub/methods/res/200",
            "$dps/registrations/PUT/iotdps-register/?$rid=1",
        ] {
            check(topic, Err(TopicError::Unknown));
        }
        check("$iothub/twin/GET/?", Err(TopicError::Rid));
        check("$iothub/twin/GET/?$rid=", Err(TopicError::Rid));
        check("$iothub/twin/GET/?rid=1", Err(TopicError::Rid));
        check("$iothub/methods/res/200/?", Err(TopicError::Rid));
        let patch = "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=x";
        check(patch, Err(TopicError::Version));
    }

    #[test]
    fn outbound_topics() {
        assert_eq!(twin_response(200, "4", None), "$iothub/twin/res/200/?$rid=4");
        assert_eq!(twin_response(204, "a", Some(7)), "$iothub/twin/res/204/?$rid=a&$version=7");
        assert_eq!(desired_patch(3), "$iothub/twin/PATCH/properties/desired/?$version=3");
        assert_eq!(method_request("reboot", "1f"), "$iothub/methods/POST/reboot/?$rid=1f");
        let (system, properties) =
            bag::decode("%24.mid=m-1&iothub-ack=full&colour=deep%20blue&%24.on=o&nul").unwrap();
        assert_eq!(
            cloud_to_device(&device("dev1"), &system, &properties),
            "devices/dev1/messages/devicebound/%24.mid=m-1&iothub-ack=full&colour=deep%20blue&nul"
        );
        assert_eq!(
            module_input(&module("d", "m"), "in", &module("d", "$n"), &system, &properties)
                .unwrap(),
            "devices/d/modules/m/inputs/in/%24.mid=m-1&iothub-ack=full&%24.cdid=d&%24.cmid=%24n&colour=deep%20blue&nul"
        );
        assert_eq!(module_input(&device("d"), "in", &device("d"), &system, &properties), None);
    }
}
