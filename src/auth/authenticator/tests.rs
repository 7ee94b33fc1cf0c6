//! The table of log-ins: who, with what, and the answer.

use rustls_pki_types::CertificateDer;

use super::*;
use crate::auth::SymmetricKeys;
use crate::auth::testing::{NOW, StillClock, ders, valid, window};
use crate::auth::x509::CertificateInfo;
use crate::certs::{Authority, Curve, Window, sphere_like_id};
use crate::identity::ModuleId;

const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);
const OURS: &str = "ms-azure-iot-edge://edge1-1";

fn device(id: &str) -> ClientName {
    ClientName::Device(DeviceId::parse(id).unwrap())
}

fn entry(id: &str, auth: AuthKind) -> ScopeEntry {
    ScopeEntry {
        name: device(id),
        generation: "1".into(),
        status: Status::Enabled,
        auth,
        scope: OURS.into(),
        parent_scopes: vec![OURS.into()],
        is_edge: false,
    }
}

struct Site {
    _folder: tempfile::TempDir,
    tenant: Authority,
    scope: Arc<Scope>,
    clock: Arc<StillClock>,
    authenticator: Authenticator,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tenant = Authority::root("Tenant", Curve::P384, valid()).unwrap();
        let edge = DeviceId::parse("edge1").unwrap();
        let scope = Arc::new(Scope::load(folder.path().join("scope.json"), edge).0);
        let clock = StillClock::at(NOW);
        let bundle = TrustBundle::from_bytes("t", tenant.certificate_pem().as_bytes()).unwrap();
        let authenticator = Authenticator::new(bundle, Arc::clone(&scope), clock.clone());
        Self { _folder: folder, tenant, scope, clock, authenticator }
    }

    fn leaf(&self, cn: &str) -> Vec<CertificateDer<'static>> {
        ders(&self.tenant.issue_client(cn, valid()).unwrap().leaf_pem)
    }

    /// `Ok(identity)` or `Err((code, label))`.
    fn log_in(
        &self,
        claim: &ClientName,
        password: Option<&[u8]>,
        chain: &[CertificateDer<'_>],
    ) -> Result<String, (u8, &'static str)> {
        self.authenticator
            .authenticate(Attempt { claim, password, chain })
            .map(|admission| admission.identity.to_string())
            .map_err(|refusal| {
                assert!(refusal.detail.len() > 20, "a refusal has words: {refusal:?}");
                assert!(matches!(refusal.code as u8, 3 | 5), "never 2 or 4: {refusal:?}");
                (refusal.code as u8, refusal.label)
            })
    }
}

#[test]
fn while_no_scope_is_known_everyone_may_come_back() {
    let site = Site::new();
    let later = Err((3, "scope_unknown"));
    let module = ClientName::Module(DeviceId::parse("d1").unwrap(), ModuleId::parse("m").unwrap());
    assert_eq!(site.log_in(&device("d1"), None, &site.leaf("d1")), later);
    assert_eq!(site.log_in(&device("d1"), Some(b"SharedAccessSignature sr=x"), &[]), later);
    assert_eq!(site.log_in(&device("d1"), None, &[]), later);
    assert_eq!(site.log_in(&module, None, &site.leaf("d1")), later);
}

