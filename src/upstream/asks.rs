//! How often the hub is asked about single names: enough for a new device, not enough for an attacker.
//!
//! Owns: the counts. Invariants: memory is bounded whatever names and addresses come; a name that cannot be proved takes nothing
//! from those that a certificate of a trusted CA vouches for; no address takes more than its share.
//! Must not know: what is asked, how time passes.
//!
//! The measure: IoT Hub (S1) allows 100 registry operations a minute and unit. At worst we ask 10 + 30 times a minute. Whom the
//! counts put off gets in by the next whole refresh. That is due at most every two minutes, and while such refreshes bring
//! nothing new ever more seldom, down to the regular one ([`super::demand`]). A name of which the hub says nothing new is asked
//! for 30 times on the first day (after 2, 4, 8, 16, 32 and then each 60 minutes), where each 2 minutes would be 720.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::auth::question::Question;
use crate::identity::ClientName;

/// Names of which is known that they were asked for, the oldest go: 4,096 of at most 300 bytes are 1.2 MB.
const NAMES_MAX: usize = 4096;
/// Addresses that have a share of their own; all others have one together.
const SOURCES_MAX: usize = 1024;

/// Longest wait before a name is asked for again to which the hub keeps saying nothing new.
const NAME_GAP_MAX: Duration = Duration::from_secs(3600);

/// At once, and a minute.
const VOUCHED: (f64, f64) = (30.0, 30.0);
const UNPROVED: (f64, f64) = (20.0, 10.0);
/// Of the unproved, for one address: half of them.
const SHARE: (f64, f64) = (5.0, 5.0);

/// Why the hub is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Withheld {
    /// It was, a moment ago.
    Recent,
    /// This address has asked too much.
    Share,
    /// All together have.
    Spent,
}

impl Withheld {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Recent => "recent",
            Self::Share => "share_spent",
            Self::Spent => "spent",
        }
    }
}

/// A bucket of asks that fills with time.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full((burst, _): (f64, f64), now: Instant) -> Self {
        Self { left: burst, at: now }
    }

    fn fill(&mut self, (burst, a_minute): (f64, f64), now: Instant) {
        let minutes = now.saturating_duration_since(self.at).as_secs_f64() / 60.0;
        self.left = (self.left + minutes * a_minute).min(burst);
        self.at = now;
    }

    fn has_one(&mut self, size: (f64, f64), now: Instant) -> bool {
        self.fill(size, now);
        self.left >= 1.0
    }
}

/// When a name was asked for last.
#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    /// It is not asked for again before.
    gap: Duration,
    /// The gap after the next ask.
    next: Duration,
    is_vouched: bool,
}

/// What was asked.
#[derive(Debug)]
pub(super) struct Asks {
    gap: Duration,
    gap_max: Duration,
    recent: HashMap<ClientName, Asked>,
    order: VecDeque<(Instant, ClientName)>,
    vouched: Bucket,
    unproved: Bucket,
    shares: HashMap<IpAddr, Bucket>,
}

impl Asks {
    /// A name is asked for once in `gap`; in twice that when the last answer was of no use, up to an hour.
    pub(super) fn new(gap: Duration, now: Instant) -> Self {
        Self {
            gap,
            gap_max: gap.max(NAME_GAP_MAX),
            recent: HashMap::new(),
            order: VecDeque::new(),
            vouched: Bucket::full(VOUCHED, now),
            unproved: Bucket::full(UNPROVED, now),
            shares: HashMap::new(),
        }
    }

