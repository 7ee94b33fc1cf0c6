//! Messages between modules, and notifications that reported properties have changed.

use serde_json::{Value, json};

use super::speaker::{Speaker, Who};
use super::{end, world};
use crate::site::EDGE;
use crate::support::{World, eventually, metrics, series};

/// A site with these routes.
pub(super) async fn routed(routes: &Value) -> World {
    let mut world = world().await;
    world.set_document(&json!({
        "schemaVersion": "1.1", "routes": routes,
        "storeAndForwardConfiguration": {"timeToLiveSecs": 7200},
    }));
    world
}

/// The next message at an input, acknowledged.
pub(super) async fn at_input(module: &mut Speaker, input: &str) -> (String, Vec<u8>) {
    let got = module.publish_of(&format!("devices/{EDGE}/modules/")).await;
    module.acknowledge(&got).await;
    let prefix = format!("devices/{}/inputs/{input}/", module.id.replace('/', "/modules/"));
    let bag = got.topic.strip_prefix(&prefix);
    (bag.unwrap_or_else(|| panic!("{} for {prefix}", got.topic)).to_owned(), got.payload.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_for_their_module_and_come_in_order_with_their_sender() {
    let world = routed(&json!({
        "out": format!("FROM /messages/modules/probe/outputs/o INTO BrokeredEndpoint(\"/modules/to/inputs/in\")"),
        "leaf": "FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO BrokeredEndpoint(\"/modules/to/inputs/leaf\")",
    }))
    .await;
    let (from, to) = (Who::module(&world, "probe"), Who::module(&world, "to"));
    let leaf = Who::device(&world, 0);
    let gateway = world.gateway().await;
    let mut sender = from.connect(true).await;
    let topic = |n: u32| {
        format!("devices/{EDGE}/modules/probe/messages/events/%24.on=o&n={n}&%24.mid=m{n}")
    };
    // The module is not there: they wait, also over a restart.
    for n in 0..20 {
        sender.publish(&topic(n), format!("{n}")).await;
    }
    let mut device = leaf.connect(true).await;
    let events = format!("devices/{}/messages/events/a=b", leaf.id);
    device.publish(&events, "from a leaf").await;
    gateway.shutdown().await;
    let gateway = world.gateway().await;
    let mut module = to.connect(true).await;
    let filter = format!("devices/{EDGE}/modules/to/#");
    module.subscribe(&[&filter]).await;
    let mut next = 0;
    let mut leafs = 0;
    while next < 20 || leafs < 1 {
        let got = module.publish_of(&format!("devices/{EDGE}/modules/to/inputs/")).await;
        module.acknowledge(&got).await;
        if got.topic.contains("/inputs/leaf/") {
            assert!(got.topic.contains(&format!("%24.cdid={}", leaf.id)), "{}", got.topic);
            assert!(!got.topic.contains("%24.cmid") && got.topic.contains("a=b"), "{}", got.topic);
            leafs += 1;
            continue;
        }
        assert_eq!(got.payload, next.to_string(), "in order, each once");
        for part in
            ["%24.cdid=edge1", "%24.cmid=probe", &format!("n={next}"), &format!("%24.mid=m{next}")]
        {
            assert!(got.topic.contains(part), "{part} in {}", got.topic);
        }
        assert!(!got.topic.contains("%24.on"), "{}", got.topic);
        next += 1;
    }
    // What waits behind the first is sent together, nothing of it acknowledged; and what was not acknowledged is sent again to
    // the next connection.
    module.vanish();
    eventually("the module is seen to be gone", async || {
        series(&metrics(&gateway).await, "edgehub_connected_clients", &[]) == 0.0
    })
    .await;
    let mut sender = from.connect(true).await;
    for n in 20..30 {
        sender.publish(&topic(n), format!("{n}")).await;
    }
    let mut module = to.connect(true).await;
    module.subscribe(&[&filter]).await;
    for n in 20..25 {
        let got = module.publish_of(&format!("devices/{EDGE}/modules/to/inputs/in/")).await;
        assert_eq!(got.payload, n.to_string());
        if n == 20 {
            module.acknowledge(&got).await;
        }
    }
    // Answered behind the PUBACK.
    module.subscribe(&[&filter]).await;
    module.vanish();
    let mut module = to.connect(true).await;
    module.subscribe(&[&filter]).await;
    for n in 21..30 {
        let (_, body) = at_input(&mut module, "in").await;
        assert_eq!(body, n.to_string().into_bytes());
    }
    eventually("the queue is empty", async || {
        let text = metrics(&gateway).await;
        let to = format!("to=\"{EDGE}/to\"");
        series(&text, "edgehub_queue_length", &["endpoint=\"edge1/to/in\""]) == 0.0
            && series(&text, "edgehub_messages_sent_total", &[&to, "to_route_input=\"in\""]) >= 30.0
    })
    .await;
    end(world, gateway).await;
}

/// It never lasts for all that was handed over to it at once, and has what it acknowledged once.
#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_restarts_after_every_few_messages_gets_on() {
    let world = routed(&json!({
        "out": "FROM /messages/modules/probe/* INTO BrokeredEndpoint(\"/modules/to/inputs/in\")",
    }))
    .await;
    let (from, to) = (Who::module(&world, "probe"), Who::module(&world, "to"));
    let gateway = world.gateway().await;
    let mut sender = from.connect(true).await;
    for n in 0..20 {
        let topic = format!("devices/{EDGE}/modules/probe/messages/events/");
        sender.publish(&topic, format!("{n}")).await;
    }
    let filter = format!("devices/{EDGE}/modules/to/inputs/#");
    for first in (0..20).step_by(4) {
        let mut module = to.connect(true).await;
        module.subscribe(&[&filter]).await;
        for n in first..first + 4 {
            let (_, body) = at_input(&mut module, "in").await;
            assert_eq!(body, n.to_string().into_bytes(), "in order, each once");
        }
        // Answered behind the PUBACKs.
        module.subscribe(&[&filter]).await;
        module.vanish();
    }
    end(world, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_reported_is_told_to_routes_that_want_to_know() {
    let world = routed(&json!({
        "changes": "FROM /twinChangeNotifications/* INTO BrokeredEndpoint(\"/modules/to/inputs/changes\")",
        "hot": "FROM /twinChangeNotifications/* WHERE $body.temp > 30 INTO $upstream",
    }))
    .await;
    let (to, leaf) = (Who::module(&world, "to"), Who::device(&world, 0));
    let gateway = world.gateway().await;
    let mut module = to.connect(true).await;
    let filter = format!("devices/{EDGE}/modules/to/inputs/#");
    module.subscribe(&[&filter]).await;
    let mut device = leaf.connect(true).await;
    device.subscribe_as_sphere().await;
    for temp in [20, 31] {
        let patch = json!({"temp": temp});
        assert_eq!(device.report(&temp.to_string(), &patch).await.0, 204);
        let (bag, body) = at_input(&mut module, "changes").await;
        assert_eq!(serde_json::from_slice::<Value>(&body).expect("JSON"), patch);
        for part in [&*format!("%24.cdid={}", leaf.id), "%24.schema=twinChangeNotification"] {
            assert!(bag.contains(part), "{part} in {bag}");
        }
        assert!(!bag.contains("%24.cmid"), "{bag}");
    }
    eventually("the one that is hot is at the hub", async || world.hub.counts().received == 1)
        .await;
    let message = &world.hub.messages()[0];
    assert_eq!((&*message.device_id, message.module_id.as_deref()), (EDGE, Some("$edgeHub")));
    assert_eq!(message.body, r#"{"temp":31}"#);
    end(world, gateway).await;
}
