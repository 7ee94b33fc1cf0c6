//! What the machine can do at best.

use anyhow::Result;

use super::{Bench, DEVICES};
use crate::floor;
use crate::report::Book;
use bench_common::report::{median, quantile};

/// Sizes of a commit: one small message, and ever larger batches.
const BYTES: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];

pub(super) async fn measure(bench: &Bench, book: &mut Book) -> Result<()> {
    let pki = bench.pki(DEVICES)?;
    let folder = bench.folder()?;
    let (syncs, handshakes, bytes) =
        if bench.quick { (100, 300, 64 << 20) } else { (300, 1000, 256 << 20) };
    for _ in 0..bench.rounds {
        for size in BYTES {
            let times = tokio::task::block_in_place(|| floor::fdatasync(&folder, size, syncs))?;
            let mut add =
                |what, value| book.figures.add(format!("floor/fdatasync/{size}/{what}"), value);
            add("per_s", per_second(&times));
            add("p50_us", quantile(&times, 0.5) * 1e6);
            add("p99_us", quantile(&times, 0.99) * 1e6);
        }
        let rate = tokio::task::block_in_place(|| floor::handshakes_per_core(&pki, handshakes))?;
        book.figures.add("floor/handshakes_per_core_s", rate);
        let rate =
            tokio::task::block_in_place(|| floor::bare_handshakes_per_core(&pki, handshakes))?;
        book.figures.add("floor/bare_handshakes_per_core_s", rate);
        let rate = tokio::task::block_in_place(|| floor::tls_bytes_per_second(&pki, bytes))?;
        book.figures.add("floor/tls_bytes_per_s", rate);
    }
    let mut rows = Vec::new();
    for size in BYTES {
        let figure =
            |what, decimals| book.figures.cell(&format!("floor/fdatasync/{size}/{what}"), decimals);
        let name = format!("write + fdatasync of {} KiB, per second", size >> 10);
        rows.push(vec![name.into(), figure("per_s", 0), figure("p50_us", 0), figure("p99_us", 0)]);
    }
    let figure = |name| book.figures.cell(name, 0);
    rows.push(vec![
        "full mutual TLS 1.3 handshakes, server side, per second of one core".into(),
        figure("floor/handshakes_per_core_s"),
        "-".into(),
        "-".into(),
    ]);
    rows.push(vec![
        "the same without verifying the device's chain (possession of the key alone)".into(),
        figure("floor/bare_handshakes_per_core_s"),
        "-".into(),
        "-".into(),
    ]);
    let megabytes = book.figures.median("floor/tls_bytes_per_s").map(|bytes| bytes / 1e6);
    let megabytes = crate::report::cell(megabytes, 0);
    rows.push(vec![
        "MB per second of one TLS stream over loopback".into(),
        megabytes,
        "-".into(),
        "-".into(),
    ]);
    let note = "What is left when everything but one step is taken away. The null broker, the floor of latency and \
                connects, is measured beside the peers.";
    book.report.table("Floors", note, &["floor", "rate", "p50 us", "p99 us"], &rows);
    Ok(())
}

/// Operations per second of those that took `times`.
pub(super) fn per_second(times: &[f64]) -> f64 {
    times.len() as f64 / times.iter().sum::<f64>()
}

/// The disk at this very moment: median duration and p99, in seconds, of a commit of `bytes`, and how many a second.
pub(super) fn disk(bench: &Bench, bytes: f64, count: usize) -> Result<(f64, f64)> {
    let size = (bytes.max(1.0) as usize).next_multiple_of(4096);
    let folder = bench.folder()?;
    let times = tokio::task::block_in_place(|| floor::fdatasync(&folder, size, count))?;
    std::fs::remove_dir_all(folder)?;
    debug_assert!(median(&times, |t| *t) > 0.0);
    Ok((per_second(&times), quantile(&times, 0.99)))
}
