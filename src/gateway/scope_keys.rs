//! Opens the stored keys of the scope: at the start, and again and again until the IoT Edge daemon answers.
//!
//! Owns: when it is tried, and what is told. Invariant: nothing waits for it longer than a moment; a start without the daemon
//! lets in who has a certificate, and has who has a token come back. Must not know: how keys are sealed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use super::daemon::FromDaemon;
use crate::auth::Scope;
use crate::auth::scope::Opened;
use crate::auth::scope::vault::{self, FileMode, NoDataKey, Obtained, Origin, Seal, SealError};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::upstream::backoff::Backoff;

/// How long a start waits: a daemon that is well answers in milliseconds.
const START_WAIT: Duration = Duration::from_secs(1);

/// Ceilings of the waits between tries.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What is needed for it.
#[derive(Clone)]
pub(super) struct ScopeKeys {
    path: PathBuf,
    seal: Arc<dyn Seal>,
    scope: Arc<Scope>,
    metrics: Arc<Metrics>,
}

impl ScopeKeys {
    /// Sealed by the daemon if there is one.
    pub(super) fn new(
        config: &Config,
        daemon: Option<&FromDaemon>,
        scope: &Arc<Scope>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let seal: Arc<dyn Seal> = match daemon {
            Some(daemon) => Arc::clone(&daemon.workload) as _,
            None => Arc::new(FileMode),
        };
        let path = config.storage.join("scope.key");
        Self { path, seal, scope: Arc::clone(scope), metrics: Arc::clone(metrics) }
    }

    /// Goes on in the background if it takes longer than a moment.
    pub(super) async fn at_start(self, stop: &CancellationToken, tasks: &TaskTracker) {
        let stop = stop.clone();
        let opening = tasks.spawn(async move { stop.run_until_cancelled(self.open(&stop)).await });
        let _ = tokio::time::timeout(START_WAIT, opening).await;
    }

    async fn open(self, stop: &CancellationToken) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut told = false;
        loop {
            let (this, stop) = (self.clone(), stop.clone());
            // The disk blocks, the daemon does not; and the process cannot end before such a thread does.
            let runtime = Handle::current();
            let once = spawn_blocking(move || {
                runtime
                    .block_on(stop.run_until_cancelled(vault::obtain(&this.path, &*this.seal)))
                    .unwrap_or(Err(NoDataKey::Away(SealError("the gateway stops".into()))))
                    .map(|obtained| this.open_with(obtained))
            });
            let Err(e) = once.await.expect("opening keys does not panic") else { return };
            let reason = match e {
                NoDataKey::Away(_) => "away",
                NoDataKey::Disk { .. } => "io",
            };
            self.metrics.counted("scope_keys", reason);
            if told {
                debug!("{e}");
            } else {
                warn!("{e}; devices with keys are asked to come back until then");
            }
            told = true;
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    fn open_with(&self, obtained: Obtained) {
        let Obtained { key, origin, was_exposed } = obtained;
        self.tell(&origin, was_exposed);
        let (opened, stored) = self.scope.open(key);
        self.metrics.counted("scope_keys", "opened");
        match opened {
            Opened::Nothing => {}
            Opened::Keys { entries } => info!("the stored keys of {entries} identities serve"),
            Opened::SetAside { to } => {
                self.metrics.counted("scope_keys", "set_aside");
                let to = to.map_or_else(|| "not kept".to_owned(), |to| to.display().to_string());
                warn!(
                    "the stored keys of devices cannot be opened (another key, or damage; the file is {to}): devices with keys \
                     are let in once the hub has given them again"
                );
            }
        }
        if let Err(error) = stored {
            self.metrics.counted("scope_not_stored", "io");
            error!(%error, "the scope could not be written to disk; check the storage folder");
        }
    }

    fn tell(&self, origin: &Origin, was_exposed: bool) {
        let by = self.seal.by();
        match origin {
            Origin::Kept => {}
            Origin::Made => info!("{}: made, sealed by the {by}", self.path.display()),
            Origin::TakenOver => info!("{}: sealed by the {by} from now on", self.path.display()),
            Origin::Remade { set_aside, reason } => {
                self.metrics.counted("scope_keys", "data_key_lost");
                warn!(
                    "{} cannot be used ({reason}): set aside as {set_aside:?}, and made anew",
                    self.path.display()
                );
            }
        }
        if was_exposed {
            self.metrics.counted("scope_keys", "exposed");
            warn!(
                "{} could be read by others than its owner; it is private again: if somebody may have read it, give the devices \
                 new keys",
                self.path.display()
            );
        }
    }
}
