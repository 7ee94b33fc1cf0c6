//! The fault script, fault by fault.

use std::time::Duration;

use fe2o3_amqp_types::messaging::Outcome;
use hub_double::{Fault, FaultKind};
use tokio::time::timeout;

use super::client::{Client, child_of, message, rejected_with, send, send_batch, tls, with_hub};

/// Long enough to call a silence one.
const SILENCE: Duration = Duration::from_millis(200);

fn accepted(outcome: Result<Outcome, fe2o3_amqp::link::SendError>) -> bool {
    matches!(outcome, Ok(Outcome::Accepted(_)))
}

#[tokio::test]
async fn withheld_dispositions_come_when_the_fault_ends() {
    with_hub(|hub| async move {
        let mut client = Client::connect(&hub).await;
        let mut stuck = client.child("child1").await;
        let mut other = client.child("child2").await;
        let withhold = FaultKind::WithholdDispositions { forever: false };
        hub.fault(Fault::new(withhold).for_device("child1"));
        let pending = stuck.send_batchable(message("1", 1, "b")).await.expect("sent");
        assert!(accepted(send(&mut other, "1", 1).await), "one stuck device blocks no other");
        hub.wait_for(2).await;
        tokio::pin!(pending);
        assert!(timeout(SILENCE, &mut pending).await.is_err(), "no answer yet");
        hub.clear_faults();
        assert!(accepted(pending.await));
    })
    .await;
}

#[tokio::test]
async fn delayed_dispositions_come_later() {
    with_hub(|hub| async move {
        let (_client, mut link) = child_of(&hub, "child1").await;
        hub.fault(FaultKind::DelayDispositions { ms: 300 });
        let pending = link.send_batchable(message("1", 1, "b")).await.expect("sent");
        tokio::pin!(pending);
        assert!(timeout(SILENCE, &mut pending).await.is_err(), "no answer yet");
        assert!(accepted(pending.await));
    })
    .await;
}

#[tokio::test]
async fn throttling_counts_messages_and_devices() {
    with_hub(|hub| async move {
        let mut client = Client::connect(&hub).await;
        let mut one = client.child("child1").await;
        let mut two = client.child("child2").await;
        let throttle = FaultKind::Throttle { per_second: None };
        hub.fault(Fault::new(throttle).for_device("child1").times(3));
        let throttled = "com.microsoft:device-container-throttled";
        assert_eq!(rejected_with(send(&mut one, "1", 1).await), throttled);
        assert!(accepted(send(&mut two, "1", 1).await));
        let batch = vec![message("1", 1, "b"), message("2", 2, "b")];
        assert_eq!(rejected_with(send_batch(&mut one, batch).await), throttled);
        assert!(accepted(send(&mut one, "1", 1).await), "three messages were refused");
        assert_eq!(hub.counts().received, 2);

        hub.fault(FaultKind::Throttle { per_second: Some(1) });
        assert!(accepted(send(&mut one, "3", 3).await));
        assert_eq!(rejected_with(send(&mut one, "4", 4).await), throttled);
    })
    .await;
}

#[tokio::test]
async fn a_message_is_rejected_by_what_it_is() {
    with_hub(|hub| async move {
        let (_client, mut link) = child_of(&hub, "child1").await;
        let condition = "com.microsoft:argument-error".to_owned();
        let by_id = FaultKind::RejectMessage {
            condition: condition.clone(),
            message_id: Some("bad".into()),
            property: None,
        };
        let by_property = FaultKind::RejectMessage {
            condition: condition.clone(),
            message_id: None,
            property: Some(("seq".into(), "7".into())),
        };
        hub.fault(by_id);
        hub.fault(by_property);
        assert!(accepted(send(&mut link, "good", 1).await));
        assert_eq!(rejected_with(send(&mut link, "bad", 2).await), condition);
        assert_eq!(rejected_with(send(&mut link, "good too", 7).await), condition);
        let batch = vec![message("x", 3, "b"), message("bad", 4, "b")];
        assert_eq!(rejected_with(send_batch(&mut link, batch).await), condition);
        assert_eq!(hub.counts().received, 1, "a batch is taken whole or not at all");

        hub.clear_faults();
        hub.fault(Fault::new(FaultKind::Release).times(1));
        hub.fault(Fault::new(FaultKind::Modify).times(1));
        assert!(matches!(send(&mut link, "a", 8).await, Ok(Outcome::Released(_))));
        assert!(matches!(send(&mut link, "a", 8).await, Ok(Outcome::Modified(_))));
        assert!(accepted(send(&mut link, "a", 8).await));
    })
    .await;
}

