//! Who depends on the CAs of a trust bundle: by the stored scope, and by the running gateway.
//!
//! Owns: the findings of it. Invariant: a gateway that does not answer is said to be so, never counted as nobody.
//! Must not know: which certificates are shown.

use std::path::Path;

use crate::auth::dependents::{Dependents, OfAuthority};
use crate::auth::scope::census::census;
use crate::auth::x509;
use crate::command::ask;
use crate::command::check::{Finding, Group, plural};

const GROUP: Group = Group::Bundle;

/// Who could be let in by the bundle. Which CA lets in whom is not in the scope: the hub does not say.
pub(super) fn of_scope(scope: Option<&Path>) -> Finding {
    const ID: &str = "bundle-dependents";
    match scope.map(census) {
        Some(Ok(Some(census))) => {
            let (by_ca, all, saved) = (census.by_ca, census.identities, x509::utc(census.saved));
            let text = format!(
                "{by_ca} of the {all} devices and modules in the scope of {saved} log in with a certificate of such a CA"
            );
            GROUP.ok(ID, text)
        }
        Some(Ok(None)) => {
            GROUP.skipped(ID, "no scope was stored yet: who depends on these CAs is not known")
        }
        Some(Err(e)) => GROUP.skipped(ID, format!("the stored scope cannot be read ({e})")),
        None => {
            GROUP.skipped(ID, "StorageFolder is not set: who depends on these CAs is not known")
        }
    }
}

/// Who is connected by which CA, as the gateway whose administrator's door is at `admin` says; `serving` are the CAs (SHA-256)
/// of the bundle that is looked at, if one is.
pub(super) fn of_gateway(
    admin: Option<&str>,
    serving: Option<&Vec<String>>,
) -> (Option<Dependents>, Vec<Finding>) {
    const ID: &str = "bundle-clients";
    let Some(address) = admin else {
        let why =
            "no running gateway was asked (--admin): who is connected by these CAs is not known";
        return (None, vec![GROUP.skipped(ID, why)]);
    };
    match ask::told::<Dependents>(address, "/dependents") {
        Ok(told) => {
            let findings = judged(&told, serving.map_or(&[], |serving| serving));
            let findings = if serving.is_some() { findings } else { vec![counted(&told)] };
            (Some(told), findings)
        }
        Err(why) => {
            let why = format!("{why}; who is connected by these CAs is not known");
            (None, vec![GROUP.skipped(ID, why)])
        }
    }
}

fn counted(told: &Dependents) -> Finding {
    let by_ca: u64 = told.authorities.iter().map(|of| of.group.clients).sum();
    let text = format!(
        "{} connected: {by_ca} by {}, {} by thumbprint, {} by token",
        plural(told.clients, "client"),
        plural(told.authorities.len() as u64, "CA"),
        told.thumbprints.clients,
        told.tokens.clients,
    );
    GROUP.ok("bundle-clients", text)
}

/// What the bundle with the CAs `serving` means to those who are connected.
fn judged(told: &Dependents, serving: &[String]) -> Vec<Finding> {
    let is_elsewhere = |of: &&OfAuthority| !serving.contains(&of.sha256);
    let lost = told.authorities.iter().filter(is_elsewhere).map(|of| {
        let named = of.group.names.join(", ");
        let text = format!(
            "{} connected by a CA that does not serve in this bundle (SHA-256 {}): {named}{}",
            plural(of.group.clients, "client"),
            of.sha256,
            if of.group.clients > of.group.names.len() as u64 { ", ..." } else { "" },
        );
        let todo = "put that CA into the bundle before the gateway gets it: else they are disconnected unless another of \
                    its CAs vouches for them";
        GROUP.warning("bundle-clients-lost", text, todo)
    });
    let mut findings = vec![counted(told)];
    findings.extend(lost);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::dependents::Group as Clients;

    #[test]
    fn who_would_lose_the_ca_is_told() {
        let group = |clients, names: &[&str]| Clients {
            clients,
            names: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let of = |sha256: &str, group| OfAuthority { sha256: sha256.into(), by_grace: 0, group };
        let told = Dependents {
            clients: 6,
            authorities: vec![of("aa", group(1, &["d1"])), of("bb", group(3, &["d2", "d3"]))],
            thumbprints: group(1, &["p"]),
            tokens: group(1, &["t"]),
        };
        let words = |serving: &[&str]| {
            let serving: Vec<String> = serving.iter().map(|&ca| ca.to_owned()).collect();
            judged(&told, &serving).into_iter().map(|finding| finding.what).collect::<Vec<_>>()
        };
        let all = "6 clients connected: 4 by 2 CAs, 1 by thumbprint, 1 by token";
        assert_eq!(words(&["aa", "bb"]), [all]);
        let lost = "3 clients connected by a CA that does not serve in this bundle (SHA-256 bb): d2, d3, ...";
        assert_eq!(words(&["aa"]), [all, lost]);
    }

    #[test]
    fn a_gateway_that_does_not_answer_is_not_taken_for_an_empty_one() {
        // Port 1 of loopback: nobody is there.
        for (admin, part) in [
            (None, "no running gateway was asked"),
            (Some("127.0.0.1:1"), "is the gateway running?"),
        ] {
            let (told, findings) = of_gateway(admin, None);
            assert!(told.is_none());
            assert!(findings[0].what.contains(part), "{}", findings[0].what);
        }
    }
}
