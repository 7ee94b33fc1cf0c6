//! A small file that is replaced whole or not at all: what the gateway knows and must know again after a restart.
//!
//! Owns: the way to replace it (new file, fsync, rename, folder fsync), to read it, and to set aside one that is damaged; the
//! head of those that are JSON ([`Form`]): version and edge device. Invariants: whenever the power goes, the old content or the
//! new one is there; the owner alone can read it; nothing is ever deleted but what a failed try left; a read is bounded; a
//! version that this program does not know is never taken for one that it does. Must not know: what else is in it.
//!
//! # Who keeps what
//!
//! | file | kept by | its form |
//! |---|---|---|
//! | `scope.json` | `auth::scope` | [`Form`] with a checksum; versions 1 and 2 |
//! | `seen-certificates.json` | `auth::grace` | [`Form`] with a checksum |
//! | `desired.json`, `desired-twin.json` | `desired::last_good` | [`Form`] with a checksum, and one of the document |
//! | `scope.key` | `auth::scope::vault` | JSON with a version, but of no edge device; no parser's words, which may quote a key |
//! | `twins/*`, `sessions/*` | `cabinet` | binary: magic, CRC32C, name, and a document with a version of its own |
//! | `daemon-*.pem` | `edged` | PEM, without a head |

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The steps, as a volume sees them: so that tests can cut its power between any two.
trait Volume {
    type File;
    /// Makes a folder and its parents; one that is there is fine.
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a file that only the owner can read.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    fn write(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()>;
    /// Makes the file's bytes durable.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the folder's entries durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
}

/// The operating system's.
struct System;

impl Volume for System {
    type File = File;

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        OpenOptions::new().read(true).open(path)?.sync_all()
    }
}

/// Puts `bytes` in the place of the file, durably or not at all. Makes its folder if need be.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_on(&System, path, bytes)
}

fn replace_on<V: Volume>(volume: &V, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    volume.make_folder(folder)?;

    let fresh = with_suffix(path, "new");
    // Removed first, because its mode is ours only if we create it.
    match volume.remove(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    if let Err(e) = put(volume, &fresh, path, bytes) {
        // Where the volume is full, others need the room.
        let _ = volume.remove(&fresh);
        return Err(e);
    }
    // The rename is durable when the folder is.
    volume.sync_folder(folder)
}

fn put<V: Volume>(volume: &V, fresh: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = volume.create(fresh)?;
    volume.write(&mut file, bytes)?;
    volume.sync(&file)?;
    volume.rename(fresh, path)
}

/// Makes the folder at `path`, durably, if it is not there.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    make_folder_on(&System, path, path.is_dir())
}

fn make_folder_on<V: Volume>(volume: &V, path: &Path, is_there: bool) -> io::Result<()> {
    if is_there {
        return Ok(());
    }
    volume.make_folder(path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => volume.sync_folder(parent),
        _ => volume.sync_folder(Path::new(".")),
    }
}

/// Removes the file, durably; says whether there was one.
pub(crate) fn remove(path: &Path) -> io::Result<bool> {
    remove_on(&System, path)
}

fn remove_on<V: Volume>(volume: &V, path: &Path) -> io::Result<bool> {
    match volume.remove(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    }
    volume.sync_folder(path.parent().unwrap_or(Path::new(".")))?;
    Ok(true)
}

/// Moves a damaged file out of the way, to the first free of ten names.
pub(crate) fn set_aside(path: &Path) -> Option<PathBuf> {
    let to = (0..10).map(|n| with_suffix(path, &format!("bad{n}"))).find(|to| !to.exists())?;
    std::fs::rename(path, &to).ok()?;
    Some(to)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// The bytes of the file at `path`, unless they are more than `bytes_max`: then how many. `None` = there is no file.
///
/// # Errors
/// What the system says.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Option<Result<Vec<u8>, u64>>> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
        Ok(facts) if facts.len() > bytes_max => Ok(Some(Err(facts.len()))),
        Ok(_) => std::fs::read(path).map(|bytes| Some(Ok(bytes))),
    }
}

/// Ends a kept file that is JSON, as its last field: the CRC32C of all bytes before it, as eight hex digits. Within a text the
/// quotes would be escaped, so nothing else looks like it.
const SUM: &str = r#","file_crc32c":""#;

/// `content`, which is a JSON object with fields, with its checksum.
fn with_sum(mut content: Vec<u8>) -> Vec<u8> {
    content.truncate(content.len() - 1);
    let sum = crc32c::crc32c(&content);
    content.extend_from_slice(format!("{SUM}{sum:08x}\"}}").as_bytes());
    content
}

/// Whether the checksum at the end is that of the content. A file of an earlier program has none.
fn is_as_written(content: &[u8]) -> bool {
    let end = content.len().saturating_sub(SUM.len() + "00000000\"}".len());
    let (before, sum) = content.split_at(end);
    match sum.strip_prefix(SUM.as_bytes()) {
        Some(sum) => sum == format!("{:08x}\"}}", crc32c::crc32c(before)).as_bytes(),
        None => true,
    }
}

