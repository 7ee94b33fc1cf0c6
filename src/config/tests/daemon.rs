//! Started by the IoT Edge daemon.

use super::*;
use crate::edged::Address;

/// What the daemon and edgeAgent set, and a storage folder.
fn by_daemon(folder: &Path) -> MapEnv {
    MapEnv::default()
        .with("IOTEDGE_WORKLOADURI", "unix:///var/run/iotedge/workload.sock")
        .with("IOTEDGE_APIVERSION", "2022-08-03")
        .with("IOTEDGE_AUTHSCHEME", "sasToken")
        .with("IOTEDGE_MODULEGENERATIONID", "638000000000000000")
        .with("IOTEDGE_IOTHUBHOSTNAME", "contoso.azure-devices.net")
        .with("IOTEDGE_DEVICEID", "edge-1")
        .with("IOTEDGE_MODULEID", "$edgeHub")
        .with("EdgeDeviceHostName", "gateway.local")
        .with("RuntimeLogLevel", "info")
        .with("StorageFolder", folder.display().to_string())
}

fn names(error: &ConfigError) -> Vec<&str> {
    error.problems.iter().map(|p| p.name.as_str()).collect()
}

#[test]
fn what_the_daemon_sets_is_enough() {
    let dir = folder();
    let c = Config::read(&by_daemon(dir.path())).unwrap();
    let daemon = Daemon {
        address: Address::Unix("/var/run/iotedge/workload.sock".into()),
        announced_version: Some("2022-08-03".into()),
        generation: "638000000000000000".into(),
        renew_after_max: None,
    };
    assert_eq!(
        c.connection,
        Connection {
            host_name: "contoso.azure-devices.net".into(),
            device: DeviceId::parse("edge-1").unwrap(),
            module: ModuleId::parse("$edgeHub").unwrap(),
            gateway_host_name: None,
            credentials: Credentials::Daemon(daemon),
        }
    );
    assert_eq!(c.server, ServerSource::Daemon);
    assert!(c.trust_bundle.is_empty() && c.upstream.extra_roots.is_none());
    // One warning: the bundle serves both devices and the hub.
    assert_eq!(c.warnings.len(), 1, "{:?}", c.warnings);
    let table = c.table();
    let honoured = ["WORKLOADURI", "APIVERSION", "AUTHSCHEME", "MODULEGENERATIONID", "DEVICEID"];
    for name in honoured {
        let line = table.lines().find(|l| l.starts_with(&format!("IOTEDGE_{name}"))).unwrap();
        assert!(line.ends_with("honoured"), "{line}");
    }
}

#[test]
fn files_win_over_what_the_daemon_gives() {
    let dir = folder();
    let files = good(dir.path());
    let mut env = by_daemon(dir.path());
    for name in [
        "EdgeHubDevTrustBundleFile",
        "EdgeHubDevServerCertificateFile",
        "EdgeHubDevServerPrivateKeyFile",
    ] {
        env = env.with(name, files.0[name].clone());
    }
    let c = Config::read(&env.clone().with("ServerCertificateRenewAfterInMs", "500")).unwrap();
    assert_eq!(c.trust_bundle, [dir.path().join("cas.pem")]);
    assert_eq!(c.upstream.extra_roots, None);
    assert!(matches!(c.server, ServerSource::Files(_)));
    assert_eq!(c.warnings, [""; 0]);
    let Credentials::Daemon(daemon) = &c.connection.credentials else { panic!("the daemon signs") };
    assert_eq!(daemon.renew_after_max, Some(Duration::from_millis(500)));

    let all = MapEnv(env.0.into_iter().chain(files.0).collect());
    let c = Config::read(&all).unwrap();
    assert!(matches!(c.connection.credentials, Credentials::Key(_)), "a connection string wins");
    assert_eq!(c.connection.host_name, "h.net");
}

#[test]
fn what_is_missing_is_told_together() {
    let env = MapEnv::default().with("IOTEDGE_WORKLOADURI", "unix:///s");
    let error = Config::read(&env).unwrap_err();
    let expected = [
        "IOTEDGE_MODULEGENERATIONID",
        "IOTEDGE_IOTHUBHOSTNAME",
        "IOTEDGE_DEVICEID",
        "IOTEDGE_MODULEID",
        "EdgeDeviceHostName",
        "StorageFolder",
    ];
    assert_eq!(names(&error), expected);
    assert!(error.whole_table().contains("IOTEDGE_WORKLOADURI"), "{}", error.whole_table());
    let env = MapEnv::default().with("IOTEDGE_DEVICEID", "edge-1");
    assert_eq!(names(&Config::read(&env).unwrap_err())[0], "IOTEDGE_WORKLOADURI");
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let dir = folder();
    let check = |name: &str, value: &str, expected: &str| {
        let problems = match Config::read(&by_daemon(dir.path()).with(name, value)) {
            Ok(_) => Vec::new(),
            Err(e) => e.problems.iter().map(|p| format!("{}: {}", p.name, p.what)).collect(),
        };
        assert_eq!(problems.join("; "), expected, "{name}={value}");
    };
    check(
        "IOTEDGE_GATEWAYHOSTNAME",
        "parent.local",
        "IOTEDGE_GATEWAYHOSTNAME: \"parent.local\" is a parent gateway: nested gateways are not supported yet",
    );
    check("IOTEDGE_GATEWAYHOSTNAME", "GATEWAY.local", "");
    check(
        "IOTEDGE_MODULEID",
        "mine",
        "IOTEDGE_MODULEID: it is not $edgeHub, and only that module may speak for devices",
    );
    check(
        "IOTEDGE_WORKLOADURI",
        "fd://x",
        "IOTEDGE_WORKLOADURI: \"fd://x\" cannot be used: it is neither unix://PATH nor http://HOST:PORT",
    );
    check("IOTEDGE_AUTHSCHEME", "x509", "IOTEDGE_AUTHSCHEME: \"x509\" is not supported");
    check("IOTEDGE_AUTHSCHEME", "SASTOKEN", "");
    check(
        "IOTEDGE_IOTHUBHOSTNAME",
        "https://h",
        "IOTEDGE_IOTHUBHOSTNAME: \"https://h\" cannot be used: it is no host name",
    );
}
