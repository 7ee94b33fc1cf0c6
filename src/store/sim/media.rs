//! What the simulated disk holds, as a value: every change of it is a value too, so that a recorded run can be done again
//! up to any point.
//!
//! Owns: [`Media`], [`Change`], [`Trace`], [`Replay`], and what a power cut may leave. Cheap to copy: contents are shared until
//! they change. Must not know: faults, handles, the store's formats.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{Dice, SimDisk};

/// A sector is written whole or not at all.
pub(super) const SECTOR: usize = 512;
/// What the kernel marks as clean or dirty.
const PAGE: usize = 4096;

/// A change of the disk. Files go by their number, as a handle does: it outlives the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    MakeDir(PathBuf),
    Create(PathBuf),
    Write {
        file: usize,
        at: usize,
        bytes: Bytes,
    },
    Grow {
        file: usize,
        len: usize,
    },
    SetLen {
        file: usize,
        len: usize,
    },
    Sync(usize),
    /// What was not synced is taken for written: later syncs answer `Ok` and leave it out, but for pages that are written
    /// again.
    FailedSync(usize),
    SyncDir(PathBuf),
    Remove(PathBuf),
    RemoveDir(PathBuf),
    Rename(PathBuf, PathBuf),
}

/// A change of a file that no sync has covered.
#[derive(Debug, Clone)]
enum Edit {
    Write { at: usize, bytes: Bytes },
    Grow(usize),
    SetLen(usize),
}

impl Edit {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => {
                content.resize(content.len().max(at + bytes.len()), 0);
                content[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Self::Grow(len) => content.resize(content.len().max(*len), 0),
            Self::SetLen(len) => content.resize(*len, 0),
        }
    }

    fn len_after(&self, before: usize) -> usize {
        match self {
            Self::Write { at, bytes } => before.max(at + bytes.len()),
            Self::Grow(len) => before.max(*len),
            Self::SetLen(len) => *len,
        }
    }

    /// Does it in those sectors only that `has` it; the length stays.
    fn apply_to_sectors(&self, image: &mut [u8], has: impl Fn(usize) -> bool) {
        let (range, bytes) = match self {
            Self::Write { at, bytes } => (*at..at + bytes.len(), Some(bytes)),
            Self::Grow(_) => return,
            // What is cut off reads as zero if the file grows again.
            Self::SetLen(len) => (*len..image.len(), None),
        };
        let mut at = range.start;
        while at < range.end {
            let end = (at / SECTOR + 1).saturating_mul(SECTOR).min(range.end);
            if has(at / SECTOR) {
                match bytes {
                    Some(b) => {
                        image[at..end].copy_from_slice(&b[at - range.start..end - range.start])
                    }
                    None => image[at..end].fill(0),
                }
            }
            at = end;
        }
    }
}

#[derive(Debug, Clone, Default)]
struct File {
    live: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    /// The way from `durable` to `live`.
    edits: Vec<Edit>,
    /// How many of `edits` the kernel takes for written, since a sync failed.
    given_up: usize,
}

impl File {
    fn edit(&mut self, edit: Edit) {
        edit.apply(Arc::make_mut(&mut self.live));
        self.edits.push(edit);
    }

    fn lose_power(&mut self, dice: &mut Dice) {
        let image = match dice.below(4) {
            _ if self.edits.is_empty() => Arc::clone(&self.live),
            0 => Arc::clone(&self.durable),
            1 if self.given_up == 0 => Arc::clone(&self.live),
            _ => Arc::new(self.torn(dice)),
        };
        *self = Self { live: Arc::clone(&image), durable: image, ..Self::default() };
    }

    fn sync(&mut self) {
        if self.given_up == 0 {
            self.edits.clear();
            self.durable = Arc::clone(&self.live);
            return;
        }
        let (dirty, len) = self.dirty_since_failure();
        let page_of = |at: usize| at..(at + PAGE).min(self.live.len());
        let mut image = self.durable.to_vec();
        image.resize(len, 0);
        let mut left = Vec::new();
        for at in (0..self.live.len()).step_by(PAGE) {
            let page = page_of(at);
            if dirty.contains(&(at / PAGE)) {
                let end = page.end.min(len);
                image[at..end].copy_from_slice(&self.live[at..end]);
            } else if image.get(page.clone()) != Some(&self.live[page.clone()]) {
                left.push(Edit::Write { at, bytes: Bytes::copy_from_slice(&self.live[page]) });
            }
        }
        if len != self.live.len() {
            left.push(Edit::SetLen(self.live.len()));
        }
        self.durable = Arc::new(image);
        self.given_up = left.len();
        self.edits = left;
    }

