//! Direct methods: from the hub's call to the client's answer.
//!
//! Owns: the calls under way and their request ids. Invariants: an answer is taken once, and only from the connection that
//! the call was sent over; a call that nobody waits for any more leaves nothing behind; request ids of one run never repeat,
//! and begin at another place after a restart, so that an answer to a call of an earlier run is nobody's. How many are under
//! way is bounded where they come from ([`crate::upstream::downlinks::Config::calls_max`] and `calls_max_total`), and there alone.
//! Must not know: who calls, how long the hub lets the caller wait.
//!
//! | what happens | answer |
//! |---|---|
//! | not connected, or not subscribed | 404 |
//! | as much is under way to the client as may be | 429 |
//! | no topic can carry the name | 400 |
//! | the client answers | its status and payload, untouched |
//! | with more than [`ANSWER_BYTES_MAX`] | 413 |
//! | the connection ends before, or [`ANSWER_MAX`] passes | 504 |

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::clients::Connected;
use crate::clock::SharedClock;
use crate::front::mailbox::{Client, Handed, Letter, MethodResponse};
use crate::identity::Identity;
use crate::iothub::subscriptions::Subscription;
use crate::metrics::Metrics;
use crate::session::Outbound;
use crate::upstream::downlinks::MethodCall;

/// The hub gives a caller 300 s at most; then it has long answered 504 itself (`edgehub.md` 8.7).
const ANSWER_MAX: Duration = Duration::from_secs(330);

/// Bytes of an answer's payload: what IoT Hub takes (`iothub-protocol.md` A8). A link that brings it more may be ended, and with
/// it all that the client answers meanwhile.
const ANSWER_BYTES_MAX: usize = 128 * 1024;

const NOT_FOUND: i32 = 404;
const TOO_LARGE: i32 = 413;
const BAD_REQUEST: i32 = 400;
const TOO_MANY: i32 = 429;
const NO_ANSWER: i32 = 504;

/// See [the module](self).
pub(super) struct Methods {
    calls: Arc<Mutex<HashMap<Box<str>, Call>>>,
    next: AtomicU64,
    metrics: Arc<Metrics>,
    clock: SharedClock,
}

/// A call that waits for its answer.
struct Call {
    who: Identity,
    serial: u64,
    answer: oneshot::Sender<MethodResponse>,
}

/// Takes the call out again, however its future ends.
struct Entry {
    calls: Arc<Mutex<HashMap<Box<str>, Call>>>,
    rid: Box<str>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.calls).remove(&self.rid);
    }
}

impl Methods {
    pub(super) fn new(metrics: Arc<Metrics>, clock: SharedClock) -> Self {
        // 2^40 calls fit behind it before the number wraps.
        let start = u64::from(rand::random::<u32>() >> 8) << 40;
        Self { calls: Arc::default(), next: AtomicU64::new(start), metrics, clock }
    }

    /// Calls a method of `to`; gives status and payload.
    pub(super) async fn call(&self, to: Option<Connected>, call: MethodCall) -> (i32, Bytes) {
        let Some(to) = to.filter(|to| to.has(Subscription::Methods)) else {
            return self.failed("not_listening", NOT_FOUND);
        };
        let began = self.clock.monotonic();
        let client = &to.client;
        self.metrics.method_called(&client.identity);
        let (entry, answer) = self.enter(client);
        let content =
            Outbound::Method { rid: entry.rid.clone(), name: call.name.into(), body: call.payload };
        let answered = tokio::time::timeout(ANSWER_MAX, self.answer(client, content, answer));
        let answer = match answered.await {
            Ok(answer) => answer,
            Err(_) => self.failed("no_answer", NO_ANSWER),
        };
        let took = self.clock.monotonic().saturating_duration_since(began);
        self.metrics.method_answered(&client.identity, took);
        answer
    }

