//! The desired document changes, breaks and heals while devices publish: routes follow, nobody is disconnected, nothing
//! acknowledged is lost.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command};

use serde_json::{Value, json};
use sphere_gateway::clock;
use sphere_gateway::gateway::{Gateway, StartError};

use crate::process::Process;
use crate::support::{BINARY, World, eventually, get, metrics, series};

/// A document with these routes.
pub(crate) fn document(routes: Value) -> Value {
    json!({
        "schemaVersion": "1.1",
        "routes": routes,
        "storeAndForwardConfiguration": {"timeToLiveSecs": 7200}
    })
}

pub(crate) fn upstream(priority: u8) -> Value {
    document(json!({"all": {"route": "FROM /messages/* INTO $upstream", "priority": priority}}))
}

/// The sum of the events of this name and reason.
fn counted(text: &str, event: &str, reason: &str) -> f64 {
    let labels = [format!("event=\"{event}\""), format!("reason=\"{reason}\"")];
    let labels = [labels[0].as_str(), labels[1].as_str()];
    series(text, "sphere_gateway_events_total", &labels)
}

pub(crate) async fn until_counted(gateway: &Gateway, event: &str, reason: &str, times: f64) {
    eventually(&format!("{event} {reason}: {times}"), async || {
        counted(&metrics(gateway).await, event, reason) >= times
    })
    .await;
}

