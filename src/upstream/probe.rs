//! The way to the hub, tried step by step: for an examination, which has to say where it ends.
//!
//! Owns: the steps (name, TCP, TLS, the hub's time, sign-in, a page of the scope), each with its time limit and none tried
//! twice. Invariants: what is trusted is what the gateway trusts (the recorder of certificates asks the usual verifier and
//! repeats its answer); nothing is sent or kept but a token. Must not know: what a finding means.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connect::{self, ConnectError, Peer};
use super::scope_api::{ScopeApi, ScopeFetchError};
use super::{Config, Upstream};
use crate::auth::scope::{Scope, ScopeEntry};
use crate::auth::x509::CertificateInfo;
use crate::clock::{SharedClock, UnixMillis};
use crate::metrics::Metrics;

/// Tries the way to the hub.
pub struct Probe {
    config: Config,
    clock: SharedClock,
    tracker: TaskTracker,
}

/// How a sign-in did not come about.
#[derive(Debug, thiserror::Error)]
pub enum NotSignedIn {
    /// The hub has judged.
    #[error("{0}")]
    Refused(String),
    /// It did not come to that.
    #[error("{0}")]
    Failed(String),
}

/// A TLS handshake.
#[derive(Debug)]
pub struct Handshake {
    /// What the peer showed, leaf first, also where it is not trusted.
    pub shown: Vec<CertificateInfo>,
    /// Why it did not come about.
    pub outcome: Result<(), String>,
}

impl Probe {
    /// Nothing is dialled yet. `step` limits each step but the sign-in, which has several.
    pub fn new(config: Config, clock: SharedClock, step: Duration) -> Self {
        let operation_timeout = config.operation_timeout.min(step);
        let config = Config { operation_timeout, ..config };
        Self { config, clock, tracker: TaskTracker::new() }
    }

    /// What is dialled: the hub, or what stands in its place.
    pub fn host(&self) -> String {
        self.peer(self.config.amqp_port).dial_host
    }

    fn peer(&self, port: u16) -> Peer {
        self.config.peer(port)
    }

    fn step(&self) -> Duration {
        self.config.operation_timeout
    }

    /// The addresses that the name stands for.
    ///
    /// # Errors
    /// The resolver's words.
    pub async fn addresses(&self) -> Result<Vec<IpAddr>, String> {
        let host = self.host();
        let looking = tokio::net::lookup_host((host.as_str(), self.config.amqp_port));
        let found = timeout(self.step(), looking).await.map_err(|_| self.late())?;
        let mut addresses: Vec<IpAddr> =
            found.map_err(|e| e.to_string())?.map(|address| address.ip()).collect();
        addresses.dedup();
        if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
    }

    /// TCP alone.
    ///
    /// # Errors
    /// The system's words.
    pub async fn tcp(&self, port: u16) -> Result<(), String> {
        let host = self.host();
        let dialling = TcpStream::connect((host.as_str(), port));
        timeout(self.step(), dialling)
            .await
            .map_err(|_| self.late())?
            .map(drop)
            .map_err(|e: io::Error| e.to_string())
    }

    fn late(&self) -> String {
        format!("no answer in {:?}", self.step())
    }

    /// TCP and TLS.
    pub async fn tls(&self, port: u16) -> Handshake {
        let recorder = match Recorder::new(self.config.roots.clone()) {
            Ok(recorder) => Arc::new(recorder),
            Err(why) => return Handshake { shown: Vec::new(), outcome: Err(why) },
        };
        let tls = recording(Arc::clone(&recorder));
        let outcome = match connect::dial(&self.peer(port), &tls).await {
            Ok(_) => Ok(()),
            Err(ConnectError::Tls { error, .. }) => Err(error.to_string()),
            Err(other) => Err(other.to_string()),
        };
        Handshake { shown: recorder.shown(), outcome }
    }

