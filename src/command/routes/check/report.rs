//! What is to be said of a document: the object that `--json` writes, and what people are told is made of.
//!
//! Owns: the object's names, which stay; what is found by comparing routes with each other.
//! Must not know: how it is printed.

use serde::Serialize;

use super::super::{rendered, some_edge};
use crate::desired::layers::{Layered, SetApart};
use crate::desired::{Desired, DesiredError, Document};
use crate::route::{
    CompiledRoute, Endpoint, PRIORITY_NONE, RefusedRoute, RouteWords, Target, words,
};

/// The whole answer. Its names are promised by the command's help.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) file: String,
    pub(super) kind: Option<&'static str>,
    /// The same for people.
    #[serde(skip)]
    pub(super) kind_words: Option<String>,
    #[serde(skip)]
    pub(super) is_layer: bool,
    pub(super) files: Vec<String>,
    pub(super) layers_set_apart: Vec<LayerView>,
    pub(super) schema_version: Option<String>,
    pub(super) twin_version: Option<u64>,
    pub(super) store_bytes_max: Option<u64>,
    #[serde(flatten)]
    pub(super) ttl: TimeToLive,
    pub(super) routes: Vec<RouteView>,
    pub(super) refused: Vec<RefusedView>,
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
    pub(super) running: u64,
    pub(super) set_aside: u64,
    pub(super) is_fine: bool,
}

/// A layer that does not count.
#[derive(Debug, Serialize)]
pub(super) struct LayerView {
    pub(super) file: String,
    pub(super) reason: &'static str,
    pub(super) problem: String,
    /// For people.
    #[serde(skip)]
    pub(super) line: String,
}

/// How long a message waits, and who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct TimeToLive {
    /// `None` = for ever, or not known.
    #[serde(rename = "timeToLiveSecs")]
    pub(super) secs: Option<u32>,
    #[serde(rename = "timeToLiveFrom")]
    /// `None` = the document was not read so far, or lacks it and is refused.
    pub(super) from: Option<From>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum From {
    Route,
    Document,
    /// This is a layer, and what is below it says.
    OtherDeployment,
}

/// A route that compiles.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RouteView {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) plain: String,
    pub(super) source: String,
    pub(super) condition: Option<String>,
    pub(super) sink: String,
    pub(super) endpoint: String,
    /// `None` = it has this edge device's name in it, which is not known here.
    pub(super) endpoint_id: Option<String>,
    pub(super) priority: Option<u8>,
    #[serde(flatten)]
    pub(super) ttl: TimeToLive,
    pub(super) live_first: bool,
    pub(super) warnings: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// A route that does not.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RefusedView {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) length: usize,
    pub(super) problem: String,
    pub(super) suggestion: String,
    /// For people: the text, a caret under the place, what is wrong and what to do.
    #[serde(skip)]
    pub(super) rendered: String,
}

impl Report {
    /// Reads `bytes`, the contents of `file`.
    pub(super) fn of(file: String, bytes: &[u8]) -> Self {
        let mut report = Self { file, ..Self::default() };
        if let Err(refused) = report.read(bytes) {
            report.problems = refused.problems;
        }
        report.judged()
    }

    /// What the files of the folder `file` come to.
    pub(super) fn of_folder(file: String, layered: Result<Layered, DesiredError>) -> Self {
        let mut report = Self { file, ..Self::default() };
        let read = layered.and_then(|Layered { text, files, apart, warnings }| {
            report.read(text.as_bytes())?;
            report.kind = Some("folder");
            report.kind_words = Some(format!("base and layers, {}", files.join(", ")));
            report.warnings.splice(0..0, warnings);
            report.files = files;
            report.layers_set_apart = apart.into_iter().map(LayerView::of).collect();
            Ok(())
        });
        if let Err(refused) = read {
            report.problems = refused.problems;
        }
        report.judged()
    }

    fn judged(mut self) -> Self {
        self.is_fine =
            self.problems.is_empty() && self.refused.is_empty() && self.layers_set_apart.is_empty();
        self
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), DesiredError> {
        let document = Document::from_bytes(bytes)?;
        self.kind = Some(document.kind().key());
        self.kind_words = Some(document.kind().to_string());
        // All that is wrong is told at once, also of a document that is refused for another reason.
        let (desired, problems) = document.read();
        let judged = desired.judge(&some_edge(), false);
        self.problems = problems.into_iter().chain(judged.none_runs()).collect();
        let is_refused = !self.problems.is_empty();
        let routes = judged.compiled.routes();
        self.routes = (0..routes.len()).map(|at| route_view(routes, at, &desired)).collect();
        let refused = judged.refused.iter();
        self.refused = refused.map(|route| RefusedView::of(route, is_refused)).collect();
        self.ttl = TimeToLive::of_document(&desired);
        self.running = if is_refused { 0 } else { judged.running() as u64 };
        self.set_aside = self.refused.len() as u64;
        self.schema_version = desired.schema_version;
        self.twin_version = desired.version;
        self.store_bytes_max = desired.store_bytes_max;
        self.is_layer = desired.is_layer;
        self.warnings = desired.warnings;
        if self.is_layer && self.running == 0 && self.set_aside > 0 {
            let what = "none of the layer's routes runs: correct one, or see that the deployment below it has one";
            self.warnings.push(what.to_owned());
        }
        Ok(())
    }
}

