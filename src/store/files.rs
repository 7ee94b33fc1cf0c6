//! The files of one queue, as the engine changes them.
//!
//! Owns: the active segment, the checkpoint, and the moment when a segment is unlinked: after the checkpoint that makes
//! it dead is durable. Must not know: other queues, receipts.

mod creation;
mod removal;
mod room;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::active::Active;
use super::age::{ExpiresBy, StoreMillis};
use super::append::Append;
use super::checkpoint::{self, Checkpoint};
use super::disk::{is_full, is_no_handle};
use super::engine::{CHECKPOINT_SYNC_AFTER, Failure, Tools};
use super::id::Offset;
use super::index::SegmentMeta;
use super::quarantine;
use super::queue::Shared;
use super::record::{self, Head};
use super::segment::{HEADER_BYTES, Key, SEAL_BYTES};
use super::stats::{BLOCK_BYTES, add, blocks};
pub(super) use room::{first_allocation, fixed_bytes, new_segment_bytes};

/// The files that hold the whole name of a queue whose folder name is shortened: twice, since without it the queue would
/// not be found again. The folder name tells whether one is whole.
pub(super) const NAME_FILES: [&str; 2] = ["name", "name-copy"];

/// A batch's buffer is kept for the next one up to this size (not in side queues: they are many). As large as a batch: to
/// grow it again for each would cost as much as to fill it.
const STAGED_BYTES_KEPT: usize = 2 * 1024 * 1024;

/// One queue's files.
pub(super) struct QueueFiles {
    pub(super) shared: Arc<Shared>,
    pub(super) checkpoint: Checkpoint,
    pub(super) active: Option<Active>,
    /// The first offset that is not durable.
    end: Offset,
    /// Whether readers have not been told of it.
    is_news: bool,
    /// Bytes of the files beside the segments.
    fixed_bytes: u64,
    /// Since when the checkpoint waits for its sync.
    unsynced_since: Option<Instant>,
    unsynced_settles: u64,
    /// Size to which the next segment is preallocated.
    pub(super) allocation: u64,
    /// Segments that could not be unlinked.
    pub(super) garbage: Vec<SegmentMeta>,
    /// Since when all that it holds is settled, but its active segment is still there, and is large.
    drained_since: Option<Instant>,
    /// The folder does not durably have the active segment yet.
    is_entry_unsynced: bool,
    /// The folder may durably still have segments that were unlinked.
    are_unlinks_unsynced: bool,
    /// A write failed that could not be taken back yet: there may be bytes behind the last record.
    pub(super) has_tail: bool,
    /// When the first record of the first segment was stored.
    front_stored: Option<(Key, u64)>,
    /// From where on the active segment has bytes that no sync has covered, for the count of blocks.
    unsynced_from: u64,
    /// Bytes that the batch under way adds; 0 = it does not name this queue.
    pub(super) need: u64,
    /// Whether they were written.
    pub(super) is_written: bool,
    staged: Vec<u8>,
    staged_records: u64,
    staged_payload: u64,
    /// When all of them have expired.
    staged_expiry: Option<ExpiresBy>,
}

impl QueueFiles {
    pub(super) fn new(shared: Arc<Shared>, checkpoint: Checkpoint, end: Offset) -> Self {
        let allocation = first_allocation(&shared.id);
        let fixed_bytes = fixed_bytes(&shared.id);
        Self {
            fixed_bytes,
            shared,
            checkpoint,
            active: None,
            end,
            unsynced_since: None,
            unsynced_settles: 0,
            allocation,
            garbage: Vec::new(),
            drained_since: None,
            is_entry_unsynced: false,
            are_unlinks_unsynced: false,
            has_tail: false,
            front_stored: None,
            unsynced_from: u64::MAX,
            need: 0,
            is_written: false,
            is_news: false,
            staged: Vec::new(),
            staged_records: 0,
            staged_payload: 0,
            staged_expiry: None,
        }
    }

    pub(super) fn path_of(&self, meta: &SegmentMeta) -> PathBuf {
        self.shared.folder.join(meta.key.file_name())
    }

    fn active_path(&self) -> PathBuf {
        let active = self.active.as_ref().map(|a| self.path_of(&a.meta));
        active.unwrap_or_else(|| self.shared.folder.clone())
    }

