//! Label values that come from outside, within limits.
//!
//! Owns: which ids and output names have a series of their own. First come, first served: a gateway's devices are a
//! stable set, and a series that once existed must go on (a counter that vanishes looks like a restart).
//! Must not know: metrics names.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::family::{Cell, OTHER};
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
    by_identity: HashMap<Identity, Arc<Known>>,
    texts: HashSet<Arc<str>>,
}

/// A client that has a label of its own, with the series that every one of its messages counts in: found by one look-up
/// of the identity, in place of one for each series. They are made when first counted in, and never taken away.
pub(super) struct Known {
    /// `device` or `device/module`.
    pub(super) id: Arc<str>,
    /// What came in without an output name.
    pub(super) received: OnceLock<Received>,
    /// What was sent without an output name, in the priority that was counted first.
    pub(super) sent: OnceLock<Sent>,
}

/// Series of what a client sends to the gateway.
pub(super) struct Received {
    pub(super) count: Arc<Cell>,
    pub(super) size: Arc<Cell>,
}

/// Series of what the gateway sends for a client.
pub(super) struct Sent {
    pub(super) priority: Box<str>,
    pub(super) count: Arc<Cell>,
    pub(super) send: Arc<Cell>,
    pub(super) process: Arc<Cell>,
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
        if let Some(known) = ids.by_identity.get(who) {
            return Label::Own(Arc::clone(&known.id));
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
        if let Label::Own(id) = &label {
            let (received, sent) = (OnceLock::new(), OnceLock::new());
            let known = Known { id: Arc::clone(id), received, sent };
            ids.by_identity.insert(who.clone(), Arc::new(known));
        }
        label
    }

    /// What is kept of a client that has counted before; `None`: it has not, or is beyond the limit.
    pub(super) fn of(&self, who: &Identity) -> Option<Arc<Known>> {
        let ids = self.ids.read().unwrap_or_else(PoisonError::into_inner);
        ids.by_identity.get(who).map(Arc::clone)
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
