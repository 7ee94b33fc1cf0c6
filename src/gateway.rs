//! The assembly: the only module that knows everyone. Builds the tasks, wires them, orders the shutdown.
//!
//! Owns: every long-lived task and the order in which they begin and end.
//! Invariants: configuration is judged before a port is bound; devices are let in only when the store is open; at
//! shutdown those who produce end before those who consume: listener and sessions, then pumps, then upstream, then the
//! store, and the admin endpoint last, so that the end can be watched.
//! Must not know: packets, records, frames.

mod audit;
mod bundle_watch;
mod configuration;
mod daemon;
mod departed;
mod descriptors;
mod doors;
mod examine;
mod forecast;
mod hub;
mod known_scope;
mod live;
mod ports;
mod prepare;
mod pumps;
mod readiness;
mod recovery;
mod refusals;
mod relay;
mod removed;
mod scope_keys;
mod server_end;
mod settings;
mod shutdown;
mod standing;
mod status;
mod twin;
mod unheard;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::auth::x509::CertificateInfo;
use crate::clock::SharedClock;
use crate::config::{self, Config};
use crate::edged::certificate::NothingToServe;
use crate::front::connection::Front;
use crate::front::ingest::Ingest;
use crate::front::listener;
use crate::front::live::LiveGate;
use crate::metrics::Metrics;
use crate::pump;
use crate::pump::deadletter::DeadLetterQueue;
use crate::pump::store_logs::StoreLogs;
use crate::relay::Relay;
use crate::store::disk::RealDisk;
use crate::store::{self, Health, Store};
use crate::upstream::Upstream;

use self::bundle_watch::Asked;
pub use self::bundle_watch::{Applied, BundleReload, Closing};
use self::configuration::{Configuration, First};
use self::daemon::FromDaemon;
use self::doors::Doors;
pub use self::examine::{examine, inspect};
use self::forecast::{LastSample, Sampler};
use self::hub::ToHub;
use self::live::{LIVE_WINDOWS_MAX, LiveWatch};
use self::ports::Ports;
use self::prepare::Prepared;
pub use self::prepare::{Problem, Problems};
use self::pumps::{OpenQueues, Pumps, ToModules, refresh_gauges};
use self::recovery::report_recovery;
use self::removed::RemovedWatch;
use self::scope_keys::ScopeKeys;
use self::server_end::ServerEnd;
use self::shutdown::{Stops, Tasks};
use self::standing::Standing;
use self::status::Shown;

