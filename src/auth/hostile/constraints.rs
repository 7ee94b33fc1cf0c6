//! Name constraints (RFC 5280 4.2.1.10) and policies (4.2.1.4, 4.2.1.5, 4.2.1.11, 4.2.1.14).
//!
//! A constraint that cannot be processed refuses: "the application MUST either process the constraint or reject the
//! certificate". So with directory names: every certificate has one, its subject.

use super::der::{integer, oid, seq, tlv};
use super::forge::{CN, Ca, POLICY_KEY, ROOT, ROOT_KEY, UTF8, alt_names, cn, dns, extension, name};
use super::{Case, OK};

const FAMILY: &str = "constraints";

fn constraints(critical: bool, permitted: &[Vec<u8>], excluded: &[Vec<u8>]) -> Vec<u8> {
    let subtrees = |tag: u8, names: &[Vec<u8>]| {
        let trees: Vec<u8> = names.iter().flat_map(|n| seq(&[n])).collect();
        if names.is_empty() { Vec::new() } else { tlv(tag, &trees) }
    };
    let value = seq(&[&subtrees(0xa0, permitted), &subtrees(0xa1, excluded)]);
    extension("2.5.29.30", critical, &value)
}

fn email(address: &str) -> Vec<u8> {
    tlv(0x81, address.as_bytes())
}

fn directory(text: &str) -> Vec<u8> {
    tlv(0xa4, &cn(text))
}

