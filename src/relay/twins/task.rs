//! The task of one identity, while it has something to do.
//!
//! ```text
//!  inbox, hub's answers, time --> [machine] --> document, durable --> letters, push, read
//! ```
//! Owns: that order. Invariants: the document is durable before anything that follows from it happens; one push and one read
//! at a time. Must not know: the rules.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::entries::{Event, Shared};
use super::kept::Kept;
use super::machine::{Action, Machine, Memory};
use crate::front::mailbox::{Handed, Letter};
use crate::identity::Identity;
use crate::session::Outbound;
use crate::upstream::downlinks::CloudError;

/// Longest wait for the hub's answer to a push.
const PUSH_WITHIN: Duration = Duration::from_secs(60);
/// Longest wait for a client to take a letter: it is not read from while its connection is stuck.
const LETTER_WITHIN: Duration = Duration::from_secs(30);
/// Wait before a document that could not be read is tried again.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// Label of a connection that is ended because its patch could not be kept.
const NOT_KEPT: &str = "twin_not_kept";
/// The same, because the client acknowledges nothing.
const NOT_TAKEN: &str = "twin_not_taken";

struct Task {
    shared: Arc<Shared>,
    who: Identity,
    machine: Machine,
    permit: Option<OwnedSemaphorePermit>,
    /// The connection that took no letter in time: it is ended, and nothing more waits for it.
    stuck: Option<u64>,
    pushing: Option<BoxFuture<'static, Result<Option<u64>, CloudError>>>,
    reading: Option<BoxFuture<'static, Result<Bytes, CloudError>>>,
}

/// Runs until there is nothing to do, or the stop. With a permit it pushes at once.
pub(super) async fn run(
    shared: Arc<Shared>,
    who: Identity,
    memory: Memory,
    wake: Arc<Notify>,
    mut permit: Option<OwnedSemaphorePermit>,
) {
    let (mut connected, mut tried) = (shared.cloud.connected(), shared.cloud.tried());
    let Some(kept) = load(&shared, &who, &mut permit).await else { return };
    // In this order: once it is tried, the other says how it went.
    let is_starting = !*tried.borrow_and_update();
    let online = *connected.borrow_and_update();
    let machine = Machine::new(shared.config, kept, memory, online);
    let (pushing, reading) = (None, None);
    let mut task = Task { shared, who, machine, permit, stuck: None, pushing, reading };
    task.machine.starting(is_starting);
    task.machine.life((task.shared.generation)(&task.who));
    while !task.step().await {
        if task.wait(&wake, &mut connected, &mut tried).await.is_none() {
            return;
        }
    }
}

/// The kept twin; waits for the disk as long as it takes, but not with a permit. `None`: the stop came first.
async fn load(
    shared: &Arc<Shared>,
    who: &Identity,
    permit: &mut Option<OwnedSemaphorePermit>,
) -> Option<Option<Kept>> {
    loop {
        let (cabinet, name) = (Arc::clone(&shared.cabinet), who.name().clone());
        let read = on_disk(shared, move || {
            let document = cabinet.get(&name).map_err(|e| e.to_string())?;
            Ok(document.and_then(|bytes| match Kept::from_bytes(&bytes) {
                Ok(kept) => Some(kept),
                Err(_) => {
                    cabinet.set_aside(&name);
                    None
                }
            }))
        });
        match read.await {
            Ok(kept) => {
                shared.count_set_aside();
                return Some(kept);
            }
            Err(error) => {
                shared.metrics.counted("twin_kept", "unreadable");
                tracing::error!(%who, error, "the kept twin cannot be read; tried again");
                *permit = None;
            }
        }
        tokio::select! {
            () = sleep(READ_AGAIN) => {}
            () = shared.stop.cancelled() => return None,
        }
    }
}

async fn on_disk<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let _permit = shared.disk.acquire().await.map_err(|e| e.to_string())?;
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?
}

impl Shared {
    pub(super) fn count_set_aside(&self) {
        let count = self.cabinet.take_set_aside();
        if count > 0 {
            self.metrics.counted_many("twin_kept", "set_aside", count);
        }
    }
}

