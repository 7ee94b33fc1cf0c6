//! Who of those who are connected depends on which proof: for a person who is about to take a CA out of the trust bundle.
//!
//! Owns: [`Dependents`], a count made from [`Admission`]s. Invariants: at most [`NAMES_MAX`] names a group; as many groups as
//! CAs let somebody in; the same clients make the same answer. No key, no token. Must not know: connections, HTTP.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::admission::{Admission, Credential};
use crate::identity::Identity;

/// Most names told of one group. A name has up to 128 characters, of a module twice that.
pub const NAMES_MAX: usize = 10;

/// All who are connected, by what let them in: the answer of `/dependents`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dependents {
    /// All who are connected.
    pub clients: u64,
    /// By a certificate below a CA of the trust bundle: a line each CA that let somebody in, by its thumbprint.
    pub authorities: Vec<OfAuthority>,
    /// By a certificate that is registered by its thumbprint: no CA is needed.
    pub thumbprints: Group,
    /// By a SAS token: no certificate is needed.
    pub tokens: Group,
}

/// Who depends on one CA.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfAuthority {
    /// SHA-256 of the CA's certificate, lower-case hex.
    pub sha256: String,
    /// Of them, those whose certificate had ended (`expiredLeafGrace`).
    pub by_grace: u64,
    /// They.
    #[serde(flatten)]
    pub group: Group,
}

/// Some who are connected.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// How many.
    pub clients: u64,
    /// The first [`NAMES_MAX`] of them, in order.
    pub names: Vec<String>,
}

/// A group that is being counted.
#[derive(Default)]
struct Counted<'a> {
    clients: u64,
    by_grace: u64,
    first: BTreeSet<&'a Identity>,
}

impl<'a> Counted<'a> {
    fn add(&mut self, who: &'a Identity) {
        self.clients += 1;
        self.first.insert(who);
        if self.first.len() > NAMES_MAX {
            self.first.pop_last();
        }
    }

    fn group(&self) -> Group {
        let names = self.first.iter().map(ToString::to_string).collect();
        Group { clients: self.clients, names }
    }
}

impl Dependents {
    /// Counts those who were let in by `admissions`, each of another client.
    pub fn of<'a>(admissions: impl IntoIterator<Item = &'a Admission>) -> Self {
        let mut by_authority: BTreeMap<&str, Counted<'_>> = BTreeMap::new();
        let (mut thumbprints, mut tokens) = (Counted::default(), Counted::default());
        let mut clients = 0;
        for Admission { identity, credential, .. } in admissions {
            clients += 1;
            match credential {
                Credential::CertificateAuthority { anchor_sha256, by_grace, .. } => {
                    let counted = by_authority.entry(anchor_sha256).or_default();
                    counted.add(identity);
                    counted.by_grace += u64::from(*by_grace);
                }
                Credential::Thumbprint { .. } => thumbprints.add(identity),
                Credential::Token { .. } => tokens.add(identity),
            }
        }
        let authorities = by_authority.iter().map(|(sha256, counted)| OfAuthority {
            sha256: (*sha256).to_owned(),
            by_grace: counted.by_grace,
            group: counted.group(),
        });
        Self {
            clients,
            authorities: authorities.collect(),
            thumbprints: thumbprints.group(),
            tokens: tokens.group(),
        }
    }

    /// Who depends on the CA with this SHA-256 (lower-case hex); nobody who is connected: an empty group.
    pub fn on(&self, sha256: &str) -> OfAuthority {
        let found = self.authorities.iter().find(|of| of.sha256 == sha256);
        found
            .cloned()
            .unwrap_or_else(|| OfAuthority { sha256: sha256.to_owned(), ..OfAuthority::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::{NOW, admitted};

    fn by_ca(id: &str, anchor: &str, by_grace: bool) -> Admission {
        let credential = Credential::CertificateAuthority {
            chain: Vec::new(),
            not_after: NOW,
            anchor_sha256: anchor.to_owned(),
            by_grace,
        };
        Admission { credential, ..admitted(id) }
    }

    #[test]
    fn each_client_counts_for_what_let_it_in() {
        let thumbprint =
            Credential::Thumbprint { sha1: "1".into(), sha256: "2".into(), not_after: NOW };
        let all = [
            by_ca("d2", "bb", false),
            admitted("t"),
            by_ca("d1", "bb", true),
            by_ca("d3", "aa", false),
            Admission { credential: thumbprint, ..admitted("p") },
        ];
        let told = Dependents::of(&all);
        let expected = r#"{"clients":5,"authorities":[{"sha256":"aa","byGrace":0,"clients":1,"names":["d3"]},{"sha256":"bb","byGrace":1,"clients":2,"names":["d1","d2"]}],"thumbprints":{"clients":1,"names":["p"]},"tokens":{"clients":1,"names":["t"]}}"#;
        assert_eq!(serde_json::to_string(&told).unwrap(), expected);
        assert_eq!(serde_json::from_str::<Dependents>(expected).unwrap(), told);
        assert_eq!(told.on("bb").group.names, ["d1", "d2"]);
        assert_eq!(told.on("cc").group, Group::default());
    }

    #[test]
    fn few_names_are_told_however_many_there_are() {
        let all: Vec<Admission> =
            (0..50).rev().map(|n| by_ca(&format!("d{n:02}"), "aa", false)).collect();
        let OfAuthority { group, .. } = Dependents::of(&all).on("aa");
        assert_eq!((group.clients, group.names.len()), (50, NAMES_MAX));
        assert_eq!((&*group.names[0], &*group.names[9]), ("d00", "d09"));
    }
}
