//! What we read out of one X.509 certificate, and how it is written down for people.
//!
//! Owns: [`CertificateInfo`]; [`pieces`] splits files into certificates and what lies among them.
//! Invariants: text out of a certificate is foreign: it is escaped and cut before it reaches a log line.
//! Must not know: which certificates are trusted.

mod pieces;

use std::fmt::Write as _;

use rustls_pki_types::CertificateDer;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use x509_parser::asn1_rs::{Header, Tag};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

#[cfg(test)]
pub(crate) use self::pieces::testing;
pub use self::pieces::{Piece, split};
use crate::clock::UnixMillis;

/// Longest name that we print, in characters: a Sphere subject has 131 (`CN=` and 128 hex digits).
const NAME_CHARS_MAX: usize = 256;

/// Why bytes are not a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedCertificate {
    /// Not DER of an X.509 certificate.
    #[error("it is not an X.509 certificate: {0}")]
    Der(String),
    /// Something follows the certificate.
    #[error("{0} bytes follow the certificate")]
    Trailing(usize),
}

/// The facts of one certificate that decisions and messages need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Subject, for people: escaped, at most 256 characters.
    pub subject: String,
    /// Issuer, for people: escaped, at most 256 characters.
    pub issuer: String,
    /// Whether subject and issuer are the same name (which a self-signed certificate shows).
    pub self_issued: bool,
    /// The first common name of the subject, as it stands there; `None` when there is none or it is not text.
    pub common_name: Option<String>,
    /// Start of validity.
    pub not_before: UnixMillis,
    /// End of validity (inclusive, to the second: RFC 5280 4.1.2.5).
    pub not_after: UnixMillis,
    /// SHA-1 over the DER, lower-case hex: the "thumbprint" of the Azure tools.
    pub sha1: String,
    /// SHA-256 over the DER, lower-case hex.
    pub sha256: String,
}

/// Where `now` lies in a certificate's validity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Before `not_before`.
    NotYet,
    /// Within.
    Valid,
    /// After `not_after`.
    Expired,
}

/// Places `now` in `not_before..=not_after`, counted in seconds.
pub fn validity(not_before: UnixMillis, not_after: UnixMillis, now: UnixMillis) -> Validity {
    if now.as_secs() < not_before.as_secs() {
        Validity::NotYet
    } else if now.as_secs() > not_after.as_secs() {
        Validity::Expired
    } else {
        Validity::Valid
    }
}

impl CertificateInfo {
    /// Reads one DER certificate.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, MalformedCertificate> {
        let certificate = parse(der)?;
        let (not_before, not_after) = window(&certificate);
        Ok(Self {
            subject: printable(certificate.subject()),
            issuer: printable(certificate.issuer()),
            self_issued: certificate.subject().as_raw() == certificate.issuer().as_raw(),
            common_name: first_common_name(certificate.subject()),
            not_before,
            not_after,
            sha1: hex(&Sha1::digest(der)),
            sha256: hex(&Sha256::digest(der)),
        })
    }

    /// Where `now` lies in the validity.
    pub fn validity(&self, now: UnixMillis) -> Validity {
        validity(self.not_before, self.not_after, now)
    }
}

/// Why a reader gave up, in words: its own are for programmers.
pub(crate) fn not_a_certificate(der: &[u8]) -> MalformedCertificate {
    let is_cut = Header::from_der(der).is_ok_and(|(inside, header)| {
        let is_longer = header.length().definite().is_ok_and(|length| length > inside.len());
        header.tag() == Tag::Sequence && is_longer
    });
    let why = match is_cut {
        true => "it is cut off: export it again",
        false => "it is not DER of a certificate: export it again",
    };
    MalformedCertificate::Der(why.to_owned())
}

/// Parses a certificate and sees to it that nothing follows.
pub(super) fn parse<'a>(
    der: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, MalformedCertificate> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| not_a_certificate(der))?;
    match rest.len() {
        0 => Ok(certificate),
        n => Err(MalformedCertificate::Trailing(n)),
    }
}

/// Whether it says of itself that it is a CA (basicConstraints).
pub fn is_ca(der: &CertificateDer<'_>) -> bool {
    let said = |c: &X509Certificate<'_>| c.basic_constraints().ok().flatten().map(|c| c.value.ca);
    parse(der).is_ok_and(|certificate| said(&certificate).unwrap_or(false))
}

/// First and last instant of the validity.
pub(super) fn window(certificate: &X509Certificate<'_>) -> (UnixMillis, UnixMillis) {
    let validity = certificate.validity();
    (from_seconds(validity.not_before.timestamp()), from_seconds(validity.not_after.timestamp()))
}

/// The first CN wins (edgehub.md 7.3), also when it is not text: a second one must not stand in for it.
pub(super) fn first_common_name(name: &X509Name<'_>) -> Option<String> {
    let first = name.iter_common_name().next()?;
    // What a device id is written in; a NumericString is no form of a common name (RFC 5280 A.1, DirectoryString).
    let is_text =
        matches!(first.attr_value().tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String);
    first.as_str().ok().filter(|_| is_text).map(str::to_owned)
}

/// A name for people. Foreign text: control characters are escaped, length is bounded.
pub(super) fn printable(name: &X509Name<'_>) -> String {
    let mut text: String = name.to_string().escape_debug().take(NAME_CHARS_MAX).collect();
    if text.chars().count() == NAME_CHARS_MAX {
        text.push_str("...");
    }
    text
}

/// Times before 1970 count as 1970.
fn from_seconds(seconds: i64) -> UnixMillis {
    UnixMillis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

/// A time as people write it, e.g. `2026-03-01T12:00:00Z`.
pub fn utc(time: UnixMillis) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_second(seconds) {
        Ok(stamp) => stamp.to_string(),
        Err(_) => "the end of time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_includes_both_ends_to_the_second() {
        let (from, to) = (UnixMillis(10_000), UnixMillis(20_000));
        for (now, expected) in [
            (9_999, Validity::NotYet),
            (10_000, Validity::Valid),
            (20_999, Validity::Valid),
            (21_000, Validity::Expired),
        ] {
            assert_eq!(validity(from, to, UnixMillis(now)), expected, "at {now}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_told_in_plain_words() {
        for (der, why) in [
            (&b"\x30\x82\x01\x00\x30\x03"[..], "it is cut off"),
            (b"\x30\x03\x02\x01\x01", "it is not DER of a certificate"),
            (b"", "it is not DER of a certificate"),
            (b"hello", "it is not DER of a certificate"),
            (b"\x30\x80\x00\x00", "it is not DER of a certificate"),
        ] {
            let told = CertificateInfo::read(&CertificateDer::from(der)).unwrap_err().to_string();
            let expected = format!("it is not an X.509 certificate: {why}: export it again");
            assert_eq!(told, expected, "{der:02x?}");
        }
    }

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(utc(UnixMillis(1_700_000_000_123)), "2023-11-14T22:13:20Z");
        assert_eq!(utc(UnixMillis(u64::MAX)), "the end of time");
    }
}
