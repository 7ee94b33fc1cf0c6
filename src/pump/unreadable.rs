//! Records that cannot be read: damaged ones are buried, a newer program's are left alone.

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::PumpError;
use super::double::{Answer, MemoryLogs, Scripted, main_queue, message};
use super::log::Entry;
use super::tests::{S, all, drained, letters, pump, run_for, small};

#[tokio::test(start_paused = true)]
async fn what_lies_before_a_message_of_a_newer_program_is_delivered() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|_, _| Answer::delivered());
    let queue = logs.queue(&main_queue());
    let payloads =
        [message("a", 0, 1), message("b", 1, 1), Bytes::from_static(&[9, 1]), message("a", 2, 1)];
    for payload in payloads {
        queue.push(Entry { payload, since: None, ttl_secs: 0 });
    }
    let ended = pump(&logs, &hub, &small()).run(CancellationToken::new()).await;
    assert!(matches!(ended, Err(PumpError::Newer { offset: 2, .. })), "{ended:?}");
    assert_eq!((hub.kept_of("a"), hub.kept_of("b")), (vec![0], vec![1]));
    assert_eq!(queue.unsettled(), 2, "it, and what is behind it");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_no_message_stops_nobody() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|_, _| Answer::delivered());
    logs.publish("a", 0);
    let garbage = Entry { payload: "\u{1}?".into(), since: None, ttl_secs: 0 };
    logs.queue(&main_queue()).push(garbage.clone());
    logs.publish("a", 1);
    run_for(&logs, &hub, &small(), S).await;
    assert!(drained(&logs));
    assert_eq!(hub.kept_of("a"), all(2));
    assert_eq!(letters(&logs)[0].stored, garbage.payload);
    assert_eq!(letters(&logs)[0].reason, "undecodable");
}

/// What a newer program wrote is intact: it is not damage, and not for the dead letters.
#[tokio::test(start_paused = true)]
async fn a_message_of_a_newer_program_stops_the_pump_and_nothing_is_buried() {
    // A newer form, and a system property that this program does not know (behind version, flags, time and "a").
    let main = main_queue();
    let newer_form = Bytes::from_static(&[9, 1, 2, 3]);
    let mut unknown_key = message("a", 5, 1).to_vec();
    let at = unknown_key.iter().position(|byte| *byte == b'a').unwrap() + 1;
    unknown_key.splice(at..=at, [1, 250, 0, 0, 0, 0]);
    for payload in [newer_form, unknown_key.into()] {
        for in_side_queue in [false, true] {
            let logs = Arc::new(MemoryLogs::default());
            let hub = Scripted::new(|_, _| Answer::delivered());
            let side = main.with_lane("a");
            let queue = logs.queue(if in_side_queue { &side } else { &main });
            let entry = Entry { payload: payload.clone(), since: None, ttl_secs: 0 };
            queue.push(entry);
            let ended = pump(&logs, &hub, &small()).run(CancellationToken::new()).await;
            assert!(matches!(ended, Err(PumpError::Newer { .. })), "{ended:?}");
            assert!(ended.unwrap_err().to_string().contains("start the version that wrote it"));
            assert_eq!(queue.unsettled(), 1);
            assert!(letters(&logs).is_empty());
        }
    }
}
