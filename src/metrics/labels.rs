//! Label values that come from outside, within limits.
//!
//! Owns: which ids and output names have a series of their own. First come, first served: a gateway's devices are a
//! stable set, and a series that once existed must go on (a counter that vanishes looks like a restart).
//! Must not know: metrics names.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use super::family::OTHER;
use crate::identity::Identity;

/// Most device and module ids with series of their own.
pub const IDS_MAX: usize = 2000;

/// Most ids of refused clients, that are not known otherwise, with series of their own.
pub const STRANGERS_MAX: usize = 200;

/// Most module output names with series of their own.
pub const OUTPUTS_MAX: usize = 200;

#[derive(Default)]
pub(super) struct Labels {
    ids: RwLock<Ids>,
    strangers: RwLock<HashSet<Arc<str>>>,
    outputs: RwLock<HashSet<Arc<str>>>,
}

#[derive(Default)]
struct Ids {
    /// So that a module's `device/module` is put together once.
    by_identity: HashMap<Identity, Arc<str>>,
    texts: HashSet<Arc<str>>,
}

/// A label value: shared text, or `other`.
pub(super) enum Label {
    Own(Arc<str>),
    Other,
}

impl std::ops::Deref for Label {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Own(text) => text,
            Self::Other => OTHER,
        }
    }
}

impl Labels {
    /// The `id` of an authenticated client: `device` or `device/module`.
    pub(super) fn id(&self, who: &Identity) -> Label {
        let ids = self.ids.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(label) = ids.by_identity.get(who) {
            return Label::Own(Arc::clone(label));
        }
        if ids.texts.len() >= IDS_MAX {
            // A text that has its label already keeps it; a full table is a rare state, so it may cost an allocation.
            return ids
                .texts
                .get(who.to_string().as_str())
                .cloned()
                .map_or(Label::Other, Label::Own);
        }
        drop(ids);
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        let label = claim(&mut ids.texts, &who.to_string(), IDS_MAX);
        if let Label::Own(text) = &label {
            ids.by_identity.insert(who.clone(), Arc::clone(text));
        }
        label
    }

    /// An id that the program itself vouches for.
    pub(super) fn text(&self, id: &str) -> Label {
        if let Some(known) = self.known(id) {
            return known;
        }
        claim(&mut self.ids.write().unwrap_or_else(PoisonError::into_inner).texts, id, IDS_MAX)
    }

    /// An id that nobody has proved.
    pub(super) fn stranger(&self, id: &str) -> Label {
        if let Some(known) = self.known(id) {
            return known;
        }
        claim_shared(&self.strangers, id, STRANGERS_MAX)
    }

    /// A module's output; empty for none.
    pub(super) fn output<'o>(&self, output: Option<&'o str>) -> &'o str {
        let Some(output) = output else { return "" };
        match claim_shared(&self.outputs, output, OUTPUTS_MAX) {
            Label::Own(_) => output,
            Label::Other => OTHER,
        }
    }

    fn known(&self, id: &str) -> Option<Label> {
        let ids = self.ids.read().unwrap_or_else(PoisonError::into_inner);
        ids.texts.get(id).cloned().map(Label::Own)
    }
}

fn claim_shared(set: &RwLock<HashSet<Arc<str>>>, text: &str, max: usize) -> Label {
    let shared = set.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = shared.get(text) {
        return Label::Own(Arc::clone(known));
    }
    if shared.len() >= max {
        return Label::Other;
    }
    drop(shared);
    claim(&mut set.write().unwrap_or_else(PoisonError::into_inner), text, max)
}

/// The label of `text` in `set`, which takes it in while it has fewer than `max`.
fn claim(set: &mut HashSet<Arc<str>>, text: &str, max: usize) -> Label {
    if let Some(known) = set.get(text) {
        return Label::Own(Arc::clone(known));
    }
    if set.len() >= max {
        return Label::Other;
    }
    let shared: Arc<str> = text.into();
    set.insert(Arc::clone(&shared));
    Label::Own(shared)
}
