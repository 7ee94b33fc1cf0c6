//! The names of the reference: each is honoured, or ignored with a reason.

use super::super::known::IGNORED;
use super::*;

/// `edgehub.md` 1.2 and 1.3, all of them.
const REFERENCE: &str = "
    IOTEDGE_WORKLOADURI IOTEDGE_APIVERSION IOTEDGE_AUTHSCHEME IOTEDGE_MODULEGENERATIONID IOTEDGE_IOTHUBHOSTNAME
    IOTEDGE_DEVICEID IOTEDGE_MODULEID EdgeDeviceHostName IOTEDGE_GATEWAYHOSTNAME IOTEDGE_PARENTHOSTNAME RuntimeLogLevel
    UpstreamProtocol IotHubConnectionString EdgeHubDevServerCertificateFile EdgeHubDevServerPrivateKeyFile
    EdgeHubDevTrustBundleFile EdgeModuleHubServerCertificateFile EdgeModuleHubServerCAChainCertificateFile
    OptimizeForPerformance usePersistentStorage StorageFolder BackupFolder EnableNonPersistentStorageBackup
    storeAndForwardEnabled storeAndForward__timeToLiveSecs MaxConnectedClients MessageAckTimeoutSecs
    MessageCleanupIntervalSecs CheckEntireQueueOnCleanup CloudConnectionIdleTimeoutSecs CloseCloudConnectionOnIdleTimeout
    CloseCloudConnectionOnDeviceDisconnect CloudOperationTimeoutSecs CloudConnectionHangingTimeoutSecs UseServerHeartbeat
    ConnectivityCheckFrequencySecs MinTwinSyncPeriodSecs ReportedPropertiesSyncFrequencySecs TwinManagerVersion
    MaxUpstreamBatchSize UpstreamFanOutFactor EncryptTwinStore ConfigRefreshFrequencySecs configSource CacheTokens
    AuthenticationMode TrackDeviceState NestedEdgeEnabled ApiProxyModuleId DeviceScopeCacheRefreshRateSecs
    DeviceScopeCacheRefreshDelaySecs ClientCertAuthEnabled SslProtocols https_proxy IotHubConnectionPoolSize
    ShutdownWaitPeriod protocolTimeoutInSecs ServerCertificateRenewAfterInMs MaxCheckCertExpiryInMs EnableRoutingLogging
    EnableSdkDebugLogs RocksDB_MaxTotalWalSize RocksDB_MaxManifestFileSize RocksDB_MaxOpenFiles Storage_LogLevel
    experimentalFeatures__enabled experimentalFeatures__disableCloudSubscriptions
    experimentalFeatures__disableConnectivityCheck EDGEHUBUSER_ID MqttEventsProcessorThreadCount mqttSettings__enabled
    mqttSettings__port mqttSettings__MaxPendingInboundAcknowledgements mqttSettings__MaxInboundMessageSize
    mqttSettings__ConnectArrivalTimeout mqttSettings__MaxKeepAliveTimeout mqttSettings__RetainPropertyName
    mqttSettings__DupPropertyName mqttSettings__QoSPropertyName mqttSettings__DefaultPublishToClientQoS
    mqttSettings__ThreadCount mqttSettings__ListenBacklogSize mqttSettings__UsePooledBuffers amqpSettings__enabled
    amqpSettings__scheme amqpSettings__port httpSettings__enabled httpSettings__port metrics__listener__MetricsEnabled
    metrics__listener__port metrics__listener__suffix metrics__listener__host metrics__listener__MetricsHistogramMaxAge";

#[test]
fn each_name_of_the_reference_is_in_the_whole_table_with_what_becomes_of_it() {
    let dir = folder();
    let config = Config::read(&good(dir.path())).unwrap();
    let table = config.whole_table();
    for name in REFERENCE.split_whitespace() {
        let of_name = |l: &&str| l.split_whitespace().next() == Some(name);
        let lines: Vec<&str> = table.lines().filter(of_name).collect();
        let [line] = lines[..] else { panic!("{name}: {lines:?}") };
        let ends = line.ends_with("honoured") || line.ends_with("default");
        assert!(ends || line.contains("not set, ignored if it were: "), "{line}");
    }
    assert!(table.starts_with(&config.table()[..20]));
}

#[test]
fn no_name_is_both_honoured_and_ignored() {
    let dir = folder();
    let config = Config::read(&good(dir.path())).unwrap();
    let table = config.table();
    let honoured: Vec<&str> =
        table.lines().filter_map(|line| line.split_whitespace().next()).collect();
    for (name, why) in IGNORED {
        assert!(!honoured.iter().any(|h| h.eq_ignore_ascii_case(name)), "{name}");
        assert!(!why.is_empty() && REFERENCE.split_whitespace().any(|n| n == *name), "{name}");
    }
}

/// What the reference's modes of log-in come to here, where certificates and tokens are both judged.
#[test]
fn the_reasons_are_of_a_gateway_with_tokens() {
    for (name, part) in [
        ("CacheTokens", "tokens are judged here with the scope's keys"),
        ("AuthenticationMode", "certificates and tokens are always judged here, against the scope"),
        ("TrackDeviceState", "ends when its identity is removed or disabled"),
        ("EnableRoutingLogging", "sphere-gateway routes explain"),
    ] {
        let (_, why) = IGNORED.iter().find(|(known, _)| *known == name).unwrap();
        assert!(why.contains(part), "{name}: {why}");
    }
}
