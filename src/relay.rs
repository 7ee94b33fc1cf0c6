//! Both ways: twins, direct methods, cloud-to-device messages, and messages to modules' inputs.
//!
//! ```text
//!  front::connection --[front::mailbox::Relay]--> [Relay] --[upstream::downlinks::Cloud]-----> upstream
//!                   <--------[Mailbox]----------- [Relay] <-[upstream::downlinks::Listener]-- upstream
//!  pump --[Deliver]--> inputs --[Mailbox]-------> module
//!  twins --[ReportedTo]--> changes --> store (twinChangeNotifications)
//! ```
//!
//! Owns: who is connected with which subscriptions ([clients]), what is known of each twin ([twins]), calls under way
//! ([methods]), messages under way to devices ([c2d]) and to modules ([inputs]).
//! Invariants: links of an identity are wanted while it is connected and subscribed, and no longer; what comes for somebody is
//! handed to the connection that is the newest. Must not know: MQTT packets, AMQP, sockets.

mod c2d;
pub mod changes;
mod clients;
pub mod inputs;
mod methods;
#[cfg(test)]
mod testing;
pub mod twins;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use self::c2d::CloudToDevice;
use self::clients::Clients;
use self::inputs::{Inputs, Presence};
use self::methods::Methods;
use self::twins::Twins;
use crate::clock::SharedClock;
use crate::front::mailbox::{self, Client, MethodResponse, TooMany};
use crate::identity::{ClientName, Identity};
use crate::iothub::subscriptions::Subscription;
use crate::metrics::Metrics;
use crate::session::{Subscriptions, TwinRequest};
use crate::upstream::downlinks::{
    Cloud, CloudMessage, Listener, MethodCall, Product, Settlement, Wanted,
};

/// See [the module](self). Cheap to clone.
#[derive(Clone)]
pub struct Relay {
    clients: Arc<Clients>,
    methods: Arc<Methods>,
    c2d: Arc<CloudToDevice>,
    twins: Twins,
    cloud: Arc<dyn Cloud>,
    metrics: Arc<Metrics>,
    /// Held while the clients change and the cloud hears what is wanted now: a connection that ends late must not have the
    /// last word over its successor.
    turn: Arc<Mutex<()>>,
}

impl Relay {
    /// Nobody is connected yet. `twins` ask the same `cloud`.
    pub fn new(
        cloud: Arc<dyn Cloud>,
        twins: Twins,
        metrics: Arc<Metrics>,
        clock: SharedClock,
    ) -> Self {
        Self {
            clients: Clients::new(),
            methods: Arc::new(Methods::new(Arc::clone(&metrics), Arc::clone(&clock))),
            c2d: Arc::new(CloudToDevice::new(Arc::clone(&metrics), clock)),
            twins,
            cloud,
            metrics,
            turn: Arc::default(),
        }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An input of a module as a place to deliver to; the module has `ack_timeout` for each PUBACK.
    pub fn input(&self, module: ClientName, input: Arc<str>, ack_timeout: Duration) -> Inputs {
        let clients = Arc::clone(&self.clients);
        Inputs::new(clients, (module, input), ack_timeout, Arc::clone(&self.metrics))
    }

    /// Whether `module` would take messages for its inputs now.
    pub fn presence(&self, module: &ClientName) -> Presence {
        self.clients.presence(module)
    }

    /// Changes whenever a module may have begun to listen to its inputs.
    pub fn module_arrivals(&self) -> watch::Receiver<u64> {
        self.clients.module_arrivals()
    }

    /// `who` is not ours any more: its twin is kept no longer, unless something of it is still to be pushed
    /// ([`Twins::forget`]).
    pub fn forget(&self, who: &Identity) {
        self.begins_anew(who);
        self.twins.forget(who);
    }

    /// `who` is another one under its old id. Its twin knows by itself.
    pub fn begins_anew(&self, who: &Identity) {
        self.c2d.forget(who.name());
    }

    /// Has the links that the client's subscriptions need, and no others.
    fn want(&self, client: &Client, subscriptions: Subscriptions) {
        let product =
            Product { model_id: client.model_id.clone(), client: client.product_info.clone() };
        let wanted = wanted(&client.identity, subscriptions);
        self.cloud.want(&client.identity, wanted, product);
    }
}

/// Modules have no cloud-to-device messages.
fn wanted(who: &Identity, subscriptions: Subscriptions) -> Wanted {
    let has = |of| subscriptions.get(of).is_some();
    Wanted {
        desired: has(Subscription::Desired),
        methods: has(Subscription::Methods),
        cloud_to_device: has(Subscription::CloudToDevice) && who.module().is_none(),
    }
}

impl mailbox::Relay for Relay {
    fn arrived(&self, client: Client, subscriptions: Subscriptions) {
        // Twins first: what the links tell must find the client there.
        self.twins.arrived(client.clone(), subscriptions);
        let _turn = self.turn();
        if self.clients.arrived(client.clone(), subscriptions).is_ok() {
            self.want(&client, subscriptions);
        }
    }

