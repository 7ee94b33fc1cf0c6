//! The scope API against the double.

use std::time::Duration;

use hub_double::{AuthType, DeviceSpec, Fault, FaultKind, ModuleSpec};

use super::*;
use crate::auth::question::{AskHub as _, Question};
use crate::auth::scope::{Answer, AuthKind, Lookup, Status, SymmetricKeys};
use crate::upstream::refresh::ScopeRefresher;
use crate::upstream::scope_api::{ScopeApi, ScopeFetchError};

impl Lab {
    pub(in crate::upstream) fn api(&self) -> ScopeApi {
        ScopeApi::new(self.config.clone(), clock::system(), self.tracker.clone())
    }
}

#[tokio::test]
async fn all_pages_are_read() {
    let specs =
        (0..250).map(|n| DeviceSpec::certificate(format!("c-{n}")).child_of("edge1")).collect();
    let lab = Lab::with(|hub| hub.devices = specs, |_| {}).await;
    lab.hub.put_device(DeviceSpec::certificate("not-ours"));
    lab.hub.put_device(DeviceSpec::sas("off", "a2V5").child_of("edge1").disabled());
    let entries = lab.api().fetch().await.unwrap();
    let find = |id: &str| entries.iter().find(|e| e.name.to_string() == id);
    assert_eq!(entries.iter().filter(|e| e.name.to_string().starts_with("c-")).count(), 250);
    assert_eq!(find("not-ours"), None);
    assert!(find("edge1").unwrap().is_edge);
    let sas = |key: &str| AuthKind::Sas {
        keys: SymmetricKeys {
            primary: KeySigner::from_base64(key).ok(),
            secondary: None,
            is_told: true,
        },
    };
    assert_eq!(find("edge1/$edgeHub").unwrap().auth, sas(KEY));
    let (child, off) = (find("c-7").unwrap(), find("off").unwrap());
    assert_eq!((child.status, &child.auth), (Status::Enabled, &AuthKind::CertificateAuthority));
    assert_eq!((off.status, &off.auth), (Status::Disabled, &sas("a2V5")));
    lab.end().await;
}

#[tokio::test]
async fn one_identity_can_be_asked_for() {
    let lab = Lab::start().await;
    let module = |device: &str| ModuleSpec {
        device_id: device.into(),
        module_id: "m".into(),
        ..ModuleSpec::default()
    };
    lab.hub.put_device(DeviceSpec::certificate("not-ours"));
    lab.hub.put_device(DeviceSpec::certificate("off").child_of("edge1").disabled());
    for device in ["edge1", "d1"] {
        lab.hub.put_module(module(device)).unwrap();
    }
    let api = lab.api();
    let cases = [
        (device("d1"), vec!["d1"]),
        (device("off"), vec!["off"]),
        (device("edge1"), vec!["edge1"]),
        (super::module("edge1", "m"), vec!["edge1", "edge1/m"]),
        (super::module("d1", "m"), vec!["d1", "d1/m"]),
        // 404, and 401: it is not we who are refused.
        (device("nobody"), vec![]),
        (super::module("d1", "nothing"), vec![]),
        (device("not-ours"), vec![]),
    ];
    for (who, expected) in cases {
        let found = api.fetch_one(who.name(), &lab.scope).await.unwrap();
        let names: Vec<String> = found.iter().map(|e| e.name.to_string()).collect();
        assert_eq!(names, expected, "{who}");
    }
    // Where it is we, nobody is taken for gone.
    lab.hub.fault(FaultKind::RefuseScope { status: 401 });
    let refused = api.fetch_one(device("d1").name(), &lab.scope).await;
    assert!(matches!(refused, Err(ScopeFetchError::Refused { status: 401, .. })), "{refused:?}");
    lab.end().await;
}

