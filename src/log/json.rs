//! One JSON object per line.
//!
//! Owns: [`JsonLine`]. Invariants: a line is one object whatever was logged; `ts`, `level`, `target` and `message` are the
//! event's own: a field of that name has `_` appended. Numbers and truth values stay what they are; what JSON has no number
//! for (NaN, infinities) is text. Must not know: what is logged.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::{is_unsafe, time};
use crate::clock::{self, UnixMillis};

/// Formats events as JSON objects.
#[derive(Debug, Clone, Copy)]
pub struct JsonLine;

const MESSAGE: &str = "message";

/// The event's own members, in their order.
const RESERVED: [&str; 4] = ["ts", "level", "target", MESSAGE];

/// The words of `RuntimeLogLevel`.
fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "verbose",
    }
}

/// What an event says.
#[derive(Default)]
struct Said {
    message: String,
    fields: Map<String, Value>,
}

impl Said {
    fn put(&mut self, field: &Field, value: Value) {
        let mut name = field.name().to_owned();
        while RESERVED.contains(&name.as_str()) || self.fields.contains_key(&name) {
            name.push('_');
        }
        self.fields.insert(name, value);
    }

    fn text(&mut self, field: &Field, text: String) {
        match field.name() == MESSAGE {
            true => self.message = text,
            false => self.put(field, Value::String(text)),
        }
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.text(field, value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        match value.is_finite() {
            true => self.put(field, value.into()),
            false => self.text(field, value.to_string()),
        }
    }
}

/// The object, in one line.
fn line(level: Level, now: UnixMillis, target: &str, said: Said) -> String {
    let ts = format!("{:.3}", time(now));
    let own = [ts.as_str(), name(level), target, &said.message];
    // By hand, for the order that a person reads it in.
    let mut text = String::from("{");
    for (name, value) in RESERVED.into_iter().zip(own) {
        text.push_str(&format!("\"{name}\":{},", Value::from(value)));
    }
    for (name, value) in said.fields {
        text.push_str(&format!("{}:{value},", Value::from(name)));
    }
    text.pop();
    text.push('}');
    if !text.chars().any(is_unsafe) {
        return text;
    }
    // JSON asks for the first 32 characters only; the rest of them stands in strings, where an escape means the same.
    let escaped = |c: char| match is_unsafe(c) {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        let metadata = event.metadata();
        let line = line(*metadata.level(), clock::system().wall(), metadata.target(), said);
        writeln!(writer, "{line}")
    }
}
