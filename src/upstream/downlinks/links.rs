//! The links of one kind of one identity, and how they are attached.
//!
//! Owns: names, addresses and modes of the links (`iothub-protocol.md` B3); the order place, pace, token, attach, and the limits on
//! their time. Invariants: whoever asked hears of a token or an attach that the hub does not answer within the limit; such an
//! attach is not cancelled on a session that others have links on, and a receiving link stays until the hub has answered its
//! detach (see [`Link`]); so many identities at most are set up at a time, and one that is not answered gives its place to the
//! next. Must not know: what travels.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Receiver, Sender};
use fe2o3_amqp_types::definitions::ReceiverSettleMode;
use fe2o3_amqp_types::messaging::Target;
use futures_util::future::join_all;
use rand::Rng;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

use super::{CloudError, Inner, Product};
use crate::deliver::Outcome;
use crate::identity::Identity;
use crate::upstream::cbs::CbsError;
use crate::upstream::live::{GivenUp, Hold, Live, PutError};
use crate::upstream::outcome::{self, Verdict};
use crate::upstream::sessions::{Place, Turn};
use crate::upstream::{names, pairs};

/// Cloud-to-device messages under way for one device: IoT Hub holds 50, each of at most 64 KiB.
pub(super) const MESSAGES_MAX: u32 = 4;
/// Who waits longer than this for its token and its attaches gives its place to the next: a hub that leaves some without an
/// answer holds up nobody else.
const PLACE_HELD_MAX: Duration = Duration::from_secs(2);
/// Wait after there was no room.
const NO_ROOM_AFTER: Duration = Duration::from_secs(10);
/// Longest product text of a client that is passed on, in characters.
const CLIENT_CHARS_MAX: usize = 256;

/// What links are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum Kind {
    Twin,
    Methods,
    CloudToDevice,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Twin, Self::Methods, Self::CloudToDevice];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Twin => "twin",
            Self::Methods => "methods",
            Self::CloudToDevice => "cloud_to_device",
        }
    }

    /// Links that it takes.
    fn links(self) -> usize {
        match self {
            Self::Twin | Self::Methods => 2,
            Self::CloudToDevice => 1,
        }
    }
}

/// How many are open, by kind.
#[derive(Debug, Default)]
pub(super) struct Open([AtomicUsize; 3]);

impl Open {
    pub(super) fn of(&self, kind: Kind) -> usize {
        self.0[kind as usize].load(Ordering::Relaxed)
    }
}

/// The open links of one kind. Dropping it closes them.
///
/// The AMQP library ends a whole session, with everyone's links on it, when a transfer comes for a receiving link that was
/// dropped. So that link is kept until the hub has answered its detach: nothing can be on its way then.
pub(super) struct Link {
    /// `None`: the kind sends nothing.
    pub(super) sender: Option<Sender>,
    /// `None` only while it is dropped.
    receiver: Option<Receiver>,
    held: Option<Held>,
}

/// What goes when the links have.
struct Held {
    live: Arc<Live>,
    inner: Arc<Inner>,
    kind: Kind,
    _token: Arc<Hold>,
    _place: Place,
    _room: OwnedSemaphorePermit,
}

impl Link {
    fn new(sender: Option<Sender>, receiver: Receiver, held: Held) -> Box<Self> {
        held.inner.open.0[held.kind as usize].fetch_add(1, Ordering::Relaxed);
        Box::new(Self { sender, receiver: Some(receiver), held: Some(held) })
    }

    pub(super) fn receiver(&mut self) -> &mut Receiver {
        self.receiver.as_mut().expect("it is taken when this is dropped")
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        drop(self.sender.take());
        let (Some(receiver), Some(held)) = (self.receiver.take(), self.held.take()) else { return };
        held.inner.open.0[held.kind as usize].fetch_sub(1, Ordering::Relaxed);
        if held.live.severed.is_cancelled() {
            return;
        }
        // Without a runtime everything has ended.
        let Ok(runtime) = Handle::try_current() else { return };
        let tracker = held.live.tracker().clone();
        let closing = async move {
            // What waits for its turn is small; what closes is a future of some kilobytes. Turns are never closed.
            let turn = held.live.closings.acquire().await;
            // What the hub says to it changes nothing.
            let closing = Box::pin(receiver.close());
            let _ = held.live.severed.run_until_cancelled(closing).await;
            drop(turn);
            drop(held);
        };
        tracker.spawn_on(closing, &runtime);
    }
}

