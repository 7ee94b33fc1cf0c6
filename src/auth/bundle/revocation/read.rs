//! DER -> [`List`] (RFC 5280 5.1).
//!
//! Owns: the form of a list, strictly: what is left over, out of order or unknown and critical refuses the list.
//! Must not know: issuers, the time.

use std::ops::Range;
use std::sync::Mutex;

use x509_parser::asn1_rs::{Any, Class, FromDer, Tag};
use x509_parser::prelude::{X509Extension, X509Name};
use x509_parser::time::ASN1Time;

use super::{ENTRIES_MAX, List, ListEntry, ListRefusal, Scope};
use crate::auth::bundle::element::is_minimal;
use crate::auth::x509;
use crate::clock::UnixMillis;

const NUMBER: &str = "2.5.29.20";
const REASON: &str = "2.5.29.21";
const DELTA: &str = "2.5.29.27";
const POINT: &str = "2.5.29.28";
const CERTIFICATE_ISSUER: &str = "2.5.29.29";
const AUTHORITY_KEY_ID: &str = "2.5.29.35";
const INVALIDITY_DATE: &str = "2.5.29.24";

/// CRLReason (5.3.1); 7 is not used, 8 (removeFromCRL) belongs to delta lists.
const REASONS: [&str; 11] = [
    "unspecified",
    "key compromise",
    "CA compromise",
    "affiliation changed",
    "superseded",
    "cessation of operation",
    "certificate hold",
    "",
    "",
    "privilege withdrawn",
    "AA compromise",
];

type Read<T> = Result<T, ListRefusal>;

/// Takes elements off the front of a DER content.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Read<Any<'a>> {
        let (rest, any) =
            Any::from_der(self.0).map_err(|_| ListRefusal::Malformed("its DER is damaged"))?;
        self.0 = rest;
        Ok(any)
    }

    fn expect(&mut self, tag: Tag) -> Read<&'a [u8]> {
        let any = self.next()?;
        if any.class() != Class::Universal || any.tag() != tag {
            return Err(ListRefusal::Malformed("a field is missing or of another kind"));
        }
        Ok(any.data)
    }

    /// The next element, as it stands there.
    fn raw(&mut self, tag: Tag) -> Read<(&'a [u8], &'a [u8])> {
        let before = self.0;
        let content = self.expect(tag)?;
        Ok((&before[..before.len() - self.0.len()], content))
    }

    fn is_next(&self, class: Class, tag: Tag) -> bool {
        Any::from_der(self.0).is_ok_and(|(_, any)| any.class() == class && any.tag() == tag)
    }

    fn time(&mut self) -> Read<UnixMillis> {
        let (rest, time) = ASN1Time::from_der(self.0)
            .map_err(|_| ListRefusal::Malformed("one of its times cannot be read"))?;
        self.0 = rest;
        Ok(UnixMillis(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000)))
    }

    fn end(&self) -> Read<()> {
        if self.0.is_empty() { Ok(()) } else { Err(ListRefusal::Malformed("something follows it")) }
    }
}

/// Reads a list.
pub(super) fn list(source: &str, der: &[u8]) -> Read<List> {
    let mut file = Reader(der);
    let mut outer = Reader(file.expect(Tag::Sequence)?);
    file.end()?;
    let (signed, content) = outer.raw(Tag::Sequence)?;
    let algorithm = outer.expect(Tag::Sequence)?;
    let Some((0, signature)) = outer.expect(Tag::BitString)?.split_first() else {
        return Err(ListRefusal::Malformed("its signature is not a string of bytes"));
    };
    outer.end()?;

    let mut tbs = Reader(content);
    let has_version = tbs.is_next(Class::Universal, Tag::Integer);
    if has_version && tbs.expect(Tag::Integer)? != [1] {
        return Err(ListRefusal::Malformed("its version is neither 1 nor 2"));
    }
    if tbs.expect(Tag::Sequence)? != algorithm {
        return Err(ListRefusal::Malformed("it names two signature algorithms"));
    }
    let (issuer, _) = tbs.raw(Tag::Sequence)?;
    let this_update = tbs.time()?;
    let timed = [Tag::UtcTime, Tag::GeneralizedTime];
    let next_update = timed
        .iter()
        .any(|tag| tbs.is_next(Class::Universal, *tag))
        .then(|| tbs.time())
        .transpose()?;
    let entries = if tbs.is_next(Class::Universal, Tag::Sequence) {
        entries(der, tbs.expect(Tag::Sequence)?)?
    } else {
        Vec::new()
    };
    let mut list = List {
        source: source.to_owned(),
        der: der.into(),
        signed: range(der, signed),
        algorithm: algorithm.into(),
        signature: signature.into(),
        issuer: issuer.into(),
        issuer_for_people: name(issuer)?,
        number: Box::default(),
        this_update,
        next_update,
        scope: Scope::default(),
        point: Box::default(),
        entries,
        tried: Mutex::default(),
    };
    if has_version && !tbs.0.is_empty() {
        let tagged = tbs.next()?;
        if tagged.class() != Class::ContextSpecific || tagged.tag() != Tag(0) {
            return Err(ListRefusal::Malformed("a field is of another kind"));
        }
        let mut tagged = Reader(tagged.data);
        for extension in extensions(tagged.expect(Tag::Sequence)?)? {
            take(&mut list, &extension)?;
        }
        tagged.end()?;
    }
    tbs.end()?;
    Ok(list)
}

