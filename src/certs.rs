//! Certificates that this program makes: a whole development site (`sphere-gateway certs`, the quickstart, the tests), or
//! one by one what a site keeps (`certs root`, `certs edge-ca` ..). In production devices' certificates come from Azure
//! Sphere, and the server's from the IoT Edge daemon.
//!
//! Owns: CAs, server and client certificates by rcgen, their files, and what a person is told of any certificate.
//! Invariants: private keys show neither in `Debug` nor with more than owner's rights on disk; no key is overwritten
//! unless it was asked for. Must not know: how the gateway uses them.
//!
//! ```text
//!  tenant CA (P-384) -- device certificates (P-256, common name = 128 hex digits, as Azure Sphere's)
//!  edge root (P-256) -- edge CA -- server certificate of the gateway      (devices hold the edge root)
//!  hub CA    (P-256) -- server certificate of the local hub               (the gateway holds the hub CA)
//! ```

pub mod facts;
mod files;
mod issuer;
mod site;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

pub use self::files::replace_public;
use self::files::{PkiFile, write_files};
pub use self::site::{Site, SiteDevice, SiteSpec, mint_site, sphere_like_id};
use crate::clock::UnixMillis;

/// The last second that X.509 can express (RFC 5280 4.1.2.5: 9999-12-31T23:59:59Z), in seconds since 1970.
const TIME_SECS_MAX: u64 = 253_402_300_799;

/// Why a certificate or its file could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// rcgen refused, e.g. a name that is no DNS name.
    #[error("cannot make the certificate for {name:?}: {source}")]
    Make {
        /// The subject.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
    /// A file is there already.
    #[error("{path} exists: choose another folder, or say --force to replace the keys and certificates in it", path = path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// As [`Self::Exists`], of a proof of possession.
    #[error("{path} exists: it is an earlier proof and no key; say --force to write a new one in its place", path = path.display())]
    ProofExists {
        /// Which.
        path: PathBuf,
    },
    /// A file of a CA cannot be read.
    #[error(
        "cannot read {path}: {source}; make the CA first (`certs root`, `certs edge-ca`), or name another with --ca",
        path = path.display()
    )]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A CA that cannot sign this.
    #[error("{path} cannot sign: {why}", path = path.display())]
    Ca {
        /// Its file.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The disk.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The kind of a key pair. (ring cannot make RSA keys.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Curve {
    /// ECDSA over P-256 with SHA-256.
    #[default]
    P256,
    /// ECDSA over P-384 with SHA-384.
    P384,
}

impl Curve {
    fn key(self) -> Result<KeyPair, rcgen::Error> {
        KeyPair::generate_for(match self {
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        })
    }
}

/// Most days that development certificates are made for: ten years.
pub const DAYS_MAX: u64 = 3650;

/// Reads how many days certificates are to be valid.
///
/// # Errors
/// It is no number from 1 to [`DAYS_MAX`].
pub fn days(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(days) if (1..=DAYS_MAX).contains(&days) => Ok(days),
        _ => Err(format!(
            "write whole days, 1 to {DAYS_MAX}: what lasts longer outlives the care that is taken of its keys"
        )),
    }
}

/// A validity, to the second, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// `notBefore`.
    pub not_before: UnixMillis,
    /// `notAfter`.
    pub not_after: UnixMillis,
}

impl Window {
    /// From an hour before `now` (clocks differ) to `days` days after it.
    pub fn days(now: UnixMillis, days: u64) -> Self {
        let day = 24 * 3600 * 1000;
        Self {
            not_before: UnixMillis(now.0.saturating_sub(3600 * 1000)),
            not_after: UnixMillis(now.0.saturating_add(days.saturating_mul(day))),
        }
    }

