//! The checkpoint file of a queue: below which offset everything is settled.
//!
//! Owns: the file `checkpoint`, two slots in two 4096-byte blocks (see the table in [`crate::store`]).
//! Invariant: the slot that holds the last durable state is never overwritten. A new state goes to the *other* slot,
//! again and again, until that one was synced; only then the roles change. So whatever a power cut does to unsynced
//! writes, one slot is whole.
//! Must not know: segments.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::disk::{Disk, DiskFile, Mode, read_all};
use super::id::Offset;
use super::record::{u32_at, u64_at};
use super::segment::FORMAT_VERSION;

/// The file's name in the queue's folder.
pub(super) const FILE_NAME: &str = "checkpoint";

const MAGIC: &[u8; 8] = b"SGW-CKP\n";
const SLOT_BYTES: usize = 64;
const BLOCK_BYTES: u64 = 4096;

/// What a checkpoint says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct State {
    /// Counts up with every write; the valid slot with the higher one counts.
    pub(super) generation: u64,
    /// Everything below is settled: delivered, or dropped on purpose.
    pub(super) settled_below: Offset,
    /// Everything below was durable when this was written: proof for recovery, and the floor of new offsets.
    pub(super) durable_below: Offset,
}

/// What the file says at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loaded {
    /// A slot is whole.
    State(State),
    /// There is no file, or an empty one: the queue is new.
    Missing,
    /// The file holds something, but no slot is whole.
    Damaged,
    /// A whole slot of a newer format.
    Newer(u16),
}

/// The open file.
pub(super) struct Checkpoint {
    file: Arc<dyn DiskFile>,
    state: State,
    /// The slot (0 or 1) that the next write goes to.
    slot: u64,
    /// Whether that slot holds something that is not synced yet.
    dirty: bool,
    /// Whether the last write to that slot failed, so that it may hold anything.
    broken: bool,
}

impl Checkpoint {
    /// Makes the file and writes its first state. The caller syncs it, and the folder.
    pub(super) fn create(disk: &dyn Disk, folder: &Path, state: State) -> io::Result<Self> {
        let path = folder.join(FILE_NAME);
        let _ = disk.remove_file(&path);
        let file = disk.open(&path, Mode::CreateNew)?;
        file.allocate(2 * BLOCK_BYTES)?;
        let mut checkpoint = Self { file, state, slot: 0, dirty: false, broken: false };
        checkpoint.write(state.settled_below, state.durable_below)?;
        Ok(checkpoint)
    }

    /// Reads the file of a folder, without changing it.
    pub(super) fn load(disk: &dyn Disk, folder: &Path) -> io::Result<Loaded> {
        let file = match disk.open(&folder.join(FILE_NAME), Mode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Missing),
            Err(error) => return Err(error),
        };
        Ok(judge(&read_all(&*file)?).0)
    }

    /// Opens a file in which [`Checkpoint::load`] found a state.
    pub(super) fn open(disk: &dyn Disk, folder: &Path) -> io::Result<Self> {
        let file = disk.open(&folder.join(FILE_NAME), Mode::Write)?;
        match judge(&read_all(&*file)?) {
            // The state may be in the page cache only (the process was killed): `dirty` until it was synced, and
            // until then it is this slot that is written again, since the other one may be the durable one.
            (Loaded::State(state), slot) => {
                Ok(Self { file, state, slot, dirty: true, broken: false })
            }
            _ => Err(io::Error::other("the checkpoint changed while it was read")),
        }
    }

    /// The last state written.
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Whether the last state is not durable yet.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Writes a new state; it outlives this process, not yet a power cut.
    pub(super) fn write(&mut self, settled: Offset, durable: Offset) -> io::Result<()> {
        let state = State {
            generation: self.state.generation + 1,
            settled_below: settled,
            durable_below: durable,
        };
        self.put(state)?;
        self.state = state;
        Ok(())
    }

    fn put(&mut self, state: State) -> io::Result<()> {
        // Before the write: a failed one may have destroyed the slot.
        (self.dirty, self.broken) = (true, true);
        self.file.write_at(&encode(&state), self.slot * BLOCK_BYTES)?;
        self.broken = false;
        Ok(())
    }

    /// Makes the last state durable; `false` if it could not even be written (a full disk): then nothing may be
    /// unlinked on its account. An error of the sync itself poisons the store: it is not tried again.
    pub(super) fn sync(&mut self) -> io::Result<bool> {
        if self.broken && self.put(self.state).is_err() {
            return Ok(false);
        }
        if self.dirty {
            self.file.sync_data()?;
            self.dirty = false;
            self.slot = 1 - self.slot;
        }
        Ok(true)
    }
}

