//! One decision about who may come in: what is counted, logged, kept for the administrator and audited.
//!
//! Owns: [`Decision`], the closed list of reasons ([`REASONS`]), the hints, and the form in which a refusal is shown
//! ([`RefusalRecord`]). Invariants: no token, password or key is in a decision; text of the peer is escaped and cut.
//! Must not know: sockets, the runtime, where decisions are kept.

mod hint;
mod reasons;

use std::fmt;
use std::net::SocketAddr;

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

pub use self::hint::hint;
pub use self::reasons::{Loudness, REASONS, Reason, reason};
use super::x509::{self, CertificateInfo};
use crate::clock::UnixMillis;
use crate::identity::{ClientName, Identity};

/// Most characters of a detail: the longest of ours, with two distinguished names, has about 700.
const DETAIL_CHARS_MAX: usize = 1024;

/// How far a peer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Its TCP connection.
    Accept,
    /// The TLS handshake.
    Tls,
    /// The CONNECT, and what comes in its place.
    Connect,
    /// Its session: it was let in, and what let it in no longer counts.
    Session,
}

impl Stage {
    /// The `stage` label of the counters.
    pub fn label(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Tls => "tls",
            Self::Connect => "connect",
            Self::Session => "session",
        }
    }
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Let in.
    Admitted {
        /// As whom.
        identity: Identity,
        /// By what: [`Credential::label`](super::Credential::label).
        method: &'static str,
    },
    /// Refused.
    Refused {
        /// Out of [`REASONS`].
        label: &'static str,
        /// Plain words.
        detail: String,
        /// What to do, where more is known than the list says.
        hint: Option<String>,
    },
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// When, by the wall clock.
    pub at: UnixMillis,
    /// At what.
    pub stage: Stage,
    /// Who called; `None` when that is not known (`accept` failed).
    pub peer: Option<SocketAddr>,
    /// Who it said it is, if it came to that.
    pub claim: Option<ClientName>,
    /// What was decided.
    pub outcome: Outcome,
    /// Its leaf certificate, if it presented one that can be read.
    pub certificate: Option<Box<CertificateInfo>>,
}

/// Where decisions go. Must neither wait nor fail.
pub trait Decisions: Send + Sync {
    /// Takes one.
    fn decided(&self, decision: Decision);

    /// Whether admissions are wanted, too: their facts cost a look at the certificate.
    fn wants_admissions(&self) -> bool;
}

/// The facts of the leaf of a presented chain.
pub fn facts(chain: &[CertificateDer<'_>]) -> Option<Box<CertificateInfo>> {
    CertificateInfo::read(chain.first()?).ok().map(Box::new)
}

/// The facts of the leaf's issuer, if that is among what was presented.
pub fn issuer_facts(chain: &[CertificateDer<'_>]) -> Option<Box<CertificateInfo>> {
    let issuer = CertificateInfo::read(chain.first()?).ok()?.issuer;
    let others = chain[1..].iter().filter_map(|der| CertificateInfo::read(der).ok());
    others.filter(|info| info.subject == issuer).map(Box::new).next()
}

/// A certificate as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateRecord {
    /// Escaped and cut.
    pub subject: String,
    /// Escaped and cut.
    pub issuer: String,
    /// SHA-1 over the DER, lower-case hex: the thumbprint of the Azure tools.
    pub sha1: String,
    /// SHA-256 over the DER, lower-case hex.
    pub sha256: String,
    /// UTC.
    pub not_before: String,
    /// UTC.
    pub not_after: String,
}

impl From<&CertificateInfo> for CertificateRecord {
    fn from(info: &CertificateInfo) -> Self {
        Self {
            subject: info.subject.clone(),
            issuer: info.issuer.clone(),
            sha1: info.sha1.clone(),
            sha256: info.sha256.clone(),
            not_before: x509::utc(info.not_before),
            not_after: x509::utc(info.not_after),
        }
    }
}

/// A refusal as it is shown: the same one again and again is one, counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusalRecord {
    /// When it happened first, UTC.
    pub first: String,
    /// When it happened last, UTC.
    pub last: String,
    /// How often.
    pub times: u64,
    /// `accept`, `tls`, `connect` or `session`.
    pub stage: String,
    /// The label in the counters.
    pub reason: String,
    /// Address and port of the last one.
    pub peer: Option<String>,
    /// Who it said it is.
    pub claim: Option<String>,
    /// What is wrong.
    pub detail: String,
    /// What to do.
    pub todo: String,
    /// Its leaf certificate, if one came.
    pub certificate: Option<CertificateRecord>,
}

/// The last refusals, as the administrator's endpoint tells them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusalsReport {
    /// All refusals since the start.
    pub total: u64,
    /// The last ones, oldest first.
    pub refusals: Vec<RefusalRecord>,
}

impl RefusalRecord {
    /// The record of a refusal; `None` for an admission.
    pub fn of(decision: &Decision) -> Option<Self> {
        let Outcome::Refused { label, detail, hint } = &decision.outcome else { return None };
        let at = x509::utc(decision.at);
        let todo = hint.clone();
        Some(Self {
            first: at.clone(),
            last: at,
            times: 1,
            stage: decision.stage.label().to_owned(),
            reason: (*label).to_owned(),
            peer: decision.peer.map(|peer| peer.to_string()),
            claim: decision.claim.as_ref().map(ToString::to_string),
            detail: cut(detail),
            todo: todo.unwrap_or_else(|| reason(decision.stage, label).todo.to_owned()),
            certificate: decision.certificate.as_deref().map(Into::into),
        })
    }
}

/// One line for the log, without how often.
impl fmt::Display for RefusalRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let (peer, claim) = (or_none(&self.peer), or_none(&self.claim));
        write!(f, "refused at {} ({}): peer {peer}, claim {claim}, ", self.stage, self.reason)?;
        match &self.certificate {
            Some(CertificateRecord { subject, issuer, sha1, sha256, .. }) => {
                write!(f, "certificate {subject}, issuer {issuer}, SHA-1 {sha1}, SHA-256 {sha256}")?
            }
            None => f.write_str("no certificate")?,
        }
        write!(f, ": {}; to do: {}", self.detail, self.todo)
    }
}

/// Foreign text may be in it: no line breaks, and not without end.
fn cut(detail: &str) -> String {
    let mut shown: String = detail
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(DETAIL_CHARS_MAX)
        .collect();
    if shown.len() < detail.len() && detail.chars().count() > DETAIL_CHARS_MAX {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests;
