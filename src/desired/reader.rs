//! The schema of the desired properties (`edgehub.md` 3.1): what each part may be, what is missing, what is not known.
//!
//! Owns: the words for what is wrong, and what to write instead.
//! Must not know: what is wrapped around them, the routing language.

use serde_json::{Map, Value};

use super::{DEFAULT_ROUTE, Desired, STORE_BYTES_MIN, TTL_DEFAULT_SECS};
use crate::route::{CompileError, RefusedRoute, RouteSpec};

/// What a document may say; what begins with `$` is the hub's.
const DOCUMENT_KEYS: [&str; 5] =
    ["schemaVersion", "routes", "storeAndForwardConfiguration", "mqttBroker", "integrity"];

/// What a route may say.
const ROUTE_KEYS: [&str; 4] = ["route", "priority", "timeToLiveSecs", "liveFirst"];

/// The newest schema, 1.3, whose rules say the most.
const MINOR_MAX: u32 = 3;

/// Why an entry of `routes` is no route.
struct Wrong {
    what: String,
    todo: &'static str,
    /// The part of the entry that is at fault, if it is not its text.
    key: Option<&'static str>,
}

impl Wrong {
    fn new(what: impl Into<String>, todo: &'static str) -> Self {
        Self { what: what.into(), todo, key: None }
    }

    fn at(key: &'static str, what: String, todo: &'static str) -> Self {
        Self { what, todo, key: Some(key) }
    }

    /// With the route's text, or with the whole entry if its text is not at fault.
    fn of(self, name: &str, entry: &Value) -> RefusedRoute {
        let written = entry.get("route").filter(|_| self.key.is_none()).unwrap_or(entry);
        let text = written.as_str().map_or_else(|| written.to_string(), str::to_owned);
        let place = self.key.and_then(|key| {
            let part = format!("{}:{}", Value::from(key), entry.get(key)?);
            text.find(&part).map(|start| start..start + part.len())
        });
        let span = place.unwrap_or(0..text.len());
        let error = CompileError { span, what: self.what, todo: self.todo.to_owned() };
        RefusedRoute { name: name.to_owned(), text, error }
    }
}

pub(super) fn kind_of(value: &Value) -> &'static str {
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
    /// `None` = a layer leaves it to what is below it.
    ttl_secs: Option<u32>,
    store_bytes_max: Option<u64>,
    live_first: Option<bool>,
}

/// Collects what is wrong while reading.
#[derive(Default)]
pub(super) struct Reader {
    /// Whether what is missing is in the deployment below.
    is_layer: bool,
    problems: Vec<String>,
    warnings: Vec<String>,
    refused: Vec<RefusedRoute>,
}

impl Reader {
    pub(super) fn new(is_layer: bool) -> Self {
        Self { is_layer, ..Self::default() }
    }

    /// What could be read, and why it is refused as a whole, if it is.
    pub(super) fn document(mut self, document: &Map<String, Value>) -> (Desired, Vec<String>) {
        // Without a readable version the strictest rules say the most.
        let minor = self.schema_minor(document).unwrap_or(MINOR_MAX);
        let routes = match present(document, "routes") {
            Some(Value::Object(routes)) => self.routes(routes, minor),
            Some(other) => {
                self.problem(format!(
                    "routes is {}: write an object of named routes",
                    kind_of(other)
                ));
                Vec::new()
            }
            None if minor == 0 || self.is_layer => Vec::new(),
            None => {
                self.problem("routes is missing: add it, {} for none".to_owned());
                Vec::new()
            }
        };
        let StoreAndForward { ttl_secs, store_bytes_max, live_first } =
            self.store_and_forward(document, minor);
        self.not_used(document, minor);
        let has_no_route = routes.is_empty() && self.refused.is_empty() && self.problems.is_empty();
        match (self.is_layer, has_no_route) {
            (false, false) => {}
            (false, true) => self.warnings.push(format!(
                "there is no route, so every message is acknowledged and dropped: add {DEFAULT_ROUTE:?}"
            )),
            (true, _) => self.warnings.push(
                "this is a layered deployment: it is read alone, without the deployment that it is laid over".to_owned(),
            ),
        }
        let schema_version = present(document, "schemaVersion").and_then(Value::as_str);
        let version = document.get("$version").and_then(Value::as_u64);
        let desired = Desired {
            schema_version: schema_version.map(str::to_owned),
            version,
            is_layer: self.is_layer,
            routes,
            refused: self.refused,
            ttl_secs,
            store_bytes_max,
            live_first,
            warnings: self.warnings,
        };
        (desired, self.problems)
    }

    /// Says what has no effect.
    fn not_used(&mut self, document: &Map<String, Value>, minor: u32) {
        for (key, min) in [("mqttBroker", 2), ("integrity", 3)] {
            if present(document, key).is_some() {
                let early =
                    if minor < min { " (and the schema version has no such part)" } else { "" };
                self.warnings
                    .push(format!("{key} is not used by this gateway{early}: it has no effect"));
            }
        }
        let of_hub = document.keys().filter(|key| key.starts_with('$')).map(String::as_str);
        let known: Vec<&str> = DOCUMENT_KEYS.into_iter().chain(of_hub).collect();
        self.unknown("the document", document, &known);
    }

    fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// The minor number of `schemaVersion`, which must read `1.0` .. `1.3`, more parts allowed.
    fn schema_minor(&mut self, document: &Map<String, Value>) -> Option<u32> {
        let version = match present(document, "schemaVersion") {
            Some(Value::String(version)) => version,
            Some(other) => {
                self.problem(format!("schemaVersion is {}: write \"1.1\"", kind_of(other)));
                return None;
            }
            None if self.is_layer => return None,
            None => {
                self.problem("schemaVersion is missing: add \"schemaVersion\": \"1.1\"".to_owned());
                return None;
            }
        };
        // Digits alone: a number in Rust may have a sign.
        let number = |part: &str| {
            let is_digits = part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse::<u32>().ok().filter(|_| is_digits)
        };
        let parts: Option<Vec<u32>> = version.trim().split('.').map(number).collect();
        match parts.as_deref() {
            Some([1, minor, rest @ ..]) if *minor <= MINOR_MAX && rest.len() <= 2 => Some(*minor),
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
                Err(wrong) => self.refused.push(wrong.of(name, entry)),
            }
        }
        out
    }

    /// One entry; `Ok(None)` = deleted or skipped without a word, as the reference does.
    fn route(&mut self, name: &str, entry: &Value, minor: u32) -> Result<Option<RouteSpec>, Wrong> {
        let no_text = || Wrong::new("the route has no text", "write FROM ... INTO ...");
        let (text, priority, ttl_secs, live_first) = match entry {
            // A null in a twin deletes the key.
            Value::Null => return Ok(None),
            Value::String(text) => (text, None, 0, None),
            Value::Object(_) if minor == 0 => {
                return Err(Wrong::new(
                    "a route of schema version 1.0 is a string, this is an object",
                    "set schemaVersion to 1.1 or write the route as a string",
                ));
            }
            Value::Object(object) => {
                let Some(Value::String(text)) = object.get("route") else {
                    return Err(no_text());
                };
                self.unknown(&format!("route {name:?}"), object, &ROUTE_KEYS);
                (text, priority(object)?, route_ttl(object)?, live_first(object)?)
            }
            other => {
                return Err(Wrong::new(
                    format!("the entry is {}", kind_of(other)),
                    "write a string or an object with route, priority and timeToLiveSecs",
                ));
            }
        };
        if text.trim().is_empty() {
            return if minor == 0 { Ok(None) } else { Err(no_text()) };
        }
        if minor >= 1 && name.trim().is_empty() {
            return Err(Wrong::new("the route's name is blank", "name it"));
        }
        if name.is_empty() || name.contains(['.', '$', '#', ' ']) {
            self.warnings.push(format!(
                "route {name:?}: the Azure portal and command line refuse a name that is empty or has one of \". $ #\" or a \
                 blank in it: rename it"
            ));
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
                self.problem(format!("{KEY} is {}: write an object", kind_of(other)));
                return StoreAndForward::default();
            }
            None if self.is_layer => return StoreAndForward::default(),
            None if minor == 0 => {
                return StoreAndForward { ttl_secs: Some(0), ..StoreAndForward::default() };
            }
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

    fn global_ttl(&mut self, section: &Map<String, Value>) -> Option<u32> {
        let Some(value) = present(section, "timeToLiveSecs") else {
            if self.is_layer {
                return None;
            }
            self.warnings.push(format!(
                "storeAndForwardConfiguration has no timeToLiveSecs: {TTL_DEFAULT_SECS} is used (edgeHub would expire \
                 every message at once); write it"
            ));
            return Some(TTL_DEFAULT_SECS);
        };
        let Some(secs) = value.as_i64() else {
            self.problem(format!("timeToLiveSecs is {value}: write whole seconds, -1 for ever"));
            return None;
        };
        Some(match u32::try_from(secs) {
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
        })
    }

    fn store_limit(&mut self, section: &Map<String, Value>) -> Option<u64> {
        let limits = present(section, "storeLimits")?;
        let Value::Object(limits) = limits else {
            self.problem(format!("storeLimits is {}: write an object", kind_of(limits)));
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

fn priority(object: &Map<String, Value>) -> Result<Option<u8>, Wrong> {
    let Some(value) = present(object, "priority") else {
        return Ok(None);
    };
    match value.as_u64().and_then(|p| u8::try_from(p).ok()) {
        Some(p) if p <= 9 => Ok(Some(p)),
        _ => {
            let what = format!("the priority is {value}");
            Err(Wrong::at(
                "priority",
                what,
                "write 0 (first) to 9 (last), or leave it out for after all",
            ))
        }
    }
}

fn route_ttl(object: &Map<String, Value>) -> Result<u32, Wrong> {
    let Some(value) = present(object, "timeToLiveSecs") else {
        return Ok(0);
    };
    value.as_u64().and_then(|secs| u32::try_from(secs).ok()).ok_or_else(|| {
        let what = format!("timeToLiveSecs is {value}");
        let todo = "write seconds, 0 to 4294967295; 0 means the global time to live";
        Wrong::at("timeToLiveSecs", what, todo)
    })
}

fn live_first(object: &Map<String, Value>) -> Result<Option<bool>, Wrong> {
    match present(object, "liveFirst") {
        None => Ok(None),
        Some(Value::Bool(live_first)) => Ok(Some(*live_first)),
        Some(value) => {
            Err(Wrong::at("liveFirst", format!("liveFirst is {value}"), "write true or false"))
        }
    }
}
