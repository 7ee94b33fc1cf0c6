//! The MQTT session of one client: packets and time in, [`Output`]s out.
//!
//! Owns: what a client may do when (CONNECT first and once, keep-alive, topics of its own identity), the in-flight
//! windows of both ways, and the order of PUBACKs. Where a PUBACK is decided: [`Session::on_durable`],
//! [`Session::on_unrouted`], and for a patch of the twin [`Session::on_kept`].
//!
//! ```text
//!              CONNECT                on_authenticated(Ok)
//!  AwaitConnect -------> Authenticating -------> Connected -----> Closed
//!       |  refused, timeout     |  refused, timeout   | DISCONNECT, violation, timeout, close(), on_closed()
//!       `-----------------------+---------------------+-------------^
//! ```
//!
//! Invariants:
//! 1. A PUBLISH of telemetry is acknowledged only after `on_durable` (it takes [`Durable`], which only the store makes)
//!    or `on_unrouted` named it; PUBACKs leave in the order of the PUBLISHes \[MQTT-4.6.0-2\].
//! 2. Nothing follows [`Output::Close`]; it comes once.
//! 3. At most `inflight_max` [`Output::Route`]s are without an answer at any time, and one will besides.
//! 4. A PUBLISH to the client is sent with the QoS of its subscription, in the order of [`Session::send`]
//!    \[MQTT-4.6.0-6\], and once: what was not acknowledged when the connection ended is its sender's to send again.
//! 5. Only packets of the client keep it alive, ours do not.
//! 6. Every message carries the authenticated identity; a topic that names another one closes the connection.
//!
//! # How to drive it
//!
//! While [`wants_read`](Session::wants_read): decode one packet with [`packet_bytes_max`](Session::packet_bytes_max),
//! hand it to [`on_packet`](Session::on_packet) (an error to [`on_codec_error`](Session::on_codec_error)), carry the
//! outputs out in order, ask again. Otherwise wait: for a receipt, for the verdict of auth, for
//! [`deadline`](Session::deadline), for the end of the socket. A receipts channel of `inflight_max` + 1 never fills.
//!
//! Must not know: sockets, clocks, tokio, routes, files, who else is connected.

mod address;
mod connect;
mod live;
mod outgoing;
mod output;
#[cfg(test)]
mod tests;
mod window;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use connect::{ConnectRequest, Refusal};
pub use output::{
    Blame, CloseReason, Outbound, Output, Remembered, Sent, Subscriptions, TwinRequest,
};

use self::connect::Pending;
use self::live::{Live, Served};
use self::window::Awaits;
use crate::clock::UnixMillis;
use crate::identity::{ClientName, Identity};
use crate::iothub::subscriptions::Subscription;
use crate::mqtt::codec::CodecError;
use crate::mqtt::packet::{ConnAck, ConnectReturnCode, Packet, QoS};
use crate::store::Durable;

/// What a session may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest packet in bytes, as [`codec`](crate::mqtt::codec) counts. Default 262,144, IoT Hub's own.
    pub packet_bytes_max: usize,
    /// The same before CONNECT: a stranger gets less to buffer. Default 65,536; a CONNECT with a SAS token has about
    /// 600 bytes, only a will makes it larger.
    pub connect_bytes_max: usize,
    /// PUBLISHes that may wait for their receipts, at least 1; the next one stops the reading. Default 16.
    pub inflight_max: usize,
    /// Time from accept to a complete CONNECT, and to its authentication. Default 60 s.
    pub connect_timeout: Duration,
    /// Longest silence, and the silence allowed to who asks for none (keep-alive 0). Default 600 s.
    pub keep_alive_max: Duration,
    /// Longest wait of a PUBLISH for its receipt. The C SDK gives a message up for lost 120 s after it sent it, unless
    /// the connection breaks before: then it sends it again. Default 100 s.
    pub ack_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet_bytes_max: 262_144,
            connect_bytes_max: 65_536,
            inflight_max: 16,
            connect_timeout: Duration::from_secs(60),
            keep_alive_max: Duration::from_secs(600),
            ack_timeout: Duration::from_secs(100),
        }
    }
}

/// Most packets that are held back, while the client is authenticated or a PUBLISH waits for room in the window.
const HELD_PACKETS_MAX: usize = 32;

/// From this many held bytes on reading stops while the client is authenticated.
const HELD_BYTES_MAX: usize = 65_536;

