//! Messages that wait for an input of a module that does not listen: told long before they fill the store for everybody.
//!
//! An input is *unheard* when messages wait in its queues and its module was not connected, or not subscribed to its inputs, for
//! [`UNHEARD_AFTER`]. Its begin and its end are a line in the log each; meanwhile `/healthz`, `/queues` and two gauges tell of it.
//!
//! Owns: since when each waits in vain, and the words. Invariants: a module that has listened, or a queue that was empty, begins
//! anew (it is looked every [`LOOK_EVERY`], and when a module begins to listen); what a module is not there for at the start of
//! the gateway is told after the same time. Must not know: what is in a queue, who delivers it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Gateway;
use super::doors::Doors;
use super::forecast::LastSample;
use super::pumps::{OpenQueues, input_of};
use crate::admin::UnheardInput;
use crate::auth::{Lookup, Scope};
use crate::clock::SharedClock;
use crate::command::text;
use crate::config::Config;
use crate::identity::{ClientName, DeviceId};
use crate::metrics::Metrics;
use crate::relay::Relay;
use crate::relay::inputs::Presence;
use crate::store::WhenFull;

/// A module that is being updated, or starts with the gateway, is back before.
const UNHEARD_AFTER: Duration = Duration::from_secs(300);

/// How often it is looked what waits.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Most inputs that `/healthz` names; `/queues` has them all.
const WARNINGS_MAX: usize = 10;

/// Those that are unheard now, that with the most bytes first.
pub(super) type UnheardInputs = Arc<ArcSwap<Vec<UnheardInput>>>;

/// What waits for an input.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Waiting {
    module: ClientName,
    input: String,
    messages: u64,
    bytes: u64,
    presence: Presence,
}

/// Since when each endpoint's messages have waited in vain.
#[derive(Debug, Default)]
struct Model {
    since: BTreeMap<Arc<str>, Vain>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Vain {
    since: Instant,
    /// Whether that was long enough to be told.
    is_told: bool,
}

/// A change that is told.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Begins(Arc<str>),
    Ends(Arc<str>),
}

impl Model {
    /// Takes what waits now.
    fn look(&mut self, now: Instant, waiting: &BTreeMap<Arc<str>, Waiting>) -> Vec<Change> {
        let mut changes = Vec::new();
        let is_vain = |w: &Waiting| w.messages > 0 && w.presence != Presence::Listening;
        self.since.retain(|endpoint, vain| {
            let stays = waiting.get(endpoint).is_some_and(is_vain);
            if !stays && vain.is_told {
                changes.push(Change::Ends(Arc::clone(endpoint)));
            }
            stays
        });
        for (endpoint, _) in waiting.iter().filter(|(_, waiting)| is_vain(waiting)) {
            let begun = Vain { since: now, is_told: false };
            let vain = self.since.entry(Arc::clone(endpoint)).or_insert(begun);
            if !vain.is_told && now.saturating_duration_since(vain.since) >= UNHEARD_AFTER {
                vain.is_told = true;
                changes.push(Change::Begins(Arc::clone(endpoint)));
            }
        }
        changes
    }

    /// Those that are told, with the time for which nobody has listened.
    fn told(&self, now: Instant) -> impl Iterator<Item = (&Arc<str>, Duration)> {
        let told = self.since.iter().filter(|(_, vain)| vain.is_told);
        told.map(move |(endpoint, vain)| (endpoint, now.saturating_duration_since(vain.since)))
    }
}

/// What the scope says of a module that is not connected.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    /// It is there, or no scope is known.
    Perhaps,
    /// The scope has no module of that name.
    No,
    /// It has one whose name has other letter case.
    As(String),
}

impl Known {
    fn of(module: &ClientName, scope: &Scope) -> Self {
        if scope.lookup(module) != Lookup::NotInScope {
            return Self::Perhaps;
        }
        let wanted = module.module().map_or("", |module| module.as_str());
        let all = scope.lives().unwrap_or_default();
        let ours = all.keys().filter(|who| who.device() == module.device());
        let like = ours.filter_map(|who| who.module()).map(|module| module.as_str());
        let like = like.filter(|name| name.eq_ignore_ascii_case(wanted)).min();
        like.map_or(Self::No, |name| Self::As(name.to_owned()))
    }
}

/// Why nobody listens, and what to do.
fn advice(presence: Presence, known: &Known) -> String {
    match (presence, known) {
        (Presence::NotSubscribed, _) => {
            "it is connected, but has not subscribed to its inputs: correct the module".to_owned()
        }
        (_, Known::Perhaps) => "it is not connected: deploy or start it".to_owned(),
        (_, Known::No) => {
            "the scope has no such module: correct its name in the route (what waits already stays until its time to live \
             ends), or deploy it"
                .to_owned()
        }
        (_, Known::As(name)) => {
            format!(
                "the scope has it as {name:?}, in other letter case: correct the route (what waits already stays until its \
                 time to live ends)"
            )
        }
    }
}

