//! A store's folder, looked at from outside: without its lock, without changing anything, also while a gateway uses it.
//!
//! Owns: [`Inspector`], what it lists ([`QueueView`]) and reads ([`Pending`]); [`verify`] checks every byte.
//! Invariants: files are only read; one segment at a time is in memory; what the gateway does meanwhile is never taken for
//! damage. So a file that has vanished since it was listed was settled; a listing lies between two looks at the
//! checkpoint, the earlier of which says what must be there, the later what need not; and bytes of an open segment are
//! judged bad only if a second look finds them bad, too.
//! Must not know: what a payload is.

mod pending;
mod verify;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

pub use pending::{Next, Pending};
pub use verify::{Finding, Verified, What};

use super::OpenError;
use super::age::{StoreMillis, load_clock};
use super::checkpoint::{self, Checkpoint, Loaded, State};
use super::disk::{Disk, Mode, read_all};
use super::error::at;
use super::id::{Offset, QueueId};
use super::quarantine::QUARANTINE;
use super::record::Head;
use super::recover::queue_of;
use super::segment::{FORMAT_1, FORMAT_VERSION, Gap, Header, Key, SEAL_BYTES, Scan, Seal};
use super::slots;

/// How often an open segment is read again while it changes under the reader's eyes.
const LOOKS_MAX: usize = 5;

/// Looks into a store's folder.
pub struct Inspector {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

/// One queue, as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueView {
    /// Its name.
    pub id: QueueId,
    /// Everything below is settled.
    pub settled: Offset,
    /// Records that wait.
    pub records: u64,
    /// Their payloads' bytes.
    pub payload_bytes: u64,
    /// Bytes of the queue's files, preallocated space included.
    pub disk_bytes: u64,
    /// When the first record that waits was stored; `None`: nothing waits, or it is of a format without store time.
    pub oldest: Option<StoreMillis>,
    /// The same of the last record.
    pub newest: Option<StoreMillis>,
}

/// A record that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its place.
    pub offset: Offset,
    /// When it was stored; `None` if it is of a format without store time.
    pub stored: Option<StoreMillis>,
    /// Seconds to live; 0 = for ever.
    pub ttl_secs: u32,
    /// The bytes that were appended. Shares the segment's memory.
    pub payload: Bytes,
}

/// A segment in memory.
struct Content {
    bytes: Bytes,
    scan: Scan,
    /// `None`: damaged.
    header: Option<Header>,
    seal: Option<Seal>,
    key: Key,
}

/// A queue's segments, and between which looks at the checkpoint they were listed.
struct Listing {
    folder: PathBuf,
    /// With the lowest offset of the next one.
    segments: VecDeque<(Key, u64)>,
    /// What must be there; `None`: the checkpoint is missing or damaged.
    before: Option<State>,
    /// What need not be there any more.
    settled: Offset,
    disk_bytes: u64,
}

impl Inspector {
    /// Looks at the store in `dir`.
    pub fn new(disk: Arc<dyn Disk>, dir: impl Into<PathBuf>) -> Self {
        Self { disk, dir: dir.into() }
    }

    /// The names of all queues, in order.
    ///
    /// # Errors
    /// The folder is not there, or the disk refused.
    pub fn queues(&self) -> Result<Vec<QueueId>, OpenError> {
        let mut ids: Vec<_> = self.folders()?.into_iter().map(|(id, _)| id).collect();
        ids.sort();
        Ok(ids)
    }

    fn folders(&self) -> Result<Vec<(QueueId, PathBuf)>, OpenError> {
        let entries = self.disk.list(&self.dir).map_err(at(&self.dir))?;
        let folders = entries.into_iter().filter(|e| e.is_dir && e.name != QUARANTINE);
        let mut found = Vec::new();
        for entry in folders {
            let path = self.dir.join(&entry.name);
            if let Some(id) = queue_of(&*self.disk, &entry.name, &path)? {
                found.push((id, path));
            }
        }
        Ok(found)
    }

    /// Folders of queues that have segments, but of whose name no copy is whole. (A queue that is being made or deleted has
    /// none.)
    ///
    /// # Errors
    /// As [`Inspector::queues`].
    pub fn nameless(&self) -> Result<Vec<PathBuf>, OpenError> {
        let entries = self.disk.list(&self.dir).map_err(at(&self.dir))?;
        let mut found = Vec::new();
        for entry in entries.iter().filter(|e| e.is_dir && QueueId::is_short_folder(&e.name)) {
            let path = self.dir.join(&entry.name);
            let Some(files) = gone_is_none(self.disk.list(&path)).map_err(at(&path))? else {
                continue;
            };
            let holds = files.iter().any(|file| Key::from_file_name(&file.name).is_some());
            if holds && queue_of(&*self.disk, &entry.name, &path)?.is_none() {
                found.push(path);
            }
        }
        Ok(found)
    }