/// One client's session. See [the module](self).
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    state: State,
    /// Packets that came too early to be served, oldest first, with the wall time of their arrival.
    held: VecDeque<(Packet, UnixMillis)>,
    /// Bytes held while the client is authenticated; afterwards the window is what bounds.
    held_bytes: usize,
    /// Whether the caller reads.
    reading: bool,
}

#[derive(Debug)]
enum State {
    AwaitConnect { until: Instant },
    Authenticating { until: Instant, pending: Box<Pending> },
    Connected(Box<Live>),
    Closed,
}

impl Session {
    /// A session whose connection was accepted at `now`.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            state: State::AwaitConnect { until: now + limits.connect_timeout },
            held: VecDeque::new(),
            held_bytes: 0,
            reading: true,
        }
    }

    /// A packet has arrived. Only to be called while [`wants_read`](Self::wants_read).
    pub fn on_packet(
        &mut self,
        packet: Packet,
        now: Instant,
        wall: UnixMillis,
        out: &mut Vec<Output>,
    ) {
        match &mut self.state {
            State::Closed => {}
            State::AwaitConnect { until } => {
                let until = *until;
                self.first_packet(packet, until, out);
            }
            // A client may send on without waiting for the CONNACK (section 3.1.4, non-normative).
            State::Authenticating { .. } => self.hold(packet, wall, out),
            State::Connected(live) => {
                live.heard(now);
                if self.held.is_empty() {
                    self.serve(packet, now, wall, out);
                } else {
                    self.hold(packet, wall, out);
                }
            }
        }
    }

    /// The bytes received are no packet \[MQTT-4.8.0-1\].
    pub fn on_codec_error(&mut self, error: CodecError, wall: UnixMillis, out: &mut Vec<Output>) {
        if let (State::AwaitConnect { .. }, CodecError::ProtocolLevel(_)) = (&self.state, error) {
            // [MQTT-3.1.2-2]
            refuse(ConnectReturnCode::UnacceptableProtocolVersion, out);
        }
        self.close(CloseReason::peer(error.label(), error.to_string()), wall, out);
    }

    /// An earlier session of the client that asks to be let in is there: to be called before
    /// [`on_authenticated`](Self::on_authenticated), and only if it asked for it (CleanSession 0). `None` = there is none.
    pub fn resume(&mut self, earlier: Option<Remembered>) {
        if let State::Authenticating { pending, .. } = &mut self.state {
            pending.earlier = earlier;
        }
    }

    /// Another one for another connection of the same client, so that their packet ids differ: to be called before
    /// [`on_authenticated`](Self::on_authenticated).
    pub fn set_serial(&mut self, serial: u64) {
        if let State::Authenticating { pending, .. } = &mut self.state {
            pending.seed = serial;
        }
    }

    /// The answer to [`Output::Authenticate`].
    pub fn on_authenticated(
        &mut self,
        verdict: Result<Identity, Refusal>,
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        let pending = match std::mem::replace(&mut self.state, State::Closed) {
            State::Authenticating { pending, .. } => pending,
            // Too late: timed out or closed meanwhile.
            other => {
                self.state = other;
                return;
            }
        };
        match verdict {
            Ok(identity) => {
                // [MQTT-3.2.2-1, -2, -3]
                let session_present = pending.earlier.is_some();
                self.state = State::Connected(Box::new(Live::new(*pending, identity, now)));
                let connack = ConnAck { session_present, code: ConnectReturnCode::Accepted };
                out.push(Output::Send(Packet::ConnAck(connack)));
                self.serve_held(now, out);
            }
            Err(refusal) => {
                let blame = match refusal.code {
                    ConnectReturnCode::ServerUnavailable => Blame::Environment,
                    _ => Blame::Peer,
                };
                self.refuse_and_close(refusal, blame, out);
            }
        }
    }

    /// A routed message is on disk in every queue that its routes name.
    #[allow(clippy::needless_pass_by_value, reason = "the proof is used up: one PUBACK, not two")]
    pub fn on_durable(&mut self, durable: Durable, now: Instant, out: &mut Vec<Output>) {
        self.settle(durable.tag(), Awaits::Store, now, out);
    }

    /// No route took the message with this tag: there is nothing to keep, so it is acknowledged.
    pub fn on_unrouted(&mut self, tag: u64, now: Instant, out: &mut Vec<Output>) {
        self.settle(tag, Awaits::Store, now, out);
    }

    /// The patch of the twin with this tag is durable, or was answered for good ([`TwinRequest::Patch`]): its PUBACK may leave.
    /// Another's tag changes nothing.
    pub fn on_kept(&mut self, tag: u64, now: Instant, out: &mut Vec<Output>) {
        self.settle(tag, Awaits::Relay, now, out);
    }

    /// Sends `content` to the client, if it has subscribed to such. `tag` is the caller's and comes back with
    /// [`Output::Acknowledged`]; at most 64 wait for the client's PUBACK.
    pub fn send(&mut self, tag: u64, content: Outbound, out: &mut Vec<Output>) -> Sent {
        match &mut self.state {
            State::Connected(live) => live.send(tag, content, out),
            _ => Sent::NotSubscribed,
        }
    }

    /// The caller reads from the socket from now on, or does not (for a reason of its own, besides
    /// [`wants_read`](Self::wants_read)). While it does not, silence is not the client's, and when it reads again the
    /// client's time starts anew.
    pub fn set_reading(&mut self, reading: bool, now: Instant) {
        if reading
            && !self.reading
            && let State::Connected(live) = &mut self.state
        {
            live.heard(now);
        }
        self.reading = reading;
    }

    /// What [`set_reading`](Self::set_reading) said last.
    pub fn is_reading(&self) -> bool {
        self.reading
    }

    /// When [`on_timeout`](Self::on_timeout) is to be called, unless something else happens before.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::AwaitConnect { until } | State::Authenticating { until, .. } => Some(*until),
            State::Connected(live) => {
                live.deadline(self.held.is_empty() && self.reading, self.limits.ack_timeout)
            }
            State::Closed => None,
        }
    }

    /// Time has passed. Does nothing before the deadline.
    pub fn on_timeout(&mut self, now: Instant, wall: UnixMillis, out: &mut Vec<Output>) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let reason = match &self.state {
            State::AwaitConnect { .. } => {
                CloseReason::peer("connect_timeout", "no CONNECT arrived in time")
            }
            State::Authenticating { .. } => {
                refuse(ConnectReturnCode::ServerUnavailable, out);
                let detail = "the client could not be authenticated in time";
                CloseReason::environment("authentication_timeout", detail)
            }
            State::Connected(live) => live.timeout_reason(now, self.limits.ack_timeout),
            State::Closed => return,
        };
        self.close(reason, wall, out);
    }

    /// Whether to read on. While false the caller must not read from the socket nor hand over packets that it has
    /// already; it asks again after [`on_durable`](Self::on_durable), [`on_unrouted`](Self::on_unrouted) and
    /// [`on_authenticated`](Self::on_authenticated).
    pub fn wants_read(&self) -> bool {
        match self.state {
            State::AwaitConnect { .. } => true,
            State::Authenticating { .. } => {
                self.held.len() < HELD_PACKETS_MAX && self.held_bytes < HELD_BYTES_MAX
            }
            State::Connected(_) => self.held.is_empty(),
            State::Closed => false,
        }
    }

    /// The limit to decode the next packet with.
    pub fn packet_bytes_max(&self) -> usize {
        match self.state {
            State::AwaitConnect { .. } => self.limits.connect_bytes_max,
            _ => self.limits.packet_bytes_max,
        }
    }

    /// The gateway ends the session (takeover, shutdown, the store cannot keep what was sent).
    pub fn close(&mut self, reason: CloseReason, wall: UnixMillis, out: &mut Vec<Output>) {
        if !matches!(self.state, State::Closed) {
            self.on_closed(wall, out);
            out.push(Output::Close(reason));
        }
    }

    /// The socket is closed: gives the will if it is due \[MQTT-3.1.2-8\].
    pub fn on_closed(&mut self, wall: UnixMillis, out: &mut Vec<Output>) {
        let state = std::mem::replace(&mut self.state, State::Closed);
        // A DISCONNECT that could not be served yet has been received all the same [MQTT-3.14.4-3].
        let farewell = self.held.iter().any(|(packet, _)| *packet == Packet::Disconnect);
        self.held = VecDeque::new();
        self.held_bytes = 0;
        if let State::Connected(live) = state
            && !farewell
        {
            out.extend(live.into_will(wall));
        }
    }

    /// Whether the session has ended.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Who is connected.
    pub fn identity(&self) -> Option<&Identity> {
        self.live().map(Live::identity)
    }

    /// How the connected client spells itself: what goes into topics that it is sent. It differs from the identity only
    /// where the registry spells the id in another case.
    pub fn claim(&self) -> Option<&ClientName> {
        self.live().map(Live::claim)
    }

    /// The QoS that was granted, if the client has this subscription.
    pub fn subscribed(&self, subscription: Subscription) -> Option<QoS> {
        self.live()?.remembered().subscriptions.get(subscription)
    }

    /// What is to be remembered for the client's next connection, if it is connected.
    pub fn remembered(&self) -> Option<&Remembered> {
        self.live().map(Live::remembered)
    }

    /// PUBLISHes to the client that wait for its PUBACK.
    pub fn unacknowledged(&self) -> usize {
        self.live().map_or(0, Live::unacknowledged)
    }

    /// PUBLISHes that wait for their receipts.
    pub fn in_flight(&self) -> usize {
        self.live().map_or(0, Live::in_flight)
    }

    fn live(&self) -> Option<&Live> {
        match &self.state {
            State::Connected(live) => Some(live),
            _ => None,
        }
    }

    fn first_packet(&mut self, packet: Packet, until: Instant, out: &mut Vec<Output>) {
        let Packet::Connect(connect) = packet else {
            // [MQTT-3.1.0-1]
            let detail = format!("the first packet is {}, not CONNECT", packet.name());
            self.state = State::Closed;
            out.push(Output::Close(CloseReason::peer("connect_missing", detail)));
            return;
        };
        match connect::judge(*connect, &self.limits) {
            Ok((request, pending)) => {
                self.state = State::Authenticating { until, pending: Box::new(pending) };
                out.push(Output::Authenticate(Box::new(request)));
            }
            Err(refusal) => self.refuse_and_close(refusal, Blame::Peer, out),
        }
    }

    fn refuse_and_close(&mut self, refusal: Refusal, blame: Blame, out: &mut Vec<Output>) {
        self.state = State::Closed;
        self.held = VecDeque::new();
        let Refusal { code, label, detail } = refusal;
        refuse(code, out);
        // After a refusal the server closes [MQTT-3.2.2-5].
        out.push(Output::Close(CloseReason { blame, label, detail: detail.into() }));
    }

    /// False when the packet is a PUBLISH that found no room and is held back now, first in line.
    fn serve(
        &mut self,
        packet: Packet,
        now: Instant,
        wall: UnixMillis,
        out: &mut Vec<Output>,
    ) -> bool {
        let State::Connected(live) = &mut self.state else {
            return true;
        };
        match live.serve(packet, &self.limits, now, wall, out) {
            Served::Done => {}
            Served::Stalled(publish) => {
                self.held.push_front((Packet::Publish(publish), wall));
                return false;
            }
            Served::Farewell => {
                self.state = State::Closed;
                self.held = VecDeque::new();
                out.push(Output::Close(CloseReason::farewell()));
            }
            Served::Violation(reason) => self.close(reason, wall, out),
        }
        true
    }

    fn hold(&mut self, packet: Packet, wall: UnixMillis, out: &mut Vec<Output>) {
        if self.held.len() >= HELD_PACKETS_MAX {
            let detail = "packets were handed over while the session did not want to read";
            self.close(CloseReason::ours("read_past_stop", detail), wall, out);
            return;
        }
        self.held_bytes += weight(&packet);
        self.held.push_back((packet, wall));
    }

    /// Serves what was held back, up to the next PUBLISH that finds no room.
    fn serve_held(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.held.is_empty() {
            return;
        }
        while let Some((packet, wall)) = self.held.pop_front() {
            if !self.serve(packet, now, wall, out) {
                return;
            }
        }
        self.held_bytes = 0;
        if let State::Connected(live) = &mut self.state {
            // Nobody listened while the window was full: the silence was ours.
            live.heard(now);
        }
    }

    fn settle(&mut self, tag: u64, by: Awaits, now: Instant, out: &mut Vec<Output>) {
        if let State::Connected(live) = &mut self.state {
            live.settle(tag, by, out);
            self.serve_held(now, out);
        }
    }
}

fn refuse(code: ConnectReturnCode, out: &mut Vec<Output>) {
    // [MQTT-3.2.2-4]
    out.push(Output::Send(Packet::ConnAck(ConnAck { session_present: false, code })));
}

/// Bytes of a held packet that its sender chose.
fn weight(packet: &Packet) -> usize {
    match packet {
        Packet::Publish(p) => p.topic.len() + p.payload.len(),
        Packet::Subscribe(s) => s.filters.iter().map(|(filter, _)| filter.len()).sum(),
        Packet::Unsubscribe(u) => u.filters.iter().map(|filter| filter.len()).sum(),
        _ => 0,
    }
}
