//! Leafs of 24 hours against outages of 25 hours, 72 hours and 14 days.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;

use super::*;
use crate::auth::testing::{NOW, StillClock, ders, revoking, window};
use crate::auth::{
    Admission, Attempt, AuthKind, Authenticator, Credential, Scope, ScopeEntry, Status, TrustBundle,
};
use crate::certs::{Authority, Curve, Window};
use crate::identity::{ClientName, DeviceId};

const HOUR: Duration = Duration::from_secs(3600);
const DAY_SECS: i64 = 86_400;
const OURS: &str = "ms-azure-iot-edge://edge1-1";

fn id(text: &str) -> DeviceId {
    DeviceId::parse(text).unwrap()
}

fn edge() -> DeviceId {
    id("edge1")
}

fn tenant(name: &str) -> Authority {
    Authority::root(name, Curve::P384, window(-DAY_SECS, 700 * DAY_SECS)).unwrap()
}

fn bundle_of(cas: &[&Authority]) -> TrustBundle {
    let pem: String = cas.iter().map(|ca| ca.certificate_pem()).collect();
    TrustBundle::from_bytes("t", pem.as_bytes()).unwrap()
}

/// A gateway whose hub was just reached, at [`NOW`].
struct Site {
    folder: tempfile::TempDir,
    tenant: Authority,
    clock: Arc<StillClock>,
    policy: Policy,
    authenticator: Authenticator,
}

impl Site {
    fn new(grace: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tenant = tenant("Tenant");
        let clock = StillClock::at(NOW);
        let policy = Policy { expired_leaf_grace: grace, ..Policy::default() };
        let authenticator = start(&folder, &tenant, &clock, &policy);
        let entries = ["d1", "d2"].map(|id| entry(id, Status::Enabled));
        let _ = authenticator.scope.replace(entries.into(), NOW);
        authenticator.hub_is_reached(true);
        Self { folder, tenant, clock, policy, authenticator }
    }