    /// Step 1 of a commit: an open segment with room for what the batch adds; preallocated for more if `lavish`.
    pub(super) fn make_room(&mut self, tools: &Tools, lavish: bool) -> Result<(), Failure> {
        if self.has_tail {
            self.cut_back(tools)?;
            if self.has_tail {
                return Err(Failure::Refused(io::Error::other("no file handle to be had")));
            }
        }
        let max = tools.segment_max(&self.shared.id);
        if self.active.as_ref().is_some_and(|active| !active.fits(self.need, max)) {
            self.seal_active(tools)?;
            // It has filled one segment: the next one is made in full size at once.
            self.allocation = max;
        }
        match &mut self.active {
            Some(active) => active.reserve(self.need, max, lavish)?,
            None => self.start_segment(tools, lavish.then_some(self.allocation.min(max)))?,
        }
        // The header and the length go with the first record's fdatasync; the entry must be there before.
        if self.is_entry_unsynced {
            tools.sync_dir(&self.shared.folder)?;
            self.is_entry_unsynced = false;
        }
        Ok(())
    }

    fn start_segment(&mut self, tools: &Tools, allocation: Option<u64>) -> Result<(), Failure> {
        let folder = &self.shared.folder;
        let room = new_segment_bytes(self.need, allocation) - HEADER_BYTES - SEAL_BYTES;
        let now = tools.age.now();
        let disk = tools.disk_of(&self.shared.id);
        let active = Active::create(&**disk, folder, self.end, (room, self.need), now)?;
        add(&tools.counters.written_bytes, HEADER_BYTES);
        self.active = Some(active);
        self.is_entry_unsynced = true;
        self.unsynced_from = 0;
        Ok(())
    }

    pub(super) fn seal_active(&mut self, tools: &Tools) -> Result<(), Failure> {
        let path = self.active_path();
        let Some(mut active) = self.active.take() else {
            return Ok(());
        };
        self.has_tail = false;
        match active.seal() {
            Ok(()) => {
                add(&tools.counters.written_bytes, SEAL_BYTES);
                let at = active.meta.data_end;
                add(&tools.counters.written_block_bytes, blocks(at, at + SEAL_BYTES));
                add(&tools.counters.syncs, 1);
                let synced = active.file.sync_data();
                synced.map_err(|error| Failure::poison("fdatasync", &path, &error))
            }
            // Its records are durable; a missing seal costs a scan at the next start, no more.
            Err(error) if is_full(&error) => {
                tracing::warn!(path = %path.display(), %error, "could not seal a full segment");
                Ok(())
            }
            Err(error) if is_no_handle(&error) => {
                self.active = Some(active);
                Err(Failure::Refused(error))
            }
            Err(error) => Err(Failure::poison("write", &path, &error)),
        }
    }

    /// Adds a record to the batch's buffer, stored `now` if it is new. Room was made.
    pub(super) fn stage(&mut self, append: &Append, ttl_secs: u32, now: StoreMillis) {
        let salt = self.active.as_ref().expect("room was made").meta.key.salt;
        let stored = append.since.map_or(now, |since| since.min(now));
        let head = Head {
            offset: Offset(self.end.0 + self.staged_records),
            durable_below: self.end,
            stored,
            ttl_secs,
        };
        if self.staged.is_empty() {
            self.staged.reserve_exact(usize::try_from(self.need).expect("a batch fits memory"));
        }
        record::encode(&mut self.staged, salt, &head, &append.payload);
        let expiry = ExpiresBy::of(stored, ttl_secs);
        self.staged_expiry = Some(self.staged_expiry.map_or(expiry, |all| all.with(expiry)));
        self.staged_records += 1;
        self.staged_payload += append.payload.len() as u64;
    }

    /// Step 2 of a commit.
    pub(super) fn write_staged(&mut self, tools: &Tools) -> Result<(), (PathBuf, io::Error)> {
        let active = self.active.as_ref().expect("room was made");
        debug_assert_eq!(self.staged.len() as u64, self.need, "the batch is staged");
        let written = active.file.write_at(&self.staged, active.meta.data_end);
        let unbegun = written.as_ref().is_err_and(is_no_handle);
        (self.is_written, self.has_tail) = (!unbegun, unbegun);
        written.map_err(|error| (self.active_path(), error))?;
        add(&tools.counters.written_bytes, self.need);
        Ok(())
    }

