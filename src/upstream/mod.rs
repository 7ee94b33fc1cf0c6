//! The way to IoT Hub: one AMQP 1.0 connection over TLS that carries every identity, and the scope API.
//!
//! Owns: [`Upstream`] (a [`Deliver`]), its connection, the tokens and links on it, our own module's [`twin`], and
//! [`scope_api`] with the [`refresh::ScopeRefresher`].
//! Invariants: every identity speaks under its own name (its own put-token, its own link, the authentication chain that
//! ends with this edge device); order within a sender is the caller's (one delivery at a time) and kept here; a message is
//! `Delivered` only after the hub accepted it; keys and tokens never reach a log.
//! Must not know: queues, routes, sessions of devices.
//!
//! ```text
//!  Deliver::deliver -> live (slot per identity: token, link) -> encode (table K, batches) -> sessions -> connect ==TLS==> hub
//!                        |                                                                     ^
//!                        `-> cbs ($cbs: put-token, one per identity) --------------------------'
//! ```
//!
//! # What ends a connection
//!
//! The socket's end; silence for longer than [`Config::silence_max`] (the hub sends heartbeats); a close or a failure of the
//! `$cbs` links; operations of several senders without an answer; one operation without an answer and then a probe without
//! one. Each of these is an event: nothing is polled. Every delivery under way is then answered [`Outcome::Offline`].

mod asks;
pub(crate) mod backoff;
mod cbs;
mod connect;
mod demand;
pub mod downlinks;
mod encode;
mod gather;
mod live;
mod names;
mod outcome;
mod pairs;
pub mod probe;
pub mod refresh;
pub mod scope_api;
mod sending;
mod sessions;
pub mod tls;
mod token;
pub mod twin;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::backoff::Backoff;
use self::cbs::{Cbs, CbsError};
use self::connect::{ConnectError, Peer};
use self::live::{Live, PutError};
use self::sessions::Sessions;
use self::token::TokenSource;
use crate::auth::scope::Scope;
use crate::clock::SharedClock;
use crate::deliver::{Deliver, Outcome};
use crate::identity::{ClientName, DeviceId, Identity, ModuleId};
use crate::iothub::sas::{self, Signer};
use crate::message::Message;
use crate::metrics::Metrics;

/// How many bytes `messages` take on the wire as the batches that a link sends. For `benches/instructions` alone, which counts
/// what that costs: the batches themselves are nobody's business outside this module.
#[doc(hidden)]
pub fn packed_bytes(messages: &[Message], to: &str, bytes_max: usize) -> Option<usize> {
    let batches = encode::pack(messages, to, bytes_max, &mut |_| {}).ok()?;
    Some(std::hint::black_box(batches).iter().map(|batch| batch.bytes).sum())
}

/// `com.microsoft:api-version` of the links (`edgehub.md` 8.1).
const API_VERSION: &str = "2020-09-30";
/// First and largest ceiling of the wait between attempts to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A wait is at most this part of the outage so far: after a hub was away for 8 s it is tried within 2 s, and only an
/// outage of minutes is worth a wait of a minute.
const OUTAGE_SHARE: u32 = 4;
/// A connection that lasted this long makes the next wait a short one again.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// Says whether a device or module is connected to the gateway.
pub type Presence = Arc<dyn Fn(&Identity) -> bool + Send + Sync>;

/// Settings of the upstream.
#[derive(Clone)]
pub struct Config {
    /// Host name of the hub: audiences, TLS server name, AMQP host name.
    pub hub_host: String,
    /// What to dial in place of `hub_host` (a parent gateway, a hub on this machine).
    pub dial_host: Option<String>,
    /// AMQP over TLS; IoT Hub: 5671.
    pub amqp_port: u16,
    /// HTTPS; IoT Hub: 443.
    pub https_port: u16,
    /// This edge device.
    pub edge: DeviceId,
    /// The module whose token speaks for everyone: `$edgeHub`.
    pub module: ModuleId,
    /// Signs with the module's key.
    pub signer: Arc<dyn Signer>,
    /// Who may have signed the hub's certificate.
    pub roots: rustls::RootCertStore,
    /// `com.microsoft:client-version` and `User-Agent`.
    pub product_info: String,
    /// Life of a token; renewed after four fifths of it.
    pub token_ttl: Duration,
    /// Limit on one operation: a step of connecting, a put-token, an attach, a batch until its disposition.
    pub operation_timeout: Duration,
    /// A link unused for this long is closed.
    pub idle_link_close: Duration,
    /// The same for a link of somebody who is not connected here: the cloud side sees that the device is not there.
    pub absent_link_close: Duration,
    /// Who is connected here; `None` = everybody counts as such.
    pub is_present: Option<Presence>,
    /// Silence after which the connection is taken for dead; half of it is what the hub is told (2.4.5).
    pub silence_max: Duration,
    /// Most links open at a time; the longest unused is closed for a new one.
    pub links_max: usize,
    /// Most bytes of a batch as encoded; IoT Hub takes 262,144.
    pub batch_bytes_max: usize,
    /// So many senders without an answer and without a success in between mean that the connection is dead.
    pub timeouts_max: usize,
    /// Time between refreshes of the scope.
    pub scope_refresh_every: Duration,
    /// Least time between a refresh and one on demand.
    pub scope_refresh_gap_min: Duration,
}

