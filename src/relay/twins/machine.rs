//! What becomes of one identity's twin: events and the time in, actions out.
//!
//! Owns: the rules. Versions: a reported patch raises what the client was told by one, the hub's own version is taken when it
//! is higher (patches that were pushed as one raised it less often); desired properties go forward only. Order: one push and
//! one read at a time; what is accepted while a push is under way is pushed after it. Durability: what a client is told of
//! its patch waits for [`Machine::kept`]; nothing is pushed that is not kept.
//! Must not know: files, tasks, counters.

mod asks;
mod desired;
mod pushes;
mod reads;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::pushes::Push;
use self::reads::Reading;
use super::kept::Kept;
use super::merge::Pending;
use super::{Config, OfflineGet};

/// Longest back-off of pushes and of reads that nobody asked for.
const BACKOFF_MAX: Duration = Duration::from_secs(300);

/// Longest wait of a client for the outcome of the first attempt since the start to reach the hub: more than an attempt takes that
/// succeeds, and a quarter of what the client waits anyway where the hub is there and slow ([`Config::read_within`]).
const FIRST_ATTEMPT_MAX: Duration = Duration::from_secs(5);

/// In the long run a document is written once in this time, with all that came meanwhile: each is a file and two fsyncs, and a
/// client that patches without end must wear out neither the flash nor the others' disk.
const KEEP_EVERY: Duration = Duration::from_millis(50);
/// So many are written without a wait.
const KEEP_BURST: u32 = 64;

/// A request whose client waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    Get(Get),
    Patch(Patch),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Get {
    pub(super) serial: u64,
    pub(super) rid: Box<str>,
    /// When it was asked.
    pub(super) at: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Patch {
    pub(super) serial: u64,
    pub(super) at: Instant,
    pub(super) tag: Option<u64>,
    pub(super) rid: Option<Box<str>>,
    pub(super) version: Option<u64>,
    pub(super) body: Bytes,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Read the whole twin; a client waits for it, or nobody does.
    Read { asked: bool },
    /// Push this patch.
    Push(Bytes),
    /// Answer the client of that connection.
    Answer { serial: u64, status: u16, rid: Box<str>, version: Option<u64>, body: Bytes },
    /// Its PUBACK may leave.
    Acknowledge { serial: u64, tag: u64 },
    /// It must not be acknowledged: end the connection.
    Close { serial: u64, detail: String },
    /// Tell the client a change of desired properties.
    Tell { serial: u64, version: u64, body: Bytes },
    /// A client that asked then has its twin now.
    Got(Instant),
    /// A patch that came then is durable now.
    Taken(Instant),
    /// Count this.
    Count(&'static str, &'static str),
    /// Count this and say so in the log.
    Warn(&'static str, &'static str, String),
}

/// The connected client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) serial: u64,
    /// It wants to be told of desired properties.
    pub(super) subscribed: bool,
    /// The version of the desired properties that it has, as far as we told it.
    pub(super) told: Option<u64>,
}

/// What is remembered of an identity while its twin is not in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) seat: Option<Seat>,
    /// Something is pending.
    pub(super) pending: bool,
    /// The whole twin is to be read, not before this time.
    pub(super) read_at: Option<Instant>,
    last_read: Option<Instant>,
    read_failures: u32,
    /// No push before this time.
    push_at: Option<Instant>,
    last_push: Option<Instant>,
    push_failures: u32,
    /// Highest version of reported properties that a client was told since we started.
    floor: u64,
    /// Until when what was kept so far counts ([`KEEP_EVERY`]).
    kept_until: Option<Instant>,
}

impl Memory {
    /// A client has come; its predecessor is no more.
    pub(super) fn arrived(&mut self, serial: u64, subscribed: bool) {
        if self.seat.is_none_or(|seat| seat.serial < serial) {
            self.seat = Some(Seat { serial, subscribed, told: None });
        }
    }

    pub(super) fn subscribed(&mut self, serial: u64, subscribed: bool) {
        if let Some(seat) = self.seat.as_mut().filter(|seat| seat.serial == serial) {
            seat.subscribed = subscribed;
        }
    }

    pub(super) fn left(&mut self, serial: u64) {
        if self.seat.is_some_and(|seat| seat.serial == serial) {
            (self.seat, self.read_at) = (None, None);
        }
    }

    /// The hub tells changes from now on.
    pub(super) fn listening(&mut self, config: &Config, now: Instant) {
        let earliest = self.last_read.map_or(now, |last| last + config.sync_at_least);
        self.read_soon(earliest.max(now));
    }

    /// What was to be told was lost: the whole twin must be read.
    pub(super) fn missed(&mut self, now: Instant) {
        let wait = backoff(Duration::from_secs(1), self.read_failures);
        let failed = self.last_read.filter(|_| self.read_failures > 0);
        self.read_soon(failed.map_or(now, |last| (last + wait).max(now)));
    }

    fn read_soon(&mut self, at: Instant) {
        self.read_at = Some(self.read_at.map_or(at, |before| before.min(at)));
    }

