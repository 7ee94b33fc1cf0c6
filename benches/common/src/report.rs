//! Tables and aims, as Markdown and as JSON; medians.
//!
//! Must not know: what is measured.

use serde_json::{Value, json};

/// One cell.
#[derive(Debug, Clone)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A number and how many decimals a reader needs.
    Number(f64, usize),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
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
#[must_use]
pub fn grouped(value: f64, decimals: usize) -> String {
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

/// A table as Markdown, under its title.
#[must_use]
pub fn markdown(title: &str, note: &str, columns: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = format!("## {title}\n\n{note}\n\n| {} |\n", columns.join(" | "));
    out.push_str(&format!("|{}\n", "---|".repeat(columns.len())));
    for row in rows {
        out.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    out
}

/// The same from the JSON that [`Report::finish`] gives; `None` if that is no section.
#[must_use]
pub fn markdown_of(section: &Value) -> Option<String> {
    let words = |value: &Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let columns = words(&section["columns"])?;
    let columns: Vec<&str> = columns.iter().map(|c| &**c).collect();
    let rows: Option<Vec<_>> = section["text"].as_array()?.iter().map(words).collect();
    Some(markdown(section["title"].as_str()?, section["note"].as_str()?, &columns, &rows?))
}

/// The tables of a run. Each is printed as it comes, so that a run that is stopped has told what it knew.
#[derive(Default)]
pub struct Report {
    sections: Vec<Value>,
    aims: Vec<(String, String, Option<bool>)>,
}

impl Report {
    /// Prints a table.
    pub fn table(&mut self, title: &str, note: &str, columns: &[&str], rows: &[Vec<Cell>]) {
        let text: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(Cell::text).collect()).collect();
        println!("\n{}", markdown(title, note, columns, &text).trim_end());
        let rows: Vec<Value> = rows.iter().map(|r| r.iter().map(Cell::json).collect()).collect();
        let section = json!({
            "title": title, "note": note, "columns": columns, "rows": rows, "text": text,
        });
        self.sections.push(section);
    }

    /// Notes whether an aim is met; `None`: this run did not measure it.
    pub fn aim(
        &mut self,
        aim: impl Into<String>,
        measured: impl Into<String>,
        met: impl Into<Option<bool>>,
    ) {
        self.aims.push((aim.into(), measured.into(), met.into()));
    }

    /// Prints the aims; gives everything for the file.
    pub fn finish(mut self, about: &Value) -> Value {
        let aims = std::mem::take(&mut self.aims);
        let row = |(aim, measured, met): &(String, String, Option<bool>)| {
            vec![Cell::from(&**aim), Cell::from(&**measured), Cell::from(verdict(*met))]
        };
        let rows: Vec<_> = aims.iter().map(row).collect();
        self.table(AIMS, AIMS_NOTE, &AIMS_COLUMNS, &rows);
        json!({"about": about, "sections": self.sections})
    }
}

/// Title of the section that [`Report::finish`] makes.
pub const AIMS: &str = "Aims";
const AIMS_NOTE: &str = "By the medians of the figures.";
const AIMS_COLUMNS: [&str; 3] = ["aim", "measured", "met"];

fn verdict(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "not measured",
    }
}

/// The same section as Markdown, of aims that were judged anew.
#[must_use]
pub fn aims_markdown<'a>(aims: impl Iterator<Item = (&'a str, &'a str, Option<bool>)>) -> String {
    let row = |(aim, measured, met): (&str, &str, Option<bool>)| {
        [aim, measured, verdict(met)].map(str::to_owned).to_vec()
    };
    let rows: Vec<_> = aims.map(row).collect();
    markdown(AIMS, AIMS_NOTE, &AIMS_COLUMNS, &rows)
}

/// The middle of `values` by rank; `part` = 0.5 is the median.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len().saturating_sub(1)) as f64 * part).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// The median of what `of` says about each.
pub fn median<T>(values: &[T], of: impl Fn(&T) -> f64) -> f64 {
    quantile(&values.iter().map(of).collect::<Vec<_>>(), 0.5)
}
