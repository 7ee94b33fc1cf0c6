//! One task per MQTT connection: moves bytes between TLS and [`Conn`], keeps its timers, and does to its bytes what the
//! fault script says (silence, slowness, the cut).
//!
//! Invariant: the task ends as soon as its handle is killed, whatever the socket does. Must not know: what packets mean.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::conn::Conn;
use crate::clock;
use crate::hub::{Handle, Hub};

/// Room for one read, bytes.
const READ_BYTES: usize = 16 * 1024;
/// How often a token is checked against its expiry: wall time can be moved under a running timer.
const TOKEN_CHECK: Duration = Duration::from_millis(250);
/// A wait that something else ends.
const SILENCE: Duration = Duration::from_secs(3600);

/// Serves a client with this certificate chain (leaf first; empty: none) until it ends. The caller removes the handle from
/// the roster.
pub(crate) async fn serve<S>(
    stream: S,
    chain: Vec<CertificateDer<'static>>,
    hub: Arc<Hub>,
    handle: Arc<Handle>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut conn = Conn::new(Arc::clone(&hub), Arc::clone(&handle), chain, clock::now());
    tokio::select! {
        () = handle.killed.cancelled() => {}
        result = run(stream, &hub, &mut conn) => {
            if let Err(error) = result {
                tracing::debug!(connection = handle.no, %error, "the connection broke");
            }
        }
    }
    conn.end();
}

struct Timers {
    last_read: Instant,
    /// Not read before this (a slow hub).
    rest_until: Instant,
    token_check: Instant,
}

async fn run<S>(mut stream: S, hub: &Hub, conn: &mut Conn) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handle = Arc::clone(&conn.handle);
    let mut flags = hub.faults.flags();
    let mut input = BytesMut::with_capacity(READ_BYTES);
    let start = clock::now();
    let mut timers = Timers { last_read: start, rest_until: start, token_check: start };
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
            on_timers(conn, &mut timers, now);
            if !conn.out.is_empty() {
                stream.write_all(&conn.out).await?;
                stream.flush().await?;
                conn.out.clear();
            }
            if conn.is_over() {
                return stream.shutdown().await;
            }
        }
        let now = clock::now();
        let resting = timers.rest_until > now;
        // In a black hole no timer acts: only the end of the fault (or the peer's) changes anything.
        let wake_at = if silent { now + SILENCE } else { next_wake(conn, &timers, now) };
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

fn on_timers(conn: &mut Conn, timers: &mut Timers, now: Instant) {
    if now >= timers.token_check {
        conn.expire_token(None, now);
        timers.token_check = now + TOKEN_CHECK;
    }
    // A slow hub reads late what came in time.
    if now > conn.silent_until(timers.last_read.max(timers.rest_until)) {
        conn.close("nothing was heard for 1.5 times the keep-alive");
    }
}

fn next_wake(conn: &Conn, timers: &Timers, now: Instant) -> Instant {
    let silent = conn.silent_until(timers.last_read.max(timers.rest_until));
    let rest = Some(timers.rest_until).filter(|at| *at > now);
    let token = conn.has_token().then_some(timers.token_check);
    let due = [Some(silent + Duration::from_millis(1)), rest, token, conn.next_due()];
    due.into_iter().flatten().min().unwrap_or(now + SILENCE).max(now)
}
