//! The IoT Edge daemon, through its workload API: signatures, the server's certificate, the trust bundle, encryption
//! (`edgehub.md` 2).
//!
//! Owns: [`Workload`] (the calls, how many at once, how often and how long they are tried), the words for what can go wrong
//! ([`WorkloadError`]), [`certificate`] (the server's certificate from its first request to its renewals) and
//! [`trust_bundle`], with what is kept on disk for a start without the daemon.
//! Invariants: a daemon that is away costs nobody a session and ends nothing: whoever asks goes on with what he has; keys and
//! signatures show in no log, no `Debug` and no error; time, size and number of requests are bounded.
//! Must not know: what is signed, who connects, where settings come from.
//!
//! The daemon knows a caller by its process: it must be in the container that is named as the module, without the `$`.
//! When the daemon restarts, its socket is a new one, and the one in this container stays dead until the container is
//! started again: "connection refused" is a state, not a fault.

pub mod certificate;
mod error;
mod http;
mod kept;
mod seal;
pub mod trust_bundle;
mod wire;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use hyper::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use self::error::WorkloadError;
use crate::auth::x509;
use crate::clock::UnixMillis;
use crate::identity::ModuleId;
use crate::iothub::sas::{self, SignError, Signer};
use crate::upstream::backoff::Backoff;

/// The versions of the API that we speak, oldest first (`edgehub.md` 2.1).
const API_VERSIONS: [&str; 3] = ["2018-06-28", "2019-01-30", "2020-07-07"];

/// Requests at once: the daemon closes the eleventh connection of a socket without a word (`edgehub.md` 2.1), and who
/// looks around with a tool in the same container wants one, too.
const REQUESTS_MAX: usize = 4;

/// Longest text that the daemon encrypts or decrypts for us: as base64 it takes 0.7 MiB of the largest answer (1 MiB).
const TEXT_BYTES_MAX: usize = 512 * 1024;

/// What a cipher may add to a text: a header, a tag, padding. The real one adds less than 32 bytes.
const CIPHER_BYTES_MAX: usize = 1024;

/// Ceilings of the waits between tries. A connection too many is gone in milliseconds, a daemon that starts takes seconds.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// Where the daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `unix://PATH`.
    Unix(PathBuf),
    /// `http://HOST:PORT`.
    Http {
        /// Name or address.
        host: String,
        /// 80 unless it is said.
        port: u16,
    },
}

/// Why a text is not the daemon's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is neither unix://PATH nor http://HOST:PORT")]
pub struct AddressError;

impl Address {
    /// Reads `IOTEDGE_WORKLOADURI`.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix://") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Unix(path)) } else { Err(AddressError) };
        }
        let rest = text.strip_prefix("http://").ok_or(AddressError)?.trim_end_matches('/');
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| AddressError)?),
            None => (rest, 80),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        match !host.is_empty() && host.chars().all(plain) {
            true => Ok(Self::Http { host: host.to_owned(), port }),
            false => Err(AddressError),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Http { host, port } => write!(f, "http://{host}:{port}"),
        }
    }
}

/// The version to speak with a daemon that announces `announced`: that one if we know it, else our newest.
pub fn api_version(announced: Option<&str>) -> &'static str {
    let newest = API_VERSIONS[API_VERSIONS.len() - 1];
    API_VERSIONS.into_iter().find(|known| Some(*known) == announced).unwrap_or(newest)
}

/// How long a call is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Tries at most.
    pub tries: u32,
    /// Time for one.
    pub once: Duration,
    /// Time for all, waits included.
    pub overall: Duration,
}

/// The daemon, and as whom we speak to it.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens.
    pub address: Address,
    /// One of those we know: see [`api_version`].
    pub api_version: &'static str,
    /// `$edgeHub`.
    pub module: ModuleId,
    /// The generation of that module: a module that is made anew has another key.
    pub generation: String,
    /// For signatures, encryption and the trust bundle. A TPM takes a second for a signature.
    pub quick: Patience,
    /// For a certificate: an RSA key takes a Raspberry Pi several seconds, and the daemon may ask an EST server.
    pub slow: Patience,
}

