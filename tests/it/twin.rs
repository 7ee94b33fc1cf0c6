//! The `$edgeHub` twin: routes come by it and change by it while devices publish, what is bad in it does no harm, what came
//! of it and who is connected is reported, and its direct methods are answered.

use std::time::Duration;

use hub_double::{DeviceSpec, Fault, FaultKind};
use serde_json::{Value, json};
use sphere_gateway::gateway::Gateway;

use crate::client::admitted;
use crate::configuration::{document, no_disconnect, until_counted, until_warned, upstream};
use crate::log_format::Running;
use crate::site::EDGE;
use crate::support::{PATIENCE, World, eventually, get, metrics, series};

const EDGE_HUB: Option<&str> = Some("$edgeHub");

/// A site whose hub has this twin for the gateway.
async fn world(devices: usize, desired: &Value) -> World {
    let mut world = World::new(devices).await;
    world.set("ReportedPropertiesSyncFrequencySecs", "1");
    world.hub.put_desired(EDGE, EDGE_HUB, desired);
    world
}

fn desire(world: &World, patch: &Value) {
    world.hub.patch_desired(EDGE, EDGE_HUB, patch);
}

/// What was reported.
fn reported(world: &World) -> Value {
    world.hub.twin(EDGE, EDGE_HUB).expect("it is registered")["properties"]["reported"].clone()
}

/// Waits until the reported status of the document is `code` for this version; gives the description.
async fn until_status(world: &World, version: u64, code: u16) -> String {
    eventually(&format!("version {version} is reported with {code}"), async || {
        let reported = reported(world);
        reported["lastDesiredVersion"] == version && reported["lastDesiredStatus"]["code"] == code
    })
    .await;
    let reported = reported(world);
    reported["lastDesiredStatus"]["description"].as_str().expect("a text").to_owned()
}

fn has_queue(world: &World, name: &str) -> bool {
    world.storage().join("queues").join(name).is_dir()
}

async fn applied(gateway: &Gateway, times: f64) {
    until_counted(gateway, "configuration_applied", "twin", times).await;
}