impl LayerView {
    fn of(apart: SetApart) -> Self {
        let line = apart.to_string();
        let SetApart { file, why, reason } = apart;
        Self { file, reason, problem: why, line }
    }
}

impl TimeToLive {
    fn of_document(desired: &Desired) -> Self {
        match desired.ttl_secs {
            Some(secs) => {
                Self { secs: Some(secs).filter(|secs| *secs > 0), from: Some(From::Document) }
            }
            None => Self { secs: None, from: desired.is_layer.then_some(From::OtherDeployment) },
        }
    }

    fn of(route: &CompiledRoute, desired: &Desired) -> Self {
        let own = desired.routes.iter().find(|spec| spec.name == route.name());
        match own.map(|spec| spec.ttl_secs).filter(|secs| *secs > 0) {
            Some(secs) => Self { secs: Some(secs), from: Some(From::Route) },
            None => Self::of_document(desired),
        }
    }
}

impl RefusedView {
    fn of(refused: &RefusedRoute, is_refused: bool) -> Self {
        let RefusedRoute { name, text, error } = refused;
        let part = |range| text.get::<std::ops::Range<usize>>(range).unwrap_or_default();
        Self {
            name: name.clone(),
            text: text.clone(),
            line: part(0..error.span.start).matches('\n').count() + 1,
            column: error.column(text),
            length: part(error.span.clone()).chars().count(),
            problem: error.what.clone(),
            suggestion: error.todo.clone(),
            rendered: rendered(refused, is_refused),
        }
    }
}

fn route_view(routes: &[CompiledRoute], at: usize, desired: &Desired) -> RouteView {
    let route = &routes[at];
    let target = route.target();
    let RouteWords { source, condition, sink, plain } =
        words(route.text()).expect("a text that compiles has a form");
    let (endpoint, endpoint_id) = match &target.endpoint {
        Endpoint::Upstream => ("$upstream".to_owned(), Some(target.endpoint_id.to_string())),
        Endpoint::ModuleInput { module, input } => {
            (format!("/modules/{module}/inputs/{input}"), None)
        }
    };
    RouteView {
        name: route.name().to_owned(),
        text: route.text().to_owned(),
        plain,
        source,
        condition,
        sink,
        endpoint,
        endpoint_id,
        priority: Some(target.priority).filter(|priority| *priority < PRIORITY_NONE),
        ttl: TimeToLive::of(route, desired),
        live_first: target.live_first,
        warnings: route.warnings().to_vec(),
        notes: without_effect(routes, at).into_iter().collect(),
    }
}

/// Says of a route that another one makes it superfluous. Information: it does no harm, and may be meant for a reader.
fn without_effect(routes: &[CompiledRoute], at: usize) -> Option<String> {
    let route = &routes[at];
    let own = route.target();
    // The first that matches counts. A later one makes no difference either if it is in all the same and not itself
    // superfluous beside this one.
    let is_alike = |other: &&CompiledRoute| other.target() == own && !route.covers(other);
    let (before, after) = (&routes[..at], &routes[at + 1..]);
    let covering = before
        .iter()
        .find(|other| other.covers(route))
        .or_else(|| after.iter().filter(is_alike).find(|other| other.covers(route)))?;
    let name = covering.name();
    let with = differences(covering.target(), own);
    Some(format!(
        "{:?} adds nothing: every message that it selects is sent once by {name:?} already{with}",
        route.name()
    ))
}

/// `, with the priority and time to live of that one`.
fn differences(theirs: &Target, own: &Target) -> String {
    let differ = [
        (theirs.priority != own.priority, "priority"),
        (theirs.ttl_secs != own.ttl_secs, "time to live"),
        (theirs.live_first != own.live_first, "liveFirst"),
    ];
    let differ: Vec<&str> = differ.iter().filter(|(is, _)| *is).map(|(_, what)| *what).collect();
    match differ[..] {
        [] => String::new(),
        _ => format!(", with the {} of that one", differ.join(" and ")),
    }
}
