//! A whole local site: every certificate that a gateway, a local hub and some devices need.
//!
//! Owns: what a site consists of, and its files' names. Must not know: how a certificate is made.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha512};

use super::{Authority, CertsError, Curve, Issued, PkiFile, Window, write_files};
use crate::auth::x509::hex;
use crate::clock::UnixMillis;

/// What a site is called and how many devices it has.
#[derive(Debug, Clone)]
pub struct SiteSpec {
    /// Host names and IP addresses of the gateway.
    pub gateway_names: Vec<String>,
    /// Host names and IP addresses of the local hub.
    pub hub_names: Vec<String>,
    /// Ids of the devices: the common names of their certificates.
    pub device_ids: Vec<String>,
    /// How many days everything is valid.
    pub days: u64,
}

impl SiteSpec {
    /// A site on this machine: gateway and hub on `localhost`, devices with ids like Azure Sphere's.
    pub fn local(gateway_names: &[&str], devices: usize) -> Self {
        Self {
            gateway_names: gateway_names.iter().map(ToString::to_string).collect(),
            hub_names: ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec(),
            device_ids: (1..=devices).map(sphere_like_id).collect(),
            days: 30,
        }
    }
}

/// A device id as Azure Sphere's, 128 lower-case hex digits; the same for the same `number`.
pub fn sphere_like_id(number: usize) -> String {
    hex(&Sha512::digest(format!("sphere-gateway development device {number}")))
}

/// A device of a site.
#[derive(Debug, Clone)]
pub struct SiteDevice {
    /// Its id: the common name of its certificate.
    pub id: String,
    /// Its certificate.
    pub issued: Issued,
}

/// Everything that a local site needs.
#[derive(Debug)]
pub struct Site {
    /// Signs the devices.
    pub tenant_ca: Authority,
    /// What devices hold to know the gateway.
    pub edge_root: Authority,
    /// Signs the gateway's server certificate.
    pub edge_ca: Authority,
    /// The gateway's server certificate.
    pub server: Issued,
    /// What the gateway holds to know the local hub.
    pub hub_ca: Authority,
    /// The local hub's server certificate.
    pub hub_server: Issued,
    /// The devices.
    pub devices: Vec<SiteDevice>,
    /// Tenant CA and hub CA: as in the reference, one file admits clients and vouches for the hub.
    pub trust_bundle_pem: String,
}

/// Makes a site in memory, valid around `now`.
pub fn mint_site(spec: &SiteSpec, now: UnixMillis) -> Result<Site, CertsError> {
    let window = Window::days(now, spec.days);
    let tenant_ca = Authority::root("Development Tenant CA", Curve::P384, window)?;
    let edge_root = Authority::root("Development Edge Root", Curve::P256, window)?;
    let edge_ca = edge_root.intermediate("Development Edge CA", Curve::P256, window)?;
    let hub_ca = Authority::root("Development Hub CA", Curve::P256, window)?;
    let server = issue_for_hosts(&edge_ca, &spec.gateway_names, window)?;
    let hub_server = issue_for_hosts(&hub_ca, &spec.hub_names, window)?;
    let devices = spec
        .device_ids
        .iter()
        .map(|id| Ok(SiteDevice { id: id.clone(), issued: tenant_ca.issue_client(id, window)? }))
        .collect::<Result<Vec<_>, CertsError>>()?;
    let trust_bundle_pem = format!("{}{}", tenant_ca.certificate_pem(), hub_ca.certificate_pem());
    Ok(Site {
        tenant_ca,
        edge_root,
        edge_ca,
        server,
        hub_ca,
        hub_server,
        devices,
        trust_bundle_pem,
    })
}

/// Host names become DNS names, addresses become IP addresses.
fn issue_for_hosts(ca: &Authority, hosts: &[String], window: Window) -> Result<Issued, CertsError> {
    let ips: Vec<IpAddr> = hosts.iter().filter_map(|h| h.parse().ok()).collect();
    let names: Vec<&str> =
        hosts.iter().filter(|h| h.parse::<IpAddr>().is_err()).map(String::as_str).collect();
    ca.issue_server(&names, &ips, window)
}

impl Site {
    /// Writes the site into `folder` (made if need be), keys with mode 0600; gives the paths. With `overwrite` false
    /// nothing is written when one of the files exists.
    ///
    /// Files: `tenant-ca`, `edge-root`, `edge-ca`, `hub-ca` (`.pem`, `.key.pem`); `server`, `hub-server`,
    /// `devices/device-N` (`.chain.pem`, `.key.pem`); `trust-bundle.pem`; `devices/ids.txt` (one id a line).
    pub fn write_to_folder(
        &self,
        folder: &Path,
        overwrite: bool,
    ) -> Result<Vec<PathBuf>, CertsError> {
        let mut files = Vec::new();
        files.extend(self.tenant_ca.files("tenant-ca"));
        files.extend(self.edge_root.files("edge-root"));
        files.extend(self.edge_ca.files("edge-ca"));
        files.extend(self.hub_ca.files("hub-ca"));
        files.extend(self.server.files("server"));
        files.extend(self.hub_server.files("hub-server"));
        files.push(PkiFile::public("trust-bundle.pem".into(), self.trust_bundle_pem.clone()));
        let mut ids = String::new();
        for (index, device) in self.devices.iter().enumerate() {
            files.extend(device.issued.files(&format!("devices/device-{}", index + 1)));
            ids.push_str(&device.id);
            ids.push('\n');
        }
        files.push(PkiFile::public("devices/ids.txt".into(), ids));
        write_files(folder, files, overwrite)
    }
}