    /// Hands the call over and waits for the answer.
    async fn answer(
        &self,
        client: &Client,
        content: Outbound,
        mut answer: oneshot::Receiver<MethodResponse>,
    ) -> (i32, Bytes) {
        let (handed, outcome) = oneshot::channel();
        let letter = Letter::Send { content, handed: Some(handed) };
        if client.mailbox.send(letter).await.is_err() {
            return self.failed("not_listening", NOT_FOUND);
        }
        let answer = tokio::select! {
            // An answer counts, whether the call itself was acknowledged before, later or never.
            biased;
            answer = &mut answer => answer,
            handed = outcome => match handed {
                Ok(Handed::Acknowledged | Handed::Written) => answer.await,
                Ok(Handed::NotSubscribed) => return self.failed("not_listening", NOT_FOUND),
                Ok(Handed::Full) => return self.failed("too_many", TOO_MANY),
                Ok(Handed::Unsendable) => return self.failed("unsendable", BAD_REQUEST),
                Err(_) => return self.failed("left", NO_ANSWER),
            },
        };
        match answer {
            Ok(MethodResponse { body, .. }) if body.len() > ANSWER_BYTES_MAX => {
                self.failed("answer_too_large", TOO_LARGE)
            }
            Ok(MethodResponse { status, body, .. }) => (status, body),
            Err(_) => self.failed("left", NO_ANSWER),
        }
    }

    /// The connection has ended: what was called over it is answered by nobody any more.
    pub(super) fn left(&self, who: &Identity, serial: u64) {
        lock(&self.calls).retain(|_, call| call.serial != serial || call.who != *who);
    }

    /// The client answers; false when nobody waits for that.
    pub(super) fn answered(&self, who: &Identity, serial: u64, response: MethodResponse) -> bool {
        let mut calls = lock(&self.calls);
        let is_theirs =
            calls.get(&response.rid).is_some_and(|c| c.who == *who && c.serial == serial);
        let Some(call) = is_theirs.then(|| calls.remove(&response.rid)).flatten() else {
            return false;
        };
        drop(calls);
        call.answer.send(response).is_ok()
    }

    fn enter(&self, client: &Client) -> (Entry, oneshot::Receiver<MethodResponse>) {
        let rid: Box<str> = format!("{:x}", self.next.fetch_add(1, Ordering::Relaxed)).into();
        let (answer, answered) = oneshot::channel();
        let call = Call { who: client.identity.clone(), serial: client.serial, answer };
        lock(&self.calls).insert(rid.clone(), call);
        (Entry { calls: Arc::clone(&self.calls), rid }, answered)
    }

    fn failed(&self, reason: &'static str, status: i32) -> (i32, Bytes) {
        self.metrics.counted("method_failed", reason);
        (status, Bytes::new())
    }
}

