//! The hub's answer to "who is below this edge device?", over HTTPS.
//!
//! Owns: the two calls of the nested scope API (`iothub-protocol.md` C2, J4; `edgehub.md` 7.4), their paging, their limits
//! and the reading of their JSON. Invariants: time, size and number of pages are bounded; symmetric keys are in the answer
//! and are neither kept nor logged (no body ever reaches an error text).
//! Must not know: who uses the entries, or where they are kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::backoff::Backoff;
use super::connect::{self, ConnectError, Peer};
use super::token::TokenSource;
use super::{Config, names};
use crate::auth::scope::{AuthKind, Scope, ScopeEntry, Status, SymmetricKeys};
use crate::clock::SharedClock;
use crate::identity::{ClientName, DeviceId, ModuleId};
use crate::iothub::sas::{self, KeySigner};

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
}

impl ScopeApi {
    /// Nothing is dialled before the first fetch; connections' tasks are spawned on `tracker`.
    pub fn new(config: Config, clock: SharedClock, tracker: TaskTracker) -> Self {
        let (tls, tokens) = (config.tls(), config.token_source(clock.clone()));
        Self { config, tls, tokens, clock, tracker }
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
            let page = self.call("devicesAndModulesInTargetDeviceScope", &body, &mut kept).await?;
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
        let page = self.try_call(method, body, false, &mut None).await?;
        let mut entries = Vec::new();
        page.read_into(&mut entries);
        Ok((entries, page.continuation_link.is_some_and(|link| !link.is_empty())))
    }

