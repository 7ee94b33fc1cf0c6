//! Time, as a value that tests own.
//!
//! Owns: the only reads of the operating system's clocks. Protocol code takes `now` as an argument; tasks take a
//! [`Clock`]. Must not know: anything else.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01T00:00:00Z. Wall time: it can jump (a Raspberry Pi has no RTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// Whole seconds since 1970, as SAS tokens (`se=`) and X.509 validity count them.
    pub fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// The time `d` later, saturating.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Source of wall and monotonic time.
pub trait Clock: Send + Sync + 'static {
    /// Wall time.
    fn wall(&self) -> UnixMillis;
    /// Monotonic time.
    fn monotonic(&self) -> Instant;
}

/// The operating system's clocks.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn wall(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    #[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn monotonic(&self) -> Instant {
        Instant::now()
    }
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The system clock, shared.
pub fn system() -> SharedClock {
    Arc::new(SystemClock)
}
