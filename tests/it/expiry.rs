//! Time to live, and fresh messages before the backlog: what arrives late, first, or not at all.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use hub_double::FaultKind;
use serde_json::json;

use crate::device::DeviceConfig;
use crate::process::Process;
use crate::support::{Fleet, World, eventually};

const TTL: Duration = Duration::from_secs(2);

/// Two devices whose messages live for [`TTL`], and two whose messages live for ever, in one queue.
async fn site_with_two_routes() -> World {
    let mut world = World::new(4).await;
    let short: Vec<_> = world.pki.devices[..2].iter().map(|d| d.id.clone()).collect();
    let is_short =
        format!("$connectionDeviceId = '{}' OR $connectionDeviceId = '{}'", short[0], short[1]);
    world.set_document(&json!({
        "schemaVersion": "1.1",
        "routes": {
            "short": {
                "route": format!("FROM /messages/* WHERE {is_short} INTO $upstream"),
                "timeToLiveSecs": TTL.as_secs(),
            },
            "long": format!("FROM /messages/* WHERE NOT ({is_short}) INTO $upstream"),
        },
        "storeAndForwardConfiguration": {"timeToLiveSecs": -1},
    }));
    world
}

/// Lets the gateway learn of its devices, then takes the hub away before it has seen a message.
async fn cut_off(world: &World) {
    drop(crate::client::admitted(&world.device(0)).await);
    world.hub.go_away().await;
    assert_eq!(world.hub.counts().received, 0);
}

async fn expired(process: &Process) -> u64 {
    process.counter("edgehub_messages_dropped_total", &["reason=\"ttl_expiry\""]).await
}

async fn waiting(process: &Process) -> u64 {
    process.counter("edgehub_queue_length", &["endpoint=\"iothub\""]).await
}

