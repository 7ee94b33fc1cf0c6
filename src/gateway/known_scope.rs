//! The scope that is known at the start, and how old it is.
//!
//! Owns: where its snapshot lies. Must not know: how it is fetched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

use super::Gateway;
use super::doors::Doors;
use super::hub::ToHub;
use crate::auth::{Lookup, Scope, scope};
use crate::clock::{SharedClock, UnixMillis};
use crate::config::Config;
use crate::metrics::Metrics;

/// The scope, and the time before which it cannot be: when the snapshot was written.
pub(super) fn load_scope(config: &Config, metrics: &Metrics) -> (Arc<Scope>, UnixMillis) {
    let path = config.storage.join("scope.json");
    let (scope, loaded) = Scope::load(path, config.connection.device.clone());
    if let scope::Loaded::SetAside { .. } = &loaded {
        metrics.counted("scope_snapshot", "set_aside");
        warn!("{loaded}");
    } else {
        info!("{loaded}");
    }
    let saved = match loaded {
        scope::Loaded::Snapshot { saved, .. } => saved,
        _ => UnixMillis(0),
    };
    (Arc::new(scope), saved)
}

impl Gateway {
    /// How old the scope is, and whose series there are.
    pub(super) fn run_scope_shown(&self, doors: &Doors, hub: &ToHub, clock: &SharedClock) {
        let refreshed = hub.refresher.refreshed();
        show_scope(&self.metrics, &doors.scope, doors.scope_saved, refreshed.clone(), clock);
        self.run_series(&doors.scope, refreshed);
    }

    /// After each refresh of the scope the series of those who left it may make room.
    fn run_series(&self, scope: &Arc<Scope>, mut refreshed: watch::Receiver<Option<Instant>>) {
        let (scope, metrics) = (Arc::clone(scope), Arc::clone(&self.metrics));
        let stop = self.stops.upstream.clone();
        self.tasks.upstream.spawn(async move {
            while let Some(Ok(())) = stop.run_until_cancelled(refreshed.changed()).await {
                metrics.free_ids(|identity| scope.lookup(identity.name()) != Lookup::NotInScope);
            }
        });
    }
}

/// Shows how old the scope is: by the time of its file until the hub has told it anew.
fn show_scope(
    metrics: &Metrics,
    scope: &Arc<Scope>,
    saved: UnixMillis,
    refreshed: watch::Receiver<Option<Instant>>,
    clock: &SharedClock,
) {
    let (scope, clock) = (Arc::clone(scope), Arc::clone(clock));
    metrics.on_scrape(move |metrics| {
        let stored = || {
            let age = clock.wall().0.saturating_sub(saved.0);
            (saved != UnixMillis(0)).then(|| Duration::from_millis(age))
        };
        let told = *refreshed.borrow();
        let age = match told {
            Some(at) => Some(clock.monotonic().saturating_duration_since(at)),
            None => stored(),
        };
        let help = "Seconds since the hub told who may connect; none while nobody knows.";
        metrics.set_gauge_if("scope_age_seconds", help, age.map(|age| age.as_secs_f64()));
        let help = "Devices and modules that may connect.";
        metrics.set_gauge("scope_entries", help, scope.len() as f64);
    });
}
