//! A socket of which only so many bytes are read until it is let go.
//!
//! A message of a TLS handshake may announce 64 KiB, and what has come of it is kept until it is whole: 600 peers that each
//! held back the end of a ClientHello held 44 MB. Owns: the count. Invariants: what was read goes at most one read over what is
//! allowed; who has all that it needs by then is not refused for what lies behind it. Must not know: TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// More came than is allowed.
#[derive(Debug, thiserror::Error)]
#[error("more bytes came than a handshake may have")]
pub(super) struct TooMuch;

/// See [the module](self).
#[derive(Debug)]
pub(super) struct Measured<S> {
    socket: S,
    count: Arc<Count>,
}

#[derive(Debug)]
struct Count {
    left: AtomicUsize,
    /// Something wants more.
    over: Notify,
}

/// How much is read of a [`Measured`] from now on. The socket itself is out of reach while TLS has it.
pub(super) struct Allowance(Arc<Count>);

impl<S> Measured<S> {
    /// Of `socket`, `bytes` are read.
    pub(super) fn new(socket: S, bytes: usize) -> (Self, Allowance) {
        let count = Arc::new(Count { left: AtomicUsize::new(bytes), over: Notify::new() });
        (Self { socket, count: Arc::clone(&count) }, Allowance(count))
    }
}

impl Allowance {
    /// So many more.
    pub(super) fn set(&self, bytes: usize) {
        // A number on its own: no order with other memory is needed, here and below.
        self.0.left.store(bytes, Ordering::Relaxed);
    }

    /// `work`, which reads, if what is allowed is enough for it.
    ///
    /// # Errors
    /// Its own; [`TooMuch`].
    pub(super) async fn within<T>(
        &self,
        work: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.0.over.notified() => Err(io::Error::new(io::ErrorKind::InvalidData, TooMuch)),
        }
    }

    /// As many as come.
    pub(super) fn lift(self) {
        self.set(usize::MAX);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Measured<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.count.left.load(Ordering::Relaxed);
        if left == 0 {
            // As if nothing had come: whether that is the end is for [`Allowance::within`] to say.
            self.count.over.notify_one();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if left != usize::MAX {
            let came = buf.filled().len() - before;
            self.count.left.store(left.saturating_sub(came), Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Measured<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_allowed_is_read_and_no_more_until_it_is_let_go() {
        let (mut peer, socket) = tokio::io::duplex(1000);
        let (mut socket, allowance) = Measured::new(socket, 10);
        peer.write_all(&[7; 100]).await.unwrap();
        let mut bytes = [0; 4];
        for _ in 0..3 {
            socket.read_exact(&mut bytes).await.unwrap();
        }
        let error = allowance.within(socket.read(&mut bytes)).await.unwrap_err();
        assert!(error.get_ref().is_some_and(|e| e.is::<TooMuch>()), "{error}");
        allowance.set(1);
        assert_eq!(socket.read(&mut bytes).await.unwrap(), 4);
        assert!(allowance.within(socket.read(&mut bytes)).await.is_err());
        allowance.lift();
        socket.read_exact(&mut [0; 84]).await.unwrap();
        socket.write_all(b"answer").await.unwrap();
        peer.read_exact(&mut [0; 6]).await.unwrap();
    }
}
