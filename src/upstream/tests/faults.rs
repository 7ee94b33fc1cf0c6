//! What the caller hears when the hub does not behave.

use std::time::Duration;

use futures_util::future::join_all;
use hub_double::{DeviceSpec, Fault, FaultKind};

use super::*;

fn withhold() -> FaultKind {
    FaultKind::WithholdDispositions { forever: true }
}

#[tokio::test]
async fn away_and_back() {
    let lab = Lab::start().await;
    let d1 = device("d1");
    let mut connected = lab.upstream.connected();
    assert_eq!(lab.deliver(&d1, &messages(&d1, 0..1)).await, Outcome::Delivered);
    assert!(*connected.borrow_and_update());

    lab.hub.go_away().await;
    timeout(LONG, connected.wait_for(|up| !up)).await.unwrap().unwrap();
    assert_eq!(lab.upstream.deliver(&d1, &messages(&d1, 1..2)).await, Outcome::Offline);
    let waits = timeout(Duration::from_millis(200), lab.upstream.ready()).await;
    assert!(waits.is_err(), "not ready while the hub is away");

    lab.hub.come_back().await.unwrap();
    lab.deliver_at_last(&d1, &messages(&d1, 1..2)).await;
    assert!(*lab.upstream.connected().borrow());
    assert_eq!(lab.hub.counts().received, 2);
    lab.end().await;
}

#[tokio::test]
async fn what_is_in_flight_when_the_connection_ends_is_offline_at_once() {
    for condition in [None, Some("amqp:connection:forced".to_owned())] {
        let lab = Lab::with(|_| {}, |c| c.operation_timeout = LONG).await;
        let d1 = device("d1");
        lab.hub.fault(withhold());
        let batch = messages(&d1, 0..1);
        let (outcome, ()) = tokio::join!(lab.deliver(&d1, &batch), async {
            lab.hub.wait_for(1).await;
            lab.hub.fault(FaultKind::DropConnections { condition: condition.clone() });
        });
        assert_eq!(outcome, Outcome::Offline, "{condition:?}");
        lab.hub.clear_faults();
        lab.deliver_at_last(&d1, &batch).await;
        lab.end().await;
    }
}

#[tokio::test]
async fn a_sender_whose_dispositions_are_withheld_stands_alone() {
    let lab = Lab::start().await;
    let (d1, d2) = (device("d1"), device("d2"));
    lab.hub.fault(Fault::new(withhold()).for_device("d1"));
    let (stuck, free) = (messages(&d1, 0..1), messages(&d2, 0..1));
    let (stuck, free) = tokio::join!(lab.deliver(&d1, &stuck), async {
        let mut outcomes = Vec::new();
        for _ in 0..20 {
            outcomes.push(lab.deliver(&d2, &free).await);
        }
        outcomes
    });
    assert!(is_retry(&stuck, "timeout"), "{stuck:?}");
    assert!(free.iter().all(|o| *o == Outcome::Delivered), "{free:?}");
    lab.hub.clear_faults();
    assert_eq!(lab.deliver(&d1, &messages(&d1, 0..1)).await, Outcome::Delivered);
    assert_eq!(lab.hub.counts().connections, 1, "the connection was not to blame");
    lab.end().await;
}

/// The session window: one session carries 64 links, and 63 of them hold a batch of 240 KiB that is never settled.
#[tokio::test]
async fn a_session_full_of_stuck_links_still_lets_the_last_one_through() {
    let ids: Vec<_> = (0..63).map(|n| format!("stuck-{n}")).collect();
    let mut specs: Vec<_> =
        ids.iter().map(|id| DeviceSpec::certificate(id).child_of("edge1")).collect();
    specs.push(DeviceSpec::certificate("d1").child_of("edge1"));
    let lab = Lab::with(
        |hub| hub.devices = specs,
        |c| {
            c.operation_timeout = LONG;
            c.timeouts_max = usize::MAX;
        },
    )
    .await;
    // One after the other, so that they share one session.
    for id in &ids {
        let sender = device(id);
        assert_eq!(lab.deliver(&sender, &messages(&sender, 0..1)).await, Outcome::Delivered);
    }
    for id in &ids {
        lab.hub.fault(Fault::new(withhold()).for_device(id));
    }
    let stuck = join_all(ids.iter().map(async |id| {
        let sender = device(id);
        lab.deliver(&sender, &[message(&sender, 1, vec![0; 240 * 1024])]).await
    }));
    let free = async {
        lab.hub.wait_for(2 * 63).await;
        let d1 = device("d1");
        lab.deliver(&d1, &[message(&d1, 0, vec![0; 240 * 1024])]).await
    };
    let free = tokio::select! {
        free = free => free,
        stuck = stuck => panic!("the stuck ones ended first: {stuck:?}"),
    };
    assert_eq!(free, Outcome::Delivered);
    assert_eq!(lab.hub.counts().connections, 1);
    lab.end().await;
}

