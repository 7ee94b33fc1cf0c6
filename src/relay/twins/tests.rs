//! Twins with a real folder and a hub in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::merge::{Object, apply};
use super::*;
use crate::clock;
use crate::front::mailbox::{Letter, Letters, mailbox};
use crate::identity::{ClientName, DeviceId};
use crate::session::Outbound;
use crate::upstream::downlinks::{CloudError, Product, Wanted};

const LONG: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Reported {
    section: Object,
    version: u64,
}

/// A hub: takes patches at once, or after [`Hub::delay`], or loses the answer.
struct Hub {
    connected: watch::Sender<bool>,
    tried: watch::Sender<bool>,
    twins: Arc<Mutex<HashMap<String, Reported>>>,
    /// So many answers are lost from now on.
    lose: Arc<AtomicUsize>,
    delay: Duration,
    under_way: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Hub {
    fn new(online: bool) -> Arc<Self> {
        Arc::new(Self {
            connected: watch::channel(online).0,
            tried: watch::channel(true).0,
            twins: Arc::default(),
            lose: Arc::default(),
            delay: Duration::from_millis(1),
            under_way: Arc::default(),
            most: Arc::default(),
        })
    }

    fn reported(&self, who: &str) -> Value {
        let twins = self.twins.lock().unwrap();
        Value::Object(twins.get(who).map(|r| r.section.clone()).unwrap_or_default())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cloud for Hub {
    fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    fn tried(&self) -> watch::Receiver<bool> {
        self.tried.subscribe()
    }

    fn want(&self, _: &Identity, _: Wanted, _: Product) {}

    fn twin(&self, who: &Identity) -> BoxFuture<'static, Result<Bytes, CloudError>> {
        let (twins, who) = (Arc::clone(&self.twins), who.to_string());
        Box::pin(async move {
            let mut twins = locked(&twins);
            let reported = twins.entry(who).or_default();
            let mut section = reported.section.clone();
            section.insert("$version".to_owned(), reported.version.into());
            let twin = json!({"desired": {"$version": 1}, "reported": section});
            Ok(twin.to_string().into())
        })
    }

    fn report(
        &self,
        who: &Identity,
        patch: Bytes,
    ) -> BoxFuture<'static, Result<Option<u64>, CloudError>> {
        let (twins, lose, who) = (Arc::clone(&self.twins), Arc::clone(&self.lose), who.to_string());
        let (under_way, most) = (Arc::clone(&self.under_way), Arc::clone(&self.most));
        let delay = self.delay;
        Box::pin(async move {
            most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(delay).await;
            under_way.fetch_sub(1, Ordering::SeqCst);
            let patch: Object = serde_json::from_slice(&patch).unwrap();
            let mut twins = locked(&twins);
            let reported = twins.entry(who).or_default();
            apply(&mut reported.section, &patch);
            reported.version += 1;
            let lost = lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            match lost {
                Ok(_) => Err(CloudError::Lost("on purpose".to_owned())),
                Err(_) => Ok(Some(reported.version)),
            }
        })
    }
}

struct World {
    hub: Arc<Hub>,
    twins: Twins,
    stop: CancellationToken,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
}

fn world(folder: &std::path::Path, hub: &Arc<Hub>) -> World {
    world_with(folder, hub, Arc::new(ReportedToNobody))
}

fn world_with(folder: &std::path::Path, hub: &Arc<Hub>, reported: Arc<dyn ReportedTo>) -> World {
    let metrics = Metrics::new("hub", "edge");
    let config = Config { push_every: Duration::from_millis(20), ..Config::default() };
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let twins = Twins::new(Parts {
        folder: folder.join("twins"),
        cloud: hub.clone(),
        generation: Arc::new(|_| Some("1".to_owned())),
        reported,
        config,
        metrics: Arc::clone(&metrics),
        clock: clock::system(),
        tasks: tasks.clone(),
        stop: stop.clone(),
    });
    World { hub: Arc::clone(hub), twins, stop, tasks, metrics }
}

impl World {
    /// As kill -9, as far as twins can tell: nothing is said to anybody.
    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(LONG, self.tasks.wait()).await.expect("tasks end");
    }

