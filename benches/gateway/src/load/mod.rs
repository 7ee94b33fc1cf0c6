//! The load generator: devices with their own MQTT 3.1.1 codec over TLS, never the gateway's.
//!
//! A message's body begins with [`Stamp`] (20 bytes), then filling: the sinks count by it.
//!
//! # What a figure of this instrument means
//!
//! - **Closed loop**: a device has `window` messages under way and sends as soon as acknowledgements make room; all
//!   that a wake-up allows goes out in one write. Latency counts from that write.
//! - **Open loop**: message `n` of a device is *due* at a time that was fixed at the start, and its latency counts from
//!   then on. A window that is full, a connection that broke, a peer that stalls: they delay sending, not the clock, so
//!   that no wait is left out (no coordinated omission).
//! - **The instrument's own error** is inside the latency, as it is for any client: how late a device was woken
//!   by the timer, and how late it was woken by the PUBACK. The first is measured for each message ([`Sample::late`]:
//!   from the due time, or from when the window had room again if that was later, to the write); the second cannot be
//!   told apart here, but the null broker's latency (`floor`) contains both and little else.
//! - tokio's timers tick in milliseconds, which would be most of a latency of 0.3 ms. So each device of an open loop has
//!   a timerfd of its own, armed for the absolute time of the next message: no timer slack, and the worker that waits
//!   in epoll is woken by the interrupt itself (a pacing thread would wake a worker through another thread). It costs a
//!   system call a message; at rates where that matters, several messages are due at each wake-up and share it.
//! - Order of PUBACKs (MQTT-4.6.0-2) and acknowledgements of nothing are counted, see [`Conduct`].
//! - A loss is judged by the [`Ledger`]s: `acked` is the unbroken run of acknowledged messages, so an acknowledgement that
//!   overtook another counts only when the other came.
//!
//! # What it costs
//!
//! It shares the machine with the process under test. So: a task per device, one wake-up for all PUBACKs that are there
//! and one write for all that they allow; packets laid out once and patched ([`frames`]); no allocation and no lock per
//! message. Its own ceiling is what it reaches against the null broker: report both beside each other.

pub(crate) mod codec;
mod connect;
mod device;
mod flood;
mod frames;
mod histogram;
mod orders;
mod timer;
mod window;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

pub(crate) use self::connect::{connects, silent};
pub(crate) use self::flood::Flood;
pub(crate) use self::histogram::Histogram;

use self::connect::Identity;
use self::device::Device;
use self::orders::{Measured, Orders};
use crate::pki::Pki;

/// Nanoseconds of the machine's monotonic clock: the same in all processes, so that a sink elsewhere can compare.
pub(crate) fn now_nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    #[allow(clippy::cast_sign_loss, reason = "the monotonic clock starts at 0")]
    let nanos = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    nanos
}

/// Bytes of the topic beside each payload: `devices/{id}/messages/events/`. All ids are of the same length.
pub(crate) fn topic_bytes() -> usize {
    topic("dev-00042").len()
}

fn topic(id: &str) -> String {
    format!("devices/{id}/messages/events/")
}

/// First bytes of each body, little-endian: device index (u32), sequence number from 1 (u64), due time (u64,
/// [`now_nanos`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) device: u32,
    pub(crate) sequence: u64,
    pub(crate) due_nanos: u64,
}

pub(crate) const STAMP_BYTES: usize = 20;

impl Stamp {
    /// Into the first [`STAMP_BYTES`] of `body`.
    pub(crate) fn write(self, body: &mut [u8]) {
        body[..4].copy_from_slice(&self.device.to_le_bytes());
        body[4..12].copy_from_slice(&self.sequence.to_le_bytes());
        body[12..STAMP_BYTES].copy_from_slice(&self.due_nanos.to_le_bytes());
    }

    /// From the first bytes of a body. `None`: too short, or no number, so not one of ours.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let (device, rest) = body.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let stamp = Self {
            device: u32::from_le_bytes(*device),
            sequence: u64::from_le_bytes(*sequence),
            due_nanos: u64::from_le_bytes(*rest.first_chunk()?),
        };
        (stamp.sequence != 0).then_some(stamp)
    }
}

/// How devices send.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// As fast as `window` unacknowledged messages per device allow.
    Closed { window: usize },
    /// So many messages a second over all devices, evenly; latency counts from the due time (no coordinated omission), at
    /// most `window` unacknowledged per device (what is due waits, and its wait counts).
    Open { per_second: f64, window: usize },
}

/// A load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) devices: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) pace: Pace,
}

impl Load {
    fn check(&self) -> anyhow::Result<()> {
        let (window, rate) = match self.pace {
            Pace::Closed { window } => (window, 1.0),
            Pace::Open { per_second, window } => (window, per_second),
        };
        ensure!(self.devices > 0, "a load needs at least one device");
        ensure!(self.payload_bytes >= STAMP_BYTES, "a body is at least the stamp, {STAMP_BYTES} B");
        ensure!(
            (1..=65_535).contains(&window),
            "a window is 1..=65,535 (packet ids), not {window}"
        );
        ensure!(rate.is_finite() && rate > 0.0, "{rate} messages a second cannot be sent");
        Ok(())
    }
}

/// What happened to one device's messages: all up to `acked` were acknowledged (a device sends again from there on after
/// a reconnect, with DUP, as the Azure C SDK does); none above `sent` was handed to the network.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) sent: AtomicU64,
    pub(crate) acked: AtomicU64,
}

