//! What the routes cost per message: nanoseconds for 1, 10 and 100 routes, by kind of condition.
//!
//! `cargo run --release --manifest-path benches/Cargo.toml -p routes-bench -- [--quick] [--json FILE]`
//!
//! Every number is a median of rounds in which the contenders take turns. Beside the routes stands what a program would do
//! by hand for the same question: it says how far from free they are on this machine, whatever machine it is.

#![allow(clippy::disallowed_methods, reason = "this program measures: it reads the clock")]
#![allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]

mod by_hand;
mod cases;

use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::json;
use sphere_gateway::message::Message;
use sphere_gateway::route::RouteTable;

use bench_common::machine;
use bench_common::report::{Cell, Report, median};

use cases::{CASES, Case, compile, message};

/// How many routes a table has.
const COUNTS: [usize; 3] = [1, 10, 100];

#[derive(Parser)]
#[command(about = "What the routes cost per message.")]
struct Args {
    /// Fewer and shorter rounds.
    #[arg(long)]
    quick: bool,
    /// Everything as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How much is measured.
struct Scale {
    rounds: usize,
    /// Route evaluations in one round; a table of 100 gets a hundredth of the messages.
    evaluations: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let scale = if args.quick {
        Scale { rounds: 3, evaluations: 100_000 }
    } else {
        Scale { rounds: 9, evaluations: 1_000_000 }
    };
    let (cpu, count) = machine::processors();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let about = json!({
        "commit": machine::commit(), "unix_seconds": now, "quick": args.quick, "rounds": scale.rounds,
        "cpu": cpu, "cpus": count,
    });
    println!("# Benchmark of the routes\n\n{about}");
    let mut report = Report::default();
    seed(&scale, &mut report)?;
    conditions(&scale, &mut report)?;
    compiling(&scale, &mut report)?;
    let whole = report.finish(&about);
    if let Some(path) = &args.json {
        std::fs::write(path, format!("{whole:#}\n")).context("--json")?;
    }
    Ok(())
}

/// The user's two routes, with a device's message and a module's.
fn seed(scale: &Scale, report: &mut Report) -> Result<()> {
    let table = compile(&cases::SEED)?;
    let mut rows = Vec::new();
    let mut worst: f64 = 0.0;
    for (sender, message) in [("device", message(None, 256)?), ("module", message(Some("m"), 256)?)]
    {
        let rounds: Vec<f64> = (0..scale.rounds)
            .map(|_| nanoseconds(scale.evaluations / 2, || targets(&table, &message)))
            .collect();
        let ns = median(&rounds, |ns| *ns);
        worst = worst.max(ns);
        rows.push(vec![Cell::from(sender), (ns, 0).into()]);
    }
    let note = "`FROM /messages/* INTO $upstream` and `FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO \
                $upstream` together: nanoseconds per message.";
    report.table("The two seed routes", note, &["sender", "ns / message"], &rows);
    report.aim("seed routes under 1,000 ns per message", format!("{worst:.0} ns"), worst < 1_000.0);
    Ok(())
}

/// Each kind of condition, in tables of 1, 10 and 100 routes.
fn conditions(scale: &Scale, report: &mut Report) -> Result<()> {
    for body_bytes in [256, 4096] {
        let message = message(None, body_bytes)?;
        let mut rows = Vec::new();
        for case in &CASES {
            rows.push(row(case, &message, scale)?);
        }
        let note = format!(
            "Nanoseconds per message, a body of {body_bytes} bytes with {} names, five application properties. *By hand* is \
             the same question as plain code for one route; of body conditions it parses the body into a tree of values.",
            cases::NAMES.len()
        );
        let title = format!("Conditions, {body_bytes} B");
        let columns = ["condition", "1 route", "10", "100", "by hand, 1", "1 route / by hand"];
        report.table(&title, &note, &columns, &rows);
    }
    Ok(())
}

fn row(case: &Case, message: &Message, scale: &Scale) -> Result<Vec<Cell>> {
    let mut tables = Vec::new();
    for count in COUNTS {
        let texts: Vec<String> = (0..count).map(|n| (case.text)(n)).collect();
        let table = compile(&texts)?;
        let selected = table.matching(message).count();
        ensure!(selected == case.selected(count), "{}: {selected} of {count} select", case.name);
        tables.push((count, table));
    }
    ensure!((case.by_hand)(message), "{}: by hand it does not select", case.name);
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); COUNTS.len() + 1];
    for _ in 0..scale.rounds {
        for ((count, table), samples) in tables.iter().zip(&mut samples) {
            samples.push(nanoseconds(scale.evaluations / count / 4, || targets(table, message)));
        }
        let by_hand = nanoseconds(scale.evaluations / 4, || usize::from((case.by_hand)(message)));
        samples[COUNTS.len()].push(by_hand);
    }
    let medians: Vec<f64> = samples.iter().map(|s| median(s, |ns| *ns)).collect();
    let mut cells = vec![Cell::from(case.name)];
    cells.extend(medians.iter().map(|ns| Cell::from((*ns, 0))));
    cells.push((medians[0] / medians[COUNTS.len()], 2).into());
    Ok(cells)
}

/// How long a new configuration takes to compile.
fn compiling(scale: &Scale, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for count in COUNTS {
        let texts: Vec<String> = (0..count).map(|n| (CASES[n % CASES.len()].text)(n)).collect();
        compile(&texts)?;
        let rounds: Vec<f64> = (0..scale.rounds)
            .map(|_| {
                nanoseconds(scale.evaluations / count / 1_000, || {
                    compile(&texts).map_or(0, |t| t.len())
                })
            })
            .collect();
        rows.push(vec![count.into(), (median(&rounds, |ns| *ns) / 1_000.0, 0).into()]);
    }
    report.table("Compiling a table", "Of all kinds of conditions.", &["routes", "us"], &rows);
    Ok(())
}

/// What the gateway asks of a table for each message.
fn targets(table: &RouteTable, message: &Message) -> usize {
    table.matching(message).map(|target| usize::from(target.priority)).sum()
}

fn nanoseconds(times: usize, mut work: impl FnMut() -> usize) -> f64 {
    let times = times.max(1);
    let begun = Instant::now();
    for _ in 0..times {
        black_box(work());
    }
    begun.elapsed().as_nanos() as f64 / times as f64
}
