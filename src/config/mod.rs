//! Configuration: the environment, read once, into plain data.
//!
//! Owns: the names, defaults and limits of every setting (`known` lists the reference's names with what becomes of
//! them), the start-up table, and [`ConfigError`], which tells all problems at once, each with what to do.
//! Invariants: a [`Config`] is usable as it stands (files were there, numbers in range); keys never appear in `Debug`, in
//! the table or in an error. Keys are compared without regard to case and `:` is the same as `__` (`edgehub.md` 1.1).
//! Must not know: the modules that are configured; `gateway` maps these structs to theirs.
//!
//! On purpose different from the reference: `StorageFolder` must be given, exist and be writable (edgeHub silently falls
//! back to the temporary folder, where data dies with the container); a value that cannot be read is a problem, not a
//! silent default.

mod connection;
mod elsewhere;
mod known;
mod place;
mod reader;
mod settings;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use elsewhere::{Judged, Verdict, is_secret, judge};
pub use place::{Certificates, Place, QUEUES_FOLDER};

use crate::edged;
use crate::identity::{DeviceId, ModuleId};
use crate::iothub::sas::KeySigner;
use crate::relay::twins::OfflineGet;
use crate::store::WhenFull;

/// Where settings come from.
pub trait Env {
    /// All variables.
    fn vars(&self) -> Vec<(String, String)>;

    /// The names of those whose value is not UTF-8: `vars` has it with replacement characters.
    fn not_utf8(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The process's environment. Names that are not UTF-8 are not ours and are left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn vars(&self) -> Vec<(String, String)> {
        let text = |v: std::ffi::OsString| v.to_string_lossy().into_owned();
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, text(v)))).collect()
    }

    fn not_utf8(&self) -> Vec<String> {
        let bad = std::env::vars_os().filter(|(_, v)| v.to_str().is_none());
        bad.filter_map(|(k, _)| k.into_string().ok()).collect()
    }
}

/// An environment for tests and embedders.
#[derive(Debug, Clone, Default)]
pub struct MapEnv(pub BTreeMap<String, String>);

impl MapEnv {
    /// Sets a variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }
}

impl Env for MapEnv {
    fn vars(&self) -> Vec<(String, String)> {
        self.0.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

/// Everything that is set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Hub, edge device, `$edgeHub`, and how it proves who it is.
    pub connection: Connection,
    /// The name by which devices call this gateway (`EdgeDeviceHostName`).
    pub gateway_host_name: String,
    /// Where the server's certificate and key come from.
    pub server: ServerSource,
    /// The CAs that devices' certificates are checked against (`EdgeHubDevTrustBundleFile`): files and folders. None of
    /// them = those of the IoT Edge daemon.
    pub trust_bundle: Vec<PathBuf>,
    /// The gateway's own folder: `StorageFolder` with `edgeHub` appended. Its parent exists and is writable.
    pub storage: PathBuf,
    /// The `$edgeHub` desired document (`edgeHubTwinFile`): a file, or a folder of a base and layers over it.
    pub desired_file: Option<PathBuf>,
    /// How the `$edgeHub` twin is kept; `None` = it is not asked (`edgeHubTwinFile` is set, or `configSource` is `local`).
    pub twin: Option<Twin>,
    /// Twins, and messages to modules.
    pub relay: Relay,
    /// Time to live before a document says otherwise, in seconds; 0 = for ever (`storeAndForward__timeToLiveSecs`).
    pub default_ttl_secs: u32,
    /// The MQTT front end.
    pub mqtt: Mqtt,
    /// `/metrics` and `/healthz`.
    pub metrics: MetricsListener,
    /// Log level.
    pub log: LogLevel,
    /// Form of the log.
    pub log_format: LogFormat,
    /// The way to the hub.
    pub upstream: Upstream,
    /// When the scope is fetched.
    pub scope: ScopeRefresh,
    /// The durable queues.
    pub store: Store,
    /// The audit log of who was let in and who was not; `None` = off.
    pub audit: Option<Audit>,
    /// How clients are let in.
    pub auth: Auth,
    /// What is accepted but not as it seems, with what to do.
    pub warnings: Vec<String>,
    rows: Vec<table::Row>,
}

/// Who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The hub's host name, also the host part of audiences.
    pub host_name: String,
    /// Our edge device.
    pub device: DeviceId,
    /// Our module, `$edgeHub`.
    pub module: ModuleId,
    /// What to dial in place of the hub (`GatewayHostName` of the connection string).
    pub gateway_host_name: Option<String>,
    /// How we prove it.
    pub credentials: Credentials,
}

