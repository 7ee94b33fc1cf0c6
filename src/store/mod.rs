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
//! thread, [`engine`] the order of writes and syncs, [`files`] and [`active`] the files of one queue, [`queue`], [`index`]
//! and [`window`] reading, [`budget`] how much it may take, [`dropping`] what goes when that is used up, [`held`] what waits
//! for room, [`age`] the store's clock, [`expiry`] what goes by it, [`recover`], [`survey`], [`repair`] and [`report`] the start,
//! [`quarantine`] what is damaged, [`record`], [`segment`], [`slots`] and [`checkpoint`] the bytes, [`id`] names, [`disk`]
//! the seam to the file system, [`thrift`] the files of side queues, [`inspect`] a store seen from outside, [`sim`] a
//! disk that crashes, [`trial`] what is asked of it.
//!
//! # On disk, format 2
//!
//! Every file but `lock` carries its format. Format 1 is read, too: see below.
//!
//! All numbers are little-endian. CRC is CRC32C (Castagnoli). Files have mode 0600, folders 0700.
//!
//! ```text
//! <dir>/lock                                        flock'ed while a process uses the folder
//! <dir>/clock                                       8192 bytes
//! <dir>/quarantine/<queue>--<segment>-<millis>      segments that had lost records, or copies, for a person to look at
//! <dir>/<queue>/checkpoint                          8192 bytes
//! <dir>/<queue>/<first offset, 20 digits>-<salt, 8 hex digits>.seg
//! <dir>/<queue>/name, name-copy                     only where the folder's name is shortened, twice: `sgw-name 2 <queue> <CRC, hex>`
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
//! | 8 | 2 | format = 2 |
//! | 10 | 2 | header length = 64 |
//! | 12 | 4 | CRC of bytes 0..12 and 16..64 |
//! | 16 | 8 | first offset |
//! | 24 | 8 | created, ms of the store's clock |
//! | 32 | 4 | salt |
//! | 36 | 28 | 0 |
//!
//! | at | bytes | record; begins at a multiple of 8 |
//! |---|---|---|
//! | 0 | 4 | length = 40 + payload, without padding; 0: nothing was written here |
//! | 4 | 4 | CRC, started from the segment's salt, of bytes 0..4 and 8..length |
//! | 8 | 8 | offset |
//! | 16 | 8 | `durable_below`: every record below was durable when this one was written |
//! | 24 | 8 | stored first, ms of the store's clock |
//! | 32 | 4 | seconds to live, 0 = for ever |
//! | 36 | 2 | flags = 0; 1: a blank |
//! | 38 | 2 | 0x5347 |
//! | 40 | | payload, then zeros up to a multiple of 8 |
//!
//! A *blank* stands where a crash tore records, before others of the same batch that are whole, and a start found no room to write
//! the segment without them: length = bytes up to the next record, CRC of the 40 bytes alone, at 8 the first offset that is
//! missing there, at 16 the one behind the last. They are judged: readers step over them. A program that does not know blanks
//! counts those offsets as lost.
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
//! | 60 | 4 | the second of the store's clock by which every record has expired; 0: none ever does; 2^32 - 1: not all do |
//!
//! A segment without records but with a seal is a *tombstone*: it stands for segments that have expired between others that
//! have not, and spans their offsets.
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
//! ## Checkpoint and clock: two slots, at 0 and at 4096
//!
//! | at | bytes | slot |
//! |---|---|---|
//! | 0 | 8 | `SGW-CKP\n`; of the clock `SGW-CLK\n` |
//! | 8 | 8 | format, length, CRC as in the header |
//! | 16 | 8 | generation; the intact slot with the higher one counts |
//! | 24 | 8 | `settled_below`; of the clock its milliseconds |
//! | 32 | 8 | `durable_below`: as in a record; of the clock 0 |
//! | 40 | 24 | 0 |
//!
//! ## Format 1
//!
//! In its records and headers bytes 24..32 are wall time, which is ignored: their ages count from the upgrade. Bytes 60..64
//! of its seals are 0, so none of its segments expires as a whole. Its segments stay as they are until they are settled (one
//! without a seal gets one of format 1); its checkpoints are written anew in format 2 by the first start; its `name` is the
//! name and nothing else.
//!
//! # Time to live
//!
//! Ages are counted on the store's own clock ([`StoreMillis`]): it runs while the store is open and stands still while it is
//! not, so no jump of the wall clock makes a message older or younger, and time that the box is switched off does not count. It
//! starts at the highest of what the file `clock`, the headers, and the records that are scanned say. The file is written
//! once a minute while anything waits that grows old, and at close: a power cut or kill makes messages a minute younger at
//! most, a lost file as much as since the newest header. A stamp in the future of the clock counts as now.
//!
//! Readers judge single records ([`Record::expires`]). A segment whose records have all expired goes as a whole, unread, 5 s
//! after the last one did: at the front of its queue the settled place moves past it, durably, before it is unlinked; behind
//! one that stays a tombstone takes its place, durably, before it is unlinked, and recovery unlinks what lies in the span of
//! a tombstone. It is counted and told ([`Removed`]) after it is gone: a crash in between leaves it untold. The count is
//! exact, but for a segment with gaps that is settled in part.
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
//!    of a sync, of a write other than for want of space or of a file handle, or a volume that turns read-only (a file system
//!    does that after an error in itself) poisons the store: [`Health::Poisoned`], no `Ok` ever again,
//!    the process is to be restarted. (An ext4 whose journal is dying answers `Ok` for what it does not keep: [`disk`] asks it
//!    a second time.) The next one reads the same page cache, so before it relies on anything it writes
//!    it again, which makes the pages dirty, and syncs that: the records of segments without a seal, the slot of each
//!    checkpoint and of the clock. A seal whose sync fails is taken back. (A seal that a roll or `close` could not sync costs a
//!    scan if a power cut takes it: its records are durable. What is renamed into place was synced before. That a folder
//!    whose fsync failed is synced by a later one is the file system's: ext4 and XFS go read-only until the next mount.)
//! 4. *A full volume is no failure.* Room is made before anything is written; if a write meets ENOSPC all the same, every
//!    queue of the batch is cut back and synced (else a later crash could bring refused records to light) and the receipts
//!    say [`AppendError::Full`]. The next batch tries again. Recovery needs room only to
//!    make a lost checkpoint anew.
//!    Messages of devices are held, then refused earlier, before the files would grow into the reserve ([`budget`]): dead letters
//!    and side queues get the rest, else a full volume and one stuck message would keep each other for ever. A batch
//!    that does not fit is tried again without the devices' messages.
//!    What a caller appends behind a refused append is refused, too ([`AppendChain`]): no message gets before one that
//!    its device has to send again.
//! 5. *Settled before forgotten.* A segment is unlinked only after the checkpoint that makes it dead was synced. A
//!    checkpoint is written at each settle (kill -9 repeats what the thread had not got to; behind a commit it lets settles
//!    gather for 2 ms or until the next commit), and synced after
//!    `checkpoint_sync_every` settled messages, or a second, or before an unlink. The slot with the last synced state is never written.
//!    A drained queue keeps its open segment while that is small (128 KiB): else each message would make and unlink a file.
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
//! If both checkpoint slots are damaged, what is still there is delivered again: duplicates, no loss. If one is, the other
//! may be older than the last unlink: what is missing before the first segment counts as settled.
//!
//! Lost ranges are in [`RecoveryReport::lost`], and told as [`Removed`] when their queue is recovered.
//!
//! A block that the medium refuses costs the records that touch it: the segment is read block by block, what is readable is
//! copied to `quarantine/` and the segment written anew. One of which nothing can be read is set aside there: its offsets
//! count as lost (of a queue's last segment those that its checkpoint knows, at least one). A slot of a checkpoint that is
//! refused is not whole. Other errors (a permission, want of handles, a folder that cannot be read) refuse the start and
//! change nothing. A queue both of whose `name` files are damaged is left alone, counted, and recovered when it is asked for.
//!
//! # When reading fails later
//!
//! [`Queue::read`] returns the error, for the caller to try again. After five refusals by the medium (want of handles or of a
//! permission does not count) that segment is read block by block without what is refused: the records there are
//! reported as lost, as damaged ones are, and told once ([`Removed`]). When a segment in which damage was found is settled, it
//! is moved into `quarantine/` instead of being unlinked; the oldest ones there make room for it, and never is there more
//! than [`Config::quarantine_bytes_max`], or a sixteenth of a budget (but for a segment set aside at start that is larger by
//! itself). It is given up, the oldest first, before any message is refused or dropped for want of room.
//!
//! # Bounds
//!
//! Waiting appends: `pending_bytes_max`. Memory per queue: about 1 KiB, 56 bytes a segment (14 bytes per MiB of backlog), two open
//! files, one batch buffer, kept up to 2 MiB. A side queue (one with a lane: there may be thousands, mostly idle) holds
//! no open file and no buffer while it has nothing unsynced, and takes 20 KiB of disk at least; a commit looks at
//! every queue, about 0.1 ms per 1000; per read: the records asked for and 256 KiB, which a
//! main queue keeps while it has more to read. The disk is bounded by
//! [`Limits`]: all files together never exceed the budget, and leave the floor of the volume to others ([`budget`]).
//!
//! Known limits: where recovery left a gap in a segment, damage found later beside it is told with the gap. Intact records behind a torn one in the last, never acknowledged batch are kept, so after a power cut a
//! device that sends its unacknowledged messages again may show the second before the first one. Of records behind the last
//! intact one of the open segment nothing proves that they were acknowledged: damage there (not a crash) is not told from
//! a torn tail. If the newer slot of a
//! checkpoint is damaged and no segment is left, offsets may be used again. What a pump reads just when it expires in the
//! middle of a queue, or holds of a side queue, may be counted twice as expired. What was told as dropped may come back
//! after a power cut, and is told again when it goes.