#[tokio::test]
async fn connections_are_refused_and_dropped() {
    with_hub(|hub| async move {
        let (mut client, _link) = child_of(&hub, "child1").await;
        hub.fault(FaultKind::DropConnections { condition: None });
        assert!(client.connection.on_close().await.is_err(), "cut without close");

        let (mut client, _link) = child_of(&hub, "child1").await;
        let condition = Some("amqp:connection:forced".to_owned());
        hub.fault(FaultKind::DropConnections { condition });
        let reason = format!("{:?}", client.connection.on_close().await);
        assert!(reason.contains("ConnectionForced"), "{reason}");

        hub.fault(Fault::new(FaultKind::RefuseConnections).times(2));
        for port in [hub.ports().amqp, hub.ports().https] {
            assert!(tls(port).await.is_err(), "refused");
        }
        assert!(tls(hub.ports().amqp).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_black_hole_is_silent_and_ends() {
    with_hub(|hub| async move {
        let (_client, mut link) = child_of(&hub, "child1").await;
        let fault = Fault::new(FaultKind::BlackHole).lasting(Duration::from_millis(700));
        hub.fault(fault);
        let pending = link.send_batchable(message("1", 1, "b")).await.expect("sent");
        tokio::pin!(pending);
        let dial = tls(hub.ports().amqp);
        tokio::pin!(dial);
        assert!(timeout(SILENCE, &mut dial).await.is_err(), "accepted, then silence");
        assert!(timeout(Duration::from_millis(1), &mut pending).await.is_err());
        assert!(accepted(pending.await), "what exists goes on when it ends");
        assert!(dial.await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn tokens_expire_and_links_detach_on_command() {
    with_hub(|hub| async move {
        let mut client = Client::connect(&hub).await;
        let mut link = client.child("child1").await;
        hub.fault(FaultKind::ExpireTokens { older_than_ms: 3_600_000 });
        assert!(accepted(send(&mut link, "1", 1).await), "the token is younger");
        hub.fault(FaultKind::ExpireTokens { older_than_ms: 0 });
        let reason = format!("{:?}", link.on_detach().await);
        assert!(reason.contains("UnauthorizedAccess"), "{reason}");
        assert!(client.telemetry("child1", Some("child1;edge1")).await.is_err(), "no token");

        let mut link = Client::child(&mut client, "child2").await;
        let detach = FaultKind::DetachLinks { condition: None };
        hub.fault(Fault::new(detach).for_device("child2"));
        let reason = format!("{:?}", link.on_detach().await);
        assert!(reason.contains("DetachForced"), "{reason}");

        let refuse = FaultKind::RefuseTokens { status: 500 };
        hub.fault(Fault::new(refuse).times(1));
        assert_eq!(client.put_for_child("child1").await, 500);
        assert_eq!(client.put_for_child("child1").await, 200);
    })
    .await;
}

#[tokio::test]
async fn a_slow_hub_reads_slowly() {
    with_hub(|hub| async move {
        let (_client, mut link) = child_of(&hub, "child1").await;
        hub.fault(FaultKind::Slow { bytes_per_second: None, ms_per_message: Some(400) });
        assert!(accepted(send(&mut link, "1", 1).await), "the first is read at once");
        let pending = link.send_batchable(message("2", 2, "b")).await.expect("sent");
        tokio::pin!(pending);
        assert!(timeout(SILENCE, &mut pending).await.is_err(), "the hub rests");
        assert!(accepted(pending.await));
    })
    .await;
}

#[tokio::test]
async fn the_hub_goes_away_and_comes_back_on_the_same_ports() {
    with_hub(|hub| async move {
        for round in 0..3 {
            let (mut client, mut link) = child_of(&hub, "child1").await;
            assert!(accepted(send(&mut link, &format!("{round}"), round).await));
            hub.go_away().await;
            assert!(client.connection.on_close().await.is_err());
            assert!(hub.connections().is_empty());
            for port in [hub.ports().amqp, hub.ports().https] {
                let refused = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
                let kind = refused.expect_err("nobody listens").kind();
                assert_eq!(kind, std::io::ErrorKind::ConnectionRefused);
            }
            hub.come_back().await.expect("the port is still ours");
        }
        assert_eq!(hub.counts().received, 3, "the log survives");
    })
    .await;
}
