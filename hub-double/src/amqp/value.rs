//! The AMQP 1.0 type system: bytes to [`Value`] and back (AMQP 1.0 part 1).
//!
//! Written by hand, on purpose: the gateway's AMQP client is a library, and a double that used the same library would
//! agree with its mistakes. Owns: the encoding. Invariant: [`decode`] never reads past its input and never recurses
//! deeper than [`DEPTH_MAX`]. Must not know: frames, links, IoT Hub.

use bytes::{Buf, BufMut, Bytes};

/// Deepest nesting of lists, maps and descriptors that is decoded.
const DEPTH_MAX: usize = 16;

/// One AMQP value (part 1, section 1.6).
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    UByte(u8),
    UShort(u16),
    UInt(u32),
    ULong(u64),
    Byte(i8),
    Short(i16),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    /// decimal32, decimal64 and decimal128: carried, never interpreted.
    Decimal(Bytes),
    Char(char),
    /// Milliseconds since 1970.
    Timestamp(i64),
    Uuid([u8; 16]),
    Binary(Bytes),
    String(String),
    Symbol(String),
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Array(Vec<Value>),
    Described(Box<Value>, Box<Value>),
}

/// Why bytes are not an AMQP value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("the value ends before its length")]
    Truncated,
    #[error("unknown format code 0x{0:02x}")]
    UnknownFormat(u8),
    #[error("text is not UTF-8")]
    NotUtf8,
    #[error("nested deeper than {DEPTH_MAX}")]
    TooDeep,
    #[error("a map has an odd number of elements")]
    OddMap,
    #[error("expected {0}")]
    Unexpected(&'static str),
}

impl Value {
    pub(crate) fn symbol(text: impl Into<String>) -> Self {
        Self::Symbol(text.into())
    }

    pub(crate) fn string(text: impl Into<String>) -> Self {
        Self::String(text.into())
    }

    /// A described list, as every performative, section and outcome is one.
    pub(crate) fn described_list(code: u64, fields: Vec<Value>) -> Self {
        Self::Described(Box::new(Self::ULong(code)), Box::new(Self::List(fields)))
    }

    /// The text of a string or a symbol.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::String(s) | Self::Symbol(s) => Some(s),
            _ => None,
        }
    }

    /// Any unsigned integer.
    pub(crate) fn as_u64(&self) -> Option<u64> {
        match self {
            Self::UByte(n) => Some(u64::from(*n)),
            Self::UShort(n) => Some(u64::from(*n)),
            Self::UInt(n) => Some(u64::from(*n)),
            Self::ULong(n) => Some(*n),
            _ => None,
        }
    }

    /// Any integer that is not negative.
    pub(crate) fn as_count(&self) -> Option<u64> {
        match self {
            Self::Int(n) => u64::try_from(*n).ok(),
            Self::Long(n) => u64::try_from(*n).ok(),
            other => other.as_u64(),
        }
    }

    /// A `uint` field such as a handle.
    pub(crate) fn as_u32(&self) -> Option<u32> {
        self.as_u64().and_then(|n| u32::try_from(n).ok())
    }

    /// A boolean; anything else is `None`.
    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// Splits a described value into its numeric descriptor and what it describes. Symbolic descriptors
    /// (`amqp:open:list`) are legal but no client of this double sends them.
    pub(crate) fn into_described(self) -> Result<(u64, Value), DecodeError> {
        match self {
            Self::Described(code, value) => match code.as_u64() {
                Some(code) => Ok((code, *value)),
                None => Err(DecodeError::Unexpected("a numeric descriptor")),
            },
            _ => Err(DecodeError::Unexpected("a described value")),
        }
    }

    /// The value as a reader of a log wants it: text as it is, binary as UTF-8 (lossy), numbers in decimal.
    pub(crate) fn to_text(&self) -> Option<String> {
        Some(match self {
            Self::Null => return None,
            Self::Bool(v) => v.to_string(),
            Self::UByte(v) => v.to_string(),
            Self::UShort(v) => v.to_string(),
            Self::UInt(v) => v.to_string(),
            Self::ULong(v) => v.to_string(),
            Self::Byte(v) => v.to_string(),
            Self::Short(v) => v.to_string(),
            Self::Int(v) => v.to_string(),
            Self::Long(v) => v.to_string(),
            Self::Float(v) => v.to_string(),
            Self::Double(v) => v.to_string(),
            Self::Char(v) => v.to_string(),
            Self::Timestamp(v) => crate::clock::iso8601(*v),
            Self::Uuid(v) => uuid_text(v),
            Self::Binary(v) | Self::Decimal(v) => String::from_utf8_lossy(v).into_owned(),
            Self::String(v) | Self::Symbol(v) => v.clone(),
            Self::List(_) | Self::Map(_) | Self::Array(_) | Self::Described(..) => {
                format!("{self:?}")
            }
        })
    }

    /// [`Value::to_text`] that takes the string instead of copying it.
    pub(crate) fn into_text(self) -> Option<String> {
        match self {
            Self::String(s) | Self::Symbol(s) => Some(s),
            other => other.to_text(),
        }
    }
}

