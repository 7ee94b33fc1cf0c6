//! What is found at start, and what that means: the judgement of what is torn and what is lost.
//!
//! Owns: [`Survey`] (one segment before repair) and the counting. Changes nothing. Must not know: how damage is repaired.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::age::{ExpiresBy, StoreMillis};
use super::checkpoint::State;
use super::disk::{Mode, is_medium, read_all, read_patiently};
use super::engine::Tools;
use super::error::at;
use super::id::Offset;
use super::index::SegmentMeta;
use super::segment::{FORMAT_1, FORMAT_VERSION, HEADER_BYTES, Header, Key, SEAL_BYTES, Scan, Seal};
use super::window::salvage;
use super::{OpenError, RecoveryReport, record};

/// What is known of one segment before repair.
pub(super) struct Survey {
    /// `None`: damaged.
    pub(super) header: Option<Header>,
    pub(super) meta: SegmentMeta,
    pub(super) sealed: bool,
    /// The medium does not give it back.
    pub(super) unreadable: bool,
    /// What it does give back, with zeros for the rest, where it refuses a part.
    pub(super) salvaged: Option<Vec<u8>>,
    /// Offsets that are missing between its records, or before the first.
    gaps: Vec<Range<u64>>,
    /// The highest `durable_below` that it proves.
    proof: u64,
    /// Bytes before the end of its records that are none.
    pub(super) bad_bytes: u64,
    /// Bytes behind its records.
    pub(super) tail_bytes: u64,
    /// Whether something is missing in it, or behind it, that had been durable.
    pub(super) lost: bool,
    /// The newest stamp that is surely one.
    pub(super) newest: StoreMillis,
}

/// A segment's file, as far as the first look saw it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) key: Key,
    /// `None`: damaged.
    pub(super) header: Option<Header>,
}

pub(super) fn survey(
    tools: &Tools,
    path: &Path,
    found: Found,
    upper: u64,
    durable_below: Offset,
) -> Result<Survey, OpenError> {
    match read(tools, path, found, upper) {
        Err(error) if is_medium(&error) => {
            tracing::error!(path = %path.display(), %error, "the medium does not give a segment back: it is set aside");
            let size = tools.disk.open(path, Mode::Read).and_then(|file| file.size());
            Ok(Survey::unreadable(found.key, upper, size.unwrap_or(0), durable_below))
        }
        other => other.map_err(at(path)),
    }
}

