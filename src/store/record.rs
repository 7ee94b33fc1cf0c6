//! One record: its bytes, and how they are judged.
//!
//! Owns: the 40-byte header of a record (see the table in [`crate::store`]). Invariant: [`parse`] accepts only bytes
//! that [`encode`] made for the same segment, up to the strength of a 32-bit CRC; the CRC starts from the segment's
//! random salt, so a payload that imitates a record is not taken for one when damage makes the reader search.
//! Must not know: files.

use std::ops::Range;

use super::age::StoreMillis;
use super::id::Offset;

/// Bytes of a record before its payload.
pub(super) const HEADER_BYTES: usize = 40;
/// Records start at multiples of this many bytes.
pub(super) const ALIGN: usize = 8;
/// Longest payload, in bytes. An MQTT packet is at most 256 KiB here; the rest is room for what comes.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Two bytes in every header that make the search for the next record quick.
const MARK: u16 = 0x5347;
/// The flags of a [`Blank`]; a record has none.
const BLANK: u16 = 1;

/// What a record says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Its place in the queue.
    pub(super) offset: Offset,
    /// Every record below this place was durable when this one was written.
    pub(super) durable_below: Offset,
    /// When it was stored first. In format 1 this is wall time, which readers ignore.
    pub(super) stored: StoreMillis,
    /// Seconds to live; 0 = for ever.
    pub(super) ttl_secs: u32,
}

/// A record found in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) head: Head,
    /// Bytes of payload, right after the header.
    pub(super) payload_len: usize,
}

impl Found {
    /// Bytes from this record to the next.
    pub(super) fn size(&self) -> usize {
        size(self.payload_len)
    }
}

/// Says of bytes that they hold no record, and that a start has judged what is missing there: it was torn before it was
/// acknowledged, or counted as lost. Recovery leaves it where a volume has no room to write the segment without those bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blank {
    /// Bytes up to the next record, those of the blank itself included.
    pub(super) size: usize,
    /// What is missing.
    pub(super) offsets: Range<u64>,
}

impl Blank {
    /// Its bytes, for a gap of at least as many. What follows in the gap may be anything: the CRC does not cover it.
    pub(super) fn encode(&self, salt: u32) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let size = u32::try_from(self.size).expect("a segment is far smaller");
        bytes[..4].copy_from_slice(&size.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offsets.start.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.offsets.end.to_le_bytes());
        bytes[36..38].copy_from_slice(&BLANK.to_le_bytes());
        bytes[38..].copy_from_slice(&MARK.to_le_bytes());
        let crc = checksum(&bytes, salt);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads it at the start of `bytes`; `range` is where its offsets must lie.
    pub(super) fn parse(bytes: &[u8], salt: u32, range: &Range<u64>) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let blank =
            Self { size: u32_at(bytes, 0) as usize, offsets: u64_at(bytes, 8)..u64_at(bytes, 16) };
        let is_one = u32_at(bytes, 36) == u32::from(MARK) << 16 | u32::from(BLANK)
            && blank.size >= HEADER_BYTES
            && blank.size.is_multiple_of(ALIGN)
            && range.contains(&blank.offsets.start)
            && blank.offsets.start < blank.offsets.end
            && blank.offsets.end <= range.end
            && checksum(bytes, salt) == u32_at(bytes, 4);
        is_one.then_some(blank)
    }
}

/// What bytes of a segment are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Record(Found),
    Blank(Blank),
}

impl Piece {
    /// Judges the bytes at the start of `bytes`; `range` is where the offsets must lie.
    pub(super) fn parse(bytes: &[u8], salt: u32, range: &Range<u64>) -> Result<Self, NotRecord> {
        match parse(bytes, salt, range) {
            Err(NotRecord::Bad) => {
                Blank::parse(bytes, salt, range).map(Self::Blank).ok_or(NotRecord::Bad)
            }
            judged => judged.map(Self::Record),
        }
    }

    /// Bytes from this piece to the next.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Record(found) => found.size(),
            Self::Blank(blank) => blank.size,
        }
    }

    /// The offsets that it accounts for.
    pub(super) fn offsets(&self) -> Range<u64> {
        match self {
            Self::Record(found) => found.head.offset.0..found.head.offset.0 + 1,
            Self::Blank(blank) => blank.offsets.clone(),
        }
    }
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotRecord {
    /// A zero length: nothing was written here.
    Empty,
    /// Perhaps one, but the bytes end too early: so many are needed.
    Short(usize),
    /// Something else.
    Bad,
}

/// Bytes that a record with such a payload takes in a segment.
pub(super) fn size(payload_len: usize) -> usize {
    (HEADER_BYTES + payload_len).next_multiple_of(ALIGN)
}

/// Appends a record to `out`. `payload` is at most [`PAYLOAD_BYTES_MAX`] long.
pub(super) fn encode(out: &mut Vec<u8>, salt: u32, head: &Head, payload: &[u8]) {
    let start = out.len();
    let length = u32::try_from(HEADER_BYTES + payload.len()).expect("payloads are at most 16 MiB");
    // Put together first: one copy to where the buffer may have to grow, not nine.
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[8..16].copy_from_slice(&head.offset.0.to_le_bytes());
    header[16..24].copy_from_slice(&head.durable_below.0.to_le_bytes());
    header[24..32].copy_from_slice(&head.stored.0.to_le_bytes());
    header[32..36].copy_from_slice(&head.ttl_secs.to_le_bytes());
    header[38..].copy_from_slice(&MARK.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
    let crc = checksum(&out[start..], salt);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + size(payload.len()), 0);
}

