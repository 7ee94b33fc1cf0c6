//! A refresh of the whole and questions about one identity at the same time. The order of events is the order in which they
//! wait for the lock of [`Since`], which is fair: no test goes by time.

use std::pin::pin;
use std::time::Duration;

use futures_util::poll;
use hub_double::{DeviceSpec, FaultKind};

use super::*;
use crate::auth::scope::Status;
use crate::identity::{ClientName, DeviceId};
use crate::upstream::tests::{LONG, Lab};

const HUB: &str = "contoso.azure-devices.net";

fn d1() -> ClientName {
    ClientName::Device(DeviceId::parse("d1").unwrap())
}

fn refresher(lab: &Lab) -> Arc<ScopeRefresher> {
    ScopeRefresher::new(lab.api(), lab.scope.clone(), Metrics::new(HUB, "edge1"))
}

fn status(lab: &Lab) -> Status {
    match lab.scope.lookup(&d1()) {
        Lookup::Entry(entry) => entry.status,
        other => panic!("{other:?}"),
    }
}

/// Drives `work`, which is not done by then, until `is_so`.
async fn drive(mut work: impl Future + Unpin, is_so: impl Fn() -> bool) {
    timeout(LONG, async {
        while !is_so() {
            assert!(poll!(&mut work).is_pending(), "it waits for the lock");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap();
}

/// Promise: what the hub says about one identity while the whole is fetched is not undone by the list, which may be older;
/// nor is it kept for the refresh after that.
#[tokio::test]
async fn an_answer_that_came_during_a_whole_refresh_outlasts_it() {
    let lab = Lab::start().await;
    let refresher = refresher(&lab);
    refresher.refresh_now().await.unwrap();
    let mut entries = lab.api().fetch_one(&d1(), &lab.scope).await.unwrap();
    entries.iter_mut().for_each(|entry| entry.status = Status::Disabled);

    let before = refresher.since.lock().await;
    let mut refresh = pin!(refresher.refresh_now());
    assert!(poll!(&mut refresh).is_pending(), "it is to begin when the lock is free");
    let mut next = pin!(refresher.since.lock());
    assert!(poll!(&mut next).is_pending());
    drop(before);
    assert!(poll!(&mut refresh).is_pending(), "it has begun and fetches");
    let begun = next.await;
    assert!(begun.answers.is_some(), "answers are kept for it");
    let answer = Answer { asked: d1(), entries };
    let mut settling = pin!(refresher.settle(begun.stamp, answer));
    assert!(poll!(&mut settling).is_pending(), "first in the line");
    // The list says that the device is enabled.
    let lists = lab.hub.counts().scope_requests;
    drive(&mut refresh, || lab.hub.counts().scope_requests > lists).await;
    drop(begun);
    assert_eq!(settling.await, Some(true));
    assert_eq!(status(&lab), Status::Disabled);
    refresh.await.unwrap();
    assert_eq!(status(&lab), Status::Disabled, "the list is older than the answer");

    refresher.refresh_now().await.unwrap();
    assert_eq!(status(&lab), Status::Enabled, "this list is newer");
    lab.end().await;
}

#[tokio::test]
async fn a_refresh_that_fails_keeps_no_answers_and_lets_questions_be() {
    let lab = Lab::start().await;
    let refresher = refresher(&lab);
    refresher.refresh_now().await.unwrap();
    let fault = lab.hub.fault(FaultKind::RefuseScope { status: 403 });
    assert!(refresher.refresh_now().await.is_err());
    assert!(refresher.since.lock().await.answers.is_none(), "nobody would take them");
    lab.hub.clear_fault(fault);
    lab.hub.put_device(DeviceSpec::certificate("d1").child_of("edge1").disabled());
    assert!(refresher.refresh_one(&d1()).await.unwrap());
    assert_eq!(status(&lab), Status::Disabled);
    lab.end().await;
}

/// Promise: an answer that a refresh overtook is let go, and the hub is asked again.
#[tokio::test]
async fn an_identity_is_asked_for_again_when_a_refresh_overtook_the_answer() {
    let lab = Lab::start().await;
    let refresher = refresher(&lab);
    refresher.refresh_now().await.unwrap();
    let singles = || lab.hub.counts().scope_singles;
    let first = singles();
    let name = d1();

    let before = refresher.since.lock().await;
    let mut asking = pin!(refresher.refresh_one(&name));
    assert!(poll!(&mut asking).is_pending(), "it is to be stamped when the lock is free");
    let mut next = pin!(refresher.since.lock());
    assert!(poll!(&mut next).is_pending());
    drop(before);
    assert!(poll!(&mut asking).is_pending(), "it is stamped and asks");
    let mut stamped = next.await;
    drive(&mut asking, || singles() > first).await;
    // A refresh begins; and meanwhile the device is disabled.
    stamped.stamp += 1;
    lab.hub.put_device(DeviceSpec::certificate("d1").child_of("edge1").disabled());
    drop(stamped);
    assert!(asking.await.unwrap(), "news");
    assert_eq!(singles(), first + 2);
    assert_eq!(status(&lab), Status::Disabled, "what the second answer says");
    lab.end().await;
}

#[tokio::test]
async fn an_identity_whose_answers_are_always_overtaken_is_not_asked_for_for_ever() {
    let lab = Lab::start().await;
    let refresher = refresher(&lab);
    refresher.refresh_now().await.unwrap();
    let before = lab.hub.counts().scope_singles;
    lab.hub.put_device(DeviceSpec::certificate("d1").child_of("edge1").disabled());
    // On one thread: it has its turn whenever the question waits for the network.
    let overtake = async {
        loop {
            refresher.since.lock().await.stamp += 1;
            tokio::task::yield_now().await;
        }
    };
    let name = d1();
    let asked = tokio::select! {
        asked = timeout(LONG, refresher.refresh_one(&name)) => asked.unwrap(),
        () = overtake => unreachable!("it has no end"),
    };
    assert!(matches!(asked, Err(ScopeFetchError::Unavailable(_))), "{asked:?}");
    assert_eq!(lab.hub.counts().scope_singles, before + ASKED_AGAIN_MAX as u64);
    assert_eq!(status(&lab), Status::Enabled, "no answer was taken");
    lab.end().await;
}
