//! What arrives at a sink, looked at every millisecond: first, last, rate.
//!
//! Must not know: which sink.

use std::time::{Duration, Instant};

use crate::sink::Tally;

/// What arrives at a sink, watched.
pub(super) struct Watch {
    /// Seconds from the begin of the watch to the first and to the last arrival.
    pub(super) first: f64,
    pub(super) last: f64,
    pub(super) arrived: u64,
    /// (seconds, arrived) at each look that saw a change.
    course: Vec<(f64, u64)>,
}

impl Watch {
    /// Looks until `count` have arrived, or nothing has come for `patience`.
    pub(super) async fn until(tally: &Tally, count: u64, patience: Duration) -> Self {
        let (started, had) = (Instant::now(), tally.distinct());
        let mut watch = Self { first: f64::NAN, last: 0.0, arrived: 0, course: Vec::new() };
        let mut changed = Instant::now();
        while had + watch.arrived < count && changed.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let arrived = tally.distinct() - had;
            if arrived > watch.arrived {
                changed = Instant::now();
                watch.last = started.elapsed().as_secs_f64();
                watch.first = if watch.arrived == 0 { watch.last } else { watch.first };
                watch.arrived = arrived;
                watch.course.push((watch.last, arrived));
            }
        }
        watch
    }

    /// Arrivals per second from the first to the last.
    pub(super) fn rate(&self) -> f64 {
        // What the first look found had come before it.
        let at_first = self.course.first().map_or(0, |(_, arrived)| *arrived);
        (self.arrived - at_first) as f64 / (self.last - self.first)
    }

    /// The same between a tenth and nine tenths of what arrived: without the way in and out.
    pub(super) fn middle_rate(&self) -> f64 {
        let at = |part: f64| {
            let least = (self.arrived as f64 * part) as u64;
            self.course.iter().find(|(_, arrived)| *arrived >= least)
        };
        match (at(0.1), at(0.9)) {
            (Some((t0, n0)), Some((t1, n1))) if t1 > t0 => (n1 - n0) as f64 / (t1 - t0),
            _ => f64::NAN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_rate_leaves_the_ends_out() {
        let course = (0..=10).map(|i| (f64::from(i), u64::from(i as u32) * 100)).collect();
        let watch = Watch { first: 0.0, last: 10.0, arrived: 1000, course };
        assert!((watch.middle_rate() - 100.0).abs() < 1e-9);
    }
}
