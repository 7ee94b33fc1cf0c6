//! The judgement over a presented chain.
//!
//! Owns: path validation (RFC 5280 section 6): webpki's, and what webpki leaves out.
//! Invariants:
//! - Nothing is admitted that webpki refuses; everything here takes away.
//! - The work of one judgement is bounded: [`CHAIN_MAX`](super::CHAIN_MAX) certificates, [`NAMESAKES_MAX`] of one
//!   name, [`SIGNATURES_MAX`](super::signatures::SIGNATURES_MAX) signatures worked out. Who has no certificate of
//!   ours can cost that and no more.
//!
//! Must not know: files.
//!
//! # Who checks what
//! | what (RFC 5280) | webpki 0.103 | here |
//! |---|---|---|
//! | DER, version 3, unique ids (4.1) | strict; version 1 and unique ids are refused | |
//! | tbs.signature = signatureAlgorithm (4.1.1.2) | yes | |
//! | serial number (4.1.2.2) | any | DER, otherwise any |
//! | names chain (6.1.3 a 4) | byte for byte: 7.1's comparison without case is not made, 4.1.2.4 lets CAs copy | not empty, whole |
//! | signature (6.1.3 a 1) | ring's algorithms; no SHA-1, no P-521 | keys by kind and length ([`keys`](super::keys)) |
//! | validity (6.1.3 a 2) | leaf, intermediates; a date before 1970 is no date to it | anchors |
//! | revocation (6.1.3 a 3) | not used, see [`revocation`](super::revocation) | leaf, intermediates, and an anchor by another one |
//! | basicConstraints (6.1.4 k) | leaf is no CA, intermediates are | anchors, at load |
//! | path length (6.1.4 l, m) | intermediates; self-issued ones count, which is stricter | anchors; self-issued ones do not count |
//! | keyUsage (6.1.4 n, RFC 5246 7.4.6) | not at all | keyCertSign of CAs, digitalSignature of the leaf |
//! | extKeyUsage (4.2.1.12) | every certificate of the path: nested, as Windows has it | the leaf needs clientAuth by name if it has any; a CA may have anyExtendedKeyUsage instead; anchors at load |
//! | nameConstraints (4.2.1.10) | anchors and intermediates: DNS, IP; directory names and URIs are refused whenever constrained; e-mail in subjectAltName refused | e-mail in the subject |
//! | policies (6.1.3 d-f) | critical ones are refused; not critical ones are not looked at | requireExplicitPolicy is refused: no policy is ours |
//! | unknown critical extensions (4.2) | leaf, intermediates | anchors, at load |
//! | the same extension twice (4.2) | the six that it reads | all |
//! | key identifiers (4.2.1.1) | no | order the anchors only (a mismatch refuses nobody: 6.1 does not ask) |
//!
//! Certificates that were presented and are on no path to an anchor do not count, whatever is wrong with them.

use std::cell::RefCell;
use std::time::Duration;

use rustls_pki_types::{
    CertificateDer, Der, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
};
use sha2::{Digest as _, Sha256};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage, VerifiedPath};
use x509_parser::prelude::X509Certificate;

use super::element::{Element, Purpose};
use super::refusal::refusal;
use super::revocation::{Issuer, ListInfo, Revocation, Signed};
use super::signatures::Effort;
use super::{CHAIN_MAX, Entry, EntryRefusal, TrustBundle, VerifiedLeaf, X509Refusal};
use crate::auth::x509::{CertificateInfo, MalformedCertificate, Validity};
use crate::clock::UnixMillis;

/// Most presented CAs of one name. A cross-signed one has two; with seven of one name there are 8,659 ways to put a
/// path together, with three of each at most a few dozen.
const NAMESAKES_MAX: usize = 3;

/// What the judgement asks an anchor, besides webpki.
#[derive(Debug, Clone)]
pub(super) struct Authority {
    subject: Vec<u8>,
    issuer: Vec<u8>,
    serial: Vec<u8>,
    spki: Vec<u8>,
    /// Its own signature: who vouched for it.
    signed: Signed,
    key_id: Option<Vec<u8>>,
    path_len: Option<u32>,
    may_sign_lists: bool,
    constrains_email: bool,
}

