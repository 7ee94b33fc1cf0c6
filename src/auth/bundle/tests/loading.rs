//! Files and folders, good and bad, and what they come to; what another bundle changes.

use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode as _, Encode as _};

use super::*;
use crate::auth::x509::Validity;
use crate::auth::x509::testing::{p7b, pem, revocation_list};

#[test]
fn bad_entries_are_named_and_the_others_serve() {
    let good = root("Good");
    let other = root("Other");
    let device = good.issue_client("device-1", valid()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut mute = ca_params("Mute", valid());
    mute.key_usages = vec![KeyUsagePurpose::CrlSign];
    let mut odd = ca_params("Odd", valid());
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    odd.custom_extensions = vec![extension];

    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    put("a.pem", format!("{}{}", device.leaf_pem, good.certificate_pem()).as_bytes());
    put("b.cer", &ders(other.certificate_pem())[0]);
    put("c.PEM", good.certificate_pem().as_bytes());
    put("d.der", b"\x30\x03abc");
    put("e.crt", device.key_pem.as_bytes());
    put("f.der.p7b", b"\x30\x82\x01\x00\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0");
    put("f.p7b", pem("PKCS7", &p7b(&[], &[])[..20]).as_bytes());
    put("g.pem", mute.self_signed(&key).unwrap().pem().as_bytes());
    put("h.pem", odd.self_signed(&key).unwrap().pem().as_bytes());
    put("notes.txt", b"not looked at");
    put("x.pem", &vec![b' '; usize::try_from(FILE_BYTES_MAX).unwrap() + 1]);
    std::os::unix::fs::symlink("/nonexistent", folder.path().join("y.pem")).unwrap();

    let bundle = TrustBundle::load(&[folder.path()]).unwrap();
    let serving: Vec<_> =
        bundle.entries().iter().map(|e| (e.source.as_str(), e.info.subject.as_str())).collect();
    assert_eq!(serving, [("a.pem #2", "CN=Good"), ("b.cer #1", "CN=Other")]);
    let refused: Vec<_> = bundle
        .refused()
        .iter()
        .map(|r| (r.source.as_str(), r.subject.as_deref(), r.reason.clone()))
        .collect();
    let names: Vec<_> = refused.iter().map(|r| (r.0, r.1)).collect();
    assert_eq!(
        names,
        [
            ("a.pem #1", Some("CN=device-1")),
            ("c.PEM #1", Some("CN=Good")),
            ("d.der #1", None),
            ("e.crt #1", None),
            ("f.der.p7b #1", None),
            ("f.p7b #1", None),
            ("g.pem #1", Some("CN=Mute")),
            ("h.pem #1", Some("CN=Odd")),
            ("x.pem", None),
            ("y.pem", None),
        ]
    );
    assert_eq!(refused[0].2, EntryRefusal::NotCa);
    assert_eq!(refused[1].2, EntryRefusal::Duplicate("a.pem #2".into()));
    assert!(matches!(refused[2].2, EntryRefusal::Malformed(_)));
    assert_eq!(refused[3].2, EntryRefusal::PrivateKey);
    for pkcs7 in [&refused[4].2, &refused[5].2] {
        assert!(matches!(pkcs7, EntryRefusal::Unusable(why) if why.contains("PKCS#7 is damaged")));
    }
    assert_eq!(refused[6].2, EntryRefusal::NotForSigning);
    assert_eq!(refused[7].2, EntryRefusal::CriticalExtension("1.3.6.1.4.1.99999.1".into()));
    assert!(bundle.verify(&ders(&device.leaf_pem), NOW).is_ok());
}

#[test]
fn a_bundle_without_a_ca_is_an_error_that_says_why() {
    let device = root("R").issue_client("d", valid()).unwrap();
    let error = TrustBundle::from_bytes("x.pem", device.leaf_pem.as_bytes()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("x.pem #1: it is not a CA certificate"), "{text}");
    let error = TrustBundle::load(&["/nonexistent/bundle.pem"]).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/bundle.pem"), "{error}");
    let leaf = ders(&device.leaf_pem);
    assert_eq!(TrustBundle::empty().verify(&leaf, NOW).unwrap_err().label(), "unknown_ca");
}

#[test]
fn an_expired_ca_is_kept_and_reported() {
    let old = Authority::root("Old", Curve::P256, window(-100, -10)).unwrap();
    let bundle = TrustBundle::from_bytes("t", old.certificate_pem().as_bytes()).unwrap();
    assert_eq!(bundle.entries()[0].info.validity(NOW), Validity::Expired);
}

fn der_of(ca: &Authority) -> Vec<u8> {
    ders(ca.certificate_pem()).remove(0).to_vec()
}

/// Every kind of file that a tenant's CA comes in, alone in a folder of its own and as a file.
#[test]
fn every_kind_of_file_gives_its_cas() {
    let (one, two) = (root("One"), Authority::root("Two", Curve::P384, valid()).unwrap());
    let (one_der, two_der) = (der_of(&one), der_of(&two));
    let text = format!("{}{}", one.certificate_pem(), two.certificate_pem());
    let list = revocation_list(&one, &[&[7]], valid());
    let both = p7b(&[&one_der, &two_der], &[]);
    let windows = format!("\u{feff}{text}").replace('\n', "\r\n");
    let with_list = text.clone() + &pem("X509 CRL", &list);
    let (both_pem, chain) = (pem("PKCS7", &both), p7b(&[&one_der], &[&list]));
    let table: &[(&str, &[u8], usize, usize)] = &[
        ("tenant.pem", text.as_bytes(), 2, 0),
        ("tenant.crt", windows.as_bytes(), 2, 0),
        ("tenant.cer", &one_der, 1, 0),
        ("tenant.CER", one.certificate_pem().as_bytes(), 1, 0),
        ("tenant.der", &two_der, 1, 0),
        ("tenant.p7b", &both, 2, 0),
        ("tenant.p7c", both_pem.as_bytes(), 2, 0),
        ("chain.p7b", &chain, 1, 1),
        ("with-list.pem", with_list.as_bytes(), 2, 1),
    ];
    for (name, bytes, entries, lists) in table {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        for paths in [folder.path(), path.as_path()] {
            let bundle = TrustBundle::load(&[paths]).unwrap();
            let got = (bundle.entries().len(), bundle.list_count(), bundle.refused().len());
            assert_eq!(got, (*entries, *lists, 0), "{name}: {:?}", bundle.refused());
        }
    }
}

#[test]
fn revocation_lists_lie_among_the_certificates() {
    let ca = root("One");
    let list = revocation_list(&ca, &[&[7]], valid());
    let other = revocation_list(&ca, &[&[7], &[8]], valid());
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    put("a.pem", ca.certificate_pem().as_bytes());
    put("b.crl", &list);
    put("c.crl", pem("X509 CRL", &other).as_bytes());
    put("d.crl", &list);
    put("e.crl", &list[..list.len() - 1]);
    let bundle = TrustBundle::load(&[folder.path()]).unwrap();
    assert_eq!((bundle.entries().len(), bundle.list_count()), (1, 2));
    let refused: Vec<_> = bundle.refused().iter().map(ToString::to_string).collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused[0].starts_with("d.crl #1") && refused[0].ends_with("the same as b.crl #1"));
    assert!(
        refused[1].starts_with("e.crl #1") && refused[1].contains("revocation list"),
        "{refused:?}"
    );
}

