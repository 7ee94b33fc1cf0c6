//! Which links are opened now, and what comes of it.
//!
//! Owns: what is told of a hub that leaves an identity's links without an answer. Invariants: such links are tried again, later
//! and later, apart from those of others; that is said once, and once when it is over. Must not know: how links are attached.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::{Served, State};
use crate::upstream::downlinks::links::{Attached, Kind, Link, Setup, Step, Unopened, lost};
use crate::upstream::downlinks::{CloudError, Product};
use crate::upstream::live::Live;

impl Served {
    /// Opens what is wanted, closed and not to wait.
    pub(super) fn open(&mut self, live: &Arc<Live>, product: &Product, now: Instant) {
        let mut lines: [Vec<(Kind, Attached)>; 2] = Default::default();
        for kind in Kind::ALL {
            let standing = &self.standing[kind as usize];
            let is_closed = matches!(standing.state, State::Closed);
            let waits = standing.waits_until(now).is_some();
            if is_closed && !waits && self.is_wanted(kind, now) {
                let (attached, attaching) = oneshot::channel();
                let standing = &mut self.standing[kind as usize];
                lines[usize::from(standing.is_silent)].push((kind, attached));
                standing.turn(State::Opening(attaching), now);
            }
        }
        if lines.iter().all(Vec::is_empty) {
            return;
        }
        let again = std::mem::take(&mut self.is_refused);
        for (kinds, is_doubtful) in lines.into_iter().zip([false, true]) {
            if kinds.is_empty() {
                continue;
            }
            let (inner, live, who) = (self.inner.clone(), live.clone(), self.who.clone());
            let (product, tracker) = (product.clone(), live.tracker().clone());
            let setup = Setup { inner, live, who, product, again, is_doubtful };
            tracker.spawn(setup.run(kinds));
        }
    }

    /// What came of an attempt to open links of this kind.
    pub(super) fn attached(
        &mut self,
        kind: Kind,
        attached: Result<Box<Link>, Unopened>,
        now: Instant,
    ) {
        match attached {
            Ok(link) => {
                self.standing[kind as usize].turn(State::Open(link), now);
                self.is_refused = false;
                self.answers(kind);
            }
            Err(Unopened::Error(error)) => {
                if error != CloudError::Offline {
                    self.answers(kind);
                }
                self.fail(kind, error, now);
            }
            Err(Unopened::Unanswered(step)) => self.unanswered(kind, step, now),
        }
    }

    fn is_silent(&self) -> bool {
        self.standing.iter().any(|standing| standing.is_silent)
    }

    fn answers(&mut self, kind: Kind) {
        let was_silent = std::mem::take(&mut self.standing[kind as usize].is_silent);
        if was_silent && !self.is_silent() {
            tracing::info!(who = %self.who, "the hub answers to its links again");
        }
    }

    fn unanswered(&mut self, kind: Kind, step: Step, now: Instant) {
        self.inner.metrics().counted("downlink_not_opened", step.reason());
        if !self.is_silent() {
            let limit = self.inner.limit();
            tracing::warn!(who = %self.who, kind = kind.word(), step = step.reason(), ?limit,
                "the hub does not answer when links for twin, methods or messages are opened; tried again, later and later");
        }
        self.standing[kind as usize].is_silent = true;
        self.fail(kind, lost(&"no answer of the hub when its links were opened"), now);
        if step == Step::Token {
            // One token serves all kinds: one wait, and one attempt.
            let own = self.standing[kind as usize].retry_at;
            self.token_at = self.token_at.filter(|at| *at > now).or(own);
            self.standing[kind as usize].retry_at = self.token_at;
        }
    }
}
