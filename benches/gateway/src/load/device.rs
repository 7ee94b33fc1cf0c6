//! One device: a connection after the other, messages until its orders say enough.
//!
//! One task, one wake-up, at most: read what is there, count the PUBACKs, stage what may go, one write. The future is
//! written by hand, as acknowledgements must be read while a write waits for room in the socket.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};

use super::connect::{self, Identity, Stream};
use super::frames::Frames;
use super::orders::Orders;
use super::timer::Timer;
use super::window::{Ack, Window};
use super::{Ledger, Pace, codec, now_nanos};

/// 256 PUBACKs.
const INBOX_BYTES: usize = 1024;

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A connection that lasted so long was a good one: the next back-off begins anew.
const LASTED_NANOS: u64 = 1_000_000_000;
/// A farewell that is not taken for so long is not waited for.
const FAREWELL: Duration = Duration::from_secs(1);

/// A device's state over all its connections.
pub(super) struct Device {
    index: usize,
    identity: Identity,
    orders: Arc<Orders>,
    ledger: Arc<Ledger>,
    window: Window,
    frames: Frames,
    /// Of the open loop.
    timer: Option<Timer>,
    pings: u64,
    inbox: [u8; INBOX_BYTES],
    /// Bytes in `inbox` of a packet that is not complete.
    kept: usize,
}

impl Device {
    pub(super) fn new(
        index: usize,
        identity: Identity,
        orders: Arc<Orders>,
        ledger: Arc<Ledger>,
    ) -> io::Result<Self> {
        let (size, open) = match orders.load.pace {
            Pace::Closed { window } => (window, false),
            Pace::Open { window, .. } => (window, true),
        };
        let number = u32::try_from(index).expect("far fewer devices");
        Ok(Self {
            frames: Frames::new(&identity.id, number, orders.load.payload_bytes, size),
            index,
            identity,
            ledger,
            window: Window::new(size),
            timer: if open { Some(Timer::new()?) } else { None },
            pings: orders.pings(),
            orders,
            inbox: [0; INBOX_BYTES],
            kept: 0,
        })
    }

    /// Runs until the fleet finishes and all is acknowledged.
    pub(super) async fn run(mut self, connected: Stream) {
        let mut next = Some(connected);
        let mut pause = PAUSE_MIN;
        while !self.done() {
            let stream = match next.take() {
                Some(stream) => stream,
                None => match connect::open(&self.identity, self.orders.address()).await {
                    Ok(stream) => stream,
                    Err(why) => {
                        self.orders.broke(&why);
                        self.rest(&mut pause).await;
                        continue;
                    }
                },
            };
            let (began, before) = (now_nanos(), self.window.acked());
            let why = match self.converse(stream).await {
                Ok(()) => return,
                Err(why) => why,
            };
            self.orders.broke(&why);
            if self.window.acked() > before || now_nanos() - began > LASTED_NANOS {
                pause = PAUSE_MIN;
            }
            self.rest(&mut pause).await;
        }
    }

    async fn rest(&self, pause: &mut Duration) {
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(PAUSE_MAX);
    }

    /// Finishing, everything sent, everything acknowledged.
    fn done(&self) -> bool {
        let sent = self.window.sent();
        self.orders.finishing()
            && self.window.acked() == sent
            && self.orders.allowed(self.index, sent) <= sent
    }

    /// One connection. `Ok`: done.
    async fn converse(&mut self, mut stream: Stream) -> io::Result<()> {
        (self.kept, self.pings) = (0, self.orders.pings());
        self.window.room_since_nanos = now_nanos();
        self.frames.clear();
        self.frames.stage(self.window.unacked(), true);
        self.orders.resent(self.window.unacked().count());
        poll_fn(|cx| self.poll(&mut stream, cx)).await?;
        let farewell = async {
            stream.write_all(&codec::DISCONNECT).await?;
            stream.shutdown().await
        };
        // Everything is acknowledged: whether the peer hears it changes no figure.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        Ok(())
    }

    fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.orders.waker(self.index).register(cx.waker());
        self.read(stream, cx)?;
        loop {
            ready!(self.write(stream, cx))?;
            if self.pings != self.orders.pings() {
                self.pings = self.orders.pings();
                self.frames.stage_ping();
                continue;
            }
            if self.done() {
                return Poll::Ready(Ok(()));
            }
            if self.stage() {
                continue;
            }
            // Nothing may go now: an acknowledgement, an order or the clock has to come.
            ready!(self.wait_due(cx))?;
        }
    }

    /// Reads until there is nothing.
    fn read(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            let mut space = ReadBuf::new(&mut self.inbox);
            space.set_filled(self.kept);
            let Poll::Ready(read) = Pin::new(&mut *stream).poll_read(cx, &mut space) else {
                return Ok(());
            };
            read?;
            let end = space.filled().len();
            if end == self.kept {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.take(end)?;
        }
    }

    /// Takes the packets in the first `end` bytes of the inbox.
    fn take(&mut self, end: usize) -> io::Result<()> {
        let now = now_nanos();
        let mut measured = self.orders.measured(self.index);
        let mut at = 0;
        while let Some(frame) = codec::frame(&self.inbox[at..end])? {
            at += frame.len;
            if frame.first != codec::PUBACK {
                // PINGRESP: nobody waits for it. Nothing else is asked for.
                continue;
            }
            let due = match self.window.ack(codec::ack_id(frame.body)?, now) {
                Ack::Oldest(due) => due,
                Ack::OutOfOrder(due) => {
                    self.orders.out_of_order();
                    due
                }
                Ack::Unknown => {
                    self.orders.unknown();
                    continue;
                }
            };
            measured.latency.record(now.saturating_sub(due));
        }
        drop(measured);
        self.ledger.acked.store(self.window.acked(), Ordering::Release);
        self.inbox.copy_within(at..end, 0);
        self.kept = end - at;
        if self.kept == INBOX_BYTES {
            return Err(codec::wrong("a packet of more than 1 KiB, which no publisher expects"));
        }
        Ok(())
    }

    /// Writes what is staged; ready when the kernel has it.
    fn write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.frames.pending().is_empty() {
            let count = ready!(Pin::new(&mut *stream).poll_write(cx, self.frames.pending()))?;
            self.frames.written(count);
        }
        if stream.get_ref().1.wants_write() {
            return Pin::new(stream).poll_flush(cx);
        }
        Poll::Ready(Ok(()))
    }

    /// Stages what may be sent now, if anything.
    fn stage(&mut self) -> bool {
        let (now, sent) = (now_nanos(), self.window.sent());
        let schedule = self.orders.schedule(self.index);
        let allowed = self.orders.allowed(self.index, sent);
        let until = schedule.map_or(allowed, |s| allowed.min(s.due_by(now)));
        let count = until.saturating_sub(sent).min(self.window.room() as u64);
        if count == 0 {
            return false;
        }
        // Before the first byte leaves: what may have been sent counts as sent.
        self.ledger.sent.store(sent + count, Ordering::Release);
        if let Some(schedule) = schedule {
            let mut measured = self.orders.measured(self.index);
            let since = self.window.room_since_nanos;
            for sequence in sent + 1..=sent + count {
                let due = schedule.due(sequence);
                measured.late.record(now - due.max(since).min(now));
                measured.held += u64::from(due < since);
            }
        }
        let window = &mut self.window;
        let messages = (sent + 1..=sent + count).map(|sequence| {
            let due = schedule.map_or(now, |s| s.due(sequence));
            (window.push(due), due)
        });
        self.frames.stage(messages, false);
        true
    }

    /// Ready when the next message is due, if it is the clock that it waits for.
    fn wait_due(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (Some(timer), Some(schedule)) = (&mut self.timer, self.orders.schedule(self.index))
        else {
            return Poll::Pending;
        };
        let sent = self.window.sent();
        if self.window.room() == 0 || self.orders.allowed(self.index, sent) <= sent {
            return Poll::Pending;
        }
        timer.poll(cx, schedule.due(sent + 1))
    }
}
