//! The writer thread: takes what waits, makes it durable, says so.
//!
//! Owns: the thread, and the moment of a receipt. Invariant: `Ok` receipts are sent only after [`Engine::commit`]
//! returned `Ok` for their batch; after a poison no `Ok` is ever sent again.
//! Must not know: bytes on disk.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::append::{AppendClass, AppendError};
use super::engine::{CHECKPOINT_SYNC_AFTER, Engine, Failure};
use super::held::{Held, RETRY_EVERY};
use super::mailbox::{Command, Mailbox, Pending, Spent};
use super::stats::{Counters, add};
use super::{Health, StoreError, WhenFull};

/// Readers are told of what was stored no more often than that, and after the receipts: who is woken first runs first, and a
/// device waits for its acknowledgement, while what is forwarded together costs a fraction of what it costs one by one. After a
/// quiet spell they are told at once.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(2);

/// How long the thread sleeps when nothing waits and nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

pub(super) struct Writer {
    pub(super) engine: Engine,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) counters: Arc<Counters>,
    /// Appends of devices that wait for room.
    pub(super) held: Held,
    /// Whether there was no room lately: one warning per change.
    pub(super) is_short: bool,
    /// When readers were told of something last.
    pub(super) announced: Option<Instant>,
}

/// Whether the loop goes on.
enum Next {
    On,
    Stop,
}

impl Writer {
    /// Runs until the store is closed or poisoned.
    pub(super) fn run(mut self) {
        let _at_the_end = Farewell(Arc::clone(&self.mailbox));
        loop {
            match self.turn() {
                Ok(Next::On) => {}
                Ok(Next::Stop) => break,
                Err(Failure::Refused(error)) => {
                    tracing::warn!(%error, "the store could not tidy up; trying again later");
                }
                Err(Failure::Poison(text)) => {
                    self.poison(text);
                    break;
                }
            }
        }
        self.announce();
    }

    fn turn(&mut self) -> Result<Next, Failure> {
        let window = self.engine.config().commit_window;
        let taken = self.mailbox.take(self.engine.bounds().batch, window, self.patience());
        if taken.batch.is_empty() {
            self.announce();
        }
        // Settle first: it may free the room that the batch needs.
        let settled = if taken.settle { self.engine.settle() } else { Ok(()) };
        if let Err(failure @ Failure::Poison(_)) = settled {
            self.refuse_after_poison(taken.batch, taken.command);
            return Err(failure);
        }
        if let Err(failure) = self.commit(taken.batch) {
            taken.command.into_iter().for_each(|command| refuse(&self.mailbox, command));
            return Err(failure);
        }
        if self.announced.is_none_or(|last| self.engine.now() >= last + ANNOUNCE_EVERY) {
            self.announce();
        }
        if let Some(command) = taken.command
            && let Next::Stop = self.obey(command)?
        {
            return Ok(Next::Stop);
        }
        let ticked = Failure::refusal(self.engine.tick())?;
        self.serve_held()?;
        settled?;
        Ok(ticked.map(|()| Next::On)?)
    }

    /// Tells readers of what was stored.
    fn announce(&mut self) {
        if self.engine.is_unannounced() {
            self.engine.announce();
            self.announced = Some(self.engine.now());
        }
    }

    /// How long the thread may sleep.
    fn patience(&self) -> Duration {
        if self.engine.is_unannounced() {
            return ANNOUNCE_EVERY;
        }
        let rest = IDLE.min(self.engine.rest());
        let tidy = if self.engine.is_restless() { CHECKPOINT_SYNC_AFTER / 4 } else { rest };
        if self.held.is_empty() { tidy } else { tidy.min(RETRY_EVERY) }
    }

    /// Makes a batch durable and sends its receipts, each caller's in order. While appends of devices are held others wait
    /// behind them; the store's own go on: they must not be kept out, for they make room.
    fn commit(&mut self, mut batch: Vec<Pending>) -> Result<(), Failure> {
        let until = self.engine.now() + self.engine.config().hold_when_full;
        if !self.held.is_empty() {
            // Also what is broken: it is answered behind what is held of its caller.
            let behind = take_ingress(&mut batch);
            self.held.push(behind, until);
        }
        let broken = take_broken(&mut batch);
        let has_ingress = batch.iter().any(is_ingress);
        let (left, why) = match self.store_by_class(batch) {
            Ok(stored) => stored,
            Err(poison) => return self.give_up(broken, poison).map(|_| ()),
        };
        let (ingress, internal): (Vec<_>, Vec<_>) = left.into_iter().partition(is_ingress);
        self.note_room(why, has_ingress && ingress.is_empty() && self.held.is_empty());
        self.refuse_full(internal);
        if self.engine.config().hold_when_full.is_zero() {
            self.refuse_full(ingress);
        } else if !ingress.is_empty() {
            self.held.push(ingress, until);
            self.held.tried(self.engine.now(), self.engine.used());
        }
        refuse_broken(broken);
        self.show_held();
        Ok(())
    }

