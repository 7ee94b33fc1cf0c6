//! Certificate revocation lists (RFC 5280 section 5) that lie in the folder of the bundle.
//!
//! Owns: [`RevocationLists`]: reading lists, which of them count, what they revoke.
//! Invariants:
//! - A list only ever takes away: a certificate of which no list speaks is judged by its path alone.
//! - What a list says counts only for the issuer under whose key its signature verifies: an anchor, or an intermediate
//!   that an anchor vouches for. A list of a namesake, or a forged one, changes nothing and is named in
//!   [`TrustBundle::revocation_lists`](super::TrustBundle::revocation_lists).
//! - **Stale lists still count** (`nextUpdate` is past, or none was given): what was revoked stays revoked, and a site
//!   may be offline for weeks. A list from the future counts too: the clock may be what is wrong.
//! - Of several lists of one issuer and scope the newest counts alone (cRLNumber, then thisUpdate): it is how a
//!   certificate on hold comes back.
//! - A list that we do not understand in full is refused when it is loaded: unknown critical extensions (5.2, 5.3),
//!   delta lists (5.2.4, and removeFromCRL entries), indirect lists (5.2.5, 5.3.3), lists of attribute certificates.
//! - Bounded: [`LISTS_MAX`], [`LIST_BYTES_MAX`], [`ENTRIES_MAX`], [`TOTAL_BYTES_MAX`].
//!
//! Must not know: files, chains.
//!
//! Why not webpki's own: it asks the first list of the issuer's *name* and refuses the certificate when that list's
//! signature does not fit, so that after a rotation of the tenant CA the old CA's list would lock the fleet out; it
//! hashes the whole list at every log-in (10 ms for 100,000 entries); it reads neither version 1 lists (what
//! `openssl ca -gencrl` writes without a section for extensions) nor lists without `nextUpdate`.

mod read;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::SubjectPublicKeyInfoDer;
use sha2::{Digest as _, Sha256};
use webpki::RawPublicKeyEntity;
use x509_parser::asn1_rs::{Any, FromDer as _};

use super::EntryRefusal;
use crate::clock::UnixMillis;

/// Most lists of a bundle.
pub const LISTS_MAX: usize = 64;
/// Largest list, in bytes (100,000 entries of 37 bytes).
pub const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most entries of a list. A tenant with 100,000 devices revoked has other worries.
pub const ENTRIES_MAX: usize = 100_000;
/// All lists of a bundle together, in bytes: they are kept for the check of their signatures.
pub const TOTAL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most issuers of one name whose keys a list remembers. Two overlap in a rotation.
const ISSUERS_MAX: usize = 16;

/// Why a revocation list is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListRefusal {
    /// Damaged.
    #[error("it is not a certificate revocation list: {0}")]
    Malformed(&'static str),
    /// Too big.
    #[error("it has more than {LIST_BYTES_MAX} bytes")]
    TooBig,
    /// Too long.
    #[error("it has more than {ENTRIES_MAX} entries")]
    TooManyEntries,
    /// Too many lists.
    #[error("there are more than {LISTS_MAX} lists, or more than {TOTAL_BYTES_MAX} bytes of them")]
    TooMany,
    /// Another form of list.
    #[error("it is a delta list, which counts only with its base: give the full list")]
    Delta,
    /// Another form of list.
    #[error("it speaks for other issuers than its own (indirect): give each CA's own list")]
    Indirect,
    /// Another form of list.
    #[error("it lists attribute certificates, which nobody presents here")]
    Attributes,
    /// An extension that must be understood and is not.
    #[error(
        "it has the critical extension {0}, which this gateway does not understand (RFC 5280 5.2)"
    )]
    CriticalExtension(String),
    /// The same bytes a second time.
    #[error("it is the same list as {0}")]
    Duplicate(String),
}

/// Whom a list speaks of (issuingDistributionPoint, 5.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Scope {
    only_devices: bool,
    only_cas: bool,
}

/// One list.
struct List {
    source: String,
    /// The whole list, DER.
    der: Box<[u8]>,
    /// Where in `der` the signed part lies.
    signed: std::ops::Range<usize>,
    /// The algorithm identifier's content and the signature.
    algorithm: Box<[u8]>,
    signature: Box<[u8]>,
    /// The issuer's name, DER with its header, and for people.
    issuer: Box<[u8]>,
    issuer_for_people: String,
    number: Box<[u8]>,
    this_update: UnixMillis,
    next_update: Option<UnixMillis>,
    scope: Scope,
    /// The issuingDistributionPoint as it stands there: lists with different ones do not replace each other.
    point: Box<[u8]>,
    /// In the order of their serial numbers.
    entries: Vec<ListEntry>,
    /// Keys that were tried: facts of arithmetic, which stay true.
    tried: Mutex<Vec<([u8; 32], bool)>>,
}