    /// The pages that were written again, and the length that a sync makes durable with them.
    fn dirty_since_failure(&self) -> (BTreeSet<usize>, usize) {
        let mut dirty = BTreeSet::new();
        let (mut len, mut is_len_dirty) = (self.durable.len(), false);
        for (i, edit) in self.edits.iter().enumerate() {
            let before = len;
            len = edit.len_after(before);
            if i < self.given_up {
                continue;
            }
            is_len_dirty |= len != before;
            if let Edit::Write { at, bytes } = edit
                && !bytes.is_empty()
            {
                dirty.extend(at / PAGE..=(at + bytes.len() - 1) / PAGE);
            }
        }
        if is_len_dirty {
            return (dirty, self.live.len());
        }
        let reach = dirty.last().map_or(0, |page| ((page + 1) * PAGE).min(self.live.len()));
        (dirty, self.durable.len().max(reach))
    }

    /// Each sector, and the length, as after any of the edits.
    fn torn(&self, dice: &mut Dice) -> Vec<u8> {
        let mut lens = vec![self.durable.len()];
        for edit in &self.edits {
            lens.push(edit.len_after(*lens.last().expect("it begins with one")));
        }
        let longest = lens.iter().copied().max().expect("it begins with one");
        let states = lens.len();
        let len = lens[dice.below(states)];
        let picks: Vec<usize> = (0..longest.div_ceil(SECTOR)).map(|_| dice.below(states)).collect();
        let mut image = self.durable.to_vec();
        image.resize(longest, 0);
        for (i, edit) in self.edits.iter().enumerate() {
            edit.apply_to_sectors(&mut image, |sector| picks[sector] > i);
        }
        image.truncate(len);
        image
    }
}

#[derive(Debug, Clone, Default)]
struct Dir {
    live: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
}

