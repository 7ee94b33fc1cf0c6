//! The records of a queue that wait, one after the other, with what is missing between them.
//!
//! Owns: [`Pending`]. Invariants: one segment at a time is in memory; what counts as missing is what [`verify`](super::verify)
//! counts, by the same walk. Must not know: what a payload is.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::verify::{Examined, Finding, Walk};
use super::{Content, Held, Inspector};
use crate::store::OpenError;
use crate::store::id::{Offset, QueueId};
use crate::store::segment::Key;

/// What the next place of a queue holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A record.
    Held(Held),
    /// Damaged bytes where these offsets were.
    Lost(Range<Offset>),
}

impl Inspector {
    /// The records of a queue that wait, and what is missing between and behind them, in order; judged as by
    /// [`Inspector::verify`].
    ///
    /// # Errors
    /// As [`Inspector::list`], also of each step.
    pub fn pending(&self, id: &QueueId) -> Result<Pending, OpenError> {
        let listing = self.listing(&self.folder_of(id))?;
        let walk = listing.as_ref().map(Walk::of);
        let (folder, segments, from) = match listing {
            Some(listing) => (listing.folder, listing.segments, listing.settled),
            None => (PathBuf::new(), VecDeque::new(), Offset(0)),
        };
        let inspector = Self { disk: Arc::clone(&self.disk), dir: self.dir.clone() };
        let (id, ready) = (id.clone(), VecDeque::new());
        Ok(Pending { inspector, id, folder, segments, from, walk, ready, current: None })
    }
}

/// The records of a queue that wait, in order; see [`Inspector::pending`].
pub struct Pending {
    inspector: Inspector,
    id: QueueId,
    folder: PathBuf,
    segments: VecDeque<(Key, u64)>,
    /// Everything below is settled.
    from: Offset,
    /// `None`: the end was reached.
    walk: Option<Walk>,
    /// What the current segment holds, in order.
    ready: VecDeque<Place>,
    current: Option<Content>,
}

enum Place {
    Record(usize),
    Lost(Range<Offset>),
}

impl Pending {
    /// Takes the next segment, or what is missing behind the last one; `false`: there is nothing more.
    fn advance(&mut self) -> Result<bool, OpenError> {
        // First of all: the next one takes the memory of this one.
        self.current = None;
        let Some(walk) = &mut self.walk else { return Ok(false) };
        let mut lost = Vec::new();
        let mut note = |finding: Finding| {
            if !finding.what.is_harmless() && !finding.offsets.is_empty() {
                lost.push(finding.offsets);
            }
        };
        let mut examined = Examined { id: &self.id, settled: self.from.0, tell: &mut note };
        let Some((key, upper)) = self.segments.pop_front() else {
            walk.end(&mut examined);
            self.walk = None;
            self.ready = lost.into_iter().map(Place::lost).collect();
            return Ok(true);
        };
        if upper <= self.from.0 {
            return Ok(true);
        }
        let path = self.folder.join(key.file_name());
        match self.inspector.content(&path, key, upper)? {
            Some(content) => {
                walk.segment(&mut examined, &path, &content, upper);
                self.ready = places(&content, self.from, lost);
                self.current = Some(content);
            }
            None => {
                let now = self.inspector.settled_now(&self.folder);
                self.from = self.from.max(Offset(now));
                walk.vanished(key, upper, now);
            }
        }
        Ok(true)
    }
}

impl Place {
    fn lost(range: Range<u64>) -> Self {
        Self::Lost(Offset(range.start)..Offset(range.end))
    }
}

/// What `content` holds from `from` on, with what is missing before and in it, in order.
fn places(content: &Content, from: Offset, mut lost: Vec<Range<u64>>) -> VecDeque<Place> {
    lost.sort_unstable_by_key(|range| range.start);
    let mut lost = lost.into_iter().peekable();
    let mut places = VecDeque::new();
    for i in content.first_at(from)..content.scan.records.len() {
        let offset = content.head(i).offset.0;
        while let Some(range) = lost.next_if(|range| range.start < offset) {
            places.push_back(Place::lost(range));
        }
        places.push_back(Place::Record(i));
    }
    places.extend(lost.map(Place::lost));
    places
}

impl Iterator for Pending {
    type Item = Result<Next, OpenError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match (self.ready.pop_front(), &self.current) {
                (Some(Place::Record(i)), Some(content)) => {
                    return Some(Ok(Next::Held(content.held(i))));
                }
                (Some(Place::Lost(range)), _) => return Some(Ok(Next::Lost(range))),
                _ => match self.advance() {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(error) => return Some(Err(error)),
                },
            }
        }
    }
}
