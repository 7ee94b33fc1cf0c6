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
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::age::{ClockFile, StoreMillis, load_clock};
use super::checkpoint::{self, Checkpoint, Loaded, State};
use super::disk::{
    Disk, LockGuard, Mode, Unwritten, is_full, is_medium, read_all, read_patiently,
    write_atomically,
};
use super::engine::Tools;
use super::error::at;
use super::files::NAME_FILES;
use super::id::{Offset, QueueId};
use super::index::{Index, SegmentMeta};
use super::quarantine::{self, QUARANTINE};
use super::repair::repair;
use super::segment::{FORMAT_VERSION, Header, Key};
use super::stats::add;
use super::survey::{Found, Survey, judge, survey};
use super::{LOST_RANGES_MAX, LostRange, OpenError, RecoveryReport, Removed, RemovedWhy, slots};

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
    disk.sync_dir(dir).map_err(at(dir))?;
    let not_ours = [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem];
    for parent in dir.ancestors().skip(1) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match disk.sync_dir(parent) {
            // A folder that we may not open, or that is on a read-only volume, is one that we did not make.
            Err(error) if not_ours.contains(&error.kind()) => break,
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
    /// The checkpoint may be older than what was unlinked on account of one.
    is_stale: bool,
    segments: Vec<Found>,
    leftovers: Vec<PathBuf>,
}

/// Recovers every queue.
pub(super) fn recover(
    tools: &Tools,
) -> Result<(Vec<Recovered>, ClockFile, RecoveryReport), OpenError> {
    let dir = &tools.config.dir;
    let clock = load_clock(&*tools.disk, dir)?;
    let (mut folders, mut nameless) = (Vec::new(), 0);
    for entry in tools.disk.list(dir).map_err(at(dir))? {
        if !entry.is_dir || entry.name == QUARANTINE {
            continue;
        }
        let path = dir.join(&entry.name);
        match queue_of(&*tools.disk, &entry.name, &path)? {
            Some(id) => folders.push(read_folder(tools, id, path)?),
            None => {
                let is_ours = QueueId::is_short_folder(&entry.name)
                    && holds_segments(&*tools.disk, &path).map_err(at(&path))?;
                nameless += u64::from(is_ours);
                tracing::warn!(path = %path.display(), "not a queue's folder, or its name is damaged: left alone")
            }
        }
    }
    // All of it is understood: from here on things change.
    make_quarantine(tools)?;
    let queues = folders.len();
    let mut report = RecoveryReport { queues, nameless, ..RecoveryReport::default() };
    let clock_file = start_clock(tools, clock, &mut report);
    let mut recovered = Vec::new();
    for folder in folders {
        if folder.segments.is_empty() && folder.checkpoint == Loaded::Missing {
            // Half made or half deleted. Removed, not completed: that needs no room on a full volume.
            remove_husk(tools, &folder).map_err(at(&folder.path))?;
            report.queues -= 1;
        } else {
            recovered.push(recover_queue(tools, folder, &mut report)?);
        }
    }
    report.records = recovered.iter().map(|queue| queue.index.pending().0).sum();
    Ok((recovered, clock_file, report))
}

/// Recovers the queue of one folder that was left alone at start, since its name was damaged.
pub(super) fn adopt(
    tools: &Tools,
    id: &QueueId,
    folder: &Path,
    report: &mut RecoveryReport,
) -> Result<Recovered, OpenError> {
    let folder = read_folder(tools, id.clone(), folder.to_path_buf())?;
    let recovered = recover_queue(tools, folder, report)?;
    report.records = recovered.index.pending().0;
    Ok(recovered)
}

/// Whether there are segments in a folder.
pub(super) fn holds_segments(disk: &dyn Disk, folder: &Path) -> io::Result<bool> {
    let entries = disk.list(folder)?;
    Ok(entries.iter().any(|entry| Key::from_file_name(&entry.name).is_some()))
}

