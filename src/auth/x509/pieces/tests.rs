//! Files of every kind, whole and damaged.

use super::testing::{p7b, pem, revocation_list};
use super::*;
use crate::auth::testing::{ders, valid};
use crate::certs::{Authority, Curve};

/// What each piece is, in short.
fn kinds(file: &[u8]) -> Vec<String> {
    split(file)
        .into_iter()
        .map(|piece| match piece {
            Piece::Certificate(der) => format!("certificate of {}", der.len()),
            Piece::RevocationList(der) => format!("list of {}", der.len()),
            Piece::PrivateKey => "key".to_owned(),
            Piece::Unusable(why) => why,
        })
        .collect()
}

/// A piece is one of `expected`, or its words contain that.
#[track_caller]
fn check(case: &str, file: &[u8], expected: &[&str]) {
    let got = kinds(file);
    let fits = got.len() == expected.len() && got.iter().zip(expected).all(|(g, e)| g.contains(e));
    assert!(fits, "{case}: {got:?}");
}

struct Samples {
    one: Vec<u8>,
    two: Vec<u8>,
    list: Vec<u8>,
}

impl Samples {
    fn new() -> Self {
        let ca = |name, curve| Authority::root(name, curve, valid()).unwrap();
        let (one, two) = (ca("One", Curve::P256), ca("A second name", Curve::P384));
        let der = |ca: &Authority| ders(ca.certificate_pem()).remove(0).to_vec();
        let list = revocation_list(&one, &[&[7]], valid());
        Self { one: der(&one), two: der(&two), list }
    }
}

#[test]
fn every_kind_of_file_falls_into_its_pieces() {
    let Samples { one, two, list } = Samples::new();
    let (first, second) = (format!("of {}", one.len()), format!("of {}", two.len()));
    let listed = format!("list of {}", list.len());
    let (first, second, listed) = (first.as_str(), second.as_str(), listed.as_str());
    assert!(first != second);
    let text = pem("CERTIFICATE", &one) + &pem("CERTIFICATE", &two);

    check("DER", &one, &[first]);
    check("PEM", text.as_bytes(), &[first, second]);
    check("PEM behind a mark", format!("\u{feff}{text}").as_bytes(), &[first, second]);
    check("line ends of Windows", text.replace('\n', "\r\n").as_bytes(), &[first, second]);
    check("both", format!("\u{feff}{text}").replace('\n', "\r\n").as_bytes(), &[first, second]);
    check("words around", format!("subject=CN = x\n{text}\nbye").as_bytes(), &[first, second]);
    check("an older label", pem("X509 CERTIFICATE", &one).as_bytes(), &[first]);
    let utf16: Vec<u8> =
        std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    check("UTF-16", &utf16, &["save it as UTF-8"]);

    // The set of a .p7b is sorted by bytes.
    let order = if one < two { [first, second] } else { [second, first] };
    let both = p7b(&[&one, &two], &[]);
    check("p7b in DER", &both, &order);
    for label in ["PKCS7", "CMS", "CERTIFICATE"] {
        check(&format!("p7b as {label}"), pem(label, &both).as_bytes(), &order);
        let windows = format!("\u{feff}{}", pem(label, &both)).replace('\n', "\r\n");
        check(&format!("p7b as {label} of Windows"), windows.as_bytes(), &order);
    }
    check("p7b with a list", &p7b(&[&one], &[&list]), &[first, listed]);
    check("p7b of nothing", &p7b(&[], &[]), &["holds no certificate"]);

    check("list in DER", &list, &[listed]);
    check("list in PEM", pem("X509 CRL", &list).as_bytes(), &[listed]);
    check(
        "list among certificates",
        (text + &pem("X509 CRL", &list)).as_bytes(),
        &[first, second, listed],
    );
}

#[test]
fn what_is_damaged_is_told_and_stays_alone() {
    let Samples { one, two, list } = Samples::new();
    let first = format!("of {}", one.len());
    let first = first.as_str();
    let block = pem("CERTIFICATE", &one);
    check("empty", b"", &["neither PEM nor DER"]);
    check("words", b"hello", &["neither PEM nor DER"]);
    let cut = &block[..block.len() / 2];
    check("cut off", cut.as_bytes(), &["damaged or cut off (it has no END line)"]);
    check("a good one before", (block.clone() + cut).as_bytes(), &[first, "damaged or cut off"]);
    check("no base64", block.replace("MII", "!!!").as_bytes(), &["cut off (it is not base64)"]);
    let bad = block.replace("MII", "!!!");
    check(
        "good ones around",
        format!("{block}{bad}{block}").as_bytes(),
        &[first, "damaged or cut off", first],
    );
    for label in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "EC PARAMETERS"] {
        let file = pem(label, b"secret") + &block;
        check(label, file.as_bytes(), &["key", first]);
    }
    let request = pem("CERTIFICATE REQUEST", &one);
    check("a request", request.as_bytes(), &["`CERTIFICATE REQUEST` is not a certificate"]);

    // Cut off at every byte it stays what it is: no list is taken for a certificate, no .p7b for anything.
    for cut in 60..list.len() {
        check(&format!("list cut at {cut}"), &list[..cut], &["list of"]);
    }
    let both = p7b(&[&one, &two], &[]);
    for cut in 20..both.len() {
        let told = kinds(&both[..cut]).pop().unwrap_or_default();
        assert!(told.contains("damaged or cut off"), "p7b cut at {cut}: {told}");
    }
    let mut longer = both.clone();
    longer.push(0);
    assert!(kinds(&longer).pop().is_some_and(|told| told.contains("damaged")));
    let mut ber = vec![0x30, 0x80];
    ber.extend_from_slice(&both[4..]);
    ber.extend([0, 0]);
    check("BER", &ber, &["openssl pkcs7"]);
}

#[test]
fn a_changed_byte_of_a_p7b_makes_no_other_certificate() {
    let Samples { one, two, .. } = Samples::new();
    let both = p7b(&[&one, &two], &[]);
    for place in 0..both.len() {
        for bit in [1, 0x80] {
            let mut bytes = both.clone();
            bytes[place] ^= bit;
            // It ends, and no certificate comes out of it that was not put in.
            for piece in split(&bytes) {
                let Piece::Certificate(der) = piece else { continue };
                let inside = one == *der || two == *der || crate::auth::x509::parse(&der).is_err();
                let changed = place >= both.len() - one.len() - two.len() - 2;
                assert!(inside || changed, "byte {place}");
            }
        }
    }
}

#[test]
fn a_file_has_so_many_pieces_and_no_more() {
    let many = "-----BEGIN X-----\n".repeat(PIECES_MAX + 500);
    let pieces = kinds(many.as_bytes());
    assert_eq!(pieces.len(), PIECES_MAX + 1);
    assert!(pieces.last().unwrap().contains("more than 1024 pieces"), "{:?}", pieces.last());
    // A set of a .p7b with as many elements of two bytes.
    let element = |tag: u8, content: &[u8]| {
        let len = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x84][..], &len, content].concat()
    };
    let set = element(0xa0, &[0x05, 0x00].repeat(PIECES_MAX + 500));
    let data = element(0x30, b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01");
    let inside = [b"\x02\x01\x01\x31\x00", &data[..], &set, b"\x31\x00"].concat();
    let content = element(0xa0, &element(0x30, &inside));
    let file = element(0x30, &[SIGNED_DATA, &content].concat());
    let pieces = kinds(&file);
    assert_eq!(pieces.len(), PIECES_MAX + 1);
    assert!(pieces[0].contains("no X.509 certificate"), "{}", pieces[0]);
}
