//! From whatever a crash left in the folder to queues that can be used.
//!
//! Owns: the lock and the order of a start: look ([`super::survey`]), repair ([`super::repair`]), checkpoint. Rules: a record that is intact is
//! kept, whatever lies before it; a missing one is *lost* if something proves that it had been durable, else *torn*
//! (never acknowledged); every loss is counted once, in the start that finds it; nothing is changed before it is known
//! that this program understands all that is there. What recovery keeps it also syncs: after a kill -9 the page cache
//! may know more than the disk.
//! Must not know: the writer.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use super::checkpoint::{self, Checkpoint, Loaded, State};
use super::disk::{Disk, LockGuard, Mode, read_all};
use super::engine::Tools;
use super::error::at;
use super::files::NAME_FILE;
use super::id::{Offset, QueueId};
use super::queue::{Index, SegmentMeta};
use super::repair::{QUARANTINE, repair};
use super::segment::{self, FORMAT_VERSION, Key};
use super::survey::{judge, survey};
use super::{OpenError, RecoveryReport};

const LOCK_FILE: &str = "lock";

/// A queue as recovery hands it over. All its segments are sealed.
pub(super) struct Recovered {
    pub(super) id: QueueId,
    pub(super) folder: PathBuf,
    pub(super) checkpoint: Checkpoint,
    pub(super) index: Index,
    pub(super) end: Offset,
}

/// Makes the store's folder, durably, and locks it.
pub(super) fn prepare_folder(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn LockGuard>, OpenError> {
    disk.create_dir_all(dir).map_err(at(dir))?;
    let lock = disk.lock(&dir.join(LOCK_FILE)).map_err(at(dir))?;
    let lock = lock.ok_or_else(|| OpenError::Locked(dir.to_path_buf()))?;
    let quarantine = dir.join(QUARANTINE);
    disk.create_dir_all(&quarantine).map_err(at(&quarantine))?;
    disk.sync_dir(dir).map_err(at(dir))?;
    for parent in dir.ancestors().skip(1) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match disk.sync_dir(parent) {
            // A folder that we may not open is one that we did not make.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            other => other.map_err(at(parent))?,
        }
    }
    Ok(lock)
}

/// What is in a queue's folder.
struct Folder {
    id: QueueId,
    path: PathBuf,
    checkpoint: Loaded,
    keys: Vec<Key>,
    leftovers: Vec<PathBuf>,
}

/// Recovers every queue.
pub(super) fn recover(tools: &Tools) -> Result<(Vec<Recovered>, RecoveryReport), OpenError> {
    let dir = &tools.config.dir;
    let mut folders = Vec::new();
    for entry in tools.disk.list(dir).map_err(at(dir))? {
        if !entry.is_dir || entry.name == QUARANTINE {
            continue;
        }
        let path = dir.join(&entry.name);
        match queue_of(&*tools.disk, &entry.name, &path) {
            Some(id) => folders.push(read_folder(tools, id, path)?),
            None => tracing::warn!(path = %path.display(), "not a queue's folder: left alone"),
        }
    }
    let mut report = RecoveryReport { queues: folders.len(), ..RecoveryReport::default() };
    let mut recovered = Vec::new();
    for folder in folders {
        if folder.keys.is_empty() && folder.checkpoint == Loaded::Missing {
            // Half made or half deleted. Removed, not completed: that needs no room on a full volume.
            remove_husk(tools, &folder).map_err(at(&folder.path))?;
            report.queues -= 1;
        } else {
            recovered.push(recover_queue(tools, folder, &mut report)?);
        }
    }
    report.records = recovered.iter().map(|queue| queue.index.pending().0).sum();
    Ok((recovered, report))
}

fn queue_of(disk: &dyn Disk, name: &str, path: &Path) -> Option<QueueId> {
    if !QueueId::is_short_folder(name) {
        return QueueId::from_encoded(name);
    }
    let file = disk.open(&path.join(NAME_FILE), Mode::Read).ok()?;
    let text = String::from_utf8(read_all(&*file).ok()?).ok()?;
    QueueId::from_encoded(&text).filter(|id| id.folder() == name)
}

