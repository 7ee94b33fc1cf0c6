//! The words of the fault script: what can go wrong, for whom, how often and for how long.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What goes wrong. As JSON: `{"kind":"throttle","per_second":100,"device":"d1","count":5,"duration_ms":2000}`.
/// MQTT has neither links nor outcomes: there a disposition is a PUBACK; a message that is rejected, released, modified or
/// throttled ends the connection, as do detached links and expired tokens; refused tokens and links are CONNACK 5, and 3 for
/// 429, 5xx and what is no refusal for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FaultKind {
    /// New connections to the AMQP, MQTT and HTTPS ports are closed before TLS. `count`: connections.
    RefuseConnections,
    /// At once: connections of clients end, abruptly, or with a `close` that carries `condition`. With `device`: only
    /// connections that hold a link of it.
    DropConnections {
        /// Such as `amqp:connection:forced`; none: the socket just closes.
        #[serde(default)]
        condition: Option<String>,
    },
    /// TCP is accepted, then silence; connections that exist stop answering. They go on when the fault ends.
    BlackHole,
    /// Messages are taken and no disposition is sent. `count`: transfers.
    WithholdDispositions {
        /// Whether they are lost for good; otherwise they are sent when the fault ends.
        #[serde(default)]
        forever: bool,
    },
    /// Dispositions come this much later.
    DelayDispositions {
        /// Milliseconds.
        ms: u64,
    },
    /// Transfers are rejected with `com.microsoft:device-container-throttled`. `count`: messages.
    Throttle {
        /// Messages per second that still pass (bursts of one second's worth); none: nothing passes.
        #[serde(default)]
        per_second: Option<u64>,
    },
    /// Transfers that hold a matching message are rejected. `count`: transfers.
    RejectMessage {
        /// The AMQP condition, such as `com.microsoft:argument-error`.
        condition: String,
        /// Only messages with this message-id.
        #[serde(default)]
        message_id: Option<String>,
        /// Only messages with this application property (name, value).
        #[serde(default)]
        property: Option<(String, String)>,
    },
    /// Transfers are answered with `released`. `count`: transfers.
    Release,
    /// Transfers are answered with `modified` (delivery-failed). `count`: transfers.
    Modify,
    /// Tokens put longer ago than this count as expired: their links are detached with `amqp:unauthorized-access`.
    /// At once; with a duration also for as long as it lasts.
    ExpireTokens {
        /// Milliseconds; 0: all tokens.
        older_than_ms: u64,
    },
    /// The hub reads slowly.
    Slow {
        /// Bytes per second that each connection is read at.
        #[serde(default)]
        bytes_per_second: Option<u64>,
        /// Milliseconds added to each message.
        #[serde(default)]
        ms_per_message: Option<u64>,
    },
    /// At once: links of identities are detached.
    DetachLinks {
        /// Default `amqp:link:detach-forced`.
        #[serde(default)]
        condition: Option<String>,
    },
    /// Attaches of identities are refused. `count`: attaches.
    RefuseLinks {
        /// The AMQP condition, such as `amqp:unauthorized-access`.
        condition: String,
    },
    /// Requests to the scope API are answered with this status. `count`: requests.
    RefuseScope {
        /// Such as 429 or 500.
        status: u16,
    },
    /// Changes of desired properties are not told, so that the identity has a gap. `count`: changes.
    DropDesired,
    /// Operations on twins are answered this much later. `count`: operations.
    DelayTwins {
        /// Milliseconds.
        ms: u64,
    },
    /// Operations on twins are answered with this status and not carried out. `count`: operations.
    RefuseTwins {
        /// Such as 429 or 500.
        status: u16,
    },
    /// Operations on twins are not answered. `count`: operations.
    IgnoreTwins {
        /// Whether they are carried out nevertheless.
        #[serde(default)]
        carried_out: bool,
    },
    /// Calls of methods do not reach the identity, so that the caller waits in vain. `count`: calls.
    LoseCalls,
    /// Calls of methods reach the identity this much later. `count`: calls.
    DelayCalls {
        /// Milliseconds.
        ms: u64,
    },
    /// At once: the locks on cloud-to-device messages are over, whoever holds them.
    DropLocks,
    /// put-tokens are answered with this status. `count`: put-tokens.
    RefuseTokens {
        /// Such as 401 or 500.
        status: u16,
    },
    /// put-tokens are neither taken nor answered (AMQP). `count`: put-tokens.
    IgnoreTokens,
    /// Attaches of identities are not answered, not even when the fault has ended (AMQP). `count`: attaches.
    IgnoreLinks,
}

/// A fault with its reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What goes wrong.
    #[serde(flatten)]
    pub kind: FaultKind,
    /// Only for this device (its modules too); none: for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// How often it acts; none: without limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// How long it lasts, milliseconds; none: until cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

impl Fault {
    /// For all devices, until cleared.
    pub fn new(kind: FaultKind) -> Self {
        Self { kind, device: None, count: None, duration_ms: None }
    }

    /// Only for `device`.
    #[must_use]
    pub fn for_device(mut self, device: impl Into<String>) -> Self {
        self.device = Some(device.into());
        self
    }

    /// Acts `count` times.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }

    /// Lasts for `duration` (whole milliseconds).
    #[must_use]
    pub fn lasting(mut self, duration: Duration) -> Self {
        self.duration_ms = Some(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        self
    }

    pub(super) fn is_for(&self, device: &str) -> bool {
        self.device.as_deref().is_none_or(|d| d.eq_ignore_ascii_case(device))
    }

    /// Acts once and is over: nothing to remember.
    pub(super) fn is_momentary(&self) -> bool {
        match self.kind {
            FaultKind::DropConnections { .. }
            | FaultKind::DetachLinks { .. }
            | FaultKind::DropLocks => true,
            FaultKind::ExpireTokens { .. } => self.duration_ms.is_none(),
            _ => false,
        }
    }
}

impl From<FaultKind> for Fault {
    fn from(kind: FaultKind) -> Self {
        Self::new(kind)
    }
}
