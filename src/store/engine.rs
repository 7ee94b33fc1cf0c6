//! The writer's hands: all files of the store, changed by one owner, without a thread or a channel.
//!
//! Owns: the set of queues and the order of writes and syncs on which the durability argument in [`crate::store`]
//! rests. Being a plain value it is driven by the writer thread, and call by call by the model test.
//! Invariants: nothing is published or reported before the sync that makes it durable returned; after a
//! [`Failure::Poison`] the engine is not used again. Must not know: receipts.

mod room;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::age::StoreClock;
use super::append::{Append, AppendClass};
use super::budget::{Bounds, Volume};
use super::disk::{Disk, LockGuard, is_full, is_no_handle};
use super::dropping::DropLog;
use super::expiry::Expiry;
use super::files::{QueueFiles, fixed_bytes};
use super::id::{Offset, QueueId};
use super::queue::Shared;
use super::recover;
use super::removed::{Removed, Teller};
use super::stats::{Counters, add};
use super::thrift::Thrifty;
use super::{Config, Limits, OpenError, RecoveryReport};
use crate::clock::SharedClock;

/// How long a settled place may stay out of reach of a power cut.
/// With the quarter of it after which the writer looks again it is less than a second.
pub(super) const CHECKPOINT_SYNC_AFTER: Duration = Duration::from_millis(700);

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
        // A file system turns read-only under our open files when it has found an error in itself: it cannot be trusted with
        // what it has not synced, nor be mounted anew before this process lets go of it.
        if error.kind() == io::ErrorKind::ReadOnlyFilesystem {
            return Self::Poison(format!("the volume has turned read-only: {error}"));
        }
        Self::Refused(error)
    }
}

impl Failure {
    /// Lets a poison through, which nothing may hide or follow; a refusal is for the caller to judge.
    pub(super) fn refusal<T>(result: Result<T, Self>) -> Result<Result<T, io::Error>, Self> {
        match result {
            Ok(value) => Ok(Ok(value)),
            Err(Self::Refused(error)) => Ok(Err(error)),
            Err(poison) => Err(poison),
        }
    }

    pub(super) fn poison(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::Poison(format!("{what} failed on {}: {error}", path.display()))
    }
}

/// What every part of the engine needs.
pub(super) struct Tools {
    pub(super) config: Config,
    /// What follows from its limits.
    pub(super) bounds: Bounds,
    pub(super) disk: Arc<dyn Disk>,
    /// The same, for side queues.
    pub(super) lane_disk: Arc<dyn Disk>,
    pub(super) clock: SharedClock,
    pub(super) counters: Arc<Counters>,
    pub(super) teller: Arc<Teller>,
    pub(super) age: Arc<StoreClock>,
}

impl Tools {
    /// Where the files of a queue are opened.
    pub(super) fn disk_of(&self, id: &QueueId) -> &Arc<dyn Disk> {
        if id.lane.is_some() { &self.lane_disk } else { &self.disk }
    }

    /// Makes a folder's entries durable; if that fails, files that were acknowledged upon may vanish: poison. Refused: it
    /// did not get that far, for want of a handle; the caller sees to it that it is done before anything rests on it.
    pub(super) fn sync_dir(&self, path: &Path) -> Result<(), Failure> {
        add(&self.counters.syncs, 1);
        self.disk.sync_dir(path).map_err(|error| match is_no_handle(&error) {
            true => Failure::Refused(error),
            false => Failure::poison("fsync", path, &error),
        })
    }

    /// The same where nothing rests on it.
    pub(super) fn try_sync_dir(&self, path: &Path) -> Result<(), Failure> {
        match self.sync_dir(path) {
            Err(Failure::Refused(error)) => {
                tracing::warn!(path = %path.display(), %error, "could not sync a folder");
                Ok(())
            }
            other => other,
        }
    }

    /// Most bytes of a queue's files, if it is a ring.
    pub(super) fn ring_of(&self, id: &QueueId) -> Option<u64> {
        let ring = self.config.rings.iter().find(|ring| ring.queue == *id)?;
        Some(self.bounds.ring(ring))
    }

    /// Size at which a segment is full: in a ring a quarter of it at most, so that it always keeps most of what it had.
    pub(super) fn segment_max(&self, id: &QueueId) -> u64 {
        self.ring_of(id).map_or(self.bounds.segment, |bytes| self.bounds.segment.min(bytes / 4))
    }
}

