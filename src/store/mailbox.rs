//! The way to the writer thread: what waits for it, and for how much room.
//!
//! Owns: the queue of commands, bounded by the byte budget, and the public [`Appender`].
//! Invariants: commands are taken in the order in which they came; an append holds its share of the budget until its
//! receipt is sent, so waiting memory is at most `pending_bytes_max` (plus one largest payload) for devices and a quarter of
//! that beside it for the store's own side: what devices wait for room with must not keep out what makes it. A mutex with a condition
//! variable instead of a channel, because the writer needs a wait with a time limit and takes a whole batch at a time.
//! Must not know: files.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::append::{Append, AppendClass, AppendError};
use super::budget::Bounds;
use super::id::QueueId;
use super::queue::Shared;
use super::record::PAYLOAD_BYTES_MAX;
use super::{Health, Limits, StoreError};

/// What an append weighs in the budget beside its payload, per queue: its record header and its place in the mailbox.
const OVERHEAD_BYTES: usize = 256;

/// Most yields before a commit without a window: about a millisecond, and only while appends keep coming.
const YIELDS_MAX: usize = 1024;

/// How long a settle that comes right after a commit may wait for the next one, which notes it on its way: what was just
/// stored is mostly delivered at once, and to wake the thread for each would cost as much again as the commit. It is how
/// much more is sent twice after a kill -9.
const SETTLE_WITHIN: Duration = Duration::from_millis(2);

/// An append and its share of the budget.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) append: Append,
    /// About the bytes that it will take in the segments.
    pub(super) weight: usize,
    /// Given back when the append is answered.
    permit: OwnedSemaphorePermit,
}

/// The shares of answered appends, to be given back in one go: each return takes a lock and may wake somebody.
#[derive(Default)]
pub(super) struct Spent {
    ingress: Option<OwnedSemaphorePermit>,
    internal: Option<OwnedSemaphorePermit>,
}

impl Pending {
    /// Answers it; its share goes back when `spent` does.
    pub(super) fn answer(self, result: Result<(), AppendError>, spent: &mut Spent) {
        let all = match self.append.class {
            AppendClass::Ingress => &mut spent.ingress,
            AppendClass::Internal => &mut spent.internal,
        };
        match all {
            Some(all) => all.merge(self.permit),
            None => *all = Some(self.permit),
        }
        self.append.receipt.send(result);
    }
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked to do.
pub(super) enum Command {
    Append(Pending),
    Open(QueueId, Reply<Arc<Shared>>),
    Find(QueueId, Reply<Option<Arc<Shared>>>),
    DeleteIfEmpty(Arc<Shared>, Reply<bool>),
    SetLimits(Limits, Bounds),
    Close,
}

/// What the writer gets when it looks.
#[derive(Default)]
pub(super) struct Taken {
    /// Appends, up to the batch limit, in order.
    pub(super) batch: Vec<Pending>,
    /// The command behind them, if it is another one.
    pub(super) command: Option<Command>,
    /// Somebody wants to settle.
    pub(super) settle: bool,
}

#[derive(Default)]
struct Waiting {
    commands: VecDeque<Command>,
    /// Weight of the appends among them.
    bytes: usize,
    /// Another command is among them: the commit window ends.
    urgent: bool,
    settle: bool,
    closed: bool,
    /// The writer's last batch was of more than one append: they come in runs.
    in_runs: bool,
    /// The writer has just committed something, so it will look within [`SETTLE_WITHIN`] by itself.
    settles_soon: bool,
    /// At what weight of the appends the writer wants to be woken; 0: by anything. `None`: it is awake, or was woken
    /// (each wake-up is a system call).
    wake_at: Option<usize>,
}

impl Waiting {
    /// Whether more appends may be right behind the first. One that comes alone, as the last one did, is not kept waiting: a
    /// yield gives the processor to whoever wants it, for as long as they may keep it.
    fn is_run(&self) -> bool {
        self.in_runs || self.commands.len() > 1
    }

