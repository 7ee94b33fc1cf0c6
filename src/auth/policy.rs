//! What the user decided about log-ins.
//!
//! Owns: [`Policy`] and its defaults. Must not know: where it is configured.

use std::time::Duration;

use crate::iothub::sas::CLOCK_SKEW_DEFAULT;

/// Longest grace for an expired leaf: two weeks without the Internet are an outage, more is a site without it.
pub const GRACE_MAX: Duration = Duration::from_secs(14 * 86_400);

/// Rules of a judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Hosts that a token may be made for: the hub, this gateway. Compared without regard to case.
    pub hosts: Vec<String>,
    /// How long after its end a token still counts.
    pub clock_skew: Duration,
    /// Whether clients may log in with certificates at all.
    pub certificates: bool,
    /// How long after its end a leaf still lets its device come back while the hub is away; zero = not at all. At most
    /// [`GRACE_MAX`].
    pub expired_leaf_grace: Duration,
    /// How long a session goes on with an expired leaf while the hub is reached, so that its device can fetch a new one.
    pub renewal_time: Duration,
    /// From when on an upstream that is down counts as away: a mere reconnect does not.
    pub away_after: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            clock_skew: CLOCK_SKEW_DEFAULT,
            certificates: true,
            expired_leaf_grace: Duration::ZERO,
            renewal_time: Duration::from_secs(1800),
            away_after: Duration::from_secs(20),
        }
    }
}
