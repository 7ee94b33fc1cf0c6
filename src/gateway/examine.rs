//! `check`: everything that this gateway needs, looked at one after the other, and told with what to do.
//!
//! Owns: the order of the examination and the time limits: what hangs costs its own line, and the whole takes less than a
//! minute where the hub cannot be reached. Invariants: it goes on after errors; what cannot be looked at because something
//! else is wrong is skipped and says so; it changes nothing (small files in the storage folder come and go, the IoT Edge
//! daemon signs and issues a certificate that nobody uses, the hub sees a sign-in).
//! Must not know: how findings are printed ([`crate::command::check`]).

mod certificate;
mod daemon;
mod dependents;
mod hub;
mod inspect;
mod routes;
mod scope;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;

use self::daemon::Given;
pub use self::inspect::inspect;
use super::daemon::DAEMON_BUNDLE;
use super::{descriptors, settings};
use crate::clock::{SharedClock, UnixMillis};
use crate::command::check::storage::{self, Place};
use crate::command::check::{Finding, Group, Report, machine, plural, running};
use crate::config::{self, Config, Credentials, Env, ServerSource};
use crate::front::tls;
use crate::upstream::probe::Probe;

/// For one step of the way to the hub.
const STEP: Duration = Duration::from_secs(5);

/// For what blocks on the disk.
const DISK: Duration = Duration::from_secs(15);

/// Variables that name files and folders: what is wrong with these is told where they are looked at.
const LOOKED_AT: [&str; 5] = [
    "StorageFolder",
    "EdgeHubDevServerCertificateFile",
    "EdgeHubDevServerPrivateKeyFile",
    "EdgeHubDevTrustBundleFile",
    "upstreamSettings__trustBundleFile",
];

/// Examines the surroundings of a gateway with this environment. `root` is `/`, unless a test plants other files there.
pub async fn examine(env: &dyn Env, clock: SharedClock, root: &Path) -> Report {
    let (config, problems) = Config::read_loosely(env);
    let place = config::Place::read(env);
    let arenas = env.vars().into_iter().find(|(name, _)| name == "MALLOC_ARENA_MAX");
    let mut site = Site {
        config,
        clock,
        root: root.to_owned(),
        is_refused: !problems.is_empty(),
        findings: Vec::new(),
    };
    site.configuration(&problems);
    site.findings.push(machine::arenas(arenas.as_ref().map(|(_, value)| value.as_str())));
    site.findings.push(machine::versions(root));
    match site.config.clone() {
        Some(config) => site.all(&config).await,
        None => site.without_configuration(place.storage).await,
    }
    site.running(place.admin).await;
    Report::new(site.findings, site.is_refused)
}

/// An examination under way.
struct Site {
    config: Option<Config>,
    clock: SharedClock,
    root: PathBuf,
    is_refused: bool,
    findings: Vec<Finding>,
}

impl Site {
    fn now(&self) -> UnixMillis {
        self.clock.wall()
    }

    /// What is configured cannot be used.
    fn refused(&mut self, finding: Finding) {
        self.is_refused = true;
        self.findings.push(finding);
    }

    fn configuration(&mut self, problems: &[config::Problem]) {
        const GROUP: Group = Group::Configuration;
        let is_left = |name: &str| {
            self.config.is_some() && LOOKED_AT.iter().any(|other| name.eq_ignore_ascii_case(other))
        };
        for config::Problem { name, what, todo } in problems.iter().filter(|p| !is_left(&p.name)) {
            let what = format!("{name}: {what}");
            self.findings.push(GROUP.error("configuration", what, todo));
        }
        let Some(config) = &self.config else { return };
        let n = plural(config.honoured() as u64, "variable");
        let text = format!("{n} are set and honoured (`check --env` lists all)");
        self.findings.push(GROUP.ok("configuration-read", text));
        let todo = "see `check --env` for what each variable does";
        for warning in &config.warnings {
            self.findings.push(GROUP.warning("configuration-warning", warning, todo));
        }
        for (name, why) in config.without_effect() {
            let text = format!("{name} is set and has no effect: {why}");
            self.findings.push(GROUP.ok("configuration-ignored", text));
        }
    }