    /// The hub can be reached again: what failed before is tried at once.
    pub(super) fn reached(&mut self, config: &Config) {
        (self.push_failures, self.read_failures) = (0, 0);
        self.push_at = self.last_push.map(|last| last + config.push_every);
    }

    /// The document is to be kept: how long that has to wait.
    pub(super) fn keep_after(&mut self, now: Instant) -> Duration {
        let until = self.kept_until.map_or(now, |until| until.max(now)) + KEEP_EVERY;
        self.kept_until = Some(until);
        (until - now).saturating_sub(KEEP_EVERY * KEEP_BURST)
    }

    /// When there is something to do while the hub can be reached.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let push = self.pending.then(|| self.push_at.unwrap_or(now));
        [push, self.read_at].into_iter().flatten().min()
    }

    /// Nothing is lost if this is forgotten, the pace of pushes included: who comes back at once is held to it.
    pub(super) fn is_empty(&self, now: Instant) -> bool {
        let is_paced = self.push_at.is_some_and(|at| at > now);
        self.seat.is_none() && !self.pending && self.read_at.is_none() && !is_paced
    }

    /// When this can be forgotten, if nothing is to be done before.
    pub(super) fn forgettable_at(&self, now: Instant) -> Option<Instant> {
        self.push_at.filter(|at| self.seat.is_none() && *at > now)
    }
}

/// See [the module](self).
#[derive(Debug)]
pub(super) struct Machine {
    config: Config,
    online: bool,
    /// Nobody knows yet whether the hub can be reached.
    is_starting: bool,
    memory: Memory,
    /// The generation id is known.
    life_known: bool,
    /// With what is not kept yet.
    draft: Kept,
    /// Accepted since the push under way was begun; part of `draft.pending`.
    newer: Pending,
    /// As it is on the disk, if it differs or may differ.
    saved: Option<(Kept, Pending)>,
    /// The disk did not take all that the hub told.
    behind: bool,
    /// Told when all is kept.
    after_keep: Vec<asks::Answer>,
    /// Patches in `draft` that are not kept, for who wants to hear of them.
    accepted: Vec<(Bytes, u64)>,
    /// Patches that wait for the first read of a twin that we know nothing of.
    held: VecDeque<Patch>,
    push: Option<Push>,
    reading: Option<Reading>,
    /// Who asked after the read under way was begun, and sees the next one.
    readers: Vec<Get>,
    actions: Vec<Action>,
}

impl Machine {
    pub(super) fn new(config: Config, kept: Option<Kept>, memory: Memory, online: bool) -> Self {
        let draft = kept.unwrap_or_default();
        let mut machine = Self {
            config,
            online,
            is_starting: false,
            memory,
            life_known: false,
            draft,
            newer: Pending::default(),
            saved: None,
            behind: false,
            after_keep: Vec::new(),
            accepted: Vec::new(),
            held: VecDeque::new(),
            push: None,
            reading: None,
            readers: Vec::new(),
            actions: Vec::new(),
        };
        machine.memory.pending = machine.draft.pending.any;
        machine
    }

    /// Which life of the identity it is now: what was kept of another one is dropped.
    pub(super) fn life(&mut self, generation: Option<String>) {
        self.life_known = generation.is_some();
        let Some(now) = generation else { return };
        match &self.draft.generation {
            Some(before) if *before == now => {}
            None if self.draft == Kept::default() => self.draft.generation = Some(now),
            None => self.change().generation = Some(now),
            Some(_) => {
                let pending =
                    if self.draft.pending.any { "what was pending" } else { "nothing pending" };
                let words = format!(
                    "the identity was made anew in the hub: its kept twin is dropped, with {pending}"
                );
                self.draft = Kept { generation: Some(now), ..Kept::default() };
                // There is no way back, not even if this cannot be kept: the other life's patches are not for this one.
                self.saved = Some((self.draft.clone(), Pending::default()));
                self.newer = Pending::default();
                self.push = None;
                self.memory.floor = 0;
                self.not_for_this_life();
                if let Some(seat) = &mut self.memory.seat {
                    seat.told = None;
                }
                self.actions.push(Action::Warn("twin_kept", "other_life", words));
            }
        }
    }

    /// What was asked or answered in the other life is neither kept nor believed: its patches are refused, its reads repeated.
    fn not_for_this_life(&mut self) {
        self.accepted.clear();
        let words = Err("the identity was made anew in the hub".to_owned());
        for answer in std::mem::take(&mut self.after_keep) {
            match answer {
                asks::Answer::Twin(get) if self.online => self.readers.push(get),
                other => self.answer(other, &words),
            }
        }
        if let Some(reading) = self.reading.take() {
            self.readers.extend(reading.waiters);
            self.memory.read_at.get_or_insert(reading.begun);
        }
    }

    pub(super) fn online(&mut self, online: bool) {
        if online && !self.online {
            self.memory.reached(&self.config);
        }
        self.online = online;
        if !online {
            self.answer_readers(|_| true);
            if self.reading.is_none() {
                self.let_held_go();
            }
        }
    }

