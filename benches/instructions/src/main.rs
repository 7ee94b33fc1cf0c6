//! Instructions and allocations per message, step by step of the gateway's path, against committed figures.
//!
//! Without `--serve` this is the driver: it runs itself under valgrind for each step and shape, twice for each tool, and
//! compares the difference of the two runs with `figures.json`. See the README beside it.

mod figures;
mod shape;
mod steps;
mod valgrind;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use figures::{Figures, head, line};
use shape::Shape;
use steps::{MESSAGES_MAX, Step};
use valgrind::Valgrind;

/// Counts instructions and allocations per message, by valgrind, and compares them with the committed figures.
#[derive(Parser)]
struct Args {
    /// Only this step.
    #[arg(long)]
    step: Option<Step>,
    /// Only this shape of message.
    #[arg(long)]
    shape: Option<Shape>,
    /// Writes what was counted in place of the committed figures.
    #[arg(long)]
    save: bool,
    /// Keeps valgrind's files in this folder, for `callgrind_annotate --inclusive=yes <file>` and DHAT's viewer.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// What the driver runs under valgrind: the step with so many messages.
    #[arg(long, hide = true, requires = "step", requires = "shape")]
    serve: Option<usize>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if let Some(count) = args.serve {
        ensure!(count <= MESSAGES_MAX, "at most {MESSAGES_MAX} messages are prepared");
        let (step, shape) = args.step.zip(args.shape).context("a step and a shape")?;
        step.run(shape, count)?;
        return Ok(ExitCode::SUCCESS);
    }
    drive(&args)
}

fn drive(args: &Args) -> Result<ExitCode> {
    let scratch = std::env::temp_dir().join(format!("path-valgrind-{}", std::process::id()));
    let valgrind = Valgrind::new(args.keep.as_ref().unwrap_or(&scratch))?;
    let committed = Figures::committed()?;
    let mut counted = Figures::new();
    let mut worse = Vec::new();
    println!("{}", head());
    for step in Step::ALL.into_iter().filter(|s| args.step.is_none_or(|only| only == *s)) {
        for shape in Shape::ALL.into_iter().filter(|s| args.shape.is_none_or(|only| only == *s)) {
            let name = format!("{} {}", step.name(), shape.name());
            let figure = valgrind.count(step, shape)?;
            let old = committed.as_ref().and_then(|c| c.steps.get(&name));
            let (line, is_worse) = line(&name, &figure, old);
            println!("{line}");
            counted.steps.insert(name.clone(), figure);
            worse.extend(is_worse.then_some(name));
        }
    }
    if args.keep.is_none() {
        std::fs::remove_dir_all(&scratch).context("the scratch folder cannot be removed")?;
    }
    if args.save {
        counted.save()?;
        println!("saved to figures.json");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(judge(&worse, committed.as_ref()))
}

/// What the comparison means, in words.
fn judge(worse: &[String], committed: Option<&Figures>) -> ExitCode {
    let Some(committed) = committed else {
        println!("there are no committed figures: run with --save to make them");
        return ExitCode::SUCCESS;
    };
    if !committed.is_of_this_build() {
        let (Figures { rustc, target, .. }, ours) = (committed, Figures::new());
        println!(
            "warning: figures.json is of {rustc} for {target}, this is {} for {}: the numbers say little, and nothing \
             fails on their account. Run with --save on an unchanged tree first, then compare",
            ours.rustc, ours.target
        );
        return ExitCode::SUCCESS;
    }
    if worse.is_empty() {
        println!("no step is worse than committed");
        return ExitCode::SUCCESS;
    }
    println!(
        "worse by more than 5 %: {}. Find out what it is (--keep, then callgrind_annotate); if it is the price of \
         something wanted, run with --save and commit figures.json with the reason",
        worse.join(", ")
    );
    ExitCode::FAILURE
}
