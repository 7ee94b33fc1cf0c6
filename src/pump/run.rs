//! The pump's loop: one task, no spawns. Everything that takes time is a future in one set; each ends in an [`Event`].
//!
//! Owns: [`Running`], all state of a running pump, and the order of its steps: fire timers, get stuck lanes out of the
//! way, start deliveries and reads, settle, then wait for the next cause.
//! Invariant: the loop waits unless something has changed; every start is bounded by a limit of the configuration.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::deadletter::DeadLetters;
use super::expiry::Sweeps;
use super::lane::Lane;
use super::log::{Appended, Log, LogError, Logs};
use super::newer::Barrier;
use super::parked::{Name, Parked};
use super::patience::open_patiently;
use super::place::{Item, Place};
use super::precedence::Standing;
use super::refill::Refill;
use super::timers::Timers;
use super::window::Window;
use super::{Config, Pump};
use crate::clock::SharedClock;
use crate::deliver::{Deliver, Outcome};
use crate::identity::Identity;
use crate::message::{DecodeError, Message};
use crate::metrics::{InputName, Metrics, priority_label};
use crate::store::{Chunk, Offset, QueueId, Record};

/// Most events taken in before the loop starts new work and settles again.
const EVENTS_PER_TURN: usize = 256;

/// Whose delivery, burial or timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    /// A sender's lane of the main queue.
    Lane(Identity),
    /// A parked sender.
    Parked(Name),
    /// Nobody's: a record that is no message.
    Stray,
}

/// Why a running pump ends by itself.
#[derive(Debug)]
pub(super) enum End {
    /// The store is gone.
    Store(LogError),
    /// This record is a newer program's.
    Newer { queue: QueueId, offset: Offset, source: DecodeError },
}

impl From<LogError> for End {
    fn from(error: LogError) -> Self {
        Self::Store(error)
    }
}

/// A record on its way to the dead letters, and the message in it, if it is one.
pub(super) struct Burial {
    pub(super) place: Place,
    pub(super) message: Option<Message>,
    pub(super) reason: &'static str,
    pub(super) detail: String,
}

/// Something that took time has ended.
pub(super) enum Event {
    Read(Result<Chunk, LogError>),
    Sent { who: Who, sender: Identity, batch: Vec<Message>, outcome: Outcome, took: Duration },
    Buried { who: Who, burial: Burial, result: Result<(), LogError> },
    Moved { name: Name, log: Option<(Arc<dyn Log>, Offset)>, appended: Appended },

    SideRead { name: Name, chunk: Result<Chunk, LogError> },
    Deleted { name: Name, result: Result<bool, LogError> },
}

/// A running pump.
pub(super) struct Running {
    pub(super) logs: Arc<dyn Logs>,
    pub(super) queue: QueueId,
    pub(super) endpoint: Arc<dyn Deliver>,
    /// What metrics name it by; `None` = the upstream.
    pub(super) input: Option<Arc<InputName>>,
    pub(super) dead: Arc<dyn DeadLetters>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: SharedClock,
    pub(super) config: Config,
    pub(super) priority: &'static str,
    pub(super) rng: StdRng,
    pub(super) standing: Standing,
    pub(super) log: Arc<dyn Log>,
    pub(super) durable_end: watch::Receiver<Offset>,
    pub(super) window: Window<Option<Identity>>,
    /// What this pump knows to be settled, by itself or by the store.
    pub(super) settled: Offset,
    pub(super) reading: bool,
    /// When the last read was started.
    pub(super) read_at: Instant,
    pub(super) refill: Refill,
    /// When the last read or delivery was started.
    pub(super) started_at: Option<Instant>,
    pub(super) sweeps: Sweeps,
    /// Nothing is read from this record on.
    pub(super) barrier: Option<Barrier>,
    pub(super) lanes: HashMap<Identity, Lane>,
    pub(super) ring: VecDeque<Identity>,
    pub(super) sending: usize,
    pub(super) parked: HashMap<Name, Parked>,
    pub(super) parked_ring: VecDeque<Name>,
    pub(super) parked_active: usize,
    /// So many of the active ones hold the lower ranks up.
    pub(super) parked_holding: usize,
    pub(super) timers: Timers,
    jobs: FuturesUnordered<BoxFuture<'static, Event>>,
    /// While the endpoint is away: resolves when it can be tried again.
    pub(super) ready: Option<BoxFuture<'static, ()>>,
    /// By its own choice: the endpoint is not asked yet.
    pub(super) pausing: bool,
    /// How often the endpoint was away since the last delivery.
    pub(super) offline_streak: u32,
    pub(super) delivered_at: Option<Instant>,
    /// The slowest of the deliveries that got through lately, and when it did.
    pub(super) slow: Option<(Duration, Instant)>,
    pub(super) stopping: bool,
    stop_at: Option<Instant>,
}

