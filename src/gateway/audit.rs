//! The audit log: every decision about who may come in, one JSON object a line, in the storage folder.
//!
//! ```text
//! {"at":"2026-03-01T12:00:00Z","stage":"connect","peer":"192.0.2.7:4711","claim":"dev1","outcome":"admitted",
//!  "identity":"dev1","method":"certificate_authority","certificate":{"subject":"CN=dev1",...}}
//! {"at":...,"stage":"tls","peer":...,"claim":null,"outcome":"refused","reason":"timeout","detail":"...",
//!  "since":...,"times":40,"certificate":null}
//! ```
//!
//! Owns: `audit.jsonl` and its predecessor `audit.jsonl.1`. Invariants:
//! - Both together have at most the bytes that were set: at half of them the file becomes the predecessor.
//! - Lines are only appended; a line that a crash or a full disk cut off is ended before the next one.
//! - A decision waits for nothing: it goes into a bounded channel; what finds no room there is dropped and counted.
//! - Who is turned away in masses is counted and has a line a minute ([`crowd`]): cheap connects push nobody out.
//! - A disk that refuses costs lines, a counter and one warning, never more.
//! - Readable by the owner alone. No token, password or key is in it.
//!
//! Lines are handed to the kernel as they come and synced to the disk at rotation and at the end: a power cut can cost the
//! last seconds, a crash the last minute of what is counted. Must not know: why something was decided.

mod crowd;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::crowd::{Crowd, Fate, Likes};
use crate::auth::decision::{CertificateRecord, Decision, Outcome, RefusalRecord};
use crate::auth::x509;
use crate::clock::SharedClock;
use crate::metrics::Metrics;

/// The file in the storage folder.
pub(super) const FILE: &str = "audit.jsonl";

/// Lines that may wait for the disk: of at most 3 KiB each 6 MiB, usually 1 MiB. A thousand devices that come back at once
/// fit.
const WAITING_MAX: usize = 2048;

/// Lines that are written with one call.
const BATCH_MAX: usize = 256;

/// How often it is looked whether something that was counted is to be written.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// One line.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    at: String,
    stage: &'a str,
    peer: Option<String>,
    claim: Option<String>,
    outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Of several: when the first was.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// For how many the line stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<u64>,
    certificate: Option<CertificateRecord>,
}

impl Line<'_> {
    fn to_text(&self) -> String {
        let mut text = serde_json::to_string(self).expect("texts and numbers are JSON");
        text.push('\n');
        text
    }
}

fn line(decision: &Decision) -> Line<'_> {
    let mut line = Line {
        at: x509::utc(decision.at),
        stage: decision.stage.label(),
        peer: decision.peer.map(|peer| peer.to_string()),
        claim: decision.claim.as_ref().map(ToString::to_string),
        outcome: "refused",
        identity: None,
        method: None,
        reason: None,
        detail: None,
        since: None,
        times: None,
        certificate: decision.certificate.as_deref().map(Into::into),
    };
    match &decision.outcome {
        Outcome::Admitted { identity, method } => {
            line.outcome = "admitted";
            (line.identity, line.method) = (Some(identity.to_string()), Some(*method));
        }
        Outcome::Refused { .. } => {
            let record = RefusalRecord::of(decision);
            (line.reason, line.detail) = record.map(|r| (r.reason, r.detail)).unzip();
        }
    }
    line
}

/// With the details of the last of them; those of several sources have none in common.
fn line_of(Likes { last, since, times, is_others }: &Likes) -> String {
    let line = Line { since: Some(x509::utc(*since)), times: Some(*times), ..line(last) };
    if !is_others {
        return line.to_text();
    }
    let detail = Some("others, for whom there was no line of their own".to_owned());
    Line { peer: None, detail, certificate: None, ..line }.to_text()
}

/// The way in. Cheap; never waits.
pub(super) struct AuditLog {
    lines: mpsc::Sender<String>,
    crowd: Arc<Mutex<Crowd>>,
    clock: SharedClock,
    metrics: Arc<Metrics>,
}

/// The way out: to be run.
pub(super) struct AuditWriter {
    lines: mpsc::Receiver<String>,
    crowd: Arc<Mutex<Crowd>>,
    clock: SharedClock,
    file: AuditFile,
    metrics: Arc<Metrics>,
    /// Whether the last write failed: one warning until one succeeds.
    failing: bool,
}

/// An audit log in `folder` of at most `bytes_max` bytes.
pub(super) fn open(
    folder: &Path,
    bytes_max: u64,
    clock: &SharedClock,
    metrics: &Arc<Metrics>,
) -> (AuditLog, AuditWriter) {
    let (sender, lines) = mpsc::channel(WAITING_MAX);
    let crowd = Arc::<Mutex<Crowd>>::default();
    let log = AuditLog {
        lines: sender,
        crowd: Arc::clone(&crowd),
        clock: Arc::clone(clock),
        metrics: Arc::clone(metrics),
    };
    let file = AuditFile::new(folder.join(FILE), bytes_max);
    let (clock, metrics) = (Arc::clone(clock), Arc::clone(metrics));
    (log, AuditWriter { lines, crowd, clock, file, metrics, failing: false })
}

