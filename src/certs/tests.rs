//! A minted site, and what is not overwritten.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::auth::TrustBundle;
use crate::auth::testing::{NOW, ders};
use crate::front::tls::{Asks, ServerIdentity, load_server_identity, server_config};
use crate::upstream::tls::{roots, upstream_config};

#[test]
fn a_minted_site_works_together() {
    let site = mint_site(&SiteSpec::local(&["gw.example", "127.0.0.1"], 2), NOW).unwrap();
    let bundle = TrustBundle::from_bytes("bundle", site.trust_bundle_pem.as_bytes()).unwrap();
    assert_eq!((bundle.entries().len(), bundle.refused().len()), (2, 0));
    assert_eq!(site.devices.len(), 2);
    for device in &site.devices {
        assert_eq!(device.id.len(), 128);
        let leaf = bundle.verify(&ders(&device.issued.leaf_pem), NOW).unwrap();
        assert_eq!(leaf.common_name, device.id);
    }
    let folder = tempfile::tempdir().unwrap();
    let paths = site.write_to_folder(folder.path(), false).unwrap();
    for path in &paths {
        let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let secret = path.to_string_lossy().contains(".key.");
        assert_eq!(mode & 0o077 == 0, secret, "{path:?} has mode {mode:o}");
    }
    for (chain, key, name) in [
        ("server.chain.pem", "server.key.pem", "gw.example"),
        ("server.chain.pem", "server.key.pem", "127.0.0.1"),
    ] {
        let at = |file: &str| folder.path().join(file);
        let identity = load_server_identity(&at(chain), &at(key), name, NOW).unwrap();
        assert_eq!(identity.warnings(), [], "{name}");
    }
    // The seed's sample application has a buffer of 3 KiB for its root (iothub-protocol.md E).
    assert!(site.edge_root.certificate_pem().len() < 3 * 1024);
    assert!(!format!("{site:?}").contains("PRIVATE KEY"));
}

#[test]
fn nothing_is_replaced_unless_it_was_asked_for() {
    let spec = SiteSpec::local(&["gw.example"], 1);
    let folder = tempfile::tempdir().unwrap();
    let site = mint_site(&spec, NOW).unwrap();
    std::fs::create_dir(folder.path().join("devices")).unwrap();
    std::fs::write(folder.path().join("devices/ids.txt"), "mine").unwrap();
    let refused = site.write_to_folder(folder.path(), false).unwrap_err();
    assert!(refused.to_string().contains("ids.txt exists"), "{refused}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was written");
    site.write_to_folder(folder.path(), true).unwrap();
    let ids = std::fs::read_to_string(folder.path().join("devices/ids.txt")).unwrap();
    assert_eq!(ids, format!("{}\n", site.devices[0].id));
}

#[test]
fn names_that_cannot_be_certified_are_errors() {
    let spec = SiteSpec::local(&["größe.example"], 1);
    let refused = mint_site(&spec, NOW).unwrap_err().to_string();
    assert!(refused.contains("größe.example"), "{refused}");
}

#[tokio::test]
async fn the_trust_bundle_knows_the_local_hub_and_no_other() {
    // Now and not a fixed time: rustls' client reads the system's clock.
    let now = crate::clock::system().wall();
    let spec = SiteSpec::local(&["gw.example"], 0);
    let (site, other) = (mint_site(&spec, now).unwrap(), mint_site(&spec, now).unwrap());
    let (chain, key) = (&site.hub_server.chain_pem, &site.hub_server.key_pem);
    let hub = ServerIdentity::from_pem(chain.as_bytes(), key.as_bytes(), "localhost", now).unwrap();
    for (bundle, expected) in [(&site.trust_bundle_pem, true), (&other.trust_bundle_pem, false)] {
        let (store, refused) = roots(Some(bundle.as_bytes()));
        assert!(refused.is_empty(), "{refused:?}");
        let client = upstream_config(store);
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = "localhost".try_into().unwrap();
        let connecting = tokio_rustls::TlsConnector::from(client).connect(name, near);
        let accepting =
            tokio_rustls::TlsAcceptor::from(server_config(&hub, Asks::Certificates)).accept(far);
        let (connected, _) = tokio::join!(connecting, accepting);
        assert_eq!(connected.is_ok(), expected, "{:?}", connected.err());
    }
}

#[test]
fn days_have_bounds_and_are_those_of_every_certificate() {
    for (text, expected) in [
        ("1", Some(1)),
        ("30", Some(30)),
        ("3650", Some(3650)),
        ("0", None),
        ("3651", None),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("99999999999999999999999", None),
    ] {
        let got = super::days(text);
        assert!(
            got.as_ref().is_ok_and(|d| Some(*d) == expected) || got.is_err() && expected.is_none()
        );
        assert!(got.is_ok() || got.clone().is_err_and(|e| e.contains("1 to 3650")), "{got:?}");
    }
    let now = crate::clock::UnixMillis(1_700_000_000_000);
    let site = mint_site(&SiteSpec { days: 3, ..SiteSpec::local(&["gw"], 1) }, now).unwrap();
    let chains =
        [&site.server.chain_pem, &site.hub_server.chain_pem, &site.devices[0].issued.chain_pem];
    for chain in chains {
        for piece in crate::auth::x509::split(chain.as_bytes()) {
            let crate::auth::x509::Piece::Certificate(der) = piece else { panic!("{chain}") };
            let info = crate::auth::x509::CertificateInfo::read(&der).unwrap();
            assert_eq!(info.not_after.0, now.0 + 3 * 86_400_000);
        }
    }
}
