//! Who is turned away in masses: counted for a minute, then a line for each source and reason.
//!
//! A connect that is turned away costs its maker nothing. With a line of 330 bytes each, a thousand in a second would push
//! every admission, and whatever else its maker has done, out of 16 MiB within a minute. Who came as far as a CONNECT said who
//! it is: a few of those have a line of their own.
//!
//! Owns: [`Crowd`]. Invariants: in a [`PERIOD`] at most [`OWN_MAX`] refusals are left to lines of their own, and at most
//! [`LIKES_MAX`] lines, and one for each reason of what is over that, stand for the others; their counts add up to what was
//! counted. Must not know: files.

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

/// CONNECTs of one source that have lines of their own in a period: whoever mistypes a key, or a device with an old one that
/// comes again each minute, is seen try by try.
pub(super) const OWN_OF_SOURCE_MAX: u32 = 10;

/// The same of all sources: with them it is 100 lines a minute at most, so that 16 MiB are 7 hours of the worst flood.
pub(super) const OWN_MAX: u32 = 60;

/// What becomes of a refusal.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is to have a line of its own.
    Line(Decision),
    /// It is counted here.
    Counted,
    /// It came too late.
    Late,
}

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
    /// Lines of their own, by source, and in all.
    own: BTreeMap<Option<Source>, u32>,
    own_all: u32,
    is_closed: bool,
}

impl Crowd {
    /// Judges a decision: what concerns who is in, and who has come in, has a line in any case.
    pub(super) fn take_in(&mut self, decision: Decision, now: Instant) -> Fate {
        let Outcome::Refused { label, .. } = decision.outcome else { return Fate::Line(decision) };
        if decision.stage == Stage::Session {
            return Fate::Line(decision);
        }
        if self.is_closed {
            return Fate::Late;
        }
        self.since.get_or_insert(now);
        let source = decision.peer.map(|peer| Source::of(peer.ip()));
        if decision.stage == Stage::Connect && self.has_own(source) {
            return Fate::Line(decision);
        }
        self.count(decision, label, source);
        Fate::Counted
    }

    /// Whether one more of the source has a line of its own.
    fn has_own(&mut self, source: Option<Source>) -> bool {
        if self.own_all == OWN_MAX {
            return false;
        }
        let of_source = self.own.entry(source).or_default();
        let has = *of_source < OWN_OF_SOURCE_MAX;
        *of_source += u32::from(has);
        self.own_all += u32::from(has);
        has
    }

    fn count(&mut self, decision: Decision, label: &'static str, source: Option<Source>) {
        let reason = (decision.stage, label);
        let key = (reason, source);
        if let Some(likes) = self.likes.get_mut(&key) {
            likes.add(decision);
        } else if self.likes.len() < LIKES_MAX {
            self.likes.insert(key, Likes::of(decision, false));
        } else if let Some(others) = self.others.get_mut(&reason) {
            others.add(decision);
        } else {
            self.others.insert(reason, Likes::of(decision, true));
        }
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
        (self.since, self.own_all) = (None, 0);
        self.own.clear();
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
            assert!(matches!(crowd.take_in(decision, now), Fate::Counted));
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
        assert!(crowd.close().is_empty());
        assert!(matches!(crowd.take_in(banned("192.0.2.1", 5), start), Fate::Late));
    }

    #[test]
    fn from_however_many_sources_the_lines_are_few_and_the_counts_add_up() {
        let start = SystemClock.monotonic();
        let mut crowd = Crowd::default();
        for n in 0..50_000_u32 {
            let ip = std::net::Ipv4Addr::from_bits(n).to_string();
            let label = if n % 2 == 0 { "address_banned" } else { "connections_max" };
            let fate = crowd.take_in(refused(Stage::Accept, label, &ip, 0), start);
            assert!(matches!(fate, Fate::Counted));
        }
        let told = crowd.due(start + PERIOD);
        assert_eq!(told.len(), LIKES_MAX + 2);
        assert_eq!(told.iter().filter(|likes| likes.is_others).count(), 2);
        assert_eq!(told.iter().map(|likes| likes.times).sum::<u64>(), 50_000);
    }

    #[test]
    fn of_what_came_as_far_as_a_connect_a_few_have_lines_of_their_own() {
        let start = SystemClock.monotonic();
        let mut crowd = Crowd::default();
        let mut lines = |stage, n: u32, times: u32, at| {
            let ip = std::net::Ipv4Addr::from_bits(n).to_string();
            let refusals = (0..times).map(|_| refused(stage, "disabled", &ip, 0));
            let fates = refusals.map(|decision| crowd.take_in(decision, at));
            let own = fates.filter(|fate| matches!(fate, Fate::Line(_))).count();
            (own, crowd.due(at).iter().map(|likes| likes.times).collect::<Vec<_>>())
        };
        assert_eq!(lines(Stage::Connect, 1, 100, start), (10, vec![]), "of one source");
        assert_eq!(lines(Stage::Connect, 1, 1, start), (0, vec![]));
        for n in 2..7 {
            assert_eq!(lines(Stage::Connect, n, 10, start), (10, vec![]));
        }
        assert_eq!(lines(Stage::Connect, 7, 3, start), (0, vec![]), "of all");
        assert_eq!(lines(Stage::Session, 1, 3, start), (3, vec![]), "they were in");
        let (own, counted) = lines(Stage::Connect, 8, 1, start + PERIOD);
        assert_eq!((own, counted), (0, vec![91, 3, 1]), "the counts add up");
        assert_eq!(lines(Stage::Connect, 1, 100, start + PERIOD).0, 10, "the next minute");
    }
}
