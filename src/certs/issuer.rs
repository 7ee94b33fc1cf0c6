//! A CA that is read back from its files, to sign with it.
//!
//! Owns: the check that certificate and key belong together and may sign, and the forms of keys that are read (PKCS#8, and
//! SEC1 as `openssl ecparam -genkey` writes it). Must not know: what is signed.

use std::path::{Path, PathBuf};

use rcgen::{Issuer, KeyPair, PublicKeyData as _};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::facts::pem;
use super::{Authority, CertsError, Window};
use crate::auth::x509::{self, CertificateInfo, Piece, Validity};
use crate::clock::UnixMillis;

/// More than any certificate or key has.
const FILE_BYTES_MAX: u64 = 256 * 1024;

impl Authority {
    /// Reads the CA of `{stem}.pem` (its certificate, then what is above it) and `{stem}.key.pem`.
    ///
    /// # Errors
    /// It is not there, the two do not belong together, it is no CA, or it is not valid at `now`.
    pub fn load(stem: &Path, now: UnixMillis) -> Result<Self, CertsError> {
        let (certificate, key) = (with_ending(stem, ".pem"), with_ending(stem, ".key.pem"));
        let chain = read_chain(&certificate)?;
        let key = read_key(&key)?;
        let unusable = |why: String| CertsError::Ca { path: certificate.clone(), why };
        let (der, above) = chain.split_first().ok_or_else(|| unusable("it is empty".into()))?;
        let damaged = |e: String| unusable(format!("its certificate is damaged ({e})"));
        let info = CertificateInfo::read(der).map_err(|e| damaged(e.to_string()))?;
        let (_, parsed) = X509Certificate::from_der(der).map_err(|e| damaged(e.to_string()))?;
        let constraints = parsed.basic_constraints().ok().flatten().map(|c| c.value.clone());
        let Some(constraints) = constraints.filter(|c| c.ca) else {
            return Err(unusable("it is no CA certificate (basicConstraints)".into()));
        };
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(unusable("its key file holds another key than its certificate".into()));
        }
        match info.validity(now) {
            Validity::Valid => {}
            Validity::Expired => {
                let since = x509::utc(info.not_after);
                return Err(unusable(format!("it expired on {since}: make a new one")));
            }
            Validity::NotYet => {
                let from = x509::utc(info.not_before);
                return Err(unusable(format!(
                    "it is valid only from {from}: set this machine's time"
                )));
            }
        }
        let name = info.common_name.clone().unwrap_or_else(|| info.subject.clone());
        let issuer = Issuer::from_ca_cert_der(der, key).map_err(super::named(&name))?;
        let is_below = |der: &&CertificateDer<'_>| {
            CertificateInfo::read(der).is_ok_and(|info| !info.self_issued)
        };
        let intermediates = std::iter::once(der).chain(above).filter(is_below).map(|der| pem(der));
        Ok(Self {
            intermediates_pem: if info.self_issued {
                String::new()
            } else {
                intermediates.collect()
            },
            issuer,
            name,
            certificate_pem: pem(der),
            window: Window { not_before: info.not_before, not_after: info.not_after },
            path_len: constraints.path_len_constraint,
        })
    }
}

fn with_ending(stem: &Path, ending: &str) -> PathBuf {
    let mut name = stem.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn read(path: &Path) -> Result<Vec<u8>, CertsError> {
    let failed = |source| CertsError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        let why = format!("it has more than {FILE_BYTES_MAX} bytes");
        return Err(CertsError::Ca { path: path.to_owned(), why });
    }
    std::fs::read(path).map_err(failed)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertsError> {
    let pieces = x509::split(&read(path)?).into_iter().filter_map(|piece| match piece {
        Piece::Certificate(der) => Some(der),
        _ => None,
    });
    Ok(pieces.collect())
}

fn read_key(path: &Path) -> Result<KeyPair, CertsError> {
    let unusable = || {
        CertsError::Ca {
        path: path.to_owned(),
        why: "no key in it can sign: give an unencrypted P-256, P-384 or RSA key (`openssl pkcs8 -topk8 -nocrypt -in FILE` \
              converts one)"
            .to_owned(),
    }
    };
    let der = PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| unusable())?;
    match &der {
        PrivateKeyDer::Pkcs8(key) => KeyPair::try_from(key).map_err(|_| unusable()),
        PrivateKeyDer::Sec1(key) => {
            let wrapped = CURVES.map(|curve| pkcs8(key.secret_sec1_der(), curve));
            let mut pairs = wrapped.iter().filter_map(|der| KeyPair::try_from(der).ok());
            pairs.next().ok_or_else(unusable)
        }
        _ => Err(unusable()),
    }
}

/// DER of the algorithm identifiers of keys on P-256 and P-384 (RFC 5480 2.1.1).
const CURVES: [&[u8]; 2] = [
    b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
    b"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22",
];

/// A key of SEC1 in the wrapping of PKCS#8 (RFC 5208 5): ring reads no other.
fn pkcs8(sec1: &[u8], curve: &[u8]) -> PrivatePkcs8KeyDer<'static> {
    let key = tagged(0x04, sec1);
    let version = b"\x02\x01\x00".as_slice();
    PrivatePkcs8KeyDer::from(tagged(0x30, &[version, curve, &key].concat()))
}

/// DER: tag, length, content (of less than 64 KiB: a file has no more than some).
fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let head = match content.len() {
        0..0x80 => vec![tag, low],
        0x80..0x100 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [head.as_slice(), content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::Curve;

    #[test]
    fn a_key_of_sec1_is_the_key_that_it_was() {
        for (curve, identifier) in [(Curve::P256, CURVES[0]), (Curve::P384, CURVES[1])] {
            let pair = curve.key().unwrap();
            let whole = pair.serialize_der();
            let at = whole.windows(identifier.len()).position(|part| part == identifier).unwrap();
            // Behind it: the OCTET STRING with the key, its tag and its length of one or two bytes.
            let behind = &whole[at + identifier.len()..];
            let head = if behind[1] == 0x81 { 3 } else { 2 };
            let again = KeyPair::try_from(&pkcs8(&behind[head..], identifier)).unwrap();
            assert_eq!(again.public_key_raw(), pair.public_key_raw());
            let other = CURVES.into_iter().find(|other| *other != identifier).unwrap();
            assert!(KeyPair::try_from(&pkcs8(&behind[head..], other)).is_err());
        }
    }

    #[test]
    fn lengths_are_written_as_der_wants_them() {
        for (length, head) in [
            (0, vec![4, 0]),
            (127, vec![4, 127]),
            (128, vec![4, 0x81, 128]),
            (255, vec![4, 0x81, 255]),
            (256, vec![4, 0x82, 1, 0]),
            (65_535, vec![4, 0x82, 255, 255]),
        ] {
            let content = vec![7; length];
            assert_eq!(tagged(4, &content), [head, content].concat());
        }
    }
}
