//! `certs inspect`: what is shown, and that each fault is found, with what to do.

use serde_json::Value;
use sphere_gateway::auth::x509;
use sphere_gateway::certs::facts::pem;
use sphere_gateway::certs::{Authority, Curve, Window};
use sphere_gateway::clock::UnixMillis;

use crate::bundle;
use crate::certs::{NAME, Site, ders, infos, now, root};
use crate::client::admitted;
use crate::der::with_sha1;
use crate::support::{World, eventually};

/// What `certs inspect --json` said: exit status and findings that are no `ok`, as `id status`.
fn inspected(site: &Site, words: &str, env: &[(&str, &str)]) -> (i32, Vec<String>, Value) {
    let ran = site.certs_in(&format!("inspect {words} --json"), env);
    let all: Value =
        serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {}{}", ran.out, ran.err));
    let code = ran.code.expect("it ended");
    assert_eq!(all["exitStatus"], code);
    let mut wrong = Vec::new();
    for finding in all["findings"].as_array().expect("a list") {
        let status = finding["status"].as_str().expect("a status");
        let is_wrong = ["warning", "error"].contains(&status);
        assert_eq!(is_wrong, finding["todo"].is_string(), "what to do: {finding}");
        if is_wrong {
            wrong.push(format!("{} {status}", finding["id"].as_str().expect("an id")));
        }
    }
    (code, wrong, all)
}

#[test]
fn an_inspection_finds_nothing_wrong_with_what_was_made() {
    let site = Site::made();
    let words = format!(
        "edge-ca.pem --bundle tenant-ca.pem --server server.chain.pem --key server.key.pem --root edge-root.pem --gateway-name {NAME}"
    );
    let (code, wrong, all) = inspected(&site, &words, &[]);
    assert_eq!((code, wrong), (0, vec![]), "{all:#}");
    let shown = all["certificates"].as_array().expect("a list");
    let names = |key: &str| {
        shown.iter().map(|c| c[key].as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        names("source"),
        [
            "edge-ca.pem #1",
            "tenant-ca.pem #1",
            "edge-root.pem #1",
            "server.chain.pem #1",
            "server.chain.pem #2"
        ]
    );
    assert_eq!(names("role"), ["file", "bundle", "root", "server", "server"]);
    let leaf = &shown[3];
    let info = &infos(&site.text("server.chain.pem"))[0];
    for (key, expected) in [
        ("subject", Value::from("CN=gw.site1.example")),
        ("issuer", "CN=edge-ca".into()),
        ("isCa", false.into()),
        ("names", vec![NAME].into()),
        ("daysLeft", 89.into()),
        ("key", "P-256".into()),
        ("signature", "ECDSA with SHA-256".into()),
        ("sha1", info.sha1.clone().into()),
        ("sha256", info.sha256.clone().into()),
        ("notAfter", x509::utc(info.not_after).into()),
        ("signed", Vec::<String>::new().into()),
    ] {
        // The day has turned while the test ran, at worst.
        let is_day_less = key == "daysLeft" && leaf[key] == 90;
        assert!(leaf[key] == expected || is_day_less, "{key}: {leaf:#}");
    }
    // Who depends on it: of what is shown, and of the scope.
    assert_eq!(shown[2]["signed"], serde_json::json!(["edge-ca.pem #1", "server.chain.pem #2"]));
    let text = site.certs(&format!("inspect {words}")).expect(0);
    for part in [
        "server.chain.pem #1, server: CN=gw.site1.example",
        "  issuer    CN=edge-ca",
        &info.sha1,
        "Server certificate\nok ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn an_inspection_looks_at_what_the_environment_configures() {
    let site = Site::made();
    let storage = site.path("storage");
    std::fs::create_dir_all(storage.join("edgeHub")).expect("a folder");
    let scope = r#"{"version":1,"edge":"e","saved_ms":1700000000000,"entries":[
        {"device":"d","enabled":true,"auth":{"type":"certificate_authority"}},
        {"device":"e","enabled":true,"auth":{"type":"sas"}}]}"#;
    std::fs::write(storage.join("edgeHub/scope.json"), scope).expect("a file");
    let storage = storage.display().to_string();
    let env = [
        ("EdgeHubDevTrustBundleFile", "tenant-ca.pem"),
        ("EdgeHubDevServerCertificateFile", "server.chain.pem"),
        ("EdgeHubDevServerPrivateKeyFile", "server.key.pem"),
        ("EdgeDeviceHostName", NAME),
        ("StorageFolder", &*storage),
    ];
    let (code, wrong, all) = inspected(&site, "", &env);
    assert_eq!((code, wrong), (0, vec![]), "{all:#}");
    let text = all.to_string();
    assert!(text.contains("1 of the 2 devices and modules in the scope of 2023-11-14"), "{text}");
    let ran = site.certs("inspect").ended(64);
    assert!(ran.err.contains("nothing to look at"), "{}", ran.err);
    site.certs("inspect gone.pem").expect(64);
    site.certs("inspect --key server.key.pem").expect(64);
}