fn encode(state: &State) -> [u8; SLOT_BYTES] {
    let mut b = [0; SLOT_BYTES];
    b[..8].copy_from_slice(MAGIC);
    b[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    b[10..12].copy_from_slice(&64u16.to_le_bytes());
    b[16..24].copy_from_slice(&state.generation.to_le_bytes());
    b[24..32].copy_from_slice(&state.settled_below.0.to_le_bytes());
    b[32..40].copy_from_slice(&state.durable_below.0.to_le_bytes());
    let crc = slot_crc(&b);
    b[12..16].copy_from_slice(&crc.to_le_bytes());
    b
}

fn slot_crc(b: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&b[..12]), &b[16..SLOT_BYTES])
}

fn decode(b: &[u8]) -> Option<Loaded> {
    if b.len() < SLOT_BYTES || &b[..8] != MAGIC || slot_crc(b) != u32_at(b, 12) {
        return None;
    }
    let version = u16::from_le_bytes([b[8], b[9]]);
    if version > FORMAT_VERSION {
        return Some(Loaded::Newer(version));
    }
    Some(Loaded::State(State {
        generation: u64_at(b, 16),
        settled_below: Offset(u64_at(b, 24)),
        durable_below: Offset(u64_at(b, 32)),
    }))
}

/// What the file says, and in which slot.
fn judge(bytes: &[u8]) -> (Loaded, u64) {
    let block = usize::try_from(BLOCK_BYTES).expect("4096");
    let mut best = (Loaded::Missing, 0);
    for slot in [0, 1] {
        let at = if slot == 0 { 0 } else { block };
        match (decode(bytes.get(at..).unwrap_or_default()), best.0) {
            (Some(Loaded::Newer(version)), _) => return (Loaded::Newer(version), slot),
            (Some(Loaded::State(new)), Loaded::State(old)) if new.generation < old.generation => {}
            (Some(found), _) => best = (found, slot),
            (None, _) => {}
        }
    }
    if best.0 == Loaded::Missing && bytes.iter().any(|byte| *byte != 0) {
        best.0 = Loaded::Damaged;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::sim::SimDisk;
    use super::*;

    #[test]
    fn the_slot_that_is_durable_is_not_written_before_the_other_is() {
        let (disk, folder) = (SimDisk::new(), Path::new("/"));
        let blocks = || {
            let bytes =
                read_all(&*disk.open(&folder.join(FILE_NAME), Mode::Read).unwrap()).unwrap();
            [bytes[..64].to_vec(), bytes[4096..4160].to_vec()]
        };
        let mut checkpoint = Checkpoint::create(&disk, folder, State::default()).unwrap();
        checkpoint.sync().unwrap();
        for round in 1..6 {
            let durable = usize::from(round % 2 == 0);
            let before = blocks();
            for settled in 0..3 {
                checkpoint.write(Offset(round * 10 + settled), Offset(100)).unwrap();
                assert_eq!(blocks()[durable], before[durable]);
            }
            // Opened again after a kill: the last state is known, but not known to be durable.
            assert_eq!(Checkpoint::load(&disk, folder).unwrap(), Loaded::State(checkpoint.state()));
            checkpoint = Checkpoint::open(&disk, folder).unwrap();
            assert!(checkpoint.is_dirty());
            checkpoint.write(Offset(round * 10 + 5), Offset(100)).unwrap();
            assert_eq!(blocks()[durable], before[durable]);
            assert!(checkpoint.sync().unwrap());
        }
    }

    #[test]
    fn a_slot_that_could_not_be_written_is_not_taken_for_durable() {
        use super::super::sim::{Fault, Op};
        let (disk, folder) = (SimDisk::new(), Path::new("/"));
        let mut checkpoint = Checkpoint::create(&disk, folder, State::default()).unwrap();
        checkpoint.sync().unwrap();
        disk.plan(|op, _| (op == Op::Write).then_some(Fault::Error(io::ErrorKind::StorageFull)));
        checkpoint.write(Offset(5), Offset(9)).unwrap_err();
        assert!(!checkpoint.sync().unwrap() && checkpoint.is_dirty());
        disk.no_plan();
        assert!(checkpoint.sync().unwrap());
        assert_eq!(checkpoint.state().settled_below, Offset(0), "the last state that was taken");
    }
}
