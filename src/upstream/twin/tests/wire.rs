//! The twin against the hub double.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hub_double::{Fault, FaultKind, MethodError};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::upstream::tests::{LONG, Lab};
use crate::upstream::twin::{
    DesiredDocument, Methods, Report, ReportError, TwinClient, TwinConfig, TwinEvent, TwinHandle,
};

const EDGE_HUB: (&str, Option<&str>) = ("edge1", Some("$edgeHub"));

/// Answers `echo` with what it gets, and never answers `mute`.
#[derive(Default)]
struct Echo(Mutex<Vec<String>>);

impl Methods for Echo {
    fn call(&self, name: String, payload: Vec<u8>) -> BoxFuture<'static, (i32, Value)> {
        let mute = name == "mute";
        self.0.lock().unwrap().push(name);
        Box::pin(async move {
            if mute {
                std::future::pending::<()>().await;
            }
            (201, serde_json::from_slice(&payload).unwrap_or(Value::Null))
        })
    }
}

fn start(lab: &Lab) -> TwinHandle {
    let config = TwinConfig { refresh_every: Duration::from_secs(3600) };
    let (client, handle) = TwinClient::new(lab.upstream.clone(), config, Arc::new(Echo::default()));
    lab.tracker.spawn(client.run(lab.stop.clone()));
    handle
}

async fn next(twin: &mut TwinHandle) -> TwinEvent {
    timeout(LONG, twin.events.recv()).await.expect("in time").expect("the twin runs")
}

async fn document(twin: &mut TwinHandle) -> DesiredDocument {
    loop {
        if let TwinEvent::Desired(document) = next(twin).await {
            return document;
        }
    }
}

async fn report(twin: &TwinHandle, patch: Value) -> Result<Option<u64>, ReportError> {
    let (done, answered) = oneshot::channel();
    twin.reports.send(Report { patch, done }).await.expect("the twin runs");
    timeout(LONG, answered).await.expect("in time").expect("an answer")
}

fn desire(lab: &Lab, patch: &Value) {
    lab.hub.patch_desired(EDGE_HUB.0, EDGE_HUB.1, patch);
}