#[test]
fn several_files_and_folders_are_one_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b.pem"));
    std::fs::create_dir(&a).unwrap();
    std::fs::write(a.join("one.cer"), der_of(&root("One"))).unwrap();
    std::fs::write(&b, root("Two").certificate_pem()).unwrap();
    let bundle = TrustBundle::load(&[&a, &b]).unwrap();
    let sources: Vec<_> = bundle.entries().iter().map(|e| e.source.as_str()).collect();
    assert_eq!(sources, ["one.cer #1", "b.pem #1"]);
    // A path that is configured must be there; so must what it names.
    let gone = folder.path().join("gone");
    let error = TrustBundle::load(&[&a, &gone]).unwrap_err();
    assert!(matches!(&error, BundleError::Read { path, .. } if *path == gone), "{error}");
}

/// SubjectPublicKeyInfo in DER (RFC 5280 4.1.2.7).
struct Spki(Vec<u8>);

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).unwrap().to_be_bytes();
    let len = match content.len() {
        0..=0x7f => vec![len[1]],
        0x80..=0xff => vec![0x81, len[1]],
        _ => vec![0x82, len[0], len[1]],
    };
    [&[tag][..], &len, content].concat()
}

fn spki(algorithm: &[u8], key: &[u8]) -> Spki {
    let bits = tlv(0x03, &[&[0], key].concat());
    Spki(tlv(0x30, &[tlv(0x30, algorithm), bits].concat()))
}