/// A revoked certificate: 32 bytes each.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ListEntry {
    /// Where in the list's DER the serial number's content lies.
    serial: std::ops::Range<u32>,
    since: UnixMillis,
    reason: &'static str,
}

/// That a certificate is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Revocation {
    pub(super) since: UnixMillis,
    pub(super) reason: &'static str,
}

/// Who issued a certificate, and perhaps lists.
#[derive(Clone, Copy)]
pub(super) struct Issuer<'a> {
    /// Its name, DER.
    pub(super) name: &'a [u8],
    /// Its key, DER.
    pub(super) spki: &'a [u8],
    /// Whether its keyUsage allows cRLSign (4.2.1.3).
    pub(super) may_sign_lists: bool,
}

/// Where a list stands, for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListStanding {
    /// It counts.
    InForce,
    /// Its `nextUpdate` is past: it counts for what it revokes, but what was revoked since is unknown.
    Stale,
    /// A newer list of the same CA replaces it.
    Superseded,
    /// No CA of the bundle has its issuer's name: it counts for an intermediate that a device presents.
    NotOfAnchor,
    /// The CA's certificate does not allow it to sign lists (keyUsage without cRLSign): it does not count.
    NotAllowed,
    /// No CA of that name in the bundle has signed it: it counts for none of them.
    BadSignature,
}

/// A list, for the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListInfo {
    /// File and place in it.
    pub source: String,
    /// The issuer's name, for people.
    pub issuer: String,
    /// When it was issued.
    pub this_update: UnixMillis,
    /// Until when its issuer promised the next one.
    pub next_update: Option<UnixMillis>,
    /// How many certificates it revokes.
    pub entries: usize,
    /// Whether it counts.
    pub standing: ListStanding,
}

/// The lists of a bundle. Immutable once loaded, but for what it remembers of keys.
#[derive(Clone, Default)]
pub struct RevocationLists {
    lists: Vec<Arc<List>>,
}

impl fmt::Debug for RevocationLists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lists.iter().map(|l| &l.source)).finish()
    }
}

impl RevocationLists {
    /// Reads one list (DER); `source` names it in reports. Its signature is judged when its issuer is known.
    pub(super) fn add(&mut self, source: &str, der: &[u8]) -> Result<(), EntryRefusal> {
        if let Some(first) = self.lists.iter().find(|list| *list.der == *der) {
            return Err(ListRefusal::Duplicate(first.source.clone()).into());
        }
        if der.len() > LIST_BYTES_MAX {
            return Err(ListRefusal::TooBig.into());
        }
        let bytes: usize = self.lists.iter().map(|list| list.der.len()).sum();
        if self.lists.len() == LISTS_MAX || bytes + der.len() > TOTAL_BYTES_MAX {
            return Err(ListRefusal::TooMany.into());
        }
        self.lists.push(Arc::new(read::list(source, der)?));
        Ok(())
    }