/// Runs `pump` until `stop` or until its store is gone.
pub(super) async fn run(pump: Pump, stop: CancellationToken) -> Result<(), End> {
    let mut pump = pump;
    let log = open_patiently(&*pump.logs, &pump.queue, &mut pump.standing).await?;
    let mut running = Running::new(pump, log);
    for side in running.logs.side_queues(&running.queue) {
        running.adopt(side);
    }
    running.await_endpoint(Duration::ZERO);
    loop {
        running.turn()?;
        if let Some(end) = running.barred() {
            return Err(end);
        }
        if running.has_ended() {
            return Ok(());
        }
        running.wait(&stop).await?;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.log.take_over(Offset::default());
    }
}

impl Running {
    fn new(pump: Pump, log: Arc<dyn Log>) -> Self {
        let Pump { logs, queue, endpoint, input, standing, dead, metrics, clock, config } = pump;
        let settled = log.settled();
        let clock_now = clock.monotonic();
        Self {
            logs,
            priority: priority_label(queue.priority),
            queue,
            endpoint,
            input,
            standing,
            dead,
            metrics,
            clock,
            rng: StdRng::from_os_rng(),
            durable_end: log.durable_end(),
            window: Window::new(settled, config.window_messages_max, config.window_bytes_max),
            config,
            log,
            settled,
            reading: false,
            read_at: clock_now,
            refill: Refill::default(),
            started_at: None,
            sweeps: Sweeps::default(),
            barrier: None,
            lanes: HashMap::new(),
            ring: VecDeque::new(),
            sending: 0,
            parked: HashMap::new(),
            parked_ring: VecDeque::new(),
            parked_active: 0,
            parked_holding: 0,
            timers: Timers::default(),
            jobs: FuturesUnordered::new(),
            ready: None,
            pausing: false,
            offline_streak: 0,
            delivered_at: None,
            slow: None,
            stopping: false,
            stop_at: None,
        }
    }

    pub(super) fn start(&mut self, job: impl Future<Output = Event> + Send + 'static) {
        self.jobs.push(job.boxed());
    }

