//! The promises of a session, told as conversations.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::identity::{DeviceId, ModuleId};
use crate::iothub::authorisation::Denied;
use crate::message::{Message, SystemKey};
use crate::mqtt::codec::{decode, encode};
use crate::mqtt::packet::*;

mod authorisation;
mod connecting;
mod ending;
mod model;
mod model_down;
mod outbound;
mod publishing;
mod streams;

const WALL: UnixMillis = UnixMillis(1_700_000_000_000);
const TOPIC: &str = "devices/dev1/messages/events/";

fn name(text: &str) -> ClientName {
    match text.split_once('/') {
        None => ClientName::Device(DeviceId::parse(text).unwrap()),
        Some((device, module)) => {
            let device = DeviceId::parse(device).unwrap();
            ClientName::Module(device, ModuleId::parse(module).unwrap())
        }
    }
}

fn text(s: &str) -> Utf8Bytes {
    Utf8Bytes::copy_from(s).unwrap()
}

fn id(n: u16) -> PacketId {
    PacketId::new(n).unwrap()
}

fn connect_as(client: &str) -> Connect {
    let user_name =
        text(&format!("gw.example/{client}/?api-version=2020-09-30&model-id=dtmi%3ax%3b1"));
    Connect {
        client_id: text(client),
        clean_session: false,
        keep_alive_secs: 240,
        will: None,
        login: Some(Login { user_name, password: None }),
    }
}

fn will_to(topic: &str) -> Will {
    let payload = Bytes::from_static(b"gone");
    Will { topic: text(topic), payload, qos: QoS::AtLeastOnce, retain: false }
}

fn publish(topic: &str, body: &'static str, delivery: Delivery) -> Packet {
    let payload = Bytes::from_static(body.as_bytes());
    Packet::Publish(Publish { topic: text(topic), payload, delivery, retain: false })
}

fn qos1(packet_id: u16) -> Delivery {
    Delivery::AtLeastOnce { packet_id: id(packet_id), dup: false }
}

fn again(packet_id: u16) -> Delivery {
    Delivery::AtLeastOnce { packet_id: id(packet_id), dup: true }
}

/// A session and the hands that feed it.
struct Bench {
    session: Session,
    start: Instant,
    now: Instant,
}

impl Bench {
    #[allow(clippy::disallowed_methods, reason = "an origin to count from; nothing waits for it")]
    fn new() -> Self {
        let start = Instant::now();
        Self { session: Session::new(Limits::default(), start), start, now: start }
    }

    /// Connected and authenticated as `client`.
    fn connected(client: &str) -> Self {
        Self::connected_with(connect_as(client), client)
    }

    fn connected_with(connect: Connect, identity: &str) -> Self {
        let mut bench = Self::new();
        let out = bench.packet(Packet::Connect(Box::new(connect)));
        assert!(matches!(out[..], [Output::Authenticate(_)]), "{out:?}");
        let out = bench.verdict(Ok(Identity::vouched(name(identity))));
        assert_eq!(out, [connack(ConnectReturnCode::Accepted)]);
        bench
    }

    fn later(&mut self, secs: u64) {
        self.now += Duration::from_secs(secs);
    }

    fn packet(&mut self, packet: Packet) -> Vec<Output> {
        let mut out = Vec::new();
        self.session.on_packet(packet, self.now, WALL, &mut out);
        out
    }

    fn verdict(&mut self, verdict: Result<Identity, Refusal>) -> Vec<Output> {
        let mut out = Vec::new();
        self.session.on_authenticated(verdict, self.now, &mut out);
        out
    }

    fn durable(&mut self, tag: u64) -> Vec<Output> {
        let mut out = Vec::new();
        self.session.on_durable(Durable::for_test(tag), self.now, &mut out);
        out
    }

    fn timeout(&mut self) -> Vec<Output> {
        let mut out = Vec::new();
        self.session.on_timeout(self.now, WALL, &mut out);
        out
    }

    fn closed(&mut self) -> Vec<Output> {
        let mut out = Vec::new();
        self.session.on_closed(WALL, &mut out);
        out
    }

    /// Seconds from the start to the deadline.
    fn deadline(&self) -> Option<u64> {
        self.session.deadline().map(|at| (at - self.start).as_secs())
    }
}

/// With the usual spelling of its topics.
fn subscribed_to(what: &[(Subscription, QoS)]) -> Remembered {
    let mut remembered = Remembered::default();
    for (kind, qos) in what {
        remembered.subscriptions.set(*kind, Some(*qos));
    }
    remembered
}

fn connack(code: ConnectReturnCode) -> Output {
    Output::Send(Packet::ConnAck(ConnAck { session_present: false, code }))
}

fn puback(packet_id: u16) -> Output {
    Output::Send(Packet::PubAck(id(packet_id)))
}

#[track_caller]
fn routed(out: Vec<Output>) -> (u64, Message) {
    match <[Output; 1]>::try_from(out) {
        Ok([Output::Route { tag, message }]) => (tag, message),
        other => panic!("one Route expected: {other:?}"),
    }
}

/// The label of the Close that ends `out`, and what came before.
#[track_caller]
fn ended(mut out: Vec<Output>) -> (&'static str, Blame, Vec<Output>) {
    match out.pop() {
        Some(Output::Close(reason)) => (reason.label, reason.blame, out),
        other => panic!("Close expected: {other:?} after {out:?}"),
    }
}

#[track_caller]
fn check_violation(out: Vec<Output>, label: &str) {
    let (got, blame, before) = ended(out);
    assert_eq!((got, blame), (label, Blame::Peer));
    assert_eq!(before, []);
}
