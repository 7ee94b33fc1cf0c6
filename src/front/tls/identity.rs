//! The server's certificate chain and key: loaded, and checked before a device has to find out.
//!
//! Owns: what is an error (we could not serve at all, or no client could follow the chain) and what is a warning.
//! Invariant: the key shows nowhere. Must not know: the TLS configuration.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, ring};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use webpki::EndEntityCert;

use crate::auth::x509::{self, CertificateInfo, Piece, Validity};
use crate::clock::UnixMillis;

/// Our certificate chain and key, checked.
#[derive(Clone)]
pub struct ServerIdentity {
    key: Arc<CertifiedKey>,
    chain: ServerChain,
}

/// A server's certificates, checked without their key: what devices see.
#[derive(Debug, Clone)]
pub struct ServerChain {
    certificates: Vec<CertificateDer<'static>>,
    leaf: CertificateInfo,
    warnings: Vec<Warning>,
}

/// The key stays out of logs.
impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIdentity")
            .field("leaf", &self.chain.leaf.subject)
            .field("certificates", &self.key.cert.len())
            .field("warnings", &self.chain.warnings)
            .finish_non_exhaustive()
    }
}

/// Something about the server's certificate that devices will probably not accept. Not an error: the backlog must
/// flow to the hub although no device can connect, and a clock that is wrong at boot must not keep us down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// Another name.
    #[error(
        "the server certificate is not for {name:?} (its names: {}): devices that connect to that name will refuse it; \
         make one with this name as DNS SAN",
        if .has.is_empty() { "none".to_owned() } else { .has.join(", ") }
    )]
    Name {
        /// The gateway's host name.
        name: String,
        /// What the certificate is for.
        has: Vec<String>,
    },
    /// Its time is over.
    #[error("server certificate {subject} expired on {}: devices will refuse it; renew it", x509::utc(*.since))]
    Expired {
        /// Which.
        subject: String,
        /// `notAfter`.
        since: UnixMillis,
    },
    /// Its time has not come.
    #[error("server certificate {subject} is valid only from {}: is this machine's clock right?", x509::utc(*.from))]
    NotYetValid {
        /// Which.
        subject: String,
        /// `notBefore`.
        from: UnixMillis,
    },
    /// A leaf alone, issued by somebody else.
    #[error(
        "the server chain is the leaf alone: devices must hold its issuer {issuer} as root; if that is an intermediate \
         (an edge CA), append its certificate to the file"
    )]
    LeafAlone {
        /// The leaf's issuer.
        issuer: String,
    },
    /// Something that clients may refuse.
    #[error("strict clients will refuse the server certificate: {0}")]
    Unusual(String),
}

/// Why the server's certificate cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ServerIdentityError {
    /// A file cannot be read.
    #[error("cannot read the server's {what} {path}: {source}", path = path.display())]
    Read {
        /// `certificate chain` or `private key`.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate of the chain is damaged.
    #[error("certificate #{place} of the server's chain cannot be used: {reason}")]
    Certificate {
        /// Its place in the file, from 1.
        place: usize,
        /// Why.
        reason: String,
    },
    /// No private key, or an encrypted one.
    #[error(
        "the key file holds no private key that can be read: give an unencrypted PEM key (PKCS#8, SEC1 or PKCS#1); \
         `openssl pkey -in FILE` decrypts one"
    )]
    NoKey,
    /// A kind of key that we do not take.
    #[error(
        "the server's private key cannot be used ({0}): take P-256, P-384 or RSA of 2048 bits and more"
    )]
    Key(String),
    /// The leaf is not at the top of the file.
    #[error(
        "the server's chain is out of order: the key belongs to certificate #{place} of the file; put that one first, \
         then the CA that signed it, and so on"
    )]
    LeafNotFirst {
        /// Where the leaf is, from 1.
        place: usize,
    },
    /// As [`Self::LeafNotFirst`], told by the certificates alone.
    #[error(
        "the server's chain is out of order: #1 is {first}, which signs others; the server's own certificate is #{place} of \
         the file; put that one first, then the CA that signed it, and so on"
    )]
    CaFirst {
        /// What is first.
        first: String,
        /// Where the leaf is, from 1.
        place: usize,
    },
    /// Key and certificate do not belong together.
    #[error(
        "the server's private key does not belong to its certificate {subject}: give the key that was made with it"
    )]
    KeyMismatch {
        /// The leaf.
        subject: String,
    },
    /// The issuer is in the file, but not next.
    #[error(
        "the server's chain is out of order: #{place} was signed by {issuer}, which is #{found} of the file; each \
         certificate must be followed by the CA that signed it (Azure Sphere's TLS does not sort)"
    )]
    Order {
        /// The certificate, from 1.
        place: usize,
        /// Its issuer.
        issuer: String,
        /// Where that is, from 1.
        found: usize,
    },
    /// The issuer is not in the file, but something else follows.
    #[error(
        "the server's chain is incomplete: #{place} was signed by {issuer}, but {next} follows; put {issuer}'s \
         certificate there, or take out what does not belong to the chain"
    )]
    Gap {
        /// The certificate, from 1.
        place: usize,
        /// Its issuer.
        issuer: String,
        /// What follows.
        next: String,
    },
    /// A signature does not fit.
    #[error(
        "the server's chain does not hold: a CA in it has the right name but another key ({0}): take the CA \
         certificate that was in force when the server certificate was issued"
    )]
    Signature(String),
}

