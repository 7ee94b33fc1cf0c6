//! Each kind of refusal that can be provoked over the wire: its reason, its peer, its certificate, its counter.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Connect, ConnectReturnCode, LastWill, Login, Packet};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use sphere_gateway::auth::decision::{RefusalRecord, RefusalsReport};
use sphere_gateway::auth::x509::CertificateInfo;
use sphere_gateway::certs::{Authority, Curve, Issued, Window};
use sphere_gateway::clock::{self, UnixMillis};
use sphere_gateway::gateway::Gateway;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::{admitted, connect, refusals, silent_tls};
use crate::device::{self, DeviceConfig};
use crate::site::{EDGE, GATEWAY};
use crate::support::{BINARY, World, eventually, get, metrics, series};

pub(crate) async fn report(gateway: &Gateway) -> RefusalsReport {
    let answer = get(gateway, "/refusals").await;
    let body = answer.split_once("\r\n\r\n").expect("a head and a body").1;
    serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"))
}

/// The last record of that stage and reason, once it is there, and its counter agrees.
async fn recorded(gateway: &Gateway, stage: &str, reason: &str) -> RefusalRecord {
    let mut found = None;
    eventually(&format!("a refusal {stage}/{reason}"), async || {
        let of_it = |r: &RefusalRecord| r.stage == stage && r.reason == reason;
        found = report(gateway).await.refusals.into_iter().rev().find(of_it);
        found.is_some()
    })
    .await;
    let record = found.expect("waited for");
    assert!(record.peer.as_deref().is_some_and(|p| p.starts_with("127.0.0.1:")), "{record:?}");
    assert!(!record.todo.is_empty() && !record.detail.is_empty(), "{record:?}");
    assert!(refusals(gateway, stage, reason).await >= record.times as f64, "{stage}/{reason}");
    record
}

/// Presents what it is told to, with whatever key.
#[derive(Debug)]
struct Presents(Arc<CertifiedKey>);

impl ResolvesClientCert for Presents {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn presenting(
    world: &World,
    chain: Vec<CertificateDer<'static>>,
    key_pem: &str,
) -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).expect("PEM");
    let key = provider.key_provider.load_private_key(key).expect("a key");
    let presents = Presents(Arc::new(CertifiedKey::new(chain, key)));
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has suites")
        .with_root_certificates(device::gateway_roots(&world.pki));
    Arc::new(builder.with_client_cert_resolver(Arc::new(presents)))
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")
}

fn around_now() -> Window {
    Window::days(clock::system().wall(), 1)
}

fn days_from_now(from: i64, to: i64) -> Window {
    let now = clock::system().wall().0;
    let at = |days: i64| UnixMillis(now.saturating_add_signed(days * 86_400_000));
    Window { not_before: at(from), not_after: at(to) }
}

fn with(world: &World, index: usize, issued: Option<&Issued>) -> DeviceConfig {
    let mut config = world.device(index);
    config.tls = device::client_tls(device::gateway_roots(&world.pki), issued);
    config
}

/// A log-in that is refused: who says to be what with which certificate, and what the record must say.
struct Case {
    reason: &'static str,
    config: DeviceConfig,
    issued: Option<Issued>,
    code: ConnectReturnCode,
    words: &'static str,
}

