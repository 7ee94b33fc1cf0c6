//! Who gets in: put-token, on behalf of children, links.

use fe2o3_amqp::link::SenderAttachError;
use fe2o3_amqp_types::messaging::Outcome;
use hub_double::{Counts, DeviceSpec, HubDouble, Key, sas_token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{
    Client, DEVICE_KEY, EDGE, HUB, child_of, device_token, now_secs, send, tls, with_hub,
};

#[tokio::test]
async fn put_token_answers_as_the_hub_does() {
    with_hub(|hub| async move {
        let mut client = Client::connect(&hub).await;
        let later = now_secs() + 3600;
        let good = device_token("dev1", later);
        let other_key = Key::from_base64("b3RoZXI=");
        let forged = sas_token(&format!("{HUB}/devices/dev1"), &other_key, later);
        let elsewhere =
            sas_token("other.example/devices/dev1", &Key::from_base64(DEVICE_KEY), later);
        let name = format!("{HUB}/devices/dev1");
        for (what, name, token, status) in [
            ("a good token", name.as_str(), good.as_str(), 200),
            ("an encoded name", "contoso.example%2Fdevices%2Fdev1", &good, 200),
            ("ids in another case", "CONTOSO.example/devices/DEV1", &good, 200),
            ("a forged signature", &name, &forged, 401),
            ("just expired, within the skew", &name, &device_token("dev1", now_secs() - 60), 200),
            ("expired", &name, &device_token("dev1", now_secs() - 400), 401),
            ("an audience of another hub", &name, &elsewhere, 401),
            ("another device's name", &format!("{HUB}/devices/child1"), &good, 401),
            ("an unknown device", &name, &device_token("nobody", later), 404),
            ("a device without key", &name, &device_token("child1", later), 401),
            ("no token", &name, "rubbish", 400),
            ("no audience", "rubbish", &good, 400),
        ] {
            assert_eq!(client.put_token(name, token).await, status, "{what}");
        }
        assert_eq!(hub.counts().tokens_refused, 8);
    })
    .await;
}

/// The condition that the double refused an attach with since `before`. Asked of the double: this client loses the
/// reason when the detach arrives together with the attach that it follows.
fn refused(
    hub: &HubDouble,
    before: &Counts,
    attached: Result<fe2o3_amqp::Sender, SenderAttachError>,
) -> String {
    assert!(attached.is_err(), "attached");
    let after = hub.counts();
    assert_eq!(after.links_refused, before.links_refused + 1);
    let grown = |(name, n): &(&String, &u64)| before.link_refusals.get(*name) != Some(*n);
    let refusal = after.link_refusals.iter().find(grown);
    refusal.map(|(name, _)| name.clone()).expect("a condition")
}

#[tokio::test]
async fn an_edge_speaks_for_its_own_enabled_children_only() {
    with_hub(|hub| async move {
        let mut client = Client::connect(&hub).await;
        assert_eq!(client.put_for_child("nobody").await, 404);

        let table = [
            ("another edge's child", "others", Some("others;edge1")),
            ("another edge's chain", "others", Some("others;edge2")),
            ("a disabled child", "off", Some("off;edge1")),
            ("a device without parent", "orphan", Some("orphan;edge1")),
            ("no chain", "child1", None),
            ("a chain of someone else", "child1", Some("child2;edge1")),
            ("no token put for it", "child2", Some("child2;edge1")),
            ("an unknown device", "nobody", Some("nobody;edge1")),
        ];
        for (what, child, chain) in table {
            // A connection each: after a refusal this client detaches twice, and the second one hits its next link.
            let mut client = Client::connect(&hub).await;
            for with_token in ["child1", "off", "orphan", "others"] {
                assert_eq!(client.put_for_child(with_token).await, 200, "{with_token}");
            }
            let before = hub.counts();
            let attached = client.telemetry(child, chain).await;
            let answer = refused(&hub, &before, attached);
            let expected =
                if child == "nobody" { "amqp:not-found" } else { "amqp:unauthorized-access" };
            assert_eq!(answer, expected, "{what}");
        }

        assert_eq!(client.put_for_child("child1").await, 200);
        let mut link = client.telemetry("child1", Some("child1;edge1")).await.expect("attach");
        assert_eq!(link.max_message_size(), Some(262_144));
        assert!(matches!(send(&mut link, "1", 1).await, Ok(Outcome::Accepted(_))));
        assert_eq!(hub.messages()[0].device_id, "child1");
    })
    .await;
}

#[tokio::test]
async fn a_child_that_is_disabled_or_moved_loses_its_link() {
    with_hub(|hub| async move {
        for spec in [
            DeviceSpec::certificate("child1").child_of(EDGE).disabled(),
            DeviceSpec::certificate("child1").child_of("edge2"),
        ] {
            let (_client, mut link) = child_of(&hub, "child1").await;
            hub.put_device(spec);
            let reason = format!("{:?}", link.on_detach().await);
            assert!(reason.contains("UnauthorizedAccess"), "{reason}");
            hub.put_device(DeviceSpec::certificate("child1").child_of(EDGE));
        }
    })
    .await;
}

#[tokio::test]
async fn a_newcomer_steals_the_link() {
    with_hub(|hub| async move {
        let (_old, mut old_link) = child_of(&hub, "child1").await;
        let (_new, mut new_link) = child_of(&hub, "child1").await;
        let reason = format!("{:?}", old_link.on_detach().await);
        assert!(reason.contains("Stolen"), "{reason}");
        assert!(matches!(send(&mut new_link, "1", 1).await, Ok(Outcome::Accepted(_))));
        assert_eq!(hub.counts().links_stolen, 1);
        assert_eq!(hub.connections().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn sasl_may_be_skipped_and_other_protocols_are_turned_away() {
    with_hub(|hub| async move {
        let mut client = Client::with_sasl(&hub, false).await;
        let mut link = client.child("child1").await;
        assert!(matches!(send(&mut link, "1", 1).await, Ok(Outcome::Accepted(_))));
        assert_eq!(hub.connections()[0].sasl, "none");

        let mut raw = tls(hub.ports().amqp).await.expect("TLS");
        raw.write_all(b"AMQP\x00\x00\x09\x01").await.expect("written");
        let mut answer = Vec::new();
        raw.read_to_end(&mut answer).await.expect("closed");
        assert_eq!(answer, b"AMQP\x03\x01\x00\x00", "the header that is spoken here");
    })
    .await;
}

#[tokio::test]
async fn a_link_ends_with_its_token_and_renewal_prevents_that() {
    with_hub(|hub| async move {
        let mut client = Client::connect(&hub).await;
        let mut link = client.child("child1").await;
        // Half an hour later a new token is put on the live connection: nothing is interrupted.
        hub.advance_clock(std::time::Duration::from_secs(1800));
        let sr = format!("{HUB}/devices/{EDGE}/modules/$edgeHub");
        let fresh =
            sas_token(&sr, &Key::from_base64(super::client::EDGE_KEY), now_secs() + 1800 + 3600);
        let name = format!("{HUB}/devices/child1");
        assert_eq!(client.put_token(&name, &fresh).await, 200);
        hub.advance_clock(std::time::Duration::from_secs(2400));
        assert!(matches!(send(&mut link, "1", 1).await, Ok(Outcome::Accepted(_))));
        hub.advance_clock(std::time::Duration::from_secs(2400));
        let reason = format!("{:?}", link.on_detach().await);
        assert!(reason.contains("UnauthorizedAccess"), "{reason}");
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_is_kept_alive_by_heartbeats() {
    with_hub(|hub| async move {
        let (_client, mut link) = child_of(&hub, "child1").await;
        let idle = std::time::Duration::from_millis(super::client::IDLE_MS.into());
        tokio::time::sleep(idle * 3 / 2).await;
        assert!(matches!(send(&mut link, "1", 1).await, Ok(Outcome::Accepted(_))));
    })
    .await;
}

#[tokio::test]
async fn the_c_sdks_sasl_mechanism_is_taken_and_an_unknown_one_is_not() {
    with_hub(|hub| async move {
        // sasl-init with a 7-letter mechanism, by hand: frame header, descriptor 0x41, a list of one symbol.
        let init = |mechanism: &[u8; 7]| {
            let head = [0, 0, 0, 23, 2, 1, 0, 0, 0, 0x53, 0x41, 0xc0, 10, 1, 0xa3, 7];
            [&b"AMQP\x03\x01\x00\x00"[..], &head, mechanism].concat()
        };
        for (mechanism, outcome) in [(b"MSSBCBS", 0), (b"UNKNOWN", 1)] {
            let mut raw = tls(hub.ports().amqp).await.expect("TLS");
            raw.write_all(&init(mechanism)).await.expect("written");
            let wanted = [0, 0x53, 0x44, 0xc0, 3, 1, 0x50, outcome];
            let mut answer = Vec::new();
            while !answer.ends_with(&wanted) {
                assert_ne!(raw.read_buf(&mut answer).await.expect("an answer"), 0, "{answer:?}");
            }
            if outcome == 0 {
                raw.write_all(b"AMQP\x00\x01\x00\x00").await.expect("written");
            }
            let mut after = [0; 8];
            let header = raw.read_exact(&mut after).await;
            assert_eq!(header.is_ok(), outcome == 0, "only after ok the connection goes on");
        }
    })
    .await;
}