/// None of the first two devices' messages arrive, all of the others' do, and the counter knows.
async fn expect_expired(world: &World, fleet: &Fleet, process: &Process) {
    let of_short = fleet.devices[..2].iter().map(|(_, l)| l.acked.load(Ordering::Relaxed)).sum();
    eventually("all that expired was counted, and nothing waits", async || {
        waiting(process).await == 0 && expired(process).await >= of_short
    })
    .await;
    assert_eq!(expired(process).await, of_short, "each is counted once");
    for (index, (device, ledger)) in fleet.devices.iter().enumerate() {
        let acked = ledger.acked.load(Ordering::Relaxed);
        let expected: Vec<u64> = (1..=if index < 2 { 0 } else { acked }).collect();
        assert!(acked > 0);
        assert_eq!(world.arrived(device), expected, "of device {index}, in order, once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expired_in_an_outage_never_arrives_and_is_counted() {
    let world = site_with_two_routes().await;
    let process = world.process();
    cut_off(&world).await;
    let fleet = world.fleet(|d| d.filling = 500);
    fleet.progress(400).await;
    fleet.finish().await;
    // By any clock: the messages are older than this afterwards.
    tokio::time::sleep(TTL + Duration::from_secs(1)).await;
    world.hub.come_back().await.expect("the ports are still ours");
    expect_expired(&world, &fleet, &process).await;

    // And with the hub there a short life is long enough.
    let later = world.fleet(|d| d.nick.push_str("-later"));
    later.progress(40).await;
    later.finish().await;
    let acked = later.acked();
    eventually("new messages arrive", async || {
        let is_later =
            |m: &&hub_double::Received| m.system_properties["message-id"].contains("-later-");
        world.hub.messages().iter().filter(is_later).count() as u64 >= acked
    })
    .await;
    process.kill();
    world.end().await;
}

/// Ages are the store's own: a restart neither forgets them nor makes them older than the store was open.
#[tokio::test(flavor = "multi_thread")]
async fn ages_outlive_kill_9() {
    let world = site_with_two_routes().await;
    let process = world.process();
    cut_off(&world).await;
    let fleet = world.fleet(|d| d.filling = 500);
    fleet.progress(200).await;
    fleet.finish().await;
    process.kill();
    let process = world.process();
    tokio::time::sleep(TTL + Duration::from_secs(1)).await;
    world.hub.come_back().await.expect("the ports are still ours");
    expect_expired(&world, &fleet, &process).await;
    process.kill();
    world.end().await;
}

/// The numbers of one fleet's messages at the hub, per device, each once, in the order of their first arrival; the fleet
/// is known by the ending of its nicks.
fn arrivals(world: &World, ending: &str) -> BTreeMap<String, Vec<u64>> {
    let (mut seen, mut found) = (HashSet::new(), BTreeMap::<String, Vec<u64>>::new());
    for message in world.hub.messages() {
        let id = message.system_properties["message-id"].clone();
        let (nick, number) = id.rsplit_once('-').expect("nick and number");
        if nick.ends_with(ending) && seen.insert(id.clone()) {
            let number = number.parse().expect("a number");
            found.entry(message.device_id).or_default().push(number);
        }
    }
    found
}

fn count(arrivals: &BTreeMap<String, Vec<u64>>) -> u64 {
    arrivals.values().map(|numbers| numbers.len() as u64).sum()
}

/// Everything that `fleet` had acknowledged, in order.
fn expect_in_order(world: &World, fleet: &Fleet, ending: &str) {
    let arrived = arrivals(world, ending);
    for (device, ledger) in &fleet.devices {
        let expected: Vec<u64> = (1..=ledger.acked.load(Ordering::Relaxed)).collect();
        assert_eq!(arrived[device], expected, "order and loss of {device:.8} {ending}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_messages_pass_the_backlog_and_kill_9_between_loses_nothing() {
    let mut world = World::new(4).await;
    world.set("storeSettings__liveFirst", "true");
    // Small, so that the backlog is not under way as a whole when the first fresh message comes.
    world.set("upstreamSettings__windowMessages", "64");
    let process = world.process();
    cut_off(&world).await;
    let backlog = world.fleet(|d| {
        d.nick.push_str("-old");
        d.interval = Duration::ZERO;
    });
    backlog.progress(2000).await;
    backlog.finish().await;
    let slow = FaultKind::Slow { bytes_per_second: None, ms_per_message: Some(10) };
    let slow = world.hub.fault(slow);
    let opened = gate_opened(&process).await;
    world.hub.come_back().await.expect("the ports are still ours");
    eventually("fresh messages may pass", async || gate_opened(&process).await > opened).await;
    eventually("the drain begins", async || world.hub.counts().received > 0).await;

    let fresh = world.fleet(|d| unhurried(d, "-new"));
    fresh.progress(20).await;
    fresh.finish().await;
    let mut old = 0;
    eventually("all fresh messages are at the hub", async || {
        old = count(&arrivals(&world, "-old"));
        count(&arrivals(&world, "-new")) >= fresh.acked()
    })
    .await;
    assert!(old < backlog.acked(), "{old} of {} old ones came before", backlog.acked());

    // Both kinds wait once more; after the restart what is fresh joins the backlog until the hub is reached.
    let newest = world.fleet(|d| unhurried(d, "-newest"));
    newest.progress(20).await;
    process.kill();
    let process = world.process();
    newest.progress(20).await;
    newest.finish().await;
    world.hub.clear_fault(slow);
    for (fleet, ending) in [(&backlog, "-old"), (&fresh, "-new"), (&newest, "-newest")] {
        let acked = fleet.acked();
        eventually("everything is at the hub", async || count(&arrivals(&world, ending)) >= acked)
            .await;
    }
    expect_in_order(&world, &backlog, "-old");
    expect_in_order(&world, &fresh, "-new");
    process.kill();
    world.end().await;
}

/// Few enough that they stay fresh: a device that sends more than the hub takes has a backlog.
fn unhurried(device: &mut DeviceConfig, ending: &str) {
    device.nick.push_str(ending);
    device.interval = Duration::from_millis(100);
}

async fn gate_opened(process: &Process) -> u64 {
    let labels = ["event=\"live_gate\"", "reason=\"opened\""];
    process.counter("sphere_gateway_events_total", &labels).await
}