    /// Whether the first attempt since the start to reach the hub is still under way. What it has come to must be told before, by
    /// [`Machine::online`].
    pub(super) fn starting(&mut self, is_starting: bool) {
        self.is_starting = is_starting;
        if !is_starting && !self.online {
            self.answer_readers(|_| true);
        }
    }

    pub(super) fn is_starting(&self) -> bool {
        self.is_starting
    }

    /// Answers those who wait for a read, without it.
    fn answer_readers(&mut self, mut whom: impl FnMut(&Get) -> bool) {
        for get in self.readers.extract_if(.., |get| whom(get)).collect::<Vec<_>>() {
            self.after_keep_or_now(asks::Answer::Twin(get));
        }
    }

    /// Changes of the client come here.
    pub(super) fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Goes on with what can go on; what is to be kept must be kept first. Gives what is to be done.
    pub(super) fn poll(&mut self, now: Instant) -> Vec<Action> {
        self.memory.pending = self.draft.pending.any;
        if self.online && self.saved.is_none() {
            self.begin_read(now);
            self.begin_push(now);
        }
        if !self.online {
            self.answer_readers(|get| get.at + FIRST_ATTEMPT_MAX <= now);
        }
        std::mem::take(&mut self.actions)
    }

    /// What is to be kept now.
    pub(super) fn to_keep(&self) -> Option<Vec<u8>> {
        self.saved.is_some().then(|| self.draft.to_bytes())
    }

    /// Who wants to be told of accepted patches hears these, before [`Machine::to_keep`].
    pub(super) fn take_accepted(&mut self) -> Vec<(Bytes, u64)> {
        std::mem::take(&mut self.accepted)
    }

    /// It is durable, or it is not: then it is as if nothing had been asked.
    pub(super) fn kept(&mut self, result: Result<(), String>, now: Instant) {
        let saved = self.saved.take();
        self.behind = result.is_err();
        if let (Err(_), Some((saved, newer))) = (&result, saved) {
            let Kept { desired, desired_version, .. } = std::mem::replace(&mut self.draft, saved);
            if self.draft.known {
                // What the hub told stays in force as long as we are.
                (self.draft.desired, self.draft.desired_version) = (desired, desired_version);
            }
            // What the hub told and the disk does not have is read again.
            if self.memory.seat.is_some() {
                self.memory.read_soon(now + BACKOFF_MAX);
            }
            self.newer = if self.push.is_some() { newer } else { Pending::default() };
            if self.draft.pending.any {
                self.memory.push_failures += 1;
                let wait = backoff(self.config.push_every, self.memory.push_failures);
                self.memory.push_at = Some(now + wait);
            }
        }
        // A twin shows every patch of the draft: who was told one of their versions first would see the others go back.
        let mut answers = std::mem::take(&mut self.after_keep);
        answers.sort_by_key(|answer| matches!(answer, asks::Answer::Twin(_)));
        for answer in answers {
            self.answer(answer, &result);
        }
        self.memory.pending = self.draft.pending.any;
    }

    /// When [`Machine::poll`] has something to do if nothing happens before.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if !self.online {
            return self.readers.iter().map(|get| get.at + FIRST_ATTEMPT_MAX).min();
        }
        let read = self.memory.read_at.filter(|_| self.reading.is_none());
        let push = self.memory.pending && self.push.is_none();
        let push = push.then(|| self.memory.push_at.unwrap_or(now));
        [read, push].into_iter().flatten().min()
    }

    /// Nobody waits for anything and nothing is under way: only [`Memory`] need be kept in memory.
    pub(super) fn is_idle(&self) -> bool {
        self.saved.is_none()
            && self.push.is_none()
            && self.reading.is_none()
            && self.asks() == 0
            && self.actions.is_empty()
    }

    /// How many requests wait.
    pub(super) fn asks(&self) -> usize {
        let reading = self.reading.as_ref().map_or(0, |reading| reading.waiters.len());
        self.held.len() + self.after_keep.len() + self.readers.len() + reading
    }

    /// Whether the hub lacks something.
    pub(super) fn has_pending(&self) -> bool {
        self.draft.pending.any || !self.held.is_empty()
    }

    /// Nothing is known of it any more; whoever waits for a document has no use for it.
    pub(super) fn forget(&mut self) {
        let memory = Memory { seat: self.memory.seat, ..Memory::default() };
        let forgotten = Self::new(self.config, None, memory, self.online);
        let (life_known, is_starting) = (self.life_known, self.is_starting);
        *self = Self { life_known, is_starting, ..forgotten };
        if let Some(seat) = &mut self.memory.seat {
            seat.told = None;
        }
    }

    /// The draft, to be changed: what is on the disk is remembered.
    fn change(&mut self) -> &mut Kept {
        if self.saved.is_none() {
            self.saved = Some((self.draft.clone(), self.newer.clone()));
        }
        &mut self.draft
    }

    fn counted(&mut self, event: &'static str, reason: &'static str) {
        self.actions.push(Action::Count(event, reason));
    }
}

/// `first` doubled `failures` times, at most [`BACKOFF_MAX`].
fn backoff(first: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX.max(first))
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