    /// Tries what is held, if there may be room, and refuses what has waited long enough.
    fn serve_held(&mut self) -> Result<(), Failure> {
        if self.held.is_empty() {
            return Ok(());
        }
        refuse_broken(self.held.broken());
        let now = self.engine.now();
        while self.held.is_due(now, self.engine.used()) {
            // A chain may have been broken in the last round.
            refuse_broken(self.held.broken());
            let taken = self.held.take(self.engine.bounds().batch);
            let (batch, mut until): (Vec<_>, Vec<_>) = taken.into_iter().unzip();
            let (left, why) = self.store(batch)?;
            until.drain(..until.len() - left.len());
            let is_short = !left.is_empty();
            self.held.put_back(left.into_iter().zip(until));
            self.note_room(why, self.held.is_empty());
            if is_short {
                self.held.tried(now, self.engine.used());
            }
        }
        let expired = self.held.expired(now);
        self.refuse_full(expired);
        refuse_broken(self.held.broken());
        self.show_held();
        Ok(())
    }

    fn show_held(&self) {
        self.counters.held_appends.store(self.held.len(), std::sync::atomic::Ordering::Relaxed);
    }

    /// Stores a batch; where it does not fit as a whole what devices send must not keep out what makes room.
    fn store_by_class(&mut self, batch: Vec<Pending>) -> Result<Left, Failure> {
        if batch.iter().all(is_ingress) || !batch.iter().any(is_ingress) {
            return self.store(batch);
        }
        let (mut ingress, why) = self.try_to_store(batch)?;
        let internal = ingress.extract_if(.., |pending| !is_ingress(pending)).collect();
        let mut left = match self.store(internal) {
            Ok((left, _)) => left,
            Err(poison) => return self.give_up(ingress, poison),
        };
        match self.store(ingress) {
            Ok((more, _)) => left.extend(more),
            Err(poison) => return self.give_up(left, poison),
        }
        Ok((left, why))
    }

    /// Stores as much of a batch as finds room, from its front. Where the oldest is dropped no device's append waits for
    /// room: it would keep out those behind it that may push out more. It is refused, and the others go on.
    fn store(&mut self, batch: Vec<Pending>) -> Result<Left, Failure> {
        let (mut rest, mut why, mut n) = (batch, None, usize::MAX);
        while n > 0 && !rest.is_empty() {
            n = n.min(rest.len());
            let behind = rest.split_off(n);
            match self.try_to_store(rest) {
                Ok((left, error)) => {
                    n = if error.is_some() { n / 2 } else { n.saturating_mul(2) };
                    (rest, why) = (left, why.or(error));
                    rest.extend(behind);
                    if n == 0 && self.drops_oldest() && is_ingress(&rest[0]) {
                        self.refuse_first(&mut rest);
                        n = 1;
                    }
                }
                Err(poison) => return self.give_up(behind, poison),
            }
        }
        Ok((rest, why))
    }

    fn drops_oldest(&self) -> bool {
        self.engine.config().limits.when_full == WhenFull::DropOldest
    }

    /// Refuses the first of a batch, and what the same caller has behind it.
    fn refuse_first(&self, batch: &mut Vec<Pending>) {
        let first = batch.remove(0);
        let chain = Arc::clone(&first.append.receipt.chain);
        self.refuse_full(vec![first]);
        let same = |pending: &mut Pending| Arc::ptr_eq(&pending.append.receipt.chain, &chain);
        refuse_broken(batch.extract_if(.., same).collect());
    }

    /// Leaves what was not tried to [`Writer::poison`], which answers it.
    fn give_up(&mut self, rest: Vec<Pending>, poison: Failure) -> Result<Left, Failure> {
        self.held.push(rest, self.engine.now());
        Err(poison)
    }

    /// Stores a batch as a whole and answers it, or gives it back.
    fn try_to_store(&mut self, batch: Vec<Pending>) -> Result<Left, Failure> {
        if batch.is_empty() {
            return Ok((batch, None));
        }
        match self.engine.admit(batch.iter().map(|pending| &pending.append)) {
            Ok(()) => {
                let mut spent = Spent::default();
                batch.into_iter().for_each(|pending| pending.answer(Ok(()), &mut spent));
                Ok((Vec::new(), None))
            }
            Err(Failure::Refused(error)) => Ok((batch, Some(error))),
            Err(poison) => {
                send_all(batch, AppendError::Poisoned);
                Err(poison)
            }
        }
    }

    fn refuse_full(&self, refused: Vec<Pending>) {
        if refused.is_empty() {
            return;
        }
        add(&self.counters.refused_commits, 1);
        for pending in refused {
            pending.append.receipt.chain.refused();
            pending.append.receipt.send(Err(AppendError::Full));
        }
    }

