//! From nothing to an open AMQP connection: TCP, TLS, SASL, open.
//!
//! Owns: the dialling, the limits on its time, and [`Severable`], the switch that ends a connection whose peer has gone
//! silent. Must not know: what the connection is for.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use fe2o3_amqp::Connection;
use fe2o3_amqp::connection::{ConnectionHandle, OpenError};
use fe2o3_amqp::sasl_profile::SaslProfile;
use futures_util::task::AtomicWaker;
use rand::Rng;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gather::Gathered;
use crate::iothub::sas::SignError;

/// Largest frame that we take (B1: what the C# SDK announces).
const FRAME_BYTES_MAX: u32 = 65_536;
/// Highest channel, that is sessions less one.
const CHANNEL_MAX: u16 = 4_095;

/// Why no connection came about. All of these are the environment's: they are retried.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(
        "cannot reach {to}: {error}; check the network, the name and the firewall (outbound TCP)"
    )]
    Tcp { to: String, error: io::Error },
    #[error(
        "TLS with {to} failed: {error}; check the trusted roots, the time of this machine and TLS-inspecting proxies"
    )]
    Tls { to: String, error: io::Error },
    #[error("{0:?} is neither a host name nor an address")]
    Name(String),
    #[error("{to} did not open the AMQP connection: {error}")]
    Open { to: String, error: Box<OpenError> },
    #[error("{to} did not answer within {after:?} ({during})")]
    Time { to: String, after: Duration, during: &'static str },
    #[error(
        "the hub does not let {who} sign in: {detail}; check its key, its registration and the time of this machine"
    )]
    Refused { who: String, detail: String },
    #[error("the hub ended the connection while it was being set up")]
    Ended,
    #[error("{0}")]
    Sign(SignError),
}

/// Where to dial and who is expected there.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Name of the hub: SNI, certificate, AMQP `hostname`.
    pub(super) hub_host: String,
    /// Name or address to dial.
    pub(super) dial_host: String,
    pub(super) port: u16,
    /// Limit on each of: TCP, TLS, SASL with open.
    pub(super) step_timeout: Duration,
}

impl Peer {
    fn text(&self) -> String {
        format!("{}:{}", self.dial_host, self.port)
    }
}

/// TCP (without Nagle's delay: a batch is written at once and waited for) and TLS with the hub's name as SNI (A1).
pub(super) async fn dial(
    peer: &Peer,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let name = ServerName::try_from(peer.hub_host.clone())
        .map_err(|_| ConnectError::Name(peer.hub_host.clone()))?;
    let late = |during| ConnectError::Time { to: peer.text(), after: peer.step_timeout, during };
    let tcp = timeout(peer.step_timeout, TcpStream::connect((peer.dial_host.as_str(), peer.port)))
        .await
        .map_err(|_| late("TCP"))?
        .map_err(|error| ConnectError::Tcp { to: peer.text(), error })?;
    tcp.set_nodelay(true).map_err(|error| ConnectError::Tcp { to: peer.text(), error })?;
    timeout(peer.step_timeout, TlsConnector::from(tls.clone()).connect(name, tcp))
        .await
        .map_err(|_| late("TLS"))?
        .map_err(|error| ConnectError::Tls { to: peer.text(), error })
}

/// SASL ANONYMOUS (the identities are authenticated by CBS, J3) and open. `severed` ends the connection at once, and
/// silence of `silence_max` ends it as well.
pub(super) async fn open(
    peer: &Peer,
    stream: TlsStream<TcpStream>,
    silence_max: Duration,
    severed: CancellationToken,
    tracker: &TaskTracker,
) -> Result<ConnectionHandle<()>, ConnectError> {
    let container = format!("sphere-gateway-{:032x}", rand::rng().random::<u128>());
    let opening = Connection::builder()
        .container_id(container)
        .hostname(peer.hub_host.as_str())
        .sasl_hostname(peer.hub_host.as_str())
        .sasl_profile(SaslProfile::Anonymous)
        .max_frame_size(FRAME_BYTES_MAX)
        .channel_max(CHANNEL_MAX)
        // The library tells the peer half of this, as AMQP 1.0 section 2.4.5 recommends, and acts on the whole.
        .idle_time_out(u32::try_from(silence_max.as_millis()).unwrap_or(u32::MAX))
        .open_with_stream(Gathered::new(Severable::new(stream, severed, tracker)));
    timeout(peer.step_timeout, opening)
        .await
        .map_err(|_| ConnectError::Time {
            to: peer.text(),
            after: peer.step_timeout,
            during: "AMQP open",
        })?
        .map_err(|error| ConnectError::Open { to: peer.text(), error: Box::new(error) })
}

/// A stream that can be cut from our side.
///
/// The AMQP library owns the stream, and when it is stuck in a write to a peer that reads no more it neither sees a
/// close command nor its own idle time-out; only the stream itself can end that.
struct Severable<S> {
    inner: S,
    switch: Arc<Switch>,
}

/// Tells the stream's task that it is cut. Looked at with every frame, where the token itself would take two locks.
#[derive(Default)]
struct Switch {
    cut: AtomicBool,
    task: AtomicWaker,
}

impl<S> Severable<S> {
    /// Spawns a task that ends when `severed` is cancelled.
    fn new(inner: S, severed: CancellationToken, tracker: &TaskTracker) -> Self {
        let switch = Arc::new(Switch::default());
        let cutting = Arc::clone(&switch);
        tracker.spawn(async move {
            severed.cancelled().await;
            cutting.cut.store(true, Ordering::Release);
            cutting.task.wake();
        });
        Self { inner, switch }
    }

    fn cut(&self, cx: &mut Context<'_>) -> bool {
        self.switch.task.register(cx.waker());
        self.switch.cut.load(Ordering::Acquire)
    }
}

impl<S> fmt::Debug for Severable<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Severable")
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "given up by this side")
}

impl<S: AsyncRead + Unpin> AsyncRead for Severable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut(cx) {
            return Poll::Ready(Err(gone()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Severable<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.cut(cx) {
            return Poll::Ready(Err(gone()));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cut(cx) {
            return Poll::Ready(Err(gone()));
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cut(cx) {
            return Poll::Ready(Err(gone()));
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