/// Promise: a name of somebody else's device costs one request, not a page of the scope too.
#[tokio::test]
async fn a_stranger_s_name_costs_no_page_while_the_hub_lists_to_us() {
    let lab = Lab::start().await;
    lab.hub.put_device(DeviceSpec::certificate("not-ours"));
    let api = lab.api();
    let entries = api.fetch().await.unwrap();
    lab.scope.replace(entries, clock::system().wall()).stored.unwrap();
    let ask = async |id: &str| api.fetch_one(device(id).name(), &lab.scope).await;
    let before = lab.hub.counts().scope_pages;
    for _ in 0..3 {
        assert_eq!(ask("not-ours").await.unwrap(), vec![]);
    }
    assert_eq!(lab.hub.counts().scope_pages, before);

    // Who is known loses nothing by an answer of a while ago, and a refusal of ours ends it.
    lab.hub.fault(FaultKind::RefuseScope { status: 401 });
    for id in ["d1", "not-ours"] {
        let refused = ask(id).await;
        assert!(matches!(refused, Err(ScopeFetchError::Refused { .. })), "{id}: {refused:?}");
    }
    lab.end().await;
}

/// A refresher that runs and has refreshed once.
async fn refreshed(lab: &Lab) -> Arc<ScopeRefresher> {
    let refresher = ScopeRefresher::new(lab.api(), lab.scope.clone(), Metrics::new(HUB, "edge1"));
    let (running, stop) = (refresher.clone(), lab.stop.clone());
    let connected = tokio::sync::watch::channel(true).1;
    lab.tracker.spawn(async move { running.run(connected, stop).await });
    let mut first = refresher.refreshed();
    timeout(LONG, first.wait_for(Option::is_some)).await.unwrap().unwrap();
    refresher
}

fn question(id: &str, source: &str, is_vouched: bool) -> Question {
    Question { name: device(id).name().clone(), source: source.parse().unwrap(), is_vouched }
}

#[tokio::test]
async fn a_new_device_is_known_by_one_question_with_its_keys() {
    let lab = Lab::start().await;
    let refresher = refreshed(&lab).await;
    let judged = refresher.refreshed();
    let before = lab.hub.counts();
    lab.hub.put_device(DeviceSpec::sas("late", "bmV3IGtleQ==").child_of("edge1"));
    assert!(refresher.ask(question("late", "10.0.0.1", false)).await);
    let sas = |key: &str| AuthKind::Sas {
        keys: SymmetricKeys {
            primary: KeySigner::from_base64(key).ok(),
            secondary: None,
            is_told: true,
        },
    };
    let entry = |id: &str| match lab.scope.lookup(device(id).name()) {
        Lookup::Entry(entry) => Some(entry),
        _ => None,
    };
    assert_eq!(entry("late").unwrap().auth, sas("bmV3IGtleQ=="));
    let now = lab.hub.counts();
    assert_eq!(now.scope_singles, before.scope_singles + 1);
    assert_eq!(now.scope_pages, before.scope_pages, "the whole is not asked for");
    assert!(judged.has_changed().unwrap(), "who is connected is judged again");

    // Re-keyed: within the gap nobody asks, whoever says that he is that device.
    lab.hub.put_device(DeviceSpec::sas("late", "YW5vdGhlciBrZXk=").child_of("edge1"));
    assert!(!refresher.ask(question("late", "10.0.0.1", false)).await);
    assert_eq!(lab.hub.counts().scope_singles, now.scope_singles);
    assert_eq!(refresher.refresh_these(&[device("late").name().clone()]).await.unwrap(), 1);
    assert_eq!(entry("late").unwrap().auth, sas("YW5vdGhlciBrZXk="));

    // Moved away: gone, for the answer's sake alone.
    lab.hub.put_device(DeviceSpec::certificate("d1"));
    assert!(refresher.ask(question("d1", "10.0.0.1", false)).await);
    assert_eq!(entry("d1"), None);
    lab.end().await;
}

#[tokio::test]
async fn a_question_without_an_answer_is_asked_again() {
    let lab = Lab::start().await;
    let refresher = refreshed(&lab).await;
    let fault = lab.hub.fault(FaultKind::RefuseScope { status: 403 });
    assert!(!refresher.ask(question("d1", "10.0.0.1", false)).await);
    assert!(matches!(lab.scope.lookup(device("d1").name()), Lookup::Entry(_)), "not gone");
    lab.hub.clear_fault(fault);
    assert!(refresher.ask(question("d1", "10.0.0.1", false)).await);
    lab.end().await;
}

