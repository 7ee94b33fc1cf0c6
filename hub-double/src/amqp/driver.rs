//! One task per AMQP connection: moves bytes between TLS and [`Conn`], keeps its timers, and does to its bytes what
//! the fault script says (silence, slowness, the cut).
//!
//! Invariant: the task ends as soon as its handle is killed, whatever the socket does. Must not know: what frames
//! mean.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::connection::Conn;
use crate::clock;
use crate::hub::{Handle, Hub};

/// Room for one read: a quarter of the largest batch.
const READ_BYTES: usize = 64 * 1024;

/// How long the peer's `close` is awaited after ours.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// How often tokens are checked against their expiry: wall time can be moved under a running timer.
const TOKEN_CHECK: Duration = Duration::from_millis(250);

/// Serves a connection until it ends. The caller removes the handle from the roster.
pub(crate) async fn serve<S>(stream: S, hub: Arc<Hub>, handle: Arc<Handle>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let killed = handle.killed.clone();
    tokio::select! {
        () = killed.cancelled() => {}
        result = run(stream, hub, &handle) => {
            if let Err(error) = result {
                tracing::debug!(connection = handle.no, %error, "the connection broke");
            }
        }
    }
}

/// A wait that something else ends.
const SILENCE: Duration = Duration::from_secs(3600);

struct Timers {
    last_read: Instant,
    last_write: Instant,
    /// Not read before this (a slow hub).
    rest_until: Instant,
    closing_since: Option<Instant>,
    token_check: Instant,
}

async fn run<S>(mut stream: S, hub: Arc<Hub>, handle: &Arc<Handle>) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut conn = Conn::new(Arc::clone(&hub), Arc::clone(handle));
    let mut flags = hub.faults.flags();
    let mut input = BytesMut::with_capacity(READ_BYTES);
    let start = clock::now();
    let mut timers = Timers {
        last_read: start,
        last_write: start,
        rest_until: start,
        closing_since: None,
        token_check: start,
    };
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
            conn.on_time(now);
            on_timers(&mut conn, &mut timers, now);
            write(&mut stream, &mut conn, &mut timers).await?;
            if conn.is_over() {
                return stream.shutdown().await;
            }
        }
        let now = clock::now();
        let resting = timers.rest_until > now;
        // In a black hole no timer acts: only the end of the fault (or the peer's) changes anything.
        let wake_at = if silent { now + SILENCE } else { next_wake(&conn, &timers, now) };
        input.reserve(READ_BYTES);
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
                timers.last_read = now;
                conn.on_bytes(&mut input, now);
                let messages = std::mem::take(&mut conn.messages_read);
                timers.rest_until = now + hub.faults.rest_after(bytes, messages);
            }
        }
    }
}

async fn write<S>(stream: &mut S, conn: &mut Conn, timers: &mut Timers) -> std::io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    if conn.out.is_empty() {
        return Ok(());
    }
    stream.write_all(&conn.out).await?;
    stream.flush().await?;
    conn.out.clear();
    timers.last_write = clock::now();
    Ok(())
}

/// When the peer must hear from us: at 7/8 of its idle time-out, as edgeHub does (fact sheet B1); at half of a short
/// one, where 1/8 would be less than a loaded test machine's hiccup.
fn heartbeat_every(peer_idle: Duration) -> Duration {
    if peer_idle > Duration::from_secs(10) { peer_idle / 8 * 7 } else { peer_idle / 2 }
}

fn on_timers(conn: &mut Conn, timers: &mut Timers, now: Instant) {
    if let Some(idle) = conn.peer_idle
        && now.duration_since(timers.last_write) >= heartbeat_every(idle)
    {
        conn.heartbeat();
    }
    if now >= timers.token_check {
        conn.expire_tokens(None, now);
        timers.token_check = now + TOKEN_CHECK;
    }
    if conn.is_closing() {
        let since = *timers.closing_since.get_or_insert(now);
        if now.duration_since(since) >= CLOSE_WAIT {
            conn.close("", "the peer does not answer close");
        }
    } else if now.duration_since(timers.last_read) > conn.hub.limits.idle_timeout {
        conn.close("amqp:connection:forced", "nothing was heard within the idle time-out");
    }
}

fn next_wake(conn: &Conn, timers: &Timers, now: Instant) -> Instant {
    let heartbeat = conn.peer_idle.map(|idle| timers.last_write + heartbeat_every(idle));
    let close = timers.closing_since.map(|since| since + CLOSE_WAIT);
    let rest = Some(timers.rest_until).filter(|at| *at > now);
    let idle = timers.last_read + conn.hub.limits.idle_timeout + Duration::from_millis(1);
    let idle = (!conn.is_closing()).then_some(idle);
    let token = (!conn.tokens.is_empty()).then_some(timers.token_check);
    let due = [heartbeat, close, rest, token, idle, conn.next_due()];
    due.into_iter().flatten().min().unwrap_or(now + SILENCE).max(now)
}
