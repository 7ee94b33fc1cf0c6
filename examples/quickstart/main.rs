//! The whole job on one machine, in one process: a throw-away PKI, a local IoT Hub (the hub double), the gateway, and
//! simulated Azure Sphere devices. The hub goes away in the middle and comes back; at the end what the devices were
//! promised (PUBACK) is compared with what the hub has. Before, meanwhile and after, the cloud changes desired properties, calls
//! a method and sends messages, and the devices report.
//!
//! `cargo run --release --example quickstart -- --devices 50 --seconds 30 --rate 10 [--json]`

mod both_ways;
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod device;
#[allow(dead_code, reason = "shared with the tests and the measurements, which use more of it")]
mod site;

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use both_ways::{Cloud, Report};
use clap::Parser;
use device::{DeviceConfig, Ledger, Stops};
use site::LocalSite;
use sphere_gateway::gateway::Gateway;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the drain at the end may make no progress at all before we stop waiting.
const STALL: Duration = Duration::from_secs(30);

/// Simulated Azure Sphere devices -> sphere-gateway -> local IoT Hub, with an outage in the middle.
#[derive(Debug, Parser)]
struct Options {
    /// Simulated devices.
    #[arg(long, default_value_t = 20)]
    devices: usize,
    /// Seconds of sending at least; the hub is away for the middle third. What goes both ways may take longer: many devices
    /// get their links to the hub one after the other.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Messages per second of each device; 0 = as fast as its window allows.
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// Unacknowledged messages of a device at most.
    #[arg(long, default_value_t = 10)]
    window: usize,
    /// Print the summary as one JSON object on the last line.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    let summary = Run::start(&options).await.play().await?;
    summary.print(options.json);
    let is_done = summary.both_ways.not_done.is_empty();
    Ok(if summary.lost == 0 && summary.unfinished == 0 && is_done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Everything that runs.
struct Run<'a> {
    options: &'a Options,
    began: Instant,
    site: LocalSite,
    gateway: Gateway,
    devices: Vec<(String, Arc<Ledger>)>,
    /// The button of all devices: how often it was pressed.
    button: watch::Sender<u64>,
    tasks: TaskTracker,
    finish: CancellationToken,
    abort: CancellationToken,
}

impl<'a> Run<'a> {
    async fn start(options: &'a Options) -> Self {
        let mut site = LocalSite::start(options.devices).await;
        site.set_impatient();
        // As "Set Modules" deploys it.
        let desired = serde_json::json!({
            "schemaVersion": "1.1",
            "routes": {"toHub": "FROM /messages/* INTO $upstream"},
            "storeAndForwardConfiguration": {"timeToLiveSecs": -1}
        });
        site.hub.put_desired(site::EDGE, Some("$edgeHub"), &desired);
        let ports = site.hub.ports();
        println!(
            "PKI      tenant CA, edge CA, hub CA and {} device certificates, made just now",
            options.devices
        );
        println!(
            "hub      AMQP {}, HTTPS {}, admin http://127.0.0.1:{}/messages",
            ports.amqp, ports.https, ports.admin
        );
        let gateway = site.gateway().await;
        println!(
            "gateway  MQTT {}, metrics http://{}/metrics, queues in {}",
            gateway.mqtt_addr(),
            gateway.metrics_addr().expect("metrics are on"),
            site.storage().display()
        );
        let mut run = Self {
            options,
            began: Instant::now(),
            site,
            gateway,
            devices: Vec::new(),
            button: watch::Sender::new(0),
            tasks: TaskTracker::new(),
            finish: CancellationToken::new(),
            abort: CancellationToken::new(),
        };
        run.start_devices();
        run
    }

    fn start_devices(&mut self) {
        let interval = match self.options.rate {
            rate if rate > 0.0 => Duration::from_secs_f64((1.0 / rate).min(3600.0)),
            _ => Duration::ZERO,
        };
        for index in 0..self.options.devices {
            let ledger = Arc::new(Ledger::default());
            let config = DeviceConfig {
                window: self.options.window,
                interval,
                filling: 100,
                button: Some(self.button.subscribe()),
                ..self.site.device(index)
            };
            self.devices.push((config.id.clone(), Arc::clone(&ledger)));
            let stops = Stops { finish: self.finish.clone(), abort: self.abort.clone() };
            self.tasks.spawn(device::run(config, ledger, stops));
        }
        self.tasks.close();
    }