/// Promise: a device that was disabled stays out, however late an older answer about it comes.
#[tokio::test]
async fn an_answer_that_a_whole_refresh_overtook_changes_nothing() {
    let lab = Lab::start().await;
    let refresher = refreshed(&lab).await;
    let d1 = device("d1");
    let status = || match lab.scope.lookup(d1.name()) {
        Lookup::Entry(entry) => entry.status,
        other => panic!("{other:?}"),
    };
    let asked = refresher.stamp().await;
    let entries = lab.api().fetch_one(d1.name(), &lab.scope).await.unwrap();
    let answer = Answer { asked: d1.name().clone(), entries };
    lab.hub.put_device(DeviceSpec::certificate("d1").child_of("edge1").disabled());
    refresher.refresh_now().await.unwrap();
    assert_eq!(status(), Status::Disabled);
    assert_eq!(refresher.settle(asked, answer.clone()).await, None);
    assert_eq!(status(), Status::Disabled, "the older answer is let go");

    // Asked for again, the hub says what is so now.
    lab.hub.put_device(DeviceSpec::certificate("d1").child_of("edge1"));
    assert_eq!(refresher.refresh_these(&[d1.name().clone()]).await.unwrap(), 1);
    assert_eq!(status(), Status::Enabled);
    let asked = refresher.stamp().await;
    assert_eq!(refresher.settle(asked, answer).await, Some(false), "in time, and nothing new");
    lab.end().await;
}

/// Who is not registered for anything is asked for each time: somebody may be about to finish it.
#[tokio::test]
async fn an_unfinished_registration_is_asked_for_again_within_the_gap() {
    let lab = Lab::start().await;
    let refresher = refreshed(&lab).await;
    let spec =
        |auth_type| DeviceSpec { auth_type, ..DeviceSpec::certificate("half").child_of("edge1") };
    lab.hub.put_device(spec(AuthType::None));
    assert!(refresher.ask(question("half", "10.0.0.1", false)).await);
    lab.hub.put_device(spec(AuthType::CertificateAuthority));
    assert!(refresher.ask(question("half", "10.0.0.1", false)).await);
    assert!(!refresher.ask(question("half", "10.0.0.1", false)).await, "finished");
    lab.end().await;
}

