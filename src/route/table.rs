//! Compiled routes, and which endpoints a message goes to.
//!
//! Owns: [`RouteTable`] (an immutable snapshot), source matching, [`Endpoint`].
//! Invariants: at most one [`Target`] per endpoint and message, with the smallest priority number of the routes that
//! match and that route's time to live; evaluation allocates nothing beyond the caller's list.
//! Must not know: queues, the twin.

use std::fmt;
use std::sync::Arc;

use super::body::BodyPaths;
use super::condition::{Condition, Context, Explained, Facts};
use super::error::{CompileError, Span};
use super::parse;
use super::source::{Source, same};
use super::subject::Subject;
use super::syntax::Sink;
use super::value::Tri;
use crate::identity::{DeviceId, ModuleId};

/// The endpoint id of the hub, as the reference names its queue and as metrics label it.
pub const UPSTREAM_ENDPOINT_ID: &str = "iothub";

/// The priority of a route that gives none: below 9.
pub const PRIORITY_NONE: u8 = 10;

/// Longest [`RefusedRoute::one_line`], in characters.
const LINE_CHARS_MAX: usize = 600;

/// A route as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// Its name, for logs and reports.
    pub name: String,
    /// `FROM ... INTO ...`.
    pub text: String,
    /// 0 (first) to 9 (last); `None` = after all of them.
    pub priority: Option<u8>,
    /// Seconds that a message may wait; 0 = the global time to live.
    pub ttl_secs: u32,
    /// Whether fresh messages may pass those that piled up while the endpoint was away; `None` = as globally.
    pub live_first: Option<bool>,
}

/// What serves the routes that say nothing of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Global {
    /// Seconds that a message may wait; 0 = for ever.
    pub ttl_secs: u32,
    /// Whether fresh messages may pass the backlog.
    pub live_first: bool,
}

/// A route that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRoute {
    /// Its name.
    pub name: String,
    /// Its text, or all that stands for it in the document if its text is not at fault.
    pub text: String,
    /// Why, and what to do.
    pub error: CompileError,
}

impl RefusedRoute {
    /// `route "a", column 24: what: todo`, without line breaks and not too long: for lists of problems.
    pub fn one_line(&self) -> String {
        let place = self.error.place(&self.text);
        let mut line = format!("route {:?}, {place}: {}", self.name, self.error.one_line());
        // What is found in the text may be nearly all of it.
        if let Some((end, _)) = line.char_indices().nth(LINE_CHARS_MAX) {
            line.truncate(end);
            line.push('…');
        }
        line
    }
}

impl fmt::Display for RefusedRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.error.place(&self.text);
        writeln!(f, "route {:?} is set aside, the others run ({place}):", self.name)?;
        f.write_str(&self.error.render(&self.text))
    }
}

/// Where messages go. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// IoT Hub.
    Upstream,
    /// An input of a module of this edge device.
    ModuleInput {
        /// The module.
        module: ModuleId,
        /// The input's name.
        input: Arc<str>,
    },
}

impl Endpoint {
    /// `iothub`, or `EDGE/module/input`: the reference's endpoint ids (queue names and metrics labels).
    /// A table keeps them ready as [`Target::endpoint_id`].
    pub fn id(&self, edge: &DeviceId) -> Arc<str> {
        match self {
            Self::Upstream => UPSTREAM_ENDPOINT_ID.into(),
            Self::ModuleInput { module, input } => format!("{edge}/{module}/{input}").into(),
        }
    }
}

/// One place that a message goes to. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Its id, shared.
    pub endpoint_id: Arc<str>,
    /// 0 (first) to 9, [`PRIORITY_NONE`] when the route gives none.
    pub priority: u8,
    /// Seconds that the message may wait; 0 = for ever.
    pub ttl_secs: u32,
    /// Whether it may pass those that piled up while the endpoint was away.
    pub live_first: bool,
}