fn rsa_of(bits: usize) -> Spki {
    const RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    let mut modulus = vec![0xff; bits.div_ceil(8)];
    // An odd number with its highest bit at the right place.
    modulus[0] = 0xff >> (modulus.len() * 8 - bits);
    modulus.insert(0, 0);
    if modulus[1] < 0x80 {
        modulus.remove(0);
    }
    let key = [tlv(0x02, &modulus), tlv(0x02, &[1, 0, 1])].concat();
    spki(RSA, &tlv(0x30, &key))
}

fn ec_of(curve: &[u8], bytes: usize) -> Spki {
    const EC: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01";
    let point = [&[4][..], &vec![1; bytes * 2]].concat();
    spki(&[EC, curve].concat(), &point)
}

/// A CA's certificate with this key, signed by another one.
fn ca_with(key: &Spki, change: impl FnOnce(&mut CertificateParams)) -> String {
    let above_key = KeyPair::generate().unwrap();
    let above = Issuer::new(ca_params("Above", valid()), above_key);
    let mut params = ca_params("CA", valid());
    change(&mut params);
    let made = params.signed_by(&KeyPair::generate().unwrap(), &above).unwrap();
    // rcgen has not all kinds of keys. Nobody checks the signature of an anchor.
    let mut certificate = x509_cert::Certificate::from_der(made.der()).unwrap();
    let key = x509_cert::spki::SubjectPublicKeyInfoOwned::from_der(&key.0).unwrap();
    certificate.tbs_certificate.subject_public_key_info = key;
    pem("CERTIFICATE", &certificate.to_der().unwrap())
}

#[test]
fn a_ca_s_key_must_be_strong_and_of_a_kind_that_is_verified() {
    const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    const P384: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x22";
    const P521: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x23";
    const K256: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x0a";
    const EXPLICIT: &[u8] = b"\x30\x03\x02\x01\x01";
    const DSA: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x38\x04\x01";
    const ED25519: &[u8] = b"\x06\x03\x2b\x65\x70";
    const ED448: &[u8] = b"\x06\x03\x2b\x65\x71";
    let table = [
        ("RSA 1024", rsa_of(1024), Some("RSA with 1024 bits")),
        ("RSA 2047", rsa_of(2047), Some("RSA with 2047 bits")),
        ("RSA 2048", rsa_of(2048), None),
        ("RSA 4096", rsa_of(4096), None),
        ("RSA 8192", rsa_of(8192), None),
        ("RSA 8193", rsa_of(8193), Some("RSA with 8193 bits")),
        ("RSA 16384", rsa_of(16384), Some("RSA with 16384 bits")),
        ("P-256", ec_of(P256, 32), None),
        ("P-384", ec_of(P384, 48), None),
        ("P-521", ec_of(P521, 66), Some("of the curve 1.3.132.0.35")),
        ("secp256k1", ec_of(K256, 32), Some("of the curve 1.3.132.0.10")),
        ("explicit parameters", ec_of(EXPLICIT, 32), Some("of a curve without a name")),
        ("DSA", spki(DSA, &[2, 1, 1]), Some("of the kind 1.2.840.10040.4.1")),
        ("Ed25519", spki(ED25519, &[1; 32]), None),
        ("Ed448", spki(ED448, &[1; 57]), Some("of the kind 1.3.101.113")),
    ];
    for (case, key, expected) in table {
        let got = TrustBundle::from_bytes("t", ca_with(&key, |_| {}).as_bytes());
        let got = match &got {
            Ok(bundle) => {
                assert_eq!(bundle.entries().len(), 1);
                None
            }
            Err(BundleError::NoAnchor(refused)) => match &refused[..] {
                [RefusedEntry { reason: EntryRefusal::Key(kind), .. }] => Some(kind.as_str()),
                other => panic!("{case}: {other:?}"),
            },
            Err(other) => panic!("{case}: {other}"),
        };
        assert_eq!(got, expected, "{case}");
    }
}

