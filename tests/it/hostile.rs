//! Peers that send too much at once, never read, vanish, or never get to the point: they cost themselves, nobody else.

use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{ConnectReturnCode, Packet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::{admitted, connect, refusals, silent_tls, telemetry};
use crate::device;
use crate::support::{PATIENCE, World, eventually, metrics, series};

async fn answers(stream: &mut TlsStream<TcpStream>, wanted: usize) -> usize {
    let mut inbox = BytesMut::new();
    for seen in 0..wanted {
        let read = tokio::time::timeout(PATIENCE, device::read(stream, &mut inbox)).await;
        if !matches!(read, Ok(Ok(_))) {
            return seen;
        }
    }
    wanted
}

#[tokio::test(flavor = "multi_thread")]
async fn more_packets_in_one_flight_than_a_session_holds_are_all_served() {
    let world = World::new(1).await;
    let gateway = world.gateway().await;
    let config = world.device(0);
    drop(admitted(&config).await);
    let mut stream = silent_tls(&config).await;
    let mut bytes = BytesMut::new();
    Packet::Connect(connect(&config)).write(&mut bytes, 10_000).expect("encode");
    for number in 1..=60 {
        Packet::PingReq.write(&mut bytes, 10_000).expect("encode");
        telemetry(&config.id, number, QoS::AtLeastOnce).write(&mut bytes, 10_000).expect("encode");
    }
    stream.write_all(&bytes).await.expect("write");
    stream.flush().await.expect("flush");
    assert_eq!(
        answers(&mut stream, 121).await,
        121,
        "CONNACK, 60 PINGRESP and 60 PUBACK, without another word"
    );
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_vanish_give_their_seats_back() {
    let world = World::new(20).await;
    let gateway = world.gateway().await;
    for index in 0..20 {
        let mut stream = admitted(&world.device(index)).await;
        device::write(&mut stream, &Packet::PingReq).await.expect("write");
        // A reset right behind the PINGREQ: the gateway learns of it when it writes.
        #[allow(deprecated, reason = "the reset is the point")]
        stream.get_ref().0.set_linger(Some(Duration::ZERO)).expect("linger");
    }
    eventually("nobody is connected any more", async || {
        series(&metrics(&gateway).await, "edgehub_connected_clients", &[]) == 0.0
    })
    .await;
    gateway.shutdown().await;
    world.end().await;
}

/// A device that restarted without memory takes over from its own connection, which is stuck in a write: what the old
/// one had in hand is stored before the first message of the new one, or never.
#[tokio::test(flavor = "multi_thread")]
async fn takeover_from_a_peer_that_does_not_read_keeps_the_order() {
    let world = World::new(1).await;
    let gateway = world.gateway().await;
    let config = world.device(0);
    let mut old = admitted(&config).await;
    let mut sent: u16 = 0;
    loop {
        let mut flight = BytesMut::from([0xc0, 0].repeat(4000).as_slice());
        sent += 1;
        telemetry(&config.id, sent, QoS::AtLeastOnce).write(&mut flight, 100_000).expect("encode");
        let write = async {
            old.write_all(&flight).await?;
            old.flush().await
        };
        // Blocked: neither side reads any more. The wait only decides when we believe it.
        if tokio::time::timeout(Duration::from_secs(1), write).await.is_err() {
            break;
        }
    }
    let mut new = admitted(&config).await;
    device::write(&mut new, &telemetry(&config.id, 60_000, QoS::AtLeastOnce)).await.expect("write");
    assert_eq!(answers(&mut new, 1).await, 1);
    eventually("the new connection's message is at the hub", async || {
        world.arrived(&config.id).contains(&60_000)
    })
    .await;
    gateway.shutdown().await;
    assert_eq!(
        world.arrived(&config.id).last(),
        Some(&60_000),
        "nothing of the old one comes after it"
    );
    drop(old);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn above_the_connection_cap_a_newcomer_is_closed_and_counted() {
    let mut world = World::new(3).await;
    world.set("mqttSettings__ConnectionsMax", "3");
    let gateway = world.gateway().await;
    let mut devices = Vec::new();
    for index in 0..3 {
        // One that was refused while the scope was on its way still says goodbye.
        let mut seated = None;
        eventually("there is room for three", async || {
            let answer = device::connect(&world.device(index), 60).await;
            seated = answer.ok().filter(|(_, code)| *code == ConnectReturnCode::Success);
            seated.is_some()
        })
        .await;
        devices.push(seated);
    }
    let before = refusals(&gateway, "accept", "connections_max").await;
    // The reset may be there before the connect has returned.
    if let Ok(mut fourth) = TcpStream::connect(gateway.mqtt_addr()).await {
        let read = tokio::time::timeout(PATIENCE, fourth.read(&mut [0; 1])).await;
        let read = read.expect("closed at once");
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    eventually("it is counted", async || {
        refusals(&gateway, "accept", "connections_max").await > before
    })
    .await;
    assert_eq!(refusals(&gateway, "accept", "connections_max").await, before + 1.0);
    drop(devices);
    // The gateway learns of the closed ones in its own time.
    eventually("there is room again", async || device::connect(&world.device(0), 60).await.is_ok())
        .await;
    drop(admitted(&world.device(0)).await);
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_before_and_after_the_handshake_has_a_limit() {
    let mut world = World::new(1).await;
    // Long enough for the handshakes of a slow machine.
    world.set("mqttSettings__HandshakeTimeoutSecs", "5");
    world.set("mqttSettings__ConnectArrivalTimeout", "00:00:05");
    let gateway = world.gateway().await;
    let mut no_hello = TcpStream::connect(gateway.mqtt_addr()).await.expect("connect");
    let mut no_connect = silent_tls(&world.device(0)).await;
    let mut slow_loris = silent_tls(&world.device(0)).await;
    // A byte now and then of a CONNECT of 16 KiB does not push the limit out.
    slow_loris.write_all(&[0x10, 0xff, 0x7f]).await.expect("the begin of a CONNECT");
    let mut drip = Vec::new();
    loop {
        slow_loris
            .write_all(&[0])
            .await
            .and(slow_loris.flush().await)
            .unwrap_or_else(|e| drip.push(e));
        let read =
            tokio::time::timeout(Duration::from_millis(100), slow_loris.read(&mut [0; 1])).await;
        if read.is_ok() || !drip.is_empty() {
            break;
        }
    }
    let mut half_hello = TcpStream::connect(gateway.mqtt_addr()).await.expect("connect");
    half_hello.write_all(&[22, 3, 1, 2]).await.expect("the begin of a record");
    for (what, read) in [
        ("half a ClientHello", tokio::time::timeout(PATIENCE, half_hello.read(&mut [0; 1])).await),
        ("no ClientHello", tokio::time::timeout(PATIENCE, no_hello.read(&mut [0; 1])).await),
        ("no CONNECT", tokio::time::timeout(PATIENCE, no_connect.read(&mut [0; 1])).await),
    ] {
        let read = read.unwrap_or_else(|_| panic!("{what}: still open"));
        assert!(matches!(read, Ok(0) | Err(_)), "{what}: {read:?}");
    }
    eventually("each is counted", async || {
        refusals(&gateway, "tls", "silent").await == 1.0
            && refusals(&gateway, "tls", "timeout").await == 1.0
            && refusals(&gateway, "connect", "connect_timeout").await == 2.0
    })
    .await;
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_leaves_the_scope_is_disconnected() {
    let mut world = World::new(2).await;
    world.set("DeviceScopeCacheRefreshRateSecs", "1");
    let gateway = world.gateway().await;
    let mut gone = admitted(&world.device(0)).await;
    let mut stays = admitted(&world.device(1)).await;
    world.hub.delete_device(&world.device(0).id);
    assert_eq!(answers(&mut gone, 1).await, 0, "closed without a word");
    device::write(&mut stays, &Packet::PingReq).await.expect("write");
    assert_eq!(answers(&mut stays, 1).await, 1, "the other one is not touched");
    // The connection may end before who was asked to leave is counted.
    eventually("one dismissal is counted", async || {
        let text = metrics(&gateway).await;
        series(&text, "sphere_gateway_events_total", &["event=\"client_dismissed\""]) == 1.0
    })
    .await;
    gateway.shutdown().await;
    world.end().await;
}