fn read(tools: &Tools, path: &Path, found: Found, upper: u64) -> io::Result<Survey> {
    let key = found.key;
    let file = tools.disk.open(path, Mode::Read)?;
    let len = file.size()?;
    if len >= HEADER_BYTES + SEAL_BYTES {
        let mut bytes = [0; 64];
        let read = read_patiently(&*file, &mut bytes, len - SEAL_BYTES);
        // Without its seal the records are looked for.
        read.map(drop).or_else(|error| if is_medium(&error) { Ok(()) } else { Err(error) })?;
        let seal = Seal::decode(&bytes, key, len);
        if let Some(seal) = seal.filter(|seal| seal.next.0 <= upper || seal.records == 0) {
            return Ok(Survey::of_seal(found, &seal));
        }
    }
    let scan = |bytes: &[u8]| Scan::of(bytes, key, key.first.0..upper);
    let refusal = match read_all(&*file) {
        Ok(bytes) => return Ok(Survey::of_scan(found, &scan(&bytes))),
        Err(error) if is_medium(&error) => error,
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    let (read, refused_to) = salvage(&*file, &mut bytes, 0)?;
    // Past too many refusals nothing was asked for any more.
    let refused_to = if read < bytes.len() { len } else { refused_to };
    bytes.truncate(read);
    let scan = scan(&bytes);
    let survey = Survey::of_scan(found, &scan);
    if refused_to == 0 {
        // All of it at the second time of asking.
        return Ok(survey);
    }
    if scan.records.is_empty() {
        return Err(refusal);
    }
    tracing::error!(path = %path.display(), error = %refusal, "the medium does not give back a part of a segment: what can be read is kept");
    Ok(survey.salvaged(bytes, refused_to, upper))
}

impl Survey {
    /// It stands for segments that have expired: they are gone, or were about to be unlinked.
    pub(super) fn is_tombstone(&self) -> bool {
        self.sealed && self.meta.records == 0
    }

    /// Whether what `other` holds had expired.
    pub(super) fn buries(&self, other: &Self) -> bool {
        let first = other.meta.key.first;
        self.is_tombstone()
            && !other.is_tombstone()
            && (self.meta.key.first..self.meta.next).contains(&first)
    }

    fn of_seal(found: Found, seal: &Seal) -> Self {
        let version = found.header.map_or(seal.version, |header| header.version);
        let meta = SegmentMeta {
            next: seal.next,
            records: seal.records,
            payload_bytes: seal.payload_bytes,
            data_end: seal.data_end,
            // Of a gap that took a segment's place nothing is left that could expire.
            expires_by: if seal.records == 0 { ExpiresBy::NEVER } else { seal.expires_by },
            version,
            ..SegmentMeta::empty(found.key)
        };
        Self { sealed: true, proof: seal.next.0, ..Self::new(found, meta) }
    }

    fn of_scan(found: Found, scan: &Scan) -> Self {
        let key = found.key;
        let (mut next, mut proof, mut payload_bytes) = (key.first.0, key.first.0, 0);
        let gaps = scan.gaps.iter().map(|gap| gap.offsets.clone());
        let gaps = gaps.filter(|offsets| !offsets.is_empty()).collect();
        let (mut expiry, mut newest) = (None, StoreMillis::default());
        for placed in &scan.records {
            let head = &placed.found.head;
            next = head.offset.0 + 1;
            proof = proof.max(head.durable_below.0);
            payload_bytes += placed.found.payload_len as u64;
            newest = newest.max(head.stored);
            let this = ExpiresBy::of(head.stored, head.ttl_secs);
            expiry = Some(expiry.map_or(this, |all: ExpiresBy| all.with(this)));
        }
        // Only an intact header says that the stamps are the store's time.
        let is_stamped = found.header.is_some_and(|header| header.version > FORMAT_1);
        let meta = SegmentMeta {
            next: Offset(next),
            records: scan.records.len() as u64,
            payload_bytes,
            data_end: scan.data_end as u64,
            expires_by: if is_stamped { expiry.unwrap_or_default() } else { ExpiresBy::MIXED },
            version: found.header.map_or(FORMAT_VERSION, |header| header.version),
            ..SegmentMeta::empty(key)
        };
        let mut survey = Self::new(found, meta);
        if is_stamped {
            survey.newest = survey.newest.max(newest);
        }
        let (bad_bytes, tail_bytes) = (scan.bad_bytes, scan.tail_bytes);
        Self { gaps, proof, bad_bytes, tail_bytes, ..survey }
    }

    /// All of it counts as lost: up to the next segment, or, of the last one, as far as the checkpoint knows, but at least
    /// one record. Its offsets are not used again: there are no more of them than the file has room for.
    fn unreadable(key: Key, upper: u64, size: u64, durable_below: Offset) -> Self {
        let first = key.first.0;
        let (lost, next) = match upper {
            u64::MAX => {
                (durable_below.0.max(first + 1), first + size / record::HEADER_BYTES as u64)
            }
            upper => (upper, upper),
        };
        let next = Offset(next.max(lost));
        let meta = SegmentMeta { next, ..SegmentMeta::empty(key) };
        let found = Found { key, header: None };
        let gaps = (lost > first).then_some(first..lost).into_iter().collect();
        Self { unreadable: true, proof: lost, gaps, ..Self::new(found, meta) }
    }

    /// Of what the medium refuses, all was written once: what is missing there is lost, not torn. Behind the last intact
    /// record of the last segment that is at least one; its offsets are not used again, as in [`Survey::unreadable`].
    fn salvaged(mut self, bytes: Vec<u8>, refused_to: u64, upper: u64) -> Self {
        let next = self.meta.next.0;
        let hidden = refused_to.saturating_sub(self.meta.data_end);
        self.proof = self.proof.max(next);
        if upper == u64::MAX && hidden > 0 {
            self.gaps.push(next..next + 1);
            self.proof = self.proof.max(next + 1);
            self.meta.next = Offset(next + (hidden / record::HEADER_BYTES as u64).max(1));
        }
        Self { salvaged: Some(bytes), ..self }
    }

    fn new(found: Found, meta: SegmentMeta) -> Self {
        Self {
            header: found.header,
            meta,
            sealed: false,
            unreadable: false,
            salvaged: None,
            gaps: vec![],
            proof: meta.key.first.0,
            bad_bytes: 0,
            tail_bytes: 0,
            lost: false,
            newest: found.header.map_or(StoreMillis::default(), |header| header.created),
        }
    }
}

/// Counts what is missing; returns the first offset that was never used, and which ranges are lost.
pub(super) fn judge(
    surveys: &mut [Survey],
    state: &State,
    report: &mut RecoveryReport,
) -> (Offset, Vec<Range<Offset>>) {
    let checkpointed = state.durable_below.max(state.settled_below).0;
    let proof = surveys.iter().map(|survey| survey.proof).fold(checkpointed, u64::max);
    let settled = state.settled_below.0;
    let mut expected = settled;
    let mut torn = 0;
    let mut all_lost: Vec<Range<Offset>> = Vec::new();
    let mut missing = |range: Range<u64>| {
        let lost = range.start.max(settled)..range.end.min(proof);
        torn += range.end.saturating_sub(range.start.max(settled).max(proof));
        if lost.is_empty() {
            return false;
        }
        report.proven_lost += lost.end - lost.start;
        match all_lost.last_mut().filter(|last| last.end.0 == lost.start) {
            Some(last) => last.end = Offset(lost.end),
            None => all_lost.push(Offset(lost.start)..Offset(lost.end)),
        }
        true
    };
    for i in 0..surveys.len() {
        let first = surveys[i].meta.key.first.0;
        if first > expected {
            let lost = missing(expected..first);
            if i > 0 {
                surveys[i - 1].lost |= lost;
            }
        }
        for gap in surveys[i].gaps.clone() {
            // A gap at the start was counted if the segment begins above `expected`; it never does both.
            surveys[i].lost |= missing(gap.start.max(expected)..gap.end);
        }
        expected = expected.max(surveys[i].meta.next.0);
    }
    if proof > expected {
        let lost = missing(expected..proof);
        if let Some(last) = surveys.last_mut() {
            last.lost |= lost;
        }
    }
    for survey in surveys.iter().filter(|survey| !survey.sealed) {
        report.torn_bytes += survey.tail_bytes + survey.bad_bytes;
        // How many records a torn tail would have been is not known: at least one.
        torn += u64::from(survey.tail_bytes > 0 && !survey.lost);
    }
    report.torn_records += torn;
    (Offset(proof.max(expected)), all_lost)
}
