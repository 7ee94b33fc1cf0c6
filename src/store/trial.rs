//! Trials of the store: power cuts, damage and failing operations on a simulated disk, what was promised compared with
//! what is read back.
//!
//! Owns: the trials that `doctor disk`, the durability campaign and the tests share; [`rig`] is the only part that knows the
//! engine's methods. Deterministic by seed, but for the salts in segment names. Must not know: who asks.

mod damage;
mod faults;
mod ledger;
mod power;
pub(in crate::store) mod rig;
pub(in crate::store) mod steps;
pub(in crate::store) mod world;

use std::io;
use std::path::Path;

use ledger::Findings;

use super::append::Receipt;

/// A trial that has found so much goes no further.
const VIOLATIONS_MAX: usize = 10;

/// What a series of simulated power cuts showed.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct PowerCuts {
    /// Cuts made.
    pub cuts: u64,
    /// Recorded runs of a store that were cut.
    pub runs: u64,
    /// Changes of the disk in these runs.
    pub changes: u64,
    /// Records that the runs removed because they had expired.
    pub expired: u64,
    /// How often that left a tombstone in the middle of a queue.
    pub tombstones: u64,
    /// Segments that the runs dropped to make room.
    pub dropped: u64,
    /// Segments that left a ring.
    pub ringed: u64,
    /// Records that had been acknowledged when the power went, over all cuts.
    pub acked: u64,
    /// Acknowledged and not settled records that were not there afterwards. Must be 0.
    pub lost: u64,
    /// Records read that nobody had written, or with other bytes. Must be 0.
    pub forged: u64,
    /// What went against the promises in words, with what reproduces it; the first ten. Must be empty.
    pub violations: Vec<String>,
}

/// What damage to files showed.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Damages {
    /// Damages done, each to one file of a store of its own.
    pub damages: u64,
    /// By what was damaged: segments with a seal, without one, checkpoints, other files of the store.
    pub sealed: u64,
    /// See `sealed`.
    pub open: u64,
    /// See `sealed`.
    pub checkpoints: u64,
    /// See `sealed`.
    pub others: u64,
    /// Records that the damage touched: their bytes are gone.
    pub touched: u64,
    /// Of these, how many the store reported as lost.
    pub reported: u64,
    /// Of these, how many nothing on the disk proves to have been acknowledged (the end of an open segment): they are
    /// taken for torn.
    pub unprovable: u64,
    /// Records that were not touched and not there. Must be 0.
    pub lost: u64,
    /// Records read that nobody had written, or with other bytes. Must be 0.
    pub forged: u64,
    /// What went against the promises in words, with what reproduces it; the first ten. Must be empty.
    pub violations: Vec<String>,
}

/// What failing operations of the disk showed.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct IoFaults {
    /// Runs of the same script, each with one trouble.
    pub runs: u64,
    /// Runs that met their trouble.
    pub faults: u64,
    /// Runs in which the store refused to go on without a restart.
    pub poisoned: u64,
    /// Messages acknowledged in all runs.
    pub acked: u64,
    /// Messages refused in all runs.
    pub refused: u64,
    /// Acknowledged and not settled records that were not there afterwards. Must be 0.
    pub lost: u64,
    /// Records read that nobody had written, or that had been refused. Must be 0.
    pub forged: u64,
    /// What went against the promises in words, with what reproduces it; the first ten. Must be empty.
    pub violations: Vec<String>,
}

macro_rules! verdict {
    ($($name:ident: $($count:ident),*;)*) => {$(
        impl $name {
            /// Adds what another series showed.
            pub fn add(&mut self, other: Self) {
                $(self.$count += other.$count;)*
                self.lost += other.lost;
                self.forged += other.forged;
                self.violations.extend(other.violations);
                self.violations.truncate(VIOLATIONS_MAX);
            }

            /// Whether nothing went against the promises.
            pub fn is_clean(&self) -> bool {
                self.lost == 0 && self.forged == 0 && self.violations.is_empty()
            }

            fn is_hopeless(&self) -> bool {
                self.violations.len() >= VIOLATIONS_MAX
            }

            fn note(&mut self, found: Findings, place: impl Fn() -> String) {
                let texts = std::mem::take(&mut self.violations);
                let mut all = Findings { texts, ..Findings::default() };
                all.merge(found, place);
                self.lost += all.lost;
                self.forged += all.forged;
                self.violations = all.texts;
            }
        }
    )*};
}

verdict! {
    PowerCuts: cuts, runs, changes, expired, tombstones, dropped, ringed, acked;
    Damages: damages, sealed, open, checkpoints, others, touched, reported, unprovable;
    IoFaults: runs, faults, poisoned, acked, refused;
}

/// Cuts the power at least `cuts` times, in memory: at every change of recorded runs, with what was not synced torn, dropped or
/// reordered by chance, and again while the store recovers.
///
/// A run has several queues (priorities, side queues), batches, full segments, settles, deletions, restarts, and times to
/// live. In two of three runs whole segments expire, in front and in the middle; in one of three the volume is so small
/// that the oldest is dropped, and one queue is a ring. Missing may be then: what had expired by the store's clock, what
/// the store had told as removed, and a segment whose removal was under way, but as a whole. After each cut the store must open, show every acknowledged and not settled record with its bytes and in order,
/// nothing else, use no offset again, keep what was durably settled, and take and return new records.
pub fn power_cuts(seed: u64, cuts: u64) -> PowerCuts {
    power::power_cuts(seed, cuts)
}

/// Cuts the power `cuts` times while a store writes in memory; after each cut what it left is written to files in `folder`
/// (on the volume under test; emptied afterwards), and a store is opened there.
///
/// # Errors
/// The volume's: nothing is known of the store then.
pub fn power_cuts_on(folder: &Path, seed: u64, cuts: u64) -> io::Result<PowerCuts> {
    power::power_cuts_on(folder, seed, cuts)
}

/// Damages files `damages` times, each time one file of a store of its own: a flipped bit, a cut end, or an aligned 4 KiB of
/// zeros, in segments with and without seal, checkpoints, and the store's other files.
///
/// Afterwards the store must open, show every record whose bytes were not touched, report the others once, by offset, show
/// nothing that was not written, and find nothing more to lose at a second start. Excused are, as [`crate::store`] says:
/// touched records that nothing on the disk proves to have been acknowledged (behind the last intact one of an open segment)
/// are not reported; a damaged checkpoint costs duplicates.
pub fn damages(seed: u64, damages: u64) -> Damages {
    damage::damages(seed, damages)
}

/// Runs a script of appends, settles, deletions and restarts once for every operation of the disk that it does, with that
/// operation failing (EIO, ENOSPC); and with a file system that is read-only, out of file handles, or full for a while.
///
/// No message may be acknowledged that is not stored (a power cut right after the failure shows it), none that was refused
/// may be seen later, want of room is outlived without a restart, and a failed sync poisons the store until it is restarted.
pub fn io_faults(seed: u64) -> IoFaults {
    faults::io_faults(seed)
}
