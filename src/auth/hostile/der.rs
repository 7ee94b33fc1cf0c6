//! A writer of DER, and of what is nearly DER: the bytes of a forged certificate are wholly ours.
//!
//! Owns: tags, lengths, the primitive types. Must not know: certificates.

/// Tag, shortest length, content.
pub(super) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend(length(content.len()));
    out.extend_from_slice(content);
    out
}

fn length(len: usize) -> Vec<u8> {
    let bytes = len.to_be_bytes();
    let first = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len() - 1);
    match len {
        0..=127 => vec![bytes[7]],
        _ => [&[0x80 | u8::try_from(bytes.len() - first).unwrap()], &bytes[first..]].concat(),
    }
}

/// The same element with one byte more of length than it needs: BER, not DER.
pub(super) fn with_long_length(element: &[u8]) -> Vec<u8> {
    let content = content(element);
    let bytes = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[element[0], 0x84], &bytes[..], content].concat()
}

/// The same element with an indefinite length.
pub(super) fn with_indefinite_length(element: &[u8]) -> Vec<u8> {
    [&[element[0], 0x80], content(element), &[0, 0]].concat()
}

/// What is in an element.
pub(super) fn content(element: &[u8]) -> &[u8] {
    let header = if element[1] < 0x80 { 2 } else { 2 + usize::from(element[1] & 0x7f) };
    &element[header..]
}

pub(super) fn seq(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

pub(super) fn set(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x31, &parts.concat())
}

/// An INTEGER with this content.
pub(super) fn integer(content: &[u8]) -> Vec<u8> {
    tlv(0x02, content)
}

pub(super) fn boolean(value: bool) -> Vec<u8> {
    vec![1, 1, if value { 0xff } else { 0 }]
}

pub(super) fn octets(content: &[u8]) -> Vec<u8> {
    tlv(0x04, content)
}

/// A BIT STRING of whole bytes.
pub(super) fn bits(content: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], content].concat())
}

/// A BIT STRING of flags; flag 0 is the first bit.
pub(super) fn flags(set: &[u8]) -> Vec<u8> {
    let Some(last) = set.iter().max() else { return tlv(0x03, &[0]) };
    let mut bytes = vec![0_u8; usize::from(last / 8) + 1];
    for flag in set {
        bytes[usize::from(flag / 8)] |= 0x80 >> (flag % 8);
    }
    tlv(0x03, &[&[7 - last % 8], &bytes[..]].concat())
}

/// An OBJECT IDENTIFIER out of its dotted form.
pub(super) fn oid(dotted: &str) -> Vec<u8> {
    let arcs: Vec<u64> = dotted.split('.').map(|arc| arc.parse().unwrap()).collect();
    let mut out = Vec::new();
    for arc in std::iter::once(arcs[0] * 40 + arcs[1]).chain(arcs[2..].iter().copied()) {
        let groups = (0..10).rev().map(|g| (arc >> (7 * g)) as u8 & 0x7f);
        let groups: Vec<u8> = groups.skip_while(|g| *g == 0).collect();
        match groups.split_last() {
            None => out.push(0),
            Some((last, first)) => {
                out.extend(first.iter().map(|g| g | 0x80));
                out.push(*last);
            }
        }
    }
    tlv(0x06, &out)
}

/// UTCTime until 2049, then GeneralizedTime (RFC 5280 4.1.2.5).
pub(super) fn time(seconds: i64) -> Vec<u8> {
    // Not a Timestamp: those end a day before the last second that a certificate can name.
    let epoch = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0);
    let text = (epoch + jiff::SignedDuration::from_secs(seconds)).to_string();
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    if &digits[..4] < "2050" {
        tlv(0x17, format!("{}Z", &digits[2..]).as_bytes())
    } else {
        tlv(0x18, format!("{digits}Z").as_bytes())
    }
}

#[test]
fn it_writes_der() {
    assert_eq!(tlv(4, &[0; 200])[..3], [4, 0x81, 200]);
    assert_eq!(tlv(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
    assert_eq!(content(&tlv(4, &[7; 300])), [7; 300]);
    assert_eq!(oid("1.2.840.10045.2.1"), [6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]);
    assert_eq!(oid("2.5.29.37.0"), [6, 4, 0x55, 29, 37, 0]);
    assert_eq!(flags(&[5, 6]), [3, 2, 1, 6]);
    assert_eq!(flags(&[8]), [3, 3, 7, 0, 0x80]);
    assert_eq!(time(1_800_000_000), b"\x17\x0d270115080000Z");
    assert_eq!(time(4_102_444_800), b"\x18\x0f21000101000000Z");
}
