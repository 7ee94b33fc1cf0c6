//! Promises of the configuration.

use std::path::Path;

use super::*;

mod daemon;
mod reference;

const KEY: &str = "c2VjcmV0LWtleS1vZi10aGUtaHVi";

/// A folder with everything that a good configuration names, and the environment that names it.
fn good(folder: &Path) -> MapEnv {
    for file in ["server.pem", "server.key", "cas.pem", "hub.pem"] {
        std::fs::write(folder.join(file), "x").unwrap();
    }
    let at = |file: &str| folder.join(file).display().to_string();
    MapEnv::default()
        .with(
            "IotHubConnectionString",
            format!("HostName=h.net;DeviceId=edge;ModuleId=$edgeHub;SharedAccessKey={KEY}"),
        )
        .with("EdgeDeviceHostName", "gateway.local")
        .with("EdgeHubDevServerCertificateFile", at("server.pem"))
        .with("EdgeHubDevServerPrivateKeyFile", at("server.key"))
        .with("EdgeHubDevTrustBundleFile", at("cas.pem"))
        .with("StorageFolder", folder.display().to_string())
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The problems of the good environment with one variable changed, as `name: what`.
fn problems_with(name: &str, value: &str) -> Vec<String> {
    let dir = folder();
    match Config::read(&good(dir.path()).with(name, value)) {
        Ok(_) => Vec::new(),
        Err(e) => e.problems.iter().map(|p| format!("{}: {}", p.name, p.what)).collect(),
    }
}

/// An examination goes on with what there is, and a start does not.
#[test]
fn what_is_wrong_keeps_an_examination_from_nothing_else() {
    let dir = folder();
    let wrong = good(dir.path())
        .with("StorageFolder", "/gone")
        .with("EdgeHubDevTrustBundleFile", "/gone/cas.pem")
        .with("mqttSettings__port", "many")
        .with("https_proxy", "http://user:secret@proxy:1");
    let (config, problems) = Config::read_loosely(&wrong);
    let config = config.expect("everything is named");
    assert_eq!(config.storage, Path::new("/gone/edgeHub"));
    assert_eq!(config.trust_bundle, [Path::new("/gone/cas.pem")]);
    assert_eq!(config.mqtt.bind.port, 8883);
    assert_eq!(config.honoured(), 7);
    let without: Vec<_> = config.without_effect().iter().map(|(name, _)| *name).collect();
    assert_eq!(without, ["https_proxy"]);
    let error = Config::read(&wrong).expect_err("a start ends");
    assert_eq!(error.problems, problems);
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(Config::read_loosely(&MapEnv::default()).0.is_none());
    let (config, problems) = Config::read_loosely(&good(dir.path()));
    assert!(config.is_some() && problems.is_empty());
}

#[test]
fn the_least_configuration_gets_the_references_defaults() {
    let dir = folder();
    let c = Config::read(&good(dir.path())).unwrap();
    assert_eq!(c.gateway_host_name, "gateway.local");
    assert_eq!(c.storage, dir.path().join("edgeHub"));
    assert_eq!((c.desired_file.clone(), c.default_ttl_secs), (None, 0));
    assert_eq!(
        c.mqtt,
        Mqtt {
            bind: Bind { host: None, port: 8883 },
            inflight_max: 16,
            packet_bytes_max: 262_144,
            connections_max: 612,
            handshake_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(60),
            keep_alive_max: Duration::from_secs(600),
            clients_max: 100,
            failures_per_min: 120,
            ban_max: Duration::from_secs(60),
            log_ins_per_min: 12,
            packets_per_sec: 0,
        }
    );
    assert_eq!(
        c.metrics,
        MetricsListener {
            enabled: true,
            bind: Bind { host: None, port: 9600 },
            suffix: "metrics".into(),
            ids_max: 1000,
        }
    );
    assert_eq!((c.log, c.log_format), (LogLevel::Info, LogFormat::Text));
    assert_eq!((c.upstream.amqp_port, c.upstream.https_port), (5671, 443));
    assert_eq!(c.upstream.operation_timeout, Duration::from_secs(20));
    assert_eq!(c.upstream.idle_link_close, Some(Duration::from_secs(3600)));
    assert_eq!(c.scope.every, Duration::from_secs(3600));
    assert_eq!(c.scope.on_demand_every, Duration::from_secs(120));
    assert_eq!(
        c.store,
        Store {
            commit_window: Duration::ZERO,
            segment_bytes: None,
            bytes_max: None,
            min_free_bytes: None,
            when_full: WhenFull::Reject,
            hold: Duration::from_secs(5),
            live_first: false,
            dead_letter_bytes: 16 << 20,
        }
    );
    assert_eq!(c.audit, None);
    // One warning: the devices' bundle also serves the hub connection.
    assert_eq!(c.trust_bundle, [dir.path().join("cas.pem")]);
    assert_eq!(c.upstream.extra_roots, Some(dir.path().join("cas.pem")));
    assert_eq!(c.warnings.len(), 1, "{:?}", c.warnings);
}

#[test]
fn every_setting_is_honoured_in_any_case_and_with_colons() {
    let dir = folder();
    let twin = dir.path().join("twin.json");
    std::fs::write(&twin, "{}").unwrap();
    let env = good(dir.path())
        .with("EDGEHUBTWINFILE", twin.display().to_string())
        .with("MQTTSETTINGS__PORT", "0")
        .with("mqttSettings:host", "[::1]")
        .with("mqttSettings__MaxPendingInboundAcknowledgements", "8")
        .with("mqttSettings__maxinboundmessagesize", "65536")
        .with("mqttSettings__ConnectArrivalTimeout", "00:00:30")
        .with("mqttSettings__MaxKeepAliveTimeout", "1.00:00:00")
        .with("MaxConnectedClients", " 1000 ")
        .with("Metrics__Listener__Port", "0")
        .with("metrics__listener__host", "*")
        .with("metrics:listener:suffix", "/a/metrics/")
        .with("metrics__idsMax", "5000")
        .with("metrics__listener__MetricsEnabled", "TRUE")
        .with("RuntimeLogLevel", "Verbose")
        .with("runtimelogformat", " JSON ")
        .with("upstreamSettings__amqpPort", "15671")
        .with("upstreamSettings__httpsPort", "10443")
        .with("upstreamSettings__trustBundleFile", dir.path().join("hub.pem").display().to_string())
        .with("CloudOperationTimeoutSecs", "5")
        .with("CloseCloudConnectionOnIdleTimeout", "false")
        .with("DeviceScopeCacheRefreshRateSecs", "60")
        .with("DeviceScopeCacheRefreshDelaySecs", "0")
        .with("storeSettings__commitWindowMs", "100")
        .with("storeSettings__segmentBytes", "65536")
        .with("storeSettings__maxSizeBytes", "4194304")
        .with("storeSettings__minFreeBytes", "0")
        .with("storeSettings__whenFull", "DROP_OLDEST")
        .with("storeSettings__holdSecs", "30")
        .with("storeSettings__liveFirst", "True")
        .with("storeSettings__deadLetterBytes", "1048576")
        .with("auditSettings__enabled", "true")
        .with("auditSettings__maxSizeBytes", "65536")
        .with("storeAndForward__timeToLiveSecs", "3600");
    let c = Config::read(&env).unwrap();
    assert_eq!((c.desired_file, c.metrics.enabled), (Some(twin), true));
    assert_eq!(c.mqtt.bind.candidates(), ["[::1]:0".parse().unwrap()]);
    let most = (c.mqtt.inflight_max, c.mqtt.packet_bytes_max, c.mqtt.clients_max);
    assert_eq!(most, (8, 65536, 1000));
    let mqtt = (c.mqtt.connect_timeout.as_secs(), c.mqtt.keep_alive_max.as_secs());
    assert_eq!(mqtt, (30, 86_400));
    let metrics = (c.metrics.bind.port, c.metrics.suffix.as_str(), c.metrics.ids_max);
    assert_eq!(metrics, (0, "a/metrics", 5000));
    assert_eq!((c.log, c.log_format), (LogLevel::Verbose, LogFormat::Json));
    assert_eq!((c.upstream.amqp_port, c.upstream.https_port), (15671, 10443));
    assert_eq!(c.upstream.extra_roots, Some(dir.path().join("hub.pem")));
    assert_eq!(c.upstream.operation_timeout, Duration::from_secs(5));
    assert_eq!(c.upstream.idle_link_close, None);
    assert_eq!((c.scope.every.as_secs(), c.scope.on_demand_every.as_secs()), (60, 0));
    assert_eq!(
        c.store,
        Store {
            commit_window: Duration::from_millis(100),
            segment_bytes: Some(65536),
            bytes_max: Some(4 << 20),
            min_free_bytes: Some(0),
            when_full: WhenFull::DropOldest,
            hold: Duration::from_secs(30),
            live_first: true,
            dead_letter_bytes: 1 << 20,
        }
    );
    assert_eq!(c.audit, Some(Audit { bytes_max: 65_536 }));
    assert_eq!(c.default_ttl_secs, 3600);
    assert_eq!(c.warnings, [""; 0]);
}

#[test]
fn routes_come_from_the_twin_unless_a_file_is_given() {
    let dir = folder();
    let file = dir.path().join("twin.json").display().to_string();
    let twin = |source: &str, file: &str| {
        let env = good(dir.path())
            .with("configSource", source)
            .with("edgeHubTwinFile", file)
            .with("ConfigRefreshFrequencySecs", "60")
            // Devices have twins in any case.
            .with("ReportedPropertiesSyncFrequencySecs", "7");
        let config = Config::read(&env).unwrap();
        let idle = config.warnings.iter().filter(|w| w.contains("without effect")).count();
        assert_eq!(idle, if config.twin.is_some() { 0 } else { 1 }, "{:?}", config.warnings);
        (config.twin.is_some(), config.warnings.iter().any(|w| w.starts_with("configSource: ")))
    };
    assert_eq!(twin("", ""), (true, false));
    assert_eq!(twin("Twin", ""), (true, false));
    assert_eq!(twin("local", ""), (false, false));
    assert_eq!(twin("", &file), (false, false));
    assert_eq!(twin("local", &file), (false, false));
    assert_eq!(twin("twin", &file), (false, true));
    assert_eq!(problems_with("configSource", "cloud"), ["configSource: \"cloud\" is no source"]);
    let env = good(dir.path()).with("ConfigRefreshFrequencySecs", "60");
    let expected =
        Twin { refresh_every: Duration::from_secs(60), report_every: Duration::from_secs(5) };
    assert_eq!(Config::read(&env).unwrap().twin, Some(expected));
}

#[test]
fn what_goes_both_ways_is_as_the_reference_has_it_unless_it_is_set() {
    let dir = folder();
    let relay = |env: MapEnv| Config::read(&env).unwrap().relay;
    let (secs, empty) = (Duration::from_secs, OfflineGet::Empty);
    let default = Relay {
        push_every: secs(5),
        sync_at_least: secs(120),
        offline_get: empty,
        ack_timeout: secs(30),
    };
    assert_eq!(relay(good(dir.path())), default);
    let env = good(dir.path())
        .with("ReportedPropertiesSyncFrequencySecs", "1")
        .with("MinTwinSyncPeriodSecs", "2")
        .with("MessageAckTimeoutSecs", "3")
        .with("twinSettings__offlineGet", "Unavailable");
    let expected = Relay {
        push_every: secs(1),
        sync_at_least: secs(2),
        offline_get: OfflineGet::Unavailable,
        ack_timeout: secs(3),
    };
    assert_eq!(relay(env), expected);
    let problem = ["twinSettings__offlineGet: \"no\" is no answer"];
    assert_eq!(problems_with("twinSettings__offlineGet", "no"), problem);
}

#[test]
fn an_empty_environment_is_told_completely() {
    let error = Config::read(&MapEnv::default()).unwrap_err();
    let names: Vec<&str> = error.problems.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "IotHubConnectionString",
            "EdgeDeviceHostName",
            "EdgeHubDevServerCertificateFile",
            "EdgeHubDevServerPrivateKeyFile",
            "EdgeHubDevTrustBundleFile",
            "StorageFolder",
        ]
    );
    let text = error.to_string();
    assert!(text.starts_with("6 problems in the configuration:\n- IotHubConnectionString: it is not set. Set it to HostName="));
    assert!(error.problems.iter().all(|p| !p.todo.is_empty()));
}

