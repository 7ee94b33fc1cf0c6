//! Certificates that end while the Internet is away.
//!
//! Azure Sphere's leafs live for 24 hours and are renewed over the Internet, so that an outage of a day would lock every
//! device out of its own gateway. Two rules, and a look ahead:
//!
//! - A *live session* is never cut because its leaf ended while the hub is away; when the hub is back the device gets
//!   [`Policy::renewal_time`] to come again with a new one.
//! - A *reconnect* with an ended leaf is refused, unless a grace is set ([`Policy::expired_leaf_grace`]) and the hub is
//!   away, and this device was let in with this key by this CA before: [`Ledger`].
//! - The [`Horizon`]: who could no longer come back, and from when on.
//!
//! Owns: whether the hub is away ([`Reach`]), the ledger, the horizon. Invariants: grace spares a leaf its end and nothing
//! else; everything that would refuse it a second before its end refuses it now. Must not know: the upstream, metrics.

mod horizon;
mod ledger;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

pub use self::horizon::Horizon;
pub(super) use self::ledger::Seen;
pub use self::ledger::{DEVICES_MAX, Ledger, LedgerLoaded};
use super::policy::Policy;
use super::x509::{self, CertificateInfo, Validity};
use crate::clock::UnixMillis;

/// Since when the hub is reached, or is not.
#[derive(Debug)]
pub(super) struct Reach(Mutex<Link>);

#[derive(Debug, Clone, Copy)]
struct Link {
    reached: bool,
    /// It came, or went, then.
    since: Instant,
    /// Since when it is, or was, reached but for absences that were too short to count; `None` = it never was.
    steady_since: Option<Instant>,
}

impl Reach {
    /// Away, since `now`: a gateway begins so.
    pub(super) fn away(now: Instant) -> Self {
        Self(Mutex::new(Link { reached: false, since: now, steady_since: None }))
    }

    /// An absence shorter than `away_after` is a reconnect, not an outage: the time to renew goes on after it. Otherwise an
    /// uplink that flaps would keep ended leafs for ever.
    pub(super) fn set(&self, reached: bool, now: Instant, away_after: Duration) {
        let mut link = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if link.reached == reached {
            return;
        }
        if reached {
            let was_away = now.saturating_duration_since(link.since) >= away_after;
            let steady = link.steady_since.filter(|_| !was_away);
            link.steady_since = Some(steady.unwrap_or(now));
        }
        (link.reached, link.since) = (reached, now);
    }

    /// For how long it is reached, reconnects included; `None` = it is not now.
    pub(super) fn reached_for(&self, now: Instant) -> Option<Duration> {
        let link = self.get();
        let since = link.steady_since.filter(|_| link.reached)?;
        Some(now.saturating_duration_since(since))
    }

    /// For how long it is not reached; `None` = it is.
    pub(super) fn away_for(&self, now: Instant) -> Option<Duration> {
        let link = self.get();
        (!link.reached).then(|| now.saturating_duration_since(link.since))
    }

    fn get(&self) -> Link {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a session whose leaf ended at `not_after` may go on. `reached`: how long the hub is reached, if it is.
pub(super) fn may_stay(
    policy: &Policy,
    not_after: UnixMillis,
    now: UnixMillis,
    reached: Option<Duration>,
) -> bool {
    let over = Duration::from_secs(now.as_secs().saturating_sub(not_after.as_secs()));
    match reached {
        None => true,
        // In whole seconds, as validity is counted.
        Some(reached) => Duration::from_secs(reached.as_secs()).min(over) <= policy.renewal_time,
    }
}

/// Whether a grace is open now for a leaf that ended at `not_after`. `away`: how long the hub is away, if it is.
pub(super) fn is_open(
    policy: &Policy,
    not_after: UnixMillis,
    now: UnixMillis,
    away: Option<Duration>,
) -> bool {
    let over = Duration::from_secs(now.as_secs().saturating_sub(not_after.as_secs()));
    !policy.expired_leaf_grace.is_zero()
        && over <= policy.expired_leaf_grace
        && away.is_some_and(|away| away >= policy.away_after)
}

/// Whether the CAs that a client presented still are within their time: grace is for leafs.
pub(super) fn intermediates_are_valid(chain: &[CertificateDer<'_>], now: UnixMillis) -> bool {
    let valid = |der: &CertificateDer<'_>| {
        CertificateInfo::read(der).is_ok_and(|info| info.validity(now) == Validity::Valid)
    };
    chain.iter().skip(1).all(valid)
}

/// SHA-256 of a certificate's public key (its SubjectPublicKeyInfo): what stays when a device renews.
pub(super) fn key_digest(leaf: &CertificateDer<'_>) -> Option<[u8; 32]> {
    x509::parse(leaf).ok().map(|leaf| Sha256::digest(leaf.public_key().raw).into())
}

#[cfg(test)]
mod tests;
