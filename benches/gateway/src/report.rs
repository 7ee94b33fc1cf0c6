//! Figures by name with all their samples, and the words that `docs/performance.md` has of a run's JSON.
//!
//! A name is `section/case/who/what`. Must not know: how anything is measured.

use std::collections::BTreeMap;

use bench_common::report::{AIMS, Cell, Report, aims_markdown, markdown_of, quantile};
use serde_json::{Value, json};

use crate::aims::aims;

/// Samples of each figure, one per round.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<String, Vec<f64>>);

impl Figures {
    /// One more sample; what is not a number was not measured.
    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64) {
        if value.is_finite() {
            self.0.entry(name.into()).or_default().push(value);
        }
    }

    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        self.0.get(name).map(|samples| quantile(samples, 0.5))
    }

    pub(crate) fn least(&self, name: &str) -> Option<f64> {
        self.0.get(name).map(|samples| quantile(samples, 0.0))
    }

    pub(crate) fn sum(&self, name: &str) -> Option<f64> {
        self.0.get(name).map(|samples| samples.iter().sum())
    }

    /// The median of one figure over that of another.
    pub(crate) fn ratio(&self, name: &str, over: &str) -> Option<f64> {
        let below = self.median(over).filter(|n| *n > 0.0)?;
        Some(self.median(name)? / below)
    }

    /// The highest median of `names` that were measured, or the lowest.
    pub(crate) fn best(&self, names: &[String], highest: bool) -> Option<f64> {
        let medians = names.iter().filter_map(|name| self.median(name));
        medians.reduce(if highest { f64::max } else { f64::min })
    }

    /// Two medians in one cell.
    pub(crate) fn pair(&self, one: &str, other: &str, decimals: usize) -> Cell {
        let both = self.median(one).zip(self.median(other));
        both.map_or_else(
            || "-".into(),
            |(one, other)| format!("{one:.decimals$}; {other:.decimals$}").into(),
        )
    }

    /// A median as a cell; "-" if there is none.
    pub(crate) fn cell(&self, name: &str, decimals: usize) -> Cell {
        cell(self.median(name), decimals)
    }

    /// From what [`Book::finish`] wrote: the samples alone.
    fn from_json(figures: &Value) -> Option<Self> {
        let samples = |(name, figure): (&String, &Value)| {
            let samples: Option<_> =
                figure["samples"].as_array()?.iter().map(Value::as_f64).collect();
            Some((name.clone(), samples?))
        };
        Some(Self(figures.as_object()?.iter().map(samples).collect::<Option<_>>()?))
    }

    fn json(&self) -> Value {
        let figure = |samples: &Vec<f64>| {
            json!({
                "median": quantile(samples, 0.5), "min": quantile(samples, 0.0),
                "max": quantile(samples, 1.0), "samples": samples,
            })
        };
        self.0.iter().map(|(name, samples)| (name.clone(), figure(samples))).collect()
    }
}

/// A number, or "-" where nothing was measured.
pub(crate) fn cell(value: Option<f64>, decimals: usize) -> Cell {
    value.map_or_else(|| "-".into(), |value| (value, decimals).into())
}

/// A fraction as `83 %`, or "-".
pub(crate) fn percent(value: Option<f64>) -> Cell {
    value.map_or_else(|| "-".into(), |value| format!("{:.0} %", value * 100.0).into())
}

/// What a run found.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) figures: Figures,
    pub(crate) report: Report,
    pub(crate) failures: Vec<String>,
}

impl Book {
    /// The whole run as JSON.
    pub(crate) fn finish(self, about: &Value) -> Value {
        let mut whole = self.report.finish(about);
        whole["figures"] = self.figures.json();
        whole["failures"] = json!(self.failures);
        whole
    }
}

const BEGIN: &str = "<!-- figures: begin -->\n";
const END: &str = "<!-- figures: end -->\n";

/// `page` with its figures made anew from `run`; `None` if it has no such part, or the run is not one of ours.
pub(crate) fn quote(page: &str, run: &Value) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{}{END}{after}", block(run)?))
}

