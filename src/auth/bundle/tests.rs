//! Chains, good and bad. Files and their entries are in [`loading`].

mod loading;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use std::time::Duration;

use rustls_pki_types::CertificateDer;

use super::*;
use crate::auth::testing::{NOW, ders, valid, window};
use crate::certs::{Authority, Curve, Window, sphere_like_id};

fn root(name: &str) -> Authority {
    Authority::root(name, Curve::P256, valid()).unwrap()
}

fn params(cn: &str, window: Window) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, cn);
    let at =
        |time: UnixMillis| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(time.as_secs());
    params.not_before = at(window.not_before);
    params.not_after = at(window.not_after);
    params
}

fn ca_params(cn: &str, window: Window) -> CertificateParams {
    let mut params = params(cn, window);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// Verifies `chain` against a bundle of `anchors`: the common name, or the refusal's label.
#[track_caller]
fn check(case: &str, anchors: &[&str], chain: &str, now: UnixMillis, expected: Result<&str, &str>) {
    let bundle = TrustBundle::from_bytes("test", anchors.concat().as_bytes()).unwrap();
    let got = bundle.verify(&ders(chain), now);
    let detail = format!("{got:?}");
    let got = got.map(|leaf| leaf.common_name).map_err(|e| e.label());
    assert_eq!(got.as_deref().map_err(|label| *label), expected, "{case}: {detail}");
}

#[test]
fn chains_that_hold() {
    let tenant = root("Tenant");
    let policy = tenant.intermediate("Policy", Curve::P384, valid()).unwrap();
    let deep = policy.intermediate("Deep", Curve::P256, valid()).unwrap();
    let p384 = Authority::root("Tenant 384", Curve::P384, valid()).unwrap();
    let sphere = sphere_like_id(1);
    let upper = sphere.to_ascii_uppercase();

    let by = |ca: &Authority, cn: &str| ca.issue_client(cn, valid()).unwrap();
    let issued = by(&tenant, &sphere);
    check(
        "leaf alone below a root",
        &[tenant.certificate_pem()],
        &issued.leaf_pem,
        NOW,
        Ok(&sphere),
    );
    let issued = by(&tenant, &upper);
    check("upper-case id", &[tenant.certificate_pem()], &issued.leaf_pem, NOW, Ok(&upper));
    let issued = by(&deep, &sphere);
    check(
        "leaf alone, issuer no root",
        &[deep.certificate_pem()],
        &issued.leaf_pem,
        NOW,
        Ok(&sphere),
    );
    check(
        "intermediates presented",
        &[tenant.certificate_pem()],
        &issued.chain_pem,
        NOW,
        Ok(&sphere),
    );
    check("anchor in the middle", &[policy.certificate_pem()], &issued.chain_pem, NOW, Ok(&sphere));
    let with_root = format!("{}{}", issued.chain_pem, tenant.certificate_pem());
    check("root presented, too", &[tenant.certificate_pem()], &with_root, NOW, Ok(&sphere));

    let both = [tenant.certificate_pem(), p384.certificate_pem()];
    check("first of two tenants", &both, &by(&tenant, "d1").leaf_pem, NOW, Ok("d1"));
    check("second of two tenants", &both, &by(&p384, "d2").leaf_pem, NOW, Ok("d2"));
    let leaf = p384.issue_client_with("d3", Curve::P384, valid()).unwrap();
    check("P-384 all along", &both, &leaf.leaf_pem, NOW, Ok("d3"));

    let bare = tenant.issue(&params("d4", valid()), Curve::P256).unwrap();
    check("no extended key usage", &[tenant.certificate_pem()], &bare.leaf_pem, NOW, Ok("d4"));
    let mut two = params("first", valid());
    two.distinguished_name.push(DnType::OrganizationName, "between");
    two.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "second");
    let two = tenant.issue(&two, Curve::P256).unwrap();
    check(
        "first of two common names",
        &[tenant.certificate_pem()],
        &two.leaf_pem,
        NOW,
        Ok("first"),
    );
}

