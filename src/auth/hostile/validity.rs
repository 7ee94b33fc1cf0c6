//! Validity, of every element of the path, to the second (RFC 5280 4.1.2.5: both ends are included; 6.1.3 a 2).

use super::der::{time, tlv};
use super::forge::{Ca, DAY, LOWER_KEY, POLICY_KEY, ROOT, ROOT_KEY, at};
use super::{Case, OK};

const FAMILY: &str = "validity";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // (seconds from now, leaf's verdict, an intermediate's, an anchor's), all three valid from -10 to +10.
    let early = (Err("not_yet_valid"), Err("intermediate_not_valid"), Err("ca_not_valid"));
    let late = (Err("expired"), Err("intermediate_not_valid"), Err("ca_not_valid"));
    for (seconds, (leaf, intermediate, anchor)) in [
        (-DAY / 2, early),
        (-11, early),
        (-10, (OK, OK, OK)),
        (-9, (OK, OK, OK)),
        (9, (OK, OK, OK)),
        (10, (OK, OK, OK)),
        (11, late),
        (DAY / 2, late),
    ] {
        let short = |spec: &mut super::forge::Spec| (spec.from, spec.to) = (at(-10), at(10));
        let name = |what: &str| format!("{what} of -10..10 at {seconds}");
        let chain = vec![ROOT.leaf_with("d1", short)];
        cases.push(Case::new(FAMILY, name("leaf"), chain, leaf).at(seconds));
        let policy = ROOT.below_with("Policy", &POLICY_KEY, short);
        let chain = vec![policy.leaf("d1"), policy.der.clone()];
        cases.push(Case::new(FAMILY, name("intermediate"), chain, intermediate).at(seconds));
        let root = Ca::root_with("Tenant", &ROOT_KEY, short);
        let chain = vec![root.leaf("d1")];
        cases.push(Case::new(FAMILY, name("anchor"), chain, anchor).anchors(&[&root]).at(seconds));
    }
    let mut leaf = |name: &str, from: i64, to: i64, expected| {
        let chain = vec![ROOT.leaf_with("d1", |s| (s.from, s.to) = (from, to))];
        cases.push(Case::new(FAMILY, name, chain, expected));
    };
    leaf("one second, this one", at(0), at(0), OK);
    leaf("from the epoch", 0, at(DAY), OK);
    // 4.1.2.5.1 allows it; webpki's time begins in 1970, which refuses more (path.rs).
    let no_date = Err("malformed_certificate");
    leaf("from 1950 (UTCTime's first year)", -631_152_000, at(DAY), no_date);
    leaf("to 2049 (UTCTime's last year)", at(-DAY), 2_524_607_999, OK);
    leaf("to 2050 (GeneralizedTime's first year)", at(-DAY), 2_524_608_000, OK);
    // 4.1.2.5: 99991231235959Z stands for no expiry.
    leaf("to the end of time", at(-DAY), 253_402_300_799, OK);
    leaf("over before 1970", -100_000, -1000, Err("expired"));
    leaf("ends before it begins, both past", at(-10), at(-20), Err("expired"));
    leaf("ends before it begins, both to come", at(20), at(10), Err("not_yet_valid"));
    leaf("a day that begins tomorrow", at(DAY), at(2 * DAY), Err("not_yet_valid"));

    cases.extend(writings());

    // A successor of the anchor is in the bundle: the predecessor's end harms nobody (same key), or only its own.
    let old = Ca::root_with("Tenant", &ROOT_KEY, |s| (s.from, s.to) = (at(-2 * DAY), at(-DAY)));
    let leaf = vec![ROOT.leaf("d1")];
    let both = [&old, &*ROOT];
    cases.push(Case::new(FAMILY, "renewed anchor, same key", leaf.clone(), OK).anchors(&both));
    let gone = Case::new(FAMILY, "predecessor alone", leaf.clone(), Err("ca_not_valid"));
    cases.push(gone.anchors(&[&old]));
    let renewed = Ca::root("Tenant", &LOWER_KEY);
    let both = [&old, &renewed];
    let name = "leaf of the expired anchor, successor with another key";
    cases.push(Case::new(FAMILY, name, leaf, Err("ca_not_valid")).anchors(&both));
    // 6.1.3: each element is valid at the same instant; that the leaf outlives its CA is no matter while both are.
    let long = ROOT.leaf_with("d1", |s| s.to = at(100 * DAY));
    cases.push(Case::new(FAMILY, "leaf outlives its CA, CA valid", vec![long.clone()], OK));
    let case = Case::new(FAMILY, "leaf outlives its CA, CA over", vec![long], Err("ca_not_valid"));
    cases.push(case.at(2 * DAY));
    cases
}

/// How a time is written: in UTC ("Z"), with seconds and without fractions (4.1.2.5.1, 4.1.2.5.2).
fn writings() -> Vec<Case> {
    let no = Err("malformed_certificate");
    let short = |text: &str| tlv(0x17, text.as_bytes());
    let long = |text: &str| tlv(0x18, text.as_bytes());
    [
        ("UTCTime", short("260101000000Z"), OK),
        // Until 2049 it MUST be UTCTime; both say the same instant, so both are taken.
        ("GeneralizedTime before 2050", long("20260101000000Z"), OK),
        ("without seconds", short("2601010000Z"), no),
        ("with an offset", short("260101000000+0100"), no),
        ("without Z", short("260101000000"), no),
        ("with a fraction", long("20260101000000.5Z"), no),
        ("a 13th month", short("261301000000Z"), no),
        ("the 30th of February", short("260230000000Z"), no),
        ("an hour 24", short("260101240000Z"), no),
        ("a second 60", short("260101000060Z"), no),
        ("a sign", short("-60101000000Z"), no),
        ("letters", short("26O1O1OOOOOOZ"), no),
        ("nothing", short(""), no),
        ("as text", tlv(0x0c, b"260101000000Z"), no),
        ("as a number", tlv(0x02, &[1]), no),
    ]
    .map(|(name, from, expected)| {
        let times = Some([from, time(at(DAY))]);
        let chain = vec![ROOT.leaf_with("d1", |s| s.times = times)];
        Case::new(FAMILY, format!("written: {name}"), chain, expected)
    })
    .into()
}
