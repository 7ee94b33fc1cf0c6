//! The way to the hub: name, ports, TLS, proxy, token, and its time.
//!
//! Owns: what each step that fails means. Must not know: how a step is made ([`Probe`]).

use std::time::Duration;

use crate::auth::x509::{self, CertificateInfo, Validity};
use crate::clock::UnixMillis;
use crate::command::check::{Finding, Group};
use crate::config::Config;
use crate::upstream::probe::{Handshake, NotSignedIn, Probe};

const GROUP: Group = Group::Upstream;

/// For a sign-in: TCP, TLS, AMQP, a token.
const SIGN_IN: Duration = Duration::from_secs(12);

/// The hub takes a token that has ended five minutes ago, and no later.
const OFF_ERROR_SECS: u64 = 300;
/// `Date` counts in seconds, and an answer may be on its way for some.
const OFF_WARNING_SECS: u64 = 30;

/// Whose CAs sign the certificates of Azure's hubs.
const AZURE_ISSUERS: [&str; 2] = ["Microsoft", "DigiCert"];
const AZURE_HUBS: [&str; 3] = [".azure-devices.net", ".azure-devices.cn", ".azure-devices.us"];

/// What was found, and what the rest may build on.
pub(super) struct Way {
    pub(super) findings: Vec<Finding>,
    /// Else why not.
    pub(super) may_read_scope: Result<(), String>,
    /// Else why it is not known.
    pub(super) hub_time: Result<UnixMillis, String>,
}

/// One port: TCP, then TLS.
struct Port {
    name: &'static str,
    number: u16,
    tcp_id: &'static str,
    tls_id: &'static str,
    setting: &'static str,
}

/// What the gateway has for the way.
#[derive(Clone, Copy)]
pub(super) struct Has {
    /// Whether somebody signs.
    pub(super) signer: bool,
    /// Whether it is known who may have signed the hub's certificate, beside public CAs.
    pub(super) roots: bool,
}

pub(super) async fn examine(probe: &Probe, config: &Config, has: Has, now: UnixMillis) -> Way {
    let can_sign = has.signer;
    let mut findings = vec![proxy(config)];
    let host = probe.host();
    let found = probe.addresses().await;
    if let Err(error) = &found {
        let todo = "check the hub's name (IotHubConnectionString, IOTEDGE_IOTHUBHOSTNAME) and the name servers of the container \
                    (/etc/resolv.conf; `dns` in the daemon of Docker)";
        findings.push(GROUP.error("upstream-name", format!("{host} is not found: {error}"), todo));
        let why = "the hub's name is not found";
        for id in ["upstream-amqp-port", "upstream-https-port", "upstream-token"] {
            findings.push(GROUP.skipped(id, why));
        }
        let (scope, time) = (Err(why.to_owned()), Err(why.to_owned()));
        return Way { findings, may_read_scope: scope, hub_time: time };
    }
    let addresses: Vec<String> = found.iter().flatten().map(ToString::to_string).collect();
    findings.push(GROUP.ok("upstream-name", format!("{host} is {}", addresses.join(", "))));
    let amqp = Port {
        name: "AMQP",
        number: config.upstream.amqp_port,
        tcp_id: "upstream-amqp-port",
        tls_id: "upstream-amqp-tls",
        setting: "upstreamSettings__amqpPort",
    };
    let https = Port {
        name: "HTTPS",
        number: config.upstream.https_port,
        tcp_id: "upstream-https-port",
        tls_id: "upstream-https-tls",
        setting: "upstreamSettings__httpsPort",
    };
    // Both at a time: where a firewall swallows packets each takes its whole limit.
    let ((of_amqp, has_amqp), (of_https, has_https)) =
        tokio::join!(port(probe, &amqp, config, has, now), port(probe, &https, config, has, now));
    findings.extend(of_amqp);
    findings.extend(of_https);
    let (token, is_refused) = token(probe, has_amqp, can_sign).await;
    findings.push(token);
    let hub_time = match has_https {
        true => probe.hub_time().await,
        false => Err("the hub is not reached over HTTPS".to_owned()),
    };
    let may_read_scope = match (has_https, can_sign, is_refused) {
        (false, ..) => Err("the hub is not reached over HTTPS".to_owned()),
        (_, false, _) => Err("the IoT Edge daemon does not sign".to_owned()),
        (.., true) => Err("the hub does not take the token".to_owned()),
        _ => Ok(()),
    };
    Way { findings, may_read_scope, hub_time }
}

fn proxy(config: &Config) -> Finding {
    const ID: &str = "upstream-proxy";
    let set = config.without_effect().into_iter();
    let mut set = set.filter(|(name, _)| name.eq_ignore_ascii_case("https_proxy"));
    match set.next() {
        None => GROUP.ok(ID, "no proxy is set: the hub is reached directly"),
        Some((name, why)) => {
            let todo = format!(
                "open the firewall for outbound TCP {} and {} to the hub",
                config.upstream.amqp_port, config.upstream.https_port
            );
            GROUP.warning(ID, format!("{name} is set, and not used: {why}"), todo)
        }
    }
}

