//! Telemetry's way from a whole delivery into the log, and the outcomes that go back.
//!
//! Invariants: every unsettled delivery gets exactly one outcome unless a fault withholds it; messages of one transfer
//! are logged all or none. Must not know: how a delivery was assembled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::connection::{Conn, Settlement};
use super::frame::{Layer, code, error, put_frame};
use super::link::Delivery;
use super::message::{FORMAT_BATCH, telemetry};
use super::skim;
use super::value::Value;
use crate::faults::{Answer, Timing};
use crate::hub::Lean;
use crate::log::{Stamp, Transferred};
use crate::registry::Principal;

impl Conn {
    pub(super) fn on_telemetry(
        &mut self,
        delivery: &Delivery,
        annotations: Arc<BTreeMap<String, String>>,
        now: Instant,
    ) {
        let link = self.sessions.get(&delivery.channel).and_then(|s| s.links.get(&delivery.handle));
        let Some(principal) = link.and_then(|l| l.principal.clone()) else {
            return;
        };
        if delivery.format != 0 && delivery.format != FORMAT_BATCH {
            let words = format!("message format 0x{:08x}", delivery.format);
            return self.answer(delivery, rejected("amqp:not-implemented", &words));
        }
        if self.hub.lean.is_some() {
            return self.on_lean(delivery, &principal, now);
        }
        let messages = match telemetry(delivery.format, delivery.payload.clone()) {
            Ok(messages) => messages,
            Err(e) => return self.answer(delivery, rejected("amqp:decode-error", &e.to_string())),
        };
        self.messages_read += messages.len() as u64;
        let verdict = self.hub.faults.judge(&principal.device, Transferred::Read(&messages));
        let outcome = outcome(&verdict.answer);
        if verdict.answer == Answer::Accept {
            let enqueued_time = self.hub.clock.wall_ms();
            let mut stamped = (*annotations).clone();
            let time = crate::clock::iso8601(enqueued_time);
            stamped.insert("iothub-enqueuedtime".to_owned(), time);
            let annotations = Arc::new(stamped);
            let connection_no = self.handle.no;
            let stamp = Stamp { principal, annotations, enqueued_time, connection_no };
            self.hub.log.store(&stamp, messages);
        } else {
            self.hub.log.count(|counts| counts.transfers_refused += 1);
        }
        self.answer_when(delivery, outcome, verdict.timing, now);
    }

    /// Lean mode: bodies to whoever asked for them, nothing into the log.
    fn on_lean(&mut self, delivery: &Delivery, principal: &Principal, now: Instant) {
        let hub = Arc::clone(&self.hub);
        let Some(Lean(sink)) = &hub.lean else {
            return;
        };
        let decoded;
        let mut bodies = Vec::new();
        if !skim::bodies(delivery.format, &delivery.payload, &mut bodies) {
            // Nothing that the gateway sends, but legal perhaps: read it properly.
            bodies.clear();
            decoded = match telemetry(delivery.format, delivery.payload.clone()) {
                Ok(messages) => messages,
                Err(e) => {
                    return self.answer(delivery, rejected("amqp:decode-error", &e.to_string()));
                }
            };
            bodies.extend(decoded.iter().map(|message| &message.body[..]));
        }
        let count = bodies.len() as u64;
        self.messages_read += count;
        let verdict = hub.faults.judge(&principal.device, Transferred::Unread(count));
        if verdict.answer == Answer::Accept {
            match &principal.module {
                None => sink(&principal.device, &bodies),
                Some(_) => sink(&principal.to_string(), &bodies),
            }
            let bytes: usize = bodies.iter().map(|body| body.len()).sum();
            hub.log.count_transfer(count, bytes as u64);
        } else {
            hub.log.count(|counts| counts.transfers_refused += 1);
        }
        self.answer_when(delivery, outcome(&verdict.answer), verdict.timing, now);
    }

    fn answer_when(&mut self, delivery: &Delivery, outcome: Value, timing: Timing, now: Instant) {
        let settlement = || Settlement {
            channel: delivery.channel,
            delivery_id: delivery.id,
            outcome: outcome.clone(),
        };
        match timing {
            _ if delivery.settled => {}
            Timing::Never => {}
            Timing::Now => self.answer(delivery, outcome),
            Timing::After(delay) => {
                self.delayed_no += 1;
                self.delayed.insert((now + delay, self.delayed_no), settlement());
            }
            Timing::Held { fault } => self.held.push((fault, settlement())),
        }
    }

    pub(super) fn answer(&mut self, delivery: &Delivery, outcome: Value) {
        if !delivery.settled {
            let (channel, delivery_id) = (delivery.channel, delivery.id);
            self.settle(&Settlement { channel, delivery_id, outcome });
        }
    }

    /// Sends an outcome. Acceptances of neighbours travel in one disposition, at the latest when the input is used up.
    pub(crate) fn settle(&mut self, settlement: &Settlement) {
        let Settlement { channel, delivery_id, outcome } = settlement;
        let accepted = matches!(outcome, Value::Described(code, _)
            if code.as_u64() == Some(code::ACCEPTED));
        let Some(session) = self.sessions.get_mut(channel) else {
            return;
        };
        if accepted {
            match &mut session.accepted {
                Some((_, last)) if last.wrapping_add(1) == *delivery_id => *last = *delivery_id,
                run => {
                    if let Some((first, last)) = run.replace((*delivery_id, *delivery_id)) {
                        put_accepted(&mut self.out, *channel, first, last);
                    }
                }
            }
            return;
        }
        if let Some((first, last)) = session.accepted.take() {
            put_accepted(&mut self.out, *channel, first, last);
        }
        let body = disposition(*delivery_id, *delivery_id, outcome.clone());
        self.send(*channel, &body);
    }

    /// Sends the acceptances that were gathered.
    pub(crate) fn flush_accepted(&mut self) {
        for (channel, session) in &mut self.sessions {
            if let Some((first, last)) = session.accepted.take() {
                put_accepted(&mut self.out, *channel, first, last);
            }
        }
    }
}

fn outcome(answer: &Answer) -> Value {
    match answer {
        Answer::Accept => Value::described_list(code::ACCEPTED, Vec::new()),
        Answer::Reject(condition) => rejected(condition, "by the fault script"),
        Answer::Release => Value::described_list(code::RELEASED, Vec::new()),
        Answer::Modify => Value::described_list(code::MODIFIED, vec![Value::Bool(true)]),
    }
}

fn disposition(first: u32, last: u32, outcome: Value) -> Value {
    let fields =
        vec![Value::Bool(true), Value::UInt(first), Value::UInt(last), Value::Bool(true), outcome];
    Value::described_list(code::DISPOSITION, fields)
}

fn put_accepted(out: &mut Vec<u8>, channel: u16, first: u32, last: u32) {
    let accepted = Value::described_list(code::ACCEPTED, Vec::new());
    put_frame(out, Layer::Amqp, channel, &disposition(first, last, accepted), &[]);
}

pub(super) fn rejected(condition: &str, words: &str) -> Value {
    Value::described_list(code::REJECTED, vec![error(condition, words)])
}
