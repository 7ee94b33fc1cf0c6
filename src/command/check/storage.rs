//! The storage folder: whether it can be written, on what it lies, how fast it syncs, how long it lasts.
//!
//! Owns: the measurement with small files, which are removed, and the judgement. `doctor disk` measures more.
//! Must not know: the configuration.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Finding, Group};
use crate::clock::{self, SharedClock};
use crate::command::doctor::{IN_MEMORY, MESSAGES_PER_SEC, OVER_A_NETWORK, RECORD_BYTES, Volume};
use crate::command::text::{bytes, micros, span};
use crate::store::disk::Mode;
use crate::store::{Disk, RealDisk, own_user};

/// Synced writes that are measured.
const SYNCS: usize = 20;
/// As a small message's record.
const SYNC_BYTES: usize = 512;
/// A card that hangs does not get all of them.
const SYNCS_TIME_MAX: Duration = Duration::from_secs(5);
/// PUBACKs that wait longer at the median: devices with short timeouts send again.
const SLOW_MICROS: u64 = 100_000;
/// What the store leaves to others, unless it is set.
const MIN_FREE_BYTES: u64 = 64 << 20;
/// Below this a start finds hardly any room to work.
const FREE_BYTES_MIN: u64 = 256 << 20;
/// A record's header and padding on disk.
const RECORD_OVERHEAD_BYTES: usize = 40;
/// A store that lasts less than this is no bridge over an outage.
const LASTS_MIN: Duration = Duration::from_secs(3600);

/// What is examined.
#[derive(Debug, Clone)]
pub struct Place {
    /// What `StorageFolder` says.
    pub folder: PathBuf,
    /// The store's own folder.
    pub queues: PathBuf,
    /// The most that the store may take; `None` = what the volume has.
    pub budget_bytes: Option<u64>,
    /// What is left to others; `None` = the store's own default.
    pub min_free_bytes: Option<u64>,
}

/// Examines the folder. Blocks on the disk.
pub fn examine(place: &Place, root: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let measured = within(&place.folder, |probe| synced_writes(probe, &clock::system()));
    match measured {
        Ok(samples) => {
            findings.push(match below(place) {
                Ok(()) => {
                    let text =
                        format!("{} can be written by uid {}", place.folder.display(), uid());
                    Group::Storage.ok("storage-writable", text)
                }
                Err((path, error)) => unwritable(&path, &error),
            });
            findings.push(of_sync(samples));
        }
        Err(error) => {
            findings.push(unwritable(&place.folder, &error));
            let why = "the folder cannot be written";
            findings.push(Group::Storage.skipped("storage-sync", why));
        }
    }
    match Volume::of(&place.folder) {
        Ok(volume) if volume.total_bytes == 0 => {
            let why = "the volume does not tell its size";
            findings.push(Group::Storage.skipped("storage-room", why));
        }
        Ok(volume) => {
            findings.extend(of_file_system(&volume));
            findings.extend(of_room(&volume, place));
        }
        Err(error) => {
            let why = format!("the volume tells nothing ({error})");
            findings.push(Group::Storage.skipped("storage-room", why));
        }
    }
    findings.extend(of_lock(&place.queues.join("lock"), root));
    findings
}

/// Has `write` try a new file in `folder`. Whatever came of it: nothing stays behind.
fn within<T>(folder: &Path, write: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let probe = folder.join(format!(".sphere-gateway-check-{}", std::process::id()));
    let written = write(&probe);
    let _ = std::fs::remove_file(&probe);
    written
}

