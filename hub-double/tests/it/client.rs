//! What the tests drive the double with: a throw-away certificate, an AMQP client, raw HTTP/1.1.

use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::link::{SendError, SenderAttachError};
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Connection, Receiver, Sendable, Sender, Session};
use fe2o3_amqp_types::definitions::Fields;
use fe2o3_amqp_types::messaging::message::__private::Serializable;
use fe2o3_amqp_types::messaging::{
    ApplicationProperties, Data, Message, MessageId, Outcome, Properties,
};
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Symbol, Value};
use hub_double::{Config, DeviceSpec, HubDouble, Key, sas_token};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) const HUB: &str = "contoso.example";
pub(crate) const EDGE: &str = "edge1";
/// base64 of 32 bytes.
pub(crate) const EDGE_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
pub(crate) const DEVICE_KEY: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";
/// The idle time-out that clients announce: the double must be heard from more often.
pub(crate) const IDLE_MS: u32 = 2000;
pub(crate) const BATCH: u32 = 0x8001_3700;

struct Certificate {
    chain: String,
    key: String,
}

static CERTIFICATE: LazyLock<Certificate> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed([HUB.to_owned()]).expect("a name is enough");
    Certificate { chain: made.cert.pem(), key: made.signing_key.serialize_pem() }
});

pub(crate) fn config() -> Config {
    let mut config = Config::new(HUB, EDGE, EDGE_KEY, &CERTIFICATE.chain, &CERTIFICATE.key);
    config.devices = vec![
        DeviceSpec::sas("dev1", DEVICE_KEY),
        DeviceSpec::certificate("child1").child_of(EDGE),
        DeviceSpec::certificate("child2").child_of(EDGE),
        DeviceSpec::certificate("off").child_of(EDGE).disabled(),
        DeviceSpec::certificate("orphan"),
        DeviceSpec { iot_edge: true, ..DeviceSpec::sas("edge2", DEVICE_KEY) },
        DeviceSpec::certificate("others").child_of("edge2"),
    ];
    config
}

/// Runs `test` against a fresh double, with a limit that only a hang reaches.
pub(crate) async fn with_hub<F: Future<Output = ()>>(test: impl FnOnce(Arc<HubDouble>) -> F) {
    with_hub_of(config(), test).await;
}

/// The same against a double that is set up so.
pub(crate) async fn with_hub_of<F: Future<Output = ()>>(
    config: Config,
    test: impl FnOnce(Arc<HubDouble>) -> F,
) {
    let hub = Arc::new(HubDouble::start(config).await.expect("loopback has free ports"));
    tokio::time::timeout(Duration::from_secs(60), test(Arc::clone(&hub))).await.expect("in time");
    Arc::into_inner(hub).expect("tests keep no handle").shutdown().await;
}

#[allow(clippy::disallowed_methods, reason = "tokens need the time of day")]
pub(crate) fn now_secs() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("before the year 292 billion")
}

/// The `$edgeHub` token, double-encoded as edgeHub writes it.
pub(crate) fn edge_token() -> String {
    let sr = format!("{HUB}%2Fdevices%2F{EDGE}%2Fmodules%2F%2524edgeHub");
    sas_token(&sr, &Key::from_base64(EDGE_KEY), now_secs() + 3600)
}

pub(crate) fn device_token(device: &str, expires: i64) -> String {
    sas_token(&format!("{HUB}/devices/{device}"), &Key::from_base64(DEVICE_KEY), expires)
}

/// What a client trusts.
pub(crate) fn roots() -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(CERTIFICATE.chain.as_bytes()).expect("PEM");
    roots.add(root).expect("a certificate");
    roots
}

pub(crate) async fn tls(port: u16) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_root_certificates(roots())
        .with_no_client_auth();
    let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from(HUB).expect("a DNS name");
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// One AMQP connection with one session and both halves of `$cbs`.
pub(crate) struct Client {
    pub(crate) connection: ConnectionHandle<()>,
    pub(crate) session: SessionHandle<()>,
    requests: Sender,
    answers: Receiver,
    sent: u64,
}

impl Client {
    pub(crate) async fn connect(hub: &HubDouble) -> Self {
        Self::with_sasl(hub, true).await
    }

    pub(crate) async fn with_sasl(hub: &HubDouble, sasl: bool) -> Self {
        Self::opened(hub, sasl, Some(IDLE_MS)).await
    }

    /// Does not mind how long the hub is silent.
    pub(crate) async fn patient(hub: &HubDouble) -> Self {
        Self::opened(hub, true, None).await
    }

    async fn opened(hub: &HubDouble, sasl: bool, idle_ms: Option<u32>) -> Self {
        let stream = tls(hub.ports().amqp).await.expect("the double listens");
        let builder = Connection::builder().container_id("test").hostname(HUB).scheme("amqp");
        let builder = match idle_ms {
            Some(ms) => builder.idle_time_out(ms),
            None => builder,
        };
        let builder = if sasl { builder.sasl_profile(SaslProfile::Anonymous) } else { builder };
        let mut connection = builder.open_with_stream(stream).await.expect("open");
        let mut session = Session::begin(&mut connection).await.expect("begin");
        let requests = Sender::attach(&mut session, "cbs-out", "$cbs").await.expect("attach");
        let answers = Receiver::attach(&mut session, "cbs-in", "$cbs").await.expect("attach");
        Self { connection, session, requests, answers, sent: 0 }
    }