    /// 24 hours from [`NOW`] on.
    fn leaf(&self, cn: &str) -> Vec<CertificateDer<'static>> {
        ders(&self.tenant.issue_client(cn, window(0, DAY_SECS)).unwrap().leaf_pem)
    }

    fn log_in(&self, who: &str, chain: &[CertificateDer<'_>]) -> Result<Admission, &'static str> {
        let claim = ClientName::Device(id(who));
        let attempt = Attempt { claim: &claim, password: None, chain };
        self.authenticator.authenticate(attempt).map_err(|refusal| refusal.label)
    }

    /// By what it was let in.
    fn label(&self, who: &str, chain: &[CertificateDer<'_>]) -> Result<&'static str, &'static str> {
        self.log_in(who, chain).map(|admission| admission.credential.label())
    }

    fn standing(&self, admission: &Admission) -> Result<(), &'static str> {
        let now = self.authenticator.now();
        self.authenticator.judge_standing(admission, now).map_err(|refusal| refusal.label)
    }

    fn outage(&self, lasts: Duration) {
        self.authenticator.hub_is_reached(false);
        self.clock.pass(lasts);
    }

    /// The process ends (or the power goes) and begins again, with the same folder and clock.
    fn restart(&mut self) {
        self.authenticator = start(&self.folder, &self.tenant, &self.clock, &self.policy);
    }
}

fn start(
    folder: &tempfile::TempDir,
    tenant: &Authority,
    clock: &Arc<StillClock>,
    policy: &Policy,
) -> Authenticator {
    let scope = Arc::new(Scope::load(folder.path().join("scope.json"), edge()).0);
    let (ledger, loaded) = Ledger::load(folder.path().join("seen.json"), edge());
    assert!(!matches!(loaded, LedgerLoaded::SetAside(..)), "{loaded:?}");
    let authenticator = Authenticator::new(bundle_of(&[tenant]), scope, clock.clone());
    authenticator.by(policy.clone()).with_ledger(ledger)
}

fn entry(id: &str, status: Status) -> ScopeEntry {
    ScopeEntry {
        name: ClientName::Device(DeviceId::parse(id).unwrap()),
        generation: "1".into(),
        status,
        auth: AuthKind::CertificateAuthority,
        scope: OURS.into(),
        parent_scopes: vec![OURS.into()],
        is_edge: false,
    }
}

#[test]
fn a_live_session_outlasts_any_outage_and_a_reconnect_as_long_as_the_grace() {
    let days = |days: u64| Duration::from_secs(days * 86_400);
    for (grace, outage, returns) in [
        (Duration::ZERO, 25 * HOUR, Err("expired")),
        (Duration::ZERO, 72 * HOUR, Err("expired")),
        (Duration::ZERO, days(14), Err("expired")),
        (HOUR, 25 * HOUR, Ok("grace")),
        (HOUR, 25 * HOUR + Duration::from_secs(1), Err("expired")),
        (days(3), 72 * HOUR, Ok("grace")),
        (days(3), 97 * HOUR, Err("expired")),
        (days(14), days(14), Ok("grace")),
        (days(14), days(15) + HOUR, Err("expired")),
    ] {
        let site = Site::new(grace);
        let leaf = site.leaf("d1");
        let live = site.log_in("d1", &leaf).unwrap();
        site.outage(outage);
        let case = format!("grace {grace:?}, outage {outage:?}");
        assert_eq!(site.standing(&live), Ok(()), "{case}");
        assert_eq!(site.label("d1", &leaf), returns, "{case}");

        // The hub is back: half an hour to renew.
        site.authenticator.hub_is_reached(true);
        assert_eq!(site.label("d1", &leaf), Err("expired"), "{case}: no grace without an outage");
        site.clock.pass(site.policy.renewal_time);
        assert_eq!(site.standing(&live), Ok(()), "{case}");
        site.clock.pass(Duration::from_secs(1));
        assert_eq!(site.standing(&live), Err("expired"), "{case}");
    }
}

#[test]
fn while_the_hub_is_reached_a_session_has_the_time_to_renew_after_its_leaf_ends() {
    let site = Site::new(Duration::ZERO);
    let live = site.log_in("d1", &site.leaf("d1")).unwrap();
    site.clock.pass(24 * HOUR + site.policy.renewal_time);
    assert_eq!(site.standing(&live), Ok(()));
    site.clock.pass(Duration::from_secs(1));
    assert_eq!(site.standing(&live), Err("expired"));
    // It begins again with an outage, and with the end of that.
    site.outage(HOUR);
    assert_eq!(site.standing(&live), Ok(()));
    site.authenticator.hub_is_reached(true);
    assert_eq!(site.standing(&live), Ok(()));
}

#[test]
fn an_uplink_that_flaps_keeps_no_ended_leaf() {
    let second = Duration::from_secs(1);
    let away_after = Policy::default().away_after;
    // Every 29 minutes it breaks for so long; the leaf has ended in round 50, and in round 51 the time to renew, if the
    // rounds count together.
    for (breaks_for, leaves) in [(second, true), (away_after - second, true), (away_after, false)] {
        let site = Site::new(Duration::ZERO);
        let live = site.log_in("d1", &site.leaf("d1")).unwrap();
        let mut left = None;
        for round in 1..=60 {
            site.clock.pass(Duration::from_secs(29 * 60));
            site.outage(breaks_for);
            assert_eq!(
                site.standing(&live),
                Ok(()),
                "{breaks_for:?}: while it is away nobody leaves"
            );
            site.authenticator.hub_is_reached(true);
            if site.standing(&live).is_err() {
                left = Some(round);
                break;
            }
        }
        assert_eq!(left, leaves.then_some(51), "breaks for {breaks_for:?}");
    }
}

#[test]
fn grace_is_for_this_device_with_this_key_by_this_ca_and_in_an_outage_alone() {
    let site = Site::new(14 * 24 * HOUR);
    let known = site.leaf("d1");
    assert_eq!(site.label("d1", &known), Ok("certificate_authority"));
    let other_key = site.leaf("d1");
    let stranger = site.leaf("d2");
    let other_ca = tenant("Tenant");
    let forged = ders(&other_ca.issue_client("d1", window(0, DAY_SECS)).unwrap().leaf_pem);
    site.clock.pass(25 * HOUR);
    assert_eq!(site.label("d1", &known), Err("expired"), "the hub is reached");
    site.outage(site.policy.away_after - Duration::from_secs(1));
    assert_eq!(site.label("d1", &known), Err("expired"), "a reconnect of ours is no outage");
    site.clock.pass(Duration::from_secs(1));
    assert_eq!(site.label("d1", &known), Ok("grace"));
    assert_eq!(site.label("d1", &other_key), Err("expired"), "another key");
    assert_eq!(site.label("d2", &stranger), Err("expired"), "never seen");
    assert_eq!(site.label("d2", &known), Err("expired"), "never seen by this name");
    let forged = site.label("d1", &forged).unwrap_err();
    assert!(["unknown_ca", "bad_signature", "expired"].contains(&forged), "{forged}");

    // Who came in by grace proves nothing new, stays in the outage, and leaves after it.
    let live = site.log_in("d1", &known).unwrap();
    assert!(matches!(live.credential, Credential::CertificateAuthority { by_grace: true, .. }));
    site.clock.pass(20 * 24 * HOUR);
    assert_eq!(site.standing(&live), Ok(()));
    let off = vec![entry("d1", Status::Disabled), entry("d2", Status::Enabled)];
    let _ = site.authenticator.scope.replace(off, NOW);
    assert_eq!(site.standing(&live), Err("disabled"), "grace spares nothing else");
}

#[test]
fn a_tenant_ca_may_be_rotated_within_an_outage() {
    let site = Site::new(72 * HOUR);
    let leaf = site.leaf("d1");
    let live = site.log_in("d1", &leaf).unwrap();
    let new = tenant("Tenant 2");
    site.outage(30 * HOUR);
    site.authenticator.replace_bundle(bundle_of(&[&new, &site.tenant]));
    assert_eq!((site.standing(&live), site.label("d1", &leaf)), (Ok(()), Ok("grace")));
    // The old one is taken out: what only it vouched for is gone, in an outage or not.
    site.authenticator.replace_bundle(bundle_of(&[&new]));
    assert_eq!(site.standing(&live), Err("unknown_ca"));
    assert!(site.label("d1", &leaf).is_err());
    let renewed = ders(&new.issue_client("d1", window(0, 3 * DAY_SECS)).unwrap().leaf_pem);
    assert_eq!(site.label("d1", &renewed), Ok("certificate_authority"));
}

/// The same CA (name and key) with a new certificate.
fn renewed(ca: &Authority, window: Window) -> String {
    let key = rcgen::KeyPair::from_pem(&ca.key_pem()).unwrap();
    let info = CertificateInfo::read(&ders(ca.certificate_pem())[0]).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, info.common_name.unwrap());
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let at =
        |time: UnixMillis| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(time.as_secs());
    (params.not_before, params.not_after) = (at(window.not_before), at(window.not_after));
    params.self_signed(&key).unwrap().pem()
}

