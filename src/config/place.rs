//! Where a gateway keeps and shows things: what commands need that only look.
//!
//! Owns: [`Place`]. Unlike [`super::Config`] it asks for nothing, tries nothing out, and is usable where a gateway could not
//! start. Must not know: commands.

use std::path::{Path, PathBuf};

use super::Env;
use super::reader::Reader;

/// In the folder of `StorageFolder`: the gateway's own.
const OWN_FOLDER: &str = "edgeHub";
/// In the gateway's own folder: the store.
pub const QUEUES_FOLDER: &str = "queues";

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
}