/// The file as an earlier program wrote it.
#[cfg(test)]
pub(crate) fn without_sum(text: &str) -> String {
    let (content, _) = text.split_once(SUM).expect("it has a checksum");
    format!("{content}}}")
}

/// A kept file that is JSON and begins `{"version":1,"edge":"EDGE",`: what is read of it, and the words for what is not.
#[derive(Debug)]
pub(crate) struct Form {
    /// Bytes of the largest file that is read.
    pub(crate) bytes_max: u64,
    /// Versions that are read, oldest first; the last is the one that is written.
    pub(crate) versions: &'static [u32],
    /// What is said before the parser's words: `it is no ledger`.
    pub(crate) not_ours: &'static str,
    /// What it is of an edge device: `ledger`.
    pub(crate) noun: &'static str,
}

/// Why a kept file is of no use, in words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// The volume does not give it (no permission, a failing disk): it may be good.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It was read and is wrong.
    #[error("{0}")]
    Content(String),
}

impl From<String> for Unusable {
    fn from(words: String) -> Self {
        Self::Content(words)
    }
}

impl Unusable {
    /// As [`set_aside`] does it to the file at `path`, of which this was said; but one that was not read stays: it may heal.
    pub(crate) fn set_aside(&self, path: &Path) -> Option<PathBuf> {
        match self {
            Self::Io(_) => None,
            Self::Content(_) => set_aside(path),
        }
    }
}

impl Form {
    /// The file at `path`, if the edge device that `edge_of` finds in it is `edge`: one of another device is about other
    /// people's. `None` = there is no file. Blocks on the disk.
    ///
    /// # Errors
    /// The volume does not give it; it is too large, damaged, of a version that is not read, or of another edge device.
    pub(crate) fn read<T: DeserializeOwned>(
        &self,
        path: &Path,
        edge: &str,
        edge_of: impl FnOnce(&T) -> &str,
    ) -> Result<Option<T>, Unusable> {
        let Self { bytes_max, versions, not_ours, noun } = self;
        let Some(read) = read(path, *bytes_max)? else { return Ok(None) };
        let bytes = read.map_err(|n| format!("it has {n} bytes; {bytes_max} are allowed"))?;
        let version = version(&bytes).map_err(|e| format!("{not_ours}: {e}"))?;
        if !versions.contains(&version) {
            let word = if versions.len() == 1 { "version" } else { "versions" };
            let ours = versions.iter().map(u32::to_string).collect::<Vec<_>>().join(" and ");
            return Err(
                format!("it has version {version}; this program reads {word} {ours}").into()
            );
        }
        if !is_as_written(&bytes) {
            return Err("its checksum is wrong".to_owned().into());
        }
        let stored: T = serde_json::from_slice(&bytes).map_err(|e| format!("{not_ours}: {e}"))?;
        match edge_of(&stored) {
            found if found == edge => Ok(Some(stored)),
            other => Err(format!("it is the {noun} of edge device {other:?}").into()),
        }
    }
}

/// As [`replace`], with `content`, which has fields, as JSON with a checksum of all of it.
pub(crate) fn replace_json(path: &Path, content: &impl Serialize) -> io::Result<()> {
    replace(path, &with_sum(serde_json::to_vec(content)?))
}

