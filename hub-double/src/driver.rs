//! One task per connection, whatever is spoken on it: moves bytes between TLS and a [`Connection`], keeps its timers, and does
//! to its bytes what the fault script says (silence, slowness, the cut).
//!
//! Owns: the socket, and when bytes last passed. Invariants: the task ends as soon as its handle is killed, whatever the socket
//! does; in a black hole nothing is read, written or timed; while a slow hub rests nothing is read. Must not know: what the
//! bytes mean.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::clock;
use crate::hub::{Handle, Hub};

/// How often tokens are checked against their expiry: wall time can be moved under a running timer.
const TOKEN_CHECK: Duration = Duration::from_millis(250);

/// A wait that something else ends.
const SILENCE: Duration = Duration::from_secs(3600);

/// When bytes last passed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastBytes {
    /// From the client. While a slow hub rests, the end of its rest: it reads late what came in time.
    pub(crate) read: Instant,
    /// To the client.
    pub(crate) written: Instant,
}

/// A protocol's state of one connection: bytes in, bytes out, no IO and no clock.
pub(crate) trait Connection {
    /// Room for one read, bytes.
    const READ_BYTES: usize;

    /// Takes off `input` all that is whole.
    fn on_bytes(&mut self, input: &mut BytesMut, now: Instant);

    /// How many messages were read since this was last asked.
    fn messages_read(&mut self) -> u64;

    /// Does what others asked for.
    fn on_commands(&mut self, now: Instant);

    /// Sends what waited for a fault that has ended.
    fn on_faults_changed(&mut self);

    /// Sends what is due.
    fn on_time(&mut self, now: Instant);

    /// Whether there are tokens to watch.
    fn has_tokens(&self) -> bool;

    /// Ends what the tokens that are over by now have allowed.
    fn check_tokens(&mut self, now: Instant);

    /// Says what has to be said after a long silence of ours; ends the connection after one of the client's.
    fn on_silence(&mut self, last: LastBytes, now: Instant);

    /// When [`Connection::on_time`] or [`Connection::on_silence`] has something to do next.
    fn next_wake(&self, last: LastBytes) -> Option<Instant>;

    /// What is to be written.
    fn out(&self) -> &[u8];

    /// All of [`Connection::out`] has been written.
    fn on_written(&mut self);

    /// Whether it has ended: flush and close the socket.
    fn is_over(&self) -> bool;

    /// The connection has ended, in whatever way.
    fn end(&mut self) {}
}

/// Serves a connection until it ends. The caller removes the handle from the roster.
pub(crate) async fn serve<S, C>(stream: S, mut conn: C, hub: Arc<Hub>, handle: Arc<Handle>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Connection,
{
    tokio::select! {
        () = handle.killed.cancelled() => {}
        result = run(stream, &mut conn, &hub, &handle) => {
            if let Err(error) = result {
                tracing::debug!(connection = handle.no, %error, "the connection broke");
            }
        }
    }
    conn.end();
}

struct Timers {
    last: LastBytes,
    token_check: Instant,
}

impl Timers {
    fn new(now: Instant) -> Self {
        Self { last: LastBytes { read: now, written: now }, token_check: now }
    }

    /// When a slow hub reads on, if it rests.
    fn rest(&self, now: Instant) -> Option<Instant> {
        Some(self.last.read).filter(|end| *end > now)
    }

    fn act(&mut self, conn: &mut impl Connection, now: Instant) {
        conn.on_time(now);
        if now >= self.token_check {
            conn.check_tokens(now);
            self.token_check = now + TOKEN_CHECK;
        }
        conn.on_silence(self.last, now);
    }

    fn next_wake(&self, conn: &impl Connection, now: Instant) -> Instant {
        let token = conn.has_tokens().then_some(self.token_check);
        let due = [conn.next_wake(self.last), self.rest(now), token];
        due.into_iter().flatten().min().unwrap_or(now + SILENCE).max(now)
    }
}

async fn run<S, C>(mut stream: S, conn: &mut C, hub: &Hub, handle: &Handle) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Connection,
{
    let mut flags = hub.faults.flags();
    let mut input = BytesMut::with_capacity(C::READ_BYTES);
    let mut timers = Timers::new(clock::now());
    let mut faults_changed = false;
    loop {
        let silent = {
            // A change may have come while bytes were worked on.
            faults_changed |= flags.has_changed().unwrap_or(false);
            flags.borrow_and_update().black_hole
        };
        if !silent {
            let now = clock::now();
            conn.on_commands(now);
            if std::mem::take(&mut faults_changed) {
                conn.on_faults_changed();
            }
            timers.act(conn, now);
            if write(&mut stream, conn).await? {
                timers.last.written = clock::now();
            }
            if conn.is_over() {
                return stream.shutdown().await;
            }
        }
        let now = clock::now();
        let resting = timers.rest(now).is_some();
        // In a black hole no timer acts: only the end of the fault (or the peer's) changes anything.
        let wake_at = if silent { now + SILENCE } else { timers.next_wake(conn, now) };
        input.reserve(C::READ_BYTES);
        tokio::select! {
            changed = flags.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                faults_changed = true;
            }
            () = handle.wake.notified() => {}
            () = tokio::time::sleep_until(wake_at.into()) => {}
            read = stream.read_buf(&mut input), if !silent && !resting => {
                let bytes = read?;
                if bytes == 0 {
                    return Ok(());
                }
                let now = clock::now();
                conn.on_bytes(&mut input, now);
                timers.last.read = now + hub.faults.rest_after(bytes, conn.messages_read());
            }
        }
    }
}

/// Writes what is to be written; false when that is nothing.
async fn write<S>(stream: &mut S, conn: &mut impl Connection) -> std::io::Result<bool>
where
    S: AsyncWrite + Unpin,
{
    if conn.out().is_empty() {
        return Ok(false);
    }
    stream.write_all(conn.out()).await?;
    stream.flush().await?;
    conn.on_written();
    Ok(true)
}
