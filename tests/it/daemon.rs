//! Started by the IoT Edge daemon: the whole gateway with a stand-in for the daemon and for the hub.

mod client;
mod workload;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hub_double::DeviceSpec;
use rumqttc::mqttbytes::v4::ConnectReturnCode;
use rustls::pki_types::CertificateDer;
use sphere_gateway::certs::{Authority, Curve, Window};
use sphere_gateway::clock::{self, UnixMillis};
use sphere_gateway::config::{Config, MapEnv};
use sphere_gateway::gateway::{Gateway, StartError};

use self::workload::{Daemon, GENERATION};
use crate::check::Examined;
use crate::client::{admitted, refusals, silent_tls};
use crate::device;
use crate::device::Ledger;
use crate::site::{EDGE, GATEWAY};
use crate::support::{BINARY, Fleet, World, eventually, metrics, series};

/// A site whose gateway has been started by a daemon.
async fn world(devices: usize) -> (World, Daemon) {
    let mut world = World::new(devices).await;
    let connection = world.env.remove("IotHubConnectionString").expect("a site has one");
    let key = connection.rsplit_once("SharedAccessKey=").expect("it ends with the key").1;
    let daemon = Daemon::start(&world.beside("daemon"), &world.pki, key);
    for name in [
        "EdgeHubDevServerCertificateFile",
        "EdgeHubDevServerPrivateKeyFile",
        "EdgeHubDevTrustBundleFile",
        "upstreamSettings__trustBundleFile",
    ] {
        world.env.remove(name).expect("a site has it");
    }
    for (name, value) in [
        ("IOTEDGE_WORKLOADURI", &*format!("unix://{}", daemon.socket().display())),
        ("IOTEDGE_APIVERSION", "2022-08-03"),
        ("IOTEDGE_AUTHSCHEME", "sasToken"),
        ("IOTEDGE_MODULEGENERATIONID", GENERATION),
        ("IOTEDGE_IOTHUBHOSTNAME", "localhost"),
        ("IOTEDGE_DEVICEID", EDGE),
        ("IOTEDGE_MODULEID", "$edgeHub"),
        ("RuntimeLogLevel", "info"),
    ] {
        world.set(name, value);
    }
    (world, daemon)
}

async fn start(world: &World) -> Result<Gateway, StartError> {
    let config = Config::read(&MapEnv(world.env.clone())).expect("the configuration is good");
    Gateway::start(config, clock::system()).await
}

/// The certificate that the gateway shows.
async fn shown(world: &World) -> CertificateDer<'static> {
    let stream = silent_tls(&world.device(0)).await;
    let chain = stream.get_ref().1.peer_certificates().expect("a server has a certificate");
    chain[0].clone().into_owned()
}

async fn renewals(gateway: &Gateway) -> f64 {
    let labels = ["event=\"server_certificate\"", "reason=\"renewed\""];
    series(&metrics(gateway).await, "sphere_gateway_events_total", &labels)
}

async fn connects(gateway: &Gateway) -> f64 {
    series(&metrics(gateway).await, "edgehub_client_connect_success_total", &[])
}

async fn disconnects(gateway: &Gateway) -> f64 {
    series(&metrics(gateway).await, "edgehub_client_disconnect_total", &[])
}

async fn end(world: World, mut daemon: Daemon, gateway: Gateway) {
    gateway.shutdown().await;
    daemon.kill().await;
    world.end().await;
}

