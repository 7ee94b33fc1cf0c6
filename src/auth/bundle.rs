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

mod refusal;
mod signatures;

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::X509Certificate;

pub use self::refusal::X509Refusal;
use self::refusal::refusal;
use self::signatures::GoodSignatures;
use super::x509::{self, CertificateInfo, MalformedCertificate, Piece, Validity};
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
    /// Loads files and folders (of a folder: `*.pem`, `*.crt`, `*.cer`, `*.der`, `*.p7b`, in the order of their names,
    /// not recursive). Fails when a path of `paths` cannot be read or when no entry serves; a file of a folder that
    /// cannot be read is a refused entry.
    pub fn load<P: AsRef<Path>>(paths: &[P]) -> Result<Self, BundleError> {
        let mut bundle = Builder::default();
        for path in paths.iter().map(AsRef::as_ref) {
            let failed = |source| BundleError::Read { path: path.to_owned(), source };
            if !std::fs::metadata(path).map_err(failed)?.is_dir() {
                bundle.add_file(&file_name(path), &read_bounded(path)?);
                continue;
            }
            for file in files_of(path)? {
                match read_bounded(&file) {
                    Ok(bytes) => bundle.add_file(&file_name(&file), &bytes),
                    Err(e) => {
                        let reason = EntryRefusal::Unusable(e.to_string());
                        bundle.refuse(file_name(&file), None, reason);
                    }
                }
            }
        }
        bundle.finish()
    }

    /// Loads from memory; `source` names the text in reports.
    pub fn from_bytes(source: &str, bytes: &[u8]) -> Result<Self, BundleError> {
        let mut bundle = Builder::default();
        bundle.add_file(source, bytes);
        bundle.finish()
    }

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

    /// Judges a presented chain (leaf first) for client authentication at `now`.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixMillis,
    ) -> Result<VerifiedLeaf, X509Refusal> {
        let (leaf, intermediates) = chain.split_first().ok_or(X509Refusal::NoCertificate)?;
        if chain.len() > CHAIN_MAX {
            return Err(X509Refusal::ChainTooLong(chain.len()));
        }
        let malformed = |e: MalformedCertificate| X509Refusal::Malformed(e.to_string());
        let facts = x509::parse(leaf).map_err(malformed)?;
        // Names and thumbprints are written out for a refusal alone.
        let refused = |e: &webpki::Error| match CertificateInfo::read(leaf) {
            Ok(info) => refusal(e, &info, now),
            Err(e) => malformed(e),
        };
        let end_entity = EndEntityCert::try_from(leaf).map_err(|e| refused(&e))?;

        // Anchors are barred here and not filtered beforehand: webpki then goes on to the next candidate of the same
        // name (an old and a new tenant CA), and we can say which entry it was.
        let barred = Cell::new(None);
        let judge = |path: &VerifiedPath<'_>| self.judge_anchor(path, now, &barred);
        let algorithms = self.good.with(webpki::ALL_VERIFICATION_ALGS);
        let algorithms: Vec<&dyn SignatureVerificationAlgorithm> =
            algorithms.iter().map(|a| a as _).collect();
        let verified = end_entity.verify_for_usage(
            &algorithms,
            &self.anchors,
            intermediates,
            UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs())),
            KeyUsage::client_auth(),
            None,
            Some(&judge),
        );
        let path = match (verified, barred.take()) {
            (Ok(path), _) => path,
            (Err(_), Some(reason)) => return Err(reason),
            (Err(e), None) => return Err(refused(&e)),
        };
        let anchor = self.entry_of(path.anchor()).expect("the path ends at one of our anchors");
        let (not_before, not_after) = x509::window(&facts);
        Ok(VerifiedLeaf {
            common_name: x509::first_common_name(facts.subject())
                .ok_or(X509Refusal::NoCommonName)?,
            not_before,
            not_after,
            anchor_sha256: anchor.info.sha256.clone(),
        })
    }

    /// What webpki leaves out: the anchor's own validity and path length.
    fn judge_anchor(
        &self,
        path: &VerifiedPath<'_>,
        now: UnixMillis,
        barred: &Cell<Option<X509Refusal>>,
    ) -> Result<(), webpki::Error> {
        let Some(entry) = self.entry_of(path.anchor()) else {
            return Err(webpki::Error::UnknownIssuer);
        };
        if entry.info.validity(now) != Validity::Valid {
            barred.set(Some(X509Refusal::AnchorNotValid {
                subject: entry.info.subject.clone(),
                not_before: entry.info.not_before,
                not_after: entry.info.not_after,
            }));
            return Err(webpki::Error::UnknownIssuer);
        }
        // RFC 5280 4.2.1.9: self-issued intermediates do not count.
        let below =
            path.intermediate_certificates().filter(|c| c.subject() != c.issuer()).count() as u64;
        if entry.path_len.is_some_and(|most| below > u64::from(most)) {
            barred.set(Some(X509Refusal::PathLength));
            return Err(webpki::Error::PathLenConstraintViolated);
        }
        Ok(())
    }

    fn entry_of(&self, anchor: &TrustAnchor<'_>) -> Option<&Entry> {
        // By place and not by value: a renewed CA has the name and key of its predecessor, but another validity.
        let place = self.anchors.iter().position(|a| std::ptr::eq(a, anchor))?;
        self.entries.get(place)
    }
}

