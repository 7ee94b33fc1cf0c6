//! A client certificate that is refused within the handshake: what is wrong with it, and whose it is.
//!
//! rustls drops the connection with its certificates when the verifier says no, but hands on the verifier's own error: so the
//! facts travel in it. Owns: [`Presented`]. Must not know: the trust bundle.

use std::fmt;
use std::sync::Arc;

use rustls::{CertificateError, OtherError};
use rustls_pki_types::CertificateDer;

use super::CHAIN_BYTES_MAX;
use crate::auth::bundle::CHAIN_MAX;
use crate::auth::decision;
use crate::auth::x509::CertificateInfo;

/// A refused client certificate.
#[derive(Debug, Clone)]
pub(in crate::front) struct Presented {
    /// Why.
    pub(in crate::front) reason: Reason,
    /// What could be read of the leaf.
    pub(in crate::front) certificate: Option<Box<CertificateInfo>>,
}

/// Why a client certificate does not pass the handshake.
#[derive(Debug, Clone, thiserror::Error)]
pub(in crate::front) enum Reason {
    #[error(
        "{certificates} certificates with {bytes} bytes were presented; {CHAIN_MAX} with {CHAIN_BYTES_MAX} bytes are allowed"
    )]
    TooLong { certificates: usize, bytes: usize },
    #[error("the presented certificate cannot be read: {0}")]
    Malformed(String),
    #[error("the client does not hold the private key of the certificate that it presents: {0:?}")]
    Possession(rustls::Error),
}

impl Reason {
    pub(in crate::front) fn label(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "chain_too_long",
            Self::Malformed(_) => "malformed_certificate",
            Self::Possession(_) => "possession",
        }
    }

    /// As rustls takes it from a verifier. The client is told no more than `certificate_unknown`.
    pub(super) fn of(self, leaf: &CertificateDer<'_>) -> rustls::Error {
        let certificate = decision::facts(std::slice::from_ref(leaf));
        let presented = Presented { reason: self, certificate };
        CertificateError::Other(OtherError(Arc::new(presented))).into()
    }
}

impl fmt::Display for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl std::error::Error for Presented {}

/// What the verifier said, if it was the verifier that ended the handshake.
pub(in crate::front) fn of_error(error: &rustls::Error) -> Option<&Presented> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref::<Presented>()
        }
        _ => None,
    }
}
