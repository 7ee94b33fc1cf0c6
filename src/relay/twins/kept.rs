//! The form in which a twin is kept.
//!
//! Owns: [`Kept`] and its bytes: JSON with a `version` of the form, so that a later release knows what it reads. What is under
//! way is not marked: it is still pending until the hub has taken it, and pushing it twice does no harm
//! ([`super::merge`]). Must not know: files, the hub.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::merge::{Object, Pending};
use crate::kept_file;

/// Of the form.
const VERSION: u32 = 1;
/// Highest version of a section that is believed: those of the hub are signed, and count single changes.
const VERSION_MAX: u64 = i64::MAX as u64 / 2;

/// A twin as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Kept {
    /// Which life of the identity this is, if that was known.
    pub(super) generation: Option<String>,
    /// The hub has told the twin once; else it is only what the client reported.
    pub(super) known: bool,
    /// Without `$version`.
    pub(super) desired: Object,
    /// The hub's version of it.
    pub(super) desired_version: u64,
    /// What the hub has, with what is pending laid on top.
    pub(super) reported: Object,
    /// The version that the client was told, or the hub's if that is higher.
    pub(super) reported_version: u64,
    /// What the hub has not taken yet.
    pub(super) pending: Pending,
}

#[derive(Serialize)]
struct Written<'k> {
    version: u32,
    generation: Option<&'k str>,
    known: bool,
    pending: Option<Patches<&'k Object>>,
    desired_version: u64,
    desired: &'k Object,
    reported_version: u64,
    reported: &'k Object,
}

#[derive(Serialize, Deserialize)]
struct Patches<O> {
    clear: O,
    patch: O,
}

#[derive(Deserialize)]
struct Read {
    generation: Option<String>,
    known: bool,
    pending: Option<Patches<Object>>,
    desired_version: u64,
    desired: Object,
    reported_version: u64,
    reported: Object,
}

impl Kept {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let pending = &self.pending;
        let written = Written {
            version: VERSION,
            generation: self.generation.as_deref(),
            known: self.known,
            pending: pending
                .any
                .then_some(Patches { clear: &pending.clear, patch: &pending.patch }),
            desired_version: self.desired_version,
            desired: &self.desired,
            reported_version: self.reported_version,
            reported: &self.reported,
        };
        serde_json::to_vec(&written).expect("JSON of JSON, into memory")
    }

    /// # Errors
    /// It is damaged, or of another release's form.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let version = kept_file::version(bytes).map_err(|e| e.to_string())?;
        if version != VERSION {
            return Err(format!("its form has version {version}, this release reads {VERSION}"));
        }
        let read: Read = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let pending = read.pending.map_or_else(Pending::default, |patches| Pending {
            clear: patches.clear,
            patch: patches.patch,
            any: true,
        });
        Ok(Self {
            generation: read.generation,
            known: read.known,
            desired: read.desired,
            desired_version: read.desired_version,
            reported: read.reported,
            reported_version: read.reported_version,
            pending,
        })
    }

    /// The twin as a client sees it: compact, without metadata (an Azure Sphere sample holds 512 bytes).
    pub(super) fn body(&self) -> Bytes {
        let mut desired = self.desired.clone();
        desired.insert("$version".to_owned(), self.desired_version.into());
        let mut reported = self.reported.clone();
        reported.insert("$version".to_owned(), self.reported_version.into());
        let mut twin = Object::new();
        twin.insert("desired".to_owned(), Value::Object(desired));
        twin.insert("reported".to_owned(), Value::Object(reported));
        to_bytes(&twin)
    }
}

