//! What the store and the pump cost on this machine, beside a bare loop and sqlite in the same run.
//!
//! `cargo run --release --manifest-path benches/Cargo.toml -p store-bench -- [--quick] [--only NAME] [--json FILE] [--dir DIR]`
//!
//! Every number is a median of alternating rounds. Rates depend on the disk and on what else the machine does: compare
//! within one run only.

#![allow(
    clippy::disallowed_methods,
    reason = "this program measures: it reads the clock, and its own scratch files need no seam"
)]
#![allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]

mod append;
mod drain;
mod floor;
mod peers;
mod pending;
mod read;
mod slow;
mod target;
mod window;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use serde_json::json;

use bench_common::machine;
use bench_common::report::Report;

/// How much is measured.
struct Scale {
    rounds: usize,
    /// Everything is divided by this.
    divisor: usize,
}

impl Scale {
    fn of(&self, full: usize) -> usize {
        (full / self.divisor).max(1)
    }
}

struct Args {
    quick: bool,
    only: Option<String>,
    json: Option<PathBuf>,
    dir: PathBuf,
}

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        // The build's own folder: on a real disk, and not under version control.
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/store-bench");
        let mut args = Self { quick: false, only: None, json: None, dir };
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match &*word {
                "--quick" => args.quick = true,
                "--only" => args.only = Some(value()?),
                "--json" => args.json = Some(value()?.into()),
                "--dir" => args.dir = value()?.into(),
                _ => bail!("unknown argument {word}; see benches/store/README.md"),
            }
        }
        Ok(args)
    }
}

type Section = fn(&Path, &Scale, &mut Report) -> Result<()>;

const SECTIONS: [(&str, Section); 6] = [
    ("floor", floor::measure),
    ("append", append::measure),
    ("read", read::measure),
    ("pending", pending::measure),
    ("drain", drain::measure),
    ("window", window::measure),
];

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("--child", rest)) = words.split_first().map(|(first, rest)| (&**first, rest)) {
        return pending::run_child(rest);
    }
    let args = Args::parse(words.into_iter())?;
    let scale =
        if args.quick { Scale { rounds: 3, divisor: 10 } } else { Scale { rounds: 5, divisor: 1 } };
    if let Some(name) = &args.only
        && SECTIONS.iter().all(|(known, _)| known != name)
    {
        bail!("no section {name}; there are {:?}", SECTIONS.map(|(name, _)| name));
    }
    // A folder of our own below the one that is named: only what we made is removed at the end.
    let dir = sub(&args.dir, &format!("run-{}", std::process::id()))?;
    let result = run(&args, &scale, &dir);
    std::fs::remove_dir_all(&dir).context("clean up")?;
    result
}

fn run(args: &Args, scale: &Scale, dir: &Path) -> Result<()> {
    let (cpu, count) = machine::processors();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let about = json!({
        "commit": machine::commit(), "unix_seconds": now, "quick": args.quick, "rounds": scale.rounds,
        "cpu": cpu, "cpus": count,
    });
    println!("# Benchmarks of the store\n\n{about}");
    let mut report = Report::default();
    for (name, measure) in SECTIONS {
        if args.only.as_deref().is_none_or(|only| only == name) {
            measure(dir, scale, &mut report).with_context(|| name)?;
        }
    }
    let whole = report.finish(&about);
    if let Some(path) = &args.json {
        std::fs::write(path, format!("{whole:#}\n")).context("--json")?;
    }
    Ok(())
}

/// A folder in `dir`, made if need be.
fn sub(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}