/// Where a part of `der` lies in it.
fn range(der: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - der.as_ptr() as usize;
    start..start + part.len()
}

fn name(der: &[u8]) -> Read<String> {
    match X509Name::from_der(der) {
        Ok((_, name)) if name.iter_rdn().next().is_some() && name.as_raw() == der => {
            Ok(x509::printable(&name))
        }
        _ => Err(ListRefusal::Malformed("its issuer is not a name")),
    }
}

fn extensions(content: &[u8]) -> Read<Vec<X509Extension<'_>>> {
    let mut found: Vec<X509Extension<'_>> = Vec::new();
    let mut rest = content;
    while !rest.is_empty() {
        let (after, extension) = X509Extension::from_der(rest)
            .map_err(|_| ListRefusal::Malformed("an extension cannot be read"))?;
        // A list has a handful; who has hundreds is refused before this is slow.
        if found.len() == 32 || found.iter().any(|e| e.oid == extension.oid) {
            return Err(ListRefusal::Malformed("it has an extension twice, or too many"));
        }
        found.push(extension);
        rest = after;
    }
    Ok(found)
}

fn take(list: &mut List, extension: &X509Extension<'_>) -> Read<()> {
    match &*extension.oid.to_id_string() {
        NUMBER => {
            let number = Reader(extension.value).expect(Tag::Integer)?;
            if !is_minimal(number) || number[0] & 0x80 != 0 || number.len() > 21 {
                return Err(ListRefusal::Malformed("its number is not one"));
            }
            list.number = number.into();
            Ok(())
        }
        DELTA => Err(ListRefusal::Delta),
        POINT => {
            list.point = extension.value.into();
            list.scope = scope(Reader(extension.value).expect(Tag::Sequence)?)?;
            Ok(())
        }
        AUTHORITY_KEY_ID => Ok(()),
        oid if extension.critical => Err(ListRefusal::CriticalExtension(oid.to_owned())),
        _ => Ok(()),
    }
}

/// issuingDistributionPoint. Which point and which reasons it is for is of no concern: a list only takes away.
fn scope(content: &[u8]) -> Read<Scope> {
    let mut scope = Scope::default();
    let mut fields = Reader(content);
    while !fields.0.is_empty() {
        let field = fields.next()?;
        let is_set = field.data == [0xff];
        match (field.class(), field.tag().0) {
            (Class::ContextSpecific, 1) => scope.only_devices = is_set,
            (Class::ContextSpecific, 2) => scope.only_cas = is_set,
            (Class::ContextSpecific, 4) if is_set => return Err(ListRefusal::Indirect),
            (Class::ContextSpecific, 5) if is_set => return Err(ListRefusal::Attributes),
            (Class::ContextSpecific, 0 | 3..=5) => {}
            _ => return Err(ListRefusal::Malformed("its distribution point cannot be read")),
        }
    }
    Ok(scope)
}

fn entries(der: &[u8], content: &[u8]) -> Read<Vec<ListEntry>> {
    let mut found = Vec::new();
    let mut rest = Reader(content);
    while !rest.0.is_empty() {
        if found.len() == ENTRIES_MAX {
            return Err(ListRefusal::TooManyEntries);
        }
        found.push(entry(der, rest.expect(Tag::Sequence)?)?);
    }
    let serial = |e: &ListEntry| &der[e.serial.start as usize..e.serial.end as usize];
    found.sort_by(|a, b| serial(a).cmp(serial(b)).then(a.since.cmp(&b.since)));
    found.dedup_by(|b, a| serial(a) == serial(b));
    Ok(found)
}

fn entry(der: &[u8], content: &[u8]) -> Read<ListEntry> {
    let mut fields = Reader(content);
    let serial = fields.expect(Tag::Integer)?;
    if !is_minimal(serial) {
        return Err(ListRefusal::Malformed("a serial number is not in DER"));
    }
    let since = fields.time()?;
    let mut reason = REASONS[0];
    if !fields.0.is_empty() {
        for extension in extensions(fields.expect(Tag::Sequence)?)? {
            match &*extension.oid.to_id_string() {
                REASON => {
                    let code = Reader(extension.value).expect(Tag::Enumerated)?;
                    reason = match code {
                        [8] => return Err(ListRefusal::Delta),
                        [code] => REASONS.get(usize::from(*code)).copied().unwrap_or_default(),
                        _ => "",
                    };
                    if reason.is_empty() {
                        return Err(ListRefusal::Malformed("a reason is not one"));
                    }
                }
                CERTIFICATE_ISSUER => return Err(ListRefusal::Indirect),
                INVALIDITY_DATE => {}
                oid if extension.critical => {
                    return Err(ListRefusal::CriticalExtension(oid.to_owned()));
                }
                _ => {}
            }
        }
    }
    fields.end()?;
    let at = range(der, serial);
    let index = |at: usize| u32::try_from(at).expect("a list has at most LIST_BYTES_MAX bytes");
    Ok(ListEntry { serial: index(at.start)..index(at.end), since, reason })
}
