//! The identity registry: devices, modules, their keys and their place under an edge (fact sheet C2, C3).
//!
//! Owns: who exists, who is enabled, who is whose child; checks tokens and auth chains against that. Invariant: ids
//! are found without regard to case in tokens and addresses, and always come back as registered. Must not know:
//! sockets, AMQP.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::sas::{Audience, Key, Token};

/// How an identity proves itself, in the words of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AuthType {
    /// Symmetric keys.
    #[default]
    Sas,
    /// X.509 by thumbprint.
    SelfSigned,
    /// X.509 by a CA; the common name is the device id.
    CertificateAuthority,
    /// Cannot log in.
    None,
}

/// Whether an identity may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    /// May connect.
    #[default]
    Enabled,
    /// May not.
    Disabled,
}

/// A device, as a test or the admin API describes it (JSON in camelCase; only `deviceId` is required).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceSpec {
    /// The id as registered. The admin API takes it from the path.
    #[serde(default)]
    pub device_id: String,
    /// How it proves itself.
    #[serde(default)]
    pub auth_type: AuthType,
    /// Base64; for `sas`.
    #[serde(default, skip_serializing)]
    pub primary_key: Option<Key>,
    /// Base64; for `sas`.
    #[serde(default, skip_serializing)]
    pub secondary_key: Option<Key>,
    /// Hex; for `selfSigned`.
    #[serde(default)]
    pub primary_thumbprint: Option<String>,
    /// Hex; for `selfSigned`.
    #[serde(default)]
    pub secondary_thumbprint: Option<String>,
    /// Whether it may connect.
    #[serde(default)]
    pub status: Status,
    /// Device id of the edge that it is a child of.
    #[serde(default)]
    pub parent: Option<String>,
    /// Whether it is an edge device, with a scope of its own.
    #[serde(default)]
    pub iot_edge: bool,
    /// Number as text; made up when absent. Putting a device again keeps the old one.
    #[serde(default)]
    pub generation_id: Option<String>,
}

impl DeviceSpec {
    /// An enabled device that logs in with a certificate of a registered CA.
    pub fn certificate(device_id: impl Into<String>) -> Self {
        let auth_type = AuthType::CertificateAuthority;
        Self { device_id: device_id.into(), auth_type, ..Self::default() }
    }

    /// An enabled device with a symmetric key (base64).
    pub fn sas(device_id: impl Into<String>, key: impl Into<String>) -> Self {
        let primary_key = Some(Key::from_base64(key));
        Self { device_id: device_id.into(), primary_key, ..Self::default() }
    }

    /// The same device as child of `edge`.
    #[must_use]
    pub fn child_of(mut self, edge: impl Into<String>) -> Self {
        self.parent = Some(edge.into());
        self
    }

    /// The same device, disabled.
    #[must_use]
    pub fn disabled(mut self) -> Self {
        self.status = Status::Disabled;
        self
    }
}

/// A module of a device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModuleSpec {
    /// The device that it belongs to; must be registered first.
    #[serde(default)]
    pub device_id: String,
    /// The id as registered, such as `$edgeHub`.
    #[serde(default)]
    pub module_id: String,
    /// How it proves itself.
    #[serde(default)]
    pub auth_type: AuthType,
    /// Base64; for `sas`.
    #[serde(default, skip_serializing)]
    pub primary_key: Option<Key>,
    /// Base64; for `sas`.
    #[serde(default, skip_serializing)]
    pub secondary_key: Option<Key>,
    /// Number as text; made up when absent.
    #[serde(default)]
    pub generation_id: Option<String>,
}

/// A registered identity as the protocols use it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Principal {
    pub(crate) device: Arc<str>,
    pub(crate) module: Option<Arc<str>>,
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.module {
            Some(module) => write!(f, "{}/{module}", self.device),
            None => f.write_str(&self.device),
        }
    }
}

/// What the registry knows of one [`Principal`].
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) principal: Principal,
    pub(crate) auth_type: AuthType,
    pub(crate) enabled: bool,
    pub(crate) generation: Arc<str>,
}

/// Why a login or a link is refused; each maps to one CBS status and one AMQP condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Denied {
    /// Malformed: 400.
    Bad(String),
    /// 401, `amqp:unauthorized-access`.
    Unauthorized(String),
    /// 404, `amqp:not-found`.
    NotFound(String),
}

impl Denied {
    /// The HTTP-like status code.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Bad(_) => 400,
            Self::Unauthorized(_) => 401,
            Self::NotFound(_) => 404,
        }
    }

    /// The AMQP condition (fact sheet K).
    pub(crate) fn condition(&self) -> &'static str {
        match self {
            Self::Bad(_) => "com.microsoft:argument-error",
            Self::Unauthorized(_) => "amqp:unauthorized-access",
            Self::NotFound(_) => "amqp:not-found",
        }
    }

    /// What is wrong, without secrets.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Bad(r) | Self::Unauthorized(r) | Self::NotFound(r) => r,
        }
    }
}

