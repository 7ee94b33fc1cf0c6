//! The devices' own MQTT 3.1.1: what a QoS 1 publisher says and hears, nothing else.
//!
//! Written from the OASIS text and independent of the gateway's codec, so that the two cannot agree on a mistake.
//! Does no IO. Must not know: windows, time.

use std::io;

/// CONNACK's first byte.
pub(crate) const CONNACK: u8 = 0x20;
/// PUBACK's first byte.
pub(crate) const PUBACK: u8 = 0x40;
/// PINGREQ, whole.
pub(crate) const PINGREQ: [u8; 2] = [0xC0, 0];
/// PINGRESP, whole.
pub(crate) const PINGRESP: [u8; 2] = [0xD0, 0];
/// DISCONNECT, whole.
pub(crate) const DISCONNECT: [u8; 2] = [0xE0, 0];
/// PUBLISH with QoS 1, first byte.
pub(crate) const PUBLISH_QOS1: u8 = 0x32;
/// The DUP bit of a PUBLISH (3.3.1.1).
pub(crate) const DUP: u8 = 0x08;

/// CONNECT flags (3.1.2.3): a user name, and no clean session.
const USER_NAME: u8 = 0x80;
/// Most that a remaining length can say (2.2.3).
const REMAINING_MAX: usize = 268_435_455;

fn string(out: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).expect("names and topics are short");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// 2.2.3: seven bits a byte, the lowest first.
fn remaining_length(out: &mut Vec<u8>, mut len: usize) {
    assert!(len <= REMAINING_MAX, "an MQTT packet has at most {REMAINING_MAX} bytes");
    loop {
        let low = (len & 0x7F) as u8;
        len >>= 7;
        if len == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// CONNECT with a user name, without password, `clean_session` 0.
pub(crate) fn connect(client_id: &str, user_name: &str, keep_alive_s: u16) -> Vec<u8> {
    let mut body = Vec::new();
    string(&mut body, "MQTT");
    body.extend_from_slice(&[4, USER_NAME]);
    body.extend_from_slice(&keep_alive_s.to_be_bytes());
    string(&mut body, client_id);
    string(&mut body, user_name);
    let mut out = vec![0x10];
    remaining_length(&mut out, body.len());
    out.extend_from_slice(&body);
    out
}

/// PUBLISH with QoS 1. Gives the packet, and where in it the packet id is (the payload follows it at once).
pub(crate) fn publish(topic: &str, id: u16, payload: &[u8]) -> (Vec<u8>, usize) {
    let mut out = vec![PUBLISH_QOS1];
    remaining_length(&mut out, 2 + topic.len() + 2 + payload.len());
    string(&mut out, topic);
    let id_at = out.len();
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(payload);
    (out, id_at)
}

/// A packet with its fixed header taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'b> {
    /// Type and flags.
    pub(crate) first: u8,
    /// What follows the remaining length.
    pub(crate) body: &'b [u8],
    /// The whole packet's size.
    pub(crate) len: usize,
}

/// The packet at the start of `bytes`, if it is complete.
pub(crate) fn frame(bytes: &[u8]) -> io::Result<Option<Frame<'_>>> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    let mut len = 0;
    for (place, &byte) in rest.iter().take(4).enumerate() {
        len |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            let start = 2 + place;
            let body = bytes.get(start..start + len);
            return Ok(body.map(|body| Frame { first, body, len: start + len }));
        }
    }
    if rest.len() >= 4 {
        return Err(wrong("a remaining length of more than four bytes (2.2.3)"));
    }
    Ok(None)
}

/// The id of a PUBACK's body (3.4).
pub(crate) fn ack_id(body: &[u8]) -> io::Result<u16> {
    let body = body.try_into().map_err(|_| wrong("a PUBACK that is not 4 bytes long (3.4)"))?;
    Ok(u16::from_be_bytes(body))
}

/// The id of a PUBLISH's body (3.3.2).
pub(crate) fn publish_id(body: &[u8]) -> io::Result<u16> {
    let topic = body.first_chunk::<2>().map(|len| usize::from(u16::from_be_bytes(*len)));
    let id = topic.and_then(|topic| body.get(2 + topic..4 + topic));
    let id = id.ok_or_else(|| wrong("a PUBLISH that ends before its packet id (3.3.2)"))?;
    ack_id(id)
}

/// The other side does not speak MQTT.
pub(crate) fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the peer sent {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length_of(len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        remaining_length(&mut out, len);
        out
    }

    /// OASIS MQTT 3.1.1, table 2.4: the ends of each size.
    #[test]
    fn remaining_lengths_are_those_of_table_2_4() {
        let cases: [(usize, &[u8]); 9] = [
            (0, &[0x00]),
            (64, &[0x40]),
            (127, &[0x7F]),
            (128, &[0x80, 0x01]),
            (321, &[0xC1, 0x02]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (268_435_455, &[0xFF, 0xFF, 0xFF, 0x7F]),
        ];
        for (len, bytes) in cases {
            assert_eq!(length_of(len), bytes, "{len}");
        }
    }

    /// Figure 3.6 shows protocol name, level, flags, keep-alive; here with the flags of a device: user name alone.
    #[test]
    fn connect_is_as_figure_3_6() {
        let golden = [
            0x10, 18, 0x00, 0x04, b'M', b'Q', b'T', b'T', 0x04, 0x80, 0x00, 0x0A, // 3.1.2
            0x00, 0x02, b'i', b'd', 0x00, 0x02, b'u', b'n', // 3.1.3
        ];
        assert_eq!(connect("id", "un", 10), golden);
    }

    /// Figure 3.11: topic `a/b`, packet id 10.
    #[test]
    fn publish_is_as_figure_3_11() {
        let (bytes, id_at) = publish("a/b", 10, b"xy");
        assert_eq!(bytes, [0x32, 9, 0x00, 0x03, 0x61, 0x2F, 0x62, 0x00, 0x0A, b'x', b'y']);
        assert_eq!(id_at, 7);
        let read = frame(&bytes).expect("good").expect("complete");
        assert_eq!(publish_id(read.body).expect("an id"), 10);
    }

    /// 3.2 CONNACK, 3.4 PUBACK, 3.13 PINGRESP: as a server sends them, in one piece and cut anywhere.
    #[test]
    fn frames_are_found_wherever_the_stream_is_cut() {
        let stream = [0x20, 2, 0, 0, 0x40, 2, 0x12, 0x34, 0xD0, 0];
        let mut found = Vec::new();
        for cut in 0..=stream.len() {
            let (mut at, mut count) = (0, 0);
            while let Some(read) = frame(&stream[at..cut]).expect("good") {
                at += read.len;
                count += 1;
                if cut == stream.len() {
                    found.push((read.first, read.body.to_vec()));
                }
            }
            assert_eq!(
                count,
                usize::from(cut >= 4) + usize::from(cut >= 8) + usize::from(cut >= 10)
            );
        }
        assert_eq!(found, [(CONNACK, vec![0, 0]), (PUBACK, vec![0x12, 0x34]), (0xD0, vec![])]);
        assert_eq!(ack_id(&found[1].1).expect("an id"), 0x1234);
    }

    #[test]
    fn what_is_no_mqtt_is_refused() {
        frame(&[0x40, 0x80, 0x80, 0x80, 0x80, 0x01]).expect_err("five bytes of length");
        assert_eq!(frame(&[0x40, 0x80, 0x80]).expect("not yet wrong"), None);
        ack_id(&[1]).expect_err("short");
        publish_id(&[0, 3, b'a']).expect_err("short");
    }
}
