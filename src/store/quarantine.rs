//! Segments with lost records, kept aside for a person to look at.
//!
//! Owns: the folder `quarantine`, the names in it, and its bound: the oldest go when there is no room for the newest.
//! Must not know: how damage is judged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::disk::{Mode, Unwritten, is_full, write_atomically};
use super::engine::{Failure, Tools};

/// The folder, in the store's folder.
pub(super) const QUARANTINE: &str = "quarantine";

/// A file in the folder.
struct Kept {
    path: PathBuf,
    bytes: u64,
    /// By its name.
    millis: u64,
}

fn folder(tools: &Tools) -> PathBuf {
    tools.config.dir.join(QUARANTINE)
}

/// The place of a segment in the folder.
fn place_of(tools: &Tools, path: &Path) -> PathBuf {
    let name = |path: Option<&Path>| -> String {
        path.and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let (queue, file) = (name(path.parent()), name(Some(path)));
    // Later than all that are there, whatever the wall clock says: the oldest go first.
    let newest = kept(tools).ok().and_then(|kept| Some(kept.last()?.millis));
    let millis = newest.map_or(0, |millis| millis.saturating_add(1)).max(tools.clock.wall().0);
    folder(tools).join(format!("{queue}--{file}-{millis}"))
}

/// The files, the oldest first.
fn kept(tools: &Tools) -> io::Result<Vec<Kept>> {
    let folder = folder(tools);
    let mut kept = Vec::new();
    for entry in tools.disk.list(&folder)?.into_iter().filter(|entry| !entry.is_dir) {
        let path = folder.join(&entry.name);
        let millis = entry.name.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let bytes = tools.disk.open(&path, Mode::Read).and_then(|file| file.size()).unwrap_or(0);
        kept.push(Kept { path, bytes, millis });
    }
    kept.sort_by(|a, b| (a.millis, &a.path).cmp(&(b.millis, &b.path)));
    Ok(kept)
}

/// Removes the oldest until `more` bytes fit below the bound; says whether they do.
pub(super) fn make_room(tools: &Tools, more: u64) -> io::Result<bool> {
    let max = tools.bounds.quarantine;
    let fits = more <= max;
    shrink(tools, if fits { max - more } else { max }, more == 0)?;
    Ok(fits)
}

/// Gives up the oldest, for want of room, until at least `bytes` are free; says whether any was.
pub(super) fn give_up(tools: &Tools, bytes: u64) -> bool {
    let used = tools.counters.quarantine_bytes.load(Ordering::Relaxed);
    let given =
        used > 0 && shrink(tools, used.saturating_sub(bytes), false).is_ok_and(|left| left < used);
    if given {
        tracing::warn!("no room: gave up the oldest copies of damaged segments");
    }
    given
}

/// Removes the oldest until `goal` bytes are left; gives how many are. The newest may have been set aside just now, and be
/// the only one that holds its messages: it is spared unless others need the room.
fn shrink(tools: &Tools, goal: u64, spare_newest: bool) -> io::Result<u64> {
    let kept = kept(tools)?;
    let mut used: u64 = kept.iter().map(|file| file.bytes).sum();
    let newest = kept.len().saturating_sub(1);
    for (i, file) in kept.into_iter().enumerate() {
        if used <= goal || (spare_newest && i == newest) {
            break;
        }
        tools.disk.remove_file(&file.path)?;
        used -= file.bytes;
    }
    tools.counters.quarantine_bytes.store(used, Ordering::Relaxed);
    Ok(used)
}

fn count(tools: &Tools, bytes: u64) {
    tools.counters.quarantine_bytes.fetch_add(bytes, Ordering::Relaxed);
}

/// Copies a segment of these bytes aside, durably. `None`: there is no room for that.
pub(super) fn copy(tools: &Tools, path: &Path, bytes: &[u8]) -> io::Result<Option<PathBuf>> {
    let target = place_of(tools, path);
    let size = bytes.len() as u64;
    let copied = make_room(tools, size)
        .map_err(Unwritten::Before)
        .and_then(|fits| fits.then(|| write_atomically(&*tools.disk, &target, bytes)).transpose());
    match copied {
        Ok(Some(())) => {
            count(tools, size);
            Ok(Some(target))
        }
        Ok(None) => {
            tracing::warn!(path = %path.display(), "a damaged segment is larger than the quarantine may be: no copy");
            Ok(None)
        }
        Err(Unwritten::Before(error)) if is_full(&error) => {
            tracing::warn!(path = %path.display(), "no room to copy a damaged segment aside");
            Ok(None)
        }
        Err(unwritten) => Err(unwritten.into()),
    }
}

/// Moves a segment that the medium does not give back, also one that is larger than the bound: it cannot be copied, and is
/// not to be unlinked unread. The caller syncs the segment's folder.
pub(super) fn set_aside(tools: &Tools, path: &Path) -> io::Result<PathBuf> {
    let size = tools.disk.open(path, Mode::Read).and_then(|file| file.size()).unwrap_or(0);
    make_room(tools, size)?;
    let target = place_of(tools, path);
    tools.disk.rename(path, &target)?;
    tools.disk.sync_dir(&folder(tools))?;
    count(tools, size);
    Ok(target)
}

/// Does away with a settled segment in which damage was found: keeps it if the bound and the disk allow, else unlinks it.
/// A failed sync is poison as everywhere.
pub(super) fn retire(tools: &Tools, path: &Path) -> Result<(), Failure> {
    let size = tools.disk.open(path, Mode::Read).and_then(|file| file.size()).unwrap_or(0);
    let kept = make_room(tools, size).unwrap_or(false)
        && tools.disk.rename(path, &place_of(tools, path)).is_ok();
    if !kept {
        return Ok(tools.disk.remove_file(path)?);
    }
    count(tools, size);
    tools.sync_dir(&folder(tools))
}
