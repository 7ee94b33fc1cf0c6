//! The settings that are honoured: names, defaults and limits.
//!
//! Must not know: what they are for, forms of values ([`super::reader`]).

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::Reader;
use super::{
    Audit, Auth, Bind, Config, ConfigError, Env, LogFormat, LogLevel, MetricsListener, Mqtt, Relay,
    ScopeRefresh, Store, Twin, Upstream,
};
use crate::auth::policy::GRACE_MAX;
use crate::desired::STORE_BYTES_MIN;
use crate::iothub::sas::CLOCK_SKEW_DEFAULT;
use crate::relay::twins::OfflineGet;
use crate::store::WhenFull;

/// The hub takes 256 KB a message, so a larger limit would only promise what cannot be delivered.
const PACKET_BYTES_MAX: u32 = 262_144;

/// The CAs that devices come from.
const BUNDLE: &str = "EdgeHubDevTrustBundleFile";

/// Reads everything; see [`Config::read`].
pub(super) fn read(env: &dyn Env) -> Result<Config, ConfigError> {
    let (config, error) = read_loosely(env);
    match config {
        Some(config) if error.problems.is_empty() => Ok(config),
        _ => Err(error),
    }
}

/// As far as it can be read, and every problem; see [`Config::read_loosely`].
pub(super) fn read_loosely(env: &dyn Env) -> (Option<Config>, ConfigError) {
    let mut r = Reader::new(env);
    let config = r.config();
    debug_assert!(config.is_some() || !r.problems.is_empty(), "what is missing is told");
    let (warnings, rows) = (r.warnings, r.rows);
    let error =
        ConfigError { problems: r.problems, warnings: warnings.clone(), rows: rows.clone() };
    (config.map(|config| Config { warnings, rows, ..config }), error)
}

/// See [`Config::log_of`].
pub(super) fn log_of(env: &dyn Env) -> (LogLevel, LogFormat) {
    let mut r = Reader::new(env);
    (r.log_level(), r.log_format())
}

/// A pebibyte: no volume of a gateway is larger, and sums with it do not overflow.
const BYTES_MAX: u64 = 1 << 50;

/// Room for 15,000 refused messages of 1 KiB.
const DEAD_LETTER_BYTES: u64 = 16 << 20;

/// Four of the hub's largest messages.
const DEAD_LETTER_BYTES_MIN: u64 = 1 << 20;

/// See [`crate::metrics::IDS_MAX`].
const IDS_MAX: u32 = 1000;

/// Room for 30,000 decisions of 500 bytes.
const AUDIT_BYTES: u64 = 16 << 20;

/// A line has at most 4 KiB: eight of them in each of the two files.
const AUDIT_BYTES_MIN: u64 = 64 << 10;

/// Connections beyond the admitted clients: those that are still shaking hands, or are about to be displaced.
const CONNECTIONS_SPARE: u32 = 512;

impl Reader {
    /// All settings, in the order of the table; `None` when one without a default is missing, which is told.
    pub(super) fn config(&mut self) -> Option<Config> {
        let connection = self.connection();
        let gateway_host_name = self.gateway_host_name();
        let server = self.server();
        let trust_bundle = self.trust_bundle();
        let storage = self.storage();
        // Not looked at yet: when it cannot be read, the last good document may serve (`gateway`).
        let desired_file = self.take("edgeHubTwinFile", "").map(PathBuf::from);
        let relay = self.relay();
        let twin = self.twin(desired_file.is_some(), relay.push_every);
        let default_ttl_secs = self.default_ttl();
        let mqtt = self.mqtt();
        let metrics = self.metrics();
        let log = self.log_level();
        let log_format = self.log_format();
        let upstream = self.upstream(trust_bundle.as_deref());
        let scope = ScopeRefresh {
            every: self.seconds("DeviceScopeCacheRefreshRateSecs", 3600, 1, 7 * 86_400),
            on_demand_every: self.seconds("DeviceScopeCacheRefreshDelaySecs", 120, 0, 86_400),
        };
        let store = self.store();
        let audit = self.audit();
        let auth = self.auth();
        self.upstream_protocol();
        // Only now is it known which variables are nobody's.
        self.rest();
        Some(Config {
            connection: connection?,
            gateway_host_name: gateway_host_name?,
            server: server?,
            trust_bundle: trust_bundle?,
            storage: storage?,
            desired_file,
            twin,
            relay,
            default_ttl_secs,
            mqtt,
            metrics,
            log,
            log_format,
            upstream: upstream?,
            scope,
            store,
            audit,
            auth,
            warnings: Vec::new(),
            rows: Vec::new(),
        })
    }

