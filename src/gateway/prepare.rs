//! What the configuration points to, read and judged before anything runs: routes, certificates, trust.
//!
//! Owns: nothing that lives on. Invariant: every problem is found, not only the first; nothing is bound or written yet.

use std::fmt;
use std::path::PathBuf;

use tracing::{error, info, warn};

use super::settings;
use crate::auth::{TrustBundle, bundle};
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::desired::{Desired, DesiredError};
use crate::front::tls::{self, ServerIdentity, ServerIdentityError};
use crate::route::{Endpoint, RouteTable};
use crate::store::{Disk, RealDisk};
use crate::upstream;

/// One thing that a configured file has wrong. The texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The desired document is not usable as a whole.
    #[error("edgeHubTwinFile: {0}")]
    Desired(#[from] DesiredError),
    /// The server's certificate or key.
    #[error(transparent)]
    ServerIdentity(#[from] ServerIdentityError),
    /// The trust bundle.
    #[error("EdgeHubDevTrustBundleFile: {0}")]
    Bundle(#[from] bundle::BundleError),
    /// Roots for the hub's certificate.
    #[error("roots for the hub's certificate, {path}: {reason}")]
    UpstreamRoots {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Every problem of the configured files.
#[derive(Debug)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} configured files cannot be used:", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for Problems {}

/// What a start needs.
pub(super) struct Prepared {
    pub(super) routes: RouteTable,
    /// `storeLimits.maxSizeBytes` of the desired document.
    pub(super) store_bytes_max: Option<u64>,
    pub(super) server: ServerIdentity,
    pub(super) bundle: TrustBundle,
    pub(super) upstream: upstream::Config,
}

impl Prepared {
    pub(super) fn read(config: &Config, now: UnixMillis) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let mut note = |problem: Problem| problems.push(problem);
        let routes = compile_routes(config).map_err(|e| note(e.into()));
        let files = &config.server;
        let name = &config.gateway_host_name;
        let server = tls::load_server_identity(&files.certificate, &files.key, name, now)
            .map_err(|e| note(e.into()));
        let bundle = load_bundle(config).map_err(|e| note(e.into()));
        let upstream = settings::of_upstream(config).map_err(note);
        match (routes, server, bundle, upstream) {
            (Ok((routes, store_bytes_max)), Ok(server), Ok(bundle), Ok(upstream)) => {
                let space = config.storage.parent().and_then(|dir| RealDisk.space(dir).ok());
                let volume_bytes = space.map(|space| space.total);
                let store = settings::of_store(config, store_bytes_max);
                settings::of_store_warnings(&config.store, &store, volume_bytes)
                    .iter()
                    .for_each(|w| warn!("{w}"));
                server.warnings().iter().for_each(|w| warn!("server certificate: {w}"));
                Ok(Self { routes, store_bytes_max, server, bundle, upstream })
            }
            _ => Err(Problems(problems)),
        }
    }
}

/// The routes, and the document's limit of the store.
fn compile_routes(config: &Config) -> Result<(RouteTable, Option<u64>), DesiredError> {
    let desired = match &config.desired_file {
        None => Desired::without_document(config.default_ttl_secs),
        Some(path) => Desired::load(path)?,
    };
    let (mut table, refused) = desired.compile(&config.connection.device, config.store.live_first);
    for route in &refused {
        error!("{route}");
    }
    // Nobody drains a module's input yet: its queue would fill the disk without a word.
    let unserved = table.keep(|endpoint| *endpoint == Endpoint::Upstream);
    for name in &unserved {
        error!("route {name:?} is set aside, the others run: modules' inputs are not served yet");
    }
    for warning in desired.warnings.iter().chain(table.warnings()) {
        warn!("{warning}");
    }
    if let (Some(document), Some(setting)) = (desired.store_bytes_max, config.store.bytes_max) {
        warn!(
            "storeLimits.maxSizeBytes is {document} and storeSettings__maxSizeBytes is {setting}: the smaller, {}, counts",
            document.min(setting)
        );
    }
    info!("{} routes run, {} are set aside", table.len(), refused.len() + unserved.len());
    Ok((table, desired.store_bytes_max))
}

fn load_bundle(config: &Config) -> Result<TrustBundle, bundle::BundleError> {
    let bundle = TrustBundle::load(&[&config.trust_bundle])?;
    for refused in bundle.refused() {
        warn!("trust bundle: an entry is left out: {refused}");
    }
    info!("{} certificate authorities admit devices", bundle.entries().len());
    Ok(bundle)
}
