//! One identity: its links while they are wanted, and what travels on them.
//!
//! Owns: the task of an identity, which lives while links or operations are wanted. Invariants: each kind of link fails and comes
//! back on its own account; an operation is answered once; a call or a message whose links have ended is forgotten (the hub asks,
//! or sends, again). Must not know: how links are attached, how operations look on the wire.

mod opening;
mod replies;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fe2o3_amqp::Delivery;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::link::delivery::DeliveryInfo;
use fe2o3_amqp_types::messaging::Body;
use fe2o3_amqp_types::primitives::{Uuid, Value};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::links::{Kind, lost, of_verdict};
use super::standing::{Asked, FromLink, REOPEN, Standing, State, UnderWay, of_answer};
use super::{Ask, CloudError, Entry, Inner, Listener, STABLE_AFTER, Settlement, Wanted, message};
use crate::identity::Identity;
use crate::upstream::live::Live;
use crate::upstream::outcome;
use crate::upstream::pairs::{self, Answer, Heard, Operation};

/// How long links that are not wanted any more stay for what is under way on them.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Longest stay of twin links of an identity that wants no links.
const LINGER_UNWANTED: Duration = Duration::from_secs(5);

/// What the task wakes for.
enum Event {
    Link(Kind, FromLink),
    /// A call is answered.
    Answered(Uuid, i32, Bytes),
    /// It is known what becomes of a message.
    Settled(DeliveryInfo, Settlement),
    /// Something is due, or something else is wanted.
    Look,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subscribed {
    No,
    Asked,
    Yes,
}

type CallAnswered = (Uuid, i32, Bytes);

/// The task.
pub(super) struct Served {
    inner: Arc<Inner>,
    listener: Arc<dyn Listener>,
    who: Identity,
    entry: Arc<Entry>,
    wanted: Wanted,
    standing: [Standing; 3],
    /// The hub refused the identity's links or token.
    is_refused: bool,
    /// No token is put before, as the hub did not answer the last one: all kinds wait for it together.
    token_at: Option<Instant>,
    subscribed: Subscribed,
    under_way: Vec<UnderWay>,
    asked_at: Option<Instant>,
    calls: FuturesUnordered<BoxFuture<'static, CallAnswered>>,
    messages: FuturesUnordered<BoxFuture<'static, (DeliveryInfo, Settlement)>>,
}

impl Served {
    pub(super) fn new(
        inner: Arc<Inner>,
        listener: Arc<dyn Listener>,
        who: Identity,
        entry: Arc<Entry>,
    ) -> Self {
        let now = inner.now();
        Self {
            inner,
            listener,
            who,
            entry,
            wanted: Wanted::default(),
            standing: [(); 3].map(|()| Standing::new(now)),
            is_refused: false,
            token_at: None,
            subscribed: Subscribed::No,
            under_way: Vec::new(),
            asked_at: None,
            calls: FuturesUnordered::new(),
            messages: FuturesUnordered::new(),
        }
    }

    /// Serves until nothing is wanted.
    pub(super) async fn run(mut self) {
        let mut connection = self.inner.live.subscribe();
        loop {
            let live = connection.borrow_and_update().clone();
            match live.filter(|live| !live.severed.is_cancelled()) {
                Some(live) => {
                    let severed = live.severed.clone();
                    severed.run_until_cancelled(Box::pin(self.serve(&live))).await;
                    self.close_all();
                }
                None => {
                    self.entry.refuse_all(&CloudError::Offline);
                    if !self.inner.leave(&self.who, &self.entry) {
                        tokio::select! {
                            () = self.entry.changed.notified() => {}
                            changed = connection.changed() => if changed.is_err() { return },
                        }
                        continue;
                    }
                    return;
                }
            }
            if self.inner.leave(&self.who, &self.entry) {
                return;
            }
        }
    }

