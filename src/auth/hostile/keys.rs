//! Kinds and lengths of keys and signatures. Taken: P-256, P-384, Ed25519, RSA of 2048 to 8192 bits, with SHA-256 and
//! better (NIST SP 800-131A: no SHA-1, no RSA below 2048). P-521 is sound but not in ring, which also does the TLS
//! handshake: refused by name.

use std::sync::LazyLock;

use super::der::{bits, integer, oid, seq};
use super::forge::{
    Ca, DEVICE_KEY, ECDSA_SHA256, ECDSA_SHA384, ED25519, Key, LOWER_KEY, P256, P384, P521,
    POLICY_KEY, ROOT, RSA_KEY, RSA_SHA256, SECP256K1, Spec, ec_spki, rsa_spki,
};
use super::{Case, OK};

const FAMILY: &str = "keys";
const NO: Result<(), &str> = Err("algorithm");

pub(super) static ED_KEY: LazyLock<Key> = LazyLock::new(Key::ed25519);
/// The same RSA key with SHA-1.
static SHA1_KEY: LazyLock<Key> = LazyLock::new(|| RSA_KEY.with_sha1());
static SHORT_KEY: LazyLock<Key> = LazyLock::new(|| Key::rsa(1024, false));
static P521_KEY: LazyLock<Key> =
    LazyLock::new(|| Key::nobodys(ec_spki(P521, &point(133)), "1.2.840.10045.4.3.4"));
static K1_KEY: LazyLock<Key> =
    LazyLock::new(|| Key::nobodys(ec_spki(SECP256K1, &point(65)), ECDSA_SHA256));
static RSA_16K: LazyLock<Key> =
    LazyLock::new(|| Key::nobodys(rsa_spki(16_384, &[1, 0, 1]), RSA_SHA256));
static RSA_8K: LazyLock<Key> =
    LazyLock::new(|| Key::nobodys(rsa_spki(8192, &[1, 0, 1]), RSA_SHA256));

fn point(bytes: usize) -> Vec<u8> {
    [&[4], &vec![0x42; bytes - 1][..]].concat()
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = leaves();
    cases.extend(authorities());
    cases.extend(signatures());
    cases
}