    /// Tells of changes. There is room again when something of a device was taken and nothing waits (`took`), not when
    /// there was nothing to take.
    fn note_room(&mut self, no_room: Option<io::Error>, took: bool) {
        match no_room {
            Some(error) if !self.is_short => {
                tracing::warn!(%error, "the store has no room: holding, then refusing messages");
                self.is_short = true;
            }
            None if self.is_short && took => {
                tracing::info!("the store has room again");
                self.is_short = false;
            }
            _ => {}
        }
    }

    fn obey(&mut self, command: Command) -> Result<Next, Failure> {
        match command {
            Command::Append(pending) => self.commit(vec![pending])?,
            Command::Open(id, reply) => {
                let opened = self.engine.queue(&id);
                answer(reply, opened)?;
            }
            Command::Find(id, reply) => answer(reply, Ok(self.engine.existing_queue(&id)))?,
            Command::DeleteIfEmpty(shared, reply) => {
                let deleted = self.engine.delete_if_empty(&shared);
                answer(reply, deleted)?;
            }
            Command::SetLimits(limits, bounds) => {
                self.engine.set_limits(limits, bounds);
                self.held.try_again();
            }
            Command::Close => match self.close() {
                Err(Failure::Refused(error)) => {
                    tracing::warn!(%error, "the store could not tidy up at the end");
                    return Ok(Next::Stop);
                }
                other => return other.map(|()| Next::Stop),
            },
        }
        Ok(Next::On)
    }

    fn close(&mut self) -> Result<(), Failure> {
        // Nobody is to wait for room that may never come.
        send_all(self.held.drain(), AppendError::Closed);
        self.show_held();
        self.engine.close()
    }

    fn poison(&mut self, text: String) {
        tracing::error!(
            reason = text,
            "the store is poisoned: nothing is acknowledged any more; check the disk, then restart"
        );
        self.mailbox.health().send_replace(Health::Poisoned(text));
        self.mailbox.shut();
        send_all(self.held.drain(), AppendError::Poisoned);
        self.show_held();
    }

    fn refuse_after_poison(&mut self, batch: Vec<Pending>, command: Option<Command>) {
        // Behind those that are held, which are answered at the end.
        self.held.push(batch, self.engine.now());
        command.into_iter().for_each(|command| refuse(&self.mailbox, command));
    }
}

/// What found no room, and why.
type Left = (Vec<Pending>, Option<io::Error>);

fn send_all(batch: Vec<Pending>, why: AppendError) {
    batch.into_iter().for_each(|pending| pending.append.receipt.send(Err(why)));
}

fn is_ingress(pending: &Pending) -> bool {
    pending.append.class == AppendClass::Ingress
}

fn take_ingress(batch: &mut Vec<Pending>) -> Vec<Pending> {
    batch.extract_if(.., |pending| is_ingress(pending)).collect()
}

/// Takes out what is behind a hole of its caller, or was revoked. One look at each append: what is found whole here is
/// stored, even if it is revoked meanwhile.
fn take_broken(batch: &mut Vec<Pending>) -> Vec<Pending> {
    let broken = |pending: &mut Pending| pending.append.receipt.chain.broken().is_some();
    batch.extract_if(.., broken).collect()
}

/// Answers what was taken out: after the rest of its batch, for answers come in the order of the appends.
fn refuse_broken(broken: Vec<Pending>) {
    for pending in broken {
        let why = pending.append.receipt.chain.broken().unwrap_or(AppendError::Revoked);
        pending.append.receipt.send(Err(why));
    }
}

/// Answers what still waits when the thread ends, also when it ends by a panic.
struct Farewell(Arc<Mailbox>);

impl Drop for Farewell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = "the store's writer thread panicked".to_owned();
            self.0.health().send_replace(Health::Poisoned(text));
        }
        for command in self.0.drain() {
            refuse(&self.0, command);
        }
    }
}

fn refuse(mailbox: &Mailbox, command: Command) {
    let why = mailbox.why_shut();
    match command {
        Command::Append(pending) => pending.append.receipt.send(Err(why)),
        Command::Open(_, reply) => drop(reply.send(Err(StoreError::from_append(why)))),
        Command::Find(_, reply) => drop(reply.send(Err(StoreError::from_append(why)))),
        Command::DeleteIfEmpty(_, reply) => drop(reply.send(Err(StoreError::from_append(why)))),
        Command::SetLimits(..) | Command::Close => {}
    }
}

/// Answers a caller; a poison goes on to the loop.
fn answer<T>(reply: super::mailbox::Reply<T>, result: Result<T, Failure>) -> Result<(), Failure> {
    let (result, failure) = match result {
        Ok(value) => (Ok(value), Ok(())),
        Err(Failure::Refused(error)) => (Err(StoreError::Refused(error)), Ok(())),
        Err(poison) => (Err(StoreError::Poisoned), Err(poison)),
    };
    // Nobody waits for the answer any more: fine.
    let _ = reply.send(result);
    failure
}
