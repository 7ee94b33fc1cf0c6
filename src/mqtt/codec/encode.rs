//! Packets to bytes.
//!
//! Invariant: what is written is one whole packet, or nothing at all.

use bytes::{BufMut, BytesMut};

use super::{EncodeError, REMAINING_LENGTH_MAX, connect_flag as flag, kind};
use crate::mqtt::packet::{
    ConnAck, Connect, Delivery, FIELD_BYTES_MAX, Packet, PacketId, Publish, SubAck, Subscribe,
    SubscribeReturnCode, Unsubscribe, Utf8Bytes,
};

/// Appends `packet` to `out`.
pub fn encode(packet: &Packet, out: &mut BytesMut) -> Result<(), EncodeError> {
    match packet {
        Packet::Connect(connect) => return put_connect(connect, out),
        Packet::Publish(publish) => return put_publish(publish, out),
        Packet::Subscribe(subscribe) => return put_subscribe(subscribe, out),
        Packet::Unsubscribe(unsubscribe) => return put_unsubscribe(unsubscribe, out),
        Packet::SubAck(suback) => return put_suback(suback, out),
        Packet::ConnAck(ConnAck { session_present, code }) => {
            out.put_slice(&[kind::CONNACK << 4, 2, u8::from(*session_present), *code as u8]);
        }
        Packet::PubAck(id) => put_id_only(kind::PUBACK << 4, *id, out),
        Packet::PubRec(id) => put_id_only(kind::PUBREC << 4, *id, out),
        Packet::PubRel(id) => put_id_only(kind::PUBREL << 4 | 2, *id, out), // [MQTT-3.6.1-1]
        Packet::PubComp(id) => put_id_only(kind::PUBCOMP << 4, *id, out),
        Packet::UnsubAck(id) => put_id_only(kind::UNSUBACK << 4, *id, out),
        Packet::PingReq => out.put_slice(&[kind::PINGREQ << 4, 0]),
        Packet::PingResp => out.put_slice(&[kind::PINGRESP << 4, 0]),
        Packet::Disconnect => out.put_slice(&[kind::DISCONNECT << 4, 0]),
    }
    Ok(())
}

fn put_header(first: u8, remaining: usize, out: &mut BytesMut) -> Result<(), EncodeError> {
    if remaining > REMAINING_LENGTH_MAX {
        return Err(EncodeError::TooLarge(remaining));
    }
    out.reserve(5 + remaining);
    out.put_u8(first);
    let mut rest = remaining;
    loop {
        let low = u8::try_from(rest & 0x7f).expect("seven bits");
        rest >>= 7;
        if rest == 0 {
            out.put_u8(low);
            return Ok(());
        }
        out.put_u8(low | 0x80);
    }
}

fn put_id_only(first: u8, id: PacketId, out: &mut BytesMut) {
    let [high, low] = id.get().to_be_bytes();
    out.put_slice(&[first, 2, high, low]);
}

/// `bytes` fit the two-byte length: texts by type, binary fields by [`check_field`].
fn put_field(bytes: &[u8], out: &mut BytesMut) {
    out.put_u16(u16::try_from(bytes.len()).expect("checked: at most 65,535 bytes"));
    out.put_slice(bytes);
}

fn check_field(bytes: &[u8], field: &'static str) -> Result<(), EncodeError> {
    if bytes.len() > FIELD_BYTES_MAX { Err(EncodeError::Field(field)) } else { Ok(()) }
}

fn put_publish(p: &Publish, out: &mut BytesMut) -> Result<(), EncodeError> {
    let id_bytes = if p.delivery == Delivery::AtMostOnce { 0 } else { 2 };
    let first = kind::PUBLISH << 4
        | u8::from(p.delivery.dup()) << 3
        | (p.delivery.qos() as u8) << 1
        | u8::from(p.retain);
    put_header(first, 2 + p.topic.len() + id_bytes + p.payload.len(), out)?;
    put_field(p.topic.as_bytes(), out);
    if let Some(id) = p.delivery.packet_id() {
        out.put_u16(id.get());
    }
    out.put_slice(&p.payload);
    Ok(())
}

fn put_connect(c: &Connect, out: &mut BytesMut) -> Result<(), EncodeError> {
    let mut flags = if c.clean_session { flag::CLEAN_SESSION } else { 0 };
    let mut remaining = 10 + 2 + c.client_id.len();
    if let Some(will) = &c.will {
        check_field(&will.payload, "the will's payload")?;
        flags |= flag::WILL | (will.qos as u8) << flag::WILL_QOS_SHIFT;
        flags |= if will.retain { flag::WILL_RETAIN } else { 0 };
        remaining += 4 + will.topic.len() + will.payload.len();
    }
    let password = c.login.as_ref().and_then(|login| login.password.as_ref());
    if let Some(login) = &c.login {
        flags |= flag::USER_NAME;
        remaining += 2 + login.user_name.len();
    }
    if let Some(password) = password {
        check_field(password, "the password")?;
        flags |= flag::PASSWORD;
        remaining += 2 + password.len();
    }
    put_header(kind::CONNECT << 4, remaining, out)?;
    put_field(b"MQTT", out);
    out.put_u8(4);
    out.put_u8(flags);
    out.put_u16(c.keep_alive_secs);
    put_field(c.client_id.as_bytes(), out);
    if let Some(will) = &c.will {
        put_field(will.topic.as_bytes(), out);
        put_field(&will.payload, out);
    }
    if let Some(login) = &c.login {
        put_field(login.user_name.as_bytes(), out);
    }
    if let Some(password) = password {
        put_field(password, out);
    }
    Ok(())
}

fn put_subscribe(s: &Subscribe, out: &mut BytesMut) -> Result<(), EncodeError> {
    let remaining = 2 + s.filters.iter().map(|(filter, _)| 3 + filter.len()).sum::<usize>();
    put_header(kind::SUBSCRIBE << 4 | 2, remaining, out)?;
    out.put_u16(s.packet_id.get());
    for (filter, qos) in &s.filters {
        put_field(filter.as_bytes(), out);
        out.put_u8(*qos as u8);
    }
    Ok(())
}

fn put_unsubscribe(u: &Unsubscribe, out: &mut BytesMut) -> Result<(), EncodeError> {
    let remaining = 2 + u.filters.iter().map(|filter: &Utf8Bytes| 2 + filter.len()).sum::<usize>();
    put_header(kind::UNSUBSCRIBE << 4 | 2, remaining, out)?;
    out.put_u16(u.packet_id.get());
    for filter in &u.filters {
        put_field(filter.as_bytes(), out);
    }
    Ok(())
}

fn put_suback(s: &SubAck, out: &mut BytesMut) -> Result<(), EncodeError> {
    put_header(kind::SUBACK << 4, 2 + s.codes.len(), out)?;
    out.put_u16(s.packet_id.get());
    for code in &s.codes {
        out.put_u8(match code {
            SubscribeReturnCode::Granted(qos) => *qos as u8,
            SubscribeReturnCode::Failure => 0x80,
        });
    }
    Ok(())
}
