//! What path validation asks one certificate of a path: leaf, intermediate or anchor.
//!
//! Owns: [`Element`], read out of a certificate in one pass; what makes a certificate unusable whatever its place.
//! Invariants: a field that could not be read is an error, never a default that lets more pass.
//! Must not know: the path, who is trusted.
//!
//! Refused here, because webpki takes it or does not look (RFC 5280 clauses):
//! - the same extension twice (4.2); webpki notices the six that it reads;
//! - an empty issuer (4.1.2.4);
//! - a name of which only the beginning is a name: then the common name could be read differently elsewhere;
//! - an extension that decides and cannot be read: basicConstraints, keyUsage, extKeyUsage, nameConstraints,
//!   policyConstraints, and a critical subjectAltName (4.2). Others, if not critical, may say what they like;
//! - a serial number that is not DER, so that no revocation list can be evaded by writing the number differently.
//!   A negative, zero or long one is taken as it is (4.1.2.2: "SHOULD be prepared to gracefully handle").

use std::collections::HashSet;

use rustls_pki_types::CertificateDer;
use x509_parser::asn1_rs::{Any, Class, FromDer as _, Tag};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_PKCS9_EMAIL_ADDRESS, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_KEY_USAGE, OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_POLICY_CONSTRAINTS,
};
use x509_parser::prelude::{X509Certificate, X509Extension, X509Name};

use super::keys;
use crate::auth::x509::{self, MalformedCertificate, Validity};
use crate::clock::UnixMillis;

/// What a certificate may be used for by its extKeyUsage (4.2.1.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// No such extension: anything.
    Unlimited,
    /// Client authentication is among them.
    Client,
    /// Not client authentication by name, but `anyExtendedKeyUsage`.
    Any,
    /// Something else only.
    Other,
}

/// The facts of one certificate. The names and the key are DER with their headers.
#[derive(Debug, Clone)]
pub(super) struct Element<'a> {
    pub(super) subject: &'a [u8],
    pub(super) issuer: &'a [u8],
    pub(super) serial: &'a [u8],
    pub(super) spki: &'a [u8],
    pub(super) not_before: UnixMillis,
    pub(super) not_after: UnixMillis,
    pub(super) common_name: Option<String>,
    pub(super) ca: bool,
    pub(super) path_len: Option<u32>,
    pub(super) purpose: Purpose,
    /// keyUsage; what it does not forbid is allowed.
    pub(super) may_sign_data: bool,
    pub(super) may_sign_certificates: bool,
    pub(super) may_sign_lists: bool,
    /// policyConstraints with requireExplicitPolicy.
    pub(super) demands_policy: bool,
    /// nameConstraints for e-mail addresses.
    pub(super) constrains_email: bool,
    /// An e-mail address in the subject and none in subjectAltName: the case that webpki does not constrain.
    pub(super) email_in_subject: bool,
    pub(super) key: Result<(), String>,
    pub(super) key_id: Option<&'a [u8]>,
    pub(super) issuer_key_id: Option<&'a [u8]>,
}

impl<'a> Element<'a> {
    /// Reads one certificate.
    pub(super) fn read(der: &'a CertificateDer<'_>) -> Result<Self, MalformedCertificate> {
        Self::of(&x509::parse(der)?)
    }

    /// Reads one that is parsed.
    pub(super) fn of(certificate: &X509Certificate<'a>) -> Result<Self, MalformedCertificate> {
        let wrong = |why: &str| MalformedCertificate::Der(why.to_owned());
        let tbs = &certificate.tbs_certificate;
        let mut seen = HashSet::new();
        let mut constrains_email = false;
        for extension in certificate.extensions() {
            if !seen.insert(extension.oid.as_bytes()) {
                return Err(wrong("it has the same extension twice"));
            }
            if is_unreadable(extension.parsed_extension()) && decides(extension) {
                return Err(wrong("one of its extensions cannot be read"));
            }
            if extension.oid == OID_X509_EXT_NAME_CONSTRAINTS {
                constrains_email = is_email_constrained(extension.value)
                    .ok_or_else(|| wrong("its name constraints cannot be read"))?;
            }
        }
        if !is_whole(&tbs.subject) || !is_whole(&tbs.issuer) {
            return Err(wrong("its subject or issuer is not a name"));
        }
        if tbs.issuer.iter_rdn().next().is_none() {
            return Err(wrong("its issuer is empty"));
        }
        if !is_minimal(tbs.raw_serial()) {
            return Err(wrong("its serial number is not in DER"));
        }
        let (not_before, not_after) = x509::window(certificate);
        let mut element = Self {
            subject: tbs.subject.as_raw(),
            issuer: tbs.issuer.as_raw(),
            serial: tbs.raw_serial(),
            spki: tbs.subject_pki.raw,
            not_before,
            not_after,
            common_name: x509::first_common_name(&tbs.subject),
            ca: false,
            path_len: None,
            purpose: Purpose::Unlimited,
            may_sign_data: true,
            may_sign_certificates: true,
            may_sign_lists: true,
            demands_policy: false,
            constrains_email,
            email_in_subject: tbs.subject.iter_by_oid(&OID_PKCS9_EMAIL_ADDRESS).next().is_some(),
            key: keys::check(&tbs.subject_pki),
            key_id: None,
            issuer_key_id: None,
        };
        for extension in certificate.extensions() {
            element.take(extension.parsed_extension());
        }
        Ok(element)
    }