/// Loads the chain (PEM, leaf first, complete) and the key (PEM), and checks them. `gateway_name` is what devices
/// connect to.
pub fn load_server_identity(
    chain_path: &Path,
    key_path: &Path,
    gateway_name: &str,
    now: UnixMillis,
) -> Result<ServerIdentity, ServerIdentityError> {
    let read = |what, path: &Path| {
        std::fs::read(path).map_err(|source| ServerIdentityError::Read {
            what,
            path: path.to_owned(),
            source,
        })
    };
    let chain = read("certificate chain", chain_path)?;
    let key = read("private key", key_path)?;
    ServerIdentity::from_pem(&chain, &key, gateway_name, now)
}

impl ServerIdentity {
    /// As [`load_server_identity`], from memory.
    pub fn from_pem(
        chain_pem: &[u8],
        key_pem: &[u8],
        gateway_name: &str,
        now: UnixMillis,
    ) -> Result<Self, ServerIdentityError> {
        let (chain, infos) = read_chain(chain_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| ServerIdentityError::NoKey)?;
        let provider = ring::default_provider();
        let key = certified_key(&provider, chain, key, &infos)?;
        let chain = ServerChain::judge(key.cert.clone(), infos, Some(gateway_name), now)?;
        Ok(Self { key: Arc::new(key), chain })
    }

    /// Chain and key, for rustls.
    pub(super) fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }

    /// What devices see of it.
    pub fn seen(&self) -> &ServerChain {
        &self.chain
    }

    /// The server's own certificate: subject, validity, thumbprints.
    pub fn leaf(&self) -> &CertificateInfo {
        self.chain.leaf()
    }

    /// What devices are shown, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        self.chain.certificates()
    }

    /// What devices will probably not accept.
    pub fn warnings(&self) -> &[Warning] {
        self.chain.warnings()
    }
}

impl ServerChain {
    /// Checks a chain (PEM, leaf first) as [`ServerIdentity::from_pem`] does, but for the key; without a name, for none.
    pub fn from_pem(
        chain_pem: &[u8],
        gateway_name: Option<&str>,
        now: UnixMillis,
    ) -> Result<Self, ServerIdentityError> {
        let (certificates, infos) = read_chain(chain_pem)?;
        Self::judge(certificates, infos, gateway_name, now)
    }

    fn judge(
        certificates: Vec<CertificateDer<'static>>,
        infos: Vec<CertificateInfo>,
        gateway_name: Option<&str>,
        now: UnixMillis,
    ) -> Result<Self, ServerIdentityError> {
        check_order(&certificates, &infos)?;
        let mut warnings = Vec::new();
        check_signatures(&certificates, &infos, &mut warnings)?;
        check_validity(&infos, now, &mut warnings);
        if let Some(name) = gateway_name {
            check_name(&certificates[0], name, &mut warnings);
        }
        if let [leaf] = &infos[..]
            && !leaf.self_issued
        {
            warnings.push(Warning::LeafAlone { issuer: leaf.issuer.clone() });
        }
        let leaf = infos.into_iter().next().expect("read_chain gives at least one");
        Ok(Self { certificates, leaf, warnings })
    }

    /// The first certificate: subject, validity, thumbprints.
    pub fn leaf(&self) -> &CertificateInfo {
        &self.leaf
    }

