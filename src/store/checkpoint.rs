//! The checkpoint file of a queue: below which offset everything is settled.
//!
//! Owns: [`State`], the content of the file `checkpoint`; how it is kept is [`super::slots`]' business. Must not know:
//! segments.

use std::io;

use super::id::Offset;
use super::slots::{self, Content, Slots};

/// The file's name in the queue's folder.
pub(super) const FILE_NAME: &str = "checkpoint";

/// What a checkpoint says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct State {
    /// Everything below is settled: delivered, or dropped on purpose.
    pub(super) settled_below: Offset,
    /// Everything below was durable when this was written: proof for recovery, and the floor of new offsets.
    pub(super) durable_below: Offset,
}

impl Content for State {
    const FILE_NAME: &'static str = FILE_NAME;
    const MAGIC: &'static [u8; 8] = b"SGW-CKP\n";

    fn words(&self) -> [u64; 2] {
        [self.settled_below.0, self.durable_below.0]
    }

    fn of(words: [u64; 2]) -> Self {
        Self { settled_below: Offset(words[0]), durable_below: Offset(words[1]) }
    }
}

/// The open file.
pub(super) type Checkpoint = Slots<State>;

/// What the file says at start.
pub(super) type Loaded = slots::Loaded<State>;

impl Checkpoint {
    /// Writes a new state; it outlives this process, not yet a power cut.
    pub(super) fn write(&mut self, settled: Offset, durable: Offset) -> io::Result<()> {
        self.put(State { settled_below: settled, durable_below: durable })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::disk::{Disk, Mode, read_all};
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