#[test]
fn a_ca_that_was_renewed_after_a_leaf_had_ended_spares_it_as_the_old_one_did() {
    let site = Site::new(72 * HOUR);
    let leaf = site.leaf("d1");
    let live = site.log_in("d1", &leaf).unwrap();
    site.outage(30 * HOUR);
    assert_eq!((site.standing(&live), site.label("d1", &leaf)), (Ok(()), Ok("grace")));
    let hours = |hours: i64| hours * 3600;
    let (old, stranger) = (site.tenant.certificate_pem().to_owned(), tenant("Tenant"));
    let of = |ca: &Authority, from, to| renewed(ca, window(hours(from), hours(to)));
    let new = of(&site.tenant, 26, 9000);
    let same = (Ok(()), Ok("grace"));
    for (case, pem, expected) in [
        ("in its place", new.clone(), same),
        ("beside it", [new.clone(), old.clone()].concat(), same),
        ("beside it, after it", [old, new].concat(), same),
        ("not valid yet", of(&site.tenant, 31, 9000), (Err("ca_not_valid"), Err("expired"))),
        ("ended already", of(&site.tenant, 26, 29), (Err("ca_not_valid"), Err("expired"))),
        ("another key", of(&stranger, 26, 9000), (Err("bad_signature"), Err("expired"))),
    ] {
        let bundle = TrustBundle::from_bytes("t", pem.as_bytes()).unwrap();
        site.authenticator.replace_bundle(bundle);
        assert_eq!((site.standing(&live), site.label("d1", &leaf)), expected, "{case}");
    }
}