    fn connect(&self, name: &str, serial: u64) -> Connected {
        let (mailbox, letters) = mailbox();
        let identity = who(name);
        let client = Client { identity, serial, mailbox, model_id: None, product_info: None };
        self.twins.arrived(client, Subscriptions::default());
        Connected { letters, who: who(name), serial }
    }

    /// The hub has what it is to have, and nobody has anything to do.
    async fn until(&self, mut is_so: impl FnMut(&Hub) -> bool) {
        let wait = async {
            while !is_so(&self.hub) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, wait).await.expect("it comes to that");
    }
}

fn who(name: &str) -> Identity {
    Identity::vouched(ClientName::Device(DeviceId::parse(name).unwrap()))
}

struct Connected {
    letters: Letters,
    who: Identity,
    serial: u64,
}

impl Connected {
    fn patch(&self, twins: &Twins, body: &Value) -> Result<(), TooMany> {
        let (body, rid) = (body.to_string().into(), Some("p".into()));
        let request = TwinRequest::Patch { tag: Some(5), rid, version: None, body };
        twins.asked(&self.who, self.serial, request)
    }

    async fn letter(&mut self) -> Letter {
        let next = crate::relay::testing::next(&mut self.letters);
        tokio::time::timeout(LONG, next).await.unwrap()
    }

    async fn answer(&mut self) -> (u16, Option<u64>, Bytes) {
        match self.letter().await {
            Letter::Send {
                content: Outbound::TwinResponse { status, version, body, .. }, ..
            } => (status, version, body),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn patches_are_kept_while_the_hub_is_away_and_pushed_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::new(false);
    let w = world(folder.path(), &hub);
    for n in 0..40_u64 {
        let mut device = w.connect(&format!("d{n}"), n);
        for patch in [json!({"a": n, "b": {"x": 1}}), json!({"b": null}), json!({"b": {"y": n}})] {
            device.patch(&w.twins, &patch).unwrap();
        }
        for version in 1..=3 {
            assert_eq!(device.answer().await, (204, Some(version), Bytes::new()));
            assert!(matches!(device.letter().await, Letter::Kept { tag: 5 }));
        }
        w.twins.left(&device.who, n);
    }
    w.end().await;

    // The first answers are lost: those patches are pushed again.
    hub.lose.store(25, Ordering::SeqCst);
    let w = world(folder.path(), &hub);
    hub.connected.send_replace(true);
    let expected = |n: u64| json!({"a": n, "b": {"y": n}});
    w.until(|hub| (0..40).all(|n| hub.reported(&format!("d{n}")) == expected(n))).await;
    assert!(hub.most.load(Ordering::SeqCst) <= 16, "so many at a time");
    let shared = Arc::clone(&w.twins.shared);
    w.until(|_| shared.count() == (0, 0)).await;
    let text = w.metrics.render();
    assert!(text.contains("event=\"twin_push\"") && text.contains("reason=\"lost\""), "{text}");
    w.end().await;

    // Nothing is pending any more.
    locked(&hub.twins).clear();
    let w = world(folder.path(), &hub);
    let mut device = w.connect("d7", 1);
    device.patch(&w.twins, &json!({"c": 1})).unwrap();
    assert_eq!(device.answer().await, (204, Some(4), Bytes::new()));
    w.until(|hub| hub.reported("d7") == json!({"c": 1})).await;
    assert_eq!(locked(&hub.twins).len(), 1);
    w.end().await;
}

#[tokio::test]
async fn an_idle_client_has_no_task_and_too_many_requests_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let w = world(folder.path(), &Hub::new(true));
    let mut device = w.connect("d", 1);
    assert_eq!(w.twins.shared.count(), (1, 0));
    let get = || TwinRequest::Get { rid: "1".into() };
    // Nothing runs in between: all but the first 16 find no room.
    let taken: Vec<_> = (0..20).map(|_| w.twins.asked(&device.who, 1, get()).is_ok()).collect();
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 16);
    for _ in 0..16 {
        assert_eq!(device.answer().await.0, 200);
    }
    let shared = Arc::clone(&w.twins.shared);
    w.until(|_| shared.count() == (1, 0)).await;
    w.twins.asked(&device.who, 1, get()).unwrap();
    assert_eq!(device.answer().await.0, 200);
    w.twins.left(&device.who, 1);
    w.until(|_| shared.count() == (0, 0)).await;
    w.end().await;
}