#[tokio::test]
async fn a_throttled_sender_waits_and_the_others_go_on() {
    let lab = Lab::start().await;
    let (d1, d2) = (device("d1"), device("d2"));
    let throttle = FaultKind::Throttle { per_second: None };
    lab.hub.fault(Fault::new(throttle).for_device("d1").times(1));
    let got = lab.deliver(&d1, &messages(&d1, 0..1)).await;
    assert!(
        matches!(got, Outcome::Retry { after: Some(a), reason: "throttled" } if a >= Duration::from_secs(10)),
        "{got:?}"
    );
    assert_eq!(lab.deliver(&d2, &messages(&d2, 0..1)).await, Outcome::Delivered);
    assert_eq!(lab.deliver(&d1, &messages(&d1, 0..1)).await, Outcome::Delivered);
    assert_eq!(lab.hub.counts().links_attached, 2, "throttling costs no link");
    lab.end().await;
}

#[tokio::test]
async fn a_bad_message_is_rejected_and_its_link_goes_on() {
    let lab = Lab::start().await;
    let d1 = device("d1");
    lab.hub.fault(FaultKind::RejectMessage {
        condition: "com.microsoft:argument-error".to_owned(),
        message_id: Some("d1-0".to_owned()),
        property: None,
    });
    let got = lab.deliver(&d1, &messages(&d1, 0..1)).await;
    assert!(matches!(&got, Outcome::Rejected { reason: "argument-error", .. }), "{got:?}");
    assert_eq!(lab.deliver(&d1, &messages(&d1, 1..2)).await, Outcome::Delivered);
    assert_eq!(lab.hub.counts().links_attached, 1);
    lab.end().await;
}

#[tokio::test]
async fn released_and_modified_are_retried() {
    let lab = Lab::start().await;
    let d1 = device("d1");
    for (kind, reason) in [(FaultKind::Release, "released"), (FaultKind::Modify, "modified")] {
        lab.hub.fault(Fault::new(kind).times(1));
        let got = lab.deliver(&d1, &messages(&d1, 0..1)).await;
        assert!(is_retry(&got, reason), "{got:?}");
    }
    assert_eq!(lab.deliver(&d1, &messages(&d1, 0..1)).await, Outcome::Delivered);
    lab.end().await;
}

#[tokio::test]
async fn an_identity_that_the_hub_does_not_accept_is_told_apart() {
    let lab = Lab::start().await;
    lab.hub.put_device(DeviceSpec::certificate("orphan"));
    lab.hub.put_device(DeviceSpec::certificate("off").child_of("edge1").disabled());
    for id in ["nobody", "orphan", "off"] {
        let sender = device(id);
        let got = lab.deliver(&sender, &messages(&sender, 0..1)).await;
        assert!(matches!(got, Outcome::Unauthenticated { .. }), "{id}: {got:?}");
    }
    // It heals when the registry does.
    lab.hub.put_device(DeviceSpec::certificate("off").child_of("edge1"));
    let off = device("off");
    assert_eq!(lab.deliver(&off, &messages(&off, 0..1)).await, Outcome::Delivered);
    assert_eq!(lab.hub.counts().connections, 1);
    lab.end().await;
}

#[tokio::test]
async fn one_refusal_is_met_with_a_fresh_token() {
    let lab = Lab::start().await;
    let unauthorized = || "amqp:unauthorized-access".to_owned();
    for (id, kind) in [
        ("d1", FaultKind::RefuseLinks { condition: unauthorized() }),
        ("d2", FaultKind::RefuseTokens { status: 401 }),
    ] {
        let sender = device(id);
        lab.hub.fault(Fault::new(kind.clone()).for_device(id).times(1));
        let got = lab.deliver(&sender, &messages(&sender, 0..1)).await;
        assert_eq!(got, Outcome::Delivered, "{kind:?}");
    }
    // And with a link that stood.
    for (n, kind) in [
        FaultKind::ExpireTokens { older_than_ms: 0 },
        FaultKind::DetachLinks { condition: Some(unauthorized()) },
        FaultKind::DetachLinks { condition: None },
    ]
    .into_iter()
    .enumerate()
    {
        let d1 = device("d1");
        lab.hub.fault(kind.clone());
        tokio::time::sleep(Duration::from_millis(50)).await;
        let n = n as u64 + 1;
        let got = lab.deliver(&d1, &messages(&d1, n..n + 1)).await;
        assert_eq!(got, Outcome::Delivered, "{kind:?}");
    }
    assert_eq!(lab.hub.counts().duplicates, 0);
    lab.end().await;
}

#[tokio::test]
async fn a_busy_token_service_is_retried() {
    let lab = Lab::start().await;
    let d1 = device("d1");
    lab.upstream.ready().await;
    lab.hub.fault(Fault::new(FaultKind::RefuseTokens { status: 500 }).times(1));
    let got = lab.deliver(&d1, &messages(&d1, 0..1)).await;
    assert!(is_retry(&got, "token_busy"), "{got:?}");
    assert_eq!(lab.deliver(&d1, &messages(&d1, 0..1)).await, Outcome::Delivered);
    lab.end().await;
}

