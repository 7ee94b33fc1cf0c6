//! Topic filters that a client may subscribe to.
//!
//! Owns: the list of known filters ([`parse_filter`]). Invariant: a filter that names a client names the one that asks.
//! Everything else is refused (the reference grants any filter and never sends anything to it; IoT Hub refuses).
//! Must not know: who is connected, QoS.

use super::topics::is_id;
use crate::identity::ClientName;

/// What a known filter asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subscription {
    /// `devices/{d}/messages/devicebound/#`
    CloudToDevice,
    /// `devices/{d}/modules/{m}/#` or `devices/{d}/modules/{m}/inputs/#`
    ModuleInputs,
    /// `$iothub/methods/POST/#`
    Methods,
    /// `$iothub/twin/PATCH/properties/desired/#`
    Desired,
    /// `$iothub/twin/res/#`
    TwinResponses,
}

impl Subscription {
    /// How many kinds there are: IoT Hub's own limit of subscriptions at a time.
    pub const KINDS: usize = 5;
}

/// The subscription that `filter` asks for when `client` asks; `None`: refuse it.
pub fn parse_filter(filter: &str, client: &ClientName) -> Option<Subscription> {
    match filter {
        "$iothub/methods/POST/#" => return Some(Subscription::Methods),
        "$iothub/twin/PATCH/properties/desired/#" => return Some(Subscription::Desired),
        "$iothub/twin/res/#" => return Some(Subscription::TwinResponses),
        _ => {}
    }
    let (device, rest) = filter.strip_prefix("devices/")?.split_once('/')?;
    if !is_id(device, client.device().as_str()) {
        return None;
    }
    match client.module() {
        None => (rest == "messages/devicebound/#").then_some(Subscription::CloudToDevice),
        Some(own) => {
            let (module, rest) = rest.strip_prefix("modules/")?.split_once('/')?;
            let known = is_id(module, own.as_str()) && matches!(rest, "#" | "inputs/#");
            known.then_some(Subscription::ModuleInputs)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{DeviceId, ModuleId};

    fn check(filter: &str, client: &str, expected: Option<Subscription>) {
        let (device, module) = client.split_once('/').unwrap_or((client, ""));
        let device = DeviceId::parse(device).unwrap();
        let name = match ModuleId::parse(module) {
            Ok(module) => ClientName::Module(device, module),
            Err(_) => ClientName::Device(device),
        };
        assert_eq!(parse_filter(filter, &name), expected, "{filter} for {client}");
    }

    #[test]
    fn known_filters_are_for_their_own_client() {
        use Subscription::{CloudToDevice, Desired, Methods, ModuleInputs, TwinResponses};
        for client in ["dev1", "dev1/m"] {
            check("$iothub/methods/POST/#", client, Some(Methods));
            check("$iothub/twin/PATCH/properties/desired/#", client, Some(Desired));
            check("$iothub/twin/res/#", client, Some(TwinResponses));
        }
        check("devices/dev1/messages/devicebound/#", "dev1", Some(CloudToDevice));
        check("devices/a%3Ab/messages/devicebound/#", "a:b", Some(CloudToDevice));
        check("devices/dev1/modules/m/#", "dev1/m", Some(ModuleInputs));
        check("devices/dev1/modules/m/inputs/#", "dev1/m", Some(ModuleInputs));
        check("devices/dev1/modules/%24m/inputs/#", "dev1/$m", Some(ModuleInputs));
    }

    #[test]
    fn everything_else_is_refused() {
        for filter in [
            "#",
            "+/#",
            "devices/#",
            "devices/+/messages/devicebound/#",
            "devices/dev2/messages/devicebound/#",
            "devices/DEV1/messages/devicebound/#",
            "devices/dev1/messages/devicebound/",
            "devices/dev1/messages/events/#",
            "devices/dev1/modules/m/#",
            "devices/dev1",
            "$iothub/#",
            "$iothub/twin/#",
            "$iothub/twin/res/200/#",
            "x/devices/dev1/messages/devicebound/#",
            "",
        ] {
            check(filter, "dev1", None);
        }
        for filter in [
            "devices/dev1/messages/devicebound/#",
            "devices/dev1/modules/m2/#",
            "devices/dev2/modules/m/#",
            "devices/dev1/modules/m/outputs/#",
        ] {
            check(filter, "dev1/m", None);
        }
    }
}