/// All routes, compiled. Immutable: a new configuration makes a new table.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    /// By priority, so that the first match for an endpoint is the one that counts.
    routes: Vec<CompiledRoute>,
    /// What their conditions ask of a body.
    paths: BodyPaths,
    warnings: Vec<String>,
}

/// A route that runs.
#[derive(Debug, Clone)]
pub struct CompiledRoute {
    name: String,
    text: String,
    source: Source,
    /// `None` = no WHERE.
    condition: Option<Condition>,
    target: Target,
    warnings: Vec<String>,
    selects_nothing: bool,
}

impl CompiledRoute {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its text, as configured.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where it sends what it selects.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Why it cannot do what it seems to, with what to do.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether it can select no message, whatever comes: none comes from its source, or its condition is never true.
    /// A warning says why.
    pub fn selects_nothing(&self) -> bool {
        self.selects_nothing
    }

    /// Whether it sends to the same endpoint every message that `other` can select.
    pub fn covers(&self, other: &Self) -> bool {
        self.condition.is_none()
            && self.target.endpoint == other.target.endpoint
            && self.source.includes(&other.source)
    }
}

/// What one route makes of one message.
#[derive(Debug, Clone)]
pub struct RouteExplained<'t> {
    /// The route.
    pub route: &'t CompiledRoute,
    /// Whether the message comes from where the route looks.
    pub source_matches: bool,
    /// The condition part by part, asked even if the source does not match; `None` = the route has none.
    pub condition: Option<Explained>,
    /// What the condition comes to. The route selects the message if this is true and the source matches.
    pub result: Tri,
}

impl RouteTable {
    /// Compiles `routes` for the edge device `edge`. A route that does not compile is set aside; the others run.
    pub fn compile(
        edge: &DeviceId,
        routes: &[RouteSpec],
        global: Global,
    ) -> (Self, Vec<RefusedRoute>) {
        let mut table = Self::default();
        let mut refused = Vec::new();
        for spec in routes {
            if let Err(error) = table.add(edge, spec, global) {
                let RouteSpec { name, text, .. } = spec.clone();
                refused.push(RefusedRoute { name, text, error });
            }
        }
        table.routes.sort_by_key(|route| route.target.priority);
        (table, refused)
    }

    fn add(
        &mut self,
        edge: &DeviceId,
        spec: &RouteSpec,
        global: Global,
    ) -> Result<(), CompileError> {
        let route = parse::route(&spec.text)?;
        let source = Source::new(&route.source);
        let context = Context { edge, twin_changes: source.is_twin_changes() };
        let endpoint = endpoint(&route.sink)?;
        let compile = |ast| Condition::compile(ast, &context, &mut self.paths);
        let condition = route.condition.as_ref().map(compile).transpose()?;
        let found = condition.iter().flat_map(Condition::warnings).map(|w| w.to_string());
        let mut warnings: Vec<String> = found.collect();
        let covers_nothing = source.covers_nothing();
        let selects_nothing =
            covers_nothing.is_some() || condition.as_ref().is_some_and(Condition::is_never_true);
        warnings.extend(covers_nothing);
        let named = |warning: &String| format!("route {:?}: {warning}", spec.name);
        self.warnings.extend(warnings.iter().map(named));
        let endpoint_id = self
            .routes
            .iter()
            .find(|r| r.target.endpoint == endpoint)
            .map_or_else(|| endpoint.id(edge), |r| Arc::clone(&r.target.endpoint_id));
        let ttl_secs = if spec.ttl_secs == 0 { global.ttl_secs } else { spec.ttl_secs };
        let priority = spec.priority.unwrap_or(PRIORITY_NONE);
        let live_first = spec.live_first.unwrap_or(global.live_first);
        let target = Target { endpoint, endpoint_id, priority, ttl_secs, live_first };
        let (name, text) = (spec.name.clone(), spec.text.clone());
        let route =
            CompiledRoute { name, text, source, condition, target, warnings, selects_nothing };
        self.routes.push(route);
        Ok(())
    }

