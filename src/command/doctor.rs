//! `doctor disk`: what a volume is worth to the store.
//!
//! Owns: the order of the examination, its folder and that this is gone at the end, and the report in words or JSON.
//! Invariant: it writes in a new folder of its own only, and removes it, also when the process is asked to end.
//! Must not know: how it is measured ([`measure`]), what it means ([`verdict`]).

mod measure;
mod verdict;
mod volume;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::text::{bytes, count, micros, plain, plural};
use super::{CommandError, End, Surroundings, is_nothing_there};
use crate::store::trial::{self, PowerCuts};
use measure::{Amplification, Latency};
pub(super) use verdict::{IN_MEMORY, MESSAGES_PER_SEC, OVER_A_NETWORK};
use verdict::{Level, Verdict};
pub(super) use volume::Volume;

/// Records are as small as a sensor's usual message.
pub(super) const RECORD_BYTES: usize = 256;
/// Cuts that are made between two looks at whether to stop.
const CUTS_AT_ONCE: u64 = 5;
/// How long the examination may take to notice that it is to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Arguments of `doctor disk`.
#[derive(Debug, Clone, Args)]
pub struct DiskArgs {
    /// A folder on the volume [default: the storage folder that the environment says].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How long to measure; the power cuts come on top.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// How many power cuts to simulate.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(0..=100_000))]
    power_cuts: u64,
    /// The first seed of the power cuts, to see the same ones again.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Examination {
    volume: Volume,
    /// fdatasync of appends to a preallocated file.
    latency: Vec<Latency>,
    write_amplification: Vec<Amplification>,
    /// `None`: none were asked for, or they could not be made.
    power_cuts: Option<PowerCuts>,
    power_cuts_error: Option<String>,
}

/// A new folder, gone when this is dropped.
struct OwnFolder(PathBuf);

impl OwnFolder {
    fn new(dir: &Path) -> Result<Self, CommandError> {
        let path = dir.join(format!("sphere-gateway-doctor-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|source| match is_nothing_there(&source) {
            true => CommandError::Usage(format!(
                "there is no folder {}: give --dir a folder that is there",
                dir.display()
            )),
            false => {
                let what = format!(
                    "cannot make a folder in {}: give --dir a folder that you may write to",
                    dir.display()
                );
                CommandError::Io { what, source }
            }
        })?;
        Ok(Self(path))
    }
}

impl Drop for OwnFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("could not remove {}: {error}; remove it by hand", self.0.display());
        }
    }
}

/// Whether to go on.
#[derive(Clone, Default)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) fn run(
    args: &DiskArgs,
    here: &Surroundings,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let dir = args.dir.clone().or_else(|| here.storage.clone()).ok_or_else(|| {
        CommandError::Usage(
            "no folder: give --dir DIR, or set StorageFolder as the gateway has it".to_owned(),
        )
    })?;
    let folder = OwnFolder::new(&dir)?;
    let Some(found) = examine_until_told(args, &folder.0)? else {
        // Asked to end: quietly.
        return Ok(End::Found);
    };
    drop(folder);
    let verdicts = verdict::of(&found);
    if args.json {
        super::export::write_line(
            out,
            &serde_json::json!({ "found": found, "verdicts": verdicts }),
        )?;
    } else {
        print(&found, &verdicts, out)?;
    }
    let is_bad = verdicts.iter().any(|verdict| verdict.level == Level::Error);
    Ok(if is_bad { End::Found } else { End::Fine })
}

/// Examines in another thread; `None`: the process was asked to end first.
fn examine_until_told(args: &DiskArgs, folder: &Path) -> Result<Option<Examination>, CommandError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| CommandError::Io { what, source }
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(failed("cannot start"))?;
    let found = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("cannot hear of ctrl-c"))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed("cannot hear of SIGTERM"))?;
        let stop = Stop::default();
        let (args, folder, asked) = (args.clone(), folder.to_path_buf(), stop.clone());
        let examining = tokio::task::spawn_blocking(move || examine(&args, &folder, &asked));
        tokio::pin!(examining);
        tokio::select! {
            found = &mut examining => {
                let found = found.map_err(|error| std::io::Error::other(error.to_string()));
                found.and_then(|found| found).map(Some).map_err(failed("cannot measure the volume"))
            }
            () = async { tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} } } => {
                stop.0.store(true, Ordering::Relaxed);
                // Else it would write while its folder is removed.
                let _ = tokio::time::timeout(STOP_GRACE, examining).await;
                Ok(None)
            }
        }
    });
    runtime.shutdown_background();
    found
}