fn logins(world: &World) -> Vec<Case> {
    use ConnectReturnCode::NotAuthorized;
    let id = |index: usize| world.pki.devices[index].id.clone();
    let tenant = &world.pki.tenant_ca;
    let case = |reason, index, issued: Option<Issued>, words| Case {
        reason,
        config: with(world, index, issued.as_ref()),
        issued,
        code: NotAuthorized,
        words,
    };
    let own = |index: usize| Some(world.pki.devices[index].issued.clone());
    let issue = |ca: &Authority, window| Some(ca.issue_client(&id(0), window).expect("issued"));
    let root = |name: &str| Authority::root(name, Curve::P256, around_now()).expect("a CA");
    let for_servers = {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, id(0));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        Some(tenant.issue(&params, Curve::P256).expect("issued"))
    };
    let ca = root("A CA");
    let ca = Issued {
        leaf_pem: ca.certificate_pem().to_owned(),
        chain_pem: ca.certificate_pem().to_owned(),
        key_pem: ca.key_pem(),
    };
    vec![
        case("not_in_scope", 1, own(1), "is not a child of edge device"),
        case("disabled", 2, own(2), "is disabled in IoT Hub"),
        case("common_name", 0, own(3), "the common name must be the device id"),
        case("no_credentials", 0, None, "neither a certificate nor a token"),
        case(
            "unknown_ca",
            0,
            issue(&root("Stranger CA"), around_now()),
            "no CA of the trust bundle",
        ),
        case(
            "bad_signature",
            0,
            issue(&root(tenant.name()), around_now()),
            "another CA of the same name",
        ),
        case("expired", 0, issue(tenant, days_from_now(-3, -2)), "it expired on"),
        case("not_yet_valid", 0, issue(tenant, days_from_now(2, 3)), "it is valid only from"),
        case("key_usage", 0, for_servers, "client authentication"),
        case("ca_as_leaf", 0, Some(ca), "is a CA certificate"),
        case("thumbprint", 4, own(4), "is not registered for it"),
        case("not_a_certificate_device", 5, own(5), "is not registered for certificates"),
    ]
}

async fn world() -> World {
    let world = World::new(6).await;
    let id = |index: usize| world.pki.devices[index].id.clone();
    world.hub.delete_device(&id(1));
    let spec = hub_double::DeviceSpec::certificate(id(2)).child_of(EDGE);
    world.hub.put_device(spec.disabled());
    let mut pinned = hub_double::DeviceSpec::certificate(id(4)).child_of(EDGE);
    pinned.auth_type = hub_double::AuthType::SelfSigned;
    pinned.primary_thumbprint = Some("00".repeat(20));
    world.hub.put_device(pinned);
    world.hub.put_device(hub_double::DeviceSpec::sas(id(5), "c2VjcmV0").child_of(EDGE));
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_log_in_is_told_with_its_certificate_and_what_to_do() {
    let world = world().await;
    let gateway = world.gateway().await;
    drop(admitted(&world.device(0)).await);
    for Case { reason, config, issued, code, words } in logins(&world) {
        let got = device::connect(&config, 60).await.expect("an answer").1;
        assert_eq!(got, code, "{reason}");
        let record = recorded(&gateway, "connect", reason).await;
        assert_eq!(record.claim.as_deref(), Some(&*config.id), "{reason}");
        assert!(record.detail.contains(words), "{reason}: {}", record.detail);
        let facts =
            issued.map(|i| CertificateInfo::read(&der(&i.leaf_pem)).expect("a certificate"));
        let seen = record.certificate.map(|c| (c.subject, c.issuer, c.sha1, c.sha256));
        assert_eq!(seen, facts.map(|f| (f.subject, f.issuer, f.sha1, f.sha256)), "{reason}");
    }
    let report = report(&gateway).await;
    let counted =
        series(&metrics(&gateway).await, "sphere_gateway_refused_total", &["stage=\"connect\""]);
    assert_eq!(counted, report.total as f64 - tls_count(&gateway).await);
    gateway.shutdown().await;
    world.end().await;
}

async fn tls_count(gateway: &Gateway) -> f64 {
    series(&metrics(gateway).await, "sphere_gateway_refused_total", &["stage=\"tls\""])
}

/// What a client opens with, the reason for which it is refused, and the CONNACK that it gets.
fn openings(config: &DeviceConfig) -> Vec<(&'static str, Vec<u8>, Option<u8>)> {
    let good = || connect(config);
    let named = |user_name: &str| Connect {
        login: Some(Login { username: user_name.to_owned(), password: String::new() }),
        ..good()
    };
    let will = |topic: &str| Connect {
        last_will: Some(LastWill::new(topic, "x", QoS::AtMostOnce, false)),
        ..good()
    };
    let encoded = |packet: Packet| {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, 100_000).expect("encodes");
        bytes.to_vec()
    };
    let id = &config.id;
    let many: String = (0..600).map(|n| format!("a{n}=&")).collect();
    vec![
        ("user_name_missing", encoded(Packet::Connect(Connect { login: None, ..good() })), Some(3)),
        ("user_name_blank", encoded(Packet::Connect(named(" "))), Some(3)),
        ("user_name_form", encoded(Packet::Connect(named("hub"))), Some(3)),
        ("user_name_device_id", encoded(Packet::Connect(named("hub/a b/?api-version=1"))), Some(3)),
        (
            "user_name_module_id",
            encoded(Packet::Connect(named("hub/a/b c/?api-version=1"))),
            Some(3),
        ),
        ("user_name_api_version", encoded(Packet::Connect(named("hub/a/?x=1"))), Some(3)),
        (
            "client_id",
            encoded(Packet::Connect(Connect { client_id: "other".into(), ..good() })),
            Some(5),
        ),
        ("will_topic", encoded(Packet::Connect(will("devices/other/messages/events/"))), Some(5)),
        (
            "bag_too_many_properties",
            encoded(Packet::Connect(will(&format!("devices/{id}/messages/events/{many}")))),
            Some(5),
        ),
        ("connect_missing", encoded(Packet::PingReq), None),
        (
            "protocol_level",
            b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00\x01a\x00".to_vec(),
            Some(1),
        ),
        ("protocol_name", b"\x10\x0d\x00\x04XXXX\x04\x02\x00\x3c\x00\x01a".to_vec(), None),
        ("packet_type", b"\x00\x00".to_vec(), None),
        ("fixed_header_flags", b"GET / HTTP/1.1\r\n\r\n".to_vec(), None),
        ("remaining_length", b"\x10\xff\xff\xff\xff\x7f".to_vec(), None),
        ("packet_too_large", b"\x10\x81\x80\x04".to_vec(), None),
        ("packet_short", b"\x10\x03\x00\x04M".to_vec(), None),
        ("connect_timeout", Vec::new(), None),
    ]
}

