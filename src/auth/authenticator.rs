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

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;

use super::admission::{Admission, Credential};
use super::bundle::{TrustBundle, X509Refusal};
use super::scope::{AuthKind, Lookup, Scope, ScopeEntry, Status};
use super::x509::{CertificateInfo, Validity};
use crate::clock::{SharedClock, UnixMillis};
use crate::identity::{ClientName, DeviceId, Identity};

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

/// CONNACK return codes of a refusal [MQTT-3.2.2-4].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RefusalCode {
    /// 3: we cannot judge now; come back.
    ServerUnavailable = 3,
    /// 5: judged and refused.
    NotAuthorized = 5,
}

/// A refused log-in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// What the CONNACK says.
    pub code: RefusalCode,
    /// Short label for counters, out of a closed list.
    pub label: &'static str,
    /// Plain words for the log: what is wrong and what to do next.
    pub detail: String,
}

impl Refusal {
    /// Whether the scope is why: a fresher one from the hub may judge otherwise.
    pub fn is_by_scope(&self) -> bool {
        const LABELS: [&str; 5] =
            ["not_in_scope", "disabled", "not_our_child", "not_a_certificate_device", "thumbprint"];
        LABELS.contains(&self.label)
    }

    fn no(label: &'static str, detail: impl Into<String>) -> Self {
        Self { code: RefusalCode::NotAuthorized, label, detail: detail.into() }
    }

    fn later(label: &'static str, detail: impl Into<String>) -> Self {
        Self { code: RefusalCode::ServerUnavailable, label, detail: detail.into() }
    }
}

/// The module that this gateway stands for.
const OWN_MODULE: &str = "$edgeHub";

/// Judges log-ins. Shared; a judgement takes no lock but for a look at the signatures that the bundle remembers.
pub struct Authenticator {
    bundle: ArcSwap<TrustBundle>,
    scope: Arc<Scope>,
    clock: SharedClock,
    /// It is at least this late, whatever the clock says.
    not_before: UnixMillis,
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
    /// Judges by `bundle` and `scope`, at the time of `clock`.
    pub fn new(bundle: TrustBundle, scope: Arc<Scope>, clock: SharedClock) -> Self {
        Self { bundle: ArcSwap::from_pointee(bundle), scope, clock, not_before: UnixMillis(0) }
    }

    /// Takes `time` for the earliest possible: when the stored scope was written, for instance. A Raspberry Pi has no
    /// clock of its own and may boot in 1970, with nobody to ask.
    #[must_use]
    pub fn not_before(self, time: UnixMillis) -> Self {
        Self { not_before: time, ..self }
    }

    /// Puts another bundle in force for the judgements from now on.
    pub fn replace_bundle(&self, bundle: TrustBundle) {
        self.bundle.store(Arc::new(bundle));
    }

