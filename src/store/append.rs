//! What goes into the store, and what comes back.
//!
//! Owns: [`Append`], [`Receipt`], [`AppendChain`] and the token [`Durable`]. Invariant: outside tests a [`Durable`] is made in one place,
//! after `fdatasync` returned for every queue that the append names; whoever holds one may acknowledge.
//! Must not know: files.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::age::StoreMillis;
use super::id::QueueId;

/// Who needs the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendClass {
    /// A device: it keeps its message and sends it again. Refused while the volume has less than
    /// [`super::Config::reserve_bytes`].
    Ingress,
    /// The gateway itself, to get a message out of another queue's way: may use the volume up.
    Internal,
}

/// One message for one or more queues.
#[derive(Debug)]
pub struct Append {
    /// Where it goes; not empty. It is durable in all of them before the receipt says so.
    pub queues: Vec<AppendTo>,
    /// The bytes to keep, at most [`super::PAYLOAD_BYTES_MAX`]; opaque here.
    pub payload: Bytes,
    /// When it was stored first, for a record that moves from another queue: its age keeps counting. `None`: now.
    pub since: Option<StoreMillis>,
    /// Who needs the room.
    pub class: AppendClass,
    /// Whom to tell.
    pub receipt: ReceiptTo,
}

/// A queue that an append names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendTo {
    /// The queue; created if it is not there.
    pub queue: QueueId,
    /// Seconds to live in this queue; 0 = for ever.
    pub ttl_secs: u32,
}

/// Whom to tell, and by which word.
#[derive(Debug, Clone)]
pub struct ReceiptTo {
    /// The caller's own name for the append.
    pub tag: u64,
    /// Must have room for every append of this caller that is under way: the writer does not wait. A closed receiver
    /// is fine.
    pub to: mpsc::Sender<Receipt>,
    /// Shared by all appends of one caller: after the first one that is refused none is stored.
    pub chain: Arc<AppendChain>,
}

impl ReceiptTo {
    /// Tells `to`, by the word `tag`; the append is the next link of `chain`.
    pub fn new(tag: u64, to: mpsc::Sender<Receipt>, chain: &Arc<AppendChain>) -> Self {
        Self { tag, to, chain: Arc::clone(chain) }
    }

    pub(super) fn send(self, result: Result<(), AppendError>) {
        let tag = self.tag;
        let result = result.map(|()| Durable { tag });
        if let Err(mpsc::error::TrySendError::Full(_)) = self.to.try_send(Receipt { tag, result }) {
            // Safe, since an unacknowledged device sends again; but it is our defect.
            tracing::error!(
                tag,
                "a receipt found no room: its receiver is smaller than its window"
            );
            debug_assert!(false, "the receiver of receipts is smaller than its window");
        }
    }
}

/// Keeps one caller's appends in order although they are pipelined. Once one of them is refused, the store refuses all
/// that follow: else a message behind the hole would be stored now, and the one before it when it is sent again.
///
/// One per connection, or per call that appends several records. The writer thread alone looks at it, when it takes a
/// batch to the disk, so what is stored of a chain is a prefix of what was appended with it. A broken one stays broken.
/// ([`AppendError::TooLarge`] does not break it: the caller learns of that before it can append the next one.)
#[derive(Debug, Default)]
pub struct AppendChain(AtomicU8);

impl AppendChain {
    const WHOLE: u8 = 0;
    const FULL: u8 = 1;
    const REVOKED: u8 = 2;

    /// A whole one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Revokes what is not on its way to the disk yet: the store answers those appends with [`AppendError::Revoked`].
    /// For a connection that is displaced: whatever it still stores, it stores before anything that is appended later.
    pub fn break_(&self) {
        self.set(Self::REVOKED);
    }

    /// An append was refused for want of room.
    pub(super) fn refused(&self) {
        self.set(Self::FULL);
    }

    /// The first reason stays.
    fn set(&self, why: u8) {
        let _ = self.0.compare_exchange(Self::WHOLE, why, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Why it is broken, if it is.
    pub(super) fn broken(&self) -> Option<AppendError> {
        match self.0.load(Ordering::Acquire) {
            Self::WHOLE => None,
            Self::REVOKED => Some(AppendError::Revoked),
            _ => Some(AppendError::Full),
        }
    }
}

/// The answer to one [`Append`] that was accepted. Answers come in the order of the appends.
#[derive(Debug)]
pub struct Receipt {
    /// From [`ReceiptTo`].
    pub tag: u64,
    /// Whether the message is on disk.
    pub result: Result<Durable, AppendError>,
}

/// Proof that the message with this tag is on disk, in every queue it named. Cannot be copied or made elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub struct Durable {
    tag: u64,
}

impl Durable {
    /// From [`ReceiptTo`].
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// A token without a disk, for tests of those who need one.
    #[cfg(test)]
    pub fn for_test(tag: u64) -> Self {
        Self { tag }
    }
}

/// Why an append is not on disk. Nothing of it is kept: send it again or drop it on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No room on the volume (or the volume takes no writes just now). It may heal: later appends are tried, unless
    /// they are of the same [`AppendChain`].
    #[error(
        "the store has no room: its budget or its volume is used up; let the upstream drain the queues, raise the budget, or \
         free some space"
    )]
    Full,
    /// A write or sync failed: this process acknowledges nothing any more and must be restarted.
    #[error(
        "the store failed to write and takes nothing until the gateway is restarted; check the disk"
    )]
    Poisoned,
    /// The caller took it back: see [`AppendChain::break_`].
    #[error("the append was revoked before it was stored: a newer connection has taken over")]
    Revoked,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The payload is larger than [`super::PAYLOAD_BYTES_MAX`].
    #[error("the message has {0} bytes; the store takes {max}", max = super::PAYLOAD_BYTES_MAX)]
    TooLarge(usize),
}
