//! Two slots in one small file: a state that is replaced again and again, and is never lost to a power cut.
//!
//! Owns: [`Slots`], two slots in two 4096-byte blocks (see the table in [`crate::store`]).
//! Invariant: the slot that holds the last durable state is never overwritten. A new state goes to the *other* slot,
//! again and again, until that one was synced; only then the roles change. So whatever a power cut does to unsynced
//! writes, one slot is whole.
//! Must not know: what the states mean.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::disk::{
    Disk, DiskFile, Mode, Unwritten, is_full, is_medium, read_patiently, write_atomically,
};
use super::record::{u32_at, u64_at};
use super::segment::FORMAT_VERSION;

const SLOT_BYTES: usize = 64;
const BLOCK_BYTES: u64 = 4096;

/// The file's size.
pub(super) const FILE_BYTES: u64 = 2 * BLOCK_BYTES;

/// What a kind of file holds.
pub(super) trait Content: Copy {
    /// The file's name in its folder.
    const FILE_NAME: &'static str;
    /// The first bytes of a slot.
    const MAGIC: &'static [u8; 8];
    /// As two numbers.
    fn words(&self) -> [u64; 2];
    /// From them.
    fn of(words: [u64; 2]) -> Self;
}

/// What the file says at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loaded<C> {
    /// A slot is whole.
    State(C),
    /// There is no file, or an empty one.
    Missing,
    /// The file holds something, but no slot is whole.
    Damaged,
    /// A whole slot of a newer format.
    Newer(u16),
}

/// The open file.
pub(super) struct Slots<C> {
    file: Arc<dyn DiskFile>,
    state: C,
    /// Counts up with every write; the whole slot with the higher one counts.
    generation: u64,
    /// The slot (0 or 1) that the next write goes to.
    slot: u64,
    /// Whether that slot holds something that is not synced yet.
    dirty: bool,
    /// Whether the last write to that slot failed, so that it may hold anything.
    broken: bool,
    /// Whether the state was written in an older format.
    old: bool,
}

impl<C: Content> Slots<C> {
    /// Makes the file and writes its first state. The caller syncs it, and the folder.
    pub(super) fn create(disk: &dyn Disk, folder: &Path, state: C) -> io::Result<Self> {
        let path = folder.join(C::FILE_NAME);
        let _ = disk.remove_file(&path);
        let file = disk.open(&path, Mode::CreateNew)?;
        file.allocate(FILE_BYTES)?;
        let (dirty, broken, old) = (false, false, false);
        let mut slots = Self { file, state, generation: 0, slot: 0, dirty, broken, old };
        slots.put(state)?;
        Ok(slots)
    }

    /// Reads the file of a folder, without changing it.
    pub(super) fn load(disk: &dyn Disk, folder: &Path) -> io::Result<Loaded<C>> {
        Ok(Self::look(disk, folder)?.0)
    }

