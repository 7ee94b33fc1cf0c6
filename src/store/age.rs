//! Time as the store counts it.
//!
//! Owns: [`StoreMillis`], the running clock ([`StoreClock`]), its file ([`ClockFile`]) and what a segment knows of its
//! records' ends ([`ExpiresBy`]). Invariant: no wall clock is in it; it never goes back below a stamp that an intact
//! header or record of this store carries. Must not know: records, queues.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::OpenError;
use super::disk::Disk;
use super::engine::{Failure, Tools};
use super::segment::FORMAT_VERSION;
use super::slots::{Content, Loaded, Slots};
use super::stats::add;
use crate::clock::SharedClock;

/// A time on the store's own clock: milliseconds for which a gateway has had this store open, all its lives together. No
/// wall clock is in it, so no jump of one can make a message older or younger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StoreMillis(pub u64);

impl Content for StoreMillis {
    const FILE_NAME: &'static str = "clock";
    const MAGIC: &'static [u8; 8] = b"SGW-CLK\n";

    fn words(&self) -> [u64; 2] {
        [self.0, 0]
    }

    fn of(words: [u64; 2]) -> Self {
        Self(words[0])
    }
}

/// The running clock.
pub(super) struct StoreClock {
    clock: SharedClock,
    started: Instant,
    /// What it showed at `started`. Set once more while the store opens, when its past is known.
    base: AtomicU64,
}

impl StoreClock {
    /// A clock that starts at zero.
    pub(super) fn new(clock: SharedClock) -> Self {
        let started = clock.monotonic();
        Self { clock, started, base: AtomicU64::new(0) }
    }

    /// Whatever was stamped with `stamp` lies in the past.
    pub(super) fn is_after(&self, stamp: StoreMillis) {
        self.base.fetch_max(stamp.0, Ordering::Relaxed);
    }

    fn base(&self) -> u64 {
        self.base.load(Ordering::Relaxed)
    }

    pub(super) fn now(&self) -> StoreMillis {
        let since = self.clock.monotonic().saturating_duration_since(self.started);
        StoreMillis(self.base().saturating_add(millis(since)))
    }

    /// How long until `time`; zero if that is past.
    pub(super) fn until(&self, time: StoreMillis) -> Duration {
        Duration::from_millis(time.0.saturating_sub(self.now().0))
    }

    /// A stamp as it was read. One that lies in the future is none that this store has made.
    pub(super) fn past(&self, stamp: StoreMillis) -> StoreMillis {
        stamp.min(self.now())
    }

