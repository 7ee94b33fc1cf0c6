//! SAS tokens: building our own (`$edgeHub`'s), and checking a client's.
//!
//! Owns: the token's text form, audiences, HMAC keys.
//! Invariants:
//! - A signature is checked over the text exactly as it was sent; only then is anything decoded
//!   (iothub-protocol.md A4: the SDKs encode differently).
//! - Keys, signatures and whole tokens never show in `Debug`.
//! - Signatures are compared in constant time.
//!
//! Must not know: where a key is kept (a [`Signer`] may be the IoT Edge daemon), sockets, clocks (they are handed in).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

use crate::clock::UnixMillis;
use crate::identity::ClientName;

/// Difference between two clocks that IoT Hub and its SDKs tolerate (iothub-protocol.md A4).
pub const CLOCK_SKEW_DEFAULT: Duration = Duration::from_secs(300);
/// Longest token that is looked at, in bytes: two 128-character ids, encoded twice, take 2,304.
pub const TOKEN_BYTES_MAX: usize = 4096;

const SCHEME: &str = "SharedAccessSignature";

/// What .NET's `WebUtility.UrlEncode` leaves alone, besides letters and digits.
const DOT_NET: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'*')
    .remove(b'(')
    .remove(b')');

/// URL-encodes as .NET does: upper-case hex, a blank becomes `+`.
pub fn url_encode(text: &str) -> String {
    utf8_percent_encode(text, DOT_NET).to_string().replace("%20", "+")
}

/// The audience of an identity, its ids encoded once: `{host}/devices/{device}[/modules/{module}]`.
pub fn audience(host: &str, name: &ClientName) -> String {
    let device = url_encode(name.device().as_str());
    match name.module() {
        None => format!("{host}/devices/{device}"),
        Some(module) => format!("{host}/devices/{device}/modules/{}", url_encode(module.as_str())),
    }
}

/// Why no signature could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot sign a token: {0}")]
pub struct SignError(pub String);

/// Makes HMAC-SHA256 signatures with a key that it may not show (a key in memory, or the daemon's `sign` call).
pub trait Signer: Send + Sync + 'static {
    /// Signs `data`.
    fn sign<'a>(&'a self, data: &'a [u8]) -> BoxFuture<'a, Result<[u8; 32], SignError>>;
}

/// Why a text is not a symmetric key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing there.
    #[error("the key is empty")]
    Empty,
    /// Not base64.
    #[error("the key is not base64: copy it again, with the = at its end")]
    Base64,
}

/// A symmetric key in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySigner(Arc<[u8]>);

/// The key stays out of logs.
impl fmt::Debug for KeySigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySigner(***)")
    }
}

impl KeySigner {
    /// Reads a key as IoT Hub shows it.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        let key = STANDARD.decode(text.trim()).map_err(|_| KeyError::Base64)?;
        if key.is_empty() {
            return Err(KeyError::Empty);
        }
        Ok(Self(key.into()))
    }

    fn mac(&self, data: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(data);
        mac
    }

    /// SHA-256 of the key: tells whether two keys are the same, and nothing else about them (a key has 32 random bytes).
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.0).into()
    }

    /// The key itself, for who seals it. Never for a log.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }

    /// HMAC-SHA256 of `data`.
    pub fn sign_now(&self, data: &[u8]) -> [u8; 32] {
        self.mac(data).finalize().into_bytes().into()
    }

    /// Whether `signature` is the HMAC of `data`, in constant time.
    pub fn verifies(&self, data: &[u8], signature: &[u8]) -> bool {
        self.mac(data).verify_slice(signature).is_ok()
    }
}

impl Signer for KeySigner {
    fn sign<'a>(&'a self, data: &'a [u8]) -> BoxFuture<'a, Result<[u8; 32], SignError>> {
        Box::pin(std::future::ready(Ok(self.sign_now(data))))
    }
}

/// The text that is signed: the resource as it stands in the token, a newline, the expiry.
fn string_to_sign(resource: &str, expiry: &str) -> String {
    format!("{resource}\n{expiry}")
}

