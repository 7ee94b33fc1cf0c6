//! A condition, typed and ready to run: three-valued logic over the properties of a message.
//!
//! Owns: static types (a mismatch is a compile error), names of system properties, evaluation without allocation.
//! Invariant: evaluating cannot fail; what has no value is undefined.
//! Must not know: routes, endpoints.
//!
//! Names of properties are looked up without regard to ASCII case. `$name` is an application property that is really
//! called `$name` when there is one, else the system property `name`; `{$name}` is always the latter (`edgehub.md` 4.4).

use super::error::{CompileError, Span};
use super::parse::{Ast, Node};
use crate::message::{Message, SystemKey};

/// Three-valued truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tri {
    /// False.
    False,
    /// True.
    True,
    /// Neither: something it depends on has no value.
    Undefined,
}

impl From<bool> for Tri {
    fn from(b: bool) -> Self {
        if b { Self::True } else { Self::False }
    }
}

impl std::ops::Not for Tri {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::False => Self::True,
            Self::True => Self::False,
            Self::Undefined => Self::Undefined,
        }
    }
}

/// A compiled condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition(Typed);

impl Condition {
    /// The condition of a route without WHERE.
    pub(super) fn always() -> Self {
        Self(Typed::Logic(Logic::Constant(true)))
    }

    pub(super) fn compile(ast: &Ast) -> Result<Self, CompileError> {
        typed(ast).map(Self)
    }

    /// Whether the result can never be true because it is text: the route is legal but selects nothing.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.0, Typed::Text(_))
    }

    /// The value for `message`. Only [`Tri::True`] selects.
    pub fn evaluate(&self, message: &Message) -> Tri {
        match &self.0 {
            Typed::Logic(logic) => logic.evaluate(message),
            // Text as the whole condition does not select (`edgehub.md` 4.4, final value).
            Typed::Text(_) => Tri::Undefined,
        }
    }
}

/// An expression with its static type.
#[derive(Debug, Clone, PartialEq)]
enum Typed {
    Logic(Logic),
    Text(Text),
}

/// An expression of three-valued truth.
#[derive(Debug, Clone, PartialEq)]
enum Logic {
    Constant(bool),
    Not(Box<Logic>),
    And(Vec<Logic>),
    Or(Vec<Logic>),
    SameText { left: Text, right: Text, negated: bool },
    SameTruth { left: Box<Logic>, right: Box<Logic>, negated: bool },
    TextDefined(Text),
    TruthDefined(Box<Logic>),
}

impl Logic {
    fn evaluate(&self, message: &Message) -> Tri {
        match self {
            Self::Constant(b) => (*b).into(),
            Self::Not(inner) => !inner.evaluate(message),
            Self::And(parts) => decide(parts, message, Tri::False),
            Self::Or(parts) => decide(parts, message, Tri::True),
            Self::SameText { left, right, negated } => {
                match (left.value(message), right.value(message)) {
                    (Some(l), Some(r)) => ((l == r) != *negated).into(),
                    _ => Tri::Undefined,
                }
            }
            Self::SameTruth { left, right, negated } => {
                match (left.evaluate(message), right.evaluate(message)) {
                    (Tri::Undefined, _) | (_, Tri::Undefined) => Tri::Undefined,
                    (l, r) => ((l == r) != *negated).into(),
                }
            }
            Self::TextDefined(text) => text.value(message).is_some().into(),
            Self::TruthDefined(logic) => (logic.evaluate(message) != Tri::Undefined).into(),
        }
    }
}

/// AND and OR: one part of the value `decisive` decides, whatever the others are; otherwise one undefined part makes
/// the whole undefined (false AND undefined = false, true OR undefined = true).
fn decide(parts: &[Logic], message: &Message, decisive: Tri) -> Tri {
    let mut result = !decisive;
    for part in parts {
        match part.evaluate(message) {
            value if value == decisive => return decisive,
            Tri::Undefined => result = Tri::Undefined,
            _ => {}
        }
    }
    result
}

/// An expression of text.
#[derive(Debug, Clone, PartialEq)]
enum Text {
    Literal(Box<str>),
    /// An application property.
    Application(Box<str>),
    /// A system property, and the application property that hides it when a message has one.
    System {
        shadow: Option<Box<str>>,
        property: SystemName,
    },
}

impl Text {
    /// `None` = undefined; `Some(None)` = a property without a value (null), which equals only its like.
    fn value<'m>(&'m self, message: &'m Message) -> Option<Option<&'m str>> {
        match self {
            Self::Literal(text) => Some(Some(text)),
            Self::Application(name) => message.properties.get_ignore_case(name),
            Self::System { shadow, property } => shadow
                .as_deref()
                .and_then(|name| message.properties.get_ignore_case(name))
                .or_else(|| property.value(message).map(Some)),
        }
    }
}

/// Where a system property of the routing language comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum SystemName {
    Key(SystemKey),
    DeviceId,
    ModuleId,
    OriginInterface,
    /// No telemetry message of this gateway has it.
    Absent,
}

impl SystemName {
    fn value(self, message: &Message) -> Option<&str> {
        let sender = &message.source.sender;
        match self {
            Self::Key(key) => message.system.get(key),
            Self::DeviceId => Some(sender.device().as_str()),
            Self::ModuleId => sender.module().map(|m| m.as_str()),
            Self::OriginInterface => {
                Some(if sender.module().is_some() { "internal" } else { "downstream" })
            }
            Self::Absent => None,
        }
    }
}

