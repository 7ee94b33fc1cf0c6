//! What clients subscribe to.
//!
//! Owns: the kinds of subscriptions. Which filters ask for which, and who may, is the table of [`super::authorisation`]; any
//! other filter is refused (the reference grants it and never sends anything to it; IoT Hub refuses).
//! Must not know: who is connected, QoS.

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

    /// All of them.
    pub const ALL: [Self; Self::KINDS] = [
        Self::CloudToDevice,
        Self::ModuleInputs,
        Self::Methods,
        Self::Desired,
        Self::TwinResponses,
    ];

    /// Its place in [`Subscription::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{ClientName, DeviceId, ModuleId};
    use crate::iothub::authorisation::subscribe;

    fn check(filter: &str, client: &str, expected: Option<Subscription>) {
        let (device, module) = client.split_once('/').unwrap_or((client, ""));
        let device = DeviceId::parse(device).unwrap();
        let name = match ModuleId::parse(module) {
            Ok(module) => ClientName::Module(device, module),
            Err(_) => ClientName::Device(device),
        };
        assert_eq!(subscribe(filter, &[&name]).ok(), expected, "{filter} for {client}");
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
