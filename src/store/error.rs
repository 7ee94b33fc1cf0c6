//! Why the store did not do what it was asked to. (Appends have [`super::AppendError`], reads [`super::ReadError`].)
//!
//! Owns: [`OpenError`] and [`StoreError`]. Must not know: who asks.

use std::io;
use std::path::{Path, PathBuf};

use super::append::AppendError;

/// Why the store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the folder.
    #[error("{0} is in use by another process: stop it, or give this one another storage folder")]
    Locked(PathBuf),
    /// Written by a newer program. Nothing was changed.
    #[error(
        "{path} has format {found}; this program reads up to {known}: start the version that wrote it, or let that one \
         drain the queues first"
    )]
    NewerFormat {
        /// The first such file.
        path: PathBuf,
        /// Its format.
        found: u16,
        /// Ours.
        known: u16,
    },
    /// The disk refused.
    #[error(
        "cannot open the store at {path}: {source}; check that the volume is mounted, writable and has room"
    )]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The disk's words.
        source: io::Error,
    },
}

/// Why a queue could not be opened or deleted.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused; later calls may work.
    #[error("the disk refused: {0}")]
    Refused(io::Error),
    /// As [`super::Health::Poisoned`].
    #[error("the store is poisoned: restart the gateway")]
    Poisoned,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(super) fn from_append(error: AppendError) -> Self {
        match error {
            AppendError::Poisoned => Self::Poisoned,
            _ => Self::Closed,
        }
    }
}

/// For `map_err`: an error of the disk, at this path, while the store opens.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_path_buf();
    move |source| OpenError::Io { path, source }
}
