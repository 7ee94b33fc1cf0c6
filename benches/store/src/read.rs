//! Read and settle; beside it sqlite reading and deleting.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sphere_gateway::store::{Queue, Store};

use crate::peers::Sqlite;
use crate::target::{self, Caller};
use crate::{Scale, sub};
use bench_common::report::{Report, median};

/// Records of a read, and rows of a delete.
const CHUNK: usize = 1000;
const PAYLOAD: usize = 256;

struct Round {
    store_s: f64,
    sqlite_s: f64,
}

/// Measures and reports.
pub(crate) fn measure(dir: &Path, scale: &Scale, report: &mut Report) -> Result<()> {
    let runtime = target::runtime()?;
    let dir = sub(dir, "read")?;
    let count = scale.of(200_000);
    let (store, _) = target::open(&sub(&dir, "store")?, Duration::ZERO)?;
    let mut sqlite = Sqlite::new(&dir.join("sqlite"))?;
    let payload = target::payload(PAYLOAD);
    let mut rounds = Vec::new();
    for _ in 0..scale.rounds {
        let fill = async {
            Caller::new(&store).fill(count as u64, |_| payload.clone()).await?;
            target::queue(&store).await
        };
        let queue = runtime.block_on(fill)?;
        let started = Instant::now();
        runtime.block_on(drain(&store, &queue, count))?;
        let store_s = started.elapsed().as_secs_f64();
        (0..count / 10_000 + 1).try_for_each(|_| sqlite.batch(10_000, &payload))?;
        let started = Instant::now();
        let (mut rows, mut bytes) = (0, 0);
        while rows < count {
            let (r, b) = sqlite.take(CHUNK)?;
            ensure!(r > 0, "sqlite has lost rows");
            (rows, bytes) = (rows + r, bytes + b);
        }
        let sqlite_s = started.elapsed().as_secs_f64();
        ensure!(bytes >= count * PAYLOAD, "sqlite has lost bytes");
        while sqlite.take(10_000)?.0 > 0 {}
        rounds.push(Round { store_s, sqlite_s });
    }
    runtime.block_on(store.close());
    std::fs::remove_dir_all(&dir)?;
    let rate = |s: f64| (count as f64 / s, 0);
    let mb = |s: f64| (count as f64 * PAYLOAD as f64 / s / 1e6, 1);
    let (ours, theirs) = (median(&rounds, |r| r.store_s), median(&rounds, |r| r.sqlite_s));
    let rows = [
        vec!["store".into(), rate(ours).into(), mb(ours).into()],
        vec!["sqlite".into(), rate(theirs).into(), mb(theirs).into()],
        vec!["ratio".into(), (median(&rounds, |r| r.sqlite_s / r.store_s), 2).into(), "".into()],
    ];
    let note = format!(
        "{count} records of {PAYLOAD} B, {CHUNK} at a time, from the page cache; done when the last one is settled. \
         sqlite deletes what it has read in the same transaction."
    );
    report.table("Read and settle", &note, &["", "records/s", "MB/s"], &rows);
    Ok(())
}

async fn drain(store: &Store, queue: &Queue, count: usize) -> Result<()> {
    let (mut from, mut read) = (queue.settled(), 0);
    while read < count {
        let chunk = queue.read(from, CHUNK, usize::MAX).await?;
        ensure!(!chunk.records.is_empty() && chunk.lost.is_empty(), "records are missing");
        read += chunk.records.len();
        from = chunk.next;
        queue.settle(from);
    }
    while queue.messages() > 0 {
        tokio::task::yield_now().await;
    }
    ensure!(store.stats().lost_records == 0, "the store has lost records");
    Ok(())
}
