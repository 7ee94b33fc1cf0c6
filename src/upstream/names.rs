//! How IoT Hub names an identity on the wire: link addresses and authentication chains (audiences: [`crate::iothub::sas`]).
//!
//! Owns: those texts (`iothub-protocol.md` B3, B8; `edgehub.md` 7.5).
//! Must not know: connections.

use crate::auth::scope::Scope;
use crate::identity::{ClientName, DeviceId};
use crate::iothub::sas::url_encode;

/// `/devices/{d}[/modules/{m}]/messages/events`: target of the telemetry link and `to` of its messages (B3, B4).
pub(super) fn telemetry_address(name: &ClientName) -> String {
    address(name, "messages/events")
}

/// `/devices/{d}[/modules/{m}]/{resource}` (B3).
pub(super) fn address(name: &ClientName, resource: &str) -> String {
    let device = url_encode(name.device().as_str());
    match name.module() {
        None => format!("/devices/{device}/{resource}"),
        Some(module) => {
            format!("/devices/{device}/modules/{}/{resource}", url_encode(module.as_str()))
        }
    }
}

/// `leaf;edge`, or `leaf;child edge;edge` below a nested edge device; a module goes before its device.
///
/// What the scope does not know is taken to be our direct child: the hub judges, and its answer is the one that counts (our
/// copy may be an hour old).
pub(super) fn auth_chain(name: &ClientName, edge: &DeviceId, scope: &Scope) -> String {
    if let Some(chain) = scope.auth_chain(name) {
        return chain;
    }
    match name.module() {
        Some(_) if name.device() != edge => format!("{name};{};{edge}", name.device()),
        _ => format!("{name};{edge}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ModuleId;

    fn device(id: &str) -> ClientName {
        ClientName::Device(DeviceId::parse(id).unwrap())
    }

    fn module(device: &str, id: &str) -> ClientName {
        ClientName::Module(DeviceId::parse(device).unwrap(), ModuleId::parse(id).unwrap())
    }

    #[test]
    fn addresses_encode_ids() {
        let check = |name, want| assert_eq!(telemetry_address(&name), want);
        check(module("d", "$m"), "/devices/d/modules/%24m/messages/events");
        check(device("a:b"), "/devices/a%3Ab/messages/events");
    }

    #[test]
    fn without_a_scope_everyone_is_a_direct_child() {
        let edge = DeviceId::parse("edge1").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (scope, _) = Scope::load(folder.path().join("scope"), edge.clone());
        let check = |name, want: &str| assert_eq!(auth_chain(&name, &edge, &scope), want);
        check(device("leaf"), "leaf;edge1");
        check(module("edge1", "m"), "edge1/m;edge1");
        check(module("edge1", "$edgeHub"), "edge1/$edgeHub;edge1");
        check(module("leaf", "m"), "leaf/m;leaf;edge1");
    }
}
