//! What the gateway counts, in the reference's words and a few of its own.
//!
//! Owns: the names, labels and types of `edgehub.md` section 10 (`edgehub_*`), our own under `sphere_gateway_`, and the
//! limits on how many series there can be.
//! Invariants: nothing here fails or waits for anything but a short lock; counting on a known label set allocates
//! nothing; the number of series is bounded ([`IDS_MAX`], [`OUTPUTS_MAX`], [`STRANGERS_MAX`]): what is beyond a limit
//! is counted under the label value `other`, never lost, and `sphere_gateway_labels_folded_total` says how often.
//! Must not know: who counts, HTTP.
//!
//! Every series carries `iothub`, `edge_device` and `instance_number` (a GUID per process); those that the Azure Monitor
//! collector module picks up also carry `ms_telemetry="True"`. Summaries give the quantiles 0.1, 0.5, 0.9, 0.99 of the
//! last hour (45 to 60 minutes, 5 % relative error) and `_sum` and `_count` since the start.

mod families;
mod family;
mod labels;
mod sketch;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Registry, TextEncoder};

use self::families::{Families, Maker};
pub use self::family::Described;
use self::family::{Family, Kind};
use self::labels::{Folded, Known, Labels, Received, Sent};
pub use self::labels::{IDS_MAX, OUTPUTS_MAX, STRANGERS_MAX};
use crate::clock::{self, SharedClock};
use crate::identity::Identity;

/// The reference's `reason` of a client that was refused for who it is.
const NOT_AUTHENTICATED: &str = "not_authenticated";

/// The `to` label of what goes to the hub.
const UPSTREAM: &str = "upstream";

/// Most gauges that [`Metrics::set_gauge`] makes. Their names are literals of the program: far fewer.
const GAUGES_MAX: usize = 256;

/// Most series of a family for each id that may have any: a few outputs, priorities or reasons.
const SERIES_PER_ID: usize = 4;

type Refresh = Arc<dyn Fn(&Metrics) + Send + Sync>;

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    base: Vec<(&'static str, String)>,
    clock: SharedClock,
    labels: Labels,
    clients: AtomicI64,
    families: Families,
    /// All of `families`.
    made: Vec<Family>,
    gauges: Mutex<HashMap<&'static str, Family>>,
    refresh: Mutex<Vec<Refresh>>,
}

impl Metrics {
    /// The metrics of an edge device of a hub.
    pub fn new(hub_host: &str, edge_device: &str) -> Arc<Self> {
        Self::with_clock(hub_host, edge_device, clock::system())
    }

    /// As [`Self::new`], with series of their own for `ids_max` ids.
    pub fn with_ids_max(hub_host: &str, edge_device: &str, ids_max: usize) -> Arc<Self> {
        let instance = guid(rand::random());
        Self::with_instance(hub_host, edge_device, &instance, clock::system(), ids_max)
    }

    /// As [`Self::new`], with the clock that the summaries' window goes by.
    pub fn with_clock(hub_host: &str, edge_device: &str, clock: SharedClock) -> Arc<Self> {
        Self::with_instance(hub_host, edge_device, &guid(rand::random()), clock, IDS_MAX)
    }

    fn with_instance(
        hub: &str,
        edge: &str,
        instance: &str,
        clock: SharedClock,
        ids_max: usize,
    ) -> Arc<Self> {
        let (registry, made) = (Registry::new(), RefCell::default());
        let base = vec![
            ("edge_device", edge.to_owned()),
            ("instance_number", instance.to_owned()),
            ("iothub", hub.to_owned()),
        ];
        let series_max = SERIES_PER_ID * (ids_max + STRANGERS_MAX);
        let (registered, based, clocked, all) = (&registry, &base, &clock, &made);
        let maker = |folded| Maker {
            registry: registered,
            base: based,
            clock: clocked,
            series_max,
            folded,
            made: all,
        };
        let folds = maker(None).make(
            "sphere_gateway_labels_folded_total",
            "Counts that went to the label value `other`, by what had no place left",
            Kind::Counter,
            &["label"],
            false,
        );
        let fold = |label| folds.cell(&[label]);
        let labels = Labels::new(
            ids_max,
            Folded { id: fold("id"), stranger: fold("stranger"), output: fold("output") },
        );
        let families = Families::new(&maker(Some(fold("series"))));
        families.clients.set(&[], 0.0);
        families.upstream_connected.set(&[], 0.0);
        Arc::new(Self {
            registry,
            base,
            clock,
            labels,
            clients: AtomicI64::new(0),
            families,
            made: made.into_inner(),
            gauges: Mutex::default(),
            refresh: Mutex::default(),
        })
    }

