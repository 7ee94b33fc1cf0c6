//! Acknowledged messages per second as fast as the devices' windows allow, the sink taking everything.

use std::time::Duration;

use anyhow::Result;
use bench_common::report::Cell;

use super::{
    Bench, EVERYONE, Found, GATEWAY, MOSQUITTO, MOSQUITTO_SAFE, RUMQTTD, Running, Who, floors,
    keep, misconduct, scenario, seconds,
};
use crate::load::{Pace, topic_bytes};
use crate::report::{Book, percent};

const PEERS: [Who; 5] = [GATEWAY, MOSQUITTO, MOSQUITTO_SAFE, RUMQTTD, Who::Null];

#[derive(Clone, Copy, PartialEq)]
struct Case {
    devices: usize,
    window: usize,
    payload: usize,
}

impl Case {
    fn name(self) -> String {
        format!("{}x{}x{}", self.devices, self.window, self.payload)
    }

    /// The null broker shows where the load generator itself ends, and the safe Mosquitto is far behind: two cases are
    /// enough for both.
    fn contenders(self) -> Vec<Who> {
        let key =
            matches!((self.devices, self.window, self.payload), (50, 20, 256) | (500, 1, 256));
        let only_in_two = |who: &Who| matches!(*who, MOSQUITTO_SAFE | Who::Null);
        PEERS.into_iter().filter(|who| key || !only_in_two(who)).collect()
    }
}

fn cases(quick: bool) -> Vec<Case> {
    let case = |devices, window, payload| Case { devices, window, payload };
    if quick {
        return vec![case(50, 20, 256), case(500, 1, 256)];
    }
    let of = |payload| [(50, 1), (50, 20), (500, 1), (500, 20)].map(|(d, w)| case(d, w, payload));
    of(256).into_iter().chain(of(1024)).collect()
}

pub(super) async fn measure(bench: &Bench, book: &mut Book) -> Result<()> {
    for case in cases(bench.quick) {
        let place = |who| format!("ingest/{}/{who}", case.name());
        for round in 0..bench.rounds {
            for who in bench.turns(&case.contenders(), round) {
                let what = format!("ingest {} {who}, round {}", case.name(), round + 1);
                let found = scenario(book, &what, seconds(60), one(bench, who, case)).await;
                keep(book, &place(who), found);
            }
        }
        if bench.rows(&[GATEWAY]).len() == 1 {
            let what = format!("ingest {} gateway, its system calls counted", case.name());
            let counted = scenario(book, &what, seconds(60), counted(bench, case)).await;
            keep(book, &place(GATEWAY), counted);
        }
    }
    table(bench, book);
    Ok(())
}

async fn one(bench: &Bench, who: Who, case: Case) -> Result<Found> {
    let running = bench.running(who).await?;
    let mut fleet =
        running.fleet(case.devices, case.payload, Pace::Closed { window: case.window }).await?;
    fleet.start();
    fleet.sample(Duration::from_millis(500)).await;
    let (store, before, arrived) = (running.store().await, running.usage()?, distinct(&running));
    let own = bench_common::machine::cpu();
    let sample = fleet.sample(Duration::from_millis(if bench.quick { 1000 } else { 2000 })).await;
    let (after, forwarded) = (running.usage()?, distinct(&running) - arrived);
    let harness_cores = super::cores(own, sample.seconds);
    let store = store.zip(running.store().await).map(|(before, after)| after.since(before));
    let wrong = misconduct(who, &fleet);
    drop(fleet);
    let strays = running.strays();
    running.end().await?;
    let messages = sample.acked as f64;
    anyhow::ensure!(messages > 0.0, "nothing was acknowledged");
    let cpu = after.cpu_seconds - before.cpu_seconds;
    let stored_bytes = messages * (case.payload + topic_bytes()) as f64;
    let mut found = vec![
        ("acked_per_s", messages / sample.seconds),
        ("cpu_s_per_100k_acked", cpu / messages * 1e5),
        ("cores", cpu / sample.seconds),
        ("harness_cores", harness_cores),
        ("wrong_pubacks", wrong),
        ("strays", strays),
        ("rss_mb", after.rss_kb / 1024.0),
        ("forwarded_per_s", forwarded / sample.seconds),
        ("blocks_per_byte", (after.block_bytes - before.block_bytes) / stored_bytes),
    ];
    if who != Who::Null {
        // A message in and a message out are a half each: nobody looks cheap by leaving the second half for later.
        found.push(("cpu_s_per_100k", cpu / f64::midpoint(messages, forwarded) * 1e5));
    }
    if let Some(store) = store.filter(|store| store.syncs > 0.0) {
        let batch = store.records / store.syncs;
        let (syncs_per_s, _) = floors::disk(bench, store.written_bytes / store.syncs, 100)?;
        found.extend([
            ("messages_per_commit", batch),
            ("of_floor", messages / sample.seconds / (batch * syncs_per_s)),
            ("written_per_byte", store.written_bytes / store.records * messages / stored_bytes),
        ]);
    }
    Ok(found)
}

