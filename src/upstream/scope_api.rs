//! The hub's answer to "who is below this edge device?", over HTTPS.
//!
//! Owns: the two calls of the nested scope API (`iothub-protocol.md` C2, J4; `edgehub.md` 7.4), their paging, their limits
//! and the reading of their JSON. Invariants: time, size and number of pages are bounded; symmetric keys are in the answer
//! and are not logged (no body ever reaches an error text).
//! Must not know: who uses the entries, or where they are kept.

mod answer;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use self::answer::Page;
use super::Config;
use super::backoff::Backoff;
use super::connect::{self, ConnectError, Peer};
use super::token::TokenSource;
use crate::auth::scope::{Lookup, Scope, ScopeEntry};
use crate::clock::SharedClock;
use crate::identity::{ClientName, DeviceId, ModuleId};
use crate::iothub::sas;

/// Entries a page; the reference's 10 makes thousands of children slow (`edgehub.md` 7.1).
const PAGE_SIZE: u32 = 100;
/// An entry is about 1 KiB, so a page about 200 KiB; this is twenty times as much.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// 100,000 devices; more is a hub that pages in a circle.
const PAGES_MAX: usize = 1000;
/// Limit on a whole refresh, retries included (`edgehub.md` 7.4).
const OVERALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Waits between tries (`edgehub.md` 7.4: exponential, 1 to 10 s).
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Limit on one request.
const TRY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a page that the hub gave us says that it is not we who are refused. A page is 100 entries, about 100 KiB: at most
/// one in that time because of strangers' names, 15 MB a day.
const LISTED_LATELY: Duration = Duration::from_secs(600);
const API: &str = "api-version=2020-06-30-preview";

/// Why the scope could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum ScopeFetchError {
    /// The hub will give the same answer to the same question: 400, 401, 403, 404, 405, 406.
    #[error("the hub refused the scope request with {status}; {advice}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What to do.
        advice: &'static str,
    },
    /// Not reachable, or reachable and failing.
    #[error("the hub's scope service is not available: {0}; it is tried again")]
    Unavailable(String),
    /// Took longer than the whole may take.
    #[error("the scope was not complete after {OVERALL_TIMEOUT:?}; it is tried again")]
    Time,
    /// An answer that does not follow the protocol.
    #[error("the hub's scope answer cannot be read: {0}")]
    Malformed(&'static str),
}

impl ScopeFetchError {
    /// Whether another try can help.
    fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// The connection over which the pages of one fetch are read, while it lasts.
type Kept = Option<SendRequest<Full<Bytes>>>;

/// Speaks the scope API.
pub struct ScopeApi {
    config: Config,
    tls: Arc<rustls::ClientConfig>,
    tokens: TokenSource,
    clock: SharedClock,
    tracker: TaskTracker,
    /// When the hub last gave us a page; `None` once it refused us one.
    listed: Mutex<Option<Instant>>,
}

impl ScopeApi {
    /// Nothing is dialled before the first fetch; connections' tasks are spawned on `tracker`.
    pub fn new(config: Config, clock: SharedClock, tracker: TaskTracker) -> Self {
        let (tls, tokens) = (config.tls(), config.token_source(clock.clone()));
        Self { config, tls, tokens, clock, tracker, listed: Mutex::default() }
    }

    pub(super) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Every device and module below this edge device, this edge device itself included.
    pub async fn fetch(&self) -> Result<Vec<ScopeEntry>, ScopeFetchError> {
        timeout(OVERALL_TIMEOUT, self.fetch_pages()).await.map_err(|_| ScopeFetchError::Time)?
    }

    async fn fetch_pages(&self) -> Result<Vec<ScopeEntry>, ScopeFetchError> {
        let mut entries = Vec::new();
        let (mut continuation, mut kept): (Option<String>, Kept) = (None, None);
        for _ in 0..PAGES_MAX {
            let body = ListRequest {
                page_size: PAGE_SIZE,
                continuation_link: continuation.as_deref(),
                auth_chain: self.config.edge.as_str(),
            };
            let page = self.call("devicesAndModulesInTargetDeviceScope", &body, &mut kept).await;
            self.note_list(&page);
            let page = page?;
            page.read_into(&mut entries);
            match page.continuation_link.filter(|link| !link.is_empty()) {
                None => return Ok(entries),
                link if link == continuation => {
                    return Err(ScopeFetchError::Malformed("the same page again"));
                }
                link => continuation = link,
            }
        }
        Err(ScopeFetchError::Malformed("more than 1000 pages"))
    }

