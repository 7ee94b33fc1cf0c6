//! A durable MQTT subscriber over TLS: takes the messages out of a broker that has no bridge.
//!
//! Owns: one connection, made again until it stands. Invariant: it never unsubscribes, so that the broker has to keep
//! what it cannot deliver. Must not know: which broker it is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::acks::{self, Acks, on_ping, on_publish};
use super::codec::{self, kind};
use super::{Delay, Tally};
use crate::pki::{Pki, SERVER};

/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(50);

/// An attempt that takes longer is given up.
const CONNECT: Duration = Duration::from_secs(10);

const KEEP_ALIVE_SECS: u16 = 60;

/// A running subscriber.
#[derive(Debug)]
pub(crate) struct MqttSubscriber {
    shared: Arc<Shared>,
    life: Option<Life>,
}

#[derive(Debug)]
struct Life {
    stop: CancellationToken,
    tasks: TaskTracker,
    _stop_on_drop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    broker: SocketAddr,
    client: String,
    tls: Arc<rustls::ClientConfig>,
    tally: Arc<Tally>,
    delay: Delay,
    subscribed: watch::Sender<bool>,
}

impl MqttSubscriber {
    /// Subscribes at `broker` as soon as it is there.
    pub(crate) fn start(pki: &Pki, broker: SocketAddr, tally: Arc<Tally>) -> Self {
        let mut subscriber = Self {
            shared: Arc::new(Shared {
                broker,
                client: pki.subscriber.id.clone(),
                tls: Arc::clone(&pki.subscriber.tls),
                tally,
                delay: Delay::default(),
                subscribed: watch::Sender::new(false),
            }),
            life: None,
        };
        subscriber.come_back();
        subscriber
    }

    pub(crate) fn delay(&self) -> &Delay {
        &self.shared.delay
    }

    /// Waits until it is subscribed.
    pub(crate) async fn linked(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.subscribed.subscribe().wait_for(|subscribed| *subscribed).await;
    }

    /// Drops the connection without a word and stays away.
    pub(crate) async fn go_away(&mut self) {
        if let Some(life) = self.life.take() {
            life.stop.cancel();
            life.tasks.close();
            life.tasks.wait().await;
        }
        self.shared.subscribed.send_replace(false);
    }

    pub(crate) fn come_back(&mut self) {
        if self.life.is_some() {
            return;
        }
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (stopped, shared) = (stop.clone(), Arc::clone(&self.shared));
        tasks.spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = keep_connected(&shared) => {}
            }
        });
        self.life = Some(Life { _stop_on_drop: stop.clone().drop_guard(), stop, tasks });
    }
}

/// Errors are no news: the broker is killed and restarted under this subscriber.
async fn keep_connected(shared: &Shared) {
    loop {
        let _ = connection(shared).await;
        shared.subscribed.send_replace(false);
        tokio::time::sleep(RETRY).await;
    }
}

/// TCP, TLS, CONNECT and CONNACK; says whether the session was there.
pub(crate) async fn open(
    to: SocketAddr,
    tls: &Arc<rustls::ClientConfig>,
    client: &str,
    user: Option<&str>,
) -> io::Result<(TlsStream<TcpStream>, bool)> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(SERVER).map_err(io::Error::other)?;
    let mut stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
    let mut out = Vec::new();
    codec::put_connect(&mut out, client, user, KEEP_ALIVE_SECS);
    stream.write_all(&out).await?;
    stream.flush().await?;
    let connack = acks::expect(&mut stream, kind::CONNACK).await?;
    match connack[..] {
        [present, 0] => Ok((stream, present == 1)),
        _ => Err(io::Error::other(format!("CONNECT is refused: {connack:?}"))),
    }
}

async fn connection(shared: &Shared) -> io::Result<()> {
    let opening = open(shared.broker, &shared.tls, &shared.client, None);
    let (mut stream, present) = tokio::time::timeout(CONNECT, opening).await??;
    let mut acks = Acks::default();
    if present {
        // The broker knows the subscription; asking again might move its place in the backlog.
        shared.subscribed.send_replace(true);
    } else {
        codec::put_subscribe(&mut acks.out, 1, "devices/#");
    }
    let ping_every = Duration::from_secs(u64::from(KEEP_ALIVE_SECS) / 2);
    acks::run(&mut stream, &mut acks, &shared.delay, Some(ping_every), |packet, acks, delay| {
        match packet.kind() {
            kind::PUBLISH => on_publish(packet, &shared.tally, acks, delay)?,
            kind::SUBACK => {
                shared.subscribed.send_replace(true);
            }
            kind::DISCONNECT => return Ok(false),
            _ => {
                on_ping(packet, acks);
            }
        }
        Ok(true)
    })
    .await
}
