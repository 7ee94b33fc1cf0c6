//! Why a condition came to what it did: every part with its place, its value and the reason.
//!
//! Owns: the words of notes. Invariant: values are those of [`super::evaluate`], asked again, never found another way.
//! Must not know: types of routes, how it is printed.

use super::super::TEXT_BYTES_MADE_MAX;
use super::super::body::Found;
use super::super::functions::{Function, Run};
use super::super::subject::{SystemName, SystemProperty};
use super::super::syntax::Operator;
use super::super::value::{Type, Value};
use super::evaluate::{hidden_by, property};
use super::{Explained, Expr, Facts, Node};

/// Bytes of long texts that the parts of one condition keep in all: what IoT Hub takes in a message, four times.
const TEXT_BYTES_KEPT: usize = 4 * TEXT_BYTES_MADE_MAX;

/// Characters that are kept of a text when there is no room for all.
const CHARS_OF_LONG_TEXT: usize = 100;

impl Expr {
    /// This part and all that it is made of, also what evaluation leaves out because another part has decided.
    pub(super) fn explain(&self, facts: &Facts<'_>) -> Explained {
        // The whole is never cut.
        let mut left = match self.value(facts) {
            Value::Text(text) => TEXT_BYTES_KEPT.max(text.len()),
            _ => TEXT_BYTES_KEPT,
        };
        self.explain_within(facts, &mut left)
    }

    /// `left`: how many bytes of text may still be kept. Thousands of parts can name one long property.
    fn explain_within(&self, facts: &Facts<'_>, left: &mut usize) -> Explained {
        let value = self.value(facts);
        let note = self.note(facts, &value);
        let value = kept(value, left);
        let parts = self.parts().into_iter().map(|part| part.explain_within(facts, left)).collect();
        Explained { span: self.span.clone(), value, note, parts }
    }

    fn note(&self, facts: &Facts<'_>, value: &Value<'_>) -> Option<String> {
        match &self.node {
            Node::Literal(_) => None,
            Node::Property(name) => property_note(facts, name),
            Node::System { hides, name } => {
                let hides = hides.as_deref();
                hidden_note(facts, hides, "the system property")
                    .or_else(|| system_note(facts, name))
            }
            Node::Nothing { .. } => Some("no property can be called so".to_owned()),
            Node::Body { hides, slot, path } => {
                hidden_note(facts, hides.as_deref(), "the body value")
                    .or_else(|| body_note(facts.body.get(*slot).map_err(ToString::to_string), path))
            }
            Node::TwinChange(change) => match change.is_told(facts) {
                Err(reason) => Some(reason.to_string()),
                Ok(false) => Some(format!("the notification has nothing at `{}`", change.path)),
                Ok(true) => None,
            },
            Node::Not(operand) if operand.kind == Type::Null => Some("NOT null is true".to_owned()),
            Node::Not(operand) => no_truth(operand, facts, "NOT"),
            Node::Negate(operand) => no_number(&operand.value(facts)),
            Node::And(_) if self.kind == Type::Null => {
                Some("null in AND makes null, which selects nothing".to_owned())
            }
            Node::And(operands) => operands.iter().find_map(|o| no_truth(o, facts, "AND")),
            Node::Or(operands) => operands.iter().find_map(|o| no_truth(o, facts, "OR")),
            Node::Binary(operator, left, right) => {
                binary_note(*operator, &left.value(facts), &right.value(facts), value)
            }
            Node::Call(function, args) => {
                let args: Vec<Value<'_>> = args.iter().map(|arg| arg.value(facts)).collect();
                call_note(function, &args, value)
            }
        }
    }
}

