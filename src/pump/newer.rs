//! Records that are no message: damaged ones are buried, what a newer program wrote stops the pump.
//!
//! Owns: telling the two apart, and the end of a pump that has met a newer record. Invariant: what lies before such a record
//! is delivered first; the record and what lies behind it stay as they are. (One in a side queue ends the pump at once.)
//! Must not know: what a newer form looks like.

use super::place::Place;
use super::run::{Burial, End, Running, Who};
use crate::message::DecodeError;
use crate::store::{Offset, QueueId};

/// Whether what could not be read is intact and was written by a newer program: that is not damage, and is not buried.
fn is_newer(error: &DecodeError) -> bool {
    match error {
        // No program has written version 0.
        DecodeError::Version(version) => *version > 0,
        DecodeError::Key(_) => true,
        DecodeError::Short(_) | DecodeError::Utf8(_) | DecodeError::Id(_) => false,
    }
}

/// A record of the main queue at which this pump stops.
pub(super) struct Barrier {
    offset: Offset,
    end: End,
}

impl Running {
    /// A record of `queue` is no message: to the dead letters, unless a newer program could read it.
    pub(super) fn bury_damaged(
        &mut self,
        who: Who,
        queue: &QueueId,
        place: Place,
        source: DecodeError,
    ) -> Result<(), End> {
        let offset = place.offset;
        if is_newer(&source) {
            return Err(End::Newer { queue: queue.clone(), offset, source });
        }
        tracing::error!(%queue, offset = offset.0, error = %source, "record is no message: to the dead letters");
        let detail = source.to_string();
        self.start_burial(who, Burial { place, message: None, reason: "undecodable", detail });
        Ok(())
    }

    /// Nothing is read from `end`'s record on. Other ends are handed back.
    pub(super) fn bar(&mut self, end: End) -> Result<(), End> {
        let End::Newer { offset, .. } = end else {
            return Err(end);
        };
        tracing::error!(queue = %self.queue, %offset, "a message of a newer program: what is before it is delivered, then this queue stops");
        self.barrier = Some(Barrier { offset, end });
        Ok(())
    }

    /// Why this pump ends, once all that lies before the record at which it stops is settled.
    pub(super) fn barred(&mut self) -> Option<End> {
        let settled = self.window.settled();
        let reached = |barrier: &mut Barrier| settled >= barrier.offset;
        self.barrier.take_if(reached).map(|barrier| barrier.end)
    }
}
