//! Handing messages to an endpoint, and what came of it.
//!
//! Owns: the trait [`Deliver`] (implemented by `upstream`, and by test doubles in the pump's tests) and [`Outcome`].
//! Must not know: queues, AMQP.

use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::identity::Identity;
use crate::message::Message;

/// What came of one delivery. One outcome answers the whole batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint has stored every message of the batch.
    Delivered,
    /// Not now, and only this sender is concerned: its lane waits (at least `after`, if given), others go on.
    Retry {
        /// The least wait that the endpoint asked for.
        after: Option<Duration>,
        /// Short label for counters and logs, e.g. `throttled`.
        reason: &'static str,
    },
    /// The endpoint as a whole is away: wait for [`Deliver::ready`]. Whether the batch arrived is not known.
    Offline,
    /// Refused for good. With more than one message in the batch the pump halves the batch until the bad one stands
    /// alone, so that one bad message does not take its neighbours along.
    Rejected {
        /// Short label for counters, e.g. `message-size-exceeded`.
        reason: &'static str,
        /// The endpoint's own words, for the log and the dead letter.
        detail: String,
    },
    /// The first `delivered` messages, one at least and not all, are as [`Outcome::Delivered`]; what became of the others is in
    /// `then`, which is no second `Partly`. For endpoints that learn of each message: so a batch that never gets through as a
    /// whole is not begun from its start for ever.
    Partly {
        /// How many.
        delivered: usize,
        /// Of the rest.
        then: Box<Outcome>,
    },
    /// The endpoint does not accept this sender (removed, disabled, not in scope). May heal when the scope changes.
    Unauthenticated {
        /// The endpoint's own words.
        detail: String,
    },
}

/// An endpoint that takes messages of many senders over a shared way.
///
/// Of one queue at most one delivery per sender is under way at a time (the caller sees to that), which is what keeps the
/// order. Several queues may each have one of the same sender under way (another priority, or live): the endpoint takes
/// them one after the other, whole.
pub trait Deliver: Send + Sync + 'static {
    /// Resolves when the endpoint can be tried: at once while it is up.
    fn ready(&self) -> BoxFuture<'_, ()>;

    /// Hands over `batch`, in order, all from `sender`. `batch` is not empty.
    fn deliver<'a>(&'a self, sender: &'a Identity, batch: &'a [Message]) -> BoxFuture<'a, Outcome>;
}