    /// Counts an ask, if it may be made.
    pub(super) fn admit(&mut self, question: &Question, now: Instant) -> Result<(), Withheld> {
        self.expire(now);
        let asked = self.recent.get(&question.name).copied();
        // Nobody who only claims a name may put off the one who has its certificate.
        let is_put_off = |asked: &Asked| asked.is_vouched || !question.is_vouched;
        if let Some(asked) = asked {
            let gap = if is_put_off(&asked) { asked.gap } else { self.gap };
            if now.saturating_duration_since(asked.at) < gap {
                return Err(Withheld::Recent);
            }
        }
        if question.is_vouched {
            if !self.vouched.has_one(VOUCHED, now) {
                return Err(Withheld::Spent);
            }
            self.vouched.left -= 1.0;
        } else {
            if !self.unproved.has_one(UNPROVED, now) {
                return Err(Withheld::Spent);
            }
            let share = self.share(question.source, now);
            if !share.has_one(SHARE, now) {
                return Err(Withheld::Share);
            }
            share.left -= 1.0;
            self.unproved.left -= 1.0;
        }
        let gap = asked.filter(is_put_off).map_or(self.gap, |asked| asked.next);
        let is_vouched = question.is_vouched;
        self.remember(&question.name, Asked { at: now, gap, next: self.gap, is_vouched });
        Ok(())
    }

    /// The name was asked for, by whoever.
    pub(super) fn note(&mut self, name: &ClientName, now: Instant) {
        let gap = self.gap;
        self.remember(name, Asked { at: now, gap, next: gap, is_vouched: false });
    }

    /// The answer was of no use: whoever it is waits longer the next time.
    pub(super) fn was_in_vain(&mut self, name: &ClientName) {
        if let Some(asked) = self.recent.get_mut(name) {
            asked.next = (asked.gap * 2).min(self.gap_max);
        }
    }

    fn remember(&mut self, name: &ClientName, asked: Asked) {
        if self.gap.is_zero() {
            return;
        }
        while self.order.len() >= NAMES_MAX {
            self.drop_oldest();
        }
        self.order.push_back((asked.at, name.clone()));
        self.recent.insert(name.clone(), asked);
    }

    /// There was no answer: it may be asked for again.
    pub(super) fn forget(&mut self, name: &ClientName) {
        self.recent.remove(name);
    }

    fn expire(&mut self, now: Instant) {
        // Longer than the longest gap, so that who comes each time it is over goes on from there.
        let kept = self.gap_max * 2;
        let over = |at: Instant| now.saturating_duration_since(at) >= kept;
        while self.order.front().is_some_and(|(at, _)| over(*at)) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        // One that was forgotten and asked for again is there twice: its later time counts.
        if let Some((at, name)) = self.order.pop_front()
            && self.recent.get(&name).is_some_and(|asked| asked.at == at)
        {
            self.recent.remove(&name);
        }
    }

    fn share(&mut self, source: IpAddr, now: Instant) -> &mut Bucket {
        let mut source = network(source);
        if !self.shares.contains_key(&source) && self.shares.len() >= SOURCES_MAX {
            self.shares.retain(|_, share| {
                share.fill(SHARE, now);
                share.left < SHARE.0
            });
            if self.shares.len() >= SOURCES_MAX {
                source = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            }
        }
        self.shares.entry(source).or_insert_with(|| Bucket::full(SHARE, now))
    }
}

