//! Ports of the host that a manifest's modules take.
//!
//! Owns: reading PortBindings, and two modules on one port. Must not know: which ports a module should have.

use serde_json::Value;

use super::deployment::Object;
use super::finding::Findings;

/// A port of the host, and what it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) module: String,
    /// Empty: every address of the host.
    pub(super) host_ip: String,
    pub(super) host_port: u16,
    /// `8883/tcp`.
    pub(super) container_port: String,
}

impl Published {
    fn protocol(&self) -> &str {
        self.container_port.rsplit('/').next().unwrap_or("tcp")
    }

    fn clashes(&self, other: &Self) -> bool {
        let is_every = |ip: &str| ["", "0.0.0.0", "::"].contains(&ip);
        self.host_port == other.host_port
            && self.protocol() == other.protocol()
            && (self.host_ip == other.host_ip
                || is_every(&self.host_ip)
                || is_every(&other.host_ip))
    }
}

/// Adds the ports that a module publishes. `found` takes what Docker would refuse.
pub(super) fn published(
    module: &str,
    options: &Object,
    all: &mut Vec<Published>,
    found: &mut Findings,
) {
    let bindings = options.get("HostConfig").and_then(|host| host.get("PortBindings"));
    for (port, hosts) in bindings.and_then(Value::as_object).into_iter().flatten() {
        let container_port = if port.contains('/') { port.clone() } else { format!("{port}/tcp") };
        let number = container_port.split('/').next().unwrap_or_default();
        if number.parse::<u16>().is_err() {
            let what = format!("PortBindings: {port:?} is no port of a container");
            found.error(module, what, "write \"8883/tcp\"");
            continue;
        }
        let Some(hosts) = hosts.as_array() else {
            let what = format!("PortBindings {port}: it is no list");
            found.error(module, what, "write [{\"HostPort\": \"8883\"}]");
            continue;
        };
        for host in hosts {
            let text = |key: &str| host.get(key).and_then(Value::as_str).unwrap_or_default();
            match text("HostPort").parse() {
                Ok(host_port) => all.push(Published {
                    module: module.to_owned(),
                    host_ip: text("HostIp").to_owned(),
                    host_port,
                    container_port: container_port.clone(),
                }),
                // A template's: it is looked at when the manifest is generated.
                Err(_) if text("HostPort").contains("${") => {}
                Err(_) => {
                    let what = format!("PortBindings {port}: HostPort is no port in a string");
                    found.error(module, what, "write {\"HostPort\": \"8883\"}, with the quotes");
                }
            }
        }
    }
}

/// Two containers on one port: the second one does not start.
pub(super) fn clashes(all: &[Published], found: &mut Findings) {
    for (at, one) in all.iter().enumerate() {
        if let Some(other) = all[..at].iter().find(|other| other.clashes(one)) {
            let what = format!(
                "port {} of the host is taken twice: by {} ({}) and by {} ({})",
                one.host_port, other.module, other.container_port, one.module, one.container_port
            );
            found.error(&one.module, what, "give one of them another HostPort, or none");
        }
    }
}
