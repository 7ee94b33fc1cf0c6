//! The writer thread: takes what waits, makes it durable, says so.
//!
//! Owns: the thread, and the moment of a receipt. Invariant: `Ok` receipts are sent only after [`Engine::commit`]
//! returned `Ok` for their batch; after a poison no `Ok` is ever sent again.
//! Must not know: bytes on disk.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::append::{AppendClass, AppendError};
use super::engine::{CHECKPOINT_SYNC_AFTER, Engine, Failure};
use super::mailbox::{Command, Mailbox, Pending};
use super::stats::{Counters, add};
use super::{Health, StoreError};

/// How long the thread sleeps when nothing waits and nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

pub(super) struct Writer {
    pub(super) engine: Engine,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) counters: Arc<Counters>,
    /// Whether the last batch was refused: one warning per change.
    pub(super) refusing: bool,
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
    }

    fn turn(&mut self) -> Result<Next, Failure> {
        let config = self.engine.config();
        let limit = if self.engine.is_restless() { CHECKPOINT_SYNC_AFTER / 4 } else { IDLE };
        let taken = self.mailbox.take(config.batch_bytes_max, config.commit_window, limit);
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
        if let Some(command) = taken.command
            && let Next::Stop = self.obey(command)?
        {
            return Ok(Next::Stop);
        }
        self.engine.tick()?;
        settled.map(|()| Next::On)
    }

    /// Makes a batch durable and sends its receipts, each caller's in order.
    fn commit(&mut self, mut batch: Vec<Pending>) -> Result<(), Failure> {
        let broken = take_broken(&mut batch);
        let (mut refused, mut no_room) = (Vec::new(), None);
        if batch.iter().any(is_ingress) && self.engine.is_reserve_short() {
            refused = take_ingress(&mut batch);
            no_room = Some(io::Error::other("what is free is kept for draining the queues"));
        }
        let mut failure = self.write(&batch).err();
        if let Some(Failure::Refused(_)) = failure {
            // Once more without what devices send: it must not keep out what makes room.
            self.engine.ask_volume_again();
            refused.append(&mut take_ingress(&mut batch));
            let first = failure.take();
            failure = self.write(&batch).err();
            no_room = first.and_then(Failure::refused);
        }
        let answer = match &failure {
            None => Ok(()),
            Some(Failure::Refused(_)) => Err(AppendError::Full),
            Some(Failure::Poison(_)) => Err(AppendError::Poisoned),
        };
        let took = answer.is_ok() && batch.iter().any(is_ingress);
        self.note_refusing(no_room, took);
        let rest = answer.and(Err(AppendError::Full));
        let answers = batch.into_iter().map(|pending| (pending, answer));
        for (pending, answer) in answers.chain(refused.into_iter().map(|pending| (pending, rest))) {
            if answer == Err(AppendError::Full) {
                pending.append.receipt.chain.refused();
            }
            pending.append.receipt.send(answer);
        }
        refuse_broken(broken);
        failure.filter(|failure| matches!(failure, Failure::Poison(_))).map_or(Ok(()), Err)
    }

    fn write(&mut self, batch: &[Pending]) -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        self.engine.commit(batch.iter().map(|pending| &pending.append))
    }

    /// Counts a batch of which something was refused, and tells of changes. There is room again when something of a
    /// device was taken (`took`), not when there was nothing to take.
    fn note_refusing(&mut self, no_room: Option<io::Error>, took: bool) {
        match no_room {
            Some(error) => {
                add(&self.counters.refused_commits, 1);
                if !self.refusing {
                    tracing::warn!(%error, "the store has no room: refusing messages");
                }
                self.refusing = true;
            }
            None if self.refusing && took => {
                tracing::info!("the store has room again");
                self.refusing = false;
            }
            None => {}
        }
    }

    fn obey(&mut self, command: Command) -> Result<Next, Failure> {
        match command {
            Command::Append(pending) => self.commit(vec![pending])?,
            Command::Open(id, reply) => {
                let opened = self.engine.queue(&id);
                answer(reply, opened)?;
            }
            Command::DeleteIfEmpty(shared, reply) => {
                let deleted = self.engine.delete_if_empty(&shared);
                answer(reply, deleted)?;
            }
            Command::Close => match self.engine.close() {
                Err(Failure::Refused(error)) => {
                    tracing::warn!(%error, "the store could not tidy up at the end");
                    return Ok(Next::Stop);
                }
                other => return other.map(|()| Next::Stop),
            },
        }
        Ok(Next::On)
    }

    fn poison(&mut self, text: String) {
        tracing::error!(
            reason = text,
            "the store is poisoned: nothing is acknowledged any more; check the disk, then restart"
        );
        self.mailbox.health().send_replace(Health::Poisoned(text));
        self.mailbox.shut();
    }

    fn refuse_after_poison(&self, batch: Vec<Pending>, command: Option<Command>) {
        for pending in batch {
            pending.append.receipt.send(Err(AppendError::Poisoned));
        }
        command.into_iter().for_each(|command| refuse(&self.mailbox, command));
    }
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
        Command::DeleteIfEmpty(_, reply) => drop(reply.send(Err(StoreError::from_append(why)))),
        Command::Close => {}
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
