//! Tells the `$edgeHub` twin what there is to tell, rarely enough for the hub's quota.
//!
//! Owns: when it is told. Invariants: at most one patch is under way; between two there is the set time at least, and more
//! (doubling up to [`GROWTH_MAX`] times that) as long as changes keep coming; only word of a document never waits longer than the set
//! time. A storm of reconnects is a handful of patches, whatever its size. Must not know: the shapes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::reported::{Patch, Reported, Status};
use crate::clock::SharedClock;
use crate::front::roster::Roster;
use crate::metrics::Metrics;
use crate::upstream::twin::{Report, ReportError};

/// So many times the set time is between patches at most, while changes keep coming: by default a minute, 1,440 patches a
/// day of the 400,000 messages of the smallest paid hub.
const GROWTH_MAX: u32 = 12;

/// Wait after the hub refused a patch for good: nothing but a change on its side helps.
const REFUSED_WAIT: Duration = Duration::from_secs(300);

/// How long changes of the roster are gathered before it is looked at.
const GATHER: Duration = Duration::from_millis(100);

/// The task.
pub(super) struct Reporter {
    pub(super) reported: Reported,
    /// `ReportedPropertiesSyncFrequencySecs`.
    pub(super) every: Duration,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) connected: watch::Receiver<bool>,
    pub(super) roster: Arc<Roster>,
    pub(super) status: watch::Receiver<Option<Status>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: SharedClock,
}

