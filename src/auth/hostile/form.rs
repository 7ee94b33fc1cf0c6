//! The form of a certificate: DER, versions, serial numbers, extensions (RFC 5280 4.1, 4.2; X.690 for DER).

use super::der::{
    bits, content, flags, integer, octets, oid, seq, tlv, with_indefinite_length, with_long_length,
};
use super::forge::{
    ECDSA_SHA384, POLICY_KEY, ROOT, ROOT_KEY, Spec, extension, key_usage, purposes, signed,
};
use super::{Case, Hub, OK};

const FAMILY: &str = "form";
const MALFORMED: Result<(), &str> = Err("malformed_certificate");

pub(super) fn cases() -> Vec<Case> {
    let mut cases = versions();
    cases.extend(serials());
    cases.extend(unknown_extensions());
    cases.extend(known_extensions());
    cases.extend(others_extensions());
    cases.extend(encodings());
    cases.extend(odd_signatures());
    cases
}

fn leaf(name: &str, change: impl FnOnce(&mut Spec), expected: Result<(), &'static str>) -> Case {
    Case::new(FAMILY, name, vec![ROOT.leaf_with("d1", change)], expected)
}

/// 4.1.2.1: with extensions the version is 3. Versions 1 and 2 cannot say what a certificate is for: refused.
fn versions() -> Vec<Case> {
    let unique = |tag: u8| tlv(tag, &[0, 1, 2, 3]);
    let bare = |version| {
        move |s: &mut Spec| {
            s.version = version;
            s.extensions.clear();
        }
    };
    vec![
        leaf("version 1", bare(None), MALFORMED),
        leaf("version 1 with extensions", |s| s.version = None, MALFORMED),
        leaf("version 1 written out", bare(Some(0)), MALFORMED),
        leaf("version 2", bare(Some(1)), MALFORMED),
        leaf("version 3 without extensions", bare(Some(2)), OK),
        leaf("version 4", |s| s.version = Some(3), MALFORMED),
        leaf("version 127", |s| s.version = Some(127), MALFORMED),
        // 4.1.2.8: "CAs conforming to this profile MUST NOT generate certificates with unique identifiers."
        leaf("an issuer's unique id", |s| s.unique_ids = unique(0x81), MALFORMED),
        leaf("a subject's unique id", |s| s.unique_ids = unique(0x82), MALFORMED),
        leaf(
            "both unique ids",
            |s| s.unique_ids = [unique(0x81), unique(0x82)].concat(),
            MALFORMED,
        ),
        leaf("something behind the extensions", |s| s.tail = vec![5, 0], MALFORMED),
        leaf(
            "a second list of extensions",
            |s| s.tail = tlv(0xa3, &seq(&[&key_usage(&[0])])),
            MALFORMED,
        ),
        leaf("an empty issuer", |s| s.issuer = seq(&[]), MALFORMED),
        // 4.1.1.2: the two algorithm identifiers are the same.
        leaf(
            "another algorithm inside",
            |s| s.inner_algorithm = Some(seq(&[&oid(ECDSA_SHA384)])),
            MALFORMED,
        ),
        leaf(
            "parameters to the algorithm inside",
            |s| {
                s.inner_algorithm = Some(seq(&[&oid(super::forge::ECDSA_SHA256), &[5, 0]]));
            },
            MALFORMED,
        ),
    ]
}

/// 4.1.2.2: "Certificate users SHOULD be prepared to gracefully handle" negative and zero; 20 bytes MUST be taken, more
/// are taken too (many CAs write 20 random bytes and a sign byte). DER allows one writing of a number.
fn serials() -> Vec<Case> {
    let huge = vec![0x7f; 5000];
    [
        ("zero", &[0][..], OK),
        ("one", &[1], OK),
        ("negative", &[0x80], OK),
        ("minus one", &[0xff], OK),
        ("20 bytes", &[0x7f; 20], OK),
        ("20 bytes and a sign byte", &[&[0][..], &[0xff; 20]].concat(), OK),
        ("negative, 20 bytes", &[0x81; 20], OK),
        ("64 bytes", &[0x11; 64], OK),
        ("5,000 bytes", &huge, OK),
        ("a zero too many", &[0, 0x11], MALFORMED),
        ("zero twice", &[0, 0], MALFORMED),
        ("an 0xff too many", &[0xff, 0x81], MALFORMED),
        ("no digits", &[], MALFORMED),
    ]
    .map(|(name, bytes, expected)| {
        leaf(&format!("serial number: {name}"), |s| s.serial = bytes.to_vec(), expected)
    })
    .into()
}