    /// What can be looked at without a configuration.
    async fn without_configuration(&mut self, storage: Option<PathBuf>) {
        let why = "the configuration is incomplete";
        for (group, id) in [
            (Group::Daemon, "daemon-socket"),
            (Group::Certificate, "certificate-chain"),
            (Group::Bundle, "bundle"),
            (Group::Upstream, "upstream-name"),
            (Group::Scope, "scope"),
            (Group::Routes, "routes"),
        ] {
            self.findings.push(group.skipped(id, why));
        }
        self.year();
        self.findings.extend(machine::memory(&self.root, None));
        match storage {
            None => self.findings.push(Group::Storage.skipped("storage-writable", why)),
            Some(folder) => {
                let queues = config::Place::queues_in(&folder);
                let (budget_bytes, min_free_bytes) = (None, None);
                self.storage(Place { folder, queues, budget_bytes, min_free_bytes }).await;
            }
        }
    }

    async fn all(&mut self, config: &Config) {
        let given = match &config.connection.credentials {
            Credentials::Key(_) => {
                let why = "IotHubConnectionString is set: the daemon is not asked";
                self.findings.push(Group::Daemon.skipped("daemon-socket", why));
                None
            }
            Credentials::Daemon(set) => {
                let (given, findings) = daemon::ask(config, set, &self.clock).await;
                self.findings.extend(findings);
                Some(given)
            }
        };
        self.year();
        self.bundle(config, given.as_ref());
        let daemon_pem = given.as_ref().and_then(|given| given.bundle.as_deref());
        let at_hand = certificate::at_hand(&config.trust_bundle, daemon_pem);
        self.certificate(config, given.as_ref(), &at_hand);
        let document_bytes = self.routes(config);
        self.way_to_the_hub(config, given.as_ref()).await;
        let budget = config.store.bytes_max.into_iter().chain(document_bytes).min();
        self.storage(Place {
            folder: config.storage.parent().unwrap_or(&config.storage).to_owned(),
            queues: config.storage.join(config::QUEUES_FOLDER),
            budget_bytes: budget,
            min_free_bytes: config.store.min_free_bytes,
        })
        .await;
        self.limits(config);
    }

    /// 2024 began before this program was made.
    fn year(&mut self) {
        const YEAR_2024: UnixMillis = UnixMillis(1_704_067_200_000);
        let now = self.now();
        let shown = crate::auth::x509::utc(now);
        self.findings.push(match now < YEAR_2024 {
            false => Group::Clock.ok("clock-year", format!("it is {shown} by this machine")),
            true => Group::Clock.error(
                "clock-year",
                format!("it is {shown} by this machine, which cannot be: certificates and tokens fail"),
                "set the time (timedatectl; a Raspberry Pi has no clock of its own: let it reach an NTP server, or add an RTC)",
            ),
        });
    }

    /// The CAs that admit devices: those that are configured and no others, else the daemon's.
    fn bundle(&mut self, config: &Config, given: Option<&Given>) {
        match given {
            _ if !config.trust_bundle.is_empty() => {
                let looked = certificate::bundle_files(&config.trust_bundle, self.now());
                self.is_refused |= looked.is_refused;
                self.findings.extend(looked.findings);
                if given.is_some() {
                    let text = format!(
                        "{DAEMON_BUNDLE} serves to check the hub's certificate and admits no device: \
                         EdgeHubDevTrustBundleFile alone does"
                    );
                    self.findings.push(Group::Bundle.ok("bundle-source", text));
                }
            }
            Some(Given { bundle: Some(pem), .. }) => {
                self.findings.extend(certificate::daemon_bundle(pem, self.now()));
            }
            _ => {
                let why = "the IoT Edge daemon gave none";
                self.findings.push(Group::Bundle.skipped("bundle", why));
            }
        }
    }

