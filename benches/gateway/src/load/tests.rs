//! Fleets against the null broker and against brokers that misbehave, over loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::testing::{TestSite, site};
use super::*;
use crate::floor::{Check, null_broker, server_config};

/// Longer than any of this takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// A null broker in this process, until the set is dropped.
async fn broker(site: &TestSite) -> (JoinSet<()>, SocketAddr) {
    let (listener, address) = listen().await;
    let config = server_config(site.folder(), Check::Chain).expect("a server");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { null_broker::serve(listener, config).await.expect("serves") });
    (tasks, address)
}

fn closed(devices: usize, window: usize) -> Load {
    Load { devices, payload_bytes: 256, pace: Pace::Closed { window } }
}

/// Every device's numbers: sent and acknowledged.
fn numbers(fleet: &Fleet) -> Vec<(u64, u64)> {
    let both = |l: &Arc<Ledger>| (l.sent.load(Ordering::Acquire), l.acked.load(Ordering::Acquire));
    fleet.ledgers().iter().map(both).collect()
}

#[test]
fn a_stamp_is_twenty_bytes_little_endian() {
    let stamp = Stamp { device: 1, sequence: 0x0203, due_nanos: 4 };
    let mut body = [0xFF; 21];
    stamp.write(&mut body);
    let golden = [1, 0, 0, 0, 3, 2, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0xFF];
    assert_eq!(body, golden);
    assert_eq!(Stamp::read(&body), Some(stamp));
    assert_eq!([Stamp::read(&body[..19]), Stamp::read(&[0; 20])], [None, None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_stops_exactly_and_can_be_raised() {
    let site = site(4);
    let (_broker, to) = broker(&site).await;
    let mut fleet = Fleet::of(&site.identities, to, closed(4, 5)).await.expect("connects");
    fleet.limit(1002);
    assert_eq!(numbers(&fleet), [(0, 0); 4], "nobody sends before the start");
    fleet.start();
    let mut sample = Sample::default();
    while fleet.acked() < 1002 {
        sample = fleet.sample(Duration::from_millis(20)).await;
    }
    assert!(sample.seconds > 0.0);
    assert_eq!(numbers(&fleet), [(251, 251), (251, 251), (250, 250), (250, 250)]);
    fleet.limit(2000);
    assert_eq!(fleet.finish(PATIENCE).await, 2000);
    assert_eq!(numbers(&fleet), [(500, 500); 4]);
    let conduct = fleet.conduct();
    assert_eq!((conduct.reconnects, conduct.out_of_order, conduct.unknown), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finish_waits_for_what_was_sent() {
    let site = site(2);
    let (_broker, to) = broker(&site).await;
    // A window of more bytes than TLS buffers at once.
    let mut fleet = Fleet::of(&site.identities, to, closed(2, 600)).await.expect("connects");
    fleet.start();
    let (mut acked, mut latencies) = (0, 0);
    while acked == 0 {
        let sample = fleet.sample(Duration::from_millis(50)).await;
        (acked, latencies) = (sample.acked, latencies + sample.latency.count());
        assert_eq!(sample.late.count(), 0, "a closed loop has no due times");
    }
    assert!(latencies > 0 && fleet.finish(PATIENCE).await >= acked);
    for (sent, acked) in numbers(&fleet) {
        assert!(sent == acked && sent > 0, "{sent}, {acked}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_sends_all_that_is_due_and_says_how_late() {
    let site = site(3);
    let (_broker, to) = broker(&site).await;
    let pace = Pace::Open { per_second: 3000.0, window: 10 };
    let load = Load { devices: 3, payload_bytes: 20, pace };
    let mut fleet = Fleet::of(&site.identities, to, load).await.expect("connects");
    fleet.limit(300);
    fleet.start();
    let started = now_nanos();
    assert_eq!(fleet.finish(PATIENCE).await, 300, "a limit is reached also while finishing");
    let nanos = now_nanos() - started;
    assert!(nanos >= 99_000_000, "the last one is due after 99 ms, not {nanos} ns");
    let measured = fleet.orders.take_measured();
    assert_eq!((measured.latency.count(), measured.late.count()), (300, 300));
    assert!(measured.late.max() <= measured.latency.max(), "late is a part of the latency");
}

/// What a misbehaving broker saw: by device, the first byte and the number of each message in order of arrival; an
/// empty entry (0, 0) where a connection began.
type Seen = Arc<Mutex<BTreeMap<u32, Vec<(u8, u64)>>>>;

/// How it treats the acknowledgements of one read, given how many publishes the connection has seen: `None` = hang up.
type Manners = fn(seen: usize, acks: Vec<u8>) -> Option<Vec<u8>>;

async fn rude(listener: TcpListener, site: Arc<TestSite>, seen: Seen, manners: Manners) {
    let config = server_config(site.folder(), Check::Chain).expect("a server");
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.expect("accepts");
        let (acceptor, seen) = (TlsAcceptor::from(Arc::clone(&config)), Arc::clone(&seen));
        connections.spawn(async move {
            let mut tls = acceptor.accept(tcp).await?;
            let (mut inbox, mut count) = (Vec::new(), 0);
            loop {
                let mut out = Vec::new();
                inbox.reserve(16 * 1024);
                if tls.read_buf(&mut inbox).await? == 0 {
                    return io::Result::Ok(());
                }
                note(&inbox, &mut count, &seen);
                let heard = null_broker::answer(&inbox, &mut out)?;
                inbox.drain(..heard.bytes);
                let Some(out) = manners(count, out) else { return Ok(()) };
                tls.write_all(&out).await?;
                tls.flush().await?;
            }
        });
    }
}

/// Writes down the publishes in `bytes`.
fn note(mut bytes: &[u8], count: &mut usize, seen: &Seen) {
    while let Some(frame) = codec::frame(bytes).expect("MQTT") {
        bytes = &bytes[frame.len..];
        if frame.first & 0xF0 != 0x30 {
            continue;
        }
        let topic = usize::from(u16::from_be_bytes([frame.body[0], frame.body[1]]));
        let stamp = Stamp::read(&frame.body[topic + 4..]).expect("a stamp");
        let id = codec::publish_id(frame.body).expect("an id");
        assert_eq!(id, window::id_of(stamp.sequence), "a message keeps its id (MQTT-4.4.0-1)");
        let mut seen = seen.lock().expect("not poisoned");
        let messages = seen.entry(stamp.device).or_default();
        if *count == 0 {
            messages.push((0, 0));
        }
        messages.push((frame.first, stamp.sequence));
        *count += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_broken_connection_nothing_is_missing_and_dup_is_set() {
    let site = Arc::new(site(2));
    let (seen, (listener, to)) = (Seen::default(), listen().await);
    let mut tasks = JoinSet::new();
    // After 40 messages of a connection it hangs up, acknowledgements of the last ones unsaid.
    let manners: Manners = |count, acks| (count < 40).then_some(acks);
    tasks.spawn(rude(listener, Arc::clone(&site), Arc::clone(&seen), manners));
    let mut fleet = Fleet::of(&site.identities, to, closed(2, 7)).await.expect("connects");
    fleet.limit(200);
    fleet.start();
    assert_eq!(fleet.finish(PATIENCE).await, 200);
    assert_eq!(numbers(&fleet), [(100, 100); 2]);
    let conduct = fleet.conduct();
    assert!(conduct.reconnects >= 4 && conduct.resent >= 4, "{conduct:?}");
    assert_eq!((conduct.out_of_order, conduct.unknown), (0, 0));
    for messages in seen.lock().expect("not poisoned").values() {
        let mut known = BTreeSet::new();
        for connection in messages.split(|&(first, _)| first == 0).skip(1) {
            let in_order = connection.is_sorted_by(|(_, a), (_, b)| a + 1 == *b);
            assert!(in_order, "each connection goes on without a hole: {connection:?}");
            for &(first, sequence) in connection {
                let dup = first & codec::DUP != 0;
                assert!(dup || known.insert(sequence), "{sequence} came twice without DUP");
                known.insert(sequence);
            }
        }
        assert_eq!(known, (1..=100).collect(), "every message came");
        assert!(messages.iter().any(|(first, _)| first & codec::DUP != 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_out_of_order_are_counted_and_lose_nothing() {
    let site = Arc::new(site(1));
    let (listener, to) = listen().await;
    let mut tasks = JoinSet::new();
    let manners: Manners = |_, mut acks| {
        // PUBACKs backwards; a CONNACK comes alone and stays as it is.
        if acks.first() == Some(&codec::PUBACK) {
            acks = acks.chunks(4).rev().flatten().copied().collect();
        }
        Some(acks)
    };
    tasks.spawn(rude(listener, Arc::clone(&site), Seen::default(), manners));
    let mut fleet = Fleet::of(&site.identities, to, closed(1, 4)).await.expect("connects");
    fleet.limit(40);
    fleet.start();
    assert_eq!(fleet.finish(PATIENCE).await, 40);
    let conduct = fleet.conduct();
    assert!(conduct.out_of_order > 0 && conduct.unknown == 0, "{conduct:?}");
}

/// Ten messages, one due every 10 ms, each answered after 100 ms, one at a time: the last one is due after 90 ms and
/// answered after a second. Its latency is the difference, not the 100 ms that it was under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_omits_no_wait() {
    let site = Arc::new(site(1));
    let (listener, to) = listen().await;
    let mut tasks = JoinSet::new();
    let manners: Manners = |_, acks| {
        std::thread::sleep(Duration::from_millis(100));
        Some(acks)
    };
    tasks.spawn(rude(listener, Arc::clone(&site), Seen::default(), manners));
    let pace = Pace::Open { per_second: 100.0, window: 1 };
    let load = Load { devices: 1, payload_bytes: 20, pace };
    let mut fleet = Fleet::of(&site.identities, to, load).await.expect("connects");
    fleet.limit(10);
    fleet.start();
    assert_eq!(fleet.finish(PATIENCE).await, 10);
    let measured = fleet.orders.take_measured();
    assert!(measured.latency.max() >= 910_000.0, "{} us", measured.latency.max());
    assert!(measured.latency.quantile(0.5) >= 0.99 * 460_000.0);
    assert_eq!(measured.held, 9, "all but the first were due while the window was full");
    assert_eq!(measured.late.count(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_follow_a_redirect() {
    let site = site(2);
    let (first, to) = broker(&site).await;
    let (_second, elsewhere) = broker(&site).await;
    let mut fleet = Fleet::of(&site.identities, to, closed(2, 3)).await.expect("connects");
    fleet.limit(50);
    fleet.start();
    while fleet.acked() < 50 {
        fleet.sample(Duration::from_millis(5)).await;
    }
    fleet.redirect(elsewhere);
    drop(first);
    while fleet.conduct().reconnects < 2 {
        fleet.sample(Duration::from_millis(5)).await;
    }
    fleet.limit(100);
    assert_eq!(fleet.finish(PATIENCE).await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connects_are_counted_with_those_that_fail() {
    let site = site(3);
    let (broker, to) = broker(&site).await;
    let connected = connect::connect_all(&site.identities, to, 2).await;
    assert_eq!((connected.failed, connected.first_error), (0, None));
    assert!(connected.seconds > 0.0);
    let held = silent(to, 5).await.expect("TCP");
    drop((held, broker));
    // Who is not of the tenant is refused.
    let (_other, to) = self::broker(&self::site(1)).await;
    let refused = connect::connect_all(&site.identities, to, 2).await;
    assert_eq!(refused.failed, 3);
    assert!(refused.first_error.expect("why").starts_with("dev-00000: "));
}

#[tokio::test]
async fn a_load_that_cannot_be_is_refused_in_words() {
    let cases = [
        (Load { devices: 0, ..closed(1, 1) }, "at least one device"),
        (Load { payload_bytes: 19, ..closed(1, 1) }, "20 B"),
        (closed(1, 0), "packet ids"),
        (closed(1, 65_536), "packet ids"),
        (
            Load { pace: Pace::Open { per_second: 0.0, window: 1 }, ..closed(1, 1) },
            "cannot be sent",
        ),
    ];
    for (load, words) in cases {
        let to = SocketAddr::from(([127, 0, 0, 1], 1));
        let Err(why) = Fleet::of(&[], to, load).await else { panic!("{load:?} was taken") };
        assert!(why.to_string().contains(words), "{why}");
    }
}
