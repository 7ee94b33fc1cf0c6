//! Sessions that outlive connections and the gateway itself, seen from the wire.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    ConnectReturnCode, Packet, Subscribe, SubscribeFilter, SubscribeReasonCode,
};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::{connect, silent_tls};
use crate::device;
use crate::support::{PATIENCE, World, metrics, series};

const METHODS: &str = "$iothub/methods/POST/#";

/// Connects until it is let in; also says whether a session was present.
async fn session(world: &World, clean_session: bool) -> (TlsStream<TcpStream>, bool) {
    let config = world.device(0);
    let give_up = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut hello = connect(&config);
        hello.clean_session = clean_session;
        let mut stream = silent_tls(&config).await;
        device::write(&mut stream, &Packet::Connect(hello)).await.expect("write");
        match device::read(&mut stream, &mut BytesMut::new()).await.expect("an answer") {
            Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => {
                return (stream, ack.session_present);
            }
            other => assert!(tokio::time::Instant::now() < give_up, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// As a Sphere device asks: three filters at once.
async fn subscribe_to_three(world: &World, stream: &mut TlsStream<TcpStream>) {
    let id = world.device(0).id;
    let filter = |path: String, qos| SubscribeFilter::new(path, qos);
    let mut subscribe = Subscribe::new_many([
        filter(format!("devices/{id}/messages/devicebound/#"), QoS::AtLeastOnce),
        filter("$iothub/twin/res/#".to_owned(), QoS::AtMostOnce),
        filter(METHODS.to_owned(), QoS::AtMostOnce),
    ]);
    subscribe.pkid = 2;
    device::write(stream, &Packet::Subscribe(subscribe)).await.expect("write");
    let answer = device::read(stream, &mut BytesMut::new()).await.expect("SUBACK");
    let Packet::SubAck(answer) = answer else { panic!("{answer:?}") };
    use SubscribeReasonCode::Success;
    let granted = [Success(QoS::AtLeastOnce), Success(QoS::AtMostOnce), Success(QoS::AtMostOnce)];
    assert_eq!((answer.pkid, &answer.return_codes[..]), (2, &granted[..]));
}

/// The files of kept sessions.
fn files(world: &World) -> Vec<PathBuf> {
    let entries = fs::read_dir(world.storage().join("sessions")).into_iter().flatten();
    let names = entries.map(|entry| entry.expect("an entry").path());
    names.filter(|path| path.extension().is_none()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_present_after_kill_9_until_the_client_begins_anew_or_the_file_is_damaged() {
    let world = World::new(1).await;
    let process = tokio::task::block_in_place(|| world.process());
    let (mut stream, is_present) = session(&world, false).await;
    assert!(!is_present && files(&world).is_empty());
    subscribe_to_three(&world, &mut stream).await;
    process.kill();

    let process = tokio::task::block_in_place(|| world.process());
    assert!(session(&world, false).await.1, "after kill -9");
    assert!(session(&world, false).await.1, "after a takeover");
    assert!(!session(&world, true).await.1, "who begins anew has none");
    assert!(!session(&world, false).await.1, "and has none left");
    assert!(files(&world).is_empty());
    let (mut stream, _) = session(&world, false).await;
    subscribe_to_three(&world, &mut stream).await;
    process.stop().await;

    let file = files(&world).pop().expect("a session");
    let mut bytes = fs::read(&file).expect("readable");
    *bytes.last_mut().expect("not empty") ^= 1;
    fs::write(&file, bytes).expect("writable");
    let process = tokio::task::block_in_place(|| world.process());
    assert!(!session(&world, false).await.1, "it cannot be trusted");
    let labels = ["event=\"kept_session\"", "reason=\"damaged\""];
    assert_eq!(process.counter("sphere_gateway_events_total", &labels).await, 1);
    process.stop().await;
    world.end().await;
}

/// Version and QoS of each kind, as a file has them after `changes` changes: the n-th subscribes to the n-th filter of three
/// (from cloud, methods, answers about the twin), in turns with QoS 0 and 1.
fn document(changes: u32) -> [u8; 6] {
    const NONE: u8 = 255;
    let mut document = [1, NONE, NONE, NONE, NONE, NONE];
    for n in 0..changes {
        document[[1, 3, 5][n as usize % 3]] = u8::from(n / 3 % 2 == 1);
    }
    document
}

fn change(device: &str, n: u32) -> Packet {
    let c2d = format!("devices/{device}/messages/devicebound/#");
    let filter = [c2d.as_str(), METHODS, "$iothub/twin/res/#"][n as usize % 3];
    let qos = if n / 3 % 2 == 1 { QoS::AtLeastOnce } else { QoS::AtMostOnce };
    let mut subscribe = Subscribe::new(filter, qos);
    subscribe.pkid = 1;
    Packet::Subscribe(subscribe)
}

/// A client that changes its subscriptions, and a gateway that is killed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_last_is_kept_whenever_it_is_killed() {
    let seed = std::env::var("SPHERE_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(rand::random);
    println!("SPHERE_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let world = World::new(1).await;
    let device = world.device(0).id;
    let mut acknowledged = 0;
    for round in 0..6 {
        let process = tokio::task::block_in_place(|| world.process());
        let (mut stream, is_present) = session(&world, false).await;
        assert_eq!(is_present, round > 0, "round {round}");
        let after = random.random_range(1..=14);
        for _ in 0..after {
            device::write(&mut stream, &change(&device, acknowledged)).await.expect("write");
            let answer = device::read(&mut stream, &mut BytesMut::new()).await.expect("an answer");
            assert!(matches!(answer, Packet::SubAck(_)), "{answer:?}");
            acknowledged += 1;
        }
        // One more is under way.
        device::write(&mut stream, &change(&device, acknowledged)).await.expect("write");
        tokio::time::sleep(Duration::from_micros(random.random_range(0..3000))).await;
        process.kill();
        let bytes = fs::read(files(&world).pop().expect("a session")).expect("readable");
        let kept = &bytes[bytes.len() - 6..];
        let next = kept == document(acknowledged + 1);
        println!("round {round}: {acknowledged} acknowledged, the next one too: {next}");
        assert!(next || kept == document(acknowledged), "{kept:?} after {acknowledged} changes");
        acknowledged += u32::from(next);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_present_after_a_restart_in_process_and_nothing_is_written_twice() {
    let world = World::new(1).await;
    let gateway = world.gateway().await;
    let (mut stream, _) = session(&world, false).await;
    subscribe_to_three(&world, &mut stream).await;
    let before =
        fs::metadata(&files(&world)[0]).and_then(|facts| facts.modified()).expect("a file");
    for _ in 0..100 {
        subscribe_to_three(&world, &mut stream).await;
    }
    gateway.shutdown().await;
    let gateway = world.gateway().await;
    let (mut stream, is_present) = session(&world, false).await;
    assert!(is_present);
    subscribe_to_three(&world, &mut stream).await;
    let after = fs::metadata(&files(&world)[0]).and_then(|facts| facts.modified()).expect("a file");
    assert_eq!(before, after);
    let text = metrics(&gateway).await;
    let events = "sphere_gateway_events_total";
    assert_eq!(series(&text, events, &["event=\"kept_session\""]), 0.0);
    assert_eq!(series(&text, events, &["event=\"subscriptions_slowed\""]), 0.0);
    gateway.shutdown().await;
    world.end().await;
}
