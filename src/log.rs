//! The log line, with the head that edgeHub prints and edgeAgent's log upload parses (edgehub.md, section 10):
//! `<6> 2026-01-02 03:04:05.678 +00:00 [INF] - text`, at debug and verbose with the source before the dash.
//!
//! Owns: that form. Must not know: what is logged.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::clock::{self, UnixMillis};

/// Formats events as edgeHub does.
#[derive(Debug, Clone, Copy)]
pub struct LogLine {
    /// Name the source.
    pub detailed: bool,
}

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

fn head(level: Level, now: UnixMillis, source: Option<&str>) -> String {
    let (severity, tag) = tags(level);
    let milliseconds = i64::try_from(now.0).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::UNIX_EPOCH);
    let time = time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S%.3f +00:00");
    match source {
        Some(source) => format!("<{severity}> {time} [{tag}] [{source}] - "),
        None => format!("<{severity}> {time} [{tag}] - "),
    }
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
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_edge_hub_s() {
        let time = UnixMillis(1_767_323_045_678);
        let cases = [
            (Level::INFO, None, "<6> 2026-01-02 03:04:05.678 +00:00 [INF] - "),
            (Level::ERROR, None, "<3> 2026-01-02 03:04:05.678 +00:00 [ERR] - "),
            (Level::DEBUG, Some("front"), "<7> 2026-01-02 03:04:05.678 +00:00 [DBG] [front] - "),
        ];
        for (level, source, wanted) in cases {
            assert_eq!(head(level, time, source), wanted);
        }
    }
}