/// Looks into a folder without changing anything; refuses what a newer program wrote.
fn read_folder(tools: &Tools, id: QueueId, path: PathBuf) -> Result<Folder, OpenError> {
    let disk = &*tools.disk;
    let checkpoint = Checkpoint::load(disk, &path).map_err(at(&path))?;
    if let Loaded::Newer(found) = checkpoint {
        let path = path.join(checkpoint::FILE_NAME);
        return Err(OpenError::NewerFormat { path, found, known: FORMAT_VERSION });
    }
    let (mut keys, mut leftovers) = (Vec::new(), Vec::new());
    for entry in disk.list(&path).map_err(at(&path))? {
        let file_path = path.join(&entry.name);
        if let Some(key) = Key::from_file_name(&entry.name) {
            let file = disk.open(&file_path, Mode::Read).map_err(at(&file_path))?;
            let mut header = [0; 64];
            let read = file.read_at(&mut header, 0).map_err(at(&file_path))?;
            if let Some(found) = segment::newer_version(&header[..read]) {
                let path = file_path;
                return Err(OpenError::NewerFormat { path, found, known: FORMAT_VERSION });
            }
            keys.push(key);
        } else if entry.name.ends_with(".tmp") {
            leftovers.push(file_path);
        }
    }
    keys.sort_unstable();
    Ok(Folder { id, path, checkpoint, keys, leftovers })
}

/// Removes a queue's folder that never held a record, or holds none any more.
fn remove_husk(tools: &Tools, folder: &Folder) -> io::Result<()> {
    for entry in tools.disk.list(&folder.path)? {
        let is_ours = [checkpoint::FILE_NAME, NAME_FILE].contains(&entry.name.as_str());
        if is_ours || entry.name.ends_with(".tmp") {
            tools.disk.remove_file(&folder.path.join(&entry.name))?;
        }
    }
    match tools.disk.remove_dir(&folder.path) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            tracing::warn!(path = %folder.path.display(), "holds files that are not ours: left alone");
            Ok(())
        }
        other => other.and_then(|()| tools.disk.sync_dir(&tools.config.dir)),
    }
}

fn recover_queue(
    tools: &Tools,
    folder: Folder,
    report: &mut RecoveryReport,
) -> Result<Recovered, OpenError> {
    for path in &folder.leftovers {
        tools.disk.remove_file(path).map_err(at(path))?;
    }
    let mut surveys = Vec::new();
    for (i, key) in folder.keys.iter().enumerate() {
        let later = folder.keys[i + 1..].iter().find(|later| later.first > key.first);
        let upper = later.map_or(u64::MAX, |later| later.first.0);
        surveys.push(survey(tools, &folder.path.join(key.file_name()), *key, upper)?);
    }
    let state = match folder.checkpoint {
        Loaded::State(state) => state,
        // Everything that is still there is handed out again: duplicates, no loss.
        _ => {
            report.checkpoints_lost += 1;
            let settled_below = folder.keys.first().map_or(Offset(0), |key| key.first);
            State { settled_below, ..State::default() }
        }
    };
    let end = judge(&mut surveys, &state, report);
    let mut segments = VecDeque::new();
    for (i, survey) in surveys.iter().enumerate() {
        // Up to the next one that stays: its seal covers the gaps, so that they are counted once.
        let later = surveys[i + 1..].iter().find(|later| later.meta.records > 0);
        let next = later.map_or(end, |later| later.meta.key.first);
        segments.extend(repair(tools, &folder.path, survey, next, report)?);
    }
    tools.disk.sync_dir(&folder.path).map_err(at(&folder.path))?;
    finish(tools, folder, state, segments, end)
}

/// Writes the checkpoint that holds for what is left, and frees what it makes free.
fn finish(
    tools: &Tools,
    folder: Folder,
    state: State,
    mut segments: VecDeque<SegmentMeta>,
    end: Offset,
) -> Result<Recovered, OpenError> {
    let path = &folder.path;
    let disk = &**tools.disk_of(&folder.id);
    let first_pending = segments.iter().find(|segment| segment.next > state.settled_below);
    // What is missing at the front has been counted: it is over.
    let settled = first_pending.map_or(end, |s| s.key.first.max(state.settled_below));
    let mut checkpoint = match folder.checkpoint {
        Loaded::State(_) => {
            let mut checkpoint = Checkpoint::open(disk, path).map_err(at(path))?;
            if (settled, end) != (state.settled_below, state.durable_below) {
                checkpoint.write(settled, end).map_err(at(path))?;
            }
            checkpoint
        }
        _ => {
            let state = State { settled_below: settled, durable_below: end, ..state };
            Checkpoint::create(disk, path, state).map_err(at(path))?
        }
    };
    if !checkpoint.sync().map_err(at(path))? {
        return Err(at(path)(io::ErrorKind::StorageFull.into()));
    }
    while segments.front().is_some_and(|segment| segment.next <= settled) {
        let dead = segments.pop_front().expect("just seen");
        let path = path.join(dead.key.file_name());
        disk.remove_file(&path).map_err(at(&path))?;
    }
    disk.sync_dir(path).map_err(at(path))?;
    let index = Index { segments, settled };
    Ok(Recovered { id: folder.id, folder: folder.path, checkpoint, index, end })
}
