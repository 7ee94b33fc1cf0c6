//! What the `$edgeHub` twin is told: whether its document is in force, and who is connected.
//!
//! Owns: the shapes of `edgehub.md` 3.2, and the difference between what the hub was told and what is. Invariants: what the
//! hub took is not told again; what it did not take is in the next patch; all of it fits into what a hub keeps.
//! Must not know: tasks, links, when it is told.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use crate::clock::UnixMillis;
use crate::identity::Identity;

/// A hub keeps 32 KB of reported properties; 4 KB are left to the rest.
const CLIENTS_BYTES_MAX: usize = 28 * 1024;

/// What a client's entry takes besides its key, with both times: keys and texts, as a hub counts.
const ENTRY_BYTES: usize = 6 + 12 + 20 + 24 + 23 + 24;

/// Longest description, in characters; a hub keeps 4 KB.
const DESCRIPTION_CHARS_MAX: usize = 1000;

/// What came of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    version: u64,
    code: u16,
    description: String,
}

impl Status {
    /// All of it is in force.
    pub(super) fn good(version: u64) -> Self {
        Self { version, code: 200, description: String::new() }
    }

    /// There are problems.
    pub(super) fn refused(version: u64, problems: &[String]) -> Self {
        let detail = problems.join("; ");
        let text = format!("Error while parsing desired properties - {detail}");
        let description = match text.char_indices().nth(DESCRIPTION_CHARS_MAX) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None => text,
        };
        Self { version, code: 400, description }
    }
}

/// How a client is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Connected(String),
    /// Modules alone: a leaf device that has left is not shown.
    Disconnected(String),
}

impl Entry {
    fn show(&self) -> Value {
        match self {
            Self::Connected(at) => json!({"status": "Connected", "lastConnectedTimeUtc": at}),
            Self::Disconnected(at) => {
                json!({"status": "Disconnected", "lastDisconnectedTimeUtc": at})
            }
        }
    }
}

type Clients = BTreeMap<String, Entry>;

/// A patch, and what the hub knows once it has taken it.
#[derive(Debug, Clone)]
pub(super) struct Patch {
    pub(super) value: Value,
    status: Option<Status>,
    clients: Clients,
}

/// The state.
#[derive(Debug, Default)]
pub(super) struct Reported {
    /// Whether the list of an earlier life was wiped.
    begun: bool,
    status: Option<Status>,
    clients: Clients,
    told_status: Option<Status>,
    told_clients: Clients,
    /// The connections that are in `clients`, by key.
    seats: HashMap<String, u64>,
    left_out: usize,
}

impl Reported {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// What came of the last document.
    pub(super) fn set_status(&mut self, status: Status) {
        self.status = Some(status);
    }

    /// Who is connected now; `now` is the time that newcomers and leavers get.
    pub(super) fn observe(&mut self, seats: &[(Identity, u64)], now: UnixMillis) {
        let at = utc(now);
        // In order, so that the same clients are left out each time if there is no room for all.
        let mut present: Vec<(bool, String, u64)> = seats
            .iter()
            .filter(|(who, _)| who.module().is_none_or(|module| module.as_str() != "$edgeHub"))
            .map(|(who, seat)| (who.module().is_none(), key(&who.to_string()), *seat))
            .collect();
        present.sort_unstable();
        let still: HashMap<&str, u64> =
            present.iter().map(|(_, key, seat)| (key.as_str(), *seat)).collect();
        let gone: Vec<String> =
            self.seats.keys().filter(|key| !still.contains_key(key.as_str())).cloned().collect();
        for key in gone {
            self.seats.remove(&key);
            if key.contains('/') {
                self.clients.insert(key, Entry::Disconnected(at.clone()));
            } else {
                self.clients.remove(&key);
            }
        }
        let mut bytes: usize = self.clients.keys().map(|key| key.len() + ENTRY_BYTES).sum();
        self.left_out = 0;
        for (_, key, seat) in present {
            if self.seats.get(&key) == Some(&seat) {
                continue;
            }
            if !self.clients.contains_key(&key) {
                if bytes + key.len() + ENTRY_BYTES > CLIENTS_BYTES_MAX {
                    self.left_out += 1;
                    continue;
                }
                bytes += key.len() + ENTRY_BYTES;
            }
            self.clients.insert(key.clone(), Entry::Connected(at.clone()));
            self.seats.insert(key, seat);
        }
    }

    /// Clients that are connected and not shown, for want of room.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Whether the hub is to be told of a document: that does not wait for company.
    pub(super) fn is_urgent(&self) -> bool {
        self.status != self.told_status
    }

    /// What the hub does not know yet, if anything.
    pub(super) fn patch(&self) -> Option<Patch> {
        // First of all the list of an earlier life is wiped.
        let (clients, shown) = match self.begun {
            false => (Clients::new(), Value::Null),
            true => (self.clients.clone(), Value::Object(self.difference())),
        };
        let unchanged = shown.as_object().is_some_and(Map::is_empty);
        if unchanged && !self.is_urgent() {
            return None;
        }
        let mut value = json!({
            "schemaVersion": "1.0",
            "version": {"version": env!("CARGO_PKG_VERSION"), "build": env!("CARGO_PKG_NAME"), "commit": ""},
            "clients": shown,
        });
        if self.is_urgent()
            && let Some(Status { version, code, description }) = &self.status
        {
            value["lastDesiredVersion"] = (*version).into();
            value["lastDesiredStatus"] = json!({"code": code, "description": description});
        }
        Some(Patch { value, status: self.status.clone(), clients })
    }

    /// The hub has taken `patch`.
    pub(super) fn taken(&mut self, patch: Patch) {
        self.begun = true;
        (self.told_status, self.told_clients) = (patch.status, patch.clients);
    }

    /// The hub may have taken `patch`, or not: what it would have changed is told again, and who leaves before that is told
    /// as gone, or he would be shown until the next start.
    pub(super) fn unsure(&mut self, patch: &Patch) {
        for (key, entry) in &patch.clients {
            if self.told_clients.get(key) != Some(entry) {
                // Equal to nothing that is ever observed.
                self.told_clients.insert(key.clone(), Entry::Disconnected(String::new()));
            }
        }
    }

    fn difference(&self) -> Map<String, Value> {
        let gone = self.told_clients.keys().filter(|key| !self.clients.contains_key(*key));
        let mut patch: Map<String, Value> = gone.map(|key| (key.clone(), Value::Null)).collect();
        let changed =
            self.clients.iter().filter(|(key, now)| self.told_clients.get(*key) != Some(now));
        patch.extend(changed.map(|(key, now)| (key.clone(), now.show())));
        patch
    }
}

/// What a name of a property must not contain is written as in an address.
fn key(id: &str) -> String {
    let mut key = String::with_capacity(id.len());
    for c in id.chars() {
        match c {
            '.' => key.push_str("%2E"),
            '$' => key.push_str("%24"),
            '#' => key.push_str("%23"),
            ' ' => key.push_str("%20"),
            other => key.push(other),
        }
    }
    key
}

fn utc(time: UnixMillis) -> String {
    match i64::try_from(time.0).ok().map(jiff::Timestamp::from_millisecond) {
        Some(Ok(time)) => format!("{time:.3}"),
        _ => "9999-12-31T23:59:59.999Z".to_owned(),
    }
}

#[cfg(test)]
mod tests;
