//! Certificates in forms that nothing here makes: a small DER writer.

/// Tag, length, content.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let head = match content.len() {
        0..0x80 => vec![tag, content.len() as u8],
        _ => [vec![tag, 0x80 | significant.len() as u8], significant].concat(),
    };
    [head, content.to_vec()].concat()
}

/// The elements of a SEQUENCE, whole.
fn elements(sequence: &[u8]) -> Vec<Vec<u8>> {
    fn size(at: &[u8]) -> (usize, usize) {
        match at[1] {
            short if short < 0x80 => (2, short.into()),
            long => {
                let count = usize::from(long & 0x7f);
                let length = at[2..2 + count].iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
                (2 + count, length)
            }
        }
    }
    let (head, length) = size(sequence);
    let mut rest = &sequence[head..head + length];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (head, length) = size(rest);
        found.push(rest[..head + length].to_vec());
        rest = &rest[head + length..];
    }
    found
}

/// Certificates as a `.p7b` has them: SignedData of PKCS#7 without a signer (RFC 5652 5.1).
pub(crate) fn pkcs7(certificates: &[Vec<u8>]) -> Vec<u8> {
    let data = tlv(0x30, &tlv(6, b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"));
    let signed =
        [tlv(2, &[1]), tlv(0x31, &[]), data, tlv(0xa0, &certificates.concat()), tlv(0x31, &[])];
    let signed = tlv(0x30, &signed.concat());
    let kind = tlv(6, b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02");
    tlv(0x30, &[kind, tlv(0xa0, &signed)].concat())
}

/// A certificate that was signed with SHA-256 over a curve, as if it had been SHA-1.
pub(crate) fn with_sha1(certificate: &[u8]) -> Vec<u8> {
    let new = tlv(0x30, &tlv(6, b"\x2a\x86\x48\xce\x3d\x04\x01"));
    let old = tlv(0x30, &tlv(6, b"\x2a\x86\x48\xce\x3d\x04\x03\x02"));
    let replaced = |parts: Vec<Vec<u8>>| -> Vec<u8> {
        parts.into_iter().flat_map(|part| if part == old { new.clone() } else { part }).collect()
    };
    let mut parts = elements(certificate);
    parts[0] = tlv(0x30, &replaced(elements(&parts[0])));
    tlv(0x30, &replaced(parts))
}
