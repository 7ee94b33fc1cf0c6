//! One MQTT connection as a state machine: packets in, packets out; no IO.
//!
//! Owns: the client once it has come in, the output buffer, what is sent later and what awaits its PUBACK. Invariants:
//! nothing is read before CONNECT, nothing is sent after [`Connection::is_over`]; a will is told once, not after DISCONNECT.
//! Must not know: sockets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, LastWill, Packet, PubAck, SubAck, Subscribe,
    SubscribeReasonCode, UnsubAck, Unsubscribe,
};
use rumqttc::mqttbytes::{Error, QoS};
use rustls::pki_types::CertificateDer;

use super::bag;
use super::filters::Subscriptions;
use super::login::{self, Held, Login, Refusal};
use super::topics::{Inbound, inbound};
use crate::amqp::attach::stamps;
use crate::driver::{Connection, LastBytes};
use crate::hub::{Command, Handle, Hub};
use crate::log::Telemetry;
use crate::registry::{AuthType, Principal};

/// How long a client may be silent before its CONNECT.
const CONNECT_WAIT: Duration = Duration::from_secs(30);
/// Longest silence of a client, whatever it asks for (A2).
const SILENCE_MAX: Duration = Duration::from_secs(1767);
/// A topic and what stands before it: room beside the payload of the largest packet, bytes.
const HEADER_BYTES: usize = 65_535 + 16;
/// MQTT 3.1.1 is all that is spoken: this is CONNACK 0x84 as MQTT 5 writes it (A10).
const CONNACK_TO_LEVEL_5: [u8; 5] = [0x20, 3, 0, 0x84, 0];

/// A client that has come in.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) who: Principal,
    pub(super) annotations: Arc<BTreeMap<String, String>>,
    pub(super) subscriptions: Subscriptions,
    generation: Arc<str>,
    auth_type: AuthType,
    clean: bool,
    silence_max: Duration,
    token: Option<Held>,
    since: Instant,
    will: Option<Telemetry>,
}

/// What is sent when its time has come.
#[derive(Debug)]
pub(super) enum Later {
    PubAck(u16),
    TwinAnswer { topic: String, body: Vec<u8> },
}

/// A message that awaits its PUBACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaiting {
    /// Nothing hangs on it.
    Notice,
    CloudToDevice {
        sequence: u64,
        lock: [u8; 16],
    },
}

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(super) hub: Arc<Hub>,
    pub(super) handle: Arc<Handle>,
    pub(super) client: Option<Client>,
    pub(super) out: BytesMut,
    /// By packet id.
    pub(super) awaiting: BTreeMap<u16, Awaiting>,
    pub(super) last_packet_id: u16,
    /// Messages read since the driver last asked.
    pub(super) messages_read: u64,
    /// The client's certificates, leaf first.
    chain: Vec<CertificateDer<'static>>,
    start: Instant,
    over: bool,
    delayed: BTreeMap<(Instant, u64), Later>,
    delayed_no: u64,
    /// Acknowledgements that wait for the end of a fault.
    held: Vec<(u64, u16)>,
}

impl Conn {
    pub(crate) fn new(
        hub: Arc<Hub>,
        handle: Arc<Handle>,
        chain: Vec<CertificateDer<'static>>,
        start: Instant,
    ) -> Self {
        Self {
            hub,
            handle,
            client: None,
            out: BytesMut::new(),
            awaiting: BTreeMap::new(),
            last_packet_id: 0,
            messages_read: 0,
            chain,
            start,
            over: false,
            delayed: BTreeMap::new(),
            delayed_no: 0,
            held: Vec::new(),
        }
    }

    /// When it ends if nothing more is heard.
    fn silent_until(&self, last: LastBytes) -> Instant {
        match &self.client {
            Some(client) => last.read + client.silence_max,
            None => self.start + CONNECT_WAIT,
        }
    }

