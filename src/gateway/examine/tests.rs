//! What findings mean, with a clock that stands and certificates made for it. (The whole, with the binary: `tests/it/check.rs`.)

use std::path::Path;
use std::sync::Arc;

use super::{Site, certificate, examine, hub};
use crate::auth::testing::{NOW, StillClock, ders, valid, window};
use crate::auth::x509::testing::{pem as pem_of, revocation_list};
use crate::certs::{Authority, Curve};
use crate::clock::UnixMillis;
use crate::command::check::{Finding, Group, Status};
use crate::config::{Config, MapEnv};
use crate::desired::Desired;
use crate::desired::last_good::LastGood;
use crate::front::tls::ServerIdentity;
use crate::identity::DeviceId;

fn bad(found: &[Finding]) -> Vec<(&str, Status)> {
    found.iter().filter(|f| f.status != Status::Ok).map(|f| (f.id, f.status)).collect()
}

#[test]
fn the_hub_s_clock_judges_ours() {
    let check = |off: i64, expected: Status, part: &str| {
        let hub = Ok(UnixMillis(NOW.0.saturating_add_signed(off * 1000)));
        let found = hub::clock(hub, NOW);
        assert_eq!(found.status, expected, "{off}");
        assert!(found.what.contains(part), "{found:?}");
    };
    check(0, Status::Ok, "within 30 s");
    check(-29, Status::Ok, "within 30 s");
    check(30, Status::Warning, "30 s behind");
    check(-299, Status::Warning, "299 s ahead of");
    check(300, Status::Error, "300 s behind");
    check(-86_400, Status::Error, "86400 s ahead of");
    let unknown = hub::clock(Err("no answer".into()), NOW);
    assert_eq!((unknown.status, unknown.group), (Status::Skipped, Group::Clock));
}

#[test]
fn the_server_s_certificate_is_judged_for_the_site() {
    const DAY: i64 = 86_400;
    let always = window(-DAY, 4000 * DAY);
    let root = Authority::root("Root", Curve::P256, always).unwrap();
    let ca = root.intermediate("Edge", Curve::P256, always).unwrap();
    let check = |name: &str, days: (i64, i64), is_renewed: bool, expected: &[(&str, Status)]| {
        let issued = ca.issue_server(&[name], &[], window(days.0 * DAY, days.1 * DAY)).unwrap();
        let (chain, key) = (issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
        let identity = ServerIdentity::from_pem(chain, key, "gw.example", NOW).unwrap();
        let bundle = &ders(root.certificate_pem());
        let found = certificate::server(&identity, bundle, NOW, is_renewed);
        assert_eq!(bad(&found), expected, "{found:#?}");
        let of_root = found.iter().find(|f| f.id == "certificate-root").unwrap();
        assert!(of_root.what.contains("bytes in PEM"), "it is in the bundle: {of_root:?}");
    };
    check("gw.example", (-1, 90), false, &[]);
    // A new one of 30 days is fine, one of a year is not at that age.
    check("gw.example", (-1, 29), false, &[]);
    check("gw.example", (-336, 29), false, &[("certificate-validity", Status::Warning)]);
    check("gw.example", (-336, 29), true, &[]);
    check("gw.example", (-9, -1), true, &[("certificate-validity", Status::Error)]);
    check("gw.example", (1, 90), false, &[("certificate-validity", Status::Error)]);
    check("x.example", (-1, 90), false, &[("certificate-name", Status::Error)]);
}

#[test]
fn the_bundle_is_judged_entry_by_entry() {
    let pem = |name: &str, from: i64, to: i64| {
        let ca = Authority::root(name, Curve::P256, window(from * 86_400, to * 86_400)).unwrap();
        ca.certificate_pem().to_owned()
    };
    let (good, soon) = (pem("Good", -1, 400), pem("Soon", -30, 10));
    let (old, new) = (pem("Old", -9, -1), pem("New", 1, 400));
    let entry = ("bundle-entry", Status::Warning);
    let check = |parts: &[&str], expected: &[(&str, Status)]| {
        let found = certificate::daemon_bundle(parts.concat().as_bytes(), NOW);
        assert_eq!(bad(&found), expected, "{found:#?}");
    };
    check(&[&good], &[]);
    check(&[&good, &soon], &[entry]);
    check(&[&good, &old, &new], &[entry, entry]);
    check(&[&old], &[entry, ("bundle", Status::Error)]);
    check(&[&good, "-----BEGIN X-----\n"], &[("bundle-refused", Status::Warning)]);
    // Twice is no fault; a key is one.
    check(&[&good, &good], &[]);
    let key = pem_of("PRIVATE KEY", b"secret");
    check(&[&good, &key], &[("bundle-refused", Status::Error)]);
    check(&[], &[("bundle", Status::Error)]);
    // Lists: one that counts, one that is old, one of a namesake.
    let ca = |window| Authority::root("Lists", Curve::P256, window).unwrap();
    let (of, namesake) = (ca(window(-86_400, 4000 * 86_400)), ca(valid()));
    let list = |ca: &Authority, life| pem_of("X509 CRL", &revocation_list(ca, &[&[7]], life));
    let (now, old, forged) =
        (list(&of, valid()), list(&of, window(-900, -10)), list(&namesake, valid()));
    let revocation = ("bundle-revocation", Status::Warning);
    check(&[of.certificate_pem(), &now], &[]);
    check(&[of.certificate_pem(), &old], &[revocation]);
    check(&[of.certificate_pem(), &forged], &[revocation]);
    let gone = certificate::bundle_files(&["/gone".into()], NOW);
    assert!(gone.is_refused);
    assert_eq!(bad(&gone.findings), [("bundle", Status::Error)]);
}

#[tokio::test]
async fn without_a_configuration_the_rest_is_looked_at_and_a_clock_of_1970_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let env = MapEnv::default()
        .with("StorageFolder", folder.path().display().to_string())
        .with("metrics__listener__MetricsEnabled", "false");
    let at_boot = StillClock::at(UnixMillis(86_400_000));
    let report = examine(&env, Arc::clone(&at_boot) as _, Path::new("/")).await;
    assert_eq!(report.exit_status(), 64);
    let status = |id: &str| {
        let found = report.findings.iter().find(|f| f.id == id);
        found.unwrap_or_else(|| panic!("no {id} in {:#?}", report.findings)).status
    };
    assert_eq!(status("configuration"), Status::Error);
    assert_eq!(status("clock-year"), Status::Error);
    assert_eq!(status("storage-writable"), Status::Ok);
    for id in ["daemon-socket", "certificate-chain", "bundle", "upstream-name", "scope", "routes"] {
        assert_eq!(status(id), Status::Skipped, "{id}");
    }
    at_boot.set(valid().not_before);
    let report = examine(&env, at_boot, Path::new("/")).await;
    assert!(report.findings.iter().any(|f| f.id == "clock-year" && f.status == Status::Ok));
}

