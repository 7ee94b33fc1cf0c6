//! Packets as large as they may be that never come to their end: what the gateway holds of them, and who suffers.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Packet, Publish};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use crate::client::{admitted, silent_tls};
use crate::device;
use crate::process::Process;
use crate::support::{PATIENCE, World, eventually};

const MIB: u64 = 1 << 20;
/// What all clients together may have sent of packets that are not whole (`front::unfinished`).
const CLIENTS_BYTES_MAX: u64 = 16 * MIB;
/// The same for those who have not logged in.
const STRANGERS_BYTES_MAX: u64 = 2 * MIB;
/// Clients that hold what they can: 40 MiB if they were let.
const HOLDERS: usize = 160;
/// Peers with a CONNECT that has no end: 19 MiB if they were let.
const STRANGERS: usize = 300;
const PUBLISH_BYTES: usize = 256 * 1024;
const CONNECT_BYTES: usize = 64 * 1024 - 16;

/// Bytes of memory that the process has now.
fn resident(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

/// All of a packet but for its last byte: kind, the length of the rest, the rest.
fn unfinished(kind: u8, start: &[u8], bytes: usize) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut length = bytes;
    while length >= 0x80 {
        packet.push(0x80 | (length & 0x7f) as u8);
        length >>= 7;
    }
    packet.push(length as u8);
    packet.extend_from_slice(start);
    packet.resize(packet.len() + bytes - start.len() - 1, b'x');
    packet
}

/// Sends it as far as it is taken, and then holds the connection until it is ended.
async fn hold(mut stream: TlsStream<TcpStream>, packet: Arc<Vec<u8>>, sent: Arc<AtomicUsize>) {
    if stream.write_all(&packet).await.is_ok() && stream.flush().await.is_ok() {
        sent.fetch_add(1, Ordering::Relaxed);
    }
    let _ = stream.read(&mut [0; 64]).await;
}

/// What it may take beside the places: 16 KiB of a read, 4 KiB without a place and the state of TLS, a peer; the allocator's.
fn beside(peers: usize) -> u64 {
    peers as u64 * 40 * 1024 + 8 * MIB
}

/// Watches the memory until `is_so`; the most that there was above `before`.
async fn most_until(process: &Process, before: u64, is_so: impl AsyncFn() -> bool) -> u64 {
    let mut most = 0;
    eventually("what is waited for", async || {
        most = most.max(resident(process).saturating_sub(before));
        is_so().await
    })
    .await;
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_without_an_end_have_a_bound_and_honest_ones_get_through() {
    let mut world = World::new(HOLDERS + 1).await;
    world.set("MaxConnectedClients", &(HOLDERS + 1).to_string());
    let process = world.process();
    let mut streams = Vec::new();
    for index in 0..HOLDERS {
        streams.push(admitted(&world.device(index)).await);
    }
    let honest = world.device(HOLDERS);
    let mut stream = admitted(&honest).await;
    let before = resident(&process);

    let topic = format!("devices/{}/messages/events/", world.pki.devices[0].id);
    let start = [&(topic.len() as u16).to_be_bytes()[..], topic.as_bytes(), &[0, 1]].concat();
    let publish = Arc::new(unfinished(0x32, &start, PUBLISH_BYTES));
    let (mut holders, sent) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for stream in streams {
        holders.spawn(hold(stream, Arc::clone(&publish), Arc::clone(&sent)));
    }
    let waits = async |who: &str, times| {
        let labels = ["event=\"packet_waits\"", &format!("reason=\"{who}\"")];
        process.counter("sphere_gateway_events_total", &labels).await >= times
    };
    let places = CLIENTS_BYTES_MAX / (PUBLISH_BYTES as u64 + 1024);
    let full = async || {
        sent.load(Ordering::Relaxed) as u64 >= places
            && waits("clients", HOLDERS as u64 - places).await
    };
    let most = most_until(&process, before, full).await;
    let bound = CLIENTS_BYTES_MAX + beside(HOLDERS);
    assert!(most <= bound, "{most} bytes for {HOLDERS} clients, {bound} are expected");

    // A small message passes; a large one has its turn, when those before it have had their time.
    let mut inbox = BytesMut::new();
    for (number, bytes) in [(1, 100), (2, 100_000)] {
        let topic = format!("devices/{}/messages/events/", honest.id);
        let mut packet = Publish::new(topic, QoS::AtLeastOnce, vec![b'x'; bytes]);
        packet.pkid = number;
        device::write(&mut stream, &Packet::Publish(packet)).await.expect("write");
        let answer = tokio::time::timeout(PATIENCE, device::read(&mut stream, &mut inbox)).await;
        let answer = answer.expect("in time").expect("a PUBACK");
        assert!(matches!(&answer, Packet::PubAck(ack) if ack.pkid == number), "{answer:?}");
    }
    let labels = ["stage=\"session\"", "reason=\"packet_overdue\""];
    let overdue = process.counter("sphere_gateway_refused_total", &labels).await;
    assert!(overdue > 0, "some had to go");
    let most = resident(&process).saturating_sub(before);
    assert!(most <= bound, "{most} bytes for {HOLDERS} clients, {bound} are expected");

    holders.shutdown().await;
    drop(stream);
    let taken = async || process.counter("sphere_gateway_unfinished_packet_bytes", &[]).await;
    eventually("every place is given back", async || taken().await == 0).await;
    process.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connects_without_an_end_have_a_bound_and_keep_nobody_out() {
    let world = World::new(2).await;
    let process = world.process();
    drop(admitted(&world.device(0)).await);
    let connect = [0, 4, b'M', b'Q', b'T', b'T', 4, 0xc2, 0, 60];
    let connect = Arc::new(unfinished(0x10, &connect, CONNECT_BYTES));
    let (mut holders, sent) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    let mut streams = Vec::new();
    for _ in 0..STRANGERS {
        streams.push(silent_tls(&world.device(0)).await);
    }
    let before = resident(&process);
    for stream in streams {
        holders.spawn(hold(stream, Arc::clone(&connect), Arc::clone(&sent)));
    }
    let labels = ["event=\"packet_waits\"", "reason=\"strangers\""];
    // A place is counted in KiB: 64 each.
    let places = STRANGERS_BYTES_MAX / (64 * 1024);
    let full = async || {
        process.counter("sphere_gateway_events_total", &labels).await >= STRANGERS as u64 - places
    };
    let most = most_until(&process, before, full).await;
    let bound = STRANGERS_BYTES_MAX + beside(STRANGERS);
    assert!(most <= bound, "{most} bytes for {STRANGERS} strangers, {bound} are expected");
    // Whose CONNECT is as a CONNECT is, gets in; and whose message is large, has it taken.
    let device = world.device(1);
    let mut stream = admitted(&device).await;
    let topic = format!("devices/{}/messages/events/", device.id);
    let mut packet = Publish::new(topic, QoS::AtLeastOnce, vec![b'x'; 200_000]);
    packet.pkid = 1;
    device::write(&mut stream, &Packet::Publish(packet)).await.expect("write");
    let mut inbox = BytesMut::new();
    let answer = tokio::time::timeout(PATIENCE, device::read(&mut stream, &mut inbox)).await;
    assert!(matches!(answer.expect("in time").expect("a PUBACK"), Packet::PubAck(_)));
    holders.shutdown().await;
    process.stop().await;
    world.end().await;
}