/// The hub is reached, or it is not, a moment after a client has asked for a twin that nobody knows.
#[tokio::test]
async fn a_get_right_after_the_start_is_answered_when_it_is_known_whether_the_hub_is_there() {
    for reached in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let hub = Hub::new(false);
        hub.tried.send_replace(false);
        let w = world(folder.path(), &hub);
        let mut device = w.connect("d", 1);
        w.twins.asked(&device.who, 1, TwinRequest::Get { rid: "1".into() }).unwrap();
        let shared = Arc::clone(&w.twins.shared);
        // The task waits: the disk was asked, and there is nothing else to do.
        w.until(|_| shared.waiting(&device.who) == 0).await;
        assert!(device.letters.try_recv().is_none());
        hub.connected.send_replace(reached);
        hub.tried.send_replace(true);
        let (status, _, body) = device.answer().await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        let version = u64::from(reached);
        assert_eq!((status, &body["desired"]), (200, &json!({"$version": version})));
        w.end().await;
    }
}

/// Whatever a client says, and however long the disk takes.
#[tokio::test]
async fn a_client_that_subscribes_for_ever_and_asks_too_much_takes_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let w = world(folder.path(), &Hub::new(true));
    let mut device = w.connect("d", 1);
    w.twins.asked(&device.who, 1, TwinRequest::Get { rid: "1".into() }).unwrap();
    // The task has not run yet.
    let mut subscriptions = Subscriptions::default();
    for n in 0..1000 {
        let qos = (n % 2 == 0).then_some(crate::mqtt::packet::QoS::AtLeastOnce);
        subscriptions.set(Subscription::Desired, qos);
        w.twins.subscribed(&device.who, 1, subscriptions);
    }
    let body = Bytes::from(vec![b' '; 200_000]);
    let patch = TwinRequest::Patch { tag: Some(5), rid: Some("2".into()), version: None, body };
    w.twins.asked(&device.who, 1, patch).unwrap();
    let (events, _) = w.twins.shared.take_inbox(&device.who);
    assert_eq!(events.len(), 3, "{events:?}");
    let Some(Event::Ask(Ask::Patch(patch))) = events.back() else { panic!("{events:?}") };
    assert_eq!(patch.body.len(), PATCH_BYTES_MAX + 1);
    assert!(device.letters.try_recv().is_none());
    w.end().await;
}

struct Deaf;

impl ReportedTo for Deaf {
    fn reported(&self, _: &Identity, _: Bytes, _: u64) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(std::future::ready(Err("no room".to_owned())))
    }
}

#[tokio::test]
async fn a_patch_that_cannot_be_kept_or_told_is_not_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("twins"), b"a file where a folder should be").unwrap();
    let good = tempfile::tempdir().unwrap();
    let cases: [(_, Arc<dyn ReportedTo>); 2] =
        [(good.path(), Arc::new(Deaf)), (folder.path(), Arc::new(ReportedToNobody))];
    for (place, reported) in cases {
        let hub = Hub::new(false);
        let is_broken = place == folder.path();
        if is_broken {
            std::fs::remove_file(place.join("twins")).unwrap();
        }
        let w = world_with(place, &hub, reported);
        let mut device = w.connect("d", 1);
        if is_broken {
            std::fs::create_dir(place.join("twins")).unwrap();
            // A folder in the place of the new file.
            let name = w.twins.shared.cabinet.path_of(device.who.name());
            std::fs::create_dir(name.with_extension("new")).unwrap();
        }
        device.patch(&w.twins, &json!({"a": 1})).unwrap();
        assert_eq!(device.answer().await.0, 500);
        assert!(matches!(device.letter().await, Letter::Close { label: "twin_not_kept", .. }));
        w.end().await;
    }
}