    fn subscribed(&self, who: &Identity, serial: u64, subscriptions: Subscriptions) {
        let _turn = self.turn();
        let Some(before) = self.clients.subscribed(who, serial, subscriptions) else {
            return;
        };
        self.twins.subscribed(who, serial, subscriptions);
        if wanted(who, subscriptions) != wanted(who, before.subscriptions) {
            self.want(&before.client, subscriptions);
        }
    }

    fn asked(&self, who: &Identity, serial: u64, request: TwinRequest) -> Result<(), TooMany> {
        self.twins.asked(who, serial, request)
    }

    fn answered(&self, who: &Identity, serial: u64, response: MethodResponse) -> bool {
        self.methods.answered(who, serial, response)
    }

    fn left(&self, who: &Identity, serial: u64) {
        self.twins.left(who, serial);
        self.methods.left(who, serial);
        let _turn = self.turn();
        if let Some(gone) = self.clients.left(who, serial) {
            self.want(&gone.client, Subscriptions::default());
            gone.gone.cancel();
        }
    }
}

impl Listener for Relay {
    fn listening(&self, who: &Identity) {
        self.twins.listening(who);
    }

    fn desired(&self, who: &Identity, patch: Bytes) {
        self.twins.desired(who, patch);
    }

    fn method(&self, who: &Identity, call: MethodCall) -> BoxFuture<'static, (i32, Bytes)> {
        let (methods, to) = (Arc::clone(&self.methods), self.clients.get(who.name()));
        Box::pin(async move { methods.call(to, call).await })
    }

    fn cloud_to_device(
        &self,
        who: &Identity,
        message: CloudMessage,
    ) -> BoxFuture<'static, Settlement> {
        let (c2d, to) = (Arc::clone(&self.c2d), self.clients.get(who.name()));
        let who = who.clone();
        Box::pin(async move { c2d.deliver(&who, to, message).await })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::testing::{client, identity, letter, subscriptions};
    use super::*;
    use crate::clock;
    use crate::front::mailbox::Relay as _;
    use crate::upstream::downlinks::CloudError;

    /// Away, and remembers what is wanted.
    struct Away {
        connected: watch::Sender<bool>,
        wanted: Mutex<Vec<(String, Wanted)>>,
    }

    impl Cloud for Away {
        fn connected(&self) -> watch::Receiver<bool> {
            self.connected.subscribe()
        }

        fn tried(&self) -> watch::Receiver<bool> {
            watch::channel(true).1
        }

        fn want(&self, who: &Identity, wanted: Wanted, _: Product) {
            self.wanted.lock().unwrap().push((who.to_string(), wanted));
        }

        fn twin(&self, _: &Identity) -> BoxFuture<'static, Result<Bytes, CloudError>> {
            Box::pin(std::future::ready(Err(CloudError::Offline)))
        }

