//! Segment files: name, header, seal, and the search for records in one.
//!
//! Owns: the 64-byte header and the 64-byte seal (see the tables in [`crate::store`]). Pure: bytes in, findings out.
//! Must not know: folders, queues.

use std::io;
use std::ops::Range;

use super::age::{ExpiresBy, StoreMillis};
use super::disk::DiskFile;
use super::id::Offset;
use super::record::{self, ALIGN, Found, Piece, u32_at, u64_at};

/// Bytes of a segment before its first record.
pub(super) const HEADER_BYTES: u64 = 64;
/// Bytes of the seal behind the last record.
pub(super) const SEAL_BYTES: u64 = 64;
/// The format that this program writes, and the newest that it reads.
pub(super) const FORMAT_VERSION: u16 = 2;
/// The oldest that it reads: stamps are wall time, seals say nothing of expiry.
pub(super) const FORMAT_1: u16 = 1;

const HEADER_MAGIC: &[u8; 8] = b"SGW-SEG\n";
const SEAL_MAGIC: &[u8; 8] = b"SGW-END\n";
const BLOCK: usize = 64;

/// What tells a segment from all others: it is in the file's name, so damage inside the file cannot lose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// The lowest offset that the segment may hold.
    pub(super) first: Offset,
    /// Random; every CRC of a record starts from it.
    pub(super) salt: u32,
}

impl Key {
    /// The file's name.
    pub(super) fn file_name(self) -> String {
        format!("{:020}-{:08x}.seg", self.first.0, self.salt)
    }

    /// Reads a name back; `None` if it is not one that [`Key::file_name`] makes.
    pub(super) fn from_file_name(name: &str) -> Option<Self> {
        let (first, salt) = name.strip_suffix(".seg")?.split_once('-')?;
        let first = Offset(first.parse().ok()?);
        let key = Self { first, salt: u32::from_str_radix(salt, 16).ok()? };
        (key.file_name() == name).then_some(key)
    }
}

/// What a header says beside the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The format of the segment.
    pub(super) version: u16,
    /// When it was made; in format 1 nothing.
    pub(super) created: StoreMillis,
}

impl Header {
    /// The header's bytes.
    pub(super) fn encode(&self, key: Key) -> [u8; BLOCK] {
        let mut b = block(HEADER_MAGIC, self.version);
        b[16..24].copy_from_slice(&key.first.0.to_le_bytes());
        b[24..32].copy_from_slice(&self.created.0.to_le_bytes());
        b[32..36].copy_from_slice(&key.salt.to_le_bytes());
        finish(b)
    }

    /// Reads an intact header of any format, also of a newer one. Every format keeps magic, version and CRC where format
    /// 1 has them, so that the version can be told.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let version = version_of(bytes, HEADER_MAGIC)?;
        let created = if version == FORMAT_1 { 0 } else { u64_at(bytes, 24) };
        Some(Self { version, created: StoreMillis(created) })
    }
}

/// When the first record of a segment was stored. A segment of an older format counted another time: 0, it is older.
pub(super) fn first_stored(file: &dyn DiskFile) -> io::Result<u64> {
    let mut bytes = [0; BLOCK + record::HEADER_BYTES];
    let read = file.read_at(&mut bytes, 0)?;
    let is_ours = version_of(&bytes[..read], HEADER_MAGIC) == Some(FORMAT_VERSION);
    Ok(if is_ours { u64_at(&bytes, BLOCK + 24) } else { 0 })
}

/// What a seal says: it is written behind the last record, after that record was durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seal {
    /// Where the records end, and the seal begins.
    pub(super) data_end: u64,
    /// The lowest offset that is not this segment's business.
    pub(super) next: Offset,
    /// Records in the segment: `next - first`, or fewer if recovery had to leave a gap.
    pub(super) records: u64,
    /// Bytes of their payloads.
    pub(super) payload_bytes: u64,
    /// When all of them have expired.
    pub(super) expires_by: ExpiresBy,
    /// The format of the segment.
    pub(super) version: u16,
}

impl Seal {
    /// The seal's bytes.
    pub(super) fn encode(&self, key: Key) -> [u8; BLOCK] {
        let mut b = block(SEAL_MAGIC, self.version);
        b[16..24].copy_from_slice(&key.first.0.to_le_bytes());
        b[24..32].copy_from_slice(&self.next.0.to_le_bytes());
        b[32..40].copy_from_slice(&self.records.to_le_bytes());
        b[40..48].copy_from_slice(&self.payload_bytes.to_le_bytes());
        b[48..56].copy_from_slice(&self.data_end.to_le_bytes());
        b[56..60].copy_from_slice(&key.salt.to_le_bytes());
        if self.version > FORMAT_1 {
            b[60..64].copy_from_slice(&self.expires_by.0.to_le_bytes());
        }
        finish(b)
    }

