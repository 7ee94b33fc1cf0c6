//! Telling of decisions: counters, and whoever keeps them.
//!
//! Owns: the one way by which a refused accept, handshake or CONNECT, or a session that has to end, is counted and told. Must not know: who keeps it.

use std::net::SocketAddr;

use rustls::pki_types::CertificateDer;

use super::connection::Front;
use crate::auth::Admission;
use crate::auth::decision::{self, Decision, Outcome, Stage, hint};
use crate::auth::x509::CertificateInfo;
use crate::identity::ClientName;

/// Who was refused, as far as that is known.
#[derive(Debug, Default)]
pub(super) struct Refused {
    pub(super) peer: Option<SocketAddr>,
    pub(super) claim: Option<ClientName>,
    pub(super) certificate: Option<Box<CertificateInfo>>,
    /// Of the certificate, if it was presented with it.
    pub(super) issuer: Option<Box<CertificateInfo>>,
}

impl Refused {
    pub(super) fn peer(peer: SocketAddr) -> Self {
        Self { peer: Some(peer), ..Self::default() }
    }

    /// Who presented `chain`.
    pub(super) fn presented(self, chain: &[CertificateDer<'_>]) -> Self {
        let (certificate, issuer) = (decision::facts(chain), decision::issuer_facts(chain));
        Self { certificate, issuer, ..self }
    }
}

impl Front {
    /// Counts and tells a refusal.
    pub(super) fn refused(&self, stage: Stage, who: Refused, label: &'static str, detail: String) {
        self.metrics.refused(stage.label(), label);
        let Refused { peer, claim, certificate, issuer } = who;
        let at = self.clock.wall();
        let bundle = self.authenticator.bundle();
        let hint = hint(label, certificate.as_deref(), issuer.as_deref(), &bundle, at);
        let outcome = Outcome::Refused { label, detail, hint };
        self.decisions.decided(Decision { at, stage, peer, claim, outcome, certificate });
    }

    /// Tells an admission, if somebody wants to know.
    pub(super) fn admitted(
        &self,
        peer: SocketAddr,
        claim: &ClientName,
        admission: &Admission,
        chain: &[CertificateDer<'_>],
    ) {
        if !self.decisions.wants_admissions() {
            return;
        }
        self.decisions.decided(Decision {
            at: admission.since,
            stage: Stage::Connect,
            peer: Some(peer),
            claim: Some(claim.clone()),
            outcome: Outcome::Admitted {
                identity: admission.identity.clone(),
                method: admission.credential.label(),
            },
            certificate: decision::facts(chain),
        });
    }
}