/// The same certificate, said to be signed by another algorithm.
fn signed_with(pem_text: &str, algorithm: &str) -> String {
    let mut certificate = x509_cert::Certificate::from_der(&ders(pem_text)[0]).unwrap();
    let oid = ObjectIdentifier::new(algorithm).unwrap();
    certificate.signature_algorithm.oid = oid;
    certificate.tbs_certificate.signature.oid = oid;
    pem("CERTIFICATE", &certificate.to_der().unwrap())
}

#[test]
fn what_is_odd_about_a_ca_that_serves_is_told() {
    let key = ec_of(b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", 32);
    let (below, alone) = (ca_with(&key, |_| {}), root("R").certificate_pem().to_owned());
    let aged = |window: Window| Authority::root("R", Curve::P256, window).unwrap();
    let table = [
        ("nothing", below.clone(), None),
        ("SHA-1 with ECDSA", signed_with(&below, "1.2.840.10045.4.1"), Some("with SHA-1")),
        ("SHA-1 with RSA", signed_with(&below, "1.2.840.113549.1.1.5"), Some("with SHA-1")),
        ("MD5 with RSA", signed_with(&below, "1.2.840.113549.1.1.4"), Some("with MD5")),
        // Its own signature says nothing about a root.
        ("SHA-1 of its own", signed_with(&alone, "1.2.840.10045.4.1"), None),
        ("expired", aged(window(-100, -10)).certificate_pem().to_owned(), Some("it expired on")),
        ("not yet", aged(window(10, 100)).certificate_pem().to_owned(), Some("valid only from")),
    ];
    for (case, text, expected) in table {
        let bundle = TrustBundle::from_bytes("t", text.as_bytes()).unwrap();
        let warnings = bundle.entries()[0].warnings(NOW);
        let got = warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        assert!(expected.map_or(got.is_empty(), |words| got.contains(words)), "{case}: {got}");
    }
}

#[test]
fn a_ca_of_another_form_is_refused_with_the_reason() {
    let key = || ec_of(b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", 32);
    let device = ca_with(&key(), |p| p.is_ca = IsCa::ExplicitNoCa);
    let mute = ca_with(&key(), |p| p.key_usages = vec![KeyUsagePurpose::CrlSign]);
    let silent = ca_with(&key(), |p| p.key_usages = Vec::new());
    let plain = ca_with(&key(), |p| p.is_ca = IsCa::NoCa);
    let table = [
        ("CA:FALSE", device, Some("not a CA certificate")),
        ("no constraints", plain, Some("not a CA certificate")),
        ("for lists alone", mute, Some("keyCertSign")),
        // RFC 5280 4.2.1.3: without the extension there is no restriction.
        ("no key usage", silent, None),
    ];
    let good = root("Good");
    for (case, text, expected) in table {
        let both = format!("{text}{}", good.certificate_pem());
        let bundle = TrustBundle::from_bytes("t", both.as_bytes()).unwrap();
        let told: Vec<_> = bundle.refused().iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), usize::from(expected.is_some()), "{case}: {told:?}");
        assert!(told.iter().all(|t| t.contains(expected.unwrap_or_default())), "{case}: {told:?}");
    }
}

