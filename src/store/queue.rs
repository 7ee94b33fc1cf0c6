//! One queue, as its readers see it.
//!
//! Owns: [`Queue`] (the handle), the index of a queue's segments, and reading. The index is changed by the writer
//! only, always to a state that is durable, so that what is found through it may be handed out.
//! Invariants: no record at or after the durable end is returned; a lock is held for a look-up, never over a read of
//! the disk by the writer, never over `.await`. Must not know: the writer's files.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::disk::{Disk, DiskFile, Mode};
use super::id::{Offset, QueueId};
use super::mailbox::Mailbox;
use super::record::{self, Found, NotRecord};
use super::segment::{self, Key, Placed};
use super::stats::Counters;
use crate::clock::UnixMillis;

/// Bytes of a segment that are read at once, at least (a larger record is read whole).
const READ_BYTES: u64 = 256 * 1024;

/// A stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place.
    pub offset: Offset,
    /// The bytes that were appended; a copy of its own, so that holding one holds no other.
    pub payload: Bytes,
    /// When it was received (wall time).
    pub received: UnixMillis,
    /// Seconds to live; 0 = for ever.
    pub ttl_secs: u32,
}

/// What one read brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// In order of offset. Fewer than asked for is normal; empty with `next` at the durable end means: nothing more.
    pub records: Vec<Record>,
    /// Where the next read starts: past the last record and past what could not be read.
    pub next: Offset,
    /// Ranges of offsets that were stored and cannot be read back (damaged on disk). Nobody will ever see them: count
    /// them as lost. Each read of the same place reports them again.
    pub lost: Vec<Range<Offset>>,
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk refused. Trying again later may work.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The segment.
        path: PathBuf,
        /// The disk's words.
        source: io::Error,
    },
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    Stopping,
}

/// What is known of a segment that holds durable records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentMeta {
    pub(super) key: Key,
    /// The lowest offset that is not this segment's.
    pub(super) next: Offset,
    pub(super) records: u64,
    pub(super) payload_bytes: u64,
    /// Where its records end.
    pub(super) data_end: u64,
}

/// The durable content of a queue.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// By offset, without overlap.
    pub(super) segments: VecDeque<SegmentMeta>,
    /// Everything below is settled.
    pub(super) settled: Offset,
}

impl Index {
    fn find(&self, from: Offset) -> Option<SegmentMeta> {
        let at = self.segments.partition_point(|segment| segment.next <= from);
        self.segments.get(at).copied()
    }

    /// Records and payload bytes that are not settled. Exact, but for bytes in the one segment that is settled in part:
    /// there they are taken as spread evenly, which keeps this independent of the number of messages.
    pub(super) fn pending(&self) -> (u64, u64) {
        let (mut records, mut bytes) = (0, 0);
        for segment in self.segments.iter().rev() {
            if segment.next <= self.settled {
                break;
            }
            let settled = self.settled.0.saturating_sub(segment.key.first.0).min(segment.records);
            let left = segment.records - settled;
            records += left;
            bytes += share(segment.payload_bytes, left, segment.records);
        }
        (records, bytes)
    }
}

/// `bytes * part / whole`.
fn share(bytes: u64, part: u64, whole: u64) -> u64 {
    let product = u128::from(bytes) * u128::from(part);
    u64::try_from(product / u128::from(whole.max(1))).expect("part <= whole")
}

/// Where the last read ended.
struct Cursor {
    key: Key,
    file: Arc<dyn DiskFile>,
    /// Position in the file; the record there has this offset or a higher one.
    at: u64,
    next: Offset,
}

/// What readers and the writer share of one queue.
pub(super) struct Shared {
    pub(super) id: QueueId,
    pub(super) folder: PathBuf,
    disk: Arc<dyn Disk>,
    counters: Arc<Counters>,
    index: Mutex<Index>,
    durable_end: watch::Sender<Offset>,
    settle_to: AtomicU64,
    /// Lost offsets below are in the counters already.
    lost_below: AtomicU64,
    cursor: Mutex<Option<Cursor>>,
}