#[test]
fn all_problems_are_told_together() {
    let dir = folder();
    let env = good(dir.path())
        .with("mqttSettings__port", "70000")
        .with("StorageFolder", "/nowhere/at/all")
        .with("mqttSettings__ConnectArrivalTimeout", "60")
        .with("mqttSettings__enabled", "yes");
    let error = Config::read(&env).unwrap_err();
    let names: Vec<&str> = error.problems.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "StorageFolder",
            "mqttSettings__enabled",
            "mqttSettings__port",
            "mqttSettings__ConnectArrivalTimeout"
        ]
    );
}

/// An environment with a value that is not UTF-8.
struct NotUtf8(MapEnv, &'static str);

impl Env for NotUtf8 {
    fn vars(&self) -> Vec<(String, String)> {
        self.0.clone().with(self.1, "\u{fffd}").vars()
    }

    fn not_utf8(&self) -> Vec<String> {
        vec![self.1.to_owned()]
    }
}

/// It does not count as not set, and there is one problem, whatever follows from it.
#[test]
fn a_value_that_is_not_utf8_is_a_problem() {
    let dir = folder();
    for name in [
        "maxConnectedClients",
        "StorageFolder",
        "IotHubConnectionString",
        "EdgeHubDevTrustBundleFile",
        "EdgeHubDevServerCertificateFile",
        "upstreamSettings__trustBundleFile",
        "edgeHubTwinFile",
        "RuntimeLogLevel",
        "storeSettings:maxSizeBytes",
    ] {
        let error = Config::read(&NotUtf8(good(dir.path()), name)).unwrap_err();
        let told: Vec<_> = error.problems.iter().map(|p| (&p.name, p.what.as_str())).collect();
        let [(told, "its value is not UTF-8")] = told[..] else { panic!("{name}: {told:?}") };
        assert!(told.replace(':', "__").eq_ignore_ascii_case(&name.replace(':', "__")), "{told}");
    }
    // Other people's variables are theirs.
    Config::read(&NotUtf8(good(dir.path()), "LS_COLORS")).expect("it is good");
}

/// The log serves to tell what is wrong, so nothing that is wrong keeps it from being read.
#[test]
fn the_log_is_read_on_its_own() {
    for (level, format, expected) in [
        ("", "", (LogLevel::Info, LogFormat::Text)),
        ("debug", "JSON", (LogLevel::Debug, LogFormat::Json)),
        ("loud", "xml", (LogLevel::Info, LogFormat::Text)),
        ("error", "xml", (LogLevel::Error, LogFormat::Text)),
    ] {
        let env = MapEnv::default().with("RuntimeLogLevel", level).with("RuntimeLogFormat", format);
        assert_eq!(Config::log_of(&env), expected);
    }
}

#[rustfmt::skip]
#[test]
fn bad_values() {
    let table = [
        ("mqttSettings__port", "x", "mqttSettings__port: \"x\" is out of range or no whole number"),
        ("mqttSettings__port", "-1", "mqttSettings__port: \"-1\" is out of range or no whole number"),
        ("mqttSettings__host", "gateway", "mqttSettings__host: \"gateway\" is no IP address"),
        ("mqttSettings__MaxInboundMessageSize", "262145", "mqttSettings__MaxInboundMessageSize: \"262145\" is out of range or no whole number"),
        ("mqttSettings__MaxKeepAliveTimeout", "00:99:00", "mqttSettings__MaxKeepAliveTimeout: \"00:99:00\" is no time span, or out of range"),
        ("upstreamSettings__amqpPort", "0", "upstreamSettings__amqpPort: \"0\" is out of range or no whole number"),
        ("upstreamSettings__trustBundleFile", "/nowhere", "upstreamSettings__trustBundleFile: /nowhere cannot be read (No such file or directory (os error 2))"),
        ("storeSettings__commitWindowMs", "101", "storeSettings__commitWindowMs: \"101\" is out of range or no whole number"),
        ("storeSettings__segmentBytes", "1", "storeSettings__segmentBytes: \"1\" is out of range or no whole number"),
        // Judged at the start, where the last good document may serve in its place.
        ("edgeHubTwinFile", "/nowhere", ""),
        ("EdgeHubDevTrustBundleFile", "/nowhere", "EdgeHubDevTrustBundleFile: /nowhere cannot be read (No such file or directory (os error 2))"),
        ("EdgeDeviceHostName", "https://gw:8883", "EdgeDeviceHostName: \"https://gw:8883\" is no host name"),
        ("metrics__listener__suffix", "healthz", "metrics__listener__suffix: \"healthz\" is no path"),
        ("metrics__listener__suffix", "readyz", "metrics__listener__suffix: \"readyz\" is no path"),
        ("metrics__listener__suffix", "queues", "metrics__listener__suffix: \"queues\" is no path"),
        ("metrics__listener__suffix", "a{b}", "metrics__listener__suffix: \"a{b}\" is no path"),
        ("IotHubConnectionString", "HostName=h.net;DeviceId=e;ModuleId=m;SharedAccessKey=a2V5", "IotHubConnectionString: its ModuleId is not $edgeHub"),
        ("storeSettings__maxSizeBytes", "4194303", "storeSettings__maxSizeBytes: \"4194303\" is out of range or no whole number"),
        ("storeSettings__whenFull", "drop", "storeSettings__whenFull: \"drop\" is no policy"),
        ("storeSettings__holdSecs", "31", "storeSettings__holdSecs: \"31\" is out of range or no whole number"),
        ("storeSettings__liveFirst", "yes", "storeSettings__liveFirst: \"yes\" is no truth value"),
        ("storeSettings__deadLetterBytes", "1", "storeSettings__deadLetterBytes: \"1\" is out of range or no whole number"),
        ("auditSettings__maxSizeBytes", "65535", "auditSettings__maxSizeBytes: \"65535\" is out of range or no whole number"),
        ("metrics__listener__suffix", "refusals", "metrics__listener__suffix: \"refusals\" is no path"),
        ("MaxConnectedClients", "0", "MaxConnectedClients: \"0\" is out of range or no whole number"),
        ("RuntimeLogLevel", "chatty", ""),
        ("metrics__idsMax", "0", "metrics__idsMax: \"0\" is out of range or no whole number"),
        ("RuntimeLogFormat", "xml", "RuntimeLogFormat: \"xml\" is no form of the log"),
        ("UpstreamProtocol", "MqttWs", ""),
        ("mqttSettings__port", "  ", ""),
    ];
    for (name, value, expected) in table {
        assert_eq!(
            problems_with(name, value).join("; "),
            expected,
            "{name}={value}"
        );
    }
}

#[test]
fn how_clients_are_let_in_can_be_set_within_bounds() {
    let dir = folder();
    let auth = |env: MapEnv| Config::read(&env).unwrap().auth;
    let default = Auth {
        certificates: true,
        clock_skew: Duration::from_secs(300),
        expired_leaf_grace: Duration::ZERO,
        renewal_time: Duration::from_secs(1800),
    };
    assert_eq!(auth(good(dir.path())), default);
    let set = good(dir.path())
        .with("ClientCertAuthEnabled", "False")
        .with("authSettings__clockSkewSecs", "0")
        .with("authSettings__expiredLeafGrace", "3.00:00:00")
        .with("authSettings__renewalTimeSecs", "60");
    let expected = Auth {
        certificates: false,
        clock_skew: Duration::ZERO,
        expired_leaf_grace: Duration::from_secs(3 * 86_400),
        renewal_time: Duration::from_secs(60),
    };
    assert_eq!(auth(set), expected);
    for (name, value, is_good) in [
        ("authSettings__expiredLeafGrace", "00:00:00", true),
        ("authSettings__expiredLeafGrace", "14.00:00:00", true),
        ("authSettings__expiredLeafGrace", "14.00:00:01", false),
        ("authSettings__expiredLeafGrace", "72", false),
        ("authSettings__clockSkewSecs", "3601", false),
        ("authSettings__renewalTimeSecs", "59", false),
    ] {
        assert_eq!(problems_with(name, value).is_empty(), is_good, "{name}={value}");
    }
}

#[test]
fn what_is_tolerated_is_warned_about() {
    let dir = folder();
    let env = good(dir.path())
        .with("RuntimeLogLevel", "chatty")
        .with("UpstreamProtocol", "MqttWs")
        .with("mqttSettings__prot", "1883");
    let warnings = Config::read(&env).unwrap().warnings.join("\n");
    for part in [
        "RuntimeLogLevel: \"chatty\" is not known, info is used",
        "UpstreamProtocol: \"MqttWs\" is not supported yet, AMQP is used",
        "mqttSettings__prot: unknown setting, without effect: did you mean mqttSettings__port?",
    ] {
        assert!(warnings.contains(part), "{part} in {warnings}");
    }
}

#[test]
fn two_spellings_with_two_values_are_a_problem() {
    let got = problems_with("MQTTSETTINGS__PORT", "1");
    assert!(got.is_empty(), "one spelling alone is fine: {got:?}");
    let dir = folder();
    let env = good(dir.path()).with("mqttSettings__port", "1").with("mqttSettings:port", "2");
    let error = Config::read(&env).unwrap_err();
    assert_eq!(error.problems[0].what, "it is also given as mqttSettings:port, with another value");
}

#[test]
fn the_table_tells_honoured_ignored_and_unknown() {
    let dir = folder();
    let env = good(dir.path())
        .with("OptimizeForPerformance", "false")
        .with("MaxUpstreamBatchSize", "10")
        .with("IOTEDGE_DEVICEID", "edge")
        .with("mqttSettings__port", "0")
        .with("storeSettings__colour", "red")
        .with("PATH", "/bin")
        .with("HOME", "/root");
    let table = Config::read(&env).unwrap().table();
    let row = |name: &str| -> String {
        let line = table.lines().find(|l| l.starts_with(name)).unwrap_or_default();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("mqttSettings__port"), "0 honoured");
    assert_eq!(row("metrics__listener__port"), "9600 default");
    assert_eq!(row("OptimizeForPerformance"), "false ignored: the footprint is small either way");
    assert_eq!(
        row("MaxUpstreamBatchSize"),
        "10 ignored: batches fill up to the hub's 256 KB by themselves"
    );
    assert!(row("IOTEDGE_DEVICEID").starts_with("edge ignored: IotHubConnectionString is set"));
    assert_eq!(row("storeSettings__colour"), "red unknown");
    assert_eq!(row("PATH") + &row("HOME"), "");
}

#[test]
fn the_references_variables_of_a_pi_deployment_are_accepted_without_a_warning() {
    let dir = folder();
    let env = good(dir.path())
        .with("OptimizeForPerformance", "false")
        .with("mqttSettings__enabled", "true")
        .with("amqpSettings__enabled", "false")
        .with("httpSettings__enabled", "false")
        .with("UpstreamProtocol", "Amqp")
        .with(
            "upstreamSettings__trustBundleFile",
            dir.path().join("hub.pem").display().to_string(),
        );
    assert_eq!(Config::read(&env).unwrap().warnings, [""; 0]);
}

#[test]
fn secrets_are_shown_nowhere() {
    let dir = folder();
    let long = "x".repeat(200);
    let env = good(dir.path())
        .with("EdgeHubApiToken", KEY)
        .with("iotedge_password", KEY)
        .with("edgeHubConnectionString2", format!("junk-{KEY};SharedAccessSignature={KEY}"))
        .with("https_proxy", format!("http://user:{KEY}@proxy:8080/"))
        .with("edgeHubNote", long.as_str());
    let config = Config::read(&env).unwrap();
    let table = config.table();
    assert!(!table.contains(KEY), "{table}");
    assert!(table.contains("SharedAccessKey=****"), "{table}");
    assert!(table.contains("http://****@proxy:8080/"), "{table}");
    assert!(!table.contains(&long));
    assert!(!format!("{config:?}").contains(KEY));
    let broken = good(dir.path()).with("IotHubConnectionString", format!("SharedAccessKey={KEY}"));
    let error = Config::read(&broken).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(KEY));
}

