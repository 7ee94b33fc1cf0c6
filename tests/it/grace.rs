//! Certificates that end while the hub is away: sessions, reconnects, a restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::ConnectReturnCode;
use sphere_gateway::certs::Window;
use sphere_gateway::clock::{Clock, SystemClock, UnixMillis};
use sphere_gateway::gateway::Gateway;
use tokio::io::AsyncReadExt as _;

use crate::bundle;
use crate::client::{admitted, refusals, telemetry};
use crate::device::{self, DeviceConfig};
use crate::support::{PATIENCE, World, eventually, get, metrics, series};

const HOUR: Duration = Duration::from_secs(3600);

/// The system's clocks, the wall set forward.
#[derive(Default)]
struct Ahead(AtomicU64);

impl Ahead {
    fn set(&self, by: Duration) {
        self.0.store(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for Ahead {
    fn wall(&self) -> UnixMillis {
        SystemClock.wall().plus(Duration::from_millis(self.0.load(Ordering::SeqCst)))
    }

    fn monotonic(&self) -> Instant {
        SystemClock.monotonic()
    }
}

async fn start(world: &World, clock: &Arc<Ahead>) -> Gateway {
    let gateway = Gateway::start(world.configuration(), Arc::clone(clock) as _).await;
    let gateway = gateway.expect("the gateway starts");
    world.port.store(gateway.mqtt_addr().port(), Ordering::Relaxed);
    gateway
}

/// Device `index` with a leaf that ends in an hour.
fn with_short_leaf(world: &World, index: usize) -> DeviceConfig {
    short_leaf(world, index).0
}

/// The same, and the leaf in PEM.
fn short_leaf(world: &World, index: usize) -> (DeviceConfig, String) {
    let mut config = world.device(index);
    let now = SystemClock.wall();
    let window = Window { not_before: UnixMillis(now.0 - 60_000), not_after: now.plus(HOUR) };
    let issued = world.pki.tenant_ca.issue_client(&config.id, window).expect("a leaf");
    config.tls = device::client_tls(device::gateway_roots(&world.pki), Some(&issued));
    (config, issued.leaf_pem)
}

async fn answer(config: &DeviceConfig) -> ConnectReturnCode {
    device::connect(config, 60).await.expect("an answer").1
}

async fn is_away(gateway: &Gateway) -> bool {
    series(&metrics(gateway).await, "sphere_gateway_upstream_connected", &[]) == 0.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_certificate_ends_in_an_outage_comes_back_by_grace_and_over_a_restart() {
    let mut world = World::new(2).await;
    world.set("authSettings__expiredLeafGrace", "3.00:00:00");
    world.set("CloudOperationTimeoutSecs", "1");
    let clock = Arc::new(Ahead::default());
    let gateway = start(&world, &clock).await;
    let (known, stranger) = (with_short_leaf(&world, 0), with_short_leaf(&world, 1));
    let mut live = admitted(&known).await;
    eventually("the hub is reached", async || !is_away(&gateway).await).await;
    world.hub.go_away().await;
    eventually("the hub is away", async || is_away(&gateway).await).await;

    clock.set(25 * HOUR);
    // A new connection of the same device would end the session: the stranger's answer is no judgement of the known one.
    device::write(&mut live, &telemetry(&known.id, 1, QoS::AtLeastOnce)).await.expect("write");
    let mut inbox = bytes::BytesMut::new();
    device::read(&mut live, &mut inbox).await.expect("the session goes on");
    eventually("grace is open", async || answer(&known).await == ConnectReturnCode::Success).await;
    assert_eq!(answer(&stranger).await, ConnectReturnCode::NotAuthorized);
    assert!(refusals(&gateway, "connect", "expired").await >= 1.0);
    let used = ["event=\"expired_leaf_grace\"", "reason=\"used\""];
    let text = metrics(&gateway).await;
    assert!(series(&text, "sphere_gateway_events_total", &used) >= 1.0);
    assert_eq!(series(&text, "sphere_gateway_leaf_expiring_day_devices", &[]), 0.0);
    clock.set(72 * HOUR);
    let health = get(&gateway, "/healthz").await;
    assert!(health.contains("the hub is away") && health.contains("1 within a day"), "{health}");
    gateway.shutdown().await;

    // Within the outage it begins again, and remembers.
    let gateway = start(&world, &clock).await;
    eventually("grace is open", async || answer(&known).await == ConnectReturnCode::Success).await;
    assert_eq!(answer(&stranger).await, ConnectReturnCode::NotAuthorized);
    clock.set(74 * HOUR);
    assert_eq!(answer(&known).await, ConnectReturnCode::NotAuthorized, "the grace is over");
    let text = metrics(&gateway).await;
    assert_eq!(series(&text, "sphere_gateway_leaf_expired_devices", &[]), 1.0);
    gateway.shutdown().await;
    world.end().await;
}

/// Revoked while the hub is away: neither the live session nor the grace outlasts the list.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_that_came_back_by_grace_has_to_leave() {
    let mut world = bundle::world(1).await;
    world.set("authSettings__expiredLeafGrace", "3.00:00:00");
    world.set("CloudOperationTimeoutSecs", "1");
    let clock = Arc::new(Ahead::default());
    let gateway = start(&world, &clock).await;
    let (device, leaf) = short_leaf(&world, 0);
    drop(admitted(&device).await);
    eventually("the hub is reached", async || !is_away(&gateway).await).await;
    world.hub.go_away().await;
    eventually("the hub is away", async || is_away(&gateway).await).await;
    clock.set(25 * HOUR);
    eventually("grace is open", async || answer(&device).await == ConnectReturnCode::Success).await;
    let mut live = admitted(&device).await;

    let list = bundle::revocation_list(&world.pki.tenant_ca, &leaf);
    std::fs::write(bundle::file(&world, "tenant.crl"), list).expect("a file");
    gateway.reload_trust_bundle().await;
    let mut rest = [0; 64];
    let ended = tokio::time::timeout(PATIENCE, async {
        while live.read(&mut rest).await.is_ok_and(|n| n > 0) {}
    });
    ended.await.expect("the session is ended");
    assert_eq!(answer(&device).await, ConnectReturnCode::NotAuthorized);
    assert!(refusals(&gateway, "connect", "revoked").await >= 1.0);
    // The list is stale by now: it goes on revoking.
    clock.set(26 * HOUR);
    assert_eq!(answer(&device).await, ConnectReturnCode::NotAuthorized);
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_grace_an_ended_certificate_is_refused_in_an_outage_too() {
    let mut world = World::new(1).await;
    world.set("CloudOperationTimeoutSecs", "1");
    let clock = Arc::new(Ahead::default());
    let gateway = start(&world, &clock).await;
    let device = with_short_leaf(&world, 0);
    let mut live = admitted(&device).await;
    world.hub.go_away().await;
    eventually("the hub is away", async || is_away(&gateway).await).await;
    clock.set(25 * HOUR);
    let health = async || get(&gateway, "/healthz").await;
    eventually("the outage is told", async || health().await.contains("1 have ended")).await;
    device::write(&mut live, &telemetry(&device.id, 1, QoS::AtLeastOnce)).await.expect("write");
    let mut inbox = bytes::BytesMut::new();
    device::read(&mut live, &mut inbox).await.expect("the session goes on");
    drop(live);
    assert_eq!(answer(&device).await, ConnectReturnCode::NotAuthorized);
    assert!(!world.storage().join("seen-certificates.json").exists(), "nothing is kept for it");
    gateway.shutdown().await;
    world.end().await;
}
