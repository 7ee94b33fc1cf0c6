//! `certs inspect`: certificates by themselves, a trust bundle and a server's chain, judged as `check` judges them.
//!
//! Owns: what is looked at, and which findings follow. Invariant: it reads files and changes nothing; of a key it says only
//! whether it fits. Must not know: how certificates are printed ([`crate::command::certs::listing`]).

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;

use super::certificate::{self, SPHERE_ROOT_BYTES_MAX};
use super::dependents;
use crate::auth::TrustBundle;
use crate::auth::bundle::FILE_BYTES_MAX;
use crate::auth::x509::{self, Piece, Validity};
use crate::certs::facts::{Facts, pem};
use crate::clock::UnixMillis;
use crate::command::certs::listing::{self, Shown};
use crate::command::check::{Finding, Group, Report, plural};
use crate::command::{CommandError, End, InspectArgs};
use crate::config;
use crate::front::tls::{ServerChain, ServerIdentity, ServerIdentityError};

/// Handshakes with an Azure Sphere device are to stay small: half of a record of 16 KiB, which is wolfSSL's most
/// (iothub-protocol.md E).
const SPHERE_CHAIN_BYTES_MAX: usize = 8 * 1024;

/// Longest common name of a server (X.520).
const NAME_CHARS_MAX: usize = 64;

/// Shows and judges what `args` name; nothing named: what the environment configures, and who is connected to the gateway
/// whose administrator's door is at `admin`.
///
/// # Errors
/// See [`CommandError`].
pub fn inspect(
    args: &InspectArgs,
    configured: &config::Certificates,
    admin: Option<SocketAddr>,
    now: UnixMillis,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let mut args = args.clone();
    if args.is_empty() {
        args.bundle.clone_from(&configured.bundle);
        args.server.clone_from(&configured.server);
        args.key.clone_from(&configured.key);
        args.admin = args.admin.or_else(|| admin.map(|address| address.to_string()));
    }
    if args.is_empty() {
        let text = "nothing to look at: name FILEs, --bundle, --server or --root; what the IoT Edge daemon gives is looked at \
                    by `sphere-gateway check`";
        return Err(CommandError::Usage(text.to_owned()));
    }
    if args.gateway_name.is_none() {
        args.gateway_name.clone_from(&configured.gateway_name);
    }
    let mut look = Look {
        now,
        shown: Vec::new(),
        ders: Vec::new(),
        serving: Vec::new(),
        findings: Vec::new(),
    };
    look.all(&args, configured.scope.as_deref())?;
    look.weak();
    look.who_is_connected(args.admin.as_deref(), !args.bundle.is_empty());
    look.who_signed_whom();
    let Look { shown, findings, .. } = look;
    let report = Report::new(findings, false);
    listing::print(&shown, &report, now, args.json, out)?;
    Ok(if report.exit_status() == 0 { End::Fine } else { End::Found })
}

/// A look under way.
struct Look {
    now: UnixMillis,
    shown: Vec<Shown>,
    /// Parallel to `shown`.
    ders: Vec<CertificateDer<'static>>,
    /// SHA-256 of the CAs of the bundle that can let clients in.
    serving: Vec<String>,
    findings: Vec<Finding>,
}

