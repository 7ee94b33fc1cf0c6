//! When the files of the bundle are to be read.
//!
//! Owns: what counts as a change. Invariants: files that are being written are left alone until two looks have found the
//! same, or until they were never so for [`UNQUIET_LOOKS_MAX`] looks; what changed while it was read is not used.
//! Must not know: what is in them.

use std::path::PathBuf;

use crate::auth::TrustBundle;
use crate::auth::bundle::{BundleError, file_names};
use crate::gateway::configuration::Stamp;

/// How many looks in a row may find other files each before they are read all the same: 10 seconds. Some tool writes
/// them over and over, and may never stop.
const UNQUIET_LOOKS_MAX: u32 = 5;

/// All files, each with what a look tells without reading it. Without names: a path of the configuration is not there.
type Stamps = Option<Vec<(PathBuf, Stamp)>>;

/// What a look found.
#[derive(Debug)]
pub(super) enum Read {
    /// The files as they stand.
    Whole(Result<TrustBundle, BundleError>),
    /// They changed while they were read.
    Torn,
}

/// Looks at the files again and again.
#[derive(Debug)]
pub(super) struct Looks {
    /// Files and folders.
    paths: Vec<PathBuf>,
    /// At the last look.
    last: Option<Stamps>,
    /// When they were read; `None` = they are to be read at the next quiet look.
    read: Option<Stamps>,
    /// Looks that found a change since they were quiet or read.
    unquiet: u32,
}

impl Looks {
    /// The first quiet look counts as a change: something may have changed since they were read at the start.
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, last: None, read: None, unquiet: 0 }
    }

    /// The bundle, if its files have changed and are quiet (or never are), or if somebody `asked`.
    pub(super) fn look(&mut self, asked: bool) -> Option<Read> {
        let now = self.stamps();
        let quiet = self.last.as_ref() == Some(&now);
        self.last = Some(now.clone());
        let is_read = self.read.as_ref() == Some(&now);
        self.unquiet = if quiet || is_read { 0 } else { self.unquiet + 1 };
        let is_due = asked || (!is_read && (quiet || self.unquiet >= UNQUIET_LOOKS_MAX));
        if !is_due {
            return None;
        }
        self.unquiet = 0;
        let loaded = TrustBundle::load(&self.paths);
        if self.stamps() != now {
            self.read = None;
            return Some(Read::Torn);
        }
        // What was still being written is read again when it is quiet.
        self.read = quiet.then_some(now);
        Some(Read::Whole(loaded))
    }

    /// What could not be read may be readable later without any sign of it.
    pub(super) fn try_again(&mut self) {
        self.read = None;
    }

    fn stamps(&self) -> Stamps {
        let names = file_names(&self.paths).ok()?;
        Some(names.into_iter().map(|name| (name.clone(), Stamp::of(&name))).collect())
    }
}
