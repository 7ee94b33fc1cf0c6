//! What the store is compared with: a bare loop on a preallocated file, and sqlite.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Result;
use rusqlite::{Connection, params};
use rustix::fs::FallocateFlags;

/// A preallocated file that is written from front to back.
pub(crate) struct Bare {
    file: File,
    at: u64,
    bytes: Vec<u8>,
}

impl Bare {
    /// Of `len` bytes: reserved only, as the store does it, or (`zeroed`) written once, so that no sync has to
    /// convert extents.
    pub(crate) fn new(path: &Path, len: u64, zeroed: bool) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len)?;
        let zeros = vec![0; 1 << 20];
        for at in (0..if zeroed { len } else { 0 }).step_by(zeros.len()) {
            let part = usize::try_from((len - at).min(zeros.len() as u64))?;
            file.write_all_at(&zeros[..part], at)?;
        }
        file.sync_all()?;
        Ok(Self { file, at: 0, bytes: Vec::new() })
    }

    /// Writes `len` bytes behind the last ones and makes them durable.
    pub(crate) fn batch(&mut self, len: usize) -> Result<()> {
        self.bytes.resize(len, 0xA5);
        self.file.write_all_at(&self.bytes, self.at)?;
        self.file.sync_data()?;
        self.at += len as u64;
        Ok(())
    }
}

/// A table of blobs, WAL, `synchronous = FULL`.
pub(crate) struct Sqlite(Connection);

impl Sqlite {
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let db = Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.execute_batch("CREATE TABLE queue (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")?;
        Ok(Self(db))
    }

    /// One transaction of `count` rows.
    pub(crate) fn batch(&mut self, count: usize, body: &[u8]) -> Result<()> {
        let transaction = self.0.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO queue (body) VALUES (?1)")?;
            for _ in 0..count {
                insert.execute(params![body])?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Reads the first `count` rows and deletes them, durably; gives how many there were, and their bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<(usize, usize)> {
        let transaction = self.0.transaction()?;
        let (mut rows, mut bytes, mut last) = (0, 0, 0_i64);
        {
            let sql = "SELECT id, body FROM queue ORDER BY id LIMIT ?1";
            let mut select = transaction.prepare_cached(sql)?;
            let mut found = select.query(params![i64::try_from(count)?])?;
            while let Some(row) = found.next()? {
                last = row.get(0)?;
                let body: Vec<u8> = row.get(1)?;
                rows += 1;
                bytes += std::hint::black_box(body).len();
            }
            let mut delete = transaction.prepare_cached("DELETE FROM queue WHERE id <= ?1")?;
            delete.execute(params![last])?;
        }
        transaction.commit()?;
        Ok((rows, bytes))
    }
}