    /// As much of it as lies within another one's: no leaf outlives its CA.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        Self {
            not_before: self.not_before.max(other.not_before),
            not_after: self.not_after.min(other.not_after),
        }
    }

    fn apply(self, params: &mut CertificateParams) {
        let time = |at: UnixMillis| {
            date_time_ymd(1970, 1, 1) + Duration::from_secs(at.as_secs().min(TIME_SECS_MAX))
        };
        params.not_before = time(self.not_before);
        params.not_after = time(self.not_after);
    }
}

/// A certificate authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    name: String,
    certificate_pem: String,
    /// The intermediates from this CA (inclusive) up to the root (exclusive), PEM. Empty for a root.
    intermediates_pem: String,
    /// How long it is valid.
    window: Window,
    /// Most CAs below it, if it says so.
    path_len: Option<u32>,
}

/// The key stays out of logs.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Authority {
    /// A self-signed CA.
    pub fn root(name: &str, curve: Curve, window: Window) -> Result<Self, CertsError> {
        let make = || {
            let key = curve.key()?;
            let params = ca_params(name, window, None);
            let pem = params.self_signed(&key)?.pem();
            Ok((params, key, pem))
        };
        let (params, key, certificate_pem) = make().map_err(named(name))?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            name: name.to_owned(),
            certificate_pem,
            intermediates_pem: String::new(),
            window,
            path_len: None,
        })
    }

    /// A CA below this one.
    pub fn intermediate(
        &self,
        name: &str,
        curve: Curve,
        window: Window,
    ) -> Result<Self, CertsError> {
        self.below(name, curve, window, None)
    }

    /// A CA below this one that signs no further CAs: what the IoT Edge daemon takes as edge CA.
    pub fn edge_ca(&self, name: &str, curve: Curve, window: Window) -> Result<Self, CertsError> {
        self.below(name, curve, window, Some(0))
    }

    fn below(
        &self,
        name: &str,
        curve: Curve,
        window: Window,
        path_len: Option<u8>,
    ) -> Result<Self, CertsError> {
        let make = || {
            let key = curve.key()?;
            let params = ca_params(name, window, path_len);
            let pem = params.signed_by(&key, &self.issuer)?.pem();
            Ok((params, key, pem))
        };
        let (params, key, certificate_pem) = make().map_err(named(name))?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            name: name.to_owned(),
            intermediates_pem: format!("{certificate_pem}{}", self.intermediates_pem),
            certificate_pem,
            window,
            path_len: path_len.map(u32::from),
        })
    }

    /// A server certificate for DNS `names` and `ips` (the first of them is also the common name), P-256.
    pub fn issue_server(
        &self,
        names: &[&str],
        ips: &[IpAddr],
        window: Window,
    ) -> Result<Issued, CertsError> {
        let first = names.first().map(ToString::to_string);
        let subject = first.or(ips.first().map(ToString::to_string)).unwrap_or_default();
        let make = || {
            let mut params = leaf_params(&subject, window, ExtendedKeyUsagePurpose::ServerAuth);
            for name in names {
                params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
            }
            params.subject_alt_names.extend(ips.iter().copied().map(SanType::IpAddress));
            self.issue(&params, Curve::P256)
        };
        make().map_err(named(&subject))
    }

    /// A client certificate with the common name `cn` (128 characters are fine: X.520's limit of 64 is not kept by
    /// Azure Sphere either), P-256.
    pub fn issue_client(&self, cn: &str, window: Window) -> Result<Issued, CertsError> {
        self.issue_client_with(cn, Curve::P256, window)
    }

    /// A client certificate with a key of `curve`.
    pub fn issue_client_with(
        &self,
        cn: &str,
        curve: Curve,
        window: Window,
    ) -> Result<Issued, CertsError> {
        let params = leaf_params(cn, window, ExtendedKeyUsagePurpose::ClientAuth);
        self.issue(&params, curve).map_err(named(cn))
    }

    /// A certificate of any form, for tests that need a bad one.
    pub fn issue(&self, params: &CertificateParams, curve: Curve) -> Result<Issued, rcgen::Error> {
        let key = curve.key()?;
        let leaf_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued {
            chain_pem: format!("{leaf_pem}{}", self.intermediates_pem),
            leaf_pem,
            key_pem: key.serialize_pem(),
        })
    }

    /// The CA's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The CA's certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// How long the CA is valid.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Whether a CA may stand below it.
    pub fn may_sign_ca(&self) -> bool {
        self.path_len != Some(0)
    }

    /// The CA's private key.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    fn files(&self, stem: &str) -> Vec<PkiFile> {
        // With what is above it, but for the root: what signs with it hands these on.
        let pem = match self.intermediates_pem.as_str() {
            "" => self.certificate_pem.clone(),
            chain => chain.to_owned(),
        };
        vec![
            PkiFile::public(format!("{stem}.pem"), pem),
            PkiFile::secret(format!("{stem}.key.pem"), self.key_pem()),
        ]
    }

    /// Writes `{stem}.pem` and `{stem}.key.pem` (0600) into `folder`, which is made if need be.
    pub fn write_to_folder(
        &self,
        folder: &Path,
        stem: &str,
        overwrite: bool,
    ) -> Result<Vec<PathBuf>, CertsError> {
        write_files(folder, self.files(stem), overwrite)
    }
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Issued {
    /// Leaf first, then the intermediates, without the root.
    pub chain_pem: String,
    /// The leaf alone, as Azure Sphere presents it.
    pub leaf_pem: String,
    /// PKCS#8.
    pub key_pem: String,
}

