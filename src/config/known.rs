//! The reference's variables (`edgehub.md` 1.2, 1.3) and what this gateway does with each.
//!
//! Owns: the lists. The settings that are honoured are where they are read ([`super::reader`]).
//! Must not know: values.

use super::table::{Row, Standing};

const DURABLE: &str = "messages are always kept on disk before they are acknowledged";
const ENGINE: &str = "there is no RocksDB here; see storeSettings__*";
const NET: &str = "there is no DotNetty here: the front end sizes itself";
const BATCHES: &str = "batches fill up to the hub's 256 KB by themselves";
const PROBES: &str = "the upstream connection tells by itself when it is down";
const DAEMON: &str = "IotHubConnectionString is set: the IoT Edge daemon is not asked";
const OTHER_FRONT: &str = "there is no AMQP or HTTPS front end yet, only MQTT";
const TESTS: &str = "a test switch of the reference";
const CLEANUP: &str = "what is settled or expired is freed within seconds";
const SHUTDOWN: &str = "shutdown is bounded by design";

/// Variables of the reference that have no effect, with why. Those of the IoT Edge daemon have one when it is asked.
pub(super) const IGNORED: &[(&str, &str)] = &[
    ("IOTEDGE_WORKLOADURI", DAEMON),
    ("IOTEDGE_APIVERSION", DAEMON),
    ("IOTEDGE_AUTHSCHEME", DAEMON),
    ("IOTEDGE_MODULEGENERATIONID", DAEMON),
    ("IOTEDGE_IOTHUBHOSTNAME", DAEMON),
    ("IOTEDGE_DEVICEID", DAEMON),
    ("IOTEDGE_MODULEID", DAEMON),
    ("IOTEDGE_GATEWAYHOSTNAME", DAEMON),
    ("IOTEDGE_PARENTHOSTNAME", "for other modules than edgeHub"),
    (
        "EdgeModuleHubServerCertificateFile",
        "pfx files are not read: use EdgeHubDevServerCertificateFile (PEM)",
    ),
    (
        "EdgeModuleHubServerCAChainCertificateFile",
        "put the chain into EdgeHubDevServerCertificateFile, leaf first",
    ),
    ("OptimizeForPerformance", "the footprint is small either way"),
    ("usePersistentStorage", DURABLE),
    ("storeAndForwardEnabled", DURABLE),
    ("EnableNonPersistentStorageBackup", DURABLE),
    ("BackupFolder", DURABLE),
    ("MessageCleanupIntervalSecs", CLEANUP),
    ("CheckEntireQueueOnCleanup", CLEANUP),
    (
        "CloseCloudConnectionOnDeviceDisconnect",
        "links for telemetry close when idle, as queued messages may still need them; the others close at once",
    ),
    ("CloudConnectionHangingTimeoutSecs", "operations cannot hang past CloudOperationTimeoutSecs"),
    ("UseServerHeartbeat", "the heartbeat is always on"),
    ("ConnectivityCheckFrequencySecs", PROBES),
    ("TwinManagerVersion", "there is one way to keep twins"),
    ("EncryptTwinStore", "twins are kept as they are, readable by the gateway's user alone"),
    ("MaxUpstreamBatchSize", BATCHES),
    ("UpstreamFanOutFactor", BATCHES),
    (
        "CacheTokens",
        "tokens are judged here with the scope's keys, also while the hub is away: none needs to be remembered",
    ),
    (
        "AuthenticationMode",
        "certificates and tokens are always judged here, against the scope, as its value Scope does",
    ),
    ("TrackDeviceState", "a session always ends when its identity is removed or disabled"),
    ("NestedEdgeEnabled", "the nested scope API is always used"),
    ("ApiProxyModuleId", OTHER_FRONT),
    ("SslProtocols", "TLS 1.2 and 1.3 are offered, nothing older"),
    ("https_proxy", "not honoured yet: the hub is reached directly"),
    ("IotHubConnectionPoolSize", "one connection serves all identities"),
    ("ShutdownWaitPeriod", SHUTDOWN),
    ("protocolTimeoutInSecs", SHUTDOWN),
    ("ServerCertificateRenewAfterInMs", "the certificate is a file: nobody renews it"),
    ("MaxCheckCertExpiryInMs", "the certificate's age is looked at every minute"),
    ("EnableRoutingLogging", "use `sphere-gateway routes explain`"),
    ("EnableSdkDebugLogs", "use RuntimeLogLevel=debug"),
    ("RocksDB_MaxTotalWalSize", ENGINE),
    ("RocksDB_MaxManifestFileSize", ENGINE),
    ("RocksDB_MaxOpenFiles", ENGINE),
    ("Storage_LogLevel", ENGINE),
    ("experimentalFeatures__enabled", TESTS),
    ("experimentalFeatures__disableCloudSubscriptions", TESTS),
    ("experimentalFeatures__disableConnectivityCheck", TESTS),
    ("EDGEHUBUSER_ID", "the user is the container's"),
    ("MqttEventsProcessorThreadCount", NET),
    ("mqttSettings__ThreadCount", NET),
    ("mqttSettings__ListenBacklogSize", NET),
    ("mqttSettings__UsePooledBuffers", NET),
    ("mqttSettings__RetainPropertyName", "the names are fixed: mqtt-retain, mqtt-dup"),
    ("mqttSettings__DupPropertyName", "the names are fixed: mqtt-retain, mqtt-dup"),
    ("mqttSettings__QoSPropertyName", "the names are fixed: mqtt-retain, mqtt-dup"),
    (
        "mqttSettings__DefaultPublishToClientQoS",
        "messages to clients go at the QoS of their subscription",
    ),
    ("amqpSettings__enabled", OTHER_FRONT),
    ("amqpSettings__scheme", OTHER_FRONT),
    ("amqpSettings__port", OTHER_FRONT),
    ("httpSettings__enabled", OTHER_FRONT),
    ("httpSettings__port", OTHER_FRONT),
    ("metrics__listener__MetricsHistogramMaxAge", "summaries look back one hour"),
];

/// `rows`, and one for each variable of [`IGNORED`] that is not among them.
pub(super) fn with_unset(rows: &[Row]) -> Vec<Row> {
    let has = |name: &str| rows.iter().any(|row| row.is_for(name));
    let unset = IGNORED.iter().filter(|(name, _)| !has(name));
    let unset = unset.map(|(name, why)| Row::new(name, "", Standing::NotSet(why)));
    rows.iter().cloned().chain(unset).collect()
}

/// Starts of names that only settings of ours or the reference's have: such a name that nobody knows is a slip.
pub(super) const PREFIXES: &[&str] = &[
    "mqttsettings__",
    "amqpsettings__",
    "httpsettings__",
    "metrics__",
    "upstreamsettings__",
    "storesettings__",
    "twinsettings__",
    "auditsettings__",
    "authsettings__",
    "storeandforward",
    "experimentalfeatures__",
    "edgehub",
    "edgemodulehub",
    "devicescopecache",
    "cloudconnection",
    "iotedge_",
    "rocksdb_",
];

/// Words that make a variable's value a secret, whoever's it is.
pub(super) const SECRET_WORDS: &[&str] =
    &["connectionstring", "key", "secret", "password", "token"];
