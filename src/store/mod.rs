//! Durable queues: what was acknowledged is on disk, and stays there until it is settled.
//!
//! Purpose: keep opaque payloads in named queues, tell the sender when they are durable in every queue they were meant
//! for, hand them out in order, forget them when told. Owns: the storage folder and every file in it. Must not know:
//! what a message is, MQTT, routes, the hub.
//!
//! ```text
//!  Appender --byte budget--> [mailbox] --batch--> writer thread ----------> Receipt{Durable} -> PUBACK
//!                                                   |  engine: room, write, fdatasync, publish
//!                                                   v
//!  Queue::read <--- index (durable part only) --- files of each queue ---> unlink after a durable checkpoint
//!  Queue::settle ---------------------------------> checkpoint
//! ```
//!
//! Where to look: [`append`] what goes in and comes back, [`mailbox`] the bounded way to the thread, [`writer`] the
//! thread, [`engine`] the order of writes and syncs, [`files`] and [`active`] the files of one queue, [`queue`] reading,
//! [`reserve`] the room for draining, [`recover`], [`survey`] and [`repair`] the start, [`record`], [`segment`] and [`checkpoint`] the bytes, [`id`] names, [`disk`] the seam to the
//! file system, [`thrift`] the files of side queues, `sim` a disk that crashes, `tests::model` what is asked of it.
//!
//! # On disk, format 1
//!
//! All numbers are little-endian. CRC is CRC32C (Castagnoli). Files have mode 0600, folders 0700.
//!
//! ```text
//! <dir>/lock                                        flock'ed while a process uses the folder
//! <dir>/quarantine/<queue>--<segment>-<millis>      copies of segments that had lost records, for a person to look at
//! <dir>/<queue>/checkpoint                          8192 bytes
//! <dir>/<queue>/<first offset, 20 digits>-<salt, 8 hex digits>.seg
//! <dir>/<queue>/name                                only where the folder's name is shortened: the whole name
//! <dir>/**/*.tmp                                    leftovers of a crash; removed at start, or when written again
//! ```
//!
//! `<queue>` is `endpoint.priority` or `endpoint.priority.lane`, every byte outside `A-Z a-z 0-9 _ -` as `%XX`. Above 200
//! bytes: the first 150, `.~` and 16 hex digits. Folders that are no queue's are left alone.
//!
//! ## Segment: header, records, seal
//!
//! | at | bytes | header |
//! |---|---|---|
//! | 0 | 8 | `SGW-SEG\n` |
//! | 8 | 2 | format = 1 |
//! | 10 | 2 | header length = 64 |
//! | 12 | 4 | CRC of bytes 0..12 and 16..64 |
//! | 16 | 8 | first offset |
//! | 24 | 8 | created, ms since 1970 |
//! | 32 | 4 | salt |
//! | 36 | 28 | 0 |
//!
//! | at | bytes | record; begins at a multiple of 8 |
//! |---|---|---|
//! | 0 | 4 | length = 40 + payload, without padding; 0: nothing was written here |
//! | 4 | 4 | CRC, started from the segment's salt, of bytes 0..4 and 8..length |
//! | 8 | 8 | offset |
//! | 16 | 8 | `durable_below`: every record below was durable when this one was written |
//! | 24 | 8 | received, ms since 1970 |
//! | 32 | 4 | seconds to live, 0 = for ever |
//! | 36 | 2 | flags = 0 |
//! | 38 | 2 | 0x5347 |
//! | 40 | | payload, then zeros up to a multiple of 8 |
//!
//! | at | bytes | seal; behind the last record, the last 64 bytes of the file |
//! |---|---|---|
//! | 0 | 8 | `SGW-END\n` |
//! | 8 | 8 | format, length, CRC as in the header |
//! | 16 | 8 | first offset |
//! | 24 | 8 | next: the lowest offset that is not this segment's |
//! | 32 | 8 | records; fewer than `next - first` if recovery left a gap |
//! | 40 | 8 | payload bytes |
//! | 48 | 8 | where the records end = where this seal begins |
//! | 56 | 4 | salt |
//! | 60 | 4 | 0 |
//!
//! A record of 1 KiB takes 1064 bytes: 3.9 % more than its payload. A segment has 128 bytes beside its records, 0.003 %
//! of 4 MiB. Offset and salt are in the file's *name*, too, so damage to the header costs nothing. The salt is random:
//! a device can put bytes into a payload that look like a record, but not with the right CRC, so when damage makes a
//! reader search for the next record it does not find a forged one (but for one chance in 2^32).
//!
//! The open segment is preallocated (128 KiB, 8 KiB in a side queue, then doubling; at once in full where the queue has filled one before), so
//! that fdatasync does not have to change the file's size; where the file system cannot preallocate it just grows. When a
//! batch does not fit below `segment_bytes_max` the segment is cut to its length, sealed and synced, and a new one is made:
//! one more fdatasync and one fsync of the folder per 4 MiB, about 4,000 messages of 1 KiB.
//!
//! ## Checkpoint: two slots, at 0 and at 4096
//!
//! | at | bytes | slot |
//! |---|---|---|
//! | 0 | 8 | `SGW-CKP\n` |
//! | 8 | 8 | format, length, CRC as in the header |
//! | 16 | 8 | generation; the intact slot with the higher one counts |
//! | 24 | 8 | `settled_below` |
//! | 32 | 8 | `durable_below`: as in a record |
//! | 40 | 24 | 0 |
//!
//! # Why what is acknowledged is there
//!
//! Assumed of the disk: after fdatasync (fsync for folders) returned `Ok` the bytes stay; before, any 512-byte sector may
//! be old or new, in any order, and so may a file's length and each entry of a folder; writing a sector again does not
//! endanger bytes in it that stay the same.
//!
//! 1. *A folder entry comes first.* Before the first record goes into a segment its folder was synced, before that the
//!    store's, and at start also the parents of that. The header and the file's length become durable with the first
//!    record.
//! 2. *A receipt comes last.* Batch: make room in every queue named; one write per queue; one fdatasync per queue; only
//!    then the index, the durable end and the receipts ([`engine::Engine::commit`]). [`Durable`] is made nowhere else.
//! 3. *A failed sync is final.* Linux marks the pages clean and a second fdatasync would answer `Ok`. So the first failure
//!    of a sync, or of a write other than for want of space, poisons the store: [`Health::Poisoned`], no `Ok` ever again,
//!    the process is to be restarted and recovery reads what the disk really has.
//! 4. *A full volume is no failure.* Room is made before anything is written; if a write meets ENOSPC all the same, every
//!    queue of the batch is cut back and synced (else a later crash could bring refused records to light) and the receipts
//!    say [`AppendError::Full`]. The next batch tries again. Recovery needs room only to
//!    make a lost checkpoint anew.
//!    Messages of devices are refused earlier, while what is free is less than `reserve_bytes` ([`reserve`]): dead letters
//!    and side queues get the rest, else a full volume and one stuck message would keep each other for ever. A batch
//!    that does not fit is tried again without the devices' messages.
//!    What a caller appends behind a refused append is refused, too ([`AppendChain`]): no message gets before one that
//!    its device has to send again.
//! 5. *Settled before forgotten.* A segment is unlinked only after the checkpoint that makes it dead was synced. A
//!    checkpoint is written at each settle (kill -9 repeats what the thread had not got to), and synced after
//!    `checkpoint_sync_every` settled messages, or a second, or before an unlink. The slot with the last synced state is never written.
//! 6. *Offsets are never used again*: a new one is above every record, `durable_below` and `settled_below` ever seen, and
//!    recovered segments are sealed, so new records go to a new file.
//!
//! # What a start does
//!
//! Locks the folder; refuses, before it changes anything, what a newer format wrote (an intact CRC over a higher version;
//! a flipped bit is damage, not a version). Believes seals: it reads 192 bytes of a sealed segment and the whole of one that
//! is not (usually one per queue, at most 4 MiB), so 1 M pending messages cost 250 small reads; records of sealed segments
//! are verified when they are read. In a segment without seal every intact record is kept, whatever lies before it. A
//! missing offset is *lost* if a later record, segment or checkpoint proves that it had been durable: the segment is copied
//! to `quarantine/` and replaced, atomically, by one with its intact records. Else it was never acknowledged: *torn*, cut
//! off. Everything is counted in [`RecoveryReport`], once: the seal that recovery writes covers the gap. What is kept is
//! synced, since after a kill -9 the page cache knows more than the disk.
//!
//! If both checkpoint slots are damaged, what is still there is delivered again: duplicates, no loss.
//!
//! # Bounds
//!
//! Waiting appends: `pending_bytes_max`. Memory per queue: about 1 KiB, 48 bytes a segment (12 bytes per MiB of backlog), two open
//! files, one batch buffer of at most 256 KiB kept. A side queue (one with a lane: there may be thousands, mostly idle) holds
//! no open file and no buffer while it has nothing unsynced, and takes 20 KiB of disk at least; a commit looks at
//! every queue, about 0.1 ms per 1000; per read: the records asked for and 256 KiB. The disk is bounded by the volume
//! less `reserve_bytes`; a budget of its own would go to [`reserve`].
//!
//! Known limits: intact records behind a torn one in the last, never acknowledged batch are kept, so after a power cut a
//! device that sends its unacknowledged messages again may show the second before the first one. Of records behind the last
//! intact one of the open segment nothing proves that they were acknowledged: damage there (not a crash) is not told from
//! a torn tail. A medium that refuses to *read* a segment keeps the store from opening.
//! One that refuses later stops the reading of that queue, which tries again every second. Quarantine is not bounded.

