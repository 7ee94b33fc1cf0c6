//! Keys, certificates and revocation lists, signed as asked, however wrong.
//!
//! Owns: [`Key`], [`Spec`] (a certificate field by field), [`Ca`], [`ListSpec`]. Keys are minted at test time.
//! Must not know: verdicts.

use std::sync::LazyLock;

use rcgen::{KeyPair, SigningKey as _};
use rsa::traits::PublicKeyParts as _;
use rsa::{Pkcs1v15Sign, RsaPrivateKey};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::der::{bits, boolean, flags, integer, octets, oid, seq, set, time, tlv};
use crate::auth::testing::NOW;

pub(super) const ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";
pub(super) const ECDSA_SHA384: &str = "1.2.840.10045.4.3.3";
pub(super) const ED25519: &str = "1.3.101.112";
pub(super) const RSA_SHA256: &str = "1.2.840.113549.1.1.11";
pub(super) const RSA_SHA1: &str = "1.2.840.113549.1.1.5";
pub(super) const P256: &str = "1.2.840.10045.3.1.7";
pub(super) const P384: &str = "1.3.132.0.34";
pub(super) const P521: &str = "1.3.132.0.35";
pub(super) const SECP256K1: &str = "1.3.132.0.10";

pub(super) const DAY: i64 = 86_400;

/// A time, in seconds from the cases' now.
pub(super) fn at(offset: i64) -> i64 {
    i64::try_from(NOW.as_secs()).unwrap() + offset
}

enum Signer {
    Ring(Box<KeyPair>),
    /// With SHA-1 or a short modulus, which ring does not sign.
    Rsa {
        key: Box<RsaPrivateKey>,
        sha1: bool,
    },
    /// A made-up key: what it signs is noise.
    Nobody,
}

/// A key pair, or the picture of one.
pub(super) struct Key {
    signer: Signer,
    pub(super) spki: Vec<u8>,
    /// AlgorithmIdentifier of its signatures.
    pub(super) algorithm: Vec<u8>,
}

/// An EC key's SubjectPublicKeyInfo.
pub(super) fn ec_spki(curve: &str, point: &[u8]) -> Vec<u8> {
    seq(&[&seq(&[&oid("1.2.840.10045.2.1"), &oid(curve)]), &bits(point)])
}

/// An RSA key's, with a modulus that nobody knows the factors of.
pub(super) fn rsa_spki(modulus_bits: usize, exponent: &[u8]) -> Vec<u8> {
    let mut modulus = vec![0xa5; modulus_bits / 8];
    modulus[0] = 0x80 | 0x25;
    *modulus.last_mut().unwrap() = 0x0d;
    rsa_spki_of(&modulus, exponent)
}

fn rsa_spki_of(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let modulus = [&[0], modulus].concat();
    let key = seq(&[&integer(&modulus), &integer(exponent)]);
    seq(&[&seq(&[&oid("1.2.840.113549.1.1.1"), &[5, 0]]), &bits(&key)])
}

impl Key {
    fn ec(algorithm: &'static rcgen::SignatureAlgorithm, curve: &str, signature: &str) -> Self {
        let pair = KeyPair::generate_for(algorithm).unwrap();
        let spki = ec_spki(curve, pair.public_key_raw());
        Self { signer: Signer::Ring(Box::new(pair)), spki, algorithm: seq(&[&oid(signature)]) }
    }

    pub(super) fn p256() -> Self {
        Self::ec(&rcgen::PKCS_ECDSA_P256_SHA256, P256, ECDSA_SHA256)
    }

    pub(super) fn p384() -> Self {
        Self::ec(&rcgen::PKCS_ECDSA_P384_SHA384, P384, ECDSA_SHA384)
    }