impl Authority {
    /// Of a certificate that is to be an anchor; refuses what can vouch for no client. That it is a CA's is judged by
    /// the loading.
    pub(super) fn of(certificate: &X509Certificate<'_>, der: &[u8]) -> Result<Self, EntryRefusal> {
        let element = Element::of(certificate)?;
        if matches!(element.purpose, Purpose::Other) {
            return Err(EntryRefusal::Purpose);
        }
        if element.demands_policy {
            return Err(EntryRefusal::Policy);
        }
        Ok(Self {
            subject: element.subject.to_vec(),
            issuer: element.issuer.to_vec(),
            serial: element.serial.to_vec(),
            signed: Signed::of(der).unwrap_or_default(),
            spki: element.spki.to_vec(),
            key_id: element.key_id.map(<[u8]>::to_vec),
            path_len: element.path_len,
            may_sign_lists: element.may_sign_lists,
            constrains_email: element.constrains_email,
        })
    }

    /// What stays when a CA renews its certificate: SHA-256 over its name and public key, both DER.
    fn digest(&self) -> [u8; 32] {
        Sha256::new().chain_update(&self.subject).chain_update(&self.spki).finalize().into()
    }

    fn as_issuer(&self) -> Issuer<'_> {
        Issuer { name: &self.subject, spki: &self.spki, may_sign_lists: self.may_sign_lists }
    }
}

