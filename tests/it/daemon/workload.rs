//! A stand-in for the IoT Edge daemon: its workload API on a unix socket, as the real 1.6.0 daemon answered.
//!
//! Shares no code with the gateway's client. A module sees the socket through a mount; a hard link stands for it here: when
//! the daemon restarts, its socket is a new inode, and the module's stays dead until the module is mounted anew.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::Sha256;
use sphere_gateway::certs::{Authority, Curve, Site, Window};
use sphere_gateway::clock;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The generation of `$edgeHub`.
pub(crate) const GENERATION: &str = "638000000000000001";

/// Connections that the daemon serves at a time; the next is closed without a word.
const CONNECTIONS_MAX: usize = 10;

/// What it does next.
#[derive(Debug, Default, Clone)]
pub(crate) struct Script {
    /// So many requests are answered 500.
    pub(crate) failures: u32,
    /// Certificates are for this name, whatever was asked.
    pub(crate) name: Option<String>,
    /// No request is answered.
    pub(crate) is_mute: bool,
    /// It does not know the caller.
    pub(crate) is_forbidden: bool,
    /// The CAs of this edge device, PEM, if they are others than those of the start.
    pub(crate) bundle: Option<String>,
    /// Answers are longer than any that the API has.
    pub(crate) is_garrulous: bool,
    /// Days that a certificate lasts, if it is not 20.
    pub(crate) days: Option<u64>,
}

/// A daemon.
pub(crate) struct Daemon {
    shared: Arc<Shared>,
    folder: PathBuf,
    running: Option<Running>,
}

struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct Shared {
    key: Vec<u8>,
    ca: Authority,
    bundle_pem: String,
    script: Mutex<Script>,
    requests: Mutex<Vec<String>>,
    open: AtomicUsize,
    open_max: AtomicUsize,
    closed: AtomicUsize,
}

impl Daemon {
    /// A daemon that runs, and has mounted its socket for the module. `key` is the module's, as the hub knows it.
    pub(crate) fn start(folder: &Path, pki: &Site, key: &str) -> Self {
        let window = Window::days(clock::system().wall(), 20);
        let ca = pki.edge_root.intermediate("iotedged workload ca", Curve::P256, window);
        let shared = Shared {
            key: STANDARD.decode(key).expect("a key"),
            ca: ca.expect("a CA"),
            bundle_pem: pki.trust_bundle_pem.clone(),
            script: Mutex::default(),
            requests: Mutex::default(),
            open: AtomicUsize::new(0),
            open_max: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
        };
        fs::create_dir_all(folder).expect("a folder");
        let mut daemon =
            Self { shared: Arc::new(shared), folder: folder.to_owned(), running: None };
        daemon.revive();
        daemon.mount();
        daemon
    }

    fn own_socket(&self) -> PathBuf {
        self.folder.join("edgeHub.sock")
    }

    /// The socket as the module sees it.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("workload.sock")
    }

    /// What a start of the module's container does: it sees the daemon's socket of now.
    pub(crate) fn mount(&self) {
        let _ = fs::remove_file(self.socket());
        fs::hard_link(self.own_socket(), self.socket()).expect("a link");
    }

    /// `kill -9`: connections end, the sockets refuse.
    pub(crate) async fn kill(&mut self) {
        if let Some(Running { stop, tasks }) = self.running.take() {
            stop.cancel();
            tasks.close();
            tasks.wait().await;
        }
    }

    /// Starts it again, on a new socket: the module's stays dead.
    pub(crate) fn revive(&mut self) {
        assert!(self.running.is_none());
        let _ = fs::remove_file(self.own_socket());
        let listener = UnixListener::bind(self.own_socket()).expect("a socket");
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let accepting = accept(listener, Arc::clone(&self.shared), stop.clone(), tasks.clone());
        tasks.spawn(accepting);
        self.running = Some(Running { stop, tasks });
    }

    /// Changes what it does.
    pub(crate) fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.shared.script.lock().expect("no panic"));
    }

    /// Method and path of each request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().expect("no panic").clone()
    }

    /// How many requests for this were made.
    pub(crate) fn asked(&self, method: &str) -> usize {
        let of = format!("/{method}?");
        self.requests().iter().filter(|request| request.contains(&of)).count()
    }

    /// The most connections that were open at a time.
    pub(crate) fn open_max(&self) -> usize {
        self.shared.open_max.load(Ordering::Relaxed)
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Connections that were closed because there were too many.
    pub(crate) fn closed(&self) -> usize {
        self.shared.closed.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: UnixListener,
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let (socket, _) = accepted.expect("accept");
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            shared.closed.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tasks.spawn(async move {
            let open = shared.open.fetch_add(1, Ordering::Relaxed) + 1;
            shared.open_max.fetch_max(open, Ordering::Relaxed);
            let service = service_fn(|request| answer(&shared, request));
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service);
            let _ = stop.run_until_cancelled(serving).await;
            shared.open.fetch_sub(1, Ordering::Relaxed);
            drop(permit);
        });
    }
}