    /// Takes step 2 back, durably: else a later crash could bring refused records to light. If the volume takes no writes
    /// just now, that is done before the next write.
    pub(super) fn cut_back(&mut self, tools: &Tools) -> Result<(), Failure> {
        let path = self.active_path();
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let cut = active.cut_back();
        self.has_tail = cut.as_ref().is_err_and(is_no_handle);
        match cut {
            Ok(()) => self.sync_active(tools),
            Err(_) if self.has_tail => Ok(()),
            Err(error) => Err(Failure::poison("truncate", &path, &error)),
        }
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
        let from = meta.data_end.min(std::mem::replace(&mut self.unsynced_from, u64::MAX));
        add(&tools.counters.written_block_bytes, blocks(from, meta.data_end + self.need));
        self.drained_since = None;
        meta.data_end += self.need;
        meta.next = self.end;
        self.staged_expiry.into_iter().for_each(|expiry| meta.note_expiry(expiry));
        meta.records += self.staged_records;
        meta.payload_bytes += self.staged_payload;
        add(&tools.counters.appended_records, self.staged_records);
        add(&tools.counters.appended_bytes, self.staged_payload);
        let mut index = self.shared.index();
        match index.segments.back_mut().filter(|last| last.key == meta.key) {
            Some(last) => *last = SegmentMeta { damaged: last.damaged, ..*meta },
            None => index.segments.push_back(*meta),
        }
        drop(index);
        self.forget_staged();
        self.shared.publish(self.end);
        self.is_news = true;
    }

    /// Tells the readers, if there is news for them.
    pub(super) fn announce(&mut self) {
        if std::mem::take(&mut self.is_news) {
            self.shared.announce();
        }
    }

    pub(super) fn forget_staged(&mut self) {
        self.need = 0;
        self.is_written = false;
        self.staged.clear();
        let is_lane = self.shared.id.lane.is_some();
        self.staged.shrink_to(if is_lane { 0 } else { STAGED_BYTES_KEPT });
        self.staged_records = 0;
        self.staged_payload = 0;
        self.staged_expiry = None;
    }

    /// Notes what was asked to be settled; says whether files were freed.
    pub(super) fn settle(&mut self, tools: &Tools, now: Instant) -> Result<bool, Failure> {
        let target = self.shared.settle_to().min(self.end);
        let settled = self.checkpoint.state().settled_below;
        if target <= settled {
            return Ok(false);
        }
        if !self.advance(tools, now, target) {
            return Ok(false);
        }
        if self.unsynced_settles < tools.config.checkpoint_sync_every && !self.has_dead() {
            return Ok(false);
        }
        self.sync_checkpoint(tools, now)?;
        self.unlink_dead(tools)
    }

    /// Moves the settled place, not yet durably; `false` if the disk refused.
    pub(super) fn advance(&mut self, tools: &Tools, now: Instant, target: Offset) -> bool {
        let settled = self.checkpoint.state().settled_below;
        if let Err(error) = self.checkpoint.write(target, self.end) {
            // Costs duplicates after a crash, loses nothing: try again with the next settle or tick.
            if self.unsynced_since.is_none() {
                tracing::warn!(queue = %self.shared.id, %error, "could not write a checkpoint");
            }
            self.unsynced_since.get_or_insert(now);
            return false;
        }
        add(&tools.counters.written_bytes, 64);
        self.shared.index().settled = target;
        self.shared.request_settle(target);
        self.unsynced_since.get_or_insert(now);
        // A small one stays: else a queue that is drained after every message would make and unlink a file for each.
        let kept = first_allocation(&self.shared.id);
        let is_large = self.active.as_ref().is_some_and(|active| active.disk_bytes() > kept);
        self.drained_since = (target == self.end && is_large).then_some(now);
        self.unsynced_settles += target.0 - settled.0;
        true
    }

    /// Whether a sealed segment holds nothing but settled records.
    fn has_dead(&self) -> bool {
        let index = self.shared.index();
        let active = self.active.as_ref().map(|a| a.meta.key);
        index.segments.front().is_some_and(|s| s.next <= index.settled && Some(s.key) != active)
    }

    pub(super) fn sync_checkpoint(&mut self, tools: &Tools, now: Instant) -> Result<(), Failure> {
        let durable = sync_checkpoint(tools, &mut self.checkpoint, &self.shared.folder)?;
        self.unsynced_since = (!durable).then_some(now);
        self.unsynced_settles = 0;
        Ok(())
    }

