//! Where the links of one kind are, and what the hub has been asked over them.
//!
//! Owns: the state of a kind of links, the waits between attempts, the operations without an answer. Must not know: what is
//! wanted.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fe2o3_amqp::Delivery;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp_types::messaging::Body;
use fe2o3_amqp_types::primitives::Value;
use tokio::sync::oneshot;

use super::CloudError;
use super::links::{Link, Unopened};
use crate::upstream::backoff::Backoff;
use crate::upstream::pairs::Answer;

/// First and largest ceiling of the wait before links are opened again on a connection that stands.
pub(super) const REOPEN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Least wait after a throttled operation (F: 10 s .. 60 s after throttling).
const THROTTLED_AFTER: Duration = Duration::from_secs(10);

/// Where the links of one kind are.
pub(super) enum State {
    Closed,
    /// Goes on by itself whatever becomes of the wait.
    Opening(oneshot::Receiver<Result<Box<Link>, Unopened>>),
    Open(Box<Link>),
}

/// The links of one kind over time.
pub(super) struct Standing {
    pub(super) state: State,
    /// When it came into its state.
    pub(super) since: Instant,
    pub(super) backoff: Backoff,
    /// Not opened again before.
    pub(super) retry_at: Option<Instant>,
    /// Why it failed last.
    pub(super) failed: Option<CloudError>,
    /// Open, though not wanted any more, for what is under way.
    pub(super) draining_until: Option<Instant>,
    /// The hub has left the last attempt on this connection without an answer.
    pub(super) is_silent: bool,
}

impl Standing {
    pub(super) fn new(now: Instant) -> Self {
        let backoff = Backoff::new(REOPEN.0, REOPEN.1);
        let state = State::Closed;
        Self {
            state,
            since: now,
            backoff,
            retry_at: None,
            failed: None,
            draining_until: None,
            is_silent: false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    pub(super) fn waits_until(&self, now: Instant) -> Option<Instant> {
        self.retry_at.filter(|at| matches!(self.state, State::Closed) && *at > now)
    }

    pub(super) fn turn(&mut self, state: State, now: Instant) {
        (self.state, self.since, self.draining_until) = (state, now, None);
    }

    /// What its links say next.
    pub(super) async fn next(&mut self) -> FromLink {
        match &mut self.state {
            State::Closed => std::future::pending().await,
            State::Opening(attached) => {
                let gone = || Err(Unopened::Error(CloudError::Offline));
                FromLink::Attached(attached.await.unwrap_or_else(|_| gone()))
            }
            State::Open(link) => {
                FromLink::Received(link.receiver().recv::<Body<Value>>().await.map(Box::new))
            }
        }
    }
}

/// What comes of the links of one kind.
pub(super) enum FromLink {
    Attached(Result<Box<Link>, Unopened>),
    Received(Result<Box<Delivery<Body<Value>>>, RecvError>),
}

/// An operation that the hub has not answered.
pub(super) struct UnderWay {
    pub(super) id: u64,
    pub(super) due: Instant,
    pub(super) what: Asked,
}

/// What was asked, and who waits for it.
pub(super) enum Asked {
    Subscribe,
    Twin(oneshot::Sender<Result<Bytes, CloudError>>),
    Report(oneshot::Sender<Result<Option<u64>, CloudError>>),
}

impl Asked {
    pub(super) fn refuse(self, error: CloudError) {
        // Nobody waits any more: nobody needs to know.
        let _ = match self {
            Self::Subscribe => Ok(()),
            Self::Twin(done) => done.send(Err(error)).map_err(drop),
            Self::Report(done) => done.send(Err(error)).map_err(drop),
        };
    }
}

/// What a status other than 2xx means (A7, B6).
pub(super) fn of_answer(answer: &Answer) -> CloudError {
    let detail = String::from_utf8_lossy(&answer.body).into_owned();
    match answer.status {
        429 => CloudError::Busy { after: Some(THROTTLED_AFTER), detail },
        408 | 500.. => CloudError::Busy { after: None, detail },
        // Of the identity, not of what was asked.
        401 | 403 | 404 => CloudError::Unauthenticated(detail),
        status @ 400..=499 => {
            CloudError::Refused { status: u16::try_from(status).unwrap_or(400), detail }
        }
        // Nothing that an answer can have: it says nothing of what was asked.
        status => CloudError::Lost(format!("status {status}: {detail}")),
    }
}
