//! Who has left the scope, or was made anew in it: what is kept of its clients' sessions and twins goes.
//!
//! Owns: the comparison of the scope before and after each refresh. Invariants: who is disabled has not left; while no scope is
//! known nobody has; reported properties that a device was promised to have kept are not dropped because it is elsewhere now
//! ([`Relay::forget`]), as its messages are not. Must not know: what is kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tracing::info;

use super::Gateway;
use super::doors::Doors;
use super::hub::ToHub;
use crate::auth::Scope;
use crate::config::Config;
use crate::front::kept_sessions::KeptSessions;
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::relay::Relay;

/// Whoever is in the scope, with its generation id.
type Lives = HashMap<Identity, Box<str>>;

/// Sees to it that nothing is kept of who is gone.
pub(super) struct Departed {
    scope: Arc<Scope>,
    sessions: Arc<KeptSessions>,
    relay: Relay,
    metrics: Arc<Metrics>,
    before: Lives,
}

impl Gateway {
    /// Gives the kept sessions; runs until the upstream's tasks end, which is after the sessions.
    pub(super) fn run_departed(
        &self,
        doors: &Doors,
        hub: &ToHub,
        relay: &Relay,
        config: &Config,
    ) -> Arc<KeptSessions> {
        // The stored scope tells who left while we were not there.
        let scope = Arc::clone(&doors.scope);
        let (before, refreshed) = (scope.lives().unwrap_or_default(), hub.refresher.refreshed());
        let sessions = KeptSessions::in_storage(&config.storage, &self.metrics);
        let (relay, metrics) = (relay.clone(), Arc::clone(&self.metrics));
        let departed = Departed { scope, sessions: Arc::clone(&sessions), relay, metrics, before };
        let stop = self.stops.upstream.clone();
        self.tasks.upstream.spawn(async move {
            stop.run_until_cancelled(departed.run(refreshed)).await;
        });
        sessions
    }
}

impl Departed {
    async fn run(mut self, mut refreshed: watch::Receiver<Option<Instant>>) {
        while refreshed.changed().await.is_ok() {
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let Some(now) = self.scope.lives() else { return };
        let before = std::mem::replace(&mut self.before, now);
        for (who, life) in before {
            let new_life = self.before.get(&who);
            if new_life == Some(&life) {
                continue;
            }
            let reason = if new_life.is_some() { "made_anew" } else { "not_in_scope" };
            self.metrics.counted("departed", reason);
            // Its connection, if it has one, is ended by whoever judges standings.
            if new_life.is_some() {
                self.relay.begins_anew(&who);
            } else {
                info!(%who, "has left the scope: its session and its twin are kept no longer");
                self.relay.forget(&who);
            }
            self.sessions.forget(who.name()).await;
        }
    }
}
