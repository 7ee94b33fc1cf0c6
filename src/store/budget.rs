//! How much disk the store may take, and who gets it when it becomes scarce.
//!
//! Two limits, both kept before anything is written: the *budget* of all files of the store together, exactly, and the
//! *floor*, what is left free on the volume for others. Devices get neither to the last byte: the *reserve* is for the
//! store's own appends. Why: a message that is refused for good, or whose sender is stuck, leaves its queue only when it
//! is durable somewhere else. Were there no room for that, the settled prefix would stand still, no segment would be
//! unlinked, and the store would stay full for ever although the endpoint is there.
//!
//! Owns: [`Bounds`] (what follows from the limits) and [`Volume`] (what the volume said, and when). The volume is asked
//! once a second at most while there is room; what the store itself has grown since is taken off. When that says no it
//! is asked again at once. So only what *others* wrote within a second can take of the reserve.
//! Must not know: queues, what is appended.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::append::AppendClass;
use super::disk::Space;
use super::engine::Tools;
use super::{Config, Limits, Ring, Room};

/// The volume is asked again after so long.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The smallest budget: below it segments and batches would have no sensible size.
pub(super) const BUDGET_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// Segments are not made smaller than this for a small budget.
const SEGMENT_BYTES_MIN: u64 = 64 * 1024;

/// The floor, if none was set: this, or a twentieth of the volume if that is less.
const FLOOR_BYTES: u64 = 64 * 1024 * 1024;

/// What the store's own small files take (the lock, what belongs to no queue), generously.
const OWN_FILES_BYTES: u64 = 16 * 1024;

impl Config {
    /// The size at which a segment is full, which a small budget cuts, in bytes.
    pub fn segment_bytes(&self) -> u64 {
        Bounds::of(self, &self.limits).segment
    }

    /// The size of a ring, which a small budget cuts, in bytes.
    pub fn ring_bytes(&self, ring: &Ring) -> u64 {
        Bounds::of(self, &self.limits).ring(ring)
    }
}

/// What follows from the limits, whatever the volume says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Most bytes of all files.
    budget: Option<u64>,
    /// How much of that devices do not get.
    budget_reserve: u64,
    floor: Option<u64>,
    /// Size at which a segment is full.
    pub(super) segment: u64,
    /// Most bytes in one batch.
    pub(super) batch: usize,
    /// Most bytes of `quarantine/`.
    pub(super) quarantine: u64,
}

impl Bounds {
    /// Segments and batches are small parts of a small budget, so that it is used well and given back in small pieces.
    ///
    /// Says nothing: it is also asked by who only wants to know a size. [`Self::in_force`] does.
    pub(super) fn of(config: &Config, limits: &Limits) -> Self {
        let budget = limits.budget_bytes.map(|budget| budget.max(BUDGET_BYTES_MIN));
        let part = |n: u64| budget.map_or(u64::MAX, |budget| budget / n);
        let batch = usize::try_from(part(8)).unwrap_or(usize::MAX);
        Self {
            budget: budget.map(|budget| budget - OWN_FILES_BYTES),
            budget_reserve: config.reserve_bytes.min(part(8)),
            floor: limits.min_free_bytes,
            segment: config.segment_bytes_max.min(part(16).max(SEGMENT_BYTES_MIN)),
            batch: config.batch_bytes_max.min(batch),
            quarantine: config.quarantine_bytes_max.min(part(16)),
        }
    }

    /// As [`Self::of`], for limits that come into force: a budget that is not as it was asked for is told. What a small
    /// one leaves to segments and rings, [`Config::segment_bytes`] and [`Config::ring_bytes`] tell who set them.
    pub(super) fn in_force(config: &Config, limits: &Limits) -> Self {
        if limits.budget_bytes.is_some_and(|budget| budget < BUDGET_BYTES_MIN) {
            tracing::warn!(
                asked = limits.budget_bytes,
                used = BUDGET_BYTES_MIN,
                "the budget of the store is too small: using the least"
            );
        }
        Self::of(config, limits)
    }

    /// Most bytes of a ring: half the reserve within the budget at most, so that the other half is for side queues.
    pub(super) fn ring(&self, ring: &Ring) -> u64 {
        let most = if self.budget.is_some() { self.budget_reserve / 2 } else { u64::MAX };
        ring.bytes_max.min(most)
    }