fn block(run: &Value) -> Option<String> {
    let about = &run["about"];
    let text = |key: &str| about[key].as_str().unwrap_or("unknown").to_owned();
    let mut out = format!(
        "Measured on {} at commit `{}`{}: {} x {}, {} MB, {}, Linux {}; {}. {} rounds{} in {:.0} minutes. Load average at the \
         start: {}{}.\n",
        text("date"),
        text("commit"),
        if about["gateway_built_here"] == true {
            ""
        } else {
            " (the gateway's program was named, not built from it)"
        },
        about["cores"],
        text("cpu"),
        about["memory_mb"],
        text("disk"),
        text("kernel"),
        text("peers"),
        about["rounds"],
        if about["quick"] == true { " of the quick kind" } else { "" },
        about["seconds"].as_f64().unwrap_or(f64::NAN) / 60.0,
        about["load_average"],
        if about["quiet"] == true { "" } else { " - **the machine was not quiet**" },
    );
    // The aims come first: they are what a reader looks for. They are judged here, from the samples: a verdict in the file
    // that they do not bear out has no way onto the page.
    let aims = aims(&Figures::from_json(&run["figures"])?);
    let judged = aims.iter().map(|aim| (aim.words, &*aim.measured, aim.met));
    out.push_str(&format!("\n#{}", aims_markdown(judged)));
    for section in run["sections"].as_array()?.iter().filter(|s| s["title"] != AIMS) {
        out.push_str(&format!("\n#{}", markdown_of(section)?));
    }
    let failures = run["failures"].as_array()?;
    if !failures.is_empty() {
        out.push_str("\n### Failed in this run\n\n");
        for failure in failures {
            out.push_str(&format!("- {}\n", failure.as_str()?.replace('\n', " ")));
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Value {
        let mut book = Book::default();
        for n in [3.0, 1.0, 2.0, f64::NAN] {
            book.figures.add("a/b", n);
        }
        book.figures.add("memory/gateway/connected", 4999.0);
        book.report.table("T", "note", &["x"], &[vec![book.figures.cell("a/b", 1)]]);
        book.report.aim("an aim", "-", true);
        book.finish(&json!({"rounds": 3, "quiet": true}))
    }

    #[test]
    fn a_figure_is_the_median_of_its_samples_and_what_was_not_measured_is_none() {
        let run = run();
        assert_eq!(run["figures"]["a/b"]["median"], 2.0);
        assert_eq!(run["figures"]["a/b"]["max"], 3.0);
        assert!(Figures::default().median("a/b").is_none());
    }

    #[test]
    fn a_page_quotes_the_same_from_the_file_as_from_the_run() {
        let page = format!("before\n{BEGIN}old\n{END}after\n");
        let fresh = quote(&page, &run()).expect("the page has the part");
        assert!(fresh.starts_with("before\n") && fresh.ends_with("after\n"), "{fresh}");
        assert!(fresh.contains("### T\n\nnote\n\n| x |\n|---|\n| 2.0 |\n"), "{fresh}");
        assert!(fresh.contains("| 5,000 devices connected | 4999 | **no** |"), "{fresh}");
        assert!(!fresh.contains("an aim"), "verdicts come from the samples: {fresh}");
        let file: Value = serde_json::from_str(&run().to_string()).expect("JSON");
        assert_eq!(quote(&fresh, &file).expect("again"), fresh);
        assert!(quote("no marks", &run()).is_none());
    }

    /// Who changes a median has to change the samples.
    #[test]
    fn medians_of_the_published_file_are_those_of_its_samples() {
        let run: Value =
            serde_json::from_str(include_str!("../../../docs/performance.json")).expect("JSON");
        let figures = Figures::from_json(&run["figures"]).expect("figures");
        assert_eq!(figures.json(), run["figures"]);
    }

    /// No number of the page is typed.
    #[test]
    fn the_published_page_says_what_the_published_file_says() {
        let run: Value =
            serde_json::from_str(include_str!("../../../docs/performance.json")).expect("JSON");
        let page = include_str!("../../../docs/performance.md");
        assert!(
            quote(page, &run).expect("the page has the part") == page,
            "run gateway-bench with `--render docs/performance.json --markdown docs/performance.md`"
        );
    }
}
