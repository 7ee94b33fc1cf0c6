//! What a backlog costs: memory and time of a fresh process that opens the store.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::target::{self, Caller};
use crate::{Scale, sub};
use bench_common::machine;
use bench_common::report::{Cell, Report, median};

const PAYLOAD: usize = 256;
const MB: f64 = 1e6;

/// What a child has said.
struct Opened {
    open_s: f64,
    first_s: f64,
    rss: f64,
    peak: f64,
    records: f64,
}

/// Measures and reports.
pub(crate) fn measure(dir: &Path, scale: &Scale, report: &mut Report) -> Result<()> {
    let dir = sub(dir, "pending")?;
    let empty = sub(&dir, "empty")?;
    let full = sub(&dir, "full")?;
    let (mut rows, mut there) = (Vec::new(), 0);
    for count in [1_000_000, 5_000_000].map(|n| scale.of(n)) {
        child(&["fill", path(&full)?, &(count - there).to_string()])?;
        there = count;
        let crashed = opened(&full)?;
        ensure!(crashed.records == count as f64, "{} of {count} came back", crashed.records);
        let (mut none, mut warm, mut cold) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..scale.rounds {
            none.push(opened(&empty)?);
            warm.push(opened(&full)?);
            machine::drop_cache(&full)?;
            cold.push(opened(&full)?);
        }
        let more = median(&warm, |o| o.rss) - median(&none, |o| o.rss);
        report.aim(
            format!("RSS with {count} pending: <= empty + 16 MB"),
            format!("+{:.2} MB", more / MB),
            more <= 16.0 * MB,
        );
        if there == scale.of(1_000_000) {
            let slowest = median(&cold, |o| o.open_s).max(crashed.open_s);
            report.aim(
                format!("reopen with {count} pending: <= 0.2 s"),
                format!("{slowest:.3} s (the slowest of: cold, warm, after a kill)"),
                slowest <= 0.2,
            );
        }
        rows.push(row("empty", &none));
        rows.push(row(&format!("{count}, after a kill (once)"), &[crashed]));
        rows.push(row(&format!("{count}, page cache warm"), &warm));
        rows.push(row(&format!("{count}, page cache dropped"), &cold));
    }
    std::fs::remove_dir_all(&dir)?;
    let columns = ["pending", "Store::open ms", "+ first record ms", "RSS MB", "peak RSS MB"];
    let note = format!(
        "Records of {PAYLOAD} B; a fresh process opens the store and reads one record. After a kill: the process that \
         appended ended without closing, so the open segment has to be read whole. Dropped: posix_fadvise, files only."
    );
    report.table("Pending", &note, &columns, &rows);
    Ok(())
}

fn row(name: &str, opened: &[Opened]) -> Vec<Cell> {
    vec![
        name.into(),
        (median(opened, |o| o.open_s) * 1e3, 2).into(),
        (median(opened, |o| o.first_s) * 1e3, 2).into(),
        (median(opened, |o| o.rss) / MB, 2).into(),
        (median(opened, |o| o.peak) / MB, 2).into(),
    ]
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("the folder's name is not UTF-8")
}

fn opened(dir: &Path) -> Result<Opened> {
    let said = child(&["open", path(dir)?])?;
    let said: Value = serde_json::from_slice(&said)?;
    let number = |name: &str| said[name].as_f64().with_context(|| format!("no {name}"));
    Ok(Opened {
        open_s: number("open_s")?,
        first_s: number("first_s")?,
        rss: number("rss")?,
        peak: number("peak")?,
        records: number("records")?,
    })
}

/// Runs this program again with a hidden command.
fn child(args: &[&str]) -> Result<Vec<u8>> {
    let out = Command::new(std::env::current_exe()?).arg("--child").args(args).output()?;
    ensure!(out.status.success(), "child {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(out.stdout)
}

/// The hidden commands. They end without closing the store, as a kill would.
pub(crate) fn run_child(args: &[String]) -> Result<()> {
    match args {
        [command, dir] if command == "open" => child_open(Path::new(dir)),
        [command, dir, count] if command == "fill" => child_fill(Path::new(dir), count.parse()?),
        _ => anyhow::bail!("unknown child command {args:?}"),
    }
}

fn child_fill(dir: &Path, count: u64) -> Result<()> {
    let (store, _) = target::open(dir, Duration::ZERO)?;
    let payload = target::payload(PAYLOAD);
    let fill = async { Caller::new(&store).fill(count, |_| payload.clone()).await };
    target::single_runtime()?.block_on(fill)?;
    std::process::exit(0)
}

fn child_open(dir: &Path) -> Result<()> {
    let runtime = target::single_runtime()?;
    let started = Instant::now();
    let (store, found) = target::open(dir, Duration::ZERO)?;
    let open_s = started.elapsed().as_secs_f64();
    if found.queues > 0 {
        let first = async {
            let queue = target::queue(&store).await?;
            anyhow::Ok(queue.read(queue.settled(), 1, usize::MAX).await?.records.len())
        };
        ensure!(runtime.block_on(first)? == 1, "no first record");
    }
    let first_s = started.elapsed().as_secs_f64();
    let (rss, peak) = machine::memory()?;
    let records = found.records;
    let said =
        json!({"open_s": open_s, "first_s": first_s, "rss": rss, "peak": peak, "records": records});
    println!("{said}");
    std::process::exit(0)
}
