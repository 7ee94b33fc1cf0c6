//! The writer's hands: all files of the store, changed by one owner, without a thread or a channel.
//!
//! Owns: the set of queues and the order of writes and syncs on which the durability argument in [`crate::store`]
//! rests. Being a plain value it is driven by the writer thread, and call by call by the model test.
//! Invariants: nothing is published or reported before the sync that makes it durable returned; after a
//! [`Failure::Poison`] the engine is not used again. Must not know: receipts, budgets.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::append::Append;
use super::disk::{Disk, LockGuard, is_full};
use super::files::QueueFiles;
use super::id::{Offset, QueueId};
use super::queue::Shared;
use super::recover::{self, Recovered};
use super::reserve::Reserve;
use super::stats::{Counters, add};
use super::thrift::Thrifty;
use super::{Config, OpenError, RecoveryReport, record};
use crate::clock::SharedClock;

/// How long a settled place may stay out of reach of a power cut.
pub(super) const CHECKPOINT_SYNC_AFTER: Duration = Duration::from_secs(1);

/// Why a step was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// The disk refused before anything was changed, or everything was taken back: later steps may work.
    Refused(io::Error),
    /// It is not known what is on disk: nothing may be acknowledged any more.
    Poison(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Refused(error)
    }
}

impl Failure {
    /// The disk's words, if it has refused.
    pub(super) fn refused(self) -> Option<io::Error> {
        match self {
            Self::Refused(error) => Some(error),
            Self::Poison(_) => None,
        }
    }

    pub(super) fn poison(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::Poison(format!("{what} failed on {}: {error}", path.display()))
    }
}

/// What every part of the engine needs.
pub(super) struct Tools {
    pub(super) config: Config,
    pub(super) disk: Arc<dyn Disk>,
    /// The same, for side queues.
    pub(super) lane_disk: Arc<dyn Disk>,
    pub(super) clock: SharedClock,
    pub(super) counters: Arc<Counters>,
}

impl Tools {
    /// Where the files of a queue are opened.
    pub(super) fn disk_of(&self, id: &QueueId) -> &Arc<dyn Disk> {
        if id.lane.is_some() { &self.lane_disk } else { &self.disk }
    }

    /// Makes a folder's entries durable; if that fails, files that were acknowledged upon may vanish: poison.
    pub(super) fn sync_dir(&self, path: &Path) -> Result<(), Failure> {
        add(&self.counters.syncs, 1);
        self.disk.sync_dir(path).map_err(|error| Failure::poison("fsync", path, &error))
    }
}

/// All queues and their files.
pub(super) struct Engine {
    tools: Tools,
    queues: BTreeMap<QueueId, QueueFiles>,
    reserve: Reserve,
    ids: watch::Sender<Vec<QueueId>>,
    _lock: Box<dyn LockGuard>,
}

impl Engine {
    /// Locks the folder and recovers what is in it.
    pub(super) fn open(
        config: Config,
        disk: Arc<dyn Disk>,
        clock: SharedClock,
        counters: Arc<Counters>,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let started = clock.monotonic();
        let lock = recover::prepare_folder(&*disk, &config.dir)?;
        let lane_disk = Arc::new(Thrifty(Arc::clone(&disk)));
        let tools = Tools { config, disk, lane_disk, clock, counters };
        let (found, mut report) = recover::recover(&tools)?;
        let mut queues = BTreeMap::new();
        for Recovered { id, folder, checkpoint, index, end } in found {
            let disk = Arc::clone(tools.disk_of(&id));
            let counters = Arc::clone(&tools.counters);
            let shared = Shared::new(id.clone(), folder, disk, counters, index, end);
            queues.insert(id, QueueFiles::new(Arc::new(shared), checkpoint, end));
        }
        report.took = tools.clock.monotonic().saturating_duration_since(started);
        let ids = watch::Sender::new(queues.keys().cloned().collect());
        let reserve = Reserve::default();
        let engine = Self { tools, queues, reserve, ids, _lock: lock };
        engine.refresh_levels();
        Ok((engine, report))
    }

    pub(super) fn ids(&self) -> watch::Receiver<Vec<QueueId>> {
        self.ids.subscribe()
    }

    pub(super) fn config(&self) -> &Config {
        &self.tools.config
    }

    /// Whether what is free on the volume is kept for the store's own appends.
    pub(super) fn is_reserve_short(&mut self) -> bool {
        self.reserve.is_short(&self.tools)
    }

    /// The volume has refused: what was known of its room is not true any more.
    pub(super) fn ask_volume_again(&mut self) {
        self.reserve.ask_again();
    }

    /// Opens a queue, making it if it is not there.
    pub(super) fn queue(&mut self, id: &QueueId) -> Result<Arc<Shared>, Failure> {
        if let Some(queue) = self.queues.get(id) {
            return Ok(Arc::clone(&queue.shared));
        }
        let queue = QueueFiles::create(&self.tools, id)?;
        let shared = Arc::clone(&queue.shared);
        self.queues.insert(id.clone(), queue);
        self.ids.send_replace(self.queues.keys().cloned().collect());
        Ok(shared)
    }

