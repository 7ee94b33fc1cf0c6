//! Cloud-to-device messages: each to its device, and what is to become of it.
//!
//! Owns: what is under way to devices, and what they acknowledged lately. Invariants: a message that comes again while it is
//! under way, or after its device has acknowledged it, is not sent twice: it is settled by what became of the first; what a
//! device does not have is never settled as if it had; the end of a connection never counts so often that the hub gives a
//! message up (it dead-letters what was given back ten times). Must not know: links, packets.
//!
//! | what happens | settled as |
//! |---|---|
//! | PUBACK, or written to a client that subscribed with QoS 0 | complete |
//! | the client is here and has no such subscription, or no topic can carry the message | rejected |
//! | not connected, left before its PUBACK, or too much waits for its PUBACKs | released the first time, else left to its lock |

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::clients::Connected;
use crate::clock::SharedClock;
use crate::front::mailbox::{Handed, Letter};
use crate::identity::{ClientName, Identity};
use crate::iothub::subscriptions::Subscription;
use crate::message::SystemKey;
use crate::metrics::Metrics;
use crate::session::Outbound;
use crate::upstream::downlinks::{CloudMessage, Settlement};

/// How long an acknowledged message is remembered: twice the hub's lock, after which it comes again if the hub has not heard
/// that it is done.
const REMEMBERED: Duration = Duration::from_secs(120);

/// Longest wait for the end of a connection to be known everywhere; it takes microseconds.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Most messages that are remembered, those of all devices together; about 200 bytes each.
const REMEMBERED_MAX: usize = 4096;

/// By what a message is known again. A device that is made anew counts from the beginning: so the id counts, too.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Known {
    device: ClientName,
    sequence: u64,
    id: Option<Box<str>>,
}

/// See [the module](self).
pub(super) struct CloudToDevice {
    state: Arc<Mutex<State>>,
    metrics: Arc<Metrics>,
    clock: SharedClock,
}

