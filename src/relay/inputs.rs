//! Messages to a module's inputs: from the durable queue of an endpoint to the module's PUBACK.
//!
//! Owns: [`Inputs`], a [`Deliver`] for one endpoint. Invariants: a message counts as delivered when the module has
//! acknowledged it (or it was written, if the module subscribed with QoS 0); the messages of a delivery are sent in order,
//! several before the first is acknowledged, all inputs of a module together at most
//! [`INPUTS_UNDERWAY_MAX`](super::clients::INPUTS_UNDERWAY_MAX); while the module is away, nothing is handed over.
//! Must not know: queues, time to live, back-off (all the pump's), links.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};

use super::clients::{Clients, Connected};
use crate::deliver::{Deliver, Outcome};
use crate::front::mailbox::{Handed, Letter};
use crate::identity::{ClientName, Identity};
use crate::iothub::subscriptions::Subscription;
use crate::message::Message;
use crate::metrics::Metrics;
use crate::session::Outbound;

/// Label of a connection that is ended because its module acknowledges nothing.
const NOT_TAKEN: &str = "inputs_not_taken";

/// One input of one module as a place to deliver to.
pub struct Inputs {
    clients: Arc<Clients>,
    module: ClientName,
    input: Arc<str>,
    /// How long the module may take for a PUBACK.
    ack_timeout: Duration,
    metrics: Arc<Metrics>,
}

/// Whether a module is there to take messages for its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Not connected.
    Away,
    /// Connected, but not subscribed to its inputs.
    NotSubscribed,
    /// Both.
    Listening,
}

/// A message that was handed to the connection.
struct Underway {
    handed: oneshot::Receiver<Handed>,
    _room: OwnedSemaphorePermit,
}

impl Inputs {
    pub(super) fn new(
        clients: Arc<Clients>,
        (module, input): (ClientName, Arc<str>),
        ack_timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { clients, module, input, ack_timeout, metrics }
    }

    /// Hands the messages over in order, and waits for what comes of each in the same order.
    async fn send(&self, to: &Connected, batch: &[Message]) -> Outcome {
        let mut underway = VecDeque::new();
        let mut rest = batch.iter();
        let mut next = rest.next();
        let mut delivered = 0;
        // A module that takes its time for each message has it for each: not for all that were handed over together.
        let mut until = Instant::now() + self.ack_timeout;
        while next.is_some() || !underway.is_empty() {
            // Room first: what is acknowledged meanwhile makes some.
            tokio::select! {
                biased;
                handed = first(&mut underway, until) => {
                    underway.pop_front();
                    if let Some(outcome) = self.judge(to, handed) {
                        return partly(delivered, outcome);
                    }
                    delivered += 1;
                    until = Instant::now() + self.ack_timeout;
                }
                handed = self.hand_over(to, next), if next.is_some() => match handed {
                    Ok(handed) => {
                        if underway.is_empty() {
                            until = Instant::now() + self.ack_timeout;
                        }
                        underway.push_back(handed);
                        next = rest.next();
                    }
                    Err(outcome) => return partly(delivered, outcome),
                },
            }
        }
        Outcome::Delivered
    }

    /// Puts the message into the mailbox when there is room. Dropped half-way, nothing was handed over.
    async fn hand_over(
        &self,
        to: &Connected,
        message: Option<&Message>,
    ) -> Result<Underway, Outcome> {
        let message = message.expect("guarded");
        let room = Arc::clone(&to.room).acquire_owned().await.expect("it is never closed");
        let (handed, outcome) = oneshot::channel();
        let content = Outbound::Input { input: (&*self.input).into(), message: message.clone() };
        let letter = Letter::Send { content, handed: Some(handed) };
        to.client.mailbox.send(letter).await.map_err(|_| self.gone())?;
        Ok(Underway { handed: outcome, _room: room })
    }

