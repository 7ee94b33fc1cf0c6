//! Server chains, good and bad, and their words.

use super::*;
use crate::auth::testing::{NOW, valid, window};
use crate::certs::{Authority, Curve};

const GATEWAY: &str = "gw.example";

#[test]
fn server_chains_are_explained() {
    let root = Authority::root("Root", Curve::P256, valid()).unwrap();
    let ca = root.intermediate("Edge CA", Curve::P256, valid()).unwrap();
    let namesake = root.intermediate("Edge CA", Curve::P256, valid()).unwrap();
    let issued = ca.issue_server(&[GATEWAY, "other.example"], &[], valid()).unwrap();
    let old = ca.issue_server(&[GATEWAY], &[], window(-20, -10)).unwrap();
    let early = ca.issue_server(&[GATEWAY], &[], window(10, 20)).unwrap();
    let client = ca.issue_client(GATEWAY, valid()).unwrap();
    let direct = root.issue_server(&[GATEWAY], &[], valid()).unwrap();
    let (root, ca) = (root.certificate_pem(), ca.certificate_pem());
    let leaf = issued.leaf_pem.as_str();
    let key = issued.key_pem.as_str();

    let check = |case: &str, chain: &[&str], key: &str, name: &str, expected: &str| {
        let got = ServerIdentity::from_pem(chain.concat().as_bytes(), key.as_bytes(), name, NOW);
        let got = match got {
            Ok(identity) => {
                identity.warnings().iter().map(|w| format!("warn: {w}")).collect::<String>()
            }
            Err(e) => e.to_string(),
        };
        if expected.is_empty() {
            assert_eq!(got, "", "{case}");
        } else {
            assert!(got.contains(expected), "{case}: {got}");
        }
    };
    check("good", &[leaf, ca], key, GATEWAY, "");
    check("with its root", &[leaf, ca, root], key, GATEWAY, "");
    check("second name", &[leaf, ca], key, "OTHER.example", "");
    check("key in the chain's file", &[key, leaf, ca], key, GATEWAY, "");
    check("leaf second", &[ca, leaf], key, GATEWAY, "the key belongs to certificate #2");
    check(
        "CAs swapped",
        &[leaf, root, ca],
        key,
        GATEWAY,
        "#1 was signed by CN=Edge CA, which is #3",
    );
    check(
        "gap",
        &[leaf, root],
        key,
        GATEWAY,
        "incomplete: #1 was signed by CN=Edge CA, but CN=Root",
    );
    check("another CA's key", &[leaf, namesake.certificate_pem()], key, GATEWAY, "another key");
    check("wrong key", &[leaf, ca], &old.key_pem, GATEWAY, "does not belong to its certificate");
    check("no key", &[leaf, ca], leaf, GATEWAY, "no private key");
    check("nothing", &[], key, GATEWAY, "certificate #1");
    check("only a key", &[key], key, GATEWAY, "holds no certificate");
    let broken = leaf.replacen("MII", "!!!", 1);
    check("damaged", &[leaf, &broken], key, GATEWAY, "certificate #2 of the server's chain");
    check("leaf alone", &[leaf], key, GATEWAY, "warn: the server chain is the leaf alone");
    check("leaf below its root", &[&direct.leaf_pem, root], &direct.key_pem, GATEWAY, "");
    check("other name", &[leaf, ca], key, "x.example", "its names: gw.example, other.example");
    check(
        "expired",
        &[&old.leaf_pem, ca],
        &old.key_pem,
        GATEWAY,
        "expired on 2027-01-15T07:59:50Z",
    );
    check("not yet", &[&early.leaf_pem, ca], &early.key_pem, GATEWAY, "clock right?");
    check("client's", &[&client.leaf_pem, ca], &client.key_pem, GATEWAY, "strict clients");
}

#[test]
fn files_that_cannot_be_read_are_named_and_keys_do_not_show() {
    let folder = tempfile::tempdir().unwrap();
    let root = Authority::root("Root", Curve::P256, valid()).unwrap();
    let issued = root.issue_server(&[GATEWAY], &[], valid()).unwrap();
    let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    let load = || load_server_identity(&chain, &key, GATEWAY, NOW);
    assert!(load().unwrap_err().to_string().contains("certificate chain"));
    std::fs::write(&chain, &issued.chain_pem).unwrap();
    let text = load().unwrap_err().to_string();
    assert!(text.contains("private key") && text.contains("key.pem"), "{text}");
    std::fs::write(&key, &issued.key_pem).unwrap();
    let identity = load().unwrap();
    assert_eq!(identity.leaf().subject, "CN=gw.example");
    assert!(!format!("{identity:?} {issued:?}").contains("PRIVATE"));
}
