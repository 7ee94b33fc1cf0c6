//! The door: drives the machines of [`super::limits`] for the listener and the connections.
//!
//! Owns: how many connections are open, the limits' state behind one lock (held for microseconds, never over an await), and
//! the turns of handshakes. Every open connection has a [`Pass`]; dropping it gives back what it took.
//! Invariants: at most `connections_max` connections, and [`LEAVING_MAX`] that were asked to make room and are about to go;
//! a handshake computes only in its turn, so that one thread at least is always left to those who are in.
//! Must not know: TLS, MQTT.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, PollSemaphore};
use tracing::debug;

use super::limits::bucket::Pace;
use super::limits::conduct::{Conducts, Cost, TurnedAway};
use super::limits::log_ins::{LogIns, TooOften};
use super::limits::pressure::Pressure;
use super::limits::strangers::{Room, Serial, Strangers};
use super::limits::vouched::Vouched;
use super::limits::{Config, Source};
use super::unfinished::{Place, Unfinished};
use crate::clock::SharedClock;
use crate::identity::{DeviceId, Identity};
use crate::metrics::Metrics;

/// Connections beyond the limit that were asked to make room: they end at once, or within the second for a farewell. There
/// are file descriptors for them (64 are kept from devices).
const LEAVING_MAX: usize = 16;

/// See [the module](self).
pub(super) struct Door {
    connections_max: usize,
    packets_per_sec: u32,
    turns: Arc<Semaphore>,
    unfinished: Arc<Unfinished>,
    state: Mutex<State>,
    clock: SharedClock,
    metrics: Arc<Metrics>,
}

struct State {
    open: usize,
    conducts: Conducts,
    log_ins: LogIns,
    vouched: Vouched,
    strangers: Strangers,
    pressure: Pressure,
    /// How each stranger is asked to make room.
    leave: HashMap<Serial, CancellationToken>,
}

/// Why a connection does not come in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// Its address only fails.
    Banned(Duration),
    /// Its address fails more than it succeeds.
    Slowed(Duration),
    /// As many as may be are open, and nobody makes room.
    Full(usize),
}

impl Door {
    pub(super) fn new(
        config: &Config,
        connections_max: usize,
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let state = State {
            open: 0,
            conducts: Conducts::new(config),
            log_ins: LogIns::new(config.log_ins_per_min),
            vouched: Vouched::new(config.log_ins_per_min),
            strangers: Strangers::default(),
            pressure: Pressure::default(),
            leave: HashMap::new(),
        };
        let door = Arc::new(Self {
            connections_max,
            packets_per_sec: config.packets_per_sec,
            turns: Arc::new(Semaphore::new(config.handshake_threads.max(1))),
            unfinished: Unfinished::new(Arc::clone(&metrics)),
            state: Mutex::new(state),
            clock,
            metrics,
        });
        let gauges = Arc::downgrade(&door);
        door.metrics.on_scrape(move |metrics| {
            let Some(door) = gauges.upgrade() else { return };
            let (open, strangers, banned) = {
                let state = door.lock();
                let banned = state.conducts.banned(door.clock.monotonic());
                (state.open, state.strangers.len(), banned)
            };
            let gauge = |name, help, count: usize| {
                metrics.set_gauge(name, help, u32::try_from(count).map_or(f64::MAX, f64::from));
            };
            gauge("connections_open", "TCP connections of devices, handshakes included", open);
            gauge("connections_not_logged_in", "those of them that have not logged in", strangers);
            let bytes = door.unfinished.taken_bytes();
            gauge(
                "unfinished_packet_bytes",
                "bytes kept for packets that have come in part",
                bytes,
            );
            gauge("addresses_banned", "addresses that are turned away now for a while", banned);
        });
        door
    }

    /// Lets a connection in, or not. Whoever makes room for it is asked to leave.
    pub(super) fn enter(
        self: &Arc<Self>,
        peer: SocketAddr,
        stop: &CancellationToken,
    ) -> Result<Pass, Closed> {
        let (source, now) = (Source::of(peer.ip()), self.clock.monotonic());
        let mut state = self.lock();
        let pressed = state.is_pressed(self.connections_max, now);
        state.conducts.judge(source, pressed, now).map_err(|away| match away {
            TurnedAway::Banned(left) => Closed::Banned(left),
            TurnedAway::Slowed(wait) => Closed::Slowed(wait),
        })?;
        if state.open >= self.connections_max + LEAVING_MAX {
            return Err(Closed::Full(self.connections_max));
        }
        if state.open >= self.connections_max {
            let Room::By(serial, from) = state.strangers.make_room(source, now) else {
                return Err(Closed::Full(self.connections_max));
            };
            if let Some(leave) = state.leave.remove(&serial) {
                leave.cancel();
            }
            if from == source {
                // It pushes out its own: that is no device's way.
                self.count_failure(&mut state, source, Cost::Handshake);
            }
        }
        state.open += 1;
        let serial = state.strangers.enter(source, now);
        let leave = stop.child_token();
        state.leave.insert(serial, leave.clone());
        Ok(Pass { door: Arc::clone(self), source, peer, serial, leave, identity: None })
    }