#![allow(rustdoc::private_intra_doc_links, reason = "the map above is for those who work here")]

mod active;
mod age;
mod append;
mod budget;
mod checkpoint;
pub mod disk;
mod dropping;
mod engine;
mod error;
mod expiry;
mod files;
mod held;
mod id;
mod index;
pub mod inspect;
mod mailbox;
mod quarantine;
mod queue;
mod record;
mod recover;
mod removed;
mod repair;
mod report;
mod segment;
pub(crate) mod sim;
mod slots;
mod stats;
mod survey;
#[cfg(test)]
mod tests;
mod thrift;
pub mod trial;
mod window;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

pub use age::StoreMillis;
pub use append::{
    Append, AppendChain, AppendClass, AppendError, AppendTo, Durable, Receipt, ReceiptTo,
};
pub use disk::{Disk, RealDisk, Space};
pub(crate) use error::own_user;
pub use error::{OpenError, StoreError};
pub use id::{Offset, QueueId};
pub use mailbox::Appender;
pub use queue::{Chunk, Queue, ReadError, Record};
pub use record::PAYLOAD_BYTES_MAX;
pub use removed::{Removed, RemovedWhy};
pub use report::{LOST_RANGES_MAX, LostRange, RecoveryReport};
pub use stats::StoreStats;

