//! What a condition and a source can ask of a message: of one that is under way, or of a sample that somebody wrote down.
//!
//! Owns: [`Subject`], [`Origin`], names of system properties. Must not know: routes, expressions.

use crate::identity::DeviceId;
use crate::message::SystemKey;

/// A message as a route sees it.
pub trait Subject {
    /// The application property `name`, without regard to case: `None` = not there, `Some(None)` = there without a value.
    fn property(&self, name: &str) -> Option<Option<&str>>;
    /// The system property `name`.
    fn system(&self, name: &SystemName) -> Option<&str>;
    /// The payload.
    fn body(&self) -> &[u8];
    /// Its source path.
    fn origin(&self) -> Origin<'_>;
}

/// The segments of a message's source path (`edgehub.md` 4.2), for instance `messages`, `modules`, `m`, `outputs`, `o`.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'m> {
    parts: [&'m str; 5],
    len: usize,
}

/// A system property as a condition names it.
#[derive(Debug, Clone, PartialEq)]
pub struct SystemName {
    /// Without `$`, as written.
    pub text: Box<str>,
    /// Which one it is, without regard to case.
    pub property: SystemProperty,
}

/// System properties of the routing language (`edgehub.md` 4.4), by where a message has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SystemProperty {
    /// One that the sender set.
    Key(SystemKey),
    /// `connectionDeviceId`
    DeviceId,
    /// `connectionModuleId`
    ModuleId,
    /// `edgeHubOriginInterface`: `internal` for what this edge device and its modules send, else `downstream`.
    OriginInterface {
        /// This edge device.
        edge: DeviceId,
    },
    /// No message that this gateway receives has it; a sample may.
    Other,
}

impl PartialEq for Origin<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.segments() == other.segments()
    }
}

impl Eq for Origin<'_> {}

impl<'m> Origin<'m> {
    /// The segments, without slashes.
    pub fn segments(&self) -> &[&'m str] {
        &self.parts[..self.len]
    }

    /// Of a message of `/messages/` (a device's telemetry), or of a module and its output.
    pub fn telemetry(module: Option<&'m str>, output: Option<&'m str>) -> Self {
        let Some(module) = module else {
            return Self { parts: ["messages", "", "", "", ""], len: 1 };
        };
        let len = if output.is_some() { 5 } else { 3 };
        Self { parts: ["messages", "modules", module, "outputs", output.unwrap_or_default()], len }
    }

    /// Of a sample: `text` is its source path, as in `/messages/modules/m/outputs/o`. `None` = no path of a message: empty,
    /// more than five segments, or one of them is `*`, which only the source of a route has.
    pub fn parse(text: &'m str) -> Option<Self> {
        let path = text.trim();
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = path.strip_suffix('/').unwrap_or(path);
        let (mut parts, mut len) = ([""; 5], 0);
        for segment in path.split('/') {
            if segment.trim_matches('*').trim().is_empty() {
                return None;
            }
            *parts.get_mut(len)? = segment;
            len += 1;
        }
        Some(Self { parts, len })
    }

    /// Of a notification that reported properties have changed.
    pub fn twin_change() -> Self {
        Self { parts: ["twinChangeNotifications", "", "", "", ""], len: 1 }
    }
}

/// System properties by their names in conditions (`edgehub.md` 4.4), and where a message has them; `None` = nowhere.
/// The `$.cid` of a message lands in `cid`; the message of another front end or of a later stage has the others.
const NAMES: [(&str, Option<SystemKey>); 20] = [
    ("messageId", Some(SystemKey::MessageId)),
    ("cid", Some(SystemKey::CorrelationId)),
    ("correlationId", None),
    ("to", Some(SystemKey::To)),
    ("userId", Some(SystemKey::UserId)),
    ("ack", Some(SystemKey::Ack)),
    ("absolute-expiry-time", Some(SystemKey::AbsoluteExpiryTime)),
    ("contentType", Some(SystemKey::ContentType)),
    ("contentEncoding", Some(SystemKey::ContentEncoding)),
    ("messageSchema", Some(SystemKey::MessageSchema)),
    ("creationTime", Some(SystemKey::CreationTime)),
    ("operation", Some(SystemKey::Operation)),
    ("outputName", Some(SystemKey::OutputName)),
    ("inputName", None),
    ("enqueuedTime", None),
    ("edgeMessageId", None),
    ("dt-subject", Some(SystemKey::Component)),
    ("iothub-interface-id", Some(SystemKey::InterfaceId)),
    ("modelId", Some(SystemKey::ModelId)),
    ("messageType", Some(SystemKey::MessageType)),
];

