//! The files of one queue, as the engine changes them.
//!
//! Owns: the active segment, the checkpoint, and the moment when a segment is unlinked: after the checkpoint that makes
//! it dead is durable. Must not know: other queues, receipts.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::active::{Active, FIRST_ALLOCATION_BYTES, LANE_ALLOCATION_BYTES};
use super::append::Append;
use super::checkpoint::{self, Checkpoint, State};
use super::disk::{is_full, write_atomically};
use super::engine::{BEGINNING, CHECKPOINT_SYNC_AFTER, Failure, Tools, folder_of};
use super::id::{Offset, QueueId};
use super::queue::{Index, SegmentMeta, Shared};
use super::record::{self, Head};
use super::segment::{HEADER_BYTES, SEAL_BYTES};
use super::stats::add;

/// The file that holds the whole name of a queue whose folder name is shortened.
pub(super) const NAME_FILE: &str = "name";

/// A batch's buffer is kept for the next one up to this size (not in side queues: they are many).
const STAGED_BYTES_KEPT: usize = 256 * 1024;

/// One queue's files.
pub(super) struct QueueFiles {
    pub(super) shared: Arc<Shared>,
    checkpoint: Checkpoint,
    active: Option<Active>,
    /// The first offset that is not durable.
    end: Offset,
    /// Since when the checkpoint waits for its sync.
    unsynced_since: Option<Instant>,
    unsynced_settles: u64,
    /// Size to which the next segment is preallocated.
    allocation: u64,
    /// Segments that could not be unlinked.
    garbage: Vec<SegmentMeta>,
    /// Bytes that the batch under way adds; 0 = it does not name this queue.
    pub(super) need: u64,
    staged: Vec<u8>,
    staged_records: u64,
    staged_payload: u64,
}

impl QueueFiles {
    pub(super) fn new(shared: Arc<Shared>, checkpoint: Checkpoint, end: Offset) -> Self {
        let is_lane = shared.id.lane.is_some();
        Self {
            shared,
            checkpoint,
            active: None,
            end,
            unsynced_since: None,
            unsynced_settles: 0,
            allocation: if is_lane { LANE_ALLOCATION_BYTES } else { FIRST_ALLOCATION_BYTES },
            garbage: Vec::new(),
            need: 0,
            staged: Vec::new(),
            staged_records: 0,
            staged_payload: 0,
        }
    }

    /// Makes a new queue, durably.
    pub(super) fn create(tools: &Tools, id: &QueueId) -> Result<Self, Failure> {
        let disk = &**tools.disk_of(id);
        let folder = folder_of(&tools.config.dir, id);
        disk.create_dir_all(&folder)?;
        if QueueId::is_short_folder(&id.folder()) {
            // Without this file the queue would not be found again: a sync that failed is poison here, too.
            let path = folder.join(NAME_FILE);
            let written = write_atomically(disk, &path, id.encoded().as_bytes());
            written.map_err(|error| match is_full(&error) {
                true => Failure::Refused(error),
                false => Failure::poison("write", &path, &error),
            })?;
        }
        let mut checkpoint = Checkpoint::create(disk, &folder, State::default())?;
        if !sync_checkpoint(tools, &mut checkpoint, &folder)? {
            return Err(Failure::Refused(io::ErrorKind::StorageFull.into()));
        }
        tools.sync_dir(&folder)?;
        tools.sync_dir(&tools.config.dir)?;
        let disk = Arc::clone(tools.disk_of(id));
        let counters = Arc::clone(&tools.counters);
        let index = Index::default();
        let shared = Shared::new(id.clone(), folder, disk, counters, index, BEGINNING);
        Ok(Self::new(Arc::new(shared), checkpoint, BEGINNING))
    }

    fn path_of(&self, meta: &SegmentMeta) -> PathBuf {
        self.shared.folder.join(meta.key.file_name())
    }