impl Task {
    /// Does all that can be done now. True: it is over, and the identity is parked.
    async fn step(&mut self) -> bool {
        loop {
            let (events, missed) = self.shared.take_inbox(&self.who);
            for event in events {
                self.hear(event).await;
            }
            let now = self.shared.clock.monotonic();
            if missed {
                self.machine.memory().missed(now);
            }
            self.keep().await;
            for action in self.machine.poll(now) {
                self.act(action).await;
            }
            // What it was for has it now; a task that goes on for its client's sake needs none.
            self.permit = None;
            self.shared.set_asks(&self.who, self.machine.asks());
            if !self.machine.is_idle() {
                return false;
            }
            let memory = self.machine.memory().clone();
            if self.shared.park(&self.who, memory) {
                return true;
            }
        }
    }

    /// Waits for something to happen. `None`: the stop.
    async fn wait(
        &mut self,
        wake: &Notify,
        connected: &mut watch::Receiver<bool>,
        tried: &mut watch::Receiver<bool>,
    ) -> Option<()> {
        let now = self.shared.clock.monotonic();
        let due = self.machine.due(now).map(|at| at.saturating_duration_since(now));
        tokio::select! {
            () = self.shared.stop.cancelled() => return None,
            () = wake.notified() => {}
            result = or_never(&mut self.pushing) => {
                self.pushing = None;
                let now = self.shared.clock.monotonic();
                self.machine.pushed(result, now);
            }
            result = or_never(&mut self.reading) => {
                self.reading = None;
                let now = self.shared.clock.monotonic();
                self.machine.read(result, now);
            }
            changed = connected.changed() => {
                if changed.is_err() {
                    // Whoever connects is gone: so does this program.
                    return None;
                }
                let online = *connected.borrow_and_update();
                self.machine.online(online);
            }
            // Or nobody tries any more.
            _ = tried.changed(), if self.machine.is_starting() => {
                let online = *connected.borrow_and_update();
                self.machine.online(online);
                self.machine.starting(false);
            }
            () = sleep(due.unwrap_or_default()), if due.is_some() => {}
        }
        Some(())
    }

    async fn hear(&mut self, event: Event) {
        let now = self.shared.clock.monotonic();
        match event {
            Event::Arrived { serial, subscribed } => {
                self.machine.memory().arrived(serial, subscribed);
                self.machine.life((self.shared.generation)(&self.who));
            }
            Event::Subscribed { serial, subscribed } => {
                self.machine.memory().subscribed(serial, subscribed);
            }
            Event::Left { serial } => self.machine.memory().left(serial),
            Event::Listening => {
                self.machine.life((self.shared.generation)(&self.who));
                self.machine.memory().listening(&self.shared.config, now);
            }
            Event::Desired(patch) => self.machine.desired(&patch, now),
            Event::Ask(ask) => self.machine.ask(ask),
            Event::Forget => self.forget().await,
        }
    }

    async fn forget(&mut self) {
        if self.machine.has_pending() {
            return self.shared.metrics.counted("twin_kept", "departed_pending");
        }
        self.machine.forget();
        (self.pushing, self.reading) = (None, None);
        let (cabinet, name) = (Arc::clone(&self.shared.cabinet), self.who.name().clone());
        let removed =
            on_disk(&self.shared, move || cabinet.remove(&name).map_err(|e| e.to_string()));
        if let Err(error) = removed.await {
            self.shared.metrics.counted("twin_kept", "not_removed");
            tracing::warn!(who = %self.who, error, "a kept twin could not be removed");
        }
    }

