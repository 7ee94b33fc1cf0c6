//! What the volume can do to the gateway: it is full, it fails, it turns read-only, the budget is used up, descriptors
//! run out. The real binary; the volumes are real and small ([`Volume`]).
//!
//! Promise: nothing is acknowledged that is not stored, so nothing acknowledged is lost; and it goes on by itself when
//! there is room again.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hub_double::{Fault, FaultKind};

use crate::log_format::Running;
use crate::process::Process;
use crate::support::{BINARY, Fleet, World, eventually};
use crate::volume::{Volume, Watch, bytes_in};

const DEVICES: usize = 4;

/// Segments are small, so that a small volume has many.
const SEGMENT_BYTES: &str = "131072";

/// The smallest budget.
const BUDGET: u64 = 4 << 20;

/// `upstreamSettings__windowMessages`: what may be under way to the hub.
const PUMP_WINDOW: usize = 64;

async fn small_site(devices: usize) -> World {
    let mut world = World::new(devices).await;
    world.set("storeSettings__segmentBytes", SEGMENT_BYTES);
    world.set("storeSettings__holdSecs", "1");
    world.set("upstreamSettings__windowMessages", &PUMP_WINDOW.to_string());
    world
}

/// Devices that send 2 KiB messages as fast as they are acknowledged.
fn eager_fleet(world: &World) -> Fleet {
    world.fleet(|d| {
        d.filling = 2000;
        d.interval = Duration::ZERO;
    })
}

/// Connections that were closed because their message could not be stored.
async fn closed_for_the_store(process: &Process) -> u64 {
    let labels = ["stage=\"session\"", "reason=\"store_full\""];
    process.counter("sphere_gateway_refused_total", &labels).await
}

/// Waits until nothing is acknowledged any more: each device was turned away twice since, with the reason counted.
async fn expect_full(process: &mut Process, fleet: &Fleet) {
    let mut before = (0, u64::MAX);
    eventually("nothing is acknowledged any more", async || {
        let now = (fleet.acked(), closed_for_the_store(process).await);
        if now.0 != before.0 {
            before = now;
        }
        now.1 >= before.1.saturating_add(2 * fleet.devices.len() as u64)
    })
    .await;
    assert!(process.is_running(), "a full volume ends nothing");
    assert!(process.is_healthy().await, "a full volume is no failure");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_volume_refuses_and_goes_on_by_itself_after_the_drain() {
    let world = small_site(DEVICES).await;
    let Some(volume) = Volume::tmpfs(&world.volume(), "12m") else { return };
    let mut process = world.process_by(volume.gateway());
    let fleet = eager_fleet(&world);
    fleet.progress(10).await;
    world.hub.go_away().await;
    expect_full(&mut process, &fleet).await;
    assert!(fleet.acked() > 1000, "it was filled by messages: {}", fleet.acked());

    world.hub.come_back().await.expect("the ports are still ours");
    fleet.progress(2000).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    process.kill();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_on_a_volume_without_a_free_byte_loses_nothing() {
    let world = small_site(DEVICES).await;
    let Some(volume) = Volume::tmpfs(&world.volume(), "12m") else { return };
    let mut process = world.process_by(volume.gateway());
    let fleet = eager_fleet(&world);
    fleet.progress(10).await;
    world.hub.go_away().await;
    // Somebody else takes what the store keeps back, while devices send: a write meets the end of the volume. By then the
    // store has more than it leaves free (floor and reserve, a tenth of the volume), or its own room could not suffice later.
    fleet.progress(1500).await;
    volume.take_the_rest();
    expect_full(&mut process, &fleet).await;

    process.kill();
    let mut process = world.process_by(volume.gateway());
    let acked = fleet.acked();
    expect_full(&mut process, &fleet).await;
    assert!(fleet.acked() - acked < 100, "what recovery cut off gives little room");

    world.hub.come_back().await.expect("the ports are still ours");
    // What others took stays taken: the room is the store's own.
    fleet.progress(500).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    process.kill();
    world.end().await;
}

/// What ext4 does to itself when a card dies. It ends the process, with the status that has it restarted, and a restart on
/// the mended volume has everything: also what was being synced when the journal died, which fdatasync does not tell.
/// (An administrator cannot do this: files that are open for writing forbid it.)
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_turns_read_only_ends_the_process_and_loses_nothing() {
    let world = small_site(DEVICES).await;
    let image = world.beside("image");
    let Some(volume) = Volume::ext4(&world.volume(), &image) else { return };
    let mut process = world.process_by(volume.gateway());
    let fleet = eager_fleet(&world);
    fleet.progress(10).await;
    world.hub.go_away().await;
    fleet.progress(500).await;
    volume.turn_read_only();
    let status = process.end().await;
    assert_eq!(status.code(), Some(1), "the status that has the runtime restart it");

    world.hub.come_back().await.expect("the ports are still ours");
    volume.mount_anew(&image);
    let process = world.process_by(volume.gateway());
    fleet.progress(100).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    process.kill();
    world.end().await;
}

/// A card that hangs, and comes to: nobody is lied to meanwhile, and nothing has to be restarted.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_stops_the_acks_and_nothing_else() {
    let world = small_site(DEVICES).await;
    let Some(volume) = Volume::ext4(&world.volume(), &world.beside("image")) else { return };
    let process = world.process_by(volume.gateway());
    let fleet = eager_fleet(&world);
    fleet.progress(100).await;
    let frozen = volume.freeze();
    // What was written may be acknowledged still; then nothing is.
    let mut before = None;
    eventually("nothing is acknowledged any more", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        before.replace(fleet.acked()) == Some(fleet.acked())
    })
    .await;
    assert!(process.is_healthy().await, "metrics and health do not wait for the disk");
    let devices = fleet.connected();
    assert_eq!(devices, DEVICES, "a pause closes no connection");
    drop(frozen);
    fleet.progress(500).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    process.kill();
    world.end().await;
}

