//! Which messages go when there is no room for newer ones.
//!
//! The rule: of the lowest priority that the batch at hand names or lower, the segment with the oldest message. So no
//! message ever pushes out one of a higher priority than its own. Within one priority live is higher than not live, and a
//! side queue counts as the queue that it is beside. Rings are left out: they have a size of their own. Nothing is dropped
//! unless all that may be dropped would make enough room, so nothing goes for a message that cannot be stored anyway.
//!
//! Owns: the choice, and the log lines about it. Must not know: how a segment is removed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::append::{Append, AppendClass};
use super::engine::Tools;
use super::files::QueueFiles;
use super::id::QueueId;

/// While messages are dropped a line says so this often.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Priority of a queue: the higher, the sooner it is dropped from.
type Rank = (u8, bool);

fn rank(id: &QueueId) -> Rank {
    (id.priority, !id.live)
}

/// From which queue the oldest segment goes, to make `missing` bytes of room for the devices' messages in `batch`.
pub(super) fn victim<'a>(
    queues: &mut BTreeMap<QueueId, QueueFiles>,
    tools: &Tools,
    batch: impl Iterator<Item = &'a Append>,
    missing: u64,
) -> Option<QueueId> {
    let ingress = batch.filter(|append| append.class == AppendClass::Ingress);
    let lowest = ingress.flat_map(|a| &a.queues).map(|to| rank(&to.queue)).max()?;
    let may_go = |id: &QueueId| rank(id) >= lowest && tools.ring_of(id).is_none();
    let sized = queues.iter().filter(|(id, _)| may_go(id));
    let sized = sized.map(|(id, queue)| (queue.droppable_bytes(), rank(id)));
    let found: Vec<(u64, Rank)> = sized.filter(|(bytes, _)| *bytes > 0).collect();
    if found.iter().map(|(bytes, _)| bytes).sum::<u64>() < missing {
        return None;
    }
    let last = found.iter().map(|(_, rank)| *rank).max()?;
    let candidates = queues.iter_mut().filter(|(id, _)| rank(id) == last && may_go(id));
    let dated = candidates.filter_map(|(id, queue)| Some((queue.front_stored(tools)?, id)));
    dated.min().map(|(_, id)| id.clone())
}

/// Which of the rings that `batch` names makes room for it: the largest, if that is enough.
pub(super) fn ring<'a>(
    queues: &BTreeMap<QueueId, QueueFiles>,
    tools: &Tools,
    batch: impl Iterator<Item = &'a Append>,
    missing: u64,
) -> Option<QueueId> {
    let named = batch.flat_map(|append| &append.queues).map(|to| &to.queue);
    let rings = named.filter(|id| tools.ring_of(id).is_some());
    let sized = rings.filter_map(|id| Some((queues.get(id)?.droppable_bytes(), id)));
    let (bytes, id) = sized.max()?;
    (bytes > 0 && bytes >= missing).then(|| id.clone())
}

/// Says when dropping begins, how it goes on, and when it is over.
#[derive(Debug, Default)]
pub(super) struct DropLog {
    /// When a line was written, when something was dropped, and how many since the line.
    dropping: Option<(Instant, Instant, u64)>,
}

impl DropLog {
    pub(super) fn dropped(&mut self, queue: &QueueId, records: u64, now: Instant) {
        match &mut self.dropping {
            None => {
                tracing::warn!(%queue, records, "the store is full: dropping the oldest messages");
                self.dropping = Some((now, now, 0));
            }
            Some((_, last, count)) => (*last, *count) = (now, *count + records),
        }
    }

    /// Is called now and then.
    pub(super) fn tick(&mut self, now: Instant) {
        let Some((told, last, records)) = self.dropping else {
            return;
        };
        if now.saturating_duration_since(told) < TELL_EVERY {
            return;
        }
        let is_over = now.saturating_duration_since(last) >= TELL_EVERY;
        if records > 0 {
            tracing::info!(records, "dropped the oldest messages in the last minute");
        }
        if is_over {
            tracing::info!("the store has room again: nothing is dropped any more");
        }
        self.dropping = (!is_over).then_some((now, last, 0));
    }

    pub(super) fn is_restless(&self) -> bool {
        self.dropping.is_some()
    }
}