/// What an earlier start made in the folder: as another user, perhaps. The first thing that this one may not write.
fn below(place: &Place) -> Result<(), (PathBuf, io::Error)> {
    let own = place.queues.parent().unwrap_or(&place.queues);
    for folder in [own, &place.queues] {
        let refused = |error| Err((folder.to_owned(), error));
        match std::fs::metadata(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return refused(error),
            Ok(_) => {}
        }
        let touched = within(folder, |probe| RealDisk.open(probe, Mode::CreateNew).map(drop));
        if let Err(error) = touched.and_then(|()| reach(folder)) {
            return refused(error);
        }
        // Of a volume that is mounted here; it is root's, always.
        let is_ours = |entry: &std::fs::DirEntry| entry.file_name() != "lost+found";
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten().filter(is_ours) {
            reach(&entry.path()).map_err(|error| (entry.path(), error))?;
        }
    }
    // Each queue has a folder of segments.
    let queues = std::fs::read_dir(&place.queues).into_iter().flatten().flatten();
    for file in queues.flat_map(|queue| std::fs::read_dir(queue.path())).flatten().flatten() {
        reach(&file.path()).map_err(|error| (file.path(), error))?;
    }
    Ok(())
}

/// Whether this user may read and write it, and enter it if it is a folder. Only asks.
fn reach(path: &Path) -> io::Result<()> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    let kind = match std::fs::symlink_metadata(path) {
        Ok(facts) => facts.file_type(),
        // A gateway that runs deletes what it no longer needs.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut wanted = Access::READ_OK | Access::WRITE_OK;
    if kind.is_dir() {
        wanted |= Access::EXEC_OK;
    }
    match accessat(CWD, path, wanted, AtFlags::EACCESS).map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        answer => answer,
    }
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Microseconds of each.
fn synced_writes(probe: &Path, clock: &SharedClock) -> io::Result<Vec<u64>> {
    let file = RealDisk.open(probe, Mode::CreateNew)?;
    let block = [0x5a; SYNC_BYTES];
    let began = clock.monotonic();
    let mut samples = Vec::new();
    for at in (0u64..).step_by(SYNC_BYTES).take(SYNCS) {
        let before = clock.monotonic();
        file.write_at(&block, at)?;
        file.sync_data()?;
        let now = clock.monotonic();
        let took = now.saturating_duration_since(before).as_micros();
        samples.push(u64::try_from(took).unwrap_or(u64::MAX));
        if now.saturating_duration_since(began) > SYNCS_TIME_MAX {
            break;
        }
    }
    Ok(samples)
}

fn unwritable(folder: &Path, error: &io::Error) -> Finding {
    let (shown, uid) = (folder.display(), uid());
    let text = format!("{shown} cannot be written by uid {uid}: {error}");
    let todo = match error.kind() {
        io::ErrorKind::NotFound if !folder.exists() => format!(
            "make the folder: on the host mkdir -p, then chown {uid} it, and bind it into the container as {shown}"
        ),
        io::ErrorKind::ReadOnlyFilesystem => {
            format!(
                "{shown} is mounted read-only: bind a folder of the host there that can be written"
            )
        }
        io::ErrorKind::StorageFull => "make room on the volume".to_owned(),
        io::ErrorKind::NotADirectory => format!("{shown} is no folder: set StorageFolder to one"),
        _ => {
            let owner = std::fs::metadata(folder).map_or_else(
                |_| String::new(),
                |facts| format!(" ({shown} belongs to uid {})", facts.uid()),
            );
            let user = own_user();
            format!("on the host: chown -R {user} the folder that is bound to StorageFolder{owner}")
        }
    };
    Group::Storage.error("storage-writable", text, todo)
}

fn of_sync(mut samples: Vec<u64>) -> Finding {
    const ID: &str = "storage-sync";
    samples.sort_unstable();
    let median = samples.get(samples.len() / 2).copied().unwrap_or(0);
    let worst = samples.last().copied().unwrap_or(0);
    let text = format!(
        "a synced write takes {} at the median, {} at the worst of {}: so long a PUBACK waits for the disk",
        micros(median),
        micros(worst),
        samples.len()
    );
    if median > SLOW_MICROS {
        let todo = "use a faster medium (an industrial SD card, eMMC or an SSD) and keep other writers off it; `doctor disk` \
                    measures more";
        return Group::Storage.warning(ID, text, todo);
    }
    Group::Storage.ok(ID, text)
}