fn private(critical: bool) -> Vec<u8> {
    extension("1.3.6.1.4.1.99999.1", critical, &[5, 0])
}

fn issuer_key_id(bytes: &[u8]) -> Vec<u8> {
    extension("2.5.29.35", false, &seq(&[&tlv(0x80, bytes)]))
}

const CRITICAL: Result<(), &str> = Err("critical_extension");
/// 4.2: "MUST NOT include more than one instance of a particular extension".
const TWICE: Result<(), &str> = MALFORMED;

/// 4.2: what is unknown and critical refuses.
fn unknown_extensions() -> Vec<Case> {
    let many = |n: u32| -> Vec<Vec<u8>> {
        (0..n).map(|n| extension(&format!("1.3.6.1.4.1.99999.2.{n}"), false, &[])).collect()
    };
    let cases = [
        ("unknown", vec![private(false)], OK),
        ("unknown and critical", vec![private(true)], CRITICAL),
        ("unknown twice", vec![private(false), private(false)], TWICE),
        (
            "CT poison (RFC 6962)",
            vec![extension("1.3.6.1.4.1.11129.2.4.3", true, &[5, 0])],
            CRITICAL,
        ),
        (
            "proxy certificate (RFC 3820)",
            vec![extension("1.3.6.1.5.5.7.1.14", true, &seq(&[]))],
            CRITICAL,
        ),
        (
            "OCSP must-staple",
            vec![extension("1.3.6.1.5.5.7.1.24", false, &seq(&[&integer(&[5])]))],
            OK,
        ),
        ("100 unknown ones", many(100), OK),
        ("2,000 unknown ones", many(2000), OK),
        (
            "2,000 unknown ones, the last critical",
            [many(2000), vec![private(true)]].concat(),
            CRITICAL,
        ),
        (
            "an unknown one of 60,000 bytes",
            vec![extension("1.3.6.1.4.1.99999.3", false, &[0; 60_000])],
            OK,
        ),
        (
            "an unknown one of 70,000 bytes",
            vec![extension("1.3.6.1.4.1.99999.3", false, &[0; 70_000])],
            MALFORMED,
        ),
        ("one without a value", vec![seq(&[&oid("1.3.6.1.4.1.99999.1")])], MALFORMED),
        (
            "one with a value of another type",
            vec![seq(&[&oid("1.3.6.1.4.1.99999.1"), &bits(&[])])],
            MALFORMED,
        ),
        (
            "one with more than a value",
            vec![seq(&[&oid("1.3.6.1.4.1.99999.1"), &octets(&[]), &octets(&[])])],
            MALFORMED,
        ),
    ];
    cases
        .into_iter()
        .map(|(name, added, expected)| {
            leaf(&format!("extension: {name}"), |s| s.extensions.extend(added), expected)
        })
        .collect()
}

/// Those that have a meaning here, or in RFC 5280.
fn known_extensions() -> Vec<Case> {
    let key_id = || extension("2.5.29.14", false, &octets(&[7; 20]));
    let usage = || key_usage(&[0]);
    let client = || purposes(false, &[super::forge::CLIENT]);
    // 6.1 does not ask for key identifiers to fit: they only help to find the issuer.
    let cases = [
        ("key id", vec![key_id()], OK),
        ("key id twice", vec![key_id(), key_id()], TWICE),
        ("key id, critical", vec![extension("2.5.29.14", true, &octets(&[7; 20]))], CRITICAL),
        ("another issuer's key id", vec![issuer_key_id(&[9; 20])], OK),
        ("an empty issuer's key id", vec![issuer_key_id(&[])], OK),
        ("an issuer's key id of 5,000 bytes", vec![issuer_key_id(&[9; 5000])], OK),
        ("a damaged issuer's key id", vec![extension("2.5.29.35", false, &[0x30, 0x7f])], OK),
        ("key usage twice, the same", vec![usage()], TWICE),
        ("purposes twice, the same", vec![client()], TWICE),
        (
            "alternative names twice",
            vec![super::forge::alt_names(&[]), super::forge::alt_names(&[])],
            TWICE,
        ),
        (
            "basicConstraints twice",
            vec![super::forge::basic(false, None), super::forge::basic(false, None)],
            TWICE,
        ),
        (
            "a damaged alternative name, critical",
            vec![extension("2.5.29.17", true, &[0x30, 5, 0x82, 0x7f, 1])],
            MALFORMED,
        ),
        (
            "a damaged alternative name, not critical",
            vec![extension("2.5.29.17", false, &[0x30, 2, 0x82, 0x7f])],
            OK,
        ),
        (
            "an alternative name of no type",
            vec![extension("2.5.29.17", true, &seq(&[&[0x9f, 0x21, 0]]))],
            MALFORMED,
        ),
        (
            "damaged basicConstraints",
            vec![extension("2.5.29.19", false, &[0x30, 3, 1, 1])],
            MALFORMED,
        ),
        (
            "basicConstraints of another type",
            vec![extension("2.5.29.19", false, &[4, 0])],
            MALFORMED,
        ),
        (
            "one whose critical flag is BER",
            vec![seq(&[&oid("1.3.6.1.4.1.99999.1"), &[1, 1, 1], &octets(&[])])],
            MALFORMED,
        ),
    ];
    cases
        .into_iter()
        .map(|(name, added, expected)| {
            leaf(&format!("extension: {name}"), |s| s.extensions.extend(added), expected)
        })
        .collect()
}

