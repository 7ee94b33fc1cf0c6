//! What the store took out of its queues without its readers having settled it. Owns: [`Removed`], and the bounded
//! way out ([`Teller`]). Must not know: who is told.

use std::ops::Range;

use tokio::sync::mpsc;

use super::id::{Offset, QueueId};

/// Why records were removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovedWhy {
    /// Their time to live was over.
    Expired,
    /// There was no room, and the policy is [`super::WhenFull::DropOldest`].
    Budget,
    /// The queue is a [`super::Ring`] and had reached its size.
    Ring,
    /// They cannot be read back: the medium returned damaged bytes or refused.
    Unreadable,
}

impl RemovedWhy {
    /// The label of counters.
    pub fn label(self) -> &'static str {
        match self {
            Self::Expired => "ttl_expiry",
            Self::Budget => "store_full",
            Self::Ring => "ring",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Records that are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// From where.
    pub queue: QueueId,
    /// Which places.
    pub offsets: Range<Offset>,
    /// How many of them held a record that was not settled.
    pub records: u64,
    /// Of these, so many had been taken over by a reader, which counts what becomes of each (some may get through).
    pub with_reader: u64,
    /// Their payloads' bytes, about.
    pub payload_bytes: u64,
    /// Why.
    pub why: RemovedWhy,
}

/// How many wait to be heard, at most.
const UNHEARD_MAX: usize = 1024;

/// Tells of what was removed. Never waits: what finds no room is in the counters all the same.
pub(super) struct Teller(mpsc::Sender<Removed>);

impl Teller {
    /// A teller, and who hears it.
    pub(super) fn new() -> (Self, mpsc::Receiver<Removed>) {
        let (to, heard) = mpsc::channel(UNHEARD_MAX);
        (Self(to), heard)
    }

    /// Tells of `removed`.
    pub(super) fn tell(&self, removed: Removed) {
        if let Err(mpsc::error::TrySendError::Full(removed)) = self.0.try_send(removed) {
            tracing::warn!(queue = %removed.queue, "nobody hears of what is removed fast enough; see the store's counters");
        }
    }
}
