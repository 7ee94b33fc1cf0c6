//! The table of log-ins with tokens, for devices and modules.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::auth::refusal::LABELS;
use crate::auth::testing::{NOW, StillClock};
use crate::auth::{
    Admission, Attempt, AuthKind, Authenticator, Credential, Policy, Refusal, RefusalCode, Scope,
    ScopeEntry, Status, SymmetricKeys, TrustBundle,
};
use crate::clock::UnixMillis;
use crate::identity::{ClientName, DeviceId, ModuleId};
use crate::iothub::sas::{KeySigner, url_encode};

const HUB: &str = "hub.example";
const GATEWAY: &str = "gw.example";
const OURS: &str = "ms-azure-iot-edge://edge1-1";

fn name(text: &str) -> ClientName {
    let (device, module) = text.split_once('/').unwrap_or((text, ""));
    let device = DeviceId::parse(device).unwrap();
    match ModuleId::parse(module) {
        Ok(module) => ClientName::Module(device, module),
        Err(_) => ClientName::Device(device),
    }
}

fn key() -> KeySigner {
    KeySigner::from_base64(&STANDARD.encode(rand::random::<[u8; 32]>())).unwrap()
}

fn keys(primary: &KeySigner, secondary: Option<&KeySigner>) -> AuthKind {
    let keys = SymmetricKeys {
        primary: Some(primary.clone()),
        secondary: secondary.cloned(),
        is_told: true,
    };
    AuthKind::Sas { keys }
}

fn entry(id: &str, auth: AuthKind) -> ScopeEntry {
    let name = name(id);
    let (scope, parent_scopes) = match name.module() {
        None => (OURS.to_owned(), vec![OURS.to_owned()]),
        Some(_) => (String::new(), Vec::new()),
    };
    let generation = "1".to_owned();
    ScopeEntry {
        name,
        generation,
        status: Status::Enabled,
        auth,
        scope,
        parent_scopes,
        is_edge: false,
    }
}

/// Signs `resource` as it stands, until `seconds` from [`NOW`].
fn token(key: &KeySigner, resource: &str, seconds: i64) -> String {
    let end = (NOW.as_secs()).saturating_add_signed(seconds);
    let signature = STANDARD.encode(key.sign_now(format!("{resource}\n{end}").as_bytes()));
    format!("SharedAccessSignature sr={resource}&sig={}&se={end}", url_encode(&signature))
}

struct Site {
    _folder: tempfile::TempDir,
    scope: Arc<Scope>,
    clock: Arc<StillClock>,
    authenticator: Authenticator,
}

impl Site {
    fn new(entries: Vec<ScopeEntry>) -> Self {
        let hosts = vec![HUB.into(), GATEWAY.into()];
        Self::by(entries, Policy { hosts, ..Policy::default() })
    }

    fn by(entries: Vec<ScopeEntry>, policy: Policy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let edge = DeviceId::parse("edge1").unwrap();
        let scope = Arc::new(Scope::load(folder.path().join("scope.json"), edge).0);
        let _ = scope.replace(entries, NOW);
        let clock = StillClock::at(NOW);
        let authenticator =
            Authenticator::new(TrustBundle::empty(), Arc::clone(&scope), clock.clone()).by(policy);
        Self { _folder: folder, scope, clock, authenticator }
    }

    fn admit(&self, who: &str, token: &str) -> Result<Admission, Refusal> {
        let claim = name(who);
        let password = Some(token.as_bytes());
        self.authenticator.authenticate(Attempt { claim: &claim, password, chain: &[] })
    }

    /// `Ok(identity)` or `Err((code, label))`.
    fn log_in(&self, who: &str, token: &str) -> Result<String, (u8, &'static str)> {
        self.admit(who, token).map(|admission| admission.identity.to_string()).map_err(|refusal| {
            assert!(refusal.detail.len() > 20, "a refusal has words: {refusal:?}");
            assert!(!refusal.detail.contains("sig="), "no part of a token: {refusal:?}");
            let is_listed = LABELS.contains(&refusal.label) || refusal.label.starts_with("sas_");
            assert!(is_listed, "the list of labels is closed: {refusal:?}");
            (refusal.code as u8, refusal.label)
        })
    }
}

fn no(label: &'static str) -> Result<String, (u8, &'static str)> {
    Err((5, label))
}

