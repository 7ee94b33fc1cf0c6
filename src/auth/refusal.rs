//! A log-in that is refused, or a session that may not go on: code, label and plain words.
//!
//! Owns: [`Refusal`], and the closed list of the labels that are this module's own ([`LABELS`]; those of a chain are
//! `X509Refusal`'s, those of a token `SasError`'s). Invariant: codes 2 and 4 do not exist here: the C SDK (and so Azure
//! Sphere) comes back after 3 and 5, but gives up for good after those (iothub-protocol.md A3).
//! Must not know: who judges.

/// Every label that a judgement gives besides those of a chain and of a token's text.
pub const LABELS: [&str; 16] = [
    "scope_unknown",
    "keys_unknown",
    "clock_not_set",
    "not_in_scope",
    "disabled",
    "not_our_child",
    "no_credentials",
    "certificates_off",
    "own_identity",
    "module_by_certificate",
    "not_a_certificate_device",
    "not_a_token_device",
    "common_name",
    "thumbprint",
    "sas_policy",
    "key_replaced",
];

/// Those that a fresher scope may judge otherwise.
const BY_SCOPE: [&str; 8] = [
    "not_in_scope",
    "disabled",
    "not_our_child",
    "not_a_certificate_device",
    "not_a_token_device",
    "thumbprint",
    "keys_unknown",
    // A key may have been replaced in the hub a minute ago.
    "sas_signature",
];

/// CONNACK return codes of a refusal [MQTT-3.2.2-4].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RefusalCode {
    /// 3: we cannot judge now; come back.
    ServerUnavailable = 3,
    /// 5: judged and refused.
    NotAuthorized = 5,
}

/// A refused log-in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// What the CONNACK says.
    pub code: RefusalCode,
    /// Short label for counters, out of a closed list.
    pub label: &'static str,
    /// Plain words for the log: what is wrong and what to do next.
    pub detail: String,
}

impl Refusal {
    /// Whether the scope is why: a fresher one from the hub may judge otherwise.
    pub fn is_by_scope(&self) -> bool {
        BY_SCOPE.contains(&self.label)
    }

    pub(super) fn no(label: &'static str, detail: impl Into<String>) -> Self {
        Self { code: RefusalCode::NotAuthorized, label, detail: detail.into() }
    }

    pub(super) fn later(label: &'static str, detail: impl Into<String>) -> Self {
        Self { code: RefusalCode::ServerUnavailable, label, detail: detail.into() }
    }
}