fn of_file_system(volume: &Volume) -> Option<Finding> {
    const ID: &str = "storage-file-system";
    let kind = volume.file_system.as_deref()?;
    let options = volume.options.as_deref().unwrap_or_default();
    let mut options = options.split(',');
    if IN_MEMORY.contains(&kind) {
        let text = format!("{kind} is memory: messages die with the machine or the container");
        return Some(Group::Storage.warning(ID, text, "bind a folder of a disk to StorageFolder"));
    }
    if ["overlay", "overlayfs", "aufs"].contains(&kind) {
        let text = format!("{kind} is the container's own layer: messages die with the container");
        let todo = "bind a folder of the host (HostConfig.Binds) to StorageFolder";
        return Some(Group::Storage.warning(ID, text, todo));
    }
    if OVER_A_NETWORK.contains(&kind) {
        let text = format!("{kind} is a network file system: as safe as its server's disk");
        return Some(Group::Storage.warning(ID, text, "use a local disk"));
    }
    if let Some(option) = options.find(|o| ["nobarrier", "barrier=0", "eatmydata"].contains(o)) {
        let text = format!("mounted with {option}: a power cut loses acknowledged messages");
        return Some(Group::Storage.error(ID, text, "mount it without that option"));
    }
    Some(Group::Storage.ok(ID, format!("the folder lies on {kind}")))
}

fn of_room(volume: &Volume, place: &Place) -> Vec<Finding> {
    let free = volume.free_bytes;
    let text = format!("{} of {} are free", bytes(free), bytes(volume.total_bytes));
    let min_free = place.min_free_bytes.unwrap_or(MIN_FREE_BYTES.min(volume.total_bytes / 10));
    let room = if free <= min_free {
        let text =
            format!("{text}, and {} are left to others: messages are refused", bytes(min_free));
        let todo = "make room on the volume, or lower storeSettings__minFreeBytes";
        Group::Storage.error("storage-room", text, todo)
    } else if free < FREE_BYTES_MIN {
        let todo = "make room on the volume, or devices are soon refused";
        Group::Storage.warning("storage-room", text, todo)
    } else {
        Group::Storage.ok("storage-room", text)
    };
    let (free, used) = (free.saturating_sub(min_free), used_bytes(&place.queues));
    vec![room, of_budget(free, used, place.budget_bytes)]
}

/// Bytes of the store's files. A queue is a folder of the store's.
fn used_bytes(queues: &Path) -> u64 {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries(queues).flat_map(|queue| entries(&queue.path()));
    files.filter_map(|file| file.metadata().ok()).map(|facts| facts.len()).sum()
}

/// How long what is left of the store's size lasts.
fn of_budget(free: u64, used: u64, budget: Option<u64>) -> Finding {
    const ID: &str = "storage-budget";
    let size = budget.unwrap_or(free.saturating_add(used));
    let left = size.saturating_sub(used);
    let record = (RECORD_BYTES + RECORD_OVERHEAD_BYTES) as f64;
    #[allow(clippy::cast_precision_loss, reason = "a rough span")]
    let lasts = left.min(free) as f64 / (MESSAGES_PER_SEC * record);
    let text = format!(
        "the store has {} of {}; the rest lasts {} without the hub at {MESSAGES_PER_SEC:.0} messages of {RECORD_BYTES} B a \
         second",
        bytes(used),
        bytes(size),
        span(lasts)
    );
    if left > free {
        let text = format!("{text}; the volume has only {} for it", bytes(free));
        let todo = "make room, or lower storeSettings__maxSizeBytes to what there is";
        return Group::Storage.warning(ID, text, todo);
    }
    if lasts < LASTS_MIN.as_secs_f64() {
        let todo = "raise storeSettings__maxSizeBytes (and storeLimits of the document), or take a larger volume";
        return Group::Storage.warning(ID, text, todo);
    }
    Group::Storage.ok(ID, text)
}