/// What the binary says with the gateway's environment.
fn told(world: &World, words: &[&str]) -> (Option<i32>, String) {
    let arguments: Vec<&str> = ["certs", "inspect"].iter().chain(words).copied().collect();
    let ran = tokio::task::block_in_place(|| world.command(&arguments));
    (ran.status.code(), String::from_utf8(ran.stdout).expect("UTF-8"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inspection_tells_for_each_ca_which_clients_are_connected_by_it() {
    let world = bundle::world(4).await;
    let (path, second) = (bundle::file(&world, "second.cer"), bundle::ca("Second"));
    std::fs::write(&path, second.certificate_pem()).expect("a file");
    let third = bundle::ca("Third");
    std::fs::write(bundle::file(&world, "third.cer"), third.certificate_pem()).expect("a file");
    let gateway = world.gateway().await;
    let mut clients = Vec::new();
    for index in 0..3 {
        let mut device = world.device(index);
        if index == 2 {
            bundle::by(&world, &second, &mut device);
        }
        clients.push(admitted(&device).await);
    }
    let mut of_tenant = [&world.pki.devices[0].id, &world.pki.devices[1].id];
    of_tenant.sort();
    let of_second = &world.pki.devices[2].id;
    let admin = gateway.metrics_addr().expect("metrics are on").to_string();

    let (code, out) = told(&world, &["--admin", &admin, "--json"]);
    let all: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"));
    assert_eq!(code, Some(0), "{all:#}");
    let of = |subject: &str| {
        let shown = all["certificates"].as_array().expect("a list");
        let found = shown.iter().find(|c| c["subject"] == subject && c["role"] == "bundle");
        let found = found.unwrap_or_else(|| panic!("{subject} is not in {all:#}"));
        assert_eq!(found["dependents"]["sha256"], found["sha256"], "{found:#}");
        (found["dependents"]["clients"].clone(), found["dependents"]["names"].clone())
    };
    let tenant = format!("CN={}", world.pki.tenant_ca.name());
    assert_eq!(of(&tenant), (2.into(), serde_json::json!(of_tenant)));
    assert_eq!(of("CN=Second"), (1.into(), serde_json::json!([of_second])));
    assert_eq!(of("CN=Third"), (0.into(), serde_json::json!([])));
    let (_, text) = told(&world, &["--admin", &admin]);
    for part in [
        &format!("clients   2 connected by it: {}, {}", of_tenant[0], of_tenant[1]),
        &format!("clients   1 connected by it: {of_second}"),
        "clients   nobody is connected by it",
        "3 clients connected: 3 by 2 CAs, 0 by thumbprint, 0 by token",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    // A bundle that the gateway does not have yet: who would lose their CA.
    let tenant_alone = bundle::file(&world, "tenant.pem").display().to_string();
    let (code, text) = told(&world, &["--bundle", &tenant_alone, "--admin", &admin]);
    assert_eq!(code, Some(0), "a warning: {text}");
    let lost = "1 client connected by a CA that does not serve in this bundle (SHA-256 ";
    assert!(text.contains(lost) && text.contains(&format!(": {of_second}")), "{text}");
    assert!(!text.contains("2 clients connected by a CA"), "{text}");

    // One that leaves is no longer counted.
    clients.pop();
    eventually("it has left", async || told(&world, &["--admin", &admin]).1.contains("2 clients"))
        .await;
    drop(clients);
    gateway.shutdown().await;
    // Nobody answers there any more: that is said, and nobody is taken for nobody.
    let (code, text) = told(&world, &["--admin", &admin]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("is the gateway running?; who is connected"), "{text}");
    assert!(!text.contains("nobody is connected"), "{text}");
    world.end().await;
}

fn long_name() -> String {
    format!("{}.{}.example", "a".repeat(40), "b".repeat(40))
}

/// A site with what is wrong beside what is right.
fn planted() -> Site {
    let site = Site::made();
    let edge = Authority::load(&site.path("edge-ca"), now()).expect("a CA");
    let server = |name: &str, window| edge.issue_server(&[name], &[], window).expect("one");
    let pair = |name: &str, issued: &sphere_gateway::certs::Issued| {
        site.write(&format!("{name}.chain.pem"), &issued.chain_pem);
        site.write(&format!("{name}.key.pem"), &issued.key_pem);
    };
    let over = Window { not_before: UnixMillis(0), not_after: UnixMillis(now().0 - 1000) };
    let early = Window { not_before: UnixMillis(now().0 + 86_400_000), ..Window::days(now(), 9) };
    let soon =
        Window { not_before: UnixMillis(now().0 - 90 * 86_400_000), ..Window::days(now(), 2) };
    pair("over", &server(NAME, over));
    pair("early", &server(NAME, early));
    pair("soon", &server(NAME, soon));
    pair("long", &server(&long_name(), Window::days(now(), 9)));
    pair("client", &edge.issue_client(NAME, Window::days(now(), 9)).expect("one"));
    // 300 names of 30 bytes.
    let names: Vec<String> =
        (100..400).map(|n| format!("a-rather-long-name-{n}.example")).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.insert(0, NAME);
    pair("wide", &edge.issue_server(&names, &[], Window::days(now(), 9)).expect("one"));
    site.write("big.pem", root(&"R".repeat(3000)).certificate_pem());
    site.write(
        "soon-ca.pem",
        Authority::root("Soon", Curve::P256, soon).expect("a CA").certificate_pem(),
    );
    pair("dotless", &server("localhost", Window::days(now(), 9)));
    let chain = site.text("server.chain.pem");
    let [leaf, ca] = &ders(&chain)[..] else { panic!("{chain}") };
    let top = site.text("edge-root.pem");
    let foreign = root("edge-ca");
    site.write("leaf.pem", pem(leaf));
    site.write("turned.pem", [pem(ca), pem(leaf)].concat());
    site.write("upside-down.pem", [top.clone(), pem(ca), pem(leaf)].concat());
    site.write("shuffled.pem", [pem(ca), top.clone(), pem(leaf)].concat());
    site.write("gap.pem", [pem(leaf), top.clone()].concat());
    site.write("wrong-ca.pem", [pem(leaf), foreign.certificate_pem().to_owned()].concat());
    site.write("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    site.write("two.pem", [top.clone(), site.text("tenant-ca.pem")].concat());
    site.write("big-root.pem", format!("{}{top}", "# why\n".repeat(500)));
    site.write("weak.pem", pem(&with_rsa_1024_key()));
    site.write("sha1.pem", pem(&with_sha1(leaf)));
    site.write("other-root.pem", root("Other").certificate_pem());
    site.write(
        "old-ca.pem",
        Authority::root("Old", Curve::P256, over).expect("a CA").certificate_pem(),
    );
    site.write("open.key.pem", site.text("server.key.pem"));
    site.write("bundle.pem", [site.text("tenant-ca.pem"), pem(leaf)].concat());
    std::fs::create_dir(site.path("folder")).expect("a folder");
    site.write("folder/a.cer", &ders(&site.text("tenant-ca.pem"))[0]);
    site.write("folder/notes.txt", "not looked at");
    site
}

/// What is looked at (NAMED: by the gateway's name), exit status, findings that are no `ok`, a part of their words.
type Fault = (&'static str, i32, &'static [&'static str], &'static str);

const OF_SERVERS: &[Fault] = &[
    ("NAMED over.chain.pem", 1, &["certificate-validity error"], "expired on"),
    ("NAMED early.chain.pem", 1, &["certificate-validity error"], "valid only from"),
    ("NAMED soon.chain.pem", 0, &["certificate-validity warning"], "renew it"),
    ("--server dotless.chain.pem --gateway-name localhost", 0, &["gateway-name warning"], "no dot"),
    (
        "--server server.chain.pem --gateway-name other.example",
        1,
        &["certificate-name error"],
        "SAN",
    ),
    ("--server server.chain.pem", 0, &[], "give --gateway-name"),
    ("NAMED turned.pem --key server.key.pem", 1, &["certificate-chain error"], "out of order"),
    ("NAMED turned.pem", 1, &["certificate-chain error"], "own certificate is #2"),
    ("NAMED upside-down.pem", 1, &["certificate-chain error"], "own certificate is #3"),
    ("NAMED shuffled.pem", 1, &["certificate-chain error"], "own certificate is #3"),
    ("NAMED gap.pem", 1, &["certificate-chain error"], "incomplete"),
    ("NAMED wrong-ca.pem", 1, &["certificate-chain error"], "another key"),
    (
        "NAMED server.chain.pem --key edge-ca.key.pem",
        1,
        &["certificate-chain error"],
        "the key belongs to certificate #2",
    ),
    (
        "NAMED server.chain.pem --key tenant-ca.key.pem",
        1,
        &["certificate-chain error"],
        "does not belong",
    ),
    ("NAMED server.chain.pem --key open.key.pem", 0, &["key-mode warning"], "chmod 600"),
    ("NAMED server.chain.pem --key leaf.pem", 1, &["certificate-chain error"], "no private key"),
    ("NAMED wide.chain.pem", 0, &["certificate-size warning"], "keep it below 8192"),
    (
        "--server server.chain.pem --gateway-name 127.0.0.1",
        1,
        &["certificate-name error", "gateway-name warning"],
        "is an address",
    ),
    (
        "--server long.chain.pem --gateway-name LONG",
        0,
        &["gateway-name warning", "certificate-cn warning"],
        "IoT Edge takes 64",
    ),
    (
        "NAMED client.chain.pem",
        1,
        &["certificate-usage warning", "certificate-name error"],
        "serverAuth",
    ),
    ("NAMED leaf.pem", 0, &["certificate-issuer warning"], "append"),
    (
        "NAMED leaf.pem edge-ca.pem",
        1,
        &["certificate-issuer warning", "certificate-missing error"],
        "edge-ca.pem #1",
    ),
    (
        "NAMED leaf.pem --root edge-root.pem",
        1,
        &["certificate-issuer warning", "certificate-missing error"],
        "incomplete",
    ),
    (
        "NAMED server.chain.pem --root other-root.pem",
        1,
        &["certificate-missing error"],
        "does not lead to",
    ),
    ("NAMED long.chain.pem", 1, &["certificate-name error", "certificate-cn warning"], "X.520"),
];

const OF_FILES: &[Fault] = &[
    (
        "--root big-root.pem",
        1,
        &["certificate-root error"],
        "an Azure Sphere application holds 3072",
    ),
    ("--root leaf.pem", 1, &["root error", "root error"], "is no CA certificate"),
    ("--bundle bundle.pem", 0, &["bundle-refused warning"], "left out: bundle.pem #2"),
    ("--bundle folder", 0, &[], "admitted by 1 CA"),
    ("--bundle soon-ca.pem", 0, &["bundle-entry warning"], "successor"),
    ("big.pem", 0, &["certificate-root warning"], "an Azure Sphere application holds 3072"),
    ("soon-ca.pem", 0, &["validity warning"], "see to its successor"),
    ("--root two.pem", 1, &["root error"], "2 certificates"),
    ("--root edge-ca.pem", 1, &["root error"], "is no root"),
    ("--bundle old-ca.pem", 1, &["bundle-entry warning", "bundle error"], "the CAs of now"),
    ("--bundle leaf.pem", 1, &["bundle error"], "not a CA certificate"),
    ("old-ca.pem", 1, &["validity error"], "get its successor"),
    ("broken.pem", 1, &["file-unreadable error"], "download it again"),
    ("server.key.pem", 1, &["file-empty error"], "no certificate"),
    ("weak.pem", 1, &["weak error"], "RSA 1024"),
    ("sha1.pem", 1, &["weak error"], "ECDSA with SHA-1"),
];

#[test]
fn an_inspection_names_each_fault() {
    let site = planted();
    for (words, code, expected, part) in OF_SERVERS.iter().chain(OF_FILES) {
        let words = words.replace("LONG", &long_name());
        let words = words.replace("NAMED", &format!("--gateway-name {NAME} --server"));
        let (got, wrong, all) = inspected(&site, &words, &[]);
        let wrong: Vec<&str> = wrong.iter().map(String::as_str).collect();
        assert_eq!((got, &*wrong), (*code, *expected), "{words}: {all:#}");
        assert!(all["findings"].to_string().contains(part), "{words}: {all:#}");
    }
}

/// A certificate for an RSA key of 1024 bits.
fn with_rsa_1024_key() -> Vec<u8> {
    use rsa::pkcs8::EncodePublicKey as _;
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 1024).expect("a key");
    let public = key.to_public_key().to_public_key_der().expect("DER");
    let public = rcgen::SubjectPublicKeyInfo::from_der(public.as_bytes()).expect("a key");
    let signer = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(["weak.example".to_owned()]).expect("names");
    let mut params = params;
    let start = rcgen::date_time_ymd(2020, 1, 1);
    (params.not_before, params.not_after) = (start, rcgen::date_time_ymd(2090, 1, 1));
    let issuer = rcgen::Issuer::new(rcgen::CertificateParams::default(), signer);
    params.signed_by(&public, &issuer).expect("a certificate").der().to_vec()
}
