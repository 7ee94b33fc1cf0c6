//! A simulated Azure Sphere device: X.509, TLS, MQTT 3.1.1 QoS 1, one message after the other, and a ledger.
//!
//! Its packets come from the client crate `rumqttc`, not from the gateway's codec, so that the two cannot agree on a
//! mistake. It behaves as the Azure C SDK does: it keeps what is not acknowledged and sends it again, in order, with
//! DUP set, after a reconnect. What it hears is in [`sphere`].
//!
//! Shared by the quickstart and the integration tests.

#[path = "sphere.rs"]
mod sphere;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Connect, ConnectReturnCode, Login, Packet, Publish};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sphere_gateway::certs::{Issued, Site};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

pub(crate) use self::sphere::Heard;
use self::sphere::Sphere;

const PACKET_BYTES_MAX: usize = 300 * 1024;

/// What a device needs to know.
#[derive(Clone)]
pub(crate) struct DeviceConfig {
    /// Its id: the certificate's common name.
    pub(crate) id: String,
    /// Short name used in message ids (an id of 128 characters would leave no room: IoT Hub allows 128 in all).
    pub(crate) nick: String,
    /// Where the gateway listens on the loopback address. It may change: a restarted gateway takes another port.
    pub(crate) port: Arc<AtomicU16>,
    /// The gateway's name, as in its certificate.
    pub(crate) gateway: String,
    /// Trust and client certificate.
    pub(crate) tls: Arc<rustls::ClientConfig>,
    /// Unacknowledged messages at most.
    pub(crate) window: usize,
    /// Pause between two new messages; zero = as fast as the window allows.
    pub(crate) interval: Duration,
    /// Bytes of filling in each body.
    pub(crate) filling: usize,
    /// Twin, methods and cloud-to-device messages as well; the number of times that its button was pressed. `None`: telemetry
    /// alone.
    pub(crate) button: Option<watch::Receiver<u64>>,
}

/// What happened to the messages of one device. Sequence numbers count from 1.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The highest number handed to the network.
    pub(crate) sent: AtomicU64,
    /// The highest number of the unbroken run of acknowledged ones.
    pub(crate) acked: AtomicU64,
    /// Times that a PUBACK came for something else than the oldest unacknowledged message.
    pub(crate) ack_order_violations: AtomicU64,
    /// Whether it is connected now.
    pub(crate) connected: AtomicBool,
    /// What came down to it.
    pub(crate) heard: Mutex<Heard>,
}

/// Who signed the gateway's certificate, as a device has it.
pub(crate) fn gateway_roots(site: &Site) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let root =
        CertificateDer::from_pem_slice(site.edge_root.certificate_pem().as_bytes()).expect("PEM");
    roots.add(root).expect("a root");
    roots
}

/// The TLS of a device: it presents its leaf alone, as Azure Sphere does.
pub(crate) fn client_tls(
    roots: RootCertStore,
    issued: Option<&Issued>,
) -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has suites for TLS 1.2 and 1.3")
        .with_root_certificates(roots);
    Arc::new(match issued {
        None => builder.with_no_client_auth(),
        Some(issued) => {
            let leaf = CertificateDer::from_pem_slice(issued.leaf_pem.as_bytes()).expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(vec![leaf], key).expect("the key fits the certificate")
        }
    })
}

/// When a device stops.
#[derive(Clone)]
pub(crate) struct Stops {
    /// No new messages from here on; ends when all that was sent is acknowledged.
    pub(crate) finish: CancellationToken,
    /// Ends at once.
    pub(crate) abort: CancellationToken,
}

