//! Direct methods over the links of their identities.

use hub_double::MethodError;
use serde_json::json;

use super::*;
use crate::upstream::tests::{device, module};

async fn call(
    bench: &Bench,
    device: &str,
    name: &str,
    limit: Duration,
) -> Result<i64, MethodError> {
    let payload = json!({"x": [1, "ü"]});
    let answer = bench.lab.hub.call_method(device, None, name, &payload, limit).await?;
    assert_eq!(answer.payload, payload);
    Ok(answer.status)
}

#[tokio::test]
async fn a_call_reaches_its_identity_and_the_answer_its_caller() {
    let bench = Bench::start().await;
    let (d1, d2) = (device("d1"), device("d2"));
    assert_eq!(call(&bench, "d1", "echo", LONG).await, Err(MethodError::NotOnline));
    bench.want(&d1, METHODS);
    bench.want(&d2, METHODS);
    bench.opens(Kind::Methods, 2).await;
    assert_eq!(
        call(&bench, "d1", "mute", Duration::from_millis(50)).await,
        Err(MethodError::Timeout)
    );
    assert_eq!(bench.next().await, Said::Called(d1.clone(), "mute".into()));
    let both = tokio::join!(call(&bench, "d1", "a", LONG), call(&bench, "d2", "b", LONG));
    assert_eq!(both, (Ok(-7), Ok(-7)), "one that is mute holds up none");

    // Not wanted any more, with a call under way: that has its time, then the links go.
    bench.want(&d1, NOTHING);
    bench.opens(Kind::Methods, 1).await;
    assert_eq!(call(&bench, "d1", "echo", LONG).await, Err(MethodError::NotOnline));
    assert_eq!(call(&bench, "d2", "echo", LONG).await, Ok(-7));
    bench.lab.hub.go_away().await;
    bench.disconnected().await;
    bench.lab.hub.come_back().await.expect("the ports are still ours");
    bench.connected().await;
    bench.opens(Kind::Methods, 1).await;
    assert_eq!(call(&bench, "d2", "echo", LONG).await, Ok(-7));
    bench.end().await;
}

#[tokio::test]
async fn so_many_calls_are_under_way_and_one_more_is_answered_429() {
    let lab = Lab::start().await;
    let bench =
        Bench::with(lab, |config| (config.calls_max, config.calls_max_total) = (2, 3)).await;
    bench.want(&device("d1"), METHODS);
    bench.want(&device("d2"), METHODS);
    bench.opens(Kind::Methods, 2).await;
    let mute = async |device: &str| {
        let short = Duration::from_millis(50);
        bench.lab.hub.call_method(device, None, "mute", &json!(1), short).await
    };
    let status = async |device: &str| {
        bench.lab.hub.call_method(device, None, "echo", &json!(1), LONG).await.unwrap().status
    };
    assert_eq!(mute("d1").await, Err(MethodError::Timeout));
    assert_eq!(status("d1").await, -7);
    assert_eq!(mute("d1").await, Err(MethodError::Timeout));
    assert_eq!(status("d1").await, 429);
    assert_eq!(mute("d2").await, Err(MethodError::Timeout));
    assert_eq!(status("d2").await, 429);
    assert_eq!(bench.counted("method_call_refused", "identity"), 1);
    assert_eq!(bench.counted("method_call_refused", "total"), 1);
    // What was under way goes with its links.
    bench.lab.hub.fault(hub_double::FaultKind::DetachLinks { condition: None });
    timeout(LONG, async {
        while bench.downlinks.inner.calls.available_permits() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("forgotten");
    bench.end().await;
}

#[tokio::test]
async fn a_module_has_methods_and_a_twin_and_no_messages() {
    let bench = Bench::start().await;
    let spec = hub_double::ModuleSpec {
        device_id: "edge1".into(),
        module_id: "m".into(),
        ..hub_double::ModuleSpec::default()
    };
    bench.lab.hub.put_module(spec).expect("its device is there");
    let m = module("edge1", "m");
    bench.want(&m, ALL);
    assert_eq!(bench.next().await, Said::Listening(m.clone()));
    bench.opens(Kind::Methods, 1).await;
    assert_eq!(bench.open(Kind::CloudToDevice), 0);
    let answer =
        bench.lab.hub.call_method("edge1", Some("m"), "f", &json!(null), LONG).await.unwrap();
    assert_eq!(answer.status, -7);
    bench.end().await;
}