async fn all_connected(fleet: &Fleet) {
    eventually("all are connected", async || fleet.connected() == fleet.devices.len()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_daemon_sets_is_enough_to_serve() {
    let (world, daemon) = world(2).await;
    // It has just been started, too.
    daemon.script(|s| s.failures = 2);
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(50).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;

    for file in ["daemon-server.pem", "daemon-trust-bundle.pem"] {
        let facts = std::fs::metadata(world.storage().join(file)).expect("it is kept");
        assert_eq!(facts.permissions().mode() & 0o777, 0o600, "{file}");
    }
    let text = metrics(&gateway).await;
    let left = series(&text, "sphere_gateway_server_certificate_expires_seconds", &[]);
    // The daemon's CA lasts 20 days, whatever was wished.
    assert!((19.9..20.1).contains(&(left / 86_400.0)), "{left}");
    assert!(daemon.asked("sign") >= 1);
    end(world, daemon, gateway).await;
}

/// Waits for a renewal that fails for this reason, of the closed list.
async fn until_refused(gateway: &Gateway, reason: &str) {
    let labels = ["event=\"server_certificate_renewal_failed\"", &*format!("reason=\"{reason}\"")];
    eventually(&format!("a renewal fails: {reason}"), async || {
        series(&metrics(gateway).await, "sphere_gateway_events_total", &labels) >= 1.0
    })
    .await;
}

/// Waits for `times` more renewals.
async fn until_renewed(gateway: &Gateway, times: f64) {
    let goal = renewals(gateway).await + times;
    eventually("the certificate is renewed", async || renewals(gateway).await >= goal).await;
}

/// The certificate that was renewed last is the one that counts: on disk for the next start, and for who watches its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_kept_and_its_end_is_shown() {
    let (mut world, mut daemon) = world(1).await;
    world.set("ServerCertificateRenewAfterInMs", "300");
    let days_left = async |gateway: &Gateway| {
        let text = metrics(gateway).await;
        series(&text, "sphere_gateway_server_certificate_expires_seconds", &[]) / 86_400.0
    };
    let gateway = world.gateway().await;
    let first = shown(&world).await;
    assert!((19.9..20.1).contains(&days_left(&gateway).await));
    daemon.script(|s| s.days = Some(7));
    // The first of them may have been asked for before.
    until_renewed(&gateway, 2.0).await;
    let left = days_left(&gateway).await;
    assert!((6.9..7.1).contains(&left), "{left}");

    // It is asked again only after the last one was kept.
    daemon.kill().await;
    until_refused(&gateway, "unreachable").await;
    let last = shown(&world).await;
    assert_ne!(last, first);
    gateway.shutdown().await;
    let gateway = world.gateway().await;
    assert_eq!(shown(&world).await, last, "the renewed one");
    let left = days_left(&gateway).await;
    assert!((6.9..7.1).contains(&left), "{left}");
    end(world, daemon, gateway).await;
}

/// The bar of the card: 200 connections that publish, and all that a renewal can meet. 200 handshakes take 0.2 s of one
/// core, and a message a second and device is a fiftieth of what a debug build carries.
#[tokio::test(flavor = "multi_thread")]
async fn renewals_and_their_failures_disconnect_nobody_of_200() {
    const DEVICES: usize = 200;
    let (mut world, mut daemon) = world(DEVICES + 1).await;
    world.set("ServerCertificateRenewAfterInMs", "300");
    let gateway = world.gateway().await;
    let mut seen = vec![shown(&world).await];
    let fleet = world.fleet_of(0..DEVICES, |d| d.interval = std::time::Duration::from_secs(1));
    all_connected(&fleet).await;
    let before = connects(&gateway).await;
    let all_goes_on = async |seen: &mut Vec<_>| {
        // Each of them says something over the session that it had before.
        let floor: Vec<u64> = fleet.devices.iter().map(|(_, l)| acked(l)).collect();
        eventually("each device goes on publishing", async || {
            fleet.devices.iter().zip(&floor).all(|((_, l), before)| acked(l) > *before)
        })
        .await;
        let now = shown(&world).await;
        assert!(!seen.contains(&now), "a newcomer sees another certificate");
        seen.push(now);
        assert_eq!(fleet.connected(), DEVICES);
        // Nobody has left, and nobody has come again.
        assert_eq!((connects(&gateway).await, disconnects(&gateway).await), (before, 0.0));
    };

    until_renewed(&gateway, 3.0).await;
    all_goes_on(&mut seen).await;
    // It fails longer than a request is tried, and is asked again.
    daemon.script(|s| s.failures = 1000);
    until_refused(&gateway, "failed").await;
    daemon.script(|s| s.failures = 0);
    until_renewed(&gateway, 1.0).await;
    all_goes_on(&mut seen).await;
    // It does not know the caller for a while.
    daemon.script(|s| s.is_forbidden = true);
    until_refused(&gateway, "refused").await;
    fleet.progress(DEVICES as u64).await;
    daemon.script(|s| s.is_forbidden = false);
    until_renewed(&gateway, 1.0).await;
    all_goes_on(&mut seen).await;
    // It is started again: the socket is dead until it is mounted anew.
    daemon.kill().await;
    daemon.revive();
    until_refused(&gateway, "unreachable").await;
    fleet.progress(DEVICES as u64).await;
    daemon.mount();
    until_renewed(&gateway, 1.0).await;
    all_goes_on(&mut seen).await;

    drop(admitted(&world.device(DEVICES)).await);
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    end(world, daemon, gateway).await;
}

fn acked(ledger: &Ledger) -> u64 {
    ledger.acked.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_bundle_that_changes_is_told_and_kept_for_the_next_start() {
    let (mut world, mut daemon) = world(1).await;
    world.set("ServerCertificateRenewAfterInMs", "100");
    let gateway = world.gateway().await;
    let counted = async |event: &str, reason: &str| {
        let labels = [&*format!("event=\"{event}\""), &*format!("reason=\"{reason}\"")];
        series(&metrics(&gateway).await, "sphere_gateway_events_total", &labels)
    };
    let kept = || std::fs::read_to_string(world.storage().join("daemon-trust-bundle.pem")).unwrap();
    let first = kept();
    until_renewed(&gateway, 2.0).await;
    assert_eq!(counted("trust_bundle", "changed").await, 0.0, "it is the same");
    // None of it is a certificate: the daemon was set up badly, and what serves goes on.
    daemon.script(|s| s.bundle = Some("nothing".to_owned()));
    eventually("it is not taken", async || {
        counted("trust_bundle_not_read", "malformed").await >= 1.0
    })
    .await;
    assert_eq!(kept(), first);
    let other =
        Authority::root("another tenant", Curve::P384, Window::days(clock::system().wall(), 2))
            .expect("a CA");
    let both = format!("{first}{}", other.certificate_pem());
    daemon.script(|s| s.bundle = Some(both.clone()));
    eventually("it is told", async || counted("trust_bundle", "changed").await >= 1.0).await;
    assert_eq!(kept(), both);
    until_renewed(&gateway, 2.0).await;
    assert_eq!(counted("trust_bundle", "changed").await, 1.0, "once");
    daemon.script(|s| s.bundle = None);
    eventually("it is as before", async || counted("trust_bundle", "as_in_force").await >= 1.0)
        .await;
    daemon.script(|s| s.bundle = Some(both.clone()));
    eventually("it is told again", async || counted("trust_bundle", "changed").await >= 2.0).await;
    drop(admitted(&world.device(0)).await);
    gateway.shutdown().await;

    // The next start has it, also without the daemon.
    daemon.kill().await;
    let gateway = world.gateway().await;
    assert_eq!(kept(), both);
    drop(admitted(&world.device(0)).await);
    end(world, daemon, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_socket_at_the_start_is_no_hindrance_once_a_certificate_is_kept() {
    let (world, mut daemon) = world(2).await;
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    fleet.finish().await;
    let certificate = shown(&world).await;
    gateway.shutdown().await;

    daemon.kill().await;
    let gateway = world.gateway().await;
    assert_eq!(shown(&world).await, certificate, "the kept one");
    let offline = world.fleet(|d| d.nick.push_str("-offline"));
    offline.progress(50).await;
    offline.finish().await;
    let before = world.hub.counts().received;

    // The daemon is back, and the container is started again as edgeAgent does.
    daemon.revive();
    daemon.mount();
    eventually("what was acked without the daemon is at the hub", async || {
        world.hub.counts().received >= before + offline.acked()
    })
    .await;
    eventually("the certificate is renewed", async || renewals(&gateway).await == 1.0).await;
    assert_ne!(shown(&world).await, certificate);
    end(world, daemon, gateway).await;
}

/// The keys of devices: sealed by the daemon once, unsealed once a start, and waited for while it is away.
#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_seals_what_the_keys_are_sealed_with() {
    let (world, mut daemon) = world(1).await;
    let keys = async |gateway: &Gateway, reason: &str| {
        let labels = ["event=\"scope_keys\"", &*format!("reason=\"{reason}\"")];
        series(&metrics(gateway).await, "sphere_gateway_events_total", &labels)
    };
    for n in 0..20 {
        let key = STANDARD.encode(rand::random::<[u8; 32]>());
        world.hub.put_device(DeviceSpec::sas(format!("keyed-{n}"), key).child_of(EDGE));
    }
    let gateway = world.gateway().await;
    drop(admitted(&world.device(0)).await);
    gateway.shutdown().await;
    assert_eq!((daemon.asked("encrypt"), daemon.asked("decrypt")), (1, 0));
    let sealed = std::fs::read_to_string(world.storage().join("scope.key")).expect("a key");
    assert!(sealed.contains("\"by\":\"daemon\""), "{sealed}");
    let scope = std::fs::read_to_string(world.storage().join("scope.json")).expect("the scope");

    // Neither the daemon nor the hub is there: who has a certificate is served, and nothing on disk changes.
    daemon.kill().await;
    world.hub.go_away().await;
    let gateway = world.gateway().await;
    drop(admitted(&world.device(0)).await);
    eventually("the keys are away", async || keys(&gateway, "away").await >= 1.0).await;
    let now = std::fs::read_to_string(world.storage().join("scope.json")).expect("the scope");
    assert_eq!(now, scope);
    daemon.revive();
    daemon.mount();
    eventually("the keys are there", async || keys(&gateway, "opened").await == 1.0).await;
    assert_eq!(keys(&gateway, "set_aside").await + keys(&gateway, "data_key_lost").await, 0.0);
    assert_eq!((daemon.asked("encrypt"), daemon.asked("decrypt")), (1, 1));
    world.hub.come_back().await.expect("the ports are still ours");
    end(world, daemon, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_to_serve_the_start_says_why() {
    let (world, mut daemon) = world(0).await;
    let refused = async || match start(&world).await {
        Ok(_) => panic!("there is nothing to serve"),
        Err(e) => {
            assert!(!e.is_usage(), "another start may do better");
            e.to_string()
        }
    };
    daemon.kill().await;
    let text = refused().await;
    for part in ["no server certificate", "none is kept", "has been restarted"] {
        assert!(text.contains(part), "{part} in {text}");
    }

    // One that is over is none; one that is damaged neither.
    let wall = clock::system().wall();
    let over = Window { not_before: UnixMillis(0), not_after: UnixMillis(wall.0 - 1000) };
    let old = world.pki.edge_ca.issue_server(&[GATEWAY], &[], over).expect("a certificate");
    let kept = world.storage().join("daemon-server.pem");
    std::fs::create_dir_all(world.storage()).expect("a folder");
    std::fs::write(&kept, format!("{}{}", old.key_pem, old.chain_pem)).expect("a file");
    let text = refused().await;
    assert!(text.contains("the kept one expired on"), "{text}");
    std::fs::write(&kept, "x").expect("a file");
    let text = refused().await;
    assert!(text.contains("cannot be used"), "{text}");
    world.end().await;
}

/// The whole life as a container has it: the binary, and SIGTERM, also while the start still waits for the daemon.
#[tokio::test(flavor = "multi_thread")]
async fn the_binary_serves_and_ends_well_at_any_time() {
    let (world, mut daemon) = world(1).await;
    daemon.script(|s| s.is_mute = true);
    let mut command = Command::new(BINARY);
    let mut child = world.with_environment(command.arg("run")).spawn().expect("it starts");
    eventually("the daemon is asked", async || daemon.requests().len() == 2).await;
    let kill = Command::new("kill").arg(child.id().to_string()).status();
    assert!(kill.expect("kill").success());
    let mut status = None;
    eventually("the process ends", async || {
        status = child.try_wait().expect("our child");
        status.is_some()
    })
    .await;
    assert!(
        status.is_some_and(|status| status.success()),
        "{status:?}: it did not fail, it was ended"
    );

    daemon.script(|s| s.is_mute = false);
    let process = tokio::task::block_in_place(|| world.process());
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    daemon.kill().await;
    fleet.progress(20).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    process.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_goes_away_costs_nobody_anything() {
    let (mut world, mut daemon) = world(3).await;
    world.set("ServerCertificateRenewAfterInMs", "200");
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(30).await;
    daemon.kill().await;
    let renewed = renewals(&gateway).await;
    until_refused(&gateway, "unreachable").await;
    // The hub is lost, too: the last token opens the next connection.
    world.hub.go_away().await;
    let received = world.hub.counts().received;
    fleet.progress(100).await;
    world.hub.come_back().await.expect("the ports are still ours");
    eventually("the hub is reached with the last token", async || {
        world.hub.counts().received > received
    })
    .await;
    assert_eq!(fleet.connected(), 3);
    assert_eq!(disconnects(&gateway).await, 0.0);

    daemon.revive();
    daemon.mount();
    eventually("the certificate is renewed", async || renewals(&gateway).await > renewed).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    end(world, daemon, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_not_taken_over() {
    let (mut world, daemon) = world(1).await;
    world.set("ServerCertificateRenewAfterInMs", "100");
    let gateway = world.gateway().await;
    daemon.script(|s| s.name = Some("other.example".into()));
    until_refused(&gateway, "certificate").await;
    // The device checks the name.
    drop(admitted(&world.device(0)).await);
    end(world, daemon, gateway).await;
}

/// With a certificate of an earlier start there is something to serve, but nobody who signs.
#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_it_means_that_the_daemon_forbids() {
    let (mut world, daemon) = world(1).await;
    world.gateway().await.shutdown().await;
    daemon.script(|s| s.is_forbidden = true);
    let found = Examined::of(&world);
    assert_eq!((found.code, found.with("error")), (Some(1), vec!["daemon-sign"]));
    assert!(found.with("warning").contains(&"daemon-certificate"), "that of the earlier start");
    let words = found.words("daemon-sign");
    assert!(words.contains("403") && words.contains("as the edgeHub system module"), "{words}");
    for id in ["upstream-token", "scope"] {
        assert!(found.with("skipped").contains(&id), "{id}");
    }
    assert!(found.with("ok").contains(&"certificate-name"), "the kept one is looked at");

    // It answers, but never well: told once, not for each question.
    daemon.script(|s| (s.is_forbidden, s.is_garrulous) = (false, true));
    let found = Examined::of(&world);
    assert_eq!(found.with("error"), ["daemon-socket"]);
    assert!(found.with("warning").contains(&"daemon-certificate"), "that of the earlier start");

    daemon.script(|s| s.is_garrulous = false);
    world.set("IOTEDGE_MODULEGENERATIONID", "1");
    let found = Examined::of(&world);
    assert_eq!(found.with("error"), ["daemon-sign"]);
    let words = found.words("daemon-sign");
    assert!(words.contains("404") && words.contains("start the container again"), "{words}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_asks_the_daemon_and_writes_nothing_and_check_env_asks_nobody() {
    let (mut world, mut daemon) = world(0).await;
    let run = |world: &World, arguments: &[&str]| {
        let output = tokio::task::block_in_place(|| world.command(arguments));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, table, errors) = run(&world, &["check", "--env"]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert!(daemon.requests().is_empty(), "it is not asked");
    for (name, end) in [
        ("IOTEDGE_WORKLOADURI", "honoured"),
        ("IOTEDGE_GATEWAYHOSTNAME", "default"),
        (
            "OptimizeForPerformance",
            "not set, ignored if it were: the footprint is small either way",
        ),
    ] {
        let line = table.lines().find(|line| line.starts_with(name)).expect(name);
        assert!(line.ends_with(end), "{line}");
    }

    let found = Examined::of(&world);
    assert_eq!((found.code, found.with("error")), (Some(0), vec![]));
    for id in ["daemon-socket", "daemon-sign", "daemon-certificate", "upstream-token"] {
        assert!(found.with("ok").contains(&id), "{id}");
    }
    assert_eq!(daemon.asked("certificate/server"), 1);
    assert!(!world.storage().exists(), "nothing is written");

    daemon.kill().await;
    let (code, text, _) = run(&world, &["check"]);
    assert_eq!(code, Some(1));
    for part in
        ["has been restarted", "no server certificate to start with", "start this container again"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    let found = Examined::of(&world);
    assert_eq!(found.with("error"), ["daemon-socket", "daemon-certificate"]);
    assert!(found.with("skipped").contains(&"daemon-sign"));
    let none = format!("unix://{}", world.beside("nothing").display());
    world.set("IOTEDGE_WORKLOADURI", &none);
    let (_, text, _) = run(&world, &["check"]);
    assert!(text.contains("deploy this image as the edgeHub system module"), "{text}");

    world.env.remove("IOTEDGE_DEVICEID");
    world.env.remove("IOTEDGE_MODULEID");
    let output = tokio::task::block_in_place(|| world.command(&["check", "--env"]));
    assert_eq!(output.status.code(), Some(64));
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(errors.contains("IOTEDGE_DEVICEID") && errors.contains("IOTEDGE_MODULEID"), "{errors}");
    assert!(!output.stdout.is_empty(), "the table comes all the same");
    assert_eq!(world.port.load(Ordering::Relaxed), 0, "nothing was started");
    world.end().await;
}

/// The daemon's bundle has the tenant's CA and the hub's; a bundle of CAs that is configured leaves it the hub alone.
#[tokio::test(flavor = "multi_thread")]
async fn as_soon_as_a_bundle_is_configured_it_alone_admits_devices() {
    let (mut world, daemon) = world(2).await;
    let window = Window::days(clock::system().wall(), 1);
    let own = Authority::root("Own", Curve::P256, window).expect("a CA");
    let folder = world.beside("own-cas");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("own.pem"), own.certificate_pem()).expect("a file");
    world.set("EdgeHubDevTrustBundleFile", &folder.display().to_string());
    let gateway = world.gateway().await;
    let of_own = world.fleet_of(0..1, |device| {
        let issued = own.issue_client(&device.id, window).expect("a certificate");
        device.tls = device::client_tls(device::gateway_roots(&world.pki), Some(&issued));
    });
    // The hub is reached: its CA is in the daemon's bundle.
    of_own.progress(20).await;
    of_own.finish().await;
    world.expect_nothing_lost(&of_own).await;
    let (_stream, code) = device::connect(&world.device(1), 60).await.expect("an answer");
    assert_eq!(code, ConnectReturnCode::NotAuthorized);
    assert_eq!(refusals(&gateway, "connect", "unknown_ca").await, 1.0);

    // `check` says the same.
    let found = Examined::of(&world);
    let (entries, source) = (found.words("bundle-entry"), found.words("bundle-source"));
    assert!(entries.contains("CN=Own") && !entries.contains("Tenant"), "{entries}");
    assert!(source.contains("admits no device: EdgeHubDevTrustBundleFile alone does"), "{source}");
    end(world, daemon, gateway).await;
}
