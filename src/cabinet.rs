//! A folder of small documents, one an identity: what is known of a client and must be known again after a restart.
//!
//! Owns: the files' names and their envelope. Invariants: a document is replaced whole or not at all, and is durable when
//! [`Cabinet::put`] returns ([`crate::kept_file`]); a damaged one is set aside and counts as missing, and no other suffers; at
//! most `documents_max`, each of at most `document_bytes_max`. All calls block on the disk.
//! Must not know: what is in a document.
//!
//! # A file, little-endian
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `SGC1` |
//! | 4 | CRC32C of all that follows |
//! | 2, then so many | the identity's name, `device` or `device/module` |
//! | rest | the document |
//!
//! Its name is the SHA-256 of the identity's name in hexadecimal digits: ids may hold what a file system does not take.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::identity::{ClientName, DeviceId, Identity, ModuleId};
use crate::kept_file;

const MAGIC: &[u8; 4] = b"SGC1";
/// Of a file's name.
const NAME_DIGITS: usize = 64;

/// What a cabinet may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Documents.
    pub(crate) documents_max: usize,
    /// Bytes of one.
    pub(crate) document_bytes_max: usize,
}

/// Why a document is not kept or not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CabinetError {
    /// The volume.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Too large.
    #[error("a document of {0} bytes is more than may be kept of one identity ({1})")]
    TooLarge(usize, usize),
    /// Too many.
    #[error("there are {0} documents in {1}, which is the limit")]
    Full(usize, PathBuf),
}

/// Which document: what its file is called by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

impl Key {
    /// That of `name`.
    pub(crate) fn of(name: &ClientName) -> Self {
        Self(Sha256::digest(name.to_string()).into())
    }

    /// One of `n` equal shares of all documents.
    pub(crate) fn share(&self, n: usize) -> usize {
        usize::from(self.0[0]) % n
    }

