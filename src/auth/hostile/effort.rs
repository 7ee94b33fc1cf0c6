//! What a hostile chain may cost: namesakes without number, mazes, floods of names under constraints.
//!
//! Bounded is the work, not the time: signatures worked out are counted.

use std::sync::LazyLock;

use rustls_pki_types::CertificateDer;

use super::der::{octets, seq, tlv};
use super::forge::{
    Ca, Key, LOWER_KEY, POLICY_KEY, ROOT, ROOT_KEY, STRANGE_KEY, Spec, alt_names, cn, dns,
    extension,
};
use super::{Case, OK, bundle};
use crate::auth::testing::NOW;

const FAMILY: &str = "effort";

/// 500 CAs of one name, each with a key and key identifier of its own.
static NAMESAKES: LazyLock<Vec<Ca>> = LazyLock::new(|| (0..500).map(namesake).collect());

fn key_id(n: u16) -> Vec<u8> {
    n.to_be_bytes().repeat(10)
}

fn namesake(n: u16) -> Ca {
    let key: &'static Key = Box::leak(Box::new(Key::p256()));
    let id = extension("2.5.29.14", false, &octets(&key_id(n)));
    Ca::root_with("Tenant", key, |s| s.extensions.push(id))
}

/// A leaf of one of them, naming its issuer's key or not.
fn leaf_of(n: u16, names_key: bool) -> Vec<u8> {
    let id = extension("2.5.29.35", false, &seq(&[&tlv(0x80, &key_id(n))]));
    NAMESAKES[usize::from(n)].leaf_with("d1", |s| {
        if names_key {
            s.extensions.push(id);
        }
    })
}

/// Seven CAs, all of one name and issued by that name, with different keys: a maze without an exit.
fn maze(name: &str) -> Vec<Vec<u8>> {
    let cas = &NAMESAKES[..7];
    cas.iter()
        .zip(cas.iter().cycle().skip(1))
        .map(|(ca, by)| Spec::ca(cn(name), cn(name), &ca.key.spki).sign(by.key))
        .collect()
}

pub(super) fn cases() -> Vec<Case> {
    let presented: Vec<_> = NAMESAKES[..7].iter().map(|ca| ca.der.clone()).collect();
    let with_leaf = |leaf: Vec<u8>, others: &[Vec<u8>]| [&[leaf], others].concat();
    let anchors: Vec<&Ca> = NAMESAKES.iter().collect();
    let of = |name: &str, chain: Vec<Vec<u8>>, expected| Case::new(FAMILY, name, chain, expected);
    let all = |name: &str, chain, expected| of(name, chain, expected).anchors(&anchors);
    let few = |name: &str, chain, expected| of(name, chain, expected).anchors(&anchors[..16]);
    let stranger = Ca::root("Tenant", &STRANGE_KEY);
    let complex = Err("too_complex");
    let flood =
        |n: usize| alt_names(&(0..n).map(|n| dns(&format!("n{n}.example"))).collect::<Vec<_>>());
    let trees: Vec<u8> = (0..100).flat_map(|n| seq(&[&dns(&format!("x{n}.test"))])).collect();
    let constraint = extension("2.5.29.30", true, &seq(&[&tlv(0xa1, &trees)]));
    let strict = ROOT.below_with("Strict", &POLICY_KEY, |s| s.extensions.push(constraint));
    let flooded = |n: usize| {
        vec![strict.leaf_with("d1", |s| s.extensions.push(flood(n))), strict.der.clone()]
    };
    let two = [ROOT.below("Twin", &POLICY_KEY), ROOT.below("Twin", &LOWER_KEY)];
    vec![
        all("500 namesakes in the bundle, the first's leaf", vec![leaf_of(0, true)], OK),
        all("500 namesakes in the bundle, the first's, no key id", vec![leaf_of(0, false)], OK),
        all("500 namesakes in the bundle, the sixteenth's leaf", vec![leaf_of(15, true)], OK),
        // Sixteen keys are tried.
        all(
            "500 namesakes in the bundle, the sixteenth's, no key id",
            vec![leaf_of(15, false)],
            OK,
        ),
        few(
            "16 namesakes in the bundle, a stranger's",
            vec![stranger.leaf("d1")],
            Err("bad_signature"),
        ),
        few(
            "16 namesakes in the bundle, one that is not there",
            vec![leaf_of(16, true)],
            Err("bad_signature"),
        ),
        of(
            "500 CAs of one name presented",
            with_leaf(
                leaf_of(0, true),
                &NAMESAKES.iter().map(|ca| ca.der.clone()).collect::<Vec<_>>(),
            ),
            Err("chain_too_long"),
        ),
        of("seven CAs of one name presented", with_leaf(leaf_of(0, true), &presented), complex),
        of(
            "seven CAs of one name presented, a good leaf",
            with_leaf(ROOT.leaf("d1"), &presented),
            complex,
        ),
        of("a maze of the anchor's name", with_leaf(leaf_of(0, false), &maze("Tenant")), complex),
        of("a maze of another name", with_leaf(leaf_of(0, false), &maze("Other")), complex),
        of(
            "one certificate seven times",
            with_leaf(ROOT.leaf("d1"), &vec![NAMESAKES[0].der.clone(); 7]),
            OK,
        ),
        of(
            "two CAs of one name presented",
            vec![two[1].leaf("d1"), two[0].der.clone(), two[1].der.clone()],
            OK,
        ),
        of("1,000 names under 100 constraints", flooded(1000), OK),
        // 400,000 comparisons; webpki makes 250,000.
        of("4,000 names under 100 constraints", flooded(4000), complex),
    ]
}

#[test]
fn a_hostile_chain_costs_a_bounded_number_of_signatures() {
    let ders = |chain: &[Vec<u8>]| -> Vec<CertificateDer<'static>> {
        chain.iter().map(|der| CertificateDer::from(der.clone())).collect()
    };
    let anchors: Vec<_> = NAMESAKES.iter().map(|ca| ca.der.clone()).collect();
    let maze: Vec<_> = [vec![leaf_of(0, false)], maze("Tenant")].concat();
    let few: Vec<_> = maze[..4].to_vec();
    let stranger = Ca::root("Tenant", &STRANGE_KEY);
    for (name, anchors, chain, most, same_again) in [
        ("of ours, key named", &anchors[..], vec![leaf_of(0, true)], 1, 0),
        ("of nobody", &anchors, vec![stranger.leaf("d1")], 16, 16),
        ("seven of one name", &anchors[..2], maze, 0, 0),
        ("three of one name", &anchors[7..9], few, 16, 16),
        (
            "expired",
            &anchors[..],
            vec![stranger.leaf_with("d1", |s: &mut Spec| s.to = s.from)],
            0,
            0,
        ),
        (
            "no anchor of that name",
            std::slice::from_ref(&ROOT_OTHER.der),
            vec![stranger.leaf("d1")],
            0,
            0,
        ),
    ] {
        let bundle = bundle(anchors, &[]);
        let chain = ders(&chain);
        let _ = bundle.verify(&chain, NOW);
        let cost = bundle.signatures_worked_out();
        assert!(cost <= most, "{name}: {cost} signatures, at most {most}");
        let _ = bundle.verify(&chain, NOW);
        let again = bundle.signatures_worked_out() - cost;
        assert!(again <= same_again, "{name}, again: {again} signatures, at most {same_again}");
    }
}

static ROOT_OTHER: LazyLock<Ca> = LazyLock::new(|| Ca::root("Other", &ROOT_KEY));
