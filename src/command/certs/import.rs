//! `certs import`: what Azure gives (`.cer`, `.p7b`) and PEM into the trust bundle.
//!
//! Owns: what comes in, what is new, and what is told. What serves as an anchor is the gateway's own judgement
//! ([`TrustBundle`]). Invariants: the bundle is replaced whole or not at all, and what it had stays, lists and comments too;
//! no key gets into it; a file that holds a key, or no certificate at all, is not replaced. Must not know: the gateway, which takes a new bundle up by itself.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::ImportArgs;
use super::listing::{self, Shown};
use crate::auth::TrustBundle;
use crate::auth::bundle::{BundleError, Entry, EntryRefusal, FILE_BYTES_MAX};
use crate::auth::x509::{self, CertificateInfo, Piece};
use crate::certs::facts::{Facts, block, pem};
use crate::certs::replace_public;
use crate::clock::UnixMillis;
use crate::command::text::{plain, plural};
use crate::command::{CommandError, End};

/// The label of a revocation list in PEM (RFC 7468 section 6).
const LIST: &str = "X509 CRL";

/// With what the label of every private key in PEM ends.
const KEY: &[u8] = b"PRIVATE KEY-----";

pub(super) fn run(
    args: &ImportArgs,
    now: UnixMillis,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let before = Before::read(&args.out, args.replace)?;
    let known: Vec<&Path> = before.path.iter().map(PathBuf::as_path).collect();
    let files: Vec<&Path> = args.files.iter().map(PathBuf::as_path).collect();
    let all = [known, files].concat();
    let bundle = TrustBundle::load(&all).map_err(refused)?;
    let ders = ders(&all)?;
    let lists = new_lists(&before, &args.files)?;
    let is_new = |entry: &&Entry| !before.anchors.contains(&entry.info.sha256);
    let above = above(bundle.entries());
    let is_asked = |entry: &&Entry| !(args.lowest && above.contains(&entry.info.sha256));
    let new: Vec<&Entry> = bundle.entries().iter().filter(is_new).filter(is_asked).collect();
    // What was wrong with the bundle before is `inspect`'s matter.
    let (twice, bad): (Vec<_>, Vec<_>) = bundle
        .refused()
        .iter()
        .skip(before.refused)
        .partition(|refused| matches!(refused.reason, EntryRefusal::Duplicate(_)));
    if new.is_empty() && twice.is_empty() && lists.is_empty() {
        return Err(refused(BundleError::NoAnchor(bad.into_iter().cloned().collect())));
    }
    let have = before.anchors.len();
    let mut text = before.text;
    for entry in &new {
        let der = ders.get(&entry.info.sha256).ok_or_else(|| {
            CommandError::Usage(format!("{} changed while it was read: try again", entry.source))
        })?;
        text.push_str(&pem(der));
    }
    lists.iter().for_each(|list| text.push_str(&block(LIST, list)));
    if !new.is_empty() || !lists.is_empty() || args.replace {
        replace_public(&args.out, text)?;
    }
    for refusal in &bad {
        eprintln!("sphere-gateway: left out: {}", plain(&refusal.to_string()));
    }
    for entry in bundle.entries() {
        let role = match new.iter().any(|new| new.info.sha256 == entry.info.sha256) {
            true => "new",
            false if is_new(&entry) => "left out: it stands above another (--lowest)",
            false => "was there",
        };
        if let Some(facts) = ders.get(&entry.info.sha256).and_then(|der| Facts::read(der).ok()) {
            let shown = Shown {
                source: entry.source.clone(),
                role,
                facts,
                signed: Vec::new(),
                dependents: None,
            };
            listing::words(&shown, now, out)?;
        }
    }
    for entry in new.iter().filter(|entry| above.contains(&entry.info.sha256)) {
        let subject = &entry.info.subject;
        eprintln!(
            "sphere-gateway: {subject} signed another CA of the bundle: devices of every CA below it are admitted, other \
             people's, too; --lowest leaves such ones out"
        );
    }
    let (path, n) = (args.out.display(), plural(new.len() as u64, "CA"));
    let same = match twice.len() {
        0 => String::new(),
        n => format!(", {n} of the files there already"),
    };
    let lists = match lists.len() as u64 {
        0 => String::new(),
        n => format!(", {} added", plural(n, "revocation list")),
    };
    writeln!(out, "{path}: {n} added, {have} before{same}{lists}")?;
    Ok(if bad.is_empty() { End::Fine } else { End::Found })
}

/// SHA-256 of each that signed another one, by its name.
fn above(entries: &[Entry]) -> HashSet<String> {
    let signs = |ca: &&Entry| {
        let is_by_it = |e: &Entry| !e.info.self_issued && e.info.issuer == ca.info.subject;
        entries.iter().any(is_by_it)
    };
    entries.iter().filter(signs).map(|entry| entry.info.sha256.clone()).collect()
}

/// The bundle as it is.
#[derive(Default)]
struct Before {
    path: Option<PathBuf>,
    /// What is written again as it is, if it is text.
    text: String,
    /// SHA-256 of each that serves.
    anchors: Vec<String>,
    /// The revocation lists (DER).
    lists: Vec<Vec<u8>>,
    /// How many do not serve.
    refused: usize,
}