impl Config {
    /// With the usual patience.
    pub fn new(
        address: Address,
        announced_version: Option<&str>,
        module: ModuleId,
        generation: impl Into<String>,
    ) -> Self {
        let patience = |once, overall| Patience {
            tries: 5,
            once: Duration::from_secs(once),
            overall: Duration::from_secs(overall),
        };
        Self {
            address,
            api_version: api_version(announced_version),
            module,
            generation: generation.into(),
            quick: patience(5, 15),
            slow: patience(30, 60),
        }
    }
}

/// A certificate as the daemon issued it.
#[derive(Clone)]
pub struct Issued {
    /// PEM, leaf first.
    pub chain_pem: String,
    /// PEM.
    pub key_pem: String,
}

/// The key stays out of logs.
impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Issued(***)")
    }
}

/// Speaks the workload API.
#[derive(Debug)]
pub struct Workload {
    config: Config,
    permits: Semaphore,
}

impl Workload {
    /// Asks nothing yet.
    pub fn new(config: Config) -> Arc<Self> {
        Arc::new(Self { config, permits: Semaphore::new(REQUESTS_MAX) })
    }

    /// HMAC-SHA256 of `data` with the module's key.
    pub async fn hmac(&self, data: &[u8]) -> Result<[u8; 32], WorkloadError> {
        let data = STANDARD.encode(data);
        let body = wire::Sign { key_id: "primary", algo: "HMACSHA256", data: &data };
        let answer: wire::Signed = self.post("sign", &body, StatusCode::OK).await?;
        decoded(&answer.digest)?.try_into().map_err(|_| {
            WorkloadError::Malformed("the digest of a signature has another length than 32")
        })
    }

    /// Encrypts at most 512 KiB with a key that only the daemon has. Who decrypts gives the same vector, which is no secret.
    pub async fn encrypt(
        &self,
        plaintext: &[u8],
        initialization_vector: &[u8],
    ) -> Result<Vec<u8>, WorkloadError> {
        bounded(plaintext, TEXT_BYTES_MAX)?;
        let (text, vector) = (STANDARD.encode(plaintext), STANDARD.encode(initialization_vector));
        let body = wire::Encrypt { plaintext: &text, initialization_vector: &vector };
        let answer: wire::Encrypted = self.post("encrypt", &body, StatusCode::OK).await?;
        decoded(&answer.ciphertext)
    }

    /// The reverse of [`Self::encrypt`], with the same vector.
    pub async fn decrypt(
        &self,
        ciphertext: &[u8],
        initialization_vector: &[u8],
    ) -> Result<Vec<u8>, WorkloadError> {
        bounded(ciphertext, TEXT_BYTES_MAX + CIPHER_BYTES_MAX)?;
        let (text, vector) = (STANDARD.encode(ciphertext), STANDARD.encode(initialization_vector));
        let body = wire::Decrypt { ciphertext: &text, initialization_vector: &vector };
        let answer: wire::Decrypted = self.post("decrypt", &body, StatusCode::OK).await?;
        decoded(&answer.plaintext)
    }

    /// A new key and certificate for `name`. The daemon decides how long it is valid; `until` is a wish.
    pub async fn server_certificate(
        &self,
        name: &str,
        until: UnixMillis,
    ) -> Result<Issued, WorkloadError> {
        let body = wire::Certificate { common_name: name, expiration: &x509::utc(until) };
        let answer: wire::Certified =
            self.post("certificate/server", &body, StatusCode::CREATED).await?;
        match answer.private_key {
            wire::PrivateKey { kind, bytes: Some(key_pem) } if kind == "key" => {
                Ok(Issued { chain_pem: answer.certificate, key_pem })
            }
            _ => Err(WorkloadError::Malformed("the private key is not in the answer")),
        }
    }