#[test]
fn the_storage_folder_is_left_as_it_was() {
    let dir = folder();
    let env = good(dir.path());
    let before = std::fs::read_dir(dir.path()).unwrap().count();
    Config::read(&env).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), before);
}

#[test]
fn the_devices_cas_are_files_and_folders_and_a_folder_is_never_for_the_hub() {
    const BUNDLE: &str = "EdgeHubDevTrustBundleFile";
    let dir = folder();
    let here = |name: &str| dir.path().join(name);
    std::fs::create_dir(here("tenant")).unwrap();
    let (file, tenant) = (here("cas.pem").display().to_string(), here("tenant"));
    let tenant = tenant.display().to_string();
    let read = |value: &str| Config::read(&good(dir.path()).with(BUNDLE, value));
    for (value, paths, is_for_the_hub) in [
        (file.clone(), vec![here("cas.pem")], true),
        (tenant.clone(), vec![here("tenant")], false),
        (format!(" {tenant} ; {file};"), vec![here("tenant"), here("cas.pem")], false),
    ] {
        let c = read(&value).unwrap();
        assert_eq!(c.trust_bundle, paths);
        assert_eq!(c.upstream.extra_roots.is_some(), is_for_the_hub, "{value}");
        assert_eq!(c.warnings.len(), usize::from(is_for_the_hub), "{:?}", c.warnings);
    }
    for (value, expected) in [
        (format!("{tenant};/nowhere"), "/nowhere cannot be read"),
        (";".to_owned(), "it has 0 paths"),
        (vec![&*tenant; 17].join(";"), "it has 17 paths"),
    ] {
        let error = read(&value).unwrap_err();
        assert_eq!((error.problems.len(), &*error.problems[0].name), (1, BUNDLE));
        assert!(error.problems[0].what.contains(expected), "{error}");
    }
}
