//! Whether handshakes have to wait: only then does it save anything to turn an address away.
//!
//! Owns: [`Pressure`]: how many steps of handshakes wait for a turn. Somebody waited at each moment of [`SUSTAINED`]: the
//! gateway is pressed, and counts as pressed for [`HELD`] after the last such moment, so that a flood that is held back does
//! not have all turns again each time that the queue is empty for a moment.
//!
//! Napkin: a Raspberry Pi 4 has three turns of 5 ms a handshake, 600 a second. A flood of 1,000 a second lets 40 wait after
//! 100 ms; it has all turns for 100 ms out of 10 s. Below 600 a second nobody waits for long, and nobody is turned away.
//! Must not know: addresses, the runtime.

use std::time::{Duration, Instant};

/// Waiting for less than that is no pressure: a few devices that come together.
pub(super) const SUSTAINED: Duration = Duration::from_millis(100);
/// How long the gateway counts as pressed after it was.
pub(super) const HELD: Duration = Duration::from_secs(10);

/// See [the module](self).
#[derive(Debug, Default)]
pub(in crate::front) struct Pressure {
    waiting: usize,
    /// Since when there is somebody who waits.
    since: Option<Instant>,
    until: Option<Instant>,
}

impl Pressure {
    /// One more waits for a turn.
    pub(in crate::front) fn waits(&mut self, now: Instant) {
        self.waiting += 1;
        self.since.get_or_insert(now);
    }

    /// It has its turn, or has given up.
    pub(in crate::front) fn waited(&mut self, now: Instant) {
        self.is_on(now);
        self.waiting -= 1;
        if self.waiting == 0 {
            self.since = None;
        }
    }

    /// Whether the gateway is pressed.
    pub(in crate::front) fn is_on(&mut self, now: Instant) -> bool {
        if self.since.is_some_and(|since| now >= since + SUSTAINED) {
            self.until = Some(now + HELD);
        }
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_waits_all_the_time_is_pressure_and_it_holds_for_a_while() {
        let start = crate::clock::system().monotonic();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pressure = Pressure::default();
        // Now and then somebody waits.
        for millis in (0..1000).step_by(100) {
            pressure.waits(at(millis));
            assert!(!pressure.is_on(at(millis + 99)));
            pressure.waited(at(millis + 99));
        }
        // One waits after the other, and two for a while.
        pressure.waits(at(1000));
        pressure.waits(at(1050));
        pressure.waited(at(1060));
        assert!(!pressure.is_on(at(1099)));
        pressure.waited(at(1100));
        assert!(pressure.is_on(at(11_099)), "seen when it ended, though nobody asked");
        assert!(!pressure.is_on(at(11_100)));
    }
}
