//! What goes both ways, as the assembly holds it: the downlinks, the twins, and the relay between them and the clients.
//!
//! Must not know: what goes over it.

use std::sync::Arc;

use super::Gateway;
use super::doors::Doors;
use super::hub::ToHub;
use super::settings;
use crate::auth::Lookup;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::front::ingest::Ingest;
use crate::identity::Identity;
use crate::relay::Relay;
use crate::relay::changes::Changes;
use crate::relay::twins::{self, Twins};
use crate::upstream::downlinks::{self, Downlinks};

/// Of [`Config::storage`]: the kept twins.
pub(super) const TWINS_FOLDER: &str = "twins";

impl Gateway {
    /// Keeps the links of all clients until the upstream ends, which is after the sessions; starts the pumps, some of which
    /// deliver by the relay.
    pub(super) fn run_relay(
        &self,
        hub: &ToHub,
        doors: &Doors,
        ingest: &Arc<Ingest>,
        config: &Config,
        clock: &SharedClock,
    ) -> Relay {
        let upstream = Arc::clone(&hub.upstream);
        let downlinks = Downlinks::new(upstream, downlinks::Config::default());
        let changes = Changes::new(
            doors.authenticator.ourselves(),
            Arc::clone(ingest),
            self.store.appender(),
            Arc::clone(&self.metrics),
            Arc::clone(clock),
        );
        let scope = Arc::clone(&doors.scope);
        let twins = Twins::new(twins::Parts {
            folder: config.storage.join(TWINS_FOLDER),
            cloud: Arc::clone(&downlinks) as _,
            generation: Arc::new(move |who: &Identity| match scope.lookup(who.name()) {
                Lookup::Entry(entry) => Some(entry.generation.clone()),
                Lookup::Unknown | Lookup::NotInScope => None,
            }),
            reported: Arc::new(changes),
            config: settings::of_twins(config),
            metrics: Arc::clone(&self.metrics),
            clock: Arc::clone(clock),
            tasks: self.tasks.upstream.clone(),
            stop: self.stops.upstream.clone(),
        });
        let metrics = Arc::clone(&self.metrics);
        let relay = Relay::new(Arc::clone(&downlinks) as _, twins, metrics, Arc::clone(clock));
        let listener = Arc::new(relay.clone());
        self.tasks.upstream.spawn(downlinks.run(listener, self.stops.upstream.clone()));
        self.run_pumps(hub, &relay, clock, config);
        relay
    }
}
