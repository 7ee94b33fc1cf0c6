//! The administrator's door: `GET /metrics` (Prometheus text), `GET /healthz`, `GET /readyz`, `GET /queues`,
//! `GET /refusals` and `GET /dependents`.
//!
//! `/healthz` tells whether the process does its job (liveness: if not, start it again), `/readyz` whether devices can be let
//! in now (readiness: if not, wait): 200, or 503 with the reasons.
//!
//! `/queues` answers [`Queues`] as JSON, or 503 until there is a first sample: what waits, how fast it comes and goes (mean
//! of about a minute), and how long that can go on. A `null` is what is not known or will not happen.
//!
//! ```text
//! {"queues": [{"endpoint": "iothub", "priority": 10, "live": false, "lane": null, "messages": 5, "bytes": 500,
//!              "oldestAgeSecs": 12, "inPerSec": 1.0, "outPerSec": 0.5, "bytesInPerSec": 100.0, "bytesOutPerSec": 50.0}],
//!  "store": {"usedBytes": 4194304, "limitBytes": 1073741824, "whenFull": "reject", "budgetLastsSecs": 3600,
//!            "firstDropSecs": 3600, "firstDropWhy": "budget"},
//!  "unheard": [{"module": "filter", "input": "in", "messages": 5, "bytes": 500, "budgetPercent": 0.1, "unheardSecs": 600,
//!               "text": "..."}]}
//! ```
//!
//! `unheard` is left out where there is none.
//!
//! `/refusals` answers the last refused connections as JSON ([`RefusalsReport`]), with names and certificates of the peers, no
//! secrets. `/dependents` answers who of the connected clients depends on which CA ([`Dependents`]).
//!
//! Owns: the HTTP answers. Plain HTTP as the reference's (`edgehub.md` 10); it gives away no secrets and takes no
//! commands. Must not know: what healthy means (a closure tells), configuration.
//! Invariants: at most [`CONNECTIONS_MAX`] connections; scrapes one at a time, off the threads that serve devices.

use std::fmt;
use std::future::IntoFuture;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::auth::decision::RefusalsReport;
use crate::auth::dependents::Dependents;
use crate::metrics::Metrics;

/// Most connections at a time: a scraper, a health check and a person with a browser need a handful.
pub const CONNECTIONS_MAX: usize = 32;

/// How long requests under way may take once the gateway stops.
pub const DRAIN_MAX: Duration = Duration::from_secs(1);

/// The content type of Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether the gateway does what it promises.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// Why not, in plain words; empty = healthy.
    pub reasons: Vec<String>,
    /// What a person should look at although the gateway does its job.
    pub warnings: Vec<String>,
}

impl Health {
    /// Healthy.
    pub fn ok() -> Self {
        Self::default()
    }

    /// Not healthy.
    pub fn failing(reasons: Vec<String>) -> Self {
        Self { reasons, ..Self::default() }
    }

    /// Healthy, with something to look at.
    pub fn warning(warnings: Vec<String>) -> Self {
        Self { warnings, ..Self::default() }
    }
}

/// Why devices cannot be let in now, in plain words; empty = they can.
type TellReady = dyn Fn() -> Vec<String> + Send + Sync;

/// All queues and the store: the answer of `/queues`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Queues {
    /// By endpoint, priority, class and lane.
    pub queues: Vec<QueueStatus>,
    /// All together.
    pub store: StoreStatus,
    /// Inputs for which messages wait although nobody listens, that with the most bytes first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unheard: Vec<UnheardInput>,
}

/// An input of a module for which messages wait, and which for minutes has had nobody who listens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnheardInput {
    /// The module's id, as the route spells it.
    pub module: String,
    /// The input.
    pub input: String,
    /// Messages that wait, all priorities together.
    pub messages: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// How much of what the store may take that is, in percent; `None`: no limit is known.
    pub budget_percent: Option<f64>,
    /// For how long nobody has listened, as far as this process has seen.
    pub unheard_secs: u64,
    /// All of that in words, and what to do.
    pub text: String,
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueStatus {
    /// What it feeds: `iothub`, `deadletter`, `<edge>/<module>/<input>`.
    pub endpoint: String,
    /// 0 (first) to 9, 10 where a route gives none.
    pub priority: u8,
    /// Whether it holds the fresh messages of live-first routes.
    pub live: bool,
    /// The parked sender whose side queue it is.
    pub lane: Option<String>,
    /// Messages that wait.
    pub messages: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// How long the oldest one waits, in the store's own time.
    pub oldest_age_secs: Option<u64>,
    /// Messages that come.
    pub in_per_sec: f64,
    /// Messages that go: delivered, expired or dropped.
    pub out_per_sec: f64,
    /// Bytes that come.
    pub bytes_in_per_sec: f64,
    /// Bytes that go.
    pub bytes_out_per_sec: f64,
}

