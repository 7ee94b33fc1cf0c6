//! The trust bundle changes while devices are connected: who is not concerned notices nothing, who is has to leave.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rumqttc::mqttbytes::v4::ConnectReturnCode;
use sphere_gateway::certs::{Authority, Curve, Window};
use sphere_gateway::clock;
use sphere_gateway::gateway::{Applied, BundleReload, Gateway};

use crate::client::refusals;
use crate::configuration::{no_disconnect, until_counted};
use crate::device::{self, DeviceConfig};
use crate::log_format::Running;
use crate::support::{Fleet, World, eventually, metrics, series};

pub(crate) fn ca(name: &str) -> Authority {
    let window = Window::days(clock::system().wall(), 30);
    Authority::root(name, Curve::P256, window).expect("a CA")
}

/// A site whose bundle is a folder with the tenant's CA in `tenant.pem`.
pub(crate) async fn world(devices: usize) -> World {
    let mut world = World::new(devices).await;
    let folder = world.beside("tenant-cas");
    fs::create_dir(&folder).expect("a folder");
    world.set("EdgeHubDevTrustBundleFile", &folder.display().to_string());
    let tenant = world.pki.tenant_ca.certificate_pem();
    fs::write(folder.join("tenant.pem"), tenant).expect("a file");
    world
}

pub(crate) fn file(world: &World, name: &str) -> PathBuf {
    world.beside("tenant-cas").join(name)
}

/// The same device with a certificate of another CA.
pub(crate) fn by(world: &World, ca: &Authority, device: &mut DeviceConfig) {
    let window = Window::days(clock::system().wall(), 1);
    let issued = ca.issue_client(&device.id, window).expect("a certificate");
    device.tls = device::client_tls(device::gateway_roots(&world.pki), Some(&issued));
}

async fn all_connected(fleet: &Fleet) {
    eventually("all are connected", async || fleet.connected() == fleet.devices.len()).await;
}

fn applied(reload: BundleReload) -> Applied {
    match reload {
        BundleReload::Applied(applied) => applied,
        other => panic!("it is not applied: {other:?}"),
    }
}