/// How we prove who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// With the module's key (`IotHubConnectionString`).
    Key(KeySigner),
    /// The IoT Edge daemon signs.
    Daemon(Daemon),
}

/// The IoT Edge daemon's workload API, as the daemon and edgeAgent describe it (`IOTEDGE_*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// `IOTEDGE_WORKLOADURI`.
    pub address: edged::Address,
    /// `IOTEDGE_APIVERSION`: what it says that it speaks.
    pub announced_version: Option<String>,
    /// `IOTEDGE_MODULEGENERATIONID`.
    pub generation: String,
    /// `ServerCertificateRenewAfterInMs`: renew at the latest after this time.
    pub renew_after_max: Option<Duration>,
}

/// Where the server's certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerSource {
    /// Files.
    Files(ServerFiles),
    /// The IoT Edge daemon, which also renews it.
    Daemon,
}

/// PEM files of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// The chain, leaf first (`EdgeHubDevServerCertificateFile`).
    pub certificate: PathBuf,
    /// The leaf's private key (`EdgeHubDevServerPrivateKeyFile`).
    pub key: PathBuf,
}

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind {
    /// `None` = every address of the machine.
    pub host: Option<IpAddr>,
    /// 0 = any free port.
    pub port: u16,
}

impl Bind {
    /// The addresses to try, best first: without a host `[::]` (which takes IPv4 too on Linux), and `0.0.0.0` for a
    /// machine without IPv6.
    pub fn candidates(&self) -> Vec<SocketAddr> {
        let hosts = match self.host {
            Some(host) => vec![host],
            None => vec![Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()],
        };
        hosts.into_iter().map(|host| SocketAddr::new(host, self.port)).collect()
    }
}

/// Where the gateway's administrator asks, on the machine itself; `None` = at a port that nobody knows.
///
/// Without metrics (`enabled`) it answers this machine alone: health checks and commands go on.
pub(super) fn asked(enabled: bool, bind: Bind) -> Option<SocketAddr> {
    let host = bind.host.filter(|host| !host.is_unspecified());
    let here = IpAddr::from(Ipv4Addr::LOCALHOST);
    let host = match enabled {
        true => host.unwrap_or(here),
        false => host.filter(IpAddr::is_loopback).unwrap_or(here),
    };
    (bind.port != 0).then_some(SocketAddr::new(host, bind.port))
}

/// The MQTT front end (`mqttSettings__*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mqtt {
    /// `mqttSettings__host` (own), `mqttSettings__port`.
    pub bind: Bind,
    /// Most publishes of one connection that wait for the disk (`MaxPendingInboundAcknowledgements`), 1..=1024.
    pub inflight_max: u16,
    /// Largest packet in bytes (`MaxInboundMessageSize`), 1 KiB..=256 KiB.
    pub packet_bytes_max: u32,
    /// Most open connections, handshakes included (`ConnectionsMax`, own; by default 512 more than `clients_max`, for
    /// those that are shaking hands or about to be displaced).
    pub connections_max: u32,
    /// Time for the TLS handshake (`HandshakeTimeoutSecs`, own): a Sphere device on a bad link needs seconds.
    pub handshake_timeout: Duration,
    /// How long a client may take to send CONNECT (`ConnectArrivalTimeout`).
    pub connect_timeout: Duration,
    /// Longest keep-alive (`MaxKeepAliveTimeout`).
    pub keep_alive_max: Duration,
    /// Most clients at a time, modules and devices together (`MaxConnectedClients`). 100 as in the reference, so a site
    /// with more devices has to say so.
    pub clients_max: u32,
    /// Handshakes and log-ins of one address that may fail in a minute (`FailedConnectsPerMin`, own); 0 = without limit.
    pub failures_per_min: u32,
    /// Longest time for which an address that only fails is held back under pressure (`BanMaxSecs`, own); zero = never.
    pub ban_max: Duration,
    /// Log-ins of one identity in a minute, after the first 30 (`LogInsPerMin`, own); 0 = without limit.
    pub log_ins_per_min: u32,
    /// Packets of one client in a second, the rest waits in its socket (`PacketsPerSecMax`, own); 0 = without limit.
    pub packets_per_sec: u32,
}