    /// No deliveries until the endpoint, asked after `pause`, can be tried.
    pub(super) fn await_endpoint(&mut self, pause: Duration) {
        let endpoint = Arc::clone(&self.endpoint);
        self.pausing = !pause.is_zero();
        self.ready = Some(Box::pin(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            endpoint.ready().await;
        }));
    }

    /// Starts all that can be started now, and settles.
    fn turn(&mut self) -> Result<(), End> {
        let now = self.clock.monotonic();
        while let Some(who) = self.timers.pop_due(now) {
            self.on_timer(&who, now);
        }
        if !self.stopping {
            self.sweep(now);
            self.unblock_window(now);
            self.take_in(now)?;
            self.start_parked(now);
            self.start_lanes(now);
            self.start_read(now);
        }
        self.declare(now);
        let below = self.window.settled();
        if below > self.settled {
            self.settled = below;
            self.log.settle(below);
        }
        Ok(())
    }

    fn on_timer(&mut self, who: &Who, now: Instant) {
        match who {
            Who::Lane(sender) => {
                if self.lanes.get_mut(sender).is_some_and(|lane| lane.wake(now)) {
                    self.enqueue(sender);
                } else {
                    self.consider_parking(sender, now);
                }
            }
            Who::Parked(name) => self.on_parked_timer(name, now),
            Who::Stray => {}
        }
    }

    /// If the window is full, the lane that holds it may have to get out of the way.
    fn unblock_window(&mut self, now: Instant) {
        if self.window.room().is_none()
            && let Some(Some(head)) = self.window.head()
        {
            let head = head.clone();
            self.consider_parking(&head, now);
        }
    }

    /// Round robin over the lanes that have something to send and may.
    fn start_lanes(&mut self, now: Instant) {
        while self.sending < self.config.lanes_max && self.may_send() {
            let Some(sender) = self.ring.pop_front() else {
                break;
            };
            let gone = self.log.settled();
            let Some(mut lane) = self.lanes.get_mut(&sender) else {
                continue;
            };
            if lane.may_have_expired(now, gone) {
                self.expire_lane(&sender, now);
                let Some(left) = self.lanes.get_mut(&sender) else {
                    continue;
                };
                lane = left;
            }
            lane.queued = false;
            if let Some(burial) = lane.take_condemned() {
                self.start_burial(Who::Lane(sender), burial);
            } else if lane.wants_turn() {
                let batch = lane.take_batch(now, &self.config);
                self.sending += 1;
                self.started_at = Some(now);
                self.start_delivery(Who::Lane(sender.clone()), sender, batch);
            }
        }
    }

    /// Gives `sender`'s lane a place at the end of the ring if it has something to send, or forgets it if it is empty.
    pub(super) fn enqueue(&mut self, sender: &Identity) {
        let Some(lane) = self.lanes.get_mut(sender) else {
            return;
        };
        if lane.wants_turn() && !lane.queued {
            lane.queued = true;
            self.ring.push_back(sender.clone());
        } else if lane.is_empty() {
            self.lanes.remove(sender);
        }
    }

    /// One record enters the window. Gives the parked sender that now holds it, if there is one. `text` is room for
    /// formatting, `before` the sender of the record before.
    pub(super) fn admit(
        &mut self,
        record: Record,
        text: &mut String,
        before: &mut Option<Identity>,
        now: Instant,
    ) -> Result<Option<Name>, End> {
        let (offset, bytes) = (record.offset, record.payload.len());
        if offset < self.window.next() {
            // The store has removed it while it was being read.
            return Ok(None);
        }
        let place = Place::from(record);
        let message = match Message::decode_after(place.stored.clone(), before.as_ref()) {
            Ok(message) => message,
            Err(e) => {
                self.window.push(offset, bytes, None);
                self.bury_damaged(Who::Stray, &self.queue.clone(), place, e)?;
                return Ok(None);
            }
        };
        let sender = message.source.sender.clone();
        before.replace(sender.clone());
        self.window.push(offset, bytes, Some(sender.clone()));
        if self.ends_at_once(&place, &message, now) {
            return Ok(None);
        }
        if !self.parked.is_empty() {
            text.clear();
            write!(text, "{sender}").expect("writing to a String does not fail");
            if let Some(parked) = self.parked.get_mut(text.as_str()) {
                parked.hold(place);
                return Ok(Some(parked.name()));
            }
        }
        let lane = match self.lanes.get_mut(&sender) {
            Some(lane) => lane,
            None => self.lanes.entry(sender.clone()).or_insert_with(Lane::new),
        };
        lane.push(Item { place, message });
        if lane.wants_turn() && !lane.queued {
            lane.queued = true;
            self.ring.push_back(sender);
        }
        Ok(None)
    }

    fn on_event(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Read(chunk) => self.on_read(chunk?),
            Event::Sent { who, sender, batch, outcome, took } => {
                self.on_sent(&who, &sender, batch, outcome, took);
            }
            Event::Buried { who, burial, result } => self.on_buried(&who, burial, result)?,
            Event::Moved { name, log, appended } => self.on_moved(&name, log, appended)?,
            Event::SideRead { name, chunk } => self.on_side_read(&name, chunk)?,
            Event::Deleted { name, result } => self.on_deleted(&name, result)?,
        }
        Ok(())
    }

    /// When something has to happen without any other cause.
    fn deadline(&self) -> Option<Instant> {
        if self.stopping {
            return self.stop_at;
        }
        let now = self.clock.monotonic();
        let head = self.window.head().filter(|_| self.window.room().is_none());
        let stuck = head
            .and_then(|sender| self.lanes.get(sender.as_ref()?)?.sending_since())
            .map(|since| since + self.pending_max(now))
            // Once past, the head was judged; only an answer changes anything.
            .filter(|at| *at > now)
            // What was usual lately is not for ever.
            .map(|at| at.min(self.pace_ends(now).unwrap_or(at)));
        let causes = [
            self.timers.next(),
            self.sweeps.due(),
            self.releases_at(now),
            stuck,
            self.refills_at(now),
        ];
        causes.into_iter().flatten().min()
    }

    fn has_ended(&self) -> bool {
        let now = self.clock.monotonic();
        self.stopping && (self.jobs.is_empty() || self.stop_at.is_some_and(|at| at <= now))
    }

    /// Waits for a cause to go on.
    async fn wait(&mut self, stop: &CancellationToken) -> Result<(), End> {
        let deadline = self.deadline();
        let may_read = self.may_read(self.clock.monotonic());
        let is_held_up = self.is_held_up();
        tokio::select! {
            biased;
            () = stop.cancelled(), if !self.stopping => {
                self.stopping = true;
                self.stop_at = Some(self.clock.monotonic() + self.config.stop_grace);
            }
            Some(event) = self.jobs.next(), if !self.jobs.is_empty() => {
                self.on_event(event)?;
                for _ in 1..EVENTS_PER_TURN {
                    let Some(Some(event)) = self.jobs.next().now_or_never() else { break };
                    self.on_event(event)?;
                }
            }
            () = until_ready(&mut self.ready), if self.ready.is_some() => {
                (self.ready, self.pausing) = (None, false);
                self.on_ready();
            }
            () = self.standing.turn(), if is_held_up => {}
            changed = self.durable_end.changed(), if may_read => {
                changed.map_err(|_| LogError::Gone("the queue is closed".to_owned()))?;
            }
            () = sleep_until(deadline), if deadline.is_some() => {}
        }
        Ok(())
    }
}

async fn until_ready(ready: &mut Option<BoxFuture<'static, ()>>) {
    if let Some(ready) = ready {
        ready.await;
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    if let Some(at) = deadline {
        tokio::time::sleep_until(at.into()).await;
    }
}
