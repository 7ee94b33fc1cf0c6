//! The socket side of a connection: the TLS stream and its two buffers.
//!
//! Owns: bytes that are not decoded yet, bytes that are not written yet, and how long the peer has not taken any.
//! Invariants: every await here may be dropped and called again without losing a byte; writing never keeps the
//! connection from seeing what else happens; a connection with nothing on its way holds next to no buffer.
//! Must not know: what packets mean.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::front::unfinished::Place;
use crate::mqtt::codec::{self, CodecError, EncodeError};
use crate::mqtt::packet::Packet;

/// The most that one read takes: what a TLS record holds. It goes through the stack, so that only bytes that came take
/// memory.
const READ_BYTES_MAX: usize = 16 * 1024;

/// A buffer that held more than this is given back when it is empty.
const KEEP_BYTES: usize = 4096;

/// From this many unwritten bytes on nothing more is asked of the peer: it does not read its answers.
const OUTBOX_BYTES_MAX: usize = 64 * 1024;

/// What happened on the socket.
#[derive(Debug)]
pub(super) enum WireEvent {
    /// Bytes came; 0 = the peer closed.
    Read(io::Result<usize>),
    /// All that was to be written has left, or cannot.
    Written(io::Result<()>),
    /// The peer has taken nothing for the write timeout.
    Stalled,
    /// The rest of a large packet does not come, and others wait for its place.
    Overdue,
}

/// The stream of one connection.
pub(super) struct Wire<S> {
    stream: S,
    /// For a large packet that has come in part.
    place: Place,
    inbox: BytesMut,
    /// Whether `inbox` has become larger than [`KEEP_BYTES`].
    inbox_grown: bool,
    outbox: BytesMut,
    /// Bytes were handed to TLS and may not have left.
    unflushed: bool,
    /// When to give the peer up, while it does not take what is to be written.
    give_up: Option<Pin<Box<Sleep>>>,
    write_timeout: Duration,
}

impl<S> Wire<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    pub(super) fn new(stream: S, place: Place, write_timeout: Duration) -> Self {
        Self {
            stream,
            place,
            inbox: BytesMut::new(),
            inbox_grown: false,
            outbox: BytesMut::new(),
            unflushed: false,
            give_up: None,
            write_timeout,
        }
    }

    /// Whether something came that is not decoded yet.
    pub(super) fn has_bytes(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// The next complete packet.
    pub(super) fn decode(&mut self, packet_bytes_max: usize) -> Result<Option<Packet>, CodecError> {
        let packet = codec::decode(&mut self.inbox, packet_bytes_max)?;
        if packet.is_some() {
            self.place.is_done();
        }
        // A buffer that once held a large packet would stay large as long as the connection lives.
        if self.inbox.is_empty() && self.inbox_grown {
            self.inbox = BytesMut::new();
            self.inbox_grown = false;
        }
        Ok(packet)
    }

    /// It has logged in.
    pub(super) fn is_of_client(&mut self) {
        self.place.is_of_client();
    }

    /// Whether there is room for the rest of what came in part. While there is not, silence is not the peer's.
    pub(super) fn has_place(&mut self) -> bool {
        self.place.is_there(self.lacking())
    }

    /// Bytes of the packet that has come in part, as it announces itself; 0 = none has.
    fn lacking(&self) -> usize {
        let announced = codec::announced(&self.inbox);
        announced.filter(|&bytes| bytes > self.inbox.len()).unwrap_or_default()
    }

    /// Puts a packet among those to be written.
    pub(super) fn push(&mut self, packet: &Packet) -> Result<(), EncodeError> {
        codec::encode(packet, &mut self.outbox)
    }

    /// Whether the peer takes its answers, so that more may be asked of it.
    pub(super) fn has_room(&self) -> bool {
        self.outbox.len() < OUTBOX_BYTES_MAX
    }

    fn is_writing(&self) -> bool {
        self.unflushed || !self.outbox.is_empty()
    }

    /// Reads (if `may_read`) and writes; resolves when either has something to tell.
    pub(super) async fn event(&mut self, may_read: bool) -> WireEvent {
        std::future::poll_fn(|cx| self.poll_event(cx, may_read)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>, may_read: bool) -> Poll<WireEvent> {
        if self.is_writing() {
            match self.poll_write_all(cx) {
                Poll::Ready(Err(e)) => return Poll::Ready(WireEvent::Written(Err(e))),
                // It may be what kept the connection from reading.
                Poll::Ready(Ok(())) if !may_read => {
                    return Poll::Ready(WireEvent::Written(Ok(())));
                }
                Poll::Ready(Ok(())) => {}
                Poll::Pending => {
                    if self.poll_give_up(cx).is_ready() {
                        return Poll::Ready(WireEvent::Stalled);
                    }
                }
            }
        }
        if !may_read {
            self.place.rests();
            return Poll::Pending;
        }
        ready!(self.place.poll_there(cx, self.lacking()));
        match self.poll_read(cx) {
            Poll::Ready(read) => Poll::Ready(WireEvent::Read(read)),
            Poll::Pending => self.place.poll_overdue(cx).map(|()| WireEvent::Overdue),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut bytes = [const { MaybeUninit::uninit() }; READ_BYTES_MAX];
        let mut read = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        // What was decoded before is stored or gone: mostly this finds the old buffer free and takes it again.
        self.inbox.extend_from_slice(read.filled());
        self.inbox_grown |= self.inbox.len() > KEEP_BYTES;
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Writes and flushes everything. What has left is gone from `outbox`.
    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = Pin::new(&mut self.stream);
        while !self.outbox.is_empty() {
            let taken = ready!(stream.as_mut().poll_write(cx, &self.outbox))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbox.advance(taken);
            self.unflushed = true;
            self.give_up = None;
        }
        ready!(stream.poll_flush(cx))?;
        self.unflushed = false;
        self.give_up = None;
        if self.outbox.capacity() > KEEP_BYTES {
            self.outbox = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the peer has taken nothing for the write timeout. The time runs from the first look after it took
    /// something.
    fn poll_give_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timeout = self.write_timeout;
        let new = || Box::pin(tokio::time::sleep_until(Instant::now() + timeout));
        self.give_up.get_or_insert_with(new).as_mut().poll(cx)
    }

    /// The last packets and the close_notify, as far as the peer takes them within `limit`; then the socket is to be
    /// dropped.
    pub(super) async fn farewell(&mut self, limit: Duration) -> io::Result<()> {
        let last = async {
            std::future::poll_fn(|cx| self.poll_write_all(cx)).await?;
            self.stream.shutdown().await
        };
        tokio::time::timeout(limit, last)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}