    pub(super) fn ed25519() -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let spki = seq(&[&seq(&[&oid(ED25519)]), &bits(pair.public_key_raw())]);
        Self { signer: Signer::Ring(Box::new(pair)), spki, algorithm: seq(&[&oid(ED25519)]) }
    }

    pub(super) fn rsa(modulus_bits: usize, sha1: bool) -> Self {
        let key = RsaPrivateKey::new(&mut rsa::rand_core::OsRng, modulus_bits).unwrap();
        let spki = rsa_spki_of(&key.n().to_bytes_be(), &[1, 0, 1]);
        let algorithm = seq(&[&oid(if sha1 { RSA_SHA1 } else { RSA_SHA256 }), &[5, 0]]);
        Self { signer: Signer::Rsa { key: Box::new(key), sha1 }, spki, algorithm }
    }

    /// The same key, signing with SHA-1.
    pub(super) fn with_sha1(&self) -> Self {
        let Signer::Rsa { key, .. } = &self.signer else { panic!("RSA alone has SHA-1 here") };
        let algorithm = seq(&[&oid(RSA_SHA1), &[5, 0]]);
        Self {
            signer: Signer::Rsa { key: key.clone(), sha1: true },
            spki: self.spki.clone(),
            algorithm,
        }
    }

    pub(super) fn nobodys(spki: Vec<u8>, signature: &str) -> Self {
        Self { signer: Signer::Nobody, spki, algorithm: seq(&[&oid(signature)]) }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.signer {
            Signer::Ring(pair) => pair.sign(message).unwrap(),
            Signer::Nobody => seq(&[&integer(&[0x55; 32]), &integer(&[0x33; 32])]),
            Signer::Rsa { key, sha1 } => {
                let (hash, oid_of, digest) = if *sha1 {
                    (20, "1.3.14.3.2.26", Sha1::digest(message).to_vec())
                } else {
                    (32, "2.16.840.1.101.3.4.2.1", Sha256::digest(message).to_vec())
                };
                // DigestInfo without the digest itself.
                let info = seq(&[&seq(&[&oid(oid_of), &[5, 0]]), &octets(&digest)]);
                let prefix = info[..info.len() - hash].into();
                key.sign(Pkcs1v15Sign { hash_len: Some(hash), prefix }, &digest).unwrap()
            }
        }
    }
}

/// Keys that most cases share: they differ in what is signed, not by whom.
pub(super) static ROOT_KEY: LazyLock<Key> = LazyLock::new(Key::p256);
pub(super) static POLICY_KEY: LazyLock<Key> = LazyLock::new(Key::p384);
pub(super) static LOWER_KEY: LazyLock<Key> = LazyLock::new(Key::p256);
pub(super) static STRANGE_KEY: LazyLock<Key> = LazyLock::new(Key::p256);
pub(super) static DEVICE_KEY: LazyLock<Key> = LazyLock::new(Key::p256);
pub(super) static RSA_KEY: LazyLock<Key> = LazyLock::new(|| Key::rsa(2048, false));