    /// One identity (and what the hub sends along with it): empty when it is not ours.
    pub async fn fetch_one(
        &self,
        name: &ClientName,
        scope: &Scope,
    ) -> Result<Vec<ScopeEntry>, ScopeFetchError> {
        let chain = names::auth_chain(name, &self.config.edge, scope);
        let body = OneRequest {
            target_device_id: name.device().as_str(),
            target_module_id: name.module().map(ModuleId::as_str),
            auth_chain: &chain,
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
            Err(error) => Err(error),
        }
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

/// One answer. No `Debug`: it holds keys.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    devices: Option<Vec<Device>>,
    #[serde(default)]
    modules: Option<Vec<Module>>,
    #[serde(default)]
    continuation_link: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    device_id: String,
    #[serde(default)]
    generation_id: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    authentication: Option<Authentication>,
    #[serde(default)]
    capabilities: Option<Capabilities>,
    #[serde(default)]
    device_scope: Option<String>,
    #[serde(default)]
    parent_scopes: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Module {
    device_id: String,
    module_id: String,
    #[serde(default)]
    generation_id: Option<String>,
    #[serde(default)]
    authentication: Option<Authentication>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authentication {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    symmetric_key: Option<Keys>,
    #[serde(default)]
    x509_thumbprint: Option<Thumbprints>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys {
    #[serde(default)]
    primary_key: Option<String>,
    #[serde(default)]
    secondary_key: Option<String>,
}

impl Keys {
    /// A key that cannot be read counts as unknown.
    fn read(&self) -> SymmetricKeys {
        let key = |text: &Option<String>| KeySigner::from_base64(text.as_deref()?).ok();
        SymmetricKeys { primary: key(&self.primary_key), secondary: key(&self.secondary_key) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Thumbprints {
    #[serde(default)]
    primary_thumbprint: Option<String>,
    #[serde(default)]
    secondary_thumbprint: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Capabilities {
    #[serde(default)]
    iot_edge: bool,
}

impl Page {
    /// An entry whose id no client could ever present is passed over: it must not cost the others their access.
    fn read_into(&self, entries: &mut Vec<ScopeEntry>) {
        for device in self.devices.iter().flatten() {
            match DeviceId::parse(&device.device_id) {
                Ok(id) => entries.push(device.entry(id)),
                Err(error) => tracing::warn!(%error, "scope entry passed over"),
            }
        }
        for module in self.modules.iter().flatten() {
            match (DeviceId::parse(&module.device_id), ModuleId::parse(&module.module_id)) {
                (Ok(device), Ok(id)) => entries.push(module.entry(device, id)),
                (Err(error), _) | (_, Err(error)) => {
                    tracing::warn!(%error, "scope entry passed over");
                }
            }
        }
    }
}

impl Device {
    fn entry(&self, id: DeviceId) -> ScopeEntry {
        // Anything that is not "enabled" keeps the device out: an unknown status must not let one in.
        let enabled = self.status.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("enabled"));
        ScopeEntry {
            name: ClientName::Device(id),
            generation: self.generation_id.clone().unwrap_or_default(),
            status: if enabled { Status::Enabled } else { Status::Disabled },
            auth: auth_kind(self.authentication.as_ref()),
            scope: self.device_scope.clone().unwrap_or_default(),
            parent_scopes: self.parent_scopes.clone().unwrap_or_default(),
            is_edge: self.capabilities.as_ref().is_some_and(|c| c.iot_edge),
        }
    }
}

impl Module {
    /// Modules carry no status of their own: enabled (`edgehub.md` 7.4).
    fn entry(&self, device: DeviceId, id: ModuleId) -> ScopeEntry {
        ScopeEntry {
            name: ClientName::Module(device, id),
            generation: self.generation_id.clone().unwrap_or_default(),
            status: Status::Enabled,
            auth: auth_kind(self.authentication.as_ref()),
            scope: String::new(),
            parent_scopes: Vec::new(),
            is_edge: false,
        }
    }
}

/// An unknown kind admits nobody.
fn auth_kind(authentication: Option<&Authentication>) -> AuthKind {
    let kind = authentication.and_then(|a| a.kind.as_deref()).unwrap_or_default();
    match kind {
        "sas" => {
            let keys = authentication.and_then(|a| a.symmetric_key.as_ref());
            AuthKind::Sas { keys: keys.map(Keys::read).unwrap_or_default() }
        }
        "certificateAuthority" => AuthKind::CertificateAuthority,
        "selfSigned" => {
            let prints = authentication.and_then(|a| a.x509_thumbprint.as_ref());
            let prints = prints
                .map(|t| [&t.primary_thumbprint, &t.secondary_thumbprint])
                .into_iter()
                .flatten()
                .filter_map(|print| print.clone().filter(|p| !p.is_empty()))
                .collect();
            AuthKind::SelfSigned { thumbprints: prints }
        }
        _ => AuthKind::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_j4_is_read_and_shows_no_key() {
        let json = r#"{"devices":[
          {"deviceId":"edge1","generationId":"637000000000000000","status":"enabled","authentication":{"type":"sas",
             "symmetricKey":{"primaryKey":"c2VjcmV0","secondaryKey":"c2VjcmV0"}},"capabilities":{"iotEdge":true},
             "deviceScope":"ms-azure-iot-edge://edge1-637000000000000000","parentScopes":[]},
          {"deviceId":"x509dev","generationId":"1","etag":"x","status":"Disabled","authentication":{"type":"certificateAuthority",
             "symmetricKey":{"primaryKey":null,"secondaryKey":null},"x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null}},
             "capabilities":{"iotEdge":false},"deviceScope":"s","parentScopes":["ms-azure-iot-edge://edge1-637000000000000000"]},
          {"deviceId":"self","status":"enabled","authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"AB","secondaryThumbprint":"CD"}}},
          {"deviceId":"not/an id","status":"enabled"},
          {"deviceId":"odd","authentication":{"type":"new-kind"}}],
         "modules":[{"deviceId":"edge1","moduleId":"$edgeHub","managedBy":"iotEdge","authentication":{"type":"sas"}}],
         "continuationLink":null}"#;
        let page: Page = serde_json::from_str(json).unwrap();
        let mut entries = Vec::new();
        page.read_into(&mut entries);
        let got: Vec<_> = entries
            .iter()
            .map(|e| (e.name.to_string(), e.status, e.auth.clone(), e.is_edge))
            .collect();
        let self_signed = AuthKind::SelfSigned { thumbprints: vec!["AB".into(), "CD".into()] };
        let expected = vec![
            (
                "edge1".to_owned(),
                Status::Enabled,
                AuthKind::Sas {
                    keys: SymmetricKeys {
                        primary: KeySigner::from_base64("c2VjcmV0").ok(),
                        secondary: KeySigner::from_base64("c2VjcmV0").ok(),
                    },
                },
                true,
            ),
            ("x509dev".to_owned(), Status::Disabled, AuthKind::CertificateAuthority, false),
            ("self".to_owned(), Status::Enabled, self_signed, false),
            ("odd".to_owned(), Status::Disabled, AuthKind::None, false),
            (
                "edge1/$edgeHub".to_owned(),
                Status::Enabled,
                AuthKind::Sas { keys: SymmetricKeys::default() },
                false,
            ),
        ];
        assert_eq!(got, expected);
        assert!(!format!("{entries:?}").contains("c2VjcmV0"));
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
