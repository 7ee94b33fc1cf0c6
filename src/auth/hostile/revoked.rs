//! Revocation lists (RFC 5280 5 and 6.3). A list only takes away; a stale one still does (the site may be offline for
//! weeks); one that is not its issuer's, or not understood in full, revokes nobody.

use super::der::{content, flags, integer, oid, seq, time, tlv};
use super::forge::{
    Ca, DAY, ECDSA_SHA384, ListSpec, POLICY_KEY, ROOT, ROOT_KEY, STRANGE_KEY, Spec, at, entry,
    extension, key_usage, number, reason, signed,
};
use super::{Case, Hub, OK, bundle};
use crate::auth::bundle::ListStanding;
use crate::auth::testing::NOW;

const FAMILY: &str = "revoked";
/// Serial numbers of what is judged.
const LEAF: &[u8] = &[0x11, 0x22];
const POLICY: &[u8] = &[0x33];
const OTHER: &[u8] = &[0x44];
const YES: Result<(), &str> = Err("revoked");

fn policy() -> Ca {
    ROOT.below_with("Policy", &POLICY_KEY, |s| s.serial = POLICY.to_vec())
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = who_is_revoked();
    cases.extend(whose_lists_count());
    cases.extend(which_lists_count());
    cases.extend(forms());
    cases.extend(entries());
    cases
}

/// d1 directly below the root, with this list.
fn of(name: &str, list: Vec<u8>, expected: Result<(), &'static str>) -> Case {
    Case::new(FAMILY, name, vec![ROOT.leaf("d1")], expected).lists(&[list])
}

fn who_is_revoked() -> Vec<Case> {
    let policy = policy();
    let lower = policy.below_with("Lower", &super::forge::LOWER_KEY, |s| s.serial = OTHER.to_vec());
    let of_root = |serials: &[&[u8]]| ListSpec::of(&ROOT, serials).sign(&ROOT_KEY);
    let of_policy = |serials: &[&[u8]]| ListSpec::of(&policy, serials).sign(&POLICY_KEY);
    let namesake = Ca::root("Tenant", &STRANGE_KEY);
    let of_namesake = ListSpec::of(&namesake, &[POLICY]).sign(&STRANGE_KEY);
    let (short, long) = (
        vec![policy.leaf("d1"), policy.der.clone()],
        vec![lower.leaf("d1"), lower.der.clone(), policy.der.clone()],
    );
    let case = |name: &str, chain: &[Vec<u8>], lists: &[Vec<u8>], expected| {
        Case::new(FAMILY, name, chain.to_vec(), expected).lists(lists)
    };
    let ca = Err("ca_revoked");
    vec![
        of("the leaf", of_root(&[LEAF]), YES),
        of("another", of_root(&[OTHER]), OK),
        of("nobody", of_root(&[]), OK),
        of("the leaf among others", of_root(&[OTHER, POLICY, LEAF]), YES),
        case("the leaf, by its intermediate", &short, &[of_policy(&[LEAF])], YES),
        case("the leaf's number, by the root", &short, &[of_root(&[LEAF])], OK),
        case("the intermediate", &short, &[of_root(&[POLICY])], ca),
        case("the intermediate's number, by itself", &short, &[of_policy(&[POLICY])], OK),
        case("leaf and intermediate", &short, &[of_root(&[POLICY]), of_policy(&[LEAF])], YES),
        case("the upper intermediate", &long, &[of_root(&[POLICY])], ca),
        case("the lower intermediate", &long, &[of_policy(&[OTHER])], ca),
        case("the intermediate, and it is the anchor", &short, &[of_root(&[POLICY])], OK)
            .anchors(&[&policy]),
        // An anchor is what somebody chose to trust, but the list is what they put beside it: the whole chain of a tenant,
        // as its .p7b has it, must not make its CAs irrevocable.
        case("the intermediate, and both are anchors", &short, &[of_root(&[POLICY])], ca)
            .anchors(&[&policy, &ROOT]),
        case(
            "the intermediate, both are anchors, leaf alone",
            &short[..1],
            &[of_root(&[POLICY])],
            ca,
        )
        .anchors(&[&policy, &ROOT]),
        case("the intermediate's number, by a namesake of its issuer", &short, &[of_namesake], OK)
            .anchors(&[&policy, &ROOT, &namesake]),
        case(
            "the leaf, leaf alone below the intermediate",
            &short[..1],
            &[of_policy(&[LEAF])],
            YES,
        )
        .anchors(&[&policy]),
    ]
}

