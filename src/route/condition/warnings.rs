//! What compiles but cannot be meant.
//!
//! Owns: finding parts that can never be true, and names that no message has. Must not know: messages.

use super::super::advice;
use super::super::body::BodyPaths;
use super::super::error::{CompileError, Span};
use super::super::functions::Run;
use super::super::subject::{Origin, Subject, SystemName, SystemProperty};
use super::super::syntax::Operator;
use super::super::value::{Tri, Type, Value};
use super::{Expr, Facts, Node};

/// The system properties of the language (`edgehub.md` 4.4). Some are of messages that this version does not make.
const KNOWN: [&str; 24] = [
    "absolute-expiry-time",
    "ack",
    "cid",
    "connectionDeviceId",
    "connectionModuleId",
    "contentEncoding",
    "contentType",
    "creationTime",
    "dt-subject",
    "edgeHubOriginInterface",
    "edgeMessageId",
    "enqueuedTime",
    "inputName",
    "iothub-interface-id",
    "messageId",
    "messageSchema",
    "messageType",
    "modelId",
    "operation",
    "outputName",
    "rpSenderDeviceId",
    "rpSenderModuleId",
    "to",
    "userId",
];

/// What the properties are called elsewhere: on the wire, in the hub's documentation.
const ELSEWHERE: [(&str, &str); 25] = [
    (".cid", "cid"),
    (".ce", "contentEncoding"),
    (".ct", "contentType"),
    (".ctime", "creationTime"),
    (".exp", "absolute-expiry-time"),
    (".mid", "messageId"),
    (".on", "outputName"),
    (".to", "to"),
    (".uid", "userId"),
    ("content-encoding", "contentEncoding"),
    ("content-type", "contentType"),
    ("correlation-id", "cid"),
    ("correlationId", "cid"),
    ("creation-time", "creationTime"),
    ("deviceId", "connectionDeviceId"),
    ("dt-dataschema", "iothub-interface-id"),
    ("expiryTimeUtc", "absolute-expiry-time"),
    ("iothub-ack", "ack"),
    ("iothub-connection-device-id", "connectionDeviceId"),
    ("iothub-connection-module-id", "connectionModuleId"),
    ("iothub-creation-time-utc", "creationTime"),
    ("iothub-enqueuedtime", "enqueuedTime"),
    ("message-id", "messageId"),
    ("moduleId", "connectionModuleId"),
    ("user-id", "userId"),
];

/// All warnings, in the order of the text.
pub(super) fn of(root: &Expr) -> Vec<CompileError> {
    let mut found = Vec::new();
    each(root, &mut found);
    // One reason is enough: who reads it mends it and sees the next.
    if let Some(culprit) = never_true(root) {
        found.push(culprit);
    }
    found.sort_by_key(|warning| warning.span.start);
    found
}

fn each(expr: &Expr, found: &mut Vec<CompileError>) {
    let warning = match &expr.node {
        Node::System { name, .. } => unknown_system(&expr.span, name),
        Node::Property(name) => suspicious(&expr.span, name),
        Node::Body { path, .. } => suspicious(&expr.span, &format!("$body.{path}")),
        Node::Nothing { instead: Some(path) } => Some(CompileError::new(
            expr.span.clone(),
            "the names of a body path follow a dot, not in brackets",
            format!("write {path}"),
        )),
        Node::Call(function, args) if function.name == "as_number" => no_number(&args[0]),
        _ => None,
    };
    found.extend(warning);
    for part in expr.parts() {
        each(part, found);
    }
}

/// The name of a property, or `$body.` and a path, that can hardly be meant as one.
fn suspicious(span: &Span, name: &str) -> Option<CompileError> {
    let told = advice::suspicious_name(name)?;
    let (what, todo) = told.split_once(": ").unwrap_or((&told, ""));
    Some(CompileError::new(span.clone(), what, todo))
}

fn unknown_system(span: &Span, name: &SystemName) -> Option<CompileError> {
    let text = &*name.text;
    let known = KNOWN.iter().any(|known| known.eq_ignore_ascii_case(text));
    if known || name.property != SystemProperty::Other {
        return None;
    }
    let elsewhere = ELSEWHERE.iter().find(|(other, _)| other.eq_ignore_ascii_case(text));
    let todo = match elsewhere.map(|(_, name)| *name).or_else(|| advice::nearest(text, KNOWN)) {
        Some(near) => format!("did you mean ${near}?"),
        None if text.eq_ignore_ascii_case("body") => {
            "name a value of the body: $body.temperature".to_owned()
        }
        None => format!("if it is an application property, write {text} without the $"),
    };
    Some(CompileError::new(span.clone(), format!("there is no system property `{text}`"), todo))
}

