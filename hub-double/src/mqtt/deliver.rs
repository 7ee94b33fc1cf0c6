//! What goes to a client: answers of its twin, desired properties, calls of its methods, cloud-to-device (fact sheet A6 to A8).
//!
//! Invariants: only what is subscribed is sent, at the quality of service that was granted; a cloud-to-device message is
//! sent once over a connection, and completed by its PUBACK (at QoS 0: by being sent). Must not know: how queues and twins
//! are kept.

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Packet, Publish};

use super::bag::{Bag, wire_name};
use super::conn::{Awaiting, Conn};
use super::filters::Wanted;
use crate::c2d::{Outcome, Taken};
use crate::clock::iso8601;
use crate::driver::Connection;
use crate::registry::Principal;

/// Publications that await their PUBACK: more than the queue of a device holds.
const AWAITING_MAX: usize = 1000;
/// Longest topic, bytes (MQTT 3.1.1, section 1.5.3).
const TOPIC_BYTES_MAX: usize = 65_535;

impl Conn {
    fn granted(&self, wanted: Wanted) -> Option<u8> {
        self.client.as_ref().and_then(|client| client.subscriptions.qos(wanted))
    }

    /// Publishes at QoS 0 or 1.
    fn publish(&mut self, topic: String, qos: u8, body: &[u8], awaiting: Awaiting) {
        if topic.len() > TOPIC_BYTES_MAX {
            return tracing::warn!(bytes = topic.len(), "a topic that is too long for MQTT");
        }
        let mut publish = Publish::new(topic, QoS::AtMostOnce, body);
        if qos > 0 {
            if self.awaiting.len() >= AWAITING_MAX {
                return self.close("the client acknowledges nothing");
            }
            publish.qos = QoS::AtLeastOnce;
            publish.pkid = self.next_packet_id();
            self.awaiting.insert(publish.pkid, awaiting);
        }
        self.send(&Packet::Publish(publish));
    }

    fn next_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if !self.awaiting.contains_key(&self.last_packet_id) {
                return self.last_packet_id;
            }
        }
    }

    /// An answer of the twin; lost on a client that does not listen.
    pub(super) fn answer_twin(&mut self, topic: String, body: Vec<u8>) {
        match self.granted(Wanted::TwinAnswers) {
            Some(qos) => self.publish(topic, qos, &body, Awaiting::Notice),
            None => tracing::debug!(topic, "nobody listens to answers of the twin"),
        }
    }

    /// The desired properties have changed.
    pub(super) fn on_desired(&mut self, patch: &str) {
        let Some(qos) = self.granted(Wanted::Desired) else { return };
        let version = serde_json::from_str::<serde_json::Value>(patch);
        let version = version.ok().and_then(|patch| patch["$version"].as_u64()).unwrap_or(0);
        let topic = format!("$iothub/twin/PATCH/properties/desired/?$version={version}");
        self.hub.log.count(|counts| counts.twin_pushes += 1);
        self.publish(topic, qos, patch.as_bytes(), Awaiting::Notice);
    }

    /// Somebody calls a method: at QoS 0 whatever was granted (A8).
    pub(super) fn on_method(&mut self, id: [u8; 16], name: &str, payload: &[u8]) {
        if self.granted(Wanted::Methods).is_some() {
            let rid = u128::from_be_bytes(id);
            let topic = format!("$iothub/methods/POST/{name}/?$rid={rid:x}");
            self.publish(topic, 0, payload, Awaiting::Notice);
        }
    }

    /// Sends all that waits for the device.
    pub(super) fn deliver_c2d(&mut self) {
        let Some(client) = &self.client else { return };
        let who = client.who.clone();
        while let Some(qos) = self.granted(Wanted::CloudToDevice)
            && !self.is_over()
            && self.hub.roster.owns(&who, self.handle.no)
            && let Some(taken) = self.hub.take_c2d(&who)
        {
            self.on_taken(&who, qos, &taken);
        }
    }

    fn on_taken(&mut self, who: &Principal, qos: u8, taken: &Taken) {
        let Taken { sequence, lock, .. } = *taken;
        let sent = |a: &&mut Awaiting| matches!(a, Awaiting::CloudToDevice { sequence: s, .. } if *s == sequence);
        if let Some(awaiting) = self.awaiting.values_mut().find(sent) {
            // The client has it, unacknowledged, and the lock was over: sent again only over a new connection (A6).
            *awaiting = Awaiting::CloudToDevice { sequence, lock };
            return;
        }
        let topic = format!("devices/{}/messages/devicebound/{}", who.device, c2d_bag(taken));
        self.hub.log.count(|counts| counts.c2d_deliveries += 1);
        let awaiting = Awaiting::CloudToDevice { sequence, lock };
        self.publish(topic, qos, &taken.message.body, awaiting);
        if qos == 0 {
            self.complete(&lock);
        }
    }

    pub(super) fn on_puback(&mut self, packet_id: u16) {
        if let Some(Awaiting::CloudToDevice { lock, .. }) = self.awaiting.remove(&packet_id) {
            self.complete(&lock);
        }
    }

    fn complete(&self, lock: &[u8; 16]) {
        let Some(client) = &self.client else { return };
        let who = &client.who;
        if self.hub.settle_c2d(who, lock, Outcome::Complete).is_err() {
            self.hub.log.count(|counts| counts.c2d_locks_lost += 1);
            tracing::debug!(%who, "412002: the lock was over before the PUBACK");
        }
    }
}

