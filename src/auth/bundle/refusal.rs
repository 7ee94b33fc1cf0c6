//! Why a presented chain does not hold, in plain words.
//!
//! Owns: the closed list of reasons, their labels and words. Must not know: bundles.

use super::CHAIN_MAX;
use crate::auth::x509::{self, CertificateInfo, Validity};
use crate::clock::UnixMillis;

/// Why a presented chain does not hold. A closed list: [`X509Refusal::label`] feeds counters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum X509Refusal {
    /// An empty chain.
    #[error("no certificate was presented")]
    NoCertificate,
    /// More than [`CHAIN_MAX`] certificates.
    #[error("{0} certificates were presented; {CHAIN_MAX} are allowed")]
    ChainTooLong(usize),
    /// Damaged, or of a form that is not supported.
    #[error("the certificate cannot be used: {0}")]
    Malformed(String),
    /// No common name that is text.
    #[error("the certificate's subject has no readable common name: it must be the device id")]
    NoCommonName,
    /// Nobody in the bundle signed it.
    #[error(
        "no CA of the trust bundle signed it (issuer {issuer}): add that CA's certificate to the bundle; after a \
         rotation of the tenant CA, download the new one"
    )]
    UnknownIssuer {
        /// The leaf's issuer.
        issuer: String,
    },
    /// A CA of that name is in the bundle, but the signature is not its.
    #[error(
        "its signature does not fit the key of its issuer {issuer}: another CA of the same name, or it was changed"
    )]
    BadSignature {
        /// The leaf's issuer.
        issuer: String,
    },
    /// The leaf's time is over.
    #[error("it expired on {}; the device must fetch a new one", x509::utc(*.since))]
    Expired {
        /// `notAfter`.
        since: UnixMillis,
    },
    /// The leaf's time has not come.
    #[error("it is valid only from {}; is a clock wrong, here or at its issuer?", x509::utc(*.from))]
    NotYetValid {
        /// `notBefore`.
        from: UnixMillis,
    },
    /// An intermediate of the chain is outside its validity.
    #[error("an intermediate CA of its chain is not valid now")]
    IntermediateNotValid,
    /// The CA in the bundle is outside its validity.
    #[error(
        "its issuer {subject} in the trust bundle is valid from {} to {}: put the CA's successor into the bundle",
        x509::utc(*.not_before), x509::utc(*.not_after)
    )]
    AnchorNotValid {
        /// The anchor.
        subject: String,
        /// Its `notBefore`.
        not_before: UnixMillis,
        /// Its `notAfter`.
        not_after: UnixMillis,
    },
    /// A CA's certificate used as a device's.
    #[error("it is a CA certificate: a device needs one of its own")]
    CaAsLeaf,
    /// A certificate that is no CA's has signed another.
    #[error("its chain runs through a certificate that is not a CA's")]
    LeafAsCa,
    /// Extended key usage without client authentication.
    #[error("its extended key usage does not include client authentication")]
    KeyUsage,
    /// Key usage without digitalSignature, which is what a client does in the handshake (RFC 5246 7.4.6).
    #[error(
        "its key usage does not include digital signature, with which a client proves its key: issue it with that \
         usage, or without the extension"
    )]
    NotForSignatures,
    /// A CA of the chain that may not issue client certificates: keyUsage without keyCertSign, or extended key usage
    /// for something else.
    #[error(
        "an intermediate CA of its chain may not issue it: its key usage must include certificate signing, its \
         extended key usage, if there, client authentication"
    )]
    CaKeyUsage,
    /// A certificate of the chain demands that policies are evaluated.
    #[error(
        "its chain demands certificate policies (requireExplicitPolicy), which this gateway does not evaluate"
    )]
    Policy,
    /// On a revocation list of its issuer.
    #[error(
        "its issuer revoked it on {} ({reason}); the device needs a new one", x509::utc(*.since)
    )]
    Revoked {
        /// When.
        since: UnixMillis,
        /// Why, in words.
        reason: &'static str,
    },
    /// A CA of its chain, an intermediate or the bundle's own, is on a revocation list.
    #[error("a CA of its chain was revoked on {} ({reason})", x509::utc(*.since))]
    IntermediateRevoked {
        /// When.
        since: UnixMillis,
        /// Why, in words.
        reason: &'static str,
    },
    /// More CAs between leaf and anchor than are followed.
    #[error(
        "more than six CAs are between it and the trust bundle: put a CA nearer to the device into the bundle"
    )]
    TooDeep,
    /// More intermediates than a CA allows.
    #[error("its chain is longer than one of its CAs allows (path length)")]
    PathLength,
    /// Outside the names that a CA may vouch for.
    #[error("a CA of its chain may not vouch for this name (name constraints)")]
    NameConstraint,
    /// A key or signature that we do not take.
    #[error(
        "its key or signature algorithm is not supported: use P-256, P-384, Ed25519 or RSA of 2048 to \
         8192 bits, signed with SHA-256 or better"
    )]
    Algorithm,
    /// An extension that must be understood and is not.
    #[error("it has a critical extension that this gateway does not understand")]
    CriticalExtension,
    /// A chain built to cost time.
    #[error("its chain is too complex to be checked")]
    TooComplex,
    /// The rest, in webpki's words.
    #[error("its chain does not hold: {0}")]
    Other(String),
}

