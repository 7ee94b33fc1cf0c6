//! One AMQP connection as a state machine: bytes in, bytes out; no IO.
//!
//! Owns: protocol headers, SASL, sessions, the output buffer and the dispositions that wait. Invariant: after
//! [`Connection::is_over`] nothing is read or sent any more except the peer's `close`. Must not know: sockets.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};

use super::cbs::Tokens;
use super::frame::{
    FRAME_BYTES_MAX, Frame, FrameError, HEADER_AMQP, HEADER_SASL, Layer, Performative, code, error,
    performative, put_frame, put_heartbeat, take_frame,
};
use super::link::Link;
use super::skim::Transfer;
use super::value::{DecodeError, Value};
use crate::driver::{Connection, LastBytes};
use crate::hub::{Command, Handle, Hub};

/// Incoming window of a session, transfers.
pub(crate) const WINDOW: u32 = 8192;

/// How long the peer's `close` is awaited after ours.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Where the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waiting for `AMQP 3 1 0 0` or `AMQP 0 1 0 0`.
    Header,
    /// SASL runs.
    Sasl,
    /// SASL is done: waiting for `AMQP 0 1 0 0`.
    HeaderAfterSasl,
    /// Waiting for `open`.
    Open,
    Running,
    /// We sent `close` first and wait for the peer's.
    Closing,
    Over,
}

/// A disposition that waits.
#[derive(Debug, Clone)]
pub(crate) struct Settlement {
    pub(crate) channel: u16,
    pub(crate) delivery_id: u32,
    pub(crate) outcome: Value,
}

/// One session. Local channel and handle numbers are the peer's: each side has number spaces of its own.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) next_incoming_id: u32,
    pub(crate) since_flow: u32,
    pub(crate) next_outgoing_id: u32,
    pub(crate) next_delivery_id: u32,
    pub(crate) links: HashMap<u32, Link>,
    /// Accepted deliveries that one disposition will answer: first and last.
    pub(crate) accepted: Option<(u32, u32)>,
    /// Cloud-to-device messages that the peer has not settled: delivery-id to handle and lock token.
    pub(crate) locks: BTreeMap<u32, (u32, [u8; 16])>,
}

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) hub: Arc<Hub>,
    pub(crate) handle: Arc<Handle>,
    phase: Phase,
    pub(crate) out: Vec<u8>,
    pub(crate) sessions: HashMap<u16, Session>,
    pub(crate) tokens: Tokens,
    /// Idle time-out that the peer announced.
    pub(crate) peer_idle: Option<Duration>,
    /// The largest frame that the peer takes, bytes.
    pub(crate) peer_frame_max: usize,
    /// Messages to the peer by the time that they are due: channel, handle, message.
    pub(crate) delayed_messages: BTreeMap<(Instant, u64), (u16, u32, Vec<u8>)>,
    /// Dispositions by the time that they are due.
    pub(crate) delayed: BTreeMap<(Instant, u64), Settlement>,
    pub(crate) delayed_no: u64,
    /// Dispositions that wait for the end of a fault.
    pub(crate) held: Vec<(u64, Settlement)>,
    /// Messages read since the driver last asked.
    pub(crate) messages_read: u64,
    /// When [`Phase::Closing`] was first seen.
    closing_since: Option<Instant>,
}