impl Before {
    /// `replace`: nothing of it stays, but what is no bundle is not replaced either.
    fn read(path: &Path, replace: bool) -> Result<Self, CommandError> {
        if !path.try_exists().unwrap_or(true) {
            return Ok(Self::default());
        }
        let bytes = read(path)?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let pieces = x509::split(&bytes);
        is_bundle(path, &bytes, &pieces)?;
        if replace {
            return Ok(Self::default());
        }
        let bundle = TrustBundle::load(&[path]).map_err(|e| {
            let text = format!("{e}; correct {} first, or say --replace", path.display());
            CommandError::Usage(text)
        })?;
        let mut text = match String::from_utf8(bytes) {
            Ok(text) if text.contains("-----BEGIN ") => text,
            _ => pieces.iter().filter_map(kept).collect(),
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let anchors = bundle.entries().iter().map(|entry| entry.info.sha256.clone()).collect();
        let refused = bundle.refused().len();
        let lists = pieces.into_iter().filter_map(list).collect();
        Ok(Self { path: Some(path.to_owned()), text, anchors, lists, refused })
    }
}

/// Whether a file may be written again: what else it is would be lost, a key for good.
fn is_bundle(path: &Path, bytes: &[u8], pieces: &[Piece]) -> Result<(), CommandError> {
    let path = path.display();
    let is_key = |piece: &Piece| match piece {
        Piece::PrivateKey => true,
        // DER is taken for a certificate until somebody reads it.
        Piece::Certificate(der) => PrivateKeyDer::try_from(der.as_ref()).is_ok(),
        Piece::RevocationList(_) | Piece::Unusable(_) => false,
    };
    // Behind the last piece that is looked at there may be one, too.
    let named = bytes.windows(KEY.len()).any(|part| part == KEY);
    if named || pieces.iter().any(is_key) {
        let text = format!(
            "{path} holds a private key and stays as it is: name the bundle with --out, or take the key out of it first"
        );
        return Err(CommandError::Usage(text));
    }
    let is_public = |piece: &Piece| match piece {
        Piece::Certificate(der) => CertificateInfo::read(der).is_ok(),
        Piece::RevocationList(_) => true,
        Piece::PrivateKey | Piece::Unusable(_) => false,
    };
    if !pieces.iter().any(is_public) {
        let text = format!(
            "{path} has no certificate that can be read and stays as it is: name the bundle with --out, or move the file away first"
        );
        return Err(CommandError::Usage(text));
    }
    Ok(())
}

fn list(piece: Piece) -> Option<Vec<u8>> {
    match piece {
        Piece::RevocationList(der) => Some(der),
        _ => None,
    }
}

/// The revocation lists of `files` that the bundle has not and that the gateway can read; what it cannot is told as refused.
fn new_lists(before: &Before, files: &[PathBuf]) -> Result<Vec<Vec<u8>>, CommandError> {
    let (mut probe, mut new) = (TrustBundle::empty(), Vec::new());
    for file in files {
        for der in x509::split(&read(file)?).into_iter().filter_map(list) {
            let is_new = !before.lists.contains(&der) && !new.contains(&der);
            if is_new && probe.add_revocation_list("", &der).is_ok() {
                new.push(der);
            }
        }
    }
    Ok(new)
}

/// A certificate or a revocation list as PEM.
fn kept(piece: &Piece) -> Option<String> {
    match piece {
        Piece::Certificate(der) => Some(pem(der)),
        Piece::RevocationList(der) => Some(block(LIST, der)),
        Piece::PrivateKey | Piece::Unusable(_) => None,
    }
}

fn certificate(piece: &Piece) -> Option<&CertificateDer<'static>> {
    match piece {
        Piece::Certificate(der) => Some(der),
        _ => None,
    }
}

fn refused(error: BundleError) -> CommandError {
    CommandError::Usage(match error {
        BundleError::NoAnchor(refused) => {
            let why: String =
                refused.iter().map(|r| format!("\n  {}", plain(&r.to_string()))).collect();
            format!("nothing is imported: no usable CA certificate in these files{why}")
        }
        other => format!("nothing is imported: {other}"),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    let failed = |e: std::io::Error| {
        CommandError::Usage(format!(
            "cannot read {}: {e}; correct the path or permissions",
            path.display()
        ))
    };
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        let text = format!(
            "{} has more than {FILE_BYTES_MAX} bytes: that is no certificate file",
            path.display()
        );
        return Err(CommandError::Usage(text));
    }
    std::fs::read(path).map_err(failed)
}

/// SHA-256 -> certificate, of all files.
fn ders(paths: &[&Path]) -> Result<HashMap<String, CertificateDer<'static>>, CommandError> {
    let mut found = HashMap::new();
    for path in paths {
        if path.is_dir() {
            let text = format!("{} is a folder: name the files in it", path.display());
            return Err(CommandError::Usage(text));
        }
        for der in x509::split(&read(path)?).iter().filter_map(certificate) {
            if let Ok(info) = CertificateInfo::read(der) {
                found.insert(info.sha256, der.clone());
            }
        }
    }
    Ok(found)
}