    /// Reads the seal in the last bytes of a file that is `file_len` long. `None`: not sealed, or not believable.
    pub(super) fn decode(bytes: &[u8], key: Key, file_len: u64) -> Option<Self> {
        let version = version_of(bytes, SEAL_MAGIC).filter(|v| *v <= FORMAT_VERSION)?;
        let is_old = version == FORMAT_1;
        let seal = Self {
            data_end: u64_at(bytes, 48),
            next: Offset(u64_at(bytes, 24)),
            records: u64_at(bytes, 32),
            payload_bytes: u64_at(bytes, 40),
            expires_by: if is_old { ExpiresBy::MIXED } else { ExpiresBy(u32_at(bytes, 60)) },
            version,
        };
        let ours = u64_at(bytes, 16) == key.first.0
            && u32_at(bytes, 56) == key.salt
            && seal.data_end.checked_add(SEAL_BYTES) == Some(file_len)
            && seal.data_end >= HEADER_BYTES
            && seal.next >= key.first
            && seal.records <= seal.next.0 - key.first.0;
        ours.then_some(seal)
    }
}

fn block(magic: &[u8; 8], version: u16) -> [u8; BLOCK] {
    let mut b = [0; BLOCK];
    b[..8].copy_from_slice(magic);
    b[8..10].copy_from_slice(&version.to_le_bytes());
    b[10..12].copy_from_slice(&64u16.to_le_bytes());
    b
}

fn finish(mut b: [u8; BLOCK]) -> [u8; BLOCK] {
    let crc = block_crc(&b);
    b[12..16].copy_from_slice(&crc.to_le_bytes());
    b
}

fn block_crc(b: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&b[..12]), &b[16..BLOCK])
}

fn version_of(bytes: &[u8], magic: &[u8; 8]) -> Option<u16> {
    let intact =
        bytes.len() >= BLOCK && &bytes[..8] == magic && block_crc(bytes) == u32_at(bytes, 12);
    intact.then(|| u16::from_le_bytes([bytes[8], bytes[9]]))
}

/// A record and where it begins in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) at: usize,
    pub(super) found: Found,
}

/// The next intact record or blank at or after `at`, its offsets in `range`, and where it begins: where the records go on after
/// damage. Both begin at multiples of 8, so only those places are tried.
pub(super) fn search(
    bytes: &[u8],
    at: usize,
    salt: u32,
    range: &Range<u64>,
) -> Option<(usize, Piece)> {
    let mut at = at.next_multiple_of(ALIGN);
    while at + record::HEADER_BYTES <= bytes.len() {
        if let Ok(piece) = Piece::parse(&bytes[at..], salt, range) {
            return Some((at, piece));
        }
        at += ALIGN;
    }
    None
}

/// Bytes of a segment that are no record, and the offsets that are missing there; one of the two may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) positions: Range<u64>,
    pub(super) offsets: Range<u64>,
}

impl Gap {
    fn is_something(&self) -> bool {
        !self.positions.is_empty() || !self.offsets.is_empty()
    }

    fn bytes(&self) -> u64 {
        self.positions.end - self.positions.start
    }
}

/// What a scan of a whole segment found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The records, in order of offset and of place.
    pub(super) records: Vec<Placed>,
    /// Where the last one ends (the header's end if there is none).
    pub(super) data_end: usize,
    /// What is missing before and between them, but for what an earlier start has left a [`Blank`] for.
    pub(super) gaps: Vec<Gap>,
    /// Bytes before `data_end` that are no record: those of the gaps.
    pub(super) bad_bytes: u64,
    /// Bytes after `data_end`, up to the last that is not zero: a torn tail.
    pub(super) tail_bytes: u64,
}

impl Scan {
    /// Finds every record of the segment with these bytes; their offsets lie in `range`.
    pub(super) fn of(bytes: &[u8], key: Key, range: Range<u64>) -> Self {
        let header = usize::try_from(HEADER_BYTES).expect("64");
        let mut scan = Self { data_end: header, ..Self::default() };
        let mut range = range;
        let mut at = header;
        // What lies behind the last record is no gap.
        let mut missing = Vec::new();
        while let Some((begin, piece)) = search(bytes, at, key.salt, &range) {
            let gap = Gap {
                positions: at as u64..begin as u64,
                offsets: range.start..piece.offsets().start,
            };
            (at, range.start) = (begin + piece.size(), piece.offsets().end);
            missing.extend(Some(gap).filter(Gap::is_something));
            if let Piece::Record(found) = piece {
                scan.gaps.append(&mut missing);
                scan.data_end = at;
                scan.records.push(Placed { at: begin, found });
            }
        }
        scan.bad_bytes = scan.gaps.iter().map(Gap::bytes).sum();
        let tail = bytes.get(scan.data_end..).unwrap_or_default();
        let used = tail.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        scan.tail_bytes = used as u64;
        scan
    }
}

