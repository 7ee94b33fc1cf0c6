//! The reading of messages by tables; the links against the hub double.

mod crowd;
mod message;
mod messages;
mod methods;
mod silence;
mod twins;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::timeout;

use super::{
    Cloud, CloudMessage, Config, Downlinks, Kind, Listener, MethodCall, Product, Settlement, Wanted,
};
use crate::identity::Identity;
use crate::upstream::tests::{LONG, Lab};

const DESIRED: Wanted = Wanted { desired: true, methods: false, cloud_to_device: false };
const METHODS: Wanted = Wanted { desired: false, methods: true, cloud_to_device: false };
const MESSAGES: Wanted = Wanted { desired: false, methods: false, cloud_to_device: true };
const ALL: Wanted = Wanted { desired: true, methods: true, cloud_to_device: true };
const NOTHING: Wanted = Wanted { desired: false, methods: false, cloud_to_device: false };

#[derive(Debug, PartialEq)]
enum Said {
    Listening(Identity),
    Desired(Identity, String),
    Called(Identity, String),
    Message(Identity, CloudMessage),
}

/// Writes down what it hears. A method answers with its payload (`mute` never); a message is settled as its property `settle`
/// says (`wait`: completed once `go` is notified).
struct Ear {
    said: mpsc::Sender<Said>,
    go: Arc<Notify>,
}

impl Ear {
    fn say(&self, said: Said) {
        self.said.try_send(said).expect("a test says less than that");
    }
}

impl Listener for Ear {
    fn listening(&self, who: &Identity) {
        self.say(Said::Listening(who.clone()));
    }

    fn desired(&self, who: &Identity, patch: Bytes) {
        self.say(Said::Desired(who.clone(), String::from_utf8(patch.to_vec()).unwrap()));
    }

    fn method(&self, who: &Identity, call: MethodCall) -> BoxFuture<'static, (i32, Bytes)> {
        let mute = call.name == "mute";
        self.say(Said::Called(who.clone(), call.name));
        Box::pin(async move {
            if mute {
                std::future::pending::<()>().await;
            }
            (-7, call.payload)
        })
    }

    fn cloud_to_device(
        &self,
        who: &Identity,
        message: CloudMessage,
    ) -> BoxFuture<'static, Settlement> {
        let how = message.properties.get("settle").flatten().unwrap_or_default().to_owned();
        let again = message.delivery_count > 0;
        self.say(Said::Message(who.clone(), message));
        let go = self.go.clone();
        Box::pin(async move {
            match how.as_str() {
                "release" if !again => Settlement::Release,
                "reject" => Settlement::Reject,
                "leave" => Settlement::Leave,
                "wait" => {
                    go.notified().await;
                    Settlement::Complete
                }
                "wait and release" => {
                    go.notified().await;
                    Settlement::Release
                }
                _ => Settlement::Complete,
            }
        })
    }
}

/// Downlinks over the upstream of a [`Lab`].
struct Bench {
    lab: Lab,
    downlinks: Arc<Downlinks>,
    heard: Mutex<mpsc::Receiver<Said>>,
    go: Arc<Notify>,
}

impl Bench {
    async fn start() -> Self {
        Self::with(Lab::start().await, |_| {}).await
    }

    async fn with(lab: Lab, set: impl FnOnce(&mut Config)) -> Self {
        let bench = Self::unconnected(lab, set);
        bench.connected().await;
        bench
    }

    fn unconnected(lab: Lab, set: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        set(&mut config);
        let downlinks = Downlinks::new(lab.upstream.clone(), config);
        let (said, heard) = mpsc::channel(10_000);
        let go = Arc::new(Notify::new());
        let ear = Arc::new(Ear { said, go: go.clone() });
        lab.tracker.spawn(downlinks.clone().run(ear, lab.stop.clone()));
        Self { lab, downlinks, heard: Mutex::new(heard), go }
    }

    async fn connected(&self) {
        let mut connected = self.downlinks.connected();
        timeout(LONG, connected.wait_for(|it| *it)).await.expect("in time").expect("it runs");
    }

    async fn disconnected(&self) {
        let mut connected = self.downlinks.connected();
        timeout(LONG, connected.wait_for(|it| !*it)).await.expect("in time").expect("it runs");
    }

    fn want(&self, who: &Identity, wanted: Wanted) {
        self.downlinks.want(who, wanted, Product::default());
    }

    async fn next(&self) -> Said {
        let mut heard = self.heard.lock().await;
        timeout(LONG, heard.recv()).await.expect("in time").expect("it runs")
    }

    fn open(&self, kind: Kind) -> usize {
        self.downlinks.open(kind)
    }

    /// Waits until so many are open.
    async fn opens(&self, kind: Kind, count: usize) {
        let all = async {
            while self.open(kind) != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let open = || self.open(kind);
        timeout(LONG, all).await.unwrap_or_else(|_| panic!("{kind:?}: {} of {count}", open()));
    }

    /// How often `event` was counted.
    fn counted(&self, event: &str, reason: &str) -> u64 {
        let text = self.lab.metrics().render();
        let found = text.lines().find(|line| {
            line.contains(&format!("event=\"{event}\""))
                && line.contains(&format!("reason=\"{reason}\""))
        });
        found.map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
    }

    async fn end(self) {
        let downlinks = Arc::downgrade(&self.downlinks.inner);
        drop(self.downlinks);
        self.lab.end().await;
        assert!(downlinks.upgrade().is_none(), "nothing holds it any more");
    }
}
