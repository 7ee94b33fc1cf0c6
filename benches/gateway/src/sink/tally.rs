//! What arrived, by device and sequence number.
//!
//! Owns: one bit per message. Invariants: one uncontended lock per message; memory is bounded by [`SEQUENCE_MAX`] bits
//! per device. Must not know: how messages arrive.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::load::{Histogram, Stamp, now_nanos};

/// Highest sequence number that is believed: a body that was mangled must not make us reserve memory without end.
const SEQUENCE_MAX: u64 = 1 << 30;

/// What arrived, by device and sequence number: counts, duplicates, gaps, reordering. Cheap: one lock or none per
/// message, memory bounded by bits per message.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    devices: Vec<Mutex<Slot>>,
    distinct: AtomicU64,
    strays: AtomicU64,
    timed: AtomicBool,
    latency: Mutex<Histogram>,
}

/// One device.
#[derive(Debug, Default)]
struct Slot {
    bits: Vec<u64>,
    highest: u64,
    counts: Arrived,
}

/// What a tally says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) received: u64,
    pub(crate) distinct: u64,
    pub(crate) duplicates: u64,
    /// First arrivals after a later one of the same device.
    pub(crate) reordered: u64,
    /// Bodies without a stamp of ours. Any is a failure of the run.
    pub(crate) strays: u64,
}

impl Slot {
    /// True when it is new.
    fn enter(&mut self, sequence: u64) -> bool {
        let (word, bit) = ((sequence / 64) as usize, 1_u64 << (sequence % 64));
        if word >= self.bits.len() {
            // In steps, so that growing costs nothing for the single message.
            self.bits.resize(word + 1 + self.bits.len() / 2 + 64, 0);
        }
        let new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        self.counts.received += 1;
        if new {
            self.counts.distinct += 1;
            self.counts.reordered += u64::from(sequence < self.highest);
            self.highest = self.highest.max(sequence);
        } else {
            self.counts.duplicates += 1;
        }
        new
    }

    /// How many of `1..=acked` are missing.
    fn missing(&self, acked: u64) -> u64 {
        let mut present = 0;
        for (word, bits) in self.bits.iter().enumerate() {
            let first = word as u64 * 64;
            if first > acked {
                break;
            }
            let in_word = acked - first;
            let mask = if in_word >= 63 { u64::MAX } else { (1 << (in_word + 1)) - 1 };
            present += u64::from((bits & mask).count_ones());
        }
        acked - present
    }
}

impl Tally {
    /// For devices with the indices `0..devices`.
    pub(crate) fn new(devices: usize) -> Self {
        let devices = std::iter::repeat_with(Mutex::default).take(devices).collect();
        Self { devices, ..Self::default() }
    }