    /// Makes durable what has changed, after those who want to hear of patches have.
    async fn keep(&mut self) {
        let Some(bytes) = self.machine.to_keep() else { return };
        let mut result = Ok(());
        for (patch, version) in self.machine.take_accepted() {
            let told = self.shared.reported.reported(&self.who, patch, version);
            if result.is_ok() {
                result = told.await;
            }
        }
        if result.is_ok() {
            let now = self.shared.clock.monotonic();
            sleep(self.machine.memory().keep_after(now)).await;
            let (cabinet, name) = (Arc::clone(&self.shared.cabinet), self.who.name().clone());
            result = on_disk(&self.shared, move || {
                cabinet.put(&name, &bytes).map_err(|e| e.to_string())
            })
            .await;
        }
        if let Err(error) = &result {
            self.shared.metrics.counted("twin_kept", "not_stored");
            tracing::warn!(who = %self.who, error, "a twin could not be kept");
        }
        let now = self.shared.clock.monotonic();
        self.machine.kept(result, now);
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Read { asked } => self.read(asked),
            Action::Push(patch) => self.push(patch),
            Action::Answer { serial, status, rid, version, body } => {
                let content = Outbound::TwinResponse { status, rid, version, body };
                self.send(serial, Letter::Send { content, handed: None }).await;
            }
            Action::Acknowledge { serial, tag } => {
                self.send(serial, Letter::Kept { tag }).await;
            }
            Action::Close { serial, detail } => {
                self.send(serial, Letter::Close { label: NOT_KEPT, detail }).await;
            }
            Action::Tell { serial, version, body } => self.tell(serial, version, body).await,
            Action::Got(at) => {
                let took = self.shared.clock.monotonic().saturating_duration_since(at);
                self.shared.metrics.twin_got(&self.who, false, took);
            }
            Action::Taken(at) => {
                let took = self.shared.clock.monotonic().saturating_duration_since(at);
                self.shared.metrics.twin_reported(&self.who, false, took);
            }
            Action::Count(event, reason) => self.shared.metrics.counted(event, reason),
            Action::Warn(event, reason, words) => {
                self.shared.metrics.counted(event, reason);
                tracing::warn!(who = %self.who, "{words}");
            }
        }
    }

    async fn send(&mut self, serial: u64, letter: Letter) {
        let Some(mailbox) = self.shared.mailbox(&self.who, serial) else { return };
        if self.stuck == Some(serial) {
            return self.shared.metrics.counted("twin_letter", "not_taken");
        }
        if timeout(LETTER_WITHIN, mailbox.send(letter)).await.is_ok() {
            return;
        }
        self.shared.metrics.counted("twin_letter", "not_taken");
        // It would never learn what was in the letter: it is to connect and ask again.
        self.stuck = Some(serial);
        let stop = self.shared.stop.clone();
        self.shared.tasks.spawn(async move {
            let detail = "what it asked of its twin could not be sent".to_owned();
            let letter = Letter::Close { label: NOT_TAKEN, detail };
            let _ = stop.run_until_cancelled(mailbox.send(letter)).await;
        });
    }

    /// A client that acknowledges nothing any more, and so cannot be told, is to connect and ask again.
    async fn tell(&mut self, serial: u64, version: u64, body: Bytes) {
        let (handed, hears) = oneshot::channel();
        let content = Outbound::Desired { version, body };
        self.send(serial, Letter::Send { content, handed: Some(handed) }).await;
        let (shared, who) = (Arc::clone(&self.shared), self.who.clone());
        self.shared.tasks.spawn(async move {
            let heard = shared.stop.run_until_cancelled(hears).await;
            if let Some(Ok(Handed::Full)) = heard
                && let Some(mailbox) = shared.mailbox(&who, serial)
            {
                shared.metrics.counted("twin_desired", "not_taken");
                let detail = "a change of its desired properties could not be sent".to_owned();
                let letter = Letter::Close { label: NOT_TAKEN, detail };
                let _ = timeout(LETTER_WITHIN, mailbox.send(letter)).await;
            }
        });
    }

    /// Within its time, the wait for a permit included: a client may wait behind it.
    fn read(&mut self, asked: bool) {
        let (shared, who) = (Arc::clone(&self.shared), self.who.clone());
        let permit = if asked { None } else { self.permit.take() };
        self.reading = Some(Box::pin(async move {
            let reading = async {
                let _permit = match permit {
                    None if !asked => Arc::clone(&shared.quiet).acquire_owned().await.ok(),
                    given => given,
                };
                let begun = shared.clock.monotonic();
                let answer = shared.cloud.twin(&who).await;
                if answer.is_ok() {
                    let took = shared.clock.monotonic().saturating_duration_since(begun);
                    shared.metrics.twin_got(&who, true, took);
                }
                answer
            };
            let answer = timeout(shared.config.read_within, reading).await;
            answer.unwrap_or_else(|_| Err(CloudError::Lost("no answer".into())))
        }));
    }

    fn push(&mut self, patch: Bytes) {
        let (shared, who) = (Arc::clone(&self.shared), self.who.clone());
        let permit = self.permit.take();
        self.pushing = Some(Box::pin(async move {
            let permit = match permit {
                None => Arc::clone(&shared.quiet).acquire_owned().await.ok(),
                given => given,
            };
            let begun = shared.clock.monotonic();
            let answer = timeout(PUSH_WITHIN, shared.cloud.report(&who, patch)).await;
            drop(permit);
            let result = answer.unwrap_or_else(|_| Err(CloudError::Lost("no answer".into())));
            if result.is_ok() {
                let took = shared.clock.monotonic().saturating_duration_since(begun);
                shared.metrics.twin_reported(&who, true, took);
            }
            result
        }));
    }
}

/// Its end, if there is one.
async fn or_never<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
