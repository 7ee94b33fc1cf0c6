//! How long a device waits for its PUBACK at a rate that everyone can serve, counted from the time it was due.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    Bench, Found, GATEWAY, GATEWAY_WINDOW, MOSQUITTO, RUMQTTD, Who, floors, keep, misconduct,
    scenario, seconds,
};
use crate::load::Pace;
use crate::report::Book;

const PEERS: [Who; 5] = [GATEWAY, GATEWAY_WINDOW, MOSQUITTO, RUMQTTD, Who::Null];
const DEVICES: usize = 50;
const PAYLOAD: usize = 256;
/// A window so wide that it holds nothing back.
const PACE: Pace = Pace::Open { per_second: 2000.0, window: 100 };

pub(super) async fn measure(bench: &Bench, book: &mut Book) -> Result<()> {
    for round in 0..bench.rounds {
        for who in bench.turns(&PEERS, round) {
            let what = format!("latency {who}, round {}", round + 1);
            let found = scenario(book, &what, seconds(60), one(bench, who)).await;
            keep(book, &format!("latency/{who}"), found);
        }
    }
    for who in bench.rows(&[GATEWAY, GATEWAY_WINDOW]) {
        let what = format!("latency {who}, its system calls counted");
        let found = scenario(book, &what, seconds(60), counted(bench, who)).await;
        keep(book, &format!("latency/{who}"), found);
    }
    table(bench, book);
    Ok(())
}

fn table(bench: &Bench, book: &mut Book) {
    let mut rows = Vec::new();
    for who in bench.rows(&PEERS) {
        let figure =
            |what: &str, decimals| book.figures.cell(&format!("latency/{who}/{what}"), decimals);
        let null = |who| format!("latency/{who}/p99_us");
        rows.push(vec![
            who.to_string().into(),
            figure("p50_us", 0),
            figure("p99_us", 0),
            figure("p999_us", 0),
            crate::report::cell(book.figures.ratio(&null(who), &null(Who::Null)), 1),
            book.figures.pair(
                &format!("latency/{who}/arrival_p50_us"),
                &format!("latency/{who}/arrival_p99_us"),
                0,
            ),
            figure("acked_per_s", 0),
            figure("late_p99_us", 0),
            figure("held", 0),
            figure("cpu_s_per_100k", 2),
            figure("sync_p99_us", 0),
            super::syncs_cell(book, &format!("latency/{who}")),
        ]);
    }
    let columns = [
        "",
        "p50",
        "p99",
        "p99.9",
        "p99 / null",
        "at the sink: p50, p99",
        "acked/s",
        "late p99",
        "held",
        "CPU s per 100k",
        "disk p99",
        "fdatasync / message",
    ];
    book.report.table("Latency", NOTE, &columns, &rows);
}

const NOTE: &str = "PUBACK latency from the due time at 2,000 messages a second offered (open loop, 50 devices, 256 B), microseconds, 10 s \
                    (quick: 3 s) after 2 s of warm-up. *gateway-5ms*: with a commit window of 5 ms, which trades latency for fewer \
                    fdatasync. *p99 / null*: beside the null broker, the floor. *At the sink*: from the due time to the arrival there. \
                    *Acked/s* below 2,000: the offered rate was not kept up with. *Late*: p99 of how late the generator itself sent. \
                    *Held*: messages that were due while their device's window was full. *Disk p99*: bare write + fdatasync of the \
                    batch seen, right after. *fdatasync*: by the kernel, by the gateway's own metric.";

async fn one(bench: &Bench, who: Who) -> Result<Found> {
    let running = bench.running(who).await?;
    let mut fleet = running.fleet(DEVICES, PAYLOAD, PACE).await?;
    fleet.start();
    fleet.sample(seconds(if bench.quick { 1 } else { 2 })).await;
    let (store, before) = (running.store().await, running.usage()?);
    if let Some(tally) = running.tally() {
        tally.time_arrivals();
    }
    let mut sample = fleet.sample(seconds(if bench.quick { 3 } else { 10 })).await;
    let after = running.usage()?;
    let arrivals = running.tally().map(|tally| tally.arrivals()).unwrap_or_default();
    let store = store.zip(running.store().await).map(|(before, after)| after.since(before));
    fleet.finish(seconds(5)).await;
    // What was under way when the sample ended is no less late for it.
    sample.latency.merge(&fleet.measured().latency);
    let (wrong, strays) = (misconduct(who, &fleet), running.strays());
    running.end().await?;
    ensure!(sample.latency.count() > 0, "nothing was acknowledged");
    let messages = sample.acked as f64;
    let mut found = vec![
        ("p50_us", sample.latency.quantile(0.5)),
        ("p99_us", sample.latency.quantile(0.99)),
        ("p999_us", sample.latency.quantile(0.999)),
        ("max_us", sample.latency.max()),
        ("late_p99_us", sample.late.quantile(0.99)),
        ("arrival_p50_us", arrivals.quantile(0.5)),
        ("arrival_p99_us", arrivals.quantile(0.99)),
        ("wrong_pubacks", wrong),
        ("strays", strays),
        ("held", sample.held as f64),
        ("acked_per_s", messages / sample.seconds),
        ("cpu_s_per_100k", (after.cpu_seconds - before.cpu_seconds) / messages * 1e5),
    ];
    if let Some(store) = store.filter(|store| store.syncs > 0.0) {
        let (_, p99) = floors::disk(bench, store.written_bytes / store.syncs, 1000)?;
        found.extend([
            ("sync_p99_us", p99 * 1e6),
            ("messages_per_commit", store.records / store.syncs),
        ]);
    }
    Ok(found)
}

async fn counted(bench: &Bench, who: Who) -> Result<Found> {
    let running = bench.running(who).await?;
    let mut fleet = running.fleet(DEVICES, PAYLOAD, PACE).await?;
    let doing = async {
        fleet.start();
        fleet.sample(Duration::from_secs(3)).await;
        fleet.finish(seconds(5)).await;
    };
    let counted = super::count(bench, &running, doing).await?;
    running.end().await?;
    Ok(counted)
}
