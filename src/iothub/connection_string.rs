//! The connection string of the `$edgeHub` module: how a gateway without the IoT Edge daemon learns its hub, its name
//! and its key (edgehub.md 1.2, development mode).
//!
//! Owns: the text form. Invariant: the key shows neither in `Debug` nor in an error.
//! Must not know: the environment.

use std::fmt;

use super::sas::{KeyError, KeySigner};
use crate::identity::{DeviceId, IdError, ModuleId};

/// A parsed connection string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionString {
    /// The hub's host name, also the host part of audiences.
    pub host_name: String,
    /// Our edge device.
    pub device: DeviceId,
    /// Our module, `$edgeHub`.
    pub module: ModuleId,
    /// Our module's key.
    pub key: KeySigner,
    /// The parent edge device's host name, in a nested set-up: connections go there, audiences name the hub.
    pub gateway_host_name: Option<String>,
    /// Names of parts that mean nothing to us.
    pub ignored: Vec<String>,
}

/// One thing that is wrong with a connection string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing there.
    #[error(
        "it is empty; expected HostName=HUB.azure-devices.net;DeviceId=EDGE;ModuleId=$edgeHub;SharedAccessKey=KEY"
    )]
    Empty,
    /// A part without `=`.
    #[error("part {0} has no `=`: separate the parts by `;`")]
    NotAPair(usize),
    /// A part is there twice.
    #[error("{0} is there twice: keep one")]
    Twice(&'static str),
    /// A part is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The device's string where the module's is needed.
    #[error(
        "ModuleId is missing: this looks like the device's connection string; take the one of its $edgeHub module"
    )]
    NoModule,
    /// An id that the registry would not take.
    #[error("{0}: {1}")]
    Id(&'static str, IdError),
    /// Not a host name.
    #[error(
        "{0} must be a plain host name such as HUB.azure-devices.net, without scheme, port or path"
    )]
    Host(&'static str),
    /// Not a key.
    #[error("SharedAccessKey: {0}")]
    Key(KeyError),
    /// Another way to log in.
    #[error("{0} is not supported here: give SharedAccessKey")]
    NotSupported(&'static str),
}

/// Everything that is wrong with a connection string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The parts that we know, in the order of `Parts`.
const HOST: &str = "HostName";
const DEVICE: &str = "DeviceId";
const MODULE: &str = "ModuleId";
const KEY: &str = "SharedAccessKey";
const GATEWAY: &str = "GatewayHostName";
const SIGNATURE: &str = "SharedAccessSignature";
const POLICY: &str = "SharedAccessKeyName";
const KNOWN: [&str; 7] = [HOST, DEVICE, MODULE, KEY, GATEWAY, SIGNATURE, POLICY];

impl ConnectionString {
    /// Parses `HostName=..;DeviceId=..;ModuleId=$edgeHub;SharedAccessKey=..[;GatewayHostName=..]`: parts in any order,
    /// names in any case. All problems are reported together.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        let mut parts = Parts::read(text)?;
        let host_name = parts.host(HOST);
        let gateway_host_name = parts.host(GATEWAY);
        let device = parts.id(DEVICE, DeviceId::parse);
        let module = parts.id(MODULE, ModuleId::parse);
        let key = parts.key();
        for unsupported in [SIGNATURE, POLICY] {
            if parts.value(unsupported).is_some() {
                parts.problems.push(Problem::NotSupported(unsupported));
            }
        }
        for (name, value) in [(HOST, host_name.is_some()), (DEVICE, device.is_some())] {
            if !value && parts.value(name).is_none() {
                parts.problems.push(Problem::Missing(name));
            }
        }
        if parts.value(MODULE).is_none() {
            parts.problems.push(Problem::NoModule);
        }
        if parts.value(KEY).is_none() {
            parts.problems.push(Problem::Missing(KEY));
        }
        match (host_name, device, module, key) {
            (Some(host_name), Some(device), Some(module), Some(key))
                if parts.problems.is_empty() =>
            {
                Ok(Self {
                    host_name,
                    device,
                    module,
                    key,
                    gateway_host_name,
                    ignored: parts.ignored,
                })
            }
            _ => Err(Problems(parts.problems)),
        }
    }
}

/// The parts of a connection string; an empty value counts as absent.
struct Parts<'a> {
    values: [Option<&'a str>; KNOWN.len()],
    ignored: Vec<String>,
    problems: Vec<Problem>,
}

