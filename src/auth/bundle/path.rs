//! The judgement over a presented chain.
//!
//! Owns: path validation (RFC 5280 section 6): webpki's, and what webpki leaves out.
//! Must not know: files.

use std::cell::Cell;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::refusal::refusal;
use super::{CHAIN_MAX, Entry, TrustBundle, VerifiedLeaf, X509Refusal};
use crate::auth::x509::{self, CertificateInfo, MalformedCertificate, Validity};
use crate::clock::UnixMillis;

impl TrustBundle {
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
