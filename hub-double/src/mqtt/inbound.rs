//! What a client publishes: telemetry into the log, operations on its twin, answers of its methods (fact sheet A5, A7, A8).
//!
//! Invariants: a PUBACK of telemetry goes out after the message is in the log; what is no legal publication ends the
//! connection, for MQTT 3.1.1 has no other no. Must not know: sockets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Packet, PubAck, Publish};
use serde_json::Value;

use super::bag;
use super::conn::{Conn, Later};
use super::deliver::method_id;
use super::topics::{Inbound, inbound};
use crate::clock::iso8601;
use crate::faults::{Answer, Timing};
use crate::hub::{Hub, Lean};
use crate::log::{Stamp, Telemetry, Transferred};
use crate::methods::MethodAnswer;
use crate::registry::Principal;
use crate::twins::Refused;

/// Marks a message that was sent with RETAIN, which the hub does not do (A5).
const RETAIN: &str = "mqtt-retain";

impl Conn {
    pub(super) fn on_publish(&mut self, publish: Publish, now: Instant) {
        let Some(client) = &self.client else { return };
        let who = client.who.clone();
        if publish.qos == QoS::ExactlyOnce {
            return self.close("QoS 2");
        }
        let Publish { topic, payload, .. } = &publish;
        match inbound(topic, &who) {
            Some(Inbound::Telemetry { bag }) => self.on_telemetry(&publish, bag, &who, now),
            Some(Inbound::TwinGet { rid }) => {
                self.puback(&publish);
                self.on_twin(&who, rid, now, |hub| {
                    hub.log.count(|counts| counts.twin_gets += 1);
                    Ok((200, None, hub.twins.of_device(&who).to_string()))
                });
            }
            Some(Inbound::TwinPatch { rid, version }) => {
                self.puback(&publish);
                self.on_twin(&who, rid, now, |hub| patch(hub, &who, payload, version));
            }
            Some(Inbound::MethodAnswer { status, rid }) => {
                self.puback(&publish);
                self.on_method_answer(&who, status, rid, payload);
            }
            None => self.close("nothing may be published to that topic"),
        }
    }

    fn puback(&mut self, publish: &Publish) {
        if publish.qos == QoS::AtLeastOnce {
            self.send(&Packet::PubAck(PubAck::new(publish.pkid)));
        }
    }

    fn on_telemetry(&mut self, publish: &Publish, bag: &str, who: &Principal, now: Instant) {
        // In memory of its own: a slice would pin the whole read buffer for as long as the log holds the message.
        let body = Bytes::copy_from_slice(&publish.payload);
        let mut message = Telemetry { body, ..Telemetry::default() };
        bag::read(bag, &mut message);
        if publish.retain {
            message.application_properties.insert(RETAIN.to_owned(), Some("true".to_owned()));
        }
        if bytes(&message) > self.hub.limits.message_bytes_max {
            return self.close("413001: the message is too large");
        }
        self.messages_read += 1;
        let one = std::slice::from_ref(&message);
        let verdict = self.hub.faults.judge(&who.device, Transferred::Read(one));
        if verdict.answer != Answer::Accept {
            self.hub.log.count(|counts| counts.transfers_refused += 1);
            return self.close("the fault script refuses the message");
        }
        let Some(client) = &self.client else { return };
        let annotations = Arc::clone(&client.annotations);
        self.store(who.clone(), &annotations, message);
        match verdict.timing {
            _ if publish.qos == QoS::AtMostOnce => {}
            Timing::Never => {}
            Timing::Now => self.puback(publish),
            Timing::After(delay) => self.later(now + delay, Later::PubAck(publish.pkid)),
            Timing::Held { fault } => self.hold(fault, publish.pkid),
        }
    }

    /// Puts a message into the log.
    pub(super) fn store(
        &self,
        principal: Principal,
        annotations: &BTreeMap<String, String>,
        message: Telemetry,
    ) {
        if let Some(Lean(sink)) = &self.hub.lean {
            sink(&principal.to_string(), &[&message.body]);
            return self.hub.log.count_transfer(1, message.body.len() as u64);
        }
        let enqueued_time = self.hub.clock.wall_ms();
        let mut stamped = annotations.clone();
        stamped.insert("iothub-enqueuedtime".to_owned(), iso8601(enqueued_time));
        let annotations = Arc::new(stamped);
        let connection_no = self.handle.no;
        let stamp = Stamp { principal, annotations, enqueued_time, connection_no };
        self.hub.log.store(&stamp, vec![message]);
    }

    /// Carries an operation on a twin out, as far as the fault script lets it, and answers it.
    fn on_twin(
        &mut self,
        who: &Principal,
        rid: &str,
        now: Instant,
        operation: impl FnOnce(&Hub) -> Result<Done, Refused>,
    ) {
        let ignored = self.hub.faults.ignores_twin(&who.device);
        if ignored == Some(false) {
            return;
        }
        let done = match self.hub.faults.refuses_twin(&who.device) {
            Some(status) => Err(Refused { status, words: "refused by the fault script".into() }),
            None => operation(&self.hub),
        };
        let done = done.unwrap_or_else(|refused| {
            self.hub.log.count(|counts| counts.twin_refused += 1);
            (refused.status, None, refused.body(self.hub.clock.wall_ms()))
        });
        if ignored.is_none() {
            self.twin_done(who, rid, done, now);
        }
    }

    fn twin_done(&mut self, who: &Principal, rid: &str, done: Done, now: Instant) {
        let (status, version, body) = done;
        let mut topic = format!("$iothub/twin/res/{status}/?$rid={rid}");
        if let Some(version) = version {
            topic.push_str(&format!("&$version={version}"));
        }
        let body = body.into_bytes();
        match self.hub.faults.delays_twin(&who.device) {
            Some(delay) => self.later(now + delay, Later::TwinAnswer { topic, body }),
            None => self.answer_twin(topic, body),
        }
    }

    fn on_method_answer(&self, who: &Principal, status: i64, rid: &str, payload: &[u8]) {
        let payload = match payload {
            [] => Value::Null,
            some => serde_json::from_slice(some)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(some).into_owned())),
        };
        let answer = MethodAnswer { status, payload };
        let wanted = method_id(rid).is_some_and(|id| self.hub.methods.answer(who, &id, answer));
        self.hub.log.count(|counts| match wanted {
            true => counts.method_answers += 1,
            false => counts.method_answers_unwanted += 1,
        });
    }
}

/// What counts against the limit: body, values of system properties, names and values of the others (fact sheet F).
fn bytes(message: &Telemetry) -> u64 {
    let system = message.system_properties.values().map(String::len);
    let user = message.application_properties.iter();
    let user = user.map(|(name, value)| name.len() + value.as_ref().map_or(0, String::len));
    (message.body.len() + system.sum::<usize>() + user.sum::<usize>()) as u64
}

/// What came of an operation on a twin: status, version and body.
type Done = (u16, Option<u64>, String);

fn patch(
    hub: &Hub,
    who: &Principal,
    payload: &[u8],
    version: Option<u64>,
) -> Result<Done, Refused> {
    let bad = |e| Refused { status: 400, words: format!("not JSON: {e}") };
    let patch: Value = serde_json::from_slice(payload).map_err(bad)?;
    let version = hub.twins.report(who, &patch, version)?;
    hub.log.count(|counts| counts.twin_patches += 1);
    Ok((204, Some(version), String::new()))
}