    /// `None`: the module has it.
    fn judge(&self, to: &Connected, handed: Option<Result<Handed, ()>>) -> Option<Outcome> {
        Some(match handed {
            Some(Ok(Handed::Acknowledged | Handed::Written)) => return None,
            Some(Ok(Handed::NotSubscribed) | Err(())) => self.gone(),
            Some(Ok(Handed::Unsendable)) => Outcome::Rejected {
                reason: "unsendable",
                detail: "no MQTT topic can carry its properties and the input's name".to_owned(),
            },
            Some(Ok(Handed::Full)) => {
                self.come_again(to);
                retry("module_too_slow")
            }
            None => retry("module_ack_timeout"),
        })
    }

    /// As many PUBACKs are owed as may be, most of them for what timed out: nothing reaches the module any more, no method and no
    /// desired property either. It gets all of it anew over another connection.
    fn come_again(&self, to: &Connected) {
        self.metrics.counted("module_input", "not_acknowledged");
        let detail = "it acknowledges none of the messages to its inputs".to_owned();
        // Full of letters: then the next try asks again.
        let _ = to.client.mailbox.try_send(Letter::Close { label: NOT_TAKEN, detail });
    }

    fn gone(&self) -> Outcome {
        self.metrics.counted("module_input", "left_before_ack");
        Outcome::Offline
    }
}

/// What the module has acknowledged is not sent again: one that never lasts for a whole batch would never get past it.
fn partly(delivered: usize, then: Outcome) -> Outcome {
    match delivered {
        0 => then,
        _ => Outcome::Partly { delivered, then: Box::new(then) },
    }
}

fn retry(reason: &'static str) -> Outcome {
    Outcome::Retry { after: None, reason }
}

/// What came of the oldest message: `None` = nothing in time, `Err` = the connection has ended. Pending while there is none.
async fn first(underway: &mut VecDeque<Underway>, until: Instant) -> Option<Result<Handed, ()>> {
    match underway.front_mut() {
        Some(oldest) => {
            let handed = timeout_at(until, &mut oldest.handed).await.ok()?;
            Some(handed.map_err(|_| ()))
        }
        None => std::future::pending().await,
    }
}