/// The store as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// Bytes of its files.
    pub used_bytes: u64,
    /// Where it is full.
    pub limit_bytes: Option<u64>,
    /// `reject` or `drop_oldest`.
    pub when_full: String,
    /// When it is full if it grows on like this; `None` = it does not grow.
    pub budget_lasts_secs: Option<u64>,
    /// When the first message is dropped (or refused) if all goes on like this; `None` = none is.
    pub first_drop_secs: Option<u64>,
    /// `budget` or `ttl`.
    pub first_drop_why: Option<String>,
}

/// What tells of the queues; `None` until there is something to tell.
type TellQueues = dyn Fn() -> Option<Arc<Queues>> + Send + Sync;

/// What tells of the last refusals.
type TellRefusals = dyn Fn() -> RefusalsReport + Send + Sync;

/// What tells who depends on what.
type TellDependents = dyn Fn() -> Dependents + Send + Sync;

/// What the answers are made from. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    metrics: Arc<Metrics>,
    health: Arc<dyn Fn() -> Health + Send + Sync>,
    ready: Arc<TellReady>,
    queues: Arc<TellQueues>,
    refusals: Arc<TellRefusals>,
    dependents: Arc<TellDependents>,
    scrape: Arc<Mutex<()>>,
    suffix: Arc<str>,
    has_metrics: bool,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("suffix", &self.suffix).finish_non_exhaustive()
    }
}

impl Admin {
    /// `suffix` is the path of the metrics without the leading slash (`metrics`), of unreserved characters and `/`;
    /// `health` is asked at each `/healthz`, `ready` (why not) at each `/readyz`, `queues` at each `/queues`; none may wait.
    pub fn new(
        metrics: Arc<Metrics>,
        suffix: &str,
        health: impl Fn() -> Health + Send + Sync + 'static,
        ready: impl Fn() -> Vec<String> + Send + Sync + 'static,
        queues: impl Fn() -> Option<Arc<Queues>> + Send + Sync + 'static,
    ) -> Self {
        let suffix = suffix.trim_matches('/').into();
        let (health, ready, queues) = (Arc::new(health), Arc::new(ready), Arc::new(queues));
        let refusals = Arc::new(RefusalsReport::default);
        let dependents = Arc::new(Dependents::default);
        let (scrape, has_metrics) = (Arc::default(), true);
        Self { metrics, health, ready, queues, refusals, dependents, scrape, suffix, has_metrics }
    }

    /// `false`: the path of the metrics answers 404, with why.
    #[must_use]
    pub fn with_metrics(self, has_metrics: bool) -> Self {
        Self { has_metrics, ..self }
    }

    /// `refusals` is asked at each `/refusals`; it may not wait.
    #[must_use]
    pub fn with_refusals(
        self,
        refusals: impl Fn() -> RefusalsReport + Send + Sync + 'static,
    ) -> Self {
        Self { refusals: Arc::new(refusals), ..self }
    }

    /// `dependents` is asked at each `/dependents`, one at a time; it may take a lock for as long as a copy of a list takes.
    #[must_use]
    pub fn with_dependents(
        self,
        dependents: impl Fn() -> Dependents + Send + Sync + 'static,
    ) -> Self {
        Self { dependents: Arc::new(dependents), ..self }
    }

    /// The routes.
    pub fn router(self) -> Router {
        let mut router = Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/queues", get(queues))
            .route("/refusals", get(refusals))
            .route("/dependents", get(dependents));
        let own = ["healthz", "readyz", "queues", "refusals", "dependents"];
        if !own.contains(&&*self.suffix) {
            let path = format!("/{}", self.suffix);
            router = match self.has_metrics {
                true => router.route(&path, get(metrics)),
                false => router.route(&path, get(switched_off)),
            };
        }
        router.with_state(self)
    }
}

