//! Who may connect changes at the hub while the gateway runs, and while it does not: new, re-parented, disabled and removed
//! devices, invented names, and what lies on disk of it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hub_double::DeviceSpec;
use rumqttc::mqttbytes::v4::ConnectReturnCode;
use serde_json::{Value, json};
use sphere_gateway::auth::decision::{self, Stage};
use sphere_gateway::gateway::Gateway;

use crate::client::admitted;
use crate::configuration::{until_counted, upstream};
use crate::device::{self, DeviceConfig};
use crate::refusals;
use crate::site::{EDGE, mint};
use crate::support::{World, eventually, metrics, series};

const EDGE_HUB: Option<&str> = Some("$edgeHub");

/// A gateway that has refreshed its scope and heard its twin.
async fn serving(world: &World) -> Gateway {
    world.hub.put_desired(EDGE, EDGE_HUB, &upstream(3));
    let gateway = world.gateway().await;
    drop(admitted(&world.device(0)).await);
    until_counted(&gateway, "configuration_applied", "twin", 1.0).await;
    gateway
}

async fn end(world: World, gateway: Gateway) {
    gateway.shutdown().await;
    world.end().await;
}

async fn code(config: &DeviceConfig) -> ConnectReturnCode {
    device::connect(config, 60).await.expect("an answer").1
}

/// Every file below `folder`.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), std::fs::read(&path).expect("a file")));
        }
    }
    found
}