/// Collects entries, keeps accepted and refused apart.
#[derive(Default)]
struct Builder {
    bundle: TrustBundle,
    /// SHA-256 -> source of what was accepted.
    seen: HashMap<String, String>,
}

impl Builder {
    fn add_file(&mut self, name: &str, bytes: &[u8]) {
        for (index, piece) in x509::split(bytes).into_iter().enumerate() {
            let source = format!("{name} #{}", index + 1);
            let (subject, result) = match piece {
                Piece::Unusable(why) => (None, Err(EntryRefusal::Unusable(why))),
                Piece::PrivateKey => (None, Err(EntryRefusal::PrivateKey)),
                Piece::Certificate(der) => match CertificateInfo::read(&der) {
                    Ok(info) => (Some(info.subject.clone()), self.add(&source, &der, info)),
                    Err(e) => (None, Err(e.into())),
                },
            };
            if let Err(reason) = result {
                self.refuse(source, subject, reason);
            }
        }
    }

    /// Notes a refused entry; the report is bounded as the bundle is.
    fn refuse(&mut self, source: String, subject: Option<String>, reason: EntryRefusal) {
        if self.bundle.refused.len() < ENTRIES_MAX {
            self.bundle.refused.push(RefusedEntry { source, subject, reason });
        }
    }

    fn add(
        &mut self,
        source: &str,
        der: &CertificateDer<'_>,
        info: CertificateInfo,
    ) -> Result<(), EntryRefusal> {
        if let Some(first) = self.seen.get(&info.sha256) {
            return Err(EntryRefusal::Duplicate(first.clone()));
        }
        if self.bundle.entries.len() == ENTRIES_MAX {
            return Err(EntryRefusal::TooMany);
        }
        let path_len = check_ca(&x509::parse(der)?)?;
        let anchor = webpki::anchor_from_trusted_cert(der)
            .map_err(|e| EntryRefusal::Anchor(e.to_string()))?
            .to_owned();
        self.seen.insert(info.sha256.clone(), source.to_owned());
        self.bundle.anchors.push(anchor);
        self.bundle.entries.push(Entry { source: source.to_owned(), info, path_len });
        Ok(())
    }

    fn finish(self) -> Result<TrustBundle, BundleError> {
        if self.bundle.entries.is_empty() {
            return Err(BundleError::NoAnchor(self.bundle.refused));
        }
        Ok(self.bundle)
    }
}

/// The checks of a CA that webpki does not make on anchors; gives the path length constraint.
fn check_ca(certificate: &X509Certificate<'_>) -> Result<Option<u32>, EntryRefusal> {
    let malformed = |e: x509_parser::error::X509Error| MalformedCertificate::Der(e.to_string());
    let constraints = certificate.basic_constraints().map_err(malformed)?;
    let Some(constraints) = constraints.filter(|c| c.value.ca) else {
        return Err(EntryRefusal::NotCa);
    };
    let usage = certificate.key_usage().map_err(malformed)?;
    if usage.is_some_and(|u| !u.value.key_cert_sign()) {
        return Err(EntryRefusal::NotForSigning);
    }
    let unknown = certificate.extensions().iter().find(|e| {
        let parsed = e.parsed_extension();
        e.critical && (parsed.unsupported() || matches!(parsed, ParsedExtension::ParseError { .. }))
    });
    if let Some(extension) = unknown {
        return Err(EntryRefusal::CriticalExtension(extension.oid.to_id_string()));
    }
    Ok(constraints.value.path_len_constraint)
}

/// The certificate files of a folder, in the order of their names.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>, BundleError> {
    let failed = |source| BundleError::Read { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for item in std::fs::read_dir(folder).map_err(failed)? {
        let file = item.map_err(failed)?.path();
        let ending = file.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        if ending.is_some_and(|e| ENDINGS.contains(&&*e)) && !file.is_dir() {
            files.push(file);
        }
        if files.len() > FILES_MAX {
            return Err(BundleError::TooManyFiles { path: folder.to_owned() });
        }
    }
    files.sort();
    Ok(files)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, BundleError> {
    let failed = |source| BundleError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(BundleError::TooBig { path: path.to_owned() });
    }
    std::fs::read(path).map_err(failed)
}

#[cfg(test)]
mod tests;