/// The data behind our locks is changed by single assignments: a panic elsewhere leaves it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        id: QueueId,
        folder: PathBuf,
        disk: Arc<dyn Disk>,
        counters: Arc<Counters>,
        index: Index,
        end: Offset,
    ) -> Self {
        Self {
            id,
            folder,
            disk,
            counters,
            settle_to: AtomicU64::new(index.settled.0),
            index: Mutex::new(index),
            durable_end: watch::Sender::new(end),
            lost_below: AtomicU64::new(0),
            cursor: Mutex::new(None),
        }
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    /// Tells readers of new records, which are in the index already.
    pub(super) fn publish(&self, end: Offset) {
        self.durable_end.send_replace(end);
    }

    #[cfg(test)]
    pub(super) fn end(&self) -> Offset {
        *self.durable_end.borrow()
    }

    pub(super) fn settle_to(&self) -> Offset {
        Offset(self.settle_to.load(Ordering::Acquire))
    }

    /// Asks the writer to settle; says whether that is news.
    pub(super) fn request_settle(&self, below: Offset) -> bool {
        let below = below.min(*self.durable_end.borrow());
        self.settle_to.fetch_max(below.0, Ordering::AcqRel) < below.0
    }

    /// Reads from `from` on; blocks on the disk.
    pub(super) fn read(
        &self,
        from: Offset,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Chunk, ReadError> {
        let chunk = Chunk { records: Vec::new(), next: from, lost: Vec::new() };
        let mut reading = Reading { chunk, records_left: records_max, bytes_left: bytes_max };
        // Taken out, not held: a second reader at the same time starts without a cursor.
        let mut cursor = lock(&self.cursor).take();
        loop {
            let Some(meta) = self.index().find(reading.chunk.next) else {
                break;
            };
            match self.read_segment(meta, cursor.take(), &mut reading) {
                Ok(Some(stopped)) => {
                    cursor = Some(stopped);
                    break;
                }
                Ok(None) => {}
                // Unlinked since the look-up, because it was settled: look again.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && self.index().find(reading.chunk.next) != Some(meta) => {}
                Err(source) => {
                    return Err(ReadError::Io { path: self.path(meta.key), source });
                }
            }
        }
        *lock(&self.cursor) = cursor;
        self.count_lost(&reading.chunk);
        Ok(reading.chunk)
    }

    fn path(&self, key: Key) -> PathBuf {
        self.folder.join(key.file_name())
    }

    /// Reads one segment. `Some`: stopped there, at a limit or at the durable end. `None`: it is read out.
    fn read_segment(
        &self,
        meta: SegmentMeta,
        cursor: Option<Cursor>,
        reading: &mut Reading,
    ) -> io::Result<Option<Cursor>> {
        let usable = |c: &Cursor| c.key == meta.key && c.next <= reading.chunk.next;
        let mut cursor = match cursor.filter(usable) {
            Some(cursor) => cursor,
            None => Cursor {
                key: meta.key,
                file: self.disk.open(&self.path(meta.key), Mode::Read)?,
                at: segment::HEADER_BYTES,
                next: meta.key.first,
            },
        };
        let mut window = Window { bytes: Vec::new(), at: 0 };
        while cursor.next < meta.next {
            let range = cursor.next.0..meta.next.0;
            let Some(placed) = window.next_record(&cursor, meta.data_end, &range)? else {
                // Without bytes there was nothing: recovery left that gap, and has counted it.
                if cursor.at < meta.data_end {
                    reading.lose(Offset(range.start)..Offset(range.end));
                }
                cursor.next = meta.next;
                break;
            };
            let at = window.at + placed.at as u64;
            let offset = placed.found.head.offset;
            if at != cursor.at {
                reading.lose(cursor.next..offset);
            }
            (cursor.at, cursor.next) = (at, offset);
            if offset >= reading.chunk.next {
                if !reading.has_room_for(placed.found.payload_len) {
                    return Ok(Some(cursor));
                }
                reading.take(&placed.found, window.payload(&placed));
            }
            cursor.at = at + placed.found.size() as u64;
            cursor.next = offset.next();
        }
        reading.chunk.next = reading.chunk.next.max(meta.next);
        // The last segment may grow: the next read goes on here. Any other is done with.
        let is_last = self.index().segments.back().is_some_and(|last| last.key == meta.key);
        Ok(if is_last && self.index().find(reading.chunk.next).is_none() {
            Some(cursor)
        } else {
            None
        })
    }

    fn count_lost(&self, chunk: &Chunk) {
        for range in &chunk.lost {
            let known = self.lost_below.fetch_max(range.end.0, Ordering::Relaxed);
            let lost = range.end.0.saturating_sub(range.start.0.max(known));
            if lost > 0 {
                self.counters.lost_records.fetch_add(lost, Ordering::Relaxed);
                tracing::error!(
                    queue = %self.id, from = %range.start, to = %range.end, lost,
                    "stored messages cannot be read back: the disk returned damaged bytes; check the medium"
                );
            }
        }
    }
}

/// A read under way.
struct Reading {
    chunk: Chunk,
    records_left: usize,
    bytes_left: usize,
}

impl Reading {
    /// At least one record is always taken.
    fn has_room_for(&self, payload_len: usize) -> bool {
        self.records_left > 0 && (self.chunk.records.is_empty() || payload_len <= self.bytes_left)
    }

    fn take(&mut self, found: &Found, payload: &[u8]) {
        self.records_left -= 1;
        self.bytes_left = self.bytes_left.saturating_sub(payload.len());
        self.chunk.next = found.head.offset.next();
        self.chunk.records.push(Record {
            offset: found.head.offset,
            payload: Bytes::copy_from_slice(payload),
            received: found.head.received,
            ttl_secs: found.head.ttl_secs,
        });
    }

    /// Notes a range as lost, as far as this read was to bring it.
    fn lose(&mut self, range: Range<Offset>) {
        let start = range.start.max(self.chunk.next);
        if start < range.end {
            self.chunk.lost.push(start..range.end);
            self.chunk.next = range.end;
        }
    }
}

/// A piece of a segment in memory.
struct Window {
    bytes: Vec<u8>,
    /// Where it begins in the file.
    at: u64,
}

impl Window {
    /// The record at the cursor or, if the bytes there are damaged, the next one after it.
    fn next_record(
        &mut self,
        cursor: &Cursor,
        data_end: u64,
        range: &Range<u64>,
    ) -> io::Result<Option<Placed>> {
        let mut need = 0;
        loop {
            let end = self.at + self.bytes.len() as u64;
            if cursor.at + need > end || cursor.at >= end || cursor.at < self.at {
                self.load(cursor, data_end, need.max(READ_BYTES))?;
            }
            let at = usize::try_from(cursor.at - self.at).expect("inside the window");
            let bytes = self.bytes.get(at..).unwrap_or_default();
            match record::parse(bytes, cursor.key.salt, range) {
                Ok(found) => return Ok(Some(Placed { at, found })),
                Err(NotRecord::Short(needed))
                    if (bytes.len() as u64) < data_end.saturating_sub(cursor.at)
                        && needed as u64 > need =>
                {
                    need = needed as u64;
                }
                Err(_) => break,
            }
        }
        // Damage. A segment is a few MiB: search all the rest of it.
        self.load(cursor, data_end, u64::MAX)?;
        Ok(segment::search(&self.bytes, record::ALIGN, cursor.key.salt, range))
    }

    /// Loads `len` bytes from the cursor on, or as many as there are before `data_end`.
    fn load(&mut self, cursor: &Cursor, data_end: u64, len: u64) -> io::Result<()> {
        let len = len.min(data_end.saturating_sub(cursor.at));
        self.bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        self.at = cursor.at;
        let read = cursor.file.read_at(&mut self.bytes, cursor.at)?;
        self.bytes.truncate(read);
        Ok(())
    }

    fn payload(&self, placed: &Placed) -> &[u8] {
        let start = placed.at + record::HEADER_BYTES;
        &self.bytes[start..start + placed.found.payload_len]
    }
}

/// A handle to a queue. Cheap to clone; all clones share one reading position hint, so one reader per queue is fastest.
#[derive(Clone)]
pub struct Queue {
    pub(super) shared: Arc<Shared>,
    pub(super) mailbox: Arc<Mailbox>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Queue").field(&self.shared.id).finish()
    }
}

