//! The desired configuration in force: routes, times to live, the store's limits. Changed while devices publish.
//!
//! Owns: which document is in force, the table that every message is routed by, what is told about it (log, metrics,
//! `/healthz`).
//! Invariants:
//! - Every document, wherever it comes from, goes through [`Configuration::offer`]: it is accepted as a whole or changes
//!   nothing. A route that does not compile is set aside, the others run.
//! - The table is swapped whole; each message is routed by one table.
//! - What is in force is on disk ([`LastGood`]), so that the next start has it.
//!
//! Must not know: how a document is read ([`file`]), messages.
//!
//! On purpose different from the reference, where one bad route refuses the whole configuration.

mod compiled;
mod file;
mod file_watch;
mod first;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tracing::{error, info, warn};

pub(super) use self::compiled::Compiled;
use self::compiled::names;
pub(super) use self::file::Stamp;
pub(super) use self::file_watch::FileWatch;
pub(super) use self::first::{Basis, First};
use super::settings;
use crate::clock::{SharedClock, UnixMillis};
use crate::config::Config;
use crate::desired::last_good::LastGood;
use crate::desired::layers::SetApart;
use crate::desired::{Desired, DesiredError};
use crate::metrics::Metrics;
use crate::route::{CompiledRoute, RouteTable};
use crate::store::{Disk, RealDisk, Store};

/// Where a document comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The configured file.
    File,
    /// The `$edgeHub` twin.
    Twin,
    /// The last good document on disk.
    LastGood,
    /// There is none: everything goes upstream.
    Default,
}

impl Origin {
    /// As metrics label it.
    fn label(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Twin => "twin",
            Self::LastGood => "last_good",
            Self::Default => "default",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "edgeHubTwinFile",
            Self::Twin => "the $edgeHub twin",
            Self::LastGood => "the last good document",
            Self::Default => "the built-in default",
        })
    }
}

/// Why a document is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// Somebody asked, and is told also when nothing changes.
    Asked,
    /// It may have changed, and nobody writes to it any more.
    Quiet,
    /// It is written over and over. What is refused may be half of a document: nobody hears of it.
    Unquiet,
}

/// What came of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Offered {
    /// It is in force, but for the routes that are set aside, with why.
    InForce(Vec<String>),
    /// It was refused as a whole: every problem.
    Refused(Vec<String>),
}

/// A document that was refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// As metrics label it.
    reason: &'static str,
    error: DesiredError,
    /// What tells it from other refused documents: its text, or why there is none.
    content: String,
}

impl Refusal {
    /// There is no text.
    fn unreadable(problem: String) -> Self {
        let error = DesiredError::new(vec![problem.clone()]);
        Self { reason: "unreadable", error, content: problem }
    }

    /// The text is no document.
    fn bad(content: &str, error: DesiredError) -> Self {
        Self { reason: "bad", error, content: content.to_owned() }
    }
}

/// A document as it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Came {
    text: String,
    /// The layers that do not count in it.
    apart: Vec<SetApart>,
    /// What is to be said of those that do.
    warnings: Vec<String>,
}

impl From<String> for Came {
    fn from(text: String) -> Self {
        Self { text, apart: Vec::new(), warnings: Vec::new() }
    }
}

/// A document that was accepted as a whole.
#[derive(Debug, Clone)]
struct Accepted {
    text: String,
    desired: Desired,
}

impl Accepted {
    /// A document that has routes of which none can run is refused like one that cannot be read
    /// ([`crate::desired::Judged`]).
    fn judge(came: Came, config: &Config) -> Result<(Self, Compiled), Refusal> {
        let Came { text, apart, warnings } = came;
        let desired = match Desired::parse(&text) {
            Ok(desired) => desired,
            Err(error) => return Err(Refusal::bad(&text, error)),
        };
        let compiled = Compiled::new(&desired, config).with_layers(apart, warnings);
        match compiled.refused() {
            Some(error) => Err(Refusal::bad(&text, error)),
            None => Ok((Self { text, desired }, compiled)),
        }
    }
}

/// What a configuration is put in force on.
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) store: Arc<Store>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: SharedClock,
}

