//! `check`: a healthy site has no error, and each planted fault turns its own line to error, with what to do.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use sphere_gateway::certs::Window;
use sphere_gateway::clock::{self, UnixMillis};
use sphere_gateway::gateway::Gateway;

use crate::process::scrape;
use crate::support::{World, eventually, get};

/// What `check --json` said.
pub(crate) struct Examined {
    pub(crate) code: Option<i32>,
    text: String,
    findings: Vec<Value>,
}

impl Examined {
    /// The examination of a gateway with the world's environment.
    pub(crate) fn of(world: &World) -> Self {
        let output = tokio::task::block_in_place(|| world.command(&["check", "--json"]));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let errors = String::from_utf8_lossy(&output.stderr);
        let all: Value =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{errors}"));
        let code = output.status.code();
        assert_eq!(all["exitStatus"].as_i64(), code.map(i64::from), "{text}");
        let findings = all["findings"].as_array().expect("a list").clone();
        for finding in &findings {
            let needs =
                ["warning", "error"].contains(&finding["status"].as_str().expect("a status"));
            assert_eq!(needs, finding["todo"].is_string(), "what to do: {finding}");
        }
        Self { code, text, findings }
    }

    /// The ids with this status, each once.
    pub(crate) fn with(&self, status: &str) -> Vec<&str> {
        let of = self.findings.iter().filter(|finding| finding["status"] == status);
        let mut ids: Vec<_> = of.map(|finding| finding["id"].as_str().expect("an id")).collect();
        ids.dedup();
        ids
    }

    /// What is said of it, and what to do.
    pub(crate) fn words(&self, id: &str) -> String {
        let of = self.findings.iter().filter(|finding| finding["id"] == id);
        of.map(|f| format!("{} -> {}\n", f["what"], f["todo"])).collect()
    }

    fn expect(&self, code: i32, errors: &[&str], part: &str) {
        assert_eq!(self.with("error"), errors, "{}", self.text);
        assert_eq!(self.code, Some(code), "{}", self.text);
        let words: String = errors.iter().map(|id| self.words(id)).collect();
        assert!(words.contains(part), "{part} in {words}");
    }
}

fn names(world: &World) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(world.volume()).expect("a folder");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_site_has_no_error_and_stays_as_it_is() {
    let world = World::new(3).await;
    let before = names(&world);
    let found = Examined::of(&world);
    found.expect(0, &[], "");
    let fine = found.with("ok");
    for id in [
        "configuration-read",
        "certificate-chain",
        "certificate-name",
        "certificate-validity",
        "certificate-root",
        "bundle",
        "clock-year",
        "clock-hub",
        "storage-writable",
        "storage-sync",
        "upstream-name",
        "upstream-amqp-port",
        "upstream-https-port",
        "upstream-amqp-tls",
        "upstream-https-tls",
        "upstream-proxy",
        "upstream-token",
        "scope",
        "routes",
        "port",
        "program",
    ] {
        assert!(fine.contains(&id), "{id} is fine: {}", found.text);
    }
    assert!(found.words("scope").contains("edge1 has 3 child devices"), "{}", found.words("scope"));
    let key = world.env["IotHubConnectionString"].rsplit_once("Key=").expect("a key").1;
    assert!(!found.text.contains(key), "the key is not shown");
    assert_eq!(names(&world), before, "the probe is gone");
    assert_eq!(world.hub.counts().received, 0);

    let output = tokio::task::block_in_place(|| world.command(&["check"]));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("\nWay to the hub\nok     upstream-proxy"), "{text}");
    assert!(text.contains(", 0 errors,"), "{text}");
    assert_eq!(output.status.code(), Some(0));
    world.end().await;
}

/// A file beside the site's storage.
fn file(world: &World, name: &str, text: &str) -> String {
    let path = world.beside(name);
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

/// Name, variables, exit status, lines in error, a part of their words.
type Fault =
    (&'static str, Vec<(&'static str, String)>, i32, &'static [&'static str], &'static str);

const CERTIFICATE: &str = "EdgeHubDevServerCertificateFile";
const KEY: &str = "EdgeHubDevServerPrivateKeyFile";
const BUNDLE: &str = "EdgeHubDevTrustBundleFile";
const BOTH_TLS: &[&str] = &["upstream-amqp-tls", "upstream-https-tls"];