    fn take(&mut self, extension: &ParsedExtension<'a>) {
        match extension {
            ParsedExtension::BasicConstraints(constraints) => {
                self.ca = constraints.ca;
                self.path_len = constraints.path_len_constraint;
            }
            ParsedExtension::KeyUsage(usage) => {
                self.may_sign_data = usage.digital_signature();
                self.may_sign_certificates = usage.key_cert_sign();
                self.may_sign_lists = usage.crl_sign();
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                self.purpose = match (usage.client_auth, usage.any) {
                    (true, _) => Purpose::Client,
                    (false, true) => Purpose::Any,
                    (false, false) => Purpose::Other,
                };
            }
            ParsedExtension::PolicyConstraints(policy) => {
                self.demands_policy = policy.require_explicit_policy.is_some();
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                let is_email = |name: &GeneralName<'_>| matches!(name, GeneralName::RFC822Name(_));
                if names.general_names.iter().any(is_email) {
                    self.email_in_subject = false;
                }
            }
            ParsedExtension::SubjectKeyIdentifier(id) => self.key_id = Some(id.0),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.issuer_key_id = id.key_identifier.as_ref().map(|id| id.0);
            }
            _ => {}
        }
    }

    /// Where `now` lies in the validity.
    pub(super) fn validity(&self, now: UnixMillis) -> Validity {
        x509::validity(self.not_before, self.not_after, now)
    }
}

/// Whether an extension, or a name in it, cannot be read.
fn is_unreadable(extension: &ParsedExtension<'_>) -> bool {
    let is_none = |name: &GeneralName<'_>| matches!(name, GeneralName::Invalid(..));
    match extension {
        ParsedExtension::ParseError { .. } => true,
        ParsedExtension::SubjectAlternativeName(names) => names.general_names.iter().any(is_none),
        _ => false,
    }
}

/// Whether an extension that cannot be read makes the certificate unusable.
fn decides(extension: &X509Extension<'_>) -> bool {
    extension.critical
        || [
            OID_X509_EXT_BASIC_CONSTRAINTS,
            OID_X509_EXT_KEY_USAGE,
            OID_X509_EXT_EXTENDED_KEY_USAGE,
            OID_X509_EXT_NAME_CONSTRAINTS,
            OID_X509_EXT_POLICY_CONSTRAINTS,
        ]
        .contains(&extension.oid)
}

/// Whether nameConstraints speak of e-mail addresses; `None` if they cannot be read. Read here, because x509-parser
/// leaves a list out in silence when one name of it is odd.
fn is_email_constrained(value: &[u8]) -> Option<bool> {
    let mut found = false;
    for list in parts(only(value, Class::Universal)?.data)? {
        for subtree in parts(list.data)? {
            // A base, and neither minimum nor maximum (4.2.1.10).
            let base = only(subtree.data, Class::ContextSpecific)?;
            found |= base.tag() == Tag(1);
        }
    }
    Some(found)
}

fn parts(mut content: &[u8]) -> Option<Vec<Any<'_>>> {
    let mut parts = Vec::new();
    while !content.is_empty() {
        let (rest, part) = Any::from_der(content).ok()?;
        parts.push(part);
        content = rest;
    }
    Some(parts)
}

fn only(content: &[u8], class: Class) -> Option<Any<'_>> {
    let (rest, part) = Any::from_der(content).ok()?;
    (rest.is_empty() && part.class() == class).then_some(part)
}

/// Whether all of the name's bytes were read: the parser stops at the first part that is none.
fn is_whole(name: &X509Name<'_>) -> bool {
    Any::from_der(name.as_raw()).is_ok_and(|(rest, _)| rest.is_empty())
}

/// Whether the content of an INTEGER is as short as it can be (X.690 8.3.2).
pub(super) fn is_minimal(number: &[u8]) -> bool {
    match number {
        [] => false,
        [0, second, ..] => second & 0x80 != 0,
        [0xff, second, ..] => second & 0x80 == 0,
        _ => true,
    }
}
