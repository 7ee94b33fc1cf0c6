//! One queue, as its readers see it.
//!
//! Owns: [`Queue`] (the handle), and reading. What is found through the index is durable, so it may be handed out.
//! Invariants: no record at or after the durable end is returned; a lock is held for a look-up, never over a read of
//! the disk by the writer, never over `.await`. Must not know: the writer's files.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::watch;

use super::age::{StoreClock, StoreMillis};
use super::disk::{Disk, DiskFile, Mode, is_medium};
use super::engine::Tools;
use super::id::{Offset, QueueId};
use super::index::{Index, SegmentMeta};
use super::mailbox::Mailbox;
use super::record::{Found, Piece};
use super::removed::{Removed, RemovedWhy, Teller};
use super::segment::{self, Key};
use super::stats::Counters;
use super::window::{Cursor, Unopened, Window};

/// A segment that the medium refuses to read so often is read without what it refuses.
const READ_TRIES: u32 = 5;

/// A stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place.
    pub offset: Offset,
    /// The bytes that were appended; a copy of its own, so that holding one holds no other.
    pub payload: Bytes,
    /// When it was stored first (see [`StoreMillis`]).
    pub stored: StoreMillis,
    /// Seconds to live; 0 = for ever.
    pub ttl_secs: u32,
    /// When its time to live ends, on this process's monotonic clock (may be past); `None` = never.
    pub expires: Option<Instant>,
}

/// What one read brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// In order of offset. Fewer than asked for is normal; empty with `next` at the durable end means: nothing more.
    pub records: Vec<Record>,
    /// Where the next read starts: past the last record and past what could not be read.
    pub next: Offset,
    /// Ranges of offsets that were stored and cannot be read back (damaged on disk, or refused by the medium). Nobody will ever see them: count
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

/// What readers and the writer share of one queue.
pub(super) struct Shared {
    pub(super) id: QueueId,
    pub(super) folder: PathBuf,
    disk: Arc<dyn Disk>,
    counters: Arc<Counters>,
    index: Mutex<Index>,
    durable_end: watch::Sender<Offset>,
    settle_to: AtomicU64,
    taken: Mutex<Taken>,
    /// Lost offsets below are in the counters already.
    lost_below: AtomicU64,
    cursor: Mutex<Option<Cursor>>,
    /// Segments that the medium refused to read, and how often.
    refusals: Mutex<BTreeMap<Key, u32>>,
    teller: Arc<Teller>,
    age: Arc<StoreClock>,
}

/// Who counts what goes unsettled.
#[derive(Debug, Default)]
struct Taken {
    /// A reader has taken over the records below.
    below: Offset,
    /// What the store took away below, and no reader had taken over, it has counted.
    counted: Offset,
}