    /// Frees the places of ids that `stays` denies, if all places are taken: until then a series that once existed goes
    /// on, since a counter that vanishes looks like a restart. Who is counted again later begins again at 0. Gives how
    /// many were freed.
    pub fn free_ids(&self, stays: impl Fn(&Identity) -> bool) -> usize {
        let freed = self.labels.free(stays);
        for family in &self.made {
            family.forget_ids(&freed);
        }
        freed.len()
    }

    /// What is always there, whether it has been counted or not; the gauges of [`Self::set_gauge`] come besides.
    pub fn described(&self) -> Vec<Described> {
        self.made.iter().map(Family::described).collect()
    }

    /// A message of `bytes` body bytes came in. `kept` is of this sender alone.
    pub fn message_received(
        &self,
        kept: &mut KeptSeries,
        from: &Identity,
        output: Option<&str>,
        bytes: usize,
    ) {
        let f = &self.families;
        let once = std::iter::once((bytes as f64, 1));
        if output.is_none() {
            if kept.0.is_none() {
                kept.0 = self.labels.of(from);
            }
            if let Some(known) = &kept.0 {
                let made = || self.series_received(&known.id, "");
                let series = known.received.get_or_init(made);
                series.count.add(1);
                return f.size.observe_in(&series.size, once);
            }
        }
        let series = self.series_received(&self.labels.id(from), self.labels.output(output));
        series.count.add(1);
        f.size.observe_in(&series.size, once);
    }

    fn series_received(&self, id: &str, output: &str) -> Received {
        let f = &self.families;
        Received { count: f.received.cell(&[output, id]), size: f.size.cell(&[id]) }
    }

    /// The hub has taken messages in one send operation: `send` is that alone, `process` of each counts from when it was
    /// stored. `priority` as [`priority_label`] writes it.
    pub fn messages_sent(
        &self,
        from: &Identity,
        output: Option<&str>,
        priority: &str,
        send: Duration,
        process: impl ExactSizeIterator<Item = Duration>,
    ) {
        if output.is_none()
            && let Some(known) = self.labels.of(from)
        {
            let series = known.sent.get_or_init(|| self.series_sent(&known.id, "", priority));
            if *series.priority == *priority {
                return self.count_sent(series, send, process);
            }
        }
        let series = self.series_sent(&self.labels.id(from), self.labels.output(output), priority);
        self.count_sent(&series, send, process);
    }

    /// A module has taken messages at an input: as [`Self::messages_sent`].
    pub fn messages_sent_to(
        &self,
        to: &InputName,
        (from, output): (&Identity, Option<&str>),
        priority: &str,
        send: Duration,
        process: impl ExactSizeIterator<Item = Duration>,
    ) {
        let (f, id) = (&self.families, self.labels.id(from));
        let module = self.labels.text(&to.module);
        let (output, input) = (self.labels.output(output), self.labels.output(Some(&to.input)));
        let series = Sent {
            priority: priority.into(),
            count: f.sent.cell(&[&id, &module, output, input, priority]),
            send: f.send_seconds.cell(&[&id, &module, output, input]),
            process: f.process_seconds.cell(&[&id, &module, priority]),
        };
        self.count_sent(&series, send, process);
    }

    fn series_sent(&self, id: &str, output: &str, priority: &str) -> Sent {
        let f = &self.families;
        Sent {
            priority: priority.into(),
            count: f.sent.cell(&[id, UPSTREAM, output, "", priority]),
            send: f.send_seconds.cell(&[id, UPSTREAM, output, ""]),
            process: f.process_seconds.cell(&[id, UPSTREAM, priority]),
        }
    }

    fn count_sent(
        &self,
        series: &Sent,
        send: Duration,
        process: impl ExactSizeIterator<Item = Duration>,
    ) {
        let (f, count) = (&self.families, process.len());
        series.count.add(count as u64);
        let times = u32::try_from(count).unwrap_or(u32::MAX);
        f.send_seconds.observe_in(&series.send, std::iter::once((send.as_secs_f64(), times)));
        let process = process.map(|took| (took.as_secs_f64(), 1));
        f.process_seconds.observe_in(&series.process, process);
    }