#[test]
fn floods_are_bounded_and_the_others_serve() {
    let key = KeyPair::generate().unwrap();
    let ca = |name: &str| ca_params(name, valid()).self_signed(&key).unwrap().pem();
    let mut text = String::new();
    for _ in 0..SAME_SUBJECT_MAX + 3 {
        // Another serial number each.
        text += &ca("Flood");
    }
    text += &ca("Other");
    let bundle = TrustBundle::from_bytes("t", text.as_bytes()).unwrap();
    assert_eq!(bundle.entries().len(), SAME_SUBJECT_MAX + 1);
    assert!(bundle.entries().iter().any(|e| e.info.subject == "CN=Other"));
    assert_eq!(bundle.refused().len(), 3);
    assert!(bundle.refused().iter().all(|r| r.reason == EntryRefusal::SameSubject));

    let many: String = (0..ENTRIES_MAX + 2).map(|n| ca(&format!("CA {n}"))).collect();
    let bundle = TrustBundle::from_bytes("t", many.as_bytes()).unwrap();
    assert_eq!((bundle.entries().len(), bundle.refused().len()), (ENTRIES_MAX, 2));
    assert!(bundle.refused().iter().all(|r| r.reason == EntryRefusal::TooMany));

    let folder = tempfile::tempdir().unwrap();
    for n in 0..=FILES_MAX {
        std::fs::write(folder.path().join(format!("{n}.pem")), "").unwrap();
    }
    let error = TrustBundle::load(&[folder.path()]).unwrap_err();
    assert!(matches!(error, BundleError::TooManyFiles { .. }), "{error}");
}

#[test]
fn all_files_together_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let whole = vec![b' '; usize::try_from(FILE_BYTES_MAX).unwrap()];
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    put("a.pem", root("Good").certificate_pem().as_bytes());
    let files = BUNDLE_BYTES_MAX / FILE_BYTES_MAX;
    for n in 0..files {
        put(&format!("b{n:02}.pem"), &whole);
    }
    put("c.pem", root("Small").certificate_pem().as_bytes());
    let bundle = TrustBundle::load(&[folder.path()]).unwrap();
    let subjects: Vec<_> = bundle.entries().iter().map(|e| e.info.subject.as_str()).collect();
    assert_eq!(subjects, ["CN=Good", "CN=Small"]);
    let told = bundle.refused().last().unwrap().to_string();
    assert!(told.contains("more than 16777216 bytes") && told.contains("b03.pem"), "{told}");
}

#[test]
fn a_pipe_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("p.pem");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    std::fs::write(folder.path().join("a.pem"), root("Good").certificate_pem()).unwrap();
    let bundle = TrustBundle::load(&[folder.path()]).unwrap();
    assert_eq!((bundle.entries().len(), bundle.refused().len()), (1, 1));
    assert!(TrustBundle::load(&[&pipe]).unwrap_err().to_string().contains("not a file"));
}

type Files<'f> = &'f [(&'f str, &'f [u8])];

/// What comes of a folder with `after` in place of `before`: words of why it is worse, or how many CAs are added and
/// removed, and whether there are new lists.
#[track_caller]
fn case(
    name: &str,
    before: Files<'_>,
    after: Files<'_>,
    expected: Result<(usize, usize, bool), &str>,
) {
    let folder = tempfile::tempdir().unwrap();
    let load = |files: Files<'_>| {
        for (file, bytes) in files {
            std::fs::write(folder.path().join(file), bytes).unwrap();
        }
        let bundle = TrustBundle::load(&[folder.path()]).unwrap();
        for (file, _) in files {
            std::fs::remove_file(folder.path().join(file)).unwrap();
        }
        bundle
    };
    let (old, new) = (load(before), load(after));
    let change = new.change_from(&old);
    assert_eq!(change.is_nothing, before == after, "{name}");
    match (expected, new.why_worse_than(&old)) {
        (Ok(expected), None) => {
            let got = (change.added.len(), change.removed.len(), change.has_new_lists);
            assert_eq!(got, expected, "{name}");
        }
        (Err(words), Some(why)) => assert!(why.contains(words), "{name}: {why}"),
        (expected, worse) => panic!("{name}: {expected:?}, {worse:?}"),
    }
}

