//! As much of MQTT 3.1.1 as a sink needs, on both sides of it: packets are found in the read buffer, nothing is copied.
//!
//! Must not know: sockets. The gateway's own codec is not used: the instrument must not share its mistakes.

/// A packet with its first byte (type and flags) and its body, as it lies in the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub(crate) first: u8,
    pub(crate) body: &'a [u8],
}

/// Types of packets (the high half of the first byte).
pub(crate) mod kind {
    pub(crate) const CONNECT: u8 = 1;
    pub(crate) const CONNACK: u8 = 2;
    pub(crate) const PUBLISH: u8 = 3;
    pub(crate) const SUBSCRIBE: u8 = 8;
    pub(crate) const SUBACK: u8 = 9;
    pub(crate) const UNSUBSCRIBE: u8 = 10;
    pub(crate) const PINGREQ: u8 = 12;
    pub(crate) const PINGRESP: u8 = 13;
    pub(crate) const DISCONNECT: u8 = 14;
}

/// What is no MQTT.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed(&'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no MQTT 3.1.1 that this sink speaks: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

impl Packet<'_> {
    pub(crate) fn kind(&self) -> u8 {
        self.first >> 4
    }
}

/// The packet at the front of `raw` and how many bytes it takes; `None` while it is not whole.
pub(crate) fn next(raw: &[u8]) -> Result<Option<(Packet<'_>, usize)>, Malformed> {
    let Some((&first, rest)) = raw.split_first() else {
        return Ok(None);
    };
    let mut len = 0;
    for index in 0..4 {
        let Some(&byte) = rest.get(index) else {
            return Ok(None);
        };
        len |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let start = 1 + index;
            let body = rest.get(start..start + len);
            return Ok(body.map(|body| (Packet { first, body }, 1 + start + len)));
        }
    }
    Err(Malformed("a remaining length of more than four bytes"))
}

/// A PUBLISH.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    pub(crate) topic: &'a [u8],
    /// Set at QoS 1.
    pub(crate) id: Option<u16>,
    pub(crate) payload: &'a [u8],
}

/// Reads a PUBLISH of QoS 0 or 1.
pub(crate) fn publish<'a>(packet: &Packet<'a>) -> Result<Publish<'a>, Malformed> {
    let (topic, rest) = text(packet.body)?;
    let (id, payload) = match (packet.first >> 1) & 3 {
        0 => (None, rest),
        1 => {
            let (id, payload) = number(rest)?;
            (Some(id), payload)
        }
        _ => return Err(Malformed("a PUBLISH of QoS 2; at most 1 was agreed")),
    };
    Ok(Publish { topic, id, payload })
}

/// What a CONNECT says, as far as a sink cares.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Connect<'a> {
    pub(crate) client: &'a [u8],
    pub(crate) clean: bool,
}

/// Reads a CONNECT of MQTT 3.1 or 3.1.1. Bridges set bit 7 of the level (Mosquitto's `try_private`).
pub(crate) fn connect<'a>(packet: &Packet<'a>) -> Result<Connect<'a>, Malformed> {
    let (name, rest) = text(packet.body)?;
    let &[level, flags, _, _, ref rest @ ..] = rest else {
        return Err(Malformed("a CONNECT that ends early"));
    };
    match (name, level & 0x7f) {
        (b"MQTT", 4) | (b"MQIsdp", 3) => {}
        _ => return Err(Malformed("a protocol that is neither MQTT 3.1 nor 3.1.1")),
    }
    let (client, _) = text(rest)?;
    Ok(Connect { client, clean: flags & 2 != 0 })
}

/// Packet identifier and number of filters of a SUBSCRIBE.
pub(crate) fn subscribe(packet: &Packet<'_>) -> Result<(u16, usize), Malformed> {
    let (id, mut rest) = number(packet.body)?;
    let mut filters = 0;
    while !rest.is_empty() {
        let (_, after) = text(rest)?;
        rest = after.get(1..).ok_or(Malformed("a filter without QoS"))?;
        filters += 1;
    }
    Ok((id, filters))
}

/// A 16-bit number and what follows.
pub(crate) fn number(raw: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    match *raw {
        [high, low, ref rest @ ..] => Ok((u16::from_be_bytes([high, low]), rest)),
        _ => Err(Malformed("a number that ends early")),
    }
}

fn text(raw: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (len, rest) = number(raw)?;
    rest.split_at_checked(len.into()).ok_or(Malformed("a text that ends early"))
}