/// The listener of `/metrics` and `/healthz` (`metrics__listener__*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsListener {
    /// `MetricsEnabled`; without, all but the metrics is served on this machine alone ([`Self::asked`]).
    pub enabled: bool,
    /// `host` (`*` = all), `port`.
    pub bind: Bind,
    /// `suffix`: path of the metrics without the leading slash.
    pub suffix: String,
    /// Most ids of devices and modules with series of their own (`metrics__idsMax`, own name).
    pub ids_max: u32,
}

impl MetricsListener {
    /// Where it is asked on this machine; `None` = at a port that nobody knows.
    pub fn asked(&self) -> Option<SocketAddr> {
        asked(self.enabled, self.bind)
    }
}

/// `RuntimeLogLevel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Only what ends the process.
    Fatal,
    /// What needs a human.
    Error,
    /// What may need one.
    Warning,
    /// State changes.
    Info,
    /// Reasons.
    Debug,
    /// Everything.
    Verbose,
}

/// `RuntimeLogFormat` (own name).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// As edgeHub writes it: what edgeAgent's log upload reads.
    Text,
    /// One JSON object per line.
    Json,
}

/// The way to the hub (`upstreamSettings__*`, own names).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// AMQP over TLS.
    pub amqp_port: u16,
    /// The scope API.
    pub https_port: u16,
    /// Roots for the hub's certificate besides the public ones: `upstreamSettings__trustBundleFile`, else without a daemon
    /// the file of `EdgeHubDevTrustBundleFile`, if it is one; `None` = those of the IoT Edge daemon, if there is one.
    pub extra_roots: Option<PathBuf>,
    /// `CloudOperationTimeoutSecs`.
    pub operation_timeout: Duration,
    /// Close a device's link after this long without traffic (`CloudConnectionIdleTimeoutSecs`); `None` = never
    /// (`CloseCloudConnectionOnIdleTimeout` false).
    pub idle_link_close: Option<Duration>,
    /// Messages of a queue that may be under way to the hub (`upstreamSettings__windowMessages`, own name, default
    /// 1024): what a crash can make the hub see twice.
    pub window_messages: u32,
    /// Life of our own token; renewed after four fifths of it (`upstreamSettings__sasLifetimeSecs`, own name; the SDKs use
    /// an hour).
    pub token_ttl: Duration,
}

/// How clients are let in (`authSettings__*`, own names).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auth {
    /// Whether clients are asked for a certificate, and may log in with one (`ClientCertAuthEnabled`).
    pub certificates: bool,
    /// How long after its end a token still counts (`clockSkewSecs`), 0..=3600 s.
    pub clock_skew: Duration,
    /// How long after its end a certificate still lets its device come back while the hub is away (`expiredLeafGrace`), at
    /// most 14 days; zero = not at all, the default.
    pub expired_leaf_grace: Duration,
    /// How long a session goes on with a certificate that has ended once the hub is reached (`renewalTimeSecs`), 1 min to
    /// 24 h.
    pub renewal_time: Duration,
}

/// What goes both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relay {
    /// Least time between two pushes of one client's reported properties (`ReportedPropertiesSyncFrequencySecs`), 1 s to 1 h.
    pub push_every: Duration,
    /// Least time between two reads of one client's twin that nobody asked for (`MinTwinSyncPeriodSecs`), 1 s to 24 h.
    pub sync_at_least: Duration,
    /// What a client hears that asks for its twin while the hub is away and nothing is kept (`twinSettings__offlineGet`, own
    /// name).
    pub offline_get: OfflineGet,
    /// How long a module may take for the PUBACK of a message to its input (`MessageAckTimeoutSecs`), 1 s to 1 h.
    pub ack_timeout: Duration,
}

/// When the scope is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeRefresh {
    /// The whole scope (`DeviceScopeCacheRefreshRateSecs`).
    pub every: Duration,
    /// Least time between fetches on demand (`DeviceScopeCacheRefreshDelaySecs`).
    pub on_demand_every: Duration,
}

/// Our own twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Twin {
    /// Time between full reads (`ConfigRefreshFrequencySecs`).
    pub refresh_every: Duration,
    /// Least time between changes of reported properties (`ReportedPropertiesSyncFrequencySecs`).
    pub report_every: Duration,
}

