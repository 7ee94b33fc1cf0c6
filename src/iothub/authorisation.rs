//! What a client may publish and subscribe to: only as itself, and only IoT Hub's topics.
//!
//! Owns: [`RULES`], the table of what each kind of identity may do. The session asks [`publish`] and [`subscribe`] and nobody
//! else; docs/authorisation.md is the table, and tests drive a session through its cells.
//! Invariants: what no rule allows is refused; a level that stands for an id is the client's own, as it is or percent-encoded
//! once, in the same case; a filter is one of the forms to the letter, so that no wildcard reaches further than one's own.
//! Must not know: who is connected, packets.

use super::subscriptions::Subscription;
use super::topics::{self, Inbound, Telemetry, TopicError, is_id};
use crate::identity::ClientName;

/// Kinds of identities that connect. The gateway's own (`$edgeHub`) never does: `auth` refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A device, also another edge device.
    Device,
    /// A module of a device.
    Module,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Device, Self::Module];

    /// The kind of `name`.
    pub fn of(name: &ClientName) -> Self {
        match name {
            ClientName::Device(_) => Self::Device,
            ClientName::Module(..) => Self::Module,
        }
    }
}

/// What a rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Right {
    /// Telemetry of a device: publish, and as a will.
    Telemetry,
    /// Telemetry of a module, through an output if it says so (`$.on`): publish, and as a will.
    ModuleTelemetry,
    /// Answer to a direct method: publish.
    MethodResponse,
    /// Ask for the twin: publish.
    TwinGet,
    /// Patch the twin's reported properties: publish.
    TwinPatch,
    /// Subscribe.
    To(Subscription),
}

/// One row: a right, its topics, and who has it.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// What is allowed.
    pub right: Right,
    /// Its topics or filters. `{device}` and `{module}` are the client's own; the others are free, within a level but for
    /// `{properties}`.
    pub forms: &'static [&'static str],
    /// Who.
    pub kinds: &'static [Kind],
    /// In words.
    pub meaning: &'static str,
}

const DEVICES: &[Kind] = &[Kind::Device];
const MODULES: &[Kind] = &[Kind::Module];
const BOTH: &[Kind] = &Kind::ALL;

/// The table.
#[rustfmt::skip]
pub const RULES: [Rule; 10] = [
    Rule { right: Right::Telemetry, kinds: DEVICES, meaning: "telemetry, and a will", forms: &["devices/{device}/messages/events", "devices/{device}/messages/events/{properties}"] },
    Rule { right: Right::ModuleTelemetry, kinds: MODULES, meaning: "telemetry (with `$.on`: through an output), and a will", forms: &["devices/{device}/modules/{module}/messages/events", "devices/{device}/modules/{module}/messages/events/{properties}"] },
    Rule { right: Right::MethodResponse, kinds: BOTH, meaning: "the answer to a direct method", forms: &["$iothub/methods/res/{status}/?$rid={rid}"] },
    Rule { right: Right::TwinGet, kinds: BOTH, meaning: "ask for the own twin", forms: &["$iothub/twin/GET/?$rid={rid}"] },
    Rule { right: Right::TwinPatch, kinds: BOTH, meaning: "patch the own twin's reported properties", forms: &["$iothub/twin/PATCH/properties/reported/?$rid={rid}", "$iothub/twin/PATCH/properties/reported/?$rid={rid}&$version={version}"] },
    Rule { right: Right::To(Subscription::CloudToDevice), kinds: DEVICES, meaning: "messages from the cloud", forms: &["devices/{device}/messages/devicebound/#"] },
    Rule { right: Right::To(Subscription::ModuleInputs), kinds: MODULES, meaning: "messages to the own inputs", forms: &["devices/{device}/modules/{module}/#", "devices/{device}/modules/{module}/inputs/#"] },
    Rule { right: Right::To(Subscription::Methods), kinds: BOTH, meaning: "direct methods", forms: &["$iothub/methods/POST/#"] },
    Rule { right: Right::To(Subscription::Desired), kinds: BOTH, meaning: "changes of the desired properties", forms: &["$iothub/twin/PATCH/properties/desired/#"] },
    Rule { right: Right::To(Subscription::TwinResponses), kinds: BOTH, meaning: "answers about the own twin", forms: &["$iothub/twin/res/#"] },
];

impl Rule {
    /// Whether it is about a filter, not a topic.
    pub fn is_subscription(&self) -> bool {
        matches!(self.right, Right::To(_))
    }
}

/// Why a publish or a filter is refused. A closed list: [`Denied::label`] feeds counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A topic that nobody publishes to.
    #[error(transparent)]
    Topic(TopicError),
    /// Somebody else's topic.
    #[error("the topic is of another device or module: a client publishes as itself alone")]
    TopicIdentity,
    /// A filter that nobody subscribes to.
    #[error("no client subscribes to this filter; it is none of IoT Hub's")]
    Filter,
    /// Somebody else's filter.
    #[error("the filter is of another device or module: a client subscribes as itself alone")]
    FilterIdentity,
    /// A filter with a wildcard where an id or a word belongs.
    #[error("the filter has a wildcard that reaches further than the client's own topics")]
    FilterWildcard,
}

impl Denied {
    /// Short label for counters.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Topic(error) => error.label(),
            Self::TopicIdentity => "topic_identity",
            Self::Filter => "filter_unknown",
            Self::FilterIdentity => "filter_identity",
            Self::FilterWildcard => "filter_wildcard",
        }
    }
}

