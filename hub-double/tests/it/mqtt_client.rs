//! MQTT clients for the tests: rumqttc's, with TLS put around it by a tunnel of this file, so that a client certificate and
//! the absence of SNI are ours to choose.

use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hub_double::{AuthType, Config, DeviceSpec, HubDouble, Key, sas_token};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rumqttc::mqttbytes::v4::SubscribeFilter;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Packet,
    Publish, QoS, SubscribeReasonCode,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sha1::{Digest as _, Sha1};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::TaskTracker;

use super::client::{DEVICE_KEY, HUB, config, device_token, now_secs, roots};

pub(crate) const SPHERE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
                                 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A client certificate with its key.
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Identity {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.clone()).expect("PKCS #8")
    }

    pub(crate) fn sha1(&self) -> String {
        Sha1::digest(&self.chain[0]).iter().map(|b| format!("{b:02X}")).collect()
    }
}

/// A CA with a certificate for each of these common names.
pub(crate) struct Pki {
    pub(crate) ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([]).expect("no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Pki {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = params("tenant");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = params.self_signed(&key).expect("signed").pem();
        Self { ca_pem, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn issue(&self, name: &str) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let leaf = params(name).signed_by(&key, &self.issuer).expect("signed");
        Identity { chain: vec![leaf.der().clone()], key: key.serialize_der() }
    }
}

pub(crate) static TENANT: LazyLock<Pki> = LazyLock::new(Pki::new);
pub(crate) static STRANGERS: LazyLock<Pki> = LazyLock::new(Pki::new);
/// The certificate of `thumb`: signed by nobody whom the hub knows.
pub(crate) static THUMB: LazyLock<Identity> = LazyLock::new(|| STRANGERS.issue("whatever"));

/// The usual double, with devices that log in with certificates.
pub(crate) fn mqtt_config() -> Config {
    let mut config = config();
    config.device_cas_pem = TENANT.ca_pem.clone();
    config.devices.push(DeviceSpec::certificate(SPHERE));
    config.devices.push(DeviceSpec {
        device_id: "thumb".into(),
        auth_type: AuthType::SelfSigned,
        secondary_thumbprint: Some(THUMB.sha1()),
        ..DeviceSpec::default()
    });
    config
}

/// What a client says of itself.
pub(crate) struct Claim<'a> {
    pub(crate) id: &'a str,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) identity: Option<&'a Identity>,
    pub(crate) sni: bool,
    pub(crate) clean: bool,
    pub(crate) options: fn(&mut MqttOptions),
}

impl<'a> Claim<'a> {
    /// `device` or `device/module`, with nothing to prove it.
    pub(crate) fn bare(id: &'a str) -> Self {
        let username = format!("{HUB}/{id}/?api-version=2021-04-12");
        let password = String::new();
        Self { id, username, password, identity: None, sni: true, clean: true, options: |_| {} }
    }

    /// With a token of the key that all devices with keys have here.
    pub(crate) fn key(id: &'a str) -> Self {
        let password = match id.split_once('/') {
            None => device_token(id, now_secs() + 3600),
            Some((device, module)) => {
                let sr = format!("{HUB}%2Fdevices%2F{device}%2Fmodules%2F{module}");
                sas_token(&sr, &Key::from_base64(DEVICE_KEY), now_secs() + 3600)
            }
        };
        Self { password, ..Self::bare(id) }
    }

    pub(crate) fn certificate(id: &'a str, identity: &'a Identity) -> Self {
        Self { identity: Some(identity), ..Self::bare(id) }
    }

    pub(crate) fn staying(self) -> Self {
        Self { clean: false, ..self }
    }

    async fn tls(&self, port: u16) -> io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_root_certificates(roots());
        let mut config = match self.identity {
            Some(identity) => builder
                .with_client_auth_cert(identity.chain.clone(), identity.key())
                .expect("a key of ours"),
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = self.sni;
        let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
        let name = ServerName::try_from(HUB).expect("a DNS name");
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    /// Connects; the error is the hub's return code.
    pub(crate) async fn connect(self, hub: &HubDouble) -> Result<Mqtt, ConnectReturnCode> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let mut far = self.tls(hub.ports().mqtt).await.expect("TLS takes everyone");
        TaskTracker::new().spawn(async move {
            let (mut near, _) = listener.accept().await.expect("rumqttc connects");
            drop(listener);
            let _ = copy_bidirectional(&mut near, &mut far).await;
        });
        let mut options = MqttOptions::new(self.id, "127.0.0.1", port);
        options.set_credentials(self.username, self.password);
        options.set_clean_session(self.clean);
        options.set_max_packet_size(1 << 20, 1 << 20);
        options.set_keep_alive(Duration::from_secs(60));
        (self.options)(&mut options);
        let (client, mut events) = AsyncClient::new(options, 10);
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                    let session_present = ack.session_present;
                    return Ok(Mqtt { client, events, session_present });
                }
                Ok(_) => {}
                Err(ConnectionError::ConnectionRefused(code)) => return Err(code),
                Err(other) => panic!("no CONNACK: {other}"),
            }
        }
    }
}

/// A connected client. It works only while something of it is awaited.
pub(crate) struct Mqtt {
    pub(crate) client: AsyncClient,
    events: EventLoop,
    pub(crate) session_present: bool,
}

impl Mqtt {
    /// A connected device or module with a key.
    pub(crate) async fn key(hub: &HubDouble, id: &str) -> Self {
        Claim::key(id).connect(hub).await.expect("let in")
    }

    /// The next packet that comes.
    pub(crate) async fn next(&mut self) -> Packet {
        loop {
            if let Event::Incoming(packet) = self.events.poll().await.expect("it is connected") {
                return packet;
            }
        }
    }

    /// The next publication that comes.
    pub(crate) async fn publication(&mut self) -> Publish {
        loop {
            if let Packet::Publish(publish) = self.next().await {
                return publish;
            }
        }
    }

    /// Publishes at QoS 1 and waits for the PUBACK.
    pub(crate) async fn send(&mut self, topic: &str, body: &str) {
        self.put(topic, QoS::AtLeastOnce, body).await;
        while !matches!(self.next().await, Packet::PubAck(_)) {}
    }

    /// Publishes without waiting for anything.
    pub(crate) async fn put(&mut self, topic: &str, qos: QoS, body: &str) {
        self.client.publish(topic, qos, false, body).await.expect("there is room");
    }

    /// Publishes a request at QoS 0 and gives the next publication that comes: topic and body.
    pub(crate) async fn ask(&mut self, topic: &str, body: &str) -> (String, String) {
        self.put(topic, QoS::AtMostOnce, body).await;
        text(self.publication().await)
    }

    /// Subscribes in one packet.
    pub(crate) async fn subscribe(&mut self, filters: &[(&str, QoS)]) -> Vec<SubscribeReasonCode> {
        let filters = filters.iter().map(|(f, qos)| SubscribeFilter::new((*f).into(), *qos));
        self.client.subscribe_many(filters).await.expect("there is room");
        loop {
            if let Packet::SubAck(ack) = self.next().await {
                return ack.return_codes;
            }
        }
    }

    /// Waits until the hub has ended the connection.
    pub(crate) async fn ended(mut self) {
        while self.events.poll().await.is_ok() {}
    }

    /// Ends in order.
    pub(crate) async fn disconnect(self) {
        self.client.disconnect().await.expect("there is room");
        self.ended().await;
    }
}

/// Topic and body of a publication.
pub(crate) fn text(publish: Publish) -> (String, String) {
    (publish.topic, String::from_utf8(publish.payload.to_vec()).expect("text"))
}
