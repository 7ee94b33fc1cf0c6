//! What the official Azure Sphere sample does beside telemetry: it asks for its twin at connect, applies desired properties and
//! reports them back, answers a direct method, and takes cloud-to-device messages.
//!
//! Three filters in one SUBSCRIBE, the fourth when the twin is there; requests and answers at QoS 0; a session that is kept. No
//! socket: packets in, bytes out.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, PoisonError};

use bytes::BytesMut;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Packet, PubAck, Publish, Subscribe, SubscribeFilter};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::{Ledger, PACKET_BYTES_MAX};

/// What a device has heard, and was answered, since it started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    /// All its subscriptions are granted, in the present connection.
    pub(crate) subscribed: bool,
    /// The desired properties as far as it was told.
    pub(crate) desired: Map<String, Value>,
    /// Patches of desired properties.
    pub(crate) patches: u64,
    /// Of these, with a version that it had already, or an older one.
    pub(crate) stale: u64,
    /// Answers to its questions for the twin: status, desired properties.
    pub(crate) twins: Vec<(u16, Value)>,
    /// Answers to what it reported: status.
    pub(crate) reported: Vec<u16>,
    /// Calls of a method that it answered.
    pub(crate) methods: u64,
    /// Ids of cloud-to-device messages, in the order in which they came.
    pub(crate) messages: Vec<String>,
}

/// The state of one device; it outlives a connection.
pub(super) struct Sphere {
    id: String,
    ledger: Arc<Ledger>,
    button: watch::Receiver<u64>,
    version: u64,
    next_rid: u64,
    /// Answers and calls can come, in this connection: its first SUBACK is there.
    granted: bool,
    /// Questions for the twin in this connection.
    asked: BTreeSet<u64>,
    /// Reported, and not answered: sent again after a reconnect.
    unanswered: BTreeMap<u64, Value>,
}

impl Sphere {
    /// `button` counts presses.
    pub(super) fn new(id: &str, ledger: &Arc<Ledger>, button: watch::Receiver<u64>) -> Self {
        let first = json!({"serialNumber": id.get(..8).unwrap_or(id)});
        Self {
            id: id.to_owned(),
            ledger: Arc::clone(ledger),
            button,
            version: 0,
            next_rid: 1,
            granted: false,
            asked: BTreeSet::new(),
            unanswered: BTreeMap::from([(0, first)]),
        }
    }