    /// Whether the writer has to be woken for what is there now. Says so once.
    fn wakes(&mut self) -> bool {
        let wakes = self.wake_at.is_some_and(|at| self.urgent || self.bytes >= at);
        if wakes {
            self.wake_at = None;
        }
        wakes
    }
}

/// Bytes that may wait.
struct Share {
    bytes: usize,
    free: Arc<Semaphore>,
}

impl Share {
    fn new(bytes: usize) -> Self {
        let bytes = bytes.clamp(OVERHEAD_BYTES, Semaphore::MAX_PERMITS >> 3).min(u32::MAX as usize);
        Self { bytes, free: Arc::new(Semaphore::new(bytes)) }
    }
}

/// The mailbox of the writer thread.
pub(super) struct Mailbox {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    ingress: Share,
    internal: Share,
    health: watch::Sender<Health>,
}

impl Mailbox {
    pub(super) fn new(pending_bytes_max: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            ingress: Share::new(pending_bytes_max),
            internal: Share::new(pending_bytes_max / 4),
            health: watch::Sender::new(Health::Healthy),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn health(&self) -> &watch::Sender<Health> {
        &self.health
    }

    /// Nobody gets in any more; those who wait for room are sent away.
    pub(super) fn shut(&self) {
        self.ingress.free.close();
        self.internal.free.close();
        self.lock().closed = true;
    }

    /// Adds a command; gives it back if the mailbox is shut.
    #[allow(clippy::result_large_err, reason = "a box would cost every message an allocation")]
    pub(super) fn post(&self, command: Command) -> Result<(), Command> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(command);
        }
        match &command {
            Command::Append(pending) => waiting.bytes += pending.weight,
            _ => waiting.urgent = true,
        }
        waiting.commands.push_back(command);
        let wakes = waiting.wakes();
        drop(waiting);
        if wakes {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Posts `Close` behind everything that waits and lets nothing in after it.
    pub(super) fn post_close(&self) {
        let _ = self.post(Command::Close);
        self.shut();
    }

    /// Adds appends of devices, in order, each with its part of `share`; not if the mailbox is shut.
    fn post_all(&self, batch: &mut Vec<Append>, mut share: OwnedSemaphorePermit) -> bool {
        let mut waiting = self.lock();
        if waiting.closed {
            return false;
        }
        for append in batch.drain(..) {
            let weight = weight(&append);
            let permit = share.split(weight).expect("the share is the sum of the weights");
            waiting.bytes += weight;
            waiting.commands.push_back(Command::Append(Pending { append, weight, permit }));
        }
        let wakes = waiting.wakes();
        drop(waiting);
        if wakes {
            self.wake.notify_one();
        }
        true
    }

    /// Tells the writer that some queue wants to settle.
    pub(super) fn poke(&self) {
        let mut waiting = self.lock();
        waiting.settle = true;
        let wakes = !waiting.settles_soon && waiting.wakes();
        drop(waiting);
        if wakes {
            self.wake.notify_one();
        }
    }

    /// Waits until there is something, at most `limit`, and takes it: appends until their weight reaches `bytes_max`,
    /// or up to the first other command. Once the first append is there, waits `window` for more, or, without a
    /// window and if they come in runs, as long as more come at once.
    pub(super) fn take(&self, bytes_max: usize, window: Duration, limit: Duration) -> Taken {
        let (mut waiting, mut limit) = (self.lock(), limit);
        if waiting.settles_soon {
            let soon = limit.min(SETTLE_WITHIN);
            waiting = self.wait_while(waiting, 0, soon, |w| w.commands.is_empty());
            waiting.settles_soon = false;
            limit -= soon;
        }
        let idle = |w: &mut Waiting| w.commands.is_empty() && !w.settle;
        let waiting = self.wait_while(waiting, 0, limit, idle);
        let more = |w: &mut Waiting| w.bytes < bytes_max && !w.urgent;
        let mut waiting = match waiting.commands.front() {
            Some(Command::Append(_)) if window.is_zero() => match waiting.is_run() {
                true => self.gather(waiting, more),
                false => waiting,
            },
            Some(Command::Append(_)) => self.wait_while(waiting, bytes_max, window, more),
            _ => waiting,
        };
        let mut taken = Taken { settle: std::mem::take(&mut waiting.settle), ..Taken::default() };
        let mut bytes = 0;
        while bytes < bytes_max {
            match waiting.commands.pop_front() {
                Some(Command::Append(pending)) => {
                    bytes += pending.weight;
                    waiting.bytes -= pending.weight;
                    taken.batch.push(pending);
                }
                other => {
                    taken.command = other;
                    waiting.urgent = false;
                    break;
                }
            }
        }
        if !taken.batch.is_empty() {
            waiting.in_runs = taken.batch.len() > 1;
            waiting.settles_soon = true;
        }
        taken
    }

    /// Waits while `idle`, at most `limit`.
    fn wait_while<'a>(
        &self,
        mut waiting: MutexGuard<'a, Waiting>,
        wake_at: usize,
        limit: Duration,
        idle: impl Fn(&mut Waiting) -> bool,
    ) -> MutexGuard<'a, Waiting> {
        if limit.is_zero() || !idle(&mut waiting) {
            return waiting;
        }
        waiting.wake_at = Some(wake_at);
        let waited = self.wake.wait_timeout_while(waiting, limit, idle);
        let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        waiting.wake_at = None;
        waiting
    }

