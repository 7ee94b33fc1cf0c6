//! What the hub says to devices and modules, and what they say about themselves: twin, method and cloud-to-device links of
//! each identity on the shared connection.
//!
//! ```text
//!  Cloud::want -----> [one task an identity, while it wants links or asks] ==links==> hub
//!  Cloud::twin, report --^     |
//!                              `--> Listener: desired patches, method calls, cloud-to-device messages
//! ```
//!
//! Owns: those links. Invariants: links of an identity stand only while they are wanted (twin links also while somebody asks,
//! and for a while after); they are opened again after each reconnect, with a pace; what goes wrong for one identity ends its
//! links and nothing else; a method call is answered once; a cloud-to-device message is settled once, by what the listener
//! says. Must not know: who is connected, what a twin means, MQTT.

mod links;
mod message;
mod pace;
mod served;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub(super) use self::links::Kind;
use self::links::Open;
use self::pace::Pace;
use self::served::Served;
use super::Upstream;
use super::backoff::Backoff;
use super::live::Live;
use crate::identity::Identity;
use crate::message::{Properties, SystemProperties};
use crate::metrics::Metrics;

/// Operations on one twin that wait to be sent.
const ASKS_MAX: usize = 16;
/// Identities that the hub has left without an answer before, and that get their links at the same time: each holds its place
/// until the hub has answered, or its time is over and the hub has ended the sessions that it gave up.
const DOUBTFUL_SETUPS_MAX: usize = 16;
/// First and largest ceiling of the wait when a connection ended soon after links were asked for on it.
const REOPEN_AFTER_LOSS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// What lasted this long did not end because of us.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// Which links are to stand for an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Changes of desired properties.
    pub desired: bool,
    /// Direct methods.
    pub methods: bool,
    /// Cloud-to-device messages (devices only).
    pub cloud_to_device: bool,
}

/// What the hub is told of a client when its links are opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Product {
    /// `com.microsoft:model-id`.
    pub model_id: Option<Box<str>>,
    /// Part of `com.microsoft:client-version`.
    pub client: Option<Box<str>>,
}

/// Why an operation on a twin did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// There is no connection to the hub.
    #[error("the hub cannot be reached")]
    Offline,
    /// The connection or the links ended, or no answer came in time: it may or may not have been done.
    #[error("no answer of the hub: {0}")]
    Lost(String),
    /// The hub does not take it now (408, 429, 5xx, throttled).
    #[error("the hub does not take it now: {detail}")]
    Busy {
        /// Least wait.
        after: Option<Duration>,
        /// The hub's words.
        detail: String,
    },
    /// The hub does not take it, now or later.
    #[error("the hub refuses it with status {status}: {detail}")]
    Refused {
        /// The hub's status.
        status: u16,
        /// The hub's words.
        detail: String,
    },
    /// The hub does not know this identity, or not as our child.
    #[error("the hub does not accept this identity: {0}")]
    Unauthenticated(String),
}

/// The cloud side of all identities. [`Downlinks`] is it; tests have their own.
pub trait Cloud: Send + Sync + 'static {
    /// Whether the hub can be reached.
    fn connected(&self) -> watch::Receiver<bool>;
    /// Whether it is known how the first attempt since the start to reach the hub has gone. If it went well,
    /// [`Cloud::connected`] says so before.
    fn tried(&self) -> watch::Receiver<bool>;
    /// From now on these links are to stand for `who`, and no others. Returns at once.
    fn want(&self, who: &Identity, wanted: Wanted, product: Product);
    /// The whole twin: `{"desired":{..,"$version":n},"reported":{..,"$version":m}}`, as the hub writes it.
    fn twin(&self, who: &Identity) -> BoxFuture<'static, Result<Bytes, CloudError>>;
    /// Patches the reported properties; gives their new version if the hub tells it.
    fn report(
        &self,
        who: &Identity,
        patch: Bytes,
    ) -> BoxFuture<'static, Result<Option<u64>, CloudError>>;
}

/// A cloud-to-device message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudMessage {
    /// Delivery tag: the hub's lock token.
    pub lock: Bytes,
    /// `x-opt-sequence-number`, if the hub tells it: the same message has the same one.
    pub sequence: Option<u64>,
    /// How often it was given back before.
    pub delivery_count: u32,
    /// System properties.
    pub system: SystemProperties,
    /// Application properties.
    pub properties: Properties,
    /// Payload, untouched.
    pub body: Bytes,
}