#[test]
fn a_worse_bundle_is_told_from_another_one() {
    let (one, two) = (root("One"), root("Two"));
    let (a, b) = (one.certificate_pem().as_bytes(), two.certificate_pem().as_bytes());
    let both = [a, b].concat();
    let cut = &both[..both.len() - 60];
    let device = one.issue_client("d", valid()).unwrap().leaf_pem;
    let (device, list) = (device.as_bytes(), revocation_list(&one, &[&[7]], valid()));
    let (list, cut_list) = (list.as_slice(), &list[..list.len() - 9]);
    let no_key = [a, b"-----BEGIN PRIVATE KEY-----\n"].concat();
    let one_file: &[(&str, &[u8])] = &[("a.pem", &both)];
    let two_files: &[(&str, &[u8])] = &[("a.pem", a), ("b.pem", b)];

    case("the same", two_files, two_files, Ok((0, 0, false)));
    case("a CA added", &[("a.pem", a)], one_file, Ok((1, 0, false)));
    case("a file added", &[("a.pem", a)], two_files, Ok((1, 0, false)));
    case("a CA taken out", one_file, &[("a.pem", a)], Ok((0, 1, false)));
    case("a file taken out", two_files, &[("a.pem", a)], Ok((0, 1, false)));
    case("a CA replaced", &[("a.pem", a)], &[("a.pem", b)], Ok((1, 1, false)));
    case("moved to another file", two_files, &[("z.pem", &both)], Ok((0, 0, false)));
    case("copied to another file", two_files, &[("a.pem", a), ("b.pem", a)], Ok((0, 1, false)));
    case("a key beside it", &[("a.pem", a)], &[("a.pem", &no_key)], Ok((0, 0, false)));
    case("a list added", &[("a.pem", a)], &[("a.pem", a), ("l.crl", list)], Ok((0, 0, true)));
    case("a list taken out", &[("a.pem", a), ("l.crl", list)], &[("a.pem", a)], Ok((0, 0, false)));

    case("cut off", one_file, &[("a.pem", cut)], Err("a.pem is damaged"));
    case("emptied", two_files, &[("a.pem", a), ("b.pem", b"")], Err("b.pem is damaged"));
    case("words", two_files, &[("a.pem", a), ("b.pem", b"moved")], Err("b.pem is damaged"));
    case("a device's", two_files, &[("a.pem", a), ("b.pem", device)], Err("gives nothing"));
    let (with_list, with_cut) =
        ([("a.pem", a), ("l.crl", list)], [("a.pem", a), ("l.crl", cut_list)]);
    case("list cut off", &with_list, &with_cut, Err("l.crl is damaged"));
    // Damage that was there, or in a file that was not, holds up nothing...
    let (was, is): (Files<'_>, Files<'_>) =
        (&[("a.pem", a), ("x.pem", b"?")], &[("a.pem", &both), ("x.pem", b"!")]);
    case("damage as before", was, is, Ok((1, 0, false)));
    case(
        "damage in a new file",
        &[("a.pem", a)],
        &[("a.pem", a), ("x.pem", b"?")],
        Ok((0, 0, false)),
    );
    // ... unless it may be what was to follow a CA that goes, or where the writing stopped.
    let scar = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let scarred = [a, scar, b].concat();
    let stopped = &scarred[..a.len() + scar.len() - 9];
    case("cut off in old damage", &[("a.pem", &scarred)], &[("a.pem", stopped)], Err("is damaged"));
    case("damaged successor", two_files, &[("a.pem", a), ("c.pem", cut)], Err("c.pem is damaged"));
}
