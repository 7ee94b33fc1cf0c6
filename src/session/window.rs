//! PUBLISHes on their way to the disk, in the order in which they came.
//!
//! Owns: the order of PUBACKs. Invariants: tags count up without gaps, so a tag finds its entry by subtraction; an
//! entry leaves only from the front and only when it is settled.

use std::collections::VecDeque;
use std::time::Instant;

use super::output::Output;
use crate::mqtt::packet::{Packet, PacketId, Publish};

#[derive(Debug, Default)]
pub(super) struct Window {
    entries: VecDeque<Entry>,
    /// Tag of the first entry; with no entries, the next tag.
    first_tag: u64,
}

#[derive(Debug)]
struct Entry {
    /// `None` for QoS 0.
    packet_id: Option<PacketId>,
    print: Print,
    since: Instant,
    awaits: Awaits,
    settled: bool,
}

/// Who says that a PUBLISH is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaits {
    /// The store, or the routes; or nobody but those before it.
    Store,
    /// Who keeps twins.
    Relay,
}

/// Enough of a PUBLISH to notice that another one uses its packet id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Print {
    topic_bytes: usize,
    payload_bytes: usize,
}

impl Print {
    pub(super) fn of(publish: &Publish) -> Self {
        Self { topic_bytes: publish.topic.len(), payload_bytes: publish.payload.len() }
    }
}

impl Window {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn oldest(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.since)
    }

    pub(super) fn next_tag(&self) -> u64 {
        // usize is at most 64 bits wide on every target of Rust.
        self.first_tag + self.entries.len() as u64
    }

    /// The PUBLISH in flight under `packet_id`.
    pub(super) fn find(&self, packet_id: PacketId) -> Option<Print> {
        let entry = self.entries.iter().find(|entry| entry.packet_id == Some(packet_id))?;
        Some(entry.print)
    }

    pub(super) fn push(
        &mut self,
        packet_id: Option<PacketId>,
        print: Print,
        since: Instant,
        awaits: Awaits,
    ) -> u64 {
        let tag = self.next_tag();
        self.entries.push_back(Entry { packet_id, print, since, awaits, settled: false });
        tag
    }

    /// `by` settles `tag`: releases every PUBACK that is due [MQTT-4.6.0-2]. A tag that is not there (a will's, or one
    /// settled before) or waits for somebody else changes nothing.
    pub(super) fn settle(&mut self, tag: u64, by: Awaits, out: &mut Vec<Output>) {
        let index = tag.checked_sub(self.first_tag).and_then(|index| usize::try_from(index).ok());
        let entry = index.and_then(|index| self.entries.get_mut(index));
        let Some(entry) = entry.filter(|entry| entry.awaits == by) else {
            return;
        };
        entry.settled = true;
        while self.entries.front().is_some_and(|entry| entry.settled) {
            let entry = self.entries.pop_front().expect("looked at just now");
            self.first_tag += 1;
            if let Some(packet_id) = entry.packet_id {
                out.push(Output::Send(Packet::PubAck(packet_id)));
            }
        }
    }
}