/// Builds a token for `audience` (see [`audience`]) that ends at `expiry` (seconds since 1970). The audience is
/// encoded as a whole, so that its ids are encoded twice: `$edgeHub` shows as `%2524edgeHub` (edgehub.md 2.3).
pub async fn build(
    signer: &dyn Signer,
    audience: &str,
    expiry_secs: u64,
) -> Result<String, SignError> {
    let resource = url_encode(audience);
    let expiry = expiry_secs.to_string();
    let signature = signer.sign(string_to_sign(&resource, &expiry).as_bytes()).await?;
    let signature = url_encode(&STANDARD.encode(signature));
    Ok(format!("{SCHEME} sr={resource}&sig={signature}&se={expiry}"))
}

/// Why a text is not a token, or not a good one. A closed list: [`SasError::label`] feeds counters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SasError {
    /// Not of the form at all.
    #[error("the password is not a SAS token (it does not start with `SharedAccessSignature `)")]
    NotAToken,
    /// More than [`TOKEN_BYTES_MAX`].
    #[error("the token has {0} bytes; {TOKEN_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// A part is missing.
    #[error("the token has no `{0}`")]
    Missing(&'static str),
    /// A part is there twice.
    #[error("the token has `{0}` twice")]
    Twice(&'static str),
    /// A part cannot be read.
    #[error("the token's `{0}` cannot be read")]
    Malformed(&'static str),
    /// No key made this signature.
    #[error(
        "the token's signature was not made with a key of this identity: is it the key of another device?"
    )]
    Signature,
    /// Made for another device or module: the resource, fit for a log.
    #[error("the token is for another identity: it names {0}")]
    OtherIdentity(String),
    /// Made for another hub: the host, fit for a log.
    #[error("the token is for another host than this hub or this gateway: it names {0}")]
    OtherHost(String),
    /// Its time is over.
    #[error("the token expired {0} s ago")]
    Expired(u64),
}

impl SasError {
    /// Short label for counters.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotAToken | Self::TooLong(_) => "sas_not_a_token",
            Self::Missing(_) | Self::Twice(_) | Self::Malformed(_) => "sas_malformed",
            Self::Signature => "sas_signature",
            Self::OtherIdentity(_) => "sas_identity",
            Self::OtherHost(_) => "sas_audience",
            Self::Expired(_) => "sas_expired",
        }
    }
}

/// A token as it was received.
#[derive(Clone, PartialEq, Eq)]
pub struct SasToken {
    /// After `sr=`, untouched.
    resource: String,
    signature: Vec<u8>,
    /// After `se=`, untouched.
    expiry: String,
    expiry_secs: u64,
    policy: Option<String>,
}

/// The signature stays out of logs.
impl fmt::Debug for SasToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SasToken")
            .field("resource", &self.resource)
            .field("signature", &"***")
            .field("expiry_secs", &self.expiry_secs)
            .field("policy", &self.policy)
            .finish()
    }
}

