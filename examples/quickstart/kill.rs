//! `kill -9` of the real binary at random moments while devices publish, the hub there or away: everything that was
//! acknowledged arrives, in order, and duplicates stay within what was in flight. Meanwhile desired properties change: in the
//! end each device has the last of them, and the hub what the device reported of it.
//!
//! Shared by the tests and the durability campaign.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::device::{self, Heard, Ledger, Stops};
use crate::site::LocalSite;

/// Devices of the campaign.
pub(crate) const DEVICES: usize = 50;
const DEVICE_WINDOW: usize = 5;
/// `upstreamSettings__windowMessages`: what may be under way to the hub.
const PUMP_WINDOW: u64 = 64;
/// What one broken connection or one kill can make the hub see twice: what was under way, as much again that was settled
/// while the store had not noted it yet, and what the devices send again.
const DUPLICATES_MAX: u64 = 2 * PUMP_WINDOW + (DEVICES * DEVICE_WINDOW) as u64;
/// Longest wait for something that must happen; a bound for a hang, not a measure of speed.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a series of kills showed.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(crate) struct Kills {
    /// Kills done.
    pub(crate) cycles: u64,
    /// Of these, with the hub away.
    pub(crate) offline: u64,
    pub(crate) devices: u64,
    /// Messages acknowledged.
    pub(crate) acked: u64,
    /// Acknowledged and not at the hub. Must be 0.
    pub(crate) lost: u64,
    /// First arrivals out of a device's order. Must be 0.
    pub(crate) reordered: u64,
    pub(crate) duplicates: u64,
    /// In one cycle.
    pub(crate) duplicates_worst: u64,
    /// What went against the promises, in words. Must be empty.
    pub(crate) violations: Vec<String>,
}