fn assert_nowhere(folder: &Path, key: &str) {
    let raw = STANDARD.decode(key).expect("base64");
    for (path, bytes) in files(folder) {
        for plain in [key.as_bytes(), &raw] {
            assert!(!bytes.windows(plain.len()).any(|w| w == plain), "{path} holds a key");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_registered_now_gets_in_at_its_first_connect() {
    let world = World::new(2).await;
    let id = world.device(1).id;
    world.hub.delete_device(&id);
    let gateway = serving(&world).await;
    let before = world.hub.counts().scope_singles;
    world.hub.put_device(DeviceSpec::certificate(&id).child_of(EDGE));
    assert_eq!(code(&world.device(1)).await, ConnectReturnCode::Success);
    assert_eq!(world.hub.counts().scope_singles, before + 1);
    until_counted(&gateway, "scope_question", "news", 1.0).await;
    end(world, gateway).await;
}

/// Promise: who invents names gets code 5, costs the hub a handful of requests, and keeps no new device out.
#[tokio::test(flavor = "multi_thread")]
async fn invented_names_cost_a_handful_of_requests_and_keep_nobody_out() {
    const NAMES: usize = 300;
    let mut world = World::new(2).await;
    // The limit on failures of an address would end it sooner: that of questions to the hub has to do without.
    world.set("mqttSettings__FailedConnectsPerMin", "0");
    let id = world.device(1).id;
    world.hub.delete_device(&id);
    let gateway = serving(&world).await;
    let (before, begin) = (world.hub.counts(), tokio::time::Instant::now());
    let stranger = mint(1);
    let issued = Some(&stranger.devices[0].issued);
    let tls = device::client_tls(device::gateway_roots(&world.pki), issued);
    for n in 0..NAMES {
        let config =
            DeviceConfig { id: format!("invented-{n}"), tls: Arc::clone(&tls), ..world.device(0) };
        assert_eq!(code(&config).await, ConnectReturnCode::NotAuthorized);
    }
    world.hub.put_device(DeviceSpec::certificate(&id).child_of(EDGE));
    assert_eq!(code(&world.device(1)).await, ConnectReturnCode::Success);
    let now = world.hub.counts();
    let singles = now.scope_singles - before.scope_singles;
    let all = now.scope_requests + now.scope_refused - before.scope_requests - before.scope_refused;
    // Five, then five a minute: a slow machine takes minutes for all the names.
    let more = 5.0 * begin.elapsed().as_secs_f64() / 60.0;
    let is_few = |count: u64, most: f64| count as f64 <= most + more;
    assert!(
        is_few(singles, 8.0) && is_few(all, 12.0),
        "{singles} questions, {all} requests for {NAMES} names"
    );
    let text = metrics(&gateway).await;
    let withheld = ["event=\"scope_question\"", "reason=\"share_spent\""];
    let withheld = series(&text, "sphere_gateway_events_total", &withheld);
    assert!(withheld >= NAMES as f64 - 10.0 - more, "each is counted: {withheld}");
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_disabled_moved_or_removed_is_let_go_by_one_question() {
    let mut world = World::new(4).await;
    world.set("auditSettings__enabled", "true");
    let gateway = serving(&world).await;
    let fleet = world.fleet(|_| {});
    eventually("all are connected", async || fleet.connected() == 4).await;
    let ids: Vec<String> = (0..3).map(|n| world.device(n).id).collect();
    world.hub.put_device(DeviceSpec::certificate(&ids[0]).child_of(EDGE).disabled());
    world.hub.put_device(DeviceSpec::certificate(&ids[1]));
    world.hub.delete_device(&ids[2]);
    let before = world.hub.counts();
    let payload = json!({ "deviceIds": ids });
    let (method, limit) = ("RefreshDeviceScopeIdentityCache", Duration::from_secs(30));
    let mut calls = 0;
    // What the hub takes away may end the connection, and a call that was under way on it: its caller calls again.
    eventually("the call is answered", async || {
        calls += 1;
        let answer = world.hub.call_method(EDGE, EDGE_HUB, method, &payload, limit).await;
        answer.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    until_counted(&gateway, "client_dismissed", "disabled", 1.0).await;
    until_counted(&gateway, "client_dismissed", "not_in_scope", 2.0).await;
    eventually("the fourth alone stays", async || fleet.connected() == 1).await;
    let expected = [(&ids[0], "disabled"), (&ids[1], "not_in_scope"), (&ids[2], "not_in_scope")];
    eventually("each of them is told", async || {
        let told = refusals::report(&gateway).await.refusals;
        expected.iter().all(|(id, reason)| {
            told.iter().any(|r| {
                (&*r.stage, &*r.reason, r.claim.as_ref()) == ("session", *reason, Some(*id))
                    && r.todo == decision::reason(Stage::Connect, reason).todo
                    && r.certificate.as_ref().is_some_and(|c| c.subject == format!("CN={id}"))
            })
        })
    })
    .await;
    // Who moved away is 401, which is asked again with a new token.
    let singles = world.hub.counts().scope_singles - before.scope_singles;
    assert!(singles == 4 || (calls > 1 && singles > 4), "{singles} singles, {calls} calls");
    for n in 0..3 {
        assert_eq!(code(&world.device(n)).await, ConnectReturnCode::NotAuthorized);
    }

    // Without the hub it stays so after a restart.
    fleet.abort().await;
    gateway.shutdown().await;
    let audit = std::fs::read_to_string(world.storage().join("audit.jsonl")).expect("a log");
    for (id, reason) in expected {
        let of_it = |line: &&str| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            line["stage"] == "session" && line["reason"] == reason && line["claim"] == **id
        };
        assert_eq!(audit.lines().filter(of_it).count(), 1, "{id}: {audit}");
    }
    world.hub.go_away().await;
    let gateway = world.gateway().await;
    assert_eq!(code(&world.device(1)).await, ConnectReturnCode::NotAuthorized);
    assert_eq!(code(&world.device(3)).await, ConnectReturnCode::Success);
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_lie_on_disk_sealed_and_damage_costs_only_them() {
    let world = World::new(1).await;
    let key = STANDARD.encode(rand::random::<[u8; 32]>());
    world.hub.put_device(DeviceSpec::sas("keyed", &*key).child_of(EDGE));
    let gateway = serving(&world).await;
    gateway.shutdown().await;
    let storage = world.storage();
    let data_key = storage.join("scope.key");
    let text = std::fs::read_to_string(storage.join("scope.json")).expect("the scope");
    assert!(text.contains("keyed") && text.contains("sealed\":{"), "its key is there");
    assert_nowhere(&storage, &key);
    let facts = std::fs::metadata(&data_key).expect("a key");
    assert_eq!(facts.permissions().mode() & 0o777, 0o600);

    // Another data key: the devices with certificates are served, without the hub.
    std::fs::write(&data_key, "damaged").expect("written");
    world.hub.go_away().await;
    let gateway = world.gateway().await;
    drop(admitted(&world.device(0)).await);
    for reason in ["data_key_lost", "set_aside"] {
        until_counted(&gateway, "scope_keys", reason, 1.0).await;
    }
    let aside = std::fs::read_to_string(storage.join("scope.json.bad0")).expect("it is kept");
    assert_eq!(aside, text);
    world.hub.come_back().await.expect("the ports are still ours");
    eventually("the keys are there again", async || {
        let text = std::fs::read_to_string(storage.join("scope.json")).expect("the scope");
        text.contains("sealed\":{")
    })
    .await;
    assert_nowhere(&storage, &key);
    end(world, gateway).await;
}
