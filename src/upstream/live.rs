//! One open connection: the identities that speak over it, and a delivery from token to disposition.
//!
//! Owns: per identity its token's due time and its telemetry link. Invariants: a link that was given up in the middle of a
//! transfer is never used again (a half-sent delivery would be glued to the next); what goes wrong for one identity is
//! answered to that identity; only evidence about the connection itself severs it.
//! Must not know: how the connection came about, or what follows it.

mod attach;
mod hold;
mod upkeep;

pub(super) use self::attach::GivenUp;
pub(super) use self::hold::Hold;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fe2o3_amqp::Sender;
use fe2o3_amqp::link::delivery::Sendable;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp_types::definitions::Fields;
use fe2o3_amqp_types::messaging::{Batch, Data, Message as AmqpMessage};
use fe2o3_amqp_types::primitives::{Symbol, Value};
use futures_util::future::BoxFuture;
use rand::Rng;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cbs::{CbsError, PutToken};
use super::encode::{self, Packed};
use super::names;
use super::outcome::{self, Verdict, retry};
use super::sending::Sendings;
use super::sessions::{Link, Sessions};
use super::token::TokenSource;
use super::{Config, Shared};
use crate::deliver::Outcome;
use crate::identity::{ClientName, Identity};
use crate::iothub::sas::{self, SignError};
use crate::message::Message;

/// Identities that get their token and their link at the same time, at most: a reconnect sends all of them, `$cbs` lets
/// no more than 512 requests wait, and attaches that queue up open sessions.
const SETUPS_MAX: usize = 240;

/// Longest model id that the hub is told: no identifier of a digital twin is longer (DTDL v3); a user name may hold 64 KiB.
const MODEL_BYTES_MAX: usize = 2048;

/// Receiving links that are closed at the same time, at most: a thousand devices that leave together have three each.
const CLOSINGS_MAX: usize = 64;

/// An open connection.
pub(super) struct Live {
    shared: Arc<Shared>,
    cbs: mpsc::Sender<PutToken>,
    sessions: Sessions,
    /// Of the downlinks: an attach of theirs that the hub does not answer holds up no telemetry.
    down_sessions: Sessions,
    slots: Mutex<HashMap<Identity, Arc<Slot>>>,
    setups: Semaphore,
    /// Receiving links that are being closed.
    pub(super) closings: Semaphore,
    /// Attaches that were given up and hold a session that others have links on.
    given_up: AtomicUsize,
    sendings: Sendings,
    /// Cancelled when the connection is over, by whoever notices first.
    pub(super) severed: CancellationToken,
    /// Senders whose last deliveries ran into the time limit, since anyone's last success.
    timed_out: Mutex<HashSet<Identity>>,
    probing: AtomicBool,
    next_link: AtomicU64,
}

/// What one identity has on the connection.
struct Slot {
    link: AsyncMutex<LinkState>,
    times: Mutex<Times>,
}

#[derive(Clone, Copy)]
struct Times {
    /// When the identity's token must be renewed; `None`: it has none here.
    renew_at: Option<Instant>,
    used_at: Instant,
    /// Whether a link is open: only then the token is worth renewing.
    open: bool,
    /// Or so many others need it.
    held: usize,
    /// The hub has left the last attach without an answer.
    is_doubtful: bool,
}

enum LinkState {
    Closed,
    /// Goes on by itself when the delivery that started it is given up.
    Attaching(oneshot::Receiver<attach::Attached>),
    Open(Box<Link>),
}

impl Slot {
    fn times(&self) -> std::sync::MutexGuard<'_, Times> {
        self.times.lock().expect("nothing panics under this lock")
    }
}

