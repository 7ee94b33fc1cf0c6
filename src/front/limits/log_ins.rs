//! Identities that log in again and again: two clients that fight over one id, a client that dies in a loop (each time with
//! its will).
//!
//! Owns: [`LogIns`]: a bucket an identity, charged after it has proved who it is, so that nobody can use up another one's. A
//! log-in costs 1; one that pushes out a live connection costs [`TAKEOVER`]. The reference lets two clients fight for ever, each
//! of them connected for milliseconds; here, once the burst is used up, the one that is in stays in until the bucket has what
//! the next takeover costs (10 s by default), so that its data flows meanwhile, and then the other one has its turn.
//! Invariants: at most [`TABLE_MAX`] identities besides those that are connected; only identities that were let in by
//! `auth` are in it, so the scope bounds it, too. Must not know: seats, MQTT.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use crate::identity::Identity;

/// Log-ins that an identity has at once: a device on a link that flaps is not to feel this.
pub(super) const BURST: u32 = 30;
/// What it costs to push out a live connection.
const TAKEOVER: f64 = 2.0;
/// Identities that are remembered besides those that are connected.
const TABLE_MAX: usize = 4096;

/// Why an identity has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::front) enum TooOften {
    /// It would push out the client at that address, again.
    Fight {
        /// Who stays in.
        holder: SocketAddr,
        /// Until the next takeover.
        wait: Duration,
    },
    /// It has logged in too often.
    LogIns(Duration),
}

#[derive(Debug)]
struct Record {
    bucket: Bucket,
    live: usize,
    /// Where it logged in last.
    peer: SocketAddr,
}

/// See [the module](self).
#[derive(Debug)]
pub(in crate::front) struct LogIns {
    /// 0 = without limit.
    per_sec: f64,
    burst: f64,
    by_identity: HashMap<Identity, Record>,
}

impl LogIns {
    pub(in crate::front) fn new(per_min: u32) -> Self {
        let burst = f64::from(BURST.max(per_min));
        Self { per_sec: f64::from(per_min) / 60.0, burst, by_identity: HashMap::new() }
    }

    /// `identity` has proved who it is and wants its seat. What is let in is to be given back by [`Self::left`].
    pub(in crate::front) fn enter(
        &mut self,
        identity: &Identity,
        peer: SocketAddr,
        now: Instant,
    ) -> Result<(), TooOften> {
        if self.per_sec == 0.0 {
            return Ok(());
        }
        if !self.by_identity.contains_key(identity) {
            self.forget(now);
            let bucket = Bucket::full(self.burst, self.per_sec, now);
            self.by_identity.insert(identity.clone(), Record { bucket, live: 0, peer });
        }
        let record = self.by_identity.get_mut(identity).expect("it is there by now");
        let takes_over = record.live > 0;
        let taken = record.bucket.take(if takes_over { TAKEOVER } else { 1.0 }, now);
        taken.map_err(|wait| match takes_over {
            true => TooOften::Fight { holder: record.peer, wait },
            false => TooOften::LogIns(wait),
        })?;
        record.live += 1;
        record.peer = peer;
        Ok(())
    }

    /// A connection that was let in is gone.
    pub(in crate::front) fn left(&mut self, identity: &Identity) {
        if let Some(record) = self.by_identity.get_mut(identity) {
            record.live = record.live.saturating_sub(1);
        }
    }

    /// Makes room, if the table is full, by those that are as good as new, else by any that is not connected.
    fn forget(&mut self, now: Instant) {
        let idle = |all: &HashMap<Identity, Record>| all.values().filter(|r| r.live == 0).count();
        if self.by_identity.len() < TABLE_MAX || idle(&self.by_identity) < TABLE_MAX {
            return;
        }
        self.by_identity.retain(|_, record| record.live > 0 || !record.bucket.is_full(now));
        if idle(&self.by_identity) >= TABLE_MAX {
            self.by_identity.retain(|_, record| record.live > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{ClientName, DeviceId};

    fn who(id: &str) -> Identity {
        Identity::vouched(ClientName::Device(DeviceId::parse(id).unwrap()))
    }

    fn peer(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 4711).into()
    }

    fn start() -> Instant {
        crate::clock::system().monotonic()
    }

    /// Each connects as soon as it was pushed out, or every 100 ms while it is refused.
    #[test]
    fn of_two_that_fight_each_holds_the_seat_for_seconds() {
        let (mut all, begin, who) = (LogIns::new(12), start(), who("d"));
        let (mut holder, mut since, mut holds) = (1, begin, Vec::new());
        all.enter(&who, peer(holder), begin).unwrap();
        for step in 0..3000 {
            let now = begin + Duration::from_millis(100) * step;
            let newcomer = 3 - holder;
            match all.enter(&who, peer(newcomer), now) {
                Ok(()) => {
                    all.left(&who);
                    holds.push(now - since);
                    (holder, since) = (newcomer, now);
                }
                Err(TooOften::Fight { holder: in_seat, wait }) => {
                    assert_eq!(in_seat, peer(holder));
                    assert!(wait <= Duration::from_secs(10));
                }
                Err(TooOften::LogIns(_)) => panic!("the seat is taken"),
            }
        }
        assert!((14..=16).contains(&holds.iter().position(|h| h.as_secs() >= 2).unwrap()));
        let last = &holds[holds.len() - 20..];
        assert!(last.iter().all(|held| held.as_millis() >= 9_900), "{last:?}");
    }

    /// A will storm: connect, die, connect.
    #[test]
    fn a_client_that_dies_in_a_loop_comes_twelve_times_a_minute() {
        let (mut all, begin, who, other) = (LogIns::new(12), start(), who("d"), who("e"));
        let mut let_in = 0;
        for step in 0..6000 {
            let now = begin + Duration::from_millis(100) * step;
            match all.enter(&who, peer(1), now) {
                Ok(()) => {
                    let_in += 1;
                    all.left(&who);
                }
                Err(TooOften::LogIns(wait)) => assert!(wait <= Duration::from_secs(5)),
                Err(e) => panic!("{e:?}"),
            }
        }
        assert!((140..=151).contains(&let_in), "30 and 12 a minute for 10 minutes: {let_in}");
        assert!(all.enter(&other, peer(1), begin).is_ok(), "nobody else is held back");
    }

    #[test]
    fn a_device_on_a_flapping_link_is_not_held_back() {
        let (mut all, begin, who) = (LogIns::new(12), start(), who("d"));
        for minute in 0..60 {
            // Six times a minute; its old connection lingers each time.
            for step in 0..6 {
                let now = begin + Duration::from_secs(minute * 60 + step * 10);
                assert_eq!(all.enter(&who, peer(1), now), Ok(()), "{minute}:{step}");
                if minute + step > 0 {
                    all.left(&who);
                }
            }
        }
        let mut off = LogIns::new(0);
        (0..10_000).for_each(|_| off.enter(&who, peer(1), begin).unwrap());
    }

    #[test]
    fn the_table_is_bounded_and_who_is_in_stays_in_it() {
        let (mut all, now) = (LogIns::new(12), start());
        all.enter(&who("in"), peer(1), now).unwrap();
        for number in 0..20_000 {
            let who = who(&format!("d{number}"));
            all.enter(&who, peer(1), now).unwrap();
            all.left(&who);
            assert!(all.by_identity.len() <= TABLE_MAX + 1);
        }
        assert_eq!(all.by_identity[&who("in")].live, 1);
    }
}