/// A reason to close the connection: condition and words.
pub(crate) struct Fatal(pub(crate) &'static str, pub(crate) String);

impl From<FrameError> for Fatal {
    fn from(error: FrameError) -> Self {
        Self("amqp:connection:framing-error", error.to_string())
    }
}

impl From<DecodeError> for Fatal {
    fn from(error: DecodeError) -> Self {
        Self("amqp:decode-error", error.to_string())
    }
}

impl Conn {
    pub(crate) fn new(hub: Arc<Hub>, handle: Arc<Handle>) -> Self {
        Self {
            hub,
            handle,
            phase: Phase::Header,
            out: Vec::new(),
            sessions: HashMap::new(),
            tokens: Tokens::default(),
            peer_idle: None,
            peer_frame_max: FRAME_BYTES_MAX,
            delayed_messages: BTreeMap::new(),
            delayed: BTreeMap::new(),
            delayed_no: 0,
            held: Vec::new(),
            messages_read: 0,
            closing_since: None,
        }
    }

    /// One header or frame; false when `input` does not hold a whole one.
    fn step(&mut self, input: &mut BytesMut, now: Instant) -> Result<bool, Fatal> {
        match self.phase {
            Phase::Header | Phase::HeaderAfterSasl => Ok(self.on_header(input)),
            Phase::Over => Ok(false),
            _ => match take_frame(input)? {
                None => Ok(false),
                Some(frame) => {
                    self.on_frame(frame, now)?;
                    Ok(true)
                }
            },
        }
    }

    /// The first 8 bytes choose the protocol: the Node SDK skips SASL altogether (fact sheet B1).
    fn on_header(&mut self, input: &mut BytesMut) -> bool {
        if input.len() < 8 {
            return false;
        }
        let header: [u8; 8] = std::array::from_fn(|i| input[i]);
        input.advance(8);
        match header {
            HEADER_AMQP => {
                self.out.extend_from_slice(&HEADER_AMQP);
                if self.phase == Phase::Header {
                    self.handle.info(|info| "none".clone_into(&mut info.sasl));
                }
                self.phase = Phase::Open;
            }
            HEADER_SASL if self.phase == Phase::Header => {
                self.out.extend_from_slice(&HEADER_SASL);
                let offered = ["MSSBCBS", "ANONYMOUS"].map(Value::symbol).to_vec();
                let mechanisms =
                    Value::described_list(code::SASL_MECHANISMS, vec![Value::Array(offered)]);
                put_frame(&mut self.out, Layer::Sasl, 0, &mechanisms, &[]);
                self.phase = Phase::Sasl;
            }
            _ => {
                // Part 2, section 2.2: answer with a header that is spoken here, then close.
                self.out.extend_from_slice(&HEADER_SASL);
                self.phase = Phase::Over;
            }
        }
        true
    }

    fn on_frame(&mut self, frame: Frame, now: Instant) -> Result<(), Fatal> {
        let sasl = self.phase == Phase::Sasl;
        if (frame.layer == Layer::Sasl) != sasl {
            return Err(Fatal("amqp:not-allowed", "a frame of the wrong layer".into()));
        }
        if frame.body.is_empty() {
            return Ok(());
        }
        if self.phase == Phase::Running
            && let Some(transfer) = Transfer::skim(&frame.body)
        {
            return self.on_transfer(frame.channel, transfer, now);
        }
        let performative = performative(frame.body)?;
        if sasl {
            self.on_sasl(performative);
            return Ok(());
        }
        if self.phase == Phase::Closing {
            if performative.code == code::CLOSE {
                self.phase = Phase::Over;
            }
            return Ok(());
        }
        if (performative.code == code::OPEN) != (self.phase == Phase::Open) {
            return Err(Fatal("amqp:illegal-state", "open must come first, and once".into()));
        }
        self.on_performative(frame.channel, performative, now)
    }

    fn on_sasl(&mut self, mut init: Performative) {
        let mechanism = init.fields.take(0).into_text().unwrap_or_default();
        let known = ["MSSBCBS", "ANONYMOUS"].contains(&mechanism.as_str());
        let taken = init.code == code::SASL_INIT && known;
        // Part 5, section 5.3.3.6: 0 is ok, 1 is an authentication failure.
        let outcome = Value::UByte(u8::from(!taken));
        let outcome = Value::described_list(code::SASL_OUTCOME, vec![outcome]);
        put_frame(&mut self.out, Layer::Sasl, 0, &outcome, &[]);
        if taken {
            self.handle.info(|info| info.sasl = mechanism);
            self.phase = Phase::HeaderAfterSasl;
        } else {
            self.phase = Phase::Over;
        }
    }

    fn on_performative(
        &mut self,
        channel: u16,
        performative: Performative,
        now: Instant,
    ) -> Result<(), Fatal> {
        match performative.code {
            code::OPEN => self.on_open(performative),
            code::BEGIN => self.on_begin(channel, &performative),
            code::END => {
                if self.sessions.contains_key(&channel) {
                    self.end_session(channel);
                }
                Ok(())
            }
            code::CLOSE => {
                self.flush_accepted();
                self.send(0, &Value::described_list(code::CLOSE, Vec::new()));
                self.phase = Phase::Over;
                Ok(())
            }
            code::ATTACH => self.on_attach(channel, performative),
            code::FLOW => self.on_flow(channel, &performative),
            code::TRANSFER => self.on_transfer(channel, Transfer::of(performative), now),
            code::DISPOSITION => self.on_disposition(channel, &performative),
            code::DETACH => self.on_detach(channel, &performative),
            other => Err(Fatal("amqp:not-implemented", format!("performative 0x{other:02x}"))),
        }
    }

    fn on_open(&mut self, mut open: Performative) -> Result<(), Fatal> {
        let container = open.fields.take(0).into_text().unwrap_or_default();
        self.handle.info(|info| info.container_id = container);
        // Part 2, section 2.7.1: at least 512, and far more than we ever send at once is no use.
        let frame_max = open.fields.get(2).as_u64().and_then(|max| usize::try_from(max).ok());
        self.peer_frame_max = frame_max.unwrap_or(usize::MAX).clamp(512, FRAME_BYTES_MAX);
        let idle = open.fields.get(4).as_u64().filter(|ms| *ms > 0);
        self.peer_idle = idle.map(Duration::from_millis);
        let our_idle = self.hub.limits.idle_timeout.as_millis();
        let fields = vec![
            Value::string(format!("hub-double-{}", self.handle.no)),
            Value::Null,
            Value::UInt(u32::try_from(FRAME_BYTES_MAX).expect("64 KiB fit")),
            Value::UShort(4095),
            Value::UInt(u32::try_from(our_idle).unwrap_or(u32::MAX)),
        ];
        self.send(0, &Value::described_list(code::OPEN, fields));
        self.phase = Phase::Running;
        Ok(())
    }

    fn on_begin(&mut self, channel: u16, begin: &Performative) -> Result<(), Fatal> {
        if self.sessions.contains_key(&channel) {
            return Err(Fatal("amqp:illegal-state", "the channel has a session".into()));
        }
        let session = Session {
            next_incoming_id: begin.fields.get(1).as_u32().unwrap_or(0),
            since_flow: 0,
            next_outgoing_id: 0,
            next_delivery_id: 0,
            links: HashMap::new(),
            accepted: None,
            locks: BTreeMap::new(),
        };
        let fields = vec![
            Value::UShort(channel),
            Value::UInt(session.next_outgoing_id),
            Value::UInt(WINDOW),
            Value::UInt(WINDOW),
            Value::UInt(65_535),
        ];
        self.sessions.insert(channel, session);
        self.send(channel, &Value::described_list(code::BEGIN, fields));
        Ok(())
    }

    fn end_session(&mut self, channel: u16) {
        self.flush_accepted();
        self.sessions.remove(&channel);
        self.handle.info(|info| info.links.retain(|(ch, _), _| *ch != channel));
        self.send(channel, &Value::described_list(code::END, Vec::new()));
    }

    /// Appends one frame.
    pub(crate) fn send(&mut self, channel: u16, body: &Value) {
        put_frame(&mut self.out, Layer::Amqp, channel, body, &[]);
    }

    /// Closes the connection from this side.
    pub(crate) fn close(&mut self, condition: &str, words: &str) {
        tracing::debug!(connection = self.handle.no, condition, words, "closing");
        match self.phase {
            Phase::Running | Phase::Open => {
                self.flush_accepted();
                if self.phase == Phase::Open {
                    // Part 2, section 2.4.1: a close must follow an open of our own.
                    let open = vec![Value::string("hub-double")];
                    self.send(0, &Value::described_list(code::OPEN, open));
                }
                let close = Value::described_list(code::CLOSE, vec![error(condition, words)]);
                self.send(0, &close);
                self.phase = Phase::Closing;
            }
            _ => self.phase = Phase::Over,
        }
    }

    /// When the peer must hear from us, once the connection is open.
    fn heartbeat_at(&self, last: LastBytes) -> Option<Instant> {
        let idle = self.peer_idle.filter(|_| self.phase == Phase::Running)?;
        Some(last.written + heartbeat_every(idle))
    }
}

impl Connection for Conn {
    /// A quarter of the largest batch.
    const READ_BYTES: usize = 64 * 1024;

    fn on_bytes(&mut self, input: &mut BytesMut, now: Instant) {
        while !self.is_over() {
            match self.step(input, now) {
                Ok(true) => {}
                Ok(false) => break,
                Err(Fatal(condition, words)) => self.close(condition, &words),
            }
        }
        self.flush_accepted();
    }

    fn messages_read(&mut self) -> u64 {
        std::mem::take(&mut self.messages_read)
    }

    fn on_commands(&mut self, now: Instant) {
        while let Some(command) = self.handle.next_command() {
            match command {
                Command::Close { condition } => self.close(&condition, "the hub closes"),
                Command::Stolen(principal) => self.on_stolen(&principal),
                Command::Detach { device, condition } => {
                    self.detach_where(&condition, "the hub detaches", |who| {
                        device.as_deref().is_none_or(|d| who.device.eq_ignore_ascii_case(d))
                    });
                }
                Command::Recheck => self.recheck(),
                Command::ExpireTokens { older_than } => self.expire_tokens(Some(older_than), now),
                Command::Desired { who, patch } => self.on_desired(&who, &patch),
                Command::Method { who, id, name, payload } => {
                    self.on_method(&who, id, &name, &payload);
                }
                Command::CloudToDevice { who } => self.on_c2d_news(&who),
            }
        }
    }

    fn on_faults_changed(&mut self) {
        let hub = Arc::clone(&self.hub);
        let held = std::mem::take(&mut self.held);
        let (still, ended) = held.into_iter().partition(|(fault, _)| hub.faults.in_force(*fault));
        self.held = still;
        for (_, settlement) in ended {
            self.settle(&settlement);
        }
        self.flush_accepted();
    }

    fn on_time(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let settlement = entry.remove();
            self.settle(&settlement);
        }
        self.send_due(now);
        self.flush_accepted();
    }

    fn has_tokens(&self) -> bool {
        !self.tokens.is_empty()
    }

    fn check_tokens(&mut self, now: Instant) {
        self.expire_tokens(None, now);
    }

    fn on_silence(&mut self, last: LastBytes, now: Instant) {
        if self.heartbeat_at(last).is_some_and(|at| at <= now) {
            put_heartbeat(&mut self.out);
        }
        if self.phase == Phase::Closing {
            let since = *self.closing_since.get_or_insert(now);
            if now.duration_since(since) >= CLOSE_WAIT {
                self.close("", "the peer does not answer close");
            }
        } else if now.duration_since(last.read) > self.hub.limits.idle_timeout {
            self.close("amqp:connection:forced", "nothing was heard within the idle time-out");
        }
    }

    fn next_wake(&self, last: LastBytes) -> Option<Instant> {
        let close = self.closing_since.map(|since| since + CLOSE_WAIT);
        let idle = last.read + self.hub.limits.idle_timeout + Duration::from_millis(1);
        let idle = (self.phase != Phase::Closing).then_some(idle);
        let settlement = self.delayed.first_key_value().map(|((at, _), _)| *at);
        let message = self.delayed_messages.first_key_value().map(|((at, _), _)| *at);
        [self.heartbeat_at(last), close, idle, settlement, message].into_iter().flatten().min()
    }

    fn out(&self) -> &[u8] {
        &self.out
    }

    fn on_written(&mut self) {
        self.out.clear();
    }

    fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }
}

/// How long the peer hears nothing from us: 7/8 of its idle time-out, as edgeHub does (fact sheet B1); half of a short
/// one, where 1/8 would be less than a loaded test machine's hiccup.
fn heartbeat_every(peer_idle: Duration) -> Duration {
    if peer_idle > Duration::from_secs(10) { peer_idle / 8 * 7 } else { peer_idle / 2 }
}
