//! What a fault does to the bytes of a connection is the same for AMQP and MQTT: each case runs over both.

use std::pin::pin;
use std::time::Duration;

use fe2o3_amqp::Sender;
use fe2o3_amqp_types::messaging::Outcome;
use hub_double::{Fault, FaultKind, HubDouble};
use tokio::time::{Instant, timeout};

use super::client::{Client, send, tls, with_hub_of};
use super::mqtt_client::{Mqtt, mqtt_config};

/// Long enough to call a silence one.
const SILENCE: Duration = Duration::from_millis(200);
/// How much later something comes where a fault makes it late.
const LATE: Duration = Duration::from_millis(500);
const LATE_MS: u64 = 500;
/// Makes any message that is sent here later than [`LATE`]: none is of fewer than 30 bytes.
const BYTES_PER_SECOND: u64 = 60;

/// More than the hour that tokens are given here, and the service's five minutes.
const TOKENS_ARE_OVER: Duration = Duration::from_secs(7200);

#[derive(Debug, Clone, Copy)]
enum Protocol {
    Amqp,
    Mqtt,
}

impl Protocol {
    fn port(self, hub: &HubDouble) -> u16 {
        match self {
            Self::Amqp => hub.ports().amqp,
            Self::Mqtt => hub.ports().mqtt,
        }
    }

    fn device(self) -> &'static str {
        match self {
            Self::Amqp => "child1",
            Self::Mqtt => "dev1",
        }
    }
}

/// A connected client that sends telemetry.
enum Talker {
    Amqp(Box<Client>, Sender),
    Mqtt(Mqtt),
}

impl Talker {
    async fn new(hub: &HubDouble, protocol: Protocol) -> Self {
        match protocol {
            Protocol::Amqp => {
                let mut client = Client::patient(hub).await;
                let link = client.child(protocol.device()).await;
                Self::Amqp(Box::new(client), link)
            }
            Protocol::Mqtt => Self::Mqtt(Mqtt::key(hub, protocol.device()).await),
        }
    }

    /// Sends one message and waits until it is acknowledged.
    async fn send(&mut self, id: u64) {
        match self {
            Self::Amqp(_, link) => {
                let outcome = send(link, &id.to_string(), id).await;
                assert!(matches!(outcome, Ok(Outcome::Accepted(_))), "{outcome:?}");
            }
            Self::Mqtt(mqtt) => mqtt.send("devices/dev1/messages/events/", &id.to_string()).await,
        }
    }

    /// Waits until the hub has ended what lets it send: the link, or the connection.
    async fn ended(self) {
        match self {
            Self::Amqp(_client, mut link) => drop(link.on_detach().await),
            Self::Mqtt(mqtt) => mqtt.ended().await,
        }
    }
}

/// What comes of a fault.
#[derive(Debug, Clone, Copy)]
enum Effect {
    /// What is sent is not acknowledged before the fault is cleared; then it is.
    UntilCleared,
    /// What is sent is acknowledged [`LATE`] at the earliest.
    Late,
    /// What is sent after something else is acknowledged [`LATE`] at the earliest.
    LateAfterAnother,
    /// At once what lets it send ends; it can connect again.
    Ends,
    /// New connections end before TLS, as often as the fault says (once); those that exist are not touched.
    RefusesNew,
}

async fn check(hub: &HubDouble, protocol: Protocol, fault: Fault, effect: Effect) {
    let mut talker = Talker::new(hub, protocol).await;
    talker.send(1).await;
    let start = Instant::now();
    hub.fault(fault);
    match effect {
        Effect::UntilCleared => {
            {
                let mut pending = pin!(talker.send(2));
                assert!(timeout(SILENCE, &mut pending).await.is_err(), "no answer yet");
                hub.clear_faults();
                pending.await;
            }
            talker.send(3).await;
        }
        Effect::Late => {
            talker.send(2).await;
            assert!(start.elapsed() >= LATE, "{:?}", start.elapsed());
        }
        Effect::LateAfterAnother => {
            talker.send(2).await;
            talker.send(3).await;
            assert!(start.elapsed() >= LATE, "{:?}", start.elapsed());
        }
        Effect::Ends => {
            talker.ended().await;
            hub.clear_faults();
            Talker::new(hub, protocol).await.send(4).await;
        }
        Effect::RefusesNew => {
            assert!(tls(protocol.port(hub)).await.is_err(), "refused");
            assert!(tls(protocol.port(hub)).await.is_ok(), "once");
            talker.send(2).await;
        }
    }
    hub.clear_faults();
}

