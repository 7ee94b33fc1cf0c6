//! What findings mean, with a clock that stands and certificates made for it. (The whole, with the binary: `tests/it/check.rs`.)

use std::path::Path;
use std::sync::Arc;

use super::{certificate, examine, hub};
use crate::auth::testing::{NOW, StillClock, ders, valid, window};
use crate::auth::x509::testing::{pem as pem_of, revocation_list};
use crate::certs::{Authority, Curve};
use crate::clock::UnixMillis;
use crate::command::check::{Finding, Group, Status};
use crate::config::MapEnv;
use crate::front::tls::ServerIdentity;

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
