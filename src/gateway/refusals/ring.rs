//! The last refusals in memory, for the administrator.
//!
//! Owns: [`Ring`]. Invariants: at most [`KEPT`] entries; a refusal that comes again is counted in its entry; noise makes room
//! before what a person must mend. Must not know: the log, time.

use std::net::IpAddr;

use crate::auth::decision::{Decision, Loudness, Outcome, RefusalRecord, RefusalsReport, reason};

/// Entries that are kept. With two names of 256 characters, two ids and the words: about 2.5 KiB each at most, 250 KiB.
pub(super) const KEPT: usize = 100;

/// The last refusals.
#[derive(Debug, Default)]
pub(super) struct Ring {
    total: u64,
    /// The one that came again last is the last.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    ip: Option<IpAddr>,
    loudness: Loudness,
    record: RefusalRecord,
}

impl Entry {
    /// Whether it is the same refusal again: same peer (its port apart), claim, reason, certificate.
    fn is(&self, decision: &Decision, record: &RefusalRecord) -> bool {
        let (own, other) = (&self.record, record);
        self.ip == decision.peer.map(|peer| peer.ip())
            && own.reason == other.reason
            && own.stage == other.stage
            && own.claim == other.claim
            && own.certificate == other.certificate
    }
}

impl Ring {
    /// Keeps a refusal; an admission is none.
    pub(super) fn push(&mut self, decision: &Decision, record: RefusalRecord) {
        let Outcome::Refused { label, .. } = &decision.outcome else { return };
        self.total += 1;
        let known = self.entries.iter().position(|entry| entry.is(decision, &record));
        let record = match known {
            Some(at) => {
                let before = self.entries.remove(at).record;
                RefusalRecord { first: before.first, times: before.times + 1, ..record }
            }
            None => record,
        };
        if self.entries.len() >= KEPT {
            let noise = self.entries.iter().position(|entry| entry.loudness == Loudness::Noise);
            self.entries.remove(noise.unwrap_or(0));
        }
        let loudness = reason(decision.stage, label).loudness;
        let ip = decision.peer.map(|peer| peer.ip());
        self.entries.push(Entry { ip, loudness, record });
    }

    /// What the administrator sees.
    pub(super) fn report(&self) -> RefusalsReport {
        let refusals = self.entries.iter().map(|entry| entry.record.clone()).collect();
        RefusalsReport { total: self.total, refusals }
    }
}