/// The configuration in force. Shared; offers are taken one at a time.
pub(super) struct Configuration {
    parts: Parts,
    routes: Arc<ArcSwap<RouteTable>>,
    /// Whether any route was live-first since the start.
    live_first: watch::Sender<bool>,
    /// What `/healthz` warns of.
    warnings: watch::Sender<Vec<String>>,
    state: Mutex<State>,
}

/// How many looks at the file pass before a document that could not be kept is tried again: 30 seconds. A try is some
/// writes (flash wears).
const KEEP_AGAIN_LOOKS: u32 = 15;

/// The document in force is not the one on disk.
struct NotKept {
    problem: String,
    /// Looks at the file since it could not be kept.
    looks: u32,
}

/// What changes together.
struct State {
    /// The document in force; `None` = there is none.
    accepted: Option<Accepted>,
    since: UnixMillis,
    store_bytes_max: Option<u64>,
    set_aside: Vec<String>,
    /// Layers that do not count in it.
    layers_apart: Vec<SetApart>,
    /// The document that came after it and was refused.
    refused: Option<(Origin, Refusal)>,
    /// Not there without a configured document: then nothing is kept.
    last_good: Option<LastGood>,
    not_kept: Option<NotKept>,
}

impl State {
    fn is_in_force(&self, text: &str) -> bool {
        self.accepted.as_ref().is_some_and(|accepted| accepted.text == text)
    }

    /// The document in force, in words.
    fn in_force(&self) -> String {
        self.accepted.as_ref().map_or_else(|| Origin::Default.to_string(), |_| of_time(self.since))
    }
}

impl Configuration {
    /// Puts `first` in force; the store has its limits already. Blocks on the disk.
    pub(super) fn new(first: First, parts: Parts) -> Arc<Self> {
        let First { compiled, origin, accepted, since, refusal, last_good, not_loaded } = first;
        parts.metrics.counted("configuration_applied", origin.label());
        if let Some(reason) = not_loaded {
            parts.metrics.counted("configuration_kept", reason);
        }
        if let Some(refusal) = &refusal {
            parts.metrics.counted("configuration_refused", refusal.reason);
        }
        let live_first = compiled.has_live_first();
        let Compiled { table, set_aside, store_bytes_max, layers_apart, .. } = compiled;
        count_layers(&layers_apart, &[], &parts.metrics);
        let mut state = State {
            accepted,
            since,
            store_bytes_max,
            set_aside: set_aside.into_iter().map(|route| route.name).collect(),
            layers_apart,
            refused: refusal.map(|refusal| (Origin::File, refusal)),
            last_good,
            not_kept: None,
        };
        keep(&mut state, &parts);
        let configuration = Arc::new(Self {
            parts,
            routes: Arc::new(ArcSwap::from_pointee(table)),
            live_first: watch::Sender::new(live_first),
            warnings: watch::Sender::default(),
            state: Mutex::new(state),
        });
        configuration.tell(&configuration.state.lock().unwrap_or_else(PoisonError::into_inner));
        configuration
    }

    /// The table that is in force at any time.
    pub(super) fn routes(&self) -> Arc<ArcSwap<RouteTable>> {
        Arc::clone(&self.routes)
    }

    /// Turns true when a route is live-first for the first time.
    pub(super) fn live_first(&self) -> watch::Receiver<bool> {
        self.live_first.subscribe()
    }

    /// What a person should look at.
    pub(super) fn warnings(&self) -> watch::Receiver<Vec<String>> {
        self.warnings.subscribe()
    }

    /// Takes a document, or the reason why there is none. Blocks on the disk.
    pub(super) fn offer(
        &self,
        origin: Origin,
        offered: Result<Came, Refusal>,
        occasion: Occasion,
    ) -> Offered {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let came = match offered.and_then(|came| Accepted::judge(came, &self.parts.config)) {
            Ok((accepted, compiled)) => {
                let set_aside = compiled.set_aside().map(str::to_owned).collect();
                let new = |layer: &&SetApart| !state.layers_apart.contains(*layer);
                if occasion == Occasion::Unquiet && compiled.layers_apart.iter().any(|l| new(&l)) {
                    // It may be half of a layer.
                    return Offered::InForce(set_aside);
                }
                if state.is_in_force(&accepted.text) {
                    self.unchanged(&mut state, origin, occasion, compiled);
                } else {
                    self.accept(&mut state, origin, accepted, compiled);
                }
                Offered::InForce(set_aside)
            }
            Err(refusal) => {
                let problems = refusal.error.problems.clone();
                if occasion == Occasion::Unquiet {
                    return Offered::Refused(problems);
                }
                self.refuse(&mut state, origin, refusal, occasion);
                Offered::Refused(problems)
            }
        };
        // Also what was in force before: it may have failed.
        keep(&mut state, &self.parts);
        self.tell(&state);
        came
    }