fn no_number(arg: &Expr) -> Option<CompileError> {
    let Node::Literal(Value::Text(text)) = &arg.node else {
        return None;
    };
    super::super::number::parse(text).is_none().then(|| {
        let what = format!("as_number('{text}') is always undefined");
        CompileError::new(arg.span.clone(), what, "put the name of a property without quotes")
    })
}

/// The part for which `expr` can never be true, if there is one.
pub(super) fn never_true(expr: &Expr) -> Option<CompileError> {
    let warn = |what: String, todo: &str| Some(CompileError::new(expr.span.clone(), what, todo));
    match (&expr.node, expr.kind) {
        (Node::And(operands), Type::Null) => {
            let null = operands.iter().find(|operand| operand.kind == Type::Null)?;
            let what = "null in AND makes it null, which selects nothing";
            Some(CompileError::new(null.span.clone(), what, "take null out"))
        }
        (_, Type::Number | Type::Text | Type::Undefined | Type::Null) => warn(
            format!("{} is not true: this selects nothing", expr.kind.words()),
            "compare it with something, for instance level = 'high'",
        ),
        (Node::And(operands), _) => operands.iter().find_map(never_true),
        // As long as one of them can be true, the others do no harm.
        (Node::Or(operands), _) => {
            let mut never = operands.iter().map(never_true);
            let first = never.next()??;
            never.all(|other| other.is_some()).then_some(first)
        }
        _ => match constant(expr)? {
            Tri::True => None,
            Tri::False => warn(
                "it is always false: this selects nothing".to_owned(),
                "take it out, or the route",
            ),
            Tri::Undefined => warn(
                "it is always undefined: this selects nothing".to_owned(),
                "compare with something that messages have",
            ),
        },
    }
}

/// What `expr` is for every message, if no message can change it.
fn constant(expr: &Expr) -> Option<Tri> {
    if let Node::Binary(operator, left, right) = &expr.node
        && !matches!(operator, Operator::Coalesce)
        && (is_undefined(left) || is_undefined(right))
    {
        return Some(Tri::Undefined);
    }
    depends_on_nothing(expr).then(|| {
        let paths = BodyPaths::default();
        let facts = Facts { subject: &Nothing, body: paths.of(&Nothing) };
        expr.truth(&facts)
    })
}

/// Whether it is undefined for every message.
fn is_undefined(expr: &Expr) -> bool {
    match &expr.node {
        Node::Nothing { .. } => true,
        Node::Literal(value) => !value.is_defined(),
        Node::Call(function, args) if matches!(function.run, Run::Values(_)) => {
            args.iter().any(is_undefined)
                || depends_on_nothing(expr) && constant_value_is_undefined(expr)
        }
        Node::Negate(operand) => is_undefined(operand),
        Node::Binary(Operator::Coalesce, left, right) => is_undefined(left) && is_undefined(right),
        Node::Binary(_, left, right) => is_undefined(left) || is_undefined(right),
        _ => false,
    }
}

fn constant_value_is_undefined(expr: &Expr) -> bool {
    let paths = BodyPaths::default();
    !expr.value(&Facts { subject: &Nothing, body: paths.of(&Nothing) }).is_defined()
}

/// Whether every message gives the same.
fn depends_on_nothing(expr: &Expr) -> bool {
    let asks = matches!(
        expr.node,
        Node::Property(_) | Node::System { .. } | Node::Body { .. } | Node::TwinChange(_)
    );
    !asks && expr.parts().into_iter().all(depends_on_nothing)
}

/// The message that nothing is asked of.
struct Nothing;

impl Subject for Nothing {
    fn property(&self, _: &str) -> Option<Option<&str>> {
        None
    }

    fn system(&self, _: &SystemName) -> Option<&str> {
        None
    }

    fn body(&self) -> &[u8] {
        &[]
    }

    fn origin(&self) -> Origin<'_> {
        Origin::telemetry(None, None)
    }
}
