//! Quantiles of what was observed lately, in bounded memory.
//!
//! Owns: [`Sketch`], a log-bucketed histogram over a ring of [`SLICES`] time slices. Bucket `i` holds the values in
//! `(G^(i-1), G^i]` and answers with the value whose relative distance to both ends is the same, so a quantile is off by
//! at most [`ERROR_MAX`] (relative). Values outside 1 µ .. 1 T count in the outermost buckets.
//! Memory: one row of 20 bytes per bucket that was hit within the window; at most 417 rows (8 KB), a few dozen in practice.
//! Must not know: metrics names, clocks.

use std::time::{Duration, Instant};

/// Largest relative error of a quantile.
pub(super) const ERROR_MAX: f64 = 0.05;

/// Slices of the window. Old values leave a slice at a time, so the window's true length is between 3/4 and 4/4 of the
/// age given.
const SLICES: usize = 4;

/// `G` = (1 + e) / (1 - e).
const GROWTH: f64 = (1.0 + ERROR_MAX) / (1.0 - ERROR_MAX);

const VALUE_MIN: f64 = 1e-6;
const VALUE_MAX: f64 = 1e12;

/// Lifetime sum and count, and the quantiles of the window.
#[derive(Debug)]
pub(super) struct Sketch {
    slice: Duration,
    /// When the current slice began.
    began: Instant,
    /// Place of the current slice in each row.
    current: usize,
    /// Sorted by bucket.
    rows: Vec<Row>,
    /// The value observed last, and its place among the rows: what is observed mostly repeats (bodies of one size,
    /// whole milliseconds), and a logarithm for each would cost more than the counting.
    last: Option<(f64, usize)>,
    sum: f64,
    count: u64,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    bucket: i16,
    counts: [u32; SLICES],
}

impl Row {
    fn total(&self) -> u64 {
        self.counts.iter().map(|c| u64::from(*c)).sum()
    }
}

impl Sketch {
    /// A sketch whose quantiles look back `age`.
    pub(super) fn new(age: Duration, now: Instant) -> Self {
        let slice = age / SLICES as u32;
        Self { slice, began: now, current: 0, rows: Vec::new(), last: None, sum: 0.0, count: 0 }
    }

    /// Counts `value` (not negative) `times` times.
    pub(super) fn observe(&mut self, value: f64, times: u32, now: Instant) {
        self.turn(now);
        self.sum += value * f64::from(times);
        self.count += u64::from(times);
        let at = match self.last {
            Some((last, at)) if last == value => at,
            _ => self.row_of(value),
        };
        let count = &mut self.rows[at].counts[self.current];
        *count = count.saturating_add(times);
    }

    /// The place of `value`'s row, which is made if it is not there.
    fn row_of(&mut self, value: f64) -> usize {
        let bucket = bucket_of(value);
        let at = match self.rows.binary_search_by_key(&bucket, |row| row.bucket) {
            Ok(at) => at,
            Err(at) => {
                self.rows.insert(at, Row { bucket, counts: [0; SLICES] });
                at
            }
        };
        self.last = Some((value, at));
        at
    }

    /// All values ever.
    pub(super) fn sum(&self) -> f64 {
        self.sum
    }

    /// How many values ever.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The values at `quantiles` (ascending, 0..=1) of the window; NaN when the window is empty.
    pub(super) fn quantiles<const N: usize>(
        &mut self,
        quantiles: [f64; N],
        now: Instant,
    ) -> [f64; N] {
        self.turn(now);
        let total: u64 = self.rows.iter().map(Row::total).sum();
        quantiles.map(|q| {
            // The smallest value with at least q of all values at or below it.
            let rank = ((q * total as f64).ceil() as u64).max(1);
            let mut below = 0;
            self.rows
                .iter()
                .find(|row| {
                    below += row.total();
                    below >= rank
                })
                .map_or(f64::NAN, |row| value_of(row.bucket))
        })
    }

    /// Moves the ring on to `now`, dropping the slices that are too old.
    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.began);
        if passed < self.slice {
            return;
        }
        let steps = passed.as_nanos() / self.slice.as_nanos().max(1);
        self.last = None;
        for _ in 0..steps.min(SLICES as u128) {
            self.current = (self.current + 1) % SLICES;
            for row in &mut self.rows {
                row.counts[self.current] = 0;
            }
        }
        self.rows.retain(|row| row.total() > 0);
        let whole = u32::try_from(steps).ok().and_then(|steps| self.slice.checked_mul(steps));
        self.began = whole.map_or(now, |whole| self.began + whole);
    }
}

fn bucket_of(value: f64) -> i16 {
    let value = if value.is_nan() { VALUE_MIN } else { value.clamp(VALUE_MIN, VALUE_MAX) };
    // ln(1e12) / ln(G) = 276: far inside i16.
    (value.ln() / GROWTH.ln()).ceil() as i16
}

fn value_of(bucket: i16) -> f64 {
    2.0 * GROWTH.powi(i32::from(bucket)) / (GROWTH + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[allow(clippy::disallowed_methods, reason = "an origin to count from, not the time")]
    fn origin() -> Instant {
        Instant::now()
    }

    #[test]
    fn quantiles_are_within_the_error() {
        let now = origin();
        let mut s = Sketch::new(HOUR, now);
        for i in 1..=10_000 {
            s.observe(f64::from(i) / 100.0, 1, now);
        }
        let got = s.quantiles([0.1, 0.5, 0.9, 0.99], now);
        for (got, exact) in got.into_iter().zip([10.0, 50.0, 90.0, 99.0]) {
            assert!((got - exact).abs() <= ERROR_MAX * exact * 1.0001, "{got} for {exact}");
        }
        assert_eq!(s.count(), 10_000);
        assert!((s.sum() - 500_050.0).abs() < 1e-3);
    }

    #[test]
    fn old_values_leave_the_window_but_stay_in_sum_and_count() {
        let start = origin();
        let mut s = Sketch::new(HOUR, start);
        s.observe(1.0, 1, start);
        s.observe(100.0, 1, start + HOUR / 2);
        let near = |got: f64, want: f64| (got - want).abs() <= ERROR_MAX * want * 1.0001;
        let at = |s: &mut Sketch, after| s.quantiles([0.1, 0.99], start + after);
        let [low, high] = at(&mut s, HOUR * 3 / 4);
        assert!(near(low, 1.0) && near(high, 100.0), "{low} {high}");
        let [low, high] = at(&mut s, HOUR);
        assert!(near(low, 100.0) && near(high, 100.0), "{low} {high}");
        assert!(at(&mut s, HOUR * 10)[0].is_nan());
        assert!(s.rows.is_empty());
        assert_eq!((s.count(), s.sum()), (2, 101.0));
    }

    #[test]
    fn memory_is_bounded_for_any_value() {
        let now = origin();
        let mut s = Sketch::new(HOUR, now);
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MAX, f64::MIN_POSITIVE] {
            s.observe(value, 1, now);
        }
        let mut value = 1e-9;
        while value < 1e15 {
            s.observe(value, 1, now);
            value *= 1.01;
        }
        assert!(s.rows.len() <= 417, "{}", s.rows.len());
    }
}