    async fn play(self) -> anyhow::Result<Summary> {
        let third = Duration::from_secs(self.options.seconds) / 3;
        let cloud = Cloud { hub: &self.site.hub, devices: &self.devices, button: &self.button };
        let ((), before) = tokio::join!(self.watch("online", third), cloud.before());
        println!("-------  the hub goes away");
        self.site.hub.go_away().await;
        let away_since = Instant::now();
        let ((), mut outage) = tokio::join!(self.watch("OFFLINE", third), cloud.outage());
        let offline = away_since.elapsed();
        outage.patches_at_hub = cloud.patches_at_hub();
        let patches = cloud.patches();
        let backlog_from = self.site.hub.counts().received;
        let backlog_to = self.acked();
        println!(
            "-------  the hub comes back; {} messages wait on disk",
            backlog_to.saturating_sub(backlog_from)
        );
        self.site.hub.come_back().await.context("the hub double takes its ports again")?;
        let drains = self.watch_drain(backlog_to, third);
        let (drained, on_return) = tokio::join!(drains, cloud.on_return(&patches));
        let after = cloud.after().await;
        let stale = both_ways::stale(&self.devices);
        let count = self.devices.len() as u64;
        let both_ways = Report::new(count, (before, outage), (on_return, after), stale);
        println!("-------  the devices stop; everything on its way is delivered");
        let sending = self.began.elapsed();
        self.finish.cancel();
        self.settle().await;
        self.abort.cancel();
        self.tasks.wait().await;
        let backlog = Backlog { from: backlog_from, to: backlog_to, drained };
        let summary = self.summary((sending, offline), &backlog, both_ways);
        self.gateway.shutdown().await;
        self.site.hub.shutdown().await;
        Ok(summary)
    }

    fn acked(&self) -> u64 {
        self.devices.iter().map(|(_, l)| l.acked.load(Ordering::Relaxed)).sum()
    }

    fn sent(&self) -> u64 {
        self.devices.iter().map(|(_, l)| l.sent.load(Ordering::Relaxed)).sum()
    }

    fn line(&self, state: &str) {
        let connected =
            self.devices.iter().filter(|(_, l)| l.connected.load(Ordering::Relaxed)).count();
        let (sent, acked, at_hub) = (self.sent(), self.acked(), self.site.hub.counts().received);
        println!(
            "{:6.1} s {state:8} devices {connected}/{}  sent {sent}  acked {acked}  at hub {at_hub}  on disk {}",
            self.began.elapsed().as_secs_f64(),
            self.devices.len(),
            acked.saturating_sub(at_hub),
        );
    }

    async fn watch(&self, state: &str, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            tokio::time::sleep(
                Duration::from_secs(1).min(end.saturating_duration_since(Instant::now())),
            )
            .await;
            self.line(state);
        }
    }

