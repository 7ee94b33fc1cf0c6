//! Who may connect, as the hub tells it.
//!
//! Owns: what a scope means for a site. Must not know: how it is fetched.

use crate::auth::scope::{AuthKind, ScopeEntry, Status};
use crate::command::check::{Finding, Group, plural};
use crate::config::Config;
use crate::identity::DeviceId;
use crate::upstream::probe::Probe;

const GROUP: Group = Group::Scope;

/// Most names in a line.
const NAMES_MAX: usize = 5;

pub(super) async fn examine(probe: &Probe, config: &Config) -> Vec<Finding> {
    match probe.scope().await {
        Ok((entries, has_more)) => judge(&entries, has_more, &config.connection.device),
        Err(error) => {
            let todo = "check that the edge device and its $edgeHub module exist in this hub, are enabled, and have this key";
            vec![GROUP.error("scope", error.to_string(), todo)]
        }
    }
}

fn judge(entries: &[ScopeEntry], has_more: bool, edge: &DeviceId) -> Vec<Finding> {
    let is_device = |entry: &&ScopeEntry| entry.name.module().is_none();
    let children = entries.iter().filter(is_device).filter(|e| e.name.device() != edge);
    let children: Vec<&ScopeEntry> = children.collect();
    let more = if has_more { " and more (one page was read)" } else { "" };
    let mut findings = Vec::new();
    findings.push(if children.is_empty() && !has_more {
        let todo = "set this edge device as the parent of the devices that shall connect (az iot hub device-identity parent set)";
        GROUP.warning("scope", format!("no device is a child of {edge}: none can connect"), todo)
    } else {
        GROUP.ok("scope", format!("{edge} has {}{more}", plural(children.len() as u64, "child device")))
    });
    let of = |is: &dyn Fn(&ScopeEntry) -> bool| -> Vec<String> {
        children.iter().filter(|e| is(e)).map(|e| e.name.to_string()).collect()
    };
    let none = of(&|entry| matches!(entry.auth, AuthKind::None));
    if !none.is_empty() {
        let text = format!(
            "{} without any authentication: {}",
            plural(none.len() as u64, "device"),
            names(&none)
        );
        let todo =
            "give them X.509 authentication (CA-signed or by thumbprint), or a symmetric key";
        findings.push(GROUP.warning("scope-authentication", text, todo));
    }
    let disabled = of(&|entry| entry.status == Status::Disabled);
    if !disabled.is_empty() {
        let text = format!(
            "{} disabled and kept out: {}",
            plural(disabled.len() as u64, "device"),
            names(&disabled)
        );
        findings.push(GROUP.ok("scope-disabled", text));
    }
    // Those of the runtime itself are no clients of ours.
    let is_runtime = |id: &str| ["$edgeHub", "$edgeAgent"].contains(&id);
    let modules: Vec<String> = entries
        .iter()
        .filter(|entry| entry.name.module().is_some_and(|module| !is_runtime(module.as_str())))
        .filter(|entry| !matches!(entry.auth, AuthKind::Sas { .. }))
        .map(|entry| entry.name.to_string())
        .collect();
    if !modules.is_empty() {
        let text = format!(
            "{} without a symmetric key, by which alone modules log in: {}",
            plural(modules.len() as u64, "module"),
            names(&modules)
        );
        let todo = "give them symmetric keys, if they have to connect to this gateway";
        findings.push(GROUP.warning("scope-modules", text, todo));
    }
    findings
}

fn names(all: &[String]) -> String {
    let shown = all.iter().take(NAMES_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::SymmetricKeys;
    use crate::command::check;
    use crate::identity::{ClientName, ModuleId};

    fn entry(name: &str, auth: AuthKind) -> ScopeEntry {
        let name = match name.split_once('/') {
            None => ClientName::Device(DeviceId::parse(name).unwrap()),
            Some((device, module)) => ClientName::Module(
                DeviceId::parse(device).unwrap(),
                ModuleId::parse(module).unwrap(),
            ),
        };
        ScopeEntry {
            name,
            generation: String::new(),
            status: Status::Enabled,
            auth,
            scope: String::new(),
            parent_scopes: Vec::new(),
            is_edge: false,
        }
    }

    fn told(entries: &[ScopeEntry], has_more: bool) -> Vec<(&'static str, check::Status, String)> {
        let edge = DeviceId::parse("edge").unwrap();
        let found = judge(entries, has_more, &edge);
        found.into_iter().map(|f| (f.id, f.status, f.what)).collect()
    }

    #[test]
    fn children_are_counted_and_those_that_cannot_come_in_are_named() {
        let own = [
            entry("edge", AuthKind::Sas { keys: SymmetricKeys::default() }),
            entry("edge/$edgeHub", AuthKind::Sas { keys: SymmetricKeys::default() }),
            entry("edge/$edgeAgent", AuthKind::Sas { keys: SymmetricKeys::default() }),
        ];
        let found = told(&own, false);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].0, found[0].1), ("scope", check::Status::Warning));

        let mut all = own.to_vec();
        all.push(entry("good", AuthKind::CertificateAuthority));
        assert_eq!(told(&all, false)[0].2, "edge has 1 child device");
        assert!(told(&own, true)[0].2.contains("and more"));
        // Who has a key logs in by it.
        let keys = || AuthKind::Sas { keys: SymmetricKeys::default() };
        all.extend([entry("sas", keys()), entry("edge/keyed", keys())]);
        all.extend((0..7).map(|n| entry(&format!("none{n}"), AuthKind::None)));
        all.push(entry("edge/filter", AuthKind::None));
        all.push(ScopeEntry {
            status: Status::Disabled,
            ..entry("off", AuthKind::CertificateAuthority)
        });
        let found = told(&all, false);
        let ids: Vec<_> = found.iter().map(|f| f.0).collect();
        let expected = ["scope", "scope-authentication", "scope-disabled", "scope-modules"];
        assert_eq!(ids, expected, "{found:#?}");
        assert!(
            found[1].2.ends_with("none0, none1, none2, none3, none4 and 2 more"),
            "{}",
            found[1].2
        );
        assert!(found[3].2.ends_with(": edge/filter"), "{}", found[3].2);
    }
}
