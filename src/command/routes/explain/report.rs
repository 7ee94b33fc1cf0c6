//! What is told of a message: the object that `--json` writes, and what people are told is made of.
//!
//! Owns: the object's names, which stay. Must not know: how it is printed, how conditions are evaluated.

use serde::Serialize;
use serde_json::Value as Json;

use super::value::{json, shown, type_of, word};
use crate::command::routes::sample::Sample;
use crate::desired::Judged;
use crate::route::{Explained, RefusedRoute, RouteExplained, RouteTable, Subject, Target, Tri};

/// All that is told.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report<'r> {
    pub(super) message: Message<'r>,
    /// Those that compile, in the order in which they are asked.
    pub(super) routes: Vec<Route<'r>>,
    /// Empty: the message is acknowledged, dropped and counted as `no_route`.
    pub(super) goes_to: Vec<GoesTo<'r>>,
    pub(super) set_aside: Vec<SetAside<'r>>,
    /// Why a gateway would refuse the document, and keep the last good one.
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<&'r str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Message<'r> {
    pub(super) source: String,
    pub(super) system_properties: Vec<Property<'r>>,
    pub(super) properties: Vec<Property<'r>>,
    pub(super) body_bytes: usize,
    /// What was assumed, and what is odd.
    pub(super) notes: &'r [String],
}

#[derive(Debug, Serialize)]
pub(super) struct Property<'r> {
    pub(super) name: &'r str,
    /// `None` = there without a value.
    pub(super) value: Option<&'r str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Verdict {
    Selected,
    NotSelected,
    /// Which does not select.
    Undefined,
    /// The route does not look at messages from there.
    OtherSource,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Route<'r> {
    pub(super) name: &'r str,
    pub(super) text: &'r str,
    pub(super) verdict: Verdict,
    pub(super) source_matches: bool,
    /// What the condition comes to, also if the source does not match.
    pub(super) result: &'static str,
    /// `None`: no WHERE.
    pub(super) condition: Option<Part<'r>>,
    /// The route that sends the message to the same endpoint first, so that this one changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) behind: Option<&'r str>,
    #[serde(flatten)]
    pub(super) target: To<'r>,
}

/// An endpoint, and how a message gets there.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct To<'r> {
    pub(super) endpoint: &'r str,
    /// 0 (first) to 9, 10 = none given.
    pub(super) priority: u8,
    /// `None` = for ever.
    pub(super) ttl_secs: Option<u32>,
    pub(super) live_first: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GoesTo<'r> {
    #[serde(flatten)]
    pub(super) target: To<'r>,
    /// The route by which.
    pub(super) route: &'r str,
}

/// A condition or a part of it.
#[derive(Debug, Serialize)]
pub(super) struct Part<'r> {
    pub(super) expression: &'r str,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    /// Null also for what has no value, and for what JSON has no number for: `shown` has it.
    pub(super) value: Json,
    pub(super) shown: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) parts: Vec<Part<'r>>,
}

#[derive(Debug, Serialize)]
pub(super) struct SetAside<'r> {
    pub(super) name: &'r str,
    pub(super) text: &'r str,
    pub(super) column: usize,
    pub(super) error: String,
    pub(super) rendered: String,
}

impl<'r> Report<'r> {
    pub(super) fn new(judged: &'r Judged, warnings: &'r [String], sample: &'r Sample) -> Self {
        let table = &judged.compiled;
        let mut goes_to: Vec<GoesTo<'r>> = Vec::new();
        let mut routes = Vec::new();
        for explained in table.explain(sample) {
            let mut route = Route::of(explained);
            if route.verdict == Verdict::Selected {
                let (target, name) = (route.target, route.name);
                match goes_to.iter().find(|to| to.target.endpoint == target.endpoint) {
                    Some(first) => route.behind = Some(first.route),
                    None => goes_to.push(GoesTo { target, route: name }),
                }
            }
            routes.push(route);
        }
        debug_assert!(is_what_the_table_does(&goes_to, table, sample), "{goes_to:?}");
        Self {
            message: Message::of(sample),
            routes,
            goes_to,
            set_aside: judged.refused.iter().map(SetAside::of).collect(),
            problems: judged.none_runs().into_iter().collect(),
            warnings: warnings.iter().chain(table.warnings()).map(String::as_str).collect(),
        }
    }
}

/// Whether an explanation comes to what the table does when a gateway asks it.
fn is_what_the_table_does(goes_to: &[GoesTo<'_>], table: &RouteTable, sample: &Sample) -> bool {
    let mut targets: Vec<Target> = Vec::new();
    table.evaluate(sample, &mut targets);
    goes_to
        .iter()
        .map(|to| to.target.endpoint)
        .eq(targets.iter().map(|target| &*target.endpoint_id))
}

impl<'r> Message<'r> {
    fn of(sample: &'r Sample) -> Self {
        let system = sample.system_properties().iter();
        let own = sample.properties().iter();
        Self {
            source: sample.path(),
            system_properties: system
                .map(|(name, value)| Property { name, value: Some(value) })
                .collect(),
            properties: own
                .map(|(name, value)| Property { name, value: value.as_deref() })
                .collect(),
            body_bytes: sample.body().len(),
            notes: sample.notes(),
        }
    }
}

impl<'r> Route<'r> {
    fn of(explained: RouteExplained<'r>) -> Self {
        let RouteExplained { route, source_matches, condition, result } = explained;
        let verdict = match result {
            _ if !source_matches => Verdict::OtherSource,
            Tri::True => Verdict::Selected,
            Tri::False => Verdict::NotSelected,
            Tri::Undefined => Verdict::Undefined,
        };
        Self {
            name: route.name(),
            text: route.text(),
            verdict,
            source_matches,
            result: word(result),
            condition: condition.map(|condition| Part::of(condition, route.text())),
            behind: None,
            target: To::of(route.target()),
        }
    }
}

impl<'r> To<'r> {
    fn of(target: &'r Target) -> Self {
        Self {
            endpoint: &target.endpoint_id,
            priority: target.priority,
            ttl_secs: Some(target.ttl_secs).filter(|secs| *secs > 0),
            live_first: target.live_first,
        }
    }
}

impl<'r> Part<'r> {
    pub(super) fn of(explained: Explained, text: &'r str) -> Self {
        let Explained { span, value, note, parts } = explained;
        Self {
            expression: text.get(span).unwrap_or_default().trim(),
            kind: type_of(&value),
            shown: shown(&value),
            value: json(&value),
            note,
            parts: parts.into_iter().map(|part| Part::of(part, text)).collect(),
        }
    }
}

impl<'r> SetAside<'r> {
    fn of(refused: &'r RefusedRoute) -> Self {
        let RefusedRoute { name, text, error } = refused;
        let (column, rendered) = (error.column(text), error.render(text));
        Self { name, text, column, error: error.to_string(), rendered }
    }
}
