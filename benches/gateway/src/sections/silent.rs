//! Honest devices beside 500 TCP connections that never say a word.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, GATEWAY, MOSQUITTO, RUMQTTD, Running, Who, scenario, seconds};
use crate::load::{connects, silent};
use crate::report::{Book, percent};

const PEERS: [Who; 3] = [GATEWAY, MOSQUITTO, RUMQTTD];
const HONEST: usize = 300;
const SILENT: usize = 500;
const AT_ONCE: usize = 32;
/// Honest devices that have not all connected by then are counted as none.
const LIMIT: Duration = Duration::from_secs(15);

pub(super) async fn measure(bench: &Bench, book: &mut Book) -> Result<()> {
    for round in 0..bench.rounds {
        for who in bench.turns(&PEERS, round) {
            let what = format!("silent {who}, round {}", round + 1);
            if let Some((alone, beside)) = scenario(book, &what, seconds(60), one(bench, who)).await
            {
                book.figures.add(format!("silent/{who}/alone_per_s"), alone);
                book.figures.add(format!("silent/{who}/beside_per_s"), beside);
                book.figures.add(format!("silent/{who}/ratio"), beside / alone);
            }
        }
    }
    let mut rows = Vec::new();
    for who in bench.rows(&PEERS) {
        let name = |what: &str| format!("silent/{who}/{what}");
        rows.push(vec![
            who.to_string().into(),
            book.figures.cell(&name("alone_per_s"), 0),
            book.figures.cell(&name("beside_per_s"), 0),
            percent(book.figures.median(&name("ratio"))),
        ]);
    }
    let note = "Connects per second of 300 honest devices (32 at a time), alone and beside 500 TCP connections that never say a \
                word. 0: they had not all connected after 15 s, or the peer stopped accepting before.";
    book.report.table("Silent", note, &["", "alone", "beside 500 silent", "ratio"], &rows);
    Ok(())
}

async fn one(bench: &Bench, who: Who) -> Result<(f64, f64)> {
    let running = bench.running(who).await?;
    let alone = rate(&running).await?;
    running.end().await?;
    let running = bench.running(who).await?;
    let beside = match silent(running.address(), SILENT).await {
        Ok(_held) => rate(&running).await?,
        // A peer that does not even accept them accepts nobody.
        Err(error) => {
            eprintln!("  {who}: {error:#}");
            0.0
        }
    };
    running.end().await?;
    Ok((alone, beside))
}

async fn rate(running: &Running) -> Result<f64> {
    let connecting = connects(&running.pki, running.address(), HONEST, AT_ONCE);
    Ok(match tokio::time::timeout(LIMIT, connecting).await {
        Ok(connected) => {
            let connected = connected?;
            (HONEST - connected.failed) as f64 / connected.seconds
        }
        Err(_) => 0.0,
    })
}
