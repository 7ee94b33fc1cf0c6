//! The report for people.
//!
//! Must not know: how the report is made.

use std::io::{self, Write};

use super::report::{GoesTo, Part, Report, Route, To, Verdict};
use super::value::{cut, cut_value, quoted, shown};
use crate::command::routes::rendered;
use crate::command::text::{plain, plural, span, table};
use crate::route::{PRIORITY_NONE, RefusedRoute, Value};

/// How far values stand to the right at most, and notes behind them.
const EXPRESSION_WIDTH_MAX: usize = 56;
const VALUE_WIDTH_MAX: usize = 24;
/// Deeper parts are not moved further to the right.
const INDENT_LEVELS_MAX: usize = 16;

pub(super) fn print(
    report: &Report<'_>,
    refused: &[RefusedRoute],
    out: &mut dyn Write,
) -> io::Result<()> {
    let Report { message, routes, goes_to, warnings, problems, .. } = report;
    let bytes = plural(message.body_bytes as u64, "byte");
    writeln!(out, "a message from {} with a body of {bytes}", plain(&message.source))?;
    for note in message.notes {
        writeln!(out, "  note: {}", plain(note))?;
    }
    let system = message.system_properties.iter().map(|p| (format!("${}", p.name), p.value));
    let own = message.properties.iter().map(|p| (p.name.to_owned(), p.value));
    let rows = system.chain(own).map(|(name, value)| {
        let value = value.map_or_else(|| shown(&Value::NoText), quoted);
        [format!("  {}", cut(&plain(&name))), cut_value(&value), String::new()]
    });
    print_lines(&rows.collect::<Vec<_>>(), out)?;
    for route in routes {
        writeln!(out)?;
        print_route(route, out)?;
    }
    for refused in refused {
        writeln!(out)?;
        for line in rendered(refused, !problems.is_empty()).lines() {
            writeln!(out, "{}", plain(line))?;
        }
    }
    writeln!(out)?;
    if !problems.is_empty() {
        writeln!(
            out,
            "a gateway would refuse this document and keep the last good one, which decides:"
        )?;
        problems.iter().try_for_each(|problem| writeln!(out, "- {}", plain(problem)))?;
    } else if goes_to.is_empty() {
        writeln!(out, "goes nowhere: acknowledged, dropped, and counted as no_route")?;
    } else {
        writeln!(out, "goes to:")?;
        let row = |to: &GoesTo<'_>| {
            let by = [format!("by route {:?}", to.route)];
            let mut cells: Vec<String> = to.target.cells().into_iter().chain(by).collect();
            cells[0].insert_str(0, "  ");
            cells
        };
        let rows: Vec<Vec<String>> = goes_to.iter().map(row).collect();
        table(out, usize::MAX, &rows)?;
    }
    for warning in warnings {
        writeln!(out, "warning: {}", plain(warning))?;
    }
    Ok(())
}

fn print_route(route: &Route<'_>, out: &mut dyn Write) -> io::Result<()> {
    let verdict = match (route.verdict, route.behind) {
        (Verdict::Selected, None) => "selected".to_owned(),
        (Verdict::Selected, Some(first)) => {
            format!("selected, but route {first:?} comes first and sends it there already")
        }
        (Verdict::NotSelected, _) => "not selected".to_owned(),
        (Verdict::Undefined, _) => "undefined, so not selected".to_owned(),
        (Verdict::OtherSource, _) => "not selected: it does not look at that source".to_owned(),
    };
    writeln!(out, "route {:?}: {verdict}", route.name)?;
    writeln!(out, "  {}", plain(route.text.trim()))?;
    writeln!(out, "  to {}", route.target.cells().join(", "))?;
    let Some(condition) = &route.condition else { return Ok(()) };
    let mut lines = Vec::new();
    condition.lines(0, &mut lines);
    // What it came to, where its value is no truth value.
    if let Some(first) = lines.first_mut().filter(|_| condition.shown != route.result) {
        first[1] = format!("{}, taken as {}", first[1], route.result);
    }
    lines.iter_mut().for_each(|line| line[0].insert_str(0, "    "));
    print_lines(&lines, out)
}

