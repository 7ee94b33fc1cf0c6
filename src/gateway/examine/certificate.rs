//! Certificates: the one that devices see, and the CAs that admit devices.
//!
//! Owns: what is a warning and what an error for a site. Must not know: where they come from.

use std::path::PathBuf;

use rustls_pki_types::CertificateDer;

use crate::auth::TrustBundle;
use crate::auth::bundle::{self, BundleError, EntryRefusal, EntryWarning, ListInfo, RefusedEntry};
use crate::auth::x509::{self, CertificateInfo, Piece, Validity};
use crate::clock::UnixMillis;
use crate::command::check::{Finding, Group, plural};
use crate::front::tls::{ServerChain, ServerIdentity, Warning};
use crate::gateway::daemon::DAEMON_BUNDLE;
use crate::gateway::server_end::ends_soon;

/// An Azure Sphere application keeps a root of so many bytes in PEM.
pub(super) const SPHERE_ROOT_BYTES_MAX: usize = 3 * 1024;

/// What devices are shown. `at_hand`: certificates among which its root may be; `is_renewed`: the IoT Edge daemon renews it.
pub(super) fn server(
    identity: &ServerIdentity,
    at_hand: &[CertificateDer<'_>],
    now: UnixMillis,
    is_renewed: bool,
) -> Vec<Finding> {
    let n = plural(identity.chain().len() as u64, "certificate");
    let text = format!("{n}, leaf first, and the key fits: {}", identity.leaf().subject);
    let mut findings = vec![Group::Certificate.ok("certificate-chain", text)];
    let name = Some("the gateway's name (EdgeDeviceHostName)");
    findings.extend(chain(identity.seen(), name, now, is_renewed));
    findings.push(root(identity.chain(), at_hand));
    findings
}

/// Names, validity and usage of a chain that is in order. `name`: what it was checked for, if it was.
pub(super) fn chain(
    chain: &ServerChain,
    name: Option<&str>,
    now: UnixMillis,
    is_renewed: bool,
) -> Vec<Finding> {
    const GROUP: Group = Group::Certificate;
    let leaf = chain.leaf();
    let mut findings = Vec::new();
    let renew = if is_renewed {
        "see why the daemon's CA is at its end (edge_ca in its config.toml), and the time of this machine"
    } else {
        "renew it: a new one with the same key or another, then start the gateway again"
    };
    let (mut is_named, mut is_valid) = (true, true);
    for warning in chain.warnings() {
        let text = warning.to_string();
        findings.push(match warning {
            Warning::Name { name, .. } => {
                is_named = false;
                let todo = format!("make a certificate with {name} as DNS name in its SAN, or set EdgeDeviceHostName to what it has");
                GROUP.error("certificate-name", text, todo)
            }
            Warning::Expired { .. } => {
                is_valid = false;
                GROUP.error("certificate-validity", text, renew)
            }
            Warning::NotYetValid { .. } => {
                is_valid = false;
                GROUP.error("certificate-validity", text, "set this machine's time, or wait")
            }
            Warning::LeafAlone { .. } => {
                let todo = "append the certificate of the CA that signed it to the file";
                GROUP.warning("certificate-issuer", text, todo)
            }
            Warning::Unusual(_) => {
                let todo = "make it as a server certificate: X.509 v3, extended key usage serverAuth";
                GROUP.warning("certificate-usage", text, todo)
            }
        });
    }
    if let Some(name) = name.filter(|_| is_named) {
        findings.push(GROUP.ok("certificate-name", format!("it has {name}")));
    }
    if is_valid {
        let text = format!("valid until {} ({})", x509::utc(leaf.not_after), left(leaf, now));
        findings.push(match is_soon(leaf, now) && !is_renewed {
            true => GROUP.warning("certificate-validity", text, renew),
            false => GROUP.ok("certificate-validity", text),
        });
    }
    findings
}

pub(super) fn is_soon(info: &CertificateInfo, now: UnixMillis) -> bool {
    ends_soon((info.not_before, info.not_after), now, false)
}

pub(super) fn left(info: &CertificateInfo, now: UnixMillis) -> String {
    let days = info.not_after.as_secs().saturating_sub(now.as_secs()) / 86_400;
    format!("{} left", plural(days, "day"))
}

/// The root that devices must hold, if it is at hand: an Azure Sphere application has little room for it.
pub(super) fn root(chain: &[CertificateDer<'_>], at_hand: &[CertificateDer<'_>]) -> Finding {
    const GROUP: Group = Group::Certificate;
    const ID: &str = "certificate-root";
    let read = |der: &_| CertificateInfo::read(der).ok();
    let last = chain.last().and_then(read);
    let issuer = last.map(|info| info.issuer).unwrap_or_default();
    let found = chain
        .iter()
        .chain(at_hand)
        .find(|der| read(der).is_some_and(|info| info.self_issued && info.subject == issuer));
    let Some(der) = found else {
        let text = format!("devices must hold {issuer}, which is not at hand here");
        return GROUP.ok(ID, text);
    };
    // Base64 with a line end each 64 characters, and both marks.
    let base64 = der.len().div_ceil(3) * 4;
    let pem = base64 + base64.div_ceil(64) + 54;
    let text = format!("devices must hold {issuer}, {pem} bytes in PEM");
    if pem > SPHERE_ROOT_BYTES_MAX {
        let todo = "for Azure Sphere make the root with a P-256 key and few extensions: an application keeps 3 KiB";
        return GROUP.warning(ID, text, todo);
    }
    GROUP.ok(ID, text)
}

/// A bundle, and whether a start refuses it.
pub(super) struct Looked {
    pub(super) findings: Vec<Finding>,
    pub(super) is_refused: bool,
}

/// The certificates of the configured bundle and of the daemon's, as far as they can be read.
pub(super) fn at_hand(
    paths: &[PathBuf],
    daemon_pem: Option<&[u8]>,
) -> Vec<CertificateDer<'static>> {
    let files = bundle::read_files(paths).unwrap_or_default();
    let contents = files.iter().filter_map(|file| file.content.as_deref().ok());
    let pieces = contents.chain(daemon_pem).flat_map(x509::split);
    let certificate = |piece| match piece {
        Piece::Certificate(der) => Some(der),
        Piece::PrivateKey | Piece::RevocationList(_) | Piece::Unusable(_) => None,
    };
    pieces.filter_map(certificate).collect()
}

