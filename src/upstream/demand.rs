//! How often the whole scope is fetched because somebody asks.
//!
//! Owns: that gap. Invariant: one who keeps asking for nothing costs ever less: a refresh on demand that brought nothing new
//! doubles the gap, up to the period of the regular refresh, which is as good then.
//! Must not know: who asks, how time passes.
//!
//! The measure: a scope of 1,000 devices is 11 requests and about 1 MB; each 2 minutes that is 8,000 requests and 700 MB a
//! day. One stranger makes it five times in the first hour (after 2, 4, 8, 16 and 32 minutes) and then no more.

use std::time::Duration;

/// The least time between a refresh and one on demand.
#[derive(Debug)]
pub(super) struct Demand {
    first: Duration,
    max: Duration,
    gap: Duration,
}

impl Demand {
    /// `first`, doubling up to `max`.
    pub(super) fn new(first: Duration, max: Duration) -> Self {
        Self { first, max: max.max(first), gap: first }
    }

    pub(super) fn gap(&self) -> Duration {
        self.gap
    }

    /// A refresh on demand brought nothing new.
    pub(super) fn was_in_vain(&mut self) {
        self.gap = (self.gap * 2).min(self.max);
    }

    /// There is news, or one asks whom a certificate vouches for.
    pub(super) fn is_sound(&mut self) {
        self.gap = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demands_in_vain_are_met_ever_more_seldom_until_there_is_news() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let mut demand = Demand::new(minutes(2), minutes(60));
        for expected in [2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(demand.gap(), minutes(expected));
            demand.was_in_vain();
        }
        demand.is_sound();
        assert_eq!(demand.gap(), minutes(2));
        let mut longer = Demand::new(minutes(90), minutes(60));
        longer.was_in_vain();
        assert_eq!(longer.gap(), minutes(90), "never less than was set");
    }
}
