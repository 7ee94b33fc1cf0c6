//! Links once attached: flow, transfer, detach.
//!
//! Owns: the peer's credit and the assembly of transfers that span frames. Invariant: a sender never runs out of credit while
//! the hub reads. Must not know: sockets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::connection::{Conn, Fatal, WINDOW};
use super::frame::{Performative, code, error};
use super::outgoing::Outgoing;
use super::settle::rejected;
use super::skim::Transfer;
use super::value::Value;
use crate::hub::{CLOUD_TO_DEVICE, METHOD_REQUESTS};
use crate::registry::{Denied, Principal};

/// What a link is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// The peer sends put-tokens.
    CbsRequests,
    /// The peer receives their outcomes.
    CbsAnswers,
    /// The peer sends telemetry.
    Telemetry { annotations: Arc<BTreeMap<String, String>> },
    /// The peer sends operations on its twin.
    TwinRequests,
    /// The peer receives their answers and, once it has asked for them, changes of its desired properties.
    TwinAnswers { subscribed: bool },
    /// The peer receives calls of its methods.
    MethodRequests,
    /// The peer sends their answers.
    MethodAnswers,
    /// The peer receives the device's cloud-to-device messages.
    CloudToDevice,
    /// Module inputs: attached and left idle.
    Idle,
}

/// One link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(super) purpose: Purpose,
    pub(super) principal: Option<Principal>,
    pub(super) chain: Option<String>,
    /// `com.microsoft:channel-correlation-id`: equal for the two halves of twins and of methods (fact sheet B3).
    pub(super) pair: Option<String>,
    /// There when the peer receives.
    pub(super) outgoing: Option<Outgoing>,
    /// What is left of the credit given to the peer.
    pub(super) credit: u32,
    pub(super) delivery_count: u32,
    partial: Option<Partial>,
    /// We detached it and wait for the peer's detach.
    pub(super) detached: bool,
}

/// A delivery whose last frame is still to come.
#[derive(Debug)]
struct Partial {
    delivery_id: u32,
    format: u32,
    settled: bool,
    payload: Payload,
}

/// A whole delivery.
pub(super) struct Delivery {
    pub(super) channel: u16,
    pub(super) handle: u32,
    pub(super) id: u32,
    pub(super) format: u32,
    pub(super) settled: bool,
    pub(super) payload: Bytes,
}

impl Conn {
    /// Part 2, section 2.7.4.
    pub(crate) fn on_flow(&mut self, channel: u16, flow: &Performative) -> Result<(), Fatal> {
        if !self.sessions.contains_key(&channel) {
            return Err(unattached());
        }
        let handle = flow.fields.get(4).as_u32();
        if let Some(handle) = handle {
            self.on_credit(channel, handle, flow);
        }
        if flow.fields.get(9).as_bool() == Some(true) {
            self.send_flow(channel, handle);
        }
        Ok(())
    }

    /// Tells the peer the window of the session, and the credit of one link when named.
    pub(super) fn send_flow(&mut self, channel: u16, handle: Option<u32>) {
        let Some(session) = self.sessions.get_mut(&channel) else {
            return;
        };
        session.since_flow = 0;
        let mut fields = vec![
            Value::UInt(session.next_incoming_id),
            Value::UInt(WINDOW),
            Value::UInt(session.next_outgoing_id),
            Value::UInt(WINDOW),
        ];
        if let Some((handle, link)) = handle.and_then(|h| session.links.get(&h).map(|l| (h, l))) {
            let (count, credit) = match &link.outgoing {
                Some(outgoing) => (outgoing.sent, outgoing.credit),
                None => (link.delivery_count, link.credit),
            };
            fields.extend([Value::UInt(handle), Value::UInt(count), Value::UInt(credit)]);
        }
        self.send(channel, &Value::described_list(code::FLOW, fields));
    }