impl Dir {
    /// Each entry is as it was synced, or as it is.
    fn lose_power(&mut self, dice: &mut Dice) {
        let names: BTreeSet<String> =
            self.live.keys().chain(self.durable.keys()).cloned().collect();
        for name in names {
            let (new, old) = (self.live.get(&name).copied(), self.durable.get(&name).copied());
            if new == old {
                continue;
            }
            match if dice.below(2) == 0 { old } else { new } {
                Some(node) => self.live.insert(name, node),
                None => self.live.remove(&name),
            };
        }
        self.durable = self.live.clone();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    File(usize),
    Dir,
}

/// All files and folders.
#[derive(Debug, Clone)]
pub(super) struct Media {
    files: Vec<File>,
    dirs: BTreeMap<PathBuf, Dir>,
}

impl Default for Media {
    fn default() -> Self {
        Self { files: vec![], dirs: BTreeMap::from([(PathBuf::from("/"), Dir::default())]) }
    }
}

impl Media {
    pub(super) fn apply(&mut self, change: &Change) -> io::Result<()> {
        match change {
            Change::MakeDir(path) => {
                self.insert(path, Node::Dir)?;
                self.dirs.insert(path.clone(), Dir::default());
            }
            Change::Create(path) => {
                if self.entry(path)?.is_some() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                self.insert(path, Node::File(self.files.len()))?;
                self.files.push(File::default());
            }
            Change::Write { file, at, bytes } => {
                self.files[*file].edit(Edit::Write { at: *at, bytes: bytes.clone() });
            }
            Change::Grow { file, len } => self.files[*file].edit(Edit::Grow(*len)),
            Change::SetLen { file, len } => self.files[*file].edit(Edit::SetLen(*len)),
            Change::Sync(file) => self.files[*file].sync(),
            Change::FailedSync(file) => {
                let file = &mut self.files[*file];
                file.given_up = file.edits.len();
            }
            Change::SyncDir(path) => {
                let dir = self.dir(path)?;
                dir.durable = dir.live.clone();
            }
            Change::Remove(path) => {
                self.file(path)?;
                self.take(path)?;
            }
            Change::RemoveDir(path) => {
                if !self.dir(path)?.live.is_empty() {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                self.take(path)?;
                self.dirs.remove(path);
            }
            Change::Rename(from, to) => {
                let file = self.file(from)?;
                self.take(from)?;
                self.insert(to, Node::File(file))?;
            }
        }
        Ok(())
    }

    /// What was not synced is a matter of luck.
    pub(super) fn lose_power(&mut self, dice: &mut Dice) {
        for file in &mut self.files {
            file.lose_power(dice);
        }
        for dir in self.dirs.values_mut() {
            dir.lose_power(dice);
        }
        // A folder whose removal did not survive is there again, empty as it was.
        let listed = self.dirs.iter().flat_map(|(path, dir)| {
            let dirs = dir.live.iter().filter(|(_, node)| **node == Node::Dir);
            dirs.map(|(name, _)| path.join(name))
        });
        for path in listed.collect::<Vec<_>>() {
            self.dirs.entry(path).or_default();
        }
        let lost: Vec<PathBuf> =
            self.dirs.keys().filter(|path| !self.is_reachable(path)).cloned().collect();
        for path in lost {
            self.dirs.remove(&path);
        }
    }

    fn is_reachable(&self, path: &Path) -> bool {
        let Some(parent) = path.parent() else {
            return true;
        };
        let listed = self.dirs.get(parent).and_then(|dir| dir.live.get(&name_of(path)));
        listed == Some(&Node::Dir) && self.is_reachable(parent)
    }

    fn dir(&mut self, path: &Path) -> io::Result<&mut Dir> {
        self.dirs.get_mut(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn entry(&mut self, path: &Path) -> io::Result<Option<Node>> {
        Ok(self.dir(parent_of(path))?.live.get(&name_of(path)).copied())
    }

    fn insert(&mut self, path: &Path, node: Node) -> io::Result<()> {
        self.dir(parent_of(path))?.live.insert(name_of(path), node);
        Ok(())
    }

    fn take(&mut self, path: &Path) -> io::Result<()> {
        self.dir(parent_of(path))?.live.remove(&name_of(path));
        Ok(())
    }

    pub(super) fn file(&mut self, path: &Path) -> io::Result<usize> {
        match self.entry(path)? {
            Some(Node::File(file)) => Ok(file),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn has_dir(&self, path: &Path) -> bool {
        self.dirs.contains_key(path)
    }

    /// Names of a folder's entries, and which of them are folders.
    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        let dir = self.dirs.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(dir.live.iter().map(|(name, node)| (name.clone(), *node == Node::Dir)).collect())
    }

    pub(super) fn content(&self, file: usize) -> &[u8] {
        &self.files[file].live
    }

    /// Sets a file's bytes, durably.
    pub(super) fn set_content(&mut self, file: usize, bytes: Vec<u8>) {
        let bytes = Arc::new(bytes);
        self.files[file] = File { live: Arc::clone(&bytes), durable: bytes, ..File::default() };
    }

    /// Bytes of all files that have a name.
    pub(super) fn used(&self) -> usize {
        let entries = self.dirs.values().flat_map(|dir| dir.live.values());
        entries.map(|n| if let Node::File(f) = n { self.content(*f).len() } else { 0 }).sum()
    }

    /// Every file with its path, and every folder.
    pub(super) fn tree(&self) -> (Vec<PathBuf>, Vec<(PathBuf, &[u8])>) {
        let mut files = Vec::new();
        for (path, dir) in &self.dirs {
            for (name, node) in &dir.live {
                if let Node::File(file) = node {
                    files.push((path.join(name), self.content(*file)));
                }
            }
        }
        (self.dirs.keys().cloned().collect(), files)
    }
}

fn parent_of(path: &Path) -> &Path {
    path.parent().expect("the store names no file at the root's place")
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().and_then(std::ffi::OsStr::to_str);
    name.expect("the store's names are plain text").to_owned()
}

/// What happened to a disk since recording began.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    pub(super) base: Media,
    pub(super) changes: Vec<Change>,
}

impl Trace {
    /// How many changes there are.
    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Does it again, from the beginning.
    pub(crate) fn replay(&self) -> Replay<'_> {
        Replay { changes: &self.changes, done: 0, media: self.base.clone() }
    }
}

/// A disk on the way through a [`Trace`].
pub(crate) struct Replay<'a> {
    changes: &'a [Change],
    done: usize,
    media: Media,
}

impl Replay<'_> {
    /// Does the changes up to the first `done` of them.
    pub(crate) fn go_to(&mut self, done: usize) {
        for change in &self.changes[self.done..done] {
            self.media.apply(change).expect("it was done before, from the same state");
        }
        self.done = done;
    }

    /// The power goes here: a disk of its own with what that may leave.
    pub(crate) fn cut(&self, seed: u64) -> SimDisk {
        let mut media = self.media.clone();
        media.lose_power(&mut Dice(seed));
        SimDisk::of(media)
    }
}