impl TrustBundle {
    /// Judges a presented chain (leaf first) for client authentication at `now`.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixMillis,
    ) -> Result<VerifiedLeaf, X509Refusal> {
        self.verify_below(chain, now, now)
    }

    /// The same, with what was presented judged at `then` and the anchor at `now`: a CA that was renewed after the leaf
    /// had ended still is the CA that signed it.
    pub(in crate::auth) fn verify_below(
        &self,
        chain: &[CertificateDer<'_>],
        then: UnixMillis,
        now: UnixMillis,
    ) -> Result<VerifiedLeaf, X509Refusal> {
        let (leaf, others) = chain.split_first().ok_or(X509Refusal::NoCertificate)?;
        if chain.len() > CHAIN_MAX {
            return Err(X509Refusal::ChainTooLong(chain.len()));
        }
        // Names and thumbprints are written out for a refusal alone.
        let refused = |e: &webpki::Error| match CertificateInfo::read(leaf) {
            Ok(info) => refusal(e, &info, then),
            Err(e) => malformed(&e),
        };
        let facts = Element::read(leaf).map_err(|e| malformed(&e))?;
        let end_entity = EndEntityCert::try_from(leaf).map_err(|e| refused(&e))?;
        judge_leaf(&facts, then)?;

        let presented = Presented::sort(facts, others)?;
        let (anchors, places) = self.candidates(&presented);
        let effort = Effort::default();
        let algorithms = self.good.with(webpki::ALL_VERIFICATION_ALGS, &effort);
        let algorithms: Vec<&dyn SignatureVerificationAlgorithm> =
            algorithms.iter().map(|a| a as _).collect();
        // Paths are barred here and not filtered beforehand: webpki then goes on to the next candidate of the same
        // name (an old and a new tenant CA), and we can say which entry it was.
        let barred = RefCell::new(None);
        let place = |path: &VerifiedPath<'_>| {
            let at = anchors.iter().position(|a| std::ptr::eq(a, path.anchor()));
            places[at.expect("the path ends at one of our anchors")]
        };
        let judge = |path: &VerifiedPath<'_>| {
            self.judge_path(path, place(path), &presented, now).map_err(|reason| {
                let mut barred = barred.borrow_mut();
                // Of several the one that tells most: that a predecessor of the CA expired is the least.
                if barred.is_none() || !matches!(reason, X509Refusal::AnchorNotValid { .. }) {
                    *barred = Some(reason);
                }
                webpki::Error::UnknownIssuer
            })
        };
        let verified = end_entity.verify_for_usage(
            &algorithms,
            &anchors,
            &presented.usable,
            UnixTime::since_unix_epoch(Duration::from_secs(then.as_secs())),
            ForClients,
            None,
            Some(&judge),
        );
        match verified {
            Ok(path) => {
                let at = place(&path);
                let (anchor, authority) = (&self.entries[at], &self.authorities[at]);
                let facts = presented.leaf;
                Ok(VerifiedLeaf {
                    common_name: facts.common_name.ok_or(X509Refusal::NoCommonName)?,
                    not_before: facts.not_before,
                    not_after: facts.not_after,
                    anchor_sha256: anchor.info.sha256.clone(),
                    ca_sha256: authority.digest(),
                })
            }
            Err(_) if barred.borrow().is_some() => {
                Err(barred.take().expect("looked at in the guard"))
            }
            Err(_) if effort.is_used_up() => Err(X509Refusal::TooComplex),
            Err(e) => Err(presented.instead_of(refused(&e))),
        }
    }

    /// Of a chain that held, what a later judgement can go by: the leaf, and what was presented that names lead to from
    /// there. A path through another anchor is among it: a bundle that has the root in place of the tenant CA keeps its
    /// sessions. What came besides (unrelated, twice, unreadable) is on no path, whatever the bundle.
    pub(in crate::auth) fn worth_keeping(
        chain: &[CertificateDer<'_>],
    ) -> Vec<CertificateDer<'static>> {
        let Some((leaf, others)) = chain.split_first() else { return Vec::new() };
        let mut kept = vec![leaf.clone().into_owned()];
        let presented = Element::read(leaf).ok().map(|leaf| Presented::sort(leaf, others));
        let Some(Ok(presented)) = presented else { return kept };
        let mut issuers = vec![presented.leaf.issuer];
        let mut left: Vec<_> = presented.elements.iter().zip(&presented.usable).collect();
        while let Some(issuer) = issuers.pop() {
            left.retain(|(element, der)| {
                let is_issuer = element.subject == issuer;
                if is_issuer {
                    issuers.push(element.issuer);
                    kept.push((*der).clone().into_owned());
                }
                !is_issuer
            });
        }
        kept
    }

    /// Takes a certificate revocation list (DER) as well; `source` names it in reports.
    pub fn add_revocation_list(&mut self, source: &str, der: &[u8]) -> Result<(), EntryRefusal> {
        self.revocation.add(source, der)
    }

    /// The lists of revoked certificates and where they stand, for the log and the status.
    pub fn revocation_lists(&self, now: UnixMillis) -> Vec<ListInfo> {
        let anchors: Vec<_> = self.authorities.iter().map(Authority::as_issuer).collect();
        self.revocation.report(&anchors, now)
    }

    /// The entries that admit nobody, because another one's list revokes them.
    pub fn revoked(&self) -> Vec<&Entry> {
        let all = self.entries.iter().zip(&self.authorities);
        all.filter(|(_, ca)| self.revoked_anchor(ca).is_some()).map(|(entry, _)| entry).collect()
    }

    /// How many signatures were worked out since the bundle was loaded.
    #[cfg(test)]
    pub(in crate::auth) fn signatures_worked_out(&self) -> usize {
        self.good.worked_out()
    }

    /// The anchors that a presented certificate names as its issuer, and their places in the bundle. Those whose key
    /// one of them names come first, so that among namesakes the right one is not the last that is tried.
    fn candidates(&self, presented: &Presented<'_>) -> (Vec<TrustAnchor<'_>>, Vec<usize>) {
        let is_named = |place: &usize| {
            presented.all().any(|element| element.issuer == self.authorities[*place].subject)
        };
        let mut places: Vec<usize> = (0..self.anchors.len()).filter(is_named).collect();
        places.sort_by_key(|place| {
            let id = self.authorities[*place].key_id.as_deref();
            let is_asked_for = id.is_some() && presented.all().any(|e| e.issuer_key_id == id);
            !is_asked_for
        });
        let anchors = places.iter().map(|place| borrowed(&self.anchors[*place])).collect();
        (anchors, places)
    }

    /// What webpki leaves out, over a path whose signatures hold.
    fn judge_path(
        &self,
        path: &VerifiedPath<'_>,
        place: usize,
        presented: &Presented<'_>,
        now: UnixMillis,
    ) -> Result<(), X509Refusal> {
        let (entry, authority) = (&self.entries[place], &self.authorities[place]);
        judge_anchor(path, entry, authority, now)?;
        let mut elements = vec![&presented.leaf];
        for certificate in path.intermediate_certificates() {
            elements.push(presented.element(&certificate.der()).ok_or(X509Refusal::TooComplex)?);
        }
        for ca in &elements[1..] {
            judge_intermediate(ca)?;
        }
        let mut constrained = authority.constrains_email;
        for element in elements.iter().rev() {
            if constrained && element.email_in_subject {
                return Err(X509Refusal::NameConstraint);
            }
            constrained |= element.constrains_email;
        }
        let issuers = elements[1..].iter().map(|ca| Issuer {
            name: ca.subject,
            spki: ca.spki,
            may_sign_lists: ca.may_sign_lists,
        });
        let issuers = issuers.chain([authority.as_issuer()]).map(|i| self.with_its_rights(i));
        for (place, (element, issuer)) in elements.iter().zip(issuers).enumerate() {
            if let Some(found) = self.revocation.find(issuer, element.serial, place > 0) {
                let (since, reason) = (found.since, found.reason);
                return Err(match place {
                    0 => X509Refusal::Revoked { since, reason },
                    _ => X509Refusal::IntermediateRevoked { since, reason },
                });
            }
        }
        match self.revoked_anchor(authority) {
            Some(Revocation { since, reason }) => {
                Err(X509Refusal::IntermediateRevoked { since, reason })
            }
            None => Ok(()),
        }
    }

    /// One CA may have several certificates, and what one of the bundle's allows it may: else whoever presents or has kept
    /// an older one without cRLSign makes its lists void.
    fn with_its_rights<'a>(&self, issuer: Issuer<'a>) -> Issuer<'a> {
        let is_it = |a: &&Authority| a.subject == issuer.name && a.spki == issuer.spki;
        let may = self.authorities.iter().filter(is_it).any(|a| a.may_sign_lists);
        Issuer { may_sign_lists: issuer.may_sign_lists || may, ..issuer }
    }

    /// Whether the anchor was issued by another one of the bundle, whose list revokes it: a tenant's whole chain in the
    /// bundle, as a `.p7b` has it, makes none of its CAs irrevocable. That it was issued by that one is worked out only for
    /// one that is listed.
    fn revoked_anchor(&self, anchor: &Authority) -> Option<Revocation> {
        let issuers = self.authorities.iter().filter(|a| a.subject == anchor.issuer);
        issuers.filter(|issuer| issuer.spki != anchor.spki).find_map(|issuer| {
            let by = self.with_its_rights(issuer.as_issuer());
            let found = self.revocation.find(by, &anchor.serial, true);
            found.filter(|_| anchor.signed.by(&issuer.spki))
        })
    }
}