#[tokio::test]
async fn desired_properties_come_at_once_and_follow_each_change() {
    let lab = Lab::start().await;
    let mut twin = start(&lab);
    assert_eq!(next(&mut twin).await, TwinEvent::Opened);
    let first = document(&mut twin).await;
    let empty = DesiredDocument { text: r#"{"$version":1}"#.to_owned(), version: 1, empty: true };
    assert_eq!(first, empty);
    desire(&lab, &json!({"a": {"b": 1}}));
    assert_eq!(document(&mut twin).await.text, r#"{"$version":2,"a":{"b":1}}"#);
    desire(&lab, &json!({"a": {"b": null}, "c": 1}));
    assert_eq!(document(&mut twin).await.text, r#"{"$version":3,"a":{},"c":1}"#);
    assert_eq!(lab.hub.counts().twin_gets, 1, "patches are enough");

    // A gap.
    lab.hub.fault(Fault::new(FaultKind::DropDesired).times(1));
    desire(&lab, &json!({"missed": 1}));
    desire(&lab, &json!({"c": 2}));
    assert_eq!(document(&mut twin).await.text, r#"{"$version":5,"a":{},"c":2,"missed":1}"#);
    assert_eq!(lab.hub.counts().twin_gets, 2);

    // Missed altogether, and asked for.
    lab.hub.fault(Fault::new(FaultKind::DropDesired).times(1));
    desire(&lab, &json!({"c": 3}));
    twin.refresh.notify_one();
    assert_eq!(document(&mut twin).await.version, 6);
    lab.end().await;
}

#[tokio::test]
async fn a_new_connection_reads_the_twin_again() {
    let lab = Lab::start().await;
    let mut twin = start(&lab);
    document(&mut twin).await;
    lab.hub.go_away().await;
    desire(&lab, &json!({"a": 1}));
    lab.hub.come_back().await.expect("the ports are still ours");
    assert_eq!(next(&mut twin).await, TwinEvent::Opened);
    assert_eq!(document(&mut twin).await.text, r#"{"$version":2,"a":1}"#);
    // The links alone are lost: the connection stays.
    let connections = lab.hub.counts().connections;
    lab.hub.fault(FaultKind::DetachLinks { condition: None });
    assert_eq!(next(&mut twin).await, TwinEvent::Opened);
    desire(&lab, &json!({"a": 2}));
    assert_eq!(document(&mut twin).await.version, 3);
    assert_eq!(lab.hub.counts().connections, connections);
    lab.end().await;
}

#[tokio::test]
async fn reports_are_answered_with_what_the_hub_says() {
    let lab = Lab::start().await;
    let mut twin = start(&lab);
    document(&mut twin).await;
    assert_eq!(report(&twin, json!({"a": 1, "b": {"c": 2}})).await, Ok(Some(2)));
    assert_eq!(report(&twin, json!({"b": null})).await, Ok(Some(3)));
    let shown = lab.hub.twin(EDGE_HUB.0, EDGE_HUB.1).expect("a twin");
    assert_eq!(shown["properties"]["reported"], json!({"a": 1, "$version": 3}));
    let refused = report(&twin, json!({"a.b": 1})).await;
    assert!(
        matches!(&refused, Err(ReportError::Refused(why)) if why.contains("400")),
        "{refused:?}"
    );
    lab.hub.fault(Fault::new(FaultKind::RefuseTwins { status: 429 }).times(1));
    let busy = report(&twin, json!({"a": 2})).await;
    assert!(matches!(busy, Err(ReportError::Busy { after: Some(_), .. })), "{busy:?}");
    // No answer within the time limit: the links are opened again.
    lab.hub.fault(Fault::new(FaultKind::DelayTwins { ms: 60_000 }).times(1));
    assert_eq!(report(&twin, json!({"a": 3})).await, Err(ReportError::Lost));
    assert_eq!(report(&twin, json!({"a": 4})).await.map(|_| ()), Ok(()));
    lab.end().await;
}

#[tokio::test]
async fn methods_are_called_and_one_that_is_mute_holds_up_none() {
    let lab = Lab::start().await;
    let mut twin = start(&lab);
    document(&mut twin).await;
    let call = async |name: &str, limit: Duration| {
        lab.hub.call_method(EDGE_HUB.0, EDGE_HUB.1, name, &json!({"x": [1]}), limit).await
    };
    assert_eq!(call("mute", Duration::from_millis(50)).await, Err(MethodError::Timeout));
    let answer = call("echo", LONG).await.expect("an answer");
    assert_eq!((answer.status, answer.payload), (201, json!({"x": [1]})));
    for _ in 0..7 {
        assert_eq!(call("mute", Duration::from_millis(50)).await, Err(MethodError::Timeout));
    }
    assert_eq!(
        call("echo", LONG).await.map(|answer| answer.status),
        Ok(429),
        "eight are under way"
    );
    lab.end().await;
}

#[tokio::test]
async fn a_hub_that_refuses_the_twin_still_gets_telemetry() {
    let lab = Lab::start().await;
    let mut twin = start(&lab);
    document(&mut twin).await;
    lab.hub.fault(FaultKind::RefuseTwins { status: 500 });
    lab.hub.fault(FaultKind::DelayTwins { ms: 60_000 });
    let refused = report(&twin, json!({"a": 1})).await;
    assert_eq!(refused, Err(ReportError::Lost));
    let d1 = crate::upstream::tests::device("d1");
    let batch = crate::upstream::tests::messages(&d1, 0..3);
    assert_eq!(lab.deliver(&d1, &batch).await, crate::deliver::Outcome::Delivered);
    assert_eq!(lab.hub.counts().connections, 1);
    lab.end().await;
}

/// Telemetry has the connection, too: a hub that ends it whenever there are links of a twin leaves it less and less often.
#[tokio::test]
async fn a_hub_that_ends_the_connection_over_the_twin_is_not_pressed() {
    let lab = Lab::start().await;
    let mut twin = start(&lab);
    let end = tokio::time::Instant::now() + Duration::from_secs(12);
    let mut opened = 0;
    while let Ok(event) = tokio::time::timeout_at(end, twin.events.recv()).await {
        if event == Some(TwinEvent::Opened) {
            opened += 1;
            lab.hub.fault(FaultKind::DropConnections { condition: None });
        }
    }
    // Each time the upstream is back after a second at most: without waits of the twin's own it would be thirteen times.
    assert!((2..=8).contains(&opened), "{opened}");
    lab.end().await;
}
