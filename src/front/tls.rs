//! TLS towards devices: our certificate, and asking for theirs.
//!
//! Owns: loading and checking the server's certificate chain and key; the rustls configuration.
//! Invariants:
//! - A client certificate is asked for, not required, and not judged here: certificate and token devices share the
//!   port, and a refusal at CONNECT can say why in words. What *is* checked here, in every full handshake, is that the
//!   client holds the private key of the certificate that it presents (CertificateVerify): `auth` relies on it.
//! - What a client presents is bounded: [`CHAIN_MAX`] certificates, [`CHAIN_BYTES_MAX`] bytes.
//! - The certificate is served with SNI, with another SNI, and without (wolfSSL builds of the C SDK send none,
//!   iothub-protocol.md E). The list of CA names in the CertificateRequest is empty: some stacks filter by it.
//!
//! Must not know: the trust bundle, MQTT.
//!
//! # Session resumption
//!
//! On, statefully: [`SESSIONS_MAX`] sessions in memory, nothing of ours in the ticket, no 0-RTT. It is safe with the
//! decision at CONNECT: rustls keeps the client's certificates with the session and hands them out again, so that a
//! resumed client goes through the same judgement as of *now* (validity, bundle, scope); only the proof of possession
//! is taken from the handshake that made the session. It saves a reconnecting fleet our ECDSA signature each (2.7 ms
//! of a Raspberry Pi 4). A new configuration (new certificate) starts with an empty cache. One ticket a handshake, as
//! a device keeps one connection. Worst case: 1,024 sessions x 16 KiB of certificates = 16 MiB; with Sphere's leaf
//! alone, about 1 MiB.
//!
//! # Cipher suites
//!
//! TLS 1.3 and 1.2 (ECDHE with ECDSA or RSA; AES-GCM and ChaCha20-Poly1305). The client's order decides (rustls'
//! default, kept) where this processor has AES instructions. Where it has none, as a Raspberry Pi 4's, ours does:
//! ChaCha20-Poly1305 whenever the client offers it. The processor is asked at run time: a program that took AES for
//! granted would die there of an illegal instruction (`lib.rs` refuses to be built so).

mod identity;
pub(super) mod presented;

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, ServerSessionMemoryCache};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CipherSuite, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

pub use self::identity::{
    ServerChain, ServerIdentity, ServerIdentityError, Warning, load_server_identity,
};
use self::presented::Reason;
use crate::auth::bundle::CHAIN_MAX;

/// Most bytes of certificates that a client may present. Azure Sphere holds at most 8 KiB.
pub const CHAIN_BYTES_MAX: usize = 16 * 1024;
/// Most sessions that are kept for resumption.
pub const SESSIONS_MAX: usize = 1024;

/// Asks for a client certificate, checks possession of its key, leaves the rest to `auth`.
#[derive(Debug)]
struct PossessionOnly {
    algorithms: WebPkiSupportedAlgorithms,
    asks: Asks,
}

/// Whether clients are asked for a certificate (`ClientCertAuthEnabled`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// Asked; they need not have one.
    Certificates,
    /// Not asked: they log in with tokens.
    Nothing,
}

impl ClientCertVerifier for PossessionOnly {
    fn offer_client_auth(&self) -> bool {
        self.asks == Asks::Certificates
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let bytes = end_entity.len() + intermediates.iter().map(|c| c.len()).sum::<usize>();
        if intermediates.len() >= CHAIN_MAX || bytes > CHAIN_BYTES_MAX {
            let certificates = intermediates.len() + 1;
            return Err(Reason::TooLong { certificates, bytes }.of(end_entity));
        }
        ParsedCertificate::try_from(end_entity)
            .map_err(|e| Reason::Malformed(e.to_string()).of(end_entity))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
            .map_err(|e| Reason::Possession(e).of(cert))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
            .map_err(|e| Reason::Possession(e).of(cert))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The configuration for accepting devices with `identity`. Each call starts an empty session cache.
pub fn server_config(identity: &ServerIdentity, asks: Asks) -> Arc<ServerConfig> {
    config_for(identity, asks, has_aes())
}

/// Whether this processor has instructions for AES.
#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

/// Whether this processor has instructions for AES.
#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

/// Nothing is known: as if there were.
#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
fn has_aes() -> bool {
    true
}

fn config_for(identity: &ServerIdentity, asks: Asks, has_aes: bool) -> Arc<ServerConfig> {
    let mut provider = ring::default_provider();
    if !has_aes {
        // Stable: within each kind the order stays, and TLS 1.3 comes before 1.2 in any case.
        provider.cipher_suites.sort_by_key(|suite| !is_chacha20(suite.suite()));
    }
    let provider = Arc::new(provider);
    let algorithms = provider.signature_verification_algorithms;
    let verifier = PossessionOnly { algorithms, asks };
    // One certificate for every client: SNI does not select.
    let resolver = SingleCertAndKey::from(identity.certified_key());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the ring provider has cipher suites for TLS 1.2 and 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(resolver));
    config.ignore_client_order = !has_aes;
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
    config.send_tls13_tickets = 1;
    Arc::new(config)
}

fn is_chacha20(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
    )
}

#[cfg(test)]
mod tests;