/// Judges the bytes at the start of `bytes`; `range` is where the offset must lie.
pub(super) fn parse(bytes: &[u8], salt: u32, range: &Range<u64>) -> Result<Found, NotRecord> {
    if bytes.len() < HEADER_BYTES {
        return Err(NotRecord::Short(HEADER_BYTES));
    }
    let length = u32_at(bytes, 0) as usize;
    if length == 0 {
        return Err(NotRecord::Empty);
    }
    let head = Head {
        offset: Offset(u64_at(bytes, 8)),
        durable_below: Offset(u64_at(bytes, 16)),
        stored: StoreMillis(u64_at(bytes, 24)),
        ttl_secs: u32_at(bytes, 32),
    };
    let plausible = (HEADER_BYTES..=HEADER_BYTES + PAYLOAD_BYTES_MAX).contains(&length)
        && u32_at(bytes, 36) == u32::from(MARK) << 16
        && range.contains(&head.offset.0)
        && head.durable_below <= head.offset;
    if !plausible {
        return Err(NotRecord::Bad);
    }
    let payload_len = length - HEADER_BYTES;
    // The padding may be missing: it carries nothing.
    if bytes.len() < length {
        return Err(NotRecord::Short(length));
    }
    if checksum(&bytes[..length], salt) != u32_at(bytes, 4) {
        return Err(NotRecord::Bad);
    }
    Ok(Found { head, payload_len })
}

/// CRC32C of everything but the CRC's own four bytes.
fn checksum(record: &[u8], salt: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(salt, &record[..4]), &record[8..])
}

/// A little-endian number in `bytes`, which reach that far.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// A little-endian number in `bytes`, which reach that far.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head {
        offset: Offset(7),
        durable_below: Offset(5),
        stored: StoreMillis(1_700_000_000_000),
        ttl_secs: 60,
    };

    #[test]
    fn the_format_is_these_bytes() {
        let mut out = Vec::new();
        encode(&mut out, 0, &HEAD, b"hello");
        assert_eq!(out.len(), 48);
        assert_eq!(&out[..4], [45, 0, 0, 0]);
        assert_eq!(&out[8..16], [7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&out[16..24], [5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&out[24..32], 1_700_000_000_000u64.to_le_bytes());
        assert_eq!(&out[32..40], [60, 0, 0, 0, 0, 0, 0x47, 0x53]);
        assert_eq!(&out[40..], b"hello\0\0\0");
        assert_eq!(u32_at(&out, 4), {
            let mut covered = out[..4].to_vec();
            covered.extend_from_slice(&out[8..45]);
            crc32c::crc32c(&covered)
        });
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for payload in [&b""[..], b"x", b"12345678", &[0; 100]] {
            let mut out = Vec::new();
            encode(&mut out, 9, &HEAD, payload);
            let found = Found { head: HEAD, payload_len: payload.len() };
            assert_eq!(parse(&out, 9, &(0..100)), Ok(found));
            for bit in 0..(HEADER_BYTES + payload.len()) * 8 {
                out[bit / 8] ^= 1 << (bit % 8);
                assert!(parse(&out, 9, &(0..100)).is_err(), "bit {bit}");
                out[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn a_blank_is_neither_a_record_nor_anything_else_that_was_flipped() {
        let blank = Blank { size: 96, offsets: 7..9 };
        let mut bytes = blank.encode(9);
        assert_eq!(Blank::parse(&bytes, 9, &(0..100)), Some(blank.clone()));
        assert_eq!(
            parse(&bytes, 9, &(0..100)),
            Err(NotRecord::Bad),
            "as an older program reads it"
        );
        for (salt, range) in [(8, 0..100), (9, 8..100), (9, 0..8)] {
            assert_eq!(Blank::parse(&bytes, salt, &range), None);
        }
        for bit in 0..HEADER_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Blank::parse(&bytes, 9, &(0..100)), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let mut record = Vec::new();
        encode(&mut record, 9, &HEAD, b"hello");
        assert_eq!(Blank::parse(&record, 9, &(0..100)), None);
        assert_eq!(Blank::parse(&record[..39], 9, &(0..100)), None);
    }

    #[test]
    fn another_segments_record_or_an_offset_out_of_range_is_none() {
        let mut out = Vec::new();
        encode(&mut out, 9, &HEAD, b"hello");
        assert_eq!(parse(&out, 8, &(0..100)), Err(NotRecord::Bad));
        assert_eq!(parse(&out, 9, &(8..100)), Err(NotRecord::Bad));
        assert_eq!(parse(&out[..44], 9, &(0..100)), Err(NotRecord::Short(45)));
        assert!(parse(&out[..45], 9, &(0..100)).is_ok());
        assert_eq!(parse(&[0; 64], 9, &(0..100)), Err(NotRecord::Empty));
    }
}
