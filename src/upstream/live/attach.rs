//! Attaching: telemetry links, turns for the other ones, and what becomes of attaches that the hub does not answer.
//!
//! Owns: the time limit on an attach, and what is counted of those that were given up. Invariants: an attach on a session that
//! others have links on is not cancelled (see [`crate::upstream::sessions`]); who was left without an answer attaches apart the
//! next time, and that session is ended with its attach; one attach of a sender at a time. Must not know: messages.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fe2o3_amqp::Sender;
use fe2o3_amqp::link::SenderAttachError;
use fe2o3_amqp_types::definitions::Fields;
use fe2o3_amqp_types::messaging::Source;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::timeout;

use super::{LinkState, Live, Slot};
use crate::identity::Identity;
use crate::message::{Message, SystemKey};
use crate::upstream::names;
use crate::upstream::outcome::{self, Verdict, retry};
use crate::upstream::sessions::{Link, Sessions, Turn};

/// Given-up attaches that may hold shared sessions of one connection, of which there are at most 4,096 (and the hub may allow
/// fewer): beyond, each attach has a session of its own, which ends with it.
const GIVEN_UP_MAX: usize = 64;

/// What came of the attach of a telemetry link; the error is `None` when the hub did not answer in time.
pub(super) type Attached = Result<Box<Link>, Option<Verdict>>;

/// An attach that was given up, until the hub answers it or the connection ends.
pub(in crate::upstream) struct GivenUp<'a>(&'a Live);

impl<'a> GivenUp<'a> {
    pub(in crate::upstream) fn new(live: &'a Live) -> Self {
        live.given_up.fetch_add(1, Ordering::Relaxed);
        Self(live)
    }
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.given_up.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Live {
    /// A turn to attach `links` links of an identity that are not telemetry. `None`: the connection is ending.
    pub(in crate::upstream) async fn down_turn(
        &self,
        links: usize,
        is_doubtful: bool,
    ) -> Option<Turn> {
        self.turn_of(&self.down_sessions, links, is_doubtful).await
    }

    /// Attaches that were given up and hold a session that others have links on.
    #[cfg(test)]
    pub(in crate::upstream) fn given_up(&self) -> usize {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Sessions for those, and links placed on them.
    #[cfg(test)]
    pub(in crate::upstream) fn down_held(&self) -> (usize, usize) {
        self.down_sessions.held()
    }

    async fn turn_of(&self, of: &Sessions, links: usize, is_doubtful: bool) -> Option<Turn> {
        if is_doubtful || self.given_up.load(Ordering::Relaxed) >= GIVEN_UP_MAX {
            return of.turn_apart(links).await;
        }
        of.turn(links).await
    }

    /// Attaches a link if none is open.
    pub(super) async fn open_link(
        self: &Arc<Self>,
        sender: &Identity,
        batch: &[Message],
        slot: &Slot,
        state: &mut LinkState,
    ) -> Result<(), Verdict> {
        if let LinkState::Attaching(attaching) = state {
            // The delivery that started it has not waited for it.
            match attaching.try_recv() {
                Err(TryRecvError::Empty) => {}
                Ok(Ok(link)) => *state = LinkState::Open(link),
                Ok(Err(_)) | Err(TryRecvError::Closed) => *state = LinkState::Closed,
            }
        }
        if let LinkState::Closed = state {
            self.make_room();
            let model = batch.iter().find_map(|m| m.system.get(SystemKey::ModelId));
            let is_doubtful = slot.times().is_doubtful;
            *state = LinkState::Attaching(self.start_attach(sender, model, is_doubtful));
        }
        // It stays in its place during the wait: dropping this future must not lose the link that is on its way.
        let LinkState::Attaching(attaching) = state else { return Ok(()) };
        let attached = match timeout(self.config().operation_timeout, attaching).await {
            // Its task gives it up when it is time, or does so now.
            Err(_) => Err(None),
            Ok(attached) => {
                *state = LinkState::Closed;
                attached.unwrap_or(Err(Some(Verdict::ConnectionLost)))
            }
        };
        slot.times().is_doubtful = matches!(attached, Err(None));
        match attached {
            Ok(link) => {
                *state = LinkState::Open(link);
                Ok(())
            }
            Err(Some(verdict)) => Err(verdict),
            Err(None) => {
                self.suspect(sender);
                Err(Verdict::Outcome(retry("attach_timeout")))
            }
        }
    }

    /// Attaches on a task of its own, which ends with the attach or with the connection.
    fn start_attach(
        self: &Arc<Self>,
        sender: &Identity,
        model: Option<&str>,
        is_doubtful: bool,
    ) -> oneshot::Receiver<Attached> {
        let (done, attached) = oneshot::channel();
        let number = self.next_link.fetch_add(1, Ordering::Relaxed);
        let address = names::telemetry_address(sender.name());
        let properties = self.link_properties(sender.name(), model, None);
        let live = self.clone();
        self.tracker().spawn(async move {
            let attach = live.attach_telemetry(number, address, properties, is_doubtful, done);
            live.severed.run_until_cancelled(attach).await;
        });
        attached
    }

    /// What comes in time is told; what does not is given up.
    async fn attach_telemetry(
        &self,
        number: u64,
        address: String,
        properties: Fields,
        is_doubtful: bool,
        done: oneshot::Sender<Attached>,
    ) {
        let Some(mut turn) = self.turn_of(&self.sessions, 1, is_doubtful).await else { return };
        let is_apart = turn.is_apart();
        let builder = Sender::builder()
            .name(format!("telemetry-{number}"))
            .source(Source::builder().address(format!("telemetry-{number}-source")).build())
            .target(address.as_str())
            .properties(properties);
        let mut attaching = Box::pin(builder.attach(turn.session()));
        let link = |attached: Result<Sender, SenderAttachError>, turn: Turn| {
            let place = turn.done();
            attached
                .map(|sender| Box::new(Link::new(sender, address.clone(), place)))
                .map_err(|error| Some(outcome::of_attach_error(error)))
        };
        match timeout(self.config().operation_timeout, &mut attaching).await {
            Ok(attached) => {
                drop(attaching);
                // Nobody there any more: the link is dropped, and so detached.
                let _ = done.send(link(attached, turn));
            }
            Err(_) if is_apart => {
                drop(attaching);
                turn.end().await;
                let _ = done.send(Err(None));
            }
            Err(_) => {
                let _ = done.send(Err(None));
                let _given_up = GivenUp::new(self);
                let attached = attaching.await;
                drop(link(attached, turn));
            }
        }
    }
}
