//! Files change in every way, and sessions stay or go.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::auth::Authenticator;
use crate::auth::scope::Scope;
use crate::auth::testing::{NOW, StillClock, admitted, ders, valid};
use crate::auth::{Admission, Credential};
use crate::certs::{Authority, Curve};
use crate::front::roster::Roster;
use crate::front::roster::Seat;
use crate::identity::DeviceId;
use crate::metrics::Metrics;

fn ca(name: &str) -> Authority {
    Authority::root(name, Curve::P256, valid()).unwrap()
}

/// A gateway's parts around a folder with the CA "One" in `one.pem`.
struct Place {
    folder: tempfile::TempDir,
    one: Authority,
    authenticator: Arc<Authenticator>,
    roster: Arc<Roster>,
    metrics: Arc<Metrics>,
    clock: SharedClock,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let one = ca("One");
        let bundles = folder.path().join("tenant");
        std::fs::create_dir(&bundles).unwrap();
        std::fs::write(bundles.join("one.pem"), one.certificate_pem()).unwrap();
        let bundle = TrustBundle::load(&[bundles]).unwrap();
        let edge = DeviceId::parse("edge").unwrap();
        let (scope, _) = Scope::load(folder.path().join("scope.json"), edge);
        let clock: SharedClock = StillClock::at(NOW);
        let authenticator = Authenticator::new(bundle, Arc::new(scope), Arc::clone(&clock));
        Self {
            folder,
            one,
            authenticator: Arc::new(authenticator),
            roster: Roster::new(1000),
            metrics: Metrics::new("hub", "edge"),
            clock,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("tenant").join(name)
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    fn watch(&self) -> BundleWatch {
        let paths = vec![self.folder.path().join("tenant")];
        self.watch_of(Source::Files(Looks::new(paths)))
    }

    fn watch_of(&self, source: Source) -> BundleWatch {
        let offers = Offers::new(&self.authenticator, &self.roster, &self.metrics, &self.clock);
        BundleWatch { source, offers }
    }

    /// Somebody who was let in by `ca` under the bundle in force.
    fn enter(&self, id: &str, ca: &Authority) -> (Seat, CancellationToken) {
        let chain = ders(&ca.issue_client(id, valid()).unwrap().leaf_pem);
        let verified = self.authenticator.bundle().verify(&chain, NOW).unwrap();
        let credential = Credential::CertificateAuthority {
            chain,
            not_after: verified.not_after,
            anchor_sha256: verified.anchor_sha256,
            by_grace: false,
        };
        self.seat(Admission { credential, ..admitted(id) })
    }

    fn seat(&self, admission: Admission) -> (Seat, CancellationToken) {
        let leave = CancellationToken::new();
        let (seat, _) = self.roster.enter(&Arc::new(admission), leave.clone()).unwrap();
        (seat, leave)
    }

    fn events(&self, event: &str, reason: &str) -> u64 {
        let text = self.metrics.render();
        let labels = [format!("event=\"{event}\""), format!("reason=\"{reason}\"")];
        let line = text.lines().find(|line| labels.iter().all(|label| line.contains(label)));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

/// What came of it, in a word: `-` nothing to decide, `=` unchanged, `+added -removed !names`, or the label of a refusal.
fn shown(reload: Option<BundleReload>) -> String {
    match reload {
        None => "-".to_owned(),
        Some(BundleReload::Unchanged) => "=".to_owned(),
        Some(BundleReload::Refused { label, .. }) => label.to_owned(),
        Some(BundleReload::Applied(Applied { added, removed, closing })) => {
            let names = closing.iter().flat_map(|closing| &closing.names);
            let signed = |sign: &str, what: &str| format!("{sign}{what} ");
            let parts = added.iter().map(|who| signed("+", who));
            let parts = parts.chain(removed.iter().map(|who| signed("-", who)));
            let text: String = parts.chain(names.map(|name| signed("!", name))).collect();
            text.trim_end().to_owned()
        }
    }
}

#[test]
fn files_are_read_when_they_changed_and_are_quiet() {
    let place = Place::new();
    let (two, three) = (ca("Two"), ca("Three"));
    let mut watch = place.watch();
    let mut look = |asked| shown(watch.look(asked));
    assert_eq!([look(false), look(false), look(false)], ["-", "=", "-"]);
    place.put("two.cer", two.certificate_pem());
    assert_eq!([look(false), look(false), look(false)], ["-", "+CN=Two", "-"]);
    // Written in two steps, with a look between them: half of it is never looked into.
    let text = three.certificate_pem();
    place.put("three.pem", &text[..text.len() / 2]);
    assert_eq!(look(false), "-");
    place.put("three.pem", text);
    assert_eq!([look(false), look(false), look(false)], ["-", "+CN=Three", "-"]);
    // Deleted and written anew, as some tools do.
    place.remove("two.cer");
    assert_eq!(look(false), "-");
    place.put("two.cer", two.certificate_pem());
    let after = [look(false), look(false), look(false)];
    assert!(after == ["-", "=", "-"], "nothing has changed: {after:?}");
    // Who asks does not wait, and what was not quiet is read again.
    place.remove("two.cer");
    assert_eq!([look(true), look(false), look(false)], ["-CN=Two", "=", "-"]);
    assert_eq!([look(true), look(true)], ["=", "="]);
    let reloads = |result| place.events("trust_bundle_reload", result);
    assert_eq!((reloads("applied"), reloads("unchanged")), (3, 2));
}

#[test]
fn files_that_are_never_quiet_are_read_now_and_then() {
    let place = Place::new();
    let mut watch = place.watch();
    let mut written = 0;
    let mut looks = |many: usize| -> Vec<String> {
        (0..many)
            .map(|_| {
                written += 1;
                // Words before a certificate mean nothing.
                place.put("one.pem", "x".repeat(written) + place.one.certificate_pem());
                shown(watch.look(false))
            })
            .collect()
    };
    assert_eq!(looks(10), ["-", "-", "-", "-", "=", "-", "-", "-", "-", "="]);
}

#[test]
fn what_is_worse_is_told_once_and_the_old_one_serves() {
    let place = Place::new();
    let two = ca("Two");
    place.put("two.pem", two.certificate_pem());
    let mut watch = place.watch();
    let mut look = |asked| shown(watch.look(asked));
    assert_eq!(look(true), "+CN=Two");
    let (_seat, leave) = place.enter("d", &two);
    let before = place.authenticator.bundle();
    let text = two.certificate_pem();
    let cases: [(&str, &dyn Fn()); 5] = [
        ("worse", &|| place.put("two.pem", &text[..text.len() - 40])),
        ("worse", &|| place.put("two.pem", "")),
        ("worse", &|| place.put("two.pem", two.issue_client("d", valid()).unwrap().leaf_pem)),
        ("too_big", &|| {
            for n in 0..=crate::auth::bundle::FILES_MAX {
                place.put(&format!("{n}.pem"), "");
            }
        }),
        ("nothing_usable", &|| {
            for n in 0..=crate::auth::bundle::FILES_MAX {
                place.remove(&format!("{n}.pem"));
            }
            place.remove("one.pem");
            place.remove("two.pem");
        }),
    ];
    let mut told = std::collections::BTreeMap::new();
    for (label, change) in cases {
        change();
        assert_eq!([look(false), look(false), look(false)], ["-", label, "-"]);
        *told.entry(label).or_insert(0) += 1;
        assert_eq!(place.events("trust_bundle_reload", label), told[label]);
        // A question is answered, and counted, each time.
        assert_eq!(look(true), label);
        *told.get_mut(label).unwrap() += 1;
        assert_eq!(place.events("trust_bundle_reload", label), told[label]);
        assert!(Arc::ptr_eq(&before, &place.authenticator.bundle()), "{label}");
    }
    assert!(!leave.is_cancelled());
    // Whole again, as it was.
    place.put("one.pem", place.one.certificate_pem());
    place.put("two.pem", text);
    assert_eq!([look(false), look(false), look(false)], ["-", "=", "-"]);
}

#[test]
fn what_cannot_be_read_is_tried_again_without_a_sign_and_told_once() {
    let place = Place::new();
    let mut watch = place.watch();
    let mut look = || shown(watch.look(false));
    assert_eq!([look(), look(), look()], ["-", "=", "-"]);
    let (here, gone) = (place.folder.path().join("tenant"), place.folder.path().join("moved"));
    std::fs::rename(&here, &gone).unwrap();
    assert_eq!([look(), look(), look(), look()], ["-", "unreadable", "unreadable", "unreadable"]);
    assert_eq!(place.events("trust_bundle_reload", "unreadable"), 1);
    std::fs::rename(&gone, &here).unwrap();
    assert_eq!([look(), look(), look()], ["-", "=", "-"]);
}

#[test]
fn exactly_those_whose_ca_is_gone_are_told_before_and_have_to_leave() {
    let place = Place::new();
    let two = ca("Two");
    place.put("two.pem", two.certificate_pem());
    let mut watch = place.watch();
    assert_eq!(shown(watch.look(true)), "+CN=Two");
    let stays =
        [place.enter("a", &place.one), place.enter("b", &place.one), place.seat(admitted("t"))];
    let leaves: Vec<_> = (0..12).map(|n| place.enter(&format!("d{n:02}"), &two)).collect();
    place.remove("two.pem");
    let Some(BundleReload::Applied(Applied { closing, .. })) = watch.look(true) else {
        panic!("it is applied")
    };
    let [closing] = &closing[..] else { panic!("{closing:?}") };
    let told = closing.to_string();
    assert!(told.starts_with("CN=Two (SHA-256 "), "{told}");
    let names: Vec<String> = (0..10).map(|n| format!("d{n:02}")).collect();
    assert!(told.ends_with(&format!("is gone: 12 ({} and 2 more)", names.join(", "))), "{told}");
    assert!(leaves.iter().all(|(_, leave)| leave.is_cancelled()));
    assert!(stays.iter().all(|(_, leave)| !leave.is_cancelled()));
    assert_eq!(place.events("client_dismissed", "trust_bundle"), 12);
}

#[test]
fn whoever_has_another_ca_of_the_same_key_stays_also_when_the_next_one_changes() {
    let place = Place::new();
    let renewed = |serial: u64| {
        let key = rcgen::KeyPair::from_pem(&place.one.key_pem()).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "One");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.serial_number = Some(serial.into());
        params.self_signed(&key).unwrap().pem()
    };
    let mut watch = place.watch();
    let (_seat, leave) = place.enter("d", &place.one);
    place.put("one.pem", renewed(1));
    assert_eq!(shown(watch.look(true)), "+CN=One -CN=One");
    place.put("one.pem", renewed(2));
    assert_eq!(shown(watch.look(true)), "+CN=One -CN=One");
    assert!(!leave.is_cancelled());
    // It came in by a certificate that is no entry for long: what counts is what is there now.
    place.put("two.pem", ca("Two").certificate_pem());
    place.remove("one.pem");
    assert_eq!(shown(watch.look(true)), "+CN=Two -CN=One !d");
    assert!(leave.is_cancelled());
}

#[test]
fn who_takes_a_seat_after_a_change_by_a_verdict_from_before_has_to_leave() {
    let place = Place::new();
    let two = ca("Two");
    place.put("two.pem", two.certificate_pem());
    let mut watch = place.watch();
    watch.look(true);
    let old = place.authenticator.bundle();
    place.remove("two.pem");
    assert_eq!(shown(watch.look(true)), "-CN=Two");
    // The verdict of the old bundle, the seat under the new one.
    let new = place.authenticator.bundle();
    place.authenticator.replace_bundle(TrustBundle::clone(&old));
    let (_late, late) = place.enter("late", &two);
    let (_fine, fine) = place.enter("fine", &place.one);
    place.authenticator.replace_bundle(TrustBundle::clone(&new));
    watch.offers.look_at_newcomers();
    assert!(late.is_cancelled() && !fine.is_cancelled());
    assert_eq!(place.events("client_dismissed", "trust_bundle"), 1);
}

#[test]
fn what_the_daemon_gives_while_we_run_is_taken_the_same_way() {
    let place = Place::new();
    let given = Bytes::from(place.one.certificate_pem().to_owned());
    place.authenticator.replace_bundle(TrustBundle::from_bytes(DAEMON_BUNDLE, &given).unwrap());
    let (given, heard) = watch::channel(given);
    let mut watch = place.watch_of(Source::Daemon(Some(heard)));
    let (_seat, leave) = place.enter("d", &place.one);
    let two = ca("Two");
    assert_eq!([shown(watch.look(false)), shown(watch.look(true))], ["-", "="]);
    let both = format!("{}{}", place.one.certificate_pem(), two.certificate_pem());
    given.send_replace(Bytes::from(both.clone()));
    assert_eq!([shown(watch.look(false)), shown(watch.look(false))], ["+CN=Two", "-"]);
    given.send_replace(Bytes::from(both[..both.len() - 40].to_owned()));
    assert_eq!(shown(watch.look(false)), "worse");
    given.send_replace(Bytes::new());
    assert_eq!(shown(watch.look(false)), "nothing_usable");
    assert!(!leave.is_cancelled());
    given.send_replace(Bytes::from(two.certificate_pem().to_owned()));
    assert_eq!(shown(watch.look(false)), "-CN=One !d");
    assert!(leave.is_cancelled());
    // One that gives nothing while we run.
    assert_eq!(shown(place.watch_of(Source::Daemon(None)).look(true)), "-");
}

#[test]
fn a_daemon_without_cas_is_no_trouble_and_may_get_some() {
    let place = Place::new();
    place.authenticator.replace_bundle(TrustBundle::empty());
    let (given, heard) = watch::channel(Bytes::new());
    let mut watch = place.watch_of(Source::Daemon(Some(heard)));
    assert_eq!(shown(watch.look(true)), "=");
    given.send_replace(Bytes::from(place.one.certificate_pem().to_owned()));
    assert_eq!(shown(watch.look(false)), "+CN=One");
}
