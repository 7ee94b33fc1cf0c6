//! Sessions by certificate, and what becomes of them when the scope or the bundle changes.

use std::sync::Arc;

use crate::auth::testing::{NOW, StillClock, admitted, ders, valid, window};
use crate::auth::x509::CertificateInfo;
use crate::auth::{
    Admission, Attempt, AuthKind, Authenticator, Credential, Scope, ScopeEntry, Status,
    SymmetricKeys, TrustBundle,
};
use crate::certs::{Authority, Curve, Window};
use crate::clock::UnixMillis;
use crate::identity::{ClientName, DeviceId};

const OURS: &str = "ms-azure-iot-edge://edge1-1";

fn entry(id: &str, auth: AuthKind) -> ScopeEntry {
    ScopeEntry {
        name: ClientName::Device(DeviceId::parse(id).unwrap()),
        generation: "1".into(),
        status: Status::Enabled,
        auth,
        scope: OURS.into(),
        parent_scopes: vec![OURS.into()],
        is_edge: false,
    }
}

#[test]
fn a_session_by_certificate_ends_with_its_registration_or_its_ca() {
    let folder = tempfile::tempdir().unwrap();
    let edge = DeviceId::parse("edge1").unwrap();
    let scope = Arc::new(Scope::load(folder.path().join("scope.json"), edge).0);
    let (old, new) = (authority("Old"), authority("New"));
    let both = [old.certificate_pem(), new.certificate_pem()].concat();
    let bundle = |pem: &str| TrustBundle::from_bytes("t", pem.as_bytes()).unwrap();
    let authenticator = Authenticator::new(bundle(&both), Arc::clone(&scope), StillClock::at(NOW));
    assert!(authenticator.still_admits(&admitted("d1")), "an unknown scope changes nothing");
    assert_eq!(authenticator.judge_standing(&admitted("d1"), NOW), Ok(()));

    let leaf = ders(&old.issue_client("d1", valid()).unwrap().leaf_pem);
    let info = CertificateInfo::read(&leaf[0]).unwrap();
    let by_ca = || vec![entry("d1", AuthKind::CertificateAuthority)];
    let by_print = |print: &str| {
        vec![entry("d1", AuthKind::SelfSigned { thumbprints: vec![print.to_owned()] })]
    };
    let admit = |entries: Vec<ScopeEntry>| {
        let _ = scope.replace(entries, NOW);
        let claim = ClientName::Device(DeviceId::parse("d1").unwrap());
        let attempt = Attempt { claim: &claim, password: None, chain: &leaf };
        authenticator.authenticate(attempt).unwrap()
    };
    let (ca, print) = (admit(by_ca()), admit(by_print(&info.sha1)));
    let mut off = by_ca();
    off[0].status = Status::Disabled;
    let sas = vec![entry("d1", AuthKind::Sas { keys: SymmetricKeys::default() })];
    let standing = |admission: &Admission| {
        authenticator.judge_standing(admission, NOW).map_err(|refusal| refusal.label)
    };
    for (case, entries, of_ca, of_print) in [
        ("by a CA", by_ca(), Ok(()), Err("not_a_certificate_device")),
        ("by the same thumbprint", by_print(&info.sha256), Err("not_a_certificate_device"), Ok(())),
        ("by another", by_print("00"), Err("not_a_certificate_device"), Err("thumbprint")),
        ("by tokens", sas, Err("not_a_certificate_device"), Err("not_a_certificate_device")),
        ("disabled", off, Err("disabled"), Err("disabled")),
        ("gone", vec![], Err("not_in_scope"), Err("not_in_scope")),
    ] {
        let _ = scope.replace(entries, NOW);
        assert_eq!(standing(&ca), of_ca, "{case}");
        assert_eq!(standing(&print), of_print, "{case}");
    }

    // The bundle: a preview, and what is in force.
    let _ = scope.replace(by_ca(), NOW);
    let without = bundle(new.certificate_pem());
    let preview = authenticator.would_stay(&without, &ca, NOW).unwrap_err();
    assert_eq!(preview.label, "unknown_ca");
    assert_eq!(authenticator.would_stay(&without, &print, NOW), Ok(()), "the CA does not count");
    assert_eq!(standing(&ca), Ok(()), "a preview changes nothing");
    authenticator.replace_bundle(without);
    assert_eq!(standing(&ca), Err("unknown_ca"));
}

