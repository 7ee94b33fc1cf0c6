//! A small file that is replaced whole or not at all: what the gateway knows and must know again after a restart.
//!
//! Owns: the way to replace it (new file, fsync, rename, folder fsync), and to set aside one that is damaged.
//! Invariants: whenever the power goes, the old content or the new one is there; the owner alone can read it; nothing is
//! ever deleted but what a failed try left; a read is bounded. Must not know: what is in it, but for its version.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

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
