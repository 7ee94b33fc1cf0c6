//! What the binary says when it cannot start, and the quickstart as a user runs it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// All problems together, each with what to do, exit 64: those of the environment, then those of the files.
#[test]
fn bad_configuration_is_told_all_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let garbage = folder.path().join("garbage");
    std::fs::write(&garbage, "no certificate, no key, no JSON").expect("a file");
    let garbage = garbage.display().to_string();
    let storage = folder.path().display().to_string();
    let connection = "HostName=localhost;DeviceId=e;ModuleId=$edgeHub;SharedAccessKey=a2V5";
    let run = |command: &str, env: &[(&str, &str)]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sphere-gateway"))
            .arg(command)
            .env_clear()
            .envs(env.iter().copied())
            .output()
            .expect("the binary runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).expect("UTF-8"))
    };
    for command in ["run", "check"] {
        let (code, text) =
            run(command, &[("mqttSettings__port", "many"), ("IotHubConnectionString", "x")]);
        assert_eq!(code, Some(64), "{command}: {text}");
        for name in
            ["mqttSettings__port", "IotHubConnectionString", "StorageFolder", "EdgeDeviceHostName"]
        {
            assert!(text.contains(name), "{command} does not mention {name}:\n{text}");
        }
        let files = [
            ("IotHubConnectionString", connection),
            ("EdgeDeviceHostName", "gateway.example"),
            ("EdgeHubDevServerCertificateFile", &garbage),
            ("EdgeHubDevServerPrivateKeyFile", &garbage),
            ("EdgeHubDevTrustBundleFile", &garbage),
            ("edgeHubTwinFile", &garbage),
            ("StorageFolder", &storage),
        ];
        let (code, text) = run(command, &files);
        assert_eq!(code, Some(64), "{command}: {text}");
        for name in ["edgeHubTwinFile", "EdgeHubDevTrustBundleFile", "certificate"] {
            assert!(text.contains(name), "{command} does not mention {name}:\n{text}");
        }
        assert!(!text.contains("a2V5"), "the key is not shown:\n{text}");
    }
}

/// The example, which `cargo test` has built beside this test.
fn quickstart() -> PathBuf {
    let here = std::env::current_exe().expect("our own path");
    here.ancestors().nth(2).unwrap_or(Path::new(".")).join("examples/quickstart")
}

#[test]
fn the_quickstart_loses_nothing_and_says_so_in_json() {
    let output = Command::new(quickstart())
        .args(["--devices", "4", "--seconds", "6", "--rate", "20", "--json"])
        .output()
        .expect("`cargo test --workspace` builds the examples");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let last = text.lines().last().expect("a last line");
    let summary: serde_json::Value = serde_json::from_str(last).expect("one JSON object");
    let number = |name: &str| summary[name].as_u64().unwrap_or_else(|| panic!("{name} in {last}"));
    assert!(number("sent") > 0 && number("backlog") > 0, "{last}");
    assert_eq!(number("acked"), number("sent"));
    assert_eq!(number("delivered"), number("sent"));
    assert_eq!((number("lost"), number("reordered")), (0, 0));
    assert!(summary["duplicated"].is_u64());
}