#[test]
fn a_ca_that_ended_within_the_outage_grants_no_grace() {
    let mut site = Site::new(72 * HOUR);
    site.tenant = Authority::root("Short", Curve::P256, window(-10, DAY_SECS + 3600)).unwrap();
    site.restart();
    site.authenticator.hub_is_reached(true);
    let leaf = site.leaf("d1");
    assert_eq!(site.label("d1", &leaf), Ok("certificate_authority"));
    site.outage(24 * HOUR + HOUR / 2);
    assert_eq!(site.label("d1", &leaf), Ok("grace"));
    site.clock.pass(HOUR);
    assert!(site.label("d1", &leaf).is_err());
}

/// Grace spares a leaf its end and nothing else: a list that comes into the folder while the hub is away counts for who comes
/// back and for who is there, and goes on counting when it is stale.
#[test]
fn a_revoked_leaf_has_no_grace() {
    let site = Site::new(72 * HOUR);
    let (leaf, other) = (site.leaf("d1"), site.leaf("d2"));
    let (live, before) = (site.log_in("d1", &leaf).unwrap(), site.log_in("d2", &other).unwrap());
    site.outage(25 * HOUR);
    let by_grace = site.log_in("d1", &leaf).unwrap();
    assert_eq!(by_grace.credential.label(), "grace");
    let of = |list: String| {
        let pem = format!("{}{list}", site.tenant.certificate_pem());
        TrustBundle::from_bytes("t", pem.as_bytes()).unwrap()
    };
    let stranger = tenant("Tenant");
    for (case, list, expected, returns) in [
        ("another leaf", revoking(&site.tenant, &[&other[0]]), Ok(()), Ok("grace")),
        ("nobody's list", revoking(&stranger, &[&leaf[0]]), Ok(()), Ok("grace")),
        ("it", revoking(&site.tenant, &[&leaf[0]]), Err("revoked"), Err("revoked")),
    ] {
        site.authenticator.replace_bundle(of(list));
        for session in [&live, &by_grace] {
            assert_eq!(site.standing(session), expected, "{case}");
        }
        assert_eq!(site.label("d1", &leaf), returns, "{case}");
        assert_eq!(site.standing(&before).is_err(), case == "another leaf", "{case}");
    }
    site.clock.pass(40 * HOUR);
    assert_eq!(site.label("d1", &leaf), Err("revoked"), "the list is stale now");
    assert_eq!(site.label("d2", &other), Ok("grace"));
}