#![allow(rustdoc::private_intra_doc_links, reason = "the map above is for those who work here")]

mod active;
mod append;
mod checkpoint;
pub mod disk;
mod engine;
mod error;
mod files;
mod id;
mod mailbox;
mod queue;
mod record;
mod recover;
mod repair;
mod reserve;
mod segment;
#[cfg(test)]
pub(crate) mod sim;
mod stats;
mod survey;
#[cfg(test)]
mod tests;
mod thrift;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

pub use append::{
    Append, AppendChain, AppendClass, AppendError, AppendTo, Durable, Receipt, ReceiptTo,
};
pub use disk::{Disk, RealDisk, Space};
pub use error::{OpenError, StoreError};
pub use id::{Offset, QueueId};
pub use mailbox::Appender;
pub use queue::{Chunk, Queue, ReadError, Record};
pub use record::PAYLOAD_BYTES_MAX;
pub use stats::StoreStats;

use crate::clock::SharedClock;
use engine::Engine;
use mailbox::Mailbox;
use stats::Counters;
use writer::Writer;

/// How the store is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The store's folder; made if missing.
    pub dir: PathBuf,
    /// Size at which a segment is full. Space is freed a segment at a time.
    pub segment_bytes_max: u64,
    /// How long the writer waits for more after the first append of a batch. Zero: commits what waits. Longer saves
    /// flash at low rates and delays acknowledgements by as much.
    pub commit_window: Duration,
    /// Most bytes in one batch.
    pub batch_bytes_max: usize,
    /// Most bytes that wait for the disk; appends beyond wait for room.
    pub pending_bytes_max: usize,
    /// Room on the volume that appends of [`AppendClass::Ingress`] leave free, so that those of the store's own side,
    /// which make room, still succeed. On a small volume less: a twentieth of it, but three segments if that is no more
    /// than a quarter. See [`reserve`] for how exactly it is kept.
    pub reserve_bytes: u64,
    /// Settled messages after which a checkpoint is made durable at once (else within a second). A power cut repeats at
    /// most what was settled in that time.
    pub checkpoint_sync_every: u64,
}

