//! Who we are and how we prove it: from a connection string, or from what the IoT Edge daemon sets (`edgehub.md` 1.2).
//!
//! Owns: the choice between the two, their names and their problems. A connection string wins: who sets one beside a daemon
//! means it. Must not know: how the daemon is asked.

use std::fmt::Display;

use super::reader::Reader;
use super::{Connection, Credentials, Daemon, ServerFiles, ServerSource};
use crate::edged::Address;
use crate::identity::{DeviceId, ModuleId};
use crate::iothub::connection_string::ConnectionString;

const CONNECTION_STRING: &str = "IotHubConnectionString";
const WORKLOAD: &str = "IOTEDGE_WORKLOADURI";
const HUB: &str = "IOTEDGE_IOTHUBHOSTNAME";
const EDGE: &str = "IOTEDGE_DEVICEID";
const MODULE: &str = "IOTEDGE_MODULEID";
const GENERATION: &str = "IOTEDGE_MODULEGENERATIONID";
const API_VERSION: &str = "IOTEDGE_APIVERSION";
const SCHEME: &str = "IOTEDGE_AUTHSCHEME";
const PARENT: &str = "IOTEDGE_GATEWAYHOSTNAME";
const RENEW_AFTER: &str = "ServerCertificateRenewAfterInMs";
const CERTIFICATE: &str = "EdgeHubDevServerCertificateFile";
const KEY: &str = "EdgeHubDevServerPrivateKeyFile";

/// What shows that the daemon has started us: more than one, so that a missing one is told with the others.
const MARKS: [&str; 5] = [WORKLOAD, HUB, EDGE, MODULE, GENERATION];

const AS_EDGE_HUB: &str =
    "Deploy this image as the edgeHub system module: then the IoT Edge daemon and edgeAgent set it";

impl Reader {
    /// Whether the daemon has started us and nobody says otherwise.
    pub(super) fn is_by_daemon(&self) -> bool {
        !self.is_set(CONNECTION_STRING) && MARKS.iter().any(|mark| self.is_set(mark))
    }

    pub(super) fn connection(&mut self) -> Option<Connection> {
        if self.is_by_daemon() {
            self.take(CONNECTION_STRING, "");
            self.by_daemon()
        } else {
            self.by_string()
        }
    }

    fn by_daemon(&mut self) -> Option<Connection> {
        let address = self.given(WORKLOAD, Address::parse);
        let announced_version = self.take(API_VERSION, "2020-07-07");
        if let Some(scheme) = self.take(SCHEME, "sasToken")
            && !scheme.eq_ignore_ascii_case("sasToken")
        {
            let what = format!("{scheme:?} is not supported");
            self.problem(SCHEME, what, "Leave it at sasToken, as edgeAgent sets it");
        }
        let generation = self.given(GENERATION, |text| Ok::<_, String>(text.to_owned()));
        let host_name = self.given(HUB, |text| match is_host_name(text) {
            true => Ok(text.to_owned()),
            false => Err("it is no host name"),
        });
        let device = self.given(EDGE, DeviceId::parse);
        let module = self.given(MODULE, ModuleId::parse);
        if module.as_ref().is_some_and(|module| module.as_str() != "$edgeHub") {
            let what = "it is not $edgeHub, and only that module may speak for devices";
            self.problem(MODULE, what, AS_EDGE_HUB);
        }
        self.parent();
        let renew_after_max =
            self.optional_number(RENEW_AFTER, "2/3 of its life", 100u64, i32::MAX as u64);
        let daemon = Daemon {
            address: address?,
            announced_version,
            generation: generation?,
            renew_after_max: renew_after_max.map(std::time::Duration::from_millis),
        };
        Some(Connection {
            host_name: host_name?,
            device: device?,
            module: module?,
            gateway_host_name: None,
            credentials: Credentials::Daemon(daemon),
        })
    }

    /// The parent of a nested gateway. Its certificate carries its own name, and the hub is reached through it by other
    /// ways than the hub itself: to go past it in silence would go where the network lets nobody.
    fn parent(&mut self) {
        let Some(parent) = self.take(PARENT, "not nested") else { return };
        if !self.is_value("EdgeDeviceHostName", &parent) {
            let what =
                format!("{parent:?} is a parent gateway: nested gateways are not supported yet");
            self.problem(
                PARENT,
                what,
                "Give this edge device no parent (parent_hostname in its config.toml)",
            );
        }
    }

    /// A variable that the daemon sets, read by `parse`.
    fn given<T, E: Display>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let Some(text) = self.take(name, "") else {
            self.problem(
                name,
                "it is not set, though others of the IoT Edge daemon are",
                AS_EDGE_HUB,
            );
            return None;
        };
        match parse(&text) {
            Ok(value) => Some(value),
            Err(e) => {
                self.problem(name, format!("{text:?} cannot be used: {e}"), AS_EDGE_HUB);
                None
            }
        }
    }

    fn by_string(&mut self) -> Option<Connection> {
        const FORM: &str =
            "HostName=<hub>;DeviceId=<edge device>;ModuleId=$edgeHub;SharedAccessKey=<key>";
        let Some(text) = self.take(CONNECTION_STRING, "") else {
            let todo = format!(
                "Set it to {FORM}, or deploy this image as the edgeHub system module, where the IoT Edge daemon sets \
                 {WORKLOAD} and the others instead"
            );
            self.problem(CONNECTION_STRING, "it is not set", todo);
            return None;
        };
        let parsed = match ConnectionString::parse(&text) {
            Ok(parsed) => parsed,
            Err(e) => {
                let what = format!("it cannot be read: {e}");
                self.problem(CONNECTION_STRING, what, format!("Write {FORM}"));
                return None;
            }
        };
        for part in &parsed.ignored {
            let text = format!("{CONNECTION_STRING}: the part {part} has no effect; take it out");
            self.warnings.push(text);
        }
        if parsed.module.as_str() != "$edgeHub" {
            self.problem(
                CONNECTION_STRING,
                "its ModuleId is not $edgeHub",
                "Take the connection string of the edge device's $edgeHub module: add ;ModuleId=$edgeHub and that module's key \
                 (mind the shell: put the value in single quotes)",
            );
        }
        Some(Connection {
            host_name: parsed.host_name,
            device: parsed.device,
            module: parsed.module,
            gateway_host_name: parsed.gateway_host_name,
            credentials: Credentials::Key(parsed.key),
        })
    }

    /// The daemon's certificate, unless files are named.
    pub(super) fn server(&mut self) -> Option<ServerSource> {
        let by_daemon = self.is_by_daemon();
        if by_daemon && !self.is_set(CERTIFICATE) && !self.is_set(KEY) {
            self.take(CERTIFICATE, "by the IoT Edge daemon");
            self.take(KEY, "by the IoT Edge daemon");
            return Some(ServerSource::Daemon);
        }
        let certificate = self.file(CERTIFICATE, "the server's PEM chain, leaf first");
        let key = self.file(KEY, "the PEM key of the server's certificate");
        Some(ServerSource::Files(ServerFiles { certificate: certificate?, key: key? }))
    }
}

fn is_host_name(text: &str) -> bool {
    text.len() <= 253 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}
