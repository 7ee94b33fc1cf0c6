//! A small IoT Hub on loopback: what the gateway's tests and its quickstart send to. Never shipped, and it shares no
//! code with the gateway, not even the AMQP library.
//!
//! ```text
//!   clients =TLS=> gate -> driver -> amqp, mqtt --> log: messages, counts, duplicates, reordering
//!                                            |`-> twins, methods, c2d <-- service: what the service side does -> feedback
//!   edge hubs =TLS=> gate -> scope_api ---------> registry <---- sas: HMAC over the raw token text
//!   you ==========> gate -> admin: messages, devices, connections        faults: what goes wrong, and when
//! ```
//! Start one with [`HubDouble::start`]; everything ends with [`HubDouble::shutdown`], or when it is dropped. What it
//! stands for, item by item, is the project's protocol fact sheet (sections B, C, G, K and L).
//!
//! Deviations from the real hub, on purpose: the host in an MQTT user name is not looked at; a replacement of desired
//! properties is told as the difference; a call may name a response time-out of less than 5 s; an expiry later than two days
//! is cut; shared access policies are refused; modules have no certificates; there is no MQTT over WebSocket; there are no
//! quotas except those of the fault script.

mod admin;
mod amqp;
mod c2d;
mod clock;
mod driver;
mod faults;
mod feedback;
mod gate;
mod hub;
mod log;
mod methods;
mod mqtt;
mod registry;
mod sas;
mod scope_api;
mod serve;
mod service;
mod twins;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use c2d::{Ack, C2dMessage, C2dRecord, C2dState};
pub use faults::{Fault, FaultKind};
pub use feedback::{FeedbackBatch, FeedbackRecord, FeedbackStatus};
pub use hub::ConnectionInfo;
pub use log::{Counts, DeviceCounts, Received};
pub use methods::{MethodAnswer, MethodError};
pub use registry::{AuthType, DeviceSpec, ModuleSpec, Status};
pub use sas::{Key, sas_token};
pub use twins::Refused;

use crate::c2d::Queues;
use crate::clock::Clock;
use crate::faults::Faults;
use crate::feedback::Feedback;
use crate::gate::Gate;
use crate::hub::{Command, Hub, Lean, LinkLimits, Roster};
use crate::log::{Limits, MessageLog};
use crate::methods::Methods;
use crate::mqtt::certificate::Cas;
use crate::mqtt::filters::Sessions;
use crate::registry::Registry;
use crate::twins::Twins;

/// Hears the bodies of each accepted transfer, in order: identity (`device` or `device/module`) and bodies.
pub type BodySink = Arc<dyn Fn(&str, &[&[u8]]) + Send + Sync>;

/// How a double is set up. Start from [`Config::new`].
#[derive(Clone)]
pub struct Config {
    /// The host part of audiences, such as `contoso.azure-devices.net`.
    pub hub_name: String,
    /// Device id of the edge that is registered from the start, with its module `$edgeHub`.
    pub edge_id: String,
    /// Key of `$edgeHub`, base64.
    pub edge_module_key: String,
    /// Generation id of the edge, part of its scope.
    pub edge_generation: String,
    /// Where all ports listen; loopback.
    pub bind: IpAddr,
    /// AMQP over TLS; 0 takes any.
    pub amqp_port: u16,
    /// MQTT over TLS; 0 takes any.
    pub mqtt_port: u16,
    /// Scope API over TLS; 0 takes any.
    pub https_port: u16,
    /// Admin API, plain HTTP; 0 takes any.
    pub admin_port: u16,
    /// Server certificate chain, leaf first, PEM.
    pub tls_chain_pem: String,
    /// Its private key, PEM.
    pub tls_key_pem: String,
    /// The CAs whose certificates devices log in with (MQTT), PEM, any number.
    pub device_cas_pem: String,
    /// A token is taken until `se` plus this (5 minutes, as the service).
    pub token_skew: Duration,
    /// Messages kept in the log; the oldest go.
    pub log_entries_max: usize,
    /// Message ids remembered for the detection of duplicates, 24 bytes each.
    pub remembered_ids_max: usize,
    /// Credit of a telemetry link, messages.
    pub link_credit: u32,
    /// `max-message-size` of a link, and the largest message over MQTT (properties included), bytes.
    pub message_bytes_max: u64,
    /// Announced `idle-time-out` (240 s, as the hub); a client silent for longer is closed.
    pub idle_timeout: Duration,
    /// Registered from the start, besides the edge.
    pub devices: Vec<DeviceSpec>,
    /// Lean mode, for measurements beside a double that must not be what is measured. Off by default. When set, a
    /// message's properties are not read: bodies go to this callback as they lie in the read buffer, and nothing is
    /// kept. Then the log stays empty, nothing is told apart as duplicate or reordered, [`Counts::per_device`] stays
    /// empty, and [`FaultKind::RejectMessage`] acts only when it names neither message-id nor property. All else
    /// (tokens, links, the other faults, outcomes) is as ever.
    pub lean: Option<BodySink>,
}

