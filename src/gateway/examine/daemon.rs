//! The IoT Edge daemon: whether its socket is there, whether it knows us, and what it gives.
//!
//! Owns: the questions and their patience. Must not know: what is done with what it gives.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::clock::SharedClock;
use crate::command::check::{Finding, Group};
use crate::config::{Config, Daemon, ServerSource};
use crate::edged::certificate::{self, Certificates};
use crate::edged::trust_bundle::Bundles;
use crate::edged::{self, Patience, Workload, WorkloadError};
use crate::front::tls::ServerIdentity;
use crate::iothub::sas::{SignError, Signer};

const GROUP: Group = Group::Daemon;

/// What it gave, or what is kept of it.
pub(super) struct Given {
    workload: Arc<Workload>,
    signs: bool,
    pub(super) bundle: Option<Bytes>,
    pub(super) server: Option<ServerIdentity>,
}

impl Given {
    pub(super) fn signer(&self) -> Option<Arc<dyn Signer>> {
        self.signs.then(|| Arc::clone(&self.workload) as _)
    }
}

/// Stands where nobody signs: the way to the hub is looked at without a token.
pub(super) struct CannotSign;

impl Signer for CannotSign {
    fn sign<'a>(&'a self, _data: &'a [u8]) -> BoxFuture<'a, Result<[u8; 32], SignError>> {
        let error = SignError("the IoT Edge daemon does not sign".to_owned());
        Box::pin(std::future::ready(Err(error)))
    }
}

/// Asks for everything that a start needs, once or twice.
pub(super) async fn ask(
    config: &Config,
    set: &Daemon,
    clock: &SharedClock,
) -> (Given, Vec<Finding>) {
    let version = set.announced_version.as_deref();
    let module = config.connection.module.clone();
    let mut to = edged::Config::new(set.address.clone(), version, module, set.generation.as_str());
    let patience = |secs| Patience {
        tries: 2,
        once: Duration::from_secs(secs),
        overall: Duration::from_secs(secs + 3),
    };
    (to.quick, to.slow) = (patience(5), patience(20));
    let spoken = to.api_version;
    let workload = Workload::new(to);
    let keep = certificate::Config {
        gateway_name: config.gateway_host_name.clone(),
        folder: config.storage.clone(),
        keeps: false,
        renew_after_max: None,
    };
    let certificates = Certificates::new(Arc::clone(&workload), keep.clone(), Arc::clone(clock));
    let wants_certificate = config.server == ServerSource::Daemon;
    let server = async {
        match wants_certificate {
            true => Some(certificates.at_start().await),
            false => None,
        }
    };
    let (answer, signed, server, bundle) = tokio::join!(
        workload.trust_bundle(),
        workload.hmac(b"check"),
        server,
        Bundles::at_start(Arc::clone(&workload), &keep)
    );
    let mut findings = vec![of_version(version, spoken)];
    findings.push(of_socket(set, answer.as_ref().err()));
    findings.push(of_signature(signed.as_ref().err(), answer.as_ref().err()));
    if let Some(server) = &server {
        findings.push(match server {
            Ok(current) if current.is_kept() => GROUP.warning(
                "daemon-certificate",
                "it gives no server certificate: that of an earlier start serves while it lasts",
                ITS_LOG,
            ),
            Ok(_) => GROUP.ok("daemon-certificate", "it issues server certificates"),
            // What is missing then is worth a line of its own: nothing can be served.
            Err(e) => GROUP.error("daemon-certificate", e.to_string(), AGAIN),
        });
    }
    let server = server.and_then(Result::ok).map(|current| current.identity().clone());
    let bundle = bundle.ok().map(|bundles| bundles.last());
    let given = Given { workload, signs: signed.is_ok(), bundle, server };
    (given, findings)
}

const AS_EDGE_HUB: &str = "deploy this image as the edgeHub system module: the daemon knows a caller by its container's name";
const ITS_LOG: &str = "see the daemon's own log (iotedge system logs)";
const AGAIN: &str = "start this container again once the daemon runs (iotedge system status)";

/// `other`: why it gave no trust bundle, which has its own line.
fn of_signature(error: Option<&WorkloadError>, other: Option<&WorkloadError>) -> Finding {
    const ID: &str = "daemon-sign";
    match error {
        None => GROUP.ok(ID, "it signs for this module"),
        Some(error) if other.is_some_and(|other| other.label() == error.label()) => {
            GROUP.skipped(ID, "it does not answer")
        }
        Some(error @ WorkloadError::Refused { .. }) => {
            GROUP.error(ID, error.to_string(), AS_EDGE_HUB)
        }
        Some(error) => GROUP.error(ID, error.to_string(), ITS_LOG),
    }
}

fn of_version(announced: Option<&str>, spoken: &str) -> Finding {
    let announced = announced.unwrap_or("no version");
    let text = format!(
        "the IoT Edge daemon announces {announced} of the workload API, {spoken} is spoken"
    );
    Group::Versions.ok("daemon-version", text)
}

fn of_socket(set: &Daemon, error: Option<&WorkloadError>) -> Finding {
    const ID: &str = "daemon-socket";
    let Some(error) = error else {
        return GROUP.ok(ID, format!("it answers at {}", set.address));
    };
    let todo = match error {
        WorkloadError::Unreachable { source, .. } => match source.kind() {
            io::ErrorKind::NotFound => AS_EDGE_HUB,
            io::ErrorKind::PermissionDenied => "run the container as the user that the image sets",
            _ => AGAIN,
        },
        WorkloadError::Refused { .. } => AS_EDGE_HUB,
        WorkloadError::Failed(_)
        | WorkloadError::NoAnswer(_)
        | WorkloadError::Malformed(_)
        | WorkloadError::TooLong(_)
        | WorkloadError::Certificate(_) => ITS_LOG,
    };
    GROUP.error(ID, error.to_string(), todo)
}
