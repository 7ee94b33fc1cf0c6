//! Twins over the links of their identities.

use hub_double::{Fault, FaultKind};
use serde_json::{Value, json};

use super::*;
use crate::upstream::downlinks::CloudError;
use crate::upstream::tests::device;

fn json(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

async fn read(bench: &Bench, who: &Identity) -> Result<Bytes, CloudError> {
    timeout(LONG, bench.downlinks.twin(who)).await.expect("an answer")
}

async fn report(bench: &Bench, who: &Identity, patch: &Value) -> Result<Option<u64>, CloudError> {
    let patch = patch.to_string().into();
    timeout(LONG, bench.downlinks.report(who, patch)).await.expect("an answer")
}

#[tokio::test]
async fn a_twin_is_read_and_reported_without_being_wanted_and_its_links_go() {
    let linger = Duration::from_millis(300);
    let bench = Bench::with(Lab::start().await, |config| config.linger = linger).await;
    let d1 = device("d1");
    let twin = read(&bench, &d1).await.expect("a twin");
    assert_eq!(json(&twin), json!({"desired": {"$version": 1}, "reported": {"$version": 1}}));
    assert_eq!(report(&bench, &d1, &json!({"a": 1})).await, Ok(Some(2)));
    assert_eq!(report(&bench, &d1, &json!({"a": null, "b": {"c": 1}})).await, Ok(Some(3)));
    let twin = read(&bench, &d1).await.expect("a twin");
    assert_eq!(json(&twin)["reported"], json!({"b": {"c": 1}, "$version": 3}));
    bench.opens(Kind::Twin, 0).await;
    timeout(LONG, async {
        while !bench.downlinks.inner.table().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("nothing is kept of it");
    assert_eq!(report(&bench, &d1, &json!({"a": 1})).await, Ok(Some(4)), "and again");
    bench.end().await;
}

#[tokio::test]
async fn changes_are_told_to_whom_they_concern_and_again_after_each_reconnect() {
    let bench = Bench::start().await;
    let (d1, d2) = (device("d1"), device("d2"));
    bench.want(&d1, DESIRED);
    assert_eq!(bench.next().await, Said::Listening(d1.clone()));
    bench.lab.hub.patch_desired("d2", None, &json!({"not": "told"}));
    bench.lab.hub.patch_desired("d1", None, &json!({"a": {"b": 1}}));
    assert_eq!(
        bench.next().await,
        Said::Desired(d1.clone(), r#"{"$version":2,"a":{"b":1}}"#.into())
    );

    bench.lab.hub.go_away().await;
    bench.disconnected().await;
    assert_eq!(read(&bench, &d1).await, Err(CloudError::Offline));
    bench.want(&d2, DESIRED);
    bench.lab.hub.come_back().await.expect("the ports are still ours");
    let mut listening = [bench.next().await, bench.next().await];
    listening.sort_by_key(|said| format!("{said:?}"));
    assert_eq!(listening, [Said::Listening(d1.clone()), Said::Listening(d2.clone())]);

    // The links alone are lost.
    let connections = bench.lab.hub.counts().connections;
    bench.lab.hub.fault(Fault::new(FaultKind::DetachLinks { condition: None }).for_device("d2"));
    assert_eq!(bench.next().await, Said::Listening(d2.clone()));
    assert_eq!(bench.counted("downlink_ended", "twin"), 1);
    assert_eq!(bench.lab.hub.counts().connections, connections);

    // Not wanted any more.
    bench.want(&d1, NOTHING);
    bench.opens(Kind::Twin, 1).await;
    bench.lab.hub.patch_desired("d1", None, &json!({"not": "told"}));
    bench.lab.hub.patch_desired("d2", None, &json!({"last": 1}));
    assert!(matches!(bench.next().await, Said::Desired(who, _) if who == d2));
    bench.end().await;
}

/// A client that comes again at once is told that it can hear, though its links have stayed.
#[tokio::test]
async fn who_comes_back_at_once_is_told_that_it_listens() {
    let bench = Bench::start().await;
    let d1 = device("d1");
    bench.want(&d1, DESIRED);
    assert_eq!(bench.next().await, Said::Listening(d1.clone()));
    for _ in 0..20 {
        bench.want(&d1, NOTHING);
        bench.want(&d1, DESIRED);
        assert_eq!(bench.next().await, Said::Listening(d1.clone()));
    }
    bench.end().await;
}

#[tokio::test]
async fn what_the_hub_says_of_an_operation_is_what_the_asker_hears() {
    let bench = Bench::start().await;
    let d1 = device("d1");
    read(&bench, &d1).await.expect("a twin");
    let refused = report(&bench, &d1, &json!({"a.b": 1})).await;
    assert!(matches!(&refused, Err(CloudError::Refused { status: 400, .. })), "{refused:?}");
    for (status, at_least) in [(429, Some(Duration::from_secs(10))), (503, None)] {
        bench.lab.hub.fault(Fault::new(FaultKind::RefuseTwins { status }).times(1));
        let busy = read(&bench, &d1).await;
        assert!(
            matches!(&busy, Err(CloudError::Busy { after, .. }) if *after == at_least),
            "{busy:?}"
        );
    }
    bench.lab.hub.fault(Fault::new(FaultKind::RefuseTwins { status: 404 }).times(1));
    assert!(matches!(read(&bench, &d1).await, Err(CloudError::Unauthenticated(_))));
    // No answer within the time limit: all that wait hear it, and the links are opened again.
    bench.lab.hub.fault(Fault::new(FaultKind::DelayTwins { ms: 600_000 }).times(2));
    let patch = json!({"a": 3});
    let lost = tokio::join!(read(&bench, &d1), report(&bench, &d1, &patch));
    assert!(matches!(lost, (Err(CloudError::Lost(_)), Err(CloudError::Lost(_)))), "{lost:?}");
    let again = async {
        while let Err(error) = read(&bench, &d1).await {
            assert!(matches!(error, CloudError::Lost(_)), "{error:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, again).await.expect("at last");
    assert_eq!(bench.lab.hub.counts().connections, 1);
    bench.end().await;
}

/// Found in review: whoever reports takes "refused" for the hub's judgement of the patch, and drops it.
#[tokio::test]
async fn what_was_refused_to_the_links_is_no_judgement_of_what_is_asked() {
    let bench = Bench::start().await;
    let d1 = device("d1");
    bench.lab.hub.fault(Fault::new(FaultKind::RefuseTwins { status: 400 }).times(1));
    bench.want(&d1, DESIRED);
    timeout(LONG, async {
        while bench.counted("downlink_ended", "twin") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the wish to hear of changes is refused");
    let said = report(&bench, &d1, &json!({"a": 1})).await;
    assert!(matches!(said, Ok(_) | Err(CloudError::Lost(_))), "{said:?}");
    assert_eq!(bench.next().await, Said::Listening(d1.clone()));
    bench.end().await;
}

/// Found in review: a user name holds 64 KiB, and so much of a model id; an attach that is no frame ends the connection.
#[tokio::test]
async fn a_client_that_says_too_much_of_itself_does_not_end_the_connection() {
    let bench = Bench::start().await;
    let d1 = device("d1");
    let long: Box<str> = "\u{e4}".repeat(33_000).into();
    let product = Product { model_id: Some(long.clone()), client: Some(long) };
    bench.downlinks.want(&d1, ALL, product);
    for kind in Kind::ALL {
        bench.opens(kind, 1).await;
    }
    assert_eq!(bench.lab.hub.counts().connections, 1);
    bench.end().await;
}

#[tokio::test]
async fn an_identity_that_the_hub_refuses_holds_up_no_other_and_comes_back() {
    let bench = Bench::start().await;
    let (d1, d2) = (device("d1"), device("d2"));
    let condition = "amqp:unauthorized-access".to_owned();
    let fault =
        bench.lab.hub.fault(Fault::new(FaultKind::RefuseLinks { condition }).for_device("d1"));
    bench.want(&d1, ALL);
    bench.want(&d2, ALL);
    assert_eq!(bench.next().await, Said::Listening(d2.clone()));
    let refused = read(&bench, &d1).await;
    assert!(matches!(refused, Err(CloudError::Unauthenticated(_))), "{refused:?}");
    assert!(bench.counted("downlink_not_opened", "twin") > 0);
    bench.lab.hub.clear_fault(fault);
    assert_eq!(bench.next().await, Said::Listening(d1.clone()));
    for kind in Kind::ALL {
        bench.opens(kind, 2).await;
    }
    bench.end().await;
}

/// Nothing but downlinks uses this token: they have it renewed; and when the hub takes it for expired nonetheless they put it again.
#[tokio::test]
async fn the_token_of_who_only_listens_is_renewed() {
    let lab = Lab::with(|_| {}, |config| config.token_ttl = Duration::from_secs(4)).await;
    let bench = Bench::with(lab, |_| {}).await;
    let d1 = device("d1");
    bench.want(&d1, DESIRED);
    assert_eq!(bench.next().await, Said::Listening(d1.clone()));
    let before = bench.lab.hub.counts().tokens_accepted;
    timeout(LONG, async {
        // Ours and the device's, twice each at least.
        while bench.lab.hub.counts().tokens_accepted < before + 6 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("renewed");
    bench.lab.hub.patch_desired("d1", None, &json!({"a": 1}));
    assert!(matches!(bench.next().await, Said::Desired(..)));
    assert_eq!(bench.counted("downlink_ended", "twin"), 0);

    bench.lab.hub.fault(Fault::new(FaultKind::ExpireTokens { older_than_ms: 0 }).for_device("d1"));
    assert_eq!(bench.next().await, Said::Listening(d1.clone()));
    bench.end().await;
}

#[tokio::test]
async fn as_many_links_are_open_as_may_be_and_no_more() {
    let lab = Lab::start().await;
    let bench = Bench::with(lab, |config| config.links_max = 3).await;
    let (d1, d2) = (device("d1"), device("d2"));
    bench.want(&d1, DESIRED);
    assert_eq!(bench.next().await, Said::Listening(d1.clone()));
    let busy = read(&bench, &d2).await;
    assert!(matches!(busy, Err(CloudError::Busy { after: Some(_), .. })), "{busy:?}");
    assert_eq!(bench.counted("downlink_not_opened", "links_max"), 1);
    bench.want(&d1, MESSAGES);
    bench.opens(Kind::CloudToDevice, 1).await;
    bench.end().await;
}
