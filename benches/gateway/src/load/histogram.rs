//! Latencies in logarithmic buckets: 64 a power of two, so that a value is known to 1/128 (0.8 %).
//!
//! Counts nanoseconds, speaks microseconds. Memory grows with the largest value seen: 2 KB at 1 ms, 15 KB at a minute.

/// Buckets a power of two.
const STEPS: usize = 1 << STEP_BITS;
const STEP_BITS: u32 = 6;

/// Latencies with a constant relative error of at most 0.8 %, mergeable.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max_nanos: u64,
}

/// Below [`STEPS`] a bucket for each value; above it the bits behind the leading one choose.
fn bucket(nanos: u64) -> usize {
    let Some(shift) = nanos.checked_ilog2().and_then(|log| log.checked_sub(STEP_BITS)) else {
        return nanos as usize;
    };
    // `nanos >> shift` is in STEPS..2 * STEPS.
    shift as usize * STEPS + (nanos >> shift) as usize
}

/// The middle of a bucket.
fn middle(bucket: usize) -> f64 {
    let shift = (bucket / STEPS).saturating_sub(1);
    let low = bucket - shift * STEPS;
    let width = (shift as f64).exp2();
    if shift == 0 { low as f64 } else { (low as f64 + 0.5) * width }
}

impl Histogram {
    /// Counts one value.
    pub(crate) fn record(&mut self, nanos: u64) {
        let bucket = bucket(nanos);
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
        self.max_nanos = self.max_nanos.max(nanos);
    }

    /// Adds what another one counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max_nanos = self.max_nanos.max(other.max_nanos);
    }

    /// The value that `part` of all values (0..=1) do not exceed, in microseconds. NaN when nothing was counted: an
    /// empty measurement is not a fast one.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=count")]
        let rank = ((part.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (place, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle(place).min(self.max_nanos as f64) / 1000.0;
            }
        }
        f64::NAN
    }

    /// How many values were counted.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The largest value, exactly, in microseconds.
    pub(crate) fn max(&self) -> f64 {
        self.max_nanos as f64 / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    const PARTS: [f64; 8] = [0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0];

    /// Nearest rank in a sorted vector is the truth.
    fn check(mut values: Vec<u64>) {
        let mut histogram = Histogram::default();
        let mut halves = [Histogram::default(), Histogram::default()];
        for (place, &value) in values.iter().enumerate() {
            histogram.record(value);
            halves[place % 2].record(value);
        }
        let [mut merged, other] = halves;
        merged.merge(&other);
        values.sort_unstable();
        for part in PARTS {
            let rank = ((part * values.len() as f64).ceil() as usize).max(1);
            let truth = values[rank - 1] as f64 / 1000.0;
            for given in [histogram.quantile(part), merged.quantile(part)] {
                assert!((given - truth).abs() <= truth * 0.01, "{part}: {given}, not {truth}");
            }
        }
        assert_eq!(merged.count(), values.len() as u64);
        assert_eq!(merged.max(), values[values.len() - 1] as f64 / 1000.0);
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let mut random = StdRng::seed_from_u64(4);
        check((0..200).collect());
        check(vec![0; 5]);
        check(vec![u64::MAX, 1, 2]);
        check((0..20_000).map(|_| random.random_range(0..3_000_000)).collect());
        // From 1 ns to 100 s, evenly over the powers.
        let spread = |_| 10f64.powf(random.random_range(0.0..11.0)) as u64;
        check((0..20_000).map(spread).collect());
    }

    #[test]
    fn every_bucket_starts_where_the_one_before_ends() {
        let mut last = 0;
        for nanos in 0..100_000 {
            let at = bucket(nanos);
            assert!(at == last || at == last + 1, "{nanos}");
            last = at;
        }
    }

    #[test]
    fn nothing_counted_is_not_fast() {
        assert!(Histogram::default().quantile(0.5).is_nan());
    }
}