    /// Serves on one connection, until nothing is wanted.
    async fn serve(&mut self, live: &Arc<Live>) {
        loop {
            let now = self.inner.now();
            self.look(live, now).await;
            if self.is_idle(now) {
                return;
            }
            let event = self.next(self.next_due(now)).await;
            let now = self.inner.now();
            match event {
                Event::Look => {}
                Event::Link(kind, FromLink::Attached(attached)) => {
                    self.attached(kind, attached, now);
                }
                Event::Link(kind, FromLink::Received(Ok(delivery))) => {
                    self.received(kind, *delivery, now).await;
                }
                Event::Link(kind, FromLink::Received(Err(RecvError::MessageDecode(error)))) => {
                    self.unread(kind).await;
                    if kind == Kind::CloudToDevice {
                        // It would come again for as long as it lives, and be understood no better.
                        self.settle(error.info, Settlement::Reject, now).await;
                    }
                }
                Event::Link(kind, FromLink::Received(Err(error))) => {
                    self.fail(kind, of_verdict(outcome::of_recv_error(&error)), now);
                }
                Event::Answered(id, status, payload) => {
                    self.send(
                        Kind::Methods,
                        pairs::call_answer(id, status, Vec::from(payload)),
                        now,
                    )
                    .await;
                }
                Event::Settled(info, settlement) => self.settle(info, settlement, now).await,
            }
        }
    }

    async fn next(&mut self, due: Option<Instant>) -> Event {
        let [twin, methods, messages] = &mut self.standing;
        tokio::select! {
            // What is wanted goes first: a message that is given back because its device has left must not come again over the
            // same link. Then what was promised, then what is new.
            biased;
            () = self.entry.changed.notified() => Event::Look,
            Some((info, settlement)) = self.messages.next() => Event::Settled(info, settlement),
            Some((id, status, payload)) = self.calls.next() => Event::Answered(id, status, payload),
            next = messages.next() => Event::Link(Kind::CloudToDevice, next),
            next = methods.next() => Event::Link(Kind::Methods, next),
            next = twin.next() => Event::Link(Kind::Twin, next),
            () = sleep_until(due) => Event::Look,
        }
    }

    /// Compares what is with what is wanted, and does something about it.
    async fn look(&mut self, live: &Arc<Live>, now: Instant) {
        let product = {
            let mut inbox = self.entry.inbox();
            inbox.asks.retain(|ask| !ask.is_given_up());
            self.wanted = inbox.wanted;
            self.wanted.cloud_to_device &= self.who.module().is_none();
            if std::mem::take(&mut inbox.is_desired_anew) && self.subscribed == Subscribed::Yes {
                drop(inbox);
                self.listener.listening(&self.who);
                inbox = self.entry.inbox();
            }
            inbox.product.clone()
        };
        if self.under_way.iter().any(|operation| operation.due <= now) {
            let limit = self.inner.limit();
            self.fail(Kind::Twin, lost(&format!("no answer within {limit:?}")), now);
        }
        self.close_unwanted(now).await;
        self.ask(now).await;
        self.open(live, &product, now);
    }

    fn has_asks(&self) -> bool {
        !self.entry.inbox().asks.is_empty()
    }

    /// Whether links of this kind are wanted.
    fn is_wanted(&self, kind: Kind, now: Instant) -> bool {
        match kind {
            Kind::Methods => self.wanted.methods,
            Kind::CloudToDevice => self.wanted.cloud_to_device,
            Kind::Twin => {
                // Who wants no changes any more, but did, gets new links: these bring changes.
                let lingers = self.subscribed == Subscribed::No
                    && self.asked_at.is_some_and(|at| now < at + self.linger())
                    && self.standing[Kind::Twin as usize].is_open();
                let asks = self.subscribed == Subscribed::No && self.has_asks();
                self.wanted.desired || !self.under_way.is_empty() || asks || lingers
            }
        }
    }

    /// How long twin links stay after what was asked last. Whoever wants no link at all is mostly not even connected (its
    /// reported properties are pushed after an outage), and there may be thousands of such.
    fn linger(&self) -> Duration {
        let linger = self.inner.config.linger;
        if self.wanted == Wanted::default() { linger.min(LINGER_UNWANTED) } else { linger }
    }

    /// Closes what is open and not wanted, once nothing is under way on it.
    async fn close_unwanted(&mut self, now: Instant) {
        for kind in Kind::ALL {
            if !self.standing[kind as usize].is_open() {
                continue;
            }
            let under_way = match kind {
                Kind::Twin => false,
                Kind::Methods => !self.calls.is_empty(),
                Kind::CloudToDevice => !self.messages.is_empty(),
            };
            let is_wanted = self.is_wanted(kind, now);
            let standing = &mut self.standing[kind as usize];
            let was_draining = standing.draining_until.is_some();
            if is_wanted {
                standing.draining_until = None;
            } else if under_way && standing.draining_until.is_none_or(|until| now < until) {
                standing.draining_until.get_or_insert(now + DRAIN_MAX);
            } else {
                standing.turn(State::Closed, now);
                self.forget(kind, "not wanted");
                continue;
            }
            let is_draining = standing.draining_until.is_some();
            if kind == Kind::CloudToDevice && was_draining != is_draining {
                self.give_credit(now).await;
            }
        }
    }

