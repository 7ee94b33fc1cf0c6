//! Twin links: GET, PATCH, PUT and DELETE of the peer, and changes of desired properties (fact sheet B6).
//!
//! Invariants: each operation gets one answer, with its correlation-id, on the other half of its pair; a change goes only to
//! links that asked for it. Must not know: how twins are kept.

use std::time::Instant;

use serde_json::Value as Json;

use super::connection::Conn;
use super::link::{Delivery, Link, Purpose};
use super::message::{Message, body, plain};
use super::value::Value;
use crate::registry::Principal;
use crate::twins::Refused;

/// What a PATCH is for.
const REPORTED: &str = "/properties/reported";
/// What PUT and DELETE are for, and where a change comes from.
const DESIRED: &str = "/notifications/twin/properties/desired";

/// What came of an operation.
struct Done {
    status: u16,
    version: Option<u64>,
    body: Vec<u8>,
}

impl Conn {
    pub(super) fn on_twin_request(&mut self, delivery: &Delivery, now: Instant) {
        let link = self.sessions.get(&delivery.channel).and_then(|s| s.links.get(&delivery.handle));
        let Some(Link { principal: Some(who), pair, .. }) = link else { return };
        let (who, pair) = (who.clone(), pair.clone());
        let Some(to) = self.twin_answers(&who, pair.as_deref()) else {
            tracing::debug!(%who, "an operation on a twin without a link for the answer");
            return;
        };
        let Ok(mut message) = Message::decode(delivery.payload.clone()) else { return };
        let correlation = message.properties.as_mut().map_or(Value::Null, |p| p.take(5));
        let ignored = self.hub.faults.ignores_twin(&who.device);
        if ignored == Some(false) {
            return;
        }
        let done = match self.hub.faults.refuses_twin(&who.device) {
            Some(status) => Err(Refused { status, words: "refused by the fault script".into() }),
            None => self.operate(&who, &message, to),
        };
        if ignored.is_some() {
            return;
        }
        let done = done.unwrap_or_else(|refused| {
            let body = refused.body(self.hub.clock.wall_ms()).into_bytes();
            Done { status: refused.status, version: None, body }
        });
        if done.status >= 400 {
            self.hub.log.count(|counts| counts.twin_refused += 1);
        }
        let mut annotations = vec![("status", Value::Int(i32::from(done.status)))];
        if let Some(version) = done.version {
            annotations.push(("version", Value::Long(i64::try_from(version).unwrap_or(i64::MAX))));
        }
        let answer = plain(annotations, correlation, Vec::new(), &done.body);
        match self.hub.faults.delays_twin(&who.device) {
            Some(delay) => self.queue_at(now + delay, to.0, to.1, answer),
            None => self.queue(to.0, to.1, answer),
        }
    }

    /// Carries an operation out; `to` is where its answer goes.
    fn operate(
        &mut self,
        who: &Principal,
        message: &Message,
        to: (u16, u32),
    ) -> Result<Done, Refused> {
        let operation = message.annotation_text("operation").unwrap_or_default();
        let resource = message.annotation_text("resource").unwrap_or_default();
        let done = |body: Vec<u8>| Done { status: 200, version: None, body };
        match (operation, resource) {
            ("GET", _) => {
                self.hub.log.count(|counts| counts.twin_gets += 1);
                Ok(done(self.hub.twins.of_device(who).to_string().into_bytes()))
            }
            ("PATCH", REPORTED) => {
                let bad = |e| Refused { status: 400, words: format!("not JSON: {e}") };
                let patch: Json = serde_json::from_slice(&body(message)).map_err(bad)?;
                let expected = message.annotation("version").and_then(Value::as_count);
                let version = self.hub.twins.report(who, &patch, expected)?;
                self.hub.log.count(|counts| counts.twin_patches += 1);
                Ok(Done { version: Some(version), ..done(Vec::new()) })
            }
            ("PUT" | "DELETE", DESIRED) => {
                let link = self.sessions.get_mut(&to.0).and_then(|s| s.links.get_mut(&to.1));
                if let Some(Purpose::TwinAnswers { subscribed }) = link.map(|l| &mut l.purpose) {
                    *subscribed = operation == "PUT";
                }
                Ok(done(Vec::new()))
            }
            _ => {
                let words = format!("no such operation: {operation:?} of {resource:?}");
                Err(Refused { status: 400, words })
            }
        }
    }

    /// The other half of a pair.
    fn twin_answers(&self, who: &Principal, pair: Option<&str>) -> Option<(u16, u32)> {
        let fits = |link: &Link| {
            matches!(link.purpose, Purpose::TwinAnswers { .. })
                && link.principal.as_ref() == Some(who)
                && link.pair.as_deref() == pair
        };
        self.links_where(fits).first().copied()
    }

    /// The desired properties of `who` have changed.
    pub(crate) fn on_desired(&mut self, who: &Principal, patch: &str) {
        let wants = |link: &Link| {
            matches!(link.purpose, Purpose::TwinAnswers { subscribed: true })
                && link.principal.as_ref() == Some(who)
        };
        for (channel, handle) in self.links_where(wants) {
            let annotations = vec![("resource", Value::string(DESIRED))];
            let message = plain(annotations, Value::Null, Vec::new(), patch.as_bytes());
            self.hub.log.count(|counts| counts.twin_pushes += 1);
            self.queue(channel, handle, message);
        }
    }
}
