//! The committed figures: what they are, where they are, and when a new one is worse.
//!
//! Owns: `figures.json` and the table. Must not know: how figures are counted.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// How far a figure may rise before that is an error: 5 %.
const RISE_MAX: f64 = 0.05;
/// A rise of allocations by less than this is none: a buffer that grows once in a while.
const ALLOCATIONS_SLACK: f64 = 0.1;

/// What one message costs in one step.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) instructions: f64,
    pub(crate) allocations: f64,
    pub(crate) allocated_bytes: f64,
}

impl Figure {
    fn rounded(self) -> Self {
        let round = |x: f64| (x * 100.0).round() / 100.0;
        Self {
            instructions: self.instructions.round(),
            allocations: round(self.allocations),
            allocated_bytes: self.allocated_bytes.round(),
        }
    }

    fn is_worse_than(&self, committed: &Self) -> bool {
        let most = 1.0 + RISE_MAX;
        self.instructions > committed.instructions * most
            || self.allocations > committed.allocations * most + ALLOCATIONS_SLACK
    }
}

/// All figures, and what they depend on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// The compiler that made the instructions.
    pub(crate) rustc: String,
    /// The machine that they are for.
    pub(crate) target: String,
    /// By step and shape.
    pub(crate) steps: BTreeMap<String, Figure>,
}

impl Figures {
    /// None yet, of this build.
    pub(crate) fn new() -> Self {
        let steps = BTreeMap::new();
        Self { rustc: env!("BUILT_BY").into(), target: env!("BUILT_FOR").into(), steps }
    }

    fn path() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("figures.json")
    }

    /// The committed ones; `None` if there are none.
    pub(crate) fn committed() -> Result<Option<Self>> {
        let path = Self::path();
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path)?;
        let figures = serde_json::from_str(&text);
        Ok(Some(figures.with_context(|| format!("{} cannot be read", path.display()))?))
    }

    /// Writes them in place of the committed ones; those of `self` only, the others stay.
    pub(crate) fn save(mut self) -> Result<()> {
        if let Some(committed) = Self::committed()?
            && committed.is_of_this_build()
        {
            for (name, figure) in committed.steps {
                self.steps.entry(name).or_insert(figure);
            }
        }
        for figure in self.steps.values_mut() {
            *figure = figure.rounded();
        }
        let text = serde_json::to_string_pretty(&self)? + "\n";
        fs::write(Self::path(), text).context("the figures cannot be written")
    }

    /// Whether the instructions may be compared with those of this build.
    pub(crate) fn is_of_this_build(&self) -> bool {
        let ours = Self::new();
        self.rustc == ours.rustc && self.target == ours.target
    }
}

/// The head of the table.
pub(crate) fn head() -> String {
    format!(
        "{:<16} | {:>12} | {:>9} | {:>7} | {:>11} | {:>9} | {:>9}\n{}",
        "step",
        "instructions",
        "committed",
        "change",
        "allocations",
        "committed",
        "bytes",
        "-----------------|--------------|-----------|---------|-------------|-----------|----------"
    )
}

/// A line of it, and whether the figure is worse than what is committed.
pub(crate) fn line(name: &str, new: &Figure, committed: Option<&Figure>) -> (String, bool) {
    let worse = committed.is_some_and(|committed| new.is_worse_than(committed));
    let old = |of: fn(&Figure) -> f64, digits: usize| {
        committed.map_or_else(|| "none".to_owned(), |c| format!("{:.digits$}", of(c)))
    };
    let change = committed.map_or_else(String::new, |c| {
        format!("{:+.1} %", (new.instructions / c.instructions - 1.0) * 100.0)
    });
    let line = format!(
        "{name:<16} | {:>12.0} | {:>9} | {change:>7} | {:>11.2} | {:>9} | {:>9.0}{}",
        new.instructions,
        old(|f| f.instructions, 0),
        new.allocations,
        old(|f| f.allocations, 2),
        new.allocated_bytes,
        if worse { "  <-- worse" } else { "" },
    );
    (line, worse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rise_above_five_percent_or_another_allocation_is_worse() {
        let figure =
            |instructions, allocations| Figure { instructions, allocations, allocated_bytes: 0.0 };
        let committed = figure(1000.0, 3.05);
        for (new, worse) in [
            (figure(1000.0, 3.05), false),
            (figure(1049.0, 3.05), false),
            (figure(1051.0, 3.05), true),
            (figure(500.0, 4.0), true),
            (figure(500.0, 0.0), false),
        ] {
            assert_eq!(new.is_worse_than(&committed), worse, "{new:?}");
        }
    }

    #[test]
    fn a_figure_that_nobody_committed_is_shown_and_not_worse() {
        let new = Figure { instructions: 10.0, allocations: 1.0, allocated_bytes: 8.0 };
        let (line, worse) = line("decode plain", &new, None);
        assert!(line.contains("none") && !worse, "{line}");
    }
}
