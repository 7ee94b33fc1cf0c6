//! The way to the hub as the assembly holds it: the connection, and what keeps the scope fresh.
//!
//! Must not know: what goes over it.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::Gateway;
use super::doors::Doors;
use crate::clock::SharedClock;
use crate::metrics::Metrics;
use crate::upstream::refresh::ScopeRefresher;
use crate::upstream::scope_api::ScopeApi;
use crate::upstream::{self, Upstream};

/// Both.
#[derive(Clone)]
pub(super) struct ToHub {
    pub(super) upstream: Arc<Upstream>,
    pub(super) refresher: Arc<ScopeRefresher>,
}

impl ToHub {
    /// Nothing runs yet.
    pub(super) fn new(
        config: upstream::Config,
        doors: &Doors,
        metrics: &Arc<Metrics>,
        clock: &SharedClock,
        tasks: &TaskTracker,
    ) -> Self {
        let roster = Arc::clone(&doors.roster);
        let is_present: upstream::Presence = Arc::new(move |who| roster.has(who));
        let config = upstream::Config { is_present: Some(is_present), ..config };
        let api = ScopeApi::new(config.clone(), Arc::clone(clock), tasks.clone());
        let (scope, metrics) = (Arc::clone(&doors.scope), Arc::clone(metrics));
        let refresher = ScopeRefresher::new(api, Arc::clone(&scope), Arc::clone(&metrics));
        let upstream = Upstream::new(config, scope, metrics, Arc::clone(clock), tasks.clone());
        Self { upstream, refresher }
    }
}

impl Gateway {
    /// Connects, and keeps the scope fresh.
    pub(super) fn run_hub(&self, hub: &ToHub) {
        let stop = self.stops.upstream.clone();
        let (running, until) = (Arc::clone(&hub.upstream), stop.clone());
        self.tasks.upstream.spawn(async move { running.run(until).await });
        let (refresher, connected) = (Arc::clone(&hub.refresher), hub.upstream.connected());
        self.tasks.upstream.spawn(async move { refresher.run(connected, stop).await });
    }
}
