//! Handshakes over a pipe in memory.

use std::io::{self, Read as _, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use rsa::pkcs8::EncodePrivateKey as _;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore,
    SupportedProtocolVersion, version,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::auth::testing::{NOW, StillClock, ders, revoking, valid, window};
use crate::auth::{
    Attempt, AuthKind, Authenticator, Policy, Scope, ScopeEntry, Status, TrustBundle,
};
use crate::certs::{Authority, Curve, Issued, Window, sphere_like_id};
use crate::clock::UnixMillis;
use crate::front::listener::SHAKE_BYTES_MAX;
use crate::front::measured::Measured;
use crate::identity::{ClientName, DeviceId};

const GATEWAY: &str = "gw.example";
const BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

/// Wide enough for the clients of these tests, which read the system's clock.
fn lasting() -> Window {
    Window { not_before: UnixMillis(0), not_after: UnixMillis(4_000_000_000_000) }
}

struct Site {
    root: Authority,
    identity: ServerIdentity,
    server: Arc<ServerConfig>,
    server_issued: Issued,
    device: Issued,
}

impl Site {
    fn new() -> Self {
        let root = Authority::root("Edge Root", Curve::P256, lasting()).unwrap();
        let edge_ca = root.intermediate("Edge CA", Curve::P256, lasting()).unwrap();
        let issued = edge_ca.issue_server(&[GATEWAY], &[], lasting()).unwrap();
        let tenant = Authority::root("Tenant", Curve::P384, lasting()).unwrap();
        let device = tenant.issue_client(&sphere_like_id(1), lasting()).unwrap();
        let identity = identity(&issued);
        let server = server_config(&identity, Asks::Certificates);
        Self { root, identity, server, server_issued: issued, device }
    }

    fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        certificate: Option<Arc<dyn ResolvesClientCert>>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(ders(self.root.certificate_pem()).remove(0)).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match certificate {
            None => builder.with_no_client_auth(),
            Some(resolver) => builder.with_client_cert_resolver(resolver),
        }
    }
}

fn identity(issued: &Issued) -> ServerIdentity {
    let (chain, key) = (issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
    let identity = ServerIdentity::from_pem(chain, key, GATEWAY, NOW).unwrap();
    assert_eq!(identity.warnings(), []);
    identity
}

fn signing_key(pem: &str) -> Arc<dyn SigningKey> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    ring::default_provider().key_provider.load_private_key(key).unwrap()
}

/// Presents whatever it is told to, with whatever key, and notes the CA names that the server hinted.
#[derive(Debug)]
struct Presents {
    key: Arc<CertifiedKey>,
    hints: Mutex<Option<usize>>,
}

impl Presents {
    fn new(chain: Vec<CertificateDer<'static>>, key_pem: &str) -> Arc<Self> {
        let key = Arc::new(CertifiedKey::new(chain, signing_key(key_pem)));
        Arc::new(Self { key, hints: Mutex::new(None) })
    }

    fn device(device: &Issued) -> Arc<Self> {
        Self::new(ders(&device.leaf_pem), &device.key_pem)
    }
}