    /// A direct method of `to` is called by the cloud.
    pub fn method_called(&self, to: &Identity) {
        self.families.methods.inc(&[UPSTREAM, &self.labels.id(to)]);
    }

    /// It is answered, `took` after it came.
    pub fn method_answered(&self, to: &Identity, took: Duration) {
        let id = self.labels.id(to);
        self.families.method_seconds.observe(&[UPSTREAM, &id], took.as_secs_f64());
    }

    /// A message was dropped on purpose (`no_route`, `ttl_expiry`, ...).
    pub fn message_dropped(&self, reason: &'static str, from: &Identity, output: Option<&str>) {
        let id = self.labels.id(from);
        self.families.dropped.inc(&[reason, &id, self.labels.output(output)]);
    }

    /// The store let go of `count` messages that nobody had settled; whose they were it does not know.
    pub fn messages_removed(&self, reason: &'static str, count: u64) {
        self.families.dropped.add(&[reason, "", ""], count);
    }

    /// A message was not acknowledged (`storage_failure`, ...).
    pub fn message_unacked(&self, reason: &'static str, from: &Identity, output: Option<&str>) {
        let id = self.labels.id(from);
        self.families.unacked.inc(&[reason, &id, self.labels.output(output)]);
    }

    /// A client is connected.
    pub fn client_connected(&self, who: &Identity) {
        self.families.connected.inc(&[&self.labels.id(who)]);
        self.clients.fetch_add(1, Ordering::Relaxed);
    }

    /// A client that was connected is gone.
    pub fn client_disconnected(&self, who: &Identity) {
        self.families.disconnected.inc(&[&self.labels.id(who)]);
        self.clients.fetch_sub(1, Ordering::Relaxed);
    }

    /// Somebody who says to be `id` was refused. The claim is not proved, so strangers have a small budget of labels
    /// of their own and cannot use up the devices'. `denied` = it was looked at who it is: the reference has one word for
    /// all of that.
    pub fn connect_failed(&self, id: &str, reason: &'static str, denied: bool) {
        let id = self.labels.stranger(id);
        let word = if denied { NOT_AUTHENTICATED } else { reason };
        self.families.connect_failed.inc(&[&id, word]);
        self.families.client_refused.inc(&[&id, reason]);
    }

    /// The twin of `who` was asked for and answered within `took`, by the hub (`upstream`) or by us.
    pub fn twin_got(&self, who: &Identity, upstream: bool, took: Duration) {
        let (id, by) = (self.labels.id(who), answered_by(upstream));
        self.families.twin_gets.inc(&[by, &id]);
        self.families.twin_get_seconds.observe(&[by, &id], took.as_secs_f64());
    }

    /// Reported properties of `who` were taken within `took`, by the hub (`upstream`) or by us.
    pub fn twin_reported(&self, who: &Identity, upstream: bool, took: Duration) {
        let (id, by) = (self.labels.id(who), answered_by(upstream));
        self.families.reported.inc(&[by, &id]);
        self.families.reported_seconds.observe(&[by, &id], took.as_secs_f64());
    }

    /// The upstream of `id` went away.
    pub fn went_offline(&self, id: &str) {
        self.families.offline.inc(&[&self.labels.text(id)]);
    }

    /// The upstream of `id` is back, `after` it went away.
    pub fn came_online(&self, id: &str, after: Duration) {
        self.families.offline_seconds.observe(&[&self.labels.text(id)], after.as_secs_f64());
    }

    /// An operation for `id` is tried again.
    pub fn retried(&self, id: &str, operation: &'static str) {
        self.families.retries.inc(&[&self.labels.text(id), operation]);
    }

    /// A message of `sender` is sent again.
    pub fn send_retried(&self, sender: &Identity) {
        self.families.retries.inc(&[&self.labels.id(sender), "send"]);
    }

    /// A peer was refused at a stage (`tls`, `connect`, `publish`, ...).
    pub fn refused(&self, stage: &'static str, reason: &'static str) {
        self.families.refused.inc(&[stage, reason]);
    }

    /// Any other counted event.
    pub fn counted(&self, what: &'static str, reason: &'static str) {
        self.families.events.inc(&[what, reason]);
    }

    /// As [`Self::counted`], `count` times at once.
    pub fn counted_many(&self, what: &'static str, reason: &'static str, count: u64) {
        self.families.events.add(&[what, reason], count);
    }

    /// Whether the hub is reached.
    pub fn set_upstream_connected(&self, connected: bool) {
        self.families.upstream_connected.set(&[], f64::from(u8::from(connected)));
    }