/// The value to keep: text of more than `left` bytes only in short.
fn kept(value: Value<'_>, left: &mut usize) -> Value<'static> {
    match value {
        Value::Text(text) if text.len() > CHARS_OF_LONG_TEXT => {
            match left.checked_sub(text.len()) {
                Some(rest) => {
                    *left = rest;
                    Value::Text(text.into_owned().into())
                }
                None => {
                    let short: String =
                        text.chars().take(CHARS_OF_LONG_TEXT).chain(['…']).collect();
                    Value::Text(short.into())
                }
            }
        }
        value => value.into_owned(),
    }
}

fn property_note(facts: &Facts<'_>, name: &str) -> Option<String> {
    match property(facts, name) {
        None => Some(format!("the message has no property `{name}`")),
        Some(Value::NoText) => Some(format!("the property `{name}` has no value")),
        Some(_) => None,
    }
}

fn hidden_note(facts: &Facts<'_>, name: Option<&str>, what: &str) -> Option<String> {
    hidden_by(facts, name)?;
    let name = name?;
    Some(format!("the application property `{name}` hides {what}; {{{name}}} skips it"))
}

fn system_note(facts: &Facts<'_>, name: &SystemName) -> Option<String> {
    if facts.subject.system(name).is_some() {
        return None;
    }
    let text = &name.text;
    Some(match name.property {
        SystemProperty::ModuleId => format!("{text}: the sender is no module"),
        _ => format!("the message has no system property `{text}`"),
    })
}

fn body_note(found: Result<&Found, String>, path: &str) -> Option<String> {
    match found {
        Err(reason) => Some(reason),
        Ok(Found::Missing) => {
            Some(format!("the body has nothing at `{path}`, which counts as null"))
        }
        Ok(Found::Composite) => Some("an object or an array cannot be compared".to_owned()),
        Ok(Found::Null | Found::Bool(_) | Found::Number(_) | Found::Text(_)) => None,
    }
}

/// A body value that is no truth value, where one is wanted.
fn no_truth(operand: &Expr, facts: &Facts<'_>, joiner: &str) -> Option<String> {
    if matches!(operand.kind, Type::Bool | Type::Null | Type::Undefined) {
        return None;
    }
    match operand.value(facts) {
        Value::Undefined | Value::Bool(_) => None,
        other => Some(format!("{joiner} takes {} as undefined", other.words())),
    }
}

fn no_number(value: &Value<'_>) -> Option<String> {
    match value {
        Value::Undefined | Value::Number(_) => None,
        other => Some(format!("{} is not a number", other.words())),
    }
}

fn too_long() -> String {
    format!("the text would be longer than {} KiB", TEXT_BYTES_MADE_MAX / 1024)
}

fn no_text(value: &Value<'_>) -> Option<String> {
    match value {
        Value::Undefined | Value::Text(_) | Value::NoText => None,
        other => Some(format!("{} is not text", other.words())),
    }
}

fn binary_note(
    operator: Operator,
    left: &Value<'_>,
    right: &Value<'_>,
    value: &Value<'_>,
) -> Option<String> {
    let numbers = matches!((left, right), (Value::Number(_), Value::Number(_)));
    match operator {
        Operator::Coalesce if !left.is_defined() => {
            Some("the left side has no value: the right side counts".to_owned())
        }
        Operator::Coalesce => None,
        Operator::Concat if value.is_defined() => None,
        Operator::Concat => no_text(left)
            .or_else(|| no_text(right))
            .or_else(|| (left.is_defined() && right.is_defined()).then(too_long)),
        Operator::Multiply
        | Operator::Divide
        | Operator::Remainder
        | Operator::Add
        | Operator::Subtract
            if numbers && !value.is_defined() =>
        {
            Some("the result is not a number".to_owned())
        }
        Operator::Multiply
        | Operator::Divide
        | Operator::Remainder
        | Operator::Add
        | Operator::Subtract => no_number(left).or_else(|| no_number(right)),
        _ => compare_note(operator, left, right, value),
    }
}

fn compare_note(
    operator: Operator,
    left: &Value<'_>,
    right: &Value<'_>,
    value: &Value<'_>,
) -> Option<String> {
    if matches!(left, Value::NoText) || matches!(right, Value::NoText) {
        let what = if !value.is_defined() { "with nothing" } else { "as a text before all others" };
        return Some(format!("a property without a value compares {what}"));
    }
    if left.rank()? == right.rank()? {
        return None;
    }
    let (l, r) = (left.words(), right.words());
    Some(match operator {
        Operator::Equal | Operator::NotEqual => {
            format!("{l} is compared with {r}, which is never equal")
        }
        _ => format!(
            "{l} is compared with {r}: truth values come first, then numbers, text and null"
        ),
    })
}

fn call_note(function: &Function, args: &[Value<'_>], value: &Value<'_>) -> Option<String> {
    if !matches!(function.run, Run::Values(_)) || value.is_defined() {
        return None;
    }
    if let Some(at) = args.iter().position(|arg| !arg.is_defined()) {
        return (args.len() > 1).then(|| format!("argument {} is undefined", at + 1));
    }
    let fits = |(at, arg): &(usize, &Value<'_>)| match arg {
        Value::Number(_) => function.takes(*at).accepts(Type::Number),
        Value::Text(_) => function.takes(*at).accepts(Type::Text),
        Value::NoText => function.name == "concat",
        _ => false,
    };
    if let Some((at, arg)) = args.iter().enumerate().find(|arg| !fits(arg)) {
        let takes = function.takes(at).words();
        return Some(format!("{} takes {takes}, not {}", function.name, arg.words()));
    }
    Some(match function.name {
        "concat" | "lower" | "upper" => too_long(),
        "as_number" => "the text is not a number".to_owned(),
        "substring" => "the start or the length is not within the text".to_owned(),
        _ => "the result is not a number".to_owned(),
    })
}
