//! What the gateway shows of itself: health, readiness, queues, refusals, and who depends on what.
//!
//! Owns: what a healthy gateway warns of. Must not know: how any of it came about.

use std::sync::Arc;

use tokio::net::TcpListener;
use tracing::error;

use super::Gateway;
use super::audit;
use super::configuration::Configuration;
use super::doors::Doors;
use super::forecast::{self, LastSample};
use super::refusals::Refusals;
use super::server_end::ServerEnd;
use super::unheard::{self, UnheardInputs};
use crate::admin::{self, Admin, Queues};
use crate::auth::dependents::Dependents;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::store::Health;

/// Where it is looked up.
pub(super) struct Shown<'a> {
    pub(super) sample: LastSample,
    pub(super) unheard: UnheardInputs,
    pub(super) doors: &'a Doors,
    pub(super) end: &'a Arc<ServerEnd>,
    pub(super) refusals: &'a Arc<Refusals>,
}

impl Gateway {
    /// They end with the upstream's tasks, after the front: then nobody is decided about any more.
    pub(super) fn run_refusals(&self, config: &Config, clock: &SharedClock) -> Arc<Refusals> {
        let (tasks, stop) = (&self.tasks.upstream, &self.stops.upstream);
        let log = config.audit.as_ref().map(|audit| {
            let (log, writer) = audit::open(&config.storage, audit.bytes_max, clock, &self.metrics);
            tasks.spawn(writer.run(stop.clone()));
            log
        });
        let refusals = Refusals::new(log, Arc::clone(clock));
        tasks.spawn(Arc::clone(&refusals).run(stop.clone()));
        refusals
    }

    pub(super) fn run_admin(
        &self,
        listener: TcpListener,
        config: &Config,
        configuration: &Configuration,
        shown: Shown<'_>,
        identities: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) {
        let Shown { sample, unheard, doors, end, refusals } = shown;
        let (suffix, ready) = (&config.metrics.suffix, self.readiness(Arc::clone(&doors.scope)));
        let (health, store, last) =
            (self.health.clone(), Arc::clone(&self.store), Arc::clone(&sample));
        let (waiting, configured) = (self.waiting.subscribe(), configuration.warnings());
        let (end, inputs) = (Arc::clone(end), Arc::clone(&unheard));
        let health = move || match &*health.borrow() {
            Health::Healthy => {
                let mut warnings = forecast::warnings(&store.stats(), last.load().as_deref());
                warnings.extend(unheard::warnings(&inputs.load()));
                warnings.extend(waiting.borrow().iter().cloned());
                warnings.extend(configured.borrow().iter().cloned());
                warnings.extend(end.warning());
                warnings.extend(identities());
                admin::Health::warning(warnings)
            }
            Health::Poisoned(why) => admin::Health::failing(vec![why.clone()]),
        };
        let queues = move || Some(with_unheard(&sample.load().as_ref()?.queues, &unheard));
        let (refusals, roster) = (Arc::clone(refusals), Arc::clone(&doors.roster));
        let dependents = move || Dependents::of(roster.admissions().iter().map(|a| &**a));
        let state = Admin::new(Arc::clone(&self.metrics), suffix, health, ready, queues)
            .with_refusals(move || refusals.report())
            .with_dependents(dependents)
            .with_metrics(config.metrics.enabled);
        let stop = self.stops.admin.clone();
        self.tasks.admin.spawn(async move {
            if let Err(e) = admin::serve(listener, state, stop).await {
                error!("the metrics endpoint ended: {e}");
            }
        });
    }
}

/// The last sample's queues, and the inputs of the last look.
fn with_unheard(queues: &Arc<Queues>, unheard: &UnheardInputs) -> Arc<Queues> {
    let unheard = unheard.load();
    match unheard.is_empty() {
        true => Arc::clone(queues),
        false => Arc::new(Queues { unheard: unheard.to_vec(), ..(**queues).clone() }),
    }
}
