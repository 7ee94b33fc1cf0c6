//! The decision: may this client be who it says it is?
//!
//! Owns: the order of the checks and the words of a refusal.
//! Invariants:
//! - While no scope is known the answer is [`RefusalCode::ServerUnavailable`] for everyone: the C SDK (and so Azure
//!   Sphere) comes back after 3, but gives up for good after 2 and 4 (iothub-protocol.md A3). 2 and 4 are never given.
//! - Cheap checks come first: an unknown name costs one lookup and no signature.
//! - The certificate's common name and the claim must lead to the *same* registered identity.
//!
//! Must not know: sockets, packets. Possession of the private key was proved in the TLS handshake (`front::tls`).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;
use subtle::ConstantTimeEq as _;

use super::admission::{Admission, Credential};
use super::bundle::{TrustBundle, VerifiedLeaf, X509Refusal};
use super::grace::{self, Ledger, Reach, Seen};
use super::policy::Policy;
use super::refusal::{Refusal, RefusalCode};
use super::scope::{AuthKind, Lookup, Scope, ScopeEntry, Status};
use super::token::{self, Signatories};
use super::x509::{self, CertificateInfo, Validity};
use crate::clock::{SharedClock, UnixMillis};
use crate::identity::{ClientName, DeviceId, Identity, ModuleId};

/// What a client offers.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    /// Who it says it is (user name and client id agree by now).
    pub claim: &'a ClientName,
    /// The CONNECT's password. An empty one counts as none: no token is empty, and some X.509 clients send it.
    pub password: Option<&'a [u8]>,
    /// The certificates of its TLS handshake, leaf first; empty when it presented none.
    pub chain: &'a [CertificateDer<'a>],
}

/// The password stays out of logs.
impl fmt::Debug for Attempt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("claim", &self.claim)
            .field("password", &self.password.map(|_| "***"))
            .field("certificates", &self.chain.len())
            .finish()
    }
}

/// The module that this gateway stands for.
const OWN_MODULE: &str = "$edgeHub";

/// What may be refused because of the time.
const BY_TIME: [&str; 5] =
    ["expired", "not_yet_valid", "intermediate_not_valid", "ca_not_valid", "sas_expired"];

/// Judges log-ins. Shared; the locks that a judgement takes (signatures that the bundle remembers, the ledger) are held
/// for a look alone.
pub struct Authenticator {
    bundle: ArcSwap<TrustBundle>,
    pub(super) scope: Arc<Scope>,
    pub(super) clock: SharedClock,
    pub(super) policy: Policy,
    pub(super) ledger: Ledger,
    pub(super) reach: Reach,
    /// It is at least this late, in milliseconds since 1970, whatever the clock says. Falls when the hub was heard.
    not_before_ms: AtomicU64,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("anchors", &self.bundle.load().entries().len())
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Judges by `bundle` and `scope`, at the time of `clock`, and by the default [`Policy`].
    pub fn new(bundle: TrustBundle, scope: Arc<Scope>, clock: SharedClock) -> Self {
        let (policy, ledger) = (Policy::default(), Ledger::default());
        let reach = Reach::away(clock.monotonic());
        let (bundle, not_before_ms) = (ArcSwap::from_pointee(bundle), AtomicU64::new(0));
        Self { bundle, scope, clock, policy, ledger, reach, not_before_ms }
    }

    /// Judges by `policy`.
    #[must_use]
    pub fn by(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// Notes in `ledger` who was let in, and grants graces by it.
    #[must_use]
    pub fn with_ledger(self, ledger: Ledger) -> Self {
        Self { ledger, ..self }
    }

    /// Takes `time` for the earliest possible: when the stored scope was written, for instance. A Raspberry Pi has no
    /// clock of its own and may boot in 1970, with nobody to ask. Until [`Authenticator::hub_was_heard`].
    #[must_use]
    pub fn not_before(self, time: UnixMillis) -> Self {
        Self { not_before_ms: AtomicU64::new(time.0), ..self }
    }

    /// The hub has proved itself, with a certificate that is valid by our clock: it is not earlier than the clock says. A
    /// time in a file that is later was written by a clock that was ahead.
    pub fn hub_was_heard(&self) {
        // One number on its own: no order with other memory is needed.
        self.not_before_ms.fetch_min(self.clock.wall().0, Ordering::Relaxed);
    }

    /// The earliest time that is possible.
    pub(super) fn earliest(&self) -> UnixMillis {
        UnixMillis(self.not_before_ms.load(Ordering::Relaxed))
    }

    /// Puts another bundle in force for the judgements from now on.
    pub fn replace_bundle(&self, bundle: TrustBundle) {
        self.bundle.store(Arc::new(bundle));
    }

    /// The bundle in force.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        self.bundle.load_full()
    }