use crate::clock::SharedClock;
use age::StoreClock;
use budget::Bounds;
use engine::Engine;
use held::Held;
use mailbox::{Command, Mailbox};
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
    /// Most bytes in one batch, with 256 beside each payload.
    pub batch_bytes_max: usize,
    /// Most bytes that wait for the disk; appends beyond wait for room.
    pub pending_bytes_max: usize,
    /// Room on the volume that appends of [`AppendClass::Ingress`] leave free, so that those of the store's own side,
    /// which make room, still succeed. On a small volume less: a twentieth of it, but three segments if that is no more
    /// than a quarter. See [`budget`] for how exactly it is kept. Within a budget: at most
    /// an eighth of it.
    pub reserve_bytes: u64,
    /// What all queues may take, and what happens then.
    pub limits: Limits,
    /// How long an append of [`AppendClass::Ingress`] waits for room before it is refused.
    pub hold_when_full: Duration,
    /// Queues that keep only what came last.
    pub rings: Vec<Ring>,
    /// Most bytes of `quarantine/`: the oldest copies go first.
    pub quarantine_bytes_max: u64,
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
            batch_bytes_max: 2 * 1024 * 1024,
            pending_bytes_max: 16 * 1024 * 1024,
            reserve_bytes: 32 * 1024 * 1024,
            limits: Limits::default(),
            hold_when_full: Duration::from_secs(5),
            rings: Vec::new(),
            quarantine_bytes_max: 64 * 1024 * 1024,
            checkpoint_sync_every: 1000,
        }
    }
}