impl Live {
    pub(super) fn new(
        shared: Arc<Shared>,
        cbs: mpsc::Sender<PutToken>,
        sessions: Sessions,
        severed: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared,
            cbs,
            down_sessions: sessions.beside(),
            sessions,
            slots: Mutex::default(),
            setups: Semaphore::new(SETUPS_MAX),
            closings: Semaphore::new(CLOSINGS_MAX),
            given_up: AtomicUsize::new(0),
            sendings: Sendings::default(),
            severed,
            timed_out: Mutex::default(),
            probing: AtomicBool::new(false),
            next_link: AtomicU64::new(0),
        })
    }

    fn config(&self) -> &Config {
        &self.shared.config
    }

    fn now(&self) -> Instant {
        self.shared.clock.monotonic()
    }

    /// Delivers, or says [`Outcome::Offline`] as soon as the connection is over.
    pub(super) async fn deliver(self: &Arc<Self>, sender: &Identity, batch: &[Message]) -> Outcome {
        let outcome = tokio::select! {
            biased;
            () = self.severed.cancelled() => Outcome::Offline,
            outcome = self.deliver_here(sender, batch) => outcome,
        };
        match &outcome {
            Outcome::Delivered => self.timed_out().clear(),
            Outcome::Offline => self.severed.cancel(),
            Outcome::Retry { reason, .. } => {
                // That the message is sent again is for whoever sends it to count.
                self.shared.metrics.counted("upstream_retry", reason);
            }
            Outcome::Rejected { .. }
            | Outcome::Unauthenticated { .. }
            // Of this hub a batch is one message.
            | Outcome::Partly { .. } => {}
        }
        outcome
    }

    /// At most two attempts: the second with a fresh token when the hub refused the identity, or on a new link when a
    /// link that had been idle turned out to be gone.
    ///
    /// What only happens now and then is boxed: this future is made for every delivery.
    async fn deliver_here(self: &Arc<Self>, sender: &Identity, batch: &[Message]) -> Outcome {
        let slot = self.slot(sender);
        // A delivery of the same sender out of another queue waits here until this one is answered: batches do not mix, and no
        // time limit runs meanwhile. Between queues no order is promised.
        let mut state = slot.link.lock().await;
        let was_open = matches!(*state, LinkState::Open(_));
        if !was_open || slot.times().renew_at.is_none() {
            let set_up = Box::pin(self.set_up(sender, batch, &slot, &mut state, false)).await;
            if let Err(verdict) = set_up {
                return match verdict {
                    Verdict::Unauthorized(detail) => {
                        self.again(sender, batch, &slot, &mut state, Some(detail)).await
                    }
                    Verdict::LinkLost(_) if was_open => {
                        self.again(sender, batch, &slot, &mut state, None).await
                    }
                    verdict => verdict.last(),
                };
            }
        }
        match self.transfer_on(sender, batch, &slot, &mut state).await {
            Verdict::Unauthorized(detail) => {
                self.again(sender, batch, &slot, &mut state, Some(detail)).await
            }
            Verdict::LinkLost(_) if was_open => {
                self.again(sender, batch, &slot, &mut state, None).await
            }
            verdict => verdict.last(),
        }
    }

    /// The second attempt: with a fresh token if the hub `refused` the first in these words.
    fn again<'a>(
        self: &'a Arc<Self>,
        sender: &'a Identity,
        batch: &'a [Message],
        slot: &'a Arc<Slot>,
        state: &'a mut LinkState,
        refused: Option<String>,
    ) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let fresh = refused.is_some();
            if let Some(detail) = refused {
                tracing::debug!(%sender, %detail, "refused by the hub; trying once more with a fresh token");
                *state = LinkState::Closed;
                slot.times().renew_at = None;
            }
            match self.set_up(sender, batch, slot, state, fresh).await {
                Ok(()) => self.transfer_on(sender, batch, slot, state).await.last(),
                Err(verdict) => verdict.last(),
            }
        })
    }

    /// Sees to it that the identity has a token and an open link.
    async fn set_up(
        self: &Arc<Self>,
        sender: &Identity,
        batch: &[Message],
        slot: &Arc<Slot>,
        state: &mut LinkState,
        fresh: bool,
    ) -> Result<(), Verdict> {
        // Never closed: the wait is for a place. No time limit runs meanwhile.
        let _place = self.setups.acquire().await;
        if slot.times().renew_at.is_none() {
            self.authorize(sender, slot, fresh).await?;
        }
        match self.open_link(sender, batch, slot, state).await {
            Ok(()) => Ok(()),
            Err(verdict) => {
                slot.times().open = false;
                Err(verdict)
            }
        }
    }

    /// Transfers over the open link.
    async fn transfer_on(
        self: &Arc<Self>,
        sender: &Identity,
        batch: &[Message],
        slot: &Slot,
        state: &mut LinkState,
    ) -> Verdict {
        // While the link is out of its slot, dropping this future drops (and so detaches) the link.
        let LinkState::Open(mut link) = std::mem::replace(state, LinkState::Closed) else {
            unreachable!("it was opened by the caller")
        };
        slot.times().open = false;
        match self.transfer(sender, batch, &mut link).await {
            Ok(outcome) => {
                let now = self.now();
                let mut times = slot.times();
                (times.used_at, times.open) = (now, true);
                *state = LinkState::Open(link);
                outcome
            }
            Err(verdict) => verdict,
        }
    }

    /// Puts the token for `sender`.
    async fn authorize(
        self: &Arc<Self>,
        sender: &Identity,
        slot: &Slot,
        fresh: bool,
    ) -> Result<(), Verdict> {
        match self.put_token(sender.name(), fresh).await {
            Ok(renew_at) => {
                slot.times().renew_at = Some(renew_at);
                Ok(())
            }
            Err(PutError::Cbs(CbsError::Refused(detail))) => Err(Verdict::Unauthorized(detail)),
            Err(PutError::Cbs(CbsError::Busy(detail))) => {
                tracing::debug!(%sender, %detail, "the hub cannot take a token now");
                Err(Verdict::Outcome(retry("token_busy")))
            }
            Err(PutError::Cbs(CbsError::Gone)) => Err(Verdict::ConnectionLost),
            Err(PutError::Sign(error)) => {
                tracing::warn!(%error, "no token for the hub");
                Err(Verdict::Outcome(retry("sign")))
            }
            Err(PutError::Time) => {
                self.suspect(sender);
                Err(Verdict::Outcome(retry("token_timeout")))
            }
        }
    }

    /// Sends `batch`, in as few transfers as it needs, each after the one before was accepted. `Ok`: the hub (or our own
    /// check) has judged, and the link is good for the next batch. `Err`: the link is not to be used again.
    async fn transfer(
        self: &Arc<Self>,
        sender: &Identity,
        batch: &[Message],
        link: &mut Link,
    ) -> Result<Verdict, Verdict> {
        let limit = self.config().batch_bytes_max;
        let size_max = link.sender.as_ref().and_then(Sender::max_message_size);
        let limit =
            size_max.and_then(|max| usize::try_from(max).ok()).map_or(limit, |max| max.min(limit));
        let metrics = &self.shared.metrics;
        let mut left_out = |what| metrics.counted("property_left_out", what);
        let packed = match encode::pack(batch, &link.address, limit, &mut left_out) {
            Ok(packed) => packed,
            Err(too_large) => {
                return Ok(Verdict::Outcome(Outcome::Rejected {
                    reason: "message-size-exceeded",
                    detail: too_large.to_string(),
                }));
            }
        };
        for packed in packed {
            let sender_half = link.sender.take().expect("no transfer has it");
            let limit = self.config().operation_timeout;
            match timeout(limit, self.sendings.send(sender_half, sendable(packed))).await {
                Err(_) => {
                    self.suspect(sender);
                    return Err(Verdict::Outcome(retry("timeout")));
                }
                Ok((sender_half, answer)) => {
                    link.sender = Some(sender_half);
                    match answer {
                        Err(error) => return Err(outcome::of_send_error(error)),
                        Ok(disposition) => match outcome::of_disposition(disposition) {
                            Verdict::Outcome(Outcome::Delivered) => {}
                            other => return Ok(other),
                        },
                    }
                }
            }
        }
        Ok(Verdict::Outcome(Outcome::Delivered))
    }

    /// B3; `edgehub.md` 8.1. `client`: what the client says of itself.
    pub(super) fn link_properties(
        &self,
        name: &ClientName,
        model: Option<&str>,
        client: Option<&str>,
    ) -> Fields {
        let config = self.config();
        let chain = names::auth_chain(name, &config.edge, &self.shared.scope);
        let mut fields = Fields::new();
        let mut set = |key: &str, value: &str| {
            fields.insert(Symbol::from(key), Value::String(value.to_owned()));
        };
        match client {
            None => set("com.microsoft:client-version", &config.product_info),
            Some(client) => {
                set("com.microsoft:client-version", &format!("{client} {}", config.product_info));
            }
        }
        set("com.microsoft:api-version", super::API_VERSION);
        set("com.microsoft:auth-chain", &chain);
        // An attach must fit into one frame, or it ends the connection of all.
        if let Some(model) = model.filter(|model| model.len() <= MODEL_BYTES_MAX) {
            set("com.microsoft:model-id", model);
        }
        fields
    }

    /// Ourselves.
    pub(super) fn own(&self) -> &ClientName {
        &self.shared.own
    }

    /// A session outside of what telemetry shares. `None`: the connection is ending.
    pub(super) async fn session(&self) -> Option<SessionHandle<()>> {
        self.sessions.begin().await
    }

    pub(super) fn tracker(&self) -> &TaskTracker {
        &self.shared.tracker
    }

    fn tokens(&self) -> &TokenSource {
        &self.shared.tokens
    }

    fn timed_out(&self) -> std::sync::MutexGuard<'_, HashSet<Identity>> {
        self.timed_out.lock().expect("nothing panics under this lock")
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<Identity, Arc<Slot>>> {
        self.slots.lock().expect("nothing panics under this lock")
    }

    fn slot(&self, sender: &Identity) -> Arc<Slot> {
        let now = self.now();
        let mut slots = self.slots();
        if let Some(slot) = slots.get(sender) {
            return slot.clone();
        }
        let slot = Arc::new(Slot {
            link: AsyncMutex::new(LinkState::Closed),
            times: Mutex::new(Times {
                renew_at: None,
                used_at: now,
                open: false,
                held: 0,
                is_doubtful: false,
            }),
        });
        slots.insert(sender.clone(), slot.clone());
        slot
    }

    /// Puts the `$edgeHub` module's token for `name`; returns when it should be renewed: somewhere in the last tenth before
    /// four fifths of its life, so that identities that came together are not renewed together.
    pub(super) async fn put_token(
        &self,
        name: &ClientName,
        fresh: bool,
    ) -> Result<Instant, PutError> {
        let token = self.tokens().token(fresh).await.map_err(PutError::Sign)?;
        let (answer, answered) = oneshot::channel();
        let audience = sas::audience(&self.config().hub_host, name);
        let exchange = async {
            self.cbs.send(PutToken { audience, token: token.text, answer }).await.map_err(drop)?;
            answered.await.map_err(drop)
        };
        match timeout(self.config().operation_timeout, exchange).await {
            Err(_) => Err(PutError::Time),
            Ok(Err(())) => Err(PutError::Cbs(CbsError::Gone)),
            Ok(Ok(Err(error))) => Err(PutError::Cbs(error)),
            Ok(Ok(Ok(()))) => {
                let early = rand::rng().random_range(Duration::ZERO..=self.config().token_ttl / 10);
                Ok(token.renew_at - early)
            }
        }
    }
}

/// Why a token could not be put.
pub(super) enum PutError {
    Cbs(CbsError),
    Sign(SignError),
    Time,
}

fn sendable(packed: Packed) -> Sendable<Batch<Data>> {
    Sendable::builder()
        .message(AmqpMessage::builder().data_batch(packed.sections).build())
        .message_format(encode::FORMAT_BATCH)
        .build()
}
