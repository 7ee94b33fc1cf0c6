//! One metric name with its series, as a collector of the `prometheus` crate.
//!
//! Owns: [`Family`]: label values -> cell. The crate's own vectors hash label values one after the other without a
//! separator, so that ("a", "bc") and ("ab", "c") share a counter; here label values are compared.
//! Invariants: looking up a known series allocates nothing; a family never has more series than its [`Room`] has:
//! what comes later is counted in a series whose label values all read `other`.
//! Must not know: which names there are.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto;

use super::sketch::Sketch;
use crate::clock::SharedClock;

/// Label value of what is beyond a limit.
pub(super) const OTHER: &str = "other";

/// How long a value counts in a summary's quantiles (`MetricsHistogramMaxAge` of the reference).
pub(super) const SUMMARY_AGE: Duration = Duration::from_secs(3600);

const QUANTILES: [f64; 4] = [0.1, 0.5, 0.9, 0.99];

/// What a family measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Summary,
}

/// The value of one series.
pub(super) enum Cell {
    /// Counter: a whole number.
    Counter(AtomicU64),
    /// Gauge: the bits of an `f64`.
    Gauge(AtomicU64),
    Summary(Mutex<Sketch>),
}

impl Cell {
    /// Adds to a counter.
    pub(super) fn add(&self, count: u64) {
        match self {
            Self::Counter(n) => {
                n.fetch_add(count, Ordering::Relaxed);
            }
            Self::Gauge(_) | Self::Summary(_) => {
                debug_assert!(false, "only counters are counted up")
            }
        }
    }
}

/// Help, labels and kind of a family.
pub(super) struct Shape {
    pub(super) name: String,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    /// Names of the labels that vary.
    pub(super) labels: &'static [&'static str],
}

/// How many series a family may have.
pub(super) struct Room {
    pub(super) series_max: usize,
    /// Counts what is folded for want of room.
    pub(super) folded: Option<Arc<Cell>>,
}

/// A metric, as it is documented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `summary`.
    pub kind: &'static str,
    /// The labels besides those that every series has.
    pub labels: Vec<&'static str>,
    /// Whether it is marked for the Azure Monitor collector.
    pub telemetry: bool,
}

/// One metric name with its series. Cheap to clone; clones share the series.
#[derive(Clone)]
pub(super) struct Family(Arc<Inner>);

struct Inner {
    shape: Shape,
    desc: Desc,
    /// Labels that every series of the process carries.
    constant: Vec<(&'static str, String)>,
    clock: SharedClock,
    room: Room,
    series: RwLock<Table>,
}

#[derive(Default)]
struct Table {
    hasher: RandomState,
    /// By hash of the label values; more than one entry only on a collision.
    by_hash: HashMap<u64, Vec<Series>>,
    len: usize,
}

struct Series {
    values: Box<[Box<str>]>,
    cell: Arc<Cell>,
}

impl Family {
    /// An empty family. `constant` labels are on every series.
    pub(super) fn new(
        shape: Shape,
        constant: Vec<(&'static str, String)>,
        clock: SharedClock,
        room: Room,
    ) -> Self {
        let variable = shape.labels.iter().map(|l| (*l).to_owned()).collect();
        let fixed = constant.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        let desc = Desc::new(shape.name.clone(), shape.help.to_owned(), variable, fixed)
            .expect("the callers' names are literals in Prometheus' alphabet");
        Self(Arc::new(Inner { shape, desc, constant, clock, room, series: RwLock::default() }))
    }

    /// Adds 1.
    pub(super) fn inc(&self, values: &[&str]) {
        self.add(values, 1);
    }

    /// Adds to a counter.
    pub(super) fn add(&self, values: &[&str], count: u64) {
        self.cell(values).add(count);
    }

    /// Sets a gauge.
    pub(super) fn set(&self, values: &[&str], value: f64) {
        match &*self.cell(values) {
            Cell::Gauge(bits) => bits.store(value.to_bits(), Ordering::Relaxed),
            Cell::Counter(_) | Cell::Summary(_) => debug_assert!(false, "only gauges are set"),
        }
    }

    /// Observes a value of a summary.
    pub(super) fn observe(&self, values: &[&str], value: f64) {
        self.observe_in(&self.cell(values), std::iter::once((value, 1)));
    }

    /// Observes values, each so many times, in `cell`, which is one of this family's summaries.
    pub(super) fn observe_in(&self, cell: &Cell, observed: impl Iterator<Item = (f64, u32)>) {
        match cell {
            Cell::Summary(sketch) => {
                let now = self.0.clock.monotonic();
                let mut sketch = sketch.lock().unwrap_or_else(PoisonError::into_inner);
                observed.for_each(|(value, times)| sketch.observe(value, times, now));
            }
            Cell::Counter(_) | Cell::Gauge(_) => debug_assert!(false, "only summaries observe"),
        }
    }

    /// Takes a series away.
    pub(super) fn forget(&self, values: &[&str]) {
        let mut table = self.0.series.write().unwrap_or_else(PoisonError::into_inner);
        let hash = table.hash(values);
        let Some(slot) = table.by_hash.get_mut(&hash) else {
            return;
        };
        let before = slot.len();
        slot.retain(|series| !series.is(values));
        let gone = before - slot.len();
        table.len -= gone;
    }

    /// Takes the series of these ids away.
    pub(super) fn forget_ids(&self, gone: &HashSet<Arc<str>>) {
        let is_id = |label: &&str| matches!(*label, "id" | "from");
        let Some(place) = self.0.shape.labels.iter().position(is_id).filter(|_| !gone.is_empty())
        else {
            return;
        };
        let mut table = self.0.series.write().unwrap_or_else(PoisonError::into_inner);
        let mut left = 0;
        table.by_hash.retain(|_, slot| {
            slot.retain(|series| !gone.contains(&*series.values[place]));
            left += slot.len();
            !slot.is_empty()
        });
        table.len = left;
    }

    pub(super) fn name(&self) -> &str {
        &self.0.shape.name
    }

    pub(super) fn described(&self) -> Described {
        let Shape { name, kind, labels, .. } = &self.0.shape;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Summary => "summary",
        };
        let telemetry = self.0.constant.iter().any(|(name, _)| *name == "ms_telemetry");
        Described { name: name.clone(), kind, labels: labels.to_vec(), telemetry }
    }