/// What an identity of the registry is stored under: ids in lower case.
type ModuleKey = (String, String);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) devices: BTreeMap<String, DeviceSpec>,
    pub(crate) modules: BTreeMap<ModuleKey, ModuleSpec>,
    generations: u64,
}

/// All identities of the hub.
#[derive(Debug)]
pub(crate) struct Registry {
    hub_name: String,
    skew_secs: i64,
    state: RwLock<State>,
}

impl Registry {
    pub(crate) fn new(hub_name: &str, skew_secs: i64) -> Self {
        Self { hub_name: hub_name.to_owned(), skew_secs, state: RwLock::default() }
    }

    /// Reads under the lock; never hold it over an await.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds or replaces a device; gives it as stored.
    pub(crate) fn put_device(&self, mut spec: DeviceSpec) -> DeviceSpec {
        self.write(|state| {
            let id = spec.device_id.to_ascii_lowercase();
            let old = state.devices.get(&id).and_then(|d| d.generation_id.clone());
            spec.generation_id =
                spec.generation_id.or(old).or_else(|| Some(state.next_generation()));
            state.devices.insert(id, spec.clone());
            spec
        })
    }

    /// Removes one module; false when there is none.
    pub(crate) fn delete_module(&self, device_id: &str, module_id: &str) -> bool {
        self.write(|state| state.modules.remove(&module_key(device_id, module_id)).is_some())
    }

    /// Adds or replaces a module; `None` when its device is not registered.
    pub(crate) fn put_module(&self, mut spec: ModuleSpec) -> Option<ModuleSpec> {
        self.write(|state| {
            let id = module_key(&spec.device_id, &spec.module_id);
            if !state.devices.contains_key(&id.0) {
                return None;
            }
            let old = state.modules.get(&id).and_then(|m| m.generation_id.clone());
            spec.generation_id =
                spec.generation_id.or(old).or_else(|| Some(state.next_generation()));
            state.modules.insert(id, spec.clone());
            Some(spec)
        })
    }

    /// Removes a device and its modules; false when there is none.
    pub(crate) fn delete_device(&self, device_id: &str) -> bool {
        let id = device_id.to_ascii_lowercase();
        self.write(|state| {
            state.modules.retain(|(device, _), _| *device != id);
            state.devices.remove(&id).is_some()
        })
    }

    pub(crate) fn device(&self, device_id: &str) -> Option<DeviceSpec> {
        self.read(|state| state.devices.get(&device_id.to_ascii_lowercase()).cloned())
    }

    /// Finds an identity, whatever the case of its ids.
    pub(crate) fn find(&self, device: &str, module: Option<&str>) -> Option<Entry> {
        self.read(|state| state.find(device, module))
    }

    /// Finds who an audience of this hub names.
    pub(crate) fn resolve(&self, audience: &Audience) -> Result<Entry, Denied> {
        if !audience.host.eq_ignore_ascii_case(&self.hub_name) {
            return Err(Denied::Unauthorized("the audience names another hub".into()));
        }
        self.find(&audience.device, audience.module.as_deref())
            .ok_or_else(|| Denied::NotFound("no such identity".into()))
    }

    /// Checks a token: audience, key, expiry (`se` + skew), status. `now_ms` is wall time.
    pub(crate) fn check_token(&self, token: &Token, now_ms: i64) -> Result<Entry, Denied> {
        let unauthorized = |why: &str| Err(Denied::Unauthorized(why.to_owned()));
        if token.has_policy {
            return unauthorized("shared access policies are not served here");
        }
        let entry = self.resolve(&token.audience)?;
        if entry.auth_type != AuthType::Sas {
            return unauthorized("the identity does not log in with a key");
        }
        let keys = self.read(|state| state.keys(&entry.principal));
        if !token.signed_by(keys.iter()) {
            return unauthorized("the signature is not of this identity's keys");
        }
        if self.expired(token.expires, now_ms) {
            return unauthorized("the token has expired");
        }
        if !entry.enabled {
            return unauthorized("the identity is disabled");
        }
        Ok(entry)
    }

    /// Whether a token with this `se` is no longer accepted.
    pub(crate) fn expired(&self, expires: i64, now_ms: i64) -> bool {
        self.expires_at_ms(expires) < now_ms
    }

    /// Wall time at which a token with this `se` ends, skew included.
    pub(crate) fn expires_at_ms(&self, expires: i64) -> i64 {
        expires.saturating_add(self.skew_secs).saturating_mul(1000)
    }