fn two(name: &str, lists: [Vec<u8>; 2], expected: Result<(), &'static str>) -> Case {
    Case::new(FAMILY, name, vec![ROOT.leaf("d1")], expected).lists(&lists)
}

/// 6.3.3 f: the issuer's signature, and cRLSign "if a key usage extension is present".
fn whose_lists_count() -> Vec<Case> {
    let namesake = Ca::root("Tenant", &STRANGE_KEY);
    let mute = Ca::root_with("Tenant", &ROOT_KEY, |s| s.extensions[1] = key_usage(&[5]));
    let mute_policy = ROOT.below_with("Policy", &POLICY_KEY, |s| s.extensions[1] = key_usage(&[5]));
    let list = || ListSpec::of(&ROOT, &[LEAF]);
    let flipped = |from_end: usize| {
        let mut der = list().sign(&ROOT_KEY);
        let place = der.len() - from_end;
        der[place] ^= 1;
        der
    };
    let mute_chain = vec![mute_policy.leaf("d1"), mute_policy.der.clone()];
    let by_mute = ListSpec::of(&mute_policy, &[LEAF]).sign(&POLICY_KEY);
    vec![
        of("signed by a namesake", ListSpec::of(&namesake, &[LEAF]).sign(&STRANGE_KEY), OK),
        of("signed by another key", list().sign(&POLICY_KEY), OK),
        of("signed by the device", list().sign(&super::forge::DEVICE_KEY), OK),
        of("changed signature", flipped(1), OK),
        of("changed content", flipped(100), OK),
        of(
            "another issuer's, our key",
            list().with(|l| l.issuer = super::forge::cn("X")).sign(&ROOT_KEY),
            OK,
        ),
        of("issuer without cRLSign", ListSpec::of(&mute, &[LEAF]).sign(&ROOT_KEY), OK)
            .anchors(&[&mute]),
        Case::new(FAMILY, "intermediate without cRLSign", mute_chain.clone(), OK)
            .lists(std::slice::from_ref(&by_mute)),
        of(
            "two CAs of one name: the list of the other",
            ListSpec::of(&namesake, &[LEAF]).sign(&STRANGE_KEY),
            OK,
        )
        .anchors(&[&namesake, &ROOT]),
        of("two CAs of one name: the list of ours", list().sign(&ROOT_KEY), YES)
            .anchors(&[&namesake, &ROOT]),
        // The same CA, name and key, by an older certificate that allows no lists: the list is its list all the same.
        of("one CA by two certificates, one without cRLSign", list().sign(&ROOT_KEY), YES)
            .anchors(&[&ROOT, &mute]),
        of("one CA by two certificates, the first without cRLSign", list().sign(&ROOT_KEY), YES)
            .anchors(&[&mute, &ROOT]),
        Case::new(
            FAMILY,
            "the mute certificate of an intermediate presented",
            mute_chain.clone(),
            YES,
        )
        .lists(std::slice::from_ref(&by_mute))
        .anchors(&[&policy(), &ROOT]),
        two(
            "a namesake's list before ours",
            [ListSpec::of(&namesake, &[]).sign(&STRANGE_KEY), list().sign(&ROOT_KEY)],
            YES,
        ),
    ]
}

fn which_lists_count() -> Vec<Case> {
    let list = || ListSpec::of(&ROOT, &[LEAF]);
    let newer = |serials: &[&[u8]], n: u8, age: i64| {
        let spec = ListSpec::of(&ROOT, serials).with(|l| {
            l.extensions = vec![number(n)];
            l.this_update = at(-age);
        });
        spec.sign(&ROOT_KEY)
    };
    vec![
        of("stale by a second", list().with(|l| l.next_update = Some(at(-1))).sign(&ROOT_KEY), YES),
        of(
            "stale by a year",
            list().with(|l| l.next_update = Some(at(-365 * DAY))).sign(&ROOT_KEY),
            YES,
        ),
        of("without a next update", list().with(|l| l.next_update = None).sign(&ROOT_KEY), YES),
        of(
            "from tomorrow",
            list()
                .with(|l| (l.this_update, l.next_update) = (at(DAY), Some(at(2 * DAY))))
                .sign(&ROOT_KEY),
            YES,
        ),
        two("lifted by a newer list", [newer(&[LEAF], 1, DAY), newer(&[], 2, 60)], OK),
        two(
            "lifted by a newer list, which is first",
            [newer(&[], 2, 60), newer(&[LEAF], 1, DAY)],
            OK,
        ),
        two("revoked by the newer list", [newer(&[], 1, DAY), newer(&[LEAF], 2, 60)], YES),
        two("the number decides, not the day", [newer(&[], 1, 60), newer(&[LEAF], 2, DAY)], YES),
        two("the same number: the day decides", [newer(&[], 1, 60), newer(&[LEAF], 1, DAY)], OK),
        two(
            "a forged newer list lifts nothing",
            [
                newer(&[LEAF], 1, DAY),
                ListSpec::of(&ROOT, &[])
                    .with(|l| l.extensions = vec![number(9)])
                    .sign(&STRANGE_KEY),
            ],
            YES,
        ),
    ]
}

