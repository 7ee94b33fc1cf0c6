//! The twin of each device and module: what it was told, what it reports, online and offline.
//!
//! ```text
//!  client -asked-> [Twins] -> one task an identity, while it has something to do: [machine] (pure) + its document
//!                     ^            | keep (durable) ... then 204        | read, report
//!                     |            v                                    v
//!  hub -desired-------'         cabinet (one file an identity)        upstream::downlinks::Cloud
//! ```
//!
//! Owns: the kept twins, who is connected with which version of desired properties, which reported patches the hub has not
//! taken yet. Invariants: a patch is answered 204 when it is durable and not before, and is then pushed, in order, until the
//! hub takes it or refuses it for good; versions that a client is told never go back within one life of its twin; nothing of
//! an idle twin is in memory. Must not know: MQTT, AMQP, sockets.

mod conductor;
mod entries;
mod kept;
mod limits;
mod machine;
mod merge;
mod task;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::entries::{Event, Shared};
use self::limits::PATCH_BYTES_MAX;
use self::machine::{Ask, Get, Patch};
use crate::clock::SharedClock;
use crate::front::mailbox::{Client, TooMany};
use crate::identity::Identity;
use crate::iothub::subscriptions::Subscription;
use crate::metrics::Metrics;
use crate::session::{Subscriptions, TwinRequest};
use crate::upstream::downlinks::Cloud;

/// What a client hears that asks for its twin while the hub is away and nothing is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OfflineGet {
    /// 200 with a twin without properties, `$version` 0: as the reference, whose devices go on with their defaults.
    #[default]
    Empty,
    /// 503: a device that would take "nothing" for "reset everything" asks again later.
    Unavailable,
}

/// How twins are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Least time between two pushes of one identity's reported properties (`ReportedPropertiesSyncFrequencySecs`, 5 s).
    pub push_every: Duration,
    /// Least time between two reads of one identity's twin that nobody asked for (`MinTwinSyncPeriodSecs`, 120 s).
    pub sync_at_least: Duration,
    /// Longest wait for the hub's answer to a read, before the kept twin is answered (20 s).
    pub read_within: Duration,
    /// See [`OfflineGet`].
    pub offline_get: OfflineGet,
    /// Most twins that are kept; a client beyond has its twin from the hub alone, and cannot report while that is away.
    pub documents_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            push_every: Duration::from_secs(5),
            sync_at_least: Duration::from_secs(120),
            read_within: Duration::from_secs(20),
            offline_get: OfflineGet::Empty,
            documents_max: 100_000,
        }
    }
}

/// Hears each accepted patch of reported properties before the client is answered (twinChangeNotifications).
pub trait ReportedTo: Send + Sync + 'static {
    /// `who` reports `patch` (compact JSON without `$version`); `version` is what it will be told. The future ends when the
    /// notification is durable or nobody wants it.
    ///
    /// # Errors
    /// Why it is not: the patch is then not accepted either (500; the device sends it again).
    fn reported(
        &self,
        who: &Identity,
        patch: Bytes,
        version: u64,
    ) -> BoxFuture<'static, Result<(), String>>;
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReportedToNobody;

impl ReportedTo for ReportedToNobody {
    fn reported(&self, _: &Identity, _: Bytes, _: u64) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Which life of an identity this is: its generation id in the hub's registry, if that is known.
pub type Generation = Arc<dyn Fn(&Identity) -> Option<String> + Send + Sync>;

/// What [`Twins`] is made of.
pub struct Parts {
    /// Where twins are kept; made if it is not there.
    pub folder: PathBuf,
    /// The hub.
    pub cloud: Arc<dyn Cloud>,
    /// See [`Generation`]: a twin of another life is dropped.
    pub generation: Generation,
    /// See [`ReportedTo`].
    pub reported: Arc<dyn ReportedTo>,
    /// How.
    pub config: Config,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: SharedClock,
    /// Where tasks run; whoever stops them waits for these.
    pub tasks: TaskTracker,
    /// Ends the tasks; what is durable stays, who was not answered is not.
    pub stop: CancellationToken,
}

/// See [the module](self). Cheap to clone. No call blocks.
#[derive(Clone)]
pub struct Twins {
    shared: Arc<Shared>,
}

impl Twins {
    /// Begins to push what is pending from before. Must be called within a runtime.
    pub fn new(parts: Parts) -> Self {
        let shared = Arc::new(Shared::new(parts));
        shared.tell_gauges();
        shared.tasks.spawn(conductor::run(Arc::clone(&shared)));
        Self { shared }
    }

    /// A client has taken its seat, with these subscriptions.
    pub fn arrived(&self, client: Client, subscriptions: Subscriptions) {
        let (who, serial) = (client.identity.clone(), client.serial);
        let subscribed = subscriptions.get(Subscription::Desired).is_some();
        self.shared.arrived(client);
        self.shared.post(&who, Event::Arrived { serial, subscribed });
    }

    /// The client has these subscriptions now.
    pub fn subscribed(&self, who: &Identity, serial: u64, subscriptions: Subscriptions) {
        let subscribed = subscriptions.get(Subscription::Desired).is_some();
        self.shared.post(who, Event::Subscribed { serial, subscribed });
    }

    /// The client asks for its twin, or patches it.
    ///
    /// # Errors
    /// [`TooMany`] wait already.
    pub fn asked(&self, who: &Identity, serial: u64, request: TwinRequest) -> Result<(), TooMany> {
        let at = self.shared.clock.monotonic();
        let ask = match request {
            TwinRequest::Get { rid } => Ask::Get(Get { serial, rid, at }),
            TwinRequest::Patch { tag, rid, version, mut body } => {
                // Sixteen may wait of each client: what is too large in any case is not kept in memory for that.
                if body.len() > PATCH_BYTES_MAX {
                    body = Bytes::copy_from_slice(&body[..=PATCH_BYTES_MAX]);
                }
                Ask::Patch(Patch { serial, at, tag, rid, version, body })
            }
        };
        self.shared.ask(who, ask)
    }

    /// The connection has ended.
    pub fn left(&self, who: &Identity, serial: u64) {
        self.shared.left(who, serial);
        self.shared.post(who, Event::Left { serial });
    }

    /// The hub tells changes of the desired properties from now on: what was missed is read.
    pub fn listening(&self, who: &Identity) {
        self.shared.post(who, Event::Listening);
    }

    /// The hub tells a change of the desired properties.
    pub fn desired(&self, who: &Identity, patch: Bytes) {
        self.shared.post(who, Event::Desired(patch));
    }

    /// `who` is not in the scope any more: what is kept of it goes. Not while a patch is pending, which was answered as kept: it
    /// may come back (another parent for an hour), and if it was made anew meanwhile, the old life's twin goes then.
    pub fn forget(&self, who: &Identity) {
        self.shared.post(who, Event::Forget);
    }
}
