//! The figures of the README: the real binary under a load of simulated devices, against the hub double.
//!
//! `cargo build --release && cargo run --release --example measure -- target/release/sphere-gateway`
//!
//! Device simulation, hub double and gateway share the machine's cores; CPU time and memory are the gateway's own, read
//! from /proc. Not a benchmark against peers: a first look.

#[path = "../quickstart/device.rs"]
mod device;
#[allow(dead_code, reason = "shared with the tests and the quickstart")]
#[path = "../quickstart/site.rs"]
mod site;

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Parser;
use device::{DeviceConfig, Ledger, Stops};
use rumqttc::mqttbytes::v4::ConnectReturnCode;
use site::LocalSite;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Measures the gateway's binary.
#[derive(Debug, Parser)]
struct Options {
    /// The binary.
    binary: PathBuf,
    /// Connected and idle devices of the memory figure.
    #[arg(long, default_value_t = 1000)]
    devices: usize,
    /// Seconds of each load.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    start_time(&options.binary).await;
    memory(&options).await;
    for (devices, window) in [(50, 1), (50, 20), (500, 1)] {
        load(&options, devices, window).await;
    }
}

/// From the spawn of the process until it says that it listens.
async fn start_time(binary: &Path) {
    let site = LocalSite::start(1).await;
    let mut times = Vec::new();
    for _ in 0..7 {
        let start = Instant::now();
        let mut child = site.binary(binary);
        times.push(start.elapsed());
        stop(&mut child);
    }
    times.sort();
    println!(
        "start to listening: {:.1} ms (median of {})",
        times[3].as_secs_f64() * 1e3,
        times.len()
    );
    site.hub.shutdown().await;
}

async fn memory(options: &Options) {
    let site = LocalSite::start(options.devices).await;
    let mut child = site.binary(&options.binary);
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("idle RSS: {} KB (scope of {} devices)", rss_kb(&child), options.devices);
    let mut held = Vec::new();
    for index in 0..options.devices {
        let (stream, code) = device::connect(&site.device(index), 240).await.expect("an answer");
        assert_eq!(code, ConnectReturnCode::Success);
        held.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("RSS with {} connected devices: {} KB", held.len(), rss_kb(&child));
    stop(&mut child);
    site.hub.shutdown().await;
}

async fn load(options: &Options, devices: usize, window: usize) {
    let site = LocalSite::start(devices).await;
    let mut child = site.binary(&options.binary);
    let tasks = TaskTracker::new();
    let stops = Stops { finish: CancellationToken::new(), abort: CancellationToken::new() };
    let mut ledgers = Vec::new();
    for index in 0..devices {
        let ledger = Arc::new(Ledger::default());
        ledgers.push(Arc::clone(&ledger));
        let config =
            DeviceConfig { window, interval: Duration::ZERO, filling: 200, ..site.device(index) };
        tasks.spawn(device::run(config, ledger, stops.clone()));
    }
    tasks.close();
    let acked = || ledgers.iter().map(|l| l.acked.load(Ordering::Relaxed)).sum::<u64>();
    while ledgers.iter().any(|l| l.acked.load(Ordering::Relaxed) == 0) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (start, acked_before) = (Instant::now(), acked());
    let (at_hub_before, cpu_before) = (site.hub.counts().received, cpu_seconds(&child));
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds(&child) - cpu_before);
    let (acked_now, at_hub) = (acked() - acked_before, site.hub.counts().received - at_hub_before);
    println!(
        "{devices} devices, window {window}, about 250 B: {:.0} acked/s, {:.0} forwarded/s, {:.2} CPU s per 100k acked, RSS {} KB",
        acked_now as f64 / seconds,
        at_hub as f64 / seconds,
        cpu * 1e5 / acked_now as f64,
        rss_kb(&child)
    );
    stops.finish.cancel();
    tasks.wait().await;
    let goal = acked();
    let patience = Instant::now() + Duration::from_secs(120);
    while site.hub.counts().distinct() < goal && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let counts = site.hub.counts();
    println!(
        "  acked {goal}, lost {}, duplicates {}, reordered {}",
        goal.saturating_sub(counts.distinct()),
        counts.duplicates,
        counts.reordered
    );
    stop(&mut child);
    site.hub.shutdown().await;
}

fn stop(child: &mut Child) {
    child.kill().expect("it runs");
    child.wait().expect("it has ended");
}

fn rss_kb(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

fn cpu_seconds(child: &Child) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("it runs");
    // Behind the name in parentheses, which may hold blanks: utime and stime are fields 14 and 15 of proc_pid_stat(5).
    let rest = stat.rsplit(')').next().expect("a name").split_whitespace().skip(11);
    let ticks: f64 = rest.take(2).map(|t| t.parse::<f64>().expect("ticks")).sum();
    // USER_HZ is 100 on every Linux that Rust supports.
    ticks / 100.0
}
