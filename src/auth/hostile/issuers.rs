//! Who signed: names, keys, order and length of chains, path length (RFC 5280 6.1.3 a 1 and 4, 6.1.4 k to m, 4.2.1.9).

use super::forge::{
    Ca, LOWER_KEY, POLICY_KEY, ROOT, ROOT_KEY, STRANGE_KEY, Spec, basic, cn, extension, key_usage,
};
use super::{Case, OK};

const FAMILY: &str = "issuers";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = who_signed();
    cases.extend(who_else_signed());
    cases.extend(orders());
    cases.extend(lengths());
    cases.extend(path_lengths());
    cases.extend(anchors());
    cases
}

fn of(name: &str, chain: &[&Vec<u8>], expected: Result<(), &'static str>) -> Case {
    Case::new(FAMILY, name, chain.iter().map(|der| (*der).clone()).collect(), expected)
}

fn who_signed() -> Vec<Case> {
    let policy = ROOT.below("Policy", &POLICY_KEY);
    let self_signed = |name: &str| {
        let spec = Spec::leaf(&ROOT, name).with(|s| {
            s.issuer = cn(name);
            s.spki = STRANGE_KEY.spki.clone();
        });
        spec.sign(&STRANGE_KEY)
    };
    // A device's certificate and key, used as a CA's.
    let device = Ca {
        name: cn("d2"),
        key: &LOWER_KEY,
        der: ROOT.leaf_with("d2", |s| s.spki = LOWER_KEY.spki.clone()),
    };
    let looped = Spec::ca(cn("B"), cn("A"), &POLICY_KEY.spki).sign(&LOWER_KEY);
    let looping = Spec::ca(cn("A"), cn("B"), &LOWER_KEY.spki).sign(&POLICY_KEY);
    let in_loop = Ca { name: cn("A"), key: &POLICY_KEY, der: looped.clone() };
    // The last two: only the first certificate is the client's, its key was proved in the handshake.
    vec![
        of("leaf alone", &[&ROOT.leaf("d1")], OK),
        of("leaf and anchor", &[&ROOT.leaf("d1"), &ROOT.der], OK),
        of("leaf, intermediate", &[&policy.leaf("d1"), &policy.der], OK),
        of("leaf, intermediate, anchor", &[&policy.leaf("d1"), &policy.der, &ROOT.der], OK),
        of("missing intermediate", &[&policy.leaf("d1")], Err("unknown_ca")),
        of(
            "missing intermediate, anchor there",
            &[&policy.leaf("d1"), &ROOT.der],
            Err("unknown_ca"),
        ),
        of("self-signed leaf", &[&self_signed("d1")], Err("unknown_ca")),
        of("self-signed leaf with the CA's name", &[&self_signed("Tenant")], Err("bad_signature")),
        of("signed by a device", &[&device.leaf("d1"), &device.der], Err("leaf_as_ca")),
        of("the anchor as leaf", &[&ROOT.der], Err("ca_as_leaf")),
        of("an intermediate as leaf", &[&policy.der], Err("ca_as_leaf")),
        of("a loop of CAs", &[&in_loop.leaf("d1"), &looped, &looping], Err("unknown_ca")),
        of("no certificate", &[], Err("no_credentials")),
        of("an empty certificate", &[&Vec::new()], Err("malformed_certificate")),
        of("another's certificate", &[&ROOT.leaf("d2")], Err("common_name")),
        of(
            "another's certificate, ours second",
            &[&ROOT.leaf("d2"), &ROOT.leaf("d1")],
            Err("common_name"),
        ),
        of("our certificate, another's second", &[&ROOT.leaf("d1"), &ROOT.leaf("d2")], OK),
    ]
}

/// Others than ours, some with our name or our key. 7.1 compares names without case; webpki byte for byte, which
/// refuses more (path.rs).
fn who_else_signed() -> Vec<Case> {
    let stranger = Ca::root("Stranger", &STRANGE_KEY);
    let namesake = Ca::root("Tenant", &STRANGE_KEY);
    let below_namesake = namesake.below("Policy", &POLICY_KEY);
    let same_key = Ca::root("Another name", &ROOT_KEY);
    let lower_case = Ca::root("tenant", &ROOT_KEY);
    // Cross-signed: the stranger's CA, certified by our root under its own name and key.
    let crossed = ROOT.below("Stranger", &STRANGE_KEY);
    vec![
        of("unknown CA", &[&stranger.leaf("d1")], Err("unknown_ca")),
        of("unknown CA, presented", &[&stranger.leaf("d1"), &stranger.der], Err("unknown_ca")),
        of(
            "unknown CA, our anchor presented",
            &[&stranger.leaf("d1"), &ROOT.der],
            Err("unknown_ca"),
        ),
        of("same subject, another key", &[&namesake.leaf("d1")], Err("bad_signature")),
        of("same subject, presented", &[&namesake.leaf("d1"), &namesake.der], Err("bad_signature")),
        of(
            "namesake's intermediate",
            &[&below_namesake.leaf("d1"), &below_namesake.der],
            Err("bad_signature"),
        ),
        of(
            "namesake's intermediate, its root",
            &[&below_namesake.leaf("d1"), &below_namesake.der, &namesake.der],
            Err("bad_signature"),
        ),
        of("same key under another CA's name", &[&same_key.leaf("d1")], Err("unknown_ca")),
        of(
            "same key under another name, presented",
            &[&same_key.leaf("d1"), &same_key.der],
            Err("unknown_ca"),
        ),
        of("issuer's name in lower case", &[&lower_case.leaf("d1")], Err("unknown_ca")),
        of("cross-signed", &[&stranger.leaf("d1"), &crossed.der], OK),
        of(
            "cross-signed, self-signed one first",
            &[&stranger.leaf("d1"), &stranger.der, &crossed.der],
            OK,
        ),
        of(
            "cross-signed, self-signed one last",
            &[&stranger.leaf("d1"), &crossed.der, &stranger.der],
            OK,
        ),
    ]
}

