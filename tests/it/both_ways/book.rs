//! What one identity saw and was promised, and whether that agrees with the hub.
//!
//! A patch of reported properties that was answered is in force; of those that were not answered the first few may be: the
//! book keeps every document that may be right.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hub_double::{C2dState, FeedbackStatus};
use serde_json::{Map, Value};

use crate::support::World;

/// Documents that may be right, at most; a device asks for no patch that is not answered twice beyond.
const DOCUMENTS_MAX: usize = 512;

/// What is between the devices and the hub.
#[derive(Default)]
pub(super) struct Weather {
    /// Goes up before anything that ends links, so that the hub may not hear what a device acknowledges.
    pub(super) epoch: AtomicU64,
    /// From now on nothing goes wrong, and clients behave.
    pub(super) is_quiet: AtomicBool,
}

impl Weather {
    pub(super) fn turn(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.is_quiet.load(Ordering::SeqCst)
    }
}

/// A cloud-to-device message that has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) connection: u64,
    pub(super) epoch: u64,
    /// Its PUBACK was written.
    pub(super) is_acknowledged: bool,
    /// The epoch in which the gateway certainly had the PUBACK.
    pub(super) confirmed: Option<u64>,
}

/// See [the module](self).
#[derive(Default)]
pub(super) struct Book {
    /// Telemetry: the highest number sent, and the highest of the unbroken run of acknowledged ones.
    pub(super) sent: u64,
    pub(super) acked: u64,
    /// What the hub's reported properties may be.
    pub(super) documents: Vec<Value>,
    pub(super) patches_answered: u64,
    /// The highest versions that were told.
    pub(super) reported_version: u64,
    pub(super) desired_version: u64,
    /// The desired properties as the device has them, without the version; none before its GET on this connection.
    pub(super) view: Option<Value>,
    pub(super) desired_told: u64,
    /// Calls of methods that came, by their number.
    pub(super) calls: HashMap<u64, u32>,
    pub(super) c2d: BTreeMap<String, Seen>,
    pub(super) connections: u64,
    pub(super) present: u64,
    /// What must not be.
    pub(super) wrongs: Vec<String>,
}

impl Book {
    pub(super) fn new() -> Self {
        Self { documents: vec![Value::Object(Map::new())], ..Self::default() }
    }

    pub(super) fn wrong(&mut self, what: String) {
        if self.wrongs.len() < 20 {
            self.wrongs.push(what);
        }
    }

    /// The patch is in force.
    pub(super) fn answered(&mut self, patch: &Value) {
        self.patches_answered += 1;
        for document in &mut self.documents {
            merge(document, patch);
        }
        self.distinct();
    }

    /// Of these patches, in order, the first few may be in force.
    pub(super) fn unanswered(&mut self, patches: &[Value]) {
        let mut may_be = self.documents.clone();
        for patch in patches {
            for document in &mut may_be {
                merge(document, patch);
            }
            self.documents.extend(may_be.iter().cloned());
        }
        self.distinct();
    }

    /// Whether one more patch may stay unanswered.
    pub(super) fn may_lose(&self) -> bool {
        self.documents.len() < DOCUMENTS_MAX
    }

    fn distinct(&mut self) {
        let mut seen = std::collections::HashSet::new();
        self.documents.retain(|document| seen.insert(document.to_string()));
    }

    /// A version that is told never goes back.
    pub(super) fn told_desired(&mut self, version: u64, by: &str) {
        let before = self.desired_version;
        if version < before {
            self.wrong(format!("{by}: desired version {version} after {before}"));
        }
        self.desired_version = before.max(version);
        self.desired_told += 1;
    }

    pub(super) fn told_reported(&mut self, version: u64, by: &str) {
        let before = self.reported_version;
        let is_back = if by == "204" { version <= before } else { version < before };
        if is_back {
            self.wrong(format!("{by}: reported version {version} after {before}"));
        }
        self.reported_version = before.max(version);
    }