/// CONNECTs, and what comes in their place, that are refused before any certificate is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_connect_that_is_none_is_told_too() {
    let mut world = World::new(1).await;
    world.set("mqttSettings__ConnectArrivalTimeout", "00:00:01");
    let gateway = world.gateway().await;
    let config = world.device(0);
    drop(admitted(&config).await);
    for (reason, bytes, code) in openings(&config) {
        let mut stream = silent_tls(&config).await;
        stream.write_all(&bytes).await.expect("write");
        stream.flush().await.expect("flush");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let wanted = code.map_or_else(Vec::new, |code| vec![0x20, 2, 0, code]);
        assert_eq!(answer, wanted, "{reason}");
        let record = recorded(&gateway, "connect", reason).await;
        let certificate = record.certificate.expect("TLS was fine, with a certificate");
        assert_eq!(certificate.subject, format!("CN={}", config.id), "{reason}");
    }
    // Without and with a close_notify.
    drop(silent_tls(&config).await);
    recorded(&gateway, "connect", "read").await;
    silent_tls(&config).await.shutdown().await.expect("close_notify");
    recorded(&gateway, "connect", "eof").await;
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_fails_is_told_with_the_certificate_if_one_came() {
    let mut world = World::new(1).await;
    // Long enough for the handshakes of a slow machine.
    world.set("mqttSettings__HandshakeTimeoutSecs", "10");
    let gateway = world.gateway().await;
    let device = &world.pki.devices[0].issued;
    let stranger = Authority::root("Thief CA", Curve::P256, around_now()).expect("a CA");
    let thief = stranger.issue_client("thief", around_now()).expect("issued");
    let long = vec![der(&device.leaf_pem); 9];
    let broken = CertificateDer::from(b"\x30\x03\x02\x01\x05".to_vec());
    let leaf = CertificateInfo::read(&der(&device.leaf_pem)).expect("a certificate");
    for (reason, tls, certificate) in [
        (
            "possession",
            presenting(&world, vec![der(&device.leaf_pem)], &thief.key_pem),
            Some(&leaf),
        ),
        ("chain_too_long", presenting(&world, long, &device.key_pem), Some(&leaf)),
        ("malformed_certificate", presenting(&world, vec![broken], &device.key_pem), None),
    ] {
        let config = DeviceConfig { tls, ..world.device(0) };
        // In TLS 1.3 the client is done before the server has judged its certificate.
        let _ = device::connect(&config, 60).await;
        let record = recorded(&gateway, "tls", reason).await;
        let seen =
            record.certificate.as_ref().map(|c| (&*c.subject, &*c.issuer, &*c.sha1, &*c.sha256));
        let wanted = certificate.map(|c| (&*c.subject, &*c.issuer, &*c.sha1, &*c.sha256));
        assert_eq!((seen, record.claim.as_deref()), (wanted, None), "{reason}");
    }

    // A device that does not know our root says so.
    let foreign = crate::site::mint(1);
    let config = DeviceConfig {
        tls: device::client_tls(device::gateway_roots(&foreign), Some(device)),
        ..world.device(0)
    };
    assert!(device::connect(&config, 60).await.is_err());
    let record = recorded(&gateway, "tls", "alert_received").await;
    assert_eq!(record.certificate, None, "none came");

    let address = gateway.mqtt_addr();
    let mut plain = TcpStream::connect(address).await.expect("connect");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("write");
    recorded(&gateway, "tls", "not_tls").await;
    drop(TcpStream::connect(address).await.expect("connect"));
    recorded(&gateway, "tls", "closed").await;
    // A record of 12 KiB with the begin of a ClientHello of 64 KiB. It may be closed before all has gone.
    let mut endless = TcpStream::connect(address).await.expect("connect");
    let start = [22, 3, 1, 0x30, 0, 1, 0, 0xff, 0xff, 3, 3];
    let _ = endless.write_all(&[&start[..], &[0; 0x3000 - 6]].concat()).await;
    recorded(&gateway, "tls", "handshake_too_large").await;
    let _silent = TcpStream::connect(address).await.expect("connect");
    let mut half = TcpStream::connect(address).await.expect("connect");
    half.write_all(&[22, 3, 1]).await.expect("the begin of a record");
    recorded(&gateway, "tls", "silent").await;
    recorded(&gateway, "tls", "timeout").await;
    recorded_incompatible(&world, &gateway).await;
    gateway.shutdown().await;
    world.end().await;
}

