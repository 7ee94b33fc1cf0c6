//! Measurements on a volume.
//!
//! Owns: the latency of fdatasync, and what the real store writes. Invariants: they write as the store does, through its
//! disk; each takes its share of time at most, and at least one sample. Must not know: what is good or bad.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use super::volume::Volume;
use super::{RECORD_BYTES, Stop};
use crate::clock::{self, SharedClock};
use crate::store::disk::Mode;
use crate::store::{
    Append, AppendChain, AppendClass, AppendTo, Config, Disk, QueueId, RealDisk, Receipt,
    ReceiptTo, Store,
};

/// As a full segment of the store.
const FILE_BYTES: u64 = 4 * 1024 * 1024;
/// A sample is 8 bytes.
const SAMPLES_MAX: usize = 1_000_000;
/// Records of one measurement of write amplification, at most: 100,000 of 256 B are 25 MB.
const RECORDS_MAX: usize = 100_000;
/// Long enough for a batch to come together, so that each is one commit.
const COMMIT_WINDOW: Duration = Duration::from_millis(5);

/// How long appends wait for the disk.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Latency {
    pub(super) block_bytes: u64,
    pub(super) samples: u64,
    pub(super) p50_micros: u64,
    pub(super) p99_micros: u64,
    pub(super) max_micros: u64,
}

/// What the store writes for what it is given.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Amplification {
    pub(super) records: u64,
    pub(super) records_per_commit: f64,
    /// Handed to the file system: records, headers, seals, checkpoints.
    pub(super) written_per_payload_byte: f64,
    /// The same, rounded out to blocks of 4 KiB.
    pub(super) blocks_per_payload_byte: Option<f64>,
    /// Counted by the device, so that of others included, and the file system's journal.
    pub(super) device_per_payload_byte: Option<f64>,
}

/// Appends `block` bytes and waits for the disk, again and again.
pub(super) fn latency(
    folder: &Path,
    block: u64,
    share: Duration,
    stop: &Stop,
) -> io::Result<Latency> {
    let clock = clock::system();
    let path = folder.join(format!("append-{block}"));
    let bytes = vec![0x5a; usize::try_from(block).map_err(io::Error::other)?];
    let began = clock.monotonic();
    let mut samples = Vec::new();
    let is_over = |samples: &Vec<u64>| {
        let late = clock.monotonic().saturating_duration_since(began) >= share;
        stop.is_set() || samples.len() >= SAMPLES_MAX || (late && !samples.is_empty())
    };
    while !is_over(&samples) {
        let file = RealDisk.open(&path, Mode::CreateNew)?;
        file.allocate(FILE_BYTES)?;
        file.sync_data()?;
        for at in (0..FILE_BYTES).step_by(bytes.len()) {
            if is_over(&samples) {
                break;
            }
            let before = clock.monotonic();
            file.write_at(&bytes, at)?;
            file.sync_data()?;
            samples.push(micros_since(&clock, before));
        }
        RealDisk.remove_file(&path)?;
    }
    Ok(Latency { block_bytes: block, ..summary(samples) })
}