fn faults_of_certificates(world: &World) -> Vec<Fault> {
    let now = clock::system().wall();
    let over = Window { not_before: UnixMillis(0), not_after: UnixMillis(now.0 - 1000) };
    let issue = |name: &str, window| {
        let issued = world.pki.edge_ca.issue_server(&[name], &[], window).expect("a certificate");
        let chain =
            file(world, &format!("{name}-{}.pem", issued.leaf_pem.len()), &issued.chain_pem);
        let key = file(world, &format!("{name}-{}.key", issued.leaf_pem.len()), &issued.key_pem);
        vec![(CERTIFICATE, chain), (KEY, key)]
    };
    let expired = issue(crate::site::GATEWAY, over);
    let other = issue("other.example", Window::days(now, 90));
    let foreign = vec![(KEY, other[1].1.clone())];
    let old_ca =
        sphere_gateway::certs::Authority::root("Old", sphere_gateway::certs::Curve::P256, over);
    let old_ca = old_ca.expect("a CA").certificate_pem().to_owned();
    vec![
        ("expired certificate", expired, 1, &["certificate-validity"], "renew it"),
        ("another name", other, 1, &["certificate-name"], "as DNS name in its SAN"),
        ("another key", foreign, 64, &["certificate-chain"], "does not belong to its certificate"),
        (
            "no chain",
            vec![(CERTIFICATE, "/gone".into())],
            64,
            &["certificate-chain"],
            "cannot read",
        ),
        ("empty bundle", vec![(BUNDLE, file(world, "empty", ""))], 64, &["bundle"], "tenant's CAs"),
        ("old CA", vec![(BUNDLE, file(world, "old", &old_ca))], 1, &["bundle"], "the CAs of now"),
    ]
}

fn faults_of_the_way(world: &World, taken: u16) -> Vec<Fault> {
    let free =
        TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let connection = &world.env["IotHubConnectionString"];
    let wrong_key =
        format!("{}Key=bm90IHRoZSBrZXk=", connection.rsplit_once("Key=").expect("a key").0);
    let nowhere = connection.replace("HostName=localhost", "HostName=hub.invalid");
    let tenant = world.env[BUNDLE].clone();
    let admin = world.hub.ports().admin;
    vec![
        (
            "wrong key",
            vec![("IotHubConnectionString", wrong_key)],
            1,
            &["upstream-token"],
            "check the key",
        ),
        (
            "no such name",
            vec![("IotHubConnectionString", nowhere)],
            1,
            &["upstream-name"],
            "name servers",
        ),
        (
            "wrong port",
            vec![("upstreamSettings__amqpPort", free.to_string())],
            1,
            &["upstream-amqp-port"],
            "open the firewall",
        ),
        (
            "no hub on the port",
            vec![("upstreamSettings__amqpPort", admin.to_string())],
            1,
            &["upstream-amqp-tls"],
            "something else than a hub",
        ),
        (
            "foreign CA",
            vec![("upstreamSettings__trustBundleFile", tenant)],
            1,
            BOTH_TLS,
            "put its CA into upstreamSettings__trustBundleFile",
        ),
        (
            "port in use",
            vec![("mqttSettings__port", taken.to_string())],
            1,
            &["port"],
            "end the other program",
        ),
    ]
}