/// The bag of a cloud-to-device message (A6).
fn c2d_bag(taken: &Taken) -> String {
    let message = &*taken.message;
    let expiry = message.expiry.map(iso8601);
    let mut bag = Bag::default();
    let system = [
        ("message-id", message.message_id.as_deref()),
        ("to", Some(taken.to.as_str())),
        ("correlation-id", message.correlation_id.as_deref()),
        ("user-id", message.user_id.as_deref()),
        ("content-type", message.content_type.as_deref()),
        ("content-encoding", message.content_encoding.as_deref()),
        ("absolute-expiry-time", expiry.as_deref()),
        ("iothub-ack", message.ack.text()),
    ];
    for (name, value) in system {
        if let (Some(name), Some(value)) = (wire_name(name), value) {
            bag.push(name, Some(value));
        }
    }
    for (name, value) in &message.properties {
        bag.push(name, Some(value));
    }
    bag.into_text()
}

/// The call that a rid of ours names.
pub(super) fn method_id(rid: &str) -> Option<[u8; 16]> {
    u128::from_str_radix(rid, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::c2d::{Ack, C2dMessage};

    #[test]
    fn the_bag_of_a_message_is_the_hubs() {
        let mut message =
            C2dMessage::new("x").id("m-1").property("colour", "deep blue").ack(Ack::Full);
        message.correlation_id = Some("c-9".into());
        message.content_type = Some("application/json".into());
        message.expiry = Some(1_767_225_600_000);
        let taken = Taken {
            lock: [0; 16],
            sequence: 1,
            delivery_count: 0,
            enqueued_ms: 0,
            to: "/devices/dev1/messages/deviceBound".into(),
            message: Arc::new(message),
        };
        assert_eq!(
            c2d_bag(&taken),
            "%24.mid=m-1&%24.to=%2Fdevices%2Fdev1%2Fmessages%2FdeviceBound&%24.cid=c-9\
             &%24.ct=application%2Fjson&%24.exp=2026-01-01T00%3A00%3A00.000Z&iothub-ack=full&colour=deep%20blue"
        );
    }

    #[test]
    fn a_rid_leads_back_to_its_call() {
        let id = [0, 0, 0, 0, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 0x1f];
        assert_eq!(method_id(&format!("{:x}", u128::from_be_bytes(id))), Some(id));
        assert_eq!(method_id("no"), None);
    }
}