async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let line = format!("{} {}", head.method, head.uri);
    shared.requests.lock().expect("no panic").push(line);
    let script = {
        let mut script = shared.script.lock().expect("no panic");
        let now = script.clone();
        script.failures = script.failures.saturating_sub(1);
        now
    };
    if script.is_mute {
        std::future::pending::<()>().await;
    }
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let (status, mut body) = match script.failures {
        0 => route(shared, &script, head.method.as_str(), head.uri.path(), head.uri.query(), &json),
        _ => message(500, "the identity service is not there yet"),
    };
    if script.is_garrulous {
        body["certificate"] = json!("x".repeat(2 << 20));
    }
    let response = Response::builder()
        .status(StatusCode::from_u16(status).expect("a status"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())));
    Ok(response.expect("a response"))
}

fn message(status: u16, words: &str) -> (u16, Value) {
    (status, json!({ "message": words }))
}

fn route(
    shared: &Shared,
    script: &Script,
    method: &str,
    path: &str,
    query: Option<&str>,
    body: &Value,
) -> (u16, Value) {
    let known = ["2018-06-28", "2019-01-30", "2020-07-07", "2022-08-03"];
    if !query.and_then(|q| q.strip_prefix("api-version=")).is_some_and(|v| known.contains(&v)) {
        return message(400, "invalid api-version");
    }
    let parts: Vec<&str> = path.trim_start_matches('/').splitn(5, '/').collect();
    match (method, &parts[..]) {
        // It asks nobody who he is here.
        ("GET", ["trust-bundle"]) => {
            let pem = script.bundle.as_ref().unwrap_or(&shared.bundle_pem);
            (200, json!({ "certificate": pem }))
        }
        // The container's name is the module's without the `$`: this name passes the check, and is no identity.
        ("POST", _) if script.is_forbidden => message(403, "forbidden"),
        ("POST", ["modules", "edgeHub", ..]) => message(404, "module not found"),
        ("POST", ["modules", "%24edgeHub", "genid", generation, rest]) => match *generation {
            GENERATION => module(shared, script, rest, body),
            _ => message(404, "module not found"),
        },
        ("POST", ["modules", ..]) => message(403, "forbidden"),
        _ => message(404, "not found"),
    }
}

fn module(shared: &Shared, script: &Script, method: &str, body: &Value) -> (u16, Value) {
    let bytes = |name: &str| body[name].as_str().and_then(|text| STANDARD.decode(text).ok());
    let (vector, text) = (bytes("initializationVector"), |name: &str| bytes(name));
    match (method, text("data"), text("plaintext"), text("ciphertext"), vector) {
        ("sign", Some(data), ..) => (200, json!({ "digest": STANDARD.encode(mac(shared, &data)) })),
        ("encrypt", _, Some(plain), _, Some(iv)) => {
            (200, json!({ "ciphertext": STANDARD.encode(mixed(shared, &plain, &iv)) }))
        }
        ("decrypt", _, _, Some(cipher), Some(iv)) => {
            (200, json!({ "plaintext": STANDARD.encode(mixed(shared, &cipher, &iv)) }))
        }
        ("certificate/server", ..) => certificate(shared, script, body),
        _ => message(400, "bad request"),
    }
}

fn mac(shared: &Shared, data: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&shared.key).expect("any key will do");
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

/// No cipher, but its own reverse and another for each vector.
fn mixed(shared: &Shared, text: &[u8], vector: &[u8]) -> Vec<u8> {
    let stream = mac(shared, vector);
    text.iter().zip(stream.iter().cycle()).map(|(a, b)| a ^ b).collect()
}

/// The wish for an end is ignored: the CA's own end caps it.
fn certificate(shared: &Shared, script: &Script, body: &Value) -> (u16, Value) {
    let (Some(asked), Some(_)) = (body["commonName"].as_str(), body["expiration"].as_str()) else {
        return message(400, "bad request");
    };
    let name = script.name.as_deref().unwrap_or(asked);
    let window = Window::days(clock::system().wall(), script.days.unwrap_or(20));
    let issued = shared.ca.issue_server(&[name, "edgeHub"], &[], window).expect("a certificate");
    let body = json!({
        "privateKey": { "type": "key", "bytes": issued.key_pem },
        "certificate": issued.chain_pem,
        "expiration": "2030-01-01T00:00:00Z",
    });
    (201, body)
}

/// The patience of a client that tests do not want to wait for.
pub(crate) fn short(tries: u32) -> sphere_gateway::edged::Patience {
    sphere_gateway::edged::Patience {
        tries,
        once: Duration::from_secs(20),
        overall: Duration::from_secs(60),
    }
}
