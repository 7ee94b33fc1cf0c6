//! The socket side of a connection: the TLS stream and its two buffers.
//!
//! Owns: bytes that are not decoded yet, bytes that are not written yet, and how long the peer has not taken any.
//! Invariants: every await here may be dropped and called again without losing a byte; writing never keeps the
//! connection from seeing what else happens. Must not know: what packets mean.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::Instant;

use crate::mqtt::codec::{self, CodecError, EncodeError};
use crate::mqtt::packet::Packet;

/// The room for a read of an idle connection. A larger packet makes the buffer grow; when it is through, the
/// connection goes back to this.
const READ_BYTES: usize = 4096;

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
}

/// The stream of one connection.
pub(super) struct Wire<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    inbox: BytesMut,
    /// Whether `inbox` has become larger than [`READ_BYTES`].
    inbox_grown: bool,
    outbox: BytesMut,
    /// Bytes were handed to TLS and may not have left.
    unflushed: bool,
    /// When the peer last took something, or when there was something to take.
    stalled_since: Instant,
    write_timeout: Duration,
}

impl<S> Wire<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    pub(super) fn new(stream: S, write_timeout: Duration) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            reader,
            writer,
            inbox: BytesMut::with_capacity(READ_BYTES),
            inbox_grown: false,
            outbox: BytesMut::new(),
            unflushed: false,
            stalled_since: Instant::now(),
            write_timeout,
        }
    }

    /// The next complete packet.
    pub(super) fn decode(&mut self, packet_bytes_max: usize) -> Result<Option<Packet>, CodecError> {
        let packet = codec::decode(&mut self.inbox, packet_bytes_max)?;
        // A buffer that once held a large packet would stay large as long as the connection lives.
        if self.inbox.is_empty() && (self.inbox_grown || self.inbox.capacity() < READ_BYTES / 4) {
            self.inbox = BytesMut::with_capacity(READ_BYTES);
            self.inbox_grown = false;
        }
        Ok(packet)
    }

    /// Puts a packet among those to be written.
    pub(super) fn push(&mut self, packet: &Packet) -> Result<(), EncodeError> {
        if !self.is_writing() {
            self.stalled_since = Instant::now();
        }
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
        loop {
            let writing = self.is_writing();
            let give_up = self.stalled_since + self.write_timeout;
            let write = write_all(
                &mut self.writer,
                &mut self.outbox,
                &mut self.unflushed,
                &mut self.stalled_since,
            );
            tokio::select! {
                read = self.reader.read_buf(&mut self.inbox), if may_read => {
                    self.inbox_grown |= self.inbox.len() > READ_BYTES;
                    return WireEvent::Read(read);
                }
                written = write, if writing => {
                    if self.outbox.capacity() > READ_BYTES {
                        self.outbox = BytesMut::new();
                    }
                    return WireEvent::Written(written);
                }
                () = tokio::time::sleep_until(give_up), if writing => {}
                () = std::future::pending(), if !may_read && !writing => {}
            }
            // The time-out counted from when it was asked for; bytes may have been taken since.
            if self.stalled_since + self.write_timeout <= Instant::now() {
                return WireEvent::Stalled;
            }
        }
    }

    /// The last packets and the close_notify, as far as the peer takes them within `limit`; then the socket is closed.
    pub(super) async fn farewell(mut self, limit: Duration) -> io::Result<()> {
        let last = async {
            write_all(
                &mut self.writer,
                &mut self.outbox,
                &mut self.unflushed,
                &mut self.stalled_since,
            )
            .await?;
            self.writer.shutdown().await
        };
        tokio::time::timeout(limit, last)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// Writes and flushes everything. May be dropped at any await: what has left is gone from `outbox`.
async fn write_all<S>(
    writer: &mut WriteHalf<S>,
    outbox: &mut BytesMut,
    unflushed: &mut bool,
    stalled_since: &mut Instant,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    while !outbox.is_empty() {
        if writer.write_buf(outbox).await? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        *unflushed = true;
        *stalled_since = Instant::now();
    }
    writer.flush().await?;
    *unflushed = false;
    Ok(())
}