/// The key stays out of logs.
impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("certificates", &self.chain_pem.matches("-----BEGIN").count())
            .field("key_pem", &"***")
            .finish()
    }
}

impl Issued {
    fn files(&self, stem: &str) -> Vec<PkiFile> {
        vec![
            PkiFile::public(format!("{stem}.chain.pem"), self.chain_pem.clone()),
            PkiFile::secret(format!("{stem}.key.pem"), self.key_pem.clone()),
        ]
    }

    /// Writes `{stem}.chain.pem` and `{stem}.key.pem` (0600) into `folder`, which is made if need be.
    pub fn write_to_folder(
        &self,
        folder: &Path,
        stem: &str,
        overwrite: bool,
    ) -> Result<Vec<PathBuf>, CertsError> {
        write_files(folder, self.files(stem), overwrite)
    }

    /// Writes the files of several, all or none.
    pub fn write_all(
        folder: &Path,
        all: &[(String, Self)],
        overwrite: bool,
    ) -> Result<Vec<PathBuf>, CertsError> {
        let files = all.iter().flat_map(|(stem, issued)| issued.files(stem)).collect();
        write_files(folder, files, overwrite)
    }

    /// Writes the leaf alone, as `{stem}.pem`, and no key: of a proof nobody needs it again.
    pub fn write_proof(
        &self,
        folder: &Path,
        stem: &str,
        overwrite: bool,
    ) -> Result<Vec<PathBuf>, CertsError> {
        let file = PkiFile::public(format!("{stem}.pem"), self.leaf_pem.clone());
        write_files(folder, vec![file], overwrite).map_err(|e| match e {
            CertsError::Exists { path } => CertsError::ProofExists { path },
            other => other,
        })
    }
}

fn named(name: &str) -> impl FnOnce(rcgen::Error) -> CertsError {
    let name = name.to_owned();
    move |source| CertsError::Make { name, source }
}

fn params(name: &str, window: Window) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    window.apply(&mut params);
    params
}

fn ca_params(name: &str, window: Window, path_len: Option<u8>) -> CertificateParams {
    let mut params = params(name, window);
    params.is_ca = IsCa::Ca(match path_len {
        Some(most) => BasicConstraints::Constrained(most),
        None => BasicConstraints::Unconstrained,
    });
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params(name: &str, window: Window, purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = params(name, window);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params
}

#[cfg(test)]
mod tests;
