//! An MQTT broker that only takes: the upstream of a bridge, over TCP or TLS.
//!
//! Owns: its port. Invariant: the port is reserved for as long as the broker lives by a bound socket that does not
//! listen, so while it is away bridges are refused and nobody else gets the port. Must not know: who connects.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::acks::{self, Acks, on_ping, on_publish};
use super::codec::{self, Malformed, Packet, kind};
use super::{Delay, Tally};
use crate::pki::Pki;

/// A running broker.
#[derive(Debug)]
pub(crate) struct MqttBroker {
    shared: Arc<Shared>,
    address: SocketAddr,
    life: Option<Life>,
    _reserved: TcpSocket,
}

/// Between a coming and a going.
#[derive(Debug)]
struct Life {
    stop: CancellationToken,
    tasks: TaskTracker,
    _stop_on_drop: DropGuard,
}

struct Shared {
    tally: Arc<Tally>,
    delay: Delay,
    tls: Option<TlsAcceptor>,
    /// Clients with a session, for the flag of CONNACK.
    sessions: Mutex<HashSet<Vec<u8>>>,
    /// Connections that were answered with CONNACK.
    connected: watch::Sender<usize>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl MqttBroker {
    /// Listens on a free port of loopback; `tls` with the hub's certificate of `pki`.
    pub(crate) fn start(pki: &Pki, tls: bool, tally: Arc<Tally>) -> anyhow::Result<Self> {
        let reserved =
            bound((Ipv4Addr::LOCALHOST, 0).into()).context("no free port for the sink")?;
        let mut broker = Self {
            address: reserved.local_addr()?,
            shared: Arc::new(Shared {
                tally,
                delay: Delay::default(),
                tls: tls.then(|| acceptor(pki)).transpose()?,
                sessions: Mutex::default(),
                connected: watch::Sender::new(0),
            }),
            life: None,
            _reserved: reserved,
        };
        broker.come_back()?;
        Ok(broker)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn delay(&self) -> &Delay {
        &self.shared.delay
    }

    /// Waits until somebody is connected.
    pub(crate) async fn linked(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.connected.subscribe().wait_for(|n| *n > 0).await;
    }

    /// Drops all connections and refuses new ones.
    pub(crate) async fn go_away(&mut self) {
        if let Some(life) = self.life.take() {
            life.stop.cancel();
            life.tasks.close();
            life.tasks.wait().await;
        }
    }

    /// Listens again on the same port.
    pub(crate) fn come_back(&mut self) -> anyhow::Result<()> {
        if self.life.is_some() {
            return Ok(());
        }
        let listener = bound(self.address)
            .and_then(|socket| socket.listen(64))
            .with_context(|| format!("the sink cannot listen on {}", self.address))?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let accepting = accept(listener, Arc::clone(&self.shared), stop.clone(), tasks.clone());
        tasks.spawn(accepting);
        self.life = Some(Life { _stop_on_drop: stop.clone().drop_guard(), stop, tasks });
        Ok(())
    }
}

fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    // One socket holds the port, another listens on it: only those that listen get connections.
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn acceptor(pki: &Pki) -> anyhow::Result<TlsAcceptor> {
    let (chain, key) = pki.hub_pem()?;
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (stop, shared) = (stop.clone(), Arc::clone(&shared));
                tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        served = serve(stream, &shared) => if let Err(error) = served {
                            eprintln!("the MQTT sink lost a connection: {error}");
                        }
                    }
                });
            }
            Err(error) => {
                eprintln!("the MQTT sink cannot accept, trying again: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match &shared.tls {
        None => speak(stream, shared).await,
        Some(tls) => speak(tls.accept(stream).await?, shared).await,
    }
}

/// A connection that counts as connected, however it ends.
struct Connected<'a>(&'a watch::Sender<usize>);

impl<'a> Connected<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|n| *n += 1);
        Self(count)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

async fn speak<S>(mut stream: S, shared: &Shared) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connected = None;
    let mut acks = Acks::default();
    acks::run(&mut stream, &mut acks, &shared.delay, None, |packet, acks, delay| {
        match packet.kind() {
            kind::PUBLISH => on_publish(packet, &shared.tally, acks, delay)?,
            kind::CONNECT => {
                on_connect(packet, shared, acks)?;
                connected = Some(Connected::new(&shared.connected));
            }
            kind::SUBSCRIBE => {
                let (id, filters) = codec::subscribe(packet)?;
                codec::put_suback(&mut acks.out, id, filters);
            }
            kind::UNSUBSCRIBE => codec::put_unsuback(&mut acks.out, codec::number(packet.body)?.0),
            kind::DISCONNECT => return Ok(false),
            _ => {
                on_ping(packet, acks);
            }
        }
        Ok(true)
    })
    .await
}

fn on_connect(packet: &Packet<'_>, shared: &Shared, acks: &mut Acks) -> Result<(), Malformed> {
    let connect = codec::connect(packet)?;
    let mut sessions = shared.sessions.lock().unwrap_or_else(PoisonError::into_inner);
    let present = if connect.clean {
        sessions.remove(connect.client);
        false
    } else {
        !sessions.insert(connect.client.to_vec())
    };
    codec::put_connack(&mut acks.out, present);
    Ok(())
}
