//! A file -> its certificates and revocation lists: PEM, DER, PKCS#7 (`.p7b`, binary or PEM).
//!
//! Owns: what counts as one piece. Invariants: what a piece is is told by its bytes, not by the name of the file: the
//! same `.cer` is PEM with one tool and DER with the next; a broken piece does not take its neighbours along; at most
//! [`PIECES_MAX`] pieces a file. Must not know: which certificates are trusted, where files come from.
//!
//! PKCS#7 is taken apart with the DER reader of x509-parser, and not by the crate `cms`: that one decodes all
//! certificates of a file or none, and what it writes again need not be the bytes that were signed. Signatures of a
//! `.p7b` are not looked at, as in `openssl pkcs7 -print_certs`: a bundle's file vouches for itself by where it lies.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};
use x509_parser::asn1_rs::{Any, Class, FromDer as _, Header, Tag};

/// Most pieces of a file: four times the entries of a bundle. What follows is one piece more, with these words.
const PIECES_MAX: usize = 1024;

/// One piece of a certificate file.
#[derive(Debug)]
pub enum Piece {
    /// A certificate's DER, not parsed yet.
    Certificate(CertificateDer<'static>),
    /// The DER of a certificate revocation list, not parsed yet.
    RevocationList(Vec<u8>),
    /// A private key: it stays unread.
    PrivateKey,
    /// Something that is none of these, with words for the operator.
    Unusable(String),
}

/// Splits a file into its pieces: PEM with any number of blocks and text around them, or one DER structure. A mark of
/// byte order (UTF-8) and line ends of Windows do no harm.
pub fn split(file: &[u8]) -> Vec<Piece> {
    if file.starts_with(b"\xff\xfe") || file.starts_with(b"\xfe\xff") {
        return vec![unusable("it is UTF-16 text: save it as UTF-8 or ASCII")];
    }
    let text = String::from_utf8_lossy(file);
    let mut pieces = Vec::new();
    if text.contains(BEGIN) {
        // Each part starts behind a BEGIN; what precedes the first one is explanatory text (RFC 7468 section 2).
        for part in text.split(BEGIN).skip(1) {
            pem_pieces(part, &mut pieces);
            if pieces.len() > PIECES_MAX {
                break;
            }
        }
    } else if file.first() == Some(&0x30) {
        // All of them are a SEQUENCE.
        der_pieces(file, &mut pieces);
    } else {
        pieces.push(unusable("neither PEM nor DER: export the certificate as .pem, .crt or .cer"));
    }
    if pieces.len() > PIECES_MAX {
        pieces.truncate(PIECES_MAX);
        pieces.push(Piece::Unusable(format!("it has more than {PIECES_MAX} pieces")));
    }
    pieces
}

const BEGIN: &str = "-----BEGIN ";

fn unusable(words: &str) -> Piece {
    Piece::Unusable(words.to_owned())
}

fn pem_pieces(part: &str, pieces: &mut Vec<Piece>) {
    let label = part.split("-----").next().unwrap_or_default();
    match label {
        "CERTIFICATE" | "X509 CERTIFICATE" | "PKCS7" | "CMS" | "X509 CRL" => {}
        _ if label.ends_with("PRIVATE KEY") => return pieces.push(Piece::PrivateKey),
        // What `openssl ecparam -genkey` writes in front of a key.
        "EC PARAMETERS" => return pieces.push(Piece::PrivateKey),
        _ => {
            let label: String = label.escape_debug().take(40).collect();
            let words = format!("a PEM block `{label}` is not a certificate");
            return pieces.push(Piece::Unusable(words));
        }
    }
    // The reader looks for this one label; what is inside says by itself what it is. Windows' `certutil -encode` writes
    // CERTIFICATE around everything.
    let rest = part[label.len()..].replacen(
        &format!("-----END {label}-----"),
        "-----END CERTIFICATE-----",
        1,
    );
    match CertificateDer::from_pem_slice(format!("{BEGIN}CERTIFICATE{rest}").as_bytes()) {
        Ok(der) => der_pieces(&der, pieces),
        Err(e) => {
            let why = match e {
                pem::Error::MissingSectionEnd { .. } => "it has no END line",
                pem::Error::Base64Decode(_) => "it is not base64",
                _ => "its lines are not those of PEM",
            };
            let words = format!("its PEM block is damaged or cut off ({why}): export it again");
            pieces.push(Piece::Unusable(words));
        }
    }
}

/// DER of the object identifier pkcs7-signedData, with which every .p7b starts (RFC 5652 section 5.1).
const SIGNED_DATA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02";

fn der_pieces(der: &[u8], pieces: &mut Vec<Piece>) {
    // The outermost header has 2 to 6 bytes.
    if (2..=6).any(|at| der.get(at..).is_some_and(|rest| rest.starts_with(SIGNED_DATA))) {
        let before = pieces.len();
        if signed_data(der, pieces).is_none() {
            pieces.truncate(before);
            pieces.push(unusable(match der.get(1) {
                // Length "indefinite" (X.690 8.1.3.6), which DER does not know.
                Some(0x80) => {
                    "its PKCS#7 is in BER, not DER: convert it with `openssl pkcs7 -print_certs -inform DER -in FILE`"
                }
                _ => "its PKCS#7 is damaged or cut off: export it again",
            }));
        }
    } else if is_revocation_list(der).unwrap_or(false) {
        pieces.push(Piece::RevocationList(der.to_vec()));
    } else {
        pieces.push(Piece::Certificate(CertificateDer::from(der.to_vec())));
    }
}

/// The certificates and revocation lists of a PKCS#7 file (RFC 5652 5.1); `None` = it is damaged, and nothing of it counts.
fn signed_data(der: &[u8], pieces: &mut Vec<Piece>) -> Option<()> {
    let (trailing, content_info) = any(der, Class::Universal, Tag::Sequence)?;
    let (rest, _) = any(content_info, Class::Universal, Tag::Oid)?;
    let (_, explicit) = any(rest, Class::ContextSpecific, Tag(0))?;
    let (_, signed_data) = any(explicit, Class::Universal, Tag::Sequence)?;
    let (rest, _) = any(signed_data, Class::Universal, Tag::Integer)?;
    let (rest, _) = any(rest, Class::Universal, Tag::Set)?;
    let (rest, _) = any(rest, Class::Universal, Tag::Sequence)?;
    let before = pieces.len();
    let (rest, certificates) = optional(rest, Tag(0))?;
    each(certificates, pieces, |der| Piece::Certificate(CertificateDer::from(der.to_vec())))?;
    let (rest, lists) = optional(rest, Tag(1))?;
    each(lists, pieces, |der| Piece::RevocationList(der.to_vec()))?;
    let (rest, _) = any(rest, Class::Universal, Tag::Set)?;
    if pieces.len() == before {
        pieces.push(unusable("its PKCS#7 holds no certificate"));
    }
    (rest.is_empty() && trailing.is_empty()).then_some(())
}

/// The content of the first element of `bytes`, if it is of this kind, and what follows.
fn any(bytes: &[u8], class: Class, tag: Tag) -> Option<(&[u8], &[u8])> {
    let (rest, element) = Any::from_der(bytes).ok()?;
    (element.class() == class && element.tag() == tag).then_some((rest, element.data))
}

/// As [`any`] for `[tag] IMPLICIT .. OPTIONAL`; nothing if it is not there.
fn optional(bytes: &[u8], tag: Tag) -> Option<(&[u8], &[u8])> {
    let (rest, element) = Any::from_der(bytes).ok()?;
    match element.class() == Class::ContextSpecific && element.tag() == tag {
        true => Some((rest, element.data)),
        false => Some((bytes, &[])),
    }
}

/// A piece for each element of a SET; choices other than the plain one are named (RFC 5652 10.2.1, 10.2.2).
fn each(mut set: &[u8], pieces: &mut Vec<Piece>, make: impl Fn(&[u8]) -> Piece) -> Option<()> {
    while !set.is_empty() && pieces.len() <= PIECES_MAX {
        let (rest, element) = Any::from_der(set).ok()?;
        let whole = &set[..set.len() - rest.len()];
        let is_plain = element.class() == Class::Universal && element.tag() == Tag::Sequence;
        pieces.push(match is_plain {
            true => make(whole),
            false => unusable("a part of its PKCS#7 is no X.509 certificate"),
        });
        set = rest;
    }
    Some(())
}

/// Whether it is built as a revocation list (RFC 5280 5.1) and not as a certificate: a time stands where a certificate
/// has its validity. Lengths are not judged: a list that was cut off is a list.
fn is_revocation_list(der: &[u8]) -> Option<bool> {
    let header = |bytes| Header::from_der(bytes).ok();
    let (inside, outer) = header(der)?;
    let (mut rest, list) = header(inside)?;
    if outer.tag() != Tag::Sequence || list.tag() != Tag::Sequence {
        return None;
    }
    // version OPTIONAL
    let (after, first) = Any::from_der(rest).ok()?;
    if first.tag() == Tag::Integer && first.class() == Class::Universal {
        rest = after;
    }
    let (rest, _signature) = any(rest, Class::Universal, Tag::Sequence)?;
    let (rest, _issuer) = any(rest, Class::Universal, Tag::Sequence)?;
    let (_, next) = header(rest)?;
    Some([Tag::UtcTime, Tag::GeneralizedTime].contains(&next.tag()))
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
