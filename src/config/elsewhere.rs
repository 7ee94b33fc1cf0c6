//! Settings that are meant for a gateway elsewhere: those of a deployment manifest, judged before it is deployed.
//!
//! Owns: [`judge`]. Names and values are read by the code that the gateway starts with.
//! Invariants: no file or folder is looked at (they are the container's), and no value of a secret is repeated.
//! Must not know: manifests.

use super::MapEnv;
use super::reader::Reader;
use super::table::{Standing, is_secret as is_secret_name};

/// What is there for the gateway when edgeAgent creates it; a stand-in for each, so that only what is given is judged.
const BY_DAEMON: [(&str, &str); 8] = [
    ("IOTEDGE_WORKLOADURI", "unix:///var/run/iotedge/workload.sock"),
    ("IOTEDGE_APIVERSION", "2020-07-07"),
    ("IOTEDGE_AUTHSCHEME", "sasToken"),
    ("IOTEDGE_MODULEGENERATIONID", "0"),
    ("IOTEDGE_IOTHUBHOSTNAME", "hub"),
    ("IOTEDGE_DEVICEID", "edge"),
    ("IOTEDGE_MODULEID", "$edgeHub"),
    ("EdgeDeviceHostName", "gateway"),
];

const CONNECTION_STRING: &str = "IotHubConnectionString";

/// Known to the container's base, not to the gateway.
const OF_THE_BASE: [&str; 2] = ["MALLOC_ARENA_MAX", "TZ"];

/// What the gateway makes of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has an effect.
    Honoured,
    /// The IoT Edge daemon and edgeAgent set it.
    ByDaemon,
    /// It is one of the reference's, without effect here: why.
    Ignored(&'static str),
    /// Nobody's; with a hint if it looks like a slip.
    Unknown(String),
    /// Its value serves, but not as written: what, and what to do.
    Doubtful(String),
    /// The gateway would not start with it.
    Wrong {
        /// What is wrong, without secrets.
        what: String,
        /// What to do.
        todo: String,
    },
}

/// A variable with what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// As it was given.
    pub name: String,
    /// What the gateway makes of it.
    pub verdict: Verdict,
}

/// Whether a value, by its name or its looks, is a secret that does not belong into a document.
pub fn is_secret(name: &str, value: &str) -> bool {
    const MARKS: [&str; 3] = ["sharedaccesskey=", "sharedaccesssignature sr=", "private key-----"];
    let lower = value.to_ascii_lowercase();
    let is_word =
        ["true", "false", ""].contains(&lower.trim()) || lower.trim().parse::<f64>().is_ok();
    MARKS.iter().any(|mark| lower.contains(mark))
        || (is_secret_name(name) && !name.to_ascii_lowercase().ends_with("file") && !is_word)
}

/// What a gateway that edgeAgent creates with these variables makes of each, in their order.
pub fn judge(vars: &[(String, String)]) -> Vec<Judged> {
    let mut env = MapEnv::default();
    for (name, value) in BY_DAEMON {
        env = env.with(name, value);
    }
    // The spelling of the list would stand beside another one.
    env.0.extend(vars.iter().filter(|(name, _)| !is_of_the_place(name)).cloned());
    let mut reader = Reader::new(&env);
    let _ = reader.config();
    let judged = |(name, _): &(String, String)| Judged {
        name: name.clone(),
        verdict: verdict(name, &reader),
    };
    vars.iter().map(judged).collect()
}

/// Named files and folders, a connection string that would take the daemon's place, and what the daemon sets anyway.
fn is_of_the_place(name: &str) -> bool {
    let is = |other: &str| name.replace(':', "__").eq_ignore_ascii_case(other);
    name.to_ascii_lowercase().ends_with("file")
        || is("StorageFolder")
        || is(CONNECTION_STRING)
        || is_by_daemon(name)
}

fn is_by_daemon(name: &str) -> bool {
    BY_DAEMON.iter().any(|(known, _)| name.eq_ignore_ascii_case(known))
}