impl X509Refusal {
    /// Short label for counters.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::ChainTooLong(_) | Self::TooDeep => "chain_too_long",
            Self::Malformed(_) => "malformed_certificate",
            Self::NoCommonName => "no_common_name",
            Self::UnknownIssuer { .. } => "unknown_ca",
            Self::BadSignature { .. } => "bad_signature",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::IntermediateNotValid => "intermediate_not_valid",
            Self::AnchorNotValid { .. } => "ca_not_valid",
            Self::CaAsLeaf => "ca_as_leaf",
            Self::LeafAsCa => "leaf_as_ca",
            Self::KeyUsage | Self::NotForSignatures => "key_usage",
            Self::CaKeyUsage => "ca_key_usage",
            Self::Policy => "policy",
            Self::Revoked { .. } => "revoked",
            Self::IntermediateRevoked { .. } => "ca_revoked",
            Self::PathLength => "path_length",
            Self::NameConstraint => "name_constraint",
            Self::Algorithm => "algorithm",
            Self::CriticalExtension => "critical_extension",
            Self::TooComplex => "too_complex",
            Self::Other(_) => "chain",
        }
    }
}

/// webpki's answer in our words. Expiry is told apart: the leaf's own, or another's of the chain.
pub(super) fn refusal(
    error: &webpki::Error,
    leaf: &CertificateInfo,
    now: UnixMillis,
) -> X509Refusal {
    use webpki::Error as E;
    let issuer = || leaf.issuer.clone();
    match error {
        E::CertExpired { .. } | E::CertNotValidYet { .. } => match leaf.validity(now) {
            Validity::Expired => X509Refusal::Expired { since: leaf.not_after },
            Validity::NotYet => X509Refusal::NotYetValid { from: leaf.not_before },
            Validity::Valid => X509Refusal::IntermediateNotValid,
        },
        E::UnknownIssuer => X509Refusal::UnknownIssuer { issuer: issuer() },
        E::InvalidSignatureForPublicKey => X509Refusal::BadSignature { issuer: issuer() },
        E::CaUsedAsEndEntity => X509Refusal::CaAsLeaf,
        E::EndEntityUsedAsCa => X509Refusal::LeafAsCa,
        // The leaf's was judged before.
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => X509Refusal::CaKeyUsage,
        E::PathLenConstraintViolated => X509Refusal::PathLength,
        E::NameConstraintViolation => X509Refusal::NameConstraint,
        E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => X509Refusal::Algorithm,
        E::UnsupportedCriticalExtension => X509Refusal::CriticalExtension,
        E::MaximumPathDepthExceeded => X509Refusal::TooDeep,
        E::MaximumPathBuildCallsExceeded
        | E::MaximumSignatureChecksExceeded
        | E::MaximumNameConstraintComparisonsExceeded => X509Refusal::TooComplex,
        E::BadDer
        | E::BadDerTime
        | E::InvalidCertValidity
        | E::InvalidSerialNumber
        | E::ExtensionValueInvalid
        | E::MalformedExtensions
        | E::TrailingData(_)
        | E::SignatureAlgorithmMismatch
        | E::UnsupportedCertVersion => X509Refusal::Malformed(error.to_string()),
        other => X509Refusal::Other(other.to_string()),
    }
}