    /// The moment at which something stored at `stored` has lived `ttl_secs`; `None`: never.
    pub(super) fn end_of(&self, stored: StoreMillis, ttl_secs: u32) -> Option<Instant> {
        if ttl_secs == 0 {
            return None;
        }
        let end = stored.0.saturating_add(u64::from(ttl_secs) * 1000);
        match end.checked_sub(self.base()) {
            Some(ahead) => self.started.checked_add(Duration::from_millis(ahead)),
            None => {
                let ago = Duration::from_millis(self.base() - end);
                // Before the machine's own clock began: past all the same.
                Some(self.started.checked_sub(ago).unwrap_or(self.started))
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The store second by which every record of a segment has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ExpiresBy(pub(super) u32);

impl ExpiresBy {
    /// No record expires.
    pub(super) const NEVER: Self = Self(0);
    /// Some expire, not all; or it is not known (format 1).
    pub(super) const MIXED: Self = Self(u32::MAX);

    /// Of one record.
    pub(super) fn of(stored: StoreMillis, ttl_secs: u32) -> Self {
        if ttl_secs == 0 {
            return Self::NEVER;
        }
        let second = stored.0.div_ceil(1000).saturating_add(u64::from(ttl_secs));
        u32::try_from(second).map_or(Self::MIXED, Self)
    }

    /// Of the records of both.
    #[must_use]
    pub(super) fn with(self, other: Self) -> Self {
        match (self, other) {
            (Self::NEVER, Self::NEVER) => Self::NEVER,
            (Self::NEVER, _) | (_, Self::NEVER) => Self::MIXED,
            _ => Self(self.0.max(other.0)),
        }
    }

    /// Whether anything in the segment grows old.
    pub(super) fn ages(self) -> bool {
        self != Self::NEVER
    }

    /// When all of it has expired; `None`: never.
    pub(super) fn end(self) -> Option<StoreMillis> {
        let whole = self != Self::NEVER && self != Self::MIXED;
        whole.then(|| StoreMillis(u64::from(self.0) * 1000))
    }
}

/// The file in which the clock survives a restart. Costs nothing but age if it is lost: what is stamped tells, too, how
/// late it was.
#[derive(Default)]
pub(super) struct ClockFile {
    slots: Option<Slots<StoreMillis>>,
    /// What it says.
    saved: StoreMillis,
    /// Whether the last attempt failed: one warning per change.
    failing: bool,
}

/// The clock is saved so often while anything grows old: a power cut loses no more age than this.
pub(super) const SAVE_EVERY: StoreMillis = StoreMillis(60_000);

/// What the clock's file says, before anything is changed.
pub(super) fn load_clock(disk: &dyn Disk, dir: &Path) -> Result<Loaded<StoreMillis>, OpenError> {
    match Slots::<StoreMillis>::load(disk, dir) {
        Ok(Loaded::Newer(found)) => {
            let path = dir.join(StoreMillis::FILE_NAME);
            Err(OpenError::NewerFormat { path, found, known: FORMAT_VERSION })
        }
        Ok(loaded) => Ok(loaded),
        Err(error) => {
            tracing::warn!(%error, "cannot read the store's clock");
            Ok(Loaded::Damaged)
        }
    }
}

impl ClockFile {
    /// The file after the start, in which `loaded` was found. No handle is held between two savings.
    pub(super) fn open(disk: &dyn Disk, dir: &Path, loaded: Loaded<StoreMillis>) -> Self {
        let Loaded::State(saved) = loaded else {
            return Self::default();
        };
        // Made anew if it cannot be opened.
        Self { slots: Slots::open(disk, dir).ok(), saved, failing: false }
    }

    /// When it is to be saved again.
    pub(super) fn due(&self) -> StoreMillis {
        StoreMillis(self.saved.0.saturating_add(SAVE_EVERY.0))
    }

    /// Makes `now` durable. What the disk refuses is tried again a minute later: only age is at stake. A sync that fails
    /// is poison as everywhere.
    pub(super) fn save(&mut self, tools: &Tools, now: StoreMillis) -> Result<(), Failure> {
        self.saved = now;
        let dir = &tools.config.dir;
        let is_new = self.slots.is_none();
        let written = match &mut self.slots {
            Some(slots) => slots.put(now),
            None => {
                Slots::create(&*tools.lane_disk, dir, now).map(|slots| self.slots = Some(slots))
            }
        };
        if let Err(error) = written {
            self.note(Some(error));
            return Ok(());
        }
        add(&tools.counters.written_bytes, 64);
        add(&tools.counters.syncs, 1);
        let slots = self.slots.as_mut().expect("written to");
        let path = dir.join(StoreMillis::FILE_NAME);
        slots.sync().map_err(|error| Failure::poison("fdatasync", &path, &error))?;
        if is_new {
            tools.sync_dir(dir)?;
        }
        self.note(None);
        Ok(())
    }

    fn note(&mut self, error: Option<io::Error>) {
        if let (Some(error), false) = (&error, self.failing) {
            tracing::warn!(%error, "cannot save the store's clock: a crash would make messages younger");
        }
        self.failing = error.is_some();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_ends_with_its_last_record_or_never() {
        let (never, mixed) = (ExpiresBy::NEVER, ExpiresBy::MIXED);
        let check = |records: &[(u64, u32)], want: ExpiresBy| {
            let each =
                records.iter().map(|(stored, ttl)| ExpiresBy::of(StoreMillis(*stored), *ttl));
            assert_eq!(each.reduce(ExpiresBy::with), Some(want), "{records:?}");
        };
        check(&[(5, 0)], never);
        check(&[(0, 1)], ExpiresBy(1));
        check(&[(1, 1)], ExpiresBy(2));
        check(&[(1000, 9), (2001, 1)], ExpiresBy(10));
        check(&[(1, 1), (1, 0), (1, 2)], mixed);
        check(&[(1, 0), (1, 2)], mixed);
        check(&[(u64::from(u32::MAX) * 1000, 1)], mixed);
        assert_eq!((never.end(), mixed.end()), (None, None));
        assert_eq!(ExpiresBy(3).end(), Some(StoreMillis(3000)));
        assert_eq!([never, mixed, ExpiresBy(3)].map(ExpiresBy::ages), [false, true, true]);
    }

    #[test]
    fn an_end_may_lie_before_the_process() {
        let clock = StoreClock::new(crate::clock::system());
        clock.is_after(StoreMillis(10_000));
        clock.is_after(StoreMillis(9_000));
        let end = |stored, ttl| clock.end_of(StoreMillis(stored), ttl);
        assert_eq!(end(0, 0), None);
        assert_eq!(end(9_000, 2), clock.started.checked_add(Duration::from_secs(1)));
        assert!(end(0, 1).unwrap() <= clock.started);
        assert_eq!(clock.past(StoreMillis(10_000)), StoreMillis(10_000));
        assert!(clock.past(StoreMillis(u64::MAX)) < StoreMillis(u64::MAX));
    }
}
