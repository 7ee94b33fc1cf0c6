//! Finds the `$edgeHub` desired properties in what is wrapped around them.
//!
//! Owns: [`Document`] and [`Kind`]: deployment manifests, templates and layers, module twins, and the bare properties.
//! Invariants: nothing of what is around them is judged, but that they are those of `$edgeHub`.
//! Must not know: what is inside the desired properties.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map, Value};

use super::reader::{Reader, kind_of};
use super::{DOCUMENT_BYTES_MAX, Desired, DesiredError, twice};

/// In front of the keys of a layer: `properties.desired.routes.r`.
const LAYER_PREFIX: &str = "properties.desired.";

/// A document whose desired properties are found and not yet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    kind: Kind,
    desired: Map<String, Value>,
    warnings: Vec<String>,
}

/// What is wrapped around the desired properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `{"modulesContent": {"$edgeHub": {"properties.desired": ..}}}`, also inside `{"content": ..}`.
    Manifest,
    /// A manifest with `$schema-template`, from which tools make manifests.
    Template,
    /// A deployment, or its `$edgeHub` part, with keys like `properties.desired.routes.r`: laid over another deployment.
    Layer,
    /// The `$edgeHub` part of a manifest: `{"properties.desired": ..}`.
    Part,
    /// `{"properties": {"desired": ..}}`.
    Twin,
    /// The desired properties alone.
    Bare,
}

impl Kind {
    /// A word for programs.
    pub fn key(self) -> &'static str {
        match self {
            Self::Manifest => "deploymentManifest",
            Self::Template => "deploymentTemplate",
            Self::Layer => "layeredDeployment",
            Self::Part => "modulePart",
            Self::Twin => "moduleTwin",
            Self::Bare => "desiredProperties",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Manifest => "deployment manifest",
            Self::Template => "deployment template",
            Self::Layer => "layered deployment",
            Self::Part => "$edgeHub part of a deployment manifest",
            Self::Twin => "module twin",
            Self::Bare => "$edgeHub desired properties",
        })
    }
}

impl Document {
    /// Finds the desired properties in the bytes of a file: UTF-8, or what has the byte order mark of UTF-16, as some
    /// shells write what a tool prints.
    ///
    /// # Errors
    /// It is no document of a [`Kind`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DesiredError> {
        Self::parse(&text(bytes).map_err(DesiredError::one)?)
    }

    /// Finds the desired properties in a text.
    ///
    /// # Errors
    /// It is no document of a [`Kind`].
    pub fn parse(text: &str) -> Result<Self, DesiredError> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(DesiredError::one(too_long()));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let value = serde_json::from_str(text).map_err(|error| {
            DesiredError::one(format!("not JSON ({error}): {}", todo(text, &error)))
        })?;
        let (kind, desired) = found(value).map_err(DesiredError::one)?;
        let again =
            |path: String| format!("{path} is there twice: the last one counts; rename one");
        let warnings = twice::paths(text).into_iter().map(again).collect();
        Ok(Self { kind, desired, warnings })
    }

    /// What is wrapped around the desired properties.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The desired properties as they are written, and what is to be said of the text.
    pub(super) fn into_parts(self) -> (Map<String, Value>, Vec<String>) {
        (self.desired, self.warnings)
    }

    /// Reads the desired properties. A layer may lack any part of them.
    ///
    /// # Errors
    /// They are wrong as a whole.
    pub fn desired(&self) -> Result<Desired, DesiredError> {
        match self.read() {
            (desired, problems) if problems.is_empty() => Ok(desired),
            (Desired { warnings, .. }, problems) => Err(DesiredError { problems, warnings }),
        }
    }

    /// The same for somebody who tells what is wrong: what could be read of them, also if they are refused; and why they
    /// are refused, if they are.
    pub fn read(&self) -> (Desired, Vec<String>) {
        let (mut desired, problems) = Reader::new(self.kind == Kind::Layer).document(&self.desired);
        desired.warnings.splice(0..0, self.warnings.iter().cloned());
        (desired, problems)
    }
}

fn too_long() -> String {
    format!(
        "the document has more than {DOCUMENT_BYTES_MAX} bytes, too many for one of $edgeHub: check that it is the right file"
    )
}

/// The text of a document's bytes: UTF-8, or what has the byte order mark of UTF-16, as some shells write what a tool
/// prints.
///
/// # Errors
/// What the bytes are not, with what to do.
pub fn text(bytes: &[u8]) -> Result<Cow<'_, str>, String> {
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(too_long());
    }
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units: Vec<u16> = pairs.iter().map(|pair| unit(*pair)).collect();
        match String::from_utf16(&units) {
            Ok(text) if rest.is_empty() => Ok(Cow::Owned(text)),
            _ => Err("not UTF-16, as its first two bytes say: save the file as UTF-8".to_owned()),
        }
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ => std::str::from_utf8(bytes)
            .map(Cow::Borrowed)
            .map_err(|e| format!("not UTF-8 ({e}): save the file as UTF-8")),
    }
}