    /// Watches the backlog go; says how long it took from the return of the hub until all that had waited was there.
    async fn watch_drain(&self, backlog_end: u64, time: Duration) -> Option<Duration> {
        let back = Instant::now();
        let mut drained = None;
        let mut next_line = back;
        while back.elapsed() < time || (drained.is_none() && back.elapsed() < time + STALL) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if drained.is_none() && self.site.hub.counts().received >= backlog_end {
                drained = Some(back.elapsed());
            }
            if Instant::now() >= next_line {
                next_line += Duration::from_secs(1);
                self.line("drains");
            }
        }
        drained
    }

    /// Waits until everything sent is acknowledged and at the hub, or nothing has moved for [`STALL`].
    async fn settle(&self) {
        let mut last = (0, 0);
        let mut moved = Instant::now();
        loop {
            let now = (self.acked(), self.site.hub.counts().received);
            if now.0 == self.sent() && now.1 >= self.sent() {
                return;
            }
            if now != last {
                (last, moved) = (now, Instant::now());
            }
            if moved.elapsed() > STALL {
                eprintln!("nothing has moved for {STALL:?}; counting what is there");
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn summary(
        &self,
        (sending, offline): (Duration, Duration),
        backlog: &Backlog,
        both_ways: Report,
    ) -> Summary {
        let mut at_hub: HashMap<String, Vec<bool>> = HashMap::new();
        let mut arrivals = Vec::new();
        for message in self.site.hub.messages() {
            arrivals.push(message.enqueued_time);
            let seq = message.application_properties.get("seq").cloned().flatten();
            let Some(seq) = seq.and_then(|s| s.parse::<usize>().ok()) else { continue };
            let seen = at_hub.entry(message.device_id).or_default();
            seen.resize(seen.len().max(seq + 1), false);
            seen[seq] = true;
        }
        let mut delivered = 0;
        let mut lost = 0;
        for (id, ledger) in &self.devices {
            let seen = at_hub.get(id).map_or(&[][..], Vec::as_slice);
            delivered += seen.iter().filter(|s| **s).count() as u64;
            let acked = ledger.acked.load(Ordering::Relaxed) as usize;
            lost += (1..=acked).filter(|n| !seen.get(*n).copied().unwrap_or(false)).count() as u64;
        }
        let counts = self.site.hub.counts();
        Summary {
            devices: self.devices.len() as u64,
            seconds: sending.as_secs_f64(),
            sent: self.sent(),
            acked: self.acked(),
            delivered,
            lost,
            unfinished: self.sent() - self.acked(),
            duplicated: counts.duplicates,
            reordered: counts.reordered,
            offline_seconds: offline.as_secs_f64(),
            backlog: backlog.to.saturating_sub(backlog.from),
            drain_seconds: backlog.drained.map(|d| d.as_secs_f64()),
            drain_per_second: backlog.per_second(&arrivals),
            both_ways,
        }
    }
}

/// What waited when the hub came back: the arrivals `from..to` at the hub.
struct Backlog {
    from: u64,
    to: u64,
    drained: Option<Duration>,
}

impl Backlog {
    fn per_second(&self, arrivals: &[i64]) -> Option<f64> {
        let first = arrivals.get(usize::try_from(self.from).ok()?)?;
        let last = arrivals.get(usize::try_from(self.to.checked_sub(1)?).ok()?)?;
        let milliseconds = (last - first).max(1);
        (self.to > self.from).then(|| (self.to - self.from) as f64 * 1000.0 / milliseconds as f64)
    }
}

/// What the run came to.
#[derive(Debug, serde::Serialize)]
struct Summary {
    devices: u64,
    /// Of sending.
    seconds: f64,
    sent: u64,
    acked: u64,
    /// Distinct messages at the hub.
    delivered: u64,
    /// Acknowledged and not at the hub.
    lost: u64,
    /// Sent and not acknowledged when the run ended.
    unfinished: u64,
    duplicated: u64,
    reordered: u64,
    offline_seconds: f64,
    /// Messages that waited on disk when the hub came back.
    backlog: u64,
    /// From the return of the hub until all of these were there: the wait before the next attempt, and the drain.
    drain_seconds: Option<f64>,
    /// Backlog messages per second by the hub's own time stamps, which count milliseconds.
    drain_per_second: Option<f64>,
    /// What came down to the devices, and what they reported.
    both_ways: Report,
}

impl Summary {
    fn print(&self, json: bool) {
        println!();
        println!(
            "sent        {:>10}   by {} devices in {:.0} s",
            self.sent, self.devices, self.seconds
        );
        println!("acked       {:>10}   each on disk before its PUBACK", self.acked);
        println!(
            "delivered   {:>10}   at the hub, under the device's own identity",
            self.delivered
        );
        println!("lost        {:>10}   acked and not at the hub", self.lost);
        println!("duplicates  {:>10}", self.duplicated);
        println!("reordered   {:>10}", self.reordered);
        println!("offline     {:>10.1} s", self.offline_seconds);
        match (self.drain_seconds, self.drain_per_second) {
            (Some(time), Some(rate)) => println!(
                "backlog     {:>10}   gone {time:.1} s after the hub's return; {rate:.0} messages/s while it drained",
                self.backlog
            ),
            _ => println!("backlog     {:>10}   not seen to drain", self.backlog),
        }
        println!();
        self.both_ways.print(self.devices);
        if json {
            println!("{}", serde_json::to_string(self).expect("numbers and texts"));
        }
    }
}