const DEVICE_ID: &str = "connectionDeviceId";
const MODULE_ID: &str = "connectionModuleId";
const ORIGIN_INTERFACE: &str = "edgeHubOriginInterface";

impl SystemName {
    /// The system property `text`; `edge` is this edge device.
    pub fn new(text: &str, edge: &DeviceId) -> Self {
        // All names are ASCII, and no other letter is the upper or lower case of an ASCII one in the routing language.
        let is = |name: &str| name.eq_ignore_ascii_case(text);
        let property = if is(DEVICE_ID) {
            SystemProperty::DeviceId
        } else if is(MODULE_ID) {
            SystemProperty::ModuleId
        } else if is(ORIGIN_INTERFACE) {
            SystemProperty::OriginInterface { edge: edge.clone() }
        } else {
            let key = NAMES.iter().find(|(name, _)| is(name)).and_then(|(_, key)| *key);
            key.map_or(SystemProperty::Other, SystemProperty::Key)
        };
        Self { text: text.into(), property }
    }

    /// Every name that means something in a condition.
    pub fn known_names() -> impl Iterator<Item = &'static str> {
        let of_sender = [DEVICE_ID, MODULE_ID, ORIGIN_INTERFACE];
        NAMES.iter().map(|(name, _)| *name).chain(of_sender)
    }
}

impl Subject for crate::message::Message {
    fn property(&self, name: &str) -> Option<Option<&str>> {
        self.properties.get_ignore_case(name)
    }

    fn system(&self, name: &SystemName) -> Option<&str> {
        let sender = &self.source.sender;
        match &name.property {
            SystemProperty::Key(key) => self.system.get(*key),
            SystemProperty::DeviceId => Some(sender.device().as_str()),
            SystemProperty::ModuleId => sender.module().map(|m| m.as_str()),
            SystemProperty::OriginInterface { edge } => {
                Some(if sender.device() == edge { "internal" } else { "downstream" })
            }
            SystemProperty::Other => None,
        }
    }

    fn body(&self) -> &[u8] {
        &self.body
    }

    fn origin(&self) -> Origin<'_> {
        if self.is_twin_change() {
            return Origin::twin_change();
        }
        let module = self.source.sender.module().map(|m| m.as_str());
        Origin::telemetry(module, self.system.get(SystemKey::OutputName))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::identity::{ClientName, Identity, ModuleId};
    use crate::message::{Message, Properties, Source, SystemProperties, TWIN_CHANGE};

    fn edge() -> DeviceId {
        DeviceId::parse("edge").unwrap()
    }

    /// A message that has every system property, each with its key's name as value.
    fn message(device: &str, module: Option<&str>) -> Message {
        let device = DeviceId::parse(device).unwrap();
        let name = match module {
            None => ClientName::Device(device),
            Some(module) => ClientName::Module(device, ModuleId::parse(module).unwrap()),
        };
        let mut system = SystemProperties::default();
        for key in SystemKey::ALL {
            system.set(key, format!("{key:?}"));
        }
        Message {
            source: Source { sender: Identity::vouched(name) },
            system,
            properties: Properties::default(),
            body: bytes::Bytes::from_static(b"{}"),
            received: UnixMillis(0),
        }
    }