    /// Whether there never was a document, good or bad.
    pub(super) fn has_none(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.accepted.is_none() && state.refused.is_none()
    }

    /// Tries again now and then to keep the document in force, if that failed; to be called at each look at the file.
    /// Blocks on the disk.
    pub(super) fn keep_again(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(not_kept) = &mut state.not_kept else { return };
        not_kept.looks += 1;
        if not_kept.looks >= KEEP_AGAIN_LOOKS {
            keep(&mut state, &self.parts);
            self.tell(&state);
        }
    }

    fn accept(&self, state: &mut State, origin: Origin, accepted: Accepted, compiled: Compiled) {
        compiled.log();
        let changes = compiled.changes(&self.routes.load(), &state.set_aside);
        // Before the first message of a live-first route: its gate is shut until somebody turns it.
        if compiled.has_live_first() {
            self.live_first.send_replace(true);
        }
        if compiled.store_bytes_max != state.store_bytes_max {
            self.limit_store(compiled.store_bytes_max);
        }
        let Compiled { table, set_aside, store_bytes_max, layers_apart, .. } = compiled;
        count_layers(&layers_apart, &state.layers_apart, &self.parts.metrics);
        self.routes.store(Arc::new(table));
        self.parts.metrics.counted("configuration_applied", origin.label());
        info!("{origin}: a changed document is in force: {changes}");
        state.since = self.parts.clock.wall();
        state.store_bytes_max = store_bytes_max;
        state.set_aside = set_aside.into_iter().map(|route| route.name).collect();
        state.layers_apart = layers_apart;
        state.refused = None;
        state.accepted = Some(accepted);
    }

    /// The document in force came again, maybe with other layers that do not count in it.
    fn unchanged(&self, state: &mut State, origin: Origin, occasion: Occasion, came: Compiled) {
        if state.layers_apart != came.layers_apart {
            came.log_layers();
            count_layers(&came.layers_apart, &state.layers_apart, &self.parts.metrics);
            info!("{origin}: {} layers are set apart now", came.layers_apart.len());
            state.layers_apart = came.layers_apart;
        }
        if state.refused.take().is_some() {
            info!("{origin}: the document is good again; it is the one in force, nothing changes");
        } else if occasion == Occasion::Asked {
            info!("{origin}: the document is the one in force, nothing changes");
        }
    }

    fn refuse(&self, state: &mut State, origin: Origin, refusal: Refusal, occasion: Occasion) {
        let known = state.refused.as_ref().is_some_and(|(_, known)| *known == refusal);
        if known && occasion != Occasion::Asked {
            return;
        }
        self.parts.metrics.counted("configuration_refused", refusal.reason);
        error!(
            "{origin}: {}. Nothing changes, {} stays in force: correct the document, it is read again when it changes",
            refusal.error,
            state.in_force()
        );
        state.refused = Some((origin, refusal));
    }

    fn limit_store(&self, document_bytes_max: Option<u64>) {
        let config = &self.parts.config;
        let store = settings::of_store(config, document_bytes_max);
        for warning in store_warnings(config, document_bytes_max) {
            warn!("{warning}");
        }
        match store.limits.budget_bytes {
            Some(bytes) => info!("the store may take {bytes} bytes from now on"),
            None => info!("the store may take what its volume has from now on"),
        }
        self.parts.store.set_limits(store.limits);
    }