    /// The same, and whether the state may be older than the last one that was durable, since the other slot is not whole.
    /// A file whose first state was never replaced has one slot, too: that is not told from a damaged one.
    pub(super) fn look(disk: &dyn Disk, folder: &Path) -> io::Result<(Loaded<C>, bool)> {
        let file = match disk.open(&folder.join(C::FILE_NAME), Mode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Loaded::Missing, false));
            }
            Err(error) => return Err(error),
        };
        let (bytes, _) = read(&*file)?;
        Ok(match judge::<C>(&bytes).0 {
            Loaded::State(slot) => {
                let block = usize::try_from(BLOCK_BYTES).expect("4096");
                let whole = bytes.chunks(block).filter_map(decode::<C>).count();
                (Loaded::State(C::of(slot.words)), whole < 2)
            }
            Loaded::Missing => (Loaded::Missing, false),
            Loaded::Damaged => (Loaded::Damaged, false),
            Loaded::Newer(version) => (Loaded::Newer(version), false),
        })
    }

    /// Opens a file in which [`Slots::load`] found a state.
    pub(super) fn open(disk: &dyn Disk, folder: &Path) -> io::Result<Self> {
        let path = folder.join(C::FILE_NAME);
        let file = disk.open(&path, Mode::Write)?;
        let (bytes, is_refused) = read(&*file)?;
        let (Loaded::State(found), slot) = judge::<C>(&bytes) else {
            return Err(io::Error::other(format!("{} changed while it was read", C::FILE_NAME)));
        };
        // The state may be in the page cache only (the process was killed): `dirty` until it was synced, and
        // until then it is this slot that is written again, since the other one may be the durable one. `broken`:
        // also if nothing changes, since after a failed sync the kernel takes its page for written.
        let (state, generation) = (C::of(found.words), found.generation);
        let (dirty, broken, old) = (true, true, found.version < FORMAT_VERSION);
        let slots = Self { file, state, generation, slot, dirty, broken, old };
        if is_refused { slots.moved(disk, &path) } else { Ok(slots) }
    }

    /// In a new file, durably: to write a slot into a block that cannot be read would read that block first.
    fn moved(self, disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let mut bytes = encode(&self.state, self.generation).to_vec();
        bytes.resize(usize::try_from(FILE_BYTES).expect("8192"), 0);
        match write_atomically(disk, path, &bytes) {
            Err(Unwritten::Before(error)) if is_full(&error) => Ok(self),
            Err(unwritten) => Err(unwritten.into()),
            Ok(()) => {
                let file = disk.open(path, Mode::Write)?;
                let (slot, dirty, broken, old) = (1, false, false, false);
                Ok(Self { file, slot, dirty, broken, old, ..self })
            }
        }
    }

    /// The last state written.
    pub(super) fn state(&self) -> C {
        self.state
    }

    /// Whether the last state is not durable yet.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether the last state was written in an older format.
    pub(super) fn is_old(&self) -> bool {
        self.old
    }

    /// Writes a new state; it outlives this process, not yet a power cut.
    pub(super) fn put(&mut self, state: C) -> io::Result<()> {
        self.write_slot(state, self.generation + 1)?;
        self.generation += 1;
        self.state = state;
        self.old = false;
        Ok(())
    }

    fn write_slot(&mut self, state: C, generation: u64) -> io::Result<()> {
        // Before the write: a failed one may have destroyed the slot.
        (self.dirty, self.broken) = (true, true);
        self.file.write_at(&encode(&state, generation), self.slot * BLOCK_BYTES)?;
        self.broken = false;
        Ok(())
    }

    /// Writes the last state again if the last write of it failed, or if the kernel may take it for written.
    pub(super) fn write_again(&mut self) -> io::Result<()> {
        if self.broken { self.write_slot(self.state, self.generation) } else { Ok(()) }
    }

    /// Makes the last state durable; `false` if it could not even be written (a full disk): then nothing may be
    /// unlinked on its account. An error of the sync itself poisons the store: it is not tried again.
    pub(super) fn sync(&mut self) -> io::Result<bool> {
        if self.write_again().is_err() {
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

/// The file's bytes, and whether the medium refused a slot: that one is not whole, the other one may be.
fn read(file: &dyn DiskFile) -> io::Result<(Vec<u8>, bool)> {
    let len = usize::try_from(file.size()?.min(FILE_BYTES)).expect("at most 8192");
    let (mut bytes, mut is_refused) = (vec![0; len], false);
    let block = usize::try_from(BLOCK_BYTES).expect("4096");
    for (slot, at) in bytes.chunks_mut(block).zip((0..).step_by(block)) {
        match read_patiently(file, slot, at) {
            Err(error) if is_medium(&error) => {
                // No zeros: those would be a slot that was never used.
                slot.fill(0xff);
                is_refused = true;
            }
            other => drop(other?),
        }
    }
    Ok((bytes, is_refused))
}

fn encode<C: Content>(state: &C, generation: u64) -> [u8; SLOT_BYTES] {
    let mut b = [0; SLOT_BYTES];
    let words = state.words();
    b[..8].copy_from_slice(C::MAGIC);
    b[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    b[10..12].copy_from_slice(&64u16.to_le_bytes());
    b[16..24].copy_from_slice(&generation.to_le_bytes());
    b[24..32].copy_from_slice(&words[0].to_le_bytes());
    b[32..40].copy_from_slice(&words[1].to_le_bytes());
    let crc = slot_crc(&b);
    b[12..16].copy_from_slice(&crc.to_le_bytes());
    b
}

fn slot_crc(b: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&b[..12]), &b[16..SLOT_BYTES])
}

/// A whole slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    version: u16,
    generation: u64,
    words: [u64; 2],
}

fn decode<C: Content>(b: &[u8]) -> Option<Slot> {
    if b.len() < SLOT_BYTES || &b[..8] != C::MAGIC || slot_crc(b) != u32_at(b, 12) {
        return None;
    }
    let version = u16::from_le_bytes([b[8], b[9]]);
    Some(Slot { version, generation: u64_at(b, 16), words: [u64_at(b, 24), u64_at(b, 32)] })
}

/// Where in a file's bytes a slot lies that holds something and is not whole.
pub(super) fn torn<C: Content>(bytes: &[u8]) -> Vec<Range<u64>> {
    let block = usize::try_from(BLOCK_BYTES).expect("4096");
    let slots = bytes.chunks(block).zip((0..).step_by(block));
    let used = slots.filter(|(slot, _)| slot.iter().any(|byte| *byte != 0));
    let torn = used.filter(|(slot, _)| decode::<C>(slot).is_none());
    torn.map(|(slot, at)| at..at + slot.len() as u64).collect()
}

/// What the file says, and in which slot.
fn judge<C: Content>(bytes: &[u8]) -> (Loaded<Slot>, u64) {
    let block = usize::try_from(BLOCK_BYTES).expect("4096");
    let mut best = (Loaded::Missing, 0);
    for slot in [0, 1] {
        let at = if slot == 0 { 0 } else { block };
        let Some(found) = decode::<C>(bytes.get(at..).unwrap_or_default()) else {
            continue;
        };
        if found.version > FORMAT_VERSION {
            return (Loaded::Newer(found.version), slot);
        }
        if !matches!(best.0, Loaded::State(Slot { generation, .. }) if found.generation < generation)
        {
            best = (Loaded::State(found), slot);
        }
    }
    if best.0 == Loaded::Missing && bytes.iter().any(|byte| *byte != 0) {
        best.0 = Loaded::Damaged;
    }
    best
}
