//! Which pump of an endpoint sends first: strict priority, and of one priority the live queue first.
//!
//! Owns: [`Precedence`] (one per endpoint, shared by its pumps), [`Standing`] (one pump's place in it), and the rule when
//! a pump holds the lower ones up.
//!
//! The rule: a pump starts deliveries only while no pump of a lower rank number *holds*. A pump holds while it has
//! something that it could send: it reads, a lane wants a turn, or a lane has more behind what it is sending. It does not
//! hold by what cannot be sent now (lanes that rest, a pause before an endpoint that flaps is asked again), by what has been
//! failing, by a read or a delivery that has been pending for [`Config::pending_max`](super::Config::pending_max), nor by
//! the last delivery of a lane that has nothing behind it: else a steady trickle, always with a delivery under way, would keep
//! the backlog waiting for ever although there is room on the way.
//!
//! Invariants: what a pump declares is withdrawn when it ends, however it ends. No wake-up is lost: who waits looks at the
//! state itself, under the lock of the watch, before it sleeps. No lock is held over an await; a pump is woken only when the
//! first rank that holds has changed and it wants to start something.
//! Must not know: queues' content, the endpoint.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::lane::Lane;
use super::run::Running;
use crate::store::QueueId;

/// Place in the order: lower goes first.
type Rank = (u8, bool);

/// How many pumps of a rank hold the lower ones up. Ranks without one are left out.
type Holding = BTreeMap<Rank, usize>;

/// The order among the pumps of one endpoint.
#[derive(Debug, Default)]
pub struct Precedence {
    holding: watch::Sender<Holding>,
}

impl Precedence {
    /// For the pumps of one endpoint.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A place for the pump of `queue`. It holds the lower ranks up until it says otherwise or is dropped, so that of pumps that
    /// are made before the first of them runs, the right one starts.
    pub(super) fn join(self: &Arc<Self>, queue: &QueueId) -> Standing {
        let rank = (queue.priority, !queue.live);
        let mut standing =
            Standing { all: Arc::clone(self), seen: self.holding.subscribe(), rank, holds: false };
        standing.hold(true);
        standing
    }
}

/// A pump's place in the order.
#[derive(Debug)]
pub(super) struct Standing {
    all: Arc<Precedence>,
    seen: watch::Receiver<Holding>,
    rank: Rank,
    holds: bool,
}

fn lets(holding: &Holding, rank: Rank) -> bool {
    holding.first_key_value().is_none_or(|(first, _)| *first >= rank)
}

impl Standing {
    /// Declares whether this pump holds the lower ranks up.
    pub(super) fn hold(&mut self, holds: bool) {
        if holds == self.holds {
            return;
        }
        self.holds = holds;
        let rank = self.rank;
        self.all.holding.send_if_modified(|holding| {
            let first = holding.first_key_value().map(|(first, _)| *first);
            let pumps = holding.entry(rank).or_default();
            *pumps = if holds { *pumps + 1 } else { *pumps - 1 };
            if *pumps == 0 {
                holding.remove(&rank);
            }
            holding.first_key_value().map(|(first, _)| *first) != first
        });
    }

    pub(super) fn holds(&self) -> bool {
        self.holds
    }

    /// Whether this pump may start deliveries.
    pub(super) fn may_start(&self) -> bool {
        lets(&self.all.holding.borrow(), self.rank)
    }

    /// Resolves when this pump may start deliveries; at once if it may.
    pub(super) async fn turn(&mut self) {
        let rank = self.rank;
        // The sending half is ours: it cannot be gone.
        let _ = self.seen.wait_for(|holding| lets(holding, rank)).await;
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.hold(false);
    }
}

impl Running {
    /// Whether a delivery may be started now.
    pub(super) fn may_send(&self) -> bool {
        self.ready.is_none() && !self.stopping && self.standing.may_start()
    }

    /// Whether something could be started, were it not for the higher ranks.
    pub(super) fn is_held_up(&self) -> bool {
        let wants = self.lanes_want() || self.parked_want();
        wants && self.ready.is_none() && !self.stopping && !self.standing.may_start()
    }

    fn lanes_want(&self) -> bool {
        self.sending < self.config.lanes_max && !self.ring.is_empty()
    }

    fn parked_want(&self) -> bool {
        self.parked_active < self.config.parked_deliveries_max && !self.parked_ring.is_empty()
    }

    /// Tells the lower ranks whether they have to wait. An endpoint that is simply away holds nobody up who could send, and
    /// when it comes back the first rank starts.
    pub(super) fn declare(&mut self, now: Instant) {
        let pending_max = self.config.pending_max;
        let fresh = self.started_at.is_some_and(|at| now < at + pending_max);
        let moves = |lane: &Lane| lane.is_on_the_move(now, pending_max);
        let holds = !self.stopping
            && !self.pausing
            && (self.lanes_want()
                || self.parked_want()
                || fresh && (self.reading || self.refill.is_held() || self.parked_holding > 0)
                || fresh && self.sending > 0 && self.lanes.values().any(moves));
        self.standing.hold(holds);
    }

    /// When this pump ceases to hold the others up, should nothing that it has started come to an end.
    pub(super) fn releases_at(&self, now: Instant) -> Option<Instant> {
        let started = self.started_at.filter(|_| self.standing.holds());
        started.map(|at| at + self.config.pending_max).filter(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::pump::double::main_queue;

    fn join(all: &Arc<Precedence>, priority: u8, live: bool) -> Standing {
        all.join(&QueueId { priority, live, ..main_queue() })
    }

    #[test]
    fn the_first_that_holds_goes_and_whoever_ends_lets_go() {
        let all = Precedence::new();
        let mut low = join(&all, 10, false);
        let mut live = join(&all, 10, true);
        let high = join(&all, 0, false);
        let may = |s: [&Standing; 3]| s.map(Standing::may_start);
        assert_eq!(may([&high, &live, &low]), [true, false, false]);
        live.hold(false);
        drop(high);
        assert_eq!([&live, &low].map(Standing::may_start), [true, true]);
        live.hold(true);
        assert_eq!([&live, &low].map(Standing::may_start), [true, false]);
        // Two of one rank count twice.
        let twin = join(&all, 10, true);
        live.hold(false);
        assert!(!low.may_start());
        drop(twin);
        assert!(low.may_start());
        low.hold(false);
        drop((low, live));
        assert!(all.holding.borrow().is_empty());
    }

    #[tokio::test]
    async fn no_wake_up_is_lost() {
        let all = Precedence::new();
        let mut low = join(&all, 10, false);
        let mut high = join(&all, 0, false);
        // Let go between the look and the wait, before the wait, and during it.
        assert!(!low.may_start());
        high.hold(false);
        assert_eq!(low.turn().now_or_never(), Some(()));
        high.hold(true);
        let mut waiting = Box::pin(low.turn());
        assert_eq!((&mut waiting).now_or_never(), None);
        high.hold(false);
        assert_eq!((&mut waiting).now_or_never(), Some(()));
        drop(waiting);
        high.hold(true);
        let mut waiting = Box::pin(low.turn());
        assert_eq!((&mut waiting).now_or_never(), None);
        drop(high);
        assert_eq!(waiting.now_or_never(), Some(()));
    }
}
