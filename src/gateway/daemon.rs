//! Started by the IoT Edge daemon: what it gives is fetched before anything else, and the server's certificate is renewed
//! while devices are connected.
//!
//! Owns: what the daemon gave at the start, and the swap of the certificate. Invariant: a swap touches newcomers alone; who
//! is connected keeps his connection. Must not know: the daemon's API.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tracing::warn;

use super::Gateway;
use super::server_end::ServerEnd;
use crate::auth::TrustBundle;
use crate::auth::bundle::BundleError;
use crate::clock::{SharedClock, UnixMillis};
use crate::config::{Config, Connection, Credentials, ServerSource};
use crate::edged::certificate::{self, Certificates, Current, NothingToServe};
use crate::edged::{self, Workload};
use crate::front::tls::{self, ServerIdentity, ServerIdentityError};

/// The daemon's trust bundle, in words.
pub(super) const DAEMON_BUNDLE: &str = "the IoT Edge daemon's trust bundle";

/// What the daemon gave, or what was kept of it.
pub(super) struct FromDaemon {
    pub(super) workload: Arc<Workload>,
    pub(super) bundle_pem: Vec<u8>,
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
        let certificates = Certificates::new(Arc::clone(&workload), set, Arc::clone(clock));
        let current = async {
            match config.server {
                ServerSource::Daemon => certificates.at_start().await.map(Some),
                ServerSource::Files(_) => Ok(None),
            }
        };
        let (current, bundle_pem) = tokio::join!(current, certificates.bundle_at_start());
        let (certificate, bundle_pem) = (current?, bundle_pem?);
        Ok(Some(Self { workload, bundle_pem, certificate, certificates }))
    }

    /// The CAs that admit devices. An edge device may well have none but its own: devices with tokens need none.
    fn bundle(&self) -> TrustBundle {
        match TrustBundle::from_bytes(DAEMON_BUNDLE, &self.bundle_pem) {
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

/// The CAs that admit devices: a file, else what the daemon gave.
pub(super) fn trust_bundle(
    config: &Config,
    daemon: Option<&FromDaemon>,
) -> Result<TrustBundle, BundleError> {
    match &config.trust_bundle {
        Some(path) => TrustBundle::load(&[path]),
        None => Ok(daemon.map(FromDaemon::bundle).unwrap_or_default()),
    }
}

impl Gateway {
    /// What the listener serves with, beginning with `server`: renewed in place if the certificate is the daemon's. Keeps
    /// `end` up to date.
    pub(super) fn run_certificate(
        &self,
        daemon: Option<FromDaemon>,
        server: &ServerIdentity,
        end: Arc<ServerEnd>,
    ) -> Arc<ArcSwap<ServerConfig>> {
        let served = Arc::new(ArcSwap::new(tls::server_config(server)));
        if let Some(FromDaemon { certificate: Some(current), certificates, .. }) = daemon {
            let (served, metrics) = (Arc::clone(&served), Arc::clone(&self.metrics));
            let stop = self.stops.upstream.clone();
            self.tasks.upstream.spawn(async move {
                let swap = |identity: &ServerIdentity| {
                    served.store(tls::server_config(identity));
                    end.renewed(identity.leaf());
                    metrics.counted("server_certificate", "renewed");
                };
                stop.run_until_cancelled(certificates.run(current, &metrics, swap)).await;
            });
        }
        served
    }
}
