//! Tables of cases for conditions, written from `edgehub.md` section 4, and properties of all conditions.

mod comparing;
mod explain;
mod functions;
mod random;
mod types;
mod values;

use super::{Condition, Context, Explained, Facts};
use crate::identity::DeviceId;
use crate::message::SystemKey;
use crate::route::body::BodyPaths;
use crate::route::error::CompileError;
use crate::route::parse;
use crate::route::subject::{Origin, Subject, SystemName, SystemProperty};
use crate::route::value::{Tri, Value};

/// A message as a test writes it down.
struct Sample {
    properties: Vec<(&'static str, Option<&'static str>)>,
    system: Vec<(SystemProperty, &'static str)>,
    body: &'static str,
}

impl Subject for Sample {
    fn property(&self, name: &str) -> Option<Option<&str>> {
        self.properties.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| *v)
    }

    fn system(&self, name: &SystemName) -> Option<&str> {
        self.system.iter().find(|(property, _)| *property == name.property).map(|(_, v)| *v)
    }

    fn body(&self) -> &[u8] {
        self.body.as_bytes()
    }

    fn origin(&self) -> Origin<'_> {
        Origin::telemetry(None, None)
    }
}

/// What most tables are about.
fn sample() -> Sample {
    Sample {
        properties: vec![
            ("Level", Some("high")),
            ("n", Some("21.5")),
            ("word", Some("abc")),
            ("empty", Some("")),
            ("none", None),
            ("pair", Some("a\u{1f600}b")),
            ("inf", Some("Infinity")),
            ("$to", Some("shadow")),
            ("$", Some("dollar")),
            ("$body.hidden", Some("shade")),
            ("$body.hollow", None),
            ("$a[0]", Some("never seen")),
        ],
        system: vec![
            (SystemProperty::Key(SystemKey::To), "real"),
            (SystemProperty::Key(SystemKey::ContentType), "application/json"),
            (SystemProperty::Key(SystemKey::ContentEncoding), "utf-8"),
            (SystemProperty::Key(SystemKey::CorrelationId), "c1"),
            (SystemProperty::DeviceId, "Leaf-1"),
        ],
        body: r#"{"t":true,"f":false,"n":3,"m":-2.5,"zero":0,"s":"text","num":"12","null":null,"o":{"x":1,"y":null},
                 "a":[1,"two",[3]],"hidden":1,"hollow":2,"date":"2024-01-01T00:00:00Z","N":4}"#,
    }
}

/// One without a body that can be read.
fn unreadable() -> Sample {
    Sample { system: vec![], body: "{", ..sample() }
}

fn compile_for(text: &str, twin_changes: bool) -> Result<(Condition, BodyPaths), CompileError> {
    let edge = DeviceId::parse("EDGE").unwrap();
    let mut paths = BodyPaths::default();
    let ast = parse::condition(text)?;
    let condition = Condition::compile(&ast, &Context { edge: &edge, twin_changes }, &mut paths)?;
    Ok((condition, paths))
}

fn compile(text: &str) -> (Condition, BodyPaths) {
    compile_for(text, false).unwrap_or_else(|e| panic!("{text}\n{}", e.render(text)))
}

/// What `text` comes to for `message`: T, F or U. Asked both ways.
fn truth(text: &str, message: &dyn Subject) -> char {
    let (condition, paths) = compile(text);
    let facts = Facts { subject: message, body: paths.of(message) };
    let truth = condition.evaluate(&facts);
    let explained = condition.explain(&facts);
    check_tree(text, &explained);
    match explained.value {
        Value::Bool(b) => assert_eq!(truth, Tri::from(b), "{text}"),
        // Null as such is false, null from a body is no truth value.
        Value::Null => assert_ne!(truth, Tri::True, "{text}"),
        _ => assert_eq!(truth, Tri::Undefined, "{text}"),
    }
    match truth {
        Tri::True => 'T',
        Tri::False => 'F',
        Tri::Undefined => 'U',
    }
}

/// Parts lie within the whole, in the order of the text.
fn check_tree(text: &str, whole: &Explained) {
    assert!(text.get(whole.span.clone()).is_some(), "{text}: {:?}", whole.span);
    let mut from = whole.span.start;
    for part in &whole.parts {
        assert!(from <= part.span.start && part.span.end <= whole.span.end, "{text}: {part:?}");
        from = part.span.end;
        check_tree(text, part);
    }
}

fn explain(text: &str, message: &dyn Subject) -> Explained {
    let (condition, paths) = compile(text);
    condition.explain(&Facts { subject: message, body: paths.of(message) })
}

/// What an expression comes to, as text.
fn value(text: &str, message: &dyn Subject) -> String {
    truth(text, message);
    show(&explain(text, message).value)
}

fn show(value: &Value<'_>) -> String {
    match value {
        Value::Undefined => "undefined".to_owned(),
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Text(text) => format!("'{text}'"),
        Value::NoText => "no text".to_owned(),
    }
}

fn check_truths(message: &dyn Subject, table: &[(&str, char)]) {
    for (text, expected) in table {
        assert_eq!(truth(text, message), *expected, "{text}");
    }
}

fn check_values(message: &dyn Subject, table: &[(&str, &str)]) {
    for (text, expected) in table {
        assert_eq!(value(text, message), *expected, "{text}");
    }
}
