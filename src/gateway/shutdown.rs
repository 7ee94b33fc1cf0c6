//! The end, in order: no new devices and sessions' receipts, pumps, upstream, store, admin.
//!
//! Owns: the order and the time. Invariant: whatever hangs, all steps together take no longer than [`ALL_MAX`]: each gets
//! its own limit, or what is left of the whole if that is less.
//! Must not know: what the tasks do.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::{DRAIN_TIMEOUT, Gateway};

/// Docker sends SIGKILL 10 s after SIGTERM: two of them are for the signal's way and the end of the process on a machine
/// that is busy.
pub(super) const ALL_MAX: Duration = Duration::from_secs(8);

/// For receipts and farewells.
const FRONT_MAX: Duration = DRAIN_TIMEOUT.saturating_add(Duration::from_secs(1));
/// For what is under way to the hub.
const PUMPS_MAX: Duration = DRAIN_TIMEOUT.saturating_add(Duration::from_secs(1));
const UPSTREAM_MAX: Duration = Duration::from_secs(1);
/// A disk that hangs must not hold up the end.
const STORE_MAX: Duration = Duration::from_secs(2);
const ADMIN_MAX: Duration = Duration::from_secs(1);

/// The kill comes after 10 s. The store comes last but one and does without its last checkpoint if it must; it has a second
/// for it even where all before it hang.
const _: () = {
    assert!(ALL_MAX.as_secs() < 10);
    let before = FRONT_MAX.as_secs() + PUMPS_MAX.as_secs() + UPSTREAM_MAX.as_secs();
    assert!(before < ALL_MAX.as_secs());
};

/// One for each step of the shutdown.
#[derive(Default)]
pub(super) struct Stops {
    pub(super) front: CancellationToken,
    pub(super) pumps: CancellationToken,
    pub(super) upstream: CancellationToken,
    pub(super) admin: CancellationToken,
}

/// The tasks of each step.
#[derive(Default)]
pub(super) struct Tasks {
    pub(super) front: TaskTracker,
    pub(super) pumps: TaskTracker,
    pub(super) upstream: TaskTracker,
    pub(super) admin: TaskTracker,
}

impl Gateway {
    /// Ends in order: no new devices and sessions' receipts, pumps, upstream, store, admin. Takes 8 s at most.
    pub async fn shutdown(self) {
        end(&self.stops, &self.tasks, self.store.close()).await;
        info!("stopped");
    }
}

async fn end(stops: &Stops, tasks: &Tasks, store: impl Future<Output = ()>) {
    let deadline = Instant::now() + ALL_MAX;
    let at_most = |own: Duration| own.min(deadline.saturating_duration_since(Instant::now()));
    finish(&stops.front, &tasks.front, at_most(FRONT_MAX)).await;
    finish(&stops.pumps, &tasks.pumps, at_most(PUMPS_MAX)).await;
    finish(&stops.upstream, &tasks.upstream, at_most(UPSTREAM_MAX)).await;
    if timeout(at_most(STORE_MAX), store).await.is_err() {
        // Everything acknowledged is on disk; what is missing is a checkpoint, so some messages are sent again.
        error!("the disk does not answer: ending without the last checkpoint");
    }
    finish(&stops.admin, &tasks.admin, at_most(ADMIN_MAX)).await;
}

/// Asks the tasks of one step to end and waits for them, at most `limit`.
async fn finish(stop: &CancellationToken, tasks: &TaskTracker, limit: Duration) {
    stop.cancel();
    tasks.close();
    if timeout(limit, tasks.wait()).await.is_err() {
        warn!("{} tasks did not end within {limit:?}; going on without them", tasks.len());
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whatever_hangs_the_end_comes_before_the_kill() {
        // Front, pumps, upstream, store, admin: who hangs, and how long the end takes.
        let table = [
            ([false; 5], 0),
            ([true, false, false, false, false], 3),
            ([false, false, false, true, false], 2),
            ([false, true, true, true, true], 7),
            ([true; 5], 8),
        ];
        for (hangs, secs) in table {
            let (stops, tasks) = (Stops::default(), Tasks::default());
            let [front, pumps, upstream, store, admin] = hangs;
            let trackers = [
                (&tasks.front, front),
                (&tasks.pumps, pumps),
                (&tasks.upstream, upstream),
                (&tasks.admin, admin),
            ];
            for (tracker, _) in trackers.iter().filter(|(_, hangs)| *hangs) {
                tracker.spawn(pending::<()>());
            }
            let began = Instant::now();
            match store {
                true => end(&stops, &tasks, pending()).await,
                false => end(&stops, &tasks, ready(())).await,
            }
            let took = began.elapsed();
            // The timer rounds each step up to a millisecond.
            assert_eq!(took.as_secs(), secs, "{hangs:?}: {took:?}");
            assert!(took < Duration::from_millis(8100), "{hangs:?}: {took:?}");
            assert!(stops.admin.is_cancelled() && stops.front.is_cancelled());
        }
    }
}
