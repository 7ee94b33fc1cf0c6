//! Whether a fresh message goes before the backlog: the switch between the two classes of a live-first route.
//!
//! Owns: [`LiveGate`]. Invariants: asking costs one atomic load; a gate that nobody turns is shut, so that every message
//! joins the backlog. Must not know: queues, what turns it.

use std::sync::atomic::{AtomicBool, Ordering};

/// Priorities 0 to 9, and that of the routes that give none.
const PRIORITIES: usize = 11;

/// The gate of one endpoint's live queues, one per priority. All shut at first: what is in the live queues from an earlier
/// life is older than what comes in now.
#[derive(Debug, Default)]
pub struct LiveGate([AtomicBool; PRIORITIES]);

impl LiveGate {
    /// The priorities that there are.
    pub fn priorities() -> impl Iterator<Item = u8> {
        (0..PRIORITIES).map(|p| u8::try_from(p).expect("eleven fit"))
    }

    /// Whether fresh messages of this priority go to the live queue.
    pub fn is_open(&self, priority: u8) -> bool {
        self.of(priority).load(Ordering::Relaxed)
    }

    /// Turns it; says whether that is news.
    pub fn turn(&self, priority: u8, open: bool) -> bool {
        self.of(priority).swap(open, Ordering::Relaxed) != open
    }

    fn of(&self, priority: u8) -> &AtomicBool {
        &self.0[usize::from(priority).min(PRIORITIES - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_priority_has_a_gate_of_its_own_and_all_are_shut_at_first() {
        let gate = LiveGate::default();
        assert!(LiveGate::priorities().all(|p| !gate.is_open(p)));
        assert!(gate.turn(3, true) && !gate.turn(3, true));
        let open: Vec<u8> = LiveGate::priorities().filter(|p| gate.is_open(*p)).collect();
        assert_eq!(open, [3]);
        assert!(gate.turn(3, false) && !gate.is_open(3));
    }
}
