//! That a client was let in, by what proof: what the standing checks go by while it is connected.
//!
//! Owns: [`Admission`]. Invariants: no secret is kept, only what tells whether the proof still counts (a digest of the
//! key, the certificates, which are public). Must not know: connections.

use std::fmt;

use rustls_pki_types::CertificateDer;

use crate::clock::UnixMillis;
use crate::identity::Identity;

/// An identity and the proof by which it was let in. Only `auth` makes one.
#[derive(Clone, PartialEq, Eq)]
pub struct Admission {
    /// Who was let in.
    pub identity: Identity,
    /// By what.
    pub credential: Credential,
    /// When, by the clock that judged.
    pub since: UnixMillis,
}

/// What a client proved its identity with.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A SAS token.
    Token {
        /// When it ends, in seconds since 1970 (without the skew that is allowed).
        expires_secs: u64,
        /// SHA-256 of the symmetric key that signed it: whether that key is still registered.
        key_sha256: [u8; 32],
        /// Whether that key is not the module's own but its device's.
        by_device: bool,
    },
    /// A certificate whose CA is in the trust bundle.
    CertificateAuthority {
        /// What it presented, leaf first, without what is on no path from it: judged again when the bundle changes.
        chain: Vec<CertificateDer<'static>>,
        /// End of the leaf's validity.
        not_after: UnixMillis,
        /// SHA-256 of the anchor, lower-case hex.
        anchor_sha256: String,
        /// Whether the leaf had ended and was spared that ([`super::grace`]).
        by_grace: bool,
    },
    /// A certificate that is registered by its thumbprint.
    Thumbprint {
        /// SHA-1 of the leaf, lower-case hex.
        sha1: String,
        /// SHA-256 of the leaf, lower-case hex.
        sha256: String,
        /// End of the leaf's validity.
        not_after: UnixMillis,
    },
}

impl Credential {
    /// Short label for counters and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Token { .. } => "token",
            Self::CertificateAuthority { by_grace: true, .. } => "grace",
            Self::CertificateAuthority { .. } => "certificate_authority",
            Self::Thumbprint { .. } => "thumbprint",
        }
    }
}

/// Digests and certificates say nothing to a reader of logs.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.identity, self.credential.label())
    }
}