#[test]
fn a_device_logs_in_with_either_key_for_either_host() {
    let (first, second, other) = (key(), key(), key());
    let mut off = entry("off", keys(&first, None));
    off.status = Status::Disabled;
    let site = Site::new(vec![
        entry("d1", keys(&first, Some(&second))),
        entry("D2", keys(&first, None)),
        off,
        entry("ca", AuthKind::CertificateAuthority),
        entry("unread", AuthKind::Sas { keys: SymmetricKeys::default() }),
    ]);
    let own = |key: &KeySigner| token(key, "hub.example%2Fdevices%2Fd1", 60);
    let ok = Ok("d1".to_owned());
    for (case, who, token, expected) in [
        ("primary key", "d1", own(&first), ok.clone()),
        ("secondary key", "d1", own(&second), ok.clone()),
        ("C SDK, not encoded", "d1", token(&first, "hub.example/devices/d1", 60), ok.clone()),
        ("the gateway's name", "d1", token(&first, "gw.example/devices/d1", 60), ok.clone()),
        ("hosts without case", "d1", token(&first, "HUB.Example%2fdevices%2fd1", 60), ok.clone()),
        ("ids without case", "D2", token(&first, "hub.example/devices/d2", 60), Ok("D2".into())),
        ("over, within the skew", "d1", token(&first, "hub.example/devices/d1", -300), ok.clone()),
        ("over", "d1", token(&first, "hub.example/devices/d1", -301), no("sas_expired")),
        ("another key", "d1", own(&other), no("sas_signature")),
        ("another device's name", "D2", own(&first), no("sas_identity")),
        ("another hub", "d1", token(&first, "evil.example/devices/d1", 60), no("sas_audience")),
        (
            "a module's",
            "d1",
            token(&first, "hub.example/devices/d1/modules/m", 60),
            no("sas_identity"),
        ),
        ("the hub as a whole", "d1", token(&first, "hub.example", 60), no("sas_identity")),
        ("re-encoded", "d1", own(&first).replace("%2F", "/"), no("sas_signature")),
        ("with a policy", "d1", format!("{}&skn=iothubowner", own(&first)), no("sas_policy")),
        ("skn is empty", "d1", format!("{}&skn=", own(&first)), ok.clone()),
        ("disabled", "off", token(&first, "hub.example/devices/off", 60), no("disabled")),
        (
            "a certificate device",
            "ca",
            token(&first, "hub.example/devices/ca", 60),
            no("not_a_token_device"),
        ),
        ("unknown", "d9", token(&first, "hub.example/devices/d9", 60), no("not_in_scope")),
        (
            "keys not known",
            "unread",
            token(&first, "hub.example/devices/unread", 60),
            Err((3, "keys_unknown")),
        ),
        ("a word", "d1", "secret".to_owned(), no("sas_not_a_token")),
    ] {
        assert_eq!(site.log_in(who, &token), expected, "{case}");
    }
    let claim = name("d1");
    let bytes = Attempt { claim: &claim, password: Some(&[0xff, 0xfe]), chain: &[] };
    assert_eq!(site.authenticator.authenticate(bytes).unwrap_err().label, "sas_not_a_token");
    let refused = site.admit("d1", &token(&first, "evil.example/devices/d1", 60)).unwrap_err();
    assert!(
        refused.detail.contains("hub.example/devices/d1 or gw.example/devices/d1"),
        "{refused}"
    );
}

#[test]
fn a_module_logs_in_with_its_own_key_or_with_its_devices() {
    let (own, device, edge, other) = (key(), key(), key(), key());
    let mut off = entry("off", keys(&device, None));
    off.status = Status::Disabled;
    let mut edge_device = entry("edge1", keys(&edge, None));
    (edge_device.is_edge, edge_device.parent_scopes) = (true, Vec::new());
    let site = Site::new(vec![
        entry("d1", keys(&device, None)),
        entry("d1/m", keys(&own, None)),
        entry("d1/n", AuthKind::None),
        entry("d2", keys(&other, None)),
        entry("d2/m", keys(&own, None)),
        entry("ca", AuthKind::CertificateAuthority),
        entry("ca/m", keys(&own, None)),
        entry("ca/n", AuthKind::None),
        entry("off/m", keys(&own, None)),
        off,
        edge_device,
        entry("edge1/m", keys(&own, None)),
        entry("u", AuthKind::Sas { keys: SymmetricKeys::default() }),
        entry("u/m", keys(&own, None)),
    ]);
    let of = |key: &KeySigner, module: &str| {
        let (device, module) = module.split_once('/').unwrap();
        token(key, &format!("hub.example%2Fdevices%2F{device}%2Fmodules%2F{module}"), 60)
    };
    for (case, who, token, expected) in [
        ("its own key", "d1/m", of(&own, "d1/m"), Ok("d1/m".to_owned())),
        ("its device's key", "d1/m", of(&device, "d1/m"), Ok("d1/m".into())),
        (
            "its device's token",
            "d1/m",
            token(&device, "hub.example/devices/d1", 60),
            Ok("d1/m".into()),
        ),
        ("no key of its own", "d1/n", of(&device, "d1/n"), Ok("d1/n".into())),
        ("another device's key", "d1/m", of(&other, "d1/m"), no("sas_signature")),
        ("another module's name", "d1/m", of(&own, "d1/n"), no("sas_identity")),
        ("a module of another device", "d2/m", of(&device, "d2/m"), no("sas_signature")),
        ("its device has a certificate", "ca/m", of(&own, "ca/m"), Ok("ca/m".into())),
        ("nobody has a key", "ca/n", of(&own, "ca/n"), no("not_a_token_device")),
        ("its device is disabled", "off/m", of(&own, "off/m"), no("not_our_child")),
        ("of our own edge device", "edge1/m", of(&own, "edge1/m"), Ok("edge1/m".into())),
        ("by the edge device's key", "edge1/m", of(&edge, "edge1/m"), Ok("edge1/m".into())),
        ("not registered", "d1/x", of(&device, "d1/x"), no("not_in_scope")),
        ("its device's key is not known", "u/m", of(&device, "u/m"), Err((3, "keys_unknown"))),
        ("its own is", "u/m", of(&own, "u/m"), Ok("u/m".into())),
        (
            "a module's key for its device",
            "d1",
            token(&own, "hub.example/devices/d1", 60),
            no("sas_signature"),
        ),
    ] {
        assert_eq!(site.log_in(who, &token), expected, "{case}");
    }
}