/// Who holds the store's lock, by the kernel's list of locks: to take it, even for a moment, could end the start of a gateway.
fn of_lock(lock: &Path, root: &Path) -> Option<Finding> {
    const ID: &str = "storage-lock";
    let Ok(facts) = std::fs::metadata(lock) else {
        return Some(Group::Storage.ok(ID, "there is no store yet: a start makes it"));
    };
    let locks = std::fs::read_to_string(root.join("proc/locks")).ok()?;
    Some(match holder(&locks, facts.dev(), facts.ino()) {
        Some(process) => {
            let text =
                format!("process {process} uses the store: a second gateway would refuse to start");
            Group::Storage.ok(ID, text)
        }
        None => Group::Storage.ok(ID, "no process of this container uses the store"),
    })
}

/// `1: FLOCK  ADVISORY  WRITE 1234 08:02:5678 0 EOF`: the process; device in hex.
fn holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        (words.next()? == "FLOCK").then_some(())?;
        let process = words.nth(2)?.parse().ok()?;
        (words.next()? == file).then_some(process)
    })
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn place(folder: &Path) -> Place {
        let folder = folder.to_owned();
        let queues = folder.join("edgeHub/queues");
        Place { folder, queues, budget_bytes: None, min_free_bytes: Some(0) }
    }

    fn status(found: &[Finding], id: &str) -> (Status, String, String) {
        let finding = found.iter().find(|f| f.id == id);
        let finding = finding.unwrap_or_else(|| panic!("no {id} in {found:#?}"));
        (finding.status, finding.what.clone(), finding.todo.clone().unwrap_or_default())
    }

    #[test]
    fn a_folder_is_measured_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let found = examine(&place(folder.path()), Path::new("/"));
        assert_eq!(status(&found, "storage-writable").0, Status::Ok);
        assert!(status(&found, "storage-sync").1.contains("of 20"), "{found:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(found.iter().all(|f| f.status != Status::Error), "{found:?}");
    }

    #[test]
    fn a_folder_that_cannot_be_written_says_by_whom_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        for (path, todo) in [
            (folder.path().join("gone"), "mkdir -p"),
            (file, "is no folder"),
            // Nobody makes files there, root neither.
            (PathBuf::from("/sys/kernel"), "chown -R"),
        ] {
            let found = examine(&place(&path), Path::new("/"));
            let (is, what, said) = status(&found, "storage-writable");
            assert_eq!(is, Status::Error, "{found:?}");
            assert!(what.contains(&format!("by uid {}", uid())), "{what}");
            assert!(said.contains(todo), "{said}");
            assert_eq!(status(&found, "storage-sync").0, Status::Skipped);
        }
    }

    /// Nobody makes files below /sys, root neither: as what an earlier start as root left to another user.
    #[test]
    fn what_an_earlier_start_left_is_tried_too() {
        let folder = tempfile::tempdir().unwrap();
        for queues in ["/sys/kernel", "/sys/kernel/gone"] {
            let place = Place { queues: queues.into(), ..place(folder.path()) };
            let found = examine(&place, Path::new("/"));
            let (is, what, todo) = status(&found, "storage-writable");
            assert_eq!(is, Status::Error, "{found:?}");
            assert!(what.starts_with("/sys"), "{what}");
            assert!(todo.contains(&format!("chown -R {}", own_user())), "{todo}");
            assert_eq!(status(&found, "storage-sync").0, Status::Ok, "the folder can be written");
        }
        let ours = place(folder.path());
        std::fs::create_dir_all(ours.queues.join("iothub.10")).unwrap();
        std::fs::write(ours.queues.join("iothub.10/segment"), "x").unwrap();
        let found = examine(&ours, Path::new("/"));
        assert_eq!(status(&found, "storage-writable").0, Status::Ok, "{found:?}");
        assert_eq!(std::fs::read_dir(&ours.queues).unwrap().count(), 1, "nothing stays behind");
    }

    #[test]
    fn file_systems_and_room_have_their_verdicts() {
        let of = |kind: &str, options: &str| {
            let volume = Volume {
                file_system: Some(kind.to_owned()),
                options: Some(options.to_owned()),
                ..Volume::default()
            };
            of_file_system(&volume).unwrap().status
        };
        for (kind, options, expected) in [
            ("ext4", "rw,relatime", Status::Ok),
            ("overlay", "rw", Status::Warning),
            ("tmpfs", "rw", Status::Warning),
            ("nfs4", "rw", Status::Warning),
            ("ext4", "rw,nobarrier", Status::Error),
        ] {
            assert_eq!(of(kind, options), expected, "{kind} {options}");
        }
        let room = |free_bytes, budget_bytes, min_free_bytes| {
            let volume = Volume { free_bytes, total_bytes: 1 << 40, ..Volume::default() };
            let place = Place { budget_bytes, min_free_bytes, ..place(Path::new("/s")) };
            of_room(&volume, &place).iter().map(|f| f.status).collect::<Vec<_>>()
        };
        const GIB: u64 = 1 << 30;
        assert_eq!(room(8 * GIB, None, None), [Status::Ok, Status::Ok]);
        assert_eq!(room(8 * GIB, Some(GIB), None), [Status::Ok, Status::Ok]);
        assert_eq!(room(8 * GIB, Some(9 * GIB), None), [Status::Ok, Status::Warning]);
        assert_eq!(room(8 * GIB, Some(4 << 20), None), [Status::Ok, Status::Warning]);
        assert_eq!(room(GIB / 8, None, Some(0)), [Status::Warning, Status::Ok]);
        assert_eq!(room(GIB, None, Some(GIB)), [Status::Error, Status::Warning]);
    }

    #[test]
    fn what_the_store_has_counts_against_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let queue = folder.path().join("iothub.10");
        std::fs::create_dir(&queue).unwrap();
        std::fs::write(queue.join("a"), vec![0; 5000]).unwrap();
        std::fs::write(folder.path().join("lock"), "x").unwrap();
        assert_eq!(used_bytes(folder.path()), 5000);
        assert_eq!(used_bytes(&folder.path().join("gone")), 0);
        const GIB: u64 = 1 << 30;
        assert_eq!(of_budget(8 * GIB, GIB, Some(2 * GIB)).status, Status::Ok);
        let full = of_budget(8 * GIB, 2 * GIB, Some(2 * GIB));
        assert_eq!(full.status, Status::Warning);
        assert!(full.what.contains("has 2.0 GiB of 2.0 GiB; the rest lasts 0 s"), "{full:?}");
        // Where the volume is the limit, what the store has is not to be had again.
        assert!(of_budget(8 * GIB, GIB, None).what.contains("1.0 GiB of 9.0 GiB"));
    }

    #[test]
    fn slow_syncs_are_told() {
        assert_eq!(of_sync(vec![5000; 20]).status, Status::Ok);
        assert_eq!(of_sync([vec![5000; 19], vec![1_000_000]].concat()).status, Status::Ok);
        assert_eq!(of_sync(vec![100_001; 20]).status, Status::Warning);
    }

    #[test]
    fn the_holder_of_the_lock_is_found_without_taking_it() {
        let device = rustix::fs::makedev(8, 18);
        let locks = "1: POSIX  ADVISORY  WRITE 7 08:12:99 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 08:12:99 0 EOF\n";
        assert_eq!(holder(locks, device, 99), Some(4711));
        assert_eq!(holder(locks, device, 98), None);
        assert_eq!(holder("", device, 99), None);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let _held = RealDisk.lock(&path).unwrap().unwrap();
        let found = of_lock(&path, Path::new("/")).unwrap();
        let own = format!("process {} uses the store", std::process::id());
        assert!(found.what.starts_with(&own), "{found:?}");
    }
}