#[tokio::test]
async fn a_fault_does_the_same_to_both() {
    let condition = || Some("amqp:connection:forced".to_owned());
    for protocol in [Protocol::Amqp, Protocol::Mqtt] {
        let of_it = |kind| Fault::new(kind).for_device(protocol.device());
        let cases = [
            (FaultKind::BlackHole.into(), Effect::UntilCleared),
            (Fault::new(FaultKind::BlackHole).lasting(LATE), Effect::Late),
            (FaultKind::WithholdDispositions { forever: false }.into(), Effect::UntilCleared),
            (of_it(FaultKind::WithholdDispositions { forever: false }), Effect::UntilCleared),
            (FaultKind::DelayDispositions { ms: LATE_MS }.into(), Effect::Late),
            (
                FaultKind::Slow { bytes_per_second: None, ms_per_message: Some(LATE_MS) }.into(),
                Effect::LateAfterAnother,
            ),
            (
                FaultKind::Slow { bytes_per_second: Some(BYTES_PER_SECOND), ms_per_message: None }
                    .into(),
                Effect::LateAfterAnother,
            ),
            (FaultKind::DropConnections { condition: None }.into(), Effect::Ends),
            (FaultKind::DropConnections { condition: condition() }.into(), Effect::Ends),
            (of_it(FaultKind::DropConnections { condition: None }), Effect::Ends),
            (FaultKind::DetachLinks { condition: None }.into(), Effect::Ends),
            (of_it(FaultKind::DetachLinks { condition: None }), Effect::Ends),
            (FaultKind::ExpireTokens { older_than_ms: 0 }.into(), Effect::Ends),
            (Fault::new(FaultKind::RefuseConnections).times(1), Effect::RefusesNew),
        ];
        with_hub_of(mqtt_config(), |hub| async move {
            for (fault, effect) in cases {
                println!("{protocol:?} {fault:?} {effect:?}");
                check(&hub, protocol, fault, effect).await;
            }
        })
        .await;
    }
}

/// In a black hole nothing ends a connection but its peer or the hub's end: no token is over, no command is carried out.
#[tokio::test]
async fn nothing_is_timed_in_a_black_hole() {
    for protocol in [Protocol::Amqp, Protocol::Mqtt] {
        with_hub_of(mqtt_config(), |hub| async move {
            let talker = Talker::new(&hub, protocol).await;
            hub.fault(FaultKind::BlackHole);
            let mut newcomer = pin!(tls(protocol.port(&hub)));
            // The token's check is more frequent than this.
            hub.advance_clock(TOKENS_ARE_OVER);
            hub.fault(FaultKind::DetachLinks { condition: None });
            let mut ended = pin!(talker.ended());
            assert!(timeout(LATE, &mut ended).await.is_err(), "{protocol:?} ended in silence");
            assert!(timeout(SILENCE, &mut newcomer).await.is_err(), "accepted, then silence");
            hub.clear_faults();
            ended.await;
            assert!(newcomer.await.is_ok());
        })
        .await;
    }
}

/// A token that is over ends what it allows, with no fault and nothing sent; and so does the hub's going away.
#[tokio::test]
async fn time_and_absence_end_both() {
    for protocol in [Protocol::Amqp, Protocol::Mqtt] {
        with_hub_of(mqtt_config(), |hub| async move {
            let talker = Talker::new(&hub, protocol).await;
            hub.advance_clock(TOKENS_ARE_OVER);
            talker.ended().await;
        })
        .await;
        with_hub_of(mqtt_config(), |hub| async move {
            // In a black hole too: it is not the connection that is asked.
            for fault in [None, Some(FaultKind::BlackHole)] {
                let talker = Talker::new(&hub, protocol).await;
                fault.map(|fault| hub.fault(fault));
                hub.go_away().await;
                assert!(hub.connections().is_empty());
                talker.ended().await;
                hub.clear_faults();
                hub.come_back().await.expect("the port is ours");
            }
        })
        .await;
    }
}
