//! The control packets of MQTT 3.1.1 as values.
//!
//! Owns: [`Packet`] and its parts. Invariants: texts and payloads are slices of the bytes that were received (nothing
//! is copied), and combinations that the standard forbids cannot be written down (a QoS 0 PUBLISH has neither packet
//! id nor DUP flag). Must not know: the wire form.

use std::fmt;
use std::num::NonZeroU16;
use std::ops::Deref;

use bytes::Bytes;

/// Longest text or binary field in bytes: its length is a two-byte number (section 1.5.3).
pub const FIELD_BYTES_MAX: usize = 65_535;

/// Why bytes are not an MQTT text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// More than [`FIELD_BYTES_MAX`] bytes (section 1.5.3).
    #[error("the text has {0} bytes; MQTT allows 65,535")]
    TooLong(usize),
    /// Not well-formed UTF-8; this includes encoded surrogates \[MQTT-1.5.3-1\].
    #[error("the text is not well-formed UTF-8 [MQTT-1.5.3-1]")]
    NotUtf8,
    /// Contains U+0000 \[MQTT-1.5.3-2\].
    #[error("the text contains the character U+0000 [MQTT-1.5.3-2]")]
    Nul,
}

/// An MQTT "UTF-8 encoded string" (section 1.5.3): checked once, shares the memory of the packet that it came with.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Utf8Bytes(Bytes);

impl Utf8Bytes {
    /// Checks `bytes` (length, UTF-8, no U+0000) and takes them without copying.
    pub fn new(bytes: Bytes) -> Result<Self, TextError> {
        if bytes.len() > FIELD_BYTES_MAX {
            return Err(TextError::TooLong(bytes.len()));
        }
        if std::str::from_utf8(&bytes).is_err() {
            return Err(TextError::NotUtf8);
        }
        if bytes.contains(&0) {
            return Err(TextError::Nul);
        }
        Ok(Self(bytes))
    }

    /// Copies `text`.
    pub fn copy_from(text: &str) -> Result<Self, TextError> {
        Self::new(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// The text. Looks at every byte once more (`unsafe` is forbidden here): ask once, keep the answer.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked in new(), immutable since")
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of the text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Deref for Utf8Bytes {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Utf8Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Utf8Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A packet identifier: never zero \[MQTT-2.3.1-1\].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId(pub NonZeroU16);

impl PacketId {
    /// `None` for zero \[MQTT-2.3.1-1\].
    pub fn new(id: u16) -> Option<Self> {
        NonZeroU16::new(id).map(Self)
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum QoS {
    /// 0
    AtMostOnce = 0,
    /// 1
    AtLeastOnce = 1,
    /// 2
    ExactlyOnce = 2,
}

impl QoS {
    /// `None` for 3 and above \[MQTT-3.3.1-4\].
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A control packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Client requests a connection.
    Connect(Box<Connect>),
    /// Answer to CONNECT.
    ConnAck(ConnAck),
    /// A message, either way.
    Publish(Publish),
    /// Answers a QoS 1 PUBLISH.
    PubAck(PacketId),
    /// First answer to a QoS 2 PUBLISH.
    PubRec(PacketId),
    /// Answers PUBREC.
    PubRel(PacketId),
    /// Answers PUBREL.
    PubComp(PacketId),
    /// Client asks for topics.
    Subscribe(Subscribe),
    /// Answer to SUBSCRIBE: one code a filter, in the same order \[MQTT-3.9.3-1\].
    SubAck(SubAck),
    /// Client gives topics up.
    Unsubscribe(Unsubscribe),
    /// Answer to UNSUBSCRIBE.
    UnsubAck(PacketId),
    /// Client is alive.
    PingReq,
    /// So is the server.
    PingResp,
    /// Client leaves in good order.
    Disconnect,
}

impl Packet {
    /// The packet's name in the standard, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connect(_) => "CONNECT",
            Self::ConnAck(_) => "CONNACK",
            Self::Publish(_) => "PUBLISH",
            Self::PubAck(_) => "PUBACK",
            Self::PubRec(_) => "PUBREC",
            Self::PubRel(_) => "PUBREL",
            Self::PubComp(_) => "PUBCOMP",
            Self::Subscribe(_) => "SUBSCRIBE",
            Self::SubAck(_) => "SUBACK",
            Self::Unsubscribe(_) => "UNSUBSCRIBE",
            Self::UnsubAck(_) => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
        }
    }
}

/// CONNECT of protocol level 4 (other levels end as [`CodecError::ProtocolLevel`](super::codec::CodecError)).
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// Client identifier; may be empty on the wire.
    pub client_id: Utf8Bytes,
    /// CleanSession.
    pub clean_session: bool,
    /// Keep Alive in seconds; 0 switches it off.
    pub keep_alive_secs: u16,
    /// What to publish when the client vanishes.
    pub will: Option<Will>,
    /// User name and, only together with one, the password \[MQTT-3.1.2-22\].
    pub login: Option<Login>,
}

/// User name and password of a CONNECT.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub user_name: Utf8Bytes,
    /// Password: any bytes.
    pub password: Option<Bytes>,
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("client_id", &self.client_id)
            .field("clean_session", &self.clean_session)
            .field("keep_alive_secs", &self.keep_alive_secs)
            .field("will", &self.will)
            .field("login", &self.login)
            .finish()
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "***");
        f.debug_struct("Login")
            .field("user_name", &self.user_name)
            .field("password", &password)
            .finish()
    }
}