/// The device's key. What counts is its form: that the client has it was proved in the handshake.
fn leaves() -> Vec<Case> {
    let e = &[1, 0, 1];
    let exact = |curve: &str, bytes| ec_spki(curve, &point(bytes));
    let no_curve = seq(&[&seq(&[&oid("1.2.840.10045.2.1")]), &bits(&point(65))]);
    let dsa = seq(&[&seq(&[&oid("1.2.840.10040.4.1")]), &bits(&integer(&[7; 128]))]);
    let own_curve = seq(&[
        &seq(&[&oid("1.2.840.10045.2.1"), &seq(&[&integer(&[1]), &integer(&[2])])]),
        &bits(&point(65)),
    ]);
    let seq_curve = seq(&[
        &seq(&[&oid("1.2.840.10045.2.1"), &seq(&[super::der::content(&oid(P256))])]),
        &bits(&point(65)),
    ]);
    let no_rsa = seq(&[&seq(&[&oid("1.2.840.113549.1.1.1"), &[5, 0]]), &bits(&[1, 2, 3])]);
    [
        ("P-256", exact(P256, 65), OK),
        ("P-384", exact(P384, 97), OK),
        ("P-521", exact(P521, 133), NO),
        ("secp256k1", exact(SECP256K1, 65), NO),
        ("brainpoolP256r1", exact("1.3.36.3.3.2.8.1.1.7", 65), NO),
        ("P-192", exact("1.2.840.10045.3.1.1", 49), NO),
        ("P-224", exact("1.3.132.0.33", 57), NO),
        ("P-256 called P-384", exact(P384, 65), NO),
        ("P-384 called P-256", exact(P256, 97), NO),
        ("P-256, compressed point", ec_spki(P256, &[&[2], &[0x42; 32][..]].concat()), NO),
        ("P-256, the point at infinity", ec_spki(P256, &[0]), NO),
        ("P-256, no point", ec_spki(P256, &[]), NO),
        ("EC without a curve", no_curve, NO),
        ("EC with a curve of its own (CVE-2020-0601)", own_curve, NO),
        ("EC with the bytes of P-256's OID in a SEQUENCE", seq_curve, NO),
        ("Ed25519", seq(&[&seq(&[&oid(ED25519)]), &bits(&[7; 32])]), OK),
        ("Ed25519 of 31 bytes", seq(&[&seq(&[&oid(ED25519)]), &bits(&[7; 31])]), NO),
        ("Ed448", seq(&[&seq(&[&oid("1.3.101.113")]), &bits(&[7; 57])]), NO),
        ("X25519, which cannot sign", seq(&[&seq(&[&oid("1.3.101.110")]), &bits(&[7; 32])]), NO),
        ("DSA", dsa, NO),
        ("RSA 512", rsa_spki(512, e), NO),
        ("RSA 1024", rsa_spki(1024, e), NO),
        ("RSA 2040", rsa_spki(2040, e), NO),
        ("RSA 2048", rsa_spki(2048, e), OK),
        ("RSA 2048, exponent 3", rsa_spki(2048, &[3]), OK),
        ("RSA 3072", rsa_spki(3072, e), OK),
        ("RSA 4096", rsa_spki(4096, e), OK),
        ("RSA 8192", rsa_spki(8192, e), OK),
        ("RSA 8200", rsa_spki(8200, e), NO),
        ("RSA 16384", rsa_spki(16_384, e), NO),
        ("RSA of 400,000 bits", rsa_spki(400_000, e), NO),
        ("RSA that is none", no_rsa, NO),
        ("RSA-PSS key", seq(&[&seq(&[&oid("1.2.840.113549.1.1.10")]), &bits(&[1, 2, 3])]), NO),
        ("an unknown kind", seq(&[&seq(&[&oid("1.3.6.1.4.1.99999.9")]), &bits(&[1])]), NO),
        ("not a key", seq(&[&bits(&[1])]), Err("malformed_certificate")),
    ]
    .map(|(name, spki, expected)| {
        let chain = vec![ROOT.leaf_with("d1", |s| s.spki = spki)];
        Case::new(FAMILY, format!("leaf's: {name}"), chain, expected)
    })
    .into()
}

/// CAs' keys, presented and in the bundle. Who cannot have signed is found out without arithmetic.
fn authorities() -> Vec<Case> {
    let mut cases = Vec::new();
    let bad = Err("bad_signature");
    for (name, key, expected) in [
        ("P-256", &*LOWER_KEY, OK),
        ("P-384", &*POLICY_KEY, OK),
        ("Ed25519", &*ED_KEY, OK),
        ("RSA 2048", &*RSA_KEY, OK),
        ("RSA 1024", &*SHORT_KEY, NO),
        ("RSA 8192, which did not sign", &*RSA_8K, bad),
        ("RSA 16384", &*RSA_16K, NO),
        ("P-521", &*P521_KEY, NO),
        ("secp256k1", &*K1_KEY, NO),
    ] {
        let middle = ROOT.below("Middle", key);
        let chain = vec![middle.leaf("d1"), middle.der.clone()];
        cases.push(Case::new(FAMILY, format!("intermediate's: {name}"), chain, expected));
        let anchor = Ca::root("Anchor", key);
        // A CA with such a key is not taken into the bundle.
        let expected = if expected == NO { Err("unknown_ca") } else { expected };
        let case =
            Case::new(FAMILY, format!("anchor's: {name}"), vec![anchor.leaf("d1")], expected);
        cases.push(case.anchors(&[&anchor, &ROOT]));
    }
    cases
}