fn borrowed<'a>(anchor: &'a TrustAnchor<'static>) -> TrustAnchor<'a> {
    TrustAnchor {
        subject: Der::from_slice(&anchor.subject),
        subject_public_key_info: Der::from_slice(&anchor.subject_public_key_info),
        name_constraints: anchor.name_constraints.as_ref().map(|c| Der::from_slice(c)),
    }
}

fn malformed(error: &MalformedCertificate) -> X509Refusal {
    X509Refusal::Malformed(error.to_string())
}

/// extKeyUsage as webpki asks it of every certificate of a path; the leaf's was judged more strictly by then.
struct ForClients;

/// anyExtendedKeyUsage (4.2.1.12), 2.5.29.37.0.
const ANY_PURPOSE: [usize; 5] = [2, 5, 29, 37, 0];

impl ExtendedKeyUsageValidator for ForClients {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let mut is_unlimited = true;
        let mut fits = false;
        for purpose in purposes {
            let purpose = purpose?.to_decoded_oid();
            is_unlimited = false;
            fits |= purpose == KeyUsage::CLIENT_AUTH_REPR || purpose == ANY_PURPOSE;
        }
        // Which purposes there were is not told: `RequiredEkuNotFoundContext` cannot be made outside of webpki.
        if is_unlimited || fits { Ok(()) } else { Err(webpki::Error::EmptyEkuExtension) }
    }
}

