//! The sections of the report, one file each, and what they share: who takes part, a fresh site per scenario, its time limit.
//!
//! Owns: [`Bench`]. Invariants: contenders take turns within a round, and each begins with an empty folder; a scenario that
//! fails or is late costs its own figures only. Must not know: how a peer is configured, how load is made.

mod connects;
mod crash;
mod drain;
mod flood;
mod floors;
mod forward;
mod ingest;
mod latency;
mod memory;
mod silent;
mod start;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench_common::report::Cell;

use sphere_gateway::certs::Curve;

use crate::floor::null_broker::{self, NullBroker};
use crate::load::{Fleet, Load, Pace};
use crate::machine::{self, Syncs, Usage};
use crate::peers::{Peer, Programs, Site};
use crate::pki::{Pki, TENANT_CURVE};
use crate::report::Book;
use crate::sink::Tally;

use self::watch::Watch;

/// The sections in the order of the report.
pub(crate) const NAMES: [&str; 11] = [
    "floors", "ingest", "forward", "latency", "connects", "memory", "drain", "crash", "start",
    "silent", "flood",
];

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Peer(Peer),
    /// The floor: answers, and keeps nothing.
    Null,
}

pub(crate) const GATEWAY: Who = Who::Peer(Peer::Gateway);
/// Its `fdatasync` waits 5 ms for more messages: the other end of a trade-off.
pub(crate) const GATEWAY_WINDOW: Who = Who::Peer(Peer::GatewayWindow);
pub(crate) const MOSQUITTO: Who = Who::Peer(Peer::Mosquitto);
pub(crate) const MOSQUITTO_TLS: Who = Who::Peer(Peer::MosquittoTls);
pub(crate) const MOSQUITTO_SAFE: Who = Who::Peer(Peer::MosquittoSafe);
pub(crate) const RUMQTTD: Who = Who::Peer(Peer::Rumqttd);
pub(crate) const EVERYONE: [Who; 7] =
    [GATEWAY, GATEWAY_WINDOW, MOSQUITTO, MOSQUITTO_TLS, MOSQUITTO_SAFE, RUMQTTD, Who::Null];

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peer(Peer::Gateway) => "gateway",
            Self::Peer(Peer::GatewayWindow) => "gateway-5ms",
            Self::Peer(Peer::Mosquitto) => "mosquitto",
            Self::Peer(Peer::MosquittoTls) => "mosquitto-tls",
            Self::Peer(Peer::MosquittoSafe) => "mosquitto-safe",
            Self::Peer(Peer::Rumqttd) => "rumqttd",
            Self::Null => "null",
        })
    }
}

/// How a run is done.
pub(crate) struct Bench {
    programs: Programs,
    pub(crate) rounds: usize,
    pub(crate) quick: bool,
    dir: PathBuf,
    contenders: Vec<Who>,
    folders: AtomicUsize,
    /// By the name of the curve and the number of devices.
    pkis: Mutex<BTreeMap<(String, usize), Arc<Pki>>>,
}

/// Devices of a PKI that serves all sections but [`memory`]: each is registered with each peer, which costs it memory.
const DEVICES: usize = 500;

impl Bench {
    pub(crate) fn new(
        programs: Programs,
        contenders: Vec<Who>,
        dir: &Path,
        rounds: usize,
        quick: bool,
    ) -> Self {
        let (folders, pkis) = (AtomicUsize::new(0), Mutex::default());
        Self { programs, rounds, quick, dir: dir.to_owned(), contenders, folders, pkis }
    }

    /// Measures one section into `book`.
    pub(crate) async fn section(&self, name: &str, book: &mut Book) -> Result<()> {
        match name {
            "floors" => floors::measure(self, book).await,
            "ingest" => ingest::measure(self, book).await,
            "forward" => forward::measure(self, book).await,
            "latency" => latency::measure(self, book).await,
            "connects" => connects::measure(self, book).await,
            "memory" => memory::measure(self, book).await,
            "drain" => drain::measure(self, book).await,
            "crash" => crash::measure(self, book).await,
            "start" => start::measure(self, book).await,
            "silent" => silent::measure(self, book).await,
            "flood" => flood::measure(self, book).await,
            _ => bail!("no section {name}; there are {}", NAMES.join(", ")),
        }
    }

    /// Rounds of a section whose figures hardly differ between rounds, or that counts.
    fn few_rounds(&self) -> usize {
        self.rounds.min(3)
    }

    /// Of `wanted`, who takes part; another one begins in each round.
    fn turns(&self, wanted: &[Who], round: usize) -> Vec<Who> {
        let mut turns: Vec<Who> =
            wanted.iter().copied().filter(|who| self.contenders.contains(who)).collect();
        if !turns.is_empty() {
            let first = round % turns.len();
            turns.rotate_left(first);
        }
        turns
    }

    /// Of `wanted`, who takes part, in that order: the rows of a table.
    fn rows(&self, wanted: &[Who]) -> Vec<Who> {
        self.turns(wanted, 0)
    }

