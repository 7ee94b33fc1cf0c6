//! What honest devices notice of a flood: their PUBACK latency without and with it, in one run, and the gateway's memory.

use anyhow::{Result, ensure};

use super::{Bench, Found, GATEWAY, Who, keep, misconduct, scenario, seconds};
use crate::load::{Flood, Pace};
use crate::pki::{Pki, TENANT_CURVE};
use crate::report::Book;

const PEERS: [Who; 1] = [GATEWAY];
const DEVICES: usize = 100;
const PAYLOAD: usize = 256;
/// Five messages a second of each device; a window so wide that it holds nothing back.
const PACE: Pace = Pace::Open { per_second: 500.0, window: 100 };

pub(super) async fn measure(bench: &Bench, book: &mut Book) -> Result<()> {
    for round in 0..bench.rounds {
        for who in bench.turns(&PEERS, round) {
            let what = format!("flood {who}, round {}", round + 1);
            let found = scenario(book, &what, seconds(90), one(bench, who)).await;
            keep(book, &format!("flood/{who}"), found);
        }
    }
    let mut rows = Vec::new();
    for who in bench.rows(&PEERS) {
        let figure =
            |what: &str, decimals| book.figures.cell(&format!("flood/{who}/{what}"), decimals);
        rows.push(vec![
            who.to_string().into(),
            figure("alone_p50_us", 0),
            figure("alone_p99_us", 0),
            figure("onset_p99_us", 0),
            figure("beside_p50_us", 0),
            figure("beside_p99_us", 0),
            figure("ratio", 2),
            figure("late_p99_us", 0),
            figure("attempts_per_s", 0),
            figure("reconnects", 0),
            figure("alone_rss_mb", 1),
            figure("peak_mb", 1),
            figure("growth_mb", 1),
            figure("cpu_share", 2),
        ]);
    }
    let columns = [
        "",
        "alone p50",
        "p99",
        "first second p99",
        "flooded p50",
        "p99",
        "p99 ratio",
        "sent late p99",
        "attempts/s",
        "reconnects",
        "RSS alone, MB",
        "peak",
        "growth",
        "cores",
    ];
    book.report.table("Flood", NOTE, &columns, &rows);
    Ok(())
}

const NOTE: &str = "PUBACK latency of 100 honest devices (500 messages a second offered, 256 B), microseconds, alone and then beside 512 silent \
                    connections of one address and 24 attackers with an address each (garbage, handshakes with a stranger's certificates, \
                    connect and close), who come again within 10 to 500 ms; the flood's first second stands by itself. Aims: \
                    p99 at most twice, RSS at most 16 MB more. The attackers share this machine's \
                    cores with the gateway: *sent late* is how late the honest devices themselves were in the flood. *cores*: of the \
                    gateway, in the flood.";

async fn one(bench: &Bench, who: Who) -> Result<Found> {
    let strangers = std::sync::Arc::new(Pki::mint_below(TENANT_CURVE, 8)?);
    let running = bench.running(who).await?;
    let mut fleet = running.fleet(DEVICES, PAYLOAD, PACE).await?;
    let length = seconds(if bench.quick { 5 } else { 15 });
    fleet.start();
    fleet.sample(seconds(2)).await;
    let alone = fleet.sample(length).await;
    let rss = running.usage()?.rss_kb;
    let flood = Flood::start(&strangers, running.address());
    // Bans begin within it: the worst second, which is a figure of its own.
    let onset = fleet.sample(seconds(1)).await;
    let (before, attempts) = (running.usage()?, flood.attempts());
    let beside = fleet.sample(length).await;
    let (after, attempts) = (running.usage()?, flood.attempts() - attempts);
    drop(flood);
    fleet.finish(seconds(5)).await;
    let (wrong, strays) = (misconduct(who, &fleet), running.strays());
    let reconnects = fleet.conduct().reconnects;
    running.end().await?;
    let all = [&alone, &onset, &beside];
    ensure!(all.iter().all(|s| s.latency.count() > 0), "nothing was acknowledged");
    Ok(vec![
        ("alone_p50_us", alone.latency.quantile(0.5)),
        ("alone_p99_us", alone.latency.quantile(0.99)),
        ("onset_p99_us", onset.latency.quantile(0.99)),
        ("beside_p50_us", beside.latency.quantile(0.5)),
        ("beside_p99_us", beside.latency.quantile(0.99)),
        ("ratio", beside.latency.quantile(0.99) / alone.latency.quantile(0.99)),
        ("late_p99_us", beside.late.quantile(0.99)),
        ("attempts_per_s", attempts as f64 / beside.seconds),
        ("reconnects", reconnects as f64),
        ("alone_rss_mb", rss / 1024.0),
        ("peak_mb", after.peak_kb / 1024.0),
        ("growth_mb", (after.peak_kb - rss) / 1024.0),
        ("cpu_share", (after.cpu_seconds - before.cpu_seconds) / beside.seconds),
        ("wrong_pubacks", wrong),
        ("strays", strays),
    ])
}