    fn count_failure(&self, state: &mut State, source: Source, cost: Cost) {
        let now = self.clock.monotonic();
        let pressed = state.is_pressed(self.connections_max, now);
        if let Some(ban) = state.conducts.failed(source, cost, pressed, now) {
            self.metrics.counted("address_banned", "failures");
            debug!(%source, "turned away for {ban:?}: nothing but failures came from it");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each machine is whole after each call, also if another call panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether turning somebody away saves anything: handshakes have to wait, or strangers hold more than half of the places
    /// that those who are in leave.
    fn is_pressed(&mut self, connections_max: usize, now: Instant) -> bool {
        let strangers = self.strangers.len();
        let clients = self.open.saturating_sub(strangers);
        self.pressure.is_on(now) || strangers * 2 > connections_max.saturating_sub(clients)
    }
}

/// What a connection holds while it is open.
pub(super) struct Pass {
    door: Arc<Door>,
    source: Source,
    peer: SocketAddr,
    serial: Serial,
    leave: CancellationToken,
    /// Once it has logged in.
    identity: Option<Identity>,
}

impl Pass {
    /// Cancelled when it is to make room, and at a stop.
    pub(super) fn leave(&self) -> &CancellationToken {
        &self.leave
    }

    /// The handshake or the log-in failed.
    pub(super) fn failed(&self, cost: Cost) {
        self.door.count_failure(&mut self.door.lock(), self.source, cost);
    }

    /// What it counts for that it is refused, although a CA of the bundle says that it is `device`.
    pub(super) fn refused_though_vouched(&self, device: &DeviceId) -> Cost {
        let now = self.door.clock.monotonic();
        self.door.lock().vouched.refused(device, now)
    }

    /// It has proved that it is `identity`: it makes room for nobody any more.
    pub(super) fn log_in(&mut self, identity: &Identity) -> Result<(), TooOften> {
        let now = self.door.clock.monotonic();
        let mut state = self.door.lock();
        if let Err(too_often) = state.log_ins.enter(identity, self.peer, now) {
            self.door.count_failure(&mut state, self.source, Cost::Handshake);
            return Err(too_often);
        }
        state.strangers.leave(self.source, self.serial);
        state.leave.remove(&self.serial);
        state.conducts.admitted(self.source, now);
        drop(state);
        self.identity = Some(identity.clone());
        Ok(())
    }

    /// Where its packets wait until they are whole.
    pub(super) fn place(&self) -> Place {
        self.door.unfinished.place()
    }

    /// At what pace its packets are served.
    pub(super) fn pace(&self) -> Pace {
        Pace::new(self.door.packets_per_sec, self.door.clock.monotonic())
    }

    /// The right to compute, until dropped: not to be held while waiting for anybody.
    pub(super) async fn turn(&self) -> OwnedSemaphorePermit {
        let turns = Arc::clone(&self.door.turns);
        if let Ok(turn) = Arc::clone(&turns).try_acquire_owned() {
            return turn;
        }
        let _waiting = Waiting::new(&self.door);
        turns.acquire_owned().await.expect("turns are never closed")
    }

    /// Runs `work`, each of its steps in a turn. While it waits for its peer it has none.
    pub(super) async fn in_turns<F: Future + Unpin>(&self, mut work: F) -> F::Output {
        let mut turns = PollSemaphore::new(Arc::clone(&self.door.turns));
        let mut waiting = None;
        poll_fn(move |cx| {
            let Poll::Ready(turn) = turns.poll_acquire(cx) else {
                waiting.get_or_insert_with(|| Waiting::new(&self.door));
                return Poll::Pending;
            };
            waiting = None;
            let turn = turn.expect("turns are never closed");
            let step = Pin::new(&mut work).poll(cx);
            drop(turn);
            step
        })
        .await
    }
}

/// Counts one that waits for its turn.
struct Waiting<'a>(&'a Door);

impl<'a> Waiting<'a> {
    fn new(door: &'a Door) -> Self {
        door.lock().pressure.waits(door.clock.monotonic());
        Self(door)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().pressure.waited(self.0.clock.monotonic());
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.door.lock();
        state.open -= 1;
        match &self.identity {
            Some(identity) => {
                state.log_ins.left(identity);
                state.conducts.left(self.source, self.door.clock.monotonic());
            }
            None => {
                state.strangers.leave(self.source, self.serial);
                state.leave.remove(&self.serial);
            }
        }
    }
}

#[cfg(test)]
mod tests;
