//! What keys may be used for: extKeyUsage (RFC 5280 4.2.1.12) and keyUsage (4.2.1.3, 6.1.4 n; RFC 5246 7.4.6).

use super::der::seq;
use super::forge::{
    CLIENT, Ca, POLICY_KEY, ROOT, ROOT_KEY, Spec, basic, extension, key_usage, purposes,
};
use super::{Case, OK};

const FAMILY: &str = "usage";

const ANY: &str = "2.5.29.37.0";
const PURPOSES: [(&str, &str); 4] = [
    ("client", CLIENT),
    ("server", "1.3.6.1.5.5.7.3.1"),
    ("code", "1.3.6.1.5.5.7.3.3"),
    ("any", ANY),
];

/// The leaf, an intermediate of its chain or the anchor gets these extensions behind its first ones.
fn at_each_place(
    name: &str,
    extensions: &[Vec<u8>],
    leaf: Result<(), &'static str>,
    ca: Result<(), &'static str>,
) -> Vec<Case> {
    let device = |s: &mut Spec| s.extensions = extensions.to_vec();
    let authority = |s: &mut Spec| {
        s.extensions = [&[basic(true, None)], extensions].concat();
    };
    let middle = ROOT.below_with("Middle", &POLICY_KEY, authority);
    let anchor = Ca::root_with("Odd root", &ROOT_KEY, authority);
    // An anchor that may not vouch is not in the bundle, which for its devices is an unknown CA.
    let of_anchor = ca.map_err(|_| "unknown_ca");
    vec![
        Case::new(FAMILY, format!("leaf: {name}"), vec![ROOT.leaf_with("d1", device)], leaf),
        Case::new(FAMILY, format!("intermediate: {name}"), vec![middle.leaf("d1"), middle.der], ca),
        Case::new(FAMILY, format!("anchor: {name}"), vec![anchor.leaf("d1")], of_anchor)
            .anchors(&[&anchor, &ROOT]),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for subset in 1..16_usize {
        for critical in [false, true] {
            let chosen = (0..4).filter(|bit| subset >> bit & 1 == 1).map(|bit| PURPOSES[bit]);
            let (names, ids): (Vec<_>, Vec<_>) = chosen.unzip();
            // The application asks for clientAuth: "MAY reject certificates that include anyExtendedKeyUsage but not
            // the particular OID". A leaf we refuse, so that no certificate for everything becomes a device. A CA with
            // it may issue for anything; one without clientAuth and without it may not issue for clients (nested, as
            // Windows and Mozilla have it).
            let leaf = if ids.contains(&CLIENT) { OK } else { Err("key_usage") };
            let ca =
                if ids.contains(&CLIENT) || ids.contains(&ANY) { OK } else { Err("ca_key_usage") };
            let name = format!("purposes {}, critical {critical}", names.join("+"));
            cases.extend(at_each_place(&name, &[purposes(critical, &ids)], leaf, ca));
        }
    }
    let (bad, ca_bad) = (Err("malformed_certificate"), Err("malformed_certificate"));
    let empty = extension("2.5.29.37", false, &seq(&[]));
    let (key, ca_key) = (Err("key_usage"), Err("ca_key_usage"));
    cases.extend(at_each_place("no usages at all", &[], OK, OK));
    // 4.2.1.12: SEQUENCE SIZE (1..MAX); an empty one allows nothing.
    cases.extend(at_each_place("no purpose in the list", &[empty], key, ca_key));
    let twice = purposes(false, &[CLIENT, CLIENT]);
    cases.extend(at_each_place("client auth twice", &[twice], OK, OK));
    let unknown = purposes(false, &["1.3.6.1.4.1.99999.7"]);
    cases.extend(at_each_place("an unknown purpose", &[unknown], key, ca_key));
    let near = purposes(false, &["1.3.6.1.5.5.7.3.2.1", "1.3.6.1.5.5.7.3"]);
    cases.extend(at_each_place("purposes near client auth", &[near], key, ca_key));
    let damaged = extension("2.5.29.37", false, b"\x30\x03\x06\x08\x2b");
    cases.extend(at_each_place("damaged purposes", &[damaged], bad, ca_bad));

    for bit in 0..=8 {
        // A client signs in the handshake: digitalSignature (0). A CA signs certificates: keyCertSign (5).
        let leaf = if bit == 0 { OK } else { key };
        let ca = if bit == 5 { OK } else { ca_key };
        cases.extend(at_each_place(
            &format!("key usage {bit} alone"),
            &[key_usage(&[bit])],
            leaf,
            ca,
        ));
    }
    let all: Vec<u8> = (0..=8).collect();
    cases.extend(at_each_place("all key usages", &[key_usage(&all)], OK, OK));
    let but_0 = key_usage(&all[1..]);
    cases.extend(at_each_place("all key usages but signature", &[but_0], key, OK));
    let but_5 = key_usage(&[0, 1, 2, 3, 4, 6, 7, 8]);
    cases.extend(at_each_place("all key usages but certificates", &[but_5], OK, ca_key));
    // 4.2.1.3: at least one bit must be set; none allows nothing.
    cases.extend(at_each_place("no key usage set", &[key_usage(&[])], key, ca_key));
    let lenient = extension("2.5.29.15", false, &super::der::flags(&[0, 5]));
    cases.extend(at_each_place("key usage not critical", &[lenient], OK, OK));
    let damaged = extension("2.5.29.15", false, &[4, 1, 0xff]);
    cases.extend(at_each_place("key usage of another type", &[damaged], bad, ca_bad));
    let good = [key_usage(&[0, 5]), purposes(true, &[CLIENT])];
    cases.extend(at_each_place("both, good", &good, OK, OK));
    let half = [key_usage(&[0, 5]), purposes(true, &[PURPOSES[1].1])];
    cases.extend(at_each_place("both, server only", &half, key, ca_key));
    cases
}
