//! Every byte of a store, checked: what is damaged, where, and what that costs.
//!
//! Owns: [`Finding`] and the judgement, which is that of a start ([`crate::store::survey`]): a missing record is damage if
//! something proves that it had been durable, else a crash tore it before it was acknowledged.
//! Invariant: findings are told as they are made, so memory does not grow with damage. Must not know: who is told.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{Content, Inspector, Listing};
use crate::store::OpenError;
use crate::store::checkpoint::{self, State};
use crate::store::disk::{Mode, read_all};
use crate::store::id::QueueId;
use crate::store::segment::{HEADER_BYTES, Key};
use crate::store::slots;

/// One thing that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The queue; `None`: its name is not known any more.
    pub queue: Option<QueueId>,
    /// The file or folder; `None`: a whole file is missing.
    pub file: Option<PathBuf>,
    /// The bytes of the file.
    pub positions: Range<u64>,
    /// Offsets that are not settled and are touched; empty: none is.
    pub offsets: Range<u64>,
    /// What it is.
    pub what: What,
}

/// What a [`Finding`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Bytes that are no record, where records were; or records that had been durable and are not there.
    Damaged,
    /// The end of what a crash left half written: nothing proves that it was ever acknowledged.
    Torn,
    /// A sealed segment has this many records fewer (or more) than its seal says, without a byte that is damaged.
    Seal {
        /// By the seal.
        sealed: u64,
        /// In the file.
        found: u64,
    },
    /// The segment's header is damaged. Its records are not.
    Header,
    /// No slot of the checkpoint is whole, or it is missing: what is still there will be delivered again.
    Checkpoint,
    /// One slot of the checkpoint is not whole; the other one is. A crash leaves this, too.
    CheckpointSlot,
    /// A queue's folder has records, but no copy of the queue's name is whole: whose they are is not known.
    Nameless,
    /// Written by a newer program, in this format.
    Newer(u16),
    /// The medium refuses, with these words.
    Unreadable(String),
}

impl What {
    /// Whether it is what a crash leaves behind, not damage.
    pub fn is_harmless(&self) -> bool {
        matches!(self, Self::Torn | Self::CheckpointSlot)
    }
}

/// What was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verified {
    /// Queues.
    pub queues: u64,
    /// Segment files that were read.
    pub segments: u64,
    /// Intact records, settled ones in files that are still there included.
    pub records: u64,
    /// Bytes of those files.
    pub bytes: u64,
}

/// One queue under examination.
pub(super) struct Examined<'a> {
    pub(super) id: &'a QueueId,
    /// Everything below is settled.
    pub(super) settled: u64,
    pub(super) tell: &'a mut dyn FnMut(Finding),
}

impl Examined<'_> {
    fn tell(&mut self, file: &Path, positions: Range<u64>, offsets: Range<u64>, what: What) {
        let unsettled = offsets.start.max(self.settled)..offsets.end;
        let offsets = if unsettled.is_empty() { 0..0 } else { unsettled };
        let queue = Some(self.id.clone());
        (self.tell)(Finding { queue, file: Some(file.to_path_buf()), positions, offsets, what });
    }

    /// Offsets of which no file is left.
    fn missing(&mut self, offsets: Range<u64>) {
        let queue = Some(self.id.clone());
        (self.tell)(Finding { queue, file: None, positions: 0..0, offsets, what: What::Damaged });
    }
}

