//! The accept loop: takes sockets, never waits for a peer.
//!
//! Owns: the listening socket and the connection cap. A socket gets a permit or is closed at once; the TLS handshake
//! runs in the connection's own task under a time limit. Must not know: MQTT.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::connection::{self, Front};
use super::refused::Refused;
use super::tls::presented;
use crate::auth::decision::Stage;

/// Pause after `accept` failed for a reason that concerns this process (no file descriptors left), so that the loop
/// does not spin until one is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits of the listener.
#[derive(Debug, Clone)]
pub struct Config {
    /// Open TCP connections at most, handshakes included. Above it a newcomer's socket is closed at once.
    pub connections_max: usize,
    /// Time for the whole TLS handshake.
    pub handshake_timeout: Duration,
}

/// Accepts devices until `stop`; connection tasks run on `tasks`.
pub async fn run(
    listener: TcpListener,
    config: Config,
    tls: Arc<ArcSwap<rustls::ServerConfig>>,
    front: Arc<Front>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(config.connections_max));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(pair) => pair,
            Err(e) => {
                accept_failed(&front, &e).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            let detail =
                format!("{} connections are open, which is the limit", config.connections_max);
            front.refused(Stage::Accept, Refused::peer(peer), "connections_max", detail);
            continue;
        };
        let acceptor = TlsAcceptor::from(tls.load_full());
        let handshake = admit(socket, peer, permit, acceptor, config.handshake_timeout);
        let front = Arc::clone(&front);
        let stop = stop.clone();
        tasks.spawn(async move { handshake.run(front, stop).await });
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
    /// Held until the connection ends.
    _permit: OwnedSemaphorePermit,
    acceptor: TlsAcceptor,
    timeout: Duration,
}

fn admit(
    socket: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
    acceptor: TlsAcceptor,
    timeout: Duration,
) -> Admitted {
    Admitted { socket, peer, _permit: permit, acceptor, timeout }
}

impl Admitted {
    async fn run(self, front: Arc<Front>, stop: CancellationToken) {
        if let Err(e) = self.socket.set_nodelay(true) {
            debug!(peer = %self.peer, "TCP_NODELAY not set: {e}");
        }
        // On the heap while it runs: the task would else keep room for it as long as the device is connected.
        let accept = Box::pin(self.acceptor.accept(self.socket));
        let handshake = tokio::time::timeout(self.timeout, accept);
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            outcome = handshake => outcome,
        };
        let stream = match outcome {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => {
                tls_refused(&front, self.peer, &e);
                return;
            }
            Err(_) => {
                let detail =
                    format!("the TLS handshake was not finished within {:?}", self.timeout);
                front.refused(Stage::Tls, Refused::peer(self.peer), "timeout", detail);
                return;
            }
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        // A box each: futures hold what they were given beside what they made of it.
        Box::pin(connection::run(Box::new(stream), chain, self.peer, front, stop)).await;
    }
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
