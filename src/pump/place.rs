//! A message that is under way between queues and endpoint, and where it is kept.
//!
//! Owns: [`Place`], [`Item`]. Must not know: lanes, the window.

use std::hash::Hasher;
use std::time::Instant;

use bytes::Bytes;

use super::log::Entry;
use crate::message::Message;
use crate::store::{Offset, Record, StoreMillis};

/// Where a message is kept, and what it takes to keep it elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) offset: Offset,
    pub(super) stored: Bytes,
    pub(super) since: StoreMillis,
    pub(super) ttl_secs: u32,
    pub(super) expires: Option<Instant>,
}

impl From<Record> for Place {
    fn from(r: Record) -> Self {
        let Record { offset, payload, stored: since, ttl_secs, expires } = r;
        Self { offset, stored: payload, since, ttl_secs, expires }
    }
}

impl Place {
    /// Its time to live is over.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// Tells the message from the others of its sender, wherever it is stored.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(&self.stored);
        hasher.finish()
    }

    /// The same record for another queue: its age keeps counting from when it was stored first.
    pub(super) fn entry(&self) -> Entry {
        Entry { payload: self.stored.clone(), since: Some(self.since), ttl_secs: self.ttl_secs }
    }
}

/// A message and its place.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) place: Place,
    pub(super) message: Message,
}
