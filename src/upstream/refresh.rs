//! Keeps the scope fresh.
//!
//! Owns: when the scope is fetched: at start until it first succeeds, then every hour, after each reconnect of the
//! upstream, and on demand with a least gap (`edgehub.md` 7.1); and when the hub is asked about one identity that was
//! refused, which comes first: one request, where the whole scope takes one for a hundred devices.
//! Invariants: a failed refresh changes nothing; what the hub said about one identity is not undone by a refresh that was
//! begun before, nor a refresh by what the hub said before it; a client waits for a bounded time, and only so many do at once.
//! Must not know: how it is fetched, or who looks things up in it.

use std::sync::{Arc, Mutex as PlainMutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::{Mutex, Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::asks::{Asks, Withheld};
use super::backoff::Backoff;
use super::demand::Demand;
use super::scope_api::{ScopeApi, ScopeFetchError};
use crate::auth::question::{AskHub, Question};
use crate::auth::scope::{Answer, AuthKind, Lookup, Replaced, Scope};
use crate::clock::UnixMillis;
use crate::identity::ClientName;
use crate::metrics::Metrics;

/// Least time between a refresh and one because of a reconnect.
const RECONNECT_GAP_MIN: Duration = Duration::from_secs(10);

/// First and largest ceiling of the wait after a failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long a client waits for the hub's answer about it. Its own patience for a CONNACK is 30 s (A11), and a hub answers in
/// a tenth of a second.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Clients that wait so at a time: each holds a connection, and nobody is to fill the house by waiting.
const WAITING_MAX: usize = 16;

/// Questions under way at a time; each dials the hub.
const QUESTIONS_AT_ONCE: usize = 4;

/// Limit on one question, retries included. The client has left by then; the next time it is known.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Times that one identity is asked for when a refresh of the whole overtakes the answer. They are minutes apart: a second
/// time is enough.
const ASKED_AGAIN_MAX: usize = 3;

/// Refreshes a [`Scope`].
pub struct ScopeRefresher {
    api: ScopeApi,
    scope: Arc<Scope>,
    asks: PlainMutex<Asks>,
    demand: PlainMutex<Demand>,
    questions: mpsc::Sender<Asked>,
    /// Taken by who answers them.
    answering: PlainMutex<Option<mpsc::Receiver<Asked>>>,
    waiting: Semaphore,
    /// Held while the scope is changed.
    since: Mutex<Since>,
    metrics: Arc<Metrics>,
    asked: Notify,
    /// One at a time, so that what was read first does not come last.
    turn: Mutex<()>,
    /// When a refresh last succeeded.
    refreshed: watch::Sender<Option<Instant>>,
}

/// Why the whole is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// By the hour, after a failure, or for a reconnect.
    Due,
    /// Somebody asked.
    Demand,
}

/// What a refresh of the whole brought.
#[derive(Debug)]
struct Refreshed {
    count: usize,
    is_news: bool,
}

/// What came since a refresh was begun.
#[derive(Debug, Default)]
struct Since {
    /// Counts the refreshes of the whole: when one is begun, and when it is in force.
    stamp: u64,
    /// While one is under way: the answers to questions that were asked during it.
    answers: Option<Vec<Answer>>,
}

/// A question, and who waits for it to be answered.
struct Asked {
    name: ClientName,
    answered: oneshot::Sender<()>,
}

impl ScopeRefresher {
    /// Does nothing until [`ScopeRefresher::run`] runs.
    pub fn new(api: ScopeApi, scope: Arc<Scope>, metrics: Arc<Metrics>) -> Arc<Self> {
        let refreshed = watch::Sender::new(None);
        let (questions, answering) = mpsc::channel(WAITING_MAX);
        let gap = api.config().scope_refresh_gap_min;
        let every = api.config().scope_refresh_every;
        Arc::new(Self {
            demand: PlainMutex::new(Demand::new(gap, every)),
            asks: PlainMutex::new(Asks::new(gap, api.clock().monotonic())),
            questions,
            answering: PlainMutex::new(Some(answering)),
            waiting: Semaphore::new(WAITING_MAX),
            since: Mutex::default(),
            api,
            scope,
            metrics,
            asked: Notify::new(),
            turn: Mutex::new(()),
            refreshed,
        })
    }

    /// Asks for a refresh soon: someone is unknown to the scope. Many asks are one; the gap since the last refresh is kept.
    pub fn request_refresh(&self) {
        self.asked.notify_one();
    }

    /// Refreshes at once, whatever the gap. One at a time.
    ///
    /// # Errors
    /// Why it was not refreshed; what was known stays valid.
    pub async fn refresh_now(&self) -> Result<usize, ScopeFetchError> {
        Ok(self.refresh().await?.count)
    }

    /// Asks for each of `names` at once, whatever the gap; how many of them are ours. A few: one request each.
    ///
    /// # Errors
    /// Why one was not refreshed; those before it are.
    pub async fn refresh_these(&self, names: &[ClientName]) -> Result<usize, ScopeFetchError> {
        let mut found = 0;
        for name in names {
            self.asks().note(name, self.api.clock().monotonic());
            self.refresh_one(name).await?;
            found += usize::from(matches!(self.scope.lookup(name), Lookup::Entry(_)));
        }
        Ok(found)
    }

    /// Changes with each refresh, of the whole scope or of one identity: who is connected has to be judged again then. The
    /// value is the monotonic time of the last successful refresh of the whole.
    pub fn refreshed(&self) -> watch::Receiver<Option<Instant>> {
        self.refreshed.subscribe()
    }

    /// Refreshes until `stop`. `connected` is [`super::Upstream::connected`].
    pub async fn run(&self, mut connected: watch::Receiver<bool>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep_fresh(&mut connected) => {}
            () = self.answer() => {}
        }
    }

    async fn keep_fresh(&self, connected: &mut watch::Receiver<bool>) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let (mut told, mut occasion) = (false, Occasion::Due);
        loop {
            let (wait, failed) = match self.refresh().await {
                Ok(Refreshed { count, is_news }) => {
                    tracing::info!(count, "scope refreshed");
                    if occasion == Occasion::Demand && !is_news {
                        self.demand().was_in_vain();
                    }
                    (backoff, told) = (Backoff::new(RETRY.0, RETRY.1), false);
                    (self.api.config().scope_refresh_every, false)
                }
                Err(error) => {
                    self.metrics.counted("scope_refresh_failed", label(&error));
                    if told {
                        tracing::debug!(%error, "scope not refreshed");
                    } else {
                        tracing::warn!(%error, "scope not refreshed; what was known stays valid");
                    }
                    told = true;
                    (backoff.next_wait(), true)
                }
            };
            occasion = self.next_occasion(wait, failed, connected).await;
        }
    }

    /// Returns after `wait`, on a reconnect, or on demand once the least gap has passed.
    async fn next_occasion(
        &self,
        wait: Duration,
        failed: bool,
        connected: &mut watch::Receiver<bool>,
    ) -> Occasion {
        let gap = async {
            self.asked.notified().await;
            loop {
                let since = (*self.refreshed.borrow())
                    .map(|at| self.api.clock().monotonic().saturating_duration_since(at));
                let gap = self.demand().gap();
                let rest = match since {
                    Some(since) if !failed => gap.saturating_sub(since),
                    // `wait` is a short one, and the demand is met by it: who asks all the time must not undo the backing off.
                    _ => wait,
                };
                // The next who asks may be one for whom the gap is shorter.
                if rest.is_zero() || timeout(rest, self.asked.notified()).await.is_err() {
                    return;
                }
            }
        };
        // On a link that flaps one refresh serves several reconnects; it is put off, never left out.
        let news = async {
            reconnect(connected).await;
            let at = *self.refreshed.borrow();
            let age = at.map(|at| self.api.clock().monotonic().saturating_duration_since(at));
            let gap = RECONNECT_GAP_MIN.min(self.api.config().scope_refresh_gap_min);
            tokio::time::sleep(age.map_or(Duration::ZERO, |age| gap.saturating_sub(age))).await;
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => Occasion::Due,
            () = news => Occasion::Due,
            () = gap => Occasion::Demand,
        }
    }

    async fn refresh(&self) -> Result<Refreshed, ScopeFetchError> {
        let _turn = self.turn.lock().await;
        {
            let mut since = self.since.lock().await;
            since.stamp += 1;
            since.answers = Some(Vec::new());
        }
        let fetched = self.api.fetch().await;
        let mut since = self.since.lock().await;
        let answers = since.answers.take().unwrap_or_default();
        let entries = fetched?;
        since.stamp += 1;
        let count = entries.len();
        let replaced =
            self.change(move |scope, now| scope.replace_with(entries, answers, now)).await;
        self.refreshed.send_replace(Some(self.api.clock().monotonic()));
        let is_news = !replaced.is_nothing();
        if is_news {
            self.demand().is_sound();
        }
        Ok(Refreshed { count, is_news })
    }

    /// Asks for one, and puts the answer in force. Whether anything is other than before.
    async fn refresh_one(&self, name: &ClientName) -> Result<bool, ScopeFetchError> {
        for _ in 0..ASKED_AGAIN_MAX {
            let stamp = self.stamp().await;
            let entries = self.api.fetch_one(name, &self.scope).await?;
            let answer = Answer { asked: name.clone(), entries };
            if let Some(is_news) = self.settle(stamp, answer).await {
                return Ok(is_news);
            }
            tracing::debug!(%name, "a whole refresh overtook the hub's answer: it is asked again");
        }
        Err(ScopeFetchError::Unavailable("refreshes overtake its answers".into()))
    }

    /// What a question is stamped with when it is asked.
    pub(super) async fn stamp(&self) -> u64 {
        self.since.lock().await.stamp
    }

    /// Puts an answer in force. Whether anything is other than before; nothing, when a refresh was begun or came in force
    /// since the question was asked: what that says may be newer.
    pub(super) async fn settle(&self, stamp: u64, answer: Answer) -> Option<bool> {
        let mut since = self.since.lock().await;
        if since.stamp != stamp {
            return None;
        }
        if let Some(answers) = &mut since.answers {
            answers.push(answer.clone());
        }
        let replaced = self.change(move |scope, now| scope.merge_one(answer, now)).await;
        let is_news = !replaced.is_nothing();
        if is_news {
            self.demand().is_sound();
            self.refreshed.send_modify(|_| {});
        }
        Some(is_news)
    }

    /// Writes a file and syncs it: not on a thread that serves sockets.
    async fn change(
        &self,
        change: impl FnOnce(&Scope, UnixMillis) -> Replaced + Send + 'static,
    ) -> Replaced {
        let (scope, now) = (self.scope.clone(), self.api.clock().wall());
        let replaced = tokio::task::spawn_blocking(move || change(&scope, now))
            .await
            .expect("changing the scope does not panic");
        if let Err(error) = &replaced.stored {
            // In force all the same; only a restart without upstream would miss it.
            tracing::error!(%error, "the scope could not be written to disk; check the storage folder");
            self.metrics.counted("scope_not_stored", "io");
        }
        replaced
    }

    /// Answers questions, a few at a time.
    async fn answer(&self) {
        let taken = self.answering.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut questions = taken.expect("it runs once");
        let each = stream::poll_fn(|cx| questions.poll_recv(cx));
        each.for_each_concurrent(QUESTIONS_AT_ONCE, |asked| self.answer_one(asked)).await;
    }

    async fn answer_one(&self, Asked { name, answered }: Asked) {
        let asking = timeout(QUESTION_TIMEOUT, self.refresh_one(&name)).await;
        let reason = match asking.unwrap_or(Err(ScopeFetchError::Time)) {
            Err(error) => {
                tracing::debug!(%name, %error, "the hub was asked about one identity and gave no answer");
                self.asks().forget(&name);
                label(&error)
            }
            Ok(is_news) => {
                if !is_news {
                    self.asks().was_in_vain(&name);
                }
                let _ = answered.send(());
                match (self.scope.lookup(&name), is_news) {
                    (Lookup::Entry(_), true) => {
                        tracing::info!(%name, "the hub says something new about it");
                        "news"
                    }
                    (Lookup::Entry(_), false) => "nothing_new",
                    (_, is_news) => {
                        // The whole scope may tell where it is: as the reference does.
                        self.request_refresh();
                        if is_news { "gone" } else { "unknown" }
                    }
                }
            }
        };
        self.metrics.counted("scope_question", reason);
    }

    /// Whether the question goes to the hub; else why not.
    fn pose(&self, question: Question) -> Result<oneshot::Receiver<()>, &'static str> {
        if !self.scope.is_known() {
            return Err("no_scope");
        }
        let permit = self.questions.try_reserve().map_err(|_| "busy")?;
        // Somebody may be about to say how it proves itself.
        let is_unfinished = matches!(
            self.scope.lookup(&question.name),
            Lookup::Entry(entry) if entry.auth == AuthKind::None
        );
        if is_unfinished {
            self.asks().forget(&question.name);
        }
        let admitted = self.asks().admit(&question, self.api.clock().monotonic());
        if let Err(withheld) = admitted {
            if withheld != Withheld::Recent {
                // It gets in by the whole scope, then, which nobody can ask for more often.
                self.request_refresh();
            }
            return Err(withheld.label());
        }
        if question.is_vouched {
            self.demand().is_sound();
        }
        let (answered, answer) = oneshot::channel();
        permit.send(Asked { name: question.name, answered });
        Ok(answer)
    }

    pub(super) fn demand(&self) -> std::sync::MutexGuard<'_, Demand> {
        // A panic while it is held leaves a gap between its bounds.
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asks(&self) -> std::sync::MutexGuard<'_, Asks> {
        // A panic while it is held leaves counts, at worst too high by one.
        self.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AskHub for Arc<ScopeRefresher> {
    fn ask(&self, question: Question) -> BoxFuture<'static, bool> {
        let this = Arc::clone(self);
        Box::pin(async move {
            let answer = match this.pose(question) {
                Ok(answer) => answer,
                Err(withheld) => {
                    this.metrics.counted("scope_question", withheld);
                    return false;
                }
            };
            let Ok(_place) = this.waiting.try_acquire() else {
                this.metrics.counted("scope_question", "not_waited_for");
                return false;
            };
            matches!(timeout(WAIT_MAX, answer).await, Ok(Ok(())))
        })
    }
}

/// Resolves when the upstream comes back. The connection that stands now was there when the scope was fetched.
async fn reconnect(connected: &mut watch::Receiver<bool>) {
    loop {
        if connected.changed().await.is_err() {
            // The upstream is gone: no more reconnects.
            return std::future::pending().await;
        }
        if *connected.borrow_and_update() {
            return;
        }
    }
}

fn label(error: &ScopeFetchError) -> &'static str {
    match error {
        ScopeFetchError::Refused { .. } => "refused",
        ScopeFetchError::Unavailable(_) => "unavailable",
        ScopeFetchError::Time => "timeout",
        ScopeFetchError::Malformed(_) => "malformed",
    }
}

#[cfg(test)]
mod tests;