/// Suites for RSA alone, and the gateway's key is of another kind.
async fn recorded_incompatible(world: &World, gateway: &Gateway) {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains("ECDHE_RSA"));
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("suites are left")
        .with_root_certificates(device::gateway_roots(&world.pki))
        .with_no_client_auth();
    let socket = TcpStream::connect(gateway.mqtt_addr()).await.expect("connect");
    let name = ServerName::try_from(GATEWAY).expect("a name");
    assert!(TlsConnector::from(Arc::new(tls)).connect(name, socket).await.is_err());
    recorded(gateway, "tls", "incompatible").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_and_too_many_clients_are_told_apart() {
    let mut world = World::new(2).await;
    world.set("MaxConnectedClients", "1");
    world.set("mqttSettings__ConnectionsMax", "2");
    let gateway = world.gateway().await;
    let _seated = admitted(&world.device(0)).await;
    let code = device::connect(&world.device(1), 60).await.expect("an answer").1;
    assert_eq!(code, ConnectReturnCode::ServiceUnavailable);
    let record = recorded(&gateway, "connect", "clients_max").await;
    assert_eq!(record.claim.as_deref(), Some(&*world.device(1).id));
    assert!(record.todo.contains("MaxConnectedClients"), "{record:?}");

    let mut open = Vec::new();
    eventually("a connection is one too many", async || {
        // A reset may be there before the connect has returned.
        open.extend(TcpStream::connect(gateway.mqtt_addr()).await);
        refusals(&gateway, "accept", "connections_max").await > 0.0
    })
    .await;
    let record = recorded(&gateway, "accept", "connections_max").await;
    assert_eq!((record.claim, record.certificate), (None, None));
    gateway.shutdown().await;
    world.end().await;
}

