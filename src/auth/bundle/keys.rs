//! Which public keys count, of devices and of CAs.
//!
//! Owns: the list: P-256, P-384, Ed25519, RSA of 2048 to 8192 bits. Others are refused by name before any arithmetic:
//! webpki would call a signature by a short RSA key a bad signature, and knows neither P-521 nor secp256k1. The upper
//! bound of RSA is ring's: a check costs the square of the length, and 8192 bits take a millisecond already.
//! Must not know: what the key is for.

use x509_parser::asn1_rs::Tag;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519,
};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Bits of an RSA modulus.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Whether the key counts; if not, what it is, for people.
pub(super) fn check(key: &SubjectPublicKeyInfo<'_>) -> Result<(), String> {
    let algorithm = &key.algorithm.algorithm;
    let bytes = key.subject_public_key.data.len();
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        // Parameters written out may say anything (RFC 5480 2.1.1 forbids them), and `as_oid` reads any type.
        let named = key.algorithm.parameters.as_ref().filter(|p| p.tag() == Tag::Oid);
        let curve = named.and_then(|p| p.as_oid().ok());
        return match curve {
            // A point, uncompressed: a byte and two coordinates.
            Some(curve) if curve == OID_EC_P256 && bytes == 65 => Ok(()),
            Some(curve) if curve == OID_NIST_EC_P384 && bytes == 97 => Ok(()),
            Some(curve) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => {
                Err("an EC point that is not written out".to_owned())
            }
            Some(curve) => Err(format!("of the curve {}", curve.to_id_string())),
            None => Err("of a curve without a name".to_owned()),
        };
    }
    if *algorithm == OID_SIG_ED25519 {
        return if bytes == 32 { Ok(()) } else { Err("damaged (Ed25519)".to_owned()) };
    }
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        return match key.parsed() {
            Ok(PublicKey::RSA(rsa)) if RSA_BITS.contains(&bits(rsa.modulus)) => Ok(()),
            Ok(PublicKey::RSA(rsa)) => Err(format!("RSA with {} bits", bits(rsa.modulus))),
            _ => Err("damaged (RSA)".to_owned()),
        };
    }
    Err(format!("of the kind {}", algorithm.to_id_string()))
}

/// Length of a big-endian number without its leading zeros.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number[zeros..]
        .first()
        .map_or(0, |first| (number.len() - zeros) * 8 - first.leading_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::bits;

    #[test]
    fn leading_zeros_do_not_count() {
        for (number, expected) in [
            (&[][..], 0),
            (&[0, 0], 0),
            (&[1], 1),
            (&[0, 0xff], 8),
            (&[0, 1, 0], 9),
            (&[0x80, 0], 16),
        ] {
            assert_eq!(bits(number), expected, "{number:?}");
        }
    }
}
