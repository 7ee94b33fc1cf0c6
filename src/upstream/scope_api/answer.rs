//! The JSON of the scope API's answers.
//!
//! Owns: what is read of them, and what is passed over. Invariants: an entry that cannot be used costs no other its access;
//! what is not understood admits nobody; no key is in a log. Must not know: how an answer came.

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::auth::scope::{AuthKind, ScopeEntry, Status, SymmetricKeys};
use crate::identity::{ClientName, DeviceId, ModuleId};
use crate::iothub::sas::{KeyError, KeySigner};

/// One answer. No `Debug`, here and below: it holds keys.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page {
    #[serde(default)]
    devices: Option<Vec<Device>>,
    #[serde(default)]
    modules: Option<Vec<Module>>,
    #[serde(default)]
    pub(super) continuation_link: Option<String>,
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
    primary_key: Option<Zeroizing<String>>,
    #[serde(default)]
    secondary_key: Option<Zeroizing<String>>,
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
    pub(super) fn read_into(&self, entries: &mut Vec<ScopeEntry>) {
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
        let name = ClientName::Device(id);
        ScopeEntry {
            auth: auth_kind(self.authentication.as_ref(), &name),
            name,
            generation: self.generation_id.clone().unwrap_or_default(),
            status: if enabled { Status::Enabled } else { Status::Disabled },
            scope: self.device_scope.clone().unwrap_or_default(),
            parent_scopes: self.parent_scopes.clone().unwrap_or_default(),
            is_edge: self.capabilities.as_ref().is_some_and(|c| c.iot_edge),
        }
    }
}

impl Module {
    /// Modules carry no status of their own: enabled (`edgehub.md` 7.4).
    fn entry(&self, device: DeviceId, id: ModuleId) -> ScopeEntry {
        let name = ClientName::Module(device, id);
        ScopeEntry {
            auth: auth_kind(self.authentication.as_ref(), &name),
            name,
            generation: self.generation_id.clone().unwrap_or_default(),
            status: Status::Enabled,
            scope: String::new(),
            parent_scopes: Vec::new(),
            is_edge: false,
        }
    }
}

/// An unknown kind admits nobody.
fn auth_kind(authentication: Option<&Authentication>, name: &ClientName) -> AuthKind {
    let kind = authentication.and_then(|a| a.kind.as_deref()).unwrap_or_default();
    match kind {
        "sas" => {
            let keys = authentication.and_then(|a| a.symmetric_key.as_ref());
            let key = |which: &str, text: Option<&Zeroizing<String>>| match text {
                None => None,
                Some(text) => match KeySigner::from_base64(text) {
                    Ok(key) => Some(key),
                    Err(KeyError::Empty) => None,
                    Err(error) => {
                        tracing::warn!(%name, %error, "its {which} key at the hub cannot be used");
                        None
                    }
                },
            };
            let primary = keys.and_then(|keys| key("primary", keys.primary_key.as_ref()));
            let secondary = keys.and_then(|keys| key("secondary", keys.secondary_key.as_ref()));
            AuthKind::Sas { keys: SymmetricKeys { primary, secondary, is_told: true } }
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
          {"deviceId":"odd","authentication":{"type":"new-kind"}},
          {"deviceId":"half","status":"enabled","authentication":{"type":"sas",
             "symmetricKey":{"primaryKey":"no base64!","secondaryKey":"c2VjcmV0"}}},
          {"deviceId":"empty","status":"enabled","authentication":{"type":"sas",
             "symmetricKey":{"primaryKey":"","secondaryKey":null}}}],
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
        let key = || KeySigner::from_base64("c2VjcmV0").ok();
        let sas = |primary, secondary| AuthKind::Sas {
            keys: SymmetricKeys { primary, secondary, is_told: true },
        };
        let expected = vec![
            ("edge1".to_owned(), Status::Enabled, sas(key(), key()), true),
            ("x509dev".to_owned(), Status::Disabled, AuthKind::CertificateAuthority, false),
            ("self".to_owned(), Status::Enabled, self_signed, false),
            ("odd".to_owned(), Status::Disabled, AuthKind::None, false),
            ("half".to_owned(), Status::Enabled, sas(None, key()), false),
            ("empty".to_owned(), Status::Enabled, sas(None, None), false),
            ("edge1/$edgeHub".to_owned(), Status::Enabled, sas(None, None), false),
        ];
        assert_eq!(got, expected);
        assert!(!format!("{entries:?}").contains("c2VjcmV0"));
        assert!(!format!("{entries:?}").contains("secret"));
    }
}