    fn folder_of(&self, id: &QueueId) -> PathBuf {
        self.dir.join(id.folder())
    }

    /// What waits in each queue. Reads the first and the last segment of a queue, and the seals of those between.
    ///
    /// # Errors
    /// As [`Inspector::queues`]; a newer format is refused.
    pub fn list(&self) -> Result<Vec<QueueView>, OpenError> {
        let views = self.queues()?.into_iter().map(|id| self.view(id));
        // A queue that was deleted meanwhile is no longer one.
        views.filter_map(Result::transpose).collect()
    }

    fn view(&self, id: QueueId) -> Result<Option<QueueView>, OpenError> {
        let Some(listing) = self.listing(&self.folder_of(&id))? else {
            return Ok(None);
        };
        let settled = listing.settled;
        let mut view = QueueView {
            id,
            settled,
            records: 0,
            payload_bytes: 0,
            disk_bytes: listing.disk_bytes,
            oldest: None,
            newest: None,
        };
        let last = listing.segments.len().saturating_sub(1);
        for (i, (key, upper)) in listing.segments.into_iter().enumerate() {
            let path = listing.folder.join(key.file_name());
            let is_between = i < last && view.records > 0;
            let seal = if is_between { self.seal(&path, key, upper)? } else { None };
            if let Some(seal) = seal {
                view.records += seal.records;
                view.payload_bytes += seal.payload_bytes;
            } else if let Some(content) = self.content(&path, key, upper)? {
                view.add(&content, settled);
            }
        }
        Ok(Some(view))
    }

    /// What the store's clock shows at least: what was saved of it, or the time of the newest record that waits.
    ///
    /// # Errors
    /// As [`Inspector::list`].
    pub fn now_at_least(&self) -> Result<Option<StoreMillis>, OpenError> {
        let saved = match load_clock(&*self.disk, &self.dir)? {
            slots::Loaded::State(saved) => Some(saved),
            _ => None,
        };
        Ok(self.list()?.into_iter().filter_map(|view| view.newest).chain(saved).max())
    }

    /// The segments of a queue that are not settled as a whole; `None`: the queue is gone.
    fn listing(&self, folder: &Path) -> Result<Option<Listing>, OpenError> {
        let before = self.checkpoint(folder)?;
        let entries = match self.disk.list(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(at(folder))?,
        };
        let mut disk_bytes = 0;
        let mut keys = Vec::new();
        for entry in entries.iter().filter(|entry| !entry.is_dir) {
            let Some(size) = self.size(&folder.join(&entry.name))? else { continue };
            disk_bytes += size;
            keys.extend(Key::from_file_name(&entry.name));
        }
        keys.sort_unstable();
        let uppers: Vec<u64> = keys.iter().map(|key| upper_of(&keys, *key)).collect();
        let segments: VecDeque<_> = keys.into_iter().zip(uppers).collect();
        let settled = self.checkpoint(folder)?.unwrap_or_default().settled_below;
        Ok(Some(Listing { folder: folder.to_path_buf(), segments, before, settled, disk_bytes }))
    }

    /// What the checkpoint says; `None`: it is missing or damaged.
    fn checkpoint(&self, folder: &Path) -> Result<Option<State>, OpenError> {
        let path = || folder.join(checkpoint::FILE_NAME);
        match Checkpoint::load(&*self.disk, folder).map_err(at(&path()))? {
            Loaded::State(state) => Ok(Some(state)),
            Loaded::Newer(found) => Err(newer(path(), found)),
            Loaded::Missing | Loaded::Damaged => Ok(None),
        }
    }

    /// A file's size; `None` if it has vanished.
    fn size(&self, path: &Path) -> Result<Option<u64>, OpenError> {
        let size = self.disk.open(path, Mode::Read).and_then(|file| file.size());
        gone_is_none(size).map_err(at(path))
    }

    /// The seal of a segment; `None`: it has none, or has vanished.
    fn seal(&self, path: &Path, key: Key, upper: u64) -> Result<Option<Seal>, OpenError> {
        let read = || -> io::Result<Option<Seal>> {
            let file = self.disk.open(path, Mode::Read)?;
            let len = file.size()?;
            let Some(begin) = len.checked_sub(SEAL_BYTES) else { return Ok(None) };
            let mut bytes = [0; 64];
            let read = file.read_at(&mut bytes, begin)?;
            Ok(sealed(&bytes[..read], key, len, upper))
        };
        Ok(gone_is_none(read()).map_err(at(path))?.flatten())
    }

