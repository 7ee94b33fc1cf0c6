//! The one segment of a queue that records are added to.
//!
//! Owns: its open file, its end and its preallocated length. Belongs to the writer thread. Must not know: other queues.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::age::StoreMillis;
use super::disk::{Disk, DiskFile, Mode, is_full};
use super::id::Offset;
use super::index::SegmentMeta;
use super::segment::{self, Header, Key, SEAL_BYTES, Seal};

/// Preallocation of a queue's first segment; it doubles as the segment fills, so that a quiet queue stays small.
pub(super) const FIRST_ALLOCATION_BYTES: u64 = 128 * 1024;

/// The same of a side queue: there may be thousands of them.
pub(super) const LANE_ALLOCATION_BYTES: u64 = 8 * 1024;

/// Nothing more is asked of a file system that cannot preallocate.
const UNLIMITED: u64 = u64::MAX;

/// An open segment.
pub(super) struct Active {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) meta: SegmentMeta,
    /// The file reaches to here.
    allocated: u64,
}

impl Active {
    /// Makes the file with its header and `room` for records, if need be only for the `need` at hand. The caller syncs the folder before the first record counts.
    pub(super) fn create(
        disk: &dyn Disk,
        folder: &Path,
        first: Offset,
        (room, need): (u64, u64),
        now: StoreMillis,
    ) -> io::Result<Self> {
        let key = Key { first, salt: rand::random() };
        let path = folder.join(key.file_name());
        let file = disk.open(&path, Mode::CreateNew)?;
        let data_end = segment::HEADER_BYTES;
        let meta = SegmentMeta::empty(key);
        let header = Header { version: meta.version, created: now }.encode(key);
        let mut active = Self { file, meta, allocated: 0 };
        let made = active
            .allocate(data_end + room + SEAL_BYTES, data_end + need + SEAL_BYTES)
            .and_then(|()| active.file.write_at(&header, 0));
        if let Err(error) = made {
            // Best effort: recovery removes segments without records.
            let _ = disk.remove_file(&path);
            return Err(error);
        }
        Ok(active)
    }

    /// Whether `bytes` more keep the segment within `max`. An empty one takes a record of any size.
    pub(super) fn fits(&self, bytes: u64, max: u64) -> bool {
        self.is_empty() || self.meta.data_end + bytes + SEAL_BYTES <= max
    }

    pub(super) fn is_empty(&self) -> bool {
        self.meta.data_end == segment::HEADER_BYTES
    }

    /// How long the file is to be for `bytes` more: at least, and, doubling up to `max`, at best, so that fdatasync finds
    /// its length unchanged.
    fn lengths(&self, bytes: u64, max: u64) -> (u64, u64) {
        let least = self.meta.data_end + bytes + SEAL_BYTES;
        (least, least.max(max.min(self.allocated.saturating_mul(2))))
    }

    /// By how much [`Active::reserve`] makes the file longer.
    pub(super) fn growth(&self, bytes: u64, max: u64, lavish: bool) -> u64 {
        let (least, best) = self.lengths(bytes, max);
        let grows = self.allocated == UNLIMITED || least > self.allocated;
        let len = if lavish && self.allocated != UNLIMITED { best } else { least };
        if grows { len.saturating_sub(self.disk_bytes()) } else { 0 }
    }

    /// Preallocates for `bytes` more; more than that only if `lavish`.
    pub(super) fn reserve(&mut self, bytes: u64, max: u64, lavish: bool) -> io::Result<()> {
        let (least, best) = self.lengths(bytes, max);
        if least <= self.allocated {
            return Ok(());
        }
        self.allocate(if lavish { best } else { least }, least)
    }

    /// Preallocated bytes that no record has needed yet.
    pub(super) fn spare(&self) -> u64 {
        self.disk_bytes() - (self.meta.data_end + SEAL_BYTES)
    }

    /// Gives the preallocated bytes back.
    pub(super) fn trim(&mut self) -> io::Result<()> {
        let len = self.meta.data_end + SEAL_BYTES;
        if self.allocated != UNLIMITED && self.allocated > len {
            self.file.set_len(len)?;
            self.allocated = len;
        }
        Ok(())
    }

    /// Preallocates `len`, or `least` if the volume has no more.
    fn allocate(&mut self, len: u64, least: u64) -> io::Result<()> {
        let (len, can) = match self.file.allocate(len) {
            Err(error) if is_full(&error) && least < len => (least, self.file.allocate(least)?),
            other => (len, other?),
        };
        self.allocated = if can { len } else { UNLIMITED };
        Ok(())
    }

    /// Bytes that the file takes, room for its seal included.
    pub(super) fn disk_bytes(&self) -> u64 {
        let sealed = self.meta.data_end + SEAL_BYTES;
        if self.allocated == UNLIMITED { sealed } else { self.allocated.max(sealed) }
    }

    /// Cuts off whatever a failed write left behind the last record.
    pub(super) fn cut_back(&mut self) -> io::Result<()> {
        self.file.set_len(self.meta.data_end)?;
        if self.allocated != UNLIMITED {
            self.allocated = self.meta.data_end;
        }
        Ok(())
    }

    /// Ends the segment: seal behind the last record, preallocation cut off. The caller syncs.
    pub(super) fn seal(&mut self) -> io::Result<()> {
        let meta = &self.meta;
        self.file.set_len(meta.data_end + SEAL_BYTES)?;
        self.file.write_at(&seal_of(meta).encode(meta.key), meta.data_end)?;
        self.allocated = meta.data_end + SEAL_BYTES;
        Ok(())
    }
}

/// The seal that says what `meta` says.
pub(super) fn seal_of(meta: &SegmentMeta) -> Seal {
    Seal {
        data_end: meta.data_end,
        next: meta.next,
        records: meta.records,
        payload_bytes: meta.payload_bytes,
        expires_by: meta.expires_by,
        version: meta.version,
    }
}