/// A name: RDNs, each with its attributes as (OID, string tag, bytes).
pub(super) fn name(rdns: &[&[(&str, u8, &[u8])]]) -> Vec<u8> {
    let rdn = |attributes: &&[(&str, u8, &[u8])]| {
        let attributes: Vec<Vec<u8>> =
            attributes.iter().map(|(id, tag, text)| seq(&[&oid(id), &tlv(*tag, text)])).collect();
        set(&attributes.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    let rdns: Vec<Vec<u8>> = rdns.iter().map(rdn).collect();
    seq(&rdns.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

pub(super) const CN: &str = "2.5.4.3";
pub(super) const UTF8: u8 = 0x0c;

/// `CN=text`.
pub(super) fn cn(text: &str) -> Vec<u8> {
    name(&[&[(CN, UTF8, text.as_bytes())]])
}

pub(super) fn extension(id: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let flag = if critical { boolean(true) } else { Vec::new() };
    seq(&[&oid(id), &flag, &octets(value)])
}

/// basicConstraints.
pub(super) fn basic(ca: bool, path_len: Option<u8>) -> Vec<u8> {
    let ca = if ca { boolean(true) } else { Vec::new() };
    let path_len = path_len.map_or(Vec::new(), |n| integer(&[n]));
    extension("2.5.29.19", true, &seq(&[&ca, &path_len]))
}

/// keyUsage: digitalSignature is 0, keyCertSign 5, cRLSign 6.
pub(super) fn key_usage(set: &[u8]) -> Vec<u8> {
    extension("2.5.29.15", true, &flags(set))
}

pub(super) const CLIENT: &str = "1.3.6.1.5.5.7.3.2";

/// extKeyUsage.
pub(super) fn purposes(critical: bool, purposes: &[&str]) -> Vec<u8> {
    let purposes: Vec<Vec<u8>> = purposes.iter().map(|p| oid(p)).collect();
    let purposes: Vec<&[u8]> = purposes.iter().map(Vec::as_slice).collect();
    extension("2.5.29.37", critical, &seq(&purposes))
}

/// subjectAltName of general names in DER.
pub(super) fn alt_names(names: &[Vec<u8>]) -> Vec<u8> {
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    extension("2.5.29.17", false, &seq(&names))
}

pub(super) fn dns(name: &str) -> Vec<u8> {
    tlv(0x82, name.as_bytes())
}

/// A certificate, field by field.
#[derive(Clone)]
pub(super) struct Spec {
    /// `None`: the field is left out, which is version 1. 2 is version 3.
    pub(super) version: Option<u8>,
    pub(super) serial: Vec<u8>,
    /// tbsCertificate.signature, when it is not that of the signer.
    pub(super) inner_algorithm: Option<Vec<u8>>,
    pub(super) issuer: Vec<u8>,
    pub(super) from: i64,
    pub(super) to: i64,
    /// The two times as they are written, when not as they should be.
    pub(super) times: Option<[Vec<u8>; 2]>,
    pub(super) subject: Vec<u8>,
    pub(super) spki: Vec<u8>,
    /// What stands between the key and the extensions.
    pub(super) unique_ids: Vec<u8>,
    pub(super) extensions: Vec<Vec<u8>>,
    /// What follows the extensions within the signed part.
    pub(super) tail: Vec<u8>,
}

impl Spec {
    fn plain(issuer: Vec<u8>, subject: Vec<u8>, spki: &[u8], extensions: Vec<Vec<u8>>) -> Self {
        Self {
            version: Some(2),
            serial: vec![0x11, 0x22],
            inner_algorithm: None,
            issuer,
            from: at(-DAY),
            to: at(DAY),
            times: None,
            subject,
            spki: spki.to_vec(),
            unique_ids: Vec::new(),
            extensions,
            tail: Vec::new(),
        }
    }

    /// A device's, as Azure Sphere has it: digitalSignature, clientAuth.
    pub(super) fn leaf(issuer: &Ca, id: &str) -> Self {
        let usage = vec![key_usage(&[0]), purposes(false, &[CLIENT])];
        Self::plain(issuer.name.clone(), cn(id), &DEVICE_KEY.spki, usage)
    }

    /// A CA's: basicConstraints, keyCertSign, cRLSign.
    pub(super) fn ca(issuer: Vec<u8>, subject: Vec<u8>, spki: &[u8]) -> Self {
        Self::plain(issuer, subject, spki, vec![basic(true, None), key_usage(&[5, 6])])
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The part that is signed.
    pub(super) fn tbs(&self, algorithm: &[u8]) -> Vec<u8> {
        let version = self.version.map_or(Vec::new(), |v| tlv(0xa0, &integer(&[v])));
        let [from, to] = self.times.clone().unwrap_or([time(self.from), time(self.to)]);
        let parts: Vec<&[u8]> = self.extensions.iter().map(Vec::as_slice).collect();
        let extensions = if parts.is_empty() { Vec::new() } else { tlv(0xa3, &seq(&parts)) };
        seq(&[
            &version,
            &integer(&self.serial),
            self.inner_algorithm.as_deref().unwrap_or(algorithm),
            &self.issuer,
            &seq(&[&from, &to]),
            &self.subject,
            &self.spki,
            &self.unique_ids,
            &extensions,
            &self.tail,
        ])
    }

    pub(super) fn sign(&self, key: &Key) -> Vec<u8> {
        signed(&self.tbs(&key.algorithm), key)
    }
}

/// Signed part, algorithm, signature: what certificates and lists are.
pub(super) fn signed(tbs: &[u8], key: &Key) -> Vec<u8> {
    seq(&[tbs, &key.algorithm, &bits(&key.sign(tbs))])
}

/// A CA: its name, key and certificate.
#[derive(Clone)]
pub(super) struct Ca {
    pub(super) name: Vec<u8>,
    pub(super) key: &'static Key,
    pub(super) der: Vec<u8>,
}

impl Ca {
    pub(super) fn root(text: &str, key: &'static Key) -> Self {
        Self::root_with(text, key, |_| ())
    }

    pub(super) fn root_with(text: &str, key: &'static Key, change: impl FnOnce(&mut Spec)) -> Self {
        let name = cn(text);
        let der = Spec::ca(name.clone(), name.clone(), &key.spki).with(change).sign(key);
        Self { name, key, der }
    }

    pub(super) fn below(&self, text: &str, key: &'static Key) -> Self {
        self.below_with(text, key, |_| ())
    }

    pub(super) fn below_with(
        &self,
        text: &str,
        key: &'static Key,
        change: impl FnOnce(&mut Spec),
    ) -> Self {
        let name = cn(text);
        let spec = Spec::ca(self.name.clone(), name.clone(), &key.spki).with(change);
        Self { name: spec.subject.clone(), key, der: spec.sign(self.key) }
    }

    /// A device's certificate of this CA.
    pub(super) fn leaf(&self, id: &str) -> Vec<u8> {
        Spec::leaf(self, id).sign(self.key)
    }

    pub(super) fn leaf_with(&self, id: &str, change: impl FnOnce(&mut Spec)) -> Vec<u8> {
        Spec::leaf(self, id).with(change).sign(self.key)
    }
}

/// The CA of most cases.
pub(super) static ROOT: LazyLock<Ca> = LazyLock::new(|| Ca::root("Tenant", &ROOT_KEY));

/// A revocation list, field by field.
#[derive(Clone)]
pub(super) struct ListSpec {
    /// `None`: version 1.
    pub(super) version: Option<u8>,
    pub(super) inner_algorithm: Option<Vec<u8>>,
    pub(super) issuer: Vec<u8>,
    pub(super) this_update: i64,
    pub(super) next_update: Option<i64>,
    /// Entries in DER; `None`: the field is left out.
    pub(super) entries: Option<Vec<Vec<u8>>>,
    pub(super) extensions: Vec<Vec<u8>>,
}

/// An entry: serial number, day of revocation, extensions.
pub(super) fn entry(serial: &[u8], extensions: &[&[u8]]) -> Vec<u8> {
    let extensions = if extensions.is_empty() { Vec::new() } else { seq(extensions) };
    seq(&[&integer(serial), &time(at(-3600)), &extensions])
}

pub(super) fn reason(code: u8) -> Vec<u8> {
    extension("2.5.29.21", false, &[0x0a, 1, code])
}

/// cRLNumber.
pub(super) fn number(n: u8) -> Vec<u8> {
    extension("2.5.29.20", false, &integer(&[n]))
}

impl ListSpec {
    /// `issuer`'s list, one day old, that revokes these serial numbers.
    pub(super) fn of(issuer: &Ca, serials: &[&[u8]]) -> Self {
        let entries: Vec<_> = serials.iter().map(|serial| entry(serial, &[])).collect();
        Self {
            version: Some(1),
            inner_algorithm: None,
            issuer: issuer.name.clone(),
            this_update: at(-DAY),
            next_update: Some(at(DAY)),
            entries: (!entries.is_empty()).then_some(entries),
            extensions: vec![number(1)],
        }
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(super) fn sign(&self, key: &Key) -> Vec<u8> {
        let version = self.version.map_or(Vec::new(), |v| integer(&[v]));
        let entries = self.entries.as_ref().map_or(Vec::new(), |entries| {
            seq(&entries.iter().map(Vec::as_slice).collect::<Vec<_>>())
        });
        let parts: Vec<&[u8]> = self.extensions.iter().map(Vec::as_slice).collect();
        let extensions = if parts.is_empty() { Vec::new() } else { tlv(0xa0, &seq(&parts)) };
        let tbs = seq(&[
            &version,
            self.inner_algorithm.as_deref().unwrap_or(&key.algorithm),
            &self.issuer,
            &time(self.this_update),
            &self.next_update.map_or(Vec::new(), time),
            &entries,
            &extensions,
        ]);
        signed(&tbs, key)
    }
}
