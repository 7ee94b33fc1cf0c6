//! What the fleet tells its devices, and what they tell it: atomics, and histograms in a few shards.
//!
//! A device looks at its orders once per wake-up and locks its shard once per wake-up, never per message. Must not
//! know: connections.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::task::AtomicWaker;

use super::histogram::Histogram;
use super::window::Schedule;
use super::{Conduct, Load, Pace};

/// Enough that two workers seldom meet; few, as an open loop's histograms take some KB each.
const SHARDS: usize = 8;

/// No limit.
const UNLIMITED: u64 = u64::MAX;

/// What some devices measured since the last look.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) latency: Histogram,
    pub(crate) late: Histogram,
    pub(crate) held: u64,
}

/// Shared by a fleet and its devices.
pub(super) struct Orders {
    pub(super) load: Load,
    address: Mutex<SocketAddr>,
    /// 0: not started.
    start_nanos: AtomicU64,
    limit: AtomicU64,
    finishing: AtomicBool,
    pings: AtomicU64,
    wakers: Vec<AtomicWaker>,
    measured: [Mutex<Measured>; SHARDS],
    reconnects: AtomicU64,
    resent: AtomicU64,
    out_of_order: AtomicU64,
    unknown: AtomicU64,
    last_error: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Orders {
    pub(super) fn new(load: Load, to: SocketAddr) -> Self {
        Self {
            load,
            address: Mutex::new(to),
            start_nanos: AtomicU64::new(0),
            limit: AtomicU64::new(UNLIMITED),
            finishing: AtomicBool::new(false),
            pings: AtomicU64::new(0),
            wakers: std::iter::repeat_with(AtomicWaker::new).take(load.devices).collect(),
            measured: Default::default(),
            reconnects: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            out_of_order: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            last_error: Mutex::default(),
        }
    }

    fn wake_all(&self) {
        self.wakers.iter().for_each(AtomicWaker::wake);
    }

    // The fleet's side.

    pub(super) fn start(&self, at_nanos: u64) {
        assert!(!self.finishing(), "a fleet that finished does not start again: connect a new one");
        self.start_nanos.store(at_nanos, Ordering::Release);
        self.wake_all();
    }

    pub(super) fn set_limit(&self, messages: u64) {
        self.limit.store(messages, Ordering::Release);
        self.wake_all();
    }

    pub(super) fn finish(&self) {
        self.finishing.store(true, Ordering::Release);
        self.wake_all();
    }

    pub(super) fn ping(&self) {
        self.pings.fetch_add(1, Ordering::Release);
        self.wake_all();
    }

    pub(super) fn redirect(&self, to: SocketAddr) {
        *lock(&self.address) = to;
    }

    /// Takes what was measured since the last time.
    pub(super) fn take_measured(&self) -> Measured {
        let mut all = Measured::default();
        for shard in &self.measured {
            let part = std::mem::take(&mut *lock(shard));
            all.latency.merge(&part.latency);
            all.late.merge(&part.late);
            all.held += part.held;
        }
        all
    }

    pub(super) fn conduct(&self) -> Conduct {
        Conduct {
            reconnects: self.reconnects.load(Ordering::Relaxed),
            resent: self.resent.load(Ordering::Relaxed),
            out_of_order: self.out_of_order.load(Ordering::Relaxed),
            unknown: self.unknown.load(Ordering::Relaxed),
            last_error: lock(&self.last_error).clone(),
        }
    }

    // A device's side.

    pub(super) fn waker(&self, device: usize) -> &AtomicWaker {
        &self.wakers[device]
    }

    pub(super) fn address(&self) -> SocketAddr {
        *lock(&self.address)
    }

    pub(super) fn finishing(&self) -> bool {
        self.finishing.load(Ordering::Acquire)
    }

    pub(super) fn pings(&self) -> u64 {
        self.pings.load(Ordering::Acquire)
    }

    /// The highest number that `device` may send, given what it has sent: with a limit its share, also while
    /// finishing.
    pub(super) fn allowed(&self, device: usize, sent: u64) -> u64 {
        let (limit, all) = (self.limit.load(Ordering::Acquire), self.load.devices as u64);
        if self.start_nanos.load(Ordering::Acquire) == 0 || limit == UNLIMITED && self.finishing() {
            return sent;
        }
        if limit == UNLIMITED {
            return limit;
        }
        // The first ones take what does not divide.
        (limit / all + u64::from((device as u64) < limit % all)).max(sent)
    }

    /// When an open-loop device sends. `None`: closed loop, or not started.
    pub(super) fn schedule(&self, device: usize) -> Option<Schedule> {
        let Pace::Open { per_second, .. } = self.load.pace else { return None };
        let start = self.start_nanos.load(Ordering::Acquire);
        (start != 0).then(|| Schedule::new(start, per_second, device, self.load.devices))
    }

    pub(super) fn measured(&self, device: usize) -> MutexGuard<'_, Measured> {
        lock(&self.measured[device % SHARDS])
    }

    pub(super) fn broke(&self, why: &std::io::Error) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
        *lock(&self.last_error) = Some(why.to_string());
    }

    pub(super) fn resent(&self, count: usize) {
        self.resent.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn out_of_order(&self) {
        self.out_of_order.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }
}
