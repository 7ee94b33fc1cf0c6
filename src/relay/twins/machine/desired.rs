//! Changes of the desired properties: taken in the order of their versions, told to who subscribed.

use std::time::Instant;

use super::super::kept::{section, to_bytes};
use super::super::merge::{Object, apply, difference};
use super::{Action, Machine};

impl Machine {
    /// The hub tells a patch with its `$version`.
    pub(in super::super) fn desired(&mut self, body: &[u8], now: Instant) {
        let Some((patch, version)) = serde_json::from_slice(body).ok().and_then(section) else {
            self.counted("twin_desired", "malformed");
            return self.memory.missed(now);
        };
        if !self.draft.known {
            // Nothing to merge it into; a client that knows more than we do can use it if it comes next.
            return match self.memory.seat.and_then(|seat| seat.told) {
                Some(told) if version <= told => self.counted("twin_desired", "old"),
                Some(told) if version > told + 1 => self.memory.missed(now),
                _ => self.tell(&patch, version),
            };
        }
        let have = self.draft.desired_version;
        if version <= have {
            self.counted("twin_desired", "old");
        } else if version == have + 1 {
            let draft = self.change();
            apply(&mut draft.desired, &patch);
            draft.desired_version = version;
            self.tell(&patch, version);
        } else {
            self.counted("twin_desired", "gap");
            self.memory.missed(now);
        }
    }

    /// Takes the whole of the desired properties; a client that had an older one is told what changed, as one patch.
    pub(super) fn desired_whole(&mut self, new: Object, version: u64) {
        let had = self.draft.desired_version;
        if self.draft.known && version == had {
            return self.remember_told(version);
        }
        let draft = self.change();
        let old = std::mem::replace(&mut draft.desired, new);
        draft.desired_version = version;
        let Some(told) = self.memory.seat.and_then(|seat| seat.told) else {
            return self.remember_told(version);
        };
        if told == version {
            return;
        }
        if told != had {
            // What it has could not be kept, so what changed since cannot be told: it is to connect and ask again.
            let Some(serial) = self.memory.seat.map(|seat| seat.serial) else { return };
            let detail = "the desired properties that it has are not known any more".to_owned();
            return self.actions.push(Action::Close { serial, detail });
        }
        let patch = difference(&old, &self.draft.desired);
        self.tell(&patch, version);
    }

    /// A client that was told nothing yet needs no more than the changes after this version.
    fn remember_told(&mut self, version: u64) {
        if let Some(seat) = self.memory.seat.as_mut().filter(|seat| seat.subscribed) {
            seat.told.get_or_insert(version);
        }
    }

    fn tell(&mut self, patch: &Object, version: u64) {
        let Some(seat) = &mut self.memory.seat else { return };
        if !seat.subscribed {
            // As the hub: what it did not want to hear is not told later.
            seat.told = None;
            return;
        }
        if seat.told.is_some_and(|told| told >= version) {
            // It has it, though the disk does not.
            return;
        }
        seat.told = Some(version);
        let serial = seat.serial;
        let mut body = patch.clone();
        body.insert("$version".to_owned(), version.into());
        self.actions.push(Action::Tell { serial, version, body: to_bytes(&body) });
    }
}