    /// The cell of a series, which is made if it is not there. To be kept only for series that are never taken away.
    pub(super) fn cell(&self, values: &[&str]) -> Arc<Cell> {
        debug_assert_eq!(values.len(), self.0.shape.labels.len(), "{}", self.0.shape.name);
        let table = self.0.series.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = table.find(values) {
            return cell;
        }
        drop(table);
        self.0.create(values)
    }
}

impl Inner {
    fn create(&self, values: &[&str]) -> Arc<Cell> {
        let mut table = self.series.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = table.find(values) {
            return cell;
        }
        if table.len < self.room.series_max {
            return table.insert(values, self.new_cell());
        }
        if let Some(folded) = &self.room.folded {
            folded.add(1);
        }
        let other = vec![OTHER; values.len()];
        table.find(&other).unwrap_or_else(|| table.insert(&other, self.new_cell()))
    }

    fn new_cell(&self) -> Arc<Cell> {
        Arc::new(match self.shape.kind {
            Kind::Counter => Cell::Counter(AtomicU64::new(0)),
            Kind::Gauge => Cell::Gauge(AtomicU64::new(0f64.to_bits())),
            Kind::Summary => {
                Cell::Summary(Mutex::new(Sketch::new(SUMMARY_AGE, self.clock.monotonic())))
            }
        })
    }

    fn metric(&self, series: &Series) -> proto::Metric {
        let constant = self.constant.iter().map(|(name, value)| label(name, value));
        let variable = self.shape.labels.iter().zip(&series.values).map(|(n, v)| label(n, v));
        let mut labels: Vec<proto::LabelPair> = constant.chain(variable).collect();
        labels.sort_by(|a, b| a.name().cmp(b.name()));
        let mut metric = proto::Metric::from_label(labels);
        match &*series.cell {
            Cell::Counter(n) => {
                let mut counter = proto::Counter::default();
                counter.set_value(n.load(Ordering::Relaxed) as f64);
                metric.set_counter(counter);
            }
            Cell::Gauge(bits) => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(f64::from_bits(bits.load(Ordering::Relaxed)));
                metric.set_gauge(gauge);
            }
            Cell::Summary(sketch) => metric.set_summary(self.summary(sketch)),
        }
        metric
    }

    fn summary(&self, sketch: &Mutex<Sketch>) -> proto::Summary {
        let mut sketch = sketch.lock().unwrap_or_else(PoisonError::into_inner);
        let values = sketch.quantiles(QUANTILES, self.clock.monotonic());
        let quantiles = QUANTILES.iter().zip(values).map(|(quantile, value)| {
            let mut q = proto::Quantile::default();
            q.set_quantile(*quantile);
            q.set_value(value);
            q
        });
        let mut summary = proto::Summary::default();
        summary.set_sample_sum(sketch.sum());
        summary.set_sample_count(sketch.count());
        summary.set_quantile(quantiles.collect());
        summary
    }
}

impl Table {
    fn hash(&self, values: &[&str]) -> u64 {
        self.hasher.hash_one(values)
    }

    fn find(&self, values: &[&str]) -> Option<Arc<Cell>> {
        let slot = self.by_hash.get(&self.hash(values))?;
        slot.iter().find(|series| series.is(values)).map(|series| Arc::clone(&series.cell))
    }

    fn insert(&mut self, values: &[&str], cell: Arc<Cell>) -> Arc<Cell> {
        let hash = self.hash(values);
        let values = values.iter().map(|v| (*v).into()).collect();
        self.by_hash.entry(hash).or_default().push(Series { values, cell: Arc::clone(&cell) });
        self.len += 1;
        cell
    }
}

impl Series {
    fn is(&self, values: &[&str]) -> bool {
        self.values.iter().map(|v| &**v).eq(values.iter().copied())
    }
}

impl Collector for Family {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let table = self.0.series.read().unwrap_or_else(PoisonError::into_inner);
        let mut series: Vec<&Series> = table.by_hash.values().flatten().collect();
        series.sort_by(|a, b| a.values.cmp(&b.values));
        let metrics = series.into_iter().map(|s| self.0.metric(s)).collect();
        let mut family = proto::MetricFamily::default();
        family.set_name(self.0.shape.name.clone());
        family.set_help(self.0.shape.help.to_owned());
        family.set_field_type(match self.0.shape.kind {
            Kind::Counter => proto::MetricType::COUNTER,
            Kind::Gauge => proto::MetricType::GAUGE,
            Kind::Summary => proto::MetricType::SUMMARY,
        });
        family.set_metric(metrics);
        vec![family]
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Family").field(&self.0.shape.name).finish()
    }
}

fn label(name: &str, value: &str) -> proto::LabelPair {
    let mut pair = proto::LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}
