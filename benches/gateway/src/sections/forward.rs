//! Durable and forwarded: from the first message sent to the last one at the sink.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::{
    Bench, Found, GATEWAY, MOSQUITTO, MOSQUITTO_SAFE, MOSQUITTO_TLS, RUMQTTD, Watch, Who, acked,
    keep, misconduct, scenario, seconds,
};
use crate::load::Pace;
use crate::report::{Book, percent};

const PEERS: [Who; 5] = [GATEWAY, MOSQUITTO, MOSQUITTO_TLS, MOSQUITTO_SAFE, RUMQTTD];

pub(super) async fn measure(bench: &Bench, book: &mut Book) -> Result<()> {
    for round in 0..bench.rounds {
        for who in bench.turns(&PEERS, round) {
            let what = format!("forward {who}, round {}", round + 1);
            let found = scenario(book, &what, seconds(90), one(bench, who)).await;
            keep(book, &format!("forward/{who}"), found);
        }
    }
    let mut rows = Vec::new();
    for who in bench.rows(&PEERS) {
        let figure =
            |what: &str, decimals| book.figures.cell(&format!("forward/{who}/{what}"), decimals);
        let rate = |who| format!("forward/{who}/forwarded_per_s");
        let ratio = |below: Who| percent(book.figures.ratio(&rate(who), &rate(below)));
        rows.push(vec![
            who.to_string().into(),
            figure("messages", 0),
            figure("forwarded_per_s", 0),
            ratio(MOSQUITTO),
            percent(book.figures.ratio(&rate(who), "ingest/50x20x256/null/acked_per_s")),
            figure("acked_per_s", 0),
            figure("cpu_s_per_100k", 2),
            book.figures.pair(
                &format!("forward/{who}/cores"),
                &format!("forward/{who}/harness_cores"),
                1,
            ),
            figure("lost", 0),
            figure("duplicates", 0),
            figure("reordered", 0),
        ]);
    }
    let note = "50 devices, window 20, 256 B: messages divided by the seconds from the first one sent to the last one at the \
                sink; CPU of the process under test for in and out. *Of null*: beside what the null broker acknowledges of the same \
                load (Ingest), which is the load generator's ceiling. *Cores*: as in Ingest. The safe Mosquitto rewrites its whole \
                file again and again, so it gets fewer messages (which flatters it: a save costs more the more there is).";
    let columns = [
        "",
        "messages",
        "forwarded/s",
        "of mosquitto",
        "of null",
        "acked/s",
        "CPU s per 100k",
        "cores: it, harness",
        "lost",
        "duplicates",
        "reordered",
    ];
    book.report.table("Forward", note, &columns, &rows);
    Ok(())
}

/// Seconds of work for each of them.
fn messages(who: Who, quick: bool) -> u64 {
    match (who == MOSQUITTO_SAFE, quick) {
        (false, false) => 300_000,
        (false, true) => 50_000,
        (true, false) => 20_000,
        (true, true) => 5_000,
    }
}

async fn one(bench: &Bench, who: Who) -> Result<Found> {
    let messages = messages(who, bench.quick);
    let running = bench.running(who).await?;
    let mut fleet = running.fleet(50, 256, Pace::Closed { window: 20 }).await?;
    fleet.limit(messages);
    let tally = running.tally().cloned().unwrap_or_default();
    let (before, own, started) = (running.usage()?, bench_common::machine::cpu(), Instant::now());
    fleet.start();
    let all_acked = async {
        super::until_acked(&fleet, messages).await;
        started.elapsed().as_secs_f64()
    };
    let (ingest_s, watch) = tokio::join!(all_acked, Watch::until(&tally, messages, seconds(20)));
    let after = running.usage()?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = after.cpu_seconds - before.cpu_seconds;
    ensure!(watch.arrived > 0, "nothing arrived at the sink");
    let arrived = tally.arrived();
    let found = vec![
        ("messages", messages as f64),
        ("forwarded_per_s", watch.arrived as f64 / watch.last),
        ("acked_per_s", messages as f64 / ingest_s),
        ("cpu_s_per_100k", cpu / watch.arrived as f64 * 1e5),
        ("cores", cpu / seconds),
        ("harness_cores", super::cores(own, seconds)),
        ("strays", arrived.strays as f64),
        ("wrong_pubacks", misconduct(who, &fleet)),
        ("lost", tally.lost(&acked(&fleet)) as f64),
        ("duplicates", arrived.duplicates as f64),
        ("reordered", arrived.reordered as f64),
    ];
    drop(fleet);
    running.end().await?;
    Ok(found)
}