/// All queues and their files.
pub(super) struct Engine {
    tools: Tools,
    queues: BTreeMap<QueueId, QueueFiles>,
    expiry: Expiry,
    volume: Volume,
    /// How much the last batch lacked, if it was refused.
    missing: u64,
    drop_log: DropLog,
    futile: room::Futile,
    ids: watch::Sender<Vec<QueueId>>,
    /// Whether some queue has new records of which its readers have not been told.
    unannounced: bool,
    removed: Option<mpsc::Receiver<Removed>>,
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
        let (teller, removed) = Teller::new();
        let age = Arc::new(StoreClock::new(Arc::clone(&clock)));
        let teller = Arc::new(teller);
        let bounds = Bounds::in_force(&config, &config.limits);
        let tools = Tools { config, bounds, disk, lane_disk, clock, counters, teller, age };
        let (found, clock_file, mut report) = recover::recover(&tools)?;
        let mut queues = BTreeMap::new();
        for recovered in found {
            queues.insert(recovered.id.clone(), QueueFiles::recovered(&tools, recovered));
        }
        report.took = tools.clock.monotonic().saturating_duration_since(started);
        let ids = watch::Sender::new(queues.keys().cloned().collect());
        let engine = Self {
            tools,
            queues,
            expiry: Expiry::new(clock_file),
            volume: Volume::default(),
            missing: 0,
            drop_log: DropLog::default(),
            futile: room::Futile::default(),
            ids,
            unannounced: false,
            removed: Some(removed),
            _lock: lock,
        };
        engine.refresh_levels();
        Ok((engine, report))
    }

    pub(super) fn ids(&self) -> watch::Receiver<Vec<QueueId>> {
        self.ids.subscribe()
    }

    /// What will be removed, for the first who asks.
    pub(super) fn take_removed(&mut self) -> Option<mpsc::Receiver<Removed>> {
        self.removed.take()
    }

    /// The store's clock.
    pub(super) fn age(&self) -> Arc<StoreClock> {
        Arc::clone(&self.tools.age)
    }

    pub(super) fn config(&self) -> &Config {
        &self.tools.config
    }

    pub(super) fn bounds(&self) -> &Bounds {
        &self.tools.bounds
    }

    pub(super) fn now(&self) -> Instant {
        self.tools.clock.monotonic()
    }

    /// Bytes of all files.
    pub(super) fn used(&self) -> u64 {
        self.tools.counters.disk_bytes.load(Relaxed)
    }

    /// Other limits, from the next commit on.
    pub(super) fn set_limits(&mut self, limits: Limits, bounds: Bounds) {
        (self.tools.config.limits, self.tools.bounds) = (limits, bounds);
        self.volume.ask_again();
    }

    /// The queue, if it is there.
    pub(super) fn existing_queue(&self, id: &QueueId) -> Option<Arc<Shared>> {
        self.queues.get(id).map(|queue| Arc::clone(&queue.shared))
    }

    /// Opens a queue, making it if it is not there.
    pub(super) fn queue(&mut self, id: &QueueId) -> Result<Arc<Shared>, Failure> {
        if !self.queues.contains_key(id) {
            let room = self.volume.check(&self.tools, AppendClass::Internal, fixed_bytes(id));
            room.map_err(|shortage| Failure::Refused(shortage.into()))?;
            self.create(id)?;
            self.refresh_levels();
        }
        Ok(Arc::clone(&self.queues[id].shared))
    }

    fn create(&mut self, id: &QueueId) -> Result<&mut QueueFiles, Failure> {
        let queue = QueueFiles::create(&self.tools, id)?;
        self.queues.insert(id.clone(), queue);
        self.ids.send_replace(self.queues.keys().cloned().collect());
        Ok(self.queues.get_mut(id).expect("just put there"))
    }

    /// Makes a batch durable, all of it or nothing.
    ///
    /// 1. Room: within the limits; roll full segments, make new ones, preallocate. Changes nothing that counts: may be
    ///    refused.
    /// 2. Write: one write per queue. If the volume is full, all of it is cut back.
    /// 3. Sync: one fdatasync per queue. From here on an error is poison.
    /// 4. Publish: index, durable end, counters. Who waits for records is told by [`Engine::announce`].
    pub(super) fn commit<'a>(
        &mut self,
        batch: impl Iterator<Item = &'a Append> + Clone,
    ) -> Result<(), Failure> {
        let ages = batch.clone().any(|append| append.queues.iter().any(|to| to.ttl_secs > 0));
        let result = self.commit_batch(batch);
        if result.is_ok() && ages {
            self.expiry.hasten(&self.tools);
        }
        if result.is_err() {
            self.forget_staged();
        }
        self.refresh_levels();
        result
    }

    fn commit_batch<'a>(
        &mut self,
        batch: impl Iterator<Item = &'a Append> + Clone,
    ) -> Result<(), Failure> {
        self.make_room(batch.clone())?;
        self.stage(batch);
        self.write_staged()?;
        self.sync_staged()?;
        for queue in self.queues.values_mut().filter(|q| q.need > 0) {
            queue.publish(&self.tools);
        }
        self.unannounced = true;
        add(&self.tools.counters.commits, 1);
        Ok(())
    }

    /// Whether there is something to [`Engine::announce`].
    pub(super) fn is_unannounced(&self) -> bool {
        self.unannounced
    }

    /// Tells the readers of what was committed. They find it without that, too, if they look.
    pub(super) fn announce(&mut self) {
        if std::mem::take(&mut self.unannounced) {
            self.queues.values_mut().for_each(QueueFiles::announce);
        }
    }

    fn stage<'a>(&mut self, batch: impl Iterator<Item = &'a Append>) {
        let now = self.tools.age.now();
        // Mostly a run of appends goes to one queue: it is looked up once.
        let mut current: Option<(&QueueId, &mut QueueFiles)> = None;
        for append in batch {
            for to in &append.queues {
                let queue = match current {
                    Some((id, queue)) if *id == to.queue => queue,
                    _ => self.queues.get_mut(&to.queue).expect("opened at the start"),
                };
                queue.stage(append, to.ttl_secs, now);
                current = Some((&to.queue, queue));
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
        if !is_full(&error) && !is_no_handle(&error) {
            return Err(Failure::poison("write", &path, &error));
        }
        for queue in self.queues.values_mut().filter(|q| q.is_written) {
            queue.cut_back(&self.tools)?;
        }
        self.volume.ask_again();
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
        last.store(micros, Relaxed);
        Ok(())
    }

    fn forget_staged(&mut self) {
        self.queues.values_mut().for_each(QueueFiles::forget_staged);
    }

    /// Notes what was asked to be settled, and frees what that makes free.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        self.for_each(QueueFiles::settle)
    }

    /// Whether [`Engine::tick`] has something to do within a second.
    pub(super) fn is_restless(&self) -> bool {
        self.drop_log.is_restless() || self.queues.values().any(QueueFiles::is_restless)
    }

    /// How long [`Engine::tick`] has nothing to do while it is not restless.
    pub(super) fn rest(&self) -> Duration {
        self.expiry.rest(&self.tools)
    }

    /// Makes checkpoints durable that have waited long enough, and frees what they make dead and what has expired.
    pub(super) fn tick(&mut self) -> Result<(), Failure> {
        let now = self.now();
        self.drop_log.tick(now);
        let ticked = Failure::refusal(self.for_each(QueueFiles::tick))?;
        // Also if that was refused: it says when to look again.
        let expired = self.expiry.tick(&self.tools, &mut self.queues, now);
        if !matches!(expired, Ok(false)) {
            self.refresh_levels();
        }
        expired?;
        Ok(ticked?)
    }

    /// Does something to every queue. One that the disk refuses does not hold up the others.
    fn for_each(
        &mut self,
        step: impl Fn(&mut QueueFiles, &Tools, Instant) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let now = self.now();
        let (mut freed, mut refused) = (false, None);
        for queue in self.queues.values_mut() {
            match step(queue, &self.tools, now) {
                Ok(more) => freed |= more,
                Err(Failure::Refused(error)) => refused = refused.or(Some(error)),
                Err(poison) => return Err(poison),
            }
        }
        if freed || refused.is_some() {
            self.refresh_levels();
        }
        refused.map_or(Ok(()), |error| Err(Failure::Refused(error)))
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
        self.expiry.close(&self.tools)?;
        self.refresh_levels();
        Ok(())
    }

    /// What a queue's checkpoint says, if that is durable.
    pub(super) fn durable_settled(&self, id: &QueueId) -> Option<Offset> {
        self.queues.get(id)?.durable_settled()
    }

    fn refresh_levels(&self) {
        let counters = &self.tools.counters;
        let (mut segments, mut bytes) = (0, counters.quarantine_bytes.load(Relaxed));
        for queue in self.queues.values() {
            let (s, b) = queue.disk_usage();
            segments += s;
            bytes += b;
        }
        counters.segments.store(segments, Relaxed);
        counters.disk_bytes.store(bytes, Relaxed);
    }
}

/// The folder of a queue.
pub(super) fn folder_of(dir: &Path, id: &QueueId) -> PathBuf {
    dir.join(id.folder())
}

/// The end of a queue that was never used.
pub(super) const BEGINNING: Offset = Offset(0);