    /// The time that counts: the clock's, or the earliest possible if that is later.
    pub fn now(&self) -> UnixMillis {
        self.clock.wall().max(self.earliest())
    }

    /// Judges one log-in. CPU-bound (a few signature checks), no IO.
    pub fn authenticate(&self, attempt: Attempt<'_>) -> Result<Admission, Refusal> {
        if !self.scope.is_known() {
            return Err(unknown_scope());
        }
        // The password wins over the certificate (edgehub.md 5.1), so that a client cannot pass as something that its
        // token does not say.
        match attempt.password.filter(|password| !password.is_empty()) {
            Some(password) => self.by_token(attempt.claim, password),
            None => self.by_certificate(attempt.claim, attempt.chain),
        }
    }

    fn by_token(&self, claim: &ClientName, password: &[u8]) -> Result<Admission, Refusal> {
        let token = token::read(password)?;
        let entry = self.entry_of(claim)?;
        let device = self.device_of(&entry.name);
        let signatories = Signatories { entry: &entry, device: device.as_deref() };
        let now = self.now();
        match signatories.judge(&token, &self.policy, now) {
            Ok(credential) => Ok(Admission {
                identity: Identity::vouched(entry.name.clone()),
                credential,
                since: now,
            }),
            Err(refusal) => Err(self.unless_clock(refusal)),
        }
    }

