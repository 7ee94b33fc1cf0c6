//! TLS towards the hub: which roots are trusted, and the client configuration.
//!
//! Owns: the root store of the upstream (AMQP, HTTPS). It is another set than the bundle that admits clients, also
//! where one file feeds both as in the reference (edgehub.md 2.4): what counts in the one does not count in the other
//! by itself.
//! Must not know: hosts, tokens.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};

use crate::auth::x509::{CertificateInfo, Piece, split};

/// Why extra roots cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// A certificate in the text is not usable.
    #[error("root certificate #{place} for the hub connection cannot be used: {reason}")]
    Certificate {
        /// Its place in the text, from 1.
        place: usize,
        /// Why.
        reason: String,
    },
}

/// Mozilla's roots (they contain DigiCert Global Root G2, which signs the hub's) and those of `extra` (PEM, or one
/// DER certificate; for a private hub, a parent edge device, or the double of this project). What is not usable is set
/// apart and the others serve.
pub fn roots(extra: Option<&[u8]>) -> (RootCertStore, Vec<RootsError>) {
    let mut store = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let mut refused = Vec::new();
    for (index, piece) in extra.map(split).unwrap_or_default().into_iter().enumerate() {
        if let Err(reason) = add(&mut store, piece) {
            refused.push(RootsError::Certificate { place: index + 1, reason });
        }
    }
    (store, refused)
}

fn add(store: &mut RootCertStore, piece: Piece) -> Result<(), String> {
    match piece {
        Piece::PrivateKey => Err("it is a private key: take it out and keep it secret".to_owned()),
        Piece::Unusable(why) => Err(why),
        Piece::RevocationList(_) => {
            Err("it is a revocation list, which says nothing about the hub".to_owned())
        }
        Piece::Certificate(der) => {
            CertificateInfo::read(&der).map_err(|e| e.to_string())?;
            store.add(der).map_err(|e| e.to_string())
        }
    }
}

/// TLS 1.2 and 1.3 with `roots`, SNI on (the hub selects by it), no client certificate: the hub knows us by our token.
pub fn upstream_config(roots: RootCertStore) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the ring provider has cipher suites for TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::valid;
    use crate::certs::{Authority, Curve};

    #[test]
    fn extra_roots_join_mozilla_s_and_bad_ones_are_named() {
        let usable = |extra: Option<&[u8]>| {
            let (store, refused) = roots(extra);
            assert!(refused.is_empty(), "{refused:?}");
            store
        };
        let common = usable(None).len();
        assert!(common > 50);
        let ca = Authority::root("Hub CA", Curve::P256, valid()).unwrap();
        let pem = ca.certificate_pem().as_bytes();
        let with = usable(Some(pem));
        assert_eq!(with.len(), common + 1);
        upstream_config(with);
        let bad = [pem, b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"].concat();
        let (others, refused) = roots(Some(&bad));
        assert_eq!((others.len(), refused.len()), (common + 1, 1));
        let text = refused[0].to_string();
        assert!(text.starts_with("root certificate #2"), "{text}");
        assert!(!roots(Some(ca.key_pem().as_bytes())).1.is_empty());
        assert!(!roots(Some(b"hello")).1.is_empty());
    }
}
