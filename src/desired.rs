//! The `$edgeHub` module's desired properties: JSON text -> routes, times to live, limits.
//!
//! Owns: the document's schema (`edgehub.md` 3.1), versions 1.0 to 1.3, and what may be wrapped around it ([`Kind`]).
//! Invariants: a bad route is set aside with its reason and the others stay; a document that is wrong as a whole is
//! refused with every problem found, each with what to do. Nothing is fetched or kept here.
//! Must not know: the routing language (`route` compiles the texts), where a document comes from, the upstream.
//!
//! Extensions, which the reference ignores: `liveFirst` of `storeAndForwardConfiguration` and of a route (see
//! [`crate::route`]).
//!
//! On purpose different from the reference: a time to live of 0 (or none inside `storeAndForwardConfiguration`) does not
//! expire every message at once but means [`TTL_DEFAULT_SECS`], with a warning; one bad route does not refuse the rest.

mod document;
mod judged;
pub mod last_good;
pub mod layers;
mod reader;
mod twice;

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

pub use document::{Document, Kind, text};
pub use judged::{Judged, SetAside};

use crate::identity::DeviceId;
use crate::route::{Global, RefusedRoute, RouteSpec, RouteTable};

/// The time to live of Azure's deployment templates, in seconds.
pub const TTL_DEFAULT_SECS: u32 = 7200;

/// The least size of a store, in bytes: one segment. Below it nothing useful can be kept.
pub const STORE_BYTES_MIN: u64 = 4 << 20;

/// The route that serves when there is no document.
pub const DEFAULT_ROUTE: &str = "FROM /messages/* INTO $upstream";

/// Longest document, in bytes. IoT Hub allows 32 KB of desired properties; a file may hold a whole twin around them.
pub const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// Most lines of one kind that are told of a document in a log: a document can have thousands of bad routes, and may
/// change again and again.
pub const LINES_MAX: usize = 20;

/// Most routes that are told in one record, beside why the document is refused.
const SET_ASIDE_MAX: usize = 10;

/// Longest such line, in characters: two parts that somebody else wrote, and what is said of them.
const LINE_CHARS_MAX: usize = 1000;

/// What the document asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// `schemaVersion`, as written; only a layer has none.
    pub schema_version: Option<String>,
    /// `$version` of the twin, when it is there.
    pub version: Option<u64>,
    /// Whether this is a layer: what is missing is in the deployment below it.
    pub is_layer: bool,
    /// Routes by name. Their texts are not compiled yet.
    pub routes: Vec<RouteSpec>,
    /// Entries of `routes` that are not even a route, set aside.
    pub refused: Vec<RefusedRoute>,
    /// Seconds that a message waits when its route says nothing; 0 = for ever. `None` = this is a layer, and the deployment
    /// below it says.
    pub ttl_secs: Option<u32>,
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
    /// What else is to be said of it: [`Desired::warnings`].
    pub warnings: Vec<String>,
}

impl DesiredError {
    /// For these problems; nothing else is known of the document.
    pub fn new(problems: Vec<String>) -> Self {
        Self { problems, warnings: Vec::new() }
    }

    fn one(problem: impl Into<String>) -> Self {
        Self::new(vec![problem.into()])
    }
}

impl fmt::Display for DesiredError {
    /// One line, of a length that a log can take.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined =
            |lines: &[String]| listed(lines.iter().map(String::as_str), LINES_MAX).join("; ");
        write!(f, "the $edgeHub desired properties are refused: {}", joined(&self.problems))?;
        if !self.warnings.is_empty() {
            write!(f, ". Also: {}", joined(&self.warnings))?;
        }
        Ok(())
    }
}

/// The first `most` of `lines`, each one line and not too long, and how many more there are.
pub fn listed<'l>(lines: impl Iterator<Item = &'l str>, most: usize) -> Vec<String> {
    let mut lines = lines.map(|text| line(text, LINE_CHARS_MAX));
    let mut all: Vec<String> = lines.by_ref().take(most).collect();
    let more = lines.count();
    if more > 0 {
        all.push(format!("and {more} more: `sphere-gateway routes check FILE` tells all"));
    }
    all
}

/// The beginning of `text`, in one line.
fn line(text: &str, chars_max: usize) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut line: String = chars.by_ref().take(chars_max).collect();
    if chars.next().is_some() {
        line.push('…');
    }
    line
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
            schema_version: None,
            version: None,
            is_layer: false,
            routes: vec![route],
            refused: Vec::new(),
            ttl_secs: Some(ttl_secs),
            store_bytes_max: None,
            live_first: None,
            warnings: Vec::new(),
        }
    }

    /// Reads a document's text; see [`Self::of`].
    ///
    /// # Errors
    /// The document is refused.
    pub fn parse(text: &str) -> Result<Self, DesiredError> {
        Self::of(&Document::parse(text)?)
    }

    /// Reads a document that a gateway can run: any [`Kind`] but a layer, which is only a part of one.
    ///
    /// # Errors
    /// The document is refused.
    pub fn of(document: &Document) -> Result<Self, DesiredError> {
        if document.kind() == Kind::Layer {
            return Err(DesiredError::one(
                "this is a layered deployment, only a part of what a gateway needs: give the whole, for instance what \
                 `az iot hub module-twin show --module-id '$edgeHub'` prints for a device that has it",
            ));
        }
        document.desired()
    }

    /// What a gateway makes of it on the edge device `edge`; `live_first` counts where neither the document nor a route
    /// says.
    pub fn judge(&self, edge: &DeviceId, live_first: bool) -> Judged {
        Judged::new(self, edge, live_first)
    }

    /// Compiles the routes. The list holds every route that does not, whether its entry or its text is at fault.
    fn compile(&self, edge: &DeviceId, live_first: bool) -> (RouteTable, Vec<RefusedRoute>) {
        let live_first = self.live_first.unwrap_or(live_first);
        let ttl_secs = self.ttl_secs.unwrap_or(TTL_DEFAULT_SECS);
        let (table, refused) =
            RouteTable::compile(edge, &self.routes, Global { ttl_secs, live_first });
        (table, self.refused.iter().cloned().chain(refused).collect())
    }
}

/// The bytes of a file, no more than are needed to see that it is too long.
///
/// # Errors
/// What the system says.
pub fn read_file(file: &Path) -> io::Result<Vec<u8>> {
    read(std::fs::OpenOptions::new().read(true).open(file)?)
}

/// The bytes of a stream, no more than are needed to see that it is too long.
///
/// # Errors
/// What the system says.
pub fn read(stream: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(DOCUMENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
