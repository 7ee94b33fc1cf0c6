//! How long to wait before the next attempt: exponential, capped, with full jitter.
//!
//! Owns: [`Backoff`]. Pure: the caller counts the attempts and brings the random numbers.
//! Must not know: what is being attempted.
//!
//! Full jitter (uniform between 0 and the ceiling) spreads a herd of lanes that failed together best; the price, now and
//! then a very early attempt, is bounded by a floor of a tenth of the base, so that no lane ever spins.

use std::time::Duration;

use rand::Rng;

/// Ceilings `base`, 2 x `base`, 4 x `base` ... up to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Ceiling of the first pause.
    pub base: Duration,
    /// Highest ceiling.
    pub max: Duration,
}

impl Backoff {
    /// The upper bound of the pause after `failures` failures in a row (1 = the first).
    pub fn ceiling(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.max)
    }

    /// A pause between a tenth of `base` and the ceiling.
    pub fn pause(&self, failures: u32, rng: &mut impl Rng) -> Duration {
        let ceiling = self.ceiling(failures);
        let floor = (self.base / 10).min(ceiling);
        if floor == ceiling { ceiling } else { rng.random_range(floor..=ceiling) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const B: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        let seconds: Vec<u64> = (0..10).map(|n| B.ceiling(n).as_secs()).collect();
        assert_eq!(seconds, [1, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(B.ceiling(u32::MAX), B.max);
    }

    #[test]
    fn pauses_fill_the_range_and_never_leave_it() {
        let mut rng = StdRng::seed_from_u64(7);
        for failures in [1, 3, 9, u32::MAX] {
            let ceiling = B.ceiling(failures);
            let pauses: Vec<_> = (0..1000).map(|_| B.pause(failures, &mut rng)).collect();
            assert!(pauses.iter().all(|p| *p >= B.base / 10 && *p <= ceiling));
            assert!(pauses.iter().any(|p| *p < ceiling / 4), "full jitter reaches low");
            assert!(pauses.iter().any(|p| *p > ceiling / 4 * 3), "full jitter reaches high");
        }
    }

    #[test]
    fn a_zero_base_is_a_zero_pause() {
        let none = Backoff { base: Duration::ZERO, max: Duration::ZERO };
        assert_eq!(none.pause(5, &mut StdRng::seed_from_u64(1)), Duration::ZERO);
    }
}
