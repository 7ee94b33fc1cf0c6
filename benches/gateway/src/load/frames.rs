//! A device's outgoing bytes: a window of PUBLISH packets, laid out once, patched in place.
//!
//! All packets of a device have the same size. So a batch costs a few stores a message (DUP, id, stamp) and one write
//! of the whole range; nothing is allocated or copied per message.

use std::ops::Range;

use super::codec;
use super::window::id_of;
use super::{STAMP_BYTES, Stamp};

/// The filling: nobody on the way compresses.
const FILLING: u8 = b'.';

pub(super) struct Frames {
    /// `size` packets, then one PINGREQ.
    bytes: Vec<u8>,
    /// Of one packet.
    len: usize,
    id_at: usize,
    device: u32,
    /// What is staged and not yet written.
    staged: Range<usize>,
}

impl Frames {
    pub(super) fn new(id: &str, device: u32, payload_bytes: usize, size: usize) -> Self {
        let (packet, id_at) = codec::publish(&super::topic(id), 1, &vec![FILLING; payload_bytes]);
        let mut bytes = packet.repeat(size);
        bytes.extend_from_slice(&codec::PINGREQ);
        Self { bytes, len: packet.len(), id_at, device, staged: 0..0 }
    }

    /// Stages messages (number, due time) from the first place on; a batch is written before the next one is staged.
    pub(super) fn stage(&mut self, messages: impl Iterator<Item = (u64, u64)>, dup: bool) {
        assert!(self.pending().is_empty(), "the batch before is written first");
        let mut end = 0;
        for (sequence, due_nanos) in messages {
            let packet = &mut self.bytes[end..end + self.len];
            packet[0] = if dup { codec::PUBLISH_QOS1 | codec::DUP } else { codec::PUBLISH_QOS1 };
            let (id, body) = packet[self.id_at..].split_at_mut(2);
            id.copy_from_slice(&id_of(sequence).to_be_bytes());
            Stamp { device: self.device, sequence, due_nanos }.write(&mut body[..STAMP_BYTES]);
            end += self.len;
        }
        self.staged = 0..end;
    }

    /// Stages a PINGREQ.
    pub(super) fn stage_ping(&mut self) {
        assert!(self.pending().is_empty(), "the batch before is written first");
        self.staged = self.bytes.len() - codec::PINGREQ.len()..self.bytes.len();
    }

    /// What is to be written.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.staged.clone()]
    }

    pub(super) fn written(&mut self, count: usize) {
        self.staged.start += count;
    }

    /// The connection broke: what is unacknowledged is staged anew on the next one.
    pub(super) fn clear(&mut self) {
        self.staged = 0..0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(mut bytes: &[u8]) -> Vec<(u8, u16, Stamp, usize)> {
        let mut found = Vec::new();
        while let Some(read) = codec::frame(bytes).expect("good") {
            let id = codec::publish_id(read.body).expect("an id");
            let topic = usize::from(u16::from_be_bytes([read.body[0], read.body[1]]));
            let body = &read.body[topic + 4..];
            found.push((read.first, id, Stamp::read(body).expect("a stamp"), body.len()));
            bytes = &bytes[read.len..];
        }
        assert!(bytes.is_empty());
        found
    }

    #[test]
    fn a_batch_is_patched_in_place_and_dup_does_not_stick() {
        let mut frames = Frames::new("dev-00007", 7, 256, 3);
        let stamp = |sequence, due_nanos| Stamp { device: 7, sequence, due_nanos };
        frames.stage([(65_535, 11), (65_536, 12)].into_iter(), true);
        let golden = [(0x3A, 65_535, stamp(65_535, 11), 256), (0x3A, 1, stamp(65_536, 12), 256)];
        assert_eq!(packets(frames.pending()), golden);
        frames.written(frames.pending().len());
        frames.stage([(3, 13)].into_iter(), false);
        assert_eq!(packets(frames.pending()), [(0x32, 3, stamp(3, 13), 256)]);
        frames.clear();
        frames.stage_ping();
        assert_eq!(frames.pending(), [0xC0, 0]);
    }
}