/// As long as the hub never told who is ours, everybody is asked to come back.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_scope_is_told_as_such() {
    let world = World::new(1).await;
    let mut config = world.configuration();
    // A port where nobody answers.
    config.upstream.https_port = 1;
    let gateway = Gateway::start(config, clock::system()).await.expect("the gateway starts");
    world.port.store(gateway.mqtt_addr().port(), Ordering::Relaxed);
    let code = device::connect(&world.device(0), 60).await.expect("an answer").1;
    assert_eq!(code, ConnectReturnCode::ServiceUnavailable);
    recorded(&gateway, "connect", "scope_unknown").await;
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_is_not_the_client_s_is_counted_by_its_reason() {
    use rumqttc::mqttbytes::v4::{Subscribe, SubscribeFilter};
    let world = World::new(1).await;
    let gateway = world.gateway().await;
    let mut stream = admitted(&world.device(0)).await;
    let filter = |path: &str| SubscribeFilter::new(path.to_owned(), QoS::AtMostOnce);
    let filters = ["#", "devices/other/messages/devicebound/#", "$SYS/#", "$iothub/twin/res/#"];
    let mut subscribe = Subscribe::new_many(filters.map(filter));
    subscribe.pkid = 1;
    device::write(&mut stream, &Packet::Subscribe(subscribe)).await.expect("write");
    device::read(&mut stream, &mut BytesMut::new()).await.expect("SUBACK");
    for reason in ["filter_wildcard", "filter_identity", "filter_unknown"] {
        assert_eq!(refusals(&gateway, "subscribe", reason).await, 1.0, "{reason}");
    }
    gateway.shutdown().await;
    world.end().await;
}

/// The real program: the command, the log's line, the audit log.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_tells_and_the_audit_log_has_admissions_and_refusals() {
    let mut world = World::new(2).await;
    world.set("auditSettings__enabled", "true");
    world.hub.delete_device(&world.pki.devices[1].id);
    let process = world.process();
    let admin = process.admin().to_string();
    drop(admitted(&world.device(0)).await);
    let ask = |more: &[&str]| {
        let output = Command::new(BINARY).args(["refusals", "--admin", &admin]).args(more).output();
        let output = output.expect("the binary runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    for _ in 0..3 {
        let code = device::connect(&world.device(1), 60).await.expect("an answer").1;
        assert_eq!(code, ConnectReturnCode::NotAuthorized);
    }
    let mut text = String::new();
    eventually("the command tells of three", async || {
        text = ask(&[]);
        text.contains("not_in_scope (connect), 3 times since")
    })
    .await;
    let leaf = CertificateInfo::read(&der(&world.pki.devices[1].issued.leaf_pem)).expect("facts");
    for part in [&leaf.subject, &leaf.issuer, &leaf.sha1, &leaf.sha256] {
        assert!(text.contains(part.as_str()), "{part} in {text}");
    }
    assert!(text.contains("  to do        Register it in IoT Hub"), "{text}");
    let json: RefusalsReport = serde_json::from_str(&ask(&["--json"])).expect("JSON");
    assert!(json.refusals.iter().any(|r| r.reason == "not_in_scope" && r.times == 3), "{json:?}");
    process.stop().await;

    let path = world.storage().join("audit.jsonl");
    let audit = std::fs::read_to_string(&path).expect("an audit log");
    let lines: Vec<serde_json::Value> =
        audit.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let admitted = lines.iter().find(|l| l["outcome"] == "admitted").expect("an admission");
    assert_eq!(admitted["method"], "certificate_authority");
    assert_eq!(admitted["identity"], *world.pki.devices[0].id);
    assert_eq!(admitted["certificate"]["subject"], format!("CN={}", world.pki.devices[0].id));
    let refused = |l: &&serde_json::Value| l["reason"] == "not_in_scope";
    assert_eq!(lines.iter().filter(refused).count(), 3, "each one, not one for all: {audit}");
    world.end().await;
}