async fn disconnects(gateway: &Gateway) -> f64 {
    series(&metrics(gateway).await, "edgehub_client_disconnect_total", &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_reloads_under_200_devices_disconnect_nobody() {
    const DEVICES: usize = 200;
    const ROUNDS: usize = 100;
    let world = world(DEVICES).await;
    let gateway = world.gateway().await;
    let fleet = world.fleet(|d| d.interval = Duration::from_secs(1));
    all_connected(&fleet).await;
    let before = fleet.acked();
    let changes = async |case: &str, added: &[&str], removed: &[&str]| {
        let now = applied(gateway.reload_trust_bundle().await);
        let told = (now.added, now.removed);
        let owned = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<String>>();
        assert_eq!(told, (owned(added), owned(removed)), "{case}");
        assert_eq!(now.closing, [], "{case}");
    };
    let refused = async |case: &str, expected: &str| {
        let reload = gateway.reload_trust_bundle().await;
        let is_it = matches!(reload, BundleReload::Refused { label, .. } if label == expected);
        assert!(is_it, "{case}: {reload:?}");
    };
    let unchanged = async |case: &str| {
        assert_eq!(gateway.reload_trust_bundle().await, BundleReload::Unchanged, "{case}");
    };
    let (other, new, moved) =
        (file(&world, "other.pem"), file(&world, "new.tmp"), file(&world, "moved.pem"));
    let (own, text) = (file(&world, "tenant.pem"), ca("Other").certificate_pem().to_owned());
    let tenant = world.pki.tenant_ca.certificate_pem();
    // Ten reloads a round, three of a file of its own, seven of the file that the devices' own CA is in.
    for _ in 0..ROUNDS {
        fs::write(&other, &text).expect("a file");
        changes("a CA more", &["CN=Other"], &[]).await;
        fs::write(&other, &text[..text.len() / 2]).expect("a file");
        refused("half of it", "worse").await;
        fs::remove_file(&other).expect("it is there");
        changes("the CA out", &[], &["CN=Other"]).await;

        fs::write(&new, tenant).expect("a file");
        fs::rename(&new, &own).expect("the same folder");
        unchanged("the same in its place").await;
        fs::write(&own, &tenant[..tenant.len() / 2]).expect("a file");
        refused("half of the devices' own CA", "nothing_usable").await;
        fs::write(&own, [tenant, &text].concat()).expect("a file");
        changes("another CA behind it", &["CN=Other"], &[]).await;
        fs::write(&own, [&text, tenant].concat()).expect("a file");
        changes("the other way round", &[], &[]).await;
        fs::rename(&own, &moved).expect("the same folder");
        changes("by another name", &[], &[]).await;
        fs::write(&moved, tenant).expect("a file");
        changes("alone again", &[], &["CN=Other"]).await;
        fs::rename(&moved, &own).expect("the same folder");
        changes("by its old name", &[], &[]).await;
    }
    // Publishing went on, for everybody.
    fleet.progress(DEVICES as u64).await;
    assert!(fleet.acked() > before);
    no_disconnect(&gateway).await;
    assert_eq!(fleet.connected(), DEVICES);
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_taken_out_takes_exactly_its_own_along_and_may_come_back() {
    let world = world(6).await;
    let (path, second) = (file(&world, "second.cer"), ca("Second"));
    fs::write(&path, second.certificate_pem()).expect("a file");
    let gateway = world.gateway().await;
    let of_tenant = world.fleet_of(0..3, |_| {});
    let of_second = world.fleet_of(3..6, |device| by(&world, &second, device));
    all_connected(&of_tenant).await;
    all_connected(&of_second).await;

    fs::remove_file(&path).expect("it is there");
    let Applied { added, removed, closing } = applied(gateway.reload_trust_bundle().await);
    assert_eq!((added.len(), &removed[..]), (0, &["CN=Second".to_owned()][..]));
    let [closing] = &closing[..] else { panic!("{closing:?}") };
    assert!(closing.cause.starts_with("CN=Second (SHA-256 "), "{closing}");
    let mut names: Vec<_> = of_second.devices.iter().map(|(id, _)| id.clone()).collect();
    names.sort();
    assert_eq!(closing.names, names);
    eventually("they are gone", async || {
        of_second.connected() == 0 && disconnects(&gateway).await == 3.0
    })
    .await;
    eventually("and do not come in again", async || {
        refusals(&gateway, "connect", "unknown_ca").await >= 3.0
    })
    .await;
    let labels = ["event=\"client_dismissed\"", "reason=\"trust_bundle\""];
    let text = metrics(&gateway).await;
    assert_eq!(series(&text, "sphere_gateway_events_total", &labels), 3.0);
    assert_eq!(series(&text, "sphere_gateway_trust_bundle_entries", &[]), 1.0);
    of_tenant.progress(30).await;
    assert_eq!((of_tenant.connected(), disconnects(&gateway).await), (3, 3.0));

    fs::write(&path, second.certificate_pem()).expect("a file");
    assert_eq!(applied(gateway.reload_trust_bundle().await).closing, []);
    all_connected(&of_second).await;
    for fleet in [&of_tenant, &of_second] {
        fleet.finish().await;
        world.expect_nothing_lost(fleet).await;
    }
    gateway.shutdown().await;
    world.end().await;
}

/// Without anybody who asks: the watch alone.
#[tokio::test(flavor = "multi_thread")]
async fn the_watch_applies_what_is_whole_and_leaves_what_is_half_written() {
    let world = world(3).await;
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    all_connected(&fleet).await;
    let tenant = world.pki.tenant_ca.certificate_pem();
    let reloaded = |result, times| until_counted(&gateway, "trust_bundle_reload", result, times);
    fs::write(file(&world, "tenant.pem"), &tenant[..tenant.len() / 2]).expect("a file");
    reloaded("nothing_usable", 1.0).await;
    fleet.progress(30).await;
    no_disconnect(&gateway).await;
    // Who comes is judged by what is in force, too.
    let (_stream, code) = device::connect(&world.device(0), 60).await.expect("an answer");
    assert_eq!(code, ConnectReturnCode::Success);

    fs::write(file(&world, "tenant.pem"), tenant).expect("a file");
    fs::write(file(&world, "more.pem"), ca("More").certificate_pem()).expect("a file");
    reloaded("applied", 1.0).await;
    let text = metrics(&gateway).await;
    for (gauge, value) in [("entries", 2.0), ("refused", 0.0), ("revocation_lists", 0.0)] {
        let name = format!("sphere_gateway_trust_bundle_{gauge}");
        assert_eq!(series(&text, &name, &[]), value, "{name}");
    }
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_has_the_bundle_read_at_once() {
    let world = world(1).await;
    let process = world.process();
    let fleet = world.fleet(|_| {});
    all_connected(&fleet).await;
    let labels = ["event=\"trust_bundle_reload\"", "reason=\"unchanged\""];
    // Only a question is counted when nothing has changed.
    let hang_up =
        std::process::Command::new("kill").args(["-HUP", &process.id().to_string()]).status();
    assert!(hang_up.expect("kill").success());
    eventually("it was read", async || {
        process.counter("sphere_gateway_events_total", &labels).await >= 1
    })
    .await;
    assert_eq!(process.counter("edgehub_client_disconnect_total", &[]).await, 0);
    fleet.finish().await;
    process.stop().await;
    world.end().await;
}

/// The log of the real binary at its default level.
#[tokio::test(flavor = "multi_thread")]
async fn who_would_be_disconnected_is_named_before_the_bundle_is_in_force() {
    let world = world(4).await;
    let (path, second) = (file(&world, "second.cer"), ca("Second"));
    fs::write(&path, second.certificate_pem()).expect("a file");
    let running = Running::start(&world);
    running.until_it_listens(&world);
    let stays = world.fleet_of(0..2, |_| {});
    let leaves = world.fleet_of(2..4, |device| by(&world, &second, device));
    all_connected(&stays).await;
    all_connected(&leaves).await;
    fs::remove_file(&path).expect("it is there");
    running.hang_up();
    let mut log = tokio::task::block_in_place(|| running.until("another trust bundle is in force"));
    let mut names: Vec<&str> = leaves.devices.iter().map(|(id, _)| &**id).collect();
    names.sort_unstable();
    let place = |log: &[String], parts: &[&str]| {
        let found = log.iter().position(|line| parts.iter().all(|part| line.contains(part)));
        found.unwrap_or_else(|| panic!("no line with {parts:?} in {log:#?}"))
    };
    let total = place(&log, &["would disconnect 2 of 4 clients"]);
    let listed = names.join(", ");
    let named = place(&log, &["would disconnect, CN=Second (SHA-256 ", &format!(": 2 ({listed})")]);
    assert!(total < named, "{log:#?}");
    assert_eq!(named, total + 1, "all in one line a cause");
    eventually("they are gone", async || leaves.connected() == 0).await;
    for fleet in [&stays, &leaves] {
        fleet.abort().await;
    }
    log.extend(tokio::task::block_in_place(|| running.stop()));
    for name in names {
        // Nobody is closed before it was told, and each with its reason.
        let closed = place(&log, &["[INF]", "unknown_ca", "closed: ", name]);
        assert!(closed > named, "{log:#?}");
    }
    for (name, _) in &stays.devices {
        let told = log.iter().any(|line| line.contains("closed: ") && line.contains(&**name));
        assert!(!told, "{log:#?}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_revoked_has_to_leave_and_stays_out() {
    let world = world(2).await;
    let gateway = world.gateway().await;
    let (revoked, other) = (world.fleet_of(0..1, |_| {}), world.fleet_of(1..2, |_| {}));
    all_connected(&revoked).await;
    all_connected(&other).await;
    let list = revocation_list(&world.pki.tenant_ca, &world.pki.devices[0].issued.leaf_pem);
    fs::write(file(&world, "tenant.crl"), list).expect("a file");
    let Applied { closing, .. } = applied(gateway.reload_trust_bundle().await);
    let [closing] = &closing[..] else { panic!("{closing:?}") };
    assert_eq!(
        (&*closing.cause, &closing.names[..]),
        ("revoked", &[revoked.devices[0].0.clone()][..])
    );
    eventually("it is gone", async || revoked.connected() == 0).await;
    eventually("and does not come in again", async || {
        refusals(&gateway, "connect", "revoked").await >= 1.0
    })
    .await;
    other.progress(30).await;
    assert_eq!(disconnects(&gateway).await, 1.0);
    // Taken out again, as a certificate on hold is.
    fs::remove_file(file(&world, "tenant.crl")).expect("it is there");
    applied(gateway.reload_trust_bundle().await);
    all_connected(&revoked).await;
    for fleet in [&revoked, &other] {
        fleet.finish().await;
        world.expect_nothing_lost(fleet).await;
    }
    gateway.shutdown().await;
    world.end().await;
}

/// A list of `ca` that revokes one certificate.
pub(crate) fn revocation_list(ca: &Authority, revoked_pem: &str) -> Vec<u8> {
    use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
    use rustls::pki_types::pem::PemObject as _;
    let der = rustls::pki_types::CertificateDer::from_pem_slice(revoked_pem.as_bytes());
    let der = der.expect("PEM");
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).expect("a certificate");
    let now = certificate.validity().not_before.to_datetime();
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from_slice(certificate.raw_serial()),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: now,
        next_update: certificate.validity().not_after.to_datetime(),
        crl_number: SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let key = rcgen::KeyPair::from_pem(&ca.key_pem()).expect("a key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(ca.certificate_pem(), key).expect("a CA");
    list.signed_by(&issuer).expect("a list").der().to_vec()
}