impl Reporter {
    /// Reports until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.report()).await;
    }

    async fn report(mut self) {
        let mut pace = Pace::new(self.every);
        let mut changes = self.roster.changes();
        loop {
            self.look();
            let now = self.clock.monotonic();
            let due = pace.due(self.reported.is_urgent());
            let is_connected = *self.connected.borrow_and_update();
            let patch = if is_connected { self.reported.patch() } else { None };
            let wait = match patch {
                Some(patch) if due.is_none_or(|due| due <= now) => {
                    pace.sent(now);
                    self.send(patch, &mut pace).await;
                    continue;
                }
                Some(_) => due,
                None => None,
            };
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(GATHER).await;
                }
                changed = self.status.changed() => if changed.is_err() { return },
                changed = self.connected.changed() => if changed.is_err() { return },
                () = sleep_until(wait) => {}
            }
        }
    }

    /// Takes in what has changed.
    fn look(&mut self) {
        if let Some(status) = self.status.borrow_and_update().clone() {
            self.reported.set_status(status);
        }
        self.reported.observe(&self.roster.seats(), self.clock.wall());
        self.metrics.set_gauge(
            "reported_clients_left_out",
            "Connected clients that the twin does not show because a hub keeps no more.",
            self.reported.left_out() as f64,
        );
    }

    async fn send(&mut self, patch: Patch, pace: &mut Pace) {
        let (done, answered) = oneshot::channel();
        let report = Report { patch: patch.value.clone(), done };
        if self.reports.send(report).await.is_err() {
            // Everything is ending.
            return std::future::pending().await;
        }
        let result = answered.await.unwrap_or(Err(ReportError::Lost));
        let now = self.clock.monotonic();
        match result {
            Ok(version) => {
                debug!(version, "the $edgeHub twin was told");
                self.metrics.counted("reported_patch", "taken");
                self.reported.taken(patch);
            }
            Err(error) => {
                if error == ReportError::Lost {
                    self.reported.unsure(&patch);
                }
                let (reason, wait) = match &error {
                    ReportError::Busy { after, .. } => ("busy", after.unwrap_or(self.every)),
                    ReportError::Lost => ("lost", self.every),
                    ReportError::Refused(_) => ("refused", REFUSED_WAIT),
                };
                self.metrics.counted("reported_patch", reason);
                if matches!(error, ReportError::Refused(_)) {
                    warn!(%error, "the $edgeHub twin was not told; trying again in {wait:?}");
                } else {
                    debug!(%error, "the $edgeHub twin was not told; trying again in {wait:?}");
                }
                pace.put_off(now + wait);
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// The time between patches.
#[derive(Debug)]
struct Pace {
    every: Duration,
    /// The present gap.
    gap: Duration,
    last: Option<Instant>,
    /// Not before.
    put_off: Option<Instant>,
}

impl Pace {
    fn new(every: Duration) -> Self {
        Self { every, gap: every, last: None, put_off: None }
    }

    /// When the next patch may go; `None` = at once.
    fn due(&self, urgent: bool) -> Option<Instant> {
        let gap = if urgent { self.every } else { self.gap };
        self.last.map(|last| last + gap).max(self.put_off)
    }

    /// A patch goes. One that comes soon after the gap lets the next gap be longer; a pause ends that.
    fn sent(&mut self, now: Instant) {
        let soon = |last: Instant| now.saturating_duration_since(last) <= self.gap * 2;
        self.gap = match self.last {
            Some(last) if soon(last) => (self.gap * 2).min(self.every * GROWTH_MAX),
            _ => self.every,
        };
        self.last = Some(now);
    }

    fn put_off(&mut self, until: Instant) {
        self.put_off = Some(until);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "a test may spawn")]

    use serde_json::Value;

    use super::*;
    use crate::clock;

    /// A reporter without a pause between patches, and what it is connected with.
    struct Bench {
        reports: mpsc::Receiver<Report>,
        connected: watch::Sender<bool>,
        status: watch::Sender<Option<Status>>,
        roster: Arc<Roster>,
        metrics: Arc<Metrics>,
    }

    impl Bench {
        fn start() -> Self {
            let (to_hub, reports) = mpsc::channel(1);
            let (connected, status) = (watch::Sender::new(false), watch::Sender::new(None));
            let (roster, metrics) = (Roster::new(10), Metrics::new("hub", "edge1"));
            let reporter = Reporter {
                reported: Reported::new(),
                every: Duration::from_millis(1),
                reports: to_hub,
                connected: connected.subscribe(),
                roster: Arc::clone(&roster),
                status: status.subscribe(),
                metrics: Arc::clone(&metrics),
                clock: clock::system(),
            };
            // Ends with the runtime, or with what it hears from.
            tokio::spawn(reporter.run(CancellationToken::new()));
            Self { reports, connected, status, roster, metrics }
        }

        /// The next patch, which is answered so.
        async fn next(&mut self, answer: Result<Option<u64>, ReportError>) -> Value {
            let report = tokio::time::timeout(Duration::from_secs(60), self.reports.recv());
            let report = report.await.expect("in time").expect("it runs");
            report.done.send(answer).expect("it waits for the answer");
            report.patch
        }
    }

    #[tokio::test]
    async fn what_is_not_taken_is_told_again_with_what_came_since() {
        let mut bench = Bench::start();
        bench.status.send_replace(Some(Status::good(3)));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(bench.reports.is_empty(), "not before the hub is there");
        bench.connected.send_replace(true);
        let busy = ReportError::Busy { after: None, detail: String::new() };
        let first = bench.next(Err(busy)).await;
        assert_eq!((&first["clients"], &first["lastDesiredVersion"]), (&Value::Null, &3.into()));
        assert_eq!(bench.next(Err(ReportError::Lost)).await, first);
        bench.status.send_replace(Some(Status::good(4)));
        let mut told = bench.next(Ok(None)).await;
        if told == first {
            // It was on its way already.
            told = bench.next(Ok(None)).await;
        }
        assert_eq!(told["lastDesiredVersion"], 4);

        let admission = Arc::new(crate::auth::testing::admitted("d1"));
        let leave = CancellationToken::new();
        let (seat, _) = bench.roster.enter(&admission, leave).unwrap();
        let shown = bench.next(Ok(Some(9))).await;
        assert_eq!(shown["clients"]["d1"]["status"], "Connected");
        assert!(shown.get("lastDesiredVersion").is_none());
        drop(seat);
        let gone = bench.next(Err(ReportError::Refused(String::new()))).await;
        assert_eq!(gone["clients"]["d1"], Value::Null);
        // The hub does not want it: it is left alone for minutes.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(bench.reports.is_empty());
        let text = bench.metrics.render();
        for reason in ["taken", "busy", "lost", "refused"] {
            assert!(text.contains(&format!("reason=\"{reason}\"")), "{reason} in {text}");
        }
    }

    /// The hub may have taken what it did not answer: who left since must not be shown until the next start.
    #[tokio::test]
    async fn who_leaves_while_a_patch_is_lost_is_told_as_gone() {
        let mut bench = Bench::start();
        bench.connected.send_replace(true);
        bench.status.send_replace(Some(Status::good(1)));
        while bench.next(Ok(None)).await["lastDesiredVersion"] != 1 {}
        let admission = Arc::new(crate::auth::testing::admitted("d1"));
        let (seat, _) = bench.roster.enter(&admission, CancellationToken::new()).unwrap();
        let report = tokio::time::timeout(Duration::from_secs(60), bench.reports.recv());
        let report = report.await.expect("in time").expect("it runs");
        assert_eq!(report.patch["clients"]["d1"]["status"], "Connected");
        drop(seat);
        report.done.send(Err(ReportError::Lost)).expect("it waits for the answer");
        let next = bench.next(Ok(None)).await;
        assert_eq!(next["clients"].as_object().and_then(|c| c.get("d1")), Some(&Value::Null));
    }

    #[test]
    fn the_gap_grows_while_changes_keep_coming_and_a_pause_ends_that() {
        let start = clock::system().monotonic();
        let secs = Duration::from_secs;
        let mut pace = Pace::new(secs(5));
        assert_eq!(pace.due(false), None, "the first goes at once");
        let mut now = start;
        pace.sent(now);
        for gap in [5, 10, 20, 40, 60, 60] {
            assert_eq!(pace.due(false), Some(now + secs(gap)));
            assert_eq!(pace.due(true), Some(now + secs(5)), "word of a document");
            now += secs(gap);
            pace.sent(now);
        }
        now += secs(121);
        pace.sent(now);
        assert_eq!(pace.due(false), Some(now + secs(5)));
        pace.put_off(now + secs(300));
        assert_eq!(pace.due(true), Some(now + secs(300)));
    }

    #[test]
    fn a_day_of_changes_is_some_thousand_patches_at_most() {
        let (start, mut sent) = (clock::system().monotonic(), 0);
        let mut pace = Pace::new(Duration::from_secs(5));
        let mut now = start;
        while now < start + Duration::from_secs(86_400) {
            pace.sent(now);
            sent += 1;
            now = pace.due(false).expect("there is a gap");
        }
        assert!(sent < 1500, "{sent}");
    }
}
