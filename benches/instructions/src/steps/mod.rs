//! The steps of the path, each with an input that is made before and is the same however many messages are then served.
//!
//! Owns: which steps there are, and [`counted_part`]. Must not know: valgrind's output.

mod gated;
mod ingest;
mod memory;
mod outgoing;
mod stored;

use anyhow::Result;
use clap::ValueEnum;
use tokio::runtime::Runtime;

use crate::shape::Shape;

/// Most messages that a run may serve: all runs prepare as many, so that preparing costs the same in all.
pub(crate) const MESSAGES_MAX: usize = 6_000;

/// A step of a message's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    Decode,
    Session,
    Prepare,
    Store,
    Read,
    Pump,
    Pack,
}

impl Step {
    pub(crate) const ALL: [Self; 7] = [
        Self::Decode,
        Self::Session,
        Self::Prepare,
        Self::Store,
        Self::Read,
        Self::Pump,
        Self::Pack,
    ];

    /// As the table and the command line call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Session => "session",
            Self::Prepare => "prepare",
            Self::Store => "store",
            Self::Read => "read",
            Self::Pump => "pump",
            Self::Pack => "pack",
        }
    }

    /// Whether threads of the gateway take part, so that all of the process has to be counted.
    pub(crate) fn is_threaded(self) -> bool {
        matches!(self, Self::Store | Self::Read)
    }

    /// Serves `count` messages.
    pub(crate) fn run(self, shape: Shape, count: usize) -> Result<()> {
        match self {
            Self::Decode => ingest::decode(shape, count),
            Self::Session => ingest::session(shape, count),
            Self::Prepare => ingest::prepare(shape, count),
            Self::Store => stored::append(shape, count),
            Self::Read => stored::read(shape, count),
            Self::Pump => outgoing::pump(shape, count),
            Self::Pack => outgoing::pack(shape, count),
        }
    }
}

/// What happens in here is counted, and nothing else: the driver names this function to callgrind.
#[inline(never)]
pub(crate) fn counted_part(work: &mut dyn FnMut()) {
    work();
    // Not a tail call, or the function would end before its work begins.
    std::hint::black_box(());
}

/// One thread, as little as possible.
fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_time().build()?)
}
