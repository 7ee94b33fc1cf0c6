//! A small PKI for the unit tests of `load` and `floor`, with the files that they read.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sphere_gateway::certs::{SiteSpec, mint_site};
use sphere_gateway::clock;

use super::connect::Identity;
use crate::pki::SERVER;

pub(crate) struct TestSite {
    pub(super) identities: Vec<Identity>,
    /// Their TLS configurations, for who must not know an [`Identity`].
    pub(crate) clients: Vec<Arc<rustls::ClientConfig>>,
    folder: tempfile::TempDir,
}

impl TestSite {
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// `devices` devices, `dev-00000` and so on.
pub(crate) fn site(devices: usize) -> TestSite {
    let ids: Vec<_> = (0..devices).map(|place| format!("dev-{place:05}")).collect();
    let spec = SiteSpec { device_ids: ids, ..SiteSpec::local(&[SERVER], 0) };
    let site = mint_site(&spec, clock::system().wall()).expect("a PKI");
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, pem: &str| {
        std::fs::write(folder.path().join(name), pem).expect("a file");
    };
    write("server.chain.pem", &site.server.chain_pem);
    write("server.key.pem", &site.server.key_pem);
    write("tenant-ca.pem", site.tenant_ca.certificate_pem());
    let root = CertificateDer::from_pem_slice(site.edge_root.certificate_pem().as_bytes());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.expect("PEM")).expect("a root");
    let identities: Vec<_> = site
        .devices
        .iter()
        .map(|device| {
            let leaf = CertificateDer::from_pem_slice(device.issued.leaf_pem.as_bytes());
            let key = PrivateKeyDer::from_pem_slice(device.issued.key_pem.as_bytes());
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut tls = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("ring has suites")
                .with_root_certificates(roots.clone())
                .with_client_auth_cert(vec![leaf.expect("PEM")], key.expect("PEM"))
                .expect("the key fits");
            tls.resumption = rustls::client::Resumption::disabled();
            Identity { id: device.id.clone(), tls: Arc::new(tls) }
        })
        .collect();
    let clients = identities.iter().map(|identity| Arc::clone(&identity.tls)).collect();
    TestSite { identities, clients, folder }
}
