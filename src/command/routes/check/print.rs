//! The report for people.
//!
//! Must not know: how the report is made.

use std::io::{self, Write};

use super::report::{From, Report, RouteView, TimeToLive};
use crate::command::text::{bytes, count, plain, plural, span};

pub(super) fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let kind = report.kind_words.as_deref().unwrap_or("no document of $edgeHub");
    let file = if report.file == "-" { "standard input" } else { &report.file };
    // The words name the files of a folder.
    writeln!(out, "{}: {}", plain(file), plain(kind))?;
    if report.kind.is_some() {
        writeln!(out, "{}", head(report))?;
    }
    for (route, number) in report.routes.iter().zip(1..) {
        writeln!(out, "\n{number}. {}", plain(&route.name))?;
        print_route(route, out)?;
    }
    for refused in &report.refused {
        writeln!(out)?;
        refused.rendered.lines().try_for_each(|line| writeln!(out, "{}", plain(line)))?;
    }
    writeln!(out)?;
    for layer in &report.layers_set_apart {
        writeln!(out, "set apart, the others count: {}", plain(&layer.line))?;
    }
    for warning in &report.warnings {
        writeln!(out, "warning: {}", plain(warning))?;
    }
    if !report.problems.is_empty() {
        writeln!(out, "the document is refused, nothing of it runs:")?;
        report.problems.iter().try_for_each(|p| writeln!(out, "- {}", plain(p)))?;
    }
    writeln!(out, "{}", verdict(report))
}

/// `schema version 1.1; twin version 7; a message waits 2 h (7,200 s) at most; the store takes 1.0 GiB at most`.
fn head(report: &Report) -> String {
    let version = match &report.schema_version {
        Some(version) => format!("schema version {}", plain(version)),
        None => "no schema version".to_owned(),
    };
    let twin = report.twin_version.map(|version| format!("twin version {version}"));
    let ttl = match (report.ttl.from, report.ttl.secs) {
        (Some(From::OtherDeployment), _) => {
            "how long a message waits, another deployment says".to_owned()
        }
        (None, _) => "how long a message waits is not said".to_owned(),
        (_, Some(secs)) => format!("a message waits {} at most", seconds(secs)),
        (_, None) => "a message waits for ever".to_owned(),
    };
    let store = report.store_bytes_max.map(|max| format!("the store takes {} at most", bytes(max)));
    let parts: Vec<String> =
        [Some(version), twin, Some(ttl), store].into_iter().flatten().collect();
    parts.join("; ")
}

fn print_route(route: &RouteView, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "   {}", plain(&route.plain))?;
    let mut line = |label: &str, text: &str| writeln!(out, "   {label:<14}{}", plain(text));
    line("takes", &route.source)?;
    if let Some(condition) = &route.condition {
        line("where", condition)?;
    }
    let id = route.endpoint_id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
    line("sends to", &format!("{}: {}{id}", route.sink, route.endpoint))?;
    let priority = route.priority.map_or("none: after 9".to_owned(), |priority| match priority {
        0 => "0, the first".to_owned(),
        _ => priority.to_string(),
    });
    line("priority", &priority)?;
    line("time to live", &time_to_live(route.ttl))?;
    if route.live_first {
        line("live first", "fresh messages may pass the backlog")?;
    }
    for note in &route.notes {
        line("note", note)?;
    }
    route.warnings.iter().try_for_each(|warning| line("warning", warning))
}

fn time_to_live(ttl: TimeToLive) -> String {
    let from = match ttl.from {
        Some(From::Route) => "its own",
        Some(From::Document) => "as all",
        Some(From::OtherDeployment) => return "as another deployment says".to_owned(),
        None => return "not said".to_owned(),
    };
    match ttl.secs {
        Some(secs) => format!("{}, {from}", seconds(secs)),
        None => format!("for ever, {from}"),
    }
}

/// `45 s`, `2 h (7,200 s)`.
fn seconds(secs: u32) -> String {
    if secs < 60 {
        return format!("{secs} s");
    }
    format!("{} ({} s)", span(f64::from(secs)), count(secs.into()))
}

/// `3 routes run, 1 is set aside`; or what becomes of a document that is refused.
fn verdict(report: &Report) -> String {
    match (report.problems.is_empty(), report.is_layer) {
        (true, _) => {}
        (false, false) => {
            return "the gateway would refuse this document and keep the last good one; without one it does not start".to_owned();
        }
        (false, true) => return "the gateway would refuse a deployment with this layer".to_owned(),
    }
    let running = match report.running {
        0 => "no route runs".to_owned(),
        1 => "1 route runs".to_owned(),
        n => format!("{} run", plural(n, "route")),
    };
    let are = |n: u64, what: &str| {
        let are = if n == 1 { "is" } else { "are" };
        (n > 0).then(|| format!(", {} {are} {what}", count(n)))
    };
    let set_aside = are(report.set_aside, "set aside").unwrap_or_default();
    let layers = match report.layers_set_apart.len() as u64 {
        0 => String::new(),
        n => format!("; {} set apart", plural(n, "layer")),
    };
    format!("{running}{set_aside}{layers}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_a_sentence() {
        let check = |running, set_aside, expected: &str| {
            let report = Report { running, set_aside, ..Report::default() };
            assert_eq!(verdict(&report), expected);
        };
        check(3, 1, "3 routes run, 1 is set aside");
        check(1, 0, "1 route runs");
        check(0, 2, "no route runs, 2 are set aside");
        check(1200, 2, "1,200 routes run, 2 are set aside");
        let problems = vec!["routes is missing".to_owned()];
        let mut refused = Report { problems, set_aside: 2, ..Report::default() };
        assert!(verdict(&refused).starts_with("the gateway would refuse this document and keep"));
        refused.is_layer = true;
        assert_eq!(verdict(&refused), "the gateway would refuse a deployment with this layer");
    }

    #[test]
    fn times_are_told_as_people_say_them_and_to_the_second() {
        let check = |secs: Option<u32>, from: From, expected: &str| {
            assert_eq!(time_to_live(TimeToLive { secs, from: Some(from) }), expected);
        };
        check(Some(7200), From::Document, "2 h (7,200 s), as all");
        check(Some(45), From::Route, "45 s, its own");
        check(Some(90_061), From::Route, "1 d 1 h (90,061 s), its own");
        check(None, From::Document, "for ever, as all");
        check(None, From::OtherDeployment, "as another deployment says");
        assert_eq!(time_to_live(TimeToLive::default()), "not said");
    }
}