impl Config {
    /// The settings with which IoT Hub is used.
    pub fn new(hub_host: impl Into<String>, edge: DeviceId, signer: Arc<dyn Signer>) -> Self {
        Self {
            hub_host: hub_host.into(),
            dial_host: None,
            amqp_port: 5671,
            https_port: 443,
            edge,
            module: ModuleId::parse("$edgeHub").expect("a valid id"),
            signer,
            roots: rustls::RootCertStore::empty(),
            product_info: concat!("sphere-gateway/", env!("CARGO_PKG_VERSION")).to_owned(),
            token_ttl: Duration::from_secs(3600),
            operation_timeout: Duration::from_secs(20),
            idle_link_close: Duration::from_secs(3600),
            absent_link_close: Duration::from_secs(60),
            is_present: None,
            silence_max: Duration::from_secs(60),
            links_max: 2000,
            batch_bytes_max: 262_144,
            timeouts_max: 3,
            scope_refresh_every: Duration::from_secs(3600),
            scope_refresh_gap_min: Duration::from_secs(120),
        }
    }

    /// The module's own name.
    pub fn own_name(&self) -> ClientName {
        ClientName::Module(self.edge.clone(), self.module.clone())
    }

    fn peer(&self, port: u16) -> Peer {
        Peer {
            hub_host: self.hub_host.clone(),
            dial_host: self.dial_host.clone().unwrap_or_else(|| self.hub_host.clone()),
            port,
            step_timeout: self.operation_timeout,
        }
    }

    fn tls(&self) -> Arc<rustls::ClientConfig> {
        tls::upstream_config(self.roots.clone())
    }

    fn token_source(&self, clock: SharedClock) -> TokenSource {
        let audience = sas::audience(&self.hub_host, &self.own_name());
        TokenSource::new(self.signer.clone(), audience, self.token_ttl, clock)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("hub_host", &self.hub_host)
            .field("amqp_port", &self.amqp_port)
            .field("https_port", &self.https_port)
            .field("edge", &self.edge)
            .finish_non_exhaustive()
    }
}

/// What outlives a connection.
struct Shared {
    config: Config,
    own: ClientName,
    tls: Arc<rustls::ClientConfig>,
    tokens: TokenSource,
    scope: Arc<Scope>,
    metrics: Arc<Metrics>,
    clock: SharedClock,
    tracker: TaskTracker,
}

