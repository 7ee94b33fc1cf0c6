//! One device's connection: the loop that joins a TLS stream, the session and the store.
//!
//! ```text
//!          bytes            packets              outputs             messages
//!  [wire] ------> decode ----------> [session] ----------> perform ----------> [handover] --> store
//!    ^                                  ^  |  PUBACK, ...     |                    |
//!    |                                  |  '------------------'                    |
//!    '---------- outbox <---------------'<---- Durable ---- receipts <-------------'
//! ```
//!
//! Owns: the session and the seat in the roster while admitted.
//! Invariants: bytes are read only while the session wants them and the store takes them, so that a device that sends faster
//! than the disk is slowed by TCP and never buffered without bound; a PUBACK leaves only after its receipt came, and the
//! PUBACKs of one commit leave in one write; a peer that does not read keeps this task from nothing else; a connection that
//! was taken over hands nothing to the store after its newcomer was let in. Must not know: what is upstream.

mod alarm;
mod handover;
mod judge;
mod log_in;
mod relayed;
mod report;
mod seat;
mod wire;

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tracing::debug;

use self::alarm::Alarm;
use self::handover::{HandOver, Step};
use self::judge::{cost, in_mqtt, judge};
use self::relayed::Downward;
use self::wire::{Wire, WireEvent};
use super::door::Pass;
use super::ingest::Ingest;
use super::kept_sessions::KeptSessions;
use super::limits::bucket::Pace;
use super::limits::conduct::Cost;
use super::mailbox::{MethodResponse, Relay};
use super::roster::{Roster, Seat};
use crate::auth::decision::Decisions;
use crate::auth::{self, Admission, AskHub, Attempt, Authenticator};
use crate::clock::{SharedClock, UnixMillis};
use crate::identity::ClientName;
use crate::message::{Message, SystemKey};
use crate::metrics::{KeptSeries, Metrics};
use crate::mqtt::packet::{ConnectReturnCode, Packet};
use crate::session::{
    CloseReason, ConnectRequest, Limits, Output, Refusal, Session, Subscriptions,
};
use crate::store::{AppendError, Appender};

/// What the peer gets of us when the connection ends: the time for the last packets and the close_notify.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Packets that are served before other connections get a turn on this thread.
const PACKETS_PER_TURN: usize = 64;

/// Outputs that a connection keeps room for.
const OUTPUTS_KEPT: usize = 32;

/// Limits of a connection.
#[derive(Debug, Clone)]
pub struct Config {
    /// The session's limits.
    pub session: Limits,
    /// A peer that does not take our bytes for that long is closed.
    pub write_timeout: Duration,
    /// How long a newcomer waits for the connection that it displaced to end.
    pub takeover_wait: Duration,
    /// How long a connection may wait for its receipts when the gateway stops.
    pub drain_timeout: Duration,
}

/// What all connections share.
pub struct Front {
    /// Limits.
    pub config: Config,
    /// Decides who may come in.
    pub authenticator: Arc<Authenticator>,
    /// Who is connected.
    pub roster: Arc<Roster>,
    /// Message -> queues.
    pub ingest: Arc<Ingest>,
    /// The way into the store.
    pub appender: Appender,
    /// Carries on what clients ask for besides telemetry, and has letters for them.
    pub relay: Arc<dyn Relay>,
    /// Sessions that outlive their connections.
    pub sessions: Arc<KeptSessions>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: SharedClock,
    /// Asks the hub about a name that the scope does not let in (yet).
    pub hub: Box<dyn AskHub>,
    /// Told of each decision.
    pub decisions: Arc<dyn Decisions>,
}

/// Serves one device until it leaves, misbehaves, is displaced, or `stop`.
pub(super) async fn run<S>(
    stream: S,
    chain: Vec<CertificateDer<'static>>,
    peer: SocketAddr,
    front: Arc<Front>,
    pass: Pass,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let limits = front.config.session;
    let leave = pass.leave().clone();
    let mut connection = Connection {
        wire: Wire::new(stream, pass.place(), front.config.write_timeout),
        chain,
        peer,
        session: Session::new(limits, front.clock.monotonic()),
        handover: HandOver::new(front.appender.clone(), limits.inflight_max),
        front,
        pace: pass.pace(),
        pass,
        stop,
        leave,
        seat: None,
        admitted: false,
        denied: false,
        cost: Cost::Handshake,
        claimed: None,
        model_id: None,
        downward: None,
        kept: KeptSeries::default(),
        outputs: Vec::new(),
        ended: None,
        drained: false,
    };
    connection.serve().await;
    Box::pin(connection.leave()).await;
}

