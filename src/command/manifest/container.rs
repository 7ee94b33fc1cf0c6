//! The container of edgeHub: what createOptions and env must say so that the gateway is reached, and keeps what it has.
//!
//! Owns: ports, limits, rights. Must not know: where storage lies ([`super::storage`]), how options are carried.

use serde_json::Value;

use super::deployment::Object;
use super::finding::Findings;
use super::{ports, storage};
use crate::command::text::bytes;

/// The user of the image.
const USER: &str = "13623";

/// Where a client finds MQTT over TLS.
const MQTT_PORT: u16 = 8883;

const HUB: &str = "edgeHub";

/// Below it the gateway may be killed: `tests/container/run --memory` holds it to 64 MB with a thousand devices.
const MEMORY_MIN: u64 = 64 << 20;

/// Above it a limit is none on a small machine.
const MEMORY_MAX: u64 = 1 << 30;

/// Options that Docker takes only inside HostConfig, and leaves out without a word elsewhere.
const OF_HOST_CONFIG: [&str; 12] = [
    "Binds",
    "CapAdd",
    "CapDrop",
    "LogConfig",
    "Memory",
    "Mounts",
    "PortBindings",
    "Privileged",
    "ReadonlyRootfs",
    "RestartPolicy",
    "SecurityOpt",
    "Tmpfs",
];

/// The variables of a module, as a manifest has them.
pub(super) struct Variables(pub(super) Vec<(String, String)>);

impl Variables {
    /// As the gateway reads names: in any case, `:` for `__`; blank is not set.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let is_it = |key: &str| key.replace(':', "__").eq_ignore_ascii_case(name);
        let value = self.0.iter().find(|(key, _)| is_it(key)).map(|(_, value)| value.trim());
        value.filter(|value| !value.is_empty())
    }
}

pub(super) fn examine(options: &Object, env: &Variables, found: &mut Findings) {
    for key in OF_HOST_CONFIG.iter().filter(|key| options.contains_key(**key)) {
        let what = format!("createOptions: {key} has no effect where it is");
        found.error(
            HUB,
            what,
            format!("move it into HostConfig: {{\"HostConfig\": {{\"{key}\": ..}}}}"),
        );
    }
    for key in ["Cmd", "Entrypoint"].iter().filter(|key| options.contains_key(**key)) {
        let what = format!("createOptions: {key} replaces what the image starts");
        found.warning(HUB, what, "take it out: the image starts `sphere-gateway run`");
    }
    if let Some(check) = options.get("Healthcheck") {
        health_check(check, found);
    }
    let empty = Object::new();
    let host = match options.get("HostConfig") {
        Some(Value::Object(host)) => host,
        None => &empty,
        Some(_) => {
            found.error(HUB, "createOptions: HostConfig is no object", "write an object");
            &empty
        }
    };
    let user = options.get("User").and_then(Value::as_str).unwrap_or(USER);
    reached(options, env, found);
    storage::examine(host, env, user, found);
    rights(host, user, found);
    memory(host, found);
    clients(env, found);
    health(options, env, found);
}

/// Whether the image's health check can find the gateway: else a good container is unhealthy for ever.
fn health(options: &Object, env: &Variables, found: &mut Findings) {
    let check = options.get("Healthcheck").and_then(|check| check.get("Test"));
    let check = check.and_then(Value::as_array).and_then(|words| words.first());
    let kind = check.and_then(Value::as_str);
    if kind == Some("NONE") {
        return;
    }
    let port = |name: &str| env.get(name).and_then(|port| port.parse::<u16>().ok());
    let what = match port("metrics__listener__port") {
        Some(0) => "metrics__listener__port is 0, any free port: the health check cannot find it",
        Some(set) if set == port("mqttSettings__port").unwrap_or(MQTT_PORT) => {
            "metrics__listener__port is that of MQTT: the health check has none of its own"
        }
        _ => return,
    };
    let todo = "take it out (9600), or the health check: \"Healthcheck\": {\"Test\": [\"NONE\"]}";
    found.warning(HUB, what, todo);
}

/// Whether the image has what a health check starts: it is the gateway alone, without a shell.
fn health_check(check: &Value, found: &mut Findings) {
    let Some(test) = check.get("Test") else {
        // The times alone: the test is the image's.
        return;
    };
    let todo = "take it out: the image has {\"Test\": [\"CMD\", \"/sphere-gateway\", \"health\"]}";
    let words = test.as_array().map(|test| test.iter().map(Value::as_str).collect::<Vec<_>>());
    let needs = match words.as_deref() {
        Some([] | [Some("NONE"), ..]) => return,
        Some([Some("CMD"), Some("/sphere-gateway"), ..]) => return,
        Some([Some("CMD-SHELL"), ..]) => "a shell".to_owned(),
        Some([Some("CMD"), Some(program), ..]) => format!("{program:?}"),
        _ => {
            let what = format!("createOptions: Healthcheck: {test} is no test");
            return found.error(HUB, what, todo);
        }
    };
    let what = format!(
        "createOptions: Healthcheck needs {needs}, and the image has the gateway alone: it is never healthy"
    );
    found.error(HUB, what, todo);
}

