//! A connected client: serving its packets.
//!
//! Owns: identity, subscriptions, will, both windows, and when the client was last heard.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Limits;
use super::address;
use super::connect::{Pending, Testament};
use super::outgoing::Outgoing;
use super::output::{CloseReason, Outbound, Output, Remembered, Sent, TwinRequest};
use super::window::{Awaits, Print, Window};
use crate::clock::UnixMillis;
use crate::identity::{ClientName, Identity};
use crate::iothub::topics::{Inbound, Telemetry};
use crate::iothub::{authorisation, bag};
use crate::message::{Message, Source, SystemKey};
use crate::mqtt::packet::{
    Delivery, Packet, Publish, QoS, SubAck, Subscribe, SubscribeReturnCode, Unsubscribe,
};

/// Application property of a message that came with the RETAIN flag; nothing is retained.
pub(super) const RETAIN_PROPERTY: &str = "mqtt-retain";
/// Application property of a message that came with the DUP flag.
const DUP_PROPERTY: &str = "mqtt-dup";

#[derive(Debug)]
pub(super) struct Live {
    identity: Identity,
    claim: ClientName,
    silence_max: Duration,
    heard: Instant,
    model_id: Option<Box<str>>,
    will: Option<Box<Testament>>,
    remembered: Remembered,
    window: Window,
    outgoing: Outgoing,
}

/// What became of a packet.
pub(super) enum Served {
    Done,
    /// The window is full; try again when something is settled.
    Stalled(Publish),
    Farewell,
    Violation(CloseReason),
}