struct Connection<S> {
    wire: Wire<S>,
    chain: Vec<CertificateDer<'static>>,
    peer: SocketAddr,
    front: Arc<Front>,
    session: Session,
    handover: HandOver,
    pace: Pace,
    pass: Pass,
    /// The gateway stops.
    stop: CancellationToken,
    /// The same, or this connection is to make room: one thing to watch instead of two.
    leave: CancellationToken,
    seat: Option<Seat>,
    /// Whether it was let in.
    admitted: bool,
    /// Whether it was refused for who it is.
    denied: bool,
    /// What it counts for if it is not let in.
    cost: Cost,
    /// The name in the CONNECT, for the log and the counters of a refusal.
    claimed: Option<ClientName>,
    model_id: Option<Box<str>>,
    /// Once the client has its seat.
    downward: Option<Box<Downward>>,
    /// The identity's.
    kept: KeptSeries,
    outputs: Vec<Output>,
    ended: Option<CloseReason>,
    /// Whether the time that a stop gives was used.
    drained: bool,
}

/// What woke the connection.
enum Wake {
    Leave,
    Store(Step),
    Letters,
    Wire(WireEvent),
    Deadline,
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    async fn serve(&mut self) {
        let leave = self.leave.clone();
        // Made once: each would have to join and leave a list that all connections share, for every packet.
        let mut left = pin!(leave.cancelled());
        let mut alarm = Alarm::new();
        loop {
            self.progress().await;
            if self.ended.is_some() {
                return;
            }
            match self.wait(left.as_mut(), &mut alarm).await {
                Wake::Leave if self.stop.is_cancelled() => {
                    Box::pin(self.drain()).await;
                    self.drained = true;
                    self.close(CloseReason::environment("shutdown", "the gateway stops"));
                }
                Wake::Leave if self.seat.is_none() => self.close(log_in::crowded_out()),
                Wake::Leave => self.close(seat::departure(self.seat.as_ref())),
                Wake::Store(step) => self.stored(step),
                Wake::Letters => Box::pin(self.serve_letters()).await,
                Wake::Wire(event) => self.wired(event),
                Wake::Deadline => {
                    let (now, wall) = (self.front.clock.monotonic(), self.front.clock.wall());
                    self.pace.on_time(now);
                    self.session.on_timeout(now, wall, &mut self.outputs);
                }
            }
        }
    }

    /// Whether a packet may be taken: the session has room, the store takes messages, the peer reads its answers and
    /// does not send too fast.
    fn may_take(&self) -> bool {
        let has_room = self.handover.has_room() && self.wire.has_room();
        self.session.wants_read() && has_room && self.pace.rest_until().is_none()
    }

    /// Serves packets that are there until none is left that may be taken. What a packet asks for is carried out before
    /// the next look: it can make room, and nothing else would wake us for what is left.
    async fn progress(&mut self) {
        loop {
            self.perform().await;
            if self.ended.is_some() {
                return;
            }
            // What the store takes at once makes room for more, and nothing else would tell us.
            self.handover.start();
            if !self.wire.has_bytes() {
                return;
            }
            // One look at the clocks serves a turn: its packets came in together.
            let (now, wall) = (self.front.clock.monotonic(), self.front.clock.wall());
            let mut served = 0;
            while served < PACKETS_PER_TURN && self.may_take() && self.decode_one(now, wall) {
                served += 1;
            }
            match served {
                0 => return,
                PACKETS_PER_TURN => tokio::task::yield_now().await,
                _ => {}
            }
        }
    }

    /// Hands one packet to the session; says whether there was one.
    fn decode_one(&mut self, now: Instant, wall: UnixMillis) -> bool {
        match self.wire.decode(self.session.packet_bytes_max()) {
            Ok(Some(packet)) => self.session.on_packet(packet, now, wall, &mut self.outputs),
            Ok(None) => return false,
            Err(e) => self.session.on_codec_error(e, wall, &mut self.outputs),
        }
        self.pace.served(now);
        true
    }

    /// Sleeps until something happens. Every branch may be dropped half-way without losing anything.
    async fn wait(
        &mut self,
        left: Pin<&mut WaitForCancellationFuture<'_>>,
        alarm: &mut Alarm,
    ) -> Wake {
        self.handover.start();
        let (may_read, has_room) = (self.may_take(), self.wire.has_room());
        let reads = may_read && self.wire.has_place();
        if reads != self.session.is_reading() {
            self.session.set_reading(reads, self.front.clock.monotonic());
        }
        alarm.set(self.session.deadline().into_iter().chain(self.pace.rest_until()).min());
        let letters = std::future::poll_fn(|cx| Downward::poll_ready(&mut self.downward, cx));
        tokio::select! {
            () = left => Wake::Leave,
            step = self.handover.step() => Wake::Store(step),
            () = letters, if has_room => Wake::Letters,
            event = self.wire.event(may_read) => Wake::Wire(event),
            () = std::future::poll_fn(|cx| alarm.poll_ring(cx)) => Wake::Deadline,
        }
    }