/// A leaf with these names below an intermediate and below an anchor with this extension.
fn both(
    what: &str,
    constraint: &[u8],
    subject: Vec<u8>,
    names: &[Vec<u8>],
    expected: Result<(), &'static str>,
) -> Vec<Case> {
    let change = |s: &mut super::forge::Spec| s.extensions.push(constraint.to_vec());
    let middle = ROOT.below_with("Middle", &POLICY_KEY, change);
    let anchor = Ca::root_with("Constrained", &ROOT_KEY, change);
    let leaf = |ca: &Ca| {
        ca.leaf_with("d1", |s| {
            s.subject = subject.clone();
            if !names.is_empty() {
                s.extensions.push(alt_names(names));
            }
        })
    };
    let chain = vec![leaf(&middle), middle.der.clone()];
    let by_anchor = Case::new(FAMILY, format!("anchor: {what}"), vec![leaf(&anchor)], expected);
    vec![
        Case::new(FAMILY, format!("intermediate: {what}"), chain, expected),
        by_anchor.anchors(&[&anchor]),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = names();
    cases.extend(emails());
    cases.extend(malformed());
    cases.extend(policies());
    cases
}

fn names() -> Vec<Case> {
    let no = Err("name_constraint");
    let a = || dns("a.example");
    let address = |bytes: &[u8]| tlv(0x87, bytes);
    let uri = |text: &str| tlv(0x86, text.as_bytes());
    let net = || address(&[10, 0, 0, 0, 255, 0, 0, 0]);
    let mut cases = Vec::new();
    for (what, permitted, excluded, names, expected) in [
        ("DNS permitted, no name", vec![a()], vec![], vec![], OK),
        ("DNS permitted, the same", vec![a()], vec![], vec![a()], OK),
        ("DNS permitted, below", vec![a()], vec![], vec![dns("x.a.example")], OK),
        ("DNS permitted, beside", vec![a()], vec![], vec![dns("b.example")], no),
        ("DNS permitted, only the ending", vec![a()], vec![], vec![dns("xa.example")], no),
        ("DNS permitted, one of two beside", vec![a()], vec![], vec![a(), dns("b.example")], no),
        (
            "two DNS permitted, each",
            vec![a(), dns("b.example")],
            vec![],
            vec![a(), dns("b.example")],
            OK,
        ),
        ("DNS permitted, in capitals", vec![a()], vec![], vec![dns("A.EXAMPLE")], OK),
        ("DNS excluded, no name", vec![], vec![a()], vec![], OK),
        ("DNS excluded, the same", vec![], vec![a()], vec![a()], no),
        ("DNS excluded, below", vec![], vec![a()], vec![dns("x.a.example")], no),
        ("DNS excluded, beside", vec![], vec![a()], vec![dns("b.example")], OK),
        (
            "DNS permitted and excluded below",
            vec![a()],
            vec![dns("x.a.example")],
            vec![dns("x.a.example")],
            no,
        ),
        ("DNS permitted, an address", vec![a()], vec![], vec![address(&[10, 0, 0, 1])], OK),
        ("addresses permitted, within", vec![net()], vec![], vec![address(&[10, 1, 2, 3])], OK),
        ("addresses permitted, outside", vec![net()], vec![], vec![address(&[11, 1, 2, 3])], no),
        ("addresses excluded, within", vec![], vec![net()], vec![address(&[10, 1, 2, 3])], no),
        ("addresses excluded, outside", vec![], vec![net()], vec![address(&[11, 1, 2, 3])], OK),
        ("addresses permitted, of version 6", vec![net()], vec![], vec![address(&[1; 16])], no),
        (
            "URIs permitted, any",
            vec![uri("a.example")],
            vec![],
            vec![uri("https://a.example/")],
            no,
        ),
        ("URIs excluded, any", vec![], vec![uri("a.example")], vec![uri("https://b.example/")], no),
        ("URIs permitted, none there", vec![uri("a.example")], vec![], vec![], OK),
        ("directory names permitted, the subject", vec![directory("d1")], vec![], vec![], no),
        ("directory names permitted, another", vec![directory("x")], vec![], vec![], no),
        ("directory names excluded, the subject", vec![], vec![directory("d1")], vec![], no),
        ("directory names excluded, another", vec![], vec![directory("x")], vec![], no),
        ("all directory names excluded", vec![], vec![tlv(0xa4, &seq(&[]))], vec![], no),
    ] {
        let constraint = constraints(true, &permitted, &excluded);
        cases.extend(both(what, &constraint, cn("d1"), &names, expected));
    }
    // 4.2.1.10 wants it critical; whether it is or not, it is a promise about what the CA may do.
    let lax = constraints(false, &[a()], &[]);
    cases.extend(both("DNS permitted, not critical", &lax, cn("d1"), &[dns("b.example")], no));
    cases
}

/// "the constraint MUST be applied to the attribute of type emailAddress in the subject" without one in the names.
fn emails() -> Vec<Case> {
    let no = Err("name_constraint");
    let subject = |address: &str| {
        name(&[&[(CN, UTF8, b"d1")], &[("1.2.840.113549.1.9.1", 0x16, address.as_bytes())]])
    };
    let permitted = constraints(true, &[email("a.example")], &[]);
    let excluded = constraints(true, &[], &[email("a.example")]);
    let mut cases = Vec::new();
    // Not processed: refused wherever such a constraint meets such a name.
    cases.extend(both("e-mail permitted, none", &permitted, cn("d1"), &[], OK));
    cases.extend(both(
        "e-mail permitted, in the names",
        &permitted,
        cn("d1"),
        &[email("x@b.example")],
        no,
    ));
    cases.extend(both(
        "e-mail permitted, in the subject",
        &permitted,
        subject("x@b.example"),
        &[],
        no,
    ));
    cases.extend(both(
        "e-mail excluded, in the subject",
        &excluded,
        subject("x@a.example"),
        &[],
        no,
    ));
    cases.extend(both("e-mail excluded, none", &excluded, cn("d1"), &[], OK));
    let dns_only = constraints(true, &[dns("a.example")], &[]);
    cases.extend(both(
        "DNS permitted, e-mail in the subject",
        &dns_only,
        subject("x@b.example"),
        &[],
        OK,
    ));
    cases
}

fn malformed() -> Vec<Case> {
    let mut cases = Vec::new();
    let subtree = |content: &[&[u8]]| tlv(0xa0, &seq(content));
    let name = dns("a.example");
    // "minimum MUST be zero, and maximum MUST be absent": what cannot be processed refuses.
    for (what, value) in [
        ("not a SEQUENCE", vec![5, 0]),
        ("damaged", vec![0x30, 5, 0xa0, 0x7f]),
        // x509-parser reads this one as no constraint at all.
        ("a subtree that is no name", seq(&[&subtree(&[&[5, 0]])])),
    ] {
        let constraint = extension("2.5.29.30", true, &value);
        let middle =
            ROOT.below_with("Middle", &POLICY_KEY, |s| s.extensions.push(constraint.clone()));
        let chain = vec![middle.leaf("d1"), middle.der.clone()];
        let what = format!("malformed: {what}");
        cases.push(Case::new(FAMILY, what.clone(), chain, Err("malformed_certificate")));
        let anchor = Ca::root_with("Odd", &ROOT_KEY, |s| s.extensions.push(constraint));
        let case = Case::new(
            FAMILY,
            format!("anchor: {what}"),
            vec![anchor.leaf("d1")],
            Err("unknown_ca"),
        );
        cases.push(case.anchors(&[&anchor, &ROOT]));
    }
    let bounded = extension("2.5.29.30", true, &seq(&[&subtree(&[&name, &tlv(0x80, &[1])])]));
    let middle = ROOT.below_with("Middle", &POLICY_KEY, |s| s.extensions.push(bounded));
    let leaf = middle.leaf_with("d1", |s| s.extensions.push(alt_names(&[dns("a.example")])));
    let chain = vec![leaf, middle.der.clone()];
    cases.push(Case::new(FAMILY, "a subtree with a minimum", chain, Err("malformed_certificate")));
    // On a device's certificate it constrains nobody.
    let own = constraints(true, &[dns("a.example")], &[]);
    let chain = vec![ROOT.leaf_with("d1", |s| s.extensions.push(own))];
    cases.push(Case::new(FAMILY, "on the leaf", chain, OK));
    cases
}

/// No policy is ours and none is asked for (6.1.1 c to g): what demands one cannot be met.
fn policies() -> Vec<Case> {
    let policies = |critical| extension("2.5.29.32", critical, &seq(&[&seq(&[&oid("1.2.3.4")])]));
    let any = extension("2.5.29.32", false, &seq(&[&seq(&[&oid("2.5.29.32.0")])]));
    let require = |critical| extension("2.5.29.36", critical, &seq(&[&tlv(0x80, &[0])]));
    let inhibit_mapping = extension("2.5.29.36", false, &seq(&[&tlv(0x81, &[0])]));
    let inhibit_any = |critical| extension("2.5.29.54", critical, &integer(&[0]));
    let mapping = seq(&[&seq(&[&oid("1.2.3.4"), &oid("1.2.3.5")])]);
    let mappings = |critical| extension("2.5.29.33", critical, &mapping);
    let (policy, critical) = (Err("policy"), Err("critical_extension"));
    let mut cases = Vec::new();
    // (what, extension, leaf and intermediate, anchor: there only a demand harms, 6.2 leaves the rest to us).
    for (what, added, presented, anchor) in [
        ("policies", policies(false), OK, OK),
        ("any policy", any, OK, OK),
        ("critical policies", policies(true), critical, OK),
        ("explicit policy demanded", require(false), policy, Err("unknown_ca")),
        ("explicit policy demanded, critical", require(true), critical, Err("unknown_ca")),
        ("mapping inhibited", inhibit_mapping, OK, OK),
        ("any policy inhibited", inhibit_any(false), OK, OK),
        ("any policy inhibited, critical", inhibit_any(true), critical, OK),
        ("mappings", mappings(false), OK, OK),
        ("mappings, critical", mappings(true), critical, OK),
    ] {
        let push = |s: &mut super::forge::Spec| s.extensions.push(added.clone());
        let name = |place: &str| format!("policy: {place}: {what}");
        cases.push(Case::new(FAMILY, name("leaf"), vec![ROOT.leaf_with("d1", push)], presented));
        let middle = ROOT.below_with("Middle", &POLICY_KEY, push);
        let chain = vec![middle.leaf("d1"), middle.der.clone()];
        cases.push(Case::new(FAMILY, name("intermediate"), chain, presented));
        let root = Ca::root_with("Odd", &ROOT_KEY, push);
        let case = Case::new(FAMILY, name("anchor"), vec![root.leaf("d1")], anchor);
        cases.push(case.anchors(&[&root, &ROOT]));
    }
    cases
}