    /// A file is for a gateway that stands alone: then the twin is not asked.
    fn twin(&mut self, has_file: bool, report_every: Duration) -> Option<Twin> {
        const NAME: &str = "configSource";
        let default = if has_file { "local" } else { "twin" };
        let source = self.take(NAME, default).unwrap_or_else(|| default.to_owned());
        let twin = Twin {
            refresh_every: self.seconds("ConfigRefreshFrequencySecs", 3600, 1, 7 * 86_400),
            report_every,
        };
        const REFRESH: &str = "ConfigRefreshFrequencySecs";
        if (has_file || !source.eq_ignore_ascii_case("twin")) && self.is_set(REFRESH) {
            self.warnings.push(format!("{REFRESH}: without effect, the twin is not asked"));
        }
        match source.to_ascii_lowercase().as_str() {
            "twin" if has_file => {
                self.warnings.push(format!(
                    "{NAME}: edgeHubTwinFile is set, so the file counts and the twin is not asked; take one of them out"
                ));
                None
            }
            "twin" => Some(twin),
            "local" => None,
            _ => {
                self.problem(
                    NAME,
                    format!("{source:?} is no source"),
                    "Write twin or local (with edgeHubTwinFile)",
                );
                None
            }
        }
    }

    /// What goes both ways; the gateway's own report has the same pace as those of devices.
    fn relay(&mut self) -> Relay {
        const OFFLINE_GET: &str = "twinSettings__offlineGet";
        let text = self.take(OFFLINE_GET, "empty").unwrap_or_default().to_ascii_lowercase();
        let offline_get = match text.as_str() {
            "" | "empty" => OfflineGet::Empty,
            "unavailable" => OfflineGet::Unavailable,
            _ => {
                let todo = "Write empty (a twin without properties, as edgeHub) or unavailable (503: ask later)";
                self.problem(OFFLINE_GET, format!("{text:?} is no answer"), todo);
                OfflineGet::Empty
            }
        };
        Relay {
            push_every: self.seconds("ReportedPropertiesSyncFrequencySecs", 5, 1, 3600),
            sync_at_least: self.seconds("MinTwinSyncPeriodSecs", 120, 1, 86_400),
            offline_get,
            ack_timeout: self.seconds("MessageAckTimeoutSecs", 30, 1, 3600),
        }
    }

    /// Nothing inside: the daemon's.
    fn trust_bundle(&mut self) -> Option<Vec<PathBuf>> {
        if self.is_by_daemon() && !self.is_set(BUNDLE) {
            self.take(BUNDLE, "by the IoT Edge daemon");
            return Some(Vec::new());
        }
        self.files_or_folders(
            BUNDLE,
            "a file or folder with the certificates of the CAs that devices come from",
        )
    }

    fn gateway_host_name(&mut self) -> Option<String> {
        const NAME: &str = "EdgeDeviceHostName";
        let Some(text) = self.take(NAME, "") else {
            self.problem(
                NAME,
                "it is not set",
                "Give the name by which devices reach this gateway, as in its certificate",
            );
            return None;
        };
        let fits = text.len() <= 253
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if !fits {
            self.problem(
                NAME,
                format!("{text:?} is no host name"),
                "Give the name alone, without scheme or port",
            );
        }
        Some(text)
    }