fn faults_of_the_rest(world: &World) -> Vec<Fault> {
    let document = |routes: Value| {
        json!({ "schemaVersion": "1.1", "routes": routes, "storeAndForwardConfiguration": { "timeToLiveSecs": 60 } })
            .to_string()
    };
    let good = "FROM /messages/* INTO $upstream";
    let half = document(json!({ "good": { "route": good }, "bad": { "route": "FROM nowhere" } }));
    let half = file(world, "half.json", &half);
    let bad = file(world, "bad.json", &document(json!({ "bad": { "route": "FROM nowhere" } })));
    let layers = world.beside("layers");
    std::fs::create_dir_all(&layers).expect("a folder");
    let base = document(json!({ "good": { "route": good } }));
    std::fs::write(layers.join("00-base.json"), base).expect("a file");
    std::fs::write(layers.join("10-more.json"), "{").expect("a file");
    let layers = layers.display().to_string();
    vec![
        (
            "a folder that nobody can write to",
            vec![("StorageFolder", "/sys/kernel".into())],
            64,
            &["storage-writable"],
            "chown -R",
        ),
        ("a bad route", vec![("edgeHubTwinFile", half)], 1, &["routes-set-aside"], "routes check"),
        ("a bad layer", vec![("edgeHubTwinFile", layers)], 1, &["routes-layer"], "10-more.json"),
        ("no good route", vec![("edgeHubTwinFile", bad)], 64, &["routes"], "edgeHubTwinFile"),
        (
            "a bad value",
            vec![("mqttSettings__port", "many".into())],
            64,
            &["configuration"],
            "mqttSettings__port",
        ),
        (
            "a missing value",
            vec![("EdgeDeviceHostName", String::new())],
            64,
            &["configuration"],
            "Give the name by which devices reach this gateway",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_turns_its_own_line_to_error_and_says_what_to_do() {
    let mut world = World::new(1).await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let mut faults = faults_of_certificates(&world);
    faults.extend(faults_of_the_way(&world, port));
    faults.extend(faults_of_the_rest(&world));
    let sound: BTreeMap<String, String> = world.env.clone();
    for (name, variables, code, errors, part) in faults {
        eprintln!("planted: {name}");
        for (variable, value) in variables {
            world.set(variable, &value);
        }
        Examined::of(&world).expect(code, errors, part);
        world.env.clone_from(&sound);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_away_mute_or_of_another_time_is_told() {
    let world = World::new(1).await;
    world.hub.go_away().await;
    let found = Examined::of(&world);
    found.expect(1, &["upstream-amqp-port", "upstream-https-port"], "open the firewall");
    let skipped = found.with("skipped");
    for id in ["upstream-amqp-tls", "upstream-https-tls", "upstream-token", "scope", "clock-hub"] {
        assert!(skipped.contains(&id), "{id}: {skipped:?}");
    }
    assert!(found.with("ok").contains(&"storage-writable"), "the rest is looked at");

    world.hub.come_back().await.expect("the ports are still ours");
    let mute = world.hub.fault(hub_double::FaultKind::BlackHole);
    Examined::of(&world).expect(1, BOTH_TLS, "did not answer within");
    world.hub.clear_fault(mute);

    world
        .hub
        .put_device(hub_double::DeviceSpec::sas("old-device", "a2V5").child_of(crate::site::EDGE));
    world.hub.advance_clock(Duration::from_secs(600));
    let found = Examined::of(&world);
    found.expect(1, &["clock-hub"], "behind the hub's");
    // It logs in by its key: no reason to warn.
    assert!(!found.text.contains("scope-authentication"), "{}", found.text);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_runs_is_seen_and_not_disturbed() {
    let mut world = World::new(2).await;
    // A fixed port, so that it can be asked; nobody else takes it between here and the start, or the start says so.
    let free =
        TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    world.set("metrics__listener__port", &free.to_string());
    let found = Examined::of(&world);
    found.expect(0, &[], "");
    assert!(found.words("running").contains("none answers"), "{}", found.text);
    let process = tokio::task::block_in_place(|| world.process());
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    let found = Examined::of(&world);
    found.expect(0, &[], "");
    assert!(found.words("running").contains("is healthy"), "{}", found.text);
    let holder = format!("process {} uses the store", process.id());
    assert!(found.words("storage-lock").contains(&holder), "{}", found.text);
    fleet.progress(20).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    process.stop().await;
    world.end().await;
}

async fn is_ready(gateway: &Gateway) -> bool {
    get(gateway, "/readyz").await.starts_with("HTTP/1.1 200")
}

/// Devices can be let in once the hub has told who they are, and from then on also without it.
#[tokio::test(flavor = "multi_thread")]
async fn readyz_tells_whether_devices_can_be_let_in() {
    let world = World::new(1).await;
    world.hub.go_away().await;
    let gateway = world.gateway().await;
    let answer = get(&gateway, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("the scope is not known"), "{answer}");
    assert!(get(&gateway, "/healthz").await.starts_with("HTTP/1.1 200"), "it is alive");
    world.hub.come_back().await.expect("the ports are still ours");
    eventually("the gateway is ready", async || is_ready(&gateway).await).await;
    gateway.shutdown().await;

    world.hub.go_away().await;
    let gateway = world.gateway().await;
    eventually("the kept scope serves", async || is_ready(&gateway).await).await;
    gateway.shutdown().await;
    world.end().await;
}

/// Who balances load must send nobody here any more, and still gets an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_is_not_ready() {
    let world = World::new(1).await;
    let gateway = world.gateway().await;
    eventually("the gateway is ready", async || is_ready(&gateway).await).await;
    let address = gateway.metrics_addr().expect("metrics are on");
    let mut stopping = std::pin::pin!(gateway.shutdown());
    // Only begun: what comes next waits for us.
    let begun = std::future::poll_fn(|context| {
        std::task::Poll::Ready(stopping.as_mut().poll(context).is_pending())
    });
    assert!(begun.await, "there is more to do than one step");
    let answer = scrape(address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("the gateway is stopping"), "{answer}");
    stopping.await;
    world.end().await;
}

#[test]
fn wrong_arguments_are_64() {
    for arguments in [&["check", "--jsn"][..], &["check", "--env", "--json"]] {
        let mut command = std::process::Command::new(crate::support::BINARY);
        let output = command.args(arguments).env_clear().output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    }
}
