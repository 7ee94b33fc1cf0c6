//! From nothing to CONNACK: one device, many devices at once, and peers that never say a word.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{codec, now_nanos};
use crate::pki::{Device, Pki, SERVER};

/// Who does not answer for so long is not there.
const PATIENCE: Duration = Duration::from_secs(10);

/// As the Azure SDKs ask for; the fleet pings well before.
const KEEP_ALIVE_S: u16 = 240;

pub(super) type Stream = TlsStream<TcpStream>;

/// Who a device is.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) id: String,
    pub(super) tls: Arc<rustls::ClientConfig>,
}

impl From<&Device> for Identity {
    fn from(device: &Device) -> Self {
        Self { id: device.id.clone(), tls: Arc::clone(&device.tls) }
    }
}

/// The first `count` devices.
pub(super) fn identities(pki: &Pki, count: usize) -> anyhow::Result<Vec<Identity>> {
    let has = pki.devices.len();
    anyhow::ensure!(count <= has, "{count} devices wanted, the PKI has {has}: mint more");
    Ok(pki.devices[..count].iter().map(Identity::from).collect())
}

/// A full handshake, CONNECT, CONNACK.
pub(super) async fn open(identity: &Identity, to: SocketAddr) -> io::Result<Stream> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no CONNACK within 10 s");
    tokio::time::timeout(PATIENCE, dial(identity, to)).await.map_err(late)?
}

async fn dial(identity: &Identity, to: SocketAddr) -> io::Result<Stream> {
    let tcp = TcpStream::connect(to).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(SERVER).expect("a DNS name");
    let mut stream = TlsConnector::from(Arc::clone(&identity.tls)).connect(name, tcp).await?;
    // What the Sphere sample sends: the gateway's own name in front, and no password.
    let user_name = format!("{SERVER}/{}/?api-version=2020-09-30", identity.id);
    stream.write_all(&codec::connect(&identity.id, &user_name, KEEP_ALIVE_S)).await?;
    stream.flush().await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    match answer {
        // The flag in between says whether there was a session: either will do.
        [codec::CONNACK, 2, _, 0] => Ok(stream),
        [codec::CONNACK, 2, _, code] => {
            Err(codec::wrong(&format!("CONNACK with return code {code}: it refuses this device")))
        }
        other => Err(codec::wrong(&format!("{other:02x?}, no CONNACK"))),
    }
}

/// Calls `each` for 0..count, `at_once` tasks share the work.
async fn share<T, F>(count: usize, at_once: usize, each: impl Fn(usize) -> F) -> Vec<(usize, T)>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let (mut next, mut done) = (0, Vec::with_capacity(count));
    while done.len() < count {
        while next < count && tasks.len() < at_once.max(1) {
            let (place, one) = (next, each(next));
            tasks.spawn(async move { (place, one.await) });
            next += 1;
        }
        done.push(tasks.join_next().await.expect("one is under way").expect("it does not panic"));
    }
    done
}

/// Connects everyone, `at_once` at a time, in the order of the devices.
pub(super) async fn all(
    identities: &[Identity],
    to: SocketAddr,
    at_once: usize,
) -> Vec<io::Result<Stream>> {
    let each = |place: usize| {
        let identity: Identity = identities[place].clone();
        async move { open(&identity, to).await }
    };
    let mut done = share(identities.len(), at_once, each).await;
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

/// What [`connects`] saw. The connections stay open until this is dropped (or the keep-alive of 240 s is over).
pub(crate) struct Connected {
    /// From the first connect to the last answer.
    pub(crate) seconds: f64,
    pub(crate) failed: usize,
    /// What the first one that failed was told.
    pub(crate) first_error: Option<String>,
    _held: Vec<Stream>,
}

/// Connects `count` devices, `at_once` at a time, each with a full handshake and CONNECT/CONNACK, keeps them open.
pub(crate) async fn connects(
    pki: &Arc<Pki>,
    to: SocketAddr,
    count: usize,
    at_once: usize,
) -> anyhow::Result<Connected> {
    Ok(connect_all(&identities(pki, count)?, to, at_once).await)
}

pub(super) async fn connect_all(
    identities: &[Identity],
    to: SocketAddr,
    at_once: usize,
) -> Connected {
    let started = now_nanos();
    let results = all(identities, to, at_once).await;
    let seconds = (now_nanos() - started) as f64 / 1e9;
    let (mut held, mut errors) = (Vec::with_capacity(results.len()), Vec::new());
    for (identity, result) in identities.iter().zip(results) {
        match result {
            Ok(stream) => held.push(stream),
            Err(why) => errors.push(format!("{}: {why}", identity.id)),
        }
    }
    let failed = errors.len();
    Connected { seconds, failed, first_error: errors.into_iter().next(), _held: held }
}

/// TCP connections that never say a word, held until dropped.
pub(crate) struct Silent {
    _held: Vec<TcpStream>,
}

/// Opens `count` of them.
pub(crate) async fn silent(to: SocketAddr, count: usize) -> anyhow::Result<Silent> {
    let mut held = Vec::with_capacity(count);
    for place in 0..count {
        let connected = tokio::time::timeout(PATIENCE, TcpStream::connect(to)).await;
        let tcp = connected.map_err(anyhow::Error::from).and_then(|tcp| Ok(tcp?));
        held.push(tcp.with_context(|| format!("silent connection {place} of {count} to {to}"))?);
    }
    Ok(Silent { _held: held })
}