/// Whether devices reach the MQTT port.
fn reached(options: &Object, env: &Variables, found: &mut Findings) {
    let listens = env.get("mqttSettings__port").and_then(|port| port.parse().ok());
    let listens = format!("{}/tcp", listens.unwrap_or(MQTT_PORT));
    let mut published = Vec::new();
    // What Docker refuses is told once, where the ports of all modules are looked at.
    ports::published(HUB, options, &mut published, &mut Findings::default());
    let host = options.get("HostConfig");
    let network = host.and_then(|host| host.get("NetworkMode")).and_then(Value::as_str);
    if network == Some("host") {
        let what = "NetworkMode is host: other modules do not find the gateway by its name";
        return found.warning(HUB, what, "take it out, and bind port 8883");
    }
    let mut is_reached = false;
    for port in &published {
        if port.container_port != listens {
            let what = format!("port {} is bound, and nothing listens there", port.container_port);
            let todo = "take it out of PortBindings: the gateway serves MQTT over TLS on 8883 only, neither AMQP nor HTTPS";
            // Who scrapes metrics from outside binds them on purpose.
            let is_metrics = port.container_port
                == format!("{}/tcp", env.get("metrics__listener__port").unwrap_or("9600"));
            match is_metrics {
                true => found.warning(
                    HUB,
                    format!(
                        "the metrics' port {} is open to the network, without TLS",
                        port.host_port
                    ),
                    "bind it to one address by \"HostIp\", or let a module scrape it inside",
                ),
                false => found.warning(HUB, what, todo),
            }
            continue;
        }
        is_reached = true;
        if ["127.0.0.1", "::1"].contains(&port.host_ip.as_str()) {
            let what = format!("port {} is bound to {} only", port.host_port, port.host_ip);
            found.error(HUB, what, "take HostIp out: devices come from the network");
        } else if port.host_port == MQTT_PORT {
            found.ok(HUB, format!("devices reach {listens} at the host's port {}", port.host_port));
        } else {
            let what = format!("devices reach {listens} at the host's port {}", port.host_port);
            found.warning(HUB, what, "write HostPort 8883: Azure's SDKs call no other port");
        }
    }
    let is_open = host.and_then(|host| host.get("PortBindings")).is_some_and(|bindings| {
        bindings.get(&listens).is_some_and(|hosts| hosts.to_string().contains("${"))
    });
    if !is_reached && !is_open {
        let what = format!("no port of the host leads to {listens}: no device reaches the gateway");
        let todo = format!(
            "write HostConfig.PortBindings {{\"{listens}\": [{{\"HostPort\": \"8883\"}}]}}"
        );
        found.error(HUB, what, todo);
    }
}

/// What the container may do besides its job.
fn rights(host: &Object, user: &str, found: &mut Findings) {
    let is = |key: &str| host.get(key).and_then(Value::as_bool) == Some(true);
    if ["0", "root"].contains(&user.split(':').next().unwrap_or_default()) {
        let what = "User is root, which nothing here needs";
        found.warning(HUB, what, "take User out: the image runs as 13623");
    }
    if is("Privileged") {
        found.warning(HUB, "it is Privileged, which nothing here needs", "take Privileged out");
    }
    if host.get("CapAdd").and_then(Value::as_array).is_some_and(|caps| !caps.is_empty()) {
        found.warning(HUB, "CapAdd adds rights that nothing here needs", "take CapAdd out");
    }
    let drops = host.get("CapDrop").and_then(Value::as_array);
    let drops_all = drops.is_some_and(|caps| {
        caps.iter().filter_map(Value::as_str).any(|cap| cap.eq_ignore_ascii_case("all"))
    });
    match (drops_all, is("ReadonlyRootfs")) {
        (true, true) => found.ok(HUB, "no capabilities, and a read-only root file system"),
        (drops_all, _) => {
            let what = if drops_all {
                "its root file system can be written to"
            } else {
                "it keeps capabilities that it does not use"
            };
            let todo = "write HostConfig {\"CapDrop\": [\"ALL\"], \"ReadonlyRootfs\": true}";
            found.warning(HUB, what, todo);
        }
    }
}

fn memory(host: &Object, found: &mut Findings) {
    let todo = "write a number of bytes from 67108864 (64 MiB) to 1073741824; on Raspberry Pi OS a limit works only with \
                cgroup_enable=memory in the kernel's command line";
    let what = match host.get("Memory") {
        None => {
            let what = "no Memory limit: a fault could take the whole machine's memory";
            return found.warning(HUB, what, todo);
        }
        Some(memory) => match memory.as_u64() {
            Some(0) => return found.warning(HUB, "Memory is 0, which is no limit", todo),
            Some(n) if n < MEMORY_MIN => format!("Memory is {}, too little", bytes(n)),
            Some(n) if n > MEMORY_MAX => {
                let what = format!("Memory is {}, more than it can use", bytes(n));
                return found.warning(HUB, what, todo);
            }
            Some(n) => {
                return found.ok_if(
                    HUB,
                    format!("Memory is limited to {}", bytes(n)),
                    todo_on_a_pi(),
                );
            }
            None => format!("Memory is {memory}, no number of bytes"),
        },
    };
    found.error(HUB, what, todo);
}

fn todo_on_a_pi() -> &'static str {
    "on Raspberry Pi OS add cgroup_enable=memory to the kernel's command line, else the limit is ignored"
}

fn clients(env: &Variables, found: &mut Findings) {
    match env.get("MaxConnectedClients") {
        None => found.warning(
            HUB,
            "MaxConnectedClients is not set: the 101st device is refused",
            "set it to the number of devices and modules, and some more",
        ),
        Some(most) => found.ok(HUB, format!("{most} clients may be connected")),
    }
}