    #[test]
    fn system_properties_in_any_case() {
        let table = [
            ("messageId", Some("MessageId")),
            ("cid", Some("CorrelationId")),
            ("correlationId", None),
            ("to", Some("To")),
            ("userId", Some("UserId")),
            ("ack", Some("Ack")),
            ("absolute-expiry-time", Some("AbsoluteExpiryTime")),
            ("contentType", Some("ContentType")),
            ("contentEncoding", Some("ContentEncoding")),
            ("messageSchema", Some("MessageSchema")),
            ("creationTime", Some("CreationTime")),
            ("operation", Some("Operation")),
            ("outputName", Some("OutputName")),
            ("inputName", None),
            ("connectionDeviceId", Some("edge")),
            ("connectionModuleId", Some("m")),
            ("enqueuedTime", None),
            ("edgeMessageId", None),
            ("edgeHubOriginInterface", Some("internal")),
            ("dt-subject", Some("Component")),
            ("iothub-interface-id", Some("InterfaceId")),
            ("modelId", Some("ModelId")),
            ("messageType", Some("MessageType")),
        ];
        let message = message("edge", Some("m"));
        for (name, expected) in table {
            for text in [name.to_owned(), name.to_lowercase(), name.to_uppercase()] {
                let found = message.system(&SystemName::new(&text, &edge()));
                assert_eq!(found, expected, "{text}");
            }
        }
        let mut names = table.map(|(name, _)| name);
        let mut known: Vec<&str> = SystemName::known_names().collect();
        names.sort_unstable();
        known.sort_unstable();
        assert_eq!(known, names);
    }

    #[test]
    fn no_other_names() {
        let message = message("edge", Some("m"));
        for text in ["", "body", "mid", "$messageId", "messageId ", "me\u{17f}sageId", "to.", "ct"]
        {
            let name = SystemName::new(text, &edge());
            assert_eq!(name, SystemName { text: text.into(), property: SystemProperty::Other });
            assert_eq!(message.system(&name), None, "{text}");
        }
    }

    #[test]
    fn what_the_sender_gives() {
        let table = [
            ("edge", Some("m"), "edge", Some("m"), "internal"),
            ("edge", None, "edge", None, "internal"),
            ("leaf", None, "leaf", None, "downstream"),
            ("leaf", Some("m"), "leaf", Some("m"), "downstream"),
            ("EDGE", Some("m"), "EDGE", Some("m"), "downstream"),
        ];
        for (device, module, device_id, module_id, interface) in table {
            let message = message(device, module);
            let get = |name: &str| message.system(&SystemName::new(name, &edge()));
            assert_eq!(get("connectionDeviceId"), Some(device_id), "{device} {module:?}");
            assert_eq!(get("connectionModuleId"), module_id, "{device} {module:?}");
            assert_eq!(get("edgeHubOriginInterface"), Some(interface), "{device} {module:?}");
        }
    }

    #[test]
    fn origins_of_messages() {
        assert_eq!(Some(message("leaf", None).origin()), Origin::parse("/messages"));
        let mut module = message("edge", Some("m"));
        assert_eq!(Some(module.origin()), Origin::parse("/messages/modules/m/outputs/OutputName/"));
        module.system = SystemProperties::default();
        assert_eq!(Some(module.origin()), Origin::parse("/messages/modules/m/"));
        module.system.set(SystemKey::MessageType, TWIN_CHANGE);
        assert_eq!(module.origin(), Origin::twin_change());
        assert_eq!(Some(Origin::twin_change()), Origin::parse("/twinChangeNotifications/"));
    }

    #[test]
    fn origins_of_samples() {
        let table = [
            ("/messages", Some("messages")),
            ("messages", Some("messages")),
            ("/messages/", Some("messages")),
            ("  /messages/\n", Some("messages")),
            ("/messages/modules/m", Some("messages modules m")),
            ("/messages/modules/m/outputs/o", Some("messages modules m outputs o")),
            ("messages/modules/m/outputs/o/", Some("messages modules m outputs o")),
            ("/Messages/MODULES/$m", Some("Messages MODULES $m")),
            ("/messages/modules/a*b", Some("messages modules a*b")),
            ("/twinChangeNotifications/", Some("twinChangeNotifications")),
            ("/a/b/c/d/e", Some("a b c d e")),
            ("/a/b/c/d/e/f", None),
            ("", None),
            ("/", None),
            ("//", None),
            ("///", None),
            ("//messages", None),
            ("/messages//", None),
            ("/messages//modules", None),
            ("/messages/ /m", None),
            ("/*", None),
            ("*", None),
            ("/messages/*", None),
            ("/messages/**", None),
            ("/messages/modules/*/outputs/*", None),
        ];
        for (text, expected) in table {
            let origin = Origin::parse(text).map(|origin| origin.segments().join(" "));
            assert_eq!(origin.as_deref(), expected, "{text:?}");
        }
    }
}