    /// Puts the targets of `message` into `out` (which is emptied first): one per endpoint, none when no route matches.
    pub fn evaluate(&self, message: &dyn Subject, out: &mut Vec<Target>) {
        out.clear();
        for target in self.matching(message) {
            if !out.iter().any(|t| Arc::ptr_eq(&t.endpoint_id, &target.endpoint_id)) {
                out.push(target.clone());
            }
        }
    }

    /// The targets of all routes that select the message, by priority: of several with one endpoint id (the same
    /// `Arc`) the first is the one that counts.
    pub fn matching<'a>(&'a self, message: &'a dyn Subject) -> impl Iterator<Item = &'a Target> {
        let (origin, facts) = (message.origin(), self.facts(message));
        let selects = move |route: &&CompiledRoute| {
            let holds = |condition: &Condition| condition.evaluate(&facts) == Tri::True;
            route.source.covers(&origin) && route.condition.as_ref().is_none_or(holds)
        };
        self.routes.iter().filter(selects).map(|route| &route.target)
    }

    /// What each route makes of the message, by priority, and why.
    pub fn explain<'t>(&'t self, message: &dyn Subject) -> Vec<RouteExplained<'t>> {
        let (origin, facts) = (message.origin(), self.facts(message));
        let explain = |route: &'t CompiledRoute| RouteExplained {
            route,
            source_matches: route.source.covers(&origin),
            condition: route.condition.as_ref().map(|condition| condition.explain(&facts)),
            result: route.condition.as_ref().map_or(Tri::True, |c| c.evaluate(&facts)),
        };
        self.routes.iter().map(explain).collect()
    }

    fn facts<'a>(&'a self, message: &'a dyn Subject) -> Facts<'a> {
        Facts { subject: message, body: self.paths.of(message) }
    }

    /// Every endpoint, priority and class that a message can get, without repeats.
    #[cfg(test)]
    pub(crate) fn targets(&self) -> Vec<Target> {
        let mut all: Vec<Target> = Vec::new();
        for CompiledRoute { target, .. } in &self.routes {
            let same = |t: &Target| {
                (&t.endpoint, t.priority, t.live_first)
                    == (&target.endpoint, target.priority, target.live_first)
            };
            if !all.iter().any(same) {
                all.push(target.clone());
            }
        }
        all
    }

    /// The routes that run, by priority.
    pub fn routes(&self) -> &[CompiledRoute] {
        &self.routes
    }

    /// Routes that run but cannot do what they seem to, with what to do: the warnings of each, its name in front.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// How many routes run.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether no route runs.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

fn endpoint(sink: &Sink) -> Result<Endpoint, CompileError> {
    let Sink::Brokered { address, span } = sink else {
        return Ok(Endpoint::Upstream);
    };
    let refuse = |what: String| -> CompileError {
        let span: Span = span.clone();
        CompileError::new(span, what, "write \"/modules/<module>/inputs/<input>\"")
    };
    let address = address.trim();
    let path = address.strip_prefix('/').unwrap_or(address);
    let path = path.strip_suffix('/').unwrap_or(path);
    let parts: Vec<&str> = path.split('/').collect();
    let [modules, module, inputs, input] = parts[..] else {
        return Err(refuse(format!("the endpoint has {} parts, not 4", parts.len())));
    };
    if !same(modules, "modules") || !same(inputs, "inputs") {
        return Err(refuse(format!("`{address}` does not name an input of a module")));
    }
    let module = ModuleId::parse(module).map_err(|e| refuse(format!("module `{module}`: {e}")))?;
    if input.trim().is_empty() {
        return Err(refuse("the input has no name".into()));
    }
    // Each message would end among the dead letters [MQTT-3.3.2-2, MQTT-1.5.3-2].
    if let Some(bad) = input.chars().find(|c| matches!(c, '+' | '#') || c.is_control()) {
        return Err(refuse(format!("input `{}`: no topic holds {bad:?}", input.escape_debug())));
    }
    Ok(Endpoint::ModuleInput { module, input: input.into() })
}