impl To<'_> {
    /// For people.
    fn cells(&self) -> Vec<String> {
        let priority = match self.priority {
            PRIORITY_NONE => "no priority (after 9)".to_owned(),
            given => format!("priority {given}"),
        };
        let kept = match self.ttl_secs {
            None => "kept for ever".to_owned(),
            Some(secs) => format!("kept {} ({secs} s)", span(f64::from(secs))),
        };
        let live = if self.live_first { ", live first" } else { "" };
        vec![plain(self.endpoint), priority, format!("{kept}{live}")]
    }
}

impl Part<'_> {
    /// Whether it says of itself what it is.
    fn is_literal(&self) -> bool {
        let first = self.expression.chars().next();
        self.parts.is_empty()
            && self.note.is_none()
            && (self.expression == self.shown
                || first.is_some_and(|c| matches!(c, '"' | '\'') || c.is_ascii_digit()))
    }

    /// The lines of the tree below: expression, value, note.
    fn lines(&self, level: usize, lines: &mut Vec<[String; 3]>) {
        if level > 0 && self.is_literal() {
            return;
        }
        let indent = "  ".repeat(level.min(INDENT_LEVELS_MAX));
        let expression = format!("{indent}{}", cut(&plain(self.expression)));
        let note = self.note.as_deref().map(plain).unwrap_or_default();
        lines.push([expression, cut_value(&self.shown), note]);
        self.parts.iter().for_each(|part| part.lines(level + 1, lines));
    }
}

/// Three columns; what is too wide for its column moves only its own line.
fn print_lines(lines: &[[String; 3]], out: &mut dyn Write) -> io::Result<()> {
    let width = |column: usize, most: usize| {
        let widths = lines.iter().map(|line| line[column].chars().count());
        widths.filter(|width| *width <= most).max().unwrap_or(0)
    };
    let (first, second) = (width(0, EXPRESSION_WIDTH_MAX), width(1, VALUE_WIDTH_MAX));
    for [expression, value, note] in lines {
        let line = format!("{expression:<first$}  {value:<second$}  {note}");
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Explained;

    fn part(
        span: std::ops::Range<usize>,
        value: Value<'static>,
        parts: Vec<Explained>,
    ) -> Explained {
        Explained { span, value, note: None, parts }
    }

    #[test]
    fn the_tree_is_aligned_and_leaves_literals_out() {
        let text = "temp > '30' AND NOT $body.a";
        let mut temp = part(0..4, Value::Text("31".into()), vec![]);
        let literal = part(7..11, Value::Text("30".into()), vec![]);
        let mut query = part(20..27, Value::Undefined, vec![]);
        query.note = Some("the body is\nno JSON".to_owned());
        temp.note = Some("by the message".to_owned());
        let compared = part(0..11, Value::Bool(true), vec![temp, literal]);
        let not = part(16..27, Value::Undefined, vec![query]);
        let all = part(0..27, Value::Undefined, vec![compared, not]);
        let part = Part::of(all, text);
        let mut lines = Vec::new();
        part.lines(0, &mut lines);
        let mut out = Vec::new();
        print_lines(&lines, &mut out).unwrap();
        let expected = "\
temp > '30' AND NOT $body.a  undefined
  temp > '30'                true
    temp                     \"31\"       by the message
  NOT $body.a                undefined
    $body.a                  undefined  the body is\u{fffd}no JSON
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let data = serde_json::to_value(&part).unwrap();
        let expected = serde_json::json!(
            {"expression": "'30'", "type": "text", "value": "30", "shown": "\"30\""}
        );
        assert_eq!(data["parts"][0]["parts"][1], expected);
    }

    #[test]
    fn what_is_deep_or_long_stays_on_its_line() {
        let text = "x".repeat(300);
        let deep = (0..400).fold(part(0..300, Value::Undefined, vec![]), |inner, _| {
            part(0..300, Value::Text("v".repeat(500).into()), vec![inner])
        });
        let mut lines = Vec::new();
        Part::of(deep, &text).lines(0, &mut lines);
        let mut out = Vec::new();
        print_lines(&lines, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 401);
        assert!(text.lines().all(|line| line.chars().count() < 200), "{text}");
    }
}