impl Deliver for Inputs {
    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.clients.listens(&self.module))
    }

    fn deliver<'a>(&'a self, _: &'a Identity, batch: &'a [Message]) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let to = self.clients.get(&self.module);
            match to.filter(|to| to.has(Subscription::ModuleInputs)) {
                Some(to) => self.send(&to, batch).await,
                None => Outcome::Offline,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::super::clients::INPUTS_UNDERWAY_MAX;
    use super::super::testing::{client, identity, letter, message, subscriptions};
    use super::*;
    use crate::front::mailbox::Letters;

    const ACK_TIMEOUT: Duration = Duration::from_secs(30);

    fn inputs() -> (Arc<Clients>, Inputs) {
        let clients = Clients::new();
        let name = identity("edge/m").name().clone();
        let endpoint = (name, Arc::from("i"));
        let metrics = Metrics::new("hub", "edge");
        (Arc::clone(&clients), Inputs::new(clients, endpoint, ACK_TIMEOUT, metrics))
    }

    fn arrive(clients: &Clients, serial: u64) -> Letters {
        let (client, letters) = client("edge/m", serial);
        clients.arrived(client, subscriptions(&[Subscription::ModuleInputs])).unwrap();
        letters
    }

    fn batch(count: usize) -> Vec<Message> {
        (0..count).map(|n| message("d", &n.to_string())).collect()
    }

    async fn next(letters: &mut Letters) -> (String, Box<dyn FnOnce(Handed) + Send>) {
        let (content, say) = letter(letters).await;
        let Outbound::Input { input, message } = content else { panic!("{content:?}") };
        assert_eq!(&*input, "i");
        (String::from_utf8(message.body.to_vec()).unwrap(), say)
    }

    #[tokio::test]
    async fn messages_go_in_order_and_several_before_the_first_is_acknowledged() {
        let (clients, inputs) = inputs();
        let who = identity("d");
        assert_eq!(inputs.deliver(&who, &batch(1)).await, Outcome::Offline);
        assert_eq!(inputs.ready().now_or_never(), None);
        let mut letters = arrive(&clients, 1);
        assert_eq!(inputs.ready().now_or_never(), Some(()));
        let messages = batch(INPUTS_UNDERWAY_MAX + 5);
        let module = async {
            let mut says = Vec::new();
            for n in 0..INPUTS_UNDERWAY_MAX {
                let (body, say) = next(&mut letters).await;
                assert_eq!(body, n.to_string());
                says.push(say);
            }
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert!(letters.try_recv().is_none(), "no more than may be under way");
            // Whatever the order of the acknowledgements is.
            says.into_iter().rev().for_each(|say| say(Handed::Acknowledged));
            for n in INPUTS_UNDERWAY_MAX..INPUTS_UNDERWAY_MAX + 5 {
                let (body, say) = next(&mut letters).await;
                assert_eq!(body, n.to_string());
                say(Handed::Written);
            }
        };
        let (outcome, ()) = tokio::join!(inputs.deliver(&who, &messages), module);
        assert_eq!(outcome, Outcome::Delivered);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_acknowledged_is_not_delivered() {
        let table = [
            (Some(Handed::Full), retry("module_too_slow")),
            (Some(Handed::NotSubscribed), Outcome::Offline),
            (None, retry("module_ack_timeout")),
        ]
        .map(|(said, then)| (said, partly(1, then)));
        for (said, expected) in table {
            let (clients, inputs) = inputs();
            let mut letters = arrive(&clients, 1);
            let module = async {
                next(&mut letters).await.1(Handed::Acknowledged);
                let (_, say) = next(&mut letters).await;
                match said {
                    Some(Handed::Full) => {
                        say(Handed::Full);
                        let close = super::super::testing::next(&mut letters).await;
                        assert!(matches!(close, Letter::Close { .. }), "{close:?}");
                    }
                    Some(said) => say(said),
                    None => tokio::time::sleep(ACK_TIMEOUT + Duration::from_secs(1)).await,
                }
            };
            let (who, messages) = (identity("d"), batch(2));
            let (outcome, ()) = tokio::join!(inputs.deliver(&who, &messages), module);
            assert_eq!(outcome, expected, "{said:?}");
            let room = clients.get(identity("edge/m").name()).unwrap().room;
            assert_eq!(room.available_permits(), INPUTS_UNDERWAY_MAX, "all room is given back");
        }
    }

    /// Else none would ever be done: the last of those that were handed over together always comes late.
    #[tokio::test(start_paused = true)]
    async fn a_slow_module_has_its_time_for_each_message() {
        let (clients, inputs) = inputs();
        let mut letters = arrive(&clients, 1);
        let module = async {
            for n in 0..INPUTS_UNDERWAY_MAX + 5 {
                let (body, say) = next(&mut letters).await;
                tokio::time::sleep(ACK_TIMEOUT * 2 / 3).await;
                assert_eq!(body, n.to_string());
                say(Handed::Acknowledged);
            }
        };
        let (who, messages) = (identity("d"), batch(INPUTS_UNDERWAY_MAX + 5));
        let (outcome, ()) = tokio::join!(inputs.deliver(&who, &messages), module);
        assert_eq!(outcome, Outcome::Delivered);
    }

    #[tokio::test]
    async fn a_module_that_leaves_or_comes_anew_has_what_it_acknowledged_and_no_more() {
        let (clients, inputs) = inputs();
        let mut letters = arrive(&clients, 1);
        let who = identity("d");
        let module = async {
            next(&mut letters).await.1(Handed::Acknowledged);
            drop(next(&mut letters).await.1);
            drop(letters);
        };
        let messages = batch(2);
        let (outcome, ()) = tokio::join!(inputs.deliver(&who, &messages), module);
        assert_eq!(outcome, partly(1, Outcome::Offline));
        // The newcomer has its own room.
        let mut letters = arrive(&clients, 2);
        let module = async { next(&mut letters).await.1(Handed::Acknowledged) };
        let messages = batch(1);
        let (outcome, ()) = tokio::join!(inputs.deliver(&who, &messages), module);
        assert_eq!(outcome, Outcome::Delivered);
    }
}
