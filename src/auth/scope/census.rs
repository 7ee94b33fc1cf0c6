//! How many identities of a stored snapshot prove themselves in which way: for a person who changes the trust bundle.
//!
//! Owns: a look at the file that changes nothing, also beside a running gateway. Invariant: of the snapshot's form it knows
//! what all versions share. Must not know: names, keys.

use std::io;
use std::path::Path;

use serde::Deserialize;

use super::file::SNAPSHOT_BYTES_MAX;
use crate::clock::UnixMillis;
use crate::kept_file;

/// What a stored snapshot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// When it was written.
    pub saved: UnixMillis,
    /// All identities in it.
    pub identities: u64,
    /// Those that log in with a certificate of a CA, and may.
    pub by_ca: u64,
}

#[derive(Deserialize)]
struct Snapshot {
    saved_ms: u64,
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    enabled: bool,
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(rename = "type")]
    kind: String,
}

/// Counts the snapshot at `path`; `None` when there is none.
///
/// # Errors
/// It cannot be read, or is no snapshot.
pub fn census(path: &Path) -> io::Result<Option<Census>> {
    let Some(read) = kept_file::read(path, SNAPSHOT_BYTES_MAX)? else { return Ok(None) };
    let bytes = read.map_err(|n| io::Error::other(format!("it has {n} bytes")))?;
    let Snapshot { saved_ms, entries } = serde_json::from_slice(&bytes)?;
    let is_by_ca = |entry: &&Entry| entry.enabled && entry.auth.kind == "certificate_authority";
    Ok(Some(Census {
        saved: UnixMillis(saved_ms),
        identities: entries.len() as u64,
        by_ca: entries.iter().filter(is_by_ca).count() as u64,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scope::{AuthKind, Scope, ScopeEntry, Status};
    use crate::identity::{ClientName, DeviceId};

    #[test]
    fn who_logs_in_by_a_ca_is_counted_in_what_the_scope_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scope.json");
        assert_eq!(census(&path).unwrap(), None);
        let entry = |id: &str, auth, status| ScopeEntry {
            name: ClientName::Device(DeviceId::parse(id).unwrap()),
            generation: "g".to_owned(),
            status,
            auth,
            scope: String::new(),
            parent_scopes: Vec::new(),
            is_edge: false,
        };
        let by_thumbprint = AuthKind::SelfSigned { thumbprints: vec!["00".to_owned()] };
        let entries = vec![
            entry("a", AuthKind::CertificateAuthority, Status::Enabled),
            entry("b", AuthKind::CertificateAuthority, Status::Disabled),
            entry("c", by_thumbprint, Status::Enabled),
            entry("d", AuthKind::CertificateAuthority, Status::Enabled),
        ];
        let (scope, _) = Scope::load(&path, DeviceId::parse("edge").unwrap());
        scope.replace(entries, UnixMillis(5000));
        let expected = Census { saved: UnixMillis(5000), identities: 4, by_ca: 2 };
        assert_eq!(census(&path).unwrap(), Some(expected));
        std::fs::write(&path, "{").unwrap();
        assert!(census(&path).is_err());
    }
}