#[cfg(test)]
mod tests {
    use super::record::Head;
    use super::*;

    const KEY: Key = Key { first: Offset(10), salt: 0xdead_beef };
    const HEADER: Header = Header { version: FORMAT_VERSION, created: StoreMillis(1) };

    fn segment(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = HEADER.encode(KEY).to_vec();
        for (i, payload) in payloads.iter().enumerate() {
            let head = Head {
                offset: Offset(10 + i as u64),
                durable_below: Offset(10),
                stored: StoreMillis(0),
                ttl_secs: 0,
            };
            record::encode(&mut bytes, KEY.salt, &head, payload);
        }
        bytes
    }

    fn offsets(bytes: &[u8]) -> Vec<u64> {
        let scan = Scan::of(bytes, KEY, 10..100);
        scan.records.iter().map(|r| r.found.head.offset.0).collect()
    }

    #[test]
    fn names_are_reversible() {
        assert_eq!(KEY.file_name(), "00000000000000000010-deadbeef.seg");
        assert_eq!(Key::from_file_name(&KEY.file_name()), Some(KEY));
        for other in ["10-deadbeef.seg", "00000000000000000010-DEADBEEF.seg", "checkpoint", "x.tmp"]
        {
            assert_eq!(Key::from_file_name(other), None);
        }
    }

    #[test]
    fn damage_costs_only_the_records_it_touches() {
        let clean = segment(&[b"one", b"two", &[7; 300], b"four"]);
        assert_eq!(offsets(&clean), [10, 11, 12, 13]);
        let starts = [64, 112, 160, 504];
        for (lost, start) in starts.into_iter().enumerate() {
            let mut bytes = clean.clone();
            bytes[start + 2] ^= 1;
            let left: Vec<u64> = (10..14).filter(|o| *o != 10 + lost as u64).collect();
            assert_eq!(offsets(&bytes), left);
        }
        let mut bytes = clean.clone();
        bytes[..128].fill(0);
        assert_eq!(offsets(&bytes), [12, 13], "zeroes, the header included");
        assert_eq!(offsets(&clean[..clean.len() - 5]), [10, 11, 12], "a torn tail");
        assert_eq!(offsets(&clean[..3]), [] as [u64; 0]);
    }

    #[test]
    fn a_payload_that_imitates_a_record_of_another_salt_is_not_taken() {
        let mut inner = vec![];
        let head = Head {
            offset: Offset(11),
            durable_below: Offset(10),
            stored: StoreMillis(0),
            ttl_secs: 0,
        };
        record::encode(&mut inner, 0, &head, b"forged");
        let mut bytes = segment(&[&inner, b"real"]);
        bytes[64] ^= 1;
        assert_eq!(offsets(&bytes), [11]);
        assert_eq!(Scan::of(&bytes, KEY, 10..100).records[0].found.payload_len, 4);
    }

    #[test]
    fn a_seal_counts_only_whole_and_in_its_place() {
        for (version, kept) in [(1, ExpiresBy::MIXED), (2, ExpiresBy(77))] {
            let (next, expires_by) = (Offset(15), ExpiresBy(77));
            let seal =
                Seal { data_end: 640, next, records: 5, payload_bytes: 99, expires_by, version };
            let bytes = seal.encode(KEY);
            let want = Seal { expires_by: kept, ..seal };
            assert_eq!(Seal::decode(&bytes, KEY, 704), Some(want));
            assert_eq!(Seal::decode(&bytes, KEY, 705), None);
            assert_eq!(Seal::decode(&bytes, Key { salt: 1, ..KEY }, 704), None);
            for bit in 0..bytes.len() * 8 {
                let mut bytes = bytes;
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Seal::decode(&bytes, KEY, 704), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn only_an_intact_header_tells_its_version() {
        let mut b = HEADER.encode(KEY);
        assert_eq!(Header::decode(&b), Some(HEADER));
        b[8] = 3;
        assert_eq!(Header::decode(&b), None, "a flipped bit, not a newer format");
        assert_eq!(Header::decode(&finish(b)), Some(Header { version: 3, ..HEADER }));
        let old = Header { version: 1, ..HEADER }.encode(KEY);
        let want = Header { version: 1, created: StoreMillis(0) };
        assert_eq!(Header::decode(&old), Some(want), "wall time says nothing");
    }
}
