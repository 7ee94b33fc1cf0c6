//! The README's words on `durability.json`: made from the file, so that no number is typed.
//!
//! Shared by the command that writes the file and by the test that holds the README to it.

use serde_json::Value;

const BEGIN: &str = "<!-- made from durability.json -->\n";
const END: &str = "<!-- end -->\n";

/// `readme` with its part on `report` made anew; `None` if it has no such part.
pub(crate) fn quote(readme: &str, report: &Value) -> Option<String> {
    let (before, rest) = readme.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{}{END}{after}", table(report)))
}

fn table(report: &Value) -> String {
    let text = |key: &str| report[key].as_str().unwrap_or("unknown").to_owned();
    let commit: String = text("commit").chars().take(12).collect();
    let machine = &report["machine"];
    let mut out = format!(
        "Seen on {} at commit `{commit}` ({} cores, {}, {}), every number from [durability.json](durability.json):\n\n\
         | tried | acknowledged | lost | besides |\n|---|---|---|---|\n",
        text("date").chars().take(10).collect::<String>(),
        machine["cores"],
        machine["arch"].as_str().unwrap_or("unknown"),
        machine["filesystem"].as_str().unwrap_or("unknown"),
    );
    for (name, words) in ROWS {
        let found = &report["campaigns"][name];
        if found.is_object() {
            out.push_str(&words(found));
        }
    }
    out
}

type Row = (&'static str, fn(&Value) -> String);

const ROWS: [Row; 4] = [
    ("power-cuts", |f| {
        let tried = format!("{} simulated power cuts, in {} runs", n(f, "cuts"), n(f, "runs"));
        row(&tried, f, &format!("{} forged", n(f, "forged")))
    }),
    ("damages", |f| {
        let rest = format!(
            "of {} records touched {} reported, {} taken for torn (the end of an open segment); {} forged",
            n(f, "touched"),
            n(f, "reported"),
            n(f, "unprovable"),
            n(f, "forged"),
        );
        let tried = format!("{} damaged files", n(f, "damages"));
        format!("| {tried} | - | {} that were not touched | {rest} |\n", n(f, "lost"))
    }),
    ("io-faults", |f| {
        let tried = format!("{} failing operations of the disk", n(f, "faults"));
        let rest = format!("{} refused, {} runs poisoned", n(f, "refused"), n(f, "poisoned"));
        row(&tried, f, &rest)
    }),
    ("kills", |f| {
        let tried = format!(
            "{} times `kill -9` of the binary, {} devices, the hub away in {}",
            n(f, "cycles"),
            n(f, "devices"),
            n(f, "offline"),
        );
        let rest = format!(
            "{} reordered, {} duplicates, at most {} in a cycle",
            n(f, "reordered"),
            n(f, "duplicates"),
            n(f, "duplicates_worst"),
        );
        row(&tried, f, &rest)
    }),
];

fn row(tried: &str, found: &Value, rest: &str) -> String {
    format!("| {tried} | {} | {} | {rest} |\n", n(found, "acked"), n(found, "lost"))
}

/// A count, with commas.
fn n(found: &Value, key: &str) -> String {
    let digits = found[key].to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
