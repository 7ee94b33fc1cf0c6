//! What the store let go of unsettled is made known: counted, logged, and recorded as a dead letter.
//!
//! Owns: [`RemovedWatch`]. Invariants: every record told of is counted once, by its reason; for those that were dropped for
//! room or cannot be read a dead letter is kept, later and merged if it cannot be kept now; at the end what is still owed
//! is counted and said. Must not know: why the store removes.

mod ledger;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::ledger::{Ledger, Line, Owed};
use crate::clock::SharedClock;
use crate::metrics::Metrics;
use crate::pump::backoff::Backoff;
use crate::pump::deadletter::{self, DeadLetter, DeadLetters};
use crate::pump::log::LogError;
use crate::store::{Removed, RemovedWhy};

/// How often it looks whether a line or a letter is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Pauses after a letter that could not be kept.
const RETRY: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };

/// Hears of what the store removed, and makes it known.
pub(super) struct RemovedWatch {
    heard: mpsc::Receiver<Removed>,
    letters: Arc<dyn DeadLetters>,
    metrics: Arc<Metrics>,
    clock: SharedClock,
    ledger: Ledger,
    /// Letters in a row that could not be kept.
    failures: u32,
    retry_at: Option<Instant>,
}

/// A letter's fate.
type Kept = (Owed, Result<(), LogError>);

impl RemovedWatch {
    pub(super) fn new(
        heard: mpsc::Receiver<Removed>,
        letters: Arc<dyn DeadLetters>,
        metrics: Arc<Metrics>,
        clock: SharedClock,
    ) -> Self {
        let ledger = Ledger::default();
        Self { heard, letters, metrics, clock, ledger, failures: 0, retry_at: None }
    }

    /// Runs until `stop`, or the store's end; then says and keeps what is left.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut keeping: Option<BoxFuture<'static, Kept>> = None;
        loop {
            if keeping.is_none() && self.may_try() {
                keeping = self.ledger.take_owed().map(|owed| self.keep(owed));
            }
            tokio::select! {
                () = stop.cancelled() => break,
                removed = self.heard.recv() => match removed {
                    Some(removed) => self.note(&removed),
                    None => break,
                },
                kept = async { keeping.as_mut().expect("guarded").await }, if keeping.is_some() => {
                    keeping = None;
                    self.kept(kept);
                }
                _ = ticks.tick(), if !self.ledger.is_idle() => {}
            }
            let lines = self.ledger.lines(self.clock.monotonic());
            lines.iter().for_each(say);
        }
        self.finish(keeping).await;
    }

    fn note(&mut self, removed: &Removed) {
        let label = removed.why.label();
        // A dead letter was counted when its message was given up.
        let is_letter = &*removed.queue.endpoint == deadletter::ENDPOINT;
        if is_letter {
            self.metrics.counted_many("dead_letter_dropped", label, removed.records);
        } else {
            // The letter and the line tell of all; what a reader holds it counts one by one.
            self.metrics.messages_removed(label, removed.records - removed.with_reader);
        }
        let owes = matches!(removed.why, RemovedWhy::Budget | RemovedWhy::Unreadable);
        self.ledger.note(removed, owes && !is_letter, self.clock.monotonic());
    }

    fn may_try(&self) -> bool {
        self.retry_at.is_none_or(|at| at <= self.clock.monotonic())
    }

    fn keep(&self, owed: Owed) -> BoxFuture<'static, Kept> {
        let letters = Arc::clone(&self.letters);
        let letter = DeadLetter {
            stored: Bytes::new(),
            died: self.clock.wall(),
            count: u32::try_from(owed.count).unwrap_or(u32::MAX),
            reason: owed.why.label().to_owned(),
            detail: detail(&owed),
        };
        async move {
            let kept = letters.keep(&letter).await;
            (owed, kept)
        }
        .boxed()
    }

    fn kept(&mut self, (owed, kept): Kept) {
        let Err(e) = kept else {
            (self.failures, self.retry_at) = (0, None);
            return;
        };
        self.metrics.counted("dead_letter_retried", owed.why.label());
        if self.failures == 0 {
            warn!("a dead letter for {} cannot be kept now, it is tried again: {e}", detail(&owed));
        }
        self.failures = self.failures.saturating_add(1);
        let pause = RETRY.pause(self.failures, &mut rand::rng());
        self.retry_at = Some(self.clock.monotonic() + pause);
        self.ledger.owe(owed);
    }

    /// The last chance: one try for each, until the store refuses.
    async fn finish(mut self, keeping: Option<BoxFuture<'static, Kept>>) {
        while let Ok(removed) = self.heard.try_recv() {
            self.note(&removed);
        }
        self.ledger.last_lines().iter().for_each(say);
        let mut next = keeping;
        loop {
            let keeping = match next.take() {
                Some(keeping) => keeping,
                None => match self.ledger.take_owed() {
                    Some(owed) => self.keep(owed),
                    None => return,
                },
            };
            if let (owed, Err(e)) = keeping.await {
                self.ledger.owe(owed);
                return self.give_up(&e);
            }
        }
    }

    fn give_up(&mut self, e: &LogError) {
        while let Some(owed) = self.ledger.take_owed() {
            self.metrics.counted_many("dead_letter_lost", owed.why.label(), owed.count);
            error!(
                "the dead letter for {} is lost, only this line tells of them: {e}",
                detail(&owed)
            );
        }
    }
}

/// In words.
fn detail(owed: &Owed) -> String {
    let Owed { queue, why, count, first, end } = owed;
    let last = end.0.saturating_sub(1);
    let s = if *count == 1 { "" } else { "s" };
    format!("{count} message{s} of queue {queue}, offsets {first} to {last}: {}", words(*why))
}

fn words(why: RemovedWhy) -> &'static str {
    match why {
        RemovedWhy::Expired => "their time to live was over",
        RemovedWhy::Budget => {
            "the store was full and drops the oldest; let the upstream drain it, or give it more room"
        }
        RemovedWhy::Ring => "the queue keeps only what came last",
        RemovedWhy::Unreadable => "the disk does not give them back; check the medium",
    }
}

fn say(line: &Line) {
    let Line { queue, why, records, payload_bytes } = line;
    let (reason, words) = (why.label(), words(*why));
    if *why == RemovedWhy::Expired {
        info!(%queue, records, payload_bytes, reason, "messages were removed: {words}");
    } else {
        warn!(%queue, records, payload_bytes, reason, "messages were removed: {words}");
    }
}

#[cfg(test)]
mod tests;