impl<'a> Parts<'a> {
    fn read(text: &'a str) -> Result<Self, Problems> {
        if text.trim().is_empty() {
            return Err(Problems(vec![Problem::Empty]));
        }
        let mut parts =
            Self { values: [None; KNOWN.len()], ignored: Vec::new(), problems: Vec::new() };
        for (index, part) in text.split(';').map(str::trim).enumerate() {
            if part.is_empty() {
                continue;
            }
            // At the first `=`: a base64 key has more of them.
            let Some((name, value)) = part.split_once('=') else {
                // By its place: the text may be a key.
                parts.problems.push(Problem::NotAPair(index + 1));
                continue;
            };
            let (name, value) = (name.trim(), value.trim());
            match KNOWN.iter().position(|known| known.eq_ignore_ascii_case(name)) {
                None => parts.ignored.push(name.escape_debug().take(40).collect()),
                Some(place) if parts.values[place].is_some() => {
                    parts.problems.push(Problem::Twice(KNOWN[place]));
                }
                Some(place) => parts.values[place] = Some(value).filter(|v| !v.is_empty()),
            }
        }
        Ok(parts)
    }

    fn value(&self, name: &'static str) -> Option<&'a str> {
        let place = KNOWN.iter().position(|known| *known == name)?;
        self.values[place]
    }

    fn host(&mut self, name: &'static str) -> Option<String> {
        let value = self.value(name)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if !value.chars().all(plain) {
            self.problems.push(Problem::Host(name));
            return None;
        }
        Some(value.to_owned())
    }

    fn id<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, IdError>,
    ) -> Option<T> {
        match parse(self.value(name)?) {
            Ok(id) => Some(id),
            Err(e) => {
                self.problems.push(Problem::Id(name, e));
                None
            }
        }
    }

    fn key(&mut self) -> Option<KeySigner> {
        match KeySigner::from_base64(self.value(KEY)?) {
            Ok(key) => Some(key),
            Err(e) => {
                self.problems.push(Problem::Key(e));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "HostName=h.azure-devices.net;DeviceId=edge1;ModuleId=$edgeHub;SharedAccessKey=a2V5AA==";

    #[test]
    fn parts_come_in_any_order_and_their_names_in_any_case() {
        let odd = " sharedaccesskey = a2V5AA== ;MODULEID=$edgeHub;;deviceid=edge1; hostname=h.azure-devices.net;";
        for text in [GOOD, odd] {
            let got = ConnectionString::parse(text).unwrap();
            assert_eq!(got.host_name, "h.azure-devices.net");
            assert_eq!(got.device.as_str(), "edge1");
            assert_eq!(got.module.as_str(), "$edgeHub");
            assert_eq!(got.key, KeySigner::from_base64("a2V5AA==").unwrap());
            assert_eq!((got.gateway_host_name, got.ignored), (None, vec![]));
        }
        let nested =
            ConnectionString::parse(&format!("{GOOD};GatewayHostName=parent;Colour=red")).unwrap();
        assert_eq!(nested.gateway_host_name.as_deref(), Some("parent"));
        assert_eq!(nested.ignored, ["Colour"]);
    }

    #[test]
    fn all_problems_are_told_together() {
        for (text, expected) in [
            ("", vec![Problem::Empty]),
            (
                " ; ",
                vec![
                    Problem::Missing(HOST),
                    Problem::Missing(DEVICE),
                    Problem::NoModule,
                    Problem::Missing(KEY),
                ],
            ),
            ("HostName=h;DeviceId=e;SharedAccessKey=a2V5AA==", vec![Problem::NoModule]),
            (
                "HostName=https://h/;DeviceId=a/b;ModuleId=$edgeHub;SharedAccessKey=secret-key!",
                vec![
                    Problem::Host(HOST),
                    Problem::Id(DEVICE, IdError::Character('/')),
                    Problem::Key(KeyError::Base64),
                ],
            ),
            (
                "HostName=h:8883;HostName=h;DeviceId=e;ModuleId=m;SharedAccessKey=",
                vec![Problem::Twice(HOST), Problem::Host(HOST), Problem::Missing(KEY)],
            ),
            (
                "HostName=h;DeviceId=e;ModuleId=m;SharedAccessSignature=SharedAccessSignature sr=x",
                vec![Problem::NotSupported(SIGNATURE), Problem::Missing(KEY)],
            ),
            (
                "HostName=h;DeviceId=e;ModuleId=m;c2VjcmV0;SharedAccessKey=a2V5AA==",
                vec![Problem::NotAPair(4)],
            ),
        ] {
            let Problems(mut got) = ConnectionString::parse(text).unwrap_err();
            let order = |p: &Problem| format!("{p:?}");
            let mut expected = expected;
            got.sort_by_key(order);
            expected.sort_by_key(order);
            assert_eq!(got, expected, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "((hostname|DeviceId|ModuleId|SharedAccessKey)?=?.{0,20};?){0,6}") {
            let _ = ConnectionString::parse(&text).map_err(|problems| problems.to_string());
        }
    }

    #[test]
    fn the_key_shows_nowhere() {
        let parsed = format!("{:?}", ConnectionString::parse(GOOD).unwrap());
        let refused = ConnectionString::parse("SharedAccessKey=not*base64;DeviceId").unwrap_err();
        for text in [parsed, refused.to_string(), format!("{refused:?}")] {
            assert!(!text.contains("a2V5") && !text.contains("not*"), "{text}");
        }
    }
}
