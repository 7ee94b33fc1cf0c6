//! What is found at start, and what that means: the judgement of what is torn and what is lost.
//!
//! Owns: [`Survey`] (one segment before repair) and the counting. Changes nothing. Must not know: how damage is repaired.

use std::ops::Range;
use std::path::Path;

use super::checkpoint::State;
use super::disk::{Mode, read_all};
use super::engine::Tools;
use super::error::at;
use super::id::Offset;
use super::queue::SegmentMeta;
use super::segment::{HEADER_BYTES, Key, SEAL_BYTES, Scan, Seal};
use super::{OpenError, RecoveryReport};

/// What is known of one segment before repair.
pub(super) struct Survey {
    pub(super) meta: SegmentMeta,
    pub(super) sealed: bool,
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
}

pub(super) fn survey(
    tools: &Tools,
    path: &Path,
    key: Key,
    upper: u64,
) -> Result<Survey, OpenError> {
    let file = tools.disk.open(path, Mode::Read).map_err(at(path))?;
    let len = file.size().map_err(at(path))?;
    if len >= HEADER_BYTES + SEAL_BYTES {
        let mut bytes = [0; 64];
        file.read_at(&mut bytes, len - SEAL_BYTES).map_err(at(path))?;
        if let Some(seal) = Seal::decode(&bytes, key, len).filter(|seal| seal.next.0 <= upper) {
            return Ok(Survey::of_seal(key, &seal));
        }
    }
    let bytes = read_all(&*file).map_err(at(path))?;
    Ok(Survey::of_scan(key, &Scan::of(&bytes, key, key.first.0..upper)))
}

impl Survey {
    fn of_seal(key: Key, seal: &Seal) -> Self {
        let meta = SegmentMeta {
            key,
            next: seal.next,
            records: seal.records,
            payload_bytes: seal.payload_bytes,
            data_end: seal.data_end,
        };
        let proof = seal.next.0;
        Self { meta, sealed: true, gaps: vec![], proof, bad_bytes: 0, tail_bytes: 0, lost: false }
    }

    fn of_scan(key: Key, scan: &Scan) -> Self {
        let (mut next, mut proof, mut payload_bytes) = (key.first.0, key.first.0, 0);
        let mut gaps = Vec::new();
        for placed in &scan.records {
            let head = &placed.found.head;
            if head.offset.0 > next {
                gaps.push(next..head.offset.0);
            }
            next = head.offset.0 + 1;
            proof = proof.max(head.durable_below.0);
            payload_bytes += placed.found.payload_len as u64;
        }
        let meta = SegmentMeta {
            key,
            next: Offset(next),
            records: scan.records.len() as u64,
            payload_bytes,
            data_end: scan.data_end as u64,
        };
        let (bad_bytes, tail_bytes) = (scan.bad_bytes, scan.tail_bytes);
        Self { meta, sealed: false, gaps, proof, bad_bytes, tail_bytes, lost: false }
    }
}

/// Counts what is missing; returns the first offset that was never used.
pub(super) fn judge(surveys: &mut [Survey], state: &State, report: &mut RecoveryReport) -> Offset {
    let checkpointed = state.durable_below.max(state.settled_below).0;
    let proof = surveys.iter().map(|survey| survey.proof).fold(checkpointed, u64::max);
    let settled = state.settled_below.0;
    let mut expected = settled;
    let mut torn = 0;
    let mut missing = |range: Range<u64>| {
        let lost = range.end.min(proof).saturating_sub(range.start.max(settled));
        torn += range.end.saturating_sub(range.start.max(settled).max(proof));
        report.proven_lost += lost;
        lost > 0
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
    Offset(proof.max(expected))
}