/// All of it in words.
fn told(
    waiting: &Waiting,
    unheard: Duration,
    limit: Option<u64>,
    when_full: WhenFull,
    known: &Known,
) -> UnheardInput {
    let Waiting { module, input, messages, bytes, presence } = waiting;
    let module = module.module().map_or("", |module| module.as_str());
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit behind the point")]
    let percent = limit.filter(|l| *l > 0).map(|l| *bytes as f64 * 100.0 / l as f64);
    let share = percent.map_or(String::new(), |percent| match percent {
        p if p < 0.05 => ", less than 0.1 % of what the store may take".to_owned(),
        p => format!(", {p:.1} % of what the store may take"),
    });
    let (many, long) = (text::plural(*messages, "message"), text::span(unheard.as_secs_f64()));
    let then = match when_full {
        WhenFull::Reject => "devices' messages are refused",
        WhenFull::DropOldest => "the oldest messages are dropped",
    };
    let text = format!(
        "{many} ({}{share}) for input {input:?} of module {module:?}, to which nobody has listened for {long}: {}; a time to \
         live of the route (timeToLiveSecs) bounds what comes, and once the store is full {then}",
        text::bytes(*bytes),
        advice(*presence, known),
    );
    UnheardInput {
        module: module.to_owned(),
        input: input.clone(),
        messages: *messages,
        bytes: *bytes,
        budget_percent: percent.map(|percent| (percent * 10.0).round() / 10.0),
        unheard_secs: unheard.as_secs(),
        text,
    }
}

/// For `/healthz`.
pub(super) fn warnings(unheard: &[UnheardInput]) -> Vec<String> {
    let named = unheard.iter().take(WARNINGS_MAX).map(|input| input.text.clone());
    let more = unheard.len().saturating_sub(WARNINGS_MAX) as u64;
    let more = (more > 0).then(|| {
        let inputs = text::plural(more, "more input");
        format!("messages wait in vain for {inputs}: see `sphere-gateway queue list`")
    });
    named.chain(more).collect()
}

/// Looks.
struct Unheard {
    edge: DeviceId,
    open: Arc<OpenQueues>,
    sample: LastSample,
    when_full: WhenFull,
    relay: Relay,
    scope: Arc<Scope>,
    metrics: Arc<Metrics>,
    clock: SharedClock,
    model: Model,
    inputs: UnheardInputs,
}

impl Gateway {
    /// Ends with the upstream's tasks, after the pumps.
    pub(super) fn run_unheard(
        &self,
        sample: &LastSample,
        relay: &Relay,
        doors: &Doors,
        config: &Config,
        clock: &SharedClock,
    ) -> UnheardInputs {
        let inputs = UnheardInputs::default();
        let unheard = Unheard {
            edge: config.connection.device.clone(),
            open: Arc::clone(&self.open),
            sample: Arc::clone(sample),
            when_full: config.store.when_full,
            relay: relay.clone(),
            scope: Arc::clone(&doors.scope),
            metrics: Arc::clone(&self.metrics),
            clock: Arc::clone(clock),
            model: Model::default(),
            inputs: Arc::clone(&inputs),
        };
        self.tasks.upstream.spawn(unheard.run(self.stops.upstream.clone()));
        inputs
    }
}

impl Unheard {
    async fn run(mut self, stop: CancellationToken) {
        let mut arrivals = self.relay.module_arrivals();
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
                Ok(()) = arrivals.changed() => {}
            }
            self.look();
        }
    }

    fn look(&mut self) {
        let (now, waiting) = (self.clock.monotonic(), self.waiting());
        let changes = self.model.look(now, &waiting);
        let told = self.model.told(now);
        let told: BTreeMap<&Arc<str>, UnheardInput> = told
            .map(|(endpoint, unheard)| (endpoint, self.tell(&waiting[endpoint], unheard)))
            .collect();
        for change in changes {
            match change {
                Change::Begins(endpoint) => warn!("{}", told[&endpoint].text),
                Change::Ends(endpoint) => {
                    let listens = waiting.get(&endpoint).filter(|w| w.messages > 0).is_some();
                    let why = if listens { "its module listens" } else { "nothing waits" };
                    info!(endpoint = &*endpoint, "an input is no longer without its module: {why}");
                }
            }
        }
        let mut told: Vec<UnheardInput> = told.into_values().collect();
        told.sort_by_key(|input| std::cmp::Reverse(input.bytes));
        let bytes: u64 = told.iter().map(|input| input.bytes).sum();
        let help = "Inputs for which messages wait although nobody listens for minutes.";
        self.metrics.set_gauge("unheard_inputs", help, told.len() as f64);
        let help = "Bytes that wait for them.";
        self.metrics.set_gauge("unheard_inputs_bytes", help, bytes as f64);
        self.inputs.store(Arc::new(told));
    }

    /// What waits for each input of this edge device, in all its queues.
    fn waiting(&self) -> BTreeMap<Arc<str>, Waiting> {
        let mut all: BTreeMap<Arc<str>, Waiting> = BTreeMap::new();
        for (id, queue) in self.open.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let Some((module, input)) = input_of(&self.edge, &id.endpoint) else { continue };
            let sum = all.entry(Arc::clone(&id.endpoint)).or_insert_with(|| Waiting {
                presence: self.relay.presence(&module),
                module,
                input: input.to_owned(),
                messages: 0,
                bytes: 0,
            });
            sum.messages += queue.messages();
            sum.bytes += queue.bytes();
        }
        all
    }

    fn tell(&self, waiting: &Waiting, unheard: Duration) -> UnheardInput {
        let limit = self.sample.load().as_ref().and_then(|sample| sample.queues.store.limit_bytes);
        let known = Known::of(&waiting.module, &self.scope);
        told(waiting, unheard, limit, self.when_full, &known)
    }
}

#[cfg(test)]
mod tests;