    fn stored(&mut self, step: Step) {
        match step {
            Step::Taken(Ok(())) => {}
            Step::Taken(Err(e)) => self.not_stored(e),
            Step::Receipts => self.take_receipts(),
        }
    }

    /// All that are there: the PUBACKs of one commit leave together.
    fn take_receipts(&mut self) {
        let now = self.front.clock.monotonic();
        let mut receipts = self.handover.receipts();
        for receipt in receipts.drain(..) {
            match receipt.result {
                Ok(durable) => self.session.on_durable(durable, now, &mut self.outputs),
                Err(e) => {
                    self.not_stored(e);
                    break;
                }
            }
        }
        self.handover.reuse(receipts);
    }

    fn wired(&mut self, event: WireEvent) {
        match event {
            WireEvent::Read(Ok(0)) => {
                self.close(CloseReason::peer("eof", "the client closed without DISCONNECT"));
            }
            WireEvent::Read(Ok(_)) | WireEvent::Written(Ok(())) => {}
            WireEvent::Read(Err(e)) => {
                self.close(CloseReason::peer("read", format!("reading failed: {e}")));
            }
            WireEvent::Written(Err(e)) => {
                self.close(CloseReason::peer("write", format!("writing failed: {e}")));
            }
            WireEvent::Stalled => {
                let detail = "the client has not taken our answers for the write timeout";
                self.close(CloseReason::peer("write_timeout", detail));
            }
            WireEvent::Overdue => {
                let detail =
                    "the rest of a large packet did not come, and others waited for its room";
                self.close(CloseReason::peer("packet_overdue", detail));
            }
        }
    }

    /// Carries out what the session wants, in order, until it wants nothing more.
    async fn perform(&mut self) {
        while !self.outputs.is_empty() {
            let mut outputs = std::mem::take(&mut self.outputs);
            for output in outputs.drain(..) {
                match output {
                    Output::Send(packet) => self.send(&packet),
                    Output::Authenticate(request) => Box::pin(self.authenticate(*request)).await,
                    Output::Route { tag, message } => self.route(tag, message),
                    Output::TwinRequest(request) => self.ask(request),
                    Output::MethodResponse { rid, status, body } => {
                        self.answer(MethodResponse { rid, status, body });
                    }
                    Output::FilterDenied(denied) => {
                        self.front.metrics.refused("subscribe", denied.label());
                    }
                    Output::Acknowledged { tag } => self.acknowledged(tag),
                    Output::Subscriptions(now) => Box::pin(self.subscribed(now)).await,
                    Output::Close(reason) => self.ended = Some(reason),
                }
            }
            // The buffer serves again, unless it has become large.
            if self.outputs.capacity() == 0 && outputs.capacity() <= OUTPUTS_KEPT {
                self.outputs = outputs;
            }
        }
    }

    fn send(&mut self, packet: &Packet) {
        if let Err(e) = self.wire.push(packet) {
            let detail = format!("a packet of ours could not be encoded: {e}");
            self.close(CloseReason::ours("encode", detail));
        }
    }

    fn close(&mut self, reason: CloseReason) {
        self.session.close(reason, self.front.clock.wall(), &mut self.outputs);
    }

    async fn authenticate(&mut self, request: ConnectRequest) {
        self.claimed = Some(request.claim.clone());
        let attempt = Attempt {
            claim: &request.claim,
            password: request.password.as_deref(),
            chain: &self.chain,
        };
        let verdict = match judge(&self.front, attempt, self.peer, &self.pass).await {
            Ok(admission) => {
                let (identity, admission) = (admission.identity.clone(), Arc::new(admission));
                let seated = match self.log_in(&identity) {
                    Ok(()) => self.take_seat(Arc::clone(&admission)).await,
                    Err(too_often) => Err(too_often),
                };
                seated.map(|()| {
                    self.front.admitted(self.peer, &request.claim, &admission, &self.chain);
                    identity
                })
            }
            Err(refusal) => {
                self.denied = refusal.code == auth::RefusalCode::NotAuthorized;
                self.cost = cost(&self.front, attempt, &self.pass).await;
                Err(in_mqtt(refusal))
            }
        };
        if verdict.is_ok() {
            // The chain has been judged; thousands of connections need not keep theirs.
            self.chain = Vec::new();
        }
        self.model_id = request.model_id;
        let admitted = verdict.as_ref().ok().cloned();
        let mut subscriptions = Subscriptions::default();
        if let Some(identity) = &admitted {
            let earlier = self.earlier(identity, request.clean_session).await;
            subscriptions = earlier.as_ref().map(|e| e.subscriptions).unwrap_or_default();
            self.session.set_serial(self.serial());
            self.session.resume(earlier);
        }
        self.session.on_authenticated(verdict, self.front.clock.monotonic(), &mut self.outputs);
        if let Some(identity) = admitted {
            // Before what came with the CONNECT in one flight is carried out.
            self.arrive(identity, request.clean_session, request.product_info, subscriptions);
        }
    }