    /// How many lists there are.
    pub fn len(&self) -> usize {
        self.lists.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// Whether a list of `issuer` revokes the certificate with this serial number.
    pub(super) fn find(
        &self,
        issuer: Issuer<'_>,
        serial: &[u8],
        is_ca: bool,
    ) -> Option<Revocation> {
        let mine: Vec<&List> =
            self.lists.iter().map(|list| &**list).filter(|list| list.counts_for(issuer)).collect();
        mine.iter()
            .filter(|list| !mine.iter().any(|other| other.replaces(list)))
            .filter(|list| list.scope.speaks_of(is_ca))
            .find_map(|list| list.find(serial))
    }

    /// The lists and where they stand, given the CAs of the bundle.
    pub(super) fn report(&self, anchors: &[Issuer<'_>], now: UnixMillis) -> Vec<ListInfo> {
        self.lists
            .iter()
            .map(|list| ListInfo {
                source: list.source.clone(),
                issuer: list.issuer_for_people.clone(),
                this_update: list.this_update,
                next_update: list.next_update,
                entries: list.entries.len(),
                standing: self.standing(list, anchors, now),
            })
            .collect()
    }

    fn standing(&self, list: &List, anchors: &[Issuer<'_>], now: UnixMillis) -> ListStanding {
        let named: Vec<_> = anchors.iter().filter(|a| *a.name == *list.issuer).collect();
        let signed: Vec<_> = named.iter().filter(|a| list.is_signed_by(a.spki)).collect();
        if named.is_empty() {
            return ListStanding::NotOfAnchor;
        }
        if signed.is_empty() {
            return ListStanding::BadSignature;
        }
        let Some(issuer) = signed.iter().find(|a| a.may_sign_lists) else {
            return ListStanding::NotAllowed;
        };
        let is_newer = |other: &Arc<List>| other.counts_for(***issuer) && other.replaces(list);
        if self.lists.iter().any(is_newer) {
            return ListStanding::Superseded;
        }
        match list.next_update {
            Some(next) if next.as_secs() < now.as_secs() => ListStanding::Stale,
            _ => ListStanding::InForce,
        }
    }
}

impl Scope {
    fn speaks_of(self, is_ca: bool) -> bool {
        if is_ca { !self.only_devices } else { !self.only_cas }
    }
}

impl List {
    fn counts_for(&self, issuer: Issuer<'_>) -> bool {
        issuer.may_sign_lists && *self.issuer == *issuer.name && self.is_signed_by(issuer.spki)
    }

    /// Whether it is newer than `other`, both being the same issuer's.
    fn replaces(&self, other: &List) -> bool {
        // A number is a positive INTEGER in DER: the longer is the greater.
        let age = |list: &List| (list.number.len(), list.number.clone(), list.this_update);
        self.point == other.point && age(self) > age(other)
    }

    fn find(&self, serial: &[u8]) -> Option<Revocation> {
        let place = self.entries.binary_search_by(|e| self.serial(e).cmp(serial)).ok()?;
        let entry = &self.entries[place];
        Some(Revocation { since: entry.since, reason: entry.reason })
    }

    fn serial(&self, entry: &ListEntry) -> &[u8] {
        &self.der[entry.serial.start as usize..entry.serial.end as usize]
    }

    /// Worked out once per key.
    fn is_signed_by(&self, spki: &[u8]) -> bool {
        let key: [u8; 32] = Sha256::digest(spki).into();
        let known = |tried: &[([u8; 32], bool)]| tried.iter().find(|t| t.0 == key).map(|t| t.1);
        if let Some(good) = known(&self.tried.lock().unwrap_or_else(PoisonError::into_inner)) {
            return good;
        }
        let good = self.verifies_with(spki);
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.len() < ISSUERS_MAX {
            tried.push((key, good));
        }
        good
    }

    fn verifies_with(&self, spki: &[u8]) -> bool {
        verifies(&self.algorithm, &self.der[self.signed.clone()], &self.signature, spki)
    }
}

/// A certificate's own signature, as it stands in its DER.
#[derive(Debug, Clone, Default)]
pub(super) struct Signed {
    message: Vec<u8>,
    /// The algorithm identifier's content.
    algorithm: Vec<u8>,
    signature: Vec<u8>,
}

impl Signed {
    /// Of a certificate in DER; `None` if it is not built as one.
    pub(super) fn of(der: &[u8]) -> Option<Self> {
        let (_, outer) = Any::from_der(der).ok()?;
        let (rest, _) = Any::from_der(outer.data).ok()?;
        let message = outer.data[..outer.data.len() - rest.len()].to_vec();
        let (rest, algorithm) = Any::from_der(rest).ok()?;
        let (_, signature) = Any::from_der(rest).ok()?;
        let (unused, signature) = signature.data.split_first()?;
        (*unused == 0).then(|| Self {
            message,
            algorithm: algorithm.data.to_vec(),
            signature: signature.to_vec(),
        })
    }

    /// Whether the key made it.
    pub(super) fn by(&self, spki: &[u8]) -> bool {
        verifies(&self.algorithm, &self.message, &self.signature, spki)
    }
}

fn verifies(algorithm: &[u8], message: &[u8], signature: &[u8], spki: &[u8]) -> bool {
    let spki = SubjectPublicKeyInfoDer::from(spki);
    let Ok(key) = RawPublicKeyEntity::try_from(&spki) else { return false };
    webpki::ALL_VERIFICATION_ALGS
        .iter()
        .filter(|a| *a.signature_alg_id() == *algorithm)
        .any(|a| key.verify_signature(*a, message, signature).is_ok())
}
