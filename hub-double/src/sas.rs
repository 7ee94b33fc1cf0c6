//! Shared access signatures, as IoT Hub checks them (fact sheet A4).
//!
//! Owns: parsing and HMAC-SHA256 verification over the raw text as received. Invariant: neither a token nor a key is
//! ever formatted: [`Token`] and [`Key`] mask themselves. Must not know: who is registered.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::Sha256;

/// A symmetric key in base64, as the registry holds it. Masked in `Debug`.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    /// A key from its base64 text. Text that is not base64 makes a key that verifies nothing.
    pub fn from_base64(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The base64 text. A secret: for answers of the scope API and for clients of a test.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn mac(&self) -> Option<Hmac<Sha256>> {
        let raw = STANDARD.decode(&self.0).ok()?;
        Hmac::<Sha256>::new_from_slice(&raw).ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(***)")
    }
}

/// The resource that a token (or the `name` of a put-token) speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Audience {
    pub(crate) host: String,
    pub(crate) device: String,
    pub(crate) module: Option<String>,
}

impl Audience {
    /// `{host}/devices/{d}[/modules/{m}]`, percent-encoded as a whole or not, ids encoded once more or not: edgeHub
    /// writes `...%2Fmodules%2F%2524edgeHub`, the C SDK `{host}/devices/dev1`.
    pub(crate) fn parse(raw: &str) -> Option<Self> {
        let once = decoded(raw)?;
        let parts: Vec<&str> = once.split('/').collect();
        let is =
            |at: usize, word: &str| parts.get(at).is_some_and(|p| p.eq_ignore_ascii_case(word));
        if !is(1, "devices") {
            return None;
        }
        let module = match parts.len() {
            3 => None,
            5 if is(3, "modules") => Some(decoded(parts[4])?),
            _ => return None,
        };
        Some(Self { host: parts[0].to_owned(), device: decoded(parts[2])?, module })
    }
}

/// A parsed token. Masked in `Debug`.
pub(crate) struct Token {
    sr_raw: String,
    se_raw: String,
    signature: Vec<u8>,
    /// Who it speaks for.
    pub(crate) audience: Audience,
    /// Expiry, seconds since 1970.
    pub(crate) expires: i64,
    /// It names a shared access policy, which this double does not have.
    pub(crate) has_policy: bool,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

impl Token {
    /// Parses `SharedAccessSignature sr=..&sig=..&se=..[&skn=..]`, parameters in any order. The error says what is
    /// wrong without quoting the token.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.trim().split_once(' ').ok_or("no scheme word")?;
        if !scheme.eq_ignore_ascii_case("SharedAccessSignature") {
            return Err("the scheme is not SharedAccessSignature");
        }
        let (mut sr, mut sig, mut se, mut skn) = (None, None, None, None);
        for pair in rest.trim().split('&') {
            match pair.split_once('=') {
                Some(("sr", v)) => sr = Some(v),
                Some(("sig", v)) => sig = Some(v),
                Some(("se", v)) => se = Some(v),
                Some(("skn", v)) => skn = Some(v),
                _ => {}
            }
        }
        let (sr, sig, se) = (sr.ok_or("no sr")?, sig.ok_or("no sig")?, se.ok_or("no se")?);
        let sig = decoded(sig).ok_or("sig is not text")?;
        Ok(Self {
            sr_raw: sr.to_owned(),
            se_raw: se.to_owned(),
            signature: STANDARD.decode(sig).map_err(|_| "sig is not base64")?,
            audience: Audience::parse(sr).ok_or("sr names no device")?,
            expires: se.parse().map_err(|_| "se is not a number")?,
            has_policy: skn.is_some_and(|v| !v.is_empty()),
        })
    }

    /// Whether one of `keys` signed it. The data is `sr` exactly as received, a line feed, and `se`.
    pub(crate) fn signed_by<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) -> bool {
        keys.into_iter().filter_map(Key::mac).any(|mut mac| {
            mac.update(self.sr_raw.as_bytes());
            mac.update(b"\n");
            mac.update(self.se_raw.as_bytes());
            mac.verify_slice(&self.signature).is_ok()
        })
    }
}

/// Builds a token for `sr` (put in exactly as given, so that tests control its encoding) that expires at `expires`
/// (seconds since 1970). For clients in tests: the result is a secret.
pub fn sas_token(sr: &str, key: &Key, expires: i64) -> String {
    let mut mac = key.mac().expect("a test's key is base64");
    mac.update(format!("{sr}\n{expires}").as_bytes());
    let sig = STANDARD.encode(mac.finalize().into_bytes());
    let sig = utf8_percent_encode(&sig, NON_ALPHANUMERIC);
    format!("SharedAccessSignature sr={sr}&sig={sig}&se={expires}")
}

fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::from_base64("c2VjcmV0LWtleS1mb3ItdGVzdHM=")
    }

    #[test]
    fn audiences_of_every_sdk_are_read() {
        let table = [
            ("h.example/devices/dev1", "dev1", None),
            ("h.example%2Fdevices%2Fdev1", "dev1", None),
            ("h.example%2fdevices%2fdev1", "dev1", None),
            ("h.example/devices/e/modules/$edgeHub", "e", Some("$edgeHub")),
            ("h.example/devices/e/modules/%24edgeHub", "e", Some("$edgeHub")),
            ("h.example%2Fdevices%2Fe%2Fmodules%2F%2524edgeHub", "e", Some("$edgeHub")),
        ];
        for (raw, device, module) in table {
            let got = Audience::parse(raw).expect(raw);
            assert_eq!(
                (got.host.as_str(), got.device.as_str(), got.module.as_deref()),
                ("h.example", device, module),
                "{raw}"
            );
        }
        for bad in ["", "h.example", "h.example/dev1", "h.example/devices/a/b", "h/devices/a/x/m"] {
            assert_eq!(Audience::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_raw_text_is_what_is_signed() {
        for sr in ["h/devices/d", "h%2Fdevices%2Fd", "h%2fdevices%2fd"] {
            let token = Token::parse(&sas_token(sr, &key(), 5)).expect(sr);
            assert!(token.signed_by([&key()]), "{sr}");
            assert!(!token.signed_by([&Key::from_base64("b3RoZXI=")]), "{sr}");
            assert!(token.signed_by([&Key::from_base64("b3RoZXI="), &key()]), "secondary, {sr}");
        }
        // The same audience in another spelling is another text: its signature does not carry over.
        let moved = sas_token("h%2Fdevices%2Fd", &key(), 5).replace("%2Fdevices%2F", "/devices/");
        assert!(!Token::parse(&moved).expect("parses").signed_by([&key()]));
    }

    #[test]
    fn order_of_parameters_is_free_and_rubbish_is_refused() {
        let usual = sas_token("h/devices/d", &key(), 5);
        let (_, rest) = usual.split_once(' ').expect("scheme");
        let turned: Vec<&str> = rest.split('&').rev().collect();
        let turned = format!("SharedAccessSignature {}", turned.join("&"));
        assert!(Token::parse(&turned).expect("parses").signed_by([&key()]));
        for bad in ["", "Bearer x", "SharedAccessSignature sr=h/devices/d&se=5", "x"] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(format!("{:?}", key()), "Key(***)");
    }
}
