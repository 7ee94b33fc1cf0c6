//! Hostile client certificates, each with the verdict that RFC 5280 (or the reference, where the RFC leaves it open)
//! demands and the label of the reason.
//!
//! Owns: [`Case`], the judge that runs them through [`Authenticator::authenticate`], the count.
//! Invariants: a verdict is written down beside its case, with the clause it follows from; none is taken from what the
//! code says. Each certificate is made byte by byte ([`der`], [`forge`]), so that it is wrong in one respect only.
//! Must not know: how path validation works.

mod constraints;
mod der;
mod effort;
mod forge;
mod form;
mod issuers;
mod keys;
mod names;
mod revoked;
mod usage;
mod validity;

use std::collections::HashSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;

use self::forge::{Ca, ROOT};
use super::testing::{NOW, StillClock};
use super::{Attempt, AuthKind, Authenticator, Scope, ScopeEntry, Status, TrustBundle};
use crate::clock::UnixMillis;
use crate::identity::{ClientName, DeviceId};

/// The certificate holds and is for the device that logs in.
const OK: Result<(), &str> = Ok(());

/// One log-in.
struct Case {
    family: &'static str,
    name: String,
    anchors: Vec<Vec<u8>>,
    lists: Vec<Vec<u8>>,
    chain: Vec<Vec<u8>>,
    claim: String,
    /// Seconds from now.
    at: i64,
    expected: Result<(), &'static str>,
}

impl Case {
    /// d1 logs in with `chain`; [`ROOT`] is the bundle.
    fn new(
        family: &'static str,
        name: impl Into<String>,
        chain: Vec<Vec<u8>>,
        expected: Result<(), &'static str>,
    ) -> Self {
        let (name, anchors) = (name.into(), vec![ROOT.der.clone()]);
        let claim = "d1".to_owned();
        Self { family, name, anchors, lists: Vec::new(), chain, claim, at: 0, expected }
    }

    fn anchors(mut self, anchors: &[&Ca]) -> Self {
        self.anchors = anchors.iter().map(|ca| ca.der.clone()).collect();
        self
    }

    fn lists(mut self, lists: &[Vec<u8>]) -> Self {
        self.lists = lists.to_vec();
        self
    }

    fn claim(mut self, claim: &str) -> Self {
        claim.clone_into(&mut self.claim);
        self
    }

    fn at(mut self, seconds: i64) -> Self {
        self.at = seconds;
        self
    }
}

/// A device id of Azure Sphere: 128 hex digits.
fn sphere() -> String {
    "0123456789abcdef".repeat(8)
}

/// An id of 128 characters that is not a Sphere's.
fn longest() -> String {
    "Long-id-".repeat(16)
}

/// What all cases share: the registered devices.
struct Hub {
    _folder: tempfile::TempDir,
    scope: Arc<Scope>,
}

impl Hub {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let edge = DeviceId::parse("edge1").unwrap();
        let scope = Arc::new(Scope::load(folder.path().join("scope.json"), edge).0);
        let ours = "ms-azure-iot-edge://edge1-1";
        let entry = |id: &str| ScopeEntry {
            name: ClientName::Device(DeviceId::parse(id).unwrap()),
            generation: "1".into(),
            status: Status::Enabled,
            auth: AuthKind::CertificateAuthority,
            scope: ours.into(),
            parent_scopes: vec![ours.into()],
            is_edge: false,
        };
        let ids = ["d1", "d2", "D3", &sphere(), &longest()].map(entry);
        assert!(scope.replace(ids.into(), NOW).stored.is_ok());
        Self { _folder: folder, scope }
    }

    fn judge(&self, case: &Case) -> Result<(), (&'static str, String)> {
        let bundle = bundle(&case.anchors, &case.lists);
        let now = UnixMillis(NOW.0.saturating_add_signed(case.at * 1000));
        let authenticator =
            Authenticator::new(bundle, Arc::clone(&self.scope), StillClock::at(now));
        let chain: Vec<_> = case.chain.iter().map(|der| CertificateDer::from(&der[..])).collect();
        let claim = ClientName::Device(DeviceId::parse(&case.claim).unwrap());
        let attempt = Attempt { claim: &claim, password: None, chain: &chain };
        let judged = authenticator.authenticate(attempt);
        judged.map(|_| ()).map_err(|refusal| (refusal.label, refusal.detail))
    }
}

/// A bundle of these CAs and lists. Entries that are refused are left to the case.
fn bundle(anchors: &[Vec<u8>], lists: &[Vec<u8>]) -> TrustBundle {
    let pem = |der: &Vec<u8>| {
        let text = STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    let text: String = anchors.iter().map(pem).collect();
    let mut bundle = TrustBundle::from_bytes("anchors", text.as_bytes()).unwrap();
    for list in lists {
        // Whether a list is taken is a case's own question: what is not taken revokes nobody.
        let _ = bundle.add_revocation_list("list", list);
    }
    bundle
}

fn all() -> Vec<Case> {
    let families = [
        validity::cases,
        issuers::cases,
        usage::cases,
        names::cases,
        form::cases,
        keys::cases,
        constraints::cases,
        revoked::cases,
        effort::cases,
    ];
    families.iter().flat_map(|family| family()).collect()
}

#[test]
fn each_case_gets_the_verdict_that_is_written_down_for_it() {
    let hub = Hub::new();
    let cases = all();
    let mut wrong = Vec::new();
    let mut names = HashSet::new();
    for case in &cases {
        assert!(names.insert((case.family, &case.name)), "{}: {} twice", case.family, case.name);
        let got = hub.judge(case);
        let label = got.as_ref().copied().map_err(|(label, _)| *label);
        if label != case.expected {
            let (family, name, expected) = (case.family, &case.name, case.expected);
            wrong.push(format!("{family}: {name}: must be {expected:?}, is {got:?}"));
        }
        if let Err((_, detail)) = got {
            let words = detail.len() > 20 && detail.chars().all(|c| !c.is_control());
            assert!(words, "{}: {}: {detail:?}", case.family, case.name);
        }
    }
    println!("{} hostile certificates, {} judged wrongly", cases.len(), wrong.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 300, "only {} cases", cases.len());
    let refused = cases.iter().filter(|case| case.expected.is_err()).count();
    assert!(refused * 2 > cases.len(), "only {refused} of them are to be refused");
}
