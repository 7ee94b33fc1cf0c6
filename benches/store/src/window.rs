//! What the commit window costs and saves: acknowledgement latency against bytes written per message.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tokio::runtime::Runtime;

use crate::target::{self, Caller, Way};
use crate::{Scale, sub};
use bench_common::machine;
use bench_common::report::{Cell, Report, median, quantile};

const CALLERS: usize = 50;
const PAYLOAD: usize = 256;

/// One run of one window at one rate.
struct Run {
    messages: f64,
    commits: f64,
    blocks: f64,
    counted_blocks: f64,
}

/// All runs of one window at one rate.
struct Setting {
    rate: u32,
    window: Duration,
    runs: Vec<Run>,
    /// Of all runs, in milliseconds.
    latencies: Vec<f64>,
}

/// Measures and reports.
pub(crate) fn measure(dir: &Path, scale: &Scale, report: &mut Report) -> Result<()> {
    let runtime = target::runtime()?;
    let dir = sub(dir, "window")?;
    let mut rows = Vec::new();
    for (rate, millis) in [(10, 4000), (100, 2000), (2000, 1000)] {
        let length = Duration::from_millis(scale.of(millis) as u64);
        let setting = |ms| Setting {
            rate,
            window: Duration::from_millis(ms),
            runs: Vec::new(),
            latencies: Vec::new(),
        };
        let mut settings: Vec<Setting> = [0, 2, 10, 100].map(setting).into();
        for round in 0..scale.rounds {
            for setting in &mut settings {
                let name = format!("{rate}-{}-{round}", setting.window.as_millis());
                setting.run(&runtime, &sub(&dir, &name)?, length)?;
            }
        }
        rows.extend(settings.iter().map(Setting::row));
    }
    std::fs::remove_dir_all(&dir)?;
    let columns = [
        "offered msg/s",
        "window ms",
        "ack p50 ms",
        "ack p99 ms",
        "messages / commit",
        "block bytes / message",
        "store's own count",
    ];
    let note = format!(
        "{CALLERS} callers, payload {PAYLOAD} B, arrivals at random (Poisson). The latency is from append to receipt, \
         over all rounds. Block bytes: 4 KiB data blocks made dirty, by the kernel's count."
    );
    report.table("Commit window", &note, &columns, &rows);
    Ok(())
}

impl Setting {
    fn run(&mut self, runtime: &Runtime, dir: &Path, length: Duration) -> Result<()> {
        let (store, _) = target::open(dir, self.window)?;
        let payload = target::payload(PAYLOAD);
        let mut caller = Caller::new(&store);
        // The queue is made, the segment is open.
        runtime.block_on(caller.batch(std::iter::once(payload.clone())))?;
        let (before, blocks) = (store.stats(), machine::block_bytes()?);
        let due = arrivals(self.runs.len() as u64 + 1, self.rate, length);
        let ways: Vec<Way> = (0..CALLERS).map(|_| caller.way.of_another()).collect();
        let latencies = std::thread::scope(|scope| {
            let (sent, at) = std::sync::mpsc::channel();
            let send = || send(runtime, &ways, &due, &payload, sent);
            let sender = scope.spawn(send);
            let mut latencies = Vec::new();
            for tag in 0..due.len() as u64 {
                ensure!(runtime.block_on(caller.acknowledged())? == tag, "out of order");
                latencies.push(at.recv()?.elapsed().as_secs_f64() * 1e3);
            }
            sender.join().expect("it returns its errors")?;
            anyhow::Ok(latencies)
        })?;
        self.latencies.extend(latencies);
        let (after, blocks) = (store.stats(), machine::block_bytes()? - blocks);
        let counted = after.written_block_bytes - before.written_block_bytes;
        self.runs.push(Run {
            messages: (after.appended_records - before.appended_records) as f64,
            commits: (after.commits - before.commits) as f64,
            blocks: blocks as f64,
            counted_blocks: counted as f64,
        });
        runtime.block_on(store.close());
        std::fs::remove_dir_all(dir).context("clean up")
    }

    fn row(&self) -> Vec<Cell> {
        vec![
            (f64::from(self.rate), 0).into(),
            (self.window.as_millis() as f64, 0).into(),
            (quantile(&self.latencies, 0.5), 2).into(),
            (quantile(&self.latencies, 0.99), 2).into(),
            (median(&self.runs, |r| r.messages / r.commits), 1).into(),
            (median(&self.runs, |r| r.blocks / r.messages), 0).into(),
            (median(&self.runs, |r| r.counted_blocks / r.messages), 0).into(),
        ]
    }
}

/// Sends at each time of `due`, caller by caller, without waiting for receipts; tells when.
fn send(
    runtime: &Runtime,
    ways: &[Way],
    due: &[Duration],
    payload: &Bytes,
    sent: mpsc::Sender<Instant>,
) -> Result<()> {
    let started = Instant::now();
    for (tag, due) in due.iter().enumerate() {
        // A thread of its own: the runtime's timers go by whole milliseconds, and would bunch the arrivals.
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        sent.send(Instant::now())?;
        runtime.block_on(ways[tag % ways.len()].append(tag as u64, payload.clone()))?;
    }
    Ok(())
}

/// Poisson arrivals: exponentially distributed pauses.
fn arrivals(seed: u64, rate: u32, length: Duration) -> Vec<Duration> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut at = 0.0;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let uniform = ((state >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        at -= uniform.ln() / f64::from(rate);
        Duration::from_secs_f64(at)
    };
    std::iter::repeat_with(&mut next).take_while(|at| *at < length).collect()
}