/// The will of a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Topic to publish to.
    pub topic: Utf8Bytes,
    /// Message, at most [`FIELD_BYTES_MAX`] bytes.
    pub payload: Bytes,
    /// Quality of service to publish with.
    pub qos: QoS,
    /// Retain flag to publish with.
    pub retain: bool,
}

/// CONNACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnAck {
    /// Whether the server kept state of an earlier session \[MQTT-3.2.2-1\].
    pub session_present: bool,
    /// What became of the CONNECT.
    pub code: ConnectReturnCode,
}

/// Return code of CONNACK (table 3.1 of the standard).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ConnectReturnCode {
    /// 0
    Accepted = 0,
    /// 1: the server does not speak that level of MQTT.
    UnacceptableProtocolVersion = 1,
    /// 2: the client id is not allowed.
    IdentifierRejected = 2,
    /// 3: the server cannot serve now.
    ServerUnavailable = 3,
    /// 4: user name or password malformed.
    BadUserNameOrPassword = 4,
    /// 5: not authorised.
    NotAuthorized = 5,
}

impl ConnectReturnCode {
    /// `None` for the reserved codes 6 to 255.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Accepted,
            1 => Self::UnacceptableProtocolVersion,
            2 => Self::IdentifierRejected,
            3 => Self::ServerUnavailable,
            4 => Self::BadUserNameOrPassword,
            5 => Self::NotAuthorized,
            _ => return None,
        })
    }
}

/// How often a PUBLISH is delivered, with what each way needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// QoS 0: no packet id \[MQTT-2.3.1-5\], no DUP \[MQTT-3.3.1-2\].
    AtMostOnce,
    /// QoS 1.
    AtLeastOnce {
        /// Answered by the PUBACK with the same id \[MQTT-2.3.1-6\].
        packet_id: PacketId,
        /// Sent before \[MQTT-3.3.1-1\].
        dup: bool,
    },
    /// QoS 2.
    ExactlyOnce {
        /// Answered by the PUBREC with the same id.
        packet_id: PacketId,
        /// Sent before \[MQTT-3.3.1-1\].
        dup: bool,
    },
}

impl Delivery {
    /// Quality of service.
    pub fn qos(self) -> QoS {
        match self {
            Self::AtMostOnce => QoS::AtMostOnce,
            Self::AtLeastOnce { .. } => QoS::AtLeastOnce,
            Self::ExactlyOnce { .. } => QoS::ExactlyOnce,
        }
    }

    /// Packet id, for QoS 1 and 2.
    pub fn packet_id(self) -> Option<PacketId> {
        match self {
            Self::AtMostOnce => None,
            Self::AtLeastOnce { packet_id, .. } | Self::ExactlyOnce { packet_id, .. } => {
                Some(packet_id)
            }
        }
    }

    /// DUP flag.
    pub fn dup(self) -> bool {
        match self {
            Self::AtMostOnce => false,
            Self::AtLeastOnce { dup, .. } | Self::ExactlyOnce { dup, .. } => dup,
        }
    }
}

/// PUBLISH. `Debug` shows the length of the payload, not the payload.
#[derive(Clone, PartialEq, Eq)]
pub struct Publish {
    /// Topic name: not empty \[MQTT-4.7.3-1\], no wildcards \[MQTT-3.3.2-2\].
    pub topic: Utf8Bytes,
    /// Payload.
    pub payload: Bytes,
    /// Quality of service, packet id, DUP.
    pub delivery: Delivery,
    /// RETAIN flag.
    pub retain: bool,
}

impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish")
            .field("topic", &self.topic)
            .field("payload_bytes", &self.payload.len())
            .field("delivery", &self.delivery)
            .field("retain", &self.retain)
            .finish()
    }
}

/// SUBSCRIBE: at least one filter \[MQTT-3.8.3-3\].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// Answered by the SUBACK with the same id \[MQTT-3.8.4-2\].
    pub packet_id: PacketId,
    /// Filters, each with the highest QoS that the client wants.
    pub filters: Vec<(Utf8Bytes, QoS)>,
}

/// One code of a SUBACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscribeReturnCode {
    /// 0x00, 0x01, 0x02
    Granted(QoS),
    /// 0x80
    Failure,
}

/// SUBACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubAck {
    /// Of the SUBSCRIBE that is answered.
    pub packet_id: PacketId,
    /// One a filter, in order \[MQTT-3.9.3-1\].
    pub codes: Vec<SubscribeReturnCode>,
}

/// UNSUBSCRIBE: at least one filter \[MQTT-3.10.3-2\].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Answered by the UNSUBACK with the same id \[MQTT-3.10.4-4\].
    pub packet_id: PacketId,
    /// Filters.
    pub filters: Vec<Utf8Bytes>,
}
