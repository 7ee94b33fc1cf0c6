//! What a person wants to know of a certificate beside names, validity and thumbprints.
//!
//! Owns: the words for keys, signatures and names, what of them is weak, and the PEM form. Invariant: text out of a
//! certificate is escaped and bounded. Must not know: which certificates are trusted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::auth::x509::{self, CertificateInfo, MalformedCertificate};

/// Most names of a certificate that are shown.
const NAMES_MAX: usize = 20;

/// Smallest RSA key that is taken, in bits: what TLS stacks of today refuse is below it.
const RSA_BITS_MIN: usize = 2048;

/// What is to be known of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Names, validity, thumbprints.
    pub info: CertificateInfo,
    /// The kind of its key, e.g. `P-256`, `RSA 2048`.
    pub key: String,
    /// Why its key is weak.
    pub weak_key: bool,
    /// How it was signed, e.g. `ECDSA with SHA-256`.
    pub signature: String,
    /// Whether its signature is over a broken digest.
    pub weak_signature: bool,
    /// Whether it is a CA (basicConstraints).
    pub is_ca: bool,
    /// DNS names and addresses of its SAN.
    pub names: Vec<String>,
    /// Its size in PEM, as a device keeps it.
    pub pem_bytes: usize,
}

impl Facts {
    /// Reads one certificate.
    ///
    /// # Errors
    /// It is none.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, MalformedCertificate> {
        let info = CertificateInfo::read(der)?;
        let (_, parsed) =
            X509Certificate::from_der(der).map_err(|_| x509::not_a_certificate(der))?;
        let (key, weak_key) = key(&parsed);
        let (signature, weak_signature) =
            signature(&parsed.signature_algorithm.algorithm.to_id_string());
        let names = parsed.subject_alternative_name().ok().flatten();
        let names =
            names.map(|san| san.value.general_names.iter().filter_map(name).take(NAMES_MAX));
        Ok(Self {
            key,
            weak_key,
            signature,
            weak_signature,
            is_ca: parsed.basic_constraints().ok().flatten().is_some_and(|c| c.value.ca),
            names: names.map(Iterator::collect).unwrap_or_default(),
            pem_bytes: pem(der).len(),
            info,
        })
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.escape_debug().take(256).collect()),
        GeneralName::IPAddress(bytes) => match *bytes {
            [a, b, c, d] => Some(std::net::Ipv4Addr::new(*a, *b, *c, *d).to_string()),
            bytes => {
                let bytes: [u8; 16] = bytes.try_into().ok()?;
                Some(std::net::Ipv6Addr::from(bytes).to_string())
            }
        },
        _ => None,
    }
}

fn key(certificate: &X509Certificate<'_>) -> (String, bool) {
    let spki = certificate.public_key();
    let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    let curve = curve.map(|oid| oid.to_id_string()).unwrap_or_default();
    match (spki.parsed(), curve.as_str()) {
        (Ok(PublicKey::RSA(key)), _) => {
            let bits = key.key_size();
            (format!("RSA {bits}"), bits < RSA_BITS_MIN)
        }
        (_, "1.2.840.10045.3.1.7") => ("P-256".to_owned(), false),
        (_, "1.3.132.0.34") => ("P-384".to_owned(), false),
        (_, "1.3.132.0.35") => ("P-521".to_owned(), false),
        _ => match spki.algorithm.algorithm.to_id_string().as_str() {
            "1.3.101.112" => ("Ed25519".to_owned(), false),
            other => (format!("of kind {other}"), false),
        },
    }
}

/// In words, and whether the digest is broken (collisions are made for MD5 since 2004, for SHA-1 since 2017).
fn signature(oid: &str) -> (String, bool) {
    let (words, weak) = match oid {
        "1.2.840.113549.1.1.4" => ("RSA with MD5", true),
        "1.2.840.113549.1.1.5" => ("RSA with SHA-1", true),
        "1.2.840.10045.4.1" => ("ECDSA with SHA-1", true),
        "1.2.840.113549.1.1.10" => ("RSA-PSS", false),
        "1.2.840.113549.1.1.11" => ("RSA with SHA-256", false),
        "1.2.840.113549.1.1.12" => ("RSA with SHA-384", false),
        "1.2.840.113549.1.1.13" => ("RSA with SHA-512", false),
        "1.2.840.10045.4.3.2" => ("ECDSA with SHA-256", false),
        "1.2.840.10045.4.3.3" => ("ECDSA with SHA-384", false),
        "1.2.840.10045.4.3.4" => ("ECDSA with SHA-512", false),
        "1.3.101.112" => ("Ed25519", false),
        other => (other, false),
    };
    (words.to_owned(), weak)
}

/// A certificate as PEM (RFC 7468): lines of 64 characters.
pub fn pem(der: &[u8]) -> String {
    block("CERTIFICATE", der)
}

/// One PEM block (RFC 7468).
pub(crate) fn block(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::{NOW, ders};
    use crate::certs::{Authority, Curve, Window};

    #[test]
    fn keys_signatures_and_names_are_told() {
        let ca = Authority::root("CA", Curve::P384, Window::days(NOW, 9)).unwrap();
        let ips = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let server = ca.issue_server(&["gw.example"], &ips, Window::days(NOW, 9)).unwrap();
        let read = |text: &str| Facts::read(&ders(text)[0]).unwrap();
        let (ca, leaf) = (read(ca.certificate_pem()), read(&server.leaf_pem));
        assert_eq!((&*ca.key, &*ca.signature, ca.is_ca), ("P-384", "ECDSA with SHA-384", true));
        assert_eq!(
            (&*leaf.key, &*leaf.signature, leaf.is_ca),
            ("P-256", "ECDSA with SHA-384", false)
        );
        assert_eq!(leaf.names, ["gw.example", "127.0.0.1", "::1"]);
        assert_eq!(leaf.pem_bytes, server.leaf_pem.replace('\r', "").len());
        assert!(!ca.weak_key && !ca.weak_signature);
        for (oid, expected) in [
            ("1.2.840.113549.1.1.4", true),
            ("1.2.840.113549.1.1.5", true),
            ("1.2.840.10045.4.1", true),
            ("1.2.840.10045.4.3.2", false),
            ("1.2.840.113549.1.1.11", false),
            ("1.2.3", false),
        ] {
            assert_eq!(signature(oid).1, expected, "{oid}");
        }
    }

    #[test]
    fn a_certificate_is_written_as_others_write_it() {
        let ca = Authority::root("CA", Curve::P256, Window::days(NOW, 9)).unwrap();
        let text = ca.certificate_pem();
        assert_eq!(pem(&ders(text)[0]), text.replace('\r', ""));
    }
}