    /// Unlinks dead segments, unless the checkpoint that says so is not durable.
    pub(super) fn unlink_dead(&mut self, tools: &Tools) -> Result<bool, Failure> {
        if self.checkpoint.is_dirty() {
            return Ok(false);
        }
        let known = self.garbage.len();
        while self.has_dead() {
            // Out of the index first, so that a reader never finds a segment that is gone.
            self.garbage.extend(self.shared.index().segments.pop_front());
        }
        let mut kept = Vec::new();
        let garbage = std::mem::take(&mut self.garbage);
        let tried = garbage.len();
        for (n, meta) in garbage.into_iter().enumerate() {
            let path = self.path_of(&meta);
            let gone = match meta.damaged {
                true => quarantine::retire(tools, &path),
                false => tools.disk.remove_file(&path).map_err(Failure::Refused),
            };
            match gone {
                Err(poison @ Failure::Poison(_)) => return Err(poison),
                Err(Failure::Refused(error)) if error.kind() != io::ErrorKind::NotFound => {
                    if n >= known {
                        tracing::warn!(path = %path.display(), %error, "could not unlink; trying again");
                    }
                    kept.push(meta);
                }
                _ => self.are_unlinks_unsynced = true,
            }
        }
        let freed = kept.len() < tried;
        self.garbage = kept;
        self.sync_unlinks(tools)?;
        Ok(freed)
    }

    fn sync_unlinks(&mut self, tools: &Tools) -> Result<(), Failure> {
        if self.are_unlinks_unsynced {
            tools.sync_dir(&self.shared.folder)?;
            self.are_unlinks_unsynced = false;
        }
        Ok(())
    }

    pub(super) fn is_restless(&self) -> bool {
        self.unsynced_since.is_some() || self.drained_since.is_some() || self.is_untidy()
    }

    fn is_untidy(&self) -> bool {
        self.are_unlinks_unsynced || !self.garbage.is_empty()
    }

    /// Makes a checkpoint durable that has waited long enough, and gives a drained queue's space back.
    pub(super) fn tick(&mut self, tools: &Tools, now: Instant) -> Result<bool, Failure> {
        let due = |since: Option<Instant>| {
            since.is_some_and(|since| now.saturating_duration_since(since) >= CHECKPOINT_SYNC_AFTER)
        };
        let is_drained = due(self.drained_since);
        if !is_drained && !due(self.unsynced_since) && !self.is_untidy() {
            return Ok(false);
        }
        self.settle(tools, now)?;
        self.sync_checkpoint(tools, now)?;
        if is_drained && self.has_tail {
            self.cut_back(tools)?;
        }
        if is_drained && !self.has_tail && self.checkpoint.state().settled_below == self.end {
            // Best effort: once settled it is unlinked. A refusal of that is told where it happens.
            let trimmed = self.active.take().map_or(Ok(()), |mut active| active.trim());
            if let Err(poison @ Failure::Poison(_)) = trimmed.map_err(Failure::from) {
                return Err(poison);
            }
            self.drained_since = None;
            self.allocation = first_allocation(&self.shared.id);
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
        self.sync_unlinks(tools)?;
        let (disk, folder) = (&*tools.disk, &self.shared.folder);
        disk.remove_file(&folder.join(checkpoint::FILE_NAME))?;
        // From here on it is deleted: what stays of an empty queue does no harm, and is found by the next start.
        for name in NAME_FILES {
            let _ = disk.remove_file(&folder.join(name));
        }
        tools.try_sync_dir(folder)?;
        if let Err(error) = disk.remove_dir(folder) {
            tracing::warn!(path = %folder.display(), %error, "could not remove an empty folder");
        }
        tools.try_sync_dir(&tools.config.dir)?;
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

    pub(super) fn durable_settled(&self) -> Option<Offset> {
        (!self.checkpoint.is_dirty()).then(|| self.checkpoint.state().settled_below)
    }

    /// Segment files, and the bytes of all files.
    pub(super) fn disk_usage(&self) -> (u64, u64) {
        let index = self.shared.index();
        let active = self.active.as_ref();
        let key = active.map(|a| a.meta.key);
        let sealed = index.segments.iter().chain(&self.garbage).filter(|s| Some(s.key) != key);
        let (count, bytes) = sealed.fold((0, 0), |(n, b), s| (n + 1, b + s.data_end + SEAL_BYTES));
        let bytes = bytes + active.map_or(0, Active::disk_bytes);
        (count + u64::from(active.is_some()), bytes + self.fixed_bytes)
    }
}

/// Makes a checkpoint durable; `false` if it could not be written.
fn sync_checkpoint(
    tools: &Tools,
    checkpoint: &mut Checkpoint,
    folder: &Path,
) -> Result<bool, Failure> {
    if checkpoint.is_dirty() {
        add(&tools.counters.syncs, 1);
        add(&tools.counters.written_block_bytes, BLOCK_BYTES);
    }
    checkpoint
        .sync()
        .map_err(|error| Failure::poison("fdatasync", &folder.join(checkpoint::FILE_NAME), &error))
}