        fn report(
            &self,
            _: &Identity,
            _: Bytes,
        ) -> BoxFuture<'static, Result<Option<u64>, CloudError>> {
            Box::pin(std::future::ready(Err(CloudError::Offline)))
        }
    }

    fn relay(folder: &std::path::Path) -> (Relay, Arc<Away>) {
        let (connected, metrics) = (watch::Sender::new(false), Metrics::new("hub", "edge"));
        let cloud = Arc::new(Away { connected, wanted: Mutex::default() });
        let twins = Twins::new(twins::Parts {
            folder: folder.to_owned(),
            cloud: Arc::clone(&cloud) as _,
            generation: Arc::new(|_: &Identity| None),
            reported: Arc::new(twins::ReportedToNobody),
            config: twins::Config::default(),
            metrics: Arc::clone(&metrics),
            clock: clock::system(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        (Relay::new(Arc::clone(&cloud) as _, twins, metrics, clock::system()), cloud)
    }

    /// Its messages count from the beginning: the first one must not be taken for the first one of the other.
    #[tokio::test]
    async fn who_is_another_one_under_its_old_id_gets_messages_with_numbers_of_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let (relay, _) = relay(folder.path());
        let (client, mut letters) = client("d", 1);
        relay.arrived(client, subscriptions(&[Subscription::CloudToDevice]));
        let who = identity("d");
        for is_other in [false, true] {
            if is_other {
                relay.begins_anew(&who);
            }
            let message = CloudMessage {
                lock: Bytes::from_static(b"0123456789abcdef"),
                sequence: Some(1),
                delivery_count: 0,
                system: crate::message::SystemProperties::default(),
                properties: crate::message::Properties::default(),
                body: Bytes::new(),
            };
            let mut delivering = relay.cloud_to_device(&who, message);
            assert!(futures_util::poll!(&mut delivering).is_pending(), "sent: {is_other}");
            let (_, say) = letter(&mut letters).await;
            say(mailbox::Handed::Acknowledged);
            assert_eq!(delivering.await, Settlement::Complete);
        }
    }

    #[tokio::test]
    async fn links_are_wanted_while_a_client_is_here_and_subscribed() {
        use Subscription::{CloudToDevice, Desired, Methods, ModuleInputs};
        let folder = tempfile::tempdir().unwrap();
        let (relay, cloud) = relay(folder.path());
        let check = |who: &str, expected: &[(bool, bool, bool)]| {
            let all = std::mem::take(&mut *cloud.wanted.lock().unwrap());
            assert!(all.iter().all(|(name, _)| name == who), "{all:?}");
            let got: Vec<_> =
                all.iter().map(|(_, w)| (w.desired, w.methods, w.cloud_to_device)).collect();
            assert_eq!(got, expected, "{who}");
        };
        let (device, module) = (identity("d"), identity("edge/m"));
        relay.arrived(client("d", 1).0, Subscriptions::default());
        relay.subscribed(&device, 1, subscriptions(&[Methods, CloudToDevice]));
        // The same again, and what needs no link, changes nothing.
        relay.subscribed(&device, 1, subscriptions(&[Methods, CloudToDevice]));
        check("d", &[(false, false, false), (false, true, true)]);
        // A newcomer with the subscriptions that were kept; the older one has nothing to say any more, also if it hung so long
        // that it comes after it.
        relay.arrived(client("d", 2).0, subscriptions(&[Desired]));
        relay.arrived(client("d", 1).0, subscriptions(&[CloudToDevice]));
        relay.subscribed(&device, 1, Subscriptions::default());
        relay.left(&device, 1);
        relay.arrived(client("d", 1).0, subscriptions(&[Methods]));
        check("d", &[(true, false, false)]);
        relay.left(&device, 2);
        relay.left(&device, 2);
        check("d", &[(false, false, false)]);
        // Modules have inputs, not cloud-to-device messages.
        relay
            .arrived(client("edge/m", 3).0, subscriptions(&[ModuleInputs, CloudToDevice, Methods]));
        check("edge/m", &[(false, true, false)]);
        relay.subscribed(&module, 3, subscriptions(&[Methods]));
        check("edge/m", &[]);
    }
}
