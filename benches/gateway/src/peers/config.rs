//! What each process under test is started with: the committed configurations with this run's ports and folders, and
//! the gateway's environment.
//!
//! Must not know: processes, sinks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use base64::Engine as _;

use super::{Peer, Programs, process};
use crate::pki::{Pki, SERVER};

const MOSQUITTO: &str = include_str!("../../peers/mosquitto.conf");
const RUMQTTD: &str = include_str!("../../peers/rumqttd.toml");

/// The edge device that the gateway is.
pub(crate) const EDGE: &str = "edge1";

/// Where a run's things are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) pki: &'a Pki,
    pub(crate) folder: &'a Path,
    pub(crate) listen: SocketAddr,
}

/// How the gateway reaches its hub.
#[derive(Debug)]
pub(crate) struct HubAccess {
    pub(crate) key: String,
    pub(crate) ports: hub_double::Ports,
    /// Where the gateway tells its own metrics.
    pub(crate) metrics: SocketAddr,
}

impl HubAccess {
    /// A fresh key of the edge's module.
    pub(crate) fn key() -> String {
        base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 32]>())
    }
}

/// The gateway: the variables that a user would set, nothing of our own environment, and its defaults otherwise
/// (but for the commit window of [`Peer::GatewayWindow`]).
pub(crate) fn gateway(
    programs: &Programs,
    place: Place<'_>,
    peer: Peer,
    hub: &HubAccess,
) -> anyhow::Result<Command> {
    let storage = place.folder.join("storage");
    std::fs::create_dir_all(&storage)
        .with_context(|| format!("cannot make {}", storage.display()))?;
    let program = process::find(&programs.gateway, "build it by `cargo build --release` first")?;
    let connection =
        format!("HostName=localhost;DeviceId={EDGE};ModuleId=$edgeHub;SharedAccessKey={}", hub.key);
    let mut command = Command::new(program);
    command
        .arg("run")
        .env_clear()
        .env("IotHubConnectionString", connection)
        .env("EdgeDeviceHostName", SERVER)
        .env("EdgeHubDevServerCertificateFile", place.pki.file("server.chain.pem"))
        .env("EdgeHubDevServerPrivateKeyFile", place.pki.file("server.key.pem"))
        .env("EdgeHubDevTrustBundleFile", place.pki.file("tenant-ca.pem"))
        .env("upstreamSettings__trustBundleFile", place.pki.file("hub-ca.pem"))
        .env("upstreamSettings__amqpPort", hub.ports.amqp.to_string())
        .env("upstreamSettings__httpsPort", hub.ports.https.to_string())
        .env("StorageFolder", &storage)
        .env("MaxConnectedClients", "10000")
        .env("mqttSettings__host", place.listen.ip().to_string())
        .env("mqttSettings__port", place.listen.port().to_string())
        .env("metrics__listener__host", "127.0.0.1")
        .env("metrics__listener__port", hub.metrics.port().to_string());
    if peer == Peer::GatewayWindow {
        command.env("storeSettings__commitWindowMs", "5");
    }
    Ok(command)
}

/// Mosquitto from its configuration file.
pub(crate) fn mosquitto(
    programs: &Programs,
    place: Place<'_>,
    peer: Peer,
    sink: SocketAddr,
) -> anyhow::Result<Command> {
    let program = process::find(&programs.mosquitto, "apt-get install mosquitto")?;
    let persistence = match peer {
        Peer::MosquittoSafe => {
            "# As safe as it can be made: saved after every change of a message or a subscription (it has no sync).\n\
             autosave_on_changes true\nautosave_interval 1"
        }
        _ => "# As packaged: saved every 30 minutes and at a clean exit.\nautosave_interval 1800",
    };
    let hub_ca = place.pki.file("hub-ca.pem");
    let bridge_tls = match peer {
        Peer::MosquittoTls => format!(
            "# TLS towards the sink, whose certificate is checked.\nbridge_cafile {}",
            hub_ca.display()
        ),
        _ => "# Plain TCP towards the sink: its best.".to_owned(),
    };
    let config = fill(
        MOSQUITTO,
        place,
        &[
            ("PERSISTENCE", persistence),
            ("SINK_PORT", &sink.port().to_string()),
            ("BRIDGE_TLS", &bridge_tls),
        ],
    );
    let path = write(place.folder, "mosquitto.conf", &config)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(path);
    Ok(command)
}

/// rumqttd from its configuration file.
pub(crate) fn rumqttd(programs: &Programs, place: Place<'_>) -> anyhow::Result<Command> {
    let hint = "build it by `cargo build --release -p rumqttd-peer` in benches/";
    let program = process::find(&programs.rumqttd, hint)?;
    let config = fill(RUMQTTD, place, &[]);
    let path = write(place.folder, "rumqttd.toml", &config)?;
    let mut command = Command::new(program);
    command.arg(path);
    Ok(command)
}

fn fill(template: &str, place: Place<'_>, more: &[(&str, &str)]) -> String {
    let (pki, folder) =
        (place.pki.folder.display().to_string(), place.folder.display().to_string());
    let port = place.listen.port().to_string();
    let common = [("PORT", &*port), ("PKI", &*pki), ("FOLDER", &*folder)];
    // The comment at the top explains the placeholders by this one.
    let mut out = template.replace("{{NAMES}}", "Names in double braces");
    for (name, value) in common.iter().chain(more) {
        out = out.replace(&format!("{{{{{name}}}}}"), value);
    }
    out
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_placeholder_is_left_open() {
        let pki = Pki::mint(0).expect("a PKI");
        let folder = tempfile::tempdir().expect("a folder");
        let listen = process::free_address().expect("a port");
        let place = Place { pki: &pki, folder: folder.path(), listen };
        let here = std::env::current_exe().expect("a program that exists");
        let programs = Programs { gateway: here.clone(), mosquitto: here.clone(), rumqttd: here };
        for peer in [Peer::Mosquitto, Peer::MosquittoTls, Peer::MosquittoSafe] {
            mosquitto(&programs, place, peer, listen).expect("a configuration");
            let text = std::fs::read_to_string(folder.path().join("mosquitto.conf")).expect("it");
            assert!(!text.contains("{{"), "{text}");
        }
        rumqttd(&programs, place).expect("a configuration");
        let text = std::fs::read_to_string(folder.path().join("rumqttd.toml")).expect("it");
        assert!(!text.contains("{{"), "{text}");
    }
}
