//! Subscriptions (fact sheet A6 to A10), and those that outlive their connection.
//!
//! Owns: which filters there are, the most of them, and what clients without CleanSession left. Invariant: at most one set
//! an identity is kept. Must not know: packets.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use super::topics::names;
use crate::hub::{CLOUD_TO_DEVICE, METHOD_REQUESTS};
use crate::registry::Principal;

/// Most filters that a client holds (A10).
pub(super) const FILTERS_MAX: usize = 5;

/// What a filter asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    TwinAnswers,
    Desired,
    Methods,
    CloudToDevice,
    /// Messages between modules do not pass through the hub: granted, and nothing comes.
    Inputs,
}

impl Wanted {
    /// What `filter` asks for when `who` sends it; none: refused.
    pub(super) fn parse(filter: &str, who: &Principal) -> Option<Self> {
        match filter {
            "$iothub/twin/res/#" => return Some(Self::TwinAnswers),
            "$iothub/twin/PATCH/properties/desired/#" => return Some(Self::Desired),
            "$iothub/methods/POST/#" => return Some(Self::Methods),
            _ => {}
        }
        let path = filter.strip_suffix("/#")?;
        if let Some(name) = path.strip_suffix("/messages/devicebound") {
            return (who.module.is_none() && names(name, who)).then_some(Self::CloudToDevice);
        }
        let name = path.strip_suffix("/inputs").unwrap_or(path);
        (who.module.is_some() && names(name, who)).then_some(Self::Inputs)
    }

    /// As `GET /connections` shows it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::TwinAnswers => "twin answers",
            Self::Desired => "desired properties",
            Self::Methods => METHOD_REQUESTS,
            Self::CloudToDevice => CLOUD_TO_DEVICE,
            Self::Inputs => "inputs",
        }
    }
}

/// The filters of one client, with the quality of service (0 or 1) granted to each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subscriptions(BTreeMap<String, (Wanted, u8)>);

impl Subscriptions {
    /// Grants or refuses one filter: the quality of service, at most 1.
    pub(super) fn add(&mut self, filter: &str, qos: u8, who: &Principal) -> Option<u8> {
        let wanted = Wanted::parse(filter, who)?;
        if self.0.len() >= FILTERS_MAX && !self.0.contains_key(filter) {
            return None;
        }
        let granted = qos.min(1);
        self.0.insert(filter.to_owned(), (wanted, granted));
        Some(granted)
    }

    pub(super) fn remove(&mut self, filter: &str) {
        self.0.remove(filter);
    }

    /// The quality of service that what is `wanted` is delivered at; none: it is not.
    pub(super) fn qos(&self, wanted: Wanted) -> Option<u8> {
        self.0.values().filter(|(w, _)| *w == wanted).map(|(_, qos)| *qos).max()
    }

    pub(super) fn wanted(&self) -> impl Iterator<Item = Wanted> {
        self.0.values().map(|(wanted, _)| *wanted)
    }
}

/// Sets of clients that connected without CleanSession. As many as there are identities.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<Principal, Subscriptions>>);

impl Sessions {
    fn with<T>(&self, work: impl FnOnce(&mut HashMap<Principal, Subscriptions>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens the session of `who`: what an earlier one left, if it is to be resumed and there was one.
    pub(super) fn open(&self, who: &Principal, clean: bool) -> Option<Subscriptions> {
        self.with(|kept| {
            if clean {
                kept.remove(who);
                return None;
            }
            let before = kept.get(who).cloned();
            if before.is_none() {
                kept.insert(who.clone(), Subscriptions::default());
            }
            before
        })
    }

    pub(super) fn keep(&self, who: &Principal, subscriptions: &Subscriptions) {
        self.with(|kept| kept.insert(who.clone(), subscriptions.clone()));
    }

    /// Forgets a device and its modules.
    pub(crate) fn forget(&self, device: &str) {
        self.with(|kept| kept.retain(|who, _| !who.device.eq_ignore_ascii_case(device)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(device: &str, module: Option<&str>) -> Principal {
        Principal { device: device.into(), module: module.map(Into::into) }
    }

    #[test]
    fn filters_of_devices_and_of_modules() {
        let (device, module) = (principal("d", None), principal("d", Some("$m")));
        for (filter, of_device, of_module) in [
            ("$iothub/twin/res/#", Some(Wanted::TwinAnswers), Some(Wanted::TwinAnswers)),
            ("$iothub/methods/POST/#", Some(Wanted::Methods), Some(Wanted::Methods)),
            (
                "$iothub/twin/PATCH/properties/desired/#",
                Some(Wanted::Desired),
                Some(Wanted::Desired),
            ),
            ("devices/d/messages/devicebound/#", Some(Wanted::CloudToDevice), None),
            ("devices/d/modules/$m/#", None, Some(Wanted::Inputs)),
            ("devices/d/modules/%24m/inputs/#", None, Some(Wanted::Inputs)),
            ("devices/other/messages/devicebound/#", None, None),
            ("devices/d/messages/devicebound/", None, None),
            ("devices/+/messages/devicebound/#", None, None),
            ("$iothub/twin/res/+", None, None),
            ("devices/d/#", None, None),
            ("#", None, None),
        ] {
            assert_eq!(Wanted::parse(filter, &device), of_device, "{filter}");
            assert_eq!(Wanted::parse(filter, &module), of_module, "{filter}");
        }
    }

    #[test]
    fn qos_is_at_most_1_and_five_filters_are_held() {
        let who = principal("d", Some("m"));
        let mut all = Subscriptions::default();
        let filters = [
            "$iothub/twin/res/#",
            "$iothub/methods/POST/#",
            "$iothub/twin/PATCH/properties/desired/#",
            "devices/d/modules/m/#",
            "devices/d/modules/m/inputs/#",
        ];
        for filter in filters {
            assert_eq!(all.add(filter, 2, &who), Some(1), "{filter}");
        }
        assert_eq!(all.add("devices/%64/modules/m/#", 0, &who), None, "a sixth");
        assert_eq!(all.add(filters[1], 0, &who), Some(0), "one that is held");
        assert_eq!((all.qos(Wanted::Methods), all.qos(Wanted::CloudToDevice)), (Some(0), None));
        all.remove(filters[1]);
        assert_eq!(all.qos(Wanted::Methods), None);
    }

    #[test]
    fn a_session_is_there_only_for_who_wants_it() {
        let (sessions, who) = (Sessions::default(), principal("d", None));
        assert_eq!(sessions.open(&who, false), None);
        assert_eq!(sessions.open(&who, false), Some(Subscriptions::default()));
        let mut some = Subscriptions::default();
        some.add("$iothub/twin/res/#", 1, &who);
        sessions.keep(&who, &some);
        assert_eq!(sessions.open(&who, false), Some(some.clone()));
        assert_eq!(sessions.open(&who, true), None);
        assert_eq!(sessions.open(&who, false), None, "CleanSession has forgotten it");
        sessions.keep(&who, &some);
        sessions.forget("D");
        assert_eq!(sessions.open(&who, false), None);
    }
}
