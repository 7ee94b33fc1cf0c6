//! Tables and aims, as Markdown and as JSON; medians.
//!
//! Must not know: what is measured.

use serde_json::{Value, json};

/// One cell.
pub(crate) enum Cell {
    Text(String),
    /// A number and how many decimals a reader needs.
    Number(f64, usize),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<usize> for Cell {
    fn from(n: usize) -> Self {
        Self::Number(n as f64, 0)
    }
}

impl From<(f64, usize)> for Cell {
    fn from((value, decimals): (f64, usize)) -> Self {
        Self::Number(value, decimals)
    }
}

impl Cell {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(value, decimals) => grouped(*value, *decimals),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(value, _) => json!(value),
        }
    }
}

/// `12345.6` as `12,346`.
fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 && out != "-" {
            out.push(',');
        }
        out.push(c);
    }
    out + rest
}

/// One section of the report. Printed as it comes, so that a run that is stopped has told what it knew.
#[derive(Default)]
pub(crate) struct Report {
    sections: Vec<Value>,
    aims: Vec<(String, String, bool)>,
}

impl Report {
    /// Prints a table.
    pub(crate) fn table(&mut self, title: &str, note: &str, columns: &[&str], rows: &[Vec<Cell>]) {
        println!("\n## {title}\n\n{note}\n\n| {} |", columns.join(" | "));
        println!("|{}", "---|".repeat(columns.len()));
        for row in rows {
            let cells: Vec<String> = row.iter().map(Cell::text).collect();
            println!("| {} |", cells.join(" | "));
        }
        let rows: Vec<Value> = rows.iter().map(|r| r.iter().map(Cell::json).collect()).collect();
        self.sections.push(json!({"title": title, "note": note, "columns": columns, "rows": rows}));
    }

    /// Notes whether an aim is met.
    pub(crate) fn aim(&mut self, aim: impl Into<String>, measured: impl Into<String>, met: bool) {
        self.aims.push((aim.into(), measured.into(), met));
    }

    /// Prints the aims; gives everything for the file.
    pub(crate) fn finish(mut self, about: &Value) -> Value {
        let aims = std::mem::take(&mut self.aims);
        let row = |(aim, measured, met): &(String, String, bool)| {
            let verdict = if *met { "yes" } else { "**no**" };
            vec![Cell::from(&**aim), Cell::from(&**measured), Cell::from(verdict)]
        };
        let rows: Vec<_> = aims.iter().map(row).collect();
        self.table("Aims", "By the medians above.", &["aim", "measured", "met"], &rows);
        json!({"about": about, "sections": self.sections})
    }
}

/// The middle of `values` by rank; `part` = 0.5 is the median.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len().saturating_sub(1)) as f64 * part).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// The median of what `of` says about each.
pub(crate) fn median<T>(values: &[T], of: impl Fn(&T) -> f64) -> f64 {
    quantile(&values.iter().map(of).collect::<Vec<_>>(), 0.5)
}
