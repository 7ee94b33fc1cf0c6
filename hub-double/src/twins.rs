//! Twins: tags, desired and reported properties of each identity, with versions, times and an ETag (fact sheet A7, B6, G).
//!
//! Owns: the documents and their limits. Invariants: each change raises the version of its section by one; a refused change
//! changes nothing, in no section; the ETag changes with what the service side changes, and only with that. Must not know:
//! AMQP, MQTT, HTTP.

mod limits;
mod section;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use self::limits::{PROPERTIES_BYTES_MAX, TAGS_BYTES_MAX};
use self::section::{Kind, Section, difference};
use crate::clock::Clock;
use crate::registry::Principal;

/// What the hub does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {words}")]
pub struct Refused {
    /// As the service's HTTP status.
    pub status: u16,
    /// Why.
    pub words: String,
}

pub(crate) fn refused<T>(status: u16, words: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { status, words: words.into() })
}

impl Refused {
    /// The body of an answer to a device, over AMQP and over MQTT.
    pub(crate) fn body(&self, now_ms: i64) -> String {
        json!({
            "errorCode": u32::from(self.status) * 1000 + 1,
            "message": self.words,
            "timestampUtc": crate::clock::iso8601(now_ms),
        })
        .to_string()
    }
}

#[derive(Debug, Clone)]
struct Twin {
    tags: Section,
    desired: Section,
    reported: Section,
    /// By the service side.
    changes: u64,
}

impl Twin {
    fn new(now_ms: i64) -> Self {
        Self {
            tags: Section::new(Kind::Tags, now_ms),
            desired: Section::new(Kind::Desired, now_ms),
            reported: Section::new(Kind::Reported, now_ms),
            changes: 0,
        }
    }

    /// Base64 of a counter, as the service's (A7).
    fn etag(&self) -> String {
        STANDARD.encode((self.changes + 1).to_be_bytes())
    }
}

/// What the service side changes. A section that is left out is not touched by a patch and emptied by a replacement.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Change<'a> {
    pub(crate) tags: Option<&'a Value>,
    pub(crate) desired: Option<&'a Value>,
    pub(crate) replace: bool,
    /// The ETag that the twin must have; `*`: any.
    pub(crate) if_match: Option<&'a str>,
}

/// All twins. Who has none yet has an empty one.
#[derive(Debug)]
pub(crate) struct Twins {
    clock: Arc<Clock>,
    twins: Mutex<BTreeMap<Principal, Twin>>,
    changes: watch::Sender<u64>,
}

impl Twins {
    pub(crate) fn new(clock: Arc<Clock>) -> Self {
        Self { clock, twins: Mutex::default(), changes: watch::Sender::new(0) }
    }

    fn with<T>(&self, who: &Principal, work: impl FnOnce(&mut Twin) -> T) -> T {
        let mut twins = self.twins.lock().unwrap_or_else(PoisonError::into_inner);
        work(twins.entry(who.clone()).or_insert_with(|| Twin::new(self.clock.wall_ms())))
    }

    /// Goes up with each change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Forgets the twins of a device and of its modules, or of one module.
    pub(crate) fn forget(&self, device: &str, module: Option<&str>) {
        let is = |who: &Principal| {
            let same = |id: &Arc<str>, other: &str| id.eq_ignore_ascii_case(other);
            let module = module.is_none_or(|m| who.module.as_ref().is_some_and(|id| same(id, m)));
            same(&who.device, device) && module
        };
        let mut twins = self.twins.lock().unwrap_or_else(PoisonError::into_inner);
        twins.retain(|who, _| !is(who));
    }

    /// As a device gets it: both sections, without metadata.
    pub(crate) fn of_device(&self, who: &Principal) -> Value {
        self.with(who, |twin| {
            json!({"desired": twin.desired.show(false), "reported": twin.reported.show(false)})
        })
    }

    /// As the service side gets it, with or without the metadata.
    pub(crate) fn of_service(&self, who: &Principal, metadata: bool) -> Value {
        self.with(who, |twin| {
            let mut shown = json!({
                "deviceId": &*who.device,
                "etag": twin.etag(),
                "version": twin.tags.version + twin.desired.version + twin.reported.version - 1,
                "tags": twin.tags.show(false),
                "properties": {
                    "desired": twin.desired.show(metadata),
                    "reported": twin.reported.show(metadata),
                },
            });
            if let Some(module) = &who.module {
                shown["moduleId"] = Value::from(&**module);
            }
            shown
        })
    }

    /// The identity reports; gives the section's new version. With `version`: only if the section has that one.
    pub(crate) fn report(
        &self,
        who: &Principal,
        patch: &Value,
        version: Option<u64>,
    ) -> Result<u64, Refused> {
        let patch = object(patch, "reported properties")?;
        let now_ms = self.clock.wall_ms();
        let reported = self.with(who, |twin| {
            if version.is_some_and(|version| version != twin.reported.version) {
                return refused(412, "the reported properties have another version");
            }
            twin.reported = twin.reported.changed(patch, false, PROPERTIES_BYTES_MAX, now_ms)?;
            Ok(twin.reported.version)
        });
        self.changed();
        reported
    }

    /// The service side changes tags and desired properties. Gives what the identity is told, if desired properties changed:
    /// the patch with its `$version`; for a replacement the difference, with null for what is gone.
    pub(crate) fn change(
        &self,
        who: &Principal,
        change: Change<'_>,
    ) -> Result<Option<Value>, Refused> {
        let empty = Value::Object(Map::new());
        let section =
            |given: Option<&'_ Value>| given.cloned().or(change.replace.then(|| empty.clone()));
        let (tags, desired) = (section(change.tags), section(change.desired));
        let now_ms = self.clock.wall_ms();
        let told = self.with(who, |twin| {
            let etag = twin.etag();
            let other = |wanted: &str| wanted != "*" && wanted.trim_matches('"') != etag;
            if change.if_match.is_some_and(other) {
                return refused(412, "the twin has another ETag");
            }
            let mut next = twin.clone();
            if let Some(tags) = &tags {
                let patch = object(tags, "tags")?;
                next.tags = next.tags.changed(patch, change.replace, TAGS_BYTES_MAX, now_ms)?;
            }
            let mut told = None;
            if let Some(desired) = &desired {
                let patch = object(desired, "desired properties")?;
                next.desired =
                    next.desired.changed(patch, change.replace, PROPERTIES_BYTES_MAX, now_ms)?;
                let mut patch = match change.replace {
                    true => difference(&twin.desired.properties, &next.desired.properties),
                    false => patch.clone(),
                };
                patch.insert("$version".to_owned(), next.desired.version.into());
                told = Some(Value::Object(patch));
            }
            next.changes += 1;
            *twin = next;
            Ok(told)
        });
        self.changed();
        told
    }
}

fn object<'a>(value: &'a Value, what: &str) -> Result<&'a Map<String, Value>, Refused> {
    let words = || Refused { status: 400, words: format!("{what} are an object") };
    value.as_object().ok_or_else(words)
}