    pub(super) fn close(&mut self, why: &str) {
        if !self.over {
            let who = self.client.as_ref().map(|client| client.who.to_string());
            tracing::info!(connection = self.handle.no, who, why, "MQTT: closed");
            self.over = true;
        }
    }

    fn on_packet(&mut self, packet: Packet, now: Instant) {
        match (packet, self.client.is_some()) {
            (Packet::Connect(connect), false) => self.on_connect(&connect, now),
            (_, false) => self.close("the first packet is no CONNECT"),
            (Packet::Publish(publish), true) => self.on_publish(publish, now),
            (Packet::PubAck(PubAck { pkid }), true) => self.on_puback(pkid),
            (Packet::Subscribe(subscribe), true) => self.on_subscribe(&subscribe),
            (Packet::Unsubscribe(unsubscribe), true) => self.on_unsubscribe(&unsubscribe),
            (Packet::PingReq, true) => self.send(&Packet::PingResp),
            (Packet::Disconnect, true) => {
                if let Some(client) = &mut self.client {
                    client.will = None;
                }
                self.close("DISCONNECT");
            }
            _ => self.close("a packet that a client does not send"),
        }
    }

    fn on_connect(&mut self, connect: &Connect, now: Instant) {
        let login = match login::judge(&self.hub, connect, &self.chain) {
            Ok(login) => login,
            Err(refusal) => return self.refuse(&refusal),
        };
        let who = login.entry.principal.clone();
        let Ok(will) = connect.last_will.as_ref().map(|will| testament(will, &who)).transpose()
        else {
            return self.close("the will is not for the topic of telemetry");
        };
        let stolen = self.hub.roster.take_over(&who, self.handle.no);
        self.hub.log.count(|counts| {
            counts.mqtt_connects += 1;
            counts.links_stolen += u64::from(stolen);
        });
        let resumed = self.hub.sessions.open(&who, connect.clean_session);
        let Login { entry, model, token } = login;
        self.client = Some(Client {
            annotations: Arc::new(stamps(&entry, model)),
            who,
            subscriptions: resumed.clone().unwrap_or_default(),
            generation: entry.generation,
            auth_type: entry.auth_type,
            clean: connect.clean_session,
            silence_max: silence_max(connect.keep_alive),
            token,
            since: now,
            will,
        });
        self.handle.info(|info| info.container_id.clone_from(&connect.client_id));
        self.show();
        self.send(&Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, resumed.is_some())));
        self.deliver_c2d();
    }

    fn refuse(&mut self, refusal: &Refusal) {
        self.hub.log.count(|counts| counts.mqtt_refused += 1);
        self.send(&Packet::ConnAck(ConnAck::new(refusal.code, false)));
        self.close(&format!("CONNACK {}: {}", refusal.code as u8, refusal.words));
    }

    /// Tells the roster what this connection serves.
    fn show(&self) {
        let Some(Client { who, subscriptions, token, .. }) = &self.client else { return };
        self.handle.info(|info| {
            info.links.clear();
            info.links.insert((0, 0), (who.clone(), "MQTT"));
            for (number, wanted) in (1..).zip(subscriptions.wanted()) {
                info.links.insert((0, number), (who.clone(), wanted.name()));
            }
            if token.is_some() {
                info.tokens.insert(who.clone());
            }
        });
    }

    fn on_subscribe(&mut self, subscribe: &Subscribe) {
        let Some(client) = &mut self.client else { return };
        let grant = |filter: &rumqttc::mqttbytes::v4::SubscribeFilter| match client
            .subscriptions
            .add(&filter.path, filter.qos as u8, &client.who)
        {
            Some(0) => SubscribeReasonCode::Success(QoS::AtMostOnce),
            Some(_) => SubscribeReasonCode::Success(QoS::AtLeastOnce),
            None => SubscribeReasonCode::Failure,
        };
        let codes = subscribe.filters.iter().map(grant).collect();
        self.keep_subscriptions();
        self.send(&Packet::SubAck(SubAck::new(subscribe.pkid, codes)));
        self.deliver_c2d();
    }

    fn on_unsubscribe(&mut self, unsubscribe: &Unsubscribe) {
        let Some(client) = &mut self.client else { return };
        unsubscribe.topics.iter().for_each(|filter| client.subscriptions.remove(filter));
        self.keep_subscriptions();
        self.send(&Packet::UnsubAck(UnsubAck::new(unsubscribe.pkid)));
    }

    fn keep_subscriptions(&self) {
        if let Some(client) = self.client.as_ref().filter(|client| !client.clean) {
            self.hub.sessions.keep(&client.who, &client.subscriptions);
        }
        self.show();
    }

    pub(super) fn send(&mut self, packet: &Packet) {
        if !self.over {
            let written = packet.write(&mut self.out, usize::MAX);
            written.expect("a packet of ours has its packet id and is shorter than 256 MB");
        }
    }

    pub(super) fn later(&mut self, at: Instant, what: Later) {
        self.delayed_no += 1;
        self.delayed.insert((at, self.delayed_no), what);
    }

    pub(super) fn hold(&mut self, fault: u64, packet_id: u16) {
        self.held.push((fault, packet_id));
    }

    fn on_command(&mut self, command: Command, now: Instant) {
        if let Command::Close { condition } = command {
            return self.close(&condition);
        }
        let Some(Client { who: own, .. }) = &self.client else { return };
        match command {
            Command::Stolen(who) if who == *own => {
                self.close("400027 ConnectionForcefullyClosedOnNewConnection");
            }
            Command::Detach { device, condition }
                if device.as_ref().is_none_or(|d| own.device.eq_ignore_ascii_case(d)) =>
            {
                self.close(&condition);
            }
            Command::Recheck => self.recheck(),
            Command::ExpireTokens { older_than } => self.expire_token(Some(older_than), now),
            Command::Desired { who, patch } if who == *own => self.on_desired(&patch),
            Command::Method { who, id, name, payload } if who == *own => {
                self.on_method(id, &name, &payload);
            }
            Command::CloudToDevice { who } if who == *own => self.deliver_c2d(),
            _ => {}
        }
    }

    /// The registry has changed.
    fn recheck(&mut self) {
        let Some(client) = &self.client else { return };
        let Principal { device, module } = &client.who;
        let allowed = self.hub.registry.find(device, module.as_deref()).is_some_and(|entry| {
            let same = entry.generation == client.generation && entry.auth_type == client.auth_type;
            entry.enabled && same
        });
        let on_behalf = client.token.as_ref().and_then(|held| held.on_behalf.as_ref());
        let in_scope = on_behalf.is_none_or(|(actor, chain)| {
            self.hub.registry.check_chain(chain, &client.who, actor).is_ok()
        });
        if !(allowed && in_scope) {
            self.close("the registry does not allow it any more");
        }
    }

    /// Ends the connection when its token is over, or older than `older_than` or than a fault allows.
    pub(super) fn expire_token(&mut self, older_than: Option<Duration>, now: Instant) {
        let Some(Client { token: Some(held), since, .. }) = &self.client else { return };
        let allowed = self.hub.faults.flags().borrow().token_age_max;
        let age_max = [older_than, allowed].into_iter().flatten().min();
        let old = age_max.is_some_and(|max| now.duration_since(*since) >= max);
        if old || self.hub.registry.expired(held.expires, self.hub.clock.wall_ms()) {
            self.close("the token has expired");
        }
    }
}

