//! CONNECT (fact sheet A2, A3, A4): who it says it is, and whether that is proved.
//!
//! Invariant: no words of a refusal quote a token. Must not know: sockets, what happens after.

use std::sync::Arc;

use percent_encoding::percent_decode_str;
use rumqttc::mqttbytes::v4::{Connect, ConnectReturnCode};
use rustls::pki_types::CertificateDer;

use super::certificate::has_thumbprint;
use crate::hub::Hub;
use crate::registry::{AuthType, Denied, Entry};
use crate::sas::Token;

/// A user name, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct UserName {
    device: String,
    module: Option<String>,
    model: Option<String>,
    chain: Option<String>,
}

impl UserName {
    /// `{hub}/{d}[/{m}]/?api-version=..&..`, the old form without `?`, and the one with `/DeviceClientType=` (A2).
    fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (device, module, query) = match &parts[..] {
            [_, device, query] => (device, None, *query),
            [_, device, module, query] => (device, Some(*module), *query),
            [_, device, module, version, _, _] if *version == "api-version=2017-06-30" => {
                (device, Some(*module), *version)
            }
            _ => return None,
        };
        let query = query.strip_prefix('?').unwrap_or(query);
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let (_, value) = pairs.find(|(key, _)| *key == name)?;
            Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
        };
        value("api-version").filter(|version| !version.is_empty())?;
        if device.is_empty() || module.is_some_and(str::is_empty) {
            return None;
        }
        Some(Self {
            device: (*device).to_owned(),
            module: module.map(str::to_owned),
            model: value("model-id"),
            chain: value("auth-chain"),
        })
    }

    fn client_id(&self) -> String {
        match &self.module {
            Some(module) => format!("{}/{module}", self.device),
            None => self.device.clone(),
        }
    }
}

/// Why a client may not come in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: ConnectReturnCode,
    pub(super) words: String,
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        refusal(ConnectReturnCode::NotAuthorized, denied.reason())
    }
}

fn refusal(code: ConnectReturnCode, words: impl Into<String>) -> Refusal {
    Refusal { code, words: words.into() }
}

fn unauthorized(words: impl Into<String>) -> Refusal {
    refusal(ConnectReturnCode::NotAuthorized, words)
}

/// Who has come in.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) entry: Entry,
    pub(super) model: Option<String>,
    /// Its token; none: it has a certificate.
    pub(super) token: Option<Held>,
}

/// A token that let a client in.
#[derive(Debug)]
pub(super) struct Held {
    /// `se`, seconds since 1970.
    pub(super) expires: i64,
    /// When it is the token of an edge: that edge's device id, and the auth chain up to it.
    pub(super) on_behalf: Option<(Arc<str>, String)>,
}

