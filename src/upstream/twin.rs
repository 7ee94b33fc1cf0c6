//! Our own module's twin and its direct methods, over the shared connection.
//!
//! Owns: the task that keeps the links open while the connection stands ([`TwinClient`]), and its words to the outside.
//! Invariants: what goes wrong here ends these links and nothing else; a call that is answered is answered once; what waits
//! is bounded. Must not know: what desired properties or methods mean.

mod links;
mod machine;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::links::{Heard, Links};
use self::machine::{Action, Machine};
use super::Upstream;
use super::backoff::Backoff;
use super::live::Live;
use super::pairs::Call;

/// First and largest ceiling of the wait before links are opened again on a connection that stands.
const REOPEN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// The same when the whole connection ended soon after they were opened: it may have ended because of them, and telemetry
/// is to have it to itself for most of the time.
const REOPEN_AFTER_LOSS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Links that lasted this long make the next wait a short one again.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// Events that wait for who hears them.
const EVENTS_MAX: usize = 16;
/// Method calls under way; one more is answered 429.
const CALLS_MAX: usize = 8;
/// Longest wait for a method: what the hub's callers wait at most (A8).
const CALL_TIMEOUT: Duration = Duration::from_secs(300);

/// The desired properties as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredDocument {
    /// JSON, with `$version`.
    pub text: String,
    /// The hub's version of it.
    pub version: u64,
    /// Whether there is nothing in it.
    pub empty: bool,
}

/// What the twin tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TwinEvent {
    /// The hub can be reached: reports are taken.
    Opened,
    /// The desired properties are these now.
    Desired(DesiredDocument),
}

/// A change of reported properties.
#[derive(Debug)]
pub struct Report {
    /// Null deletes.
    pub patch: Value,
    /// Hears what came of it.
    pub done: oneshot::Sender<Result<Option<u64>, ReportError>>,
}

/// Why a change was not reported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The hub does not take it, now or later.
    #[error("the hub refuses it: {0}")]
    Refused(String),
    /// The hub does not take it now.
    #[error("the hub does not take it now: {detail}")]
    Busy {
        /// Least wait.
        after: Option<Duration>,
        /// The hub's words.
        detail: String,
    },
    /// No answer: it may or may not have been taken.
    #[error("the hub was lost before it answered")]
    Lost,
}

/// Answers direct methods.
pub trait Methods: Send + Sync {
    /// Status and JSON of the answer.
    fn call(&self, name: String, payload: Vec<u8>) -> BoxFuture<'static, (i32, Value)>;
}

/// How the twin is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TwinConfig {
    /// Time between full reads (`ConfigRefreshFrequencySecs`).
    pub refresh_every: Duration,
}

/// What the others hold.
#[derive(Debug)]
pub struct TwinHandle {
    /// What the twin tells; must be read.
    pub events: mpsc::Receiver<TwinEvent>,
    /// Takes changes of reported properties, one at a time.
    pub reports: mpsc::Sender<Report>,
    /// Asks for the whole twin to be read again; it is told also if nothing changed.
    pub refresh: Arc<Notify>,
}

/// The task.
pub struct TwinClient {
    upstream: Arc<Upstream>,
    methods: Arc<dyn Methods>,
    events: mpsc::Sender<TwinEvent>,
    reports: mpsc::Receiver<Report>,
    refresh: Arc<Notify>,
    machine: Machine,
    /// Hears what comes of the report under way.
    asker: Option<oneshot::Sender<Result<Option<u64>, ReportError>>>,
}

impl TwinClient {
    /// Does nothing until [`TwinClient::run`] runs.
    pub fn new(
        upstream: Arc<Upstream>,
        config: TwinConfig,
        methods: Arc<dyn Methods>,
    ) -> (Self, TwinHandle) {
        let (events, heard) = mpsc::channel(EVENTS_MAX);
        let (to_report, reports) = mpsc::channel(1);
        let refresh = Arc::new(Notify::new());
        let handle =
            TwinHandle { events: heard, reports: to_report, refresh: Arc::clone(&refresh) };
        let answer_within = upstream.shared.config.operation_timeout;
        let machine = Machine::new(answer_within, config.refresh_every);
        (Self { upstream, methods, events, reports, refresh, machine, asker: None }, handle)
    }

