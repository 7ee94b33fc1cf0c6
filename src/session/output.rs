//! What a session wants done, and why it ends.

use std::borrow::Cow;

use bytes::Bytes;

use super::connect::ConnectRequest;
use crate::iothub::authorisation::Denied;
use crate::iothub::subscriptions::Subscription;
use crate::message::{Message, Properties, SystemProperties};
use crate::mqtt::packet::{Packet, QoS};

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
    /// The client has acknowledged what was sent under this tag ([`Session::send`](super::Session::send)).
    Acknowledged {
        /// The sender's.
        tag: u64,
    },
    /// The client has these subscriptions now, and no others. Comes before the SUBACK, so that they can be kept first.
    Subscriptions(Remembered),
    /// The client asked for a filter that it may not have: for the counter. The SUBACK (0x80) follows.
    FilterDenied(Denied),
    /// Write what is to be sent, then close the connection. The last output of a session.
    Close(CloseReason),
}

/// What a client has subscribed to, and with which QoS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Subscriptions([Option<QoS>; Subscription::KINDS]);

impl Subscriptions {
    /// The QoS that was granted, if there is this subscription.
    pub fn get(&self, of: Subscription) -> Option<QoS> {
        self.0[of.index()]
    }

    /// Takes a subscription up (again), or gives it up.
    pub fn set(&mut self, of: Subscription, qos: Option<QoS>) {
        self.0[of.index()] = qos;
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}

/// What came of [`Session::send`](super::Session::send).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// [`Output::Acknowledged`] will tell, unless the connection ends before.
    AwaitsAck,
    /// With QoS 0: nothing more will be heard.
    Written,
    /// The client has no subscription that it could come by.
    NotSubscribed,
    /// Too many wait for the client's PUBACK.
    Full,
    /// No MQTT topic can say it (longer than 65,535 bytes, a wildcard in a name): it never will be sent.
    Unsendable,
}

/// What is remembered of a session when its connection has ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remembered {
    /// What the client had subscribed to.
    pub subscriptions: Subscriptions,
    /// `devices/{id}` or `devices/{id}/modules/{id}` as its filter spelled it, where that is not how its user name spells it
    /// (some SDKs percent-encode ids in filters): a topic has to match the filter.
    pub prefix: Option<Box<str>>,
}

/// What a client can be sent, besides the answers that MQTT itself demands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outbound {
    /// Answer to a [`TwinRequest`]; comes by [`Subscription::TwinResponses`].
    TwinResponse {
        /// 200, 204, 4xx, 5xx.
        status: u16,
        /// Request id, verbatim.
        rid: Box<str>,
        /// Version of the reported properties.
        version: Option<u64>,
        /// JSON, or nothing.
        body: Bytes,
    },
    /// Change of the desired properties; comes by [`Subscription::Desired`].
    Desired {
        /// Its `$version`.
        version: u64,
        /// JSON with `$version`.
        body: Bytes,
    },
    /// Call of a direct method; comes by [`Subscription::Methods`].
    Method {
        /// Request id.
        rid: Box<str>,
        /// Its name.
        name: Box<str>,
        /// JSON, or nothing.
        body: Bytes,
    },
    /// Message from the cloud; comes by [`Subscription::CloudToDevice`].
    CloudToDevice {
        /// System properties.
        system: SystemProperties,
        /// Application properties.
        properties: Properties,
        /// Payload.
        body: Bytes,
    },
    /// Message for an input of a module; comes by [`Subscription::ModuleInputs`].
    Input {
        /// The input's name.
        input: Box<str>,
        /// With its original sender.
        message: Message,
    },
}

impl Outbound {
    /// What the client must have subscribed to.
    pub fn subscription(&self) -> Subscription {
        match self {
            Self::TwinResponse { .. } => Subscription::TwinResponses,
            Self::Desired { .. } => Subscription::Desired,
            Self::Method { .. } => Subscription::Methods,
            Self::CloudToDevice { .. } => Subscription::CloudToDevice,
            Self::Input { .. } => Subscription::ModuleInputs,
        }
    }
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
        /// What [`on_kept`](super::Session::on_kept) releases the PUBACK by, once the patch is durable; `None` = QoS 0.
        tag: Option<u64>,
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