    /// Lets those who are handing over go on while `more` may come and something comes within each yield: the first
    /// of a run of appends would else be synced alone, and the others would wait for that.
    fn gather<'a>(
        &'a self,
        mut waiting: MutexGuard<'a, Waiting>,
        more: impl Fn(&mut Waiting) -> bool,
    ) -> MutexGuard<'a, Waiting> {
        for _ in 0..YIELDS_MAX {
            let before = waiting.commands.len();
            if !more(&mut waiting) {
                break;
            }
            drop(waiting);
            std::thread::yield_now();
            waiting = self.lock();
            if waiting.commands.len() == before {
                break;
            }
        }
        waiting
    }

    /// Empties the mailbox for good.
    pub(super) fn drain(&self) -> VecDeque<Command> {
        self.shut();
        std::mem::take(&mut self.lock().commands)
    }

    /// Why a shut mailbox is shut.
    pub(super) fn why_shut(&self) -> AppendError {
        match *self.health.borrow() {
            Health::Healthy => AppendError::Closed,
            Health::Poisoned(_) => AppendError::Poisoned,
        }
    }

    pub(super) async fn open(&self, id: QueueId) -> Result<Arc<Shared>, StoreError> {
        self.ask(|reply| Command::Open(id, reply)).await
    }

    pub(super) async fn find(&self, id: QueueId) -> Result<Option<Arc<Shared>>, StoreError> {
        self.ask(|reply| Command::Find(id, reply)).await
    }

    pub(super) async fn delete_if_empty(&self, shared: Arc<Shared>) -> Result<bool, StoreError> {
        self.ask(|reply| Command::DeleteIfEmpty(shared, reply)).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        if self.post(command(reply)).is_err() {
            return Err(StoreError::from_append(self.why_shut()));
        }
        answer.await.unwrap_or_else(|_| Err(StoreError::from_append(self.why_shut())))
    }
}

/// Appends messages. Cheap to clone.
#[derive(Clone)]
pub struct Appender {
    pub(super) mailbox: Arc<Mailbox>,
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Appender")
    }
}

/// About the bytes that it will take in the segments.
fn weight(append: &Append) -> usize {
    (append.payload.len() + OVERHEAD_BYTES) * append.queues.len().max(1)
}

impl Appender {
    /// As [`append`](Self::append) for each of `batch`, which are of devices, if the byte budget has room for all of them just now:
    /// one share and one wake-up for the batch. Says whether it took them; else `batch` is as it was.
    pub fn try_append_all(&self, batch: &mut Vec<Append>) -> bool {
        let fits = |append: &Append| {
            append.class == AppendClass::Ingress && append.payload.len() <= PAYLOAD_BYTES_MAX
        };
        if !batch.iter().all(fits) {
            return false;
        }
        let weight: usize = batch.iter().map(weight).sum();
        let Ok(share) = u32::try_from(weight) else {
            return false;
        };
        // Who waits for room is served first: whatever is given back goes to them.
        let free = Arc::clone(&self.mailbox.ingress.free);
        free.try_acquire_many_owned(share).is_ok_and(|share| self.mailbox.post_all(batch, share))
    }

    /// Hands over a message; returns when it is on its way to the disk, after waiting for room in the byte budget, first
    /// come first served. `Ok` promises a receipt, in the order of one caller's appends. `Err` promises none.
    /// Dropping the future before it is done withdraws the message.
    pub async fn append(&self, append: Append) -> Result<(), AppendError> {
        debug_assert!(!append.queues.is_empty(), "an append names a queue");
        if append.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(AppendError::TooLarge(append.payload.len()));
        }
        let mailbox = &self.mailbox;
        let weight = weight(&append);
        let budget = match append.class {
            AppendClass::Ingress => &mailbox.ingress,
            AppendClass::Internal => &mailbox.internal,
        };
        // A message larger than the whole budget takes all of it rather than waiting for ever.
        let share = u32::try_from(weight.min(budget.bytes)).expect("the budget fits u32");
        let permit = Arc::clone(&budget.free).acquire_many_owned(share).await;
        let permit = permit.map_err(|_| mailbox.why_shut())?;
        let pending = Pending { append, weight, permit };
        mailbox.post(Command::Append(pending)).map_err(|_| mailbox.why_shut())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::append::{AppendChain, AppendTo, ReceiptTo};
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    async fn append(mailbox: &Arc<Mailbox>) {
        let append = Append {
            queues: vec![AppendTo { queue: QueueId::new("up", 0), ttl_secs: 0 }],
            payload: vec![1].into(),
            since: None,
            class: AppendClass::Ingress,
            receipt: ReceiptTo::new(0, mpsc::channel(1).0, &AppendChain::new()),
        };
        Appender { mailbox: Arc::clone(mailbox) }.append(append).await.unwrap();
    }

    #[tokio::test]
    async fn a_settle_behind_a_commit_goes_with_the_next_one_or_alone_and_is_never_left() {
        let mailbox = Arc::new(Mailbox::new(1 << 20));
        let take = || mailbox.take(1 << 20, Duration::ZERO, LONG);
        append(&mailbox).await;
        let first = take();
        assert!(first.batch.len() == 1 && !first.settle);
        mailbox.poke();
        append(&mailbox).await;
        let both = take();
        assert!(both.batch.len() == 1 && both.settle);
        mailbox.poke();
        let alone = take();
        assert!(alone.batch.is_empty() && alone.settle);
        mailbox.poke();
        assert!(take().settle);
    }

    #[test]
    fn a_settle_long_after_a_commit_wakes_the_writer() {
        let mailbox = Mailbox::new(1 << 20);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| mailbox.take(1 << 20, Duration::ZERO, LONG));
            mailbox.poke();
            assert!(writer.join().unwrap().settle);
        });
    }
}
