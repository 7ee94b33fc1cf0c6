//! Step 1 of a commit: room for a batch, within the limits, or else made by dropping what is oldest.
//!
//! Owns: the order in which room is looked for: preallocate, take what is needed only, give preallocated space back, drop.
//! Invariant: what the files may grow by is checked before any of them grows. Must not know: bytes on disk.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::super::append::{Append, AppendClass};
use super::super::budget::Shortage;
use super::super::disk::is_full;
use super::super::dropping;
use super::super::files::{QueueFiles, first_allocation, fixed_bytes, new_segment_bytes};
use super::super::held::RETRY_EVERY;
use super::super::id::QueueId;
use super::super::quarantine;
use super::super::removed::RemovedWhy;
use super::super::{WhenFull, record};
use super::{Engine, Failure};

/// The longest pause before dropping is tried again after it did not help.
const FUTILE_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Dropping that brought no room, since the disk refuses for a reason of its own: nothing is dropped for it until then, and
/// the pause doubles. Else one append would cost the whole backlog.
#[derive(Default)]
pub(super) struct Futile {
    until: Option<Instant>,
    pause: Duration,
}

/// What a batch adds to a queue.
#[derive(Default)]
struct Need {
    bytes: u64,
    records: usize,
}

impl Need {
    fn add(&mut self, more: &Self) {
        self.bytes += more.bytes;
        self.records += more.records;
    }
}

/// What a batch adds, by queue. Mostly a run of appends goes to one queue: it is added up before it is looked up.
fn needs_of<'a>(batch: impl Iterator<Item = &'a Append>) -> BTreeMap<&'a QueueId, Need> {
    let mut needs = BTreeMap::<&QueueId, Need>::new();
    let mut run: Option<(&QueueId, Need)> = None;
    let each = batch.flat_map(|append| append.queues.iter().map(move |to| (&to.queue, append)));
    for (id, append) in each {
        let (_, need) = match &mut run {
            Some(run) if run.0 == id => run,
            other => {
                if let Some((id, need)) = other.take() {
                    needs.entry(id).or_default().add(&need);
                }
                other.insert((id, Need::default()))
            }
        };
        need.add(&Need { bytes: record::size(append.payload.len()) as u64, records: 1 });
    }
    if let Some((id, need)) = run {
        needs.entry(id).or_default().add(&need);
    }
    needs
}

/// Who needs the room: devices, if any of it is theirs.
fn class_of<'a>(mut batch: impl Iterator<Item = &'a Append>) -> AppendClass {
    let any = batch.any(|append| append.class == AppendClass::Ingress);
    if any { AppendClass::Ingress } else { AppendClass::Internal }
}

