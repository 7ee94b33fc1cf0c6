//! `routes`: what routes say, and what they do with a message. No gateway need run, and nothing is asked of a network.
//!
//! Owns: the choice between its commands, and reading what they are given.
//! Invariants: documents and routes are read by the code that the gateway reads them with.
//! Must not know: a store, the environment.

mod check;
mod eval;
mod explain;
mod sample;

use std::io::{self, BufReader, Write};
use std::path::Path;

use clap::Subcommand;

use super::{CommandError, End};
use crate::desired::DesiredError;
use crate::desired::layers::{self, Layered, LayersError};
use crate::identity::DeviceId;
use crate::route::RefusedRoute;

/// `routes`, and what it does.
#[derive(Debug, Clone, Subcommand)]
pub enum RoutesAction {
    /// Say what each route of a document does, and what is wrong with it.
    Check(check::CheckArgs),
    /// Say where a message goes, and why.
    Explain(explain::ExplainArgs),
    /// Say what a condition alone makes of messages.
    Eval(eval::EvalArgs),
}

/// Runs `routes`.
///
/// # Errors
/// See [`CommandError`].
pub fn routes(action: &RoutesAction, out: &mut dyn Write) -> Result<End, CommandError> {
    let end = match action {
        RoutesAction::Check(args) => check::run(args, out),
        RoutesAction::Explain(args) => explain::run(args, out),
        RoutesAction::Eval(args) => {
            let input = BufReader::with_capacity(eval::READ_BYTES, io::stdin().lock());
            eval::run(args, input, out)
        }
    }?;
    out.flush()?;
    Ok(end)
}

/// What a FILE holds.
enum Given {
    /// A file, or the standard input.
    File(Vec<u8>),
    /// A folder: what its files come to.
    Folder(Result<Layered, DesiredError>),
}

/// Reads FILE, which may be a folder of a base and layers, for the edge device `edge`.
fn given(file: &Path, edge: &DeviceId) -> Result<Given, CommandError> {
    if !file.is_dir() {
        return super::read(file).map(Given::File);
    }
    match layers::read(file, edge) {
        Ok(layered) => Ok(Given::Folder(Ok(layered))),
        Err(LayersError::Bad(error)) => Ok(Given::Folder(Err(error))),
        Err(LayersError::Unreadable(what)) => Err(CommandError::Usage(what)),
    }
}

/// A route that does not compile, with its text and a caret under the place; if the document `is_refused`, no other runs
/// either.
fn rendered(route: &RefusedRoute, is_refused: bool) -> String {
    if !is_refused {
        return route.to_string();
    }
    let RefusedRoute { name, text, error } = route;
    format!("route {name:?} is bad (column {}):\n{}", error.column(text), error.render(text))
}

/// An edge device for routes that are compiled for none in particular.
fn some_edge() -> DeviceId {
    DeviceId::parse("edge").expect("letters are an id")
}
