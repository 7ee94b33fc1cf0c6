//! Cloud-to-device messages over the links of their identities.

use hub_double::{Ack, C2dMessage, C2dRecord, C2dState};

use super::*;
use crate::message::SystemKey;
use crate::upstream::tests::device;

async fn records(
    bench: &Bench,
    device: &str,
    wanted: impl Fn(&[C2dRecord]) -> bool,
) -> Vec<C2dRecord> {
    timeout(LONG, bench.lab.hub.wait_for_c2d(device, wanted)).await.expect("in time")
}

/// Waits until the only message of d1 stands so; gives it.
async fn stands(bench: &Bench, at: usize, state: C2dState) -> C2dRecord {
    let all = records(bench, "d1", |all| all.get(at).is_some_and(|r| r.state == state)).await;
    all[at].clone()
}

fn send(bench: &Bench, device: &str, id: &str, settle: &str) {
    let message = C2dMessage::new("x").id(id).property("settle", settle).ack(Ack::Full);
    bench.lab.hub.send_c2d(device, message).expect("it is taken");
}

async fn next(bench: &Bench) -> (Identity, CloudMessage) {
    match bench.next().await {
        Said::Message(who, message) => (who, message),
        other => panic!("{other:?}"),
    }
}

async fn next_id(bench: &Bench) -> String {
    next(bench).await.1.system.get(SystemKey::MessageId).unwrap().to_owned()
}

#[tokio::test]
async fn a_message_comes_with_all_that_it_has() {
    let bench = Bench::start().await;
    let d1 = device("d1");
    let message = C2dMessage {
        correlation_id: Some("c".into()),
        user_id: Some("ü".into()),
        content_type: Some("application/json".into()),
        content_encoding: Some("utf-8".into()),
        expiry: Some(1_900_000_000_123),
        ack: Ack::Full,
        ..C2dMessage::new(vec![0, 255, 1]).id("m").property("b", "2").property("a b", "")
    };
    bench.lab.hub.send_c2d("d1", message).expect("it is taken");
    bench.want(&d1, MESSAGES);
    let (who, got) = next(&bench).await;
    assert_eq!((who, got.sequence, got.delivery_count), (d1, Some(1), 0));
    assert_eq!(got.lock.len(), 16);
    assert_eq!(&got.body[..], [0, 255, 1]);
    let mut system: Vec<_> = got.system.iter().collect();
    system.sort_unstable();
    let expected = [
        (SystemKey::MessageId, "m"),
        (SystemKey::CorrelationId, "c"),
        (SystemKey::UserId, "ü"),
        (SystemKey::To, "/devices/d1/messages/deviceBound"),
        (SystemKey::ContentType, "application/json"),
        (SystemKey::ContentEncoding, "utf-8"),
        (SystemKey::AbsoluteExpiryTime, "2030-03-17T17:46:40.123Z"),
        (SystemKey::Ack, "full"),
    ];
    assert_eq!(system, expected);
    let properties: Vec<_> = got.properties.iter().collect();
    assert_eq!(properties, [("b", Some("2")), ("a b", Some(""))]);
    stands(&bench, 0, C2dState::Completed).await;
    bench.end().await;
}

#[tokio::test]
async fn a_message_is_settled_as_the_listener_says() {
    let bench = Bench::start().await;
    bench.want(&device("d1"), MESSAGES);
    for (at, (settle, state, count)) in [
        ("complete", C2dState::Completed, 0),
        ("release", C2dState::Completed, 1),
        ("reject", C2dState::DeadLettered, 0),
        ("complete", C2dState::Completed, 0),
    ]
    .into_iter()
    .enumerate()
    {
        send(&bench, "d1", &format!("{settle} {at}"), settle);
        assert_eq!(next(&bench).await.1.delivery_count, 0);
        if settle == "release" {
            assert_eq!(next(&bench).await.1.delivery_count, 1, "it comes again");
        }
        let record = stands(&bench, at, state).await;
        assert_eq!(record.delivery_count, count, "{settle}");
    }
    for word in ["complete", "release", "reject"] {
        assert!(bench.counted("cloud_to_device", word) > 0, "{word}");
    }
    bench.end().await;
}