/// What of the routes is told in twin mode, and the limit of the store that counts.
fn routes_of_twin(folder: &Path) -> (Vec<Finding>, Option<u64>) {
    std::fs::write(folder.join("pem"), "").unwrap();
    let pem = folder.join("pem").display().to_string();
    let connection = "HostName=h.net;DeviceId=edge1;ModuleId=$edgeHub;SharedAccessKey=a2V5";
    let env = MapEnv::default()
        .with("IotHubConnectionString", connection)
        .with("EdgeDeviceHostName", "gw")
        .with("EdgeHubDevServerCertificateFile", &*pem)
        .with("EdgeHubDevServerPrivateKeyFile", &*pem)
        .with("EdgeHubDevTrustBundleFile", &*pem)
        .with("StorageFolder", folder.display().to_string());
    let config = Config::read(&env).unwrap();
    assert!(config.twin.is_some(), "without a file the twin decides");
    let mut site = Site {
        config: None,
        clock: StillClock::at(NOW),
        root: "/".into(),
        is_refused: false,
        findings: Vec::new(),
    };
    let limit = site.routes(&config);
    (site.findings, limit)
}

#[test]
fn in_twin_mode_the_document_that_is_kept_is_judged_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (found, limit) = routes_of_twin(folder.path());
    assert_eq!((found.len(), found[0].status, limit), (1, Status::Ok, None), "{found:#?}");
    let before = "no document was kept yet: until the twin is read, everything goes upstream";
    assert_eq!(found[0].what, before);

    let text = r#"{"schemaVersion": "1.1", "$version": 7,
        "routes": {"good": "FROM /messages/* INTO $upstream", "bad": "FROM nowhere"},
        "storeAndForwardConfiguration": {"timeToLiveSecs": 60, "storeLimits": {"maxSizeBytes": 123456789}}}"#;
    let kept = folder.path().join("edgeHub/desired-twin.json");
    let (mut last_good, _) = LastGood::load(&kept, DeviceId::parse("edge1").unwrap());
    last_good.keep(text, &Desired::parse(text).unwrap(), NOW).unwrap();
    let on_disk = std::fs::read(&kept).unwrap();
    let (found, limit) = routes_of_twin(folder.path());
    assert_eq!(bad(&found), [("routes-set-aside", Status::Error)], "{found:#?}");
    let words = "1 route and 1 set aside, from the twin's last good document";
    assert!(found[0].what.starts_with(words), "{found:#?}");
    assert!(found[1].what.contains("bad"), "{found:#?}");
    assert_eq!(limit, Some(123_456_789), "it is the store's");
    assert_eq!(std::fs::read(&kept).unwrap(), on_disk);

    std::fs::write(&kept, "damaged").unwrap();
    let (found, _) = routes_of_twin(folder.path());
    assert_eq!(bad(&found), [("routes", Status::Warning)], "{found:#?}");
    assert!(found[0].what.contains("everything goes upstream"), "{found:#?}");
    assert_eq!(std::fs::read(&kept).unwrap(), b"damaged");
    assert_eq!(std::fs::read_dir(kept.parent().unwrap()).unwrap().count(), 1);
}
