//! The gateway's whole path beside Mosquitto and rumqttd, in one run on one machine. See `docs/performance.md`.
//!
//! ```text
//!  load (devices: own MQTT codec, TLS) ==> process under test (peers) ==> sink (hub double, MQTT) -> tally
//!  floor (what the machine can do)         machine (/proc of that process)      sections -> report
//! ```

#![allow(
    clippy::disallowed_methods,
    reason = "this program measures: it reads the clock, and its own scratch files need no seam"
)]
#![allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]

mod aims;
mod floor;
mod load;
mod machine;
mod peers;
mod pki;
mod programs;
mod report;
mod sections;
mod sink;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use report::Book;
use sections::{Bench, EVERYONE, NAMES};

/// Measures the gateway, Mosquitto and rumqttd in turns; prints tables as they come.
#[derive(Debug, Parser)]
struct Args {
    /// Fewer rounds, fewer messages: minutes instead of the better part of an hour.
    #[arg(long)]
    quick: bool,
    /// Rounds of each figure (default 5, quick 1); the report has medians.
    #[arg(long)]
    rounds: Option<usize>,
    /// Only these sections.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these: gateway, gateway-5ms, mosquitto, mosquitto-tls, mosquitto-safe, rumqttd, null.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Writes everything, with each round's samples.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes the figures into the marked part of this page.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Measures nothing: takes the figures of `--markdown` from this file, which `--json` wrote.
    #[arg(long, requires = "markdown")]
    render: Option<PathBuf>,
    /// Scratch folder, on the disk in question (no tmpfs); default: below the build's.
    #[arg(long)]
    dir: Option<PathBuf>,
    #[command(flatten)]
    programs: programs::Named,
    /// A process of this program that is the null broker, with the PKI in that folder.
    #[arg(long, hide = true)]
    null_broker: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    machine::raise_handles()?;
    if let Some(folder) = &args.null_broker {
        return floor::null_broker::run(folder).await.map(|()| ExitCode::SUCCESS);
    }
    if let Some(file) = &args.render {
        let run = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        publish(args.markdown.as_deref(), &serde_json::from_str(&run)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    // Dropped, a run ends the processes that it started: so it is not left to the signal's default.
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        done = run(args) => done,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}

/// Those of all that are named; all if none is.
fn chosen<T: Copy>(all: &[T], names: &[String], name: impl Fn(T) -> String) -> Result<Vec<T>> {
    let known: Vec<String> = all.iter().map(|one| name(*one)).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        bail!("there is no {unknown}; there are {}", known.join(", "));
    }
    let wanted = |one: &T| names.is_empty() || names.contains(&name(*one));
    Ok(all.iter().copied().filter(wanted).collect())
}

async fn run(args: Args) -> Result<ExitCode> {
    let sections = chosen(&NAMES, &args.only, str::to_owned)?;
    let contenders = chosen(&EVERYONE, &args.peers, |who| who.to_string())?;
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 5 }).max(1);
    let any = |wanted: fn(&str) -> bool| contenders.iter().any(|who| wanted(&who.to_string()));
    let wanted = [
        any(|w| w.starts_with("gateway")),
        any(|w| w.starts_with("mosquitto")),
        any(|w| w == "rumqttd"),
    ];
    let below = args
        .dir
        .clone()
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/gateway-bench"));
    std::fs::create_dir_all(&below).with_context(|| below.display().to_string())?;
    let disk = machine::disk(&below)?;
    let built_here = args.programs.gateway.is_none();
    let programs = args.programs.programs(wanted).await?;
    // After the build, so that it is not the build that makes the machine busy for the report.
    let mut about = machine::about();
    about["rounds"] = rounds.into();
    about["quick"] = args.quick.into();
    about["disk"] = disk.into();
    about["gateway_built_here"] = built_here.into();
    about["peers"] = programs::versions(&programs.mosquitto).into();
    if about["quiet"] == false {
        eprintln!(
            "the machine is not quiet (load average {}): mind the ratios only",
            about["load_average"]
        );
    }
    println!("# The gateway beside its peers\n\n{about}");
    // A folder of our own below the one that is named: only what we made is removed at the end.
    let dir = tempfile::Builder::new().prefix("run-").tempdir_in(&below)?;
    let bench = Bench::new(programs, contenders, dir.path(), rounds, args.quick);
    let started = Instant::now();
    let book = measure(&bench, &sections).await;
    drop(bench);
    about["seconds"] = started.elapsed().as_secs().into();
    let failures = book.failures.clone();
    let whole = book.finish(&about);
    eprintln!("all: {} s, {} failures", about["seconds"], failures.len());
    failures.iter().for_each(|failure| eprintln!("  {failure}"));
    if let Some(path) = &args.json {
        std::fs::write(path, format!("{whole:#}\n")).with_context(|| path.display().to_string())?;
    }
    publish(args.markdown.as_deref(), &whole)?;
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure(bench: &Bench, sections: &[&str]) -> Book {
    let mut book = Book::default();
    for name in sections {
        let started = Instant::now();
        eprintln!("{name}");
        if let Err(error) = bench.section(name, &mut book).await {
            eprintln!("{name}: FAILED: {error:#}");
            book.failures.push(format!("{name}: {error:#}"));
        }
        eprintln!("{name}: {:.0} s", started.elapsed().as_secs_f64());
    }
    for aim in aims::aims(&book.figures) {
        book.report.aim(aim.words, aim.measured, aim.met);
    }
    book
}

fn publish(page: Option<&Path>, run: &Value) -> Result<()> {
    let Some(path) = page else { return Ok(()) };
    let name = || path.display().to_string();
    let old = std::fs::read_to_string(path).with_context(name)?;
    let new = report::quote(&old, run).with_context(|| {
        format!("{} has no part for figures, or the JSON is not of this program", name())
    })?;
    std::fs::write(path, new).with_context(name)
}
