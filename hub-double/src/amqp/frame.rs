//! AMQP 1.0 frames and protocol headers: bytes in, [`Frame`]s out (part 2, section 2.3).
//!
//! Owns: framing and the descriptor numbers of performatives. Invariant: a frame larger than the announced
//! [`FRAME_BYTES_MAX`] is an error before its body is buffered. Must not know: sessions, links, IoT Hub.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::value::{DecodeError, Value, decode, encode};

/// The max-frame-size that this double announces, in bytes.
pub(crate) const FRAME_BYTES_MAX: usize = 65_536;

/// `AMQP 0 1 0 0`.
pub(crate) const HEADER_AMQP: [u8; 8] = *b"AMQP\x00\x01\x00\x00";
/// `AMQP 3 1 0 0`.
pub(crate) const HEADER_SASL: [u8; 8] = *b"AMQP\x03\x01\x00\x00";

/// Descriptors (part 2, section 2.7; part 3; part 5, section 5.3.3).
pub(crate) mod code {
    pub(crate) const OPEN: u64 = 0x10;
    pub(crate) const BEGIN: u64 = 0x11;
    pub(crate) const ATTACH: u64 = 0x12;
    pub(crate) const FLOW: u64 = 0x13;
    pub(crate) const TRANSFER: u64 = 0x14;
    pub(crate) const DISPOSITION: u64 = 0x15;
    pub(crate) const DETACH: u64 = 0x16;
    pub(crate) const END: u64 = 0x17;
    pub(crate) const CLOSE: u64 = 0x18;
    pub(crate) const ERROR: u64 = 0x1d;
    pub(crate) const ACCEPTED: u64 = 0x24;
    pub(crate) const REJECTED: u64 = 0x25;
    pub(crate) const RELEASED: u64 = 0x26;
    pub(crate) const MODIFIED: u64 = 0x27;
    pub(crate) const SASL_MECHANISMS: u64 = 0x40;
    pub(crate) const SASL_INIT: u64 = 0x41;
    pub(crate) const SASL_OUTCOME: u64 = 0x44;
}

/// Which protocol layer a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    Amqp = 0,
    Sasl = 1,
}

/// One frame. An empty one is a heartbeat.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) layer: Layer,
    pub(crate) channel: u16,
    pub(crate) body: Bytes,
}

/// A performative with its fields by index, and the payload behind it (transfers only).
#[derive(Debug)]
pub(crate) struct Performative {
    pub(crate) code: u64,
    pub(crate) fields: Fields,
    pub(crate) payload: Bytes,
}

/// The fields of a described list; absent ones read as null (part 1, section 1.4: trailing nulls may be left out).
#[derive(Debug)]
pub(crate) struct Fields(Vec<Value>);

impl Fields {
    pub(crate) fn of(value: Value) -> Result<Self, DecodeError> {
        match value {
            Value::List(items) => Ok(Self(items)),
            _ => Err(DecodeError::Unexpected("a list of fields")),
        }
    }

    pub(crate) fn get(&self, index: usize) -> &Value {
        self.0.get(index).unwrap_or(&Value::Null)
    }

    pub(crate) fn take(&mut self, index: usize) -> Value {
        self.0.get_mut(index).map_or(Value::Null, |v| std::mem::replace(v, Value::Null))
    }
}

/// Why bytes are not frames.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of {0} bytes; {FRAME_BYTES_MAX} are allowed")]
    TooLarge(usize),
    #[error("a frame header that contradicts itself")]
    BadHeader,
    #[error(transparent)]
    Body(#[from] DecodeError),
}

/// Takes one whole frame off the front of `input`; `None` while it is not complete.
pub(crate) fn take_frame(input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    if input.len() < 8 {
        return Ok(None);
    }
    let size = u32::from_be_bytes([input[0], input[1], input[2], input[3]]) as usize;
    let offset = usize::from(input[4]) * 4;
    if size > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge(size));
    }
    if size < 8 || offset < 8 || offset > size {
        return Err(FrameError::BadHeader);
    }
    if input.len() < size {
        input.reserve(size - input.len());
        return Ok(None);
    }
    let mut raw = input.split_to(size).freeze();
    let layer = match raw[5] {
        0 => Layer::Amqp,
        1 => Layer::Sasl,
        _ => return Err(FrameError::BadHeader),
    };
    let channel = u16::from_be_bytes([raw[6], raw[7]]);
    raw.advance(offset);
    Ok(Some(Frame { layer, channel, body: raw }))
}

/// Reads the performative of a frame body.
pub(crate) fn performative(mut body: Bytes) -> Result<Performative, FrameError> {
    let (code, value) = decode(&mut body)?.into_described()?;
    Ok(Performative { code, fields: Fields::of(value)?, payload: body })
}

/// Appends a frame with `body` and `payload` to `out`.
pub(crate) fn put_frame(
    out: &mut Vec<u8>,
    layer: Layer,
    channel: u16,
    body: &Value,
    payload: &[u8],
) {
    let start = out.len();
    out.put_u32(0);
    out.put_slice(&[2, layer as u8]);
    out.put_u16(channel);
    encode(body, out);
    out.put_slice(payload);
    let size = u32::try_from(out.len() - start).expect("frames are far below 4 GiB");
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

/// Appends a heartbeat: a frame without a body (part 2, section 2.4.5).
pub(crate) fn put_heartbeat(out: &mut Vec<u8>) {
    out.put_slice(&[0, 0, 0, 8, 2, 0, 0, 0]);
}

/// An AMQP error (part 2, section 2.8.14).
pub(crate) fn error(condition: &str, description: &str) -> Value {
    Value::described_list(code::ERROR, vec![Value::symbol(condition), Value::string(description)])
}
