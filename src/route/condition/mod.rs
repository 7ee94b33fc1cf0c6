//! A condition, typed and ready to run (`edgehub.md` 4.4).
//!
//! Owns: static types (a mismatch is a compile error), evaluation, and saying why a condition came to what it did.
//! Invariants: evaluating cannot fail; what has no value is undefined; evaluating properties allocates nothing; what
//! [`Condition::explain`] says of the whole is what [`Condition::evaluate`] gives.
//! Must not know: routes, endpoints.

mod evaluate;
mod explain;
mod hints;
#[cfg(test)]
mod tests;
mod types;
mod warnings;

use super::body::{Body, BodyPaths, Found, Slot, Unreadable};
use super::error::{CompileError, Span};
use super::functions::Function;
use super::subject::{Subject, SystemName};
use super::syntax::{Ast, Operator};
use super::value::{Tri, Type, Value};
use crate::identity::DeviceId;

/// A compiled condition.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    root: Expr,
}

/// A part of a condition, typed.
#[derive(Debug, Clone)]
struct Expr {
    span: Span,
    kind: Type,
    node: Node,
}

#[derive(Debug, Clone)]
enum Node {
    Literal(Value<'static>),
    /// An application property.
    Property(Box<str>),
    /// A system property. An application property that is called `hides` comes before it.
    System {
        hides: Option<Box<str>>,
        name: SystemName,
    },
    /// `$name[1]`: nothing can be called so.
    Nothing {
        /// What was meant, if that is plain.
        instead: Option<Box<str>>,
    },
    /// What the body has at a path. An application property that is called `hides` comes before it.
    Body {
        hides: Option<Box<str>>,
        slot: Slot,
        path: Box<str>,
    },
    /// Whether a notification tells of anything at a path.
    TwinChange(Box<TwinChange>),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    Call(&'static Function, Vec<Expr>),
}

/// A path of a twin, and where a notification may have it.
#[derive(Debug, Clone)]
struct TwinChange {
    /// The path as written: in a body that shows the twin from its root.
    whole: Slot,
    /// What is behind `properties.reported.`: in a body that is the patch as it was reported, as our own are.
    in_patch: Option<Slot>,
    path: Box<str>,
}

impl TwinChange {
    fn is_told<'f>(&self, facts: &'f Facts<'_>) -> Result<bool, &'f Unreadable> {
        let there = |slot: Slot| Ok(*facts.body.get(slot)? != Found::Missing);
        Ok(there(self.whole)? || self.in_patch.map_or(Ok(false), there)?)
    }
}

/// What a condition is compiled for.
pub(super) struct Context<'c> {
    /// This edge device.
    pub(super) edge: &'c DeviceId,
    /// Whether the route's source is exactly the twin change notifications.
    pub(super) twin_changes: bool,
}

/// One message, as the conditions of one table see it.
pub(super) struct Facts<'m> {
    pub(super) subject: &'m dyn Subject,
    pub(super) body: Body<'m>,
}

/// A condition or a part of it, with what it came to for one message.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// Its place in the text.
    pub span: Span,
    /// What it came to. Once the parts have long texts of a megabyte in all, the others are kept in short, with `…` at
    /// the end: never the whole condition, which comes first.
    pub value: Value<'static>,
    /// Why, where the value alone does not tell: what has no value, and the reason.
    pub note: Option<String>,
    /// What it was made of.
    pub parts: Vec<Explained>,
}

impl Condition {
    pub(super) fn compile(
        ast: &Ast,
        context: &Context<'_>,
        paths: &mut BodyPaths,
    ) -> Result<Self, CompileError> {
        Ok(Self { root: types::Compiler::new(context, paths).expr(ast)? })
    }

    /// The value for one message. Only [`Tri::True`] selects.
    pub(super) fn evaluate(&self, facts: &Facts<'_>) -> Tri {
        match self.root.kind {
            Type::Bool | Type::Body => self.root.truth(facts),
            Type::Null => Tri::False,
            Type::Number | Type::Text | Type::Undefined => Tri::Undefined,
        }
    }

    /// The same, part by part. The root's value is what the condition came to before it was taken as a truth value.
    pub(super) fn explain(&self, facts: &Facts<'_>) -> Explained {
        self.root.explain(facts)
    }

    /// What is legal but cannot be meant: a place and what to do, each.
    pub(super) fn warnings(&self) -> Vec<CompileError> {
        warnings::of(&self.root)
    }

    /// Whether no message makes it true, as far as its text tells. A warning says why.
    pub(super) fn is_never_true(&self) -> bool {
        warnings::never_true(&self.root).is_some()
    }
}

impl Expr {
    /// What it is made of, in the order of the text.
    fn parts(&self) -> Vec<&Self> {
        match &self.node {
            Node::Literal(_)
            | Node::Property(_)
            | Node::System { .. }
            | Node::Nothing { .. }
            | Node::Body { .. }
            | Node::TwinChange(_) => Vec::new(),
            Node::Not(part) | Node::Negate(part) => vec![part],
            Node::And(parts) | Node::Or(parts) | Node::Call(_, parts) => parts.iter().collect(),
            Node::Binary(_, left, right) => vec![left, right],
        }
    }
}