/// What sessions get for their receipts, and pumps for what is under way, once the gateway stops. Of [`shutdown::ALL_MAX`].
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the gateway cannot start. The texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Configured files cannot be used.
    #[error(transparent)]
    Configured(#[from] Problems),
    /// The IoT Edge daemon.
    #[error(transparent)]
    Daemon(#[from] NothingToServe),
    /// The store.
    #[error("the store cannot be opened: {0}")]
    Store(#[from] store::OpenError),
    /// A port.
    #[error("cannot listen on {address}: {source}; is another process using the port?")]
    Listen {
        /// What was tried last.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl StartError {
    /// Whether it lies in what the user configured (exit code 64), not in the machine.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Configured(_))
    }
}

/// A running gateway.
pub struct Gateway {
    mqtt: SocketAddr,
    metrics_addr: Option<SocketAddr>,
    metrics: Arc<Metrics>,
    store: Arc<Store>,
    open: Arc<OpenQueues>,
    health: watch::Receiver<Health>,
    failed: watch::Sender<Option<String>>,
    /// Whether the listener for devices runs.
    serving: Arc<AtomicBool>,
    /// Which queues wait for a newer program.
    waiting: watch::Sender<Vec<String>>,
    /// Asks for the configured document to be read again.
    reload: mpsc::Sender<()>,
    /// Asks for the trust bundle to be read again.
    reload_bundle: mpsc::Sender<Asked>,
    stops: Stops,
    tasks: Tasks,
}

/// With what recovery found told.
fn open_store(
    config: &Config,
    document_bytes_max: Option<u64>,
    clock: &SharedClock,
    metrics: &Metrics,
) -> Result<Store, StartError> {
    let set = settings::of_store(config, document_bytes_max);
    let (store, report) = Store::open(set, Arc::new(RealDisk), Arc::clone(clock))?;
    report_recovery(&report, metrics);
    Ok(store)
}

impl Gateway {
    /// Starts everything; returns when devices can connect. Does not wait for the hub.
    ///
    /// # Errors
    /// [`StartError`]: nothing is left running.
    pub async fn start(config: Config, clock: SharedClock) -> Result<Self, StartError> {
        let daemon = FromDaemon::fetch(&config, &clock, true).await?;
        let (config, now) = (Arc::new(config), clock.wall());
        let Prepared { first, server, bundle, upstream: upstream_config } =
            Prepared::read(&config, now, First::choose(&config, now), daemon.as_ref())?;
        let metrics = settings::metrics(&config);
        let store = open_store(&config, first.compiled.store_bytes_max, &clock, &metrics)?;
        let (stops, tasks) = (Stops::default(), Tasks::default());
        let doors = Doors::new(bundle, &config, &metrics, &clock);
        let keys = ScopeKeys::new(&config, daemon.as_ref(), &doors.scope, &metrics);
        keys.at_start(&stops.upstream, &tasks.upstream).await;
        let hub = ToHub::new(upstream_config, &doors, &metrics, &clock, &tasks.upstream);
        let Ports { mqtt, mqtt_addr, admin } = Ports::bind(&config).await?;

        let (reload, asked) = mpsc::channel(1);
        let (reload_bundle, asked_bundle) = mpsc::channel(1);
        let gateway = Self {
            mqtt: mqtt_addr,
            metrics_addr: admin.as_ref().and_then(|l| l.local_addr().ok()),
            metrics,
            health: store.health(),
            failed: watch::Sender::new(None),
            serving: Arc::default(),
            waiting: watch::Sender::default(),
            store: Arc::new(store),
            open: Arc::default(),
            reload,
            reload_bundle,
            stops,
            tasks,
        };
        gateway.run_hub(&hub);
        let configuration = gateway.configuration(first, &config, &clock);
        let live = gateway.run_live(&hub.upstream, configuration.live_first(), &config);
        let metrics = Arc::clone(&gateway.metrics);
        let ingest = Arc::new(Ingest::new(configuration.routes(), live, metrics));
        let relay = gateway.run_relay(&hub, &doors, &ingest, &config, &clock);
        gateway.run_scope_shown(&doors, &hub, &clock);
        let standing = Standing::new(&doors, &gateway.metrics);
        let end = gateway.server_end(server.leaf(), &config, &clock);
        let refusals = gateway.run_refusals(&config, &clock);
        let sample = gateway.run_sampler(&config, &clock);
        let unheard = gateway.run_unheard(&sample, &relay, &doors, &config, &clock);
        if let Some(listener) = admin {
            let identities = standing.warnings();
            let (doors, end, refusals) = (&doors, &end, &refusals);
            let shown = Shown { sample, unheard, doors, end, refusals };
            gateway.run_admin(listener, &config, &configuration, shown, identities);
        }
        let given = daemon.as_ref().map(FromDaemon::trust_bundle_changes);
        let tls = gateway.run_certificate(daemon, &server, settings::asks(&config), end);
        gateway.run_standing(standing, &hub);
        gateway.run_bundle_watch(asked_bundle, &config, &doors, &clock, given);
        gateway.run_source(asked, &config, &clock, &hub, &configuration, &doors.roster);
        let sessions = gateway.run_departed(&doors, &hub, &relay, &config);
        let front = Front {
            config: settings::of_connections(&config),
            authenticator: doors.authenticator,
            roster: doors.roster,
            ingest,
            appender: gateway.store.appender(),
            relay: Arc::new(relay),
            sessions,
            metrics: Arc::clone(&gateway.metrics),
            clock,
            hub: Box::new(hub.refresher),
            decisions: refusals,
        };
        gateway.run_front(mqtt, &config, tls, front);
        Ok(gateway)
    }

    /// Where devices connect.
    pub fn mqtt_addr(&self) -> SocketAddr {
        self.mqtt
    }

    /// Where `/metrics` and `/healthz` answer; only the latter without metrics.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// Resolves when the gateway can no longer do its job and must be restarted: says why.
    pub async fn failed(&self) -> String {
        let (mut health, mut failed) = (self.health.clone(), self.failed.subscribe());
        tokio::select! {
            poisoned = health.wait_for(|h| matches!(h, Health::Poisoned(_))) => match poisoned.as_deref() {
                Ok(Health::Poisoned(why)) => why.clone(),
                Ok(Health::Healthy) | Err(_) => "the store's writer has ended".to_owned(),
            },
            why = failed.wait_for(Option::is_some) => {
                why.ok().and_then(|why| why.clone()).unwrap_or_else(|| "a pump has ended".to_owned())
            }
        }
    }

    /// Has the configured document and the trust bundle read again, at once; the log tells what comes of it.
    pub fn reload(&self) {
        // One question that waits is enough: its answer is still to come.
        let _ = self.reload.try_send(());
        let _ = self.reload_bundle.try_send(Asked::default());
    }

    /// Shows when the server's certificate ends.
    fn server_end(
        &self,
        leaf: &CertificateInfo,
        config: &Config,
        clock: &SharedClock,
    ) -> Arc<ServerEnd> {
        let is_renewed = config.server == config::ServerSource::Daemon;
        let end = ServerEnd::new(leaf, is_renewed, clock);
        end.show(&self.metrics);
        end
    }

    /// A pump for each queue that feeds the upstream or a module, those found on disk and those created later.
    fn run_pumps(&self, hub: &ToHub, relay: &Relay, clock: &SharedClock, config: &Config) {
        let modules = ToModules {
            relay: relay.clone(),
            edge: config.connection.device.clone(),
            ack_timeout: config.relay.ack_timeout,
            config: settings::of_input_pumps(config),
        };
        let pumps = Pumps {
            store: Arc::clone(&self.store),
            target: pump::Target::new(Arc::clone(&hub.upstream) as _),
            modules,
            inputs: BTreeMap::new(),
            metrics: Arc::clone(&self.metrics),
            clock: Arc::clone(clock),
            stop: self.stops.pumps.clone(),
            tasks: self.tasks.pumps.clone(),
            config: settings::of_pumps(config),
            failed: self.failed.clone(),
            waiting: self.waiting.clone(),
            open: Arc::clone(&self.open),
        };
        let (open, stats) = (Arc::clone(&self.open), Arc::clone(&self.store));
        self.metrics.on_scrape(move |metrics| refresh_gauges(metrics, &open, &stats));
        self.tasks.pumps.spawn(pumps.run());
        self.run_removed(clock);
    }

    /// What messages are routed by.
    fn configuration(
        &self,
        first: First,
        config: &Arc<Config>,
        clock: &SharedClock,
    ) -> Arc<Configuration> {
        let parts = configuration::Parts {
            config: Arc::clone(config),
            store: Arc::clone(&self.store),
            metrics: Arc::clone(&self.metrics),
            clock: Arc::clone(clock),
        };
        Configuration::new(first, parts)
    }

    /// The gate of the live-first routes: shut until the first of them is `wanted`.
    fn run_live(
        &self,
        upstream: &Arc<Upstream>,
        mut wanted: watch::Receiver<bool>,
        config: &Config,
    ) -> Arc<LiveGate> {
        let gate = Arc::new(LiveGate::default());
        let watch = LiveWatch {
            gate: Arc::clone(&gate),
            open: Arc::clone(&self.open),
            connected: upstream.connected(),
            metrics: Arc::clone(&self.metrics),
            messages_max: LIVE_WINDOWS_MAX * u64::from(config.upstream.window_messages),
        };
        let stop = self.stops.upstream.clone();
        self.tasks.upstream.spawn(async move {
            let first = stop.run_until_cancelled(wanted.wait_for(|wanted| *wanted)).await;
            if first.is_some_and(|first| first.is_ok()) {
                watch.run(stop).await;
            }
        });
        gate
    }

    /// Ends with the upstream's tasks, after the pumps: they may still find messages that cannot be read.
    fn run_removed(&self, clock: &SharedClock) {
        let heard = self.store.removed().expect("nobody else asks for it");
        let logs = Arc::new(StoreLogs::new(Arc::clone(&self.store)));
        let letters = Arc::new(DeadLetterQueue::new(logs));
        let watch = RemovedWatch::new(heard, letters, Arc::clone(&self.metrics), Arc::clone(clock));
        self.tasks.upstream.spawn(watch.run(self.stops.upstream.clone()));
    }

    fn run_sampler(&self, config: &Config, clock: &SharedClock) -> LastSample {
        let store = Arc::clone(&self.store);
        self.metrics.on_scrape(move |metrics| forecast::refresh_gauges(metrics, &store.stats()));
        let sampler = Sampler::new(
            Arc::clone(&self.store),
            Arc::clone(&self.open),
            config.store.when_full,
            Arc::clone(&self.metrics),
            Arc::clone(clock),
        );
        let last = sampler.last();
        self.tasks.upstream.spawn(sampler.run(self.stops.upstream.clone()));
        last
    }

    fn run_front(
        &self,
        listener: TcpListener,
        config: &Config,
        tls: Arc<ArcSwap<rustls::ServerConfig>>,
        front: Front,
    ) {
        let wanted = u64::from(config.mqtt.connections_max);
        let limits = listener::Config {
            connections_max: descriptors::connections(wanted, &self.metrics) as usize,
            handshake_timeout: config.mqtt.handshake_timeout,
            limits: settings::of_limits(&config.mqtt),
        };
        let (tasks, stop) = (self.tasks.front.clone(), self.stops.front.clone());
        self.tasks.front.spawn(listener::run(listener, limits, tls, Arc::new(front), tasks, stop));
        self.serving.store(true, Ordering::Release);
        info!("MQTT over TLS on {}", self.mqtt);
    }
}
