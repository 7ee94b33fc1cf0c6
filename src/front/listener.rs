//! The accept loop: takes sockets, never waits for a peer.
//!
//! Owns: the listening socket. A socket gets a pass of the [`Door`] or is reset at once, before anything is allocated or
//! computed for it; the TLS handshake runs in the connection's own task, in turns with others, under time limits: one for
//! the first byte, before which there is no TLS state, and one for the handshake from there on. Must not know: MQTT.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::connection::{self, Front};
use super::door::{Closed, Door, Pass};
use super::limits;
use super::limits::conduct::Cost;
use super::measured::{Measured, TooMuch};
use super::refused::Refused;
use super::tls::{CHAIN_BYTES_MAX, presented};
use crate::auth::decision::Stage;

/// Pause after `accept` failed for a reason that concerns this process (no file descriptors left), so that the loop
/// does not spin until one is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits of the listener.
#[derive(Debug, Clone)]
pub struct Config {
    /// Open TCP connections at most, handshakes included. Above it a newcomer's socket is closed at once.
    pub connections_max: usize,
    /// Time for the whole TLS handshake, from its first byte on.
    pub handshake_timeout: Duration,
    /// What one address or identity may take.
    pub limits: limits::Config,
}

/// Time for the first byte: a TLS client begins at once, and a bad link delivers or repeats its first segment within seconds.
const FIRST_BYTE: Duration = Duration::from_secs(10);

/// Most bytes until a ClientHello is whole: one of a browser, with keys of two kinds, has less than 2 KiB.
const HELLO_BYTES_MAX: usize = 8 * 1024;

/// Most bytes of the handshake from there on: certificates, and what stands around them.
pub(super) const SHAKE_BYTES_MAX: usize = CHAIN_BYTES_MAX + 8 * 1024;

/// Accepts devices until `stop`; connection tasks run on `tasks`.
pub async fn run(
    listener: TcpListener,
    config: Config,
    tls: Arc<ArcSwap<rustls::ServerConfig>>,
    front: Arc<Front>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let (clock, metrics) = (Arc::clone(&front.clock), Arc::clone(&front.metrics));
    let door = Door::new(&config.limits, config.connections_max, clock, metrics);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok((socket, peer)) => (socket, canonical(peer)),
            Err(e) => {
                accept_failed(&front, &e).await;
                continue;
            }
        };
        let pass = match door.enter(peer, &stop) {
            Ok(pass) => pass,
            Err(closed) => {
                turned_away(&front, socket, peer, &closed);
                continue;
            }
        };
        let tls = tls.load_full();
        let admitted = Admitted { socket, peer, pass, tls, timeout: config.handshake_timeout };
        let front = Arc::clone(&front);
        let stop = stop.clone();
        tasks.spawn(async move { admitted.run(front, stop).await });
    }
}

/// A socket for both families shows an IPv4 peer as `::ffff:a.b.c.d`: one address, one name, in every log and count.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// No byte is spent on it, and nothing of it stays in the kernel.
fn turned_away(front: &Front, socket: TcpStream, peer: SocketAddr, closed: &Closed) {
    if let Err(e) = socket.set_zero_linger() {
        debug!(%peer, "no reset: {e}");
    }
    drop(socket);
    let who = Refused::peer(peer);
    match closed {
        Closed::Full(most) => {
            let detail = format!("{most} connections are open, which is the limit");
            front.refused(Stage::Accept, who, "connections_max", detail);
        }
        Closed::Banned(left) => {
            let left = left.as_secs() + 1;
            let detail = format!(
                "the gateway is pressed, and nothing but failures came from its address: only some of it is let in, for {left} s"
            );
            front.refused(Stage::Accept, who, "address_banned", detail);
        }
        Closed::Slowed(_) => {
            let detail =
                "the gateway is pressed, and more fails than succeeds from its address".to_owned();
            front.refused(Stage::Accept, who, "address_slowed", detail);
        }
    }
}

