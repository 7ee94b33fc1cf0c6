//! Method links: calls to the peer and its answers (fact sheet B7).
//!
//! Invariant: the correlation-id of a call is of type uuid, and only an answer that carries one of that type counts.
//! Must not know: who calls.

use serde_json::Value as Json;

use super::connection::Conn;
use super::frame::code;
use super::link::{Delivery, Link, Purpose};
use super::message::{Message, body, plain};
use super::settle::rejected;
use super::value::Value;
use crate::methods::MethodAnswer;
use crate::registry::Principal;

impl Conn {
    /// Somebody calls a method of `who`.
    pub(crate) fn on_method(&mut self, who: &Principal, id: [u8; 16], name: &str, payload: &[u8]) {
        let serves = |link: &Link| {
            matches!(link.purpose, Purpose::MethodRequests) && link.principal.as_ref() == Some(who)
        };
        if let Some((channel, handle)) = self.links_where(serves).first().copied() {
            let application = vec![("IoThub-methodname", Value::string(name))];
            let message = plain(Vec::new(), Value::Uuid(id), application, payload);
            self.queue(channel, handle, message);
        }
    }

    pub(super) fn on_method_answer(&mut self, delivery: &Delivery) {
        let link = self.sessions.get(&delivery.channel).and_then(|s| s.links.get(&delivery.handle));
        let Some(Link { principal: Some(who), .. }) = link else { return };
        let who = who.clone();
        let taken = self.take_method_answer(&who, delivery);
        let outcome = match taken {
            Ok(()) => Value::described_list(code::ACCEPTED, Vec::new()),
            Err(words) => rejected("amqp:decode-error", words),
        };
        self.answer(delivery, outcome);
    }

    fn take_method_answer(&self, who: &Principal, delivery: &Delivery) -> Result<(), &'static str> {
        let message = Message::decode(delivery.payload.clone());
        let mut message = message.map_err(|_| "it is no message")?;
        let Some(Value::Uuid(id)) = message.properties.as_mut().map(|p| p.take(5)) else {
            return Err("the correlation-id is no uuid");
        };
        let status = message.application.iter().find(|(k, _)| k.as_text() == Some("IoThub-status"));
        let Some(Value::Int(status)) = status.map(|(_, status)| status) else {
            return Err("IoThub-status is no int");
        };
        let body = body(&message);
        let payload = match body.is_empty() {
            true => Json::Null,
            false => serde_json::from_slice(&body)
                .unwrap_or_else(|_| Json::String(String::from_utf8_lossy(&body).into_owned())),
        };
        let answer = MethodAnswer { status: i64::from(*status), payload };
        let wanted = self.hub.methods.answer(who, &id, answer);
        self.hub.log.count(|counts| match wanted {
            true => counts.method_answers += 1,
            false => counts.method_answers_unwanted += 1,
        });
        Ok(())
    }
}
