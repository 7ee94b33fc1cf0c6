//! One section of a twin: properties, version, and when each of them last changed.
//!
//! Invariants: null deletes, objects are merged, anything else is replaced whole; names that begin with `$` at the top belong
//! to the hub and are ignored; a refused change changes nothing. Must not know: whose section it is.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Refused;
use super::limits::check;

/// Which metadata a section has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Times and versions.
    Desired,
    /// Times.
    Reported,
    /// None.
    Tags,
}

/// When a property, or something in it, last changed.
#[derive(Debug, Clone, Default)]
struct Mark {
    at_ms: i64,
    version: u64,
    inner: BTreeMap<String, Mark>,
}

#[derive(Debug, Clone)]
pub(super) struct Section {
    kind: Kind,
    pub(super) properties: Map<String, Value>,
    pub(super) version: u64,
    marks: Mark,
}

impl Section {
    /// A new section is at version 1.
    pub(super) fn new(kind: Kind, now_ms: i64) -> Self {
        let marks = Mark { at_ms: now_ms, version: 1, inner: BTreeMap::new() };
        Self { kind, properties: Map::new(), version: 1, marks }
    }

    /// The section after a change.
    pub(super) fn changed(
        &self,
        patch: &Map<String, Value>,
        replace: bool,
        bytes_max: usize,
        now_ms: i64,
    ) -> Result<Self, Refused> {
        let mut next = self.clone();
        if replace {
            next.properties = Map::new();
            next.marks.inner = BTreeMap::new();
        }
        next.version += 1;
        let stamp = Mark { at_ms: now_ms, version: next.version, inner: BTreeMap::new() };
        (next.marks.at_ms, next.marks.version) = (stamp.at_ms, stamp.version);
        // As shown, a section has these two besides its properties.
        let own = |key: &str| key == "$version" || key == "$metadata";
        for (key, value) in patch.iter().filter(|(key, _)| !own(key)) {
            merge(&mut next.properties, &mut next.marks, key, value, &stamp);
        }
        check(&next.properties, bytes_max)?;
        Ok(next)
    }

    /// The properties with their `$version`; with `metadata` as the service side sees them.
    pub(super) fn show(&self, metadata: bool) -> Value {
        let mut shown = self.properties.clone();
        if metadata && self.kind != Kind::Tags {
            shown.insert("$metadata".to_owned(), self.marks.show(self.kind == Kind::Desired));
        }
        if self.kind != Kind::Tags {
            shown.insert("$version".to_owned(), self.version.into());
        }
        Value::Object(shown)
    }
}

impl Mark {
    fn show(&self, versions: bool) -> Value {
        let mut shown = Map::new();
        shown.insert("$lastUpdated".to_owned(), crate::clock::iso8601(self.at_ms).into());
        if versions {
            shown.insert("$lastUpdatedVersion".to_owned(), json!(self.version));
        }
        shown.extend(self.inner.iter().map(|(key, mark)| (key.clone(), mark.show(versions))));
        Value::Object(shown)
    }
}

fn merge(into: &mut Map<String, Value>, marks: &mut Mark, key: &str, value: &Value, stamp: &Mark) {
    if value.is_null() {
        into.remove(key);
        marks.inner.remove(key);
        return;
    }
    let mark = marks.inner.entry(key.to_owned()).or_default();
    (mark.at_ms, mark.version) = (stamp.at_ms, stamp.version);
    let at = into.entry(key).or_insert(Value::Null);
    if let Value::Object(patch) = value {
        if !at.is_object() {
            *at = Value::Object(Map::new());
            mark.inner.clear();
        }
        if let Value::Object(at) = at {
            patch.iter().for_each(|(key, value)| merge(at, mark, key, value, stamp));
        }
    } else {
        *at = value.clone();
        mark.inner.clear();
    }
}

/// The patch that makes `after` of `before`.
pub(super) fn difference(
    before: &Map<String, Value>,
    after: &Map<String, Value>,
) -> Map<String, Value> {
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
