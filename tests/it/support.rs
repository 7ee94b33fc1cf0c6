//! What tests ask of a site: a fleet with a ledger, waits with a limit, and the comparison of promises and arrivals.

use std::collections::HashSet;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sphere_gateway::gateway::Gateway;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::device::{self, DeviceConfig, Ledger, Stops};
use crate::site::LocalSite;

/// Longest wait for something that must happen; a bound for a hang, not a measure of speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

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
        let tasks = TaskTracker::new();
        let stops = Stops { finish: CancellationToken::new(), abort: CancellationToken::new() };
        let mut devices = Vec::new();
        for index in 0..self.pki.devices.len() {
            let mut config = self.device(index);
            change(&mut config);
            let ledger = Arc::new(Ledger::default());
            devices.push((config.id.clone(), Arc::clone(&ledger)));
            tasks.spawn(device::run(config, ledger, stops.clone()));
        }
        tasks.close();
        Fleet { devices, tasks, stops }
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
        assert_eq!(self.hub.counts().reordered, 0, "order per device");
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = gateway.metrics_addr().expect("metrics are on");
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("metrics answer");
    socket
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .expect("request");
    let mut text = String::new();
    socket.read_to_string(&mut text).await.expect("answer");
    text
}

/// The sum of all series of `name` whose labels contain all of `labels` (`key="value"`).
pub(crate) fn series(text: &str, name: &str, labels: &[&str]) -> f64 {
    text.lines()
        .filter(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|l| labels.iter().all(|label| l.contains(label)))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}
