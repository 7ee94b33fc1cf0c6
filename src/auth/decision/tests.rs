//! The list is a list, and what people read is right.

use std::collections::HashSet;

use super::*;
use crate::auth::bundle::TrustBundle;
use crate::auth::testing::{NOW, ders, valid, window};
use crate::certs::{Authority, Curve};
use crate::identity::DeviceId;

const TENANT: &str = "Microsoft Azure Sphere 0d4b2a3e-1111-4222-8333-444455556666";

fn leaf(ca: &Authority, from: i64, to: i64) -> CertificateInfo {
    let issued = ca.issue_client("dev1", window(from, to)).unwrap();
    *facts(&ders(&issued.leaf_pem)).unwrap()
}

#[test]
fn no_label_is_twice_in_a_stage_and_each_says_what_to_do() {
    let mut seen = HashSet::new();
    for r in REASONS {
        assert!(seen.insert((r.stage, r.label)), "{}", r.label);
        assert!(r.meaning.len() > 10 && r.todo.len() > 10, "{}", r.label);
        assert!(!r.meaning.ends_with('.') && !r.todo.ends_with('.'), "{}", r.label);
        assert!(!r.meaning.contains('|') && !r.todo.contains('|'), "{}: a table's cell", r.label);
        assert_eq!(reason(r.stage, r.label), r);
    }
    assert_eq!(reason(Stage::Tls, "never heard of").label, "unlisted");
    let session = |label| reason(Stage::Session, label);
    assert_eq!(session("disabled"), reason(Stage::Connect, "disabled"), "no second list");
    assert!(REASONS.iter().all(|r| r.stage != Stage::Session));
}

#[test]
fn hints_by_certificate_and_bundle() {
    let root = |name: &str| Authority::root(name, Curve::P256, valid()).unwrap();
    let (old, new) = (root(TENANT), root(TENANT));
    let renamed = root("Microsoft Azure Sphere 0D4B2A3E-1111-4222-8333-444455556666 2");
    let (stranger, other) =
        (root("Microsoft Azure Sphere ffffffff-1111-4222-8333-444455556666"), root("Acme"));
    let bundle = TrustBundle::from_bytes("tenant.pem", old.certificate_pem().as_bytes()).unwrap();
    let rotated =
        ["looks like a rotated tenant CA", "tenant.pem #1", "az sphere ca-certificate download"];
    let foreign = ["tenant whose CA is not in the bundle", "azsphere ca-certificate download"];
    for (case, label, ca, from, to, parts) in [
        ("same name, another key", "bad_signature", &new, -60, 60, &rotated[..]),
        ("same name, another key", "unknown_ca", &new, -60, 60, &rotated[..]),
        ("same tenant id", "unknown_ca", &renamed, -60, 60, &rotated[..]),
        ("another tenant", "unknown_ca", &stranger, -60, 60, &foreign[..]),
        ("no Sphere CA", "unknown_ca", &other, -60, 60, &["put the certificate of CN=Acme"][..]),
        (
            "expired",
            "expired",
            &old,
            -90_000,
            -10_800,
            &["2027-01-15T08:00:00Z: 3 h after its end"][..],
        ),
        (
            "not yet",
            "not_yet_valid",
            &old,
            600,
            1200,
            &["10 min before its begin", "time server"][..],
        ),
        (
            "anchor over",
            "ca_not_valid",
            &old,
            -60,
            60,
            &["successor", "ca-certificate download"][..],
        ),
    ] {
        let text = hint(label, Some(&leaf(ca, from, to)), None, &bundle, NOW).unwrap();
        assert!(parts.iter().all(|part| text.contains(part)), "{case}: {text}");
    }
    assert_eq!(hint("disabled", Some(&leaf(&old, -60, 60)), None, &bundle, NOW), None);
    assert_eq!(hint("unknown_ca", None, None, &bundle, NOW), None);
}

/// `ca-certificate list` names CAs by that thumbprint.
#[test]
fn an_issuer_that_was_presented_is_named_by_its_thumbprint() {
    let ca = Authority::root(TENANT, Curve::P256, valid()).unwrap();
    let issued = ca.issue_client("dev1", window(-60, 60)).unwrap();
    let mut chain = ders(&issued.leaf_pem);
    assert_eq!(issuer_facts(&chain), None);
    assert_eq!(issuer_facts(&[]), None);
    let other = Authority::root("Other", Curve::P256, valid()).unwrap();
    chain.extend(ders(other.certificate_pem()));
    chain.extend(ders(ca.certificate_pem()));
    let issuer = issuer_facts(&chain).unwrap();
    assert_eq!(issuer, facts(&ders(ca.certificate_pem())).unwrap());
    let leaf = facts(&chain).unwrap();
    let told = hint("unknown_ca", Some(&leaf), Some(&issuer), &TrustBundle::empty(), NOW).unwrap();
    assert!(told.ends_with(&format!("whose SHA-1 thumbprint is {}", issuer.sha1)), "{told}");
}

#[test]
fn a_refusal_is_one_line_with_who_what_and_what_to_do() {
    let certificate =
        Box::new(leaf(&Authority::root(TENANT, Curve::P256, valid()).unwrap(), -60, 60));
    let refused = |detail: &str| Outcome::Refused {
        label: "disabled",
        detail: detail.to_owned(),
        hint: None,
    };
    let mut decision = Decision {
        at: NOW,
        stage: Stage::Connect,
        peer: Some(([192, 0, 2, 7], 4711).into()),
        claim: Some(ClientName::Device(DeviceId::parse("dev1").unwrap())),
        outcome: refused("it is\r\nswitched off"),
        certificate: Some(certificate.clone()),
    };
    let record = RefusalRecord::of(&decision).unwrap();
    assert_eq!(
        record.to_string(),
        format!(
            "refused at connect (disabled): peer 192.0.2.7:4711, claim dev1, certificate CN=dev1, issuer CN={TENANT}, SHA-1 \
             {}, SHA-256 {}: it is  switched off; to do: Enable it in IoT Hub, if it should connect",
            certificate.sha1, certificate.sha256
        )
    );
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<RefusalRecord>(&text).unwrap(), record);

    decision.outcome = refused(&"x".repeat(5000));
    (decision.certificate, decision.claim) = (None, None);
    let line = RefusalRecord::of(&decision).unwrap().to_string();
    assert!(line.contains("claim -, no certificate: xxx") && line.len() < 1300, "{line}");
}
