//! Twins: desired and reported properties of each identity, with versions and an ETag (fact sheet A7, B6, G).
//!
//! Owns: the documents and their limits. Invariants: each change raises the version of its section by one; null deletes,
//! objects are merged, anything else is replaced whole; a refused change changes nothing. Must not know: AMQP, HTTP.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::registry::Principal;

/// Largest section: IoT Hub's 32 KB of desired and of reported properties.
const SECTION_BYTES_MAX: usize = 32 * 1024;
/// Deepest nesting of a section.
const DEPTH_MAX: usize = 10;
/// Longest key, bytes.
const KEY_BYTES_MAX: usize = 1024;
/// Longest text, bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// A refused change: status and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) words: String,
}

fn refused<T>(status: u16, words: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { status, words: words.into() })
}

#[derive(Debug, Clone)]
struct Section {
    properties: Map<String, Value>,
    version: u64,
}

impl Default for Section {
    /// A new twin is at version 1.
    fn default() -> Self {
        Self { properties: Map::new(), version: 1 }
    }
}

impl Section {
    fn change(&mut self, patch: &Map<String, Value>, replace: bool) -> Result<(), Refused> {
        let mut next = if replace { Map::new() } else { self.properties.clone() };
        merge(&mut next, patch);
        check(&next)?;
        (self.properties, self.version) = (next, self.version + 1);
        Ok(())
    }

    fn show(&self) -> Value {
        let mut shown = self.properties.clone();
        shown.insert("$version".to_owned(), self.version.into());
        Value::Object(shown)
    }
}

#[derive(Debug, Clone, Default)]
struct Twin {
    desired: Section,
    reported: Section,
    changes: u64,
}

impl Twin {
    /// Base64 of a counter, as the service's (A7).
    fn etag(&self) -> String {
        STANDARD.encode((self.changes + 1).to_be_bytes())
    }
}

/// All twins. Who has none yet has an empty one.
#[derive(Debug, Default)]
pub(crate) struct Twins(Mutex<BTreeMap<Principal, Twin>>);

impl Twins {
    fn with<T>(&self, who: &Principal, work: impl FnOnce(&mut Twin) -> T) -> T {
        let mut twins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work(twins.entry(who.clone()).or_default())
    }

    /// Forgets the twins of a device and of its modules.
    pub(crate) fn forget(&self, device: &str) {
        let mut twins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        twins.retain(|who, _| !who.device.eq_ignore_ascii_case(device));
    }

    /// As a device gets it: both sections, without metadata.
    pub(crate) fn of_device(&self, who: &Principal) -> Value {
        self.with(
            who,
            |twin| json!({"desired": twin.desired.show(), "reported": twin.reported.show()}),
        )
    }

    /// As the service side gets it.
    pub(crate) fn of_service(&self, who: &Principal) -> Value {
        self.with(who, |twin| {
            let mut shown = json!({
                "deviceId": &*who.device,
                "etag": twin.etag(),
                "version": twin.changes + 2,
                "properties": {"desired": twin.desired.show(), "reported": twin.reported.show()},
            });
            if let Some(module) = &who.module {
                shown["moduleId"] = Value::from(&**module);
            }
            shown
        })
    }

    /// The identity reports; gives the section's new version.
    pub(crate) fn report(&self, who: &Principal, patch: &Value) -> Result<u64, Refused> {
        let Value::Object(patch) = patch else {
            return refused(400, "reported properties are an object");
        };
        self.with(who, |twin| {
            twin.reported.change(patch, false)?;
            twin.changes += 1;
            Ok(twin.reported.version)
        })
    }

    /// The service side changes desired properties: merges `patch`, or replaces all by it. Gives what the identity is
    /// told: the patch with its `$version`; for a replacement the difference, with null for what is gone.
    pub(crate) fn desire(
        &self,
        who: &Principal,
        patch: &Value,
        replace: bool,
        if_match: Option<&str>,
    ) -> Result<Value, Refused> {
        let Value::Object(patch) = patch else {
            return refused(400, "desired properties are an object");
        };
        self.with(who, |twin| {
            let etag = twin.etag();
            if if_match.is_some_and(|wanted| wanted != "*" && wanted.trim_matches('"') != etag) {
                return refused(412, "the twin has another ETag");
            }
            let before = twin.desired.properties.clone();
            twin.desired.change(patch, replace)?;
            twin.changes += 1;
            let mut told = match replace {
                true => difference(&before, &twin.desired.properties),
                false => patch.clone(),
            };
            told.insert("$version".to_owned(), twin.desired.version.into());
            Ok(Value::Object(told))
        })
    }
}

fn merge(into: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        merge_one(into, key, value);
    }
}