#[derive(Default)]
struct State {
    /// Under way; tells what became of it.
    underway: HashMap<Known, watch::Receiver<Option<Fate>>>,
    done: HashMap<Known, Instant>,
    /// The same, the oldest first.
    done_order: VecDeque<(Instant, Known)>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Taken,
    /// With why, for the counter.
    Never(&'static str),
    /// The same.
    NotTaken(&'static str),
}

/// What is known of a message that comes.
enum Seen {
    New(Option<Underway>),
    Underway(watch::Receiver<Option<Fate>>),
    Done,
}

/// Takes the message out of what is under way, however its future ends.
struct Underway {
    state: Arc<Mutex<State>>,
    known: Known,
    fate: watch::Sender<Option<Fate>>,
}

impl Drop for Underway {
    fn drop(&mut self) {
        lock(&self.state).underway.remove(&self.known);
    }
}

impl CloudToDevice {
    pub(super) fn new(metrics: Arc<Metrics>, clock: SharedClock) -> Self {
        Self { state: Arc::default(), metrics, clock }
    }

    /// Sends `message` to `who`, whose connection is `to`; says how it is to be settled.
    pub(super) async fn deliver(
        &self,
        who: &Identity,
        to: Option<Connected>,
        message: CloudMessage,
    ) -> Settlement {
        let count = message.delivery_count;
        let fate = match self.seen(who, &message) {
            Seen::Done => {
                self.metrics.counted("device_message", "again_acknowledged");
                Fate::Taken
            }
            Seen::Underway(mut first) => {
                self.metrics.counted("device_message", "again_under_way");
                // Closed without a word: nobody waits for the first any more, and nothing is known of it.
                let told = first.wait_for(Option::is_some).await.ok().and_then(|fate| *fate);
                told.unwrap_or(Fate::NotTaken("given_up"))
            }
            Seen::New(underway) => {
                let fate = send(to, message).await;
                if let Some(underway) = &underway {
                    self.note(underway, fate);
                }
                fate
            }
        };
        match fate {
            Fate::Taken => self.settled("delivered", Settlement::Complete),
            Fate::Never(why) => self.settled(why, Settlement::Reject),
            Fate::NotTaken(why) if count == 0 => self.settled(why, Settlement::Release),
            Fate::NotTaken(why) => self.settled(why, Settlement::Leave),
        }
    }

    /// Looks the message up, and enters it as under way if it is new.
    fn seen(&self, who: &Identity, message: &CloudMessage) -> Seen {
        // Without a number nothing tells it from another one.
        let Some(sequence) = message.sequence else {
            return Seen::New(None);
        };
        let id = message.system.get(SystemKey::MessageId).map(Into::into);
        let known = Known { device: who.name().clone(), sequence, id };
        let now = self.clock.monotonic();
        let mut state = lock(&self.state);
        state.forget(now);
        if state.done.contains_key(&known) {
            return Seen::Done;
        }
        if let Some(first) = state.underway.get(&known) {
            return Seen::Underway(first.clone());
        }
        let (fate, first) = watch::channel(None);
        state.underway.insert(known.clone(), first);
        Seen::New(Some(Underway { state: Arc::clone(&self.state), known, fate }))
    }

    fn note(&self, underway: &Underway, fate: Fate) {
        if fate == Fate::Taken {
            let now = self.clock.monotonic();
            let mut state = lock(&self.state);
            state.done.insert(underway.known.clone(), now);
            state.done_order.push_back((now, underway.known.clone()));
        }
        underway.fate.send_replace(Some(fate));
    }

    fn settled(&self, what: &'static str, how: Settlement) -> Settlement {
        self.metrics.counted("device_message", what);
        how
    }
}

/// Hands the message to the connection and waits for what comes of it.
async fn send(to: Option<Connected>, message: CloudMessage) -> Fate {
    let Some(to) = to else {
        return Fate::NotTaken("not_connected");
    };
    if !to.has(Subscription::CloudToDevice) {
        return Fate::Never("not_subscribed");
    }
    let CloudMessage { system, properties, body, .. } = message;
    let (handed, outcome) = oneshot::channel();
    let content = Outbound::CloudToDevice { system, properties, body };
    if to.client.mailbox.send(Letter::Send { content, handed: Some(handed) }).await.is_err() {
        return Fate::NotTaken("left");
    }
    match outcome.await {
        Ok(Handed::Acknowledged | Handed::Written) => Fate::Taken,
        Ok(Handed::NotSubscribed) => Fate::Never("not_subscribed"),
        Ok(Handed::Unsendable) => Fate::Never("unsendable"),
        Ok(Handed::Full) => Fate::NotTaken("full"),
        Err(_) => {
            // Only then is the hub told that nobody takes anything: else it would hand it over again at once, to nobody.
            let _ = timeout(GONE_WITHIN, to.gone.cancelled()).await;
            Fate::NotTaken("left")
        }
    }
}

impl State {
    fn forget(&mut self, now: Instant) {
        while let Some((at, known)) = self.done_order.front() {
            let is_old = now.saturating_duration_since(*at) >= REMEMBERED;
            if !is_old && self.done_order.len() < REMEMBERED_MAX {
                return;
            }
            self.done.remove(known);
            self.done_order.pop_front();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::Semaphore;
    use tokio_util::sync::CancellationToken;

    use super::super::testing::{client, identity, letter, subscriptions};
    use super::*;
    use crate::clock;
    use crate::front::mailbox::{Client, Letters};
    use crate::message::{Properties, SystemProperties};
    use crate::session::Subscriptions;

    fn message(lock: u8, sequence: Option<u64>, delivery_count: u32) -> CloudMessage {
        let (system, properties) = (SystemProperties::default(), Properties::default());
        let (lock, body) = (Bytes::from(vec![lock; 16]), Bytes::from_static(b"b"));
        CloudMessage { lock, sequence, delivery_count, system, properties, body }
    }

    struct Site {
        relay: CloudToDevice,
        who: Identity,
        client: Client,
        letters: Letters,
        gone: CancellationToken,
    }

    impl Site {
        fn new() -> Self {
            let (client, letters) = client("d", 1);
            let relay = CloudToDevice::new(Metrics::new("hub", "edge"), clock::system());
            Self { relay, who: identity("d"), client, letters, gone: CancellationToken::new() }
        }

        fn to(&self) -> Option<Connected> {
            let subscriptions = subscriptions(&[Subscription::CloudToDevice]);
            let (client, room) = (self.client.clone(), Arc::new(Semaphore::new(1)));
            Some(Connected { client, subscriptions, room, gone: self.gone.clone() })
        }

        /// What is said of the letter decides.
        async fn check(&mut self, said: Handed, count: u32, expected: Settlement) {
            let (to, message) = (self.to(), message(1, Some(u64::from(count)), count));
            let deliver = self.relay.deliver(&self.who, to, message);
            let answer = async {
                let (content, say) = letter(&mut self.letters).await;
                assert!(matches!(content, Outbound::CloudToDevice { .. }));
                say(said);
            };
            let (got, ()) = tokio::join!(deliver, answer);
            assert_eq!(got, expected, "{said:?} {count}");
        }
    }

    #[tokio::test]
    async fn what_the_device_says_settles_it() {
        use Settlement::{Complete, Leave, Reject, Release};
        let mut site = Site::new();
        site.check(Handed::Acknowledged, 0, Complete).await;
        site.check(Handed::Written, 1, Complete).await;
        site.check(Handed::NotSubscribed, 2, Reject).await;
        site.check(Handed::Unsendable, 5, Reject).await;
        site.check(Handed::Full, 3, Leave).await;
        let none = site.relay.deliver(&site.who, None, message(9, Some(9), 0)).await;
        assert_eq!(none, Release);
        let none = site.relay.deliver(&site.who, None, message(9, Some(9), 1)).await;
        assert_eq!(none, Leave);
        let mut deaf = site.to();
        deaf.as_mut().unwrap().subscriptions = Subscriptions::default();
        assert_eq!(site.relay.deliver(&site.who, deaf, message(9, Some(9), 0)).await, Reject);
    }

    #[tokio::test]
    async fn a_device_that_leaves_gives_it_back_once_and_then_leaves_it_to_its_lock() {
        for (count, expected) in [(0, Settlement::Release), (1, Settlement::Leave)] {
            let mut site = Site::new();
            let deliver = site.relay.deliver(&site.who, site.to(), message(1, Some(1), count));
            let leaves = async {
                let got = letter(&mut site.letters).await;
                drop(got);
                site.gone.cancel();
            };
            assert_eq!(tokio::join!(deliver, leaves).0, expected);
            drop(site.letters);
            let (relay, to) = (&site.relay, Some(site.client.clone()));
            let to = to.map(|client| Connected {
                client,
                subscriptions: subscriptions(&[Subscription::CloudToDevice]),
                room: Arc::new(Semaphore::new(1)),
                gone: CancellationToken::new(),
            });
            assert_eq!(relay.deliver(&site.who, to, message(1, Some(1), count)).await, expected);
        }
    }

    #[tokio::test]
    async fn the_same_message_is_sent_once() {
        let mut site = Site::new();
        let (to, again) = (site.to(), site.to());
        let first = site.relay.deliver(&site.who, to, message(1, Some(7), 0));
        let second = site.relay.deliver(&site.who, again, message(2, Some(7), 0));
        let answer = async {
            let (_, say) = letter(&mut site.letters).await;
            tokio::task::yield_now().await;
            assert!(site.letters.try_recv().is_none(), "sent once");
            say(Handed::Acknowledged);
        };
        let (first, second, ()) = tokio::join!(first, second, answer);
        assert_eq!((first, second), (Settlement::Complete, Settlement::Complete));
        // Also later, and after a reconnect.
        let third = site.relay.deliver(&site.who, None, message(3, Some(7), 1)).await;
        assert_eq!(third, Settlement::Complete);
        // Another device's message with the same number is another message.
        let other = site.relay.deliver(&identity("e"), None, message(3, Some(7), 0)).await;
        assert_eq!(other, Settlement::Release);
        assert!(lock(&site.relay.state).underway.is_empty());
    }

    #[tokio::test]
    async fn who_waits_for_a_first_that_nobody_waits_for_gives_it_back() {
        let site = Site::new();
        let first = site.relay.deliver(&site.who, site.to(), message(1, Some(7), 0));
        let mut first = Box::pin(first);
        assert!(futures_util::poll!(&mut first).is_pending());
        let second = site.relay.deliver(&site.who, site.to(), message(2, Some(7), 0));
        let mut second = Box::pin(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert_eq!(second.await, Settlement::Release);
    }

    #[test]
    fn what_is_remembered_is_bounded_in_time_and_number() {
        let start = clock::system().monotonic();
        let mut state = State::default();
        let known = |sequence| Known { device: identity("d").name().clone(), sequence, id: None };
        for sequence in 0..REMEMBERED_MAX as u64 + 10 {
            state.forget(start);
            state.done.insert(known(sequence), start);
            state.done_order.push_back((start, known(sequence)));
        }
        assert!(state.done.len() <= REMEMBERED_MAX && !state.done.contains_key(&known(0)));
        state.forget(start + REMEMBERED);
        assert!(state.done.is_empty() && state.done_order.is_empty());
    }
}