/// Docker kills after 10 s. (What the kernel holds of the process goes when the disk lets go of it: no signal ends that.)
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_does_not_hold_up_the_end() {
    let world = small_site(DEVICES).await;
    let Some(volume) = Volume::ext4(&world.volume(), &world.beside("image")) else { return };
    let running = Running::start_by(&world, volume.gateway());
    running.until_it_listens(&world);
    let fleet = eager_fleet(&world);
    fleet.progress(100).await;
    let frozen = volume.freeze();
    running.terminate();
    let log = tokio::task::block_in_place(|| running.until("stopped"));
    let words = "the disk does not answer: ending without the last checkpoint";
    assert!(log.iter().any(|line| line.contains(words)), "{log:#?}");
    drop(frozen);
    tokio::task::block_in_place(|| running.ended());

    let process = world.process_by(volume.gateway());
    fleet.progress(100).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    process.kill();
    world.end().await;
}

/// The gateway behind what a shell does first.
fn gateway_after(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{script}; exec \"$0\" \"$@\""), BINARY]);
    command
}

/// A limit of open files below what the settings want: it is raised where that is allowed; else fewer devices are let in, so
/// that the store and the way to the hub never lack one.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_below_the_limit_of_open_files() {
    const DEVICES: usize = 60;
    let mut world = small_site(DEVICES).await;
    world.set("MaxConnectedClients", "1000");
    let limited = ["event=\"connections_limited\"", "reason=\"open_files\""];
    let process = world.process_by(gateway_after("ulimit -Sn 100"));
    assert!(process.open_files_max() > 1000, "as many as the settings want");
    assert_eq!(process.counter("sphere_gateway_events_total", &limited).await, 0);
    process.kill();

    // A half of so few is for devices.
    let process = world.process_by(gateway_after("ulimit -n 80"));
    assert_eq!(process.counter("sphere_gateway_events_total", &limited).await, 1);
    let fleet = world.fleet_of(0..DEVICES, |d| d.filling = 2000);
    let refused = "sphere_gateway_refused_total";
    eventually("more devices come than are let in", async || {
        process.counter(refused, &["stage=\"accept\"", "reason=\"connections_max\""]).await > 100
    })
    .await;
    fleet.progress(500).await;
    let want = process.counter(refused, &["stage=\"accept\"", "reason=\"os_error\""]).await;
    assert_eq!(want, 0, "there is always one left");
    assert!(process.counter("edgehub_connected_clients", &[]).await <= 40);
    fleet.abort().await;
    world.expect_nothing_lost(&fleet).await;
    process.kill();
    world.end().await;
}

