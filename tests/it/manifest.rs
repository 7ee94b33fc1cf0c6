//! `check manifest` and `manifest generate` as a person runs them: the repository's own template, and manifests in which one
//! thing is wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::ran::{Ran, program, run};

const PLATFORMS: [&str; 2] = ["amd64", "arm64v8"];

fn root(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// What `check manifest` says besides `ok`, as `level subject: what`.
#[track_caller]
fn said(text: &str) -> Vec<String> {
    let ran = run(&["check", "manifest", "-", "--json"], text.as_bytes());
    let code = ran.code;
    let report: Value = serde_json::from_str(&ran.out).expect("a JSON object");
    let findings = report["findings"].as_array().expect("a list");
    let errors = findings.iter().filter(|f| f["level"] == "error").count();
    assert_eq!((&report["errors"], &report["isFine"]), (&json!(errors), &json!(errors == 0)));
    assert_eq!(code, Some(i32::from(errors > 0)), "{report}");
    let told = |f: &Value| {
        let text = |key: &str| f[key].as_str().unwrap_or_default().to_owned();
        format!("{} {}: {}", text("level"), text("subject"), text("what"))
    };
    findings.iter().filter(|f| f["level"] != "ok").map(told).collect()
}

/// A manifest that is fine, its parts within reach.
struct Parts {
    manifest: Value,
    /// edgeHub's createOptions.
    options: Value,
}

impl Parts {
    fn good() -> Self {
        let text = fs::read_to_string(root("tests/manifest/deployment.arm64v8.json")).expect("it");
        let mut parts =
            Self { manifest: serde_json::from_str(&text).expect("JSON"), options: Value::Null };
        let text = parts.settings()["createOptions"].take();
        parts.options = serde_json::from_str(text.as_str().expect("text")).expect("JSON");
        parts
    }

    fn agent(&mut self) -> &mut Value {
        &mut self.manifest["modulesContent"]["$edgeAgent"]["properties.desired"]
    }

    fn hub(&mut self) -> &mut Value {
        &mut self.agent()["systemModules"]["edgeHub"]
    }

    fn settings(&mut self) -> &mut Value {
        &mut self.hub()["settings"]
    }

    fn host(&mut self) -> &mut Value {
        &mut self.options["HostConfig"]
    }

    fn env(&mut self, name: &str, value: &str) {
        self.hub()["env"][name] = json!({"value": value});
    }

    fn desired(&mut self) -> &mut Value {
        &mut self.manifest["modulesContent"]["$edgeHub"]["properties.desired"]
    }

    /// One more module, with these createOptions.
    fn module(&mut self, options: &Value) -> &mut Value {
        self.agent()["modules"]["more"] = json!({
            "type": "docker", "status": "running", "restartPolicy": "always",
            "settings": {"image": "registry.example/more:1", "createOptions": options.to_string()},
        });
        &mut self.agent()["modules"]["more"]
    }

    fn text(mut self) -> String {
        let has_hub = self.agent()["systemModules"].get("edgeHub").is_some();
        if has_hub && self.settings()["createOptions"].is_null() {
            let options = self.options.to_string();
            let chars: Vec<char> = options.chars().collect();
            for (at, chunk) in chars.chunks(512).enumerate() {
                let key = if at == 0 { String::new() } else { format!("{at:02}") };
                let chunk: String = chunk.iter().collect();
                self.settings()[format!("createOptions{key}")] = chunk.into();
            }
        }
        self.manifest.to_string()
    }
}

fn remove(from: &mut Value, key: &str) {
    from.as_object_mut().expect("an object").remove(key).expect("it was there");
}

/// What is wrong with the manifest, and the one thing that is said of it.
type Case = (fn(&mut Parts), &'static str);

#[track_caller]
fn each_is_said_alone(cases: &[Case]) {
    for (edit, expected) in cases {
        let mut parts = Parts::good();
        edit(&mut parts);
        let said = said(&parts.text());
        assert!(said.len() == 1 && said[0].starts_with(expected), "{expected}:\n{said:#?}");
    }
}

#[test]
fn the_good_one_is_good() {
    assert_eq!(said(&Parts::good().text()), [""; 0]);
}

#[test]
fn the_shape_of_a_manifest() {
    each_is_said_alone(&[
        (|p| p.agent()["schemaVersion"] = "2.0".into(), "error $edgeAgent: schemaVersion"),
        (|p| remove(p.agent(), "schemaVersion"), "error $edgeAgent: there is no schemaVersion"),
        (|p| remove(p.agent(), "runtime"), "error $edgeAgent runtime: there is no"),
        (|p| remove(p.agent(), "modules"), "error $edgeAgent: there is no modules"),
        (|p| p.agent()["runtime"]["type"] = "podman".into(), "error $edgeAgent runtime: its type"),
        (
            |p| {
                p.agent()["runtime"]["settings"]["registryCredentials"] =
                    json!({"r": {"address": "registry.example", "username": "u", "password": ""}});
            },
            "error $edgeAgent runtime: registryCredentials r: no password",
        ),
        (
            |p| remove(&mut p.agent()["systemModules"], "edgeAgent"),
            "error $edgeAgent: systemModules has no edgeAgent",
        ),
        (
            |p| remove(&mut p.agent()["systemModules"], "edgeHub"),
            "error $edgeAgent: systemModules has no edgeHub",
        ),
        (
            |p| {
                let hub = p.agent()["systemModules"]["edgeAgent"].clone();
                p.agent()["systemModules"]["other"] = hub;
                let other = &mut p.agent()["systemModules"]["other"];
                other["status"] = "running".into();
                other["restartPolicy"] = "always".into();
            },
            "error other: it is no system module",
        ),
        (
            |p| {
                let module =
                    p.module(&json!({"HostConfig": {"LogConfig": {"Type": "local"}}})).take();
                p.agent()["modules"] = json!({"a b": module});
            },
            "error a b: a module has letters",
        ),
        (|p| p.hub()["environment"] = json!({}), "warning edgeHub: \"environment\" is nothing"),
        (
            |p| {
                p.desired()["routes"]["long"] =
                    format!("FROM /messages/* WHERE a='{}' INTO $upstream", "x".repeat(32_600))
                        .into()
            },
            "error $edgeHub: its desired properties have 32",
        ),
        (|p| p.hub()["status"] = "stopped".into(), "error edgeHub: its status is \"stopped\""),
        (|p| p.hub()["status"] = "up".into(), "error edgeHub: its status is neither"),
        (
            |p| p.hub()["restartPolicy"] = "never".into(),
            "error edgeHub: restartPolicy is \"never\"",
        ),
        (|p| remove(p.hub(), "restartPolicy"), "error edgeHub: restartPolicy is not"),
        (|p| p.hub()["type"] = "vm".into(), "error edgeHub: its type"),
        (|p| p.hub()["imagePullPolicy"] = "always".into(), "error edgeHub: imagePullPolicy"),
    ]);
}

#[test]
fn images_and_create_options() {
    each_is_said_alone(&[
        (
            |p| p.settings()["image"] = "registry.example/azureiotedge-hub:1.6".into(),
            "error edgeHub: its image registry.example/azureiotedge-hub:1.6 is the original",
        ),
        (|p| p.settings()["image"] = "/sphere-gateway:1".into(), "error edgeHub: its image"),
        (|p| p.settings()["image"] = "r.example:5000/g".into(), "warning edgeHub: its image"),
        (|p| p.settings()["image"] = "r.example/g:latest".into(), "warning edgeHub: its image"),
        (
            |p| p.settings()["image"] = "r.example/${MODULES.gateway}:1".into(),
            "error modulesContent/$edgeAgent/properties.desired/systemModules/edgeHub/settings/image: the placeholder",
        ),
        (
            |p| p.settings()["createOptions"] = p.options.clone(),
            "error edgeHub: createOptions is an object",
        ),
        (
            |p| p.options["Labels"] = json!({"x": "x".repeat(4096)}),
            "error edgeHub: createOptions08 is not the name",
        ),
        (
            |p| p.settings()["createOptions"] = "{".into(),
            "error edgeHub: createOptions, its chunks",
        ),
    ]);
}

#[test]
fn the_container_of_edge_hub() {
    each_is_said_alone(&[
        (|p| p.options["Memory"] = json!(1), "error edgeHub: createOptions: Memory has no effect"),
        (|p| p.options["Cmd"] = json!(["x"]), "warning edgeHub: createOptions: Cmd"),
        (|p| remove(p.host(), "PortBindings"), "error edgeHub: no port of the host"),
        (
            |p| p.host()["PortBindings"]["8883/tcp"][0]["HostPort"] = "9000".into(),
            "warning edgeHub: devices reach 8883/tcp at the host's port 9000",
        ),
        (
            |p| p.host()["PortBindings"]["8883/tcp"][0]["HostIp"] = "127.0.0.1".into(),
            "error edgeHub: port 8883 is bound to 127.0.0.1 only",
        ),
        (
            |p| p.host()["PortBindings"]["443/tcp"] = json!([{"HostPort": "443"}]),
            "warning edgeHub: port 443/tcp is bound, and nothing listens",
        ),
        (
            |p| p.host()["PortBindings"]["9600/tcp"] = json!([{"HostPort": "9600"}]),
            "warning edgeHub: the metrics' port 9600",
        ),
        (|p| p.host()["NetworkMode"] = "host".into(), "warning edgeHub: NetworkMode is host"),
        (|p| remove(p.host(), "Binds"), "error edgeHub storage: nothing is mounted"),
        (
            |p| p.host()["Binds"] = json!(["/dev/shm/x:/iotedge/storage"]),
            "error edgeHub storage: /dev/shm/x of the host",
        ),
        (
            |p| p.host()["Binds"] = json!(["/etc/gateway:/iotedge/storage"]),
            "error edgeHub storage: StorageFolder lies in /etc of the host",
        ),
        (|p| p.env("StorageFolder", "/elsewhere"), "error edgeHub storage: nothing is mounted"),
        (|p| remove(p.host(), "LogConfig"), "warning edgeHub: its log is not rotated"),
        (|p| remove(&mut p.host()["LogConfig"], "Config"), "warning edgeHub: its log is not"),
        (
            |p| p.host()["LogConfig"]["Config"]["max-size"] = json!(10),
            "error edgeHub: max-size of its log is no string",
        ),
        (|p| remove(p.host(), "CapDrop"), "warning edgeHub: it keeps capabilities"),
        (|p| remove(p.host(), "ReadonlyRootfs"), "warning edgeHub: its root file system"),
        (|p| p.host()["Privileged"] = true.into(), "warning edgeHub: it is Privileged"),
        (|p| p.host()["CapAdd"] = json!(["NET_ADMIN"]), "warning edgeHub: CapAdd"),
        (|p| p.options["User"] = "0:0".into(), "warning edgeHub: User is root"),
        (|p| remove(p.host(), "Memory"), "warning edgeHub: no Memory limit"),
        (|p| p.host()["Memory"] = json!(0), "warning edgeHub: Memory is 0"),
        (|p| p.host()["Memory"] = json!(16 << 20), "error edgeHub: Memory is 16.0 MiB, too little"),
        (|p| p.host()["Memory"] = "96m".into(), "error edgeHub: Memory is \"96m\", no number"),
        (|p| p.host()["Memory"] = json!(8u64 << 30), "warning edgeHub: Memory is 8.0 GiB, more"),
        (
            |p| remove(&mut p.hub()["env"], "MaxConnectedClients"),
            "warning edgeHub: MaxConnectedClients is not set",
        ),
    ]);
}

#[test]
fn a_health_check_that_finds_nothing() {
    each_is_said_alone(&[
        (
            |p| p.options["Healthcheck"] = json!({"Test": ["CMD-SHELL", "/sphere-gateway health"]}),
            "error edgeHub: createOptions: Healthcheck needs a shell",
        ),
        (
            |p| {
                let test = json!(["CMD", "/bin/sh", "-c", "/sphere-gateway health"]);
                p.options["Healthcheck"] = json!({"Interval": 1, "Test": test});
            },
            "error edgeHub: createOptions: Healthcheck needs \"/bin/sh\"",
        ),
        (
            |p| p.options["Healthcheck"] = json!({"Test": "curl localhost:9600/healthz"}),
            "error edgeHub: createOptions: Healthcheck: \"curl localhost:9600/healthz\" is no test",
        ),
        (
            |p| p.env("metrics__listener__port", "0"),
            "warning edgeHub: metrics__listener__port is 0, any free port: the health check cannot",
        ),
        (
            |p| p.env("metrics:listener:Port", "8883"),
            "warning edgeHub: metrics__listener__port is that of MQTT: the health check",
        ),
    ]);
}

#[test]
fn a_health_check_that_the_image_can_do() {
    for check in [
        json!({"Interval": 5_000_000_000u64}),
        json!({"Test": ["CMD", "/sphere-gateway", "health"]}),
        json!({"Test": ["NONE"]}),
    ] {
        let mut parts = Parts::good();
        parts.options["Healthcheck"] = check;
        assert_eq!(said(&parts.text()), [""; 0]);
    }
}

#[test]
fn the_port_that_the_gateway_listens_on() {
    let mut parts = Parts::good();
    parts.env("mqttSettings__port", "8884");
    let told = said(&parts.text());
    assert!(
        told.len() == 2 && told[1].contains("no port of the host leads to 8884/tcp"),
        "{told:?}"
    );
    let mut parts = Parts::good();
    parts.env("mqttSettings:Port", "8884");
    parts.host()["PortBindings"] = json!({"8884/tcp": [{"HostPort": "8883"}]});
    assert_eq!(said(&parts.text()), [""; 0]);
}

/// What the gateway answers to the health check all the same, and what is not asked.
#[test]
fn the_health_check_is_fine_without_metrics_and_need_not_be() {
    let mut parts = Parts::good();
    parts.env("metrics__listener__MetricsEnabled", "false");
    parts.env("metrics__listener__host", "127.0.0.2");
    assert_eq!(said(&parts.text()), [""; 0]);
    let mut parts = Parts::good();
    parts.env("metrics__listener__port", "0");
    parts.options["Healthcheck"] = json!({"Test": ["NONE"]});
    assert_eq!(said(&parts.text()), [""; 0]);
}

#[test]
fn two_modules_on_one_port() {
    let with = |port: Value| {
        let mut parts = Parts::good();
        parts.module(&json!({"HostConfig": {
            "LogConfig": {"Type": "local"}, "PortBindings": {"1883/tcp": [port]}}}));
        said(&parts.text())
    };
    let said = with(json!({"HostPort": "8883"}));
    let expected =
        "port 8883 of the host is taken twice: by edgeHub (8883/tcp) and by more (1883/tcp)";
    assert!(
        said.len() == 1 && said[0].starts_with("error") && said[0].contains(expected),
        "{said:?}"
    );
    assert_eq!(with(json!({"HostPort": "8883", "HostIp": "127.0.0.1"})).len(), 1);
    assert_eq!(with(json!({"HostPort": "1883"})), [""; 0]);
    let said = with(json!({"HostPort": 1883}));
    assert!(said.len() == 1 && said[0].contains("HostPort is no port in a string"), "{said:?}");
}

#[test]
fn the_variables() {
    each_is_said_alone(&[
        (
            |p| p.env("MaxConectedClients", "5"),
            "warning edgeHub env MaxConectedClients: unknown, without effect: did you mean MaxConnectedClients?",
        ),
        (|p| p.env("storeSettings__x", "5"), "warning edgeHub env storeSettings__x: unknown"),
        (|p| p.env("COLOUR", "5"), "warning edgeHub env COLOUR: unknown"),
        (|p| p.env("IOTEDGE_DEVICEID", "x"), "warning edgeHub env IOTEDGE_DEVICEID: the IoT Edge"),
        (|p| p.env("MaxConnectedClients", "all"), "error edgeHub env MaxConnectedClients: \"all\""),
        (
            |p| p.env("RuntimeLogLevel", "loud"),
            "warning edgeHub env RuntimeLogLevel: RuntimeLogLevel",
        ),
        (|p| p.hub()["env"]["X"] = "x".into(), "error edgeHub env X: it has no value"),
    ]);
    let mut parts = Parts::good();
    for (name, value) in [
        ("OptimizeForPerformance", "false"),
        ("amqpSettings__enabled", "false"),
        ("httpSettings__enabled", "false"),
        ("mqttSettings__enabled", "true"),
        ("RuntimeLogLevel", "debug"),
    ] {
        parts.env(name, value);
    }
    parts.hub()["env"]["mqttSettings__MaxPendingInboundAcknowledgements"] = json!({"value": 8});
    assert_eq!(said(&parts.text()), [""; 0], "a Pi's deployment of edgeHub");
}

#[test]
fn a_secret_in_the_open_is_told_and_not_repeated() {
    // Not a key: what one looks like.
    let value = "HostName=h.example;DeviceId=d;ModuleId=$edgeHub;SharedAccessKey=c2VjcmV0";
    let mut parts = Parts::good();
    parts.env("IotHubConnectionString", value);
    let options = json!({"HostConfig": {"LogConfig": {"Type": "local"}}});
    parts.module(&options)["env"] = json!({"API_KEY": {"value": "c2VjcmV0"}});
    let text = parts.text();
    let said = said(&text);
    assert_eq!(said.len(), 2, "{said:?}");
    for name in ["edgeHub env IotHubConnectionString", "more env API_KEY"] {
        assert!(
            said.iter().any(|s| s.starts_with(&format!("warning {name}: a secret"))),
            "{said:?}"
        );
    }
    let shown = run(&["check", "manifest", "-"], text.as_bytes()).expect(0);
    assert!(!shown.contains("c2VjcmV0"), "{shown}");
}

#[test]
fn the_routes() {
    each_is_said_alone(&[
        (
            |p| {
                p.desired()["routes"] = json!({"x": "FROM /messages/* INTO upstream",
            "y": "FROM /messages/* INTO $upstream"})
            },
            "error $edgeHub routes: route \"x\" is set aside",
        ),
        (
            |p| p.desired()["storeAndForwardConfiguration"]["timeToLiveSecs"] = json!(0),
            "error $edgeHub: timeToLiveSecs is 0",
        ),
        (
            |p| remove(&mut p.desired()["storeAndForwardConfiguration"], "timeToLiveSecs"),
            "error $edgeHub: storeAndForwardConfiguration has no timeToLiveSecs",
        ),
        (
            |p| p.desired()["storeAndForwardConfiguration"]["timeToLiveSecs"] = json!(7200),
            "warning $edgeHub timeToLiveSecs: 7200: a message that waits longer than 2 h",
        ),
        (
            |p| {
                p.desired()["routes"]["allToHub"] = json!({
                "route": "FROM /messages/* INTO $upstream", "priority": 1, "timeToLiveSecs": 60})
            },
            "warning $edgeHub routes \"allToHub\" timeToLiveSecs: 60: a message",
        ),
        (
            |p| {
                p.desired()["routes"]["allToHub"] = json!({
                "route": "FROM /messages/* INTO $upstream", "priority": 10})
            },
            "error $edgeHub routes: route \"allToHub\" is set aside",
        ),
        (|p| remove(p.desired(), "routes"), "error $edgeHub: routes is missing"),
        (|p| p.desired()["schemaVersion"] = "2.0".into(), "error $edgeHub: schemaVersion"),
        (
            |p| remove(&mut p.manifest["modulesContent"], "$edgeHub"),
            "error $edgeHub: modulesContent",
        ),
    ]);
    let mut parts = Parts::good();
    parts.desired()["routes"] = json!({});
    let said = said(&parts.text());
    let none = |s: &String| s.starts_with("error $edgeHub routes: no route goes to $upstream");
    assert!(said.iter().any(none), "{said:?}");
}

#[test]
fn what_a_template_may_leave_open() {
    let text = fs::read_to_string(root("deployment.template.json")).expect("the template");
    let template: Value = serde_json::from_str(&text).expect("JSON");
    let with = |edit: fn(&mut Value, &mut Value)| {
        let mut template = template.clone();
        let content = &mut template["modulesContent"];
        let mut hub = content["$edgeHub"]["properties.desired"].take();
        edit(&mut content["$edgeAgent"]["properties.desired"], &mut hub);
        content["$edgeHub"]["properties.desired"] = hub;
        said(&template.to_string())
    };
    let none = [""; 0];
    assert_eq!(
        with(|agent, _| agent["schemaVersion"] = "${EDGEAGENT_SCHEMA_VERSION}".into()),
        none
    );
    assert_eq!(with(|_, hub| hub["schemaVersion"] = "${EDGEHUB_SCHEMA_VERSION}".into()), none);
    assert_eq!(
        with(|agent, _| agent["systemModules"]["edgeHub"]["settings"]["image"] =
            "${GATEWAY_IMAGE}".into()),
        none
    );
    let told = with(|agent, _| {
        agent["systemModules"]["edgeHub"]["settings"]["image"] = "${MODULES.gateway}".into();
    });
    assert!(told.len() == 1 && told[0].contains("${MODULES.gateway} stays as it is"), "{told:?}");
    let told = with(|agent, _| {
        let bindings =
            &mut agent["systemModules"]["edgeHub"]["settings"]["createOptions"]["HostConfig"];
        bindings["PortBindings"]["8883/tcp"][0]["HostPort"] = "${MQTT_PORT}".into();
        bindings["Binds"][0] = "${STORAGE}:/iotedge/storage".into();
    });
    assert_eq!(told, none);
}

#[test]
fn what_is_no_manifest() {
    for (text, expected) in [
        ("{", "error document: not JSON"),
        ("", "error document: not JSON"),
        ("[1]", "error document: the document is an array"),
        ("{}", "error document: there is no modulesContent"),
        ("{\"a\": 1, // x\n}", "error document: not JSON"),
    ] {
        let said = said(text);
        assert!(said.len() == 1 && said[0].starts_with(expected), "{text}: {said:?}");
    }
    let layer = json!({"content": {"modulesContent": {"$edgeHub": {
        "properties.desired.routes.r": "FROM /messages/* INTO $upstream"}}}});
    let said = said(&layer.to_string());
    assert!(said.iter().all(|s| s.starts_with("warning")), "{said:?}");
    assert!(said[0].contains("a layer"), "{said:?}");
    let ran = run(&["check", "manifest", "/no/such/file"], b"");
    assert!(ran.err.contains("cannot read /no/such/file"), "{}", ran.err);
    ran.expect(64);
    run(&["check", "manifest"], b"").expect(64);
}

#[test]
fn the_repository_s_own_are_good_and_as_the_command_makes_them() {
    let template = fs::read_to_string(root("deployment.template.json")).expect("the template");
    assert_eq!(said(&template), [""; 0]);
    for platform in PLATFORMS {
        let args = [
            "manifest",
            "generate",
            "--env",
            "tests/manifest/example.env",
            "--platform",
            platform,
            "--out",
            "-",
        ];
        let made = run(&args, b"").expect(0);
        let file = format!("tests/manifest/deployment.{platform}.json");
        let kept = fs::read_to_string(root(&file)).expect("the manifest");
        assert!(made == kept, "run {} > {file}", args.join(" "));
        assert_eq!(said(&kept), [""; 0]);
    }
    // One version, one name of the image.
    let version = env!("CARGO_PKG_VERSION");
    let module: Value = serde_json::from_str(include_str!("../../module.json")).expect("JSON");
    assert_eq!(module["image"]["tag"]["version"], version);
    let repository = module["image"]["repository"].as_str().expect("text");
    let image = format!("{repository}:{version}-${{DEFAULT_PLATFORM}}");
    assert!(template.contains(&image), "the template deploys no {image}");
    for platform in PLATFORMS {
        let dockerfile = module["image"]["tag"]["platforms"][platform].as_str().expect("a path");
        assert!(root(dockerfile).is_file(), "{dockerfile}");
    }
    // Every variable of the template is explained.
    let explained = include_str!("../../.env.template");
    for part in template.split("${").skip(1) {
        let name = part.split('}').next().expect("a name");
        assert!(explained.contains(&format!("\n{name}=")), "{name} is not in .env.template");
    }
}

#[test]
fn a_manifest_is_generated_beside_the_template() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |file: &str| folder.path().join(file);
    fs::copy(root("deployment.template.json"), at("deployment.template.json")).expect("copied");
    let generate = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = program(&[&["manifest", "generate"], args].concat());
        Ran::of(command.current_dir(folder.path()).envs(env.iter().copied()), b"")
    };
    let ran = generate(&[], &[]);
    assert!(ran.err.contains("no value for CONTAINER_REGISTRY_SERVER, "), "{}", ran.err);
    ran.expect(64);
    assert!(!at("config").exists(), "nothing is written");
    let env = "\u{feff}# x\nexport CONTAINER_REGISTRY_SERVER='r.example'\n\nEDGE_AGENT_IMAGE=r.example/a:1.6 # y\n\
               CONTAINER_REGISTRY_USERNAME=u\nCONTAINER_REGISTRY_PASSWORD=\"p\\=#\"\nDEFAULT_PLATFORM=arm64v8\n";
    fs::write(at(".env"), env).expect("written");
    let out = generate(&[], &[("CONTAINER_REGISTRY_USERNAME", "other")]).expect(0);
    assert_eq!(out, "config/deployment.arm64v8.json\n");
    let file = at("config/deployment.arm64v8.json");
    let mode = fs::metadata(&file).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "a password is in it");
    let manifest: Value =
        serde_json::from_slice(&fs::read(&file).expect("it is there")).expect("JSON");
    let agent = &manifest["modulesContent"]["$edgeAgent"]["properties.desired"];
    let expected = json!({"username": "other", "password": "p\\=#", "address": "r.example"});
    assert_eq!(agent["runtime"]["settings"]["registryCredentials"]["gateway"], expected);
    assert_eq!(
        agent["systemModules"]["edgeHub"]["settings"]["image"],
        format!("r.example/sphere-gateway:{}-arm64v8", env!("CARGO_PKG_VERSION"))
    );
    // A shorter one leaves nothing of the longer.
    let first = fs::metadata(&file).expect("it is there").len();
    generate(&["--env", ".env"], &[("CONTAINER_REGISTRY_USERNAME", "o")]).expect(0);
    assert!(fs::metadata(&file).expect("it is there").len() < first);
    // What comes out wrong is written, and told.
    let ran = generate(&["--platform", "amd64"], &[("EDGE_AGENT_IMAGE", "")]);
    assert!(ran.err.contains("edgeAgent: its image \"\" is no image name"), "{}", ran.err);
    assert_eq!(ran.expect(1), "config/deployment.amd64.json\n");
    // A line that is none may be a password.
    fs::write(at("bad.env"), "A=b\nhush\n").expect("written");
    let ran = generate(&["--env", "bad.env"], &[]);
    assert!(ran.err.contains("line 2") && !ran.err.contains("hush"), "{}", ran.err);
    ran.expect(64);
    generate(&["--env", "none.env"], &[]).expect(64);
}
