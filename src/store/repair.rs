//! Repair of one segment at start.
//!
//! Owns: the copy aside, the rewriting and the sealing of segments that a crash or damage left without a seal.
//! Invariant: an original that lost records is never changed before a copy of it is durable. Must not know: how it was
//! judged what is lost.

use std::io;
use std::path::Path;

use super::active::seal_of;
use super::disk::{Mode, is_full, read_all, write_atomically};
use super::engine::Tools;
use super::error::at;
use super::id::Offset;
use super::queue::SegmentMeta;
use super::record::ALIGN;
use super::segment::{self, SEAL_BYTES, Scan};
use super::survey::Survey;
use super::{OpenError, RecoveryReport};

/// The folder of the copies, in the store's folder.
pub(super) const QUARANTINE: &str = "quarantine";

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
    if survey.sealed && meta.next == next {
        return Ok(Some(meta));
    }
    let kept_aside = !survey.sealed && survey.lost && quarantine(tools, &path, report)?;
    if meta.records == 0 {
        if !survey.lost || kept_aside || survey.tail_bytes == 0 {
            tools.disk.remove_file(&path).map_err(at(&path))?;
        }
        return Ok(None);
    }
    meta.next = next;
    // Without a copy the damaged bytes stay: readers find their way past them.
    if survey.bad_bytes > 0 && (kept_aside || !survey.lost) {
        match rewrite(tools, &path, &meta) {
            Ok(clean) => return Ok(Some(clean)),
            Err(error) if is_full(&error) => {
                tracing::warn!(path = %path.display(), "no room to rewrite a damaged segment");
            }
            Err(error) => return Err(at(&path)(error)),
        }
    }
    seal_in_place(tools, &path, &meta).map_err(at(&path))?;
    Ok(Some(meta))
}

fn seal_in_place(tools: &Tools, path: &Path, meta: &SegmentMeta) -> io::Result<()> {
    let file = tools.disk.open(path, Mode::Write)?;
    let seal = seal_of(meta).encode(meta.key);
    let sealed =
        file.set_len(meta.data_end + SEAL_BYTES).and_then(|()| file.write_at(&seal, meta.data_end));
    match sealed {
        // A full volume must not keep the gateway from starting: it is scanned again next time.
        Err(error) if is_full(&error) => {
            tracing::warn!(path = %path.display(), "no room to seal a recovered segment");
        }
        other => other?,
    }
    file.sync_data()
}

/// Replaces a segment by one that holds its intact records only.
fn rewrite(tools: &Tools, path: &Path, meta: &SegmentMeta) -> io::Result<SegmentMeta> {
    let bytes = read_all(&*tools.disk.open(path, Mode::Read)?)?;
    let scan = Scan::of(&bytes, meta.key, meta.key.first.0..meta.next.0);
    let mut clean = segment::header(meta.key, tools.clock.wall()).to_vec();
    for placed in &scan.records {
        let size = placed.found.size();
        let bytes = &bytes[placed.at..];
        clean.extend_from_slice(&bytes[..size.min(bytes.len())]);
        // The file may end before the last record's padding does.
        clean.resize(clean.len().next_multiple_of(ALIGN), 0);
    }
    let meta = SegmentMeta { data_end: clean.len() as u64, ..*meta };
    clean.extend_from_slice(&seal_of(&meta).encode(meta.key));
    write_atomically(&*tools.disk, path, &clean)?;
    Ok(meta)
}

/// Copies a damaged segment aside, durably; `false` if there is no room for that.
fn quarantine(tools: &Tools, path: &Path, report: &mut RecoveryReport) -> Result<bool, OpenError> {
    let name = |path: Option<&Path>| -> String {
        path.and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let (queue, file) = (name(path.parent()), name(Some(path)));
    let now = tools.clock.wall().0;
    let target = tools.config.dir.join(QUARANTINE).join(format!("{queue}--{file}-{now}"));
    let copied = tools
        .disk
        .open(path, Mode::Read)
        .and_then(|original| read_all(&*original))
        .and_then(|bytes| write_atomically(&*tools.disk, &target, &bytes));
    match copied {
        Ok(()) => {
            report.quarantined.push(target);
            Ok(true)
        }
        Err(error) if is_full(&error) => {
            tracing::warn!(path = %path.display(), "no room to copy a damaged segment aside");
            Ok(false)
        }
        Err(error) => Err(at(&target)(error)),
    }
}
