//! Started by the IoT Edge daemon: what it gives is fetched before anything else, and the server's certificate is renewed
//! while devices are connected; its trust bundle is watched.
//!
//! Owns: what the daemon gave at the start, and the swap of the certificate. Invariant: a swap touches newcomers alone; who
//! is connected keeps his connection. Must not know: the daemon's API.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use rustls::ServerConfig;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::Gateway;
use super::server_end::ServerEnd;
use crate::auth::TrustBundle;
use crate::auth::bundle::BundleError;
use crate::clock::{SharedClock, UnixMillis};
use crate::config::{Config, Connection, Credentials, ServerSource};
use crate::edged::certificate::{self, Certificates, Current, NothingToServe};
use crate::edged::trust_bundle::Bundles;
use crate::edged::{self, Workload};
use crate::front::tls::{self, ServerIdentity, ServerIdentityError};
use crate::metrics::Metrics;

/// The daemon's trust bundle, in words.
pub(super) const DAEMON_BUNDLE: &str = "the IoT Edge daemon's trust bundle";

/// What the daemon gave, or what was kept of it.
pub(super) struct FromDaemon {
    pub(super) workload: Arc<Workload>,
    bundles: Arc<Bundles>,
    /// Whether anything goes by the daemon's bundle: both its uses can be given by files.
    uses_bundle: bool,
    /// `None`: the certificate is a file.
    certificate: Option<Current>,
    certificates: Certificates,
}

impl FromDaemon {
    /// Asks the daemon, if the configuration says so. `keeps`: what it gives is written down for a start without it.
    pub(super) async fn fetch(
        config: &Config,
        clock: &SharedClock,
        keeps: bool,
    ) -> Result<Option<Self>, NothingToServe> {
        let Connection { module, credentials: Credentials::Daemon(daemon), .. } =
            &config.connection
        else {
            return Ok(None);
        };
        let version = daemon.announced_version.as_deref();
        let (address, generation) = (daemon.address.clone(), daemon.generation.clone());
        let set = edged::Config::new(address, version, module.clone(), generation);
        let workload = Workload::new(set);
        let set = certificate::Config {
            gateway_name: config.gateway_host_name.clone(),
            folder: config.storage.clone(),
            keeps,
            renew_after_max: daemon.renew_after_max,
        };
        let bundles = Bundles::at_start(Arc::clone(&workload), &set);
        let certificates = Certificates::new(Arc::clone(&workload), set.clone(), Arc::clone(clock));
        let current = async {
            match config.server {
                ServerSource::Daemon => certificates.at_start().await.map(Some),
                ServerSource::Files(_) => Ok(None),
            }
        };
        let (current, bundles) = tokio::join!(current, bundles);
        let (certificate, bundles) = (current?, Arc::new(bundles?));
        let uses_bundle = config.trust_bundle.is_empty() || config.upstream.extra_roots.is_none();
        Ok(Some(Self { workload, bundles, uses_bundle, certificate, certificates }))
    }

    /// The trust bundle as the daemon gave it last, PEM.
    pub(super) fn bundle_pem(&self) -> Bytes {
        self.bundles.last()
    }

    /// The same, and whenever it is another one: looked at every hour and at each renewal of the certificate.
    pub(super) fn trust_bundle_changes(&self) -> watch::Receiver<Bytes> {
        self.bundles.changes()
    }

    /// The CAs that admit devices. An edge device may well have none but its own: devices with tokens need none.
    fn bundle(&self) -> TrustBundle {
        match TrustBundle::from_bytes(DAEMON_BUNDLE, &self.bundle_pem()) {
            Ok(bundle) => bundle,
            Err(e) => {
                warn!(
                    "{DAEMON_BUNDLE}: {e}; set EdgeHubDevTrustBundleFile to the CAs of your devices"
                );
                TrustBundle::empty()
            }
        }
    }
}