    /// The bundle in force.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        self.bundle.load_full()
    }

    /// Judges one log-in. CPU-bound (a few signature checks), no IO.
    pub fn authenticate(&self, attempt: Attempt<'_>) -> Result<Admission, Refusal> {
        if !self.scope.is_known() {
            return Err(unknown_scope());
        }
        // The password wins over the certificate (edgehub.md 5.1), so that a client cannot pass as something that its
        // token does not say.
        if attempt.password.is_some_and(|p| !p.is_empty()) {
            return Err(Refusal::no(
                "sas_not_available",
                "SAS log-in is not available yet: let the device present its X.509 certificate and no password",
            ));
        }
        if attempt.chain.is_empty() {
            return Err(Refusal::no(
                "no_credentials",
                "neither a certificate nor a token was presented",
            ));
        }
        if attempt.claim.module().is_some() {
            return Err(Refusal::no(
                "module_by_certificate",
                "modules cannot log in with a certificate (IoT Hub does not support it): use a token",
            ));
        }
        let entry = self.entry_of(attempt.claim)?;
        let wall = self.clock.wall();
        let judged = self.judge_certificate(&entry, attempt.chain, wall.max(self.not_before));
        match judged {
            Ok(credential) => {
                let identity = Identity::vouched(entry.name.clone());
                Ok(Admission { identity, credential, since: wall })
            }
            // By a clock that is wrong nobody is refused for good: the certificate may be younger than the snapshot.
            Err(refusal) if wall < self.not_before => Err(Refusal::later(
                "clock_not_set",
                format!(
                    "{refusal}; but this machine's clock is wrong: set it, or let it reach a time server"
                ),
            )),
            Err(refusal) => Err(refusal),
        }
    }

    /// Whether the scope in force still lets the client in: registered, enabled, our child, of a certificate type.
    /// While no scope is known nothing has changed.
    pub fn still_admits(&self, admission: &Admission) -> bool {
        match self.entry_of(admission.identity.name()) {
            Ok(entry) => !matches!(entry.auth, AuthKind::Sas { .. } | AuthKind::None),
            Err(refusal) => refusal.code == RefusalCode::ServerUnavailable,
        }
    }

    /// The claim's entry, if it may connect here at all.
    fn entry_of(&self, claim: &ClientName) -> Result<Arc<ScopeEntry>, Refusal> {
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

    /// Whether it is `$edgeHub` of our own edge device. What speaks as it is this process, to the hub alone.
    fn is_ours(&self, name: &ClientName) -> bool {
        name.module().is_some_and(|module| module.as_str() == OWN_MODULE)
            && name.device().as_str().eq_ignore_ascii_case(self.scope.edge().as_str())
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
            AuthKind::Sas { .. } | AuthKind::None => Err(Refusal::no(
                "not_a_certificate_device",
                format!(
                    "{} is not registered for certificates: register it with the authentication type X.509 CA signed",
                    entry.name
                ),
            )),
        }
    }

    fn judge_by_ca(
        &self,
        entry: &ScopeEntry,
        chain: &[CertificateDer<'_>],
        now: UnixMillis,
    ) -> Result<Credential, Refusal> {
        let leaf = self.bundle.load().verify(chain, now).map_err(|e| x509_refusal(entry, &e))?;
        // Through the scope, not by comparing text: then two ids that differ in case only stay two identities.
        let named = DeviceId::parse(&leaf.common_name)
            .map(|id| self.scope.lookup(&ClientName::Device(id)))
            .is_ok_and(|found| matches!(found, Lookup::Entry(e) if e.name == entry.name));
        if named {
            return Ok(Credential::CertificateAuthority {
                chain: chain.iter().map(|c| c.clone().into_owned()).collect(),
                not_after: leaf.not_after,
                anchor_sha256: leaf.anchor_sha256,
            });
        }
        let common_name: String = leaf.common_name.escape_debug().take(160).collect();
        Err(Refusal::no(
            "common_name",
            format!(
                "the client says it is {}, but its certificate is for {common_name}: the common name must be the \
                 device id",
                entry.name
            ),
        ))
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
    let known = |thumbprint: &String| {
        thumbprint.eq_ignore_ascii_case(&info.sha1) || thumbprint.eq_ignore_ascii_case(&info.sha256)
    };
    if thumbprints.iter().any(known) {
        let CertificateInfo { sha1, sha256, not_after, .. } = info;
        return Ok(Credential::Thumbprint { sha1, sha256, not_after });
    }
    Err(Refusal::no(
        "thumbprint",
        format!(
            "the certificate of {} has the SHA-1 thumbprint {}, which is not registered for it in IoT Hub",
            entry.name, info.sha1
        ),
    ))
}

fn x509_refusal(entry: &ScopeEntry, reason: &X509Refusal) -> Refusal {
    Refusal::no(reason.label(), format!("the certificate of {} is refused: {reason}", entry.name))
}

fn unknown_scope() -> Refusal {
    Refusal::later(
        "scope_unknown",
        "the list of devices has not come from IoT Hub yet: devices may come back when this gateway has reached the \
         hub once",
    )
}

#[cfg(test)]
mod tests;