    /// A body as the load generator made it. Bodies without a stamp are counted apart and are a failure of the run.
    pub(crate) fn take(&self, body: &[u8]) {
        let stamp = Stamp::read(body).and_then(|stamp| {
            let believed = (1..=SEQUENCE_MAX).contains(&stamp.sequence);
            let slot = self.devices.get(stamp.device as usize);
            slot.filter(|_| believed).map(|slot| (slot, stamp))
        });
        let Some((slot, stamp)) = stamp else {
            self.strays.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let new = slot.lock().unwrap_or_else(PoisonError::into_inner).enter(stamp.sequence);
        if new {
            self.distinct.fetch_add(1, Ordering::Relaxed);
            if self.timed.load(Ordering::Relaxed) {
                self.latency().record(now_nanos().saturating_sub(stamp.due_nanos));
            }
        }
    }

    fn latency(&self) -> MutexGuard<'_, Histogram> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, how long after its due time each message arrives is measured: a lock and a look at the clock more
    /// for each, so not where the rate counts.
    pub(crate) fn time_arrivals(&self) {
        self.timed.store(true, Ordering::Relaxed);
        drop(std::mem::take(&mut *self.latency()));
    }

    /// What was measured since [`Tally::time_arrivals`].
    pub(crate) fn arrivals(&self) -> Histogram {
        self.latency().clone()
    }

    /// Different messages so far: one load, for those who wait for a number.
    pub(crate) fn distinct(&self) -> u64 {
        self.distinct.load(Ordering::Relaxed)
    }

    /// All counts.
    pub(crate) fn arrived(&self) -> Arrived {
        let mut all = Arrived { strays: self.strays.load(Ordering::Relaxed), ..Arrived::default() };
        for slot in &self.devices {
            let counts = slot.lock().unwrap_or_else(PoisonError::into_inner).counts;
            all.received += counts.received;
            all.distinct += counts.distinct;
            all.duplicates += counts.duplicates;
            all.reordered += counts.reordered;
        }
        all
    }

    /// Acknowledged by the process under test (all sequence numbers up to `acked` of each device) and never arrived.
    pub(crate) fn lost(&self, acked: &[u64]) -> u64 {
        let missing = |(index, acked): (usize, &u64)| match self.devices.get(index) {
            Some(slot) => slot.lock().unwrap_or_else(PoisonError::into_inner).missing(*acked),
            None => *acked,
        };
        acked.iter().enumerate().map(missing).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(device: u32, sequence: u64) -> Vec<u8> {
        let mut out = device.to_le_bytes().to_vec();
        out.extend(sequence.to_le_bytes());
        out.extend(0_u64.to_le_bytes());
        out.extend([b'x'; 10]);
        out
    }

    fn arrived(received: u64, distinct: u64, duplicates: u64, reordered: u64) -> Arrived {
        Arrived { received, distinct, duplicates, reordered, strays: 0 }
    }

    #[test]
    fn duplicates_reordering_and_gaps_are_counted_by_device() {
        let tally = Tally::new(2);
        for (device, sequence) in [(0, 1), (0, 2), (0, 2), (0, 4), (0, 3), (1, 1), (0, 3), (1, 200)]
        {
            tally.take(&body(device, sequence));
        }
        assert_eq!(tally.arrived(), arrived(8, 6, 2, 1));
        assert_eq!(tally.distinct(), 6);
        assert_eq!(tally.lost(&[4, 1]), 0);
        assert_eq!(tally.lost(&[6, 1]), 2);
        assert_eq!(tally.lost(&[0, 200]), 198);
        assert_eq!(tally.lost(&[0, 100_000]), 99_998);
        assert_eq!(tally.lost(&[0, 0, 7]), 7, "nobody heard of the third");
    }

    #[test]
    fn only_first_arrivals_are_timed_and_only_when_asked() {
        let tally = Tally::new(1);
        tally.take(&body(0, 1));
        assert_eq!(tally.arrivals().count(), 0);
        tally.time_arrivals();
        [2, 2, 1, 3].iter().for_each(|n| tally.take(&body(0, *n)));
        assert_eq!(tally.arrivals().count(), 2);
        tally.time_arrivals();
        assert_eq!(tally.arrivals().count(), 0, "begun anew");
    }

    #[test]
    fn edges_of_words_are_counted_once() {
        let tally = Tally::new(1);
        for sequence in 1..=1000 {
            tally.take(&body(0, sequence));
        }
        for acked in [1, 62, 63, 64, 65, 127, 128, 999, 1000] {
            assert_eq!(tally.lost(&[acked]), 0, "{acked}");
        }
        assert_eq!(tally.lost(&[1001]), 1);
    }

    #[test]
    fn what_is_not_ours_is_a_stray() {
        let tally = Tally::new(1);
        for stray in [&[][..], &[0; 19], &body(1, 1), &body(0, 0), &body(0, u64::MAX)] {
            tally.take(stray);
        }
        assert_eq!(tally.arrived(), Arrived { strays: 5, ..Arrived::default() });
    }
}