fn micros_since(clock: &SharedClock, before: std::time::Instant) -> u64 {
    let took = clock.monotonic().saturating_duration_since(before);
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

fn summary(mut samples: Vec<u64>) -> Latency {
    samples.sort_unstable();
    // The smallest sample that at least so many percent do not exceed.
    let percentile = |percent: usize| {
        let rank = (samples.len() * percent).div_ceil(100).max(1);
        samples.get(rank - 1).copied().unwrap_or(0)
    };
    Latency {
        block_bytes: 0,
        samples: samples.len() as u64,
        p50_micros: percentile(50),
        p99_micros: percentile(99),
        max_micros: percentile(100),
    }
}

/// Gives a store batches of `batch` records.
pub(super) fn amplification(
    folder: &Path,
    batch: usize,
    share: Duration,
    stop: &Stop,
) -> io::Result<Amplification> {
    let dir = folder.join(format!("store-{batch}"));
    let commit_window = if batch > 1 { COMMIT_WINDOW } else { Duration::ZERO };
    let config = Config { commit_window, ..Config::new(&dir) };
    let volume = Volume::of(folder)?;
    let (store, _) =
        Store::open(config, Arc::new(RealDisk), clock::system()).map_err(io::Error::other)?;
    let device = volume.device_bytes();
    let handle = tokio::runtime::Handle::current();
    let records = handle.block_on(async {
        let records = fill(&store, batch, share, stop).await;
        store.close().await;
        records
    })?;
    let stats = store.stats();
    drop(store);
    let device =
        device.zip(volume.device_bytes()).map(|(before, after)| after.saturating_sub(before));
    std::fs::remove_dir_all(&dir)?;
    #[allow(clippy::cast_precision_loss, reason = "a ratio that is shown with two digits")]
    let per = |n: u64, of: u64| n as f64 / of.max(1) as f64;
    let per_byte = |n: u64| Some(per(n, stats.appended_bytes)).filter(|_| n > 0);
    Ok(Amplification {
        records,
        records_per_commit: per(stats.appended_records, stats.commits),
        written_per_payload_byte: per(stats.written_bytes, stats.appended_bytes),
        blocks_per_payload_byte: per_byte(stats.written_block_bytes),
        device_per_payload_byte: device.and_then(per_byte),
    })
}

/// Appends batches until the time is over; gives the number of records.
async fn fill(store: &Store, batch: usize, share: Duration, stop: &Stop) -> io::Result<u64> {
    let clock = clock::system();
    let began = clock.monotonic();
    let (appender, chain) = (store.appender(), AppendChain::new());
    let (to, mut receipts) = mpsc::channel::<Receipt>(batch);
    let queue = QueueId::new("doctor", QueueId::PRIORITY_DEFAULT);
    let payload = Bytes::from(vec![0x5a; RECORD_BYTES]);
    let mut records = 0;
    loop {
        for tag in 0..batch {
            let append = Append {
                queues: vec![AppendTo { queue: queue.clone(), ttl_secs: 0 }],
                payload: payload.clone(),
                since: None,
                class: AppendClass::Internal,
                receipt: ReceiptTo::new(tag as u64, to.clone(), &chain),
            };
            appender.append(append).await.map_err(io::Error::other)?;
        }
        for _ in 0..batch {
            let receipt =
                receipts.recv().await.ok_or_else(|| io::Error::other("the store ended"))?;
            receipt.result.map_err(io::Error::other)?;
        }
        records += batch;
        let late = clock.monotonic().saturating_duration_since(began) >= share;
        if late || stop.is_set() || records >= RECORDS_MAX {
            return Ok(records as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let of = |samples: Vec<u64>| {
            let l = summary(samples);
            (l.samples, l.p50_micros, l.p99_micros, l.max_micros)
        };
        assert_eq!(of(vec![]), (0, 0, 0, 0));
        assert_eq!(of(vec![7]), (1, 7, 7, 7));
        assert_eq!(of((1..=100).rev().collect()), (100, 50, 99, 100));
        assert_eq!(of((1..=1000).collect()), (1000, 500, 990, 1000));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_larger_batch_writes_less_per_byte_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        let [one, hundred] = tokio::task::spawn_blocking(move || {
            let stop = Stop::default();
            let l = latency(&path, 4096, Duration::ZERO, &stop).unwrap();
            assert_eq!(l.samples, 1);
            [1, 100].map(|n| amplification(&path, n, Duration::from_millis(50), &stop).unwrap())
        })
        .await
        .unwrap();
        assert!(one.written_per_payload_byte > 1.0, "{one:?}");
        assert!(hundred.records >= 100 && hundred.records_per_commit > one.records_per_commit);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
