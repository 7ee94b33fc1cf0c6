//! How fast a backlog leaves when the sink is back: a near one, and one that answers after 50 ms.

use std::time::Duration;

use anyhow::{Result, ensure};
use bench_common::report::Cell;
use sphere_gateway::pump;

use super::{
    Bench, Found, GATEWAY, MOSQUITTO, RUMQTTD, Watch, Who, acked, keep, misconduct, scenario,
    seconds, until_acked,
};
use crate::load::{Pace, topic_bytes};
use crate::report::{Book, percent};

const PEERS: [Who; 3] = [GATEWAY, MOSQUITTO, RUMQTTD];
const FAR: Duration = Duration::from_millis(50);

/// How far the sink is, and whose messages wait.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    words: &'static str,
    devices: usize,
    delay: Duration,
    peers: &'static [Who],
}

const CASES: [Case; 3] = [
    Case { name: "near", words: "near", devices: 50, delay: Duration::ZERO, peers: &PEERS },
    Case { name: "far", words: "50 ms away", devices: 50, delay: FAR, peers: &[GATEWAY] },
    Case { name: "far500", words: "50 ms away", devices: 500, delay: FAR, peers: &[GATEWAY] },
];

pub(super) async fn measure(bench: &Bench, book: &mut Book) -> Result<()> {
    let limit = pump::Config::default().window_messages_max as f64 / FAR.as_secs_f64();
    for round in 0..bench.rounds {
        for case in CASES {
            let (name, devices) = (case.name, case.devices);
            for who in bench.turns(case.peers, round) {
                let what = format!("drain {name} {who}, {devices} devices, round {}", round + 1);
                let mut found = scenario(book, &what, seconds(120), one(bench, who, case)).await;
                if let Some(found) = found.as_mut().filter(|_| !case.delay.is_zero()) {
                    let rate = found.iter().find(|(name, _)| *name == "per_s").map(|(_, n)| *n);
                    found.extend(rate.map(|rate| ("of_window_over_delay", rate / limit)));
                }
                keep(book, &format!("drain/{name}/{who}"), found);
            }
        }
    }
    let mut rows = Vec::new();
    for case in CASES {
        for who in bench.rows(case.peers) {
            rows.push(row(book, case, who));
        }
    }
    let note = "100,000 messages of 256 B (quick: 20,000) wait for a sink that was away; arrivals per second from the first to the \
                last. The gateway has them on disk, the others in memory. *Of TLS*: payload and topic beside the bytes per second \
                of one bare TLS stream (Floors; Mosquitto's way to the sink has no TLS). With a sink that acknowledges 50 ms later: \
                between a tenth and nine tenths of the messages, and the fraction of window / delay (the gateway has 1,024 messages \
                under way at most). The peers' windows are 20 (Mosquitto) and 100 (rumqttd), which is 400 and 2,000 messages a \
                second there: not measured.";
    let columns = [
        "sink",
        "devices",
        "",
        "messages/s",
        "of mosquitto, of window / delay",
        "of TLS",
        "first after s",
        "CPU s per 100k",
        "lost",
        "reordered",
    ];
    book.report.table("Drain", note, &columns, &rows);
    Ok(())
}

fn row(book: &Book, case: Case, who: Who) -> Vec<Cell> {
    let name = |who: Who, what: &str| format!("drain/{}/{who}/{what}", case.name);
    let figure = |what: &str, decimals| book.figures.cell(&name(who, what), decimals);
    let part = if case.delay.is_zero() {
        book.figures.ratio(&name(who, "per_s"), &name(MOSQUITTO, "per_s"))
    } else {
        book.figures.median(&name(who, "of_window_over_delay"))
    };
    let bytes = (256 + topic_bytes()) as f64;
    let of_tls = book.figures.ratio(&name(who, "per_s"), "floor/tls_bytes_per_s");
    vec![
        case.words.into(),
        case.devices.into(),
        who.to_string().into(),
        figure("per_s", 0),
        percent(part),
        percent(of_tls.filter(|_| who != MOSQUITTO).map(|rate| rate * bytes)),
        figure("first_s", 2),
        figure("cpu_s_per_100k", 2),
        figure("lost", 0),
        figure("reordered", 0),
    ]
}

async fn one(bench: &Bench, who: Who, case: Case) -> Result<Found> {
    let messages = if bench.quick { 20_000 } else { 100_000 };
    let mut running = bench.running(who).await?;
    running.site()?.sink_away().await?;
    let mut fleet = running.fleet(case.devices, 256, Pace::Closed { window: 20 }).await?;
    fleet.limit(messages);
    fleet.start();
    until_acked(&fleet, messages).await;
    let tally = running.tally().cloned().unwrap_or_default();
    running.site()?.sink_delay(case.delay);
    let before = running.usage()?;
    running.site()?.sink_back().await?;
    let watch = Watch::until(&tally, messages, seconds(30)).await;
    let after = running.usage()?;
    ensure!(watch.arrived > 0, "nothing arrived within 30 s");
    let rate = if case.delay.is_zero() { watch.rate() } else { watch.middle_rate() };
    let found = vec![
        ("per_s", rate),
        ("first_s", watch.first),
        ("cpu_s_per_100k", (after.cpu_seconds - before.cpu_seconds) / watch.arrived as f64 * 1e5),
        ("wrong_pubacks", misconduct(who, &fleet)),
        ("strays", running.strays()),
        ("lost", tally.lost(&acked(&fleet)) as f64),
        ("reordered", tally.arrived().reordered as f64),
    ];
    drop(fleet);
    running.end().await?;
    Ok(found)
}
