//! The other direction: what a connected client is sent, and whom the connection tells what its client asks for.
//!
//! ```text
//!  relay, inputs --[Letter]--> [Mailbox] --> connection --> session::Outbound --> PUBLISH ==> client
//!                  Handed <----------------- PUBACK, or the end of the connection
//!  client ==> PUBLISH, SUBSCRIBE --> session --> connection --> [Relay]: never blocks
//! ```
//!
//! Owns: the words of that way ([`Letter`], [`Handed`], [`Client`]) and the seam [`Relay`]. Invariants: everything is bounded;
//! a letter whose sender waits hears one [`Handed`], or finds its receiver closed when the connection ended before; a mailbox
//! that is empty takes next to no memory (thousands are).
//! Must not know: what is upstream, what a twin is.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::identity::Identity;
use crate::session::{Outbound, Subscriptions, TwinRequest};

/// Letters that wait in a mailbox.
pub const MAILBOX_MAX: usize = 32;

/// Where letters for one connection go: bounded, closed when the connection has ended. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Mailbox(Arc<Mutex<Slot>>);

/// The connection's end of its mailbox; dropping it closes the mailbox and drops the letters in it.
#[derive(Debug)]
pub struct Letters(Arc<Mutex<Slot>>);

/// Not a channel of tokio's: each of those keeps room for 32 letters from the start.
#[derive(Debug, Default)]
struct Slot {
    letters: VecDeque<Letter>,
    is_closed: bool,
    /// Of the connection, while it waits for a letter.
    waker: Option<Waker>,
    /// Of those who wait for room; boxed, as mostly nobody does.
    #[allow(
        clippy::box_collection,
        reason = "a vector alone is three words in thousands of mailboxes"
    )]
    senders: Option<Box<Vec<Waker>>>,
}

/// A letter that was not taken.
#[derive(Debug)]
pub enum Unsent {
    /// [`MAILBOX_MAX`] letters wait: the client does not read, or too much comes for it.
    Full(Letter),
    /// The connection has ended.
    Closed(Letter),
}

/// The connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// A mailbox, and the connection's end of it.
pub fn mailbox() -> (Mailbox, Letters) {
    let slot = Arc::new(Mutex::new(Slot::default()));
    (Mailbox(Arc::clone(&slot)), Letters(slot))
}

impl Mailbox {
    /// Puts `letter` in, behind those that are there.
    ///
    /// # Errors
    /// [`Unsent`], with the letter.
    #[allow(clippy::result_large_err, reason = "the letter goes back whole")]
    pub fn try_send(&self, letter: Letter) -> Result<(), Unsent> {
        let mut slot = lock(&self.0);
        if slot.is_closed {
            return Err(Unsent::Closed(letter));
        }
        if slot.letters.len() >= MAILBOX_MAX {
            return Err(Unsent::Full(letter));
        }
        slot.letters.push_back(letter);
        let waker = slot.waker.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// The same, when there is room. May be dropped: then nothing was put in.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn send(&self, letter: Letter) -> Result<(), Closed> {
        let mut letter = Some(letter);
        std::future::poll_fn(|cx| {
            let taken = letter.take().expect("not polled after it was taken");
            match self.try_send(taken) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(Unsent::Closed(_)) => return Poll::Ready(Err(Closed)),
                Err(Unsent::Full(back)) => letter = Some(back),
            }
            let mut slot = lock(&self.0);
            if slot.is_closed || slot.letters.len() < MAILBOX_MAX {
                // It changed between the two looks.
                cx.waker().wake_by_ref();
            } else {
                let senders = slot.senders.get_or_insert_default();
                if !senders.iter().any(|known| known.will_wake(cx.waker())) {
                    senders.push(cx.waker().clone());
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        lock(&self.0).is_closed
    }
}

impl Letters {
    /// Ready when there is a letter.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut slot = lock(&self.0);
        if !slot.letters.is_empty() {
            return Poll::Ready(());
        }
        match &mut slot.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// The oldest letter, if there is one.
    pub fn try_recv(&mut self) -> Option<Letter> {
        let mut slot = lock(&self.0);
        let letter = slot.letters.pop_front();
        if slot.letters.is_empty() {
            slot.letters = VecDeque::new();
        }
        let senders = std::mem::take(&mut slot.senders);
        drop(slot);
        senders.into_iter().flat_map(|senders| *senders).for_each(Waker::wake);
        letter
    }
}

impl Drop for Letters {
    fn drop(&mut self) {
        let mut slot = lock(&self.0);
        slot.is_closed = true;
        let letters = std::mem::take(&mut slot.letters);
        slot.waker = None;
        let senders = std::mem::take(&mut slot.senders);
        drop(slot);
        senders.into_iter().flat_map(|senders| *senders).for_each(Waker::wake);
        // Their senders are woken without the lock.
        drop(letters);
    }
}

fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    // A panic while the lock is held cannot leave it half changed: each change is one call.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is put into a mailbox.
#[derive(Debug)]
pub enum Letter {
    /// Send this to the client.
    Send {
        /// What.
        content: Outbound,
        /// Hears what came of it; dropped without a word when the connection ended first.
        handed: Option<oneshot::Sender<Handed>>,
    },
    /// The twin patch with this tag is kept, or was answered for good (400, 412, ..): its PUBACK may leave (see
    /// [`TwinRequest::Patch`]). Each patch that has a tag needs this letter: later PUBACKs wait for this one, and a connection
    /// whose PUBACK does not come ends.
    Kept {
        /// The session's tag.
        tag: u64,
    },
    /// End the connection, for the relay could not keep what the client sent.
    Close {
        /// For the counter.
        label: &'static str,
        /// For the log.
        detail: String,
    },
}

/// What came of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// The client has acknowledged it (QoS 1).
    Acknowledged,
    /// Written; the client subscribed with QoS 0, so nothing more will be heard.
    Written,
    /// The client has no subscription that it could come by.
    NotSubscribed,
    /// Too many wait for the client's acknowledgement.
    Full,
    /// No MQTT topic can say it (longer than 65,535 bytes, a wildcard in a name): it never will be sent.
    Unsendable,
}

/// A connected client.
#[derive(Debug, Clone)]
pub struct Client {
    /// Who.
    pub identity: Identity,
    /// Another one for another connection of the same identity; a later connection has a higher one.
    pub serial: u64,
    /// The way to it.
    pub mailbox: Mailbox,
    /// `model-id` of its CONNECT.
    pub model_id: Option<Box<str>>,
    /// `DeviceClientType` of its CONNECT: whose product the hub is told.
    pub product_info: Option<Box<str>>,
}

/// The client's answer to a direct method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodResponse {
    /// Request id, verbatim.
    pub rid: Box<str>,
    /// The client's status.
    pub status: i32,
    /// The client's answer, untouched.
    pub body: Bytes,
}

/// Too many requests of this client wait: it is answered 429. A patch at QoS 1 that cannot be answered is not acknowledged: the
/// connection ends, and the client sends it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

/// Carries on what clients ask for besides telemetry. No call blocks; all calls for one connection come in order, from
/// [`Relay::arrived`] to [`Relay::left`].
pub trait Relay: Send + Sync + 'static {
    /// A client has taken its seat; `subscriptions` are those that an earlier session left, if any.
    fn arrived(&self, client: Client, subscriptions: Subscriptions);
    /// The client has these subscriptions now, and no others.
    fn subscribed(&self, who: &Identity, serial: u64, subscriptions: Subscriptions);
    /// The client asks for its twin or patches it. Answers come as letters.
    ///
    /// # Errors
    /// [`TooMany`]: nothing was taken.
    fn asked(&self, who: &Identity, serial: u64, request: TwinRequest) -> Result<(), TooMany>;
    /// The client answers a method; false when nobody waits for that (late, twice, never asked).
    fn answered(&self, who: &Identity, serial: u64, response: MethodResponse) -> bool;
    /// The connection has ended.
    fn left(&self, who: &Identity, serial: u64);
}