    /// The first page, tried once, and whether there are more: for who only looks.
    pub async fn first_page(&self) -> Result<(Vec<ScopeEntry>, bool), ScopeFetchError> {
        let body = ListRequest {
            page_size: PAGE_SIZE,
            continuation_link: None,
            auth_chain: self.config.edge.as_str(),
        };
        let body = Bytes::from(serde_json::to_vec(&body).expect("texts and numbers serialize"));
        let method = "devicesAndModulesInTargetDeviceScope";
        let page = self.try_call(method, body, false, &mut None).await;
        self.note_list(&page);
        let page = page?;
        let mut entries = Vec::new();
        page.read_into(&mut entries);
        Ok((entries, page.continuation_link.is_some_and(|link| !link.is_empty())))
    }

    /// One identity, and what the hub sends along with it: empty when it is not ours (any more).
    ///
    /// The chain is that of the edge device whose child it is, as the reference sends it: of a new identity no chain is known.
    pub async fn fetch_one(
        &self,
        name: &ClientName,
        scope: &Scope,
    ) -> Result<Vec<ScopeEntry>, ScopeFetchError> {
        let body = OneRequest {
            target_device_id: name.device().as_str(),
            target_module_id: name.module().map(ModuleId::as_str),
            auth_chain: &chain_above(&self.config.edge, name, scope),
        };
        let mut kept = None;
        let call = self.call("getDeviceAndModuleOnBehalfOf", &body, &mut kept);
        match timeout(OVERALL_TIMEOUT, call).await.map_err(|_| ScopeFetchError::Time)? {
            Ok(page) => {
                let mut entries = Vec::new();
                page.read_into(&mut entries);
                Ok(entries)
            }
            // "404/400-type for one id: identity treated as gone" (`edgehub.md` 7.4).
            Err(ScopeFetchError::Refused { status: 400 | 404, .. }) => Ok(Vec::new()),
            // It is that, too, unless it is we who are refused: then nobody may lose his access by it.
            Err(ScopeFetchError::Refused { status: 401 | 403, .. }) => {
                // Who is not known has nothing to lose: an answer of a while ago is enough then.
                if scope.lookup(name) == Lookup::NotInScope && self.is_listed_lately() {
                    return Ok(Vec::new());
                }
                self.first_page().await.map(|_| Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    fn note_list(&self, page: &Result<Page, ScopeFetchError>) {
        let at = match page {
            Ok(_) => Some(self.clock.monotonic()),
            Err(ScopeFetchError::Refused { .. }) => None,
            Err(_) => return,
        };
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn is_listed_lately(&self) -> bool {
        let at = *self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        at.is_some_and(|at| self.clock.monotonic().saturating_duration_since(at) < LISTED_LATELY)
    }

    async fn call<B: Serialize>(
        &self,
        method: &str,
        body: &B,
        kept: &mut Kept,
    ) -> Result<Page, ScopeFetchError> {
        let body = Bytes::from(serde_json::to_vec(body).expect("texts and numbers serialize"));
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut fresh = false;
        loop {
            let one = self.try_call(method, body.clone(), fresh, kept);
            let answer = timeout(TRY_TIMEOUT, one).await.unwrap_or_else(|_| {
                Err(ScopeFetchError::Unavailable(format!("no answer in {TRY_TIMEOUT:?}")))
            });
            match answer {
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "scope request");
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                // Once with a token made this instant: the clock may have been set since the last one.
                Err(ScopeFetchError::Refused { status: 401, .. }) if !fresh => fresh = true,
                done => return done,
            }
        }
    }

    async fn try_call(
        &self,
        method: &str,
        body: Bytes,
        fresh: bool,
        kept: &mut Kept,
    ) -> Result<Page, ScopeFetchError> {
        let config = &self.config;
        let path = format!(
            "/devices/{}/modules/{}/{method}?{API}",
            sas::url_encode(config.edge.as_str()),
            sas::url_encode(config.module.as_str()),
        );
        let token = self
            .tokens
            .token(fresh)
            .await
            .map_err(|error| ScopeFetchError::Unavailable(error.to_string()))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, &config.hub_host)
            .header(header::USER_AGENT, &config.product_info)
            .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
            .header(header::ACCEPT, "application/json")
            .header(header::AUTHORIZATION, &*token.text)
            .body(Full::new(body))
            .map_err(|_| {
                ScopeFetchError::Malformed("the host or product name is no header value")
            })?;
        let mut reused = kept.take();
        if let Some(connection) = &mut reused
            && connection.ready().await.is_err()
        {
            reused = None;
        }
        let mut connection = match reused {
            Some(connection) => connection,
            None => self.dial().await?,
        };
        let answer = connection.send_request(request).await.map_err(unavailable)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(refusal(status));
        }
        let body = Limited::new(answer.into_body(), PAGE_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| ScopeFetchError::Unavailable(error.to_string()))?
            .to_bytes();
        *kept = Some(connection);
        // The parser's own error text may quote the answer, which holds keys.
        serde_json::from_slice(&body)
            .map_err(|_| ScopeFetchError::Malformed("not the expected JSON"))
    }

    async fn dial(&self) -> Result<SendRequest<Full<Bytes>>, ScopeFetchError> {
        let peer: Peer = self.config.peer(self.config.https_port);
        let stream = connect::dial(&peer, &self.tls)
            .await
            .map_err(|error: ConnectError| ScopeFetchError::Unavailable(error.to_string()))?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(unavailable)?;
        // Ends when the sender is dropped.
        self.tracker.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the scope service");
            }
        });
        Ok(sender)
    }
}

