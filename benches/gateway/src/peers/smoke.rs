//! Each peer once, for real: 1,000 messages arrive, an outage of the sink is survived, kill and stop work. Ignored by
//! default, as it needs built programs: `cargo test --release -p gateway-bench smoke -- --ignored --nocapture`.
//!
//! The gateway's and rumqttd's programs are looked for beside the test's own (`target/release`).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::load::{Fleet, Load, Pace};
use crate::pki::Device;

const PATIENCE: Duration = Duration::from_secs(30);

/// One device, as simple as can be.
struct Client {
    stream: TlsStream<TcpStream>,
    id: String,
}

impl Client {
    async fn connect(to: SocketAddr, device: &Device) -> std::io::Result<Self> {
        let user = format!("localhost/{}/?api-version=2020-09-30", device.id);
        let (stream, _) = subscriber::open(to, &device.tls, &device.id, Some(&user)).await?;
        Ok(Self { stream, id: device.id.clone() })
    }

    /// Sends the sequence numbers of `range`, 20 at a time, and waits for their PUBACKs.
    async fn send(&mut self, range: std::ops::RangeInclusive<u64>) -> std::io::Result<()> {
        let numbers: Vec<u64> = range.collect();
        for some in numbers.chunks(20) {
            let mut out = Vec::new();
            for sequence in some {
                let mut body = Vec::new();
                put_text(&mut body, &format!("devices/{}/messages/events/", self.id));
                body.extend(u16::try_from(sequence % 60_000 + 1).expect("small").to_be_bytes());
                body.extend(0_u32.to_le_bytes());
                body.extend(sequence.to_le_bytes());
                body.extend(0_u64.to_le_bytes());
                body.extend([b'x'; 236]);
                let len = body.len();
                out.extend([0x32, (len % 128) as u8 | 0x80, (len / 128) as u8]);
                out.extend(body);
            }
            self.stream.write_all(&out).await?;
            self.stream.flush().await?;
            let mut pubacks = vec![0; 4 * some.len()];
            self.stream.read_exact(&mut pubacks).await?;
            assert!(pubacks.chunks(4).all(|p| p[0] == 0x40), "{pubacks:?}");
        }
        Ok(())
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
    out.extend(text.as_bytes());
}

fn programs() -> Programs {
    let exe = std::env::current_exe().expect("a path");
    let folder = exe.ancestors().nth(2).expect("target/release").to_owned();
    Programs {
        gateway: folder.join("sphere-gateway"),
        mosquitto: "mosquitto".into(),
        rumqttd: folder.join("rumqttd-peer"),
    }
}

/// Waits until `count` different messages arrived; the time it took.
async fn arrived(site: &Site, count: u64) -> Duration {
    let start = Instant::now();
    while site.tally().distinct() < count {
        assert!(start.elapsed() < PATIENCE, "{:?}: {:?}", site.peer, site.tally().arrived());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    start.elapsed()
}

async fn smoke(peer: Peer) -> anyhow::Result<()> {
    let pki = Arc::new(Pki::mint(1)?);
    let device = &pki.devices[0];
    let folder = tempfile::tempdir()?;
    let mut site = Site::new(peer, &programs(), Arc::clone(&pki), folder.path().join("s")).await?;
    let first = site.start().await?;
    site.linked(PATIENCE).await?;
    let mut client = Client::connect(site.address(), device).await?;
    client.send(1..=1000).await?;
    let forwarded = arrived(&site, 1000).await;
    site.sink_delay(Duration::from_millis(50));
    client.send(1001..=1100).await?;
    arrived(&site, 1100).await;
    site.sink_delay(Duration::ZERO);
    site.sink_away().await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.send(1101..=2000).await?;
    let away = site.tally().distinct();
    let back = Instant::now();
    site.sink_back().await?;
    arrived(&site, 2000).await;
    let drained = back.elapsed();
    // Some peers hold messages only in memory: a fact for the report, not a failure of the instrument.
    site.sink_away().await?;
    client.send(2001..=2100).await?;
    site.kill().await?;
    let killed = site.start().await?;
    site.sink_back().await?;
    site.linked(PATIENCE).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let lost = site.tally().lost(&[2100]);
    site.stop().await?;
    let stopped = site.start().await?;
    site.linked(PATIENCE).await?;
    let pid = site.pid();
    let counts = site.tally().arrived();
    drop(site);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "nothing is left behind");
    assert_eq!(counts.strays, 0);
    println!(
        "{peer:?}: start {first:.4} s, after kill {killed:.4} s, after stop {stopped:.4} s; 1,000 forwarded \
         {forwarded:?} after the last PUBACK; {} while away, drained {drained:?} after it was back; lost of 100 after \
         kill -9: {lost}; {counts:?}",
        away - 1100
    );
    if peer == Peer::Gateway {
        assert_eq!((lost, counts.reordered), (0, 0));
    }
    Ok(())
}

/// One after the other: they share the machine.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the gateway, Mosquitto and rumqttd-peer as programs"]
async fn smoke_of_every_peer() {
    let all =
        [Peer::Gateway, Peer::Mosquitto, Peer::MosquittoTls, Peer::MosquittoSafe, Peer::Rumqttd];
    let mut failed = Vec::new();
    let only = std::env::var("PEER").ok();
    for peer in all.into_iter().filter(|p| only.as_deref().is_none_or(|o| format!("{p:?}") == o)) {
        if let Err(error) = smoke(peer).await {
            failed.push(format!("{peer:?}: {error:#}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// CPU seconds of a process, user and system, threads included; clock ticks are hundredths on Linux.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a live process");
    let after_name = stat.rsplit_once(')').expect("a name").1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|f| f.parse::<f64>().expect("a number")).sum();
    ticks / 100.0
}

/// What the sinks cost: one line for each peer. `PEER=Gateway` picks one, `DEVICES`, `WINDOW` and `MESSAGES` change the
/// load, `AWAY=1` has the sink away until all is acknowledged.
async fn rate(peer: Peer) -> anyhow::Result<()> {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
    };
    let (devices, messages) = (number("DEVICES", 50), number("MESSAGES", 200_000));
    let window = usize::try_from(number("WINDOW", 20))?;
    let away = number("AWAY", 0) > 0;
    let devices = usize::try_from(devices)?;
    let pki = Arc::new(Pki::mint(devices)?);
    let folder = tempfile::tempdir()?;
    let mut site = Site::new(peer, &programs(), Arc::clone(&pki), folder.path().join("s")).await?;
    site.start().await?;
    site.linked(PATIENCE).await?;
    let load = Load { devices, payload_bytes: 256, pace: Pace::Closed { window } };
    let mut fleet = Fleet::connect(&pki, site.address(), load).await?;
    fleet.limit(messages);
    if away {
        site.sink_away().await?;
    }
    let cpu = |site: &Site| (cpu_seconds(site.pid()), cpu_seconds(std::process::id()));
    let (before, start) = (cpu(&site), Instant::now());
    fleet.start();
    let acked = loop {
        let sample = fleet.sample(Duration::from_millis(10)).await;
        if fleet.acked() >= messages || start.elapsed() > PATIENCE {
            break sample.acked.max(fleet.acked());
        }
    };
    let in_seconds = start.elapsed().as_secs_f64();
    if away {
        site.sink_back().await?;
        // Some take seconds until they look again: what counts is how fast they drain then.
        arrived(&site, 1).await;
        let drained = arrived(&site, acked).await;
        println!("{peer:?}: {:.0} a second drained", acked as f64 / drained.as_secs_f64());
    }
    arrived(&site, acked).await;
    let out_seconds = start.elapsed().as_secs_f64();
    let after = cpu(&site);
    let per_100k = |seconds: f64| seconds * 100_000.0 / acked as f64;
    println!(
        "{peer:?}: {acked} in {in_seconds:.2} s, through in {out_seconds:.2} s; CPU s per 100k: process {:.2}, load and \
         sink {:.2}; {:?}",
        per_100k(after.0 - before.0),
        per_100k(after.1 - before.1),
        site.tally().arrived()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the gateway, Mosquitto and rumqttd-peer as programs, and a quiet machine"]
async fn rates_of_every_peer() {
    let only = std::env::var("PEER").ok();
    for peer in [Peer::Gateway, Peer::Mosquitto, Peer::MosquittoTls, Peer::Rumqttd] {
        if only.as_deref().is_none_or(|only| format!("{peer:?}") == only) {
            rate(peer).await.expect("a rate");
        }
    }
}