impl Config {
    /// The defaults, in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes_max: 4 * 1024 * 1024,
            commit_window: Duration::ZERO,
            batch_bytes_max: 1024 * 1024,
            pending_bytes_max: 16 * 1024 * 1024,
            reserve_bytes: 32 * 1024 * 1024,
            checkpoint_sync_every: 1000,
        }
    }
}

/// Whether the store can keep its promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Healthy,
    /// A write or sync failed, with these words. It acknowledges nothing any more: the process must be restarted.
    Poisoned(String),
}

/// What a start found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecoveryReport {
    /// Queues.
    pub queues: usize,
    /// Records that are not settled.
    pub records: u64,
    /// Bytes that were no record, cut off or left out.
    pub torn_bytes: u64,
    /// Records that a crash tore before they were acknowledged (a torn tail counts as one).
    pub torn_records: u64,
    /// Records that had been durable and are gone: damage, not a crash.
    pub proven_lost: u64,
    /// Checkpoints of which no slot was whole: what is still there is delivered again.
    pub checkpoints_lost: u64,
    /// Copies of damaged segments.
    pub quarantined: Vec<PathBuf>,
    /// How long it took.
    pub took: Duration,
}

/// The store. Dropping it without [`Store::close`] stops the writer after what waits, without waiting for it.
pub struct Store {
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
    ids: watch::Receiver<Vec<QueueId>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Store {
    /// Locks the folder, recovers what is in it, and starts the writer thread. Blocks on the disk.
    pub fn open(
        config: Config,
        disk: Arc<dyn Disk>,
        clock: SharedClock,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let dir = config.dir.clone();
        let mailbox = Arc::new(Mailbox::new(config.pending_bytes_max));
        let counters = Arc::<Counters>::default();
        let (engine, report) = Engine::open(config, disk, clock, Arc::clone(&counters))?;
        let ids = engine.ids();
        let writer = Writer {
            engine,
            mailbox: Arc::clone(&mailbox),
            counters: Arc::clone(&counters),
            refusing: false,
        };
        let thread = std::thread::Builder::new().name("store-writer".into());
        let thread = thread.spawn(move || writer.run());
        let thread = thread.map_err(|source| OpenError::Io { path: dir, source })?;
        Ok((Self { mailbox, counters, ids, writer: Mutex::new(Some(thread)) }, report))
    }

    /// A way in.
    pub fn appender(&self) -> Appender {
        Appender { mailbox: Arc::clone(&self.mailbox) }
    }

    /// All queues: found at start, or made since.
    pub fn queues(&self) -> watch::Receiver<Vec<QueueId>> {
        self.ids.clone()
    }

    /// Opens a queue, making it if it is not there.
    pub async fn queue(&self, id: &QueueId) -> Result<Queue, StoreError> {
        let shared = self.mailbox.open(id.clone()).await?;
        Ok(Queue { shared, mailbox: Arc::clone(&self.mailbox) })
    }

    /// Whether the store can keep its promise.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.mailbox.health().subscribe()
    }

    /// Counters and levels.
    pub fn stats(&self) -> StoreStats {
        self.counters.snapshot()
    }

    /// Takes no more appends, makes durable what waits, syncs the checkpoints, and ends the writer thread. A second
    /// call returns at once.
    pub async fn close(&self) {
        self.mailbox.post_close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // An error would mean that the runtime is going down, or that the thread panicked, which it has told.
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.mailbox.post_close();
    }
}