/// How much disk all queues together may take. Can be changed while the store is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Most bytes of all files of the store; `None`: the volume is the limit.
    pub budget_bytes: Option<u64>,
    /// Bytes of the volume that are left to others, whatever happens; `None`: 64 MiB, or a twentieth of a small volume.
    pub min_free_bytes: Option<u64>,
    /// What happens when there is no room.
    pub when_full: WhenFull,
}

/// See [`Store::room`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes of the files of the store, preallocated space included.
    pub used: u64,
    /// At how many bytes devices' messages are refused, or the oldest go; `None`: the volume does not tell.
    pub limit: Option<u64>,
    /// Bytes that are free on the volume; `None`: it does not tell.
    pub free: Option<u64>,
}

/// What happens when a device's message finds no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// It is refused: the device keeps it and sends it again.
    #[default]
    Reject,
    /// The oldest messages of the lowest priority go ([`Removed`]), a segment at a time.
    DropOldest,
}

/// A queue that keeps only what came last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    /// The queue.
    pub queue: QueueId,
    /// Most bytes of its files.
    pub bytes_max: u64,
}

/// Whether the store can keep its promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Healthy,
    /// A write or sync failed, with these words. It acknowledges nothing any more: the process must be restarted.
    Poisoned(String),
}

/// The store. Dropping it without [`Store::close`] stops the writer after what waits, without waiting for it.
pub struct Store {
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
    ids: watch::Receiver<Vec<QueueId>>,
    age: Arc<StoreClock>,
    removed: Mutex<Option<mpsc::Receiver<Removed>>>,
    config: Config,
    bounds: Mutex<Bounds>,
    disk: Arc<dyn Disk>,
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
        let (kept, kept_disk) = (config.clone(), Arc::clone(&disk));
        let mailbox = Arc::new(Mailbox::new(config.pending_bytes_max));
        let counters = Arc::<Counters>::default();
        let (mut engine, report) = Engine::open(config, disk, clock, Arc::clone(&counters))?;
        let (ids, age) = (engine.ids(), engine.age());
        let bounds = Mutex::new(*engine.bounds());
        let removed = Mutex::new(engine.take_removed());
        let writer = Writer {
            engine,
            mailbox: Arc::clone(&mailbox),
            counters: Arc::clone(&counters),
            held: Held::default(),
            is_short: false,
            announced: None,
        };
        let thread = std::thread::Builder::new().name("store-writer".into());
        let thread = thread.spawn(move || writer.run());
        let dir = &kept.dir;
        let thread = thread.map_err(|source| OpenError::Io { path: dir.clone(), source })?;
        let writer = Mutex::new(Some(thread));
        let (config, disk) = (kept, kept_disk);
        Ok((Self { mailbox, counters, ids, age, removed, config, bounds, disk, writer }, report))
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

    /// Opens a queue if it is there.
    pub async fn existing_queue(&self, id: &QueueId) -> Result<Option<Queue>, StoreError> {
        let shared = self.mailbox.find(id.clone()).await?;
        Ok(shared.map(|shared| Queue { shared, mailbox: Arc::clone(&self.mailbox) }))
    }

    /// Whether the store can keep its promise.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.mailbox.health().subscribe()
    }

    /// Counters and levels.
    pub fn stats(&self) -> StoreStats {
        self.counters.snapshot()
    }

    /// Changes what all queues may take, from the next commit on; appends that wait for room are tried again. A store that
    /// takes more than it may from now on refuses, or drops, until it does not.
    pub fn set_limits(&self, limits: Limits) {
        let bounds = Bounds::in_force(&self.config, &limits);
        *self.bounds.lock().unwrap_or_else(PoisonError::into_inner) = bounds;
        // A store that is closed has no use for it.
        let _ = self.mailbox.post(Command::SetLimits(limits, bounds));
    }

    /// What was removed without having been settled, for counters and logs. The first caller gets it. Bounded: what finds
    /// no room in it is only in [`Store::stats`].
    pub fn removed(&self) -> Option<mpsc::Receiver<Removed>> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// How much the queues take, and how much they may take by what is known now. Asks the volume.
    pub fn room(&self) -> Room {
        let bounds = *self.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        bounds.room(&self.config, self.stats().disk_bytes, self.disk.space(&self.config.dir))
    }

    /// The store's own time.
    pub fn now(&self) -> StoreMillis {
        self.age.now()
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