    fn active_path(&self) -> PathBuf {
        let active = self.active.as_ref().map(|a| self.path_of(&a.meta));
        active.unwrap_or_else(|| self.shared.folder.clone())
    }

    /// Step 1 of a commit: an open segment with preallocated room for what the batch adds.
    pub(super) fn make_room(&mut self, tools: &Tools) -> Result<(), Failure> {
        let max = tools.config.segment_bytes_max;
        if self.active.as_ref().is_some_and(|active| !active.fits(self.need, max)) {
            self.seal_active(tools)?;
            // It has filled one segment: the next one is made in full size at once.
            self.allocation = max;
        }
        match &mut self.active {
            Some(active) => active.reserve(self.need, max)?,
            None => self.start_segment(tools)?,
        }
        Ok(())
    }

    fn start_segment(&mut self, tools: &Tools) -> Result<(), Failure> {
        let folder = &self.shared.folder;
        let room = self.allocation.min(tools.config.segment_bytes_max);
        let room = room.saturating_sub(HEADER_BYTES + SEAL_BYTES).max(self.need);
        let now = tools.clock.wall();
        let disk = tools.disk_of(&self.shared.id);
        let active = Active::create(&**disk, folder, self.end, (room, self.need), now)?;
        add(&tools.counters.written_bytes, HEADER_BYTES);
        self.active = Some(active);
        // The header and the length go with the first record's fdatasync; the entry must be there before.
        tools.sync_dir(&self.shared.folder)
    }

