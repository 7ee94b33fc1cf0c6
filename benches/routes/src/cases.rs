//! The routes that are measured, and the message that they are asked about.
//!
//! Must not know: how they are measured.

use anyhow::{Result, bail};
use bytes::Bytes;
use sphere_gateway::identity::DeviceId;
use sphere_gateway::message::{Message, SystemKey};
use sphere_gateway::route::{Global, RouteSpec, RouteTable};

use super::by_hand;

/// The user's own example.
pub(crate) const SEED: [&str; 2] = [
    "FROM /messages/* INTO $upstream",
    "FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream",
];

/// Names of the body's members, at its outer level.
pub(crate) const NAMES: [&str; 8] =
    ["deviceTime", "temperature", "humidity", "pressure", "state", "alerts", "location", "counter"];

/// A kind of condition.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The n-th route of a table. The first selects the message, so that the whole condition is evaluated.
    pub(crate) text: fn(usize) -> String,
    /// Whether all routes of a table select the message, or the first alone.
    pub(crate) all: bool,
    /// The question of the first route as plain code.
    pub(crate) by_hand: fn(&Message) -> bool,
}

impl Case {
    /// How many of `count` routes select the message.
    pub(crate) fn selected(&self, count: usize) -> usize {
        if self.all { count } else { 1 }
    }
}

fn route(condition: &str) -> String {
    format!("FROM /messages/* WHERE {condition} INTO $upstream")
}

/// From the cheapest to the dearest.
pub(crate) const CASES: [Case; 6] = [
    Case {
        name: "system property is not there",
        text: |_| SEED[1].to_owned(),
        all: true,
        by_hand: by_hand::is_device,
    },
    Case {
        name: "property equals text",
        text: |n| route(&format!("level = 'high{}'", suffix(n))),
        all: false,
        by_hand: by_hand::property_equals,
    },
    Case {
        name: "property as number in a range",
        text: |n| route(&format!("as_number(speed) > {} AND as_number(speed) < {}", n, n + 1)),
        all: false,
        by_hand: by_hand::property_in_range,
    },
    Case {
        name: "four properties, text functions",
        text: |n| {
            route(&format!(
                "starts_with(line, 'north{}') AND contains(unit, '-7') OR substring(level, 0, 2) || unit = 'xx'",
                suffix(n)
            ))
        },
        all: false,
        by_hand: by_hand::text_functions,
    },
    Case {
        name: "body number",
        text: |n| route(&format!("$body.temperature > {}", 21 * usize::from(n > 0) + n)),
        all: false,
        by_hand: by_hand::body_number,
    },
    Case {
        name: "body text and array member",
        text: |n| {
            route(&format!("$body.state = 'running{}' AND $body.alerts[1].code = 17", suffix(n)))
        },
        all: false,
        by_hand: by_hand::body_two,
    },
];

/// Nothing for the first route, so that it selects.
fn suffix(n: usize) -> String {
    if n == 0 { String::new() } else { n.to_string() }
}

/// The table that a gateway would make of these routes.
pub(crate) fn compile(texts: &[impl AsRef<str>]) -> Result<RouteTable> {
    let spec = |(n, text): (usize, &dyn AsRef<str>)| RouteSpec {
        name: format!("r{n}"),
        text: text.as_ref().to_owned(),
        priority: None,
        ttl_secs: 0,
        live_first: None,
    };
    let texts = texts.iter().map(|text| text as &dyn AsRef<str>);
    let specs: Vec<RouteSpec> = texts.enumerate().map(spec).collect();
    let (table, refused) =
        RouteTable::compile(&DeviceId::parse("edge")?, &specs, Global::default());
    match refused.first() {
        Some(refused) => bail!("{refused}"),
        None => Ok(table),
    }
}

/// A message of a device, or of a module, with a JSON body of about `bytes` bytes.
pub(crate) fn message(module: Option<&str>, bytes: usize) -> Result<Message> {
    let mut message = Message::decode(stored(module).into())?;
    message.system.set(SystemKey::ContentType, "application/json");
    message.system.set(SystemKey::ContentEncoding, "utf-8");
    let properties = [
        ("line", "north-2"),
        ("unit", "press-7"),
        ("level", "high"),
        ("speed", "0.5"),
        ("shift", "early"),
    ];
    for (name, value) in properties {
        message.properties.set(name, Some(value.into()));
    }
    let head = r#"{"deviceTime":"2026-01-02T03:04:05.678Z","temperature":21.5,"humidity":40,"pressure":1013.2,"state":"running","alerts":[{"code":3},{"code":17}],"location":{"lat":48.1,"lon":-1.7},"counter":123456"#;
    let filling = bytes.saturating_sub(head.len() + 1);
    let member = r#","note":"0123456789012345678901234567890123456789""#;
    let body = format!("{head}{}}}", member.repeat(filling / member.len()));
    message.body = Bytes::from(body);
    Ok(message)
}

/// The stored form of an empty message, as the head of the gateway's `message.rs` describes it: only it may name a sender
/// without a credential.
fn stored(module: Option<&str>) -> Vec<u8> {
    let mut stored = vec![1, u8::from(module.is_some())];
    stored.extend([0; 8]);
    for text in ["device-1"].into_iter().chain(module) {
        stored.extend((text.len() as u16).to_le_bytes());
        stored.extend(text.as_bytes());
    }
    stored.extend([0; 3]);
    stored
}
