//! Which refusals get a line in the log: a fleet that comes back every second must not flood it.
//!
//! Owns: [`Limiter`]. A refusal is told at once if its like (same address, claim and reason) was not told within
//! [`QUIET`]; else it is counted, and the count is told when that time is over. Whoever makes up names or has many addresses
//! uses up the lines of its reason, [`LINES_PER_REASON`] in [`QUIET`], and no other's.
//! Invariants: at most [`KEYS_MAX`] likes are remembered; nothing that was not told is forgotten without being counted.
//! Must not know: the log, the clock (time is handed in).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::auth::decision::Stage;
use crate::identity::ClientName;

/// How long a refusal's likes are counted instead of told.
pub(super) const QUIET: Duration = Duration::from_secs(60);

/// Lines for different peers and claims with the same reason, within [`QUIET`]. There are about 90 reasons: an attacker that
/// finds a way to all of those that are told has 18 lines a second.
pub(super) const LINES_PER_REASON: u32 = 12;

/// Likes that are remembered: 90 reasons with 12 each, of at most 300 bytes: 320 KiB.
pub(super) const KEYS_MAX: usize = 1080;

/// What makes two refusals alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) stage: Stage,
    pub(super) label: &'static str,
    pub(super) ip: Option<IpAddr>,
    pub(super) claim: Option<ClientName>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    more: u64,
}

#[derive(Debug)]
struct Budget {
    since: Instant,
    lines: u32,
    more: u64,
}

/// Refusals that were counted and not told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct More {
    /// Of whom; `None`: of several for whom there was no line.
    pub(super) of: Option<Key>,
    pub(super) stage: Stage,
    pub(super) label: &'static str,
    pub(super) count: u64,
}

/// See [the module](self).
#[derive(Debug, Default)]
pub(super) struct Limiter {
    told: HashMap<Key, Told>,
    budgets: HashMap<(Stage, &'static str), Budget>,
}

impl Limiter {
    /// Whether this refusal gets a line now; if not, it is counted.
    pub(super) fn may_tell(&mut self, key: Key, now: Instant) -> bool {
        if let Some(told) = self.told.get_mut(&key) {
            told.more += 1;
            return false;
        }
        let fresh = Budget { since: now, lines: 0, more: 0 };
        let budget = self.budgets.entry((key.stage, key.label)).or_insert(fresh);
        if budget.lines >= LINES_PER_REASON || self.told.len() >= KEYS_MAX {
            budget.more += 1;
            return false;
        }
        budget.lines += 1;
        self.told.insert(key, Told { at: now, more: 0 });
        true
    }

    /// What was counted and is due to be told; forgets what has been quiet.
    pub(super) fn due(&mut self, now: Instant) -> Vec<More> {
        self.take(|since| now.saturating_duration_since(since) >= QUIET)
    }

    /// All that was counted: at the end.
    pub(super) fn rest(&mut self) -> Vec<More> {
        self.take(|_| true)
    }

    fn take(&mut self, is_due: impl Fn(Instant) -> bool) -> Vec<More> {
        let told = self.told.extract_if(|_, told| is_due(told.at));
        let told = told.map(|(key, told)| {
            let (stage, label) = (key.stage, key.label);
            More { of: Some(key), stage, label, count: told.more }
        });
        let budgets = self.budgets.extract_if(|_, budget| is_due(budget.since));
        let budgets = budgets.map(|((stage, label), budget)| More {
            of: None,
            stage,
            label,
            count: budget.more,
        });
        told.chain(budgets).filter(|more| more.count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, SystemClock};
    use crate::identity::DeviceId;

    fn key(label: &'static str, peer: u8, claim: &str) -> Key {
        let claim = DeviceId::parse(claim).ok().map(ClientName::Device);
        Key { stage: Stage::Connect, label, ip: Some([192, 0, 2, peer].into()), claim }
    }

    #[test]
    fn a_fleet_that_comes_back_every_second_has_a_line_a_minute_each() {
        let start = SystemClock.monotonic();
        let mut limiter = Limiter::default();
        let (mut lines, mut counted) = (0, 0);
        for second in 0..180 {
            let now = start + Duration::from_secs(second);
            counted += limiter.due(now).iter().map(|more| more.count).sum::<u64>();
            for device in 0..10 {
                lines += u64::from(limiter.may_tell(key("disabled", device, "d"), now));
            }
        }
        counted += limiter.rest().iter().map(|more| more.count).sum::<u64>();
        assert_eq!((lines, lines + counted), (30, 1800), "each is told or counted");
        assert!(limiter.told.is_empty() && limiter.budgets.is_empty());
    }

    #[test]
    fn who_makes_names_up_uses_up_one_reason_and_a_bounded_memory() {
        let start = SystemClock.monotonic();
        let mut limiter = Limiter::default();
        let lines = (0..100_000)
            .filter(|n| limiter.may_tell(key("not_in_scope", 1, &format!("made-up-{n}")), start))
            .count();
        assert_eq!(lines, LINES_PER_REASON as usize);
        assert!(limiter.told.len() <= KEYS_MAX && limiter.budgets.len() == 1);
        assert!(limiter.may_tell(key("disabled", 2, "honest"), start), "another reason has lines");
        assert_eq!(limiter.due(start + QUIET / 2), []);
        let more = limiter.due(start + QUIET);
        let expected = More {
            of: None,
            stage: Stage::Connect,
            label: "not_in_scope",
            count: 100_000 - lines as u64,
        };
        assert_eq!(more, [expected]);
    }

    #[test]
    fn likes_are_the_same_address_claim_and_reason() {
        let now = SystemClock.monotonic();
        let mut limiter = Limiter::default();
        for (what, key, told) in [
            ("first", key("disabled", 1, "a"), true),
            ("again", key("disabled", 1, "a"), false),
            ("another address", key("disabled", 2, "a"), true),
            ("another claim", key("disabled", 1, "b"), true),
            ("no claim", key("disabled", 1, ""), true),
            ("another reason", key("expired", 1, "a"), true),
            ("another stage", Key { stage: Stage::Tls, ..key("disabled", 1, "a") }, true),
        ] {
            assert_eq!(limiter.may_tell(key, now), told, "{what}");
        }
        let [more] = &limiter.due(now + QUIET)[..] else { panic!("one was counted") };
        assert_eq!((more.of.as_ref(), more.count), (Some(&key("disabled", 1, "a")), 1));
    }
}