impl Connection for Conn {
    const READ_BYTES: usize = 16 * 1024;

    fn on_bytes(&mut self, input: &mut BytesMut, now: Instant) {
        let limit = usize::try_from(self.hub.limits.message_bytes_max).unwrap_or(usize::MAX);
        while !self.over {
            if self.client.is_none() && protocol_level(input) == Some(5) {
                self.out.extend_from_slice(&CONNACK_TO_LEVEL_5);
                return self.close("MQTT 5");
            }
            match Packet::read(input, limit.saturating_add(HEADER_BYTES)) {
                Ok(packet) => self.on_packet(packet, now),
                Err(Error::InsufficientBytes(_)) => return,
                Err(Error::InvalidProtocol | Error::InvalidProtocolLevel(_)) => {
                    let code = ConnectReturnCode::RefusedProtocolVersion;
                    self.refuse(&Refusal { code, words: "another protocol level".into() });
                }
                Err(error) => self.close(&error.to_string()),
            }
        }
    }

    fn messages_read(&mut self) -> u64 {
        std::mem::take(&mut self.messages_read)
    }

    fn on_commands(&mut self, now: Instant) {
        while let Some(command) = self.handle.next_command() {
            self.on_command(command, now);
        }
    }

    fn on_faults_changed(&mut self) {
        let hub = Arc::clone(&self.hub);
        let over: Vec<u16> = self
            .held
            .extract_if(.., |(fault, _)| !hub.faults.in_force(*fault))
            .map(|(_, id)| id)
            .collect();
        for packet_id in over {
            self.send(&Packet::PubAck(PubAck::new(packet_id)));
        }
    }