/// The data behind our locks is changed by single assignments: a panic elsewhere leaves it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        tools: &Tools,
        id: QueueId,
        folder: PathBuf,
        index: Index,
        end: Offset,
    ) -> Self {
        Self {
            disk: Arc::clone(tools.disk_of(&id)),
            id,
            folder,
            counters: Arc::clone(&tools.counters),
            settle_to: AtomicU64::new(index.settled.0),
            taken: Mutex::default(),
            index: Mutex::new(index),
            durable_end: watch::Sender::new(end),
            lost_below: AtomicU64::new(0),
            cursor: Mutex::new(None),
            refusals: Mutex::default(),
            teller: Arc::clone(&tools.teller),
            age: Arc::clone(&tools.age),
        }
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    /// Lets readers who look find new records, which are in the index already. Those who wait are told by
    /// [`Self::announce`].
    pub(super) fn publish(&self, end: Offset) {
        self.durable_end.send_if_modified(|known| {
            *known = end;
            false
        });
    }

    /// Tells those who wait for new records.
    pub(super) fn announce(&self) {
        self.durable_end.send_modify(|_| {});
    }

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

    /// Settles on the store's own account, for what it takes away; returns where it was settled before, and from where on what
    /// goes is the store's to count: not what a reader has taken over. One step, so that no record is counted twice.
    pub(super) fn take_away(&self, below: Offset) -> (Offset, Offset) {
        let mut taken = lock(&self.taken);
        taken.counted = taken.counted.max(below);
        let settled = Offset(self.settle_to.fetch_max(below.0, Ordering::AcqRel));
        (settled, settled.max(taken.below))
    }

    /// Up to where a reader counts what becomes of the records.
    pub(super) fn taken_below(&self) -> Offset {
        lock(&self.taken).below
    }

    /// Reads from `from` on; blocks on the disk.
    pub(super) fn read(
        &self,
        from: Offset,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Chunk, ReadError> {
        // Taken out, not held: a second reader at the same time starts without a cursor.
        let cursor = lock(&self.cursor).take();
        let (chunk, cursor) = self.read_on(cursor, from, records_max, bytes_max)?;
        *lock(&self.cursor) = cursor;
        Ok(chunk)
    }

    /// The same from where a cursor stands, if that helps.
    fn read_on(
        &self,
        mut cursor: Option<Cursor>,
        from: Offset,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<(Chunk, Option<Cursor>), ReadError> {
        let chunk = Chunk { records: Vec::new(), next: from, lost: Vec::new() };
        let mut reading = Reading { chunk, records_left: records_max, bytes_left: bytes_max };
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
                // Unlinked since the look-up, because it was settled or has expired: look again.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && self.index().is_stale(&meta) => {}
                // What there is comes first; the next call meets the error again.
                Err(_) if reading.has_something() => break,
                Err(source) => {
                    if is_medium(&source) && self.note_refusal(meta.key) {
                        continue;
                    }
                    return Err(ReadError::Io { path: self.path(meta.key), source });
                }
            }
        }
        self.count_lost(&reading.chunk);
        Ok((reading.chunk, cursor))
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
                file: self.open_segment(meta.key)?,
                at: segment::HEADER_BYTES,
                next: meta.key.first,
                ahead: Window::default(),
            },
        };
        let salvage = lock(&self.refusals).get(&meta.key).is_some_and(|n| *n >= READ_TRIES);
        let mut window = Window { salvage, ..std::mem::take(&mut cursor.ahead) };
        while cursor.next < meta.next {
            let range = cursor.next.0..meta.next.0;
            let Some((begin, piece)) = window.next_piece(&cursor, meta.data_end, &range)? else {
                // Without bytes there was nothing: recovery left that gap, and has counted it.
                if cursor.at < meta.data_end {
                    self.lose(meta.key, Offset(range.start)..Offset(range.end), reading);
                }
                cursor.next = meta.next;
                break;
            };
            let at = window.at + begin as u64;
            let offsets = Offset(piece.offsets().start)..Offset(piece.offsets().end);
            if at != cursor.at {
                self.lose(meta.key, cursor.next..offsets.start, reading);
            }
            (cursor.at, cursor.next) = (at, offsets.start);
            if let Piece::Record(found) = &piece
                && offsets.start >= reading.chunk.next
            {
                if !reading.has_room_for(found.payload_len) {
                    // Not in side queues: they are many.
                    if self.id.lane.is_none() {
                        cursor.ahead = window.kept();
                    }
                    return Ok(Some(cursor));
                }
                let record = self.record(found, meta.version, window.payload(begin, found));
                reading.take(record);
            }
            cursor.at = at + piece.size() as u64;
            cursor.next = offsets.end;
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

    /// A segment that the medium does not even open, tried often enough, is read as if it were empty.
    fn open_segment(&self, key: Key) -> io::Result<Arc<dyn DiskFile>> {
        let opened = self.disk.open(&self.path(key), Mode::Read);
        let tries = lock(&self.refusals).get(&key).copied().unwrap_or(0);
        match opened {
            Err(error) if tries >= READ_TRIES && is_medium(&error) => Ok(Arc::new(Unopened)),
            other => other,
        }
    }

    /// The medium refused; says whether it has done so often enough to go on without what it does not give.
    fn note_refusal(&self, key: Key) -> bool {
        let mut refusals = lock(&self.refusals);
        let index = self.index();
        refusals.retain(|key, _| index.segments.binary_search_by_key(key, |s| s.key).is_ok());
        drop(index);
        let tries = refusals.entry(key).or_default();
        // At the last try already salvaged: then nothing more is to be had of it.
        *tries += 1;
        *tries == READ_TRIES
    }

    fn lose(&self, key: Key, range: Range<Offset>, reading: &mut Reading) {
        self.index().mark_damaged(key);
        reading.lose(range);
    }

    fn record(&self, found: &Found, version: u16, payload: &[u8]) -> Record {
        let head = &found.head;
        let is_old = version == segment::FORMAT_1;
        let stored = if is_old { StoreMillis::default() } else { self.age.past(head.stored) };
        Record {
            offset: head.offset,
            payload: Bytes::copy_from_slice(payload),
            stored,
            ttl_secs: head.ttl_secs,
            expires: self.age.end_of(stored, head.ttl_secs),
        }
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
                self.teller.tell(Removed {
                    with_reader: 0,
                    queue: self.id.clone(),
                    offsets: range.start.max(Offset(known))..range.end,
                    records: lost,
                    payload_bytes: 0,
                    why: RemovedWhy::Unreadable,
                });
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

    fn has_something(&self) -> bool {
        !self.chunk.records.is_empty() || !self.chunk.lost.is_empty()
    }

    fn take(&mut self, record: Record) {
        self.records_left -= 1;
        self.bytes_left = self.bytes_left.saturating_sub(record.payload.len());
        self.chunk.next = record.offset.next();
        self.chunk.records.push(record);
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

    /// The caller counts from now on what becomes of the records below `below` that it has read, also of those that the store
    /// takes away; but not of those below the offset that is returned: they are gone, and counted. A reader that ends, or
    /// begins anew, says from where it has nothing.
    pub fn take_over(&self, below: Offset) -> Offset {
        let mut taken = lock(&self.shared.taken);
        taken.below = below;
        taken.counted
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

    /// The first durable record from `from` on, for those who look on: it does not move the place from which the queue's
    /// reader goes on, and so reads its segment from the beginning.
    pub async fn peek(&self, from: Offset) -> Result<Option<Record>, ReadError> {
        let shared = Arc::clone(&self.shared);
        let read = move || shared.read_on(None, from, 1, 1);
        let read = tokio::task::spawn_blocking(read).await.map_err(|_| ReadError::Stopping)?;
        Ok(read?.0.records.pop())
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
