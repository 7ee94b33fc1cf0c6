//! One pass over the JSON text of a body that keeps what the paths of a table lead to.
//!
//! Invariants: memory is bounded by the text and the paths; the stack by [`super::path::STEPS_MAX`], since what no path
//! leads to is skipped without recursion.
//! Must not know: encodings, messages.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::plan::Node;
use super::{Found, Unreadable};

/// What `text` has at each of `nodes` that is asked for; the others are [`Found::Missing`].
pub(super) fn read<'t>(nodes: &[Node], text: &'t str) -> Result<Vec<Found<'t>>, Unreadable> {
    if text.is_empty() {
        return Err(Unreadable::Empty);
    }
    // A number beyond a double is no reason to refuse the rest, which other routes ask for.
    let read = match pass(nodes, text, Numbers::Quick) {
        Err(error) if is_number_range(&error) => pass(nodes, text, Numbers::Any),
        read => read,
    };
    match read {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(Unreadable::NoObject),
        Err(error) => Err(unreadable(&error)),
    }
}

/// How numbers are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// As they come; one beyond a double's range ends the pass.
    Quick,
    /// Each value as a text of its own first, at a price; beyond a double's range is infinite, as in the reference.
    Any,
}

/// One pass; `None` = the text is JSON but no object.
fn pass<'t>(
    nodes: &[Node],
    text: &'t str,
    numbers: Numbers,
) -> serde_json::Result<Option<Vec<Found<'t>>>> {
    let mut reading = Reading {
        nodes,
        found: vec![Found::Missing; nodes.len()],
        visits: vec![Visit::default(); nodes.len()],
        count: 0,
        again: false,
        numbers,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    let root = Place { reading: &mut reading, node: 0, within: 0 };
    let is_object = root.deserialize(&mut json)?;
    json.end()?;
    Ok(is_object.then(|| reading.finish()))
}

fn is_number_range(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("number out of range")
}

/// All texts of `serde_json` for broken syntax are fixed ones: none quotes the payload.
fn unreadable(error: &serde_json::Error) -> Unreadable {
    let (line, column, text) = (error.line(), error.column(), error.to_string());
    let what = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    Unreadable::Syntax { line, column, what: what.into() }
}

struct Reading<'p, 't> {
    nodes: &'p [Node],
    found: Vec<Found<'t>>,
    visits: Vec<Visit>,
    /// How many values the paths have led to.
    count: usize,
    /// Whether a name was there twice.
    again: bool,
    numbers: Numbers,
}

/// The last time that a value for a node was read: its number, and that of the value that it was in. 0 = not yet.
#[derive(Debug, Clone, Copy, Default)]
struct Visit {
    own: usize,
    within: usize,
}

impl<'t> Reading<'_, 't> {
    /// Forgets what is left of earlier values where a later one of the same name has nothing: such a value is within
    /// another visit of its parent than the last one. Each parent comes before its children.
    fn finish(mut self) -> Vec<Found<'t>> {
        if self.again {
            for (i, node) in self.nodes.iter().enumerate().skip(1) {
                if self.visits[i].within != self.visits[node.parent].own {
                    self.found[i] = Found::Missing;
                    self.visits[i].own = 0;
                }
            }
        }
        self.found
    }
}

/// A value about to be read, and the node that it belongs to. Says whether it was an object.
struct Place<'r, 'p, 't> {
    reading: &'r mut Reading<'p, 't>,
    node: usize,
    /// The visit of the parent.
    within: usize,
}

impl<'t> Place<'_, '_, 't> {
    fn keep<E>(self, found: Found<'t>) -> Result<bool, E> {
        if self.reading.nodes[self.node].asked {
            self.reading.found[self.node] = found;
        }
        Ok(false)
    }
}

impl<'t> DeserializeSeed<'t> for Place<'_, '_, 't> {
    type Value = bool;

    fn deserialize<D: Deserializer<'t>>(self, json: D) -> Result<bool, D::Error> {
        let reading = &mut *self.reading;
        reading.count += 1;
        reading.again |= reading.visits[self.node].own != 0;
        reading.visits[self.node] = Visit { own: reading.count, within: self.within };
        if self.reading.numbers == Numbers::Quick {
            return json.deserialize_any(self);
        }
        let text = <&'t RawValue>::deserialize(json)?.get();
        if text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            return self.keep(Found::Number(text.parse().map_err(D::Error::custom)?));
        }
        let mut json = serde_json::Deserializer::from_str(text);
        json.deserialize_any(self).map_err(D::Error::custom)
    }
}

impl<'t> Visitor<'t> for Place<'_, '_, 't> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        self.keep(Found::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
        self.keep(Found::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<bool, E> {
        self.keep(Found::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<bool, E> {
        self.keep(Found::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<bool, E> {
        self.keep(Found::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<bool, E> {
        self.keep(Found::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_borrowed_str<E>(self, value: &'t str) -> Result<bool, E> {
        self.keep(Found::Text(Cow::Borrowed(value)))
    }

    fn visit_seq<A: SeqAccess<'t>>(self, mut array: A) -> Result<bool, A::Error> {
        let Place { reading, node, .. } = self;
        let within = reading.visits[node].own;
        let (mut next, mut more) = (0, true);
        for &(index, child) in &reading.nodes[node].indexes {
            while more && next < index {
                more = array.next_element::<IgnoredAny>()?.is_some();
                next += 1;
            }
            if more {
                let place = Place { reading: &mut *reading, node: child, within };
                more = array.next_element_seed(place)?.is_some();
                next += 1;
            }
        }
        if more {
            IgnoredAny.visit_seq(array)?;
        }
        Place { reading, node, within }.keep(Found::Composite)
    }

    fn visit_map<A: MapAccess<'t>>(self, mut object: A) -> Result<bool, A::Error> {
        let Place { reading, node, .. } = self;
        let within = reading.visits[node].own;
        let names = &reading.nodes[node];
        if names.has_names() {
            while let Some(child) = object.next_key_seed(Name(names))? {
                if let Some(node) = child {
                    object.next_value_seed(Place { reading: &mut *reading, node, within })?;
                } else {
                    object.next_value::<IgnoredAny>()?;
                }
            }
        } else {
            IgnoredAny.visit_map(object)?;
        }
        Place { reading, node, within }.keep::<A::Error>(Found::Composite)?;
        Ok(true)
    }
}

/// A name about to be read: gives the node below this one that it leads to.
struct Name<'p>(&'p Node);

impl<'t> DeserializeSeed<'t> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'t>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.named(name))
    }
}
