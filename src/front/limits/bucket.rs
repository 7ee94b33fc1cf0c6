//! A token bucket, and the pace of a client's packets that is made of one.
//!
//! Owns: [`Bucket`], [`Pace`]. Must not know: what is counted.

use std::time::{Duration, Instant};

/// So many at once, and so many a second in the long run.
#[derive(Debug, Clone, Copy)]
pub(in crate::front) struct Bucket {
    tokens: f64,
    burst: f64,
    per_sec: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(in crate::front) fn full(burst: f64, per_sec: f64, now: Instant) -> Self {
        Self { tokens: burst, burst, per_sec, at: now }
    }

    /// Takes `cost` if there is as much, else says after what time there is.
    pub(in crate::front) fn take(&mut self, cost: f64, now: Instant) -> Result<(), Duration> {
        self.refill(now);
        if self.tokens < cost {
            return Err(Duration::from_secs_f64((cost - self.tokens) / self.per_sec));
        }
        self.tokens -= cost;
        Ok(())
    }

    /// Takes `cost`, down to nothing.
    pub(super) fn drain(&mut self, cost: f64, now: Instant) {
        self.refill(now);
        self.tokens = (self.tokens - cost).max(0.0);
    }

    /// Gives back, up to the burst.
    pub(super) fn give(&mut self, tokens: f64, now: Instant) {
        self.refill(now);
        self.tokens = (self.tokens + tokens).min(self.burst);
    }

    /// Holds `tokens` from `at` on, and nothing is added before.
    pub(super) fn hold(&mut self, tokens: f64, at: Instant) {
        (self.tokens, self.at) = (tokens.min(self.burst), at);
    }

    /// Fills at another rate from now on.
    pub(super) fn set_rate(&mut self, per_sec: f64, now: Instant) {
        self.refill(now);
        self.per_sec = per_sec;
    }

    /// What is in it.
    pub(super) fn level(&mut self, now: Instant) -> f64 {
        self.refill(now);
        self.tokens
    }

    /// Whether it is as a new one would be.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        self.level(now) >= self.burst
    }

    fn refill(&mut self, now: Instant) {
        // A hold may lie in the future.
        let Some(passed) = now.checked_duration_since(self.at) else { return };
        self.tokens = (self.tokens + passed.as_secs_f64() * self.per_sec).min(self.burst);
        self.at = now;
    }
}

/// Holds a client back that sends too fast: nothing is read until it rested, so that TCP slows it down. Nothing is dropped.
#[derive(Debug)]
pub(in crate::front) struct Pace {
    bucket: Option<Bucket>,
    rest_until: Option<Instant>,
}

/// How many rests a second has, so that a rest is worth its timer.
const RESTS_PER_SEC: f64 = 10.0;

impl Pace {
    /// `per_sec` packets; 0 = without limit.
    pub(in crate::front) fn new(per_sec: u32, now: Instant) -> Self {
        let rate = f64::from(per_sec);
        Self { bucket: (per_sec > 0).then(|| Bucket::full(rate, rate, now)), rest_until: None }
    }

    /// A packet was served.
    pub(in crate::front) fn served(&mut self, now: Instant) {
        let Some(bucket) = &mut self.bucket else { return };
        bucket.drain(1.0, now);
        if bucket.level(now) < 1.0 {
            let rest = (1.0 / RESTS_PER_SEC).max(1.0 / bucket.per_sec);
            self.rest_until = Some(now + Duration::from_secs_f64(rest));
        }
    }

    /// Nothing is to be read for that long.
    pub(in crate::front) fn rest(&mut self, rest: Duration, now: Instant) {
        self.rest_until = self.rest_until.max(Some(now + rest));
    }

    /// Until when nothing is to be read.
    pub(in crate::front) fn rest_until(&self) -> Option<Instant> {
        self.rest_until
    }

    /// Time has passed.
    pub(in crate::front) fn on_time(&mut self, now: Instant) {
        self.rest_until = self.rest_until.filter(|until| now < *until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        crate::clock::system().monotonic()
    }

    #[test]
    fn a_burst_then_the_rate_and_never_more_than_the_burst() {
        let t = start();
        let mut bucket = Bucket::full(3.0, 0.5, t);
        for _ in 0..3 {
            assert_eq!(bucket.take(1.0, t), Ok(()));
        }
        assert_eq!(bucket.take(1.0, t), Err(Duration::from_secs(2)));
        let t = t + Duration::from_secs(2);
        assert_eq!(bucket.take(1.0, t), Ok(()));
        let t = t + Duration::from_secs(3600);
        assert!(bucket.is_full(t) && bucket.level(t) <= 3.0);
        bucket.hold(1.0, t + Duration::from_secs(60));
        assert_eq!(bucket.level(t + Duration::from_secs(59)), 1.0, "nothing is added before");
    }

    /// Rates of 1 to 10,000 a second over 20 s: never more than the first second's burst and the rate.
    #[test]
    fn a_client_that_always_sends_is_served_at_its_rate() {
        for per_sec in [1_u32, 7, 100, 10_000] {
            let (begin, mut now) = (start(), start());
            let mut pace = Pace::new(per_sec, begin);
            let mut served = 0_u32;
            while now < begin + Duration::from_secs(20) {
                pace.on_time(now);
                match pace.rest_until() {
                    Some(until) => now = until,
                    None => {
                        pace.served(now);
                        served += 1;
                    }
                }
            }
            assert!(served <= 21 * per_sec + 1 && served >= 19 * per_sec, "{per_sec}: {served}");
        }
        let mut free = Pace::new(0, start());
        (0..100_000).for_each(|_| free.served(start()));
        assert_eq!(free.rest_until(), None);
    }
}