    /// Brings gauges and warnings up to date.
    fn tell(&self, state: &State) {
        let gauge = |name, help, value| self.parts.metrics.set_gauge(name, help, value);
        let routes = self.routes.load();
        let running = routes.len();
        gauge("routes_running", "Routes that run.", running as f64);
        gauge(
            "routes_set_aside",
            "Routes that are set aside because they cannot be used.",
            state.set_aside.len() as f64,
        );
        gauge(
            "configuration_layers_set_apart",
            "Layers of the configured folder that do not count because they cannot be used.",
            state.layers_apart.len() as f64,
        );
        gauge(
            "configuration_last_good_in_use",
            "Whether an earlier document is in force because the present one is refused.",
            f64::from(u8::from(state.refused.is_some())),
        );
        gauge(
            "configuration_not_kept",
            "Whether the document in force could not be kept for the next start.",
            f64::from(u8::from(state.not_kept.is_some())),
        );
        let mut warnings = Vec::new();
        if let Some((origin, refusal)) = &state.refused {
            warnings.push(format!(
                "{origin} is refused ({}) and {} is in force: correct the document; the log tells more",
                compiled::in_short(&refusal.error),
                state.in_force()
            ));
        }
        if !state.set_aside.is_empty() {
            warnings.push(format!(
                "{} routes are set aside: {}; correct them, the log tells what is wrong",
                state.set_aside.len(),
                names(state.set_aside.iter().map(String::as_str))
            ));
        }
        if !state.layers_apart.is_empty() {
            warnings.push(format!(
                "{} layers are set apart: {}; correct them, the log tells what is wrong",
                state.layers_apart.len(),
                names(state.layers_apart.iter().map(|layer| layer.file.as_str()))
            ));
        }
        if running == 0 {
            warnings.push(
                "no route runs: every message is acknowledged and dropped; add a route".to_owned(),
            );
        } else if routes.routes().iter().all(CompiledRoute::selects_nothing) {
            warnings.push(
                "no route that runs can select a message: every message is acknowledged and dropped; the log says what \
                 was probably meant, correct a route"
                    .to_owned(),
            );
        }
        if let Some(NotKept { problem, .. }) = &state.not_kept {
            warnings.push(format!(
                "the document in force could not be kept for the next start ({problem}): {NOT_KEPT_ADVICE}"
            ));
        }
        self.warnings.send_replace(warnings);
    }
}

/// A document in force, by the time when it was accepted.
fn of_time(since: UnixMillis) -> String {
    match i64::try_from(since.0).ok().map(jiff::Timestamp::from_millisecond) {
        Some(Ok(time)) => format!("the document accepted {time:.0}"),
        _ => "the document accepted before".to_owned(),
    }
}

/// Counts the layers that are set apart and were not before.
fn count_layers(now: &[SetApart], before: &[SetApart], metrics: &Metrics) {
    for layer in now.iter().filter(|layer| !before.contains(layer)) {
        metrics.counted("configuration_layer_set_apart", layer.reason);
    }
}

const NOT_KEPT_ADVICE: &str = "make room in the storage folder and let the gateway's user write to it; it is tried again every \
                               30 seconds";

/// Keeps the document in force for the next start. That it cannot be kept is no reason to stop; the log tells when that
/// begins and when it is over.
fn keep(state: &mut State, parts: &Parts) {
    let (Some(last_good), Some(accepted)) = (&mut state.last_good, &state.accepted) else { return };
    match last_good.keep(&accepted.text, &accepted.desired, state.since) {
        Ok(_) if state.not_kept.take().is_some() => {
            info!("the document in force is kept for the next start again");
        }
        Ok(_) => {}
        Err(e) => {
            parts.metrics.counted("configuration_kept", "not_stored");
            let problem = e.to_string();
            if state.not_kept.is_none() {
                warn!(
                    "the document is in force but could not be kept for the next start ({problem}): {NOT_KEPT_ADVICE}"
                );
            }
            state.not_kept = Some(NotKept { problem, looks: 0 });
        }
    }
}

/// What the store does not do as it is set; asks the volume.
pub(super) fn store_warnings(config: &Config, document_bytes_max: Option<u64>) -> Vec<String> {
    let space = config.storage.parent().and_then(|dir| RealDisk.space(dir).ok());
    let store = settings::of_store(config, document_bytes_max);
    settings::of_store_warnings(&config.store, &store, space.map(|space| space.total))
}

#[cfg(test)]
mod tests;