/// `edge`, or `child edge;edge` for what is known to be below a nested edge device.
fn chain_above(edge: &DeviceId, name: &ClientName, scope: &Scope) -> String {
    let device = ClientName::Device(name.device().clone());
    let above = match scope.lookup(&device) {
        Lookup::Entry(entry) if name.device() != edge => {
            // An id may have a `;` of its own, so the device's name is taken off as it is.
            let own = format!("{};", entry.name);
            scope.auth_chain(&device).and_then(|chain| Some(chain.strip_prefix(&own)?.to_owned()))
        }
        _ => None,
    };
    above.unwrap_or_else(|| edge.to_string())
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn unavailable(error: hyper::Error) -> ScopeFetchError {
    ScopeFetchError::Unavailable(error.to_string())
}

fn refusal(status: StatusCode) -> ScopeFetchError {
    let advice = match status.as_u16() {
        401 | 403 => {
            "check the module's key in the connection string, the time of this machine, and that the edge device is enabled"
        }
        404 => "check that the edge device and its $edgeHub module exist in this hub",
        400 | 405 | 406 => {
            "check that the host name is that of an IoT Hub (or of a parent edge gateway)"
        }
        other => return ScopeFetchError::Unavailable(format!("HTTP status {other}")),
    };
    ScopeFetchError::Refused { status: status.as_u16(), advice }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListRequest<'a> {
    page_size: u32,
    continuation_link: Option<&'a str>,
    auth_chain: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OneRequest<'a> {
    target_device_id: &'a str,
    target_module_id: Option<&'a str>,
    auth_chain: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scope::{AuthKind, Status};
    use crate::clock::UnixMillis;

    /// `;` may be in an id, and parts the devices of a chain.
    #[test]
    fn the_chain_above_is_without_the_device_whatever_its_id() {
        let id = |id: &str| DeviceId::parse(id).unwrap();
        let entry = |name: &str, scope: &str, parent: &str| ScopeEntry {
            name: ClientName::Device(id(name)),
            generation: "1".into(),
            status: Status::Enabled,
            auth: AuthKind::CertificateAuthority,
            scope: scope.into(),
            parent_scopes: vec![parent.into()],
            is_edge: scope != parent,
        };
        let (ours, childs) = ("ms-azure-iot-edge://edge1-1", "ms-azure-iot-edge://child-2");
        let folder = tempfile::tempdir().unwrap();
        let (scope, _) = Scope::load(folder.path().join("scope.json"), id("edge1"));
        let sphere = "a".repeat(128);
        let entries = vec![
            entry("child", childs, ours),
            entry("d1", ours, ours),
            entry("a;b", ours, ours),
            entry(";", ours, ours),
            entry("a;b;c", childs, childs),
            entry(&sphere, childs, childs),
        ];
        let _ = scope.replace(entries, UnixMillis(1));
        let cases = [
            ("edge1", "edge1"),
            ("new", "edge1"),
            ("child", "edge1"),
            ("d1", "edge1"),
            ("a;b", "edge1"),
            (";", "edge1"),
            ("a;b;c", "child;edge1"),
            (&sphere.to_uppercase(), "child;edge1"),
        ];
        for (who, expected) in cases {
            let device = ClientName::Device(id(who));
            assert_eq!(chain_above(&id("edge1"), &device, &scope), expected, "{who}");
            let module = ClientName::Module(id(who), ModuleId::parse("m;1").unwrap());
            assert_eq!(chain_above(&id("edge1"), &module, &scope), expected, "{module}");
        }
    }

    #[test]
    fn refusals_are_final_and_failures_are_not() {
        for status in [400, 401, 403, 404, 405, 406] {
            assert!(!refusal(StatusCode::from_u16(status).unwrap()).is_transient(), "{status}");
        }
        for status in [408, 429, 500, 503] {
            assert!(refusal(StatusCode::from_u16(status).unwrap()).is_transient(), "{status}");
        }
    }
}