impl Config {
    /// Any free ports on 127.0.0.1, and the service's own limits.
    pub fn new(
        hub_name: impl Into<String>,
        edge_id: impl Into<String>,
        edge_module_key: impl Into<String>,
        tls_chain_pem: impl Into<String>,
        tls_key_pem: impl Into<String>,
    ) -> Self {
        Self {
            hub_name: hub_name.into(),
            edge_id: edge_id.into(),
            edge_module_key: edge_module_key.into(),
            edge_generation: "637000000000000000".into(),
            bind: Ipv4Addr::LOCALHOST.into(),
            amqp_port: 0,
            mqtt_port: 0,
            https_port: 0,
            admin_port: 0,
            tls_chain_pem: tls_chain_pem.into(),
            tls_key_pem: tls_key_pem.into(),
            device_cas_pem: String::new(),
            token_skew: Duration::from_secs(300),
            log_entries_max: 1_000_000,
            remembered_ids_max: 4_000_000,
            link_credit: 1000,
            message_bytes_max: 262_144,
            idle_timeout: Duration::from_secs(240),
            devices: Vec::new(),
            lean: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("hub_name", &self.hub_name)
            .field("edge_id", &self.edge_id)
            .field("bind", &self.bind)
            .finish_non_exhaustive()
    }
}

/// Why a double does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate chain, the key or a CA of devices cannot be used.
    #[error("a certificate cannot be used: {0}")]
    Certificate(String),
    /// A port cannot be bound.
    #[error("cannot listen for {what} on {addr}: {error}")]
    Listen {
        /// Which port.
        what: &'static str,
        /// Where.
        addr: SocketAddr,
        /// Why.
        error: io::Error,
    },
}

/// Where a double listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ports {
    /// AMQP over TLS.
    pub amqp: u16,
    /// MQTT over TLS.
    pub mqtt: u16,
    /// Scope API over TLS.
    pub https: u16,
    /// Admin API, plain HTTP.
    pub admin: u16,
}

/// What the library and the admin API can do alike.
pub(crate) struct Hands {
    pub(crate) hub: Arc<Hub>,
    amqp: Gate,
    mqtt: Gate,
    https: Gate,
}

impl Hands {
    fn put_device(&self, spec: DeviceSpec) -> DeviceSpec {
        let stored = self.hub.registry.put_device(spec);
        self.hub.roster.command_all(&Command::Recheck);
        stored
    }

    fn put_module(&self, spec: ModuleSpec) -> Option<ModuleSpec> {
        let stored = self.hub.registry.put_module(spec);
        self.hub.roster.command_all(&Command::Recheck);
        stored
    }

    fn delete_device(&self, device_id: &str) -> bool {
        let found = self.hub.registry.delete_device(device_id);
        self.hub.twins.forget(device_id, None);
        self.hub.c2d.forget(device_id);
        self.hub.sessions.forget(device_id);
        self.hub.roster.command_all(&Command::Recheck);
        found
    }