    fn budget_of(&self, class: AppendClass) -> Option<u64> {
        let kept = if class == AppendClass::Ingress { self.budget_reserve } else { 0 };
        self.budget.map(|budget| budget.saturating_sub(kept))
    }

    /// What stays free on a volume of this size.
    fn kept_free(&self, config: &Config, total: u64, class: AppendClass) -> u64 {
        let floor = self.floor.unwrap_or(FLOOR_BYTES.min(total / 20));
        match class {
            AppendClass::Ingress => floor.saturating_add(reserve_of(config, total)),
            AppendClass::Internal => floor,
        }
    }

    /// See [`super::Store::room`].
    pub(super) fn room(&self, config: &Config, used: u64, space: io::Result<Space>) -> Room {
        let class = AppendClass::Ingress;
        let space = space.ok();
        let volume = space.map(|space| {
            let free = space.free.saturating_sub(self.kept_free(config, space.total, class));
            used.saturating_add(free)
        });
        let limit = volume.into_iter().chain(self.budget_of(class)).min();
        Room { used, limit, free: space.map(|space| space.free) }
    }
}

/// The reserve on a volume. What is configured, but at most a twentieth of the volume, or else a small volume would be
/// all reserve; yet three segments, since devices may preallocate one of them; yet no more than a quarter of the volume.
fn reserve_of(config: &Config, total: u64) -> u64 {
    let share = (total / 20).max(3 * config.segment_bytes_max).min(total / 4);
    config.reserve_bytes.min(share)
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(super) struct Shortage {
    /// So many bytes too few.
    pub(super) bytes: u64,
    why: &'static str,
}

impl From<Shortage> for io::Error {
    fn from(shortage: Shortage) -> Self {
        Self::new(io::ErrorKind::StorageFull, shortage)
    }
}

impl Shortage {
    /// Whether it was a limit of the store that refused, not the disk by itself.
    pub(super) fn is_behind(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

/// What the volume said.
#[derive(Debug, Default)]
pub(super) struct Volume {
    /// When it was asked, how large the store was then, and the answer; no answer: it is used until it is full.
    asked: Option<(Instant, u64, Option<Space>)>,
}

impl Volume {
    /// Whether the files may grow by `growth` for an append of this class: else how much is missing.
    pub(super) fn check(
        &mut self,
        tools: &Tools,
        class: AppendClass,
        growth: u64,
    ) -> Result<(), Shortage> {
        let used = tools.counters.disk_bytes.load(Ordering::Relaxed);
        if let Some(budget) = tools.bounds.budget_of(class) {
            within(used + growth, budget, "the budget of the store is used up")?;
        }
        let now = tools.clock.monotonic();
        let fresh = |(at, ..): &(Instant, u64, Option<Space>)| {
            now.saturating_duration_since(*at) < ASK_EVERY
        };
        if let Some((_, then, space)) = self.asked.filter(fresh)
            && on_volume(tools, class, space, used.saturating_sub(then) + growth).is_ok()
        {
            return Ok(());
        }
        let space = tools.disk.space(&tools.config.dir).ok();
        self.asked = Some((now, used, space));
        on_volume(tools, class, space, growth)
    }

    /// The volume has refused, or others were told to leave: ask it before the next batch.
    pub(super) fn ask_again(&mut self) {
        self.asked = None;
    }
}

fn on_volume(
    tools: &Tools,
    class: AppendClass,
    space: Option<Space>,
    growth: u64,
) -> Result<(), Shortage> {
    // What needs no room at all is not refused because others have used the volume up.
    let Some(space) = space.filter(|_| growth > 0) else {
        return Ok(());
    };
    let kept = tools.bounds.kept_free(&tools.config, space.total, class);
    within(kept.saturating_add(growth), space.free, "the volume has no more room to give")
}

fn within(want: u64, most: u64, why: &'static str) -> Result<(), Shortage> {
    match want.checked_sub(most) {
        None | Some(0) => Ok(()),
        Some(bytes) => Err(Shortage { bytes, why }),
    }
}
