//! Label values that come from outside, within limits.
//!
//! Owns: which ids and output names have a series of their own. First come, first served: a gateway's devices are a
//! stable set, and a series that once existed goes on (a counter that vanishes looks like a restart) until all places are
//! taken: then those of ids that are gone are freed ([`Labels::free`]). Strangers' places are never freed: nobody can say
//! that a stranger is gone, and an attack would only be given more names.
//! Must not know: metrics names.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::family::{Cell, OTHER};
use crate::identity::Identity;

/// Most device and module ids with series of their own, if nothing else is set. Measured with names of 128 characters, as an
/// Azure Sphere device's: a busy id has about 30 lines in 12 families, keeps 11 KB, and takes 8 KB of a scrape. 1,000 ids
/// are 11 MB, and 8 MB more while a scrape is made and sent: a fifth of the memory of the smallest container that we
/// promise to run in.
pub const IDS_MAX: usize = 1000;

/// Most ids of refused clients, that are not known otherwise, with series of their own.
pub const STRANGERS_MAX: usize = 200;

/// Most module output names with series of their own.
pub const OUTPUTS_MAX: usize = 200;

pub(super) struct Labels {
    ids_max: usize,
    folded: Folded,
    ids: RwLock<Ids>,
    strangers: RwLock<HashSet<Arc<str>>>,
    outputs: RwLock<HashSet<Arc<str>>>,
}

/// Counters of what found no place.
pub(super) struct Folded {
    pub(super) id: Arc<Cell>,
    pub(super) stranger: Arc<Cell>,
    pub(super) output: Arc<Cell>,
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
    pub(super) fn new(ids_max: usize, folded: Folded) -> Self {
        let (ids, strangers, outputs) = Default::default();
        Self { ids_max, folded, ids, strangers, outputs }
    }

    /// The `id` of an authenticated client: `device` or `device/module`.
    pub(super) fn id(&self, who: &Identity) -> Label {
        let ids = self.ids.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = ids.by_identity.get(who) {
            return Label::Own(Arc::clone(&known.id));
        }
        if ids.texts.len() >= self.ids_max {
            // A text that has its label already keeps it; a full table is a rare state, so it may cost an allocation.
            let known = ids.texts.get(who.to_string().as_str()).cloned();
            return counted(known.map_or(Label::Other, Label::Own), &self.folded.id);
        }
        drop(ids);
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        let label = claim(&mut ids.texts, &who.to_string(), self.ids_max);
        if let Label::Own(id) = &label {
            let (received, sent) = (OnceLock::new(), OnceLock::new());
            let known = Known { id: Arc::clone(id), received, sent };
            ids.by_identity.insert(who.clone(), Arc::new(known));
        }
        counted(label, &self.folded.id)
    }

    /// Takes the places of clients that `stays` denies, if all are taken. Gives their ids.
    pub(super) fn free(&self, stays: impl Fn(&Identity) -> bool) -> HashSet<Arc<str>> {
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        let mut gone = HashSet::new();
        if ids.texts.len() < self.ids_max {
            return gone;
        }
        ids.by_identity.retain(|who, known| {
            let is_here = stays(who);
            if !is_here {
                gone.insert(Arc::clone(&known.id));
            }
            is_here
        });
        // Two spellings of a name have one text.
        ids.by_identity.values().for_each(|known| {
            gone.remove(&known.id);
        });
        ids.texts.retain(|id| !gone.contains(id));
        gone
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
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        counted(claim(&mut ids.texts, id, self.ids_max), &self.folded.id)
    }

    /// An id that nobody has proved.
    pub(super) fn stranger(&self, id: &str) -> Label {
        if let Some(known) = self.known(id) {
            return known;
        }
        counted(claim_shared(&self.strangers, id, STRANGERS_MAX), &self.folded.stranger)
    }

    /// A module's output; empty for none.
    pub(super) fn output<'o>(&self, output: Option<&'o str>) -> &'o str {
        let Some(output) = output else { return "" };
        match counted(claim_shared(&self.outputs, output, OUTPUTS_MAX), &self.folded.output) {
            Label::Own(_) => output,
            Label::Other => OTHER,
        }
    }

    fn known(&self, id: &str) -> Option<Label> {
        let ids = self.ids.read().unwrap_or_else(PoisonError::into_inner);
        ids.texts.get(id).cloned().map(Label::Own)
    }
}

/// `label`, counted if it is `other`.
fn counted(label: Label, folded: &Cell) -> Label {
    if matches!(label, Label::Other) {
        folded.add(1);
    }
    label
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
