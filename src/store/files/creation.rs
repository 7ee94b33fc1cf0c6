//! A queue's files come to be.
//!
//! Owns: their making, and the adoption of a folder whose queue a start could not name. Must not know: other queues.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::super::checkpoint::{self, Checkpoint, State};
use super::super::disk::{Unwritten, is_full, is_no_handle, write_atomically};
use super::super::engine::{BEGINNING, Failure, Tools, folder_of};
use super::super::id::QueueId;
use super::super::index::Index;
use super::super::queue::Shared;
use super::super::recover::{self, Recovered};
use super::super::{OpenError, RecoveryReport};
use super::{NAME_FILES, QueueFiles, sync_checkpoint};

impl QueueFiles {
    /// A queue as recovery hands it over.
    pub(in crate::store) fn recovered(tools: &Tools, recovered: Recovered) -> Self {
        let Recovered { id, folder, checkpoint, index, end } = recovered;
        let shared = Shared::new(tools, id, folder, index, end);
        let mut queue = Self::new(Arc::new(shared), checkpoint, end);
        // There was no room for it at the start: it is tried again, and what it makes dead is unlinked then.
        queue.unsynced_since = queue.checkpoint.is_dirty().then(|| tools.clock.monotonic());
        queue
    }

    /// Makes a new queue, durably.
    pub(in crate::store) fn create(tools: &Tools, id: &QueueId) -> Result<Self, Failure> {
        let folder = folder_of(&tools.config.dir, id);
        if let Some(known) = Self::adopt(tools, id, &folder)? {
            return Ok(known);
        }
        let checkpoint = Self::create_files(tools, id, &folder).inspect_err(|failure| {
            if let Failure::Refused(_) = failure {
                // Best effort: what stays is an empty queue at the next start, or is made again.
                for name in [checkpoint::FILE_NAME, "name.tmp"].iter().chain(&NAME_FILES) {
                    let _ = tools.disk.remove_file(&folder.join(name));
                }
                let _ = tools.disk.remove_dir(&folder);
            }
        })?;
        let shared = Shared::new(tools, id.clone(), folder, Index::default(), BEGINNING);
        Ok(Self::new(Arc::new(shared), checkpoint, BEGINNING))
    }

    fn create_files(tools: &Tools, id: &QueueId, folder: &Path) -> Result<Checkpoint, Failure> {
        let disk = &**tools.disk_of(id);
        disk.create_dir_all(folder)?;
        if QueueId::is_short_folder(&id.folder()) {
            // Without these the queue would not be found again: a sync that failed is poison here, too.
            for name in NAME_FILES {
                let path = folder.join(name);
                let written = write_atomically(disk, &path, id.name_file().as_bytes());
                written.map_err(|unwritten| match unwritten {
                    Unwritten::Before(error) if is_full(&error) || is_no_handle(&error) => {
                        Failure::Refused(error)
                    }
                    other => Failure::poison("write", &path, &other.into()),
                })?;
            }
        }
        let mut checkpoint = Checkpoint::create(disk, folder, State::default())?;
        if !sync_checkpoint(tools, &mut checkpoint, folder)? {
            return Err(Failure::Refused(io::ErrorKind::StorageFull.into()));
        }
        tools.sync_dir(folder)?;
        tools.sync_dir(&tools.config.dir)?;
        Ok(checkpoint)
    }

    /// The queue that lies in the folder already, unknown since the start because both its name files were damaged: now that
    /// it is asked for, its name is known again.
    fn adopt(tools: &Tools, id: &QueueId, folder: &Path) -> Result<Option<Self>, Failure> {
        match recover::holds_segments(&*tools.disk, folder) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let mut report = RecoveryReport::default();
        let recovered = recover::adopt(tools, id, folder, &mut report);
        let recovered = recovered.map_err(|error| match error {
            OpenError::Io { source, .. } if is_full(&source) || is_no_handle(&source) => {
                Failure::Refused(source)
            }
            OpenError::Io { path, source } => Failure::poison("recovery", &path, &source),
            other => Failure::Refused(io::Error::other(other)),
        })?;
        tracing::warn!(queue = %id, ?report, "a queue without a name was asked for by it: it is known again");
        Ok(Some(Self::recovered(tools, recovered)))
    }
}