    fn seal_active(&mut self, tools: &Tools) -> Result<(), Failure> {
        let path = self.active_path();
        let Some(mut active) = self.active.take() else {
            return Ok(());
        };
        match active.seal() {
            Ok(()) => {
                add(&tools.counters.written_bytes, SEAL_BYTES);
                add(&tools.counters.syncs, 1);
                let synced = active.file.sync_data();
                synced.map_err(|error| Failure::poison("fdatasync", &path, &error))
            }
            // Its records are durable; a missing seal costs a scan at the next start, no more.
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "could not seal a full segment");
                Ok(())
            }
        }
    }

    /// Adds a record to the batch's buffer. Room was made.
    pub(super) fn stage(&mut self, append: &Append, ttl_secs: u32) {
        let salt = self.active.as_ref().expect("room was made").meta.key.salt;
        let head = Head {
            offset: Offset(self.end.0 + self.staged_records),
            durable_below: self.end,
            received: append.received,
            ttl_secs,
        };
        record::encode(&mut self.staged, salt, &head, &append.payload);
        self.staged_records += 1;
        self.staged_payload += append.payload.len() as u64;
    }

    /// Step 2 of a commit.
    pub(super) fn write_staged(&self, tools: &Tools) -> Result<(), (PathBuf, io::Error)> {
        let active = self.active.as_ref().expect("room was made");
        debug_assert_eq!(self.staged.len() as u64, self.need, "the batch is staged");
        let written = active.file.write_at(&self.staged, active.meta.data_end);
        written.map_err(|error| (self.path_of(&active.meta), error))?;
        add(&tools.counters.written_bytes, self.need);
        Ok(())
    }

    /// Takes step 2 back, durably: else a later crash could bring refused records to light.
    pub(super) fn cut_back(&mut self, tools: &Tools) -> Result<(), Failure> {
        let path = self.active_path();
        let active = self.active.as_mut().expect("room was made");
        active.cut_back().map_err(|error| Failure::poison("truncate", &path, &error))?;
        self.sync_active(tools)
    }

    /// Step 3 of a commit. An error is final: a second fdatasync would answer `Ok` for pages the kernel has dropped.
    pub(super) fn sync_active(&self, tools: &Tools) -> Result<(), Failure> {
        let Some(active) = &self.active else {
            return Ok(());
        };
        add(&tools.counters.syncs, 1);
        let synced = active.file.sync_data();
        synced.map_err(|error| Failure::poison("fdatasync", &self.path_of(&active.meta), &error))
    }

    /// Step 4 of a commit: the batch is durable, readers may have it.
    pub(super) fn publish(&mut self, tools: &Tools) {
        let meta = &mut self.active.as_mut().expect("room was made").meta;
        self.end = Offset(self.end.0 + self.staged_records);
        meta.data_end += self.need;
        meta.next = self.end;
        meta.records += self.staged_records;
        meta.payload_bytes += self.staged_payload;
        add(&tools.counters.appended_records, self.staged_records);
        add(&tools.counters.appended_bytes, self.staged_payload);
        let mut index = self.shared.index();
        match index.segments.back_mut().filter(|last| last.key == meta.key) {
            Some(last) => *last = *meta,
            None => index.segments.push_back(*meta),
        }
        drop(index);
        self.forget_staged();
        self.shared.publish(self.end);
    }

    pub(super) fn forget_staged(&mut self) {
        self.need = 0;
        self.staged.clear();
        let is_lane = self.shared.id.lane.is_some();
        self.staged.shrink_to(if is_lane { 0 } else { STAGED_BYTES_KEPT });
        self.staged_records = 0;
        self.staged_payload = 0;
    }

    /// Notes what was asked to be settled; says whether files were freed.
    pub(super) fn settle(&mut self, tools: &Tools, now: Instant) -> Result<bool, Failure> {
        let target = self.shared.settle_to().min(self.end);
        let settled = self.checkpoint.state().settled_below;
        if target <= settled {
            return Ok(false);
        }
        if let Err(error) = self.checkpoint.write(target, self.end) {
            // Costs duplicates after a crash, loses nothing: try again with the next settle or tick.
            if self.unsynced_since.is_none() {
                tracing::warn!(queue = %self.shared.id, %error, "could not write a checkpoint");
            }
            self.unsynced_since.get_or_insert(now);
            return Ok(false);
        }
        add(&tools.counters.written_bytes, 64);
        self.shared.index().settled = target;
        self.unsynced_since.get_or_insert(now);
        self.unsynced_settles += target.0 - settled.0;
        if self.unsynced_settles < tools.config.checkpoint_sync_every && !self.has_dead() {
            return Ok(false);
        }
        self.sync_checkpoint(tools, now)?;
        self.unlink_dead(tools)
    }

    /// Whether a sealed segment holds nothing but settled records.
    fn has_dead(&self) -> bool {
        let index = self.shared.index();
        let active = self.active.as_ref().map(|a| a.meta.key);
        index.segments.front().is_some_and(|s| s.next <= index.settled && Some(s.key) != active)
    }

    fn sync_checkpoint(&mut self, tools: &Tools, now: Instant) -> Result<(), Failure> {
        let durable = sync_checkpoint(tools, &mut self.checkpoint, &self.shared.folder)?;
        self.unsynced_since = (!durable).then_some(now);
        self.unsynced_settles = 0;
        Ok(())
    }

    /// Unlinks dead segments, unless the checkpoint that says so is not durable.
    fn unlink_dead(&mut self, tools: &Tools) -> Result<bool, Failure> {
        if self.checkpoint.is_dirty() {
            return Ok(false);
        }
        while self.has_dead() {
            // Out of the index first, so that a reader never finds a segment that is gone.
            self.garbage.extend(self.shared.index().segments.pop_front());
        }
        if self.garbage.is_empty() {
            return Ok(false);
        }
        let mut kept = Vec::new();
        for meta in std::mem::take(&mut self.garbage) {
            match tools.disk.remove_file(&self.path_of(&meta)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %self.path_of(&meta).display(), %error, "could not unlink");
                    kept.push(meta);
                }
                _ => {}
            }
        }
        self.garbage = kept;
        tools.sync_dir(&self.shared.folder)?;
        Ok(true)
    }

    pub(super) fn is_restless(&self) -> bool {
        self.unsynced_since.is_some()
    }

    /// Makes a checkpoint durable that has waited long enough, and gives a drained queue's space back.
    pub(super) fn tick(&mut self, tools: &Tools, now: Instant) -> Result<bool, Failure> {
        let due = |since: Instant| now.saturating_duration_since(since) >= CHECKPOINT_SYNC_AFTER;
        if !self.unsynced_since.is_some_and(due) {
            return Ok(false);
        }
        self.settle(tools, now)?;
        self.sync_checkpoint(tools, now)?;
        let large = tools.config.segment_bytes_max / 4;
        let drained = self.checkpoint.state().settled_below == self.end;
        if drained && self.active.as_ref().is_some_and(|a| a.disk_bytes() >= large) {
            self.active = None;
            self.allocation = FIRST_ALLOCATION_BYTES;
        }
        self.unlink_dead(tools)
    }

    /// Deletes all files if everything is settled; says whether it did. In an order that no crash turns into settled
    /// records coming back: segments, then the checkpoint that knows them as settled, then the folder.
    pub(super) fn delete_files(&mut self, tools: &Tools) -> Result<bool, Failure> {
        if self.checkpoint.state().settled_below < self.end {
            return Ok(false);
        }
        self.drop_all_segments(tools)?;
        if self.disk_usage().0 > 0 {
            return Ok(false);
        }
        let (disk, folder) = (&*tools.disk, &self.shared.folder);
        disk.remove_file(&folder.join(checkpoint::FILE_NAME))?;
        let _ = disk.remove_file(&folder.join(NAME_FILE));
        tools.sync_dir(folder)?;
        // From here on it is deleted: an empty folder that stays is removed by the next start.
        if let Err(error) = disk.remove_dir(folder) {
            tracing::warn!(path = %folder.display(), %error, "could not remove an empty folder");
        }
        tools.sync_dir(&tools.config.dir)?;
        Ok(true)
    }

    fn drop_all_segments(&mut self, tools: &Tools) -> Result<(), Failure> {
        // An active segment without records is not in the index.
        self.garbage.extend(self.active.take().filter(Active::is_empty).map(|a| a.meta));
        self.sync_checkpoint(tools, tools.clock.monotonic())?;
        self.unlink_dead(tools)?;
        Ok(())
    }

    /// Leaves the queue durable and tidy.
    pub(super) fn close(&mut self, tools: &Tools) -> Result<(), Failure> {
        if self.checkpoint.state().settled_below == self.end {
            return self.drop_all_segments(tools);
        }
        if self.active.as_ref().is_some_and(Active::is_empty) {
            self.garbage.extend(self.active.take().map(|a| a.meta));
        }
        self.seal_active(tools)?;
        self.sync_checkpoint(tools, tools.clock.monotonic())?;
        self.unlink_dead(tools)?;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn durable_settled(&self) -> Option<Offset> {
        (!self.checkpoint.is_dirty()).then(|| self.checkpoint.state().settled_below)
    }

    /// Segment files and their bytes.
    pub(super) fn disk_usage(&self) -> (u64, u64) {
        let index = self.shared.index();
        let active = self.active.as_ref();
        let key = active.map(|a| a.meta.key);
        let sealed = index.segments.iter().chain(&self.garbage).filter(|s| Some(s.key) != key);
        let (count, bytes) = sealed.fold((0, 0), |(n, b), s| (n + 1, b + s.data_end + SEAL_BYTES));
        (count + u64::from(active.is_some()), bytes + active.map_or(0, Active::disk_bytes))
    }
}

/// Makes a checkpoint durable; `false` if it could not be written.
fn sync_checkpoint(
    tools: &Tools,
    checkpoint: &mut Checkpoint,
    folder: &std::path::Path,
) -> Result<bool, Failure> {
    if checkpoint.is_dirty() {
        add(&tools.counters.syncs, 1);
    }
    checkpoint
        .sync()
        .map_err(|error| Failure::poison("fdatasync", &folder.join(checkpoint::FILE_NAME), &error))
}
