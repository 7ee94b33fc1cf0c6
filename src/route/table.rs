//! Compiled routes, and which endpoints a message goes to.
//!
//! Owns: [`RouteTable`] (an immutable snapshot), source matching, [`Endpoint`].
//! Invariants: at most one [`Target`] per endpoint and message, with the smallest priority number of the routes that
//! match and that route's time to live; evaluation allocates nothing beyond the caller's list.
//! Must not know: queues, the twin.

use std::fmt;
use std::sync::Arc;

use super::condition::{Condition, Tri};
use super::error::{CompileError, Span};
use super::parse::{self, Segment, Sink};
use crate::identity::{DeviceId, ModuleId};
use crate::message::{Message, SystemKey};

/// The endpoint id of the hub, as the reference names its queue and as metrics label it.
pub const UPSTREAM_ENDPOINT_ID: &str = "iothub";

/// The priority of a route that gives none: below 9.
pub const PRIORITY_NONE: u8 = 10;

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
    /// Its text.
    pub text: String,
    /// Why, and what to do.
    pub error: CompileError,
}

impl fmt::Display for RefusedRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = self.error.column(&self.text);
        writeln!(f, "route {:?} is set aside, the others run (column {column}):", self.name)?;
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
    routes: Vec<Compiled>,
    warnings: Vec<String>,
}

#[derive(Debug, Clone)]
struct Compiled {
    name: String,
    source: Source,
    condition: Condition,
    target: Target,
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
        let condition = match &route.condition {
            Some(ast) => Condition::compile(ast)?,
            None => Condition::always(),
        };
        let endpoint = endpoint(&route.sink)?;
        let source = Source::new(&route.source);
        if condition.is_text() {
            self.warn(
                spec,
                "its condition is text, never true: it selects nothing. Compare it with a value",
            );
        }
        if source.never_matches() {
            self.warn(
                spec,
                "a `*` that is not the last character of the source is an ordinary character: the route selects \
                 nothing. Name the module, or write /messages/modules/*",
            );
        }
        if source.0.first().is_some_and(|s| same(s, "twinChangeNotifications")) {
            self.warn(spec, "this version makes no twin change notifications: it selects nothing");
        }
        let endpoint_id = self
            .routes
            .iter()
            .find(|r| r.target.endpoint == endpoint)
            .map_or_else(|| endpoint.id(edge), |r| Arc::clone(&r.target.endpoint_id));
        let ttl_secs = if spec.ttl_secs == 0 { global.ttl_secs } else { spec.ttl_secs };
        let priority = spec.priority.unwrap_or(PRIORITY_NONE);
        let live_first = spec.live_first.unwrap_or(global.live_first);
        let target = Target { endpoint, endpoint_id, priority, ttl_secs, live_first };
        self.routes.push(Compiled { name: spec.name.clone(), source, condition, target });
        Ok(())
    }

    fn warn(&mut self, spec: &RouteSpec, what: &str) {
        self.warnings.push(format!("route {:?}: {}", spec.name, what));
    }

    /// Puts the targets of `message` into `out` (which is emptied first): one per endpoint, none when no route matches.
    pub fn evaluate(&self, message: &Message, out: &mut Vec<Target>) {
        out.clear();
        for target in self.matching(message) {
            if !out.iter().any(|t| Arc::ptr_eq(&t.endpoint_id, &target.endpoint_id)) {
                out.push(target.clone());
            }
        }
    }

    /// The targets of all routes that select the message, by priority: of several with one endpoint id (the same
    /// `Arc`) the first is the one that counts.
    pub fn matching(&self, message: &Message) -> impl Iterator<Item = &Target> {
        let routes = self.routes.iter().filter(|route| {
            route.source.covers(message) && route.condition.evaluate(message) == Tri::True
        });
        routes.map(|route| &route.target)
    }

    /// Keeps the routes whose endpoint `serves`; gives the names of those that go.
    pub fn keep(&mut self, serves: impl Fn(&Endpoint) -> bool) -> Vec<String> {
        let (keep, go) =
            std::mem::take(&mut self.routes).into_iter().partition(|r| serves(&r.target.endpoint));
        self.routes = keep;
        let go: Vec<Compiled> = go;
        go.into_iter().map(|route| route.name).collect()
    }

    /// Every endpoint, priority and class that a message can get, without repeats: the queues to keep open.
    pub fn targets(&self) -> Vec<Target> {
        let mut all: Vec<Target> = Vec::new();
        for Compiled { target, .. } in &self.routes {
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

    /// Names of the routes that run, by priority.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|r| r.name.as_str())
    }

    /// Routes that run but cannot do what they seem to, with what to do.
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

/// Which messages a route looks at: those whose source path begins with these segments.
#[derive(Debug, Clone, PartialEq)]
struct Source(Vec<Box<str>>);

impl Source {
    /// Trailing `*` characters say nothing: matching is by prefix anyway (`edgehub.md` 4.2).
    fn new(segments: &[Segment]) -> Self {
        let mut names: Vec<Box<str>> = segments.iter().map(|s| s.text.as_str().into()).collect();
        if let Some(last) = names.pop() {
            let stripped = last.trim_end_matches('*');
            if !stripped.is_empty() {
                names.push(stripped.into());
            }
        }
        Self(names)
    }

    /// A lone `*` in the middle is literal, and no module or output is called so.
    fn never_matches(&self) -> bool {
        self.0.iter().any(|s| &**s == "*")
    }

    /// Whole segments, any case. Leaf telemetry comes from `/messages/`, a module's from `/messages/modules/<m>/`, its
    /// outputs' from `/messages/modules/<m>/outputs/<o>/`.
    fn covers(&self, message: &Message) -> bool {
        let mut path = ["messages", "modules", "", "outputs", ""];
        let mut len = 1;
        if let Some(module) = message.source.sender.module() {
            path[2] = module.as_str();
            len = 3;
            if let Some(output) = message.system.get(SystemKey::OutputName) {
                path[4] = output;
                len = 5;
            }
        }
        self.0.len() <= len && self.0.iter().zip(path).all(|(ours, part)| same(ours, part))
    }
}

fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

fn endpoint(sink: &Sink) -> Result<Endpoint, CompileError> {
    let Sink::Brokered { address, span } = sink else {
        return Ok(Endpoint::Upstream);
    };
    let refuse = |what: String| -> CompileError {
        let span: Span = span.clone();
        CompileError::new(span, what, "write \"/modules/<module>/inputs/<input>\"")
    };
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
    Ok(Endpoint::ModuleInput { module, input: input.into() })
}