/// What the hub has left without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Token,
    Attach,
}

impl Step {
    /// For the counter.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Token => "token_unanswered",
            Self::Attach => "attach_unanswered",
        }
    }
}

/// Why there are no links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unopened {
    /// The hub or this side says so.
    Error(CloudError),
    /// The hub says nothing.
    Unanswered(Step),
}

/// Hears what came of an attach.
pub(super) type Attached = oneshot::Sender<Result<Box<Link>, Unopened>>;

/// Who gets links, and how.
pub(super) struct Setup {
    pub(super) inner: Arc<Inner>,
    pub(super) live: Arc<Live>,
    pub(super) who: Identity,
    pub(super) product: Product,
    /// The hub has refused the identity: its token is to be put again.
    pub(super) again: bool,
    /// The hub has left these links without an answer before: they wait in a line of their own, and keep their place in it to
    /// the end.
    pub(super) is_doubtful: bool,
}

impl Setup {
    /// Attaches links of these kinds, each on its own account. Ends with the connection.
    pub(super) async fn run(self, kinds: Vec<(Kind, Attached)>) {
        let severed = self.live.severed.clone();
        severed.run_until_cancelled(self.in_turn(kinds)).await;
    }

    async fn in_turn(&self, mut kinds: Vec<(Kind, Attached)>) {
        let line = match self.is_doubtful {
            true => &self.inner.doubtful_places,
            false => &self.inner.places,
        };
        // Never closed: the wait is for a place.
        let place = line.acquire().await;
        self.inner.pace.turn(self.inner.now()).await;
        kinds.retain(|(_, attached)| !attached.is_closed());
        if kinds.is_empty() {
            return;
        }
        self.inner.is_used.store(true, Ordering::Relaxed);
        let mut attaching = std::pin::pin!(self.attach_all(kinds));
        if !self.is_doubtful {
            tokio::select! {
                () = &mut attaching => return,
                () = tokio::time::sleep(PLACE_HELD_MAX) => {}
            }
            drop(place);
            return attaching.await;
        }
        attaching.await;
    }

    async fn attach_all(&self, kinds: Vec<(Kind, Attached)>) {
        let token = match self.live.hold_token(&self.who, self.again).await {
            Ok(token) => Arc::new(token),
            Err(error) => {
                let why = of_put_error(error);
                for (_, attached) in kinds {
                    let _ = attached.send(Err(why.clone()));
                }
                return;
            }
        };
        let attaching = kinds.into_iter();
        let attaching = attaching.map(|(kind, attached)| self.attach(kind, attached, &token));
        join_all(attaching).await;
    }

    /// Attaches, and says what came of it within the time limit.
    async fn attach(&self, kind: Kind, attached: Attached, token: &Arc<Hold>) {
        let (room, mut turn) = match self.prepared(kind).await {
            Ok(prepared) => prepared,
            Err(error) => return drop(attached.send(Err(Unopened::Error(error)))),
        };
        let is_apart = turn.is_apart();
        let mut attaching = Box::pin(self.halves(kind, turn.session()));
        let halves = timeout(self.inner.limit(), &mut attaching).await;
        if let Ok(halves) = halves {
            drop(attaching);
            let link = match self.link(kind, halves, (token, room, turn)) {
                Ok(link) => with_credit(link, kind).await,
                Err(error) => Err(error),
            };
            // Nobody there any more: the link is dropped, and so closed.
            let _ = attached.send(link.map_err(Unopened::Error));
            return;
        }
        let _ = attached.send(Err(Unopened::Unanswered(Step::Attach)));
        if is_apart {
            drop(attaching);
            return turn.end().await;
        }
        let _given_up = GivenUp::new(&self.live);
        let halves = attaching.await;
        // Nobody waits for it any more: it is closed at once.
        drop(self.link(kind, halves, (token, room, turn)));
    }

