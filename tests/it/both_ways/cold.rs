//! A device that comes for the first time while the hub is away, and asks for its twin.

use serde_json::json;

use super::speaker::Who;
use super::{desired, end, until_reported, world};

/// By default the twin is empty, as edgeHub's is; what is desired comes as one patch when the hub is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_twin_of_which_nothing_is_kept_is_empty_until_the_hub_is_back() {
    let world = world().await;
    let (first, second) = (Who::device(&world, 0), Who::device(&world, 1));
    let gateway = world.gateway().await;
    // The scope is there.
    first.connect(true).await.vanish();
    world.hub.go_away().await;
    world.hub.put_desired(&second.id, None, &json!({"led": true, "limits": {"high": 3}}));
    let mut device = second.connect(true).await;
    device.subscribe_as_sphere().await;
    let (status, twin) = device.get_twin("1").await;
    assert_eq!(
        (status, twin),
        (200, json!({"desired": {"$version": 0}, "reported": {"$version": 0}}))
    );
    let (status, _) = device.report("2", &json!({"temp": 20})).await;
    assert_eq!(status, 204);
    world.hub.come_back().await.expect("its ports");
    let patch = desired(&mut device).await;
    assert_eq!((&patch["led"], &patch["limits"]["high"]), (&json!(true), &json!(3)), "{patch}");
    until_reported(&world, &second.id, "temp 20", |r| r["temp"] == 20).await;
    end(world, gateway).await;
}

/// For devices that would take "nothing" for "reset everything".
#[tokio::test(flavor = "multi_thread")]
async fn a_twin_of_which_nothing_is_kept_is_unavailable_if_set_so() {
    let mut world = world().await;
    world.set("twinSettings__offlineGet", "unavailable");
    let (first, second) = (Who::device(&world, 0), Who::device(&world, 1));
    let gateway = world.gateway().await;
    first.connect(true).await.vanish();
    world.hub.go_away().await;
    world.hub.put_desired(&second.id, None, &json!({"led": true}));
    let mut device = second.connect(true).await;
    device.subscribe_as_sphere().await;
    let (status, body) = device.get_twin("1").await;
    assert_eq!((status, &body["errorCode"]), (503, &json!(503_000)));
    world.hub.come_back().await.expect("its ports");
    let mut rid = 2;
    let twin = loop {
        let (status, twin) = device.get_twin(&rid.to_string()).await;
        if status == 200 {
            break twin;
        }
        assert_eq!(status, 503, "{twin}");
        rid += 1;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(twin["desired"]["led"], true);
    end(world, gateway).await;
}
