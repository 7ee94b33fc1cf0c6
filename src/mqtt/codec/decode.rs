//! Bytes to packets.
//!
//! Invariants: no panic on any input; nothing is copied (texts and payloads share the input's memory); a packet over
//! the limit or with impossible flags is refused from its fixed header alone.

use bytes::{Buf, Bytes, BytesMut};

use super::{CodecError, FILTERS_MAX, connect_flag as flag, kind};
use crate::mqtt::filter;
use crate::mqtt::packet::{
    ConnAck, Connect, ConnectReturnCode, Delivery, Login, Packet, PacketId, Publish, QoS, SubAck,
    Subscribe, SubscribeReturnCode, Unsubscribe, Utf8Bytes, Will,
};

/// Takes the first packet out of `input`; `None` when it is not complete yet. `max_bytes`: see [the module](super).
///
/// After an error the rest of `input` means nothing: close the connection.
pub fn decode(input: &mut BytesMut, max_bytes: usize) -> Result<Option<Packet>, CodecError> {
    let Some(header) = FixedHeader::peek(input, max_bytes)? else {
        return Ok(None);
    };
    if input.len() < header.length + header.remaining {
        return Ok(None);
    }
    input.advance(header.length);
    let body = input.split_to(header.remaining).freeze();
    decode_body(header.first, Reader(body)).map(Some)
}

/// How many bytes the first packet of `input` has in all, whole or not; `None` while its fixed header does not tell.
pub fn announced(input: &[u8]) -> Option<usize> {
    let header = FixedHeader::peek(input, usize::MAX).ok()??;
    Some(header.length + header.remaining)
}

struct FixedHeader {
    first: u8,
    /// Bytes of the fixed header itself: 2 to 5.
    length: usize,
    remaining: usize,
}

impl FixedHeader {
    fn peek(input: &[u8], max_bytes: usize) -> Result<Option<Self>, CodecError> {
        let Some((&first, rest)) = input.split_first() else {
            return Ok(None);
        };
        check_flags(first)?;
        let mut remaining = 0;
        // At most four bytes, least significant first, seven bits each (section 2.2.3).
        for place in 0..4 {
            let Some(&byte) = rest.get(place) else {
                return Ok(None);
            };
            remaining |= usize::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                check_length(first, remaining, max_bytes)?;
                return Ok(Some(Self { first, length: place + 2, remaining }));
            }
        }
        Err(CodecError::RemainingLength)
    }
}

fn check_flags(first: u8) -> Result<(), CodecError> {
    let flags = first & 0x0f;
    match first >> 4 {
        0 | 15 => Err(CodecError::PacketType(first >> 4)),
        kind::PUBLISH => match QoS::from_bits((flags >> 1) & 3) {
            None => Err(CodecError::Qos),
            Some(QoS::AtMostOnce) if flags & 0x08 != 0 => Err(CodecError::DupWithQos0),
            Some(_) => Ok(()),
        },
        // Bits 3..0 are 0010 [MQTT-3.6.1-1, MQTT-3.8.1-1, MQTT-3.10.1-1].
        kind::PUBREL | kind::SUBSCRIBE | kind::UNSUBSCRIBE if flags == 0x02 => Ok(()),
        kind::PUBREL | kind::SUBSCRIBE | kind::UNSUBSCRIBE => Err(CodecError::Flags(first)),
        // [MQTT-2.2.2-1]
        _ if flags == 0 => Ok(()),
        _ => Err(CodecError::Flags(first)),
    }
}

fn check_length(first: u8, remaining: usize, max_bytes: usize) -> Result<(), CodecError> {
    let kind = first >> 4;
    let exact = match kind {
        kind::CONNACK
        | kind::PUBACK
        | kind::PUBREC
        | kind::PUBREL
        | kind::PUBCOMP
        | kind::UNSUBACK => Some(2),
        kind::PINGREQ | kind::PINGRESP | kind::DISCONNECT => Some(0),
        _ => None,
    };
    if exact.is_some_and(|exact| exact != remaining) {
        return Err(CodecError::FixedLength(kind));
    }
    let overhead = match (kind, first & 0x06) {
        (kind::PUBLISH, 0) => 2,
        (kind::PUBLISH, _) => 4,
        _ => 0,
    };
    let bytes = remaining.saturating_sub(overhead);
    if bytes > max_bytes { Err(CodecError::TooLarge { bytes, max_bytes }) } else { Ok(()) }
}

