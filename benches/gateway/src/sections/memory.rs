//! Resident memory: idle, with thousands of devices, with a backlog; and the way back after `kill -9` with that backlog.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    Bench, Found, GATEWAY, MOSQUITTO, RUMQTTD, Running, Who, keep, scenario, seconds, until_acked,
};
use crate::load::{Fleet, Load, Pace, connects};
use crate::report::Book;

const PEERS: [Who; 3] = [GATEWAY, MOSQUITTO, RUMQTTD];
const MANY: usize = 5_000;
const SOME: usize = 1_000;

pub(super) async fn measure(bench: &Bench, book: &mut Book) -> Result<()> {
    for round in 0..bench.few_rounds() {
        for who in bench.turns(&PEERS, round) {
            let what = format!("memory with devices {who}, round {}", round + 1);
            let found = scenario(book, &what, seconds(120), devices(bench, who)).await;
            keep(book, &format!("memory/{who}"), found);
            let what = format!("memory with a backlog {who}, round {}", round + 1);
            let found = scenario(book, &what, seconds(180), backlog(bench, who)).await;
            keep(book, &format!("memory/{who}"), found);
        }
    }
    let mut connected = Vec::new();
    let mut waiting = Vec::new();
    for who in bench.rows(&PEERS) {
        let figure =
            |what: &str, decimals| book.figures.cell(&format!("memory/{who}/{what}"), decimals);
        connected.push(vec![
            who.to_string().into(),
            figure("idle_mb", 1),
            figure("some_mb", 1),
            figure("many_mb", 1),
            figure("kb_per_device", 1),
            figure("connected", 0),
        ]);
        waiting.push(vec![
            who.to_string().into(),
            figure("backlog", 0),
            figure("growth_mb", 1),
            figure("peak_growth_mb", 1),
            figure("restart_ms", 0),
            figure("restarted_mb", 1),
        ]);
    }
    let text = "Resident memory in MB, at most 3 rounds. Idle: 500 devices registered, none connected. The others have 5,000 registered, over TLS \
                with client certificates; a device's share is (RSS with 5,000 - idle) / 5,000.";
    let columns = ["", "idle", "1,000 devices", "5,000 devices", "KB per device", "connected"];
    book.report.table("Memory", text, &columns, &connected);
    let text = "The sink is away and 50 devices (window 20, 256 B) publish. Growth: RSS with all of them waiting beside RSS with the \
                devices connected; the peers keep the backlog in memory and get a tenth of the messages. Then kill -9, and from the new process's spawn to the first PUBACK (theirs is gone by \
                then: see Crash).";
    let columns = [
        "",
        "messages waiting",
        "growth MB",
        "peak growth MB",
        "restart to PUBACK, ms",
        "RSS then, MB",
    ];
    book.report.table("Backlog", text, &columns, &waiting);
    Ok(())
}

/// RSS in KB once it rests.
async fn rested(running: &Running) -> Result<f64> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(running.usage()?.rss_kb)
}

async fn devices(bench: &Bench, who: Who) -> Result<Found> {
    let running = bench.running(who).await?;
    let idle = rested(&running).await?;
    running.end().await?;
    let running = bench.running_for(who, MANY).await?;
    let some = connects(&running.pki, running.address(), SOME, 32).await?;
    let with_some = rested(&running).await?;
    drop(some);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let many = connects(&running.pki, running.address(), MANY, 32).await?;
    let with_many = rested(&running).await?;
    let connected = (MANY - many.failed) as f64;
    let why = many.first_error.clone().unwrap_or_default();
    drop(many);
    running.end().await?;
    ensure!(connected > 0.0, "nobody connected: {why}");
    Ok(vec![
        ("idle_mb", idle / 1024.0),
        ("some_mb", with_some / 1024.0),
        ("many_mb", with_many / 1024.0),
        ("kb_per_device", (with_many - idle) / connected),
        ("connected", connected),
    ])
}

async fn backlog(bench: &Bench, who: Who) -> Result<Found> {
    let messages = if who == GATEWAY && !bench.quick { 1_000_000 } else { 100_000 };
    let mut running = bench.running(who).await?;
    running.site()?.sink_away().await?;
    let mut fleet = running.fleet(50, 256, Pace::Closed { window: 20 }).await?;
    let before = rested(&running).await?;
    fleet.limit(messages);
    fleet.start();
    until_acked(&fleet, messages).await;
    let waiting = rested(&running).await?;
    let peak = running.usage()?.peak_kb;
    drop(fleet);
    running.site()?.kill().await?;
    let spawned = Instant::now();
    running.site()?.start().await?;
    first_puback(&running).await?;
    let restart = spawned.elapsed();
    let restarted = rested(&running).await?;
    running.end().await?;
    Ok(vec![
        ("backlog", messages as f64),
        ("growth_mb", (waiting - before) / 1024.0),
        ("peak_growth_mb", (peak - before) / 1024.0),
        ("restart_ms", restart.as_secs_f64() * 1e3),
        ("restarted_mb", restarted / 1024.0),
    ])
}

/// One device connects and publishes.
async fn first_puback(running: &Running) -> Result<()> {
    let load = Load { devices: 1, payload_bytes: 256, pace: Pace::Closed { window: 1 } };
    let mut fleet = Fleet::connect(&running.pki, running.address(), load).await?;
    fleet.limit(1);
    fleet.start();
    until_acked(&fleet, 1).await;
    Ok(())
}