/// No descriptor left, and more devices that want one: the limit falls when it is too late to let in fewer.
#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_it_serves_whom_it_has_and_recovers() {
    const LIMIT: usize = 40;
    let world = small_site(LIMIT).await;
    let mut process = world.process();
    process.limit_open_files(LIMIT);
    let served = world.fleet_of(0..4, |d| d.filling = 2000);
    served.progress(20).await;
    eventually("the hub is reached", async || world.hub.counts().received > 0).await;

    let others = world.fleet_of(4..LIMIT, |d| d.filling = 2000);
    // Several segments' worth: the store needs new files where there is no descriptor for one.
    both_progress(&served, &others, 500).await;
    assert!(others.connected() < LIMIT - 4, "there are not descriptors for all");
    assert!(process.is_running(), "want of descriptors ends nothing");
    // The way to the hub is lost, and cannot be opened again just now.
    world.hub.go_away().await;
    both_progress(&served, &others, 200).await;
    world.hub.come_back().await.expect("the ports are still ours");
    both_progress(&served, &others, 200).await;

    others.abort().await;
    eventually("the process is asked", async || process.is_healthy().await).await;
    let labels = ["stage=\"accept\"", "reason=\"os_error\""];
    let refused = process.counter("sphere_gateway_refused_total", &labels).await;
    assert!(refused > 0, "what could not be accepted is counted");
    served.progress(100).await;
    served.finish().await;
    world.expect_nothing_lost(&served).await;
    // The others were stopped in the middle: what they know of is acknowledged.
    world.expect_nothing_lost(&others).await;
    process.kill();
    world.end().await;
}

/// The same by the budget, which is never exceeded on the way.
async fn expect_full_within(queues: &Path, process: &mut Process, fleet: &Fleet) {
    eventually("the store is full", async || {
        let taken = bytes_in(queues);
        assert!(taken <= BUDGET, "{taken} bytes are taken, {BUDGET} may be");
        closed_for_the_store(process).await > 0
    })
    .await;
    expect_full(process, fleet).await;
}