/// The version of a form that is written as JSON with a `version`. Looked at first: a newer form may not even parse as ours.
///
/// # Errors
/// It is no JSON object with a version.
pub(crate) fn version(bytes: &[u8]) -> serde_json::Result<u32> {
    #[derive(serde::Deserialize)]
    struct Head {
        version: u32,
    }
    serde_json::from_slice(bytes).map(|head: Head| head.version)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::store::disk::{Disk as _, DiskFile, Mode};
    use crate::store::sim::{Fault, Op, SimDisk};

    const FOLDER: &str = "/kept";
    const PATH: &str = "/kept/f.json";

    /// More than a sector, so that a part of it can be lost.
    const OLD: &[u8] = &[b'o'; 2000];
    const NEW: &[u8] = &[b'n'; 3000];

    /// The changes of one replacement, in order.
    const STEPS: [Op; 5] = [Op::Create, Op::Write, Op::SyncData, Op::Rename, Op::SyncDir];

    impl Volume for SimDisk {
        type File = Arc<dyn DiskFile>;

        fn make_folder(&self, path: &Path) -> io::Result<()> {
            self.create_dir_all(path)
        }

        fn remove(&self, path: &Path) -> io::Result<()> {
            self.remove_file(path)
        }

        fn create(&self, path: &Path) -> io::Result<Self::File> {
            self.open(path, Mode::CreateNew)
        }

        fn write(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()> {
            file.write_at(bytes, 0)
        }

        fn sync(&self, file: &Self::File) -> io::Result<()> {
            file.sync_data()
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            crate::store::Disk::rename(self, from, to)
        }

        fn sync_folder(&self, path: &Path) -> io::Result<()> {
            self.sync_dir(path)
        }
    }

    /// With the old content, durably.
    fn disk() -> SimDisk {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new(FOLDER)).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        replace_on(&disk, Path::new(PATH), OLD).unwrap();
        disk
    }

    fn content(disk: &SimDisk) -> Vec<u8> {
        let found = disk.tree().1.into_iter().find(|(path, _)| path == Path::new(PATH));
        found.expect("one of the two is there").1
    }

    #[test]
    fn a_folder_and_a_removal_last() {
        for seed in 0..20 {
            let disk = SimDisk::new();
            make_folder_on(&disk, Path::new(FOLDER), false).unwrap();
            replace_on(&disk, Path::new(PATH), OLD).unwrap();
            let disk = disk.power_cut(seed);
            assert_eq!(content(&disk), OLD, "seed {seed}");
            assert!(remove_on(&disk, Path::new(PATH)).unwrap());
            let disk = disk.power_cut(seed);
            assert_eq!(disk.names(FOLDER), [""; 0], "seed {seed}");
            assert!(!remove_on(&disk, Path::new(PATH)).unwrap());
        }
    }

    /// The `n`th change from now on fails so.
    fn fail_at(disk: &SimDisk, n: usize, fault: Fault) {
        let mut seen = 0;
        disk.plan(move |_, _| {
            seen += 1;
            (seen == n + 1).then_some(fault)
        });
    }

    #[test]
    fn bytes_are_durable_before_the_name_and_the_name_before_the_end() {
        let disk = disk();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let recorder = Arc::clone(&seen);
        disk.plan(move |op, path| {
            recorder.lock().unwrap().push((op, path.to_path_buf()));
            None
        });
        replace_on(&disk, Path::new(PATH), NEW).unwrap();
        let fresh = with_suffix(Path::new(PATH), "new");
        let expected = STEPS.map(|op| match op {
            Op::SyncDir => (op, PathBuf::from(FOLDER)),
            _ => (op, fresh.clone()),
        });
        assert_eq!(*seen.lock().unwrap(), expected);
    }

    #[test]
    fn whenever_the_power_goes_the_old_content_or_the_new_one_is_there() {
        for seed in 0..100 {
            for step in 0..STEPS.len() {
                let disk = disk();
                fail_at(&disk, step, Fault::Crash);
                assert!(replace_on(&disk, Path::new(PATH), NEW).is_err());
                let disk = disk.power_cut(seed);
                let found = content(&disk);
                assert!(found == OLD || found == NEW, "seed {seed}, step {step}: {found:?}");
                replace_on(&disk, Path::new(PATH), NEW).unwrap();
                assert_eq!(content(&disk.power_cut(seed)), NEW, "seed {seed}: it was promised");
            }
        }
    }

    #[test]
    fn no_flipped_bit_passes_for_other_content() {
        #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
        struct Stored {
            version: u32,
            edge: String,
            names: Vec<String>,
        }
        const FORM: Form =
            Form { bytes_max: 1000, versions: &[1], not_ours: "it is none", noun: "thing" };
        let stored =
            || Stored { version: 1, edge: "e1".into(), names: vec![",\"file_crc32c\":\"".into()] };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.json");
        let read = || FORM.read(&path, "e1", |stored: &Stored| &stored.edge);
        replace_json(&path, &stored()).unwrap();
        assert_eq!(read().unwrap(), Some(stored()));
        let written = std::fs::read(&path).unwrap();
        let mut refused = 0;
        for bit in 0..written.len() * 8 {
            let mut bytes = written.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            match read() {
                Ok(found) => assert_eq!(found, Some(stored()), "bit {bit}"),
                Err(Unusable::Content(_)) => refused += 1,
                Err(Unusable::Io(e)) => panic!("bit {bit}: {e}"),
            }
        }
        // All but those of the name of the checksum's field.
        assert!(refused > (written.len() - SUM.len()) * 8, "{refused}");
        std::fs::write(&path, serde_json::to_vec(&stored()).unwrap()).unwrap();
        assert_eq!(read().unwrap(), Some(stored()), "of an earlier program");
    }

    #[test]
    fn a_try_that_fails_leaves_nothing_behind_and_the_next_one_works() {
        for (step, op) in STEPS.iter().enumerate() {
            let disk = disk();
            fail_at(&disk, step, Fault::Error(io::ErrorKind::StorageFull));
            assert!(replace_on(&disk, Path::new(PATH), NEW).is_err(), "{op:?}");
            let expected = if *op == Op::SyncDir { NEW } else { OLD };
            assert_eq!(content(&disk), expected, "{op:?}");
            assert_eq!(disk.names(FOLDER), ["f.json"], "{op:?}");
            disk.no_plan();
            replace_on(&disk, Path::new(PATH), NEW).unwrap();
            assert_eq!(content(&disk.power_cut(1)), NEW, "{op:?}");
        }
    }
}