/// RFC 8446 4.4.2: "implementations SHOULD be prepared to handle ... any order"; what is on no path does not count.
fn orders() -> Vec<Case> {
    let policy = ROOT.below("Policy", &POLICY_KEY);
    let lower = policy.below("Lower", &LOWER_KEY);
    let stranger = Ca::root("Stranger", &STRANGE_KEY);
    let leaf = lower.leaf("d1");
    let garbage = b"garbage".to_vec();
    let expired = ROOT.below_with("Policy", &POLICY_KEY, |s| s.to = s.from + 1);
    let (p, l, r, s) = (&policy.der, &lower.der, &ROOT.der, &stranger.der);
    let of = |name: &str, others: &[&Vec<u8>], expected| {
        let mut chain = vec![leaf.clone()];
        chain.extend(others.iter().map(|der| (*der).clone()));
        Case::new(FAMILY, format!("order: {name}"), chain, expected)
    };
    vec![
        of("lower, policy, root", &[l, p, r], OK),
        of("lower, root, policy", &[l, r, p], OK),
        of("policy, lower, root", &[p, l, r], OK),
        of("policy, root, lower", &[p, r, l], OK),
        of("root, lower, policy", &[r, l, p], OK),
        of("root, policy, lower", &[r, p, l], OK),
        of("each twice", &[l, l, p, p, r, r], OK),
        of("the leaf again", &[&leaf, l, p], OK),
        of("a stranger between", &[l, s, p], OK),
        of("garbage last", &[l, p, &garbage], OK),
        of("garbage first", &[&garbage, l, p], OK),
        of("garbage instead of lower", &[&garbage, p], Err("malformed_certificate")),
        of("without lower", &[p, r], Err("unknown_ca")),
        of("without policy", &[l, r], Err("unknown_ca")),
        of("an expired policy CA beside a good one", &[l, &expired.der, p], OK),
        of("an expired policy CA alone", &[l, &expired.der], Err("intermediate_not_valid")),
    ]
}

/// Chains of 1 to 20 certificates. At most eight are taken, and of these six are followed between leaf and anchor.
fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    for length in 1..=20_usize {
        let mut chain = Vec::new();
        let mut ca = ROOT.clone();
        for depth in 1..length {
            ca = ca.below(
                &format!("Level {depth}"),
                if depth % 2 == 0 { &ROOT_KEY } else { &LOWER_KEY },
            );
            chain.insert(0, ca.der.clone());
        }
        chain.insert(0, ca.leaf("d1"));
        let expected = if length <= 7 { OK } else { Err("chain_too_long") };
        cases.push(Case::new(FAMILY, format!("{length} certificates"), chain.clone(), expected));
        if length == 7 {
            chain.push(ROOT.der.clone());
            cases.push(Case::new(FAMILY, "six intermediates and the anchor", chain, OK));
        }
    }
    cases
}