/// Kills `binary` so often. `told` hears of each cycle.
pub(crate) async fn kills(binary: &Path, cycles: u64, seed: u64, told: impl Fn(u64)) -> Kills {
    let mut run = Run::start().await;
    let mut random = StdRng::seed_from_u64(seed);
    let mut child = run.site.binary(binary);
    run.progress(10).await;
    let (mut away, mut duplicates) = (false, 0);
    for cycle in 0..cycles {
        let toggle = random.random_bool(0.3);
        match (toggle, away) {
            (true, false) => run.site.hub.go_away().await,
            (true, true) => run.site.hub.come_back().await.expect("the ports are still ours"),
            (false, _) => {}
        }
        away ^= toggle;
        run.desire(cycle);
        // Mostly in the middle of publishing; sometimes while the gateway or the devices are still on their way up.
        if random.random_bool(0.7) {
            run.progress(random.random_range(1..150)).await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
        child.kill().expect("SIGKILL");
        child.wait().expect("it is dead");
        child = run.site.binary(binary);
        run.kills.cycles += 1;
        run.kills.offline += u64::from(away);
        let now = run.site.hub.counts().duplicates;
        run.note_duplicates(cycle, now - duplicates, 1 + u64::from(toggle));
        duplicates = now;
        told(run.kills.cycles);
        if !run.kills.violations.is_empty() {
            break;
        }
    }
    if away {
        run.site.hub.come_back().await.expect("the ports are still ours");
    }
    run.progress(10).await;
    run.settle_desired().await;
    run.finish().await;
    child.kill().expect("SIGKILL");
    child.wait().expect("it is dead");
    run.site.hub.shutdown().await;
    run.kills
}

struct Run {
    site: LocalSite,
    devices: Vec<(String, Arc<Ledger>)>,
    tasks: TaskTracker,
    stops: Stops,
    _button: watch::Sender<u64>,
    /// What each device is to have, by its place.
    desired: HashMap<usize, u64>,
    kills: Kills,
    /// Kills, and times that the hub went or came.
    events: u64,
}

impl Run {
    async fn start() -> Self {
        let mut site = LocalSite::start(DEVICES).await;
        site.set("upstreamSettings__windowMessages", &PUMP_WINDOW.to_string());
        site.set_impatient();
        let button = watch::Sender::new(0);
        let stops = Stops { finish: CancellationToken::new(), abort: CancellationToken::new() };
        let (tasks, mut devices) = (TaskTracker::new(), Vec::new());
        for index in 0..DEVICES {
            let mut config = site.device(index);
            (config.window, config.interval) = (DEVICE_WINDOW, Duration::from_millis(10));
            config.button = Some(button.subscribe());
            let ledger = Arc::new(Ledger::default());
            devices.push((config.id.clone(), Arc::clone(&ledger)));
            tasks.spawn(device::run(config, ledger, stops.clone()));
        }
        tasks.close();
        let kills = Kills { devices: DEVICES as u64, ..Kills::default() };
        let desired = HashMap::new();
        Self { site, devices, tasks, stops, _button: button, desired, kills, events: 0 }
    }

    /// Changes the desired properties of one device, by turns.
    fn desire(&mut self, cycle: u64) {
        let at = cycle as usize % self.devices.len();
        self.site.hub.patch_desired(&self.devices[at].0, None, &json!({"cycle": cycle}));
        self.desired.insert(at, cycle);
    }

    /// Waits until each device has what it is to have, and the hub what it reported of it.
    async fn settle_desired(&mut self) {
        let is_settled = |at: usize, cycle: u64| {
            let (id, ledger) = &self.devices[at];
            let told = |heard: &Heard| heard.desired.get("cycle") == Some(&json!(cycle));
            let reported = self.site.hub.twin(id, None);
            let reported = reported.is_some_and(|twin| {
                let cycle_reported = &twin["properties"]["reported"]["cycle"]["value"];
                *cycle_reported == cycle
            });
            reported && told(&ledger.heard.lock().expect("nobody panics with it"))
        };
        let mut waiting = self.desired.clone();
        let settled = patiently(async || {
            waiting.retain(|at, cycle| !is_settled(*at, *cycle));
            waiting.is_empty()
        });
        if !settled.await {
            let text = format!("{} devices have not what they are to have", waiting.len());
            self.violation(text);
        }
    }

    fn acked(&self) -> u64 {
        self.devices.iter().map(|(_, ledger)| ledger.acked.load(Ordering::Relaxed)).sum()
    }

    fn violation(&mut self, text: String) {
        if self.kills.violations.len() < 10 {
            self.kills.violations.push(text);
        }
    }

    fn note_duplicates(&mut self, cycle: u64, new: u64, events: u64) {
        self.kills.duplicates += new;
        self.kills.duplicates_worst = self.kills.duplicates_worst.max(new);
        self.events += events;
        // Over all: what one kill repeats may arrive only after the next, while the hub is away or the machine is busy.
        let (seen, most) = (self.kills.duplicates, self.events * DUPLICATES_MAX);
        if seen > most {
            self.violation(format!("{seen} duplicates up to cycle {cycle}, {most} are explained"));
        }
    }

    /// Waits until `more` further messages are acknowledged.
    async fn progress(&mut self, more: u64) {
        let goal = self.acked() + more;
        if !patiently(async || self.acked() >= goal).await {
            self.violation(format!("not even {more} more messages are acknowledged"));
        }
    }

    /// Lets everything arrive, and compares.
    async fn finish(&mut self) {
        self.stops.finish.cancel();
        if tokio::time::timeout(PATIENCE, self.tasks.wait()).await.is_err() {
            let waiting = self.devices.iter().filter_map(|(id, ledger)| {
                let of = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
                let (sent, acked) = (of(&ledger.sent), of(&ledger.acked));
                let connected = ledger.connected.load(Ordering::Relaxed);
                let order = of(&ledger.ack_order_violations);
                (sent > acked || connected).then(|| {
                    format!("{}: sent {sent}, acked {acked}, connected {connected}, out of order {order}", &id[..8])
                })
            });
            let waiting: Vec<String> = waiting.collect();
            self.violation(format!(
                "what was sent is not all acknowledged: {}",
                waiting.join("; ")
            ));
        }
        self.stops.abort.cancel();
        self.kills.acked = self.acked();
        let everything = self.acked();
        patiently(async || {
            let counts = self.site.hub.counts();
            counts.received.saturating_sub(counts.duplicates) >= everything
        })
        .await;
        // The rest of what is under way may be a copy.
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.kills.reordered = self.site.hub.counts().reordered;
        let arrived = self.arrivals();
        for (id, ledger) in &self.devices {
            let seen = arrived.get(id);
            let acked = 1..=ledger.acked.load(Ordering::Relaxed);
            let lost = acked.filter(|seq| !seen.is_some_and(|seen| seen.contains(seq))).count();
            self.kills.lost += lost as u64;
        }
        let unordered: u64 =
            self.devices.iter().map(|(_, l)| l.ack_order_violations.load(Ordering::Relaxed)).sum();
        if unordered > 0 {
            self.violation(format!("{unordered} PUBACKs out of order"));
        }
    }

    /// The numbers of each device's messages at the hub. Every copy of a message has the same message id and the same body.
    fn arrivals(&mut self) -> HashMap<String, HashSet<u64>> {
        let mut first = HashMap::new();
        let mut arrived: HashMap<String, HashSet<u64>> = HashMap::new();
        for message in self.site.hub.messages() {
            let seq = message.application_properties.get("seq").cloned().flatten();
            let seq = seq.and_then(|seq| seq.parse().ok()).expect("each message has its number");
            let id = message.system_properties["message-id"].clone();
            arrived.entry(message.device_id.clone()).or_default().insert(seq);
            let device = message.device_id.clone();
            let known = first.entry((device, seq)).or_insert((id.clone(), message.body.clone()));
            if *known != (id, message.body) {
                let device = &message.device_id;
                self.violation(format!("message {seq} of {device:.8} arrived with two contents"));
            }
        }
        arrived
    }
}

/// Waits until `probe` says yes; `false`: not within [`PATIENCE`].
async fn patiently(mut probe: impl AsyncFnMut() -> bool) -> bool {
    let give_up = tokio::time::Instant::now() + PATIENCE;
    while !probe().await {
        if tokio::time::Instant::now() > give_up {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}