#[test]
fn chains_that_do_not_hold() {
    let tenant = root("Tenant");
    let namesake = root("Tenant");
    let stranger = root("Stranger");
    let policy = tenant.intermediate("Policy", Curve::P256, valid()).unwrap();
    let anchors = [tenant.certificate_pem()];
    let leaf = |ca: &Authority| ca.issue_client("d", valid()).unwrap().leaf_pem;

    check("wrong issuer", &anchors, &leaf(&stranger), NOW, Err("unknown_ca"));
    check("intermediate not presented", &anchors, &leaf(&policy), NOW, Err("unknown_ca"));
    check("CA of the same name", &anchors, &leaf(&namesake), NOW, Err("bad_signature"));
    check("CA as leaf", &anchors, policy.certificate_pem(), NOW, Err("ca_as_leaf"));
    check("the anchor itself", &anchors, tenant.certificate_pem(), NOW, Err("ca_as_leaf"));
    check("no certificate", &anchors, "", NOW, Err("no_certificate"));
    let long = leaf(&tenant) + &policy.certificate_pem().repeat(CHAIN_MAX);
    check("too many certificates", &anchors, &long, NOW, Err("chain_too_long"));

    let mut server = params("d", valid());
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server = tenant.issue(&server, Curve::P256).unwrap();
    check("server's key usage", &anchors, &server.leaf_pem, NOW, Err("key_usage"));
    let mut nameless = params("x", valid());
    nameless.distinguished_name = DistinguishedName::new();
    nameless.distinguished_name.push(DnType::OrganizationName, "d");
    let nameless = tenant.issue(&nameless, Curve::P256).unwrap();
    check("no common name", &anchors, &nameless.leaf_pem, NOW, Err("no_common_name"));
    let mut odd = params("d", valid());
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    odd.custom_extensions = vec![extension];
    let odd = tenant.issue(&odd, Curve::P256).unwrap();
    check("critical extension", &anchors, &odd.leaf_pem, NOW, Err("critical_extension"));

    // A device's key that signs another device's certificate.
    let key = KeyPair::generate().unwrap();
    let device = params("d1", valid());
    let root_key = KeyPair::generate().unwrap();
    let root_params = ca_params("R", valid());
    let root_pem = root_params.self_signed(&root_key).unwrap().pem();
    let device_pem =
        device.signed_by(&key, &Issuer::from_params(&root_params, &root_key)).unwrap().pem();
    let forged_key = KeyPair::generate().unwrap();
    let forged = params("d2", valid())
        .signed_by(&forged_key, &Issuer::from_params(&device, &key))
        .unwrap()
        .pem();
    check("signed by a device", &[&root_pem], &(forged + &device_pem), NOW, Err("leaf_as_ca"));
}

#[test]
fn every_changed_byte_of_a_leaf_is_noticed() {
    let tenant = root("Tenant");
    let bundle = TrustBundle::from_bytes("t", tenant.certificate_pem().as_bytes()).unwrap();
    let good = ders(&tenant.issue_client("d", valid()).unwrap().leaf_pem).remove(0);
    assert!(bundle.verify(std::slice::from_ref(&good), NOW).is_ok());
    for place in 0..good.len() {
        let mut bytes = good.to_vec();
        bytes[place] ^= 1;
        let got = bundle.verify(&[CertificateDer::from(bytes)], NOW);
        assert!(got.is_err(), "byte {place} of {}: {got:?}", good.len());
    }
    for cut in 0..good.len() {
        let got = bundle.verify(&[CertificateDer::from(good[..cut].to_vec())], NOW);
        assert_eq!(got.unwrap_err().label(), "malformed_certificate", "cut at {cut}");
    }
    let mut longer = good.to_vec();
    longer.push(0);
    let got = bundle.verify(&[CertificateDer::from(longer)], NOW);
    assert_eq!(got.unwrap_err().label(), "malformed_certificate", "a byte more");
}

