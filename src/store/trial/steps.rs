//! What happens to a store in a trial.
//!
//! Owns: [`Step`], what a run is about ([`Focus`]), and the seeded choice of steps. Must not know: what a step does.

use super::rig::{QUEUES, ROOT, config, scarce_config};
use crate::store::Config;
use crate::store::sim::Dice;

/// How large the volume is where room is scarce: some segments beside the fixed files and the reserve.
const SCARCE_BYTES: usize = 88 * 1024;

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Focus {
    /// A bit of everything, but nothing is removed.
    Plain,
    /// Segments expire, in front and in the middle.
    Ageing,
    /// The volume is small, so that the oldest goes, and one queue is a ring; segments expire, too.
    Scarce,
}

impl Focus {
    /// They take turns.
    pub(in crate::store) fn of(run: u64) -> Self {
        match run % 3 {
            0 => Self::Plain,
            1 => Self::Ageing,
            _ => Self::Scarce,
        }
    }

    /// The settings of the store.
    pub(in crate::store) fn config(self) -> Config {
        if self == Self::Scarce { scarce_config(ROOT) } else { config(ROOT) }
    }

    /// How large the volume is.
    pub(in crate::store) fn capacity(self) -> Option<usize> {
        (self == Self::Scarce).then_some(SCARCE_BYTES)
    }
}

/// What happens to a store.
#[derive(Debug, Clone)]
pub(in crate::store) enum Step {
    /// A batch: for each message the queues (bits), the payload's length, and the seconds to live.
    Append(Vec<(u8, usize, u32)>),
    /// Settle a share (of 8) of what a queue holds.
    Settle(usize, u64),
    /// Seconds pass.
    Tick(u64),
    DeleteIfEmpty(usize),
    /// Limits or frees the volume: bytes that are still to be had.
    Room(Option<usize>),
    /// Close in good order and open again.
    Restart,
    Kill,
    PowerCut,
    /// The power goes at the n-th change of the disk from now on.
    PowerCutDuring(u32),
    /// The n-th change of the disk from now on fails, with "no space" or otherwise.
    FailDuring(u32, bool),
}

/// Steps without faults, for a recording.
pub(in crate::store) fn steps(dice: &mut Dice, n: usize) -> Vec<Step> {
    (0..n).map(|_| one_step(dice)).collect()
}

fn one_step(dice: &mut Dice) -> Step {
    match dice.below(25) {
        0..12 => Step::Append((0..=dice.below(5)).map(|_| message(dice)).collect()),
        12..18 => Step::Settle(dice.below(QUEUES), 1 + dice.next() % 8),
        18..20 => Step::Tick(dice.next() % 4),
        20 => Step::DeleteIfEmpty(dice.below(QUEUES)),
        21 => Step::Restart,
        22 => Step::Kill,
        // Until the next restart.
        23 => Step::Room(Some(dice.below(8192))),
        // A drained queue gives everything back.
        _ => Step::Settle(dice.below(QUEUES), 8),
    }
}

/// The same for a run of this kind.
pub(in crate::store) fn steps_of(focus: Focus, dice: &mut Dice, n: usize) -> Vec<Step> {
    if focus == Focus::Plain {
        return steps(dice, n);
    }
    let mut ttl = 0;
    (0..n).map(|_| removing_step(dice, &mut ttl)).collect()
}

/// Little is settled, and for some batches everything lives as long, so that whole segments expire.
fn removing_step(dice: &mut Dice, ttl: &mut u32) -> Step {
    match dice.below(25) {
        0..15 => {
            if dice.below(3) == 0 {
                *ttl = [0, 7, 7, 60][dice.below(4)];
            }
            let queues = [1, 1, 1, 2, 3, 4, 8, 9][dice.below(8)];
            let message = |dice: &mut Dice| (queues, 200 + dice.below(1800), *ttl);
            Step::Append((0..=dice.below(4)).map(|_| message(dice)).collect())
        }
        15..21 => Step::Tick(dice.next() % 13),
        21 => Step::Settle(dice.below(QUEUES), 1 + dice.next() % 8),
        22 => Step::DeleteIfEmpty(dice.below(QUEUES)),
        23 => Step::Restart,
        _ => Step::Kill,
    }
}

fn message(dice: &mut Dice) -> (u8, usize, u32) {
    // Mostly one or two queues; the seldom ones are made and deleted again.
    let queues = [1, 1, 2, 3, 4, 5, 8, 15][dice.below(8)];
    let len = if dice.below(4) == 0 { 200 + dice.below(2800) } else { dice.below(200) };
    let ttl = [0, 0, 0, 7][dice.below(4)];
    (queues, len, ttl)
}
