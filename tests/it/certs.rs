//! `certs`, as a person runs it: what is made, what is never overwritten, what is imported.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sphere_gateway::auth::TrustBundle;
use sphere_gateway::auth::x509::{self, CertificateInfo, Piece};
use sphere_gateway::certs::facts::pem;
use sphere_gateway::certs::{Authority, Curve, Window};
use sphere_gateway::clock::{self, UnixMillis};
use tempfile::TempDir;

use crate::der::pkcs7;
use crate::ran::{Ran, program};

/// The gateway of [`Site::made`].
pub(crate) const NAME: &str = "gw.site1.example";

/// A folder to work in.
pub(crate) struct Site(TempDir);

impl Site {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// With root, edge CA, server and tenant CA, as the commands make them.
    pub(crate) fn made() -> Self {
        let site = Self::new();
        for command in [
            "root --out .",
            "edge-ca --out .",
            "server gw.site1.example --out .",
            "root --out . --as tenant-ca --curve p384",
        ] {
            site.certs(command).expect(0);
        }
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).expect(name);
    }

    /// Runs `certs` with these words.
    pub(crate) fn certs(&self, words: &str) -> Ran {
        self.certs_in(words, &[])
    }

    pub(crate) fn certs_in(&self, words: &str, env: &[(&str, &str)]) -> Ran {
        let mut command = program(&["certs"]);
        command.args(words.split_whitespace()).current_dir(self.0.path());
        let ran = Ran::of(command.envs(env.iter().copied()), b"");
        assert!(!ran.out.contains("PRIVATE KEY"), "no key is ever shown");
        ran
    }

    /// All files, with their bytes.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn walk(folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => walk(&path, found),
                    false => found.push((path.clone(), std::fs::read(&path).expect("a file"))),
                }
            }
        }
        let mut found = Vec::new();
        walk(self.0.path(), &mut found);
        found.sort();
        found
    }

    fn mode(&self, name: &str) -> u32 {
        std::fs::metadata(self.path(name)).expect(name).permissions().mode() & 0o777
    }

    /// Makes a CA's files for the test.
    fn write_ca(&self, ca: &Authority, stem: &str) {
        ca.write_to_folder(self.0.path(), stem, false).expect("files");
    }
}

pub(crate) fn infos(text: &str) -> Vec<CertificateInfo> {
    ders(text).iter().map(|der| CertificateInfo::read(&der.clone().into()).expect("one")).collect()
}

pub(crate) fn ders(text: &str) -> Vec<Vec<u8>> {
    let pieces = x509::split(text.as_bytes()).into_iter();
    let der = |piece| match piece {
        Piece::Certificate(der) => Some(der.to_vec()),
        _ => None,
    };
    pieces.filter_map(der).collect()
}

pub(crate) fn now() -> UnixMillis {
    clock::system().wall()
}

pub(crate) fn root(name: &str) -> Authority {
    Authority::root(name, Curve::P256, Window::days(now(), 400)).expect("a CA")
}

/// Runs openssl, if there is one.
fn openssl(folder: &Path, words: &str) -> Option<(bool, String)> {
    let mut command = Command::new("openssl");
    command.args(words.split_whitespace()).current_dir(folder).stdin(Stdio::null());
    let output = command.output().ok()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Some((output.status.success(), said))
}

