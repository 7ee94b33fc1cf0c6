//! The log of the real binary, in both forms, with a peer that would like to write lines of its own.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Login, Packet, Publish};
use serde_json::{Value, json};

use crate::client::{admitted, connect, silent_tls};
use crate::configuration::document;
use crate::device;
use crate::support::{BINARY, PATIENCE, World};

/// A head, as far as a topic may have one: `+` is a wildcard.
const FORGED: &str = "\n<3> 2026-01-02 03:04:05.678 00:00 [ERR] - forged";

/// The binary, killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    pub(crate) fn start(world: &World) -> Self {
        Self::start_by(world, Command::new(BINARY))
    }

    /// Run by `command`, which keeps its process id and takes one more argument: `run`.
    pub(crate) fn start_by(world: &World, mut command: Command) -> Self {
        let spawned =
            world.with_environment(&mut command).arg("run").stdout(Stdio::piped()).spawn();
        let mut child = spawned.expect("the binary runs");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (told, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = told.send(line);
            }
        });
        Self { child, lines }
    }

    /// All lines until one has `part`, which is the last of them.
    pub(crate) fn until(&self, part: &str) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        while !lines.last().is_some_and(|line| line.contains(part)) {
            lines.push(
                self.lines
                    .recv_timeout(PATIENCE)
                    .unwrap_or_else(|e| panic!("no line with {part:?} ({e}) after {lines:#?}")),
            );
        }
        lines
    }

    /// All lines until devices are let in, where devices find it from now on.
    pub(crate) fn until_it_listens(&self, world: &World) -> Vec<String> {
        let log = tokio::task::block_in_place(|| self.until("MQTT over TLS on "));
        let last = log.last().expect("one");
        let (_, address) = last.split_once("MQTT over TLS on ").expect("it is there");
        let address = address.split('"').next().expect("a part");
        let port = address.rsplit(':').next().expect("a port");
        world.port.store(port.trim().parse().expect("a number"), Ordering::Relaxed);
        log
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let kill = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(kill.expect("kill").success());
    }

    /// SIGHUP.
    pub(crate) fn hang_up(&self) {
        let kill = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status();
        assert!(kill.expect("kill").success());
    }

    /// SIGTERM; the rest of the log.
    pub(crate) fn stop(self) -> Vec<String> {
        self.terminate();
        self.ended()
    }

    /// Waits for its end, which is a good one; the rest of the log.
    pub(crate) fn ended(mut self) -> Vec<String> {
        let lines = self.lines.iter().collect();
        assert!(self.child.wait().expect("our child").success());
        lines
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole log of a run in which a device, a stranger and a document have names with a line feed and a head in them.
async fn log_of_a_run(format: &str) -> Vec<String> {
    let mut world = World::new(2).await;
    world.set("RuntimeLogFormat", format);
    world.set("RuntimeLogLevel", "debug");
    let route = |text: &str| json!({"route": text, "priority": 3});
    let good = route("FROM /messages/* INTO $upstream");
    let bad = route(&format!("FROM /messages/* WHERE x{FORGED} INTO $upstream"));
    world.set_document(&document(json!({"good": good, format!("bad{FORGED}"): bad})));
    let running = Running::start(&world);
    let mut log = running.until_it_listens(&world);

    let mut stream = admitted(&world.device(0)).await;
    let topic = format!("devices/x{FORGED}/messages/events/");
    let publish = Packet::Publish(Publish::new(topic, QoS::AtMostOnce, "{}"));
    device::write(&mut stream, &publish).await.expect("write");
    log.extend(tokio::task::block_in_place(|| running.until("topic_identity")));

    let config = world.device(1);
    let mut claim = connect(&config);
    claim.client_id = format!("x{FORGED}");
    claim.login = Some(Login {
        username: format!("h/x{FORGED}/?api-version=2021-04-12"),
        password: String::new(),
    });
    let mut stream = silent_tls(&config).await;
    device::write(&mut stream, &Packet::Connect(claim)).await.expect("write");
    log.extend(tokio::task::block_in_place(|| running.until("user_name_device_id")));
    log.extend(tokio::task::block_in_place(|| running.stop()));
    world.end().await;
    assert!(log.iter().any(|line| line.contains("forged")), "a peer's words are logged: {log:#?}");
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_is_an_object_if_json_is_set() {
    let log = log_of_a_run("json").await;
    let mut messages = Vec::new();
    for line in &log {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(line.starts_with("{\"ts\":\"20"), "{line}");
        for member in ["ts", "level", "target", "message"] {
            assert!(object[member].is_string(), "{member}: {line}");
        }
        assert_eq!(object["ts"].as_str().map(str::len), Some("2026-01-02T03:04:05.678Z".len()));
        messages.push(object["message"].as_str().expect("a text").to_owned());
    }
    let has = |part: &str| messages.iter().any(|message| message.contains(part));
    assert!(has("RuntimeLogFormat") && has("honoured"), "the start table");
    assert!(has("MQTT over TLS on") && has("stopped"), "{messages:#?}");
    assert!(has("user_name_device_id") && has("peer 127.0.0.1"), "{messages:#?}");
    let closed: Vec<&String> = log.iter().filter(|line| line.contains("closed: ")).collect();
    assert!(closed.iter().all(|line| line.contains("\"peer\":\"127.0.0.1")), "{closed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_peer_forges_a_line_of_the_text() {
    let log = log_of_a_run("text").await;
    for line in &log {
        // <6> 2026-01-02 03:04:05.678 +00:00 [INF]
        let is_head = line.get(34..36) == Some(" [") && line.get(3..4) == Some(" ");
        assert!(is_head || line.starts_with("  | "), "{line:?}");
        assert!(!line.trim_start().starts_with(FORGED.trim_start()), "{line:?}");
    }
    assert!(log.len() > 20, "{log:#?}");
}

/// From each level up, and nothing below: the same run tells something at each.
#[tokio::test(flavor = "multi_thread")]
async fn the_level_is_the_least_that_is_logged() {
    let mut world = World::new(1).await;
    world.set("mqttSettings__Colour", "red");
    world.set("storeSettings__maxSizeBytes", "16777216");
    let route = |text: &str| json!({"route": text, "priority": 3});
    let (good, bad) = (route("FROM /messages/* INTO $upstream"), route("FROM nowhere"));
    world.set_document(&document(json!({"good": good, "bad": bad})));
    for (level, expected) in [
        ("fatal", &["ERR"][..]),
        ("error", &["ERR"]),
        ("warning", &["ERR", "WRN"]),
        ("info", &["ERR", "INF", "WRN"]),
        ("debug", &["DBG", "ERR", "INF", "WRN"]),
    ] {
        world.set("RuntimeLogLevel", level);
        let running = Running::start(&world);
        let mut log = tokio::task::block_in_place(|| running.until("set aside: "));
        if expected.contains(&"INF") {
            log.extend(tokio::task::block_in_place(|| running.until("MQTT over TLS on ")));
            let port = log.last().and_then(|line| line.rsplit(':').next()).expect("a port");
            world.port.store(port.trim().parse().expect("a number"), Ordering::Relaxed);
            // Who takes over is told at debug.
            let older = admitted(&world.device(0)).await;
            drop((admitted(&world.device(0)).await, older));
        }
        log.extend(tokio::task::block_in_place(|| running.stop()));
        // <6> 2026-01-02 03:04:05.678 +00:00 [INF]
        let tags: BTreeSet<&str> = log
            .iter()
            .filter(|line| line.starts_with('<'))
            .filter_map(|line| line.get(36..39))
            .collect();
        assert_eq!(tags.into_iter().collect::<Vec<_>>(), expected, "{level}: {log:#?}");
        // What the small store leaves to dead letters is said, and once.
        let is_told = |line: &&String| {
            line.contains("[WRN]") && (line.contains("deadLetterBytes") || line.contains("budget"))
        };
        let times = usize::from(expected.contains(&"WRN"));
        assert_eq!(log.iter().filter(is_told).count(), times, "{level}: {log:#?}");
    }
    world.end().await;
}
