//! The JSON of the workload API (`edgehub.md` 2.2).
//!
//! Owns: the forms. Invariant: what holds a secret has no `Debug`. Must not know: what is asked for.

use serde::{Deserialize, Serialize};

#[derive(Serialize)]
pub(super) struct Sign<'a> {
    /// The daemon ignores it, and `algo`.
    #[serde(rename = "keyId")]
    pub(super) key_id: &'a str,
    pub(super) algo: &'a str,
    pub(super) data: &'a str,
}

#[derive(Deserialize)]
pub(super) struct Signed {
    pub(super) digest: String,
}

#[derive(Serialize)]
pub(super) struct Encrypt<'a> {
    pub(super) plaintext: &'a str,
    #[serde(rename = "initializationVector")]
    pub(super) initialization_vector: &'a str,
}

#[derive(Deserialize)]
pub(super) struct Encrypted {
    pub(super) ciphertext: String,
}

#[derive(Serialize)]
pub(super) struct Decrypt<'a> {
    pub(super) ciphertext: &'a str,
    #[serde(rename = "initializationVector")]
    pub(super) initialization_vector: &'a str,
}

#[derive(Deserialize)]
pub(super) struct Decrypted {
    pub(super) plaintext: String,
}

#[derive(Serialize)]
pub(super) struct Certificate<'a> {
    #[serde(rename = "commonName")]
    pub(super) common_name: &'a str,
    pub(super) expiration: &'a str,
}

/// `expiration` is not read: the certificate itself says it.
#[derive(Deserialize)]
pub(super) struct Certified {
    #[serde(rename = "privateKey")]
    pub(super) private_key: PrivateKey,
    pub(super) certificate: String,
}

#[derive(Deserialize)]
pub(super) struct PrivateKey {
    /// `key`; `ref` is defined and never used.
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) bytes: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct TrustBundle {
    pub(super) certificate: String,
}

/// How the daemon says no.
#[derive(Deserialize)]
pub(super) struct Refusal {
    pub(super) message: String,
}
