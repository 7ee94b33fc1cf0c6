//! Whole sessions as bytes, cut everywhere.

use super::*;

/// What a front end does, without the socket: bytes in, bytes and routed bodies out.
struct Front {
    bench: Bench,
    input: BytesMut,
    written: BytesMut,
    routed: Vec<Bytes>,
    closed: Option<&'static str>,
}

impl Front {
    fn new() -> Self {
        let bench = Bench::new();
        let (input, written) = (BytesMut::new(), BytesMut::new());
        Self { bench, input, written, routed: Vec::new(), closed: None }
    }

    fn bytes(&mut self, piece: &[u8]) {
        self.input.extend_from_slice(piece);
        while self.closed.is_none() && self.bench.session.wants_read() {
            let max_bytes = self.bench.session.packet_bytes_max();
            let out = match decode(&mut self.input, max_bytes) {
                Ok(None) => return,
                Ok(Some(packet)) => self.bench.packet(packet),
                Err(error) => {
                    let mut out = Vec::new();
                    self.bench.session.on_codec_error(error, WALL, &mut out);
                    out
                }
            };
            self.carry_out(out);
        }
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            assert_eq!(self.closed, None, "nothing follows Close");
            let more = match output {
                Output::Send(packet) => {
                    encode(&packet, &mut self.written).unwrap();
                    Vec::new()
                }
                Output::Authenticate(request) => {
                    self.bench.verdict(Ok(Identity::vouched(request.claim)))
                }
                Output::Route { tag, message } => {
                    self.routed.push(message.body);
                    self.bench.durable(tag)
                }
                Output::Close(reason) => {
                    self.closed = Some(reason.label);
                    Vec::new()
                }
                _ => Vec::new(),
            };
            self.carry_out(more);
        }
    }
}

/// J1 of the protocol facts: what a Sphere device sends.
fn conversation() -> BytesMut {
    let filters = vec![
        (text("devices/dev1/messages/devicebound/#"), QoS::AtLeastOnce),
        (text("$iothub/twin/res/#"), QoS::AtMostOnce),
        (text("$iothub/methods/POST/#"), QoS::AtMostOnce),
    ];
    let topic = format!("{TOPIC}%24.mid=m1&a=b");
    let packets = [
        Packet::Connect(Box::new(connect_as("dev1"))),
        Packet::Subscribe(Subscribe { packet_id: id(2), filters }),
        publish("$iothub/twin/GET/?$rid=4", "", Delivery::AtMostOnce),
        publish(&topic, "one", qos1(3)),
        publish(TOPIC, "two", Delivery::AtMostOnce),
        Packet::PingReq,
        publish(TOPIC, "three", qos1(4)),
        Packet::Disconnect,
    ];
    let mut bytes = BytesMut::new();
    for packet in &packets {
        encode(packet, &mut bytes).unwrap();
    }
    bytes
}

#[track_caller]
fn check_conversation(pieces: &[&[u8]]) {
    let mut front = Front::new();
    for piece in pieces {
        front.bytes(piece);
    }
    let expected =
        b"\x20\x02\x00\x00\x90\x05\x00\x02\x01\x00\x00\x40\x02\x00\x03\xd0\x00\x40\x02\x00\x04";
    assert_eq!(front.written, &expected[..]);
    assert_eq!(front.routed, ["one", "two", "three"]);
    assert_eq!(front.closed, Some("disconnect"));
}

#[test]
fn a_conversation_in_one_flight_and_byte_by_byte() {
    let bytes = conversation();
    check_conversation(&[&bytes]);
    check_conversation(&bytes.chunks(1).collect::<Vec<_>>());
    for size in 2..40 {
        check_conversation(&bytes.chunks(size).collect::<Vec<_>>());
    }
}

#[test]
fn a_conversation_cut_in_two_anywhere() {
    let bytes = conversation();
    for cut in 0..=bytes.len() {
        check_conversation(&[&bytes[..cut], &bytes[cut..]]);
    }
}

#[test]
fn a_conversation_cut_in_three_anywhere() {
    let bytes = conversation();
    // Every second cut, every third first one.
    for first in (0..=bytes.len()).step_by(3) {
        for second in first..=bytes.len() {
            check_conversation(&[&bytes[..first], &bytes[first..second], &bytes[second..]]);
        }
    }
}

#[track_caller]
fn check_garbage(bytes: &[u8], label: &str, written: &[u8]) {
    let mut front = Front::new();
    front.bytes(bytes);
    assert_eq!(front.closed, Some(label), "{bytes:02x?}");
    assert_eq!(front.written, written);
    assert!(front.routed.is_empty());
}

#[test]
fn garbage_closes_and_says_why() {
    check_garbage(b"GET / HTTP/1.1\r\n\r\n", "fixed_header_flags", b"");
    check_garbage(b"\x16\x03\x01\x02\x00", "fixed_header_flags", b""); // a TLS ClientHello
    check_garbage(b"\x00", "packet_type", b"");
    check_garbage(b"\x10\xff\xff\xff\xff\x7f", "remaining_length", b"");
    check_garbage(b"\xc0\x00", "connect_missing", b"");
    check_garbage(
        b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00\x01a\x00",
        "protocol_level",
        b"\x20\x02\x00\x01",
    );
    check_garbage(
        b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x00",
        "protocol_level",
        b"\x20\x02\x00\x01",
    );
    // Before CONNECT 65,536 bytes are the limit, and the fixed header alone decides.
    check_garbage(b"\x10\x81\x80\x04", "packet_too_large", b"");
}

#[test]
fn an_oversized_publish_closes_before_it_is_buffered() {
    let mut front = Front::new();
    let mut bytes = BytesMut::new();
    encode(&Packet::Connect(Box::new(connect_as("dev1"))), &mut bytes).unwrap();
    front.bytes(&bytes);
    front.bytes(b"\x32\x85\x80\x10");
    assert_eq!(front.closed, Some("packet_too_large"));
}

#[test]
fn every_change_of_one_byte_ends_well() {
    let bytes = conversation();
    for at in 0..bytes.len() {
        for with in [0x00, 0x01, 0x2f, 0x23, 0x7f, 0x80, 0xff] {
            let mut changed = bytes.to_vec();
            changed[at] = with;
            let mut front = Front::new();
            front.bytes(&changed);
            assert!(front.routed.len() <= 3);
        }
    }
}

/// Mutated conversations, with whatever they hold: no panic, at most one Close, nothing after it (see `carry_out`).
#[test]
fn twenty_thousand_mutated_conversations_end_well() {
    let whole = conversation();
    let mut connected = BytesMut::new();
    encode(&Packet::Connect(Box::new(connect_as("dev1"))), &mut connected).unwrap();
    let publish = &whole[connected.len()..];
    let mut farewells = 0;
    crate::mqtt::fuzz::mutations(&[publish], 0x5eed_0003, 20_000, |input| {
        let mut front = Front::new();
        front.bytes(&connected);
        front.bytes(input);
        farewells += usize::from(front.closed == Some("disconnect"));
    });
    assert!(farewells > 1_000, "the mutations still reach the end: {farewells}");
}

/// One byte every ten seconds: the deadline stays where it was.
#[test]
fn a_slow_loris_is_cut_off_at_the_connect_time() {
    let bytes = conversation();
    let mut front = Front::new();
    for byte in bytes.iter().take(6) {
        front.bytes(&[*byte]);
        assert_eq!(front.bench.deadline(), Some(60));
        assert_eq!(front.bench.timeout(), []);
        front.bench.later(10);
    }
    check_violation(front.bench.timeout(), "connect_timeout");
}