fn group(role: &str) -> Group {
    match role {
        "bundle" => Group::Bundle,
        "file" => Group::Files,
        _ => Group::Certificate,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    let cannot = |why: String| {
        let path = path.display();
        CommandError::Usage(format!("cannot read {path}: {why}; correct the path or permissions"))
    };
    let facts = std::fs::metadata(path).map_err(|e| cannot(e.to_string()))?;
    if facts.len() > FILE_BYTES_MAX {
        return Err(cannot(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read(path).map_err(|e| cannot(e.to_string()))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

impl Look {
    fn all(&mut self, args: &InspectArgs, scope: Option<&Path>) -> Result<(), CommandError> {
        for path in &args.files {
            self.file(path)?;
        }
        if !args.bundle.is_empty() {
            self.bundle(&args.bundle, scope)?;
        }
        let root = match &args.root {
            Some(path) => self.root(path)?,
            None => None,
        };
        if let Some(path) = &args.server {
            self.server(path, args, root.as_ref())?;
        }
        Ok(())
    }

    /// Adds the certificates of a file to what is shown; gives them, and what else is in it in words.
    fn add(
        &mut self,
        path: &Path,
        bytes: &[u8],
        role: &'static str,
    ) -> (Vec<CertificateDer<'static>>, Vec<String>) {
        let (mut ders, mut others) = (Vec::new(), Vec::new());
        for (index, piece) in x509::split(bytes).into_iter().enumerate() {
            let source = format!("{} #{}", file_name(path), index + 1);
            match piece {
                Piece::Certificate(der) => match Facts::read(&der) {
                    Ok(facts) => {
                        self.shown.push(Shown {
                            source,
                            role,
                            facts,
                            signed: Vec::new(),
                            dependents: None,
                        });
                        self.ders.push(der.clone());
                        ders.push(der);
                    }
                    Err(e) => others.push(format!("{source}: {e}")),
                },
                Piece::Unusable(why) => others.push(format!("{source}: {why}")),
                // A key beside its certificate is the owner's matter; a revocation list is the bundle's.
                _ => {}
            }
        }
        (ders, others)
    }

    fn file(&mut self, path: &Path) -> Result<(), CommandError> {
        const GROUP: Group = Group::Files;
        let from = self.shown.len();
        let (ders, others) = self.add(path, &read(path)?, "file");
        let is_empty = ders.is_empty() && others.is_empty();
        for what in others {
            self.findings.push(GROUP.error("file-unreadable", what, "export or download it again"));
        }
        if is_empty {
            let text = format!("{} has no certificate", path.display());
            self.findings.push(GROUP.error("file-empty", text, "name a file with certificates"));
        }
        let mut told = Vec::new();
        for shown in &self.shown[from..] {
            told.push(validity(shown, self.now));
            let facts = &shown.facts;
            if facts.is_ca && facts.info.self_issued && facts.pem_bytes > SPHERE_ROOT_BYTES_MAX {
                told.push(too_big(Group::Files, &shown.source, facts.pem_bytes));
            }
        }
        self.findings.extend(told);
        Ok(())
    }

    fn bundle(&mut self, paths: &[PathBuf], scope: Option<&Path>) -> Result<(), CommandError> {
        const GROUP: Group = Group::Bundle;
        for path in paths {
            match path.is_dir() {
                // The loader tells which of a folder's files count.
                true => self.folder(path)?,
                false => drop(self.add(path, &read(path)?, "bundle")),
            }
        }
        match TrustBundle::load(paths) {
            Ok(bundle) => {
                self.findings.extend(certificate::entries(&bundle, self.now));
                self.serving = bundle.entries().iter().map(|e| e.info.sha256.clone()).collect();
            }
            Err(e) => {
                let todo =
                    "put the certificates of the tenant's CAs into it: `certs import FILE...`";
                self.findings.push(GROUP.error("bundle", e.to_string(), todo));
            }
        }
        self.findings.push(dependents::of_scope(scope));
        Ok(())
    }

    fn folder(&mut self, folder: &Path) -> Result<(), CommandError> {
        let cannot = |e: std::io::Error| {
            CommandError::Usage(format!("cannot read {}: {e}", folder.display()))
        };
        let bundle = TrustBundle::load(&[folder]).unwrap_or_else(|_| TrustBundle::empty());
        let serves = |name: &str| bundle.entries().iter().any(|e| e.source.starts_with(name));
        let mut files = Vec::new();
        for item in std::fs::read_dir(folder).map_err(cannot)? {
            files.push(item.map_err(cannot)?.path());
        }
        files.sort();
        for path in files.iter().filter(|path| serves(&format!("{} #", file_name(path)))) {
            self.add(path, &read(path)?, "bundle");
        }
        Ok(())
    }

    /// What devices hold: one root, small enough.
    fn root(&mut self, path: &Path) -> Result<Option<CertificateDer<'static>>, CommandError> {
        const GROUP: Group = Group::Certificate;
        const ID: &str = "root";
        let bytes = read(path)?;
        let from = self.shown.len();
        let (mut ders, _) = self.add(path, &bytes, "root");
        let name = path.display();
        if ders.len() != 1 {
            let text = format!(
                "{name} has {}: devices need their root alone",
                plural(ders.len() as u64, "certificate")
            );
            self.findings.push(GROUP.error(
                ID,
                text,
                "keep the self-signed root of the chain in it, nothing else",
            ));
            return Ok(None);
        }
        let shown = &self.shown[from];
        let (facts, now) = (&shown.facts, self.now);
        let mut told = vec![validity(shown, now)];
        if !facts.is_ca {
            let todo = "give devices the CA at the end of the chain, not the server's certificate";
            told.push(GROUP.error(ID, format!("{name} is no CA certificate"), todo));
        }
        if !facts.info.self_issued {
            let text = format!("{name} is no root: {} signed it", facts.info.issuer);
            let todo =
                "give devices the self-signed root: their TLS does not end at an intermediate";
            told.push(GROUP.error(ID, text, todo));
        }
        // The file as it is packed into the application, with what is around the certificate.
        told.push(match bytes.len() > SPHERE_ROOT_BYTES_MAX {
            true => too_big(GROUP, &name.to_string(), bytes.len()),
            false => GROUP.ok("certificate-root", format!("{name} has {} bytes", bytes.len())),
        });
        self.findings.extend(told);
        Ok(ders.pop())
    }

    fn server(
        &mut self,
        path: &Path,
        args: &InspectArgs,
        root: Option<&CertificateDer<'static>>,
    ) -> Result<(), CommandError> {
        const GROUP: Group = Group::Certificate;
        let bytes = read(path)?;
        let from = self.shown.len();
        self.add(path, &bytes, "server");
        let name = args.gateway_name.as_deref();
        let judged = match &args.key {
            Some(path) => {
                let key = read(path)?;
                // The name is judged below, with the rest.
                let fits =
                    ServerIdentity::from_pem(&bytes, &key, name.unwrap_or_default(), self.now);
                if !matches!(fits, Err(ServerIdentityError::NoKey)) {
                    self.findings.extend(readable_by_others(path));
                }
                fits.and_then(|_| ServerChain::from_pem(&bytes, name, self.now))
            }
            None => ServerChain::from_pem(&bytes, name, self.now),
        };
        let chain = match judged {
            Ok(chain) => chain,
            Err(e) => {
                self.findings.push(GROUP.error("certificate-chain", e.to_string(), todo(&e)));
                return Ok(());
            }
        };
        let n = plural(chain.certificates().len() as u64, "certificate");
        let fits = match args.key {
            Some(_) => ", and the key fits",
            None => "; its key was not looked at (--key)",
        };
        let text = format!("{n}, leaf first{fits}: {}", chain.leaf().subject);
        self.findings.push(GROUP.ok("certificate-chain", text));
        self.findings.extend(certificate::chain(&chain, name, self.now, false));
        self.findings.extend(names(name, &chain));
        for shown in &self.shown[from + 1..] {
            if certificate::is_soon(&shown.facts.info, self.now) {
                self.findings.push(validity(shown, self.now));
            }
        }
        let size: usize = chain.certificates().iter().map(|der| der.len()).sum();
        if size > SPHERE_CHAIN_BYTES_MAX {
            let text = format!(
                "the chain has {size} bytes; keep it below {SPHERE_CHAIN_BYTES_MAX} for an Azure Sphere device"
            );
            let todo = "use P-256 keys, and leave the root out of the chain";
            self.findings.push(GROUP.warning("certificate-size", text, todo));
        }
        self.complete(&chain, root);
        Ok(())
    }

    /// Whether the chain leads to the root that devices hold.
    fn complete(&mut self, chain: &ServerChain, root: Option<&CertificateDer<'static>>) {
        const GROUP: Group = Group::Certificate;
        const ID: &str = "certificate-missing";
        let last = chain.certificates().last().and_then(|der| Facts::read(der).ok());
        let Some(last) = last.map(|facts| facts.info) else { return };
        if let Some(root) = root {
            let is_it = |der: &CertificateDer<'_>| der == root;
            let mut text: String = chain.certificates().iter().map(|der| pem(der)).collect();
            if !chain.certificates().iter().any(is_it) {
                text.push_str(&pem(root));
            }
            self.findings.push(match ServerChain::from_pem(text.as_bytes(), None, self.now) {
                Ok(_) => GROUP.ok(ID, "the chain leads to the root that devices hold (--root)"),
                Err(e) => {
                    let text = format!("the chain does not lead to the root that devices hold: {e}");
                    let todo = "append the certificates of the CAs between the chain and the root, or give devices the root of this chain";
                    GROUP.error(ID, text, todo)
                }
            });
            return;
        }
        let is_issuer = |shown: &&Shown| shown.facts.info.subject == last.issuer;
        let between = self.shown.iter().filter(|s| !s.facts.info.self_issued).find(is_issuer);
        match between {
            Some(shown) if !last.self_issued => {
                let text = format!(
                    "the chain lacks the intermediate {}, which is in {}",
                    last.issuer, shown.source
                );
                let todo = "append that certificate to the chain: an Azure Sphere device does not look for it";
                self.findings.push(GROUP.error(ID, text, todo));
            }
            _ => {
                self.findings.push(certificate::root(chain.certificates(), &self.ders));
            }
        }
    }

    /// Keys and signatures that no longer protect.
    fn weak(&mut self) {
        const ID: &str = "weak";
        for Shown { source, role, facts, .. } in &self.shown {
            let group = group(role);
            if facts.weak_key {
                let text = format!("{source} has a key of {}, which is too weak", facts.key);
                let todo =
                    "replace it by one with a P-256 key: this gateway and current TLS refuse it";
                self.findings.push(group.error(ID, text, todo));
            }
            // A root's own signature protects nothing.
            if facts.weak_signature && !facts.info.self_issued {
                let text = format!("{source} was signed {}, which is broken", facts.signature);
                let todo =
                    "have it issued again with SHA-256: this gateway and current TLS refuse it";
                self.findings.push(group.error(ID, text, todo));
            }
        }
    }

    /// Which clients of the running gateway depend on which CA.
    fn who_is_connected(&mut self, admin: Option<&str>, has_bundle: bool) {
        let lets_in = |shown: &&mut Shown| {
            shown.facts.is_ca && matches!(group(shown.role), Group::Bundle | Group::Files)
        };
        let mut cas = self.shown.iter_mut().filter(lets_in).peekable();
        if cas.peek().is_none() {
            return;
        }
        let (told, findings) = dependents::of_gateway(admin, has_bundle.then_some(&self.serving));
        for shown in cas {
            shown.dependents = told.as_ref().map(|told| told.on(&shown.facts.info.sha256));
        }
        self.findings.extend(findings);
    }

    /// Which of the certificates shown depend on which.
    fn who_signed_whom(&mut self) {
        let all: Vec<(String, String, bool)> = self
            .shown
            .iter()
            .map(|s| (s.source.clone(), s.facts.info.issuer.clone(), s.facts.info.self_issued))
            .collect();
        for shown in self.shown.iter_mut().filter(|shown| shown.facts.is_ca) {
            let subject = &shown.facts.info.subject;
            let by_it = all.iter().filter(|(_, issuer, own)| issuer == subject && !own);
            shown.signed = by_it.map(|(source, ..)| source.clone()).collect();
        }
    }
}

fn validity(shown: &Shown, now: UnixMillis) -> Finding {
    const ID: &str = "validity";
    let (group, info) = (group(shown.role), &shown.facts.info);
    let who = format!("{}, {}", info.subject, shown.source);
    match info.validity(now) {
        Validity::Expired => {
            let text = format!("{who}: expired on {}", x509::utc(info.not_after));
            group.error(ID, text, "get its successor")
        }
        Validity::NotYet => {
            let text = format!("{who}: valid only from {}", x509::utc(info.not_before));
            group.error(ID, text, "set this machine's time, or wait")
        }
        Validity::Valid if certificate::is_soon(info, now) => {
            let text = format!("{who}: {}", certificate::left(info, now));
            group.warning(ID, text, "see to its successor")
        }
        Validity::Valid => group.ok(ID, format!("{who}: {}", certificate::left(info, now))),
    }
}

fn too_big(group: Group, what: &str, bytes: usize) -> Finding {
    let text = format!(
        "{what} has {bytes} bytes in PEM: an Azure Sphere application holds {SPHERE_ROOT_BYTES_MAX}"
    );
    let todo = "make the root with a P-256 key (`certs root`), and pack nothing else into the file";
    match group {
        // It is meant for devices: it does not work.
        Group::Certificate => group.error("certificate-root", text, todo),
        _ => group.warning("certificate-root", text, todo),
    }
}

/// What a name does to devices, however well it is certified.
fn names(name: Option<&str>, chain: &ServerChain) -> Vec<Finding> {
    const GROUP: Group = Group::Certificate;
    const ID: &str = "certificate-name";
    let mut findings = Vec::new();
    match name {
        None => {
            let why = "no gateway name to compare with: give --gateway-name";
            findings.push(GROUP.skipped(ID, why));
        }
        Some(name) if !name.contains('.') => {
            let text = format!(
                "the gateway's name {name} has no dot: an Azure Sphere application cannot use it"
            );
            let todo = "give the gateway a name with a domain, e.g. gw.site1.example, in DNS and in the certificate";
            findings.push(GROUP.warning("gateway-name", text, todo));
        }
        Some(name) if name.parse::<std::net::IpAddr>().is_ok() => {
            let text = format!(
                "the gateway's name {name} is an address: wolfSSL of Azure Sphere compares host names"
            );
            findings.push(GROUP.warning("gateway-name", text, "give the gateway a name in DNS"));
        }
        Some(name) if name.len() > NAME_CHARS_MAX => {
            let text = format!(
                "the gateway's name has {} characters: IoT Edge takes {NAME_CHARS_MAX}",
                name.len()
            );
            findings.push(GROUP.warning("gateway-name", text, "choose a shorter one"));
        }
        Some(_) => {}
    }
    let cn = chain.leaf().common_name.as_deref().unwrap_or_default().chars().count();
    if cn > NAME_CHARS_MAX {
        let text = format!(
            "the server's common name has {cn} characters, X.520 allows {NAME_CHARS_MAX}: some devices refuse it"
        );
        findings.push(GROUP.warning("certificate-cn", text, "make it with a shorter common name"));
    }
    findings
}

fn todo(error: &ServerIdentityError) -> &'static str {
    match error {
        ServerIdentityError::Read { .. } => "correct the path or the file's permissions",
        ServerIdentityError::Certificate { .. } => "export the chain again, as PEM",
        ServerIdentityError::NoKey | ServerIdentityError::Key(_) => {
            "name the server's own key file"
        }
        ServerIdentityError::LeafNotFirst { .. }
        | ServerIdentityError::CaFirst { .. }
        | ServerIdentityError::Order { .. } => {
            "put the certificates in the order leaf, its CA, that one's CA"
        }
        ServerIdentityError::Gap { .. } => "put the missing CA between them",
        ServerIdentityError::KeyMismatch { .. } | ServerIdentityError::Signature(_) => {
            "take certificate, key and CA of one and the same issue, or make them anew (`certs server`)"
        }
    }
}

fn readable_by_others(key: &Path) -> Option<Finding> {
    let mode = std::fs::metadata(key).ok()?.permissions().mode() & 0o777;
    let text = format!("{} has mode {mode:o}: others can read the key", key.display());
    let todo = format!("chmod 600 {}", key.display());
    (mode & 0o077 != 0).then(|| Group::Certificate.warning("key-mode", text, todo))
}