#[tokio::test]
async fn a_silent_hub_is_noticed_by_the_first_delivery_and_found_again() {
    let lab = Lab::start().await;
    let d1 = device("d1");
    assert_eq!(lab.deliver(&d1, &messages(&d1, 0..1)).await, Outcome::Delivered);
    let fault = lab.hub.fault(FaultKind::BlackHole);
    let mut connected = lab.upstream.connected();
    let got = lab.deliver(&d1, &messages(&d1, 1..2)).await;
    assert!(is_retry(&got, "timeout"), "{got:?}");
    timeout(LONG, connected.wait_for(|up| !up)).await.expect("the probe fails too").unwrap();
    lab.hub.clear_fault(fault);
    lab.deliver_at_last(&d1, &messages(&d1, 1..2)).await;
    lab.end().await;
}

#[tokio::test]
async fn a_silent_hub_is_noticed_without_any_delivery() {
    let lab = Lab::with(
        |hub| hub.idle_timeout = Duration::from_secs(3),
        |c| c.silence_max = Duration::from_secs(2),
    )
    .await;
    lab.upstream.ready().await;
    let mut connected = lab.upstream.connected();
    let early = timeout(Duration::from_secs(5), connected.wait_for(|up| !up)).await.is_ok();
    assert!(!early, "heartbeats keep an idle connection");
    lab.hub.fault(FaultKind::BlackHole);
    timeout(LONG, connected.wait_for(|up| !up)).await.expect("silence is noticed").unwrap();
    lab.hub.clear_faults();
    lab.end().await;
}

#[tokio::test]
async fn a_delivery_that_is_given_up_does_not_wedge_its_link() {
    let lab = Lab::start().await;
    let d1 = device("d1");
    // At every stage: token, attach, transfer, disposition.
    for millis in 0..40 {
        let batch = [message(&d1, millis, vec![0; 200_000])];
        let given_up = lab.upstream.deliver(&d1, &batch);
        let _ = timeout(Duration::from_millis(millis), given_up).await;
        lab.deliver_at_last(&d1, &batch).await;
    }
    lab.hub.fault(withhold());
    let batch = messages(&d1, 100..101);
    assert!(timeout(Duration::from_millis(200), lab.deliver(&d1, &batch)).await.is_err());
    lab.hub.clear_faults();
    assert_eq!(lab.deliver(&d1, &batch).await, Outcome::Delivered);
    let counts = lab.hub.counts();
    assert_eq!((counts.connections, counts.reordered), (1, 0));
    lab.end().await;
}

#[tokio::test]
async fn a_wrong_key_never_counts_as_connected() {
    let lab =
        Lab::with(|_| {}, |c| c.signer = Arc::new(KeySigner::from_base64("d3Jvbmc=").unwrap()))
            .await;
    timeout(LONG, async {
        while lab.hub.counts().tokens_refused < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("it tries on");
    assert!(!*lab.upstream.connected().borrow());
    lab.end().await;
}

/// It is given up, and tried again on a session of its own, on the same connection.
#[tokio::test]
async fn an_attach_that_is_never_answered_does_not_last_until_the_next_connection() {
    let lab = Lab::start().await;
    let mut fault = Fault::new(FaultKind::IgnoreLinks).for_device("d1");
    fault.count = Some(2);
    lab.hub.fault(fault);
    let (d1, d2) = (device("d1"), device("d2"));
    lab.deliver_at_last(&d1, &messages(&d1, 0..3)).await;
    lab.deliver_at_last(&d2, &messages(&d2, 0..3)).await;
    assert_eq!(lab.hub.connections().len(), 1);
    assert_eq!(lab.hub.counts().connections, 1, "nobody else's links were ended");
    lab.end().await;
}

/// Also of one that is not connected, whose links are closed as soon as they are idle.
#[tokio::test]
async fn who_is_never_answered_holds_one_session_of_others_and_no_more() {
    let lab = Lab::with(
        |_| {},
        |config| {
            config.absent_link_close = Duration::from_millis(50);
            config.is_present = Some(Arc::new(|_| false));
        },
    )
    .await;
    lab.hub.fault(Fault::new(FaultKind::IgnoreLinks).for_device("d1"));
    timeout(LONG, lab.upstream.ready()).await.expect("connected");
    let live = lab.upstream.live.borrow().clone().expect("connected");
    let d1 = device("d1");
    for _ in 0..4 {
        let outcome = lab.deliver(&d1, &messages(&d1, 0..1)).await;
        assert!(is_retry(&outcome, "attach_timeout"), "{outcome:?}");
        // Time for what is idle to be tidied up: without it nothing is tried, and nothing fails.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(live.given_up(), 1);
    drop(live);
    lab.end().await;
}