    fn by_certificate(
        &self,
        claim: &ClientName,
        chain: &[CertificateDer<'_>],
    ) -> Result<Admission, Refusal> {
        if !self.policy.certificates {
            return Err(Refusal::no(
                "certificates_off",
                "no token was presented, and certificates are switched off here (ClientCertAuthEnabled)",
            ));
        }
        if chain.is_empty() {
            return Err(Refusal::no(
                "no_credentials",
                "neither a certificate nor a token was presented",
            ));
        }
        if claim.module().is_some() {
            return Err(Refusal::no(
                "module_by_certificate",
                "modules cannot log in with a certificate (IoT Hub does not support it): use a token",
            ));
        }
        let entry = self.entry_of(claim)?;
        let now = self.now();
        let credential = self
            .judge_certificate(&entry, chain, now)
            .map_err(|refusal| self.unless_clock(refusal))?;
        let identity = Identity::vouched(entry.name.clone());
        Ok(Admission { identity, credential, since: now })
    }

    /// Whether a CA of the bundle says that the client is who it claims to be, whatever the scope says: then the name is no
    /// invented one.
    pub fn vouches(&self, attempt: Attempt<'_>) -> bool {
        self.vouches_at(attempt, self.now())
    }

    /// The same of now, or of the moment next to now at which the certificate itself was valid: a device whose certificate
    /// has ended is still no stranger.
    pub fn has_vouched(&self, attempt: Attempt<'_>) -> bool {
        let Some(leaf) = attempt.chain.first().and_then(|leaf| CertificateInfo::read(leaf).ok())
        else {
            return false;
        };
        let now = self.now().min(leaf.not_after).max(leaf.not_before);
        self.vouches_at(attempt, now)
    }

    fn vouches_at(&self, attempt: Attempt<'_>, now: UnixMillis) -> bool {
        attempt.claim.module().is_none()
            && !attempt.chain.is_empty()
            && self.bundle.load().verify(attempt.chain, now).is_ok_and(|leaf| {
                leaf.common_name.eq_ignore_ascii_case(attempt.claim.device().as_str())
            })
    }

    /// By a clock that is wrong nobody is refused for good: a certificate may be younger than the snapshot, and the
    /// snapshot may have been written when the clock was wrong the other way. What the clock has no part in stays refused,
    /// by its own reason: who has no certificate of ours is a stranger at any time.
    fn unless_clock(&self, refusal: Refusal) -> Refusal {
        let earliest = self.earliest();
        if self.clock.wall() >= earliest || !BY_TIME.contains(&refusal.label) {
            return refusal;
        }
        Refusal::later(
            "clock_not_set",
            format!(
                "{refusal}; but this machine's clock is behind {}, when the list of devices was stored: set it, or let it \
                 reach a time server; if it is right, it was ahead then: let this gateway reach the hub, which mends that",
                x509::utc(earliest)
            ),
        )
    }

    /// The claim's entry, if it may connect here at all.
    pub(super) fn entry_of(&self, claim: &ClientName) -> Result<Arc<ScopeEntry>, Refusal> {
        let entry = match self.scope.lookup(claim) {
            Lookup::Unknown => return Err(unknown_scope()),
            Lookup::NotInScope => {
                return Err(Refusal::no(
                    "not_in_scope",
                    format!(
                        "{claim} is not a child of edge device {} in IoT Hub: register it and set its parent device",
                        self.scope.edge()
                    ),
                ));
            }
            Lookup::Entry(entry) => entry,
        };
        if self.is_ours(&entry.name) {
            return Err(Refusal::no(
                "own_identity",
                format!("{} is this gateway itself: no client connects as it", entry.name),
            ));
        }
        if entry.status == Status::Disabled {
            return Err(Refusal::no(
                "disabled",
                format!("{} is disabled in IoT Hub: enable it there", entry.name),
            ));
        }
        if self.scope.auth_chain(&entry.name).is_none() {
            return Err(Refusal::no(
                "not_our_child",
                format!(
                    "{} is known, but not as an enabled child of edge device {} (its scope is {:?}): set its parent \
                     device",
                    entry.name,
                    self.scope.edge(),
                    entry.scope
                ),
            ));
        }
        Ok(entry)
    }

    /// The gateway itself, for messages of its own: `$edgeHub` of our edge device. This process is it; no client is let in
    /// under that name.
    pub fn ourselves(&self) -> Identity {
        let module = ModuleId::parse(OWN_MODULE).expect("a valid id");
        Identity::vouched(ClientName::Module(self.scope.edge().clone(), module))
    }

    /// Whether it is `$edgeHub` of our own edge device. What speaks as it is this process, to the hub alone.
    fn is_ours(&self, name: &ClientName) -> bool {
        name.module().is_some_and(|module| module.as_str() == OWN_MODULE)
            && name.device().as_str().eq_ignore_ascii_case(self.scope.edge().as_str())
    }

    /// A module's device, if it is enabled: its keys sign for its modules too.
    pub(super) fn device_of(&self, name: &ClientName) -> Option<Arc<ScopeEntry>> {
        name.module()?;
        match self.scope.lookup(&ClientName::Device(name.device().clone())) {
            Lookup::Entry(entry) => Some(entry).filter(|entry| entry.status == Status::Enabled),
            Lookup::Unknown | Lookup::NotInScope => None,
        }
    }

    fn judge_certificate(
        &self,
        entry: &ScopeEntry,
        chain: &[CertificateDer<'_>],
        now: UnixMillis,
    ) -> Result<Credential, Refusal> {
        match &entry.auth {
            AuthKind::CertificateAuthority => self.judge_by_ca(entry, chain, now),
            AuthKind::SelfSigned { thumbprints } => {
                judge_by_thumbprint(entry, thumbprints, chain, now)
            }
            AuthKind::Sas { .. } | AuthKind::None => Err(not_by_certificate(entry)),
        }
    }

    fn judge_by_ca(
        &self,
        entry: &ScopeEntry,
        chain: &[CertificateDer<'_>],
        now: UnixMillis,
    ) -> Result<Credential, Refusal> {
        let bundle = self.bundle.load();
        let (leaf, by_grace) = match bundle.verify(chain, now) {
            Ok(leaf) => (leaf, false),
            Err(X509Refusal::Expired { since }) => {
                let spared = self.spared(&bundle, entry.name.device(), chain, since, now);
                (spared.map_err(|e| x509_refusal(entry, &e))?, true)
            }
            Err(e) => return Err(x509_refusal(entry, &e)),
        };
        // Through the scope, not by comparing text: then two ids that differ in case only stay two identities.
        let named = DeviceId::parse(&leaf.common_name)
            .map(|id| self.scope.lookup(&ClientName::Device(id)))
            .is_ok_and(|found| matches!(found, Lookup::Entry(e) if e.name == entry.name));
        if !named {
            let common_name: String = leaf.common_name.escape_debug().take(160).collect();
            return Err(Refusal::no(
                "common_name",
                format!(
                    "the client says it is {}, but its certificate is for {common_name}: the common name must be the \
                     device id",
                    entry.name
                ),
            ));
        }
        let VerifiedLeaf { not_after, anchor_sha256, ca_sha256, .. } = leaf;
        if !by_grace && let Some(key_sha256) = chain.first().and_then(grace::key_digest) {
            self.ledger.note(entry.name.device(), Seen { key_sha256, ca_sha256, not_after });
        }
        Ok(Credential::CertificateAuthority {
            chain: TrustBundle::worth_keeping(chain),
            not_after,
            anchor_sha256,
            by_grace,
        })
    }

    /// A leaf that ended at `since` and is spared that: see [`grace`]. Else why not: that it ended, or that it was revoked.
    fn spared(
        &self,
        bundle: &TrustBundle,
        device: &DeviceId,
        chain: &[CertificateDer<'_>],
        since: UnixMillis,
        now: UnixMillis,
    ) -> Result<VerifiedLeaf, X509Refusal> {
        let expired = || X509Refusal::Expired { since };
        let away = self.reach.away_for(self.clock.monotonic());
        if !grace::is_open(&self.policy, since, now, away) {
            return Err(expired());
        }
        let leaf = bundle.verify_below(chain, since, now).map_err(|e| match e {
            // That is what there is to mend: with a new certificate alone it is not.
            X509Refusal::Revoked { .. } | X509Refusal::IntermediateRevoked { .. } => e,
            _ => expired(),
        })?;
        let key = chain.first().and_then(grace::key_digest).ok_or_else(expired)?;
        let seen = self.ledger.knows(device, &key, &leaf.ca_sha256);
        match grace::intermediates_are_valid(chain, now) && seen {
            true => Ok(leaf),
            false => Err(expired()),
        }
    }
}

/// By thumbprint (edgehub.md 7.3): the leaf's validity and its SHA-1 or SHA-256; the chain does not count.
fn judge_by_thumbprint(
    entry: &ScopeEntry,
    thumbprints: &[String],
    chain: &[CertificateDer<'_>],
    now: UnixMillis,
) -> Result<Credential, Refusal> {
    let leaf =
        chain.first().ok_or(X509Refusal::NoCertificate).map_err(|e| x509_refusal(entry, &e))?;
    let info = CertificateInfo::read(leaf)
        .map_err(|e| x509_refusal(entry, &X509Refusal::Malformed(e.to_string())))?;
    match info.validity(now) {
        Validity::Valid => {}
        Validity::Expired => {
            return Err(x509_refusal(entry, &X509Refusal::Expired { since: info.not_after }));
        }
        Validity::NotYet => {
            return Err(x509_refusal(entry, &X509Refusal::NotYetValid { from: info.not_before }));
        }
    }
    is_registered(entry, thumbprints, &info.sha1, &info.sha256)?;
    let CertificateInfo { sha1, sha256, not_after, .. } = info;
    Ok(Credential::Thumbprint { sha1, sha256, not_after })
}

/// Whether one of the two digests (lower-case hex) is registered, in any case, with or without separators.
pub(super) fn is_registered(
    entry: &ScopeEntry,
    thumbprints: &[String],
    sha1: &str,
    sha256: &str,
) -> Result<(), Refusal> {
    let known = |thumbprint: &String| {
        // Windows shows them with blanks, and puts an invisible mark in front of what is copied.
        let plain: String = thumbprint
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .collect();
        let is = |digest: &str| bool::from(plain.as_bytes().ct_eq(digest.as_bytes()));
        is(sha1) || is(sha256)
    };
    if thumbprints.iter().any(known) {
        return Ok(());
    }
    Err(Refusal::no(
        "thumbprint",
        format!(
            "the certificate of {} has the SHA-1 thumbprint {sha1}, which is not registered for it in IoT Hub",
            entry.name
        ),
    ))
}

pub(super) fn not_by_certificate(entry: &ScopeEntry) -> Refusal {
    Refusal::no(
        "not_a_certificate_device",
        format!(
            "{} is not registered for certificates: register it with the authentication type X.509 CA signed, or let it \
             connect with a token",
            entry.name
        ),
    )
}

pub(super) fn x509_refusal(entry: &ScopeEntry, reason: &X509Refusal) -> Refusal {
    Refusal::no(reason.label(), format!("the certificate of {} is refused: {reason}", entry.name))
}

fn unknown_scope() -> Refusal {
    Refusal::later(
        "scope_unknown",
        "the list of devices has not come from IoT Hub yet: devices may come back when this gateway has reached the \
         hub once",
    )
}

/// Whether a refusal only says that nothing is known.
pub(super) fn is_ignorance(refusal: &Refusal) -> bool {
    refusal.code == RefusalCode::ServerUnavailable
}

#[cfg(test)]
mod tests;