/// A host has a whole /64 of IPv6 addresses to choose from.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::identity::DeviceId;

    const GAP: Duration = Duration::from_secs(120);

    fn question(id: &str, source: &str, is_vouched: bool) -> Question {
        let name = ClientName::Device(DeviceId::parse(id).unwrap());
        Question { name, source: source.parse().unwrap(), is_vouched }
    }

    fn asks() -> (Asks, Instant) {
        let now = clock::system().monotonic();
        (Asks::new(GAP, now), now)
    }

    #[test]
    fn a_name_is_asked_for_once_in_the_gap_unless_there_was_no_answer() {
        let (mut asks, t0) = asks();
        let d = question("d", "10.0.0.1", false);
        let after = |secs| t0 + Duration::from_secs(secs);
        assert_eq!(asks.admit(&d, t0), Ok(()));
        assert_eq!(asks.admit(&d, after(119)), Err(Withheld::Recent));
        assert_eq!(asks.admit(&d, after(120)), Ok(()));
        asks.forget(&d.name);
        assert_eq!(asks.admit(&d, after(121)), Ok(()));
        assert_eq!(asks.admit(&d, after(240)), Err(Withheld::Recent), "the later time counts");
        assert_eq!(asks.admit(&d, after(241)), Ok(()));
    }

    /// Promise: one stranger, however often it comes, is asked for less and less often.
    #[test]
    fn a_name_of_which_there_is_nothing_new_is_asked_for_ever_more_seldom() {
        let (mut asks, t0) = asks();
        let claimed = question("gone", "10.0.0.1", false);
        let mut made = Vec::new();
        for secs in 0..86_400 {
            if asks.admit(&claimed, t0 + Duration::from_secs(secs)).is_ok() {
                made.push(secs);
                asks.was_in_vain(&claimed.name);
            }
        }
        assert_eq!(made[..8], [0, 120, 360, 840, 1800, 3720, 7320, 10_920]);
        assert!(made.len() < 30, "{}", made.len());

        // Who has the certificate does not wait for that, and waits for its own asks in vain.
        let owner = question("gone", "10.0.0.2", true);
        let last = t0 + Duration::from_secs(*made.last().unwrap());
        assert_eq!(asks.admit(&owner, last + GAP - Duration::from_secs(1)), Err(Withheld::Recent));
        let mut at = last + GAP;
        assert_eq!(asks.admit(&owner, at), Ok(()));
        asks.was_in_vain(&owner.name);
        at += GAP;
        assert_eq!(asks.admit(&owner, at), Ok(()));
        assert_eq!(asks.admit(&owner, at + GAP), Err(Withheld::Recent));
        // That one was not in vain.
        at += GAP * 2;
        assert_eq!(asks.admit(&owner, at), Ok(()));
        assert_eq!(asks.admit(&owner, at + GAP), Ok(()));
    }

    #[test]
    fn one_address_takes_its_share_and_leaves_the_others_theirs() {
        let (mut asks, t0) = asks();
        let mut made = 0;
        let mut withheld = None;
        for n in 0..10_000 {
            match asks.admit(&question(&format!("x{n}"), "10.0.0.66", false), t0) {
                Ok(()) => made += 1,
                Err(why) => withheld = Some(why),
            }
        }
        assert_eq!((made, withheld), (5, Some(Withheld::Share)));
        assert_eq!(asks.admit(&question("new", "10.0.0.1", false), t0), Ok(()));
    }

    #[test]
    fn many_addresses_spend_what_is_unproved_and_nothing_of_what_is_vouched_for() {
        let (mut asks, t0) = asks();
        let mut made = 0;
        for n in 0..10_000_u32 {
            let source = std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string();
            made += u32::from(asks.admit(&question(&format!("x{n}"), &source, false), t0).is_ok());
        }
        assert_eq!(made, 20);
        assert!(asks.shares.len() <= SOURCES_MAX + 1 && asks.recent.len() == 20);
        let new = |is_vouched| question("new", "10.1.0.1", is_vouched);
        assert_eq!(asks.admit(&new(false), t0), Err(Withheld::Spent));
        assert_eq!(asks.admit(&new(true), t0), Ok(()));
        let later = t0 + Duration::from_secs(60);
        let again = (0..100).filter(|n| {
            let source = format!("10.2.0.{n}");
            asks.admit(&question(&format!("y{n}"), &source, false), later).is_ok()
        });
        assert_eq!(again.count(), 10, "so many a minute");
    }

    #[test]
    fn an_ipv6_host_is_one_address_however_many_it_takes() {
        let (mut asks, t0) = asks();
        let made = (0..100).filter(|n| {
            let source = format!("2001:db8::{n:x}");
            asks.admit(&question(&format!("x{n}"), &source, false), t0).is_ok()
        });
        assert_eq!(made.count(), 5);
        let mapped = question("m", "::ffff:10.0.0.1", false);
        assert_eq!(network(mapped.source), "10.0.0.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn memory_is_bounded() {
        let (mut asks, t0) = asks();
        for n in 0..10_000 {
            asks.note(&ClientName::Device(DeviceId::parse(&format!("d{n}")).unwrap()), t0);
        }
        assert_eq!((asks.recent.len(), asks.order.len()), (NAMES_MAX, NAMES_MAX));
        let first = question("d0", "10.0.0.1", true);
        assert_eq!(asks.admit(&first, t0), Ok(()), "the oldest went");
    }
}