/// What the client publishes by this topic, if it may. `own` are the spellings of its name: its own, and the registry's.
pub fn publish<'t>(topic: &'t str, own: &[&ClientName]) -> Result<Inbound<'t>, Denied> {
    let inbound = topics::parse_publish(topic).map_err(Denied::Topic)?;
    let right = match &inbound {
        Inbound::Telemetry(telemetry) if telemetry.is_of_module() => Right::ModuleTelemetry,
        Inbound::Telemetry(_) => Right::Telemetry,
        Inbound::MethodResponse { .. } => Right::MethodResponse,
        Inbound::TwinGet { .. } => Right::TwinGet,
        Inbound::TwinPatch { .. } => Right::TwinPatch,
    };
    let names_it = |name: &&ClientName| match &inbound {
        Inbound::Telemetry(telemetry) => Telemetry::names(telemetry, name),
        // Without a name in the topic it is about whoever sends it.
        _ => true,
    };
    match own.iter().any(|name| may(name, right) && names_it(name)) {
        true => Ok(inbound),
        false => Err(Denied::TopicIdentity),
    }
}

/// The subscription that the client asks for by this filter, if it may.
pub fn subscribe(filter: &str, own: &[&ClientName]) -> Result<Subscription, Denied> {
    let mut denied = Denied::Filter;
    for rule in &RULES {
        let Right::To(subscription) = rule.right else { continue };
        for (form, name) in rule.forms.iter().flat_map(|form| own.iter().map(move |n| (form, n))) {
            match fit(form, filter, name) {
                Fit::Own if may(name, rule.right) => return Ok(subscription),
                Fit::Own | Fit::Other => denied = Denied::FilterIdentity,
                Fit::Broader if denied == Denied::Filter => denied = Denied::FilterWildcard,
                Fit::Broader | Fit::No => {}
            }
        }
    }
    Err(denied)
}

fn may(name: &ClientName, right: Right) -> bool {
    RULES.iter().any(|rule| rule.right == right && rule.kinds.contains(&Kind::of(name)))
}

/// How a filter compares to a form.
#[derive(Debug, PartialEq, Eq)]
enum Fit {
    Own,
    /// The same for somebody else.
    Other,
    /// Its wildcards take in topics of that form, and more.
    Broader,
    No,
}

fn fit(form: &str, filter: &str, own: &ClientName) -> Fit {
    let (mut of_form, mut of_filter) = (form.split('/'), filter.split('/'));
    let mut fit = Fit::Own;
    loop {
        let is_own = match (of_form.next(), of_filter.next()) {
            (None, None) => return fit,
            (Some("#"), Some("#")) => true,
            // Narrower than the form: not its letter.
            (Some("#"), _) => return Fit::No,
            (Some(_), Some("#")) => return Fit::Broader,
            (Some(_), Some("+")) => {
                fit = Fit::Broader;
                continue;
            }
            (Some("{device}"), Some(asked)) => is_id(asked, own.device().as_str()),
            (Some("{module}"), Some(asked)) => {
                own.module().is_some_and(|module| is_id(asked, module.as_str()))
            }
            (Some(level), Some(asked)) if level == asked => true,
            _ => return Fit::No,
        };
        if !is_own && fit == Fit::Own {
            fit = Fit::Other;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{DeviceId, ModuleId};

    fn name(text: &str) -> ClientName {
        let (device, module) = text.split_once('/').unwrap_or((text, ""));
        let device = DeviceId::parse(device).unwrap();
        match ModuleId::parse(module) {
            Ok(module) => ClientName::Module(device, module),
            Err(_) => ClientName::Device(device),
        }
    }

    #[test]
    fn each_right_has_one_rule_and_each_subscription_too() {
        let mut rights: Vec<Right> = RULES.iter().map(|rule| rule.right).collect();
        let count = rights.len();
        rights.dedup();
        assert_eq!(rights.len(), count);
        let subscriptions = RULES.iter().filter(|rule| rule.is_subscription()).count();
        assert_eq!(subscriptions, Subscription::KINDS);
    }

    #[test]
    fn filters_fall_to_the_reason_that_fits_best() {
        for (client, filter, expected) in [
            ("d", "devices/d/messages/devicebound/#", Ok(Subscription::CloudToDevice)),
            ("d/m", "devices/d/messages/devicebound/#", Err(Denied::FilterIdentity)),
            ("d", "devices/e/messages/devicebound/#", Err(Denied::FilterIdentity)),
            ("d", "devices/D/messages/devicebound/#", Err(Denied::FilterIdentity)),
            ("d", "devices/d/modules/m/#", Err(Denied::FilterIdentity)),
            ("d", "devices/+/messages/devicebound/#", Err(Denied::FilterWildcard)),
            ("d", "devices/d/#", Err(Denied::FilterWildcard)),
            ("d", "#", Err(Denied::FilterWildcard)),
            ("d", "+/+/+/+/#", Err(Denied::FilterWildcard)),
            ("d", "$iothub/#", Err(Denied::FilterWildcard)),
            ("d", "$SYS/#", Err(Denied::Filter)),
            ("d", "$iothub/twin/res/200/#", Err(Denied::Filter)),
            ("d", "$iothub/twin/res", Err(Denied::Filter)),
            ("d", "", Err(Denied::Filter)),
            ("d", "devices/{device}/messages/devicebound/#", Err(Denied::FilterIdentity)),
            ("d/m", "devices/d/modules/m/#", Ok(Subscription::ModuleInputs)),
            ("d/m", "devices/d/modules/+/#", Err(Denied::FilterWildcard)),
            ("d/m", "devices/d/modules/n/inputs/#", Err(Denied::FilterIdentity)),
            ("d/m", "devices/d/modules/m/inputs/i", Err(Denied::Filter)),
        ] {
            assert_eq!(subscribe(filter, &[&name(client)]), expected, "{filter} by {client}");
        }
    }
}