    /// The time by the hub's clock, to the second: the `Date` of any answer of its HTTPS port.
    ///
    /// # Errors
    /// Words.
    pub async fn hub_time(&self) -> Result<UnixMillis, String> {
        timeout(self.step(), self.date()).await.unwrap_or_else(|_| Err(self.late()))
    }

    async fn date(&self) -> Result<UnixMillis, String> {
        let stream = connect::dial(&self.peer(self.config.https_port), &self.config.tls())
            .await
            .map_err(|e| e.to_string())?;
        let shake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = shake.await.map_err(|e| e.to_string())?;
        self.tracker.spawn(async move {
            // Its error is the request's.
            let _ = connection.await;
        });
        let request = Request::head("/")
            .header(header::HOST, &self.config.hub_host)
            .header(header::USER_AGENT, &self.config.product_info)
            .body(Empty::<Bytes>::new())
            .map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
        date.and_then(http_date).ok_or_else(|| "its answer has no Date".to_owned())
    }

    /// Whether the hub takes our token, over AMQP.
    ///
    /// # Errors
    /// [`NotSignedIn`].
    pub async fn sign_in(&self, limit: Duration) -> Result<(), NotSignedIn> {
        let config = self.config.clone();
        let metrics = Metrics::new(&config.hub_host, config.edge.as_str());
        let scope = Arc::new(Scope::unknown(config.edge.clone()));
        let (clock, tracker) = (Arc::clone(&self.clock), self.tracker.clone());
        let upstream = Upstream::new(config, scope, metrics, clock, tracker);
        let stop = CancellationToken::new();
        let signed_in = timeout(limit, upstream.connect(&stop)).await;
        stop.cancel();
        match signed_in {
            Ok(Ok((live, _))) => {
                live.severed.cancel();
                Ok(())
            }
            Ok(Err(error @ ConnectError::Refused { .. })) => {
                Err(NotSignedIn::Refused(error.to_string()))
            }
            Ok(Err(error)) => Err(NotSignedIn::Failed(error.to_string())),
            Err(_) => Err(NotSignedIn::Failed(format!("not done in {limit:?}"))),
        }
    }

    /// The first page of the scope, and whether there are more.
    ///
    /// # Errors
    /// [`ScopeFetchError`].
    pub async fn scope(&self) -> Result<(Vec<ScopeEntry>, bool), ScopeFetchError> {
        let (clock, tracker) = (Arc::clone(&self.clock), self.tracker.clone());
        let api = ScopeApi::new(self.config.clone(), clock, tracker);
        let late = |_| Err(ScopeFetchError::Unavailable(self.late()));
        timeout(self.step(), api.first_page()).await.unwrap_or_else(late)
    }
}

/// RFC 9110 5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<UnixMillis> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    u64::try_from(time.as_millisecond()).ok().map(UnixMillis)
}

/// Writes down what is shown, and judges as the gateway does.
#[derive(Debug)]
struct Recorder {
    judge: Arc<WebPkiServerVerifier>,
    shown: Mutex<Vec<CertificateInfo>>,
}

impl Recorder {
    fn new(roots: rustls::RootCertStore) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let judge = judge.build().map_err(|e| e.to_string())?;
        Ok(Self { judge, shown: Mutex::default() })
    }

    fn shown(&self) -> Vec<CertificateInfo> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let all = std::iter::once(end_entity).chain(intermediates);
        let shown = all.filter_map(|der| CertificateInfo::read(der).ok()).collect();
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
        self.judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

fn recording(recorder: Arc<Recorder>) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the ring provider has cipher suites for TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(recorder)
        .with_no_client_auth();
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http_answers() {
        let check = |text, expected: Option<u64>| {
            assert_eq!(http_date(text).map(|t| t.0), expected, "{text}");
        };
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777_000));
        check("Thu, 01 Jan 1970 00:00:00 GMT", Some(0));
        check("yesterday", None);
        check("", None);
    }
}