    /// The folder that is there and can be written to, `/edgeHub` appended.
    fn storage(&mut self) -> Option<PathBuf> {
        const NAME: &str = "StorageFolder";
        let Some(text) = self.take(NAME, "") else {
            self.problem(
                NAME,
                "it is not set (edgeHub would use the temporary folder and lose messages with it)",
                "Give an existing folder that outlives the container, for instance a bind mount",
            );
            return None;
        };
        let folder = PathBuf::from(text);
        if let Err(e) = writable(&folder) {
            let what = format!("{} cannot be used ({e})", folder.display());
            let user = crate::store::own_user();
            let todo = match e.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    format!("On the host, chown -R {user} the folder that is bound there")
                }
                _ => format!("Make the folder and let the gateway's user, {user}, write to it"),
            };
            self.problem(NAME, what, todo);
        }
        Some(folder.join("edgeHub"))
    }

    fn default_ttl(&mut self) -> u32 {
        let secs: i64 = self.number("storeAndForward__timeToLiveSecs", -1, -1, i64::from(u32::MAX));
        // Negative is for ever, which is our 0; 0 would expire everything at once, which nobody means.
        u32::try_from(secs).unwrap_or(0)
    }

    fn mqtt(&mut self) -> Mqtt {
        const ENABLED: &str = "mqttSettings__enabled";
        if !self.flag(ENABLED, true) {
            let what = "false leaves no front end: MQTT is the only one yet";
            self.problem(ENABLED, what, "Set it to true, or leave it out");
        }
        let clients_max = self.number("MaxConnectedClients", 100, 1, 1_000_000);
        let connections_max: u32 = self.number("mqttSettings__ConnectionsMax", 0, 0, 1_100_000);
        Mqtt {
            bind: Bind {
                host: self.host("mqttSettings__host"),
                port: self.number("mqttSettings__port", 8883, 0, u16::MAX),
            },
            inflight_max: self.number(
                "mqttSettings__MaxPendingInboundAcknowledgements",
                16,
                1,
                1024,
            ),
            packet_bytes_max: self.number(
                "mqttSettings__MaxInboundMessageSize",
                PACKET_BYTES_MAX,
                1024,
                PACKET_BYTES_MAX,
            ),
            connections_max: match connections_max {
                0 => clients_max + CONNECTIONS_SPARE,
                set => set,
            },
            handshake_timeout: self.seconds("mqttSettings__HandshakeTimeoutSecs", 30, 1, 3600),
            connect_timeout: self.span("mqttSettings__ConnectArrivalTimeout", 60, 3600),
            keep_alive_max: self.span("mqttSettings__MaxKeepAliveTimeout", 600, 86_400),
            clients_max,
            failures_per_min: self.number("mqttSettings__FailedConnectsPerMin", 120, 0, 100_000),
            ban_max: self.seconds("mqttSettings__BanMaxSecs", 60, 0, 3600),
            log_ins_per_min: self.number("mqttSettings__LogInsPerMin", 12, 0, 6000),
            packets_per_sec: self.number("mqttSettings__PacketsPerSecMax", 0, 0, 1_000_000),
        }
    }

    fn metrics(&mut self) -> MetricsListener {
        let enabled = self.flag("metrics__listener__MetricsEnabled", true);
        let host = self.host("metrics__listener__host");
        let port = self.number("metrics__listener__port", 9600, 0, u16::MAX);
        const SUFFIX: &str = "metrics__listener__suffix";
        let suffix = self.take(SUFFIX, "metrics").unwrap_or_else(|| "metrics".to_owned());
        let suffix = suffix.trim_matches('/').to_owned();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
        if suffix.is_empty()
            || !suffix.bytes().all(plain)
            || suffix.contains("//")
            || ["healthz", "readyz", "queues", "refusals", "dependents"].contains(&suffix.as_str())
        {
            self.problem(
                SUFFIX,
                format!("{suffix:?} is no path"),
                "Write letters, digits and - . _ ~ / such as metrics",
            );
        }
        let ids_max = self.number("metrics__idsMax", IDS_MAX, 1, 100_000);
        MetricsListener { enabled, bind: Bind { host, port }, suffix, ids_max }
    }

    fn log_level(&mut self) -> LogLevel {
        const NAME: &str = "RuntimeLogLevel";
        let text = self.take(NAME, "info").unwrap_or_default().to_ascii_lowercase();
        match text.as_str() {
            "fatal" => LogLevel::Fatal,
            "error" => LogLevel::Error,
            "warning" => LogLevel::Warning,
            "" | "info" => LogLevel::Info,
            "debug" => LogLevel::Debug,
            "verbose" => LogLevel::Verbose,
            // edgeAgent copies its own level here: a word of a later version must not keep the gateway from starting.
            _ => {
                let known = "fatal, error, warning, info, debug, verbose";
                self.warnings.push(format!(
                    "{NAME}: {text:?} is not known, info is used; write one of {known}"
                ));
                LogLevel::Info
            }
        }
    }

    fn log_format(&mut self) -> LogFormat {
        const NAME: &str = "RuntimeLogFormat";
        let text = self.take(NAME, "text").unwrap_or_default().to_ascii_lowercase();
        match text.as_str() {
            "" | "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => {
                let todo = "Write text (as edgeHub, for edgeAgent's log upload) or json";
                self.problem(NAME, format!("{text:?} is no form of the log"), todo);
                LogFormat::Text
            }
        }
    }

    fn upstream(&mut self, trust_bundle: Option<&[PathBuf]>) -> Option<Upstream> {
        const ROOTS: &str = "upstreamSettings__trustBundleFile";
        let amqp_port = self.number("upstreamSettings__amqpPort", 5671, 1, u16::MAX);
        let https_port = self.number("upstreamSettings__httpsPort", 443, 1, u16::MAX);
        let operation_timeout = self.seconds("CloudOperationTimeoutSecs", 20, 1, 3600);
        let token_ttl = self.seconds("upstreamSettings__sasLifetimeSecs", 3600, 5, 86_400);
        let window_messages = self.number("upstreamSettings__windowMessages", 1024, 16, 65_536);
        let close_idle = self.flag("CloseCloudConnectionOnIdleTimeout", true);
        let idle = self.seconds("CloudConnectionIdleTimeoutSecs", 3600, 1, 7 * 86_400);
        let extra_roots = if self.is_set(ROOTS) {
            Some(self.optional_file(ROOTS)?)
        } else {
            self.default_roots(ROOTS, trust_bundle?)
        };
        let idle_link_close = close_idle.then_some(idle);
        Some(Upstream {
            amqp_port,
            https_port,
            extra_roots,
            operation_timeout,
            idle_link_close,
            token_ttl,
            window_messages,
        })
    }

    /// What serves for the hub's certificate if nothing is said: two sets, but where the reference has one.
    fn default_roots(&mut self, roots: &'static str, trust_bundle: &[PathBuf]) -> Option<PathBuf> {
        if self.is_by_daemon() {
            self.take(roots, "by the IoT Edge daemon");
            if trust_bundle.is_empty() {
                self.warnings.push(format!(
                    "the IoT Edge daemon's trust bundle both admits devices and serves to check the hub's certificate; set \
                     {BUNDLE} (devices' CAs) or {roots} (the hub's) to keep them apart"
                ));
            }
            return None;
        }
        match trust_bundle {
            [path] if !path.is_dir() => {
                self.take(roots, BUNDLE);
                self.warnings.push(format!(
                    "{BUNDLE} also serves to check the hub's certificate; set {roots} to keep devices' CAs apart from the hub's"
                ));
                Some(path.clone())
            }
            // The reference knows no folders: nobody relies on that.
            _ => {
                self.take(roots, "the public ones alone");
                None
            }
        }
    }

    fn upstream_protocol(&mut self) {
        const NAME: &str = "UpstreamProtocol";
        let Some(text) = self.take(NAME, "Amqp") else {
            return;
        };
        if !text.eq_ignore_ascii_case("amqp") {
            self.warnings.push(format!(
                "{NAME}: {text:?} is not supported yet, AMQP is used; open port 5671 to the hub"
            ));
        }
    }

    fn store(&mut self) -> Store {
        let window = self.number("storeSettings__commitWindowMs", 0u64, 0, 100);
        let segment_bytes =
            self.optional_number("storeSettings__segmentBytes", "", 64 << 10, 1u64 << 30);
        let bytes_max = self.optional_number(
            "storeSettings__maxSizeBytes",
            "the volume",
            STORE_BYTES_MIN,
            BYTES_MAX,
        );
        let min_free_bytes =
            self.optional_number("storeSettings__minFreeBytes", "by the volume", 0, BYTES_MAX);
        Store {
            commit_window: Duration::from_millis(window),
            segment_bytes,
            bytes_max,
            min_free_bytes,
            when_full: self.when_full(),
            hold: self.seconds("storeSettings__holdSecs", 5, 0, 30),
            live_first: self.flag("storeSettings__liveFirst", false),
            dead_letter_bytes: self.number(
                "storeSettings__deadLetterBytes",
                DEAD_LETTER_BYTES,
                DEAD_LETTER_BYTES_MIN,
                BYTES_MAX,
            ),
        }
    }

    fn audit(&mut self) -> Option<Audit> {
        const BYTES: &str = "auditSettings__maxSizeBytes";
        let enabled = self.flag("auditSettings__enabled", false);
        if !enabled && self.is_set(BYTES) {
            let todo = "without effect, auditSettings__enabled is not true";
            self.warnings.push(format!("{BYTES}: {todo}"));
        }
        let bytes_max = self.number(BYTES, AUDIT_BYTES, AUDIT_BYTES_MIN, 1u64 << 30);
        enabled.then_some(Audit { bytes_max })
    }

    fn auth(&mut self) -> Auth {
        Auth {
            certificates: self.flag("ClientCertAuthEnabled", true),
            clock_skew: self.seconds(
                "authSettings__clockSkewSecs",
                CLOCK_SKEW_DEFAULT.as_secs(),
                0,
                3600,
            ),
            expired_leaf_grace: self.span_or_none("authSettings__expiredLeafGrace", GRACE_MAX),
            renewal_time: self.seconds("authSettings__renewalTimeSecs", 1800, 60, 86_400),
        }
    }

    fn when_full(&mut self) -> WhenFull {
        const NAME: &str = "storeSettings__whenFull";
        let text = self.take(NAME, "reject").unwrap_or_default().to_ascii_lowercase();
        match text.as_str() {
            "" | "reject" => WhenFull::Reject,
            "drop_oldest" => WhenFull::DropOldest,
            _ => {
                let todo = "Write reject (the device keeps its message) or drop_oldest";
                self.problem(NAME, format!("{text:?} is no policy"), todo);
                WhenFull::Reject
            }
        }
    }
}

/// Proves that a file can be made in `folder`.
fn writable(folder: &Path) -> std::io::Result<()> {
    if !std::fs::metadata(folder)?.is_dir() {
        return Err(std::io::Error::other("it is not a folder"));
    }
    let probe = folder.join(format!(".sphere-gateway-probe-{}", std::process::id()));
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(&probe)?;
    std::fs::remove_file(&probe)
}
