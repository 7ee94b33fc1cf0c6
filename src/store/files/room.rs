//! How much a queue's files take, and by how much a batch makes them grow.
//!
//! Owns: that arithmetic; it is exact upwards: files never take more than it says. Must not know: limits.

use super::super::active::{Active, FIRST_ALLOCATION_BYTES, LANE_ALLOCATION_BYTES};
use super::super::engine::{Failure, Tools};
use super::super::id::QueueId;
use super::super::segment::{HEADER_BYTES, SEAL_BYTES};
use super::super::slots;
use super::QueueFiles;

impl QueueFiles {
    /// By how much the files grow in step 1 of a commit, at most.
    pub(in crate::store) fn growth(&self, tools: &Tools, lavish: bool) -> u64 {
        let max = tools.segment_max(&self.shared.id);
        match &self.active {
            Some(active) if active.fits(self.need, max) => active.growth(self.need, max, lavish),
            active => {
                // The full one gives back what it did not need.
                let allocation = if active.is_some() { max } else { self.allocation.min(max) };
                let spare = active.as_ref().map_or(0, Active::spare);
                new_segment_bytes(self.need, lavish.then_some(allocation)).saturating_sub(spare)
            }
        }
    }

    /// Gives preallocated space back, durably; what is too little to matter stays.
    pub(in crate::store) fn trim(&mut self, tools: &Tools) -> Result<(), Failure> {
        let Some(active) = self.active.as_mut().filter(|a| a.spare() >= LANE_ALLOCATION_BYTES)
        else {
            return Ok(());
        };
        active.trim()?;
        self.sync_active(tools)
    }
}

/// Bytes of a queue's files beside its segments.
pub(in crate::store) fn fixed_bytes(id: &QueueId) -> u64 {
    let is_short = QueueId::is_short_folder(&id.folder());
    slots::FILE_BYTES + if is_short { id.name_file().len() as u64 } else { 0 }
}

/// Bytes of a new segment for a batch of `need` bytes, preallocated up to `allocation`.
pub(in crate::store) fn new_segment_bytes(need: u64, allocation: Option<u64>) -> u64 {
    (HEADER_BYTES + need + SEAL_BYTES).max(allocation.unwrap_or(0))
}

/// Size to which the first segment of a queue is preallocated.
pub(in crate::store) fn first_allocation(id: &QueueId) -> u64 {
    if id.lane.is_some() { LANE_ALLOCATION_BYTES } else { FIRST_ALLOCATION_BYTES }
}