    /// The CAs that this edge device trusts, PEM.
    pub async fn trust_bundle(&self) -> Result<String, WorkloadError> {
        let path = format!("/trust-bundle?api-version={}", self.config.api_version);
        let body = self.call(&http::Call::get(&path, StatusCode::OK), self.config.quick).await?;
        let answer: wire::TrustBundle = parsed(&body)?;
        Ok(answer.certificate)
    }

    async fn post<B: Serialize, A: DeserializeOwned>(
        &self,
        method: &str,
        body: &B,
        expected: StatusCode,
    ) -> Result<A, WorkloadError> {
        let Config { api_version, module, generation, quick, slow, .. } = &self.config;
        let (module, generation) = (sas::url_encode(module.as_str()), sas::url_encode(generation));
        let path =
            format!("/modules/{module}/genid/{generation}/{method}?api-version={api_version}");
        let body = serde_json::to_vec(body).expect("texts serialize");
        let patience = if expected == StatusCode::CREATED { *slow } else { *quick };
        parsed(&self.call(&http::Call::post(&path, body, expected), patience).await?)
    }

    async fn call(
        &self,
        call: &http::Call<'_>,
        patience: Patience,
    ) -> Result<bytes::Bytes, WorkloadError> {
        let all = timeout(patience.overall, self.tries(call, patience)).await;
        all.unwrap_or(Err(WorkloadError::NoAnswer(patience.overall)))
    }

    async fn tries(
        &self,
        call: &http::Call<'_>,
        patience: Patience,
    ) -> Result<bytes::Bytes, WorkloadError> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut tried = 0;
        loop {
            let outcome = {
                let _permit = self.permits.acquire().await.expect("it is never closed");
                timeout(patience.once, http::exchange(&self.config.address, call)).await
            };
            let outcome = outcome.unwrap_or(Err(WorkloadError::NoAnswer(patience.once)));
            tried += 1;
            match outcome {
                Err(error) if error.is_worth_another_try() && tried < patience.tries => {
                    tracing::debug!(%error, "the IoT Edge daemon is asked again");
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                done => return done,
            }
        }
    }
}

impl Signer for Workload {
    fn sign<'a>(&'a self, data: &'a [u8]) -> BoxFuture<'a, Result<[u8; 32], SignError>> {
        Box::pin(async move { self.hmac(data).await.map_err(|e| SignError(e.to_string())) })
    }
}

/// The parser's own words may quote the answer, which holds secrets.
fn parsed<A: DeserializeOwned>(body: &[u8]) -> Result<A, WorkloadError> {
    serde_json::from_slice(body).map_err(|_| WorkloadError::Malformed("not the expected JSON"))
}

fn bounded(text: &[u8], most: usize) -> Result<(), WorkloadError> {
    if text.len() <= most { Ok(()) } else { Err(WorkloadError::TooLong(text.len())) }
}

fn decoded(text: &str) -> Result<Vec<u8>, WorkloadError> {
    STANDARD.decode(text).map_err(|_| WorkloadError::Malformed("not base64 where it should be"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let http = |host: &str, port| Ok(Address::Http { host: host.to_owned(), port });
        let check = |text: &str, expected: Result<Address, AddressError>| {
            assert_eq!(Address::parse(text), expected, "{text}");
        };
        let socket = "/var/run/iotedge/workload.sock";
        check(&format!("unix://{socket}"), Ok(Address::Unix(socket.into())));
        check("http://127.0.0.1:8081", http("127.0.0.1", 8081));
        check("http://daemon/", http("daemon", 80));
        for wrong in ["", "unix://", "unix://a", "fd://x", "http://", "http://h:x", "https://h"] {
            check(wrong, Err(AddressError));
        }
        for text in ["unix:///s", "http://h:81"] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_version_is_the_daemon_s_if_it_is_known_and_else_our_newest() {
        for (announced, expected) in [
            (Some("2018-06-28"), "2018-06-28"),
            (Some("2019-01-30"), "2019-01-30"),
            (Some("2020-07-07"), "2020-07-07"),
            (Some("2022-08-03"), "2020-07-07"),
            (None, "2020-07-07"),
        ] {
            assert_eq!(api_version(announced), expected, "{announced:?}");
        }
    }
}