    /// Checks `chain` (leaf first, `;` between) from `target` up to the edge `actor`: every element is registered
    /// and enabled, and every one's parent scope is the next one's own (fact sheet B8, edgehub 7.5).
    pub(crate) fn check_chain(
        &self,
        chain: &str,
        target: &Principal,
        actor: &str,
    ) -> Result<(), Denied> {
        self.read(|state| state.check_chain(chain, target, actor, true))
            .map_err(Denied::Unauthorized)
    }
}

impl State {
    fn next_generation(&mut self) -> String {
        self.generations += 1;
        (637_000_000_000_000_000_u64 + self.generations).to_string()
    }

    pub(crate) fn find(&self, device: &str, module: Option<&str>) -> Option<Entry> {
        let spec = self.devices.get(&device.to_ascii_lowercase())?;
        let enabled = spec.status == Status::Enabled;
        let device: Arc<str> = spec.device_id.as_str().into();
        let Some(module) = module else {
            let generation = spec.generation_id.as_deref().unwrap_or_default().into();
            let principal = Principal { device, module: None };
            return Some(Entry { principal, auth_type: spec.auth_type, enabled, generation });
        };
        let spec = self.modules.get(&module_key(&device, module))?;
        let generation = spec.generation_id.as_deref().unwrap_or_default().into();
        let principal = Principal { device, module: Some(spec.module_id.as_str().into()) };
        Some(Entry { principal, auth_type: spec.auth_type, enabled, generation })
    }

    fn keys(&self, principal: &Principal) -> Vec<Key> {
        let (primary, secondary) = match &principal.module {
            Some(module) => self
                .modules
                .get(&module_key(&principal.device, module))
                .map(|m| (m.primary_key.clone(), m.secondary_key.clone())),
            None => self
                .devices
                .get(&principal.device.to_ascii_lowercase())
                .map(|d| (d.primary_key.clone(), d.secondary_key.clone())),
        }
        .unwrap_or_default();
        primary.into_iter().chain(secondary).collect()
    }

    /// `deviceScope` of a device: its own when it is an edge, else its parent's.
    pub(crate) fn device_scope(&self, spec: &DeviceSpec) -> Option<String> {
        if spec.iot_edge {
            let generation = spec.generation_id.as_deref().unwrap_or_default();
            return Some(format!("ms-azure-iot-edge://{}-{generation}", spec.device_id));
        }
        self.parent_scope(spec)
    }

    /// The scope of a device's parent; an edge that is gone or no edge gives none.
    pub(crate) fn parent_scope(&self, spec: &DeviceSpec) -> Option<String> {
        let parent = self.devices.get(&spec.parent.as_deref()?.to_ascii_lowercase())?;
        if parent.iot_edge { self.device_scope(parent) } else { None }
    }

    /// [`Registry::check_chain`]; `enabled` false asks for the relation alone, as the scope API does, which also
    /// shows disabled children.
    pub(crate) fn check_chain(
        &self,
        chain: &str,
        target: &Principal,
        actor: &str,
        enabled: bool,
    ) -> Result<(), String> {
        let ids: Vec<&str> = chain.split(';').collect();
        let (Some(first), Some(last)) = (ids.first(), ids.last()) else {
            return Err("the auth chain is empty".into());
        };
        if ids.len() > 5 {
            return Err("the auth chain has more than 5 levels".into());
        }
        if !first.eq_ignore_ascii_case(&target.to_string()) {
            return Err("the auth chain does not start at the link's identity".into());
        }
        if !last.eq_ignore_ascii_case(actor) || ids.len() < 2 {
            return Err("the auth chain does not end at the actor".into());
        }
        for pair in ids.windows(2) {
            self.check_step(pair[0], pair[1], enabled)?;
        }
        Ok(())
    }

    fn check_step(&self, below: &str, above: &str, enabled: bool) -> Result<(), String> {
        let (device, module) = match below.split_once('/') {
            Some((device, module)) => (device, Some(module)),
            None => (below, None),
        };
        let entry = self.find(device, module).ok_or("the auth chain names an unknown identity")?;
        let edge = self.find(above, None).ok_or("the auth chain names an unknown edge")?;
        if enabled && !(entry.enabled && edge.enabled) {
            return Err("the auth chain holds a disabled identity".into());
        }
        // A module stands directly below its own device.
        if module.is_some() && device.eq_ignore_ascii_case(above) {
            return Ok(());
        }
        let spec = |id: &str| self.devices.get(&id.to_ascii_lowercase());
        let parent = spec(device).and_then(|d| self.parent_scope(d));
        let own = spec(above).filter(|d| d.iot_edge).and_then(|d| self.device_scope(d));
        if parent.is_some() && parent == own {
            return Ok(());
        }
        Err("the child is not in the scope of this edge".into())
    }
}

/// Key of a module: ids in lower case.
fn module_key(device: &str, module: &str) -> ModuleKey {
    (device.to_ascii_lowercase(), module.to_ascii_lowercase())
}
