//! Commands that look at a gateway's store, its volume, its routes, its certificates and its deployment, beside the gateway
//! itself.
//!
//! Owns: their arguments, what they print, and how they end ([`End`]). They change nothing but a folder of their own
//! (`doctor disk`) or files that were asked for (`--out`, `certs`), and take no lock: a gateway may be running.
//! Invariants: what is as long as the backlog is streamed; a reader that has enough (a closed pipe) ends a command quietly.
//! Must not know: the environment (`main` reads it), the gateway.

pub(crate) mod ask;
pub mod certs;
pub mod check;
mod dead_letters;
mod doctor;
mod export;
mod health;
mod list;
mod manifest;
mod refusals;
mod routes;
pub(crate) mod text;
mod verify;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};

pub use certs::{CertsArgs, InspectArgs, certs};
pub use doctor::DiskArgs;
pub use health::{HealthArgs, health};
pub use list::ListArgs;
pub use manifest::{
    CheckAction, EnvLevel, EnvVerdict, ManifestAction, Settings, check_manifest, manifest,
};
pub use refusals::{RefusalsArgs, refusals};
pub use routes::{RoutesAction, routes};

use crate::certs::CertsError;
use crate::desired;
use crate::store::inspect::Inspector;
use crate::store::{OpenError, QueueId, RealDisk};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing is wrong: exit code 0.
    Fine,
    /// Something was found that a person should look at: exit code 1.
    Found,
}

impl End {
    /// The worse of the two.
    fn or(self, other: Self) -> Self {
        if self == Self::Fine { other } else { self }
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It cannot be done as asked; says what to write instead. Exit code 64.
    #[error("{0}")]
    Usage(String),
    /// A certificate cannot be made or written; says what to do.
    #[error(transparent)]
    Certs(#[from] CertsError),
    /// The store's folder cannot be read; says what to do.
    #[error("{0}")]
    Store(String),
    /// Something else failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's words.
        source: io::Error,
    },
    /// Nobody reads any more.
    #[error("the output was closed")]
    Closed,
}

/// Nothing was to be written: what the gateway is told of room and mounts would be wrong here.
impl From<OpenError> for CommandError {
    fn from(error: OpenError) -> Self {
        Self::Store(match error {
            OpenError::Io { path, source } => {
                let todo = match source.kind() {
                    io::ErrorKind::PermissionDenied => "run this as the gateway's user",
                    _ => "check that the volume is mounted, and its kernel log",
                };
                format!("cannot read {}: {source}; {todo}", path.display())
            }
            other => other.to_string(),
        })
    }
}

impl From<io::Error> for CommandError {
    fn from(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io { what: "cannot write the output".to_owned(), source },
        }
    }
}

/// Where a gateway keeps and shows things, as its environment says.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// What `StorageFolder` says.
    pub storage: Option<PathBuf>,
    /// The store's folder in a given storage folder.
    pub queues_in: fn(&Path) -> PathBuf,
    /// Where the gateway's administrative listener is on this machine.
    pub admin: Option<SocketAddr>,
}

/// The bytes of a file, or of the standard input for `-`: no more than a document may have.
fn read(file: &Path) -> Result<Vec<u8>, CommandError> {
    let bytes = match file.to_str() {
        Some("-") => desired::read(io::stdin().lock()),
        _ => desired::read_file(file),
    };
    bytes.map_err(|error| {
        let file = file.display();
        CommandError::Usage(format!("cannot read {file}: {error}; correct the path or permissions"))
    })
}

/// The storage folder, given by hand.
#[derive(Debug, Clone, Args)]
pub struct StorageArg {
    /// The folder that the gateway is given in StorageFolder [default: what the environment says].
    #[arg(long, value_name = "DIR", global = true)]
    storage: Option<PathBuf>,
}

impl StorageArg {
    fn folder(&self, here: &Surroundings) -> Result<PathBuf, CommandError> {
        let folder = self.storage.clone().or_else(|| here.storage.clone());
        folder.ok_or_else(|| {
            let text =
                "no storage folder: give --storage DIR, or set StorageFolder as the gateway has it";
            CommandError::Usage(text.to_owned())
        })
    }

    /// A look at the store.
    fn inspector(&self, here: &Surroundings) -> Result<Inspector, CommandError> {
        let storage = self.folder(here)?;
        let dir = (here.queues_in)(&storage);
        let none = || {
            let text = format!("there is no store at {}: check --storage", dir.display());
            CommandError::Usage(text)
        };
        match std::fs::read_dir(&dir) {
            Err(error) if is_nothing_there(&error) => return Err(none()),
            Err(source) => return Err(OpenError::Io { path: dir, source }.into()),
            Ok(_) => {}
        }
        Ok(Inspector::new(Arc::new(RealDisk), dir))
    }
}

/// `queue`, and what it does.
#[derive(Debug, Clone, Args)]
pub struct QueueArgs {
    #[command(subcommand)]
    action: Option<QueueAction>,
    #[command(flatten)]
    storage: StorageArg,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Clone, Subcommand)]