    fn heard<T>(&self, change: impl FnOnce(&mut Heard) -> T) -> T {
        change(&mut self.ledger.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is sent after CONNACK; `packet_id` is one that is free.
    pub(super) fn begin(&mut self, packet_id: u16, out: &mut BytesMut) -> io::Result<()> {
        self.heard(|heard| heard.subscribed = false);
        let filters = [
            (format!("devices/{}/messages/devicebound/#", self.id), QoS::AtLeastOnce),
            ("$iothub/twin/res/#".to_owned(), QoS::AtMostOnce),
            ("$iothub/methods/POST/#".to_owned(), QoS::AtMostOnce),
        ];
        let filters = filters.map(|(path, qos)| SubscribeFilter::new(path, qos));
        self.granted = false;
        self.asked.clear();
        put(Packet::Subscribe(subscribe(filters, packet_id)), out)
    }

    /// What is sent after the first SUBACK.
    fn granted(&mut self, out: &mut BytesMut) -> io::Result<()> {
        self.granted = true;
        for (rid, patch) in &self.unanswered {
            put_reported(*rid, patch, out)?;
        }
        self.ask(out)
    }

    /// Waits until the button is pressed.
    pub(super) async fn pressed(&mut self) {
        if self.button.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Reports how often, and asks for the twin.
    pub(super) fn tell_presses(&mut self, out: &mut BytesMut) -> io::Result<()> {
        let presses = *self.button.borrow_and_update();
        self.report(json!({"buttonPresses": presses}), out)?;
        self.ask(out)
    }

    /// `packet_id` is one that is free.
    pub(super) fn received(
        &mut self,
        packet: &Packet,
        packet_id: u16,
        out: &mut BytesMut,
    ) -> io::Result<()> {
        match packet {
            Packet::SubAck(ack) if ack.return_codes.len() == 3 => self.granted(out),
            Packet::SubAck(_) => {
                self.heard(|heard| heard.subscribed = true);
                Ok(())
            }
            Packet::Publish(publish) => {
                if publish.qos == QoS::AtLeastOnce {
                    put(Packet::PubAck(PubAck::new(publish.pkid)), out)?;
                }
                self.published(publish, packet_id, out)
            }
            _ => Ok(()),
        }
    }

    fn published(
        &mut self,
        publish: &Publish,
        packet_id: u16,
        out: &mut BytesMut,
    ) -> io::Result<()> {
        let topic = &*publish.topic;
        if let Some(rest) = topic.strip_prefix("$iothub/twin/res/") {
            return self.answered(rest, &publish.payload, packet_id, out);
        }
        if topic.starts_with("$iothub/twin/PATCH/properties/desired/") {
            let patch: Value =
                serde_json::from_slice(&publish.payload).map_err(io::Error::other)?;
            let is_stale = version_of(&patch) <= self.version;
            self.heard(|heard| {
                heard.patches += 1;
                heard.stale += u64::from(is_stale);
            });
            return self.apply(&patch, out);
        }
        if let Some(rest) = topic.strip_prefix("$iothub/methods/POST/") {
            let rid = value_of(rest, "$rid").unwrap_or_default();
            let text: Value = serde_json::from_slice(&publish.payload).map_err(io::Error::other)?;
            let status = if rest.starts_with("displayAlert/") { 200 } else { 404 };
            let topic = format!("$iothub/methods/res/{status}/?$rid={rid}");
            put_qos0(topic, json!({"displayed": text}).to_string(), out)?;
            self.heard(|heard| heard.methods += 1);
            return Ok(());
        }
        if topic.contains("/messages/devicebound/") {
            let id = topic.split(['/', '&']).find_map(|part| part.strip_prefix("%24.mid="));
            self.heard(|heard| heard.messages.push(id.unwrap_or_default().to_owned()));
        }
        Ok(())
    }

    /// An answer to a question for the twin, or to what was reported.
    fn answered(
        &mut self,
        rest: &str,
        body: &[u8],
        packet_id: u16,
        out: &mut BytesMut,
    ) -> io::Result<()> {
        let status = rest.split('/').next().and_then(|status| status.parse().ok());
        let rid = value_of(rest, "$rid").and_then(|rid| rid.parse().ok());
        let (Some(status), Some(rid)) = (status, rid) else {
            return Err(io::Error::other(format!("an answer without status or $rid: {rest}")));
        };
        if !self.asked.remove(&rid) {
            if self.unanswered.remove(&rid).is_some() {
                self.heard(|heard| heard.reported.push(status));
            }
            return Ok(());
        }
        let twin: Value = serde_json::from_slice(body).map_err(io::Error::other)?;
        let desired = &twin["desired"];
        self.heard(|heard| heard.twins.push((status, desired.clone())));
        if !self.heard(|heard| heard.subscribed) {
            let filter = "$iothub/twin/PATCH/properties/desired/#".to_owned();
            let filter = SubscribeFilter::new(filter, QoS::AtMostOnce);
            put(Packet::Subscribe(subscribe([filter], packet_id)), out)?;
        }
        if version_of(desired) > self.version { self.apply(desired, out) } else { Ok(()) }
    }

    /// Applies desired properties, and reports each in the form of IoT Plug and Play.
    fn apply(&mut self, desired: &Value, out: &mut BytesMut) -> io::Result<()> {
        self.version = self.version.max(version_of(desired));
        let changed: Vec<(String, Value)> = (desired.as_object().into_iter().flatten())
            .filter(|(name, _)| *name != "$version")
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let report = changed.iter().map(|(name, value)| {
            (name.clone(), json!({"value": value, "ac": 200, "av": self.version}))
        });
        let report: Map<String, Value> = report.collect();
        self.heard(|heard| heard.desired.extend(changed));
        if report.is_empty() { Ok(()) } else { self.report(Value::Object(report), out) }
    }

    fn report(&mut self, patch: Value, out: &mut BytesMut) -> io::Result<()> {
        let rid = self.rid();
        if self.granted {
            put_reported(rid, &patch, out)?;
        }
        self.unanswered.insert(rid, patch);
        Ok(())
    }

    fn ask(&mut self, out: &mut BytesMut) -> io::Result<()> {
        if !self.granted {
            return Ok(());
        }
        let rid = self.rid();
        self.asked.insert(rid);
        put_qos0(format!("$iothub/twin/GET/?$rid={rid}"), String::new(), out)
    }

    fn rid(&mut self) -> u64 {
        self.next_rid += 1;
        self.next_rid
    }
}

fn version_of(desired: &Value) -> u64 {
    desired["$version"].as_u64().unwrap_or_default()
}

/// The value of a name in `.../?name=value&name=value`.
fn value_of<'t>(topic: &'t str, name: &str) -> Option<&'t str> {
    let pairs = topic.split('?').nth(1)?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

fn subscribe(filters: impl IntoIterator<Item = SubscribeFilter>, packet_id: u16) -> Subscribe {
    let mut subscribe = Subscribe::new_many(filters);
    subscribe.pkid = packet_id;
    subscribe
}

fn put_reported(rid: u64, patch: &Value, out: &mut BytesMut) -> io::Result<()> {
    let topic = format!("$iothub/twin/PATCH/properties/reported/?$rid={rid}");
    put_qos0(topic, patch.to_string(), out)
}

fn put_qos0(topic: String, body: String, out: &mut BytesMut) -> io::Result<()> {
    put(Packet::Publish(Publish::new(topic, QoS::AtMostOnce, body)), out)
}

fn put(packet: Packet, out: &mut BytesMut) -> io::Result<()> {
    packet.write(out, PACKET_BYTES_MAX).map_err(io::Error::other).map(drop)
}
