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
//! | the client's filters do not match when its turn comes, or no topic can carry the message | rejected |
//! | not connected, not subscribed (yet), left before its PUBACK, or too much waits for its PUBACKs | released the first time, else left to its lock |

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot::error::TryRecvError;
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
    /// Under way to their devices, though the links that they came over have ended: who brings one again hears of it.
    orphans: HashMap<Known, Orphan>,
    done: HashMap<Known, Instant>,
    /// The same, the oldest first.
    done_order: VecDeque<(Instant, Known)>,
}

/// When a message came, and what says what became of it.
struct Orphan {
    at: Instant,
    outcome: oneshot::Receiver<Handed>,
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
    at: Instant,
    /// Of the connection that has it, until it is known.
    outcome: Option<oneshot::Receiver<Handed>>,
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.underway.remove(&self.known);
        if let Some(outcome) = self.outcome.take()
            && state.orphans.len() < REMEMBERED_MAX
        {
            state.orphans.insert(self.known.clone(), Orphan { at: self.at, outcome });
        }
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
            Seen::New(mut underway) => {
                let fate = send(to, message, &mut underway).await;
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

    /// The device is another one from now on, or none: its messages count from the beginning, and none of them was taken.
    pub(super) fn forget(&self, device: &ClientName) {
        let mut state = lock(&self.state);
        state.done.retain(|known, _| known.device != *device);
        state.done_order.retain(|(_, known)| known.device != *device);
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
        let outcome = match state.orphans.remove(&known).map(|mut o| (o.outcome.try_recv(), o)) {
            Some((Ok(Handed::Acknowledged | Handed::Written), _)) => {
                state.remember(known, now);
                return Seen::Done;
            }
            Some((Err(TryRecvError::Empty), orphan)) => Some(orphan.outcome),
            _ => None,
        };
        let (fate, first) = watch::channel(None);
        state.underway.insert(known.clone(), first);
        let state = Arc::clone(&self.state);
        Seen::New(Some(Underway { state, known, fate, at: now, outcome }))
    }

    fn note(&self, underway: &Underway, fate: Fate) {
        if fate == Fate::Taken {
            let now = self.clock.monotonic();
            lock(&self.state).remember(underway.known.clone(), now);
        }
        underway.fate.send_replace(Some(fate));
    }

    fn settled(&self, what: &'static str, how: Settlement) -> Settlement {
        self.metrics.counted("device_message", what);
        how
    }
}

/// Hands the message to the connection, unless it has it, and waits for what comes of it. What is waited for is in `underway`,
/// so that it is not lost with the links that the message came over.
async fn send(
    to: Option<Connected>,
    message: CloudMessage,
    underway: &mut Option<Underway>,
) -> Fate {
    if let Some(outcome) = underway.as_mut().and_then(|underway| underway.outcome.as_mut()) {
        let handed = outcome.await;
        outcome_is_known(underway);
        return handed.map_or(Fate::NotTaken("left"), fate);
    }
    let Some(to) = to else {
        return Fate::NotTaken("not_connected");
    };
    if !to.has(Subscription::CloudToDevice) {
        // Its links are about to go. It may be a newcomer that has not come to its SUBSCRIBE yet: nothing is rejected for that.
        return Fate::NotTaken("not_subscribed");
    }
    let CloudMessage { system, properties, body, .. } = message;
    let (handed, mut outcome) = oneshot::channel();
    let content = Outbound::CloudToDevice { system, properties, body };
    if to.client.mailbox.send(Letter::Send { content, handed: Some(handed) }).await.is_err() {
        return Fate::NotTaken("left");
    }
    let handed = match underway {
        Some(underway) => underway.outcome.insert(outcome).await,
        None => (&mut outcome).await,
    };
    outcome_is_known(underway);
    match handed {
        Ok(handed) => fate(handed),
        Err(_) => {
            // Only then is the hub told that nobody takes anything: else it would hand it over again at once, to nobody.
            let _ = timeout(GONE_WITHIN, to.gone.cancelled()).await;
            Fate::NotTaken("left")
        }
    }
}

fn outcome_is_known(underway: &mut Option<Underway>) {
    if let Some(underway) = underway {
        underway.outcome = None;
    }
}

fn fate(handed: Handed) -> Fate {
    match handed {
        Handed::Acknowledged | Handed::Written => Fate::Taken,
        Handed::NotSubscribed => Fate::Never("not_subscribed"),
        Handed::Unsendable => Fate::Never("unsendable"),
        Handed::Full => Fate::NotTaken("full"),
    }
}

impl State {
    /// Its device has it.
    fn remember(&mut self, known: Known, now: Instant) {
        self.done.insert(known.clone(), now);
        self.done_order.push_back((now, known));
    }

    fn forget(&mut self, now: Instant) {
        if !self.orphans.is_empty() {
            self.orphans.retain(|_, o| now.saturating_duration_since(o.at) < REMEMBERED);
        }
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
    use futures_util::FutureExt as _;
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
        assert_eq!(site.relay.deliver(&site.who, deaf, message(9, Some(9), 0)).await, Release);
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

    /// Found in review: the links end between PUBLISH and PUBACK, and the device got the message a second time.
    #[tokio::test]
    async fn what_is_under_way_when_the_links_end_is_not_sent_again() {
        for acknowledged_first in [true, false] {
            let mut site = Site::new();
            let mut deliver =
                Box::pin(site.relay.deliver(&site.who, site.to(), message(1, Some(7), 0)));
            assert!((&mut deliver).now_or_never().is_none());
            let (_, say) = letter(&mut site.letters).await;
            drop(deliver);
            let again = site.relay.deliver(&site.who, site.to(), message(2, Some(7), 1));
            if acknowledged_first {
                say(Handed::Acknowledged);
                assert_eq!(again.await, Settlement::Complete);
            } else {
                let mut again = Box::pin(again);
                assert!((&mut again).now_or_never().is_none());
                say(Handed::Acknowledged);
                assert_eq!(again.await, Settlement::Complete);
            }
            assert!(site.letters.try_recv().is_none(), "sent once");
            assert!(lock(&site.relay.state).orphans.is_empty());
        }
        // Its connection ended as well: it is sent to the next one.
        let mut site = Site::new();
        let mut deliver =
            Box::pin(site.relay.deliver(&site.who, site.to(), message(1, Some(7), 0)));
        assert!((&mut deliver).now_or_never().is_none());
        drop((letter(&mut site.letters).await, deliver));
        let again = site.relay.deliver(&site.who, site.to(), message(2, Some(7), 1));
        let answer = async { letter(&mut site.letters).await.1(Handed::Acknowledged) };
        assert_eq!(tokio::join!(again, answer).0, Settlement::Complete);
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
        // Made anew, it counts from the beginning.
        site.relay.forget(site.who.name());
        let anew = site.relay.deliver(&site.who, None, message(3, Some(7), 0)).await;
        assert_eq!(anew, Settlement::Release);
        assert!(lock(&site.relay.state).done_order.is_empty());
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