fn authority(name: &str) -> Authority {
    Authority::root(name, Curve::P384, valid()).unwrap()
}

fn ca(name: &str, window: Window) -> Authority {
    Authority::root(name, Curve::P256, window).unwrap()
}

/// Let in at `since`, with a leaf of `ca` for `life`.
fn session(ca: &Authority, life: Window, since: UnixMillis) -> Admission {
    let chain = ders(&ca.issue_client("d", life).unwrap().leaf_pem);
    let credential = Credential::CertificateAuthority {
        chain,
        not_after: life.not_after,
        anchor_sha256: String::new(),
        by_grace: false,
    };
    Admission { credential, since, ..admitted("d") }
}

/// Judges under other bundles; its own is of no matter.
fn judge_of_bundles() -> (tempfile::TempDir, Authenticator) {
    let folder = tempfile::tempdir().unwrap();
    let edge = DeviceId::parse("edge").unwrap();
    let (scope, _) = Scope::load(folder.path().join("scope.json"), edge);
    let authenticator =
        Authenticator::new(TrustBundle::empty(), Arc::new(scope), StillClock::at(NOW));
    (folder, authenticator)
}

#[test]
fn a_session_stays_while_its_chain_holds_now_or_held_when_it_came() {
    let (_folder, authenticator) = judge_of_bundles();
    let authenticator = authenticator.not_before(UnixMillis(NOW.0 - 50_000));
    let day = window(-100, 100);
    let (one, two) = (ca("One", valid()), ca("Two", valid()));
    let old = ca("Old", day);
    let later = UnixMillis(NOW.0 + 200_000);
    let boot = UnixMillis(1000);
    let table = [
        ("its CA is there", session(&one, day, NOW), &one, NOW, None),
        ("its CA is gone", session(&one, day, NOW), &two, NOW, Some("unknown_ca")),
        (
            "its CA is gone, its leaf has ended",
            session(&one, day, NOW),
            &two,
            later,
            Some("unknown_ca"),
        ),
        ("its leaf has ended", session(&one, day, NOW), &one, later, None),
        ("its CA has ended", session(&old, day, NOW), &old, later, None),
        ("it came by a grace", session(&one, day, later), &one, later, None),
        ("it came by a clock that was wrong", session(&one, day, boot), &one, boot, None),
        ("a leaf from before", session(&one, day, boot), &one, later, None),
    ];
    for (case, admission, ca, now, expected) in table {
        let bundle = TrustBundle::from_bytes("t", ca.certificate_pem().as_bytes()).unwrap();
        let got = authenticator.would_stay(&bundle, &admission, now);
        assert_eq!(got.map_err(|e| e.label), expected.map_or(Ok(()), Err), "{case}");
    }
    let by_token = admitted("d");
    assert!(authenticator.would_stay(&TrustBundle::empty(), &by_token, NOW).is_ok());
}

#[test]
fn a_renewed_ca_that_is_younger_than_the_session_takes_it_over() {
    let (_folder, authenticator) = judge_of_bundles();
    let one = ca("One", window(-100, 100));
    let key = rcgen::KeyPair::from_pem(&one.key_pem()).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "One");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let from = NOW.as_secs() + 10;
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(from);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    let renewed = params.self_signed(&key).unwrap().pem();
    let bundle = TrustBundle::from_bytes("t", renewed.as_bytes()).unwrap();
    let admission = session(&one, window(-100, 100), NOW);
    let judge = |seconds: u64| {
        let now = UnixMillis(NOW.0 + seconds * 1000);
        authenticator.would_stay(&bundle, &admission, now).map_err(|e| e.label)
    };
    assert_eq!(judge(5), Err("ca_not_valid"));
    assert_eq!(judge(20), Ok(()));
    assert_eq!(judge(200), Ok(()), "also when the leaf has ended");
}