impl ResolvesClientCert for Presents {
    fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        *self.hints.lock().unwrap() = Some(hints.len());
        Some(Arc::clone(&self.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

type Accepted = Result<TlsStream<DuplexStream>, io::Error>;

/// One connection: the client says `hello`, the server answers `hi`, both finish.
async fn meet(server: &Arc<ServerConfig>, client: ClientConfig, name: &str) -> Accepted {
    meet_shared(server, &Arc::new(client), name).await
}

async fn meet_shared(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Accepted {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let device = async {
        let mut stream = TlsConnector::from(Arc::clone(client)).connect(name, near).await?;
        stream.write_all(b"hello").await?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await?;
        Ok::<_, io::Error>(())
    };
    let gateway = async {
        let mut stream = TlsAcceptor::from(Arc::clone(server)).accept(far).await?;
        let mut said = [0; 5];
        stream.read_exact(&mut said).await?;
        assert_eq!(&said, b"hello");
        stream.write_all(b"hi").await?;
        stream.flush().await?;
        Ok::<_, io::Error>(stream)
    };
    let (device, gateway) = tokio::join!(device, gateway);
    if gateway.is_ok() {
        device?;
    }
    gateway
}

#[tokio::test]
async fn every_version_with_and_without_sni_and_certificate() {
    let site = Site::new();
    for version in BOTH {
        for sni in [true, false] {
            for presents in [true, false] {
                let resolver = Presents::device(&site.device);
                let certificate =
                    presents.then(|| Arc::clone(&resolver) as Arc<dyn ResolvesClientCert>);
                let mut client = site.client(&[version], certificate);
                client.enable_sni = sni;
                client.alpn_protocols = vec![b"mqtt".to_vec()];
                let stream = meet(&site.server, client, GATEWAY).await.unwrap();
                let (_, tls) = stream.get_ref();
                assert_eq!(tls.protocol_version(), Some(version.version));
                assert_eq!(tls.server_name().is_some(), sni);
                assert_eq!(tls.alpn_protocol(), None);
                let expected = presents.then(|| ders(&site.device.leaf_pem));
                assert_eq!(tls.peer_certificates(), expected.as_deref());
                // Asked, and without CA names to filter by.
                assert_eq!(*resolver.hints.lock().unwrap(), presents.then_some(0));
            }
        }
    }
}

#[tokio::test]
async fn who_does_not_hold_the_key_of_its_certificate_does_not_get_in() {
    let site = Site::new();
    let other = Authority::root("x", Curve::P256, lasting()).unwrap();
    let other = other.issue_client("thief", lasting()).unwrap();
    for version in BOTH {
        let thief = Presents::new(ders(&site.device.leaf_pem), &other.key_pem);
        let refused = meet(&site.server, site.client(&[version], Some(thief)), GATEWAY).await;
        let text = refused.expect_err("possession is checked").to_string();
        assert!(text.contains("BadSignature"), "{text}");
    }
}

#[tokio::test]
async fn a_certificate_that_connect_will_refuse_passes_the_handshake() {
    let site = Site::new();
    let past = Window { not_before: UnixMillis(0), not_after: UnixMillis(1_000_000) };
    let stranger = Authority::root("Stranger", Curve::P384, past).unwrap();
    let expired = stranger.issue_client_with("d", Curve::P384, past).unwrap();
    let ca = stranger.certificate_pem();
    for (case, chain, key) in [
        ("expired, unknown CA, P-384", ders(&expired.chain_pem), &expired.key_pem),
        ("a CA's own", ders(ca), &stranger.key_pem()),
        ("a server's", ders(&site.server_issued.leaf_pem), &site.server_issued.key_pem),
        (
            "with an intermediate that is none",
            [ders(&expired.leaf_pem), vec![vec![0; 9].into()]].concat(),
            &expired.key_pem,
        ),
    ] {
        for version in BOTH {
            let client = site.client(&[version], Some(Presents::new(chain.clone(), key)));
            let stream = meet(&site.server, client, GATEWAY).await;
            let stream = stream.unwrap_or_else(|e| panic!("{case}, {version:?}: {e}"));
            assert_eq!(stream.get_ref().1.peer_certificates(), Some(&chain[..]), "{case}");
        }
    }
}

#[tokio::test]
async fn what_a_client_presents_is_bounded_and_must_parse() {
    let site = Site::new();
    let leaf = ders(&site.device.leaf_pem).remove(0);
    let ca = ders(site.root.certificate_pem()).remove(0);
    let chain = |n: usize| [vec![leaf.clone()], vec![ca.clone(); n - 1]].concat();
    let fat = CertificateDer::from(vec![0x30; CHAIN_BYTES_MAX]);
    for version in BOTH {
        for (case, chain, fits) in [
            ("as many as allowed", chain(CHAIN_MAX), true),
            ("one more", chain(CHAIN_MAX + 1), false),
            ("too many bytes", vec![leaf.clone(), fat.clone()], false),
            ("no certificate", vec![CertificateDer::from(b"0\x03abc".to_vec())], false),
        ] {
            let presents = Presents::new(chain, &site.device.key_pem);
            let client = site.client(&[version], Some(presents));
            let got = meet(&site.server, client, GATEWAY).await;
            assert_eq!(got.is_ok(), fits, "{case}, {version:?}: {:?}", got.err());
        }
    }
}

#[tokio::test]
async fn a_resumed_session_shows_the_certificate_of_its_first_handshake() {
    let site = Site::new();
    for version in BOTH {
        let mut client = site.client(&[version], Some(Presents::device(&site.device)));
        client.resumption = Resumption::in_memory_sessions(8);
        let client = Arc::new(client);
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let stream = meet_shared(&site.server, &client, GATEWAY).await.unwrap();
            let (_, tls) = stream.get_ref();
            kinds.push(tls.handshake_kind().unwrap());
            assert_eq!(tls.peer_certificates(), Some(&ders(&site.device.leaf_pem)[..]));
        }
        let expected = [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed];
        assert_eq!(kinds, expected, "{version:?}");
        // Another configuration (a new server certificate, say) starts anew.
        let renewed = server_config(&site.identity, Asks::Certificates);
        let stream = meet_shared(&renewed, &client, GATEWAY).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

/// What a client may send when its side of the handshake is done: Finished and CONNECT in one piece. The reference
/// loses that CONNECT (iotedge#7539).
#[tokio::test]
async fn a_connect_in_the_same_flight_as_the_finished_is_read() {
    let site = Site::new();
    for version in BOTH {
        let mut client = site.client(&[version], Some(Presents::device(&site.device)));
        client.resumption = Resumption::in_memory_sessions(8);
        let client = Arc::new(client);
        // In TLS 1.2 the client speaks last only when it resumes.
        meet_shared(&site.server, &client, GATEWAY).await.unwrap();
        for step in [usize::MAX, 7, 1] {
            let name = ServerName::try_from(GATEWAY).unwrap();
            let tls = ClientConnection::new(Arc::clone(&client), name).unwrap();
            let (near, far) = tokio::io::duplex(64 * 1024);
            let server = async {
                let mut stream = TlsAcceptor::from(Arc::clone(&site.server)).accept(far).await?;
                let mut connect = [0; 14];
                stream.read_exact(&mut connect).await?;
                stream.get_mut().0.shutdown().await?;
                Ok::<_, io::Error>(connect)
            };
            let (sent, got) = tokio::join!(in_one_flight(tls, near, step), server);
            sent.unwrap();
            assert_eq!(&got.unwrap(), CONNECT, "{version:?}, {step} bytes at a time");
        }
    }
}

const CONNECT: &[u8; 14] = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00";

/// Shakes hands by hand; the last flight and the CONNECT leave together, `step` bytes a write.
async fn in_one_flight(
    mut tls: ClientConnection,
    mut pipe: DuplexStream,
    step: usize,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    while tls.is_handshaking() {
        let mut flight = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut flight)?;
        }
        pipe.write_all(&flight).await?;
        let n = pipe.read(&mut buffer).await?;
        assert_ne!(n, 0, "the server hung up in the handshake");
        let mut received = &buffer[..n];
        while !received.is_empty() {
            tls.read_tls(&mut received)?;
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }
    assert!(tls.wants_write(), "the Finished has not left yet");
    tls.writer().write_all(CONNECT)?;
    let mut flight = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut flight)?;
    }
    for piece in flight.chunks(step.min(flight.len())) {
        pipe.write_all(piece).await?;
        tokio::task::yield_now().await;
    }
    // Until the server hangs up.
    while pipe.read(&mut buffer).await? > 0 {}
    let mut rest = Vec::new();
    assert!(tls.reader().read_to_end(&mut rest).is_err(), "the server said nothing");
    Ok(())
}

#[tokio::test]
async fn the_client_s_order_of_ciphers_decides_where_there_is_aes_and_chacha20_where_there_is_none()
{
    let site = Site::new();
    let (with, without) = (
        config_for(&site.identity, Asks::Certificates, true),
        config_for(&site.identity, Asks::Certificates, false),
    );
    let suites = |first: CipherSuite| {
        let mut provider = ring::default_provider();
        provider.cipher_suites.sort_by_key(|s| s.suite() != first);
        provider
    };
    for first in [
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        CipherSuite::TLS13_AES_128_GCM_SHA256,
        CipherSuite::TLS13_AES_256_GCM_SHA384,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ] {
        let provider = suites(first);
        let tls13 = provider.cipher_suites[0].version().version == ProtocolVersion::TLSv1_3;
        let version = if tls13 { &version::TLS13 } else { &version::TLS12 };
        let trusted = || {
            let mut roots = RootCertStore::empty();
            roots.add(ders(site.root.certificate_pem()).remove(0)).unwrap();
            roots
        };
        let client = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(trusted())
            .with_no_client_auth();
        for (server, is_expected) in [
            (&with, (|suite, first| suite == first) as fn(CipherSuite, CipherSuite) -> bool),
            (&without, |suite, _| is_chacha20(suite)),
        ] {
            let stream = meet(server, client.clone(), GATEWAY).await.unwrap();
            let suite = stream.get_ref().1.negotiated_cipher_suite().map(|s| s.suite()).unwrap();
            assert!(is_expected(suite, first), "{first:?} first: {suite:?}");
        }
        // Who has no ChaCha20-Poly1305 is served all the same.
        if !is_chacha20(first) {
            let mut client = client;
            let only = |provider: &CryptoProvider| CryptoProvider {
                cipher_suites: vec![provider.cipher_suites[0]],
                ..provider.clone()
            };
            let provider = only(client.crypto_provider());
            client = ClientConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(trusted())
                .with_no_client_auth();
            let stream = meet(&without, client, GATEWAY).await.unwrap();
            let suite = stream.get_ref().1.negotiated_cipher_suite().map(|s| s.suite());
            assert_eq!(suite, Some(first));
        }
    }
}

/// What `server_config` itself makes of this processor: on a Raspberry Pi 4, ChaCha20 for who would rather have AES.
/// `tests/arm64/run` says which kind it is (SPHERE_TEST_AES, `yes` or `no`); elsewhere the processor is believed.
#[tokio::test]
async fn without_aes_instructions_chacha20_is_negotiated() {
    let aes = std::env::var("SPHERE_TEST_AES").unwrap_or_default();
    let has_aes = if aes.is_empty() { has_aes() } else { aes == "yes" };
    let site = Site::new();
    let server = server_config(&site.identity, Asks::Certificates);
    for (version, aes, chacha20) in [
        (
            &version::TLS13,
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        ),
        (
            &version::TLS12,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
    ] {
        let mut provider = ring::default_provider();
        provider.cipher_suites.sort_by_key(|s| s.suite() != aes);
        let mut roots = RootCertStore::empty();
        roots.add(ders(site.root.certificate_pem()).remove(0)).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = meet(&server, client, GATEWAY).await.unwrap();
        let suite = stream.get_ref().1.negotiated_cipher_suite().map(|s| s.suite());
        assert_eq!(suite, Some(if has_aes { aes } else { chacha20 }), "{version:?}");
    }
}

#[tokio::test]
async fn rsa_and_p384_server_keys_serve() {
    let root = Authority::root("Edge Root", Curve::P384, lasting()).unwrap();
    let device = root.issue_client("d", lasting()).unwrap();
    let rsa = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
    let rsa_pem = rsa.to_pkcs8_pem(rsa::pkcs8::LineEnding::LF).unwrap();
    let rsa = rcgen::KeyPair::from_pem(&rsa_pem).unwrap();
    let params = rcgen::CertificateParams::new(vec![GATEWAY.to_owned()]).unwrap();
    let self_signed = params.self_signed(&rsa).unwrap();
    let p384 = root.issue(&params, Curve::P384).unwrap();
    for (case, chain_pem, key_pem, trusted) in [
        ("RSA", self_signed.pem(), rsa_pem.to_string(), self_signed.pem()),
        ("P-384", p384.chain_pem, p384.key_pem, root.certificate_pem().to_owned()),
    ] {
        let (chain, key) = (chain_pem.as_bytes(), key_pem.as_bytes());
        let identity = ServerIdentity::from_pem(chain, key, GATEWAY, NOW).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ders(&trusted).remove(0)).unwrap();
        for version in BOTH {
            let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots.clone())
                .with_client_cert_resolver(Presents::device(&device));
            let got = meet(&server_config(&identity, Asks::Certificates), client, GATEWAY).await;
            assert!(got.is_ok(), "{case}, {version:?}: {:?}", got.err());
        }
    }
}

/// A resumed session carries the certificates of its first handshake into the judgement of now.
#[tokio::test]
async fn a_resumed_session_is_judged_as_strictly_as_a_full_one() {
    let site = Site::new();
    let tenant = Authority::root("Tenant", Curve::P384, lasting()).unwrap();
    let issued = tenant.issue_client("d1", valid()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let edge = DeviceId::parse("edge1").unwrap();
    let scope = Arc::new(Scope::load(folder.path().join("scope.json"), edge).0);
    let clock = StillClock::at(NOW);
    let bundle = TrustBundle::from_bytes("t", tenant.certificate_pem().as_bytes()).unwrap();
    let list = revoking(&tenant, &[&ders(&issued.leaf_pem)[0]]);
    let with_list = format!("{}{list}", tenant.certificate_pem());
    let with_list = TrustBundle::from_bytes("t", with_list.as_bytes()).unwrap();
    let day = Duration::from_secs(86_400);
    let policy =
        Policy { expired_leaf_grace: day, away_after: Duration::ZERO, ..Policy::default() };
    let authenticator = Authenticator::new(bundle.clone(), Arc::clone(&scope), clock.clone());
    let authenticator = authenticator.by(policy);
    let claim = ClientName::Device(DeviceId::parse("d1").unwrap());
    let register = |status: Status| {
        let entry = ScopeEntry {
            name: claim.clone(),
            generation: "1".into(),
            status,
            auth: AuthKind::CertificateAuthority,
            scope: "ms-azure-iot-edge://edge1-1".into(),
            parent_scopes: Vec::new(),
            is_edge: false,
        };
        let _ = scope.replace(vec![entry], NOW);
    };
    for version in BOTH {
        clock.set(NOW);
        register(Status::Enabled);
        authenticator.replace_bundle(bundle.clone());
        authenticator.hub_is_reached(true);
        let mut client = site.client(&[version], Some(Presents::device(&issued)));
        client.resumption = Resumption::in_memory_sessions(8);
        let client = Arc::new(client);
        let judged = async |kind: HandshakeKind| {
            let stream = meet_shared(&site.server, &client, GATEWAY).await.unwrap();
            let (_, tls) = stream.get_ref();
            assert_eq!(tls.handshake_kind(), Some(kind));
            let chain = tls.peer_certificates().unwrap_or_default();
            let attempt = Attempt { claim: &claim, password: None, chain };
            let judged = authenticator.authenticate(attempt);
            judged.map(|a| a.credential.label()).map_err(|refusal| refusal.label)
        };
        let good = Ok("certificate_authority");
        assert_eq!(judged(HandshakeKind::Full).await, good);
        assert_eq!(judged(HandshakeKind::Resumed).await, good);
        clock.set(window(0, 43_201).not_after);
        assert_eq!(judged(HandshakeKind::Resumed).await, Err("expired"), "{version:?}");
        authenticator.hub_is_reached(false);
        assert_eq!(judged(HandshakeKind::Resumed).await, Ok("grace"), "{version:?}");
        clock.set(NOW);
        register(Status::Disabled);
        assert_eq!(judged(HandshakeKind::Resumed).await, Err("disabled"), "{version:?}");
        register(Status::Enabled);
        authenticator.replace_bundle(TrustBundle::empty());
        assert_eq!(judged(HandshakeKind::Resumed).await, Err("unknown_ca"), "{version:?}");
        authenticator.replace_bundle(with_list.clone());
        assert_eq!(judged(HandshakeKind::Resumed).await, Err("revoked"), "{version:?}");
        // Nor does its end, or an outage, help.
        clock.set(window(0, 43_201).not_after);
        assert_eq!(judged(HandshakeKind::Resumed).await, Err("revoked"), "{version:?}, by grace");
    }
}

#[tokio::test]
async fn a_gateway_without_certificates_asks_for_none() {
    let site = Site::new();
    let server = server_config(&site.identity, Asks::Nothing);
    for version in BOTH {
        let client = site.client(&[version], Some(Presents::device(&site.device)));
        let stream = meet(&server, client, GATEWAY).await.unwrap();
        assert_eq!(stream.get_ref().1.peer_certificates(), None, "{version:?}");
    }
}

/// A client may send a whole record behind its Finished without waiting: it is no part of the handshake.
#[tokio::test]
async fn what_comes_right_behind_the_longest_handshake_is_not_counted_with_it() {
    let (site, behind) = (Site::new(), vec![7; 16 * 1024]);
    let mut chain = ders(&site.device.leaf_pem);
    // What is on no path nobody reads.
    chain.extend((1..CHAIN_MAX).map(|_| CertificateDer::from(vec![0x30; 2200])));
    let bytes: usize = chain.iter().map(|certificate| certificate.len()).sum();
    assert!((15_000..=CHAIN_BYTES_MAX).contains(&bytes), "{bytes}");
    let client = site.client(&BOTH, Some(Presents::new(chain, &site.device.key_pem)));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(GATEWAY).unwrap();
    let pipelined = |client: &mut ClientConnection| client.writer().write_all(&behind).unwrap();
    let connect = TlsConnector::from(Arc::new(client)).connect_with(name, near, pipelined);
    let (socket, allowance) = Measured::new(far, SHAKE_BYTES_MAX);
    let accept = allowance.within(TlsAcceptor::from(Arc::clone(&site.server)).accept(socket));
    let (client, server) = tokio::join!(connect, accept);
    let (_client, mut server) = (client.unwrap(), server.unwrap());
    allowance.lift();
    let mut came = vec![0; behind.len()];
    server.read_exact(&mut came).await.unwrap();
    assert_eq!(came, behind);
}