    /// Part 2, section 2.7.5: one frame of a delivery.
    pub(crate) fn on_transfer(
        &mut self,
        channel: u16,
        transfer: Transfer,
        now: Instant,
    ) -> Result<(), Fatal> {
        let bytes_max = self.hub.limits.message_bytes_max;
        let credit = self.hub.limits.credit;
        let session = self.sessions.get_mut(&channel).ok_or_else(unattached)?;
        session.next_incoming_id = session.next_incoming_id.wrapping_add(1);
        session.since_flow += 1;
        let window_low = session.since_flow >= WINDOW / 2;
        let handle = transfer.handle;
        let Some(link) = session.links.get_mut(&handle) else {
            return Err(Fatal("amqp:session:unattached-handle", format!("handle {handle}")));
        };
        if link.detached {
            return Ok(());
        }
        let whole = match link.assemble(transfer, bytes_max)? {
            Assembly::More => None,
            Assembly::TooLarge => {
                let words = format!("a message of more than {bytes_max} bytes");
                self.detach_link(channel, handle, "amqp:link:message-size-exceeded", &words);
                None
            }
            Assembly::Whole(partial) => {
                link.delivery_count = link.delivery_count.wrapping_add(1);
                link.credit = link.credit.saturating_sub(1);
                let low = link.credit <= credit / 2;
                if low {
                    link.credit = credit;
                }
                Some((partial, low))
            }
        };
        let Some((partial, credit_low)) = whole else {
            if window_low {
                self.send_flow(channel, None);
            }
            return Ok(());
        };
        let Partial { delivery_id: id, format, settled, payload } = partial;
        let payload = payload.into_bytes();
        self.on_delivery(Delivery { channel, handle, id, format, settled, payload }, now);
        if credit_low || window_low {
            self.send_flow(channel, credit_low.then_some(handle));
        }
        Ok(())
    }

    fn on_delivery(&mut self, delivery: Delivery, now: Instant) {
        let link = self.sessions.get(&delivery.channel);
        let Some(link) = link.and_then(|s| s.links.get(&delivery.handle)) else {
            return;
        };
        match &link.purpose {
            Purpose::CbsRequests => {
                let answer = self.on_cbs_request(delivery.payload.clone(), now);
                // The request is settled before it is answered (fact sheet B2).
                self.answer(&delivery, Value::described_list(code::ACCEPTED, Vec::new()));
                self.flush_accepted();
                if let Some(answer) = answer {
                    self.queue_cbs_answer(delivery.channel, answer);
                }
            }
            Purpose::Telemetry { annotations } => {
                let annotations = Arc::clone(annotations);
                self.on_telemetry(&delivery, annotations, now);
            }
            Purpose::TwinRequests => {
                self.answer(&delivery, Value::described_list(code::ACCEPTED, Vec::new()));
                self.on_twin_request(&delivery, now);
            }
            Purpose::MethodAnswers => self.on_method_answer(&delivery),
            _ => {
                let words = "this double does not serve this address over AMQP";
                self.answer(&delivery, rejected("amqp:not-implemented", words));
            }
        }
    }

    /// The peer's outcome for what it received. Only for cloud-to-device messages something hangs on it, but all want to be
    /// settled.
    pub(crate) fn on_disposition(&mut self, channel: u16, d: &Performative) -> Result<(), Fatal> {
        let from_receiver = d.fields.get(0).as_bool() == Some(true);
        if from_receiver {
            self.on_c2d_outcome(channel, d);
        }
        if from_receiver && d.fields.get(3).as_bool() != Some(true) {
            let (first, last) = (d.fields.get(1).clone(), d.fields.get(2).clone());
            let fields = vec![Value::Bool(false), first, last, Value::Bool(true)];
            self.send(channel, &Value::described_list(code::DISPOSITION, fields));
        }
        Ok(())
    }

    fn queue_cbs_answer(&mut self, request_channel: u16, answer: Vec<u8>) {
        let found = self.links_where(|link| matches!(link.purpose, Purpose::CbsAnswers));
        // The two halves may sit in different sessions.
        let own = found.iter().find(|(channel, _)| *channel == request_channel);
        if let Some((channel, handle)) = own.or(found.first()).copied() {
            self.queue(channel, handle, answer);
        }
    }

    /// Part 2, section 2.7.7.
    pub(crate) fn on_detach(&mut self, channel: u16, d: &Performative) -> Result<(), Fatal> {
        let handle = d.fields.get(0).as_u32().unwrap_or(u32::MAX);
        self.flush_accepted();
        let session = self.sessions.get_mut(&channel).ok_or_else(unattached)?;
        session.forget_locks(handle);
        if let Some(link) = session.links.remove(&handle)
            && !link.detached
        {
            self.handle.info(|info| info.links.remove(&(channel, handle)));
            let closed = d.fields.get(1).as_bool() == Some(true);
            let fields = vec![Value::UInt(handle), Value::Bool(closed)];
            self.send(channel, &Value::described_list(code::DETACH, fields));
        }
        Ok(())
    }

    fn detach_link(&mut self, channel: u16, handle: u32, condition: &str, words: &str) {
        self.flush_accepted();
        let session = self.sessions.get_mut(&channel);
        let Some(link) = session.and_then(|s| s.links.get_mut(&handle)) else {
            return;
        };
        link.detached = true;
        link.partial = None;
        if let Some(session) = self.sessions.get_mut(&channel) {
            session.forget_locks(handle);
        }
        self.handle.info(|info| info.links.remove(&(channel, handle)));
        self.send(channel, &detach(handle, Some(error(condition, words))));
    }

