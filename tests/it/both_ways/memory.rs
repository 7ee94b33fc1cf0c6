//! What a device with all its subscriptions, and a kept twin, cost in memory. A measurement: by hand, of a release build,
//! whose path `SPHERE_BINARY` names.
//!
//! `SPHERE_BINARY=target/release/sphere-gateway cargo test --test it -- --ignored --nocapture memory_of`

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Packet, Publish, Subscribe, SubscribeFilter};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::schedule::setting;
use crate::device;
use crate::process::Process;
use crate::support::{World, eventually};

/// Bytes in use, by what: resident, and of these not backed by files.
fn resident(process: &Process) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.split_whitespace().next().expect("a number").parse::<u64>().expect("a number")
    };
    (of("VmRSS:"), of("RssAnon:"))
}

fn binary() -> PathBuf {
    std::env::var_os("SPHERE_BINARY").expect("SPHERE_BINARY names a release build").into()
}

/// A site with as many devices; the gateway has its memory as in the image.
async fn world(devices: u64) -> World {
    let mut world = World::new(devices as usize).await;
    world.set("MALLOC_ARENA_MAX", "2");
    world
}

async fn settled(process: &Process, what: &str, devices: u64, before: Option<u64>) -> u64 {
    tokio::time::sleep(Duration::from_secs(setting("SPHERE_SETTLE", 8))).await;
    let (all, anonymous) = resident(process);
    let each = before.map_or(0, |before| anonymous.saturating_sub(before) * 1024 / devices);
    println!("{what}: resident {all} KiB, anonymous {anonymous} KiB, a device {each} bytes");
    for line in process.metrics().await.lines() {
        if ["sphere_gateway_downlinks_", "sphere_gateway_twins"].iter().any(|n| line.starts_with(n))
        {
            println!("    {line}");
        }
    }
    anonymous
}

/// Gauge of links and filter of each kind.
const KINDS: [(&str, &str); 3] = [
    ("methods", "$iothub/methods/POST/#"),
    ("twin", "$iothub/twin/PATCH/properties/desired/#"),
    ("cloud_to_device", ""),
];

/// `SPHERE_KINDS` says which kinds of links are measured: 1 methods, 2 desired properties, 4 messages; default all.
fn is_of(kind: usize) -> bool {
    setting("SPHERE_KINDS", 7) & (1 << kind) != 0
}

/// The fewest links of a kind that is measured.
async fn open_least(process: &Process) -> u64 {
    let mut least = u64::MAX;
    for (n, (name, _)) in KINDS.iter().enumerate() {
        if is_of(n) {
            let name = format!("sphere_gateway_downlinks_{name}");
            least = least.min(process.counter(&name, &[]).await);
        }
    }
    least
}

struct Connected {
    id: String,
    stream: TlsStream<TcpStream>,
    inbox: BytesMut,
}

impl Connected {
    async fn new(world: &World, index: usize) -> Self {
        let config = world.device(index);
        let stream = crate::client::admitted(&config).await;
        Self { id: config.id, stream, inbox: BytesMut::new() }
    }

    async fn write(&mut self, packet: Packet) {
        device::write(&mut self.stream, &packet).await.expect("write");
    }

    async fn until(&mut self, is: impl Fn(&Packet) -> bool) {
        loop {
            let packet = device::read(&mut self.stream, &mut self.inbox).await.expect("read");
            if is(&packet) {
                return;
            }
        }
    }

    async fn subscribe(&mut self) {
        let devicebound = format!("devices/{}/messages/devicebound/#", self.id);
        let filters = ["$iothub/twin/res/#", KINDS[0].1, KINDS[1].1, &devicebound];
        let filters = filters.into_iter().enumerate().filter(|(n, _)| *n == 0 || is_of(n - 1));
        let filters = filters.map(|(_, f)| SubscribeFilter::new(f.to_owned(), QoS::AtLeastOnce));
        let mut subscribe = Subscribe::new_many(filters);
        subscribe.pkid = 1;
        self.write(Packet::Subscribe(subscribe)).await;
        self.until(|packet| matches!(packet, Packet::SubAck(_))).await;
    }