    /// Takes the identity's seat; an older connection has ended (or had its time) before this returns.
    async fn take_seat(&mut self, admission: Arc<Admission>) -> Result<(), Refusal> {
        let identity = &admission.identity;
        let later =
            |label, detail| Refusal { code: ConnectReturnCode::ServerUnavailable, label, detail };
        let entered = self.front.roster.enter(&admission, self.leave.clone());
        let (seat, older) = entered.map_err(|full| later("clients_max", full.to_string()))?;
        let seat = self.seat.insert(seat);
        if let Some(older) = older {
            debug!("Multiple connections detected for device {identity}: the newer one takes over");
            // Also when a still newer one is here by now: it waits for us, and so for those whom we wait for.
            let wait = tokio::time::timeout(self.front.config.takeover_wait, older.gone());
            if wait.await.is_err() {
                self.front.metrics.counted("takeover", "old_connection_lingers");
            }
        }
        // Between the verdict and the seat nobody could ask us to leave.
        if seat.is_asked_to_leave() && !self.stop.is_cancelled() {
            let CloseReason { label, detail, .. } = seat::departure(Some(seat));
            return Err(later(label, detail.into_owned()));
        }
        let authenticator = &self.front.authenticator;
        let standing = authenticator.judge_standing(&admission, authenticator.now());
        if let Err(refusal) = standing {
            return Err(later(refusal.label, refusal.detail));
        }
        self.admitted = true;
        self.wire.is_of_client();
        self.front.metrics.client_connected(identity);
        seat::tell_connected(&admission, self.peer, &self.front.metrics);
        Ok(())
    }

    fn route(&mut self, tag: u64, mut message: Message) {
        if let Some(model_id) = &self.model_id {
            message.system.set(SystemKey::ModelId, model_id.clone());
        }
        let receipt = self.handover.receipt_to(tag);
        match self.front.ingest.prepare(&message, receipt, &mut self.kept) {
            Some(append) => self.handover.push(append),
            None => {
                let now = self.front.clock.monotonic();
                self.session.on_unrouted(tag, now, &mut self.outputs);
            }
        }
    }

    /// The message cannot be kept: no PUBACK, the device has it and sends it again.
    fn not_stored(&mut self, e: AppendError) {
        // One heals by itself, the other needs a person.
        let reason = if e == AppendError::Full { "store_full" } else { "storage_failure" };
        if let Some(identity) = self.session.identity() {
            self.front.metrics.message_unacked(reason, identity, None);
        }
        self.close(CloseReason::environment(reason, e.to_string()));
    }

    /// The gateway stops: what is on its way to the disk gets its PUBACK, within the time for it.
    async fn drain(&mut self) {
        let limit = self.front.config.drain_timeout;
        let drained = tokio::time::timeout(limit, async {
            while !self.handover.is_idle() && !self.session.is_closed() {
                let step = self.handover.step().await;
                self.stored(step);
                self.perform().await;
            }
        });
        if drained.await.is_err() {
            self.front.metrics.counted("unacknowledged_at_close", "shutdown");
        }
    }

    /// The end. What was received goes to the store first, then the seat is given back, and only then the peer gets the
    /// time for a farewell: a newcomer of this identity waits for the first and not for the last.
    async fn leave(&mut self) {
        self.depart();
        // At a stop the time for receipts was the time for this, too.
        let limit = if self.drained { Duration::ZERO } else { self.front.config.drain_timeout };
        let handed = tokio::time::timeout(limit, self.handover.finish()).await;
        if !matches!(handed, Ok(Ok(()))) {
            // Whoever comes next under this identity sends it again: then nothing of ours may follow.
            self.handover.revoke();
            self.front.metrics.counted("unacknowledged_at_close", "not_stored");
        }
        let reason = self.ended.take();
        let reason =
            reason.unwrap_or_else(|| CloseReason::ours("no_reason", "ended without a reason"));
        self.report(&reason);
        self.seat = None;
        if let Err(e) = self.wire.farewell(GOODBYE_TIMEOUT).await {
            debug!(peer = %self.peer, "no farewell: {e}");
        }
    }
}

#[cfg(test)]
mod tests;