    /// `at_hand`: certificates among which the server's root may be.
    fn certificate(
        &mut self,
        config: &Config,
        given: Option<&Given>,
        at_hand: &[CertificateDer<'_>],
    ) {
        let (name, now) = (&config.gateway_host_name, self.now());
        match &config.server {
            ServerSource::Files(files) => {
                match tls::load_server_identity(&files.certificate, &files.key, name, now) {
                    Ok(identity) => {
                        self.findings.extend(certificate::server(&identity, at_hand, now, false));
                    }
                    Err(e) => self.refused(Group::Certificate.error(
                        "certificate-chain",
                        e.to_string(),
                        "correct EdgeHubDevServerCertificateFile and EdgeHubDevServerPrivateKeyFile",
                    )),
                }
            }
            ServerSource::Daemon => match given.and_then(|given| given.server.as_ref()) {
                Some(identity) => {
                    self.findings.extend(certificate::server(identity, at_hand, now, true));
                }
                None => {
                    let why = "the IoT Edge daemon gave none, and none is kept";
                    self.findings.push(Group::Certificate.skipped("certificate-chain", why));
                }
            },
        }
    }

    async fn way_to_the_hub(&mut self, config: &Config, given: Option<&Given>) {
        let pem = given.map(|given| given.bundle.as_deref().unwrap_or_default());
        let roots = match settings::upstream_roots(config, pem) {
            Ok((roots, refused)) => {
                for text in refused {
                    let todo = "take it out of the file, or put the right certificate there";
                    self.findings.push(Group::Upstream.warning("upstream-roots", text, todo));
                }
                roots
            }
            Err(problem) => {
                let todo = "correct upstreamSettings__trustBundleFile";
                self.refused(Group::Upstream.error("upstream-roots", problem.to_string(), todo));
                rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
            }
        };
        let signer = match (&config.connection.credentials, given) {
            (Credentials::Key(key), _) => Some(Arc::new(key.clone()) as _),
            (Credentials::Daemon(_), given) => given.and_then(Given::signer),
        };
        let roots_known = config.upstream.extra_roots.is_some()
            || given.is_none_or(|given| given.bundle.is_some());
        let has = hub::Has { signer: signer.is_some(), roots: roots_known };
        let signer = signer.unwrap_or_else(|| Arc::new(daemon::CannotSign) as _);
        let upstream = settings::upstream_with(config, signer, roots);
        let probe = Probe::new(upstream, Arc::clone(&self.clock), STEP);
        let way = hub::examine(&probe, config, has, self.now()).await;
        self.findings.extend(way.findings);
        let scope = match way.may_read_scope {
            Ok(()) => scope::examine(&probe, config).await,
            Err(why) => vec![Group::Scope.skipped("scope", why)],
        };
        self.findings.extend(scope);
        self.findings.push(hub::clock(way.hub_time, self.now()));
    }

    async fn storage(&mut self, place: Place) {
        let root = self.root.clone();
        let shown = place.folder.display().to_string();
        let examining = tokio::task::spawn_blocking(move || storage::examine(&place, &root));
        match tokio::time::timeout(DISK, examining).await {
            Ok(Ok(findings)) => self.findings.extend(findings),
            Ok(Err(_)) | Err(_) => self.findings.push(Group::Storage.error(
                "storage-writable",
                format!("{shown} does not answer within {DISK:?}"),
                "check the medium and the kernel's log (dmesg)",
            )),
        }
    }

    fn limits(&mut self, config: &Config) {
        let clients = u64::from(config.mqtt.clients_max);
        self.findings.extend(machine::memory(&self.root, Some(clients)));
        let wanted = u64::from(config.mqtt.connections_max);
        let there = descriptors::look(wanted);
        let text = format!("open files allow {there} of {wanted} connections");
        self.findings.push(if there < wanted {
            let need = wanted + descriptors::OTHERS;
            let todo = format!(
                "raise the hard limit of open files to {need} (--ulimit nofile={need}:{need}), or lower MaxConnectedClients"
            );
            Group::Limits.warning("descriptors", text, todo)
        } else {
            Group::Limits.ok("descriptors", text)
        });
        self.findings.push(floods(&config.mqtt));
    }

    /// At last, as it takes what was found for granted.
    async fn running(&mut self, admin: Option<SocketAddr>) {
        let candidates = self.config.as_ref().map(|config| config.mqtt.bind.candidates());
        let asking = tokio::task::spawn_blocking(move || {
            let (runs, mut findings) = running::gateway(admin);
            if let Some(candidates) = candidates
                && !runs
            {
                findings.push(running::port(&candidates));
            }
            findings
        });
        if let Ok(findings) = asking.await {
            self.findings.extend(findings);
        }
    }
}

/// What one address and one identity may take.
fn floods(set: &config::Mqtt) -> Finding {
    let mut off = Vec::new();
    let mut limit = |name: &'static str, value: u64, words: String| {
        if value == 0 {
            off.push(name);
        }
        words
    };
    let (failures, bans) = (set.failures_per_min, set.ban_max.as_secs());
    let text = [
        limit("FailedConnectsPerMin", failures.into(), format!("{failures} failures a minute")),
        limit(
            "BanMaxSecs",
            bans,
            format!("then its share for up to {bans} s while handshakes wait"),
        ),
        limit(
            "LogInsPerMin",
            set.log_ins_per_min.into(),
            format!("an identity {} log-ins a minute", set.log_ins_per_min),
        ),
    ];
    if off.is_empty() {
        return Group::Limits.ok("floods", format!("an address has {}", text.join(", ")));
    }
    let off: Vec<String> = off.iter().map(|name| format!("mqttSettings__{name}")).collect();
    let todo = "take them out of the environment: the defaults do not hurt a site that works";
    Group::Limits.warning("floods", format!("switched off: {}", off.join(", ")), todo)
}
