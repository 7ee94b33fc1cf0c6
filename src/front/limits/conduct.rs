//! Addresses whose handshakes and log-ins fail, and for how long they are turned away.
//!
//! Owns: [`Conducts`]: a bucket of failures an address. Each failure takes one, each admission gives [`GIVEN_BACK`]. An address
//! with an empty bucket is banned, [`BAN_FIRST`] at first and twice as long each time, and has [`RETRIES`] failures after each
//! ban; an admission ends the ban and is the end of its doubling. An address from which somebody is admitted, or was within
//! [`CREDIT`], is never banned: with an empty bucket it is let in as fast as the bucket fills, so that only failing is slow.
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
    by_source: HashMap<Source, Conduct>,
    /// How many of them have live clients.
    live: usize,
}

impl Conducts {
    pub(in crate::front) fn new(config: &Config) -> Self {
        let burst = f64::from(config.failures_per_min);
        let (per_sec, ban_max) = (burst / 60.0, config.ban_max);
        Self { per_sec, burst, ban_max, by_source: HashMap::new(), live: 0 }
    }

    /// Whether a connection from `source` may come in.
    pub(in crate::front) fn judge(
        &mut self,
        source: Source,
        now: Instant,
    ) -> Result<(), TurnedAway> {
        if self.burst == 0.0 {
            return Ok(());
        }
        let Some(conduct) = self.by_source.get_mut(&source) else { return Ok(()) };
        if let Some(left) = conduct.ban(now) {
            return Err(TurnedAway::Banned(left));
        }
        if conduct.has_credit(now) && conduct.failures.level(now) < 1.0 {
            let wait = Duration::from_secs_f64(1.0 / (self.per_sec * CREDIT_FACTOR));
            return Err(TurnedAway::Slowed(wait));
        }
        Ok(())
    }