#[test]
fn each_command_makes_what_the_scripts_of_the_articles_make() {
    let site = Site::made();
    let id = "a1".repeat(64);
    let out = site.certs(&format!("device {id} plain-1 --out .")).expect(0);
    assert_eq!(
        out,
        format!(
            "./devices/{id}.chain.pem\n./devices/{id}.key.pem\n./devices/plain-1.chain.pem\n./devices/plain-1.key.pem\n"
        )
    );
    let ran = site.certs("prove A1B2C3D4E5F6 --out .").ended(0);
    assert_eq!(ran.out, "./tenant-ca.proof.pem\n");
    assert!(ran.err.contains("Certificates -> tenant-ca -> Verify"), "{}", ran.err);
    // The name is taken as in `certs` and `certs inspect`, too.
    site.certs("server --gateway-name gw.b.example 127.0.0.1 --as other --out .").expect(0);
    let ran = site.certs("inspect other.chain.pem").ended(0);
    assert!(ran.out.contains("gw.b.example") && ran.out.contains("127.0.0.1"), "{}", ran.out);

    let (chain, proof) =
        (infos(&site.text("server.chain.pem")), infos(&site.text("tenant-ca.proof.pem")));
    let edge = infos(&site.text("edge-ca.pem"));
    assert_eq!(
        chain.iter().map(|c| &*c.subject).collect::<Vec<_>>(),
        ["CN=gw.site1.example", "CN=edge-ca"]
    );
    assert_eq!((&*edge[0].issuer, &chain[1].sha256), ("CN=edge-root", &edge[0].sha256));
    assert_eq!(
        (proof[0].common_name.as_deref(), &*proof[0].issuer),
        (Some("A1B2C3D4E5F6"), "CN=tenant-ca")
    );
    assert!(!site.path("tenant-ca.proof.key.pem").exists(), "nobody needs the key of a proof");

    // The gateway's own judgement: the device logs in by the tenant's CA, under its id.
    let bundle = TrustBundle::load(&[site.path("tenant-ca.pem")]).expect("a bundle");
    let leaf = ders(&site.text(&format!("devices/{id}.chain.pem"))).remove(0);
    assert_eq!(bundle.verify(&[leaf.into()], now()).expect("let in").common_name, id);
    // A Sphere application keeps 3 KiB.
    assert!(site.text("edge-root.pem").len() < 1024);

    for (path, bytes) in site.files() {
        let mode = std::fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        let is_key = String::from_utf8_lossy(&bytes).contains("PRIVATE KEY");
        assert_eq!(is_key, path.to_string_lossy().ends_with(".key.pem"), "{path:?}");
        assert_eq!(mode & 0o077 == 0, is_key, "{path:?} has mode {mode:o}");
    }
    for words in [
        "verify -x509_strict -CAfile edge-root.pem edge-ca.pem".to_owned(),
        "verify -x509_strict -purpose sslserver -verify_hostname gw.site1.example -CAfile edge-root.pem -untrusted edge-ca.pem server.chain.pem".to_owned(),
        format!("verify -purpose sslclient -CAfile tenant-ca.pem devices/{id}.chain.pem"),
        "verify -CAfile tenant-ca.pem tenant-ca.proof.pem".to_owned(),
    ] {
        if let Some((is_fine, said)) = openssl(site.0.path(), &words) {
            assert!(is_fine, "{words}: {said}");
        }
    }
}