impl Live {
    pub(super) fn new(pending: Pending, identity: Identity, now: Instant) -> Self {
        Self {
            identity,
            claim: pending.claim,
            silence_max: pending.silence_max,
            heard: now,
            model_id: pending.model_id,
            will: pending.will,
            remembered: pending.earlier.unwrap_or_default(),
            window: Window::default(),
            outgoing: Outgoing::seeded(pending.seed),
        }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn claim(&self) -> &ClientName {
        &self.claim
    }

    pub(super) fn in_flight(&self) -> usize {
        self.window.len()
    }

    pub(super) fn unacknowledged(&self) -> usize {
        self.outgoing.len()
    }

    pub(super) fn remembered(&self) -> &Remembered {
        &self.remembered
    }

    /// Any packet resets the keep-alive [MQTT-3.1.2-24].
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// While nobody reads, silence is not the client's.
    pub(super) fn deadline(&self, reading: bool, ack_timeout: Duration) -> Option<Instant> {
        let silence = reading.then(|| self.heard + self.silence_max);
        let ack = self.window.oldest().map(|since| since + ack_timeout);
        silence.into_iter().chain(ack).min()
    }

    pub(super) fn timeout_reason(&self, now: Instant, ack_timeout: Duration) -> CloseReason {
        if self.window.oldest().is_some_and(|since| now >= since + ack_timeout) {
            let detail = "a message waited too long for the disk; the client will send it again";
            return CloseReason::environment("ack_timeout", detail);
        }
        let secs = self.silence_max.as_secs();
        // [MQTT-3.1.2-24]
        CloseReason::peer("keep_alive", format!("the client has been silent for {secs} s"))
    }

    pub(super) fn settle(&mut self, tag: u64, by: Awaits, out: &mut Vec<Output>) {
        self.window.settle(tag, by, out);
    }

    pub(super) fn send(&mut self, tag: u64, content: Outbound, out: &mut Vec<Output>) -> Sent {
        let Some(qos) = self.remembered.subscriptions.get(content.subscription()) else {
            return Sent::NotSubscribed;
        };
        let awaits_ack = qos != QoS::AtMostOnce;
        if awaits_ack && self.outgoing.is_full() {
            return Sent::Full;
        }
        let prefix = self.remembered.prefix.as_deref();
        let Some((topic, payload)) = address::address(content, &self.claim, prefix) else {
            return Sent::Unsendable;
        };
        let (delivery, sent) = if awaits_ack {
            let packet_id = self.outgoing.push(tag);
            (Delivery::AtLeastOnce { packet_id, dup: false }, Sent::AwaitsAck)
        } else {
            (Delivery::AtMostOnce, Sent::Written)
        };
        let publish = Publish { topic, payload, delivery, retain: false };
        out.push(Output::Send(Packet::Publish(publish)));
        sent
    }

    pub(super) fn into_will(self, wall: UnixMillis) -> Option<Output> {
        let tag = self.window.next_tag();
        let Testament { mut system, properties, body } = *self.will?;
        if let Some(model_id) = self.model_id {
            system.set(SystemKey::ModelId, model_id);
        }
        let source = Source { sender: self.identity };
        let message = Message { source, system, properties, body, received: wall };
        Some(Output::Route { tag, message })
    }

    pub(super) fn serve(
        &mut self,
        packet: Packet,
        limits: &Limits,
        now: Instant,
        wall: UnixMillis,
        out: &mut Vec<Output>,
    ) -> Served {
        match packet {
            Packet::Publish(publish) => return self.publish(publish, limits, now, wall, out),
            Packet::PingReq => out.push(Output::Send(Packet::PingResp)), // [MQTT-3.12.4-1]
            Packet::Subscribe(subscribe) => self.subscribe(&subscribe, out),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe, out),
            Packet::PubAck(id) => {
                let acknowledged = self.outgoing.acknowledged(id);
                out.extend(acknowledged.map(|tag| Output::Acknowledged { tag }));
            }
            // The will is discarded [MQTT-3.14.4-3].
            Packet::Disconnect => return Served::Farewell,
            // [MQTT-3.1.0-2]
            Packet::Connect(_) => return violation("connect_again", "a second CONNECT"),
            Packet::PubRec(_) | Packet::PubRel(_) | Packet::PubComp(_) => {
                return violation("qos-2", "a packet of QoS 2, which IoT Hub does not speak");
            }
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                return violation("server_packet", "a packet that only servers send");
            }
        }
        Served::Done
    }

    fn publish(
        &mut self,
        publish: Publish,
        limits: &Limits,
        now: Instant,
        wall: UnixMillis,
        out: &mut Vec<Output>,
    ) -> Served {
        if let Delivery::ExactlyOnce { .. } = publish.delivery {
            return violation("qos-2", "a PUBLISH with QoS 2, which IoT Hub does not speak");
        }
        let print = Print::of(&publish);
        if let Some(first) = publish.delivery.packet_id().and_then(|id| self.window.find(id)) {
            // The C SDK sends a message again after 60 s without PUBACK: the one PUBACK to come answers both. Without
            // DUP the id belongs to another message [MQTT-2.3.1-2], and the PUBACK of the first would promise the
            // second, which is nowhere yet.
            return if publish.delivery.dup() && first == print {
                Served::Done
            } else {
                violation("packet_id_in_use", "a PUBLISH with a packet id that is in flight")
            };
        }
        if self.window.len() >= limits.inflight_max {
            return Served::Stalled(publish);
        }
        let Publish { topic, payload, delivery, retain } = publish;
        let inbound = match authorisation::publish(topic.as_str(), &self.spellings()) {
            Ok(inbound) => inbound,
            Err(denied) => return violation(denied.label(), denied.to_string()),
        };
        let output = match inbound {
            Inbound::Telemetry(telemetry) => {
                match self.message(&telemetry, payload, delivery.dup(), retain, wall) {
                    Ok(message) => {
                        let packet_id = delivery.packet_id();
                        let tag = self.window.push(packet_id, print, now, Awaits::Store);
                        out.push(Output::Route { tag, message });
                        return Served::Done;
                    }
                    Err(reason) => return Served::Violation(reason),
                }
            }
            Inbound::MethodResponse { status, rid } => {
                Output::MethodResponse { rid: rid.into(), status, body: payload }
            }
            Inbound::TwinGet { rid } => Output::TwinRequest(TwinRequest::Get { rid: rid.into() }),
            Inbound::TwinPatch { rid, version } => {
                let rid = rid.map(Into::into);
                // The patch itself is what the PUBACK promises to keep.
                let tag = delivery
                    .packet_id()
                    .map(|id| self.window.push(Some(id), print, now, Awaits::Relay));
                let patch = TwinRequest::Patch { tag, rid, version, body: payload };
                out.push(Output::TwinRequest(patch));
                return Served::Done;
            }
        };
        out.push(output);
        if let Some(packet_id) = delivery.packet_id() {
            // Nothing to wait for, but its turn [MQTT-4.6.0-2].
            let tag = self.window.push(Some(packet_id), print, now, Awaits::Store);
            self.window.settle(tag, Awaits::Store, out);
        }
        Served::Done
    }

    fn message(
        &self,
        telemetry: &Telemetry<'_>,
        body: Bytes,
        dup: bool,
        retain: bool,
        wall: UnixMillis,
    ) -> Result<Message, CloseReason> {
        let (mut system, mut properties) = bag::decode(telemetry.bag)
            .map_err(|error| CloseReason::peer(error.label(), error.to_string()))?;
        if let Some(model_id) = &self.model_id {
            system.set(SystemKey::ModelId, model_id.clone());
        }
        if retain {
            properties.set(RETAIN_PROPERTY, Some("true".into()));
        }
        if dup {
            properties.set(DUP_PROPERTY, Some("true".into()));
        }
        let source = Source { sender: self.identity.clone() };
        Ok(Message { source, system, properties, body, received: wall })
    }

    fn subscribe(&mut self, subscribe: &Subscribe, out: &mut Vec<Output>) {
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        let mut is_granted = false;
        for (filter, wanted) in &subscribe.filters {
            let subscription = match authorisation::subscribe(filter, &self.spellings()) {
                Ok(subscription) => subscription,
                Err(denied) => {
                    codes.push(SubscribeReturnCode::Failure);
                    out.push(Output::FilterDenied(denied));
                    continue;
                }
            };
            let granted = (*wanted).min(QoS::AtLeastOnce);
            codes.push(SubscribeReturnCode::Granted(granted));
            self.remembered.subscriptions.set(subscription, Some(granted)); // [MQTT-3.8.4-3]
            if let Some(prefix) = address::prefix(filter) {
                let is_usual = prefix == address::usual_prefix(&self.claim);
                self.remembered.prefix = (!is_usual).then(|| prefix.into());
            }
            is_granted = true;
        }
        if is_granted {
            out.push(Output::Subscriptions(self.remembered.clone()));
        }
        // One code a filter, in order [MQTT-3.8.4-5], and before whatever the subscription brings.
        let suback = SubAck { packet_id: subscribe.packet_id, codes };
        out.push(Output::Send(Packet::SubAck(suback)));
    }

    fn unsubscribe(&mut self, unsubscribe: &Unsubscribe, out: &mut Vec<Output>) {
        let before = self.remembered.subscriptions;
        for filter in &unsubscribe.filters {
            if let Ok(subscription) = authorisation::subscribe(filter, &self.spellings()) {
                self.remembered.subscriptions.set(subscription, None);
            }
        }
        if self.remembered.subscriptions != before {
            out.push(Output::Subscriptions(self.remembered.clone()));
        }
        // Answered even where nothing was subscribed [MQTT-3.10.4-5].
        out.push(Output::Send(Packet::UnsubAck(unsubscribe.packet_id)));
    }

    /// The registry may spell the id in another case than the client does: both are who was authenticated.
    fn spellings(&self) -> [&ClientName; 2] {
        [&self.claim, self.identity.name()]
    }
}

fn violation(label: &'static str, detail: impl Into<std::borrow::Cow<'static, str>>) -> Served {
    Served::Violation(CloseReason::peer(label, detail))
}
