//! TLS connections: full mutual handshake, CONNECT, CONNACK; below a CA of either curve, the first time and again.

use std::time::Duration;

use anyhow::{Result, ensure};
use sphere_gateway::certs::Curve;

use super::{Bench, DEVICES, GATEWAY, MOSQUITTO, RUMQTTD, Running, Who, scenario, seconds};
use crate::floor;
use crate::load::connects;
use crate::report::{Book, percent};

const PEERS: [Who; 4] = [GATEWAY, MOSQUITTO, RUMQTTD, Who::Null];
const AT_ONCE: usize = 32;
/// For the server to forget those who left, so that it is not counted to those who come.
const PAUSE: Duration = Duration::from_millis(500);

/// Of the CA that signed the devices: its name in figures, in words, and itself.
const CURVES: [(&str, &str, Curve); 2] =
    [("p256", "P-256 CA", Curve::P256), ("p384", "P-384 CA", Curve::P384)];

pub(super) async fn measure(bench: &Bench, book: &mut Book) -> Result<()> {
    for (name, words, curve) in CURVES {
        let pki = bench.pki_below(curve, DEVICES)?;
        let count = if bench.quick { 300 } else { 1500 };
        for round in 0..bench.rounds {
            let rate = tokio::task::block_in_place(|| floor::handshakes_per_core(&pki, count))?;
            book.figures.add(format!("connects/{name}/handshakes_per_core_s"), rate);
            for who in bench.turns(&PEERS, round) {
                let what = format!("connects {who} ({words}), round {}", round + 1);
                let found = scenario(book, &what, seconds(60), one(bench, who, curve)).await;
                for (figure, value) in found.into_iter().flatten() {
                    book.figures.add(format!("connects/{name}/{who}/{figure}"), value);
                }
            }
        }
    }
    let mut rows = Vec::new();
    for (name, words, _) in CURVES {
        let handshakes = book.figures.median(&format!("connects/{name}/handshakes_per_core_s"));
        for who in bench.rows(&PEERS) {
            let named = |who: Who, what: &str| format!("connects/{name}/{who}/{what}");
            let cell = |what: &str, decimals| book.figures.cell(&named(who, what), decimals);
            let of_null = book.figures.ratio(&named(who, "per_s"), &named(Who::Null, "per_s"));
            let cpu = book.figures.median(&named(who, "cpu_ms"));
            rows.push(vec![
                format!("{who} ({words})").into(),
                cell("per_s", 0),
                percent(of_null),
                cell("cpu_ms", 2),
                // The CPU time of a bare handshake over that of a connect.
                percent(handshakes.zip(cpu).map(|(per_s, cpu_ms)| 1e3 / per_s / cpu_ms)),
                cell("again_per_s", 0),
                cell("again_cpu_ms", 2),
                cell("failed", 0),
            ]);
        }
    }
    let note = "500 devices, 32 at a time, full handshakes with client certificates, then CONNECT and CONNACK; the devices' certificates \
         are signed by a CA with a P-256 or a P-384 key (Azure Sphere's tenants have P-384). *Again*: all leave, and come back \
         with the same certificates, in full handshakes as before. *Of null*: beside the null broker's rate. *Handshake's share*: \
         the CPU time of a bare handshake over that of a connect.";
    let columns = [
        "",
        "connects/s",
        "of null",
        "CPU ms per connect",
        "handshake's share",
        "again: connects/s",
        "again: CPU ms",
        "failed",
    ];
    book.report.table("Connects", note, &columns, &rows);
    Ok(())
}

async fn one(bench: &Bench, who: Who, curve: Curve) -> Result<Vec<(&'static str, f64)>> {
    let running = bench.running_with(who, bench.pki_below(curve, DEVICES)?).await?;
    let (per_s, cpu_ms, failed) = all(&running).await?;
    tokio::time::sleep(PAUSE).await;
    let (again_per_s, again_cpu_ms, again_failed) = all(&running).await?;
    running.end().await?;
    Ok(vec![
        ("per_s", per_s),
        ("cpu_ms", cpu_ms),
        ("again_per_s", again_per_s),
        ("again_cpu_ms", again_cpu_ms),
        ("failed", failed + again_failed),
    ])
}

/// Connects everyone once: connects per second, CPU milliseconds of one, how many failed.
async fn all(running: &Running) -> Result<(f64, f64, f64)> {
    let before = running.usage()?;
    let connected = connects(&running.pki, running.address(), DEVICES, AT_ONCE).await?;
    let after = running.usage()?;
    let made = (DEVICES - connected.failed) as f64;
    let why = connected.first_error.as_deref().unwrap_or("unknown");
    ensure!(made > 0.0, "nobody connected: {why}");
    let cpu_ms = (after.cpu_seconds - before.cpu_seconds) / made * 1e3;
    Ok((made / connected.seconds, cpu_ms, connected.failed as f64))
}