#[test]
fn validity_is_judged_to_the_second_at_the_time_of_the_log_in() {
    let tenant = root("Tenant");
    let anchors = [tenant.certificate_pem()];
    let leaf = tenant.issue_client("d", window(-10, 10)).unwrap().leaf_pem;
    for (offset, expected) in [
        (-11_000, Err("not_yet_valid")),
        (-10_000, Ok("d")),
        (10_999, Ok("d")),
        (11_000, Err("expired")),
    ] {
        let now = UnixMillis(NOW.0.saturating_add_signed(offset));
        check(&format!("leaf, {offset} ms"), &anchors, &leaf, now, expected);
    }
    let policy = tenant.intermediate("Policy", Curve::P256, window(-10, 10)).unwrap();
    let chain = policy.issue_client("d", valid()).unwrap().chain_pem;
    let late = UnixMillis(NOW.0 + 11_000);
    check("intermediate", &anchors, &chain, NOW, Ok("d"));
    check("intermediate expired", &anchors, &chain, late, Err("intermediate_not_valid"));
    // As an anchor, too: webpki alone would go on taking it.
    check("anchor", &[policy.certificate_pem()], &chain, NOW, Ok("d"));
    check("anchor expired", &[policy.certificate_pem()], &chain, late, Err("ca_not_valid"));
    let early = UnixMillis(NOW.0 - 11_000);
    check("anchor not yet", &[policy.certificate_pem()], &chain, early, Err("ca_not_valid"));
    let all = [policy.certificate_pem(), tenant.certificate_pem()];
    check("leaf below an expired anchor", &all, &chain, late, Err("ca_not_valid"));
}

#[test]
fn a_renewed_ca_serves_although_its_predecessor_is_still_there() {
    let key = KeyPair::generate().unwrap();
    let old = ca_params("Tenant", window(-1000, -10));
    let new = ca_params("Tenant", window(-20, 1000));
    let (old_pem, new_pem) =
        (old.self_signed(&key).unwrap().pem(), new.self_signed(&key).unwrap().pem());
    let device = KeyPair::generate().unwrap();
    let leaf =
        params("d", valid()).signed_by(&device, &Issuer::from_params(&new, &key)).unwrap().pem();
    check("same key, old first", &[&old_pem, &new_pem], &leaf, NOW, Ok("d"));
    check("same key, new first", &[&new_pem, &old_pem], &leaf, NOW, Ok("d"));
    check("the old one alone", &[&old_pem], &leaf, NOW, Err("ca_not_valid"));

    let rotated = root("Tenant");
    let leaf = rotated.issue_client("d", valid()).unwrap().leaf_pem;
    check("another key", &[&old_pem, &new_pem, rotated.certificate_pem()], &leaf, NOW, Ok("d"));
}

#[test]
fn an_anchor_s_path_length_counts() {
    let key = KeyPair::generate().unwrap();
    let mut short = ca_params("Short", valid());
    short.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let short_pem = short.self_signed(&key).unwrap().pem();
    let issuer = Issuer::from_params(&short, &key);
    let (device, below) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let direct = params("d", valid()).signed_by(&device, &issuer).unwrap().pem();
    check("directly below", &[&short_pem], &direct, NOW, Ok("d"));
    let middle = ca_params("Middle", valid());
    let middle_pem = middle.signed_by(&below, &issuer).unwrap().pem();
    let leaf = params("d", valid())
        .signed_by(&device, &Issuer::from_params(&middle, &below))
        .unwrap()
        .pem();
    check("one CA too many", &[&short_pem], &(leaf + &middle_pem), NOW, Err("path_length"));
}

