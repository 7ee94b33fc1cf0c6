//! The durability campaign: power cuts, damage, failing operations of the disk, and `kill -9` of the real binary, at full
//! numbers; what came of it is written to `durability.json`.
//!
//! `cargo run --release --example durability [-- --quick] [--only power-cuts,damages,io-faults,kills] [--seed N] [--out FILE]`
//!
//! Ends with status 1 if anything was lost, forged, or else against the promises. Progress goes to stderr. A panic of the
//! store ends the process, and the results say that it did not end; the thread's name in its message is the campaign and the seed.

#[allow(dead_code, reason = "shared with the tests and the quickstart")]
#[path = "../quickstart/device.rs"]
mod device;
#[path = "../quickstart/kill.rs"]
mod kill;
mod readme;
#[allow(dead_code, reason = "shared with the tests and the quickstart")]
#[path = "../quickstart/site.rs"]
mod site;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, ensure};
use clap::Parser;
use serde_json::{Map, Value, json};
use sphere_gateway::clock::{Clock as _, SystemClock};
use sphere_gateway::store::trial;

/// Tries to make the store lose what it has acknowledged.
#[derive(Debug, Parser)]
struct Options {
    /// A hundredth of everything.
    #[arg(long)]
    quick: bool,
    /// Only these campaigns.
    #[arg(long, value_delimiter = ',', value_parser = ["power-cuts", "damages", "io-faults", "kills"])]
    only: Vec<String>,
    /// The first seed; random if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Where the results go.
    #[arg(long, default_value = "durability.json")]
    out: PathBuf,
    /// Runs nothing: makes the part of this README that quotes the results anew.
    #[arg(long)]
    quote: Option<PathBuf>,
    /// The binary that is killed; built if not given.
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// One campaign: a total, in shares that each have a seed of their own.
struct Campaign {
    name: &'static str,
    total: u64,
    /// Of which one share is this much; share `i` has the seed `first + i`.
    share: u64,
    seed: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    if let Some(file) = &options.quote {
        quote(file, &options.out)?;
        return Ok(ExitCode::SUCCESS);
    }
    mark_unfinished(&options.out)?;
    let seed = options.seed.unwrap_or_else(|| rand::random::<u64>() >> 16);
    let part = if options.quick { 100 } else { 1 };
    let mut results = Map::new();
    for (name, total, share) in [
        ("power-cuts", 1_000_000, 1_000),
        ("damages", 10_000, 100),
        ("io-faults", 100, 1),
        ("kills", 1_000, 1_000),
    ] {
        if options.only.is_empty() || options.only.iter().any(|only| only == name) {
            let total = total / part;
            let campaign = Campaign { name, total, share: share.min(total), seed };
            let started = SystemClock.monotonic();
            let (mut result, passed) = campaign.run(&options)?;
            let seconds = SystemClock.monotonic().duration_since(started).as_secs_f64();
            result["seconds"] = json!((seconds * 10.0).round() / 10.0);
            result["seed"] = json!(seed);
            result["seeds"] = json!(campaign.shares());
            result["passed"] = json!(passed);
            eprintln!("{name}: {}", if passed { "passed" } else { "FAILED" });
            results.insert(name.to_owned(), result);
        }
    }
    let passed = results.values().all(|result| result["passed"] == json!(true));
    let report = json!({
        "date": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "commit": commit(),
        "rustc": said(Command::new("rustc").arg("--version")),
        "machine": machine(),
        "command": if options.quick { "quick" } else { "full" },
        "passed": passed,
        "campaigns": results,
    });
    let text = serde_json::to_string_pretty(&report).context("plain values")? + "\n";
    std::fs::write(&options.out, text)
        .with_context(|| format!("cannot write {}", options.out.display()))?;
    eprintln!("{}: {}", options.out.display(), if passed { "passed" } else { "FAILED" });
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

macro_rules! shared_out {
    ($campaign:ident, $start:expr, $run:expr) => {{
        let total = Mutex::new($start);
        $campaign.on_all_cores(|seed, share| {
            let seen = $run(seed, share);
            total.lock().expect("no share panics").add(seen);
        })?;
        let total = total.into_inner().expect("no share panics");
        (serde_json::to_value(&total).context("plain values")?, total.is_clean())
    }};
}

impl Campaign {
    fn shares(&self) -> u64 {
        self.total.div_ceil(self.share)
    }