    /// Makes a batch durable, all of it or nothing.
    ///
    /// 1. Room: roll full segments, make new ones, preallocate. Changes nothing that counts: may be refused.
    /// 2. Write: one write per queue. If the volume is full, all of it is cut back.
    /// 3. Sync: one fdatasync per queue. From here on an error is poison.
    /// 4. Publish: index, durable end, counters.
    pub(super) fn commit<'a>(
        &mut self,
        batch: impl Iterator<Item = &'a Append> + Clone,
    ) -> Result<(), Failure> {
        for append in batch.clone() {
            let size = record::size(append.payload.len()) as u64;
            for to in &append.queues {
                self.queue(&to.queue).inspect_err(|_| self.forget_staged())?;
                self.queues.get_mut(&to.queue).expect("just opened").need += size;
            }
        }
        let tools = &self.tools;
        let mut touched: Vec<&mut QueueFiles> =
            self.queues.values_mut().filter(|q| q.need > 0).collect();
        let room = touched.iter_mut().try_for_each(|q| q.make_room(tools));
        if let Err(failure) = room {
            self.forget_staged();
            return Err(failure);
        }
        self.stage(batch);
        self.write_staged()?;
        self.sync_staged()?;
        for queue in self.queues.values_mut().filter(|q| q.need > 0) {
            queue.publish(&self.tools);
        }
        add(&self.tools.counters.commits, 1);
        self.refresh_levels();
        Ok(())
    }

    fn stage<'a>(&mut self, batch: impl Iterator<Item = &'a Append>) {
        for append in batch {
            for to in &append.queues {
                let queue = self.queues.get_mut(&to.queue).expect("opened at the start");
                queue.stage(append, to.ttl_secs);
            }
        }
    }

    fn write_staged(&mut self) -> Result<(), Failure> {
        let mut result = Ok(());
        for queue in self.queues.values_mut().filter(|q| q.need > 0) {
            result = queue.write_staged(&self.tools);
            if result.is_err() {
                break;
            }
        }
        let Err((path, error)) = result else {
            return Ok(());
        };
        if !is_full(&error) {
            return Err(Failure::poison("write", &path, &error));
        }
        // Also those that were not written yet: cutting them back changes nothing.
        for queue in self.queues.values_mut().filter(|q| q.need > 0) {
            queue.cut_back(&self.tools)?;
        }
        self.forget_staged();
        Err(Failure::Refused(error))
    }

    fn sync_staged(&mut self) -> Result<(), Failure> {
        let started = self.tools.clock.monotonic();
        for queue in self.queues.values().filter(|q| q.need > 0) {
            queue.sync_active(&self.tools)?;
        }
        let took = self.tools.clock.monotonic().saturating_duration_since(started);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let last = &self.tools.counters.last_sync_micros;
        last.store(micros, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    fn forget_staged(&mut self) {
        self.queues.values_mut().for_each(QueueFiles::forget_staged);
    }

    /// Notes what was asked to be settled, and frees what that makes free.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        let now = self.tools.clock.monotonic();
        let mut freed = false;
        for queue in self.queues.values_mut() {
            freed |= queue.settle(&self.tools, now)?;
        }
        if freed {
            self.refresh_levels();
        }
        Ok(())
    }

    /// Whether [`Engine::tick`] has something to do within a second.
    pub(super) fn is_restless(&self) -> bool {
        self.queues.values().any(QueueFiles::is_restless)
    }

    /// Makes checkpoints durable that have waited long enough.
    pub(super) fn tick(&mut self) -> Result<(), Failure> {
        let now = self.tools.clock.monotonic();
        let mut freed = false;
        for queue in self.queues.values_mut() {
            freed |= queue.tick(&self.tools, now)?;
        }
        if freed {
            self.refresh_levels();
        }
        Ok(())
    }

    /// Deletes a queue if everything in it is settled. `shared` names the incarnation that is meant.
    pub(super) fn delete_if_empty(&mut self, shared: &Arc<Shared>) -> Result<bool, Failure> {
        let id = &shared.id;
        let now = self.tools.clock.monotonic();
        let Some(queue) = self.queues.get_mut(id).filter(|q| Arc::ptr_eq(&q.shared, shared)) else {
            return Ok(true);
        };
        queue.settle(&self.tools, now)?;
        if !queue.delete_files(&self.tools)? {
            return Ok(false);
        }
        self.queues.remove(id);
        self.ids.send_replace(self.queues.keys().cloned().collect());
        self.refresh_levels();
        Ok(true)
    }

    /// Leaves everything durable and tidy: checkpoints synced, settled segments gone, the others sealed.
    pub(super) fn close(&mut self) -> Result<(), Failure> {
        self.settle()?;
        for queue in self.queues.values_mut() {
            queue.close(&self.tools)?;
        }
        self.refresh_levels();
        Ok(())
    }

    /// What a queue's checkpoint says, if that is durable.
    #[cfg(test)]
    pub(super) fn durable_settled(&self, id: &QueueId) -> Option<Offset> {
        self.queues.get(id)?.durable_settled()
    }

    fn refresh_levels(&self) {
        let (mut segments, mut bytes) = (0, 0);
        for queue in self.queues.values() {
            let (s, b) = queue.disk_usage();
            segments += s;
            bytes += b;
        }
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        self.tools.counters.segments.store(segments, relaxed);
        self.tools.counters.disk_bytes.store(bytes, relaxed);
    }
}

/// The folder of a queue.
pub(super) fn folder_of(dir: &Path, id: &QueueId) -> PathBuf {
    dir.join(id.folder())
}

/// The end of a queue that was never used.
pub(super) const BEGINNING: Offset = Offset(0);
