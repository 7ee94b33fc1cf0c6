//! Cloud-to-device links: messages out under the lock of their queue, and what the peer says of them (fact sheet B3, B5).
//!
//! Owns: which delivery carries which lock. Invariants: a message is taken out of its queue only when the peer has given
//! credit for it; the delivery-tag is the lock token; a link that ends settles nothing, so that the locks run out. Must not
//! know: what becomes of a message.

use bytes::Bytes;

use super::connection::{Conn, Session};
use super::frame::{Performative, code};
use super::link::{Link, Purpose};
use super::message::Sections;
use super::settle::rejected;
use super::value::{Value, uuid_text};
use crate::c2d::{Outcome, Taken};
use crate::registry::Principal;

impl Session {
    /// Forgets what a link has not settled.
    pub(super) fn forget_locks(&mut self, handle: u32) {
        self.locks.retain(|_, (of, _)| *of != handle);
    }
}

impl Conn {
    /// The queue of `who` has something.
    pub(crate) fn on_c2d_news(&mut self, who: &Principal) {
        let serves = |link: &Link| {
            matches!(link.purpose, Purpose::CloudToDevice) && link.principal.as_ref() == Some(who)
        };
        for (channel, handle) in self.links_where(serves) {
            self.deliver_c2d(channel, handle);
        }
    }

    /// Sends what waits, as far as the credit goes.
    pub(super) fn deliver_c2d(&mut self, channel: u16, handle: u32) {
        loop {
            let link = self.sessions.get(&channel).and_then(|s| s.links.get(&handle));
            let Some(Link { principal: Some(who), outgoing: Some(outgoing), detached, .. }) = link
            else {
                return;
            };
            let (who, settled) = (who.clone(), outgoing.settled());
            if *detached || outgoing.credit == 0 {
                return;
            }
            let Some(taken) = self.hub.take_c2d(&who) else { return };
            let tag = Bytes::copy_from_slice(&taken.lock);
            let Some(delivery) = self.transmit(channel, handle, Some(tag), &encoded(&taken)) else {
                return;
            };
            self.hub.log.count(|counts| counts.c2d_deliveries += 1);
            if settled {
                // Who wants no dispositions has it as soon as it is sent.
                let _ = self.hub.settle_c2d(&who, &taken.lock, Outcome::Complete);
            } else if let Some(session) = self.sessions.get_mut(&channel) {
                session.locks.insert(delivery, (handle, taken.lock));
            }
        }
    }

    /// The peer's word on deliveries (part 2, section 2.7.6), as far as they carry locks.
    pub(super) fn on_c2d_outcome(&mut self, channel: u16, d: &Performative) {
        let Some(session) = self.sessions.get_mut(&channel) else { return };
        let first = d.fields.get(1).as_u32().unwrap_or(0);
        let span = d.fields.get(2).as_u32().unwrap_or(first).wrapping_sub(first);
        let settled = d.fields.get(3).as_bool() == Some(true);
        let Some(outcome) = outcome(d.fields.get(4), settled) else { return };
        let hit = |id: &u32| id.wrapping_sub(first) <= span;
        let ids: Vec<u32> = session.locks.keys().copied().filter(hit).collect();
        for id in ids {
            self.settle_one(channel, id, outcome, settled, d.fields.get(4));
        }
    }

    fn settle_one(&mut self, channel: u16, id: u32, outcome: Outcome, settled: bool, said: &Value) {
        let Some(session) = self.sessions.get_mut(&channel) else { return };
        let Some((handle, lock)) = session.locks.remove(&id) else { return };
        let who = session.links.get(&handle).and_then(|link| link.principal.clone());
        let Some(who) = who else { return };
        let state = match self.hub.settle_c2d(&who, &lock, outcome) {
            Ok(()) => said.clone(),
            Err(_) => {
                self.hub.log.count(|counts| counts.c2d_locks_lost += 1);
                rejected("com.microsoft:message-lock-lost", "the lock is over")
            }
        };
        if !settled {
            let (id, sender) = (Value::UInt(id), Value::Bool(false));
            let fields = vec![sender, id.clone(), id, Value::Bool(true), state];
            self.send(channel, &Value::described_list(code::DISPOSITION, fields));
        }
    }
}

/// What a delivery-state means for a message; `None` when it settles nothing.
fn outcome(state: &Value, settled: bool) -> Option<Outcome> {
    let code = match state {
        Value::Described(code, _) => code.as_u64(),
        _ => None,
    };
    match code {
        Some(code::ACCEPTED) => Some(Outcome::Complete),
        Some(code::REJECTED) => Some(Outcome::Reject),
        Some(code::RELEASED | code::MODIFIED) => Some(Outcome::Abandon),
        // Settled without an outcome: the source's default, which is released here.
        None if settled => Some(Outcome::Abandon),
        _ => None,
    }
}

fn encoded(taken: &Taken) -> Vec<u8> {
    let message = &taken.message;
    let text = |text: &Option<String>| text.as_ref().map_or(Value::Null, Value::string);
    let symbol = |text: &Option<String>| text.as_ref().map_or(Value::Null, Value::symbol);
    let user = message.user_id.as_ref();
    let user = user.map_or(Value::Null, |id| Value::Binary(Bytes::copy_from_slice(id.as_bytes())));
    let deliveries = u8::try_from(taken.delivery_count).unwrap_or(u8::MAX);
    let mut application: Vec<(&str, Value)> = Vec::new();
    application.extend(message.ack.text().map(|ack| ("iothub-ack", Value::string(ack))));
    let own = message.properties.iter();
    application.extend(own.map(|(name, value)| (name.as_str(), Value::string(value))));
    Sections {
        annotations: vec![
            ("iothub-enqueuedtime", Value::Timestamp(taken.enqueued_ms)),
            ("iothub-deliverycount", Value::UByte(deliveries)),
            ("x-opt-sequence-number", Value::ULong(taken.sequence)),
            ("x-opt-lock-token", Value::string(uuid_text(&taken.lock))),
        ],
        properties: vec![
            text(&message.message_id),
            user,
            Value::string(&taken.to),
            Value::Null,
            Value::Null,
            text(&message.correlation_id),
            symbol(&message.content_type),
            symbol(&message.content_encoding),
            message.expiry.map_or(Value::Null, Value::Timestamp),
        ],
        application,
    }
    .encode(&message.body)
}
