//! What is told when a connection takes its seat, and when it is asked to leave it.
//!
//! Owns: the words. Must not know: sockets.

use std::net::SocketAddr;

use tracing::{info, warn};

use crate::auth::decision;
use crate::auth::x509::CertificateInfo;
use crate::auth::{Admission, Credential, x509};
use crate::front::roster::{Leave, Seat};
use crate::metrics::Metrics;
use crate::session::CloseReason;

/// A client was let in. Each use of a grace is loud: somebody decided that it may happen, and has to see that it does.
pub(super) fn tell_connected(admission: &Admission, peer: SocketAddr, metrics: &Metrics) {
    let (identity, by) = (&admission.identity, admission.credential.label());
    info!(%identity, %peer, by, "connected");
    if let Credential::CertificateAuthority { by_grace: true, not_after, .. } =
        &admission.credential
    {
        metrics.counted("expired_leaf_grace", "used");
        let ended = x509::utc(*not_after);
        warn!(%identity, %peer, %ended, "let in by the grace for ended certificates (authSettings__expiredLeafGrace)");
    }
}

/// Why the roster asked this connection to leave.
pub(super) fn departure(seat: Option<&Seat>) -> CloseReason {
    match seat.and_then(Seat::why_leave) {
        Some(Leave::NotAdmitted(refusal)) => {
            CloseReason::peer(refusal.label, refusal.detail.clone())
        }
        Some(Leave::TakenOver) | None => {
            let detail = "a newer connection of the same identity took over";
            CloseReason::peer("displaced", detail)
        }
    }
}

/// By what its client was let in, if the session ends because that no longer counts.
pub(super) fn dismissed<'s>(seat: Option<&'s Seat>, reason: &CloseReason) -> Option<&'s Admission> {
    let seat = seat?;
    // One that was asked to leave may have ended by itself before it could.
    match seat.why_leave() {
        Some(Leave::NotAdmitted(refusal)) if refusal.label == reason.label => {
            Some(seat.admission())
        }
        _ => None,
    }
}

/// The leaf that it was let in by, if that is kept.
pub(super) fn leaf(admission: &Admission) -> Option<Box<CertificateInfo>> {
    match &admission.credential {
        Credential::CertificateAuthority { chain, .. } => decision::facts(chain),
        Credential::Token { .. } | Credential::Thumbprint { .. } => None,
    }
}
