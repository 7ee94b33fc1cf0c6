//! The null broker: rustls and tokio, answers and keeps nothing. The floor of latency and of connects per second.
//!
//! TLS with client certificates, CONNECT, PUBLISH (QoS 1), PINGREQ; every answer of a wake-up in one write. A process of
//! its own (`gateway-bench --null-broker FOLDER`, a hidden command), so that its CPU can be read as a peer's.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::tls::{Check, server_config};
use crate::load::codec;

/// The hidden argument, before the PKI's folder.
pub(crate) const ARGUMENT: &str = "--null-broker";

/// What a connection reads at once; grows for larger packets.
const INBOX_BYTES: usize = 16 * 1024;
/// The largest packet that it takes.
const INBOX_BYTES_MAX: usize = 300 * 1024;

/// A null broker that runs; killed when dropped.
pub(crate) struct NullBroker {
    pub(crate) pid: u32,
    pub(crate) address: SocketAddr,
    _child: Child,
}

/// Starts this very program as a null broker, with the PKI in `folder`; returns when it listens.
pub(crate) async fn spawn(folder: &Path) -> anyhow::Result<NullBroker> {
    let program = std::env::current_exe().context("where is this program?")?;
    let mut child = Command::new(program)
        .args([ARGUMENT.as_ref(), folder.as_os_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the null broker")?;
    let pid = child.id().context("the null broker ended at once")?;
    let stdout = child.stdout.take().context("its output is piped")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).await?;
    let address = line.trim().parse();
    let address = address.with_context(|| format!("the null broker said {line:?}, no address"))?;
    Ok(NullBroker { pid, address, _child: child })
}

/// The process: prints its address, serves until its standard input ends (so it never outlives the harness).
pub(crate) async fn run(folder: &Path) -> anyhow::Result<()> {
    let config = server_config(folder, Check::Chain)?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?);
    // A thread of its own: tokio's stdin would keep the runtime from ending.
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        std::process::exit(0);
    });
    serve(listener, config).await
}

/// Accepts for ever; a connection that fails is gone.
pub(crate) async fn serve(listener: TcpListener, config: Arc<ServerConfig>) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await?;
        let config = Arc::clone(&config);
        connections.spawn(async move { connection(tcp, config).await });
        // What ended is forgotten.
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut stream = TlsAcceptor::from(config).accept(tcp).await?;
    let (mut inbox, mut kept) = (vec![0; INBOX_BYTES], 0);
    let mut out = Vec::new();
    loop {
        if kept == inbox.len() {
            if kept >= INBOX_BYTES_MAX {
                return Err(codec::wrong("a packet that is too large for the null broker"));
            }
            inbox.resize(kept * 2, 0);
        }
        let count = stream.read(&mut inbox[kept..]).await?;
        let end = kept + count;
        let heard = answer(&inbox[..end], &mut out)?;
        if !out.is_empty() {
            stream.write_all(&out).await?;
            stream.flush().await?;
            out.clear();
        }
        if heard.ended || count == 0 {
            return stream.shutdown().await;
        }
        inbox.copy_within(heard.bytes..end, 0);
        kept = end - heard.bytes;
    }
}

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Of whole packets.
    pub(crate) bytes: usize,
    /// A DISCONNECT.
    pub(crate) ended: bool,
}

/// Answers the whole packets in `input`.
pub(crate) fn answer(input: &[u8], out: &mut Vec<u8>) -> io::Result<Heard> {
    let mut bytes = 0;
    while let Some(frame) = codec::frame(&input[bytes..])? {
        bytes += frame.len;
        match frame.first & 0xF0 {
            0x10 => out.extend_from_slice(&[codec::CONNACK, 2, 0, 0]),
            0x30 => {
                let [high, low] = codec::publish_id(frame.body)?.to_be_bytes();
                out.extend_from_slice(&[codec::PUBACK, 2, high, low]);
            }
            0xC0 => out.extend_from_slice(&codec::PINGRESP),
            0xE0 => return Ok(Heard { bytes, ended: true }),
            _ => return Err(codec::wrong("a packet that no publisher sends")),
        }
    }
    Ok(Heard { bytes, ended: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_packets_are_answered_and_the_rest_is_kept() {
        let mut input = codec::connect("id", "un", 10);
        input.extend(codec::publish("t", 7, b"xyz").0);
        input.extend(codec::PINGREQ);
        let whole = input.len();
        input.extend_from_slice(&codec::publish("t", 8, b"xyz").0[..5]);
        let mut out = Vec::new();
        let heard = answer(&input, &mut out).expect("MQTT");
        assert_eq!(heard, Heard { bytes: whole, ended: false });
        assert_eq!(out, [0x20, 2, 0, 0, 0x40, 2, 0, 7, 0xD0, 0]);
        assert!(answer(&codec::DISCONNECT, &mut out).expect("MQTT").ended);
    }
}