#[test]
fn the_table_of_log_ins() {
    let site = Site::new();
    let sphere = sphere_like_id(1);
    let upper = sphere.to_ascii_uppercase();
    let mut disabled = entry("off", AuthKind::CertificateAuthority);
    disabled.status = Status::Disabled;
    let mut foreign = entry("foreign", AuthKind::CertificateAuthority);
    foreign.scope = "ms-azure-iot-edge://other-1".into();
    foreign.parent_scopes = vec![];
    site.scope.replace(
        vec![
            entry("d1", AuthKind::CertificateAuthority),
            entry(&sphere, AuthKind::CertificateAuthority),
            entry("sas1", AuthKind::Sas { keys: SymmetricKeys::default() }),
            entry("none1", AuthKind::None),
            disabled,
            foreign,
        ],
        NOW,
    );
    let no = |label| Err((5, label));
    let stranger = Authority::root("Stranger", Curve::P256, valid()).unwrap();
    let strange = ders(&stranger.issue_client("d1", valid()).unwrap().leaf_pem);
    let old = ders(&site.tenant.issue_client("d1", window(-20, -10)).unwrap().leaf_pem);
    let early = ders(&site.tenant.issue_client("d1", window(10, 20)).unwrap().leaf_pem);
    let own = site.leaf("d1");
    let module = ClientName::Module(DeviceId::parse("d1").unwrap(), ModuleId::parse("m").unwrap());

    for (case, claim, password, chain, expected) in [
        ("good", device("d1"), None, own.clone(), Ok("d1".to_owned())),
        ("nothing", device("d1"), None, vec![], no("no_credentials")),
        ("module", module, None, own.clone(), no("module_by_certificate")),
        ("unknown device", device("d9"), None, site.leaf("d9"), no("not_in_scope")),
        ("case of a plain id", device("D1"), None, site.leaf("D1"), no("not_in_scope")),
        ("case of the common name", device("d1"), None, site.leaf("D1"), no("common_name")),
        ("another's certificate", device("d1"), None, site.leaf("sas1"), no("common_name")),
        ("no id at all", device("d1"), None, site.leaf("a/b\nc"), no("common_name")),
        ("Sphere", device(&sphere), None, site.leaf(&sphere), Ok(sphere.clone())),
        (
            "Sphere, certificate in capitals",
            device(&sphere),
            None,
            site.leaf(&upper),
            Ok(sphere.clone()),
        ),
        ("Sphere, claim in capitals", device(&upper), None, site.leaf(&sphere), Ok(sphere.clone())),
        ("another Sphere", device(&sphere), None, site.leaf(&sphere_like_id(2)), no("common_name")),
        ("disabled", device("off"), None, site.leaf("off"), no("disabled")),
        ("other edge", device("foreign"), None, site.leaf("foreign"), no("not_our_child")),
        ("SAS device", device("sas1"), None, site.leaf("sas1"), no("not_a_certificate_device")),
        (
            "no way to log in",
            device("none1"),
            None,
            site.leaf("none1"),
            no("not_a_certificate_device"),
        ),
        ("unknown CA", device("d1"), None, strange, no("unknown_ca")),
        ("expired", device("d1"), None, old, no("expired")),
        ("not yet valid", device("d1"), None, early, no("not_yet_valid")),
    ] {
        assert_eq!(site.log_in(&claim, password, &chain), expected, "{case}");
    }
}

#[test]
fn the_password_wins_over_the_certificate() {
    let site = Site::new();
    let entries = vec![
        entry("d1", AuthKind::CertificateAuthority),
        entry("sas1", AuthKind::Sas { keys: SymmetricKeys::default() }),
        entry("none1", AuthKind::None),
    ];
    site.scope.replace(entries, NOW);
    let token: &[u8] = b"SharedAccessSignature sr=x&sig=eA==&se=1";
    let own = site.leaf("d1");
    for (case, who, password, expected) in [
        ("empty is none", "d1", &b""[..], Ok("d1".to_owned())),
        ("a token", "d1", token, Err((5, "not_a_token_device"))),
        ("no token", "d1", b"x", Err((5, "sas_not_a_token"))),
        ("keys are not known", "sas1", token, Err((3, "keys_unknown"))),
        ("no way to log in", "none1", token, Err((5, "not_a_token_device"))),
        ("unknown", "d9", token, Err((5, "not_in_scope"))),
    ] {
        assert_eq!(site.log_in(&device(who), Some(password), &own), expected, "{case}");
    }
}

#[test]
fn two_ids_that_differ_in_case_stay_two_identities() {
    let site = Site::new();
    let lower = sphere_like_id(1);
    let upper = lower.to_ascii_uppercase();
    let ca = || AuthKind::CertificateAuthority;
    site.scope.replace(vec![entry(&lower, ca()), entry(&upper, ca())], NOW);
    assert_eq!(site.log_in(&device(&lower), None, &site.leaf(&lower)), Ok(lower.clone()));
    assert_eq!(site.log_in(&device(&upper), None, &site.leaf(&upper)), Ok(upper.clone()));
    let crossed = site.log_in(&device(&upper), None, &site.leaf(&lower));
    assert_eq!(crossed, Err((5, "common_name")));
}

