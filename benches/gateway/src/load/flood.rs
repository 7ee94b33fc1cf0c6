//! Attackers: silent peers, garbage, handshakes with certificates of a stranger, connect and close.
//!
//! Each attacker has a loopback address of its own (127.0.0.2 and on), as hosts of a site's network have, and comes again
//! soon after it is refused. Must not know: who is attacked.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::pki::{Pki, SERVER};

/// A flood under way. Ends when dropped.
pub(crate) struct Flood {
    attempts: Arc<AtomicU64>,
    _attackers: JoinSet<()>,
}

/// How an attacker attacks.
#[derive(Clone, Copy)]
enum Way {
    Silent,
    Garbage,
    Stranger,
    Leaves,
}

/// Attackers of each way. The silent ones have one address in common, and so many connections each.
const OF_EACH: u8 = 8;
const SILENT_EACH: usize = 64;
/// How soon they come again: 3,400 attempts a second in all, which leaves the honest devices of this program its cores.
const PAUSE: Duration = Duration::from_millis(10);
const SILENT_PAUSE: Duration = Duration::from_millis(500);

impl Flood {
    /// `strangers` are of another CA than the attacked one trusts.
    pub(crate) fn start(strangers: &Arc<Pki>, to: SocketAddr) -> Self {
        let attempts = Arc::new(AtomicU64::new(0));
        let mut attackers = JoinSet::new();
        for number in 0..OF_EACH {
            for (way, from, at_once, pause) in [
                (Way::Silent, 2, SILENT_EACH, SILENT_PAUSE),
                (Way::Garbage, 10 + number, 1, PAUSE),
                (Way::Stranger, 30 + number, 1, PAUSE),
                (Way::Leaves, 50 + number, 1, PAUSE),
            ] {
                for _ in 0..at_once {
                    let (attempts, strangers) = (Arc::clone(&attempts), Arc::clone(strangers));
                    attackers.spawn(async move {
                        loop {
                            let _ = attack(way, from, to, &strangers).await;
                            attempts.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(pause).await;
                        }
                    });
                }
            }
        }
        Self { attempts, _attackers: attackers }
    }

    /// Connections that were tried so far.
    pub(crate) fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }
}

async fn attack(way: Way, from: u8, to: SocketAddr, strangers: &Pki) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, from), 0).into())?;
    let mut tcp: TcpStream = socket.connect(to).await?;
    let mut answer = [0; 64];
    match way {
        Way::Leaves => return Ok(()),
        Way::Silent => {}
        Way::Garbage => tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await?,
        Way::Stranger => {
            let device = &strangers.devices[usize::from(from) % strangers.devices.len()];
            let name = ServerName::try_from(SERVER).expect("a DNS name");
            let mut tls = TlsConnector::from(Arc::clone(&device.tls)).connect(name, tcp).await?;
            let user_name = format!("{SERVER}/{}/?api-version=2020-09-30", device.id);
            tls.write_all(&super::codec::connect(&device.id, &user_name, 240)).await?;
            tls.flush().await?;
            return tls.read(&mut answer).await.map(|_| ());
        }
    }
    tcp.read(&mut answer).await.map(|_| ())
}
