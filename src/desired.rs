//! The `$edgeHub` module's desired properties: JSON text -> routes, times to live, limits.
//!
//! Owns: the document's schema (`edgehub.md` 3.1), versions 1.0 to 1.3.
//! Invariants: a bad route is set aside with its reason and the others stay; a document that is wrong as a whole is
//! refused with every problem found, each with what to do. Nothing is fetched or kept here.
//! Must not know: the routing language (`route` compiles the texts), where a document comes from, the upstream.
//!
//! Extensions, which the reference ignores: `liveFirst` of `storeAndForwardConfiguration` and of a route (see
//! [`crate::route`]).
//!
//! On purpose different from the reference: a time to live of 0 (or none inside `storeAndForwardConfiguration`) does not
//! expire every message at once but means [`TTL_DEFAULT_SECS`], with a warning; one bad route does not refuse the rest.

use std::fmt;
use std::path::Path;

use serde_json::{Map, Value};

use crate::identity::DeviceId;
use crate::route::{CompileError, Global, RefusedRoute, RouteSpec, RouteTable};

/// The time to live of Azure's deployment templates, in seconds.
pub const TTL_DEFAULT_SECS: u32 = 7200;

/// The least size of a store, in bytes: one segment. Below it nothing useful can be kept.
pub const STORE_BYTES_MIN: u64 = 4 << 20;

/// What a route may say.
const ROUTE_KEYS: [&str; 4] = ["route", "priority", "timeToLiveSecs", "liveFirst"];

/// The route that serves when there is no document.
pub const DEFAULT_ROUTE: &str = "FROM /messages/* INTO $upstream";

/// Longest document, in bytes. IoT Hub allows 32 KB of desired properties; a file may hold a whole twin around them.
pub const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// What the document asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// `$version` of the twin, when it is there.
    pub version: Option<u64>,
    /// Routes by name. Their texts are not compiled yet.
    pub routes: Vec<RouteSpec>,
    /// Entries of `routes` that are not even a route, set aside.
    pub refused: Vec<RefusedRoute>,
    /// Seconds that a message waits when its route says nothing; 0 = for ever.
    pub ttl_secs: u32,
    /// Most bytes that the store may take; `None` = the document does not say.
    pub store_bytes_max: Option<u64>,
    /// Whether fresh messages may pass the backlog, where a route does not say (see [`crate::route`]); `None` = the document
    /// does not say. An extension: the reference ignores it.
    pub live_first: Option<bool>,
    /// What is accepted but not done as written, with what to do.
    pub warnings: Vec<String>,
}

/// Why a document was refused as a whole: every problem, each with what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredError {
    /// One line each.
    pub problems: Vec<String>,
}

impl fmt::Display for DesiredError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the $edgeHub desired properties are refused: {}", self.problems.join("; "))
    }
}

impl std::error::Error for DesiredError {}

impl Desired {
    /// What serves without a document: everything goes upstream and waits `ttl_secs` (0 = for ever, the reference's
    /// `storeAndForward` default of -1).
    pub fn without_document(ttl_secs: u32) -> Self {
        let route = RouteSpec {
            name: "default".to_owned(),
            text: DEFAULT_ROUTE.to_owned(),
            priority: None,
            ttl_secs: 0,
            live_first: None,
        };
        Self {
            version: None,
            routes: vec![route],
            refused: Vec::new(),
            ttl_secs,
            store_bytes_max: None,
            live_first: None,
            warnings: Vec::new(),
        }
    }

    /// Reads the document in `file`; see [`Self::parse`].
    pub fn load(file: &Path) -> Result<Self, DesiredError> {
        let bytes = std::fs::read(file).map_err(|e| {
            one(format!("{} cannot be read ({e}): correct the path or permissions", file.display()))
        })?;
        let text = String::from_utf8(bytes)
            .map_err(|e| one(format!("not UTF-8 ({e}): save the file as UTF-8")))?;
        Self::parse(&text)
    }

    /// Compiles the routes for the edge device `edge`; `live_first` counts where neither the document nor a route says. The
    /// list holds every route that was set aside, whether its entry or its text is at fault.
    pub fn compile(&self, edge: &DeviceId, live_first: bool) -> (RouteTable, Vec<RefusedRoute>) {
        let live_first = self.live_first.unwrap_or(live_first);
        let global = Global { ttl_secs: self.ttl_secs, live_first };
        let (table, refused) = RouteTable::compile(edge, &self.routes, global);
        (table, self.refused.iter().cloned().chain(refused).collect())
    }