#[test]
fn by_thumbprint() {
    let site = Site::new();
    let anyone = Authority::root("Anyone", Curve::P256, valid()).unwrap();
    let leaf = ders(&anyone.issue_client("whatever", window(-10, 10)).unwrap().leaf_pem);
    let info = CertificateInfo::read(&leaf[0]).unwrap();
    let with = |thumbprints: &[&str]| {
        let thumbprints = thumbprints.iter().map(ToString::to_string).collect();
        site.scope.replace(vec![entry("t1", AuthKind::SelfSigned { thumbprints })], NOW);
        site.log_in(&device("t1"), None, &leaf)
    };
    assert_eq!(with(&[&info.sha1]), Ok("t1".into()));
    assert_eq!(with(&["00", &info.sha1.to_uppercase()]), Ok("t1".into()));
    assert_eq!(with(&[&info.sha256.to_uppercase()]), Ok("t1".into()));
    let spaced: Vec<String> = info
        .sha1
        .to_uppercase()
        .as_bytes()
        .chunks(2)
        .map(|b| String::from_utf8_lossy(b).into())
        .collect();
    assert_eq!(with(&[&spaced.join(":")]), Ok("t1".into()), "as openssl writes it");
    assert_eq!(
        with(&[&format!("\u{200e}{}", spaced.join(" "))]),
        Ok("t1".into()),
        "as Windows does"
    );
    assert_eq!(with(&["", "00", &info.sha1[..39]]), Err((5, "thumbprint")));
    assert_eq!(with(&[]), Err((5, "thumbprint")));
    site.clock.set(UnixMillis(NOW.0 + 11_000));
    assert_eq!(with(&[&info.sha1]), Err((5, "expired")));
    site.clock.set(UnixMillis(NOW.0 - 11_000));
    assert_eq!(with(&[&info.sha1]), Err((5, "not_yet_valid")));
}

#[test]
fn a_restart_without_upstream_knows_its_devices() {
    let site = Site::new();
    site.scope.replace(vec![entry("d1", AuthKind::CertificateAuthority)], NOW).stored.unwrap();
    let edge = DeviceId::parse("edge1").unwrap();
    let path = site._folder.path().join("scope.json");
    let (scope, _) = Scope::load(path, edge);
    let bundle = (*site.authenticator.bundle()).clone();
    let after = Authenticator::new(bundle, Arc::new(scope), site.clock.clone());
    let (claim, chain) = (device("d1"), site.leaf("d1"));
    let attempt = Attempt { claim: &claim, password: None, chain: &chain };
    assert_eq!(after.authenticate(attempt).map(|a| a.identity.to_string()), Ok("d1".into()));
}

#[test]
fn a_new_bundle_counts_from_the_next_log_in_on() {
    let site = Site::new();
    site.scope.replace(vec![entry("d1", AuthKind::CertificateAuthority)], NOW);
    let leaf = site.leaf("d1");
    assert_eq!(site.log_in(&device("d1"), None, &leaf), Ok("d1".into()));
    site.authenticator.replace_bundle(TrustBundle::empty());
    assert_eq!(site.log_in(&device("d1"), None, &leaf), Err((5, "unknown_ca")));
}

#[test]
fn a_password_does_not_show() {
    let claim = device("d1");
    let attempt = Attempt { claim: &claim, password: Some(b"topsecret"), chain: &[] };
    assert!(
        !format!("{attempt:?}").contains("topsecret") && !format!("{attempt:?}").contains("116")
    );
}

