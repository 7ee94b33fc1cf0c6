//! Notifications that reported properties have changed: from an accepted patch to the routes.
//!
//! Owns: [`Changes`]. Invariants: a notification is the gateway's own message, under its own name, and tells whose twin it is
//! (`edgehub.md` 4.2); it is durable before the patch is answered, in every queue that its routes name; without a route that
//! wants it nothing is stored and nothing counts as dropped. Must not know: twins, MQTT.
//!
//! On purpose different from the reference: the body's content type and encoding are told (`application/json`, `utf-8`), so that
//! conditions can ask the body, and whoever receives the message can read it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::twins::ReportedTo;
use crate::clock::SharedClock;
use crate::front::ingest::Ingest;
use crate::identity::Identity;
use crate::message::{Message, Properties, Source, SystemKey, SystemProperties, TWIN_CHANGE};
use crate::metrics::Metrics;
use crate::store::{AppendChain, AppendError, Appender, ReceiptTo};

/// See [the module](self).
pub struct Changes {
    /// The gateway itself: `$edgeHub` of this edge device.
    own: Identity,
    ingest: Arc<Ingest>,
    appender: Appender,
    metrics: Arc<Metrics>,
    clock: SharedClock,
}

impl Changes {
    /// Notifications in the name of `own`, by the routes of `ingest`.
    pub fn new(
        own: Identity,
        ingest: Arc<Ingest>,
        appender: Appender,
        metrics: Arc<Metrics>,
        clock: SharedClock,
    ) -> Self {
        Self { own, ingest, appender, metrics, clock }
    }

    fn message(&self, who: &Identity, patch: Bytes) -> Message {
        let mut system = SystemProperties::default();
        system.set(SystemKey::ContentType, "application/json");
        system.set(SystemKey::ContentEncoding, "utf-8");
        system.set(SystemKey::MessageSchema, TWIN_CHANGE);
        system.set(SystemKey::MessageType, TWIN_CHANGE);
        system.set(SystemKey::ReportedDevice, who.device().as_str());
        if let Some(module) = who.module() {
            system.set(SystemKey::ReportedModule, module.as_str());
        }
        Message {
            source: Source { sender: self.own.clone() },
            system,
            properties: Properties::default(),
            body: patch,
            received: self.clock.wall(),
        }
    }
}

impl ReportedTo for Changes {
    fn reported(
        &self,
        who: &Identity,
        patch: Bytes,
        _version: u64,
    ) -> BoxFuture<'static, Result<(), String>> {
        let (to, mut receipts) = mpsc::channel(1);
        let receipt = ReceiptTo::new(0, to, &AppendChain::new());
        let Some(append) = self.ingest.prepare_notification(&self.message(who, patch), receipt)
        else {
            return Box::pin(std::future::ready(Ok(())));
        };
        let (appender, metrics) = (self.appender.clone(), Arc::clone(&self.metrics));
        Box::pin(async move {
            let stored = match appender.append(append).await {
                Ok(()) => match receipts.recv().await {
                    Some(receipt) => receipt.result.map(|_durable| ()),
                    None => Err(AppendError::Full),
                },
                Err(e) => Err(e),
            };
            stored.map_err(|e| {
                metrics.counted("twin_change", "not_stored");
                e.to_string()
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;

    use super::super::testing::identity;
    use super::*;
    use crate::clock;
    use crate::front::live::LiveGate;
    use crate::identity::DeviceId;
    use crate::route::{Global, RouteSpec, RouteTable};
    use crate::store::{self, Offset, RealDisk, Store};

    #[tokio::test]
    async fn a_notification_is_durable_where_routes_want_it_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let config = store::Config::new(dir.path());
        let (store, _) = Store::open(config, Arc::new(RealDisk), clock::system()).unwrap();
        let routes = Arc::new(ArcSwap::from_pointee(RouteTable::default()));
        let metrics = Metrics::new("hub", "edge");
        let gate = Arc::new(LiveGate::default());
        let ingest = Arc::new(Ingest::new(Arc::clone(&routes), gate, Arc::clone(&metrics)));
        let (own, appender) = (identity("edge/$edgeHub"), store.appender());
        let changes = Changes::new(own, ingest, appender, Arc::clone(&metrics), clock::system());
        let patch = || Bytes::from_static(br#"{"a":1}"#);
        let route = |text: &str| {
            let (name, text) = ("r".to_owned(), text.to_owned());
            let spec = RouteSpec { name, text, priority: None, ttl_secs: 0, live_first: None };
            let edge = DeviceId::parse("edge").unwrap();
            let (table, refused) = RouteTable::compile(&edge, &[spec], Global::default());
            assert!(refused.is_empty(), "{refused:?}");
            routes.store(Arc::new(table));
        };
        route("FROM /messages/* INTO $upstream");
        changes.reported(&identity("d"), patch(), 1).await.unwrap();
        assert!(store.queues().borrow().is_empty(), "nobody wants it");
        assert!(!metrics.render().contains("no_route"), "nothing is dropped");
        route(
            "FROM /twinChangeNotifications/* WHERE $body.a = 1 INTO BrokeredEndpoint('/modules/m/inputs/i')",
        );
        changes.reported(&identity("d/x"), patch(), 2).await.unwrap();
        let ids = store.queues().borrow().clone();
        assert_eq!(ids.len(), 1);
        assert_eq!(ids[0].to_string(), "edge/m/i/10");
        let queue = store.queue(&ids[0]).await.unwrap();
        assert_eq!(queue.messages(), 1);
        let page = queue.read(Offset(0), 10, 1 << 16).await.unwrap();
        let message = Message::decode(page.records[0].payload.clone()).unwrap();
        assert!(message.is_twin_change());
        assert_eq!(message.source.sender, identity("edge/$edgeHub"));
        assert_eq!(message.told_sender().to_string(), "d/x");
        assert_eq!(message.body, patch());
    }
}
