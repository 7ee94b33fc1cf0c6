//! A route names a module that does not come: it is told, before its messages fill the store, and no longer once it has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sphere_gateway::clock::{self, Clock, SharedClock, UnixMillis};
use sphere_gateway::gateway::Gateway;

use super::modules::{at_input, routed};
use super::speaker::Who;
use crate::site::EDGE;
use crate::support::{World, eventually, get, metrics, series};

/// A clock of which the monotonic time can be put forward.
struct Forward(SharedClock, AtomicU64);

impl Forward {
    fn by(&self) -> Duration {
        Duration::from_secs(self.1.load(Ordering::SeqCst))
    }
}

impl Clock for Forward {
    fn wall(&self) -> UnixMillis {
        self.0.wall()
    }

    fn monotonic(&self) -> Instant {
        self.0.monotonic() + self.by()
    }
}

/// The warnings of `/healthz`, which stays good.
async fn warnings(gateway: &Gateway) -> Vec<String> {
    let answer = get(gateway, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").expect("head and body");
    let body: Value = serde_json::from_str(body).expect("JSON");
    let lines = body["warnings"].as_array().cloned().unwrap_or_default();
    lines.iter().map(|line| line.as_str().expect("text").to_owned()).collect()
}

async fn gauge(gateway: &Gateway, name: &str) -> f64 {
    series(&metrics(gateway).await, &format!("sphere_gateway_{name}"), &[])
}

/// In `/healthz`, in the gauges, and by `queue list`.
async fn expect_told(world: &World, gateway: &Gateway) {
    let told = warnings(gateway).await;
    for (line, parts) in [
        (
            &told[0],
            [
                "3 messages (",
                "module \"filter\"",
                "the scope has it as \"Filter\", in other letter case",
            ],
        ),
        (&told[1], ["2 messages (", "module \"late\"", "it is not connected: deploy or start it"]),
    ] {
        for part in parts.iter().chain(&[
            " % of what the store may take",
            "nobody has listened for ",
            "timeToLiveSecs",
        ]) {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    assert_eq!(gauge(gateway, "unheard_inputs").await, 2.0);
    assert!(gauge(gateway, "unheard_inputs_bytes").await >= 50.0);
    let admin = gateway.metrics_addr().expect("it is on").to_string();
    let listed =
        tokio::task::block_in_place(|| world.command(&["queue", "list", "--admin", &admin]));
    let listed = String::from_utf8(listed.stdout).expect("text");
    for line in &told {
        assert!(listed.contains(&format!("waits in vain: {line}\n")), "{listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_does_not_come_is_told_with_what_waits_and_what_to_do() {
    let world = routed(&json!({
        // The registry has it as `Filter`.
        "case": "FROM /messages/modules/probe/outputs/a INTO BrokeredEndpoint(\"/modules/filter/inputs/in\")",
        "late": "FROM /messages/modules/probe/outputs/b INTO BrokeredEndpoint(\"/modules/late/inputs/in\")",
    }))
    .await;
    let from = Who::module(&world, "probe");
    let (other_case, late) = (Who::module(&world, "Filter"), Who::module(&world, "late"));
    let clock = Arc::new(Forward(clock::system(), AtomicU64::new(0)));
    let gateway = Gateway::start(world.configuration(), Arc::clone(&clock) as SharedClock);
    let gateway = gateway.await.expect("it starts");
    world.port.store(gateway.mqtt_addr().port(), Ordering::Relaxed);
    let mut sender = from.connect(true).await;
    for (output, count) in [("a", 3), ("b", 2)] {
        for n in 0..count {
            let topic =
                format!("devices/{EDGE}/modules/probe/messages/events/%24.on={output}&n={n}");
            sender.publish(&topic, "0123456789").await;
        }
    }
    // A look each time that a module begins to listen; it happens every few seconds, too.
    let filter = |id: &str| format!("devices/{EDGE}/modules/{id}/inputs/#");
    let look = async || {
        let mut module = other_case.connect(true).await;
        module.subscribe(&[&filter("Filter")]).await;
    };
    look().await;
    assert_eq!(gauge(&gateway, "unheard_inputs").await, 0.0);
    eventually("both were seen to wait", async || {
        let names = ["endpoint=\"edge1/filter/in\"", "endpoint=\"edge1/late/in\""];
        let text = metrics(&gateway).await;
        look().await;
        names.iter().all(|name| series(&text, "edgehub_queue_length", &[name]) > 0.0)
    })
    .await;
    assert_eq!(warnings(&gateway).await, Vec::<String>::new(), "not yet");

    // More than once, should it have looked for the first time only after the clock was put forward; less than the time to live.
    let mut probes = 0;
    eventually("both are told", async || {
        if probes % 10 == 0 && probes < 200 {
            clock.1.fetch_add(301, Ordering::SeqCst);
        }
        probes += 1;
        look().await;
        warnings(&gateway).await.len() == 2
    })
    .await;
    expect_told(&world, &gateway).await;

    // The one that comes gets what waits, and is told no longer; the other still is.
    let mut module = late.connect(true).await;
    eventually("it is connected and says nothing", async || {
        look().await;
        warnings(&gateway).await.iter().any(|line| line.contains("has not subscribed"))
    })
    .await;
    module.subscribe(&[&filter("late")]).await;
    for _ in 0..2 {
        at_input(&mut module, "in").await;
    }
    eventually("only one is told", async || {
        let told = warnings(&gateway).await;
        told.len() == 1 && told[0].contains("module \"filter\"")
    })
    .await;
    assert_eq!(gauge(&gateway, "unheard_inputs").await, 1.0);
    super::end(world, gateway).await;
}
