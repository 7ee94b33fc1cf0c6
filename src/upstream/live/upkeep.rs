//! What a connection needs besides deliveries: tokens renewed, unused links closed, and the judgement whether it still lives.
//!
//! Owns: those decisions. Invariants: a link at work is never closed; one silent sender alone does not end the connection.
//! Must not know: messages.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use super::{LinkState, Live, PutError, Slot};
use crate::identity::Identity;
use crate::upstream::cbs::CbsError;

impl Live {
    /// An operation of `sender` ran into its time limit. That may be the sender's own trouble. It is the connection's when
    /// it happened to several senders with no success in between, or when a token for ourselves gets no answer either.
    pub(super) fn suspect(self: &Arc<Self>, sender: &Identity) {
        let senders = {
            let mut timed_out = self.timed_out();
            timed_out.insert(sender.clone());
            timed_out.len()
        };
        if senders >= self.config().timeouts_max {
            tracing::warn!(
                senders,
                "operations of several senders got no answer: the connection is taken for dead"
            );
            self.severed.cancel();
            return;
        }
        if self.probing.swap(true, Ordering::AcqRel) {
            return;
        }
        let live = self.clone();
        self.tracker().spawn(async move {
            let probe = live.put_token(&live.shared.own, false);
            tokio::select! {
                () = live.severed.cancelled() => {}
                answer = probe => if let Err(PutError::Time | PutError::Cbs(CbsError::Gone)) = answer {
                    tracing::warn!("the hub does not answer a token either: the connection is taken for dead");
                    live.severed.cancel();
                }
            }
            live.probing.store(false, Ordering::Release);
        });
    }

    /// Closes the longest unused link when as many are open as may be.
    pub(super) fn make_room(&self) {
        let slots = self.slots();
        if slots.len() <= self.config().links_max {
            return;
        }
        let mut open: Vec<_> = slots
            .iter()
            .filter(|(_, slot)| slot.times().open)
            .map(|(id, slot)| (slot.times().used_at, id.clone()))
            .collect();
        drop(slots);
        open.sort_unstable();
        let excess = (open.len() + 1).saturating_sub(self.config().links_max);
        for (_, id) in open.into_iter().take(excess) {
            self.close(&id);
        }
    }

    /// Closes the link of `id` unless it is at work, and forgets the identity unless its token is held, or the hub has left it
    /// without an answer: forgotten, it would have its next attach on a session of others again.
    fn close(&self, id: &Identity) {
        let mut slots = self.slots();
        let Some(slot) = slots.get(id) else { return };
        let Ok(mut state) = slot.link.try_lock() else {
            return;
        };
        *state = LinkState::Closed;
        slot.times().open = false;
        drop(state);
        let is_doubtful = slot.times().is_doubtful;
        // One count is ours: nobody else can get at the slot while the table is locked.
        if Arc::strong_count(slot) == 1 && !is_doubtful {
            slots.remove(id);
        } else {
            let mut times = slot.times();
            if times.held == 0 {
                times.renew_at = None;
            }
        }
    }

    /// Renews tokens before they expire and closes links that nobody uses, until the connection is over.
    pub(in crate::upstream) async fn tend(self: Arc<Self>, own_renew_at: Instant) {
        // A fortieth of a token's life is small against the fifth that is left when a renewal falls due.
        let pace = (self.config().token_ttl / 40)
            .min(self.config().idle_link_close)
            .min(self.config().absent_link_close)
            .min(self.config().silence_max / 4)
            .clamp(Duration::from_millis(50), Duration::from_secs(10));
        // Side by side: the hub may leave the tokens of some without an answer.
        let tending = async { tokio::join!(self.prove(own_renew_at, pace), self.tidy(pace)) };
        tokio::select! {
            () = self.severed.cancelled() => {}
            _ = tending => {}
        }
    }

    /// Puts the token for ourselves, for ever.
    async fn prove(&self, renew_at: Instant, pace: Duration) {
        // The AMQP library sends its heartbeats at the very end of the hub's idle time-out, too late for a hub that keeps
        // to it. A token for ourselves once in `silence_max` (a quarter of what Azure announces) keeps the connection
        // and proves the whole way there and back.
        let prove_every = self.config().silence_max;
        let mut due = renew_at.min(self.now() + prove_every);
        loop {
            tokio::time::sleep(pace).await;
            let now = self.now();
            if now < due {
                continue;
            }
            match self.put_token(&self.shared.own, false).await {
                Ok(at) => due = at.min(now + prove_every),
                Err(PutError::Time | PutError::Cbs(CbsError::Gone)) => {
                    tracing::warn!("the hub does not answer: the connection is taken for dead");
                    self.severed.cancel();
                }
                // Due again at the next round.
                Err(PutError::Cbs(error)) => {
                    tracing::warn!(%error, "our own token was not renewed")
                }
                Err(PutError::Sign(error)) => {
                    tracing::warn!(%error, "our own token was not renewed");
                }
            }
        }
    }

    /// Renews the tokens of the others, and closes what is idle, for ever.
    async fn tidy(self: &Arc<Self>, pace: Duration) {
        loop {
            tokio::time::sleep(pace).await;
            let now = self.now();
            self.renew(now).await;
            self.close_idle(now);
        }
    }

    async fn renew(self: &Arc<Self>, now: Instant) {
        let due: Vec<_> = self
            .slots()
            .iter()
            .filter(|(_, slot)| {
                let times = slot.times();
                times.renew_at.is_some_and(|at| at <= now)
            })
            .map(|(id, slot)| (id.clone(), slot.clone()))
            .collect();
        // Sixteen at a time: two thousand identities are renewed in a few seconds, at a rate that no hub minds.
        futures_util::stream::iter(due)
            .for_each_concurrent(16, async |(id, slot)| {
                let is_unused = {
                    let times = slot.times();
                    !times.open && times.held == 0
                };
                if is_unused && slot.link.try_lock().is_ok() {
                    // Not in use: the next delivery puts a token if there is one.
                    slot.times().renew_at = None;
                    return;
                }
                match self.put_token(id.name(), false).await {
                    Ok(at) => slot.times().renew_at = Some(at),
                    Err(PutError::Cbs(CbsError::Refused(detail))) => {
                        tracing::warn!(%id, %detail, "the hub refused to renew the token");
                        self.shared.metrics.counted("token_renewal_failed", "refused");
                        slot.times().renew_at = None;
                    }
                    // Due again at the next round.
                    Err(PutError::Cbs(_) | PutError::Time | PutError::Sign(_)) => {
                        self.shared.metrics.counted("token_renewal_failed", "no_answer");
                    }
                }
            })
            .await;
    }

    fn close_idle(&self, now: Instant) {
        let config = self.config();
        let soonest = config.idle_link_close.min(config.absent_link_close);
        let idle_for = |slot: &Slot| now.saturating_duration_since(slot.times().used_at);
        let idle: Vec<_> = self
            .slots()
            .iter()
            .map(|(id, slot)| (id.clone(), idle_for(slot)))
            .filter(|(_, idle)| *idle >= soonest)
            .collect();
        // Asked without our lock held: who is there is behind another one.
        let is_present =
            |id: &Identity| config.is_present.as_ref().is_none_or(|is_present| is_present(id));
        for (id, idle) in idle {
            if idle >= config.idle_link_close || !is_present(&id) {
                self.close(&id);
            }
        }
    }

    /// Open links.
    pub(in crate::upstream) fn links_open(&self) -> usize {
        self.slots().values().filter(|slot| slot.times().open).count()
    }
}