/// What the leaf must be by itself, in the order in which it is told.
fn judge_leaf(leaf: &Element<'_>, now: UnixMillis) -> Result<(), X509Refusal> {
    match leaf.validity(now) {
        Validity::Valid => {}
        Validity::Expired => return Err(X509Refusal::Expired { since: leaf.not_after }),
        Validity::NotYet => return Err(X509Refusal::NotYetValid { from: leaf.not_before }),
    }
    if leaf.ca {
        return Err(X509Refusal::CaAsLeaf);
    }
    if !matches!(leaf.purpose, Purpose::Unlimited | Purpose::Client) {
        return Err(X509Refusal::KeyUsage);
    }
    if !leaf.may_sign_data {
        return Err(X509Refusal::NotForSignatures);
    }
    if leaf.demands_policy {
        return Err(X509Refusal::Policy);
    }
    leaf.key.clone().map_err(|_| X509Refusal::Algorithm)
}

fn judge_intermediate(ca: &Element<'_>) -> Result<(), X509Refusal> {
    if !ca.may_sign_certificates {
        return Err(X509Refusal::CaKeyUsage);
    }
    if ca.demands_policy {
        return Err(X509Refusal::Policy);
    }
    Ok(())
}

/// The anchor's own validity and path length.
fn judge_anchor(
    path: &VerifiedPath<'_>,
    entry: &Entry,
    authority: &Authority,
    now: UnixMillis,
) -> Result<(), X509Refusal> {
    if entry.info.validity(now) != Validity::Valid {
        return Err(X509Refusal::AnchorNotValid {
            subject: entry.info.subject.clone(),
            not_before: entry.info.not_before,
            not_after: entry.info.not_after,
        });
    }
    // RFC 5280 4.2.1.9: self-issued intermediates do not count.
    let below =
        path.intermediate_certificates().filter(|c| c.subject() != c.issuer()).count() as u64;
    if authority.path_len.is_some_and(|most| below > u64::from(most)) {
        return Err(X509Refusal::PathLength);
    }
    Ok(())
}

/// What came with the leaf, sorted into what can be part of a path and what cannot.
struct Presented<'a> {
    leaf: Element<'a>,
    /// Certificates that may be intermediates, each once, and what is in them.
    usable: Vec<CertificateDer<'a>>,
    elements: Vec<Element<'a>>,
    /// Names of CAs whose keys do not count.
    weak: Vec<&'a [u8]>,
    /// The first of those that could not be read.
    unreadable: Option<X509Refusal>,
}

impl<'a> Presented<'a> {
    fn sort(leaf: Element<'a>, others: &'a [CertificateDer<'_>]) -> Result<Self, X509Refusal> {
        let mut all = Self {
            leaf,
            usable: Vec::new(),
            elements: Vec::new(),
            weak: Vec::new(),
            unreadable: None,
        };
        for der in others {
            if all.usable.iter().any(|known| **known == **der) {
                continue;
            }
            match Element::read(der) {
                Ok(element) if element.key.is_err() => all.weak.push(element.subject),
                Ok(element) => {
                    all.elements.push(element);
                    all.usable.push(CertificateDer::from(&**der));
                }
                Err(e) => all.unreadable = all.unreadable.or(Some(malformed(&e))),
            }
        }
        let namesakes = |of: &Element<'_>| {
            all.elements.iter().filter(|other| other.subject == of.subject).count()
        };
        if all.elements.iter().any(|element| namesakes(element) > NAMESAKES_MAX) {
            return Err(X509Refusal::TooComplex);
        }
        Ok(all)
    }

    fn all(&self) -> impl Iterator<Item = &Element<'a>> {
        std::iter::once(&self.leaf).chain(&self.elements)
    }

    fn element(&self, der: &CertificateDer<'_>) -> Option<&Element<'a>> {
        let place = self.usable.iter().position(|known| **known == **der)?;
        self.elements.get(place)
    }

    /// An issuer that is not found may be one that was left out.
    fn instead_of(&self, reason: X509Refusal) -> X509Refusal {
        if !matches!(reason, X509Refusal::UnknownIssuer { .. }) {
            return reason;
        }
        if self.weak.iter().any(|name| self.all().any(|element| element.issuer == *name)) {
            return X509Refusal::Algorithm;
        }
        self.unreadable.clone().unwrap_or(reason)
    }
}