    /// A message for the device has come.
    pub(super) fn came(&mut self, id: &str, connection: u64, epoch: u64) {
        if let Some(seen) = self.c2d.get(id).copied() {
            if seen.connection == connection && seen.epoch == epoch {
                self.wrong(format!("{id} came twice over connection {connection}"));
            }
            if seen.confirmed == Some(epoch) {
                self.wrong(format!("{id} came again after its PUBACK"));
            }
        }
        let before = self.c2d.get(id).is_some_and(|seen| seen.is_acknowledged);
        let seen = Seen { connection, epoch, is_acknowledged: before, confirmed: None };
        self.c2d.insert(id.to_owned(), seen);
    }

    /// What does not agree with the hub yet; empty: all is well.
    pub(super) fn differences(&self, world: &World, id: &str) -> Vec<String> {
        let mut found = self.wrongs.clone();
        let (device, module) = match id.split_once('/') {
            Some((device, module)) => (device, Some(module)),
            None => (id, None),
        };
        let twin = world.hub.twin(device, module).expect("registered");
        let (reported, _) = section(&twin["properties"]["reported"]);
        if !self.documents.contains(&reported) {
            found.push(format!("reported: the hub has {reported}, not {:?}", self.documents));
        }
        let (desired, version) = section(&twin["properties"]["desired"]);
        if self.view.as_ref() != Some(&desired) || self.desired_version != version {
            let (view, has) = (&self.view, self.desired_version);
            found.push(format!("desired: version {has} {view:?}, the hub has {version} {desired}"));
        }
        found.extend(self.telemetry(world, device, module));
        if module.is_none() {
            found.extend(self.cloud_to_device(world, device));
        }
        found
    }

    fn telemetry(&self, world: &World, device: &str, module: Option<&str>) -> Option<String> {
        let mut next = 1;
        for message in world.hub.messages_since(Some(device), 0, usize::MAX) {
            let seq = message.application_properties.get("seq").cloned().flatten();
            let Some(seq) = seq.filter(|_| message.module_id.as_deref() == module) else {
                continue;
            };
            let seq: u64 = seq.parse().expect("a number");
            if seq > next {
                return Some(format!("telemetry: {seq} arrived before {next}"));
            }
            next = next.max(seq + 1);
        }
        let missing = next <= self.acked;
        missing.then(|| format!("telemetry: {next} is missing, {} are acknowledged", self.acked))
    }

    fn cloud_to_device(&self, world: &World, device: &str) -> Vec<String> {
        let mut found = Vec::new();
        for record in world.hub.c2d(device) {
            let id = &record.message_id;
            let seen = self.c2d.get(id);
            let is_acknowledged = seen.is_some_and(|seen| seen.is_acknowledged);
            let is_well = match (record.state, record.outcome) {
                (C2dState::Completed, _) => is_acknowledged,
                (C2dState::DeadLettered, Some(FeedbackStatus::Expired)) => id.starts_with("short"),
                _ => false,
            };
            if !is_well {
                found.push(format!("cloud-to-device: {record:?}, at the device: {seen:?}"));
            }
        }
        found
    }
}

/// A section of a twin without its version, and that version.
pub(super) fn section(section: &Value) -> (Value, u64) {
    let mut section = section.clone();
    let version = section.as_object_mut().and_then(|map| map.remove("$version"));
    (section, version.and_then(|v| v.as_u64()).unwrap_or_default())
}

/// As IoT Hub merges: null deletes, objects are merged, all else replaces.
pub(super) fn merge(document: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else { return };
    if !document.is_object() {
        *document = Value::Object(Map::new());
    }
    let map = document.as_object_mut().expect("made so");
    for (key, value) in patch {
        match value {
            Value::Null => {
                map.remove(key);
            }
            Value::Object(_) => {
                let inner = map.entry(key.clone()).or_insert_with(|| Value::Object(Map::new()));
                merge(inner, value);
            }
            value => {
                map.insert(key.clone(), value.clone());
            }
        }
    }
}