#[test]
fn who_vouched_is_part_of_the_result() {
    let (one, two) = (root("One"), root("Two"));
    let both = format!("{}{}", one.certificate_pem(), two.certificate_pem());
    let bundle = TrustBundle::from_bytes("t", both.as_bytes()).unwrap();
    let leaf = ders(&two.issue_client("d", valid()).unwrap().leaf_pem);
    let verified = bundle.verify(&leaf, NOW).unwrap();
    assert_eq!(verified.anchor_sha256, bundle.entries()[1].info.sha256);
    assert_eq!((verified.not_before, verified.not_after), (valid().not_before, valid().not_after));
}

#[test]
fn a_chain_that_was_good_is_judged_anew() {
    let tenant = Authority::root("Tenant", Curve::P384, valid()).unwrap();
    let other = root("Other");
    let policy = tenant.intermediate("Policy", Curve::P384, window(-10, 100)).unwrap();
    let issued = policy.issue_client("d", window(-10, 10)).unwrap();
    let (chain, leaf_alone) = (ders(&issued.chain_pem), ders(&issued.leaf_pem));
    let both = format!("{}{}", tenant.certificate_pem(), other.certificate_pem());
    let bundle = TrustBundle::from_bytes("t", both.as_bytes()).unwrap();
    let label = |bundle: &TrustBundle, chain: &[CertificateDer<'_>], seconds: u64| {
        bundle
            .verify(chain, UnixMillis(NOW.0 + seconds * 1000))
            .map(|leaf| leaf.common_name)
            .map_err(|e| e.label())
    };
    assert_eq!(bundle.good.len(), 0);
    assert_eq!(label(&bundle, &chain, 0), Ok("d".to_owned()));
    assert_eq!(bundle.good.len(), 2, "the leaf's and the intermediate's");
    assert_eq!(label(&bundle, &chain, 0), Ok("d".to_owned()));
    assert_eq!(bundle.good.len(), 2);
    assert_eq!(label(&bundle, &chain, 11), Err("expired"));
    assert_eq!(label(&bundle, &leaf_alone, 0), Err("unknown_ca"), "without the intermediate");

    // A bundle without the CA, remembering all the same: which is more than a reload leaves.
    let without = TrustBundle::from_bytes("t", other.certificate_pem().as_bytes()).unwrap();
    assert_eq!(without.good.len(), 0);
    let without = TrustBundle { good: Arc::clone(&bundle.good), ..without };
    assert_eq!(label(&without, &chain, 0), Err("unknown_ca"));
    // A CA of the same name with another key.
    let namesake = Authority::root("Tenant", Curve::P384, valid()).unwrap();
    let namesake = TrustBundle::from_bytes("t", namesake.certificate_pem().as_bytes()).unwrap();
    let namesake = TrustBundle { good: Arc::clone(&bundle.good), ..namesake };
    assert_eq!(label(&namesake, &chain, 0), Err("bad_signature"));
}

#[test]
fn who_is_not_vouched_for_leaves_nothing_behind() {
    let (tenant, stranger) = (root("Tenant"), root("Stranger"));
    let bundle = TrustBundle::from_bytes("t", tenant.certificate_pem().as_bytes()).unwrap();
    let namesake = root("Tenant");
    let below = stranger.intermediate("Below", Curve::P256, valid()).unwrap();
    for issuer in [&stranger, &namesake, &below] {
        let chain = ders(&issuer.issue_client("d", valid()).unwrap().chain_pem);
        assert!(bundle.verify(&chain, NOW).is_err());
    }
    assert_eq!(bundle.good.len(), 0);
}

#[test]
fn foreign_text_is_escaped_before_it_is_shown() {
    let evil = root("CA\nFORGED LOG LINE \u{1b}[31m");
    let bundle = TrustBundle::from_bytes("t", root("R").certificate_pem().as_bytes()).unwrap();
    let leaf = ders(&evil.issue_client("d", valid()).unwrap().leaf_pem);
    let text = bundle.verify(&leaf, NOW).unwrap_err().to_string();
    assert!(!text.contains('\n') && !text.contains('\u{1b}'), "{text:?}");
}
