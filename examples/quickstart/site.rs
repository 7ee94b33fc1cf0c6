//! A whole site on this machine: a throw-away PKI, the hub double, a folder, and the gateway's environment.
//!
//! Shared by the quickstart, the measurements and the integration tests.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use base64::Engine as _;
use hub_double::{DeviceSpec, HubDouble};
use sphere_gateway::certs::{Site, SiteSpec, mint_site};
use sphere_gateway::clock;
use sphere_gateway::config::{Config, MapEnv};
use sphere_gateway::gateway::Gateway;

use crate::device::{self, DeviceConfig};

/// The edge device.
pub(crate) const EDGE: &str = "edge1";
/// How devices call the gateway.
pub(crate) const GATEWAY: &str = "gateway.local.example";

/// A site.
pub(crate) struct LocalSite {
    /// The PKI.
    pub(crate) pki: Site,
    /// The hub.
    pub(crate) hub: HubDouble,
    /// Where devices find the gateway, once it was started.
    pub(crate) port: Arc<AtomicU16>,
    pub(crate) env: BTreeMap<String, String>,
    _folder: tempfile::TempDir,
}

/// The PKI of a site with `devices` devices.
pub(crate) fn mint(devices: usize) -> Site {
    mint_site(&SiteSpec::local(&[GATEWAY], devices), clock::system().wall()).expect("a PKI")
}

impl LocalSite {
    /// Mints the PKI, starts the hub, registers `devices` devices as children of the edge device.
    pub(crate) async fn start(devices: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (certs, storage) = (folder.path().join("certs"), folder.path().join("storage"));
        let pki = mint(devices);
        pki.write_to_folder(&certs, false).expect("certificates on disk");
        std::fs::create_dir(&storage).expect("a storage folder");
        let key = base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 32]>());
        let (chain, server_key) = (&pki.hub_server.chain_pem, &pki.hub_server.key_pem);
        let mut hub = hub_double::Config::new("localhost", EDGE, &*key, &**chain, &**server_key);
        // Nothing of a run may be forgotten: what is forgotten would be taken for lost.
        hub.log_entries_max = 100_000_000;
        hub.remembered_ids_max = 100_000_000;
        let hub = HubDouble::start(hub).await.expect("the hub double starts");
        for device in &pki.devices {
            hub.put_device(DeviceSpec::certificate(&device.id).child_of(EDGE));
        }
        let env = environment(&certs, &storage, &key, hub.ports());
        Self { pki, hub, port: Arc::default(), env, _folder: folder }
    }

    /// Sets a variable of the gateway's environment.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    /// Twins are pushed, and read after an outage, after a second: the defaults, 5 and 120 seconds, are for links that cost
    /// money.
    pub(crate) fn set_impatient(&mut self) {
        self.set("ReportedPropertiesSyncFrequencySecs", "1");
        self.set("MinTwinSyncPeriodSecs", "1");
    }

    /// The gateway's folder below `StorageFolder`.
    pub(crate) fn storage(&self) -> PathBuf {
        PathBuf::from(&self.env["StorageFolder"]).join("edgeHub")
    }

    /// What the environment says.
    pub(crate) fn configuration(&self) -> Config {
        Config::read(&MapEnv(self.env.clone())).expect("the configuration is good")
    }

    /// Starts the gateway in this process; devices find it.
    pub(crate) async fn gateway(&self) -> Gateway {
        let gateway = Gateway::start(self.configuration(), clock::system())
            .await
            .expect("the gateway starts");
        self.port.store(gateway.mqtt_addr().port(), Ordering::Relaxed);
        gateway
    }

    /// Starts the real binary and waits until it listens; devices find it.
    pub(crate) fn binary(&self, path: &Path) -> Child {
        self.launch(Command::new(path))
    }

    /// Gives `command` the gateway's environment and nothing else.
    pub(crate) fn with_environment<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env_clear().envs(&self.env)
    }

    /// The same by `command`, which runs the binary with one more argument: `run`.
    pub(crate) fn launch(&self, mut command: Command) -> Child {
        let mut child = self
            .with_environment(&mut command)
            .arg("run")
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|e| panic!("{:?} does not start: {e}", command.get_program()));
        let stdout = child.stdout.take().expect("piped");
        let (found, port) = mpsc::channel();
        std::thread::spawn(move || {
            let mut log = Vec::new();
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(address) = line.split("MQTT over TLS on ").nth(1) {
                    let port = address.rsplit(':').next().and_then(|p| p.trim().parse().ok());
                    let _ = found.send(port.ok_or_else(|| line.clone()));
                }
                if log.len() < 1000 {
                    log.push(line);
                }
            }
            let _ = found.send(Err(log.join("\n")));
        });
        let port: u16 = port
            .recv_timeout(Duration::from_secs(60))
            .expect("the binary says where it listens")
            .unwrap_or_else(|log| panic!("the binary did not say where it listens:\n{log}"));
        self.port.store(port, Ordering::Relaxed);
        child
    }

    /// A device that sends a message every 5 ms, five at a time at most, and hears nothing.
    pub(crate) fn device(&self, index: usize) -> DeviceConfig {
        let device = &self.pki.devices[index];
        DeviceConfig {
            id: device.id.clone(),
            nick: format!("d{index}"),
            port: Arc::clone(&self.port),
            gateway: GATEWAY.to_owned(),
            tls: device::client_tls(device::gateway_roots(&self.pki), Some(&device.issued)),
            window: 5,
            interval: Duration::from_millis(5),
            filling: 20,
            button: None,
        }
    }
}

/// The same variables that a user would set.
fn environment(
    certs: &Path,
    storage: &Path,
    edge_key: &str,
    hub: hub_double::Ports,
) -> BTreeMap<String, String> {
    let file = |name: &str| certs.join(name).display().to_string();
    let connection =
        format!("HostName=localhost;DeviceId={EDGE};ModuleId=$edgeHub;SharedAccessKey={edge_key}");
    let settings = [
        ("IotHubConnectionString", connection),
        ("EdgeDeviceHostName", GATEWAY.to_owned()),
        ("EdgeHubDevServerCertificateFile", file("server.chain.pem")),
        ("EdgeHubDevServerPrivateKeyFile", file("server.key.pem")),
        ("EdgeHubDevTrustBundleFile", file("tenant-ca.pem")),
        ("upstreamSettings__trustBundleFile", file("hub-ca.pem")),
        ("upstreamSettings__amqpPort", hub.amqp.to_string()),
        ("upstreamSettings__httpsPort", hub.https.to_string()),
        ("StorageFolder", storage.display().to_string()),
        ("MaxConnectedClients", "10000".to_owned()),
        ("mqttSettings__host", "127.0.0.1".to_owned()),
        ("mqttSettings__port", "0".to_owned()),
        ("metrics__listener__host", "127.0.0.1".to_owned()),
        ("metrics__listener__port", "0".to_owned()),
    ];
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