/// Runs until `stops.finish` (and everything is acknowledged) or `stops.abort`.
pub(crate) async fn run(config: DeviceConfig, ledger: Arc<Ledger>, stops: Stops) {
    let button = config.button.clone();
    let sphere = button.map(|button| Sphere::new(&config.id, &ledger, button));
    let next_at = tokio::time::Instant::now();
    let mut device = Device { config, ledger, sphere, unacked: VecDeque::new(), next_at };
    // The C SDK starts at once and doubles; a simulation that waits for a restarted gateway wants to be back soon.
    let mut pause = Duration::from_millis(20);
    let done = |device: &Device| stops.finish.is_cancelled() && device.unacked.is_empty();
    while !stops.abort.is_cancelled() && !done(&device) {
        let before = device.ledger.acked.load(Ordering::Relaxed);
        tokio::select! {
            () = stops.abort.cancelled() => {}
            _ = device.connection(&stops.finish) => {}
        }
        device.ledger.connected.store(false, Ordering::Relaxed);
        let progressed = device.ledger.acked.load(Ordering::Relaxed) > before;
        pause = if progressed {
            Duration::from_millis(20)
        } else {
            (pause * 2).min(Duration::from_secs(1))
        };
        tokio::select! {
            () = stops.abort.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Connects, sends CONNECT, and returns the stream with the CONNACK's code. For who has no session that is kept: what came
/// behind the CONNACK is thrown away.
pub(crate) async fn connect(
    config: &DeviceConfig,
    keep_alive: u16,
) -> io::Result<(TlsStream<TcpStream>, ConnectReturnCode)> {
    open(config, keep_alive).await.map(|(tls, _, code)| (tls, code))
}

/// The same, with what came behind the CONNACK.
async fn open(
    config: &DeviceConfig,
    keep_alive: u16,
) -> io::Result<(TlsStream<TcpStream>, BytesMut, ConnectReturnCode)> {
    let tcp = TcpStream::connect(("127.0.0.1", config.port.load(Ordering::Relaxed))).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(config.gateway.clone()).map_err(io::Error::other)?;
    let mut tls = TlsConnector::from(Arc::clone(&config.tls)).connect(name, tcp).await?;
    let mut connect = Connect::new(config.id.clone());
    connect.keep_alive = keep_alive;
    connect.clean_session = false;
    // What the official Sphere sample sends: the gateway's own name in front, and no password.
    connect.login = Some(Login {
        username: format!(
            "{}/{}/?api-version=2020-09-30&DeviceClientType=iothubclient%2f1.14.0%20(native%3b%20Sphere)\
             &model-id=dtmi%3acom%3aexample%3aazuresphere%3athermometer%3b1",
            config.gateway, config.id
        ),
        password: String::new(),
    });
    write(&mut tls, &Packet::Connect(connect)).await?;
    let mut inbox = BytesMut::new();
    match read(&mut tls, &mut inbox).await? {
        Packet::ConnAck(ack) => Ok((tls, inbox, ack.code)),
        other => Err(io::Error::other(format!("wanted CONNACK, got {other:?}"))),
    }
}

/// Writes one packet.
pub(crate) async fn write(tls: &mut TlsStream<TcpStream>, packet: &Packet) -> io::Result<()> {
    let mut out = BytesMut::new();
    packet.write(&mut out, PACKET_BYTES_MAX).map_err(io::Error::other)?;
    tls.write_all(&out).await?;
    tls.flush().await
}

/// Reads one packet; `inbox` keeps what came after it. Safe to drop and call again.
pub(crate) async fn read(
    tls: &mut TlsStream<TcpStream>,
    inbox: &mut BytesMut,
) -> io::Result<Packet> {
    loop {
        match Packet::read(inbox, PACKET_BYTES_MAX) {
            Ok(packet) => return Ok(packet),
            Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => {}
            Err(e) => return Err(io::Error::other(e)),
        }
        if tls.read_buf(inbox).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// How long a device waits for its CONNACK, as the C SDK does. Whoever has the port of a gateway that was killed may never
/// answer.
const CONNACK_WAIT: Duration = Duration::from_secs(30);

struct Device {
    config: DeviceConfig,
    ledger: Arc<Ledger>,
    sphere: Option<Sphere>,
    /// Numbers that were sent and not acknowledged, oldest first.
    unacked: VecDeque<u64>,
    next_at: tokio::time::Instant,
}

impl Device {
    async fn connection(&mut self, finish: &CancellationToken) -> io::Result<()> {
        let opened = tokio::time::timeout(CONNACK_WAIT, open(&self.config, 240)).await;
        let (mut tls, mut inbox, code) = opened.map_err(|_| io::ErrorKind::TimedOut)??;
        if code != ConnectReturnCode::Success {
            return Err(io::Error::other(format!("refused: {code:?}")));
        }
        self.ledger.connected.store(true, Ordering::Relaxed);
        let mut again = BytesMut::new();
        for &number in &self.unacked {
            self.publish(number, true, &mut again)?;
        }
        let free = self.free_packet_id();
        if let Some(sphere) = &mut self.sphere {
            sphere.begin(free, &mut again)?;
        }
        tls.write_all(&again).await?;
        loop {
            if finish.is_cancelled() && self.unacked.is_empty() {
                write(&mut tls, &Packet::Disconnect).await?;
                return tls.shutdown().await;
            }
            self.send_due(&mut tls, finish.is_cancelled()).await?;
            let may_send = self.unacked.len() < self.config.window && !finish.is_cancelled();
            tokio::select! {
                packet = read(&mut tls, &mut inbox) => {
                    let answer = self.received(&packet?)?;
                    tls.write_all(&answer).await?;
                }
                () = pressed(self.sphere.as_mut()) => {
                    let mut out = BytesMut::new();
                    self.sphere.as_mut().expect("pressed").tell_presses(&mut out)?;
                    tls.write_all(&out).await?;
                }
                () = tokio::time::sleep_until(self.next_at), if may_send => {}
                () = finish.cancelled(), if !finish.is_cancelled() => {}
            }
        }
    }

    /// Sends new messages that are due, in one write.
    async fn send_due(
        &mut self,
        tls: &mut TlsStream<TcpStream>,
        finishing: bool,
    ) -> io::Result<()> {
        let mut out = BytesMut::new();
        while !finishing
            && self.unacked.len() < self.config.window
            && self.next_at <= tokio::time::Instant::now()
        {
            let number = self.ledger.sent.fetch_add(1, Ordering::Relaxed) + 1;
            self.publish(number, false, &mut out)?;
            self.unacked.push_back(number);
            self.next_at += self.config.interval;
            if self.config.interval.is_zero() {
                self.next_at = tokio::time::Instant::now();
            }
        }
        tls.write_all(&out).await?;
        tls.flush().await
    }

    fn publish(&self, number: u64, dup: bool, out: &mut BytesMut) -> io::Result<()> {
        let c = &self.config;
        let topic = format!(
            "devices/{}/messages/events/%24.mid={}-{number}&%24.ct=application%2Fjson&%24.ce=utf-8&seq={number}",
            c.id, c.nick
        );
        let body = format!(
            "{{\"seq\":{number},\"temperature\":{:.1},\"filling\":\"{}\"}}",
            20.0 + (number % 50) as f64 / 10.0,
            "x".repeat(c.filling)
        );
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, body);
        publish.pkid = packet_id(number);
        publish.dup = dup;
        Packet::Publish(publish).write(out, PACKET_BYTES_MAX).map_err(io::Error::other)?;
        Ok(())
    }

    /// Gives what is to be written.
    fn received(&mut self, packet: &Packet) -> io::Result<BytesMut> {
        let mut out = BytesMut::new();
        let Packet::PubAck(ack) = packet else {
            let free = self.free_packet_id();
            if let Some(sphere) = &mut self.sphere {
                sphere.received(packet, free, &mut out)?;
            }
            return Ok(out);
        };
        match self.unacked.front() {
            Some(&number) if packet_id(number) == ack.pkid => {
                self.unacked.pop_front();
                self.ledger.acked.store(number, Ordering::Relaxed);
            }
            _ => {
                self.ledger.ack_order_violations.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(out)
    }

    /// For a SUBSCRIBE: half the ids away from those of messages.
    fn free_packet_id(&self) -> u16 {
        packet_id(self.ledger.sent.load(Ordering::Relaxed) + 32_768)
    }
}

/// Waits for the button of a device that has one.
async fn pressed(sphere: Option<&mut Sphere>) {
    match sphere {
        Some(sphere) => sphere.pressed().await,
        None => std::future::pending().await,
    }
}

/// Packet ids are 1..=65535 [MQTT-2.3.1-1].
fn packet_id(number: u64) -> u16 {
    (number % 65_535) as u16 + 1
}