    async fn ask(&mut self, topic: &str, body: String) {
        self.write(Packet::Publish(Publish::new(topic, QoS::AtMostOnce, body))).await;
        let answer = |p: &Packet| matches!(p, Packet::Publish(p) if p.topic.starts_with("$iothub/twin/res/2"));
        self.until(answer).await;
    }

    async fn patch(&mut self, n: usize) {
        let topic = "$iothub/twin/PATCH/properties/reported/?$rid=2";
        let body = json!({"temp": n, "firmware": "1.2.3", "net": {"ssid": "x".repeat(20)}});
        self.ask(topic, body.to_string()).await;
    }
}

async fn connect_and_leave(world: &World, process: &Process, devices: u64, before: u64) {
    let mut all = Vec::new();
    for index in 0..devices as usize {
        all.push(Connected::new(world, index).await);
    }
    let connected = settled(process, "connected", devices, Some(before)).await;
    for device in &mut all {
        device.subscribe().await;
    }
    eventually("all links are open", async || open_least(process).await >= devices).await;
    let subscribed = settled(process, "subscribed, links open", devices, Some(connected)).await;
    for device in &mut all {
        device.ask("$iothub/twin/GET/?$rid=1", String::new()).await;
    }
    let got = settled(process, "each has its twin", devices, Some(subscribed)).await;
    for (n, device) in all.iter_mut().enumerate() {
        device.patch(n).await;
    }
    settled(process, "each has reported", devices, Some(got)).await;
    drop(all);
    eventually("all links are closed", async || open_least(process).await == 0).await;
    settled(process, "all gone, since the start", devices, Some(before)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: see the module"]
async fn memory_of_connected_devices() {
    let rounds = setting("SPHERE_ROUNDS", 1);
    let devices = setting("SPHERE_DEVICES", 1000);
    let world = world(devices).await;
    let process = tokio::task::block_in_place(|| world.process_by(Command::new(binary())));
    drop(Connected::new(&world, 0).await);
    let before = settled(&process, "started, one device was there", devices, None).await;
    for round in 1..=rounds {
        println!("round {round}");
        connect_and_leave(&world, &process, devices, before).await;
    }
    process.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: see the module"]
async fn memory_of_kept_twins() {
    let twins = setting("SPHERE_TWINS", 5000);
    let world = world(twins).await;
    let start = || tokio::task::block_in_place(|| world.process_by(Command::new(binary())));
    let process = start();
    let first = Connected::new(&world, 0).await;
    let before = settled(&process, "started, one device", twins, None).await;
    drop(first);
    for index in 0..twins as usize {
        let mut device = Connected::new(&world, index).await;
        device.subscribe().await;
        device.patch(index).await;
    }
    settled(&process, "reported, one after the other", twins, Some(before)).await;
    tokio::time::sleep(Duration::from_secs(70)).await;
    settled(&process, "a minute later", twins, Some(before)).await;
    // Pending ones: the hub is away.
    world.hub.go_away().await;
    for index in 0..twins as usize {
        let mut device = Connected::new(&world, index).await;
        device.subscribe().await;
        device.patch(index + 1).await;
    }
    settled(&process, "the same, pending", twins, Some(before)).await;
    process.stop().await;
    let began = tokio::time::Instant::now();
    let process = start();
    println!("listens after {:?} with {twins} pending twins", began.elapsed());
    settled(&process, "restarted, all pending", twins, Some(before)).await;
    world.hub.come_back().await.expect("the ports are still ours");
    let began = tokio::time::Instant::now();
    eventually("all are pushed", async || {
        process.counter("sphere_gateway_twins_pending", &[]).await == 0
    })
    .await;
    println!("pushed within {:?}", began.elapsed());
    settled(&process, "pushed", twins, Some(before)).await;
    process.stop().await;
    let began = tokio::time::Instant::now();
    let process = start();
    println!("listens after {:?} with {twins} kept twins", began.elapsed());
    settled(&process, "restarted, none pending", twins, Some(before)).await;
    process.stop().await;
    world.end().await;
}
