//! Everything that the conditions of one table ask of a body, as a tree.
//!
//! Owns: [`BodyPaths`]. Invariant: a node stands after its parent. Must not know: JSON, messages.

use super::path::{BodyPath, Step};
use crate::message::SystemKey;
use crate::route::subject::{SystemName, SystemProperty};

/// The number of a path among those of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::route) struct Slot(pub(super) usize);

/// Every path that the conditions of one table ask for.
#[derive(Debug, Clone)]
pub(in crate::route) struct BodyPaths {
    /// The first one is the body itself.
    nodes: Vec<Node>,
    /// Kept here so that asking a message for it allocates nothing.
    pub(super) content_type: SystemName,
    pub(super) content_encoding: SystemName,
}

/// A place in a body that some path leads to or through.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    pub(super) parent: usize,
    /// Whether a path ends here.
    pub(super) asked: bool,
    /// Those below it in an object, sorted by length, then name: most names of a body differ in length already.
    names: Vec<(Box<str>, usize)>,
    /// Those below it in an array, sorted by index.
    pub(super) indexes: Vec<(usize, usize)>,
}

impl Default for BodyPaths {
    fn default() -> Self {
        let name =
            |text: &str, key| SystemName { text: text.into(), property: SystemProperty::Key(key) };
        Self {
            nodes: vec![Node::default()],
            content_type: name("contentType", SystemKey::ContentType),
            content_encoding: name("contentEncoding", SystemKey::ContentEncoding),
        }
    }
}

impl BodyPaths {
    /// The slot of `path`: the same for the same path.
    pub(in crate::route) fn add(&mut self, path: &BodyPath) -> Slot {
        let end = path.steps().iter().fold(0, |node, step| self.child(node, step));
        self.nodes[end].asked = true;
        Slot(end)
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    fn child(&mut self, parent: usize, step: &Step) -> usize {
        let new = self.nodes.len();
        let node = &mut self.nodes[parent];
        match step {
            Step::Name(name) => match node.place(name) {
                Ok(at) => return node.names[at].1,
                Err(at) => node.names.insert(at, (name.clone(), new)),
            },
            Step::Index(index) => match node.indexes.binary_search_by_key(index, |(i, _)| *i) {
                Ok(at) => return node.indexes[at].1,
                Err(at) => node.indexes.insert(at, (*index, new)),
            },
        }
        self.nodes.push(Node { parent, ..Node::default() });
        new
    }
}

impl Node {
    /// The node below this one that is called `name`.
    pub(super) fn named(&self, name: &str) -> Option<usize> {
        self.place(name).ok().map(|at| self.names[at].1)
    }

    /// Whether anything is asked of the members of an object that is here.
    pub(super) fn has_names(&self) -> bool {
        !self.names.is_empty()
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.names.binary_search_by(|(known, _)| {
            known.len().cmp(&name.len()).then_with(|| (**known).cmp(name))
        })
    }
}