/// Serves until `stop`; requests under way get [`DRAIN_MAX`] to be answered.
pub async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken) -> io::Result<()> {
    let limited = Limited { listener, room: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
    let serving = axum::serve(limited, admin.router())
        .with_graceful_shutdown(stop.clone().cancelled_owned())
        .into_future();
    let overdue = async {
        stop.cancelled().await;
        // A peer that never ends its request must not hold up the shutdown.
        tokio::time::sleep(DRAIN_MAX).await;
    };
    tokio::select! {
        served = serving => served,
        () = overdue => Ok(()),
    }
}

/// A listener that accepts only while fewer than [`CONNECTIONS_MAX`] connections are open; the others wait in the
/// kernel's backlog.
struct Limited {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let permit = Arc::clone(&self.room)
            .acquire_owned()
            .await
            .expect("the semaphore lives as long as the listener and is never closed");
        // Qualified: `TcpListener` has an inherent `accept` that gives up on errors; this one waits and goes on.
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        (Connection { stream, _permit: permit }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A stream that gives its place back when it is dropped.
struct Connection {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn switched_off() -> Response {
    let why = "metrics are switched off: metrics__listener__MetricsEnabled is false\n";
    (StatusCode::NOT_FOUND, why).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let _one_at_a_time = admin.scrape.lock().await;
    let metrics = Arc::clone(&admin.metrics);
    // Thousands of series take tens of milliseconds on a Pi: not on a thread that serves devices.
    match tokio::task::spawn_blocking(move || metrics.render()).await {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(e) => {
            tracing::error!(error = %e, "rendering the metrics failed; report this as a defect");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn healthz(State(admin): State<Admin>) -> Response {
    let Health { reasons, warnings } = (admin.health)();
    let (code, status) = if reasons.is_empty() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "failing")
    };
    let mut body = serde_json::json!({ "status": status, "reasons": reasons });
    if !warnings.is_empty() {
        body["warnings"] = warnings.into();
    }
    (code, axum::Json(body)).into_response()
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let reasons = (admin.ready)();
    let (code, status) = if reasons.is_empty() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    let body = serde_json::json!({ "status": status, "reasons": reasons });
    (code, axum::Json(body)).into_response()
}

async fn queues(State(admin): State<Admin>) -> Response {
    match (admin.queues)() {
        Some(queues) => axum::Json(&*queues).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "no sample yet: ask again in a second")
            .into_response(),
    }
}

async fn refusals(State(admin): State<Admin>) -> Response {
    axum::Json((admin.refusals)()).into_response()
}

async fn dependents(State(admin): State<Admin>) -> Response {
    // A look at each of thousands of clients: one at a time, as a scrape.
    let _one_at_a_time = admin.scrape.lock().await;
    axum::Json((admin.dependents)()).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Running {
        at: SocketAddr,
        stop: CancellationToken,
        healthy: Arc<AtomicBool>,
        metrics: Arc<Metrics>,
        tasks: tokio::task::JoinSet<io::Result<()>>,
    }

    async fn start(suffix: &str) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (metrics, stop) = (Metrics::new("hub", "edge"), CancellationToken::new());
        let healthy = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&healthy);
        let health = move || {
            if asked.load(Ordering::Relaxed) {
                Health::ok()
            } else {
                Health::failing(vec!["the store is \"poisoned\"".to_owned()])
            }
        };
        let asked = Arc::clone(&healthy);
        let ready = move || match asked.load(Ordering::Relaxed) {
            true => Vec::new(),
            false => vec!["the scope is not known yet".to_owned()],
        };
        let admin = Admin::new(Arc::clone(&metrics), suffix, health, ready, || None);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(serve(listener, admin, stop.clone()));
        Running { at, stop, healthy, metrics, tasks }
    }

    /// The whole answer to a GET.
    async fn get(at: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_and_health_are_served() {
        let mut running = start("/metrics/").await;
        running.metrics.counted("started", "test");
        let answer = get(running.at, "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("text/plain; version=0.0.4; charset=utf-8"), "{answer}");
        assert!(answer.contains("sphere_gateway_events_total{"), "{answer}");

        let answer = get(running.at, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with(r#"{"reasons":[],"status":"ok"}"#), "{answer}");
        let answer = get(running.at, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with(r#"{"reasons":[],"status":"ready"}"#), "{answer}");

        running.healthy.store(false, Ordering::Relaxed);
        let answer = get(running.at, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(
            answer.ends_with(r#"{"reasons":["the store is \"poisoned\""],"status":"failing"}"#),
            "{answer}"
        );
        let answer = get(running.at, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        let body = r#"{"reasons":["the scope is not known yet"],"status":"not ready"}"#;
        assert!(answer.ends_with(body), "{answer}");

        assert!(get(running.at, "/").await.starts_with("HTTP/1.1 404"));
        running.stop.cancel();
        assert!(running.tasks.join_next().await.unwrap().unwrap().is_ok());
    }

    fn status(lane: Option<&str>) -> Queues {
        let queue = QueueStatus {
            endpoint: "iothub".into(),
            priority: 10,
            live: true,
            lane: lane.map(str::to_owned),
            messages: 5,
            bytes: 500,
            oldest_age_secs: Some(12),
            in_per_sec: 1.0,
            out_per_sec: 0.5,
            bytes_in_per_sec: 100.0,
            bytes_out_per_sec: 50.0,
        };
        let store = StoreStatus {
            used_bytes: 1,
            limit_bytes: None,
            when_full: "reject".into(),
            budget_lasts_secs: None,
            first_drop_secs: Some(7),
            first_drop_why: Some("ttl".into()),
        };
        Queues { queues: vec![queue], store, unheard: Vec::new() }
    }

    #[tokio::test]
    async fn the_queues_are_told_by_the_names_that_are_documented() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let told: Arc<std::sync::Mutex<Option<Arc<Queues>>>> = Arc::default();
        let tell = Arc::clone(&told);
        let warning = || Health::warning(vec!["store full: refusing".to_owned()]);
        let metrics = Metrics::new("hub", "edge");
        let admin =
            Admin::new(metrics, "metrics", warning, Vec::new, move || tell.lock().unwrap().clone());
        let stop = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(serve(listener, admin, stop.clone()));
        assert!(get(at, "/queues").await.starts_with("HTTP/1.1 503"));
        *told.lock().unwrap() = Some(Arc::new(status(Some("d1"))));
        let answer = get(at, "/queues").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(
            body,
            r#"{"queues":[{"endpoint":"iothub","priority":10,"live":true,"lane":"d1","messages":5,"bytes":500,"oldestAgeSecs":12,"inPerSec":1.0,"outPerSec":0.5,"bytesInPerSec":100.0,"bytesOutPerSec":50.0}],"store":{"usedBytes":1,"limitBytes":null,"whenFull":"reject","budgetLastsSecs":null,"firstDropSecs":7,"firstDropWhy":"ttl"}}"#
        );
        assert_eq!(serde_json::from_str::<Queues>(body).unwrap(), status(Some("d1")));
        let answer = get(at, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "a full store is no failure: {answer}");
        assert!(
            answer.ends_with(r#"{"reasons":[],"status":"ok","warnings":["store full: refusing"]}"#),
            "{answer}"
        );
        stop.cancel();
        assert!(tasks.join_next().await.unwrap().unwrap().is_ok());
    }

    #[tokio::test]
    async fn the_path_of_the_metrics_is_settable() {
        let running = start("a/b").await;
        assert!(get(running.at, "/a/b").await.starts_with("HTTP/1.1 200"));
        assert!(get(running.at, "/metrics").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn silent_peers_neither_take_all_memory_nor_hold_up_the_stop() {
        let mut running = start("metrics").await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut stream = TcpStream::connect(running.at).await.unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
            silent.push(stream);
        }
        let at = running.at;
        let mut waiting = tokio::task::JoinSet::new();
        waiting.spawn(async move { get(at, "/healthz").await });
        // One silent peer goes: the one that waits is served.
        silent.pop();
        let answer = waiting.join_next().await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        running.stop.cancel();
        assert!(running.tasks.join_next().await.unwrap().unwrap().is_ok());
    }
}
