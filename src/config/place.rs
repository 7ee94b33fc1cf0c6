//! Where a gateway keeps and shows things: what commands need that only look.
//!
//! Owns: [`Place`], [`Certificates`]. Unlike [`super::Config`] they ask for nothing, try nothing out, and are usable where a gateway could not
//! start. Must not know: commands.

use std::path::{Path, PathBuf};

use super::Env;
use super::reader::Reader;

/// In the folder of `StorageFolder`: the gateway's own.
const OWN_FOLDER: &str = "edgeHub";
/// In the gateway's own folder: the store.
pub const QUEUES_FOLDER: &str = "queues";
/// In the gateway's own folder: who may connect, as it was last known.
const SCOPE_FILE: &str = "scope.json";

/// Where a gateway with this environment keeps its store and answers its administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `StorageFolder`.
    pub storage: Option<PathBuf>,
    /// `metrics__listener__port`; `None`: there is no listener, or no fixed port.
    pub admin_port: Option<u16>,
}

impl Place {
    /// Reads the environment. What cannot be read counts as not set: `run` and `check` are there to complain.
    pub fn read(env: &dyn Env) -> Self {
        let mut reader = Reader::new(env);
        let storage = reader.take("StorageFolder", "").map(PathBuf::from);
        let enabled = reader.flag("metrics__listener__MetricsEnabled", true);
        let port: u16 = reader.number("metrics__listener__port", 9600, 0, u16::MAX);
        Self { storage, admin_port: (enabled && port != 0).then_some(port) }
    }

    /// The folder of the store of a gateway that was given `storage`.
    pub fn queues_in(storage: &Path) -> PathBuf {
        storage.join(OWN_FOLDER).join(QUEUES_FOLDER)
    }
}

/// The certificates that a gateway with this environment is given by files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificates {
    /// `EdgeHubDevTrustBundleFile`.
    pub bundle: Vec<PathBuf>,
    /// `EdgeHubDevServerCertificateFile`.
    pub server: Option<PathBuf>,
    /// `EdgeHubDevServerPrivateKeyFile`.
    pub key: Option<PathBuf>,
    /// `EdgeDeviceHostName`.
    pub gateway_name: Option<String>,
    /// The snapshot of the scope.
    pub scope: Option<PathBuf>,
}

impl Certificates {
    /// Reads the environment, as [`Place::read`] does.
    pub fn read(env: &dyn Env) -> Self {
        let mut reader = Reader::new(env);
        let mut take = |name| reader.take(name, "");
        let bundle = take("EdgeHubDevTrustBundleFile").unwrap_or_default();
        let bundle = bundle.split(';').map(str::trim).filter(|path| !path.is_empty());
        Self {
            bundle: bundle.map(PathBuf::from).collect(),
            server: take("EdgeHubDevServerCertificateFile").map(PathBuf::from),
            key: take("EdgeHubDevServerPrivateKeyFile").map(PathBuf::from),
            gateway_name: take("EdgeDeviceHostName"),
            scope: take("StorageFolder")
                .map(|folder| Path::new(&folder).join(OWN_FOLDER).join(SCOPE_FILE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::MapEnv;
    use super::*;

    #[test]
    fn the_environment_is_read_as_the_gateway_reads_it() {
        let check = |env: MapEnv, storage: Option<&str>, admin_port: Option<u16>| {
            let storage = storage.map(PathBuf::from);
            assert_eq!(Place::read(&env), Place { storage, admin_port });
        };
        let env = MapEnv::default();
        check(env.clone(), None, Some(9600));
        check(env.clone().with("storageFOLDER", " /s "), Some("/s"), Some(9600));
        check(env.clone().with("metrics:listener:port", "9700"), None, Some(9700));
        check(env.clone().with("metrics__listener__port", "0"), None, None);
        check(env.with("metrics__listener__MetricsEnabled", "false"), None, None);
        assert_eq!(Place::queues_in(Path::new("/s")), Path::new("/s/edgeHub/queues"));
    }

    #[test]
    fn certificates_are_where_the_gateway_has_them() {
        assert_eq!(Certificates::read(&MapEnv::default()), Certificates::default());
        let env = MapEnv::default()
            .with("edgehubdevtrustbundlefile", "/a.pem; /b ;")
            .with("EdgeHubDevServerCertificateFile", "/c")
            .with("EdgeHubDevServerPrivateKeyFile", "/k")
            .with("EdgeDeviceHostName", "gw.example")
            .with("StorageFolder", "/s");
        let expected = Certificates {
            bundle: vec!["/a.pem".into(), "/b".into()],
            server: Some("/c".into()),
            key: Some("/k".into()),
            gateway_name: Some("gw.example".to_owned()),
            scope: Some("/s/edgeHub/scope.json".into()),
        };
        assert_eq!(Certificates::read(&env), expected);
    }
}
