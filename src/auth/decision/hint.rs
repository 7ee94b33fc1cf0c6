//! What to do about a refusal, where the certificate and the bundle tell more than the reason alone.
//!
//! Owns: the recognition of a rotated tenant CA, and of a clock that may be wrong. Must not know: connections.

use crate::auth::bundle::{Entry, TrustBundle};
use crate::auth::x509::{self, CertificateInfo};
use crate::clock::UnixMillis;

/// How Azure Sphere names the CA of a tenant or catalog; its id follows.
const SPHERE: &str = "Microsoft Azure Sphere";

/// What to do about `label`, given the leaf, its issuer if that was presented, the bundle in force and the time; `None`: what the list of reasons says.
pub fn hint(
    label: &str,
    leaf: Option<&CertificateInfo>,
    issuer: Option<&CertificateInfo>,
    bundle: &TrustBundle,
    now: UnixMillis,
) -> Option<String> {
    let leaf = leaf?;
    match label {
        "unknown_ca" | "bad_signature" => {
            let presented = issuer.map_or_else(String::new, |issuer| {
                format!("; it presented its issuer, whose SHA-1 thumbprint is {}", issuer.sha1)
            });
            Some(issuer_hint(leaf, bundle.entries()) + &presented)
        }
        "ca_not_valid" => Some(format!(
            "put the successor of {} into the bundle: {}",
            leaf.issuer,
            download(&leaf.issuer)
        )),
        "expired" => Some(format!(
            "this gateway's clock says {}: {} after its end. An Azure Sphere device renews its certificate each day and needs \
             the Internet for it; if the clock is wrong, set it or let it reach a time server",
            x509::utc(now),
            span(now.0.saturating_sub(leaf.not_after.0)),
        )),
        "not_yet_valid" => Some(format!(
            "this gateway's clock says {}: {} before its begin. Set the clock of this machine, or let it reach a time server; \
             if it is right, the issuer's is wrong",
            x509::utc(now),
            span(leaf.not_before.0.saturating_sub(now.0)),
        )),
        _ => None,
    }
}

fn issuer_hint(leaf: &CertificateInfo, entries: &[Entry]) -> String {
    let issuer = &leaf.issuer;
    let same_name = entries.iter().find(|entry| entry.info.subject == *issuer);
    let same_tenant = || {
        entries
            .iter()
            .find(|entry| tenant(issuer).is_some() && tenant(issuer) == tenant(&entry.info.subject))
    };
    let same_organisation = || {
        entries.iter().find(|entry| {
            organisation(issuer).is_some()
                && organisation(issuer) == organisation(&entry.info.subject)
        })
    };
    let kin = same_name.or_else(same_tenant).or_else(same_organisation);
    match kin {
        Some(kin) => format!(
            "the bundle has a CA of the same owner, {} ({}, SHA-1 {}, valid to {}), with another key: it looks like a rotated \
             tenant CA. Put its successor beside it, both serve: {}",
            kin.info.subject,
            kin.source,
            kin.info.sha1,
            x509::utc(kin.info.not_after),
            download(issuer)
        ),
        None if issuer.contains(SPHERE) => {
            format!(
                "it comes from an Azure Sphere tenant whose CA is not in the bundle: {}",
                download(issuer)
            )
        }
        None => format!(
            "put the certificate of {issuer} into the trust bundle, if its devices are yours"
        ),
    }
}

/// How to get the certificate of a CA.
fn download(issuer: &str) -> String {
    if issuer.contains(SPHERE) {
        format!(
            "download the CA named {issuer} with `az sphere ca-certificate download` (Legacy: `azsphere ca-certificate \
             download`); `ca-certificate list` shows which there are, by thumbprint"
        )
    } else {
        format!("ask whoever runs the CA {issuer} for its certificate")
    }
}

/// The tenant's id in the name of a Sphere CA, without regard to case.
fn tenant(name: &str) -> Option<String> {
    let behind = name.split_once(SPHERE)?.1;
    let id: String =
        behind.trim_start().chars().take_while(|c| c.is_ascii_hexdigit() || *c == '-').collect();
    // 8-4-4-4-12.
    (id.len() == 36).then(|| id.to_ascii_lowercase())
}

/// The organisation in a name as it is printed (`C=.., O=.., CN=..`).
fn organisation(name: &str) -> Option<&str> {
    name.split(", ").find_map(|part| part.strip_prefix("O=")).filter(|text| !text.is_empty())
}

/// A length of time in the unit that a person would take.
fn span(millis: u64) -> String {
    let secs = millis / 1000;
    match secs {
        0..120 => format!("{secs} s"),
        120..7200 => format!("{} min", secs / 60),
        7200..172_800 => format!("{} h", secs / 3600),
        _ => format!("{} days", secs / 86_400),
    }
}
