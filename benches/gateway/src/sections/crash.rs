//! Acknowledged and lost: `kill -9` while the sink is away.

use anyhow::Result;

use super::{
    Bench, Found, GATEWAY, LINK_PATIENCE, MOSQUITTO, MOSQUITTO_SAFE, RUMQTTD, Watch, Who, acked,
    keep, misconduct, scenario, seconds, until_acked,
};
use crate::load::Pace;
use crate::report::Book;

const PEERS: [Who; 4] = [GATEWAY, MOSQUITTO, MOSQUITTO_SAFE, RUMQTTD];

/// When the process is killed.
#[derive(Clone, Copy, PartialEq)]
enum When {
    /// While devices publish, with a quarter, a half, three quarters acknowledged; they send again what has no PUBACK.
    Amid,
    /// When everything is acknowledged.
    After,
}

const QUARTERS: u64 = 4;

impl When {
    /// Quarters of the messages that are acknowledged at each kill.
    fn kills(self) -> &'static [u64] {
        match self {
            Self::Amid => &[1, 2, 3],
            Self::After => &[QUARTERS],
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Amid => "in the middle of publishing",
            Self::After => "after publishing",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Amid => "amid",
            Self::After => "after",
        }
    }
}

pub(super) async fn measure(bench: &Bench, book: &mut Book) -> Result<()> {
    for round in 0..bench.few_rounds() {
        for when in [When::Amid, When::After] {
            for who in bench.turns(&PEERS, round) {
                let what = format!("crash {} publishing {who}, round {}", when.name(), round + 1);
                let found = scenario(book, &what, seconds(120), one(bench, who, when)).await;
                keep(book, &format!("crash/{}/{who}", when.name()), found);
            }
        }
    }
    let mut rows = Vec::new();
    for when in [When::Amid, When::After] {
        for who in bench.rows(&PEERS) {
            let name = |what: &str| format!("crash/{}/{who}/{what}", when.name());
            let sum = |what: &str| crate::report::cell(book.figures.sum(&name(what)), 0);
            rows.push(vec![
                when.words().into(),
                who.to_string().into(),
                sum("kills"),
                sum("acked"),
                sum("lost"),
                sum("duplicates"),
                sum("reordered"),
                book.figures.cell(&name("lost"), 0),
            ]);
        }
    }
    let columns =
        ["kill -9", "", "kills", "acknowledged", "lost", "duplicates", "reordered", "lost, median"];
    book.report.table("Crash", NOTE, &columns, &rows);
    Ok(())
}

const NOTE: &str = "The sink is away, 50 devices (window 20, 256 B) publish, the process is killed with kill -9 and started again at once; \
                    devices connect again and send again what has no PUBACK; at the end the sink comes back. *Lost*: acknowledged \
                    and never arrived. Sums over at most 3 rounds. The page cache survives kill -9, so this shows that nothing is \
                    acknowledged before it was handed to the kernel; that it is on the disk is what the fdatasync counts of Ingest \
                    and Latency show. rumqttd keeps everything in memory, and the subscription that is its sink, too: after a \
                    restart it takes, acknowledges and drops what nobody has subscribed to yet, so all of it is lost.";

async fn one(bench: &Bench, who: Who, when: When) -> Result<Found> {
    let messages: u64 = if bench.quick { 10_000 } else { 40_000 };
    // One save of the safe Mosquitto takes longer the more it has.
    let messages = if who == MOSQUITTO_SAFE { messages / 2 } else { messages };
    let mut running = bench.running(who).await?;
    running.site()?.sink_away().await?;
    let mut fleet = running.fleet(50, 256, Pace::Closed { window: 20 }).await?;
    fleet.limit(messages);
    fleet.start();
    for quarters in when.kills() {
        until_acked(&fleet, messages * quarters / QUARTERS).await;
        running.site()?.kill().await?;
        running.site()?.start().await?;
        fleet.redirect(running.address());
    }
    until_acked(&fleet, messages).await;
    running.site()?.sink_back().await?;
    running.site()?.linked(LINK_PATIENCE).await?;
    let tally = running.tally().cloned().unwrap_or_default();
    Watch::until(&tally, messages, seconds(4)).await;
    let (promised, arrived) = (acked(&fleet), tally.arrived());
    let wrong = misconduct(who, &fleet);
    drop(fleet);
    let found = vec![
        ("acked", promised.iter().sum::<u64>() as f64),
        ("kills", when.kills().len() as f64),
        ("wrong_pubacks", wrong),
        ("strays", arrived.strays as f64),
        ("lost", tally.lost(&promised) as f64),
        ("duplicates", arrived.duplicates as f64),
        ("reordered", arrived.reordered as f64),
    ];
    running.end().await?;
    Ok(found)
}
