//! The entries of a sample's JSON: keys in `snake_case` or camelCase, each known or said to be a slip.
//!
//! Owns: the names of the keys that every sample has. Must not know: what is behind them.

use serde_json::{Map, Value};

use crate::route::nearest;

/// What a sample may say of a message, wherever it is asked for.
const CONTENT_KEYS: [&str; 7] = [
    "properties",
    "system_properties",
    "body",
    "body_text",
    "body_base64",
    "content_type",
    "content_encoding",
];

/// The same thing by another name.
const OTHER_NAMES: [(&str, &str); 2] =
    [("application_properties", "properties"), ("source", "message_source")];

/// The entries of a JSON object, by key in `snake_case`. A null counts as absent.
#[derive(Debug)]
pub(in crate::command::routes) struct Fields(Map<String, Value>);

/// What becomes of a key that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::command::routes) enum Unknown {
    /// It is an error.
    Refused,
    /// It is an error if it looks like a slip; else it is for whoever wrote it.
    PassedOver,
}

impl Fields {
    /// The entries of `object` as they are.
    pub(super) fn plain(mut object: Map<String, Value>) -> Self {
        object.retain(|_, value| !value.is_null());
        Self(object)
    }

    /// The entries of `object`: those of a message's content, and those named in `more`.
    pub(in crate::command::routes) fn new(
        object: Map<String, Value>,
        more: &[&str],
        unknown: Unknown,
    ) -> Result<Self, String> {
        let mut fields = Map::new();
        for (written, value) in object {
            let key = canonical(&written);
            let is_known = CONTENT_KEYS.contains(&key.as_str()) || more.contains(&key.as_str());
            if !is_known {
                let known = CONTENT_KEYS.iter().chain(more).copied();
                let others = OTHER_NAMES.iter().map(|(other, _)| *other);
                match nearest(&key, known.clone().chain(others)) {
                    Some(near) => {
                        return Err(format!("{written:?} is not known: did you mean {near:?}?"));
                    }
                    None if unknown == Unknown::PassedOver => continue,
                    None => {
                        let known: Vec<&str> = known.map(in_help).collect();
                        let known = known.join(", ");
                        return Err(format!(
                            "{written:?} is not known: take it out; known are {known}"
                        ));
                    }
                }
            }
            if !value.is_null() && fields.insert(key.clone(), value).is_some() {
                return Err(format!("{key} is given twice ({written:?} is the same): leave one"));
            }
        }
        Ok(Self(fields))
    }

    pub(in crate::command::routes) fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key)
    }

    /// The text under `key`.
    pub(in crate::command::routes) fn text(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(format!("{key} is {}: write a text in quotes", kind(&other))),
        }
    }

    /// Some key that nobody took.
    pub(super) fn rest(&self) -> Option<&str> {
        self.0.keys().next().map(String::as_str)
    }

    /// The object under `key`, as names with values.
    pub(super) fn object(&mut self, key: &str) -> Result<Map<String, Value>, String> {
        match self.take(key) {
            None => Ok(Map::new()),
            Some(Value::Object(object)) => Ok(object),
            Some(other) => {
                let kind = kind(&other);
                Err(format!(
                    "{key} is {kind}: write an object, for instance {{\"name\": \"value\"}}"
                ))
            }
        }
    }
}

/// `bodyText` and `body-text` are `body_text`.
fn canonical(key: &str) -> String {
    let mut name = String::with_capacity(key.len() + 2);
    for c in key.chars() {
        if c.is_ascii_uppercase() && !name.is_empty() && !name.ends_with('_') {
            name.push('_');
        }
        name.push(if c == '-' { '_' } else { c.to_ascii_lowercase() });
    }
    match OTHER_NAMES.iter().find(|(other, _)| *other == name) {
        Some((_, same)) => (*same).to_owned(),
        None => name,
    }
}

/// The key as the help of a whole message names it.
fn in_help(key: &str) -> &str {
    match key {
        "message_source" => "source",
        _ => key,
    }
}

/// What a JSON value is, for whoever reads that it should have been another.
pub(in crate::command::routes) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
