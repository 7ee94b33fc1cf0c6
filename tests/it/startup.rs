//! What the binary says when it cannot start, and the quickstart as a user runs it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{BINARY, World};

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

/// A start as root (`User` in createOptions, once) leaves folders that the image's user cannot write to. `check` and the start
/// say so, and what to do. Only root can play this.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_as_root_left_is_told_with_what_to_do() {
    const USER: &str = "13623:13623";
    let world = World::new(1).await;
    let site = world.beside("").display().to_string();
    let storage = world.volume().join("edgeHub");
    let shell = |script: &str| {
        let done = Command::new("sh").args(["-ec", script]).output().expect("sh");
        done.status.success()
    };
    let as_user = "setpriv --reuid=13623 --regid=13623 --clear-groups --";
    // The other user must reach the binary where it was built, too.
    if !shell(&format!("chown -R {USER} {site} && {as_user} {BINARY} --version")) {
        return;
    }
    let run = |argument: &str| {
        let mut words = as_user.split(' ').chain([BINARY, argument]);
        let mut command = Command::new(words.next().expect("a program"));
        let output = world.with_environment(command.args(words)).output().expect("util-linux");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).expect("UTF-8"))
    };
    for folders in ["edgeHub", "edgeHub/queues", "edgeHub/queues/iothub.10"] {
        let folder = world.volume().join(folders);
        let made = format!(
            "mkdir -p {0} && chown -R {USER} {site} && chown root {0} && chmod 700 {0}",
            folder.display()
        );
        assert!(shell(&made), "{made}");
        let (code, text) = tokio::task::block_in_place(|| run("check"));
        assert_eq!(code, Some(1), "{folders}: {text}");
        let chown = format!("chown -R {USER} the folder that is bound to StorageFolder");
        assert!(text.contains(&chown) && text.contains(&folder.display().to_string()), "{text}");
        let (code, text) = tokio::task::block_in_place(|| run("run"));
        assert_eq!(code, Some(1), "{folders}: {text}");
        assert!(text.contains("cannot open the store") && text.contains(&chown), "{text}");
        std::fs::remove_dir_all(&storage).expect("root may");
    }
    world.end().await;
}

/// What a log collector sees of a configuration that is refused: heads or objects, nothing beside them.
#[test]
fn a_configuration_that_is_refused_is_told_in_the_log() {
    let log = |env: &[(&str, &str)]| -> Vec<String> {
        let output = Command::new(env!("CARGO_BIN_EXE_sphere-gateway"))
            .arg("run")
            .env_clear()
            .envs([("MaxConnectedClients", "x"), ("mqttSettings__Colour", "red")])
            .envs(env.iter().copied())
            .output()
            .expect("the binary runs");
        assert_eq!((output.status.code(), output.stderr), (Some(64), vec![]));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.lines().map(str::to_owned).collect()
    };
    let problem = "MaxConnectedClients: \"x\" is out of range or no whole number. Write 1 to ";

    let json: Vec<serde_json::Value> = log(&[("RuntimeLogFormat", "json")])
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let has = |level: &str, part: &str| {
        let is = |line: &serde_json::Value| {
            line["level"] == level && line["message"].as_str().is_some_and(|m| m.contains(part))
        };
        assert!(json.iter().any(is), "{level} {part}: {json:#?}");
    };
    has("error", problem);
    has("error", "IotHubConnectionString: it is not set");
    has("error", "not started: 7 problems in the configuration");
    has("warning", "mqttSettings__Colour: unknown setting");
    has("info", "honoured");

    // Also what is wrong with the log itself.
    let text = log(&[("RuntimeLogFormat", "xml"), ("RuntimeLogLevel", "loud")]);
    for line in &text {
        // <6> 2026-01-02 03:04:05.678 +00:00 [INF]
        assert!(line.starts_with('<') && line.get(34..36) == Some(" ["), "{line:?}");
    }
    for (head, tail) in [
        ("<3> ", format!(" [ERR] - {problem}")),
        ("<3> ", " [ERR] - RuntimeLogFormat: \"xml\" is no form of the log".to_owned()),
        ("<4> ", " [WRN] - RuntimeLogLevel: \"loud\" is not known".to_owned()),
        ("<6> ", " [INF] - MaxConnectedClients ".to_owned()),
    ] {
        let is = |line: &String| line.starts_with(head) && line[34..].starts_with(&tail);
        assert!(text.iter().any(is), "{tail}: {text:#?}");
    }
}

/// It is not as if it were not set.
#[test]
fn a_value_that_is_not_utf8_is_told() {
    for command in [&["run"][..], &["check"], &["check", "--env"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_sphere-gateway"))
            .args(command)
            .env_clear()
            .env("MaxConnectedClients", OsStr::from_bytes(b"10\xff"))
            .env("LS_COLORS", OsStr::from_bytes(b"\xff"))
            .output()
            .expect("the binary runs");
        let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
        assert_eq!(output.status.code(), Some(64), "{command:?}: {text}");
        let of_ours = text.contains("MaxConnectedClients: its value is not UTF-8");
        assert!(of_ours && !text.contains("LS_COLORS"), "{command:?}: {text}");
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
    let ways = &summary["both_ways"];
    assert_eq!(ways["not_done"], serde_json::json!([]), "{last}");
    for (when, what) in [
        ("before", "desired_told"),
        ("before", "methods_answered"),
        ("outage", "patches_taken"),
        ("on_return", "patches_arrived"),
        ("on_return", "desired_told"),
        ("on_return", "messages_taken"),
        ("after", "desired_told"),
        ("after", "methods_answered"),
    ] {
        assert_eq!(ways[when][what]["devices"], 4, "{when} {what}: {last}");
    }
    assert_eq!(ways["on_return"]["desired_in_one_patch"], 4, "{last}");
    let lines = ["were told them in one patch", "answered a method call of the cloud"];
    assert!(lines.iter().all(|line| text.contains(line)), "{text}");
}
