//! Addresses whose handshakes and log-ins fail, and how much of them is turned away.
//!
//! Owns: [`Conducts`]: a bucket of failures an address. Each failure takes what it cost ([`Cost`]), each admission gives
//! [`GIVEN_BACK`]. An address with an empty bucket is banned, [`BAN_FIRST`] at first and twice as long each time, and has
//! [`RETRIES`] failures after each ban; an admission ends the ban and is the end of its doubling. An address from which
//! somebody is admitted, or was within [`CREDIT`], is never banned, but slowed: with an empty bucket it is let in as fast as
//! the bucket fills.
//!
//! Nobody is turned away while the gateway is not pressed ([`super::pressure`], or strangers have most of the places): it
//! would save nothing. And never is all of an address turned away, banned or slowed: a whole site may share it with whoever
//! floods. It keeps a [`SHARE`] of the turns, and who comes next when there is some of it left is let in. So each try of
//! an honest device succeeds with the chance share / rate of the flood, and who is in stays in.
//!
//! Napkin: a handshake takes 5 ms of a Raspberry Pi 4: three turns serve 600 a second. A quarter of that is 150. Floods below
//! 600 hold nobody up at all. With 1,000 a second one try in seven gets in: of devices that come back after 1, 2, ... 30 s
//! half are in after 30 s, nine of ten after 5 minutes, the last of 100 after half an hour. Nothing before the certificate
//! tells the devices from the flood, so with a quarter of the turns there is no more to be had: a source port is another one
//! each time, a certificate comes after our signature, a line to wait in is filled by the flood in the same proportion. A session
//! ticket of ours would tell; rustls does not show it before the handshake, and whoever reads the site's network can send it, too.
//! A larger share would be paid by those who are in: their latency in a flood is what is measured.
//!
//! Invariants: at most [`TABLE_MAX`] addresses besides those of admitted clients. What is forgotten first is what says least:
//! an address as good as new, then failures, then credit, then the ban that ends soonest. So whoever wants his ban forgotten
//! needs 4,096 addresses that are banned longer than his, each by hundreds of failures of its own: then he does not need
//! the one. Must not know: sockets, what failed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::{Config, Source};

/// The first ban of an address.
pub(super) const BAN_FIRST: Duration = Duration::from_secs(1);
/// Failures that an address has after a ban.
pub(super) const RETRIES: f64 = 10.0;
/// Failures that one admission makes up for: where one device in six fails at each try, the others do not suffer.
const GIVEN_BACK: f64 = 5.0;
/// An address with credit fills its bucket so many times as fast.
const CREDIT_FACTOR: f64 = 5.0;
/// How long an address has credit after its last client has left.
pub(super) const CREDIT: Duration = Duration::from_secs(600);
/// After that time without a ban the doubling starts anew.
pub(super) const FORGIVEN: Duration = Duration::from_secs(600);
/// Addresses that are remembered besides those of admitted clients.
pub(super) const TABLE_MAX: usize = 4096;
/// So many are forgotten at once, so that the search for them is worth it.
const FORGOTTEN_AT_ONCE: usize = TABLE_MAX / 16;

/// Handshakes that one turn serves in a second, on a Raspberry Pi 4: 3 to 8 ms each.
pub(super) const HANDSHAKES_PER_SEC: f64 = 200.0;
/// The share of all turns that an address keeps, whatever comes from it.
pub(super) const SHARE: f64 = 0.25;
/// For so long an address may save up its share.
const SHARE_SAVED_SECS: f64 = 0.1;

/// What a failure cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::front) enum Cost {
    /// Next to nothing (no ClientHello came: 20 us), or a CA of the bundle vouches for who failed, and it does not come too
    /// often ([`super::vouched`]): that is a device in need of a hand, and it comes back until it has got it.
    Nothing,
    /// Signatures were made and checked.
    Handshake,
}

/// Why an address is turned away, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::front) enum TurnedAway {
    /// It only fails.
    Banned(Duration),
    /// It fails more than it succeeds.
    Slowed(Duration),
}

#[derive(Debug)]
struct Conduct {
    failures: Bucket,
    /// What it may have all the same.
    share: Bucket,
    /// Bans since it was forgiven.
    bans: u32,
    banned_until: Option<Instant>,
    /// Admitted clients that are connected.
    live: usize,
    /// Until when it has credit without one.
    credit_until: Option<Instant>,
}

/// See [the module](self).
#[derive(Debug)]
pub(in crate::front) struct Conducts {
    per_sec: f64,
    burst: f64,
    ban_max: Duration,
    /// Of one address, a second.
    share: f64,
    by_source: HashMap<Source, Conduct>,
    /// How many of them have live clients.
    live: usize,
}

impl Conducts {
    pub(in crate::front) fn new(config: &Config) -> Self {
        let burst = f64::from(config.failures_per_min);
        let (per_sec, ban_max) = (burst / 60.0, config.ban_max);
        let turns = u32::try_from(config.handshake_threads.max(1)).unwrap_or(u32::MAX);
        let share = f64::from(turns) * HANDSHAKES_PER_SEC * SHARE;
        Self { per_sec, burst, ban_max, share, by_source: HashMap::new(), live: 0 }
    }

