//! Client certificates (fact sheet A1, C3): TLS asks for one and takes any whose key the peer holds; what it is worth is
//! judged at CONNECT, by thumbprint or by CA.
//!
//! Owns: the trusted CAs. Must not know: who is registered.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Asks for a client certificate, does without one, and takes any.
#[derive(Debug)]
pub(crate) struct AnyCertificate(pub(crate) Arc<CryptoProvider>);

impl ClientCertVerifier for AnyCertificate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No names: a client that knows several certificates chooses for itself.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The CAs that are registered and verified in the hub.
pub(crate) struct Cas(Vec<TrustAnchor<'static>>);

impl std::fmt::Debug for Cas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cas({})", self.0.len())
    }
}

impl Cas {
    /// Certificates in PEM, any number.
    pub(crate) fn parse(pem: &str) -> Result<Self, String> {
        let anchor = |certificate: Result<CertificateDer<'_>, _>| {
            let certificate = certificate.map_err(|error| format!("a CA of devices: {error}"))?;
            let anchor = anchor_from_trusted_cert(&certificate);
            anchor.map(|a| a.to_owned()).map_err(|error| format!("a CA of devices: {error}"))
        };
        let anchors: Result<_, String> =
            CertificateDer::pem_slice_iter(pem.as_bytes()).map(anchor).collect();
        anchors.map(Self)
    }

    /// Whether `chain` (leaf first) is a certificate of `device` by one of the CAs, at this wall time.
    pub(super) fn vouch_for(
        &self,
        device: &str,
        chain: &[CertificateDer<'_>],
        now_ms: i64,
    ) -> Result<(), String> {
        let (leaf, intermediates) = chain.split_first().ok_or("no certificate")?;
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let secs = u64::try_from(now_ms / 1000).unwrap_or_default();
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(secs));
        let client = KeyUsage::client_auth();
        EndEntityCert::try_from(leaf)
            .and_then(|leaf| {
                let roots = &self.0;
                leaf.verify_for_usage(
                    algorithms.all,
                    roots,
                    intermediates,
                    time,
                    client,
                    None,
                    None,
                )
                .map(|_| ())
            })
            .map_err(|error| format!("no chain to a CA of this hub: {error}"))?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
        let name = leaf.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        if name == Some(device) { Ok(()) } else { Err("the common name is another".into()) }
    }
}

/// Whether the leaf has one of these thumbprints and is valid at this wall time; whoever signed it.
pub(super) fn has_thumbprint<'a>(
    thumbprints: impl IntoIterator<Item = &'a str>,
    chain: &[CertificateDer<'_>],
    now_ms: i64,
) -> Result<(), String> {
    let leaf = chain.first().ok_or("no certificate")?;
    let hex = |digest: &[u8]| digest.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let own = [hex(&Sha1::digest(leaf)), hex(&Sha256::digest(leaf))];
    let hit = thumbprints.into_iter().any(|thumbprint| {
        let plain: String = thumbprint.chars().filter(char::is_ascii_hexdigit).collect();
        own.contains(&plain.to_ascii_lowercase())
    });
    if !hit {
        return Err("the certificate has another thumbprint".into());
    }
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
    let validity = leaf.validity();
    let now = now_ms / 1000;
    if now < validity.not_before.timestamp() || now > validity.not_after.timestamp() {
        return Err("the certificate is not valid now".into());
    }
    Ok(())
}
