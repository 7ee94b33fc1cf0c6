//! `$body` queries: paths, and reading what all routes of a table ask of a body in one pass (`edgehub.md` 4.5).
//!
//! Owns: [`BodyPath`] (its syntax), [`BodyPaths`] (what a table asks for), [`Body`] (what one message answers).
//! Invariants: a body is read at most once per message, and only when some route asks; what no route asks for is
//! checked for its syntax and not kept; a reason why a body cannot be read never holds any of the payload.
//! Must not know: expressions, routes.
//!
//! A body is read if its content type is `application/json` (parameters are let pass), its content encoding `utf-8`,
//! `utf-16` or `utf-32` (little endian), and it is one JSON object. Duplicate names are legal JSON: the last one counts,
//! as a whole, so nothing that an earlier one had is found below it.
//!
//! What one route asks for disturbs no other: a number beyond a double's range is infinite, and a `\u` escape that is half of
//! a surrogate pair is U+FFFD. Both cost a second pass.

mod decode;
pub(super) mod fuzz;
mod path;
mod plan;
mod read;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cell::OnceCell;

pub(super) use path::BodyPath;
pub(super) use plan::{BodyPaths, Slot};

use super::subject::Subject;

/// What a body has at a path. Text without escapes in a UTF-8 body is not copied.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found<'m> {
    /// Nothing: some name or index on the way is not there.
    Missing,
    Null,
    Bool(bool),
    /// Finite.
    Number(f64),
    Text(Cow<'m, str>),
    /// An object or an array.
    Composite,
}

impl Found<'_> {
    fn into_owned(self) -> Found<'static> {
        match self {
            Self::Missing => Found::Missing,
            Self::Null => Found::Null,
            Self::Bool(b) => Found::Bool(b),
            Self::Number(n) => Found::Number(n),
            Self::Text(text) => Found::Text(text.into_owned().into()),
            Self::Composite => Found::Composite,
        }
    }
}

/// Why nothing can be asked of a body, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// No content type, or a blank one.
    #[error("the message has no content type: set it to application/json")]
    NoContentType,
    /// Another content type; at most 80 characters of it.
    #[error("the content type is {0}: only application/json is read")]
    ContentType(Box<str>),
    /// No content encoding, or a blank one.
    #[error("the message has no content encoding: set it to utf-8")]
    NoContentEncoding,
    /// Another content encoding; at most 80 characters of it.
    #[error("the content encoding is {0}: only utf-8, utf-16 and utf-32 (little endian) are read")]
    ContentEncoding(Box<str>),
    /// No bytes, or nothing but a byte order mark.
    #[error("the body is empty: it must be a JSON object")]
    Empty,
    /// Not JSON.
    #[error("the body is no JSON at line {line} column {column}: {what}")]
    Syntax {
        /// From 1.
        line: usize,
        /// In bytes of the body as UTF-8; the first byte of a line is column 1.
        column: usize,
        /// The rule that is broken.
        what: Box<str>,
    },
    /// JSON, but an array or a single value.
    #[error("the body is JSON but no object: put the values into {{ }}, each with a name")]
    NoObject,
}

/// The body of one message, read when it is first asked for.
pub(super) struct Body<'m> {
    paths: &'m BodyPaths,
    subject: &'m dyn Subject,
    read: OnceCell<Result<Vec<Found<'m>>, Unreadable>>,
}

impl BodyPaths {
    /// The body of `subject`, unread.
    pub(super) fn of<'m>(&'m self, subject: &'m dyn Subject) -> Body<'m> {
        Body { paths: self, subject, read: OnceCell::new() }
    }
}

impl<'m> Body<'m> {
    /// What is at the path of `slot`, which is one of the table that this body was made for.
    pub(super) fn get(&self, slot: Slot) -> Result<&Found<'m>, &Unreadable> {
        let found = self.read.get_or_init(|| self.read()).as_ref()?;
        Ok(&found[slot.0])
    }

    fn read(&self) -> Result<Vec<Found<'m>>, Unreadable> {
        let BodyPaths { content_type, content_encoding, .. } = self.paths;
        decode::content_type(self.subject.system(content_type))?;
        let encoding = decode::content_encoding(self.subject.system(content_encoding))?;
        let nodes = self.paths.nodes();
        match encoding.text(self.subject.body()) {
            Cow::Borrowed(text) => {
                read::read(nodes, text).or_else(|error| read_mended(nodes, text, error))
            }
            // The text goes with this function, so what was found in it is copied.
            Cow::Owned(text) => read::read(nodes, &text)
                .map(owned)
                .or_else(|error| read_mended(nodes, &text, error)),
        }
    }
}

/// Halves of surrogate pairs are no reason to refuse a body: the reference takes them as U+FFFD.
fn read_mended(
    nodes: &[plan::Node],
    text: &str,
    error: Unreadable,
) -> Result<Vec<Found<'static>>, Unreadable> {
    let mended = decode::whole_pairs(text).ok_or(error)?;
    read::read(nodes, &mended).map(owned)
}

fn owned(found: Vec<Found<'_>>) -> Vec<Found<'static>> {
    found.into_iter().map(Found::into_owned).collect()
}

/// The first 80 characters of `text`, which a stranger wrote, on one line.
fn short(text: &str) -> Box<str> {
    const CHARS_MAX: usize = 80;
    let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut short: String = text.chars().take(CHARS_MAX).map(printable).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        short.push('…');
    }
    short.into()
}