/// Carries on nothing: each request is too many. For tests of the front end alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRelay;

impl Relay for NoRelay {
    fn arrived(&self, _: Client, _: Subscriptions) {}

    fn subscribed(&self, _: &Identity, _: u64, _: Subscriptions) {}

    fn asked(&self, _: &Identity, _: u64, _: TwinRequest) -> Result<(), TooMany> {
        Err(TooMany)
    }

    fn answered(&self, _: &Identity, _: u64, _: MethodResponse) -> bool {
        false
    }

    fn left(&self, _: &Identity, _: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(tag: u64) -> Letter {
        Letter::Kept { tag }
    }

    fn tag(letter: Option<Letter>) -> Option<u64> {
        match letter? {
            Letter::Kept { tag } => Some(tag),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn letters_come_in_order_and_are_bounded() {
        let (mailbox, mut letters) = mailbox();
        let max = MAILBOX_MAX as u64;
        for n in 0..max {
            mailbox.clone().try_send(kept(n)).unwrap();
        }
        let refused = mailbox.try_send(kept(max)).unwrap_err();
        assert!(matches!(refused, Unsent::Full(Letter::Kept { tag }) if tag == max), "{refused:?}");
        assert_eq!(tag(letters.try_recv()), Some(0));
        mailbox.try_send(kept(max)).unwrap();
        for n in 1..=max {
            assert_eq!(tag(letters.try_recv()), Some(n));
        }
        assert_eq!(tag(letters.try_recv()), None);
    }

    #[test]
    fn the_end_of_a_connection_is_told_to_all_who_wait() {
        let (mailbox, letters) = mailbox();
        let (handed, mut told) = oneshot::channel();
        let content = Outbound::Desired { version: 1, body: Bytes::new() };
        mailbox.try_send(Letter::Send { content, handed: Some(handed) }).unwrap();
        assert!(!mailbox.is_closed());
        drop(letters);
        assert_eq!(told.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(mailbox.is_closed());
        assert!(matches!(mailbox.try_send(kept(1)), Err(Unsent::Closed(Letter::Kept { tag: 1 }))));
    }

    #[tokio::test]
    async fn a_letter_wakes_who_waits_for_it() {
        let (mailbox, mut letters) = mailbox();
        let sending = async {
            tokio::task::yield_now().await;
            mailbox.try_send(kept(7)).unwrap();
        };
        tokio::join!(std::future::poll_fn(|cx| letters.poll_ready(cx)), sending);
        assert_eq!(tag(letters.try_recv()), Some(7));
    }

    /// Thousands of connections wait with an empty one.
    #[test]
    fn an_empty_mailbox_is_small() {
        assert!(size_of::<Mutex<Slot>>() <= 80, "{}", size_of::<Mutex<Slot>>());
    }
}