    fn pki(&self, devices: usize) -> Result<Arc<Pki>> {
        self.pki_below(TENANT_CURVE, devices)
    }

    fn pki_below(&self, curve: Curve, devices: usize) -> Result<Arc<Pki>> {
        let mut pkis = self.pkis.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (format!("{curve:?}"), devices);
        if let Some(pki) = pkis.get(&key) {
            return Ok(Arc::clone(pki));
        }
        eprintln!("  certificates of {devices} devices below a {curve:?} CA");
        let pki = Arc::new(Pki::mint_below(curve, devices)?);
        pkis.insert(key, Arc::clone(&pki));
        Ok(pki)
    }

    /// A folder of its own.
    fn folder(&self) -> Result<PathBuf> {
        let number = self.folders.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{number}"));
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// A fresh site, not started.
    async fn site(&self, peer: Peer, pki: &Arc<Pki>) -> Result<Site> {
        Site::new(peer, &self.programs, Arc::clone(pki), self.folder()?).await
    }

    /// A fresh process with its way to the sink, for [`DEVICES`].
    async fn running(&self, who: Who) -> Result<Running> {
        self.running_for(who, DEVICES).await
    }

    async fn running_for(&self, who: Who, devices: usize) -> Result<Running> {
        self.running_with(who, self.pki(devices)?).await
    }

    async fn running_with(&self, who: Who, pki: Arc<Pki>) -> Result<Running> {
        let under_test = match who {
            Who::Null => Under::Null(null_broker::spawn(&pki.folder).await?),
            Who::Peer(peer) => {
                let mut site = self.site(peer, &pki).await?;
                site.start().await?;
                site.linked(LINK_PATIENCE).await?;
                Under::Site(site)
            }
        };
        Ok(Running { under_test, pki })
    }
}

/// How long a way to the sink may take to stand.
const LINK_PATIENCE: Duration = Duration::from_secs(30);

enum Under {
    Site(Site),
    Null(NullBroker),
}

/// A process under test. Killed when dropped.
struct Running {
    under_test: Under,
    pki: Arc<Pki>,
}

impl Running {
    fn address(&self) -> SocketAddr {
        match &self.under_test {
            Under::Site(site) => site.address(),
            Under::Null(null) => null.address,
        }
    }

    fn pid(&self) -> u32 {
        match &self.under_test {
            Under::Site(site) => site.pid(),
            Under::Null(null) => null.pid,
        }
    }

    fn tally(&self) -> Option<&Arc<Tally>> {
        match &self.under_test {
            Under::Site(site) => Some(site.tally()),
            Under::Null(_) => None,
        }
    }

    /// Bodies at the sink that are none of the load's.
    fn strays(&self) -> f64 {
        self.tally().map_or(0.0, |tally| tally.arrived().strays as f64)
    }

    fn site(&mut self) -> Result<&mut Site> {
        match &mut self.under_test {
            Under::Site(site) => Ok(site),
            Under::Null(_) => bail!("the null broker has no sink"),
        }
    }

    fn usage(&self) -> Result<Usage> {
        machine::usage(self.pid())
    }

    /// What the gateway says of its store; a scrape costs it CPU, so not within a sample.
    async fn store(&self) -> Option<Store> {
        match &self.under_test {
            Under::Site(site) => Store::read(site.metrics()?).await.ok(),
            Under::Null(_) => None,
        }
    }

    async fn fleet(&self, devices: usize, payload_bytes: usize, pace: Pace) -> Result<Fleet> {
        Fleet::connect(&self.pki, self.address(), Load { devices, payload_bytes, pace }).await
    }

    /// Ends the process and takes its files away.
    async fn end(self) -> Result<()> {
        if let Under::Site(mut site) = self.under_test {
            site.kill().await?;
            let folder = site.folder().to_owned();
            drop(site);
            // The disk is wanted back before the next one; what is left goes with the run's folder.
            let _ = std::fs::remove_dir_all(folder);
        }
        Ok(())
    }
}

/// Counters of the gateway's store, from its metrics.
#[derive(Debug, Clone, Copy, Default)]
struct Store {
    syncs: f64,
    written_bytes: f64,
    records: f64,
}

impl Store {
    async fn read(metrics: SocketAddr) -> Result<Self> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(metrics).await?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await?;
        let mut text = String::new();
        tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut text)).await??;
        let metric = |name: &str| {
            metric(&text, &format!("sphere_gateway_{name}"))
                .with_context(|| format!("no metric {name}"))
        };
        Ok(Self {
            syncs: metric("store_syncs")?,
            written_bytes: metric("store_written_bytes")?,
            records: metric("store_appended_records")?,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            syncs: self.syncs - before.syncs,
            written_bytes: self.written_bytes - before.written_bytes,
            records: self.records - before.records,
        }
    }
}