    fn parse(text: &str) -> Option<Self> {
        if text.len() != 64
            || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    fn file_name(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What is in a file.
enum Found {
    Nothing,
    Damaged,
    /// Of that name.
    Document(String, Vec<u8>),
}

/// See [the module](self). Whoever puts documents of one name must do so one after the other.
#[derive(Debug)]
pub(crate) struct Cabinet {
    folder: PathBuf,
    limits: Limits,
    /// Documents on the disk; counted when the first one is put.
    documents: Mutex<Option<usize>>,
    /// Damaged ones since [`Cabinet::take_set_aside`].
    set_aside: AtomicU64,
}

impl Cabinet {
    /// Documents in `folder`, which need not be there yet.
    pub(crate) fn new(folder: PathBuf, limits: Limits) -> Self {
        Self { folder, limits, documents: Mutex::default(), set_aside: AtomicU64::new(0) }
    }

    /// The document of `name`; `None` = there is none, or it was damaged and is set aside.
    pub(crate) fn get(&self, name: &ClientName) -> Result<Option<Vec<u8>>, CabinetError> {
        let path = self.path(name);
        match self.read(&path)? {
            Found::Nothing => Ok(None),
            Found::Document(found, document) if found == name.to_string() => Ok(Some(document)),
            Found::Document(..) | Found::Damaged => {
                self.put_aside(&path);
                Ok(None)
            }
        }
    }

    /// Puts the document of `name` in the place of an older one; durable when this returns.
    pub(crate) fn put(&self, name: &ClientName, document: &[u8]) -> Result<(), CabinetError> {
        let max = self.limits.document_bytes_max;
        if document.len() > max {
            return Err(CabinetError::TooLarge(document.len(), max));
        }
        let path = self.path(name);
        let is_new = self.take_place(&path)?;
        let bytes = seal(&name.to_string(), document);
        let put = kept_file::replace(&path, &bytes).map_err(|source| io_error(&path, source));
        if put.is_err() && is_new && !path.exists() {
            self.give_place_back();
        }
        put
    }

    /// Removes the document of `name`, durably; says whether there was one.
    pub(crate) fn remove(&self, name: &ClientName) -> Result<bool, CabinetError> {
        self.remove_at(&self.path(name))
    }

    /// As [`remove`](Self::remove), without the name.
    pub(crate) fn remove_key(&self, key: &Key) -> Result<bool, CabinetError> {
        self.remove_at(&self.folder.join(key.file_name()))
    }

    fn remove_at(&self, path: &Path) -> Result<bool, CabinetError> {
        let was_there = kept_file::remove(path).map_err(|source| io_error(path, source))?;
        if was_there {
            self.give_place_back();
        }
        Ok(was_there)
    }

    /// All documents, the one that was written longest ago first. None is opened; a folder that is not there is empty.
    pub(crate) fn keys(&self) -> Result<Vec<Key>, CabinetError> {
        let mut found = Vec::new();
        for path in self.files()? {
            let key = path.file_name().and_then(|name| name.to_str()).and_then(Key::parse);
            let Some(key) = key else { continue };
            // One that vanishes meanwhile is as good as old.
            let written = std::fs::metadata(&path).and_then(|facts| facts.modified()).ok();
            found.push((written, key));
        }
        found.sort_by_key(|(written, _)| *written);
        Ok(found.into_iter().map(|(_, key)| key).collect())
    }

    /// Moves the document of `name` out of the way: its owner cannot read it.
    pub(crate) fn set_aside(&self, name: &ClientName) {
        self.put_aside(&self.path(name));
    }

    /// How many documents were set aside since this was asked last: for the counter.
    pub(crate) fn take_set_aside(&self) -> u64 {
        self.set_aside.swap(0, Ordering::Relaxed)
    }

    /// Whose documents are `wanted`. Reads one after the other: for the start. Damaged ones are set aside; one that the volume
    /// does not give is said in the log and passed over, for the others' sake.
    pub(crate) fn find(
        &self,
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> Result<Vec<Identity>, CabinetError> {
        let mut found = Vec::new();
        for path in self.files()? {
            let read = self.read(&path).unwrap_or_else(|error| {
                tracing::error!(%error, "a kept document cannot be read, and is passed over");
                Found::Nothing
            });
            match read {
                Found::Document(name, document) => match identity(&name) {
                    Some(who) if self.path(who.name()) == path => {
                        if wanted(&document) {
                            found.push(who);
                        }
                    }
                    _ => self.put_aside(&path),
                },
                Found::Damaged => self.put_aside(&path),
                Found::Nothing => {}
            }
        }
        Ok(found)
    }

    #[cfg(test)]
    pub(crate) fn path_of(&self, name: &ClientName) -> PathBuf {
        self.path(name)
    }

    fn read(&self, path: &Path) -> Result<Found, CabinetError> {
        let bytes_max = self.limits.document_bytes_max as u64 + 1024;
        let read = kept_file::read(path, bytes_max).map_err(|source| io_error(path, source))?;
        Ok(match read.map(|read| read.ok().and_then(|bytes| open(&bytes))) {
            None => Found::Nothing,
            Some(None) => Found::Damaged,
            Some(Some((name, document))) => Found::Document(name, document),
        })
    }

    fn put_aside(&self, path: &Path) {
        if kept_file::set_aside(path).is_some() {
            self.give_place_back();
        }
        self.set_aside.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(path = %path.display(), "a kept document is damaged, and set aside");
    }

    /// Whether it is a new one.
    fn take_place(&self, path: &Path) -> Result<bool, CabinetError> {
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match *documents {
            Some(count) => count,
            None => {
                kept_file::make_folder(&self.folder)
                    .map_err(|source| io_error(&self.folder, source))?;
                self.files()?.len()
            }
        };
        let is_new = !path.exists();
        *documents = Some(count + usize::from(is_new));
        if is_new && count >= self.limits.documents_max {
            *documents = Some(count);
            return Err(CabinetError::Full(count, self.folder.clone()));
        }
        Ok(is_new)
    }

    fn give_place_back(&self) {
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        *documents = documents.map(|count| count.saturating_sub(1));
    }

    /// All documents' files: what a failed try left, and what was set aside, has a longer name.
    fn files(&self) -> Result<Vec<PathBuf>, CabinetError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(io_error(&self.folder, source)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| io_error(&self.folder, source))?;
            let name = entry.file_name();
            let is_ours = |name: &str| {
                name.len() == NAME_DIGITS && name.bytes().all(|b| b.is_ascii_hexdigit())
            };
            if name.to_str().is_some_and(is_ours) {
                files.push(entry.path());
            }
        }
        Ok(files)
    }

    fn path(&self, name: &ClientName) -> PathBuf {
        self.folder.join(Key::of(name).file_name())
    }
}

fn seal(name: &str, document: &[u8]) -> Vec<u8> {
    let mut rest = u16::try_from(name.len()).expect("two ids of 128 bytes").to_le_bytes().to_vec();
    rest.extend_from_slice(name.as_bytes());
    rest.extend_from_slice(document);
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(&rest).to_le_bytes());
    bytes.extend_from_slice(&rest);
    bytes
}

/// Whose document it is, and the document; `None` = damaged.
fn open(bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    if crc32c::crc32c(rest) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let (name, document) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    Some((String::from_utf8(name.to_vec()).ok()?, document.to_vec()))
}

/// Documents are put under the names of identities that were authenticated: so they are those again.
fn identity(name: &str) -> Option<Identity> {
    let name = match name.split_once('/') {
        None => ClientName::Device(DeviceId::parse(name).ok()?),
        Some((device, module)) => {
            ClientName::Module(DeviceId::parse(device).ok()?, ModuleId::parse(module).ok()?)
        }
    };
    Some(Identity::vouched(name))
}

fn io_error(path: &Path, source: io::Error) -> CabinetError {
    CabinetError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { documents_max: 3, document_bytes_max: 100 };

    fn name(text: &str) -> ClientName {
        identity(text).unwrap().name().clone()
    }

    fn cabinet() -> (tempfile::TempDir, Cabinet) {
        let folder = tempfile::tempdir().unwrap();
        let cabinet = Cabinet::new(folder.path().join("a/twins"), LIMITS);
        (folder, cabinet)
    }

    #[test]
    fn documents_are_replaced_found_and_removed() {
        let (_folder, cabinet) = cabinet();
        assert_eq!(cabinet.get(&name("d")).unwrap(), None);
        assert_eq!(cabinet.find(|_| true).unwrap(), []);
        assert!(!cabinet.remove(&name("d")).unwrap());
        for (who, document) in [("d", "old"), ("d", "new"), ("d/m", ""), ("D", "x")] {
            cabinet.put(&name(who), document.as_bytes()).unwrap();
            assert_eq!(cabinet.get(&name(who)).unwrap().unwrap(), document.as_bytes());
        }
        let found = cabinet.find(|document| document.len() != 1).unwrap();
        let mut found: Vec<_> = found.iter().map(ToString::to_string).collect();
        found.sort();
        assert_eq!(found, ["d", "d/m"]);
        assert!(cabinet.remove(&name("d")).unwrap());
        assert_eq!(cabinet.get(&name("d")).unwrap(), None);
        assert!(cabinet.get(&name("d/m")).unwrap().is_some());
    }

    /// Byte for byte: a gateway that is updated finds what the older one kept.
    #[test]
    fn the_files_are_read_and_written_as_ever() {
        let stored = b"SGC1\x0c\xe6m\xec\x03\0d/mdocument";
        let (_folder, cabinet) = cabinet();
        cabinet.put(&name("d/m"), b"document").unwrap();
        let name_of_file = "481e079ad2755f40704a2e9ae76cb2123537e85bab0f57ede9442e8c1e876237";
        let path = cabinet.folder.join(name_of_file);
        assert_eq!(std::fs::read(&path).unwrap(), stored);
        std::fs::write(&path, stored).unwrap();
        assert_eq!(cabinet.get(&name("d/m")).unwrap().unwrap(), b"document");
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let (_folder, mut cabinet) = cabinet();
        let too_large = cabinet.put(&name("d"), &[0; 101]);
        assert!(matches!(too_large, Err(CabinetError::TooLarge(101, 100))));
        for round in 0..2 {
            for who in ["a", "b", "c"] {
                cabinet.put(&name(who), b"x").unwrap();
            }
            let full = cabinet.put(&name("d"), b"x");
            assert!(matches!(full, Err(CabinetError::Full(3, _))), "round {round}");
            // They are counted again after a restart.
            cabinet = Cabinet::new(cabinet.folder.clone(), LIMITS);
        }
        cabinet.put(&name("a"), b"y").unwrap();
        cabinet.remove(&name("b")).unwrap();
        cabinet.put(&name("d"), b"x").unwrap();
        assert!(cabinet.put(&name("b"), b"x").is_err());
        // One that is set aside has given its place up.
        cabinet.set_aside(&name("d"));
        cabinet.put(&name("b"), b"x").unwrap();
    }

    #[test]
    fn a_damaged_document_is_set_aside_and_no_other_suffers() {
        let damages: [fn(&mut Vec<u8>); 5] = [
            |bytes| bytes.truncate(3),
            |bytes| bytes.clear(),
            |bytes| *bytes.last_mut().unwrap() ^= 1,
            |bytes| bytes[0] = b'X',
            |bytes| bytes.resize(5000, 0),
        ];
        for (n, damage) in damages.into_iter().enumerate() {
            for by_find in [false, true] {
                let (_folder, cabinet) = cabinet();
                cabinet.put(&name("d"), b"document").unwrap();
                cabinet.put(&name("e"), b"document").unwrap();
                let path = cabinet.path(&name("d"));
                let mut bytes = std::fs::read(&path).unwrap();
                damage(&mut bytes);
                std::fs::write(&path, bytes).unwrap();
                if by_find {
                    assert_eq!(cabinet.find(|_| true).unwrap().len(), 1, "damage {n}");
                }
                assert_eq!(cabinet.get(&name("d")).unwrap(), None, "damage {n}");
                assert_eq!((cabinet.take_set_aside(), cabinet.take_set_aside()), (1, 0));
                assert!(path.with_extension("bad0").exists(), "it is there to be looked at");
                assert!(cabinet.get(&name("e")).unwrap().is_some(), "damage {n}");
                cabinet.put(&name("d"), b"anew").unwrap();
                assert_eq!(cabinet.get(&name("d")).unwrap().unwrap(), b"anew");
            }
        }
    }

    #[test]
    fn a_document_under_a_wrong_name_is_not_believed() {
        let (_folder, cabinet) = cabinet();
        cabinet.put(&name("d"), b"of d").unwrap();
        std::fs::copy(cabinet.path(&name("d")), cabinet.path(&name("e"))).unwrap();
        assert_eq!(cabinet.find(|_| true).unwrap().len(), 1);
        assert_eq!(cabinet.get(&name("e")).unwrap(), None);
        assert!(cabinet.get(&name("d")).unwrap().is_some());
    }

    #[test]
    fn one_that_the_volume_does_not_give_hides_no_other() {
        let (_folder, cabinet) = cabinet();
        for who in ["a", "b", "c"] {
            cabinet.put(&name(who), b"x").unwrap();
        }
        let path = cabinet.path(&name("b"));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        assert!(cabinet.get(&name("b")).is_err());
        assert_eq!(cabinet.find(|_| true).unwrap().len(), 2);
    }

    #[test]
    fn what_a_failed_try_left_is_no_document() {
        let (_folder, cabinet) = cabinet();
        cabinet.put(&name("d"), b"x").unwrap();
        std::fs::write(cabinet.path(&name("e")).with_extension("new"), b"half").unwrap();
        assert_eq!(cabinet.find(|_| true).unwrap().len(), 1);
        assert_eq!(cabinet.get(&name("e")).unwrap(), None);
        cabinet.put(&name("e"), b"whole").unwrap();
        assert_eq!(cabinet.get(&name("e")).unwrap().unwrap(), b"whole");
    }
}
