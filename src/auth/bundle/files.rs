//! Files and folders -> bytes, bounded.
//!
//! Owns: which files of a folder count, and how much is read. Must not know: what is in them.

use std::path::{Path, PathBuf};

use super::{BUNDLE_BYTES_MAX, BundleError, ENDINGS, FILE_BYTES_MAX, FILES_MAX};

/// One file of a bundle.
#[derive(Debug)]
pub struct BundleFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What is in it, or in words why it cannot be read.
    pub content: Result<Vec<u8>, String>,
}

impl BundleFile {
    /// For reports: the last part of the path.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }
}

/// The files that are meant by `paths`: the files among them, and of each folder those that count, in the order of their
/// names. Nothing is read.
///
/// # Errors
/// A path of `paths` is not there, or a folder is for something else.
pub fn file_names<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<PathBuf>, BundleError> {
    let mut names = Vec::new();
    for path in paths.iter().map(AsRef::as_ref) {
        let failed = |source| BundleError::Read { path: path.to_owned(), source };
        match std::fs::metadata(path).map_err(failed)?.is_dir() {
            true => names.extend(files_of(path)?),
            false => names.push(path.to_owned()),
        }
    }
    Ok(names)
}

/// Reads them. A file that cannot be read is an error if it is one of `paths`; a file of a folder is told in its place.
pub fn read_files<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<BundleFile>, BundleError> {
    let mut files = Vec::new();
    let mut bytes_left = BUNDLE_BYTES_MAX;
    for path in file_names(paths)? {
        let is_named = paths.iter().any(|p| p.as_ref() == path);
        let content = match read_bounded(&path, bytes_left) {
            Err(e) if is_named => return Err(e),
            read => read.map_err(|e| e.to_string()),
        };
        bytes_left -= content.as_ref().map_or(0, |bytes| bytes.len() as u64);
        files.push(BundleFile { path, content });
    }
    Ok(files)
}

/// The certificate files of a folder, in the order of their names.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>, BundleError> {
    let failed = |source| BundleError::Read { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for item in std::fs::read_dir(folder).map_err(failed)? {
        let file = item.map_err(failed)?.path();
        let ending = file.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        if ending.is_some_and(|e| ENDINGS.contains(&&*e)) && !file.is_dir() {
            files.push(file);
        }
        if files.len() > FILES_MAX {
            return Err(BundleError::TooManyFiles { path: folder.to_owned() });
        }
    }
    files.sort();
    Ok(files)
}

fn read_bounded(path: &Path, bytes_left: u64) -> Result<Vec<u8>, BundleError> {
    use std::io::Read as _;
    let failed = |source| BundleError::Read { path: path.to_owned(), source };
    let facts = std::fs::metadata(path).map_err(failed)?;
    if !facts.is_file() {
        // A pipe would be waited for.
        return Err(failed(std::io::Error::other("it is not a file")));
    }
    if facts.len() > FILE_BYTES_MAX {
        return Err(BundleError::TooBig { path: path.to_owned() });
    }
    if facts.len() > bytes_left {
        return Err(BundleError::TooMuch { path: path.to_owned() });
    }
    // It may grow while it is read.
    let mut bytes = Vec::new();
    let file = std::fs::OpenOptions::new().read(true).open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX.min(bytes_left)).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
