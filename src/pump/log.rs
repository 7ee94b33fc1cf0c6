//! What the pump needs of the store, as two small traits.
//!
//! Owns: [`Log`] (one durable queue), [`Logs`] (all of them) and their errors. Implemented by [`super::store_logs`] and by
//! the in-memory double of the tests, which also plays crashes.
//! Must not know: files, segments, the store's writer.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::store::{Chunk, Offset, QueueId, StoreMillis};

/// Why the store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The disk refuses now (no room, an input/output error). It may pass: try again later.
    #[error("the store cannot do it now: {0}")]
    Full(String),
    /// The store serves nobody any more (closed, or poisoned by a failed sync): the pump ends.
    #[error("the store is gone: {0}")]
    Gone(String),
}

/// What came of one append of several entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// So many of the first entries are durable: all, unless `result` says why not. Of the others none is.
    pub durable: usize,
    /// Why the first failed entry failed.
    pub result: Result<(), LogError>,
}

/// What goes into a side queue or the dead letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The bytes to keep.
    pub payload: Bytes,
    /// Of the original record: its age counts from here.
    pub since: Option<StoreMillis>,
    /// Of the original record, in seconds; 0 = keep.
    pub ttl_secs: u32,
}

/// One durable queue.
pub trait Log: Send + Sync + 'static {
    /// The first offset that is not durable yet; changes wake the pump.
    fn durable_end(&self) -> watch::Receiver<Offset>;

    /// Everything below is settled: reading starts here.
    fn settled(&self) -> Offset;

    /// Reads durable records from `from` on: at least one if there is one, then until either limit is reached.
    fn read(
        &self,
        from: Offset,
        records_max: usize,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Chunk, LogError>>;

    /// What becomes of the records below, which were read, the pump counts from now on, also of what the store removes. But
    /// not what lies below the offset that is returned: that is gone already, and counted. 0 when a pump ends.
    fn take_over(&self, below: Offset) -> Offset;

    /// Everything below needs nothing more. Monotonic; a lower value is ignored.
    fn settle(&self, below: Offset);
}

/// All queues of the store.
pub trait Logs: Send + Sync + 'static {
    /// Opens `id`, creating it when it is not there.
    fn open<'a>(&'a self, id: &'a QueueId) -> BoxFuture<'a, Result<Arc<dyn Log>, LogError>>;

    /// Appends in order; resolves when the fate of every entry is known.
    fn append<'a>(&'a self, id: &'a QueueId, entries: Vec<Entry>) -> BoxFuture<'a, Appended>;

    /// Deletes `id` if nothing in it is unsettled; says whether it is gone.
    fn delete_if_empty<'a>(&'a self, id: &'a QueueId) -> BoxFuture<'a, Result<bool, LogError>>;

    /// The side queues of `main` that are on disk.
    fn side_queues(&self, main: &QueueId) -> Vec<QueueId>;
}
