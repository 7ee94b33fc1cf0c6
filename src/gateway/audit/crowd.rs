//! What was turned away before it said who it is: counted for a minute, then a line for each source and reason.
//!
//! A connect that is turned away costs its maker nothing. With a line of 330 bytes each, a thousand in a second would push
//! every admission out of 16 MiB within a minute.
//!
//! Owns: [`Crowd`]. Invariants: in a [`PERIOD`] at most [`LIKES_MAX`] lines, and one for each reason of what is over that;
//! their counts add up to what was taken in. Must not know: files.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::auth::decision::{Decision, Outcome, Stage};
use crate::clock::UnixMillis;
use crate::front::limits::source::Source;

/// How long likes are counted.
pub(super) const PERIOD: Duration = Duration::from_secs(60);

/// Sources and reasons that have a line of their own in a period. With the 16 reasons of what is over that: 40 lines of
/// 400 bytes in a minute, so that 16 MiB are 17 hours of the worst flood; of an ordinary one, from an address or two, weeks.
pub(super) const LIKES_MAX: usize = 24;

/// What happened several times.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Likes {
    /// The last of them.
    pub(super) last: Decision,
    /// When the first was.
    pub(super) since: UnixMillis,
    /// How many.
    pub(super) times: u64,
    /// Whether they are of several sources, for which there was no line.
    pub(super) is_others: bool,
}

impl Likes {
    fn of(decision: Decision, is_others: bool) -> Self {
        Self { since: decision.at, last: decision, times: 1, is_others }
    }

    fn add(&mut self, decision: Decision) {
        self.last = decision;
        self.times += 1;
    }
}

type Reason = (Stage, &'static str);

/// See [the module](self).
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// When the period began; `None`: nothing was taken in since the last.
    since: Option<Instant>,
    /// A source is an address, or the /64 of an IPv6 address.
    likes: BTreeMap<(Reason, Option<Source>), Likes>,
    others: BTreeMap<Reason, Likes>,
    is_closed: bool,
}

impl Crowd {
    /// Whether such a decision is counted here; each other one has its own line.
    pub(super) fn concerns(decision: &Decision) -> bool {
        let is_refused = matches!(decision.outcome, Outcome::Refused { .. });
        is_refused && matches!(decision.stage, Stage::Accept | Stage::Tls)
    }

    /// Counts a refusal; `false`: it came too late.
    pub(super) fn take_in(&mut self, decision: Decision, now: Instant) -> bool {
        let Outcome::Refused { label, .. } = decision.outcome else { return false };
        if self.is_closed {
            return false;
        }
        self.since.get_or_insert(now);
        let reason = (decision.stage, label);
        let key = (reason, decision.peer.map(|peer| Source::of(peer.ip())));
        if let Some(likes) = self.likes.get_mut(&key) {
            likes.add(decision);
        } else if self.likes.len() < LIKES_MAX {
            self.likes.insert(key, Likes::of(decision, false));
        } else if let Some(others) = self.others.get_mut(&reason) {
            others.add(decision);
        } else {
            self.others.insert(reason, Likes::of(decision, true));
        }
        true
    }

    /// What was counted, if its period is over.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Likes> {
        match self.since {
            Some(since) if now.saturating_duration_since(since) >= PERIOD => self.take(),
            _ => Vec::new(),
        }
    }

    /// All that was counted; takes no more.
    pub(super) fn close(&mut self) -> Vec<Likes> {
        self.is_closed = true;
        self.take()
    }

    fn take(&mut self) -> Vec<Likes> {
        self.since = None;
        let likes = std::mem::take(&mut self.likes).into_values();
        likes.chain(std::mem::take(&mut self.others).into_values()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::auth::testing::NOW;
    use crate::clock::{Clock as _, SystemClock};

    fn refused(stage: Stage, label: &'static str, ip: &str, at: u64) -> Decision {
        Decision {
            at: UnixMillis(NOW.0 + at),
            stage,
            peer: Some((ip.parse::<IpAddr>().unwrap(), 4711).into()),
            claim: None,
            outcome: Outcome::Refused { label, detail: "why".to_owned(), hint: None },
            certificate: None,
        }
    }

    #[test]
    fn likes_are_of_one_source_and_reason_within_a_period() {
        let start = SystemClock.monotonic();
        let mut crowd = Crowd::default();
        let banned = |ip, at| refused(Stage::Accept, "address_banned", ip, at);
        for (at, decision) in [
            banned("192.0.2.1", 0),
            banned("::ffff:192.0.2.1", 1),
            banned("2001:db8::1", 2),
            banned("2001:db8::2", 3),
            refused(Stage::Tls, "crowded_out", "192.0.2.1", 4),
        ]
        .into_iter()
        .enumerate()
        {
            let now = start + Duration::from_secs(at as u64);
            assert!(Crowd::concerns(&decision) && crowd.take_in(decision, now));
        }
        assert_eq!(crowd.due(start + PERIOD - Duration::from_secs(1)), []);
        let told: Vec<_> = crowd
            .due(start + PERIOD)
            .into_iter()
            .map(|l| (l.last.peer.unwrap().ip().to_string(), l.since.0 - NOW.0, l.times))
            .collect();
        let expected = [("::ffff:192.0.2.1", 0, 2), ("2001:db8::2", 2, 2), ("192.0.2.1", 4, 1)];
        assert_eq!(told, expected.map(|(ip, at, times)| (ip.to_owned(), at, times)));
        assert_eq!(crowd.due(start + 9 * PERIOD), [], "each is told once");
        assert!(crowd.close().is_empty() && !crowd.take_in(banned("192.0.2.1", 5), start));
    }

    #[test]
    fn from_however_many_sources_the_lines_are_few_and_the_counts_add_up() {
        let start = SystemClock.monotonic();
        let mut crowd = Crowd::default();
        for n in 0..50_000_u32 {
            let ip = std::net::Ipv4Addr::from_bits(n).to_string();
            let label = if n % 2 == 0 { "address_banned" } else { "connections_max" };
            assert!(crowd.take_in(refused(Stage::Accept, label, &ip, 0), start));
        }
        let told = crowd.due(start + PERIOD);
        assert_eq!(told.len(), LIKES_MAX + 2);
        assert_eq!(told.iter().filter(|likes| likes.is_others).count(), 2);
        assert_eq!(told.iter().map(|likes| likes.times).sum::<u64>(), 50_000);
    }

    #[test]
    fn what_came_as_far_as_a_connect_has_its_own_line() {
        assert!(!Crowd::concerns(&refused(Stage::Connect, "disabled", "192.0.2.1", 0)));
    }
}