    /// What waits in the queue of `endpoint` and `priority` (as [`priority_label`] writes it).
    pub fn set_queue(&self, endpoint: &str, priority: &str, messages: u64, bytes: u64) {
        self.families.queue_length.set(&[endpoint, priority], messages as f64);
        self.families.queue_bytes.set(&[endpoint, priority], bytes as f64);
    }

    /// The queue is gone for good.
    pub fn forget_queue(&self, endpoint: &str, priority: &str) {
        self.families.queue_length.forget(&[endpoint, priority]);
        self.families.queue_bytes.forget(&[endpoint, priority]);
        self.families.queue_age.forget(&[endpoint, priority]);
    }

    /// How long the oldest message of `endpoint` and `priority` waits; zero = nothing does.
    pub fn set_queue_age(&self, endpoint: &str, priority: &str, oldest: Duration) {
        let secs = oldest.as_secs_f64();
        self.families.queue_age.set(&[endpoint, priority], secs);
    }

    /// Sets the gauge `sphere_gateway_<name>`; `name` is of lower-case letters, digits and `_`.
    pub fn set_gauge(&self, name: &'static str, help: &'static str, value: f64) {
        let fits = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let mut gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        if !gauges.contains_key(name) {
            debug_assert!(fits && gauges.len() < GAUGES_MAX, "gauge {name:?}");
            if !fits || gauges.len() >= GAUGES_MAX {
                return;
            }
            let maker = Maker {
                registry: &self.registry,
                base: &self.base,
                clock: &self.clock,
                series_max: 1,
                folded: None,
                made: &RefCell::default(),
            };
            let family =
                maker.make(&format!("sphere_gateway_{name}"), help, Kind::Gauge, &[], false);
            gauges.insert(name, family);
        }
        if let Some(family) = gauges.get(name) {
            family.set(&[], value);
        }
    }

    /// As [`Self::set_gauge`]; `None`: there is nothing to tell, and no series. (The Azure Monitor collector cannot read an
    /// infinity.)
    pub fn set_gauge_if(&self, name: &'static str, help: &'static str, value: Option<f64>) {
        match value {
            Some(value) => self.set_gauge(name, help, value),
            None => {
                let gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(family) = gauges.get(name) {
                    family.forget(&[]);
                }
            }
        }
    }

    /// Has `refresh` called before each scrape, to bring gauges up to date. It must be quick and must not wait.
    pub fn on_scrape(&self, refresh: impl Fn(&Self) + Send + Sync + 'static) {
        self.refresh.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(refresh));
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        let refresh = self.refresh.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for f in refresh {
            f(self);
        }
        self.families.clients.set(&[], self.clients.load(Ordering::Relaxed) as f64);
        let gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        let mut families: Vec<Family> = gauges.values().chain(&self.made).cloned().collect();
        drop(gauges);
        families.sort_by(|a, b| a.name().cmp(b.name()));
        // One after the other: what the registry gathers of a thousand ids is twice the size of the text.
        let mut text = String::new();
        for family in families {
            let collected = family.collect();
            let has_series = collected.iter().all(|family| !family.get_metric().is_empty());
            if has_series && let Err(e) = TextEncoder::new().encode_utf8(&collected, &mut text) {
                // Writing to a String cannot fail.
                debug_assert!(false, "{e}");
            }
        }
        text
    }
}

/// An input of a module, by which messages are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputName {
    /// `device/module`.
    pub module: Box<str>,
    /// The input.
    pub input: Box<str>,
}

/// What one connection keeps of its sender's series: looking them up takes a lock that all connections share.
#[derive(Default)]
pub struct KeptSeries(Option<Arc<Known>>);

impl fmt::Debug for KeptSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeptSeries").field(&self.0.as_ref().map(|known| &known.id)).finish()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("base", &self.base).finish_non_exhaustive()
    }
}

/// The reference's words for who answered.
fn answered_by(upstream: bool) -> &'static str {
    if upstream { UPSTREAM } else { "edge_hub" }
}

/// The `priority` label: `0` .. `9`, and the reference's own number for a route that gives none.
pub fn priority_label(priority: u8) -> &'static str {
    const LABELS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    LABELS.get(usize::from(priority)).copied().unwrap_or("2000000000")
}

/// A version 4 GUID (RFC 9562 5.4).
fn guid(random: [u8; 16]) -> String {
    let mut b = random;
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: String = b.iter().map(|b| format!("{b:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests;