/// Waits until `more` messages of anybody are acknowledged.
async fn both_progress(some: &Fleet, others: &Fleet, more: u64) {
    let goal = some.acked() + others.acked() + more;
    eventually("somebody is served", async || some.acked() + others.acked() >= goal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_bounds_the_disk_and_reject_loses_nothing() {
    let mut world = small_site(DEVICES).await;
    world.set("storeSettings__maxSizeBytes", &BUDGET.to_string());
    let queues = world.storage().join("queues");
    let watch = Watch::over(queues.clone());
    let mut process = world.process();
    let fleet = eager_fleet(&world);
    fleet.progress(10).await;
    world.hub.go_away().await;
    expect_full_within(&queues, &mut process, &fleet).await;
    let used = process.counter("sphere_gateway_store_used_bytes", &[]).await;
    assert!(used > BUDGET / 2 && used <= BUDGET, "{used} bytes are told");

    world.hub.come_back().await.expect("the ports are still ours");
    fleet.progress(2000).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    let most = watch.most();
    assert!(most <= BUDGET, "{most} bytes were taken, {BUDGET} may be");
    eventually("the room is given back", async || bytes_in(&queues) < BUDGET / 4).await;
    process.kill();
    world.end().await;
}

/// The same from the document, which wins where it is stricter.
#[tokio::test(flavor = "multi_thread")]
async fn the_document_s_store_limit_is_a_budget() {
    let mut world = small_site(DEVICES).await;
    world.set_document(&serde_json::json!({
        "schemaVersion": "1.1",
        "routes": {"all": "FROM /messages/* INTO $upstream"},
        "storeAndForwardConfiguration":
            {"timeToLiveSecs": -1, "storeLimits": {"maxSizeBytes": BUDGET}},
    }));
    let queues = world.storage().join("queues");
    let mut process = world.process();
    let fleet = eager_fleet(&world);
    fleet.progress(10).await;
    world.hub.go_away().await;
    expect_full_within(&queues, &mut process, &fleet).await;
    world.hub.come_back().await.expect("the ports are still ours");
    fleet.progress(500).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    process.kill();
    world.end().await;
}

/// Numbers of acknowledged messages of a device that the hub does not have.
fn missing(world: &World, fleet: &Fleet) -> Vec<BTreeSet<u64>> {
    let of = |(device, ledger): &(String, std::sync::Arc<crate::device::Ledger>)| {
        let arrived: BTreeSet<u64> = world.arrived(device).into_iter().collect();
        (1..=ledger.acked.load(Ordering::Relaxed)).filter(|n| !arrived.contains(n)).collect()
    };
    fleet.devices.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_oldest_keeps_the_newest_and_tells_what_is_gone() {
    let mut world = small_site(DEVICES).await;
    world.set("storeSettings__maxSizeBytes", &BUDGET.to_string());
    world.set("storeSettings__whenFull", "drop_oldest");
    let queues = world.storage().join("queues");
    let watch = Watch::over(queues.clone());
    let process = world.process();
    let fleet = eager_fleet(&world);
    fleet.progress(10).await;
    world.hub.go_away().await;
    // Twice what fits: 2 KiB and more each.
    fleet.progress(2 * BUDGET / 2048).await;
    assert!(bytes_in(&queues) <= BUDGET, "{} bytes are taken", bytes_in(&queues));
    assert_eq!(closed_for_the_store(&process).await, 0, "nobody is refused");

    world.hub.come_back().await.expect("the ports are still ours");
    fleet.finish().await;
    let labels = ["reason=\"store_full\""];
    let mut dropped = 0;
    eventually("what is not at the hub was counted as dropped", async || {
        dropped = process.counter("edgehub_messages_dropped_total", &labels).await;
        let waiting = process.counter("edgehub_queue_length", &["endpoint=\"iothub\""]).await;
        let missing: usize = missing(&world, &fleet).iter().map(BTreeSet::len).sum();
        waiting == 0 && dropped >= missing as u64
    })
    .await;
    let missing = missing(&world, &fleet);
    let count: usize = missing.iter().map(BTreeSet::len).sum();
    // The pump had read as much as its window when the store dropped it: those are counted, and may arrive.
    let both = dropped as usize - count;
    assert!(count > 500 && both <= PUMP_WINDOW, "{count} are missing, {dropped} were dropped");
    // The oldest: one run of each device, but for those few.
    let spans = missing.iter().filter_map(|m| Some(m.last()? - m.first()? + 1));
    let gaps = spans.sum::<u64>() as usize - count;
    assert!(gaps <= PUMP_WINDOW, "{gaps} messages arrived from the middle of what was dropped");
    assert_eq!(world.hub.counts().reordered, 0, "order per device");
    let most = watch.most();
    assert!(most <= BUDGET, "{most} bytes were taken, {BUDGET} may be");

    process.stop().await;
    let told: u64 = dead_letters(&world)
        .iter()
        .filter(|letter| letter["reason"] == "store_full")
        .map(|letter| letter["count"].as_u64().expect("a count"))
        .sum();
    // What the pump held then may have got through all the same.
    let through = told.checked_sub(dropped).expect("the dead letters tell of each");
    assert!(through <= PUMP_WINDOW as u64, "the letters tell of {told}, {dropped} were dropped");
    world.end().await;
}

/// What the command lists.
fn dead_letters(world: &World) -> Vec<serde_json::Value> {
    let output = world.command(&["queue", "dead-letters", "--json"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON each")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_dead_letters_is_bounded_and_blocks_nobody() {
    const LETTERS_BYTES: u64 = 1 << 20;
    let mut world = small_site(3).await;
    world.set("storeSettings__deadLetterBytes", &LETTERS_BYTES.to_string());
    let process = world.process();
    let refused = world.device(0).id;
    let kind = FaultKind::RejectMessage {
        condition: "com.microsoft:argument-error".to_owned(),
        message_id: None,
        property: None,
    };
    world.hub.fault(Fault::new(kind).for_device(&refused));
    let flood = world.fleet_of(0..1, |d| (d.filling, d.interval) = (2000, Duration::ZERO));
    let others = world.fleet_of(1..3, |d| d.filling = 2000);
    let events = "sphere_gateway_events_total";
    eventually("more letters than fit were kept", async || {
        let letters = process.counter(events, &["event=\"dead_letter\""]).await;
        letters * 2000 > 2 * LETTERS_BYTES
    })
    .await;
    flood.abort().await;
    others.progress(100).await;
    others.finish().await;
    world.expect_nothing_lost(&others).await;
    let mut numbers = (0, 0, 0);
    eventually("letters are kept, or counted as gone", async || {
        let text = process.metrics().await;
        let count = |name, labels: &[&str]| crate::support::series(&text, name, labels) as u64;
        let letters = count(events, &["event=\"dead_letter\""]);
        let kept = count("edgehub_queue_length", &["endpoint=\"deadletter\""]);
        let gone = count(events, &["event=\"dead_letter_dropped\"", "reason=\"ring\""]);
        let waiting = count("edgehub_queue_length", &["endpoint=\"iothub\""]);
        numbers = (letters, kept, gone);
        waiting == 0 && kept + gone == letters
    })
    .await;
    let (letters, kept, gone) = numbers;
    assert!(gone > 0 && kept > 0, "{letters} letters: {kept} kept, {gone} gone");
    assert!(kept * 2000 <= LETTERS_BYTES, "{kept} letters of 2000 bytes and more are kept");
    assert_eq!(world.hub.counts().reordered, 0, "order per device");
    process.kill();
    world.end().await;
}
