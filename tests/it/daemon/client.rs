//! The client of the workload API against the double.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use sphere_gateway::clock;
use sphere_gateway::edged::{Address, Config, Patience, Workload, WorkloadError};
use sphere_gateway::identity::ModuleId;
use tokio::net::{TcpListener, UnixStream};
use tokio_util::task::TaskTracker;

use super::workload::{Daemon, GENERATION, short};
use crate::site;
use crate::support::eventually;

const KEY: &str = "c2VjcmV0LWtleS1vZi1lZGdlSHVi";

struct Lab {
    daemon: Daemon,
    _folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let daemon = Daemon::start(folder.path(), &site::mint(0), KEY);
        Self { daemon, _folder: folder }
    }

    fn config(&self) -> Config {
        let module = ModuleId::parse("$edgeHub").expect("an id");
        let address = Address::Unix(self.daemon.socket());
        let mut config = Config::new(address, Some("2019-01-30"), module, GENERATION);
        (config.quick, config.slow) = (short(5), short(5));
        config
    }

    fn client(&self) -> Arc<Workload> {
        Workload::new(self.config())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_is_answered_as_the_daemon_does() {
    let lab = Lab::new();
    let client = lab.client();
    let mut mac = Hmac::<Sha256>::new_from_slice(b"secret-key-of-edgeHub").expect("a key");
    mac.update(b"some text");
    let expected: [u8; 32] = mac.finalize().into_bytes().into();
    assert_eq!(client.hmac(b"some text").await.expect("a signature"), expected);

    let cipher = client.encrypt(b"a twin", b"vector").await.expect("a ciphertext");
    assert_ne!(cipher, b"a twin");
    assert_eq!(client.decrypt(&cipher, b"vector").await.expect("a plaintext"), b"a twin");

    assert!(client.trust_bundle().await.expect("a bundle").contains("BEGIN CERTIFICATE"));
    let now = clock::system().wall();
    let issued = client.server_certificate("gateway.local", now).await.expect("a certificate");
    assert_eq!(issued.chain_pem.matches("BEGIN CERTIFICATE").count(), 2, "leaf and edge CA");
    assert!(issued.key_pem.contains("PRIVATE KEY"));
    assert!(!format!("{issued:?}{client:?}").contains("PRIVATE"));

    let module = format!("/modules/%24edgeHub/genid/{GENERATION}");
    assert_eq!(
        lab.daemon.requests(),
        [
            format!("POST {module}/sign?api-version=2019-01-30"),
            format!("POST {module}/encrypt?api-version=2019-01-30"),
            format!("POST {module}/decrypt?api-version=2019-01-30"),
            "GET /trust-bundle?api-version=2019-01-30".to_owned(),
            format!("POST {module}/certificate/server?api-version=2019-01-30"),
        ]
    );
}

/// The daemon may listen on TCP, too: here a door to the same socket.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_on_tcp_is_asked_the_same() {
    let lab = Lab::new();
    let door = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", door.local_addr().expect("an address"));
    let tasks = TaskTracker::new();
    let socket = lab.daemon.socket();
    tasks.spawn(async move {
        let (mut outer, _) = door.accept().await.expect("a client");
        let mut inner = UnixStream::connect(socket).await.expect("the daemon");
        let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
    });
    let address = Address::parse(&address).expect("an address");
    let client = Workload::new(Config { address, ..lab.config() });
    client.hmac(b"x").await.expect("a signature");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_to_do_and_are_not_repeated() {
    let lab = Lab::new();
    let check = async |module: &str, generation: &str, status: u16, advice: &str| {
        let before = lab.daemon.requests().len();
        let module = ModuleId::parse(module).expect("an id");
        let config = Config { module, generation: generation.into(), ..lab.config() };
        let error = Workload::new(config).hmac(b"x").await.expect_err("refused");
        let text = error.to_string();
        assert!(matches!(error, WorkloadError::Refused { status: s, .. } if s == status), "{text}");
        assert!(text.contains(advice) && text.contains("sign"), "{text}");
        assert_eq!(lab.daemon.requests().len(), before + 1, "asked once");
    };
    check("$edgeAgent", GENERATION, 403, "in the container named edgeHub").await;
    check("edgeHub", GENERATION, 404, "start the container again").await;
    check("$edgeHub", "1", 404, "start the container again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_tried_again_a_few_times() {
    let lab = Lab::new();
    lab.daemon.script(|s| s.failures = 3);
    lab.client().hmac(b"x").await.expect("the fourth try");
    assert_eq!(lab.daemon.asked("sign"), 4);

    lab.daemon.script(|s| s.failures = 100);
    let error = lab.client().hmac(b"x").await.expect_err("it fails for ever");
    assert_eq!((error.label(), lab.daemon.asked("sign")), ("failed", 9));
    assert!(error.to_string().contains("500: the identity service is not there yet"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_four_requests_are_under_way() {
    let lab = Lab::new();
    let client = lab.client();
    let all = (0..40_u8).map(|n| {
        let client = Arc::clone(&client);
        async move { client.hmac(&[n]).await }
    });
    for signed in futures_util::future::join_all(all).await {
        signed.expect("a signature");
    }
    assert!(lab.daemon.open_max() <= 4 && lab.daemon.closed() == 0, "{}", lab.daemon.open_max());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_too_many_is_closed_and_the_request_goes_again() {
    let lab = Lab::new();
    let mut others = Vec::new();
    for _ in 0..10 {
        others.push(UnixStream::connect(lab.daemon.socket()).await.expect("a connection"));
    }
    eventually("ten others are connected", async || lab.daemon.open() == 10).await;
    let mut config = lab.config();
    config.quick = short(1000);
    let client = Workload::new(config);
    let signed = client.hmac(b"x");
    let leave = async {
        eventually("the eleventh is closed", async || lab.daemon.closed() > 0).await;
        drop(others);
    };
    tokio::join!(signed, leave).0.expect("a signature");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_daemon_is_reached_once_its_new_socket_is_mounted() {
    let mut lab = Lab::new();
    let client = lab.client();
    client.hmac(b"x").await.expect("a signature");
    lab.daemon.kill().await;
    let dead = async || {
        let error = client.hmac(b"x").await.expect_err("nobody listens");
        assert_eq!(error.label(), "unreachable", "{error}");
        assert!(error.to_string().contains("has been restarted"), "{error}");
    };
    dead().await;
    // It is back on another socket, and this one stays dead.
    lab.daemon.revive();
    dead().await;
    lab.daemon.mount();
    client.hmac(b"x").await.expect("a signature");
    std::fs::remove_file(lab.daemon.socket()).expect("unmounted");
    let error = client.hmac(b"x").await.expect_err("there is no socket");
    assert!(error.to_string().contains("must be started by the daemon"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_endless_answers_are_bounded() {
    let lab = Lab::new();
    lab.daemon.script(|s| s.is_garrulous = true);
    let mut config = lab.config();
    config.quick = short(1);
    let error = Workload::new(config.clone()).trust_bundle().await.expect_err("2 MiB");
    assert!(error.to_string().contains("length limit"), "{error}");

    lab.daemon.script(|s| s.is_mute = true);
    let once = Duration::from_millis(50);
    config.quick = Patience { tries: 2, once, overall: Duration::from_secs(60) };
    let error = Workload::new(config).trust_bundle().await.expect_err("no answer");
    assert_eq!(error.label(), "timeout");
    assert_eq!(lab.daemon.requests().len(), 3, "one, and two tries");
}

/// What its user (a file that only this edge device can read) must bear: refusals, failures, a socket that is dead.
#[tokio::test(flavor = "multi_thread")]
async fn encryption_fails_with_a_reason_and_shows_no_plain_text() {
    const SECRET: &[u8] = b"plain-text-of-the-scope";
    let mut lab = Lab::new();
    let mut config = lab.config();
    config.quick = short(2);
    let client = Workload::new(config);
    let all = async |label: &str, words: &str| {
        let ends =
            [client.encrypt(SECRET, b"vector").await, client.decrypt(SECRET, b"vector").await];
        for end in ends {
            let error = end.expect_err(label);
            let text = format!("{error} {error:?} {client:?}");
            assert_eq!(error.label(), label, "{text}");
            assert!(text.contains(words), "{text}");
            let encoded = STANDARD.encode(SECRET);
            for secret in ["plain-text-of-the-scope", &encoded, "vector"] {
                assert!(!text.contains(secret), "{text}");
            }
        }
    };
    lab.daemon.script(|s| s.is_forbidden = true);
    all("refused", "403").await;
    assert_eq!((lab.daemon.asked("encrypt"), lab.daemon.asked("decrypt")), (1, 1), "not again");
    lab.daemon.script(|s| (s.is_forbidden, s.failures) = (false, 4));
    all("failed", "500").await;
    assert_eq!((lab.daemon.asked("encrypt"), lab.daemon.asked("decrypt")), (3, 3), "once again");
    lab.daemon.script(|s| s.is_garrulous = true);
    all("failed", "broke off").await;
    lab.daemon.script(|s| s.is_garrulous = false);
    lab.daemon.kill().await;
    lab.daemon.revive();
    all("unreachable", "has been restarted").await;
    // It comes back, and so does the text: also none, and a large one.
    lab.daemon.mount();
    let long = vec![7; 513 * 1024 + 1];
    for end in [client.encrypt(&long, b"").await, client.decrypt(&long, b"").await] {
        assert_eq!(end.expect_err("too long").label(), "too_long");
    }
    for plain in [SECRET, b"", &long[..512 * 1024]] {
        let cipher = client.encrypt(plain, b"vector").await.expect("a ciphertext");
        assert!(plain.is_empty() || cipher != plain);
        assert_eq!(client.decrypt(&cipher, b"vector").await.expect("a plain text"), plain);
    }
}
