//! Who is connected, and what each has subscribed to.
//!
//! Owns: the registry. Invariants: one connection an identity; what an earlier connection says after a later one arrived
//! changes nothing; an entry goes when its connection ends. Must not know: what is sent to whom.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::inputs::Presence;
use crate::front::mailbox::Client;
use crate::identity::{ClientName, Identity};
use crate::iothub::subscriptions::Subscription;
use crate::session::Subscriptions;

/// Messages for inputs of one module that wait for its PUBACK. Less than a mailbox holds and a session lets wait, so that
/// methods and twins find room beside them; enough for a module a few milliseconds away to be kept busy.
pub(super) const INPUTS_UNDERWAY_MAX: usize = 24;

/// A client that is connected now.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) subscriptions: Subscriptions,
    /// Room for messages to inputs; of this connection alone.
    pub(super) room: Arc<Semaphore>,
    /// Cancelled when the connection has ended and nothing more is wanted for its sake.
    pub(super) gone: CancellationToken,
}

impl Connected {
    pub(super) fn has(&self, subscription: Subscription) -> bool {
        self.subscriptions.get(subscription).is_some()
    }
}

/// A later connection of the same identity is here already: one that hung, and was not waited for, comes too late.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Late;

/// See [the module](self).
#[derive(Debug)]
pub(super) struct Clients {
    connected: Mutex<HashMap<ClientName, Connected>>,
    /// Counts up whenever a module may have begun to listen to its inputs.
    modules: watch::Sender<u64>,
}

impl Clients {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { connected: Mutex::default(), modules: watch::Sender::new(0) })
    }

    /// A connection has begun. Gives the one in whose place it is, which has not said yet that it has ended.
    ///
    /// # Errors
    /// [`Late`]: nothing is changed.
    pub(super) fn arrived(
        &self,
        client: Client,
        subscriptions: Subscriptions,
    ) -> Result<Option<Connected>, Late> {
        let name = client.identity.name().clone();
        let room = Arc::new(Semaphore::new(INPUTS_UNDERWAY_MAX));
        let gone = CancellationToken::new();
        let newcomer = Connected { client, subscriptions, room, gone };
        let mut connected = self.lock();
        if connected.get(&name).is_some_and(|c| c.client.serial > newcomer.client.serial) {
            return Err(Late);
        }
        let older = connected.insert(name, newcomer);
        drop(connected);
        // What is wanted from now on is the newcomer's affair.
        if let Some(older) = &older {
            older.gone.cancel();
        }
        self.heard(subscriptions);
        Ok(older)
    }

    /// The client's subscriptions have changed. Gives the entry as it was before, if the connection is still the one.
    pub(super) fn subscribed(
        &self,
        who: &Identity,
        serial: u64,
        subscriptions: Subscriptions,
    ) -> Option<Connected> {
        let mut connected = self.lock();
        let entry = connected.get_mut(who.name()).filter(|c| c.client.serial == serial)?;
        let before = entry.clone();
        entry.subscriptions = subscriptions;
        drop(connected);
        self.heard(subscriptions);
        Some(before)
    }

    /// The connection has ended; gives its entry, if no later one has taken its place.
    pub(super) fn left(&self, who: &Identity, serial: u64) -> Option<Connected> {
        let mut connected = self.lock();
        connected.get(who.name()).filter(|c| c.client.serial == serial)?;
        connected.remove(who.name())
    }

    /// The connection of `name`, if there is one.
    pub(super) fn get(&self, name: &ClientName) -> Option<Connected> {
        self.lock().get(name).cloned()
    }

    /// Whether the module `name` would take messages for its inputs now.
    pub(super) fn presence(&self, name: &ClientName) -> Presence {
        match self.lock().get(name) {
            None => Presence::Away,
            Some(c) if c.has(Subscription::ModuleInputs) => Presence::Listening,
            Some(_) => Presence::NotSubscribed,
        }
    }

    /// Changes whenever a module may have begun to listen to its inputs.
    pub(super) fn module_arrivals(&self) -> watch::Receiver<u64> {
        self.modules.subscribe()
    }

    /// Resolves when the module `name` is connected and has subscribed to its inputs; at once if it has.
    pub(super) async fn listens(&self, name: &ClientName) {
        let mut modules = self.modules.subscribe();
        loop {
            modules.mark_unchanged();
            if self.get(name).is_some_and(|c| c.has(Subscription::ModuleInputs)) {
                return;
            }
            if modules.changed().await.is_err() {
                // The sending half is ours: it lives as long as we do.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Devices have no inputs, so their coming and going wakes nobody.
    fn heard(&self, subscriptions: Subscriptions) {
        if subscriptions.get(Subscription::ModuleInputs).is_some() {
            self.modules.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClientName, Connected>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::super::testing::{client, identity, subscriptions};
    use super::*;

    #[test]
    fn what_an_earlier_connection_says_changes_nothing() {
        let clients = Clients::new();
        let who = identity("d");
        let (methods, none) = (subscriptions(&[Subscription::Methods]), Subscriptions::default());
        assert!(clients.arrived(client("d", 1).0, none).unwrap().is_none());
        let older = clients.arrived(client("d", 2).0, methods).unwrap();
        let older = older.expect("the first is still there");
        assert_eq!(older.client.serial, 1);
        assert!(clients.subscribed(&who, 1, none).is_none());
        assert!(clients.left(&who, 1).is_none());
        assert!(clients.get(who.name()).is_some_and(|c| c.has(Subscription::Methods)));
        assert_eq!(clients.arrived(client("d", 1).0, none).unwrap_err(), Late);
        assert_eq!(clients.get(who.name()).unwrap().client.serial, 2);
        let before = clients.subscribed(&who, 2, none).expect("the later one");
        assert!(before.has(Subscription::Methods));
        assert!(clients.left(&who, 2).is_some() && clients.left(&who, 2).is_none());
        assert!(clients.get(who.name()).is_none());
    }

    #[test]
    fn a_module_listens_when_it_is_here_and_has_subscribed() {
        let clients = Clients::new();
        let who = identity("edge/m");
        let inputs = subscriptions(&[Subscription::ModuleInputs]);
        let mut waits = Box::pin(clients.listens(who.name()));
        let mut check = |expected: Option<()>, presence: Presence| {
            assert_eq!((&mut waits).now_or_never(), expected);
            assert_eq!(clients.presence(who.name()), presence);
        };
        check(None, Presence::Away);
        clients.arrived(client("edge/n", 1).0, inputs).unwrap();
        check(None, Presence::Away);
        clients.arrived(client("edge/m", 2).0, Subscriptions::default()).unwrap();
        let arrivals = clients.module_arrivals();
        check(None, Presence::NotSubscribed);
        clients.subscribed(&who, 2, inputs);
        check(Some(()), Presence::Listening);
        assert!(arrivals.has_changed().unwrap());
        assert_eq!(clients.listens(who.name()).now_or_never(), Some(()));
        clients.left(&who, 2);
        assert_eq!(clients.listens(who.name()).now_or_never(), None);
        assert_eq!(clients.presence(who.name()), Presence::Away);
    }
}
