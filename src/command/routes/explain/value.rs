//! Values as programs read them, and as people read them at a glance.
//!
//! Must not know: what they are values of.

use serde_json::Value as Json;

use crate::route::{Tri, Value};

/// How much of an expression or of a value a line shows; `--json` has it whole.
const CHARS_MAX: usize = 60;

pub(super) fn word(result: Tri) -> &'static str {
    match result {
        Tri::True => "true",
        Tri::False => "false",
        Tri::Undefined => "undefined",
    }
}

pub(super) fn type_of(value: &Value<'_>) -> &'static str {
    match value {
        Value::Undefined => "undefined",
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::Text(_) => "text",
        Value::NoText => "noText",
    }
}

pub(super) fn json(value: &Value<'_>) -> Json {
    /// Up to here every whole number is a double.
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Undefined | Value::Null | Value::NoText => Json::Null,
        Value::Bool(b) => Json::from(*b),
        #[allow(clippy::cast_possible_truncation, reason = "whole and small enough")]
        Value::Number(n) if n.fract() == 0.0 && n.abs() <= WHOLE_MAX => Json::from(*n as i64),
        Value::Number(n) => Json::from(*n),
        Value::Text(text) => Json::from(&**text),
    }
}

/// A value as people read it, whole.
pub(in crate::command::routes) fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Undefined => "undefined".to_owned(),
        Value::Null => "null".to_owned(),
        Value::NoText => "there, without a value".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) if n.is_infinite() => {
            if *n > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
        }
        // Hundreds of zeros would be exact, and unreadable.
        Value::Number(n) if *n != 0.0 && !(1e-6..1e21).contains(&n.abs()) => format!("{n:e}"),
        Value::Number(n) => n.to_string(),
        Value::Text(text) => quoted(text),
    }
}

/// In quotes; what would move the cursor or hide is escaped.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\'' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    out.push('"');
    out
}

/// As much of it as a line has room for.
pub(in crate::command::routes) fn cut(text: &str) -> String {
    match text.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// The same of a value: what is cut tells how long it is.
pub(in crate::command::routes) fn cut_value(shown: &str) -> String {
    match shown.chars().count() {
        n if n > CHARS_MAX + 2 => format!("{} ({n} characters)", cut(shown)),
        _ => shown.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_at_a_glance() {
        for (value, expected) in [
            (Value::Undefined, "undefined"),
            (Value::Null, "null"),
            (Value::NoText, "there, without a value"),
            (Value::Bool(true), "true"),
            (Value::Number(3.0), "3"),
            (Value::Number(-0.5), "-0.5"),
            (Value::Number(0.1), "0.1"),
            (Value::Number(-0.0), "-0"),
            (Value::Number(123_456_789_012.0), "123456789012"),
            (Value::Number(1e300), "1e300"),
            (Value::Number(-2.5e-9), "-2.5e-9"),
            (Value::Number(f64::NEG_INFINITY), "-Infinity"),
            (Value::Text("it's \"é\"\\".into()), r#""it's \"é\"\\""#),
            (Value::Text("\r\n\t\0\u{1b}[2J\u{202e}".into()), r#""\r\n\t\0\u{1b}[2J\u{202e}""#),
        ] {
            assert_eq!(shown(&value), expected);
        }
        let long = cut_value(&shown(&Value::Text("é".repeat(100).into())));
        assert_eq!(long, format!("\"{}… (102 characters)", "é".repeat(CHARS_MAX - 1)));
        assert_eq!(cut(&"x".repeat(CHARS_MAX)), "x".repeat(CHARS_MAX));
    }

    #[test]
    fn values_are_data() {
        for (value, expected) in [
            (Value::Number(3.0), "3"),
            (Value::Number(-1.5), "-1.5"),
            (Value::Number(1e300), "1e+300"),
            (Value::Number(f64::INFINITY), "null"),
            (Value::Text("a\"".into()), r#""a\"""#),
            (Value::NoText, "null"),
            (Value::Bool(false), "false"),
        ] {
            assert_eq!(json(&value).to_string(), expected);
        }
    }
}
