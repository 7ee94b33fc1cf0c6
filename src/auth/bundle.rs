//! The trust bundle: the CAs whose certificates admit clients, and the judgement over a presented chain.
//!
//! Owns: loading (PEM, DER and PKCS#7 files, folders), the checks that webpki does not make on trust anchors, path
//! validation, and what another bundle would change.
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
//! webpki takes from an anchor only its name, key and name constraints. Hence, per entry: basicConstraints must say CA,
//! keyUsage, if there, keyCertSign, and extKeyUsage, if there, client authentication; no unknown critical extension, no
//! demand for policies, a key that counts (at load); validity and path length (at verification). `path` has the table
//! of who checks what.

mod change;
mod check;
mod element;
mod files;
mod keys;
mod load;
mod path;
mod refusal;
pub mod revocation;
mod signatures;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls_pki_types::TrustAnchor;

pub use self::change::BundleChange;
use self::change::FileFacts;
pub use self::files::{BundleFile, file_names, read_files};
use self::path::Authority;
pub use self::refusal::X509Refusal;
pub use self::revocation::{ListInfo, ListStanding};
use self::revocation::{ListRefusal, RevocationLists};
use self::signatures::GoodSignatures;
use super::x509::{self, CertificateInfo, MalformedCertificate, Validity};
use crate::clock::UnixMillis;

/// Most entries of a bundle. A tenant has two CAs at a time; a site has a handful of tenants.
pub const ENTRIES_MAX: usize = 256;
/// Most entries of one subject: a CA, its renewals and its namesakes. Each is tried in turn for each chain that names it,
/// which costs a signature check (0.2 to 3 ms on a Raspberry Pi), and webpki ends at 100 of them: a flood of namesakes
/// would shut out the devices of the right one.
pub const SAME_SUBJECT_MAX: usize = 16;
/// Largest file of a bundle, in bytes (a list of 100,000 revoked certificates; 256 certificates of 4 KiB are one MiB).
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most bytes of all files: what one load may cost.
pub const BUNDLE_BYTES_MAX: u64 = 4 * FILE_BYTES_MAX;
/// Most certificate files of a folder.
pub const FILES_MAX: usize = 256;
/// Most certificates of a presented chain: leaf, intermediates, root. Azure Sphere's full chain has four.
pub const CHAIN_MAX: usize = 8;

/// Endings of the files that count in a folder.
const ENDINGS: [&str; 7] = ["pem", "crt", "cer", "der", "p7b", "p7c", "crl"];

/// Which CAs admit clients. Immutable but for what it remembers: a reload makes a new one.
#[derive(Debug, Clone, Default)]
pub struct TrustBundle {
    /// Parallel to `entries`.
    anchors: Vec<TrustAnchor<'static>>,
    entries: Vec<Entry>,
    /// Parallel to `entries`, too.
    authorities: Vec<Authority>,
    refused: Vec<RefusedEntry>,
    /// What the entries' CAs, and others below them, have revoked.
    revocation: RevocationLists,
    /// SHA-256 -> source of each list that was taken.
    lists: BTreeMap<[u8; 32], String>,
    /// What each file gave.
    files: Vec<FileFacts>,
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
    /// The digest of its own signature, if that is broken and another CA made it.
    pub weak_signature: Option<&'static str>,
}

impl Entry {
    /// What an operator should know of it at `now`; it serves all the same, or will.
    pub fn warnings(&self, now: UnixMillis) -> Vec<EntryWarning> {
        let validity = match self.info.validity(now) {
            Validity::Valid => None,
            Validity::Expired => Some(EntryWarning::Expired { since: self.info.not_after }),
            Validity::NotYet => Some(EntryWarning::NotYetValid { from: self.info.not_before }),
        };
        validity.into_iter().chain(self.weak_signature.map(EntryWarning::WeakSignature)).collect()
    }
}

/// What is odd about an entry that serves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryWarning {
    /// It admits nobody any more.
    #[error("it expired on {}: put its successor into the bundle in its place", x509::utc(*.since))]
    Expired {
        /// `notAfter`.
        since: UnixMillis,
    },
    /// It admits nobody yet.
    #[error("it is valid only from {}: set this machine's time, or wait", x509::utc(*.from))]
    NotYetValid {
        /// `notBefore`.
        from: UnixMillis,
    },
    /// Its certificate could be a forgery.
    #[error(
        "another CA signed it with {0}, which is broken: get a certificate with SHA-256 for it"
    )]
    WeakSignature(&'static str),
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
    /// extKeyUsage is there without client authentication.
    #[error(
        "its extended key usage does not include client authentication, so it can vouch for no device"
    )]
    Purpose,
    /// policyConstraints with requireExplicitPolicy.
    #[error(
        "it demands certificate policies (requireExplicitPolicy), which this gateway does not evaluate"
    )]
    Policy,
    /// A revocation list that does not count.
    #[error("this revocation list is not taken: {0}")]
    List(#[from] ListRefusal),
    /// An extension that must be understood and is not.
    #[error(
        "it has the critical extension {0}, which this gateway does not understand (RFC 5280 4.2)"
    )]
    CriticalExtension(String),
    /// The same bytes a second time.
    #[error("it is the same as {0}")]
    Duplicate(String),
    /// webpki cannot make an anchor of it.
    #[error("it cannot be used as a trust anchor: {0}")]
    Anchor(String),
    /// A key that no signature can be verified with.
    #[error(
        "its key is {0}, which is not supported: use P-256, P-384, Ed25519 or RSA of 2048 to 8192 bits"
    )]
    Key(String),
    /// More than [`SAME_SUBJECT_MAX`].
    #[error(
        "the bundle has {SAME_SUBJECT_MAX} certificates with this subject already: take old ones out"
    )]
    SameSubject,
    /// More than [`ENTRIES_MAX`].
    #[error("the bundle has more than {ENTRIES_MAX} entries")]
    TooMany,
}

impl EntryRefusal {
    /// Whether it could not be read, as a file that is half written.
    fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Unusable(_) | Self::Malformed(_) | Self::List(ListRefusal::Malformed(_))
        )
    }
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
    /// With those before it too big to be one.
    #[error("the trust bundle has more than {BUNDLE_BYTES_MAX} bytes; {path} is not read", path = path.display())]
    TooMuch {
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
    /// SHA-256 over that anchor's name and public key: what stays when the CA is renewed.
    pub ca_sha256: [u8; 32],
}

impl ListInfo {
    /// What an operator should know of it, and do; `None` if it counts.
    pub fn warning(&self) -> Option<String> {
        let why = match (self.standing, self.next_update) {
            (ListStanding::InForce | ListStanding::NotOfAnchor | ListStanding::Superseded, _) => {
                return None;
            }
            (ListStanding::Stale, Some(end)) => format!(
                "a newer one was promised for {}: what it revokes stays revoked, but what was revoked since is unknown; \
                 download it anew",
                x509::utc(end)
            ),
            (ListStanding::Stale, None) => "it may be old: download it anew".to_owned(),
            (ListStanding::NotAllowed, _) => {
                "it does not count: its CA may not sign lists (keyUsage)".to_owned()
            }
            (ListStanding::BadSignature, _) => {
                "it does not count: no CA of that name in the bundle has signed it; take it out"
                    .to_owned()
            }
        };
        Some(format!("the revocation list of {}, {}: {why}", self.issuer, self.source))
    }
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

    /// How many revocation lists it has.
    pub fn list_count(&self) -> usize {
        self.revocation.len()
    }
}

#[cfg(test)]
mod tests;
