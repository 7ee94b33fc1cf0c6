//! The hub double as a program: ports as one JSON line on standard output, logs on standard error.
//!
//! Ends on SIGTERM and SIGINT, and with `--exit-with-stdin` when its parent closes its standard input. Neither
//! tokens nor keys are ever printed.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use hub_double::{Config, DeviceSpec, HubDouble, ModuleSpec};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

/// A small IoT Hub on loopback, for tests and the quickstart of sphere-gateway.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Host name of the hub: the host part of token audiences.
    #[arg(long)]
    hub_name: String,
    /// Device id of the edge that is registered from the start.
    #[arg(long)]
    edge_id: String,
    /// Key of the edge's module $edgeHub, base64. Better in the environment than on the command line.
    #[arg(long, env = "HUB_DOUBLE_EDGE_KEY", hide_env_values = true)]
    edge_key: String,
    /// Server certificate chain, leaf first (PEM file).
    #[arg(long)]
    tls_cert: PathBuf,
    /// Its private key (PEM file).
    #[arg(long)]
    tls_key: PathBuf,
    /// Where all ports listen.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// AMQP over TLS; 0 takes any.
    #[arg(long, default_value_t = 0)]
    amqp_port: u16,
    /// MQTT over TLS; 0 takes any.
    #[arg(long, default_value_t = 0)]
    mqtt_port: u16,
    /// CAs whose certificates devices log in with over MQTT (PEM file).
    #[arg(long)]
    device_cas: Option<PathBuf>,
    /// Scope API over TLS; 0 takes any.
    #[arg(long, default_value_t = 0)]
    https_port: u16,
    /// Admin API; 0 takes any.
    #[arg(long, default_value_t = 0)]
    admin_port: u16,
    /// Devices (and modules) to register: {"devices":[..],"modules":[..]} or just the list of devices.
    #[arg(long)]
    devices: Option<PathBuf>,
    /// Messages kept in the log.
    #[arg(long, default_value_t = 1_000_000)]
    log_entries_max: usize,
    /// Seconds after its expiry that a token is still taken.
    #[arg(long, default_value_t = 300)]
    token_skew_secs: u64,
    /// End when standard input is closed.
    #[arg(long)]
    exit_with_stdin: bool,
}

#[derive(Default, serde::Deserialize)]
#[serde(untagged)]
enum Registered {
    #[default]
    Nothing,
    Devices(Vec<DeviceSpec>),
    All {
        devices: Vec<DeviceSpec>,
        #[serde(default)]
        modules: Vec<ModuleSpec>,
    },
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("no runtime: {error}")),
    };
    let ended = runtime.block_on(run(Arguments::parse()));
    // Standard input is read by a thread that nothing can wake: do not wait for it.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => failed(&message),
    }
}

fn failed(message: &str) -> ExitCode {
    eprintln!("hub-double: {message}");
    ExitCode::FAILURE
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let mut config = Config::new(
        &arguments.hub_name,
        &arguments.edge_id,
        &arguments.edge_key,
        text(&arguments.tls_cert)?,
        text(&arguments.tls_key)?,
    );
    config.bind = arguments.bind;
    config.amqp_port = arguments.amqp_port;
    config.mqtt_port = arguments.mqtt_port;
    if let Some(path) = &arguments.device_cas {
        config.device_cas_pem = text(path)?;
    }
    config.https_port = arguments.https_port;
    config.admin_port = arguments.admin_port;
    config.log_entries_max = arguments.log_entries_max;
    config.token_skew = Duration::from_secs(arguments.token_skew_secs);
    let registered = match &arguments.devices {
        None => Registered::Nothing,
        Some(path) => serde_json::from_str(&text(path)?)
            .map_err(|error| format!("{}: {error}", path.display()))?,
    };
    let (devices, modules) = match registered {
        Registered::Nothing => (Vec::new(), Vec::new()),
        Registered::Devices(devices) => (devices, Vec::new()),
        Registered::All { devices, modules } => (devices, modules),
    };
    config.devices = devices;
    // Before the ports are told: who reads them may signal at once.
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let hub = HubDouble::start(config).await.map_err(|error| error.to_string())?;
    for module in modules {
        let name = format!("{}/{}", module.device_id, module.module_id);
        hub.put_module(module).ok_or_else(|| format!("{name}: its device is not registered"))?;
    }
    println!("{}", serde_json::json!(hub.ports()));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = stdin_closed(), if arguments.exit_with_stdin => {}
    }
    hub.shutdown().await;
    Ok(())
}

fn text(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

async fn stdin_closed() {
    let mut stdin = tokio::io::stdin();
    let mut sink = [0; 256];
    while stdin.read(&mut sink).await.is_ok_and(|n| n > 0) {}
}
