//! What a CA's certificate must have to serve as an anchor: what webpki does not ask of anchors.
//!
//! Owns: the checks of one certificate. Must not know: its neighbours, files.

use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::X509Certificate;

use super::{EntryRefusal, keys};
use crate::auth::x509::MalformedCertificate;

/// What is kept of a certificate that passed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) path_len: Option<u32>,
    /// The digest of its own signature, if that is broken and another CA made it.
    pub(super) weak_signature: Option<&'static str>,
}

/// The checks of a CA that webpki does not make on anchors.
pub(super) fn check_ca(certificate: &X509Certificate<'_>) -> Result<Checked, EntryRefusal> {
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
    // A key that no signature can be verified with would sit in the bundle without use, or worse, with.
    keys::check(certificate.public_key()).map_err(EntryRefusal::Key)?;
    Ok(Checked {
        path_len: constraints.value.path_len_constraint,
        weak_signature: weak_signature(certificate),
    })
}

/// Nobody looks at an anchor's own signature, so this is no reason to refuse it: but the certificate above it may be
/// gone for good, and how this one came about cannot be told.
fn weak_signature(certificate: &X509Certificate<'_>) -> Option<&'static str> {
    const MD5: [&str; 2] = ["1.2.840.113549.1.1.4", "1.2.840.113549.1.1.2"];
    const SHA1: [&str; 4] =
        ["1.2.840.113549.1.1.5", "1.2.840.10045.4.1", "1.2.840.10040.4.3", "1.3.14.3.2.29"];
    if certificate.subject().as_raw() == certificate.issuer().as_raw() {
        return None;
    }
    let algorithm = certificate.signature_algorithm.algorithm.to_id_string();
    match algorithm.as_str() {
        a if MD5.contains(&a) => Some("MD5"),
        a if SHA1.contains(&a) => Some("SHA-1"),
        _ => None,
    }
}