/// Waits for the answer of `/healthz` that contains `words`, which is no failure.
pub(crate) async fn until_warned(gateway: &Gateway, words: &str) {
    eventually(words, async || {
        let answer = get(gateway, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer.contains(words)
    })
    .await;
}

pub(crate) async fn no_disconnect(gateway: &Gateway) {
    let text = metrics(gateway).await;
    assert_eq!(series(&text, "edgehub_client_disconnect_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_document_takes_effect_while_devices_publish() {
    let mut world = World::new(3).await;
    world.set_document(&upstream(3));
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(60).await;
    let queue = |name: &str| world.storage().join("queues").join(name);
    assert!(queue("iothub.3").is_dir() && !queue("iothub.5").exists());

    world.write_document(&upstream(5).to_string());
    until_counted(&gateway, "configuration_applied", "file", 2.0).await;
    fleet.progress(60).await;
    assert!(queue("iothub.5").is_dir(), "what comes in now takes the new route");

    // Half-written, then whole: nothing changes before it is whole.
    let next = upstream(7).to_string();
    world.write_document(&next[..next.len() / 2]);
    until_counted(&gateway, "configuration_refused", "bad", 1.0).await;
    until_warned(&gateway, "edgeHubTwinFile is refused").await;
    fleet.progress(60).await;
    assert!(!queue("iothub.7").exists());
    world.write_document(&next);
    until_counted(&gateway, "configuration_applied", "file", 3.0).await;
    fleet.progress(60).await;
    assert!(queue("iothub.7").is_dir());
    eventually("nothing is left to warn of", async || {
        !get(&gateway, "/healthz").await.contains("edgeHubTwinFile")
    })
    .await;

    no_disconnect(&gateway).await;
    fleet.finish().await;
    // Order is promised within a priority, and there were three.
    world.expect_all_arrive(&fleet).await;
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_changes_takes_effect_while_devices_publish() {
    let mut world = World::new(2).await;
    let folder = world.beside("layers");
    fs::create_dir(&folder).expect("a folder");
    let write =
        |name: &str, text: &Value| fs::write(folder.join(name), text.to_string()).expect("a file");
    let layer = |priority: u8| {
        let route = json!({"route": "FROM /messages/* INTO $upstream", "priority": priority});
        json!({"content": {"modulesContent": {"$edgeHub": {"properties.desired.routes.all": route}}}})
    };
    write("00-base.json", &upstream(3));
    world.set("edgeHubTwinFile", &folder.display().to_string());
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(40).await;
    let queue = |name: &str| world.storage().join("queues").join(name);
    for (priority, applied) in [(5, 2.0), (7, 3.0)] {
        write("10-faster.json", &layer(priority));
        until_counted(&gateway, "configuration_applied", "file", applied).await;
        fleet.progress(40).await;
        assert!(queue(&format!("iothub.{priority}")).is_dir());
    }
    fs::write(folder.join("10-faster.json"), "{").expect("a file");
    until_warned(&gateway, r#"1 layers are set apart: \"10-faster.json\""#).await;
    until_counted(&gateway, "configuration_applied", "file", 4.0).await;
    fleet.progress(40).await;
    fs::remove_file(folder.join("10-faster.json")).expect("a file");
    // At once, as SIGHUP has it.
    gateway.reload();
    eventually("nothing is left to warn of", async || {
        !get(&gateway, "/healthz").await.contains("set apart")
    })
    .await;
    no_disconnect(&gateway).await;
    fleet.finish().await;
    world.expect_all_arrive(&fleet).await;
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_routes_are_set_aside_and_counted_while_it_runs() {
    let mut world = World::new(1).await;
    world.set_document(&upstream(3));
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    let mixed = document(json!({
        "good": "FROM /messages/* INTO $upstream",
        "broken": "FROM /messages/* WHERE ) INTO $upstream"
    }));
    world.write_document(&mixed.to_string());
    until_warned(&gateway, r#"1 routes are set aside: \"broken\""#).await;
    let text = metrics(&gateway).await;
    for (gauge, value) in [("running", 1.0), ("set_aside", 1.0)] {
        assert_eq!(series(&text, &format!("sphere_gateway_routes_{gauge}"), &[]), value);
    }
    fleet.progress(20).await;
    no_disconnect(&gateway).await;
    fleet.finish().await;
    world.expect_all_arrive(&fleet).await;
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_live_first_route_may_come_while_it_runs() {
    let mut world = World::new(1).await;
    world.set_document(&upstream(3));
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    let mut document = upstream(3);
    document["storeAndForwardConfiguration"]["liveFirst"] = true.into();
    assert_eq!(counted(&metrics(&gateway).await, "live_gate", "opened"), 0.0);
    world.write_document(&document.to_string());
    until_counted(&gateway, "live_gate", "opened", 1.0).await;
    eventually("fresh messages pass", async || {
        world.storage().join("queues/iothub.3-live").is_dir()
    })
    .await;
    fleet.progress(20).await;
    no_disconnect(&gateway).await;
    fleet.finish().await;
    world.expect_all_arrive(&fleet).await;
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_broken_document_goes_by_the_last_good_one() {
    let mut world = World::new(1).await;
    world.set_document(&upstream(3));
    world.write_document("{\"schemaVersion\":");
    match Gateway::start(world.configuration(), clock::system()).await {
        Err(e @ StartError::Configured(_)) => {
            assert!(e.is_usage() && e.to_string().contains("edgeHubTwinFile"), "{e}");
        }
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("there is no document to go by"),
    }

    world.write_document(&upstream(3).to_string());
    world.gateway().await.shutdown().await;
    let kept = world.storage().join("desired.json");
    let text = fs::read_to_string(&kept).expect("the last good document");
    for broken in [Some("{\"schemaVersion\":"), None] {
        match broken {
            Some(text) => world.write_document(text),
            None => fs::remove_file(world.document()).expect("it was there"),
        }
        let check = world.command(&["check"]);
        assert_eq!(check.status.code(), Some(64), "a check is strict");
        assert!(String::from_utf8_lossy(&check.stdout).contains("edgeHubTwinFile"));
        assert!(String::from_utf8_lossy(&check.stdout).contains("the last good document serves"));
        let gateway = world.gateway().await;
        until_warned(&gateway, "edgeHubTwinFile is refused").await;
        let answer = metrics(&gateway).await;
        assert_eq!(series(&answer, "sphere_gateway_configuration_last_good_in_use", &[]), 1.0);
        let fleet = world.fleet(|_| {});
        fleet.progress(20).await;
        assert!(world.storage().join("queues/iothub.3").is_dir(), "it goes by the route of before");
        fleet.abort().await;
        gateway.shutdown().await;
        assert_eq!(fs::read_to_string(&kept).expect("still there"), text);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_cannot_be_kept_is_told_until_it_is_kept() {
    let mut world = World::new(1).await;
    world.set_document(&upstream(3));
    // A folder in the place of the new file stands for a disk that refuses.
    let in_the_way = world.storage().join("desired.json.new");
    fs::create_dir_all(&in_the_way).expect("a folder");
    let gateway = world.gateway().await;
    until_warned(&gateway, "could not be kept for the next start").await;
    let gauge =
        async || series(&metrics(&gateway).await, "sphere_gateway_configuration_not_kept", &[]);
    assert_eq!(gauge().await, 1.0);
    fs::remove_dir(&in_the_way).expect("it is empty");
    // Who asks does not wait for the next try.
    gateway.reload();
    eventually("it is kept", async || {
        !get(&gateway, "/healthz").await.contains("could not be kept") && gauge().await == 0.0
    })
    .await;
    assert!(world.storage().join("desired.json").is_file());
    gateway.shutdown().await;
    world.end().await;
}

/// What the process has counted.
async fn process_counted(process: &Process, event: &str, reason: &str) -> f64 {
    counted(&process.metrics().await, event, reason)
}

fn send(signal: &str, process: u32) {
    let kill = Command::new("kill").args([signal, &process.to_string()]).status();
    assert!(kill.expect("kill").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_has_the_document_read_at_once_and_ends_nothing() {
    let mut world = World::new(1).await;
    world.set_document(&upstream(3));
    let process = world.process();
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    let hang_up = || send("-HUP", process.id());
    // Only a question is counted again for the same content.
    world.write_document("{");
    eventually("the broken document is refused", async || {
        process_counted(&process, "configuration_refused", "bad").await >= 1.0
    })
    .await;
    hang_up();
    eventually("the question is answered", async || {
        process_counted(&process, "configuration_refused", "bad").await >= 2.0
    })
    .await;
    world.write_document(&upstream(5).to_string());
    hang_up();
    eventually("the new document is in force", async || {
        process_counted(&process, "configuration_applied", "file").await >= 2.0
    })
    .await;
    fleet.progress(20).await;
    assert!(world.storage().join("queues/iothub.5").is_dir());
    assert_eq!(series(&process.metrics().await, "edgehub_client_disconnect_total", &[]), 0.0);
    fleet.finish().await;
    world.expect_all_arrive(&fleet).await;
    assert!(process.is_healthy().await);
    process.stop().await;
    world.end().await;
}

/// Killed when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The set of signals that a process listens for, one bit each.
fn caught(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let set = text.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    u64::from_str_radix(set.expect("a line of signals").trim(), 16).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_come_before_the_start_end_nothing_and_are_heard() {
    const HUP_INT_TERM: u64 = 1 | 1 << 1 | 1 << 14;
    let mut world = World::new(1).await;
    world.set_document(&upstream(3));
    // A pipe takes 64 KiB. It is full: the process waits at its first line of log, before it starts anything.
    let (log, mut stdout) = std::io::pipe().expect("a pipe");
    stdout.write_all(&[b'\n'; 1 << 16]).expect("it fits");
    let mut child = {
        let mut command = Command::new(BINARY);
        world.with_environment(&mut command).arg("run").stdout(stdout);
        Killed(command.spawn().expect("it starts"))
    };
    eventually("it listens", async || caught(child.0.id()) & HUP_INT_TERM == HUP_INT_TERM).await;
    send("-HUP", child.0.id());

    let (lines, heard) = std::sync::mpsc::sync_channel(1000);
    std::thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            let _ = lines.send(line);
        }
    });
    let mut said = Vec::new();
    for words in ["MQTT over TLS on", "the document is the one in force, nothing changes"] {
        eventually(words, async || {
            while let Ok(line) = heard.try_recv() {
                said.push(line);
            }
            said.iter().any(|line| line.contains(words))
        })
        .await;
    }
    send("-TERM", child.0.id());
    eventually("it ends well", async || {
        child.0.try_wait().expect("our child").is_some_and(|status| status.success())
    })
    .await;
    world.end().await;
}