fn lock(crowd: &Mutex<Crowd>) -> MutexGuard<'_, Crowd> {
    // Nothing in there is half done when it panics.
    crowd.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AuditLog {
    /// Keeps a decision, unless too many wait already.
    pub(super) fn keep(&self, decision: Decision) {
        let fate = lock(&self.crowd).take_in(decision, self.clock.monotonic());
        let decision = match fate {
            Fate::Line(decision) => decision,
            Fate::Counted => return,
            Fate::Late => return self.metrics.counted("audit_line_dropped", "closed"),
        };
        let dropped = match self.lines.try_reserve() {
            Ok(room) => return room.send(line(&decision).to_text()),
            Err(mpsc::error::TrySendError::Full(())) => "full",
            Err(mpsc::error::TrySendError::Closed(())) => "closed",
        };
        self.metrics.counted("audit_line_dropped", dropped);
    }
}

impl AuditWriter {
    /// Writes what comes until `stop`, and then what has come.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        info!("every decision about who may connect is kept in {}", self.file.path.display());
        loop {
            let mut batch = Vec::new();
            let more = self.lines.recv_many(&mut batch, BATCH_MAX);
            let more = stop.run_until_cancelled(tokio::time::timeout(LOOK_EVERY, more)).await;
            if more.is_none() {
                self.lines.close();
                self.lines.recv_many(&mut batch, BATCH_MAX).await;
            }
            // All is in hand when nothing more can come: then what was counted is told, whenever it began.
            let at_end = self.lines.is_closed() && batch.is_empty();
            let counted = match at_end {
                true => lock(&self.crowd).close(),
                false => lock(&self.crowd).due(self.clock.monotonic()),
            };
            let decisions =
                batch.len() as u64 + counted.iter().map(|likes| likes.times).sum::<u64>();
            batch.extend(counted.iter().map(line_of));
            if batch.is_empty() && !at_end {
                continue;
            }
            // Disks wait: not on a thread that serves devices.
            let mut file = self.file;
            let written = tokio::task::spawn_blocking(move || {
                let written = file.write(&batch);
                let written = if at_end { written.and_then(|()| file.sync()) } else { written };
                (file, written)
            });
            let Ok((file, written)) = written.await else { return };
            self.file = file;
            self.failing = match written {
                Ok(()) => false,
                Err(e) => {
                    self.metrics.counted_many("audit_line_dropped", "write_failed", decisions);
                    if !self.failing {
                        let path = self.file.path.display();
                        warn!(
                            "the audit log {path} cannot be written ({e}): make room, or look at the volume"
                        );
                    }
                    true
                }
            };
            if at_end {
                return;
            }
        }
    }
}

/// The file and its predecessor.
struct AuditFile {
    path: PathBuf,
    /// Of one file.
    bytes_max: u64,
    open: Option<(File, u64)>,
}

impl AuditFile {
    fn new(path: PathBuf, both_bytes_max: u64) -> Self {
        Self { path, bytes_max: both_bytes_max / 2, open: None }
    }

    /// Appends lines, or none of the last part that did not fit the disk.
    fn write(&mut self, lines: &[String]) -> io::Result<()> {
        let mut lines = lines;
        while !lines.is_empty() {
            let (file, bytes) = match &mut self.open {
                Some(open) => open,
                None => self.open.insert(append_to(&self.path)?),
            };
            let room = self.bytes_max.saturating_sub(*bytes);
            let mut part = Vec::new();
            let fitting = lines.iter().take_while(|line| {
                let fits = (part.len() + line.len()) as u64 <= room;
                if fits {
                    part.extend_from_slice(line.as_bytes());
                }
                fits
            });
            let count = fitting.count();
            if count == 0 && *bytes > 0 {
                self.rotate()?;
                continue;
            }
            if count == 0 {
                // Longer than a whole file may be: cannot be at the least size that may be set.
                lines = &lines[1..];
                continue;
            }
            if let Err(e) = file.write_all(&part) {
                // What was begun must not stand before the next line.
                let _ = file.set_len(*bytes);
                self.open = None;
                return Err(e);
            }
            *bytes += part.len() as u64;
            lines = &lines[count..];
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        self.open = None;
        let mut older = self.path.clone().into_os_string();
        older.push(".1");
        fs::rename(&self.path, older)
    }

    fn sync(&mut self) -> io::Result<()> {
        match &self.open {
            Some((file, _)) => file.sync_data(),
            None => Ok(()),
        }
    }
}

/// For appending, behind a whole line; with its size.
fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    let mut file = options.read(true).append(true).create(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    let mut bytes = file.metadata()?.len();
    if bytes > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            bytes += 1;
        }
    }
    Ok((file, bytes))
}

#[cfg(test)]
mod tests;
