//! The pump: drains one durable queue into an endpoint.
//!
//! ```text
//!              read, [ahead](refill) of the room                take a batch, round robin
//!  queue  ------------------------------------> [window] -> [lane a] ----------+
//!    ^                                             |        [lane b] ----------+--> Deliver::deliver
//!    |                                             |        [lane c] rests     |    (one per lane, up to lanes_max)
//!    |  settle(below): contiguous prefix           |                           |
//!    +---------------------------------------------+<------- finished ---------+
//!                                                  |
//!                          a lane that is stuck    v  append, receipt awaited, only then finished here
//!                                             side queue of that sender ---> drained alone, same rules
//! ```
//!
//! Owns: what is under way between a queue and its endpoint: the [window](window), the [lanes](lane), which senders are
//! [parked], the [back-off](backoff), what [expires](expiry), the [order](precedence) among the pumps of one endpoint, and the
//! way to the [dead letters](deadletter).
//!
//! Invariants:
//! - A record is settled only when everything before it is, and only after its message was delivered, or is durable in
//!   the sender's side queue, or is durable among the dead letters, or its time to live was over (counted), or the store
//!   has removed it and told so. Nothing is dropped on any other path.
//! - An expired message is never handed to the endpoint, wherever it was waiting; a delivery under way is not recalled.
//! - A message that finds no room among the dead letters stops its sender only, which rests, and is parked like any other
//!   that is stuck. A record that is no message has no sender: it is tried again in its place, and holds the settled place
//!   meanwhile.
//! - Only what is damaged is buried as no message. What a newer program wrote is intact: the pump ends with
//!   [`PumpError::Newer`] and leaves everything as it is.
//! - Messages of one sender are delivered in the order of the queue: one delivery per sender is under way, what fails
//!   goes back to the front, and while a sender's side queue lives, its newer messages go there too.
//! - One sender that is stuck delays others at most until it is parked: at once (at an input of a module: when it fails a second
//!   time, [`Config::park_after_failures`]) when it holds a full window while the others are well, after
//!   [`Config::park_after`] in any case. However many are stuck: a parked sender is cheap
//!   (no open file, no message in memory), and [`Config::parked_lanes_max`] is far above what a gateway serves. Beyond
//!   it stuck senders hold their share of the window (counted as `park_refused`).
//! - Memory: the window (`window_messages_max`, `window_bytes_max` plus one read's overshoot of one record), as much again
//!   that is read [ahead](refill), and for parked senders one batch per delivery under way (`parked_deliveries_max` x
//!   `batch_bytes_max`). With the defaults 2 x 4 MiB + 16 x 240 KiB = 11.75 MiB, whatever the backlog.
//! - No wake-up without a cause: new durable records, an answer, a timer that a lane or a [refill] set, the next expiry, the
//!   turn that a higher rank leaves.
//!
//! # What a crash repeats
//!
//! A crash at any point loses nothing; it repeats what was delivered but not settled:
//! - In the main queue: at most the window. The finished records behind an unfinished one are delivered again.
//! - While a sender is being parked: the append to the side queue is durable before the main queue settles. A crash
//!   between the two leaves the messages (or, torn, a prefix of them) in both. After the restart the sender starts as
//!   parked, and the main queue's copies follow into the side queue behind the first ones: first deliveries keep their
//!   order, repeats are bounded by the window.
//! - After a side queue was drained and deleted: its records may still be behind an unfinished one in the main queue's
//!   window. They are delivered again: bounded by the window.
//! - In a side queue: at most the batch under way.
//!
//! Must not know: AMQP, files, how a message got into the queue.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::deliver::Deliver;
use crate::message::DecodeError;
use crate::metrics::{InputName, Metrics};
use crate::store::QueueId;

pub mod backoff;
pub mod deadletter;
mod expiry;
mod lane;
pub mod log;
mod newer;
mod outcome;
mod parked;
mod parking;
mod patience;
mod place;
pub mod precedence;
mod refill;
mod run;
pub mod store_logs;
mod timers;
mod window;

#[cfg(test)]
mod double;
#[cfg(test)]
mod draining;
#[cfg(test)]
mod expiring;
#[cfg(test)]
mod property;
#[cfg(test)]
mod ranks;
#[cfg(test)]
mod stuck;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unreadable;

use backoff::Backoff;
use deadletter::DeadLetters;
use log::{LogError, Logs};
use precedence::{Precedence, Standing};
use run::End;