/// `name{labels} value` of a Prometheus page.
fn metric(page: &str, name: &str) -> Option<f64> {
    let rest = page
        .lines()
        .find_map(|line| line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' '])))?;
    rest.rsplit(' ').next()?.parse().ok()
}

/// fdatasync calls per stored message of the gateway while `doing` (which begins and ends without load, so that both see the
/// same), by the kernel's count and by its own metric; nothing if there is no instrument.
async fn count(bench: &Bench, running: &Running, doing: impl Future<Output = ()>) -> Result<Found> {
    let folder = bench.folder()?;
    let Some(syncs) = Syncs::start(running.pid(), &folder).await else {
        eprintln!("  neither perf nor strace counts system calls here");
        return Ok(Vec::new());
    };
    let before = running.store().await;
    doing.await;
    let after = running.store().await;
    let kernel = syncs.end().await.context("the count of system calls was not written")?;
    let (before, after) = before.zip(after).context("the gateway told no metrics")?;
    let store = after.since(before);
    Ok(vec![(KERNEL, kernel / store.records), (OWN, store.syncs / store.records)])
}

const KERNEL: &str = "fdatasync_per_message_kernel";
const OWN: &str = "fdatasync_per_message_own";

/// Both counts in one cell.
fn syncs_cell(book: &Book, place: &str) -> Cell {
    book.figures.pair(&format!("{place}/{KERNEL}"), &format!("{place}/{OWN}"), 4)
}

/// Runs a scenario within its time limit. One that fails is told, noted, and costs its own figures only.
async fn scenario<T>(
    book: &mut Book,
    what: &str,
    limit: Duration,
    doing: impl Future<Output = Result<T>>,
) -> Option<T> {
    let started = Instant::now();
    let result = match tokio::time::timeout(limit, doing).await {
        Ok(result) => result,
        Err(_) => Err(anyhow::anyhow!("not done within {} s", limit.as_secs())),
    };
    let seconds = started.elapsed().as_secs_f64();
    match result {
        Ok(value) => {
            eprintln!("  {what}: {seconds:.1} s");
            Some(value)
        }
        Err(error) => {
            eprintln!("  {what}: FAILED after {seconds:.1} s: {error:#}");
            book.failures.push(format!("{what}: {error:#}"));
            None
        }
    }
}

/// What a scenario found.
type Found = Vec<(&'static str, f64)>;

/// Figures of which any but 0 is a fault of the process under test or of the instrument, and told as such.
const FAULTS: [(&str, &str); 2] = [
    ("wrong_pubacks", "PUBACKs out of order or for nothing"),
    ("strays", "bodies at the sink that no device sent"),
];

/// Notes what a scenario found under `place` (section, case, who).
fn keep(book: &mut Book, place: &str, found: Option<Found>) {
    for (name, value) in found.into_iter().flatten() {
        if let Some((_, words)) = FAULTS.iter().find(|(fault, _)| *fault == name && value > 0.0) {
            book.failures.push(format!("{place}: {value:.0} {words}"));
        }
        book.figures.add(format!("{place}/{name}"), value);
    }
}

/// Cores that this program (load and sink) used: what it takes, no process under test has.
fn cores(before: Duration, seconds: f64) -> f64 {
    (bench_common::machine::cpu() - before).as_secs_f64() / seconds
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Sequence numbers that each device has a PUBACK for.
fn acked(fleet: &Fleet) -> Vec<u64> {
    fleet.ledgers().iter().map(|ledger| ledger.acked.load(Ordering::Acquire)).collect()
}

/// Says what went wrong between a peer and the devices; gives the PUBACKs that were out of order or for nothing.
fn misconduct(who: Who, fleet: &Fleet) -> f64 {
    let conduct = fleet.conduct();
    if conduct.reconnects > 0 {
        let why = conduct.last_error.as_deref().unwrap_or("unknown");
        let (reconnects, resent) = (conduct.reconnects, conduct.resent);
        eprintln!("  {who}: {reconnects} reconnects, {resent} sent again; the last because: {why}");
    }
    (conduct.out_of_order + conduct.unknown) as f64
}

/// Waits until `count` different messages are acknowledged.
async fn until_acked(fleet: &Fleet, count: u64) {
    while fleet.acked() < count {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_beside_the_figures() {
        let mut book = Book::default();
        keep(&mut book, "a/b", Some(vec![("wrong_pubacks", 0.0), ("strays", 2.0), ("x", 5.0)]));
        keep(&mut book, "a/b", None);
        assert_eq!(book.failures, ["a/b: 2 bodies at the sink that no device sent"]);
        assert_eq!(book.figures.median("a/b/x"), Some(5.0));
    }

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let page = "# HELP store_syncs x\nstore_syncs_more{a=\"b\"} 9\nstore_syncs{a=\"b c\"} 12\nplain 3\n";
        assert_eq!(metric(page, "store_syncs"), Some(12.0));
        assert_eq!(metric(page, "plain"), Some(3.0));
        assert_eq!(metric(page, "store"), None);
    }
}
