//! What one device has under way: numbers, packet ids, due times. Sans IO.
//!
//! Invariants: messages are sequence numbers from 1, without a hole; those up to `acked` are acknowledged, those up to
//! `sent` were handed to the network. The packet id follows from the number, so a message keeps it when it is sent
//! again (MQTT-4.4.0-1).

use std::collections::VecDeque;

/// Ids are 1..=65,535 (2.3.1), used in turn.
pub(super) const IDS: u64 = 65_535;

/// The id that the message `sequence` always has.
pub(super) fn id_of(sequence: u64) -> u16 {
    u16::try_from((sequence - 1) % IDS + 1).expect("at most IDS")
}

struct Flight {
    due_nanos: u64,
    acked: bool,
}

/// What a PUBACK means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    /// The oldest one, as MQTT-4.6.0-2 wants it; due then.
    Oldest(u64),
    /// Another one that is outstanding.
    OutOfOrder(u64),
    /// An id that is not outstanding.
    Unknown,
}

/// One device's messages under way, oldest first.
pub(super) struct Window {
    flights: VecDeque<Flight>,
    acked: u64,
    size: usize,
    /// Since when there is room (or a connection): what is late from here on is our own fault.
    pub(super) room_since_nanos: u64,
}

impl Window {
    pub(super) fn new(size: usize) -> Self {
        Self { flights: VecDeque::with_capacity(size), acked: 0, size, room_since_nanos: 0 }
    }

    /// The highest number of the unbroken run of acknowledged ones.
    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    /// The highest number under way.
    pub(super) fn sent(&self) -> u64 {
        self.acked + self.flights.len() as u64
    }

    pub(super) fn room(&self) -> usize {
        self.size - self.flights.len()
    }

    /// The next message; gives its number.
    pub(super) fn push(&mut self, due_nanos: u64) -> u64 {
        assert!(self.room() > 0, "the caller asked for room");
        self.flights.push_back(Flight { due_nanos, acked: false });
        self.sent()
    }

    /// A PUBACK came.
    pub(super) fn ack(&mut self, id: u16, now_nanos: u64) -> Ack {
        // How far behind the oldest the id is, in the circle of ids; id 0 does not exist.
        let oldest = self.acked % IDS + 1;
        let place = (u64::from(id) + IDS - oldest) % IDS;
        let flight = self.flights.get_mut(place as usize).filter(|f| id != 0 && !f.acked);
        let Some(flight) = flight else { return Ack::Unknown };
        flight.acked = true;
        let due = flight.due_nanos;
        if place != 0 {
            return Ack::OutOfOrder(due);
        }
        if self.room() == 0 {
            self.room_since_nanos = now_nanos;
        }
        while self.flights.front().is_some_and(|f| f.acked) {
            self.flights.pop_front();
            self.acked += 1;
        }
        Ack::Oldest(due)
    }

    /// What has to be sent again after a reconnect, in order: number and due time.
    pub(super) fn unacked(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let numbered = (self.acked + 1..).zip(&self.flights);
        numbered.filter(|(_, f)| !f.acked).map(|(number, f)| (number, f.due_nanos))
    }
}

/// When an open-loop device sends: number `n` is due at `first + (n - 1) * interval`, whatever happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    pub(super) first_nanos: u64,
    pub(super) interval_nanos: u64,
}

impl Schedule {
    /// The schedule of device `index` of `devices`, shifted so that the fleet sends evenly.
    pub(super) fn new(start_nanos: u64, per_second: f64, index: usize, devices: usize) -> Self {
        let step = 1e9 / per_second;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded, > 0")]
        let nanos = |steps: usize| (step * steps as f64).round() as u64;
        Self { first_nanos: start_nanos + nanos(index), interval_nanos: nanos(devices).max(1) }
    }

    pub(super) fn due(&self, sequence: u64) -> u64 {
        self.first_nanos + (sequence - 1) * self.interval_nanos
    }

    /// How many are due by `now`.
    pub(super) fn due_by(&self, now_nanos: u64) -> u64 {
        now_nanos.checked_sub(self.first_nanos).map_or(0, |since| since / self.interval_nanos + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acks_in_order_make_room_and_keep_the_due_time() {
        let mut window = Window::new(2);
        assert_eq!((window.push(10), window.push(20), window.room()), (1, 2, 0));
        assert_eq!(window.ack(1, 99), Ack::Oldest(10));
        assert_eq!((window.acked(), window.sent(), window.room_since_nanos), (1, 2, 99));
        assert_eq!(window.ack(2, 100), Ack::Oldest(20));
        assert_eq!((window.acked(), window.room_since_nanos), (2, 99), "there was room before");
    }

    #[test]
    fn out_of_order_is_seen_and_only_an_unbroken_run_counts() {
        let mut window = Window::new(3);
        assert_eq!([1, 2, 3].map(|due| window.push(due)), [1, 2, 3]);
        assert_eq!(window.ack(2, 0), Ack::OutOfOrder(2));
        assert_eq!((window.acked(), window.room()), (0, 0));
        assert_eq!(window.ack(2, 0), Ack::Unknown, "twice");
        assert_eq!(window.unacked().collect::<Vec<_>>(), [(1, 1), (3, 3)]);
        assert_eq!(window.ack(1, 0), Ack::Oldest(1));
        assert_eq!((window.acked(), window.room()), (2, 2));
        assert_eq!([window.ack(0, 0), window.ack(1, 0), window.ack(4, 0)], [Ack::Unknown; 3]);
    }

    #[test]
    fn ids_go_round_without_zero() {
        let mut window = Window::new(3);
        for sequence in 1..=2 * IDS + 5 {
            assert_eq!(window.push(0), sequence);
            let id = id_of(sequence);
            assert_ne!(id, 0);
            assert_eq!(window.ack(id, 0), Ack::Oldest(0), "{sequence}");
        }
        assert_eq!((id_of(IDS), id_of(IDS + 1)), (65_535, 1));
    }

    #[test]
    fn a_fleet_is_due_evenly() {
        let schedules: Vec<_> = (0..4).map(|i| Schedule::new(1000, 2000.0, i, 4)).collect();
        let mut due: Vec<_> = schedules.iter().flat_map(|s| [s.due(1), s.due(2)]).collect();
        due.sort_unstable();
        let even: Vec<_> = (0..8).map(|step| 1000 + step * 500_000).collect();
        assert_eq!(due, even);
        let first = schedules[0];
        assert_eq!([999, 1000, 2_000_999, 2_001_000].map(|now| first.due_by(now)), [0, 1, 1, 2]);
    }
}