/// The usual text of a UUID.
pub(crate) fn uuid_text(v: &[u8; 16]) -> String {
    let hex: String = v.iter().map(|b| format!("{b:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Takes one value off the front of `input`.
pub(crate) fn decode(input: &mut Bytes) -> Result<Value, DecodeError> {
    decode_at(input, 0)
}

fn decode_at(input: &mut Bytes, depth: usize) -> Result<Value, DecodeError> {
    if depth > DEPTH_MAX {
        return Err(DecodeError::TooDeep);
    }
    let code = take_u8(input)?;
    if code == 0x00 {
        let descriptor = decode_at(input, depth + 1)?;
        let value = decode_at(input, depth + 1)?;
        return Ok(Value::Described(Box::new(descriptor), Box::new(value)));
    }
    decode_body(code, input, depth)
}

/// Decodes what follows a constructor (part 1, section 1.2: the high half-byte of the code gives the width).
fn decode_body(code: u8, input: &mut Bytes, depth: usize) -> Result<Value, DecodeError> {
    Ok(match code {
        0x40 => Value::Null,
        0x41 => Value::Bool(true),
        0x42 => Value::Bool(false),
        0x56 => Value::Bool(take_u8(input)? != 0),
        0x50 => Value::UByte(take_u8(input)?),
        0x60 => Value::UShort(need(input, 2)?.get_u16()),
        0x70 => Value::UInt(need(input, 4)?.get_u32()),
        0x52 => Value::UInt(u32::from(take_u8(input)?)),
        0x43 => Value::UInt(0),
        0x80 => Value::ULong(need(input, 8)?.get_u64()),
        0x53 => Value::ULong(u64::from(take_u8(input)?)),
        0x44 => Value::ULong(0),
        0x51 => Value::Byte(need(input, 1)?.get_i8()),
        0x61 => Value::Short(need(input, 2)?.get_i16()),
        0x71 => Value::Int(need(input, 4)?.get_i32()),
        0x54 => Value::Int(i32::from(need(input, 1)?.get_i8())),
        0x81 => Value::Long(need(input, 8)?.get_i64()),
        0x55 => Value::Long(i64::from(need(input, 1)?.get_i8())),
        0x72 => Value::Float(need(input, 4)?.get_f32()),
        0x82 => Value::Double(need(input, 8)?.get_f64()),
        0x74 => Value::Decimal(take(input, 4)?),
        0x84 => Value::Decimal(take(input, 8)?),
        0x94 => Value::Decimal(take(input, 16)?),
        0x73 => Value::Char(char::from_u32(need(input, 4)?.get_u32()).unwrap_or('\u{fffd}')),
        0x83 => Value::Timestamp(need(input, 8)?.get_i64()),
        0x98 => {
            let mut uuid = [0; 16];
            need(input, 16)?.copy_to_slice(&mut uuid);
            Value::Uuid(uuid)
        }
        0xa0 | 0xb0 => Value::Binary(take_variable(code, input)?),
        0xa1 | 0xb1 => Value::String(text(&take_variable(code, input)?)?),
        0xa3 | 0xb3 => Value::Symbol(text(&take_variable(code, input)?)?),
        0x45 => Value::List(Vec::new()),
        0xc0 | 0xd0 => Value::List(compound(code, input, depth)?),
        0xc1 | 0xd1 => Value::Map(pairs(compound(code, input, depth)?)?),
        0xe0 | 0xf0 => array(code, input, depth)?,
        other => return Err(DecodeError::UnknownFormat(other)),
    })
}

fn compound(code: u8, input: &mut Bytes, depth: usize) -> Result<Vec<Value>, DecodeError> {
    let wide = code & 0xf0 == 0xd0;
    let (mut body, count) = counted(wide, input)?;
    // A count is the peer's word: room for no more elements than there are bytes.
    let mut out = Vec::with_capacity(count.min(body.len()));
    for _ in 0..count {
        out.push(decode_at(&mut body, depth + 1)?);
    }
    Ok(out)
}

fn array(code: u8, input: &mut Bytes, depth: usize) -> Result<Value, DecodeError> {
    let (mut body, count) = counted(code == 0xf0, input)?;
    let element = take_u8(&mut body)?;
    if element == 0x00 {
        return Err(DecodeError::Unexpected("an array of plain values"));
    }
    if depth >= DEPTH_MAX || count > body.len().max(1) {
        return Err(DecodeError::TooDeep);
    }
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        out.push(decode_body(element, &mut body, depth + 1)?);
    }
    Ok(Value::Array(out))
}

fn counted(wide: bool, input: &mut Bytes) -> Result<(Bytes, usize), DecodeError> {
    let size = take_len(wide, input)?;
    let mut body = take(input, size)?;
    let count = take_len(wide, &mut body)?;
    Ok((body, count))
}

fn pairs(items: Vec<Value>) -> Result<Vec<(Value, Value)>, DecodeError> {
    if !items.len().is_multiple_of(2) {
        return Err(DecodeError::OddMap);
    }
    let mut out = Vec::with_capacity(items.len() / 2);
    let mut items = items.into_iter();
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        out.push((key, value));
    }
    Ok(out)
}

fn take_variable(code: u8, input: &mut Bytes) -> Result<Bytes, DecodeError> {
    let len = take_len(code & 0xf0 == 0xb0, input)?;
    take(input, len)
}

fn take_len(wide: bool, input: &mut Bytes) -> Result<usize, DecodeError> {
    Ok(if wide { need(input, 4)?.get_u32() as usize } else { usize::from(take_u8(input)?) })
}

fn text(raw: &Bytes) -> Result<String, DecodeError> {
    std::str::from_utf8(raw).map(str::to_owned).map_err(|_| DecodeError::NotUtf8)
}

fn need(input: &mut Bytes, len: usize) -> Result<&mut Bytes, DecodeError> {
    if input.len() < len { Err(DecodeError::Truncated) } else { Ok(input) }
}

fn take(input: &mut Bytes, len: usize) -> Result<Bytes, DecodeError> {
    need(input, len).map(|b| b.split_to(len))
}

fn take_u8(input: &mut Bytes) -> Result<u8, DecodeError> {
    need(input, 1).map(Buf::get_u8)
}

/// Appends `value` to `out`. Small encodings are used where they are usual (`uint`, `ulong`, text, lists).
pub(crate) fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.put_u8(0x40),
        Value::Bool(true) => out.put_u8(0x41),
        Value::Bool(false) => out.put_u8(0x42),
        Value::UByte(v) => out.put_slice(&[0x50, *v]),
        Value::UShort(v) => fixed(out, 0x60, &v.to_be_bytes()),
        Value::UInt(0) => out.put_u8(0x43),
        Value::UInt(v) => match u8::try_from(*v) {
            Ok(small) => out.put_slice(&[0x52, small]),
            Err(_) => fixed(out, 0x70, &v.to_be_bytes()),
        },
        Value::ULong(0) => out.put_u8(0x44),
        Value::ULong(v) => match u8::try_from(*v) {
            Ok(small) => out.put_slice(&[0x53, small]),
            Err(_) => fixed(out, 0x80, &v.to_be_bytes()),
        },
        Value::Byte(v) => fixed(out, 0x51, &v.to_be_bytes()),
        Value::Short(v) => fixed(out, 0x61, &v.to_be_bytes()),
        Value::Int(v) => fixed(out, 0x71, &v.to_be_bytes()),
        Value::Long(v) => fixed(out, 0x81, &v.to_be_bytes()),
        Value::Float(v) => fixed(out, 0x72, &v.to_be_bytes()),
        Value::Double(v) => fixed(out, 0x82, &v.to_be_bytes()),
        Value::Decimal(v) => fixed(out, [0x74, 0x84, 0x94][(v.len() / 8).min(2)], v),
        Value::Char(v) => fixed(out, 0x73, &u32::from(*v).to_be_bytes()),
        Value::Timestamp(v) => fixed(out, 0x83, &v.to_be_bytes()),
        Value::Uuid(v) => fixed(out, 0x98, v),
        Value::Binary(v) => variable(out, 0xa0, v),
        Value::String(v) => variable(out, 0xa1, v.as_bytes()),
        Value::Symbol(v) => variable(out, 0xa3, v.as_bytes()),
        Value::List(items) if items.is_empty() => out.put_u8(0x45),
        Value::List(items) => compound_out(out, 0xc0, items.iter()),
        Value::Map(entries) => {
            compound_out(out, 0xc1, entries.iter().flat_map(|(k, v)| [k, v]));
        }
        Value::Array(items) => array_out(out, items),
        Value::Described(descriptor, value) => {
            out.put_u8(0x00);
            encode(descriptor, out);
            encode(value, out);
        }
    }
}