fn path_lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    // (the anchor's, the upper intermediate's, the lower one's); a leaf at each level. 6.1.4 l, m: a CA with n allows n
    // CAs below it that are not self-issued; the leaf is none.
    let grid: [([Option<u8>; 3], [bool; 3]); 9] = [
        ([None, None, None], [true, true, true]),
        ([Some(0), None, None], [true, false, false]),
        ([Some(1), None, None], [true, true, false]),
        ([Some(2), None, None], [true, true, true]),
        ([None, Some(0), None], [true, true, false]),
        ([None, Some(1), None], [true, true, true]),
        ([None, None, Some(0)], [true, true, true]),
        ([Some(2), Some(1), Some(0)], [true, true, true]),
        ([Some(1), Some(5), Some(5)], [true, true, false]),
    ];
    let limit = |path_len: Option<u8>| move |s: &mut Spec| s.extensions[0] = basic(true, path_len);
    for ([anchor, upper, lower], allowed) in grid {
        let root = Ca::root_with("Tenant", &ROOT_KEY, limit(anchor));
        let one = root.below_with("One", &POLICY_KEY, limit(upper));
        let two = one.below_with("Two", &LOWER_KEY, limit(lower));
        let chains = [
            vec![root.leaf("d1")],
            vec![one.leaf("d1"), one.der.clone()],
            vec![two.leaf("d1"), two.der.clone(), one.der.clone()],
        ];
        for (depth, (chain, allowed)) in chains.into_iter().zip(allowed).enumerate() {
            let expected = if allowed { OK } else { Err("path_length") };
            let name = format!("path lengths {anchor:?} {upper:?} {lower:?}, {depth} below");
            cases.push(Case::new(FAMILY, name, chain, expected).anchors(&[&root]));
        }
    }
    // A rollover certificate (RFC 4210 4.4): the new key, signed by the old one, under the same name.
    let root = Ca::root_with("Tenant", &ROOT_KEY, limit(Some(0)));
    let next = root.below("Tenant", &STRANGE_KEY);
    let chain = vec![next.leaf("d1"), next.der.clone()];
    let case = Case::new(FAMILY, "self-issued below path length 0", chain, OK);
    cases.push(case.anchors(&[&root]));
    // Numbers that are none, or too big for webpki (one byte): the certificate is not read.
    for (name, bytes) in [
        ("256", &[1_u8, 0][..]),
        ("negative", &[0xff]),
        ("without digits", &[]),
        ("0 in two bytes", &[0, 0]),
    ] {
        use super::der::{boolean, integer, seq};
        let value = seq(&[&boolean(true), &integer(bytes)]);
        let odd = ROOT.below_with("Odd", &POLICY_KEY, |s| {
            s.extensions[0] = extension("2.5.29.19", true, &value)
        });
        let chain = vec![odd.leaf("d1"), odd.der.clone()];
        let name = format!("an intermediate's path length is {name}");
        cases.push(Case::new(FAMILY, name, chain, Err("malformed_certificate")));
    }
    // 4.2.1.9 lets no CA issue it, 6.1 does not ask a leaf: it signs nothing.
    let chain = vec![ROOT.leaf_with("d1", |s| s.extensions.push(basic(false, Some(3))))];
    cases.push(Case::new(FAMILY, "a leaf with a path length", chain, OK));
    cases
}

/// basicConstraints (6.1.4 k) of intermediates; several anchors.
fn anchors() -> Vec<Case> {
    let mut cases = Vec::new();
    let usage = || key_usage(&[5, 6]);
    for (name, extensions, expected) in [
        ("CA: true", vec![basic(true, None), usage()], OK),
        ("CA: false", vec![basic(false, None), usage()], Err("leaf_as_ca")),
        ("no basicConstraints", vec![usage()], Err("leaf_as_ca")),
        ("no extensions", vec![], Err("leaf_as_ca")),
        (
            "basicConstraints not critical",
            vec![extension("2.5.29.19", false, &[0x30, 3, 1, 1, 0xff]), usage()],
            OK,
        ),
        (
            "basicConstraints of a BER true",
            vec![extension("2.5.29.19", true, &[0x30, 3, 1, 1, 1]), usage()],
            Err("malformed_certificate"),
        ),
    ] {
        let middle = ROOT.below_with("Middle", &POLICY_KEY, |s| s.extensions = extensions);
        let chain = vec![middle.leaf("d1"), middle.der.clone()];
        cases.push(Case::new(FAMILY, format!("intermediate: {name}"), chain, expected));
    }
    let policy = ROOT.below("Policy", &POLICY_KEY);
    let stranger = Ca::root("Stranger", &STRANGE_KEY);
    let namesake = Ca::root("Tenant", &STRANGE_KEY);
    let leaf = vec![ROOT.leaf("d1")];
    let mut of = |name: &str, chain: &[Vec<u8>], anchors: &[&Ca], expected| {
        cases.push(
            Case::new(FAMILY, format!("anchors: {name}"), chain.to_vec(), expected)
                .anchors(anchors),
        );
    };
    of("two of one name, ours first", &leaf, &[&ROOT, &namesake], OK);
    of("two of one name, ours last", &leaf, &[&namesake, &ROOT], OK);
    of("another's only", &leaf, &[&stranger], Err("unknown_ca"));
    of("a namesake only", &leaf, &[&namesake], Err("bad_signature"));
    let chain = vec![policy.leaf("d1")];
    of("the intermediate is the anchor", &chain, &[&policy], OK);
    let chain = vec![policy.leaf("d1"), policy.der.clone()];
    of("the intermediate is the anchor and presented", &chain, &[&policy], OK);
    of("intermediate and root are anchors", &chain, &[&policy, &ROOT], OK);
    of("the root is not there, the intermediate is", &leaf, &[&policy], Err("unknown_ca"));
    cases
}
