//! What a session wants done, and why it ends.

use std::borrow::Cow;

use bytes::Bytes;

use super::connect::ConnectRequest;
use crate::iothub::authorisation::Denied;
use crate::iothub::subscriptions::Subscription;
use crate::message::Message;
use crate::mqtt::packet::{Packet, PacketId, QoS};

/// What a session wants done. To be carried out in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Write this packet.
    Send(Packet),
    /// Judge this claim and answer with [`on_authenticated`](super::Session::on_authenticated).
    Authenticate(Box<ConnectRequest>),
    /// Route and store this message; answer with [`on_durable`](super::Session::on_durable) or
    /// [`on_unrouted`](super::Session::on_unrouted), QoS 0 included (it takes room in the window, so that receipts
    /// are bounded too). A will comes this way as well, right before or instead of [`Output::Close`]: an answer to it
    /// is taken and changes nothing.
    Route {
        /// Counts up from 0 within the session.
        tag: u64,
        /// Without a message id if the client set none.
        message: Message,
    },
    /// The client asks for its twin, or patches it.
    TwinRequest(TwinRequest),
    /// The client answers a direct method.
    MethodResponse {
        /// Request id of the method's topic, verbatim.
        rid: Box<str>,
        /// The client's status.
        status: i32,
        /// The client's answer.
        body: Bytes,
    },
    /// The client has acknowledged a QoS 1 PUBLISH that it was sent.
    Acknowledged(PacketId),
    /// The client has this subscription now (perhaps again, with another QoS). The SUBACK went before.
    Subscribed(Subscription, QoS),
    /// The client asked for a filter that it may not have: for the counter. The SUBACK (0x80) went before.
    FilterDenied(Denied),
    /// The client has given this subscription up.
    Unsubscribed(Subscription),
    /// Write what is to be sent, then close the connection. The last output of a session.
    Close(CloseReason),
}

/// A client's request about its twin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TwinRequest {
    /// Whole twin, to `$iothub/twin/res/{status}/?$rid={rid}`.
    Get {
        /// Request id, verbatim.
        rid: Box<str>,
    },
    /// Reported properties.
    Patch {
        /// Request id, verbatim; without one nobody waits for a reply.
        rid: Option<Box<str>>,
        /// Reported version that the client believes in.
        version: Option<u64>,
        /// JSON.
        body: Bytes,
    },
}

/// Whose doing the end of a connection is: decides how loud the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// DISCONNECT: nobody's, all is well.
    Nobody,
    /// The client broke a rule or was refused.
    Peer,
    /// Something around us (disk, hub, scope) is away.
    Environment,
    /// A defect of this program.
    Ours,
}

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseReason {
    /// Whose doing it is.
    pub blame: Blame,
    /// For the counter.
    pub label: &'static str,
    /// For the log.
    pub detail: Cow<'static, str>,
}

impl CloseReason {
    /// The client's doing.
    pub fn peer(label: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { blame: Blame::Peer, label, detail: detail.into() }
    }

    /// The environment's doing.
    pub fn environment(label: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { blame: Blame::Environment, label, detail: detail.into() }
    }

    /// Our doing.
    pub fn ours(label: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { blame: Blame::Ours, label, detail: detail.into() }
    }

    pub(super) fn farewell() -> Self {
        let detail = "the client sent DISCONNECT".into();
        Self { blame: Blame::Nobody, label: "disconnect", detail }
    }
}