impl Inspector {
    /// Reads every byte of every segment and checkpoint, and tells what is not as it was written.
    ///
    /// # Errors
    /// The store's folder itself cannot be read. What a single file refuses is a [`Finding`].
    pub fn verify(&self, tell: &mut dyn FnMut(Finding)) -> Result<Verified, OpenError> {
        let mut verified = Verified::default();
        for folder in self.nameless()? {
            let (file, what) = (Some(folder), What::Nameless);
            tell(Finding { queue: None, file, positions: 0..0, offsets: 0..0, what });
        }
        for id in self.queues()? {
            let folder = self.folder_of(&id);
            let mut examined = Examined { id: &id, settled: 0, tell: &mut *tell };
            verified.queues += 1;
            self.verify_checkpoint(&folder, &mut examined);
            match self.listing(&folder) {
                Ok(Some(listing)) => self.verify_queue(listing, &mut examined, &mut verified),
                Ok(None) => verified.queues -= 1,
                Err(error) => tell_error(&mut examined, &folder, error),
            }
        }
        Ok(verified)
    }

    fn verify_checkpoint(&self, folder: &Path, examined: &mut Examined<'_>) {
        let path = folder.join(checkpoint::FILE_NAME);
        let read = || self.disk.open(&path, Mode::Read).and_then(|file| read_all(&*file));
        let (Ok(bytes), Ok(again)) = (read(), read()) else {
            // Told by `verify_queue`, if there are segments that need it.
            return;
        };
        // A slot that is being written may be seen in part.
        let again = slots::torn::<State>(&again);
        let torn = slots::torn::<State>(&bytes).into_iter().filter(|at| again.contains(at));
        // If none is whole `verify_queue` tells.
        if matches!(self.checkpoint(folder), Ok(Some(_))) {
            torn.for_each(|at| examined.tell(&path, at, 0..0, What::CheckpointSlot));
        }
    }

    fn verify_queue(&self, listing: Listing, examined: &mut Examined<'_>, verified: &mut Verified) {
        let mut walk = Walk::of(&listing);
        examined.settled = walk.expected;
        if listing.before.is_none() && !listing.segments.is_empty() {
            let path = listing.folder.join(checkpoint::FILE_NAME);
            let size = self.size(&path).ok().flatten().unwrap_or(0);
            examined.tell(&path, 0..size, 0..0, What::Checkpoint);
        }
        for (key, upper) in listing.segments {
            let path = listing.folder.join(key.file_name());
            match self.content(&path, key, upper) {
                Ok(Some(content)) => {
                    verified.segments += 1;
                    verified.records += content.scan.records.len() as u64;
                    verified.bytes += content.bytes.len() as u64;
                    walk.segment(examined, &path, &content, upper);
                }
                Ok(None) => {
                    let now = self.settled_now(&listing.folder);
                    examined.settled = examined.settled.max(now);
                    walk.vanished(key, upper, now);
                }
                Err(error) => {
                    tell_error(examined, &path, error);
                    walk.unread(upper);
                }
            }
        }
        walk.end(examined);
    }

    /// What the checkpoint says by now of what is settled.
    pub(super) fn settled_now(&self, folder: &Path) -> u64 {
        self.checkpoint(folder).ok().flatten().map_or(0, |state| state.settled_below.0)
    }
}

fn tell_error(examined: &mut Examined<'_>, path: &Path, error: OpenError) {
    match error {
        OpenError::NewerFormat { path, found, .. } => {
            examined.tell(&path, 0..HEADER_BYTES, 0..0, What::Newer(found));
        }
        OpenError::Io { path, source } => {
            examined.tell(&path, 0..0, 0..0, What::Unreadable(source.to_string()));
        }
        OpenError::Locked(_) => {
            examined.tell(path, 0..0, 0..0, What::Unreadable(error.to_string()));
        }
    }
}

/// The way through a queue's segments.
pub(super) struct Walk {
    /// The lowest offset of which nothing is known yet.
    pub(super) expected: u64,
    /// The checkpoint says that everything below had been durable.
    proof: u64,
    /// What lies behind the records of the segment before, if that one has no seal: its file, and which bytes. Whether it is
    /// torn or damaged shows when it is known what follows.
    open_tail: Option<(PathBuf, Range<u64>)>,
}

