//! What another bundle changes, and whether it is worse than the one in force.
//!
//! Owns: the comparison. Must not know: sessions, files' dates.
//!
//! A bundle is worse, and is not put in force, when it shows a defect that the old one did not have: a file gave CAs (or
//! revocation lists) and gives none any more, has damage that was not there before, or has damage and gives less. A file that is
//! gone was taken out on purpose: a file that is being replaced is there, if perhaps for an instant not readable, and one that a
//! tool deletes before it writes the next is not quiet (`gateway::bundle_watch`). Damage in a file that was not there before
//! costs nobody anything and is only told, unless CAs go at the same time: then it may be what was to follow them.

use std::collections::HashSet;
use std::path::PathBuf;

use super::{Entry, TrustBundle};

/// What a file gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileFacts {
    pub(super) path: PathBuf,
    /// Certificates and lists that serve, those that are also in another file included.
    pub(super) given: usize,
    /// In words, what could not be read.
    pub(super) damage: Vec<String>,
}

/// From one bundle to the next.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct BundleChange {
    /// CAs that admit from now on.
    pub added: Vec<Entry>,
    /// CAs that no longer do.
    pub removed: Vec<Entry>,
    /// Whether there is a revocation list that was not there.
    pub has_new_lists: bool,
    /// Whether nothing at all is different, not even what is refused.
    pub is_nothing: bool,
}

impl TrustBundle {
    /// What this one changes of `old`.
    pub fn change_from(&self, old: &Self) -> BundleChange {
        let missing = |of: &Self, from: &Self| -> Vec<Entry> {
            let known: HashSet<&str> = from.entries.iter().map(|e| &*e.info.sha256).collect();
            of.entries.iter().filter(|e| !known.contains(&*e.info.sha256)).cloned().collect()
        };
        BundleChange {
            added: missing(self, old),
            removed: missing(old, self),
            has_new_lists: self.lists.keys().any(|list| !old.lists.contains_key(list)),
            is_nothing: self.entries == old.entries
                && self.refused == old.refused
                && self.lists == old.lists
                && self.files == old.files,
        }
    }

    /// In words why this one must not follow `old`; `None` if it may.
    pub fn why_worse_than(&self, old: &Self) -> Option<String> {
        let loses = old.entries.iter().any(|e| !self.has_anchor(&e.info.sha256));
        for file in &self.files {
            let before = old.files.iter().find(|f| f.path == file.path);
            let path = file.path.display();
            let damaged_before = before.map_or(0, |before| before.damage.len());
            let is_damaged_anew = file.damage.len() > damaged_before && (before.is_some() || loses);
            let gives_less = before.is_some_and(|before| file.given < before.given);
            if is_damaged_anew || (gives_less && !file.damage.is_empty()) {
                let what = file.damage.last().map_or("", String::as_str);
                return Some(format!("{path} is damaged ({what}): write it whole"));
            }
            if file.given == 0 && before.is_some_and(|before| before.given > 0) {
                return Some(format!(
                    "{path} gives nothing that serves any more: delete the file if that is meant"
                ));
            }
        }
        None
    }

    /// Whether the CA with this SHA-256 admits.
    pub fn has_anchor(&self, sha256: &str) -> bool {
        self.entries.iter().any(|e| e.info.sha256 == sha256)
    }
}
