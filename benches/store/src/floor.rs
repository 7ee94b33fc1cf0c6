//! What the machine can do at best: the ground on which the other numbers stand.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use crate::peers::Bare;
use crate::{Scale, sub};
use bench_common::report::{Cell, Report, median, quantile};

const BLOCK: usize = 4096;

/// Measures and reports.
pub(crate) fn measure(dir: &Path, scale: &Scale, report: &mut Report) -> Result<()> {
    let dir = sub(dir, "floor")?;
    let count = scale.of(300);
    let kinds = [
        ("4 KiB + fdatasync, reserved file (as the store)", BLOCK, false),
        ("4 KiB + fdatasync, zeroed file", BLOCK, true),
        ("64 KiB + fdatasync, reserved file", 16 * BLOCK, false),
        ("1 MiB + fdatasync, reserved file", 256 * BLOCK, false),
    ];
    let mut times: Vec<Vec<Vec<f64>>> = vec![Vec::new(); kinds.len()];
    for _ in 0..scale.rounds {
        for ((_, len, zeroed), times) in kinds.iter().zip(&mut times) {
            let count = if *len > 16 * BLOCK { count / 10 } else { count }.max(1);
            let path = dir.join("file");
            let mut bare = Bare::new(&path, (len * count) as u64, *zeroed)?;
            let one = |_| {
                let started = Instant::now();
                bare.batch(*len)?;
                Ok(started.elapsed().as_secs_f64() * 1e3)
            };
            times.push((0..count).map(one).collect::<Result<_>>()?);
            std::fs::remove_file(&path)?;
        }
    }
    std::fs::remove_dir_all(&dir)?;
    let row = |((name, len, _), rounds): (&(&str, usize, bool), &Vec<Vec<f64>>)| -> Vec<Cell> {
        let all: Vec<f64> = rounds.iter().flatten().copied().collect();
        let mean = median(rounds, |times| times.iter().sum::<f64>() / times.len() as f64);
        vec![
            (*name).into(),
            (quantile(&all, 0.5), 3).into(),
            (quantile(&all, 0.99), 3).into(),
            (1e3 / mean, 0).into(),
            (*len as f64 / mean / 1e3, 1).into(),
        ]
    };
    let rows: Vec<_> = kinds.iter().zip(&times).map(row).collect();
    let note = "Bare system calls, one after the other.";
    report.table("The machine's floor", note, &["", "p50 ms", "p99 ms", "per s", "MB/s"], &rows);
    Ok(())
}
