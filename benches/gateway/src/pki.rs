//! The site's certificates, minted for a run: one CA of the devices, one of the servers, a client certificate per device.
//!
//! Owns: which files the processes under test find, and the TLS configurations of devices and subscriber. Invariant:
//! keys live in a temporary folder that goes with the [`Pki`]. Must not know: peers.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use rustls::RootCertStore;
use rustls::client::{ClientConfig, Resumption};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sphere_gateway::certs::{Authority, Curve, Issued, Site, SiteSpec, Window, mint_site};
use sphere_gateway::clock;

/// Certificates as files (for the processes under test) and as TLS configurations (for us).
#[derive(Debug)]
pub(crate) struct Pki {
    /// Everything below, PEM: `server.chain.pem`, `server.key.pem`, `tenant-ca.pem` (whoever signed the devices),
    /// `edge-root.pem` (whoever signed the server), `hub.chain.pem`, `hub.key.pem`, `hub-ca.pem`.
    pub(crate) folder: PathBuf,
    /// One per device, in order.
    pub(crate) devices: Vec<Device>,
    /// The subscriber that takes rumqttd's messages away: a client of the same CA.
    pub(crate) subscriber: Device,
    _folder: tempfile::TempDir,
}

/// A device's identity.
#[derive(Debug)]
pub(crate) struct Device {
    /// The common name: the MQTT client id.
    pub(crate) id: String,
    /// Trust and client certificate; resumption off, as every connect is to be a full handshake.
    pub(crate) tls: Arc<ClientConfig>,
}

/// The name in the server's certificate.
pub(crate) const SERVER: &str = "gateway.local.example";

/// Days that the certificates are valid.
const DAYS: u64 = 30;

/// What Azure Sphere's tenants have.
pub(crate) const TENANT_CURVE: Curve = Curve::P384;

impl Pki {
    /// For tests: [`Pki::mint_below`] with [`TENANT_CURVE`].
    #[cfg(test)]
    pub(crate) fn mint(devices: usize) -> anyhow::Result<Self> {
        Self::mint_below(TENANT_CURVE, devices)
    }

    /// Mints a PKI with `devices` devices; short ids (`dev-00042`). The CA that signs them has a key of `curve`, which decides
    /// what a connect costs.
    pub(crate) fn mint_below(curve: Curve, devices: usize) -> anyhow::Result<Self> {
        let now = clock::system().wall();
        let mut site = mint_site(&SiteSpec { days: DAYS, ..SiteSpec::local(&[SERVER], 0) }, now)
            .context("cannot mint the site's certificates")?;
        let tenant = site.tenant_ca.name().to_owned();
        site.tenant_ca = Authority::root(&tenant, curve, Window::days(now, DAYS))?;
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        write_files(&site, folder.path())?;
        let mint = Mint { site: &site, window: Window::days(now, DAYS), roots: roots(&site)? };
        let subscriber = mint.device("bench-subscriber".to_owned())?;
        Ok(Self {
            devices: mint.devices(devices)?,
            subscriber,
            folder: folder.path().to_owned(),
            _folder: folder,
        })
    }

    /// A file of the folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The hub's certificate chain and key, PEM.
    pub(crate) fn hub_pem(&self) -> anyhow::Result<(String, String)> {
        let read = |name: &str| {
            let path = self.file(name);
            std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))
        };
        Ok((read("hub.chain.pem")?, read("hub.key.pem")?))
    }
}

fn roots(site: &Site) -> anyhow::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(site.edge_root.certificate_pem().as_bytes())?;
    roots.add(root)?;
    Ok(Arc::new(roots))
}

struct Mint<'a> {
    site: &'a Site,
    window: Window,
    roots: Arc<RootCertStore>,
}

impl Mint<'_> {
    /// On all cores: a signature with the tenant CA's P-384 key takes about a millisecond.
    fn devices(&self, count: usize) -> anyhow::Result<Vec<Device>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let share = count.div_ceil(cores).max(1);
        let numbers: Vec<usize> = (1..=count).collect();
        std::thread::scope(|scope| {
            let minted: Vec<_> = numbers
                .chunks(share)
                .map(|some| {
                    scope.spawn(move || -> anyhow::Result<Vec<Device>> {
                        some.iter().map(|n| self.device(format!("dev-{n:05}"))).collect()
                    })
                })
                .collect();
            let mut devices = Vec::with_capacity(count);
            for some in minted {
                let some = some.join().map_err(|_| anyhow::anyhow!("a minting thread panicked"))?;
                devices.extend(some?);
            }
            Ok(devices)
        })
    }

    fn device(&self, id: String) -> anyhow::Result<Device> {
        let tenant: &Authority = &self.site.tenant_ca;
        let issued = tenant.issue_client(&id, self.window)?;
        let tls = client_tls(&self.roots, &issued)
            .with_context(|| format!("the certificate of {id} is of no use"))?;
        Ok(Device { id, tls })
    }
}

/// Only the leaf is presented, as Azure Sphere does.
fn client_tls(roots: &Arc<RootCertStore>, issued: &Issued) -> anyhow::Result<Arc<ClientConfig>> {
    let chain = CertificateDer::pem_slice_iter(issued.leaf_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(Arc::clone(roots))
        .with_client_auth_cert(chain, key)?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn write_files(site: &Site, folder: &Path) -> anyhow::Result<()> {
    let files = [
        ("server.chain.pem", &*site.server.chain_pem, 0o644),
        ("server.key.pem", &*site.server.key_pem, 0o600),
        ("tenant-ca.pem", site.tenant_ca.certificate_pem(), 0o644),
        ("edge-root.pem", site.edge_root.certificate_pem(), 0o644),
        ("hub.chain.pem", &*site.hub_server.chain_pem, 0o644),
        ("hub.key.pem", &*site.hub_server.key_pem, 0o600),
        ("hub-ca.pem", site.hub_ca.certificate_pem(), 0o644),
    ];
    for (name, text, mode) in files {
        let path = folder.join(name);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pki_has_its_files_and_its_devices_in_order() {
        let pki = Pki::mint(5).expect("a PKI");
        let ids: Vec<&str> = pki.devices.iter().map(|d| &*d.id).collect();
        assert_eq!(ids, ["dev-00001", "dev-00002", "dev-00003", "dev-00004", "dev-00005"]);
        for name in ["server.chain.pem", "server.key.pem", "tenant-ca.pem", "edge-root.pem"] {
            assert!(pki.file(name).is_file(), "{name}");
        }
        assert!(pki.hub_pem().expect("the hub's files").1.contains("PRIVATE KEY"));
    }
}
