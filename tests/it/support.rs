//! What tests ask of a site: a fleet with a ledger, waits with a limit, and the comparison of promises and arrivals.

use std::collections::HashSet;
use std::ops::{Deref, DerefMut, Range};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sphere_gateway::gateway::Gateway;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::device::{self, DeviceConfig, Ledger, Stops};
use crate::process::{Process, scrape};
use crate::site::LocalSite;

/// Longest wait for something that must happen; a bound for a hang, not a measure of speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// The gateway's program.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_sphere-gateway");

/// A site, with what tests ask of it.
pub(crate) struct World(LocalSite);

impl Deref for World {
    type Target = LocalSite;

    fn deref(&self) -> &LocalSite {
        &self.0
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut LocalSite {
        &mut self.0
    }
}

impl World {
    /// A site with `devices` X.509 devices, all in scope.
    pub(crate) async fn new(devices: usize) -> Self {
        Self(LocalSite::start(devices).await)
    }

    /// Ends the hub.
    pub(crate) async fn end(self) {
        self.0.hub.shutdown().await;
    }

    /// Runs all devices.
    pub(crate) fn fleet(&self, change: impl Fn(&mut DeviceConfig)) -> Fleet {
        self.fleet_of(0..self.pki.devices.len(), change)
    }

    /// Runs some of the devices.
    pub(crate) fn fleet_of(
        &self,
        which: Range<usize>,
        change: impl Fn(&mut DeviceConfig),
    ) -> Fleet {
        let tasks = TaskTracker::new();
        let stops = Stops { finish: CancellationToken::new(), abort: CancellationToken::new() };
        let mut devices = Vec::new();
        for index in which {
            let mut config = self.device(index);
            change(&mut config);
            let ledger = Arc::new(Ledger::default());
            devices.push((config.id.clone(), Arc::clone(&ledger)));
            tasks.spawn(device::run(config, ledger, stops.clone()));
        }
        tasks.close();
        Fleet { devices, tasks, stops }
    }

    /// The real binary.
    pub(crate) fn process(&self) -> Process {
        self.process_by(Command::new(BINARY))
    }

    /// The real binary, run by `command`, which keeps its process id and takes one more argument: `run`.
    pub(crate) fn process_by(&self, command: Command) -> Process {
        let child = self.launch(command);
        let mqtt = self.port.load(Ordering::Relaxed);
        Process::new(child, mqtt)
    }

    /// The output of the binary with other arguments, in the same environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        self.with_environment(command.args(arguments)).output().expect("the binary runs")
    }

    /// Writes the `$edgeHub` document and has the gateway read it.
    pub(crate) fn set_document(&mut self, document: &serde_json::Value) {
        self.write_document(&document.to_string());
        let file = self.document().display().to_string();
        self.set("edgeHubTwinFile", &file);
    }

    /// Replaces the text of that document, in place.
    pub(crate) fn write_document(&self, text: &str) {
        std::fs::write(self.document(), text).expect("a document");
    }

    /// Where that document is.
    pub(crate) fn document(&self) -> PathBuf {
        self.beside("twin.json")
    }

    /// A file outside of `StorageFolder`.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        let storage = self.volume();
        storage.parent().expect("the site's own folder").join(name)
    }

    /// `StorageFolder`.
    pub(crate) fn volume(&self) -> PathBuf {
        self.storage().parent().expect("it has edgeHub appended").to_owned()
    }

    /// The numbers of one device's messages at the hub, in the order of arrival.
    pub(crate) fn arrived(&self, device: &str) -> Vec<u64> {
        let mut found = Vec::new();
        for message in self.hub.messages().iter().filter(|m| m.device_id == device) {
            let seq = message.application_properties.get("seq").cloned().flatten();
            found.push(seq.and_then(|s| s.parse().ok()).expect("each message has its number"));
        }
        found
    }

    /// Waits until the hub has every acknowledged message of `fleet`, then checks loss, order and identity.
    pub(crate) async fn expect_nothing_lost(&self, fleet: &Fleet) {
        self.expect_all_arrive(fleet).await;
        assert_eq!(self.hub.counts().reordered, 0, "order per device");
    }

    /// The same where devices' messages take several queues: order is promised within each.
    pub(crate) async fn expect_all_arrive(&self, fleet: &Fleet) {
        for (device, ledger) in &fleet.devices {
            let acked = ledger.acked.load(Ordering::Relaxed);
            eventually(
                &format!("all {acked} acked messages of {device:.8} are at the hub"),
                async || {
                    let arrived: HashSet<u64> = self.arrived(device).into_iter().collect();
                    (1..=acked).all(|n| arrived.contains(&n))
                },
            )
            .await;
            assert_eq!(ledger.ack_order_violations.load(Ordering::Relaxed), 0, "PUBACKs in order");
        }
    }
}

/// Running devices.
pub(crate) struct Fleet {
    pub(crate) devices: Vec<(String, Arc<Ledger>)>,
    tasks: TaskTracker,
    stops: Stops,
}

impl Fleet {
    /// Messages acknowledged so far, of all devices.
    pub(crate) fn acked(&self) -> u64 {
        self.devices.iter().map(|(_, l)| l.acked.load(Ordering::Relaxed)).sum()
    }

    /// Messages sent so far, of all devices.
    pub(crate) fn sent(&self) -> u64 {
        self.devices.iter().map(|(_, l)| l.sent.load(Ordering::Relaxed)).sum()
    }

    /// Devices that are connected now.
    pub(crate) fn connected(&self) -> usize {
        self.devices.iter().filter(|(_, l)| l.connected.load(Ordering::Relaxed)).count()
    }

    /// Waits until `more` further messages are acknowledged.
    pub(crate) async fn progress(&self, more: u64) {
        let goal = self.acked() + more;
        eventually(&format!("{more} more messages are acknowledged"), async || {
            self.acked() >= goal
        })
        .await;
    }

    /// Stops new messages and waits until everything sent is acknowledged.
    pub(crate) async fn finish(&self) {
        self.stops.finish.cancel();
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.unwrap_or_else(|_| {
            panic!(
                "{} of {} sent messages are not acknowledged",
                self.sent() - self.acked(),
                self.sent()
            )
        });
    }

    /// Stops the devices where they are.
    pub(crate) async fn abort(&self) {
        self.stops.abort.cancel();
        self.tasks.wait().await;
    }
}

/// Waits until `probe` says yes; fails after [`PATIENCE`].
pub(crate) async fn eventually(what: &str, mut probe: impl AsyncFnMut() -> bool) {
    let give_up = tokio::time::Instant::now() + PATIENCE;
    while !probe().await {
        assert!(tokio::time::Instant::now() < give_up, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The gateway's metrics text.
pub(crate) async fn metrics(gateway: &Gateway) -> String {
    get(gateway, "/metrics").await
}

/// The administrator's answer, head and body.
pub(crate) async fn get(gateway: &Gateway, path: &str) -> String {
    scrape(gateway.metrics_addr().expect("metrics are on"), path).await
}

/// The sum of all series of `name` whose labels contain all of `labels` (`key="value"`).
pub(crate) fn series(text: &str, name: &str, labels: &[&str]) -> f64 {
    text.lines()
        .filter(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|l| labels.iter().all(|label| l.contains(label)))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}