    /// Reads a document: the bare desired properties, a module twin (`{"properties": {"desired": ..}}`), or the `$edgeHub`
    /// part of a deployment manifest (`{"properties.desired": ..}`).
    pub fn parse(text: &str) -> Result<Self, DesiredError> {
        let one = |problem: String| DesiredError { problems: vec![problem] };
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(one(format!(
                "the document has {} bytes: at most {DOCUMENT_BYTES_MAX} are read",
                text.len()
            )));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let value: Value = serde_json::from_str(text)
            .map_err(|e| one(format!("not JSON ({e}): correct the place named")))?;
        let document = inner(&value).map_err(one)?;
        Reader::default().document(document)
    }
}

fn one(problem: String) -> DesiredError {
    DesiredError { problems: vec![problem] }
}

/// Finds the desired properties in what may be wrapped around them.
fn inner(value: &Value) -> Result<&Map<String, Value>, String> {
    let Value::Object(outer) = value else {
        return Err(format!("the document is {}: write an object", kind(value)));
    };
    if outer.contains_key("modulesContent") {
        return Err(
            "this is a deployment manifest: give its modulesContent.$edgeHub part alone".into()
        );
    }
    let nested = outer
        .get("properties.desired")
        .or_else(|| outer.get("properties").and_then(|p| p.get("desired")));
    match nested {
        Some(Value::Object(desired)) => Ok(desired),
        Some(other) => Err(format!("properties.desired is {}: write an object", kind(other))),
        None => Ok(outer),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// What `storeAndForwardConfiguration` says, the time to live in our form.
#[derive(Default)]
struct StoreAndForward {
    ttl_secs: u32,
    store_bytes_max: Option<u64>,
    live_first: Option<bool>,
}

/// Collects what is wrong while reading.
#[derive(Default)]
struct Reader {
    problems: Vec<String>,
    warnings: Vec<String>,
    refused: Vec<RefusedRoute>,
}

impl Reader {
    fn document(mut self, document: &Map<String, Value>) -> Result<Desired, DesiredError> {
        // Without a readable version the strictest rules say the most.
        let minor = self.schema_minor(document).unwrap_or(3);
        let routes = match present(document, "routes") {
            Some(Value::Object(routes)) => self.routes(routes, minor),
            Some(other) => {
                self.problem(format!("routes is {}: write an object of named routes", kind(other)));
                Vec::new()
            }
            None if minor == 0 => Vec::new(),
            None => {
                self.problem("routes is missing: add it, {} for none".to_owned());
                Vec::new()
            }
        };
        let StoreAndForward { ttl_secs, store_bytes_max, live_first } =
            self.store_and_forward(document, minor);
        for (key, min) in [("mqttBroker", 2), ("integrity", 3)] {
            if present(document, key).is_some() {
                let early =
                    if minor < min { " (and the schema version has no such part)" } else { "" };
                self.warnings
                    .push(format!("{key} is not used by this gateway{early}: it has no effect"));
            }
        }
        if !self.problems.is_empty() {
            return Err(DesiredError { problems: self.problems });
        }
        if routes.is_empty() && self.refused.is_empty() {
            self.warnings.push(format!(
                "there is no route, so every message is acknowledged and dropped: add {DEFAULT_ROUTE:?}"
            ));
        }
        let version = document.get("$version").and_then(Value::as_u64);
        let (refused, warnings) = (self.refused, self.warnings);
        Ok(Desired { version, routes, refused, ttl_secs, store_bytes_max, live_first, warnings })
    }

    fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// The minor number of `schemaVersion`, which must read `1.0` .. `1.3`, more parts allowed.
    fn schema_minor(&mut self, document: &Map<String, Value>) -> Option<u32> {
        let version = match present(document, "schemaVersion") {
            Some(Value::String(version)) => version,
            Some(other) => {
                self.problem(format!("schemaVersion is {}: write \"1.1\"", kind(other)));
                return None;
            }
            None => {
                self.problem("schemaVersion is missing: add \"schemaVersion\": \"1.1\"".to_owned());
                return None;
            }
        };
        let parts: Option<Vec<u32>> = version.trim().split('.').map(|p| p.parse().ok()).collect();
        match parts.as_deref() {
            Some([1, minor, rest @ ..]) if *minor <= 3 && rest.len() <= 2 => Some(*minor),
            Some([_, _, rest @ ..]) if rest.len() <= 2 => {
                self.problem(format!("schemaVersion {version} is not supported: write 1.0 to 1.3"));
                None
            }
            _ => {
                self.problem(format!("schemaVersion {version:?} is no version: write \"1.1\""));
                None
            }
        }
    }

    fn routes(&mut self, routes: &Map<String, Value>, minor: u32) -> Vec<RouteSpec> {
        let mut out = Vec::new();
        for (name, entry) in routes {
            match self.route(name, entry, minor) {
                Ok(spec) => out.extend(spec),
                Err((what, todo)) => {
                    let text = entry.get("route").unwrap_or(entry);
                    let text = text.as_str().map_or_else(|| text.to_string(), str::to_owned);
                    let error = CompileError { span: 0..text.len(), what, todo: todo.to_owned() };
                    self.refused.push(RefusedRoute { name: name.clone(), text, error });
                }
            }
        }
        out
    }

    /// One entry; `Ok(None)` = deleted or skipped without a word, as the reference does.
    fn route(
        &mut self,
        name: &str,
        entry: &Value,
        minor: u32,
    ) -> Result<Option<RouteSpec>, (String, &'static str)> {
        let no_text = || ("the route has no text".to_owned(), "write FROM ... INTO ...");
        let (text, priority, ttl_secs, live_first) = match entry {
            // A null in a twin deletes the key.
            Value::Null => return Ok(None),
            Value::String(text) => (text, None, 0, None),
            Value::Object(_) if minor == 0 => {
                let what =
                    "a route of schema version 1.0 is a string, this is an object".to_owned();
                return Err((what, "set schemaVersion to 1.1 or write the route as a string"));
            }
            Value::Object(object) => {
                let Some(Value::String(text)) = object.get("route") else {
                    return Err(no_text());
                };
                self.unknown(&format!("route {name:?}"), object, &ROUTE_KEYS);
                (text, priority(object)?, route_ttl(object)?, live_first(object)?)
            }
            other => {
                return Err((
                    format!("the entry is {}", kind(other)),
                    "write a string or an object with route, priority and timeToLiveSecs",
                ));
            }
        };
        if text.trim().is_empty() {
            return if minor == 0 { Ok(None) } else { Err(no_text()) };
        }
        if minor >= 1 && name.trim().is_empty() {
            return Err(("the route's name is blank".to_owned(), "name it"));
        }
        Ok(Some(RouteSpec {
            name: name.to_owned(),
            text: text.clone(),
            priority,
            ttl_secs,
            live_first,
        }))
    }

    fn store_and_forward(&mut self, document: &Map<String, Value>, minor: u32) -> StoreAndForward {
        const KEY: &str = "storeAndForwardConfiguration";
        let section = match present(document, KEY) {
            Some(Value::Object(section)) => section,
            Some(other) => {
                self.problem(format!("{KEY} is {}: write an object", kind(other)));
                return StoreAndForward::default();
            }
            None if minor == 0 => return StoreAndForward::default(),
            None => {
                self.problem(format!("{KEY} is missing: add {{\"timeToLiveSecs\": 7200}}"));
                return StoreAndForward::default();
            }
        };
        self.unknown(KEY, section, &["timeToLiveSecs", "storeLimits", "liveFirst"]);
        StoreAndForward {
            ttl_secs: self.global_ttl(section),
            store_bytes_max: self.store_limit(section),
            live_first: self.global_live_first(section),
        }
    }

    /// A slip in a key would else be without effect and without a word.
    fn unknown(&mut self, part: &str, object: &Map<String, Value>, known: &[&str]) {
        // A null deletes the key.
        let unknown =
            object.iter().filter(|(key, value)| !value.is_null() && !known.contains(&key.as_str()));
        for (key, _) in unknown {
            let known = known.join(", ");
            self.warnings.push(format!(
                "{part}: {key:?} is not known and has no effect: correct it or take it out; known are {known}"
            ));
        }
    }

    fn global_live_first(&mut self, section: &Map<String, Value>) -> Option<bool> {
        let value = present(section, "liveFirst")?;
        if !value.is_boolean() {
            self.problem(format!("liveFirst is {value}: write true or false"));
        }
        value.as_bool()
    }

    fn global_ttl(&mut self, section: &Map<String, Value>) -> u32 {
        let Some(value) = present(section, "timeToLiveSecs") else {
            self.warnings.push(format!(
                "storeAndForwardConfiguration has no timeToLiveSecs: {TTL_DEFAULT_SECS} is used (edgeHub would expire \
                 every message at once); write it"
            ));
            return TTL_DEFAULT_SECS;
        };
        let Some(secs) = value.as_i64() else {
            self.problem(format!("timeToLiveSecs is {value}: write whole seconds, -1 for ever"));
            return 0;
        };
        match u32::try_from(secs) {
            Ok(0) => {
                self.warnings.push(format!(
                    "timeToLiveSecs is 0, which would expire every message at once: {TTL_DEFAULT_SECS} is used; write \
                     seconds, or -1 to keep messages for ever"
                ));
                TTL_DEFAULT_SECS
            }
            Ok(secs) => secs,
            // Negative: for ever. Larger than u32: 136 years and more are the same.
            Err(_) => 0,
        }
    }

    fn store_limit(&mut self, section: &Map<String, Value>) -> Option<u64> {
        let limits = present(section, "storeLimits")?;
        let Value::Object(limits) = limits else {
            self.problem(format!("storeLimits is {}: write an object", kind(limits)));
            return None;
        };
        self.unknown("storeLimits", limits, &["maxSizeBytes"]);
        let bytes = present(limits, "maxSizeBytes")?;
        match bytes.as_i64() {
            Some(n) if n > 0 => {
                let asked = n.unsigned_abs();
                if asked < STORE_BYTES_MIN {
                    self.warnings.push(format!(
                        "storeLimits.maxSizeBytes is {bytes}, too small for a store: {STORE_BYTES_MIN} is used; write that \
                         or more"
                    ));
                }
                Some(asked.max(STORE_BYTES_MIN))
            }
            Some(_) => {
                self.warnings.push(format!(
                    "storeLimits.maxSizeBytes is {bytes}: no limit is taken from it; write {STORE_BYTES_MIN} bytes or more, \
                     or leave it out"
                ));
                None
            }
            None => {
                let what = if bytes.is_u64() { "more than any volume has" } else { "no size" };
                self.problem(format!(
                    "storeLimits.maxSizeBytes is {bytes}, {what}: write whole bytes, {STORE_BYTES_MIN} to {}, or leave it out",
                    i64::MAX
                ));
                None
            }
        }
    }
}

/// The value of `key`; null counts as absent.
fn present<'v>(object: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
    object.get(key).filter(|value| !value.is_null())
}

fn priority(object: &Map<String, Value>) -> Result<Option<u8>, (String, &'static str)> {
    let Some(value) = present(object, "priority") else {
        return Ok(None);
    };
    match value.as_u64().and_then(|p| u8::try_from(p).ok()) {
        Some(p) if p <= 9 => Ok(Some(p)),
        _ => Err((format!("the priority is {value}"), "write 0 (first) to 9 (last)")),
    }
}

fn route_ttl(object: &Map<String, Value>) -> Result<u32, (String, &'static str)> {
    let Some(value) = present(object, "timeToLiveSecs") else {
        return Ok(0);
    };
    value.as_u64().and_then(|secs| u32::try_from(secs).ok()).ok_or_else(|| {
        let what = format!("timeToLiveSecs is {value}");
        (what, "write seconds, 0 to 4294967295; 0 means the global time to live")
    })
}

fn live_first(object: &Map<String, Value>) -> Result<Option<bool>, (String, &'static str)> {
    match present(object, "liveFirst") {
        None => Ok(None),
        Some(Value::Bool(live_first)) => Ok(Some(*live_first)),
        Some(value) => Err((format!("liveFirst is {value}"), "write true or false")),
    }
}

#[cfg(test)]
mod tests;
