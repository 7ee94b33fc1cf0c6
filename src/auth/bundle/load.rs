//! Files and folders -> the entries of a bundle.
//!
//! Owns: what is accepted and what is refused, and why. Must not know: presented chains.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use super::change::FileFacts;
use super::check::{Checked, check_ca};
use super::files::{BundleFile, read_files};
use super::path::Authority;
use super::{
    BundleError, ENTRIES_MAX, Entry, EntryRefusal, RefusedEntry, SAME_SUBJECT_MAX, TrustBundle,
};
use crate::auth::x509::{self, CertificateInfo, Piece};

impl TrustBundle {
    /// Loads files and folders (of a folder: `*.pem`, `*.crt`, `*.cer`, `*.der`, `*.p7b`, `*.crl`, in the order of their
    /// names, not recursive). Fails when a path of `paths` cannot be read or when no entry serves; a file of a folder
    /// that cannot be read is a refused entry.
    pub fn load<P: AsRef<Path>>(paths: &[P]) -> Result<Self, BundleError> {
        let mut bundle = Builder::default();
        for file in read_files(paths)? {
            let name = file.name();
            let BundleFile { path, content } = file;
            match content {
                Ok(bytes) => bundle.add_file(path, &name, &bytes),
                Err(why) => bundle.add_unreadable(path, name, why),
            }
        }
        bundle.finish()
    }

    /// Loads from memory; `source` names the text in reports.
    pub fn from_bytes(source: &str, bytes: &[u8]) -> Result<Self, BundleError> {
        let mut bundle = Builder::default();
        bundle.add_file(PathBuf::from(source), source, bytes);
        bundle.finish()
    }
}

/// Collects entries, keeps accepted and refused apart.
#[derive(Default)]
struct Builder {
    bundle: TrustBundle,
    /// SHA-256 -> source of what was accepted.
    seen: HashMap<String, String>,
    /// Subject, as it is encoded -> how many accepted entries have it.
    subjects: HashMap<Vec<u8>, usize>,
}

impl Builder {
    fn add_file(&mut self, path: PathBuf, name: &str, bytes: &[u8]) {
        let mut facts = FileFacts { path, given: 0, damage: Vec::new() };
        for (index, piece) in x509::split(bytes).into_iter().enumerate() {
            let source = format!("{name} #{}", index + 1);
            let (subject, result) = self.add_piece(&source, piece);
            match &result {
                Ok(()) | Err(EntryRefusal::Duplicate(_)) => facts.given += 1,
                Err(reason) if reason.is_damage() => {
                    facts.damage.push(format!("{source}: {reason}"))
                }
                Err(_) => {}
            }
            if let Err(reason) = result {
                self.refuse(source, subject, reason);
            }
        }
        self.bundle.files.push(facts);
    }

    fn add_unreadable(&mut self, path: PathBuf, name: String, why: String) {
        let damage = vec![format!("{name}: {why}")];
        self.bundle.files.push(FileFacts { path, given: 0, damage });
        self.refuse(name, None, EntryRefusal::Unusable(why));
    }

    fn add_piece(
        &mut self,
        source: &str,
        piece: Piece,
    ) -> (Option<String>, Result<(), EntryRefusal>) {
        match piece {
            Piece::Unusable(why) => (None, Err(EntryRefusal::Unusable(why))),
            Piece::PrivateKey => (None, Err(EntryRefusal::PrivateKey)),
            Piece::RevocationList(der) => (None, self.add_list(source, &der)),
            Piece::Certificate(der) => match CertificateInfo::read(&der) {
                Ok(info) => (Some(info.subject.clone()), self.add(source, &der, info)),
                Err(e) => (None, Err(e.into())),
            },
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
        let certificate = x509::parse(der)?;
        let Checked { path_len, weak_signature } = check_ca(&certificate)?;
        let authority = Authority::of(&certificate, der)?;
        let anchor = webpki::anchor_from_trusted_cert(der)
            .map_err(|e| EntryRefusal::Anchor(e.to_string()))?
            .to_owned();
        let namesakes = self.subjects.entry(certificate.subject().as_raw().to_vec()).or_default();
        if *namesakes == SAME_SUBJECT_MAX {
            return Err(EntryRefusal::SameSubject);
        }
        *namesakes += 1;
        self.seen.insert(info.sha256.clone(), source.to_owned());
        self.bundle.anchors.push(anchor);
        self.bundle.authorities.push(authority);
        let source = source.to_owned();
        self.bundle.entries.push(Entry { source, info, path_len, weak_signature });
        Ok(())
    }

    fn add_list(&mut self, source: &str, der: &[u8]) -> Result<(), EntryRefusal> {
        let digest: [u8; 32] = Sha256::digest(der).into();
        if let Some(first) = self.bundle.lists.get(&digest) {
            return Err(EntryRefusal::Duplicate(first.clone()));
        }
        self.bundle.revocation.add(source, der)?;
        self.bundle.lists.insert(digest, source.to_owned());
        Ok(())
    }

    fn finish(self) -> Result<TrustBundle, BundleError> {
        if self.bundle.entries.is_empty() {
            return Err(BundleError::NoAnchor(self.bundle.refused));
        }
        Ok(self.bundle)
    }
}