/// What a fleet did between two looks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) acked: u64,
    /// From due (open loop) or sent (closed loop) until the PUBACK was read.
    pub(crate) latency: Histogram,
    /// Open loop: how late the generator itself sent (see the module's head).
    pub(crate) late: Histogram,
    /// Open loop: messages that were due while the window was full or the connection away.
    pub(crate) held: u64,
}

/// How the process under test behaved towards the fleet, since it connected.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conduct {
    /// Connections that broke, and attempts that failed.
    pub(crate) reconnects: u64,
    /// Messages sent again, with DUP.
    pub(crate) resent: u64,
    /// PUBACKs for another than the oldest message (MQTT-4.6.0-2 forbids it).
    pub(crate) out_of_order: u64,
    /// PUBACKs for nothing that was outstanding.
    pub(crate) unknown: u64,
    /// Why the last connection broke.
    pub(crate) last_error: Option<String>,
}

/// How many connect at the same time.
const AT_ONCE: usize = 32;
/// A device that is silent says that it is there; well within its keep-alive of 240 s.
const PING_EVERY: Duration = Duration::from_secs(100);
/// Devices of an open loop hear of the start before the first message is due.
const LEAD_NANOS: u64 = 5_000_000;

/// Devices that run. Ends by [`Fleet::finish`] or when dropped.
pub(crate) struct Fleet {
    orders: Arc<Orders>,
    ledgers: Vec<Arc<Ledger>>,
    devices: JoinSet<()>,
    _pings: JoinSet<()>,
}

impl Fleet {
    /// Connects all devices (32 at a time) to `to`; they do not send yet. Error: who could not connect and why.
    pub(crate) async fn connect(
        pki: &Arc<Pki>,
        to: SocketAddr,
        load: Load,
    ) -> anyhow::Result<Self> {
        Self::of(&connect::identities(pki, load.devices)?, to, load).await
    }

    async fn of(identities: &[Identity], to: SocketAddr, load: Load) -> anyhow::Result<Self> {
        load.check()?;
        let orders = Arc::new(Orders::new(load, to));
        let ledgers: Vec<_> = (0..load.devices).map(|_| Arc::new(Ledger::default())).collect();
        let streams = connect::all(identities, to, AT_ONCE).await;
        let failed = streams.iter().filter(|stream| stream.is_err()).count();
        let mut devices = JoinSet::new();
        for (index, (identity, stream)) in identities.iter().zip(streams).enumerate() {
            let stream = stream.with_context(|| {
                format!(
                    "{failed} of {} devices cannot connect to {to}: {}",
                    load.devices, identity.id
                )
            })?;
            let ledger = Arc::clone(&ledgers[index]);
            let device = Device::new(index, identity.clone(), Arc::clone(&orders), ledger)
                .context("no timer for a device: raise the limit of open files")?;
            devices.spawn(device.run(stream));
        }
        let mut pings = JoinSet::new();
        let pinged = Arc::clone(&orders);
        pings.spawn(async move {
            loop {
                tokio::time::sleep(PING_EVERY).await;
                pinged.ping();
            }
        });
        Ok(Self { orders, ledgers, devices, _pings: pings })
    }

    /// A limit on messages in all since the fleet connected, each device an equal share: then they stop by themselves
    /// (and stay connected). May be raised later.
    pub(crate) fn limit(&mut self, messages: u64) {
        self.orders.set_limit(messages);
    }

    /// They send from now on. Calling again after `finish` is an error.
    pub(crate) fn start(&self) {
        self.orders.start(now_nanos() + LEAD_NANOS);
    }

    /// Runs for `duration` and says what was acknowledged in it.
    pub(crate) async fn sample(&mut self, duration: Duration) -> Sample {
        // What was measured before belongs to nobody.
        drop(self.orders.take_measured());
        let (started, before) = (now_nanos(), self.acked());
        tokio::time::sleep(duration).await;
        let measured = self.orders.take_measured();
        Sample {
            acked: self.acked() - before,
            seconds: (now_nanos() - started) as f64 / 1e9,
            latency: measured.latency,
            late: measured.late,
            held: measured.held,
        }
    }

    /// What was measured since the last sample.
    pub(crate) fn measured(&self) -> Measured {
        self.orders.take_measured()
    }

    /// One ledger per device.
    pub(crate) fn ledgers(&self) -> &[Arc<Ledger>] {
        &self.ledgers
    }

    /// Acknowledged in all, by now.
    pub(crate) fn acked(&self) -> u64 {
        self.ledgers.iter().map(|ledger| ledger.acked.load(Ordering::Acquire)).sum()
    }

    /// What the process under test did wrong.
    pub(crate) fn conduct(&self) -> Conduct {
        self.orders.conduct()
    }

    /// No new messages (with a limit: none above it); waits (at most `patience`) until what was sent is acknowledged,
    /// then disconnects. Gives the total acknowledged.
    pub(crate) async fn finish(&mut self, patience: Duration) -> u64 {
        self.orders.finish();
        let ended = async { while self.devices.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, ended).await.is_err() {
            self.devices.shutdown().await;
        }
        self.acked()
    }

    /// The process under test listens elsewhere now (a restart); devices reconnect by themselves within 20 ms .. 1 s.
    pub(crate) fn redirect(&self, to: SocketAddr) {
        self.orders.redirect(to);
    }
}
