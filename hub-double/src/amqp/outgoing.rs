//! Messages to the peer: what waits for credit, and the frames that it becomes.
//!
//! Owns: the credit of the links that the peer receives on, and the messages that wait for it. Invariants: nothing is sent
//! without credit; no frame is larger than the peer takes; what waits is bounded. Must not know: what a message says.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::connection::Conn;
use super::frame::{Layer, Performative, code, put_frame};
use super::link::Purpose;
use super::value::Value;

/// Messages of one link that wait for credit.
const WAITING_MAX: usize = 1000;

/// Room for the head of a transfer's frame.
const HEAD_BYTES: usize = 64;

/// The sending half of a link.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(super) credit: u32,
    /// Deliveries so far: the link's delivery-count.
    pub(super) sent: u32,
    settled: bool,
    waiting: VecDeque<Vec<u8>>,
}

impl Outgoing {
    /// `settled`: the peer wants no dispositions.
    pub(super) fn new(settled: bool) -> Self {
        Self { credit: 0, sent: 0, settled, waiting: VecDeque::new() }
    }

    /// Whether the peer wants no dispositions.
    pub(super) fn settled(&self) -> bool {
        self.settled
    }
}

/// What is left of the credit that a receiver gave when it had seen so many of the deliveries that were sent. It may have taken
/// credit back while deliveries were on their way: then more of them are than it allows, and nothing is left.
fn left_of(given: u32, seen: u32, sent: u32) -> u32 {
    given.saturating_sub(sent.wrapping_sub(seen))
}

impl Conn {
    /// The peer's word on the credit of a link that it receives on (part 2, section 2.6.7).
    pub(super) fn on_credit(&mut self, channel: u16, handle: u32, flow: &Performative) {
        let session = self.sessions.get_mut(&channel);
        let Some(link) = session.and_then(|s| s.links.get_mut(&handle)) else { return };
        let Some(outgoing) = &mut link.outgoing else { return };
        let seen = flow.fields.get(5).as_u32().unwrap_or(0);
        let given = flow.fields.get(6).as_u32().unwrap_or(0);
        outgoing.credit = left_of(given, seen, outgoing.sent);
        match link.purpose {
            Purpose::CloudToDevice => self.deliver_c2d(channel, handle),
            _ => self.send_waiting(channel, handle),
        }
        if flow.fields.get(8).as_bool() == Some(true) {
            self.drain(channel, handle);
        }
    }

    /// Uses up the credit that nothing waits for (part 2, section 2.6.7, drain).
    fn drain(&mut self, channel: u16, handle: u32) {
        let session = self.sessions.get_mut(&channel);
        let link = session.and_then(|s| s.links.get_mut(&handle));
        if let Some(outgoing) = link.and_then(|link| link.outgoing.as_mut()) {
            outgoing.sent = outgoing.sent.wrapping_add(std::mem::take(&mut outgoing.credit));
            self.send_flow(channel, Some(handle));
        }
    }

    /// Sends `message` on a link, as soon as there is credit.
    pub(super) fn queue(&mut self, channel: u16, handle: u32, message: Vec<u8>) {
        let session = self.sessions.get_mut(&channel);
        let Some(link) = session.and_then(|s| s.links.get_mut(&handle)) else { return };
        if link.detached {
            return;
        }
        if let Some(outgoing) = &mut link.outgoing
            && outgoing.waiting.len() < WAITING_MAX
        {
            outgoing.waiting.push_back(message);
        }
        self.send_waiting(channel, handle);
    }

    /// The same, not before `at`.
    pub(super) fn queue_at(&mut self, at: Instant, channel: u16, handle: u32, message: Vec<u8>) {
        self.delayed_no += 1;
        self.delayed_messages.insert((at, self.delayed_no), (channel, handle, message));
    }

    /// Sends the messages that are due.
    pub(super) fn send_due(&mut self, now: Instant) {
        while let Some(entry) = self.delayed_messages.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let (channel, handle, message) = entry.remove();
            self.queue(channel, handle, message);
        }
    }

    /// Sends the messages that the peer gave credit for.
    fn send_waiting(&mut self, channel: u16, handle: u32) {
        loop {
            let session = self.sessions.get_mut(&channel);
            let link = session.and_then(|s| s.links.get_mut(&handle));
            let Some(outgoing) = link.and_then(|link| link.outgoing.as_mut()) else { return };
            if outgoing.credit == 0 {
                return;
            }
            let Some(message) = outgoing.waiting.pop_front() else { return };
            self.transmit(channel, handle, None, &message);
        }
    }

    /// Sends one message, for which there must be credit; gives its delivery-id. Without a tag it gets a number.
    pub(super) fn transmit(
        &mut self,
        channel: u16,
        handle: u32,
        tag: Option<Bytes>,
        message: &[u8],
    ) -> Option<u32> {
        let frame_max = self.peer_frame_max;
        let session = self.sessions.get_mut(&channel)?;
        let outgoing = session.links.get_mut(&handle)?.outgoing.as_mut()?;
        outgoing.credit = outgoing.credit.checked_sub(1)?;
        let tag = tag.unwrap_or_else(|| Bytes::copy_from_slice(&outgoing.sent.to_be_bytes()));
        outgoing.sent = outgoing.sent.wrapping_add(1);
        let delivery_id = session.next_delivery_id;
        session.next_delivery_id = delivery_id.wrapping_add(1);
        let mut pieces = message.chunks(frame_max - HEAD_BYTES).peekable();
        while let Some(piece) = pieces.next() {
            let transfer = vec![
                Value::UInt(handle),
                Value::UInt(delivery_id),
                Value::Binary(tag.clone()),
                Value::UInt(0),
                Value::Bool(outgoing.settled),
                Value::Bool(pieces.peek().is_some()),
            ];
            let transfer = Value::described_list(code::TRANSFER, transfer);
            put_frame(&mut self.out, Layer::Amqp, channel, &transfer, piece);
            session.next_outgoing_id = session.next_outgoing_id.wrapping_add(1);
        }
        Some(delivery_id)
    }
}

#[cfg(test)]
mod tests {
    use super::left_of;

    /// Found in review: a receiver took its credit back while a message was on its way to it, and was sent all others.
    #[test]
    fn credit_that_is_taken_back_is_none() {
        let check = |given, seen, sent, expected| {
            assert_eq!(left_of(given, seen, sent), expected, "{given} {seen} {sent}");
        };
        check(4, 0, 0, 4);
        check(4, 2, 4, 2);
        check(4, 4, 4, 4);
        check(0, 4, 4, 0);
        check(0, 2, 3, 0);
        check(1, 2, 5, 0);
        check(u32::MAX, 7, 8, u32::MAX - 1);
        // The counts go round.
        check(3, u32::MAX, 1, 1);
        check(0, u32::MAX, 1, 0);
    }
}
