//! The files of certificates and keys: written together or not at all.
//!
//! Owns: their modes, what is replaced and when, and what is taken back after an error.
//! Invariants: a file that exists is replaced only if that was asked for, and then whole; a key is its owner's alone from
//! its first byte on; after an error the folder is as it was. Two files cannot be replaced in one step: a power cut between
//! the two leaves a pair that does not fit, which the gateway refuses by name. Must not know: what is in them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::CertsError;

/// One file to write.
pub(super) struct PkiFile {
    pub(super) name: String,
    text: String,
    mode: u32,
}

impl PkiFile {
    pub(super) fn public(name: String, text: String) -> Self {
        Self { name, text, mode: 0o644 }
    }

    pub(super) fn secret(name: String, text: String) -> Self {
        Self { name, text, mode: 0o600 }
    }
}

pub(super) fn write_files(
    folder: &Path,
    files: Vec<PkiFile>,
    overwrite: bool,
) -> Result<Vec<PathBuf>, CertsError> {
    let paths: Vec<PathBuf> = files.iter().map(|file| folder.join(&file.name)).collect();
    // All are looked at before the first is written. A link that leads nowhere is there, too.
    let is_there = |path: &&PathBuf| path.symlink_metadata().is_ok();
    if let Some(path) = paths.iter().find(is_there).filter(|_| !overwrite) {
        return Err(CertsError::Exists { path: path.clone() });
    }
    let mut done = Done::default();
    for (file, path) in files.iter().zip(&paths) {
        let written = match overwrite {
            true => done.replace(path, file),
            false => done.create(path, file),
        };
        if let Err(source) = written {
            done.undo();
            let path = path.clone();
            return Err(match source.kind() {
                io::ErrorKind::AlreadyExists => CertsError::Exists { path },
                _ => CertsError::Write { path, source },
            });
        }
    }
    if let Err((path, source)) = sync_folders(&paths) {
        done.undo();
        return Err(CertsError::Write { path, source });
    }
    Ok(paths)
}

/// Replaces a file of certificates whole, or makes it. Everybody may read it, as the gateway is another user than who
/// imports; a file that is there keeps its mode.
///
/// # Errors
/// The disk's.
pub fn replace_public(path: &Path, text: String) -> Result<(), CertsError> {
    // What a link leads to is replaced, not the link.
    let target = path.canonicalize();
    let path = target.as_deref().unwrap_or(path);
    let mode = path.metadata().map_or(0o644, |facts| facts.permissions().mode() & 0o777);
    let file = PkiFile { name: String::new(), text, mode };
    let failed = |source| CertsError::Write { path: path.to_owned(), source };
    put(path, file.text.as_bytes(), file.mode).map_err(failed)?;
    sync_folders(&[path.to_owned()]).map_err(|(path, source)| CertsError::Write { path, source })
}

/// What was done so far, to take it back.
#[derive(Default)]
struct Done {
    made: Vec<PathBuf>,
    /// With what was there before. Such files have some kilobytes at most.
    replaced: Vec<(PathBuf, Vec<u8>, u32)>,
}

impl Done {
    fn create(&mut self, path: &Path, file: &PkiFile) -> io::Result<()> {
        make_folder_of(path)?;
        let mut out = create(path, file.mode)?;
        self.made.push(path.to_owned());
        out.write_all(file.text.as_bytes())?;
        out.sync_all()
    }

    fn replace(&mut self, path: &Path, file: &PkiFile) -> io::Result<()> {
        make_folder_of(path)?;
        match path.metadata() {
            Ok(facts) => {
                let before = (std::fs::read(path)?, facts.permissions().mode() & 0o777);
                put(path, file.text.as_bytes(), file.mode)?;
                self.replaced.push((path.to_owned(), before.0, before.1));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                put(path, file.text.as_bytes(), file.mode)?;
                self.made.push(path.to_owned());
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// As well as it goes: the error that led here is the one that is told.
    fn undo(self) {
        for path in self.made {
            let _ = std::fs::remove_file(path);
        }
        for (path, bytes, mode) in self.replaced {
            let _ = put(&path, &bytes, mode);
        }
    }
}

/// Puts the bytes in the place of the file, durably or not at all.
fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let fresh = PathBuf::from(name);
    // Removed first, because `mode` counts only for a file that is created.
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let written = create(&fresh, mode).and_then(|mut out| {
        out.write_all(bytes)?;
        out.sync_all()?;
        std::fs::rename(&fresh, path)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&fresh);
    }
    written
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn make_folder_of(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder_of(path))
}

/// A new name is durable when its folder is.
fn sync_folders(paths: &[PathBuf]) -> Result<(), (PathBuf, io::Error)> {
    let mut folders: Vec<&Path> = paths.iter().map(|path| folder_of(path)).collect();
    folders.dedup();
    for folder in folders {
        let opened = OpenOptions::new().read(true).open(folder);
        opened.and_then(|f| f.sync_all()).map_err(|e| (folder.to_owned(), e))?;
    }
    Ok(())
}