/// An intermediate's and an anchor's.
fn others_extensions() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, added, expected) in [
        ("unknown", private(false), OK),
        ("unknown and critical", private(true), CRITICAL),
        ("key usage twice", key_usage(&[5, 6]), TWICE),
        ("another issuer's key id", issuer_key_id(&[9; 20]), OK),
    ] {
        let middle = ROOT.below_with("Middle", &POLICY_KEY, |s| s.extensions.push(added.clone()));
        let chain = vec![middle.leaf("d1"), middle.der.clone()];
        cases.push(Case::new(FAMILY, format!("intermediate's extension: {name}"), chain, expected));
        // A CA with an unknown critical extension, or twice the same, is not taken into the bundle.
        let root = super::forge::Ca::root_with("Odd", &ROOT_KEY, |s| s.extensions.push(added));
        let chain = vec![root.leaf("d1")];
        let expected = expected.map_err(|_| "unknown_ca");
        let case = Case::new(FAMILY, format!("anchor's extension: {name}"), chain, expected);
        cases.push(case.anchors(&[&root, &ROOT]));
    }
    cases
}

/// Bytes around and within: X.690 8.1.3, 10.1 (definite, shortest lengths), nothing behind the end.
fn encodings() -> Vec<Case> {
    let good = ROOT.leaf("d1");
    let (tbs, key) = (Spec::leaf(&ROOT, "d1").tbs(&ROOT_KEY.algorithm), &ROOT_KEY);
    let signature = key.sign(&tbs);
    let outer = |tbs: &[u8], algorithm: &[u8], signature: &[u8]| seq(&[tbs, algorithm, signature]);
    let algorithm = &key.algorithm;
    let mut of = Vec::new();
    let mut case = |name: &str, der: Vec<u8>, expected| {
        of.push(Case::new(FAMILY, format!("encoding: {name}"), vec![der], expected));
    };
    case("as it should be", outer(&tbs, algorithm, &bits(&signature)), OK);
    case("a byte behind it", [&good[..], &[0]].concat(), MALFORMED);
    case("itself behind it", [&good[..], &good].concat(), MALFORMED);
    case("60,000 bytes behind it", [&good[..], &vec![0; 60_000]].concat(), MALFORMED);
    case("a long length outside", with_long_length(&good), MALFORMED);
    case("an indefinite length outside", with_indefinite_length(&good), MALFORMED);
    case(
        "a long length of the algorithm",
        outer(&tbs, &with_long_length(algorithm), &bits(&signature)),
        MALFORMED,
    );
    case("a long length within the signed part", signed(&with_long_length(&tbs), key), MALFORMED);
    case(
        "an indefinite length within the signed part",
        signed(&with_indefinite_length(&tbs), key),
        MALFORMED,
    );
    case("a SET outside", [&[0x31], &good[1..]].concat(), MALFORMED);
    case("without an algorithm", seq(&[&tbs, &bits(&signature)]), MALFORMED);
    case("the signed part alone", tbs.clone(), MALFORMED);
    case("an empty SEQUENCE", seq(&[]), MALFORMED);
    case("64 KB of zeros", vec![0; 65_536], MALFORMED);
    case("64 KB of SEQUENCEs", [0x30, 0x80].repeat(32_768), MALFORMED);
    case(
        "a length beyond the end",
        [&[0x30, 0x84, 0x7f, 0xff, 0xff, 0xff], content(&good)].concat(),
        MALFORMED,
    );
    case(
        "a length of nine bytes",
        [&[0x30, 0x89], &[0xff; 9][..], content(&good)].concat(),
        MALFORMED,
    );
    case(
        "PEM",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".to_vec(),
        MALFORMED,
    );
    case("only flags", flags(&[1, 2]), MALFORMED);
    of
}

