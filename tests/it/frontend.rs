//! What the front end does with peers: good ones, wrong ones, silent ones.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    ConnectReturnCode, LastWill, Packet, Publish, Subscribe, SubscribeFilter, SubscribeReasonCode,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::{admitted, connect, refusals, silent_tls, telemetry};
use crate::device::{self, DeviceConfig};
use crate::site::GATEWAY;
use crate::support::{PATIENCE, World, eventually, metrics, series};

/// Waits until the scope is known, so that a refusal is a judgement.
async fn scope_known(world: &World) {
    drop(admitted(&world.device(0)).await);
}

async fn refused_with(config: &DeviceConfig) -> ConnectReturnCode {
    device::connect(config, 60).await.expect("an answer").1
}

/// The packets that come until the gateway closes.
async fn until_closed(stream: &mut TlsStream<TcpStream>) -> Vec<Packet> {
    let mut inbox = BytesMut::new();
    let mut packets = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, device::read(stream, &mut inbox))
            .await
            .expect("closed in time")
        {
            Ok(packet) => packets.push(packet),
            Err(_) => return packets,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_takes_over() {
    let world = World::new(1).await;
    let gateway = world.gateway().await;
    let mut old = admitted(&world.device(0)).await;
    let mut new = admitted(&world.device(0)).await;
    assert_eq!(until_closed(&mut old).await, [], "the old one is closed without a word");
    device::write(&mut new, &telemetry(&world.device(0).id, 1, QoS::AtLeastOnce))
        .await
        .expect("write");
    let answer = device::read(&mut new, &mut BytesMut::new()).await.expect("a PUBACK");
    assert!(matches!(&answer, Packet::PubAck(a) if a.pkid == 1), "{answer:?}");
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_topic_identity_closes_and_stores_nothing() {
    let world = World::new(2).await;
    let gateway = world.gateway().await;
    let mut stream = admitted(&world.device(0)).await;
    let other = telemetry(&world.device(1).id, 1, QoS::AtLeastOnce);
    device::write(&mut stream, &other).await.expect("write");
    assert_eq!(until_closed(&mut stream).await, [], "no PUBACK");
    assert_eq!(refusals(&gateway, "session", "topic_identity").await, 1.0);
    let text = metrics(&gateway).await;
    assert_eq!(series(&text, "edgehub_messages_received_total", &[]), 0.0);
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_admitted_gets_code_5_and_a_counted_reason() {
    let world = World::new(4).await;
    world.hub.delete_device(&world.device(1).id);
    let disabled = hub_double::DeviceSpec::certificate(&world.device(2).id)
        .child_of(crate::site::EDGE)
        .disabled();
    world.hub.put_device(disabled);
    let gateway = world.gateway().await;
    scope_known(&world).await;

    let stranger = crate::site::mint(1);
    let foreign = |issued| device::client_tls(device::gateway_roots(&world.pki), issued);
    let with = |index: usize, tls: Option<Arc<rustls::ClientConfig>>| {
        let mut config = world.device(index);
        config.tls = tls.unwrap_or(config.tls);
        config
    };
    let mut borrowed = with(0, None);
    borrowed.id = world.device(3).id;
    let cases = [
        ("not in scope", with(1, None)),
        ("disabled", with(2, None)),
        ("certificate of a foreign CA", with(0, Some(foreign(Some(&stranger.devices[0].issued))))),
        ("no certificate", with(0, Some(foreign(None)))),
        ("another device's name", borrowed),
    ];
    for (what, config) in &cases {
        assert_eq!(refused_with(config).await, ConnectReturnCode::NotAuthorized, "{what}");
    }
    let text = metrics(&gateway).await;
    let counted = series(&text, "sphere_gateway_refused_total", &["stage=\"connect\""]);
    assert!(counted >= cases.len() as f64, "each refusal is counted: {counted}");
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribe_answers_each_filter_in_order() {
    let world = World::new(1).await;
    let gateway = world.gateway().await;
    let mut stream = admitted(&world.device(0)).await;
    let id = world.device(0).id;
    let filter = |path: String, qos| SubscribeFilter::new(path, qos);
    let mut subscribe = Subscribe::new_many([
        filter(format!("devices/{id}/messages/devicebound/#"), QoS::AtLeastOnce),
        filter("$iothub/twin/res/#".to_owned(), QoS::AtMostOnce),
        filter("some/other/topic".to_owned(), QoS::AtLeastOnce),
        filter("devices/somebody-else/messages/devicebound/#".to_owned(), QoS::AtLeastOnce),
        filter("$iothub/methods/POST/#".to_owned(), QoS::ExactlyOnce),
    ]);
    subscribe.pkid = 7;
    device::write(&mut stream, &Packet::Subscribe(subscribe)).await.expect("write");
    let Packet::SubAck(answer) =
        device::read(&mut stream, &mut BytesMut::new()).await.expect("SUBACK")
    else {
        panic!("not a SUBACK")
    };
    use SubscribeReasonCode::{Failure, Success};
    let wanted = [
        Success(QoS::AtLeastOnce),
        Success(QoS::AtMostOnce),
        Failure,
        Failure,
        Success(QoS::AtLeastOnce),
    ];
    assert_eq!((answer.pkid, answer.return_codes.as_slice()), (7, &wanted[..]));
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_2_oversized_and_garbage_close_the_connection() {
    let world = World::new(1).await;
    let gateway = world.gateway().await;
    let id = world.device(0).id;

    let mut stream = admitted(&world.device(0)).await;
    device::write(&mut stream, &telemetry(&id, 1, QoS::ExactlyOnce)).await.expect("write");
    assert_eq!(until_closed(&mut stream).await, [], "QoS 2");

    let mut stream = admitted(&world.device(0)).await;
    let topic = format!("devices/{id}/messages/events/");
    let mut large = Publish::new(topic, QoS::AtLeastOnce, vec![b'x'; 263_000]);
    large.pkid = 1;
    // The gateway may close while we still write: both are what we want.
    let _ = device::write(&mut stream, &Packet::Publish(large)).await;
    assert_eq!(until_closed(&mut stream).await, [], "263,000 bytes");

    let mut stream = admitted(&world.device(0)).await;
    stream.write_all(&[0xff; 64]).await.expect("write");
    stream.flush().await.expect("flush");
    assert_eq!(until_closed(&mut stream).await, [], "garbage after CONNECT");

    let mut socket = TcpStream::connect(gateway.mqtt_addr()).await.expect("connect");
    socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("write");
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("closed").ok();
    eventually("garbage instead of TLS is counted", async || {
        refusals(&gateway, "tls", "not_tls").await == 1.0
    })
    .await;

    // And nobody else was harmed.
    drop(admitted(&world.device(0)).await);
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_peers_hold_up_nobody() {
    let world = World::new(2).await;
    let gateway = world.gateway().await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(gateway.mqtt_addr()).await.expect("connect"));
    }
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    fleet.finish().await;
    drop(silent);
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pingreq_is_answered_while_publishes_wait_for_the_disk() {
    let mut world = World::new(1).await;
    // Each commit waits 100 ms, so the PUBACK cannot be first unless PINGREQ waits for it.
    world.set("storeSettings__commitWindowMs", "100");
    let gateway = world.gateway().await;
    let mut stream = admitted(&world.device(0)).await;
    let mut both = BytesMut::new();
    for pkid in 1..=20 {
        telemetry(&world.device(0).id, pkid, QoS::AtLeastOnce)
            .write(&mut both, 10_000)
            .expect("encode");
        if pkid == 10 {
            Packet::PingReq.write(&mut both, 10_000).expect("encode");
        }
    }
    stream.write_all(&both).await.expect("write");
    stream.flush().await.expect("flush");
    let mut inbox = BytesMut::new();
    assert_eq!(device::read(&mut stream, &mut inbox).await.expect("a packet"), Packet::PingResp);
    for wanted in 1..=20 {
        let got = device::read(&mut stream, &mut inbox).await.expect("a packet");
        assert!(
            matches!(&got, Packet::PubAck(a) if a.pkid == wanted),
            "wanted PUBACK {wanted}, got {got:?}"
        );
    }
    gateway.shutdown().await;
    world.end().await;
}

/// A large message fills what a connection may hold outside the store. Once the store has taken it, what came behind it in
/// the same read is served, though nothing else wakes the connection.
#[tokio::test(flavor = "multi_thread")]
async fn pings_behind_a_large_message_do_not_wait_for_its_puback() {
    const PINGS: usize = 200;
    let mut world = World::new(1).await;
    world.set("storeSettings__commitWindowMs", "100");
    let gateway = world.gateway().await;
    let mut stream = admitted(&world.device(0)).await;
    let topic = format!("devices/{}/messages/events/", world.device(0).id);
    let mut large = Publish::new(topic, QoS::AtLeastOnce, vec![b'x'; 70_000]);
    large.pkid = 1;
    let mut bytes = BytesMut::new();
    Packet::Publish(large).write(&mut bytes, 300_000).expect("encode");
    for _ in 0..PINGS {
        Packet::PingReq.write(&mut bytes, 10).expect("encode");
    }
    stream.write_all(&bytes).await.expect("write");
    stream.flush().await.expect("flush");
    let mut inbox = BytesMut::new();
    for _ in 0..PINGS {
        let got = device::read(&mut stream, &mut inbox).await.expect("a packet");
        assert_eq!(got, Packet::PingResp);
    }
    let got = device::read(&mut stream, &mut inbox).await.expect("a packet");
    assert!(matches!(got, Packet::PubAck(_)), "{got:?}");
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_will_of_a_client_that_vanishes_is_telemetry() {
    let world = World::new(1).await;
    let gateway = world.gateway().await;
    let config = world.device(0);
    scope_known(&world).await;
    let mut stream = silent_tls(&config).await;
    let mut connect = connect(&config);
    let topic = format!("devices/{}/messages/events/seq=1", config.id);
    connect.last_will = Some(LastWill::new(topic, "gone", QoS::AtLeastOnce, false));
    device::write(&mut stream, &Packet::Connect(connect)).await.expect("write");
    let answer = device::read(&mut stream, &mut BytesMut::new()).await.expect("CONNACK");
    assert!(matches!(answer, Packet::ConnAck(a) if a.code == ConnectReturnCode::Success));
    drop(stream);
    eventually("the will is at the hub", async || world.hub.counts().received == 1).await;
    let message = world.hub.messages().remove(0);
    assert_eq!(message.body.as_ref(), b"gone");
    assert_eq!(message.application_properties["iothub-MessageType"].as_deref(), Some("Will"));
    gateway.shutdown().await;
    world.end().await;
}

/// The whole session in TLS records and TCP segments of one byte of plaintext each.
#[tokio::test(flavor = "multi_thread")]
async fn a_byte_at_a_time_is_understood() {
    let world = World::new(1).await;
    let gateway = world.gateway().await;
    let mut stream = admitted(&world.device(0)).await;
    let mut bytes = BytesMut::new();
    telemetry(&world.device(0).id, 9, QoS::AtLeastOnce).write(&mut bytes, 10_000).expect("encode");
    for byte in &bytes {
        stream.write_all(&[*byte]).await.expect("write");
        stream.flush().await.expect("flush");
    }
    let answer = device::read(&mut stream, &mut BytesMut::new()).await.expect("PUBACK");
    assert!(matches!(answer, Packet::PubAck(a) if a.pkid == 9));
    gateway.shutdown().await;
    world.end().await;
}

/// Azure/iotedge#7539: the reference loses a CONNECT that travels in the same segment as the client's Finished.
#[tokio::test(flavor = "multi_thread")]
async fn a_connect_in_the_flight_of_the_finished_is_read() {
    let world = World::new(1).await;
    let gateway = world.gateway().await;
    scope_known(&world).await;
    let config = world.device(0);
    let code = tokio::task::spawn_blocking(move || connect_in_one_flight(&config))
        .await
        .expect("no panic");
    assert_eq!(code.expect("a CONNACK"), [0x20, 0x02, 0x00, 0x00]);
    gateway.shutdown().await;
    world.end().await;
}

fn connect_in_one_flight(config: &DeviceConfig) -> io::Result<[u8; 4]> {
    let name = ServerName::try_from(GATEWAY).map_err(io::Error::other)?;
    let mut tls =
        rustls::ClientConnection::new(Arc::clone(&config.tls), name).map_err(io::Error::other)?;
    let mut socket =
        std::net::TcpStream::connect(("127.0.0.1", config.port.load(Ordering::Relaxed)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = BytesMut::new();
    Packet::Connect(connect(config)).write(&mut bytes, 10_000).map_err(io::Error::other)?;
    // rustls keeps plaintext until the handshake allows it: it then leaves behind the Finished, and both go out in
    // one write of the socket.
    tls.writer().write_all(&bytes)?;
    let mut answer = [0; 4];
    let mut got = 0;
    while got < answer.len() {
        let mut flight = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut flight)?;
        }
        socket.write_all(&flight)?;
        if tls.read_tls(&mut socket)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        tls.process_new_packets().map_err(io::Error::other)?;
        match tls.reader().read(&mut answer[got..]) {
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(answer)
}