    fn run(&self, options: &Options) -> anyhow::Result<(Value, bool)> {
        Ok(match self.name {
            "power-cuts" => shared_out!(self, trial::PowerCuts::default(), trial::power_cuts),
            "damages" => shared_out!(self, trial::Damages::default(), trial::damages),
            "io-faults" => {
                shared_out!(self, trial::IoFaults::default(), |seed, _| trial::io_faults(seed))
            }
            _ => self.kills(options)?,
        })
    }

    /// Runs the shares, as many at a time as there are cores.
    fn on_all_cores(&self, run: impl Fn(u64, u64) + Sync) -> anyhow::Result<()> {
        let (next, done, run) = (AtomicU64::new(0), AtomicU64::new(0), &run);
        std::thread::scope(|scope| {
            let worker = || -> anyhow::Result<()> {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= self.shares() {
                        return Ok(());
                    }
                    let seed = self.seed + i;
                    // A thread of its own, since a panic tells the thread's name.
                    let thread = std::thread::Builder::new().name(format!("{} {seed}", self.name));
                    let share = thread.spawn_scoped(scope, move || run(seed, self.share))?;
                    share.join().map_err(|_| anyhow::anyhow!("seed {seed} has panicked"))?;
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    eprint!("\r{}: {done} of {} shares ", self.name, self.shares());
                }
            };
            let workers: Vec<_> = (0..cores()).map(|_| scope.spawn(worker)).collect();
            for worker in workers {
                worker.join().map_err(|_| anyhow::anyhow!("a worker has panicked"))??;
            }
            eprintln!();
            Ok(())
        })
    }

    fn kills(&self, options: &Options) -> anyhow::Result<(Value, bool)> {
        let binary = options.binary.clone().map_or_else(build_binary, Ok)?;
        let runtime = tokio::runtime::Runtime::new().context("a runtime")?;
        let told = |cycle| eprint!("\rkills: {cycle} of {} ", self.total);
        let seen = runtime.block_on(kill::kills(&binary, self.total, self.seed, told));
        eprintln!();
        let passed = seen.lost == 0 && seen.reordered == 0 && seen.violations.is_empty();
        Ok((serde_json::to_value(&seen).context("plain values")?, passed))
    }
}

/// Makes the part of `file` that tells of `results` anew.
fn quote(file: &Path, results: &Path) -> anyhow::Result<()> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let report = serde_json::from_str(&read(results)?).context("the results are no JSON")?;
    let quoted = readme::quote(&read(file)?, &report);
    let quoted = quoted.with_context(|| format!("{} has no part to fill", file.display()))?;
    std::fs::write(file, quoted).with_context(|| format!("cannot write {}", file.display()))
}

/// Results of another run must not stand for this one, should it end by a panic. Marked, not removed: a test includes them.
fn mark_unfinished(file: &Path) -> anyhow::Result<()> {
    std::fs::write(file, "{\"passed\": false, \"command\": \"did not end\", \"campaigns\": {}}\n")
        .with_context(|| format!("cannot write {}", file.display()))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The binary of the same profile, beside the folder of this example.
fn build_binary() -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe().context("this program's path")?;
    let folder = me.parent().and_then(Path::parent).context("examples are in a folder")?;
    let mut build = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    build.args(["build", "--bin", "sphere-gateway"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    ensure!(build.status().context("cargo starts")?.success(), "the binary is not built");
    Ok(folder.join("sphere-gateway"))
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The commit, with a word if the tree holds something else.
fn commit() -> Option<String> {
    let commit = said(Command::new("git").args(["rev-parse", "HEAD"]))?;
    let changed = said(Command::new("git").args(["status", "--porcelain"]))?;
    Some(if changed.is_empty() { commit } else { format!("{commit} dirty") })
}

/// The class of the machine: nothing that names it.
fn machine() -> Value {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    json!({
        "cores": cores(),
        "kernel": kernel.map(|kernel| kernel.trim().to_owned()),
        "arch": std::env::consts::ARCH,
        "filesystem": file_system(&std::env::temp_dir()),
    })
}

/// The type of the file system that holds a folder (the killed gateway's store is in the temporary one).
fn file_system(folder: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mounted = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((PathBuf::from(words.next()?), words.next()?.to_owned()))
    });
    let holds = mounted.filter(|(at, _)| folder.starts_with(at));
    holds.max_by_key(|(at, _)| at.components().count()).map(|(_, kind)| kind)
}