/// What to do about what is not JSON, from what stands at the place.
fn todo(text: &str, error: &serde_json::Error) -> &'static str {
    let line_start = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum::<usize>();
    // The place is the last byte that was read: of a longer character it may be the first.
    let at = line_start + error.column().saturating_sub(1);
    let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let rest = &text[at..];
    match rest.chars().next() {
        Some('/') if rest.starts_with("//") || rest.starts_with("/*") => {
            "comments are no part of JSON, take them out"
        }
        Some('\u{2018}'..='\u{201f}' | '\u{ab}' | '\u{bb}') => {
            "typographic quotes are no part of JSON, replace them by \""
        }
        Some('\'') => "JSON has no quotes but \", replace them",
        Some('$' | '<') => "this looks like a placeholder, put its value there",
        _ => "correct the place named",
    }
}

/// The kind of the document, and its desired properties.
fn found(value: Value) -> Result<(Kind, Map<String, Value>), String> {
    let mut outer = object(value, "the document")?;
    let kind = if outer.contains_key("$schema-template") { Kind::Template } else { Kind::Manifest };
    // Automatic deployments have an id, priority and target condition around.
    if outer.get("content").is_some_and(Value::is_object) {
        outer = object(outer.remove("content").unwrap_or_default(), "content")?;
    }
    for key in ["modulesContent", "moduleContent"] {
        if let Some(modules) = outer.remove(key) {
            return modules_found(object(modules, key)?, key, kind);
        }
    }
    if outer.contains_key("$edgeHub") {
        return modules_found(outer, "the document", kind);
    }
    let is_part = |key: &String| key == "properties.desired" || key.starts_with(LAYER_PREFIX);
    if outer.keys().any(is_part) {
        return part_found(outer, Kind::Part);
    }
    twin_or_bare(outer)
}

fn modules_found(
    mut modules: Map<String, Value>,
    of: &str,
    kind: Kind,
) -> Result<(Kind, Map<String, Value>), String> {
    match modules.remove("$edgeHub") {
        Some(part) => part_found(object(part, "$edgeHub")?, kind),
        None => Err(format!("{of} has no $edgeHub, so there is no route in it: give one that has")),
    }
}

/// `{"properties.desired": ..}`, and what a layer sets in it.
fn part_found(
    mut part: Map<String, Value>,
    kind: Kind,
) -> Result<(Kind, Map<String, Value>), String> {
    let whole = part
        .remove("properties.desired")
        .or_else(|| part.get_mut("properties").and_then(Value::as_object_mut)?.remove("desired"));
    let is_layer = part.keys().any(|key| key.starts_with(LAYER_PREFIX));
    let mut desired = match whole {
        Some(whole) => object(whole, "properties.desired")?,
        None if is_layer => Map::new(),
        None => return Err("$edgeHub has no properties.desired: add them".to_owned()),
    };
    for (key, value) in part {
        if let Some(path) = key.strip_prefix(LAYER_PREFIX) {
            set(&mut desired, path, value);
        }
    }
    Ok((if is_layer { Kind::Layer } else { kind }, desired))
}

/// Sets what a layer's `path` names. All behind `routes.` is one name: no other can have a dot.
fn set(desired: &mut Map<String, Value>, path: &str, value: Value) {
    let steps = if path.starts_with("routes.") { 2 } else { 3 };
    let mut at = desired;
    let mut path = path.splitn(steps, '.').peekable();
    while let Some(name) = path.next() {
        if path.peek().is_none() {
            at.insert(name.to_owned(), value);
            return;
        }
        let next = at.entry(name).or_insert(Value::Null);
        if !next.is_object() {
            *next = Value::Object(Map::new());
        }
        let Value::Object(next) = next else { return };
        at = next;
    }
}

fn twin_or_bare(mut outer: Map<String, Value>) -> Result<(Kind, Map<String, Value>), String> {
    if let Some(Value::String(module)) = outer.get("moduleId")
        && !module.is_empty()
        && module != "$edgeHub"
    {
        return Err(format!("this is the twin of the module {module:?}: give that of $edgeHub"));
    }
    let inner = outer.get_mut("properties").and_then(Value::as_object_mut);
    if let Some(desired) = inner.and_then(|properties| properties.remove("desired")) {
        return Ok((Kind::Twin, object(desired, "properties.desired")?));
    }
    // The twin's properties alone.
    match outer.remove("desired") {
        Some(desired) => Ok((Kind::Twin, object(desired, "desired")?)),
        None => Ok((Kind::Bare, outer)),
    }
}

fn object(value: Value, what: &str) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(object) => Ok(object),
        other => Err(format!("{what} is {}: write an object", kind_of(&other))),
    }
}
