//! The trust bundle: the CAs whose certificates admit clients, and the judgement over a presented chain.
//!
//! Owns: loading (PEM and DER files, folders), the checks that webpki does not make on trust anchors, path validation.
//! Invariants:
//! - Every accepted entry is an anchor, self-signed or not: a device that presents its leaf alone gets in when the
//!   leaf's issuer is an entry (Azure Sphere sends the leaf only; the reference refuses that, edgehub.md 7.3).
//! - An anchor outside its validity at the time of a verification is not used for it. It is not refused at load: a
//!   clock that is wrong at boot (no RTC) must not cost an entry.
//! - One bad entry is named and set apart; the others serve.
//! - A chain is judged as a whole at each log-in; only the arithmetic of a signature that was good before is spared
//!   ([`signatures`]).
//!
//! Must not know: scope, MQTT, where the files are configured.
//!
//! webpki takes from an anchor only its name, key and name constraints. Hence, per entry: basicConstraints must say CA
//! and keyUsage, if there, keyCertSign (at load); no unknown critical extension (at load); validity and path length
//! (at verification).

mod load;
mod path;
mod refusal;
mod revocation;
mod signatures;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls_pki_types::TrustAnchor;

pub use self::refusal::X509Refusal;
use self::signatures::GoodSignatures;
use super::x509::{CertificateInfo, MalformedCertificate};
use crate::clock::UnixMillis;

/// Most entries of a bundle. A tenant has two CAs at a time; a site has a handful of tenants.
pub const ENTRIES_MAX: usize = 256;
/// Largest file of a bundle, in bytes (256 certificates of 4 KiB).
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Most certificate files of a folder.
pub const FILES_MAX: usize = 256;
/// Most certificates of a presented chain: leaf, intermediates, root. Azure Sphere's full chain has four.
pub const CHAIN_MAX: usize = 8;

/// Endings of the files that count in a folder.
const ENDINGS: [&str; 5] = ["pem", "crt", "cer", "der", "p7b"];

/// Which CAs admit clients. Immutable but for what it remembers: a reload makes a new one.
#[derive(Debug, Clone, Default)]
pub struct TrustBundle {
    /// Parallel to `entries`.
    anchors: Vec<TrustAnchor<'static>>,
    entries: Vec<Entry>,
    refused: Vec<RefusedEntry>,
    /// Begins empty with each bundle that is loaded.
    good: Arc<GoodSignatures>,
}

/// An accepted entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// File and place in it, e.g. `tenant.pem #2`.
    pub source: String,
    /// Names, validity, thumbprints.
    pub info: CertificateInfo,
    /// Most intermediates below this CA, if it says so (RFC 5280 4.2.1.9).
    pub path_len: Option<u32>,
}

/// An entry that does not serve, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedEntry {
    /// File and place in it.
    pub source: String,
    /// Subject, as far as it could be read.
    pub subject: Option<String>,
    /// Why.
    pub reason: EntryRefusal,
}

impl fmt::Display for RefusedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = self.subject.as_deref().unwrap_or("no readable subject");
        write!(f, "{} ({subject}): {}", self.source, self.reason)
    }
}

/// Why an entry of a bundle does not serve as an anchor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryRefusal {
    /// No certificate at all.
    #[error("{0}")]
    Unusable(String),
    /// A key among the certificates.
    #[error(
        "a private key does not belong into a trust bundle: take it out of this file and keep it secret"
    )]
    PrivateKey,
    /// Damaged.
    #[error(transparent)]
    Malformed(#[from] MalformedCertificate),
    /// basicConstraints is missing or says CA:FALSE.
    #[error(
        "it is not a CA certificate (basicConstraints): put the issuing CA into the bundle, not the device's own"
    )]
    NotCa,
    /// keyUsage is there without keyCertSign.
    #[error("its keyUsage does not allow signing certificates (keyCertSign)")]
    NotForSigning,
    /// An extension that must be understood and is not.
    #[error(
        "it has the critical extension {0}, which this gateway does not understand (RFC 5280 4.2)"
    )]
    CriticalExtension(String),
    /// The same bytes a second time.
    #[error("it is the same certificate as {0}")]
    Duplicate(String),
    /// webpki cannot make an anchor of it.
    #[error("it cannot be used as a trust anchor: {0}")]
    Anchor(String),
    /// More than [`ENTRIES_MAX`].
    #[error("the bundle has more than {ENTRIES_MAX} entries")]
    TooMany,
}

/// Why no bundle could be loaded at all.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A path cannot be read.
    #[error("cannot read the trust bundle {path}: {source}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Too big to be a bundle.
    #[error("{path} has more than {FILE_BYTES_MAX} bytes: that is no certificate file", path = path.display())]
    TooBig {
        /// Which.
        path: PathBuf,
    },
    /// A folder for something else.
    #[error("{path} has more than {FILES_MAX} certificate files: give a folder with the tenant CAs alone", path = path.display())]
    TooManyFiles {
        /// Which.
        path: PathBuf,
    },
    /// Nothing in it serves.
    #[error("the trust bundle has no usable CA certificate, so no client could log in with a certificate{}", listing(.0))]
    NoAnchor(Vec<RefusedEntry>),
}

fn listing(refused: &[RefusedEntry]) -> String {
    refused.iter().map(|r| format!("; {}: {}", r.source, r.reason)).collect()
}

/// A leaf whose chain holds, at the time of the verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedLeaf {
    /// The first common name of the subject, as it stands there.
    pub common_name: String,
    /// Start of validity.
    pub not_before: UnixMillis,
    /// End of validity.
    pub not_after: UnixMillis,
    /// SHA-256 of the anchor that vouched for it, lower-case hex: which sessions depend on which entry.
    pub anchor_sha256: String,
}

impl TrustBundle {
    /// A bundle that admits nobody.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The entries that serve (each only while it is valid: see [`CertificateInfo::validity`]).
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries that do not serve, with reasons.
    pub fn refused(&self) -> &[RefusedEntry] {
        &self.refused
    }
}

#[cfg(test)]
mod tests;