    /// Room, and a session to attach to.
    async fn prepared(&self, kind: Kind) -> Result<(OwnedSemaphorePermit, Turn), CloudError> {
        let links = u32::try_from(kind.links()).expect("one or two");
        let Ok(room) = self.inner.room.clone().try_acquire_many_owned(links) else {
            self.inner.metrics().counted("downlink_not_opened", "links_max");
            let detail = "as many links are open as may be".to_owned();
            return Err(CloudError::Busy { after: Some(NO_ROOM_AFTER), detail });
        };
        let turn = self.live.down_turn(kind.links(), self.is_doubtful).await;
        Ok((room, turn.ok_or(CloudError::Offline)?))
    }

    /// The sending half, if the kind has one, and the receiving one.
    async fn halves(
        &self,
        kind: Kind,
        session: &mut SessionHandle<()>,
    ) -> Result<(Option<Sender>, Receiver), CloudError> {
        let name = self.who.name();
        let client = self.product.client.as_deref().map(shortened);
        let model = self.product.model_id.as_deref();
        let properties = self.live.link_properties(name, model, client);
        let pair = match kind {
            Kind::Twin => pairs::Kind::Twin,
            Kind::Methods => pairs::Kind::Methods,
            Kind::CloudToDevice => {
                let link = format!("c2d:{:032x}", rand::rng().random::<u128>());
                let receiver = Receiver::builder()
                    .name(link.as_str())
                    .source(names::address(name, "messages/deviceBound"))
                    .target(Target::builder().address(format!("{link}-target")).build())
                    .receiver_settle_mode(ReceiverSettleMode::Second)
                    .max_message_size(pairs::MESSAGE_BYTES_MAX)
                    .credit_mode(CreditMode::Manual)
                    .properties(properties)
                    .attach(session)
                    .await
                    .map_err(|e| of_verdict(outcome::of_receiver_attach_error(e)))?;
                return Ok((None, receiver));
            }
        };
        let attached = pairs::attach(session, name, pair, properties).await;
        let (sender, receiver) = attached.map_err(|error| of_verdict(error.verdict()))?;
        Ok((Some(sender), receiver))
    }

    /// What the halves are as a link.
    fn link(
        &self,
        kind: Kind,
        halves: Result<(Option<Sender>, Receiver), CloudError>,
        (token, room, turn): (&Arc<Hold>, OwnedSemaphorePermit, Turn),
    ) -> Result<Box<Link>, CloudError> {
        // Also of a refusal: the session has answered, and serves others.
        let place = turn.done();
        let (sender, receiver) = halves?;
        let held = Held {
            live: self.live.clone(),
            inner: self.inner.clone(),
            kind,
            _token: token.clone(),
            _place: place,
            _room: room,
        };
        Ok(Link::new(sender, receiver, held))
    }
}

/// Lets the hub send messages; the other kinds have their credit.
async fn with_credit(mut link: Box<Link>, kind: Kind) -> Result<Box<Link>, CloudError> {
    if kind == Kind::CloudToDevice {
        link.receiver().set_credit(MESSAGES_MAX).await.map_err(|e| lost(&e))?;
    }
    Ok(link)
}

fn shortened(text: &str) -> &str {
    match text.char_indices().nth(CLIENT_CHARS_MAX) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// The links are gone, in these words.
pub(super) fn lost(why: &dyn std::fmt::Display) -> CloudError {
    CloudError::Lost(why.to_string())
}

/// What a verdict on links means for who asks.
pub(super) fn of_verdict(verdict: Verdict) -> CloudError {
    match verdict.last() {
        Outcome::Unauthenticated { detail } => CloudError::Unauthenticated(detail),
        Outcome::Retry { after, reason } => CloudError::Busy { after, detail: reason.to_owned() },
        Outcome::Offline => CloudError::Offline,
        Outcome::Rejected { reason, detail } => CloudError::Lost(format!("{reason}: {detail}")),
        Outcome::Delivered | Outcome::Partly { .. } => CloudError::Lost("ended".to_owned()),
    }
}

fn of_put_error(error: PutError) -> Unopened {
    Unopened::Error(match error {
        PutError::Cbs(CbsError::Refused(detail)) => CloudError::Unauthenticated(detail),
        PutError::Cbs(CbsError::Busy(detail)) => CloudError::Busy { after: None, detail },
        PutError::Cbs(CbsError::Gone) => CloudError::Offline,
        PutError::Sign(error) => CloudError::Busy { after: None, detail: error.to_string() },
        PutError::Time => return Unopened::Unanswered(Step::Token),
    })
}
