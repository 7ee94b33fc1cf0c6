//! Judging a CONNECT, as far as it can be judged without credentials.
//!
//! Owns: which return code answers what. The C SDK (so every Azure Sphere device) never tries again after code 2 or 4;
//! neither is ever sent. 3: come back later, or the user name is unreadable (as the reference does). 5: refused.

use std::time::Duration;

use bytes::Bytes;

use super::Limits;
use super::output::Remembered;
use crate::identity::ClientName;
use crate::iothub::topics::Inbound;
use crate::iothub::{authorisation, bag, username};
use crate::message::{Properties, SystemProperties};
use crate::mqtt::packet::{Connect, ConnectReturnCode, Utf8Bytes, Will};

/// A claim that awaits its proof.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Who the client says it is.
    pub claim: ClientName,
    /// SAS token. An empty password counts as none: the client relies on its certificate.
    pub password: Option<Bytes>,
    /// CleanSession.
    pub clean_session: bool,
    /// Longest silence that will be tolerated: 1.5 times what the client asked for \[MQTT-3.1.2-24\], or the cap.
    pub silence_max: Duration,
    /// `api-version` of the user name.
    pub api_version: Box<str>,
    /// `DeviceClientType` of the user name.
    pub product_info: Option<Box<str>>,
    /// `model-id` of the user name.
    pub model_id: Option<Box<str>>,
    /// `auth-chain` of the user name.
    pub auth_chain: Option<Box<str>>,
}

impl std::fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectRequest")
            .field("claim", &self.claim)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("clean_session", &self.clean_session)
            .field("silence_max", &self.silence_max)
            .field("api_version", &self.api_version)
            .field("product_info", &self.product_info)
            .field("model_id", &self.model_id)
            .field("auth_chain", &self.auth_chain)
            .finish()
    }
}

/// Why a client may not connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the client is told.
    pub code: ConnectReturnCode,
    /// For the counter.
    pub label: &'static str,
    /// For the log: what is wrong and what to do.
    pub detail: String,
}

/// What a session remembers of a CONNECT until the claim is proved.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) claim: ClientName,
    pub(super) silence_max: Duration,
    pub(super) model_id: Option<Box<str>>,
    pub(super) will: Option<Box<Testament>>,
    /// What an earlier session left, if there is one.
    pub(super) earlier: Option<Remembered>,
    /// For the packet ids of what is sent down.
    pub(super) seed: u64,
}

/// A will, taken apart: what is published if the client vanishes.
#[derive(Debug)]
pub(super) struct Testament {
    pub(super) system: SystemProperties,
    pub(super) properties: Properties,
    pub(super) body: Bytes,
}

pub(super) fn judge(
    connect: Connect,
    limits: &Limits,
) -> Result<(ConnectRequest, Pending), Refusal> {
    let Some(login) = connect.login else {
        return Err(unreadable("user_name_missing", "the CONNECT has no user name".to_owned()));
    };
    let user = username::parse(&login.user_name)
        .map_err(|error| unreadable(error.label(), error.to_string()))?;
    if !spells(&connect.client_id, &user.name) {
        // An empty client id ends here as well; code 2, which [MQTT-3.1.3-8] asks for, would keep a C SDK away for good.
        let detail =
            format!("the client id must be {:?}, as in the user name", user.name.to_string());
        return Err(denied("client_id", detail));
    }
    let will = match connect.will {
        None => None,
        Some(will) => Some(Box::new(testament(&will, &user.name)?)),
    };
    let silence_max = silence_max(connect.keep_alive_secs, limits.keep_alive_max);
    let pending = Pending {
        claim: user.name.clone(),
        silence_max,
        model_id: user.model_id.clone(),
        will,
        earlier: None,
        seed: 0,
    };
    let request = ConnectRequest {
        claim: user.name,
        password: login.password.filter(|password| !password.is_empty()),
        clean_session: connect.clean_session,
        silence_max,
        api_version: user.api_version,
        product_info: user.product_info,
        model_id: user.model_id,
        auth_chain: user.auth_chain,
    };
    Ok((request, pending))
}

fn unreadable(label: &'static str, detail: String) -> Refusal {
    Refusal { code: ConnectReturnCode::ServerUnavailable, label, detail }
}

fn denied(label: &'static str, detail: String) -> Refusal {
    Refusal { code: ConnectReturnCode::NotAuthorized, label, detail }
}

fn spells(client_id: &Utf8Bytes, name: &ClientName) -> bool {
    let client_id = client_id.as_str();
    match name.module() {
        None => client_id == name.device().as_str(),
        Some(module) => {
            client_id.split_once('/') == Some((name.device().as_str(), module.as_str()))
        }
    }
}

/// 1.5 times the keep-alive [MQTT-3.1.2-24], at most `cap`; 0 means the cap, so that dead connections end some time.
fn silence_max(keep_alive_secs: u16, cap: Duration) -> Duration {
    match keep_alive_secs {
        0 => cap,
        secs => (Duration::from_secs(secs.into()) * 3 / 2).min(cap),
    }
}

/// Only telemetry of the client itself may be its will. The QoS of the will does not matter: it is stored like any
/// message. Everything is copied, so that an idle connection does not keep its first read buffer alive.
fn testament(will: &Will, name: &ClientName) -> Result<Testament, Refusal> {
    let topic = will.topic.as_str();
    let bag = match authorisation::publish(topic, &[name]) {
        Ok(Inbound::Telemetry(telemetry)) => telemetry.bag,
        _ => {
            let detail = "the will's topic must be the client's own telemetry topic".to_owned();
            return Err(denied("will_topic", detail));
        }
    };
    let (system, mut properties) =
        bag::decode(bag).map_err(|error| denied(error.label(), format!("the will: {error}")))?;
    properties.set("iothub-MessageType", Some("Will".into()));
    if will.retain {
        properties.set(super::live::RETAIN_PROPERTY, Some("true".into()));
    }
    Ok(Testament { system, properties, body: Bytes::copy_from_slice(&will.payload) })
}
