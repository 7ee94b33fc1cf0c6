//! What clients ask: their twin, and patches of it.

use std::time::Instant;

use bytes::Bytes;

use super::super::kept::to_bytes;
use super::super::limits::{self, Refused};
use super::super::merge::{apply, object_bytes};
use super::{Action, Ask, Get, Machine, OfflineGet, Patch};

/// Most bytes of JSON that may be pending: patches that delete can go on for ever while the hub is away.
const PENDING_BYTES_MAX: usize = 256 * 1024;

/// An answer that waits until what it tells is durable.
#[derive(Debug)]
pub(super) enum Answer {
    /// The twin; told whatever becomes of the document.
    Twin(Get),
    /// The patch is taken under this version.
    Taken { serial: u64, at: Instant, tag: Option<u64>, rid: Option<Box<str>>, version: u64 },
}

impl Machine {
    pub(in super::super) fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Get(get) if self.online => self.readers.push(get),
            // The hub may be there in a moment.
            Ask::Get(get) if self.is_starting && !self.draft.known => self.readers.push(get),
            Ask::Get(get) => self.after_keep_or_now(Answer::Twin(get)),
            // The version that it is to be told follows the hub's.
            Ask::Patch(patch) if !self.held.is_empty() || self.wants_first_read() => {
                self.held.push_back(patch);
            }
            Ask::Patch(patch) => self.patch(patch),
        }
    }

    fn wants_first_read(&self) -> bool {
        let is_tried = self.memory.read_failures > 0 && self.reading.is_none();
        self.online && !self.draft.known && !is_tried
    }

    fn patch(&mut self, patch: Patch) {
        let Patch { serial, at, tag, rid, version, body } = patch;
        match self.accept(version, &body) {
            Ok(version) => self.after_keep.push(Answer::Taken { serial, at, tag, rid, version }),
            Err(Refused { status, label, words }) => {
                self.counted("twin_patch", label);
                if status >= 500 {
                    return self.not_taken(serial, tag, rid, status, &words);
                }
                self.respond(serial, rid, status, None, error_body(status, &words));
                self.acknowledge(serial, tag);
            }
        }
    }

    fn accept(&mut self, expected: Option<u64>, body: &[u8]) -> Result<u64, Refused> {
        let patch = limits::check_patch(body)?;
        let version = self.draft.reported_version.max(self.memory.floor);
        if let Some(expected) = expected.filter(|expected| *expected != version) {
            let words = format!("the reported properties have version {version}, not {expected}");
            return Err(Refused { status: 412, label: "version", words });
        }
        let mut reported = self.draft.reported.clone();
        apply(&mut reported, &patch);
        // As the hub: what makes an overlong document shorter is taken.
        if let Err(refused) = limits::check_document(&reported)
            && limits::document_bytes(&reported) > limits::document_bytes(&self.draft.reported)
        {
            return Err(refused);
        }
        let mut pending = self.draft.pending.clone();
        pending.lay(&patch);
        if object_bytes(&pending.patch) + object_bytes(&pending.clear) > PENDING_BYTES_MAX {
            let words = "too much waits for the hub".to_owned();
            return Err(Refused { status: 503, label: "pending_full", words });
        }
        if self.push.is_some() {
            // Before the draft is changed, for `change` remembers it as it was.
            self.change();
            self.newer.lay(&patch);
        }
        let draft = self.change();
        draft.reported = reported;
        draft.reported_version = version + 1;
        draft.pending = pending;
        self.accepted.push((to_bytes(&patch), version + 1));
        Ok(version + 1)
    }

    pub(super) fn after_keep_or_now(&mut self, answer: Answer) {
        if self.saved.is_some() {
            self.after_keep.push(answer);
        } else {
            self.answer(answer, &Ok(()));
        }
    }

    pub(super) fn answer(&mut self, answer: Answer, kept: &Result<(), String>) {
        match (answer, kept) {
            (Answer::Twin(get), _) => self.tell_twin(get),
            (Answer::Taken { serial, at, tag, rid, version }, Ok(())) => {
                self.actions.push(Action::Taken(at));
                self.memory.floor = self.memory.floor.max(version);
                self.respond(serial, rid, 204, Some(version), Bytes::new());
                self.acknowledge(serial, tag);
            }
            (Answer::Taken { serial, tag, rid, .. }, Err(words)) => {
                self.counted("twin_patch", "not_kept");
                self.not_taken(serial, tag, rid, 500, words);
            }
        }
    }

    /// The client is to send it again: whoever waits for a PUBACK does so after a reconnect.
    fn not_taken(
        &mut self,
        serial: u64,
        tag: Option<u64>,
        rid: Option<Box<str>>,
        status: u16,
        words: &str,
    ) {
        self.respond(serial, rid, status, None, error_body(status, words));
        if tag.is_some() {
            self.actions.push(Action::Close { serial, detail: words.to_owned() });
        }
    }

    fn tell_twin(&mut self, Get { serial, rid, at }: Get) {
        self.actions.push(Action::Got(at));
        if !self.draft.known && self.config.offline_get == OfflineGet::Unavailable {
            self.counted("twin_get", "unavailable");
            let words = "the hub cannot be reached, and nothing is kept of this twin";
            return self.respond(serial, Some(rid), 503, None, error_body(503, words));
        }
        let told = self.memory.seat.filter(|seat| seat.serial == serial).and_then(|seat| seat.told);
        if told.is_some_and(|told| told > self.draft.desired_version) {
            self.counted("twin_get", "lagging");
            let words = "the hub cannot be reached, and what it told last could not be kept";
            return self.respond(serial, Some(rid), 503, None, error_body(503, words));
        }
        if !self.draft.known {
            self.counted("twin_get", "empty");
        }
        let version = self.draft.reported_version.max(self.memory.floor);
        self.memory.floor = version;
        self.draft.reported_version = version;
        // Also of an empty twin that stands for one that nobody knows: once the hub tells it, all of it is news.
        if let Some(seat) = self.memory.seat.as_mut().filter(|seat| seat.serial == serial) {
            seat.told = Some(self.draft.desired_version);
        }
        let body = self.draft.body();
        self.respond(serial, Some(rid), 200, None, body);
    }

    fn respond(
        &mut self,
        serial: u64,
        rid: Option<Box<str>>,
        status: u16,
        version: Option<u64>,
        body: Bytes,
    ) {
        if let Some(rid) = rid {
            self.actions.push(Action::Answer { serial, status, rid, version, body });
        }
    }

    fn acknowledge(&mut self, serial: u64, tag: Option<u64>) {
        if let Some(tag) = tag {
            self.actions.push(Action::Acknowledge { serial, tag });
        }
    }

    /// Patches that waited for a read go on, whatever became of it.
    pub(super) fn let_held_go(&mut self) {
        while let Some(patch) = self.held.pop_front() {
            self.patch(patch);
        }
    }
}

/// As the hub's own.
fn error_body(status: u16, words: &str) -> Bytes {
    let code = u32::from(status) * 1000;
    let body = serde_json::json!({"errorCode": code, "message": words});
    body.to_string().into()
}