/// More than a window of them is left: others still come, and what was left comes again when its lock is over.
#[tokio::test]
async fn a_message_that_is_left_comes_again_when_its_lock_is_over() {
    let bench = Bench::start().await;
    bench.want(&device("d1"), MESSAGES);
    for n in 0..10 {
        send(&bench, "d1", &n.to_string(), "leave");
        assert_eq!(next_id(&bench).await, n.to_string());
    }
    send(&bench, "d1", "last", "complete");
    assert_eq!(next_id(&bench).await, "last");
    let record = stands(&bench, 0, C2dState::Invisible).await;
    assert_eq!((record.delivery_count, record.handed_out), (0, 1));
    bench.lab.hub.advance_clock(Duration::from_secs(61));
    let (_, again) = next(&bench).await;
    assert_eq!((again.sequence, again.delivery_count), (Some(1), 0));
    bench.end().await;
}

#[tokio::test]
async fn so_many_are_under_way_and_the_next_comes_when_one_is_settled() {
    let bench = Bench::start().await;
    let d1 = device("d1");
    for n in 0..6 {
        send(&bench, "d1", &n.to_string(), "wait");
    }
    bench.want(&d1, MESSAGES);
    for n in 0..4 {
        assert_eq!(next_id(&bench).await, n.to_string());
    }
    let waiting = |all: &[C2dRecord]| all.iter().filter(|r| r.state == C2dState::Enqueued).count();
    assert_eq!(waiting(&bench.lab.hub.c2d("d1")), 2);
    // A wake-up that comes before its waiter is kept, but only one of them.
    for n in 4..6 {
        bench.go.notify_one();
        assert_eq!(next_id(&bench).await, n.to_string());
    }
    bench.end().await;
}

/// The device leaves: what it had is given back before the link goes; what nobody settles keeps its lock.
#[tokio::test]
async fn what_is_under_way_is_settled_before_the_link_goes() {
    let bench = Bench::start().await;
    let d1 = device("d1");
    bench.want(&d1, MESSAGES);
    send(&bench, "d1", "given back", "wait and release");
    assert_eq!(next_id(&bench).await, "given back");
    bench.want(&d1, NOTHING);
    bench.go.notify_one();
    bench.opens(Kind::CloudToDevice, 0).await;
    let record = stands(&bench, 0, C2dState::Enqueued).await;
    assert_eq!((record.delivery_count, record.handed_out), (1, 1));

    bench.want(&d1, MESSAGES);
    assert_eq!(next(&bench).await.1.delivery_count, 1);
    bench.want(&d1, NOTHING);
    bench.opens(Kind::CloudToDevice, 0).await;
    let record = stands(&bench, 0, C2dState::Invisible).await;
    assert_eq!(
        (record.delivery_count, record.handed_out),
        (1, 2),
        "the link's end settles nothing"
    );
    bench.end().await;
}

/// The AMQP library ends a session with everyone's links when something comes for a link that was dropped.
#[tokio::test]
async fn a_message_that_crosses_the_end_of_its_link_ends_no_other() {
    let bench = Bench::start().await;
    let (d1, d2) = (device("d1"), device("d2"));
    bench.want(&d2, ALL);
    assert_eq!(bench.next().await, Said::Listening(d2.clone()));
    for kind in Kind::ALL {
        bench.opens(kind, 1).await;
    }
    for round in 0..40 {
        bench.want(&d1, MESSAGES);
        bench.opens(Kind::CloudToDevice, 2).await;
        // One to be settled and some that come meanwhile.
        for n in 0..4 {
            send(&bench, "d1", &format!("{round}.{n}"), "complete");
        }
        bench.want(&d1, NOTHING);
        bench.opens(Kind::CloudToDevice, 1).await;
        bench.lab.hub.purge_c2d("d1");
    }
    for kind in ["twin", "methods", "cloud_to_device"] {
        assert_eq!(bench.counted("downlink_ended", kind), 0, "{kind}");
    }
    bench.end().await;
}