async fn end(world: World, gateway: Gateway) {
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_come_by_the_twin_and_a_patch_changes_them_while_devices_publish() {
    let world = world(3, &upstream(3)).await;
    let gateway = world.gateway().await;
    applied(&gateway, 1.0).await;
    assert_eq!(until_status(&world, 2, 200).await, "");
    let fleet = world.fleet(|_| {});
    fleet.progress(60).await;
    assert!(has_queue(&world, "iothub.3") && !has_queue(&world, "iothub.5"));

    desire(&world, &json!({"routes": {"all": {"priority": 5}}}));
    applied(&gateway, 2.0).await;
    until_status(&world, 3, 200).await;
    fleet.progress(60).await;
    assert!(has_queue(&world, "iothub.5"), "the patch was merged into the route");

    // A change is missed: the next one shows it, and the whole is read.
    let gets = world.hub.counts().twin_gets;
    world.hub.fault(Fault::new(FaultKind::DropDesired).times(1));
    desire(&world, &json!({"routes": {"all": {"priority": 7}}}));
    desire(&world, &json!({"routes": {"more": "FROM /messages/* INTO $upstream"}}));
    applied(&gateway, 3.0).await;
    until_status(&world, 5, 200).await;
    assert!(world.hub.counts().twin_gets > gets);
    fleet.progress(60).await;
    assert!(has_queue(&world, "iothub.7"));

    // A route is taken out.
    desire(&world, &json!({"routes": {"more": null}}));
    applied(&gateway, 4.0).await;
    until_status(&world, 6, 200).await;

    no_disconnect(&gateway).await;
    fleet.finish().await;
    world.expect_all_arrive(&fleet).await;
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_twin_is_reported_and_the_last_good_document_stays_also_over_a_restart() {
    let world = world(1, &upstream(3)).await;
    let gateway = world.gateway().await;
    until_status(&world, 2, 200).await;
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;

    desire(&world, &json!({"schemaVersion": "7.0"}));
    let words = until_status(&world, 3, 400).await;
    assert!(words.starts_with("Error while parsing desired properties - "), "{words}");
    assert!(words.contains("7.0"), "{words}");
    until_warned(&gateway, "the $edgeHub twin is refused").await;
    fleet.progress(20).await;
    assert!(!has_queue(&world, "iothub.10"), "it goes by the route of before");
    fleet.finish().await;
    gateway.shutdown().await;

    // Started with the hub away and with the hub's bad twin: the good one serves at once.
    world.hub.go_away().await;
    let gateway = world.gateway().await;
    until_counted(&gateway, "configuration_applied", "last_good", 1.0).await;
    let offline = world.fleet(|d| d.nick.push_str("-offline"));
    offline.progress(20).await;
    world.hub.come_back().await.expect("the ports are still ours");
    until_warned(&gateway, "the $edgeHub twin is refused").await;
    let text = metrics(&gateway).await;
    assert_eq!(series(&text, "sphere_gateway_configuration_last_good_in_use", &[]), 1.0);
    offline.progress(20).await;

    // Corrected by a patch on top of the bad one.
    desire(&world, &json!({"schemaVersion": "1.1", "routes": {"all": {"priority": 4}}}));
    until_status(&world, 4, 200).await;
    offline.progress(20).await;
    assert!(has_queue(&world, "iothub.4"));
    eventually("nothing is left to warn of", async || {
        !get(&gateway, "/healthz").await.contains("$edgeHub twin")
    })
    .await;
    offline.finish().await;
    assert!(!has_queue(&world, "iothub.10"), "the default never served");
    world.expect_all_arrive(&offline).await;
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_route_is_named_in_the_report_and_the_others_run() {
    let mixed = document(json!({
        "good": {"route": "FROM /messages/* INTO $upstream", "priority": 2},
        "broken": "FROM /messages/* WHERE ) INTO $upstream"
    }));
    let world = world(1, &mixed).await;
    let gateway = world.gateway().await;
    let words = until_status(&world, 2, 400).await;
    assert!(words.contains("\"broken\"") && !words.contains("\"good\""), "{words}");
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    assert!(has_queue(&world, "iothub.2"));
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_very_first_start_keeps_everything_until_the_twin_is_read() {
    let world = world(1, &upstream(3)).await;
    world.hub.go_away().await;
    let gateway = world.gateway().await;
    // Nobody can be admitted before the scope was read once; the hub is there, but not its twin.
    world.hub.fault(FaultKind::RefuseTwins { status: 429 });
    world.hub.come_back().await.expect("the ports are still ours");
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    assert!(has_queue(&world, "iothub.10") && !has_queue(&world, "iothub.3"));
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_without_anything_is_told_and_the_default_serves() {
    let world = world(1, &json!({})).await;
    let gateway = world.gateway().await;
    let words = until_status(&world, 2, 400).await;
    assert!(words.contains("nothing is deployed yet"), "{words}");
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    world.hub.put_desired(EDGE, EDGE_HUB, &upstream(3));
    until_status(&world, 3, 200).await;
    fleet.progress(20).await;
    assert!(has_queue(&world, "iothub.3"));
    // Emptied again: that is no configuration, and the last one stays.
    world.hub.put_desired(EDGE, EDGE_HUB, &json!({}));
    until_status(&world, 4, 400).await;
    until_warned(&gateway, "the $edgeHub twin is refused").await;
    fleet.progress(20).await;
    fleet.finish().await;
    world.expect_all_arrive(&fleet).await;
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_reconnects_is_a_handful_of_reports() {
    const DEVICES: usize = 200;
    let world = world(DEVICES, &upstream(3)).await;
    let gateway = world.gateway().await;
    until_status(&world, 2, 200).await;
    assert_eq!(reported(&world)["schemaVersion"], "1.0");
    let clients =
        |world: &World| reported(world)["clients"].as_object().map_or(0, |clients| clients.len());
    // Their ids are as long as a device's: not all of them fit into what a hub keeps.
    let left_out = async || {
        series(&metrics(&gateway).await, "sphere_gateway_reported_clients_left_out", &[]) as usize
    };
    let before = world.hub.counts().twin_patches;
    for storm in 0..2 {
        let fleet = world.fleet(|d| {
            d.nick = format!("{}-{storm}", d.nick);
            d.interval = Duration::from_millis(200);
        });
        eventually("all are connected", async || fleet.connected() == DEVICES).await;
        eventually("all are reported or counted", async || {
            clients(&world) + left_out().await == DEVICES
        })
        .await;
        fleet.abort().await;
        eventually("nobody is reported", async || clients(&world) == 0).await;
    }
    let patches = world.hub.counts().twin_patches - before;
    // Four times two hundred changes; one a second at most, and some seconds.
    assert!((4..40).contains(&patches), "{patches} patches");
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_an_earlier_life_is_wiped_and_a_client_is_shown_by_its_own_name() {
    let world = world(1, &upstream(3)).await;
    let gateway = world.gateway().await;
    until_status(&world, 2, 200).await;
    let device = admitted(&world.device(0)).await;
    let id = world.device(0).id;
    eventually("it is shown", async || {
        let client = reported(&world)["clients"][&id].clone();
        let time = client["lastConnectedTimeUtc"].as_str().unwrap_or_default().to_owned();
        client["status"] == "Connected" && time.len() == "2026-01-02T03:04:05.678Z".len()
    })
    .await;
    // Ended without a chance to say who has left.
    world.hub.go_away().await;
    gateway.shutdown().await;
    drop(device);
    world.hub.come_back().await.expect("the ports are still ours");
    assert!(reported(&world)["clients"].get(&id).is_some());
    let gateway = world.gateway().await;
    eventually("the old list is wiped", async || {
        reported(&world).get("clients").is_none_or(|c| c.get(&id).is_none())
    })
    .await;
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scope_is_refreshed_by_direct_method() {
    let world = world(1, &upstream(3)).await;
    let gateway = world.gateway().await;
    until_status(&world, 2, 200).await;
    let call = async |name: &str, payload: Value| {
        let answer = world.hub.call_method(EDGE, EDGE_HUB, name, &payload, PATIENCE).await;
        answer.map(|answer| answer.status).expect("an answer")
    };
    const REFRESH: &str = "RefreshDeviceScopeIdentityCache";
    assert_eq!(call("Reboot", json!({})).await, 404);
    assert_eq!(call(REFRESH, json!({"deviceIds": 5})).await, 400);
    let fault = world.hub.fault(FaultKind::RefuseScope { status: 403 });
    assert_eq!(call(REFRESH, json!({"deviceIds": []})).await, 500);
    world.hub.clear_fault(fault);

    // A device that is disabled is let go of at once, without the hourly refresh.
    let fleet = world.fleet(|_| {});
    fleet.progress(5).await;
    let id = world.device(0).id;
    world.hub.put_device(DeviceSpec::certificate(&id).child_of(EDGE).disabled());
    assert_eq!(call(REFRESH, json!({"deviceIds": [id]})).await, 200);
    eventually("it is asked to leave", async || {
        let labels = ["event=\"client_dismissed\"", "reason=\"disabled\""];
        series(&metrics(&gateway).await, "sphere_gateway_events_total", &labels) >= 1.0
    })
    .await;
    fleet.abort().await;
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_a_file_leaves_the_twin_alone() {
    let mut world = world(1, &upstream(3)).await;
    world.set_document(&upstream(5));
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    assert!(has_queue(&world, "iothub.5") && !has_queue(&world, "iothub.3"));
    let counts = world.hub.counts();
    assert_eq!((counts.twin_gets, counts.twin_patches), (0, 0));
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_of_the_file_decides_nothing_once_the_twin_does() {
    let mut world = world(1, &json!({})).await;
    world.set_document(&document(json!({"modules": "FROM /messages/modules/* INTO $upstream"})));
    world.gateway().await.shutdown().await;
    assert!(world.storage().join("desired.json").is_file());

    world.set("edgeHubTwinFile", "");
    let gateway = world.gateway().await;
    let words = until_status(&world, 2, 400).await;
    assert!(words.contains("nothing is deployed yet"), "{words}");
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_is_answered_in_the_log_also_if_the_twin_is_the_same() {
    let world = world(1, &upstream(3)).await;
    let running = Running::start(&world);
    tokio::task::block_in_place(|| {
        running.until("the $edgeHub twin: a changed document is in force");
        for _ in 0..2 {
            running.hang_up();
            running.until("the $edgeHub twin is asked for again");
            running.until("the $edgeHub twin: the document is the one in force, nothing changes");
        }
    });
    // The answer is given: a change that comes later is nobody's.
    desire(&world, &json!({"schemaVersion": "9"}));
    let refused = "the $edgeHub twin: ";
    let log = tokio::task::block_in_place(|| running.until("Nothing changes"));
    assert!(log.iter().any(|line| line.contains(refused)), "{log:#?}");
    // Bad as it is, it is told again to who asks.
    running.hang_up();
    tokio::task::block_in_place(|| {
        running.until("the $edgeHub twin is asked for again");
        running.until("Nothing changes");
        running.stop()
    });
    world.end().await;
}