    /// Forgets what was under way on links that are gone.
    fn forget(&mut self, kind: Kind, why: &str) {
        match kind {
            Kind::Twin => {
                self.subscribed = Subscribed::No;
                for operation in self.under_way.drain(..) {
                    operation.what.refuse(CloudError::Lost(why.to_owned()));
                }
            }
            Kind::Methods => self.calls.clear(),
            Kind::CloudToDevice => self.messages.clear(),
        }
    }

    /// The links of this kind have failed: they are opened again after a while if they are still wanted.
    fn fail(&mut self, kind: Kind, error: CloudError, now: Instant) {
        let standing = &mut self.standing[kind as usize];
        let was_open = standing.is_open();
        if error == CloudError::Offline {
            // The connection is ending: nothing is wrong with these links.
            standing.turn(State::Closed, now);
            standing.retry_at = Some(now + REOPEN.0);
            self.forget(kind, "the connection ended");
            return;
        }
        if was_open && now - standing.since >= STABLE_AFTER {
            standing.backoff.reset();
        }
        let least = match &error {
            CloudError::Busy { after, .. } => after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        standing.turn(State::Closed, now);
        standing.retry_at = Some(now + standing.backoff.next_wait().max(least));
        match was_open {
            true => self.inner.metrics().counted("downlink_ended", kind.word()),
            false => self.inner.metrics().counted("downlink_not_opened", kind.word()),
        }
        tracing::debug!(who = %self.who, kind = kind.word(), %error, was_open, "no links");
        self.is_refused |= matches!(error, CloudError::Unauthenticated(_));
        self.forget(kind, &error.to_string());
        let error = match error {
            // It was said of the links, or of the wish to hear of changes: what is asked meanwhile was never judged.
            CloudError::Refused { .. } => lost(&error),
            error => error,
        };
        if kind == Kind::Twin && !was_open {
            self.entry.refuse_all(&error);
        }
        self.standing[kind as usize].failed = Some(error);
    }

    /// Sends what is to be asked of the twin; answers who would wait in vain.
    async fn ask(&mut self, now: Instant) {
        let standing = &self.standing[Kind::Twin as usize];
        match &standing.state {
            State::Open(_) => {}
            State::Closed => {
                if standing.waits_until(now).is_some()
                    && let Some(error) = &standing.failed
                {
                    self.entry.refuse_all(error);
                }
                return;
            }
            State::Opening(_) => {
                if now >= standing.since + self.inner.limit() {
                    let detail = "the links of the twin are not open yet".to_owned();
                    self.entry.refuse_all(&CloudError::Busy { after: None, detail });
                }
                return;
            }
        }
        if self.wanted.desired && self.subscribed == Subscribed::No {
            self.subscribed = Subscribed::Asked;
            self.operate(Asked::Subscribe, Operation::Subscribe, Bytes::new(), now).await;
        }
        while self.standing[Kind::Twin as usize].is_open() && self.is_wanted(Kind::Twin, now) {
            let Some(ask) = self.entry.inbox().asks.pop_front() else { break };
            self.asked_at = Some(now);
            match ask {
                Ask::Twin(done) => {
                    self.operate(Asked::Twin(done), Operation::Get, Bytes::new(), now).await;
                }
                Ask::Report(patch, done) => {
                    self.operate(Asked::Report(done), Operation::Report, patch, now).await;
                }
            }
        }
    }

    async fn operate(&mut self, what: Asked, operation: Operation, body: Bytes, now: Instant) {
        let id = self.inner.next_operation();
        self.under_way.push(UnderWay { id, due: now + self.inner.limit(), what });
        self.send(Kind::Twin, pairs::operation(id, operation, Vec::from(body)), now).await;
    }

    async fn send(
        &mut self,
        kind: Kind,
        message: fe2o3_amqp_types::messaging::Message<fe2o3_amqp_types::messaging::Data>,
        now: Instant,
    ) {
        let State::Open(link) = &mut self.standing[kind as usize].state else { return };
        let Some(sender) = &mut link.sender else { return };
        let sending = Box::pin(pairs::send(sender, message, self.inner.limit()));
        if let Err(why) = sending.await {
            self.fail(kind, CloudError::Lost(why), now);
        }
    }

    /// Whether there is nothing to do. Who has to wait before it may try again is not idle: it would be forgotten.
    fn is_idle(&self, now: Instant) -> bool {
        let is_at_rest = |standing: &Standing| {
            matches!(standing.state, State::Closed) && standing.waits_until(now).is_none()
        };
        self.standing.iter().all(is_at_rest) && self.wanted == Wanted::default() && !self.has_asks()
    }

    /// When to look again if nothing happens.
    fn next_due(&self, now: Instant) -> Option<Instant> {
        let standing = self.standing.iter();
        let waits = standing.clone().filter_map(|s| s.waits_until(now));
        let drains = standing.filter_map(|s| s.draining_until);
        let operations = self.under_way.iter().map(|operation| operation.due);
        let twin = &self.standing[Kind::Twin as usize];
        let lingers = self.asked_at.filter(|_| twin.is_open() && self.subscribed == Subscribed::No);
        let lingers = lingers.map(|at| at + self.linger()).filter(|at| *at > now);
        let late = matches!(twin.state, State::Opening(_)) && self.has_asks();
        let late = late.then(|| twin.since + self.inner.limit());
        waits.chain(drains).chain(operations).chain(lingers).chain(late).min()
    }

    async fn received(&mut self, kind: Kind, delivery: Delivery<Body<Value>>, now: Instant) {
        match kind {
            Kind::Twin => match pairs::heard(delivery.into_message()) {
                Heard::Answer(id, answer) => self.answered(id, answer, now),
                Heard::Changed(patch) if self.wanted.desired => {
                    self.listener.desired(&self.who, patch.into());
                }
                Heard::Changed(_) => {}
                Heard::Nothing => self.unread(kind).await,
            },
            Kind::Methods => match pairs::called(delivery.into_message()) {
                Some(call) => self.call(call, now).await,
                None => self.unread(kind).await,
            },
            Kind::CloudToDevice => {
                let (info, message) = delivery.into_parts();
                let lock = Bytes::copy_from_slice(info.delivery_tag());
                let metrics = self.inner.metrics();
                let mut left_out = |what| metrics.counted("property_left_out", what);
                let message = message::read(lock, message, &mut left_out);
                if self.standing[kind as usize].draining_until.is_some() {
                    // It crossed the end of our credit. Given back once it comes again at once; after that its lock keeps it
                    // from being counted as undeliverable.
                    let again = message.delivery_count > 0;
                    let settlement = if again { Settlement::Leave } else { Settlement::Release };
                    return self.settle(info, settlement, now).await;
                }
                let hearing = self.listener.cloud_to_device(&self.who, message);
                self.messages.push(Box::pin(async move { (info, hearing.await) }));
            }
        }
    }

    /// Something came that nobody understands.
    async fn unread(&mut self, kind: Kind) {
        self.inner.metrics().counted("downlink_unread", kind.word());
        tracing::debug!(who = %self.who, kind = kind.word(), "a message that nobody understands");
        if kind == Kind::CloudToDevice {
            self.give_credit(self.inner.now()).await;
        }
    }

    /// The hub has answered an operation.
    fn answered(&mut self, id: u64, answer: Answer, now: Instant) {
        let Some(at) = self.under_way.iter().position(|operation| operation.id == id) else {
            return;
        };
        let result = match answer.status {
            200..=299 => Ok((answer.version, answer.body)),
            _ => Err(of_answer(&answer)),
        };
        match self.under_way.remove(at).what {
            Asked::Twin(done) => {
                let _ = done.send(result.map(|(_, body)| body.into()));
            }
            Asked::Report(done) => {
                let _ = done.send(result.map(|(version, _)| version));
            }
            Asked::Subscribe => match result {
                Err(error) => self.fail(Kind::Twin, error, now),
                Ok(_) => {
                    self.subscribed = Subscribed::Yes;
                    if self.wanted.desired {
                        self.listener.listening(&self.who);
                    }
                }
            },
        }
    }

    /// The connection is gone.
    fn close_all(&mut self) {
        let now = self.inner.now();
        for kind in Kind::ALL {
            self.standing[kind as usize].turn(State::Closed, now);
            self.standing[kind as usize].retry_at = None;
            self.standing[kind as usize].is_silent = false;
            self.forget(kind, "the connection ended");
        }
        self.token_at = None;
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
