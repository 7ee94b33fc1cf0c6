//! What is known of our own twin, and what is to be asked: bytes and `now` in, requests out; no IO, no clock.
//!
//! Owns: the last known desired properties, the operations under way and when the next is due. Invariants: desired
//! properties are handed out whole; a patch is merged only onto the version just before it, anything else is settled by a
//! full read; an operation without an answer in time ends the links; at most one read and one report are under way.
//! Must not know: AMQP, what the properties mean.
//!
//! A patch is merged before anybody judges the result, so that a correction works on top of what it corrects
//! (`edgehub.md` 3.4).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::{DesiredDocument, ReportError};
use crate::upstream::backoff::Backoff;
use crate::upstream::pairs::{Answer, Operation};

/// First and largest ceiling of the wait after a read that failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// Least wait after a throttled operation (F: 10 s .. 60 s after throttling).
const THROTTLED_AFTER: Duration = Duration::from_secs(10);
/// Most bytes of desired properties as JSON: four times what a hub keeps, and more than its own limit ever needs.
const DESIRED_BYTES_MAX: usize = 128 * 1024;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Send this.
    Ask { id: u64, operation: Operation, body: String },
    /// These are the desired properties now.
    Desired(DesiredDocument),
    /// What came of the report: the version of reported properties, if the hub told it.
    Reported(Result<Option<u64>, ReportError>),
    /// The links are of no use any more.
    Reopen(String),
}

struct Known {
    properties: Map<String, Value>,
    version: u64,
}

/// The state.
pub(super) struct Machine {
    answer_within: Duration,
    refresh_every: Duration,
    next_id: u64,
    under_way: BTreeMap<u64, (Operation, Instant)>,
    known: Option<Known>,
    /// When the next read is due; `None` while the links are closed or a read is under way.
    get_due: Option<Instant>,
    /// Whether that read is put off because the one before it failed.
    is_put_off: bool,
    /// The newest version that a patch told since the last read was asked for.
    told: u64,
    /// Somebody wants to hear what the next read finds, also if it is nothing new.
    wanted: bool,
    backoff: Backoff,
}

impl Machine {
    pub(super) fn new(answer_within: Duration, refresh_every: Duration) -> Self {
        Self {
            answer_within,
            refresh_every,
            next_id: 0,
            under_way: BTreeMap::new(),
            known: None,
            get_due: None,
            is_put_off: false,
            told: 0,
            wanted: false,
            backoff: Backoff::new(RETRY.0, RETRY.1),
        }
    }

    /// The links are open: asks for changes first, then for the whole, so that no change falls in between.
    pub(super) fn open(&mut self, now: Instant) -> Vec<Action> {
        vec![self.ask(now, Operation::Subscribe, String::new()), self.get(now)]
    }

    /// The links are closed.
    pub(super) fn close(&mut self) -> Vec<Action> {
        (self.get_due, self.is_put_off) = (None, false);
        let reports = std::mem::take(&mut self.under_way).into_values();
        let lost = reports.filter(|(operation, _)| *operation == Operation::Report);
        lost.map(|_| Action::Reported(Err(ReportError::Lost))).collect()
    }

    /// Whether a report can be taken.
    pub(super) fn can_report(&self) -> bool {
        !self.is_under_way(Operation::Report)
    }

    /// Changes reported properties.
    pub(super) fn report(&mut self, now: Instant, patch: &Value) -> Action {
        self.ask(now, Operation::Report, patch.to_string())
    }

    /// Somebody wants the whole twin read again, and to be shown it also if nothing changed.
    pub(super) fn asked(&mut self, now: Instant) -> Vec<Action> {
        self.wanted = true;
        self.refresh(now)
    }

    /// The whole twin is to be read again, at once.
    pub(super) fn refresh(&mut self, now: Instant) -> Vec<Action> {
        match self.is_under_way(Operation::Get) {
            true => Vec::new(),
            false => vec![self.get(now)],
        }
    }

    /// The hub answers. An id that nobody waits for is an answer that came too late.
    pub(super) fn answered(&mut self, now: Instant, id: u64, answer: &Answer) -> Vec<Action> {
        let Some((operation, _)) = self.under_way.remove(&id) else { return Vec::new() };
        let failed = answer.status >= 400;
        match operation {
            Operation::Subscribe if failed => {
                vec![Action::Reopen(format!("changes of the twin are refused: {}", words(answer)))]
            }
            Operation::Subscribe => Vec::new(),
            Operation::Get if failed => {
                self.read_failed(now, answer.status == 429, &words(answer));
                Vec::new()
            }
            Operation::Get => self.read(now, &answer.body),
            Operation::Report if failed => vec![Action::Reported(Err(refusal(answer)))],
            Operation::Report => vec![Action::Reported(Ok(answer.version))],
        }
    }

    /// The hub tells a change of desired properties.
    pub(super) fn changed(&mut self, now: Instant, body: &[u8]) -> Vec<Action> {
        let patch = serde_json::from_slice::<Map<String, Value>>(body);
        let version = patch.as_ref().ok().and_then(version_of);
        let (Ok(patch), Some(version)) = (patch, version) else {
            tracing::warn!("a change of the twin cannot be read: the whole twin is read again");
            return self.missed(now);
        };
        self.told = self.told.max(version);
        match &mut self.known {
            // Known already, by a read that was quicker.
            Some(known) if version <= known.version => Vec::new(),
            Some(known) if version == known.version + 1 => {
                merge(&mut known.properties, patch);
                known.version = version;
                self.hand_out(now)
            }
            known => {
                let from = known.as_ref().map_or(0, |known| known.version);
                tracing::info!(
                    from,
                    to = version,
                    "a change of the twin was missed: it is read as a whole"
                );
                self.missed(now)
            }
        }
    }