fn distinct(running: &Running) -> f64 {
    running.tally().map_or(0.0, |tally| tally.distinct() as f64)
}

/// fdatasync calls per message by the kernel's count and by the gateway's own.
async fn counted(bench: &Bench, case: Case) -> Result<Found> {
    let running = bench.running(GATEWAY).await?;
    let mut fleet =
        running.fleet(case.devices, case.payload, Pace::Closed { window: case.window }).await?;
    let doing = async {
        fleet.start();
        fleet.sample(Duration::from_secs(2)).await;
        fleet.finish(seconds(10)).await;
    };
    let counted = super::count(bench, &running, doing).await?;
    running.end().await?;
    Ok(counted)
}

fn table(bench: &Bench, book: &mut Book) {
    let mut rows = Vec::new();
    for case in cases(bench.quick) {
        for who in bench.rows(&EVERYONE).into_iter().filter(|who| case.contenders().contains(who)) {
            let place = format!("ingest/{}/{who}", case.name());
            let name = |what: &str| format!("{place}/{what}");
            let figure = |what: &str, decimals| book.figures.cell(&name(what), decimals);
            let cell = |n: usize| Cell::from(n);
            rows.push(vec![
                cell(case.devices),
                cell(case.window),
                cell(case.payload),
                who.to_string().into(),
                figure("acked_per_s", 0),
                percent(book.figures.median(&name("of_floor"))),
                figure("forwarded_per_s", 0),
                figure("cpu_s_per_100k", 2),
                book.figures.pair(&name("cores"), &name("harness_cores"), 1),
                figure("rss_mb", 1),
                figure("written_per_byte", 2),
                figure("blocks_per_byte", 2),
                figure("messages_per_commit", 0),
                super::syncs_cell(book, &place),
            ]);
        }
    }
    let columns = [
        "devices",
        "window",
        "payload B",
        "",
        "acked/s",
        "of floor",
        "forwarded/s",
        "CPU s per 100k in and out",
        "cores: it, harness",
        "RSS MB",
        "written / byte",
        "blocks / byte",
        "messages / commit",
        "fdatasync / message",
    ];
    book.report.table("Ingest", NOTE, &columns, &rows);
}

const NOTE: &str = "Acknowledged messages per second in a sample of 2 s (quick: 1 s) after half a second of warm-up, closed loop. The sink is \
                    connected and takes everything; where *forwarded* is less than *acked*, a backlog grows, and the rate cannot last: \
                    Forward has the rate that does. So CPU is counted per message *in and out*: seconds over the mean of acked and \
                    forwarded. *Of floor*: the rate beside (messages per commit x bare fdatasync per second of that many bytes, \
                    measured right after). *Cores*: CPU seconds per second of the process under test, and of load generator and \
                    sink together, which share the machine with it. *Written*: bytes handed to write, by the gateway's metric; \
                    *blocks*: 4 KiB blocks made dirty, by the kernel; both per byte of payload and topic. *fdatasync*: by the \
                    kernel (perf or strace, in a round of its own), by the gateway's own metric. The null broker keeps and forwards \
                    nothing: it is the load generator's ceiling.";
