//! When the pump looks at a lane again, without any other cause.
//!
//! Owns: [`Timers`]. Must not know: why.

use std::collections::BTreeMap;
use std::time::Instant;

use super::run::Who;

/// When to look at whom again. A stale entry does no harm: the lane is looked at and found to be well.
#[derive(Default)]
pub(super) struct Timers {
    due: BTreeMap<(Instant, u64), Who>,
    serial: u64,
}

impl Timers {
    pub(super) fn add(&mut self, at: Instant, who: Who) {
        self.serial += 1;
        self.due.insert((at, self.serial), who);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Who> {
        let first = self.due.first_entry().filter(|e| e.key().0 <= now)?;
        Some(first.remove())
    }
}