fn lock(calls: &Mutex<HashMap<Box<str>, Call>>) -> MutexGuard<'_, HashMap<Box<str>, Call>> {
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::Semaphore;
    use tokio_util::sync::CancellationToken;

    use super::super::testing::{client, identity, letter, subscriptions};
    use super::*;
    use crate::clock;
    use crate::session::Subscriptions;

    fn methods() -> Methods {
        Methods::new(Metrics::new("hub", "edge"), clock::system())
    }

    fn connected(client: &Client, subscriptions: Subscriptions) -> Option<Connected> {
        let room = Arc::new(Semaphore::new(1));
        let gone = CancellationToken::new();
        Some(Connected { client: client.clone(), subscriptions, room, gone })
    }

    fn call(name: &str) -> MethodCall {
        MethodCall { name: name.to_owned(), payload: Bytes::from_static(b"{}") }
    }

    fn response(rid: &str, status: i32) -> MethodResponse {
        MethodResponse { rid: rid.into(), status, body: Bytes::from_static(b"x") }
    }

    #[tokio::test]
    async fn who_is_not_there_or_does_not_listen_is_not_found() {
        let methods = methods();
        assert_eq!(methods.call(None, call("a")).await, (404, Bytes::new()));
        let (client, letters) = client("d", 1);
        let deaf = connected(&client, Subscriptions::default());
        assert_eq!(methods.call(deaf, call("a")).await.0, 404);
        drop(letters);
        let gone = connected(&client, subscriptions(&[Subscription::Methods]));
        assert_eq!(methods.call(gone, call("a")).await.0, 404);
        assert!(lock(&methods.calls).is_empty());
    }

    #[tokio::test]
    async fn calls_run_side_by_side_and_each_gets_its_own_answer_once() {
        let methods = methods();
        let who = identity("d");
        let (client, mut letters) = client("d", 7);
        let to = connected(&client, subscriptions(&[Subscription::Methods]));
        let answers = async {
            let (mut rids, mut acknowledges) = (Vec::new(), Vec::new());
            for _ in 0..2 {
                let (content, say) = letter(&mut letters).await;
                let Outbound::Method { rid, name, .. } = content else { panic!("{content:?}") };
                // The one acknowledges the call, the other answers without.
                acknowledges.push(say);
                rids.push((rid, name));
            }
            rids.sort_by(|a, b| a.1.cmp(&b.1));
            acknowledges.remove(0)(Handed::Acknowledged);
            let (a, b) = (&rids[0].0, &rids[1].0);
            assert!(!methods.answered(&who, 6, response(a, 1)), "over another connection");
            assert!(!methods.answered(&identity("e"), 7, response(a, 1)), "somebody else");
            assert!(!methods.answered(&who, 7, response("0", 1)), "never asked");
            assert!(methods.answered(&who, 7, response(b, -2)));
            assert!(methods.answered(&who, 7, response(a, 200)));
            assert!(!methods.answered(&who, 7, response(a, 200)), "twice");
        };
        let (a, b, ()) =
            tokio::join!(methods.call(to.clone(), call("a")), methods.call(to, call("b")), answers);
        assert_eq!((a.0, b.0), (200, -2));
        assert_eq!(a.1, "x");
        assert!(lock(&methods.calls).is_empty());
    }

    #[tokio::test]
    async fn an_answer_that_the_hub_does_not_take_is_not_sent_to_it() {
        let methods = methods();
        let who = identity("d");
        let (client, mut letters) = client("d", 7);
        let to = connected(&client, subscriptions(&[Subscription::Methods]));
        for (bytes, status) in [(ANSWER_BYTES_MAX, 200), (ANSWER_BYTES_MAX + 1, 413)] {
            let answers = async {
                let (content, _say) = letter(&mut letters).await;
                let Outbound::Method { rid, .. } = content else { panic!("{content:?}") };
                let body = Bytes::from(vec![b'1'; bytes]);
                let answer = MethodResponse { rid: rid.clone(), status: 200, body };
                assert!(methods.answered(&who, 7, answer));
            };
            let (answer, ()) = tokio::join!(methods.call(to.clone(), call("a")), answers);
            assert_eq!((answer.0, answer.1.len()), (status, if status == 200 { bytes } else { 0 }));
        }
    }

    /// How many may be under way is said in one place, where they come from.
    #[tokio::test]
    async fn as_many_are_under_way_as_are_called() {
        let methods = methods();
        let (client, letters) = client("d", 1);
        let to = connected(&client, subscriptions(&[Subscription::Methods]));
        let calls = (0..10_001).map(|_| methods.call(to.clone(), call("a")));
        let mut calls = Box::pin(futures_util::future::join_all(calls));
        assert!((&mut calls).now_or_never().is_none());
        assert_eq!(lock(&methods.calls).len(), 10_001);
        drop(letters);
        drop(calls);
        assert!(lock(&methods.calls).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_or_never_answers_is_a_timeout() {
        let methods = methods();
        let who = identity("d");
        let (client, mut letters) = client("d", 1);
        let to = connected(&client, subscriptions(&[Subscription::Methods]));
        let silent = async {
            let (content, say) = letter(&mut letters).await;
            say(Handed::Written);
            content
        };
        let (answer, content) = tokio::join!(methods.call(to.clone(), call("a")), silent);
        assert_eq!(answer.0, 504);
        let Outbound::Method { rid, .. } = content else { panic!("{content:?}") };
        assert!(!methods.answered(&who, 1, response(&rid, 200)), "late");
        let leaves = async {
            let (_, say) = letter(&mut letters).await;
            say(Handed::Written);
            drop(letters);
            tokio::task::yield_now().await;
            methods.left(&who, 2);
            assert_eq!(lock(&methods.calls).len(), 1, "another connection");
            methods.left(&who, 1);
        };
        let (answer, ()) = tokio::join!(methods.call(to, call("a")), leaves);
        assert_eq!(answer.0, 504);
    }
}