#[test]
fn by_a_clock_that_is_wrong_no_token_is_refused_for_good() {
    let first = key();
    let site = Site::new(vec![entry("d1", keys(&first, None))]);
    let clock = StillClock::at(UnixMillis(1000));
    let authenticator =
        Authenticator::new(TrustBundle::empty(), Arc::clone(&site.scope), clock).not_before(NOW);
    let policy = Policy { hosts: vec![HUB.into()], ..Policy::default() };
    let site = Site { authenticator: authenticator.by(policy), ..site };
    let of = |seconds| token(&first, "hub.example/devices/d1", seconds);
    assert_eq!(site.log_in("d1", &of(60)), Ok("d1".into()), "good when the scope was stored");
    assert_eq!(site.log_in("d1", &of(-3600)), Err((3, "clock_not_set")));
    let wrong = token(&key(), "hub.example/devices/d1", 60);
    assert_eq!(site.log_in("d1", &wrong), no("sas_signature"), "no clock can help that");
}

#[test]
fn a_session_by_token_ends_with_its_key_or_its_registration() {
    let (first, second, own) = (key(), key(), key());
    let all = || vec![entry("d1", keys(&first, Some(&second))), entry("d1/m", keys(&own, None))];
    let site = Site::new(all());
    let of = |key: &KeySigner| token(key, "hub.example/devices/d1", 3600);
    let device = site.admit("d1", &of(&first)).unwrap();
    let by_device = token(&first, "hub.example/devices/d1/modules/m", 3600);
    let module = site.admit("d1/m", &by_device).unwrap();
    assert!(matches!(device.credential, Credential::Token { .. }));
    let standing = |admission: &Admission| {
        let now = site.authenticator.now();
        site.authenticator.judge_standing(admission, now).map_err(|refusal| refusal.label)
    };
    let mut gone = all();
    gone.remove(0);
    let mut off = all();
    off[0].status = Status::Disabled;
    let mut moved = all();
    moved[0].parent_scopes = vec!["ms-azure-iot-edge://other-1".into()];
    for (case, entries, of_device, of_module) in [
        ("nothing changed", all(), Ok(()), Ok(())),
        (
            "the other key was replaced",
            vec![entry("d1", keys(&first, Some(&key()))), entry("d1/m", keys(&own, None))],
            Ok(()),
            Ok(()),
        ),
        (
            "its key became the secondary one",
            vec![entry("d1", keys(&key(), Some(&first))), entry("d1/m", keys(&own, None))],
            Ok(()),
            Ok(()),
        ),
        (
            "its key was replaced",
            vec![entry("d1", keys(&key(), Some(&second))), entry("d1/m", keys(&own, None))],
            Err("key_replaced"),
            Err("key_replaced"),
        ),
        (
            "keys are not known after a restart",
            vec![
                entry("d1", AuthKind::Sas { keys: SymmetricKeys::default() }),
                entry("d1/m", AuthKind::Sas { keys: SymmetricKeys::default() }),
            ],
            Ok(()),
            Ok(()),
        ),
        (
            "another type",
            vec![entry("d1", AuthKind::CertificateAuthority), entry("d1/m", keys(&own, None))],
            Err("not_a_token_device"),
            Err("key_replaced"),
        ),
        ("disabled", off, Err("disabled"), Err("not_our_child")),
        ("another parent", moved, Err("not_our_child"), Err("not_our_child")),
        ("removed", gone, Err("not_in_scope"), Err("not_our_child")),
    ] {
        let _ = site.scope.replace(entries, NOW);
        assert_eq!(standing(&device), of_device, "{case}");
        assert_eq!(standing(&module), of_module, "{case}, the module");
        let kept = site.authenticator.still_admits(&device);
        assert!(kept || of_device.is_err(), "{case}");
    }
}