    /// Keeps the links open until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep_open()).await;
    }

    async fn keep_open(&mut self) {
        let mut backoff = Backoff::new(REOPEN.0, REOPEN.1);
        let mut after_loss = Backoff::new(REOPEN_AFTER_LOSS.0, REOPEN_AFTER_LOSS.1);
        let mut told = false;
        loop {
            let live = self.upstream.standing().await;
            let severed = live.severed.clone();
            let since = self.now();
            let ended = severed.run_until_cancelled(self.serve(&live)).await;
            self.carry_out_last();
            // Two gateways of one name take the links from each other: not every second for ever.
            let lasted = self.now() - since >= STABLE_AFTER;
            if lasted {
                backoff.reset();
                after_loss.reset();
                told = false;
            }
            if let Some(why) = ended {
                self.links_ended(&why, told);
                told = true;
                severed.run_until_cancelled(tokio::time::sleep(backoff.next_wait())).await;
            }
            // A lost connection shows here or there first.
            if severed.is_cancelled() && !lasted {
                tokio::time::sleep(after_loss.next_wait()).await;
            }
        }
    }

    fn links_ended(&self, why: &str, told: bool) {
        self.upstream.shared.metrics.counted("twin_links_ended", "twin");
        match told {
            true => tracing::debug!(%why, "no links for our own twin"),
            false => tracing::warn!(
                %why,
                "the links of our own twin ended: trying on; the configuration in force stays"
            ),
        }
    }

    /// Serves one set of links; says why it ended.
    async fn serve(&mut self, live: &Live) -> String {
        let limit = self.upstream.shared.config.operation_timeout;
        let mut links = match Links::open(live, limit).await {
            Ok(links) => links,
            Err(why) => return why,
        };
        if self.events.send(TwinEvent::Opened).await.is_err() {
            return std::future::pending().await;
        }
        let first = self.machine.open(self.now());
        if let Err(why) = self.carry_out(first, &mut links).await {
            return why;
        }
        let mut calls = FuturesUnordered::new();
        loop {
            let due = self.machine.next_due();
            let actions = tokio::select! {
                heard = links.next() => match heard {
                    Err(why) => return why,
                    Ok(Heard::Answer(id, answer)) => {
                        self.machine.answered(self.now(), id, &answer)
                    }
                    Ok(Heard::Changed(body)) => self.machine.changed(self.now(), &body),
                    Ok(Heard::Call(call)) => {
                        calls.push(self.call(call, calls.len() >= CALLS_MAX));
                        Vec::new()
                    }
                    Ok(Heard::Nothing) => {
                        tracing::debug!("a message on a link of our twin that nobody understands");
                        Vec::new()
                    }
                },
                Some(report) = self.reports.recv(), if self.machine.can_report() => {
                    self.asker = Some(report.done);
                    vec![self.machine.report(self.now(), &report.patch)]
                }
                () = self.refresh.notified() => self.machine.asked(self.now()),
                Some((id, status, payload)) = calls.next() => {
                    match links.answer(id, status, payload).await {
                        Ok(()) => Vec::new(),
                        Err(why) => return why,
                    }
                }
                () = sleep_until(due) => self.machine.tick(self.now()),
            };
            if let Err(why) = self.carry_out(actions, &mut links).await {
                return why;
            }
        }
    }

    async fn carry_out(&mut self, actions: Vec<Action>, links: &mut Links) -> Result<(), String> {
        for action in actions {
            match action {
                Action::Ask { id, operation, body } => links.ask(id, operation, body).await?,
                Action::Desired(document) => {
                    // Nobody hears it: everything is ending.
                    let _ = self.events.send(TwinEvent::Desired(document)).await;
                }
                Action::Reported(result) => self.reported(result),
                Action::Reopen(why) => return Err(why),
            }
        }
        Ok(())
    }

    /// The links are gone.
    fn carry_out_last(&mut self) {
        for action in self.machine.close() {
            if let Action::Reported(result) = action {
                self.reported(result);
            }
        }
    }

    fn reported(&mut self, result: Result<Option<u64>, ReportError>) {
        if let Some(asker) = self.asker.take() {
            let _ = asker.send(result);
        }
    }

    fn call(
        &self,
        call: Call,
        too_many: bool,
    ) -> impl Future<Output = (fe2o3_amqp_types::primitives::Uuid, i32, Vec<u8>)> + use<> {
        let answer = (!too_many).then(|| self.methods.call(call.name, call.payload));
        let id = call.id;
        async move {
            let busy = |status, words: &str| (status, serde_json::json!({"message": words}));
            let (status, payload) = match answer {
                None => busy(429, "too many calls are under way"),
                Some(answer) => tokio::time::timeout(CALL_TIMEOUT, answer)
                    .await
                    .unwrap_or_else(|_| busy(504, "no answer in time")),
            };
            (id, status, payload.to_string().into_bytes())
        }
    }

    fn now(&self) -> std::time::Instant {
        self.upstream.shared.clock.monotonic()
    }
}

async fn sleep_until(due: Option<std::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