    /// A handshake or log-in failed; gives the ban that follows.
    pub(in crate::front) fn failed(&mut self, source: Source, now: Instant) -> Option<Duration> {
        if self.burst == 0.0 {
            return None;
        }
        let (per_sec, ban_max) = (self.per_sec, self.ban_max);
        let conduct = self.of(source, now);
        if conduct.ban(now).is_some() {
            // It began before the ban.
            return None;
        }
        let credit = conduct.has_credit(now);
        conduct.failures.set_rate(if credit { per_sec * CREDIT_FACTOR } else { per_sec }, now);
        conduct.failures.drain(1.0, now);
        if credit || conduct.failures.level(now) >= 1.0 || ban_max.is_zero() {
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
        let (burst, per_sec) = (self.burst, self.per_sec);
        self.by_source.entry(source).or_insert_with(|| Conduct {
            failures: Bucket::full(burst, per_sec, now),
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
mod tests {
    use super::*;

    const CONFIG: Config = Config {
        failures_per_min: 60,
        ban_max: Duration::from_secs(60),
        log_ins_per_min: 12,
        packets_per_sec: 0,
        handshake_threads: 1,
    };

    fn start() -> Instant {
        crate::clock::system().monotonic()
    }

    fn source(number: u32) -> Source {
        Source::of(std::net::IpAddr::V4((0x0a00_0000 + number).into()))
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Fails until banned; gives the ban and how many failures it took.
    fn fail(all: &mut Conducts, source: Source, now: Instant) -> (Duration, usize) {
        for failures in 1..10_000 {
            if let Some(ban) = all.failed(source, now) {
                return (ban, failures);
            }
        }
        panic!("never banned")
    }

    #[test]
    fn an_address_that_only_fails_is_banned_twice_as_long_each_time() {
        let (mut all, mut now) = (Conducts::new(&CONFIG), start());
        let bad = source(1);
        assert_eq!(fail(&mut all, bad, now), (secs(1), 60));
        assert_eq!(all.judge(bad, now), Err(TurnedAway::Banned(secs(1))));
        assert_eq!(all.judge(source(2), now), Ok(()), "nobody else");
        assert_eq!(all.failed(bad, now), None, "what began before the ban makes it no longer");
        for expected in [2, 4, 8, 16, 32, 60, 60] {
            now += secs(60);
            assert_eq!((all.judge(bad, now), all.banned(now)), (Ok(()), 0));
            let (ban, failures) = fail(&mut all, bad, now);
            assert_eq!(ban, secs(expected));
            assert!(failures <= 60);
        }
        now += secs(60);
        assert_eq!(fail(&mut all, bad, now), (secs(60), 10), "right after a ban there are few");
        now += secs(60) + FORGIVEN;
        assert_eq!(fail(&mut all, bad, now), (secs(1), 60), "forgiven");
    }

    #[test]
    fn an_admission_ends_the_ban_and_its_doubling() {
        let (mut all, now) = (Conducts::new(&CONFIG), start());
        let mixed = source(1);
        fail(&mut all, mixed, now);
        all.admitted(mixed, now);
        assert_eq!((all.judge(mixed, now), all.banned(now)), (Ok(()), 0));
        all.left(mixed, now);
        let later = now + CREDIT;
        assert_eq!(fail(&mut all, mixed, later), (secs(1), 60));
    }

    #[test]
    fn an_address_of_admitted_clients_is_slowed_but_never_banned() {
        let (mut all, now) = (Conducts::new(&CONFIG), start());
        let site = source(1);
        all.admitted(site, now);
        for _ in 0..10_000 {
            assert_eq!(all.failed(site, now), None);
        }
        assert_eq!(all.judge(site, now), Err(TurnedAway::Slowed(Duration::from_millis(200))));
        assert_eq!(all.judge(site, now + Duration::from_millis(200)), Ok(()), "5 a second");
        // All sessions broke: the credit remains, and each return makes up for failures.
        all.left(site, now);
        assert_eq!(all.failed(site, now), None);
        let later = now + secs(1);
        assert_eq!(all.judge(site, later), Ok(()));
        all.admitted(site, later);
        for _ in 0..5 {
            all.failed(site, later);
            assert_eq!(all.judge(site, later), Ok(()));
        }
    }

    /// 1,000 devices come back at once from one address, and every tenth has an expired certificate and tries each second.
    #[test]
    fn a_site_behind_one_router_is_back_at_once_although_a_tenth_of_it_fails() {
        let (mut all, now) = (Conducts::new(&Config::default()), start());
        let site = source(1);
        for second in 0..10 {
            let now = now + secs(second);
            for device in 0..100 {
                assert_eq!(all.judge(site, now), Ok(()), "second {second}, device {device}");
                match device % 10 {
                    0 => assert_eq!(all.failed(site, now), None),
                    _ => all.admitted(site, now),
                }
            }
        }
    }

    #[test]
    fn the_table_is_bounded_and_a_ban_is_not_bought_with_other_addresses() {
        let (mut all, now) = (Conducts::new(&CONFIG), start());
        let (banned, home) = (source(1), source(2));
        for minute in 0..8 {
            fail(&mut all, banned, now + secs(60 * minute));
        }
        let now = now + secs(60 * 7);
        all.admitted(home, now);
        for number in 10..50_000 {
            all.failed(source(number), now);
        }
        assert!(all.by_source.len() <= TABLE_MAX + 1, "{}", all.by_source.len());
        assert!(all.judge(banned, now).is_err(), "still banned");
        all.left(home, now);
        assert!(all.by_source[&home].has_credit(now));
    }

    #[test]
    fn limits_that_are_off_ban_nobody() {
        let now = start();
        for config in
            [Config { failures_per_min: 0, ..CONFIG }, Config { ban_max: Duration::ZERO, ..CONFIG }]
        {
            let mut all = Conducts::new(&config);
            for _ in 0..1000 {
                assert_eq!(all.failed(source(1), now), None);
                assert_eq!(all.judge(source(1), now), Ok(()));
            }
        }
    }
}
