//! What a gateway makes of a document: which routes run, which are set aside and why, whether all of it is refused.
//!
//! Owns: [`Judged`], the judgement of the gateway and of the commands that say what a gateway would do; the words for
//! what is set aside.
//! Invariant: a document that has routes of which none can run is refused: in its place everything would be acknowledged
//! and dropped. One without routes says so on purpose. A layer is only a part, so it is never refused for that.
//! Must not know: where documents come from, who runs the table.

use super::{Desired, SET_ASIDE_MAX, listed};
use crate::identity::DeviceId;
use crate::route::{RefusedRoute, RouteTable};

/// What a document comes to.
#[derive(Debug, Clone)]
pub struct Judged {
    /// Every route that compiles, by priority: those that run.
    pub compiled: RouteTable,
    /// Every route that does not, whether its entry or its text is at fault.
    pub refused: Vec<RefusedRoute>,
    is_layer: bool,
}

/// A route that does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Its name.
    pub name: String,
    /// One line: which, where, what is wrong, what to do.
    pub why: String,
}

impl Judged {
    pub(super) fn new(desired: &Desired, edge: &DeviceId, live_first: bool) -> Self {
        let (compiled, refused) = desired.compile(edge, live_first);
        Self { compiled, refused, is_layer: desired.is_layer }
    }

    /// How many routes run.
    pub fn running(&self) -> usize {
        self.compiled.len()
    }

    /// Why the document is refused though it can be read, with what to do: none of its routes can run.
    pub fn none_runs(&self) -> Option<String> {
        let all = self.compiled.len() + self.refused.len();
        let its = match all {
            1 => "its only route cannot run".to_owned(),
            _ => format!("none of its {all} routes can run"),
        };
        (!self.is_layer && all > 0 && self.running() == 0).then(|| {
            format!("{its}: correct one, or write routes: {{}} to drop every message on purpose")
        })
    }

    /// The same with the reasons of the first routes, a line each.
    pub fn problems(&self) -> Option<Vec<String>> {
        let first = self.none_runs()?;
        let set_aside: Vec<SetAside> = self.set_aside().collect();
        let why = listed(set_aside.iter().map(|route| route.why.as_str()), SET_ASIDE_MAX);
        Some(std::iter::once(first).chain(why).collect())
    }

    /// The routes that do not run.
    pub fn set_aside(&self) -> impl Iterator<Item = SetAside> {
        let refused = self.refused.iter();
        refused.map(|r| SetAside { name: r.name.clone(), why: r.one_line() })
    }

    /// The table of those that run.
    pub fn into_running(self) -> RouteTable {
        self.compiled
    }
}