#[test]
fn a_gateway_that_restarts_within_an_outage_remembers_who_it_let_in() {
    let mut site = Site::new(72 * HOUR);
    let leaf = site.leaf("d1");
    site.log_in("d1", &leaf).unwrap();
    site.authenticator.save_ledger().unwrap();
    site.outage(30 * HOUR);
    site.restart();
    assert_eq!(site.label("d1", &leaf), Err("expired"), "the hub may still answer");
    site.clock.pass(site.policy.away_after);
    assert_eq!(site.label("d1", &leaf), Ok("grace"));
    // What was not written down is not known.
    std::fs::remove_file(site.folder.path().join("seen.json")).unwrap();
    site.restart();
    site.clock.pass(HOUR);
    assert_eq!(site.label("d1", &leaf), Err("expired"));
}

#[test]
fn a_ledger_keeps_what_a_grace_can_serve_and_is_set_aside_when_it_is_damaged() {
    let site = Site::new(72 * HOUR);
    site.log_in("d1", &site.leaf("d1")).unwrap();
    site.log_in("d2", &site.leaf("d2")).unwrap();
    let path = site.folder.path().join("seen.json");
    site.authenticator.save_ledger().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"d1\"") && text.contains("\"d2\""), "{text}");
    let _ = site.authenticator.scope.replace(vec![entry("d2", Status::Enabled)], NOW);
    site.authenticator.save_ledger().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("\"d1\"") && text.contains("\"d2\""), "no longer ours: {text}");
    site.clock.pass(16 * 24 * HOUR);
    site.authenticator.save_ledger().unwrap();
    assert!(!std::fs::read_to_string(&path).unwrap().contains("\"d2\""), "too old for any grace");

    for damage in [
        "{",
        r#"{"version":2}"#,
        r#"{"version":1,"edge":"other","leafs":[]}"#,
        r#"{"version":1,"edge":"edge1","leafs":[{"device":"d","key":"xyz","ca":"","not_after_ms":1}]}"#,
    ] {
        std::fs::write(&path, damage).unwrap();
        let (ledger, loaded) = Ledger::load(&path, edge());
        let LedgerLoaded::SetAside(_, Some(to)) = loaded else { panic!("{damage}: {loaded:?}") };
        assert_eq!(std::fs::read_to_string(to).unwrap(), damage, "nothing is deleted");
        assert_eq!(ledger.ends(), []);
    }
}