#[tokio::test]
async fn demands_do_not_undo_the_backing_off_from_a_hub_that_refuses() {
    let lab = Lab::with(|_| {}, |c| c.scope_refresh_gap_min = Duration::ZERO).await;
    let refresher = refreshed(&lab).await;
    lab.hub.fault(FaultKind::RefuseScope { status: 403 });
    for _ in 0..100 {
        refresher.request_refresh();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Waits of 0.1 s at least, that double.
    let refused = lab.hub.counts().scope_refused;
    assert!((1..30).contains(&refused), "{refused} tries for 100 demands");
    lab.end().await;
}

/// Promise: invented names neither spend the hub's quota nor keep a new device out.
#[tokio::test]
async fn ten_thousand_invented_names_are_a_few_questions_and_keep_nobody_out() {
    let lab = Lab::start().await;
    let refresher = refreshed(&lab).await;
    let before = lab.hub.counts();
    for n in 0..10_000 {
        refresher.ask(question(&format!("invented-{n}"), "10.0.0.66", false)).await;
    }
    let calls = || {
        let now = lab.hub.counts();
        let singles = now.scope_singles - before.scope_singles;
        (singles, now.scope_requests + now.scope_refused - before.scope_requests)
    };
    let (singles, all) = calls();
    assert!(singles <= 6 && all <= 10, "one address has a share of 5: {singles}, {all} in all");

    // From 256 addresses: more, and not more than all names without a proof have together.
    for n in 0..10_000 {
        let source = format!("10.0.1.{}", n % 256);
        refresher.ask(question(&format!("invented-too-{n}"), &source, false)).await;
    }
    let (singles, all) = calls();
    assert!(singles <= 25 && all <= 30, "{singles}, {all} in all");

    lab.hub.put_device(DeviceSpec::certificate("new").child_of("edge1"));
    assert!(refresher.ask(question("new", "10.0.0.7", true)).await);
    assert!(matches!(lab.scope.lookup(device("new").name()), Lookup::Entry(_)));
    lab.end().await;
}

/// Promise: one stranger, or one device that was taken out of service, does not keep the scope being fetched.
#[tokio::test]
async fn one_stranger_costs_ever_less() {
    let gap = Duration::from_millis(10);
    let lab = Lab::with(|_| {}, |c| c.scope_refresh_gap_min = gap).await;
    lab.hub.put_device(DeviceSpec::certificate("not-ours"));
    let refresher = refreshed(&lab).await;
    let before = lab.hub.counts();
    for _ in 0..200 {
        refresher.ask(question("not-ours", "10.0.0.66", true)).await;
        tokio::time::sleep(gap).await;
    }
    // Doubling from 10 ms it is 9 times in 5 s and 15 times in 5 minutes; a 401 is tried twice.
    let now = lab.hub.counts();
    let singles = now.scope_singles - before.scope_singles;
    assert!((2..=30).contains(&singles), "asked for {singles} times");

    // Whatever asks for the whole.
    for _ in 0..200 {
        refresher.request_refresh();
        tokio::time::sleep(gap).await;
    }
    let pages = lab.hub.counts().scope_pages - now.scope_pages;
    assert!(pages <= 15, "the whole was fetched {pages} times");

    // One whom a certificate vouches for is worth another one soon: the gap is the first again.
    assert!(refresher.demand().gap() > gap * 10);
    assert!(refresher.ask(question("new", "10.0.0.7", true)).await);
    assert!(refresher.demand().gap() < gap * 10);
    lab.end().await;
}

#[tokio::test]
async fn failures_are_tried_again_and_refusals_are_not() {
    let lab = Lab::start().await;
    lab.hub.fault(Fault::new(FaultKind::RefuseScope { status: 503 }).times(2));
    assert!(!lab.api().fetch().await.unwrap().is_empty());
    assert_eq!(lab.hub.counts().scope_refused, 2);
    lab.hub.fault(Fault::new(FaultKind::RefuseScope { status: 404 }));
    let got = lab.api().fetch().await;
    assert!(matches!(got, Err(ScopeFetchError::Refused { status: 404, .. })), "{got:?}");
    assert_eq!(lab.hub.counts().scope_refused, 3);
    lab.end().await;
}

#[tokio::test]
async fn the_scope_is_refreshed_at_start_on_reconnect_and_on_demand() {
    let lab = Lab::with(|_| {}, |c| c.scope_refresh_gap_min = Duration::from_millis(300)).await;
    lab.hub.fault(Fault::new(FaultKind::RefuseScope { status: 403 }).times(1));
    lab.upstream.ready().await;
    let refresher = ScopeRefresher::new(lab.api(), lab.scope.clone(), Metrics::new(HUB, "edge1"));
    let (running, connected, stop) =
        (refresher.clone(), lab.upstream.connected(), lab.stop.clone());
    lab.tracker.spawn(async move { running.run(connected, stop).await });
    let knows = async |id: &str| {
        timeout(LONG, async {
            while !matches!(lab.scope.lookup(device(id).name()), Lookup::Entry(_)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{id} never became known"));
    };
    knows("d1").await;

    lab.hub.put_device(DeviceSpec::certificate("late").child_of("edge1"));
    let before = lab.hub.counts().scope_requests;
    for _ in 0..10 {
        refresher.request_refresh();
    }
    knows("late").await;
    assert_eq!(lab.hub.counts().scope_requests, before + 1, "many asks are one");

    // A demand that came during the last refresh is met by one more; what follows must not live on that.
    tokio::time::sleep(Duration::from_millis(700)).await;
    lab.hub.put_device(DeviceSpec::certificate("later").child_of("edge1"));
    lab.hub.fault(FaultKind::DropConnections { condition: None });
    knows("later").await;
    lab.end().await;
}
