//! A deadline that moves with every packet, on one timer.
//!
//! Invariant: rings at the deadline that was set last or before it, never later. Most deadlines only move on, and the timer
//! wheel is a lock that all connections share: the timer stays where it is and is set anew when it has rung too early.
//! Must not know: what the deadline is for.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

/// The timer, once there was a deadline, and whether it is set.
pub(super) struct Alarm {
    timer: Option<Pin<Box<Sleep>>>,
    is_set: bool,
}

impl Alarm {
    pub(super) fn new() -> Self {
        Self { timer: None, is_set: false }
    }

    /// From now on rings at `deadline` or before it; without one it may still ring once.
    pub(super) fn set(&mut self, deadline: Option<Instant>) {
        let Some(deadline) = deadline.map(tokio::time::Instant::from_std) else {
            return;
        };
        match &mut self.timer {
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(deadline))),
            Some(timer) if !self.is_set || deadline < timer.deadline() => {
                timer.as_mut().reset(deadline);
            }
            Some(_) => {}
        }
        self.is_set = true;
    }

    /// Ready when it rings.
    pub(super) fn poll_ring(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.timer {
            Some(timer) if self.is_set => {
                let rung = timer.as_mut().poll(cx);
                self.is_set = rung.is_pending();
                rung
            }
            _ => Poll::Pending,
        }
    }
}