async fn accept_failed(front: &Front, e: &io::Error) {
    // A peer that resets before accept is its own business; anything else is ours and would repeat at once.
    if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    front.refused(Stage::Accept, Refused::default(), "os_error", format!("accept failed: {e}"));
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// A socket on its way through the handshake.
struct Admitted {
    socket: TcpStream,
    peer: SocketAddr,
    pass: Pass,
    tls: Arc<rustls::ServerConfig>,
    timeout: Duration,
}

impl Admitted {
    async fn run(self, front: Arc<Front>, stop: CancellationToken) {
        let Self { socket, peer, pass, tls, timeout } = self;
        if let Err(e) = socket.set_nodelay(true) {
            debug!(%peer, "TCP_NODELAY not set: {e}");
        }
        let leave = pass.leave().clone();
        // On the heap while it runs: the task would else keep room for it as long as the device is connected.
        let shaking = Box::pin(shake_hands(socket, peer, &pass, tls, timeout, &front));
        let stream = tokio::select! {
            () = leave.cancelled() => {
                if !stop.is_cancelled() {
                    let detail = "others needed the room, and it had not logged in".to_owned();
                    front.refused(Stage::Tls, Refused::peer(peer), "crowded_out", detail);
                }
                return;
            }
            stream = shaking => stream,
        };
        let Some(stream) = stream else { return };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        // A box each: futures hold what they were given beside what they made of it.
        Box::pin(connection::run(Box::new(stream), chain, peer, front, pass, stop)).await;
    }
}

/// `None`: it did not come about, which is told.
async fn shake_hands(
    socket: TcpStream,
    peer: SocketAddr,
    pass: &Pass,
    tls: Arc<rustls::ServerConfig>,
    timeout: Duration,
    front: &Front,
) -> Option<TlsStream<Measured<TcpStream>>> {
    let first = timeout.min(FIRST_BYTE);
    match tokio::time::timeout(first, socket.peek(&mut [0])).await {
        // A port check, most likely: it costs nothing and counts as nothing.
        Ok(Ok(0)) => {
            let detail = "the peer closed without a word".to_owned();
            front.refused(Stage::Tls, Refused::peer(peer), "closed", detail);
            return None;
        }
        Ok(Ok(_)) => {}
        Ok(Err(e)) => {
            let detail = format!("the connection broke before its first byte: {e}");
            front.refused(Stage::Tls, Refused::peer(peer), "io", detail);
            return None;
        }
        Err(_) => {
            let detail = format!("the peer connected and said nothing for {first:?}");
            front.refused(Stage::Tls, Refused::peer(peer), "silent", detail);
            return None;
        }
    }
    // Before a whole ClientHello is here nothing was computed.
    let mut cost = Cost::Nothing;
    let (socket, allowance) = Measured::new(socket, HELLO_BYTES_MAX);
    let accept = async {
        let hello = Box::pin(LazyConfigAcceptor::new(Acceptor::default(), socket));
        let hello = pass.in_turns(hello).await?;
        cost = Cost::Handshake;
        allowance.set(SHAKE_BYTES_MAX);
        pass.in_turns(hello.into_stream(tls)).await
    };
    match tokio::time::timeout(timeout, allowance.within(accept)).await {
        Ok(Ok(stream)) => {
            allowance.lift();
            return Some(stream);
        }
        Ok(Err(e)) => tls_refused(front, peer, &e),
        Err(_) => {
            let detail = format!("the TLS handshake was not finished within {timeout:?}");
            front.refused(Stage::Tls, Refused::peer(peer), "timeout", detail);
        }
    }
    pass.failed(cost);
    None
}

/// Before a certificate came there is none to name.
fn tls_refused(front: &Front, peer: SocketAddr, e: &io::Error) {
    let inner = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let (label, detail, certificate) = match inner.and_then(presented::of_error) {
        Some(presented) => {
            (presented.reason.label(), presented.to_string(), presented.certificate.clone())
        }
        None => (tls_label(e), format!("the TLS handshake failed: {e}"), None),
    };
    let who = Refused { certificate, ..Refused::peer(peer) };
    front.refused(Stage::Tls, who, label, detail);
}

/// A bounded label for why a handshake failed, where it was not the client's certificate.
fn tls_label(e: &io::Error) -> &'static str {
    let inner = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match inner {
        None if e.get_ref().is_some_and(|e| e.is::<TooMuch>()) => "handshake_too_large",
        None if e.kind() == io::ErrorKind::UnexpectedEof => "closed",
        None => "io",
        Some(rustls::Error::AlertReceived(_)) => "alert_received",
        Some(rustls::Error::PeerIncompatible(_)) => "incompatible",
        Some(rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. }) => {
            "not_tls"
        }
        Some(_) => "protocol",
    }
}