#[test]
fn nothing_that_is_there_is_overwritten_without_force() {
    let site = Site::made();
    site.certs("device d1 --out .").expect(0);
    site.certs("prove code --out .").expect(0);
    let before = site.files();
    for command in [
        "root --out .",
        "edge-ca --out .",
        "server gw.site1.example --out .",
        "device d0 d1 --out .",
        "prove code --out .",
    ] {
        let err = site.certs(command).ended(1).err;
        assert!(err.contains("exists") && err.contains("--force"), "{command}: {err}");
        assert_eq!(site.files(), before, "{command} changed something");
    }
    let err = site.certs("prove code --out .").ended(1).err;
    assert!(!err.contains("replace the keys"), "no key is at stake: {err}");
    // A key alone is enough: with another certificate it is as good as lost. A link counts, too.
    std::fs::remove_file(site.path("edge-root.pem")).expect("there");
    site.certs("root --out .").expect(1);
    std::os::unix::fs::symlink("nowhere", site.path("link.key.pem")).expect("a link");
    site.certs("root --out . --as link").expect(1);
    assert!(!site.path("link.pem").exists() && !site.path("nowhere").exists());
    assert!(!site.path("edge-root.pem").exists(), "no half of a pair");

    // With --force the pair is new, and the key is its owner's alone whatever the old one was.
    let key = site.path("edge-root.key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("ours");
    let old = site.text("edge-root.key.pem");
    site.certs("root --out . --force").expect(0);
    assert_ne!(site.text("edge-root.key.pem"), old);
    assert_eq!(site.mode("edge-root.key.pem"), 0o600);
    Authority::load(&site.path("edge-root"), now()).expect("the two belong together");
}

#[test]
fn what_fails_half_way_leaves_everything_as_it_was() {
    let site = Site::made();
    // The second file cannot be replaced: it is a folder.
    std::fs::create_dir(site.path("other.key.pem")).expect("a folder");
    site.write("other.pem", "mine");
    let before = site.files();
    for command in ["root --out . --as other --force", "root --out . --as other"] {
        site.certs(command).expect(1);
        assert_eq!(site.files(), before, "{command}");
    }
    // `devices` is no folder: no file can be made in it.
    site.write("devices", "");
    let before = site.files();
    site.certs("device d1 --out .").expect(1);
    assert_eq!(site.files(), before);
}

#[test]
fn what_cannot_be_made_is_told_with_what_to_do() {
    let site = Site::made();
    let long = "x".repeat(65);
    site.certs("edge-ca --out . --as sub --ca edge-ca").expect(64);
    let (old, young) =
        (Window { not_before: UnixMillis(0), not_after: UnixMillis(1000) }, Window::days(now(), 3));
    site.write_ca(&Authority::root("Old", Curve::P256, old).expect("a CA"), "old");
    site.write_ca(&Authority::root("Young", Curve::P256, young).expect("a CA"), "young");
    site.write_ca(&root("A"), "a");
    std::fs::copy(site.path("a.pem"), site.path("mixed.pem")).expect("copied");
    std::fs::copy(site.path("young.key.pem"), site.path("mixed.key.pem")).expect("copied");
    let server = root("S").issue_server(&["s.example"], &[], Window::days(now(), 3)).expect("one");
    site.write("leaf.pem", &server.leaf_pem);
    site.write("leaf.key.pem", &server.key_pem);
    for (command, code, part) in [
        ("edge-ca --out . --as sub --ca edge-ca", 64, "path length is 0"),
        ("edge-ca --out . --as sub --name edge-root", 64, "the name of its root"),
        ("server --out .", 64, "GATEWAY-NAME"),
        (&*format!("server {long} --out ."), 64, "host names of 64"),
        ("server gw:8883 --out .", 64, "no host name"),
        ("server größe.example --out .", 64, "no host name"),
        ("server s.example --out . --as ../s", 64, "no name of a file"),
        ("device --out .", 64, "<ID>"),
        ("device a/b --out .", 64, "IoT Hub allows"),
        (&*format!("device {} --out .", "x".repeat(129)), 64, "129 bytes"),
        ("device a a --out .", 64, "twice"),
        ("device a --out . --days 0", 64, "1 to 3650"),
        ("device a --out . --ca gone", 1, "make the CA first"),
        ("device a --out . --ca old", 1, "expired on 1970"),
        ("device a --out . --ca mixed", 1, "another key than its certificate"),
        ("device a --out . --ca leaf", 1, "no CA certificate"),
        ("root --out . --curve rsa", 64, "p256"),
        (&*format!("root --out . --as b --name {long}"), 64, "1 to 64 characters"),
    ] {
        let ran = site.certs(command).ended(code);
        assert!(ran.err.contains(part), "{command}: {}", ran.err);
    }
    assert!(!site.path("devices").exists() && !site.path("sub.pem").exists(), "nothing was made");
    // No leaf outlives its CA, and who asked for more is told.
    let ran = site.certs("device late --out . --ca young --days 90").ended(0);
    assert!(ran.err.contains("only, when its CA Young ends"), "{}", ran.err);
    let (leaf, ca) = (infos(&site.text("devices/late.chain.pem")), infos(&site.text("young.pem")));
    assert_eq!(leaf[0].not_after, ca[0].not_after);
    let ran = site.certs("server localhost --out . --as dotless").ended(0);
    assert!(ran.err.contains("no name has a dot"), "{}", ran.err);
}

#[test]
fn a_ca_that_openssl_made_signs_too() {
    let site = Site::new();
    // The first two are SEC1, the others PKCS#8.
    for (id, words) in [
        ("sec1-p256", "ecparam -name prime256v1 -genkey -noout"),
        ("sec1-p384", "ecparam -name secp384r1 -genkey -noout"),
        ("p256", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"),
        ("rsa", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048"),
    ] {
        let made = openssl(site.0.path(), &format!("{words} -out own.key.pem"));
        let Some((true, _)) = made else { return };
        let is_sec1 = site.text("own.key.pem").contains("EC PRIVATE KEY");
        assert_eq!(is_sec1, id.starts_with("sec1"));
        let (is_fine, said) = openssl(
            site.0.path(),
            "req -new -x509 -key own.key.pem -days 30 -subj /CN=Own -addext keyUsage=critical,keyCertSign -out own.pem",
        )
        .expect("it ran before");
        assert!(is_fine, "{said}");
        site.certs(&format!("device {id} --out . --ca own")).expect(0);
        let bundle = TrustBundle::load(&[site.path("own.pem")]).expect("a bundle");
        let leaf = ders(&site.text(&format!("devices/{id}.chain.pem"))).remove(0);
        bundle.verify(&[leaf.into()], now()).expect("let in");
    }
}

#[test]
fn an_import_takes_every_form_that_the_gateway_reads() {
    let (one, two, three) = (root("One"), root("Two"), root("Three"));
    let der = |ca: &Authority| ders(ca.certificate_pem()).remove(0);
    let both = pkcs7(&[der(&one), der(&two)]);
    let p7b_pem = pem(&both).replace("CERTIFICATE", "PKCS7");
    let windows = one.certificate_pem().replace('\n', "\r\n");
    for (name, bytes, count) in [
        ("a.pem", one.certificate_pem().as_bytes().to_vec(), 1),
        ("b.cer", der(&one), 1),
        ("c.cer", windows.into_bytes(), 1),
        ("d.pem", [one.certificate_pem(), two.certificate_pem()].concat().into_bytes(), 2),
        ("e.p7b", both.clone(), 2),
        ("f.p7b", p7b_pem.into_bytes(), 2),
    ] {
        let site = Site::new();
        site.write(name, &bytes);
        site.write("three.cer", der(&three));
        let ran = site.certs(&format!("import {name} three.cer --out b.pem")).ended(0);
        let expected = count + 1;
        let loaded = TrustBundle::load(&[site.path("b.pem")]).expect("a bundle");
        assert_eq!((loaded.entries().len(), loaded.refused().len()), (expected, 0), "{name}");
        assert!(
            ran.out.contains("CN=Three") && ran.out.contains(&format!("{expected} CA")),
            "{}",
            ran.out
        );
        // The gateway is another user than who imports.
        assert_eq!(site.mode("b.pem"), 0o644);
    }
}

#[test]
fn revocation_lists_come_with_the_cas_once() {
    let site = Site::new();
    let one = root("One");
    site.write("one.pem", one.certificate_pem());
    let leaf = one.issue_client("device", Window::days(now(), 3)).expect("one");
    site.write("one.crl", crate::bundle::revocation_list(&one, &leaf.leaf_pem));
    site.write("bad.crl", "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n");
    let ran = site.certs("import one.pem one.crl").ended(0);
    assert!(ran.out.contains("1 CA added, 0 before, 1 revocation list added"), "{}", ran.out);
    let ran = site.certs("import one.crl one.pem").ended(0);
    assert!(!ran.out.contains("revocation"), "it is there already: {}", ran.out);
    let loaded = TrustBundle::load(&[site.path("trust-bundle.pem")]).expect("a bundle");
    assert_eq!((loaded.entries().len(), loaded.list_count(), loaded.refused().len()), (1, 1, 0));
    let ran = site.certs("import bad.crl one.pem").ended(1);
    assert!(ran.err.contains("left out: bad.crl #1"), "{}", ran.err);
    assert_eq!(site.text("trust-bundle.pem").matches("BEGIN X509 CRL").count(), 1);
}

#[test]
fn an_import_adds_what_is_new_and_keeps_what_was_there() {
    let site = Site::new();
    let (one, two) = (root("One"), root("Two"));
    let leaf = one.issue_client("device", Window::days(now(), 3)).expect("one");
    site.write("one.pem", format!("# the old tenant\n{}", one.certificate_pem()));
    site.write("two.pem", two.certificate_pem());
    site.write("leaf.pem", &leaf.leaf_pem);
    site.write("key.pem", &leaf.key_pem);
    site.write("none.cer", "<html>");
    site.certs("import one.pem").expect(0);
    assert!(!site.text("trust-bundle.pem").contains('#'), "certificates alone come in");
    site.write("trust-bundle.pem", site.text("one.pem"));
    let ran = site.certs("import two.pem one.pem").ended(0);
    assert!(
        ran.out.contains("trust-bundle.pem: 1 CA added, 1 before, 1 of the files there already"),
        "{}",
        ran.out
    );
    let expected = format!("# the old tenant\n{}{}", one.certificate_pem(), two.certificate_pem());
    assert_eq!(site.text("trust-bundle.pem"), expected);
    let ran = site.certs("import two.pem").ended(0);
    assert!(ran.out.contains("0 CAs added, 2 before"), "{}", ran.out);

    for (command, code, part) in [
        ("import none.cer", 64, "nothing is imported"),
        ("import leaf.pem", 64, "not a CA certificate"),
        ("import key.pem", 64, "private key"),
        ("import gone.cer", 64, "cannot read"),
        ("import .", 64, "is a folder"),
        ("import", 64, "FILE"),
    ] {
        let ran = site.certs(command).ended(code);
        assert!(ran.err.contains(part), "{command}: {}", ran.err);
        assert_eq!(site.text("trust-bundle.pem"), expected, "{command}");
    }
    // One bad file does not keep the good one out; the exit status tells.
    let ran = site.certs("import key.pem two.pem --out other.pem").ended(1);
    assert!(ran.err.contains("left out: key.pem #1"), "{}", ran.err);
    assert_eq!(site.text("other.pem"), two.certificate_pem());
    site.certs("import one.pem --out other.pem --replace").expect(0);
    assert_eq!(site.text("other.pem"), one.certificate_pem());
    // A bundle with a key in it is not written again.
    site.write("keyed.pem", [&leaf.key_pem, one.certificate_pem()].concat());
    let ran = site.certs("import two.pem --out keyed.pem").ended(64);
    assert!(ran.err.contains("take the key out"), "{}", ran.err);
    // A DER bundle becomes PEM.
    site.write("der.cer", ders(one.certificate_pem()).remove(0));
    site.certs("import two.pem --out der.cer").expect(0);
    assert_eq!(site.text("der.cer"), [one.certificate_pem(), two.certificate_pem()].concat());
}

#[test]
fn of_a_chain_the_tenant_s_own_ca_can_be_taken_alone() {
    let site = Site::new();
    let top = root("Everybody");
    let own = top.intermediate("Tenant", Curve::P256, Window::days(now(), 100)).expect("a CA");
    site.write("chain.pem", [top.certificate_pem(), own.certificate_pem()].concat());
    let ran = site.certs("import chain.pem").ended(0);
    assert!(ran.err.contains("CN=Everybody signed another CA"), "{}", ran.err);
    assert_eq!(site.text("trust-bundle.pem").matches("BEGIN").count(), 2);
    let ran = site.certs("import chain.pem --lowest --replace").ended(0);
    assert!(ran.out.contains("left out: it stands above another"), "{}", ran.out);
    assert_eq!(site.text("trust-bundle.pem"), own.certificate_pem());
}

#[test]
fn an_import_replaces_neither_a_key_nor_what_is_no_bundle() {
    let site = Site::made();
    let key = site.text("edge-root.key.pem");
    let pkcs8 = ders(&key.replace("PRIVATE KEY", "CERTIFICATE")).remove(0);
    site.write("pkcs8.der", &pkcs8);
    // RFC 5915 section 3: SEQUENCE, version 1, the key's bytes, the curve P-256.
    let sec1 = [
        &b"\x30\x31\x02\x01\x01\x04\x20"[..],
        &[7; 32],
        b"\xa0\x0a\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
    ];
    site.write("sec1.der", sec1.concat());
    site.write("wrapped.pem", pem(&pkcs8));
    site.write("both.pem", [&*site.text("edge-root.pem"), &key].concat());
    site.write("notes.txt", "what I must not forget\n");
    site.write("cut.cer", &ders(&site.text("edge-root.pem"))[0][..100]);
    let before = site.files();
    for (name, part) in [
        ("edge-root.key.pem", "holds a private key"),
        ("pkcs8.der", "holds a private key"),
        ("sec1.der", "holds a private key"),
        ("wrapped.pem", "holds a private key"),
        ("both.pem", "holds a private key"),
        ("notes.txt", "no certificate"),
        ("cut.cer", "no certificate"),
    ] {
        for flags in ["", "--replace", "--replace --lowest"] {
            let ran = site.certs(&format!("import tenant-ca.pem --out {name} {flags}")).ended(64);
            assert!(ran.err.contains(part), "{name} {flags}: {}", ran.err);
            assert!(!ran.err.contains("--replace"), "no way to lose it: {}", ran.err);
            assert_eq!(site.files(), before, "{name} {flags}");
        }
    }
    // A bundle whose certificates do not serve is one.
    site.write("leaf.pem", site.text("server.chain.pem"));
    site.write("empty.pem", "\n");
    for name in ["leaf.pem", "empty.pem"] {
        site.certs(&format!("import tenant-ca.pem --out {name} --replace")).expect(0);
        assert_eq!(site.text(name), site.text("tenant-ca.pem"));
    }
}
