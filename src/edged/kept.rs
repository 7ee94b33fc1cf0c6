//! What is kept of the daemon's answers, for a start while the daemon is away.
//!
//! Owns: two files in the gateway's own folder: `daemon-server.pem` (key and chain in one file, so that they always belong
//! together) and `daemon-trust-bundle.pem`, replaced as every kept file is ([`kept_file`]). Tokens are not kept: a dead one
//! would be of no use. Must not know: what a certificate says.

use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::Issued;
use crate::kept_file;

/// The largest file that is read: more than the largest answer of the daemon.
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// The folder, and whether we may write to it.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    folder: PathBuf,
    writes: bool,
}

impl Kept {
    pub(super) fn new(folder: PathBuf, writes: bool) -> Self {
        Self { folder, writes }
    }

    pub(super) fn server_path(&self) -> PathBuf {
        self.folder.join("daemon-server.pem")
    }

    fn bundle_path(&self) -> PathBuf {
        self.folder.join("daemon-trust-bundle.pem")
    }

    /// Key and chain, in one text.
    pub(super) fn server(&self) -> io::Result<Option<Vec<u8>>> {
        read(&self.server_path())
    }

    pub(super) fn bundle(&self) -> io::Result<Option<Vec<u8>>> {
        read(&self.bundle_path())
    }

    pub(super) fn keep_server(&self, issued: &Issued) -> io::Result<()> {
        let text = format!("{}\n{}", issued.key_pem.trim_end(), issued.chain_pem);
        self.write(&self.server_path(), text.as_bytes())
    }

    pub(super) fn keep_bundle(&self, pem: &[u8]) -> io::Result<()> {
        // A folder of a Raspberry Pi is on flash.
        if self.bundle().ok().flatten().as_deref() == Some(pem) {
            return Ok(());
        }
        self.write(&self.bundle_path(), pem)
    }

    /// Has `write` done on a thread that serves no sockets: it syncs a file.
    pub(super) async fn keep(&self, write: impl FnOnce(&Self) -> io::Result<()> + Send + 'static) {
        let kept = self.clone();
        let written = tokio::task::spawn_blocking(move || write(&kept)).await;
        if let Err(e) = written.expect("writing a file does not panic") {
            let folder = self.folder.display();
            warn!(
                "what the daemon gave cannot be kept for a start without it: {folder}: {e}; check the storage folder"
            );
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if !self.writes {
            return Ok(());
        }
        kept_file::replace(path, bytes)
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let Some(read) = kept_file::read(path, FILE_BYTES_MAX)? else { return Ok(None) };
    read.map(Some).map_err(|bytes| io::Error::other(format!("it has {bytes} bytes")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_kept_is_found_again_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path().join("edgeHub"), true);
        assert_eq!((kept.server().unwrap(), kept.bundle().unwrap()), (None, None));
        for turn in ["one", "two"] {
            let issued = Issued { chain_pem: format!("chain {turn}"), key_pem: "key\n".into() };
            kept.keep_server(&issued).unwrap();
            assert_eq!(kept.server().unwrap().unwrap(), format!("key\nchain {turn}").as_bytes());
            kept.keep_bundle(turn.as_bytes()).unwrap();
            assert_eq!(kept.bundle().unwrap().unwrap(), turn.as_bytes());
        }
        let files: Vec<_> = std::fs::read_dir(&kept.folder).unwrap().map(Result::unwrap).collect();
        assert_eq!(files.len(), 2, "{files:?}");
        for file in files {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn who_only_looks_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path().join("edgeHub"), false);
        kept.keep_bundle(b"x").unwrap();
        assert!(!kept.folder.exists());
    }
}
