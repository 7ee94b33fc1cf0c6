//! Keeps the scope fresh.
//!
//! Owns: when the scope is fetched: at start until it first succeeds, then every hour, after each reconnect of the
//! upstream, and on demand with a least gap (`edgehub.md` 7.1). Invariant: a failed refresh changes nothing.
//! Must not know: how it is fetched, or who looks things up in it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::scope_api::{ScopeApi, ScopeFetchError};
use crate::auth::scope::Scope;
use crate::metrics::Metrics;

/// Least time between a refresh and one because of a reconnect.
const RECONNECT_GAP_MIN: Duration = Duration::from_secs(10);

/// First and largest ceiling of the wait after a failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Refreshes a [`Scope`].
pub struct ScopeRefresher {
    api: ScopeApi,
    scope: Arc<Scope>,
    metrics: Arc<Metrics>,
    asked: Notify,
    /// One at a time, so that what was read first does not come last.
    turn: Mutex<()>,
    /// When a refresh last succeeded.
    refreshed: watch::Sender<Option<Instant>>,
}

impl ScopeRefresher {
    /// Does nothing until [`ScopeRefresher::run`] runs.
    pub fn new(api: ScopeApi, scope: Arc<Scope>, metrics: Arc<Metrics>) -> Arc<Self> {
        let refreshed = watch::Sender::new(None);
        Arc::new(Self {
            api,
            scope,
            metrics,
            asked: Notify::new(),
            turn: Mutex::new(()),
            refreshed,
        })
    }

    /// Asks for a refresh soon: someone is unknown to the scope. Many asks are one; the gap since the last refresh is kept.
    pub fn request_refresh(&self) {
        self.asked.notify_one();
    }

    /// Refreshes at once, whatever the gap. One at a time.
    ///
    /// # Errors
    /// Why it was not refreshed; what was known stays valid.
    pub async fn refresh_now(&self) -> Result<usize, ScopeFetchError> {
        self.refresh().await
    }

    /// Monotonic time of the last successful refresh.
    pub fn refreshed(&self) -> watch::Receiver<Option<Instant>> {
        self.refreshed.subscribe()
    }

    /// Refreshes until `stop`. `connected` is [`super::Upstream::connected`].
    pub async fn run(&self, mut connected: watch::Receiver<bool>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep_fresh(&mut connected) => {}
        }
    }

    async fn keep_fresh(&self, connected: &mut watch::Receiver<bool>) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut told = false;
        loop {
            let wait = match self.refresh().await {
                Ok(count) => {
                    tracing::info!(count, "scope refreshed");
                    (backoff, told) = (Backoff::new(RETRY.0, RETRY.1), false);
                    self.api.config().scope_refresh_every
                }
                Err(error) => {
                    self.metrics.counted("scope_refresh_failed", label(&error));
                    if told {
                        tracing::debug!(%error, "scope not refreshed");
                    } else {
                        tracing::warn!(%error, "scope not refreshed; what was known stays valid");
                    }
                    told = true;
                    backoff.next_wait()
                }
            };
            self.next_occasion(wait, connected).await;
        }
    }

    /// Returns after `wait`, on a reconnect, or on demand once the least gap has passed.
    async fn next_occasion(&self, wait: Duration, connected: &mut watch::Receiver<bool>) {
        let gap = async {
            self.asked.notified().await;
            let since = (*self.refreshed.borrow())
                .map(|at| self.api.clock().monotonic().saturating_duration_since(at));
            let gap = self.api.config().scope_refresh_gap_min;
            // Never refreshed: `wait` is a short one then, and the demand is met by it.
            let rest = since.map_or(wait, |since| gap.saturating_sub(since));
            tokio::time::sleep(rest).await;
        };
        // On a link that flaps one refresh serves several reconnects; it is put off, never left out.
        let news = async {
            reconnect(connected).await;
            let at = *self.refreshed.borrow();
            let age = at.map(|at| self.api.clock().monotonic().saturating_duration_since(at));
            let gap = RECONNECT_GAP_MIN.min(self.api.config().scope_refresh_gap_min);
            tokio::time::sleep(age.map_or(Duration::ZERO, |age| gap.saturating_sub(age))).await;
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = news => {}
            () = gap => {}
        }
    }

    async fn refresh(&self) -> Result<usize, ScopeFetchError> {
        let _turn = self.turn.lock().await;
        let entries = self.api.fetch().await?;
        let count = entries.len();
        let (scope, now) = (self.scope.clone(), self.api.clock().wall());
        // Writes a file and syncs it: not on a thread that serves sockets.
        let replaced = tokio::task::spawn_blocking(move || scope.replace(entries, now))
            .await
            .expect("replacing the scope does not panic");
        if let Err(error) = replaced.stored {
            // In force all the same; only a restart without upstream would miss it.
            tracing::error!(%error, "the scope could not be written to disk; check the storage folder");
            self.metrics.counted("scope_not_stored", "io");
        }
        self.refreshed.send_replace(Some(self.api.clock().monotonic()));
        Ok(count)
    }
}

/// Resolves when the upstream comes back. The connection that stands now was there when the scope was fetched.
async fn reconnect(connected: &mut watch::Receiver<bool>) {
    loop {
        if connected.changed().await.is_err() {
            // The upstream is gone: no more reconnects.
            return std::future::pending().await;
        }
        if *connected.borrow_and_update() {
            return;
        }
    }
}

fn label(error: &ScopeFetchError) -> &'static str {
    match error {
        ScopeFetchError::Refused { .. } => "refused",
        ScopeFetchError::Unavailable(_) => "unavailable",
        ScopeFetchError::Time => "timeout",
        ScopeFetchError::Malformed(_) => "malformed",
    }
}