fn examine(args: &DiskArgs, folder: &Path, stop: &Stop) -> std::io::Result<Examination> {
    let volume = Volume::of(folder)?;
    // Two kinds of appends and three sizes of batches share the time.
    let share = Duration::from_secs(args.seconds.into()) / 5;
    let mut latency = Vec::new();
    for block in [4 * 1024, 64 * 1024] {
        latency.push(measure::latency(folder, block, share, stop)?);
    }
    let mut write_amplification = Vec::new();
    for batch in [1, 10, 100] {
        write_amplification.push(measure::amplification(folder, batch, share, stop)?);
    }
    let cuts = power_cuts(args, folder, stop);
    let (power_cuts, power_cuts_error) = match cuts {
        Ok(cuts) => (cuts, None),
        Err(error) => (None, Some(error.to_string())),
    };
    Ok(Examination { volume, latency, write_amplification, power_cuts, power_cuts_error })
}

/// In pieces, so that it can be stopped.
fn power_cuts(args: &DiskArgs, folder: &Path, stop: &Stop) -> std::io::Result<Option<PowerCuts>> {
    let folder = folder.join("power-cuts");
    std::fs::create_dir(&folder)?;
    let mut sum = PowerCuts::default();
    for first in (0..args.power_cuts).step_by(CUTS_AT_ONCE as usize) {
        if stop.is_set() {
            break;
        }
        let cuts = CUTS_AT_ONCE.min(args.power_cuts - first);
        let made = trial::power_cuts_on(&folder, args.seed.wrapping_add(first), cuts)?;
        sum.add(made);
    }
    Ok((args.power_cuts > 0).then_some(sum))
}

fn print(
    found: &Examination,
    verdicts: &[Verdict],
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let volume = &found.volume;
    let file_system = volume.file_system.as_deref().unwrap_or("unknown");
    let options =
        volume.options.as_deref().map(|options| format!(" ({options})")).unwrap_or_default();
    let (free, total) = (bytes(volume.free_bytes), bytes(volume.total_bytes));
    writeln!(out, "volume: {}{}, {free} free of {total}", plain(file_system), plain(&options))?;
    for latency in &found.latency {
        let (p50, p99, max) =
            (micros(latency.p50_micros), micros(latency.p99_micros), micros(latency.max_micros));
        let (block, samples) = (bytes(latency.block_bytes), count(latency.samples));
        writeln!(
            out,
            "fdatasync of {block}: {p50} median, {p99} p99, {max} worst ({samples} times)"
        )?;
    }
    for a in &found.write_amplification {
        let blocks = a.blocks_per_payload_byte.map(|x| format!(", {x:.1} in blocks of 4 KiB"));
        let device = a
            .device_per_payload_byte
            .map(|x| format!(", {x:.1} counted by the device (with everybody else's)"));
        writeln!(
            out,
            "batches of {:.0} x {RECORD_BYTES} B: {:.2} bytes written per byte of payload{}{}",
            a.records_per_commit,
            a.written_per_payload_byte,
            blocks.unwrap_or_default(),
            device.unwrap_or_default()
        )?;
    }
    if let Some(cuts) = &found.power_cuts {
        let (acked, lost, forged) = (count(cuts.acked), count(cuts.lost), count(cuts.forged));
        let n = plural(cuts.cuts, "simulated power cut");
        writeln!(out, "{n}: of {acked} acknowledged messages {lost} lost, {forged} made up")?;
    }
    for verdict in verdicts {
        writeln!(out, "{}: {}", verdict.level.word(), verdict.text)?;
    }
    Ok(())
}