/// 5.1, 5.2: what is not understood in full is not used.
fn forms() -> Vec<Case> {
    let list = || ListSpec::of(&ROOT, &[LEAF]);
    let with = |added: Vec<u8>| list().with(|l| l.extensions.push(added)).sign(&ROOT_KEY);
    let point = |fields: &[&[u8]]| extension("2.5.29.28", true, &seq(fields));
    let full_name = tlv(0xa0, &tlv(0xa0, &tlv(0x86, b"http://a.example/crl")));
    let good = list().sign(&ROOT_KEY);
    let unversioned = list().with(|l| (l.version, l.extensions) = (None, vec![]));
    vec![
        of("version 1", unversioned.sign(&ROOT_KEY), YES),
        of("version 1 with extensions", list().with(|l| l.version = None).sign(&ROOT_KEY), OK),
        of("version 3", list().with(|l| l.version = Some(2)).sign(&ROOT_KEY), OK),
        of(
            "version 2 without extensions",
            list().with(|l| l.extensions.clear()).sign(&ROOT_KEY),
            YES,
        ),
        of(
            "another algorithm inside",
            list().with(|l| l.inner_algorithm = Some(seq(&[&oid(ECDSA_SHA384)]))).sign(&ROOT_KEY),
            OK,
        ),
        of("an unknown extension", with(extension("1.3.6.1.4.1.99999.1", false, &[5, 0])), YES),
        of(
            "an unknown critical extension",
            with(extension("1.3.6.1.4.1.99999.1", true, &[5, 0])),
            OK,
        ),
        of("an extension twice", with(number(2)), OK),
        of(
            "an issuer's key id",
            with(extension("2.5.29.35", false, &seq(&[&tlv(0x80, &[7; 20])]))),
            YES,
        ),
        of("a delta list", with(extension("2.5.29.27", true, &integer(&[1]))), OK),
        of("a delta list, not critical", with(extension("2.5.29.27", false, &integer(&[1]))), OK),
        of("for devices only", with(point(&[&tlv(0x81, &[0xff])])), YES),
        of("for CAs only", with(point(&[&tlv(0x82, &[0xff])])), OK),
        of("for attribute certificates", with(point(&[&tlv(0x85, &[0xff])])), OK),
        of("indirect", with(point(&[&tlv(0x84, &[0xff])])), OK),
        of("of one distribution point", with(point(&[&full_name])), YES),
        of("for some reasons", with(point(&[&tlv(0x83, content(&flags(&[1])))])), YES),
        of("an unknown field in the point", with(point(&[&tlv(0x89, &[0xff])])), OK),
        of(
            "a negative number",
            list()
                .with(|l| l.extensions = vec![extension("2.5.29.20", false, &integer(&[0xff]))])
                .sign(&ROOT_KEY),
            OK,
        ),
        of(
            "a number of 20 bytes",
            list()
                .with(|l| l.extensions = vec![extension("2.5.29.20", false, &integer(&[0x7f; 20]))])
                .sign(&ROOT_KEY),
            YES,
        ),
        of("a byte behind it", [&good[..], &[0]].concat(), OK),
        of("cut off", good[..good.len() - 1].to_vec(), OK),
        of("a certificate", ROOT.der.clone(), OK),
        of("garbage", b"garbage".to_vec(), OK),
        of("empty", Vec::new(), OK),
    ]
}