    /// Puts `token` under `name`; gives status-code and checks the answer's form.
    pub(crate) async fn put_token(&mut self, name: &str, token: &str) -> i32 {
        self.sent += 1;
        let request = Message::builder()
            .properties(Properties::builder().message_id(self.sent).build())
            .application_properties(
                ApplicationProperties::builder()
                    .insert("operation", "put-token")
                    .insert("type", "servicebus.windows.net:sastoken")
                    .insert("name", name)
                    .build(),
            )
            .value(token.to_owned())
            .build();
        self.requests.send(request).await.expect("the request is taken");
        let answer = self.answers.recv::<Value>().await.expect("an answer");
        self.answers.accept(&answer).await.expect("accept");
        let properties = answer.message().properties.as_ref().expect("properties");
        assert_eq!(properties.correlation_id, Some(MessageId::Ulong(self.sent)), "same type");
        let application = answer.message().application_properties.as_ref().expect("status");
        assert!(application.0.contains_key("status-description"));
        match application.0.get("status-code") {
            Some(SimpleValue::Int(status)) => *status,
            other => panic!("status-code must be an int, not {other:?}"),
        }
    }

    /// Puts the edge's token for `child`.
    pub(crate) async fn put_for_child(&mut self, child: &str) -> i32 {
        self.put_token(&format!("{HUB}/devices/{child}"), &edge_token()).await
    }

    /// Attaches a telemetry link.
    pub(crate) async fn telemetry(
        &mut self,
        device: &str,
        chain: Option<&str>,
    ) -> Result<Sender, SenderAttachError> {
        self.sent += 1;
        let mut properties = Fields::new();
        if let Some(chain) = chain {
            properties
                .insert(Symbol::from("com.microsoft:auth-chain"), Value::String(chain.to_owned()));
        }
        Sender::builder()
            .name(format!("telemetry-{device}-{}", self.sent))
            .target(format!("/devices/{device}/messages/events"))
            .properties(properties)
            .attach(&mut self.session)
            .await
    }

    /// Puts the edge's token for `child` and attaches its telemetry link.
    pub(crate) async fn child(&mut self, child: &str) -> Sender {
        assert_eq!(self.put_for_child(child).await, 200);
        self.telemetry(child, Some(&format!("{child};{EDGE}"))).await.expect("attach")
    }
}

/// A connected client with the telemetry link of `child`.
pub(crate) async fn child_of(hub: &HubDouble, child: &str) -> (Client, Sender) {
    let mut client = Client::connect(hub).await;
    let link = client.child(child).await;
    (client, link)
}

/// A message with an id and a `seq` property.
pub(crate) fn message(id: &str, seq: u64, body: &str) -> Message<Data> {
    Message::builder()
        .properties(Properties::builder().message_id(id.to_owned()).build())
        .application_properties(
            ApplicationProperties::builder().insert("seq", seq.to_string()).build(),
        )
        .data(Binary::from(body))
        .build()
}

/// Sends one message and gives its outcome.
pub(crate) async fn send(link: &mut Sender, id: &str, seq: u64) -> Result<Outcome, SendError> {
    link.send(message(id, seq, "body")).await
}

/// Sends `messages` in one transfer.
pub(crate) async fn send_batch(
    link: &mut Sender,
    messages: Vec<Message<Data>>,
) -> Result<Outcome, SendError> {
    let encoded = messages.into_iter().map(|m| {
        Data(Binary::from(serde_amqp::to_vec(&Serializable(m)).expect("a message encodes")))
    });
    let batch = Message::builder().data_batch(encoded.collect::<Vec<_>>()).build();
    link.send(Sendable::builder().message(batch).message_format(BATCH).build()).await
}

/// The condition that a message was rejected with.
pub(crate) fn rejected_with(outcome: Result<Outcome, SendError>) -> String {
    match outcome.expect("an outcome") {
        Outcome::Rejected(rejected) => condition(&rejected.error.expect("a reason")),
        other => panic!("not rejected: {other:?}"),
    }
}

pub(crate) fn condition(error: &fe2o3_amqp_types::definitions::Error) -> String {
    let value = serde_amqp::to_value(&error.condition).expect("a symbol");
    match value {
        Value::Symbol(symbol) => symbol.to_string(),
        other => format!("{other:?}"),
    }
}

/// One HTTP/1.1 exchange: status and body.
pub(crate) async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
    authorization: Option<&str>,
    body: &str,
) -> (u16, String) {
    let header = authorization.map(|a| format!("authorization: {a}\r\n")).unwrap_or_default();
    let (status, _, body) = exchange(stream, method, path, &header, body).await;
    (status, body)
}

/// The same with whole lines of the head: status, head and body of the answer.
pub(crate) async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (u16, String, String) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {HUB}\r\n{headers}connection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    // A TLS server that closes without close_notify still has answered.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, head.to_owned(), body.to_owned())
}

/// A request to the admin API.
pub(crate) async fn admin(hub: &HubDouble, method: &str, path: &str, body: &str) -> (u16, String) {
    let stream = TcpStream::connect(("127.0.0.1", hub.ports().admin)).await.expect("admin listens");
    http(stream, method, path, None, body).await
}