/// The hub as a place to deliver to.
pub struct Upstream {
    shared: Arc<Shared>,
    live: watch::Sender<Option<Arc<Live>>>,
    connected: watch::Sender<bool>,
    has_failed: watch::Sender<bool>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Upstream {
    /// Not connected until [`Upstream::run`] runs. Tasks of the connection are spawned on `tracker`; they end with it.
    pub fn new(
        config: Config,
        scope: Arc<Scope>,
        metrics: Arc<Metrics>,
        clock: SharedClock,
        tracker: TaskTracker,
    ) -> Arc<Self> {
        let shared = Shared {
            own: config.own_name(),
            tls: config.tls(),
            tokens: config.token_source(clock.clone()),
            config,
            scope,
            metrics,
            clock,
            tracker,
        };
        Arc::new(Self {
            shared: Arc::new(shared),
            live: watch::Sender::new(None),
            connected: watch::Sender::new(false),
            has_failed: watch::Sender::new(false),
        })
    }

    /// Whether the hub has let us sign in on a connection that still stands.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// Whether an attempt to connect has failed since the start.
    pub fn has_failed(&self) -> watch::Receiver<bool> {
        self.has_failed.subscribe()
    }

    /// Telemetry links open now.
    pub fn links_open(&self) -> usize {
        self.live.borrow().as_ref().map_or(0, |live| live.links_open())
    }

    /// Connects, keeps connected and reconnects until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut backoff = Backoff::new(RECONNECT.0, RECONNECT.1);
        let mut away_since = self.shared.clock.monotonic();
        let mut told = false;
        let own = self.shared.own.to_string();
        while !stop.is_cancelled() {
            let connected = tokio::select! {
                () = stop.cancelled() => break,
                connected = self.connect(&stop) => connected,
            };
            match connected {
                Ok((live, ended)) => {
                    let up_since = self.shared.clock.monotonic();
                    self.shared.metrics.came_online(&own, up_since - away_since);
                    tracing::info!(hub = %self.shared.config.hub_host, "connected to the hub");
                    told = false;
                    self.publish(Some(live));
                    let why = ended.await.unwrap_or_else(|_| "its task ended".to_owned());
                    self.publish(None);
                    away_since = self.shared.clock.monotonic();
                    if stop.is_cancelled() {
                        break;
                    }
                    self.shared.metrics.went_offline(&own);
                    tracing::warn!(%why, "the connection to the hub ended; messages are kept until it is back");
                    if away_since - up_since >= STABLE_AFTER {
                        backoff.reset();
                    }
                }
                Err(error) if told => tracing::debug!(%error, "still no connection to the hub"),
                Err(error) => {
                    told = true;
                    tracing::warn!(%error, "no connection to the hub; trying on, and messages are kept until it is there");
                }
            }
            self.has_failed.send_replace(true);
            self.shared.metrics.retried(&own, "connect");
            let outage = self.shared.clock.monotonic().saturating_duration_since(away_since);
            let wait = backoff.next_wait().min((outage / OUTAGE_SHARE).max(RECONNECT.0));
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// The connection that stands, as soon as there is one.
    async fn standing(&self) -> Arc<Live> {
        let mut live = self.live.subscribe();
        let stands = |live: &Option<Arc<Live>>| {
            live.as_ref().is_some_and(|live| !live.severed.is_cancelled())
        };
        let standing = match live.wait_for(stands).await {
            Ok(live) => live.clone(),
            Err(_) => None,
        };
        standing.expect("the sending half is ours: it cannot be gone")
    }

    fn publish(&self, live: Option<Arc<Live>>) {
        let connected = live.is_some();
        if let Some(old) = self.live.send_replace(live) {
            old.severed.cancel();
        }
        self.connected.send_replace(connected);
        self.shared.metrics.set_upstream_connected(connected);
    }

    /// A connection on which the hub has taken our own token, and the word that tells when it ended.
    async fn connect(
        &self,
        stop: &CancellationToken,
    ) -> Result<(Arc<Live>, tokio::sync::oneshot::Receiver<String>), ConnectError> {
        let shared = &self.shared;
        let peer = shared.config.peer(shared.config.amqp_port);
        let limit = shared.config.operation_timeout;
        let severed = CancellationToken::new();
        // Until the connection is handed out, giving up this future ends it and its tasks.
        let unless_done = severed.clone().drop_guard();
        let stream = connect::dial(&peer, &shared.tls).await?;
        let handle = connect::open(
            &peer,
            stream,
            shared.config.silence_max,
            severed.clone(),
            &shared.tracker,
        )
        .await?;

        let (begins, begin_requests) = mpsc::channel(64);
        let (end, ended) = tokio::sync::oneshot::channel();
        let keeping = sessions::keep(handle, begin_requests, limit, stop.clone(), severed.clone());
        shared.tracker.spawn(async move {
            let _ = end.send(keeping.await);
        });
        let sessions = Sessions::new(begins);
        let mut cbs_session = sessions.begin().await.ok_or(ConnectError::Ended)?;
        let late = |during| ConnectError::Time { to: peer.hub_host.clone(), after: limit, during };
        let cbs = timeout(limit, Cbs::attach(&mut cbs_session))
            .await
            .map_err(|_| late("attach of $cbs"))?
            .map_err(|detail| self.refused(detail))?;
        let (requests, puts) = mpsc::channel(64);
        let serving = cbs.serve(puts, severed.clone());
        shared.tracker.spawn(async move {
            serving.await;
            drop(cbs_session);
        });

        let live = Live::new(shared.clone(), requests, sessions, severed);
        let renew_at = match live.put_token(&shared.own, true).await {
            Ok(renew_at) => renew_at,
            Err(PutError::Time) => return Err(late("put-token")),
            Err(PutError::Cbs(CbsError::Gone)) => return Err(ConnectError::Ended),
            Err(PutError::Sign(error)) => return Err(ConnectError::Sign(error)),
            Err(PutError::Cbs(error)) => return Err(self.refused(error.to_string())),
        };
        shared.tracker.spawn(live.clone().tend(renew_at));
        unless_done.disarm();
        Ok((live, ended))
    }

    fn refused(&self, detail: String) -> ConnectError {
        ConnectError::Refused { who: self.shared.own.to_string(), detail }
    }
}

impl Deliver for Upstream {
    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.standing().await;
        })
    }

    fn deliver<'a>(&'a self, sender: &'a Identity, batch: &'a [Message]) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let live = self.live.borrow().clone();
            match live {
                Some(live) => live.deliver(sender, batch).await,
                None => Outcome::Offline,
            }
        })
    }
}
