//! Devices that a CA of the bundle vouches for and that are refused all the same: the certificate has ended, they are disabled
//! or not registered. How much of that is free.
//!
//! Owns: [`Vouched`]: a bucket a device. A site has many such devices after an outage, and each comes back until somebody mends it:
//! [`BURST`] times at once and as often as a device may log in (12 times a minute), none of which counts against its
//! address. Who holds one leaf and its key and comes more often costs us a full handshake each time, as any other who fails:
//! that counts. What is beyond [`TABLE_MAX`] devices counts, too; it takes as many leafs to get there.
//! Invariants: memory is bounded; a name is one whatever its case, so that one leaf has one bucket. Must not know: why it was
//! refused, addresses.

use std::collections::HashMap;
use std::time::Instant;

use super::bucket::Bucket;
use super::conduct::Cost;
use super::log_ins::BURST;
use crate::identity::DeviceId;

/// Devices that are remembered.
const TABLE_MAX: usize = 4096;

/// See [the module](self).
#[derive(Debug)]
pub(in crate::front) struct Vouched {
    /// 0 = without limit.
    per_sec: f64,
    burst: f64,
    /// By the device id in lower case.
    by_device: HashMap<Box<str>, Bucket>,
}

impl Vouched {
    pub(in crate::front) fn new(per_min: u32) -> Self {
        let burst = f64::from(BURST.max(per_min));
        Self { per_sec: f64::from(per_min) / 60.0, burst, by_device: HashMap::new() }
    }

    /// What it counts for that `device`, which has proved that it is that device, was refused.
    pub(in crate::front) fn refused(&mut self, device: &DeviceId, now: Instant) -> Cost {
        if self.per_sec == 0.0 {
            return Cost::Nothing;
        }
        let name = device.as_str().to_ascii_lowercase().into_boxed_str();
        if self.by_device.len() >= TABLE_MAX && !self.by_device.contains_key(&name) {
            self.by_device.retain(|_, bucket| !bucket.is_full(now));
            if self.by_device.len() >= TABLE_MAX {
                return Cost::Handshake;
            }
        }
        let (burst, per_sec) = (self.burst, self.per_sec);
        let bucket =
            self.by_device.entry(name).or_insert_with(|| Bucket::full(burst, per_sec, now));
        match bucket.take(1.0, now) {
            Ok(()) => Cost::Nothing,
            Err(_) => Cost::Handshake,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn device(id: &str) -> DeviceId {
        DeviceId::parse(id).unwrap()
    }

    fn start() -> Instant {
        crate::clock::system().monotonic()
    }

    /// How many of `times` count, all at once.
    fn counted(all: &mut Vouched, id: &str, times: usize, now: Instant) -> usize {
        (0..times).filter(|_| all.refused(&device(id), now) == Cost::Handshake).count()
    }

    #[test]
    fn a_device_in_need_counts_for_nothing_and_one_leaf_that_hammers_counts() {
        let (mut all, now) = (Vouched::new(12), start());
        // A site of 2,000 devices whose certificates have ended, each back every ten seconds for ten minutes.
        for round in 0..60 {
            let now = now + Duration::from_secs(10 * round);
            for number in 0..2000 {
                assert_eq!(counted(&mut all, &format!("d{number}"), 1, now), 0);
            }
        }
        assert_eq!(counted(&mut all, "bad", 1000, now), 970);
        assert_eq!(counted(&mut all, "BaD", 10, now), 10, "the same leaf");
        let later = now + Duration::from_secs(60);
        assert_eq!(counted(&mut all, "bad", 100, later), 88, "12 a minute");
        assert_eq!(counted(&mut all, "good", 1, later), 0, "nobody else");
    }

    #[test]
    fn memory_is_bounded_and_who_has_no_place_counts() {
        let (mut all, now) = (Vouched::new(12), start());
        for number in 0..TABLE_MAX {
            assert_eq!(counted(&mut all, &format!("d{number}"), 1, now), 0);
        }
        assert_eq!(counted(&mut all, "one-more", 1, now), 1);
        assert_eq!(counted(&mut all, "d7", 1, now), 0, "who has one keeps it");
        assert_eq!(all.by_device.len(), TABLE_MAX);
        let later = now + Duration::from_secs(60);
        assert_eq!(counted(&mut all, "one-more", 1, later), 0, "those are as good as new");
        assert_eq!(all.by_device.len(), 1);
    }

    #[test]
    fn a_limit_that_is_off_counts_nothing() {
        assert_eq!(counted(&mut Vouched::new(0), "d", 10_000, start()), 0);
    }
}
