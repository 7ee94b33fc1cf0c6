//! A document, compiled for this gateway: what runs, what is set aside and why, and how that differs from before.
//!
//! Owns: the words for it, in the log and beside it. Must not know: how a document is judged
//! ([`crate::desired::Judged`]), where documents come from, who runs the table.

use std::collections::BTreeMap;

use tracing::{error, info, warn};

use crate::command::check::plural;
use crate::config::Config;
use crate::desired::layers::SetApart;
use crate::desired::{Desired, DesiredError, LINES_MAX, SetAside, listed};
use crate::route::{RouteTable, Target};

/// Most names in one line: a document can have thousands.
const NAMES_MAX: usize = 10;

/// Longest name or problem in one line, in characters.
const WORDS_CHARS_MAX: usize = 120;

/// What a document comes to.
pub(in crate::gateway) struct Compiled {
    pub(super) table: RouteTable,
    pub(super) set_aside: Vec<SetAside>,
    /// `storeLimits.maxSizeBytes` of the document.
    pub(in crate::gateway) store_bytes_max: Option<u64>,
    /// Layers that do not count.
    pub(in crate::gateway) layers_apart: Vec<SetApart>,
    /// What runs but not as it seems.
    warnings: Vec<String>,
    /// Why none of the routes that the document has can run; `None` = one can, or it has none.
    none_runs: Option<Vec<String>>,
}

impl Compiled {
    pub(super) fn new(desired: &Desired, config: &Config) -> Self {
        let (edge, live_first) = (&config.connection.device, config.store.live_first);
        let judged = desired.judge(edge, live_first);
        let (set_aside, none_runs) = (judged.set_aside().collect(), judged.problems());
        let table = judged.into_running();
        let mut warnings: Vec<String> =
            desired.warnings.iter().chain(table.warnings()).cloned().collect();
        let sizes = desired.store_bytes_max.zip(config.store.bytes_max);
        warnings.extend(sizes.map(|(document, setting)| {
            format!(
                "storeLimits.maxSizeBytes is {document} and storeSettings__maxSizeBytes is {setting}: the smaller, {}, counts",
                document.min(setting)
            )
        }));
        let store_bytes_max = desired.store_bytes_max;
        let layers_apart = Vec::new();
        Self { table, set_aside, store_bytes_max, layers_apart, warnings, none_runs }
    }

    /// With what is to be said of the layers that it was made of.
    pub(super) fn with_layers(mut self, apart: Vec<SetApart>, warnings: Vec<String>) -> Self {
        self.layers_apart = apart;
        self.warnings.splice(0..0, warnings);
        self
    }

    /// Why the document is refused; `None` = it can serve.
    pub(super) fn refused(&self) -> Option<DesiredError> {
        let (problems, warnings) = (self.none_runs.clone()?, self.warnings.clone());
        Some(DesiredError { problems, warnings })
    }

    /// How many routes run.
    pub(in crate::gateway) fn running(&self) -> usize {
        self.table.len()
    }

    /// Why each of the others does not.
    pub(in crate::gateway) fn set_aside(&self) -> impl Iterator<Item = &str> {
        self.set_aside.iter().map(|route| route.why.as_str())
    }

    /// What runs but not as it seems.
    pub(in crate::gateway) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Says what is wrong with it, in no more lines than a log can take whenever the document changes.
    pub(in crate::gateway) fn log(&self) {
        self.log_layers();
        for line in self.set_aside_lines() {
            error!("set aside: {line}");
        }
        for line in listed(self.warnings.iter().map(String::as_str), LINES_MAX) {
            warn!("{line}");
        }
        info!("{}", verdict(self.table.len(), self.set_aside.len()));
    }

    /// Says which layers do not count; there are not many.
    pub(super) fn log_layers(&self) {
        for layer in &self.layers_apart {
            error!("set apart, the others count: {layer}");
        }
    }

    pub(super) fn set_aside_lines(&self) -> Vec<String> {
        listed(self.set_aside.iter().map(|route| route.why.as_str()), LINES_MAX)
    }

    /// Whether a route lets fresh messages pass the backlog.
    pub(super) fn has_live_first(&self) -> bool {
        self.table.routes().iter().any(|route| route.target().live_first)
    }

    /// What is different from `old`, in words.
    pub(super) fn changes(&self, old: &RouteTable, old_set_aside: &[String]) -> String {
        fn by_name(table: &RouteTable) -> BTreeMap<&str, (&str, &Target)> {
            table.routes().iter().map(|r| (r.name(), (r.text(), r.target()))).collect()
        }
        let (before, now) = (by_name(old), by_name(&self.table));
        let aside = |name: &str| self.set_aside.iter().any(|route| route.name == name);
        let new = |name: &&str| !before.contains_key(name);
        let changed = |name: &&str| before.get(name).is_some_and(|was| *was != now[name]);
        let gone = before.keys().copied().filter(|name| !now.contains_key(name));
        let gone_aside = old_set_aside.iter().map(String::as_str).filter(|n| !now.contains_key(n));
        let parts = [
            ("added", now.keys().copied().filter(new).collect::<Vec<_>>()),
            ("changed", now.keys().copied().filter(changed).collect()),
            ("removed", gone.chain(gone_aside).filter(|name| !aside(name)).collect()),
            ("set aside", self.set_aside.iter().map(|route| route.name.as_str()).collect()),
        ];
        let parts = parts.into_iter().filter(|(_, found)| !found.is_empty());
        let words: Vec<String> =
            parts.map(|(what, found)| format!("{what} {}", names(found.into_iter()))).collect();
        if words.is_empty() { "no route is different".to_owned() } else { words.join("; ") }
    }
}

/// `1 route runs, 2 are set aside`.
fn verdict(running: usize, set_aside: usize) -> String {
    let runs = if running == 1 { "runs" } else { "run" };
    let are = if set_aside == 1 { "is" } else { "are" };
    format!("{} {runs}, {set_aside} {are} set aside", plural(running as u64, "route"))
}

/// The beginning of why a document is refused, in one line: all of it, and of which route.
pub(super) fn in_short(error: &DesiredError) -> String {
    let first = listed(error.problems.iter().map(String::as_str), 2);
    first.iter().take(2).map(|problem| short(problem)).collect::<Vec<_>>().join("; ")
}

/// Names in quotes, not too many and not too long.
pub(super) fn names<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let mut all: Vec<String> = names.map(|name| format!("{:?}", short(name))).collect();
    let more = all.len().saturating_sub(NAMES_MAX);
    all.truncate(NAMES_MAX);
    let all = all.join(", ");
    if more == 0 { all } else { format!("{all} and {more} more") }
}

/// The beginning of a text that may be long.
pub(super) fn short(text: &str) -> String {
    match text.char_indices().nth(WORDS_CHARS_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_a_sentence() {
        for (running, set_aside, expected) in [
            (0, 0, "0 routes run, 0 are set aside"),
            (1, 1, "1 route runs, 1 is set aside"),
            (1200, 2, "1,200 routes run, 2 are set aside"),
        ] {
            assert_eq!(verdict(running, set_aside), expected);
        }
    }
}