fn fixed(out: &mut Vec<u8>, code: u8, body: &[u8]) {
    out.put_u8(code);
    out.put_slice(body);
}

fn variable(out: &mut Vec<u8>, small_code: u8, body: &[u8]) {
    if let Ok(len) = u8::try_from(body.len()) {
        out.put_slice(&[small_code, len]);
    } else {
        out.put_u8(small_code + 0x10);
        out.put_u32(len_u32(body.len()));
    }
    out.put_slice(body);
}

fn compound_out<'a>(out: &mut Vec<u8>, small: u8, items: impl Iterator<Item = &'a Value>) {
    let mut body = Vec::new();
    let mut count = 0_usize;
    for item in items {
        encode(item, &mut body);
        count += 1;
    }
    // The size counts the count's own bytes (part 1, section 1.6.22).
    match (u8::try_from(body.len() + 1), u8::try_from(count)) {
        (Ok(size), Ok(count)) => out.put_slice(&[small, size, count]),
        _ => {
            out.put_u8(small + 0x10);
            out.put_u32(len_u32(body.len() + 4));
            out.put_u32(len_u32(count));
        }
    }
    out.put_slice(&body);
}

/// Arrays are only sent for symbols (SASL mechanisms, capabilities).
fn array_out(out: &mut Vec<u8>, items: &[Value]) {
    let mut body = vec![0xb3];
    for text in items.iter().filter_map(Value::as_text) {
        body.put_u32(len_u32(text.len()));
        body.put_slice(text.as_bytes());
    }
    out.put_u8(0xf0);
    out.put_u32(len_u32(body.len() + 4));
    out.put_u32(len_u32(items.len()));
    out.put_slice(&body);
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("nothing this double sends comes near 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(value: &Value) {
        let mut out = Vec::new();
        encode(value, &mut out);
        let mut input = Bytes::from(out);
        assert_eq!(decode(&mut input).as_ref(), Ok(value));
        assert!(input.is_empty(), "{value:?} leaves {} bytes", input.len());
    }

    #[test]
    fn every_type_survives_a_round() {
        for value in [
            Value::Null,
            Value::Bool(true),
            Value::UByte(7),
            Value::UShort(700),
            Value::UInt(0),
            Value::UInt(255),
            Value::UInt(256),
            Value::ULong(u64::MAX),
            Value::Byte(-1),
            Value::Short(-300),
            Value::Int(200),
            Value::Long(i64::MIN),
            Value::Double(1.5),
            Value::Char('é'),
            Value::Timestamp(1_700_000_000_000),
            Value::Uuid([9; 16]),
            Value::Binary(Bytes::from(vec![1; 300])),
            Value::string("x".repeat(300)),
            Value::symbol("amqp:accepted:list"),
            Value::List(vec![Value::Null; 300]),
            Value::Map(vec![(Value::symbol("k"), Value::string("v"))]),
            Value::Array(vec![Value::symbol("ANONYMOUS"), Value::symbol("MSSBCBS")]),
            Value::described_list(0x10, vec![Value::string("c"), Value::UInt(1)]),
        ] {
            round(&value);
        }
    }

    #[test]
    fn cut_or_hostile_bytes_are_errors_not_panics() {
        let mut out = Vec::new();
        encode(&Value::described_list(0x12, vec![Value::string("abc"); 5]), &mut out);
        for cut in 0..out.len() {
            assert!(decode(&mut Bytes::copy_from_slice(&out[..cut])).is_err(), "cut at {cut}");
        }
        for hostile in [
            &[0xd0, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff][..],
            &[0xf0, 0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0x40],
            &[0; 64],
            &[0xff],
        ] {
            assert!(decode(&mut Bytes::copy_from_slice(hostile)).is_err(), "{hostile:?}");
        }
    }
}