enum QueueAction {
    /// List the queues: what waits, rates, and how long the budget lasts: what `queue` alone does, too.
    List(ListArgs),
    /// Write messages that wait as JSON lines.
    Export(export::ExportArgs),
    /// Check every record of the store, without changing anything.
    Verify(verify::VerifyArgs),
    /// List or export the messages that were given up, with the reason.
    DeadLetters(dead_letters::DeadLettersArgs),
}

/// Runs `queue`.
///
/// # Errors
/// See [`CommandError`].
pub fn queue(
    args: QueueArgs,
    here: &Surroundings,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let QueueArgs { action, storage, list } = args;
    if action.is_some() && list != ListArgs::default() {
        let text = "write the options behind the word, for instance: queue verify --json";
        return Err(CommandError::Usage(text.to_owned()));
    }
    let end = match action.unwrap_or(QueueAction::List(list)) {
        QueueAction::List(args) => list::run(&args, &storage, here, out),
        QueueAction::Export(args) => export::run(&args, &storage, here, out),
        QueueAction::Verify(args) => verify::run(&args, &storage, here, out),
        QueueAction::DeadLetters(args) => dead_letters::run(&args, &storage, here, out),
    }?;
    out.flush()?;
    Ok(end)
}

/// `doctor`, and what it examines.
#[derive(Debug, Clone, Subcommand)]
pub enum DoctorAction {
    /// Measure the volume: how fast and how truly it stores, and whether the store survives power cuts on it.
    Disk(DiskArgs),
}

/// Runs `doctor`. Ends by itself, without leaving anything behind, when the process is asked to end.
///
/// # Errors
/// See [`CommandError`].
pub fn doctor(
    action: &DoctorAction,
    here: &Surroundings,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let DoctorAction::Disk(args) = action;
    let end = doctor::run(args, here, out)?;
    out.flush()?;
    Ok(end)
}

/// Runs `write` with the file of `--out`, else with `out`. The file must not exist, is this user's alone, and is on disk
/// when this returns.
fn to_file_or(
    file: Option<&Path>,
    out: &mut dyn Write,
    write: impl FnOnce(&mut dyn Write) -> Result<End, CommandError>,
) -> Result<End, CommandError> {
    let Some(path) = file else { return write(out) };
    let failed =
        |source| CommandError::Io { what: format!("cannot write {}", path.display()), source };
    let mut options = std::fs::OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(path);
    let file = made.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => {
            let what = format!("{} exists: name a new file, or remove that one", path.display());
            CommandError::Io { what, source }
        }
        _ => failed(source),
    })?;
    let mut buffered = io::BufWriter::new(&file);
    let end = write(&mut buffered)?;
    buffered.flush().and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(end)
}

/// Whether a path leads to nothing, or to what is no folder.
fn is_nothing_there(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Tells beside the output that not all that waits came out.
fn tell_missing(inspector: &Inspector, missing: u64, of: &str) -> Result<End, CommandError> {
    let nameless = inspector.nameless()?.len() as u64;
    if missing > 0 {
        let of = text::plural(missing, of);
        eprintln!("sphere-gateway: {of} damaged or missing on disk: `queue verify` says where");
    }
    if nameless > 0 {
        let folders = text::plural(nameless, "folder");
        eprintln!(
            "sphere-gateway: the queue's name is damaged in {folders}, whose records are left out: see `queue verify`"
        );
    }
    Ok(if missing + nameless > 0 { End::Found } else { End::Fine })
}

/// The queue of that name (as it is printed), and its side queues.
fn named(ids: Vec<QueueId>, name: &str) -> Result<Vec<QueueId>, CommandError> {
    let known: Vec<String> =
        ids.iter().filter(|id| id.lane.is_none()).map(ToString::to_string).collect();
    let is_it = |id: &QueueId| {
        let main = QueueId { lane: None, ..id.clone() };
        id.to_string() == name || main.to_string() == name
    };
    let found: Vec<QueueId> = ids.into_iter().filter(is_it).collect();
    if found.is_empty() {
        let text = format!("there is no queue {name:?}; there are: {}", known.join(", "));
        return Err(CommandError::Usage(text));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_refuses_a_reader_is_told_once_with_what_to_do() {
        for (kind, part) in [
            (io::ErrorKind::PermissionDenied, "run this as the gateway's user"),
            (io::ErrorKind::Other, "check that the volume is mounted"),
        ] {
            let text = CommandError::from(OpenError::Io { path: "/s".into(), source: kind.into() })
                .to_string();
            let source = io::Error::from(kind).to_string();
            assert!(text.contains(part) && text.matches(&source).count() == 1, "{text}");
        }
    }

    #[test]
    fn a_queue_is_named_with_its_side_queues() {
        let main = QueueId::new("iothub", 1);
        let live = QueueId { live: true, ..main.clone() };
        let all =
            vec![main.clone(), main.with_lane("d/m"), live.clone(), QueueId::new("iothub", 10)];
        let check = |name: &str, expected: &[&QueueId]| {
            let found = named(all.clone(), name).unwrap();
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{name}");
        };
        check("iothub/1", &[&main, &main.with_lane("d/m")]);
        check("iothub/1-live", &[&live]);
        check("iothub/1/d/m", &[&main.with_lane("d/m")]);
        let error = named(all.clone(), "iothub").unwrap_err().to_string();
        assert!(error.contains("iothub/1, iothub/1-live, iothub/10"), "{error}");
    }
}