/// The unread rest of one packet.
struct Reader(Bytes);

impl Reader {
    fn take(&mut self, bytes: usize, field: &'static str) -> Result<Bytes, CodecError> {
        if self.0.len() < bytes {
            return Err(CodecError::Short(field));
        }
        Ok(self.0.split_to(bytes))
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, CodecError> {
        self.0.try_get_u8().map_err(|_| CodecError::Short(field))
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, CodecError> {
        self.0.try_get_u16().map_err(|_| CodecError::Short(field))
    }

    fn binary(&mut self, field: &'static str) -> Result<Bytes, CodecError> {
        let bytes = self.u16(field)?;
        self.take(usize::from(bytes), field)
    }

    fn text(&mut self, field: &'static str) -> Result<Utf8Bytes, CodecError> {
        Utf8Bytes::new(self.binary(field)?).map_err(|error| CodecError::Text { field, error })
    }

    fn packet_id(&mut self) -> Result<PacketId, CodecError> {
        PacketId::new(self.u16("packet identifier")?).ok_or(CodecError::PacketIdZero)
    }

    fn end(self) -> Result<(), CodecError> {
        if self.0.is_empty() { Ok(()) } else { Err(CodecError::Trailing(self.0.len())) }
    }
}

fn decode_body(first: u8, mut r: Reader) -> Result<Packet, CodecError> {
    let packet = match first >> 4 {
        kind::CONNECT => return connect(r),
        kind::PUBLISH => return publish(first, r),
        kind::SUBSCRIBE => return subscribe(r),
        kind::SUBACK => return suback(r),
        kind::UNSUBSCRIBE => return unsubscribe(r),
        kind::CONNACK => connack(&mut r)?,
        kind::PUBACK => Packet::PubAck(r.packet_id()?),
        kind::PUBREC => Packet::PubRec(r.packet_id()?),
        kind::PUBREL => Packet::PubRel(r.packet_id()?),
        kind::PUBCOMP => Packet::PubComp(r.packet_id()?),
        kind::UNSUBACK => Packet::UnsubAck(r.packet_id()?),
        kind::PINGREQ => Packet::PingReq,
        kind::PINGRESP => Packet::PingResp,
        kind::DISCONNECT => Packet::Disconnect,
        other => return Err(CodecError::PacketType(other)),
    };
    r.end()?;
    Ok(packet)
}

fn connect(mut r: Reader) -> Result<Packet, CodecError> {
    let name = r.binary("protocol name")?;
    let level = r.u8("protocol level")?;
    match &name[..] {
        b"MQTT" if level == 4 => {}
        // MQIsdp is how MQTT 3.1 (level 3) calls itself: its clients understand return code 1.
        b"MQTT" | b"MQIsdp" => return Err(CodecError::ProtocolLevel(level)),
        _ => return Err(CodecError::ProtocolName),
    }
    let flags = r.u8("connect flags")?;
    if flags & flag::RESERVED != 0 {
        return Err(CodecError::ConnectFlagReserved);
    }
    let keep_alive_secs = r.u16("keep alive")?;
    // The fields of the payload come in this order [MQTT-3.1.3-1].
    let client_id = r.text("client identifier")?;
    let will = will(flags, &mut r)?;
    let login = login(flags, &mut r)?;
    r.end()?;
    let clean_session = flags & flag::CLEAN_SESSION != 0;
    Ok(Packet::Connect(Box::new(Connect {
        client_id,
        clean_session,
        keep_alive_secs,
        will,
        login,
    })))
}

fn will(flags: u8, r: &mut Reader) -> Result<Option<Will>, CodecError> {
    if flags & flag::WILL == 0 {
        // [MQTT-3.1.2-11, MQTT-3.1.2-13, MQTT-3.1.2-15]
        let stray = flags & (flag::WILL_QOS | flag::WILL_RETAIN) != 0;
        return if stray { Err(CodecError::WillFlags) } else { Ok(None) };
    }
    let qos = QoS::from_bits((flags & flag::WILL_QOS) >> flag::WILL_QOS_SHIFT)
        .ok_or(CodecError::WillFlags)?; // [MQTT-3.1.2-14]
    let topic = topic_name(r.text("will topic")?)?;
    let payload = r.binary("will message")?;
    Ok(Some(Will { topic, payload, qos, retain: flags & flag::WILL_RETAIN != 0 }))
}

fn login(flags: u8, r: &mut Reader) -> Result<Option<Login>, CodecError> {
    if flags & flag::USER_NAME == 0 {
        // [MQTT-3.1.2-22]
        let stray = flags & flag::PASSWORD != 0;
        return if stray { Err(CodecError::PasswordAlone) } else { Ok(None) };
    }
    let user_name = r.text("user name")?;
    let password = if flags & flag::PASSWORD == 0 { None } else { Some(r.binary("password")?) };
    Ok(Some(Login { user_name, password }))
}

fn connack(r: &mut Reader) -> Result<Packet, CodecError> {
    let flags = r.u8("acknowledge flags")?;
    let byte = r.u8("return code")?;
    let code = ConnectReturnCode::from_byte(byte).ok_or(CodecError::ReturnCode(byte))?;
    // [MQTT-3.2.2-4]: a refusal says that no session is present.
    if flags > 1 || (flags == 1 && code != ConnectReturnCode::Accepted) {
        return Err(CodecError::ConnAckFlags(flags));
    }
    Ok(Packet::ConnAck(ConnAck { session_present: flags == 1, code }))
}

fn topic_name(topic: Utf8Bytes) -> Result<Utf8Bytes, CodecError> {
    if topic.is_empty() {
        return Err(CodecError::TopicEmpty); // [MQTT-4.7.3-1]
    }
    if topic.as_bytes().contains(&b'#') || topic.as_bytes().contains(&b'+') {
        return Err(CodecError::TopicWildcard); // [MQTT-3.3.2-2]
    }
    Ok(topic)
}

fn publish(first: u8, mut r: Reader) -> Result<Packet, CodecError> {
    let topic = topic_name(r.text("topic name")?)?;
    let dup = first & 0x08 != 0;
    let delivery = match QoS::from_bits((first >> 1) & 3).ok_or(CodecError::Qos)? {
        QoS::AtMostOnce => Delivery::AtMostOnce, // no packet identifier [MQTT-2.3.1-5]
        QoS::AtLeastOnce => Delivery::AtLeastOnce { packet_id: r.packet_id()?, dup },
        QoS::ExactlyOnce => Delivery::ExactlyOnce { packet_id: r.packet_id()?, dup },
    };
    Ok(Packet::Publish(Publish { topic, payload: r.0, delivery, retain: first & 0x01 != 0 }))
}

fn topic_filter(r: &mut Reader, already: usize) -> Result<Utf8Bytes, CodecError> {
    if already == FILTERS_MAX {
        return Err(CodecError::TooManyFilters);
    }
    let text = r.text("topic filter")?;
    filter::check(&text)?;
    Ok(text)
}

fn subscribe(mut r: Reader) -> Result<Packet, CodecError> {
    let packet_id = r.packet_id()?;
    let mut filters = Vec::new();
    while !r.0.is_empty() {
        let filter = topic_filter(&mut r, filters.len())?;
        let byte = r.u8("requested QoS")?;
        // Upper six bits zero, QoS not 3 [MQTT-3-8.3-4].
        filters.push((filter, QoS::from_bits(byte).ok_or(CodecError::RequestedQos(byte))?));
    }
    if filters.is_empty() {
        return Err(CodecError::NoFilters); // [MQTT-3.8.3-3]
    }
    Ok(Packet::Subscribe(Subscribe { packet_id, filters }))
}

fn suback(mut r: Reader) -> Result<Packet, CodecError> {
    let packet_id = r.packet_id()?;
    if r.0.is_empty() || r.0.len() > FILTERS_MAX {
        return Err(CodecError::FixedLength(kind::SUBACK));
    }
    let code = |byte: &u8| match *byte {
        0x80 => Ok(SubscribeReturnCode::Failure),
        // [MQTT-3.9.3-2]
        other => QoS::from_bits(other)
            .map(SubscribeReturnCode::Granted)
            .ok_or(CodecError::ReturnCode(other)),
    };
    let codes = r.0.iter().map(code).collect::<Result<_, _>>()?;
    Ok(Packet::SubAck(SubAck { packet_id, codes }))
}

fn unsubscribe(mut r: Reader) -> Result<Packet, CodecError> {
    let packet_id = r.packet_id()?;
    let mut filters = Vec::new();
    while !r.0.is_empty() {
        filters.push(topic_filter(&mut r, filters.len())?);
    }
    if filters.is_empty() {
        return Err(CodecError::NoFilters); // [MQTT-3.10.3-2]
    }
    Ok(Packet::Unsubscribe(Unsubscribe { packet_id, filters }))
}