impl Engine {
    /// As [`Engine::commit`]; where there is no room the oldest goes, if the policy says so, and it is tried again.
    pub(in crate::store) fn admit<'a>(
        &mut self,
        batch: impl Iterator<Item = &'a Append> + Clone,
    ) -> Result<(), Failure> {
        let mut freed = 0;
        loop {
            let error = match self.commit(batch.clone()) {
                Err(Failure::Refused(error)) if is_full(&error) => error,
                other => {
                    if freed > 0 && other.is_ok() {
                        self.futile = Futile::default();
                    }
                    return other;
                }
            };
            let now = self.now();
            if !Shortage::is_behind(&error) && self.is_futile(freed, now) {
                return Err(Failure::Refused(error));
            }
            let before = self.used();
            if !matches!(Failure::refusal(self.drop_for(batch.clone()))?, Ok(true)) {
                return Err(Failure::Refused(error));
            }
            freed += before.saturating_sub(self.used());
        }
    }

    /// Whether to drop more, after `freed` bytes, would not cure a disk that refuses by itself, or did not just now.
    fn is_futile(&mut self, freed: u64, now: Instant) -> bool {
        if freed > 0 && freed >= self.missing + self.tools.bounds.segment {
            let pause = (self.futile.pause * 2).clamp(RETRY_EVERY, FUTILE_PAUSE_MAX);
            self.futile = Futile { until: Some(now + pause), pause };
            tracing::warn!(
                "the disk has no room although messages were dropped: see quotas and inodes"
            );
        }
        self.futile.until.is_some_and(|until| now < until)
    }

    /// Drops a segment to make room for a batch; says whether there was one.
    fn drop_for<'a>(
        &mut self,
        batch: impl Iterator<Item = &'a Append> + Clone,
    ) -> Result<bool, Failure> {
        let (tools, missing) = (&self.tools, self.missing);
        let is_ring = class_of(batch.clone()) == AppendClass::Internal;
        let victim = match tools.config.limits.when_full {
            _ if is_ring => dropping::ring(&self.queues, tools, batch, missing),
            WhenFull::Reject => None,
            WhenFull::DropOldest => dropping::victim(&mut self.queues, tools, batch, missing),
        };
        let Some(id) = victim else {
            return Ok(false);
        };
        let now = self.now();
        let why = if is_ring { RemovedWhy::Ring } else { RemovedWhy::Budget };
        let queue = self.queues.get_mut(&id).expect("just found");
        let dropped = queue.drop_front(&self.tools, now, why);
        self.refresh_levels();
        let records = dropped?;
        if !is_ring {
            self.drop_log.dropped(&id, records, now);
        }
        Ok(true)
    }

    pub(super) fn make_room<'a>(
        &mut self,
        batch: impl Iterator<Item = &'a Append> + Clone,
    ) -> Result<(), Failure> {
        let needs = needs_of(batch.clone());
        for (id, need) in &needs {
            self.keep_ring(id, need)?;
        }
        let missing = needs.iter().filter(|(id, _)| !self.queues.contains_key(id));
        let new: Vec<(&QueueId, u64)> = missing.map(|(id, need)| (*id, need.bytes)).collect();
        let lavish = self.find_room(class_of(batch), &new)?;
        for (id, need) in new {
            self.create(id)?.need = need;
        }
        for queue in self.queues.values_mut().filter(|q| q.need > 0) {
            let lavish = lavish && self.tools.ring_of(&queue.shared.id).is_none();
            queue.make_room(&self.tools, lavish)?;
        }
        Ok(())
    }

    /// Notes what an existing queue needs, and drops the oldest of a ring that would grow beyond its size by it. One
    /// record larger than a ring has it for itself: it must not stay in the way of others.
    fn keep_ring(&mut self, id: &QueueId, need: &Need) -> Result<(), Failure> {
        let ring = self.tools.ring_of(id);
        let alone = fixed_bytes(id) + new_segment_bytes(need.bytes, None);
        if need.records > 1 && ring.is_some_and(|bytes| alone > bytes) {
            // Nothing that is dropped would help.
            self.missing = u64::MAX;
            let error = io::Error::new(io::ErrorKind::StorageFull, "more than a ring at once");
            return Err(Failure::Refused(error));
        }
        let now = self.now();
        let Some(queue) = self.queues.get_mut(id) else {
            return Ok(());
        };
        queue.need = need.bytes;
        let tools = &self.tools;
        let grown = |queue: &QueueFiles| queue.disk_usage().1 + queue.growth(tools, false);
        let mut dropped = false;
        while ring.is_some_and(|bytes| grown(queue) > bytes) && queue.droppable_bytes() > 0 {
            queue.drop_front(tools, now, RemovedWhy::Ring)?;
            dropped = true;
        }
        if dropped {
            self.refresh_levels();
        }
        Ok(())
    }

    /// Finds room for what the queues need: with preallocation, without, without that of others; `true`: with.
    fn find_room(&mut self, class: AppendClass, new: &[(&QueueId, u64)]) -> Result<bool, Failure> {
        self.missing = 0;
        for trim in [false, true] {
            if trim {
                for queue in self.queues.values_mut() {
                    if let Err(poison @ Failure::Poison(_)) = queue.trim(&self.tools) {
                        return Err(poison);
                    }
                }
                self.refresh_levels();
            }
            for lavish in [true, false] {
                let growth = self.growth(new, lavish);
                match self.volume.check(&self.tools, class, growth) {
                    Ok(()) => {
                        // Should the volume refuse all the same, this is what it lacked.
                        self.missing = self.growth(new, false);
                        return Ok(lavish);
                    }
                    Err(shortage) if trim && !lavish => {
                        // Copies for a person to look at go before any message.
                        if !quarantine::give_up(&self.tools, shortage.bytes) {
                            return self.refuse(shortage);
                        }
                        self.refresh_levels();
                        let checked = self.volume.check(&self.tools, class, growth);
                        return checked.map_or_else(|less| self.refuse(less), |()| Ok(false));
                    }
                    Err(_) => {}
                }
            }
        }
        Ok(false)
    }

    fn refuse(&mut self, shortage: Shortage) -> Result<bool, Failure> {
        self.missing = shortage.bytes;
        Err(Failure::Refused(shortage.into()))
    }

    /// By how much all files grow, at most.
    fn growth(&self, new: &[(&QueueId, u64)], lavish: bool) -> u64 {
        let is_lavish = |id: &QueueId| lavish && self.tools.ring_of(id).is_none();
        let known = self.queues.values().filter(|queue| queue.need > 0);
        let known = known.map(|queue| queue.growth(&self.tools, is_lavish(&queue.shared.id)));
        let new = new.iter().map(|(id, need)| {
            let most = first_allocation(id).min(self.tools.segment_max(id));
            fixed_bytes(id) + new_segment_bytes(*need, is_lavish(id).then_some(most))
        });
        known.sum::<u64>() + new.sum::<u64>()
    }
}