/// The bundle that is configured.
pub(super) fn bundle_files(paths: &[PathBuf], now: UnixMillis) -> Looked {
    match TrustBundle::load(paths) {
        Ok(bundle) => Looked { findings: entries(&bundle, now), is_refused: false },
        Err(e) => {
            let todo = match e {
                BundleError::Read { .. } => "correct the path or the file's permissions",
                _ => "put the certificates of the tenant's CAs into it (PEM, DER or PKCS#7)",
            };
            let text = format!("EdgeHubDevTrustBundleFile: {e}");
            let findings = vec![Group::Bundle.error("bundle", text, todo)];
            Looked { findings, is_refused: true }
        }
    }
}

/// The daemon's bundle: a start goes on without one, but no device gets in.
pub(super) fn daemon_bundle(pem: &[u8], now: UnixMillis) -> Vec<Finding> {
    match TrustBundle::from_bytes(DAEMON_BUNDLE, pem) {
        Ok(bundle) => entries(&bundle, now),
        Err(e) => {
            let todo = "put the certificates of the tenant's CAs into trust_bundle_cert of the daemon's config.toml, or set \
                        EdgeHubDevTrustBundleFile";
            vec![Group::Bundle.error("bundle", format!("{DAEMON_BUNDLE}: {e}"), todo)]
        }
    }
}

/// What does not serve, and whether that matters.
fn left_out(refused: &RefusedEntry) -> Finding {
    const GROUP: Group = Group::Bundle;
    const ID: &str = "bundle-refused";
    let text = format!("left out: {refused}");
    match refused.reason {
        // Once is enough.
        EntryRefusal::Duplicate(_) => GROUP.ok(ID, text),
        EntryRefusal::PrivateKey => {
            let todo = "take it out of the bundle and treat it as exposed: replace it and what was issued with it";
            GROUP.error(ID, text, todo)
        }
        _ => {
            let todo = "take it out of the bundle, or put the right certificate there";
            GROUP.warning(ID, text, todo)
        }
    }
}

pub(super) fn entries(bundle: &TrustBundle, now: UnixMillis) -> Vec<Finding> {
    const GROUP: Group = Group::Bundle;
    const ENTRY: &str = "bundle-entry";
    let mut findings = Vec::new();
    let mut valid = 0;
    for entry in bundle.entries() {
        let info = &entry.info;
        let who = format!("{}, {}", info.subject, entry.source);
        findings.push(match info.validity(now) {
            Validity::Valid if is_soon(info, now) => {
                valid += 1;
                let text = format!("{who}: {}", left(info, now));
                GROUP.warning(ENTRY, text, "add the CA's successor to the bundle, beside this one")
            }
            Validity::Valid => {
                valid += 1;
                GROUP.ok(ENTRY, format!("{who}: {}", left(info, now)))
            }
            Validity::Expired => {
                let text = format!("{who}: expired on {}", x509::utc(info.not_after));
                GROUP.warning(ENTRY, text, "put the CA's successor into the bundle in its place")
            }
            Validity::NotYet => {
                let text = format!("{who}: valid only from {}", x509::utc(info.not_before));
                GROUP.warning(ENTRY, text, "set this machine's time, or wait")
            }
        });
    }
    for entry in bundle.entries() {
        if let Some(digest) = entry.weak_signature {
            let warning = EntryWarning::WeakSignature(digest);
            let text = format!("{}, {}: {warning}", entry.info.subject, entry.source);
            findings.push(GROUP.warning(ENTRY, text, "download the CA's certificate anew"));
        }
    }
    for refused in bundle.refused() {
        findings.push(left_out(refused));
    }
    for warning in bundle.revocation_lists(now).iter().filter_map(ListInfo::warning) {
        let todo = "put the CA's current list in its place, or take it out";
        findings.push(GROUP.warning("bundle-revocation", warning, todo));
    }
    if bundle.list_count() > 0 {
        let lists = plural(bundle.list_count() as u64, "certificate revocation list");
        findings.push(GROUP.ok("bundle-revocation", format!("{lists} in the bundle")));
    }
    findings.push(match valid {
        0 => GROUP.error(
            "bundle",
            "no CA of the trust bundle is valid now: no device can log in with a certificate",
            "put the CAs of now into the bundle, and check this machine's time",
        ),
        n => GROUP.ok("bundle", format!("devices are admitted by {}", plural(n, "CA"))),
    });
    findings
}
