//! Repair of one segment at start.
//!
//! Owns: the rewriting and the sealing of segments that a crash or damage left without a seal.
//! Invariant: an original that lost records is never changed before a copy of it is durable. Must not know: how it was
//! judged what is lost.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use super::active::seal_of;
use super::age::StoreMillis;
use super::disk::{DiskFile, Mode, Unwritten, is_full, read_all, write_atomically};
use super::engine::Tools;
use super::error::at;
use super::id::Offset;
use super::index::SegmentMeta;
use super::record::{ALIGN, Blank, HEADER_BYTES};
use super::segment::{Header, SEAL_BYTES, Scan};
use super::survey::Survey;
use super::{OpenError, RecoveryReport, quarantine};

/// Seals a segment that ends at `next`, without its damage; `None`: nothing in it, it is gone.
pub(super) fn repair(
    tools: &Tools,
    folder: &Path,
    survey: &Survey,
    next: Offset,
    report: &mut RecoveryReport,
) -> Result<Option<SegmentMeta>, OpenError> {
    let mut meta = survey.meta;
    let path = folder.join(meta.key.file_name());
    if survey.unreadable {
        report.quarantined.push(quarantine::set_aside(tools, &path).map_err(at(&path))?);
        return Ok(None);
    }
    if survey.sealed && meta.next == next {
        return Ok(Some(meta));
    }
    let kept_aside = !survey.sealed && survey.lost && quarantine(tools, &path, survey, report)?;
    if meta.records == 0 && !survey.is_tombstone() {
        if !survey.lost || kept_aside || survey.tail_bytes == 0 {
            tools.disk.remove_file(&path).map_err(at(&path))?;
        }
        return Ok(None);
    }
    meta.next = next;
    // Without a copy the damaged bytes stay: readers find their way past them.
    let is_damaged = survey.bad_bytes > 0 || survey.salvaged.is_some();
    if is_damaged && (kept_aside || !survey.lost) {
        match rewrite(tools, &path, survey, &meta) {
            Ok(clean) => return Ok(Some(clean)),
            Err(Unwritten::Before(error)) if is_full(&error) => {
                tracing::warn!(path = %path.display(), "no room to rewrite a damaged segment");
                if survey.salvaged.is_none() {
                    blank_out(tools, &path, &meta)
                        .or_else(|error| if is_full(&error) { Ok(()) } else { Err(error) })
                        .map_err(at(&path))?;
                }
            }
            Err(unwritten) => return Err(at(&path)(unwritten.into())),
        }
    }
    if survey.salvaged.is_some() {
        // A block that cannot be read cannot be written in part either: it is scanned again next time.
        tracing::warn!(path = %path.display(), "a segment stays as it is although the medium refuses a part of it");
        return Ok(Some(meta));
    }
    seal_in_place(tools, &path, survey, &meta).map_err(at(&path))?;
    Ok(Some(meta))
}

fn seal_in_place(
    tools: &Tools,
    path: &Path,
    survey: &Survey,
    meta: &SegmentMeta,
) -> io::Result<()> {
    let file = tools.disk.open(path, Mode::Write)?;
    let sealed = match survey.sealed {
        true => Ok(()),
        false => write_again(&*file, meta.data_end),
    };
    match sealed.and_then(|()| put_seal(&*file, meta)) {
        // A full volume must not keep the gateway from starting: it is scanned again next time.
        Err(error) if is_full(&error) => {
            tracing::warn!(path = %path.display(), "no room to seal a recovered segment");
        }
        other => other?,
    }
    file.sync_data().inspect_err(|_| {
        // The next start must not believe a seal that is in the page cache only: best effort, as the disk fails.
        let _ = match survey.sealed {
            true => put_seal(&*file, &survey.meta),
            false => file.set_len(meta.data_end),
        };
    })
}

/// The page cache may hold what a process before this one could not sync: the kernel takes that for written, unless it
/// is written again.
fn write_again(file: &dyn DiskFile, len: u64) -> io::Result<()> {
    let mut bytes = read_all(file)?;
    bytes.truncate(usize::try_from(len).map_err(io::Error::other)?);
    file.write_at(&bytes, 0)
}

fn put_seal(file: &dyn DiskFile, meta: &SegmentMeta) -> io::Result<()> {
    file.set_len(meta.data_end + SEAL_BYTES)?;
    file.write_at(&seal_of(meta).encode(meta.key), meta.data_end)
}

/// Leaves a [`Blank`] in every gap, durably: what is missing there is judged, so nobody takes it for a loss later. It needs no
/// room, and changes bytes only that are no record's.
fn blank_out(tools: &Tools, path: &Path, meta: &SegmentMeta) -> io::Result<()> {
    let file = tools.disk.open(path, Mode::Write)?;
    let scan = Scan::of(&read_all(&*file)?, meta.key, meta.key.first.0..meta.next.0);
    let blanks = scan.gaps.into_iter().filter_map(|gap| {
        let size = usize::try_from(gap.positions.end - gap.positions.start).ok()?;
        let fits = size >= HEADER_BYTES && !gap.offsets.is_empty();
        fits.then_some((gap.positions.start, Blank { size, offsets: gap.offsets }))
    });
    for (position, blank) in blanks {
        file.write_at(&blank.encode(meta.key.salt), position)?;
    }
    file.sync_data()
}

/// Replaces a segment by one that holds its intact records only.
fn rewrite(
    tools: &Tools,
    path: &Path,
    survey: &Survey,
    meta: &SegmentMeta,
) -> Result<SegmentMeta, Unwritten> {
    let bytes = bytes_of(tools, path, survey).map_err(Unwritten::Before)?;
    let scan = Scan::of(&bytes, meta.key, meta.key.first.0..meta.next.0);
    let created = survey.header.map_or(StoreMillis::default(), |header| header.created);
    let header = Header { version: meta.version, created };
    let mut clean = header.encode(meta.key).to_vec();
    for placed in &scan.records {
        let size = placed.found.size();
        let bytes = &bytes[placed.at..];
        clean.extend_from_slice(&bytes[..size.min(bytes.len())]);
        // The file may end before the last record's padding does.
        clean.resize(clean.len().next_multiple_of(ALIGN), 0);
    }
    let meta = SegmentMeta { data_end: clean.len() as u64, ..*meta };
    clean.extend_from_slice(&seal_of(&meta).encode(meta.key));
    write_atomically(&*tools.disk, path, &clean).map(|()| meta)
}

/// What was judged: of a segment that the medium refuses a part of, another read might give less.
fn bytes_of<'a>(tools: &Tools, path: &Path, survey: &'a Survey) -> io::Result<Cow<'a, [u8]>> {
    match &survey.salvaged {
        Some(bytes) => Ok(Cow::Borrowed(bytes)),
        None => tools.disk.open(path, Mode::Read).and_then(|file| read_all(&*file)).map(Cow::Owned),
    }
}

/// Copies a damaged segment aside, durably; `false` if there is no room for that.
fn quarantine(
    tools: &Tools,
    path: &Path,
    survey: &Survey,
    report: &mut RecoveryReport,
) -> Result<bool, OpenError> {
    let bytes = bytes_of(tools, path, survey).map_err(at(path))?;
    let copy = quarantine::copy(tools, path, &bytes).map_err(at(path))?;
    let copied = copy.is_some();
    report.quarantined.extend(copy);
    Ok(copied)
}