#[tokio::test]
async fn a_forgotten_twin_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::new(false);
    let w = world(folder.path(), &hub);
    let mut device = w.connect("d", 1);
    device.patch(&w.twins, &json!({"a": 1})).unwrap();
    assert_eq!(device.answer().await.1, Some(1));
    w.twins.left(&device.who, 1);
    // What it was promised is pushed first, if it may come back.
    w.twins.forget(&device.who);
    let shared = Arc::clone(&w.twins.shared);
    w.until(|_| w.metrics.render().contains("departed_pending")).await;
    hub.connected.send_replace(true);
    w.until(|hub| hub.reported("d") == json!({"a": 1})).await;
    w.until(|_| shared.count() == (0, 0)).await;
    assert!(shared.cabinet.get(device.who.name()).unwrap().is_some());
    w.twins.forget(&device.who);
    w.until(|_| shared.count() == (0, 0)).await;
    w.until(|_| shared.cabinet.get(device.who.name()).unwrap().is_none()).await;
    w.end().await;
}

#[tokio::test]
async fn a_client_is_told_of_desired_changes_over_its_own_connection() {
    let folder = tempfile::tempdir().unwrap();
    let w = world(folder.path(), &Hub::new(true));
    let mut old = w.connect("d", 1);
    let mut device = w.connect("d", 2);
    let mut subscriptions = Subscriptions::default();
    subscriptions.set(Subscription::Desired, Some(crate::mqtt::packet::QoS::AtLeastOnce));
    w.twins.subscribed(&device.who, 2, subscriptions);
    // What a connection says that was taken over does not count.
    w.twins.left(&device.who, 1);
    w.twins.asked(&device.who, 2, TwinRequest::Get { rid: "1".into() }).unwrap();
    assert_eq!(device.answer().await.0, 200);
    w.twins.desired(&device.who, Bytes::from_static(br#"{"a":1,"$version":2}"#));
    let Letter::Send { content, handed } = device.letter().await else { panic!("not sent") };
    let body = Bytes::from_static(br#"{"$version":2,"a":1}"#);
    assert_eq!(content, Outbound::Desired { version: 2, body });
    // It has no room for more: it is asked to come again.
    handed.unwrap().send(crate::front::mailbox::Handed::Full).unwrap();
    assert!(matches!(device.letter().await, Letter::Close { label: "twin_not_taken", .. }));
    assert!(old.letters.try_recv().is_none());
    w.end().await;
}

/// Found in review: the letter was lost, and with it an answer, a PUBACK or a change that is never told again.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_letters_is_to_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let w = world(folder.path(), &Hub::new(true));
    let mut device = w.connect("d", 1);
    let shared = Arc::clone(&w.twins.shared);
    let get = || TwinRequest::Get { rid: "1".into() };
    for _ in 0..2 {
        for _ in 0..16 {
            w.twins.asked(&device.who, 1, get()).unwrap();
        }
        w.until(|_| shared.count() == (1, 0)).await;
    }
    for _ in 0..3 {
        w.twins.asked(&device.who, 1, get()).unwrap();
    }
    w.until(|_| shared.count() == (1, 0)).await;
    for _ in 0..32 {
        assert_eq!(device.answer().await.0, 200);
    }
    assert!(matches!(device.letter().await, Letter::Close { label: "twin_not_taken", .. }));
    assert!(device.letters.try_recv().is_none(), "it is said once");
    w.end().await;
}

#[tokio::test]
async fn coming_and_going_without_end_takes_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let w = world(folder.path(), &Hub::new(true));
    let device = w.connect("d", 1);
    w.twins.asked(&device.who, 1, TwinRequest::Get { rid: "1".into() }).unwrap();
    let mut subscriptions = Subscriptions::default();
    let mut clients = Vec::new();
    // Nothing runs in between: all of it waits for the task.
    for serial in 2..100 {
        clients.push(w.connect("d", serial));
        for at_most_once in [true, false, true] {
            let qos = at_most_once.then_some(crate::mqtt::packet::QoS::AtMostOnce);
            subscriptions.set(Subscription::Desired, qos);
            w.twins.subscribed(&device.who, serial, subscriptions);
        }
        w.twins.left(&device.who, serial - 1);
    }
    let waiting = w.twins.shared.waiting(&device.who);
    assert!((2..8).contains(&waiting), "{waiting}");
    w.end().await;
}