/// What a client sends as its password is nowhere, whatever became of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_shows_neither_in_the_refusals_nor_in_the_audit_log() {
    const SECRET: &str = "c2VjcmV0LXNpZ25hdHVyZQ";
    let mut world = World::new(1).await;
    world.set("auditSettings__enabled", "true");
    let gateway = world.gateway().await;
    drop(admitted(&world.device(0)).await);
    let config = world.device(0);
    let login = connect(&config).login.expect("a user name");
    let passwords = [
        SECRET.to_owned(),
        format!("SharedAccessSignature sr=localhost%2fdevices%2fx&sig={SECRET}%3D&se=1"),
    ];
    for password in &passwords {
        let mut stream = silent_tls(&config).await;
        let login = Some(Login { password: password.clone(), ..login.clone() });
        let packet = Packet::Connect(Connect { login, ..connect(&config) });
        device::write(&mut stream, &packet).await.expect("write");
        let answer = device::read(&mut stream, &mut BytesMut::new()).await.expect("CONNACK");
        let refused = ConnectReturnCode::NotAuthorized;
        assert!(matches!(&answer, Packet::ConnAck(a) if a.code == refused), "{answer:?}");
    }
    eventually("both are told", async || {
        let told = report(&gateway).await.refusals;
        told.iter().filter(|r| r.stage == "connect").map(|r| r.times).sum::<u64>() >= 2
    })
    .await;
    let shown = get(&gateway, "/refusals").await;
    gateway.shutdown().await;
    let audit = std::fs::read_to_string(world.storage().join("audit.jsonl")).expect("a log");
    assert!(audit.lines().filter(|l| l.contains("\"refused\"")).count() >= 2, "{audit}");
    assert!(!shown.contains(SECRET) && !audit.contains(SECRET), "{shown}\n{audit}");
    world.end().await;
}

/// The socket of the default host `*` takes both families.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_ipv4_is_named_as_such_on_a_socket_for_both_families() {
    let mut world = World::new(1).await;
    world.set("mqttSettings__host", "::");
    world.set("auditSettings__enabled", "true");
    let gateway = world.gateway().await;
    assert!(gateway.mqtt_addr().is_ipv6());
    drop(admitted(&world.device(0)).await);
    let config = world.device(0);
    let mut stream = TcpStream::connect(("127.0.0.1", config.port.load(Ordering::Relaxed)))
        .await
        .expect("connect");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("write");
    // Looks at the peer.
    recorded(&gateway, "tls", "not_tls").await;
    gateway.shutdown().await;
    let audit = std::fs::read_to_string(world.storage().join("audit.jsonl")).expect("a log");
    assert!(audit.contains("127.0.0.1:") && !audit.contains("::ffff:"), "{audit}");
    world.end().await;
}

/// Nobody answers: the exit status says so.
#[test]
fn without_a_gateway_the_command_fails() {
    let output = Command::new(BINARY).args(["refusals", "--admin", "127.0.0.1:1"]).output();
    let output = output.expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("is the gateway running?"), "{told}");
}
