//! Floods of every kind at once, and devices that never notice.
//!
//! Attackers come from addresses of their own (127.0.0.2 and on), as they would on a site's network; or from the fleet's, as
//! they would behind its router.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use hub_double::DeviceSpec;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    Connect, ConnectReturnCode, LastWill, Packet, Subscribe, SubscribeFilter,
};
use rustls::pki_types::ServerName;
use sphere_gateway::certs::{Authority, Curve, Window};
use sphere_gateway::clock;
use sphere_gateway::gateway::Gateway;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{admitted, connect, refusals, telemetry};
use crate::device::{self, DeviceConfig};
use crate::site::{EDGE, GATEWAY};
use crate::support::{Fleet, World, eventually, metrics, series};

const HONEST: usize = 100;
/// Devices that misbehave behind the honest ones.
const SUBSCRIBER: usize = HONEST;
const DIES: usize = HONEST + 1;
const FIGHTER: usize = HONEST + 2;
const LATE: usize = HONEST + 3;

async fn dial(from: u8, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, from), 0).into())?;
    socket.connect(to).await
}

/// CONNECT, and what is answered to it.
async fn log_in(
    from: u8,
    to: SocketAddr,
    tls: &Arc<rustls::ClientConfig>,
    packet: Connect,
) -> io::Result<(TlsStream<TcpStream>, ConnectReturnCode)> {
    let name = ServerName::try_from(GATEWAY).expect("a name");
    let mut stream =
        TlsConnector::from(Arc::clone(tls)).connect(name, dial(from, to).await?).await?;
    device::write(&mut stream, &Packet::Connect(packet)).await?;
    match device::read(&mut stream, &mut BytesMut::new()).await? {
        Packet::ConnAck(ack) => Ok((stream, ack.code)),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

/// Holds a connection and says nothing (or only `words`), until it is closed.
async fn hold(from: u8, to: SocketAddr, words: &'static [u8]) {
    let Ok(mut socket) = dial(from, to).await else { return };
    let _ = socket.write_all(words).await;
    let _ = socket.read(&mut [0; 64]).await;
}

/// `times` log-ins that fail, eight at a time.
async fn bad_log_ins(from: u8, to: SocketAddr, config: DeviceConfig, times: usize, rename: bool) {
    let mut tasks = JoinSet::new();
    for number in 0..times {
        let mut config = config.clone();
        if rename {
            config.id = format!("nobody-{number}");
        }
        tasks.spawn(async move { _ = log_in(from, to, &config.tls, connect(&config)).await });
        if tasks.len() >= 8 {
            tasks.join_next().await;
        }
    }
    tasks.join_all().await;
}

/// A client that says all there is to say, over and over.
async fn subscribes(from: u8, to: SocketAddr, config: DeviceConfig) {
    let Ok((mut stream, _)) = log_in(from, to, &config.tls, connect(&config)).await else { return };
    let filter = |n| SubscribeFilter::new(format!("devices/other-{n}/#"), QoS::AtLeastOnce);
    let mut packet = Subscribe::new_many((0..256).map(filter));
    packet.pkid = 1;
    let mut flood = BytesMut::new();
    for _ in 0..20 {
        Packet::Subscribe(packet.clone()).write(&mut flood, 1_000_000).expect("encode");
    }
    for _ in 0..10 {
        // Its answers are not read: at some point nothing more is taken from it.
        let write = stream.write_all(&flood);
        if !matches!(tokio::time::timeout(Duration::from_secs(1), write).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Connects with a will and vanishes.
async fn dies(from: u8, to: SocketAddr, config: DeviceConfig, times: usize) {
    for _ in 0..times {
        let mut packet = connect(&config);
        let topic = format!("devices/{}/messages/events/", config.id);
        packet.last_will = Some(LastWill::new(topic, "gone", QoS::AtLeastOnce, false));
        drop(log_in(from, to, &config.tls, packet).await);
    }
}

/// Takes the seat whenever it can, and holds it until it is taken away.
async fn fights(from: u8, to: SocketAddr, config: DeviceConfig) {
    loop {
        if let Ok((mut stream, ConnectReturnCode::Success)) =
            log_in(from, to, &config.tls, connect(&config)).await
        {
            let _ = device::write(&mut stream, &telemetry(&config.id, 1, QoS::AtLeastOnce)).await;
            while stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {}
        }
        // As a device pauses that was refused; the test goes by what is counted.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The first device with a certificate of a CA that nobody knows.
fn forged(world: &World) -> DeviceConfig {
    let window = Window::days(clock::system().wall(), 1);
    let stranger = Authority::root("A CA", Curve::P256, window).expect("a CA");
    let forged = stranger.issue_client(&world.pki.devices[0].id, window).expect("issued");
    let tls = device::client_tls(device::gateway_roots(&world.pki), Some(&forged));
    DeviceConfig { tls, ..world.device(0) }
}

/// All of them at once.
fn attack(world: &World, to: SocketAddr) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for number in 0..500 {
        // Every fifth says a part of a ClientHello.
        let words: &[u8] = if number % 5 == 0 { &[22, 3, 1, 2] } else { &[] };
        tasks.spawn(async move {
            loop {
                hold(2, to, words).await;
                // Else those that are turned away would take all of this machine.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    tasks.spawn(async move {
        for _ in 0..300 {
            hold(3, to, b"GET / HTTP/1.1\r\n\r\n").await;
        }
    });
    tasks.spawn(bad_log_ins(4, to, forged(world), usize::MAX, false));
    // A certificate of the tenant's CA, and names that nobody has registered.
    tasks.spawn(bad_log_ins(5, to, world.device(0), 200, true));
    tasks.spawn(subscribes(6, to, world.device(SUBSCRIBER)));
    tasks.spawn(dies(7, to, world.device(DIES), usize::MAX));
    tasks.spawn(fights(8, to, world.device(FIGHTER)));
    tasks.spawn(fights(9, to, world.device(FIGHTER)));
    tasks
}

async fn is_refused(gateway: &Gateway, stage: &str, reason: &str) {
    eventually(&format!("{stage}/{reason} is counted"), async || {
        refusals(gateway, stage, reason).await > 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn well_behaved_devices_do_not_notice_floods_of_every_kind() {
    let mut world = World::new(HONEST + 4).await;
    world.set("mqttSettings__ConnectionsMax", "200");
    // What is forgiven in a minute is less than what the slowest machine gets done in one: a flood is one everywhere.
    world.set("mqttSettings__FailedConnectsPerMin", "10");
    world.set("mqttSettings__LogInsPerMin", "1");
    let gateway = world.gateway().await;
    // An emulated processor does a hundred messages a second beside all that; a thousand would be a flood of ours.
    let fleet = world.fleet_of(0..HONEST, |config| config.interval = Duration::from_secs(1));
    eventually("all honest devices are connected", async || fleet.connected() == HONEST).await;
    let disconnects = async |id: &str| {
        let id = format!("id=\"{id}\"");
        series(&metrics(&gateway).await, "edgehub_client_disconnect_total", &[&id])
    };
    fleet.progress(200).await;
    let mut attackers = attack(&world, gateway.mqtt_addr());
    fleet.progress(300).await;
    // One that comes in the middle of it gets in; at a try or two, while those who make room are slow to leave.
    let late = world.device(LATE);
    eventually("a device gets in", async || {
        let answer = device::connect(&late, 60).await;
        matches!(answer, Ok((_, ConnectReturnCode::Success)))
    })
    .await;
    for (stage, reason) in [
        ("tls", "not_tls"),
        ("connect", "unknown_ca"),
        ("connect", "not_in_scope"),
        ("accept", "address_banned"),
        ("connect", "log_in_rate"),
        ("connect", "identity_fight"),
        ("tls", "crowded_out"),
    ] {
        is_refused(&gateway, stage, reason).await;
    }
    fleet.progress(300).await;
    attackers.shutdown().await;
    assert_eq!(fleet.connected(), HONEST);
    for (id, _) in &fleet.devices {
        assert_eq!(disconnects(id).await, 0.0, "{id:.8} was connected all the time");
    }
    fleet.finish().await;
    world.expect_all_arrive(&fleet).await;
    eventually("every connection is given back", async || {
        series(&metrics(&gateway).await, "sphere_gateway_connections_open", &[]) == 0.0
    })
    .await;
    gateway.shutdown().await;
    world.end().await;
}

/// The leaf is of our own CA and its key is there; only the hub says no. A few times it is a device in need, then an attacker.
#[tokio::test(flavor = "multi_thread")]
async fn one_disabled_device_that_comes_all_the_time_is_turned_away() {
    let mut world = World::new(2).await;
    world.set("mqttSettings__ConnectionsMax", "10");
    world.set("mqttSettings__FailedConnectsPerMin", "10");
    world.set("mqttSettings__LogInsPerMin", "1");
    let spec = DeviceSpec::certificate(&*world.pki.devices[0].id);
    world.hub.put_device(spec.child_of(EDGE).disabled());
    let gateway = world.gateway().await;
    let to = gateway.mqtt_addr();
    drop(admitted(&world.device(1)).await);
    let mut attackers = JoinSet::new();
    // Strangers hold most of the places: the gateway is pressed.
    for _ in 0..6 {
        attackers.spawn(async move {
            loop {
                hold(2, to, &[]).await;
            }
        });
    }
    let disabled = world.device(0);
    attackers.spawn(async move {
        loop {
            let _ = log_in(5, to, &disabled.tls, connect(&disabled)).await;
        }
    });
    is_refused(&gateway, "connect", "disabled").await;
    is_refused(&gateway, "accept", "address_banned").await;
    assert!(refusals(&gateway, "connect", "disabled").await > 30.0, "it had its tries");
    attackers.shutdown().await;
    gateway.shutdown().await;
    world.end().await;
}

/// Behind one router, and the gateway has just started: nobody there has credit.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_shares_its_address_with_a_flood_gets_in() {
    let mut world = World::new(20).await;
    world.set("mqttSettings__FailedConnectsPerMin", "10");
    let gateway = world.gateway().await;
    let to = gateway.mqtt_addr();
    let mut attackers = JoinSet::new();
    for _ in 0..2 {
        attackers.spawn(async move {
            loop {
                hold(1, to, b"hello").await;
            }
        });
    }
    // Full handshakes, and certificates that no CA of the bundle has signed.
    let forged = forged(&world);
    attackers.spawn(bad_log_ins(1, to, forged, usize::MAX, false));
    // Both have long had more failures than an address has.
    eventually("the flood is there", async || {
        refusals(&gateway, "tls", "not_tls").await > 50.0
            && refusals(&gateway, "connect", "unknown_ca").await > 50.0
    })
    .await;
    let fleet = world.fleet(|config| config.interval = Duration::from_millis(100));
    eventually("all devices are connected", async || fleet.connected() == 20).await;
    fleet.progress(100).await;
    attackers.shutdown().await;
    fleet.finish().await;
    world.expect_all_arrive(&fleet).await;
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_too_fast_waits_and_loses_nothing() {
    let mut world = World::new(1).await;
    world.set("mqttSettings__PacketsPerSecMax", "100");
    let gateway = world.gateway().await;
    let begin = tokio::time::Instant::now();
    let fleet = world.fleet(|config| (config.interval, config.window) = (Duration::ZERO, 100));
    fleet.progress(400).await;
    // A burst of 100, the rest at 100 a second: 3 s. A slow machine takes longer, never less; a second is left for a
    // connection that breaks and brings another burst.
    assert!(begin.elapsed() >= Duration::from_secs(2), "after {:?}", begin.elapsed());
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_sends_as_fast_as_it_can_starves_nobody() {
    let world = World::new(21).await;
    let gateway = world.gateway().await;
    let honest = world.fleet_of(0..20, |_| {});
    let greedy = world.fleet_of(20..21, |config| {
        (config.interval, config.window) = (Duration::ZERO, 100);
    });
    greedy.progress(1000).await;
    let before: Vec<u64> = acked(&honest);
    honest.progress(1000).await;
    greedy.abort().await;
    honest.finish().await;
    let after = acked(&honest);
    assert!(before.iter().zip(&after).all(|(before, after)| after > before), "{after:?}");
    world.expect_nothing_lost(&honest).await;
    gateway.shutdown().await;
    world.end().await;
}

fn acked(fleet: &Fleet) -> Vec<u64> {
    fleet.devices.iter().map(|(_, ledger)| ledger.acked.load(Ordering::Relaxed)).collect()
}