/// Judges a CONNECT of a client with this certificate chain (leaf first; empty: none).
pub(super) fn judge(
    hub: &Hub,
    connect: &Connect,
    chain: &[CertificateDer<'_>],
) -> Result<Login, Refusal> {
    let login = connect.login.as_ref();
    let name = login.and_then(|login| UserName::parse(&login.username)).ok_or_else(|| {
        refusal(ConnectReturnCode::BadUserNamePassword, "the user name is not one of IoT Hub's")
    })?;
    if connect.client_id != name.client_id() {
        let words = "the client id is not the identity of the user name";
        return Err(refusal(ConnectReturnCode::BadClientId, words));
    }
    if let Some(refusal) = refused_by_script(hub, &name.device) {
        return Err(refusal);
    }
    let entry = hub.registry.find(&name.device, name.module.as_deref());
    // Found whatever its case; here case counts (A2).
    let entry = entry.filter(|entry| {
        *entry.principal.device == name.device
            && entry.principal.module.as_deref() == name.module.as_deref()
    });
    let entry = entry.ok_or_else(|| unauthorized("no such identity"))?;
    if !entry.enabled {
        return Err(unauthorized("the identity is disabled"));
    }
    // With both, the password counts (A2).
    let token = match login.map(|login| login.password.as_str()).filter(|p| !p.is_empty()) {
        Some(password) => Some(by_token(hub, &entry, password, name.chain.as_deref())?),
        None => {
            by_certificate(hub, &entry, chain)?;
            None
        }
    };
    Ok(Login { entry, model: name.model, token })
}

/// The fault script's refusals of tokens and of links are refusals of connections here.
fn refused_by_script(hub: &Hub, device: &str) -> Option<Refusal> {
    let status = hub.faults.refuses_token(device);
    let condition = hub.faults.refuses_link(device);
    let for_good = match (status, &condition) {
        (None, None) => return None,
        (Some(status), _) => status < 500 && status != 429,
        (None, Some(condition)) => {
            ["amqp:unauthorized-access", "amqp:not-found"].contains(&condition.as_str())
        }
    };
    let code = match for_good {
        true => ConnectReturnCode::NotAuthorized,
        false => ConnectReturnCode::ServiceUnavailable,
    };
    Some(refusal(code, "refused by the fault script"))
}

/// Its own token, or that of an edge that it is below by `chain`.
fn by_token(hub: &Hub, entry: &Entry, text: &str, chain: Option<&str>) -> Result<Held, Refusal> {
    let token = Token::parse(text).map_err(unauthorized)?;
    let actor = hub.registry.check_token(&token, hub.clock.wall_ms())?.principal;
    if actor == entry.principal {
        return Ok(Held { expires: token.expires, on_behalf: None });
    }
    let edge_hub = actor.module.as_deref().is_some_and(|m| m.eq_ignore_ascii_case("$edgeHub"));
    match chain {
        Some(chain) if edge_hub => {
            hub.registry.check_chain(chain, &entry.principal, &actor.device)?;
            Ok(Held { expires: token.expires, on_behalf: Some((actor.device, chain.to_owned())) })
        }
        _ => Err(unauthorized("the token does not speak for the identity")),
    }
}

fn by_certificate(hub: &Hub, entry: &Entry, chain: &[CertificateDer<'_>]) -> Result<(), Refusal> {
    if chain.is_empty() {
        return Err(unauthorized("neither a token nor a certificate"));
    }
    let (device, now) = (&entry.principal.device, hub.clock.wall_ms());
    let judged = match entry.auth_type {
        AuthType::SelfSigned if entry.principal.module.is_none() => {
            let spec = hub.registry.device(device).unwrap_or_default();
            let thumbprints = [&spec.primary_thumbprint, &spec.secondary_thumbprint];
            has_thumbprint(thumbprints.into_iter().filter_map(Option::as_deref), chain, now)
        }
        AuthType::CertificateAuthority if entry.principal.module.is_none() => {
            hub.device_cas.vouch_for(device, chain, now)
        }
        _ => Err("the identity does not log in with a certificate".to_owned()),
    };
    judged.map_err(unauthorized)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Device, module, model, chain.
    type Parsed<'a> = (&'a str, Option<&'a str>, Option<&'a str>, Option<&'a str>);

    fn check(text: &str, expected: Option<Parsed<'_>>) {
        let got = UserName::parse(text);
        let got = got.as_ref().map(|name| {
            let UserName { device, module, model, chain } = name;
            (device.as_str(), module.as_deref(), model.as_deref(), chain.as_deref())
        });
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn user_names_of_every_sdk_are_read() {
        let d = |model, chain| Some(("d", None, model, chain));
        check("h/d/?api-version=2021-04-12", d(None, None));
        check("h/d/api-version=2016-11-14", d(None, None));
        check("h/d/m/?api-version=2019-10-01", Some(("d", Some("m"), None, None)));
        let node =
            "h/d/?api-version=2021-04-12&DeviceClientType=azure-iot-device%2F1.18.4%20(node)";
        check(node, d(None, None));
        let model = "h/d/?api-version=2020-09-30&model-id=dtmi%3acom%3aexample%3b1&other=x";
        check(model, d(Some("dtmi:com:example;1"), None));
        check("h/d/?api-version=1&auth-chain=d%3Bedge&auth-chain=x", d(None, Some("d;edge")));
        let legacy = "h/d/m/api-version=2017-06-30/DeviceClientType=Microsoft.Azure.Devices.Client/1.5.1-preview-003";
        check(legacy, Some(("d", Some("m"), None, None)));
        check("h/a?b/?api-version=1", Some(("a?b", None, None, None)));
        for bad in ["", "d", "h/d", "h/d/", "h/d/?api-version=", "h/d/?x=1", "h//?api-version=1"] {
            check(bad, None);
        }
    }
}
