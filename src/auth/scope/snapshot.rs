//! One complete scope as lookups see it: by name, by Sphere id, and the way up to our edge device.
//!
//! Owns: lookups and auth chains. Invariant: it never changes; a newer one takes its place. Must not know: the disk.

use std::collections::HashMap;
use std::sync::Arc;

use super::{CHAIN_DEVICES_MAX, Replaced, SCOPE_SCHEME, ScopeEntry, Status, is_sphere_id};
use crate::identity::{ClientName, DeviceId};

/// One complete scope. Immutable.
pub(super) struct Snapshot {
    pub(super) by_name: HashMap<ClientName, Arc<ScopeEntry>>,
    /// Sphere devices by lower-case id; `None` where two spellings are registered, so that neither is guessed.
    by_sphere_id: HashMap<String, Option<ClientName>>,
}

impl Snapshot {
    pub(super) fn new(entries: Vec<ScopeEntry>) -> Self {
        Self::of(entries.into_iter().map(Arc::new).collect())
    }

    /// Of two entries with one name the later counts.
    pub(super) fn of(entries: Vec<Arc<ScopeEntry>>) -> Self {
        let by_name: HashMap<_, _> = entries.into_iter().map(|e| (e.name.clone(), e)).collect();
        let mut by_sphere_id: HashMap<String, Option<ClientName>> = HashMap::new();
        for name in by_name.keys() {
            if name.module().is_none() && is_sphere_id(name.device().as_str()) {
                by_sphere_id
                    .entry(name.device().as_str().to_ascii_lowercase())
                    .and_modify(|several| *several = None)
                    .or_insert_with(|| Some(name.clone()));
            }
        }
        Self { by_name, by_sphere_id }
    }

    pub(super) fn get(&self, name: &ClientName) -> Option<&Arc<ScopeEntry>> {
        self.by_name.get(name).or_else(|| {
            if name.module().is_some() || !is_sphere_id(name.device().as_str()) {
                return None;
            }
            let folded = name.device().as_str().to_ascii_lowercase();
            self.by_name.get(self.by_sphere_id.get(&folded)?.as_ref()?)
        })
    }

    /// What `self` has other than `old`.
    pub(super) fn differences(&self, old: Option<&Self>) -> Replaced {
        let none = HashMap::new();
        let before = old.map_or(&none, |s| &s.by_name);
        let mut replaced = Replaced {
            added: Vec::new(),
            removed: before.keys().filter(|n| !self.by_name.contains_key(n)).cloned().collect(),
            changed: Vec::new(),
            stored: Ok(()),
        };
        for (name, entry) in &self.by_name {
            match before.get(name) {
                None => replaced.added.push(name.clone()),
                Some(known) if known != entry => replaced.changed.push(name.clone()),
                Some(_) => {}
            }
        }
        replaced.added.sort();
        replaced.removed.sort();
        replaced.changed.sort();
        replaced
    }

    /// The entries with the hub's answer about `asked` in their place. A device that is gone, or was made anew under its old
    /// id, takes its modules with it.
    pub(super) fn with_answer(
        &self,
        asked: &ClientName,
        answer: Vec<ScopeEntry>,
    ) -> Vec<Arc<ScopeEntry>> {
        let asked = self.get(asked).map_or(asked, |entry| &entry.name);
        let answered = |name: &ClientName| answer.iter().find(|entry| &entry.name == name);
        let is_kept = |entry: &ScopeEntry| {
            let device = ClientName::Device(entry.name.device().clone());
            let of_another_life = self.by_name.get(&device).is_some_and(|known| {
                answered(&device).is_some_and(|new| new.generation != known.generation)
            });
            let device_is_gone = asked == &device && answered(&device).is_none();
            &entry.name != asked && !of_another_life && !device_is_gone
        };
        let kept = self.by_name.values().filter(|entry| is_kept(entry)).cloned();
        let mut entries: Vec<_> = kept.collect();
        entries.extend(answer.into_iter().map(Arc::new));
        entries
    }

    pub(super) fn auth_chain(&self, edge: &DeviceId, name: &ClientName) -> Option<String> {
        let mut chain = Vec::new();
        if name.module().is_some() {
            let module = self.get(name).filter(|e| e.status == Status::Enabled)?;
            chain.push(module.name.to_string());
        }
        let mut device = name.device().clone();
        for _ in 0..CHAIN_DEVICES_MAX {
            if &device == edge {
                chain.push(device.to_string());
                return Some(chain.join(";"));
            }
            let entry = self.get(&ClientName::Device(device))?;
            if entry.status != Status::Enabled {
                return None;
            }
            chain.push(entry.name.to_string());
            device = self.parent(edge, entry)?;
        }
        None
    }

    /// The edge device above `entry`.
    fn parent(&self, edge: &DeviceId, entry: &ScopeEntry) -> Option<DeviceId> {
        // An edge device's `scope` is its own; a leaf's is its parent's, and some answers carry only that.
        let own = (!entry.is_edge && !entry.scope.is_empty()).then_some(&entry.scope);
        let above = entry.parent_scopes.first().or(own)?;
        let id = DeviceId::parse(edge_of_scope(above)?).ok()?;
        match self.by_name.get(&ClientName::Device(id.clone())) {
            // The generation is part of the scope: an edge device that was deleted and created again is another one.
            Some(parent) => (parent.is_edge && &parent.scope == above).then_some(id),
            // Our own entry is not part of every answer; a foreign parent that is not there is no way to us.
            None => (&id == edge).then_some(id),
        }
    }
}

/// The edge device's id out of `ms-azure-iot-edge://{id}-{generation}`.
fn edge_of_scope(scope: &str) -> Option<&str> {
    let (id, generation) = scope.strip_prefix(SCOPE_SCHEME)?.rsplit_once('-')?;
    let digits = !generation.is_empty() && generation.bytes().all(|b| b.is_ascii_digit());
    (digits && !id.is_empty()).then_some(id)
}
