//! Whether a gateway runs here already, and how it does; and whether its port is free if none does.
//!
//! Owns: the questions to its administrative listener. Must not know: what healthy means.

use std::io;
use std::net::{SocketAddr, TcpListener};

use serde::Deserialize;

use super::{Finding, Group};
use crate::command::ask;

#[derive(Debug, Default, Deserialize)]
struct Answer {
    #[serde(default)]
    reasons: Vec<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

/// What a gateway on this machine answers. Waits a few seconds at most for each of two answers. `true`: one runs.
pub fn gateway(admin: Option<SocketAddr>) -> (bool, Vec<Finding>) {
    const ID: &str = "running";
    let Some(address) = admin.map(|address| address.to_string()) else {
        let text = "metrics__listener__port is 0, any free port: neither the container's health check nor `queue` and \
                    `refusals` find the gateway";
        let todo = "take metrics__listener__port out (9600), or the health check (createOptions: \"Healthcheck\": {\"Test\": \
                    [\"NONE\"]}), or the container is unhealthy for ever";
        return (false, vec![Group::Running.warning(ID, text, todo)]);
    };
    let Ok((status, body)) = ask::get(&address, "/healthz") else {
        let text = format!("none answers at {address}");
        return (false, vec![Group::Running.ok(ID, text)]);
    };
    let Ok(health) = serde_json::from_slice::<Answer>(&body) else {
        let text = format!("{address} answers {status}, but not as a gateway");
        let todo =
            "find the program that uses the port, or set metrics__listener__port to another one";
        return (false, vec![Group::Running.error(ID, text, todo)]);
    };
    let mut findings = Vec::new();
    if status.is_success() {
        findings.push(Group::Running.ok(ID, "a gateway runs here and is healthy"));
    } else {
        let text = format!("a gateway runs here and is failing: {}", health.reasons.join("; "));
        findings.push(Group::Running.error(
            ID,
            text,
            "see its log; the runtime should start it again",
        ));
    }
    findings.extend(health.warnings.iter().map(|warning| {
        Group::Running.warning("running-warning", warning, "see its log and `sphere-gateway queue`")
    }));
    if let Ok((status, body)) = ask::get(&address, "/readyz")
        && !status.is_success()
    {
        let reasons = serde_json::from_slice::<Answer>(&body).unwrap_or_default().reasons;
        let text = format!("it lets no devices in: {}", reasons.join("; "));
        findings.push(Group::Running.warning("running-ready", text, "see what is wrong above"));
    }
    (true, findings)
}

/// Whether one of `candidates`, tried in turn, can be listened on. Nothing listens afterwards.
pub fn port(candidates: &[SocketAddr]) -> Finding {
    const ID: &str = "port";
    let mut last = None;
    for address in candidates {
        match TcpListener::bind(address) {
            Ok(_) => {
                return match address.port() {
                    0 => Group::Limits.ok(ID, "devices are served on any free port"),
                    port => Group::Limits.ok(ID, format!("port {port} for devices is free")),
                };
            }
            Err(error) => last = Some((*address, error)),
        }
    }
    let Some((address, error)) = last else {
        return Group::Limits.skipped(ID, "there is no address to listen on");
    };
    let text = format!("cannot listen on {address}: {error}");
    let todo = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "end the other program that uses the port (edgeHub itself, or a broker), or set mqttSettings__port"
        }
        io::ErrorKind::PermissionDenied => {
            "a port below 1024 needs the capability NET_BIND_SERVICE: give it to the container, or take 8883"
        }
        io::ErrorKind::AddrNotAvailable => "set mqttSettings__host to an address of this machine",
        _ => "set mqttSettings__host and mqttSettings__port to what this machine has",
    };
    Group::Limits.error(ID, text, todo)
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_told_and_a_free_one_stays_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let found = port(&[address]);
        assert_eq!(found.status, Status::Error);
        assert!(found.what.contains(&address.to_string()), "{found:?}");
        assert!(found.todo.unwrap().contains("mqttSettings__port"));
        drop(listener);
        assert_eq!(port(&[address]).status, Status::Ok);
        assert_eq!(port(&[address]).status, Status::Ok);
        let other: SocketAddr = "192.0.2.1:0".parse().unwrap();
        let todo = port(&[other]).todo.unwrap();
        assert!(todo.contains("mqttSettings__host"), "{todo}");
    }

    #[test]
    fn without_a_gateway_there_is_nothing_wrong() {
        let (runs, found) = gateway(None);
        assert_eq!((runs, found[0].status), (false, Status::Warning));
        // Port 1 of this machine: nobody listens there.
        let (runs, found) = gateway(Some(([127, 0, 0, 1], 1).into()));
        assert_eq!((runs, found[0].status), (false, Status::Ok));
    }
}