    /// A whole segment; `None`: it has vanished.
    fn content(&self, path: &Path, key: Key, upper: u64) -> Result<Option<Content>, OpenError> {
        let look = || -> Result<Option<Content>, OpenError> {
            let read = self.disk.open(path, Mode::Read).and_then(|file| read_all(&*file));
            let Some(bytes) = gone_is_none(read).map_err(at(path))? else { return Ok(None) };
            match Header::decode(&bytes) {
                Some(header) if header.version > FORMAT_VERSION => {
                    Err(newer(path.to_path_buf(), header.version))
                }
                _ => Ok(Some(Content::of(bytes.into(), key, upper))),
            }
        };
        let mut content = look()?;
        for _ in 1..LOOKS_MAX {
            let Some(seen) = &content else { break };
            let bad = seen.scan.bad_bytes;
            if seen.seal.is_some() || bad == 0 {
                break;
            }
            // A batch that is being written may be seen in part.
            content = look()?;
            if content.as_ref().is_some_and(|again| again.scan.bad_bytes == bad) {
                break;
            }
        }
        Ok(content)
    }
}

fn newer(path: PathBuf, found: u16) -> OpenError {
    OpenError::NewerFormat { path, found, known: FORMAT_VERSION }
}

fn gone_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// The lowest offset that belongs to a later segment.
fn upper_of(keys: &[Key], key: Key) -> u64 {
    let later = keys.iter().filter(|later| later.first > key.first).map(|later| later.first.0);
    later.min().unwrap_or(u64::MAX)
}

/// The seal in the last bytes of a file. A tombstone's may span segments that have expired and are about to be unlinked: it
/// counts up to the first of those.
fn sealed(bytes: &[u8], key: Key, len: u64, upper: u64) -> Option<Seal> {
    let seal = Seal::decode(bytes, key, len)?;
    Some(Seal { next: seal.next.min(Offset(upper)), ..seal })
}

impl QueueView {
    fn add(&mut self, content: &Content, settled: Offset) {
        for i in content.first_at(settled)..content.scan.records.len() {
            let stored = content.stored(i);
            if self.records == 0 {
                self.oldest = stored;
            }
            self.newest = stored;
            self.records += 1;
            self.payload_bytes += content.scan.records[i].found.payload_len as u64;
        }
    }
}

impl Content {
    fn of(bytes: Bytes, key: Key, upper: u64) -> Self {
        let len = bytes.len() as u64;
        let sealed = len.checked_sub(SEAL_BYTES).and_then(|begin| {
            let begin = usize::try_from(begin).expect("the bytes are in memory");
            self::sealed(&bytes[begin..], key, len, upper)
        });
        let end = sealed.map_or(len, |seal| seal.data_end);
        let end = usize::try_from(end).expect("the bytes are in memory");
        let scan = Scan::of(&bytes[..end], key, key.first.0..upper);
        let header = Header::decode(&bytes);
        Self { bytes, scan, header, seal: sealed, key }
    }

    fn head(&self, i: usize) -> &Head {
        &self.scan.records[i].found.head
    }

    /// The first record that is not below `from`.
    fn first_at(&self, from: Offset) -> usize {
        self.scan.records.partition_point(|placed| placed.found.head.offset < from)
    }

    /// When the record was stored, by store time.
    fn stored(&self, i: usize) -> Option<StoreMillis> {
        let sealed = self.seal.map(|seal| seal.version);
        let version = self.header.map(|header| header.version).or(sealed);
        version.filter(|version| *version > FORMAT_1).map(|_| self.head(i).stored)
    }

    fn held(&self, i: usize) -> Held {
        let placed = &self.scan.records[i];
        let begin = placed.at + super::record::HEADER_BYTES;
        Held {
            offset: placed.found.head.offset,
            stored: self.stored(i),
            ttl_secs: placed.found.head.ttl_secs,
            payload: self.bytes.slice(begin..begin + placed.found.payload_len),
        }
    }

    /// What lies between the records: bytes that are none, or offsets that are missing. Not what lies behind the last
    /// record of a segment without seal.
    fn gaps(&self) -> Vec<Gap> {
        let mut gaps = self.scan.gaps.clone();
        if let Some(seal) = &self.seal {
            let last = self.scan.records.last().map(|placed| placed.found.head.offset.0 + 1);
            let positions = self.scan.data_end as u64..seal.data_end;
            let offsets = last.unwrap_or(self.key.first.0)..seal.next.0;
            if !positions.is_empty() || !offsets.is_empty() {
                gaps.push(Gap { positions, offsets });
            }
        }
        gaps
    }

    /// The lowest offset above its records.
    fn next(&self) -> u64 {
        let last = self.scan.records.last().map(|placed| placed.found.head.offset.0 + 1);
        let scanned = last.unwrap_or(self.key.first.0);
        self.seal.map_or(scanned, |seal| seal.next.0)
    }
}
