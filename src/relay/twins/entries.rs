//! Which identities have a task, what waits for it, and what is remembered of the others.
//!
//! Owns: [`Shared`] with the entry of each identity that is connected, has something pending, or has a task. Invariants: an
//! identity has at most one task; what waits for it is bounded; who is not connected and has nothing to do has no entry.
//! Must not know: what a task does.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::machine::{Ask, Memory};
use super::{Config, Generation, Parts, ReportedTo, task};
use crate::cabinet::{Cabinet, Limits};
use crate::clock::SharedClock;
use crate::front::mailbox::{Client, Mailbox, TooMany};
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::upstream::downlinks::Cloud;

/// Requests of one identity that wait; one more is answered 429.
pub(super) const ASKS_MAX: usize = 16;
/// Other events that wait for an identity's task; when there are more the whole twin is read.
const EVENTS_MAX: usize = 64;
/// Pushes, and reads that no client waits for, under way at a time: after an outage thousands have something to say.
const QUIET_MAX: usize = 16;
/// Documents that are read or written at a time.
const DISK_MAX: usize = 4;
/// Bytes of a kept twin: two sections of 32 KB as the hub counts, and what is pending, as JSON.
const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// What an identity's task hears.
#[derive(Debug)]
pub(super) enum Event {
    Arrived { serial: u64, subscribed: bool },
    Subscribed { serial: u64, subscribed: bool },
    Left { serial: u64 },
    Listening,
    Desired(Bytes),
    Ask(Ask),
    Forget,
}

enum State {
    /// No task.
    Parked(Memory),
    /// Wakes the task.
    Running(Arc<Notify>),
}

struct Entry {
    client: Option<(u64, Mailbox)>,
    inbox: VecDeque<Event>,
    /// Events had no room: the whole twin is to be read.
    missed: bool,
    /// Requests that wait at the task.
    asks: usize,
    state: State,
    /// Where it is in [`Entries::due`].
    due: Option<Instant>,
}

impl Entry {
    /// What a client's coming, going and subscribing makes of what waits: of those only the last counts. So a client that
    /// does so without end while its task is held up takes no more room.
    fn make_room(&mut self, event: &Event) {
        match *event {
            Event::Subscribed { serial, .. } => {
                let same =
                    |e: &Event| matches!(*e, Event::Subscribed { serial: s, .. } if s == serial);
                if self.inbox.back().is_some_and(same) {
                    self.inbox.pop_back();
                }
            }
            Event::Arrived { serial, .. } => self.inbox.retain(|waits| match *waits {
                Event::Arrived { serial: s, .. }
                | Event::Subscribed { serial: s, .. }
                | Event::Left { serial: s } => s >= serial,
                _ => true,
            }),
            _ => {}
        }
    }
}

#[derive(Default)]
struct Entries {
    of: HashMap<Identity, Entry>,
    /// Who has something to do, and when, if the hub can be reached.
    due: BTreeSet<(Instant, Identity)>,
}

