//! What can be wrong with bytes, clause by clause.
//!
//! All of it is the peer's doing: the answer to any of these is to close the connection \[MQTT-4.8.0-1\], but for
//! [`CodecError::ProtocolLevel`], which a CONNACK answers first \[MQTT-3.1.2-2\].

use crate::mqtt::filter::FilterError;
use crate::mqtt::packet::TextError;

/// Why bytes are not a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Packet type 0 or 15.
    #[error("packet type {0} is reserved (table 2.1)")]
    PacketType(u8),
    /// Flag bits of the fixed header that must have another value.
    #[error("the fixed header starts with {0:#04x}, whose flag bits are reserved [MQTT-2.2.2-2]")]
    Flags(u8),
    /// Remaining Length of more than four bytes.
    #[error("the Remaining Length field has more than four bytes (section 2.2.3)")]
    RemainingLength,
    /// Over the limit; refused from the fixed header alone.
    #[error("the packet has {bytes} bytes; the limit is {max_bytes}")]
    TooLarge {
        /// What counts, see [the module](super).
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// Remaining Length that no packet of this type has.
    #[error("packet type {0} cannot have this Remaining Length (chapter 3)")]
    FixedLength(u8),
    /// A field reaches beyond the packet's end.
    #[error("the packet ends inside {0}")]
    Short(&'static str),
    /// Bytes after the last field.
    #[error("the packet has {0} bytes after its last field")]
    Trailing(usize),
    /// A text field is not an MQTT text.
    #[error("{field}: {error}")]
    Text {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        error: TextError,
    },
    /// Packet id 0.
    #[error("the packet identifier is 0 [MQTT-2.3.1-1]")]
    PacketIdZero,
    /// Both QoS bits set.
    #[error("the QoS is 3 [MQTT-3.3.1-4]")]
    Qos,
    /// DUP with QoS 0.
    #[error("a PUBLISH with QoS 0 has the DUP flag [MQTT-3.3.1-2]")]
    DupWithQos0,
    /// Topic name of no characters.
    #[error("the topic name is empty [MQTT-4.7.3-1]")]
    TopicEmpty,
    /// Wildcard in a topic name.
    #[error("the topic name contains a wildcard [MQTT-3.3.2-2]")]
    TopicWildcard,
    /// Not `MQTT` (nor `MQIsdp`, which is level 3 of it).
    #[error("the protocol name of the CONNECT is not MQTT [MQTT-3.1.2-1]")]
    ProtocolName,
    /// Not level 4. The rest of such a packet is not looked at: other levels have another form.
    #[error(
        "the CONNECT asks for protocol level {0}; level 4 (MQTT 3.1.1) is spoken here [MQTT-3.1.2-2]"
    )]
    ProtocolLevel(u8),
    /// Reserved connect flag set.
    #[error("the reserved flag of the CONNECT is set [MQTT-3.1.2-3]")]
    ConnectFlagReserved,
    /// Will QoS or Will Retain without the Will Flag, or Will QoS 3.
    #[error("the will flags of the CONNECT contradict each other [MQTT-3.1.2-13, -14, -15]")]
    WillFlags,
    /// Password without user name.
    #[error("the CONNECT has a password without a user name [MQTT-3.1.2-22]")]
    PasswordAlone,
    /// SUBSCRIBE or UNSUBSCRIBE without a filter.
    #[error("the packet names no topic filter [MQTT-3.8.3-3, MQTT-3.10.3-2]")]
    NoFilters,
    /// More than [`FILTERS_MAX`](super::FILTERS_MAX) filters.
    #[error("the packet names more than 256 topic filters")]
    TooManyFilters,
    /// A malformed filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Reserved bits in a Requested QoS byte.
    #[error("the requested QoS byte is {0:#04x} [MQTT-3-8.3-4]")]
    RequestedQos(u8),
    /// Reserved bits in the acknowledge flags of a CONNACK, or session present with a refusal.
    #[error("the CONNACK has flags {0:#04x} [MQTT-3.2.2-4]")]
    ConnAckFlags(u8),
    /// Reserved return code of a CONNACK or SUBACK.
    #[error("the return code {0:#04x} is reserved (table 3.1) [MQTT-3.9.3-2]")]
    ReturnCode(u8),
}

impl CodecError {
    /// Short label for counters.
    pub fn label(&self) -> &'static str {
        match self {
            Self::PacketType(_) => "packet_type",
            Self::Flags(_) => "fixed_header_flags",
            Self::RemainingLength => "remaining_length",
            Self::TooLarge { .. } => "packet_too_large",
            Self::FixedLength(_) => "packet_length",
            Self::Short(_) => "packet_short",
            Self::Trailing(_) => "packet_trailing_bytes",
            Self::Text { .. } => "text",
            Self::PacketIdZero => "packet_id_zero",
            Self::Qos => "qos_3",
            Self::DupWithQos0 => "dup_with_qos_0",
            Self::TopicEmpty => "topic_empty",
            Self::TopicWildcard => "topic_wildcard",
            Self::ProtocolName => "protocol_name",
            Self::ProtocolLevel(_) => "protocol_level",
            Self::ConnectFlagReserved => "connect_flags",
            Self::WillFlags => "will_flags",
            Self::PasswordAlone => "password_without_user_name",
            Self::NoFilters => "no_filters",
            Self::TooManyFilters => "too_many_filters",
            Self::Filter(_) => "topic_filter",
            Self::RequestedQos(_) => "requested_qos",
            Self::ConnAckFlags(_) => "connack_flags",
            Self::ReturnCode(_) => "return_code",
        }
    }
}

/// Why a packet cannot be written. A defect of the caller: nothing that a peer sends leads here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A binary field (password, will payload) of more than 65,535 bytes.
    #[error("{0} has more than 65,535 bytes, which its length field cannot tell")]
    Field(&'static str),
    /// More than 268,435,455 bytes.
    #[error("the packet has {0} bytes, more than the Remaining Length field can tell")]
    TooLarge(usize),
}
