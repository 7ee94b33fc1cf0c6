//! Files and folders -> the entries of a bundle, and the checks of a CA that webpki does not make on anchors.
//!
//! Owns: what is accepted and what is refused, and why. Must not know: presented chains.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::X509Certificate;

use super::{
    BundleError, ENDINGS, ENTRIES_MAX, Entry, EntryRefusal, FILE_BYTES_MAX, FILES_MAX,
    RefusedEntry, TrustBundle,
};
use crate::auth::x509::{self, CertificateInfo, MalformedCertificate, Piece};

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
