//! Common names and alternative names. The first CN of the subject is the device id (edgehub.md 7.3), compared as the
//! scope registered it: a Sphere's 128 hex digits in any case, all else to the letter.

use super::der::tlv;
use super::forge::{CN, ROOT, UTF8, alt_names, cn, dns, name};
use super::{Case, OK, longest, sphere};

const FAMILY: &str = "names";

const PRINTABLE: u8 = 0x13;
const TELETEX: u8 = 0x14;
const IA5: u8 = 0x16;
const NUMERIC: u8 = 0x12;
const UNIVERSAL: u8 = 0x1c;
const BMP: u8 = 0x1e;
const O: &str = "2.5.4.10";
const OU: &str = "2.5.4.11";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = texts();
    cases.extend(forms());
    cases.extend(alternative());
    cases
}

fn with_subject(
    what: &str,
    subject: Vec<u8>,
    claim: &str,
    expected: Result<(), &'static str>,
) -> Case {
    let chain = vec![ROOT.leaf_with("d1", |s| s.subject = subject)];
    Case::new(FAMILY, what, chain, expected).claim(claim)
}

/// What the common name says.
fn texts() -> Vec<Case> {
    let no = Err("common_name");
    let (sphere, longest) = (sphere(), longest());
    let (upper, long_upper) = (sphere.to_ascii_uppercase(), longest.to_ascii_uppercase());
    let one_more = format!("{sphere}0");
    let cut = &sphere[..127];
    [
        ("its id", "d1", "d1", OK),
        ("capitals for a small id", "D1", "d1", no),
        ("small letters for capitals", "d3", "D3", no),
        ("capitals for capitals", "D3", "D3", OK),
        ("Sphere", &sphere, &sphere, OK),
        ("Sphere, certificate in capitals", &upper, &sphere, OK),
        ("Sphere, claim in capitals", &sphere, &upper, OK),
        ("128 characters", &longest, &longest, OK),
        ("128 characters in capitals", &long_upper, &longest, no),
        ("129 characters", &one_more, &sphere, no),
        ("127 characters of 128", cut, &sphere, no),
        ("another device", "d2", "d1", no),
        ("its id and a space", "d1 ", "d1", no),
        ("a space and its id", " d1", "d1", no),
        ("its id and a tab", "d1\t", "d1", no),
        ("its id and a line", "d1\nd2", "d1", no),
        ("its id, NUL, another", "d1\0d2", "d1", no),
        ("its id, NUL", "d1\0", "d1", no),
        ("NUL, its id", "\0d1", "d1", no),
        ("NUL", "\0", "d1", no),
        ("nothing", "", "d1", no),
        ("a module of its", "d1/m", "d1", no),
        ("a wildcard", "*", "d1", no),
        ("a look-alike letter", "ԁ1", "d1", no),
        ("full-width", "ｄ１", "d1", no),
        ("a combining mark", "d1\u{301}", "d1", no),
        ("a zero-width space", "d1\u{200b}", "d1", no),
        ("right-to-left", "\u{202e}1d", "d1", no),
        ("an escape sequence", "\u{1b}[2Jd1", "d1", no),
        ("CN= within", "CN=d1", "d1", no),
    ]
    .map(|(what, text, claim, expected)| {
        with_subject(&format!("CN: {what}"), cn(text), claim, expected)
    })
    .into()
}

