//! Fast ways through bytes that are nearly always of one shape: the head of a transfer, and the bodies in a message.
//!
//! Owns: walking encoded values without making [`super::value::Value`]s of them. Invariants: what is not of the usual
//! shape is left to the general decoder (`None`, `false`), and the rest reads as it would there; only the inside of
//! properties is not looked at in lean mode. Nothing is read past the input. Must not know: links, the log.

use bytes::{Buf as _, Bytes};

use super::frame::{Performative, code};
use super::message::FORMAT_BATCH;

/// A transfer frame (part 2, section 2.7.5), as far as this double looks at it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) handle: u32,
    pub(crate) delivery_id: Option<u32>,
    pub(crate) format: u32,
    pub(crate) settled: bool,
    pub(crate) more: bool,
    pub(crate) aborted: bool,
    pub(crate) payload: Bytes,
}

impl Transfer {
    /// From the general decoder's fields.
    pub(crate) fn of(performative: Performative) -> Self {
        let fields = &performative.fields;
        let flag = |index| fields.get(index).as_bool() == Some(true);
        Self {
            handle: fields.get(0).as_u32().unwrap_or(u32::MAX),
            delivery_id: fields.get(1).as_u32(),
            format: fields.get(3).as_u32().unwrap_or(0),
            settled: flag(4),
            more: flag(5),
            aborted: flag(9),
            payload: performative.payload,
        }
    }

    /// From the bytes; `None` when this is no transfer, or one of an unusual shape.
    pub(crate) fn skim(body: &Bytes) -> Option<Self> {
        let raw = body.get(..3)?;
        if raw != [0x00, 0x53, u8::try_from(code::TRANSFER).ok()?] {
            return None;
        }
        let mut walk = Walk { raw: body, at: 3 };
        let (end, count) = walk.list()?;
        // The fields must fill the list exactly, as the general decoder has it.
        let mut fields = Walk { raw: &body[..end], at: walk.at };
        let mut out = Self {
            handle: u32::MAX,
            delivery_id: None,
            format: 0,
            settled: false,
            more: false,
            aborted: false,
            payload: Bytes::new(),
        };
        for index in 0..count {
            match index {
                0 => out.handle = fields.uint()?.unwrap_or(u32::MAX),
                1 => out.delivery_id = fields.uint()?,
                3 => out.format = fields.uint()?.unwrap_or(0),
                4 => out.settled = fields.flag()?,
                5 => out.more = fields.flag()?,
                9 => out.aborted = fields.flag()?,
                _ => fields.skip()?,
            }
        }
        if fields.at != end {
            return None;
        }
        out.payload = body.clone();
        out.payload.advance(end);
        Some(out)
    }
}

/// Appends the bodies of the messages in `payload`; false when something in it is unusual, then `out` means nothing.
pub(crate) fn bodies<'a>(format: u32, payload: &'a [u8], out: &mut Vec<&'a [u8]>) -> bool {
    let mut walk = Walk { raw: payload, at: 0 };
    if format != FORMAT_BATCH {
        return walk.one_body().map(|body| out.push(body)).is_some();
    }
    // Bodies of a few hundred bytes are usual; a guess that is too small costs a few moves.
    out.reserve(payload.len() / 512 + 1);
    while walk.at < payload.len() {
        let Some((section, data)) = walk.section() else {
            return false;
        };
        if section != DATA {
            continue;
        }
        match data.and_then(|data| Walk { raw: data, at: 0 }.one_body()) {
            Some(body) => out.push(body),
            None => return false,
        }
    }
    !out.is_empty()
}

/// Descriptor of a data section (part 3, section 3.2.6).
const DATA: u8 = 0x75;

