//! The scope API against the double.

use std::time::Duration;

use hub_double::{DeviceSpec, Fault, FaultKind};

use super::*;
use crate::auth::scope::{AuthKind, Lookup, Status, SymmetricKeys};
use crate::upstream::refresh::ScopeRefresher;
use crate::upstream::scope_api::{ScopeApi, ScopeFetchError};

impl Lab {
    fn api(&self) -> ScopeApi {
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
        keys: SymmetricKeys { primary: KeySigner::from_base64(key).ok(), secondary: None },
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
    lab.hub.put_device(DeviceSpec::certificate("not-ours"));
    let api = lab.api();
    let found = api.fetch_one(device("d1").name(), &lab.scope).await.unwrap();
    assert!(found.iter().any(|e| e.name.to_string() == "d1"), "{found:?}");
    let found = api.fetch_one(device("nobody").name(), &lab.scope).await;
    assert!(matches!(&found, Ok(none) if none.is_empty()), "{found:?}");
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