/// How it is written, and where it stands.
fn forms() -> Vec<Case> {
    // 4.1.2.4: new subjects are PrintableString or UTF8String; IA5 and numbers say the same in the same bytes. The
    // others are refused: two readings of one name must not both be a device.
    let no_name = Err("no_common_name");
    let wrong = Err("common_name");
    let one = |tag: u8, bytes: &[u8]| name(&[&[(CN, tag, bytes)]]);
    let d1 = (CN, UTF8, &b"d1"[..]);
    let d2 = (CN, UTF8, &b"d2"[..]);
    let big = vec![b'd'; 60_000];
    let floods: Vec<(&str, u8, &[u8])> = vec![(OU, UTF8, b"x"); 500];
    let flood: Vec<&[(&str, u8, &[u8])]> = floods.iter().map(std::slice::from_ref).collect();
    let crowded = [&flood[..], &[std::slice::from_ref(&d1)]].concat();
    [
        ("PrintableString", one(PRINTABLE, b"d1"), OK),
        ("IA5String", one(IA5, b"d1"), OK),
        ("NumericString that is none", one(NUMERIC, b"d1"), no_name),
        ("TeletexString", one(TELETEX, b"d1"), no_name),
        ("BMPString", one(BMP, b"\0d\x001"), no_name),
        ("UniversalString", one(UNIVERSAL, b"\0\0\0d\0\0\x001"), no_name),
        ("an OCTET STRING", one(0x04, b"d1"), no_name),
        ("an INTEGER", one(0x02, b"d1"), no_name),
        ("UTF-8 that is none", one(UTF8, b"d1\xff"), no_name),
        ("UTF-8 in two bytes for one", one(UTF8, b"\xc1\xa41"), no_name),
        ("UTF-8 of a surrogate", one(UTF8, b"d1\xed\xa0\x80"), no_name),
        ("two, ours first", name(&[&[d1], &[d2]]), OK),
        ("two, ours last", name(&[&[d2], &[d1]]), wrong),
        ("two, the first not text", name(&[&[(CN, BMP, b"\0d\x002")], &[d1]]), no_name),
        ("two, the first empty", name(&[&[(CN, UTF8, b"")], &[d1]]), wrong),
        ("the same twice", name(&[&[d1], &[d1]]), OK),
        ("in one RDN with an OU", name(&[&[d1, (OU, UTF8, b"x")]]), OK),
        ("in one RDN behind an OU", name(&[&[(OU, UTF8, b"x"), d1]]), OK),
        ("two in one RDN, ours first", name(&[&[d1, d2]]), OK),
        ("two in one RDN, ours last", name(&[&[d2, d1]]), wrong),
        ("behind O and OU", name(&[&[(O, UTF8, b"Contoso")], &[(OU, UTF8, b"x")], &[d1]]), OK),
        ("O only", name(&[&[(O, UTF8, b"d1")]]), no_name),
        ("serialNumber only", name(&[&[("2.5.4.5", PRINTABLE, b"d1")]]), no_name),
        ("no RDN", name(&[]), no_name),
        ("an empty RDN", name(&[&[]]), Err("malformed_certificate")),
        (
            "behind an RDN that is none",
            super::der::seq(&[&[5, 0], super::der::content(&cn("d1"))]),
            Err("malformed_certificate"),
        ),
        (
            "before an RDN that is none",
            super::der::seq(&[super::der::content(&cn("d1")), &[5, 0]]),
            Err("malformed_certificate"),
        ),
        ("behind 500 OUs", name(&crowded), OK),
        ("60,000 characters", one(UTF8, &big), wrong),
    ]
    .map(|(what, subject, expected)| {
        with_subject(&format!("form: {what}"), subject, "d1", expected)
    })
    .into()
}

/// subjectAltName says nothing about the device's id (edgehub.md 7.3), in whatever number.
fn alternative() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut of = |what: &str, names: &[Vec<u8>], id: &str, expected| {
        let chain = vec![ROOT.leaf_with(id, |s| s.extensions.push(alt_names(names)))];
        cases.push(Case::new(FAMILY, format!("alternative: {what}"), chain, expected));
    };
    for count in [1, 10, 100, 1000, 4000] {
        let flood: Vec<_> = (0..count).map(|n| dns(&format!("n{n}.example"))).collect();
        of(&format!("{count} DNS names"), &flood, "d1", OK);
    }
    // 10,000 names are 160 KB: more than a certificate may have (64 KB).
    let flood: Vec<_> = (0..10_000).map(|n| dns(&format!("n{n}.example"))).collect();
    of("10,000 DNS names", &flood, "d1", Err("malformed_certificate"));
    of("none", &[], "d1", OK);
    of("ours, and another's CN", &[dns("d1")], "d2", Err("common_name"));
    of("another's", &[dns("d2")], "d1", OK);
    of("an address of 3 bytes", &[tlv(0x87, &[1, 2, 3])], "d1", OK);
    of("a wildcard", &[dns("*")], "d1", OK);
    of("with NUL", &[dns("a\0b")], "d1", OK);
    cases
}
