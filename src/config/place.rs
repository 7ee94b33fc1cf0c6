//! Where a gateway keeps and shows things: what commands need that only look.
//!
//! Owns: [`Place`], [`Certificates`]. Unlike [`super::Config`] they ask for nothing, try nothing out, and are usable where a gateway could not
//! start. Must not know: commands.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::reader::Reader;
use super::{Bind, Env};

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
    /// `metrics__listener__host` and `_port`, as this machine asks there; `None`: there is no fixed port.
    pub admin: Option<SocketAddr>,
}

impl Place {
    /// Reads the environment. What cannot be read counts as not set: `run` and `check` are there to complain.
    pub fn read(env: &dyn Env) -> Self {
        let mut reader = Reader::new(env);
        let storage = reader.take("StorageFolder", "").map(PathBuf::from);
        let enabled = reader.flag("metrics__listener__MetricsEnabled", true);
        let host = reader.host("metrics__listener__host");
        let port = reader.number("metrics__listener__port", 9600, 0, u16::MAX);
        Self { storage, admin: super::asked(enabled, Bind { host, port }) }
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
        let check = |env: MapEnv, storage: Option<&str>, admin: Option<&str>| {
            let storage = storage.map(PathBuf::from);
            let admin = admin.map(|address| address.parse().unwrap());
            assert_eq!(Place::read(&env), Place { storage, admin });
        };
        let env = MapEnv::default();
        check(env.clone(), None, Some("127.0.0.1:9600"));
        check(env.clone().with("storageFOLDER", " /s "), Some("/s"), Some("127.0.0.1:9600"));
        check(env.clone().with("metrics:listener:port", "9700"), None, Some("127.0.0.1:9700"));
        check(env.clone().with("metrics__listener__port", "0"), None, None);
        // Host; where it is asked; where without metrics.
        for (host, with, without) in [
            ("*", "127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
            ("[::]", "127.0.0.1", "127.0.0.1"),
            ("localhost", "127.0.0.1", "127.0.0.1"),
            ("127.0.0.2", "127.0.0.2", "127.0.0.2"),
            ("::1", "[::1]", "[::1]"),
            ("192.0.2.1", "192.0.2.1", "127.0.0.1"),
        ] {
            let env = env.clone().with("metrics__listener__host", host);
            check(env.clone(), None, Some(&format!("{with}:9600")));
            let env = env.with("metrics__listener__MetricsEnabled", "false");
            check(env.clone(), None, Some(&format!("{without}:9600")));
            check(env.with("metrics__listener__port", "0"), None, None);
        }
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
