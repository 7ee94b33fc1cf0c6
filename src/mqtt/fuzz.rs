//! Bodies of the fuzz targets, shared by `tests/fuzz` and the seeded stand-in in `cargo test`. Not part of the API.

use bytes::BytesMut;

use super::codec::{decode, encode};

/// Decodes `input` as a stream of packets under a small and the usual limit; whatever decodes must encode, and decode
/// back to itself. Returns how many packets came out.
///
/// # Panics
/// When a promise of the codec does not hold.
pub fn packets(input: &[u8]) -> usize {
    let mut count = 0;
    for max_bytes in [64, 262_144] {
        let mut stream = BytesMut::from(input);
        while let Ok(Some(packet)) = decode(&mut stream, max_bytes) {
            let mut wire = BytesMut::new();
            encode(&packet, &mut wire).expect("what came off the wire fits the wire");
            let again = decode(&mut wire, max_bytes).expect("our own bytes are well-formed");
            assert_eq!(again.as_ref(), Some(&packet));
            assert!(wire.is_empty(), "one packet, no more");
            count += 1;
        }
    }
    count
}

/// A seeded source of mutated inputs: takes `seeds`, changes, cuts, repeats and splices them. The same `seed` gives the
/// same inputs on every machine. The stand-in for a coverage-guided fuzzer in `cargo test`.
#[cfg(test)]
pub(crate) fn mutations(seeds: &[&[u8]], seed: u64, count: usize, mut feed: impl FnMut(&[u8])) {
    // xorshift64* (Vigna 2016): enough to scatter mutations, no crate needed.
    let mut state = seed;
    let mut below = |limit: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let high = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).expect("31 bits") % limit.max(1)
    };
    let mut input = Vec::new();
    for _ in 0..count {
        input.clear();
        input.extend_from_slice(seeds[below(seeds.len())]);
        for _ in 0..=below(4) {
            let at = below(input.len() + 1);
            match below(6) {
                0 if at < input.len() => input[at] = u8::try_from(below(256)).expect("a byte"),
                1 if at < input.len() => input[at] ^= 1 << below(8),
                2 => input.truncate(at),
                3 => input.insert(at, b"\0\xff/&=%#+$?"[below(10)]),
                4 if at < input.len() => drop(input.remove(at)),
                _ => {
                    let other = seeds[below(seeds.len())];
                    input.extend_from_slice(&other[below(other.len() + 1)..]);
                }
            }
        }
        feed(&input);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of every packet, to mutate.
    const SEEDS: [&[u8]; 10] = [
        b"\x10\x1d\x00\x04MQTT\x04\xee\x00\x0a\x00\x01c\x00\x02wt\x00\x02wp\x00\x01u\x00\x03p\x00w",
        b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c",
        b"\x20\x02\x01\x00",
        b"\x30\x07\x00\x03a/bhi",
        b"\x3b\x09\x00\x03a/b\x00\x0ahi",
        b"\x82\x0e\x00\x0a\x00\x03a/b\x01\x00\x03c/d\x02",
        b"\x90\x04\x00\x0a\x00\x80",
        b"\xa2\x0c\x00\x01\x00\x03a/b\x00\x03c/d",
        b"\x62\x02\x00\x01\x40\x02\x00\x01\xc0\x00\xe0\x00",
        b"\x34\x80\x01\x00\x01a\x00\x01",
    ];

    #[test]
    fn a_quarter_of_a_million_mutated_streams() {
        let mut taken = 0;
        mutations(&SEEDS, 0x5eed_0001, 250_000, |input| taken += usize::from(packets(input) > 0));
        assert!(taken > 25_000, "the mutations still reach the packets: {taken}");
    }
}