    /// All of them, leaf first.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// What devices will probably not accept.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

type Chain = (Vec<CertificateDer<'static>>, Vec<CertificateInfo>);

fn read_chain(pem: &[u8]) -> Result<Chain, ServerIdentityError> {
    let mut chain = Vec::new();
    let mut infos = Vec::new();
    for (index, piece) in x509::split(pem).into_iter().enumerate() {
        let place = index + 1;
        let failed = |reason| ServerIdentityError::Certificate { place, reason };
        match piece {
            // Some files hold the key with the chain: it is read from the key's path, if that names this file.
            Piece::PrivateKey => {}
            Piece::Unusable(reason) => return Err(failed(reason)),
            Piece::RevocationList(_) => {
                return Err(failed("it is a revocation list, and no certificate".to_owned()));
            }
            Piece::Certificate(der) => {
                infos.push(CertificateInfo::read(&der).map_err(|e| failed(e.to_string()))?);
                chain.push(der);
            }
        }
    }
    if chain.is_empty() {
        let reason = "the file holds no certificate".to_owned();
        return Err(ServerIdentityError::Certificate { place: 1, reason });
    }
    Ok((chain, infos))
}

/// Loads the key and finds out which certificate it belongs to: that must be the first.
fn certified_key(
    provider: &CryptoProvider,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    infos: &[CertificateInfo],
) -> Result<CertifiedKey, ServerIdentityError> {
    let signing = provider
        .key_provider
        .load_private_key(key)
        .map_err(|e| ServerIdentityError::Key(e.to_string()))?;
    let place = chain.iter().position(|certificate| {
        let alone = CertifiedKey::new(vec![certificate.clone()], Arc::clone(&signing));
        alone.keys_match().is_ok()
    });
    match place {
        Some(0) => Ok(CertifiedKey::new(chain, signing)),
        Some(index) => Err(ServerIdentityError::LeafNotFirst { place: index + 1 }),
        None => Err(ServerIdentityError::KeyMismatch { subject: infos[0].subject.clone() }),
    }
}

/// Each certificate is followed by its issuer.
fn check_order(
    certificates: &[CertificateDer<'_>],
    infos: &[CertificateInfo],
) -> Result<(), ServerIdentityError> {
    for (index, pair) in infos.windows(2).enumerate() {
        let (this, next) = (&pair[0], &pair[1]);
        if this.issuer == next.subject {
            continue;
        }
        if let Some(place) = later_leaf(certificates, infos) {
            return Err(ServerIdentityError::CaFirst { first: infos[0].subject.clone(), place });
        }
        let place = index + 1;
        let issuer = this.issuer.clone();
        let elsewhere = infos.iter().position(|c| c.subject == this.issuer);
        return Err(match elsewhere {
            Some(found) if found != index => {
                ServerIdentityError::Order { place, issuer, found: found + 1 }
            }
            _ => ServerIdentityError::Gap { place, issuer, next: next.subject.clone() },
        });
    }
    Ok(())
}

/// Where the leaf is, from 1, if the first certificate is a CA's: what is no CA, else what signed none of the others.
fn later_leaf(certificates: &[CertificateDer<'_>], infos: &[CertificateInfo]) -> Option<usize> {
    let signs = |at: usize| {
        let by_it = |c: &CertificateInfo| !c.self_issued && c.issuer == infos[at].subject;
        infos.iter().any(by_it)
    };
    if !signs(0) && !x509::is_ca(&certificates[0]) {
        return None;
    }
    let later = 1..infos.len();
    let leaf = later.clone().find(|at| !signs(*at) && !x509::is_ca(&certificates[*at]));
    leaf.or_else(|| later.clone().find(|at| !signs(*at))).map(|at| at + 1)
}

/// Signatures and usages, as a strict client would check them if it trusted the last certificate of the chain.
fn check_signatures(
    chain: &[CertificateDer<'_>],
    infos: &[CertificateInfo],
    warnings: &mut Vec<Warning>,
) -> Result<(), ServerIdentityError> {
    let [leaf, intermediates @ .., last] = chain else {
        return Ok(());
    };
    // Within the validity of all of them if there is such a time: validity is checked apart, against `now`.
    let start = infos.iter().map(|c| c.not_before.as_secs()).max().unwrap_or_default();
    let checked = webpki::anchor_from_trusted_cert(last).and_then(|anchor| {
        EndEntityCert::try_from(leaf)?
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &[anchor],
                intermediates,
                UnixTime::since_unix_epoch(Duration::from_secs(start)),
                webpki::KeyUsage::server_auth(),
                None,
                None,
            )
            .map(|_| ())
    });
    match checked {
        Ok(()) | Err(webpki::Error::CertExpired { .. }) => Ok(()),
        Err(
            e @ (webpki::Error::InvalidSignatureForPublicKey
            | webpki::Error::SignatureAlgorithmMismatch
            | webpki::Error::UnknownIssuer),
        ) => Err(ServerIdentityError::Signature(e.to_string())),
        Err(e) => {
            warnings.push(Warning::Unusual(e.to_string()));
            Ok(())
        }
    }
}

fn check_validity(infos: &[CertificateInfo], now: UnixMillis, warnings: &mut Vec<Warning>) {
    for info in infos {
        let subject = info.subject.clone();
        match info.validity(now) {
            Validity::Valid => {}
            Validity::Expired => warnings.push(Warning::Expired { subject, since: info.not_after }),
            Validity::NotYet => {
                warnings.push(Warning::NotYetValid { subject, from: info.not_before });
            }
        }
    }
}

fn check_name(leaf: &CertificateDer<'_>, name: &str, warnings: &mut Vec<Warning>) {
    let Ok(certificate) = EndEntityCert::try_from(leaf) else {
        warnings.push(Warning::Unusual("it is not an X.509 v3 certificate".to_owned()));
        return;
    };
    let fits = ServerName::try_from(name)
        .is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok());
    if !fits {
        let has = certificate.valid_dns_names().map(str::to_owned).collect();
        warnings.push(Warning::Name { name: name.to_owned(), has });
    }
}

#[cfg(test)]
mod tests;
