//! How long to wait before the next attempt: full jitter between nothing and a ceiling that doubles.
//!
//! Owns: that arithmetic. Full jitter, because after an outage of a site or of a hub many gateways come back in the same
//! second; a wait drawn from the whole range spreads them best.
//! Must not know: what is attempted.

use std::time::Duration;

use rand::Rng;

/// Doubling ceiling with full jitter.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    ceiling_max: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// The first ceiling is `first`; it doubles up to `ceiling_max`.
    pub(crate) fn new(first: Duration, ceiling_max: Duration) -> Self {
        Self { first, ceiling_max, ceiling: first }
    }

    /// The next wait: uniform between a tenth of the ceiling and the ceiling. The tenth keeps a peer that accepts and
    /// closes at once from being called in a tight loop.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let wait = rand::rng().random_range(self.ceiling / 10..=self.ceiling);
        self.ceiling = (self.ceiling * 2).min(self.ceiling_max);
        wait
    }

    /// Starts over.
    pub(crate) fn reset(&mut self) {
        self.ceiling = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_ceiling_and_start_over() {
        let (first, max) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut backoff = Backoff::new(first, max);
        let mut ceiling = first;
        for _ in 0..20 {
            let wait = backoff.next_wait();
            assert!(wait >= ceiling / 10 && wait <= ceiling, "{wait:?} of {ceiling:?}");
            ceiling = (ceiling * 2).min(max);
        }
        backoff.reset();
        assert!(backoff.next_wait() <= first);
    }
}