/// System properties by their names in conditions (`edgehub.md` 4.4). The `$.cid` of a message lands in `cid`;
/// `correlationId` exists for other front ends than MQTT only.
const SYSTEM_NAMES: [(&str, SystemName); 21] = [
    ("messageId", SystemName::Key(SystemKey::MessageId)),
    ("cid", SystemName::Key(SystemKey::CorrelationId)),
    ("correlationId", SystemName::Absent),
    ("to", SystemName::Key(SystemKey::To)),
    ("userId", SystemName::Key(SystemKey::UserId)),
    ("ack", SystemName::Key(SystemKey::Ack)),
    ("absolute-expiry-time", SystemName::Key(SystemKey::AbsoluteExpiryTime)),
    ("contentType", SystemName::Key(SystemKey::ContentType)),
    ("contentEncoding", SystemName::Key(SystemKey::ContentEncoding)),
    ("messageSchema", SystemName::Key(SystemKey::MessageSchema)),
    ("creationTime", SystemName::Key(SystemKey::CreationTime)),
    ("operation", SystemName::Key(SystemKey::Operation)),
    ("outputName", SystemName::Key(SystemKey::OutputName)),
    ("inputName", SystemName::Absent),
    ("connectionDeviceId", SystemName::DeviceId),
    ("connectionModuleId", SystemName::ModuleId),
    ("edgeHubOriginInterface", SystemName::OriginInterface),
    ("dt-subject", SystemName::Key(SystemKey::Component)),
    ("iothub-interface-id", SystemName::Key(SystemKey::InterfaceId)),
    ("modelId", SystemName::Key(SystemKey::ModelId)),
    ("messageType", SystemName::Absent),
];

/// Names that exist but that this version cannot answer: refused rather than silently undefined.
const SYSTEM_NAMES_LATER: [&str; 2] = ["enqueuedTime", "edgeMessageId"];

fn typed(ast: &Ast) -> Result<Typed, CompileError> {
    let logic = match &ast.node {
        Node::Text(text) => return Ok(Typed::Text(Text::Literal(text.as_str().into()))),
        Node::Property(name) => return Ok(Typed::Text(Text::Application(name.as_str().into()))),
        Node::System { name, braces } => return system(name, *braces, &ast.span).map(Typed::Text),
        Node::Bool(b) => Logic::Constant(*b),
        Node::Not(inner) => Logic::Not(Box::new(logic(inner, "NOT")?)),
        Node::And(parts) => Logic::And(all_logic(parts, "AND")?),
        Node::Or(parts) => Logic::Or(all_logic(parts, "OR")?),
        Node::Equal { left, right, negated } => match (typed(left)?, typed(right)?) {
            (Typed::Text(left), Typed::Text(right)) => {
                Logic::SameText { left, right, negated: *negated }
            }
            (Typed::Logic(l), Typed::Logic(r)) => {
                Logic::SameTruth { left: Box::new(l), right: Box::new(r), negated: *negated }
            }
            _ => {
                return Err(CompileError::new(
                    ast.span.clone(),
                    "text is compared with a truth value",
                    "properties are text: write alert = 'true'; NOT binds tighter than =: write NOT (a = 'x')",
                ));
            }
        },
        Node::Call { name, name_span, args } => call(name, name_span, args, &ast.span)?,
    };
    Ok(Typed::Logic(logic))
}

fn all_logic(parts: &[Ast], operator: &str) -> Result<Vec<Logic>, CompileError> {
    parts.iter().map(|part| logic(part, operator)).collect()
}

fn logic(ast: &Ast, operator: &str) -> Result<Logic, CompileError> {
    match typed(ast)? {
        Typed::Logic(logic) => Ok(logic),
        Typed::Text(_) => Err(CompileError::new(
            ast.span.clone(),
            format!("{operator} needs a truth value, this is text"),
            "compare it, as in name = 'value', or ask IS_DEFINED(name)",
        )),
    }
}

fn call(name: &str, name_span: &Span, args: &[Ast], span: &Span) -> Result<Logic, CompileError> {
    if !name.eq_ignore_ascii_case("is_defined") {
        return Err(CompileError::new(
            name_span.clone(),
            format!("the function `{name}` is not supported by this version"),
            "IS_DEFINED(name) is; or compare properties with strings",
        ));
    }
    let [arg] = args else {
        return Err(CompileError::new(
            span.clone(),
            format!("IS_DEFINED takes one argument, not {}", args.len()),
            "write IS_DEFINED(name)",
        ));
    };
    Ok(match typed(arg)? {
        Typed::Text(text) => Logic::TextDefined(text),
        Typed::Logic(logic) => Logic::TruthDefined(Box::new(logic)),
    })
}

fn system(name: &str, braces: bool, span: &Span) -> Result<Text, CompileError> {
    let unsupported = |what: String| {
        let todo = "use application properties or other system properties for now";
        CompileError::new(span.clone(), what, todo)
    };
    if name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("body.")) {
        return Err(unsupported("conditions on the body are not supported by this version".into()));
    }
    if SYSTEM_NAMES_LATER.iter().any(|n| n.eq_ignore_ascii_case(name)) {
        return Err(unsupported(format!("${name} is not supported by this version")));
    }
    let known = SYSTEM_NAMES.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
    let property = known.map_or(SystemName::Absent, |(_, property)| *property);
    let shadow = (!braces).then(|| format!("${name}").into());
    Ok(Text::System { shadow, property })
}
