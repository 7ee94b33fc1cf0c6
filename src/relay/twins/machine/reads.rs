//! Reads of the whole twin: when, and what becomes of the answer.

use std::time::Instant;

use bytes::Bytes;

use super::super::kept::Told;
use super::super::merge::{Object, Pending};
use super::asks::Answer;
use super::{Action, Get, Machine};
use crate::upstream::downlinks::CloudError;

/// The read under way.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) begun: Instant,
    /// Clients that see its result.
    pub(super) waiters: Vec<Get>,
    /// Version of desired properties that we had when it was begun.
    desired_before: u64,
    /// What the hub took since: the answer may be older.
    pub(super) since: Pending,
}

impl Machine {
    pub(super) fn begin_read(&mut self, now: Instant) {
        let asked = !self.readers.is_empty() || !self.held.is_empty();
        let due = self.memory.read_at.is_some_and(|at| at <= now);
        if self.reading.is_some() || !(asked || due) {
            return;
        }
        self.memory.read_at = None;
        self.memory.last_read = Some(now);
        let waiters = std::mem::take(&mut self.readers);
        let desired_before = self.draft.desired_version;
        self.reading =
            Some(Reading { begun: now, waiters, desired_before, since: Pending::default() });
        self.actions.push(Action::Read { asked });
    }

    /// The hub's answer.
    pub(in super::super) fn read(&mut self, result: Result<Bytes, CloudError>, now: Instant) {
        let Some(Reading { waiters, desired_before, since, .. }) = self.reading.take() else {
            return;
        };
        let failed = match result.map(|bytes| Told::read(&bytes)) {
            Ok(Some(told)) => {
                self.take(told, desired_before, &since);
                None
            }
            Ok(None) => Some("malformed"),
            Err(CloudError::Offline) => Some("offline"),
            Err(CloudError::Lost(_)) => Some("lost"),
            Err(CloudError::Busy { .. }) => Some("busy"),
            Err(CloudError::Refused { .. }) => Some("refused"),
            Err(CloudError::Unauthenticated(_)) => Some("unauthenticated"),
        };
        match failed {
            None => self.memory.read_failures = 0,
            Some(reason) => {
                self.counted("twin_read", reason);
                self.memory.read_failures += 1;
                // Whoever asked asks again; what we wanted ourselves, we try again.
                if self.behind || self.memory.seat.is_some_and(|seat| seat.subscribed) {
                    self.memory.missed(now);
                }
            }
        }
        for get in waiters {
            self.after_keep_or_now(Answer::Twin(get));
        }
        self.let_held_go();
    }

    fn take(&mut self, told: Told, desired_before: u64, since: &Pending) {
        let have = self.draft.desired_version;
        if self.draft.known && told.desired_version < have {
            // Older than what we have: it was overtaken by a patch, or its source lags. Where nobody can tell lives of an
            // identity apart, a read that was begun later and brings less is another life.
            if self.life_known || told.desired_version >= desired_before {
                return self.counted("twin_read", "older");
            }
            self.counted("twin_read", "begun_anew");
            if let Some(told) = self.memory.seat.as_mut().and_then(|seat| seat.told.as_mut()) {
                // Nothing of this life.
                *told = 0;
            }
        }
        let mut reported = told.reported;
        since.apply_to(&mut reported);
        let without_us = reported.clone();
        self.draft.pending.apply_to(&mut reported);
        let version = told.reported_version.max(self.draft.reported_version);
        self.desired_whole(told.desired, told.desired_version);
        let draft = &self.draft;
        let is_news = draft.reported != reported || draft.reported_version != version;
        if is_news || !draft.known || self.behind {
            let draft = self.change();
            draft.known = true;
            draft.reported = reported;
            draft.reported_version = version;
        }
        self.in_force(without_us);
    }

    /// What the hub tells of a twin that the disk knows nothing of counts whether or not it can be kept: a client that the hub
    /// has answered must not be told that there is nothing.
    fn in_force(&mut self, mut reported: Object) {
        let Some((saved, _)) = self.saved.as_mut().filter(|(saved, _)| !saved.known) else {
            return;
        };
        saved.pending.apply_to(&mut reported);
        saved.known = true;
        saved.reported = reported;
        saved.reported_version = self.draft.reported_version.max(saved.reported_version);
        saved.desired.clone_from(&self.draft.desired);
        saved.desired_version = self.draft.desired_version;
    }
}