    fn on_time(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Later::PubAck(packet_id) => self.send(&Packet::PubAck(PubAck::new(packet_id))),
                Later::TwinAnswer { topic, body } => self.answer_twin(topic, body),
            }
        }
    }

    fn has_tokens(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.token.is_some())
    }

    fn check_tokens(&mut self, now: Instant) {
        self.expire_token(None, now);
    }

    fn on_silence(&mut self, last: LastBytes, now: Instant) {
        if now > self.silent_until(last) {
            self.close("nothing was heard for 1.5 times the keep-alive");
        }
    }

    fn next_wake(&self, last: LastBytes) -> Option<Instant> {
        let silent = self.silent_until(last) + Duration::from_millis(1);
        let due = self.delayed.keys().next().map(|(at, _)| *at);
        [Some(silent), due].into_iter().flatten().min()
    }

    fn out(&self) -> &[u8] {
        &self.out
    }

    fn on_written(&mut self) {
        self.out.clear();
    }

    fn is_over(&self) -> bool {
        self.over
    }

    /// Tells the will, if there is one left.
    fn end(&mut self) {
        if let Some(client) = &mut self.client
            && let Some(will) = client.will.take()
        {
            let (who, annotations) = (client.who.clone(), Arc::clone(&client.annotations));
            self.store(who, &annotations, will);
        }
    }
}

/// 1.5 times the keep-alive (seconds), capped; 0 asks for the cap (A2).
fn silence_max(keep_alive: u16) -> Duration {
    match keep_alive {
        0 => SILENCE_MAX,
        secs => SILENCE_MAX.min(Duration::from_millis(u64::from(secs) * 1500)),
    }
}

/// The message that a will becomes (A2).
fn testament(will: &LastWill, who: &Principal) -> Result<Telemetry, ()> {
    let Some(Inbound::Telemetry { bag: text }) = inbound(&will.topic, who) else {
        return Err(());
    };
    let mut message = Telemetry { body: will.message.to_vec().into(), ..Telemetry::default() };
    bag::read(text, &mut message);
    let mark = ("iothub-MessageType".to_owned(), Some("Will".to_owned()));
    message.application_properties.extend([mark]);
    Ok(message)
}

/// The protocol level of a CONNECT, once that much of it is there.
fn protocol_level(input: &[u8]) -> Option<u8> {
    let rest = input.strip_prefix(&[0x10])?;
    let length = rest.iter().take(4).position(|byte| byte & 0x80 == 0)? + 1;
    rest[length..].strip_prefix(b"\0\x04MQTT")?.first().copied()
}