/// The signature: a string of whole bytes, in which ECDSA has two numbers.
fn odd_signatures() -> Vec<Case> {
    let (tbs, key) = (Spec::leaf(&ROOT, "d1").tbs(&ROOT_KEY.algorithm), &ROOT_KEY);
    let signature = key.sign(&tbs);
    let outer = |tbs: &[u8], algorithm: &[u8], signature: &[u8]| seq(&[tbs, algorithm, signature]);
    let algorithm = &key.algorithm;
    let unused = tlv(0x03, &[&[1], &signature[..]].concat());
    let mut of = Vec::new();
    let mut case = |name: &str, der: Vec<u8>, expected| {
        of.push(Case::new(FAMILY, format!("encoding: {name}"), vec![der], expected));
    };
    case(
        "a long length of the signature",
        outer(&tbs, algorithm, &with_long_length(&bits(&signature))),
        MALFORMED,
    );
    case("a signature with unused bits", outer(&tbs, algorithm, &unused), MALFORMED);
    case("a signature as octets", outer(&tbs, algorithm, &octets(&signature)), MALFORMED);
    case("an empty signature", outer(&tbs, algorithm, &bits(&[])), Err("bad_signature"));
    case(
        "a signature and a byte",
        outer(&tbs, algorithm, &bits(&[&signature[..], &[0]].concat())),
        Err("bad_signature"),
    );
    case(
        "a signature of zeros",
        outer(&tbs, algorithm, &bits(&seq(&[&integer(&[0]), &integer(&[0])]))),
        Err("bad_signature"),
    );
    case(
        "a signature of ones",
        outer(&tbs, algorithm, &bits(&seq(&[&integer(&[1]), &integer(&[1])]))),
        Err("bad_signature"),
    );
    case(
        "another's signature",
        outer(&tbs, algorithm, &bits(&super::forge::STRANGE_KEY.sign(&tbs))),
        Err("bad_signature"),
    );
    case(
        "the signature of other bytes",
        outer(&tbs, algorithm, &bits(&key.sign(b"other"))),
        Err("bad_signature"),
    );
    case("without a signature", seq(&[&tbs, algorithm]), MALFORMED);
    case(
        "something behind the signature",
        seq(&[&tbs, algorithm, &bits(&signature), &[5, 0]]),
        MALFORMED,
    );
    of
}

/// Families that are judged byte by byte.
#[test]
fn no_byte_can_be_cut_off_or_changed() {
    let hub = Hub::new();
    let policy = ROOT.below("Policy", &POLICY_KEY);
    let leaf = policy.leaf("d1");
    let judge = |leaf: Vec<u8>, ca: Vec<u8>| {
        hub.judge(&Case::new(FAMILY, "bytes", vec![leaf, ca], OK)).map_err(|(label, _)| label)
    };
    assert_eq!(judge(leaf.clone(), policy.der.clone()), OK);
    for cut in 0..leaf.len() {
        let got = judge(leaf[..cut].to_vec(), policy.der.clone());
        assert_eq!(got, MALFORMED, "the leaf, cut at {cut} of {}", leaf.len());
    }
    for cut in 0..policy.der.len() {
        let got = judge(leaf.clone(), policy.der[..cut].to_vec());
        assert_eq!(got, MALFORMED, "the intermediate, cut at {cut} of {}", policy.der.len());
    }
    // ECDSA alone has two signatures for one message, (r, s) and (r, -s): no single bit leads from one to the other.
    for (what, der) in [("leaf", &leaf), ("intermediate", &policy.der)] {
        for place in 0..der.len() {
            for bit in 0..8 {
                let mut bytes = der.clone();
                bytes[place] ^= 1 << bit;
                let got = match what {
                    "leaf" => judge(bytes, policy.der.clone()),
                    _ => judge(leaf.clone(), bytes),
                };
                assert!(got.is_err(), "bit {bit} of byte {place} of the {what}");
            }
        }
    }
    let signed_part = Spec::leaf(&policy, "d1").tbs(&POLICY_KEY.algorithm).len();
    let parts = leaf.len() - content(&leaf).len() + signed_part;
    for place in parts..leaf.len() {
        let mut bytes = leaf.clone();
        bytes[place] ^= 1;
        let label = judge(bytes, policy.der.clone()).unwrap_err();
        let fits = ["bad_signature", "malformed_certificate", "algorithm"].contains(&label);
        assert!(fits, "byte {place} behind the signed part: {label}");
    }
}