/// Whether that document says that something is pending; a form that is not ours may.
pub(super) fn says_pending(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Head {
        pending: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice(bytes).is_ok_and(|head: Head| head.pending.is_some())
}

/// Compact JSON.
pub(super) fn to_bytes(object: &Object) -> Bytes {
    serde_json::to_vec(object).expect("JSON of JSON, into memory").into()
}

/// Properties and `$version` of what the hub tells; other names with `$` are the hub's own (`$metadata`).
pub(super) fn section(value: Value) -> Option<(Object, u64)> {
    let Value::Object(mut object) = value else { return None };
    // Counted on from there.
    let version = object.get("$version")?.as_u64().filter(|version| *version <= VERSION_MAX)?;
    object.retain(|key, _| !key.starts_with('$'));
    Some((object, version))
}

/// A whole twin as the hub tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) desired: Object,
    pub(super) desired_version: u64,
    pub(super) reported: Object,
    pub(super) reported_version: u64,
}

impl Told {
    /// `None`: it is not a twin.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut twin: Object = serde_json::from_slice(bytes).ok()?;
        let (desired, desired_version) = section(twin.remove("desired")?)?;
        let (reported, reported_version) = section(twin.remove("reported")?)?;
        Some(Self { desired, desired_version, reported, reported_version })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Object {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut kept = Kept {
            generation: Some("g".to_owned()),
            known: true,
            desired: object(json!({"a": {"b": [1.5, null]}})),
            desired_version: 7,
            reported: object(json!({"c": "ü\u{1}"})),
            reported_version: 9,
            pending: Pending::default(),
        };
        assert_eq!(Kept::from_bytes(&kept.to_bytes()), Ok(kept.clone()));
        assert!(!says_pending(&kept.to_bytes()));
        // An empty patch is pending as well.
        kept.pending = Pending::of(Object::new());
        assert_eq!(Kept::from_bytes(&kept.to_bytes()), Ok(kept.clone()));
        assert!(says_pending(&kept.to_bytes()));
        let body = kept.body();
        let expected = r#"{"desired":{"$version":7,"a":{"b":[1.5,null]}},"reported":{"$version":9,"c":"ü\u0001"}}"#;
        assert_eq!(body, expected);
    }

    /// Letter for letter: a gateway that is updated pushes what the older one has answered.
    #[test]
    fn a_document_is_read_and_written_as_ever() {
        let stored = concat!(
            r#"{"version":1,"generation":"g","known":true,"pending":{"clear":{"c":null},"patch":{"c":2}},"#,
            r#""desired_version":7,"desired":{"a":{"b":1}},"reported_version":9,"reported":{"c":2}}"#,
        );
        let kept = Kept {
            generation: Some("g".to_owned()),
            known: true,
            desired: object(json!({"a": {"b": 1}})),
            desired_version: 7,
            reported: object(json!({"c": 2})),
            reported_version: 9,
            pending: Pending {
                clear: object(json!({"c": null})),
                patch: object(json!({"c": 2})),
                any: true,
            },
        };
        assert_eq!(kept.to_bytes(), stored.as_bytes());
        assert_eq!(Kept::from_bytes(stored.as_bytes()), Ok(kept));
        let newer = stored.replace("\"version\":1,", "\"version\":2,");
        let why = "its form has version 2, this release reads 1";
        assert_eq!(Kept::from_bytes(newer.as_bytes()), Err(why.to_owned()));
    }

    #[test]
    fn another_form_is_not_taken_for_ours() {
        let newer = br#"{"version":2,"twin":{}}"#;
        assert!(Kept::from_bytes(newer).unwrap_err().contains("version 2"));
        assert!(Kept::from_bytes(b"{}").is_err());
        assert!(Kept::from_bytes(br#"{"version":1,"known":true}"#).is_err());
    }

    #[test]
    fn metadata_is_left_out_of_what_the_hub_tells() {
        let told = Told::read(
            br#"{"desired":{"a":1,"$version":2,"$metadata":{"x":1}},"reported":{"$version":1}}"#,
        );
        let told = told.unwrap();
        assert_eq!(told.desired, object(json!({"a": 1})));
        assert_eq!((told.desired_version, told.reported_version), (2, 1));
        assert_eq!(Told::read(br#"{"desired":{}}"#), None);
        assert_eq!(Told::read(br#"{"desired":{},"reported":{"$version":1}}"#), None);
    }
}