    /// Whether a connection from `source` may come in.
    pub(in crate::front) fn judge(
        &mut self,
        source: Source,
        pressed: bool,
        now: Instant,
    ) -> Result<(), TurnedAway> {
        if self.burst == 0.0 || !pressed {
            return Ok(());
        }
        let Some(conduct) = self.by_source.get_mut(&source) else { return Ok(()) };
        let away = if let Some(left) = conduct.ban(now) {
            TurnedAway::Banned(left)
        } else if conduct.has_credit(now) && conduct.failures.level(now) < 1.0 {
            TurnedAway::Slowed(Duration::from_secs_f64(1.0 / (self.per_sec * CREDIT_FACTOR)))
        } else {
            return Ok(());
        };
        conduct.share.take(1.0, now).map_err(|_| away)
    }

    /// A handshake or log-in failed; gives the ban that follows.
    pub(in crate::front) fn failed(
        &mut self,
        source: Source,
        cost: Cost,
        pressed: bool,
        now: Instant,
    ) -> Option<Duration> {
        if self.burst == 0.0 || cost == Cost::Nothing {
            return None;
        }
        let (per_sec, ban_max) = (self.per_sec, self.ban_max);
        let conduct = self.of(source, now);
        if conduct.ban(now).is_some() {
            // It began before the ban, or is of its share.
            return None;
        }
        let credit = conduct.has_credit(now);
        conduct.failures.set_rate(if credit { per_sec * CREDIT_FACTOR } else { per_sec }, now);
        conduct.failures.drain(1.0, now);
        if credit || !pressed || conduct.failures.level(now) >= 1.0 || ban_max.is_zero() {
            return None;
        }
        if conduct.banned_until.is_some_and(|ended| now >= ended + FORGIVEN) {
            conduct.bans = 0;
        }
        let ban = BAN_FIRST.saturating_mul(1 << conduct.bans.min(16)).min(ban_max);
        conduct.bans += 1;
        conduct.banned_until = Some(now + ban);
        conduct.failures.hold(RETRIES, now + ban);
        Some(ban)
    }

    /// A client was let in.
    pub(in crate::front) fn admitted(&mut self, source: Source, now: Instant) {
        let conduct = self.of(source, now);
        conduct.live += 1;
        let first = conduct.live == 1;
        (conduct.bans, conduct.banned_until) = (0, None);
        conduct.failures.give(GIVEN_BACK, now);
        self.live += usize::from(first);
    }

    /// A client that was let in is gone.
    pub(in crate::front) fn left(&mut self, source: Source, now: Instant) {
        let conduct = self.by_source.get_mut(&source).expect("who is live is remembered");
        conduct.live -= 1;
        conduct.credit_until = Some(now + CREDIT);
        self.live -= usize::from(conduct.live == 0);
    }

    /// How many addresses are banned.
    pub(in crate::front) fn banned(&self, now: Instant) -> usize {
        self.by_source.values().filter(|conduct| conduct.ban(now).is_some()).count()
    }

    fn of(&mut self, source: Source, now: Instant) -> &mut Conduct {
        if !self.by_source.contains_key(&source) && self.by_source.len() - self.live >= TABLE_MAX {
            self.forget(now);
        }
        let (burst, per_sec, share) = (self.burst, self.per_sec, self.share);
        self.by_source.entry(source).or_insert_with(|| Conduct {
            failures: Bucket::full(burst, per_sec, now),
            share: Bucket::full((share * SHARE_SAVED_SECS).max(1.0), share, now),
            bans: 0,
            banned_until: None,
            live: 0,
            credit_until: None,
        })
    }

    /// Forgets those that say least.
    fn forget(&mut self, now: Instant) {
        let idle = self.by_source.iter_mut().filter(|(_, conduct)| conduct.live == 0);
        let mut weights: Vec<(u8, u64, Source)> = idle
            .map(|(source, conduct)| {
                let (class, within) = conduct.weight(now);
                (class, within, *source)
            })
            .collect();
        weights.sort_unstable();
        for (_, _, source) in weights.iter().take(FORGOTTEN_AT_ONCE) {
            self.by_source.remove(source);
        }
    }
}

impl Conduct {
    fn ban(&self, now: Instant) -> Option<Duration> {
        let left = self.banned_until?.checked_duration_since(now)?;
        (!left.is_zero()).then_some(left)
    }

    fn has_credit(&self, now: Instant) -> bool {
        self.live > 0 || self.credit_until.is_some_and(|until| now < until)
    }

    /// What it says, the least first: by class, and within.
    fn weight(&mut self, now: Instant) -> (u8, u64) {
        let secs = |duration: Duration| duration.as_millis().try_into().unwrap_or(u64::MAX);
        if let Some(left) = self.ban(now) {
            (4, secs(left))
        } else if self.has_credit(now) {
            (3, secs(self.credit_until.map_or(Duration::ZERO, |until| until - now)))
        } else if self.bans > 0 {
            (2, u64::from(self.bans))
        } else if !self.failures.is_full(now) {
            // The emptier, the more it says.
            (1, u64::MAX - self.failures.level(now).to_bits())
        } else {
            (0, 0)
        }
    }
}

#[cfg(test)]
mod tests;
