//! Time of the double: the only reads of the operating system's clocks, with a wall offset that a test can move.
//!
//! Owns: the wall offset, so that expiry of tokens is tested without waiting. Must not know: anything else.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The double's clock.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    offset_ms: AtomicI64,
}

impl Clock {
    /// Milliseconds since 1970, moved by the offset.
    #[allow(clippy::disallowed_methods, reason = "the double's one place that reads the clock")]
    pub(crate) fn wall_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        now.saturating_add(self.offset_ms.load(Ordering::Relaxed))
    }

    /// Moves wall time forward by `by` (whole milliseconds).
    pub(crate) fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.offset_ms.fetch_add(by, Ordering::Relaxed);
    }
}

/// Monotonic now.
#[allow(clippy::disallowed_methods, reason = "the double's one place that reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// `ms` since 1970 as `2026-01-02T03:04:05.678Z`; the number itself when it is outside the calendar.
pub(crate) fn iso8601(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => ms.to_string(),
    }
}
