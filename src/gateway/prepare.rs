//! What the configuration points to, read and judged before anything runs: the desired document, certificates, trust.
//!
//! Owns: nothing that lives on. Invariant: every problem is found, not only the first; nothing is bound yet.

use std::fmt;
use std::path::PathBuf;

use tracing::warn;

use super::bundle_watch;
use super::configuration::{First, store_warnings};
use super::daemon::{self, FromDaemon};
use super::settings;
use crate::auth::{TrustBundle, bundle};
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::desired::DesiredError;
use crate::front::tls::{ServerIdentity, ServerIdentityError};
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
    pub(super) first: First,
    pub(super) server: ServerIdentity,
    pub(super) bundle: TrustBundle,
    pub(super) upstream: upstream::Config,
}

impl Prepared {
    /// Reads what is configured beside the desired document, of which `first` is what came. `daemon` is there if the
    /// configuration says that the IoT Edge daemon is asked.
    pub(super) fn read(
        config: &Config,
        now: UnixMillis,
        first: Result<First, DesiredError>,
        daemon: Option<&FromDaemon>,
    ) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let mut note = |problem: Problem| problems.push(problem);
        let first = first.map_err(|e| note(e.into()));
        let server = daemon::server_identity(config, now, daemon).map_err(|e| note(e.into()));
        let bundle = load_bundle(config, now, daemon).map_err(|e| note(e.into()));
        let upstream = settings::of_upstream(config, daemon).map_err(note);
        match (first, server, bundle, upstream) {
            (Ok(first), Ok(server), Ok(bundle), Ok(upstream)) => {
                let bytes_max = first.compiled.store_bytes_max;
                store_warnings(config, bytes_max).iter().for_each(|w| warn!("{w}"));
                server.warnings().iter().for_each(|w| warn!("server certificate: {w}"));
                Ok(Self { first, server, bundle, upstream })
            }
            _ => Err(Problems(problems)),
        }
    }
}

fn load_bundle(
    config: &Config,
    now: UnixMillis,
    daemon: Option<&FromDaemon>,
) -> Result<TrustBundle, bundle::BundleError> {
    let bundle = daemon::trust_bundle(config, daemon)?;
    bundle_watch::tell(&bundle, None, now);
    Ok(bundle)
}