    /// Detaches the links of the identities that `which` picks.
    pub(crate) fn detach_where(
        &mut self,
        condition: &str,
        words: &str,
        which: impl Fn(&Principal) -> bool,
    ) {
        for (channel, handle) in self.links_where(|l| l.principal.as_ref().is_some_and(&which)) {
            self.detach_link(channel, handle, condition, words);
        }
    }

    pub(super) fn links_where(&self, which: impl Fn(&Link) -> bool) -> Vec<(u16, u32)> {
        let links = self.sessions.iter().flat_map(|(channel, session)| {
            session.links.iter().map(move |(handle, link)| ((*channel, *handle), link))
        });
        links.filter(|(_, link)| !link.detached && which(link)).map(|(at, _)| at).collect()
    }

    /// Another connection attached links of `principal`: unless this one took them back since, they end here.
    pub(crate) fn on_stolen(&mut self, principal: &Principal) {
        if !self.hub.roster.owns(principal, self.handle.no) {
            let words = "another connection attached links of this identity";
            self.detach_where("amqp:link:stolen", words, |who| who == principal);
        }
    }

    /// Judges all links again after a change of the registry.
    pub(crate) fn recheck(&mut self) {
        let mut refused: Vec<((u16, u32), Denied)> = Vec::new();
        for at in self.links_where(|link| link.principal.is_some()) {
            let link = self.sessions.get(&at.0).and_then(|s| s.links.get(&at.1));
            let Some(Link { principal: Some(who), chain, .. }) = link else {
                continue;
            };
            let chain = chain.as_deref();
            if let Err(denied) = self.authorize(&who.device, who.module.as_deref(), chain) {
                refused.push((at, denied));
            }
        }
        for ((channel, handle), denied) in refused {
            self.detach_link(channel, handle, denied.condition(), denied.reason());
        }
    }
}

/// The bytes of a delivery. Most come in one frame and are not copied.
#[derive(Debug)]
enum Payload {
    One(Bytes),
    Several(BytesMut),
}

impl Payload {
    fn push(&mut self, more: Bytes) {
        if let Self::One(first) = self {
            *self = Self::Several(BytesMut::from(std::mem::take(first)));
        }
        if let Self::Several(all) = self {
            all.extend_from_slice(&more);
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::One(bytes) => bytes.len(),
            Self::Several(bytes) => bytes.len(),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::One(bytes) => bytes,
            Self::Several(bytes) => bytes.freeze(),
        }
    }
}

/// What a frame makes of a delivery.
enum Assembly {
    More,
    Whole(Partial),
    TooLarge,
}

impl Link {
    pub(super) fn new(purpose: Purpose) -> Self {
        Self {
            purpose,
            principal: None,
            chain: None,
            pair: None,
            outgoing: None,
            credit: 0,
            delivery_count: 0,
            partial: None,
            detached: false,
        }
    }

    /// Adds one frame (part 2, section 2.6.14). `bytes_max` bounds what is buffered.
    fn assemble(&mut self, transfer: Transfer, bytes_max: u64) -> Result<Assembly, Fatal> {
        if transfer.aborted {
            self.partial = None;
            return Ok(Assembly::More);
        }
        let mut partial = match self.partial.take() {
            Some(mut partial) => {
                partial.payload.push(transfer.payload);
                partial
            }
            None => Partial {
                delivery_id: transfer.delivery_id.ok_or_else(no_delivery_id)?,
                format: transfer.format,
                settled: transfer.settled,
                payload: Payload::One(transfer.payload),
            },
        };
        partial.settled |= transfer.settled;
        if partial.payload.len() as u64 > bytes_max {
            return Ok(Assembly::TooLarge);
        }
        if transfer.more {
            self.partial = Some(partial);
            return Ok(Assembly::More);
        }
        Ok(Assembly::Whole(partial))
    }
}

impl Purpose {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::CbsRequests | Self::CbsAnswers => "cbs",
            Self::Telemetry { .. } => "telemetry",
            Self::TwinRequests => "twin requests",
            Self::TwinAnswers { .. } => "twin answers",
            Self::MethodRequests => METHOD_REQUESTS,
            Self::MethodAnswers => "method answers",
            Self::CloudToDevice => CLOUD_TO_DEVICE,
            Self::Idle => "idle",
        }
    }
}

pub(super) fn detach(handle: u32, why: Option<Value>) -> Value {
    let fields = vec![Value::UInt(handle), Value::Bool(true), why.unwrap_or(Value::Null)];
    Value::described_list(code::DETACH, fields)
}

pub(super) fn unattached() -> Fatal {
    Fatal("amqp:not-allowed", "the channel has no session".into())
}

fn no_delivery_id() -> Fatal {
    Fatal("amqp:invalid-field", "the first transfer of a delivery has no delivery-id".into())
}