    fn delete_module(&self, device_id: &str, module_id: &str) -> bool {
        let found = self.hub.registry.delete_module(device_id, module_id);
        self.hub.twins.forget(device_id, Some(module_id));
        self.hub.roster.command_all(&Command::Recheck);
        found
    }

    async fn go_away(&self) {
        self.hub.roster.kill_all();
        self.amqp.go_away().await;
        self.mqtt.go_away().await;
        self.https.go_away().await;
    }

    async fn come_back(&self) -> io::Result<()> {
        self.amqp.come_back().await?;
        self.mqtt.come_back().await?;
        self.https.come_back().await
    }
}

/// A running double.
pub struct HubDouble {
    hands: Arc<Hands>,
    admin: Gate,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl fmt::Debug for HubDouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubDouble").field("ports", &self.ports()).finish_non_exhaustive()
    }
}

impl HubDouble {
    /// Binds the ports and serves from now on. Needs a tokio runtime with IO and time.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let tls = |asking| {
            serve::acceptor(&config.tls_chain_pem, &config.tls_key_pem, asking)
                .map_err(StartError::Certificate)
        };
        let (tls, tls_asking) = (tls(false)?, tls(true)?);
        let cas = Cas::parse(&config.device_cas_pem).map_err(StartError::Certificate)?;
        let hub = Arc::new(new_hub(&config, cas));
        let open = |what, port, serve| {
            let addr = SocketAddr::new(config.bind, port);
            Gate::open(addr, serve).map_err(|error| StartError::Listen { what, addr, error })
        };
        let amqp = open("AMQP", config.amqp_port, serve::amqp(&hub, &tls))?;
        let mqtt = open("MQTT", config.mqtt_port, serve::mqtt(&hub, &tls_asking))?;
        let https = open("HTTPS", config.https_port, serve::https(&hub, &tls))?;
        let hands = Arc::new(Hands { hub: Arc::clone(&hub), amqp, mqtt, https });
        let admin = open("the admin API", config.admin_port, serve::admin(&hands))?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let stopped = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = hub.faults.keep_time() => {}
                () = hub.keep_c2d_time() => {}
            }
        });
        Ok(Self { hands, admin, tasks, _stop_on_drop: stop.clone().drop_guard(), stop })
    }

    fn hub(&self) -> &Hub {
        &self.hands.hub
    }

    /// Where it listens.
    pub fn ports(&self) -> Ports {
        Ports {
            amqp: self.hands.amqp.addr().port(),
            mqtt: self.hands.mqtt.addr().port(),
            https: self.hands.https.addr().port(),
            admin: self.admin.addr().port(),
        }
    }

    /// Registers or replaces a device; gives it as stored. Links that it may no longer hold are detached.
    pub fn put_device(&self, spec: DeviceSpec) -> DeviceSpec {
        self.hands.put_device(spec)
    }

    /// Registers or replaces a module; `None` when its device is not registered.
    pub fn put_module(&self, spec: ModuleSpec) -> Option<ModuleSpec> {
        self.hands.put_module(spec)
    }

    /// Removes a device and its modules; false when there is none. Its links are detached.
    pub fn delete_device(&self, device_id: &str) -> bool {
        self.hands.delete_device(device_id)
    }

    /// Removes one module; false when there is none. Its links are detached.
    pub fn delete_module(&self, device_id: &str, module_id: &str) -> bool {
        self.hands.delete_module(device_id, module_id)
    }

    /// A device as registered.
    pub fn device(&self, device_id: &str) -> Option<DeviceSpec> {
        self.hub().registry.device(device_id)
    }

    /// All messages in the log, in order of arrival. Copies them: for large logs use [`HubDouble::messages_since`].
    pub fn messages(&self) -> Vec<Received> {
        self.messages_since(None, 0, usize::MAX).iter().map(|m| m.as_ref().clone()).collect()
    }

    /// Messages with `seq` of at least `since`, at most `limit`, of one device when named.
    pub fn messages_since(
        &self,
        device: Option<&str>,
        since: u64,
        limit: usize,
    ) -> Vec<Arc<Received>> {
        self.hub().log.messages(device, since, limit)
    }

    /// Waits until `n` messages (duplicates included) were received since the start. Put a time limit around it.
    pub async fn wait_for(&self, n: u64) {
        let mut total = self.hub().log.total();
        // The sender lives as long as `self`.
        let _ = total.wait_for(|total| *total >= n).await;
    }

    /// Waits until `n` different messages were received since the start. Put a time limit around it.
    pub async fn wait_for_distinct(&self, n: u64) {
        let mut total = self.hub().log.total();
        while self.counts().distinct() < n {
            if total.changed().await.is_err() {
                return;
            }
        }
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.hub().log.counts()
    }

    /// The live connections of clients.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.hub().roster.show()
    }

    /// Waits until the live connections are as `wanted`; gives them. Put a time limit around it.
    pub async fn wait_for_connections(
        &self,
        wanted: impl Fn(&[ConnectionInfo]) -> bool,
    ) -> Vec<ConnectionInfo> {
        /// Connections do not tell when they change: they are looked at this often.
        const LOOK_EVERY: Duration = Duration::from_millis(20);
        loop {
            let connections = self.connections();
            if wanted(&connections) {
                return connections;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sets a fault: at once, and for as long as it says. Gives its number.
    pub fn fault(&self, fault: impl Into<Fault>) -> u64 {
        self.hub().fault(fault.into())
    }

    /// Ends one fault; false when it was not in force any more.
    pub fn clear_fault(&self, id: u64) -> bool {
        self.hub().faults.clear_one(id)
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.hub().faults.clear();
    }

    /// Stops listening for AMQP, MQTT and HTTPS and drops all their connections. The ports stay reserved: clients are
    /// refused. The admin API stays.
    pub async fn go_away(&self) {
        self.hands.go_away().await;
    }

    /// Listens again on the same ports.
    pub async fn come_back(&self) -> io::Result<()> {
        self.hands.come_back().await
    }

    /// Moves the double's wall clock forward, so that tokens expire without waiting.
    pub fn advance_clock(&self, by: Duration) {
        self.hub().clock.advance(by);
        self.hub().c2d_on_time();
    }

    /// Ends everything; when it returns no task of the double is left.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.hub().roster.kill_all();
        self.hands.amqp.shut().await;
        self.hands.mqtt.shut().await;
        self.hands.https.shut().await;
        self.admin.shut().await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn new_hub(config: &Config, device_cas: Cas) -> Hub {
    let skew = i64::try_from(config.token_skew.as_secs()).unwrap_or(i64::MAX);
    let registry = Registry::new(&config.hub_name, skew);
    registry.put_device(DeviceSpec {
        device_id: config.edge_id.clone(),
        iot_edge: true,
        generation_id: Some(config.edge_generation.clone()),
        ..DeviceSpec::default()
    });
    registry.put_module(ModuleSpec {
        device_id: config.edge_id.clone(),
        module_id: "$edgeHub".into(),
        primary_key: Some(Key::from_base64(config.edge_module_key.clone())),
        ..ModuleSpec::default()
    });
    for device in &config.devices {
        registry.put_device(device.clone());
    }
    let entries_max = config.log_entries_max;
    let clock = Arc::new(Clock::default());
    Hub {
        twins: Twins::new(Arc::clone(&clock)),
        clock,
        registry,
        log: MessageLog::new(Limits { entries_max, ids_max: config.remembered_ids_max }),
        faults: Faults::new(),
        roster: Roster::default(),
        methods: Methods::default(),
        c2d: Queues::default(),
        feedback: Feedback::default(),
        due: Notify::new(),
        sessions: Sessions::default(),
        device_cas,
        lean: config.lean.clone().map(Lean),
        limits: LinkLimits {
            credit: config.link_credit,
            message_bytes_max: config.message_bytes_max,
            idle_timeout: config.idle_timeout,
        },
    }
}