/// Limits of one pump.
#[derive(Debug, Clone)]
pub struct Config {
    /// Most records between the settled prefix and the place up to which the queue was read. It bounds what a crash
    /// repeats.
    pub window_messages_max: usize,
    /// Most stored bytes of the same. One record may overshoot it.
    pub window_bytes_max: usize,
    /// After a read that brought only a few messages the next one starts so much later than it did, so that a trickle is
    /// read, delivered and settled in handfuls. It is what forwarding is late by at most; a message after a quiet spell goes
    /// at once. Four milliseconds: a tenth of a way to a hub and back, and at 2,000 messages a second eight of them.
    pub gather: Duration,
    /// Most messages of one delivery. The hub takes up to 500 a batch.
    pub batch_messages_max: usize,
    /// Most bytes of one delivery, by an estimate on the safe side (stored bytes + 128 a message). The hub takes
    /// 256 KiB; one message alone is delivered whatever its size, and the endpoint judges it.
    pub batch_bytes_max: usize,
    /// Most deliveries of unparked lanes under way at once. What they hold is in the window already, so this is as many
    /// as the window has messages: fewer would keep many senders of a few messages each waiting for one another's round
    /// trips. (How many of them may be signing in at once is the endpoint's to limit.)
    pub lanes_max: usize,
    /// Most deliveries of parked lanes under way at once, on top of `lanes_max`: own slots, so that neither starves
    /// the other.
    pub parked_deliveries_max: usize,
    /// Pause of a lane after `Retry`: full jitter, doubling.
    pub backoff: Backoff,
    /// Pause of a lane after `Unauthenticated`: the device may come back into scope, but not soon.
    pub unauthenticated_backoff: Backoff,
    /// Pause before asking an endpoint again that said `Offline` twice in a row although it said it was ready.
    pub flapping_backoff: Backoff,
    /// A lane that failed for so long is parked in any case.
    pub park_after: Duration,
    /// More than one part of so many of the window is much: a lane with so much is in the others' way. 1: only one that holds all
    /// of a full window is.
    pub much_is_part: usize,
    /// A lane in the others' way is parked when it has failed so often in a row. 1: at once, as is right where what fails is
    /// mostly the sender's own trouble.
    pub park_after_failures: u32,
    /// A delivery pending for so long makes its lane stuck, when it is in the others' way.
    pub pending_max: Duration,
    /// Most senders that get a side queue. Those found on disk at the start count, even if they are more. It is meant to
    /// be more than there are senders: a parked one costs about 2 KiB of memory, 20 KiB of disk and no open file.
    pub parked_lanes_max: usize,
    /// How long deliveries under way may finish after the stop was asked for.
    pub stop_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let seconds =
            |base, max| Backoff { base: Duration::from_secs(base), max: Duration::from_secs(max) };
        Self {
            window_messages_max: 1024,
            window_bytes_max: 4 << 20,
            gather: Duration::from_millis(4),
            batch_messages_max: 500,
            batch_bytes_max: 240 << 10,
            lanes_max: 1024,
            parked_deliveries_max: 16,
            backoff: seconds(1, 60),
            unauthenticated_backoff: seconds(30, 600),
            flapping_backoff: seconds(1, 60),
            park_after: Duration::from_secs(10),
            much_is_part: 4,
            park_after_failures: 1,
            pending_max: Duration::from_secs(5),
            parked_lanes_max: 10_000,
            stop_grace: Duration::from_secs(3),
        }
    }
}

/// Why a pump ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PumpError {
    /// The store serves nobody any more. What was not settled is delivered again after the restart.
    #[error("the pump of queue {queue} has lost its store: {source}; restart the gateway")]
    Store {
        /// The queue.
        queue: String,
        /// The store's words.
        source: LogError,
    },
    /// An intact message that this program cannot read: a newer one has written it. Nothing of the queue is settled or
    /// buried on its account.
    #[error(
        "queue {queue} holds at {offset} a message of a newer program, and is not drained: {source}; start the version that \
         wrote it, all is kept"
    )]
    Newer {
        /// The queue, or the side queue.
        queue: String,
        /// Where in it.
        offset: u64,
        /// What is not known.
        source: DecodeError,
    },
}

/// Where pumps deliver to: an endpoint, and the order among its pumps.
#[derive(Clone)]
pub struct Target {
    /// The endpoint.
    pub endpoint: Arc<dyn Deliver>,
    /// Shared by all pumps of this endpoint.
    pub precedence: Arc<Precedence>,
    /// The module's input that it is; `None` = the upstream.
    pub input: Option<Arc<InputName>>,
}

impl Target {
    /// The upstream, which no pump serves yet.
    pub fn new(endpoint: Arc<dyn Deliver>) -> Self {
        Self { endpoint, precedence: Precedence::new(), input: None }
    }

    /// A module's input, which no pump serves yet.
    pub fn input(endpoint: Arc<dyn Deliver>, input: InputName) -> Self {
        Self { endpoint, precedence: Precedence::new(), input: Some(Arc::new(input)) }
    }
}

/// Drains one queue into an endpoint. Made by the gateway, one per normal queue (never for a side queue: a pump finds
/// and drains those of its own queue by itself).
pub struct Pump {
    logs: Arc<dyn Logs>,
    queue: QueueId,
    endpoint: Arc<dyn Deliver>,
    input: Option<Arc<InputName>>,
    standing: Standing,
    dead: Arc<dyn DeadLetters>,
    metrics: Arc<Metrics>,
    clock: SharedClock,
    config: Config,
}

impl Pump {
    /// A pump that has not started. From now on it goes before the pumps of lower precedence: run it or drop it.
    ///
    /// # Panics
    /// If `queue` is a side queue, or a limit of `config` is zero.
    pub fn new(
        logs: Arc<dyn Logs>,
        queue: QueueId,
        target: Target,
        dead: Arc<dyn DeadLetters>,
        metrics: Arc<Metrics>,
        clock: SharedClock,
        config: Config,
    ) -> Self {
        assert!(queue.lane.is_none(), "a side queue is drained by the pump of its main queue");
        assert!(config.lanes_max > 0 && config.parked_deliveries_max > 0);
        assert!(config.batch_messages_max > 0 && config.batch_bytes_max > 0);
        let Target { endpoint, precedence, input } = target;
        let standing = precedence.join(&queue);
        Self { logs, queue, endpoint, input, standing, dead, metrics, clock, config }
    }

    /// Runs until `stop` is cancelled (then deliveries under way get [`Config::stop_grace`], and what is known by then is
    /// settled), the store is gone, or a newer program's message is met. Dropping the future is like a crash: nothing is lost.
    pub async fn run(self, stop: CancellationToken) -> Result<(), PumpError> {
        let main = self.queue.to_string();
        run::run(self, stop).await.map_err(|end| match end {
            End::Store(source) => PumpError::Store { queue: main, source },
            End::Newer { queue, offset, source } => {
                PumpError::Newer { queue: queue.to_string(), offset: offset.0, source }
            }
        })
    }
}
