//! The log on standard output: an event is a line, in one of two forms.
//!
//! Text, with the head that edgeHub prints and edgeAgent's log upload parses (edgehub.md, section 10):
//! `<6> 2026-01-02 03:04:05.678 +00:00 [INF] - text`, at debug and verbose with the source before the dash.
//! JSON ([`JsonLine`]): `{"ts":"2026-01-02T03:04:05.678Z","level":"info","target":"...","message":"text"}` and the event's
//! fields as further members.
//!
//! Owns: those forms. Invariant: only the head of an event begins a line that looks like one, and nothing in an event moves
//! a terminal's cursor: much of what is logged was written by somebody else. Must not know: what is logged.

mod json;

use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

pub use self::json::JsonLine;
use crate::clock::{self, UnixMillis};

/// Formats events as edgeHub does.
#[derive(Debug, Clone, Copy)]
pub struct LogLine {
    /// Name the source.
    pub detailed: bool,
}

/// What begins each further line of an event. Not a space alone: edgeAgent takes a head behind spaces for one, too.
const CONTINUED: &str = "\n  | ";

/// Syslog severity and tag of a level.
fn tags(level: Level) -> (u8, &'static str) {
    match level {
        Level::ERROR => (3, "ERR"),
        Level::WARN => (4, "WRN"),
        Level::INFO => (6, "INF"),
        Level::DEBUG => (7, "DBG"),
        Level::TRACE => (7, "VRB"),
    }
}

fn time(now: UnixMillis) -> Timestamp {
    let milliseconds = i64::try_from(now.0).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn head(level: Level, now: UnixMillis, source: Option<&str>) -> String {
    let (severity, tag) = tags(level);
    let time = time(now).to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S%.3f +00:00");
    match source {
        Some(source) => format!("<{severity}> {time} [{tag}] [{source}] - "),
        None => format!("<{severity}> {time} [{tag}] - "),
    }
}

/// Whether something that reads a log or shows it could take `c` for the end of a line, or obey it.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// `text` with its line feeds marked as continuations and all other control characters escaped.
fn contained(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str(CONTINUED),
            '\t' => out.push(c),
            c if is_unsafe(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

impl<S, N> FormatEvent<S, N> for LogLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let source = self.detailed.then_some(metadata.target());
        writer.write_str(&head(*metadata.level(), clock::system().wall(), source))?;
        let mut text = String::new();
        context.field_format().format_fields(Writer::new(&mut text), event)?;
        match text.chars().any(is_unsafe) {
            true => writeln!(writer, "{}", contained(&text)),
            false => writeln!(writer, "{text}"),
        }
    }
}

#[cfg(test)]
mod tests;