impl SasToken {
    /// Reads `SharedAccessSignature sr=..&sig=..&se=..[&skn=..]`, parts in any order, unknown parts ignored.
    pub fn parse(text: &str) -> Result<Self, SasError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(SasError::TooLong(text.len()));
        }
        let parts = text
            .strip_prefix(SCHEME)
            .and_then(|rest| rest.strip_prefix(' '))
            .ok_or(SasError::NotAToken)?;
        let part = |name: &'static str| {
            let mut found = parts
                .trim()
                .split('&')
                .filter_map(|part| part.split_once('='))
                .filter(|(key, _)| *key == name)
                .map(|(_, value)| value);
            match (found.next(), found.next()) {
                (_, Some(_)) => Err(SasError::Twice(name)),
                (first, None) => Ok(first),
            }
        };
        let resource = part("sr")?.filter(|v| !v.is_empty()).ok_or(SasError::Missing("sr"))?;
        let signature = part("sig")?.filter(|v| !v.is_empty()).ok_or(SasError::Missing("sig"))?;
        let expiry = part("se")?.filter(|v| !v.is_empty()).ok_or(SasError::Missing("se"))?;
        // Not `parse` alone: it takes a leading `+`.
        if !expiry.bytes().all(|b| b.is_ascii_digit()) {
            return Err(SasError::Malformed("se"));
        }
        let expiry_secs = expiry.parse().map_err(|_| SasError::Malformed("se"))?;
        let signature = percent_decode_str(signature).collect::<Vec<u8>>();
        Ok(Self {
            resource: resource.to_owned(),
            signature: STANDARD.decode(signature).map_err(|_| SasError::Malformed("sig"))?,
            expiry: expiry.to_owned(),
            expiry_secs,
            policy: part("skn")?.filter(|v| !v.is_empty()).map(str::to_owned),
        })
    }

    /// When it ends, in seconds since 1970.
    pub fn expiry_secs(&self) -> u64 {
        self.expiry_secs
    }

    /// The shared-access policy that signed it; device and module keys have none.
    pub fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }

    /// Checks the token of `name`, in the reference's order (iothub-protocol.md J5): signed by one of `keys`, for this
    /// identity (a module's token may name its device alone, as in the reference), for one of `hosts` (hub, gateway), not
    /// over for longer than `skew`. Says which key it was.
    pub fn verify<'k>(
        &self,
        keys: &[&'k KeySigner],
        name: &ClientName,
        hosts: &[&str],
        now: UnixMillis,
        skew: Duration,
    ) -> Result<&'k KeySigner, SasError> {
        let signed = string_to_sign(&self.resource, &self.expiry);
        let signer = keys.iter().find(|key| key.verifies(signed.as_bytes(), &self.signature));
        let signer = *signer.ok_or(SasError::Signature)?;
        self.check_audience(name, hosts)?;
        let over = now.as_secs().saturating_sub(self.expiry_secs);
        if over > skew.as_secs() {
            return Err(SasError::Expired(over));
        }
        Ok(signer)
    }

    /// Ids and hosts are compared without regard to case (A4). The SDKs send the resource plain, encoded, or with the
    /// ids encoded twice; as the key belongs to `name` alone, whichever reading names it is the right one.
    fn check_audience(&self, name: &ClientName, hosts: &[&str]) -> Result<(), SasError> {
        let decode = |text: &str| percent_decode_str(text).decode_utf8().ok().map(String::from);
        let once = decode(&self.resource);
        let twice = once.as_deref().and_then(decode);
        let readings = [Some(self.resource.as_str()), once.as_deref(), twice.as_deref()];
        let readings = readings.into_iter().flatten();
        let mut hosts_named = readings.clone().filter_map(|r| host_of(r, name)).peekable();
        let Some(first) = hosts_named.peek().copied() else {
            // The last reading is the plainest.
            return Err(SasError::OtherIdentity(fit_for_log(readings.last().unwrap_or_default())));
        };
        match hosts_named.any(|named| hosts.iter().any(|host| host.eq_ignore_ascii_case(named))) {
            true => Ok(()),
            false => Err(SasError::OtherHost(fit_for_log(first))),
        }
    }
}

/// Most characters of a resource in a message: an id of 128 and a host fit.
const SHOWN_MAX: usize = 200;

/// A client's words, escaped and cut. What follows an `&` that was hidden by encoding may be a signature.
fn fit_for_log(resource: &str) -> String {
    let shown = resource.split('&').next().unwrap_or_default();
    shown.escape_debug().take(SHOWN_MAX).collect()
}

/// The host of `resource` if its ids are `name`'s, or its device's.
fn host_of<'a>(resource: &'a str, name: &ClientName) -> Option<&'a str> {
    let parts: Vec<&str> = resource.split('/').collect();
    let same = |text: &str, id: &str| text.eq_ignore_ascii_case(id);
    match (&parts[..], name.module()) {
        ([host, devices, device], _)
            if same(devices, "devices") && same(device, name.device().as_str()) =>
        {
            Some(host)
        }
        ([host, devices, device, modules, module], Some(id))
            if same(devices, "devices")
                && same(device, name.device().as_str())
                && same(modules, "modules")
                && same(module, id.as_str()) =>
        {
            Some(host)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
