//! When the next identity gets its links.
//!
//! Owns: the least time between two set-ups. Must not know: whose they are.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Gives each who asks a time of its own.
pub(super) struct Pace {
    next: Mutex<Option<Instant>>,
    gap: Duration,
}

impl Pace {
    pub(super) fn new(gap: Duration) -> Self {
        Self { next: Mutex::default(), gap }
    }

    fn slot(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().expect("nothing panics under this lock");
        let at = next.map_or(now, |next| next.max(now));
        *next = Some(at + self.gap);
        at
    }

    pub(super) async fn turn(&self, now: Instant) {
        tokio::time::sleep_until(self.slot(now).into()).await;
    }
}
