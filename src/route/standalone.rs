//! A condition alone, as `routes eval` takes it: no route around it.
//!
//! Must not know: tables, endpoints.

use super::body::BodyPaths;
use super::condition::{Condition, Context, Explained, Facts};
use super::error::CompileError;
use super::parse;
use super::source::Source;
use super::subject::Subject;
use super::value::Tri;
use crate::identity::DeviceId;

/// A compiled condition and what it asks of a body.
#[derive(Debug, Clone)]
pub struct StandaloneCondition {
    condition: Condition,
    paths: BodyPaths,
}

impl StandaloneCondition {
    /// Compiles `text` as the condition of a route from `source` (`/messages/*`). The places of an error are in `text`, but
    /// for an error of the source, which is said in words.
    ///
    /// # Errors
    /// What a route with this condition would be refused for.
    pub fn compile(text: &str, source: &str, edge: &DeviceId) -> Result<Self, CompileError> {
        let source = Source::new(&parse::source(source)?);
        let mut paths = BodyPaths::default();
        let context = Context { edge, twin_changes: source.is_twin_changes() };
        let condition = Condition::compile(&parse::condition(text)?, &context, &mut paths)?;
        Ok(Self { condition, paths })
    }

    /// The value for `message`.
    pub fn evaluate(&self, message: &dyn Subject) -> Tri {
        self.condition.evaluate(&self.facts(message))
    }

    /// The same, part by part.
    pub fn explain(&self, message: &dyn Subject) -> Explained {
        self.condition.explain(&self.facts(message))
    }

    fn facts<'a>(&'a self, message: &'a dyn Subject) -> Facts<'a> {
        Facts { subject: message, body: self.paths.of(message) }
    }
}
