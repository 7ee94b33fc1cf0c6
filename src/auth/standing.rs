//! Whether a client that was let in may stay: its proof, judged again without the client.
//!
//! Owns: the rules for live sessions (edgehub.md 7.6), and the look ahead over their certificates.
//! Invariants: what is not known (no scope, no keys) changes nothing; the end of a leaf alone cuts nobody while the hub is
//! away ([`super::grace`]). Must not know: connections.

use std::io;
use std::sync::Arc;

use super::admission::{Admission, Credential};
use super::authenticator::{
    Authenticator, is_ignorance, is_registered, not_by_certificate, x509_refusal,
};
use super::bundle::{TrustBundle, X509Refusal};
use super::grace::{self, Horizon};
use super::policy::GRACE_MAX;
use super::refusal::Refusal;
use super::scope::{AuthKind, Lookup, ScopeEntry};
use super::token::Signatories;
use crate::clock::UnixMillis;
use crate::identity::ClientName;

impl Authenticator {
    /// Whether the scope in force still lets the client in: registered, enabled, our child, of the same type.
    /// While no scope is known nothing has changed.
    pub fn still_admits(&self, admission: &Admission) -> bool {
        match self.entry_of(admission.identity.name()) {
            Ok(entry) => self.judge_kind(&entry, &admission.credential).is_ok(),
            Err(refusal) => is_ignorance(&refusal),
        }
    }

    /// Judges a live session at `now` (see [`Authenticator::now`]): scope, key or thumbprint, chain, time.
    ///
    /// # Errors
    /// Why it has to end.
    pub fn judge_standing(&self, admission: &Admission, now: UnixMillis) -> Result<(), Refusal> {
        let entry = match self.entry_of(admission.identity.name()) {
            Err(refusal) if is_ignorance(&refusal) => return Ok(()),
            entry => entry?,
        };
        self.judge_kind(&entry, &admission.credential)?;
        match (&admission.credential, &entry.auth) {
            (Credential::Token { expires_secs, key_sha256, by_device }, _) => {
                let device = self.device_of(&entry.name);
                let signatories = Signatories { entry: &entry, device: device.as_deref() };
                let key = (key_sha256, *by_device);
                signatories.judge_standing(*expires_secs, key, &self.policy, now)
            }
            (Credential::Thumbprint { sha1, sha256, not_after }, auth) => {
                if let AuthKind::SelfSigned { thumbprints } = auth {
                    is_registered(&entry, thumbprints, sha1, sha256)?;
                }
                self.judge_leaf_end(&entry, *not_after, now)
            }
            (Credential::CertificateAuthority { not_after, .. }, _) => {
                self.would_stay(&self.bundle(), admission, now)?;
                self.judge_leaf_end(&entry, *not_after, now)
            }
        }
    }

    /// Judges a live session under a bundle that is not in force yet: by its chain, which must hold now, when its leaf
    /// ended, or when it was let in. (Now: a renewed CA in place of the old one may be younger than the session. Then: what
    /// has ended meanwhile is no reason.) The CA of the bundle may hold now instead: it may have been renewed since. Who did
    /// not come in by a CA stays.
    ///
    /// # Errors
    /// Why it would have to end.
    pub fn would_stay(
        &self,
        bundle: &TrustBundle,
        admission: &Admission,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        let Credential::CertificateAuthority { chain, not_after, .. } = &admission.credential
        else {
            return Ok(());
        };
        // As at the log-in: this machine may have booted without a clock. By a grace it was let in after the end.
        let last = |time: UnixMillis| time.max(self.earliest()).min(*not_after);
        let now = now.max(self.earliest());
        let holds = |then: UnixMillis| {
            let renewed = || bundle.verify_below(chain, then, now);
            renewed().or_else(|_| bundle.verify(chain, then))
        };
        let held =
            holds(now).or_else(|_| holds(last(now))).or_else(|_| holds(last(admission.since)));
        held.map(drop).map_err(|reason| {
            let name = &admission.identity;
            let detail = format!("the certificate of {name} no longer counts: {reason}");
            Refusal::no(reason.label(), detail)
        })
    }

    /// Tells whether the hub is reached: the rules for leafs that have ended go by it.
    pub fn hub_is_reached(&self, reached: bool) {
        if reached {
            self.hub_was_heard();
        }
        self.reach.set(reached, self.clock.monotonic(), self.policy.away_after);
    }

    /// Whether the hub counts as away, not merely as reconnecting.
    pub fn is_hub_away(&self) -> bool {
        let away = self.reach.away_for(self.clock.monotonic());
        away.is_some_and(|away| away >= self.policy.away_after)
    }

    /// When the first token of those that were let in no longer counts, in seconds since 1970; `None` = no tokens.
    pub fn next_token_end_secs(&self, live: &[Arc<Admission>]) -> Option<u64> {
        let ends = live.iter().filter_map(|admission| match admission.credential {
            Credential::Token { expires_secs, .. } => Some(expires_secs),
            _ => None,
        });
        Some(ends.min()?.saturating_add(self.policy.clock_skew.as_secs()))
    }

    /// Who could no longer come back, and when: of those that are connected, and of those seen before.
    pub fn horizon(&self, live: &[Arc<Admission>]) -> Horizon {
        let live = live.iter().filter_map(|admission| match &admission.credential {
            Credential::CertificateAuthority { not_after, .. }
            | Credential::Thumbprint { not_after, .. } => {
                Some((admission.identity.device().clone(), *not_after))
            }
            Credential::Token { .. } => None,
        });
        let ends = self.ledger.ends().into_iter().chain(live);
        Horizon::of(ends, self.policy.expired_leaf_grace, self.now())
    }

    /// Puts the ledger on disk, without those that no grace could serve any more. Blocks on the disk.
    ///
    /// # Errors
    /// The old file stays; the next call tries again.
    pub fn save_ledger(&self) -> io::Result<()> {
        let now = self.now();
        self.ledger.prune(|device, end| {
            let found = self.scope.lookup(&ClientName::Device(device.clone()));
            found != Lookup::NotInScope && end.plus(GRACE_MAX) >= now
        });
        self.ledger.save()
    }

    /// Whether the registered type is still the one of the proof.
    fn judge_kind(&self, entry: &ScopeEntry, credential: &Credential) -> Result<(), Refusal> {
        match (credential, &entry.auth) {
            // Whether tokens are taken is for the keys to say: a module may be signed for by its device.
            (Credential::Token { expires_secs: _, key_sha256: _, by_device: _ }, _) => {
                let device = self.device_of(&entry.name);
                Signatories { entry, device: device.as_deref() }.takes_tokens()
            }
            (Credential::CertificateAuthority { .. }, AuthKind::CertificateAuthority)
            | (Credential::Thumbprint { .. }, AuthKind::SelfSigned { .. }) => Ok(()),
            _ => Err(not_by_certificate(entry)),
        }
    }

    fn judge_leaf_end(
        &self,
        entry: &ScopeEntry,
        not_after: UnixMillis,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        let reached = self.reach.reached_for(self.clock.monotonic());
        if grace::may_stay(&self.policy, not_after, now, reached) {
            return Ok(());
        }
        Err(x509_refusal(entry, &X509Refusal::Expired { since: not_after }))
    }
}

#[cfg(test)]
mod tests;