fn verdict(name: &str, reader: &Reader) -> Verdict {
    if is_by_daemon(name) {
        return Verdict::ByDaemon;
    }
    if OF_THE_BASE.contains(&name) {
        return Verdict::Honoured;
    }
    let plain = name.replace(':', "__");
    let is = |other: &str| plain.eq_ignore_ascii_case(&other.replace(':', "__"));
    if let (Some(problem), false) =
        (reader.problems.iter().find(|p| is(&p.name)), is_of_the_place(name))
    {
        return Verdict::Wrong { what: problem.what.clone(), todo: problem.todo.clone() };
    }
    let row = reader.rows.iter().find(|row| row.is_for(&plain));
    match row.map(|row| &row.standing) {
        Some(Standing::Unknown(hint)) => Verdict::Unknown(hint.clone()),
        Some(Standing::Ignored(why) | Standing::NotSet(why)) => Verdict::Ignored(why),
        Some(Standing::Honoured | Standing::Default) => {
            let of_it = |warning: &&String| {
                warning.strip_prefix(&plain).is_some_and(|rest| rest.starts_with(':'))
            };
            match reader.warnings.iter().find(of_it) {
                Some(warning) => Verdict::Doubtful(warning.clone()),
                None => Verdict::Honoured,
            }
        }
        None => not_read(name),
    }
}

/// Of a variable that was kept from the reader, or that it has no row for.
fn not_read(name: &str) -> Verdict {
    let ignored = super::known::IGNORED.iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
    match ignored {
        Some((_, why)) => Verdict::Ignored(why),
        None => Verdict::Unknown(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn one(name: &str, value: &str) -> Verdict {
        let judged = judge(&[(name.to_owned(), value.to_owned())]);
        assert_eq!((judged.len(), judged[0].name.as_str()), (1, name));
        judged[0].verdict.clone()
    }

    #[test]
    fn a_variable_is_judged_as_the_gateway_would_without_a_look_at_files() {
        for (name, value) in [
            ("MaxConnectedClients", "1000"),
            ("maxconnectedCLIENTS", "1000"),
            ("mqttSettings:port", "8884"),
            ("StorageFolder", "/there/is/no/such/folder"),
            ("edgeHubTwinFile", "/there/is/no/such/file"),
            ("IotHubConnectionString", "of no form"),
            ("RuntimeLogLevel", "debug"),
            ("RuntimeLogFormat", "json"),
            ("MALLOC_ARENA_MAX", "2"),
        ] {
            assert_eq!(one(name, value), Verdict::Honoured, "{name}");
        }
        for (name, value) in [("OptimizeForPerformance", "false"), ("httpSettings__enabled", "x")] {
            assert!(matches!(one(name, value), Verdict::Ignored(_)), "{name}");
        }
        for (name, value) in [
            ("MaxConnectedClients", "many"),
            ("storeSettings__holdSecs", "31"),
            ("RuntimeLogFormat", "xml"),
        ] {
            assert!(matches!(one(name, value), Verdict::Wrong { .. }), "{name}");
        }
        for (name, hint) in [
            ("MaxConectedClients", ": did you mean MaxConnectedClients?"),
            ("mqttSettings__Colour", ""),
            ("Colour", ""),
        ] {
            assert_eq!(one(name, "1"), Verdict::Unknown(hint.to_owned()), "{name}");
        }
        assert_eq!(one("IOTEDGE_DEVICEID", "x"), Verdict::ByDaemon);
        assert!(matches!(one("RuntimeLogLevel", "loud"), Verdict::Doubtful(_)));
        assert!(matches!(one("UpstreamProtocol", "Mqtt"), Verdict::Doubtful(_)));
    }

    #[test]
    fn a_secret_is_known_by_its_name_or_its_looks() {
        let check = |name: &str, value: &str, expected| {
            assert_eq!(is_secret(name, value), expected, "{name}");
        };
        check("IotHubConnectionString", "HostName=h;SharedAccessKey=x", true);
        check("Anything", "HostName=h;sharedaccesskey=x", true);
        check("API_KEY", "abc", true);
        check("EdgeHubDevServerPrivateKeyFile", "/a", false);
        check("CacheTokens", "False", false);
        check("API_KEY", "", false);
        check("StorageFolder", "/a", false);
    }
}
