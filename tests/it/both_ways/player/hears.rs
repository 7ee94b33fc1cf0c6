//! What a client is told, and what it does about it.

use std::io;
use std::time::Duration;

use rand::Rng as _;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Packet, PubAck, Publish};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::book::{merge, section};
use super::{NEVER, Player, STATUS, Wire};

impl Player {
    /// Answers come in the order of the patches.
    pub(super) fn taken(&mut self, wire: &mut Wire, at: usize) {
        if at > 0 {
            self.book().wrong("a later patch was answered first".to_owned());
        }
        if let Some(patch) = wire.patches.remove(at) {
            self.book().answered(&patch.body);
        }
    }

    pub(super) fn telemetry_acked(&mut self, wire: &mut Wire, pkid: u16) {
        let of = |number: u64| (number % 0x3fff) as u16 + 1;
        if self.unacked.front().is_none_or(|number| of(*number) != pkid) {
            return self.book().wrong(format!("PUBACK {pkid} is not the next"));
        }
        let number = self.unacked.pop_front().expect("looked at");
        let (sure, unsure): (Vec<_>, _) =
            wire.confirming.drain(..).partition(|(before, _)| *before < number);
        wire.confirming = unsure;
        let epoch = self.weather.epoch();
        let mut book = self.book();
        book.acked = number;
        for (_, id) in sure {
            if let Some(seen) = book.c2d.get_mut(&id).filter(|seen| seen.epoch == epoch) {
                seen.confirmed = Some(epoch);
            }
        }
    }

    pub(super) async fn on_publish(&mut self, wire: &mut Wire, publish: Publish) -> io::Result<()> {
        let topic = publish.topic.clone();
        if topic.starts_with("devices/") {
            return self.on_message(wire, &publish).await;
        }
        if publish.qos == QoS::AtLeastOnce {
            self.write(wire, Packet::PubAck(PubAck::new(publish.pkid))).await?;
        }
        let parameter = |name: &str| {
            topic.split(['?', '&']).find_map(|part| part.strip_prefix(name)).map(str::to_owned)
        };
        if let Some(rest) = topic.strip_prefix("$iothub/twin/res/") {
            let status = rest.split('/').next().unwrap_or_default().to_owned();
            let rid = parameter("$rid=").unwrap_or_default();
            let version = parameter("$version=").and_then(|v| v.parse().ok());
            self.on_twin(wire, (&status, &rid, version), &publish.payload);
        } else if topic.starts_with("$iothub/twin/PATCH/properties/desired/") {
            self.on_desired(&publish.payload);
        } else if let Some(rid) = parameter("$rid=") {
            self.on_call(wire, &rid, &publish.payload).await?;
        }
        Ok(())
    }

    fn on_twin(
        &mut self,
        wire: &mut Wire,
        (status, rid, version): (&str, &str, Option<u64>),
        body: &[u8],
    ) {
        if wire.get.as_deref() == Some(rid) {
            wire.get = None;
            let Ok(twin) = serde_json::from_slice::<Value>(body) else { return };
            if status != "200" {
                return self.book().wrong(format!("GET was answered {status}: {twin}"));
            }
            let (view, version) = section(&twin["desired"]);
            let mut book = self.book();
            book.told_desired(version, "GET");
            book.told_reported(section(&twin["reported"]).1, "GET");
            book.view = Some(view);
            return;
        }
        if status == "204" {
            match version {
                Some(version) => self.book().told_reported(version, "204"),
                None => self.book().wrong("204 without a version".to_owned()),
            }
        }
        let Some(at) = wire.patches.iter().position(|patch| patch.rid == rid) else {
            // Its PUBACK came first.
            return;
        };
        match status {
            "204" => self.taken(wire, at),
            _ => {
                let words = String::from_utf8_lossy(body);
                self.book().wrong(format!("a patch was answered {status}: {words}"));
                wire.patches.remove(at);
            }
        }
    }

    fn on_desired(&mut self, body: &[u8]) {
        let mut book = self.book();
        let Ok(patch) = serde_json::from_slice(body) else {
            return book.wrong("a patch of desired properties that is not JSON".to_owned());
        };
        let (patch, version) = section(&patch);
        let is_new = version > book.desired_version;
        book.told_desired(version, "PATCH");
        if let Some(view) = book.view.as_mut().filter(|_| is_new) {
            merge(view, &patch);
        }
    }

    async fn on_call(&mut self, wire: &mut Wire, rid: &str, body: &[u8]) -> io::Result<()> {
        let id = serde_json::from_slice::<Value>(body).ok().and_then(|body| body["id"].as_u64());
        let Some(id) = id else {
            self.book().wrong("a call with another payload".to_owned());
            return Ok(());
        };
        let count = {
            let mut book = self.book();
            let count = book.calls.entry(id).or_default();
            *count += 1;
            *count
        };
        if count > 1 {
            self.book().wrong(format!("call {id} came {count} times"));
        }
        let status = STATUS + id as i64;
        let topic = format!("$iothub/methods/res/{status}/?$rid={rid}");
        let answer = || {
            Packet::Publish(Publish::new(&topic, QoS::AtMostOnce, json!({"id": id}).to_string()))
        };
        let dice = if self.weather.is_quiet() { 0 } else { self.random.random_range(0..10) };
        match dice {
            0..=5 => self.write(wire, answer()).await,
            6 => {
                self.write(wire, answer()).await?;
                self.write(wire, answer()).await
            }
            7 | 8 => {
                let wait = Duration::from_millis(self.random.random_range(0..300));
                wire.later.push((Instant::now() + wait, answer(), None));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn on_message(&mut self, wire: &mut Wire, publish: &Publish) -> io::Result<()> {
        let id = publish.topic.split(['/', '&']).find_map(|part| part.strip_prefix("%24.mid="));
        let (Some(id), QoS::AtLeastOnce) = (id, publish.qos) else {
            self.book().wrong(format!("{:?} {}", publish.qos, publish.topic));
            return Ok(());
        };
        let epoch = self.weather.epoch();
        self.book().came(id, wire.serial, epoch);
        let ack = Packet::PubAck(PubAck::new(publish.pkid));
        let wait = match self.random.random_range(0..10) {
            _ if self.weather.is_quiet() => Duration::ZERO,
            0..=6 => Duration::ZERO,
            7 | 8 => Duration::from_millis(self.random.random_range(0..400)),
            _ => NEVER,
        };
        if wait == Duration::ZERO {
            self.acknowledged(wire, id);
            return self.write(wire, ack).await;
        }
        wire.later.push((Instant::now() + wait, ack, Some(id.to_owned())));
        Ok(())
    }

    /// Noted before the PUBACK is written: it may arrive even if writing fails.
    pub(super) fn acknowledged(&mut self, wire: &mut Wire, id: &str) {
        let sent = {
            let mut book = self.book();
            if let Some(seen) = book.c2d.get_mut(id) {
                seen.is_acknowledged = true;
            }
            book.sent
        };
        wire.confirming.push((sent, id.to_owned()));
    }
}
