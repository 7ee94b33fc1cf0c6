//! What can go wrong with the daemon, by whose fault it is, with what to do.
//!
//! Owns: [`WorkloadError`]. Invariant: no text of an answer that could hold a secret is in it.
//! Must not know: how a request travels.

use std::io;
use std::time::Duration;

use hyper::StatusCode;

use super::{Address, TEXT_BYTES_MAX, wire};

/// Longest of the daemon's own words that is repeated, in characters.
const WORDS_CHARS_MAX: usize = 200;

/// Why the daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// Nobody listens.
    #[error("the IoT Edge daemon does not answer at {address} ({source}): {}", advice_unreachable(.source))]
    Unreachable {
        /// Where.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// It will say the same again.
    #[error("the IoT Edge daemon refused {what} with {status} ({words}): {advice}")]
    Refused {
        /// `sign`, `certificate/server` ...
        what: String,
        /// HTTP status.
        status: u16,
        /// Its own words.
        words: String,
        /// What to do.
        advice: &'static str,
    },
    /// It failed, or closed the connection without an answer.
    #[error(
        "the IoT Edge daemon failed ({0}): it is asked again; its own log (iotedge system logs) says why"
    )]
    Failed(String),
    /// No answer in time.
    #[error("the IoT Edge daemon gave no answer in {0:?}: see its own log (iotedge system logs)")]
    NoAnswer(Duration),
    /// Not the API.
    #[error(
        "the IoT Edge daemon's answer cannot be used: {0}; does IOTEDGE_WORKLOADURI name its workload socket?"
    )]
    Malformed(&'static str),
    /// It is not asked at all.
    #[error(
        "a text of {0} bytes is too long for the IoT Edge daemon, {TEXT_BYTES_MAX} are the most: have it encrypt a key, and \
         keep the text under that"
    )]
    TooLong(usize),
    /// A certificate that nobody could use.
    #[error("the IoT Edge daemon's certificate cannot be used: {0}")]
    Certificate(String),
}

impl WorkloadError {
    pub(super) fn refused(path: &str, status: StatusCode, body: &[u8]) -> Self {
        let words = serde_json::from_slice(body).map(|refusal: wire::Refusal| refusal.message);
        let words = words.unwrap_or_else(|_| "no words".to_owned());
        let words: String = words.escape_debug().take(WORDS_CHARS_MAX).collect();
        if status.is_server_error() {
            return Self::Failed(format!("HTTP status {}: {words}", status.as_u16()));
        }
        let advice = match status {
            StatusCode::FORBIDDEN => {
                "it knows a module by its container: this one must run as the edgeHub system module, in the container named \
                 edgeHub"
            }
            StatusCode::NOT_FOUND => {
                "it does not know this module or its generation: the deployment has changed, start the container again"
            }
            _ => {
                "check that IOTEDGE_WORKLOADURI and IOTEDGE_APIVERSION are those that it set itself"
            }
        };
        let method = path.split('?').next().unwrap_or(path);
        let what = method.splitn(6, '/').nth(5).unwrap_or(method.trim_start_matches('/'));
        Self::Refused { what: what.to_owned(), status: status.as_u16(), words, advice }
    }

    /// Whether the same request may do better within a second. A socket that refuses stays dead until somebody starts this
    /// container again: whoever asks has his own schedule for that.
    pub(super) fn is_worth_another_try(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::NoAnswer(_))
    }

    /// A bounded label for the metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { .. } => "refused",
            Self::Failed(_) => "failed",
            Self::NoAnswer(_) => "timeout",
            Self::Malformed(_) => "malformed",
            Self::TooLong(_) => "too_long",
            Self::Certificate(_) => "certificate",
        }
    }
}

fn advice_unreachable(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "it is not running, or it has been restarted, and then this container's socket is dead until the container is \
             started again; the last certificate and token serve on"
        }
        io::ErrorKind::NotFound => {
            "the socket is not there: the container must be started by the daemon, which mounts it"
        }
        io::ErrorKind::PermissionDenied => {
            "this user may not use the socket: run as the user that the image sets"
        }
        _ => "check that the daemon is running (iotedge system status)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do_and_which_are_tried_again() {
        let path = "/modules/%24edgeHub/genid/1/certificate/server?api-version=2019-01-30";
        let refused = |status: u16, body: &str| {
            WorkloadError::refused(path, StatusCode::from_u16(status).unwrap(), body.as_bytes())
        };
        let unreachable = |kind: io::ErrorKind| WorkloadError::Unreachable {
            address: Address::Unix("/s".into()),
            source: kind.into(),
        };
        let check = |error: WorkloadError, again: bool, parts: &[&str]| {
            let text = error.to_string();
            assert_eq!(error.is_worth_another_try(), again, "{text}");
            parts.iter().for_each(|part| assert!(text.contains(part), "{part} in {text}"));
        };
        let forbidden = refused(403, r#"{"message":"forbidden"}"#);
        check(forbidden, false, &["certificate/server", "403 (forbidden)", "named edgeHub"]);
        check(refused(404, "x"), false, &["(no words)", "start the container again"]);
        check(refused(500, r#"{"message":"key\nservice"}"#), true, &["500: key\\nservice"]);
        let dead = unreachable(io::ErrorKind::ConnectionRefused);
        check(dead, false, &["unix:///s", "has been restarted", "serve on"]);
        check(unreachable(io::ErrorKind::NotFound), false, &["mounts it"]);
        check(WorkloadError::NoAnswer(Duration::from_secs(5)), true, &["5s"]);
    }
}