/// What the calls, the tasks and the conductor share.
pub(super) struct Shared {
    pub(super) cabinet: Arc<Cabinet>,
    pub(super) cloud: Arc<dyn Cloud>,
    pub(super) generation: Generation,
    pub(super) reported: Arc<dyn ReportedTo>,
    pub(super) config: Config,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: SharedClock,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    /// [`QUIET_MAX`].
    pub(super) quiet: Arc<Semaphore>,
    /// [`DISK_MAX`].
    pub(super) disk: Semaphore,
    /// Somebody is due earlier than before.
    pub(super) sooner: Notify,
    entries: Mutex<Entries>,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { folder, cloud, generation, reported, config, metrics, clock, tasks, stop } =
            parts;
        let limits =
            Limits { documents_max: config.documents_max, document_bytes_max: DOCUMENT_BYTES_MAX };
        Self {
            cabinet: Arc::new(Cabinet::new(folder, limits)),
            cloud,
            generation,
            reported,
            config,
            metrics,
            clock,
            tasks,
            stop,
            quiet: Arc::new(Semaphore::new(QUIET_MAX)),
            disk: Semaphore::new(DISK_MAX),
            sooner: Notify::new(),
            entries: Mutex::default(),
        }
    }

    /// Tells how many have something pending, at each scrape.
    pub(super) fn tell_gauges(self: &Arc<Self>) {
        let shared: Weak<Self> = Arc::downgrade(self);
        self.metrics.on_scrape(move |metrics| {
            let Some(shared) = shared.upgrade() else { return };
            let entries = shared.lock();
            let pending = |entry: &&Entry| match &entry.state {
                State::Parked(memory) => memory.pending,
                State::Running(_) => false,
            };
            let count = entries.of.values().filter(pending).count();
            let running = entries.of.values().filter(|e| matches!(e.state, State::Running(_)));
            let running = running.count();
            drop(entries);
            let help = "Identities whose reported properties wait for the hub";
            metrics.set_gauge("twins_pending", help, count as f64);
            metrics.set_gauge("twins_busy", "Identities whose twin is in memory", running as f64);
        });
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn arrived(&self, client: Client) {
        let mut entries = self.lock();
        let entry = entries.entry(&client.identity);
        if entry.client.as_ref().is_none_or(|(serial, _)| *serial < client.serial) {
            entry.client = Some((client.serial, client.mailbox));
        }
    }

    pub(super) fn left(&self, who: &Identity, serial: u64) {
        let mut entries = self.lock();
        if let Some(entry) = entries.of.get_mut(who)
            && entry.client.as_ref().is_some_and(|(seated, _)| *seated == serial)
        {
            entry.client = None;
        }
    }

    /// The way to that very connection.
    pub(super) fn mailbox(&self, who: &Identity, serial: u64) -> Option<Mailbox> {
        let entries = self.lock();
        let (seated, mailbox) = entries.of.get(who)?.client.as_ref()?;
        (*seated == serial).then(|| mailbox.clone())
    }

    pub(super) fn ask(self: &Arc<Self>, who: &Identity, ask: Ask) -> Result<(), TooMany> {
        let mut entries = self.lock();
        let entry = entries.entry(who);
        let waiting = entry.inbox.iter().filter(|event| matches!(event, Event::Ask(_))).count();
        if entry.asks + waiting >= ASKS_MAX {
            return Err(TooMany);
        }
        self.put(&mut entries, who, Event::Ask(ask));
        Ok(())
    }

    pub(super) fn post(self: &Arc<Self>, who: &Identity, event: Event) {
        let now = self.clock.monotonic();
        let mut entries = self.lock();
        let entry = entries.entry(who);
        if let State::Parked(memory) = &mut entry.state {
            // What needs no document starts no task.
            let changed = match event {
                Event::Arrived { serial, subscribed } => {
                    memory.arrived(serial, subscribed);
                    None
                }
                Event::Subscribed { serial, subscribed } => {
                    memory.subscribed(serial, subscribed);
                    None
                }
                Event::Left { serial } => {
                    memory.left(serial);
                    None
                }
                Event::Listening => {
                    memory.listening(&self.config, now);
                    None
                }
                other => Some(other),
            };
            let Some(event) = changed else {
                return self.settle(&mut entries, who, now);
            };
            return self.put(&mut entries, who, event);
        }
        let is_small = matches!(event, Event::Desired(_) | Event::Listening);
        if is_small && entry.inbox.len() >= EVENTS_MAX {
            entry.missed = true;
            self.metrics.counted("twin_desired", "overflow");
            return;
        }
        entry.make_room(&event);
        self.put(&mut entries, who, event);
    }

    fn put(self: &Arc<Self>, entries: &mut Entries, who: &Identity, event: Event) {
        entries.entry(who).inbox.push_back(event);
        self.start(entries, who, None);
    }

    /// Starts the task, or wakes it.
    fn start(
        self: &Arc<Self>,
        entries: &mut Entries,
        who: &Identity,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        entries.unschedule(who);
        let entry = entries.entry(who);
        match &mut entry.state {
            State::Running(wake) => wake.notify_one(),
            State::Parked(memory) => {
                let (memory, wake) = (std::mem::take(memory), Arc::new(Notify::new()));
                entry.state = State::Running(Arc::clone(&wake));
                let running = task::run(Arc::clone(self), who.clone(), memory, wake, permit);
                self.tasks.spawn(running);
            }
        }
    }

    /// What waits for the task, and whether something had no room.
    pub(super) fn take_inbox(&self, who: &Identity) -> (VecDeque<Event>, bool) {
        let mut entries = self.lock();
        let entry = entries.entry(who);
        // Until the task tells how many it has of them, all are counted as waiting.
        entry.asks += entry.inbox.iter().filter(|event| matches!(event, Event::Ask(_))).count();
        (std::mem::take(&mut entry.inbox), std::mem::take(&mut entry.missed))
    }

    pub(super) fn set_asks(&self, who: &Identity, asks: usize) {
        self.lock().entry(who).asks = asks;
    }

    /// Ends the task, unless something waits for it.
    pub(super) fn park(&self, who: &Identity, memory: Memory) -> bool {
        let now = self.clock.monotonic();
        let mut entries = self.lock();
        let entry = entries.entry(who);
        if !entry.inbox.is_empty() || entry.missed {
            return false;
        }
        entry.asks = 0;
        entry.state = State::Parked(memory);
        self.settle(&mut entries, who, now);
        true
    }

    /// Schedules one without a task, or forgets it.
    fn settle(&self, entries: &mut Entries, who: &Identity, now: Instant) {
        entries.unschedule(who);
        let entry = entries.entry(who);
        let State::Parked(memory) = &entry.state else { return };
        if memory.is_empty(now) && entry.client.is_none() {
            entries.of.remove(who);
            return;
        }
        if let Some(at) = memory.due(now).or_else(|| memory.forgettable_at(now)) {
            entry.due = Some(at);
            let is_first = entries.due.first().is_none_or(|(first, _)| at < *first);
            entries.due.insert((at, who.clone()));
            if is_first {
                self.sooner.notify_one();
            }
        }
    }

    /// Something of `who` is pending from before.
    pub(super) fn remember_pending(&self, who: &Identity) {
        let now = self.clock.monotonic();
        let mut entries = self.lock();
        let entry = entries.entry(who);
        match &mut entry.state {
            State::Parked(memory) => memory.pending = true,
            // It has seen for itself.
            State::Running(_) => return,
        }
        self.settle(&mut entries, who, now);
    }

    /// The hub can be reached again: back-offs end.
    pub(super) fn reached(&self) {
        let now = self.clock.monotonic();
        let mut entries = self.lock();
        let parked = |(who, entry): (&Identity, &mut Entry)| match &mut entry.state {
            State::Parked(memory) if memory.due(now).is_some() => {
                memory.reached(&self.config);
                Some(who.clone())
            }
            _ => None,
        };
        let parked: Vec<_> = entries.of.iter_mut().filter_map(parked).collect();
        for who in &parked {
            self.settle(&mut entries, who, now);
        }
    }

    /// Starts the task of who is due first. Gives the permit back, with when the next one is due, if nobody is now.
    pub(super) fn start_due(
        self: &Arc<Self>,
        now: Instant,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), Option<Instant>> {
        let mut entries = self.lock();
        match entries.due.first().cloned() {
            Some((at, who)) if at <= now => {
                self.start(&mut entries, &who, Some(permit));
                Ok(())
            }
            later => Err(later.map(|(at, _)| at)),
        }
    }

    /// Events that wait for its task.
    #[cfg(test)]
    pub(super) fn waiting(&self, who: &Identity) -> usize {
        self.lock().of.get(who).map_or(0, |entry| entry.inbox.len())
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> (usize, usize) {
        let entries = self.lock();
        let running = entries.of.values().filter(|e| matches!(e.state, State::Running(_)));
        (entries.of.len(), running.count())
    }
}

impl Entries {
    fn entry(&mut self, who: &Identity) -> &mut Entry {
        self.of.entry(who.clone()).or_insert_with(|| Entry {
            client: None,
            inbox: VecDeque::new(),
            missed: false,
            asks: 0,
            state: State::Parked(Memory::default()),
            due: None,
        })
    }

    fn unschedule(&mut self, who: &Identity) {
        if let Some(at) = self.of.get_mut(who).and_then(|entry| entry.due.take()) {
            self.due.remove(&(at, who.clone()));
        }
    }
}