fn merge_one(into: &mut Map<String, Value>, key: &str, value: &Value) {
    match value {
        Value::Null => {
            into.remove(key);
        }
        Value::Object(patch) => {
            let at = into.entry(key).or_insert(Value::Null);
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            if let Value::Object(at) = at {
                patch.iter().for_each(|(key, value)| merge_one(at, key, value));
            }
        }
        other => {
            into.insert(key.to_owned(), other.clone());
        }
    }
}

/// The patch that makes `after` of `before`.
fn difference(before: &Map<String, Value>, after: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, now) in after {
        match (before.get(key), now) {
            (Some(was), now) if was == now => {}
            (Some(Value::Object(was)), Value::Object(now)) => {
                patch.insert(key.clone(), Value::Object(difference(was, now)));
            }
            _ => {
                patch.insert(key.clone(), now.clone());
            }
        }
    }
    patch
}

/// The limits of a section (A7).
fn check(section: &Map<String, Value>) -> Result<(), Refused> {
    let bytes = check_at(section, 1)?;
    if bytes > SECTION_BYTES_MAX {
        return refused(413, format!("{bytes} bytes; {SECTION_BYTES_MAX} are allowed"));
    }
    Ok(())
}

/// Gives the size: keys and values; a number counts 8 bytes, a boolean 4.
fn check_at(section: &Map<String, Value>, depth: usize) -> Result<usize, Refused> {
    if depth > DEPTH_MAX {
        return refused(400, format!("nested deeper than {DEPTH_MAX}"));
    }
    let mut bytes = 0;
    for (key, value) in section {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return refused(400, "a key is empty or longer than 1 KB");
        }
        if key.chars().any(|c| c.is_control() || ".$# ".contains(c)) {
            return refused(400, format!("the key {key:?} has a character that is not allowed"));
        }
        bytes += key.len();
        bytes += match value {
            Value::Object(inner) => check_at(inner, depth + 1)?,
            Value::String(text) if text.len() > TEXT_BYTES_MAX => {
                return refused(400, "a text is longer than 4 KB");
            }
            Value::String(text) => text.len(),
            Value::Number(_) => 8,
            Value::Bool(_) => 4,
            Value::Null => 0,
            Value::Array(_) => value.to_string().len(),
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who() -> Principal {
        Principal { device: "edge1".into(), module: Some("$edgeHub".into()) }
    }

    #[test]
    fn patches_merge_replacements_tell_the_difference_and_versions_count() {
        let twins = Twins::default();
        let desire = |patch: Value, replace| twins.desire(&who(), &patch, replace, None).unwrap();
        let first = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        assert_eq!(desire(first, false), json!({"a": {"b": 1, "c": 2}, "d": [1], "$version": 2}));
        let told = desire(json!({"a": {"b": null}, "d": [2]}), false);
        assert_eq!(told, json!({"a": {"b": null}, "d": [2], "$version": 3}));
        let shown = twins.of_device(&who());
        assert_eq!(
            shown,
            json!({"desired": {"a": {"c": 2}, "d": [2], "$version": 3}, "reported": {"$version": 1}})
        );
        let told = desire(json!({"a": {"c": 3}, "e": true}), true);
        assert_eq!(told, json!({"a": {"c": 3}, "d": null, "e": true, "$version": 4}));
        assert_eq!(twins.report(&who(), &json!({"x": {"y": 1}})).unwrap(), 2);
        assert_eq!(twins.report(&who(), &json!({"x": null})).unwrap(), 3);
        assert_eq!(twins.of_device(&who())["reported"], json!({"$version": 3}));
    }

    #[test]
    fn what_breaks_a_limit_changes_nothing() {
        let twins = Twins::default();
        let deep = (0..11).fold(json!(1), |inner, _| json!({"k": inner}));
        for (patch, status) in [
            (json!([]), 400),
            (json!({"a.b": 1}), 400),
            (json!({"a": {"b c": 1}}), 400),
            (json!({"a": "x".repeat(4097)}), 400),
            (deep, 400),
            ((0..9).map(|n| (n.to_string(), "x".repeat(4000))).collect(), 413),
        ] {
            assert_eq!(twins.report(&who(), &patch).unwrap_err().status, status, "{patch}");
        }
        assert_eq!(twins.of_device(&who())["reported"], json!({"$version": 1}));
    }

    #[test]
    fn an_etag_guards_a_change() {
        let twins = Twins::default();
        let etag = twins.of_service(&who())["etag"].as_str().unwrap().to_owned();
        let desire = |etag: &str| twins.desire(&who(), &json!({"a": 1}), false, Some(etag));
        assert!(desire(&etag).is_ok());
        assert_eq!(desire(&etag).unwrap_err().status, 412);
        assert!(desire("*").is_ok());
    }
}