/// Letter for letter: a gateway that is updated knows whom the older one let in.
#[test]
fn the_ledger_s_file_is_read_and_written_as_ever() {
    let (ones, twos) = ("01".repeat(32), "0a".repeat(32));
    let stored = format!(
        r#"{{"version":1,"edge":"edge1","leafs":[{{"device":"d1","key":"{ones}","ca":"{twos}","not_after_ms":1700000000000}}]}}"#
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seen.json");
    std::fs::write(&path, &stored).unwrap();
    let (ledger, loaded) = Ledger::load(&path, edge());
    assert_eq!(loaded, LedgerLoaded::Devices(1));
    assert!(ledger.knows(&id("d1"), &[1; 32], &[10; 32]));
    let end = UnixMillis(1_700_000_000_000);
    assert_eq!(ledger.ends(), [(id("d1"), end)]);
    let seen = |end| Seen { key_sha256: [1; 32], ca_sha256: [10; 32], not_after: end };
    ledger.note(&id("d1"), seen(UnixMillis(0)));
    ledger.note(&id("d1"), seen(end));
    ledger.save().unwrap();
    let summed = stored.replace("}]}", r#"}],"file_crc32c":"4ddc8203"}"#);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), summed);

    let big = "x".repeat(16 * 1024 * 1024 + 1);
    for (damaged, words) in [
        ("{}", "it is no ledger: missing field `version` at line 1 column 2"),
        (r#"{"version":1}"#, "it is no ledger: missing field `edge` at line 1 column 13"),
        (r#"{"version":2}"#, "it has version 2; this program reads version 1"),
        (
            r#"{"version":1,"edge":"other","leafs":[]}"#,
            r#"it is the ledger of edge device "other""#,
        ),
        (&stored.replace("01", "0x"), "an entry of it is damaged"),
        (&big, "it has 16777217 bytes; 16777216 are allowed"),
    ] {
        std::fs::write(&path, damaged).unwrap();
        let LedgerLoaded::SetAside(why, Some(_)) = Ledger::load(&path, edge()).1 else {
            panic!("{words}")
        };
        assert_eq!(why, words);
    }
    // What cannot be read at all may heal.
    std::fs::create_dir(&path).unwrap();
    let loaded = Ledger::load(&path, edge()).1;
    let why = "it cannot be read: Is a directory (os error 21)".to_owned();
    assert_eq!(loaded, LedgerLoaded::SetAside(why, None));
    assert!(path.is_dir());
}

#[test]
fn a_full_ledger_gives_up_what_ends_first() {
    let ledger = Ledger::default();
    let seen =
        |end: u64| Seen { key_sha256: [1; 32], ca_sha256: [2; 32], not_after: UnixMillis(end) };
    for n in 0..DEVICES_MAX as u64 {
        ledger.note(&id(&format!("d{n}")), seen(1000 + n));
    }
    ledger.note(&id("new"), seen(5));
    ledger.note(&id("d7"), seen(6));
    assert_eq!(ledger.ends().len(), DEVICES_MAX);
    assert!(!ledger.knows(&id("d0"), &[1; 32], &[2; 32]), "it ended first");
    let knows = |device: &str| ledger.knows(&id(device), &[1; 32], &[2; 32]);
    assert!(knows("new") && knows("d7"));
}

#[test]
fn the_horizon_counts_each_device_once_by_its_latest_leaf_and_the_grace() {
    let at = |hours: i64| window(0, hours * 3600).not_after;
    let ends = || {
        [("gone", -1), ("soon", 1), ("today", 20), ("later", 40), ("soon", -5), ("later", 2)]
            .map(|(device, hours)| (id(device), at(hours)))
    };
    let horizon = Horizon::of(ends(), Duration::ZERO, NOW);
    let expected = Horizon {
        devices: 4,
        expired: 1,
        within_hour: 1,
        within_day: 2,
        next: Some((at(1), id("soon"))),
    };
    assert_eq!(horizon, expected);
    let text = horizon.to_string();
    for part in ["4 devices", "1 have ended", "1 end within an hour", "2 within a day", "soon"] {
        assert!(text.contains(part), "{text}");
    }
    let horizon = Horizon::of(ends(), 2 * HOUR, NOW);
    assert_eq!((horizon.expired, horizon.within_hour, horizon.within_day), (0, 1, 3));
    assert!(!Horizon::of([], HOUR, NOW).is_near());
}

#[test]
fn the_horizon_is_of_those_who_are_here_and_those_who_were() {
    let site = Site::new(Duration::ZERO);
    let live = Arc::new(site.log_in("d1", &site.leaf("d1")).unwrap());
    site.log_in("d2", &site.leaf("d2")).unwrap();
    let horizon = site.authenticator.horizon(&[live]);
    assert_eq!((horizon.devices, horizon.expired, horizon.within_day), (2, 0, 2));
    assert!(!site.authenticator.is_hub_away());
    site.outage(25 * HOUR);
    let horizon = site.authenticator.horizon(&[]);
    assert_eq!((horizon.devices, horizon.expired, horizon.next), (2, 2, None));
    assert!(site.authenticator.is_hub_away());
}

#[test]
fn the_horizon_goes_by_the_grace_that_is_configured() {
    for (grace, expected) in [(Duration::ZERO, (0, 1)), (2 * HOUR, (0, 0))] {
        let site = Site::new(grace);
        let live = Arc::new(site.log_in("d1", &site.leaf("d1")).unwrap());
        let horizon = site.authenticator.horizon(&[live]);
        assert_eq!((horizon.expired, horizon.within_day), expected, "a grace of {grace:?}");
    }
}
