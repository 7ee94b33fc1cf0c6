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
    #[error("cannot open the store at {path}: {source}; {}", todo(source))]
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

fn todo(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "a start as another user may have made it: on the host, chown -R {} the folder that is bound to StorageFolder",
            own_user()
        ),
        _ => "check that the volume is mounted, writable and has room".to_owned(),
    }
}

/// User and group of this process, as `chown` takes them; in the image 13623:13623.
pub(crate) fn own_user() -> String {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    format!("{}:{}", user.as_raw(), group.as_raw())
}

/// For `map_err`: an error of the disk, at this path, while the store opens.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_path_buf();
    move |source| OpenError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_another_user_says_how_to_give_it_to_this_one() {
        let words = |kind: io::ErrorKind| at(Path::new("/s/queues"))(kind.into()).to_string();
        let chown = format!("chown -R {} the folder", own_user());
        assert!(words(io::ErrorKind::PermissionDenied).contains(&chown));
        assert!(!words(io::ErrorKind::StorageFull).contains("chown"));
    }
}