/// The queue of a folder; `None`: it is none's, or its name is damaged.
pub(super) fn queue_of(
    disk: &dyn Disk,
    name: &str,
    folder: &Path,
) -> Result<Option<QueueId>, OpenError> {
    if !QueueId::is_short_folder(name) {
        return Ok(QueueId::from_encoded(name));
    }
    for file in NAME_FILES {
        if let Some(id) = read_name(disk, &folder.join(file))?.filter(|id| id.folder() == name) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// What a name file says; `None`: it is not there, or damaged.
fn read_name(disk: &dyn Disk, path: &Path) -> Result<Option<QueueId>, OpenError> {
    let bytes = match disk.open(path, Mode::Read).and_then(|file| read_all(&*file)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound || is_medium(&error) => {
            return Ok(None);
        }
        other => other.map_err(at(path))?,
    };
    let text = String::from_utf8_lossy(&bytes);
    QueueId::from_name_file(&text).map_err(|found| newer(path, found))
}

/// Makes a damaged or missing name whole from its copy.
fn repair_name(tools: &Tools, folder: &Folder) -> Result<(), OpenError> {
    for name in NAME_FILES.iter().filter(|_| QueueId::is_short_folder(&folder.id.folder())) {
        let path = folder.path.join(name);
        if read_name(&*tools.disk, &path)?.as_ref() == Some(&folder.id) {
            continue;
        }
        match write_atomically(&*tools.disk, &path, folder.id.name_file().as_bytes()) {
            Err(Unwritten::Before(error)) if is_full(&error) => {
                tracing::warn!(path = %path.display(), "no room to repair a queue's name");
            }
            other => other.map_err(|unwritten| at(&path)(unwritten.into()))?,
        }
    }
    Ok(())
}

fn newer(path: &Path, found: u16) -> OpenError {
    OpenError::NewerFormat { path: path.to_path_buf(), found, known: FORMAT_VERSION }
}

/// A segment's header; `None` if it is damaged, or the medium does not give it back.
fn read_header(disk: &dyn Disk, path: &Path) -> Result<Option<Header>, OpenError> {
    let mut bytes = [0; 64];
    let read = disk.open(path, Mode::Read).and_then(|file| read_patiently(&*file, &mut bytes, 0));
    match read {
        Ok(read) => match Header::decode(&bytes[..read]) {
            Some(header) if header.version > FORMAT_VERSION => Err(newer(path, header.version)),
            header => Ok(header),
        },
        // What that means is judged when the rest is read.
        Err(error) if is_medium(&error) => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

/// The folder of damaged segments, within its bound.
fn make_quarantine(tools: &Tools) -> Result<(), OpenError> {
    let path = tools.config.dir.join(QUARANTINE);
    tools.disk.create_dir_all(&path).map_err(at(&path))?;
    tools.disk.sync_dir(&tools.config.dir).map_err(at(&tools.config.dir))?;
    if let Err(error) = quarantine::make_room(tools, 0) {
        tracing::warn!(path = %path.display(), %error, "cannot tidy up the quarantine");
    }
    Ok(())
}

fn start_clock(
    tools: &Tools,
    loaded: slots::Loaded<StoreMillis>,
    report: &mut RecoveryReport,
) -> ClockFile {
    match loaded {
        slots::Loaded::State(saved) => tools.age.is_after(saved),
        slots::Loaded::Damaged => {
            report.clock_lost = true;
            tracing::error!(
                "the store's clock is damaged: messages may live longer than they should"
            );
        }
        _ => {}
    }
    ClockFile::open(&*tools.lane_disk, &tools.config.dir, loaded)
}

/// Looks into a folder without changing anything; refuses what a newer program wrote.
fn read_folder(tools: &Tools, id: QueueId, path: PathBuf) -> Result<Folder, OpenError> {
    let disk = &*tools.disk;
    let checkpoint_path = path.join(checkpoint::FILE_NAME);
    let (checkpoint, is_stale) = Checkpoint::look(disk, &path).map_err(at(&checkpoint_path))?;
    if let Loaded::Newer(found) = checkpoint {
        return Err(newer(&checkpoint_path, found));
    }
    let (mut segments, mut leftovers) = (Vec::new(), Vec::new());
    for entry in disk.list(&path).map_err(at(&path))? {
        let file_path = path.join(&entry.name);
        if let Some(key) = Key::from_file_name(&entry.name) {
            let header = read_header(disk, &file_path)?;
            segments.push(Found { key, header });
        } else if entry.name.ends_with(".tmp") {
            leftovers.push(file_path);
        }
    }
    segments.sort_unstable_by_key(|found: &Found| found.key);
    Ok(Folder { id, path, checkpoint, is_stale, segments, leftovers })
}

/// Removes a queue's folder that never held a record, or holds none any more.
fn remove_husk(tools: &Tools, folder: &Folder) -> io::Result<()> {
    for entry in tools.disk.list(&folder.path)? {
        let is_ours =
            entry.name == checkpoint::FILE_NAME || NAME_FILES.contains(&entry.name.as_str());
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
    repair_name(tools, &folder)?;
    let mut surveys = Vec::new();
    let known_durable = match folder.checkpoint {
        // One more than what is settled: a segment that cannot be read is a loss.
        Loaded::State(state) => state.durable_below.max(Offset(state.settled_below.0 + 1)),
        _ => Offset(0),
    };
    for (i, found) in folder.segments.iter().enumerate() {
        let first = found.key.first;
        let later = folder.segments[i + 1..].iter().find(|later| later.key.first > first);
        let upper = later.map_or(u64::MAX, |later| later.key.first.0);
        let path = folder.path.join(found.key.file_name());
        let survey = survey(tools, &path, *found, upper, known_durable)?;
        tools.age.is_after(survey.newest);
        surveys.push(survey);
    }
    let mut surveys = bury(tools, &folder, surveys)?;
    let state = match folder.checkpoint {
        Loaded::State(state) => state,
        // Everything that is still there is handed out again: duplicates, no loss.
        _ => {
            report.checkpoints_lost += 1;
            let settled_below = folder.segments.first().map_or(Offset(0), |found| found.key.first);
            State { settled_below, durable_below: Offset(0) }
        }
    };
    let known = known_settled(&folder, &surveys, state);
    let (end, lost) = judge(&mut surveys, &known, report);
    let mut segments = VecDeque::new();
    for (i, survey) in surveys.iter().enumerate() {
        // Up to the next one that stays: its seal covers the gaps, so that they are counted once.
        let later =
            surveys[i + 1..].iter().find(|later| later.meta.records > 0 || later.is_tombstone());
        let next = later.map_or(end, |later| later.meta.key.first);
        segments.extend(repair(tools, &folder.path, survey, next, report)?);
    }
    tools.disk.sync_dir(&folder.path).map_err(at(&folder.path))?;
    let id = folder.id.clone();
    let recovered = finish(tools, folder, state, segments, end)?;
    // A start that fails before this finds them again.
    tell_lost(tools, &id, lost, report);
    Ok(recovered)
}

/// Below which offset nothing is missed. Segments are unlinked from the front, on account of a checkpoint: if that one is
/// damaged and an older one stands in for it, what is not there at the front had been settled.
fn known_settled(folder: &Folder, surveys: &[Survey], state: State) -> State {
    if !folder.is_stale {
        return state;
    }
    let front = surveys.first().map_or(state.durable_below, |first| first.meta.key.first);
    State { settled_below: state.settled_below.max(front), ..state }
}

/// Says which records are lost: they are gone like others that the store removes.
fn tell_lost(tools: &Tools, id: &QueueId, lost: Vec<Range<Offset>>, report: &mut RecoveryReport) {
    for offsets in lost {
        if report.lost.len() < LOST_RANGES_MAX {
            report.lost.push(LostRange { queue: id.clone(), offsets: offsets.clone() });
        }
        let (records, with_reader, payload_bytes) = (offsets.end.0 - offsets.start.0, 0, 0);
        let (queue, why) = (id.clone(), RemovedWhy::Unreadable);
        tools.teller.tell(Removed { queue, offsets, records, with_reader, payload_bytes, why });
    }
}

/// Unlinks what had expired and outlived a crash. It is not told of: most of it was before the crash.
fn bury(tools: &Tools, folder: &Folder, surveys: Vec<Survey>) -> Result<Vec<Survey>, OpenError> {
    let is_buried = |one: &Survey| surveys.iter().any(|other| other.buries(one));
    let buried: Vec<bool> = surveys.iter().map(is_buried).collect();
    let mut left = Vec::new();
    for (survey, is_buried) in surveys.into_iter().zip(buried) {
        if is_buried {
            let path = folder.path.join(survey.meta.key.file_name());
            tools.disk.remove_file(&path).map_err(at(&path))?;
            tracing::info!(path = %path.display(), records = survey.meta.records, "expired before the restart");
            add(&tools.counters.expired_records, survey.meta.records);
        } else {
            left.push(survey);
        }
    }
    Ok(left)
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
            // An older format is written anew at once.
            let is_old = checkpoint.is_old();
            let wanted = State { settled_below: settled, durable_below: end };
            if is_old || wanted != checkpoint.state() {
                match checkpoint.write(settled, end) {
                    // No room for it on a full volume that copies on write: it is written with the next settle.
                    Err(error) if is_full(&error) => {}
                    other => other.map_err(at(path))?,
                }
            }
            checkpoint
        }
        _ => {
            let state = State { settled_below: settled, durable_below: end };
            Checkpoint::create(disk, path, state).map_err(at(path))?
        }
    };
    let durable = match checkpoint.write_again() {
        // A volume that copies on write has no room even for what is there: later, and nothing is freed until then.
        Err(error) if is_full(&error) => false,
        other => other.and_then(|()| checkpoint.sync()).map_err(at(path))?,
    };
    while durable && segments.front().is_some_and(|segment| segment.next <= settled) {
        let dead = segments.pop_front().expect("just seen");
        let path = path.join(dead.key.file_name());
        disk.remove_file(&path).map_err(at(&path))?;
    }
    disk.sync_dir(path).map_err(at(path))?;
    let index = Index { segments, settled };
    Ok(Recovered { id: folder.id, folder: folder.path, checkpoint, index, end })
}