async fn port(
    probe: &Probe,
    port: &Port,
    config: &Config,
    has: Has,
    now: UnixMillis,
) -> (Vec<Finding>, bool) {
    let Port { name, number, tcp_id, tls_id, setting } = port;
    let mut findings = Vec::new();
    if let Err(error) = probe.tcp(*number).await {
        let text = format!("{name}: {} port {number} is not reached: {error}", probe.host());
        let todo =
            format!("open the firewall for outbound TCP {number} to the hub, and check {setting}");
        findings.push(GROUP.error(tcp_id, text, todo));
        findings.push(GROUP.skipped(tls_id, format!("{name}: the port is not reached")));
        return (findings, false);
    }
    findings.push(GROUP.ok(tcp_id, format!("{name}: port {number} is reached")));
    let handshake = probe.tls(*number).await;
    let is_done = handshake.outcome.is_ok();
    // Who shows nothing is no hub, whoever may have signed for it.
    if !is_done && !has.roots && !handshake.shown.is_empty() {
        let why =
            "does not hold by public CAs, and the IoT Edge daemon's trust bundle is not known";
        findings.push(GROUP.skipped(tls_id, format!("{name}: TLS {why}")));
        return (findings, false);
    }
    findings.push(of_tls(name, tls_id, &handshake, &config.connection.host_name, now));
    (findings, is_done)
}

fn of_tls(
    name: &str,
    id: &'static str,
    handshake: &Handshake,
    host: &str,
    now: UnixMillis,
) -> Finding {
    let issuer = handshake.shown.last().map(|info| info.issuer.as_str());
    let shown = issuer.map_or_else(String::new, |issuer| format!(", certificate by {issuer}"));
    match &handshake.outcome {
        Err(error) => {
            let text = format!("{name}: TLS with {host} failed: {error}{shown}");
            GROUP.error(id, text, advice(&handshake.shown, now, host))
        }
        Ok(()) if is_intercepted(host, &handshake.shown) => {
            let text = format!("{name}: TLS with {host}{shown}, which is none of Azure's");
            let todo = "a proxy inspects TLS: have it leave the hub out, it reads the tokens and the messages";
            GROUP.warning(id, text, todo)
        }
        Ok(()) => GROUP.ok(id, format!("{name}: TLS with {host} holds{shown}")),
    }
}

/// A proxy whose CA is among the roots.
fn is_intercepted(host: &str, shown: &[CertificateInfo]) -> bool {
    let is_azure = AZURE_HUBS.iter().any(|end| host.to_ascii_lowercase().ends_with(end));
    let is_known =
        |info: &CertificateInfo| AZURE_ISSUERS.iter().any(|issuer| info.issuer.contains(issuer));
    is_azure && !shown.is_empty() && !shown.iter().any(is_known)
}

fn advice(shown: &[CertificateInfo], now: UnixMillis, host: &str) -> String {
    if shown.is_empty() {
        return "something else than a hub answers there: check the port, and proxies on the way"
            .to_owned();
    }
    if let Some(info) = shown.iter().find(|info| info.validity(now) != Validity::Valid) {
        let (from, to) = (x509::utc(info.not_before), x509::utc(info.not_after));
        return format!(
            "{} is valid from {from} to {to}: set this machine's time, or renew that certificate",
            info.subject
        );
    }
    format!(
        "if {host} is the hub's name: a proxy inspects TLS (have it leave the hub out), or it is a private hub (put its CA into \
         upstreamSettings__trustBundleFile)"
    )
}

/// Whether the hub takes our token, and whether it has refused it.
async fn token(probe: &Probe, has_amqp: bool, can_sign: bool) -> (Finding, bool) {
    const ID: &str = "upstream-token";
    if !has_amqp {
        return (GROUP.skipped(ID, "the hub is not reached over AMQP"), false);
    }
    if !can_sign {
        return (GROUP.skipped(ID, "the IoT Edge daemon does not sign"), false);
    }
    match probe.sign_in(SIGN_IN).await {
        Ok(()) => (GROUP.ok(ID, "the hub lets this gateway sign in"), false),
        Err(NotSignedIn::Refused(text)) => {
            let todo = "check the key in IotHubConnectionString (the $edgeHub module's), that the edge device is enabled, and this \
                        machine's time";
            (GROUP.error(ID, text, todo), true)
        }
        Err(NotSignedIn::Failed(text)) => {
            let todo = "try again; if it stays so, see whether something on the way cuts AMQP off";
            (GROUP.error(ID, text, todo), false)
        }
    }
}

/// This machine's time beside the hub's.
pub(super) fn clock(hub: Result<UnixMillis, String>, now: UnixMillis) -> Finding {
    const ID: &str = "clock-hub";
    let hub = match hub {
        Ok(hub) => hub,
        Err(why) => {
            let why = format!("the hub's time is not known: {why}");
            return Group::Clock.skipped(ID, why);
        }
    };
    let off = hub.as_secs().abs_diff(now.as_secs());
    let which = if now < hub { "behind" } else { "ahead of" };
    let text = format!("this machine's clock is {off} s {which} the hub's");
    let todo = "set the time (timedatectl set-ntp true), and let the machine reach an NTP server: tokens and certificates go by it";
    match off {
        0..OFF_WARNING_SECS => {
            Group::Clock.ok(ID, format!("within {OFF_WARNING_SECS} s of the hub's clock"))
        }
        OFF_WARNING_SECS..OFF_ERROR_SECS => Group::Clock.warning(ID, text, todo),
        _ => Group::Clock.error(ID, text, todo),
    }
}
