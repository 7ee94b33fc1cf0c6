//! Messages that wait for a module's input: what their time to live ends, and what `kill -9` leaves.
//!
//! `SPHERE_BOTH_WAYS_KILLS` (default 10) and `SPHERE_SEED` are settable; the seed is printed.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Packet, Publish};
use serde_json::json;

use super::kill::start;
use super::modules::{at_input, routed};
use super::schedule::setting;
use super::speaker::{Speaker, Who};
use crate::site::EDGE;
use crate::support::{World, eventually, metrics, series};

const TTL: Duration = Duration::from_secs(2);

/// What a module may leave unacknowledged and still be sent more (24).
const OWED_MAX: u64 = 20;

fn filter() -> String {
    format!("devices/{EDGE}/modules/to/inputs/#")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_while_its_module_is_away_is_counted_and_what_is_behind_it_comes() {
    let into = "INTO BrokeredEndpoint(\"/modules/to/inputs/in\")";
    let world = routed(&json!({
        "short": {
            "route": format!("FROM /messages/modules/probe/outputs/short {into}"),
            "timeToLiveSecs": TTL.as_secs(),
        },
        "long": format!("FROM /messages/modules/probe/outputs/long {into}"),
    }))
    .await;
    let (from, to) = (Who::module(&world, "probe"), Who::module(&world, "to"));
    let gateway = world.gateway().await;
    let mut sender = from.connect(true).await;
    // Of one queue: at its head, and between others.
    let lives = ["short", "short", "long", "long", "short", "long", "short", "short", "long"];
    let topic = |life: &str| format!("devices/{EDGE}/modules/probe/messages/events/%24.on={life}");
    for (n, life) in lives.iter().enumerate() {
        sender.publish(&topic(life), n.to_string()).await;
    }
    let expired = async || {
        series(
            &metrics(&gateway).await,
            "edgehub_messages_dropped_total",
            &["reason=\"ttl_expiry\""],
        )
    };
    eventually("the head expires although nobody comes for it", async || expired().await >= 2.0)
        .await;
    // By any clock: all of the short-lived are older than that afterwards.
    tokio::time::sleep(TTL + Duration::from_secs(1)).await;
    let mut module = to.connect(true).await;
    module.subscribe(&[&filter()]).await;
    sender.publish(&topic("long"), lives.len().to_string()).await;
    for n in [2, 3, 5, 8, 9] {
        let (_, body) = at_input(&mut module, "in").await;
        assert_eq!(body, n.to_string().into_bytes(), "in order, nothing that expired");
    }
    eventually("nothing waits", async || {
        let text = metrics(&gateway).await;
        series(&text, "edgehub_queue_length", &["endpoint=\"edge1/to/in\""]) == 0.0
    })
    .await;
    assert_eq!(expired().await, 5.0, "each is counted, once");
    // Who is here gets what lives shortly, too; on a slow machine it may be over before.
    let mut came = Vec::new();
    for _ in 0..20 {
        sender.publish(&topic("short"), "fresh").await;
        sender.publish(&topic("long"), "behind").await;
        came = at_input(&mut module, "in").await.1;
        if came == b"fresh" {
            assert_eq!(at_input(&mut module, "in").await.1, b"behind");
            break;
        }
        assert_eq!(came, b"behind");
    }
    assert_eq!(came, b"fresh");
    super::end(world, gateway).await;
}

/// Numbers its messages and sends one at a time; sends again what was not answered.
struct Sender {
    who: Who,
    topic: String,
    /// The last number that was acknowledged to it.
    answered: u64,
}

impl Sender {
    fn new(who: Who) -> Self {
        let topic = format!("devices/{}/messages/events/", who.id.replace('/', "/modules/"));
        Self { who, topic, answered: 0 }
    }

    fn body(&self) -> String {
        format!("{} {}", self.who.id, self.answered + 1)
    }

    async fn publish(&mut self, speaker: &mut Speaker) {
        speaker.publish(&self.topic, self.body()).await;
        self.answered += 1;
    }

    /// Sends the next and does not wait.
    async fn leave_under_way(&self, speaker: &mut Speaker) {
        let mut publish = Publish::new(&self.topic, QoS::AtLeastOnce, self.body());
        publish.pkid = 1;
        speaker.write(Packet::Publish(publish)).await;
    }
}

/// What the module has, by sender.
#[derive(Default)]
struct Taken {
    /// The highest number that it has acknowledged; all before it are, too.
    acknowledged: BTreeMap<String, u64>,
    /// The highest number that it was sent.
    seen: BTreeMap<String, u64>,
    /// The last number on this connection.
    last: BTreeMap<String, u64>,
    /// How many came again.
    again: u64,
}

impl Taken {
    /// The next message. Each connection goes on behind what was acknowledged, or earlier, and leaves nothing out; only what a
    /// sender has sent twice comes twice.
    async fn next(&mut self, module: &mut Speaker, is_acknowledged: bool) {
        let got = module.publish_of(&format!("devices/{EDGE}/modules/to/inputs/in/")).await;
        let text = std::str::from_utf8(&got.payload).expect("text").to_owned();
        let (from, n) = text.split_once(' ').expect("who and number");
        let (from, n): (String, u64) = (from.to_owned(), n.parse().expect("a number"));
        let acknowledged = self.acknowledged.entry(from.clone()).or_default();
        match self.last.insert(from.clone(), n) {
            None => assert!(n <= *acknowledged + 1, "{text} is the first behind {acknowledged}"),
            Some(last) => assert!(n == last || n == last + 1, "{text} behind {last}"),
        }
        let seen = self.seen.entry(from).or_default();
        self.again += u64::from(n <= *seen);
        *seen = n.max(*seen);
        if is_acknowledged {
            module.acknowledge(&got).await;
            *acknowledged = n.max(*acknowledged);
        }
    }

    /// A new connection.
    async fn connect(&mut self, who: &Who) -> Speaker {
        self.last.clear();
        let mut module = who.connect(true).await;
        module.subscribe(&[&filter()]).await;
        module
    }

    fn owed(&self, senders: &[Sender]) -> u64 {
        let had = |s: &Sender| self.acknowledged.get(&s.who.id).copied().unwrap_or_default();
        senders.iter().map(|s| s.answered.saturating_sub(had(s))).sum()
    }
}

/// One life of the gateway, up to where it is killed.
async fn live(
    world: &World,
    to: &Who,
    senders: &mut [Sender],
    taken: &mut Taken,
    random: &mut StdRng,
) {
    let process = start(world);
    let mut speakers = Vec::new();
    for sender in &*senders {
        speakers.push(sender.who.connect(true).await);
    }
    // The module comes before, or only when all wait.
    let mut module = match random.random_bool(0.5) {
        true => Some(taken.connect(to).await),
        false => None,
    };
    for _ in 0..random.random_range(1..40) {
        let at = random.random_range(0..senders.len());
        senders[at].publish(&mut speakers[at]).await;
    }
    if module.is_none() && random.random_bool(0.9) {
        module = Some(taken.connect(to).await);
    }
    if let Some(module) = &mut module {
        let waits = taken.owed(senders);
        let left = random.random_range(1..=waits.min(OWED_MAX));
        for _ in 0..random.random_range(0..=waits - left) {
            taken.next(module, true).await;
        }
        taken.next(module, false).await;
        // More behind it come if they were handed over together with it.
        for _ in 1..left {
            let next = taken.next(module, false);
            if tokio::time::timeout(Duration::from_millis(20), next).await.is_err() {
                break;
            }
        }
    }
    if random.random_bool(0.3) {
        module = None;
    }
    if random.random_bool(0.7) {
        let at = random.random_range(0..senders.len());
        senders[at].leave_under_way(&mut speakers[at]).await;
    }
    tokio::time::sleep(Duration::from_micros(random.random_range(0..20_000))).await;
    process.kill();
    drop(module);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_module_comes_in_order_whenever_it_is_killed() {
    let kills = setting("SPHERE_BOTH_WAYS_KILLS", 10);
    let seed = setting("SPHERE_SEED", rand::random::<u64>() >> 1);
    println!("SPHERE_SEED={seed} SPHERE_BOTH_WAYS_KILLS={kills}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = routed(&json!({
        "all": "FROM /messages/* INTO BrokeredEndpoint(\"/modules/to/inputs/in\")",
    }))
    .await;
    // What the module does not acknowledge comes again on the next connection only.
    world.set("MessageAckTimeoutSecs", "3600");
    let to = Who::module(&world, "to");
    let mut senders =
        [Sender::new(Who::module(&world, "probe")), Sender::new(Who::device(&world, 0))];
    let mut taken = Taken::default();
    for _ in 0..kills {
        live(&world, &to, &mut senders, &mut taken, &mut random).await;
    }
    let process = start(&world);
    for sender in &mut senders {
        let mut speaker = sender.who.connect(true).await;
        // The one that was under way, perhaps; and one that was certainly sent once: the end.
        sender.publish(&mut speaker).await;
        sender.publish(&mut speaker).await;
    }
    let mut module = taken.connect(&to).await;
    while taken.owed(&senders) > 0 {
        taken.next(&mut module, true).await;
    }
    eventually("nothing waits", async || {
        process.counter("edgehub_queue_length", &["endpoint=\"edge1/to/in\""]).await == 0
    })
    .await;
    let answered: u64 = senders.iter().map(|sender| sender.answered).sum();
    println!("{answered} messages, {} came again", taken.again);
    assert!(answered > kills && (kills == 0 || taken.again > 0), "the trial must try");
    process.stop().await;
    world.end().await;
}