/// The server's certificate and key: files, or what the daemon gave. `daemon` is there if the configuration says that it is
/// asked.
pub(super) fn server_identity(
    config: &Config,
    now: UnixMillis,
    daemon: Option<&FromDaemon>,
) -> Result<ServerIdentity, ServerIdentityError> {
    match &config.server {
        ServerSource::Files(files) => {
            let name = &config.gateway_host_name;
            tls::load_server_identity(&files.certificate, &files.key, name, now)
        }
        ServerSource::Daemon => {
            let given = daemon.and_then(|daemon| daemon.certificate.as_ref());
            Ok(given.expect("it was asked for one").identity().clone())
        }
    }
}

/// The CAs that admit devices: those that are configured and no others, else what the daemon gave.
pub(super) fn trust_bundle(
    config: &Config,
    daemon: Option<&FromDaemon>,
) -> Result<TrustBundle, BundleError> {
    let Some(daemon) = daemon else {
        return TrustBundle::load(&config.trust_bundle);
    };
    if config.trust_bundle.is_empty() {
        return Ok(daemon.bundle());
    }
    info!(
        "{DAEMON_BUNDLE} serves to check the hub's certificate and admits no device: EdgeHubDevTrustBundleFile alone does"
    );
    TrustBundle::load(&config.trust_bundle)
}

impl Gateway {
    /// What the listener serves with, beginning with `server`: renewed in place if the certificate is the daemon's. Keeps
    /// `end` up to date.
    pub(super) fn run_certificate(
        &self,
        daemon: Option<FromDaemon>,
        server: &ServerIdentity,
        asks: tls::Asks,
        end: Arc<ServerEnd>,
    ) -> Arc<ArcSwap<ServerConfig>> {
        let served = Arc::new(ArcSwap::new(tls::server_config(server, asks)));
        let Some(daemon) = daemon else { return served };
        let (stop, look_again) = (self.stops.upstream.clone(), Arc::new(Notify::new()));
        self.run_daemon_bundle(&daemon, Arc::clone(&look_again));
        if let FromDaemon { certificate: Some(current), certificates, .. } = daemon {
            let (served, metrics) = (Arc::clone(&served), Arc::clone(&self.metrics));
            self.tasks.upstream.spawn(async move {
                let swap = |identity: &ServerIdentity| {
                    served.store(tls::server_config(identity, asks));
                    end.renewed(identity.leaf());
                    metrics.counted("server_certificate", "renewed");
                    look_again.notify_one();
                };
                stop.run_until_cancelled(certificates.run(current, &metrics, swap)).await;
            });
        }
        served
    }

    /// Looks at the daemon's trust bundle again and again, and says when it is not the one in force any more.
    fn run_daemon_bundle(&self, daemon: &FromDaemon, look_again: Arc<Notify>) {
        if !daemon.uses_bundle {
            return;
        }
        let told = tell_of_bundle(daemon.trust_bundle_changes(), Arc::clone(&self.metrics));
        let (bundles, metrics) = (Arc::clone(&daemon.bundles), Arc::clone(&self.metrics));
        let stop = self.stops.upstream.clone();
        self.tasks.upstream.spawn(async move {
            let both = async { tokio::join!(bundles.watch(&look_again, &metrics), told) };
            stop.run_until_cancelled(both).await;
        });
    }
}

/// Says whenever the daemon's bundle begins or ceases to differ from the one that was taken at the start.
async fn tell_of_bundle(mut changes: watch::Receiver<Bytes>, metrics: Arc<Metrics>) {
    let in_force = changes.borrow_and_update().clone();
    while changes.changed().await.is_ok() {
        let is_in_force = *changes.borrow_and_update() == in_force;
        if is_in_force {
            metrics.counted("trust_bundle", "as_in_force");
            info!("{DAEMON_BUNDLE} is the one in force again");
        } else {
            metrics.counted("trust_bundle", "changed");
            warn!(
                "{DAEMON_BUNDLE} has changed and is kept: for the hub's certificate it counts from the next start on; \
                 restart this module when the hub needs it"
            );
        }
    }
}
