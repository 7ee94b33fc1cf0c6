//! From spawn to the first TCP connection that is accepted, with nothing stored.

use std::time::Instant;

use anyhow::Result;

use super::{
    Bench, Found, GATEWAY, LINK_PATIENCE, MOSQUITTO, MOSQUITTO_SAFE, RUMQTTD, Who, keep, scenario,
    seconds,
};
use crate::report::Book;

const PEERS: [Who; 4] = [GATEWAY, MOSQUITTO, MOSQUITTO_SAFE, RUMQTTD];

pub(super) async fn measure(bench: &Bench, book: &mut Book) -> Result<()> {
    for round in 0..bench.rounds {
        for who in bench.turns(&PEERS, round) {
            let what = format!("start {who}, round {}", round + 1);
            let found = scenario(book, &what, seconds(30), one(bench, who)).await;
            keep(book, &format!("start/{who}"), found);
        }
    }
    let figure = |who, what| book.figures.cell(&format!("start/{who}/{what}"), 1);
    let row = |who: Who| {
        let times = ["ms", "linked_ms", "stop_ms"].map(|what| figure(who, what));
        std::iter::once(who.to_string().into()).chain(times).collect()
    };
    let rows: Vec<_> = bench.rows(&PEERS).into_iter().map(row).collect();
    let note = "Milliseconds from spawn to accepting, with an empty folder; until the way to the sink stands (the gateway: and it knows \
                its 500 devices); and from SIGTERM to the end.";
    book.report.table("Start", note, &["", "start ms", "linked ms", "stop ms"], &rows);
    Ok(())
}

async fn one(bench: &Bench, who: Who) -> Result<Found> {
    let Who::Peer(peer) = who else { anyhow::bail!("a peer starts") };
    let pki = bench.pki(super::DEVICES)?;
    let mut site = bench.site(peer, &pki).await?;
    let spawned = Instant::now();
    let start = site.start().await?;
    site.linked(LINK_PATIENCE).await?;
    let linked = spawned.elapsed().as_secs_f64();
    let asked = Instant::now();
    site.stop().await?;
    let stop = asked.elapsed().as_secs_f64();
    Ok(vec![("ms", start * 1e3), ("linked_ms", linked * 1e3), ("stop_ms", stop * 1e3)])
}
