//! A stream that gathers small writes into large ones.
//!
//! The AMQP library writes and flushes every frame by itself. With many senders of one message each that would be a TLS
//! record, a system call and a packet for every transfer. Here a flush only notes that something is to be written; it is
//! written when the library's task has nothing more to do and looks for input, which is when all frames that were ready
//! have come together.
//!
//! Owns: [`Gathered`]. Invariants: bytes keep their order; nothing stays behind: while something is to be written, the
//! task is due to run again or the stream below will wake it; a shutdown writes everything before.
//! It relies on the task that writes being the one that reads, and on its reading before it waits, as the library's
//! connection task does.
//! Must not know: AMQP, TLS.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So much is written without waiting for more: two TLS records.
const ENOUGH: usize = 32 << 10;

/// Looks for input that may put the write off one after the other. A task that gets one small frame ready in each turn
/// would else keep them from the peer for hundreds of turns.
const PUT_OFF_MAX: u8 = 4;

/// Gathers what is written to `S`.
pub(super) struct Gathered<S> {
    inner: S,
    out: BytesMut,
    /// Something was written since the last look for input: more may follow in the same turn of the task.
    busy: bool,
    /// So often the write was put off since the last one.
    put_off: u8,
    /// `inner` holds bytes that it was not seen to have flushed.
    unflushed: bool,
}

impl<S> Gathered<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, out: BytesMut::new(), busy: false, put_off: 0, unflushed: false }
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    fn write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// On a look for input: writes, unless the task has written just now and may go on doing so; then it is run once more.
    fn write_when_calm(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.out.is_empty() && !self.unflushed {
            return Ok(());
        }
        if std::mem::take(&mut self.busy) && self.put_off < PUT_OFF_MAX {
            self.put_off += 1;
            cx.waker().wake_by_ref();
            return Ok(());
        }
        self.put_off = 0;
        match self.write_out(cx) {
            Poll::Ready(written) => written,
            // The stream below wakes the task.
            Poll::Pending => Ok(()),
        }
    }
}

impl<S> fmt::Debug for Gathered<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gathered")
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let written = self.write_when_calm(cx);
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        match written {
            // The peer's last words go before the news that it hears us no more.
            Err(error) if buf.filled().len() == before => Poll::Ready(Err(error)),
            _ => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.out.len() >= ENOUGH {
            ready!(self.write_out(cx))?;
        }
        self.busy = true;
        if self.out.is_empty() && buf.len() >= ENOUGH {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
            self.unflushed = true;
            return Poll::Ready(Ok(written));
        }
        self.out.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.len() >= ENOUGH || self.unflushed {
            return self.write_out(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_out(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio_util::task::TaskTracker;

    use super::*;

    /// Writes and flushes `frames` as the library does, one by one.
    async fn send(stream: &mut Gathered<DuplexStream>, frames: &[&[u8]]) {
        for frame in frames {
            stream.write_all(frame).await.unwrap();
            stream.flush().await.unwrap();
        }
    }

    /// Looks for input once, as the library's task does before it waits.
    async fn look(stream: &mut Gathered<DuplexStream>) -> bool {
        let mut room = [0; 8];
        poll_fn(|cx| {
            let mut buf = ReadBuf::new(&mut room);
            Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut buf).is_ready())
        })
        .await
    }

    #[tokio::test]
    async fn frames_of_one_turn_are_written_together_when_the_task_is_calm() {
        let (near, mut far) = duplex(1 << 20);
        let mut stream = Gathered::new(near);
        send(&mut stream, &[b"one ", b"two "]).await;
        assert!(!look(&mut stream).await);
        send(&mut stream, &[b"three"]).await;
        assert!(!look(&mut stream).await);
        assert_eq!(stream.out.len(), 13, "the task was still writing");
        assert!(!look(&mut stream).await);
        let mut got = [0; 64];
        let len = far.read(&mut got).await.unwrap();
        assert_eq!(&got[..len], b"one two three");
    }

    #[tokio::test]
    async fn a_trickle_is_not_put_off_for_ever() {
        let (near, mut far) = duplex(1 << 20);
        let mut stream = Gathered::new(near);
        for _ in 0..=PUT_OFF_MAX {
            send(&mut stream, &[b"."]).await;
            assert!(!look(&mut stream).await);
        }
        let mut got = [0; 64];
        assert_eq!(far.read(&mut got).await.unwrap(), usize::from(PUT_OFF_MAX) + 1);
    }

    #[tokio::test]
    async fn a_task_that_reads_after_writing_is_run_again_until_all_is_written() {
        let (near, mut far) = duplex(1 << 20);
        let mut stream = Gathered::new(near);
        let task = TaskTracker::new().spawn(async move {
            send(&mut stream, &[b"question"]).await;
            let mut answer = [0; 6];
            stream.read_exact(&mut answer).await.map(|_| answer)
        });
        let mut got = [0; 8];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"question");
        far.write_all(b"answer").await.unwrap();
        assert_eq!(&task.await.unwrap().unwrap(), b"answer");
    }

    #[tokio::test]
    async fn much_is_written_at_once_in_order_and_a_full_stream_is_waited_for() {
        let (near, mut far) = duplex(1000);
        let sent: Vec<u8> = (0..400_000_u32).map(|i| (i % 251) as u8).collect();
        let expected = sent.clone();
        let task = TaskTracker::new().spawn(async move {
            let mut stream = Gathered::new(near);
            let (small, large) = sent.split_at(100_000);
            for frame in small.chunks(700).chain(large.chunks(65_536)) {
                send(&mut stream, &[frame]).await;
            }
            stream.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert!(got == expected);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn what_the_peer_said_last_is_read_before_the_write_fails() {
        let (near, mut far) = duplex(64);
        let mut stream = Gathered::new(near);
        far.write_all(b"bye").await.unwrap();
        drop(far);
        send(&mut stream, &[b"lost"]).await;
        let mut got = [0; 3];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"bye");
        look(&mut stream).await;
        assert!(stream.read(&mut got).await.is_err());
    }
}