/// 5.3: entries. An entry in two, or one that cannot be read, makes the whole list unusable.
fn entries() -> Vec<Case> {
    let with = |entries: Vec<Vec<u8>>| {
        ListSpec::of(&ROOT, &[]).with(|l| l.entries = Some(entries)).sign(&ROOT_KEY)
    };
    let one = |extensions: &[&[u8]]| with(vec![entry(LEAF, extensions)]);
    let mut cases = Vec::new();
    for code in 0..=11 {
        // 7 is not used, 8 is removeFromCRL (delta lists), 11 does not exist.
        let expected = if matches!(code, 7 | 8 | 11) { OK } else { YES };
        cases.push(of(&format!("reason {code}"), one(&[&reason(code)]), expected));
    }
    let date = extension("2.5.29.24", false, &super::der::tlv(0x18, b"20260101000000Z"));
    let other_issuer = extension("2.5.29.29", true, &seq(&[&tlv(0xa4, &super::forge::cn("X"))]));
    let private = |critical| extension("1.3.6.1.4.1.99999.1", critical, &[5, 0]);
    let short_serial = seq(&[&integer(&[0, 0x11]), &time(at(-10))]);
    let sound = vec![entry(OTHER, &[]), entry(LEAF, &[])];
    let spoiled = |bad: Vec<u8>| [sound.clone(), vec![bad]].concat();
    let tbs_with_tail = {
        let list = ListSpec::of(&ROOT, &[LEAF]).sign(&ROOT_KEY);
        // The signed part with something behind its extensions.
        let inner = content(&list);
        let header = 2 + usize::from(if inner[1] < 0x80 { 0 } else { inner[1] & 0x7f });
        let length = content(inner).len().min(inner.len() - header);
        let parsed = x509_parser::asn1_rs::FromDer::from_der(inner);
        let (_, any): (_, x509_parser::asn1_rs::Any<'_>) = parsed.unwrap();
        assert!(any.data.len() <= length);
        signed(&tlv(0x30, &[any.data, &[5, 0]].concat()), &ROOT_KEY)
    };
    cases.extend([
        of("an invalidity date", one(&[&date]), YES),
        of("an unknown entry extension", one(&[&private(false)]), YES),
        of("an unknown critical entry extension", one(&[&private(true)]), OK),
        of("an entry of another issuer", one(&[&other_issuer]), OK),
        of("the same entry twice", with(vec![entry(LEAF, &[]), entry(LEAF, &[&reason(1)])]), YES),
        of("an entry's number not in DER", with(spoiled(short_serial)), OK),
        of("an entry without a day", with(spoiled(seq(&[&integer(LEAF)]))), OK),
        of("an entry that is none", with(spoiled(vec![5, 0])), OK),
        of("an empty list of entries", with(vec![]), OK),
        of("something behind the extensions", tbs_with_tail, OK),
        of(
            "10,000 entries",
            with(
                (0..10_000_u32)
                    .map(|n| entry(&[&[0x11][..], &n.to_be_bytes()].concat(), &[]))
                    .chain([entry(LEAF, &[])])
                    .collect(),
            ),
            YES,
        ),
    ]);
    // Numbers are compared as they stand in DER.
    for (name, serial) in [
        ("negative", &[0x80_u8][..]),
        ("zero", &[0]),
        ("20 bytes", &[0x7f; 20]),
        ("64 bytes", &[0x11; 64]),
    ] {
        let leaf = ROOT.leaf_with("d1", |s: &mut Spec| s.serial = serial.to_vec());
        let list = ListSpec::of(&ROOT, &[serial]).sign(&ROOT_KEY);
        cases.push(
            Case::new(FAMILY, format!("serial number: {name}"), vec![leaf], YES).lists(&[list]),
        );
    }
    cases
}

#[test]
fn a_list_that_does_not_count_is_named_with_the_reason() {
    let list = || ListSpec::of(&ROOT, &[LEAF]);
    let with = |added: Vec<u8>| list().with(|l| l.extensions.push(added)).sign(&ROOT_KEY);
    let point = |fields: &[&[u8]]| extension("2.5.29.28", true, &seq(fields));
    let good = list().sign(&ROOT_KEY);
    for (name, der, words) in [
        ("delta", with(extension("2.5.29.27", true, &integer(&[1]))), "delta"),
        ("indirect", with(point(&[&tlv(0x84, &[0xff])])), "indirect"),
        ("attributes", with(point(&[&tlv(0x85, &[0xff])])), "attribute"),
        ("critical", with(extension("1.3.6.1.4.1.99999.1", true, &[5, 0])), "1.3.6.1.4.1.99999.1"),
        ("garbage", b"garbage".to_vec(), "not a certificate revocation list"),
        ("cut", good[..good.len() - 1].to_vec(), "not a certificate revocation list"),
        ("too big", vec![0x30; crate::auth::bundle::revocation::LIST_BYTES_MAX + 1], "bytes"),
    ] {
        let mut bundle = bundle(std::slice::from_ref(&ROOT.der), &[]);
        let error = bundle.add_revocation_list("x.crl", &der).unwrap_err().to_string();
        assert!(error.contains(words), "{name}: {error}");
    }
    let mut bundle = bundle(std::slice::from_ref(&ROOT.der), &[]);
    bundle.add_revocation_list("a.crl", &good).unwrap();
    let error = bundle.add_revocation_list("b.crl", &good).unwrap_err().to_string();
    assert!(error.contains("the same list as a.crl"), "{error}");
    for cut in 0..good.len() {
        assert!(bundle.add_revocation_list("cut", &good[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn the_report_says_where_each_list_stands() {
    let mute = Ca::root_with("Mute", &ROOT_KEY, |s| s.extensions[1] = key_usage(&[5]));
    let list = || ListSpec::of(&ROOT, &[LEAF, OTHER]);
    let numbered = |n| list().with(|l| l.extensions = vec![number(n)]);
    let mut bundle = bundle(&[ROOT.der.clone(), mute.der.clone()], &[]);
    for (name, der) in [
        ("old", numbered(1).sign(&ROOT_KEY)),
        ("new", numbered(2).sign(&ROOT_KEY)),
        ("forged", numbered(3).sign(&STRANGE_KEY)),
        ("mute", ListSpec::of(&mute, &[]).sign(&ROOT_KEY)),
        ("of an intermediate", ListSpec::of(&policy(), &[]).sign(&POLICY_KEY)),
    ] {
        bundle.add_revocation_list(name, &der).unwrap();
    }
    let report = bundle.revocation_lists(NOW);
    let standing: Vec<_> = report.iter().map(|l| (&*l.source, l.entries, l.standing)).collect();
    assert_eq!(
        standing,
        [
            ("old", 2, ListStanding::Superseded),
            ("new", 2, ListStanding::InForce),
            ("forged", 2, ListStanding::BadSignature),
            ("mute", 0, ListStanding::NotAllowed),
            ("of an intermediate", 0, ListStanding::NotOfAnchor),
        ]
    );
    assert_eq!(report[0].issuer, "CN=Tenant");
    let later = NOW.plus(std::time::Duration::from_secs(2 * 86_400));
    assert_eq!(bundle.revocation_lists(later)[1].standing, ListStanding::Stale);
}

#[test]
fn a_ca_of_the_bundle_that_is_revoked_is_named() {
    let (policy, other) = (policy(), Ca::root("Other", &STRANGE_KEY));
    let all = [ROOT.der.clone(), other.der.clone(), policy.der.clone()];
    let list = |by: &Ca, serials: &[&[u8]]| ListSpec::of(by, serials).sign(by.key);
    for (list, expected) in [
        (list(&ROOT, &[POLICY]), vec!["CN=Policy"]),
        (list(&ROOT, &[OTHER]), vec![]),
        (list(&other, &[POLICY]), vec![]),
        // Its own number: nobody vouches for a root, and nobody takes it back.
        (list(&ROOT, &[LEAF]), vec![]),
    ] {
        let bundle = bundle(&all, &[list]);
        let named: Vec<_> = bundle.revoked().iter().map(|e| &*e.info.subject).collect();
        assert_eq!(named, expected);
    }
}

#[test]
fn no_bit_of_a_list_can_be_changed() {
    let hub = Hub::new();
    let good = ListSpec::of(&ROOT, &[LEAF]).sign(&ROOT_KEY);
    for place in 0..good.len() {
        let mut der = good.clone();
        der[place] ^= 1;
        let case = of("bits", der, OK);
        assert_eq!(hub.judge(&case).map_err(|e| e.0), OK, "byte {place}: it counts for nobody");
    }
}

#[test]
fn the_bounds_hold() {
    use crate::auth::bundle::revocation::{ENTRIES_MAX, LISTS_MAX};
    let many = |count: usize| {
        let serials = (0..count).map(|n| entry(&(n as u32 | 0x0100_0000).to_be_bytes(), &[]));
        ListSpec::of(&ROOT, &[]).with(|l| l.entries = Some(serials.collect())).sign(&ROOT_KEY)
    };
    let mut bundle = bundle(std::slice::from_ref(&ROOT.der), &[]);
    bundle.add_revocation_list("full", &many(ENTRIES_MAX)).unwrap();
    assert_eq!(bundle.revocation_lists(NOW)[0].entries, ENTRIES_MAX);
    let error = bundle.add_revocation_list("more", &many(ENTRIES_MAX + 1)).unwrap_err();
    assert!(error.to_string().contains("entries"), "{error}");
    for n in 1..LISTS_MAX {
        let list = ListSpec::of(&ROOT, &[&[1, u8::try_from(n).unwrap()]]).sign(&ROOT_KEY);
        bundle.add_revocation_list(&n.to_string(), &list).unwrap();
    }
    let error = bundle.add_revocation_list("more", &many(1)).unwrap_err();
    assert!(error.to_string().contains("lists"), "{error}");
}
