//! PUBLISHes to the client that wait for its PUBACK.
//!
//! Owns: the packet ids of what is sent down. Invariants: at most [`OUTGOING_MAX`] wait, no two under one id
//! \[MQTT-2.3.1-4\]; ids go round, so that one is not used again right after its PUBACK. What waits when the connection ends is
//! not sent again under its id: its sender has it and sends it anew ([`front::mailbox`](crate::front::mailbox)).

use std::collections::VecDeque;

use crate::mqtt::packet::PacketId;

/// PUBLISHes that may wait for the client's PUBACK at a time.
pub(super) const OUTGOING_MAX: usize = 64;

/// The highest packet id that is used, as the reference does.
const PACKET_ID_MAX: u16 = 0x3fff;

#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Oldest first, with the sender's tag.
    waiting: VecDeque<(PacketId, u64)>,
    last_id: u16,
}

impl Outgoing {
    /// The first id follows from `seed`: connections with different ones begin far from each other, so that a PUBACK that a
    /// client still owes an earlier connection is not taken for one of this.
    pub(super) fn seeded(seed: u64) -> Self {
        let round = u64::from(PACKET_ID_MAX);
        let start = seed.wrapping_mul(2 * OUTGOING_MAX as u64 + 1) % round;
        let last_id = u16::try_from(start).expect("below 0x3fff");
        Self { waiting: VecDeque::new(), last_id }
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= OUTGOING_MAX
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// An id for what `tag` stands for; it waits from now on. Not to be called when it [is full](Self::is_full).
    pub(super) fn push(&mut self, tag: u64) -> PacketId {
        loop {
            self.last_id = self.last_id % PACKET_ID_MAX + 1;
            let id = PacketId::new(self.last_id).expect("at least 1");
            if !self.waiting.iter().any(|(other, _)| *other == id) {
                self.waiting.push_back((id, tag));
                return id;
            }
        }
    }

    /// What the client has acknowledged; `None` = nothing waits under this id (a PUBACK twice, or an earlier connection's).
    pub(super) fn acknowledged(&mut self, id: PacketId) -> Option<u64> {
        // Clients acknowledge in order [MQTT-4.6.0-2]: the first look finds it.
        let at = self.waiting.iter().position(|(other, _)| *other == id)?;
        self.waiting.remove(at).map(|(_, tag)| tag)
    }
}