    /// A change is not known: the whole is read. Not before its time if the hub has just failed, or is throttling us: each
    /// further change would press it again, and the read that is due brings them all.
    fn missed(&mut self, now: Instant) -> Vec<Action> {
        if self.is_put_off { Vec::new() } else { self.refresh(now) }
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Action> {
        let late = |(_, asked): &(Operation, Instant)| *asked + self.answer_within <= now;
        if let Some((operation, _)) = self.under_way.values().find(|one| late(one)) {
            let why =
                format!("no answer about the twin within {:?}: {operation:?}", self.answer_within);
            return vec![Action::Reopen(why)];
        }
        match self.get_due {
            Some(due) if due <= now => self.refresh(now),
            _ => Vec::new(),
        }
    }

    /// When [`Machine::tick`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let answers = self.under_way.values().map(|(_, asked)| *asked + self.answer_within);
        answers.chain(self.get_due).min()
    }

    fn is_under_way(&self, wanted: Operation) -> bool {
        self.under_way.values().any(|(operation, _)| *operation == wanted)
    }

    fn ask(&mut self, now: Instant, operation: Operation, body: String) -> Action {
        self.next_id += 1;
        self.under_way.insert(self.next_id, (operation, now));
        Action::Ask { id: self.next_id, operation, body }
    }

    fn get(&mut self, now: Instant) -> Action {
        (self.get_due, self.is_put_off, self.told) = (None, false, 0);
        self.ask(now, Operation::Get, " ".to_owned())
    }

    /// The whole twin came.
    fn read(&mut self, now: Instant, body: &[u8]) -> Vec<Action> {
        let twin = serde_json::from_slice::<Value>(body);
        let desired = twin.ok().and_then(|mut twin| match twin.get_mut("desired")?.take() {
            Value::Object(desired) => Some(desired),
            _ => None,
        });
        let Some(mut properties) = desired else {
            self.read_failed(now, false, "the twin has no desired properties that can be read");
            return Vec::new();
        };
        let version = version_of(&properties).unwrap_or(0);
        if self.told > version {
            // A change was quicker than the answer, which is old by now.
            return vec![self.get(now)];
        }
        properties.retain(|key, _| !key.starts_with('$'));
        self.get_due = Some(now + self.refresh_every);
        self.backoff.reset();
        let same = self
            .known
            .as_ref()
            .is_some_and(|known| known.version == version && known.properties == properties);
        // Without comparing versions: a module that was made anew begins again at 1.
        self.known = Some(Known { properties, version });
        let wanted = std::mem::take(&mut self.wanted);
        if same && !wanted { Vec::new() } else { self.hand_out(now) }
    }

    fn read_failed(&mut self, now: Instant, throttled: bool, why: &str) {
        let wait = self.backoff.next_wait();
        let wait = if throttled { wait.max(THROTTLED_AFTER) } else { wait };
        (self.get_due, self.is_put_off) = (Some(now + wait), true);
        tracing::warn!(%why, ?wait, "the twin was not read; the configuration in force stays");
    }

    fn hand_out(&mut self, now: Instant) -> Vec<Action> {
        let Some(known) = &self.known else { return Vec::new() };
        let mut shown = known.properties.clone();
        shown.insert("$version".to_owned(), known.version.into());
        let (empty, text) = (known.properties.is_empty(), Value::Object(shown).to_string());
        if text.len() > DESIRED_BYTES_MAX {
            self.known = None;
            self.read_failed(now, false, "desired properties are larger than a hub allows");
            return Vec::new();
        }
        vec![Action::Desired(DesiredDocument { text, version: known.version, empty })]
    }
}

fn version_of(properties: &Map<String, Value>) -> Option<u64> {
    properties.get("$version").and_then(Value::as_u64)
}

/// Objects are merged, null deletes, all else is replaced whole; what the hub says of the properties is left out.
fn merge(into: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, value) in patch.into_iter().filter(|(key, _)| !key.starts_with('$')) {
        merge_one(into, key, value);
    }
}

fn merge_one(into: &mut Map<String, Value>, key: String, value: Value) {
    match value {
        Value::Null => {
            into.remove(&key);
        }
        Value::Object(patch) => {
            let at = into.entry(key).or_insert(Value::Null);
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            if let Value::Object(at) = at {
                patch.into_iter().for_each(|(key, value)| merge_one(at, key, value));
            }
        }
        other => {
            into.insert(key, other);
        }
    }
}

/// 408, 429 and 5xx pass by themselves (B6); the rest is our own doing.
fn refusal(answer: &Answer) -> ReportError {
    match answer.status {
        429 => ReportError::Busy { after: Some(THROTTLED_AFTER), detail: words(answer) },
        408 | 500.. => ReportError::Busy { after: None, detail: words(answer) },
        _ => ReportError::Refused(words(answer)),
    }
}

/// Status and the beginning of what the hub says.
fn words(answer: &Answer) -> String {
    let text: String = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
    format!("status {} {text}", answer.status).trim_end().to_owned()
}
