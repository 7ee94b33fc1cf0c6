//! The messages that go through the path: what a device sends, and the same after each step.
//!
//! Owns: the two shapes, and how the input of a later step is made by the earlier ones. Everything is fixed: the same
//! number of messages is the same bytes each time. Must not know: valgrind, what is counted.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use clap::ValueEnum;
use sphere_gateway::clock::{Clock as _, SystemClock, UnixMillis};
use sphere_gateway::identity::Identity;
use sphere_gateway::message::Message;
use sphere_gateway::mqtt::codec::{decode, encode};
use sphere_gateway::mqtt::packet::{
    Connect, Delivery, Login, Packet, PacketId, Publish, Utf8Bytes,
};
use sphere_gateway::session::{Limits, Output, Session};

/// Messages that a device has under way: they come in one piece, and their PUBACKs leave in one.
pub(crate) const WINDOW: usize = 20;
/// Bytes of a body.
const BODY_BYTES: usize = 256;
/// The device that sends, where one is enough.
pub(crate) const DEVICE: &str = "bench-device-0001";
/// As the default of the gateway.
const PACKET_BYTES_MAX: usize = 262_144;
/// A wall time; the value means nothing.
pub(crate) const WALL: UnixMillis = UnixMillis(1_700_000_000_000);

/// What a device sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// 256 bytes, as the Azure Sphere sample sends them.
    Plain,
    /// 256 bytes with a bag of three properties of the application and two of the system.
    Bag,
}

impl Shape {
    pub(crate) const ALL: [Self; 2] = [Self::Plain, Self::Bag];

    /// As the table calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Bag => "bag",
        }
    }

    fn topic(self, device: &str) -> String {
        let bag = match self {
            Self::Plain => "",
            Self::Bag => {
                "%24.ct=application%2Fjson&%24.ce=utf-8&site=hall%207&line=4&alarm-level=high"
            }
        };
        format!("devices/{device}/messages/events/{bag}")
    }

    /// What arrives of `device`: windows of PUBLISH packets, `count` in all.
    pub(crate) fn windows(self, device: &str, count: usize) -> Result<Vec<BytesMut>> {
        let topic = Utf8Bytes::copy_from(&self.topic(device))?;
        let payload = Bytes::from(vec![0x5a; BODY_BYTES]);
        let mut window = BytesMut::new();
        for n in 0..WINDOW {
            let packet_id = PacketId::new(u16::try_from(n + 1)?).context("above 0")?;
            let delivery = Delivery::AtLeastOnce { packet_id, dup: false };
            let (topic, payload) = (topic.clone(), payload.clone());
            let publish = Publish { topic, payload, delivery, retain: false };
            encode(&Packet::Publish(publish), &mut window)?;
        }
        ensure!(count.is_multiple_of(WINDOW), "whole windows of {WINDOW}");
        Ok((0..count / WINDOW).map(|_| BytesMut::from(&window[..])).collect())
    }

    /// The same as packets.
    pub(crate) fn packets(self, device: &str, count: usize) -> Result<Vec<Vec<Packet>>> {
        self.windows(device, count)?.into_iter().map(|mut window| packets(&mut window)).collect()
    }

    /// The same as messages.
    pub(crate) fn messages(self, device: &str, count: usize) -> Result<Vec<Message>> {
        let mut session = connected(device)?;
        let now = now();
        let (mut out, mut tag) = (Vec::new(), 0);
        let mut messages = Vec::with_capacity(count);
        for packet in self.packets(device, count)?.into_iter().flatten() {
            session.on_packet(packet, now, WALL, &mut out);
            session.on_unrouted(tag, now, &mut out);
            tag += 1;
            messages.extend(out.drain(..).filter_map(|output| match output {
                Output::Route { message, .. } => Some(message),
                _ => None,
            }));
        }
        ensure!(messages.len() == count, "the session let {} of {count} through", messages.len());
        Ok(messages)
    }

    /// The same as the store keeps them, with the message id that the gateway sets.
    pub(crate) fn stored(self, device: &str, count: usize) -> Result<Vec<Bytes>> {
        let mut messages = self.messages(device, count)?;
        for (n, message) in messages.iter_mut().enumerate() {
            let id = format!("0123456789abcdef-{n}");
            message.system.set(sphere_gateway::message::SystemKey::MessageId, id);
        }
        Ok(messages.iter().map(Message::encode).collect())
    }
}

/// All packets in `bytes`.
pub(crate) fn packets(bytes: &mut BytesMut) -> Result<Vec<Packet>> {
    let mut packets = Vec::with_capacity(WINDOW);
    while let Some(packet) = decode(bytes, PACKET_BYTES_MAX)? {
        packets.push(packet);
    }
    Ok(packets)
}

/// A session that has let `device` in, and takes a whole window.
pub(crate) fn connected(device: &str) -> Result<Session> {
    let limits = Limits { inflight_max: WINDOW, ..Limits::default() };
    let now = now();
    let mut session = Session::new(limits, now);
    let user_name = format!("gateway.example/{device}/?api-version=2020-09-30");
    let login = Login { user_name: Utf8Bytes::copy_from(&user_name)?, password: None };
    let connect = Connect {
        client_id: Utf8Bytes::copy_from(device)?,
        clean_session: false,
        keep_alive_secs: 240,
        will: None,
        login: Some(login),
    };
    let mut out = Vec::new();
    session.on_packet(Packet::Connect(Box::new(connect)), now, WALL, &mut out);
    let Some(Output::Authenticate(_)) = out.pop() else {
        bail!("the session did not ask who this is: {out:?}");
    };
    session.on_authenticated(Ok(identity(device)?), now, &mut out);
    ensure!(session.identity().is_some(), "not let in: {out:?}");
    Ok(session)
}

/// `device`, let in. Only `auth` vouches for who comes in; who was stored has been let in before, so this reads a stored
/// message (form 1) of theirs.
fn identity(device: &str) -> Result<Identity> {
    let mut stored = vec![1, 0];
    stored.extend_from_slice(&[0; 8]);
    stored.extend_from_slice(&u16::try_from(device.len())?.to_le_bytes());
    stored.extend_from_slice(device.as_bytes());
    stored.extend_from_slice(&[0; 3]); // no properties, no body
    Ok(Message::decode(stored.into())?.source.sender)
}

/// A time to count from.
pub(crate) fn now() -> Instant {
    SystemClock.monotonic()
}
