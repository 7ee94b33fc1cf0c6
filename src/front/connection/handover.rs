//! The way of a connection's messages into the store, and of their receipts back.
//!
//! Owns: messages that the store has not taken yet, and the mailbox of receipts. Invariants: messages are handed over
//! in the order in which they came; after one was refused none follows, so that what the device sends again comes in
//! order. Must not know: packets.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use crate::store::{Append, AppendChain, AppendError, Appender, Receipt, ReceiptTo};

/// Bytes of messages that the store has not taken yet, above which a connection takes no more packets. It bounds what
/// a connection holds outside the store's own byte budget: this and one packet.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// Receipts that are taken at a time.
const RECEIPTS_MAX: usize = 32;

/// What came back.
pub(super) enum Step {
    /// The store took what was handed over, or not.
    Taken(Result<(), AppendError>),
    /// [Receipts](HandOver::receipts) are there.
    Receipts,
}

/// A connection's side of the store.
pub(super) struct HandOver {
    appender: Appender,
    /// Not handed over yet, in order.
    waiting: Vec<Append>,
    waiting_bytes: usize,
    /// Being handed over, in order: waits for the store's byte budget.
    handing: Option<BoxFuture<'static, Result<(), AppendError>>>,
    handing_bytes: usize,
    to: mpsc::Sender<Receipt>,
    mailbox: mpsc::Receiver<Receipt>,
    /// Came and not looked at yet, in order.
    received: Vec<Receipt>,
    /// Lets the store's writer keep nothing that follows a refused message of this connection.
    chain: Arc<AppendChain>,
    /// Appends that were handed over and whose receipts are still to come.
    in_store: usize,
    refused: bool,
}

impl HandOver {
    /// For at most `inflight_max` messages at a time, and a will.
    pub(super) fn new(appender: Appender, inflight_max: usize) -> Self {
        // Room for a receipt of each, so that the store's writer never finds the mailbox full.
        let (to, mailbox) = mpsc::channel(inflight_max + 1);
        Self {
            appender,
            waiting: Vec::new(),
            waiting_bytes: 0,
            handing: None,
            handing_bytes: 0,
            to,
            mailbox,
            received: Vec::new(),
            chain: AppendChain::new(),
            in_store: 0,
            refused: false,
        }
    }

    /// Where the receipt of the message `tag` goes.
    pub(super) fn receipt_to(&self, tag: u64) -> ReceiptTo {
        ReceiptTo::new(tag, self.to.clone(), &self.chain)
    }

    /// Takes a message; it is on its way from the next [`HandOver::step`] on.
    pub(super) fn push(&mut self, append: Append) {
        self.waiting_bytes += append.payload.len();
        self.waiting.push(append);
    }

    /// Whether more messages may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.waiting_bytes + self.handing_bytes < HELD_BYTES_MAX
    }

    /// Whether nothing is on its way, in either direction.
    pub(super) fn is_idle(&self) -> bool {
        self.in_store == 0 && self.handing.is_none() && self.waiting.is_empty()
    }

    /// Hands on, and waits for what comes back. Never resolves while there is nothing to wait for. May be dropped.
    pub(super) async fn step(&mut self) -> Step {
        self.start();
        let nothing_to_wait_for = self.in_store == 0 && self.handing.is_none();
        let handing = &mut self.handing;
        tokio::select! {
            taken = async { handing.as_mut().expect("guarded").await }, if handing.is_some() => {
                self.handing = None;
                self.handing_bytes = 0;
                self.refused |= taken.is_err();
                Step::Taken(taken)
            }
            count = self.mailbox.recv_many(&mut self.received, RECEIPTS_MAX), if self.in_store > 0 => {
                assert!(count > 0, "we hold a sender");
                self.in_store = self.in_store.saturating_sub(count);
                self.refused |= self.received.iter().any(|receipt| receipt.result.is_err());
                Step::Receipts
            }
            () = std::future::pending(), if nothing_to_wait_for => {
                unreachable!("pending for ever")
            }
        }
    }

    /// What [`Step::Receipts`] told of, in order. Not by `try_recv`: that may put the thread to sleep while the writer is
    /// about to leave a receipt.
    pub(super) fn receipts(&mut self) -> Vec<Receipt> {
        std::mem::take(&mut self.received)
    }

    /// Gives the memory of [`HandOver::receipts`] back for the next ones.
    pub(super) fn reuse(&mut self, mut receipts: Vec<Receipt>) {
        receipts.clear();
        self.received = receipts;
    }

    /// Hands on what the store takes at once; the rest waits for its byte budget in [`HandOver::step`].
    pub(super) fn start(&mut self) {
        if self.handing.is_some() || self.waiting.is_empty() || self.refused {
            return;
        }
        let count = self.waiting.len();
        if self.appender.try_append_all(&mut self.waiting) {
            self.in_store += count;
            self.waiting_bytes = 0;
            return;
        }
        let batch = std::mem::take(&mut self.waiting);
        self.handing_bytes = std::mem::take(&mut self.waiting_bytes);
        self.in_store += batch.len();
        let appender = self.appender.clone();
        self.handing = Some(Box::pin(async move {
            for append in batch {
                appender.append(append).await?;
            }
            Ok(())
        }));
    }

    /// Takes back whatever the store has not begun to write; its place in the line for the byte budget is given up.
    pub(super) fn revoke(&mut self) {
        self.chain.break_();
        self.handing = None;
        self.waiting.clear();
        (self.handing_bytes, self.waiting_bytes) = (0, 0);
    }

    /// Hands over the rest, in order, without waiting for receipts: a QoS 0 message or a will has nobody to send it
    /// again. Nothing after a refusal.
    pub(super) async fn finish(&mut self) -> Result<(), AppendError> {
        loop {
            self.start();
            match self.handing.as_mut() {
                Some(handing) => {
                    let taken = handing.await;
                    self.handing = None;
                    self.refused |= taken.is_err();
                    taken?;
                }
                None if self.waiting.is_empty() => return Ok(()),
                // It was refused before.
                None => return Err(AppendError::Full),
            }
        }
    }
}