/// What is to become of a cloud-to-device message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// The device has it.
    Complete,
    /// The device does not have it: the hub is to deliver it again.
    Release,
    /// The device cannot have it.
    Reject,
    /// Nothing is said: the hub delivers it again when its lock has expired. Does not count as a delivery.
    Leave,
}

/// A call of a direct method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodCall {
    /// Its name.
    pub name: String,
    /// Its payload, untouched; may be empty.
    pub payload: Bytes,
}

/// Hears what the hub says to identities. Each future is polled until it is done or the links have ended (then it is
/// dropped): it must take no longer than the hub waits.
pub trait Listener: Send + Sync + 'static {
    /// Changes of the desired properties will be told from now on: what was missed before is to be read.
    fn listening(&self, who: &Identity);
    /// The desired properties have changed: a patch with `$version`. Must not block.
    fn desired(&self, who: &Identity, patch: Bytes);
    /// Somebody calls a method: status and payload of the answer.
    fn method(&self, who: &Identity, call: MethodCall) -> BoxFuture<'static, (i32, Bytes)>;
    /// A message for the device.
    fn cloud_to_device(
        &self,
        who: &Identity,
        message: CloudMessage,
    ) -> BoxFuture<'static, Settlement>;
}

/// Limits of the downlinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Most links open at a time, all identities and kinds together (a pair is two). What is beyond waits.
    pub links_max: usize,
    /// Identities that get their links at the same time.
    pub setups_max: usize,
    /// Least time between two of them: after a reconnect the hub hears of so many in a second.
    pub setup_gap: Duration,
    /// How long twin links stay after the last operation if nobody wants to hear of changes.
    pub linger: Duration,
    /// Method calls under way for one identity; one more is answered 429.
    pub calls_max: usize,
    /// The same for all identities together: with payloads of 128 KiB, 32 MiB.
    pub calls_max_total: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            links_max: 10_000,
            setups_max: 32,
            setup_gap: Duration::from_millis(20),
            linger: Duration::from_secs(60),
            calls_max: 16,
            calls_max_total: 256,
        }
    }
}

/// The downlinks of all identities.
#[derive(Debug)]
pub struct Downlinks {
    inner: Arc<Inner>,
}

/// What the tasks of all identities share.
struct Inner {
    upstream: Arc<Upstream>,
    config: Config,
    /// The connection that the links are to be on.
    live: watch::Sender<Option<Arc<Live>>>,
    connected: watch::Sender<bool>,
    tried: watch::Sender<bool>,
    table: Mutex<HashMap<Identity, Arc<Entry>>>,
    running: OnceLock<Running>,
    places: Semaphore,
    /// Of whom the hub has left without an answer before.
    doubtful_places: Semaphore,
    pace: Pace,
    room: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    next_operation: AtomicU64,
    open: Open,
    /// Whether links were asked for on this connection.
    is_used: AtomicBool,
}

struct Running {
    listener: Arc<dyn Listener>,
    stop: CancellationToken,
}

/// What is wanted for one identity. Its task takes it from here.
struct Entry {
    inbox: Mutex<Inbox>,
    changed: Notify,
}

#[derive(Default)]
struct Inbox {
    wanted: Wanted,
    product: Product,
    asks: VecDeque<Ask>,
    /// Changes were not wanted, and are: somebody else may want them.
    is_desired_anew: bool,
    /// Whether it has a task.
    is_served: bool,
}

/// An operation on a twin that somebody waits for.
enum Ask {
    Twin(oneshot::Sender<Result<Bytes, CloudError>>),
    Report(Bytes, oneshot::Sender<Result<Option<u64>, CloudError>>),
}

impl Ask {
    fn refuse(self, error: CloudError) {
        // Nobody waits any more: nobody needs to know.
        let _ = match self {
            Self::Twin(done) => done.send(Err(error)).map_err(drop),
            Self::Report(_, done) => done.send(Err(error)).map_err(drop),
        };
    }