#[test]
fn a_module_with_keys_of_its_own_waits_for_none_that_its_device_does_not_have() {
    let (own, next, device) = (key(), key(), key());
    let none = |is_told| AuthKind::Sas { keys: SymmetricKeys { is_told, ..Default::default() } };
    let of = |key: &KeySigner| token(key, "hub.example/devices/d1/modules/m", 3600);
    let all = |auth, own: &KeySigner| vec![entry("d1", auth), entry("d1/m", keys(own, None))];
    for (case, auth, wrong) in [
        ("the hub has none for the device", none(true), no("sas_signature")),
        ("they are sealed, or have not come", none(false), Err((3, "keys_unknown"))),
        ("they are there", keys(&device, None), no("sas_signature")),
    ] {
        let site = Site::new(all(auth.clone(), &own));
        assert_eq!(site.log_in("d1/m", &of(&key())), wrong, "{case}");
        let session = site.admit("d1/m", &of(&own)).unwrap();
        let standing = || {
            let now = site.authenticator.now();
            site.authenticator.judge_standing(&session, now).map_err(|refusal| refusal.label)
        };
        assert_eq!(standing(), Ok(()), "{case}");
        let _ = site.scope.replace(all(auth, &next), NOW);
        assert_eq!(standing(), Err("key_replaced"), "{case}");
        let _ = site.scope.replace(all(keys(&own, None), &next), NOW);
        assert_eq!(
            standing(),
            Err("key_replaced"),
            "{case}: the device has it now, the module not"
        );
    }
    // Its own keys are not known: they might have signed.
    let site = Site::new(vec![entry("d1", none(true)), entry("d1/m", none(false))]);
    assert_eq!(site.log_in("d1/m", &of(&own)), Err((3, "keys_unknown")));
}

#[test]
fn a_session_by_token_ends_with_the_token() {
    let first = key();
    let site = Site::new(vec![entry("d1", keys(&first, None))]);
    let token = token(&first, "hub.example/devices/d1", 3600);
    let device = site.admit("d1", &token).unwrap();
    let standing = |admission: &Admission| {
        let now = site.authenticator.now();
        site.authenticator.judge_standing(admission, now).map_err(|refusal| refusal.label)
    };
    let end = site.authenticator.next_token_end_secs(&[Arc::new(device.clone())]);
    assert_eq!(end, Some(NOW.as_secs() + 3600 + 300));
    site.clock.pass(Duration::from_secs(3900));
    assert_eq!(standing(&device), Ok(()), "within the skew");
    site.clock.pass(Duration::from_secs(1));
    assert_eq!(standing(&device), Err("sas_expired"));
    assert_eq!(site.admit("d1", &token).unwrap_err().code, RefusalCode::NotAuthorized);
}

#[test]
fn a_token_for_somebody_else_is_told_what_it_names_and_what_it_is_to_name() {
    let first = key();
    let site = Site::by(
        vec![entry("d1", keys(&first, None))],
        Policy { hosts: vec![HUB.into(), "Hub.Example".into()], ..Policy::default() },
    );
    let long = format!("{}/devices/d2", "h".repeat(1000));
    for (case, resource, named) in [
        ("host", "evil.example/devices/d1", "it names evil.example;"),
        ("host, encoded", "evil.example%2Fdevices%2Fd1", "it names evil.example;"),
        ("identity", "hub.example/devices/d2", "it names hub.example/devices/d2;"),
        ("encoded twice", "hub.example%2Fdevices%2Fa%252Bb", "it names hub.example/devices/a+b;"),
        ("the hub", HUB, "it names hub.example;"),
        ("no text", "hub.example%0A%1b[31m", "it names hub.example\\n\\u{1b}[31m;"),
        ("hidden parts", "hub.example%26sig%3DAAAA", "it names hub.example;"),
        ("hidden twice", "hub.example%2526sig%253DAAAA", "it names hub.example;"),
        ("long", &*long, "it names hhhh"),
    ] {
        let refusal = site.admit("d1", &token(&first, resource, 60)).unwrap_err();
        let detail = refusal.detail;
        assert!(detail.contains(named) && !detail.contains("AAAA"), "{case}: {detail}");
        assert!(detail.ends_with("; make it for hub.example/devices/d1"), "{case}: {detail}");
        assert!(detail.len() < 500, "{case}: {detail}");
    }
}