impl Walk {
    /// At the settled place or, if that is not known, at the first segment.
    pub(super) fn of(listing: &Listing) -> Self {
        let first = listing.segments.front().map(|(key, _)| key.first.0);
        let expected = match listing.before {
            None => first.unwrap_or(0).max(listing.settled.0),
            Some(_) => listing.settled.0,
        };
        let before = listing.before.unwrap_or_default();
        let proof = before.durable_below.max(before.settled_below).0;
        Self { expected, proof, open_tail: None }
    }

    pub(super) fn segment(
        &mut self,
        examined: &mut Examined<'_>,
        path: &Path,
        content: &Content,
        upper: u64,
    ) {
        let proof = self.proof;
        let first = content.key.first.0;
        // A segment begins where everything below was durable: that is proof.
        self.close(examined, first);
        self.expected = self.expected.max(first);
        match content.seal {
            Some(_) => sealed(examined, path, content),
            None => {
                let later = if upper == u64::MAX { 0 } else { upper };
                let own = content.scan.records.iter().map(|p| p.found.head.durable_below.0).max();
                let proof = proof.max(later).max(own.unwrap_or(0));
                open(examined, path, content, proof);
                let (end, tail) = (content.scan.data_end as u64, content.scan.tail_bytes);
                self.open_tail = Some((path.to_path_buf(), end..end + tail));
            }
        }
        if content.header.is_none() && !content.scan.records.is_empty() {
            examined.tell(path, 0..HEADER_BYTES, 0..0, What::Header);
        }
        self.expected = self.expected.max(content.next());
    }

    /// Everything below `proof` had been durable: what is missing up to there is damage.
    fn close(&mut self, examined: &mut Examined<'_>, proof: u64) {
        let missing = self.expected.max(examined.settled)..proof;
        match (self.open_tail.take(), missing.is_empty()) {
            (Some((path, tail)), false) => examined.tell(&path, tail, missing, What::Damaged),
            (Some((path, tail)), true) if !tail.is_empty() => {
                examined.tell(&path, tail, 0..0, What::Torn);
            }
            (None, false) => examined.missing(missing),
            _ => {}
        }
        self.expected = self.expected.max(proof);
    }

    /// It was settled since it was listed: the checkpoint, which says `now`, was durable before.
    pub(super) fn vanished(&mut self, key: Key, upper: u64, now: u64) {
        let after = if upper == u64::MAX { key.first.0 } else { upper };
        self.expected = self.expected.max(now).max(after);
    }

    /// What it holds is not known.
    fn unread(&mut self, upper: u64) {
        self.expected = if upper == u64::MAX { self.proof } else { upper };
    }

    /// Behind the last segment.
    pub(super) fn end(&mut self, examined: &mut Examined<'_>) {
        self.close(examined, self.proof);
    }
}

/// A seal was written behind records that were durable: whatever is not one of them is damage.
fn sealed(examined: &mut Examined<'_>, path: &Path, content: &Content) {
    let Some(seal) = content.seal else { return };
    let mut is_damaged = false;
    for gap in content.gaps().into_iter().filter(|gap| !gap.positions.is_empty()) {
        is_damaged = true;
        examined.tell(path, gap.positions, gap.offsets, What::Damaged);
    }
    let found = content.scan.records.len() as u64;
    if !is_damaged && found != seal.records {
        let positions = HEADER_BYTES..seal.data_end;
        examined.tell(path, positions, 0..0, What::Seal { sealed: seal.records, found });
    }
}

/// Without a seal it depends on what is proven.
fn open(examined: &mut Examined<'_>, path: &Path, content: &Content, proof: u64) {
    for gap in content.gaps() {
        let (lost, torn) = (gap.offsets.start..gap.offsets.end.min(proof), gap.offsets.clone());
        if lost.is_empty() {
            examined.tell(path, gap.positions, torn, What::Torn);
        } else {
            examined.tell(path, gap.positions, lost, What::Damaged);
        }
    }
}