pub(crate) fn put_puback(out: &mut Vec<u8>, id: u16) {
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[0x40, 2, high, low]);
}

pub(crate) fn put_suback(out: &mut Vec<u8>, id: u16, filters: usize) {
    put_head(out, 0x90, 2 + filters);
    out.extend_from_slice(&id.to_be_bytes());
    out.resize(out.len() + filters, 1);
}

pub(crate) fn put_unsuback(out: &mut Vec<u8>, id: u16) {
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[0xb0, 2, high, low]);
}

pub(crate) fn put_connack(out: &mut Vec<u8>, session_present: bool) {
    out.extend_from_slice(&[0x20, 2, u8::from(session_present), 0]);
}

pub(crate) fn put_pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xc0, 0]);
}

pub(crate) fn put_pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xd0, 0]);
}

/// CONNECT of a durable client (`clean_session` 0), with a user name and no password when one is given.
pub(crate) fn put_connect(out: &mut Vec<u8>, client: &str, user: Option<&str>, keep_alive: u16) {
    put_head(out, 0x10, 12 + client.len() + user.map_or(0, |user| 2 + user.len()));
    put_text(out, b"MQTT");
    out.extend_from_slice(&[4, if user.is_some() { 0x80 } else { 0 }]);
    out.extend_from_slice(&keep_alive.to_be_bytes());
    put_text(out, client.as_bytes());
    if let Some(user) = user {
        put_text(out, user.as_bytes());
    }
}

/// SUBSCRIBE to one filter at QoS 1.
pub(crate) fn put_subscribe(out: &mut Vec<u8>, id: u16, filter: &str) {
    put_head(out, 0x82, 5 + filter.len());
    out.extend_from_slice(&id.to_be_bytes());
    put_text(out, filter.as_bytes());
    out.push(1);
}

fn put_head(out: &mut Vec<u8>, first: u8, mut len: usize) {
    out.push(first);
    loop {
        let low = (len & 0x7f) as u8;
        len >>= 7;
        out.push(if len > 0 { low | 0x80 } else { low });
        if len == 0 {
            return;
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    let len = u16::try_from(text.len()).expect("client ids and filters of ours are short");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(raw: &[u8]) -> Packet<'_> {
        let (packet, len) = next(raw).expect("MQTT").expect("a whole packet");
        assert_eq!(len, raw.len());
        packet
    }

    #[test]
    fn our_own_packets_read_back() {
        let mut out = Vec::new();
        for user in [None, Some("host/sink/?api-version=2020-09-30")] {
            put_connect(&mut out, "sink", user, 60);
            assert_eq!(connect(&whole(&out)), Ok(Connect { client: b"sink", clean: false }));
            out.clear();
        }
        put_subscribe(&mut out, 9, "devices/#");
        assert_eq!(subscribe(&whole(&out)), Ok((9, 1)));
        out.clear();
        put_suback(&mut out, 9, 2);
        assert_eq!(out, [0x90, 4, 0, 9, 1, 1]);
        out.clear();
        put_head(&mut out, 0x30, 321);
        assert_eq!(out, [0x30, 0xc1, 0x02]);
    }

    #[test]
    fn a_bridge_sets_bit_seven_of_the_level() {
        let bridge = b"\x10\x10\0\x04MQTT\x84\x00\0\x3c\0\x04edge";
        assert_eq!(connect(&whole(bridge)), Ok(Connect { client: b"edge", clean: false }));
        let old = b"\x10\x12\0\x06MQIsdp\x83\x02\0\x3c\0\x04edge";
        assert_eq!(connect(&whole(old)), Ok(Connect { client: b"edge", clean: true }));
        assert!(connect(&whole(b"\x10\x10\0\x04MQTT\x05\x00\0\x3c\0\x04edge")).is_err());
    }

    #[test]
    fn a_publish_is_found_once_it_is_whole() {
        let raw = b"\x32\x09\0\x03a/b\0\x07hi";
        assert_eq!(
            publish(&whole(raw)),
            Ok(Publish { topic: b"a/b", id: Some(7), payload: b"hi" })
        );
        for cut in 0..raw.len() {
            assert_eq!(next(&raw[..cut]), Ok(None), "cut at {cut}");
        }
        let unacknowledged = b"\x30\x07\0\x03a/bhi";
        assert_eq!(publish(&whole(unacknowledged)).map(|p| p.id), Ok(None));
        assert!(publish(&whole(b"\x34\x09\0\x03a/b\0\x07hi")).is_err());
        assert!(next(b"\x32\x80\x80\x80\x80\x01").is_err());
    }
}