#[test]
fn a_clock_that_starts_in_1970_is_taken_for_later_and_refuses_nobody_for_good() {
    let mut site = Site::new();
    let entries = ["d1", "d2"].map(|id| entry(id, AuthKind::CertificateAuthority));
    let stored = site.scope.replace(entries.into(), NOW);
    assert!(stored.stored.is_ok());
    let good = site.leaf("d1");
    let younger = Window { not_before: NOW.plus(DAY), not_after: NOW.plus(DAY * 2) };
    let younger = ders(&site.tenant.issue_client("d2", younger).unwrap().leaf_pem);
    site.clock = StillClock::at(UnixMillis(1000));
    let bundle = TrustBundle::from_bytes("t", site.tenant.certificate_pem().as_bytes()).unwrap();
    let authenticator = Authenticator::new(bundle, Arc::clone(&site.scope), site.clock.clone());
    site.authenticator = authenticator.not_before(NOW);
    assert_eq!(
        site.log_in(&device("d1"), None, &good),
        Ok("d1".into()),
        "valid when the scope was stored"
    );
    assert_eq!(site.log_in(&device("d2"), None, &younger), Err((3, "clock_not_set")));
    // The clock is no excuse for a stranger.
    let forger = Authority::root("Forger", Curve::P256, valid()).unwrap();
    let forged = ders(&forger.issue_client("d1", valid()).unwrap().leaf_pem);
    assert_eq!(site.log_in(&device("d1"), None, &forged), Err((5, "unknown_ca")));
    assert_eq!(site.log_in(&device("d2"), None, &good), Err((5, "common_name")));
}

#[test]
fn a_clock_that_was_ahead_once_refuses_nobody_after_the_hub_was_heard() {
    let site = Site::new();
    let _ = site.scope.replace(vec![entry("d1", AuthKind::CertificateAuthority)], NOW);
    let bundle = (*site.authenticator.bundle()).clone();
    let authenticator = Authenticator::new(bundle, Arc::clone(&site.scope), site.clock.clone());
    let ahead = NOW.plus(DAY * 30);
    let site = Site { authenticator: authenticator.not_before(ahead), ..site };
    let leaf = site.leaf("d1");
    let attempt = || {
        let claim = device("d1");
        let attempt = Attempt { claim: &claim, password: None, chain: &leaf };
        site.authenticator.authenticate(attempt).map(|_| ())
    };
    for case in ["after the boot", "the hub is away"] {
        let refusal = attempt().unwrap_err();
        assert_eq!((refusal.code as u8, refusal.label), (3, "clock_not_set"), "{case}");
        let told = ["2027-02-14", "let this gateway reach the hub"];
        assert!(told.iter().all(|part| refusal.detail.contains(part)), "{case}: {refusal}");
        site.authenticator.hub_is_reached(false);
    }
    site.authenticator.hub_is_reached(true);
    assert_eq!(attempt(), Ok(()));
    assert_eq!(site.authenticator.now(), NOW);
    site.authenticator.hub_is_reached(false);
    assert_eq!(attempt(), Ok(()), "what the hub has mended stays so");
}

#[test]
fn without_certificates_only_tokens_let_in() {
    let mut site = Site::new();
    site.scope.replace(vec![entry("d1", AuthKind::CertificateAuthority)], NOW);
    let bundle = (*site.authenticator.bundle()).clone();
    let authenticator = Authenticator::new(bundle, Arc::clone(&site.scope), site.clock.clone());
    site.authenticator = authenticator.by(Policy { certificates: false, ..Policy::default() });
    let got = site.log_in(&device("d1"), None, &site.leaf("d1"));
    assert_eq!(got, Err((5, "certificates_off")));
}

#[test]
fn nobody_connects_as_the_gateway_itself() {
    let site = Site::new();
    let module = |device: &str, module: &str| {
        ClientName::Module(DeviceId::parse(device).unwrap(), ModuleId::parse(module).unwrap())
    };
    let mut edge = entry("edge1", AuthKind::CertificateAuthority);
    edge.is_edge = true;
    let of = |name: ClientName| ScopeEntry {
        name,
        ..entry("x", AuthKind::Sas { keys: SymmetricKeys::default() })
    };
    let names = [module("edge1", "$edgeHub"), module("edge1", "filter")];
    site.scope.replace(names.iter().cloned().map(of).chain([edge]).collect(), NOW);
    let label = |name| site.authenticator.entry_of(name).err().map(|refusal| refusal.label);
    assert_eq!(names.each_ref().map(label), [Some("own_identity"), None]);
}