    fn is_given_up(&self) -> bool {
        match self {
            Self::Twin(done) => done.is_closed(),
            Self::Report(_, done) => done.is_closed(),
        }
    }
}

impl Entry {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().expect("nothing panics under this lock")
    }

    fn refuse_all(&self, error: &CloudError) {
        let asks = std::mem::take(&mut self.inbox().asks);
        asks.into_iter().for_each(|ask| ask.refuse(error.clone()));
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Downlinks {
    /// Opens nothing until [`Downlinks::run`] runs; what is wanted before is remembered. Counts where `upstream` counts.
    pub fn new(upstream: Arc<Upstream>, config: Config) -> Arc<Self> {
        let inner = Inner {
            upstream,
            config,
            live: watch::Sender::new(None),
            connected: watch::Sender::new(false),
            tried: watch::Sender::new(false),
            table: Mutex::default(),
            running: OnceLock::new(),
            places: Semaphore::new(config.setups_max),
            doubtful_places: Semaphore::new(DOUBTFUL_SETUPS_MAX),
            pace: Pace::new(config.setup_gap),
            room: Arc::new(Semaphore::new(config.links_max)),
            calls: Arc::new(Semaphore::new(config.calls_max_total)),
            next_operation: AtomicU64::new(0),
            open: Open::default(),
            is_used: AtomicBool::new(false),
        };
        let inner = Arc::new(inner);
        inner.show_open();
        Arc::new(Self { inner })
    }

    /// Identities whose links of this kind are open.
    #[cfg(test)]
    pub(super) fn open(&self, kind: Kind) -> usize {
        self.inner.open.of(kind)
    }

    /// Keeps the links until `stop`; its tasks are on the upstream's tracker. To be called once.
    pub async fn run(self: Arc<Self>, listener: Arc<dyn Listener>, stop: CancellationToken) {
        let inner = &self.inner;
        if inner.running.set(Running { listener, stop: stop.clone() }).is_err() {
            debug_assert!(false, "it runs once");
            return;
        }
        let before: Vec<_> =
            inner.table().iter().map(|(who, entry)| (who.clone(), entry.clone())).collect();
        for (who, entry) in before {
            inner.serve(&who, &entry);
        }
        stop.run_until_cancelled(async { tokio::join!(inner.follow(), inner.await_failure()) })
            .await;
        inner.publish(None);
        let left: Vec<_> = inner.table().values().cloned().collect();
        left.iter().for_each(|entry| entry.refuse_all(&CloudError::Offline));
    }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, HashMap<Identity, Arc<Entry>>> {
        self.table.lock().expect("nothing panics under this lock")
    }

    fn now(&self) -> Instant {
        self.upstream.shared.clock.monotonic()
    }

    fn metrics(&self) -> &Metrics {
        &self.upstream.shared.metrics
    }

    fn limit(&self) -> Duration {
        self.upstream.shared.config.operation_timeout
    }

    fn next_operation(&self) -> u64 {
        self.next_operation.fetch_add(1, Ordering::Relaxed)
    }

    fn show_open(self: &Arc<Self>) {
        let inner = Arc::downgrade(self);
        self.metrics().on_scrape(move |metrics| {
            let Some(inner) = inner.upgrade() else { return };
            let gauge = |name, kind| {
                let help = "Identities whose links of this kind are open.";
                metrics.set_gauge(name, help, inner.open.of(kind) as f64);
            };
            gauge("downlinks_twin", Kind::Twin);
            gauge("downlinks_methods", Kind::Methods);
            gauge("downlinks_cloud_to_device", Kind::CloudToDevice);
        });
    }

    /// Follows the upstream's connections. One that ended soon after links were asked for may have ended because of them:
    /// telemetry is to have the next to itself for a while.
    async fn follow(&self) {
        let mut after_loss = Backoff::new(REOPEN_AFTER_LOSS.0, REOPEN_AFTER_LOSS.1);
        loop {
            let live = self.upstream.standing().await;
            let (severed, since) = (live.severed.clone(), self.now());
            self.is_used.store(false, Ordering::Relaxed);
            self.publish(Some(live));
            severed.cancelled().await;
            self.publish(None);
            if self.now() - since >= STABLE_AFTER {
                after_loss.reset();
            } else if self.is_used.load(Ordering::Relaxed) {
                tokio::time::sleep(after_loss.next_wait()).await;
            }
        }
    }

    /// Tells when the first attempt to connect has failed.
    async fn await_failure(&self) {
        // Whoever could fail no more is gone: then nobody waits for it either.
        if self.upstream.has_failed().wait_for(|failed| *failed).await.is_ok() {
            self.tried.send_replace(true);
        }
    }

    fn publish(&self, live: Option<Arc<Live>>) {
        let connected = live.is_some();
        self.live.send_replace(live);
        self.connected.send_if_modified(|was| std::mem::replace(was, connected) != connected);
        self.tried.send_if_modified(|was| connected && !std::mem::replace(was, true));
    }

    /// Changes what is wanted for `who`, and sees to it that somebody serves it.
    fn with_entry<T>(self: &Arc<Self>, who: &Identity, change: impl FnOnce(&mut Inbox) -> T) -> T {
        let mut table = self.table();
        let entry = table
            .entry(who.clone())
            .or_insert_with(|| Arc::new(Entry { inbox: Mutex::default(), changed: Notify::new() }));
        let entry = entry.clone();
        // Under the table's lock, so that a task that ends for lack of work sees it or is seen.
        let done = change(&mut entry.inbox());
        drop(table);
        entry.changed.notify_one();
        self.serve(who, &entry);
        done
    }

    /// Starts the identity's task if it has none.
    fn serve(self: &Arc<Self>, who: &Identity, entry: &Arc<Entry>) {
        let Some(running) = self.running.get() else { return };
        if std::mem::replace(&mut entry.inbox().is_served, true) {
            return;
        }
        let served =
            Served::new(self.clone(), running.listener.clone(), who.clone(), entry.clone());
        let stop = running.stop.clone();
        self.upstream.shared.tracker.spawn(async move {
            stop.run_until_cancelled(served.run()).await;
        });
    }

    /// Forgets the identity if nothing is wanted for it.
    fn leave(&self, who: &Identity, entry: &Arc<Entry>) -> bool {
        let mut table = self.table();
        let inbox = entry.inbox();
        let is_idle = inbox.wanted == Wanted::default() && inbox.asks.is_empty();
        drop(inbox);
        if is_idle {
            table.remove(who);
        }
        is_idle
    }

    fn ask(self: &Arc<Self>, who: &Identity, ask: Ask) {
        if !*self.connected.borrow() {
            return ask.refuse(CloudError::Offline);
        }
        let full = self.with_entry(who, |inbox| {
            inbox.asks.retain(|ask| !ask.is_given_up());
            if inbox.asks.len() >= ASKS_MAX {
                return Some(ask);
            }
            inbox.asks.push_back(ask);
            None
        });
        if let Some(ask) = full {
            let detail = "too many operations wait".to_owned();
            ask.refuse(CloudError::Busy { after: None, detail });
        }
    }
}

impl Cloud for Downlinks {
    fn connected(&self) -> watch::Receiver<bool> {
        self.inner.connected.subscribe()
    }

    fn tried(&self) -> watch::Receiver<bool> {
        self.inner.tried.subscribe()
    }

    fn want(&self, who: &Identity, wanted: Wanted, product: Product) {
        if wanted == Wanted::default() && !self.inner.table().contains_key(who) {
            return;
        }
        self.inner.with_entry(who, |inbox| {
            inbox.is_desired_anew |= wanted.desired && !inbox.wanted.desired;
            (inbox.wanted, inbox.product) = (wanted, product);
        });
    }

    fn twin(&self, who: &Identity) -> BoxFuture<'static, Result<Bytes, CloudError>> {
        let (done, answered) = oneshot::channel();
        self.inner.ask(who, Ask::Twin(done));
        Box::pin(async move { answered.await.unwrap_or(Err(CloudError::Offline)) })
    }

    fn report(
        &self,
        who: &Identity,
        patch: Bytes,
    ) -> BoxFuture<'static, Result<Option<u64>, CloudError>> {
        let (done, answered) = oneshot::channel();
        self.inner.ask(who, Ask::Report(patch, done));
        Box::pin(async move {
            answered
                .await
                .unwrap_or_else(|_| Err(CloudError::Lost("this side is ending".to_owned())))
        })
    }
}