fn signatures() -> Vec<Case> {
    let root = Ca::root("RSA", &RSA_KEY);
    let weak = Ca { key: &SHA1_KEY, ..root.clone() };
    let policy = root.below("Policy", &POLICY_KEY);
    let weak_policy = weak.below("Policy", &POLICY_KEY);
    let renamed = |ca: &Ca, key: &Key, signature: &str| {
        let algorithm = seq(&[&oid(signature)]);
        let tbs = Spec::leaf(ca, "d1").tbs(&algorithm);
        seq(&[&tbs, &algorithm, &bits(&key.sign(&tbs))])
    };
    let of = |name: &str, chain: Vec<Vec<u8>>, expected| {
        Case::new(FAMILY, format!("signature: {name}"), chain, expected)
    };
    let p384 = Ca::root("P-384", &POLICY_KEY);
    let with_null = {
        let algorithm = seq(&[&oid(ECDSA_SHA256), &[5, 0]]);
        let tbs = Spec::leaf(&ROOT, "d1").tbs(&algorithm);
        seq(&[&tbs, &algorithm, &bits(&super::forge::ROOT_KEY.sign(&tbs))])
    };
    let md5 = renamed(&root, &RSA_KEY, "1.2.840.113549.1.1.4");
    let rsa = |case: Case| case.anchors(&[&root]);
    vec![
        rsa(of("RSA with SHA-256", vec![root.leaf("d1")], OK)),
        rsa(of("RSA with SHA-1 on the leaf", vec![weak.leaf("d1")], NO)),
        rsa(of(
            "RSA with SHA-1 on the intermediate",
            vec![weak_policy.leaf("d1"), weak_policy.der],
            NO,
        )),
        rsa(of("an intermediate with SHA-256", vec![policy.leaf("d1"), policy.der], OK)),
        rsa(of("RSA with MD5", vec![md5], NO)),
        // RFC 4055 5: "implementations MUST accept the parameters being absent".
        rsa(of("RSA without the NULL", vec![renamed(&root, &RSA_KEY, RSA_SHA256)], OK)),
        // 6.1 takes the anchor's key as given: how its own certificate was signed says nothing.
        of("an anchor whose own is SHA-1", vec![root.leaf("d1")], OK).anchors(&[&Ca {
            der: Spec::ca(root.name.clone(), root.name.clone(), &RSA_KEY.spki).sign(&SHA1_KEY),
            ..root.clone()
        }]),
        // RFC 5758 3.2: "the encoding MUST omit the parameters field".
        of("ECDSA with a NULL", vec![with_null], NO),
        of(
            "ECDSA of P-256 called SHA-384",
            vec![renamed(&ROOT, &super::forge::ROOT_KEY, ECDSA_SHA384)],
            Err("bad_signature"),
        ),
        of(
            "ECDSA with SHA-1",
            vec![renamed(&ROOT, &super::forge::ROOT_KEY, "1.2.840.10045.4.1")],
            NO,
        ),
        of(
            "ECDSA with SHA-512",
            vec![renamed(&ROOT, &super::forge::ROOT_KEY, "1.2.840.10045.4.3.4")],
            NO,
        ),
        of("Ed25519 from a P-256 CA", vec![renamed(&ROOT, &ED_KEY, ED25519)], NO),
        of("RSA from a P-256 CA", vec![renamed(&ROOT, &RSA_KEY, RSA_SHA256)], NO),
        of(
            "an unknown algorithm",
            vec![renamed(&ROOT, &super::forge::ROOT_KEY, "1.3.6.1.4.1.99999.8")],
            NO,
        ),
        of("P-384 with SHA-384", vec![p384.leaf("d1")], OK).anchors(&[&p384]),
        of(
            "the device's own key",
            vec![renamed(&ROOT, &DEVICE_KEY, ECDSA_SHA256)],
            Err("bad_signature"),
        ),
    ]
}