#[test]
fn a_certificate_that_has_ended_was_vouched_for_all_the_same() {
    let site = Site::new();
    let anyone = Authority::root("Anyone", Curve::P256, valid()).unwrap();
    for (authority, from, to, expected) in [
        (&site.tenant, -10, -5, true),
        (&site.tenant, 5, 10, true),
        (&site.tenant, -90_000, -80_000, false),
        (&anyone, -10, -5, false),
    ] {
        let chain = ders(&authority.issue_client("d1", window(from, to)).unwrap().leaf_pem);
        let claims = [(device("d1"), expected), (device("d2"), false)];
        for (claim, expected) in claims {
            let attempt = Attempt { claim: &claim, password: None, chain: &chain };
            assert!(!site.authenticator.vouches(attempt));
            assert_eq!(site.authenticator.has_vouched(attempt), expected, "{claim}: {from}..{to}");
        }
    }
}

#[test]
fn a_trusted_ca_vouches_for_a_name_whatever_the_scope_says() {
    let site = Site::new();
    let anyone = Authority::root("Anyone", Curve::P256, valid()).unwrap();
    let foreign = ders(&anyone.issue_client("d1", window(-10, 10)).unwrap().leaf_pem);
    let (own, none) = (site.leaf("d1"), Vec::new());
    let module = ClientName::Module(DeviceId::parse("d1").unwrap(), ModuleId::parse("m").unwrap());
    let cases = [
        (device("d1"), &own, true),
        (device("D1"), &own, true),
        (device("d2"), &own, false),
        (device("d1"), &foreign, false),
        (device("d1"), &none, false),
        (module, &own, false),
    ];
    for (claim, chain, expected) in cases {
        let attempt = Attempt { claim: &claim, password: None, chain };
        assert_eq!(site.authenticator.vouches(attempt), expected, "{claim}, {}", chain.len());
        assert_eq!(site.authenticator.has_vouched(attempt), expected, "{claim}, {}", chain.len());
    }
}

/// Thousands of sessions keep theirs for as long as they last.
#[test]
fn of_a_presented_chain_only_what_leads_from_the_leaf_is_kept() {
    let site = Site::new();
    let by_ca = entry("d1", AuthKind::CertificateAuthority);
    site.scope.replace(vec![by_ca], NOW);
    let policy = site.tenant.intermediate("Policy", Curve::P256, valid()).unwrap();
    let leaf = ders(&policy.issue_client("d1", valid()).unwrap().leaf_pem);
    let above = [ders(policy.certificate_pem()), ders(site.tenant.certificate_pem())].concat();
    let unrelated: Vec<_> = (0..6)
        .flat_map(|n| {
            let name = format!("Unrelated {n}");
            ders(Authority::root(&name, Curve::P256, valid()).unwrap().certificate_pem())
        })
        .collect();
    let bundle =
        |ca: &Authority| TrustBundle::from_bytes("t", ca.certificate_pem().as_bytes()).unwrap();
    let kept = |anchor: &Authority, chain: &[CertificateDer<'_>]| {
        site.authenticator.replace_bundle(bundle(anchor));
        let claim = device("d1");
        let attempt = Attempt { claim: &claim, password: None, chain };
        let admission = site.authenticator.authenticate(attempt).unwrap();
        let stays = site.authenticator.would_stay(&bundle(&site.tenant), &admission, NOW).is_ok();
        let Credential::CertificateAuthority { chain, .. } = admission.credential else {
            panic!("by its CA")
        };
        (chain, stays)
    };
    let with = |others: &[&[CertificateDer<'static>]]| [&leaf, &others.concat()[..]].concat();
    for (case, anchor, presented, expected, stays_below_the_root) in [
        ("the leaf alone", &policy, with(&[]), with(&[]), false),
        ("six unrelated", &policy, with(&[&unrelated]), with(&[]), false),
        (
            "one of its path",
            &site.tenant,
            with(&[&unrelated, &above[..1]]),
            with(&[&above[..1]]),
            true,
        ),
        ("above the anchor", &policy, with(&[&above, &unrelated[..5]]), with(&[&above]), true),
        ("twice", &site.tenant, with(&[&above[..1], &above[..1]]), with(&[&above[..1]]), true),
    ] {
        assert_eq!(kept(anchor, &presented), (expected, stays_below_the_root), "{case}");
    }
}