/// A place in encoded bytes. Every method is `None` at the first thing that it does not expect.
struct Walk<'a> {
    raw: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.raw.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let taken = self.raw.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn long(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// The head of a list: where it ends, and how many elements it has.
    fn list(&mut self) -> Option<(usize, usize)> {
        let (start, size, count) = match self.byte()? {
            0x45 => return Some((self.at, 0)),
            0xc0 => {
                let size = usize::from(self.byte()?);
                (self.at, size, usize::from(self.byte()?))
            }
            0xd0 => {
                let size = self.long()? as usize;
                (self.at, size, self.long()? as usize)
            }
            _ => return None,
        };
        let end = start.checked_add(size)?;
        (end <= self.raw.len() && self.at <= end).then_some((end, count))
    }

    /// A `uint` or null.
    fn uint(&mut self) -> Option<Option<u32>> {
        Some(match self.byte()? {
            0x40 => None,
            0x43 => Some(0),
            0x52 => Some(u32::from(self.byte()?)),
            0x70 => Some(self.long()?),
            _ => return None,
        })
    }

    /// A boolean; null is false.
    fn flag(&mut self) -> Option<bool> {
        Some(match self.byte()? {
            0x41 => true,
            0x40 | 0x42 => false,
            0x56 => self.byte()? != 0,
            _ => return None,
        })
    }

    /// Passes over null, a boolean, an unsigned number or a binary.
    fn skip(&mut self) -> Option<()> {
        let code = self.byte()?;
        let len = match code {
            0x40..=0x44 => 0,
            0x50 | 0x52 | 0x53 => 1,
            0x60 => 2,
            0x70 => 4,
            0x80 => 8,
            0xa0 => usize::from(self.byte()?),
            0xb0 => self.long()? as usize,
            _ => return None,
        };
        self.take(len).map(drop)
    }

    /// One section: its descriptor, and its bytes when it is a binary.
    fn section(&mut self) -> Option<(u8, Option<&'a [u8]>)> {
        let [0x00, 0x53, section] = *self.take(3)? else {
            return None;
        };
        let len = match self.byte()? {
            0xa0 => usize::from(self.byte()?),
            0xb0 => self.long()? as usize,
            0x45 => return Some((section, None)),
            0xc0 | 0xc1 => {
                let len = usize::from(self.byte()?);
                self.take(len)?;
                return Some((section, None));
            }
            0xd0 | 0xd1 => {
                let len = self.long()? as usize;
                self.take(len)?;
                return Some((section, None));
            }
            _ => return None,
        };
        Some((section, Some(self.take(len)?)))
    }

    /// The one data section of a message whose other sections are lists and maps.
    fn one_body(&mut self) -> Option<&'a [u8]> {
        let mut body = None;
        while self.at < self.raw.len() {
            match self.section()? {
                (DATA, Some(data)) if body.is_none() => body = Some(data),
                (0x70..=0x74 | 0x78, None) => {}
                _ => return None,
            }
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::performative;
    use super::super::message::telemetry;
    use super::super::value::{Value, encode};
    use super::*;

    fn encoded(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        encode(value, &mut out);
        out
    }

    fn section(code: u64, value: Value) -> Vec<u8> {
        encoded(&Value::Described(Box::new(Value::ULong(code)), Box::new(value)))
    }

    /// Both ways must say the same of a transfer, and of every cut and every changed byte of it.
    #[test]
    fn a_transfer_reads_the_same_both_ways() {
        let tag = Value::Binary(Bytes::from_static(b"tag"));
        let heads = [
            vec![Value::UInt(0), Value::UInt(7), tag.clone(), Value::UInt(FORMAT_BATCH)],
            vec![
                Value::UInt(300),
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Bool(true),
                Value::Bool(true),
            ],
            vec![
                Value::UInt(1),
                Value::UInt(70_000),
                tag,
                Value::UInt(0),
                Value::Null,
                Value::Bool(false),
                Value::UByte(1),
                Value::Null,
                Value::Null,
                Value::Bool(true),
            ],
        ];
        for fields in heads {
            let mut raw = encoded(&Value::described_list(code::TRANSFER, fields));
            raw.extend_from_slice(b"payload");
            let whole = Bytes::from(raw.clone());
            let slow = Transfer::of(performative(whole.clone()).expect("a transfer"));
            assert_eq!(Transfer::skim(&whole), Some(slow));
            for at in 0..raw.len() {
                agree(&whole.slice(..at));
                for bit in 0..8 {
                    let mut changed = raw.clone();
                    changed[at] ^= 1 << bit;
                    agree(&Bytes::from(changed));
                }
            }
        }
    }

    fn agree(raw: &Bytes) {
        if let Some(fast) = Transfer::skim(raw) {
            let slow = performative(raw.clone()).map(Transfer::of).ok();
            assert_eq!(Some(fast), slow, "{raw:02x?}");
        }
    }

    fn message(body: &'static [u8]) -> Vec<u8> {
        let mut out = section(0x73, Value::List(vec![Value::string("id")]));
        let entry = (Value::string("name"), Value::string("value"));
        out.extend(section(0x74, Value::Map(vec![entry])));
        out.extend(section(0x75, Value::Binary(Bytes::from_static(body))));
        out
    }

    #[test]
    fn bodies_are_the_same_both_ways() {
        let mut batch = Vec::new();
        for body in [&b"one"[..], b"", &[7; 700]] {
            batch.extend(section(0x75, Value::Binary(Bytes::from(message(body)))));
        }
        for (format, raw) in [(0, message(b"alone")), (FORMAT_BATCH, batch)] {
            let mut fast = Vec::new();
            assert!(bodies(format, &raw, &mut fast));
            let slow = telemetry(format, Bytes::from(raw.clone())).expect("messages");
            let slow: Vec<&[u8]> = slow.iter().map(|m| &m.body[..]).collect();
            assert_eq!(fast, slow);
            for at in 0..raw.len() {
                let mut cut = Vec::new();
                if bodies(format, &raw[..at], &mut cut) {
                    let slow = telemetry(format, Bytes::copy_from_slice(&raw[..at]));
                    assert_eq!(slow.map(|m| m.len()), Ok(cut.len()), "cut at {at}");
                }
            }
        }
    }

    #[test]
    fn the_unusual_is_left_to_the_decoder() {
        let two = [message(b"a"), section(0x75, Value::Binary(Bytes::from_static(b"b")))].concat();
        let value = section(0x77, Value::string("text"));
        for (format, raw) in [(0, two), (0, value), (0, Vec::new()), (FORMAT_BATCH, Vec::new())] {
            assert!(!bodies(format, &raw, &mut Vec::new()), "{raw:02x?}");
        }
    }
}