impl Queue {
    /// Its name.
    pub fn id(&self) -> &QueueId {
        &self.shared.id
    }

    /// The first offset that is not durable yet; changes wake the watcher. Once per commit, not per message.
    pub fn durable_end(&self) -> watch::Receiver<Offset> {
        self.shared.durable_end.subscribe()
    }

    /// Everything below is settled, or asked to be: reading starts here.
    pub fn settled(&self) -> Offset {
        self.shared.settle_to()
    }

    /// Reads durable records from `from` on: at least one if there is one, then until either limit is reached
    /// (`bytes_max` counts payload bytes). Does not wait for more to come: watch [`Queue::durable_end`].
    pub async fn read(
        &self,
        from: Offset,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Chunk, ReadError> {
        let shared = Arc::clone(&self.shared);
        let read = move || shared.read(from, records_max, bytes_max);
        tokio::task::spawn_blocking(read).await.map_err(|_| ReadError::Stopping)?
    }

    /// Everything below `below` needs nothing more. Monotonic: a lower value is ignored, one beyond the durable end is
    /// cut to it. Returns at once; the writer notes it within one commit, so that a killed process repeats what was
    /// settled in that time, and makes it durable within a second.
    pub fn settle(&self, below: Offset) {
        if self.shared.request_settle(below) {
            self.mailbox.poke();
        }
    }

    /// Records that are not settled.
    pub fn messages(&self) -> u64 {
        self.shared.index().pending().0
    }

    /// Payload bytes that are not settled; within the one segment that is settled in part an even share.
    pub fn bytes(&self) -> u64 {
        self.shared.index().pending().1
    }

    /// Deletes the queue and its files if everything in it is settled; says whether it is gone. For lane queues. Then
    /// this handle reads nothing any more, and a later queue of the same name is a new one that counts from 0.
    pub async fn delete_if_empty(&self) -> Result<bool, super::StoreError> {
        self.mailbox.delete_if_empty(Arc::clone(&self.shared)).await
    }
}
