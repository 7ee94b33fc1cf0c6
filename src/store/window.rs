//! Reading a segment piece by piece, past damage and past what the medium refuses.
//!
//! Owns: [`Window`], a piece of a segment in memory, and [`Cursor`], a place in one. Must not know: queues.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::disk::{DiskFile, is_medium};
use super::id::Offset;
use super::record::{self, Found, NotRecord, Piece};
use super::segment::{self, Key};

/// Bytes of a segment that are read at once, at least (a larger record is read whole).
const READ_BYTES: u64 = 256 * 1024;
/// How much is given up with one refused byte then.
const SALVAGE_BYTES: usize = 4096;
/// After so many refusals in one read the rest is given up, too.
const SALVAGE_REFUSALS_MAX: usize = 16;

/// Where the last read ended.
pub(super) struct Cursor {
    pub(super) key: Key,
    pub(super) file: Arc<dyn DiskFile>,
    /// Position in the file; the record there has this offset or a higher one.
    pub(super) at: u64,
    pub(super) next: Offset,
    /// What was read beyond that place, for the next read to go on with.
    pub(super) ahead: Window,
}

/// A piece of a segment in memory. Records below the durable end do not change, so it stays true.
#[derive(Default)]
pub(super) struct Window {
    pub(super) bytes: Vec<u8>,
    /// Where it begins in the file.
    pub(super) at: u64,
    /// What the medium refuses to read is taken as zeros.
    pub(super) salvage: bool,
}

impl Window {
    /// What is at the cursor or, if the bytes there are damaged, the next record or blank after it, and where in the window it
    /// begins. Its offsets are within `range`.
    pub(super) fn next_piece(
        &mut self,
        cursor: &Cursor,
        data_end: u64,
        range: &Range<u64>,
    ) -> io::Result<Option<(usize, Piece)>> {
        let mut need = 0;
        loop {
            let end = self.at + self.bytes.len() as u64;
            if cursor.at + need > end || cursor.at >= end || cursor.at < self.at {
                self.load(cursor, data_end, need.max(READ_BYTES))?;
            }
            let at = usize::try_from(cursor.at - self.at).expect("inside the window");
            let bytes = self.bytes.get(at..).unwrap_or_default();
            match Piece::parse(bytes, cursor.key.salt, range) {
                Ok(piece) => return Ok(Some((at, piece))),
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
        // What stays of the last load is written over, and cut off where this one brings less.
        self.bytes.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        self.at = cursor.at;
        let read = if self.salvage {
            salvage(&*cursor.file, &mut self.bytes, cursor.at)?.0
        } else {
            cursor.file.read_at(&mut self.bytes, cursor.at)?
        };
        self.bytes.truncate(read);
        Ok(())
    }

    /// Keeps it for the next read, unless it is larger than usual.
    pub(super) fn kept(self) -> Self {
        if self.bytes.capacity() as u64 > READ_BYTES { Self::default() } else { self }
    }

    /// Of the record that begins at `at` in the window.
    pub(super) fn payload(&self, at: usize, found: &Found) -> &[u8] {
        let start = at + record::HEADER_BYTES;
        &self.bytes[start..start + found.payload_len]
    }
}

/// Reads block by block what can be read; the rest is zeros. Ends where the medium has refused for too long a stretch: each
/// refusal may take seconds. Gives how many bytes that are, and where in the file the last refused one of them ends (0: there
/// is none).
pub(super) fn salvage(file: &dyn DiskFile, bytes: &mut [u8], at: u64) -> io::Result<(usize, u64)> {
    let (mut done, mut refused, mut refused_to) = (0, 0, 0);
    while done < bytes.len() && refused < SALVAGE_REFUSALS_MAX {
        // Up to the next boundary of a block of the file.
        let block = SALVAGE_BYTES
            - usize::try_from((at + done as u64) % SALVAGE_BYTES as u64).expect("small");
        let end = bytes.len().min(done + block);
        match file.read_at(&mut bytes[done..end], at + done as u64) {
            Ok(read) if done + read < end => return Ok((done + read, refused_to)),
            Ok(_) => {}
            Err(error) if is_medium(&error) => {
                bytes[done..end].fill(0);
                refused += 1;
                refused_to = at + end as u64;
            }
            Err(error) => return Err(error),
        }
        done = end;
    }
    Ok((done, refused_to))
}

/// Stands for a segment that the medium does not open.
pub(super) struct Unopened;

impl DiskFile for Unopened {
    fn read_at(&self, _buf: &mut [u8], _at: u64) -> io::Result<usize> {
        Ok(0)
    }

    fn write_at(&self, _buf: &[u8], _at: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocate(&self, _len: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(0)
    }
}