/// The durable queues (`storeSettings__*`, own names).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// How long a commit waits for company: saves flash at low rates, costs PUBACK latency. 0..=100 ms.
    pub commit_window: Duration,
    /// Size of a segment, 64 KiB..=1 GiB. `None` = the store's own default.
    pub segment_bytes: Option<u64>,
    /// Most bytes of the files of all queues together (`maxSizeBytes`), 4 MiB or more. `None` = the volume is the limit.
    /// `storeLimits.maxSizeBytes` of the desired document counts too: the smaller one does.
    pub bytes_max: Option<u64>,
    /// Bytes of the volume that are left to others (`minFreeBytes`). `None` = the store's own default, 64 MiB or less on a
    /// small volume.
    pub min_free_bytes: Option<u64>,
    /// What happens to a message that finds no room (`whenFull`): `reject` (default) or `drop_oldest`.
    pub when_full: WhenFull,
    /// How long a message waits for room before it is refused (`holdSecs`), 0..=30 s.
    pub hold: Duration,
    /// Whether fresh messages may pass the backlog (`liveFirst`), where neither the document nor a route says. Off.
    pub live_first: bool,
    /// Most bytes of the files of the dead letters (`deadLetterBytes`), 1 MiB or more: the oldest go first. Less where
    /// the store is small: see [`crate::store`].
    pub dead_letter_bytes: u64,
}

/// The audit log (`auditSettings__*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audit {
    /// Most bytes of its two files together (`maxSizeBytes`), 64 KiB..=1 GiB.
    pub bytes_max: u64,
}

impl Config {
    /// Reads the environment. Either everything is right, or every problem is told at once.
    pub fn read(env: &dyn Env) -> Result<Self, ConfigError> {
        settings::read(env)
    }

    /// How the log is written, read on its own: it also serves to tell what is wrong. What cannot be read is the default;
    /// [`Self::read`] tells it.
    pub fn log_of(env: &dyn Env) -> (LogLevel, LogFormat) {
        settings::log_of(env)
    }

    /// For an examination, which goes on where a start ends: what is set as far as it can be read, and every problem. A
    /// setting with a problem has its default, a path with a problem is as written.
    pub fn read_loosely(env: &dyn Env) -> (Option<Self>, Vec<Problem>) {
        let (config, error) = settings::read_loosely(env);
        (config, error.problems)
    }

    /// What is set and has no effect, each with why.
    pub fn without_effect(&self) -> Vec<(&str, &'static str)> {
        let ignored = |row: &'_ table::Row| match row.standing {
            table::Standing::Ignored(why) => Some(why),
            _ => None,
        };
        self.rows.iter().filter_map(|row| Some((row.name.as_str(), ignored(row)?))).collect()
    }

    /// How many settings are set and honoured.
    pub fn honoured(&self) -> usize {
        self.rows.iter().filter(|row| row.standing == table::Standing::Honoured).count()
    }

    /// The start-up table: a row per setting with its value (secrets masked) and what becomes of it.
    pub fn table(&self) -> String {
        table::render(&self.rows)
    }

    /// The table, and a row for each variable of the reference that is not set and would have no effect.
    pub fn whole_table(&self) -> String {
        table::render(&known::with_unset(&self.rows))
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The variable.
    pub name: String,
    /// What is wrong with it, without secrets.
    pub what: String,
    /// What to do.
    pub todo: String,
}

/// Everything that is wrong. The process ends with exit code 64 before it binds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// In the order in which the settings are read.
    pub problems: Vec<Problem>,
    /// As [`Config::warnings`].
    pub warnings: Vec<String>,
    rows: Vec<table::Row>,
}

impl ConfigError {
    /// As [`Config::table`], as far as the environment could be read.
    pub fn table(&self) -> String {
        table::render(&self.rows)
    }

    /// As [`Config::whole_table`], as far as the environment could be read.
    pub fn whole_table(&self) -> String {
        table::render(&known::with_unset(&self.rows))
    }
}

impl ConfigError {
    /// How many there are.
    pub fn count(&self) -> String {
        let count = self.problems.len();
        let s = if count == 1 { "" } else { "s" };
        format!("{count} problem{s} in the configuration")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, what, todo } = self;
        write!(f, "{name}: {what}. {todo}.")
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.count())?;
        for problem in &self.problems {
            write!(f, "\n- {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
