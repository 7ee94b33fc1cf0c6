//! A timer to the microsecond, for the open loop. See the head of `load` for why tokio's is not enough.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timerfd on the monotonic clock, armed for one time after the other.
pub(super) struct Timer {
    fd: AsyncFd<OwnedFd>,
    armed_nanos: Option<u64>,
}

fn timespec(nanos: u64) -> Timespec {
    let part = |value: u64| i64::try_from(value).expect("the monotonic clock is far below 2^63");
    Timespec { tv_sec: part(nanos / 1_000_000_000), tv_nsec: part(nanos % 1_000_000_000) }
}

impl Timer {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[allow(
            deprecated,
            reason = "its successor is unsafe, for descriptors that may close or change; an OwnedFd does neither, \
                      and this workspace forbids unsafe"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Self { fd, armed_nanos: None })
    }

    /// Ready when `at` is past; it may be ready once too early after a change of `at`.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, at_nanos: u64) -> Poll<io::Result<()>> {
        if self.armed_nanos != Some(at_nanos) {
            let once = Itimerspec { it_interval: timespec(0), it_value: timespec(at_nanos) };
            // A time that is past fires at once; setting forgets what fired before.
            timerfd_settime(self.fd.get_ref(), TimerfdTimerFlags::ABSTIME, &once)?;
            self.armed_nanos = Some(at_nanos);
        }
        ready!(self.fd.poll_read_ready(cx))?.clear_ready();
        self.armed_nanos = None;
        Poll::Ready(Ok(()))
    }
}
